"""Readers of annotated text. All give `Record`s; what they leave out is counted.

`READERS` is the table: a format's name and the function that yields its records, or sentences of
words that `to_records` joins. `detect_format` tells the format by a file's name and first rows.
"""

import json
import re
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import replace
from itertools import chain, islice
from pathlib import Path

from contrastive_ner.data.columns import read_columns
from contrastive_ner.data.conll2012 import is_conll2012, read_conll2012
from contrastive_ner.data.conllu import entity_key, read_conllu
from contrastive_ner.data.csv_tables import SUFFIXES, is_table, read_csv
from contrastive_ner.data.decoding import (
    MALFORMED,
    Place,
    is_json_lines,
    read_json,
    read_lines,
    suffix_of,
)
from contrastive_ner.data.documents import regrouped
from contrastive_ner.data.inline import SAMPLE, marks_of, read_inline
from contrastive_ner.data.joining import joiner_of
from contrastive_ner.data.json_rows import read_rows_of
from contrastive_ner.data.layout import AUTO, FORMATS, Layout, ReadReport
from contrastive_ner.data.records import Record, doc_in_file
from contrastive_ner.data.row_parts import Item, Reading
from contrastive_ner.data.sentences import to_records
from contrastive_ner.data.shapes import find_shape, is_blank
from contrastive_ner.data.slashed import is_slashed, read_slashed
from contrastive_ner.data.spacy_docs import read_docs
from contrastive_ner.data.standoff import PUBTATOR_TEXT, read_brat, read_pubtator
from contrastive_ner.data.tables import read_dataset, read_parquet, split_name
from contrastive_ner.data.token_rows import in_sentence, sentences_of, token_columns
from contrastive_ner.data.webanno import is_webanno, read_webanno
from contrastive_ner.errors import DataError
from contrastive_ner.files import files_of

JSON_START = re.compile(r'\{\s*("|$)|\[\s*([{\["]|$)')
ROW_END = re.compile(r"[\t ]([Oo0]|[BIESMLUW][-_]\S+)\s*$")  # of columns whose token is a bracket

JSON_SUFFIXES = (".json", ".jsonl", ".ndjson")
COLUMN_SUFFIXES = (".conll", ".conllu", ".bio", ".iob", ".iob2", ".bioes", ".bmes", ".tags")

Reader = Callable[[str, Layout, ReadReport], Iterable[Item]]


def _columns(name: str, layout: Layout, report: ReadReport) -> Iterable[Item]:
    given = layout.tag_columns or layout.token_column or layout.delimiter not in ("auto", "tab")
    lines = (line for _, line in read_lines(name, layout.encoding))
    key = None if given else entity_key(lines)
    if key is None:
        return read_columns(name, layout, report)
    return read_conllu(name, key.name, layout, report)


def _json(name: str, layout: Layout, report: ReadReport) -> Iterable[Item]:
    kind = "cluener" if layout.format == "cluener" else "auto"
    return read_rows_of(read_json(name, layout.encoding), Reading(name, layout, report), kind)


def _csv(name: str, layout: Layout, report: ReadReport) -> Iterable[Item]:
    places = read_csv(name, layout.encoding, layout.keys.values())
    yield from read_rows_of(places, Reading(name, layout, report))
    report.format = "csv"


def _rows(read: Callable[[str], Iterator[Place]]) -> Reader:
    """A reader of a source whose rows have numbers, not lines."""

    def reader(name: str, layout: Layout, report: ReadReport) -> Iterable[Item]:
        place, split = split_name(name)
        reading = Reading(name, layout, report, unit="row", stem=split or Path(place).stem)
        found = report.format
        rows = read(name)
        first = next(rows, None)
        rows = iter(()) if first is None else chain((first,), rows)
        columns = None if first is None else token_columns(first.value, layout.keys)
        if columns is None:
            rows = (row._replace(value=in_sentence(row.value)) for row in rows)
            yield from read_rows_of(rows, reading)
        else:
            yield from sentences_of(rows, columns, reading)
        report.format = found

    return reader


READERS: dict[str, Reader] = {
    "columns": _columns,
    "jsonl": _json,
    "cluener": _json,
    "csv": _csv,
    "parquet": _rows(read_parquet),
    "datasets": _rows(read_dataset),
    "brat": read_brat,
    "pubtator": read_pubtator,
    "spacy": lambda name, layout, report: read_docs(name, report),
    "conll2012": read_conll2012,
    "webanno": read_webanno,
    "inline": read_inline,
    "slashed": read_slashed,
}


def read_records(path: str | Path, layout: Layout = AUTO) -> tuple[list[Record], ReadReport]:
    """Read annotated text.

    Args:
        path: a file, a pattern or a folder of files (see `files_of`), a folder of brat, a
            `datasets` folder as "FOLDER@SPLIT", or a Hub data set as "NAME@SPLIT".

    Raises:
        DataError: missing, empty or malformed input. The message gives the file, the line, what
            was expected and the fix.
    """
    name = str(path)
    files = files_of(name)
    if files != [name]:
        return joined_files(name, files, layout)
    report = ReadReport(path=name)
    report.format = (
        detect_format(name, layout.encoding) if layout.format == "auto" else layout.format
    )
    if report.format not in READERS:
        raise DataError(
            f"{name}: format: expected one of {', '.join(FORMATS)}, found {report.format!r}"
        )
    layout = replace(layout, format=report.format)
    items = list(READERS[report.format](name, layout, report))
    found = to_records(name, items, layout, report)
    records = list(regrouped(found, layout.documents_of, Path(name).stem))
    if not records:
        raise DataError(
            f"{name}: expected data in {report.format} format, found no sentence; "
            "check that the file is not empty and is in this format"
        )
    return records, report


