"""Columns: one token a row, blank lines between sentences; CoNLL in its many forms.

A look at the first rows tells the `Shape`; then all rows are read.
"""

import re
from collections.abc import Iterator, Sequence
from itertools import pairwise
from pathlib import Path

from contrastive_ner.data.decoding import read_lines
from contrastive_ner.data.layout import Layout, ReadReport
from contrastive_ner.data.sentences import Sentence
from contrastive_ner.data.shapes import (
    CSV,
    NO_TOKEN,
    Shape,
    find_shape,
    is_blank,
    is_document_start,
    is_tag_like,
    split_row,
)
from contrastive_ner.errors import DataError

LONG_SENTENCE = 2_000  # tokens; a file without blank lines is one sentence
SETTING = re.compile(r"#\s*\S+\s*=.*")  # a comment such as "# text = ..."


def read_columns(name: str, layout: Layout, report: ReadReport) -> Iterator[Sentence]:
    """Yield the sentences of a file of columns.

    Raises:
        DataError: a row does not have the shape of the others.
    """
    shape = find_shape(name, layout, report)
    if shape is None:
        return
    stem = Path(name).stem
    known: dict[str, str] = {}
    number, longest = 0, 0
    blocks = _blocks(name, shape, layout, report)
    if shape.ends is not None:
        blocks = _sentences(blocks, shape.ends)
    if shape.sentence:
        blocks = _by_cell(blocks, shape.sentence)
    if shape.numbers is not None and shape.one_block:
        blocks = _by_number(blocks, shape.numbers)
    for lines, rows, doc in blocks:
        columns = list(zip(*rows, strict=True))
        words = _words(name, shape, lines, columns[shape.token])
        # The same few strings occur again and again: keep each once.
        words = [known.setdefault(word, word) for word in words]
        tags: list[Sequence[str]] = [
            [known.setdefault(tag, tag) for tag in columns[c]] for c in shape.tags
        ]
        yield Sentence("", f"{stem}-{number}", words, tags, doc=doc, lines=lines)
        number, longest = number + 1, max(longest, len(words))
    if number == 1 and longest > LONG_SENTENCE:
        report.note(f"the file has no blank lines: it is one sentence of {longest} tokens")


Block = tuple[Sequence[int], list[list[str]], str | None]


def _sentences(blocks: Iterator[Block], ends: int) -> Iterator[Block]:
    """Blocks split where a cell of the column `ends` says EndOfSentence."""
    for lines, rows, doc in blocks:
        cuts = [i + 1 for i, row in enumerate(rows) if "EndOfSentence" in row[ends]]
        for start, end in pairwise([0, *cuts, len(rows)]):
            if start < end:
                yield lines[start:end], rows[start:end], doc


def _by_cell(blocks: Iterator[Block], columns: Sequence[int]) -> Iterator[Block]:
    """Blocks split where one of the columns is filled and not as before."""
    for lines, rows, doc in blocks:
        start, current = 0, [rows[0][c] for c in columns]
        for i, row in enumerate(rows):
            cells = [row[c] or old for c, old in zip(columns, current, strict=True)]
            if cells != current:
                yield lines[start:i], rows[start:i], doc
                start, current = i, cells
        yield lines[start:], rows[start:], doc


def _by_number(blocks: Iterator[Block], column: int) -> Iterator[Block]:
    """Blocks split where the numbers of tokens begin again; whole where they do not just count."""
    for lines, rows, doc in blocks:
        cells = [row[column] for row in rows]
        first = int(cells[0]) if cells[0].isdecimal() else -1
        steps = [(int(a), int(b)) for a, b in pairwise(cells) if a.isdecimal() and b.isdecimal()]
        counts = first in (0, 1) and len(steps) == len(cells) - 1
        counts = counts and all(b == a + 1 or b == first < a for a, b in steps)
        cuts = [i + 1 for i, (_, b) in enumerate(steps) if counts and b == first]
        for start, end in pairwise([0, *cuts, len(rows)]):
            yield lines[start:end], rows[start:end], doc


def _blocks(name: str, shape: Shape, layout: Layout, report: ReadReport) -> Iterator[Block]:
    """Yield (lines, rows, document) of each sentence, all rows of the same width."""
    doc: str | None = None
    documents = 0
    for first, block in _paragraphs(name, layout.encoding):
        rows = _plain_rows(block, shape) if first > shape.header else None
        if rows is not None:
            yield range(first, first + len(block)), rows, doc
            continue
        kept: list[int] = []
        rows = []
        for number, line in enumerate(block, start=first):
            if is_document_start(line):
                if rows:
                    yield kept, rows, doc
                    kept, rows = [], []
                documents += 1
                doc = f"{Path(name).stem}-doc-{documents}"
                continue
            cells = _checked_row(name, number, line, shape, report, begins=not rows)
            if cells is not None:
                kept.append(number)
                rows.append(cells)
        if rows:
            yield kept, rows, doc


