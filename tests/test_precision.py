"""Precision: float32, bfloat16, or the faster one on the device."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoModelForTokenClassification, pipeline

from contrastive_ner.cli import main
from contrastive_ner.devices import chosen_precision
from contrastive_ner.models import checks_ner
from contrastive_ner.models.checks_ner import computes_in_bfloat16, precision_for
from contrastive_ner.models.windows_ner import InputError
from contrastive_ner.serving.inference import load_pipeline

TEXTS = ["小明在北京大学读书，小红在上海工作。", "我们去上海。" * 30, ""]


@pytest.mark.parametrize("has", [True, False])
def test_auto_is_bfloat16_where_the_device_computes_in_it(monkeypatch: Any, has: bool) -> None:
    flags = "flags\t: avx512f" + " avx512_bf16 amx_bf16" * has
    monkeypatch.setattr(checks_ner.Path, "read_text", lambda *given: flags)
    assert computes_in_bfloat16("cpu") is has
    assert precision_for("auto", "cpu") == ("bfloat16" if has else "float32")
    assert chosen_precision("auto", "cpu") == precision_for("auto", "cpu")
    asked = {}
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda **given: asked.update(given) or has)
    assert computes_in_bfloat16("cuda:1") is has
    assert asked == {"including_emulation": False}
    for name in ("float32", "bfloat16"):
        assert precision_for(name, "cpu") == name
    assert precision_for("auto", "mps") == "float32"


def test_a_machine_that_says_nothing_computes_in_float32(monkeypatch: Any) -> None:
    def missing(*given: Any) -> str:
        raise FileNotFoundError

    monkeypatch.setattr(checks_ner.Path, "read_text", missing)
    assert precision_for("auto", "cpu") == "float32"


def test_an_unknown_precision_is_refused(saved_tagger: Path, pipe_options: dict) -> None:
    with pytest.raises(InputError, match=r"precision is 'half': expected auto, float32, bfloat16"):
        load_pipeline(saved_tagger, precision="half")
    ner = pipeline("ner", model=str(saved_tagger), **pipe_options)
    with pytest.raises(ValueError, match="precision is chosen when the pipeline is made"):
        ner("小明", precision="bfloat16")


@pytest.fixture
def pipe_options(modules_cache: None) -> dict:
    return {"trust_remote_code": True}


@pytest.mark.parametrize("kind", ["saved_tagger", "saved_binder"])
def test_the_pipeline_computes_in_the_precision_that_is_asked_for(
    kind: str, request: pytest.FixtureRequest, pipe_options: dict
) -> None:
    saved = request.getfixturevalue(kind)
    folder = str(saved[0] if isinstance(saved, tuple) else saved)
    plain = pipeline("ner", model=folder, **pipe_options)
    assert plain.model.dtype == torch.float32
    loaded = pipeline("ner", model=folder, dtype="bfloat16", **pipe_options)
    for precision in ("float32", "bfloat16", "auto"):
        ner = pipeline("ner", model=folder, precision=precision, **pipe_options)
        name = precision_for(precision, "cpu")
        assert str(ner.model.dtype) == f"torch.{name}"
        same = loaded if name == "bfloat16" else plain
        assert ner(TEXTS) == same(TEXTS) == load_pipeline(folder, precision=name)(TEXTS)
    half = AutoModelForTokenClassification.from_pretrained(folder, dtype="bfloat16", **pipe_options)
    assert half.pipeline(plain.tokenizer, precision="float32").model.dtype == torch.float32


@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
def test_predict_says_its_precision_and_resumes_in_no_other(
    saved_tagger: Path, tmp_path: Path, capsys: pytest.CaptureFixture, precision: str
) -> None:
    (tmp_path / "in.txt").write_text("\n".join(TEXTS), "utf-8")
    output = tmp_path / "out.jsonl"
    command = ["predict", str(saved_tagger), str(tmp_path / "in.txt"), "--output", str(output)]
    assert main([*command, "--precision", precision]) == 0
    assert f"including loading, {precision}" in capsys.readouterr().err
    found = [json.loads(line)["entities"] for line in output.read_text("utf-8").splitlines()]
    expected = load_pipeline(saved_tagger, precision=precision)([t for t in TEXTS if t])
    assert [[e["start"] for e in own] for own in found][:2] == [
        [m["start"] for m in own] for own in expected
    ]


def test_predict_takes_the_faster_precision(
    saved_tagger: Path, tmp_path: Path, capsys: pytest.CaptureFixture, monkeypatch: Any
) -> None:
    (tmp_path / "in.txt").write_text(TEXTS[0], "utf-8")
    command = ["predict", str(saved_tagger), str(tmp_path / "in.txt")]
    for has, name in ((True, "bfloat16"), (False, "float32")):
        monkeypatch.setattr(checks_ner, "computes_in_bfloat16", lambda device, has=has: has)
        assert main(command) == 0
        assert f"including loading, {name}" in capsys.readouterr().err
