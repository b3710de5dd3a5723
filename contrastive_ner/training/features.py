"""Training features from records: tags for taggers, spans for BINDER.

Texts are read by the same `TextReader` as in inference.
"""

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

from contrastive_ner.data.documents import join_documents
from contrastive_ner.data.records import Record, outermost
from contrastive_ner.data.schemes import spans_to_tags
from contrastive_ner.errors import DataError
from contrastive_ner.evaluation.confusions import SHOWN, first_of, place_of
from contrastive_ner.evaluation.metrics import touching
from contrastive_ner.models.lattice_ner import LATTICE_INPUTS
from contrastive_ner.models.modeling_binder import CUT
from contrastive_ner.models.windows_ner import TextReader, Tokenized, Window, prepare

# --------------------------------------------------------------------------------------------- tags
PUNCTUATION = frozenset("。！？；!?;\n，,、：:.")
STRONG_PUNCTUATION = frozenset("。！？；!?;\n")


@dataclass
class AlignReport:
    """Counts of the mentions that became training features, and of those that did not."""

    sentences: int = 0
    windows: int = 0
    mentions: int = 0
    overlapping: int = 0  # inside or across another mention: a flat tagger cannot predict both
    misaligned: int = 0  # not on token boundaries
    longer_than_window: int = 0
    places: list[str] = field(default_factory=list)  # of the first misaligned mentions

    def to_dict(self) -> dict[str, int]:
        """Counts by name."""
        return {name: count for name, count in asdict(self).items() if name != "places"}

    def __str__(self) -> str:
        return (
            f"{self.sentences} texts in {self.windows} windows, {self.mentions} mentions to learn; "
            f"left out: {self.overlapping} overlapping (the outermost is kept), "
            f"{self.misaligned} not on token boundaries{first_of(self.places)}, "
            f"{self.longer_than_window} longer than a window"
        )


def tag_features(
    records: Sequence[Record], reader: TextReader, labels: Sequence[str]
) -> tuple[list[dict], AlignReport]:
    """Model inputs with BIO labels; longer texts are split, without overlap and outside mentions.

    Args:
        records: annotated texts.
        reader: the reader that inference uses.
        labels: BIO labels of the model.

    Returns:
        Features {"input_ids", "word_mask", "labels"}, lists over tokens including special tokens,
        with label -100 where there is none, and the counts. A `LexiconReader` adds
        "lexicon_words", the words of the window, a `LatticeReader` its lattice.

    Raises:
        DataError: an entity type is not in `labels`.
    """
    ids = {label: i for i, label in enumerate(labels)}
    report = AlignReport(sentences=len(records))
    features = []
    tokenized = reader.tokenize([record.text for record in records])
    for record, text in zip(records, tokenized, strict=True):
        spans = _spans_over_positions(record, text.spans, ids, report)
        tags = spans_to_tags(spans, len(text.spans), "BIO")
        for first, last in _split_positions(record.text, text, spans, reader, report):
            window: Any = reader.window(text, first, last)
            own = tags[first:last]
            # The rest of a mention longer than a window is a mention of its own for the model.
            if own[0].startswith("I-"):
                own[0] = "B-" + own[0][2:]
            values = iter(own)
            row = [ids[next(values)] if is_word else -100 for is_word in window.word_mask]
            feature = {"input_ids": window.input_ids, "word_mask": window.word_mask, "labels": row}
            for name in ("lexicon_words", *LATTICE_INPUTS):
                if hasattr(window, name):
                    feature[name] = getattr(window, name)
            features.append(feature)
    report.windows = len(features)
    return features, report


def note_place(report: "AlignReport | SpanReport", record: Record, mention: Sequence[Any]) -> None:
    """Add the place of a misaligned mention to a report, if it is one of the first."""
    if len(report.places) < SHOWN:
        report.places.append(place_of(record, mention))


def _spans_over_positions(
    record: Record, positions: Sequence[tuple[int, int]], ids: dict[str, int], report: AlignReport
) -> list[tuple[int, int, str]]:
    """Flat mentions as (first, last + 1, label) over label positions; counts the others."""
    starts = {start: i for i, (start, _) in enumerate(positions)}
    ends = {end: i + 1 for i, (_, end) in enumerate(positions)}
    flat, rest = outermost(record.entities)
    report.overlapping += len(rest)
    spans = []
    for mention in flat:
        if f"B-{mention.label}" not in ids:
            known = ", ".join(sorted(label[2:] for label in ids if label.startswith("B-")))
            raise DataError(
                f"record {record.id!r}: entity type {mention.label!r} is unknown to the model "
                f"(it knows {known})"
            )
        if mention.start < mention.end and mention.start in starts and mention.end in ends:
            spans.append((starts[mention.start], ends[mention.end], mention.label))
        else:
            report.misaligned += 1
            note_place(report, record, mention)
    report.mentions += len(spans)
    return spans


