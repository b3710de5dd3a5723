"""Tagging jobs: sources, bad rows, order, processes, interruptions, files that change."""

import csv
import errno
import io
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from contextlib import suppress
from datetime import datetime
from itertools import pairwise
from pathlib import Path
from random import Random

import datasets
import pyarrow.parquet
import pytest
from conftest import ROOT
from hypothesis import given, settings
from hypothesis import strategies as st

from contrastive_ner.cli import main
from contrastive_ner.data.input_formats import input_format
from contrastive_ner.data.layout import Layout
from contrastive_ner.data.readers import read_records
from contrastive_ner.data.records import Record
from contrastive_ner.data.streams import BadRow, chunks, read_rows
from contrastive_ner.errors import DataError
from contrastive_ner.files import LockFile
from contrastive_ner.serving import predict as predict_module
from contrastive_ner.serving import tables
from contrastive_ner.serving.outputs import FileOutput, sealed

TEXTS = [
    "小明在北京大学读书，小红在上海工作。",
    "",
    "Hi 😀[SEP]ＡＢＣ 张三, 李四",
    "我们去上海。" * 60,
    '引号"和，逗号',
]
WORDS = ["小明", "在", "北京大学"]


@pytest.fixture
def tag(saved_tagger: Path, tmp_path: Path) -> Callable[..., tuple[int, list[dict]]]:
    """Run `predict` on a file and return its exit code and rows."""

    def run(file: Path | str, *options: str) -> tuple[int, list[dict]]:
        output = tmp_path / "out.jsonl"
        code = main(["predict", str(saved_tagger), str(file), "--output", str(output), *options])
        rows = (
            [json.loads(line) for line in output.read_text("utf-8").splitlines()]
            if output.exists()
            else []
        )
        output.unlink(missing_ok=True)
        return code, rows

    return run


# ------------------------------------------------------------------------------------------ sources
def write_source(kind: str, folder: Path) -> str:
    import datasets

    path = folder / f"in.{kind}"
    if kind == "txt":
        path.write_text("".join(text + "\n" for text in TEXTS), "utf-8")
    elif kind == "jsonl":
        path.write_text(
            "".join(json.dumps({"text": text, "label": [1]}) + "\n\n" for text in TEXTS), "utf-8"
        )
    elif kind == "disk":
        datasets.Dataset.from_dict({"text": TEXTS}).save_to_disk(str(path))
    elif kind == "split":
        datasets.DatasetDict({"test": datasets.Dataset.from_dict({"text": TEXTS})}).save_to_disk(
            str(path)
        )
        return f"{path}@test"
    elif kind == "parquet":
        datasets.Dataset.from_dict({"text": TEXTS}).to_parquet(str(path))
    else:
        with path.open("w", encoding="utf-8", newline="") as file:
            writer = csv.writer(file, delimiter="\t" if kind == "tsv" else ",")
            writer.writerows([["number", "text"], *enumerate(TEXTS)])
    return str(path)


@pytest.mark.parametrize("kind", ["txt", "jsonl", "csv", "tsv", "parquet", "disk", "split"])
def test_every_source_gives_the_same_mentions(tag, tmp_path, tiny_tagger, character_tok, kind):
    source = write_source(kind, tmp_path)
    code, rows = tag(source)
    assert code == 0
    assert [row["text"] for row in rows] == TEXTS
    expected = tiny_tagger.pipeline(character_tok)(TEXTS)
    found = [
        [
            {"entity_group": e["label"], "start": e["start"], "end": e["end"]}
            for e in row["entities"]
        ]
        for row in rows
    ]
    assert found == [
        [{key: m[key] for key in ("entity_group", "start", "end")} for m in mentions]
        for mentions in expected
    ]
    assert any(found)


def test_ids_documents_and_another_text_column(tag, tmp_path):
    (tmp_path / "in.csv").write_text("id,doc,body\na7,d1,张三\n,,李四\n", "utf-8")
    code, rows = tag(tmp_path / "in.csv", "--text_column", "body")
    assert code == 0
    assert [(row["id"], row.get("doc"), row["text"]) for row in rows] == [
        ("a7", "d1", "张三"),
        ("2", None, "李四"),
    ]


def test_words_are_a_text_and_columns_come_back_over_them(tag, saved_tagger, tmp_path, capsys):
    (tmp_path / "in.jsonl").write_text(json.dumps({"tokens": WORDS}) + "\n", "utf-8")
    assert tag(tmp_path / "in.jsonl")[1][0]["text"] == "".join(WORDS)
    assert (
        main(
            ["predict", str(saved_tagger), str(tmp_path / "in.jsonl"), "--output_format", "columns"]
        )
        == 0
    )
    assert [line.split("\t")[0] for line in capsys.readouterr().out.splitlines()] == [*WORDS, ""]


BAD = {
    "in.txt": ("好\n".encode() + b"\xff\n" + "好\n".encode(), {2: "not UTF-8 at byte 1"}),
    "in.jsonl": (
        '{"text": "好"}\n{"text": 3}\n{"body": "好"}\n[]\n{\n{"text": "好"}\n'.encode()
        + b'"\xff"\n'
        + b"[" * 100_000
        + b"\n",
        {
            2: "found 3",
            3: "found the keys ['body']",
            4: "found list",
            5: "expected JSON",
            7: "not UTF-8",
            8: "deep",
        },
    ),
    "in.csv": (
        "id,text\n1,好\n2\n3,".encode() + b"\xff\n" + "4,好\n".encode(),
        {2: "found None", 3: "found b'"},
    ),
    "first.txt": (b"\xff\n" + "好\n好\n".encode(), {1: "not UTF-8"}),
    "first.jsonl": ('[]\n{"text": "好"}\n{"text": "好"}\n'.encode(), {1: "found list"}),
    "deep.jsonl": (b'{"a":' * 100_000 + '\n{"text": "好"}\n{"text": "好"}\n'.encode(), {1: "deep"}),
    "offsets.jsonl": (
        '{"text": "好", "tokens": [[0, Infinity]]}\n{"text": "好"}\n{"text": "好"}\n'.encode(),
        {1: "found [0, inf]"},
    ),
    "quotes.csv": (
        'id,text\n1,"好"\n2,"好"的\n3,好\n4,好,的\n5\n6,"的\n'.encode(),
        {
            2: "not valid CSV",
            4: "expected 2 cells as in the header, found 3",
            5: "found None",
            6: "unexpected end",
        },
    ),
}


