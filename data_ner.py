"""Annotated text: the one record, tag schemes, readers and writers.

Sections: records and reports, tag schemes (IOB1, BIO, BIOES, BMES), reading and writing files (columns, JSONL, CLUENER, `datasets`).
Every reader gives `Record`s; everything trains from `Record`s (`features_ner.py`); nothing is dropped without being counted.

Offsets count code points, half-open, into `text` exactly as given.
"""

import codecs
import itertools
import json
import os
import re
import shutil
import tempfile
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

from windows_ner import joined, word_range

FORMATS = ("columns", "jsonl", "cluener", "datasets")
SCHEMES = ("IOB1", "BIO", "BIOES", "BMES")


class DataError(ValueError):
    """Input that cannot be read as annotated text; the message names file, line, what was expected and what to do."""


# ---------------------------------------------------------------------------------------------------- records and reports
class Mention(NamedTuple):
    """`label` at text[start:end]; predictions carry a score.

    `labels`: the scores of the best types of the span; `abstained`: whether it is one for a person to decide; where they were asked for.
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

    `tokens`: offsets of given words, where the source had words; `doc`: document id. A prediction says which share of the text the model
    has read, `coverage`, and of each mention, which of the given words it touches.
    """

    id: str
    text: str
    entities: list[Mention] = field(default_factory=list)
    doc: str | None = None
    tokens: list[tuple[int, int]] | None = None
    coverage: float | None = None

    def to_dict(self) -> dict[str, Any]:
        entities: list[dict[str, Any]] = []
        for mention in self.entities:
            entity: dict[str, Any] = {"start": mention.start, "end": mention.end, "label": mention.label}
            if mention.score is not None:
                entity["score"] = mention.score
            if self.tokens is not None and self.coverage is not None:
                entity["words"] = list(word_range(self.tokens, mention.start, mention.end))
            if mention.labels:
                entity["labels"] = [{"label": label, "score": score} for label, score in mention.labels]
            if mention.abstained is not None:
                entity["abstained"] = mention.abstained
            entities.append(entity)
        extra: dict[str, Any] = {} if self.doc is None else {"doc": self.doc}
        if self.tokens is not None:
            extra["tokens"] = [list(token) for token in self.tokens]
        if self.coverage is not None:
            extra["coverage"] = self.coverage
        return {"id": self.id, "text": self.text, "entities": entities, **extra}


@dataclass
class ReadReport:
    """What reading a file found and mended."""

    path: str = ""
    format: str = ""
    scheme: str | None = None
    repaired_tags: int = 0
    repairs: list[str] = field(default_factory=list)  # the first ten, as "line 12: I-PER without B-PER"

    def repair(self, where: str) -> None:
        self.repaired_tags += 1
        if len(self.repairs) < 10:
            self.repairs.append(where)


def outermost(mentions: Iterable[Mention]) -> tuple[list[Mention], list[Mention]]:
    """Flat mentions for a tagger: the longest of those that overlap is kept (ties: the earlier). Returns kept, left out.

    >>> [[m[:3] for m in part] for part in outermost([Mention(0, 2, "GPE"), Mention(0, 4, "ORG")])]
    [[(0, 4, 'ORG')], [(0, 2, 'GPE')]]
    """
    kept: list[Mention] = []
    rest: list[Mention] = []
    for mention in sorted(mentions, key=lambda m: (m.start - m.end, m.start, m.label)):
        free = all(mention.end <= other.start or other.end <= mention.start for other in kept)
        (kept if free else rest).append(mention)
    return sorted(kept), sorted(rest)


def entity_types(records: Iterable[Record]) -> list[str]:
    """Entity types in alphabetical order."""
    return sorted({mention.label for record in records for mention in record.entities})


def bio_labels(types: Iterable[str]) -> list[str]:
    """The label list of a tagger: ["O", "B-X", "I-X", ...]."""
    return ["O", *(prefix + name for name in types for prefix in ("B-", "I-"))]


