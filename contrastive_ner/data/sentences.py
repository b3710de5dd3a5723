"""Sentences of words, with tags or spans over words, and how they become records."""

from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from itertools import chain

from contrastive_ner.data.joining import joiner_of, token_kinds
from contrastive_ner.data.layers import separator_of, unstacked
from contrastive_ner.data.layout import Layout, ReadReport
from contrastive_ner.data.records import Mention, Record
from contrastive_ner.data.schemes import (
    OUTSIDE,
    UNNAMED,
    Pair,
    allowed_prefixes,
    in_scheme,
    pairs_to_spans,
    read_tags,
    scheme_of,
)
from contrastive_ner.errors import DataError
from contrastive_ner.models.windows_ner import joined

UNIT_SPANS = [(i, i + 1) for i in range(1024)]  # shared by all texts of single characters


@dataclass
class Sentence:
    """Words with layers of tags, or with spans (start, end, label) over words.

    `place` names the source for messages, `lines` the line of each word.
    """

    place: str
    id: str
    words: Sequence[str]
    tags: list[Sequence[str]] = field(default_factory=list)
    spans: list[tuple[int, int, str]] = field(default_factory=list)
    doc: str | None = None
    lines: Sequence[int] = ()

    def where(self, i: int) -> str:
        """The place of a word, for messages."""
        return f"line {self.lines[i]}" if self.lines else self.place

    def located(self, name: str, i: int) -> str:
        """The place of a word, as an error begins."""
        if self.lines:
            return f"{name}:{self.lines[i]}"
        line = self.place.removeprefix("line ")
        return f"{name}: {self.place}" if line == self.place else f"{name}:{line}"


def to_records(
    name: str, items: Sequence[Sentence | Record], layout: Layout, report: ReadReport
) -> list[Record]:
    """Records of sentences; items that are records already stay as they are.

    Raises:
        DataError: a tag is not in the scheme of the others, or schemes are mixed.
    """
    sentences = [item for item in items if isinstance(item, Sentence)]
    if not sentences:
        return [item for item in items if isinstance(item, Record)]
    pairs = _pairs(name, sentences, layout, report)
    report.token_kinds = token_kinds(word for item in sentences for word in item.words)
    joiner = joiner_of(report.token_kinds, layout.joiner)
    report.joiner = joiner
    return [
        _record(name, item, joiner, pairs, report) if isinstance(item, Sentence) else item
        for item in items
    ]


def spans_of_tags(
    name: str, layers: Iterable[Sequence[str]], layout: Layout
) -> list[list[tuple[int, int, str]]]:
    """Mentions (start, end, label) over the tokens of tag sequences, all of one scheme.

    Raises:
        DataError: a tag is not in the scheme of the others, or schemes are mixed.
    """
    items = [Sentence(f"row {i}", str(i), layer, [layer]) for i, layer in enumerate(layers)]
    report = ReadReport(path=name)
    pairs = _pairs(name, items, layout, report)
    return [list(_spans(name, item, pairs, report)) for item in items]


def _pairs(
    name: str, sentences: Sequence[Sentence], layout: Layout, report: ReadReport
) -> dict[str, Pair]:
    """The split tags of all sentences; the scheme goes into the report."""
    counts = Counter(chain.from_iterable(layer for item in sentences for layer in item.tags))
    if not counts:
        return {}
    if separator := separator_of(counts):
        report.note(f"cells with several tags ({separator}) are read as nested mentions")
        for item in sentences:
            item.tags = [own for layer in item.tags for own in unstacked(layer, separator)]
        counts = Counter(chain.from_iterable(layer for item in sentences for layer in item.tags))
    layers = [layer for item in sentences for layer in item.tags]
    pairs, spelling = read_tags(counts)
    if len(pairs) < len(counts):
        item, i, tag = next(
            (item, i, tag)
            for item in sentences
            for layer in item.tags
            for i, tag in enumerate(layer)
            if tag not in pairs
        )
        raise DataError(
            f"{item.located(name, i)}: tag {tag!r} is not spelled like the other tags "
            f"(expected O, or {spelling} with another type; BIO, IOB1, BIOES, BMES, BILOU, BMEWO "
            "and IO are known); set tag_columns if tags are in another column"
        )
    if spelling == "B":
        report.note(f"tags have no type: the mentions are of the type {UNNAMED}")
    if spelling == "PER":
        report.note("tags have no B- or I- (IO): adjacent mentions of one type are read as one")
    try:
        report.scheme = _scheme(layers, pairs, spelling, layout)
    except DataError as error:
        found = (
            item.located(name, i)
            for item in sentences
            for layer in item.tags
            for i, tag in enumerate(layer)
            if pairs[tag][0] == "M"
        )
        raise DataError(f"{next(found)}: {error}") from error
    if layout.tag_scheme == "auto":
        pairs = _repaired(sentences, pairs, report)
    return pairs


def _scheme(
    layers: Iterable[Sequence[str]], pairs: dict[str, Pair], spelling: str, layout: Layout
) -> str:
    if layout.tag_scheme != "auto":
        return layout.tag_scheme
    if spelling == "PER":
        return "IO"
    counts: Counter[tuple[Pair, Pair]] = Counter()
    for layer in layers:
        own = [pairs[tag] for tag in layer]
        counts.update(zip(chain([OUTSIDE], own), chain(own, [OUTSIDE]), strict=True))
    return scheme_of(counts)


def _repaired(
    sentences: Iterable[Sentence], pairs: dict[str, Pair], report: ReadReport
) -> dict[str, Pair]:
    """Split tags with prefixes of the detected scheme; those that had others are reported."""
    scheme = report.scheme or "BIO"
    mended = {tag: in_scheme(pair, scheme) for tag, pair in pairs.items()}
    foreign = {tag for tag, pair in pairs.items() if mended[tag] != pair}
    if foreign and scheme != "IO":
        for item in sentences:
            for layer in item.tags:
                for i, tag in enumerate(layer):
                    if tag in foreign:
                        report.repair(f"{item.where(i)}: {tag} where {scheme} does not allow it")
    return mended


def _record(
    name: str, item: Sentence, joiner: str, pairs: dict[str, Pair], report: ReadReport
) -> Record:
    text = joiner.join(item.words)
    tokens = _offsets(item.words, joiner)
    mentions: dict[Mention, None] = {}
    for start, end, label in chain(item.spans, _spans(name, item, pairs, report)):
        mentions[Mention(tokens[start][0], tokens[end - 1][1], label)] = None
    return Record(item.id, text, sorted(mentions), item.doc, tokens)


def _offsets(words: Sequence[str], joiner: str) -> list[tuple[int, int]]:
    if not joiner and len(words) <= len(UNIT_SPANS) and all(len(word) == 1 for word in words):
        return UNIT_SPANS[: len(words)]
    return joined(words, joiner)[1]


def _spans(
    name: str, item: Sentence, pairs: dict[str, Pair], report: ReadReport
) -> Iterator[tuple[int, int, str]]:
    scheme = report.scheme or "BIO"
    for layer in item.tags:
        own = [pairs[tag] for tag in layer]
        try:
            spans, repairs = pairs_to_spans(own, scheme)
        except DataError as error:
            allowed = allowed_prefixes(scheme)
            wrong = next(i for i, pair in enumerate(own) if pair[0] not in allowed)
            raise DataError(f"{item.located(name, wrong)}: {error}") from error
        for i in repairs:
            report.repair(f"{item.where(i)}: {layer[i]} where {scheme} does not allow it")
        yield from spans
