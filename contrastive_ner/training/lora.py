"""LoRA (Hu et al., ICLR 2022) in a run: adapters on the encoders, merged when the phase is over.

What a phase leaves is then a model like any other.
"""

from importlib import import_module
from typing import Any

from torch import nn

from contrastive_ner.errors import ConfigError


def add_lora(encoders: list[Any], rank: int) -> None:
    """Train low-rank changes of the encoders' linear layers instead of the encoders' weights.

    W becomes W + 2 B A, with A (rank, in) and B (out, rank), B initially zero: alpha is twice the
    rank. Encoders that are frozen stay as they are.

    Raises:
        ConfigError: peft is not installed.
    """
    try:
        peft = import_module("peft")
    except ImportError as error:
        raise ConfigError(
            f"lora_rank needs the extra peft: pip install 'contrastive-ner[peft]' ({error})"
        ) from error
    for encoder in encoders:
        if any(parameter.requires_grad for parameter in encoder.parameters()):
            config = peft.LoraConfig(
                r=rank, lora_alpha=2 * rank, target_modules=linear_layers(encoder)
            )
            peft.inject_adapter_in_model(config, encoder)


def linear_layers(encoder: nn.Module) -> list[str]:
    """Names of an encoder's linear layers."""
    return [name for name, part in encoder.named_modules() if isinstance(part, nn.Linear)]


def merge_lora(model: nn.Module) -> None:
    """Add the changes that `add_lora` trained to the weights, and remove the adapters."""
    layers = [(n, part) for n, part in model.named_modules() if hasattr(part, "get_base_layer")]
    for name, layer in layers:
        layer.merge()
        parent, _, own = name.rpartition(".")
        setattr(model.get_submodule(parent), own, layer.get_base_layer())
    for part in model.modules():
        if "peft_config" in vars(part):
            del part.peft_config