# ------------------------------------------------------------------------------------------------------------ tag schemes
def split_tag(tag: str) -> tuple[str, str]:
    """("B", "PER") of "B-PER", ("O", "") of "O"; ValueError for anything else."""
    if tag == "O":
        return "O", ""
    prefix, dash, label = tag.partition("-")
    if not dash or not label or prefix not in ("B", "I", "M", "E", "S"):
        raise ValueError(f"tag {tag!r} is in no known scheme (expected O, or B-, I-, M-, E-, S- and an entity type)")
    return prefix, label


def detect_scheme(sequences: Iterable[Sequence[str]]) -> str:
    """The scheme of tag sequences. ValueError if M- and I- tags are mixed.

    B/I/O is IOB1 where mentions mostly start with I- (B- only parts two adjacent mentions of one type), else BIO.
    """
    prefixes: set[str] = set()
    starts: Counter[str] = Counter()
    for tags in sequences:
        previous = ("O", "")
        for tag in tags:
            prefix, label = split_tag(tag)
            prefixes.add(prefix)
            if prefix == "B" or (prefix == "I" and previous[1] != label):
                starts[prefix] += 1
            previous = (prefix, label)
    if {"M", "I"} <= prefixes:
        raise ValueError("M- tags (BMES) and I- tags (BIO, BIOES) are mixed: force one with tag_scheme=BMES or another")
    if prefixes & {"M", "E", "S"}:
        return "BIOES" if "I" in prefixes else "BMES"
    return "IOB1" if starts["I"] > starts["B"] else "BIO"


def tags_to_spans(tags: Sequence[str], scheme: str) -> tuple[list[tuple[int, int, str]], list[int]]:
    """Mentions (start, end, label) over tokens, and the positions of tags that had to be repaired.

    An inside tag without a beginning opens a mention; one that the scheme leaves unclosed ends where it stops.

    >>> tags_to_spans(["B-PER", "I-PER", "O", "I-ORG"], "BIO")
    ([(0, 2, 'PER'), (3, 4, 'ORG')], [3])
    """
    closing = scheme in ("BIOES", "BMES")
    allowed = {"IOB1": "BIO", "BIO": "BIO", "BIOES": "BIOES", "BMES": "BMESO"}[scheme]
    spans: list[tuple[int, int, str]] = []
    repairs: list[int] = []
    start, label, open_ = 0, "", False

    def close(end: int, proper: bool) -> None:
        spans.append((start, end, label))
        if not proper:
            repairs.append(end - 1)

    for i, tag in enumerate(tags):
        prefix, name = split_tag(tag)
        if prefix not in allowed:
            raise ValueError(f"tag {tag!r} is not {scheme} (expected {', '.join(sorted(allowed))}); pass tag_scheme=")
        continues = open_ and prefix in "IME" and name == label
        if open_ and not continues:
            close(i, not closing)
            open_ = False
        if prefix == "O":
            continue
        if not continues:
            start, label, open_ = i, name, True
            if prefix in "IME" and scheme != "IOB1":
                repairs.append(i)
        if prefix in "ES":
            close(i + 1, True)
            open_ = False
    if open_:
        close(len(tags), not closing)
    return spans, sorted(set(repairs))


def spans_to_tags(spans: Iterable[tuple[int, int, str]], length: int, scheme: str) -> list[str]:
    """Tags of non-overlapping mentions over `length` tokens.

    >>> spans_to_tags([(0, 3, "PER"), (3, 4, "PER")], 4, "BMES")
    ['B-PER', 'M-PER', 'E-PER', 'S-PER']
    """
    tags = ["O"] * length
    inside = "M" if scheme == "BMES" else "I"
    for start, end, label in sorted(spans):
        if not 0 <= start < end <= length or any(tag != "O" for tag in tags[start:end]):
            raise ValueError(f"mention {(start, end, label)} overlaps another or leaves the {length} tokens")
        tags[start:end] = [f"{inside}-{label}"] * (end - start)
        if scheme in ("BIOES", "BMES"):
            tags[end - 1] = f"E-{label}"
            tags[start] = f"{'S' if end - start == 1 else 'B'}-{label}"
        elif scheme == "BIO" or (start > 0 and tags[start - 1] == f"I-{label}") or _begins(tags, start, label):
            tags[start] = f"B-{label}"
    return tags


