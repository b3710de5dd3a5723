"""Texts to annotate next: those about which the model has the most doubts, and that differ."""

from collections.abc import Collection, Iterable, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import torch

from contrastive_ner.data.records import Record
from contrastive_ner.insight.views import View, views
from contrastive_ner.serving.inference import is_binder, tag_records

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
        records: texts without annotation, each once if equal ones are there; BINDER reads them in
            their documents (`doc`).
        annotated: texts that are left out.
        options: options of the pipeline's call.
    """
    seen = set(annotated)
    fresh: dict[int, Record] = {}  # by their places
    for place, record in enumerate(records):
        if record.text not in seen and record.text.strip():
            seen.add(record.text)
            fresh[place] = record
    if not fresh:
        return []
    doubts, vectors = [], []
    read = with_documents(pipeline, records, fresh)
    shown = views(pipeline, [records[place] for place in read], **options)
    for place, view in zip(read, shown, strict=True):
        if place in fresh:
            doubt, vector = doubts_of(view)
            doubts.append(doubt)
            vectors.append(vector)
    places = list(fresh)
    order = spread(torch.tensor(doubts), torch.stack(vectors), count)
    read = with_documents(pipeline, records, {places[number] for number, _ in order})
    found = tag_records(pipeline, [records[i] for i in read], **options).mentions
    mentions = dict(zip(read, found, strict=True))
    return [
        {
            **records[places[number]].fields,
            "rank": rank,
            "doubt": doubts[number],
            "distance": distance,
            **replace(records[places[number]], entities=mentions[places[number]]).to_dict(),
        }
        for rank, (number, distance) in enumerate(order, 1)
    ]


def with_documents(
    pipeline: "NerPipeline", records: Sequence[Record], wanted: Collection[int]
) -> list[int]:
    """The places of wanted records, and for BINDER of the other texts of their documents."""
    if not is_binder(pipeline):
        return sorted(wanted)
    documents = {records[place].doc for place in wanted} - {None}
    return [i for i, own in enumerate(records) if i in wanted or own.doc in documents]


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