def _split_positions(
    text: str,
    tokenized: Tokenized,
    spans: list[tuple[int, int, str]],
    reader: TextReader,
    report: AlignReport,
) -> Iterator[tuple[int, int]]:
    """Windows [first, last) over label positions.

    Cuts follow punctuation where possible and never split a mention that fits into a window.
    """
    inside = {
        i for start, end, _ in spans for i in range(start + 1, end)
    }  # positions with no cut before them
    first, total = 0, len(tokenized.spans)
    while first < total:
        last = reader.fit(tokenized, first)
        if last < total:
            free = [cut for cut in range(first + 1, last + 1) if cut not in inside]
            after = {
                cut: text[tokenized.spans[cut - 1][0]]
                for cut in free
                if cut > first + (last - first) // 2
            }
            strong = [cut for cut, character in after.items() if character in STRONG_PUNCTUATION]
            weak = [cut for cut, character in after.items() if character in PUNCTUATION]
            if free:
                last = (strong or weak or free)[-1]
            else:  # one mention fills the window: cut it, count it once
                report.longer_than_window += first not in inside
        yield first, last
        first = last


# -------------------------------------------------------------------------------------------- spans
@dataclass
class SpanReport:
    """Counts of the mentions that became BINDER features, and of those that did not."""

    texts: int = 0
    windows: int = 0
    mentions: int = 0
    misaligned: int = 0  # not on word (or token) boundaries
    max_width: int = 0
    widths: Counter[int] = field(default_factory=Counter)  # aligned mentions by width in tokens
    places: list[str] = field(default_factory=list)  # of the first misaligned mentions

    @property
    def too_wide(self) -> int:
        """Number of mentions wider than `max_width`."""
        return sum(count for width, count in self.widths.items() if width > self.max_width)

    def to_dict(self) -> dict[str, Any]:
        """Counts by name."""
        own = ("texts", "windows", "mentions", "misaligned", "max_width", "too_wide")
        return {
            **{name: getattr(self, name) for name in own},
            "widths": dict(sorted(self.widths.items())),
        }

    def __str__(self) -> str:
        return (
            f"{self.texts} texts in {self.windows} windows, {self.mentions} mentions to learn; "
            f"left out: {self.misaligned} not on word boundaries{first_of(self.places)}, "
            f"{self.too_wide} wider than {self.max_width} tokens"
        )

    def __add__(self, other: "SpanReport") -> "SpanReport":
        return SpanReport(
            self.texts + other.texts,
            self.windows + other.windows,
            self.mentions + other.mentions,
            self.misaligned + other.misaligned,
            max(self.max_width, other.max_width),
            self.widths + other.widths,
            [*self.places, *other.places][:SHOWN],
        )

    def width_table(self) -> str:
        """Table of the recall lost by each maximum width: mentions within it, share beyond it."""
        total = self.widths.total() + self.misaligned
        steps = sorted({1, 2, 4, 8, 16, 32, 64, self.max_width, max(self.widths, default=1)})
        lines = [f"{'maximum width':<16}{'mentions':>10}{'recall lost':>13}"]
        for step in steps:
            within = sum(count for width, count in self.widths.items() if width <= step)
            lines.append(f"{step:<16}{within:>10}{100 * (1 - within / max(total, 1)):>12.2f}%")
            if within == self.widths.total():
                break
        return "\n".join(lines)


def aligned_mentions(
    records: Sequence[Record], texts: Sequence[Tokenized], report: SpanReport
) -> list[list[tuple[int, int, str]]]:
    """Mentions of each text as (first position, last position + 1, label).

    Adds the widths of these mentions and the number of misaligned ones to `report`.
    """
    rows = []
    for record, text in zip(records, texts, strict=True):
        starts = {start: i for i, (start, _) in enumerate(text.spans)}
        ends = {end: i + 1 for i, (_, end) in enumerate(text.spans)}
        found = []
        for start, end, label in sorted({(m.start, m.end, m.label) for m in record.entities}):
            if start < end and start in starts and end in ends:
                found.append((starts[start], ends[end], label))
                report.widths[
                    text.last_token[ends[end] - 1] - text.first_token[starts[start]] + 1
                ] += 1
            else:
                report.misaligned += 1
                note_place(report, record, (start, end, label))
        rows.append(found)
    return rows


