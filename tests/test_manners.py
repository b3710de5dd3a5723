"""Manners of the command line: usage, proposals, colours, places of keys, progress, devices."""

import io
import logging
import os
import sys
from pathlib import Path

import pytest
import torch

from contrastive_ner.cli import build_parser, main
from contrastive_ner.devices import ON_CPU, VISIBLE, has_accelerator, only_device
from contrastive_ner.errors import ConfigError, DataError, difference
from contrastive_ner.logs import StderrHandler, coloured
from contrastive_ner.serving.predict import Job
from contrastive_ner.training.config import load_config


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
