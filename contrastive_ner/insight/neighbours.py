"""Explanations: the training mentions that are nearest to a prediction in the model's space."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from contrastive_ner.data.records import Mention, Record
from contrastive_ner.errors import DataError
from contrastive_ner.insight.views import View, views
from contrastive_ner.serving.inference import tag_records

if TYPE_CHECKING:
    from contrastive_ner.models.pipeline_ner import NerPipeline

CONTEXT = 30  # characters shown on either side of a neighbour


@dataclass(frozen=True)
class Space:
    """Mentions of annotated texts with their vectors (N, D), normalised."""

    mentions: list[tuple[Record, Mention]]
    vectors: Tensor

    def nearest(
        self, query: Tensor, count: int, *, leave_out: str | None = None
    ) -> list[dict[str, Any]]:
        """The mentions nearest to a vector (D,), in cosine similarity, the nearest first.

        Args:
            leave_out: mentions of this text do not count.
        """
        similar = self.vectors @ query  # (N,)
        order = similar.argsort(descending=True, stable=True).tolist()
        found: list[dict[str, Any]] = []
        for number in order:
            record, mention = self.mentions[number]
            if len(found) == count:
                break
            if record.text != leave_out:
                found.append(
                    {**shown_mention(record, mention), "similarity": float(similar[number])}
                )
        return found


def shown_mention(record: Record, mention: Mention) -> dict[str, Any]:
    """A mention with its place and some of the text around it."""
    start, end, label = mention[:3]
    return {
        "record": record.id,
        "start": start,
        "end": end,
        "label": label,
        "word": record.text[start:end],
        "before": record.text[max(start - CONTEXT, 0) : start],
        "after": record.text[end : end + CONTEXT],
    }


def space_of(seen: Iterable[View]) -> Space:
    """The mentions of annotated records in the model's space."""
    mentions: list[tuple[Record, Mention]] = []
    vectors: list[Tensor] = []
    for view in seen:
        for mention in view.record.entities:
            place = view.place(mention.start, mention.end)
            if place is not None:
                mentions.append((view.record, mention))
                vectors.append(view.space.vectors([place])[0])
    return Space(mentions, torch.stack(vectors) if vectors else torch.zeros(0, 1))


def explain(
    pipeline: "NerPipeline",
    records: Sequence[Record],
    train: Sequence[Record],
    *,
    neighbours: int = 5,
    **options: Any,
) -> list[dict[str, Any]]:
    """Predictions for records, each with its nearest training mentions and their labels.

    A training text that is the record itself gives no neighbours.

    Args:
        train: annotated texts, those that the model was trained on.
        neighbours: how many for each mention.
        options: options of the pipeline's call.

    Raises:
        DataError: the training texts have no mention.
    """
    space = space_of(views(pipeline, train, trained_on=True, **options))
    if not space.mentions:
        raise DataError("the training data have no mention: expected annotated texts to explain by")
    found = tag_records(pipeline, records, **options).mentions
    rows = []
    for view, mentions in zip(views(pipeline, records, **options), found, strict=True):
        entities = []
        for mention in mentions:
            place = view.place(mention.start, mention.end)
            near = []
            if place is not None:
                query = view.space.vectors([place])[0]
                near = space.nearest(query, neighbours, leave_out=view.record.text)
            entity = {"start": mention.start, "end": mention.end, "label": mention.label}
            agreeing = sum(other["label"] == mention.label for other in near)
            entities.append(
                {**entity, "score": mention.score, "agreeing": agreeing, "neighbours": near}
            )
        rows.append({"id": view.record.id, "text": view.record.text, "entities": entities})
    return rows
