"""Adapters (peft) on both models: what they change, and what is refused."""

import copy
import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from conftest import arguments
from peft import LoraConfig, PeftModel, get_peft_model
from safetensors.torch import load_file, save_file
from transformers import AutoModel, PreTrainedTokenizerFast, pipeline

from contrastive_ner.cli import main
from contrastive_ner.models.encoder_ner import weight_files
from contrastive_ner.models.modeling_binder import BinderConfig, BinderModel
from contrastive_ner.models.modeling_nerco import NercoForTokenClassification
from contrastive_ner.models.windows_ner import InputError
from contrastive_ner.serving.inference import load_pipeline
from contrastive_ner.serving.predict import Job
from contrastive_ner.training.lora import add_lora, merge_lora

TEXT = "张三在北京大学读书，李四在上海工作。"
LORA = {"target_modules": ["query", "value"], "r": 4}


def adapted(model: torch.nn.Module, *modules: str, scale: float = 1.0) -> PeftModel:
    """The model with an adapter that changes much, as if trained, also in whole `modules`."""
    torch.manual_seed(7)
    wrapped = get_peft_model(model, LoraConfig(**LORA, modules_to_save=list(modules))).eval()
    with torch.no_grad():
        for name, parameter in wrapped.named_parameters():
            if "lora_B" in name or ("modules_to_save" in name and parameter.dim() > 1):
                parameter.normal_(std=scale)
    return wrapped


@pytest.fixture
def base(saved_binder: tuple[Path, BinderModel]) -> Path:
    """Folder of a BINDER model."""
    return saved_binder[0]


@pytest.fixture
def adapter(base: Path, tmp_path: Path) -> Path:
    """Folder of an adapter of it that changes how text and types are read."""
    wrapped = adapted(BinderModel.from_pretrained(base), "heads", "type_heads")
    wrapped.save_pretrained(tmp_path / "adapter")
    return tmp_path / "adapter"


def error_of_stored(model: BinderModel) -> float:
    """Greatest difference between the vectors in use and those of the weights in force."""
    found = model.types.vectors
    fresh = model._encode_exactly(model.description_ids[:, 0], model.description_lengths[:, 0])
    return float((found - fresh).abs().max())


def mentions(model: BinderModel, tokenizer: PreTrainedTokenizerFast) -> list[dict]:
    return model.pipeline(tokenizer)(TEXT)


def attached(base: Path, adapter: Path) -> BinderModel:
    model = BinderModel.from_pretrained(base)
    model.load_adapter(str(adapter))
    return model


LOADS: dict[str, Callable[[Path, Path], BinderModel]] = {
    "AutoModel": lambda base, adapter: AutoModel.from_pretrained(adapter, trust_remote_code=True),
    "pipeline": lambda base, adapter: (
        pipeline("ner", model=str(adapter), tokenizer=str(base), trust_remote_code=True).model
    ),
    "the class": lambda base, adapter: BinderModel.from_pretrained(adapter),
    "load_adapter": attached,
    "peft": lambda base, adapter: (
        PeftModel.from_pretrained(BinderModel.from_pretrained(base), adapter).base_model.model
    ),
    "merged": lambda base, adapter: PeftModel.from_pretrained(
        BinderModel.from_pretrained(base), adapter
    ).merge_and_unload(),
}


# ----------------------------------------------------------------------------------- stored vectors
@pytest.mark.parametrize("way", LOADS)
def test_an_adapters_types_are_its_own_however_it_is_loaded(
    way: str, base: Path, adapter: Path, character_tok: PreTrainedTokenizerFast, modules_cache: None
) -> None:
    plain = BinderModel.from_pretrained(base)
    types, before = plain.types, mentions(plain, character_tok)
    model = LOADS[way](base, adapter).eval()
    assert model.type_fingerprint != types.fingerprint
    assert error_of_stored(model) < 1e-5
    found = mentions(model, character_tok)
    assert found != before
    model.vectors_are_stale = True
    assert mentions(model, character_tok) == found
    with pytest.raises(ValueError, match="types are stale"):
        model.pipeline(character_tok)(TEXT, types=types)


