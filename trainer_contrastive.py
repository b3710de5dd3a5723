"""Stage one of NerCo: a Trainer that pulls together encoded tokens of one entity type and pushes apart the rest.

Sections: arguments, batches, batch-independent criteria (k-NN, prototypes), the Trainer.
The model is a `NercoModel` (any model whose output has `last_hidden_state` will do); the data are `data_ner.training_features`.

Gradient accumulation does not enlarge a contrastive batch: k accumulated batches are k separate contrasts. Raise the batch size instead.
"""

from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from itertools import islice
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader, Sampler
from transformers import Trainer, TrainingArguments
from transformers.trainer_utils import EvalLoopOutput

from losses_contrastive import OUTSIDE, pairwise_contrastive_loss, supervised_contrastive_loss

CRITERIA = {"knn": "eval_knn_f1", "prototype": "eval_prototype_f1", "loss": "eval_loss"}


# ------------------------------------------------------------------------------------------------------------- arguments
@dataclass
class ContrastiveTrainingArguments(TrainingArguments):
    """`TrainingArguments` of stage one."""

    contrastive_loss: str = field(default="nerco", metadata={"help": "nerco (pairwise, the paper's) or supcon (Khosla et al.)"})
    contrastive_temperature: float = field(default=0.08, metadata={"help": "divides the cosine (paper: 0.07 to 0.08)"})
    with_o: bool = field(default=False, metadata={"help": "O tokens are anchors and positives, too (paper: no)"})
    class_reduction: str = field(default="sum", metadata={"help": "sum (the paper's) or mean over the classes"})
    freeze_layers: int = field(default=0, metadata={"help": "freeze the embeddings and the lowest N layers; 0: nothing"})
    knn_neighbours: int = field(default=10, metadata={"help": "neighbours of the k-NN criterion"})
    reference_tokens: int = field(default=20000, metadata={"help": "training tokens that the criteria compare dev tokens with"})

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.contrastive_loss not in ("nerco", "supcon"):
            raise ValueError(f"contrastive_loss is {self.contrastive_loss!r}: expected nerco or supcon")
        if not self.contrastive_temperature > 0:
            raise ValueError(f"contrastive_temperature is {self.contrastive_temperature}: expected a positive number")
        if self.class_reduction not in ("sum", "mean"):
            raise ValueError(f"class_reduction is {self.class_reduction!r}: expected sum or mean")


def freeze_lowest_layers(encoder: Any, count: int) -> None:
    """Freeze an encoder's embeddings and its lowest `count` layers; 0 freezes nothing.

    Raises:
        ValueError: `count` is negative, exceeds the number of layers, or leaves nothing to train.
    """
    layers = max((m for m in encoder.modules() if isinstance(m, nn.ModuleList)), key=len, default=nn.ModuleList())
    if not 0 <= count <= len(layers):
        raise ValueError(f"stage1_freeze_layers is {count}: expected 0 to {len(layers)}, the encoder's number of layers")
    if count and len(layers) != encoder.config.num_hidden_layers:
        raise ValueError(f"{type(encoder).__name__} shares its layers: they cannot be frozen one by one; set stage1_freeze_layers=0")
    if count:
        frozen = [encoder.get_input_embeddings(), *layers[:count]]
        frozen += [child for name, child in encoder.named_children() if "embedding" in name]
        for parameter in (p for module in frozen for p in module.parameters()):
            parameter.requires_grad = False
    if not any(parameter.requires_grad for parameter in encoder.parameters()):
        raise ValueError(f"stage1_freeze_layers is {count}: no parameter is left to train; stage one trains the encoder")


