"""Parts of a row of JSON: its text, words, tags, identifier, and spans over its words."""

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from contrastive_ner.data.layout import Layout, ReadReport
from contrastive_ner.data.mentions import Raw, check_label
from contrastive_ner.data.records import Mention, Record, is_list_of_two, token_offsets
from contrastive_ner.data.sentences import Sentence
from contrastive_ner.errors import DataError, shown

TEXT_KEYS = (
    "text", "sentence", "content", "context", "raw_text", "originalText", "sent", "raw", "data",
    "document", "query",
)  # fmt: skip
TOKEN_KEYS = (
    "tokens", "words", "tokenized_text", "sentence", "text", "chars", "token", "sent", "characters",
)  # fmt: skip


TAG_KEYS = (
    "ner_tags", "tags", "labels", "ner", "label", "ner_labels", "bio_tags", "iob_tags", "tag",
    "entity_tags", "named_entities", "ner_tag", "bio", "str_tags",
)  # fmt: skip
ONLY_TAG_KEYS = ("ner_tags", "ner_labels", "bio_tags", "iob_tags", "ner_tag")
ENTITY_KEYS = (
    "entities", "label", "labels", "annotations", "annotation", "spans", "tags", "entity_list",
    "entity_mentions", "mentions", "ner", "ents", "named_entities", "entity",
)  # fmt: skip
# Keys with lists that are never mentions.
OTHER_KEYS = {
    "tokens", "words", "relations", "relation_list", "relation", "Comments", "comments", "meta",
    "metadata", "cats", "doc", "id", "links", "events", "clusters", "pos_tags", "chunk_tags",
    "pos", "deps", "dep_label", "word_start_chars", "word_end_chars", "entity_types", "langs",
}  # fmt: skip
RELATION_KEYS = ("relations", "relation_list", "clusters", "events", "links")
ROW_KEYS = frozenset({*TEXT_KEYS, *TOKEN_KEYS})


@dataclass
class Reading:
    """What reading the rows of one source needs to know and finds out."""

    name: str
    layout: Layout
    report: ReadReport
    kinds: Counter[str] = field(default_factory=Counter)  # layouts that occurred
    unread: Counter[str] = field(default_factory=Counter)  # keys of rows without mentions
    has_mentions_key: bool = False
    labels: set[str] = field(default_factory=set)  # that were checked
    unit: str = "line"  # what is counted: lines of a file, or rows
    stem: str = ""  # begins the identifiers of rows without one
    # Sentences to which further rows may add mentions of other types than these.
    sentences: dict[tuple[str, ...], tuple[Sentence, set[str]]] = field(default_factory=dict)
    # Rows whose mentions fit their words by characters alone, or by the numbers of words alone.
    by_characters: int = 0
    by_words: int = 0

    def compare_with_words(
        self, text: str, mentions: Iterable[Mention], tokens: Sequence[tuple[int, int]] | None
    ) -> None:
        """Count whether the mentions of a text seem to be offsets of characters, or of words."""
        spans = [(mention.start, mention.end) for mention in mentions]
        if not spans or tokens is None or self.layout.offsets != "auto":
            return
        starts, ends = {start for start, _ in tokens}, {end for _, end in tokens}
        fit = all(start in starts and end in ends for start, end in spans)
        within = all(end <= len(tokens) for _, end in spans)
        edges = [at for span in spans for at in span]
        cuts = any(
            text[max(at - 1, 0) : at].isalnum() and text[at : at + 1].isalnum() for at in edges
        )
        self.by_characters += not within and (fit or not cuts)
        self.by_words += within and not fit and cuts

    def place(self, number: int) -> str:
        """The place of a row, for messages."""
        return f"{self.unit} {number}"

    def located(self, number: int) -> str:
        """The place of a row, as an error begins."""
        between = ":" if self.unit == "line" else f": {self.unit} "
        return f"{self.name}{between}{number}"


class RowNumbers:
    """Numbers of the rows of a file: their lines, or from where a line has several, their count."""

    def __init__(self) -> None:
        self.last: int | None = None
        self.counts = False

    def next(self, line: int, several: bool) -> int:
        """The number of the next row, of a value that starts in `line` and holds one or several."""
        self.counts = self.counts or several or (self.last is not None and line <= self.last)
        self.last = line if not self.counts else 1 if self.last is None else self.last + 1
        return self.last


