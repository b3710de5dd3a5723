"""Texts to tag, as a stream: plain lines, JSONL, CLUENER, CSV, Parquet, data sets, columns.

A row that cannot be read becomes a `BadRow` and does not end the stream. All formats except columns
are read lazily, in constant memory.
"""

import csv
import itertools
import json
import sys
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

from contrastive_ner.data.fields import other_fields
from contrastive_ner.data.readers import (
    MALFORMED,
    Layout,
    detect_format,
    fault,
    joiner_of,
    read_raw_lines,
    read_records,
    record_from_cluener,
    record_from_dict,
)
from contrastive_ner.data.records import Record
from contrastive_ner.data.schemes import split_tag
from contrastive_ner.errors import DataError
from contrastive_ner.logs import log
from contrastive_ner.models.windows_ner import joined

INPUT_FORMATS = ("auto", "text", "jsonl", "cluener", "csv", "parquet", "datasets", "columns")


LINES_TO_TELL = 200  # lines by which plain text and columns are told apart


class AmbiguousError(DataError):
    """A file whose format cannot be told."""


class BadRow(NamedTuple):
    """A row without a text to tag. `number` counts rows from 1, or lines in line-based files."""

    number: int
    reason: str


Row = Record | BadRow


class Rows(NamedTuple):
    """A stream of rows, with their input format and the tag scheme to write them in."""

    rows: Iterator[Row]
    format: str
    scheme: str = "BIO"


