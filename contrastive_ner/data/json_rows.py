"""Rows of JSON and of data sets: one object a text, in the layouts of many tools.

`LAYOUTS` is the table: a test of a row's keys, and the function that reads such a row. The last one
takes a text with mentions, or tokens with tags, under any of the usual keys.
"""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

from contrastive_ner.data.bioc import is_bioc, read_bioc
from contrastive_ner.data.decoding import MALFORMED, Place, fault
from contrastive_ner.data.mentions import (
    LABEL_KEYS,
    Raw,
    check_label,
    listed,
    looks_like_mentions,
    raw_mentions,
    to_mention,
)
from contrastive_ner.data.records import Mention, Record
from contrastive_ner.data.row_parts import (
    ENTITY_KEYS,
    ONLY_TAG_KEYS,
    OTHER_KEYS,
    RELATION_KEYS,
    ROW_KEYS,
    TAG_KEYS,
    TEXT_KEYS,
    TOKEN_KEYS,
    Item,
    Reading,
    Row,
    RowNumbers,
    identity,
    key_of,
    offsets_of,
    tag_name,
    with_spans,
    words_of,
)
from contrastive_ner.data.schemes import read_tags
from contrastive_ner.data.sentences import Sentence
from contrastive_ner.data.tool_rows import (
    is_mrc,
    is_task,
    is_w2ner,
    read_binder,
    read_cluener,
    read_dygie,
    read_gliner,
    read_label_studio,
    read_mrc,
    read_w2ner,
)
from contrastive_ner.errors import DataError, shown

LABELS = {*LABEL_KEYS} - {"entity"}
WORDS = {"tokens", "words", "token", "chars", "characters", "tokenized_text"}
SPLITS = {"train", "training", "dev", "develop", "valid", "validation", "val", "eval", "test"}


class RowLayout(NamedTuple):
    """One layout of rows: its name, a test of a row, and what reads it at a line."""

    name: str
    fits: Callable[[Row], bool]
    read: Callable[[Row, int, Reading], list[Item]]


def read_rows_of(places: Iterable[Place], reading: Reading, kind: str = "auto") -> Iterator[Item]:
    """Yield records, or sentences of words, of JSON values; `kind` may name a layout.

    Raises:
        DataError: a row is malformed, or no row has mentions under a known key.
    """
    keys = ROW_KEYS | set(reading.layout.keys.values())
    numbers = RowNumbers()
    for line, value in places:
        number = line
        try:
            rows = rows_in(value, keys)
            for row in rows:
                number = numbers.next(line, len(rows) > 1)
                if numbers.counts:
                    reading.unit = "row"
                yield from read_row(row, number, reading, kind)
        except MALFORMED as error:
            raise DataError(f"{reading.located(number)}: {fault(error)}") from error
    if reading.by_words > max(1, reading.by_characters):  # one row alone may be a mistake
        raise DataError(
            f"{reading.name}: start and end of mentions seem to count 'tokens', not characters of "
            "the text; set fields=text=- to read the tokens alone, or offsets=half_open if they do "
            "count characters"
        )
    reading.report.format = "+".join(reading.kinds) or reading.report.format
    found = ", ".join(sorted(reading.unread)[:10])
    if found and reading.has_mentions_key:
        most = max(reading.unread.values())
        reading.report.note(f"{most} rows have no mentions but lists under other keys: {found}")
    elif reading.kinds and not reading.has_mentions_key and not found:
        reading.report.note("no row has mentions, or a key that could hold them")
    elif found:
        raise DataError(
            f"{reading.name}: no row has 'entities' or another known key of mentions; the keys "
            f"found are {found}; set fields=entities=KEY, or remove them"
        )


def read_row(row: Any, line: int, reading: Reading, kind: str = "auto") -> list[Item]:
    """The records or sentences of one row; MALFORMED if it cannot be read."""
    if isinstance(row, list | tuple):  # spaCy's (text, annotations)
        if not _is_pair(row):
            raise DataError(f"expected an object, found {type(row).__name__}")
        reading.kinds["spacy"] += 1
        return read_usual({"entities": [], **row[1], "text": row[0]}, line, reading)
    if not isinstance(row, Mapping):
        raise DataError(f"expected an object, found {type(row).__name__}")
    if kind == "auto" and (plain := plain_record(row, line, reading)) is not None:
        return [plain]
    for key in RELATION_KEYS:
        if isinstance(row.get(key), list) and row[key]:
            reading.report.left_out[key] += len(row[key])
    if kind == "cluener" and "label" not in row:
        kind = "auto"  # rows of several layouts may mix
    for layout in LAYOUTS:
        if layout.name == kind or (kind == "auto" and layout.fits(row)):
            reading.kinds[layout.name] += 1
            return layout.read(row, line, reading)
    raise DataError(f"expected a row of {kind}, found the keys {sorted(row)}")