@pytest.mark.parametrize("name", BAD)
def test_a_bad_row_is_reported_with_its_number_and_the_rest_is_tagged(tag, tmp_path, capsys, name):
    content, faults = BAD[name]
    (tmp_path / name).write_bytes(content)
    code, rows = tag(tmp_path / name)
    assert (code, [row["text"] for row in rows]) == (0, ["好", "好"])
    said = capsys.readouterr().err
    for number, reason in faults.items():
        (line,) = [
            line for line in said.splitlines() if line.startswith(f"row {number} is skipped")
        ]
        assert reason in line
    assert f"{len(faults)} rows skipped" in said

    assert tag(tmp_path / name, "--strict") == (2, [])
    assert f"row {min(faults)}: " in capsys.readouterr().err


def test_tokens_that_are_neither_words_nor_offsets_do_not_matter(tag, tmp_path):
    rows = [
        {"text": "好", "tokens": tokens} for tokens in ([101, 7], 3, "好", {"a": 1}, [], ["好", ""])
    ]
    (tmp_path / "in.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows), "utf-8")
    assert [row["text"] for row in tag(tmp_path / "in.jsonl")[1]] == ["好"] * len(rows)


def test_labels_of_cluener_that_are_wrong_leave_the_text_to_tag(tag, tmp_path):
    (tmp_path / "in.json").write_text(
        '{"text": "好", "label": {}}\n{"text": "好", "label": {"A": 3}}\n', "utf-8"
    )
    assert len(tag(tmp_path / "in.json")[1]) == 2


def test_given_mentions_are_read_beside_another_text_column_and_words(tmp_path):
    # Offsets count characters, or words where there is no text.
    mention = {"start": 0, "end": 2, "label": "PER"}
    rows = [{"body": "小明在", "entities": [mention]}, {"tokens": WORDS, "entities": [mention]}]
    (tmp_path / "in.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows), "utf-8")
    read = list(
        read_rows(str(tmp_path / "in.jsonl"), Layout(), text_column="body", keep_entities=True).rows
    )
    found = [(row.text, [m[:3] for m in row.entities]) for row in read]
    two = len(WORDS[0] + WORDS[1])
    assert found == [("小明在", [(0, 2, "PER")]), ("".join(WORDS), [(0, two, "PER")])]


def test_a_record_says_coverage_words_best_types_and_what_is_abstained(
    tag, tmp_path, tiny_tagger, character_tok
):
    (tmp_path / "in.jsonl").write_text(json.dumps({"tokens": WORDS}) + "\n", "utf-8")
    code, (row,) = tag(
        tmp_path / "in.jsonl",
        "--top_k",
        "1",
        "--abstain_below",
        "PER=0.4,ORG=0.9",
        "--min_score",
        "0.1",
    )
    assert (code, row["coverage"]) == (0, 1.0)
    options = {"top_k": 1, "abstain_below": {"PER": 0.4, "ORG": 0.9}, "min_score": 0.1}
    expected = tiny_tagger.pipeline(character_tok)(WORDS, is_split_into_words=True, **options)
    assert len(row["entities"]) == len(expected) > 1
    for entity, mention in zip(row["entities"], expected, strict=True):
        assert entity["words"] == [mention["start_word"], mention["end_word"]]
        assert entity["abstained"] == mention["abstained"]
        assert [best["label"] for best in entity["labels"]] == [
            best["label"] for best in mention["labels"]
        ]
    # The output can be read as input.
    (tmp_path / "again.jsonl").write_text(json.dumps(row) + "\n", "utf-8")
    assert read_records(str(tmp_path / "again.jsonl"))[0][0].text == "".join(WORDS)


@pytest.mark.parametrize("limits", ["0.5,", "PER=", "PER=a", "PER:0.3", "2", "PER=1.5"])
def test_limits_that_are_none_are_refused(tag, tmp_path, capsys, limits):
    (tmp_path / "in.txt").write_text("好\n", "utf-8")
    try:
        code, rows = tag(tmp_path / "in.txt", "--min_score", limits)
    except SystemExit as refused:
        code, rows = refused.code, []
    assert (code, rows) == (2, [])
    assert "expected a number" in capsys.readouterr().err


@pytest.mark.parametrize("option", ["--top_k", "--abstain_below"])
def test_what_columns_cannot_say_is_refused_not_lost(tag, tmp_path, capsys, option):
    (tmp_path / "in.bio").write_text("好\tO\n", "utf-8")
    assert tag(
        tmp_path / "in.bio",
        option,
        "1" if option == "--top_k" else "0.5",
        "--output_format",
        "same",
    ) == (2, [])
    assert (
        f"{option[2:]}: columns cannot hold it; write the output as jsonl"
        in capsys.readouterr().err
    )


def test_bfloat16_finds_about_the_same(tag, tmp_path):
    (tmp_path / "in.txt").write_text("小明在北京大学读书，小红在上海工作。\n" * 3, "utf-8")
    exact, rough = (
        tag(tmp_path / "in.txt", "--precision", "float32")[1],
        tag(tmp_path / "in.txt", "--precision", "bfloat16")[1],
    )
    places = [
        {(e["start"], e["end"], e["label"]) for e in rows[0]["entities"]} for rows in (exact, rough)
    ]
    assert len(places[0] & places[1]) > 0.7 * len(places[0] | places[1])
    assert exact != rough


@pytest.mark.slow
def test_a_compiled_encoder_finds_the_same(tag, tmp_path):
    (tmp_path / "in.txt").write_text("小明在北京大学读书，小红在上海工作。\n好\n" * 40, "utf-8")
    plain, compiled = (
        tag(tmp_path / "in.txt")[1],
        tag(tmp_path / "in.txt", "--compile", "--batch_size", "8")[1],
    )
    places = [
        [[(e["start"], e["end"], e["label"]) for e in row["entities"]] for row in rows]
        for rows in (plain, compiled)
    ]
    assert places[0] == places[1]


@pytest.mark.parametrize("kind", ["nerco", "binder"])
@pytest.mark.parametrize("length", [20_000, pytest.param(1_000_000, marks=pytest.mark.slow)])
def test_a_million_characters_without_a_space(kind, length, saved_tagger, saved_binder, tmp_path):
    model = saved_tagger if kind == "nerco" else saved_binder[0]
    (tmp_path / "in.txt").write_text("a" * length + "\n好\n", "utf-8")
    output = tmp_path / "out.jsonl"
    assert (
        main(
            [
                "predict",
                str(model),
                str(tmp_path / "in.txt"),
                "--output",
                str(output),
                "--min_score",
                "0.9999",
            ]
        )
        == 0
    )
    long, short = (json.loads(line) for line in output.read_text("utf-8").splitlines())
    assert (len(long["text"]), long["coverage"], short["text"]) == (length, 1.0, "好")
    assert all(0 <= e["start"] < e["end"] <= length for e in long["entities"])


@pytest.mark.parametrize("name", ["in.txt", "in.jsonl", "in.csv"])
def test_null_bytes_are_characters(tag, tmp_path, name):
    text = "小明\0在\0\0北京"
    content = {
        "in.txt": text + "\n",
        "in.jsonl": json.dumps({"text": text}) + "\n",
        "in.csv": f'text\n"{text}"\n',
    }[name]
    (tmp_path / name).write_bytes(content.encode())
    code, rows = tag(tmp_path / name)
    assert (code, [row["text"] for row in rows]) == (0, [text])


def test_columns_are_written_of_texts_with_line_ends(saved_tagger, tmp_path, capsys):
    (tmp_path / "in.jsonl").write_text(
        json.dumps({"text": "\n\t小明\n\n在\t\n" * 8}) + "\n", "utf-8"
    )
    assert (
        main(
            ["predict", str(saved_tagger), str(tmp_path / "in.jsonl"), "--output_format", "columns"]
        )
        == 0
    )
    assert [line.split("\t")[0] for line in capsys.readouterr().out.splitlines()] == [
        *"小明在" * 8,
        "",
    ]


@pytest.mark.parametrize(
    ("name", "content", "says"),
    [
        ("in.csv", b"a,b\n1,2\n", "no column 'text' (found a, b)"),
        ("in.parquet", b"no parquet", "cannot be read as Parquet"),
        ("missing.txt", None, "no such file"),
        ("missing@test", None, "no data set could be loaded"),
    ],
)
def test_a_source_that_is_none_is_refused(tag, tmp_path, capsys, name, content, says):
    if content is not None:
        (tmp_path / name).write_bytes(content)
    assert tag(tmp_path / name) == (2, [])
    assert says in capsys.readouterr().err
    assert not list(tmp_path.glob(".out*"))


@settings(max_examples=100, deadline=None)
@given(
    rows=st.lists(
        st.builds(Record, st.just("1"), st.text(max_size=9), doc=st.sampled_from([None, "a", "b"]))
        | st.just(BadRow(1, "x"))
    ),
    texts=st.integers(1, 4),
    characters=st.integers(1, 12),
)
def test_chunks_hold_every_row_in_order_and_documents_whole(rows, texts, characters):
    parts = list(chunks(rows, texts, characters))
    assert [row for part in parts for row in part] == rows
    for part, following in pairwise(parts):
        last, first = part[-1], following[0]
        assert not (
            isinstance(last, Record)
            and isinstance(first, Record)
            and last.doc is not None
            and last.doc == first.doc
        )
    for part in parts:
        assert len(part) <= texts or any(
            isinstance(row, Record) and row.doc for row in part[texts - 1 :]
        )


@settings(max_examples=60, deadline=None)
@given(
    texts=st.lists(
        st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\r\n")).filter(
            lambda t: t[:1] != "\ufeff"
        )
    )
)
def test_lines_are_read_as_written(tmp_path_factory, texts):
    path = tmp_path_factory.mktemp("lines") / "in.txt"
    path.write_text("".join(text + "\n" for text in texts), "utf-8", newline="\n")
    assert [row.text for row in read_rows(str(path), Layout(format="text")).rows] == texts


# -------------------------------------------------------------------------- stops, kills, processes
@pytest.fixture
def job(saved_tagger: Path, tmp_path: Path) -> tuple[list[str], Path]:
    """A command that tags 480 texts, sixteen at a time, and its output file."""
    lines = [f"第{i}天，小明在北京大学读书，小红在上海工作。" for i in range(480)]
    (tmp_path / "many.txt").write_text("\n".join(lines) + "\n", "utf-8")
    output = tmp_path / "many.jsonl"
    command = [
        sys.executable,
        str(ROOT / "run_ner.py"),
        "predict",
        str(saved_tagger),
        str(tmp_path / "many.txt"),
        "--batch_size",
        "1",
    ]
    return [*command, "--output", str(output)], output


def saved_rows(progress: Path) -> int:
    """The number of rows in the last line of a progress file."""
    return json.loads(progress.read_text("utf-8").splitlines()[-1])["rows"]


def start_and_signal(command: list[str], output: Path, number: int) -> tuple[int, str, int]:
    """Start, wait for rows, send a signal; return exit code, standard error and saved rows."""
    process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True)
    progress = output.with_name(f".{output.name}.progress")
    while not progress.is_file() and process.poll() is None:
        time.sleep(0.01)
    process.send_signal(number)
    said = process.communicate(timeout=120)[1]
    return process.returncode, said, saved_rows(progress)


