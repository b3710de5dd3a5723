"""Data sets with a schema: `datasets` folders and names, Parquet files."""

from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

from contrastive_ner.data.decoding import Place
from contrastive_ner.data.records import Record
from contrastive_ner.data.row_parts import ENTITY_KEYS
from contrastive_ner.errors import DataError, shown
from contrastive_ner.files import SAVED_DATA, readable


def split_name(name: str) -> tuple[str, str]:
    """Folder or Hub name, and split, of "NAME@SPLIT"."""
    if "@" in Path(name).name and not Path(name).is_dir():
        place, _, split = name.rpartition("@")
        return place, split
    return name, ""


def hub_arguments(place: str) -> dict[str, str | None]:
    """Arguments of `load_dataset` for a name on the Hub, "NAME[:CONFIGURATION][#REVISION]".

    >>> hub_arguments("user/set:zh#v1")
    {'path': 'user/set', 'name': 'zh', 'revision': 'v1'}
    """
    place, _, revision = place.partition("#")
    path, _, name = place.partition(":")
    return {"path": path, "name": name or None, "revision": revision or None}


def read_dataset(name: str) -> Iterator[Place]:
    """Rows of a data set on disk or on the Hub, as "FOLDER@SPLIT" or "NAME@SPLIT".

    A name on the Hub may have a configuration and a revision; see `hub_arguments`.

    A folder is one of `save_to_disk`, or holds files that `datasets` can load.

    Raises:
        DataError: it cannot be loaded, or there is no such split.
    """
    import datasets

    place, split = split_name(name)
    folder = Path(place)
    try:
        if folder.is_dir() and any((folder / file).is_file() for file in SAVED_DATA):
            data = datasets.load_from_disk(place)
        else:
            given = {"path": str(folder)} if folder.is_dir() else hub_arguments(place)
            data = datasets.load_dataset(**given)
    except Exception as error:
        raise DataError(
            f"{place}: no data set could be loaded from disk or the Hub: {first_line(error)}"
        ) from error
    if isinstance(data, dict):
        if split not in data:
            raise DataError(
                f"{name}: expected one of the splits {sorted(data)}, found {split!r}; "
                f"write {place}@SPLIT"
            )
        data = data[split]
    try:
        yield from _places(readable(name, data, DataError), data.features)
    except DataError:
        raise
    except Exception as error:
        raise DataError(f"{name}: the data set cannot be read: {first_line(error)}") from error


def read_parquet(name: str) -> Iterator[Place]:
    """Rows of a Parquet file; class names come from the schema that `datasets` keeps in it.

    Raises:
        DataError: the file is missing or damaged.
    """
    import datasets
    import pyarrow.parquet

    if not Path(name).is_file():
        raise DataError(f"{name}: no such file")
    try:
        with pyarrow.parquet.ParquetFile(name) as file:
            features = datasets.Features.from_arrow_schema(file.schema_arrow)
            rows = (row for batch in file.iter_batches(1024) for row in batch.to_pylist())
            yield from _places(rows, features)
    except DataError:
        raise
    except Exception as error:  # damaged files raise anything: OSError, UnicodeDecodeError, ...
        raise DataError(f"{name}: cannot be read as Parquet ({first_line(error)})") from error


def first_line(error: Exception) -> str:
    """The first line of an error's message."""
    return next(iter(str(error).splitlines()), type(error).__name__)


def rows_of(data: Iterable[Any], name: str) -> Iterator[Any]:
    """Rows of a `datasets` object, classes by their names; of other rows, the rows themselves.

    Raises:
        DataError: an item is neither a mapping nor a `Record`, a class number has no name, or the
            data are a mapping of several splits.
    """
    if isinstance(data, Mapping):
        raise DataError(f"{name}: expected one split, found the splits {sorted(map(str, data))}")
    named = named_classes(getattr(data, "features", None) or {})
    if hasattr(data, "with_format"):
        data = data.with_format(None)  # not of tensors or tables
    for number, row in enumerate(data):
        if not isinstance(row, Mapping | Record):
            raise DataError(f"{name}: row {number}: expected a mapping, found {shown(row)}")
        try:
            yield row if isinstance(row, Record) else _with_names(row, named)
        except DataError as error:
            raise DataError(f"{name}: row {number}: {error}") from error


def _places(rows: Iterable[Mapping[str, Any]], features: Mapping[str, Any]) -> Iterator[Place]:
    named = named_classes(features)
    for number, row in enumerate(rows):
        yield Place(number, _with_names(row, named))


def named_classes(features: Mapping[str, Any]) -> dict[str, Any]:
    """The features of the columns that hold classes, perhaps in lists or in mentions."""
    return {key: feature for key, feature in features.items() if _holds_classes(feature)}


def _with_names(row: Mapping[str, Any], named: Mapping[str, Any]) -> dict[str, Any]:
    """A row without empty cells, with the names of classes in place of their numbers.

    An empty cell of mentions stays: it does not say that there are none.
    """
    return {
        key: _as_list(_named(value, named.get(key)))
        for key, value in row.items()
        if value is not None or key in ENTITY_KEYS
    }


def class_names(feature: Any) -> list[str] | None:
    """The names of a column of classes, or of lists of them."""
    names = getattr(getattr(feature, "feature", feature), "names", None)
    return names if isinstance(names, list) else None


def _holds_classes(feature: Any) -> bool:
    """Whether a feature is one of classes, or has one within."""
    if isinstance(feature, Mapping):
        return any(map(_holds_classes, feature.values()))
    inner = feature[0] if isinstance(feature, list) else getattr(feature, "feature", None)
    return isinstance(getattr(feature, "names", None), list) or (
        inner is not None and _holds_classes(inner)
    )


def _named(value: Any, feature: Any) -> Any:
    """A value with the names of its classes; numbers of no class are errors."""
    names = getattr(feature, "names", None)
    if value is None or feature is None:
        return value
    if isinstance(feature, Mapping) and isinstance(value, Mapping):
        return {key: _named(own, feature.get(key)) for key, own in value.items()}
    if isinstance(value, list):
        inner = feature[0] if isinstance(feature, list) else getattr(feature, "feature", None)
        return [_named(item, feature if isinstance(names, list) else inner) for item in value]
    if not isinstance(names, list) or isinstance(value, str):
        return value
    if not isinstance(value, int) or not 0 <= value < len(names):
        raise DataError(
            f"expected classes from 0 to {len(names) - 1}, found {value!r}; "
            "drop rows without labels (-1)"
        )
    return names[value]


def _as_list(value: Any) -> Any:
    """A list of objects, where `datasets` gives an object of lists instead."""
    if not isinstance(value, dict) or not value:
        return value
    columns = list(value.values())
    if not all(isinstance(own, list) and len(own) == len(columns[0]) for own in columns):
        return value
    return [dict(zip(value, row, strict=True)) for row in zip(*columns, strict=True)]
