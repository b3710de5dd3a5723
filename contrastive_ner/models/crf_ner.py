"""Inference in a linear-chain CRF over tags, in NumPy: best tags, posteriors, mentions.

Sections: forward-backward, Viterbi, mentions in tag sequences, posteriors of mentions, decoding.
The torch model and the torch-free runtime both decode with this file, so they find the same
mentions. It imports only NumPy and travels with the weights and with exported models. The loops
run over positions; each step is one small array operation, which is faster in NumPy than in torch
on any device.

Notation: B rows, L positions (packed left), C tags, S mentions. Internal arrays are time-first.
"""

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

Array = np.ndarray

IGNORED = -100
SMALLEST_POTENTIAL = 1e-220  # keeps every position reachable: exp(-506)


# --------------------------------------------------------------------------------- forward-backward
class ForwardBackward(NamedTuple):
    """Scaled forward-backward quantities (Rabiner 1989, section V.A), time-first, in float64.

    Shapes: log_z (B,); alpha, beta, potentials (L, B, C); scale (L, B); valid (L, B).
    `alpha[t]` is p(y_t | x_1..t), `alpha * beta` the token marginals, `potentials * beta / scale`
    the message from t to t - 1.
    """

    log_z: Array
    alpha: Array
    beta: Array
    potentials: Array
    scale: Array
    valid: Array


def forward_backward(
    emissions: Array, transitions: Array, start: Array, lengths: Array
) -> ForwardBackward:
    """Forward and backward pass over left-packed rows.

    Probabilities are normalised at every position, so float64 suffices as long as scores differ
    by less than about 500 nats.

    Args:
        emissions: (B, L, C).
        transitions: (C, C), from row to column.
        start: (C,) scores of the first tag.
        lengths: (B,) positions in use; a row of length 0 has log-partition 0.
    """
    scores = np.ascontiguousarray(emissions.astype(np.float64).transpose(1, 0, 2))  # (L, B, C)
    valid = np.arange(len(scores))[:, None] < lengths[None, :]  # (L, B)
    shift = scores.max(axis=-1)  # (L, B)
    scores -= shift[..., None]
    potentials = np.maximum(np.exp(scores, out=scores), SMALLEST_POTENTIAL)  # (L, B, C)
    weights = np.exp(transitions.astype(np.float64))  # (C, C)

    alpha, scale = np.empty_like(potentials), np.empty((*valid.shape, 1))
    # With a last column of ones, one product gives the next message and its normalising total.
    weights_and_total = np.pad(weights, ((0, 0), (0, 1)), constant_values=1.0)  # (C, C + 1)
    message = np.exp(start.astype(np.float64))[None, :]  # (1, C)
    for potential, joint, total in zip(potentials, alpha, scale, strict=True):
        joint[:] = message * potential  # (B, C)
        product = joint @ weights_and_total  # (B, C + 1)
        total[:] = product[:, -1:]  # (B, 1)
        message = product[:, :-1] / total
    alpha /= scale
    log_z = ((np.log(scale[..., 0]) + shift) * valid).sum(axis=0)  # (B,)

    beta = np.ones_like(potentials)
    # No message comes from beyond the end of a row; beta is 1 there.
    inward = np.where(valid[..., None], potentials / scale, 0.0)  # (L, B, C)
    beyond = (~valid)[..., None].astype(np.float64)  # (L, B, 1)
    backward = np.ascontiguousarray(weights.T)
    for t in range(len(scores) - 1, 0, -1):
        beta[t - 1] = (inward[t] * beta[t]) @ backward + beyond[t]  # (B, C)
    return ForwardBackward(log_z, alpha, beta, potentials, scale[..., 0], valid)


