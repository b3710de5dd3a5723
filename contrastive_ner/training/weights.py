"""Weights of rare entity types in training (`class_weight_power`).

A type with n_t of the N mentions in train, of T types, weighs w_t = c (N / (T n_t)) ** p: p = 0
gives all types the weight 1, p = 1 the same total to each type. c makes the mean over all mentions
1, so that learning rates keep their meaning.

A tagger's loss is one of whole sentences: a CRF has no loss of single tags that could be weighted
without giving up that its probabilities of tag sequences sum to 1. So the loss of a sentence counts
as often as its rarest type weighs, and once if it has no mention. This is what repeating sentences
does in expectation (repeat factor sampling; Gupta et al. 2019, LVIS, section 4.1): the loss stays
the likelihood of a CRF, of data in which rare types are less rare. The plain token classifier
weights the same way, so that taggers stay comparable. BINDER weights each mention in its mention
losses by its type; the threshold losses are means over all types already. Stage one of NerCo sums
over the types (`stage1_reduction`) and is not weighted, nor is any loss on dev.
"""

from collections import Counter
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from contrastive_ner.data.records import Record
from contrastive_ner.models.encoder_ner import IGNORED


def type_weights(records: Sequence[Record], types: Sequence[str], power: float) -> dict[str, float]:
    """Weight of each type by its mentions in `records`; 1 for one without a mention.

    >>> from contrastive_ner.data.records import Mention
    >>> text = Record("1", "abcdef", [Mention(i, i + 1, "A") for i in range(3)])
    >>> type_weights([text, Record("2", "x", [Mention(0, 1, "B")])], ["A", "B"], 1.0)
    {'A': 0.6666666666666666, 'B': 2.0}
    """
    counts = Counter(mention.label for record in records for mention in record.entities)
    present = {label: counts[label] for label in types if counts[label]}
    total = sum(present.values())
    raw = {label: (total / (len(present) * n)) ** power for label, n in present.items()}
    mean = sum(raw[label] * n for label, n in present.items()) / max(total, 1)
    return {label: raw[label] / mean if label in raw else 1.0 for label in types}


def tag_weights(labels: Sequence[str], weights: dict[str, float]) -> Tensor:
    """Weight of each BIO label (C,): that of its type, 0 for O."""
    return torch.tensor([0.0 if label == "O" else weights[label[2:]] for label in labels])


def sentence_weights(labels: Tensor, weights: Tensor) -> Tensor:
    """Largest weight of a row's mentions, 1 without any: labels (B, T), weights (C,) -> (B,)."""
    own = weights.to(labels.device)[labels.clamp_min(0)] * (labels != IGNORED)  # (B, T)
    largest = own.amax(1)
    return torch.where(largest > 0, largest, 1.0)


def weighted_loss(model: Any, logits: Tensor, inputs: dict[str, Tensor], weights: Tensor) -> Tensor:
    """Mean over sentences of a tagger's loss times the sentence's weight.

    Sentences of the same weight are computed together; there are no more weights than types.
    """
    labels = inputs["labels"]
    mask = labels != IGNORED
    if inputs.get("word_mask") is not None:
        mask = mask & inputs["word_mask"].bool()
    present = mask.any(1)
    own = sentence_weights(labels.masked_fill(~mask, IGNORED), weights)
    total = logits.sum() * 0.0
    for weight in own[present].unique():
        rows = present & (own == weight)
        total = total + weight * rows.sum() * model.loss(logits[rows], labels[rows], mask[rows])
    return total / present.sum().clamp_min(1)
