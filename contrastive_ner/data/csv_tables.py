"""CSV and TSV files with a header that have a text, or a list of words, and its mentions a row.

Files with one token a row are read as columns.
"""

import csv
import io
import re
import sys
from collections.abc import Iterable, Iterator, Mapping
from itertools import islice
from typing import Any

from contrastive_ner.data.decoding import Place, read_lines, read_text, suffix_of
from contrastive_ner.data.mentions import value_of
from contrastive_ner.data.row_parts import (
    ENTITY_KEYS,
    ROW_KEYS,
    TAG_KEYS,
    TEXT_KEYS,
    TOKEN_KEYS,
)
from contrastive_ner.data.schemes import read_tags
from contrastive_ner.errors import DataError, shown

SUFFIXES = (".csv", ".tsv")
SAMPLE = 200  # rows that tell what a file holds
BETWEEN_TAGS = re.compile(r"[,\s]+")
ANNOTATION = {*ENTITY_KEYS, *TAG_KEYS, "word_labels"}
TEXTS = ("text", "sentence", "tokens", "words")  # columns that may hold the words of tags
PLAIN = {"text", *TEXT_KEYS} - ({*TOKEN_KEYS} - {"text"})  # columns that never hold a list
KNOWN = {*ANNOTATION, *ROW_KEYS, "id", "doc"}


def delimiter_of(header: str, name: str = "", given: Iterable[str] = ()) -> str:
    """The delimiter of a file, by its header: the one that gives most known names, then cells.

    Args:
        name: of the file; one that ends in .tsv is separated by tabs if it may be.
        given: further names that count as known.
    """
    known, by_name = {*KNOWN, *given}, "\t" if suffix_of(name) == ".tsv" else ""

    def rank(delimiter: str) -> tuple[int, bool, int]:
        try:
            cells = next(csv.reader([header], delimiter=delimiter), [])
        except csv.Error:
            cells = []
        names = sum(cell in known or known_name(cell) in known for cell in cells)
        return names, delimiter == by_name and len(cells) > 1, len(cells)

    return max("\t;,", key=rank)


def is_table(name: str, encoding: str = "utf-8") -> bool:
    """Whether a file has a header that names a text or words, and annotation of whole texts."""
    filled = (line for _, line in read_lines(name, encoding) if line.strip())
    lines = list(islice(filled, SAMPLE))
    if not lines or not any(mark in lines[0] for mark in "\t;,"):
        return False
    csv.field_size_limit(sys.maxsize)
    rows = csv.reader(io.StringIO("\n".join(lines)), delimiter=delimiter_of(lines[0], name))
    try:
        header = [known_name(cell) for cell in next(rows)]
        body = [dict(zip(header, row, strict=False)) for row in rows]
    except csv.Error:
        return False
    for row in body:
        words = max((len(row[key].split()) for key in TEXTS if key in row), default=0)
        for key in ANNOTATION & row.keys():
            cell = row[key].strip()
            # A single word may have several tags: then it is a token.
            of_a_text = len(tags_in(cell)) > 1 and (words > 1 or " " in cell)
            if cell[:1] in ("[", "{") or of_a_text:
                return any(cell in ROW_KEYS for cell in header)
    return False


def known_name(cell: str) -> str:
    """The name of a column, in lower case if it is a known one but for that."""
    name = cell.strip().removeprefix("\ufeff")
    return name.lower() if name.lower() in KNOWN else name


def tags_in(cell: str) -> list[str]:
    """The tags of a whole sentence in a cell, separated by white space or commas; [] if none."""
    return tags_of(BETWEEN_TAGS.split(cell.strip()))


def read_csv(name: str, encoding: str = "utf-8", given: Iterable[str] = ()) -> Iterator[Place]:
    """Rows as objects. Lists and objects in cells are read; an empty cell is none at all.

    Args:
        given: names of columns that are known as they are.

    Raises:
        DataError: the file is not CSV, or a row has more or fewer cells than the header.
    """
    text = read_text(name, encoding)
    if not text.strip():
        return
    first = text.lstrip("\r\n").splitlines()[0]
    csv.field_size_limit(sys.maxsize)
    rows = csv.reader(
        io.StringIO(text, newline=""), delimiter=delimiter_of(first, name, given), strict=True
    )
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
                try:
                    yield Place(line, in_words(dict(zip(header, row, strict=True))))
                except DataError as error:
                    raise DataError(f"{name}:{line}: {error}") from error
            elif row:
                header = [cell if cell in given else known_name(cell) for cell in row]
            line = rows.line_num + 1
    except csv.Error as error:
        raise DataError(f"{name}:{line}: not valid CSV: {error}") from error


def in_words(row: Mapping[str, str]) -> dict[str, Any]:
    """A row with the values of its cells, and the words of a text that has a tag each.

    Raises:
        DataError: there are as many tags as neither words nor characters.
    """
    found: dict[str, Any] = {}
    for key, cell in row.items():
        value = value_of(cell) if cell.strip()[:1] in ("[", "{") and key not in PLAIN else None
        if not isinstance(value, list | dict):
            value = cell
        if value != "" or key in ENTITY_KEYS:
            found[key] = None if value == "" else value
    text = next((found[k] for k in TEXTS if isinstance(found.get(k), str)), None)
    if text is None:
        return found
    for key in sorted(ANNOTATION & found.keys()):
        value = found[key]
        tags = tags_in(value) if isinstance(value, str) else tags_of(value)
        if len(tags) > 1 or (tags and len(text.split()) == 1):
            words = text.split()
            if len(tags) == len(words):
                return {**found, key: None, "tokens": words, "ner_tags": tags}
            if len(tags) == len(text):
                return {**found, key: None, "tokens": list(text), "ner_tags": tags}
            raise DataError(
                f"expected a tag for each of the {len(words)} words, found {len(tags)} in {key!r}: "
                f"{shown(value)}"
            )
    return found


def tags_of(value: Any) -> list[str]:
    """The tags in a list; [] if it is none of tags."""
    if not isinstance(value, list) or not all(isinstance(item, str) for item in value):
        return []
    pairs, spelling = read_tags(dict.fromkeys(value, 1))
    return value if spelling != "PER" and pairs.keys() >= {*value} else []
