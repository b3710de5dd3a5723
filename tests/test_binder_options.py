"""BINDER's loss weights, initial temperature, width embedding and global threshold."""

import math
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import nn
from transformers import PreTrainedTokenizerFast

from contrastive_ner.errors import ConfigError
from contrastive_ner.models.modeling_binder import BinderModel, BinderOutput, binder_losses
from contrastive_ner.models.windows_ner import InputError
from contrastive_ner.training.config import RunConfig
from contrastive_ner.training.loading import load_data
from contrastive_ner.training.phases import binder_trainer
from contrastive_ner.training.start import check_start
from contrastive_ner.training.task import prepare_task

TYPES = {"PER": "人物：人的名字。", "ORG": "机构：公司、学校的名字。", "GPE": "政区。"}
SIZE, WIDTH = 16, 4


def new(tiny_encoder: Path, **fields: object) -> BinderModel:
    torch.manual_seed(2)
    model = BinderModel.from_encoders(
        str(tiny_encoder),
        descriptions=TYPES,
        label_unit="token",
        max_span_width=WIDTH,
        projection_size=SIZE,
        **fields,
    )
    for parameter in (*model.heads.parameters(), *model.type_heads.parameters()):
        if parameter.dim() > 1:
            nn.init.normal_(parameter, std=0.3)
    return model.eval()


