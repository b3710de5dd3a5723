"""Types files: the entity types of a data set, each with a description for BINDER's type encoder.

The files are YAML; those of the project are in configs/types/. Example:

    source: guideline            # guideline, dictionary or ours (default); entries may override it
    types:
      PER.NAM:
        name: named person       # the type in words; default: the label
        description: A person referred to by name ...
      LOC: A short entry is the description alone.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from contrastive_ner.errors import DataError, is_storable, shown
from contrastive_ner.files import read_yaml

SOURCES = ("guideline", "dictionary", "ours")
KEYS = ("name", "description", "source")  # of an entry


@dataclass(frozen=True)
class EntityType:
    """An entity type with its description.

    Args:
        label: the label in the data.
        name: the type in words.
        description: what the type covers.
        source: where the description comes from, one of `SOURCES`.
    """

    label: str
    name: str
    description: str
    source: str


def read_types(path: str | Path) -> list[EntityType]:
    """Read the entity types of a types file, in file order.

    Each run of white space in a name or description becomes one space.

    Raises:
        DataError: the file is missing, not UTF-8 or not valid YAML; a key is repeated; there are
            no types; a key or source is unknown; a label is not text; a description is missing or
            used twice. The message gives the file, the place, what was expected and the fix.
    """
    content = _load(path)
    entries = content.get("types")
    if not isinstance(entries, dict) or not entries:
        raise DataError(
            f"{path}: types: expected labels with descriptions, found {_found(entries)}; "
            "write 'LABEL: description' under it"
        )
    types = [
        _entity_type(label, entry, _source(content, "ours", path), path)
        for label, entry in entries.items()
    ]
    described: dict[str, str] = {}
    for item in types:
        # Equal descriptions have equal embeddings; an uncased encoder ignores case as well.
        other = described.setdefault(item.description.casefold(), item.label)
        if other != item.label:
            raise DataError(
                f"{path}: types.{item.label}: expected its own description, "
                f"found that of {other!r}; describe how the two differ"
            )
    return types


def check_types(
    types: Sequence[EntityType], labels_in_data: Iterable[str], where: str | Path
) -> list[str]:
    """Return the labels of `types` that do not occur in the data, in file order.

    Args:
        where: the types file, for the error message.

    Raises:
        DataError: labels in the data have no description; the message lists them and the fix.
    """
    labels, known = set(labels_in_data), [item.label for item in types]
    lacking = sorted(labels.difference(known))
    if lacking:
        raise DataError(
            f"{where}: types: expected a description of every type in the data, "
            f"found none for {', '.join(map(repr, lacking))} "
            f"(the file has {', '.join(map(repr, known))}); "
            f"add a line '{lacking[0]}: description' for each under 'types:'"
        )
    return [label for label in known if label not in labels]


def _load(path: str | Path) -> dict[Any, Any]:
    if not Path(path).is_file():
        raise DataError(
            f"{path}: expected a types file (YAML), found no such file; "
            "check the path, see configs/types/ for examples"
        )
    content = read_yaml(Path(path), DataError)
    return _mapping(content, ("source", "types"), path, "write 'types:' and the types under it")


def _entity_type(label: Any, entry: Any, default: str, path: str | Path) -> EntityType:
    if not isinstance(label, str) or not label.strip() or not is_storable(label):
        raise DataError(
            f"{path}: types: expected text as a label, found {_found(label)}; "
            "quote it (YAML reads NO, on and 1 as other types)"
        )
    if label != label.strip() or len(label.splitlines()) > 1 or "\t" in label:
        raise DataError(
            f"{path}: types: expected a label in one line without tabs and white space around it, "
            f"found {_found(label)}"
        )
    where = f"{path}: types.{label}"
    values = (
        {"description": entry}
        if isinstance(entry, str)
        else _mapping(entry, KEYS, where, "write a description as text")
    )
    name = _text(values.get("name", label), "name", where)
    return EntityType(
        label,
        name,
        _text(values.get("description"), "description", where),
        _source(values, default, where),
    )


def _text(value: Any, key: str, where: str | Path) -> str:
    if not isinstance(value, str) or not value.strip() or not is_storable(value):
        raise DataError(
            f"{where}.{key}: expected text, found {_found(value)}; "
            "write it, in quotes if YAML reads it as another type"
        )
    return " ".join(value.split())


def _source(values: dict[Any, Any], default: str, where: str | Path) -> str:
    if (source := values.get("source", default)) not in SOURCES:
        raise DataError(
            f"{where}: source: expected one of {', '.join(SOURCES)}, found {_found(source)}; "
            "state who wrote the text"
        )
    return str(source)


def _mapping(value: Any, keys: Sequence[str], where: str | Path, fix: str) -> dict[Any, Any]:
    wrong = (
        ", ".join([shown(key) for key in value if key not in keys][:10])
        if isinstance(value, dict)
        else _found(value)
    )
    if wrong:
        raise DataError(f"{where}: expected the keys {', '.join(keys)}, found {wrong}; {fix}")
    return value


def _found(value: Any) -> str:
    return "nothing" if value is None else f"{type(value).__name__} {shown(value)}"
