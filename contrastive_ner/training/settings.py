"""Reading a run configuration from YAML files, `key=value` and a program's values."""

import re
import typing
from dataclasses import fields
from pathlib import Path
from typing import Any

from contrastive_ner.errors import ConfigError, UserError, did_you_mean, is_storable, shown
from contrastive_ner.files import read_yaml
from contrastive_ner.training.config import RunConfig
from contrastive_ner.training.values import convert


def load_config(path: str | Path, overrides: typing.Sequence[str] = ()) -> RunConfig:
    """Read a configuration from a YAML file and "key=value" overrides.

    `base: other.yaml` in a file starts from the values of another file.

    Raises:
        ConfigError: a file is missing or not valid YAML, a key is unknown, a value is invalid.
    """
    found = _read_yaml(Path(path))
    for item in overrides:
        key, equals, value = item.partition("=")
        if not equals:
            raise ConfigError(f"{item!r}: expected key=value")
        found[key] = Setting(value, "command line")
    return _config_of(found)


def config_from(values: typing.Mapping[str, Any], path: str | Path | None = None) -> RunConfig:
    """The configuration of a program's values, over those of a YAML file if there is one.

    Raises:
        ConfigError: as `load_config`.
    """
    found = {} if path is None else _read_yaml(Path(path))
    return _config_of({**found, **{key: Setting(own, "args") for key, own in values.items()}})


def _config_of(found: typing.Mapping[Any, "Setting"]) -> RunConfig:
    hints = typing.get_type_hints(RunConfig)
    known = [item.name for item in fields(RunConfig)]
    unknown = sorted(str(key) for key in found if key not in known)
    if unknown:
        origins = {str(key): setting.origin for key, setting in found.items()}
        listed = ", ".join(f"{key}{did_you_mean(key, known)}" for key in unknown[:10])
        raise ConfigError(
            f"{origins[unknown[0]]}: unknown key {listed}; "
            "contrastive-ner train --help lists the keys"
        )
    try:
        values = {key: convert(key, own.value, hints[key]) for key, own in found.items()}
        return RunConfig(**values)
    except UserError as error:
        key = re.split(r"[ .:]", str(error), maxsplit=1)[0]
        if key not in found:
            raise
        raise type(error)(f"{found[key].origin}: {error}") from error


class Setting(typing.NamedTuple):
    """A value of a configuration, and where it stands: a file, the command line or `args`."""

    value: Any
    origin: str


def _read_yaml(path: Path, derived: tuple[Path, ...] = ()) -> dict[Any, Setting]:
    if path.resolve() in derived:
        raise ConfigError(f"{path}: circular base: a file must not extend itself")
    if not path.is_file():
        raise ConfigError(f"{path}: no such configuration file")
    values = read_yaml(path, ConfigError) or {}
    if not isinstance(values, dict):
        raise ConfigError(f"{path}: expected keys and values, found {type(values).__name__}")
    base = values.pop("base", None)
    own = {key: Setting(value, str(path)) for key, value in values.items()}
    if base is None:
        return own
    if not isinstance(base, str) or not is_storable(base):
        raise ConfigError(f"{path}: base is {shown(base)}: expected the name of another YAML file")
    return {**_read_yaml(path.parent / base, (*derived, path.resolve())), **own}
