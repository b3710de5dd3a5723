"""Hostile and damaged models: foreign code, weights elsewhere, incomplete weights, sizes."""

import json
import os
import shutil
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
import torch
from conftest import MODELS
from safetensors.torch import load_file, save_file
from transformers import AutoModel, AutoModelForTokenClassification, PreTrainedTokenizerFast

from contrastive_ner.cli import main
from contrastive_ner.errors import ConfigError, RepositoryError
from contrastive_ner.hub import repository as checks
from contrastive_ner.hub.repository import code_elsewhere, package, write_manifest
from contrastive_ner.hub.weights import tensor_faults, weight_faults
from contrastive_ner.models.checks_ner import not_finite, read_header
from contrastive_ner.models.encoder_ner import read_encoder_config
from contrastive_ner.models.modeling_binder import BinderConfig, BinderModel
from contrastive_ner.models.modeling_nerco import NercoForTokenClassification, NercoModel
from contrastive_ner.models.pipeline_ner import refused_panic
from contrastive_ner.models.windows_ner import InputError
from contrastive_ner.serving.inference import load_pipeline

TEXT = "张三昨天去了华为。"
WEIGHTS = "model.safetensors"


def change(folder: Path, name: str, **values: Any) -> None:
    """Set entries of a JSON file; `encoder_config` is merged."""
    content = json.loads((folder / name).read_text("utf-8"))
    inner = values.pop("encoder_config", {})
    content.update(values)
    if inner:
        content["encoder_config"].update(inner)
    (folder / name).write_text(json.dumps(content), "utf-8")


def change_weights(folder: Path, drop: str = "\0", **values: float) -> None:
    """Remove the tensors whose names start with `drop`; set one number of others."""
    weights = load_file(folder / WEIGHTS)
    weights = {name: value for name, value in weights.items() if not name.startswith(drop)}
    for name, value in values.items():
        weights[name.replace("__", ".")].view(-1)[1] = value
    save_file(weights, folder / WEIGHTS, metadata={"format": "pt"})


def shard(folder: Path) -> Path:
    """Replace the weights of a folder by two files and their index; returns the index."""
    weights = load_file(folder / WEIGHTS)
    (folder / WEIGHTS).unlink()
    names = sorted(weights)
    places = {name: f"model-0000{1 + i % 2}-of-00002.safetensors" for i, name in enumerate(names)}
    for file in set(places.values()):
        own = {name: weights[name] for name in names if places[name] == file}
        save_file(own, folder / file, metadata={"format": "pt"})
    index = folder / f"{WEIGHTS}.index.json"
    index.write_text(json.dumps({"metadata": {}, "weight_map": places}), "utf-8")
    return index


@pytest.fixture
def repository(saved_tagger: Path, tmp_path: Path) -> Path:
    """A packaged tagger, with the predictions that it makes."""
    mentions = load_pipeline(saved_tagger)(TEXT)
    (saved_tagger / "README.md").write_text("---\nlicense: mit\n---\n# Model\n", "utf-8")
    (saved_tagger / "metrics.json").write_text("{}", "utf-8")
    examples = [{"text": TEXT, "mentions": mentions}]
    (saved_tagger / "examples.json").write_text(json.dumps(examples), "utf-8")
    return package(saved_tagger, tmp_path / "repository")


# ------------------------------------------------------------------------------------- foreign code
@pytest.mark.slow
@pytest.mark.parametrize("kind", ["clap_text_model", "bert"])
def test_an_encoder_that_names_code_is_refused_and_nobody_is_asked(repository, tmp_path, kind):
    evil, marker = tmp_path / "evil", tmp_path / "ran"
    evil.mkdir()
    (evil / "evil.py").write_text(f"open({str(marker)!r}, 'w')\nclass Evil: pass\n", "utf-8")
    named = {"AutoModel": f"{evil}--evil.Evil"}
    change(
        repository, "config.json", encoder_config={"model_type": kind, "auto_map": named, "x": {}}
    )
    write_manifest(repository)
    (tmp_path / "text.txt").write_text(f"{TEXT}\n", "utf-8")
    for command in (
        ["predict", str(repository), str(tmp_path / "text.txt")],
        ["verify", str(repository), "--run"],
        ["bundle", str(repository), str(tmp_path / "b.zip"), "--trust_remote_code"],
    ):
        done = subprocess.run(
            [sys.executable, "-m", "contrastive_ner", *command],
            input="y\ny\ny\n",
            capture_output=True,
            text=True,
            env={**os.environ, "PYTHONPATH": str(MODELS.parent.parent)},
        )
        assert done.returncode == 2, done.stderr
        assert "auto_map" in done.stderr
        assert "y/N" not in done.stdout + done.stderr
    loader = NercoForTokenClassification
    if kind == "bert":  # transformers has a class of its own for it
        assert loader.from_pretrained(repository).config.encoder_config.model_type == "bert"
    else:
        with pytest.raises((InputError, ValueError)):
            loader.from_pretrained(repository)
    assert not marker.exists()


