"""Texts to tag, as a stream: plain lines, JSONL, CLUENER, CSV, Parquet, data sets, columns.

A row that cannot be read becomes a `BadRow` and does not end the stream. All formats except columns
are read lazily, in constant memory.
"""

import csv
import itertools
import json
import sys
from collections import deque
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

from contrastive_ner.data.bioc import is_bioc, without_annotations
from contrastive_ner.data.conll2012 import read_conll2012
from contrastive_ner.data.conllu import read_conllu
from contrastive_ner.data.csv_tables import delimiter_of, is_table
from contrastive_ner.data.decoding import (
    MALFORMED,
    Place,
    encoding_of,
    fault,
    is_json_lines,
    opened,
    read_json,
    read_lines,
    read_raw_lines,
)
from contrastive_ner.data.documents import regrouped
from contrastive_ner.data.fields import other_fields
from contrastive_ner.data.input_formats import input_format, is_untagged_file
from contrastive_ner.data.joining import joiner_of, token_kinds
from contrastive_ner.data.json_rows import read_row, rows_in
from contrastive_ner.data.layout import FORMATS, Layout, ReadReport
from contrastive_ner.data.readers import READERS, read_records
from contrastive_ner.data.records import Record, token_offsets
from contrastive_ner.data.row_parts import (
    ENTITY_KEYS,
    ROW_KEYS,
    TAG_KEYS,
    TOKEN_KEYS,
    Reading,
    RowNumbers,
    find_words,
    words_of,
)
from contrastive_ner.data.sentences import to_records
from contrastive_ner.data.tables import hub_arguments
from contrastive_ner.data.token_rows import token_columns
from contrastive_ner.data.tool_rows import is_mrc
from contrastive_ner.data.webanno import read_webanno
from contrastive_ner.errors import DataError
from contrastive_ner.logs import log
from contrastive_ner.models.windows_ner import joined

INPUT_FORMATS = ("auto", "text", *FORMATS)
TABLES = ("parquet", "datasets")
WORDS_ALONE = {"conll2012": read_conll2012, "webanno": read_webanno}  # read without mentions
ROWS_TO_TELL = 100  # rows that tell what stands between words


class BadRow(NamedTuple):
    """A row without a text to tag. `number` counts rows from 1, or lines in line-based files."""

    number: int
    reason: str


Row = Record | BadRow


class Rows(NamedTuple):
    """A stream of rows, with their input format and the tag scheme to write them in.

    `total` is the number of rows, if it is known.
    """

    rows: Iterator[Row]
    format: str
    scheme: str = "BIO"
    total: int | None = None


def read_rows(
    path: str, layout: Layout, *, text_column: str = "text", keep_entities: bool = False
) -> Rows:
    """Open a source of texts, in documents as the layout says.

    Args:
        path: a file, or a data set as "FOLDER@SPLIT" or "NAME@SPLIT".
        layout: its `format` is one of `INPUT_FORMATS`; the other fields are for columns, and
            `joiner` also for "tokens".
        text_column: the text column of JSONL, CSV, Parquet and data sets. A row of JSONL or a data
            set may have words in "tokens" instead.
        keep_entities: also read the mentions of the source (JSONL, CLUENER, columns).

    Raises:
        DataError: the source or the column does not exist.
    """
    found = rows_in_source(path, replace(layout, documents_of=0), text_column, keep_entities)
    return found._replace(rows=regrouped(found.rows, layout.documents_of, Path(path).stem))


def source_format(path: str, layout: Layout, text_column: str = "text") -> str:
    """The format of a source: as the layout says, else as its name and content tell.

    Raises:
        DataError: the file does not exist, or could be plain text as well as columns.
    """
    kind = layout.format
    if kind == "auto":
        kind = input_format(path, layout.encoding, text_column)
    if kind not in INPUT_FORMATS:
        raise DataError(
            f"{path}: format: expected one of {', '.join(INPUT_FORMATS)}, found {kind!r}"
        )
    if kind != "datasets" and not Path(path).exists():
        raise DataError(f"{path}: no such file")
    return kind


