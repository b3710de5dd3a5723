"""Contrastive losses over labelled tokens, as pure functions (embeddings, classes) -> loss.

Contents: the mapping from BIO labels to classes, the pairwise loss of NerCo (Zhang et al., IJCAI
2023, section 3.2 and released code) and, for comparison, the supervised contrastive loss (Khosla et
al., NeurIPS 2020, Eq. 2).

Notation: N tokens, A anchors, C classes, D width. Class 0 is O ("outside"); a negative class marks
a token to ignore (padding).
"""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

OUTSIDE = 0
# Similarities held at once, about 16 MB: memory does not grow with the square of the batch.
BLOCK_ENTRIES = 2**22


def semantic_classes(labels: Sequence[str]) -> list[int]:
    """Class of each BIO label: 0 for O, and one class per entity type, shared by B-X and I-X.

    Entity types are numbered from 1 in order of appearance.

    >>> semantic_classes(["O", "B-PER", "I-PER", "B-ORG", "I-ORG"])
    [0, 1, 1, 2, 2]
    """
    types: dict[str, int] = {}
    return [
        OUTSIDE if label == "O" else types.setdefault(label[2:], len(types) + 1) for label in labels
    ]


def pairwise_contrastive_loss(
    embeddings: Tensor,
    classes: Tensor,
    *,
    temperature: float,
    with_o: bool = False,
    reduction: str = "sum",
) -> Tensor:
    """Stage-one loss of NerCo: contrasts each pair of tokens of a class with all other classes.

    For an anchor i and a positive j of its class, -log(exp(s_ij) / (exp(s_ij) + sum_k exp(s_ik))),
    where k runs over the tokens of all other classes, including O, and s_ij = cos(z_i, z_j) /
    temperature. Mean over the ordered pairs of a class, then the sum (paper) or mean over classes.
    The denominator contains no other positives, so this is not Khosla's loss.

    Args:
        embeddings: (..., D), any floating dtype; L2-normalised here, in float32.
        classes: (...), integers: 0 = O, 1.. = entity types, negative = ignore.
        temperature: positive.
        with_o: also treat O as a class with anchors and positives.
        reduction: "sum" or "mean" over the classes that have a pair and a negative.

    Returns:
        A float32 scalar. Classes with fewer than two tokens or without a negative contribute
        nothing; if no class is left, the loss is 0 with a zero gradient.

    Raises:
        ValueError: shapes do not match, the temperature is not positive, or the reduction is
            unknown.
    """
    _validate(embeddings, classes, temperature)
    if reduction not in ("sum", "mean"):
        raise ValueError(f"reduction is {reduction!r}: expected 'sum' or 'mean'")
    kept = (classes >= 0).flatten().nonzero().squeeze(1)  # (N,)
    y = classes.flatten()[kept].long()  # (N,)
    counts = torch.bincount(y, minlength=1)  # (C,)
    eligible = (counts >= 2) & (counts < y.numel())  # (C,) a pair and a negative
    if not with_o:
        eligible[OUTSIDE] = False
    # Anchors first, class by class: the positives of a class are then one diagonal block of the
    # similarity matrix.
    order = torch.where(eligible[y], y, len(counts)).argsort(stable=True)
    sizes = counts[eligible].tolist()
    total = _PairwiseContrast.apply(embeddings.flatten(0, -2), kept[order], sizes, temperature)
    return total if reduction == "sum" else total / max(len(sizes), 1)


