"""Distant supervision: entity labels from a dictionary, and dictionaries from annotated files.

Sections: folding and words, the dictionary, annotation, building a dictionary.

A dictionary is a UTF-8 file, a line a term, a tab and an entity type; blank lines and lines that start with # are skipped, and so is
white space around term and type. Terms are compared folded; where terms that fold alike have different types, the first line counts.
Otherwise a term is looked for as written: one that comes from tokens joined by spaces (beta - blocker) is not found in running text.

Offsets count code points, half-open: folding turns each code point into one code point and so moves none.
"""

import re
import unicodedata
from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from itertools import pairwise
from pathlib import Path

from contrastive_ner.data.readers import Layout, read_lines, read_records
from contrastive_ner.data.records import Mention, Record
from contrastive_ner.errors import DataError
from contrastive_ner.files import atomic_writer

UNWRITABLE = re.compile(
    "^#|[\t\r\n\ud800-\udfff]"
)  # what the file format cannot hold in a term or type


# -------------------------------------------------------------------------------- folding and words
@lru_cache(maxsize=1 << 16)
def _fold_character(character: str, case: bool, width: bool) -> str:
    if (
        "\ud800" <= character <= "\udfff"
    ):  # a lone surrogate has no UTF-8; the models read it as U+FFFD, too
        return "\ufffd"
    form, *code_points = unicodedata.decomposition(character).split() or [""]
    if width and form in ("<wide>", "<narrow>") and len(code_points) == 1:
        character = chr(int(code_points[0], 16))
    folded = character.casefold() if case else character
    return folded if len(folded) == 1 else character


def fold(text: str, *, case: bool = True, width: bool = True) -> str:
    """`text` without differences of case, and of full-width and half-width forms, one code point for one.

    A character whose folding has another length is kept.

    >>> fold("Ｂ超 Straße")
    'b超 straße'
    """
    return "".join(_fold_character(character, case, width) for character in text)


def words(text: str) -> list[tuple[int, int]]:
    """Offsets of the words of `text` by the rule of the models: runs of letters and digits, single ideographs, single symbols.

    >>> words("Hi, 北京")
    [(0, 2), (2, 3), (4, 5), (5, 6)]
    """
    from contrastive_ner.models.windows_ner import word_starts

    starts = sorted(word_starts(text))
    return [
        (start, start + len(text[start:following].rstrip()))
        for start, following in pairwise([*starts, len(text)])
    ]


# ----------------------------------------------------------------------------------- the dictionary
class Dictionary:
    """Terms to look for. `types`: folded term -> its entity types in the order of the entries; mentions get the first one.

    Args:
        entries: (term, entity type).
        fold_case, fold_width: ignore case; ignore the difference of full-width and half-width forms.
        min_length: shorter terms are left out, in characters.
    """

    def __init__(
        self,
        entries: Iterable[tuple[str, str]],
        *,
        fold_case: bool = True,
        fold_width: bool = True,
        min_length: int = 1,
    ) -> None:
        from ahocorasick_rs import AhoCorasick

        self.fold_case, self.fold_width, self.min_length = fold_case, fold_width, min_length
        self.types: dict[str, list[str]] = {}
        self.repeated = self.short = (
            0  # entries that say what an earlier one says, or are too short
        )
        for term, label in entries:
            if len(term) < max(min_length, 1):
                self.short += 1
                continue
            own = self.types.setdefault(fold(term, case=fold_case, width=fold_width), [])
            if label in own:
                self.repeated += 1
            else:
                own.append(label)
        self.terms = list(self.types)
        self.automaton = AhoCorasick(self.terms)

    def find(
        self, text: str, tokens: Sequence[tuple[int, int]] | None = None
    ) -> list[tuple[int, int, str]]:
        """Matches (start, end, folded term) in order, without overlap: the longest at the leftmost place, then on behind it.

        Args:
            tokens: offsets of words; without them those of `words(text)`. A match starts where a word starts and ends where one ends.
        """
        bounds = tokens or words(text)
        starts, ends = {start for start, _ in bounds}, {end for _, end in bounds}
        # All matches are needed: in a leftmost-longest search one that breaks a word would hide a shorter one that does not.
        folded = fold(text, case=self.fold_case, width=self.fold_width)
        matches = self.automaton.find_matches_as_indexes(folded, overlapping=True)
        found: list[tuple[int, int, str]] = []
        for start, minus_end, term in sorted(
            (start, -end, term) for term, start, end in matches if start in starts and end in ends
        ):
            if not found or start >= found[-1][1]:
                found.append((start, -minus_end, self.terms[term]))
        return found