# ------------------------------------------------------------------------------------------ Viterbi
def viterbi(emissions: Array, transitions: Array, start: Array, lengths: Array) -> Array:
    """Best tag sequence of each row: (B, L) int64, `IGNORED` beyond the end of the row.

    Arguments as in `forward_backward`; computed in float32.
    """
    scores = np.ascontiguousarray(emissions.astype(np.float32).transpose(1, 2, 0))  # (L, C, B)
    pairs = transitions.astype(np.float32)  # (C from, C to)
    best = start.astype(np.float32)[:, None] + scores[0]  # (C, B)
    bests = [best]
    for step in scores[1:]:
        best = (best[:, None, :] + pairs[:, :, None]).max(axis=0) + step
        bests.append(best)
    ends = np.maximum(lengths, 1) - 1  # (B,)
    path = np.empty((len(ends), len(scores)), dtype=np.int64)  # (B, L)
    path[:, -1] = [bests[end][:, row].argmax() for row, end in enumerate(ends)]
    for t in range(len(scores) - 1, 0, -1):
        tag = path[:, t]  # (B,) of each row at t, or at its end if that comes first
        before = (bests[t - 1] + pairs[:, tag]).argmax(axis=0)  # (B,)
        path[:, t - 1] = np.where(t <= ends, before, tag)
    path[np.arange(path.shape[1])[None, :] >= lengths[:, None]] = IGNORED
    return path


# ------------------------------------------------------------------------ mentions in tag sequences
class TagTable(NamedTuple):
    """The meaning of tag ids.

    `types`: the entity types. `inside` (C,) bool: whether the tag is an I-X. `type_of` (C,): index
    of its entity type, -1 for O. `begin_of`, `inside_of` (types,): ids of B-X and I-X.
    """

    types: list[str]
    inside: Array
    type_of: Array
    begin_of: Array
    inside_of: Array


def tag_table(labels: Sequence[str]) -> TagTable:
    """The `TagTable` of BIO tags, "O" first."""
    types = list(dict.fromkeys(label[2:] for label in labels if label != "O"))
    ids = {label: number for number, label in enumerate(labels)}
    return TagTable(
        types=types,
        inside=np.array([label.startswith("I-") for label in labels]),
        type_of=np.array([-1 if label == "O" else types.index(label[2:]) for label in labels]),
        begin_of=np.array([ids["B-" + name] for name in types], dtype=np.int64),
        inside_of=np.array([ids["I-" + name] for name in types], dtype=np.int64),
    )


def spans_of_tags(path: Array, table: TagTable) -> tuple[Array, Array, Array, Array]:
    """Mentions in tag sequences (B, L): row, first, last (inclusive), type, each (S,), in order.

    An I-X that does not continue a mention of type X opens one.
    """
    known = np.maximum(path, 0)
    types = np.where(path >= 0, table.type_of[known], -1)  # (B, L)
    before = np.pad(types[:, :-1], ((0, 0), (1, 0)), constant_values=-1)
    continues = table.inside[known] & (types == before) & (types >= 0)
    following = np.pad(continues[:, 1:], ((0, 0), (0, 1)), constant_values=False)
    rows, first = np.nonzero((types >= 0) & ~continues)
    last = np.nonzero((types >= 0) & ~following)[1]
    return rows, first, last, types[rows, first]


# --------------------------------------------------------------------------- posteriors of mentions
def span_posterior(
    fb: ForwardBackward,
    transitions: Array,
    rows: Array,
    first: Array,
    last: Array,
    begin: Array,
    inside: Array,
    *,
    accept_orphans: bool = False,
) -> Array:
    """P(mention of X over first..last | x): the tags are B-X, I-X, ..., I-X and no I-X follows.

    The forward probability of B-X at the first position, times the I-X steps, times the sum over
    next tags y != I-X of transition times backward, divided by Z. A mention that ends its row has
    no next tag, so that sum is 1.

    Args:
        fb: of the batch.
        transitions: (C, C).
        rows, first, last: (S,) the mentions; `last` is inclusive.
        begin, inside: (S,) ids of each mention's B-X and I-X.
        accept_orphans: an I-X after neither B-X nor I-X also opens a mention; add its probability.

    Returns:
        (S,) probabilities.
    """
    weights = np.exp(transitions.astype(np.float64))  # (C, C)
    # An I-X step into position t contributes weight * potential / scale; in log space the product
    # over a mention is a difference of running sums.
    into = _safe_log(fb.potentials[:, rows, inside] / fb.scale[:, rows])  # (L, S)
    running = into.cumsum(axis=0)
    at = np.arange(len(rows))
    steps = running[last, at] - running[first, at]  # (S,)
    steps += np.maximum(last - first - 1, 0) * _safe_log(weights[inside, inside])
    # Closing: the messages from every tag except I-X at the next position.
    following = np.minimum(last + 1, len(fb.alpha) - 1)
    message = fb.potentials[following, rows] * fb.beta[following, rows]  # (S, C)
    message /= fb.scale[following, rows][:, None]
    message[at, inside] = 0.0
    is_end = last + 1 >= fb.valid.sum(axis=0)[rows]

    def posterior(opening: Array, tag: Array) -> Array:
        """(S,) of mentions whose first tag is `tag`, reached with probability `opening`."""
        final_tag = np.where(last > first, inside, tag)
        closing = np.where(is_end, 1.0, (weights[final_tag] * message).sum(axis=1))
        enter = np.where(last > first, _safe_log(weights[tag, inside]), 0.0)
        return np.exp(_safe_log(opening) + enter + steps + _safe_log(closing))

    total = posterior(fb.alpha[first, rows, begin], begin)
    if accept_orphans:
        before = fb.alpha[np.maximum(first - 1, 0), rows]  # (S, C)
        before[at, begin] = before[at, inside] = 0.0
        arriving = (before * weights[:, inside].T).sum(axis=1)
        arriving *= fb.potentials[first, rows, inside] / fb.scale[first, rows]
        total += posterior(np.where(first == 0, fb.alpha[first, rows, inside], arriving), inside)
    return total.clip(0.0, 1.0)