def _begins(tags: Sequence[str], start: int, label: str) -> bool:
    """IOB1: the mention before, of the same type, is a single B- token."""
    return start > 0 and tags[start - 1] == f"B-{label}"


# ----------------------------------------------------------------------------------------------------- reading and writing
@dataclass(frozen=True)
class Layout:
    """How a file is laid out; everything has a default that looks at the file.

    Args:
        format: "auto", or one of "columns", "jsonl", "cluener", "datasets".
        tag_scheme: "auto", or one of IOB1, BIO, BIOES, BMES.
        delimiter: "auto" (a tab where the file has one, else a space), "tab", "space".
        token_column: index of the column with the token. tag_columns: indices of the tag columns; empty: all columns after the
            token's if the first row has tags in all of them, else the last one.
        indexed_characters: the token is the column's first character; the rest is an index (Weibo's "高0", "兴1").
        joiner: what stands between tokens in the text: "auto" ("" where tokens are mostly Chinese characters, else a space),
            "none", "space".
    """

    format: str = "auto"
    tag_scheme: str = "auto"
    delimiter: str = "auto"
    token_column: int = 0
    tag_columns: tuple[int, ...] = ()
    indexed_characters: bool = False
    joiner: str = "auto"


def read_records(path: str | Path, layout: Layout = Layout()) -> tuple[list[Record], ReadReport]:
    """Read annotated text. `path`: a file; a `datasets` folder as "FOLDER@SPLIT"; a Hub data set as "NAME@SPLIT".

    Raises:
        DataError: missing, empty or malformed input, with file, line, expectation and remedy.
    """
    name = str(path)
    report = ReadReport(path=name)
    report.format = detect_format(name) if layout.format == "auto" else layout.format
    if report.format not in FORMATS:
        raise DataError(f"{name}: format {report.format!r} is unknown (expected one of {', '.join(FORMATS)})")
    if layout.tag_scheme not in ("auto", *SCHEMES):
        raise DataError(f"{name}: tag_scheme {layout.tag_scheme!r} is unknown (expected one of {', '.join(SCHEMES)})")
    readers: dict[str, Callable[[str, Layout, ReadReport], list[Record]]] = {
        "columns": _read_columns,
        "jsonl": lambda *given: list(_read_json_rows(*given, parse=record_from_dict)),
        "cluener": lambda *given: list(_read_json_rows(*given, parse=record_from_cluener)),
        "datasets": _read_datasets,
    }
    records = readers[report.format](name, layout, report)
    if not records:
        raise DataError(f"{name}: no sentence found (expected {report.format}); is the file empty, or of another format?")
    return records, report


def detect_format(name: str) -> str:
    """Format by name and first line: "@" or a folder is a data set, JSON with "label" is CLUENER, other JSON is JSONL."""
    path = Path(name)
    if path.is_dir() or ("@" in path.name and not path.is_file()):
        return "datasets"
    first = next((line for _, line in read_lines(name) if line.strip()), "")
    if not first.lstrip().startswith("{"):
        return "columns"
    try:
        row = json.loads(first)
    except json.JSONDecodeError:
        return "columns" if path.suffix not in (".json", ".jsonl") else "jsonl"
    return "cluener" if isinstance(row.get("label"), dict) else "jsonl"


