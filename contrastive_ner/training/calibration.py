"""Calibrated scores: of the mentions with score p, about a share p is correct.

Scores are fitted on dev and measured on test. Tagger: one temperature divides emissions and
transitions, which changes no decoded mention. BINDER: the score is a logistic function of the
margin to the threshold, fitted on all spans above a floor, including those below the threshold.
One fit serves all types, so it also applies to types unseen in training. Both fits minimise the log
loss of "this mention is correct".
"""

import math
import random
from collections.abc import Callable, Sequence
from types import SimpleNamespace
from typing import Any

import numpy as np
import torch

from contrastive_ner.data.documents import join_documents
from contrastive_ner.data.records import Record
from contrastive_ner.data.schemes import tags_to_spans
from contrastive_ner.errors import ConfigError
from contrastive_ner.models.batches_ner import DEFAULT_BATCH_SIZE
from contrastive_ner.models.encoder_ner import IGNORED
from contrastive_ner.models.lattice_ner import fused_reader
from contrastive_ner.models.lexicon_ner import own_lexicon
from contrastive_ner.models.pipeline_ner import text_reader
from contrastive_ner.training.batches import SpanCollator, TagCollator, model_inputs
from contrastive_ner.training.binder import decode_own, gold_spans
from contrastive_ner.training.decoding import decoding_model
from contrastive_ner.training.features import span_features, tag_features
from contrastive_ner.training.task import Task

WINDOWS = 2000  # dev windows that are used, spread over all
FLOOR = 0.002  # lowest BINDER score that enters the fit: a margin of about -6
LEAST_MENTIONS = 20  # no fit on fewer
MOST_SPANS = 200_000  # of BINDER that enter the fit; a model that has learnt little has millions
TEMPERATURES = (0.25, 4.0)  # range of the search


def calibrate_run(model: Any, task: Task) -> dict[str, float]:
    """`calibrate` on the dev data of a run."""
    size = task.config.eval_batch_size
    return calibrate(model, task.features["dev"], data_collator=task.collator, batch_size=size)


def calibrate(
    model: Any,
    dataset: Sequence[Any],
    *,
    tokenizer: Any = None,
    data_collator: Callable[[list[dict]], dict[str, torch.Tensor]] | None = None,
    batch_size: int = DEFAULT_BATCH_SIZE,
) -> dict[str, float]:
    """Fit a model's scores and set the fields of its configuration.

    They hold for the weights in force: a training step, an adapter or other weights reset them.

    Args:
        model: a tagger or BINDER model, or either of them with adapters.
        dataset: annotated data that the model was not trained on, as the Trainer takes them
            (`tag_features`, `span_features`, or a `datasets.Dataset` with `input_ids` and
            `labels`), or records, which need the `tokenizer`.
        data_collator: of the features; by default `TagCollator` or `SpanCollator`.

    Returns the fields; empty where the data allow no fit (too few mentions, or all right or all
    wrong): scores are then uncalibrated.

    Raises:
        ConfigError: the model decodes no mentions, or records come without a tokenizer.
    """
    if batch_size < 1:
        raise ConfigError(f"batch_size is {batch_size}: expected at least 1")
    own = decoding_model(model)
    is_binder = own.config.model_type == "binder"
    if len(dataset) and isinstance(dataset[0], Record):
        dataset = features_of(own, dataset, tokenizer)
    rows = spread(dataset)
    if rows and "input_ids" not in rows[0]:
        raise ConfigError(
            f"the data have {', '.join(map(str, rows[0]))}: expected features (input_ids, labels), "
            "as of tag_features or span_features, or records, as of read_records"
        )
    if data_collator is None:
        pad_token_id = own.config.encoder_config.pad_token_id or 0
        data_collator = (SpanCollator if is_binder else TagCollator)(pad_token_id)
    batches = []
    for first in range(0, len(rows), batch_size):
        batch = dict(data_collator(rows[first : first + batch_size]))
        batch.setdefault("word_mask", batch["labels"] != IGNORED)
        batches.append({name: tensor.to(own.device) for name, tensor in batch.items()})
    modes = {module: module.training for module in own.modules()}
    try:
        own.eval()
        own.forget_calibration()
        fitted = (fit_logistic if is_binder else fit_temperature)(own, batches)
        own.forget_calibration()
        for name, value in fitted.items():
            setattr(own.config, name, value)
    finally:
        for module, mode in modes.items():
            module.training = mode
    own.keep_calibration()
    return fitted


