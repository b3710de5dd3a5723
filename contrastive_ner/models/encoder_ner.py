"""Safe loading and the pretrained encoder, for both models. This file travels with the weights."""

import inspect
import sys
import warnings
from collections.abc import Iterable
from contextvars import ContextVar
from difflib import get_close_matches
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from transformers import AutoConfig, AutoModel, PreTrainedConfig, PreTrainedModel
from transformers.modeling_outputs import BaseModelOutput
from transformers.utils import cached_file

from .checks_ner import (
    INDEX,
    NUMBERS_BEYOND,
    WEIGHTS,
    Entry,
    check_tensors,
    config_faults,
    listed,
    number_of,
    shards_of,
    size_fault,
    special_files,
)
from .windows_ner import InputError

IGNORED = -100
STOCK_PIPELINE = "TokenClassificationPipeline"
# Arguments of `from_pretrained` that locate a model.
PLACE = (
    "cache_dir",
    "force_download",
    "local_files_only",
    "proxies",
    "revision",
    "subfolder",
    "token",
)


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
            return super().from_dict(config_dict, **kwargs)
        finally:
            _is_read.reset(token)

    def __post_init__(self, **kwargs: Any) -> None:
        if not _is_read.get():
            self._check_arguments(kwargs)
        super().__post_init__(**kwargs)

    @classmethod
    def _check_arguments(cls, names: Iterable[str]) -> None:
        every, shared = set(cls.__dataclass_fields__), set(PreTrainedConfig.__dataclass_fields__)
        found = [name for name in names if not name.startswith("_")]
        own = (every - shared) | {"id2label", "label2id"}
        check_names(found, own, f"argument of {cls.__name__}", (*every, *ALSO_TAKEN))


class SafePreTrainedModel(PreTrainedModel):
    """A `PreTrainedModel` that loads complete and finite weights, from safetensors only."""

    # Whether all weights must be there; a checkpoint of another model may serve as a start.
    must_be_complete = True

    @property
    def device(self) -> torch.device:
        """Where the weights are. A pipeline asks when it is made: so the stock one is noticed."""
        frame = sys._getframe(1)
        if frame.f_code.co_name == "__init__":
            warn_of_stock_pipeline(frame.f_locals.get("self"))
        return super().device

    @classmethod
    def from_pretrained(cls, *args: Any, **kwargs: Any) -> Any:
        """`PreTrainedModel.from_pretrained`, safetensors only: pickled weights can execute code.

        A tagger with missing weights is refused, unless `output_loading_info=True` asks for their
        names, as for a checkpoint of stage one that is to be trained further.

        Raises:
            InputError: pickled weights are requested or named; the folder holds another type of
                model; weights are missing, NaN or infinite; config.json holds sizes that the
                weights do not have.
        """
        if kwargs.get("use_safetensors") is False or kwargs.get("gguf_file") is not None:
            raise InputError(
                "use_safetensors=False: pickled weights are refused; "
                "convert them to safetensors first"
            )
        place = args[0] if args else kwargs.get("pretrained_model_name_or_path")
        if place is not None:
            cls._check_files(place, kwargs)
        wants_info = kwargs.pop("output_loading_info", False)
        model, info = super().from_pretrained(
            *args, **{**kwargs, "use_safetensors": True, "output_loading_info": True}
        )
        missing = sorted(info["missing_keys"])
        if missing and cls.must_be_complete and not wants_info:
            raise InputError(f"{place}: weights are missing: {listed(missing)}")
        return (model, info) if wants_info else model

    @classmethod
    def _check_files(cls, place: Any, kwargs: dict[str, Any]) -> None:
        """Check the files of a model before it is built; see `from_pretrained`."""
        where = {name: kwargs[name] for name in PLACE if name in kwargs}
        check_folder(place, where)
        try:
            content = PreTrainedConfig.get_config_dict(place, **where)[0]
        except OSError:
            if kwargs.get("config") is None:
                raise
            content = {}  # a folder of weights alone
        found = content.get("model_type")
        if kwargs.get("config") is None and found != cls.config_class.model_type:
            raise InputError(
                f"{place} holds a model of type {found!r}: "
                f"{cls.__name__} opens {cls.config_class.model_type!r}"
            )
        if kwargs.get("state_dict") is not None:
            return
        tensors = check_tensors(weight_files(place, where, kwargs.get("variant")))
        faults = config_faults(content, tensors)
        if content.get("transformers_weights") is not None:
            faults.append("transformers_weights names other weights")
        if faults:
            raise InputError(f"{place}: config.json does not fit the weights: {'; '.join(faults)}")
        if found == cls.config_class.model_type:
            cls._check_size(place, where, tensors)

    @classmethod
    def _check_size(cls, place: Any, where: dict[str, Any], tensors: dict[str, Entry]) -> None:
        """Raise `InputError` if config.json describes a far larger model than the weights are."""
        with torch.device("meta"):  # takes no memory
            model = cls(cls.config_class.from_pretrained(place, **where))
        described = sum(tensor.numel() for tensor in (*model.parameters(), *model.buffers()))
        if described > 2 * number_of(tensors) + NUMBERS_BEYOND:
            raise InputError(
                f"{place}: config.json does not fit the weights: it describes a model of "
                f"{described:,} numbers, and the weights hold {number_of(tensors):,}"
            )


