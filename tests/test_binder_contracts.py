"""How users use a shared BINDER folder: other process, other directory, no network."""

import json
from pathlib import Path

import pytest
from conftest import MODELS, run_python
from transformers import PreTrainedTokenizerFast

from contrastive_ner.models.modeling_binder import BinderModel

TEXTS = ["张三在北京大学读书，李四在上海工作。", "我们去上海。" * 60, ""]
TYPES = {"河流": "江河的名字。", "人": "人的名字。"}
CODE_FILES = ["modeling_binder.py", "encoder_ner.py", "types_binder.py", "pipeline_ner.py"]

USE = """
import contextlib, io, json, os, sys
folder, again, texts, types = sys.argv[1:]
texts, types, stderr, result = json.loads(texts), json.loads(types), io.StringIO(), {}
with contextlib.redirect_stderr(stderr):
    import torch
    from safetensors.torch import load_file
    from transformers import AutoConfig, AutoModel, AutoModelForTokenClassification
    from transformers import AutoTokenizer, pipeline
    trust = {"trust_remote_code": True}
    config = AutoConfig.from_pretrained(folder, **trust)
    base = AutoModel.from_pretrained(folder, **trust)
    model = AutoModelForTokenClassification.from_pretrained(folder, **trust)
    tokenizer = AutoTokenizer.from_pretrained(folder, **trust)
    result["classes"] = [type(x).__name__ for x in (config, base, model)]
    result["modules"] = [type(x).__module__ for x in (config, base, model)]
    file = load_file(os.path.join(folder, "model.safetensors"))
    states = base.state_dict(), model.state_dict()
    result["equal"] = [torch.equal(file[name], own[name]) for own in states for name in file]
    for task in ("ner", "token-classification"):
        pipe = pipeline(task, model=folder, **trust)
        found = {"found": pipe(texts), "types": pipe(texts, types=types)}
        result[task] = {"class": type(pipe).__name__, **found}
    fixed = pipeline("ner", model=folder, types=types, decoding="flat", **trust)
    result["fixed"] = fixed(texts)
    half = pipeline("ner", model=folder, dtype="bfloat16", **trust)
    result["half"] = [str(half.model.dtype), [len(found) for found in half(texts)]]
    # Fine-tuned with the folder alone.
    ids = tokenizer(["北京大学"], return_tensors="pt")
    mask = torch.tensor([[False] + [True] * 4 + [False]])
    labels = torch.tensor([[[0, 1, 4]]])
    loss = model.train()(**ids, word_mask=mask, word_end_mask=mask, labels=labels).loss
    loss.backward()
    result["learns"] = float(model.heads.span.weight.grad.abs().sum())
    model.zero_grad()
    model.eval().save_pretrained(again)
    tokenizer.save_pretrained(again)
    result["again"] = pipeline("ner", model=again, **trust)(texts)
result["said"] = stderr.getvalue()
print("\\n" + json.dumps(result))
"""


def close(found: list[list[dict]], expected: list[list[dict]]) -> bool:
    return found == [
        [{**m, "score": pytest.approx(m["score"], abs=1e-5)} for m in mentions]
        for mentions in expected
    ]


@pytest.mark.slow
def test_a_shared_folder_is_the_same_model_elsewhere(
    saved_binder: tuple[Path, BinderModel], character_tok: PreTrainedTokenizerFast, tmp_path: Path
) -> None:
    folder, model = saved_binder
    elsewhere, again = tmp_path / "elsewhere", tmp_path / "again"
    elsewhere.mkdir()
    printed = run_python(
        USE,
        elsewhere,
        tmp_path / "cache",
        str(folder),
        str(again),
        json.dumps(TEXTS),
        json.dumps(TYPES),
    )
    result = json.loads(printed.splitlines()[-1])
    assert result["classes"] == ["BinderConfig", "BinderModel", "BinderModel"]
    assert all(name.startswith("transformers_modules.") for name in result["modules"])
    assert all(result["equal"])

    pipe = model.pipeline(character_tok)
    expected, expected_types = pipe(TEXTS), pipe(TEXTS, types=TYPES)
    assert all(expected[:-1])
    for task in ("ner", "token-classification"):
        assert result[task]["class"] == "NerPipeline"
        assert close(result[task]["found"], expected)
        assert close(result[task]["types"], expected_types)
    assert close(result["fixed"], pipe(TEXTS, types=TYPES, decoding="flat"))
    assert result["half"][0] == "torch.bfloat16"
    assert all(result["half"][1][:-1])

    assert result["learns"] > 0
    assert close(result["again"], expected)
    for place in (folder, again):
        for name in CODE_FILES:
            assert (place / name).read_bytes() == (MODELS / name).read_bytes()
    for alarm in (
        "not supported",
        "newly initialized",
        "unexpected",
        "UNEXPECTED",
        "MISSING",
        "Traceback",
    ):
        assert alarm not in result["said"]