def joined_files(
    name: str, files: Sequence[str], layout: Layout
) -> tuple[list[Record], ReadReport]:
    """The records of files, one after another, and one report."""
    read = read_files(files, layout)
    records = [
        replace(record, doc=doc_in_file(file, record.doc))
        for file, (own, _) in zip(files, read, strict=True)
        for record in own
    ]
    reports = [report for _, report in read]
    together = ReadReport(
        path=name,
        format=", ".join(dict.fromkeys(report.format for report in reports)),
        scheme=", ".join(dict.fromkeys(r.scheme for r in reports if r.scheme)) or None,
        joiner=next((report.joiner for report in reports if report.joiner is not None), None),
        repaired_tags=sum(report.repaired_tags for report in reports),
    )
    notes: dict[str, list[str]] = {}  # the files of each
    for file, report in zip(files, reports, strict=True):
        together.token_kinds.update(report.token_kinds)
        together.left_out.update(report.left_out)
        together.repairs += [f"{file}: {repair}" for repair in report.repairs]
        for sentence in report.notes:
            notes.setdefault(sentence, []).append(file)
    for sentence, where in notes.items():
        more = f" and {len(where) - 1} more files" if len(where) > 1 else ""
        together.note(f"{sentence} ({where[0]}{more})")
    return records, together


def read_files(
    paths: Sequence[str | Path], layout: Layout = AUTO
) -> list[tuple[list[Record], ReadReport]]:
    """Read several files that belong together: tokens are joined alike in all of them.

    Raises:
        DataError: as `read_records`.
    """
    read = [read_records(path, layout) for path in paths]
    joiner = run_joiner([report for _, report in read], layout)
    setting = "none" if joiner == "" else "space"
    return [
        read_records(path, replace(layout, joiner=setting))
        if report.joiner not in (None, joiner)
        else (records, report)
        for path, (records, report) in zip(paths, read, strict=True)
    ]


def run_joiner(reports: Sequence[ReadReport], layout: Layout) -> str | None:
    """What stands between tokens in all files; None where no file has tokens."""
    if all(report.joiner is None for report in reports):
        return None
    kinds: Counter[str] = Counter()
    for report in reports:
        kinds.update(report.token_kinds)
    return joiner_of(kinds, layout.joiner)


# --------------------------------------------------------------------------------------- detection
def detect_format(name: str, encoding: str = "utf-8") -> str:
    """Detect the format from the name and the first rows.

    A folder is brat if it holds .ann files, else a data set, as is a name with "@" that is not a
    file. JSON with an object in "label" is CLUENER, other JSON is JSONL. WebAnno, CoNLL-2012 and
    tables of whole texts in CSV are recognised by the first lines, words with slashes and texts
    with marks by more of them; what is left is columns.
    """
    path = Path(name)
    if path.is_dir():
        return "brat" if next(path.rglob("*.ann"), None) else "datasets"
    if "@" in path.name and not path.is_file():
        return "datasets"
    suffix = suffix_of(name)
    if suffix in (".parquet", ".spacy", ".ann"):
        return {".parquet": "parquet", ".spacy": "spacy", ".ann": "brat"}[suffix]
    filled = (line for _, line in read_lines(name, encoding) if not is_blank(line))
    lines = list(islice(filled, 3))
    if not lines:
        return "jsonl" if suffix in JSON_SUFFIXES else "columns"
    if suffix in SUFFIXES and is_table(name, encoding):
        return "csv"
    if is_json(name, lines, suffix, encoding):
        return "cluener" if _is_cluener(lines[0]) else "jsonl"
    if is_webanno(lines[0]):
        return "webanno"
    if is_conll2012(lines):
        return "conll2012"
    if PUBTATOR_TEXT.fullmatch(lines[0]):
        return "pubtator"
    if suffix == ".txt" and path.with_suffix(".ann").is_file():
        return "brat"
    return _kind_of_lines(name, encoding)


def _kind_of_lines(name: str, encoding: str) -> str:
    """Whether lines are texts with marks, words with a tag each, or rows of columns."""
    if suffix_of(name) in COLUMN_SUFFIXES:
        return "columns"
    filled = (line for _, line in read_lines(name, encoding) if not is_blank(line))
    lines = list(islice(filled, SAMPLE))
    if is_slashed(lines):
        return "slashed"
    if not marks_of(lines) or entity_key(lines) is not None:
        return "columns"
    try:  # marks may be in tokens and comments
        find_shape(name, Layout(encoding=encoding), ReadReport())
    except DataError:
        return "inline"
    return "columns"


def is_json(name: str, lines: Sequence[str], suffix: str, encoding: str) -> bool:
    """Whether a file is JSON: by its name, or because its first value, or one of two lines, is."""
    start = lines[0].lstrip()
    if suffix in JSON_SUFFIXES:
        return True
    if start[0] not in "{[" or ROW_END.search(start):
        return False
    return is_json_lines(name, encoding) or JSON_START.match(start) is not None


def _is_cluener(line: str) -> bool:
    try:
        row = json.loads(line)
    except MALFORMED:
        return False
    return isinstance(row, dict) and isinstance(row.get("label"), dict)
