"""Trainer for stage one of NerCo: pull together tokens of one entity type, push apart the rest.

The model is a `NercoModel` or any other model whose output has `last_hidden_state` and that has an
`encoder`; the data are those of `tag_features`.

Gradient accumulation does not enlarge a contrastive batch: k accumulated batches are k separate
contrasts. Raise the batch size instead, with `chunk_size` if memory is short.
"""

from collections import defaultdict
from collections.abc import Sequence
from contextlib import nullcontext
from dataclasses import dataclass, field
from typing import Any

import torch
from accelerate.utils import broadcast_object_list
from torch import Tensor, nn
from torch.utils.data import DataLoader, IterableDataset
from transformers import TrainingArguments
from transformers.trainer_utils import EvalLoopOutput

from contrastive_ner.errors import ConfigError
from contrastive_ner.training.arguments import refused
from contrastive_ner.training.batches import EpochBatches, TagCollator, model_inputs
from contrastive_ner.training.criteria import (
    chunks_of,
    classes_of,
    embed_tokens,
    knn_classes,
    prototype_classes,
    token_f1,
)
from contrastive_ner.training.gathering import RandomState, gather_tokens
from contrastive_ner.training.losses import (
    pairwise_contrastive_loss,
    semantic_classes,
    supervised_contrastive_loss,
)
from contrastive_ner.training.projection import (
    add_projection,
    drop_projection,
    has_projection,
    projected,
)
from contrastive_ner.training.schedules import freeze_encoder, freeze_lowest_layers
from contrastive_ner.training.sentence_trainer import SentenceTrainer

CRITERIA = {"knn": "eval_knn_f1", "prototype": "eval_prototype_f1", "loss": "eval_loss"}


