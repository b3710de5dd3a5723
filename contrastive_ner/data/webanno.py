"""WebAnno TSV 3, which INCEpTION exports: one token per row, one column per feature of a layer."""

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from itertools import groupby
from pathlib import Path
from typing import NamedTuple

from contrastive_ner.data.decoding import read_lines
from contrastive_ner.data.layout import Layout, ReadReport
from contrastive_ner.data.mentions import check_label
from contrastive_ner.data.sentences import Sentence
from contrastive_ner.data.shapes import is_blank
from contrastive_ner.errors import DataError

FORMAT = re.compile(r"#FORMAT=WebAnno TSV 3(?:\.\d+)?\s*")
LAYER = re.compile(r"#T_(SP|CH|RL)=([^|]+)(.*?)\s*")
PLACE = re.compile(r"(\d+)-\d+(\.\d+)?")
FIRST = 3  # columns before those of the layers: place, offsets, token
PART = re.compile(r"(?:\\.|[^\\|])+")  # of values stacked by |
VALUE = re.compile(r"((?:\\.|[^\\\[\]])*)(?:\[(\d+)\])?")
ESCAPED = re.compile(r"\\(.)")
CONTROLS = {"n": "\n", "t": "\t", "r": "\r"}


class Layer(NamedTuple):
    """A layer of the header, and the column of its first feature."""

    kind: str
    name: str
    features: list[str]
    column: int


class Row(NamedTuple):
    """A token; its sentence, and its cell of named entities."""

    line: int
    sentence: tuple[int, str]
    is_part: bool  # a part of the token above
    word: str
    cell: str


@dataclass
class Annotation:
    """The numbers of the tokens of an annotation; some may be covered in part only."""

    label: str
    line: int
    tokens: list[int] = field(default_factory=list)
    has_parts: bool = False


def is_webanno(line: str) -> bool:
    """Whether a file is WebAnno TSV 3 by its first line."""
    return FORMAT.fullmatch(line) is not None


def read_webanno(
    name: str, layout: Layout, report: ReadReport, *, mentions: bool = True
) -> Iterator[Sentence]:
    """Yield the sentences of a file, of words alone without `mentions`.

    Raises:
        DataError: the header has no layer of named entities or several, or a row is malformed.
    """
    all_rows = list(_rows(name, layout, report, mentions))
    rows = [row for row in all_rows if not row.is_part]
    if len(rows) < len(all_rows):
        report.left_out["rows of parts of tokens"] += len(all_rows) - len(rows)
    spans = _spans(name, all_rows, report) if mentions else []
    stem = Path(name).stem
    first = 0
    for number, (_, group) in enumerate(groupby(rows, key=lambda row: row.sentence)):
        own = list(group)
        end = first + len(own)
        inside = [(a - first, b - first, label) for a, b, label in spans if first <= a < end]
        words, lines = [row.word for row in own], [row.line for row in own]
        yield Sentence("", f"{stem}-{number}", words, spans=inside, lines=lines)
        first = end


# -- header and rows
def _rows(name: str, layout: Layout, report: ReadReport, mentions: bool) -> Iterator[Row]:
    layers: list[Layer] = []
    column: int | None = None
    width, block = FIRST, 0
    for number, line in read_lines(name, layout.encoding):
        if is_blank(line) or line[0] == "#":
            block += 1
            if found := LAYER.fullmatch(line):
                features = [part for part in found[3].split("|") if part] or [""]
                layers.append(Layer(found[1], found[2], features, width))
                width += len(features)
            continue
        if mentions and column is None:
            column = _column(name, layers, layout, report)
        cells = line.rstrip("\r").split("\t")
        place = PLACE.fullmatch(cells[0])
        if place is None or len(cells) < (width if mentions else FIRST) or not cells[FIRST - 1]:
            raise DataError(
                f"{name}:{number}: expected a place such as 1-1, offsets, a token and "
                f"{width - FIRST} columns of layers, separated by tabs, found {len(cells)}: "
                f"{line[:60]!r}; correct the row, or the layers of the header"
            )
        cell = "_" if column is None else cells[column].strip(" ")
        yield Row(
            number, (block, place[1]), place[2] is not None, _unescaped(cells[FIRST - 1]), cell
        )