def read_raw_lines(name: str) -> Iterator[tuple[int, bytes]]:
    """(number, line) of a file; lines end at \\n or \\r\\n only, a byte-order mark at the start is skipped."""
    if not Path(name).is_file():
        raise DataError(f"{name}: no such file")
    with open(name, "rb") as file:
        for number, raw in enumerate(file, start=1):
            yield number, raw.removeprefix(codecs.BOM_UTF8 if number == 1 else b"").rstrip(b"\r\n")


def read_lines(name: str) -> Iterator[tuple[int, str]]:
    """The same of a UTF-8 file, decoded."""
    for number, raw in read_raw_lines(name):
        try:
            yield number, raw.decode("utf-8")
        except UnicodeDecodeError as error:
            raise DataError(f"{name}:{number}: not UTF-8 at byte {error.start + 1}; convert the file to UTF-8") from error


# -- columns
class _Row(NamedTuple):
    line: int
    token: str
    tags: list[str]


def _read_columns(name: str, layout: Layout, report: ReadReport) -> list[Record]:
    delimiter = _delimiter(name, layout)
    sentences = list(_column_sentences(name, layout, delimiter))
    rows = [row for sentence, _ in sentences for row in sentence]
    if not rows:
        return []
    scheme = layout.tag_scheme
    if scheme == "auto":
        try:
            columns = ([row.tags[c] for row in sentence] for sentence, _ in sentences for c in range(len(rows[0].tags)))
            scheme = detect_scheme(columns)
        except ValueError as error:
            first = next(row for row in rows if any(tag.startswith("M-") for tag in row.tags))
            raise DataError(f"{name}:{first.line}: {error}") from error
    report.scheme = scheme
    joiner = joiner_of(layout, (row.token for row in rows))
    records = []
    for number, (sentence, doc) in enumerate(sentences):
        text, tokens = joined([row.token for row in sentence], joiner)
        mentions: dict[Mention, None] = {}
        for column in range(len(sentence[0].tags)):
            for start, end, label in _column_spans(name, sentence, column, scheme, report):
                mentions[Mention(tokens[start][0], tokens[end - 1][1], label)] = None
        records.append(Record(f"{Path(name).stem}-{number}", text, sorted(mentions), doc, tokens))
    return records


def _column_spans(name: str, sentence: Sequence[_Row], column: int, scheme: str, report: ReadReport) -> list[tuple[int, int, str]]:
    tags = [row.tags[column] for row in sentence]
    try:
        spans, repairs = tags_to_spans(tags, scheme)
    except ValueError as error:
        line = next(row.line for row, tag in zip(sentence, tags, strict=True) if repr(tag) in str(error))
        raise DataError(f"{name}:{line}: {error}") from error
    for i in repairs:
        report.repair(f"line {sentence[i].line}: {tags[i]} where {scheme} does not allow it")
    return spans


def _column_sentences(name: str, layout: Layout, delimiter: str) -> Iterator[tuple[list[_Row], str | None]]:
    """Blank lines part sentences; -DOCSTART- starts a document."""
    sentence: list[_Row] = []
    doc: str | None = None
    documents, width = 0, 0
    tag_columns = layout.tag_columns
    for number, line in read_lines(name):
        if not line.strip(" \t\r"):  # not U+3000 or NBSP: they can be tokens
            if sentence:
                yield sentence, doc
                sentence = []
            continue
        cells = line.split(delimiter)
        if cells[0] == "-DOCSTART-":
            if sentence:
                yield sentence, doc
                sentence = []
            documents += 1
            doc = f"{Path(name).stem}-doc-{documents}"
            continue
        if not width:
            width = len(cells)
            tag_columns = tag_columns or _tag_columns(cells, layout.token_column)
        if len(cells) != width or not tag_columns or max(layout.token_column, *tag_columns) >= width:
            raise DataError(
                f"{name}:{number}: expected {max(width, 2)} columns parted by {delimiter!r}, token in column "
                f"{layout.token_column} and tags after it, found {len(cells)}: {line[:60]!r}; set delimiter, token_column, tag_columns"
            )
        token = cells[layout.token_column]
        if layout.indexed_characters:
            if len(token) < 2 or not token[-1].isdigit():
                raise DataError(f"{name}:{number}: expected a character and its index, found {token!r}; unset indexed_characters")
            token = token[0]
        if not token:
            raise DataError(f"{name}:{number}: empty token in column {layout.token_column}: {line[:60]!r}")
        tags = [cells[c] for c in tag_columns]
        for tag in tags:
            try:
                split_tag(tag)
            except ValueError as error:
                raise DataError(f"{name}:{number}: {error}") from error
        sentence.append(_Row(number, token, tags))
    if sentence:
        yield sentence, doc