def test_types_follow_the_adapters_that_are_in_force(base: Path, adapter: Path) -> None:
    plain = BinderModel.from_pretrained(base)
    expected, fingerprint = plain.types.vectors, plain.type_fingerprint
    model = BinderModel.from_pretrained(base)
    wrapped = PeftModel.from_pretrained(model, adapter).eval()
    with_adapter = model.type_fingerprint
    with wrapped.disable_adapter():
        torch.testing.assert_close(model.types.vectors, expected)
        assert model.type_fingerprint == fingerprint  # the same weights, the same name
    assert model.type_fingerprint == with_adapter
    wrapped.load_adapter(adapter, adapter_name="other")
    with torch.no_grad():
        for name, parameter in wrapped.named_parameters():
            if "other" in name:
                parameter.mul_(-2)
    wrapped.set_adapter("other")
    assert error_of_stored(model) < 1e-5
    assert model.type_fingerprint not in (fingerprint, with_adapter)
    wrapped.set_adapter("default")
    for change in (wrapped.merge_adapter, wrapped.unmerge_adapter):
        change()
        assert error_of_stored(model) < 1e-5
    for module in model.modules():
        if hasattr(module, "scale_layer"):
            module.scale_layer(0.5)
    assert error_of_stored(model) < 1e-5


def test_transformers_switches_count_too(base: Path, adapter: Path) -> None:
    expected = BinderModel.from_pretrained(base).types
    model = attached(base, adapter)
    assert model.vectors_are_stale
    assert BinderModel.from_pretrained(adapter).vectors_are_stale
    for switch in (model.disable_adapters, model.enable_adapters):
        switch()
        assert model.vectors_are_stale
        assert error_of_stored(model) < 1e-5
    model.disable_adapters()
    assert model.type_fingerprint == expected.fingerprint
    model.delete_adapter("default")
    torch.testing.assert_close(model.types.vectors, expected.vectors)


def test_a_merged_model_is_saved_with_its_own_types(
    base: Path, adapter: Path, tmp_path: Path, character_tok: PreTrainedTokenizerFast
) -> None:
    model = PeftModel.from_pretrained(BinderModel.from_pretrained(base), adapter).merge_and_unload()
    found = mentions(model, character_tok)
    model.save_pretrained(tmp_path / "merged")
    loaded = BinderModel.from_pretrained(tmp_path / "merged")
    assert not loaded.vectors_are_stale
    assert mentions(loaded, character_tok) == found
    assert error_of_stored(loaded) < 1e-5


def test_an_adapter_is_trained_and_saved_as_an_adapter(base: Path, tmp_path: Path) -> None:
    model = BinderModel.from_pretrained(base)
    before = model.types.vectors
    wrapped = get_peft_model(model, LoraConfig(**LORA, modules_to_save=["heads", "type_heads"]))
    optimizer = torch.optim.AdamW((p for p in wrapped.parameters() if p.requires_grad), lr=0.05)
    mask = torch.tensor([[False, True, True, True, False]])
    for _ in range(3):
        loss = wrapped.train()(
            input_ids=torch.tensor([[2, 7, 8, 9, 3]]),
            word_mask=mask,
            word_end_mask=mask,
            labels=torch.tensor([[[0, 1, 2]]]),
        ).loss
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
    wrapped.eval().save_pretrained(tmp_path / "trained")
    loaded = BinderModel.from_pretrained(tmp_path / "trained")
    torch.testing.assert_close(loaded.types.vectors, model.types.vectors)
    assert (loaded.types.vectors - before).abs().max() > 1e-2


def test_an_adapter_does_not_take_the_calibration_of_its_base(
    base: Path, adapter: Path, character_tok: PreTrainedTokenizerFast
) -> None:
    model = BinderModel.from_pretrained(base)
    model.config.score_slope = 0.5
    model.save_pretrained(base)
    for way in LOADS.keys() - {"AutoModel", "pipeline"}:
        loaded = LOADS[way](base, adapter)
        assert mentions(loaded, character_tok)
        assert loaded.config.score_slope == 1.0
        loaded.config.score_slope = 0.25
        mentions(loaded, character_tok)
        assert loaded.config.score_slope == 0.25


