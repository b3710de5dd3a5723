"""Safe loading and the pretrained encoder, for both models. This file travels with the weights."""

import inspect
import sys
import warnings
from collections.abc import Iterable
from pathlib import Path
from typing import Any, ClassVar

import torch
from torch import Tensor
from transformers import AutoConfig, AutoModel, PreTrainedConfig, PreTrainedModel
from transformers.modeling_outputs import BaseModelOutput
from transformers.utils import cached_file

from .adapters_ner import WeightsState, check_adapter, is_adapter, weights_state
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


class SafePreTrainedModel(PreTrainedModel):
    """A `PreTrainedModel` that loads complete and finite weights, from safetensors only."""

    # Whether all weights must be there; a checkpoint of another model may serve as a start.
    must_be_complete = True
    # Fields of the configuration that calibrate scores, as they are without calibration.
    uncalibrated: ClassVar[dict[str, float]] = {}
    _calibrated: WeightsState | None = None  # the weights whose calibration the configuration holds

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
        names, as for a checkpoint of stage one that is to be trained further. The folder of an
        adapter opens the base model that it names, with the adapter (needs peft).

        Raises:
            InputError: pickled weights are requested or named; the folder holds another type of
                model; weights are missing, NaN or infinite; config.json holds sizes that the
                weights do not have; an adapter is damaged or names no base model.
        """
        if kwargs.get("use_safetensors") is False or kwargs.get("gguf_file") is not None:
            raise InputError(
                "use_safetensors=False: pickled weights are refused; "
                "convert them to safetensors first"
            )
        place = args[0] if args else kwargs.pop("pretrained_model_name_or_path", None)
        adapter, place, kwargs, adapter_options = split_adapter(place, kwargs)
        content, files = ({}, []) if place is None else cls._check_files(place, kwargs)
        wants_info = kwargs.pop("output_loading_info", False)
        model, info = super().from_pretrained(
            place, *args[1:], **{**kwargs, "use_safetensors": True, "output_loading_info": True}
        )
        missing = sorted(info["missing_keys"])
        if missing and cls.must_be_complete and not wants_info:
            raise InputError(f"{place}: weights are missing: {listed(missing)}")
        other_shape = {
            entry if isinstance(entry, str) else entry[0] for entry in info["mismatched_keys"]
        }
        model._after_loading(place, content, files, {*missing, *other_shape})
        if place is not None:
            model._load_beside(place, {name: kwargs[name] for name in PLACE if name in kwargs})
        if missing or other_shape:
            model.forget_calibration()  # it was fitted to other weights
        else:
            model.keep_calibration()
        if adapter is not None:
            model.load_adapter(adapter, **adapter_options)
        return (model, info) if wants_info else model

    def _after_loading(
        self, place: Any, content: dict[str, Any], files: list[Path], lacking: set[str]
    ) -> None:
        """Called once the weights of `files` are loaded, all but the `lacking` ones.

        `content` is that of config.json, before `from_pretrained` changed settings.
        """

    def _load_beside(self, place: Any, where: dict[str, Any]) -> None:
        """Called then, to read what else is next to the weights. `where`: arguments of `PLACE`."""

    def keep_calibration(self) -> None:
        """Take the calibration in the configuration for that of the weights in force."""
        self._calibrated = weights_state(*self.children())

    def forget_calibration(self) -> None:
        """Set the configuration back to scores without calibration."""
        for name, value in self.uncalibrated.items():
            setattr(self.config, name, value)
        self._calibrated = None

    def check_calibration(self) -> None:
        """Forget the calibration if other weights are in force than those that it was fitted to.

        A copy that was moved or rounded keeps it. Called before scores are used or saved.
        """
        now = weights_state(*self.children())
        if self._calibrated is not None and not now.is_copy_of(self._calibrated):
            self.forget_calibration()
        self._calibrated = now

    def forget_if_training(self, loss: Tensor) -> None:
        """Forget the calibration if `loss` is that of a training step."""
        if self.training and loss.requires_grad:
            self.forget_calibration()

    def resize_token_embeddings(self, *args: Any, **kwargs: Any) -> Any:
        """`PreTrainedModel.resize_token_embeddings`, of the encoder and in its configuration."""
        embeddings = super().resize_token_embeddings(*args, **kwargs)
        self.config.__dict__.pop("vocab_size", None)  # only the encoder has a vocabulary
        for config in (self.config.encoder_config, self.base_model.encoder.config):
            config.vocab_size = embeddings.num_embeddings
        return embeddings

    def save_pretrained(self, *args: Any, **kwargs: Any) -> Any:
        """`PreTrainedModel.save_pretrained`, without the calibration of other weights."""
        self.check_calibration()
        return super().save_pretrained(*args, **kwargs)

    def load_adapter(self, peft_model_id: Any = None, *args: Any, **kwargs: Any) -> Any:
        """`PreTrainedModel.load_adapter`, safetensors only.

        Raises:
            InputError: the adapter is damaged, or holds pickled weights.
        """
        if peft_model_id is not None:
            options = {**kwargs, **(kwargs.get("adapter_kwargs") or {})}
            where = {name: options[name] for name in PLACE if name in options}
            check_folder(peft_model_id, where, is_adapter=True)
            check_adapter(peft_model_id, where)
        return super().load_adapter(peft_model_id, *args, **kwargs)

    @classmethod
    def _check_files(cls, place: Any, kwargs: dict[str, Any]) -> tuple[dict[str, Any], list[Path]]:
        """Check the files of a model before it is built; see `from_pretrained`.

        Returns the content of config.json and the files of the weights; none if these are given.
        """
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
            return content, []
        files = weight_files(place, where, kwargs.get("variant"))
        tensors = check_tensors(files)
        faults = config_faults(content, tensors)
        if content.get("transformers_weights") is not None:
            faults.append("transformers_weights names other weights")
        if faults:
            raise InputError(f"{place}: config.json does not fit the weights: {'; '.join(faults)}")
        if found == cls.config_class.model_type:
            names: dict[str, Any] = {
                key: kwargs[key] for key in ("id2label", "label2id") if key in kwargs
            }
            cls._check_size(place, {**where, **names}, tensors)
        return content, files

    @classmethod
    def _check_size(cls, place: Any, options: dict[str, Any], tensors: dict[str, Entry]) -> None:
        """Raise `InputError` if config.json describes a far larger model than the weights are."""
        with torch.device("meta"):  # takes no memory
            model = cls(cls.config_class.from_pretrained(place, **options))
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


def split_adapter(
    place: Any, kwargs: dict[str, Any]
) -> tuple[Any, Any, dict[str, Any], dict[str, Any]]:
    """What `from_pretrained` is asked for, as the adapter or None, and the place of the model.

    Also returns the arguments for the model, and those of `load_adapter`. transformers' Auto
    classes pass the base model and the place of the adapter apart.

    Raises:
        InputError: as in `check_adapter`; or the base model is a folder that is not there.
    """
    given = dict(kwargs)
    options, name = dict(given.pop("adapter_kwargs", None) or {}), given.pop("adapter_name", None)
    adapter = options.pop("_adapter_model_path", None)
    where = {key: given[key] for key in PLACE if key in given}
    if adapter is None and place is not None and is_adapter(place, where):
        adapter, options = place, {**where, **options}
        check_folder(adapter, options, is_adapter=True)
        place = check_adapter(adapter, options)
        if looks_like_folder(place) and not Path(place).is_dir():
            raise InputError(
                f"{adapter}: its base model {place!r} is not there (looked in {Path.cwd()})"
            )
        given = {key: own for key, own in given.items() if key not in ("revision", "subfolder")}
    elif adapter is not None and str(adapter) == str(place):
        raise InputError(
            f"{place} holds a model and adapter_config.json, which names other weights: "
            "an adapter needs a folder of its own"
        )
    return adapter, place, given, {"adapter_name": name, "adapter_kwargs": options}


def check_folder(place: Any, where: dict[str, Any], *, is_adapter: bool = False) -> None:
    """Raise `InputError` if a model's folder holds what must not be opened.

    These are pipes and devices, adapters, which name other weights, and a config.json that is
    far too large. Names on the Hub are not checked. `is_adapter`: an adapter is expected.
    """
    folder = Path(place) / where.get("subfolder", "")
    if not folder.is_dir():
        return
    special = special_files(folder)
    if special:
        raise InputError(f"{place}: {listed(special)}: not a regular file")
    if (folder / "adapter_config.json").exists() and not is_adapter:
        raise InputError(
            f"{place}: adapter_config.json names other weights: adapters are refused here"
        )
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
    if looks_like_folder(name_or_path) and not Path(name_or_path).is_dir():
        raise InputError(
            f"encoder {name_or_path!r}: there is no such folder (looked in {Path.cwd()}); give a "
            "folder of an encoder with safetensors weights, or a name on the Hub, such as "
            "google-bert/bert-base-chinese. The Chinese encoder of this project comes with a clone "
            "of its repository: CLONE/encoders/zh-char-mini"
        )


def looks_like_folder(name_or_path: str) -> bool:
    """Whether a name can only be that of a folder; see `check_place`."""
    path = Path(name_or_path)
    first, *rest = path.parts or ("",)
    return (
        len(rest) > 1
        or first in ("..", "~", "encoders")
        or name_or_path.startswith((".", "/"))
        or name_or_path.endswith("/")
        or path.is_absolute()
        or (bool(rest) and Path(first).is_dir())
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
        encoder, info = AutoModel.from_pretrained(
            name_or_path,
            use_safetensors=True,
            trust_remote_code=False,
            dtype=torch.float32,
            output_loading_info=True,
            **extra,
        )
    except OSError as error:
        raise InputError(
            f"{name_or_path}: no encoder with safetensors weights could be read "
            f"(pickled weights are refused): {error}"
        ) from error
    check_complete(name_or_path, info["missing_keys"])
    return without_pooler(encoder)


def check_complete(place: Any, missing: Iterable[str]) -> None:
    """Raise `InputError` if weights of an encoder, other than the pooler's, are not in its files.

    They would be random numbers.
    """
    lacking = sorted(name for name in missing if "pooler" not in name.split("."))
    if lacking:
        raise InputError(
            f"{place}: weights of the encoder are missing: {listed(lacking)}; the files may have "
            "them under other names, or be those of another model than config.json says"
        )


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
    if rows is None or rows < 1:  # -1: XLNet
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
