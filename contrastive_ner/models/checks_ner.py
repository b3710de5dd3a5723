"""Checks of a model's files before anything is loaded. This file travels with the weights.

Only the header of a safetensors file is parsed, and its numbers are read once.
"""

import json
import math
import os
import re
import stat
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

from .windows_ner import InputError

PRECISIONS = ("auto", "float32", "bfloat16")  # data types to compute in
WEIGHTS = "model.safetensors"
INDEX = f"{WEIGHTS}.index.json"
SHARD = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.-]*\.safetensors")
LARGEST_CONFIG = 16_000_000  # bytes of config.json, or of the header or the index of weights
LARGEST_FILE = 64_000_000  # bytes of any other JSON or text file: the largest tokenizers have half
# Values that a JSON file may hold, by which a small file could take gigabytes.
MOST_VALUES = 4_000_000
MOST_SETTINGS = 250_000  # of them in config.json
# What every model may have, however few tensors it has: some encoders share their layers.
LAYERS_AT_LEAST = 64
LAYERS_AT_MOST = 1000
LABELS_AT_LEAST = 1024
# Numbers that a model may hold beyond those of its files, such as tables of positions.
NUMBERS_BEYOND = 2**24
LAYERS = re.compile(r"(num_|n_)?(\w+_)?(layers?|blocks|groups|depths?)")
LABELS = ("num_labels", "id2label", "label2id", "descriptions")
EPSILONS = re.compile(r"(\w+_)?(eps|epsilon)")
KERNELS = (
    *(f"{sign}attn_implementation{end}" for sign in ("", "_") for end in ("", "_internal")),
    *(f"{sign}experts_implementation{end}" for sign in ("", "_") for end in ("", "_internal")),
)
# {dtype: (type of its bits, bits without the sign, least of them that are NaN or infinite)}. In
# F8_E4M3 only NaN exists, and has all bits.
BITS = {
    "F64": ("u8", 0x7FFFFFFFFFFFFFFF, 0x7FF0000000000000),
    "F32": ("u4", 0x7FFFFFFF, 0x7F800000),
    "F16": ("u2", 0x7FFF, 0x7C00),
    "BF16": ("u2", 0x7FFF, 0x7F80),
    "F8_E5M2": ("u1", 0x7F, 0x7C),
    "F8_E4M3": ("u1", 0x7F, 0x7F),
}
BEYOND_FLOAT32 = 0x47EFFFFFF0000000  # bits of the least F64 that becomes infinite there
WHOLE = {"BOOL", "U8", "I8", "U16", "I16", "U32", "I32", "U64", "I64"}  # always finite
AT_ONCE = 2**22  # numbers read at a time


class Entry(NamedTuple):
    """A tensor in a header: type, shape, and the place of its bytes in the file."""

    dtype: str
    shape: tuple[int, ...]
    begin: int
    end: int


def special_files(folder: Path) -> list[str]:
    """Names in a folder that are neither regular files nor folders: opening one may never end."""
    found = []
    for entry in os.scandir(folder):
        try:
            mode = os.stat(entry.path).st_mode
        except OSError:
            mode = 0  # a link to nothing
        if not (stat.S_ISREG(mode) or stat.S_ISDIR(mode)):
            found.append(entry.name)
    return sorted(found)


def size_fault(path: Path) -> str | None:
    """Why a JSON or text file is too large to be read; None if it is not."""
    size, is_config = path.stat().st_size, path.name in ("config.json", INDEX)
    if size > (LARGEST_CONFIG if is_config else LARGEST_FILE):
        return f"{path.name} has {size:,} bytes, far too many"
    return None if path.suffix != ".json" else values_fault(path.read_bytes(), path.name)


def values_fault(content: bytes, name: str) -> str | None:
    """Why a JSON text holds too many values to be parsed; None if it does not."""
    most = MOST_SETTINGS if name == "config.json" else MOST_VALUES
    values = sum(map(content.count, (b",", b"[", b"{")))
    return f"{name} holds about {values:,} values, far too many" if values > most else None


