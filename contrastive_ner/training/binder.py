"""Trainer for BINDER: the standard one, evaluated on the spans that the model decodes."""

from typing import Any

import torch
from torch import Tensor, nn
from transformers import EvalPrediction

from contrastive_ner.evaluation.metrics import precision_recall_f1
from contrastive_ner.models.encoder_ner import IGNORED
from contrastive_ner.models.modeling_binder import CUT
from contrastive_ner.models.windows_ner import flat_spans
from contrastive_ner.training.contrastive import SentenceTrainer


class BinderTrainer(SentenceTrainer):
    """Trainer that decodes evaluation batches one by one and keeps only three counts per window.

    Memory thus does not depend on the number of possible spans. A mention is gold in every window
    that contains it whole: one cut by a window does not count there, one in two windows counts
    twice.
    """

    def prediction_step(
        self,
        model: nn.Module,
        inputs: dict[str, Tensor],
        prediction_loss_only: bool,
        ignore_keys: list[str] | None = None,
    ) -> tuple[Tensor | None, Tensor | None, Tensor | None]:
        """Loss, counts (B, 3) of correct, predicted and gold mentions per window, and labels."""
        inputs = self._prepare_inputs(inputs)
        with torch.no_grad(), self.compute_loss_context_manager():
            outputs = model(**inputs)
        loss = outputs.loss.detach()
        if prediction_loss_only:
            return loss, None, None
        word_mask = inputs["word_mask"]
        counts = span_counts(
            self.model, outputs, word_mask, inputs["word_end_mask"], inputs["labels"]
        )
        return loss, counts, inputs["labels"]


def span_counts(
    model: Any, outputs: Any, word_mask: Tensor, word_end_mask: Tensor, labels: Tensor
) -> Tensor:
    """Counts (B, 3) of correct, predicted and gold mentions of each window.

    outputs: of the model's forward pass; word_mask, word_end_mask (B, L), labels (B, M, 3).
    """
    decoded = model.decode(outputs, word_mask, word_end_mask)
    if model.config.decoding == "flat":
        decoded = [flat_spans(spans) for spans in decoded]
    gold = gold_spans(labels, word_mask, model.config.labels)
    counts = [
        (len(wanted & found), len(found), len(wanted))
        for found, wanted in zip(
            ({tuple(span[:3]) for span in spans} for spans in decoded), gold, strict=True
        )
    ]
    return torch.tensor(counts, device=word_mask.device)


def gold_spans(
    labels: Tensor, word_mask: Tensor, types: list[str]
) -> list[set[tuple[int, int, str]]]:
    """Uncut mentions of each row as (first word, last word + 1, type), like the output of `decode`.

    labels (B, M, 3), word_mask (B, L).
    """
    position = word_mask.long().cumsum(1).tolist()  # words that start at or before each token
    return [
        {
            (words[first] - 1, words[last], types[number])
            for number, first, last in mentions
            if number != IGNORED and CUT not in (first, last)
        }
        for mentions, words in zip(labels.tolist(), position, strict=True)
    ]


class SpanCounts:
    """Precision, recall and F1 from counts added up over batches.

    For `TrainingArguments(batch_eval_metrics=True)`; without it, for all batches at once.
    """

    def __init__(self) -> None:
        self.totals = torch.zeros(3, dtype=torch.long)

    def __call__(self, prediction: EvalPrediction, compute_result: bool = True) -> dict[str, Any]:
        found = prediction.predictions
        for counts in found if isinstance(found, list | tuple) else [found]:
            self.totals += torch.as_tensor(counts).cpu().sum(0)
        if not compute_result:
            return {}
        totals, self.totals = self.totals.tolist(), torch.zeros(3, dtype=torch.long)
        return precision_recall_f1(*totals)
