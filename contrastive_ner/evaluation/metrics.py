"""Exact-span precision, recall and F1 of mentions, as plain functions and as an `evaluate` metric.

A prediction is correct if its start, end and label equal those of a gold mention of the same text
(CoNLL's exact match). Mentions are compared as sets, so nested mentions need no special treatment.
`evaluate.load("PATH/contrastive_ner/evaluation/metrics.py")` loads the metric offline.

Sections: scores, kinds of errors, scores of groups (length, seen in training), the metric.
"""

from bisect import bisect_left, bisect_right
from collections import Counter
from collections.abc import Callable, Collection, Iterable, Sequence
from itertools import accumulate
from typing import Any

import datasets
import evaluate

DESCRIPTION = (
    "Exact-span micro, macro and per-type precision, recall and F1 of named-entity recognition, "
    "flat or nested."
)
INPUTS = """
predictions, references: one list of mentions per text, each mention {"start": int, "end": int,
"label": str}; other fields are ignored.
Returns micro and macro "precision", "recall" and "f1", the counts, and "per_type": the same for
each entity type.
"""
FIELDS = ("start", "end", "label")
PARTIAL = ("type", "boundary", "boundary_and_type")  # the closest first
LENGTHS = {"1": 1, "2": 2, "3": 3, "4-5": 5, "6-9": 9}  # bucket: maximum length in characters
LONGEST = "10+"

Mentions = Iterable[Sequence[Any]]
Span = tuple[int, int, str]  # start, end, label


# ------------------------------------------------------------------------------------------- scores
def precision_recall_f1(correct: int, predicted: int, gold: int) -> dict[str, float]:
    """Precision, recall and F1 from counts; 0 if there are no predictions or no gold mentions.

    >>> precision_recall_f1(1, 2, 1)["f1"]
    0.6666666666666666
    """
    precision = correct / predicted if predicted else 0.0
    recall = correct / gold if gold else 0.0
    f1 = 2 * correct / (predicted + gold) if correct else 0.0
    return {"precision": precision, "recall": recall, "f1": f1}


def span_scores(predictions: Sequence[Mentions], references: Sequence[Mentions]) -> dict[str, Any]:
    """Scores of predicted against gold mentions.

    Args:
        predictions, references: per text, mentions whose first three items are start, end and
            label. Repeated mentions count once.

    Returns:
        {"micro": {precision, recall, f1, correct, predicted, gold}, "macro": {precision, recall,
        f1}, "per_type": {type: as micro}}. Macro is the mean over the types that occur in the
        references, or over all types if the references are empty.

    Raises:
        ValueError: the numbers of texts differ.
    """
    per_type = scores_by_group(predictions, references, lambda _, mention: mention[2])
    counted = [entry for entry in per_type.values() if entry["gold"]] or list(per_type.values())
    macro = {
        name: sum(entry[name] for entry in counted) / len(counted) if counted else 0.0
        for name in ("precision", "recall", "f1")
    }
    correct, predicted, gold = (
        sum(entry[name] for entry in per_type.values()) for name in ("correct", "predicted", "gold")
    )
    return {"micro": figures(correct, predicted, gold), "macro": macro, "per_type": per_type}


def scores_by_group(
    predictions: Sequence[Mentions],
    references: Sequence[Mentions],
    group: Callable[[int, Span], str],
) -> dict[str, dict[str, Any]]:
    """Scores of groups of mentions, in alphabetical order of the groups.

    A correct prediction is in the group of its gold mention. The groups therefore partition both
    sides, and their counts add up to those of micro.

    Args:
        predictions, references: as in `span_scores`.
        group: gives the group of a mention, from the index of its text and the mention.

    Returns:
        {group: {precision, recall, f1, correct, predicted, gold}}

    Raises:
        ValueError: the numbers of texts differ.
    """
    correct: Counter[str] = Counter()
    predicted: Counter[str] = Counter()
    gold: Counter[str] = Counter()
    for text, (found, wanted) in enumerate(span_sets(predictions, references)):
        predicted.update(group(text, mention) for mention in found)
        gold.update(group(text, mention) for mention in wanted)
        correct.update(group(text, mention) for mention in found & wanted)
    return {
        name: figures(correct[name], predicted[name], gold[name])
        for name in sorted(predicted | gold)
    }


def calibration(
    predictions: Sequence[Sequence[Any]], references: Sequence[Mentions], bins: int = 10
) -> dict[str, Any]:
    """How well the scores of predicted mentions match their probability of being correct.

    Args:
        predictions: per text, mentions (start, end, label, score).
        references: as in `span_scores`.
        bins: number of bins, which divide the scores from 0 to 1 equally.

    Returns:
        {"ece": expected calibration error, "brier": mean squared error of the scores, "bins": for
        each bin {mentions, score (mean), right (share of correct mentions)}}. The calibration error
        is the mean over mentions of |score - right| of their bin.
    """
    gold = [{tuple(mention[:3]) for mention in own} for own in references]
    rows = [
        (m[3], tuple(m[:3]) in own)
        for found, own in zip(predictions, gold, strict=True)
        for m in found
    ]
    table = []
    for number in range(bins):
        own_rows = [row for row in rows if min(int(row[0] * bins), bins - 1) == number]
        score, right = (
            (sum(column) / len(own_rows) for column in zip(*own_rows, strict=True))
            if own_rows
            else (0.0, 0.0)
        )
        table.append({"mentions": len(own_rows), "score": score, "right": right})
    total = max(len(rows), 1)
    error = sum(row["mentions"] * abs(row["score"] - row["right"]) for row in table) / total
    return {
        "ece": error,
        "brier": sum((score - is_right) ** 2 for score, is_right in rows) / total,
        "bins": table,
    }