def _tag_columns(cells: Sequence[str], token_column: int) -> tuple[int, ...]:
    """The trailing columns that hold tags in the first row; only the last one where something else stands before them."""
    columns: list[int] = []
    for column in range(len(cells) - 1, token_column, -1):
        try:
            split_tag(cells[column])
        except ValueError:
            break
        columns.insert(0, column)
    if columns and columns[0] != token_column + 1:  # other annotation stands between, as in CoNLL-2003: part of speech, chunks
        return (columns[-1],)
    return tuple(columns) or ((len(cells) - 1,) if len(cells) > token_column + 1 else ())


def _delimiter(name: str, layout: Layout) -> str:
    given = {"tab": "\t", "space": " "}.get(layout.delimiter)
    if given:
        return given
    if layout.delimiter != "auto":
        raise DataError(f"delimiter is {layout.delimiter!r}: expected auto, tab or space")
    rows = (line for _, line in read_lines(name) if line.strip(" \t\r") and not line.startswith("-DOCSTART-"))
    return next(("\t" if "\t" in line else " " for line in rows), " ")


def is_ideograph(character: str) -> bool:
    return "\u3400" <= character <= "\u9fff" or "\U00020000" <= character <= "\U0003fffd"


def joiner_of(layout: Layout, tokens: Iterable[str]) -> str:
    if layout.joiner != "auto":
        if layout.joiner not in ("none", "space"):
            raise DataError(f"joiner is {layout.joiner!r}: expected auto, none or space")
        return "" if layout.joiner == "none" else " "
    sample = [token for token, _ in zip(tokens, range(20000), strict=False)]
    return "" if 2 * sum(is_ideograph(token[0]) for token in sample) > len(sample) else " "


# -- JSON
def record_from_dict(row: Any, number: int) -> Record:
    """A record from JSON; ValueError says which field is wrong."""
    if not isinstance(row, dict):
        raise ValueError(f"expected an object, found {type(row).__name__}")
    if not isinstance(row.get("text"), str):
        raise ValueError(f"expected a string in 'text', found {sorted(row)}; is the text in another column?")
    if "entities" not in row and isinstance(row.get("label"), list):
        raise ValueError("expected mentions in 'entities' as {start, end, label}, found a list in 'label'; rename and convert it")
    text, entities = row["text"], row.get("entities", [])
    if not isinstance(entities, list):
        raise ValueError(f"expected a list in 'entities', found {type(entities).__name__}")
    mentions = []
    for entity in entities:
        if not isinstance(entity, dict) or not {"start", "end", "label"} <= entity.keys():
            raise ValueError(f"expected entities with start, end, label, found {entity!r}")
        mentions.append(_mention(text, entity["start"], entity["end"], entity["label"], entity.get("score")))
    tokens = row.get("tokens")
    if tokens is not None:
        tokens = [(int(start), int(end)) for start, end in tokens]
        ordered = all(a[1] <= b[0] for a, b in itertools.pairwise(tokens))
        if not ordered or any(not 0 <= start < end <= len(text) for start, end in tokens):
            raise ValueError(f"tokens overlap, are out of order or lie outside the text of {len(text)} characters")
    return Record(str(row.get("id", number)), text, sorted(dict.fromkeys(mentions)), row.get("doc"), tokens)


