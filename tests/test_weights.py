"""Weights of rare types, against values computed by hand."""

import json

import pytest
import torch
from conftest import LABELS, arguments
from test_trainer import SentenceTrainer, features, stage_two
from torch.nn import functional as F

from contrastive_ner.cli import main
from contrastive_ner.data.records import Mention, Record
from contrastive_ner.models.modeling_binder import BinderModel, BinderScores, binder_losses
from contrastive_ner.models.modeling_nerco import NercoForTokenClassification
from contrastive_ner.training.weights import (
    sentence_weights,
    tag_weights,
    type_weights,
    weighted_loss,
)


@pytest.mark.parametrize(
    ("power", "expected"),
    [
        (0.0, [1.0, 1.0, 1.0]),
        (1.0, [10 / 16, 10 / 4, 1.0]),  # N = 10, T = 2, n = 8 and 2
        # (10 / 16) ** 0.5 and (10 / 4) ** 0.5, over their mean over the mentions
        (0.5, [0.7906 / 0.9487, 1.5811 / 0.9487, 1.0]),
    ],
)
def test_weights_of_types(power, expected):
    records = [
        Record("1", "abcdefgh", [Mention(i, i + 1, "PER") for i in range(8)]),
        Record("2", "ab", [Mention(i, i + 1, "ORG") for i in range(2)]),
    ]
    weights = type_weights(records, ["PER", "ORG", "GPE"], power)
    assert list(weights.values()) == pytest.approx(expected, abs=1e-3)
    assert (8 * weights["PER"] + 2 * weights["ORG"]) / 10 == pytest.approx(1)


def test_a_sentence_weighs_as_much_as_its_rarest_mention():
    weights = tag_weights(LABELS, {"PER": 0.5, "ORG": 3.0})
    assert weights.tolist() == [0.0, 0.5, 0.5, 3.0, 3.0]
    labels = torch.tensor([[0, 1, 2, 0], [1, 0, 3, 4], [0, 0, -100, -100], [-100] * 4])
    assert sentence_weights(labels, weights).tolist() == [0.5, 3.0, 1.0, 1.0]


@pytest.mark.parametrize("use_crf", [True, False])
def test_weighted_loss_of_a_tagger(tiny_encoder, use_crf):
    torch.manual_seed(0)
    model = NercoForTokenClassification.from_encoder(str(tiny_encoder), LABELS, use_crf=use_crf)
    if use_crf:
        torch.nn.init.normal_(model.crf.transitions)
    labels = torch.tensor([[0, 1, 2, 0], [1, 0, 3, 4], [0, 0, -100, -100], [-100] * 4])
    logits = torch.randn(4, 4, 5, requires_grad=True)
    own = [
        model.loss(logits[i : i + 1], labels[i : i + 1], labels[i : i + 1] >= 0) for i in range(3)
    ]
    expected = (0.5 * own[0] + 3.0 * own[1] + 1.0 * own[2]) / 3
    weights = tag_weights(LABELS, {"PER": 0.5, "ORG": 3.0})
    found = weighted_loss(model, logits, {"labels": labels}, weights)
    assert found.item() == pytest.approx(expected.item(), rel=1e-6)
    gradients = [torch.autograd.grad(loss, logits)[0] for loss in (found, expected)]
    torch.testing.assert_close(*gradients)
    alike = weighted_loss(model, logits, {"labels": labels}, torch.tensor([0.0, 1, 1, 1, 1]))
    assert alike.item() == pytest.approx(model.loss(logits, labels, labels >= 0).item(), rel=1e-6)


def test_weighted_mention_losses_of_binder():
    """One window of two tokens, two types, one mention of each: the losses written out."""
    torch.manual_seed(0)
    scores = BinderScores(torch.randn(1, 2, 3), torch.randn(1, 2, 3), torch.randn(1, 2, 3, 1))
    mask = torch.tensor([[False, True, True]])
    labels, weights = torch.tensor([[[0, 1, 1], [1, 2, 2]]]), torch.tensor([[0.5, 3.0]])
    plain = binder_losses(scores, labels, mask, mask)
    found = binder_losses(scores, labels, mask, mask, weights)
    for kind in ("start", "end", "span"):
        own = getattr(scores, kind).view(2, 3)
        expected = 0.0
        for number, (at, weight) in enumerate(((1, 0.5), (2, 3.0))):
            negatives = torch.stack([own[number, 0], own[number, 3 - at]])  # threshold and other
            expected += weight * F.softplus(negatives.logsumexp(0) - own[number, at]).item() / 2
        assert found[f"mention_{kind}"].item() == pytest.approx(expected, rel=1e-5)
        assert found[f"threshold_{kind}"] == plain[f"threshold_{kind}"]


def test_binder_weights_count_in_training_only(tiny_encoder, character_tok, tmp_path):
    trainer = stage_two(SentenceTrainer, "binder", tiny_encoder, character_tok, tmp_path)()
    model: BinderModel = trainer.model
    batch = next(iter(trainer.get_eval_dataloader()))

    def loss() -> float:
        torch.manual_seed(0)
        return model(**batch).loss.item()

    model.train()
    before = loss()
    model.eval()
    rated = loss()
    model.mention_weights = torch.tensor([0.5, 3.0])
    assert loss() == rated
    model.train()
    assert loss() != before
    model.config.types_per_batch = 1
    assert loss() > 0
    assert "mention_weights" not in model.state_dict()


def test_trainer_weights_in_training_only(tiny_encoder, character_tok, tmp_path):
    trainer = stage_two(SentenceTrainer, "crf", tiny_encoder, character_tok, tmp_path)()
    trainer.model.nerco.dropout.p = 0.0
    batch = trainer.data_collator(features(character_tok, 4))
    model = trainer.model.eval()
    plain = trainer.compute_loss(model, dict(batch)).item()
    trainer.tag_weights = tag_weights(LABELS, {"PER": 2.0, "ORG": 1.0})
    assert trainer.compute_loss(model, dict(batch)).item() == plain
    model.train()
    for module in model.modules():
        module.eval() if isinstance(module, torch.nn.Dropout) else None
    assert trainer.compute_loss(model, dict(batch)).item() == pytest.approx(2 * plain, rel=1e-2)


def test_a_run_with_weights(files, tiny_encoder, tmp_path, capsys):
    changes = {"stage1_epochs": 0, "head_epochs": 1, "stage2_epochs": 1}
    command = arguments(files, tiny_encoder, tmp_path / "run", class_weight_power=0.5, **changes)
    assert main(command) == 0
    assert "weights: ORG 1.00, PER 1.00" in capsys.readouterr().err
    metrics = json.loads((tmp_path / "run" / "metrics.json").read_text("utf-8"))
    assert metrics["config"]["class_weight_power"] == 0.5