def spread(dataset: Any) -> list[Any]:
    """At most `WINDOWS` rows of a data set, at equal distances: it may be several sets in turn."""
    size = len(dataset)
    count = min(size, WINDOWS)
    return [dataset[number * size // count] for number in range(count)]


def features_of(model: Any, records: Sequence[Record], tokenizer: Any) -> list[dict]:
    """Features of records, as the model reads them: BINDER whole documents."""
    config = model.config
    if tokenizer is None:
        raise ConfigError("records need tokenizer=, the tokenizer of the model")
    reader = text_reader(
        tokenizer, label_unit=config.label_unit, max_window_tokens=config.max_window_tokens
    )
    if config.model_type == "nerco":
        if config.lexicon_fusion != "none":
            reader = fused_reader(reader, config, own_lexicon(model), model.vocabulary)
        return tag_features(records, reader, config.labels)[0]
    width = config.max_span_width
    records = [document.record for document in join_documents(records)]
    return span_features(records, reader, config.labels, max_width=width, overlap=width)[0]


@torch.inference_mode()
def fit_temperature(model: Any, batches: Sequence[dict[str, torch.Tensor]]) -> dict[str, float]:
    """Temperature that minimises the log loss of a tagger's decoded mentions; {} without a fit."""
    outputs = [SimpleNamespace(logits=model(**model_inputs(batch)).logits) for batch in batches]
    gold = [
        tags_to_spans([model.config.labels[tag] for tag in row if tag != IGNORED], "BIO")[0]
        for b in batches
        for row in b["labels"].tolist()
    ]

    def scored(temperature: float) -> tuple[np.ndarray, np.ndarray]:
        model.config.score_temperature = temperature
        decoded = [
            spans
            for output, batch in zip(outputs, batches, strict=True)
            for spans in model.decode(output, batch["word_mask"])
        ]
        return mention_scores(decoded, gold)

    scores, right = scored(1.0)
    if len(scores) < LEAST_MENTIONS or right.all() or not right.any():
        return {}
    low, high = map(math.log, TEMPERATURES)
    best = math.exp(minimum(lambda x: log_loss(*scored(math.exp(x))), low, high))
    model.config.score_temperature = 1.0
    return {"score_temperature": round(best, 4)}


@torch.inference_mode()
def fit_logistic(model: Any, batches: Sequence[dict[str, torch.Tensor]]) -> dict[str, float]:
    """Slope and intercept of BINDER's scores, by Newton's method; {} without a fit."""
    # Start from uncalibrated scores: an earlier fit would change the margins.
    model.config.score_slope, model.config.score_intercept = 1.0, 0.0
    found: list[tuple[np.ndarray, np.ndarray]] = [mention_scores([], [])]
    # At random: where there are too many spans, all parts of the data have their share.
    for batch in random.Random(0).sample(batches, len(batches)):
        if sum(len(scores) for scores, _ in found) >= MOST_SPANS:
            break
        outputs = model(batch["input_ids"], batch["attention_mask"])
        masks = batch["word_mask"], batch["word_end_mask"]
        decoded = decode_own(model, outputs, *masks, batch.get("type_mask"), min_score=FLOOR)
        gold = gold_spans(batch["labels"], batch["word_mask"], model.config.labels)
        found.append(mention_scores(decoded, gold))
    scores, right = (np.concatenate(own) for own in zip(*found, strict=True))
    if len(scores) < LEAST_MENTIONS or right.all() or not right.any():
        return {}
    margins = np.log(scores) - np.log1p(-np.minimum(scores, 1 - 1e-15))
    slope, intercept = (round(value, 4) for value in logistic_regression(margins, right))
    # Checked after rounding: a configuration must not hold a slope of 0.
    if not (math.isfinite(slope) and math.isfinite(intercept)) or slope <= 0:
        return {}
    return {"score_slope": slope, "score_intercept": intercept}


def mention_scores(
    decoded: Sequence[Sequence[tuple]], gold: Sequence[Any]
) -> tuple[np.ndarray, np.ndarray]:
    """Scores of all decoded mentions (N,), and whether each one is correct (N,)."""
    rows = [
        (span[3], tuple(span[:3]) in own)
        for spans, own in zip(decoded, map(set, gold), strict=True)
        for span in spans
    ]
    scores, right = zip(*rows, strict=True) if rows else ((), ())
    return np.array(scores, dtype=float), np.array(right, dtype=bool)


def log_loss(scores: np.ndarray, right: np.ndarray) -> float:
    """Mean negative log-likelihood of `right` (N,) under `scores` (N,)."""
    chance = np.where(right, scores, 1 - scores)
    return float(-np.log(np.maximum(chance, 1e-15)).mean())


def minimum(loss: Callable[[float], float], low: float, high: float, steps: int = 14) -> float:
    """Minimiser of a unimodal function on [low, high], by golden-section search.

    14 steps narrow the interval to about a thousandth.
    """
    ratio = (math.sqrt(5) - 1) / 2
    a, b = high - ratio * (high - low), low + ratio * (high - low)
    at_a, at_b = loss(a), loss(b)
    for _ in range(steps):
        if at_a <= at_b:
            high, b, at_b = b, a, at_a
            a = high - ratio * (high - low)
            at_a = loss(a)
        else:
            low, a, at_a = a, b, at_b
            b = low + ratio * (high - low)
            at_b = loss(b)
    return (low + high) / 2


def logistic_regression(x: np.ndarray, right: np.ndarray, steps: int = 50) -> tuple[float, float]:
    """Slope and intercept of the probability of `right`, for x and right of shape (N,).

    Newton's method, with slight shrinkage towards (1, 0).

    >>> x, right = np.array([-2.0, -1, 0, 1, 2, 0]), np.array([0, 0, 0, 1, 1, 1], dtype=bool)
    >>> slope, intercept = logistic_regression(x, right)
    >>> slope > 1, abs(intercept) < 1e-6
    (True, True)
    """
    design, prior, shrinkage = np.stack([x, np.ones_like(x)], axis=1), np.array([1.0, 0.0]), 1e-2

    def loss(weights: np.ndarray) -> float:
        logits = design @ weights
        return float(
            np.logaddexp(0, np.where(right, -logits, logits)).sum()
            + shrinkage / 2 * ((weights - prior) ** 2).sum()
        )

    weights = np.zeros(2)
    for _ in range(steps):
        chance = 1 / (1 + np.exp(-np.clip(design @ weights, -500, 500)))
        gradient = design.T @ (chance - right) + shrinkage * (weights - prior)
        curvature = (design * (chance * (1 - chance))[:, None]).T @ design + shrinkage * np.eye(2)
        step = np.linalg.solve(curvature, gradient)
        while np.abs(step).max() > 1e-9 and loss(weights - step) > loss(weights):
            step /= 2  # far from the minimum, a full step may overshoot
        weights -= step
        if np.abs(step).max() <= 1e-9:
            break
    return float(weights[0]), float(weights[1])
