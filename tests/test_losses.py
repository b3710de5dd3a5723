"""Contrastive losses against a double loop, released code and pytorch-metric-learning."""

import doctest
import json
import math
from pathlib import Path

import pytest
import torch
from pytorch_metric_learning.losses import NTXentLoss, SupConLoss
from torch import Tensor
from torch.nn import functional as F

from contrastive_ner.training import losses
from contrastive_ner.training.losses import (
    pairwise_contrastive_loss,
    semantic_classes,
    supervised_contrastive_loss,
)

RELEASED = json.loads((Path(__file__).parent / "fixtures" / "nerco_loss.json").read_text())["cases"]
LOSSES = [pairwise_contrastive_loss, supervised_contrastive_loss]


def random_tokens(
    seed: int, tokens: int = 30, types: int = 3, width: int = 8
) -> tuple[Tensor, Tensor]:
    """Embeddings (N, D) and classes (N,) in 0..types; every class occurs at least twice."""
    generator = torch.Generator().manual_seed(seed)
    every_class_twice = torch.arange(types + 1).repeat(2)
    rest = torch.randint(0, types + 1, (tokens - len(every_class_twice),), generator=generator)
    classes = torch.cat([every_class_twice, rest])[torch.randperm(tokens, generator=generator)]
    return torch.randn(tokens, width, generator=generator), classes


def double_loop(
    embeddings: Tensor, classes: Tensor, temperature: float, with_o: bool, reduction: str
) -> float:
    """The definition, pair by pair, in double precision."""
    z = F.normalize(embeddings.double(), dim=-1)
    s = (z @ z.T / temperature).tolist()
    y = classes.tolist()
    per_class = []
    for c in sorted({c for c in y if c > 0 or (with_o and c == 0)}):
        members = [i for i, other in enumerate(y) if other == c]
        others = [k for k, other in enumerate(y) if other >= 0 and other != c]
        if len(members) < 2 or not others:
            continue
        terms = []
        for i in members:
            negatives = sum(math.exp(s[i][k]) for k in others)
            terms += [
                -math.log(math.exp(s[i][j]) / (math.exp(s[i][j]) + negatives))
                for j in members
                if j != i
            ]
        per_class.append(sum(terms) / len(terms))
    total = sum(per_class)
    return total / max(len(per_class), 1) if reduction == "mean" else total


# --------------------------------------------------------------------------------------- definition
@pytest.mark.parametrize("reduction", ["sum", "mean"])
@pytest.mark.parametrize("with_o", [False, True])
@pytest.mark.parametrize("temperature", [0.07, 1.0])
@pytest.mark.parametrize("seed", range(5))
def test_pairwise_loss_equals_double_loop(
    seed: int, temperature: float, with_o: bool, reduction: str
) -> None:
    embeddings, _ = random_tokens(seed)
    generator = torch.Generator().manual_seed(seed)
    classes = torch.randint(-1, 5, (30,), generator=generator)  # with ignored tokens
    loss = pairwise_contrastive_loss(
        embeddings, classes, temperature=temperature, with_o=with_o, reduction=reduction
    )
    assert loss.item() == pytest.approx(
        double_loop(embeddings, classes, temperature, with_o, reduction), rel=1e-5
    )


@pytest.mark.parametrize("seed", range(3))
def test_a_class_of_two_weighs_as_much_as_a_large_one(seed: int) -> None:
    embeddings, _ = random_tokens(seed, tokens=13)
    classes = torch.tensor([0] + [1] * 2 + [2] * 10)
    alone = [
        pairwise_contrastive_loss(
            embeddings, classes.where((classes == c) | (classes == 0), 0), temperature=0.1
        )
        for c in (1, 2)
    ]
    both = pairwise_contrastive_loss(embeddings, classes, temperature=0.1)
    torch.testing.assert_close(both, sum(alone))


@pytest.mark.parametrize("with_o", [False, True], ids=["entities", "with_o"])
@pytest.mark.parametrize("case", RELEASED, ids=[case["name"] for case in RELEASED])
def test_pairwise_loss_equals_released_code(case: dict, with_o: bool) -> None:
    ids: dict[str, int] = {}
    classes = [
        [
            -1 if tag is None else 0 if tag == "O" else ids.setdefault(tag[2:], len(ids) + 1)
            for tag in row
        ]
        for row in case["tags"]
    ]
    embeddings = torch.tensor(case["embeddings"], requires_grad=True)
    loss = pairwise_contrastive_loss(
        embeddings, torch.tensor(classes), temperature=case["temperature"], with_o=with_o
    )
    loss.backward()
    expected, gradient = ("loss_with_o", "grad_with_o") if with_o else ("loss", "grad")
    torch.testing.assert_close(loss.detach(), torch.tensor(case[expected]), rtol=2e-6, atol=1e-7)
    torch.testing.assert_close(embeddings.grad, torch.tensor(case[gradient]), rtol=1e-4, atol=1e-5)


