"""Readers of annotated text: columns, JSONL, CLUENER and `datasets`.

All readers produce `Record`s. Nothing is dropped without being counted.
"""

import codecs
import json
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

from contrastive_ner.data.records import Mention, Record, is_list_of_two, token_offsets
from contrastive_ner.data.schemes import SCHEMES, detect_scheme, split_tag, tags_to_spans
from contrastive_ner.errors import DataError, is_storable, shown
from contrastive_ner.files import readable
from contrastive_ner.models.windows_ner import joined

FORMATS = ("columns", "jsonl", "cluener", "datasets")
LAYOUT_CHOICES = {
    "tag_scheme": ("auto", *SCHEMES),
    "delimiter": ("auto", "tab", "space"),
    "joiner": ("auto", "none", "space"),
}
MALFORMED = (ValueError, TypeError, RecursionError)  # what parsing a bad row of JSON may raise


@dataclass
class ReadReport:
    """What reading a file found and repaired."""

    path: str = ""
    format: str = ""
    scheme: str | None = None
    repaired_tags: int = 0
    # The first ten repairs, as "line 12: I-PER where BIO does not allow it".
    repairs: list[str] = field(default_factory=list)

    def repair(self, where: str) -> None:
        """Count a repaired tag and keep its description if it is one of the first ten."""
        self.repaired_tags += 1
        if len(self.repairs) < 10:
            self.repairs.append(where)


# ------------------------------------------------------------------------------ reading and writing
@dataclass(frozen=True)
class Layout:
    """How a file is laid out. With "auto", a setting is detected from the file.

    Args:
        format: "auto", "columns", "jsonl", "cluener" or "datasets".
        tag_scheme: "auto", "IOB1", "BIO", "BIOES" or "BMES".
        delimiter: "auto" (a tab if the first row has one, else a space), "tab" or "space".
        token_column: index of the token column.
        tag_columns: indices of the tag columns. Empty means all columns after the token if the
            first row has tags in all of them, else the last column.
        indexed_characters: the token is the first character of its column and the rest is an
            index (Weibo's "高0", "兴1").
        joiner: what separates tokens in the text: "auto" (nothing if most tokens are Chinese
            characters, else a space), "none" or "space".
    """

    format: str = "auto"
    tag_scheme: str = "auto"
    delimiter: str = "auto"
    token_column: int = 0
    tag_columns: tuple[int, ...] = ()
    indexed_characters: bool = False
    joiner: str = "auto"

    def __post_init__(self) -> None:
        for name, known in LAYOUT_CHOICES.items():
            if (given := getattr(self, name)) not in known:
                raise DataError(f"{name}: expected one of {', '.join(known)}, found {shown(given)}")
        for column in (self.token_column, *self.tag_columns):
            if column < 0:
                raise DataError(f"columns are counted from 0: found {shown(column)}")


def read_records(path: str | Path, layout: Layout = Layout()) -> tuple[list[Record], ReadReport]:
    """Read annotated text.

    Args:
        path: a file, a `datasets` folder as "FOLDER@SPLIT", or a Hub data set as "NAME@SPLIT".

    Raises:
        DataError: missing, empty or malformed input. The message gives the file, the line, what
            was expected and the fix.
    """
    name = str(path)
    report = ReadReport(path=name)
    report.format = detect_format(name) if layout.format == "auto" else layout.format
    if report.format not in FORMATS:
        raise DataError(
            f"{name}: format: expected one of {', '.join(FORMATS)}, found {report.format!r}"
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
            f"{name}: expected data in {report.format} format, found no sentence; "
            "check that the file is not empty and is in this format"
        )
    return records, report


def detect_format(name: str) -> str:
    """Detect the format from the name and the first line.

    A folder, or a name with "@" that is not a file, is a data set. JSON with an object in "label"
    is CLUENER, other JSON is JSONL, and everything else is columns.
    """
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
    except (ValueError, RecursionError):  # a number or a depth beyond Python's limits
        return "jsonl"
    return "cluener" if isinstance(row.get("label"), dict) else "jsonl"


def read_raw_lines(name: str) -> Iterator[tuple[int, bytes]]:
    """Yield (number, line) of a file, from 1.

    Lines end only at \\n or \\r\\n. A byte-order mark at the start of the file is skipped.
    """
    if not Path(name).is_file():
        raise DataError(f"{name}: no such file")
    with open(name, "rb") as file:
        for number, raw in enumerate(file, start=1):
            yield number, raw.removeprefix(codecs.BOM_UTF8 if number == 1 else b"").rstrip(b"\r\n")