# --------------------------------------------------------------------------------------------------------------- batches
def contrastive_batches(sentences: Sequence[Sequence[int]], batch_size: int, seed: int, epoch: int) -> list[list[int]]:
    """An epoch's batches of sentence numbers: a pure function of its arguments, every sentence once, sizes equal up to one.

    Where the data allow, each batch offers at least two tokens of one entity class: a sentence that has them by itself, or two
    sentences that share a class. Sentences of similar length tend to share a batch, which saves padding.

    Args:
        sentences: the classes (0 = O) of each sentence's tokens.
    """
    generator = torch.Generator().manual_seed(seed * 1_000_003 + epoch)
    count = -(-len(sentences) // batch_size)
    # Length times a random factor: the neighbourhood of a sentence is another one in every epoch.
    factors = (0.3 * torch.randn(len(sentences), generator=generator)).exp().tolist()
    keys = [(len(classes) + 1) * factor for classes, factor in zip(sentences, factors, strict=True)]
    units = _pair_units(sentences, torch.randperm(len(sentences), generator=generator).tolist())[:count]
    sizes = [len(sentences) // count + (i < len(sentences) % count) for i in range(count)]
    units = sorted(units, key=lambda unit: (-len(unit), keys[unit[0]])) + [[] for _ in range(count - len(units))]
    # A batch of one sentence cannot take a pair of sentences.
    batches = [[*unit] if len(unit) <= size else [] for unit, size in zip(units, sizes, strict=True)]
    used = {number for batch in batches for number in batch}
    rest = iter(sorted((number for number in range(len(sentences)) if number not in used), key=keys.__getitem__))
    for batch, size in zip(batches, sizes, strict=True):
        batch.extend(islice(rest, size - len(batch)))
    return [batches[i] for i in torch.randperm(count, generator=generator).tolist()]


def _pair_units(sentences: Sequence[Sequence[int]], order: Sequence[int]) -> list[list[int]]:
    """Groups of one or two sentences that offer two tokens of an entity class; single sentences first, else in `order`."""
    singles: list[list[int]] = []
    pairs: list[list[int]] = []
    waiting: dict[int, int] = {}  # class -> a sentence with one token of it
    for number in order:
        classes = [c for c in sentences[number] if c > OUTSIDE]
        if len(set(classes)) < len(classes):
            singles.append([number])
            continue
        partner = next((waiting[c] for c in classes if c in waiting), None)
        if partner is not None:
            pairs.append([partner, number])
            waiting = {c: other for c, other in waiting.items() if other != partner}
        else:
            waiting |= dict.fromkeys(classes, number)
    return singles + pairs


class ContrastiveBatchSampler(Sampler[list[int]]):
    """`contrastive_batches` for a DataLoader; `set_epoch` is called by the Trainer."""

    def __init__(self, sentences: Sequence[Sequence[int]], batch_size: int, seed: int) -> None:
        self.sentences, self.batch_size, self.seed, self.epoch = sentences, batch_size, seed, 0
        self.drop_last = False  # read by accelerate

    def set_epoch(self, epoch: int) -> None:
        self.epoch = epoch

    def __iter__(self) -> Iterator[list[int]]:
        yield from contrastive_batches(self.sentences, self.batch_size, self.seed, self.epoch)

    def __len__(self) -> int:
        return -(-len(self.sentences) // self.batch_size)


# -------------------------------------------------------------------------------------------------------------- criteria
def knn_classes(queries: Tensor, references: Tensor, classes: Tensor, *, neighbours: int) -> Tensor:
    """Class of each query by majority of its nearest references in cosine; ties go to the nearer class.

    queries (Q, D), references (R, D), classes (R,) -> (Q,).
    """
    queries, references = nn.functional.normalize(queries, dim=-1), nn.functional.normalize(references, dim=-1)
    count = int(classes.max()) + 1
    found = []
    for block in queries.split(4096):
        similarity, index = (block @ references.T).topk(min(neighbours, len(references)), dim=1)  # (q, k)
        # Each vote is 1 plus a little similarity: less than any vote in sum, it decides ties only.
        votes = torch.zeros(len(block), count, device=block.device)
        votes.scatter_add_(1, classes[index], 1.0 + similarity / (4.0 * neighbours))
        found.append(votes.argmax(1))
    return torch.cat(found)


def prototype_classes(queries: Tensor, references: Tensor, classes: Tensor) -> Tensor:
    """Class of each query by the nearest class mean in cosine. Shapes as in `knn_classes`."""
    references = nn.functional.normalize(references, dim=-1)
    present = classes.unique()
    means = torch.stack([references[classes == c].mean(0) for c in present])  # (C, D)
    similarity = nn.functional.normalize(queries, dim=-1) @ nn.functional.normalize(means, dim=-1).T  # (Q, C)
    return present[similarity.argmax(1)]


def token_f1(predicted: Tensor, gold: Tensor) -> float:
    """Micro F1 of token classes over the entity classes (O is no class to find)."""
    correct = int(((predicted == gold) & (gold != OUTSIDE)).sum())
    total = int((predicted != OUTSIDE).sum()) + int((gold != OUTSIDE).sum())
    return 2 * correct / total if total else 0.0


@torch.no_grad()
def embed_tokens(model: nn.Module, features: Any, collator: Any, label_classes: Sequence[int], batch_size: int) -> tuple[Tensor, Tensor]:
    """Encoder output and classes of all labelled tokens: (N, D) float32, (N,). The model is set to evaluation mode."""
    model.eval()
    device = next(model.parameters()).device
    embeddings, classes = [], []
    for batch in DataLoader(features, collate_fn=collator, batch_size=batch_size):
        batch = {name: tensor.to(device) for name, tensor in batch.items()}
        hidden = model(input_ids=batch["input_ids"], attention_mask=batch["attention_mask"]).last_hidden_state  # (B, T, D)
        own = classes_of(batch["labels"], label_classes)  # (B, T)
        embeddings.append(hidden[own >= 0].float())
        classes.append(own[own >= 0])
    return torch.cat(embeddings), torch.cat(classes)


def classes_of(labels: Tensor, label_classes: Sequence[int]) -> Tensor:
    """Classes of label ids, any shape; -1 where the label is -100."""
    classes = torch.tensor(label_classes, device=labels.device)[labels.clamp_min(0)]
    return classes.masked_fill(labels < 0, -1)


# --------------------------------------------------------------------------------------------------------------- trainer
class ContrastiveTrainer(Trainer):
    """Trains an encoder by contrast.

    Args (beyond `Trainer`'s):
        label_classes: class of each label id in the features' `labels`: 0 for O, 1.. for entity types
            (`losses_contrastive.semantic_classes`).

    Evaluation reports `eval_knn_f1` and `eval_prototype_f1` (token types of the dev set against training tokens; independent of
    batches) and `eval_loss` (which is not: it depends on what shares a batch).
    """

    def __init__(self, *args: Any, label_classes: Sequence[int], **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        if not isinstance(self.args, ContrastiveTrainingArguments):
            raise ValueError(f"args is a {type(self.args).__name__}: expected ContrastiveTrainingArguments")
        self.label_classes = list(label_classes)
        freeze_lowest_layers(self.model.encoder, self.args.freeze_layers)

    def contrastive_loss(self, embeddings: Tensor, classes: Tensor) -> Tensor:
        """The configured loss: (..., D), (...) -> scalar."""
        shared = {"temperature": self.args.contrastive_temperature, "with_o": self.args.with_o}
        if self.args.contrastive_loss == "supcon":
            return supervised_contrastive_loss(embeddings, classes, **shared)
        return pairwise_contrastive_loss(embeddings, classes, reduction=self.args.class_reduction, **shared)

    def compute_loss(self, model: nn.Module, inputs: dict, return_outputs: bool = False, **_: Any) -> Any:
        outputs = model(input_ids=inputs["input_ids"], attention_mask=inputs["attention_mask"])
        loss = self.contrastive_loss(outputs.last_hidden_state, classes_of(inputs["labels"], self.label_classes))
        return (loss, outputs) if return_outputs else loss

    def _plain_loader(self, dataset: Any, **sampling: Any) -> DataLoader:
        return DataLoader(dataset, collate_fn=self.data_collator, pin_memory=self.args.dataloader_pin_memory, **sampling)

    def get_train_dataloader(self) -> DataLoader:
        sentences = [[self.label_classes[label] for label in feature["labels"] if label >= 0] for feature in self.train_dataset]
        sampler = ContrastiveBatchSampler(sentences, self.args.per_device_train_batch_size, self.args.seed)
        return self.accelerator.prepare(self._plain_loader(self.train_dataset, batch_sampler=sampler))

    def get_eval_dataloader(self, eval_dataset: Any = None) -> DataLoader:
        dataset = self.eval_dataset if eval_dataset is None else eval_dataset
        return self._plain_loader(dataset, batch_size=self.args.per_device_eval_batch_size)

    def embed(self, features: Any) -> tuple[Tensor, Tensor]:
        """`embed_tokens` of the model in training, in its arithmetic."""
        with self.compute_loss_context_manager():
            return embed_tokens(self.model, features, self.data_collator, self.label_classes, self.args.per_device_eval_batch_size)

    def reference_features(self) -> list[dict]:
        """The training sentences, in an order fixed by the seed, up to `reference_tokens` tokens."""
        order = torch.randperm(len(self.train_dataset), generator=torch.Generator().manual_seed(self.args.seed)).tolist()
        chosen, tokens = [], 0
        for number in order:
            if tokens >= self.args.reference_tokens:
                break
            chosen.append(self.train_dataset[number])
            tokens += sum(self.train_dataset[number]["word_mask"])
        return chosen

    def evaluation_loop(
        self, dataloader: DataLoader, description: str, *args: Any, metric_key_prefix: str = "eval", **kwargs: Any
    ) -> EvalLoopOutput:
        """The criteria in place of per-example predictions; `Trainer.evaluate` logs them and calls back as ever."""
        features: Any = dataloader.dataset
        queries, gold = self.embed(features)
        references, classes = self.embed(self.reference_features())
        metrics = {
            "loss": self._mean_loss(queries, gold, features),
            "knn_f1": token_f1(knn_classes(queries, references, classes, neighbours=self.args.knn_neighbours), gold),
            "prototype_f1": token_f1(prototype_classes(queries, references, classes), gold),
        }
        named = {f"{metric_key_prefix}_{name}": value for name, value in metrics.items()}
        return EvalLoopOutput(predictions=None, label_ids=None, metrics=named, num_samples=len(features))

    def _mean_loss(self, embeddings: Tensor, classes: Tensor, features: Any) -> float:
        """Mean contrastive loss over batches of the training batch size, in the order of the data."""
        sizes = [sum(feature["word_mask"]) for feature in features]
        bounds: dict[int, int] = defaultdict(int)
        for number, size in enumerate(sizes):
            bounds[number // self.args.per_device_train_batch_size] += size
        parts = list(bounds.values())
        losses = [self.contrastive_loss(z, y) for z, y in zip(embeddings.split(parts), classes.split(parts), strict=True)]
        return float(torch.stack(losses).mean())
