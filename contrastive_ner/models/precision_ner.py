"""The data type that a model computes in. This file travels with the weights."""

from pathlib import Path

import torch

from .checks_ner import PRECISIONS
from .windows_ner import InputError


def precision_for(name: str, device: torch.device | str) -> str:
    """The data type that a precision means on a device: "float32" or "bfloat16".

    "auto" is bfloat16 where the device computes in it.

    Raises:
        InputError: no such precision.
    """
    if name not in PRECISIONS:
        raise InputError(f"precision is {name!r}: expected {', '.join(PRECISIONS)}")
    if name != "auto":
        return name
    return "bfloat16" if computes_in_bfloat16(device) else "float32"


def computes_in_bfloat16(device: torch.device | str) -> bool:
    """Whether a device has instructions for bfloat16: on x86, AVX512-BF16 (AMX implies it)."""
    kind = torch.device(device).type
    if kind == "cuda":
        return torch.cuda.is_bf16_supported(including_emulation=False)
    try:
        return kind == "cpu" and "avx512_bf16" in Path("/proc/cpuinfo").read_text("utf-8")
    except OSError:  # not Linux
        return False