def read_lines(name: str) -> Iterator[tuple[int, str]]:
    """Yield (number, line) of a UTF-8 file as `read_raw_lines` does, decoded."""
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
    """Yield (rows, document) per sentence. A blank line ends it; -DOCSTART- starts a document."""
    sentence: list[_Row] = []
    doc: str | None = None
    documents, width = 0, 0
    tag_columns = layout.tag_columns
    for number, line in read_lines(name):
        if not line.strip(" \t\r"):  # U+3000 and NBSP can be tokens
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
                f"{name}:{number}: expected {max(width, 2)} columns separated by {delimiter!r}, "
                f"with the token in column {layout.token_column} and tags after it, found "
                f"{len(cells)}: {line[:60]!r}; set delimiter, token_column or tag_columns"
            )
        token = cells[layout.token_column]
        if layout.indexed_characters:
            if len(token) < 2 or not token[-1].isdigit():
                raise DataError(
                    f"{name}:{number}: expected a character and its index, found {token!r}; "
                    "unset indexed_characters"
                )
            token = token[0]
        if not token:
            raise DataError(
                f"{name}:{number}: expected a token in column {layout.token_column}, found none: "
                f"{line[:60]!r}; correct or remove the line"
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
    """Trailing columns of the first row that hold tags; only the last if others precede them."""
    columns: list[int] = []
    for column in range(len(cells) - 1, token_column, -1):
        try:
            split_tag(cells[column])
        except ValueError:
            break
        columns.insert(0, column)
    # Other annotation may come in between, such as part of speech and chunks in CoNLL-2003.
    if columns and columns[0] != token_column + 1:
        return (columns[-1],)
    return tuple(columns) or ((len(cells) - 1,) if len(cells) > token_column + 1 else ())


def _delimiter(name: str, layout: Layout) -> str:
    if layout.delimiter != "auto":
        return {"tab": "\t", "space": " "}[layout.delimiter]
    rows = (
        line
        for _, line in read_lines(name)
        if line.strip(" \t\r") and not line.startswith("-DOCSTART-")
    )
    return next(("\t" if "\t" in line else " " for line in rows), " ")


def is_ideograph(character: str) -> bool:
    """Whether a character is a CJK ideograph."""
    return "\u3400" <= character <= "\u9fff" or "\U00020000" <= character <= "\U0003fffd"


def joiner_of(layout: Layout, tokens: Iterable[str]) -> str:
    """The string that separates tokens in the text; "auto" looks at the first 20,000 tokens."""
    if layout.joiner != "auto":
        return "" if layout.joiner == "none" else " "
    sample = [token for token, _ in zip(tokens, range(20000), strict=False)]
    return "" if 2 * sum(is_ideograph(token[0]) for token in sample) > len(sample) else " "


# -- JSON
def record_from_dict(row: Any, number: int) -> Record:
    """Make a record of a JSON object; `number` is its id if it has none.

    Raises:
        ValueError, TypeError: a field is missing or wrong; the message describes it.
    """
    if not isinstance(row, dict):
        raise DataError(f"expected an object, found {type(row).__name__}")
    if not isinstance(row.get("text"), str):
        raise DataError(
            f"expected a string in 'text', found the keys {sorted(row)}; "
            "check that the text is not under another key"
        )
    if "entities" not in row and isinstance(row.get("label"), list):
        raise DataError(
            "expected mentions in 'entities' as {start, end, label}, found a list in 'label'; "
            "rename and convert it"
        )
    text, entities = row["text"], row.get("entities", [])
    if not isinstance(entities, list):
        raise DataError(f"expected a list in 'entities', found {type(entities).__name__}")
    mentions = []
    for entity in entities:
        if not isinstance(entity, dict) or not {"start", "end", "label"} <= entity.keys():
            raise DataError(f"expected entities with start, end, label, found {shown(entity)}")
        mentions.append(
            _mention(text, entity["start"], entity["end"], entity["label"], entity.get("score"))
        )
    tokens = row.get("tokens")
    if tokens is not None:
        tokens = token_offsets(tokens, text)
    mentions = sorted(dict.fromkeys(mentions), key=lambda mention: mention[:3])
    doc = None if row.get("doc") is None else str(row["doc"])
    return Record(str(row.get("id", number)), text, mentions, doc, tokens)


def _mention(text: str, start: Any, end: Any, label: Any, score: Any = None) -> Mention:
    found = shown((start, end, label))
    if not (isinstance(start, int) and isinstance(end, int) and isinstance(label, str) and label):
        raise DataError(f"expected integer offsets and a label, found {found}")
    if not is_storable(label):
        raise DataError(f"expected a label without NUL and lone surrogates, found {found}")
    if start >= end:
        raise DataError(f"entity {found} is empty or reversed (expected start < end, half-open)")
    if start < 0 or end > len(text):
        raise DataError(f"entity {found} lies outside the text of {len(text)} characters")
    if not isinstance(score, int | float | None):
        raise DataError(f"entity {found}: expected a number as its score, found {shown(score)}")
    return Mention(start, end, label, score)


def record_from_cluener(row: Any, number: int) -> Record:
    """Make a record of a CLUENER object; `number` is its id if it has none.

    The object is {"text": ..., "label": {type: {surface: [[first, last]]}}}, with inclusive ends.

    Raises:
        ValueError, TypeError: a field is missing or wrong; the message describes it.
    """
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
                f"expected surface -> [[first, last]] under {label!r}, found {shown(surfaces)}"
            )
        for surface, places in surfaces.items():
            for place in places if isinstance(places, list) else [places]:
                if not is_list_of_two(place):
                    raise DataError(
                        f"expected surface -> [[first, last]] under {label!r}, found {shown(place)}"
                    )
                first, last = place
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
        except MALFORMED as error:
            raise DataError(f"{name}:{number}: {fault(error)}") from error


