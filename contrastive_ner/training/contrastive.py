"""Stage one of NerCo: a Trainer that pulls together encoded tokens of one entity type and pushes apart the rest.

Sections: arguments, batch-independent criteria (k-NN, prototypes), several processes and chunks, the Trainers.
The model is a `NercoModel` (any model whose output has `last_hidden_state` will do); the data are those of `tag_features`.

Gradient accumulation does not enlarge a contrastive batch: k accumulated batches are k separate contrasts. Raise the batch size instead.
"""

from collections import defaultdict
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, field
from typing import Any

import torch
import torch.distributed as dist
from accelerate.data_loader import prepare_data_loader
from accelerate.utils import broadcast_object_list
from torch import Tensor, nn
from torch.utils.checkpoint import get_device_states, set_device_states
from torch.utils.data import DataLoader
from transformers import Trainer, TrainingArguments
from transformers.trainer_utils import EvalLoopOutput

from contrastive_ner.errors import ConfigError
from contrastive_ner.training.batches import EpochBatches
from contrastive_ner.training.losses import (
    OUTSIDE,
    pairwise_contrastive_loss,
    supervised_contrastive_loss,
)

CRITERIA = {"knn": "eval_knn_f1", "prototype": "eval_prototype_f1", "loss": "eval_loss"}


