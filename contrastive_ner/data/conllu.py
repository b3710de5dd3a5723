"""CoNLL-U whose last column, MISC, holds tags of named entities: `NER=B-PER|SpaceAfter=No`."""

import re
from collections import Counter
from collections.abc import Iterable, Iterator
from itertools import chain, islice
from pathlib import Path
from typing import NamedTuple

from contrastive_ner.data.decoding import read_lines
from contrastive_ner.data.layout import Layout, ReadReport
from contrastive_ner.data.schemes import read_tags
from contrastive_ner.data.sentences import Sentence
from contrastive_ner.data.shapes import NO_TOKEN, SAMPLE, is_blank, is_tag_column
from contrastive_ner.errors import DataError

WIDTH = 10
KEYS = ("NER", "ner", "Ner", "NE")
TAG_ONLY_KEYS = ("Entity", "name")  # which may hold something else: CorefUD's and NorNE's
SETTING = re.compile(rf"(?:^|\|)({'|'.join((*KEYS, *TAG_ONLY_KEYS))})=([^|]*)")
BRACKETS = re.compile(r"\(.*|[^(]*\)")
NUMBER = re.compile(r"\d+(?:[-.]\d+)?")
PART_OF_SPEECH, HEAD = re.compile("[A-Z]+|_"), re.compile(r"\d+|_")
NEW_DOCUMENT = re.compile(r"#\s*newdoc(?:\s+id\s*=\s*(.*\S))?\s*")


class Key(NamedTuple):
    """The key of named entities in MISC; with `brackets` its values are not tags alone."""

    name: str
    brackets: bool


def entity_key(lines: Iterable[str]) -> Key | None:
    """The key of the named entities of a CoNLL-U file; None for any other file.

    So it is also if another column than MISC holds tags.
    """
    values: dict[str, Counter[str]] = {}
    rows: list[list[str]] = []
    for line in lines:
        if is_blank(line) or line[0] == "#":
            continue
        cells = line.split("\t")
        if len(cells) != WIDTH or not NUMBER.fullmatch(cells[0]):
            if not rows:
                return None
            continue  # reading reports it
        if len(rows) < SAMPLE:
            rows.append(cells)
        for key, value in SETTING.findall(cells[-1].strip()):
            values.setdefault(key, Counter())[value] += 1
    if not values or any(map(is_tag_column, list(zip(*rows, strict=True))[:-1])):
        return None
    for key in (*KEYS, *TAG_ONLY_KEYS):
        found = values.get(key, Counter())
        if any(map(BRACKETS.fullmatch, found)):
            return Key(key, brackets=True)
        if found and (_are_tags if key in KEYS else _are_prefixed)(found):
            return Key(key, brackets=False)
    return None


def is_untagged(lines: Iterable[str]) -> bool:
    """Whether these are lines of CoNLL-U without tags that can be read."""
    filled = (line for line in lines if not is_blank(line) and line[0] != "#")
    rows = [line.rstrip("\r").split("\t") for line in islice(filled, SAMPLE)]
    if not rows or not all(len(row) == WIDTH and NUMBER.fullmatch(row[0]) for row in rows):
        return False
    if not all(PART_OF_SPEECH.fullmatch(row[3]) and HEAD.fullmatch(row[6]) for row in rows):
        return False
    return not any(map(is_tag_column, list(zip(*rows, strict=True))[1:]))


def _are_tags(values: Counter[str]) -> bool:
    """Whether at least half of the values are tags, perhaps types alone (IO)."""
    pairs, _ = read_tags(values + Counter("O"))
    return 2 * sum(values[tag] for tag in pairs) >= values.total()


def _are_prefixed(values: Counter[str]) -> bool:
    return is_tag_column([*values.elements(), "O"])


def read_conllu(name: str, key: str, layout: Layout, report: ReadReport) -> Iterator[Sentence]:
    """Yield the sentences of a file; the tags of its words are under `key` in MISC, else O.

    With "" as the key, the words alone.

    Raises:
        DataError: a row is malformed, or has brackets where a tag is expected.
    """
    if key:
        report.note(f"tags are read from {key}= in the last column")
    stem = Path(name).stem
    doc: str | None = None
    number, documents = 0, 0
    lines: list[int] = []
    words: list[str] = []
    tags: list[str] = []
    for line, row in chain(read_lines(name, layout.encoding), [(0, "")]):
        opened = NEW_DOCUMENT.fullmatch(row)
        if words and (opened or is_blank(row)):
            yield Sentence("", f"{stem}-{number}", words, [tags], doc=doc, lines=lines)
            number += 1
            lines, words, tags = [], [], []
        if opened:
            documents += 1
            doc = opened[1] or f"{stem}-doc-{documents}"
        elif row.startswith("#"):
            report.left_out["comment lines"] += 1
        elif not is_blank(row):
            cells = _cells(name, line, row)
            if NO_TOKEN.fullmatch(cells[0]):
                report.left_out["rows without a token of their own"] += 1
                continue
            lines.append(line)
            words.append(cells[1])
            tags.append(_tag(name, line, key, cells[-1]))


def _cells(name: str, line: int, row: str) -> list[str]:
    cells = row.rstrip("\r").split("\t")
    if len(cells) != WIDTH or not NUMBER.fullmatch(cells[0]) or not cells[1]:
        raise DataError(
            f"{name}:{line}: expected {WIDTH} columns of CoNLL-U separated by tabs, with a number "
            f"and a word first, found {len(cells)}: {row[:60]!r}; correct the row"
        )
    return cells


def _tag(name: str, line: int, key: str, misc: str) -> str:
    """The tag of a row."""
    value = next((value for own, value in SETTING.findall(misc.strip()) if own == key), "O")
    if BRACKETS.fullmatch(value):
        raise DataError(
            f"{name}:{line}: expected a tag such as B-PER under {key}= in the last column, found "
            f"{value[:40]!r}: brackets, as in CorefUD and GUM, are not read; write tags "
            "(NER=B-PER), or convert the file to JSONL with offsets"
        )
    return "O" if value == "_" else value
