"""Contrastive losses over labelled tokens, as pure functions (embeddings, classes) -> loss.

Sections: the pairwise loss of NerCo (Zhang et al., IJCAI 2023, section 3.2 and released code), supervised contrastive learning
(Khosla et al., NeurIPS 2020, Eq. 2) for comparison, the mapping from BIO labels to classes.

Notation: N tokens, A anchors, C classes, D width. Class 0 is O ("outside"); a negative class marks a token to ignore (padding).
"""

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn import functional as F

OUTSIDE = 0


def semantic_classes(labels: Sequence[str]) -> list[int]:
    """Class of each BIO label: 0 for O, one class per entity type (B-X and I-X share it), in order of appearance.

    >>> semantic_classes(["O", "B-PER", "I-PER", "B-ORG", "I-ORG"])
    [0, 1, 1, 2, 2]
    """
    types: dict[str, int] = {}
    return [OUTSIDE if label == "O" else types.setdefault(label[2:], len(types) + 1) for label in labels]


def pairwise_contrastive_loss(
    embeddings: Tensor,
    classes: Tensor,
    *,
    temperature: float,
    with_o: bool = False,
    reduction: str = "sum",
) -> Tensor:
    """Stage-one loss of NerCo: each pair of tokens of one class against the tokens of all other classes.

    For an anchor i and a positive j of its class, -log(exp(s_ij) / (exp(s_ij) + sum_k exp(s_ik))) where k runs over the tokens of
    every other class, O included, and s_ij = cos(z_i, z_j) / temperature. Mean over the ordered pairs of a class, then `sum` (the
    paper's) or `mean` over the classes. Other positives are absent from the denominator: this is not Khosla's loss.

    Args:
        embeddings: (N, D) or any leading shape, any floating dtype; they are L2-normalised here, in float32.
        classes: (N,) or the same leading shape, integers: 0 = O, 1.. = entity types, negative = ignore.
        temperature: positive.
        with_o: O tokens are anchors and positives of a class of their own, too.
        reduction: "sum" or "mean" over the classes that have a pair and a negative.

    Returns:
        A float32 scalar. Classes with fewer than two tokens, and all classes when there is no token of another class, add nothing;
        if nothing is left the loss is 0 with a zero gradient.

    Raises:
        ValueError: shapes do not match, the temperature is not positive, or the reduction is unknown.
    """
    z, y = _prepare(embeddings, classes, temperature)  # (N, D), (N,)
    if reduction not in ("sum", "mean"):
        raise ValueError(f"reduction is {reduction!r}: expected 'sum' or 'mean'")
    counts = torch.bincount(y, minlength=1)  # (C,)
    eligible = (counts >= 2) & (counts < y.numel())  # (C,) a pair and a negative
    if not with_o:
        eligible[OUTSIDE] = False
    anchors = eligible[y].nonzero().squeeze(1)  # (A,)
    if anchors.numel() == 0:
        return z.sum() * 0.0
    # Sorting the anchors by class makes the positives of each class one diagonal block of the similarity matrix.
    anchors = anchors[torch.argsort(y[anchors], stable=True)]
    anchor_class = y[anchors]  # (A,)
    scores = _similarity(z[anchors], z) / temperature  # (A, N)
    is_negative = anchor_class[:, None] != y[None, :]  # (A, N)
    lowest = torch.finfo(scores.dtype).min
    negatives = scores.masked_fill(~is_negative, lowest).logsumexp(dim=1)  # (A,) N_i
    class_ids = eligible.nonzero().squeeze(1)
    sizes = counts[class_ids].tolist()
    terms, first = [], 0
    for size in sizes:  # over classes, never over tokens
        block = slice(first, first + size)
        positives = scores[block].index_select(1, anchors[block])  # (n_c, n_c)
        # Exact: -log(e^s / (e^s + e^N)) = softplus(N - s). The diagonal (a token with itself) is no pair.
        pair = F.softplus(negatives[block, None] - positives)
        terms.append((pair.sum() - pair.diagonal().sum()) / (size * (size - 1)))
        first += size
    per_class = torch.stack(terms)
    return per_class.sum() if reduction == "sum" else per_class.mean()


def supervised_contrastive_loss(embeddings: Tensor, classes: Tensor, *, temperature: float, with_o: bool = False) -> Tensor:
    """Khosla et al. (NeurIPS 2020), Eq. 2, "out" form: every token but the anchor is in the denominator, positives included.

    Mean over the anchors that have a positive. Arguments, empty cases and errors as in `pairwise_contrastive_loss`.
    """
    z, y = _prepare(embeddings, classes, temperature)
    counts = torch.bincount(y, minlength=1)
    eligible = counts >= 2
    if not with_o:
        eligible[OUTSIDE] = False
    anchors = eligible[y].nonzero().squeeze(1)  # (A,)
    if anchors.numel() == 0:
        return z.sum() * 0.0
    scores = _similarity(z[anchors], z) / temperature  # (A, N)
    is_self = anchors[:, None] == torch.arange(y.numel(), device=y.device)[None, :]  # (A, N)
    scores = scores.masked_fill(is_self, torch.finfo(scores.dtype).min)
    log_prob = scores - scores.logsumexp(dim=1, keepdim=True)
    is_positive = (y[anchors][:, None] == y[None, :]) & ~is_self
    per_anchor = log_prob.masked_fill(~is_positive, 0.0).sum(1) / is_positive.sum(1)
    return -per_anchor.mean()


def _similarity(anchors: Tensor, tokens: Tensor) -> Tensor:
    """(A, D), (N, D) -> (A, N) in float32, also where the caller's autocast would lower the precision."""
    with torch.autocast(anchors.device.type, enabled=False):
        return anchors @ tokens.T


def _prepare(embeddings: Tensor, classes: Tensor, temperature: float) -> tuple[Tensor, Tensor]:
    """Validate, drop ignored tokens, normalise in float32: (N, D), (N,)."""
    if embeddings.shape[:-1] != classes.shape:
        raise ValueError(f"embeddings {tuple(embeddings.shape)} and classes {tuple(classes.shape)} do not match")
    if not temperature > 0:
        raise ValueError(f"temperature is {temperature}: expected a positive number")
    keep = classes >= 0
    z = F.normalize(embeddings[keep].float(), dim=-1)
    return z, classes[keep].long()
