"""Lexicons: files of words, and where their words occur in texts.

Sections: words, files, use by a model. A lexicon belongs to no model: one that reads words
(`lexicon_fusion` in its configuration) can be given another at any call. This file uses only the
standard library and travels with the weights and with exported models.

A file has one word per line, in UTF-8. A tab and a type may follow, and another tab and the only
fold of the training data that has the word, as 3/10: its number and how many there are.
"""

import hashlib
import re
import warnings
import zlib
from array import array
from collections.abc import Iterable, Iterator, Mapping, Sequence
from functools import lru_cache
from io import StringIO
from itertools import pairwise
from pathlib import Path
from typing import Any, NamedTuple

from .windows_ner import InputError

LEXICON = "lexicon.txt"  # next to the weights
FUSIONS = ("none", "adapter", "flat")
MAX_WORD_LENGTH = 16  # characters of the longest word, unless configured otherwise
LONGEST_WORD = 63  # that may be configured
PLACES, SPREAD = 2**19, 0x9E3779B1  # of the index of a lexicon, at most
LARGEST_LEXICON = 64_000_000  # bytes
MOST_TYPES = 256  # of the words of a lexicon
# What a file of words does not hold: control characters, and what a wrong encoding leaves.
FOREIGN = re.compile("[\0-\x08\x0b\x0c\x0e-\x1f\x7f\ufffd\ud800-\udfff]")
FOLD = re.compile(r"([0-9]{1,3})/([0-9]{1,3})")
# Of a segmenter's dictionary: word, count, part of speech.
DICTIONARY_LINE = re.compile(r"[^\t]+ [0-9]+ [a-z]+|[^\t]+\t[0-9]+(\t[a-z]+)?")


# -------------------------------------------------------------------------------------------- words
class Kind(NamedTuple):
    """What an entry says of its word: the type or "", and the only fold that has it or None."""

    type: str = ""
    fold: tuple[int, int] | None = None


class Match(NamedTuple):
    """An occurrence of a word: text[start:end] == word."""

    start: int
    end: int
    word: str


