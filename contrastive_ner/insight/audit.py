"""Suspicious labels: training mentions that models trained without them disagree with."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from torch import Tensor

from contrastive_ner.data.records import Mention, Record, outermost
from contrastive_ner.errors import ConfigError, DataError
from contrastive_ner.insight.folds import divide, fold_configs, train_fold
from contrastive_ner.insight.neighbours import space_of
from contrastive_ner.insight.views import Place, View, views
from contrastive_ner.serving.inference import load_pipeline, tag_records
from contrastive_ner.training.config import RunConfig
from contrastive_ner.training.loading import load_data

if TYPE_CHECKING:
    from contrastive_ner.models.pipeline_ner import NerPipeline

KINDS = {
    "type": "the model sees another type",
    "boundary": "the model sees other boundaries",
    "both": "the model sees other boundaries and another type",
    "spurious": "the model sees no mention here",
    "missing": "the model sees a mention that is not annotated",
}


@dataclass
class Audit:
    """What an audit found.

    `found` are the suspicious mentions, the most suspicious first; `texts` and `mentions` count
    what was audited, `left_out` the texts that were not (the only ones with a type).
    """

    found: list[dict[str, Any]] = field(default_factory=list)
    texts: int = 0
    mentions: int = 0
    left_out: int = 0


def audit(config: RunConfig, folder: Path, *, folds: int = 5, neighbours: int = 5) -> Audit:
    """Train a model by folds, and rank the training mentions that it disagrees with.

    Args:
        config: of the training; its dev data select the best epoch.
        folder: for the models of the folds; an interrupted audit goes on there.
        folds: number of models, each trained on the other folds.
        neighbours: for each mention, how many of the mentions that are nearest in the space of its
            fold's model; only mentions that this model was not trained on.

    Raises:
        ConfigError, DataError: as in training.
    """
    if config.data_sets:
        raise ConfigError("audit takes one data set: expected no data_sets in the configuration")
    data = load_data(config)
    train = data.records["train"]
    fold_of = divide(train, folds, config.seed)
    if not any(r.entities for r, fold in zip(train, fold_of, strict=True) if fold is not None):
        raise DataError(
            f"{config.train_file}: no mention can be audited: expected a type in several texts"
        )
    result = Audit(left_out=fold_of.count(None))
    for fold, own in enumerate(fold_configs(config, train, data.records["dev"], fold_of, folder)):
        pipeline = load_pipeline(train_fold(own))
        held_out = [r for r, number in zip(train, fold_of, strict=True) if number == fold]
        result.found += disagreements(pipeline, held_out, neighbours)
        result.texts += len(held_out)
        result.mentions += sum(len(record.entities) for record in held_out)
    result.found.sort(key=lambda row: (-row["suspicion"], row["record"], row["start"]))
    return result


def disagreements(
    pipeline: "NerPipeline", records: Sequence[Record], neighbours: int = 5
) -> list[dict[str, Any]]:
    """Disagreements of a model with annotated records that it was not trained on.

    `suspicion`, in [0, 1], is the mean of three: 1 minus the model's probability of what the data
    say (a tagger: of the annotated tag for which it is least, or of the mention's end), its
    probability of what it says instead, and the share of the nearest mentions in other texts whose
    annotation speaks against the data.
    """
    nests = pipeline.model.config.decoding == "nested"
    predicted = tag_records(pipeline, records, held_out=True).mentions
    waiting: list[tuple[dict[str, Any], str, str, Tensor]] = []

    def seen() -> Iterator[View]:
        """The records, each read once, while their disagreements are noted."""
        read = views(pipeline, records, trained_on=True)  # the lexicon may have words of theirs
        for view, mentions in zip(read, predicted, strict=True):
            gold = view.record.entities if nests else outermost(view.record.entities)[0]
            for row, mention, place in of_record(view, gold, mentions):
                vector = view.space.vectors([place])[0]
                waiting.append((row, view.record.text, mention.label, vector))
            yield view

    space = space_of(seen())
    found = []
    for row, text, label, vector in waiting:
        near = space.nearest(vector, neighbours, leave_out=text) if space.mentions else []
        agreeing = sum(other["label"] == label for other in near) / max(len(near), 1)
        if row["kind"] == "missing":  # neighbours of that type speak against the data
            agreeing = 1 - agreeing
        against = [1 - row["probability"], row["instead"], *([1 - agreeing] if near else [])]
        row["suspicion"] = sum(against) / len(against)
        found.append({**row, "agreeing": agreeing, "neighbours": near})
    return found


def of_record(
    view: View, gold: Sequence[Mention], predicted: Sequence[Mention]
) -> list[tuple[dict[str, Any], Mention, Place]]:
    """Disagreements in a record, each with the mention that it is about and its place."""
    agreed = {m[:3] for m in gold} & {m[:3] for m in predicted}
    others = [m for m in predicted if m[:3] not in agreed]
    rows, used = [], set()
    for mention in (m for m in gold if m[:3] not in agreed):
        place = view.place(mention.start, mention.end)
        if place is None:
            continue
        instead = max(
            (m for m in others if m.start < mention.end and mention.start < m.end),
            key=lambda m: (m[:2] == mention[:2], m.score or 0.0),
            default=None,
        )
        used |= {instead[:3]} if instead else set()
        kind = kind_of(mention, instead)
        support = view.space.support(place, mention.label)
        other = view.space.nothing(place) if instead is None else instead.score or 0.0
        row = row_of(view.record, mention, kind, (support, other), instead)
        rows.append((row, mention, place))
    for mention in others:
        place = view.place(mention.start, mention.end)
        if mention[:3] not in used and place is not None:
            # Inside or across an annotated mention, the data say only that this one is not there.
            is_free = not any(m.start < mention.end and mention.start < m.end for m in gold)
            score = mention.score or 0.0
            support = view.space.nothing(place) if is_free else 1 - score
            row = row_of(view.record, mention, "missing", (support, score), mention)
            rows.append((row, mention, place))
    return rows


def kind_of(gold: Mention, predicted: Mention | None) -> str:
    """The kind of a disagreement about an annotated mention."""
    if predicted is None:
        return "spurious"
    if gold[:2] == predicted[:2]:
        return "type"
    return "boundary" if gold.label == predicted.label else "both"


def row_of(
    record: Record,
    mention: Mention,
    kind: str,
    chances: tuple[float, float],
    instead: Mention | None,
) -> dict[str, Any]:
    """A disagreement as a JSON object.

    `annotated` and `model` are what the data and the model say, each None for "no mention";
    `probability` and `instead` are the model's probabilities of the two.
    """

    def shown(own: Mention | None) -> dict[str, Any] | None:
        if own is None:
            return None
        word = record.text[own.start : own.end]
        place = {"start": own.start, "end": own.end, "label": own.label, "word": word}
        return place if own.score is None else {**place, "score": own.score}

    return {
        "record": record.id,
        "kind": kind,
        "start": mention.start,
        "end": mention.end,
        "suspicion": 0.0,  # depends on other mentions
        "annotated": None if kind == "missing" else shown(mention._replace(score=None)),
        "model": shown(instead),
        "probability": chances[0],
        "instead": chances[1],
        "text": record.text,
    }