@pytest.mark.slow
def test_a_job_that_is_stopped_or_killed_goes_on_and_nothing_is_lost_or_written_twice(
    job, tmp_path
):
    command, output = job
    whole = tmp_path / "whole.jsonl"
    subprocess.run([*command[:-1], str(whole)], check=True, capture_output=True)

    code, said, rows = start_and_signal(command, output, signal.SIGTERM)
    assert code == 128 + signal.SIGTERM
    assert f"{rows} rows are written; run the same command again to resume" in said
    assert 0 < rows < 480
    assert not output.exists()
    partial = output.with_name(f".{output.name}.partial")
    partial.open("ab").write(b'{"id": "torn')  # as after a kill during a write

    code, _, more = start_and_signal(command, output, signal.SIGKILL)
    assert code == -signal.SIGKILL
    assert rows <= more < 480
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    assert f"resuming after row {more}" in done.stderr
    assert output.read_bytes() == whole.read_bytes()
    assert [
        path.name for path in tmp_path.glob(".*.jsonl.*") if not path.name.endswith(".lock")
    ] == []


@pytest.mark.slow
def test_two_processes_write_what_one_writes(job, tmp_path):
    command, output = job
    whole = tmp_path / "whole.jsonl"
    subprocess.run([*command[:-1], str(whole)], check=True, capture_output=True)
    subprocess.run([*command, "--num_processes", "2"], check=True, capture_output=True)
    assert output.read_bytes() == whole.read_bytes()


