"""Odd input of `predict`, and outputs of it, `evaluate`, `bundle` and `verify` in odd places."""

import csv
import gzip
import io
import json
import os
import shutil
import signal
import stat
import subprocess
import sys
import zipfile
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from conftest import arguments, corpus

from contrastive_ner.cli import main
from contrastive_ner.data.readers import read_records
from contrastive_ner.data.records import Mention, Record
from contrastive_ner.data.streams import BadRow, csv_rows
from contrastive_ner.data.writers import format_records, write_records
from contrastive_ner.errors import ConfigError, DataError, RepositoryError
from contrastive_ner.hub.repository import faults_of, package
from contrastive_ner.models.windows_ner import InputError
from contrastive_ner.serving.inference import load_pipeline
from contrastive_ner.serving.tables import write_csv


@pytest.fixture(scope="module")
def trained(files: Path, tiny_encoder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The model folder of a short run."""
    run_dir = tmp_path_factory.mktemp("trained") / "run"
    keys = {"method": "crf", "stage1_epochs": 0, "head_epochs": 0, "stage2_epochs": 1}
    assert main(arguments(files, tiny_encoder, run_dir, **keys)) == 0
    return run_dir / "model"


@pytest.fixture
def model(trained: Path, tmp_path: Path) -> Path:
    """A copy of it."""
    return Path(shutil.copytree(trained, tmp_path / "model"))


def lines_of(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text("utf-8").splitlines()]


# ---------------------------------------------------------------------------------- what is written
def test_no_output_replaces_an_input_or_another_output(trained, tmp_path, capsys):
    gold = tmp_path / "gold"
    gold.mkdir()
    for name in ("a", "b"):
        write_records(corpus(3), gold / f"{name}.jsonl")
    before = {path: path.read_bytes() for path in gold.iterdir()}
    for place, output, message in (
        (gold, gold / "a.jsonl", "is an input"),
        (gold / "*.jsonl", gold / "a.jsonl", "is an input"),
        (gold / "a.jsonl", gold / "a.jsonl", "is an input"),
        (gold, gold / "errors.jsonl", "is in a folder of inputs"),
    ):
        for option in ("--errors", "--output"):
            assert main(["evaluate", str(trained), str(place), option, str(output)]) == 2
            assert message in capsys.readouterr().err
    twice = str(tmp_path / "same.json")
    command = ["evaluate", str(trained), str(gold), "--errors", twice, "--output", twice]
    assert main(command) == 2
    assert "two outputs are one file" in capsys.readouterr().err
    assert {path: path.read_bytes() for path in gold.iterdir()} == before
    nowhere = ["--errors", "/dev/null", "--output", "/dev/null"]
    assert main(["evaluate", str(trained), str(gold), *nowhere]) == 0
    other = ["--errors", str(tmp_path / "e.jsonl"), "--output", str(tmp_path / "s.json")]
    assert main(["evaluate", str(trained), str(gold), *other]) == 0


@pytest.mark.parametrize("command", ["bundle", "export", "verify"])
def test_nothing_is_written_into_the_folder_of_a_model(command, model, capsys):
    inside = {"bundle": [model / "m.zip"], "export": [model / "onnx"],
              "verify": ["--unpack", model / "copy"]}[command]  # fmt: skip
    names = sorted(path.name for path in model.iterdir())
    assert main([command, str(model), *map(str, inside)]) == 2
    assert "lies in the model's folder" in capsys.readouterr().err
    assert sorted(path.name for path in model.iterdir()) == names


def test_a_bundle_replaces_nothing_and_leaves_nothing_behind(model, tmp_path, monkeypatch, capsys):
    there = tmp_path / "out" / "mine.zip"
    there.parent.mkdir()
    there.write_text("precious", "utf-8")
    assert main(["bundle", str(model), str(there)]) == 2
    assert "exists; remove it" in capsys.readouterr().err
    assert there.read_text("utf-8") == "precious"
    there.unlink()

    def full(*_: Any) -> None:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr("contrastive_ner.hub.bundle.shutil.copyfileobj", full)
        assert main(["bundle", str(model), str(there)]) != 0
    assert list(there.parent.iterdir()) == []


def test_a_bundle_that_is_terminated_leaves_nothing_behind(model, tmp_path, monkeypatch, capsys):
    """SIGTERM, as from a scheduler or `docker stop`; the temporary folder beside it also goes."""
    before, out = signal.getsignal(signal.SIGTERM), tmp_path / "out"

    def terminated(*_: Any) -> None:
        assert [path.name[:10] for path in out.iterdir()] == [".mine.zip."]
        os.kill(os.getpid(), signal.SIGTERM)

    monkeypatch.setattr("contrastive_ner.hub.bundle.shutil.copyfileobj", terminated)
    assert main(["bundle", str(model), str(out / "mine.zip")]) == 128 + signal.SIGTERM
    assert list(out.iterdir()) == []
    assert "stopped by SIGTERM; run the same command again" in capsys.readouterr().err
    assert signal.getsignal(signal.SIGTERM) == before


def test_files_have_the_mode_that_the_umask_says(trained, tmp_path):
    """Scores are as private as the user wants; a model can be read by other accounts."""
    for path in trained.iterdir():
        assert stat.S_IMODE(path.stat().st_mode) == 0o644, path.name
    code = (
        "import os, sys; os.umask(0o077); from contrastive_ner.files import write_json;"
        "from pathlib import Path; write_json({}, Path(sys.argv[1]))"
    )
    target = tmp_path / "scores.json"
    subprocess.run([sys.executable, "-c", code, str(target)], check=True)
    assert stat.S_IMODE(target.stat().st_mode) == 0o600
    target.chmod(0o640)
    subprocess.run([sys.executable, "-c", code, str(target)], check=True)
    assert stat.S_IMODE(target.stat().st_mode) == 0o640, "a file that is replaced keeps its mode"


# ------------------------------------------------------------------------------------- repositories
def test_a_link_is_not_followed_into_a_bundle(model, tmp_path, capsys):
    secret = tmp_path / "secret"
    secret.write_text("secret", "utf-8")
    (model / "LICENSE").symlink_to(secret)
    with pytest.raises(RepositoryError, match="LICENSE: is a link"):
        package(model, tmp_path / "package")
    assert main(["bundle", str(model), str(tmp_path / "m.zip")]) == 2
    assert not (tmp_path / "m.zip").exists()


def test_a_snapshot_of_the_cache_is_verified_and_packaged(model, tmp_path):
    blobs, snapshot = tmp_path / "hub" / "blobs", tmp_path / "hub" / "snapshots" / "abc"
    blobs.mkdir(parents=True)
    snapshot.mkdir(parents=True)
    for path in sorted(model.iterdir()):
        shutil.copy(path, blobs / f"blob-{path.name}")
        (snapshot / path.name).symlink_to(Path("../../blobs") / f"blob-{path.name}")
    assert faults_of(snapshot) == []
    assert main(["verify", str(snapshot)]) == 0
    package(snapshot, tmp_path / "package")
    (snapshot / "docs").mkdir()
    shutil.copy(model / "README.md", blobs / "page")
    (snapshot / "docs" / "page.md").symlink_to("../../../blobs/page")
    (snapshot / ".git").mkdir()
    (snapshot / ".git" / "hook").symlink_to("/etc/hostname")
    assert isinstance(load_pipeline(snapshot)("张三"), list), "documents are not read"
    shutil.rmtree(snapshot / "docs")
    shutil.rmtree(snapshot / ".git")
    (snapshot / "NOTICE").symlink_to("/etc/hostname")
    assert faults_of(snapshot) == ["NOTICE: is not a regular file"]


@pytest.mark.parametrize(
    "card",
    [
        b"---\n- a\n---\n",
        b"---\ntags: 7\n---\n",
        b"---\na: \xe9\n---\n",
        b"---\nmodel-index: 5\n---\n",
        b"---\n5: x\n---\n",
        b"---\na: [\n---\n",
    ],
)
def test_an_edited_card_is_refused_in_one_line(card, model, tmp_path, capsys):
    (model / "README.md").write_bytes(card)
    code = main(["bundle", str(model), str(tmp_path / "m.zip"), "--license", "mit"])
    said = capsys.readouterr().err
    if code == 0:  # the metadata can be read after all
        assert zipfile.ZipFile(tmp_path / "m.zip").read("m/README.md")
        return
    assert code == 2
    assert "README.md" in said
    assert str(model) in said
    assert len(said.strip().splitlines()) == 1


@pytest.mark.parametrize("name", ["tokenizer_config.json", "tokenizer.json", "config.json"])
def test_a_model_without_a_file_that_it_needs_is_refused(name, model, capsys):
    (model / name).unlink()
    (model / "README.md").unlink()  # loading needs no card
    with pytest.raises((RepositoryError, ConfigError), match=name):
        load_pipeline(model)


# ------------------------------------------------------------------------------------- what is read
def tagged(source: Path | str, model: Path, output: Path, *options: str) -> int:
    return main(["predict", str(model), str(source), "--output", str(output), *options])


@pytest.mark.parametrize("kind", ["csv", "tsv", "json", "parquet", "jsonl"])
def test_texts_come_back_from_every_table(kind, trained, tmp_path):
    texts = ["张三\r李四", "a\nb", 'a "quoted", text', "\t", "a\r\nb", ""]
    write_records([Record(str(n), text) for n, text in enumerate(texts)], tmp_path / "in.jsonl")
    output = tmp_path / f"out.{kind}"
    assert tagged(tmp_path / "in.jsonl", trained, output) == 0
    again = tmp_path / "again.jsonl"
    assert tagged(output, trained, again) == 0
    assert [row["text"] for row in lines_of(again)] == texts


def test_a_table_without_line_ends_in_cells_keeps_its_bytes(tmp_path):
    (tmp_path / "lines").write_text('{"id": "0", "text": "a", "entities": [], "coverage": 1.0}\n')
    write_csv(tmp_path / "lines", tmp_path / "out.csv")
    assert (tmp_path / "out.csv").read_bytes() == b"id,text,entities,coverage\n0,a,[],1.0\n"


@pytest.mark.parametrize("delimiter", [",", "\t"])
def test_rows_after_an_unclosed_quote_are_read(delimiter, tmp_path):
    lines = ["id,text", "1,甲", '2,"乙', "3,丙", "", '4,丁"戊"', '5,"己""庚"', '6,"辛', "7,壬"]
    path = tmp_path / ("a.csv" if delimiter == "," else "a.tsv")
    path.write_text("\n".join(lines).replace(",", delimiter) + "\n", "utf-8")
    rows = list(csv_rows(str(path)))
    bad = [row.number for row in rows if isinstance(row, BadRow)]
    assert bad == [2, 6]
    read = {row["id"]: row["text"] for row in rows if not isinstance(row, BadRow)}
    assert read == {"1": "甲", "3": "丙", "4": '丁"戊"', "5": '己"庚', "7": "壬"}


def test_blank_lines_before_a_bad_row_count_for_nothing(tmp_path):
    path = tmp_path / "a.csv"
    path.write_text('text,id\n\n\n\n"a"b,1\nc,2\n\n\n"d,3\ne,4\n', "utf-8")
    rows = list(csv_rows(str(path)))
    assert [row.number for row in rows if isinstance(row, BadRow)] == [1, 3]
    assert [row["text"] for row in rows if not isinstance(row, BadRow)] == ["c", "e"]


def test_parts_of_a_broken_cell_are_not_rows(tmp_path):
    """Lines of a cell with a misplaced quote are rows only if they have all cells of one."""
    path = tmp_path / "a.csv"
    path.write_text('text,id\n"first\nsecond" x,1\ngood,2\n', "utf-8")
    rows = list(csv_rows(str(path)))
    assert [row for row in rows if not isinstance(row, BadRow)] == [
        {"text": 'second" x', "id": "1"},  # as many cells as a row has: it cannot be told apart
        {"text": "good", "id": "2"},
    ]
    path.write_text('text,id\n"first\nsecond" x\ngood,2\n', "utf-8")
    rows = list(csv_rows(str(path)))
    assert [row for row in rows if not isinstance(row, BadRow)] == [{"text": "good", "id": "2"}]


def test_columns_of_one_name_are_refused(tmp_path):
    (tmp_path / "a.csv").write_text("url,url,text\na,b,c\n", "utf-8")
    with pytest.raises(DataError, match="found url more than once"):
        list(csv_rows(str(tmp_path / "a.csv")))


@pytest.mark.parametrize("kind", ["csv", "semicolons", "tsv", "parquet", "gz", "jsonl", "txt"])
def test_standard_input_is_detected_by_its_content(kind, trained, tmp_path, monkeypatch):
    import pyarrow
    import pyarrow.parquet

    texts = ["张三去了华为", "王五"]
    table = [["id", "text"], *[[str(n), text] for n, text in enumerate(texts)]]
    if kind == "parquet":
        buffer = io.BytesIO()
        pyarrow.parquet.write_table(pyarrow.table({"text": texts}), buffer)
        content = buffer.getvalue()
    elif kind in ("csv", "semicolons", "tsv"):
        mark = {"csv": ",", "semicolons": ";", "tsv": "\t"}[kind]
        written = io.StringIO()
        csv.writer(written, delimiter=mark).writerows(table)
        content = written.getvalue().encode()
    elif kind == "jsonl":
        content = "".join(json.dumps({"text": text}) + "\n" for text in texts).encode()
    else:
        content = "".join(text + "\n" for text in texts).encode()
        content = gzip.compress(content) if kind == "gz" else content
    monkeypatch.setattr(sys, "stdin", SimpleNamespace(buffer=io.BytesIO(content)))
    assert tagged("-", trained, tmp_path / "out.jsonl") == 0
    assert [row["text"] for row in lines_of(tmp_path / "out.jsonl")] == texts


@pytest.mark.parametrize(
    "content",
    [
        "text, images\nAnna, Bob\nAnna left\nx, y, z\n",
        "text,images\nAnna left\nx,y,z\n",
        "a; text; b\n; c; d\n",
        'text,"open\nAnna\n',
    ],
)
def test_lines_that_look_like_a_header_are_texts(content, trained, tmp_path, monkeypatch):
    monkeypatch.setattr(sys, "stdin", SimpleNamespace(buffer=io.BytesIO(content.encode())))
    assert tagged("-", trained, tmp_path / "out.jsonl") == 0
    assert [row["text"] for row in lines_of(tmp_path / "out.jsonl")] == content.splitlines()


def test_standard_input_is_read_in_the_format_that_is_given(trained, tmp_path, monkeypatch, caplog):
    content = "text,id\nAnna,1\n"
    monkeypatch.setattr(sys, "stdin", SimpleNamespace(buffer=io.BytesIO(content.encode())))
    assert tagged("-", trained, tmp_path / "out.jsonl", "--format", "text") == 0
    assert [row["text"] for row in lines_of(tmp_path / "out.jsonl")] == content.splitlines()
    assert "as a table" not in caplog.text


def test_columns_on_standard_input_are_not_texts(trained, tmp_path, monkeypatch, capsys):
    content = "text\tner\nAnna\tB-PER\nleft\tO\n\nBob\tB-PER\n"
    monkeypatch.setattr(sys, "stdin", SimpleNamespace(buffer=io.BytesIO(content.encode())))
    assert tagged("-", trained, tmp_path / "out.jsonl") == 2
    assert "--format" in capsys.readouterr().err


def test_a_closed_standard_input_is_reported(trained, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(sys, "stdin", None)
    assert tagged("-", trained, tmp_path / "out.jsonl") == 2
    assert "standard input, which is closed" in capsys.readouterr().err


@pytest.mark.parametrize("bad", ["missing.jsonl", "other.txt"])
def test_all_files_are_looked_at_before_the_first_is_tagged(bad, trained, tmp_path, capsys):
    write_records(corpus(3), tmp_path / "many.jsonl")
    (tmp_path / "other.txt").write_text("一句话\n", "utf-8")
    output = tmp_path / "out.jsonl"
    both = [str(tmp_path / name) for name in ("many.jsonl", bad)]
    assert main(["predict", str(trained), *both, "--output", str(output)]) == 2
    assert bad in capsys.readouterr().err
    assert not list(tmp_path.glob(".out.jsonl*"))
    assert main(["predict", str(trained), both[0], "--output", str(output)]) == 0


@pytest.mark.parametrize(
    ("content", "options"),
    [("张三\n李四\n".encode("gb18030"), ()), (b'{"text": "a"}\n', ("--text_column", "body"))],
)
def test_a_job_without_any_text_fails(content, options, trained, tmp_path, capsys):
    source = tmp_path / ("in.jsonl" if options else "in.txt")
    source.write_bytes(content)
    assert tagged(source, trained, tmp_path / "out.jsonl", *options) == 2
    assert "expected texts to tag, found none in" in capsys.readouterr().err
    assert not (tmp_path / "out.jsonl").exists()
    shard = ("--shard", "1/2")
    assert tagged(source, trained, tmp_path / "one.jsonl", *options, *shard) == 0, "others may have"
    source.write_bytes(b"")
    assert tagged(source, trained, tmp_path / "out.jsonl", *options) == 0, "nothing is to be tagged"


# ----------------------------------------------------------------------------- characters and names
def test_a_lone_surrogate_is_written_as_columns(trained, tmp_path):
    (tmp_path / "in.jsonl").write_text('{"text": "\\ud800张"}\n', "utf-8")
    assert tagged(tmp_path / "in.jsonl", trained, tmp_path / "out.txt") == 0
    assert (tmp_path / "out.txt").read_text("utf-8").splitlines()[0][0] == "\ufffd"


def test_standard_output_is_utf_8_whatever_the_locale(trained, tmp_path):
    (tmp_path / "in.txt").write_text("Zürich 张三\n", "utf-8")
    command = [sys.executable, "-m", "contrastive_ner", "predict", str(trained)]
    done = subprocess.run(
        [*command, str(tmp_path / "in.txt")],
        env={**os.environ, "PYTHONIOENCODING": "ascii"},
        capture_output=True,
        check=True,
    )
    assert json.loads(done.stdout.decode("utf-8"))["text"] == "Zürich 张三"


def test_labels_with_blanks_fit_into_columns_and_brat(tmp_path, capsys):
    record = Record("0", "张三去", [Mention(0, 2, "natural  person")])
    written = "".join(format_records([record], "columns"))
    assert written.splitlines()[0] == "张\tB-natural_person"
    write_records([record], tmp_path / "in.jsonl")
    command = ["convert", str(tmp_path / "in.jsonl"), "--to", "brat", str(tmp_path / "brat")]
    assert main(command) == 0
    assert "types with white space, written with _" in capsys.readouterr().out
    (annotations,) = (tmp_path / "brat").glob("*.ann")
    assert annotations.read_text("utf-8") == "T1\tnatural_person 0 2\t张三\n"
    command = ["convert", str(tmp_path / "in.jsonl"), "--to", "datasets", str(tmp_path / "kept")]
    assert main(command) == 0
    (read,) = read_records(tmp_path / "kept")[0]
    assert [m.label for m in read.entities] == ["natural  person"], "these can hold white space"


@pytest.mark.parametrize("label", ["A\tB", "A\nB", " A"])
def test_a_type_with_a_line_end_or_a_tab_is_no_name(label, saved_binder, tmp_path, capsys):
    (tmp_path / "types.yaml").write_text(json.dumps({"types": {label: "a person"}}), "utf-8")
    (tmp_path / "in.txt").write_text("张三\n", "utf-8")
    options = ("--types", str(tmp_path / "types.yaml"))
    assert tagged(tmp_path / "in.txt", saved_binder[0], tmp_path / "out.jsonl", *options) == 2
    assert "expected a label in one line" in capsys.readouterr().err


def test_options_of_other_kinds_are_refused(trained, saved_binder):
    ner = load_pipeline(trained)
    for options in (
        {"batch_size": "a"}, {"batch_size": 2.5}, {"ignore_labels": 5}, {"ignore_labels": [5]},
        {"stride": 2.5},
    ):  # fmt: skip
        with pytest.raises(InputError, match=next(iter(options))):
            ner(["张三去了华为"], **options)
    binder = load_pipeline(saved_binder[0])
    assert isinstance(binder("张三", types={"A": "\ud800 a person"}), list)
    with pytest.raises(InputError, match="in one line"):
        binder("张三", types={"A\nB": "a person"})
