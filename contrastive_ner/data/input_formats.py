"""What a file of texts to tag is: by its name, else by its content."""

import itertools
from collections.abc import Iterator, Sequence
from pathlib import Path

from contrastive_ner.data.conllu import entity_key, is_untagged
from contrastive_ner.data.decoding import encoding_of, read_lines, read_raw_lines, suffix_of
from contrastive_ner.data.inline import SAMPLE as MARKED_LINES
from contrastive_ner.data.inline import counts_of_marks
from contrastive_ner.data.layout import Layout, ReadReport
from contrastive_ner.data.readers import COLUMN_SUFFIXES, JSON_SUFFIXES, detect_format
from contrastive_ner.data.schemes import SPELLINGS
from contrastive_ner.data.shapes import (
    TAG_NAMES,
    TOKEN_ALONE,
    find_shape,
    has_typed_tags,
    is_document_start,
)
from contrastive_ner.data.webanno import is_webanno
from contrastive_ner.errors import DataError


class AmbiguousError(DataError):
    """A file whose format cannot be detected."""


def input_format(path: str, encoding: str = "utf-8", text_column: str = "text") -> str:
    """Detect the format of a source from its name, else from its content as `read_records` does.

    A table with a column of this name, or one called text, is none of tokens.

    Raises:
        DataError: the file may be plain text or columns.
    """
    suffix = suffix_of(path)
    if suffix in (".csv", ".tsv", ".parquet"):
        if suffix == ".tsv" and Path(path).is_file():
            start = next((raw for _, raw in read_raw_lines(path) if raw.strip()), b"")
            if is_webanno(start.decode("utf-8", "replace")):
                return "webanno"
        if suffix != ".parquet" and _has_a_token_a_row(path, encoding, text_column):
            return "columns"
        return "parquet" if suffix == ".parquet" else "csv"
    try:
        found = detect_format(path, encoding)
    except DataError:  # missing file or bad first row: reading reports it
        found = "jsonl" if suffix in JSON_SUFFIXES else "columns"
    if found == "brat" and suffix == ".txt":
        return "text"  # next to annotations, but named itself
    if found == "inline":
        return inline_or_text(path, encoding)
    if found != "columns":
        return found
    if suffix in COLUMN_SUFFIXES and _has_a_token_a_row(path, encoding, text_column):
        return "columns"
    key = entity_key(filled_lines(path, encoding))
    if (key is not None and not key.brackets) or is_untagged_file(path, encoding):
        return "columns"
    return text_or_columns(path, list(itertools.islice(filled_lines(path, encoding), 200)))


def is_untagged_file(path: str, encoding: str) -> bool:
    """Whether a file is CoNLL-U of which only the words can be read."""
    lines = list(itertools.islice(filled_lines(path, encoding), 2_000))
    key = entity_key(lines)
    return (key is None or key.brackets) and is_untagged(lines)


def _has_a_token_a_row(path: str, encoding: str, text_column: str) -> bool:
    """Whether a file is one of columns: with O and tags that no text could be, or such a header."""
    try:
        lines = list(itertools.islice(filled_lines(path, encoding), 200))
        shape = find_shape(path, Layout(encoding=encoding), ReadReport())
    except DataError:
        return False
    if shape is None:
        return False
    rows = [cells for line in lines if len(cells := shape.cells(line)) == shape.width]
    names = {cell.strip() for cell in rows[0]} if rows else set()
    header = {name.lower() for name in names}
    tokens = [row[shape.token] for row in rows]
    if text_column in names or "text" in header:
        return False
    if 10 * sum(" " in token for token in tokens) > len(tokens):
        return False
    tags = [[row[c] for c in shape.tags] for row in rows[bool(shape.header) :]]
    has_outside = any(tag in ("O", "0", "o") for row in tags for tag in row)
    return bool(header & TOKEN_ALONE and header & TAG_NAMES) or (
        has_outside and has_typed_tags(tags)
    )


def filled_lines(path: str, encoding: str) -> Iterator[str]:
    """Lines that are not blank; reading reports what cannot be decoded."""
    if not Path(path).is_file():
        return
    if encoding_of(path, encoding) == "utf-8-sig":
        lines = (raw.decode("utf-8", "replace") for _, raw in read_raw_lines(path))
    else:
        lines = (line for _, line in read_lines(path, encoding))
    yield from (line for line in lines if line.strip() and not is_document_start(line))


def inline_or_text(path: str, encoding: str) -> str:
    """Whether marks are those of mentions: braces in many lines are, links may be part of a text.

    Raises:
        AmbiguousError: elements, and braces in few lines, may be both.
    """
    lines = list(itertools.islice(filled_lines(path, encoding), MARKED_LINES))
    counts = counts_of_marks(lines)
    kind = max(counts, key=lambda own: counts[own])
    if kind == "links":
        return "text"
    if kind == "braces" and 3 * counts[kind] > len(lines):
        return "inline"
    found = {"elements": "elements such as <PER>...</PER>", "braces": "marks such as {{PER:...}}"}
    raise AmbiguousError(
        f"{path}: expected plain text, found {found[kind]}; pass --format inline to tag the text "
        "without them, or --format text to tag all of it"
    )


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
    """Whether a cell is a tag of any scheme with prefixes, in any spelling."""
    return cell == "O" or any(split(cell) is not None for split in SPELLINGS.values())