def rows_in(value: Any, keys: frozenset[str]) -> list[Any]:
    """The rows of a JSON value: those of an array, or of an object that only holds rows.

    `keys` tell a row. A value that is a row, or nothing known, is returned as it is.

    >>> rows_in({"version": 1, "rows": [{"text": "a"}, {"text": "b"}]}, frozenset({"text"}))
    [{'text': 'a'}, {'text': 'b'}]
    """
    if isinstance(value, list):
        inner = [item for item in value if item is not None]
        if _is_pair(value) or not inner or not all(isinstance(item, dict | list) for item in inner):
            return [value]
        return [row for item in inner for row in rows_in(item, keys)]
    if not isinstance(value, dict) or is_bioc(value) or is_task(value) or _is_row(value, keys):
        return [value]
    nested = {key: part for key, part in value.items() if isinstance(part, dict | list) and part}
    parts = {key: part for key, part in nested.items() if not _are_mentions(part)}
    if len(parts) < len(nested):
        return [value]  # a row, perhaps with a text that cannot be found
    found = {
        key: rows for key, part in parts.items() if _has_row(rows := rows_in(part, keys), keys)
    }
    if len(found) > 1 and {key.lower() for key in found} & SPLITS:
        raise DataError(f"found the splits {', '.join(found)} in one file: write a file for each")
    # An object next to annotation is a part of what that annotates; a list of rows is not.
    is_part = any(
        key != other and other in value
        for key in found
        if _is_row(parts[key], keys)
        for other in (*ENTITY_KEYS, *TAG_KEYS)
    )
    if found and not is_part and len(found) in (1, len(value)):
        return [row for rows in found.values() for row in rows]
    return [value]


def _are_mentions(value: Any) -> bool:
    """Whether a value is a list of mentions, not of rows that say where they begin and end."""
    if not looks_like_mentions(value):
        return False
    return all(
        not isinstance(item, dict)
        or (item.keys() & LABELS and not any(map(looks_like_mentions, item.values())))
        for item in value
    )


def _is_row(value: Any, keys: frozenset[str]) -> bool:
    """Whether a value is an object with a key of a row."""
    return isinstance(value, dict) and any(_holds_row(value, key) for key in keys & value.keys())


def _holds_row(value: Mapping[str, Any], key: str) -> bool:
    """Whether a key of a row stands for a row here; {"data": [row, row]} only holds rows."""
    inner = value[key]
    is_list_of_rows = isinstance(inner, list) and any(isinstance(v, dict) for v in inner)
    are_words = key in WORDS and words_of(inner) is not None
    return not isinstance(inner, dict) and (are_words or not is_list_of_rows)


def _is_pair(value: Any) -> bool:
    """Whether a value is spaCy's (text, annotations)."""
    return (
        isinstance(value, list | tuple)
        and len(value) == 2
        and isinstance(value[0], str)
        and isinstance(value[1], dict)
    )


def _has_row(rows: Sequence[Any], keys: frozenset[str]) -> bool:
    first = rows[0] if rows else None
    if _is_pair(first) or is_bioc(first):
        return True
    return isinstance(first, dict) and bool(keys & first.keys())


# ------------------------------------------------------------------------------------ usual layouts
OWN_KEYS = frozenset({"id", "text", "entities", "doc", "tokens"})
OWN_MENTION_KEYS = ({"start", "end", "label"}, {"start", "end", "label", "score"})