@pytest.mark.slow
def test_another_job_or_another_process_does_not_go_on_with_it(job, capsys):
    command, output = job
    start_and_signal(command, output, signal.SIGKILL)
    assert main([*command[2:], "--min_score", "0.9"]) == 2
    assert "was started with different options" in capsys.readouterr().err
    with Path(command[4]).open("a") as source:
        source.write("还有\n")
    assert main(command[2:]) == 2
    assert "was started with different source" in capsys.readouterr().err

    from filelock import FileLock

    with FileLock(output.with_name(f".{output.name}.lock")):
        assert main(command[2:]) == 2
    assert "is being written by another process" in capsys.readouterr().err


@pytest.mark.slow
def test_workers_end_with_a_killed_process(job):
    command, output = job
    process = subprocess.Popen([*command, "--num_processes", "2"], stderr=subprocess.DEVNULL)
    progress = output.with_name(f".{output.name}.progress")
    while not progress.is_file() and process.poll() is None:
        time.sleep(0.01)
    workers = [
        int(pid)
        for pid in Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split()
    ]
    process.kill()
    process.wait()
    assert len(workers) >= 2
    end = time.monotonic() + 30
    while (
        left := [pid for pid in workers if Path(f"/proc/{pid}").exists()]
    ) and time.monotonic() < end:
        time.sleep(0.1)
    assert left == []


@pytest.mark.slow
def test_a_worker_says_why_it_has_no_model(tmp_path, capsys):
    (tmp_path / "in.txt").write_text("好\n", "utf-8")
    given = [
        "predict",
        str(tmp_path),
        str(tmp_path / "in.txt"),
        "--output",
        str(tmp_path / "out.jsonl"),
        "--num_processes",
        "2",
    ]
    assert main(given) == 2
    assert "is not a model folder" in capsys.readouterr().err
    assert not list(tmp_path.glob(".out*"))


def test_other_standard_input_or_another_data_set_is_not_gone_on_with(
    saved_tagger, tmp_path, monkeypatch, capsys
):
    import datasets

    def stdin(text: str) -> None:
        monkeypatch.setattr("sys.stdin", io.TextIOWrapper(io.BytesIO(text.encode())))

    def full(self: FileOutput) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    folder = tmp_path / "data"
    datasets.Dataset.from_dict({"text": ["好"]}).save_to_disk(str(folder))
    finish = FileOutput.finish
    monkeypatch.setattr(FileOutput, "finish", full)
    for source in ("-", f"{folder}@train"):
        command = [
            "predict",
            str(saved_tagger),
            source,
            "--output",
            str(tmp_path / f"out{len(source)}.jsonl"),
        ]
        stdin("好\n")
        assert main(command) == 2
        assert "No space left" in capsys.readouterr().err
        stdin("好\n好\n")
        (folder / "more.arrow").write_bytes(b"")
        assert main(command) == 2
        assert "was started with different source" in capsys.readouterr().err
        stdin("好\n")
        (folder / "more.arrow").unlink()
        monkeypatch.setattr(FileOutput, "finish", finish)
        assert main(command) == 0
        assert "resuming after row 1" in capsys.readouterr().err
        monkeypatch.setattr(FileOutput, "finish", full)


def test_a_file_that_appears_meanwhile_stays_as_it_is(tmp_path):
    path = tmp_path / "out.jsonl"
    output = FileOutput(path, {"source": 1})
    output.write("row\n", 1)
    path.write_text("precious")
    with pytest.raises(ValueError, match="appeared in the meantime"):
        output.finish()
    output.close()
    assert path.read_text() == "precious"
    path.unlink()
    output = FileOutput(path, {"source": 1})
    assert output.done == 1
    output.finish()
    output.close()
    assert path.read_text() == "row\n"


def test_a_partial_file_that_lost_bytes_is_begun_anew(tmp_path):
    path = tmp_path / "out.jsonl"
    output = FileOutput(path, {"source": 1})
    output.write("row\n", 1)
    output.close()
    output.partial.write_text("ro")
    output = FileOutput(path, {"source": 1})
    assert output.done == 0
    output.close()
    assert list(tmp_path.iterdir()) == []


# ------------------------------------------------------------------- formats and further fields
MORE = [
    {
        "text": "小明在北京大学读书",
        "url": "http://a",
        "lang": "zh",
        "n": 1,
        "meta": {"a": [1]},
        "ok": True,
    },
    {"text": '引"号,\t好', "url": None, "n": 2.5, "id": "x", "entities": [], "coverage": "mine"},
    {"text": "\ud800好", "lang": "é\nb", "label": {"PER": 1}, "doc": "d"},
]
COLUMNS = ["id", "text", "entities", "doc", "coverage", "url", "lang", "n", "meta", "ok"]


def tagged_file(model: Path, source: Path, output: Path, *options: str) -> Path:
    given = ["predict", str(model), str(source), "--format", "jsonl", "--output", str(output)]
    assert main([*given, *options]) == 0
    return output


def test_fields_of_the_input_come_through_in_every_format(saved_tagger, tmp_path):
    source = tmp_path / "in.jsonl"
    source.write_text("".join(json.dumps(row) + "\n" for row in MORE), "utf-8")
    for name in ("jsonl", "json", "csv", "tsv", "parquet"):
        tagged_file(saved_tagger, source, tmp_path / f"out.{name}")
    rows = list(map(json.loads, (tmp_path / "out.jsonl").read_text("utf-8").splitlines()))
    assert [row["text"] for row in rows] == [row["text"] for row in MORE]
    assert (rows[0]["url"], rows[0]["meta"], rows[0]["ok"]) == ("http://a", {"a": [1]}, True)
    assert rows[0]["entities"]
    assert (rows[1]["id"], rows[1]["coverage"], rows[1]["n"]) == ("x", 1.0, 2.5)
    assert "label" not in rows[2]
    assert json.loads((tmp_path / "out.json").read_text("utf-8")) == rows
    rows[2]["text"] = "\ufffd好"
    for name, delimiter in (("csv", ","), ("tsv", "\t")):
        with (tmp_path / f"out.{name}").open(encoding="utf-8", newline="") as file:
            table = list(csv.DictReader(file, delimiter=delimiter, strict=True))
        assert list(table[0]) == COLUMNS
        for cells, row in zip(table, rows, strict=True):
            assert {key: cell for key, cell in cells.items() if cell} == {
                key: value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
                for key, value in row.items()
                if value is not None
            }
    table = pyarrow.parquet.read_table(tmp_path / "out.parquet").to_pylist()
    assert list(table[0]) == COLUMNS
    for cells, row in zip(table, rows, strict=True):
        expected = {**row, **({"meta": '{"a": [1]}'} if "meta" in row else {})}
        assert {key: cell for key, cell in cells.items() if cell is not None} == {
            key: value for key, value in expected.items() if value is not None
        }
    again = [
        [row.text for row in read_rows(str(tmp_path / f"out.{name}"), Layout()).rows]
        for name in ("csv", "tsv", "parquet")
    ]
    assert again == [[row["text"] for row in rows]] * 3


