"""Lexicons from what there is: files, jieba's dictionary, segmented text, annotated text by folds.

A word that was taken from annotated text must not count in the text that it was taken from: a model
would learn that every mention is a word, which holds for no other text. So the texts are divided
into folds, by their content, and a word that only one fold has is written with that fold. Training
leaves such words out in the texts of that fold; in use all words count.
"""

import logging
import re
import warnings
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from contrastive_ner.data.records import Record
from contrastive_ner.errors import ConfigError
from contrastive_ner.extras import need
from contrastive_ner.models.lexicon_ner import (
    FOREIGN,
    Kind,
    Lexicon,
    fold_of,
    read_text,
    rows_of,
)

Row = tuple[str, Kind]
# A line of a segmenter's dictionary; in those of users, count and part of speech may be missing.
ENTRY = re.compile(r"(.+?)( [0-9]+)?( [a-z]+)?")
NAMES = {"nr": "nr", "nrt": "nr", "nrfg": "nr", "ns": "ns", "nt": "nt"}  # parts of speech as types


# -------------------------------------------------------------------------------------------- files
def rows_of_file(path: str, encoding: str) -> list[Row]:
    """The rows of a lexicon.

    Raises:
        InputError: it is none, or not in this encoding.
    """
    return list(rows_of(read_text(Path(path), encoding), path))


def rows_of_dictionary(path: str, encoding: str) -> list[Row]:
    """The rows of a segmenter's dictionary; see `rows_of_entries`.

    Raises:
        InputError: there is no such file, or it is not in this encoding.
    """
    return list(rows_of_entries(read_text(Path(path), encoding).split("\n")))


def rows_of_entries(lines: Iterable[str]) -> Iterator[Row]:
    """Rows from lines of a word, a count and a part of speech; the last two may be missing.

    Names of persons, places and organisations have a type.
    """
    for line in lines:
        if match := ENTRY.fullmatch(line.strip().replace("\t", " ")):
            yield match[1], Kind(NAMES.get((match[3] or "").strip(), ""))


# ------------------------------------------------------------------------------- word segmentation
def jieba_module(name: str = "jieba") -> Any:
    """The word segmenter jieba, or a part of it. ConfigError if it is not installed."""
    with warnings.catch_warnings():  # about its own code
        warnings.simplefilter("ignore")
        return need(name, "jieba")


def rows_of_jieba() -> list[Row]:
    """The words of jieba's dictionary, with the types nr (persons), ns (places) and nt."""
    with jieba_module().get_dict_file() as file:
        return list(rows_of_entries(line.decode("utf-8") for line in file))


def rows_of_texts(texts: Iterable[str], *, min_count: int) -> list[Row]:
    """The words that jieba finds in texts at least `min_count` times, frequent ones first.

    A word has the type that most of its occurrences have, nr, ns or nt, or none.
    """
    jieba_module().setLogLevel(logging.WARNING)
    cut = jieba_module("jieba.posseg").cut
    counts: defaultdict[str, Counter[str]] = defaultdict(Counter)
    for text in texts:
        for word, flag in cut(text):
            if word.strip():
                counts[word.strip()][NAMES.get(flag, "")] += 1
    found = [(word, own) for word, own in counts.items() if own.total() >= min_count]
    found.sort(key=lambda item: (-item[1].total(), item[0]))
    return [(word, Kind(most_frequent(own))) for word, own in found]


# --------------------------------------------------------------------------------- annotated texts
def rows_of_mentions(records: Iterable[Record], *, folds: int, min_count: int) -> list[Row]:
    """The mentions of annotated texts as words; those that one fold alone makes words name it.

    To the texts of a fold, a mention is a word if the other folds have it `min_count` times. Where
    that fails for one fold, the word names the fold; where for several, it is left out, as a file
    names one at most. A word has a type only if that is its most frequent one, whichever fold is
    left out: its type tells no text what only that text's own fold knows.

    Raises:
        ConfigError: there are fewer than 2 folds, or too many.
    """
    if not 2 <= folds <= 999:
        raise ConfigError(f"folds is {folds}: expected 2 to 999")
    counts: defaultdict[str, defaultdict[int, Counter[str]]] = defaultdict(
        lambda: defaultdict(Counter)
    )
    for record in records:
        fold = fold_of(record.text, folds)
        for mention in record.entities:
            word = record.text[mention.start : mention.end].strip()
            counts[word][fold][mention.label.strip()] += 1
    rows = []
    for word, by_fold in counts.items():
        every = sum(by_fold.values(), Counter())
        total = every.total()
        alone = [f for f, own in by_fold.items() if total - own.total() < min_count]
        if not word or set(word) & set("\t\r\n") or total < min_count or len(alone) > 1:
            continue
        others = [own for fold, own in by_fold.items() if fold not in alone]
        types = {most_frequent(every - own) for own in (Counter(), *others)}
        kind = Kind(types.pop() if len(types) == 1 else "")
        rows.append((word, kind._replace(fold=(alone[0], folds)) if alone else kind))
    return rows


def without_foreign(rows: Iterable[Row]) -> tuple[list[Row], int]:
    """The rows that a file can hold, and the number of the others: see `FOREIGN`."""
    given = list(rows)
    kept = [row for row in given if not FOREIGN.search(row[0] + row[1].type)]
    return kept, len(given) - len(kept)


def most_frequent(counts: Counter[str]) -> str:
    """The name that is counted more often than any other; "" if there is none."""
    best = counts.most_common(2)
    return best[0][0] if len(best) == 1 or best[0][1] > best[1][1] else ""


# ----------------------------------------------------------------------------------------- coverage
@dataclass
class Covered:
    """What the words of a lexicon have of a file: characters, without white space, and mentions."""

    texts: int = 0
    characters: int = 0
    covered: int = 0
    words: int = 0
    mentions: int = 0
    matched: int = 0

    def __str__(self) -> str:
        line = (
            f"{100 * self.covered / max(self.characters, 1):.1f} % of {self.characters} characters "
            f"are in a word, {self.words / max(self.characters, 1):.2f} words a character"
        )
        if self.mentions:
            share = 100 * self.matched / self.mentions
            line += f", {share:.1f} % of {self.mentions} mentions are a word"
        return line


def coverage(lexicon: Lexicon, records: Iterable[Record], *, held_out: bool = False) -> Covered:
    """Coverage of records; `held_out` as in `Lexicon.matches`."""
    counts = Covered()
    for record in records:
        matches = lexicon.matches(record.text, held_out=held_out)
        places = {at for match in matches for at in range(match.start, match.end)}
        spans = {(match.start, match.end) for match in matches}
        counts.texts += 1
        counts.characters += sum(not character.isspace() for character in record.text)
        counts.covered += sum(not record.text[at].isspace() for at in places)
        counts.words += len(matches)
        counts.mentions += len(record.entities)
        counts.matched += sum((m.start, m.end) in spans for m in record.entities)
    return counts