def shards_of(index: Path) -> list[str]:
    """The files that an index of sharded weights names.

    Raises:
        InputError: it names something else than safetensors files of its own folder, or is damaged.
    """
    try:
        if not index.is_file():
            raise ValueError("not a regular file")
        if fault := size_fault(index):
            raise ValueError(fault)
        places = json.loads(index.read_text("utf-8"))["weight_map"]
        names = sorted(set(places.values()), key=str)
    except (OSError, ValueError, TypeError, KeyError, AttributeError, RecursionError) as error:
        raise InputError(
            f'{index.name} is damaged ({error!r:.200}): expected {{"weight_map": {{tensor: file}}}}'
        ) from error
    for name in names:
        if not isinstance(name, str) or SHARD.fullmatch(name) is None:
            raise InputError(
                f"{index.name} names {name!r}: expected safetensors files of its own folder "
                "(other weights are refused)"
            )
    if not names:
        raise InputError(f"{index.name} names no file")
    return names


def read_header(path: Path) -> dict[str, Entry]:
    """The tensors that a safetensors file holds, by name.

    Raises:
        InputError: the file is not a regular one, or its header is damaged.
    """
    try:
        if not stat.S_ISREG(os.stat(path).st_mode):
            raise ValueError("not a regular file")
        with path.open("rb") as file:
            length = int.from_bytes(file.read(8), "little")
            if length > LARGEST_CONFIG:
                raise ValueError(f"a header of {length} bytes")
            content = file.read(length)
        if fault := values_fault(content, "its header"):
            raise ValueError(fault)
        header = json.loads(content)
        size = path.stat().st_size - 8 - length
        entries = {}
        for name, value in header.items():
            if name != "__metadata__":
                begin, end = value["data_offsets"]
                entry = Entry(value["dtype"], tuple(value["shape"]), begin, end)
                if not (all(type(n) is int and n >= 0 for n in (begin, end, *entry.shape))):
                    raise ValueError(f"{name}: a shape or place that is none")
                if not begin <= end <= size:
                    raise ValueError(f"{name} ends behind the file")
                entries[name] = entry._replace(begin=begin + 8 + length, end=end + 8 + length)
    except (OSError, ValueError, TypeError, KeyError, AttributeError, RecursionError) as error:
        raise InputError(f"{path.name} is damaged ({error})") from error
    return entries


def not_finite(path: Path, *, as_float32: bool = False) -> list[str]:
    """Tensors of a safetensors file that hold NaN or infinite numbers, in order.

    Complex numbers and those of unknown types count as such. With `as_float32`, so do numbers that
    are too large for it.

    Raises:
        InputError: as in `read_header`.
    """
    import numpy as np  # here, as the commands' help needs none

    found = []
    for name, entry in sorted(read_header(path).items()):
        if entry.dtype in WHOLE or entry.begin == entry.end:
            continue
        if entry.dtype not in BITS:
            found.append(name)
            continue
        bits, unsigned, least = BITS[entry.dtype]
        if as_float32 and entry.dtype == "F64":
            least = BEYOND_FLOAT32
        raw = np.memmap(path, dtype=np.uint8, mode="r", offset=entry.begin)
        width = np.dtype(bits).itemsize
        numbers = (entry.end - entry.begin) // width
        values, mask = raw[: numbers * width].view(bits), np.array(unsigned, dtype=bits)
        parts = (values[at : at + AT_ONCE] for at in range(0, numbers, AT_ONCE))
        if any(bool(((part & mask) >= np.array(least, dtype=bits)).any()) for part in parts):
            found.append(name)
    return found


def check_tensors(paths: Sequence[Path]) -> dict[str, Entry]:
    """All tensors of the files of a model, none of which holds NaN or infinite numbers.

    Raises:
        InputError: a file is damaged, or a tensor holds such numbers.
    """
    entries: dict[str, Entry] = {}
    wrong = []
    for path in paths:
        entries |= read_header(path)
        wrong += not_finite(path, as_float32=True)
    if wrong:
        raise InputError(f"weights are NaN or infinite: {listed(wrong)}")
    return entries


def listed(names: Sequence[str]) -> str:
    """Names in one line, the first ten of many."""
    more = f" and {len(names) - 10} more" if len(names) > 10 else ""
    return ", ".join(sorted(names)[:10]) + more


def values_of(content: Any) -> Iterator[tuple[str, Any, bool]]:
    """(key, value, whether it is nested) of every dictionary in a JSON value, at any depth."""
    parts = [(content, False)]  # no recursion: a hostile value may be nested deeper than the stack
    while parts:
        part, nested = parts.pop()
        if isinstance(part, dict):
            for key, value in part.items():
                yield key, value, nested
                parts.append((value, True))
        elif isinstance(part, list):
            parts += [(value, True) for value in part]


