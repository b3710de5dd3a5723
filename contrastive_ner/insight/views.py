"""Texts in the model's space: vectors and probabilities of any span, doubts of the model.

Sections: reading, taggers, BINDER. A text is read in the windows that prediction uses; where two
of them overlap, each gives the states of its half. A tagger's mention vector is the mean of the
encoded tokens that stage one contrasts (the first token of each position), BINDER's is the
projection of the span that is compared with the types. Positions are those of `TextReader`.
"""

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from contrastive_ner.data.documents import join_documents
from contrastive_ner.data.records import Record
from contrastive_ner.models.batches_ner import DEFAULT_BATCH_SIZE, in_batches
from contrastive_ner.models.crf_ner import forward_backward, span_posterior, tag_table
from contrastive_ner.models.pipeline_ner import pad_windows
from contrastive_ner.models.windows_ner import Prepared, Tokenized, Window, word_range
from contrastive_ner.serving.inference import is_binder
from contrastive_ner.training.batches import model_inputs

if TYPE_CHECKING:
    from contrastive_ner.models.pipeline_ner import NerPipeline

STARTS_AT_ONCE = 256  # positions whose spans are compared at once
# A span of a text: first position, last position + 1.
Place = tuple[int, int]


# ------------------------------------------------------------------------------------------ reading
class View:
    """A record in a model's space. `offset` is its place in its document, in characters."""

    def __init__(self, record: Record, offset: int, space: "TaggerText | BinderText") -> None:
        self.record, self.offset, self.space = record, offset, space

    def place(self, start: int, end: int) -> Place | None:
        """The positions that characters [start, end) of the record touch; None if none."""
        spans = self.space.tokenized.spans
        first, last = word_range(spans, start + self.offset, end + self.offset)
        return (first, last) if first < last else None

    @property
    def whole(self) -> Place:
        """All positions of the record."""
        return self.place(0, len(self.record.text)) or (0, 0)


def views(
    pipeline: "NerPipeline",
    records: Sequence[Record],
    batch_size: int = DEFAULT_BATCH_SIZE,
    *,
    trained_on: bool = False,
    lexicon: Any = None,
    types: Any = None,
    **_options: Any,
) -> Iterator[View]:
    """Yield the records as a model sees them, in order.

    BINDER reads the texts of a document (`doc`) together, as in training.

    Args:
        trained_on: these are training texts: words of the lexicon that were taken from one of them
            alone are left out in it.
        lexicon, types: as in the pipeline's call; by default its own. Its other options do not
            matter.
    """
    options = {"lexicon": lexicon, "types": types}
    reading, forward, _writing = pipeline._sanitize_parameters(
        **{name: own for name, own in options.items() if own is not None}
    )
    words = {**pipeline._preprocess_params, **reading}.get("lexicon")
    kinds = {**pipeline._forward_params, **forward}.get("types")

    def read(own: list[str], first: int) -> list[Prepared]:
        return pipeline.preprocess(own, lexicon=words, held_out=trained_on)

    if is_binder(pipeline):
        units = [(d.record.text, d.parts, d.offsets) for d in join_documents(records)]
    else:
        units = [(record.text, [record], [0]) for record in records]
    model = pipeline.model
    encoder: Any = getattr(model, "nerco", model)
    kind: Any = BinderText if is_binder(pipeline) else TaggerText

    def run(windows: list[Window]) -> Any:
        batch = model_inputs(pad_windows(windows, pipeline.tokenizer.pad_token_id or 0))
        given = {name: tensor.to(model.device) for name, tensor in batch.items()}
        with torch.inference_mode():
            return encoder(**given).last_hidden_state.float().cpu()

    texts = (text for text, *_ in units)
    found = in_batches(texts, batch_size, read, run)
    for (_, parts, offsets), (row, states) in zip(units, found, strict=True):
        space = kind(model, row.tokenized, *joined_states(pipeline, row, states), kinds)
        for part, offset in zip(parts, offsets, strict=True):
            yield View(part, offset, space)