def rows_in_source(path: str, layout: Layout, text_column: str, keep_entities: bool) -> Rows:
    """`read_rows` of texts in the documents of the source."""
    kind = source_format(path, layout, text_column)
    if kind in WORDS_ALONE and not keep_entities:
        report = ReadReport(path=path)
        sentences = list(WORDS_ALONE[kind](path, layout, report, mentions=False))
        return Rows(iter(to_records(path, sentences, layout, report)), kind)
    if kind == "columns" and not keep_entities and is_untagged_file(path, layout.encoding):
        report = ReadReport(path=path)
        sentences = list(read_conllu(path, "", layout, report))
        return Rows(iter(to_records(path, sentences, layout, report)), kind)
    is_whole = keep_entities and kind == "csv" and is_table(path, layout.encoding)
    if kind in ("jsonl", *TABLES):
        is_whole = _makes_whole_texts(path, kind, layout, keep_entities)
    if is_whole or (kind in READERS and kind not in ("jsonl", "cluener", "csv", *TABLES)):
        records, report = read_records(path, replace(layout, format=kind))
        for remark in report.remarks():
            log.warning("%s: %s", path, remark)
        return Rows(iter(records), kind, report.scheme or "BIO")
    if kind != "datasets" and not Path(path).is_file():
        raise DataError(f"{path}: no such file")
    if kind == "text":
        return Rows(text_rows(path, layout.encoding), kind)
    source = Source(path, layout, text_column, keep_entities)
    if kind in ("jsonl", "cluener"):
        return Rows(json_rows(source), kind)
    if kind == "csv":
        return Rows(table_rows(source, csv_rows(path, layout.encoding, [text_column])), kind)
    read = parquet_rows if kind == "parquet" else dataset_rows
    return Rows(table_rows(source, read(path)), kind)


def _makes_whole_texts(path: str, kind: str, layout: Layout, keep_entities: bool) -> bool:
    """Whether several rows of a source make one text, or have mentions that are asked for."""
    if kind != "datasets" and not Path(path).is_file():
        return False
    if kind == "jsonl":
        return is_mrc(first_row(path, layout.encoding))
    read = parquet_rows if kind == "parquet" else dataset_rows
    row: Mapping[str, Any] = next(iter(read(path)), {})
    has_mentions = keep_entities and bool({*ENTITY_KEYS, *TAG_KEYS} & row.keys())
    return has_mentions or token_columns(row, layout.keys) is not None


def first_row(path: str, encoding: str) -> Any:
    """The first row of a JSON file; None if it cannot be read."""
    with suppress(DataError):
        for place in read_json(path, encoding):
            return next(iter(rows_in(place.value, ROW_KEYS)), None)
    return None


# -- files of lines
def text_rows(path: str, encoding: str = "utf-8") -> Iterator[Row]:
    """One text per line, including empty lines."""
    if encoding_of(path, encoding) != "utf-8-sig":
        yield from (Record(str(number), line) for number, line in read_lines(path, encoding))
        return
    for number, raw in read_raw_lines(path):
        try:
            yield Record(str(number), raw.decode("utf-8"))
        except UnicodeDecodeError as error:
            yield BadRow(number, f"not UTF-8 at byte {error.start + 1}")


class Source(NamedTuple):
    """Where rows come from, and how their texts are found."""

    path: str
    layout: Layout
    text_column: str = "text"
    keep_entities: bool = False

    @property
    def keys(self) -> frozenset[str]:
        """Keys that tell a row of JSON."""
        return frozenset({*ROW_KEYS, self.text_column})

    def records(self, row: Any, number: int, joiner: str) -> list[Record]:
        """The texts of a row, usually one; MALFORMED if it has none."""
        if not self.keep_entities and isinstance(row, Mapping):
            given = self.text_column in row and not isinstance(row[self.text_column], list)
            if given or words_of(row.get("tokens")) or self.text_column != "text":
                return [text_of(row, number, joiner, self.text_column)]
            row = without_mentions(row)
        layout = replace(self.layout, joiner="none" if joiner == "" else "space")
        if self.text_column != "text":
            layout = replace(layout, fields=(*layout.fields, f"text={self.text_column}"))
        reading = Reading(self.path, layout, ReadReport(path=self.path))
        return to_records(self.path, read_row(row, number, reading), layout, reading.report)


def json_rows(source: Source) -> Iterator[Row]:
    """Texts of JSON: one row per line, where a bad line is one bad row; or any other JSON."""
    values = json_values(source)
    first = list(itertools.islice(values, ROWS_TO_TELL))
    rows = [row for place in first if isinstance(place, Place) for row in _rows(source, place)]
    joiner = source_joiner(source.layout, rows)
    numbers = RowNumbers()
    for place in itertools.chain(first, values):
        if isinstance(place, BadRow):
            yield place
            continue
        rows = _rows(source, place)
        for row in rows:
            number = numbers.next(place.line, len(rows) > 1)
            try:
                yield from source.records(row, number, joiner)
            except MALFORMED as error:
                yield BadRow(number, fault(error))


def _rows(source: Source, place: Place) -> list[Any]:
    try:
        return rows_in(place.value, source.keys)
    except DataError as error:
        raise DataError(f"{source.path}:{place.line}: {error}") from error


