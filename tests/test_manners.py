"""Manners of the command line: usage, proposals, colours, places of keys, progress, devices."""

import io
import logging
import sys
from pathlib import Path

import pytest

from contrastive_ner.cli import build_parser, main
from contrastive_ner.errors import ConfigError, DataError, difference
from contrastive_ner.logs import StderrHandler, coloured
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