class Lexicon:
    """Words, each with or without a type.

    Args:
        words: words, or {word: type or None}. White space around a word does not count.
        max_word_length: in characters; longer words are left out.
        source: where the words are from, for errors.

    Attributes:
        entries: {word: index of its kind in `kinds`}.
        left_out: {reason: number of words} of what became no entry.

    Raises:
        InputError: no word is left, or these are no words.
    """

    entries: dict[str, int]
    kinds: list[Kind]
    left_out: dict[str, int]
    source: str

    def __init__(
        self,
        words: Iterable[str] | Mapping[str, str | None],
        *,
        max_word_length: int = MAX_WORD_LENGTH,
        source: str = "lexicon",
    ) -> None:
        rows: Iterable[tuple[str, Any]]
        rows = words.items() if isinstance(words, Mapping) else ((word, None) for word in words)
        self._fill(checked(rows, source, words), max_word_length, source)

    @classmethod
    def of_rows(
        cls,
        rows: Iterable[tuple[str, Kind]],
        *,
        max_word_length: int = MAX_WORD_LENGTH,
        source: str = "lexicon",
    ) -> "Lexicon":
        """A lexicon of (word, kind). Of several rows of a word, the first without a fold counts."""
        lexicon = cls.__new__(cls)
        lexicon._fill(rows, max_word_length, source)
        return lexicon

    @classmethod
    def read(
        cls,
        path: str | Path,
        *,
        max_word_length: int = MAX_WORD_LENGTH,
        encoding: str = "utf-8",
        written: bool = False,
    ) -> "Lexicon":
        """The lexicon in a file.

        Args:
            written: `write` wrote it, so that whatever its lines look like, they are words.

        Raises:
            InputError: there is no such file, it is not a lexicon or not in this encoding, or no
                word is left.
        """
        text = read_text(Path(path), encoding)
        return cls.of_rows(
            rows_of(text, str(path), written=written),
            max_word_length=max_word_length,
            source=str(path),
        )

    def _fill(self, rows: Iterable[tuple[str, Kind]], longest: int, source: str) -> None:
        entries: dict[str, int] = {}
        numbers: dict[Kind, int] = {}
        kinds: list[Kind] = []
        found = short = long = 0
        if not (isinstance(longest, int) and 2 <= longest <= LONGEST_WORD):
            raise InputError(f"max_word_length is {longest!r}: expected 2 to {LONGEST_WORD}")
        for word, kind in rows:
            if not 2 <= (size := len(word)) <= longest:
                short += size == 1
                long += size > longest
                continue
            found += 1
            number = numbers.setdefault(kind, len(numbers))
            if number == len(kinds):
                kinds.append(kind)
            old = entries.setdefault(word, number)
            if old != number and kind.fold is None and kinds[old].fold is not None:
                entries[word] = number
        counts = {
            "duplicate": found - len(entries),
            f"longer than {longest} characters": long,
            "of one character": short,
        }
        self.entries, self.kinds, self.source = entries, kinds, source
        self.left_out = {reason: count for reason, count in counts.items() if count}
        if len(self.types) > MOST_TYPES:
            raise InputError(
                f"{source}: {len(self.types)} types of words ({', '.join(self.types[:3])}, ...): "
                f"expected {MOST_TYPES} at most; does a type stand behind the tab?"
            )
        if not entries:
            left = ", ".join(f"{count} {reason}" for reason, count in self.left_out.items())
            raise InputError(
                f"{source}: no words: expected a word of 2 to {longest} characters a line"
                + f" (left out: {left})" * bool(left)
            )
        self._index()

    def _index(self) -> None:
        """Index the sizes of words by their first two characters, in a table.

        Other characters may share a place: they only cost time.
        """
        count = min(PLACES, 2 ** (16 * len(self.entries)).bit_length())  # a power of two
        self._count = count
        self._places: dict[str, int] = {}  # of the words that begin with a character
        self._sizes = array("Q", bytes(8 * count))  # by place: bit n for a word of n characters
        places, sizes = self._places, self._sizes
        for word in self.entries:
            first = word[0]
            if first not in places:
                places[first] = (ord(first) * SPREAD >> 8) % count
            sizes[(places[first] ^ ord(word[1])) % count] |= 1 << len(word)
        self._sizes_of = {
            mask: tuple(size for size in range(LONGEST_WORD + 1) if mask >> size & 1)
            for mask in set(sizes)
        }

    def __len__(self) -> int:
        return len(self.entries)

    def __contains__(self, word: object) -> bool:
        return word in self.entries

    def __deepcopy__(self, _: Any) -> "Lexicon":
        return self  # it does not change; a copy of a model shares it

    def kind(self, word: str) -> Kind:
        """What the entry of a word says."""
        return self.kinds[self.entries[word]]

    @property
    def types(self) -> list[str]:
        """The types of the entries, in the order of the file."""
        return list(dict.fromkeys(kind.type for kind in self.kinds if kind.type))

    def content(self) -> str:
        """The text of a file with these entries."""
        ends = [f"{behind(kind)}\n" for kind in self.kinds]
        text = "".join(word + ends[number] for word, number in self.entries.items())
        # Words that look like a dictionary, as `rows_of` advises.
        return text.replace("\n", "\t\n", 1) if is_dictionary(text) else text

    def write(self, path: str | Path) -> None:
        """Write a file that `read` reads."""
        Path(path).write_text(self.content(), "utf-8", newline="\n")

    def facts(self) -> dict[str, Any]:
        """Number of words, longest word in characters, and SHA-256 of the file."""
        return {
            "words": len(self.entries),
            "longest_word": max(map(len, self.entries)),
            "sha256": hashlib.sha256(self.content().encode()).hexdigest(),
        }

    def remarks(self, types: Sequence[str]) -> list[str]:
        """What became no entry, and entries whose type is not among those that a model knows."""
        found = []
        if self.left_out:
            left = ", ".join(f"{count} {reason}" for reason, count in self.left_out.items())
            found.append(f"{self.source}: words left out: {left}")
        unknown = {
            n: kind.type for n, kind in enumerate(self.kinds) if kind.type not in ("", *types)
        }
        if unknown:
            count = sum(number in unknown for number in self.entries.values())
            names = ", ".join(sorted(set(unknown.values()))[:10])
            found.append(
                f"{self.source}: {count} of {len(self)} words have types that the model does not "
                f"know ({names}; it knows {', '.join(types) or 'none'}): they count as words "
                "without type"
            )
        return found

    def matches(self, text: str, *, held_out: bool = False) -> list[Match]:
        """All occurrences of words in a text, nested and overlapping ones too, by start and end.

        Args:
            held_out: leave out words that only the text's own fold has (see `fold_of`), as in
                training: its own annotation would otherwise be among the words.
        """
        entries, places, sizes, sizes_of = self.entries, self._places, self._sizes, self._sizes_of
        count = self._count
        found = []
        for start, (first, second) in enumerate(pairwise(text)):
            if first in places and (mask := sizes[(places[first] ^ ord(second)) % count]):
                for size in sizes_of[mask]:
                    if (word := text[start : start + size]) in entries and len(word) == size:
                        found.append(Match(start, start + size, word))
        if not held_out:
            return found
        own = {
            number
            for number, kind in enumerate(self.kinds)
            if kind.fold is not None and kind.fold[0] == fold_of(text, kind.fold[1])
        }
        return [match for match in found if entries[match.word] not in own]