def _column(name: str, layers: Sequence[Layer], layout: Layout, report: ReadReport) -> int:
    """The column of the types of named entities."""
    of_spans = [layer for layer in layers if layer.kind == "SP"]
    wanted, feature = layout.keys.get("entities"), layout.keys.get("label")
    if wanted is None:
        found = [layer for layer in of_spans if layer.name.endswith("NamedEntity")] or of_spans
    else:
        found = [layer for layer in of_spans if wanted in (layer.name, layer.name.split(".")[-1])]
    if len(found) != 1:
        named = ", ".join(layer.name for layer in (found or of_spans)) or "none"
        raise DataError(
            f"{name}: expected one layer of named entities in the header (#T_SP=...NamedEntity), "
            f"found {named}; set fields=entities=LAYER"
        )
    (layer,) = found
    usual = layer.name.endswith("NamedEntity") and "value" in layer.features
    if feature is None:
        feature = "value" if usual else layer.features[0]
    if feature not in layer.features:
        raise DataError(
            f"{name}: expected the feature {feature!r} in the layer {layer.name}, found "
            f"{', '.join(layer.features)}; set fields=label=FEATURE"
        )
    if not (usual and feature == "value"):
        report.note(f"mentions are read from the layer {layer.name}, feature {feature!r}")
    return layer.column + layer.features.index(feature)


# -- annotations
def _spans(name: str, rows: Sequence[Row], report: ReadReport) -> list[tuple[int, int, str]]:
    """The mentions (start, end, type) over the tokens of a file, without what cannot be one."""
    sentences = [row.sentence for row in rows if not row.is_part]
    spans = []
    for own in _annotations(name, rows):
        start, end = own.tokens[0], own.tokens[-1] + 1
        if own.label == "*":
            report.left_out["annotations without a type"] += 1
        elif own.has_parts:
            report.left_out["mentions of parts of tokens"] += 1
        elif sentences[start] != sentences[end - 1]:
            report.left_out["mentions across sentences"] += 1
        elif own.tokens != list(range(start, end)):
            report.left_out["discontinuous mentions"] += 1
        else:
            try:
                label = check_label(_unescaped(own.label), own.label)
            except DataError as error:
                raise DataError(f"{name}:{own.line}: {error}") from error
            spans.append((start, end, label))
    return spans


def _annotations(name: str, rows: Sequence[Row]) -> list[Annotation]:
    """Annotations in the order of their starts: those with the same number are one."""
    found: list[Annotation] = []
    numbered: dict[str, Annotation] = {}
    token = -1
    for row in rows:
        token += not row.is_part
        for part in PART.findall(row.cell):
            value = VALUE.fullmatch(part)
            if value is None:
                raise DataError(
                    f"{name}:{row.line}: expected a type, perhaps with the number of its "
                    f"annotation such as PER[1], found {part!r}; write \\ before [, ], | and \\ "
                    "that belong to the type"
                )
            label, number = value[1], value[2]
            if label == "_" or (row.is_part and number is None):
                continue
            own = numbered.get(number) if number else None
            if own is None:
                own = Annotation(label, row.line)
                found.append(own)
                if number:
                    numbered[number] = own
            if own.label != label:
                raise DataError(
                    f"{name}:{row.line}: expected {own.label} for the annotation [{number}], as in "
                    f"line {own.line}, found {label}; correct the type or the number"
                )
            own.has_parts |= row.is_part
            if not own.tokens or own.tokens[-1] != token:
                own.tokens.append(token)
    return found


def _unescaped(text: str) -> str:
    r"""A text without the backslashes before characters with a meaning.

    >>> _unescaped(r"a\[b\_c\\")
    'a[b_c\\'
    """
    return ESCAPED.sub(lambda found: CONTROLS.get(found[1], found[1]), text)
