"""BINDER's entity types: token ids of their descriptions, and sets of encoded types.

This file travels with the weights.
"""

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor
from transformers import PreTrainedConfig

from .encoder_ner import longest_input
from .windows_ner import InputError


@dataclass(frozen=True)
class TypeEmbeddings:
    """Encoded entity types, which the model compares spans with.

    Args:
        descriptions: {label: text}, in the order of the vectors.
        vectors: (3, E, D) unit vectors for starts, ends, spans.
        fingerprint: of the weights that encoded them (`BinderModel.type_fingerprint`); a model
            with other weights refuses them.
        fitted: {label: fingerprint of the weights whose spans its vector was fitted to}, of the
            types that are not found by their description (`BinderModel.fit_label`).
    """

    descriptions: dict[str, str]
    vectors: Tensor
    fingerprint: str
    fitted: dict[str, str] = field(default_factory=dict)

    @property
    def labels(self) -> list[str]:
        """The entity types, in the order of the vectors."""
        return list(self.descriptions)

    def __len__(self) -> int:
        return len(self.descriptions)

    def add(self, other: "TypeEmbeddings") -> "TypeEmbeddings":
        """These types followed by those of another set.

        Raises:
            InputError: a label is in both sets, or they were encoded by different weights.
        """
        if other.fingerprint != self.fingerprint:
            raise InputError(
                "the types were encoded by other weights: encode them again with this model"
            )
        twice = sorted(set(self.descriptions) & set(other.descriptions))
        if twice:
            raise InputError(f"entity type {', '.join(twice)} is there already: remove it first")
        vectors = torch.cat([self.vectors, other.vectors.to(self.vectors)], dim=1)
        return TypeEmbeddings(
            {**self.descriptions, **other.descriptions},
            vectors,
            self.fingerprint,
            {**self.fitted, **other.fitted},
        )

    def remove(self, *labels: str) -> "TypeEmbeddings":
        """These types without `labels`.

        Raises:
            InputError: a label is not in the set.
        """
        unknown = sorted(set(labels) - set(self.descriptions))
        if unknown:
            raise InputError(
                f"entity type {', '.join(unknown)} is not there: "
                f"expected one of {', '.join(self.labels)}"
            )
        kept = [number for number, label in enumerate(self.labels) if label not in labels]
        return TypeEmbeddings(
            {self.labels[i]: self.descriptions[self.labels[i]] for i in kept},
            self.vectors[:, kept],
            self.fingerprint,
            {label: own for label, own in self.fitted.items() if label not in labels},
        )

    def save(self, path: str | Path) -> None:
        """Write the types to a safetensors file."""
        metadata = {
            "descriptions": json.dumps(self.descriptions, ensure_ascii=False),
            "fingerprint": self.fingerprint,
            "fitted": json.dumps(self.fitted, ensure_ascii=False),
        }
        save_file(
            {"vectors": self.vectors.detach().cpu().contiguous()}, str(path), metadata=metadata
        )

    @classmethod
    def load(
        cls, path: str | Path, descriptions: Mapping[str, str] | None = None
    ) -> "TypeEmbeddings":
        """Read a file written by `save`.

        Args:
            descriptions: the expected {label: text}; a file made from other descriptions is
                refused.

        Raises:
            InputError: the file is missing, holds no types, or holds other types than expected.
        """
        try:
            with safe_open(str(path), framework="pt") as file:
                metadata, vectors = file.metadata() or {}, file.get_tensor("vectors")
            fitted = json.loads(metadata.get("fitted", "{}"))
            descriptions_found = json.loads(metadata["descriptions"])
            found = cls(descriptions_found, vectors, metadata["fingerprint"], fitted)
        except (OSError, SafetensorError, KeyError, ValueError) as error:
            raise InputError(
                f"{path}: no encoded types (expected a file written by TypeEmbeddings.save): "
                f"{error}"
            ) from error
        if vectors.dim() != 3 or vectors.shape[:2] != (3, len(found)):
            raise InputError(
                f"{path}: expected vectors of shape (3, {len(found)}, size) for {len(found)} "
                f"types, found {tuple(vectors.shape)}"
            )
        wanted = found.descriptions if descriptions is None else descriptions
        differing = sorted(
            k for k in {*wanted, *found.descriptions} if wanted.get(k) != found.descriptions.get(k)
        )
        if differing:
            raise InputError(
                f"{path} is stale: it was made from other descriptions of "
                f"{', '.join(differing)}; encode them again"
            )
        return found


def check_descriptions(descriptions: Any) -> None:
    """Raise `InputError` unless `descriptions` is {label: [text, ...]} without blank texts."""
    if not isinstance(descriptions, Mapping):
        raise InputError(
            f"descriptions is a {type(descriptions).__name__}: "
            "expected {entity type: [text, ...]}"
        )
    for label, texts in descriptions.items():
        if not isinstance(label, str) or not label or re.search("[\t\r\n\0]", label):
            raise InputError(f"entity type {label!r}: expected a name in one line, without tabs")
        if not isinstance(texts, list) or not texts:
            raise InputError(
                f"the texts of entity type {label!r} are {texts!r}: "
                "expected a list of at least one text"
            )
        for text in texts:
            if not isinstance(text, str) or not text.strip():
                raise InputError(
                    f"entity type {label!r} is described by {text!r}: "
                    "expected a text that says what it is"
                )


def description_ids(
    tokenizer: Any, label: str, texts: Sequence[str], config: PreTrainedConfig
) -> list[list[int]]:
    """Token ids of each description of a type.

    Args:
        tokenizer: of the type encoder, whose configuration is `config`.
        label: the type, for the error.

    Raises:
        InputError: a text is longer than the encoder's input.
    """
    longest = longest_input(config, tokenizer)
    # As `TextReader` reads texts.
    readable = [re.sub("[\ud800-\udfff]", "\ufffd", text) for text in texts]
    rows = [tokenizer(text)["input_ids"] for text in readable]
    for row in rows:
        if len(row) > longest:
            raise InputError(
                f"a description of {label!r} has {len(row)} tokens: "
                f"expected at most {longest}, the longest input of the encoder"
            )
    return rows