def checked(
    rows: Iterable[tuple[Any, Any]], source: str, given: Any = None
) -> Iterator[tuple[str, Kind]]:
    """Rows of a lexicon from pairs of a word and a type that a caller gave; InputError if wrong."""
    if isinstance(given, str | bytes):
        raise InputError(f"{source}: expected words or {{word: type}}, found one string")
    for word, kind in rows:
        for value in (word, kind):
            if not isinstance(value, str) and (value is not None or value is word):
                raise InputError(f"{source}: expected strings, found {value!r:.60}")
            if value is not None and (FOREIGN.search(value) or set(value) & set("\t\r\n")):
                raise InputError(f"{source}: {value!r:.60} has a control character or tab")
        yield word.replace("\ufeff", "").strip(), Kind((kind or "").replace("\ufeff", "").strip())


def fold_of(text: str, folds: int) -> int:
    """The fold of a text, from 0: the same wherever and however often the text occurs.

    White space does not count: what joins the tokens of a text may differ between commands.

    >>> fold_of("小明在北京", 5) == fold_of(" 小明 在 北京 ", 5)
    True
    """
    return zlib.crc32("".join(text.split()).encode("utf-8", "surrogatepass")) % folds


# -------------------------------------------------------------------------------------------- files
def read_text(path: Path, encoding: str = "utf-8") -> str:
    """The text of a file of words, without byte order marks, of which joined files have several.

    Raises:
        InputError: there is no such file, or it is not in this encoding.
    """
    if not path.is_file():
        found = "a folder: expected a file" if path.is_dir() else "no such file"
        raise InputError(f"lexicon {path}: {found}")
    if (size := path.stat().st_size) > LARGEST_LEXICON:
        raise InputError(f"lexicon {path} has {size:,} bytes: expected {LARGEST_LEXICON:,} at most")
    content = path.read_bytes()
    try:
        text = content.decode(encoding).replace("\ufeff", "")
        text = text.replace("\r\n", "\n").replace("\r", "\n")
    except LookupError:
        raise InputError(f"encoding is {encoding!r}: expected utf-8, gb18030 or another") from None
    except UnicodeDecodeError as error:
        line = content.count(b"\n", 0, error.start) + 1
        raise InputError(
            f"lexicon {path}:{line} is not {encoding}: write the file again in UTF-8 "
            "(contrastive-ner lexicon --encoding gb18030 converts one)"
        ) from error
    if wrong := FOREIGN.search(text):
        line = text.count("\n", 0, wrong.start()) + 1
        raise InputError(
            f"lexicon {path}:{line} has the character U+{ord(wrong[0]):04X}: expected words in "
            f"{encoding}; is this its encoding?"
        )
    return text


def rows_of(text: str, source: str, *, written: bool = False) -> Iterator[tuple[str, Kind]]:
    """(word, kind) of each line of a lexicon that is not blank; `written` as in `Lexicon.read`.

    Raises:
        InputError: a line is none of a lexicon.
    """
    if not written and is_dictionary(text):
        first = next(line for line in text.split("\n") if line.strip())
        raise InputError(
            f"lexicon {source}: looks like a segmenter's dictionary ({first!r}): expected a word a "
            "line; contrastive-ner lexicon --dictionary FILE converts one; if these lines are "
            "words, put a tab behind the first"
        )
    kinds: dict[str, Kind] = {}  # by what stands behind the tab, line end and all: most lines agree
    for number, line in enumerate(StringIO(text, newline="\n"), 1):
        word, _, rest = line.partition("\t")
        kind = kinds.get(rest)
        if kind is None:
            kind = kinds[rest] = kind_of(rest.rstrip(), f"lexicon {source}:{number}")
        if word := word.strip():
            yield word, kind
        elif rest.strip():
            raise InputError(f"lexicon {source}:{number}: no word before the tab")