@dataclass
class ContrastiveTrainingArguments(TrainingArguments):
    """`TrainingArguments` of stage one.

    Raises:
        ConfigError: the loss, temperature or reduction is invalid.
    """

    # The Trainer would remove `labels`, which a `NercoModel` does not take.
    remove_unused_columns: bool = field(
        default=False, metadata={"help": "as in TrainingArguments, but off by default"}
    )
    contrastive_loss: str = field(
        default="nerco",
        metadata={"help": "nerco (pairwise; paper) or supcon (Khosla et al.)"},
    )
    contrastive_temperature: float = field(
        default=0.08, metadata={"help": "temperature that divides the cosine (paper: 0.07 to 0.08)"}
    )
    with_o: bool = field(
        default=False, metadata={"help": "also use O tokens as anchors and positives (paper: no)"}
    )
    class_reduction: str = field(
        default="sum", metadata={"help": "sum (paper) or mean of the loss over classes"}
    )
    freeze_layers: int = field(
        default=0, metadata={"help": "freeze the embeddings and the lowest N layers; 0: nothing"}
    )
    freeze_encoder: bool = field(
        default=False, metadata={"help": "train what reads a lexicon alone (paper: yes)"}
    )
    projection_size: int = field(
        default=0,
        metadata={"help": "width of a projection head that the loss reads; 0: no head (paper)"},
    )
    knn_neighbours: int = field(
        default=10, metadata={"help": "number of neighbours of the k-NN criterion"}
    )
    chunk_size: int = field(
        default=0,
        metadata={
            "help": "sentences embedded at once, for batches that do not fit into memory; "
            "0: the whole batch"
        },
    )
    reference_tokens: int = field(
        default=20000,
        metadata={"help": "number of training tokens that the criteria compare dev tokens with"},
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.contrastive_loss not in ("nerco", "supcon"):
            raise ConfigError(
                f"contrastive_loss is {self.contrastive_loss!r}: expected nerco or supcon"
            )
        if not self.contrastive_temperature > 0:
            raise ConfigError(
                f"contrastive_temperature is {self.contrastive_temperature}: "
                "expected a positive number"
            )
        if self.class_reduction not in ("sum", "mean"):
            raise ConfigError(f"class_reduction is {self.class_reduction!r}: expected sum or mean")
        least = {"knn_neighbours": 1, "reference_tokens": 1, "chunk_size": 0, "projection_size": 0}
        for name, value in least.items():
            if getattr(self, name) < value:
                raise ConfigError(f"{name} is {getattr(self, name)}: expected at least {value}")


def labelled(feature: dict) -> int:
    """Number of tokens that have a label."""
    return sum(label >= 0 for label in feature["labels"])


def padding_of(config: Any) -> int:
    """The padding token of a model's encoder."""
    own = getattr(config, "encoder_config", config)
    return getattr(own, "pad_token_id", None) or 0


def label_names(model: Any, dataset: Any) -> list[str]:
    """BIO labels of a tagger, or those that a data set of `datasets` declares for `labels`.

    Raises:
        ConfigError: neither names them.
    """
    if hasattr(model, "crf"):
        return model.config.labels
    declared = (getattr(dataset, "features", None) or {}).get("labels")
    names = getattr(getattr(declared, "feature", None), "names", None)
    if names is None:
        raise ConfigError(
            "label_classes is missing: pass semantic_classes(labels), the class of each label id; "
            "a tagger or a data set whose `labels` are a list of ClassLabel names them itself"
        )
    return list(names)


class ContrastiveTrainer(SentenceTrainer):
    """Trainer that fits an encoder with a contrastive loss.

    With several processes, their tokens share one contrast. With `args.chunk_size`, a batch may be
    larger than memory allows at once (gradient caching; Gao et al. 2021). Evaluation reports
    `eval_knn_f1` and `eval_prototype_f1` (types of dev tokens, compared with training tokens;
    independent of batches) and `eval_loss` (depends on which sentences share a batch).

    Args:
        model: a `NercoModel`; of a tagger, the model below its head is trained.
        label_classes: class of each label id in `labels` of the features: 0 for O, 1.. for entity
            types (`losses.semantic_classes`). By default those of the labels that the tagger, or
            else the data set, names. All other arguments are those of `Trainer`.
        data_collator: by default a `TagCollator`.

    Raises:
        ConfigError: `args` is not a `ContrastiveTrainingArguments`, or its `freeze_layers` or
            `freeze_encoder` does not suit the model; nothing names the labels; or scores or a loss
            are given, which stage one has of its own.
    """

    is_stage_one = True

    def __init__(
        self,
        model: Any = None,
        *args: Any,
        label_classes: Sequence[int] | None = None,
        **kwargs: Any,
    ) -> None:
        if model is None:
            raise ConfigError(
                "model is missing: expected a NercoModel; model_init is not supported"
            )
        if label_classes is None:
            label_classes = semantic_classes(label_names(model, kwargs.get("train_dataset")))
        model = getattr(model, "nerco", model)
        if (args[1] if len(args) > 1 else kwargs.get("data_collator")) is None:
            collator = TagCollator(padding_of(model.config))
            args = (args[0], collator, *args[2:]) if len(args) > 1 else args
            kwargs |= {} if len(args) > 1 else {"data_collator": collator}
        super().__init__(model, *args, **kwargs)
        if not isinstance(self.args, ContrastiveTrainingArguments):
            raise ConfigError(
                f"args is a {type(self.args).__name__}: expected ContrastiveTrainingArguments"
            )
        for name in ("compute_metrics", "compute_loss_func", "preprocess_logits_for_metrics"):
            if getattr(self, name) is not None:
                raise refused(
                    name, getattr(self, name), None, "stage one has its own loss and scores"
                )
        # Encoders that take any keyword would have the Trainer leave the loss of accumulated
        # batches undivided.
        self.model_accepts_loss_kwargs = False
        self.label_classes = list(label_classes)
        self._checked: list[Any] = []  # data sets that have their labels
        freeze_lowest_layers(self.model.encoder, self.args.freeze_layers)
        if self.args.freeze_encoder:
            freeze_encoder(self.model)
        self._add_head()

    def train(self, *args: Any, **kwargs: Any) -> Any:
        """As `Trainer.train`; throws the projection head away, also if it is interrupted."""
        self._check_labels(self.train_dataset, "train_dataset")
        self._add_head()
        try:
            return super().train(*args, **kwargs)
        finally:
            drop_projection(self.model)

    def _add_head(self) -> None:
        if self.args.projection_size and not has_projection(self.model):
            add_projection(self.model, self.args.projection_size)

    def _check_labels(self, dataset: Any, name: str) -> None:
        """ConfigError if there are no labelled sentences, or a label has no class."""
        if isinstance(dataset, IterableDataset) or not hasattr(dataset, "__len__"):
            found = "none" if dataset is None else type(dataset).__name__
            raise ConfigError(f"{name}: expected a data set with a length, found {found}")
        if any(dataset is own for own in self._checked):
            return
        highest = 0
        for row in dataset:
            if "labels" not in row:
                raise ConfigError(f"{name}: expected labels in each row, found a row without any")
            highest = max(highest, int(max(row["labels"], default=0)))
        if highest >= len(self.label_classes):
            raise ConfigError(
                f"label_classes has {len(self.label_classes)} classes: expected one for each label "
                f"id, found the label {highest} in {name}"
            )
        self._checked.append(dataset)

    def contrastive_loss(self, embeddings: Tensor, classes: Tensor) -> Tensor:
        """The configured loss: embeddings (..., D), classes (...) -> scalar."""
        shared = {"temperature": self.args.contrastive_temperature, "with_o": self.args.with_o}
        if self.args.contrastive_loss == "supcon":
            return supervised_contrastive_loss(embeddings, classes, **shared)
        return pairwise_contrastive_loss(
            embeddings, classes, reduction=self.args.class_reduction, **shared
        )

    def token_embeddings(self, model: nn.Module, inputs: dict) -> tuple[Tensor, Tensor]:
        """What the loss reads of the labelled tokens of a batch (N, D), and their classes (N,)."""
        hidden = model(**model_inputs(inputs)).last_hidden_state  # (B, T, D)
        classes = classes_of(inputs["labels"], self.label_classes)  # (B, T)
        return hidden[classes >= 0], classes[classes >= 0]

    def compute_loss(
        self, model: nn.Module, inputs: dict, return_outputs: bool = False, **_: Any
    ) -> Any:
        """Contrastive loss over the tokens of all processes; see `Trainer.compute_loss`."""
        embeddings, classes = self.token_embeddings(model, inputs)
        loss = self.contrastive_loss(*gather_tokens(embeddings, classes))
        return (loss, {"embeddings": embeddings}) if return_outputs else loss

    def training_step(
        self, model: nn.Module, inputs: dict, num_items_in_batch: Tensor | int | None = None
    ) -> Tensor:
        """One step; with `chunk_size`, gradient caching computes it in the memory of a chunk.

        1. Embed chunk by chunk, without graph. 2. Compute the loss over all tokens and its gradient
        with respect to each embedding. 3. Embed each chunk again, with the same dropout masks, and
        backpropagate its part of that gradient. The result is the gradient of the whole batch.
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
        """Batch sampler that puts two tokens of one class into each batch where possible."""
        sentences = [
            [self.label_classes[label] for label in feature["labels"] if label >= 0]
            for feature in self.train_dataset
        ]
        return self._sampler(sentences, paired=True)

    def get_eval_dataloader(self, eval_dataset: Any = None) -> DataLoader:
        """Loader of all evaluation data, or of the set of a name, not divided among processes."""
        dataset = self.eval_dataset if eval_dataset is None else eval_dataset
        if isinstance(dataset, str):
            dataset = self.eval_dataset[dataset]
        self._check_labels(dataset, "eval_dataset")
        self._check_labels(self.train_dataset, "train_dataset")  # the criteria compare with it
        return self._plain_loader(dataset, batch_size=self.args.per_device_eval_batch_size)

    def get_test_dataloader(self, test_dataset: Any) -> DataLoader:
        """As `get_eval_dataloader`: `predict` gives the same scores, and no predictions."""
        return self.get_eval_dataloader(test_dataset)

    def embed(self, features: Any) -> tuple[Tensor, Tensor]:
        """`embed_tokens` with the model in training, under its autocast."""
        with self.compute_loss_context_manager():
            return embed_tokens(
                self.model,
                features,
                self._collated,
                self.label_classes,
                self.args.per_device_eval_batch_size,
            )

    def reference_features(self) -> list[dict]:
        """Training features in an order fixed by the seed, up to `args.reference_tokens` tokens."""
        order = torch.randperm(
            len(self.train_dataset), generator=torch.Generator().manual_seed(self.args.seed)
        ).tolist()
        chosen, tokens = [], 0
        for number in order:
            if tokens >= self.args.reference_tokens:
                break
            chosen.append(self.train_dataset[number])
            tokens += labelled(self.train_dataset[number])
        return chosen

    def evaluation_loop(
        self,
        dataloader: DataLoader,
        description: str,
        *args: Any,
        metric_key_prefix: str = "eval",
        **kwargs: Any,
    ) -> EvalLoopOutput:
        """Compute the criteria instead of predictions; `Trainer.evaluate` logs them as usual.

        With several processes, the first one computes them and broadcasts them.
        """
        features: Any = dataloader.dataset
        metrics = [self._criteria(features) if self.is_world_process_zero() else None]
        broadcast_object_list(metrics)
        named = {f"{metric_key_prefix}_{name}": value for name, value in (metrics[0] or {}).items()}
        return EvalLoopOutput(
            predictions=None, label_ids=None, metrics=named, num_samples=len(features)
        )

    @torch.no_grad()
    def _criteria(self, features: Any) -> dict[str, float]:
        queries, gold = self.embed(features)
        references, classes = self.embed(self.reference_features())
        # Without the head that it was trained with, the loss would be another number.
        has_head = has_projection(self.model) or not self.args.projection_size
        found = {"loss": self._mean_loss(projected(self.model, queries), gold, features)}
        return {
            **(found if has_head else {}),
            "knn_f1": token_f1(
                knn_classes(queries, references, classes, neighbours=self.args.knn_neighbours), gold
            ),
            "prototype_f1": token_f1(prototype_classes(queries, references, classes), gold),
        }

    def _mean_loss(self, embeddings: Tensor, classes: Tensor, features: Any) -> float:
        """Mean contrastive loss over batches as large as in training, all processes together.

        The batches follow the order of the data.
        """
        batch_size = self.args.per_device_train_batch_size * self.args.world_size
        sizes = [labelled(feature) for feature in features]
        bounds: dict[int, int] = defaultdict(int)
        for number, size in enumerate(sizes):
            bounds[number // batch_size] += size
        parts = list(bounds.values())
        losses = [
            self.contrastive_loss(z, y)
            for z, y in zip(embeddings.split(parts), classes.split(parts), strict=True)
        ]
        return float(torch.stack(losses).mean())
