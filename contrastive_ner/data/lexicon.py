"""Lexicons from what there is: files, jieba's dictionary, segmented text, annotated text by folds.

A word that was taken from annotated text must not count in the text that it was taken from: a model
would learn that every mention is a word, which holds for no other text. So the texts are divided
into folds, by their content, and a word that only one fold has is written with that fold. Training
leaves such words out in the texts of that fold; in use all words count.
"""

import logging
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
    DICTIONARY_LINE,
    Kind,
    Lexicon,
    fold_of,
    read_text,
    rows_of,
)

Row = tuple[str, Kind]
NAMES = {"nr": "nr", "nrt": "nr", "nrfg": "nr", "ns": "ns", "nt": "nt"}  # parts of speech as types


# -------------------------------------------------------------------------------------------- files
def rows_of_file(path: str, encoding: str) -> list[Row]:
    """The rows of a lexicon, or of a segmenter's dictionary (word, count, part of speech).

    Raises:
        InputError: it is neither, or not in this encoding.
    """
    text = read_text(Path(path), encoding)
    lines = [line.strip() for line in text.split("\n")]
    first = [line for line in lines[:20] if line]
    if len(first) > 1 and all(map(DICTIONARY_LINE.fullmatch, first)):
        return list(rows_of_dictionary(lines))
    return list(rows_of(text, path))


def rows_of_dictionary(lines: Iterable[str]) -> Iterator[Row]:
    """Rows of a segmenter's dictionary: names of persons, places and organisations have a type."""
    for line in lines:
        word, _, rest = line.strip().partition(" ")
        if word:
            yield word, Kind(NAMES.get(rest.rpartition(" ")[2], ""))


# ------------------------------------------------------------------------------- word segmentation
def jieba_module(name: str = "jieba") -> Any:
    """The word segmenter jieba, or a part of it. ConfigError if it is not installed."""
    with warnings.catch_warnings():  # about its own code
        warnings.simplefilter("ignore")
        return need(name, "jieba")


def rows_of_jieba() -> list[Row]:
    """The words of jieba's dictionary, with the types nr (persons), ns (places) and nt."""
    with jieba_module().get_dict_file() as file:
        return list(rows_of_dictionary(line.decode("utf-8") for line in file))


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
    """The mentions of annotated texts as words; those of one fold alone name it.

    A word has a type only if that is its most frequent one, whichever fold is left out: its type
    tells no text what only that text's own fold knows.

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
        if not word or set(word) & set("\t\r\n") or every.total() < min_count:
            continue
        if len(by_fold) == 1:
            rows.append((word, Kind(most_frequent(every), (next(iter(by_fold)), folds))))
        else:
            types = {most_frequent(every - own) for own in (Counter(), *by_fold.values())}
            rows.append((word, Kind(types.pop() if len(types) == 1 else "")))
    return rows


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