@pytest.mark.parametrize(
    ("name", "values"),
    [
        ("config.json", {"encoder_config": {"auto_map": {"AutoModel": "here.Model"}}}),
        ("config.json", {"encoder_config": {"deeper": [{"auto_map": ["a/b--c.D", None]}]}}),
        ("config.json", {"transformers_weights": "adapter_model.bin"}),
        ("config.json", {"encoder_config": {"trust_remote_code": True}}),
        ("config.json", {"encoder_config": {"use_pretrained_backbone": True}}),
        ("tokenizer_config.json", {"extra": {"custom_pipelines": {"ner": {"impl": "a.B"}}}}),
        ("tokenizer.json", {"auto_map": {"AutoTokenizer": ["/tmp--a.B", None]}}),
        ("metrics.json", {"a": [[{"_attn_implementation": "some/kernel"}]]}),
        ("config.json", {"_attn_implementation_internal": "some/kernel"}),
        ("config.json", {"encoder_config": {"experts_implementation": {"": "some/kernel"}}}),
    ],
)
def test_references_to_code_are_refused_in_every_file_at_every_depth(repository, name, values):
    change(repository, name, **values)
    write_manifest(repository)
    assert len(code_elsewhere(repository)) == 1
    assert checks.faults_of(repository)
    for trust in (False, True):
        with pytest.raises(RepositoryError, match="names code of another repository or folder"):
            load_pipeline(repository, trust_remote_code=trust)


def test_a_model_made_from_an_encoder_with_code_names_none(tiny_encoder, tmp_path):
    encoder = shutil.copytree(tiny_encoder, tmp_path / "encoder")
    change(encoder, "config.json", auto_map={"AutoModel": "someone/encoder--model.Model"})
    assert not hasattr(read_encoder_config(str(encoder)), "auto_map")
    NercoForTokenClassification.from_encoder(str(encoder), ["O"]).save_pretrained(tmp_path / "m")
    assert code_elsewhere(tmp_path / "m") == []


# ---------------------------------------------------------------------------------- sharded weights
@pytest.mark.slow
def test_honest_sharded_models_work_everywhere(repository, tmp_path, capsys):
    expected = load_pipeline(repository)(TEXT)
    assert expected
    shard(repository)
    write_manifest(repository)
    assert load_pipeline(repository)(TEXT) == expected
    assert main(["verify", str(repository), "--run", "--unpack", str(tmp_path / "out")]) == 0
    assert main(["bundle", str(repository), str(tmp_path / "b.zip")]) == 0
    assert main(["verify", str(tmp_path / "b.zip")]) == 0
    assert load_pipeline(tmp_path / "out")(TEXT) == expected
    assert not list(tmp_path.glob(".*-partial"))


@pytest.mark.parametrize(
    "where", ["../x.bin", "/x.bin", "pytorch_model.bin", "../x.safetensors", 5]
)
def test_an_index_that_names_other_files_is_refused_before_loading(
    repository, tmp_path, monkeypatch, where
):
    monkeypatch.setattr(torch, "load", lambda *_, **__: pytest.fail("torch.load was called"))
    index = shard(repository)
    content = json.loads(index.read_text("utf-8"))
    torch.save({}, tmp_path / "x.bin")
    if where == "/x.bin":
        where = str(tmp_path / "x.bin")
    for name in sorted(content["weight_map"])[::2]:
        content["weight_map"][name] = where
    index.write_text(json.dumps(content), "utf-8")
    write_manifest(repository)
    assert any("index.json names" in fault for fault in weight_faults(repository))
    assert main(["verify", str(repository)]) == 2
    with pytest.raises(ConfigError, match="names"):
        load_pipeline(repository)
    for load in (NercoForTokenClassification, NercoModel):
        with pytest.raises(InputError, match="safetensors files of its own folder"):
            load.from_pretrained(repository)


