"""Types from a few examples: a BINDER model learns further types, and its weights stay as they are.

A type is found by one vector: a span is a mention if its score against the vector exceeds that of
the window's first token. The vector of a description is a start. `fit_vector` moves it so that the
examples' mentions score above all other spans and above the first token, and these below it, with
the losses of training (`contrast`). Text encoder and projections are only read. The problem is
convex: the result does not depend on chance.
"""

import copy
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F

from contrastive_ner.data.documents import join_documents
from contrastive_ner.data.records import Mention, Record, entity_types, outermost
from contrastive_ner.errors import ConfigError, DataError
from contrastive_ner.evaluation.confusions import first_of
from contrastive_ner.evaluation.metrics import span_scores
from contrastive_ner.logs import log
from contrastive_ner.models.modeling_binder import candidate_spans, contrast
from contrastive_ner.models.pipeline_ner import text_reader
from contrastive_ner.training.batches import SpanCollator
from contrastive_ner.training.features import SpanReport, span_features

MOST_LEFT_OUT = 20  # up to as many texts, each is left out once; more are divided into folds
FOLDS = 10
# How firmly the vector stays with its description: with the first token's direction apart, which
# sets the threshold, and along it.
PRIOR, THRESHOLD_PRIOR = 0.5, 0.01
STEPS = 200  # of the minimisation, at most
WINDOWS_AT_ONCE = 16
# What a model remembers of its weights, besides its configuration and buffers.
STATE = (
    "_must_encode", "_texts_read", "_stored_state", "_fitted_state", "_fitted_digest",
    "_unfit_state", "_calibrated",
)  # fmt: skip


def add_types(
    model: Any,
    tokenizer: Any,
    types: Mapping[str, str | Sequence[str]],
    examples: Sequence[Record],
) -> dict[str, dict[str, Any]]:
    """Add entity types to a BINDER model, each fitted to its mentions in a few annotated texts.

    The mentions of the types before stay the same, to the last digit of their scores: where only
    one of overlapping spans may stay, those of the new type give way. A fit ends when the weights
    change; the type is then found by its description.

    Args:
        model: the model, which is changed in place; `save_pretrained` keeps the fits.
        tokenizer: of the model.
        types: {entity type: description}, or a list of the description and its variants.
        examples: texts with all their mentions of the new types; those of other types of the model
            may also be there. Texts without mentions help: all their spans are negatives.

    Returns:
        For each type: `texts`, `mentions` (those that were learnt), `folds` (how often it was
        fitted to a part of the texts and tested on the rest; 0 if only one text has mentions),
        `left_out` (micro scores of that test, None without it), `described` (scores of the
        description alone on all examples).

    Raises:
        ConfigError: the model is not a BINDER model, has one threshold for all types, or an
            adapter; or `types` is empty.
        DataError: the examples have no mention of a type, none that the model could find, or
            mentions of a type that neither the model nor `types` has.
        InputError: a type is there already; a description is blank or too long; or the model was
            exported without its type encoder.
    """
    if getattr(model.config, "model_type", None) != "binder":
        raise ConfigError(
            "types are added from examples to a BINDER model: a tagger learns further types by "
            "training (init_model)"
        )
    if model.config.threshold == "global":
        raise ConfigError(
            "types are added from examples to a model whose types have thresholds of their own "
            "(threshold: token); this one has one for all types (threshold: global)"
        )
    if getattr(model, "_hf_peft_config_loaded", False):
        raise ConfigError(
            "types are added from examples to a model without adapters, whose files would not hold "
            "them: merge the adapter, or delete it"
        )
    if not types:
        raise ConfigError("types is empty: expected {entity type: description}")
    check_examples(examples, types, model.config.labels)
    known = {texts[0].casefold(): name for name, texts in model.config.descriptions.items()}
    for label, text in types.items():
        if isinstance(text, str) and (other := known.get(text.casefold())):
            log.warning("%s is described as %s is; describe how the two differ", label, other)
    with as_it_was_on_error(model):
        # All errors of the examples come before the first change.
        read = read_examples(model, tokenizer, [*types], examples)
        model.add_labels(types, tokenizer)
        return fit_types(model, tokenizer, read)