def test_columns_of_parquet_csv_and_data_sets_come_through(tag, tmp_path):
    columns = {"text": ["好", "好"], "n": [1, 2], "when": [datetime(2020, 1, 1)] * 2}
    data = datasets.Dataset.from_dict(columns)
    data.to_parquet(str(tmp_path / "in.parquet"))
    data.save_to_disk(str(tmp_path / "in"))
    (tmp_path / "in.csv").write_text("text,n,when\n好,1,a\n好,2,b\n", "utf-8")
    for name, expected in (
        ("in.parquet", [1, 2, "2020-01-01T00:00:00"]),
        ("in", [1, 2, "2020-01-01T00:00:00"]),
        ("in.csv", ["1", "2", "b"]),
    ):
        rows = tag(f"{tmp_path / name}@train" if name == "in" else tmp_path / name)[1]
        assert [*(row["n"] for row in rows), rows[1]["when"]] == expected


def test_a_field_that_is_nested_deeply_is_no_reason_to_skip_a_row(tag, tmp_path):
    (tmp_path / "in.jsonl").write_text(
        '{"text": "好", "m": ' + "[" * 800 + "]" * 800 + "}\n" + '{"text": "好"}\n', "utf-8"
    )
    first, second = tag(tmp_path / "in.jsonl")[1]
    assert (first["text"], second["text"]) == ("好", "好")
    assert json.dumps(first["m"]).count("[") == 800


def test_the_format_is_that_of_the_name(saved_tagger, tmp_path, capsys):
    source = tmp_path / "in.jsonl"
    source.write_text('{"text": "好"}\n', "utf-8")
    assert tagged_file(saved_tagger, source, tmp_path / "a.txt").read_text("utf-8") == "好\tO\n\n"
    asked = tagged_file(saved_tagger, source, tmp_path / "a.csv", "--output_format", "jsonl")
    assert json.loads(asked.read_text("utf-8"))["text"] == "好"
    command = ["predict", str(saved_tagger), str(source), "--output"]
    assert main([*command, str(tmp_path / "a.xlsx")]) == 2
    assert "found .xlsx; rename it or pass --output_format" in capsys.readouterr().err
    assert main([*command, "-", "--output_format", "parquet"]) == 2
    assert "needs a file" in capsys.readouterr().err
    source.write_text("", "utf-8")
    empty = tagged_file(saved_tagger, source, tmp_path / "empty.csv")
    assert empty.read_text("utf-8") == "id,text,entities,coverage\n"
    assert json.loads(tagged_file(saved_tagger, source, tmp_path / "b.json").read_text()) == []
    assert (
        len(pyarrow.parquet.read_table(tagged_file(saved_tagger, source, tmp_path / "b.parquet")))
        == 0
    )


@pytest.mark.parametrize("ending", ["csv", "parquet", "json"])
def test_a_table_goes_on_where_it_was(stopped, tmp_path, monkeypatch, ending):
    command, _ = stopped
    whole, output = tmp_path / f"whole.{ending}", tmp_path / f"out.{ending}"
    assert main([*command[:-1], str(whole)]) == 0

    def full(self: FileOutput) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    with monkeypatch.context() as patched:
        patched.setattr(FileOutput, "finish", full)
        assert main([*command[:-1], str(output)]) == 2
    assert main([*command[:-1], str(output)]) == 0
    assert output.read_bytes() == whole.read_bytes()
    assert not list(tmp_path.glob(f".out.{ending}.*"))


def test_parquet_is_written_in_row_groups(tmp_path, monkeypatch):
    monkeypatch.setattr(tables, "GROUP_ROWS", 2)
    rows = [{"id": str(n), "text": "好", "entities": [], "coverage": 1.0, "n": n} for n in range(5)]
    rows[3]["n"] = None
    rows[4]["n"] = 2**70
    (tmp_path / "lines").write_text("".join(json.dumps(row) + "\n" for row in rows), "utf-8")
    tables.write_parquet(tmp_path / "lines", tmp_path / "out.parquet")
    with pyarrow.parquet.ParquetFile(tmp_path / "out.parquet") as file:
        assert file.num_row_groups == 3
        assert file.read().column("n").to_pylist() == ["0", "1", "2", None, str(2**70)]


# ------------------------------------------------------------- progress and input are checked
# Rows as (rows of input, output): bad rows write nothing.
PARTS = [(2, "a\nb\n"), (1, ""), (3, "c\n"), (2, "dd\ne\n"), (4, ""), (1, "f\n")]
WHOLE = "".join(text for _, text in PARTS)


def write_parts(path: Path, stop: int | None = None) -> int:
    """Write the rest of `PARTS` as a job does, up to a number of them; where it went on."""
    output = FileOutput(path, {"source": 1})
    begun, rows = output.done, 0
    for number, text in PARTS[:stop]:
        if rows >= output.done:
            assert rows == output.done, "rows would be lost or written twice"
            output.write(text, number)
        rows += number
    if stop is None:
        output.finish()
    output.close()
    return begun


def with_seal(values: dict, job: dict | None = None) -> str:
    return sealed(values, job or {"source": 1}).decode()