def _mention(text: str, start: Any, end: Any, label: Any, score: float | None = None) -> Mention:
    if not (isinstance(start, int) and isinstance(end, int) and isinstance(label, str) and label):
        raise ValueError(f"expected integer offsets and a label, found {(start, end, label)!r}")
    if start >= end:
        raise ValueError(f"entity {(start, end, label)!r} is empty or reversed (expected start < end, half-open)")
    if start < 0 or end > len(text):
        raise ValueError(f"entity {(start, end, label)!r} lies outside the text of {len(text)} characters")
    return Mention(start, end, label, score)


def record_from_cluener(row: Any, number: int) -> Record:
    """{"text": ..., "label": {type: {surface: [[first, last]]}}} with inclusive ends."""
    if not isinstance(row, dict) or not isinstance(row.get("text"), str) or not isinstance(row.get("label", {}), dict):
        raise ValueError("expected CLUENER's 'text' and 'label' (type -> surface -> [[first, last]])")
    mentions = []
    for label, surfaces in row.get("label", {}).items():
        if not isinstance(surfaces, dict):
            raise ValueError(f"expected surface -> [[first, last]] under {label!r}, found {surfaces!r}")
        for surface, places in surfaces.items():
            for first, last in places:
                mention = _mention(row["text"], first, last + 1, label)
                if row["text"][mention.start : mention.end] != surface:
                    raise ValueError(f"{label} {surface!r} is not at {first}..{last} (inclusive)")
                mentions.append(mention)
    return Record(str(row.get("id", number)), row["text"], sorted(mentions))


def _read_json_rows(name: str, layout: Layout, report: ReadReport, *, parse: Callable[[Any, int], Record]) -> Iterator[Record]:
    for number, line in read_lines(name):
        if not line.strip():
            continue
        try:
            yield parse(json.loads(line), number)
        except (ValueError, TypeError) as error:
            raise DataError(f"{name}:{number}: {error}") from error


# -- datasets
def _read_datasets(name: str, layout: Layout, report: ReadReport) -> list[Record]:
    """A `datasets` data set with `tokens` and `ner_tags` (ClassLabel names), on disk or on the Hub: "NAME@SPLIT"."""
    import datasets

    has_split = "@" in Path(name).name and not Path(name).is_dir()
    place, _, split = name.rpartition("@") if has_split else (name, "", "")
    try:
        data = datasets.load_from_disk(place) if Path(place).is_dir() else datasets.load_dataset(place)
    except Exception as error:
        raise DataError(f"{place}: no data set could be loaded from disk or Hub: {error}") from error
    if isinstance(data, dict):
        if split not in data:
            raise DataError(f"{name}: split {split!r} not found (there are {sorted(data)}); write {place}@SPLIT")
        data = data[split]
    missing = {"tokens", "ner_tags"} - set(data.column_names)
    if missing:
        raise DataError(f"{name}: column {sorted(missing)} is missing (found {data.column_names})")
    rows = [_dataset_row(name, number, row, data.features["ner_tags"]) for number, row in enumerate(data)]
    scheme = layout.tag_scheme
    if scheme == "auto":
        try:
            scheme = detect_scheme(tags for _, tags in rows)
        except ValueError as error:
            raise DataError(f"{name}: {error}") from error
    report.scheme = scheme
    joiner = joiner_of(layout, (token for tokens, _ in rows for token in tokens))
    records = []
    for number, (words, tags) in enumerate(rows):
        text, tokens = joined(words, joiner)
        try:
            spans, repairs = tags_to_spans(tags, scheme)
        except ValueError as error:
            raise DataError(f"{name}: row {number}: {error}") from error
        for i in repairs:
            report.repair(f"row {number}: {tags[i]} where {scheme} does not allow it")
        mentions = [Mention(tokens[start][0], tokens[end - 1][1], label) for start, end, label in spans]
        records.append(Record(f"{split or Path(place).name}-{number}", text, mentions, None, tokens))
    return records


