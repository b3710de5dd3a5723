"""How users use a shared folder: other processes, other directory, no network."""

import json
from pathlib import Path
from typing import Any

import pytest
from conftest import MODELS, run_python
from transformers import PreTrainedTokenizerFast

from contrastive_ner.models.modeling_nerco import NercoForTokenClassification

TEXTS = ["小明在北京大学读书，小红在上海工作。", "Hi 😀[SEP]ＡＢＣ\n张三", "我们去上海。" * 60, ""]
CODE_FILES = [
    "modeling_nerco.py",
    "crf_ner.py",
    "encoder_ner.py",
    "pipeline_ner.py",
    "windows_ner.py",
]

# Imports and logging happen inside `redirect_stderr`, so `said` is what a user would read.
PRELUDE = """
import contextlib, io, json, os, sys
folder, *others, texts = sys.argv[1:]
texts, stderr, result = json.loads(texts), io.StringIO(), {}
def refusal(load, *args, **kwargs):
    try:
        load(*args, **kwargs)
    except Exception as error:
        return f"{type(error).__name__}: {error}"
    return "no error"
"""

LOAD = """
with contextlib.redirect_stderr(stderr):
    import torch
    from safetensors.torch import load_file
    from transformers import AutoConfig, AutoModel, AutoModelForTokenClassification
    from transformers import AutoTokenizer, pipeline

    trust = {"trust_remote_code": True}
    config = AutoConfig.from_pretrained(folder, **trust)
    model = AutoModelForTokenClassification.from_pretrained(folder, **trust)
    base = AutoModel.from_pretrained(folder, **trust)
    tokenizer = AutoTokenizer.from_pretrained(folder, **trust)
    file, loaded = load_file(os.path.join(folder, "model.safetensors")), model.state_dict()
    result["classes"] = [type(x).__name__ for x in (config, base, model)]
    result["modules"] = [type(x).__module__ for x in (config, base, model)]
    result["names_equal"] = file.keys() == loaded.keys()
    result["weights_equal"] = all(torch.equal(file[name], loaded[name]) for name in file)
    part = {"nerco." + name: value for name, value in base.state_dict().items()}
    same = [torch.equal(file[name], value) for name, value in part.items()]
    result["base_equal"] = bool(part) and all(same)
    result["tensors"] = [len(file), len(part)]
    result["tokens"] = tokenizer(texts)["input_ids"]
    for task in ("ner", "token-classification"):
        pipe = pipeline(task, model=folder, **trust)
        own = {"class": type(pipe).__name__, "module": type(pipe).__module__}
        result[task] = {**own, "task": pipe.task, "found": pipe(texts)}
    half = pipeline("ner", model=folder, dtype="bfloat16", **trust)
    result["half"] = {"dtype": str(half.model.dtype), "found": half(texts)}
result["said"] = stderr.getvalue()
print("\\n" + json.dumps(result))
"""

SAVE_AGAIN = """
from transformers import AutoModel, AutoModelForTokenClassification, AutoTokenizer, pipeline
trust = {"trust_remote_code": True}
by_hand, by_pipeline, base = others
AutoModelForTokenClassification.from_pretrained(folder, **trust).save_pretrained(by_hand)
AutoTokenizer.from_pretrained(folder, **trust).save_pretrained(by_hand)
pipeline("ner", model=folder, **trust).save_pretrained(by_pipeline)
AutoModel.from_pretrained(folder, **trust).save_pretrained(base)
"""

LOAD_AGAIN = """
from transformers import AutoModel, pipeline
*copies, base = folder, *others
for copy in copies:
    for task in ("ner", "token-classification"):
        pipe = pipeline(task, model=copy, trust_remote_code=True)
        name = f"{os.path.basename(copy)} {task}"
        result[name] = {"class": type(pipe).__name__, "found": pipe(texts)}
result["base"] = type(AutoModel.from_pretrained(base, trust_remote_code=True)).__name__
print("\\n" + json.dumps(result))
"""

REFUSE = """
sys.stdin = io.StringIO("")  # nobody answers the library's question
from transformers import AutoConfig, AutoModel, AutoModelForTokenClassification, pipeline
pickled, = others
trust = {"trust_remote_code": True}
models = (("AutoModel", AutoModel), ("tagger", AutoModelForTokenClassification))
for name, load in (("AutoConfig", AutoConfig), *models):
    result[f"{name} without trust"] = refusal(load.from_pretrained, folder)
    result[f"{name} distrusted"] = refusal(load.from_pretrained, folder, trust_remote_code=False)
result["pipeline without trust"] = refusal(pipeline, "ner", model=folder)
result["modules after distrust"] = [name for name in sys.modules if "nerco" in name]
for name, load in models:
    result[f"{name} pickled"] = refusal(load.from_pretrained, pickled, **trust)
    result[f"{name} pickled on demand"] = refusal(
        load.from_pretrained, pickled, use_safetensors=False, **trust
    )
result["pipeline pickled"] = refusal(pipeline, "ner", model=pickled, **trust)
result["executed"] = os.path.exists(os.path.join(pickled, "executed"))
print("\\n" + json.dumps(result))
"""