def read_dictionary(
    path: str | Path, *, fold_case: bool = True, fold_width: bool = True, min_length: int = 1
) -> Dictionary:
    """The dictionary of a file; options as for `Dictionary`.

    Raises:
        DataError: missing file, not UTF-8, a line that is no entry, no entry at all, or none that is long enough.
    """
    entries = []
    for number, line in read_lines(str(path)):
        if not line.strip() or line.lstrip().startswith("#"):
            continue
        cells = [cell.strip() for cell in line.split("\t")]
        if len(cells) != 2 or not all(cells):
            raise DataError(
                f"{path}:{number}: expected a term, a tab and an entity type, found {line[:60]!r}; mend or remove the line"
            )
        entries.append((cells[0], cells[1]))
    if not entries:
        raise DataError(
            f"{path}: no entry found (expected a term, a tab and an entity type a line); is this the dictionary?"
        )
    dictionary = Dictionary(
        entries, fold_case=fold_case, fold_width=fold_width, min_length=min_length
    )
    if not dictionary.terms:
        raise DataError(
            f"{path}: expected a term of at least {min_length} characters, found none; lower min_length"
        )
    return dictionary


# --------------------------------------------------------------------------------------- annotation
@dataclass
class AnnotationReport:
    """What a dictionary found."""

    dictionary: Dictionary
    texts: int = 0
    mentions: Counter[str] = field(default_factory=Counter)  # by entity type
    matched: set[str] = field(default_factory=set)  # folded terms
    ambiguous: int = 0  # mentions whose term has several types

    def __str__(self) -> str:
        own = self.dictionary
        conflicts = [
            f"{term!r} {', '.join(types)}" for term, types in own.types.items() if len(types) > 1
        ]
        return "\n".join(
            [
                f"{self.texts} texts, {self.mentions.total()} mentions"
                + "".join(f", {label} {n}" for label, n in self.mentions.most_common()),
                f"{len(own.terms)} terms, {len(self.matched)} of them found; left out: {own.repeated} repeated, {own.short} too short",
                f"{len(conflicts)} terms with several types: {self.ambiguous} mentions have the type that stands first",
                *(f"  {conflict}" for conflict in conflicts[:5]),
            ]
        )


def annotate(
    records: Sequence[Record], dictionary: Dictionary, *, give_words: bool = False
) -> tuple[list[Record], AnnotationReport]:
    """New records with the dictionary's mentions, and the counts. Given mentions are replaced.

    Args:
        give_words: records without tokens get `words(text)` as tokens, to be written as columns.
    """
    report = AnnotationReport(dictionary, texts=len(records))
    labelled = []
    for record in records:
        found = dictionary.find(record.text, record.tokens)
        mentions = [Mention(start, end, dictionary.types[term][0]) for start, end, term in found]
        report.mentions.update(mention.label for mention in mentions)
        report.matched.update(term for _, _, term in found)
        report.ambiguous += sum(len(dictionary.types[term]) > 1 for _, _, term in found)
        tokens = record.tokens or (words(record.text) if give_words else None)
        labelled.append(Record(record.id, record.text, mentions, record.doc, tokens))
    return labelled, report


# ---------------------------------------------------------------------------- building a dictionary
def collect_terms(
    records: Iterable[Record], *, min_count: int = 1
) -> tuple[list[tuple[str, str]], str]:
    """The surface forms of mentions, each with its most frequent type (ties: the first by name), and a line on what was left out.

    Frequent terms come first, so that of those that fold alike the most frequent one's type counts.

    Args:
        min_count: how often a surface form must be a mention, of whatever type.

    Raises:
        DataError: no term is left.
    """
    counts: defaultdict[str, Counter[str]] = defaultdict(Counter)
    for record in records:
        for mention in record.entities:
            counts[record.text[mention.start : mention.end].strip()][mention.label.strip()] += 1
    entries = []
    rare = unwritable = ambiguous = 0
    for term, types in sorted(counts.items(), key=lambda item: (-item[1].total(), item[0])):
        label = min(types, key=lambda name: (-types[name], name))
        if not term or not label or UNWRITABLE.search(term) or UNWRITABLE.search(label):
            unwritable += 1
        elif types.total() < min_count:
            rare += 1
        else:
            entries.append((term, label))
            ambiguous += len(types) > 1
    report = (
        f"{len(entries)} terms of {sum(types.total() for types in counts.values())} mentions, {ambiguous} of several types (the most "
        f"frequent is taken); left out: {rare} rarer than {min_count}, {unwritable} that a line cannot hold (tab, line end, # in front)"
    )
    if not entries:
        raise DataError(
            f"expected mentions to make a dictionary of, found {report}; name annotated files or lower min_count"
        )
    return entries, report


def build_dictionary(
    files: Sequence[str], output: str | Path, layout: Layout, *, min_count: int = 1
) -> str:
    """Write the terms of annotated files to a dictionary file, which appears complete or not at all; returns a report.

    Raises:
        DataError: a file cannot be read, or no term is found.
    """
    read = [read_records(name, layout) for name in files]
    entries, report = collect_terms(
        (record for records, _ in read for record in records), min_count=min_count
    )
    with atomic_writer(output) as file:
        # Without this first line, a first term that starts with U+FEFF would lose it as a byte-order mark.
        file.write("# term, tab, entity type\n")
        file.writelines(f"{term}\t{label}\n" for term, label in entries)
    return "\n".join(
        [
            report,
            *(
                f"{found.repaired_tags} tags repaired in {found.path}"
                for _, found in read
                if found.repaired_tags
            ),
        ]
    )