class _PairwiseContrast(torch.autograd.Function):
    """The loss and its gradient in closed form, computed for blocks of anchors.

    With N_i the logsumexp of the negatives of anchor i, a pair costs exactly -log(e^s_ij / (e^s_ij
    + e^N_i)) = softplus(N_i - s_ij). With p = sigmoid(N_i - s_ij), its derivative with respect to
    s_ij is -p, and with respect to the negatives p * softmax_k(s_ik). This takes one exponential
    per entry, and no (A, N) matrix outlives its block.
    """

    @staticmethod
    def forward(
        ctx: Any, embeddings: Tensor, index: Tensor, sizes: list[int], temperature: float
    ) -> Tensor:
        """Sum over classes of the mean over pairs.

        embeddings (M, D). index (N,): rows to read, first those of the classes counted in `sizes`,
        class by class, then all others.
        """
        with torch.autocast(embeddings.device.type, enabled=False):
            z = embeddings.index_select(0, index).float()  # (N, D)
            norms = z.norm(dim=-1, keepdim=True).clamp_min_(1e-12)  # (N, 1)
            z = z.div_(norms) if z.dtype != embeddings.dtype else z / norms
            gradient = torch.zeros_like(z) if ctx.needs_input_grad[0] else None
            loss = z.new_zeros(())
            rows = max(1, BLOCK_ENTRIES // max(len(z), 1))
            for start in range(0, sum(sizes), rows):
                anchors = slice(start, min(start + rows, sum(sizes)))
                scores = (z[anchors] / temperature) @ z.T  # (a, N)
                loss += _contrast_rows(scores, anchors.start, sizes, temperature)
                if gradient is not None:  # `scores` now holds d loss / d cosine
                    gradient.addmm_(scores.T, z[anchors])
                    gradient[anchors].addmm_(scores, z)
        # Backward through the normalisation: project out what changes only the length.
        if gradient is not None:
            gradient.addcmul_(z, torch.linalg.vecdot(z, gradient)[:, None], value=-1).div_(norms)
            ctx.save_for_backward(index, gradient)
            ctx.shape, ctx.dtype = embeddings.shape, embeddings.dtype
        return loss

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, upstream: Tensor) -> tuple[Tensor, None, None, None]:
        """Gradient (M, D) of the embeddings, zero in the rows that were not read."""
        index, gradient = ctx.saved_tensors
        make = torch.empty if len(index) == ctx.shape[0] else torch.zeros
        whole = make(ctx.shape, dtype=ctx.dtype, device=gradient.device)  # (M, D)
        whole.index_copy_(0, index, (gradient * upstream).to(ctx.dtype))
        return whole, None, None, None


def _contrast_rows(scores: Tensor, first: int, sizes: list[int], temperature: float) -> Tensor:
    """Part of the loss that a block of anchors contributes.

    Replaces `scores` (a, N) by the derivative of the loss with respect to the cosines. Rows are the
    tokens from `first` on. Columns are all tokens: those of the classes counted in `sizes`, class
    by class, then all others.
    """
    loss = scores.new_zeros(())
    start = 0
    for size in sizes:  # a loop over classes, never over tokens
        members = slice(start, start + size)
        start += size
        rows = slice(max(members.start - first, 0), max(min(members.stop - first, len(scores)), 0))
        if rows.start >= rows.stop:
            continue
        own = torch.arange(rows.start, rows.stop, device=scores.device)[:, None] + (
            first - members.start
        )
        weight = 1.0 / (size * (size - 1))
        part = scores[rows]  # (a_c, N)
        positives = part[:, members].clone()  # (a_c, n_c)
        part[:, members] = torch.finfo(scores.dtype).min  # only negatives remain
        highest = part.amax(1, keepdim=True)  # (a_c, 1)
        total = part.sub_(highest).exp_().sum(1, keepdim=True)  # (a_c, 1)
        margin = (highest + total.log()) - positives  # (a_c, n_c) N_i - s_ij
        # A token is not paired with itself.
        loss += weight * F.softplus(margin).scatter_(1, own, 0.0).sum()
        slope = margin.sigmoid_().scatter_(1, own, 0.0).mul_(weight / temperature)  # (a_c, n_c)
        part.mul_(slope.sum(1, keepdim=True) / total)
        part[:, members] = -slope
    return loss


def supervised_contrastive_loss(
    embeddings: Tensor, classes: Tensor, *, temperature: float, with_o: bool = False
) -> Tensor:
    """Supervised contrastive loss of Khosla et al. (NeurIPS 2020), Eq. 2, the "out" form.

    The denominator contains all tokens except the anchor, including positives. Mean over the
    anchors that have a positive. Arguments, empty cases and errors as in
    `pairwise_contrastive_loss`.
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
    """(A, D), (N, D) -> (A, N) in float32, even under autocast."""
    with torch.autocast(anchors.device.type, enabled=False):
        return anchors @ tokens.T


def _prepare(embeddings: Tensor, classes: Tensor, temperature: float) -> tuple[Tensor, Tensor]:
    """Validate, drop ignored tokens and normalise in float32: (..., D), (...) -> (N, D), (N,)."""
    _validate(embeddings, classes, temperature)
    keep = classes >= 0
    return F.normalize(embeddings[keep].float(), dim=-1), classes[keep].long()


def _validate(embeddings: Tensor, classes: Tensor, temperature: float) -> None:
    if embeddings.shape[:-1] != classes.shape:
        raise ValueError(
            f"embeddings {tuple(embeddings.shape)} and classes {tuple(classes.shape)} do not match"
        )
    if not temperature > 0:
        raise ValueError(f"temperature is {temperature}: expected a positive number")
