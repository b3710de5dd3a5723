"""The linear-chain CRF in torch: log-partition, marginals, Viterbi, parameters; BIO labels.

The inference itself is in `crf_ner.py`. This file travels with the weights.

Notation: B batch, L labelled positions (packed left), C tags.
"""

import warnings
from collections import Counter
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from transformers import initialization as init

from .crf_ner import IGNORED, ForwardBackward, forward_backward, viterbi
from .windows_ner import InputError

FORBIDDEN = -1e4  # score of a step that BIO does not allow: finite, but its exp() is exactly 0
BELOW_O = 10.0  # how much less likely than O a new tag is at first: by a factor of e^-10


def pack_left(values: Tensor, keep: Tensor) -> tuple[Tensor, Tensor]:
    """Move kept positions to the left: (B, T, ...), (B, T) -> (B, L, ...), lengths (B,)."""
    lengths = keep.sum(1)
    longest = max(int(lengths.max()), 1) if keep.numel() else 1
    order = (~keep).to(torch.uint8).argsort(dim=1, stable=True)[:, :longest]  # (B, L)
    index = order.reshape(*order.shape, *[1] * (values.dim() - 2)).expand(-1, -1, *values.shape[2:])
    return values.gather(1, index), lengths


def tagging_loss(
    crf: "LinearChainCRF", logits: Tensor, labels: Tensor, word_mask: Tensor, *, use_crf: bool
) -> Tensor:
    """See `NercoForTokenClassification.loss`."""
    emissions, lengths = pack_left(logits.float(), word_mask)  # (B, L, C), (B,)
    tags, _ = pack_left(labels, word_mask)  # (B, L)
    present = lengths > 0
    if use_crf:
        transitions, start = crf.scores()
        gold = crf_sequence_score(emissions, transitions, start, tags, lengths)
        warn_of_orphans(gold)
        per_sentence = crf_log_partition(emissions, transitions, start, lengths) - gold  # (B,)
    else:
        valid = torch.arange(tags.shape[1], device=tags.device)[None, :] < lengths[:, None]
        tags = tags.masked_fill(~valid, IGNORED)
        per_token = F.cross_entropy(
            emissions.transpose(1, 2), tags, reduction="none", ignore_index=IGNORED
        )  # (B, L)
        per_sentence = per_token.sum(1) / lengths.clamp_min(1)
    return (per_sentence * present).sum() / present.sum().clamp_min(1)


def warn_of_orphans(gold: Tensor) -> None:
    """Warn if a row of gold tags is not BIO, by its score (B,): it then has no probability."""
    if gold.numel() and float(gold.detach().min()) < FORBIDDEN / 2:
        warnings.warn(
            "labels have an I- tag that does not follow a tag of its type, which the CRF forbids: "
            "the loss says nothing; begin each mention with B- (with_bio_tags, tag_features), or "
            "set constrain_transitions=False",
            stacklevel=2,
        )


class _LogPartition(torch.autograd.Function):
    """log Z, with its closed-form gradient: token marginals and expected transition counts."""

    @staticmethod
    def forward(
        ctx: Any, emissions: Tensor, transitions: Tensor, start: Tensor, lengths: Tensor
    ) -> Tensor:
        """log Z of each row: (B,)."""
        fb = forward_backward(*arrays(emissions, transitions, start, lengths))
        ctx.save_for_backward(transitions)
        ctx.fb, ctx.emission_dtype = fb, emissions.dtype
        return torch.from_numpy(fb.log_z).to(transitions.device, transitions.dtype)

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, Tensor, None, None]:
        """Gradients of emissions (B, L, C) and transitions (C, C), from `grad` (B,)."""
        (transitions,) = ctx.saved_tensors
        fb: ForwardBackward = ctx.fb
        weight = (grad.cpu().double().numpy() * fb.valid)[..., None]  # (L, B, 1)
        d_emissions = fb.alpha * fb.beta * weight  # (L, B, C)
        inward = fb.potentials * fb.beta / fb.scale[..., None] * weight  # (L, B, C)
        size = inward.shape[-1]
        pairs = fb.alpha[:-1].reshape(-1, size).T @ inward[1:].reshape(-1, size)  # (C, C)
        d_transitions = torch.from_numpy(pairs) * transitions.cpu().double().exp()
        device = transitions.device
        by_row = torch.from_numpy(d_emissions).transpose(0, 1)  # (B, L, C)
        by_row = by_row.to(device, ctx.emission_dtype)
        return by_row, d_transitions.to(device, transitions.dtype), None, None


def arrays(*tensors: Tensor) -> list[np.ndarray]:
    """Detached tensors as NumPy arrays on the CPU; half precision becomes float32."""
    half = (torch.bfloat16, torch.float16)
    detached = (tensor.detach().cpu() for tensor in tensors)
    return [(t.float() if t.dtype in half else t).numpy() for t in detached]


def crf_log_partition(
    emissions: Tensor, transitions: Tensor, start: Tensor, lengths: Tensor
) -> Tensor:
    """log Z over all tag sequences: (B,), differentiable. Arguments as in `forward_backward`."""
    return _LogPartition.apply(emissions, transitions, start, lengths)


def crf_marginals(emissions: Tensor, transitions: Tensor, start: Tensor, lengths: Tensor) -> Tensor:
    """P(y_t = c | x): (B, L, C), zero at padding, without gradient."""
    fb = forward_backward(*arrays(emissions, transitions, start, lengths))
    marginals = torch.from_numpy(fb.alpha * fb.beta * fb.valid[..., None])  # (L, B, C)
    return marginals.transpose(0, 1).to(transitions)