DAMAGE: dict[str, Callable[[list[str]], str]] = {
    "nothing": lambda lines: "".join(lines),
    "empty": lambda lines: "",
    "[]": lambda lines: "[]",
    "{}": lambda lines: "{}\n",
    '"x"': lambda lines: '"x"\n',
    "null": lambda lines: "null\n",
    "not UTF-8": lambda lines: "\udcff\n",
    "deep": lambda lines: "[" * 100_000,
    "of an earlier version": lambda lines: (
        '{\n "job": {"source": 1},\n "rows": 2,\n "bytes": 4\n}\n'
    ),
    "no entries": lambda lines: lines[0],
    "no identity": lambda lines: "".join(lines[1:]),
    "only the last entry": lambda lines: lines[-1],
    "truncated": lambda lines: "".join(lines)[:-20],
    "truncated in the first line": lambda lines: lines[0][:20],
    "the last line torn": lambda lines: "".join(lines) + '{"rows": 99',
    "fewer rows": lambda lines: "".join(lines).replace('"rows": 8', '"rows": 5'),
    "fewer rows everywhere": lambda lines: re.sub(
        r'"rows": (\d+)', lambda m: f'"rows": {int(m[1]) - 1}', "".join(lines)
    ),
    "more rows": lambda lines: "".join(lines).replace('"rows": 8', '"rows": 9'),
    "more bytes": lambda lines: "".join(lines).replace('"bytes": 11', '"bytes": 12'),
    "another hash": lambda lines: lines[0] + lines[1].replace('"sha256": "', '"sha256": "0'),
    "lines in another order": lambda lines: lines[0] + "".join(reversed(lines[1:])),
    "lines twice": lambda lines: lines[0] + "".join(lines[1:] * 2),
    "a line in the middle lost": lambda lines: "".join([*lines[:2], *lines[3:]]),
    "a line in the middle damaged": lambda lines: "".join([*lines[:2], "\0\n", *lines[3:]]),
    "keys missing": lambda lines: lines[0] + with_seal({"rows": 2}),
    "wrong types": lambda lines: (
        lines[0]
        + with_seal({"rows": "2", "bytes": 4, "sha256": "", "input_sha256": ""})
        + with_seal({"rows": 2, "bytes": None, "sha256": [], "input_sha256": {}})
        + with_seal({"rows": True, "bytes": -1, "sha256": "", "input_sha256": ""})
    ),
    "an identity that is none": lambda lines: sealed({"job": []}).decode() + "".join(lines[1:]),
}


@pytest.mark.parametrize("name", DAMAGE)
def test_damaged_progress_neither_loses_rows_nor_writes_them_twice(tmp_path, name):
    path = tmp_path / "out.jsonl"
    write_parts(path, 4)
    progress = tmp_path / ".out.jsonl.progress"
    lines = progress.read_text("utf-8").splitlines(keepends=True)
    assert len(lines) == 5
    progress.write_text(DAMAGE[name](lines), "utf-8", errors="surrogateescape")
    begun = write_parts(path)
    if name in ("nothing", "the last line torn", "lines twice"):
        assert begun == 8
    assert path.read_text("utf-8") == WHOLE
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize(
    ("damage", "begun"),
    [
        (lambda raw: raw[:8], 6),
        (lambda raw: raw[:5], 3),
        (lambda raw: raw[:3], 0),
        (lambda raw: b"", 0),
        (lambda raw: raw + b"torn", 8),
        (lambda raw: raw[:-2] + b"X\n", 6),
        (lambda raw: b"X" + raw[1:], 0),
    ],
)
def test_of_a_damaged_partial_output_the_rows_that_agree_are_kept(tmp_path, damage, begun):
    path, partial = tmp_path / "out.jsonl", tmp_path / ".out.jsonl.partial"
    write_parts(path, 4)
    partial.write_bytes(damage(partial.read_bytes()))
    assert write_parts(path) == begun
    assert path.read_text("utf-8") == WHOLE


def test_progress_that_is_no_plain_file_is_refused(tmp_path):
    for name in (".out.jsonl.progress", ".out.jsonl.partial"):
        os.mkfifo(tmp_path / name)
        with pytest.raises(ValueError, match="expected a plain file"):
            FileOutput(tmp_path / "out.jsonl", {})
        (tmp_path / name).unlink()
    assert list(tmp_path.iterdir()) == []


@pytest.fixture
def stopped(saved_tagger: Path, tmp_path: Path, monkeypatch) -> tuple[list[str], Path]:
    """A command whose job was stopped after two of five rows, and its input."""
    source = tmp_path / "in.txt"
    source.write_text("小明一\n小明二\n小明三\n小明四\n小明五\n", "utf-8")
    monkeypatch.setattr(predict_module, "CHARACTERS_AHEAD", 1)
    command = ["predict", str(saved_tagger), str(source), "--output", str(tmp_path / "out.jsonl")]
    write = FileOutput.write

    def full(self, text, rows):
        if self.done == 2:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        write(self, text, rows)

    with monkeypatch.context() as patched:
        patched.setattr(FileOutput, "write", full)
        assert main(command) == 2
    return command, source


def rewrite(path: Path, text: str) -> None:
    """Change a file that keeps its time."""
    state = path.stat()
    path.write_text(text, "utf-8")
    os.utime(path, ns=(state.st_atime_ns, state.st_mtime_ns))


def test_a_change_of_what_is_done_is_noticed_also_with_the_same_size_and_time(
    stopped, tmp_path, capsys
):
    command, source = stopped
    before = source.read_text("utf-8")
    rewrite(source, before.replace("二", "六"))
    assert main(command) == 2
    said = capsys.readouterr().err.splitlines()[-1]
    assert "its first 2 rows, which are tagged, have changed" in said
    assert f"remove {tmp_path / '.out.jsonl.partial'} and run the command again" in said
    assert not (tmp_path / "out.jsonl").exists()
    # What is not yet done may change: the output is that of the input as it is now.
    rewrite(source, before.replace("五", "六"))
    assert main(command) == 0
    texts = [record.text for record in read_records(str(tmp_path / "out.jsonl"))[0]]
    assert texts == source.read_text("utf-8").split()


def test_an_input_that_ends_before_what_is_done_is_noticed(stopped, capsys):
    command, source = stopped
    size = source.stat().st_size
    rewrite(source, "小明一" + "x" * (size - 10) + "\n")
    assert source.stat().st_size == size
    assert main(command) == 2
    assert "its first 2 rows, which are tagged, have changed" in capsys.readouterr().err


CHANGES: dict[str, Callable[[Path], None]] = {
    "appended": lambda path: path.write_text(path.read_text("utf-8") + "好\n", "utf-8"),
    "truncated": lambda path: os.truncate(path, 3),
    "replaced": lambda path: (
        shutil.copy2(path, path.with_suffix(".new")),
        path.with_suffix(".new").replace(path),
    ),
    "removed": lambda path: path.unlink(),
    "touched": lambda path: os.utime(path),
}


@pytest.mark.parametrize("change", CHANGES)
@pytest.mark.parametrize("output", ["out.jsonl", "-"])
def test_an_input_that_changes_while_it_is_read_is_noticed(
    saved_tagger, tmp_path, monkeypatch, capsys, change, output
):
    source = tmp_path / "in.txt"
    source.write_text("好\n" * 3, "utf-8")
    tagger = predict_module.Tagger.__call__

    def changing(self, rows):
        CHANGES[change](source)
        return tagger(self, rows)

    monkeypatch.setattr(predict_module.Tagger, "__call__", changing)
    monkeypatch.chdir(tmp_path)
    assert main(["predict", str(saved_tagger), "in.txt", "--output", output]) == 2
    said = capsys.readouterr().err.splitlines()[-1]
    assert said.startswith("error: in.txt changed while it was read")
    assert not (tmp_path / "out.jsonl").exists()