def span_widths(
    records: Sequence[Record], reader: TextReader, max_width: int | None = None
) -> SpanReport:
    """Report on mention widths in tokens, against a limit (default: the greatest width found)."""
    report = SpanReport(texts=len(records))
    aligned_mentions(records, reader.tokenize([record.text for record in records]), report)
    report.max_width = max(report.widths, default=0) if max_width is None else max_width
    report.mentions = report.widths.total() - report.too_wide
    return report


def span_features(
    records: Sequence[Record],
    reader: TextReader,
    types: Sequence[str],
    *,
    max_width: int,
    overlap: int | None,
) -> tuple[list[dict], SpanReport]:
    """BINDER inputs with span labels; longer texts are read in overlapping windows.

    A mention cut by a window is learnt in another window that contains it whole; here its missing
    start or end is marked as cut, so that the visible part is not a negative.

    Args:
        records: whole documents where the data allow it (`join_documents`).
        reader: the reader that inference uses.
        types: entity types in the order of their ids.
        max_width: tokens of the longest span that the model can find.
        overlap: tokens shared by consecutive windows, at least `max_width`; None: as in prediction.

    Returns:
        Features {"input_ids", "word_mask", "word_end_mask": lists over tokens, "labels": [[type,
        first token, last token]]}, and the counts.

    Raises:
        DataError: an entity type is not in `types`; windows are too short for the overlap.
    """
    if overlap is not None and not max_width <= overlap < reader.capacity:
        raise DataError(
            f"windows hold {reader.capacity} tokens and share {overlap}: expected an overlap of at "
            f"least max_span_width ({max_width}) and less than a window; "
            "raise max_window_tokens or lower max_span_width"
        )
    ids = {label: number for number, label in enumerate(types)}
    _check_types(records, types)
    report = SpanReport(texts=len(records), max_width=max_width)
    rows = prepare(reader, [r.text for r in records], min_overlap=max_width, stride=overlap)
    found = aligned_mentions(records, [row.tokenized for row in rows], report)
    features = []
    for (_, text, windows), mentions in zip(rows, found, strict=True):
        near = touching(mentions)
        for window in windows:
            inside = near((window.first, window.last, ""))
            labels = [
                [ids[label], *ends]
                for first, last, label in inside
                if (ends := ends_in_window(first, last, window, text, reader)) != (CUT, CUT)
            ]
            masks = {"word_mask": window.word_mask, "word_end_mask": window.word_end_mask}
            features.append({"input_ids": window.input_ids, **masks, "labels": labels})
    report.windows = len(features)
    report.mentions = report.widths.total() - report.too_wide
    return features, report


def ends_in_window(
    first: int, last: int, window: Window, text: Tokenized, reader: TextReader
) -> tuple[int, int]:
    """First and last token of a mention over positions [first, last); CUT where it is cut off."""
    shift = len(reader.prefix) - text.first_token[window.first]
    start = text.first_token[first] + shift if window.first <= first < window.last else CUT
    end = text.last_token[last - 1] + shift if window.first < last <= window.last else CUT
    if end >= len(window.input_ids) - len(reader.suffix):  # inside a word longer than a window
        end = CUT
    return start, end


def _check_types(records: Sequence[Record], types: Sequence[str]) -> None:
    """DataError if a record has an entity type that is not in `types`."""
    for record in records:
        for mention in record.entities:
            if mention.label not in types:
                raise DataError(
                    f"record {record.id!r}: entity type {mention.label!r} is unknown to the model "
                    f"(it knows {', '.join(types)})"
                )


def set_features(
    data: Any, split: str, reader: TextReader, **limits: Any
) -> tuple[list[dict], SpanReport]:
    """Span features of several data sets, with the number of the set and the mask of its types.

    Raises:
        DataError: a set has no usable mention.
    """
    features, total = [], SpanReport(max_width=limits["max_width"])
    for number, (name, own) in enumerate(data.sets.items()):
        joined = [document.record for document in join_documents(own.records[split])]
        found, report = span_features(joined, reader, data.types, **limits)
        if not report.mentions:
            raise DataError(
                f"data_sets.{name}: {split}: expected mentions to learn or select by, found none "
                f"that the model could find ({report})"
            )
        mask = [label in own.types for label in data.types]
        features += [{**feature, "type_mask": mask, "data_set": number} for feature in found]
        total += report
    return features, total


def overlapping(records: Sequence[Record]) -> bool:
    """Whether any mention lies inside or across another one."""
    return any(outermost(record.entities)[1] for record in records)


def twice_labelled(records: Sequence[Record]) -> bool:
    """Whether any span has two types."""
    return any(
        len({m[:3] for m in record.entities}) > len({m[:2] for m in record.entities})
        for record in records
    )