def _paragraphs(name: str, encoding: str) -> Iterator[tuple[int, list[str]]]:
    """Yield (number of the first line, lines) between blank lines."""
    block: list[str] = []
    number = 0
    for number, line in read_lines(name, encoding):
        if line and not (line.isspace() and is_blank(line)):
            block.append(line)
        elif block:
            yield number - len(block), block
            block = []
    if block:
        yield number - len(block) + 1, block


def _plain_rows(block: Sequence[str], shape: Shape) -> list[list[str]] | None:
    """The rows of a paragraph without anything that needs a closer look; else None."""
    if shape.delimiter in ("", *CSV) or shape.numbers is not None:
        return None
    text = "\n".join(block) + "\n"
    if "#" in text or "-DOCSTART-" in text or " \n" in text or "\t\n" in text or "\r" in text:
        return None
    if shape.delimiter == " " and "  " in text:
        return None
    rows = [line.split(shape.delimiter) for line in block]
    return rows if {*map(len, rows)} == {shape.width} else None


def _checked_row(
    name: str, number: int, line: str, shape: Shape, report: ReadReport, *, begins: bool
) -> list[str] | None:
    """The cells of a row; None for a comment, a header, or a row without a token of its own.

    Raises:
        DataError: it has more or fewer cells than the other rows.
    """
    cells = split_row(line, shape.delimiter)
    if len(cells) != shape.width and shape.delimiter not in CSV:
        cells = [cell for cell in cells if cell]  # runs of tabs
    if line[0] == "#" and _is_comment(line, cells, shape, begins=begins):
        report.left_out["comment lines"] += 1
        return None
    if len(cells) != shape.width:
        raise _ragged(name, number, line, len(cells), shape)
    if number == shape.header:
        return None
    if shape.numbers is not None and NO_TOKEN.fullmatch(cells[shape.numbers]):
        report.left_out["rows without a token of their own"] += 1
        return None
    return cells


def _is_comment(line: str, cells: Sequence[str], shape: Shape, *, begins: bool) -> bool:
    """Whether a line that begins with # is not a row: it lacks the shape of one.

    In mid-sentence only lines that no row could be are comments.
    """
    if len(cells) == shape.width and all(is_tag_like([cells[c]]) for c in shape.tags):
        return False
    return begins or (shape.delimiter == "\t" and "\t" not in line) or bool(SETTING.match(line))


def _ragged(name: str, number: int, line: str, found: int, shape: Shape) -> DataError:
    """The error of a row with more or fewer cells than the others."""
    names = {"\t": "tabs", " ": "spaces", "": "spaces and tabs", ",": "commas", ";": "semicolons"}
    wanted = names[shape.delimiter]
    if line.isspace():
        help_ = "a line of other white space ends no sentence: make it empty, or give it a tag"
    elif shape.delimiter in CSV:
        help_ = "quote a comma in a cell: the token ',' is written \",\""
    elif shape.delimiter != "" and ("\t" in line) != (shape.delimiter == "\t"):
        help_ = f"other rows are separated by {wanted}: use one delimiter, or set delimiter=any"
    elif found == shape.width - 1 and line[0] in " \t":
        help_ = "the token is missing: if it is a space, separate columns by tabs, or drop the row"
    else:
        help_ = "correct the row, or set delimiter, token_column or tag_columns"
    return DataError(
        f"{name}:{number}: expected {shape.width} columns separated by {wanted}, as in the other "
        f"rows, found {found}: {line[:60]!r}; {help_}"
    )


def _words(name: str, shape: Shape, lines: Sequence[int], tokens: Sequence[str]) -> Sequence[str]:
    """The tokens of a sentence without index and prefix.

    Raises:
        DataError: a token is empty, or has no index.
    """
    if "" in tokens:
        raise DataError(
            f"{name}:{lines[tokens.index('')]}: expected a token in column {shape.token}, found "
            "none; correct or remove the line"
        )
    if shape.prefix:
        tokens = [token.removeprefix(shape.prefix) or token for token in tokens]
    if not shape.indexed:
        return tokens
    for line, token in zip(lines, tokens, strict=True):
        if len(token) < 2 or not token[-1].isdigit():
            raise DataError(
                f"{name}:{line}: expected a character and its index, found {token!r}; "
                "unset indexed_characters"
            )
    return [token[0] for token in tokens]