def test_a_file_of_a_data_set_that_changes_while_it_is_read_is_noticed(
    saved_tagger, tmp_path, monkeypatch, capsys
):
    source = write_source("split", tmp_path)
    tagger = predict_module.Tagger.__call__

    def changing(self, rows):
        next((tmp_path / "in.split" / "test").glob("*.arrow")).touch()
        return tagger(self, rows)

    monkeypatch.setattr(predict_module.Tagger, "__call__", changing)
    assert main(["predict", str(saved_tagger), source]) == 2
    assert ".arrow changed while it was read" in capsys.readouterr().err


def test_a_pipe_as_a_file_is_refused(saved_tagger, tmp_path, capsys):
    os.mkfifo(tmp_path / "pipe.txt")
    assert main(["predict", str(saved_tagger), str(tmp_path / "pipe.txt")]) == 2
    assert "found a pipe or a device; give it as standard input" in capsys.readouterr().err


CONTESTED = """
import os, sys, time
from pathlib import Path
from contrastive_ner.files import LockFile
lock, inside, held = LockFile(Path(sys.argv[1], "lock")), Path(sys.argv[1], "inside"), 0
end = time.monotonic() + 50
while held < 300 and time.monotonic() < end:
    if lock.acquire():
        os.close(os.open(inside, os.O_CREAT | os.O_EXCL))  # fails if another is inside
        held += 1
        inside.unlink()
        lock.release()
print(held)
"""


def test_a_contested_lock_has_one_holder_at_a_time_and_leaves_no_file(tmp_path):
    command = [sys.executable, "-c", CONTESTED, str(tmp_path)]
    holders = [
        subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
        for _ in range(4)
    ]
    said = [holder.communicate(timeout=60) for holder in holders]
    assert [holder.returncode for holder in holders] == [0] * 4, said
    assert [int(held) for held, _ in said] == [300] * 4
    assert list(tmp_path.iterdir()) == []


def test_a_lock_file_that_is_left_by_a_killed_process_is_taken_over(tmp_path):
    (tmp_path / "lock").touch()
    lock, other = LockFile(tmp_path / "lock"), LockFile(tmp_path / "lock")
    assert lock.acquire()
    assert not other.acquire()
    other.release()  # of what it does not hold: nothing happens
    assert not other.acquire()
    lock.release()
    lock.release()
    assert other.acquire()
    lock.release()
    assert (tmp_path / "lock").exists()
    other.release()
    assert list(tmp_path.iterdir()) == []


LIMITED = """
import resource, sys
from pathlib import Path
from contrastive_ner.serving.outputs import FileOutput
from contrastive_ner.serving.predict import Tagged, write_explained
output = FileOutput(Path(sys.argv[1]), {})
try:
    write_explained(output, Tagged("x" * 100, 3, [], {}, "float32"))
    resource.setrlimit(resource.RLIMIT_FSIZE, (1000, 1000))
    write_explained(output, Tagged("y" * 5000, 4, [], {}, "float32"))
finally:
    output.close()
"""


def test_an_error_of_the_disk_is_explained_and_leaves_no_lock(tmp_path):
    given = [sys.executable, "-c", LIMITED, str(tmp_path / "out.jsonl")]
    done = subprocess.run(given, capture_output=True, text=True)
    assert (
        done.stderr.splitlines()[-1]
        == "OSError: [Errno 27] File too large; 3 rows are written; run the same command again to "
        "resume"
    )
    assert not (tmp_path / ".out.jsonl.lock").exists()


def test_an_output_that_exists_stays_as_it_is(saved_tagger, tmp_path, capsys):
    (tmp_path / "in.txt").write_text("好\n", "utf-8")
    (tmp_path / "out.jsonl").write_text("precious")
    assert (
        main(
            [
                "predict",
                str(saved_tagger),
                str(tmp_path / "in.txt"),
                "--output",
                str(tmp_path / "out.jsonl"),
            ]
        )
        == 2
    )
    assert "exists; remove it" in capsys.readouterr().err
    assert (tmp_path / "out.jsonl").read_text() == "precious"


def test_a_full_disk_keeps_what_is_written(job, monkeypatch, capsys):
    command, output = job
    write, calls = FileOutput.write, []

    def full(self, text, rows):
        calls.append(rows)
        if len(calls) == 3:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        write(self, text, rows)

    monkeypatch.setattr(FileOutput, "write", full)
    assert main(command[2:]) == 2
    assert (
        "No space left on device; 64 rows are written; run the same command again to resume"
        in capsys.readouterr().err
    )
    monkeypatch.undo()
    assert main(command[2:]) == 0
    assert [row.id for row in read_records(output)[0]] == [str(number) for number in range(1, 481)]


def test_a_model_that_changes_meanwhile_is_noticed(saved_tagger, tmp_path, monkeypatch, capsys):
    model = tmp_path / "changing"
    shutil.copytree(saved_tagger, model)
    (tmp_path / "in.txt").write_text("好\n", "utf-8")
    tagger = predict_module.Tagger.__call__

    def changing(self, rows):
        (model / "config.json").write_text(
            (model / "config.json").read_text("utf-8") + "\n", "utf-8"
        )
        return tagger(self, rows)

    monkeypatch.setattr(predict_module.Tagger, "__call__", changing)
    assert (
        main(
            [
                "predict",
                str(model),
                str(tmp_path / "in.txt"),
                "--output",
                str(tmp_path / "out.jsonl"),
            ]
        )
        == 2
    )
    assert "changed while it was in use" in capsys.readouterr().err
    assert not (tmp_path / "out.jsonl").exists()


def test_the_types_of_a_job_are_encoded_once(saved_binder, tmp_path, monkeypatch, capsys):
    from contrastive_ner.models.modeling_binder import BinderModel

    folder, _ = saved_binder
    encode, calls = BinderModel.encode_types, []
    monkeypatch.setattr(
        BinderModel,
        "encode_types",
        lambda self, *given: calls.append(given) or encode(self, *given),
    )
    (tmp_path / "types.yaml").write_text("types:\n  河流: 江河的名字。\n", "utf-8")
    (tmp_path / "in.txt").write_text("长江\n" * 40, "utf-8")
    options = ["--types", str(tmp_path / "types.yaml"), "--batch_size", "1"]
    assert main(["predict", str(folder), str(tmp_path / "in.txt"), *options]) == 0
    assert len(calls) == 1
    assert "40 texts" in capsys.readouterr().err


