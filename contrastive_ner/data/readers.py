"""Annotated text: readers of columns, JSONL, CLUENER and `datasets`.

Every reader gives `Record`s; nothing is dropped without being counted.
"""

import codecs
import itertools
import json
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

from contrastive_ner.data.records import Mention, Record
from contrastive_ner.data.schemes import SCHEMES, detect_scheme, split_tag, tags_to_spans
from contrastive_ner.errors import DataError
from contrastive_ner.models.windows_ner import joined

FORMATS = ("columns", "jsonl", "cluener", "datasets")


@dataclass
class ReadReport:
    """What reading a file found and mended."""

    path: str = ""
    format: str = ""
    scheme: str | None = None
    repaired_tags: int = 0
    repairs: list[str] = field(
        default_factory=list
    )  # the first ten, as "line 12: I-PER without B-PER"

    def repair(self, where: str) -> None:
        self.repaired_tags += 1
        if len(self.repairs) < 10:
            self.repairs.append(where)


# ------------------------------------------------------------------------------ reading and writing
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
        raise DataError(
            f"{name}: format {report.format!r} is unknown (expected one of {', '.join(FORMATS)})"
        )
    if layout.tag_scheme not in ("auto", *SCHEMES):
        raise DataError(
            f"{name}: tag_scheme {layout.tag_scheme!r} is unknown (expected one of {', '.join(SCHEMES)})"
        )
    readers: dict[str, Callable[[str, Layout, ReadReport], list[Record]]] = {
        "columns": _read_columns,
        "jsonl": lambda *given: list(_read_json_rows(*given, parse=record_from_dict)),
        "cluener": lambda *given: list(_read_json_rows(*given, parse=record_from_cluener)),
        "datasets": _read_datasets,
    }
    records = readers[report.format](name, layout, report)
    if not records:
        raise DataError(
            f"{name}: no sentence found (expected {report.format}); is the file empty, or of another format?"
        )
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
            raise DataError(
                f"{name}:{number}: not UTF-8 at byte {error.start + 1}; convert the file to UTF-8"
            ) from error


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
            columns = (
                [row.tags[c] for row in sentence]
                for sentence, _ in sentences
                for c in range(len(rows[0].tags))
            )
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


def _column_spans(
    name: str, sentence: Sequence[_Row], column: int, scheme: str, report: ReadReport
) -> list[tuple[int, int, str]]:
    tags = [row.tags[column] for row in sentence]
    try:
        spans, repairs = tags_to_spans(tags, scheme)
    except ValueError as error:
        line = next(
            row.line for row, tag in zip(sentence, tags, strict=True) if repr(tag) in str(error)
        )
        raise DataError(f"{name}:{line}: {error}") from error
    for i in repairs:
        report.repair(f"line {sentence[i].line}: {tags[i]} where {scheme} does not allow it")
    return spans


def _column_sentences(
    name: str, layout: Layout, delimiter: str
) -> Iterator[tuple[list[_Row], str | None]]:
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
        if (
            len(cells) != width
            or not tag_columns
            or max(layout.token_column, *tag_columns) >= width
        ):
            raise DataError(
                f"{name}:{number}: expected {max(width, 2)} columns parted by {delimiter!r}, token in column "
                f"{layout.token_column} and tags after it, found {len(cells)}: {line[:60]!r}; set delimiter, token_column, tag_columns"
            )
        token = cells[layout.token_column]
        if layout.indexed_characters:
            if len(token) < 2 or not token[-1].isdigit():
                raise DataError(
                    f"{name}:{number}: expected a character and its index, found {token!r}; unset indexed_characters"
                )
            token = token[0]
        if not token:
            raise DataError(
                f"{name}:{number}: empty token in column {layout.token_column}: {line[:60]!r}"
            )
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
    if (
        columns and columns[0] != token_column + 1
    ):  # other annotation stands between, as in CoNLL-2003: part of speech, chunks
        return (columns[-1],)
    return tuple(columns) or ((len(cells) - 1,) if len(cells) > token_column + 1 else ())


def _delimiter(name: str, layout: Layout) -> str:
    given = {"tab": "\t", "space": " "}.get(layout.delimiter)
    if given:
        return given
    if layout.delimiter != "auto":
        raise DataError(f"delimiter is {layout.delimiter!r}: expected auto, tab or space")
    rows = (
        line
        for _, line in read_lines(name)
        if line.strip(" \t\r") and not line.startswith("-DOCSTART-")
    )
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
        raise DataError(f"expected an object, found {type(row).__name__}")
    if not isinstance(row.get("text"), str):
        raise DataError(
            f"expected a string in 'text', found {sorted(row)}; is the text in another column?"
        )
    if "entities" not in row and isinstance(row.get("label"), list):
        raise DataError(
            "expected mentions in 'entities' as {start, end, label}, found a list in 'label'; rename and convert it"
        )
    text, entities = row["text"], row.get("entities", [])
    if not isinstance(entities, list):
        raise DataError(f"expected a list in 'entities', found {type(entities).__name__}")
    mentions = []
    for entity in entities:
        if not isinstance(entity, dict) or not {"start", "end", "label"} <= entity.keys():
            raise DataError(f"expected entities with start, end, label, found {entity!r}")
        mentions.append(
            _mention(text, entity["start"], entity["end"], entity["label"], entity.get("score"))
        )
    tokens = row.get("tokens")
    if tokens is not None:
        tokens = [(int(start), int(end)) for start, end in tokens]
        ordered = all(a[1] <= b[0] for a, b in itertools.pairwise(tokens))
        if not ordered or any(not 0 <= start < end <= len(text) for start, end in tokens):
            raise DataError(
                f"tokens overlap, are out of order or lie outside the text of {len(text)} characters"
            )
    return Record(
        str(row.get("id", number)), text, sorted(dict.fromkeys(mentions)), row.get("doc"), tokens
    )