def json_values(source: Source) -> Iterator[Place | BadRow]:
    """The values of a JSON file; of a file with one value per line, bad lines too."""
    path, encoding = source.path, source.layout.encoding
    plain = encoding_of(path, encoding) == "utf-8-sig"
    try:
        if not plain or not is_json_lines(path, encoding):
            yield from list(read_json(path, encoding))
            return
    except DataError:
        if not plain:
            raise
    for number, raw in read_raw_lines(path):
        if raw.strip():
            try:
                yield Place(number, json.loads(raw.decode("utf-8")))
            except UnicodeDecodeError as error:
                yield BadRow(number, f"not UTF-8 at byte {error.start + 1}")
            except MALFORMED as error:
                yield BadRow(number, fault(error))


def source_joiner(layout: Layout, rows: Iterable[Any]) -> str:
    """What stands between the words of all rows, by the first ones."""
    words = (word for row in rows if isinstance(row, Mapping) for word in words_in(row))
    return joiner_of(token_kinds(words), layout.joiner)


def words_in(row: Mapping[str, Any]) -> Iterator[str]:
    """The words of a row, under any usual key, or of its sentences."""
    lists = [row.get(key) for key in TOKEN_KEYS]
    sentences = row.get("sentences")
    for own in [*lists, *(sentences if isinstance(sentences, list) else ())]:
        yield from words_of(own) or ()


# -- tables
def csv_rows(
    path: str, encoding: str = "utf-8", given: Sequence[str] = ()
) -> Iterator[Mapping[str, Any] | BadRow]:
    """Rows of a file of CSV with a header, separated by commas, semicolons or tabs."""
    csv.field_size_limit(sys.maxsize)
    # A cell that is not UTF-8 becomes bytes, so that only its row is bad.
    found = encoding_of(path, encoding)
    how = {"encoding": found, "errors": "surrogateescape", "newline": ""}
    with opened(path, "rt", **how) as file:
        delimiter = delimiter_of(file.readline().rstrip("\r\n"), path, given)
        file.seek(0)
        lines = Lines(file)
        # Strict: otherwise a misplaced quote would vanish, and an unclosed one would silently
        # swallow the rest of the file.
        options: dict[str, Any] = {"delimiter": delimiter, "strict": True}
        reader = csv.reader(lines, **options)
        try:
            names = next(reader, [])
        except csv.Error as error:
            raise DataError(f"{path}: the header cannot be read as CSV ({error})") from error
        check_names(path, names)
        for number in itertools.count(1):
            lines.taken.clear()
            try:
                cells: list[Any] = next(reader)
                while not cells:  # an empty line
                    lines.taken.clear()
                    cells = next(reader)
            except StopIteration:
                return
            except csv.Error as error:
                yield BadRow(number, f"not valid CSV: {error}")
                lines.again(lines.taken[1:])
                reader = csv.reader(lines, **options)
                continue
            if len(cells) > len(names) or (lines.again_left and len(cells) < len(names)):
                # Such as an unquoted text with a comma, whose tail would be lost.
                yield BadRow(
                    number,
                    f"expected {len(names)} cells as in the header, found {len(cells)}; "
                    "quote text that contains the delimiter",
                )
                continue
            cells += [None] * (len(names) - len(cells))
            yield {
                name: cell if cell is None or cell.isascii() else utf8_or_bytes(cell)
                for name, cell in zip(names, cells, strict=True)
            }


class Lines:
    """Lines of a file for `csv.reader`, of which some may be read again.

    A quote that is never closed takes in the lines after it, which are rows of their own.
    """

    def __init__(self, file: Iterable[str]) -> None:
        self.file = iter(file)
        self.taken: list[str] = []
        self.waiting: deque[str] = deque()
        self.again_left = False  # whether the last row was of lines that are read again

    def __iter__(self) -> Iterator[str]:
        return self

    def __next__(self) -> str:
        self.again_left = bool(self.waiting)
        line = self.waiting.popleft() if self.waiting else next(self.file)
        self.taken.append(line)
        return line

    def again(self, lines: Iterable[str]) -> None:
        """Give lines once more, before those that follow."""
        self.waiting.extendleft(reversed([*lines]))


def check_names(path: str, names: Sequence[str]) -> None:
    """Raise DataError if two columns of a table have the same name: one would be lost."""
    twice = sorted({name for name in names if name and names.count(name) > 1})
    if twice:
        raise DataError(
            f"{path}: expected different names of columns, found {', '.join(twice)} more than "
            "once; rename or remove them"
        )


def utf8_or_bytes(cell: str) -> str | bytes:
    """The cell, or its bytes if it has surrogate escapes, that is, was not UTF-8."""
    raw = cell.encode("utf-8", "surrogateescape")
    try:
        return raw.decode("utf-8")
    except UnicodeDecodeError:
        return raw


