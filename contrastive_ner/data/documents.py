"""Whole documents: join the texts of a document for the model, and split its mentions again."""

from bisect import bisect_right
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import groupby
from typing import TypeVar

from contrastive_ner.data.records import Mention, Record

# ---------------------------------------------------------------------------------- whole documents
SENTENCE_BREAK = "\n"
AnyRow = TypeVar("AnyRow")


@dataclass
class Document:
    """Consecutive texts of one document as one text; `offsets` are the starts of its parts."""

    record: Record
    parts: list[Record]
    offsets: list[int]


def regrouped(rows: Iterable[AnyRow], size: int, name: str) -> Iterator[AnyRow]:
    """Rows whose documents are each `size` consecutive records; 0 leaves them as they are.

    A longer document of the source is divided, and never joined with the next one. With 1, each
    record is a document by itself. The others are called DOC#1, DOC#2, ... by the source's
    document, or by `name`. Rows that are no records stay.

    >>> rows = [Record("1", "a"), Record("2", "b"), Record("3", "c"), Record("4", "d", doc="x")]
    >>> [record.doc for record in regrouped(rows, 2, "file")]
    ['file#1', 'file#1', 'file#2', 'x#1']
    """
    before: str | None = None
    count = 0  # records of the document so far
    for row in rows:
        if not size or not isinstance(row, Record):
            yield row
            continue
        count = count + 1 if count and row.doc == before else 1
        before = row.doc
        number = (count - 1) // size + 1
        doc = None if size == 1 else f"{name if row.doc is None else row.doc}#{number}"
        yield replace(row, doc=doc)


def join_documents(records: Sequence[Record]) -> list[Document]:
    """Join consecutive records with the same `doc`; a record without `doc` is its own document."""
    documents = []
    for (_, doc), group in groupby(
        enumerate(records), key=lambda item: (item[0] if item[1].doc is None else -1, item[1].doc)
    ):
        parts = [record for _, record in group]
        offsets, mentions, position = [], [], 0
        for part in parts:
            offsets.append(position)
            mentions += [
                Mention(m.start + position, m.end + position, m.label, m.score)
                for m in part.entities
            ]
            position += len(part.text) + len(SENTENCE_BREAK)
        text = SENTENCE_BREAK.join(part.text for part in parts)
        documents.append(
            Document(
                Record(parts[0].id if doc is None else doc, text, mentions, doc), parts, offsets
            )
        )
    return documents


def split_document(
    document: Document, mentions: Sequence[Mention]
) -> tuple[list[list[Mention]], int]:
    """Return the mentions of each part, with offsets in it, and the number that cross parts.

    Mentions that cross parts belong to none and are dropped.
    """
    found: list[list[Mention]] = [[] for _ in document.parts]
    for mention in mentions:
        number = bisect_right(document.offsets, mention.start) - 1
        offset = document.offsets[number]
        if mention.end <= offset + len(document.parts[number].text):
            own = mention._replace(start=mention.start - offset, end=mention.end - offset)
            found[number].append(own)
    return found, len(mentions) - sum(map(len, found))
