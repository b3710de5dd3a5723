"""Words, each with a tag after a slash, one sentence per line.

Tags are those of entities (`Anna/PERSON left/O`, `张/B-PER 三/I-PER`), or parts of speech of which
some name entities, as in the People's Daily of 1998: `江/nr 泽民/nr`, `[中国/ns 政府/n]nt`.
"""

import re
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

from contrastive_ner.data.decoding import read_lines
from contrastive_ner.data.layout import Layout, ReadReport
from contrastive_ner.data.schemes import read_tags
from contrastive_ner.data.sentences import Sentence
from contrastive_ner.errors import DataError

CELL = re.compile(r"(\[*)(.+?)/([^\W\d_][\w-]*|0)((?:\]/?[A-Za-z]+)*)")
NUMBER = re.compile(r"\d{8}-\d\d-\d\d\d-\d\d\d(?:/m)?")  # of a sentence of the People's Daily
# Parts of speech of persons, places and organisations; NR and NT of treebanks mean other things.
ENTITY_PARTS = ("nr", "ns", "nt")
LTP_PARTS = ("nh", "ns", "ni")  # of LTP, whose nt is a time
PART = re.compile(r"(n[rst])[a-z0-9]{0,2}|(nh|ni)")  # with finer ones, such as nrf and nsf
LONGEST_PART = 2  # characters of a surname or a given name


class Word(NamedTuple):
    """A word with its tag, and the brackets that begin before it and end behind it."""

    cell: str
    text: str
    tag: str
    begins: int
    ends: tuple[str, ...]


def is_slashed(lines: Sequence[str]) -> bool:
    """Whether nearly all words of lines have a tag, of which one is of an entity.

    >>> is_slashed(["Anna/PERSON left/O"]), is_slashed(["and/or maybe"])
    (True, False)
    """
    cells = [cell for line in lines for cell in _cells(line)]
    found = [CELL.fullmatch(cell) for cell in cells]
    if not cells or 20 * sum(match is None for match in found) > len(cells):
        return False
    counts = Counter(match[3] for match in found if match)
    return _are_entities(counts) or _has_parts(counts) or any(match and match[4] for match in found)


def _are_entities(counts: Counter[str]) -> bool:
    """Whether tags are those of entities, not parts of speech."""
    pairs, spelling = read_tags(counts)
    read = sum(counts[tag] for tag in pairs)
    if not {"O", "0"} & counts.keys() and spelling in ("PER", "B"):
        return False
    return 20 * read >= 19 * counts.total() and any(prefix != "O" for prefix, _ in pairs.values())


def _has_parts(counts: Counter[str]) -> bool:
    return any(map(PART.fullmatch, counts))


def _cells(line: str) -> list[str]:
    cells = line.split()
    return cells[1:] if cells and NUMBER.fullmatch(cells[0]) else cells


def read_slashed(name: str, layout: Layout, report: ReadReport) -> Iterator[Sentence]:
    """Yield a sentence per line that is not blank.

    Raises:
        DataError: a word has no tag, or brackets do not match.
    """
    sentences: list[tuple[int, list[Word]]] = []
    for number, line in read_lines(name, layout.encoding):
        if cells := _cells(line):
            try:
                sentences.append((number, [_word(cell) for cell in cells]))
            except DataError as error:
                raise DataError(f"{name}:{number}: {error}") from error
    tagged = _are_entities(Counter(word.tag for _, words in sentences for word in words))
    found = {word.tag for _, words in sentences for word in words}
    parts = LTP_PARTS if {"nh", "ni"} & found else ENTITY_PARTS
    names = 0
    for number, words in sentences:
        texts, tags = [word.text for word in words], [word.tag for word in words]
        if tagged:  # brackets are part of the words
            texts, tags = (
                [word.cell.rpartition("/")[0] for word in words],
                [word.cell.rpartition("/")[2] for word in words],
            )
        place, identifier = f"line {number}", f"{Path(name).stem}-{number}"
        if tagged:
            yield Sentence(place, identifier, texts, [tags], lines=[number] * len(words))
            continue
        try:
            spans, joined = _spans(words, parts)
        except DataError as error:
            raise DataError(f"{name}:{number}: {error}") from error
        names += joined
        yield Sentence(place, identifier, texts, spans=spans)
    if not tagged:
        report.note(f"parts of speech {', '.join(parts)} are read as mentions, no others")
    if names:
        report.note(f"{names} pairs of surname and given name (nr nr) are read as one mention")


def _word(cell: str) -> Word:
    found = CELL.fullmatch(cell)
    if found is None:
        raise DataError(f"expected words with tags, such as 张三/nr or Anna/PERSON, found {cell!r}")
    ends = tuple(part.lstrip("/") for part in found[4].split("]")[1:])
    return Word(cell, found[2], found[3], len(found[1]), ends)


def _spans(words: Sequence[Word], parts: Sequence[str]) -> tuple[list[tuple[int, int, str]], int]:
    """Mentions by parts of speech, (first, end, type), and the number of names in two parts."""
    spans: list[tuple[int, int, str]] = []
    opened: list[int] = []
    names = 0
    free = True  # whether the word before is not a surname that was joined
    for i, word in enumerate(words):
        opened += [i] * word.begins
        label = word.tag[:2] if PART.fullmatch(word.tag) else ""
        before = words[i - 1] if i and free else None
        if label in parts:
            if label == "nr" and before is not None and _is_name(before, word):
                spans[-1] = (i - 1, i + 1, "nr")
                names += 1
                free = False
            else:
                spans.append((i, i + 1, label))
                free = True
        else:
            free = True
        for end in word.ends:
            if not opened:
                raise DataError(f"the bracket ]{end} closes none; correct it")
            start = opened.pop()
            if PART.fullmatch(end) and end[:2] in parts:
                spans.append((start, i + 1, end[:2]))
    if opened:
        raise DataError("a bracket [ is not closed in its line; correct it")
    return sorted(set(spans)), names


def _is_name(surname: Word, given: Word) -> bool:
    """Whether two words are surname and given name, which the People's Daily separates."""
    if surname.tag[:2] != "nr" or given.begins or surname.ends:
        return False
    parts = (surname.text, given.text)
    return all(len(part) <= LONGEST_PART and "\u4e00" <= part[0] <= "\u9fff" for part in parts)
