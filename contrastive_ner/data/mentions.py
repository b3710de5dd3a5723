"""Mentions as the many layouts of JSON write them: keys, order, offsets, surfaces."""

import ast
import json
import re
from collections.abc import Mapping, Sequence
from contextlib import suppress
from typing import Any, NamedTuple

from contrastive_ner.data.records import Mention
from contrastive_ner.errors import DataError, is_storable, shown

START_KEYS = (
    "start", "start_offset", "start_idx", "start_char", "start_index", "start_pos", "startOffset",
    "startIndex", "char_start", "begin", "begin_offset", "beginOffset", "from", "b", "first",
)  # fmt: skip
END_KEYS = (
    "end", "end_offset", "end_idx", "end_char", "end_index", "end_pos", "endOffset",
    "endIndex", "char_end", "stop", "finish", "to", "e", "last",
)  # fmt: skip
PAIR_KEYS = ("offsets", "offset", "span", "char_span", "pos", "position", "entity_index", "range")
LABEL_KEYS = (
    "label", "type", "entity_type", "entity_group", "tag", "category", "class", "labels",
    "entity_label", "ner_label", "label_type", "entityType", "types", "entity",
)  # fmt: skip
SURFACE_KEYS = (
    "text", "word", "entity", "mention", "surface", "value", "name", "entity_text", "string",
    "entity_name", "span_text", "ent", "phrase",
)  # fmt: skip
INCLUSIVE_KEYS = ("start_idx", "end_idx")  # of CMeEE
LIKE_A_TAG = re.compile(r"[BI]-[^a-z].*")
CONVENTIONS = ("half_open", "inclusive", "utf16")


class Raw(NamedTuple):
    """A mention as it was found: offsets by some convention, and its surface if it was given."""

    start: Any
    end: Any
    label: Any
    surface: str | None = None
    score: Any = None
    convention: str = "half_open"


def looks_like_mentions(value: Any) -> bool:
    """Whether a JSON value is a list of mentions of any layout."""
    if not isinstance(value, list) or not value:
        return False
    if all(isinstance(item, dict) for item in value):
        keys = set().union(*value)
        return bool(keys & {*START_KEYS, *PAIR_KEYS, "points"})
    return all(isinstance(item, list) and len(item) >= 2 for item in value) and any(
        _is_int(part) for item in value for part in item
    )


def listed(value: Any) -> list[Any] | None:
    """The entries of a list of mentions, of groups of them, or of a string of either; else None.

    Groups are those of spaCy's `spans`, {"sc": [...]}, or places by type, {"PER": [[0, 4]]}.
    """
    if isinstance(value, str) and value.lstrip()[:1] in ("[", "{"):
        value = value_of(value)
    if isinstance(value, list):
        return value
    if not isinstance(value, dict) or not value:
        return None
    entries: list[Any] = []
    for name, group in value.items():
        if isinstance(group, list) and all(map(_is_pair, group)):
            entries += [[*pair, name] for pair in group]
        elif looks_like_mentions(group) and all(isinstance(item, dict) for item in group):
            entries += [
                item if item.keys() & {*LABEL_KEYS} - {"entity"} else {**item, "label": name}
                for item in group
            ]
        else:
            return None
    return entries


def value_of(text: str) -> Any:
    """The value of a cell: JSON, or a list as Python prints it; else None."""
    for parse in (json.loads, ast.literal_eval):
        with suppress(ValueError, TypeError, SyntaxError, RecursionError, MemoryError):
            return parse(text.strip())
    return None


def _is_pair(value: Any) -> bool:
    return isinstance(value, list) and len(value) == 2 and all(map(_is_int, value))


def raw_mentions(item: Any, keys: Mapping[str, str]) -> list[Raw]:
    """The mentions of one entry of a list: several if it has several labels or places.

    Raises:
        DataError: the entry is not a mention.
    """
    if isinstance(item, dict):
        return _of_dict(item, keys)
    if isinstance(item, list | tuple):
        return [_of_list(item)]
    raise DataError(f"expected entities with start, end, label, found {shown(item)}")


def _of_dict(item: Mapping[str, Any], keys: Mapping[str, str]) -> list[Raw]:
    if isinstance(item.get("points"), list):  # Dataturks
        return [
            part._replace(convention="inclusive")
            for point in item["points"]
            if isinstance(point, dict)
            for part in _of_dict({**item, **point, "points": None}, keys)
        ]
    start_key = _first(item, keys, "start", START_KEYS)
    end_key = _first(item, keys, "end", END_KEYS)
    label_key = _first(item, keys, "label", LABEL_KEYS)
    taken = {start_key, end_key, label_key}
    surface_key = _first(item, keys, "surface", [k for k in SURFACE_KEYS if k not in taken], str)
    pair_key = next((k for k in PAIR_KEYS if k in item), None) if start_key is None else None
    label = None if label_key is None else item[label_key]
    places = (
        _places(item[pair_key])
        if pair_key is not None
        else [(item.get(start_key), item.get(end_key))]
        if start_key is not None and end_key is not None
        else []
    )
    if not places or label is None or (pair_key is not None and len(places) != 1):
        raise DataError(f"expected entities with start, end, label, found {shown(dict(item))}")
    inclusive = start_key in INCLUSIVE_KEYS and end_key in INCLUSIVE_KEYS
    surface = None if surface_key is None else item[surface_key]
    labels = label if isinstance(label, list) and label else [label]
    return [
        Raw(*place, own, surface, item.get("score"), "inclusive" if inclusive else "half_open")
        for place in places
        for own in labels
    ]


