"""Adapters (peft): their files before anything is loaded, and the weights that are in force.

This file travels with the weights. It imports no peft: a model without adapters needs none.
"""

import hashlib
import json
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from safetensors import safe_open
from torch import Tensor, nn
from transformers.utils import cached_file, is_peft_available

from .checks_ner import LARGEST_CONFIG, check_tensors, config_faults, read_header, values_of
from .windows_ner import InputError

ADAPTER_CONFIG, ADAPTER_WEIGHTS = "adapter_config.json", "adapter_model.safetensors"
# Settings of adapter_config.json with which peft imports code that it names.
FOREIGN_CODE = ("megatron_config",)
# Attributes of a layer with adapters that decide which of its weights count.
SWITCHES = ("_disable_adapters", "_active_adapter", "merged_adapters", "scaling")


# ------------------------------------------------------------------------------------------- files
def find_file(place: Any, name: str, where: dict[str, Any]) -> Path | None:
    """A file of a folder or of a repository on the Hub; None if it is not there."""
    found = cached_file(
        place,
        name,
        _raise_exceptions_for_missing_entries=False,
        _raise_exceptions_for_gated_repo=False,
        _raise_exceptions_for_connection_errors=False,
        **where,
    )
    return None if found is None else Path(found)


def is_adapter(place: Any, where: dict[str, Any]) -> bool:
    """Whether a folder or a repository holds an adapter and no complete model.

    Without peft no repository is asked.
    """
    if not (Path(place) / where.get("subfolder", "")).is_dir() and not is_peft_available():
        return False
    if find_file(place, ADAPTER_CONFIG, where) is None:
        return False
    return find_file(place, "config.json", where) is None


def check_adapter(place: Any, where: dict[str, Any]) -> str:
    """The base model that an adapter names, after a check of its files.

    Raises:
        InputError: there is no peft; the weights are pickled, damaged or not finite; the
            configuration names no base model, imports code, or does not fit the weights.
    """
    if not is_peft_available():
        raise InputError(f"{place} is an adapter: install peft to use it")
    config, weights = (find_file(place, name, where) for name in (ADAPTER_CONFIG, ADAPTER_WEIGHTS))
    if config is None or weights is None:
        raise InputError(
            f"{place}: an adapter needs {ADAPTER_CONFIG} and {ADAPTER_WEIGHTS} "
            "(pickled weights are refused)"
        )
    try:
        if config.stat().st_size > LARGEST_CONFIG:
            raise ValueError("far too large")
        content = json.loads(config.read_text("utf-8"))
        base = content["base_model_name_or_path"]
    except (OSError, ValueError, TypeError, KeyError, RecursionError) as error:
        raise InputError(f"{place}: {ADAPTER_CONFIG} is damaged ({error!r:.200})") from error
    if not isinstance(base, str) or not base.strip():
        raise InputError(
            f"{place}: {ADAPTER_CONFIG} names no base model (base_model_name_or_path is {base!r}): "
            "load the base model, then the adapter with model.load_adapter"
        )
    tensors = check_tensors([weights])
    faults = config_faults(content, tensors)
    faults += [f"{name} names code to import" for name in FOREIGN_CODE if content.get(name)]
    most = max((n for entry in tensors.values() for n in entry.shape), default=0)
    ranks = [content.get("r"), *(value for _, value, _ in values_of(content.get("rank_pattern")))]
    if any(isinstance(rank, int | float) and rank > most for rank in ranks):
        faults.append(f"a rank is above {most}, the largest dimension of its tensors")
    if faults:
        raise InputError(f"{place}: {ADAPTER_CONFIG} does not fit: {'; '.join(faults)}")
    return base


# -------------------------------------------------------------------------------- weights in force
def has_switches(module: nn.Module) -> bool:
    """Whether a module is a layer with adapters, or a module trained next to them, of peft."""
    return hasattr(type(module), "merged_adapters")


def switches(module: nn.Module) -> str:
    """Which adapters of a layer are active, merged and how strong, as text."""
    return repr([getattr(module, name, None) for name in SWITCHES])


def weights_in_force(module: nn.Module, prefix: str = "") -> Iterator[tuple[str, Any]]:
    """(name, value) of a module's state; of a layer whose adapters are off, only its own weights.

    Names then are those that they have without adapters, so that a model whose adapters are off
    has the same state as one without.
    """
    if not any(has_switches(part) for part in module.modules()):
        for name, value in module.state_dict().items():
            yield prefix + name, value
        return
    if has_switches(module):
        own = getattr(module, "base_layer", None)
        own = getattr(module, "original_module", None) if own is None else own
        is_off = getattr(module, "_disable_adapters", False) or not module._active_adapter
        if own is not None and is_off and not module.merged_adapters:
            yield from weights_in_force(own, prefix)
            return
        yield f"{prefix}adapters", switches(module)
    for name, value in (*module._parameters.items(), *module._buffers.items()):
        if value is not None and name not in module._non_persistent_buffers_set:
            yield prefix + name, value
    for name, child in module._modules.items():
        if child is not None:
            yield from weights_in_force(child, f"{prefix}{name}.")


