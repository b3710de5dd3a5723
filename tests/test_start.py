"""Training that goes on from a trained model, also with other types."""

import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from conftest import arguments, corpus
from transformers import AutoTokenizer

from contrastive_ner.cli import main
from contrastive_ner.data.records import Mention, Record
from contrastive_ner.data.writers import write_records
from contrastive_ner.errors import ConfigError
from contrastive_ner.models.modeling_binder import BinderModel
from contrastive_ner.models.modeling_nerco import NercoForTokenClassification
from contrastive_ner.training.config import RunConfig
from contrastive_ner.training.start import check_start, continue_binder, continue_tagger

DESCRIPTIONS = {"PER": "人物：人的名字。", "ORG": "机构：公司的名字。", "GPE": "政区：城市的名字。"}
LABELS = ["O", "B-PER", "I-PER", "B-GPE", "I-GPE", "B-ORG", "I-ORG"]


@pytest.fixture
def tagger(saved_tagger: Path) -> Path:
    """A trained tagger of PER and ORG with calibrated scores."""
    config = saved_tagger / "config.json"
    values = json.loads(config.read_text("utf-8"))
    config.write_text(json.dumps({**values, "score_temperature": 3.0}), "utf-8")
    return saved_tagger


def test_states_of_another_kind_are_refused_before_training(tagger, tmp_path):
    """The linear layer of a lattice reads its numbers, not the encoder's states."""
    plain = RunConfig(init_model=str(tagger))
    flat = replace(plain, lexicon_fusion="flat")
    assert check_start(plain)
    assert check_start(replace(plain, lexicon_fusion="adapter"))
    with pytest.raises(
        ConfigError, match=r"lexicon_fusion is flat: that of init_model .* is 'none'"
    ):
        check_start(flat)
    config = json.loads((tagger / "config.json").read_text("utf-8"))
    sizes = {"lexicon_fusion": "flat", "lattice_heads": 8, "lattice_head_size": 20}
    (tmp_path / "flat").mkdir()
    (tmp_path / "flat" / "config.json").write_text(json.dumps({**config, **sizes}), "utf-8")
    of_flat = {"init_model": str(tmp_path / "flat")}
    assert check_start(replace(flat, **of_flat, lattice_heads=8))
    with pytest.raises(ConfigError, match=r"lattice_heads is 10: that of init_model .* is 8"):
        check_start(replace(flat, **of_flat))
    with pytest.raises(ConfigError, match=r"lexicon_fusion is none: that of init_model .* 'flat'"):
        check_start(replace(plain, **of_flat))


def test_weights_of_kept_types_are_copied_by_name(tagger, tiny_encoder):
    old = NercoForTokenClassification.from_pretrained(tagger)
    new = NercoForTokenClassification.from_encoder(str(tiny_encoder), LABELS)
    fresh = new.classifier.weight.detach().clone()
    continue_tagger(new, RunConfig(init_model=str(tagger)))
    had = old.config.labels
    for i, label in enumerate(LABELS):
        expected = old.classifier.weight[had.index(label)] if label in had else fresh[i]
        assert torch.equal(new.classifier.weight[i], expected)
        for j, other in enumerate(LABELS):
            kept = label in had and other in had
            score = old.crf.transitions[had.index(label), had.index(other)] if kept else 0
            assert new.crf.transitions[i, j] == score
    assert new.config.score_temperature == 1.0


def test_a_tagger_without_crf_goes_on_from_one_with_a_crf(tagger, tiny_encoder):
    new = NercoForTokenClassification.from_encoder(str(tiny_encoder), LABELS, use_crf=False)
    continue_tagger(new, RunConfig(init_model=str(tagger), method="ce"))
    old = NercoForTokenClassification.from_pretrained(tagger)
    assert torch.equal(
        new.classifier.bias[1], old.classifier.bias[old.config.labels.index("B-PER")]
    )