# --------------------------------------------------------------------- other weights, or a copy
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_a_rounded_copy_keeps_the_types_and_their_name(
    base: Path, tmp_path: Path, dtype: torch.dtype
) -> None:
    exact = BinderModel.from_pretrained(base)
    converted = copy.deepcopy(exact)
    assert converted.types.fingerprint == exact.type_fingerprint
    converted.to(dtype).save_pretrained(tmp_path / "half")
    for model in (
        converted,
        BinderModel.from_pretrained(base, dtype=dtype),
        BinderModel.from_pretrained(tmp_path / "half"),
        BinderModel.from_pretrained(tmp_path / "half", dtype=torch.float32),
    ):
        assert not model.vectors_are_stale
        assert model.type_fingerprint == exact.type_fingerprint
        assert (model.types.vectors - exact.types.vectors).abs().max() < 0.01
    with torch.no_grad():
        converted.type_heads.span.weight.data.mul_(-1)  # counted as no change by torch
    assert error_of_stored(converted) < 0.05
    assert converted.type_fingerprint != exact.type_fingerprint


def test_a_folder_whose_weights_were_exchanged_encodes_its_types_again(base: Path) -> None:
    before = BinderModel.from_pretrained(base).types
    (path,) = weight_files(base)
    state = load_file(path)
    state["type_heads.span.weight"] *= -1
    save_file(state, path, metadata={"format": "pt"})
    loaded = BinderModel.from_pretrained(base)
    assert error_of_stored(loaded) < 1e-6
    assert loaded.type_fingerprint != before.fingerprint
    config = BinderConfig.from_pretrained(base)
    given = BinderModel.from_pretrained(None, config=config, state_dict=state)
    assert given.type_fingerprint == loaded.type_fingerprint


# ------------------------------------------------------------------------------------------- files
def change_config(folder: Path, **changes: object) -> None:
    path = folder / "adapter_config.json"
    path.write_text(json.dumps(json.loads(path.read_text("utf-8")) | changes), "utf-8")


