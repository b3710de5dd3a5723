"""Scores of decoded mentions for the standard Trainer, for both models.

The class with the highest logit is not what a tagger finds: the CRF decides about whole sequences.
"""

from collections.abc import Callable, Iterator, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from transformers import EvalPrediction

from contrastive_ner.data.schemes import tags_to_spans
from contrastive_ner.errors import ConfigError
from contrastive_ner.evaluation.metrics import precision_recall_f1
from contrastive_ner.models.encoder_ner import IGNORED
from contrastive_ner.models.modeling_binder import BinderOutput
from contrastive_ner.training.binder import span_counts


def decoded_metrics(model: nn.Module) -> dict[str, Callable]:
    """`compute_metrics` and `preprocess_logits_for_metrics` for `Trainer(model, ...)`.

    Both decode as the model does in use, and give exact-span precision, recall and F1:
    `Trainer(model=model, ..., **decoded_metrics(model))`. A word counts where its label is not
    -100. With a tagger, `trainer.predict` then returns tag ids, with BINDER the counts of correct,
    predicted and gold mentions of each window. `batch_eval_metrics=True` keeps none of them.

    Args:
        model: a tagger or BINDER model, or either of them with adapters.

    Raises:
        ConfigError: the model decodes no mentions, as one of stage one.
    """
    own = decoding_model(model)
    return (TagMetrics if own.config.model_type == "nerco" else SpanMetrics)(own).for_trainer()


def decoding_model(model: nn.Module) -> Any:
    """The tagger or BINDER model in a model, which may wrap it, as peft does.

    Raises:
        ConfigError: there is none.
    """
    parts: Iterator[Any] = model.modules()
    own = next((part for part in parts if hasattr(type(part), "decode")), None)
    if own is None or own.config.model_type not in ("nerco", "binder"):
        raise ConfigError(
            f"{type(model).__name__} decodes no mentions: "
            "expected a NercoForTokenClassification or a BinderModel"
        )
    return own


class Metrics:
    """Counts of correct, predicted and gold mentions, added up over an evaluation."""

    def __init__(self, model: Any) -> None:
        self.model = model
        self.totals = [0, 0, 0]

    def for_trainer(self) -> dict[str, Callable]:
        """The two arguments of the Trainer."""
        return {"compute_metrics": self.compute, "preprocess_logits_for_metrics": self.preprocess}

    def preprocess(self, logits: Any, labels: Tensor) -> Tensor:
        """What is kept of a batch's outputs."""
        raise NotImplementedError

    def counts(self, prediction: EvalPrediction) -> Sequence[int]:
        """The three counts of a prediction."""
        raise NotImplementedError

    def compute(self, prediction: EvalPrediction, compute_result: bool = True) -> dict[str, float]:
        """Scores of all predictions since the last scores; {} until `compute_result`."""
        own = self.counts(prediction)
        self.totals = [a + int(b) for a, b in zip(self.totals, own, strict=True)]
        if not compute_result:
            return {}
        totals, self.totals = self.totals, [0, 0, 0]
        return precision_recall_f1(*totals)


class TagMetrics(Metrics):
    """Of a tagger: the best tag sequences of its CRF."""

    @torch.no_grad()
    def preprocess(self, logits: Any, labels: Tensor) -> Tensor:
        """Tag ids (B, T); -100 where there is no label."""
        logits = logits if isinstance(logits, Tensor) else logits[0]
        return self.model.viterbi(logits, labels != IGNORED)

    def counts(self, prediction: EvalPrediction) -> Sequence[int]:
        """See the class above."""
        labels = self.model.config.labels
        return tag_counts(
            tag_spans(prediction.predictions, labels), tag_spans(prediction.label_ids, labels)
        )


class SpanMetrics(Metrics):
    """Of BINDER. The Trainer hands on no masks: they are kept from the forward pass."""

    def __init__(self, model: Any) -> None:
        super().__init__(model)
        self.masks: list[Tensor] = []
        model.register_forward_pre_hook(self.keep_masks, with_kwargs=True)

    def keep_masks(self, _: nn.Module, __: tuple, inputs: dict[str, Any]) -> None:
        """Before a forward pass."""
        if inputs.get("word_mask") is not None and inputs.get("word_end_mask") is not None:
            self.masks = [inputs["word_mask"], inputs["word_end_mask"]]

    @torch.no_grad()
    def preprocess(self, logits: Any, labels: Tensor) -> Tensor:
        """Counts (B, 3) of correct, predicted and gold mentions."""
        hidden = logits if isinstance(logits, Tensor) else logits[0]
        word_mask, word_end_mask = self.masks
        outputs = BinderOutput(last_hidden_state=hidden)
        return span_counts(self.model, outputs, word_mask, word_end_mask, labels)

    def counts(self, prediction: EvalPrediction) -> Sequence[int]:
        """See the class above."""
        return torch.as_tensor(prediction.predictions).cpu().reshape(-1, 3).sum(0).tolist()


def tag_spans(rows: Any, labels: Sequence[str]) -> list[list[tuple[int, int, str]]]:
    """Mentions in rows of tag ids (N, T); -100 where there is no tag."""
    return [tags_to_spans([labels[tag] for tag in row if tag != IGNORED], "BIO")[0] for row in rows]


def tag_counts(
    predicted: Sequence[Sequence[tuple]], gold: Sequence[Sequence[tuple]]
) -> tuple[int, int, int]:
    """Correct, predicted and gold mentions."""
    pairs = [(set(found), set(wanted)) for found, wanted in zip(predicted, gold, strict=True)]
    return (
        sum(len(found & wanted) for found, wanted in pairs),
        sum(len(found) for found, _ in pairs),
        sum(len(wanted) for _, wanted in pairs),
    )


def tag_scores(predicted: Any, gold: Any, labels: Sequence[str]) -> dict[str, float]:
    """Micro precision, recall and F1 of spans from tag ids (N, T); -100 where there is no tag."""
    return precision_recall_f1(*tag_counts(tag_spans(predicted, labels), tag_spans(gold, labels)))