def run(code: str, tmp_path: Path, name: str, *folders: Path) -> Any:
    """Run code in an empty directory with its own Hugging Face cache; its output as JSON."""
    elsewhere = tmp_path / f"elsewhere-{name}"
    elsewhere.mkdir()
    printed = run_python(
        PRELUDE + code, elsewhere, tmp_path / f"cache-{name}", *map(str, folders), json.dumps(TEXTS)
    )
    return json.loads(printed.splitlines()[-1]) if printed else None


def same(found: list[list[dict]], expected: list[list[dict]], *, tolerance: float = 1e-5) -> bool:
    """The same mentions with the same scores, except for rounding."""
    return found == [
        [{**m, "score": pytest.approx(m["score"], abs=tolerance)} for m in mentions]
        for mentions in expected
    ]


@pytest.fixture(autouse=True)
def one_thread(monkeypatch: pytest.MonkeyPatch) -> None:
    """Threads only cost time for models this small, a lot of it on a busy machine."""
    monkeypatch.setenv("OMP_NUM_THREADS", "1")


@pytest.fixture
def expected(
    tiny_tagger: NercoForTokenClassification, character_tok: PreTrainedTokenizerFast
) -> list[list[dict]]:
    found = tiny_tagger.pipeline(character_tok)(TEXTS)
    assert all(found[:-1])
    assert found[-1] == []
    return found


@pytest.mark.slow
def test_saved_folder_is_the_same_tagger_in_another_process(
    saved_tagger: Path,
    tmp_path: Path,
    expected: list[list[dict]],
    character_tok: PreTrainedTokenizerFast,
) -> None:
    result = run(LOAD, tmp_path, "load", saved_tagger)
    assert result["classes"] == ["NercoConfig", "NercoModel", "NercoForTokenClassification"]
    assert all(name.startswith("transformers_modules.") for name in result["modules"])

    assert result["names_equal"]
    assert result["weights_equal"]
    assert result["base_equal"]
    in_file, in_base = result["tensors"]
    assert in_file == in_base + 3  # classifier weight, bias, transitions
    assert result["tokens"] == character_tok(TEXTS)["input_ids"]

    for task in ("ner", "token-classification"):
        assert result[task]["class"] == "NerPipeline"
        assert result[task]["module"].startswith("transformers_modules.")
        assert same(result[task]["found"], expected)

    assert result["half"]["dtype"] == "torch.bfloat16"
    assert all(result["half"]["found"][:-1])
    for text, mentions in zip(TEXTS, result["half"]["found"], strict=True):
        assert all(
            text[m["start"] : m["end"]] == m["word"] and 0 <= m["score"] <= 1 for m in mentions
        )

    for alarm in (
        "not supported",
        "newly initialized",
        "unexpected",
        "UNEXPECTED",
        "MISSING",
        "Traceback",
    ):
        assert alarm not in result["said"]


@pytest.mark.slow
def test_resaved_copies_are_complete(
    saved_tagger: Path, tmp_path: Path, expected: list[list[dict]]
) -> None:
    copies = [tmp_path / "by-hand", tmp_path / "by-pipeline", tmp_path / "base"]
    run(SAVE_AGAIN, tmp_path, "save", saved_tagger, *copies)
    for copy in copies:
        for name in CODE_FILES:
            assert (copy / name).read_bytes() == (MODELS / name).read_bytes()
        assert list(copy.glob("*.bin")) == []
    first = (saved_tagger / "model.safetensors").read_bytes()
    assert [(copy / "model.safetensors").read_bytes() == first for copy in copies[:2]] == [
        True,
        True,
    ]

    saved_tagger.rename(tmp_path / "gone")  # nothing may refer to it
    result = run(LOAD_AGAIN, tmp_path, "again", *copies)
    assert result.pop("base") == "NercoModel"
    assert len(result) == 4
    for name, loaded in result.items():
        assert loaded["class"] == "NerPipeline", name
        assert same(loaded["found"], expected), name


def test_untrusted_code_and_pickled_weights_are_refused(saved_tagger: Path, tmp_path: Path) -> None:
    pickled = tmp_path / "pickled"
    pickled.mkdir()
    for file in saved_tagger.iterdir():
        if file.name != "model.safetensors":
            (pickled / file.name).write_bytes(file.read_bytes())
    # Opcodes of a pickle that creates a file when read, which is why pickles are refused.
    (pickled / "pytorch_model.bin").write_bytes(
        b"cbuiltins\nopen\n(V" + str(pickled / "executed").encode() + b"\nVw\ntR."
    )
    result = run(REFUSE, tmp_path, "refuse", saved_tagger, pickled)

    for name in ("AutoConfig", "AutoModel", "tagger"):
        assert "trust_remote_code=True" in result[f"{name} without trust"]
        assert "trust_remote_code=True" in result[f"{name} distrusted"]
    assert "trust_remote_code=True" in result["pipeline without trust"]
    assert result["modules after distrust"] == []

    for name in ("AutoModel", "tagger"):
        assert "safetensors" in result[f"{name} pickled"]
        assert "pickled weights are refused" in result[f"{name} pickled on demand"]
    assert "safetensors" in result["pipeline pickled"]
    assert result["executed"] is False
