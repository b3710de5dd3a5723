"""Trainer for BINDER: the standard one, evaluated on the spans that the model decodes."""

from bisect import bisect_right
from collections.abc import Iterable, Sequence
from itertools import pairwise
from typing import Any, NamedTuple

import torch
from accelerate.utils import gather_object
from torch import Tensor, nn
from transformers import EvalPrediction

from contrastive_ner.data.documents import Document
from contrastive_ner.evaluation.metrics import precision_recall_f1
from contrastive_ner.models.encoder_ner import IGNORED
from contrastive_ner.models.modeling_binder import CUT, BinderOutput
from contrastive_ner.models.windows_ner import Prepared, Tokenized, Window, flat_spans
from contrastive_ner.training.batches import SetBatches
from contrastive_ner.training.sentence_trainer import SentenceTrainer

# Spans of a window that are kept until its document is complete. A model that has learnt nothing
# finds thousands; their overlaps with those of the next window do not matter.
KEPT = 1000


class BinderTrainer(SentenceTrainer):
    """Trainer that decodes evaluation batches one by one and keeps only three counts per window.

    Memory thus does not depend on the number of possible spans. Without `documents`, a mention is
    gold in every window that contains it whole: one cut by a window does not count there, one in
    two windows counts twice.

    With features of several data sets (`type_mask`, `data_set`), a training batch comes from one of
    them, and in each window only the types of its set are candidates. `set_weights` says how often
    an epoch goes through each set.
    """

    documents: "DocumentCounts | None" = None  # of the evaluation data, whose rows have a "number"
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
        own_set, numbers = inputs.pop("data_set", None), inputs.pop("number", None)
        with torch.no_grad(), self.compute_loss_context_manager():
            outputs = model(**inputs)
        loss = outputs.loss.detach()
        if prediction_loss_only:
            return loss, None, None
        word_mask, word_end_mask = inputs["word_mask"], inputs["word_end_mask"]
        if self.documents is None or numbers is None:
            gold, types = inputs["labels"], inputs.get("type_mask")
            counts = span_counts(self.model, outputs, word_mask, word_end_mask, gold, types)
        else:
            types = inputs.get("type_mask")
            decoded = decode_own(self.model, outputs, word_mask, word_end_mask, types)
            is_flat = self.model.config.decoding == "flat"
            counts = self.documents.add(numbers.tolist(), decoded, is_flat).to(word_mask.device)
        if own_set is not None:
            counts = torch.cat([counts, own_set[:, None]], dim=1)
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
    decoded = decode_own(model, outputs, word_mask, word_end_mask, type_mask)
    if model.config.decoding == "flat":
        decoded = [flat_spans(spans, model.later_types) for spans in decoded]
    gold = gold_spans(labels, word_mask, model.config.labels)
    counts = [
        (len(wanted & found), len(found), len(wanted))
        for found, wanted in zip(
            ({tuple(span[:3]) for span in spans} for spans in decoded), gold, strict=True
        )
    ]
    return torch.tensor(counts, device=word_mask.device)


def decode_own(
    model: Any,
    outputs: Any,
    word_mask: Tensor,
    word_end_mask: Tensor,
    type_mask: Tensor | None = None,
    **options: Any,
) -> list[list[Any]]:
    """`model.decode`, where the types that count may differ from row to row.

    Types compete for a span, so that the others must not take part.

    type_mask (B, E), the types that count in each row; None: all. `options` are those of `decode`.
    """
    if type_mask is None:
        return model.decode(outputs, word_mask, word_end_mask, **options)
    decoded: list[list[Any]] = [[] for _ in word_mask]
    rows_of: dict[tuple[bool, ...], list[int]] = {}
    for row, own in enumerate(type_mask.tolist()):
        rows_of.setdefault(tuple(own), []).append(row)
    types = model.types
    for own, rows in rows_of.items():
        others = [label for label, counts in zip(types.labels, own, strict=True) if not counts]
        part = BinderOutput(last_hidden_state=outputs.last_hidden_state[rows])
        masks = word_mask[rows], word_end_mask[rows]
        found = model.decode(part, *masks, types=types.remove(*others), **options)
        for row, spans in zip(rows, found, strict=True):
            decoded[row] = spans
    return decoded


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

    def reset(self) -> None:
        """Forget the counts of an evaluation that was interrupted."""
        self.totals = self._zeros()

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