def joined_states(
    pipeline: "NerPipeline", row: Prepared, states: Sequence[Any]
) -> tuple[Tensor, Tensor]:
    """States of a text's tokens (T, H), and of the first token of the window of each (T, H)."""
    text, config = row.tokenized, pipeline.model.config
    size = config.encoder_config.hidden_size if is_binder(pipeline) else config.state_size
    own, openings = torch.zeros(len(text.ids), size), torch.zeros(len(text.ids), size)
    before = len(pipeline.reader.prefix)
    read = 0
    for window, hidden in zip(row.windows, states, strict=True):
        begin = text.first_token[window.first]
        end = begin + len(window.input_ids) - before - len(pipeline.reader.suffix)
        first = (begin + read) // 2 if read > begin else begin
        own[first:end] = hidden[before + first - begin : before + end - begin]
        openings[first:end] = hidden[0]
        read = end
    return own, openings


# ------------------------------------------------------------------------------------------ taggers
class TaggerText:
    """A text in the space of a tagger: `tokenized`, and functions of its spans."""

    def __init__(
        self, model: Any, text: Tokenized, states: Tensor, openings: Tensor, types: Any = None
    ) -> None:
        self.model, self.tokenized = model, text
        self.states = F.normalize(states[text.first_token], dim=-1)  # (L, H)
        with torch.inference_mode():
            logits = model.classifier(states[text.first_token].to(model.device))
        heat = model.config.score_temperature
        transitions, start = (x.detach().float().cpu().numpy() / heat for x in model.crf.scores())
        self.pairs, self.table = transitions, tag_table(model.config.labels)
        emissions = logits.float().cpu().numpy()[None] / heat  # (1, L, C)
        self.chances = forward_backward(emissions, transitions, start, np.array([len(logits)]))
        self.tags = (self.chances.alpha * self.chances.beta)[:, 0]  # (L, C)

    def vectors(self, places: Sequence[Place]) -> Tensor:
        """Vectors of spans, normalised: (N, H)."""
        rows = [self.states[first:last].mean(0) for first, last in places]
        return F.normalize(torch.stack(rows), dim=-1) if rows else self.states[:0]

    def probability(self, place: Place, label: str) -> float:
        """Probability that the span is a mention of this type, and nothing longer or shorter."""
        if label not in self.table.types:
            return 0.0
        kind = self.table.types.index(label)
        ids = (0, place[0], place[1] - 1, self.table.begin_of[kind], self.table.inside_of[kind])
        orphans = not self.model.config.constrain_transitions
        arrays = (np.array([number]) for number in ids)
        return float(span_posterior(self.chances, self.pairs, *arrays, accept_orphans=orphans)[0])

    def support(self, place: Place, label: str) -> float:
        """Probability of the tags of such a mention, at the position where it is least.

        The position behind it counts, too: there, that the mention does not go on.
        """
        if label not in self.table.types:
            return 0.0
        kind = self.table.types.index(label)
        tags = np.full(place[1] - place[0], self.table.inside_of[kind])
        tags[0] = self.table.begin_of[kind]
        inside = float(self.tags[np.arange(*place), tags].min())
        behind = self.tags[place[1] : place[1] + 1, self.table.inside_of[kind]]  # (1,) or (0,)
        return min(inside, 1 - float(behind.sum()))

    def nothing(self, place: Place) -> float:
        """Probability that no mention touches the span, at the position where it is least."""
        return float(self.tags[place[0] : place[1], 0].min())

    def doubts(self, place: Place) -> tuple[float, Tensor]:
        """Sum of the model's doubts between positions, and their place in space (H,).

        The doubt at a position is 1 minus the margin between its two most probable tags.
        """
        tags = np.sort(self.tags[place[0] : place[1]], axis=1)
        doubts = torch.from_numpy(1 - (tags[:, -1] - tags[:, -2])).float()  # (L,)
        return float(doubts.sum()), F.normalize(doubts @ self.states[place[0] : place[1]], dim=-1)