def test_an_encoder_with_such_an_index_is_refused(tiny_encoder, tmp_path):
    encoder = shutil.copytree(tiny_encoder, tmp_path / "encoder")
    index = shard(encoder)
    NercoForTokenClassification.from_encoder(str(encoder), ["O"])
    index.write_text(json.dumps({"weight_map": {"embeddings.word": "../x.bin"}}), "utf-8")
    with pytest.raises(InputError, match="safetensors files of its own folder"):
        NercoForTokenClassification.from_encoder(str(encoder), ["O"])


def test_files_and_the_index_must_agree(repository):
    index = shard(repository)
    content = json.loads(index.read_text("utf-8"))
    (repository / "model-00002-of-00002.safetensors").unlink()
    (fault,) = weight_faults(repository)
    assert "no such file" in fault
    index.write_text(json.dumps({"weight_map": dict(list(content["weight_map"].items())[:0])}))
    assert "names no file" in weight_faults(repository)[0]


# --------------------------------------------------------------------- missing and infinite weights
@pytest.mark.parametrize(
    "lost", ["classifier", "crf", "nerco.encoder.encoder.layer.1", "nerco", ""]
)
def test_missing_weights_of_a_tagger_are_named(repository, lost, capsys):
    change_weights(repository, lost)
    write_manifest(repository)
    assert main(["verify", str(repository)]) == 2
    said = capsys.readouterr().err
    assert "weights are missing" in said or "does not fit" in said or "layers" in said
    for load in (load_pipeline, NercoForTokenClassification.from_pretrained):
        with pytest.raises(ValueError, match=f"missing: {lost}" if lost else "missing|not fit"):
            load(repository)


@pytest.mark.parametrize("lost", ["type_vectors", "heads", "type_heads", "encoder", "description_"])
def test_missing_weights_of_binder_are_named(saved_binder, lost):
    folder, _ = saved_binder
    change_weights(folder, lost)
    with pytest.raises(InputError, match=f"missing: {lost}"):
        BinderModel.from_pretrained(folder)
    (fault,) = tensor_faults(folder, checks.read_config(folder))
    assert f"missing: {lost}" in fault
    with pytest.raises(ValueError, match=f"missing: {lost}"):
        load_pipeline(folder)


def test_other_code_may_need_other_weights(repository):
    change_weights(repository, "crf")
    with (repository / "modeling_nerco.py").open("a") as file:
        file.write("\n# another model\n")
    write_manifest(repository)
    assert checks.faults_of(repository) == []


def test_weights_without_a_config_take_the_one_given(saved_tagger):
    config = NercoForTokenClassification.config_class.from_pretrained(saved_tagger)
    (saved_tagger / "config.json").unlink()
    model = NercoForTokenClassification.from_pretrained(saved_tagger, config=config)
    assert model.classifier.weight.isfinite().all()


def test_a_tagger_is_still_a_base_model_and_a_base_model_a_start(saved_tagger, tmp_path):
    base = NercoModel.from_pretrained(saved_tagger)
    base.save_pretrained(tmp_path / "base")
    NercoModel.from_pretrained(tmp_path / "base")
    with pytest.raises(InputError, match=r"classifier\.bias, classifier\.weight, crf\.transitions"):
        NercoForTokenClassification.from_pretrained(tmp_path / "base")
    _, found = NercoForTokenClassification.from_pretrained(
        tmp_path / "base", output_loading_info=True
    )
    assert len(found["missing_keys"]) == 3


@pytest.mark.parametrize("number", [float("nan"), float("inf"), -float("inf")])
def test_nan_and_infinite_weights_are_named(repository, saved_binder, number):
    change_weights(repository, classifier__weight=number)
    write_manifest(repository)
    (fault,) = checks.faults_of(repository)
    assert fault == "weights are NaN or infinite: classifier.weight"
    change_weights(saved_binder[0], type_vectors=number)
    for load in (load_pipeline, NercoForTokenClassification.from_pretrained):
        with pytest.raises(ValueError, match=r"NaN or infinite: classifier\.weight"):
            load(repository)
    for load in (load_pipeline, BinderModel.from_pretrained, AutoModel.from_pretrained):
        with pytest.raises(ValueError, match="NaN or infinite: type_vectors"):
            load(saved_binder[0], **({"trust_remote_code": True} if load != load_pipeline else {}))