def plain_record(row: Row, line: int, reading: Reading) -> Record | None:
    """A row of our own layout without anything to look into, which is four times as fast.

    None for any other row, and for one with a mistake, which `read_usual` reports.
    """
    text, entities, layout = row.get("text"), row.get("entities"), reading.layout
    own = row.keys() <= OWN_KEYS and not layout.fields and layout.offsets in ("auto", "half_open")
    if not own or not isinstance(text, str) or not isinstance(entities, list):
        return None
    mentions: dict[Mention, None] = {}
    for item in entities:
        if not isinstance(item, dict) or item.keys() not in OWN_MENTION_KEYS:
            return None
        start, end, label, score = item["start"], item["end"], item["label"], item.get("score")
        if type(start) is not int or type(end) is not int or not 0 <= start < end <= len(text):
            return None
        if not isinstance(label, str) or label not in reading.labels:
            check_label(label, (start, end, label))
            reading.labels.add(label)
        if score is not None and type(score) not in (int, float):
            return None
        mentions[Mention(start, end, label, score)] = None
    tokens = offsets_of(row.get("tokens"), text)
    reading.compare_with_words(text, mentions, tokens)
    identifier, doc = identity(row, line, reading)
    reading.kinds["jsonl"] += 1
    reading.has_mentions_key = True
    return Record(identifier, text, sorted(mentions, key=lambda m: m[:3]), doc, tokens)


def read_usual(row: Row, line: int, reading: Reading) -> list[Item]:
    """A text with mentions, or tokens with tags or mentions, under any usual key."""
    if row.get("answer", "accept") != "accept":  # Prodigy
        reading.report.left_out[f"rows with answer {row['answer']!r}"] += 1
        return []
    tagged = tagged_words(row, line, reading)
    if tagged is not None:
        return [tagged]
    text_key = key_of(row, reading, "text", TEXT_KEYS, str)
    token_key = key_of(row, reading, "tokens", TOKEN_KEYS, list)
    if text_key is None or not isinstance(row[text_key], str):
        if token_key is not None and words_of(row[token_key]) is not None:
            return [words_with_spans(row, line, reading, token_key)]
        own = reading.layout.keys.get("text", "text")
        if row.get(own) is not None:
            raise DataError(f"expected a string in {own!r}, found {shown(row[own])}")
        raise DataError(
            f"expected a string in 'text', found the keys {sorted(map(str, row))}; "
            "set fields=text=KEY if the text is under another key"
        )
    text, (identifier, doc) = row[text_key], identity(row, line, reading)
    tokens = offsets_of(row.get(reading.layout.keys.get("tokens", "tokens")), text)
    raws = list(listed_mentions(row, reading, {text_key, token_key}))
    mentions = [to_mention(text, raw, reading.layout.offsets) for raw in raws]
    if all(raw.surface is None for raw in raws):
        reading.compare_with_words(text, mentions, tokens)
    unique = sorted(dict.fromkeys(mentions), key=lambda mention: mention[:3])
    return [Record(identifier, text, unique, doc, tokens)]


def listed_mentions(row: Row, reading: Reading, taken: set[str | None]) -> Iterator[Raw]:
    """The mentions of a row, under a known key, or without one the only one that holds any."""
    given = reading.layout.keys.get("entities")
    known = [given] if given else [key for key in ENTITY_KEYS if key in row and key not in taken]
    lists = {key: own for key in known if (own := listed(row.get(key))) is not None}
    full = [key for key, own in lists.items() if looks_like_mentions(own)]
    if not lists and known and not (given is None and _says_else(row, known[0])):
        kind = "null" if row.get(known[0]) is None else type(row[known[0]]).__name__
        raise DataError(
            f"expected a list in {known[0]!r} ([] if there is no mention), found {kind}"
        )
    if not lists:
        others = {
            key: own
            for key, value in row.items()
            if key not in {*OTHER_KEYS, *taken}
            and (own := listed(value)) is not None
            and looks_like_mentions(own)
        }
        if given is None and len(others) == 1:
            reading.report.note(f"mentions are read from {next(iter(others))!r}")
            lists, full = others, list(others)
    if not lists:
        reading.unread.update(
            str(key)
            for key, value in row.items()
            if isinstance(value, dict | list) and value and key not in {*OTHER_KEYS, *taken}
        )
        return
    reading.has_mentions_key = True
    if len(full) > 1 and any(lists[key] != lists[full[0]] for key in full):
        raise DataError(
            f"found mentions in {' and '.join(map(repr, full))}; set fields=entities=KEY"
        )
    for item in lists[full[0]] if full else next(iter(lists.values())):
        yield from raw_mentions(item, reading.layout.keys)


