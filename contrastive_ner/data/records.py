"""The record that all readers produce and training uses: a text and its mentions.

Offsets count code points, half-open, into `text` exactly as given.
"""

import itertools
from bisect import bisect_left
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from contrastive_ner.errors import DataError, shown
from contrastive_ner.models.windows_ner import word_range


# ------------------------------------------------------------------------------ records and reports
class Mention(NamedTuple):
    """A mention of type `label` at text[start:end]; predictions have a score.

    Set only on request: `labels`, the best types of the span with their scores, and `abstained`,
    whether the mention is left to a person to decide.
    """

    start: int
    end: int
    label: str
    score: float | None = None
    labels: tuple[tuple[str, float], ...] = ()
    abstained: bool | None = None


@dataclass
class Record:
    """One text with its mentions.

    `tokens` are the offsets of the words, if the source has words; `doc` is the document id. A
    prediction also has `coverage`, the share of the text that the model read. `fields` are the
    other fields of the source's row, which a prediction carries through.
    """

    id: str
    text: str
    entities: list[Mention] = field(default_factory=list)
    doc: str | None = None
    tokens: list[tuple[int, int]] | None = None
    coverage: float | None = None
    fields: dict[str, Any] = field(default_factory=dict)

    def to_dict(self) -> dict[str, Any]:
        """The record as a JSON object.

        In a prediction with tokens, "words" is the half-open range of tokens a mention touches.
        """
        entities: list[dict[str, Any]] = []
        for mention in self.entities:
            entity: dict[str, Any] = {
                "start": mention.start,
                "end": mention.end,
                "label": mention.label,
            }
            if mention.score is not None:
                entity["score"] = mention.score
            if self.tokens is not None and self.coverage is not None:
                entity["words"] = list(word_range(self.tokens, mention.start, mention.end))
            if mention.labels:
                entity["labels"] = [
                    {"label": label, "score": score} for label, score in mention.labels
                ]
            if mention.abstained is not None:
                entity["abstained"] = mention.abstained
            entities.append(entity)
        extra: dict[str, Any] = {} if self.doc is None else {"doc": self.doc}
        if self.tokens is not None:
            extra["tokens"] = [list(token) for token in self.tokens]
        if self.coverage is not None:
            extra |= {"coverage": self.coverage, **self.fields}
        return {"id": self.id, "text": self.text, "entities": entities, **extra}


def token_offsets(value: Any, text: str) -> list[tuple[int, int]]:
    """The offsets of a text's words, from JSON.

    Raises:
        DataError: they are not pairs of whole numbers, or are not in order inside the text.
    """
    pairs = value if isinstance(value, list) else [value]
    for pair in pairs:
        if not is_list_of_two(pair):
            raise DataError(f"expected [start, end] of each word in 'tokens', found {shown(pair)}")
    ordered = all(a[1] <= b[0] for a, b in itertools.pairwise(pairs))
    if not ordered or any(not 0 <= start < end <= len(text) for start, end in pairs):
        raise DataError(
            f"tokens overlap, are out of order or lie outside the text of {len(text)} characters"
        )
    return [(start, end) for start, end in pairs]


def is_list_of_two(value: Any) -> bool:
    """Whether a value is a list or tuple of two whole numbers."""
    return (
        isinstance(value, list | tuple)
        and len(value) == 2
        and all(isinstance(item, int) and not isinstance(item, bool) for item in value)
    )


def doc_in_file(file: str, doc: str | None) -> str | None:
    """The name of a document of one of several files, which may use the same names."""
    return None if doc is None else f"{file}:{doc}"


def outermost(mentions: Iterable[Mention]) -> tuple[list[Mention], list[Mention]]:
    """Flatten mentions for a tagger: keep the longest of those that overlap (ties: the earliest).

    Returns the mentions kept and those left out.

    >>> [[m[:3] for m in part] for part in outermost([Mention(0, 2, "GPE"), Mention(0, 4, "ORG")])]
    [[(0, 4, 'ORG')], [(0, 2, 'GPE')]]
    """
    kept: list[Mention] = []  # in order of their starts
    rest: list[Mention] = []
    for mention in sorted(mentions, key=lambda m: (m.start - m.end, m.start, m.label)):
        at = bisect_left(kept, mention.start, key=lambda m: m.start)
        before, after = kept[at - 1 : at] if at else [], kept[at : at + 1]
        if any(m.end > mention.start for m in before) or any(m.start < mention.end for m in after):
            rest.append(mention)
        else:
            kept.insert(at, mention)
    return sorted(kept), sorted(rest)


def entity_types(records: Iterable[Record]) -> list[str]:
    """Entity types in alphabetical order."""
    return sorted({mention.label for record in records for mention in record.entities})