FAULTS: dict[str, tuple[Callable[[Path], object], str]] = {
    "pickled": (
        lambda folder: (folder / "adapter_model.safetensors").rename(folder / "adapter_model.bin"),
        "pickled weights are refused",
    ),
    "no base": (
        lambda folder: change_config(folder, base_model_name_or_path=None),
        "no base model",
    ),
    "base is gone": (
        lambda folder: change_config(folder, base_model_name_or_path="runs/gone/model"),
        "base model 'runs/gone/model' is not there",
    ),
    "not JSON": (
        lambda folder: (folder / "adapter_config.json").write_text("{", "utf-8"),
        "is damaged",
    ),
    "rank": (lambda folder: change_config(folder, r=10**9), "a rank is above"),
    "rank of a layer": (lambda folder: change_config(folder, rank_pattern={"x": 10**9}), "a rank"),
    "code": (
        lambda folder: change_config(folder, megatron_config={"a": 1}, megatron_core="antigravity"),
        "names code to import",
    ),
    "NaN": (
        lambda folder: save_file(
            {"x": torch.tensor([float("nan")])}, folder / "adapter_model.safetensors"
        ),
        "NaN or infinite",
    ),
    "cut": (
        lambda folder: (folder / "adapter_model.safetensors").write_bytes(b"\x00" * 12),
        "is damaged",
    ),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_an_adapter_that_cannot_be_trusted_is_refused(
    fault: str, base: Path, adapter: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    change, message = FAULTS[fault]
    change(adapter)
    monkeypatch.chdir(tmp_path)
    with pytest.raises(InputError, match=message):
        BinderModel.from_pretrained(adapter)
    if "base" not in fault:
        with pytest.raises(InputError, match=message):
            BinderModel.from_pretrained(base).load_adapter(str(adapter))


def test_an_adapter_of_the_other_model_is_refused(
    adapter: Path, saved_tagger: Path, tmp_path: Path
) -> None:
    change_config(adapter, base_model_name_or_path=str(saved_tagger))
    with pytest.raises(InputError, match="opens 'binder'"):
        BinderModel.from_pretrained(adapter)
    change_config(adapter, base_model_name_or_path=str(adapter))
    with pytest.raises(InputError, match="adapters are refused"):
        BinderModel.from_pretrained(adapter)


def test_a_taggers_adapter_is_opened(
    saved_tagger: Path, tmp_path: Path, character_tok: PreTrainedTokenizerFast
) -> None:
    wrapped = adapted(
        NercoForTokenClassification.from_pretrained(saved_tagger), "classifier", "crf"
    )
    wrapped.save_pretrained(tmp_path / "adapter")
    expected = wrapped.base_model.model.pipeline(character_tok)(TEXT)
    loaded = NercoForTokenClassification.from_pretrained(tmp_path / "adapter")
    assert loaded.pipeline(character_tok)(TEXT) == expected
    assert torch.equal(loaded.crf.scores()[0], wrapped.base_model.model.crf.scores()[0])


# ---------------------------------------------------------------------------------------- commands
@pytest.fixture
def tagger_adapter(saved_tagger: Path, tmp_path: Path) -> Path:
    """Folder of an adapter of `saved_tagger`."""
    model = NercoForTokenClassification.from_pretrained(saved_tagger)
    adapted(model, "classifier", "crf").save_pretrained(tmp_path / "adapter")
    return tmp_path / "adapter"


def test_predict_and_evaluate_take_adapters(
    saved_tagger: Path,
    tagger_adapter: Path,
    tmp_path: Path,
    character_tok: PreTrainedTokenizerFast,
    capsys: pytest.CaptureFixture[str],
) -> None:
    model = NercoForTokenClassification.from_pretrained(tagger_adapter)
    expected = model.pipeline(character_tok)(TEXT)
    assert expected != load_pipeline(saved_tagger)(TEXT)
    assert load_pipeline(tagger_adapter)(TEXT) == expected
    (tmp_path / "text.txt").write_text(f"{TEXT}\n", "utf-8")
    assert main(["predict", str(tagger_adapter), str(tmp_path / "text.txt")]) == 0
    row = json.loads(capsys.readouterr().out.splitlines()[0])
    assert [(m["start"], m["end"]) for m in row["entities"]] == [
        (m["start"], m["end"]) for m in expected
    ]
    gold = tmp_path / "gold.jsonl"
    gold.write_text(json.dumps(row) + "\n", "utf-8")
    assert main(["evaluate", str(tagger_adapter), str(gold)]) == 0
    assert "100.0" in capsys.readouterr().out


def test_a_job_depends_on_the_adapters_base(saved_tagger: Path, tagger_adapter: Path) -> None:
    before = Job(str(tagger_adapter)).identity()["model"]
    assert {"adapter_model.safetensors", "base/model.safetensors"} <= set(before)
    loaded = NercoForTokenClassification.from_pretrained(saved_tagger)
    with torch.no_grad():
        loaded.classifier.bias.add_(1)
    loaded.save_pretrained(saved_tagger)
    assert Job(str(tagger_adapter)).identity()["model"] != before


@pytest.mark.parametrize(
    ("fault", "message"),
    [("pickle", "x.pkl"), ("code", "Python"), ("base", "is not there"), ("weights", "pickled")],
)
def test_the_commands_refuse_what_may_not_be_opened(
    saved_tagger: Path,
    tagger_adapter: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    fault: str,
    message: str,
) -> None:
    if fault == "pickle":
        (tagger_adapter / "x.pkl").write_bytes(b"x")
    elif fault == "code":
        path = saved_tagger / "windows_ner.py"
        path.write_text(path.read_text("utf-8") + "\n# other\n", "utf-8")
        message = "code that is not this project's"
    elif fault == "base":
        change_config(tagger_adapter, base_model_name_or_path="USER/NAME")
    else:
        (tagger_adapter / "adapter_model.safetensors").rename(tagger_adapter / "adapter_model.bin")
        message = "adapter_model.bin"
    (tmp_path / "text.txt").write_text(f"{TEXT}\n", "utf-8")
    for more in ([], ["--trust_remote_code"]):
        command = ["predict", str(tagger_adapter), str(tmp_path / "text.txt"), *more]
        assert main(command) == 2
        assert message in capsys.readouterr().err


def test_export_asks_for_the_merged_model(tagger_adapter: Path, tmp_path: Path, capsys) -> None:
    assert main(["export", str(tagger_adapter), str(tmp_path / "onnx")]) == 2
    assert "is an adapter: merge it" in capsys.readouterr().err


def test_merging_keeps_what_lora_has_learnt(tiny_tagger: NercoForTokenClassification) -> None:
    encoder, ids = tiny_tagger.nerco.encoder, torch.tensor([[2, 7, 8, 9, 3]])
    names = list(encoder.state_dict())
    before = tiny_tagger(input_ids=ids).logits
    add_lora([encoder], 3)
    assert torch.equal(tiny_tagger(input_ids=ids).logits, before)
    learnt = [name for name, p in encoder.named_parameters() if p.requires_grad]
    assert len(learnt) == 24
    assert all("lora" in name for name in learnt)
    with torch.no_grad():
        for name, parameter in encoder.named_parameters():
            if "lora_B" in name:
                parameter.normal_()
    with_adapters = tiny_tagger(input_ids=ids).logits
    assert (with_adapters - before).abs().max() > 0.1
    merge_lora(tiny_tagger)
    assert list(encoder.state_dict()) == names
    torch.testing.assert_close(
        tiny_tagger(input_ids=ids).logits, with_adapters, rtol=1e-5, atol=1e-5
    )
    merge_lora(tiny_tagger)  # nothing left to do


@pytest.mark.slow
@pytest.mark.parametrize("method", ["crf", "binder"])
def test_a_run_trains_with_lora_and_leaves_a_merged_model(
    method: str, files: Path, tiny_encoder: Path, tmp_path: Path
) -> None:
    """Every linear layer of the encoder changes by a matrix of that rank, and nothing else.

    The same command, from a checkpoint, ends the same.
    """
    types = tmp_path / "types.yaml"
    types.write_text("types:\n  PER: 人名\n  ORG: 机构\n", "utf-8")
    fields = {"method": method, "lora_rank": 2, "stage1_epochs": 0, "head_epochs": 0}
    fields |= {"stage2_epochs": 2, "keep_checkpoints": True, "types_file": types}
    command = arguments(files, tiny_encoder, tmp_path / "run", **fields)
    assert main(command) == 0
    weights = tmp_path / "run" / "full" / "model" / "model.safetensors"
    left = load_file(weights)
    shutil.rmtree(tmp_path / "run" / "model")
    for path in ("metrics.json", "full/DONE.json", "full/model/model.safetensors"):
        (tmp_path / "run" / path).unlink(missing_ok=True)
    assert main(command) == 0
    again = load_file(weights)
    assert left.keys() == again.keys()
    assert all(torch.equal(left[name], again[name]) for name in left)
    model = load_pipeline(tmp_path / "run" / "model").model
    encoder = getattr(model, "nerco", model).encoder
    before, changed = load_file(tiny_encoder / "model.safetensors"), 0
    for name, value in encoder.state_dict().items():
        difference = value - before[name]
        if (
            name.endswith("weight")
            and ("attention" in name or "dense" in name)
            and ("LayerNorm" not in name)
        ):
            assert 0 < torch.linalg.matrix_rank(difference, rtol=1e-3) <= 2
            changed += 1
        else:
            assert not difference.any(), name
    assert changed == 12
    assert not any("lora" in name for name in model.state_dict())
    metrics = json.loads((tmp_path / "run" / "metrics.json").read_text("utf-8"))
    assert metrics["config"]["lora_rank"] == 2
