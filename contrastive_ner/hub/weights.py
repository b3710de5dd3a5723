"""The weights of a model repository: whether they are whole, and their hash."""

import hashlib
from pathlib import Path
from typing import Any

from contrastive_ner.files import sha256
from contrastive_ner.logs import quiet_libraries
from contrastive_ner.models.checks_ner import (
    INDEX,
    config_faults,
    listed,
    not_finite,
    read_header,
    shards_of,
)
from contrastive_ner.models.windows_ner import InputError


def weight_faults(folder: Path) -> list[str]:
    """Weight files that are damaged, or an index that does not fit them. Reads headers only."""
    from safetensors import SafetensorError, safe_open

    faults = []
    for path in sorted(folder.glob("*.safetensors")):
        try:
            read_header(path)
            with safe_open(path, "pt") as file:
                file.keys()
        except InputError as error:
            faults.append(str(error))
        except (SafetensorError, OSError, ValueError) as error:
            faults.append(f"{path.name} is damaged ({error})")
    if not faults and (folder / INDEX).exists():
        try:
            named, present = set(shards_of(folder / INDEX)), set(names_of_weights(folder))
        except InputError as error:
            return [str(error)]
        faults += [f"{INDEX} names {name}: no such file" for name in sorted(named - present)]
        faults += [f"{INDEX} does not name {name}" for name in sorted(present - named)]
    return faults


def names_of_weights(folder: Path) -> list[str]:
    """The safetensors files of a folder."""
    return sorted(path.name for path in folder.glob("*.safetensors"))


def weights_sha256(folder: Path) -> str:
    """SHA-256 of a model's weights; of sharded ones, of the names and hashes of the files."""
    names = names_of_weights(folder)
    if names == ["model.safetensors"]:
        return sha256(folder / names[0])
    lines = "".join(f"{sha256(folder / name)}  {name}\n" for name in names)
    return hashlib.sha256(lines.encode()).hexdigest()


def tensor_faults(folder: Path, config: dict[str, Any], *, is_own_code: bool = True) -> list[str]:
    """NaN and infinite weights, missing ones, and settings that do not fit the weights.

    Reads every number once, and builds the model without memory for its weights.

    Args:
        config: content of config.json, with the `model_type` of a model of this project.
        is_own_code: whether the folder's code is this project's; otherwise nobody knows which
            weights belong to the model, and none are missed.
    """
    from contrastive_ner.models import model_class
    from contrastive_ner.models.encoder_ner import check_window

    quiet_libraries()
    files = [folder / name for name in names_of_weights(folder)]
    wrong = [name for path in files for name in not_finite(path, as_float32=True)]
    if wrong:
        return [f"weights are NaN or infinite: {listed(wrong)}"]
    tensors = {name: entry for path in files for name, entry in read_header(path).items()}
    faults = [f"config.json: {fault}" for fault in config_faults(config, tensors)]
    if faults or not is_own_code:
        return faults
    try:
        model = model_class(config["model_type"]).from_pretrained(folder, device_map="meta")
        check_window(model.config)
    except Exception as error:  # hostile settings can raise anything
        said = " ".join(str(error).split())
        return [f"the model cannot be built: {said.removeprefix(f'{folder}: '):.500}"]
    return []
