"""Optional packages: imported where they are used, or an error that names the extra."""

from importlib import import_module
from typing import Any

from contrastive_ner.errors import ConfigError


def need(module: str, extra: str) -> Any:
    """An optional package.

    Args:
        extra: the extra of this package that installs it.

    Raises:
        ConfigError: it cannot be imported.
    """
    try:
        return import_module(module)
    except ImportError as error:
        why = "" if error.name in (None, module) else f" completely ({error})"
        raise ConfigError(
            f"{module} is not installed{why}: pip install 'contrastive-ner[{extra}]'"
        ) from error