# ------------------------------------------------------------------------------ independent library
@pytest.mark.parametrize("with_o", [False, True])
@pytest.mark.parametrize("seed", range(4))
def test_pairwise_loss_equals_ntxent_of_metric_learning(seed: int, with_o: bool) -> None:
    """NTXentLoss averages over its pairs: pass the pairs of one class at a time and sum."""
    embeddings, classes = random_tokens(seed, tokens=40)
    library = NTXentLoss(temperature=0.2)
    total = torch.zeros((), dtype=torch.float64)
    for c in range(0 if with_o else 1, 4):
        same = (classes[:, None] == c) & (classes[None, :] == c)
        same.fill_diagonal_(False)
        other = (classes[:, None] == c) & (classes[None, :] != c)
        pairs = (*same.nonzero(as_tuple=True), *other.nonzero(as_tuple=True))
        total += library(embeddings.double(), classes, indices_tuple=pairs)
    loss = pairwise_contrastive_loss(embeddings, classes, temperature=0.2, with_o=with_o)
    torch.testing.assert_close(loss.double(), total, rtol=1e-5, atol=0)


def test_pairwise_loss_of_equal_class_sizes_equals_ntxent_as_shipped() -> None:
    embeddings, _ = random_tokens(0, tokens=24)
    classes = torch.arange(4).repeat(6)
    loss = pairwise_contrastive_loss(
        embeddings, classes, temperature=0.2, with_o=True, reduction="mean"
    )
    torch.testing.assert_close(
        loss, NTXentLoss(temperature=0.2)(embeddings, classes), rtol=1e-5, atol=0
    )


@pytest.mark.parametrize("temperature", [0.1, 0.5])
@pytest.mark.parametrize("seed", range(4))
def test_supervised_loss_equals_supcon_of_metric_learning(seed: int, temperature: float) -> None:
    embeddings, classes = random_tokens(seed)
    loss = supervised_contrastive_loss(embeddings, classes, temperature=temperature, with_o=True)
    expected = SupConLoss(temperature=temperature)(embeddings.double(), classes)
    torch.testing.assert_close(loss.double(), expected, rtol=1e-5, atol=0)


def test_supervised_loss_without_o_has_no_outside_anchor() -> None:
    embeddings, classes = random_tokens(0)
    z = F.normalize(embeddings, dim=-1)
    scores = (z @ z.T / 0.1).fill_diagonal_(-torch.inf)
    log_prob = scores.log_softmax(1)
    anchors = [i for i, c in enumerate(classes.tolist()) if c > 0]
    expected = [
        -log_prob[i][(classes == classes[i]) & (torch.arange(len(classes)) != i)].mean()
        for i in anchors
    ]
    loss = supervised_contrastive_loss(embeddings, classes, temperature=0.1)
    torch.testing.assert_close(loss, torch.stack(expected).mean())


# --------------------------------------------------------------------------------------- properties
@pytest.mark.parametrize("loss_function", LOSSES)
@pytest.mark.parametrize("seed", range(3))
def test_order_of_tokens_and_leading_shape_do_not_matter(loss_function, seed: int) -> None:
    embeddings, classes = random_tokens(seed)
    order = torch.randperm(30, generator=torch.Generator().manual_seed(seed + 1))
    loss = loss_function(embeddings, classes, temperature=0.1)
    torch.testing.assert_close(
        loss_function(embeddings[order], classes[order], temperature=0.1), loss
    )
    batched = loss_function(embeddings.view(5, 6, -1), classes.view(5, 6), temperature=0.1)
    torch.testing.assert_close(batched, loss)


@pytest.mark.parametrize("loss_function", LOSSES)
@pytest.mark.parametrize("padding", [0.0, 1.0, -1e6, torch.nan], ids=str)
def test_ignored_tokens_change_nothing(loss_function, padding: float) -> None:
    embeddings, classes = random_tokens(0)
    padded = torch.cat(
        [torch.full((4, 8), padding), embeddings, torch.full((3, 8), padding)]
    ).requires_grad_()
    marked = torch.cat([torch.full((4,), -1), classes, torch.full((3,), -100)])
    loss = loss_function(padded, marked, temperature=0.1)
    loss.backward()
    torch.testing.assert_close(loss.detach(), loss_function(embeddings, classes, temperature=0.1))
    assert padded.grad[marked < 0].eq(0).all()
    assert padded.grad[marked >= 0].ne(0).any(1).all()


@pytest.mark.parametrize("loss_function", LOSSES)
def test_loss_reads_directions_not_lengths(loss_function) -> None:
    embeddings, classes = random_tokens(0)
    lengths = torch.linspace(0.1, 50, 30)[:, None]
    torch.testing.assert_close(
        loss_function(embeddings * lengths, classes, temperature=0.1),
        loss_function(embeddings, classes, temperature=0.1),
    )


