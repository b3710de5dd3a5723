"""BioC JSON: documents of passages, perhaps of sentences, whose offsets count from the document."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from contrastive_ner.data.mentions import Raw, to_mention
from contrastive_ner.data.records import Mention, Record
from contrastive_ner.data.row_parts import Item, Reading, Row
from contrastive_ner.errors import DataError, shown

TYPE_KEYS = ("type", "label")  # of infons


@dataclass
class Part:
    """A passage or a sentence: where it starts in the document, its text and annotations."""

    offset: int
    text: str
    annotations: list[Any]


def is_bioc(row: Any) -> bool:
    """Whether a JSON value is a document of BioC."""
    if not isinstance(row, Mapping) or isinstance(row.get("text"), str):
        return False
    passages = row.get("passages")
    if not isinstance(passages, list) or not (passages or "infons" in row):
        return False
    return all(
        isinstance(own, Mapping) and "offset" in own and bool({"text", "sentences"} & own.keys())
        for own in passages
    )


def without_annotations(row: Row) -> Row:
    """A document of BioC without its annotations, which need not be right to be tagged."""

    def bare(part: Any) -> Any:
        return {**part, "annotations": []} if isinstance(part, Mapping) else part

    passages = [
        {**bare(own), "sentences": [bare(part) for part in _list(own, "sentences")]}
        for own in row["passages"]
    ]
    return {**row, "passages": passages, "annotations": []}


def read_bioc(row: Row, line: int, reading: Reading) -> list[Item]:
    """The passages of a document, or its sentences where a passage has no text of its own."""
    doc = str(row.get("id", line))
    parts: list[Part] = []
    loose = _list(row, "annotations")  # of no text of their own
    for passage in row["passages"]:
        sentences = [_part(own, reading) for own in _list(passage, "sentences")]
        whole = _part(passage, reading)
        if whole.text:
            whole.annotations += [item for own in sentences for item in own.annotations]
            parts.append(whole)
        else:
            loose += whole.annotations
            parts += [own for own in sentences if own.text or own.annotations]
    found: list[list[Mention]] = [[] for _ in parts]
    placed = [(item, i) for i, part in enumerate(parts) for item in part.annotations]
    for item, i in [*placed, *((item, None) for item in loose)]:
        name = item.get("id") if isinstance(item, Mapping) else None
        try:
            raw = _raw(item, reading)
            if raw is None:
                reading.report.left_out["discontinuous mentions"] += 1
                continue
            i = _part_at(raw.start, parts) if i is None else i
            offset = parts[i].offset
            raw = raw._replace(start=raw.start - offset, end=raw.end - offset)
            found[i].append(to_mention(parts[i].text, raw, reading.layout.offsets))
        except DataError as error:
            raise DataError(f"document {doc}, annotation {name}: {error}") from error
    return [
        Record(f"{doc}-{i}", part.text, sorted(set(mentions)), doc)
        for i, (part, mentions) in enumerate(zip(parts, found, strict=True))
    ]


def _part(item: Any, reading: Reading) -> Part:
    """A checked passage or sentence; its relations are left out and counted."""
    offset = item.get("offset") if isinstance(item, Mapping) else None
    if not isinstance(offset, int) or not isinstance(text := item.get("text") or "", str):
        raise DataError(
            f"expected a whole number in 'offset' and a string in 'text', found {shown(item)}"
        )
    if relations := _list(item, "relations"):
        reading.report.left_out["relations"] += len(relations)
    reading.has_mentions_key |= "annotations" in item
    return Part(offset, text, _list(item, "annotations"))


def _list(item: Row, key: str) -> list[Any]:
    """A list under a key, empty where there is none."""
    value = item.get(key)
    if not isinstance(value, list | None):
        raise DataError(f"expected a list in {key!r}, found {shown(value)}")
    return [*(value or ())]


def _raw(item: Any, reading: Reading) -> Raw | None:
    """The mention of an annotation, in offsets of the document; None if it is discontinuous."""
    places = item.get("locations") if isinstance(item, Mapping) else None
    if not isinstance(places, list) or not places:
        raise DataError(f"expected 'locations' with offset and length, found {shown(item)}")
    if len(places) > 1:
        return None
    place = places[0] if isinstance(places[0], Mapping) else {}
    start, length = place.get("offset"), place.get("length")
    if type(start) is not int or type(length) is not int:
        raise DataError(f"expected whole numbers in offset and length, found {shown(places[0])}")
    infons = item.get("infons")
    infons = infons if isinstance(infons, Mapping) else {}
    given = reading.layout.keys.get("label")
    keys = TYPE_KEYS if given is None else (given,)
    label = next((infons[key] for key in keys if key in infons), None)
    if label is None:
        raise DataError(
            f"expected the entity type in infons under {' or '.join(map(repr, keys))}, found "
            f"{shown(dict(infons))}; set fields=label=KEY"
        )
    surface = item.get("text")
    if not isinstance(surface, str | None):
        raise DataError(f"expected a string in the annotation's 'text', found {shown(surface)}")
    return Raw(start, start + length, label, surface)


def _part_at(start: int, parts: list[Part]) -> int:
    """The number of the part that holds an offset of the document."""
    for i, part in enumerate(parts):
        if part.offset <= start < part.offset + len(part.text):
            return i
    raise DataError(f"offset {start} lies in no text of the document; correct its location")
