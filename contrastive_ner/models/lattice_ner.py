"""What the lattice layer (`flat_ner`) reads of a text: numbers of characters, pairs and words.

Sections: vocabulary, windows, arrays. This file uses only the standard library and NumPy, and
travels with the weights.
"""

import hashlib
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from .lexicon_ner import Lexicon
from .matching_ner import LexiconReader, WordAt
from .windows_ner import InputError, TextReader

LATTICE = "lattice.txt"  # next to the weights
LATTICE_INPUTS = ("lattice_chars", "lattice_words")  # see `lattice_arrays`
PADDING, UNKNOWN = 0, 1  # numbers; those of a vocabulary follow
NOTHING = (PADDING, PADDING)


# --------------------------------------------------------------------------------------- vocabulary
class Vocabulary:
    """What has a vector of its own in a lattice layer. Everything else is unknown.

    Args:
        entries: characters (what carries a label) and words, in the order of their numbers from 2.
        bigrams: pairs of neighbouring characters; of a text's last one, that alone.
    """

    def __init__(self, entries: Iterable[str], bigrams: Iterable[str]) -> None:
        self.entries, self.bigrams = (
            {name: number for number, name in enumerate(dict.fromkeys(filter(can_stand, names)), 2)}
            for names in (entries, bigrams)
        )

    @classmethod
    def read(cls, path: str | Path, facts: Any) -> "Vocabulary":
        """The vocabulary in a file. InputError if it is not the one that has these facts."""
        lines = Path(path).read_bytes().decode("utf-8", "replace").split("\n")
        middle = lines.index("") if "" in lines else len(lines)
        found = cls(lines[:middle], lines[middle + 1 : -1])
        if found.facts() != facts:
            raise InputError(
                f"{path} is not the vocabulary that config.json describes: copy the model again"
            )
        return found

    def content(self) -> str:
        """The text of the file: one entry per line, an empty line, one pair per line."""
        return "".join(f"{name}\n" for name in (*self.entries, "", *self.bigrams))

    def write(self, path: str | Path) -> None:
        """Write a file that `read` reads."""
        Path(path).write_text(self.content(), "utf-8", newline="\n")

    def facts(self) -> dict[str, Any]:
        """Sizes of the two tables of vectors, and the SHA-256 of the file."""
        return {
            "entries": len(self.entries) + 2,
            "bigrams": len(self.bigrams) + 2,
            "sha256": hashlib.sha256(self.content().encode()).hexdigest(),
        }

    def __deepcopy__(self, _: Any) -> "Vocabulary":
        return self  # it does not change; a copy of a model shares it


def can_stand(name: str) -> bool:
    """Whether a line of a file can hold a character or word."""
    return bool(name) and name.isprintable() and "\ufffd" not in name


def pairs_of(characters: Sequence[str]) -> list[str]:
    """Each character with the next one.

    >>> pairs_of("北京市")
    ['北京', '京市', '市']
    """
    return ["".join(characters[at : at + 2]) for at in range(len(characters))]


# ------------------------------------------------------------------------------------------ windows
class TextInLattice(NamedTuple):
    """A `TextWithWords`, with the numbers of the character and pair at each label position."""

    ids: list[int]
    first_token: list[int]
    last_token: list[int]
    spans: list[tuple[int, int]]
    words: list[WordAt]
    longest: int
    numbers: list[tuple[int, int]]


class WindowInLattice(NamedTuple):
    """A `Window` with rows of `lattice_arrays`, as features and models call them."""

    input_ids: list[int]
    word_mask: list[bool]
    word_end_mask: list[bool]
    first: int
    last: int
    lattice_chars: list[tuple[int, int]]
    lattice_words: list[tuple[int, int, int]]


class LatticeReader(LexiconReader):
    """A `LexiconReader` for a model with a lattice layer. Words cut by a window are left out there.

    Args:
        reader: the reader of the model's tokens.
        vocabulary: what has vectors.
        lexicon: the words; None: none.
        longest: the longest word, in tokens; longer ones are left out.
        held_out: as in `Lexicon.matches`.
    """

    def __init__(
        self,
        reader: TextReader,
        vocabulary: Vocabulary,
        lexicon: Lexicon | None,
        *,
        longest: int,
        held_out: bool = False,
    ) -> None:
        super().__init__(reader, lexicon, held_out=held_out)
        self.vocabulary, self.longest = vocabulary, longest

    def tokenize(self, texts: Sequence[str]) -> list[Any]:
        """As `LexiconReader.tokenize`, with numbers: `TextInLattice`."""
        entries, bigrams = self.vocabulary.entries, self.vocabulary.bigrams
        rows = []
        read: list[Any] = super().tokenize(texts)
        for text, row in zip(texts, read, strict=True):
            own = [text[start:end] for start, end in row.spans]
            found = [
                (entries.get(one, UNKNOWN), bigrams.get(pair, UNKNOWN))
                for one, pair in zip(own, pairs_of(own), strict=True)
            ]
            rows.append(TextInLattice(**row._asdict(), numbers=found))
        return rows

    def window(self, text: Any, first: int, last: int) -> Any:
        """As `TextReader.window`, with the lattice of the window: `WindowInLattice`."""
        window: Any = super().window(text, first, last)
        shift = len(self.prefix) - text.first_token[first]
        chars = [NOTHING] * len(window.input_ids)
        for token, numbers in zip(
            text.first_token[first:last], text.numbers[first:last], strict=True
        ):
            chars[token + shift] = numbers
        entries = self.vocabulary.entries
        whole = [
            (entries.get(word.entry.word, UNKNOWN), word.first, word.last)
            for word in window.lexicon_words
            if word.begins and word.ends and word.last - word.first < self.longest
        ]
        own = {name: getattr(window, name) for name in WindowInLattice._fields[:5]}
        return WindowInLattice(**own, lattice_chars=chars, lattice_words=whole)


def fused_reader(
    reader: TextReader,
    config: Any,
    lexicon: Any,
    vocabulary: Vocabulary | None,
    *,
    held_out: bool = False,
) -> TextReader:
    """The reader of a model with `lexicon_fusion`.

    Args:
        reader: the reader of the model's tokens.
        config: of the model.
        lexicon: the words; None or False: none.
        vocabulary: of a model with a lattice layer.
        held_out: as in `Lexicon.matches`.
    """
    if config.lexicon_fusion == "flat" and vocabulary is not None:
        longest = config.max_word_length
        return LatticeReader(
            reader, vocabulary, lexicon or None, longest=longest, held_out=held_out
        )
    if not lexicon:
        return reader
    return LexiconReader(reader, lexicon, config.lexicon_types, held_out=held_out)


# ------------------------------------------------------------------------------------------- arrays
def lattice_arrays(
    chars: Sequence[Sequence[Any]], words: Sequence[Sequence[Any]], width: int
) -> dict[str, Any]:
    """The arrays of a batch that a lattice layer reads.

    Args:
        chars: of each window, the numbers of the character and pair at each token.
        words: of each window, the number of each word, and its first and last tokens.
        width: T, tokens of the widest window.

    Returns:
        `lattice_chars` (B, T, 2) and `lattice_words` (B, M, 3), filled up with `PADDING`.
    """
    most = max(1, *map(len, words)) if words else 1
    found = {
        "lattice_chars": np.zeros((len(chars), width, 2), dtype=np.int64),
        "lattice_words": np.zeros((len(words), most, 3), dtype=np.int64),
    }
    for name, rows in zip(LATTICE_INPUTS, (chars, words), strict=True):
        for number, row in enumerate(rows):
            if row:
                found[name][number, : len(row)] = row
    return found
