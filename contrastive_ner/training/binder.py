"""Trainer for BINDER: the standard one, evaluated on the spans that the model decodes."""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn
from transformers import EvalPrediction

from contrastive_ner.evaluation.metrics import precision_recall_f1
from contrastive_ner.models.encoder_ner import IGNORED
from contrastive_ner.models.modeling_binder import CUT
from contrastive_ner.models.windows_ner import flat_spans
from contrastive_ner.training.batches import SetBatches
from contrastive_ner.training.contrastive import SentenceTrainer


class BinderTrainer(SentenceTrainer):
    """Trainer that decodes evaluation batches one by one and keeps only three counts per window.

    Memory thus does not depend on the number of possible spans. A mention is gold in every window
    that contains it whole: one cut by a window does not count there, one in two windows counts
    twice.

    With features of several data sets (`type_mask`, `data_set`), a training batch comes from one of
    them, and in each window only the types of its set are candidates. `set_weights` says how often
    an epoch goes through each set.
    """

    set_weights: Sequence[float] = ()

    def sampler(self) -> Any:
        """Batch sampler of the training data."""
        if not self.set_weights:
            return super().sampler()
        members: list[list[int]] = [[] for _ in self.set_weights]
        for number, feature in enumerate(self.train_dataset):
            members[feature["data_set"]].append(number)
        sets = []
        for numbers in members:
            sentences = [[0] * len(self.train_dataset[n]["input_ids"]) for n in numbers]
            sets.append((numbers, self._sampler(sentences, paired=False)))
        return SetBatches(sets, self.set_weights, sets[0][1].seed)

    def compute_loss(self, model: nn.Module, inputs: dict, *args: Any, **kwargs: Any) -> Any:
        """The loss; the model is not told the number of the data set."""
        given = {name: value for name, value in inputs.items() if name != "data_set"}
        return super().compute_loss(model, given, *args, **kwargs)

    def prediction_step(
        self,
        model: nn.Module,
        inputs: dict[str, Tensor],
        prediction_loss_only: bool,
        ignore_keys: list[str] | None = None,
    ) -> tuple[Tensor | None, Tensor | None, Tensor | None]:
        """Loss, counts (B, 3) of correct, predicted and gold mentions per window, and labels.

        With several data sets, the number of the window's set is a fourth count.
        """
        inputs = dict(self._prepare_inputs(inputs))
        number = inputs.pop("data_set", None)
        with torch.no_grad(), self.compute_loss_context_manager():
            outputs = model(**inputs)
        loss = outputs.loss.detach()
        if prediction_loss_only:
            return loss, None, None
        word_mask = inputs["word_mask"]
        counts = span_counts(
            self.model,
            outputs,
            word_mask,
            inputs["word_end_mask"],
            inputs["labels"],
            inputs.get("type_mask"),
        )
        if number is not None:
            counts = torch.cat([counts, number[:, None]], dim=1)
        return loss, counts, inputs["labels"]


def span_counts(
    model: Any,
    outputs: Any,
    word_mask: Tensor,
    word_end_mask: Tensor,
    labels: Tensor,
    type_mask: Tensor | None = None,
) -> Tensor:
    """Counts (B, 3) of correct, predicted and gold mentions of each window.

    outputs: of the model's forward pass; word_mask, word_end_mask (B, L), labels (B, M, 3);
    type_mask (B, E), the types that count in each window.
    """
    decoded = of_own_types(model.decode(outputs, word_mask, word_end_mask), model, type_mask)
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


def of_own_types(decoded: list[list[Any]], model: Any, type_mask: Tensor | None) -> list[list[Any]]:
    """The spans of each row whose types count there: type_mask (B, E); None: all."""
    if type_mask is None:
        return decoded
    ids = model.config.label2id
    return [
        [span for span in spans if own[ids[span.label]]]
        for spans, own in zip(decoded, type_mask.tolist(), strict=True)
    ]


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

    Args:
        sets: names of the data sets, if there are several. `f1` is then the mean of their F1, each
            of which is `f1/NAME`.
    """

    def __init__(self, sets: Sequence[str] = ()) -> None:
        self.sets = list(sets)
        self.totals = self._zeros()

    def _zeros(self) -> Tensor:
        return torch.zeros(max(len(self.sets), 1), 3, dtype=torch.long)

    def __call__(self, prediction: EvalPrediction, compute_result: bool = True) -> dict[str, Any]:
        found = prediction.predictions
        for counts in found if isinstance(found, list | tuple) else [found]:
            rows = torch.as_tensor(counts).cpu()
            numbers = rows[:, 3] if self.sets else torch.zeros(len(rows), dtype=torch.long)
            self.totals.index_add_(0, numbers, rows[:, :3])
        if not compute_result:
            return {}
        totals, self.totals = self.totals, self._zeros()
        scores = precision_recall_f1(*totals.sum(0).tolist())
        if not self.sets:
            return scores
        own = [precision_recall_f1(*row)["f1"] for row in totals.tolist()]
        named = {f"f1/{name}": f1 for name, f1 in zip(self.sets, own, strict=True)}
        return {**scores, "f1": sum(own) / len(own), **named}
