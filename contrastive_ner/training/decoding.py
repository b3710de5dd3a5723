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
    predicted and gold mentions of each window; features without labels need their masks, as those
    of `tag_features` and `span_features`. `batch_eval_metrics=True` keeps none of them; then, with
    the standard Trainer, call this function again after an evaluation that was interrupted.

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
        self.inputs: dict[str, Any] = {}  # of the last forward pass: the Trainer hands on no masks
        model.register_forward_pre_hook(self._keep_inputs, with_kwargs=True)

    def _keep_inputs(self, _: nn.Module, __: tuple, inputs: dict[str, Any]) -> None:
        self.inputs = {name: inputs.get(name) for name in ("word_mask", "word_end_mask")}

    def mask(self, name: str) -> Tensor:
        """A mask of the last forward pass. ConfigError if it had none."""
        if (found := self.inputs.get(name)) is None:
            raise ConfigError(
                f"the features have no labels and no {name}: make them with tag_features, or for "
                "BINDER with span_features, and their batches with TagCollator or SpanCollator"
            )
        return found

    def reset(self) -> None:
        """Forget the counts of an evaluation that was interrupted."""
        self.totals = [0, 0, 0]

    def for_trainer(self) -> dict[str, Callable]:
        """The two arguments of the Trainer."""
        return {"compute_metrics": self.compute, "preprocess_logits_for_metrics": self.preprocess}

    def preprocess(self, logits: Any, labels: Tensor | None) -> Tensor:
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
    def preprocess(self, logits: Any, labels: Tensor | None) -> Tensor:
        """Tag ids (B, T); -100 where there is no label, or without labels no word."""
        logits = logits if isinstance(logits, Tensor) else logits[0]
        mask = self.mask("word_mask").bool() if labels is None else labels != IGNORED
        return self.model.viterbi(logits, mask)

    def counts(self, prediction: EvalPrediction) -> Sequence[int]:
        """See the class above."""
        labels = self.model.config.labels
        found, gold = prediction.predictions, prediction.label_ids
        parts = zip(found, gold, strict=True) if isinstance(found, list) else [(found, gold)]
        counts = [tag_counts(tag_spans(a, labels), tag_spans(b, labels)) for a, b in parts]
        return [sum(column) for column in zip(*counts, strict=True)]


class SpanMetrics(Metrics):
    """Of BINDER: counts of mentions."""

    @torch.no_grad()
    def preprocess(self, logits: Any, labels: Tensor | None) -> Tensor:
        """Counts (B, 3) of correct, predicted and gold mentions."""
        hidden = logits if isinstance(logits, Tensor) else logits[0]
        if hidden.dim() == 2:
            return hidden  # a `BinderTrainer` has counted
        word_mask, word_end_mask = self.mask("word_mask"), self.mask("word_end_mask")
        if labels is None:
            labels = torch.full((len(hidden), 1, 3), IGNORED, device=hidden.device)
        outputs = BinderOutput(last_hidden_state=hidden)
        return span_counts(self.model, outputs, word_mask, word_end_mask, labels)

    def counts(self, prediction: EvalPrediction) -> Sequence[int]:
        """See the class above."""
        found = prediction.predictions
        parts = found if isinstance(found, list) else [found]
        counts = [torch.as_tensor(part).cpu().reshape(-1, 3).sum(0) for part in parts]
        return torch.stack(counts).sum(0).tolist()


def tag_spans(rows: Any, labels: Sequence[str]) -> list[list[tuple[int, int, str]]]:
    """Mentions in rows of tag ids (N, T); -100 where there is no tag."""
    rows = rows.tolist() if hasattr(rows, "tolist") else rows  # single numbers are slow to read
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