@pytest.mark.parametrize("seed", range(8))
def test_a_damaged_parquet_file_is_refused_or_read(tmp_path, seed):
    """Of 3,000 such files, some raise UnicodeDecodeError, OverflowError or OSError in pyarrow."""
    random = Random(seed)
    path = tmp_path / "in.parquet"
    when = [datetime(2020, 1, 1)] * 50
    rows = {"text": [f"北京 {n}" for n in range(50)], "when": when}
    datasets.Dataset.from_dict(rows).to_parquet(str(path))
    content = path.read_bytes()
    for _ in range(20):
        damaged = bytearray(content)
        for _ in range(3):
            damaged[random.randrange(len(damaged))] = random.randrange(256)
        path.write_bytes(damaged)
        with suppress(DataError):
            rows = list(read_rows(str(path), Layout()).rows)
            assert all(isinstance(row, Record | BadRow) for row in rows)


# ------------------------------------------------------------------------- plain text or columns
@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("Vitamin B-12\n", "text"),
        ("Vitamin B-12\nVitamin B-6\n", "text"),
        ("take the I-95\n", "text"),
        ("blood type O\n", "text"),
        ("he takes vitamin B-complex\n", "text"),
        ("one plain line\nanother plain line\nblood type O\n", "text"),
        ("张三去了北京\n", "text"),
        ("", "text"),
        ("张\tB-PER\n", "columns"),
        ("张\tB-PER\n三\tI-PER\n\n去\tO\n", "columns"),
        ("John B-PER\nwent O\nto O\nRome B-LOC\n", "columns"),
        ("John NNP B-NP B-PER\nwent VBD B-VP O\n", "columns"),
        ("-DOCSTART- -X- O\n\nJohn B-PER\nwent O\n", "columns"),
        ("blood type O\nVitamin B-12\n", "text"),
        ("张\tB-1\n三\tI-1\n去\tO\n", "columns"),
        ("John B-PER \nwent O \n" * 5, "columns"),
        (b"John B-PER\nwent O\n" * 20 + b"caf\xe9 O\n", "columns"),
        (b"a plain line\n" * 20 + b"caf\xe9 O\n", "text"),
        pytest.param('{"text": "a", "x": ' + "[" * 100_000 + "\n", "jsonl", id="deep"),
        pytest.param('{"text": "a", "x": ' + "9" * 5_000 + "}\n", "jsonl", id="huge number"),
        ('{"text": "a", "label": {}}\n', "cluener"),
        ("张 B-1\n三 I-1\n去 O\n", None),
        ("blood O\nVitamin B-12\n", None),
        ("John\tB-PER\nwent\tO\n" * 20 + "x\tO\tO\n", None),
        ("Vitamin B-complex\n", None),
        ("Plan B-side\nPlan B-team\n", None),
        ("blood O\nblood A\nblood O\n", None),
    ],
)
def test_plain_text_is_not_taken_for_columns(tmp_path, text, expected):
    content = text if isinstance(text, bytes) else text.encode()
    (tmp_path / "input.txt").write_bytes(content)
    if expected is None:
        with pytest.raises(DataError, match="pass --format text or --format columns"):
            input_format(str(tmp_path / "input.txt"))
    else:
        assert input_format(str(tmp_path / "input.txt")) == expected


@pytest.mark.parametrize("name", ["input.json", "input.jsonl", "input.txt"])
def test_cluener_is_told_from_jsonl_whatever_the_name(tmp_path, name):
    row = '{"text": "张三", "label": {"PER": {"张三": [[0, 1]]}}}'
    for content, expected in ((row, "cluener"), ('{"text": "张三"}', "jsonl")):
        (tmp_path / name).write_text(content + "\n", "utf-8")
        assert input_format(str(tmp_path / name)) == expected


@pytest.mark.parametrize(
    ("stored", "text"), [("", "MixFold"), (" ", "Mix Fold"), (None, "Mix Fold")]
)
def test_words_are_joined_as_those_of_the_training_data(tag, saved_tagger, tmp_path, stored, text):
    """By `predict`, in columns and JSON alike, and by the pipeline."""
    config = saved_tagger / "config.json"
    values = json.loads(config.read_text("utf-8"))
    config.write_text(json.dumps({**values, "joiner": stored}), "utf-8")
    (tmp_path / "in.jsonl").write_text(json.dumps({"tokens": ["Mix", "Fold"]}) + "\n", "utf-8")
    (tmp_path / "in.txt").write_text("Mix\tO\nFold\tO\n", "utf-8")
    for name in ("in.jsonl", "in.txt"):
        assert [row["text"] for row in tag(tmp_path / name)[1]] == [text]


@pytest.mark.parametrize("to", ["doccano", "labelstudio", "brat", "dygie", "datasets", "conll"])
def test_predictions_are_written_for_annotation_tools(saved_tagger, tmp_path, to):
    """The same mentions as in JSON lines, with scores where the tool has a place for them."""
    (tmp_path / "in.txt").write_text("小明在北京大学\n华为\n", "utf-8")
    plain = tagged_lines(saved_tagger, tmp_path, "jsonl", "plain")
    written = tagged_lines(saved_tagger, tmp_path, to, to)
    if to == "labelstudio":  # as predictions, which are no gold
        tasks = json.loads(written.read_text("utf-8"))
        own = [task["predictions"][0]["result"] for task in tasks]
        found = [[(r["value"]["start"], r["value"]["end"], r["score"]) for r in rs] for rs in own]
    else:
        records = read_records(written)[0]
        found = [[(m.start, m.end) for m in record.entities] for record in records]
    size = 3 if to == "labelstudio" else 2
    expected = [
        [(m.start, m.end, m.score)[:size] for m in record.entities]
        for record in read_records(plain)[0]
    ]
    assert found == expected
    assert any(expected)
    assert {path.name for path in tmp_path.iterdir()} == {"model", "in.txt", "plain", to}


def tagged_lines(model: Path, folder: Path, to: str, name: str) -> Path:
    """What `predict` makes of in.txt in a folder."""
    given = ["predict", str(model), str(folder / "in.txt"), "--format", "text"]
    assert main([*given, "--output", str(folder / name), "--output_format", to]) == 0
    return folder / name
