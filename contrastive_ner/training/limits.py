"""Limits for types without any labelled text: as many mentions as are expected in given texts.

The threshold of a type that training never saw is too high: it stands where the model was certain
of the types that it learnt. How the scores of such a type are ordered is worth more. Texts without
labels are enough to choose the score above which so many spans lie as mentions are expected.
"""

from collections.abc import Sequence
from typing import Any

import torch

from contrastive_ner.data.records import Record
from contrastive_ner.errors import ConfigError, DataError
from contrastive_ner.models.checks_ner import in_evaluation
from contrastive_ner.models.pipeline_ner import text_reader
from contrastive_ner.training.features import span_features
from contrastive_ner.training.new_types import read_windows

PER_THOUSAND = 15.0  # of a few, a good one on the dev parts of four CrossNER domains


def fit_limits(
    model: Any,
    tokenizer: Any,
    labels: Sequence[str],
    texts: Sequence[str],
    per_thousand: float = PER_THOUSAND,
) -> dict[str, float]:
    """Let a BINDER model find at least so many mentions of its types in texts without labels.

    Sets `config.margins`, by how much the score of a span must exceed the threshold of its type, of
    each of `labels` to that of the last span that is to be found, or to 0 if that is higher: spans
    above the threshold are found in any case. Saving keeps it. Where mentions must not overlap,
    fewer are found.

    Args:
        model: the model, which is changed in place; it has the types (`add_labels`).
        tokenizer: of the model.
        labels: entity types of the model.
        texts: of the kind that is to be tagged.
        per_thousand: mentions of each type in a thousand words, or characters where the model
            reads characters.

    Returns:
        The margins, by type.

    Raises:
        ConfigError: the model is not a BINDER model, a label is not one of its types, or
            `per_thousand` is not between 0 and 1000.
        DataError: the texts are too short for one mention.
    """
    config = model.config
    if getattr(config, "model_type", None) != "binder":
        raise ConfigError("limits are fitted to a BINDER model; a tagger has none")
    unknown = sorted(set(labels) - set(config.labels))
    if unknown or not labels:
        raise ConfigError(
            f"labels are {', '.join(labels) or 'none'}: expected types of the model, "
            f"{', '.join(config.labels)}"
        )
    if not 0 < per_thousand < 1000:
        raise ConfigError(f"per_thousand is {per_thousand}: expected a number between 0 and 1000")
    with in_evaluation(model):
        every, words = margins_of(model, tokenizer, labels, texts)
    count = round(per_thousand * words / 1000)
    if count < 1 or not len(every):
        raise DataError(
            f"texts: expected {1000 / per_thousand:.0f} words or more, of which one is a mention, "
            f"found {words}; give more texts"
        )
    last = every.topk(min(count, len(every)), dim=0).values[-1]
    # Spans must exceed the limit. What exceeds the type's own threshold is nearly always right.
    limits = {label: min(float(own) - 1e-4, 0.0) for label, own in zip(labels, last, strict=True)}
    config.margins = {**config.margins, **limits}
    return limits


@torch.no_grad()
def margins_of(
    model: Any, tokenizer: Any, labels: Sequence[str], texts: Sequence[str]
) -> tuple[torch.Tensor, int]:
    """By how much all spans of texts exceed the thresholds of types (N, E); number of words."""
    config = model.config
    types = model.types
    vectors = types.vectors[2, [types.labels.index(label) for label in labels]].float()
    scaled = (model.heads.log_scale[2].detach().float().exp() * vectors).T  # (D, E)
    reader = text_reader(
        tokenizer, label_unit=config.label_unit, max_window_tokens=config.max_window_tokens
    )
    width, words = config.max_span_width, 0
    found = [scaled.new_zeros(0, len(labels))]
    for text in texts:
        features, _ = span_features(
            [Record("", text)], reader, config.labels, max_width=width, overlap=width
        )
        words += sum(sum(row["word_mask"]) for row in features)
        for window in read_windows(model, features):
            scores = window.vectors @ scaled  # (1 + N, E) of the first token and the spans
            first = model.heads.with_threshold(2, scores[:1], torch.ones_like(scores[:1]).bool())
            found.append(scores[1:] - first)
    return torch.cat(found), words