@contextmanager
def as_it_was_on_error(model: Any) -> Iterator[None]:
    """In evaluation mode for a while; after an error, the model has the types it had before."""
    modes = {module: module.training for module in model.modules()}
    own, settings = vars(model).copy(), copy.deepcopy(vars(model.config))
    buffers = {name: value.clone() for name, value in model.named_buffers(recurse=False)}
    try:
        model.eval()
        yield
    except BaseException:
        vars(model.config).update(settings)
        for name, value in buffers.items():
            setattr(model, name, value)
        for name in STATE:
            setattr(model, name, own.get(name, getattr(type(model), name, None)))
        raise
    finally:
        for module, mode in modes.items():
            module.training = mode


def check_examples(examples: Sequence[Record], types: Iterable[str], known: Sequence[str]) -> None:
    """Raise DataError for a new type without example, or an unknown one; see `add_types`."""
    found = entity_types(examples)
    unknown = sorted(set(found) - {*types, *known})
    if unknown:
        raise DataError(
            f"examples: expected mentions of {', '.join(types)} and of the model's types "
            f"({', '.join(known)}), found also {', '.join(unknown)}; describe them as well, or "
            "take them out"
        )
    for label in types:
        if label not in found:
            raise DataError(
                f"examples: expected mentions of {label!r}, found none in {len(examples)} texts "
                f"(their types: {', '.join(found) or 'none'}); add a text with one"
            )


def fit_types(
    model: Any, tokenizer: Any, read: Mapping[str, tuple[list["ExampleText"], SpanReport]]
) -> dict[str, dict[str, Any]]:
    """Measure and fit types that the model has by their descriptions, from their examples.

    All types are fitted to the same texts and tested on the others: where mentions must not
    overlap, types compete.
    """
    pipeline = model.pipeline(tokenizer, device=model.device)
    types = model.types
    starts = {label: types.vectors[2, types.labels.index(label)].detach().float() for label in read}
    scale = model.heads.log_scale[2].detach().float().exp()
    examples = {label: texts for label, (texts, _) in read.items()}
    raw = [text.record.text for text in next(iter(examples.values()))]

    def fit(numbers: Sequence[int]) -> None:
        for label, texts in examples.items():
            windows = [window for number in numbers for window in texts[number].windows]
            learns = any(window.gold for window in windows)
            vector = fit_vector(starts[label], scale, windows) if learns else starts[label]
            model.fit_label(label, vector)

    def tagged(numbers: Sequence[int]) -> list[list[dict[str, Any]]]:
        return pipeline([raw[number] for number in numbers])

    def scores(label: str, rows: Sequence[list[dict]], numbers: Sequence[int]) -> dict[str, Any]:
        found = [
            [Mention(m["start"], m["end"], label) for m in row if m["entity_group"] == label]
            for row in rows
        ]
        return span_scores(found, [examples[label][number].gold for number in numbers])["micro"]

    every = list(range(len(raw)))
    described = tagged(every)
    folds = folds_of(list(examples.values()))
    order = [number for fold in folds for number in fold]
    left_out: list[list[dict[str, Any]]] = []
    for fold in folds:
        fit([number for number in every if number not in fold])
        left_out += tagged(fold)
    fit(every)
    report = {}
    for label, (texts, counts) in read.items():
        times = len(folds) if len(teaching(texts)) > 1 else 0
        report[label] = {
            "texts": len(texts),
            "mentions": counts.mentions,
            "folds": times,
            "left_out": scores(label, left_out, order) if times else None,
            "described": scores(label, described, every),
        }
    return report


def teaching(texts: Sequence["ExampleText"]) -> set[str]:
    """The different texts with mentions that can be learnt."""
    return {text.record.text for text in texts if any(window.gold for window in text.windows)}