def weights_digest(*modules: nn.Module) -> str:
    """SHA-256 of the modules' weights in force, in float32, as hexadecimal digits."""
    digest = hashlib.sha256()
    for module in modules:
        for name, value in sorted(weights_in_force(module), key=lambda item: item[0]):
            digest.update(name.encode())
            digest.update(as_bytes(value))
    return digest.hexdigest()


def as_bytes(value: Any) -> bytes:
    """A tensor's numbers in float32; what else a state holds, such as packed weights, as text."""
    if not isinstance(value, Tensor):
        if isinstance(value, tuple | list):
            return b"".join(map(as_bytes, value))
        return repr(value).encode()
    value = value.detach()
    value = value.dequantize() if value.is_quantized else value
    return value.float().cpu().contiguous().numpy().tobytes()


def files_digest(paths: Sequence[Path], *prefixes: str) -> str:
    """`weights_digest` of modules in safetensors files, where their names begin with `prefixes`."""
    places = {name: path for path in paths for name in read_header(path)}
    digest = hashlib.sha256()
    with ExitStack() as stack:
        files = {p: stack.enter_context(safe_open(str(p), framework="pt")) for p in paths}
        for prefix in prefixes:
            for name in sorted(name for name in places if name.startswith(prefix)):
                digest.update(name.removeprefix(prefix).encode())
                digest.update(as_bytes(files[places[name]].get_tensor(name)))
    return digest.hexdigest()


class WeightsState(NamedTuple):
    """What tells that weights were changed, without reading them all.

    `marks`: place, version and type of every tensor, and the switches of adapters. `samples`: some
    numbers of each tensor (n,); they show changes that no mark shows, such as those of fused
    optimisers and of peft when it merges.
    """

    marks: tuple
    samples: np.ndarray

    def same(self, other: "WeightsState | None") -> bool:
        """Whether nothing was changed."""
        return (
            other is not None
            and self.marks == other.marks
            and self.samples.tobytes() == other.samples.tobytes()
        )

    def is_copy_of(self, other: "WeightsState") -> bool:
        """Whether the weights are the same in another place, or of another type and rounded."""
        if self.samples.shape != other.samples.shape:
            return False
        (own_types, own_switches), (types, other_switches) = self.kinds, other.kinds
        if own_switches != other_switches:
            return False
        if own_types == types:
            return self.samples.tobytes() == other.samples.tobytes()
        return bool(np.allclose(self.samples, other.samples, rtol=1e-2, atol=1e-6))

    @property
    def kinds(self) -> tuple[list[Any], list[str]]:
        """The type of each tensor, and the switches of adapters."""
        switched = [mark for mark in self.marks if isinstance(mark, str)]
        return [mark[-1] for mark in self.marks if not isinstance(mark, str)], switched


def weights_state(*modules: nn.Module) -> WeightsState:
    """The state of modules' weights: a few milliseconds for an encoder of 100 M numbers."""
    marks: list[Any] = []
    samples: dict[torch.device, list[Tensor]] = {}
    for module in modules:
        for part in module.modules():
            if has_switches(part):
                marks.append(switches(part))
            for tensor in (*part._parameters.values(), *part._buffers.values()):
                if tensor is None:
                    continue
                marks.append((place_of(tensor), version_of(tensor), tensor.dtype))
                if can_be_sampled(tensor):
                    some = tensor.detach().view(-1)[:: max(tensor.numel() // 4, 1)]
                    some = some.float() if tensor.dtype.itemsize < 2 else some
                    samples.setdefault(tensor.device, []).append(some)
    found = [torch.cat(own).float().cpu().numpy() for own in samples.values()]
    return WeightsState(tuple(marks), np.concatenate(found) if found else np.zeros(0, np.float32))


def can_be_sampled(tensor: Tensor) -> bool:
    """Whether numbers of a tensor can be read one by one; those of most quantised ones cannot."""
    return (
        type(tensor) in (Tensor, nn.Parameter)
        and tensor.is_floating_point()
        and tensor.is_contiguous()
        and not tensor.is_meta
        and tensor.numel() > 0
    )


def place_of(tensor: Tensor) -> int:
    """Where a tensor's numbers are in memory; some quantised tensors have no single place."""
    try:
        return tensor.data_ptr()
    except (RuntimeError, NotImplementedError):
        return id(tensor)


def version_of(tensor: Tensor) -> int:
    """How often a tensor was changed in place; 0 in inference mode, where it is not counted."""
    return 0 if tensor.is_inference() else tensor._version
