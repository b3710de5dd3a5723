"""Exact-span precision, recall and F1 over mentions, flat and nested, as plain functions and as an `evaluate` metric.

A prediction is right if start, end and label equal those of a gold mention of the same text (CoNLL's exact match). Works on sets of
mentions, so nested ones need nothing special. `evaluate.load("PATH/metrics_ner.py")` opens the metric without a network.
"""

from collections import Counter
from collections.abc import Iterable, Sequence
from typing import Any

import datasets
import evaluate

DESCRIPTION = "Exact-span micro, macro and per-type precision, recall and F1 of named-entity recognition, flat or nested."
INPUTS = """
predictions, references: one list of mentions per text, each mention {"start": int, "end": int, "label": str}.
Returns micro and macro "precision", "recall", "f1", the counts, and "per_type": the same for every entity type.
"""


def precision_recall_f1(correct: int, predicted: int, gold: int) -> dict[str, float]:
    """The three figures from counts; 0 where nothing was predicted or nothing is there.

    >>> precision_recall_f1(1, 2, 1)["f1"]
    0.6666666666666666
    """
    precision = correct / predicted if predicted else 0.0
    recall = correct / gold if gold else 0.0
    f1 = 2 * correct / (predicted + gold) if correct else 0.0
    return {"precision": precision, "recall": recall, "f1": f1}


def span_scores(predictions: Sequence[Iterable[Sequence[Any]]], references: Sequence[Iterable[Sequence[Any]]]) -> dict[str, Any]:
    """Scores of predicted against gold mentions.

    Args:
        predictions, references: per text, mentions whose first three items are start, end, label. Repeated mentions count once.

    Returns:
        {"micro": {precision, recall, f1, correct, predicted, gold}, "macro": {precision, recall, f1}, "per_type": {type: as micro}};
        macro is the mean over the types that occur in the references (all types, if none does).

    Raises:
        ValueError: the numbers of texts differ.
    """
    if len(predictions) != len(references):
        raise ValueError(f"{len(predictions)} predictions for {len(references)} references: expected one list per text each")
    correct: Counter[str] = Counter()
    predicted: Counter[str] = Counter()
    gold: Counter[str] = Counter()
    for found, wanted in zip(predictions, references, strict=True):
        found_set = {(m[0], m[1], m[2]) for m in found}
        wanted_set = {(m[0], m[1], m[2]) for m in wanted}
        predicted.update(label for *_, label in found_set)
        gold.update(label for *_, label in wanted_set)
        correct.update(label for *_, label in found_set & wanted_set)

    def scores(c: int, p: int, g: int) -> dict[str, Any]:
        return {**precision_recall_f1(c, p, g), "correct": c, "predicted": p, "gold": g}

    per_type = {label: scores(correct[label], predicted[label], gold[label]) for label in sorted(predicted | gold)}
    counted = [entry for label, entry in per_type.items() if gold[label]] or list(per_type.values())
    macro = {name: sum(entry[name] for entry in counted) / len(counted) if counted else 0.0 for name in ("precision", "recall", "f1")}
    return {"micro": scores(correct.total(), predicted.total(), gold.total()), "macro": macro, "per_type": per_type}


class SpanF1(evaluate.Metric):
    """`span_scores` as an `evaluate` metric; see the module."""

    def _info(self) -> evaluate.MetricInfo:
        mention = {"start": datasets.Value("int64"), "end": datasets.Value("int64"), "label": datasets.Value("string")}
        features = datasets.Features({"predictions": datasets.List(mention), "references": datasets.List(mention)})
        return evaluate.MetricInfo(description=DESCRIPTION, citation="", inputs_description=INPUTS, features=features)

    def _compute(self, predictions: Sequence[list[dict]], references: Sequence[list[dict]]) -> dict[str, Any]:
        def triples(texts: Sequence[list[dict]]) -> list[list[tuple[int, int, str]]]:
            return [[(m["start"], m["end"], m["label"]) for m in mentions] for mentions in texts]

        scores = span_scores(triples(predictions), triples(references))
        macro = {f"macro_{name}": value for name, value in scores["macro"].items()}
        return {**scores["micro"], **macro, "per_type": scores["per_type"]}