# ------------------------------------------------------------------------------------------- BINDER
class BinderText:
    """A text in the space of BINDER's spans; see `TaggerText`. `types`: instead of the model's."""

    def __init__(
        self, model: Any, text: Tokenized, states: Tensor, openings: Tensor, types: Any = None
    ) -> None:
        self.model, self.tokenized = model, text
        types = model.types if types is None else types
        self.labels, self.types = list(types.labels), types.vectors[2].float().cpu()
        with torch.inference_mode():
            heads = model.heads
            cast = heads.start.weight
            self.parts = heads(states[None].to(cast))
            self.opening = heads(openings[None].to(cast))
            self.scale = heads.log_scale[2].float().exp().cpu()

    def vectors(self, places: Sequence[Place]) -> Tensor:
        """Projections of spans, normalised: (N, D)."""
        return self._vectors(places)[0]

    def _vectors(self, places: Sequence[Place]) -> tuple[Tensor, Tensor]:
        """Projections of spans, and of the threshold of the window where each begins: (N, D)."""
        text = self.tokenized
        first = torch.tensor([text.first_token[a] for a, _ in places], dtype=torch.long)
        last = torch.tensor([text.last_token[b - 1] for _, b in places], dtype=torch.long)
        own_parts = (self.parts.left[0], self.parts.right[0], self.parts.width)
        left, right, width = (part.float().cpu() for part in own_parts)
        own = left[first] + right[last] + width[(last - first).clamp_max(len(width) - 1)]
        opening = self.opening.left[0].float().cpu() + self.opening.right[0].float().cpu()
        return F.normalize(own, dim=-1), F.normalize(opening[first] + width[0], dim=-1)

    def _probabilities(self, places: Sequence[Place]) -> Tensor:
        """Probabilities of spans and types, (N, E)."""
        return self._scores(*self._vectors(places))

    def _scores(self, own: Tensor, threshold: Tensor) -> Tensor:
        """Probabilities of vectors of spans, with those of their thresholds (N, D): (N, E)."""
        margins = self.scale * (own @ self.types.T - threshold @ self.types.T)
        config = self.model.config
        return (config.score_slope * margins.double() + config.score_intercept).sigmoid()

    def probability(self, place: Place, label: str) -> float:
        """Score of the span and this type."""
        if label not in self.labels:
            return 0.0
        return float(self._probabilities([place])[0, self.labels.index(label)])

    def support(self, place: Place, label: str) -> float:
        """The same as `probability`."""
        return self.probability(place, label)

    def _spans(self, first: int, last: int, starts: int | None = None) -> list[Place]:
        """All spans between positions that the model compares with the types.

        starts: end of the positions where they begin, if not `last`.
        """
        text, most = self.tokenized, self.model.config.max_span_width
        return [
            (a, b + 1)
            for a in range(first, last if starts is None else starts)
            for b in range(a, min(last, a + most))
            if text.last_token[b] - text.first_token[a] < most
        ]

    def nothing(self, place: Place) -> float:
        """Probability that no mention lies in the span: 1 - the best score of a span in it."""
        inside = self._spans(*place)
        return 1 - float(self._probabilities(inside).max()) if inside else 1.0

    def doubts(self, place: Place) -> tuple[float, Tensor]:
        """Sum of the model's doubts about spans between positions, and their place in space (D,).

        The doubt about a span and a type is 1 minus the margin between yes and no.
        """
        total, direction = 0.0, torch.zeros(self.types.shape[1])
        for first in range(*place, STARTS_AT_ONCE):
            last = min(first + STARTS_AT_ONCE, place[1])
            spans = self._spans(first, place[1], last)
            if spans:
                own, threshold = self._vectors(spans)
                doubts = (1 - (2 * self._scores(own, threshold) - 1).abs()).sum(1).float()  # (N,)
                total += float(doubts.sum())
                direction = direction + doubts @ own
        return total, F.normalize(direction, dim=-1)