def _dataset_row(name: str, number: int, row: dict[str, Any], feature: Any) -> tuple[list[str], list[str]]:
    """Tokens and tag names of a data set's row; DataError where they are not that."""
    where = f"{name}: row {number}"
    tokens, tags = row["tokens"], row["ner_tags"]
    if not isinstance(tokens, list) or not isinstance(tags, list) or len(tokens) != len(tags):
        raise DataError(f"{where}: expected as many ner_tags as tokens, found {tags!r} for {tokens!r}")
    if any(not isinstance(token, str) or not token for token in tokens):
        raise DataError(f"{where}: expected strings in tokens, none of them empty, found {tokens!r}")
    names = getattr(getattr(feature, "feature", None), "names", None)
    for i, tag in enumerate(tags):
        if names is not None and not (isinstance(tag, int) and 0 <= tag < len(names)):
            raise DataError(f"{where}: ner_tags hold {tag!r}, which is no class (0 to {len(names) - 1}; -1 is unlabelled: drop such rows)")
        tags[i] = names[tag] if names is not None else tag
        if not isinstance(tags[i], str):
            raise DataError(f"{where}: ner_tags hold {tag!r} without ClassLabel names; cast the column to ClassLabel or strings")
        try:
            split_tag(tags[i])
        except ValueError as error:
            raise DataError(f"{where}: {error}") from error
    return tokens, tags


# -- writing
def write_records(records: Sequence[Record], path: str | Path, format: str = "jsonl", scheme: str = "BIO") -> None:
    """Write records atomically as "jsonl", "cluener", "columns" (tab; nested mentions in further columns) or "datasets" (a folder).

    Columns and data sets are written over `tokens`, or characters where a record has none.

    Raises:
        ValueError: a mention does not fall on token boundaries; the format is unknown; the folder exists.
    """
    if format == "datasets":
        _write_datasets(records, Path(path), scheme)
    else:
        with atomic_writer(path) as file:
            for number, piece in enumerate(format_records(records, format, scheme)):
                # A text that starts with U+FEFF would lose it to the reader's byte-order mark: give it one to lose.
                file.write("\ufeff" + piece if number == 0 and piece.startswith("\ufeff") else piece)


def format_records(records: Sequence[Record], format: str, scheme: str = "BIO") -> Iterator[str]:
    """The text of records in a file format, a piece a record."""
    if format == "jsonl":
        for record in records:
            yield _json_line(record.to_dict())
    elif format == "cluener":
        for record in records:
            label: dict[str, dict[str, list[list[int]]]] = {}
            for m in record.entities:
                label.setdefault(m.label, {}).setdefault(record.text[m.start : m.end], []).append([m.start, m.end - 1])
            yield _json_line({"text": record.text, "label": label})
    elif format == "columns":
        layered = [tag_layers(record, scheme) for record in records]
        width = max((len(layers) for layers in layered), default=1)
        for record, layers in zip(records, layered, strict=True):
            tokens = tokens_of(record)
            broken = next((record.text[a:b] for a, b in tokens if set(record.text[a:b]) & {"\t", "\r", "\n"}), None)
            if broken is not None:
                raise ValueError(f"record {record.id!r}: token {broken!r} holds a tab or line end: write jsonl instead")
            layers += [["O"] * len(tokens)] * (width - len(layers))
            for i, (start, end) in enumerate(tokens):
                yield "\t".join([record.text[start:end], *(layer[i] for layer in layers)]) + "\n"
            yield "\n"
    else:
        raise ValueError(f"format {format!r} cannot be written as text (expected jsonl, cluener or columns)")


def _json_line(row: dict[str, Any]) -> str:
    line = json.dumps(row, ensure_ascii=False)
    # A lone surrogate has no UTF-8: such a row is written in escapes.
    return (line if line.isascii() or not re.search("[\ud800-\udfff]", line) else json.dumps(row)) + "\n"


