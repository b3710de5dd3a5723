"""Devices: the one that is asked for, or an error in one line."""

import os
import re
from collections.abc import Iterator
from contextlib import contextmanager

from contrastive_ner.errors import ConfigError

ON_CPU = "ACCELERATE_USE_CPU"  # the variable by which accelerate leaves accelerators alone
VISIBLE = "CUDA_VISIBLE_DEVICES"


def check_device(name: str) -> str:
    """A device that is there: cpu, cuda, cuda:N or mps.

    Raises:
        ConfigError: the name is not one of these, or the machine has no such device.
    """
    import torch

    if re.fullmatch(r"cpu|mps|cuda(:\d+)?", name) is None:
        raise ConfigError(f"device is {name!r}: expected cpu, cuda, cuda:N or mps")
    kind, _, number = name.partition(":")
    if kind == "mps" and not torch.backends.mps.is_available():
        raise ConfigError("device is 'mps': torch finds no Apple GPU here; use cpu")
    count = torch.cuda.device_count() if kind == "cuda" else 0
    if kind == "cuda" and int(number or 0) >= count:
        there = f"cuda:0 to cuda:{count - 1}" if count else "cpu"
        raise ConfigError(f"device is {name!r}: torch finds {count} CUDA devices here; use {there}")
    return name


def chosen_precision(name: str, device: str | None) -> str:
    """float32 or bfloat16, by the device that tags; "auto" is the faster one.

    Args:
        device: as in `load_pipeline`; None is an accelerator if there is one.

    Raises:
        ConfigError: the machine has no such device.
        InputError: no such precision.
    """
    import torch

    from contrastive_ner.models.checks_ner import precision_for

    found = torch.accelerator.current_accelerator() if device is None else check_device(device)
    return precision_for(name, found or "cpu")


def has_accelerator() -> bool:
    """Whether training uses an accelerator: there is one, and it is not to be left alone."""
    import torch

    is_left_alone = os.environ.get(ON_CPU, "").lower() in ("1", "true", "yes", "y", "on", "t")
    return torch.accelerator.is_available() and not is_left_alone


@contextmanager
def only_device(name: str | None) -> Iterator[None]:
    """Let everything in the block train on one device; None: on all that there are.

    Raises:
        ConfigError: as in `check_device`; several processes share the devices.
    """
    if name is None:
        yield
        return
    check_device(name)
    kind, _, number = name.partition(":")
    if number and int(os.environ.get("WORLD_SIZE", "1")) > 1:
        raise ConfigError(
            f"device is {name!r}, but torchrun gives each process a device of its own; use cuda, "
            f"and choose devices with {VISIBLE}"
        )
    variables = {}
    if kind == "cpu":
        variables = {ON_CPU: "true"}
    elif kind == "cuda" and int(os.environ.get("WORLD_SIZE", "1")) == 1:
        listed = os.environ.get(VISIBLE)
        visible = listed.split(",") if listed else None
        variables = {VISIBLE: visible[int(number or 0)] if visible else number or "0"}
    before = {key: os.environ.get(key) for key in variables}
    os.environ.update(variables)
    try:
        yield
    finally:
        for key, value in before.items():
            if value is None:
                os.environ.pop(key, None)
            else:
                os.environ[key] = value