@pytest.mark.parametrize("width", [3, 8])
@pytest.mark.parametrize("kind", ["untied", "tied"])
def test_binder_s_projections_are_copied_and_types_encoded_again(
    saved_binder, tiny_encoder, width, kind
):
    folder, old = saved_binder
    new = BinderModel.from_encoders(
        str(tiny_encoder),
        descriptions={"PER": DESCRIPTIONS["PER"], "EVENT": "事件"},
        max_span_width=width,
        projection_size=16,
        type_encoder=kind,
    )
    continue_binder(new, RunConfig(init_model=str(folder), method="binder", projection_size=16))
    own, found = new.state_dict(), old.state_dict()
    for name in own:
        if name.startswith(("heads.", "type_heads.", "type_encoder.")):
            rows = min(width, 5) if name == "heads.width.weight" else None
            assert torch.equal(own[name][:rows], found[name][:rows]), name
    assert new.types.labels == ["PER", "EVENT"]
    if kind == "untied":
        tokenizer = AutoTokenizer.from_pretrained(tiny_encoder)
        expected = old.encode_types(new.types.descriptions, tokenizer).vectors
        assert torch.allclose(new.types.vectors, expected, atol=1e-6)


@pytest.fixture
def more_types(tmp_path: Path) -> Path:
    """The small corpus without its companies, but with a type that is new."""
    folder = tmp_path / "more"
    folder.mkdir()
    for split, count, offset in (("train", 40, 0), ("dev", 12, 100), ("test", 12, 200)):
        records = [
            Record(
                r.id, f"{r.text}北京", [r.entities[0], Mention(len(r.text), len(r.text) + 2, "GPE")]
            )
            for r in corpus(count, offset)
        ]
        write_records(records, folder / f"{split}.jsonl")
    return folder


@pytest.mark.parametrize("method", ["crf", "binder"])
def test_a_run_goes_on_from_a_model(
    method, more_types, tiny_encoder, saved_tagger, tmp_path, capsys, request
):
    model = saved_tagger if method == "crf" else request.getfixturevalue("saved_binder")[0]
    types = tmp_path / "types.yaml"
    described = {name: DESCRIPTIONS[name] for name in ("PER", "GPE")}
    types.write_text(json.dumps({"types": described}), "utf-8")
    command = arguments(
        more_types,
        "no/such/encoder",
        tmp_path / "run",
        method=method,
        init_model=model,
        types_file=types if method == "binder" else "",
        stage1_epochs=0,
        head_epochs=0,
        stage2_epochs=1,
        projection_size=16,
    )
    assert main(command) == 0
    lines = capsys.readouterr().err.splitlines()
    (line,) = [line for line in lines if line.startswith("going on from")]
    assert "kept: PER" in line
    assert "dropped: ORG" in line
    assert ("new, with fresh weights: GPE" in line) == (method == "crf")
    metrics = json.loads((tmp_path / "run" / "metrics.json").read_text("utf-8"))
    assert set(metrics["types"]) == {"PER", "GPE"}
    published = (tmp_path / "run" / "model" / "metrics.json").read_text("utf-8")
    assert str(tmp_path) not in published
    assert f"{model.name}" in (tmp_path / "run" / "model" / "README.md").read_text("utf-8")


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"init_model": "no/such/model"}, "expected the folder of a trained model"),
        ({"method": "binder", "types_file": "TYPES"}, "holds a model of type 'nerco'"),
        ({"text_unit": "word"}, "set text_unit=auto"),
        ({"init_model": "", "encoder": "MODEL"}, "to go on from it, set init_model"),
        ({"init_model": "ENCODER"}, "holds a model of type 'bert'"),
    ],
    ids=lambda value: "" if isinstance(value, str) else next(iter(value)),
)
def test_what_a_run_cannot_start_from_is_one_line(
    changes, message, files, tiny_encoder, saved_tagger, tmp_path, capsys
):
    types = tmp_path / "types.yaml"
    types.write_text(json.dumps({"types": DESCRIPTIONS}), "utf-8")
    names = {"TYPES": types, "MODEL": saved_tagger, "ENCODER": tiny_encoder}
    values = {"method": "crf", "init_model": saved_tagger, **changes}
    values = {key: names.get(value, value) for key, value in values.items()}
    assert main(arguments(files, tiny_encoder, tmp_path / "run", **values)) == 2
    assert message in capsys.readouterr().err.splitlines()[-1]
    assert not (tmp_path / "run").exists()


def test_another_size_of_the_projections_is_named(
    files, tiny_encoder, saved_binder, tmp_path, capsys
):
    types = tmp_path / "types.yaml"
    types.write_text(json.dumps({"types": DESCRIPTIONS}), "utf-8")
    command = arguments(
        files,
        tiny_encoder,
        tmp_path / "run",
        method="binder",
        init_model=saved_binder[0],
        types_file=types,
    )
    assert main(command) == 2
    assert "that of init_model is 16; set it" in capsys.readouterr().err
