"""Manners of the command line: usage, proposals, colours, places of keys, progress, devices."""

import io
import json
import logging
import os
import re
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from conftest import arguments
from hypothesis import given
from hypothesis import strategies as st

from contrastive_ner.cli import build_parser, main
from contrastive_ner.data.layout import Layout
from contrastive_ner.data.readers import read_records
from contrastive_ner.data.records import Record
from contrastive_ner.data.several import share_of
from contrastive_ner.data.streams import BadRow, Row
from contrastive_ner.devices import ON_CPU, VISIBLE, has_accelerator, only_device
from contrastive_ner.errors import ConfigError, DataError, difference
from contrastive_ner.logs import StderrHandler, coloured
from contrastive_ner.serving import predict as predict_module
from contrastive_ner.serving.outputs import FileOutput
from contrastive_ner.serving.predict import Job
from contrastive_ner.training import progress
from contrastive_ner.training.config import RunConfig
from contrastive_ner.training.progress import EpochLines, reporters
from contrastive_ner.training.run import check_run_dir, data_hashes
from contrastive_ner.training.settings import load_config


@pytest.mark.parametrize(
    ("command", "usage", "says"),
    [
        (["predict", "--outputt", "x", "m"], "predict", "--outputt (did you mean --output?)"),
        (["evaluate", "m", "f", "--mim_score=1"], "evaluate", "(did you mean --min_score?)"),
        (["evaluate", "m", "f", "g"], "evaluate", "unknown argument g"),
        (["convert", "a", "b", "--to", "jsnl"], "convert", "(did you mean jsonl?)"),
        (["train", "c.yaml", "seed=1", "--zzz"], "train", "unknown option --zzz (see"),
        (["predct", "m"], "[-h]", "(did you mean predict?)"),
        (["predict", "m", "--top_k", "x"], "predict", "--top_k: invalid int value: 'x'"),
        (["inspect"], "inspect", "required: FILE"),
    ],
)
def test_an_error_of_a_command_shows_its_own_usage(
    command: list[str], usage: str, says: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as stopped:
        main(command)
    assert stopped.value.code == 2
    message = capsys.readouterr().err
    assert message.startswith(f"usage: contrastive-ner {usage}")
    assert says in message.splitlines()[-1]
    assert "\033" not in message


def test_keys_may_stand_behind_options() -> None:
    given = build_parser().parse_args(["train", "c.yaml", "seed=1", "--", "stage1_epochs=2"])
    assert given.overrides == ["seed=1", "stage1_epochs=2"]


def test_an_error_about_a_key_says_where_it_stands(tmp_path: Path) -> None:
    base, file = tmp_path / "base.yaml", tmp_path / "mine.yaml"
    base.write_text("stage1_epochs: many\njoiner: never\n", "utf-8")
    file.write_text("base: base.yaml\njoiner: auto\n", "utf-8")
    for overrides, says in (
        ((), f"{base}: stage1_epochs is 'many': expected int"),
        (("stage1_epochs=1", "sed=1"), r"command line: unknown key sed \(did you mean seed\?\)"),
        (("stage1_epochs=-1",), "command line: stage1_epochs is -1: expected at least 0"),
    ):
        with pytest.raises(ConfigError, match=rf"^{says}"):
            load_config(file, overrides)
    with pytest.raises(DataError, match=r"^command line: joiner: expected one of"):
        load_config(file, ("stage1_epochs=1", "joiner=never"))
    file.write_text("hed_epochs: 1\n", "utf-8")
    with pytest.raises(ConfigError, match=rf"^{file}: unknown key hed_epochs .*head_epochs"):
        load_config(file)


def test_a_difference_names_what_has_changed_and_is_short() -> None:
    old = {"options": {"batch_size": 32, "top_k": 2}, "same": [1]}
    new = {"options": {"batch_size": 16}, "same": [1], "dtype": "bfloat16"}
    assert difference(old, new) == (
        "options.batch_size: 32 there, 16 now; options.top_k: 2 there, None now; "
        "dtype: None there, 'bfloat16' now"
    )
    many = {f"key{n}": n for n in range(100)}
    assert difference(many, {}).endswith("key7: 7 there, None now; and 92 more")


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def test_colours_are_for_terminals_only(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("NO_COLOR", raising=False)
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setattr(sys, "stderr", io.StringIO())
    assert coloured("error:", "red") == "error:"
    terminal = Terminal()
    monkeypatch.setattr(sys, "stderr", terminal)
    assert coloured("error:", "red") == "\033[31;1merror:\033[0m"
    for level in (logging.WARNING, logging.INFO):
        StderrHandler().handle(logging.LogRecord("x", level, "", 1, "said %d", (1,), None))
    assert terminal.getvalue() == "\033[33msaid 1\033[0m\nsaid 1\n"
    for name, value in (("NO_COLOR", "1"), ("TERM", "dumb")):
        with monkeypatch.context() as patch:
            patch.setenv(name, value)
            assert coloured("error:", "red") == "error:"


# ----------------------------------------------------------------------------------------- devices
@pytest.mark.parametrize(
    ("name", "says"),
    [
        ("gpu", "expected cpu, cuda, cuda:N or mps"),
        ("cuda:1", "torch finds 1 CUDA devices here; use cuda:0 to cuda:0"),
        ("mps", "no Apple GPU"),
    ],
)
def test_a_device_that_is_not_there_is_refused(
    name: str,
    says: str,
    saved_tagger: Path,
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: False)
    (tmp_path / "in.txt").write_text("小明\n", "utf-8")
    (tmp_path / "c.yaml").write_text("train_file: a\n", "utf-8")
    for command in (
        ["predict", str(saved_tagger), str(tmp_path / "in.txt"), "--device", name],
        ["train", str(tmp_path / "c.yaml"), "--device", name, "seed=1"],
    ):
        assert main(command) == 2
        (line,) = capsys.readouterr().err.splitlines()
        assert f"device is {name!r}" in line
        assert says in line


def test_predict_runs_on_the_device_that_is_asked_for(
    saved_tagger: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "in.txt").write_text("小明在北京\n", "utf-8")
    command = ["predict", str(saved_tagger), str(tmp_path / "in.txt")]
    assert main(command) == 0
    expected = capsys.readouterr().out
    assert main([*command, "--device", "cpu"]) == 0
    assert capsys.readouterr().out == expected
    assert "device" not in Job("m").identity()  # a job that was begun without it goes on
    assert Job("m", device="cpu").identity()["device"] == "cpu"


def test_training_sees_one_device_and_leaves_the_environment_as_it_was(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    monkeypatch.setattr(torch.accelerator, "is_available", lambda: True)
    monkeypatch.delenv(VISIBLE, raising=False)
    monkeypatch.delenv(ON_CPU, raising=False)
    with only_device("cpu"):
        assert not has_accelerator()
    for listed, name, seen in ((None, "cuda:1", "1"), ("4,7", "cuda:1", "7"), ("4,7", "cuda", "4")):
        with monkeypatch.context() as patch:
            if listed:
                patch.setenv(VISIBLE, listed)
            with only_device(name):
                assert os.environ[VISIBLE] == seen
                assert has_accelerator()
            assert os.environ.get(VISIBLE) == listed
    monkeypatch.setenv("WORLD_SIZE", "2")
    with pytest.raises(ConfigError, match="torchrun"), only_device("cuda:1"):
        pass


# ------------------------------------------------------------------------------- files and shares
@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Files of two documents each, of the same names in both files."""
    folder = tmp_path / "texts"
    folder.mkdir()
    for name in ("b", "a"):
        rows = [
            {"id": f"{name}{n}", "text": f"第{n}次，小明去了{name}", "doc": f"d{n // 3}"}
            for n in range(6)
        ]
        lines = "".join(json.dumps(row) + "\n" for row in rows)
        (folder / f"{name}.jsonl").write_text(lines, "utf-8")
    (folder / ".hidden").write_text("{", "utf-8")
    (folder / "README.md").write_text("# Texts\n", "utf-8")
    return folder


def rows_in(text: str) -> list[dict]:
    return [json.loads(line) for line in text.splitlines()]


def test_predict_takes_files_patterns_and_folders(
    folder: Path, saved_tagger: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    files = [str(folder / "a.jsonl"), str(folder / "b.jsonl")]
    found = []
    for names in (
        files,
        [str(folder / "*.jsonl")],
        [str(folder)],
        [files[0], "--top_k", "1", files[1]],
    ):
        assert main(["predict", str(saved_tagger), *names]) == 0
        found.append(rows_in(capsys.readouterr().out))
        assert [row["id"] for row in found[-1]] == [f"{f}{n}" for f in "ab" for n in range(6)]
    assert found[0] == found[1] == found[2]
    assert {row["file"] for row in found[0]} == set(files)
    assert [row["doc"] for row in found[0]] == [
        f"{f}:d{n}" for f in files for n in (0, 0, 0, 1, 1, 1)
    ]
    assert main(["predict", str(saved_tagger), files[0]]) == 0
    assert "file" not in rows_in(capsys.readouterr().out)[0]  # one file is as it was


def test_several_files_that_cannot_be_read_together_are_refused(
    folder: Path, saved_tagger: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (folder / "c.txt").write_text("小明\n", "utf-8")
    for names, says in (
        ([str(folder)], "expected jsonl BIO as in"),
        ([str(folder / "*.csv")], "expected files, found none that matches"),
        (["-", str(folder / "a.jsonl")], "- is standard input"),
    ):
        assert main(["predict", str(saved_tagger), *names]) == 2
        assert says in capsys.readouterr().err


@pytest.mark.parametrize("count", [2, 5])
def test_shares_are_the_whole_in_order_and_split_no_document(
    folder: Path, saved_tagger: Path, tmp_path: Path, count: int
) -> None:
    command = ["predict", str(saved_tagger), str(folder), "--output"]
    assert main([*command, str(tmp_path / "whole.jsonl")]) == 0
    shares = []
    for number in range(1, count + 1):
        output = tmp_path / f"{number}.jsonl"
        assert main([*command, str(output), "--shard", f"{number}/{count}"]) == 0
        shares.append(rows_in(output.read_text("utf-8")))
    whole = rows_in((tmp_path / "whole.jsonl").read_text("utf-8"))
    joined = [row for own in shares for row in own]
    for row in (*joined, *whole):
        row["entities"] = [(m["start"], m["end"], m["label"]) for m in row["entities"]]
    assert joined == whole
    documents = [{row["doc"] for row in own} for own in shares]
    assert sum(map(len, documents)) == len(set.union(*documents)) == 4


@given(st.lists(st.sampled_from([None, "a", "b"]), max_size=30), st.integers(1, 9))
def test_every_row_is_in_one_share(docs: list[str | None], count: int) -> None:
    rows: list[Row] = [Record(str(n), "", [], doc) for n, doc in enumerate(docs)]
    rows += [BadRow(99, "no text")]
    shares = [list(share_of(iter(rows), len(rows), n, count)) for n in range(1, count + 1)]
    assert [row for own in shares for row in own] == rows


def test_another_share_does_not_go_on_with_a_job(
    folder: Path,
    saved_tagger: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A share that ends early resumes as any job does."""
    output = tmp_path / "out.jsonl"
    command = [
        "predict",
        str(saved_tagger),
        str(folder),
        "--output",
        str(output),
        "--batch_size",
        "1",
    ]
    monkeypatch.setattr(predict_module, "BATCHES_AHEAD", 1)
    write, written = FileOutput.write, []

    def once(self: FileOutput, text: str, rows: int) -> None:
        if written:
            raise OSError("the disk is full")
        written.append(rows)
        write(self, text, rows)

    with monkeypatch.context() as patch:
        patch.setattr(FileOutput, "write", once)
        assert main([*command, "--shard", "2/2"]) == 2
    assert not output.exists()
    capsys.readouterr()
    assert main([*command, "--shard", "1/2"]) == 2
    assert "source.shard: [2, 2] there, [1, 2] now" in capsys.readouterr().err
    assert main([*command, "--shard", "2/2"]) == 0
    assert [row["id"] for row in rows_in(output.read_text("utf-8"))] == [f"b{n}" for n in range(6)]
    assert f"resuming after row {written[0]}" in capsys.readouterr().err


@pytest.mark.parametrize("text", ["0/2", "3/2", "1", "a/b", "1/2/3", "-1/2"])
def test_a_share_that_is_none_is_refused(text: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        main(["predict", "m", "f", f"--shard={text}"])
    assert "expected I/N with 1 <= I <= N" in capsys.readouterr().err


def test_a_progress_bar_knows_the_total(
    folder: Path, saved_tagger: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    terminal = Terminal()
    monkeypatch.setattr(sys, "stderr", terminal)
    assert (
        main(["predict", str(saved_tagger), str(folder), "--output", str(tmp_path / "o.jsonl")])
        == 0
    )
    assert "12/12" in terminal.getvalue()


def test_training_data_may_be_a_pattern_or_a_folder(folder: Path, tmp_path: Path) -> None:
    for number, name in enumerate(("one", "two")):
        sentence = "小\tB-PER\n明\tI-PER\n去\tO\n\n"
        (tmp_path / f"{name}.bio").write_text(sentence * (number + 1), "utf-8")
    whole, report = read_records(str(tmp_path / "*.bio"))
    assert [record.text for record in whole] == ["小明去"] * 3
    assert (report.format, report.scheme, report.path) == (
        "columns",
        "BIO",
        str(tmp_path / "*.bio"),
    )
    config = RunConfig(train_file=str(tmp_path / "*.bio"), dev_file=str(tmp_path / "one.bio"))
    before = data_hashes(config)
    assert None not in before.values()
    (tmp_path / "three.bio").write_text("小\tB-PER\n", "utf-8")
    assert data_hashes(config) != before  # a run does not go on with other data
    records, _ = read_records(str(folder), Layout(format="jsonl"))
    assert len({record.doc for record in records}) == 4


# ----------------------------------------------------------------------------------------- training
def test_training_shows_phases_and_a_line_an_epoch(
    files: Path, tiny_encoder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    command = arguments(files, tiny_encoder, tmp_path / "run", stage2_epochs=2)
    small = ["train_texts=8", "test_file="]
    assert main([command[0], "--device", "cpu", *command[1:], *small]) == 0
    lines = capsys.readouterr().err.splitlines()
    assert [line for line in lines if line.startswith("-- ")] == [
        "-- stage1 (phase 1/3)",
        "-- head (phase 2/3)",
        "-- full (phase 3/3)",
    ]
    epochs = [line for line in lines if line.startswith("epoch ")]
    assert [line.split(":")[0] for line in epochs] == ["epoch 1/1"] * 2 + ["epoch 1/2", "epoch 2/2"]
    assert "dev kNN F1 " in epochs[0]
    assert all(re.search(r"(loss|F1) [\d.]+, .*[\d.]+ s an epoch", line) for line in epochs)
    assert "left" not in epochs[-1]
    config = json.loads((tmp_path / "run" / "config.json").read_text("utf-8"))
    assert config["report_to"] == []
    again = load_config(command[1], [*command[2:], *small, "report_to=wandb"])
    assert check_run_dir(again)  # reporting elsewhere makes no other run


def test_the_estimate_counts_the_epochs_of_later_phases(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    clock, said = iter((0.0, 0.0, 600.0)), []
    monkeypatch.setattr(progress, "time", SimpleNamespace(monotonic=lambda: next(clock)))
    monkeypatch.setattr(progress.log, "info", lambda text, *values: said.append(text % values))
    lines = EpochLines(epochs_after=3)
    args, state = (
        SimpleNamespace(num_train_epochs=5),
        SimpleNamespace(epoch=0.0, is_world_process_zero=True),
    )
    lines.on_train_begin(args, state, None)
    for loss in (2.0, 1.0):
        lines.on_log(args, state, None, logs={"loss": loss})
    state.epoch = 2.0
    lines.on_evaluate(args, state, None, metrics={"eval_f1": 0.5678, "eval_loss": 0.12345})
    assert said == [
        "epoch 2/5: loss 1.5, dev F1 56.8, dev loss 0.1235, 5 min 0 s an epoch, "
        "at most about 30 min 0 s left in all"
    ]


def test_where_training_reports_is_checked(monkeypatch: pytest.MonkeyPatch) -> None:
    there = "transformers.integrations.get_available_reporting_integrations"
    monkeypatch.setattr(there, lambda: ["tensorboard"])
    assert reporters(["tensorboard"]) == ["tensorboard"]
    with pytest.raises(ConfigError, match="report_to is 'wandb': pip install wandb"):
        reporters(["tensorboard", "wandb"])
    with pytest.raises(ConfigError, match=r"'tensorbord' \(did you mean tensorboard\?\)"):
        reporters(["tensorbord"])
