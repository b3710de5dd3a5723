"""Distant supervision: entity labels from a dictionary, and dictionaries from annotated files.

Sections: folding and words, the dictionary, annotation, building a dictionary.

A dictionary is a UTF-8 file with one entry per line: a term, a tab and an entity type. Blank lines,
lines that start with #, and white space around terms and types are ignored. Terms are compared
after folding; if terms with the same folding have different types, the first line wins. Apart from
folding, a term matches as written, or word by word: white space around symbols and between words
does not count, so that "beta - blocker" and "beta-blocker" find each other.

Offsets count code points, half-open. Folding maps each code point to one code point, so offsets in
folded and original text are the same.
"""

import re
import unicodedata
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from itertools import accumulate
from pathlib import Path

from contrastive_ner.data.decoding import read_lines
from contrastive_ner.data.layout import Layout
from contrastive_ner.data.readers import read_files
from contrastive_ner.data.records import Mention, Record
from contrastive_ner.errors import DataError
from contrastive_ner.files import atomic_writer

# What the file format cannot hold in a term or type.
UNWRITABLE = re.compile("^#|[\t\r\n\ud800-\udfff]")


# -------------------------------------------------------------------------------- folding and words
@lru_cache(maxsize=1 << 16)
def _fold_character(character: str, case: bool, width: bool) -> str:
    # UTF-8 cannot encode a lone surrogate; the models read it as U+FFFD as well.
    if "\ud800" <= character <= "\udfff":
        return "\ufffd"
    form, *code_points = unicodedata.decomposition(character).split() or [""]
    if width and form in ("<wide>", "<narrow>") and len(code_points) == 1:
        character = chr(int(code_points[0], 16))
    folded = character.casefold() if case else character
    return folded if len(folded) == 1 else character


def fold(text: str, *, case: bool = True, width: bool = True) -> str:
    """Fold case and full-width or half-width forms of `text`, one code point to one code point.

    A character whose folding has another length is kept as it is.

    >>> fold("Ｂ超 Straße")
    'b超 straße'
    """
    return "".join(_fold_character(character, case, width) for character in text)


def words(text: str) -> list[tuple[int, int]]:
    """Offsets of the words of `text`, by the rule of the models.

    A word is a run of letters and digits, a single ideograph or a single symbol.

    >>> words("Hi, 北京")
    [(0, 2), (2, 3), (4, 5), (5, 6)]
    """
    from contrastive_ner.models.windows_ner import word_spans

    return word_spans(text)


BETWEEN = "\0"  # stands between the words of a text that is compared word by word


def by_words(text: str, spans: Sequence[tuple[int, int]]) -> str:
    """A text as its words, with `BETWEEN` around each."""
    return BETWEEN + BETWEEN.join(text[start:end] for start, end in spans) + BETWEEN


def has_free_spaces(term: str) -> bool:
    """Whether white space may come or go inside a term: it has some, or symbols, and a word.

    Not inside "北京大学": a text that writes "北京 大学" may mean two things.
    """
    return any(not character.isalnum() for character in term) and not term.isspace()