Item = Record | Sentence
Row = Mapping[str, Any]


def key_of(row: Row, reading: Reading, name: str, known: Sequence[str], kind: type) -> str | None:
    """The key of a row's text, tokens, tags or mentions: as it was set, else the first known."""
    given = reading.layout.keys.get(name)
    if given is not None:
        return given if given in row else None
    return next((key for key in known if isinstance(row.get(key), kind)), None)


def identity(row: Row, line: int, reading: Reading) -> tuple[str, str | None]:
    """Identifier and document of a row."""
    keys = reading.layout.keys
    identifier, doc = row.get(keys.get("id", "id")), row.get(keys.get("doc", "doc"))
    if identifier is None:
        identifier = f"{reading.stem}-{line}" if reading.stem else line
    return str(identifier), None if doc is None else str(doc)


def words_of(value: Any) -> list[str] | None:
    """The words of a list of strings, or of objects with a text each; else None."""
    if not isinstance(value, list) or not value:
        return None
    if all(isinstance(word, dict) and isinstance(word.get("text"), str) for word in value):
        value = [word["text"] for word in value]
    return value if all(isinstance(word, str) for word in value) else None


def find_words(text: str, words: Sequence[str]) -> list[tuple[int, int]] | None:
    """Offsets of words that make up a text with white space between them; None if they do not.

    >>> find_words("Anna left", ["Anna", "left"])
    [(0, 4), (5, 9)]
    """
    offsets, at = [], 0
    for word in words:
        start = text.find(word, at) if word else -1
        if start < 0 or text[at:start].strip():
            return None
        at = start + len(word)
        offsets.append((start, at))
    return None if text[at:].strip() else offsets


def offsets_of(tokens: Any, text: str) -> list[tuple[int, int]] | None:
    """The offsets of a text's words: pairs, words, or objects with start and end."""
    if tokens is None or tokens == []:
        return None
    words = words_of(tokens)
    if isinstance(tokens, list) and all(
        isinstance(token, dict) and {"start", "end"} <= token.keys() for token in tokens
    ):
        tokens = [[token["start"], token["end"]] for token in tokens]
    elif words is not None:
        found = find_words(text, words)
        if found is None:
            raise DataError(
                f"the words in 'tokens' are not those of the text, found {shown(tokens)}"
            )
        return found
    return token_offsets(tokens, text)


def with_spans(
    row: Row, line: int, reading: Reading, words: list[str], raws: Iterable[Raw], *, inclusive: bool
) -> Sentence:
    """A sentence of words with mentions over words.

    Raises:
        DataError: a mention cannot be used.
    """
    identifier, doc = identity(row, line, reading)
    spans = [word_span(words, raw, inclusive=inclusive) for raw in raws]
    return Sentence(reading.place(line), identifier, words, spans=spans, doc=doc)


def word_span(words: Sequence[str], raw: Raw, *, inclusive: bool) -> tuple[int, int, str]:
    """A checked span over words, half-open."""
    start, end = raw.start, raw.end
    if not is_list_of_two([start, end]):
        raise DataError(f"expected integer offsets and a label, found {shown(raw[:3])}")
    label, end = check_label(raw.label, raw[:3]), end + inclusive
    if not 0 <= start < end <= len(words):
        raise DataError(
            f"entity {shown(raw[:3])} lies outside the {len(words)} tokens; check offsets "
            "(half_open or inclusive)"
        )
    if raw.surface is not None:
        given, found = "".join(raw.surface.split()), "".join("".join(words[start:end]).split())
        if given != found:
            raise DataError(
                f"entity {shown(raw[:3])} is {' '.join(words[start:end])[:40]!r} in the tokens, "
                f"but {raw.surface!r:.40} as its own text; check offsets (half_open or inclusive)"
            )
    return start, end, label


def tag_name(tag: Any, key: str, names: Sequence[str]) -> str:
    """A tag by its name; DataError for a number that has none."""
    if isinstance(tag, str):
        return tag
    if not names:
        raise DataError(
            f"found numbers in {key!r}: give their names in order, such as tag_names=O,B-PER,I-PER"
        )
    if not 0 <= tag < len(names):
        raise DataError(
            f"expected classes from 0 to {len(names) - 1} in {key!r}, found {tag}; "
            "drop rows without labels (-1)"
        )
    return names[tag]