def parquet_rows(path: str) -> Iterator[Mapping[str, Any]]:
    """Rows of a Parquet file. DataError if it cannot be read."""
    import pyarrow.parquet

    try:
        with pyarrow.parquet.ParquetFile(path) as file:
            for batch in file.iter_batches(batch_size=1024):
                yield from batch.to_pylist()
    except Exception as error:  # damaged files raise anything: OSError, UnicodeDecodeError, ...
        raise DataError(f"{path}: cannot be read as Parquet ({error})") from error


def dataset_rows(name: str) -> Iterator[Mapping[str, Any]]:
    """Rows of a data set on disk or streamed from the Hub. DataError if it cannot be loaded."""
    import datasets

    place, _, split = (name, "", "") if Path(name).is_dir() else name.rpartition("@")
    try:
        if Path(place).is_dir():
            data = datasets.load_from_disk(place)
            data = data[split] if isinstance(data, dict) else data
        else:
            data = datasets.load_dataset(**hub_arguments(place), split=split, streaming=True)
    except Exception as error:
        raise DataError(
            f"{name}: no data set could be loaded from disk or the Hub ({error}); write NAME@SPLIT"
        ) from error
    try:
        yield from data
    except Exception as error:
        raise DataError(f"{name}: the data set cannot be read ({error})") from error


def table_rows(source: Source, cells: Iterator[Mapping[str, Any] | BadRow]) -> Iterator[Row]:
    """Records of rows of named cells. DataError if the first has no text column and no tokens."""
    first = list(itertools.islice(cells, ROWS_TO_TELL))
    if not first:
        return iter(())
    head = first[0]
    if not isinstance(head, BadRow) and not head.keys() & {source.text_column, "tokens"}:
        raise DataError(
            f"{source.path}: no column {source.text_column!r} (found {', '.join(map(str, head))}); "
            "set --text_column"
        )
    joiner = source_joiner(source.layout, first)

    def rows() -> Iterator[Row]:
        for number, row in enumerate(itertools.chain(first, cells), start=1):
            try:
                yield (
                    row
                    if isinstance(row, BadRow)
                    else text_of(row, number, joiner, source.text_column)
                )
            except MALFORMED as error:
                yield BadRow(number, fault(error))

    return rows()


def text_of(row: Mapping[str, Any], number: int, joiner: str, text_column: str) -> Record:
    """Make a record of a row: its text, or its words in "tokens", with its id and document.

    Raises:
        MALFORMED: the row is malformed; `fault` describes it.
    """
    identifier, doc = (
        None if row.get(name) in (None, "") else str(row[name]) for name in ("id", "doc")
    )
    text, tokens = row.get(text_column), row.get("tokens")
    words = words_of(tokens)
    offsets = None
    if words and all(words):
        own_text, own_offsets = joined(words, joiner)
        # Words that are not those of the text are no tokens of it.
        text, offsets = (
            (own_text, own_offsets) if text is None else (text, find_words(str(text), words))
        )
    elif isinstance(tokens, list) and all(
        isinstance(token, list) and len(token) == 2 for token in tokens
    ):
        offsets = None if not isinstance(text, str) else token_offsets(tokens, text)
    if not isinstance(text, str):
        raise DataError(f"expected a string in {text_column!r}, found {text!r:.40}")
    return Record(
        identifier or str(number), text, [], doc, offsets, fields=other_fields(row, text_column)
    )


def without_mentions(row: Mapping[str, Any]) -> Mapping[str, Any]:
    """A row of JSON without what may hold mentions, which need not be right to be tagged."""
    data = row.get("data")
    if isinstance(data, dict):  # Label Studio
        row = {**data, "id": row.get("id")}
    if is_bioc(row):
        row = without_annotations(row)
    return {key: value for key, value in row.items() if key not in ENTITY_KEYS}


def chunks(rows: Iterable[Row], texts: int, characters: int) -> Iterator[list[Row]]:
    """Group rows into lists of at most `texts` rows and about `characters` characters.

    The texts of a document (`doc`) stay together, even if the list becomes longer.
    """
    chunk: list[Row] = []
    size = 0
    for row in rows:
        last = chunk[-1] if chunk else None
        same = (
            isinstance(row, Record)
            and isinstance(last, Record)
            and row.doc is not None
            and row.doc == last.doc
        )
        if chunk and not same and (len(chunk) >= texts or size >= characters):
            yield chunk
            chunk, size = [], 0
        chunk.append(row)
        size += len(row.text) if isinstance(row, Record) else 0
    if chunk:
        yield chunk
