"""Batch-independent criteria of stage one: how well encoded tokens separate the entity types.

Every dev token is classified by training tokens in the embedding space, by its k nearest neighbours
or by class means (prototypes). Unlike the loss, the result does not depend on which sentences share
a batch.
"""

from collections.abc import Iterator, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader

from contrastive_ner.training.batches import model_inputs
from contrastive_ner.training.losses import OUTSIDE


def knn_classes(queries: Tensor, references: Tensor, classes: Tensor, *, neighbours: int) -> Tensor:
    """Class of each query by majority vote of its nearest references in cosine similarity.

    Ties go to the nearer class. queries (Q, D), references (R, D), classes (R,) -> (Q,).
    """
    queries, references = (
        nn.functional.normalize(queries, dim=-1),
        nn.functional.normalize(references, dim=-1),
    )
    count = int(classes.max()) + 1
    found = []
    for block in queries.split(4096):
        similarity, index = (block @ references.T).topk(
            min(neighbours, len(references)), dim=1
        )  # (q, k)
        # A vote is 1 plus a small multiple of the similarity; summed over all neighbours, this is
        # less than one vote, so it only decides ties.
        votes = torch.zeros(len(block), count, device=block.device)
        votes.scatter_add_(1, classes[index], 1.0 + similarity / (4.0 * neighbours))
        found.append(votes.argmax(1))
    return torch.cat(found)


def prototype_classes(queries: Tensor, references: Tensor, classes: Tensor) -> Tensor:
    """Class of each query by the nearest class mean in cosine; shapes as in `knn_classes`."""
    references = nn.functional.normalize(references, dim=-1)
    present = classes.unique()
    means = torch.stack([references[classes == c].mean(0) for c in present])  # (C, D)
    similarity = (
        nn.functional.normalize(queries, dim=-1) @ nn.functional.normalize(means, dim=-1).T
    )  # (Q, C)
    return present[similarity.argmax(1)]


def token_f1(predicted: Tensor, gold: Tensor) -> float:
    """Micro F1 of predicted token classes (N,) over the entity classes; O is not counted."""
    correct = int(((predicted == gold) & (gold != OUTSIDE)).sum())
    total = int((predicted != OUTSIDE).sum()) + int((gold != OUTSIDE).sum())
    return 2 * correct / total if total else 0.0


@torch.no_grad()
def embed_tokens(
    model: nn.Module, features: Any, collator: Any, label_classes: Sequence[int], batch_size: int
) -> tuple[Tensor, Tensor]:
    """Encoder output (N, D), in float32, and classes (N,) of all labelled tokens.

    Sets the model to evaluation mode.

    Args:
        model: a model whose output has `last_hidden_state`.
        features: those of `tag_features`.
        collator: turns features into batches, such as `TagCollator`.
        label_classes: class of each label id (`losses.semantic_classes`).
        batch_size: features per batch.
    """
    model.eval()
    device = next(model.parameters()).device
    embeddings, classes = [], []
    for batch in DataLoader(features, collate_fn=collator, batch_size=batch_size):
        batch = {name: tensor.to(device) for name, tensor in batch.items()}
        hidden = model(**model_inputs(batch)).last_hidden_state  # (B, T, D)
        own = classes_of(batch["labels"], label_classes)  # (B, T)
        embeddings.append(hidden[own >= 0].float())
        classes.append(own[own >= 0])
    return torch.cat(embeddings), torch.cat(classes)


def chunks_of(inputs: dict[str, Tensor], size: int) -> Iterator[dict[str, Tensor]]:
    """Split a batch into parts of `size` rows, without columns that are padding in all of them.

    Each part has all the words of the batch.
    """
    width = inputs["labels"].shape[1]
    for first in range(0, len(inputs["labels"]), size):
        rows, columns = slice(first, first + size), slice(width)
        if "attention_mask" in inputs:
            filled = inputs["attention_mask"][rows].bool().any(0).nonzero()
            columns = slice(int(filled[0, 0]), int(filled[-1, 0]) + 1)
        yield {
            name: tensor
            if name in ("word_chars", "word_types")
            else tensor[rows, columns]
            if tensor.shape[1:2] == (width,) and name != "lattice_words"
            else tensor[rows]
            for name, tensor in inputs.items()
        }


def classes_of(labels: Tensor, label_classes: Sequence[int]) -> Tensor:
    """Class of each label id, in any shape; -1 where the label is -100."""
    classes = torch.tensor(label_classes, device=labels.device)[labels.clamp_min(0)]
    return classes.masked_fill(labels < 0, -1)