def _safe_log(x: Array) -> Array:
    """log, with 0 replaced by the smallest normal number."""
    return np.log(np.maximum(x, np.finfo(np.float64).tiny))


# ----------------------------------------------------------------------------------------- decoding
def pack_left(values: Array, keep: Array) -> tuple[Array, Array]:
    """Move kept positions to the left of each row: (B, T, C), (B, T) -> (B, L, C), lengths (B,)."""
    lengths = keep.sum(axis=1)
    order = np.argsort(~keep, axis=1, kind="stable")[:, : max(int(lengths.max(initial=0)), 1)]
    return np.take_along_axis(values, order[..., None], axis=1), lengths


def decode_tags(
    emissions: Array,
    lengths: Array,
    transitions: Array,
    start: Array,
    labels: Sequence[str],
    *,
    temperature: float = 1.0,
    accept_orphans: bool = False,
    least: Mapping[str, float] | None = None,
    top_k: int | None = None,
) -> list[list[tuple[Any, ...]]]:
    """Mentions on the best tag sequence of each row, in order, with their posteriors.

    Args:
        emissions, lengths, transitions, start: as in `forward_backward`.
        labels: BIO tags, "O" first.
        temperature: divides all scores that enter the posterior.
        accept_orphans: as in `span_posterior`.
        least: {type: score that a mention must exceed}.
        top_k: also return the posteriors of the K best types of each mention.

    Returns:
        Tuples (start, end, type, score, ((type, score), ...)) for each row, half-open.
    """
    table = tag_table(labels)
    path = viterbi(emissions, transitions, start, lengths)  # (B, L)
    rows, first, last, types = spans_of_tags(path, table)
    found: list[list[tuple[Any, ...]]] = [[] for _ in path]
    if not len(rows):
        return found
    # Run forward-backward only on rows with a mention: only they need posteriors.
    used, rows_of_used = np.unique(rows, return_inverse=True)
    pairs = transitions / temperature
    fb = forward_backward(emissions[used] / temperature, pairs, start / temperature, lengths[used])

    def posterior(at: tuple[Array, Array, Array], kinds: Array) -> Array:
        tags = table.begin_of[kinds], table.inside_of[kinds]
        return span_posterior(fb, pairs, *at, *tags, accept_orphans=accept_orphans)

    scores = posterior((rows_of_used, first, last), types)
    best: list[tuple[tuple[str, float], ...]] = [()] * len(rows)
    if top_k is not None:
        count = len(table.types)
        every = rows_of_used.repeat(count), first.repeat(count), last.repeat(count)
        grid = posterior(every, np.tile(np.arange(count), len(rows))).reshape(len(rows), count)
        order = np.argsort(-grid, axis=1, kind="stable")[:, :top_k]
        best = [
            tuple((table.types[n], float(own[n])) for n in numbers)
            for own, numbers in zip(grid, order, strict=True)
        ]
    columns = (rows.tolist(), first.tolist(), last.tolist(), types.tolist(), scores.tolist(), best)
    for row, i, j, number, score, own in zip(*columns, strict=True):
        label = table.types[number]
        # Without a limit, keep even a score that has underflowed to 0.
        if score > (least or {}).get(label, -1.0):
            found[row].append((i, j + 1, label, score, own))
    return found