@pytest.mark.parametrize(
    "dtype",
    [torch.float64, torch.float32, torch.float16, torch.bfloat16, torch.float8_e5m2,
     torch.float8_e4m3fn],
)  # fmt: skip
def test_every_type_of_number_is_looked_at(tmp_path, dtype):
    good = torch.tensor(
        [0.0, -1.0, torch.finfo(dtype).max, torch.finfo(dtype).min], dtype=torch.float64
    )
    good = good.to(dtype)
    bad = torch.tensor([1.0, float("nan"), 2.0]).to(dtype)
    whole = torch.tensor([2**30, -1])
    save_file({"a": good, "b": bad, "c": whole}, tmp_path / WEIGHTS)
    assert not_finite(tmp_path / WEIGHTS) == ["b"]
    assert {name: entry.shape for name, entry in read_header(tmp_path / WEIGHTS).items()} == {
        "a": (4,), "b": (3,), "c": (2,)
    }  # fmt: skip


@pytest.mark.parametrize(
    "values",
    [
        {"score_temperature": float("nan")},
        {"output_dropout": float("inf")},
        {"encoder_config": {"layer_norm_eps": float("nan")}},
        {"encoder_config": {"layer_norm_eps": {"__float__": "Infinity"}}},
        {"encoder_config": {"layer_norm_eps": -1.0}},
        {"encoder_config": {"initializer_range": float("inf")}},
    ],
)
def test_settings_that_are_not_finite_are_refused(repository, values):
    change(repository, "config.json", **values)
    write_manifest(repository)
    assert checks.faults_of(repository)
    for load in (load_pipeline, NercoForTokenClassification.from_pretrained):
        with pytest.raises(ValueError, match=f"{next(iter(values))}|layer_norm_eps|init"):
            load(repository)


@pytest.mark.parametrize("field", ["start_weight", "threshold_weight", "margins", "score_slope"])
def test_binder_settings_are_finite(field):
    for number in (float("nan"), float("inf")):
        value = {"PER": number} if field == "margins" else number
        with pytest.raises(InputError, match=field):
            BinderConfig(descriptions={"PER": ["x"]}, **{field: value})


# -------------------------------------------------------------------------------------------- sizes
@pytest.mark.parametrize(
    "values",
    [
        {"encoder_config": {"num_hidden_layers": 100_000}},
        {"encoder_config": {"num_hidden_layers": 10**9}},
        {"encoder_config": {"max_position_embeddings": 10**10}},
        {"encoder_config": {"hidden_size": 2**20}},
        {"encoder_config": {"vocab_size": 10**10}},
        {"num_labels": 10**9, "id2label": None},
        {"encoder_config": {"num_labels": 10**9}},
        {"id2label": {str(i): "O" for i in range(100_000)}},
        {"id2label": {"0": "O", "1": "B-A", "2": "I-A"}},
    ],
)
def test_sizes_that_the_weights_do_not_have_are_refused_at_once(repository, values):
    change(repository, "config.json", **values)
    write_manifest(repository)
    for load in (
        checks.structure_faults,
        load_pipeline,
        NercoForTokenClassification.from_pretrained,
    ):
        begun = time.monotonic()
        try:
            assert load(repository)
            assert load is checks.structure_faults
        except (InputError, ConfigError):
            pass
        assert time.monotonic() - begun < 5


def test_a_config_of_ten_million_labels_is_not_read(repository):
    with (repository / "config.json").open("w") as file:
        file.write('{"model_type": "nerco", "id2label": {')
        file.writelines(f'"{i}": "B-{i}",' for i in range(3_000_000))
        file.write('"x": "O"}}')
    begun = time.monotonic()
    with pytest.raises(ConfigError):
        load_pipeline(repository)
    with pytest.raises(InputError, match="far too many"):
        NercoForTokenClassification.from_pretrained(repository)
    assert time.monotonic() - begun < 5


# -------------------------------------------------------------------------------- files of a folder
def test_a_plainly_saved_model_is_used(saved_tagger, tmp_path):
    assert load_pipeline(saved_tagger)(TEXT)
    for name in ("notes.md", "texts.jsonl", "generation_config.json"):
        (saved_tagger / name).write_text("{}", "utf-8")
    (saved_tagger / ".cache").mkdir()
    (saved_tagger / ".cache" / "x.lock").touch()
    assert load_pipeline(saved_tagger)(TEXT)


@pytest.mark.parametrize("name", ["config.json", WEIGHTS, "tokenizer.json", "vocab.txt", "x.json"])
def test_pipes_and_links_are_not_opened(saved_tagger, tmp_path, name):
    path = saved_tagger / name
    kept = path.read_bytes() if path.exists() else b"{}"
    path.unlink(missing_ok=True)
    os.mkfifo(path)
    with pytest.raises((ConfigError, RepositoryError)):
        load_pipeline(saved_tagger)
    with pytest.raises((InputError, OSError)):
        NercoForTokenClassification.from_pretrained(saved_tagger)
    path.unlink()
    (tmp_path / "elsewhere").write_bytes(kept)
    path.symlink_to(tmp_path / "elsewhere")
    with pytest.raises(RepositoryError, match=f"{name}: is a link"):
        load_pipeline(saved_tagger)