def tokens_of(record: Record) -> list[tuple[int, int]]:
    """What columns are written over: a record's tokens, else its characters but tabs and line ends."""
    return record.tokens or [(i, i + 1) for i, c in enumerate(record.text) if c not in "\t\r\n"]


def tag_layers(record: Record, scheme: str) -> list[list[str]]:
    """Tags over a record's tokens; overlapping mentions go to further layers, the outermost to the first."""
    tokens = tokens_of(record)
    starts = {start: i for i, (start, _) in enumerate(tokens)}
    ends = {end: i + 1 for i, (_, end) in enumerate(tokens)}
    layers: list[list[str]] = []
    rest = record.entities
    while rest or not layers:
        kept, rest = outermost(rest)
        for mention in kept:
            if mention.start not in starts or mention.end not in ends:
                raise ValueError(f"record {record.id!r}: {mention} does not fall on token boundaries; write jsonl instead")
        spans = [(starts[m.start], ends[m.end], m.label) for m in kept]
        layers.append(spans_to_tags(spans, len(tokens), scheme))
    return layers


def _write_datasets(records: Sequence[Record], path: Path, scheme: str) -> None:
    import datasets

    if path.exists():
        raise ValueError(f"{path} exists: name a new folder")
    layers = [tag_layers(record, scheme) for record in records]
    if any(len(own) > 1 for own in layers):
        raise ValueError("nested mentions do not fit into ner_tags: write jsonl or columns instead")
    names = ["O", *sorted({tag for own in layers for tag in own[0]} - {"O"})]
    tokens = datasets.List(datasets.Value("string"))
    features = datasets.Features({"tokens": tokens, "ner_tags": datasets.List(datasets.ClassLabel(names=names))})
    rows = {
        "tokens": [[record.text[start:end] for start, end in tokens_of(record)] for record in records],
        "ner_tags": [own[0] for own in layers],
    }
    datasets.Dataset.from_dict(rows, features=features).save_to_disk(str(path))


class atomic_writer:
    """A text file that appears complete or not at all."""

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path)
        self.temporary: str | None = None

    def __enter__(self) -> Any:
        if self.path.is_symlink() or (self.path.exists() and not self.path.is_file()):
            self.file = open(self.path, "w", encoding="utf-8", newline="\n")  # a link or device is written through, never replaced
            return self.file
        self.path.parent.mkdir(parents=True, exist_ok=True)
        handle, self.temporary = tempfile.mkstemp(dir=self.path.parent, prefix=f".{self.path.name}.")
        self.file = os.fdopen(handle, "w", encoding="utf-8", newline="\n")
        return self.file

    def __exit__(self, kind: Any, error: Any, trace: Any) -> None:
        try:
            self.file.close()
            if kind is None and self.temporary is not None:
                os.chmod(self.temporary, 0o644)
                os.replace(self.temporary, self.path)
        finally:
            if self.temporary is not None:
                Path(self.temporary).unlink(missing_ok=True)


def write_json(values: Any, path: Path) -> None:
    """Write a JSON file that appears complete or not at all. It is indented; lists of whole numbers take one line."""
    text = json.dumps(values, ensure_ascii=False, indent=1)
    # Strings hold no raw line break: what has one is layout.
    text = re.sub(r"\[\n *(-?\d+(?:,\n *-?\d+)*)\n *\]", lambda match: f"[{' '.join(match[1].split())}]", text)
    with atomic_writer(path) as file:
        file.write(text + "\n")


def read_json(path: Path) -> Any:
    return json.loads(path.read_text("utf-8"))


def fresh_folder(path: Path) -> Path:
    """An empty folder in the place of whatever was there."""
    shutil.rmtree(path, ignore_errors=True)
    path.mkdir(parents=True)
    return path


def move_folder(source: Path, target: Path) -> None:
    """Give a complete folder its name, in the place of an older one."""
    shutil.rmtree(target, ignore_errors=True)
    os.replace(source, target)
