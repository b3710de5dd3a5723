"""Texts to annotate next: those about which the model has the most doubts, and that differ."""

from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Any

import torch

from contrastive_ner.data.records import Record
from contrastive_ner.insight.views import View, views
from contrastive_ner.serving.inference import tag_records

if TYPE_CHECKING:
    from contrastive_ner.models.pipeline_ner import NerPipeline


def select(
    pipeline: "NerPipeline",
    records: Sequence[Record],
    count: int,
    *,
    annotated: Iterable[str] = (),
    **options: Any,
) -> list[dict[str, Any]]:
    """The texts to annotate next, in order, with the model's predictions.

    A text's doubt is the sum of 1 - margin over its positions (a tagger: between the two most
    probable tags) or over its spans (BINDER: between yes and no). Each choice is the text with the
    greatest doubt times distance: 1 - the greatest cosine similarity to a text chosen before, where
    a text's vector is the mean of its positions or spans, weighted by their doubts.

    Args:
        records: texts without annotation; equal ones count once.
        annotated: texts that are left out.
        options: options of the pipeline's call.
    """
    seen = set(annotated)
    fresh = []
    for record in records:
        if record.text not in seen and record.text.strip():
            seen.add(record.text)
            fresh.append(record)
    doubts, vectors = [], []
    for view in views(pipeline, fresh):
        doubt, vector = doubts_of(view)
        doubts.append(doubt)
        vectors.append(vector)
    if not fresh:
        return []
    order = spread(torch.tensor(doubts), torch.stack(vectors), count)
    chosen = [fresh[number] for number, _ in order]
    found = tag_records(pipeline, chosen, **options).mentions
    return [
        {
            "rank": rank,
            "doubt": doubts[number],
            "distance": distance,
            **Record(record.id, record.text, mentions, record.doc, record.tokens).to_dict(),
        }
        for rank, ((number, distance), record, mentions) in enumerate(
            zip(order, chosen, found, strict=True), 1
        )
    ]


def doubts_of(view: View) -> tuple[float, torch.Tensor]:
    """The doubt about a record, and its vector."""
    return view.space.doubts(view.whole)


def spread(doubts: torch.Tensor, vectors: torch.Tensor, count: int) -> list[tuple[int, float]]:
    """Numbers of the texts to choose, in order, and the distance of each from those before.

    doubts (N,), vectors (N, D) normalised. The first one has a distance of 1.

    >>> vectors = torch.tensor([[1.0, 0], [1.0, 0], [0, 1.0]])
    >>> [number for number, _ in spread(torch.tensor([3.0, 2.9, 1.0]), vectors, 2)]
    [0, 2]
    """
    distance = torch.ones(len(doubts))
    left = torch.ones(len(doubts), dtype=torch.bool)
    chosen: list[tuple[int, float]] = []
    for _ in range(min(count, len(doubts))):
        # Where all that are left equal a chosen one, doubt alone decides.
        gain = (doubts * distance.clamp_min(1e-6)).masked_fill(~left, -1.0)
        number = int(gain.argmax())
        chosen.append((number, float(distance[number])))
        left[number] = False
        distance = torch.minimum(distance, (1 - vectors @ vectors[number]).clamp_min(0))
    return chosen