def test_a_snapshot_of_the_cache_consists_of_links(saved_tagger, tmp_path):
    expected = load_pipeline(saved_tagger)(TEXT)
    blobs, snapshot = tmp_path / "blobs", tmp_path / "snapshots" / "0123"
    shutil.move(saved_tagger, blobs)
    snapshot.mkdir(parents=True)
    for path in blobs.iterdir():
        (snapshot / path.name).symlink_to(f"../../blobs/{path.name}")
    assert load_pipeline(snapshot)(TEXT) == expected


@pytest.mark.parametrize(
    "name",
    ["pytorch_model.bin", "training_args.bin", "optimizer.pt", "sub/x.pkl", "a.so", "x.json"],
)
def test_pickles_and_foreign_files_are_refused_by_predict_too(saved_tagger, tmp_path, name, capsys):
    (saved_tagger / name).parent.mkdir(exist_ok=True)
    (saved_tagger / name).write_text("x", "utf-8")
    (tmp_path / "text.txt").write_text(f"{TEXT}\n", "utf-8")
    assert main(["predict", str(saved_tagger), str(tmp_path / "text.txt")]) == 2
    assert name in capsys.readouterr().err


def test_an_adapter_is_refused(saved_tagger):
    (saved_tagger / "adapter_config.json").write_text("{}", "utf-8")
    with pytest.raises(RepositoryError, match="adapter_config"):
        load_pipeline(saved_tagger)
    with pytest.raises(InputError, match="adapters are refused"):
        NercoForTokenClassification.from_pretrained(saved_tagger)


def test_the_library_opens_what_is_whole(saved_tagger, modules_cache):
    tokenizer = PreTrainedTokenizerFast.from_pretrained(saved_tagger)
    model = AutoModelForTokenClassification.from_pretrained(saved_tagger, trust_remote_code=True)
    assert model.pipeline(tokenizer)(TEXT) == load_pipeline(saved_tagger)(TEXT)


# ---------------------------------------------------------------------------------------- unpacking
def test_unpacking_shows_a_whole_folder_or_none(repository, tmp_path, monkeypatch):
    target = tmp_path / "out"

    def killed(source: Path, partial: Path) -> None:
        Path(partial).mkdir()
        (Path(partial) / "config.json").touch()
        raise RuntimeError("killed")

    with monkeypatch.context() as patched:
        patched.setattr(shutil, "copytree", killed)
        with pytest.raises(RuntimeError, match="killed"):
            main(["verify", str(repository), "--unpack", str(target)])
    assert not target.exists()
    (tmp_path / ".out-partial").mkdir()  # of a process that was killed
    (tmp_path / ".out-partial" / "rest").touch()
    assert main(["verify", str(repository), "--unpack", str(target)]) == 0
    assert sorted(os.listdir(target)) == sorted(os.listdir(repository))


# --------------------------------------------------------------- what loading would not survive
def refused_at_once(repository: Path, said: str) -> None:
    """Check that `verify` and loading name a fault in under 5 s."""
    write_manifest(repository)
    begun = time.monotonic()
    assert any(said in fault for fault in checks.faults_of(repository))
    with pytest.raises((InputError, ConfigError, RepositoryError), match=said):
        load_pipeline(repository)
    assert time.monotonic() - begun < 5


def tokenizer_with(folder: Path, **values: Any) -> None:
    """Set entries of tokenizer.json; `vocab` is merged into the vocabulary."""
    content = json.loads((folder / "tokenizer.json").read_text("utf-8"))
    content["model"]["vocab"].update(values.pop("vocab", {}))
    content.update(values)
    (folder / "tokenizer.json").write_text(json.dumps(content), "utf-8")


TENFOLD = {"type": "Replace", "pattern": {"String": "a"}, "content": "a" * 10}
BEYOND = {"id": 99_999, "content": "x", "special": False} | dict.fromkeys(
    ("single_word", "lstrip", "rstrip", "normalized"), False
)


