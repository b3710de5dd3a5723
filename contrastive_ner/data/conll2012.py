"""CoNLL-2012 (OntoNotes): columns whose number varies, named entities in brackets."""

import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

from contrastive_ner.data.decoding import read_lines
from contrastive_ner.data.layout import Layout, ReadReport
from contrastive_ner.data.mentions import check_label
from contrastive_ner.data.sentences import Sentence
from contrastive_ner.data.shapes import is_blank, split_row
from contrastive_ner.errors import DataError

PART, NUMBER, WORD, ENTITY = 1, 2, 3, 10  # columns; the first names the document
BEGIN = "#begin document"
NAME = re.compile(r"\((.*)\)(?:;\s*part\s+(\d+))?")
BRACKETS = re.compile(r"(?:\([^()*]+)*\*\)*|(?:\([^()*]+)+\)+")  # (ORG*  *  *)  (GPE)


class Row(NamedTuple):
    """A word with its line and its cell of named entities."""

    line: int
    word: str
    cell: str


def is_conll2012(lines: Sequence[str]) -> bool:
    """Whether a file is CoNLL-2012 by its first lines; the columns of others may begin alike."""
    if not lines or not lines[0].startswith(BEGIN):
        return False
    row = next((split_row(line, "") for line in lines if line[0] != "#"), None)
    if row is None:
        return True
    return _is_row(row) and (row[ENTITY] in ("-", "_") or bool(BRACKETS.fullmatch(row[ENTITY])))


def _is_row(cells: Sequence[str]) -> bool:
    return len(cells) > ENTITY and cells[PART].isdigit() and cells[NUMBER].isdigit()


def read_conll2012(
    name: str, layout: Layout, report: ReadReport, *, mentions: bool = True
) -> Iterator[Sentence]:
    """Yield the sentences of a file, of words alone without `mentions`.

    Raises:
        DataError: a row is too short, or a bracket of a mention has no other.
    """
    stem = Path(name).stem
    for number, (doc, rows) in enumerate(_sentences(name, layout, report)):
        spans = _spans(name, rows) if mentions else []
        words, lines = [row.word for row in rows], [row.line for row in rows]
        yield Sentence("", f"{stem}-{number}", words, spans=spans, doc=doc, lines=lines)


def _sentences(
    name: str, layout: Layout, report: ReadReport
) -> Iterator[tuple[str | None, list[Row]]]:
    """Yield (document, rows) of each sentence."""
    doc: str | None = None
    rows: list[Row] = []
    for number, line in read_lines(name, layout.encoding):
        if is_blank(line) or line[0] == "#":
            if rows:
                yield doc, rows
                rows = []
            if line.startswith(BEGIN):
                doc = _document(line)
            elif line.startswith("#") and not line.startswith("#end document"):
                report.left_out["comment lines"] += 1
            continue
        cells = split_row(line, "")
        if not _is_row(cells):
            raise DataError(
                f"{name}:{number}: expected a row of CoNLL-2012 (document, part, number, word, "
                f"..., and in column {ENTITY} the named entities, counted from 0), found "
                f"{len(cells)} columns: {line[:60]!r}; correct the row, or set format=columns"
            )
        rows.append(Row(number, cells[WORD], cells[ENTITY]))
    if rows:
        yield doc, rows


def _document(line: str) -> str:
    """The name and the part of a document.

    >>> _document("#begin document (bc/cctv/00/cctv_0000); part 002")
    'bc/cctv/00/cctv_0000_2'
    """
    given = line.removeprefix(BEGIN).strip().rstrip(";")
    found = NAME.fullmatch(given)
    if found is None:
        return given
    return found[1] if found[2] is None else f"{found[1]}_{int(found[2])}"


def _spans(name: str, rows: Sequence[Row]) -> list[tuple[int, int, str]]:
    """The mentions of a sentence, which may be nested."""
    spans = []
    open_: list[tuple[int, str]] = []  # first word and type of each
    for i, (line, _, cell) in enumerate(rows):
        if not BRACKETS.fullmatch(cell):
            seems = ": the named entities are not annotated" if cell in ("-", "_") else ""
            raise DataError(
                f"{name}:{line}: expected *, (TYPE*, *) or (TYPE) in column {ENTITY}, found "
                f"{cell!r}{seems}; write * in rows where no mention starts or ends"
            )
        for label in re.findall(r"\(([^()*]+)", cell):
            try:
                open_.append((i, check_label(label, cell)))
            except DataError as error:
                raise DataError(f"{name}:{line}: {error}") from error
        for _ in range(cell.count(")")):
            if not open_:
                raise DataError(
                    f"{name}:{line}: expected a mention that began before it is closed, found "
                    f"{cell!r} in column {ENTITY} with none open; add (TYPE* where it begins, or "
                    "remove the bracket"
                )
            start, label = open_.pop()
            spans.append((start, i + 1, label))
    if open_:
        start, label = open_[-1]
        raise DataError(
            f"{name}:{rows[start].line}: expected a mention that is closed in its sentence, found "
            f"({label} without a closing bracket in column {ENTITY}; write *) at its last word"
        )
    return spans
