"""Several data sets, each with its own types: their entries in a configuration, and their types.

A set that does not annotate a type says nothing about it. In training and in scores, only the types
of a set are therefore candidates in its texts.
"""

from collections.abc import Callable, Iterable, Mapping
from dataclasses import fields, replace
from typing import Any, get_type_hints

from contrastive_ner.data.layout import Layout
from contrastive_ner.data.records import Record, doc_in_file
from contrastive_ner.errors import ConfigError, UserError, did_you_mean, is_storable, shown
from contrastive_ner.logs import log

FILES = ("train_file", "dev_file", "test_file", "types_file")
SET_KEYS = (*FILES, "train_texts", "unseen_types", "weight", *(f.name for f in fields(Layout)))
EQUAL_TYPES = ("", "merge", "apart")
HEAVIEST = 1000.0


def check_sets(value: Any) -> dict[str, dict[str, Any]]:
    """The entries of `data_sets` in a configuration, {name: {key: value}}.

    Raises:
        ConfigError: they are no such entries, a key is unknown, a file is missing, or a weight is
            no positive number.
    """
    example = "write 'NAME:' under it, and under that train_file, dev_file and types_file"
    if not isinstance(value, dict) or not value:
        raise ConfigError(
            f"data_sets is {shown(value)}: expected data sets by their names; {example}"
        )
    for name, entry in value.items():
        if not isinstance(name, str) or not name.strip() or set(name) & set("/:\\{}"):
            raise ConfigError(
                f"data_sets has {shown(name)}: expected a name without / : \\ {{ }}, in quotes if "
                "YAML reads it as another type"
            )
        where = f"data_sets.{name}"
        if not isinstance(entry, dict) or not is_storable(name):
            raise ConfigError(f"{where} is {shown(entry)}: expected keys and values; {example}")
        for key in entry:
            if key not in SET_KEYS:
                raise ConfigError(
                    f"{where}: unknown key {shown(key)}{did_you_mean(str(key), SET_KEYS)}; "
                    f"expected {', '.join(SET_KEYS)}"
                )
        for key in ("train_file", "dev_file", "types_file"):
            if not entry.get(key):
                raise ConfigError(
                    f"{where}: expected {key}, found none; each data set needs its own"
                )
        weight = entry.get("weight", 1)
        if isinstance(weight, bool) or not isinstance(weight, int | float):
            raise ConfigError(f"{where}.weight is {shown(weight)}: expected a number")
        if not 0 < weight <= HEAVIEST:
            raise ConfigError(f"{where}.weight is {weight}: expected a number in (0, 1000]")
    return value


def check_mixture(config: Any) -> None:
    """Raise ConfigError unless a configuration with `data_sets` can be that of a run."""
    check_sets(config.data_sets)
    if config.method != "binder":
        raise ConfigError(f"data_sets needs method=binder, found method={config.method}")
    for key in FILES:
        if getattr(config, key):
            raise ConfigError(
                f"{key} is {shown(getattr(config, key))}: with data_sets, expected it under the "
                "name of a data set"
            )
    _ = config.sets  # checks their values


def set_configs(config: Any, convert: Callable[[str, Any, Any], Any]) -> dict[str, Any]:
    """For each of `data_sets`, the configuration of a run on it alone.

    Args:
        config: a `RunConfig`.
        convert: makes a value that of a field's type.
    """
    hints, found = get_type_hints(type(config)), {}
    for name, entry in (config.data_sets or {}).items():
        own = {key: value for key, value in entry.items() if key != "weight"}
        try:
            values = {key: convert(key, value, hints[key]) for key, value in own.items()}
            found[name] = replace(config, data_sets=None, equal_types="", **values)
        except UserError as error:
            raise type(error)(f"data_sets.{name}: {error}") from error
    return found


def weights_of(sets: Mapping[str, Mapping[str, Any]] | None) -> list[float]:
    """The weights of the sets; none if there are no several sets."""
    return [float(entry.get("weight", 1)) for entry in (sets or {}).values()]


def files_of_sets(sets: Mapping[str, Mapping[str, Any]] | None) -> list[str]:
    """The files of all sets."""
    return [str(own[key]) for own in (sets or {}).values() for key in FILES if own.get(key)]


def joint_types(
    described: Mapping[str, Mapping[str, list[str]]], equal_types: str
) -> tuple[dict[str, dict[str, str]], dict[str, list[str]]]:
    """Names for the types of several data sets.

    Args:
        described: {set: {type: texts}}.
        equal_types: what to do with types of the same name in several sets: "merge" makes one type
            of them, with the texts of all; "apart" calls each SET:TYPE; "" merges those that are
            described alike.

    Returns:
        {set: {its type: name in the model}}, {name: texts}.

    Raises:
        ConfigError: types of one name are described differently, and `equal_types` is ""; or a
            type is called as SET:TYPE of another.
    """
    owners: dict[str, list[str]] = {}
    for name, types in described.items():
        for label in types:
            owners.setdefault(label, []).append(name)
    for label, sets in owners.items():
        texts = {tuple(described[name][label]) for name in sets}
        if len(texts) > 1 and not equal_types:
            raise ConfigError(
                f"data_sets: type {label!r} has different descriptions in {' and '.join(sets)}: "
                "set equal_types=merge if it is one type, or equal_types=apart to keep one a set"
            )
    names: dict[str, dict[str, str]] = {}
    label_of: dict[str, str] = {}  # by name
    joint: dict[str, list[str]] = {}
    for name, types in described.items():
        names[name] = {}
        for label, texts_of in types.items():
            is_apart = equal_types == "apart" and len(owners[label]) > 1
            own = f"{name}:{label}" if is_apart else label
            if label_of.setdefault(own, label) != label:
                raise ConfigError(
                    f"data_sets: with equal_types=apart, {own!r} would name a type {label!r} and a "
                    f"type {label_of[own]!r}: rename one of them in its types file and data"
                )
            names[name][label] = own
            joint[own] = list(dict.fromkeys([*joint.get(own, []), *texts_of]))
    first: dict[str, str] = {}
    for label, texts_of in joint.items():
        other = first.setdefault(texts_of[0].casefold(), label)
        if other != label:
            log.warning(
                "types %s and %s have the same description: a model finds both, or neither",
                other,
                label,
            )
    return names, joint


def in_set(name: str, records: Iterable[Record], names: Mapping[str, str]) -> list[Record]:
    """The records of a set, with the names of its types in the model and documents of its own.

    A type that is not in `names` (in test, counted as missed) keeps its name.
    """
    return [
        replace(
            record,
            entities=[m._replace(label=names.get(m.label, m.label)) for m in record.entities],
            doc=doc_in_file(name, record.doc),
        )
        for record in records
    ]