def _first(
    item: Mapping[str, Any],
    keys: Mapping[str, str],
    name: str,
    known: Sequence[str],
    kind: type = object,
) -> str | None:
    """The key of a part of a mention: the one that was set, else the first known one."""
    if name in keys:
        return keys[name] if keys[name] in item else None
    return next((key for key in known if key in item and isinstance(item[key], kind)), None)


def _places(value: Any) -> list[tuple[Any, Any]]:
    """(start, end) pairs of [start, end], [[start, end]] or {"begin": start, "end": end}."""
    if isinstance(value, dict):
        start = next((value[key] for key in START_KEYS if key in value), None)
        return [(start, next((value[key] for key in END_KEYS if key in value), None))]
    if _is_pair(value):
        return [(value[0], value[1])]
    if isinstance(value, list) and all(isinstance(pair, list) and len(pair) == 2 for pair in value):
        return [(pair[0], pair[1]) for pair in value]
    return []


def _of_list(item: Sequence[Any]) -> Raw:
    """[start, end, label], [label, start, end] or [[start, end], label], perhaps with a surface."""
    parts = list(item)
    if parts and isinstance(parts[0], list) and len(parts[0]) == 2:
        parts = [*parts[0], *parts[1:]]
    offsets = [i for i, part in enumerate(parts) if _is_int(part)]
    texts = [part for part in parts if isinstance(part, str)]
    if len(offsets) != 2 or offsets[1] != offsets[0] + 1 or not 1 <= len(texts) <= 2:
        raise DataError(f"expected entities with start, end, label, found {shown(item)}")
    start, end = (parts[i] for i in offsets)
    if len(texts) == 1:
        return Raw(start, end, texts[0])
    return Raw(start, end, texts[0], texts[1])


def _is_int(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)


# -- checks
def check_label(label: Any, found: Any) -> str:
    """The label.

    Raises:
        DataError: it is not the name of an entity type.
    """
    if not isinstance(label, str) or not label.strip():
        raise DataError(f"expected integer offsets and a label, found {shown(found)}")
    if not is_storable(label):
        raise DataError(f"expected a label without NUL and lone surrogates, found {shown(found)}")
    if label != label.strip():
        raise DataError(f"label {label!r} begins or ends with white space; correct it")
    if label == "O" or LIKE_A_TAG.fullmatch(label):
        raise DataError(
            f"label {label!r} is a tag, not an entity type; give mentions with their types, or "
            "tokens with their tags"
        )
    return label


def to_mention(text: str, raw: Raw, offsets: str = "auto") -> Mention:
    """A checked mention of a text.

    Args:
        offsets: the convention; "auto": that of the layout the mention was found in.

    Raises:
        DataError: the label or the offsets cannot be used, or the given surface stands elsewhere.
    """
    found = shown((raw.start, raw.end, raw.label))
    if not (_is_int(raw.start) and _is_int(raw.end)):
        raise DataError(f"expected integer offsets and a label, found {found}")
    label = check_label(raw.label, (raw.start, raw.end, raw.label))
    convention = raw.convention if offsets == "auto" else offsets
    start, end = place(text, raw.start, raw.end, convention)
    if raw.surface is not None and not same_surface(text[max(start, 0) : end], raw.surface):
        raise DataError(_elsewhere(text, raw, convention, text[max(start, 0) : end]))
    if start >= end:
        raise DataError(
            f"entity {found} is empty or reversed (expected start < end, {convention}); "
            "ends may be inclusive: set offsets"
        )
    if start < 0 or end > len(text):
        raise DataError(
            f"entity {found} lies outside the text of {len(text)} characters; "
            "check offsets (half_open, inclusive or utf16)"
        )
    score = raw.score
    if isinstance(score, bool) or not isinstance(score, int | float | None):
        raise DataError(f"entity {found}: expected a number as its score, found {shown(score)}")
    return Mention(start, end, label, score)


def place(text: str, start: int, end: int, convention: str) -> tuple[int, int]:
    """Offsets of a convention as half-open code points.

    >>> place("😀 Rome", 3, 7, "utf16"), place("Rome", 0, 3, "inclusive")
    ((2, 6), (0, 4))
    """
    if convention == "inclusive":
        return start, end + 1
    if convention == "utf16":
        return _code_points(text, start), _code_points(text, end)
    return start, end


def _code_points(text: str, units: int) -> int:
    """The number of code points in the first UTF-16 units; out of range if these are."""
    if units < 0 or text.isascii():
        return units
    at = 0
    for i, character in enumerate(text):
        if at >= units:
            return i
        at += 2 if character > "\uffff" else 1
    return len(text) + (units > at) * (units - at)


def same_surface(found: str, given: str) -> bool:
    """Whether two surfaces are equal but for white space."""
    return found == given or " ".join(found.split()) == " ".join(given.split())


def _elsewhere(text: str, raw: Raw, convention: str, found: str) -> str:
    """The message of a mention whose surface is not at its offsets, with the option that helps."""
    fitting = []
    for other in CONVENTIONS:
        start, end = place(text, raw.start, raw.end, other)
        inside = 0 <= start < end <= len(text)
        if other != convention and inside and same_surface(text[start:end], raw.surface or ""):
            fitting.append(other)
    help_ = (
        f"the offsets look {fitting[0]}: set offsets={fitting[0]}"
        if fitting
        else "correct the offsets, or rename the key of the surface"
    )
    return (
        f"entity {shown((raw.start, raw.end, raw.label))} is {found[:40]!r} in the text, but "
        f"{raw.surface!r:.40} as its own text; {help_}"
    )