def config_faults(content: Mapping[str, Any], tensors: Mapping[str, Entry]) -> list[str]:
    """Settings of config.json that no model with these tensors has; nothing is built for it.

    These are sizes beyond those of the tensors, NaN and infinite numbers, and kernels from
    elsewhere.
    """
    widest = max((n for entry in tensors.values() for n in entry.shape), default=0)
    most_layers = min(max(len(tensors), LAYERS_AT_LEAST), LAYERS_AT_MOST)
    most_labels = max(widest, LABELS_AT_LEAST)
    faults = []
    for key, value, _ in values_of(content):
        if isinstance(value, list):
            numbers = [number for number in value if isinstance(number, int | float)]
        else:
            numbers = [value] if isinstance(value, int | float) else []
        size = len(value) if isinstance(value, dict | list) else value
        if any(isinstance(n, float) and not math.isfinite(n) for n in numbers) or (
            key == "__float__" and value in ("NaN", "Infinity", "-Infinity")
        ):
            faults.append(f"{key} is {value!r:.60}: expected a finite number")
        elif LAYERS.fullmatch(key) and any(n > most_layers for n in numbers):
            faults.append(f"{key} is {value!r:.60}, but the weights hold {len(tensors)} tensors")
        elif key in LABELS and isinstance(size, int) and size > most_labels:
            faults.append(f"{key} has {size} entries, but no tensor of the weights has so many")
        elif EPSILONS.fullmatch(key) and any(not 0 <= n < 1 for n in numbers):
            faults.append(f"{key} is {value!r:.60}: expected a number in [0, 1)")
        elif key in KERNELS and re.search(r"[/\\:]", json.dumps(value)):
            faults.append(f"{key} names code of another repository or folder ({value!r})")
    return faults + label_faults(content, tensors)


def label_faults(content: Mapping[str, Any], tensors: Mapping[str, Entry]) -> list[str]:
    """Labels of config.json whose number is not that of the tensors."""
    faults = []
    for key, tensor, axis in (
        ("id2label", "classifier.weight", 0),
        ("descriptions", "type_vectors", 1),
    ):
        labels, entry = content.get(key), tensors.get(tensor)
        if not isinstance(labels, dict) or entry is None or len(entry.shape) <= axis:
            continue
        if len(labels) != entry.shape[axis]:
            faults.append(
                f"{key} has {len(labels)} entries, but {tensor} has the shape {entry.shape}"
            )
    return faults


def number_of(entries: Mapping[str, Entry]) -> int:
    """How many numbers tensors hold."""
    return sum(math.prod(entry.shape) for entry in entries.values())


def refuse_label_smoothing() -> None:
    """Raise InputError if a Trainer calls the model without labels to smooth them itself.

    A Trainer with `label_smoothing_factor` takes the labels out of the batch and computes the
    cross-entropy of `logits`, whatever loss the model has; only the Trainer knows. A caller with
    another purpose, such as a loss of its own, is left alone.
    """
    frame: Any = sys._getframe(1)
    while frame is not None:
        if frame.f_code.co_name == "compute_loss":
            trainer = frame.f_locals.get("self")
            if (
                getattr(trainer, "label_smoother", None) is not None
                and getattr(trainer, "compute_loss_func", None) is None
            ):
                raise InputError(
                    "label_smoothing_factor is not 0: it would replace this model's loss by the "
                    "cross-entropy of each token; set it to 0"
                )
        frame = frame.f_back


@contextmanager
def in_evaluation(model: Any) -> Iterator[None]:
    """Context without dropout: a model may be in training while a pipeline uses it."""
    was_training = model.training
    if was_training:
        model.eval()
    try:
        yield
    finally:
        if was_training:
            model.train()


# -------------------------------------------------------------------------------------- precision
def precision_for(name: str, device: Any) -> str:
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


def computes_in_bfloat16(device: Any) -> bool:
    """Whether a device has instructions for bfloat16: on x86, AVX512-BF16 (AMX implies it)."""
    import torch

    kind = torch.device(device).type
    if kind == "cuda":
        return torch.cuda.is_bf16_supported(including_emulation=False)
    try:
        return kind == "cpu" and "avx512_bf16" in Path("/proc/cpuinfo").read_text("utf-8")
    except OSError:  # not Linux
        return False