def warn_of_stock_pipeline(made: Any) -> None:
    """Warn, once, if an object is the pipeline that `pipeline("ner", model=OBJECT)` makes."""
    if not any(kind.__name__ == STOCK_PIPELINE for kind in type(made).__mro__):
        return
    if not vars(made).get("_has_warned"):
        made._has_warned = True
        warnings.warn(
            "pipeline() with a model object makes the stock pipeline of transformers, which does "
            "not decode this model: its results are wrong. Use model.pipeline(tokenizer), or "
            "pipeline('ner', model=FOLDER, trust_remote_code=True)",
            stacklevel=4,
        )


def check_folder(place: Any, where: dict[str, Any]) -> None:
    """Raise `InputError` if a model's folder holds what must not be opened.

    These are pipes and devices, adapters, which name other weights, and a config.json that is far
    too large. Names on the Hub are not checked.
    """
    folder = Path(place) / where.get("subfolder", "")
    if not folder.is_dir():
        return
    special = special_files(folder)
    if special:
        raise InputError(f"{place}: {listed(special)}: not a regular file")
    if (folder / "adapter_config.json").exists():
        raise InputError(f"{place}: adapter_config.json names other weights: adapters are refused")
    config = folder / "config.json"
    if config.is_file() and (fault := size_fault(config)):
        raise InputError(f"{place}: {fault}")


def weight_files(
    place: Any, where: dict[str, Any] | None = None, variant: str | None = None
) -> list[Path]:
    """The safetensors files of a folder or a repository on the Hub, as transformers finds them.

    Raises:
        InputError: an index names other files; see `shards_of`.
        OSError: there are none.
    """
    options: Any = {"_raise_exceptions_for_missing_entries": False, **(where or {})}
    names = (WEIGHTS, INDEX)
    if variant is not None:
        names = (f"model.{variant}.safetensors", f"{WEIGHTS}.index.{variant}.json")
    single = cached_file(place, names[0], **options)
    if single is not None:
        return [Path(single)]
    index = cached_file(place, names[1], **options)
    if index is None:
        raise OSError(f"{place} holds no {names[0]} (pickled weights are refused)")
    paths = {name: cached_file(place, name, **options) for name in shards_of(Path(index))}
    lacking = [name for name, path in paths.items() if path is None]
    if lacking:
        raise InputError(f"{place}: {Path(index).name} names {listed(lacking)}: no such file")
    return [Path(path) for path in paths.values()]


def config_object(name: str, value: Any) -> Any:
    """An encoder configuration as an object; builds it from the dictionary found in config.json.

    Objects and None are returned as they are. `name` is the field, for the error.

    Raises:
        InputError: `value` is not the configuration of an encoder.
    """
    if value is None or isinstance(value, PreTrainedConfig):
        return value
    if not isinstance(value, dict) or not isinstance(value.get("model_type"), str):
        raise InputError(f"{name} has no model_type: expected the config.json of an encoder")
    return AutoConfig.for_model(**without_code(value))


def without_code(value: Any) -> Any:
    """A JSON value without `auto_map`, at any depth.

    Code of an encoder's own repository is never used, nor its place saved.
    """
    if isinstance(value, dict):
        return {key: without_code(own) for key, own in value.items() if key != "auto_map"}
    return [without_code(own) for own in value] if isinstance(value, list) else value