def folds_of(types: Sequence[Sequence["ExampleText"]]) -> list[list[int]]:
    """The numbers of the texts of each fold; none if no type has two texts with mentions to learn.

    Equal texts are in one fold, and those with mentions are dealt out first.

    Args:
        types: the same texts for each type.
    """
    groups: dict[str, list[int]] = {}
    for number, text in enumerate(types[0]):
        groups.setdefault(text.record.text, []).append(number)
    taught = [teaching(texts) for texts in types]
    if max(map(len, taught)) < 2:
        return []
    # Those of the rarest type first: its texts then are in as many folds as can be.
    taught.sort(key=len)
    rank = {text: place for place, texts in reversed([*enumerate(taught)]) for text in texts}
    dealt = sorted(groups, key=lambda text: rank.get(text, len(taught)))
    count = len(groups) if len(groups) <= MOST_LEFT_OUT else FOLDS
    folds: list[list[int]] = [[] for _ in range(count)]
    for place, own in enumerate(dealt):
        folds[place % count] += groups[own]
    return folds


# ------------------------------------------------------------------------------------------ reading
class ExampleWindow(NamedTuple):
    """A window of an example: vectors (1 + N, D) of its first token and its spans.

    `gold` are the numbers of the spans that are mentions, the first of which is 1.
    """

    vectors: Tensor
    gold: list[int]


class ExampleText(NamedTuple):
    """A text or document with its mentions of a type, and its windows.

    In the output of a flat model, mentions do not overlap: `gold` then are the outermost ones.
    """

    record: Record
    gold: list[Mention]
    windows: list[ExampleWindow]


def read_examples(
    model: Any, tokenizer: Any, types: Sequence[str], examples: Sequence[Record]
) -> dict[str, tuple[list[ExampleText], SpanReport]]:
    """The examples of each type, as the model sees them, and counts of the type's mentions.

    Raises:
        DataError: no mention of a type is one that the model can find.
    """
    config = model.config
    reader = text_reader(
        tokenizer, label_unit=config.label_unit, max_window_tokens=config.max_window_tokens
    )
    width = config.max_span_width
    texts: dict[str, list[ExampleText]] = {label: [] for label in types}
    totals = {label: SpanReport(max_width=width) for label in types}
    for document in join_documents(examples):
        windows: list[WindowSpans] = []
        for label in types:
            own = [mention for mention in document.record.entities if mention.label == label]
            record = replace(document.record, entities=own)
            features, report = span_features(
                [record], reader, [label], max_width=width, overlap=width
            )
            windows = windows or read_windows(model, features)  # the same for all types
            gold = own if config.decoding == "nested" else outermost(own)[0]
            texts[label].append(ExampleText(record, gold, with_gold(windows, features)))
            totals[label] += report
    for label, total in totals.items():
        left_out = (
            f"{total.misaligned} not on word boundaries{first_of(total.places)}, {total.too_wide} "
            f"wider than max_span_width, {total.max_width} tokens"
        )
        if not total.mentions:
            raise DataError(
                f"examples: expected mentions of {label!r} that the model can find, found "
                f"{left_out}"
            )
        if total.misaligned or total.too_wide:
            log.warning("%s: mentions left out: %s", label, left_out)
    return {label: (texts[label], totals[label]) for label in types}


class WindowSpans(NamedTuple):
    """What the model makes of a window: vectors (1 + N, D) of its first token and its spans.

    `places` gives the number of a span, the first of which is 1, by its first and last token.
    """

    vectors: Tensor
    places: dict[tuple[int, int], int]


def with_gold(windows: Sequence[WindowSpans], features: Sequence[dict]) -> list[ExampleWindow]:
    """The windows of a text with the mentions of a type, from its features with that type alone."""
    found = []
    for window, feature in zip(windows, features, strict=True):
        numbers = [window.places.get((first, last)) for _, first, last in feature["labels"]]
        gold = [number for number in numbers if number is not None]
        found.append(ExampleWindow(window.vectors, gold))
    return found