def _says_else(row: Row, key: str) -> bool:
    """Whether a known key of mentions holds something else, such as the class of a text."""
    value = row.get(key)
    return isinstance(value, str) and (key != "entities" or not value.strip())


def tagged_words(row: Row, line: int, reading: Reading) -> Sentence | None:
    """Words with a tag each, or the characters of a text; None if a row has no tags."""
    keys = reading.layout.keys
    tag_keys = [keys["tags"]] if "tags" in keys else TAG_KEYS
    token_keys = [keys["tokens"]] if "tokens" in keys else TOKEN_KEYS
    found = next(
        (k for k in tag_keys if _are_tags(row.get(k)) and not _are_topics(row, k, reading)), None
    )
    own = next((key for key in token_keys if key != found and words_of(row.get(key))), None)
    empty = next((key for key in token_keys if row.get(key) == []), None)
    if found is None and own is None and empty is not None:
        found = next((key for key in tag_keys if row.get(key) == []), None)
        if found is not None:
            identifier, doc = identity(row, line, reading)
            return Sentence(reading.place(line), identifier, [], [[]], doc=doc)
    if found is None:
        wrong = next((key for key in ONLY_TAG_KEYS if row.get(key) not in (None, [])), None)
        if wrong is not None:
            raise DataError(f"expected a list of tags in {wrong!r}, found {shown(row[wrong])}")
        return None
    text = row.get(keys.get("text", "text"))
    words = words_of(row[own]) if own else list(text) if isinstance(text, str) else None
    if words is None:
        raise DataError(f"found tags in {found!r} but no tokens among the keys {sorted(row)}")
    tags = row[found]
    if len(words) != len(tags):
        raise DataError(
            f"expected as many tags as tokens, found {len(tags)} in {found!r} for {len(words)}: "
            f"{shown(tags)}"
        )
    if "" in words:
        raise DataError(f"expected non-empty strings in {own!r}, found {shown(words)}")
    identifier, doc = identity(row, line, reading)
    reading.has_mentions_key = True
    names = reading.layout.tag_names
    return Sentence(
        reading.place(line),
        identifier,
        words,
        [[tag_name(tag, found, names) for tag in tags]],
        doc=doc,
    )


def _are_tags(value: Any) -> bool:
    """Whether a value may be a list of tags: strings, or class numbers."""
    if not isinstance(value, list) or not value:
        return False
    return all(isinstance(tag, str) for tag in value) or all(
        isinstance(tag, int) and not isinstance(tag, bool) for tag in value
    )


def _are_topics(row: Row, key: str, reading: Reading) -> bool:
    """Whether a list of strings names topics of a text that has its mentions elsewhere."""
    if key in reading.layout.keys.values() or not isinstance(row[key][0], str):
        return False
    pairs, spelling = read_tags(dict.fromkeys(row[key], 1))
    if spelling != "PER" and pairs:
        return False
    return any(k != key and looks_like_mentions(listed(row.get(k))) for k in ENTITY_KEYS)


def words_with_spans(row: Row, line: int, reading: Reading, token_key: str) -> Sentence:
    """Words with mentions over words, half-open unless `offsets` says otherwise (SpERT)."""
    words = words_of(row[token_key]) or []
    raws = list(listed_mentions(row, reading, {token_key}))
    if raws:
        reading.report.note("mentions count tokens, half-open; else set offsets=inclusive")
    inclusive = reading.layout.offsets == "inclusive"
    return with_spans(row, line, reading, words, raws, inclusive=inclusive)


LAYOUTS = (
    RowLayout("cluener", lambda row: isinstance(row.get("label"), dict), read_cluener),
    RowLayout("labelstudio", is_task, read_label_studio),
    RowLayout("bioc", is_bioc, read_bioc),
    RowLayout("binder", lambda row: "entity_start_chars" in row, read_binder),
    RowLayout("gliner", lambda row: {"tokenized_text", "ner"} <= row.keys(), read_gliner),
    RowLayout("mrc", is_mrc, read_mrc),
    RowLayout("w2ner", is_w2ner, read_w2ner),
    RowLayout(
        "dygie",
        lambda row: (
            not isinstance(row.get("text"), str)
            and isinstance(row.get("sentences"), list)
            and bool(row["sentences"])
            and all(isinstance(own, list) for own in row["sentences"])
        ),
        read_dygie,
    ),
    RowLayout("jsonl", lambda row: True, read_usual),
)
