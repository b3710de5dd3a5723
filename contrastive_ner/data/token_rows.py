"""Tables with a schema that have one token per row: Parquet and data sets of `datasets`."""

from collections.abc import Iterable, Iterator, Mapping
from typing import Any, NamedTuple

from contrastive_ner.data.csv_tables import ANNOTATION, in_words, tags_in
from contrastive_ner.data.decoding import Place
from contrastive_ner.data.row_parts import Reading, tag_name
from contrastive_ner.data.sentences import Sentence
from contrastive_ner.data.shapes import DOCUMENT_NAMES, SENTENCE_NAME, TAG_NAMES, TOKEN_ALONE
from contrastive_ner.errors import DataError, shown


class Columns(NamedTuple):
    """The columns of a token, of its tag, and of those that tell its sentence."""

    token: str
    tag: str
    sentence: tuple[str, ...]
    document: str | None = None


def token_columns(row: Mapping[str, Any], keys: Mapping[str, str] | None = None) -> Columns | None:
    """The columns of a table with one token per row, by its first row; None if it is another one.

    Args:
        keys: other names of the columns `tokens` and `tags`.

    >>> token_columns({"sentence_id": 0, "token": "Anna", "tag": "B-PER"})
    Columns(token='token', tag='tag', sentence=('sentence_id',), document=None)
    """
    keys = keys or {}
    if "text" in row or any(isinstance(cell, list | dict) for cell in row.values()):
        return None
    names = {name.lower(): name for name in map(str, row)}
    token = keys.get("tokens") or next((names[own] for own in names if own in TOKEN_ALONE), "")
    tag = keys.get("tags") or next((names[own] for own in names if own in TAG_NAMES), "")
    if token not in row or tag not in row or not isinstance(row[token], str):
        return None
    if len(row[token].split()) > 1 < len(str(row[tag]).split()):
        return None  # one sentence per row
    apart = (names[own] for own in names if SENTENCE_NAME.fullmatch(own))
    document = next((names[own] for own in names if own in DOCUMENT_NAMES), None)
    return Columns(token, tag, tuple(own for own in apart if own not in (token, tag)), document)


def sentences_of(places: Iterable[Place], columns: Columns, reading: Reading) -> Iterator[Sentence]:
    """Yield the sentences of tokens, which end where a cell that tells the sentence changes.

    Raises:
        DataError: no column tells the sentences, or a token or a tag is missing.
    """
    if not columns.sentence:
        raise DataError(
            f"{reading.name}: found one token per row and no column that tells the sentences "
            "apart; add one called sentence_id"
        )
    named = " or ".join(map(repr, columns.sentence))
    reading.report.note(f"a sentence ends where {named} changes")
    words: list[str] = []
    tags: list[str] = []
    document = () if columns.document is None else (columns.document,)
    telling = (*columns.sentence, *document)
    current: list[Any] = [None] * len(telling)
    first, count = 0, 0

    def ended() -> Iterator[Sentence]:
        if words:
            name = f"{reading.stem}-{count}"
            doc = None if columns.document is None else str(current[-1])
            yield Sentence(reading.place(first), name, [*words], [[*tags]], doc=doc)
            words.clear()
            tags.clear()

    for number, row in places:
        cells = [
            old if row.get(name) in (None, "") else row[name]
            for name, old in zip(telling, current, strict=True)
        ]
        if cells != current and words:
            yield from ended()
            count += 1
        if not words:
            first = number
        current = cells
        token, tag = row.get(columns.token), row.get(columns.tag)
        if isinstance(tag, int):
            try:
                tag = tag_name(tag, columns.tag, reading.layout.tag_names)
            except DataError as error:
                raise DataError(f"{reading.located(number)}: {error}") from error
        if not isinstance(token, str) or not token or not isinstance(tag, str):
            raise DataError(
                f"{reading.located(number)}: expected a token in {columns.token!r} and its tag in "
                f"{columns.tag!r}, found {shown(token)} and {shown(tag)}"
            )
        words.append(token)
        tags.append(tag)
    yield from ended()


def in_sentence(row: Any) -> Any:
    """A row whose cells hold the words and the tags of a sentence, as lists; other rows as is."""
    if not isinstance(row, Mapping):
        return row
    cells = {key: own for key, own in row.items() if isinstance(own, str)}
    if not any(len(tags_in(cells[key])) > 1 for key in ANNOTATION & cells.keys()):
        return row
    return {**row, **in_words(cells)}
