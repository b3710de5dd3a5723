"""The projection head of a contrastive loss: trained with it, and thrown away afterwards.

The loss is invariant to all but the type of a token, and would take from the states that it reads
what else a tagger needs, such as whether a token begins a mention. Behind a head, the states may
keep it (Chen et al., ICML 2020, section 4.2). The paper contrasts the states themselves.
"""

from typing import Any

from torch import Tensor, nn

NAME = "projection"  # of the head, a module of the model while it is trained


def add_projection(model: nn.Module, size: int) -> None:
    """Put a new head on a model: in training, its `last_hidden_state` (B, T, D) is (B, T, size).

    The head works inside `forward`, as several processes need it.
    """
    config: Any = model.config
    width = getattr(config, "state_size", None) or config.hidden_size
    head: Any = nn.Sequential(nn.Linear(width, width), nn.GELU(), nn.Linear(width, size))
    model.add_module(NAME, head.to(next(model.parameters())))
    head.hook = model.register_forward_hook(_project)


def _project(model: nn.Module, _: Any, output: Any) -> Any:
    if model.training:
        output.last_hidden_state = projected(model, output.last_hidden_state)
    return output


def projected(model: nn.Module, states: Tensor) -> Tensor:
    """What the loss reads of states (..., D): the head's output, or without a head the states."""
    head: Any = getattr(model, NAME, None)
    return states if head is None else head(states.to(head[0].weight.dtype))


def has_projection(model: nn.Module) -> bool:
    """Whether a model has a head."""
    return hasattr(model, NAME)


def drop_projection(model: nn.Module) -> None:
    """Throw the head away."""
    if (head := getattr(model, NAME, None)) is not None:
        head.hook.remove()
        delattr(model, NAME)