def is_dictionary(text: str) -> bool:
    """Whether the first lines of a file are those of a segmenter's dictionary."""
    lines = [line for line in text[:2000].split("\n", 20)[:-1] if line.strip()]
    return len(lines) > 1 and all(map(DICTIONARY_LINE.fullmatch, lines))


def kind_of(rest: str, place: str) -> Kind:
    """What stands behind a word and a tab. InputError, with the place, if it is neither form."""
    name, tab, fold = rest.partition("\t")
    match = FOLD.fullmatch(fold.strip())
    if tab and (match is None or not int(match[1]) < int(match[2])):
        raise InputError(
            f"{place}: {rest!r:.60} follows the word: expected a type, and after another tab a "
            "fold such as 3/10"
        )
    return Kind(name.strip(), (int(match[1]), int(match[2])) if match else None)


def behind(kind: Kind) -> str:
    """What stands behind a word in a file; see `kind_of`."""
    if kind.fold is not None:
        return f"\t{kind.type}\t{kind.fold[0]}/{kind.fold[1]}"
    return f"\t{kind.type}" if kind.type else ""


# --------------------------------------------------------------------------------- use by a model
def check_fusion(config: Any) -> None:
    """Raise `InputError` if a model reads no words."""
    if getattr(config, "lexicon_fusion", "none") == "none":
        raise InputError(
            "a lexicon is given, but the model reads none (lexicon_fusion is none): leave it out, "
            "or train a model with lexicon_fusion"
        )


def check_length(lexicon: Any, limit: int) -> None:
    """Raise `InputError` if a lexicon has longer words than a model reads."""
    if (longest := lexicon.facts()["longest_word"]) > limit:
        raise InputError(
            f"{lexicon.source} has words of {longest} characters, and max_word_length of the model "
            f"is {limit}: expected Lexicon(words, max_word_length={limit})"
        )


def own_lexicon(model: Any) -> Any:
    """The lexicon of a model. InputError if it reads words and has none."""
    if model.lexicon is None:
        raise InputError(
            f"the model reads the words of a lexicon, and has none ({LEXICON} is not next to its "
            "weights, or it was saved without): give lexicon=FILE (False: none; --lexicon on the "
            "command line)"
        )
    return model.lexicon


def lexicon_for(given: Any, config: Any) -> Any:
    """A lexicon for a model, from what `NerPipeline` takes; False for none.

    Warns of words that are left out, and of types that the model does not know.

    Raises:
        InputError: the model reads no words; or as `Lexicon`.
    """
    if given is False:
        return False
    check_fusion(config)
    longest = config.max_word_length
    if hasattr(given, "matches"):  # a `Lexicon`, perhaps of another copy of this file
        check_length(given, longest)
        lexicon = given
    elif isinstance(given, str | Path):
        try:
            path = Path(given).resolve()
            state = path.stat() if path.is_file() else None
        except (OSError, ValueError) as error:  # a name that no file can have
            raise InputError(f"lexicon {str(given)!r:.60}: no such file") from error
        lexicon = read_once(
            str(given if state is None else path),
            longest,
            state and (state.st_mtime_ns, state.st_size),
        )
    elif isinstance(given, Iterable):
        lexicon = Lexicon(given, max_word_length=longest)
    else:
        raise InputError(
            f"lexicon is {given!r:.60}: expected the name of a file, words, {{word: type}} or False"
        )
    for remark in lexicon.remarks(config.lexicon_types):
        warnings.warn(remark, stacklevel=2)
    return lexicon


@lru_cache(maxsize=2)
def read_once(path: str, max_word_length: int, state: Any) -> Lexicon:
    """`Lexicon.read`, once for as long as a file's `state` stays."""
    return Lexicon.read(path, max_word_length=max_word_length)