def check_place(name_or_path: str) -> None:
    """Raise `InputError` if the name can only be that of a folder, and there is none.

    The Hub knows NAME and USER/NAME. Anything else that looks like a path is never asked of it, nor
    is a name under a folder that exists here, or under `encoders`, the folder of this project.
    """
    path = Path(name_or_path)
    first, *rest = path.parts or ("",)
    is_folder = (
        len(rest) > 1
        or first in ("..", "~", "encoders")
        or name_or_path.startswith((".", "/"))
        or name_or_path.endswith("/")
        or path.is_absolute()
        or (bool(rest) and Path(first).is_dir())
    )
    if is_folder and not path.is_dir():
        raise InputError(
            f"encoder {name_or_path!r}: there is no such folder (looked in {Path.cwd()}); give a "
            "folder of an encoder with safetensors weights, or a name on the Hub, such as "
            "google-bert/bert-base-chinese. The Chinese encoder of this project comes with a clone "
            "of its repository: CLONE/encoders/zh-char-mini"
        )


def read_encoder_config(name_or_path: str) -> PreTrainedConfig:
    """An encoder's configuration, without its path and the places of its code.

    They would be published with the model.
    """
    check_place(name_or_path)
    config = AutoConfig.from_pretrained(name_or_path, trust_remote_code=False)
    config._name_or_path = ""
    if hasattr(config, "auto_map"):
        del config.auto_map
    return config


def check_encoder_config(config: Any) -> None:
    """Raise `InputError` unless `config` is the configuration of an encoder-only model."""
    if config is None:
        raise InputError(
            "encoder_config is missing; "
            "build a new model with from_encoder(name_or_path, ...) or from_encoders(...)"
        )
    if config.is_encoder_decoder:
        raise InputError(
            f"{config.model_type} is an encoder-decoder: expected an encoder-only model"
        )
    if type(config) not in AutoModel._model_mapping:
        raise InputError(
            f"{config.model_type}: transformers has no encoder of this type, and code that comes "
            "with an encoder is refused"
        )


def empty_encoder(config: PreTrainedConfig) -> PreTrainedModel:
    """An encoder without pretrained weights and without pooler."""
    check_encoder_config(config)
    return without_pooler(AutoModel.from_config(config, trust_remote_code=False))


def pretrained_encoder(name_or_path: str, config: PreTrainedConfig) -> PreTrainedModel:
    """A pretrained encoder in float32, without pooler, from safetensors only.

    Raises:
        InputError: no encoder with safetensors weights can be read.
    """
    check_encoder_config(config)
    builder = AutoModel._model_mapping[type(config)]
    has_switch = "add_pooling_layer" in inspect.signature(builder.__init__).parameters
    extra = {"add_pooling_layer": False} if has_switch else {}
    try:
        check_folder(name_or_path, {})
        check_tensors(weight_files(name_or_path))
        encoder = AutoModel.from_pretrained(
            name_or_path,
            use_safetensors=True,
            trust_remote_code=False,
            dtype=torch.float32,
            **extra,
        )
    except OSError as error:
        raise InputError(
            f"{name_or_path}: no encoder with safetensors weights could be read "
            f"(pickled weights are refused): {error}"
        ) from error
    return without_pooler(encoder)


def longest_input(config: PreTrainedConfig, tokenizer: Any) -> int:
    """Tokens that an encoder reads at most, special tokens included."""
    positions = positions_of(config)
    limit = tokenizer.model_max_length
    return limit if positions is None else min(limit, positions)


def positions_of(config: PreTrainedConfig) -> int | None:
    """The positions that an encoder numbers, special tokens included; None if there is no limit.

    RoBERTa and its kin number positions from the padding id on, and so have fewer of them than
    their position table has rows. Encoders that use only relative positions have no such limit.
    """
    rows = getattr(config, "max_position_embeddings", None)
    if rows is None:
        return None
    module = inspect.getmodule(AutoModel._model_mapping.get(type(config), None))
    source = "" if module is None else inspect.getsource(module)
    from_padding = "create_position_ids_from_input_ids" in source
    return rows - ((config.pad_token_id or 0) + 1) * from_padding


def check_window(config: PreTrainedConfig) -> None:
    """Raise `InputError` if a model's windows are longer than its encoder's input."""
    positions = positions_of(config.encoder_config)
    if isinstance(positions, int) and config.max_window_tokens > positions:
        raise InputError(
            f"max_window_tokens is {config.max_window_tokens}: the encoder reads {positions} at "
            "most"
        )


def without_pooler(encoder: PreTrainedModel) -> PreTrainedModel:
    """Remove the pooler: its unused weights would be saved and break distributed training."""
    if getattr(encoder, "pooler", None) is not None:
        encoder.pooler = None
    return encoder


def encode(encoder: PreTrainedModel, **given: Tensor | bool | None) -> BaseModelOutput:
    """The encoder's output. Passes on only arguments that are not None, as encoders differ."""
    return encoder(
        **{name: value for name, value in given.items() if value is not None}, return_dict=True
    )