def _mention(text: str, start: Any, end: Any, label: Any, score: float | None = None) -> Mention:
    if not (isinstance(start, int) and isinstance(end, int) and isinstance(label, str) and label):
        raise DataError(f"expected integer offsets and a label, found {(start, end, label)!r}")
    if start >= end:
        raise DataError(
            f"entity {(start, end, label)!r} is empty or reversed (expected start < end, half-open)"
        )
    if start < 0 or end > len(text):
        raise DataError(
            f"entity {(start, end, label)!r} lies outside the text of {len(text)} characters"
        )
    return Mention(start, end, label, score)


def record_from_cluener(row: Any, number: int) -> Record:
    """{"text": ..., "label": {type: {surface: [[first, last]]}}} with inclusive ends."""
    if (
        not isinstance(row, dict)
        or not isinstance(row.get("text"), str)
        or not isinstance(row.get("label", {}), dict)
    ):
        raise DataError(
            "expected CLUENER's 'text' and 'label' (type -> surface -> [[first, last]])"
        )
    mentions = []
    for label, surfaces in row.get("label", {}).items():
        if not isinstance(surfaces, dict):
            raise DataError(
                f"expected surface -> [[first, last]] under {label!r}, found {surfaces!r}"
            )
        for surface, places in surfaces.items():
            for first, last in places:
                mention = _mention(row["text"], first, last + 1, label)
                if row["text"][mention.start : mention.end] != surface:
                    raise DataError(f"{label} {surface!r} is not at {first}..{last} (inclusive)")
                mentions.append(mention)
    return Record(str(row.get("id", number)), row["text"], sorted(mentions))


def _read_json_rows(
    name: str, layout: Layout, report: ReadReport, *, parse: Callable[[Any, int], Record]
) -> Iterator[Record]:
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
        data = (
            datasets.load_from_disk(place) if Path(place).is_dir() else datasets.load_dataset(place)
        )
    except Exception as error:
        raise DataError(
            f"{place}: no data set could be loaded from disk or Hub: {error}"
        ) from error
    if isinstance(data, dict):
        if split not in data:
            raise DataError(
                f"{name}: split {split!r} not found (there are {sorted(data)}); write {place}@SPLIT"
            )
        data = data[split]
    missing = {"tokens", "ner_tags"} - set(data.column_names)
    if missing:
        raise DataError(f"{name}: column {sorted(missing)} is missing (found {data.column_names})")
    rows = [
        _dataset_row(name, number, row, data.features["ner_tags"])
        for number, row in enumerate(data)
    ]
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
        mentions = [
            Mention(tokens[start][0], tokens[end - 1][1], label) for start, end, label in spans
        ]
        records.append(
            Record(f"{split or Path(place).name}-{number}", text, mentions, None, tokens)
        )
    return records


def _dataset_row(
    name: str, number: int, row: dict[str, Any], feature: Any
) -> tuple[list[str], list[str]]:
    """Tokens and tag names of a data set's row; DataError where they are not that."""
    where = f"{name}: row {number}"
    tokens, tags = row["tokens"], row["ner_tags"]
    if not isinstance(tokens, list) or not isinstance(tags, list) or len(tokens) != len(tags):
        raise DataError(
            f"{where}: expected as many ner_tags as tokens, found {tags!r} for {tokens!r}"
        )
    if any(not isinstance(token, str) or not token for token in tokens):
        raise DataError(
            f"{where}: expected strings in tokens, none of them empty, found {tokens!r}"
        )
    names = getattr(getattr(feature, "feature", None), "names", None)
    for i, tag in enumerate(tags):
        if names is not None and not (isinstance(tag, int) and 0 <= tag < len(names)):
            raise DataError(
                f"{where}: ner_tags hold {tag!r}, which is no class (0 to {len(names) - 1}; -1 is unlabelled: drop such rows)"
            )
        tags[i] = names[tag] if names is not None else tag
        if not isinstance(tags[i], str):
            raise DataError(
                f"{where}: ner_tags hold {tag!r} without ClassLabel names; cast the column to ClassLabel or strings"
            )
        try:
            split_tag(tags[i])
        except ValueError as error:
            raise DataError(f"{where}: {error}") from error
    return tokens, tags
