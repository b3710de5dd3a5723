"""Configurations that take only what they know. This file travels with the weights."""

from collections.abc import Iterable
from contextvars import ContextVar
from difflib import get_close_matches
from typing import Any

from transformers import PreTrainedConfig

from .windows_ner import InputError

# What a configuration takes besides its fields; `_name` is transformers' own.
ALSO_TAKEN = {
    "auto_map",
    "custom_pipelines",
    "num_labels",
    "torch_dtype",
    "name_or_path",
    "attn_implementation",
    "experts_implementation",
    "output_attentions",
    "transformers_version",
    "model_type",
    "return_unused_kwargs",
    "trust_remote_code",
    "code_revision",
}
_is_read: ContextVar[bool] = ContextVar("a configuration is read from a file", default=False)


def check_names(
    found: Iterable[str], known: Iterable[str], what: str, also: Iterable[str] = ()
) -> None:
    """Raise `InputError` if a name is not among the known ones, with the one that is like it.

    Names of `also` are known, but not proposed.

    >>> check_names(["use_crff"], ["use_crf", "label_unit"], "argument")
    Traceback (most recent call last):
    contrastive_ner.models.windows_ner.InputError: unknown argument use_crff: did you mean use_crf?
    """
    every = sorted(known)
    for name in sorted(set(found) - {*every, *also}):
        close = get_close_matches(name, every, n=1)
        hint = f"did you mean {close[0]}?" if close else f"expected one of {', '.join(every)}"
        raise InputError(f"unknown {what} {name}: {hint}")


class StrictConfig(PreTrainedConfig):
    """A `PreTrainedConfig` that takes only what it knows, except from a file.

    A file may hold entries of another version.
    """

    @classmethod
    def from_dict(cls, config_dict: dict[str, Any], **kwargs: Any) -> Any:
        """`PreTrainedConfig.from_dict`: unknown entries are kept, unknown arguments refused."""
        if not kwargs.get("return_unused_kwargs"):
            cls._check_arguments(kwargs)
        token = _is_read.set(True)
        try:
            found = super().from_dict(config_dict, **kwargs)
        finally:
            _is_read.reset(token)
        (found[0] if isinstance(found, tuple) else found)._validate()  # arguments replaced values
        return found

    def save_pretrained(self, *args: Any, **kwargs: Any) -> Any:
        """`PreTrainedConfig.save_pretrained`; `InputError` for values that could not be read."""
        self._validate()
        return super().save_pretrained(*args, **kwargs)

    def _validate(self) -> None:
        """Raise `InputError` for a value that is not allowed."""
        if (joiner := getattr(self, "joiner", None)) not in (None, "", " "):
            raise InputError(f"joiner is {joiner!r}: expected '', ' ' or null")

    def __post_init__(self, **kwargs: Any) -> None:
        if not _is_read.get():
            self._check_arguments(kwargs)
        super().__post_init__(**kwargs)
        self._validate()

    @classmethod
    def _check_arguments(cls, names: Iterable[str]) -> None:
        every, shared = set(cls.__dataclass_fields__), set(PreTrainedConfig.__dataclass_fields__)
        found = [name for name in names if not name.startswith("_")]
        own = (every - shared) | {"id2label", "label2id"}
        check_names(found, own, f"argument of {cls.__name__}", (*every, *ALSO_TAKEN))