class Place(NamedTuple):
    """A window of a document: the document's number, and what `merge_windows` takes from it.

    A span over positions [first, last) belongs to the window if low < first + last <= high.
    """

    document: int
    window: Window
    low: float
    high: float
    is_only: bool


class DocumentCounts(SpanCounts):
    """Scores of whole documents, as the `all_mentions` of `evaluate`: all gold mentions, each once.

    A gold mention that no token boundary matches, that is too wide or that no window holds is
    missed. Of overlapping windows, the one in which a span is farther from an edge decides, and
    spans that cross from one text of a document into the next are left out.

    Args:
        documents: the evaluation data.
        rows: their tokens and windows; of the features, row i, with `number` i, is window i.
        sets: names of the data sets, if there are several; see `SpanCounts`.
        set_of: for each document, the number of its set.
    """

    def __init__(
        self,
        documents: Sequence[Document],
        rows: Sequence[Prepared],
        *,
        sets: Sequence[str] = (),
        set_of: Sequence[int] = (),
    ) -> None:
        super().__init__(sets)
        self.documents, self.texts = documents, [row.tokenized for row in rows]
        self.set_of = set_of or [0] * len(documents)
        self.gold = [{m[:3] for m in document.record.entities} for document in documents]
        self.places = [
            place for number, row in enumerate(rows) for place in places_of(number, row.windows)
        ]
        self.waiting: dict[int, list[tuple]] = {}  # flat spans of documents of several windows

    def reset(self) -> None:
        """As above; also the windows that wait."""
        super().reset()
        self.waiting = {}

    def add(self, numbers: Sequence[int], decoded: Sequence[list], is_flat: bool) -> Tensor:
        """Counts (B, 3) of correct, predicted and 0 mentions of windows; gold ones come last."""
        counts = []
        for number, spans in zip(numbers, decoded, strict=True):
            place = self.places[number]
            shift = place.window.first
            own = [
                (span[0] + shift, span[1] + shift, span[2], span[3])
                for span in spans
                if place.low < span[0] + span[1] + 2 * shift <= place.high
            ]
            if is_flat and (place.is_only or len(own) > KEPT):
                own = flat_spans(own)
            if is_flat and not place.is_only:
                self.waiting[number] = own
                own = []
            counts.append((*self._right_and_found(place.document, own), 0))
        return torch.tensor(counts)

    def _right_and_found(self, number: int, spans: Iterable[tuple]) -> tuple[int, int]:
        """Numbers of correct and of found mentions of a document."""
        document, text = self.documents[number], self.texts[number]
        found = {m for span in spans if (m := mention_of(document, text, *span[:3])) is not None}
        return len(found & self.gold[number]), len(found)

    def __call__(self, prediction: EvalPrediction, compute_result: bool = True) -> dict[str, Any]:
        if compute_result:
            by_document: dict[int, list[tuple]] = {}
            for number, spans in dict(gather_object(list(self.waiting.items()))).items():
                by_document.setdefault(self.places[number].document, []).extend(spans)
            for number, spans in by_document.items():
                counts = *self._right_and_found(number, flat_spans(spans)), 0
                self.totals[self.set_of[number]] += torch.tensor(counts)
            for number, gold in zip(self.set_of, self.gold, strict=True):
                self.totals[number, 2] += len(gold)
            self.waiting = {}
        return super().__call__(prediction, compute_result)


def places_of(document: int, windows: Sequence[Window]) -> list[Place]:
    """The windows of a document, with the limits of what belongs to each; a blank one has none."""
    if not windows:
        return []
    limits = [window.last + following.first for window, following in pairwise(windows)]
    lower, upper = [float("-inf"), *limits], [*limits, float("inf")]
    return [
        Place(document, window, low, high, len(windows) == 1)
        for window, low, high in zip(windows, lower, upper, strict=True)
    ]


def mention_of(
    document: Document, text: Tokenized, first: int, last: int, label: str
) -> tuple[int, int, str] | None:
    """The mention of a span without white space at its edges; None if it crosses texts."""
    start, end = text.spans[first][0], text.spans[last - 1][1]
    word = document.record.text[start:end]
    if word[:1].isspace() or word[-1:].isspace():
        end -= len(word) - len(word.rstrip())
        start += len(word) - len(word.lstrip())
    part = bisect_right(document.offsets, start)
    crosses = part < len(document.offsets) and end > document.offsets[part]
    return None if crosses or start >= end else (start, end, label)