@torch.no_grad()
def read_windows(model: Any, features: Sequence[dict]) -> list[WindowSpans]:
    """The windows of a text, read by the model; the labels of the features do not matter."""
    collate = SpanCollator(model.config.encoder_config.pad_token_id or 0)
    windows = []
    for begin in range(0, len(features), WINDOWS_AT_ONCE):
        part = features[begin : begin + WINDOWS_AT_ONCE]
        batch = {name: value.to(model.device) for name, value in collate(part).items()}
        hidden = model(batch["input_ids"], batch["attention_mask"]).last_hidden_state
        with torch.autocast(hidden.device.type, enabled=False):
            parts = model.heads(hidden.to(model.heads.start.weight.dtype))
            width = min(model.config.max_span_width, hidden.shape[1])
            spans = candidate_spans(batch["word_mask"], batch["word_end_mask"], width)
            for row in range(len(part)):
                cells = spans[row].nonzero()  # (N, 2) first token, width - 1
                opening = torch.tensor([[0, 0]], device=cells.device)
                cells = torch.cat([opening, cells])
                cells = torch.cat([torch.full_like(cells[:, :1], row), cells], dim=1)
                vectors = model.heads.span_vectors(parts, cells)
                places = {
                    (first, first + wide): number
                    for number, (_, first, wide) in enumerate(cells.tolist())
                    if number  # 0 is the first token
                }
                windows.append(WindowSpans(vectors, places))
    return windows


# ---------------------------------------------------------------------------------------- the fit
def fit_vector(start: Tensor, scale: Tensor, windows: Sequence[ExampleWindow]) -> Tensor:
    """The vector (D,) that tells the mentions of the windows from all other spans.

    Minimises the mean mention loss and the mean threshold loss of the windows, and half of
    `PRIOR` times the squared distance to `start`, by L-BFGS. Along the mean direction of the first
    tokens, which moves the threshold, the distance weighs `THRESHOLD_PRIOR` instead.

    Args:
        start: (D,) vector of the description.
        scale: what scores are multiplied by.
        windows: with at least one mention.
    """
    sizes = [len(window.vectors) for window in windows]
    is_cell = torch.arange(max(sizes))[None, :] < torch.tensor(sizes)[:, None]
    is_cell = is_cell.to(start.device)  # (B, C) in each window the first token, then the spans
    negative = is_cell.clone()
    negative[:, 0] = False
    for row, window in enumerate(windows):
        negative[row, window.gold] = False
    places = [(row, number) for row, window in enumerate(windows) for number in window.gold]
    rows, cells = torch.tensor(places, device=start.device).unbind(1)
    weights, types = torch.ones(len(rows), device=start.device), torch.zeros_like(rows)
    opening = F.normalize(
        torch.stack([window.vectors[0] for window in windows]).mean(0), dim=0
    )  # (D,)
    vector = start.clone().requires_grad_()
    optimizer = torch.optim.LBFGS(
        [vector], max_iter=STEPS, history_size=20, line_search_fn="strong_wolfe"
    )

    def loss() -> Tensor:
        optimizer.zero_grad()
        scores = torch.zeros(is_cell.shape, device=start.device)
        # One window at a time: together, the vectors would take their memory a second time.
        scaled = scale * vector
        products = torch.cat([window.vectors @ scaled for window in windows])
        scores = scores.masked_scatter(is_cell, products)[:, None]  # (B, 1, C)
        mention, threshold = contrast(scores, negative[:, None], rows, types, cells, weights)
        step = vector - start
        along = step @ opening
        across = step - along * opening
        distance = PRIOR * (across @ across) + THRESHOLD_PRIOR * along.square()
        total = mention + threshold + distance / 2
        total.backward()
        return total

    with torch.enable_grad(), torch.autocast(start.device.type, enabled=False):
        optimizer.step(loss)
    return vector.detach()
