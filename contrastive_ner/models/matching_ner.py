"""Words of a lexicon at the tokens of texts and windows, and the arrays that models read.

This file uses only the standard library and NumPy, and travels with the weights and with exported
models.
"""

from bisect import bisect_left
from collections.abc import Sequence
from operator import attrgetter
from typing import Any, NamedTuple

import numpy as np

from .lexicon_ner import Lexicon
from .windows_ner import TextReader, Tokenized

INPUTS = ("lexicon_words", "lexicon_tags", "word_chars", "word_types")  # see `lexicon_arrays`
WORDS_PER_TOKEN = 5
WORD_CHARS = 8  # tokens of a word that a model reads
BEGIN, MIDDLE, END = 1, 2, 3  # tags of a word's tokens; 0: no word
first_of = attrgetter("first")
NO_CHAR = -1  # fills the tokens of a word


class Entry(NamedTuple):
    """A word as a model reads it.

    `type` is 0 or the number, from 1, of a type that the model knows; `length` counts the word's
    tokens; `chars` has the ids of the first `WORD_CHARS` of them.
    """

    word: str
    type: int
    length: int
    chars: tuple[int, ...]


class WordAt(NamedTuple):
    """A word at the tokens [first, last] of a text, or of a window: there clipped to the window.

    `begins` and `ends` say whether the word's first and last token are among them.
    """

    first: int
    last: int
    begins: bool
    ends: bool
    entry: Entry


class TextWithWords(NamedTuple):
    """A `Tokenized` text with its `words`, in the order of their first tokens.

    `longest` is the number of tokens of the longest of them.
    """

    ids: list[int]
    first_token: list[int]
    last_token: list[int]
    spans: list[tuple[int, int]]
    words: list[WordAt]
    longest: int


class WindowWithWords(NamedTuple):
    """A `Window` with its words, as features and models call them."""

    input_ids: list[int]
    word_mask: list[bool]
    word_end_mask: list[bool]
    first: int
    last: int
    lexicon_words: list[WordAt]


class LexiconReader(TextReader):
    """A `TextReader` whose windows have words of a lexicon, matched on the whole text.

    A word counts where it begins and ends with a label position.

    Args:
        reader: the reader of the model's tokens.
        lexicon: the words; None: none.
        types: the types that the model knows, in the order of their numbers.
        held_out: as in `Lexicon.matches`.
    """

    def __init__(
        self,
        reader: TextReader,
        lexicon: Lexicon | None,
        types: Sequence[str] = (),
        *,
        held_out: bool = False,
    ) -> None:
        self.__dict__.update(reader.__dict__)
        self.lexicon, self.types, self.held_out = lexicon, list(types), held_out
        known = {name: number for number, name in enumerate(self.types, 1)}
        kinds = [] if lexicon is None else lexicon.kinds
        self._numbers = [known.get(kind.type, 0) for kind in kinds]

    def tokenize(self, texts: Sequence[str]) -> list[Any]:
        """As `TextReader.tokenize`, with the words of each text: `TextWithWords`."""
        shared: dict[Entry, Entry] = {}
        rows = []
        for text, row in zip(texts, super().tokenize(texts), strict=True):
            words = self._words(text, row, shared)
            longest = max((word.last + 1 - word.first for word in words), default=0)
            rows.append(TextWithWords(*row, words, longest))
        return rows

    def _words(self, text: str, row: Tokenized, shared: dict[Entry, Entry]) -> list[WordAt]:
        if self.lexicon is None:
            return []
        starts: dict[int, int] = {}
        for token, (start, _) in zip(row.first_token, row.spans, strict=True):
            starts.setdefault(start, token)
        ends = {end: token for token, (_, end) in zip(row.last_token, row.spans, strict=True)}
        words = []
        for start, end, word in self.lexicon.matches(text, held_out=self.held_out):
            first, last = starts.get(start), ends.get(end)
            if first is None or last is None or last < first:
                continue
            chars = tuple(row.ids[first : min(last + 1, first + WORD_CHARS)])
            number = self._numbers[self.lexicon.entries[word]]
            entry = Entry(word, number, last + 1 - first, chars)
            words.append(WordAt(first, last, True, True, shared.setdefault(entry, entry)))
        return words

    def window(self, text: Any, first: int, last: int) -> Any:
        """As `TextReader.window`, with the words of the window: `WindowWithWords`."""
        window = super().window(text, first, last)
        begin, before = text.first_token[first], len(self.prefix)
        end = begin + len(window.input_ids) - before - len(self.suffix)
        # Only words that begin here, or a longest word before: a long text has many windows.
        low = bisect_left(text.words, begin - text.longest + 1, key=first_of)
        high = bisect_left(text.words, end, lo=low, key=first_of)
        words = [
            WordAt(
                max(word.first, begin) - begin + before,
                min(word.last, end - 1) - begin + before,
                word.first >= begin,
                word.last < end,
                word.entry,
            )
            for word in text.words[low:high]
            if word.last >= begin
        ]
        return WindowWithWords(*window, words)


def lexicon_arrays(rows: Sequence[Sequence[Any]], width: int) -> dict[str, Any]:
    """The arrays of a batch: what a model with `lexicon_fusion` reads besides the token ids.

    Args:
        rows: the words of each window.
        width: T, tokens of the widest window.

    Returns:
        `lexicon_words` and `lexicon_tags` (B, T, K): for each token the numbers of the K longest
        words that cover it, longest first, and its tags in them; 0 where there are fewer.
        `word_chars` (U, 8) and `word_types` (U,): token ids and types of the words by their
        numbers; number 0 means no word, and `NO_CHAR` no token.
    """
    numbers: dict[tuple, int] = {((), 0): 0}
    places: list[tuple[int, int, int]] = []
    values: list[tuple[int, int]] = []
    for row, words in enumerate(rows):
        used = [0] * width
        for first, last, begins, ends, (_, kind, _, chars) in sorted(
            words, key=lambda word: (-word[4][2], word[0])
        ):
            number = numbers.setdefault((tuple(chars), kind), len(numbers))
            for token in range(first, last + 1):
                if (at := used[token]) < WORDS_PER_TOKEN:
                    used[token] += 1
                    places.append((row, token, at))
                    is_first, is_last = begins and token == first, ends and token == last
                    values.append((number, BEGIN if is_first else END if is_last else MIDDLE))
    pairs = np.zeros((2, len(rows), width, WORDS_PER_TOKEN), dtype=np.int64)
    if places:
        pairs[(slice(None), *np.array(places).T)] = np.array(values).T
    word_chars = np.full((len(numbers), WORD_CHARS), NO_CHAR, dtype=np.int64)
    for (chars, _), number in numbers.items():
        word_chars[number, : len(chars)] = chars
    return {
        "lexicon_words": pairs[0],
        "lexicon_tags": pairs[1],
        "word_chars": word_chars,
        "word_types": np.array([kind for _, kind in numbers], dtype=np.int64),
    }