def text_counts(predictions: Sequence[Mentions], references: Sequence[Mentions]) -> list[int]:
    """Counts per text, for resampling: correct, predicted and gold of each text in turn.

    The list is flat so that it takes one line of JSON. `numpy.reshape(counts, (-1, 3))` has one row
    per text, and its column sums are the counts of micro.

    >>> text_counts([[(0, 2, "PER"), (3, 5, "LOC")], []], [[(0, 2, "PER")], [(0, 4, "ORG")]])
    [1, 2, 1, 0, 0, 1]
    """
    return [
        n
        for found, wanted in span_sets(predictions, references)
        for n in (len(found & wanted), len(found), len(wanted))
    ]


def figures(correct: int, predicted: int, gold: int) -> dict[str, Any]:
    """Precision, recall and F1 with the counts they are computed from."""
    return {
        **precision_recall_f1(correct, predicted, gold),
        "correct": correct,
        "predicted": predicted,
        "gold": gold,
    }


def span_sets(
    predictions: Sequence[Mentions], references: Sequence[Mentions]
) -> list[tuple[set[Span], set[Span]]]:
    """Predicted and gold mentions of each text as sets of (start, end, label).

    Raises:
        ValueError: the numbers of texts differ.
    """
    if len(predictions) != len(references):
        raise ValueError(
            "expected one list of mentions per text in both, "
            f"found {len(predictions)} predictions for {len(references)} references"
        )
    return [
        ({(m[0], m[1], m[2]) for m in found}, {(m[0], m[1], m[2]) for m in wanted})
        for found, wanted in zip(predictions, references, strict=True)
    ]


# ---------------------------------------------------------------------------------- kinds of errors
def error_breakdown(
    predictions: Sequence[Mentions], references: Sequence[Mentions]
) -> dict[str, dict[str, int]]:
    """Count wrong predictions and gold mentions that were not found, by kind of error.

    Each wrong prediction is compared with the gold mentions of its text that were not found, and
    counts as the first kind that applies:

    - `type`: one of them has the same boundaries (and so another type);
    - `boundary`: one of them overlaps it and has the same type (and so other boundaries);
    - `boundary_and_type`: one of them overlaps it;
    - `spurious`: none overlaps it.

    Each gold mention that was not found is compared with the wrong predictions in the same way; it
    is `missed` if none overlaps it. So `predictions` sums to predicted - correct, and `gold` to
    gold - correct. The other kinds can differ between the two sides: one prediction across two gold
    mentions is one `boundary` error in the predictions and two in the gold.

    Mentions that were found are not compared. Next to a correct 南京大学 ORG, a predicted 南京 PER
    is spurious, and a gold 南京 GPE that was not predicted is missed, not a boundary error. This
    affects nested mentions only: flat ones do not overlap a correct one.

    Args:
        predictions, references: as in `span_scores`.

    Raises:
        ValueError: the numbers of texts differ.

    >>> gold = [[(0, 4, "ORG"), (6, 9, "PER"), (9, 11, "PER")]]
    >>> error_breakdown([[(0, 4, "LOC"), (6, 8, "PER")]], gold)["gold"]
    {'type': 1, 'boundary': 1, 'boundary_and_type': 0, 'missed': 1}
    """
    wrong: Counter[str] = Counter()
    unfound: Counter[str] = Counter()
    for found, wanted in span_sets(predictions, references):
        spurious, missed = found - wanted, wanted - found
        for own, others, name, counts in (
            (spurious, missed, "spurious", wrong),
            (missed, spurious, "missed", unfound),
        ):
            near = touching(others)
            counts.update(error_name(mention, near(mention)) or name for mention in own)
    return {
        "predictions": {name: wrong[name] for name in (*PARTIAL, "spurious")},
        "gold": {name: unfound[name] for name in (*PARTIAL, "missed")},
    }


def touching(spans: Iterable[Span]) -> Callable[[Span], list[Span]]:
    """A function that gives the spans which overlap another one, without a look at all of them.

    >>> touching([(0, 2, "PER"), (1, 9, "ORG"), (5, 6, "PER")])((2, 5, "LOC"))
    [(1, 9, 'ORG')]
    """
    ordered = sorted(spans)
    starts = [span[0] for span in ordered]
    # The largest end up to each span: it never falls.
    ends = list(accumulate((span[1] for span in ordered), max))

    def near(span: Span) -> list[Span]:
        first, last = bisect_right(ends, span[0]), bisect_left(starts, span[1])
        return [other for other in ordered[first:last] if other[1] > span[0]]

    return near