# ---------------------------------------------------------------------------------------- arguments
@dataclass
class ContrastiveTrainingArguments(TrainingArguments):
    """`TrainingArguments` of stage one."""

    contrastive_loss: str = field(
        default="nerco",
        metadata={"help": "nerco (pairwise, the paper's) or supcon (Khosla et al.)"},
    )
    contrastive_temperature: float = field(
        default=0.08, metadata={"help": "divides the cosine (paper: 0.07 to 0.08)"}
    )
    with_o: bool = field(
        default=False, metadata={"help": "O tokens are anchors and positives, too (paper: no)"}
    )
    class_reduction: str = field(
        default="sum", metadata={"help": "sum (the paper's) or mean over the classes"}
    )
    freeze_layers: int = field(
        default=0, metadata={"help": "freeze the embeddings and the lowest N layers; 0: nothing"}
    )
    knn_neighbours: int = field(default=10, metadata={"help": "neighbours of the k-NN criterion"})
    chunk_size: int = field(
        default=0,
        metadata={
            "help": "sentences embedded at once, for batches beyond memory; 0: the whole batch"
        },
    )
    reference_tokens: int = field(
        default=20000,
        metadata={"help": "training tokens that the criteria compare dev tokens with"},
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.contrastive_loss not in ("nerco", "supcon"):
            raise ConfigError(
                f"contrastive_loss is {self.contrastive_loss!r}: expected nerco or supcon"
            )
        if not self.contrastive_temperature > 0:
            raise ConfigError(
                f"contrastive_temperature is {self.contrastive_temperature}: expected a positive number"
            )
        if self.class_reduction not in ("sum", "mean"):
            raise ConfigError(f"class_reduction is {self.class_reduction!r}: expected sum or mean")


def freeze_lowest_layers(encoder: Any, count: int) -> None:
    """Freeze an encoder's embeddings and its lowest `count` layers; 0 freezes nothing.

    Raises:
        ValueError: `count` is negative, exceeds the number of layers, or leaves nothing to train.
    """
    layers = max(
        (m for m in encoder.modules() if isinstance(m, nn.ModuleList)),
        key=len,
        default=nn.ModuleList(),
    )
    if not 0 <= count <= len(layers):
        raise ConfigError(
            f"stage1_freeze_layers is {count}: expected 0 to {len(layers)}, the encoder's number of layers"
        )
    if count and len(layers) != encoder.config.num_hidden_layers:
        raise ConfigError(
            f"{type(encoder).__name__} shares its layers: they cannot be frozen one by one; set stage1_freeze_layers=0"
        )
    if count:
        frozen = [encoder.get_input_embeddings(), *layers[:count]]
        frozen += [child for name, child in encoder.named_children() if "embedding" in name]
        for parameter in (p for module in frozen for p in module.parameters()):
            parameter.requires_grad = False
    if not any(parameter.requires_grad for parameter in encoder.parameters()):
        raise ConfigError(
            f"stage1_freeze_layers is {count}: no parameter is left to train; stage one trains the encoder"
        )


# ----------------------------------------------------------------------------------------- criteria
def knn_classes(queries: Tensor, references: Tensor, classes: Tensor, *, neighbours: int) -> Tensor:
    """Class of each query by majority of its nearest references in cosine; ties go to the nearer class.

    queries (Q, D), references (R, D), classes (R,) -> (Q,).
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
    similarity = (
        nn.functional.normalize(queries, dim=-1) @ nn.functional.normalize(means, dim=-1).T
    )  # (Q, C)
    return present[similarity.argmax(1)]


def token_f1(predicted: Tensor, gold: Tensor) -> float:
    """Micro F1 of token classes over the entity classes (O is no class to find)."""
    correct = int(((predicted == gold) & (gold != OUTSIDE)).sum())
    total = int((predicted != OUTSIDE).sum()) + int((gold != OUTSIDE).sum())
    return 2 * correct / total if total else 0.0


@torch.no_grad()
def embed_tokens(
    model: nn.Module, features: Any, collator: Any, label_classes: Sequence[int], batch_size: int
) -> tuple[Tensor, Tensor]:
    """Encoder output and classes of all labelled tokens: (N, D) float32, (N,). The model is set to evaluation mode."""
    model.eval()
    device = next(model.parameters()).device
    embeddings, classes = [], []
    for batch in DataLoader(features, collate_fn=collator, batch_size=batch_size):
        batch = {name: tensor.to(device) for name, tensor in batch.items()}
        hidden = model(
            input_ids=batch["input_ids"], attention_mask=batch["attention_mask"]
        ).last_hidden_state  # (B, T, D)
        own = classes_of(batch["labels"], label_classes)  # (B, T)
        embeddings.append(hidden[own >= 0].float())
        classes.append(own[own >= 0])
    return torch.cat(embeddings), torch.cat(classes)


def chunks_of(inputs: dict[str, Tensor], size: int) -> Iterator[dict[str, Tensor]]:
    """A batch of (B, T) tensors in parts of `size` rows, each as wide as its longest row."""
    for first in range(0, len(inputs["labels"]), size):
        rows = slice(first, first + size)
        width = int(inputs["attention_mask"][rows].sum(1).max())
        yield {name: tensor[rows, :width] for name, tensor in inputs.items()}


def classes_of(labels: Tensor, label_classes: Sequence[int]) -> Tensor:
    """Classes of label ids, any shape; -1 where the label is -100."""
    classes = torch.tensor(label_classes, device=labels.device)[labels.clamp_min(0)]
    return classes.masked_fill(labels < 0, -1)


# ------------------------------------------------------------------------ several processes, chunks
class GatherRows(torch.autograd.Function):
    """(N_r, D) of every process -> (N, D) of all, in the order of the processes, with gradient.

    Every process computes the same loss from the result, so that the gradient of its own rows is known to it without communication.
    `DistributedDataParallel` averages parameter gradients over the processes; the factor undoes that.
    """

    @staticmethod
    def forward(ctx: Any, rows: Tensor) -> Tensor:
        counts = [
            torch.empty(1, dtype=torch.long, device=rows.device)
            for _ in range(dist.get_world_size())
        ]
        dist.all_gather(counts, torch.tensor([len(rows)], device=rows.device))
        sizes = [int(count) for count in counts]
        # Processes have different numbers of tokens: pad, gather, cut.
        padded = nn.functional.pad(rows, (0, 0, 0, max(sizes) - len(rows)))
        parts = [torch.empty_like(padded) for _ in sizes]
        dist.all_gather(parts, padded.contiguous())
        first = sum(sizes[: dist.get_rank()])
        ctx.own = slice(first, first + len(rows))
        return torch.cat([part[:size] for part, size in zip(parts, sizes, strict=True)])

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Tensor:
        return gradient[ctx.own] * dist.get_world_size()


def gather_tokens(embeddings: Tensor, classes: Tensor) -> tuple[Tensor, Tensor]:
    """Tokens of all processes, with gradient to one's own: (N_r, D), (N_r,) -> (N, D), (N,). In a single process: as given."""
    if not (dist.is_available() and dist.is_initialized() and dist.get_world_size() > 1):
        return embeddings, classes
    # Classes as a column of the matrix would be rounded in half precision: they travel by themselves.
    return GatherRows.apply(embeddings), GatherRows.apply(classes[:, None])[:, 0]


class RandomState:
    """The state of the random generators, to embed a chunk a second time under the same dropout masks."""

    def __init__(self, *tensors: Tensor) -> None:
        self.cpu = torch.get_rng_state()
        self.devices, self.states = get_device_states(*tensors)

    @contextmanager
    def replayed(self) -> Iterator[None]:
        with torch.random.fork_rng(devices=self.devices):
            torch.set_rng_state(self.cpu)
            set_device_states(self.devices, self.states)
            yield


# ------------------------------------------------------------------------------------------ trainer
class SentenceTrainer(Trainer):
    """A `Trainer` whose batches are a function of seed and epoch (`sentence_batches`), whatever happened before.

    A run that is continued in the middle of an epoch thus sees the sentences that are left, and no other; several processes share
    each batch equally. Otherwise the standard Trainer.
    """

    def sampler(self) -> EpochBatches:
        sentences = [[0] * len(feature["input_ids"]) for feature in self.train_dataset]
        return self._sampler(sentences, paired=False)

    def _sampler(self, sentences: Sequence[Sequence[int]], *, paired: bool) -> EpochBatches:
        size, process, processes = (
            self.args.per_device_train_batch_size,
            self.args.process_index,
            self.args.world_size,
        )
        seed = self.args.seed if self.args.data_seed is None else self.args.data_seed
        return EpochBatches(
            sentences, size, seed, paired=paired, process=process, processes=processes
        )

    def get_train_dataloader(self) -> DataLoader:
        loader = self._plain_loader(self.train_dataset, batch_sampler=self.sampler())
        # num_processes=1: the sampler has already taken this process's part.
        return prepare_data_loader(
            loader, device=self.args.device, num_processes=1, process_index=0, put_on_device=True
        )

    def _plain_loader(self, dataset: Any, **sampling: Any) -> DataLoader:
        return DataLoader(
            dataset,
            collate_fn=self.data_collator,
            pin_memory=self.args.dataloader_pin_memory,
            **sampling,
        )


class ContrastiveTrainer(SentenceTrainer):
    """Trains an encoder by contrast.

    Args (beyond `Trainer`'s):
        label_classes: class of each label id in the features' `labels`: 0 for O, 1.. for entity types
            (`losses_contrastive.semantic_classes`).

    With several processes the tokens of all of them share one contrast. With `args.chunk_size` a batch may be larger than what fits
    into memory at once (gradient caching; Gao et al. 2021). Evaluation reports `eval_knn_f1` and `eval_prototype_f1`
    (token types of the dev set against training tokens; independent of batches) and `eval_loss` (which is not: it depends on what
    shares a batch).
    """

    def __init__(self, *args: Any, label_classes: Sequence[int], **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        if not isinstance(self.args, ContrastiveTrainingArguments):
            raise ConfigError(
                f"args is a {type(self.args).__name__}: expected ContrastiveTrainingArguments"
            )
        self.label_classes = list(label_classes)
        freeze_lowest_layers(self.model.encoder, self.args.freeze_layers)

    def contrastive_loss(self, embeddings: Tensor, classes: Tensor) -> Tensor:
        """The configured loss: (..., D), (...) -> scalar."""
        shared = {"temperature": self.args.contrastive_temperature, "with_o": self.args.with_o}
        if self.args.contrastive_loss == "supcon":
            return supervised_contrastive_loss(embeddings, classes, **shared)
        return pairwise_contrastive_loss(
            embeddings, classes, reduction=self.args.class_reduction, **shared
        )

    def token_embeddings(self, model: nn.Module, inputs: dict) -> tuple[Tensor, Tensor]:
        """The labelled tokens of a batch: (N, D), (N,)."""
        hidden = model(
            input_ids=inputs["input_ids"], attention_mask=inputs["attention_mask"]
        ).last_hidden_state  # (B, T, D)
        classes = classes_of(inputs["labels"], self.label_classes)  # (B, T)
        return hidden[classes >= 0], classes[classes >= 0]

    def compute_loss(
        self, model: nn.Module, inputs: dict, return_outputs: bool = False, **_: Any
    ) -> Any:
        embeddings, classes = self.token_embeddings(model, inputs)
        loss = self.contrastive_loss(*gather_tokens(embeddings, classes))
        return (loss, {"embeddings": embeddings}) if return_outputs else loss

    def training_step(
        self, model: nn.Module, inputs: dict, num_items_in_batch: Tensor | int | None = None
    ) -> Tensor:
        """A step; with `chunk_size` by gradient caching: the gradient of the whole batch, in the memory of a chunk.

        1. Embed chunk by chunk, without graph. 2. The loss of all tokens, and its gradient to each embedding. 3. Embed each chunk
        again, under the same dropout masks, and propagate its share of that gradient.
        """
        if not 0 < self.args.chunk_size < len(inputs["labels"]):
            return super().training_step(model, inputs, num_items_in_batch)
        model.train()
        chunks = list(chunks_of(self._prepare_inputs(inputs), self.args.chunk_size))
        states, embedded, classes = [], [], []
        with torch.no_grad(), self.compute_loss_context_manager():
            for chunk in chunks:
                states.append(RandomState(chunk["labels"]))
                z, y = self.token_embeddings(model, chunk)
                embedded.append(z.float())
                classes.append(y)
        tokens = torch.cat(embedded).requires_grad_()  # (N, D)
        loss = self.contrastive_loss(*gather_tokens(tokens, torch.cat(classes)))
        (gradient,) = torch.autograd.grad(loss, tokens)
        gradients = gradient.split([len(z) for z in embedded])
        for number, (chunk, state, gradient) in enumerate(
            zip(chunks, states, gradients, strict=True)
        ):
            is_last = number == len(chunks) - 1  # parameter gradients are exchanged once
            with nullcontext() if is_last else self.accelerator.no_sync(model=model):
                with state.replayed(), self.compute_loss_context_manager():
                    z, _ = self.token_embeddings(model, chunk)
                self.accelerator.backward(
                    (z.float() * gradient).sum() / self.current_gradient_accumulation_steps
                )
        return loss.detach() / self.current_gradient_accumulation_steps

    def sampler(self) -> EpochBatches:
        sentences = [
            [self.label_classes[label] for label in feature["labels"] if label >= 0]
            for feature in self.train_dataset
        ]
        return self._sampler(sentences, paired=True)

    def get_eval_dataloader(self, eval_dataset: Any = None) -> DataLoader:
        dataset = self.eval_dataset if eval_dataset is None else eval_dataset
        return self._plain_loader(dataset, batch_size=self.args.per_device_eval_batch_size)

    def embed(self, features: Any) -> tuple[Tensor, Tensor]:
        """`embed_tokens` of the model in training, in its arithmetic."""
        with self.compute_loss_context_manager():
            return embed_tokens(
                self.model,
                features,
                self.data_collator,
                self.label_classes,
                self.args.per_device_eval_batch_size,
            )

    def reference_features(self) -> list[dict]:
        """The training sentences, in an order fixed by the seed, up to `reference_tokens` tokens."""
        order = torch.randperm(
            len(self.train_dataset), generator=torch.Generator().manual_seed(self.args.seed)
        ).tolist()
        chosen, tokens = [], 0
        for number in order:
            if tokens >= self.args.reference_tokens:
                break
            chosen.append(self.train_dataset[number])
            tokens += sum(self.train_dataset[number]["word_mask"])
        return chosen

    def evaluation_loop(
        self,
        dataloader: DataLoader,
        description: str,
        *args: Any,
        metric_key_prefix: str = "eval",
        **kwargs: Any,
    ) -> EvalLoopOutput:
        """The criteria in place of per-example predictions; `Trainer.evaluate` logs them and calls back as ever.

        With several processes the first one computes them and tells the others.
        """
        features: Any = dataloader.dataset
        metrics = [self._criteria(features) if self.is_world_process_zero() else None]
        broadcast_object_list(metrics)
        named = {f"{metric_key_prefix}_{name}": value for name, value in (metrics[0] or {}).items()}
        return EvalLoopOutput(
            predictions=None, label_ids=None, metrics=named, num_samples=len(features)
        )

    def _criteria(self, features: Any) -> dict[str, float]:
        queries, gold = self.embed(features)
        references, classes = self.embed(self.reference_features())
        return {
            "loss": self._mean_loss(queries, gold, features),
            "knn_f1": token_f1(
                knn_classes(queries, references, classes, neighbours=self.args.knn_neighbours), gold
            ),
            "prototype_f1": token_f1(prototype_classes(queries, references, classes), gold),
        }

    def _mean_loss(self, embeddings: Tensor, classes: Tensor, features: Any) -> float:
        """Mean contrastive loss over batches of the size of training (of all processes), in the order of the data."""
        batch_size = self.args.per_device_train_batch_size * self.args.world_size
        sizes = [sum(feature["word_mask"]) for feature in features]
        bounds: dict[int, int] = defaultdict(int)
        for number, size in enumerate(sizes):
            bounds[number // batch_size] += size
        parts = list(bounds.values())
        losses = [
            self.contrastive_loss(z, y)
            for z, y in zip(embeddings.split(parts), classes.split(parts), strict=True)
        ]
        return float(torch.stack(losses).mean())


class JointTrainer(SentenceTrainer):
    """Stage two with the contrastive loss beside the tagger's: tagging + `weight` * contrast, over the encoder's last layer.

    Not NerCo, which contrasts first and tags afterwards: for comparison. Args beyond `Trainer`'s: `label_classes` as in
    `ContrastiveTrainer`, `weight`, `temperature`.
    """

    def __init__(
        self,
        *args: Any,
        label_classes: Sequence[int],
        weight: float,
        temperature: float,
        **kwargs: Any,
    ) -> None:
        super().__init__(*args, **kwargs)
        self.label_classes, self.weight, self.temperature = list(label_classes), weight, temperature

    def compute_loss(
        self, model: nn.Module, inputs: dict, return_outputs: bool = False, **kwargs: Any
    ) -> Any:
        if not model.training:
            return super().compute_loss(model, inputs, return_outputs=return_outputs, **kwargs)
        loss, outputs = super().compute_loss(
            model, {**inputs, "output_hidden_states": True}, return_outputs=True, **kwargs
        )
        classes = classes_of(inputs["labels"], self.label_classes)  # (B, T)
        tokens = gather_tokens(outputs.hidden_states[-1][classes >= 0], classes[classes >= 0])
        loss = loss + self.weight * pairwise_contrastive_loss(*tokens, temperature=self.temperature)
        return (loss, outputs) if return_outputs else loss
