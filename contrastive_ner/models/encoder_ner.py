"""Safe loading and the pretrained encoder, for both models. This file travels with the weights."""

import inspect
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from transformers import AutoConfig, AutoModel, PreTrainedConfig, PreTrainedModel
from transformers.modeling_outputs import BaseModelOutput

from .windows_ner import InputError

IGNORED = -100
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
    """A `PreTrainedModel` that loads safetensors only."""

    @classmethod
    def from_pretrained(cls, *args: Any, **kwargs: Any) -> Any:
        """`PreTrainedModel.from_pretrained`, safetensors only: pickled weights can execute code.

        Raises:
            InputError: pickled weights are requested, or the folder holds another type of model.
        """
        if kwargs.get("use_safetensors") is False:
            raise InputError(
                "use_safetensors=False: pickled weights are refused; "
                "convert them to safetensors first"
            )
        if args and kwargs.get("config") is None:
            where = {name: kwargs[name] for name in PLACE if name in kwargs}
            found = PreTrainedConfig.get_config_dict(args[0], **where)[0].get("model_type")
            if found != cls.config_class.model_type:
                raise InputError(
                    f"{args[0]} holds a model of type {found!r}: "
                    f"{cls.__name__} opens {cls.config_class.model_type!r}"
                )
        return super().from_pretrained(*args, **{**kwargs, "use_safetensors": True})


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
    return AutoConfig.for_model(**value)


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
    """An encoder's configuration, without its path, which would be published with the model."""
    check_place(name_or_path)
    config = AutoConfig.from_pretrained(name_or_path)
    config._name_or_path = ""
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


def empty_encoder(config: PreTrainedConfig) -> PreTrainedModel:
    """An encoder without pretrained weights and without pooler."""
    check_encoder_config(config)
    return without_pooler(AutoModel.from_config(config))


def pretrained_encoder(name_or_path: str, config: PreTrainedConfig) -> PreTrainedModel:
    """A pretrained encoder in float32, without pooler, from safetensors only.

    Raises:
        InputError: no encoder with safetensors weights can be read.
    """
    builder = AutoModel._model_mapping[type(config)]
    has_switch = "add_pooling_layer" in inspect.signature(builder.__init__).parameters
    extra = {"add_pooling_layer": False} if has_switch else {}
    try:
        encoder = AutoModel.from_pretrained(
            name_or_path, use_safetensors=True, dtype=torch.float32, **extra
        )
    except OSError as error:
        raise InputError(
            f"{name_or_path}: no encoder with safetensors weights could be read "
            f"(pickled weights are refused): {error}"
        ) from error
    return without_pooler(encoder)


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