def error_name(mention: Span, others: Iterable[Span]) -> str | None:
    """The first of `PARTIAL` that applies to a mention given the others; None if none overlaps it.

    None of the others may equal the mention.
    """
    start, end, label = mention
    names = set()
    for other_start, other_end, other_label in others:
        if (start, end) == (other_start, other_end):
            names.add("type")
        elif start < other_end and other_start < end:
            names.add("boundary" if label == other_label else "boundary_and_type")
    return next((name for name in PARTIAL if name in names), None)


# --------------------------------------------------------------------------------- scores of groups
def length_scores(
    predictions: Sequence[Mentions], references: Sequence[Mentions]
) -> dict[str, dict[str, Any]]:
    """Scores by the length of mentions in characters; their counts add up to those of micro.

    Returns {"1", "2", "3", "4-5", "6-9", "10+": as micro}.
    """
    scores = scores_by_group(
        predictions, references, lambda _, mention: length_bucket(mention[1] - mention[0])
    )
    return {name: scores.get(name, figures(0, 0, 0)) for name in (*LENGTHS, LONGEST)}


def length_bucket(characters: int) -> str:
    """The length bucket of a mention.

    >>> [length_bucket(n) for n in (1, 4, 5, 6, 10, 99)]
    ['1', '4-5', '4-5', '6-9', '10+', '10+']
    """
    return next((name for name, longest in LENGTHS.items() if characters <= longest), LONGEST)


def training_scores(
    predictions: Sequence[Mentions],
    references: Sequence[Mentions],
    texts: Sequence[str],
    train_texts: Collection[str],
    train_mentions: Collection[tuple[str, str]],
) -> dict[str, Any]:
    """Scores of mentions and texts that occur in training, and so may be memorized, and of others.

    Args:
        predictions, references: as in `span_scores`.
        texts: the texts that the offsets refer to.
        train_texts: texts of the training data; a set, for speed.
        train_mentions: mentions of the training data as (surface text, label); a set, for speed.

    Returns:
        {"seen": as micro, over the mentions, predicted and gold, whose surface text and label occur
        in training; "unseen": the same over the other mentions (the two add up to micro);
        "new_texts": as micro, over the texts that do not occur in training, with their number in
        "texts"; "recurring_texts": the indices of the other texts}.

    Raises:
        ValueError: the numbers of texts differ.
    """

    def group(text: int, mention: Span) -> str:
        return (
            "seen"
            if (texts[text][mention[0] : mention[1]], mention[2]) in train_mentions
            else "unseen"
        )

    if len(texts) != len(references):
        raise ValueError(
            "expected one list of mentions per text, "
            f"found {len(texts)} texts for {len(references)} references"
        )
    scores = scores_by_group(predictions, references, group)
    new = [i for i, text in enumerate(texts) if text not in train_texts]
    micro = span_scores([predictions[i] for i in new], [references[i] for i in new])["micro"]
    return {
        **{name: scores.get(name, figures(0, 0, 0)) for name in ("seen", "unseen")},
        "new_texts": {**micro, "texts": len(new)},
        "recurring_texts": [i for i, text in enumerate(texts) if text in train_texts],
    }


# --------------------------------------------------------------------------------------- the metric
class SpanF1(evaluate.Metric):
    """`span_scores` as an `evaluate` metric; see the module docstring."""

    def _info(self) -> evaluate.MetricInfo:
        mention = {
            "start": datasets.Value("int64"),
            "end": datasets.Value("int64"),
            "label": datasets.Value("string"),
        }
        features = datasets.Features(
            {"predictions": datasets.List(mention), "references": datasets.List(mention)}
        )
        return evaluate.MetricInfo(
            description=DESCRIPTION, citation="", inputs_description=INPUTS, features=features
        )

    # `datasets` rejects fields that are not in the features, such as the score of a prediction.
    # `evaluate` needs the docstrings of both methods.
    def add_batch(self, *, predictions: Any = None, references: Any = None, **others: Any) -> None:
        """Add a batch of texts."""
        super().add_batch(
            predictions=list(map(bare, predictions)),
            references=list(map(bare, references)),
            **others,
        )

    def add(self, *, prediction: Any = None, reference: Any = None, **others: Any) -> None:
        """Add one text."""
        super().add(prediction=bare(prediction), reference=bare(reference), **others)

    def _compute(
        self, predictions: Sequence[list[dict]], references: Sequence[list[dict]]
    ) -> dict[str, Any]:
        def triples(texts: Sequence[list[dict]]) -> list[list[Span]]:
            return [[(m["start"], m["end"], m["label"]) for m in mentions] for mentions in texts]

        scores = span_scores(triples(predictions), triples(references))
        macro = {f"macro_{name}": value for name, value in scores["macro"].items()}
        return {**scores["micro"], **macro, "per_type": scores["per_type"]}


def bare(mentions: Iterable[Any]) -> list[Any]:
    """Mentions of a text with only their `FIELDS`.

    Items that are not mentions are kept, for `evaluate` to reject.
    """
    return [
        {name: m[name] for name in m if name in FIELDS} if isinstance(m, dict) else m
        for m in mentions
    ]
