"""CSV and TSV files with a header that have a text, or a list of words, and its mentions a row.

Files with one token a row are read as columns.
"""

import csv
import io
import re
from collections.abc import Iterator, Mapping
from itertools import islice
from typing import Any

from contrastive_ner.data.decoding import Place, read_lines, read_text
from contrastive_ner.data.mentions import value_of
from contrastive_ner.data.row_parts import ENTITY_KEYS, ROW_KEYS, TAG_KEYS
from contrastive_ner.data.schemes import read_tags
from contrastive_ner.errors import DataError

SUFFIXES = (".csv", ".tsv")
SAMPLE = 200  # rows that tell what a file holds
BETWEEN_TAGS = re.compile(r"[,\s]+")
ANNOTATION = {*ENTITY_KEYS, *TAG_KEYS, "word_labels"}
KNOWN = {*ANNOTATION, *ROW_KEYS, "id", "doc"}


def delimiter_of(header: str) -> str:
    """The delimiter of a file, by its header: a tab, semicolon or comma."""
    return max("\t;,", key=header.count)


def is_table(name: str, encoding: str = "utf-8") -> bool:
    """Whether a file has a header that names a text or words, and annotation of whole texts."""
    filled = (line for _, line in read_lines(name, encoding) if line.strip())
    lines = list(islice(filled, SAMPLE))
    if not lines or not any(mark in lines[0] for mark in "\t;,"):
        return False
    rows = csv.reader(io.StringIO("\n".join(lines)), delimiter=delimiter_of(lines[0]))
    try:
        header = [known_name(cell) for cell in next(rows)]
        places = [n for n, cell in enumerate(header) if cell in ANNOTATION]
        cells = [row[n].strip() for row in rows for n in places if n < len(row)]
    except csv.Error:
        return False
    named = any(cell in ROW_KEYS for cell in header)
    return named and any(cell[:1] in ("[", "{") or len(tags_in(cell)) > 1 for cell in cells if cell)


def known_name(cell: str) -> str:
    """The name of a column, in lower case if it is a known one but for that."""
    name = cell.strip().removeprefix("\ufeff")
    return name.lower() if name.lower() in KNOWN else name


def tags_in(cell: str) -> list[str]:
    """The tags of a whole sentence in a cell, separated by white space or commas; [] if none."""
    parts = BETWEEN_TAGS.split(cell.strip())
    pairs, spelling = read_tags(dict.fromkeys(parts, 1))
    return parts if spelling != "PER" and pairs.keys() >= set(parts) else []


def read_csv(name: str, encoding: str = "utf-8") -> Iterator[Place]:
    """Rows as objects. Lists and objects in cells are read; an empty cell is none at all.

    Raises:
        DataError: the file is not CSV, or a row has more or fewer cells than the header.
    """
    text = read_text(name, encoding)
    if not text.strip():
        return
    first = text.lstrip("\r\n").splitlines()[0]
    rows = csv.reader(io.StringIO(text, newline=""), delimiter=delimiter_of(first), strict=True)
    csv.field_size_limit(2**31 - 1)
    header: list[str] = []
    line = 1
    try:
        for row in rows:
            if header and row:
                if len(row) != len(header):
                    raise DataError(
                        f"{name}:{line}: expected {len(header)} cells as in the header, found "
                        f"{len(row)}; quote text that contains the delimiter"
                    )
                yield Place(line, in_words(dict(zip(header, row, strict=True))))
            elif row:
                header = [known_name(cell) for cell in row]
            line = rows.line_num + 1
    except csv.Error as error:
        raise DataError(f"{name}:{line}: not valid CSV: {error}") from error


def in_words(row: Mapping[str, str]) -> dict[str, Any]:
    """A row with the values of its cells, and the words of a text that has a tag each."""
    found: dict[str, Any] = {}
    for key, cell in row.items():
        value = value_of(cell) if cell.strip()[:1] in ("[", "{") and key != "text" else None
        if not isinstance(value, list | dict):
            value = cell
        if value != "" or key in ENTITY_KEYS:
            found[key] = None if value == "" else value
    text = next((found[k] for k in ("text", "sentence") if isinstance(found.get(k), str)), None)
    for key in ANNOTATION & found.keys():
        tags = tags_in(found[key]) if isinstance(found[key], str) else []
        if text is not None and tags and len(tags) == len(text.split()):
            return {**found, "tokens": text.split(), "ner_tags": tags, key: None}
    return found