@pytest.mark.parametrize(
    ("values", "said"),
    [
        ({"normalizer": {"type": "Sequence", "normalizers": [TENFOLD] * 8}}, "times longer"),
        ({"normalizer": {"type": "Prepend", "prepend": "a" * 9999}}, "times longer"),
        ({"pre_tokenizer": {"type": "Split", "pattern": {"Regex": "(x+x+)+y"}}}, "may never end"),
        ({"normalizer": {"type": "Replace", "pattern": {"Regex": "(a|a)*b"}}}, "may never end"),
        ({"vocab": {"华": 99_999}}, "token ids up to 99999"),
        ({"added_tokens": [BEYOND]}, "token ids up to 99999"),
        ({"padding": [[]] * 5_000_000}, "far too many"),
    ],
)
def test_tokenizers_that_loading_would_not_survive_are_refused_at_once(repository, values, said):
    tokenizer_with(repository, **values)
    refused_at_once(repository, said)


@pytest.mark.parametrize("name", ["metrics.json", "vocab.json", "special_tokens_map.json"])
def test_no_json_file_of_millions_of_values_is_read(repository, name):
    (repository / name).write_text("[" + "[]," * 5_000_000 + "[]]", "utf-8")
    refused_at_once(repository, "far too many")


def test_half_a_million_types_are_refused_before_they_are_read(saved_binder):
    types = {f"T{i}": ["x"] for i in range(500_000)}
    change(saved_binder[0], "config.json", descriptions=types)
    begun = time.monotonic()
    with pytest.raises(ConfigError):
        load_pipeline(saved_binder[0])
    with pytest.raises(InputError, match="far too many"):
        BinderModel.from_pretrained(saved_binder[0])
    assert time.monotonic() - begun < 5


def test_a_header_of_a_million_tensors_is_not_read(repository):
    entry = b'{"dtype":"F32","shape":[],"data_offsets":[0,0]}'
    header = b"{" + b",".join(b'"%d":%b' % (i, entry) for i in range(1_500_000)) + b"}"
    (repository / WEIGHTS).write_bytes(len(header).to_bytes(8, "little") + header)
    refused_at_once(repository, "a header of")


def test_windows_longer_than_the_encoder_reads_are_refused(repository, saved_binder):
    for folder in (repository, saved_binder[0]):
        change(folder, "config.json", max_window_tokens=513)
        with pytest.raises(InputError, match="the encoder reads 512 at most"):
            load_pipeline(folder)
    write_manifest(repository)
    assert "reads 512 at most" in checks.faults_of(repository)[0]


def test_a_tokenizer_of_another_encoder_is_refused(tiny_tagger, character_tok, tmp_path):
    character_tok.save_pretrained(tmp_path)
    tokenizer_with(tmp_path, vocab={"华": 99_999})
    with pytest.raises(InputError, match="do not belong together"):
        tiny_tagger.pipeline(PreTrainedTokenizerFast.from_pretrained(tmp_path))


def test_a_panic_of_the_tokenizers_library_is_one_line():
    panic = type("PanicException", (BaseException,), {})
    with pytest.raises(InputError, match="cannot read a text: boom"), refused_panic():
        raise panic("boom")
    with pytest.raises(KeyboardInterrupt), refused_panic():
        raise KeyboardInterrupt


def test_numbers_that_float32_cannot_hold_count_as_infinite(tmp_path):
    save_file(
        {
            "a": torch.tensor([1.0, 1e300], dtype=torch.float64),
            "b": torch.tensor([3.4e38, -3.4e38], dtype=torch.float64),
            "c": torch.tensor([complex(0, float("nan"))]),
        },
        tmp_path / WEIGHTS,
    )
    assert not_finite(tmp_path / WEIGHTS, as_float32=True) == ["a", "c"]


def test_the_library_asks_nobody_about_code_of_an_inner_encoder(repository, tmp_path, monkeypatch):
    monkeypatch.setattr("builtins.input", lambda *_: pytest.fail("asked"))
    named = {"model_type": "clap_text_model", "auto_map": {"AutoModel": f"{tmp_path}--evil.Evil"}}
    (tmp_path / "evil.py").write_text("raise SystemExit('ran')\n", "utf-8")
    config = {"model_type": "vision-text-dual-encoder", "text_config": named}
    config["vision_config"] = {"model_type": "clip_vision_model"}
    content = json.loads((repository / "config.json").read_text("utf-8"))
    content["encoder_config"] = config
    (repository / "config.json").write_text(json.dumps(content), "utf-8")
    with pytest.raises(ValueError, match=r"ClapTextConfig|weights"):
        NercoForTokenClassification.from_pretrained(repository)