def masks(rows: int, length: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Every token but the first and the last is a word."""
    word = torch.ones(rows, length, dtype=torch.bool)
    word[:, 0] = word[:, -1] = False
    return word, word.clone()


def test_defaults_are_those_of_the_paper(tiny_encoder: Path) -> None:
    model, config = new(tiny_encoder), RunConfig()
    names = ("start_weight", "end_weight", "span_weight", "threshold_weight")
    values = [0.2, 0.2, 0.6, 0.5]
    for source in (model.config, config):
        assert [getattr(source, name) for name in names] == values
        assert (source.initial_temperature, source.threshold) == (0.07, "token")
    torch.testing.assert_close(model.heads.log_scale, torch.full((3,), math.log(1 / 0.07)))
    assert model.heads.threshold is None
    assert "heads.threshold" not in model.state_dict()
    assert model.heads.width.weight.shape == (WIDTH, SIZE)


def test_the_temperature_and_the_width_embedding_are_as_configured(tiny_encoder: Path) -> None:
    model = new(tiny_encoder, initial_temperature=0.5, width_embedding_size=5)
    torch.testing.assert_close(model.heads.log_scale, torch.full((3,), math.log(2.0)))
    assert model.heads.width.weight.shape == (WIDTH, 5)
    hidden = torch.randn(2, 7, model.config.encoder_config.hidden_size)
    scores = model.scores(hidden, *masks(2, 7))
    heads, types = model.heads, model.types.vectors[2]
    for i, j in ((1, 1), (2, 4), (3, 5)):
        parts = torch.cat(
            [hidden[:, i], hidden[:, j], heads.width.weight[j - i].expand(2, -1)], dim=-1
        )
        expected = 2 * nn.functional.normalize(heads.span(parts), dim=-1) @ types.T
        torch.testing.assert_close(scores.span[:, :, i, j - i], expected)


def test_a_global_threshold_is_one_value_for_all_texts_and_types(tiny_encoder: Path) -> None:
    plain, model = new(tiny_encoder), new(tiny_encoder, threshold="global")
    with torch.no_grad():
        model.heads.threshold.copy_(torch.tensor([0.1, -0.2, 0.3]))
    assert model.heads.threshold.numel() == 3
    hidden = torch.randn(2, 7, model.config.encoder_config.hidden_size)
    word_mask, word_end_mask = masks(2, 7)
    with torch.no_grad():
        old, scores = (m.scores(hidden, word_mask, word_end_mask) for m in (plain, model))
    limits = torch.tensor([0.1, -0.2, 0.3]) / 0.07
    for kind, limit in zip(("start", "end"), limits, strict=False):
        found, before = getattr(scores, kind), getattr(old, kind)
        torch.testing.assert_close(found[..., 0], limit.expand(2, 3))
        torch.testing.assert_close(found[..., 1:], before[..., 1:])
    torch.testing.assert_close(scores.span[..., 0, 0], limits[2].expand(2, 3))
    torch.testing.assert_close(scores.span[:, :, 1:], old.span[:, :, 1:])
    decoded = model.decode(BinderOutput(last_hidden_state=hidden), word_mask, word_end_mask)
    expected = [
        {
            (first - 1, first + width, label)
            for k, label in enumerate(TYPES)
            for first in range(1, 6)
            for width in range(min(WIDTH, 6 - first))
            if old.span[row, k, first, width] > limits[2]
        }
        for row in range(2)
    ]
    assert [{span[:3] for span in spans} for spans in decoded] == expected
    assert any(expected)
    for span in decoded[0]:
        k = list(TYPES).index(span.label)
        margin = old.span[0, k, span.start + 1, span.end - span.start - 1] - limits[2]
        assert span.score == pytest.approx(1 / (1 + math.exp(-float(margin))), rel=1e-5)


def test_the_global_threshold_learns(tiny_encoder: Path) -> None:
    """Its gradient is that of the threshold in the losses, summed over texts and types."""
    model = new(tiny_encoder, threshold="global", projection_dropout=0.0)
    word_mask, word_end_mask = masks(2, 7)
    labels = torch.tensor([[[0, 1, 2], [1, 3, 3]], [[2, 2, 4], [-100] * 3]])
    ids = torch.randint(5, 50, (2, 7))
    hidden = model(ids).last_hidden_state.detach()
    scores = model.scores(hidden, word_mask, word_end_mask, model.types.vectors)
    leaves = [s.detach().requires_grad_() for s in scores]
    losses = binder_losses(type(scores)(*leaves), labels, word_mask, word_end_mask)
    weights = {"start": 0.2, "end": 0.2, "span": 0.6}
    sum(
        0.5 * weight * (losses[f"mention_{kind}"] + losses[f"threshold_{kind}"])
        for kind, weight in weights.items()
    ).backward()
    start, end, span = (leaf.grad for leaf in leaves)
    expected = torch.stack([start[..., 0].sum(), end[..., 0].sum(), span[..., 0, 0].sum()]) / 0.07
    model.zero_grad()
    model(ids, labels=labels, word_mask=word_mask, word_end_mask=word_end_mask).loss.backward()
    torch.testing.assert_close(model.heads.threshold.grad, expected, rtol=1e-4, atol=1e-6)
    assert model.heads.threshold.grad.abs().min() > 0


def test_a_model_with_a_global_threshold_is_saved_with_it(
    tiny_encoder: Path, character_tok: PreTrainedTokenizerFast, tmp_path: Path
) -> None:
    model = new(tiny_encoder, threshold="global", width_embedding_size=5)
    nn.init.constant_(model.heads.threshold, 0.25)
    text = "张三昨天去了北京大学。"
    found = model.pipeline(character_tok)(text)
    assert found
    model.save_pretrained(tmp_path / "whole")
    model.export_frozen(tmp_path / "frozen")
    for name in ("whole", "frozen"):
        loaded = BinderModel.from_pretrained(tmp_path / name)
        assert loaded.config.threshold == "global"
        assert loaded.pipeline(character_tok)(text) == found


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"threshold": "cls"}, "threshold is 'cls': expected one of 'token', 'global'"),
        ({"initial_temperature": 0}, "initial_temperature is 0: expected a positive number"),
        ({"width_embedding_size": -1}, "width_embedding_size is -1: expected an integer"),
    ],
)
def test_invalid_fields_are_refused(tiny_encoder: Path, fields: dict, message: str) -> None:
    with pytest.raises(InputError, match=message):
        new(tiny_encoder, **fields)


@pytest.mark.parametrize(
    ("keys", "message"),
    [
        ({"threshold": "x"}, "threshold is 'x': expected one of token, global"),
        ({"threshold_weight": 1.5}, r"threshold_weight is 1.5: expected a number in \[0, 1\]"),
        ({"span_weight": -1.0}, "span_weight is -1.0: expected a number in"),
        ({"start_weight": math.nan}, "start_weight is nan"),
        ({"initial_temperature": 0.0}, "initial_temperature is 0.0"),
        ({"width_embedding_size": -2}, "width_embedding_size is -2: expected at least 0"),
        (
            {"start_weight": 0.0, "end_weight": 0.0, "span_weight": 0.0},
            "start_weight, end_weight and span_weight are 0",
        ),
    ],
)
def test_invalid_keys_are_refused(keys: dict, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        RunConfig(**keys)


def test_a_run_passes_the_keys_on(files: Path, tiny_encoder: Path, tmp_path: Path) -> None:
    types = tmp_path / "types.yaml"
    types.write_text("types:\n  PER: 人的名字。\n  ORG: 公司的名字。\n", "utf-8")
    fields = {
        "start_weight": 0.1,
        "end_weight": 0.3,
        "span_weight": 0.7,
        "threshold_weight": 0.4,
        "initial_temperature": 0.1,
        "width_embedding_size": 6,
        "threshold": "global",
    }
    config = RunConfig(
        method="binder",
        encoder=str(tiny_encoder),
        output_dir=str(tmp_path / "run"),
        train_file=str(files / "train.jsonl"),
        dev_file=str(files / "dev.jsonl"),
        types_file=str(types),
        projection_size=SIZE,
        **fields,
    )
    trainer = binder_trainer(prepare_task(config, load_data(config))[0], tmp_path)
    assert {name: getattr(trainer.model.config, name) for name in fields} == fields
    assert trainer.documents is trainer.compute_metrics
    threshold = trainer.model.heads.threshold
    assert any(threshold is own for g in trainer.optimizer.param_groups for own in g["params"])
    trainer.model.save_pretrained(tmp_path / "model")
    same = replace(config, init_model=str(tmp_path / "model"))
    check_start(same)
    for name, value in (("threshold", "token"), ("width_embedding_size", 0)):
        with pytest.raises(ConfigError, match=f"{name} is .*: that of init_model is .*; set it"):
            check_start(replace(same, **{name: value}))
    with pytest.raises(ConfigError, match="a type encoder of its own, which would be lost"):
        check_start(replace(same, type_encoder="tied"))


@pytest.mark.slow
def test_an_exported_model_has_the_global_threshold(
    tiny_encoder: Path, character_tok: PreTrainedTokenizerFast, tmp_path: Path
) -> None:
    from contrastive_ner.serving.export import export
    from contrastive_ner.serving.runtime_onnx import OnnxPipeline

    model = new(tiny_encoder, threshold="global")
    nn.init.constant_(model.heads.threshold, 0.25)
    model.save_pretrained(tmp_path / "model")
    character_tok.save_pretrained(tmp_path / "model")
    export(tmp_path / "model", tmp_path / "onnx")
    text = "张三昨天去了北京大学。"
    found = OnnxPipeline(tmp_path / "onnx")(text)
    expected = model.pipeline(character_tok)(text)
    assert [m["word"] for m in found] == [m["word"] for m in expected] != []
    assert [m["score"] for m in found] == pytest.approx([m["score"] for m in expected], abs=1e-4)