def fault(error: BaseException) -> str:
    """What is wrong with a row, by one of the `MALFORMED` errors."""
    return "nested too deeply" if isinstance(error, RecursionError) else str(error)


# -- datasets
def _read_datasets(name: str, layout: Layout, report: ReadReport) -> list[Record]:
    """Read a data set with `tokens` and `ner_tags`, on disk or on the Hub ("NAME@SPLIT")."""
    import datasets

    has_split = "@" in Path(name).name and not Path(name).is_dir()
    place, _, split = name.rpartition("@") if has_split else (name, "", "")
    try:
        data = (
            datasets.load_from_disk(place) if Path(place).is_dir() else datasets.load_dataset(place)
        )
    except Exception as error:
        raise DataError(
            f"{place}: no data set could be loaded from disk or the Hub: {error}"
        ) from error
    if isinstance(data, dict):
        if split not in data:
            raise DataError(
                f"{name}: expected one of the splits {sorted(data)}, found {split!r}; "
                f"write {place}@SPLIT"
            )
        data = data[split]
    missing = {"tokens", "ner_tags"} - set(data.column_names)
    if missing:
        raise DataError(f"{name}: column {sorted(missing)} is missing (found {data.column_names})")
    rows = [
        _dataset_row(name, number, row, data.features["ner_tags"])
        for number, row in enumerate(readable(name, data, DataError))
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
    """Return the tokens and tag names of a row; DataError if they are malformed."""
    where = f"{name}: row {number}"
    tokens, tags = row["tokens"], row["ner_tags"]
    if not isinstance(tokens, list) or not isinstance(tags, list) or len(tokens) != len(tags):
        raise DataError(
            f"{where}: expected as many ner_tags as tokens, found {tags!r} for {tokens!r}"
        )
    if any(not isinstance(token, str) or not token for token in tokens):
        raise DataError(f"{where}: expected non-empty strings in tokens, found {tokens!r}")
    names = getattr(getattr(feature, "feature", None), "names", None)
    for i, tag in enumerate(tags):
        if names is not None and not (isinstance(tag, int) and 0 <= tag < len(names)):
            raise DataError(
                f"{where}: ner_tags: expected classes from 0 to {len(names) - 1}, found {tag!r}; "
                "drop rows without labels (-1)"
            )
        tags[i] = names[tag] if names is not None else tag
        if not isinstance(tags[i], str):
            raise DataError(
                f"{where}: ner_tags: expected strings or ClassLabel values, found {tag!r}; "
                "cast the column to ClassLabel or strings"
            )
        try:
            split_tag(tags[i])
        except ValueError as error:
            raise DataError(f"{where}: {error}") from error
    return tokens, tags