@pytest.mark.parametrize("loss_function", LOSSES)
def test_bf16_embeddings_give_a_float32_loss(loss_function) -> None:
    embeddings, classes = random_tokens(0)
    half = embeddings.bfloat16().requires_grad_()
    loss = loss_function(half, classes, temperature=0.1)
    loss.backward()
    assert loss.dtype == torch.float32
    assert half.grad.dtype == torch.bfloat16
    # The same rounded embeddings in float32: only the input is rounded, not the computation.
    torch.testing.assert_close(
        loss,
        loss_function(embeddings.bfloat16().float(), classes, temperature=0.1),
        rtol=1e-6,
        atol=0,
    )
    torch.testing.assert_close(
        loss, loss_function(embeddings, classes, temperature=0.1), rtol=2e-2, atol=0
    )


@pytest.mark.parametrize("loss_function", LOSSES)
def test_autocast_does_not_lower_the_precision_of_the_loss(loss_function) -> None:
    embeddings, classes = random_tokens(0)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        loss = loss_function(embeddings, classes, temperature=0.07)
    assert loss.dtype == torch.float32
    torch.testing.assert_close(
        loss, loss_function(embeddings, classes, temperature=0.07), rtol=1e-6, atol=0
    )


def test_a_tiny_temperature_stays_finite() -> None:
    embeddings, classes = random_tokens(0)
    embeddings.requires_grad_()
    loss = pairwise_contrastive_loss(embeddings, classes, temperature=1e-3)
    loss.backward()
    assert loss.isfinite()
    assert embeddings.grad.isfinite().all()


# -------------------------------------------------------------------------------------- empty cases
EMPTY = {
    "all O": [0, 0, 0, 0],
    "singletons": [0, 1, 2, 3],
    "one token": [1],
    "all ignored": [-1, -100, -1],
    "no token": [],
}


@pytest.mark.parametrize("loss_function", LOSSES)
@pytest.mark.parametrize("classes", EMPTY.values(), ids=EMPTY.keys())
def test_nothing_to_contrast_gives_zero_loss_and_gradient(
    loss_function, classes: list[int]
) -> None:
    embeddings = torch.randn(len(classes), 8, requires_grad=True)
    loss = loss_function(embeddings, torch.tensor(classes, dtype=torch.long), temperature=0.1)
    loss.backward()
    assert loss.item() == 0
    assert loss.dtype == torch.float32
    assert embeddings.grad.eq(0).all()


@pytest.mark.parametrize("reduction", ["sum", "mean"])
@pytest.mark.parametrize("classes", [[1, 1, 1], [0, 0, 0], [0, 0, -1], [2, 2, -1]], ids=str)
def test_pairs_without_a_negative_add_nothing(classes: list[int], reduction: str) -> None:
    embeddings = torch.randn(3, 8, requires_grad=True)
    loss = pairwise_contrastive_loss(
        embeddings, torch.tensor(classes), temperature=0.1, with_o=True, reduction=reduction
    )
    loss.backward()
    assert loss.item() == 0
    assert embeddings.grad.eq(0).all()


@pytest.mark.parametrize("loss_function", LOSSES)
def test_ignored_tokens_are_not_read_when_nothing_is_left(loss_function) -> None:
    embeddings = torch.full((3, 8), torch.nan, requires_grad=True)
    loss = loss_function(embeddings, torch.full((3,), -1), temperature=0.1)
    loss.backward()
    assert loss.item() == 0
    assert embeddings.grad.eq(0).all()


# ------------------------------------------------------------------------------------------- errors
@pytest.mark.parametrize("loss_function", LOSSES)
@pytest.mark.parametrize("shape", [(29,), (31,), (30, 1), (5, 6)], ids=str)
def test_shapes_that_do_not_match_raise(loss_function, shape: tuple[int, ...]) -> None:
    with pytest.raises(ValueError, match="do not match"):
        loss_function(torch.randn(30, 8), torch.zeros(shape, dtype=torch.long), temperature=0.1)


@pytest.mark.parametrize("loss_function", LOSSES)
@pytest.mark.parametrize("temperature", [0.0, -0.1, math.nan])
def test_a_temperature_that_is_not_positive_raises(loss_function, temperature: float) -> None:
    with pytest.raises(ValueError, match="temperature is"):
        loss_function(*random_tokens(0), temperature=temperature)


@pytest.mark.parametrize("reduction", ["none", "", "SUM"])
def test_an_unknown_reduction_raises(reduction: str) -> None:
    with pytest.raises(ValueError, match="expected 'sum' or 'mean'"):
        pairwise_contrastive_loss(*random_tokens(0), temperature=0.1, reduction=reduction)


# ------------------------------------------------------------------------------------------ classes
def test_docstring_examples_hold() -> None:
    result = doctest.testmod(losses)
    assert result.attempted >= 1
    assert result.failed == 0


def test_semantic_classes_join_b_and_i_wherever_they_stand() -> None:
    assert semantic_classes(["O", "I-LOC", "B-PER.NAM", "B-LOC", "I-PER.NAM", "B-PER.NOM"]) == [
        0,
        1,
        2,
        1,
        2,
        3,
    ]
    assert semantic_classes([]) == []