# ----------------------------------------------------------------------------------- the dictionary
class Dictionary:
    """Terms to look for.

    `types` maps each folded term to its entity types, in the order of the entries; mentions get
    the first.

    Args:
        entries: pairs (term, entity type).
        fold_case: ignore case.
        fold_width: treat full-width and half-width forms as equal.
        min_length: minimum length in characters; shorter terms are left out.
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
        self.repeated = self.short = 0  # entries that repeat an earlier one, or are too short
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
        self.free = [i for i, term in enumerate(self.terms) if has_free_spaces(term)]
        self.free_automaton = AhoCorasick(
            [by_words(self.terms[i], words(self.terms[i])) for i in self.free]
        )

    def find(
        self, text: str, tokens: Sequence[tuple[int, int]] | None = None
    ) -> list[tuple[int, int, str]]:
        """Find matches (start, end, folded term), in order and without overlap.

        The longest match at the leftmost position is taken, then the search goes on after it.

        Args:
            tokens: word offsets, by default `words(text)`. A match starts at the start of a word
                and ends at the end of one.
        """
        bounds = tokens or words(text)
        starts, ends = {start for start, _ in bounds}, {end for _, end in bounds}
        # Collect all matches: in a leftmost-longest search, a match that breaks a word would hide
        # a shorter one that does not. Of one span, what matches as written comes first.
        folded = fold(text, case=self.fold_case, width=self.fold_width)
        written = self.automaton.find_matches_as_indexes(folded, overlapping=True)
        matches = [(start, -end, False, term) for term, start, end in written]
        matches += [(start, -end, True, term) for start, end, term in self._by_words(folded)]
        found: list[tuple[int, int, str]] = []
        for start, minus_end, _, term in sorted(
            match for match in matches if match[0] in starts and -match[1] in ends
        ):
            if not found or start >= found[-1][1]:
                found.append((start, -minus_end, self.terms[term]))
        return found

    def _by_words(self, text: str) -> Iterator[tuple[int, int, int]]:
        """Matches (start, end, number of the term) of the terms in which white space is free."""
        spans = words(text) if self.free else []
        if not spans:
            return
        places = accumulate((end - start + 1 for start, end in spans), initial=0)
        at = {place: i for i, place in enumerate(places)}  # of each `BETWEEN`: the word behind it
        found = self.free_automaton.find_matches_as_indexes(by_words(text, spans), overlapping=True)
        for term, start, end in found:
            yield spans[at[start]][0], spans[at[end - 1] - 1][1], self.free[term]


def read_dictionary(
    path: str | Path, *, fold_case: bool = True, fold_width: bool = True, min_length: int = 1
) -> Dictionary:
    """Read a dictionary file; the options are those of `Dictionary`.

    Raises:
        DataError: the file is missing or not UTF-8, a line is not an entry, or there is no entry
            or none of at least `min_length` characters.
    """
    entries = []
    for number, line in read_lines(str(path)):
        if not line.strip() or line.lstrip().startswith("#"):
            continue
        cells = [cell.strip() for cell in line.split("\t")]
        if len(cells) != 2 or not all(cells):
            raise DataError(
                f"{path}:{number}: expected a term, a tab and an entity type, found {line[:60]!r}; "
                "correct or remove the line"
            )
        entries.append((cells[0], cells[1]))
    if not entries:
        raise DataError(
            f"{path}: expected one entry per line (a term, a tab and an entity type), "
            "found no entry; check that this is the dictionary"
        )
    dictionary = Dictionary(
        entries, fold_case=fold_case, fold_width=fold_width, min_length=min_length
    )
    if not dictionary.terms:
        raise DataError(
            f"{path}: expected a term of at least {min_length} characters, found none; "
            "lower min_length"
        )
    return dictionary


# --------------------------------------------------------------------------------------- annotation
@dataclass
class AnnotationReport:
    """Counts of what a dictionary found in a set of texts."""

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
                f"{len(own.terms)} terms, {len(self.matched)} of them found; "
                f"left out: {own.repeated} repeated, {own.short} too short",
                f"{len(conflicts)} terms with several types: "
                f"{self.ambiguous} mentions have the type listed first",
                *(f"  {conflict}" for conflict in conflicts[:5]),
            ]
        )


def annotate(
    records: Sequence[Record], dictionary: Dictionary, *, give_words: bool = False
) -> tuple[list[Record], AnnotationReport]:
    """Return new records with the dictionary's mentions in place of the given ones, and the counts.

    Args:
        give_words: records without tokens get `words(text)` as tokens, so that they can be written
            as columns.
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
    """Return the surface forms of mentions, each with its most frequent type, and a report line.

    Ties between types go to the first by name. Frequent terms come first, so that among terms with
    the same folding the type of the most frequent one is used.

    Args:
        min_count: minimum number of mentions of a surface form, over all types.

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
        f"{len(entries)} terms from {sum(types.total() for types in counts.values())} mentions, "
        f"{ambiguous} with several types (the most frequent is used); "
        f"left out: {rare} rarer than {min_count}, "
        f"{unwritable} that a line cannot hold (tab, line end, leading #)"
    )
    if not entries:
        raise DataError(
            f"expected mentions to build a dictionary from, found {report}; "
            "pass annotated files or lower min_count"
        )
    return entries, report


def build_dictionary(
    files: Sequence[str], output: str | Path, layout: Layout, *, min_count: int = 1
) -> str:
    """Write the terms of annotated files to a dictionary file, atomically, and return a report.

    Raises:
        DataError: a file cannot be read, or no term is found.
    """
    read = read_files(files, layout)
    entries, report = collect_terms(
        (record for records, _ in read for record in records), min_count=min_count
    )
    with atomic_writer(output) as file:
        # This line protects a first term that starts with U+FEFF: readers strip a byte-order mark.
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