def crf_sequence_score(
    emissions: Tensor, transitions: Tensor, start: Tensor, tags: Tensor, lengths: Tensor
) -> Tensor:
    """Scores of tag sequences (B, L), emissions + transitions + start: (B,), differentiable."""
    valid = torch.arange(tags.shape[1], device=tags.device)[None, :] < lengths[:, None]  # (B, L)
    tags = tags.masked_fill(~valid, 0)
    unary = emissions.gather(2, tags[..., None]).squeeze(2)  # (B, L)
    binary = transitions[tags[:, :-1], tags[:, 1:]]  # (B, L - 1)
    first = torch.where(valid[:, 0], start[tags[:, 0]], 0.0)
    return first + (unary * valid).sum(1) + (binary * valid[:, 1:]).sum(1)


def crf_viterbi(emissions: Tensor, transitions: Tensor, start: Tensor, lengths: Tensor) -> Tensor:
    """Best tag sequences (B, L), `IGNORED` at padding. Arguments as in `forward_backward`."""
    path = viterbi(*arrays(emissions, transitions, start, lengths))
    return torch.from_numpy(path).to(emissions.device)


def bio_penalties(labels: Sequence[str]) -> tuple[Tensor, Tensor]:
    """(C, C) transitions and (C,) first tags: 0 where BIO allows them, otherwise `FORBIDDEN`."""
    start = torch.tensor([FORBIDDEN if label.startswith("I-") else 0.0 for label in labels])
    transitions, at = start.repeat(len(labels), 1), {label: i for i, label in enumerate(labels)}
    for label, i in at.items():
        if label.startswith("I-"):
            transitions[[i, at.get("B-" + label[2:], i)], i] = 0.0
    return transitions, start


class LinearChainCRF(nn.Module):
    """Parameters of the CRF: transition scores, initially zero.

    There are no start or end scores, as in the paper's code. With `use_transitions=False` the
    transition scores stay zero and are not trained: tags are then independent, so the same decoder
    and posterior serve the plain token classifier. `constrain` adds `FORBIDDEN` where BIO does not
    allow a transition.
    """

    penalty: Tensor
    start_penalty: Tensor

    def __init__(
        self, labels: Sequence[str], *, constrain: bool, use_transitions: bool = True
    ) -> None:
        super().__init__()
        self.labels, self.constrain = list(labels), constrain
        size = len(self.labels)
        self.transitions = nn.Parameter(torch.empty(size, size)) if use_transitions else None
        self.register_buffer("penalty", torch.empty(size, size), persistent=False)
        self.register_buffer("start_penalty", torch.empty(size), persistent=False)
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Zero transitions; penalties from the labels. `init` keeps what a checkpoint filled."""
        transitions, start = bio_penalties(self.labels)
        if self.transitions is not None:
            init.zeros_(self.transitions)
        init.copy_(self.penalty, transitions * self.constrain)
        init.copy_(self.start_penalty, start * self.constrain)

    def scores(self) -> tuple[Tensor, Tensor]:
        """Transition scores (C, C) and start scores (C,) in float32."""
        penalty = self.penalty.float()
        transitions = penalty if self.transitions is None else self.transitions.float() + penalty
        return transitions, self.start_penalty.float()


# ------------------------------------------------------------------------------------------- labels
def check_bio_labels(labels: Sequence[str]) -> None:
    """Raise `InputError` unless `labels` is "O", then one B- and one I- tag for every type."""
    if not labels or labels[0] != "O":
        raise InputError(
            f"labels start with {labels[:1]}: "
            "expected 'O' first, then BIO tags such as 'B-PER', 'I-PER'"
        )
    if len(set(labels)) != len(labels):
        repeated = sorted(label for label, times in Counter(labels).items() if times > 1)
        raise InputError(f"labels repeat: {repeated}; expected each label once")
    known = set(labels)
    for label in labels[1:]:
        if label[:2] not in ("B-", "I-") or len(label) < 3:
            raise InputError(f"label {label!r} is not BIO: expected 'B-TYPE' or 'I-TYPE'")
        partner = ("I-" if label[0] == "B" else "B-") + label[2:]
        if partner not in known:
            raise InputError(f"label {label!r} has no partner {partner!r}: expected both")


@torch.no_grad()
def with_new_tags(
    classifier: nn.Linear, crf: LinearChainCRF, labels: Sequence[str]
) -> tuple[nn.Linear, LinearChainCRF]:
    """A linear layer and a CRF for `labels`, of which those of `crf` are the first.

    The new tags begin as copies of O, the first tag, `BELOW_O` less likely. A sequence with a new
    tag then scores less than the one with O in its place, so no best sequence has any.
    """
    check_bio_labels(labels)
    size = len(crf.labels)
    rows = [*range(size), *[0] * (len(labels) - size)]
    head = nn.Linear(classifier.in_features, len(labels)).to(classifier.weight)
    head.weight.copy_(classifier.weight[rows])
    head.bias.copy_(classifier.bias[rows])
    head.bias[size:] -= BELOW_O
    old = crf.transitions
    layer = LinearChainCRF(labels, constrain=crf.constrain, use_transitions=old is not None)
    layer = layer.to(classifier.weight.device)
    if old is not None and layer.transitions is not None:
        layer.transitions.data = old[rows][:, rows].clone()
    return head, layer