def read_rows(
    path: str, layout: Layout, *, text_column: str = "text", keep_entities: bool = False
) -> Rows:
    """Open a source of texts.

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
    kind = input_format(path) if layout.format == "auto" else layout.format
    if kind not in INPUT_FORMATS:
        raise DataError(
            f"{path}: format: expected one of {', '.join(INPUT_FORMATS)}, found {kind!r}"
        )
    if kind == "columns":
        records, report = read_records(path, replace(layout, format=kind))
        if report.repaired_tags:
            log.warning("%d tags of the input were repaired", report.repaired_tags)
        return Rows(iter(records), kind, report.scheme or "BIO")
    if kind != "datasets" and not Path(path).is_file():
        raise DataError(f"{path}: no such file")
    if kind == "text":
        return Rows(text_rows(path), kind)
    if kind in ("jsonl", "cluener"):
        return Rows(json_rows(path, kind, layout, text_column, keep_entities), kind)
    tables = {"csv": csv_rows, "parquet": parquet_rows, "datasets": dataset_rows}
    cells = tables[kind](path)
    return Rows(table_rows(path, cells, layout, text_column), kind)


def input_format(path: str) -> str:
    """Detect the format of a source from its name, else from its content as `read_records` does.

    Raises:
        DataError: the file may be plain text or columns.
    """
    suffix = Path(path).suffix.lower()
    if suffix in (".csv", ".tsv", ".parquet"):
        return "parquet" if suffix == ".parquet" else "csv"
    try:
        found = detect_format(path)
        if found == "columns" and suffix not in (".json", ".jsonl"):
            # Reading reports what is not UTF-8.
            rows = (raw.decode("utf-8", "replace") for _, raw in read_raw_lines(path))
            filled = (row for row in rows if row.strip() and not row.startswith("-DOCSTART-"))
            lines = list(itertools.islice(filled, LINES_TO_TELL))
            return text_or_columns(path, lines)
    except AmbiguousError:
        raise
    except DataError:  # missing file or bad first row: reading reports it
        found = "columns"
    if found != "columns":
        return found
    return "jsonl" if suffix in (".json", ".jsonl") else "text"


def text_or_columns(path: str, lines: Sequence[str]) -> str:
    """Tell plain text from columns by the first lines that are not blank.

    A text may end in something that looks like a tag ("Vitamin B-12", "blood type O"): columns
    have a tag in nearly all lines, and either a tab or the same number of cells with O tags.

    Raises:
        AmbiguousError: most lines end in a tag, but the rest does not look like columns.
    """
    rows = [line.rstrip(" \t").split("\t" if "\t" in line else " ") for line in lines]
    shaped = [cells for cells in rows if len(cells) > 1 and is_tag(cells[-1])]
    if 2 * len(shaped) <= len(rows):
        return "text"
    # Types that begin with a digit are more common in texts ("I-95") than in columns.
    named = sum(cells[-1] == "O" or cells[-1][2].isalpha() for cells in shaped)
    widths = {len(cells) for cells in shaped}
    nearly_all = 10 * len(shaped) >= 9 * len(rows)
    has_tabs = 10 * sum("\t" in line for line in lines) >= 9 * len(lines)
    has_outside = len(rows) > 1 and any(cells[-1] == "O" for cells in shaped)
    nearly_all_named = 10 * named >= 9 * len(rows)
    if nearly_all and len(widths) == 1 and (has_tabs or (has_outside and nearly_all_named)):
        return "columns"
    mostly_named = 2 * named > len(rows)
    may_be_columns = nearly_all and has_outside and (mostly_named or len(widths) == 1)
    if not (has_tabs or may_be_columns or (mostly_named and min(widths) == 2)):
        return "text"
    raise AmbiguousError(
        f"{path}: expected plain text or columns, found {len(shaped)} of {len(rows)} lines that "
        f"end in a tag, such as {' '.join(shaped[0])[:40]!r}; "
        "pass --format text or --format columns"
    )


def is_tag(cell: str) -> bool:
    """Whether a cell is a tag of any scheme."""
    try:
        split_tag(cell)
    except ValueError:
        return False
    return True


# -- files of lines
def text_rows(path: str) -> Iterator[Row]:
    """One text per line, including empty lines."""
    for number, raw in read_raw_lines(path):
        try:
            yield Record(str(number), raw.decode("utf-8"))
        except UnicodeDecodeError as error:
            yield BadRow(number, f"not UTF-8 at byte {error.start + 1}")


def json_rows(
    path: str, kind: str, layout: Layout, text_column: str, keep_entities: bool
) -> Iterator[Row]:
    """One JSON object per line; empty lines are skipped."""
    for number, raw in read_raw_lines(path):
        if not raw.strip():
            continue
        try:
            row = json.loads(raw.decode("utf-8"))
            if kind == "cluener" and keep_entities:
                yield record_from_cluener(row, number)
            else:
                yield record_of(row, number, layout, text_column, keep_entities=keep_entities)
        except MALFORMED as error:
            yield BadRow(number, fault(error))


# -- tables
def csv_rows(path: str) -> Iterator[Mapping[str, Any] | BadRow]:
    """Rows of a CSV file with a header, or of a TSV file (if the name ends in .tsv)."""
    csv.field_size_limit(sys.maxsize)
    # A cell that is not UTF-8 becomes bytes, so that only its row is bad.
    with open(path, encoding="utf-8-sig", errors="surrogateescape", newline="") as file:
        # Strict: otherwise a misplaced quote would vanish, and an unclosed one would silently
        # swallow the rest of the file.
        reader = csv.DictReader(
            file, delimiter="\t" if path.lower().endswith(".tsv") else ",", strict=True
        )
        try:
            width = len(reader.fieldnames or ())
        except csv.Error as error:
            raise DataError(f"{path}: the header cannot be read as CSV ({error})") from error
        for number in itertools.count(1):
            try:
                row: dict[Any, Any] = next(reader)
            except StopIteration:
                return
            except csv.Error as error:
                yield BadRow(number, f"not valid CSV: {error}")
                continue
            if None in row:  # such as an unquoted text with a comma: its tail would be lost
                yield BadRow(
                    number,
                    f"expected {width} cells as in the header, found {width + len(row[None])}; "
                    "quote text that contains the delimiter",
                )
            else:
                yield {
                    name: cell if cell is None or cell.isascii() else utf8_or_bytes(cell)
                    for name, cell in row.items()
                }


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
            data = datasets.load_dataset(place, split=split, streaming=True)
    except Exception as error:
        raise DataError(
            f"{name}: no data set could be loaded from disk or the Hub ({error}); write NAME@SPLIT"
        ) from error
    try:
        yield from data
    except Exception as error:
        raise DataError(f"{name}: the data set cannot be read ({error})") from error


def table_rows(
    path: str, cells: Iterator[Mapping[str, Any] | BadRow], layout: Layout, text_column: str
) -> Iterator[Row]:
    """Records of rows of named cells. DataError if the first has no text column and no tokens."""
    first = next(cells, None)
    if first is None:
        return iter(())
    if not isinstance(first, BadRow) and text_column not in first and "tokens" not in first:
        raise DataError(
            f"{path}: no column {text_column!r} (found {', '.join(map(str, first))}); "
            "set --text_column"
        )

    def rows() -> Iterator[Row]:
        for number, row in enumerate(itertools.chain([first], cells), start=1):
            try:
                yield (
                    row if isinstance(row, BadRow) else record_of(row, number, layout, text_column)
                )
            except MALFORMED as error:
                yield BadRow(number, fault(error))

    return rows()


def record_of(
    row: Any, number: int, layout: Layout, text_column: str, *, keep_entities: bool = False
) -> Record:
    """Make a record of a row: its text, or its words in "tokens", with its id and document.

    Raises:
        MALFORMED: the row is malformed; `fault` describes it.
    """
    if not isinstance(row, Mapping):
        raise DataError(f"expected an object, found {type(row).__name__}")
    identifier, doc = (
        None if row.get(name) in (None, "") else str(row[name]) for name in ("id", "doc")
    )
    text, tokens = row.get(text_column), row.get("tokens")
    if (
        isinstance(tokens, list)
        and tokens
        and all(isinstance(token, str) and token for token in tokens)
    ):
        own_text, offsets = joined(tokens, joiner_of(layout, tokens))
        # If the words do not join to the given text, only the text is used.
        text, tokens = (own_text, offsets) if text is None or text == own_text else (text, None)
    elif not (
        isinstance(tokens, list)
        and all(isinstance(token, list) and len(token) == 2 for token in tokens)
    ):
        tokens = None  # neither words nor offsets, but for example a count or ids
    if not isinstance(text, str):
        raise DataError(f"expected a string in {text_column!r}, found {text!r:.40}")
    given = dict(row) if keep_entities else {}
    record = record_from_dict(
        {**given, "id": identifier or number, "text": text, "doc": doc, "tokens": tokens}, number
    )
    record.fields = other_fields(row, text_column)
    return record


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
