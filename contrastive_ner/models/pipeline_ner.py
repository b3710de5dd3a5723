"""Raw text to mentions: the pipeline for "ner" and "token-classification".

Sections: tokens for `windows_ner.TextReader`, batches, the pipeline. `windows_ner.py` splits texts
into windows and turns spans of windows into mentions. This file travels with the weights.
"""

from collections import deque
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from difflib import get_close_matches
from functools import partial
from typing import Any

import torch
from torch import Tensor
from transformers import Pipeline, PreTrainedTokenizerBase

from .batches_ner import DEFAULT_BATCH_SIZE, in_batches, items_of
from .checks_ner import in_evaluation, precision_for
from .encoder_ner import check_window
from .lattice_ner import LATTICE_INPUTS, fused_reader, lattice_arrays
from .lexicon_ner import lexicon_for, own_lexicon
from .matching_ner import lexicon_arrays
from .strict_ner import check_names
from .windows_ner import (
    InputError,
    Prepared,
    TextReader,
    Window,
    after_space,
    check_options,
    joined,
    least_scores,
    mention_dicts,
    prepare,
    word_range,
)

PIPELINES = {
    task: {
        "impl": "pipeline_ner.NerPipeline",
        "pt": ["AutoModelForTokenClassification"],
        "type": "text",
    }
    for task in ("ner", "token-classification")
}
OPTIONS = (
    "stride",
    "long_text",
    "coverage",
    "batch_size",
    "is_split_into_words",
    "delimiter",
    "aggregation_strategy",
    "ignore_labels",
    "types",
    "decoding",
    "min_score",
    "abstain_below",
    "top_k",
    "precision",
    "lexicon",
)
STRATEGIES = ("simple", "first", "average", "max")


# ------------------------------------------------------------------------------------------- tokens
def text_reader(
    tokenizer: PreTrainedTokenizerBase, *, label_unit: str, max_window_tokens: int
) -> TextReader:
    """A `TextReader` that uses `tokenizer`; the other arguments are those of `TextReader`.

    Raises:
        InputError: the tokenizer is slow, or special tokens alone fill the window.
    """
    if not tokenizer.is_fast:
        raise InputError(
            f"{type(tokenizer).__name__} is a slow tokenizer: expected a fast one, with offsets"
        )
    with refused_panic():
        with_special = tokenizer("a", return_special_tokens_mask=True)
    ids, special = with_special["input_ids"], with_special["special_tokens_mask"]
    inner = [i for i, is_special in enumerate(special) if not is_special] or [len(ids) // 2]
    prefix, suffix = ids[: inner[0]], ids[inner[-1] + 1 :]
    encode = partial(encode_texts, tokenizer)
    return TextReader(
        after_space(encode) if reads_after_space(tokenizer) else encode,
        prefix,
        suffix,
        label_unit=label_unit,
        max_window_tokens=max_window_tokens,
    )


def is_byte_level(tokenizer: PreTrainedTokenizerBase) -> bool:
    """Whether a tokenizer has byte-level tokens, of which a word has others after a space."""
    return tokenizer.is_fast and "ByteLevel(" in str(tokenizer.backend_tokenizer.pre_tokenizer)


def reads_after_space(tokenizer: PreTrainedTokenizerBase) -> bool:
    """Whether the first word of a text, and of each of its lines, is read like the others.

    So it is with a byte-level tokenizer that was made with `add_prefix_space=True`. Texts then
    begin with a space for the tokenizer, which offsets do not count.
    """
    return is_byte_level(tokenizer) and bool(getattr(tokenizer, "add_prefix_space", False))


def encode_texts(
    tokenizer: PreTrainedTokenizerBase, texts: list[str]
) -> Iterable[tuple[list[int], list[tuple[int, int]]]]:
    """Token ids and character offsets of each text, without special tokens."""
    with refused_panic():
        encoded = tokenizer(
            texts,
            add_special_tokens=False,
            return_offsets_mapping=True,
            return_attention_mask=False,
            return_token_type_ids=False,
            verbose=False,  # texts longer than the model's input are fine: they become windows
        )
    return zip(encoded["input_ids"], encoded["offset_mapping"], strict=True)


@contextmanager
def refused_panic() -> Iterator[None]:
    """Turn the tokenizers library's panic, which is no `Exception`, into an `InputError`."""
    try:
        yield
    except BaseException as error:
        if type(error).__name__ != "PanicException":
            raise
        raise InputError(f"the tokenizer cannot read a text: {error}") from error


def check_token_ids(tokenizer: PreTrainedTokenizerBase, model: Any) -> None:
    """Raise `InputError` if a tokenizer has token ids that a model has no vector for."""
    rows = getattr(model.get_input_embeddings(), "num_embeddings", None)
    largest = max(tokenizer.get_vocab().values(), default=-1)
    if rows is not None and largest >= rows:
        raise InputError(
            f"the tokenizer has token ids up to {largest}, but the encoder has vectors for {rows} "
            "tokens: they do not belong together"
        )


# ------------------------------------------------------------------------------------------ batches
def pad_windows(windows: Sequence[Window], pad_token_id: int) -> dict[str, Tensor]:
    """A right-padded batch: input_ids, attention_mask, word_mask, word_end_mask, each (B, T)."""
    return pad_rows(
        [window._asdict() for window in windows],
        {"input_ids": pad_token_id, "word_mask": False, "word_end_mask": False},
    )


def pad_rows(
    rows: Sequence[Mapping[str, Any]], fill: Mapping[str, int | bool]
) -> dict[str, Tensor]:
    """Right-padded tensors (B, T) and their attention_mask.

    Those of words are as from `lexicon_arrays` and `lattice_arrays`.

    Args:
        rows: lists over tokens by name, `input_ids` among them; `lexicon_words` lists words.
        fill: the names to include, with their padding values.
    """
    width = max(len(row["input_ids"]) for row in rows)
    batch = {
        name: torch.tensor([[*row[name], *[value] * (width - len(row[name]))] for row in rows])
        for name, value in fill.items()
    }
    lengths = torch.tensor([len(row["input_ids"]) for row in rows])
    batch.setdefault("attention_mask", (torch.arange(width)[None, :] < lengths[:, None]).long())
    if any("lexicon_words" in row for row in rows):
        arrays = lexicon_arrays([row.get("lexicon_words", ()) for row in rows], width)
        batch |= {name: torch.from_numpy(array) for name, array in arrays.items()}
    if any("lattice_chars" in row for row in rows):
        chars, words = ([row[name] for row in rows] for name in LATTICE_INPUTS)
        arrays = lattice_arrays(chars, words, width)
        batch |= {name: torch.from_numpy(array) for name, array in arrays.items()}
    return batch


# ----------------------------------------------------------------------------------------- pipeline
class NerPipeline(Pipeline):
    """Finds mentions in raw texts: `pipeline("ner", model=DIR, trust_remote_code=True)`.

    A string gives a list of mentions, a list of strings a list of lists. Any other iterable of
    strings (a generator, a `KeyDataset`) gives an iterator that reads 32 batches ahead; of a
    map-style data set, `len()` items are read. A
    mention is a dict of plain Python values: `entity_group, score, word, start, end`, where
    `text[start:end] == word` always holds. It neither begins nor ends with white space: where the
    span that the model found does, the mention is the rest of it, with the span's score.

    Texts longer than the model's window are read in overlapping windows; the window in which a
    mention lies farther from the edge decides. Nothing is truncated.

    Args:
        stride: overlap of windows in tokens; by default a quarter of the window, and at least
            BINDER's widest span, so that some window contains each mention completely.
        long_text: "window" (default), or "error" to raise `InputError` for texts longer than a
            window.
        coverage: return {"entities": mentions, "coverage": share of the text read by the model,
            "windows": number of windows} for each text.
        batch_size: windows per forward pass; 32 by default.
        is_split_into_words: texts are lists of words; mentions also have the words they touch:
            `start_word, end_word`, half-open.
        delimiter: text between words; by default what stood between those of the training data. If
            these had no words: a space, or nothing for models that label every token, such as the
            Chinese ones.
        aggregation_strategy: accepted for compatibility ("simple", "first", "average", "max"); the
            model decodes whole mentions, so every strategy returns them. "none", which elsewhere
            gives tokens, is refused.
        ignore_labels: entity groups to leave out; "O" is accepted, and no mention has it.
        types: BINDER only: entity types to use instead of the trained ones, as
            {label: description} or the result of `encode_types`.
        decoding: BINDER only: "nested" or "flat"; by default the model's setting.
        min_score: in (0, 1), a number or {entity group: number}; keep only mentions with a score
            above it. BINDER's own limit is its threshold, a score near 0.5; a lower limit finds
            more mentions.
        abstain_below: like `min_score`, but keeps the mentions and marks them as `abstained`, to
            be decided by a person; adds that key to every mention.
        top_k: add `labels` to each mention: the scores of the K best types of its span, a list of
            {"label", "score"}.
        precision: when the pipeline is made, not in a call: convert the model's weights to
            "float32", to "bfloat16", or with "auto" to the faster one: bfloat16 where the device
            computes in it, else float32. By default they stay as they were loaded.
        lexicon: of a model with `lexicon_fusion`: words instead of those that it was saved with, as
            the name of a file, a list, {word: type} or a `Lexicon`; False for no words.
        held_out: whether texts are of the training data: words that one is the source of are none.
    """

    _load_tokenizer = True
    _load_processor = _load_image_processor = _load_video_processor = _load_feature_extractor = (
        False
    )

    def __init__(self, *args: Any, precision: str | None = None, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        if self.tokenizer is None:
            raise InputError(
                "NerPipeline needs a tokenizer: PreTrainedTokenizerFast.from_pretrained(FOLDER)"
            )
        config = self.model.config
        check_window(config)
        check_token_ids(self.tokenizer, self.model)
        self.reader = text_reader(
            self.tokenizer, label_unit=config.label_unit, max_window_tokens=config.max_window_tokens
        )
        self._check_groups(self._forward_params, self._postprocess_params)
        if precision is not None:
            self.model.to(getattr(torch, precision_for(precision, self.device)))
        self.model.eval()

    def _reader_with(self, lexicon: Any, *, held_out: bool = False) -> TextReader:
        """The reader for a call: with the words of `lexicon`, or if it is None the model's own."""
        if getattr(self.model.config, "lexicon_fusion", "none") == "none":
            return self.reader
        own = own_lexicon(self.model) if lexicon is None else lexicon
        return fused_reader(
            self.reader, self.model.config, own, self.model.vocabulary, held_out=held_out
        )

    def _groups(self, forward: dict) -> list[str]:
        """The entity groups that a call with these options can find."""
        return forward["types"].labels if "types" in forward else self.model.config.entity_types

    def _check_groups(self, forward: dict, writing: dict) -> None:
        """Raise `InputError` if `ignore_labels` names a group that is never found."""
        ignored = set(writing.get("ignore_labels", ())) - {"O"}
        check_names(map(str, ignored), self._groups(forward), "entity group in ignore_labels")

    def _sanitize_parameters(
        self,
        stride: int | None = None,
        long_text: str | None = None,
        coverage: bool | None = None,
        is_split_into_words: bool | None = None,
        delimiter: str | None = None,
        aggregation_strategy: Any = None,
        ignore_labels: Sequence[str] | None = None,
        types: Any = None,
        decoding: str | None = None,
        min_score: float | Mapping[str, float] | None = None,
        abstain_below: float | Mapping[str, float] | None = None,
        top_k: int | None = None,
        lexicon: Any = None,
        held_out: bool | None = None,
        **unknown: Any,
    ) -> tuple[dict, dict, dict]:
        refuse_unknown(unknown)
        check_strategy(aggregation_strategy)
        check_options(
            ignore_labels=ignore_labels,
            decoding=decoding,
            long_text=long_text,
            min_score=min_score,
            abstain_below=abstain_below,
            top_k=top_k,
        )
        if (types, decoding) != (None, None) and not hasattr(self.model, "encode_types"):
            raise InputError(
                "types and decoding are a BINDER model's options: "
                "this model tags only the types it was trained on, without overlap"
            )
        if delimiter is not None and not isinstance(delimiter, str):
            raise InputError(f"delimiter is {delimiter!r}: expected a string")
        if isinstance(types, Mapping) and self.tokenizer is not None:
            types = self.model.encode_types(types, self.tokenizer)
        elif types is not None and not hasattr(types, "fingerprint"):
            raise InputError(
                f"types is {types!r}: expected {{label: description}} (needs a tokenizer) "
                "or the result of encode_types"
            )
        return (
            given(
                stride=stride,
                long_text=long_text,
                is_split_into_words=is_split_into_words,
                delimiter=delimiter,
                lexicon=None if lexicon is None else lexicon_for(lexicon, self.model.config),
                held_out=held_out,
            ),
            given(types=types, min_score=min_score, top_k=top_k),
            given(
                ignore_labels=ignore_labels,
                decoding=decoding,
                abstain_below=abstain_below,
                coverage=coverage,
            ),
        )

    def __call__(
        self,
        inputs: Any,
        *,
        batch_size: int | None = None,
        num_workers: int | None = None,
        **kwargs: Any,
    ) -> Any:
        """See the class. `num_workers` is ignored: tokenization is batched in this process."""
        options = self._sanitize_parameters(**kwargs)
        defaults = (self._preprocess_params, self._forward_params, self._postprocess_params)
        reading, forward, writing = (
            {**default, **own} for default, own in zip(defaults, options, strict=True)
        )
        sizes = (batch_size, self._batch_size, DEFAULT_BATCH_SIZE)
        size = next(value for value in sizes if value is not None)
        split = reading.pop("is_split_into_words", False)
        usual = "" if self.model.config.label_unit == "token" else " "
        joiner = getattr(self.model.config, "joiner", None)
        delimiter = reading.pop("delimiter", usual if joiner is None else joiner)
        stream = partial(self._stream_of_words, delimiter=delimiter) if split else self._stream
        run = partial(stream, batch_size=size, reading=reading, forward=forward, writing=writing)
        if isinstance(inputs, str) or (split and is_list_of(str, inputs) and inputs):
            return next(run([inputs]))
        if isinstance(inputs, list | tuple):
            return list(run(inputs))
        if isinstance(inputs, bytes | Mapping) or not (
            isinstance(inputs, Iterable) or hasattr(inputs, "__getitem__")
        ):
            raise InputError(
                f"expected a string or an iterable of strings, found {type(inputs).__name__}"
            )
        return run(inputs if isinstance(inputs, Iterable) else items_of(inputs))

    def _stream(
        self, texts: Iterable[str], batch_size: int, reading: dict, forward: dict, writing: dict
    ) -> Iterator[Any]:
        """Results in input order; reads `BATCHES_AHEAD` batches ahead."""
        self._check_groups(forward, writing)
        writing = {**writing, "later": self._later(forward)}
        limits = writing.get("abstain_below")
        if limits is not None:
            types = self._groups(forward)
            writing = {**writing, "abstain_below": least_scores(limits, types, "abstain_below")}

        def read(texts: list[str], first: int) -> list[Prepared]:
            return self.preprocess(texts, first=first, **reading)

        def run(windows: list[Window]) -> list[list]:
            with torch.inference_mode(), in_evaluation(self.model):
                return self._forward(
                    pad_windows(windows, self.tokenizer.pad_token_id or 0), **forward
                )

        for found in in_batches(texts, batch_size, read, run):
            yield self.postprocess(found, **writing)

    def _stream_of_words(
        self, rows: Iterable[Sequence[str]], delimiter: str, **options: Any
    ) -> Iterator[Any]:
        """`_stream` for texts that are lists of words."""
        waiting: deque[list[tuple[int, int]]] = deque()

        def texts() -> Iterator[str]:
            for number, words in enumerate(rows):
                if not is_list_of(str, words):
                    raise InputError(
                        f"text {number}: expected a list of words, with is_split_into_words"
                    )
                text, offsets = joined(words, delimiter)
                waiting.append(offsets)
                yield text

        for result in self._stream(texts(), **options):
            offsets = waiting.popleft()
            for mention in result if isinstance(result, list) else result["entities"]:
                mention["start_word"], mention["end_word"] = word_range(
                    offsets, mention["start"], mention["end"]
                )
            yield result

    def preprocess(
        self,
        input_: Sequence[str],
        stride: int | None = None,
        long_text: str = "window",
        first: int = 0,
        lexicon: Any = None,
        held_out: bool = False,
    ) -> list[Prepared]:
        """Texts -> tokens and windows; `first` is the index of the first text, for the error."""
        overlap = self.model.config.min_overlap
        return prepare(
            self._reader_with(lexicon, held_out=held_out),
            input_,
            min_overlap=overlap,
            stride=stride,
            long_text=long_text,
            first=first,
        )

    def _forward(self, input_tensors: dict[str, Tensor], **options: Any) -> list[list]:
        """A padded batch of windows -> spans over each window's positions."""
        inputs = {name: tensor.to(self.device) for name, tensor in input_tensors.items()}
        word_mask, word_end_mask = inputs.pop("word_mask"), inputs.pop("word_end_mask")
        return self.model.decode(self.model(**inputs), word_mask, word_end_mask, **options)

    def _later(self, forward: dict) -> list[str]:
        """Types that give way to others where mentions must not overlap (BINDER)."""
        if "types" in forward:
            return list(getattr(forward["types"], "fitted", ()))
        return list(getattr(self.model, "later_types", ()))

    def postprocess(
        self,
        model_outputs: tuple,
        decoding: str | None = None,
        coverage: bool = False,
        later: Sequence[str] | None = None,
        **options: Any,
    ) -> Any:
        """A text with the spans of its windows -> its mentions, ordered by their offsets."""
        row, spans = model_outputs
        config = self.model.config
        mentions = mention_dicts(
            row,
            spans,
            flat=(decoding or config.decoding) == "flat",
            later=self._later({}) if later is None else later,
            **options,
        )
        if not coverage:
            return mentions
        share = self.reader.coverage(row.tokenized, row.windows)
        return {"entities": mentions, "coverage": share, "windows": len(row.windows)}


def refuse_unknown(names: Iterable[str]) -> None:
    """Raise `InputError` for arguments that the pipeline does not have, if there are any."""
    if "precision" in names:
        raise InputError("precision is chosen when the pipeline is made, not in a call")
    if unknown := sorted(names):
        close = ", ".join(get_close_matches(unknown[0], OPTIONS, n=1))
        raise InputError(
            f"unknown pipeline arguments {unknown}: expected {', '.join(OPTIONS)}"
            + f" (did you mean {close}?)" * bool(close)
        )


def check_strategy(strategy: Any) -> None:
    """Raise `InputError` for an `aggregation_strategy` that does not give whole mentions."""
    name = getattr(strategy, "value", strategy)  # transformers has an enumeration of them
    if name is not None and name not in STRATEGIES:
        raise InputError(
            f"aggregation_strategy is {name!r}: expected one of {', '.join(STRATEGIES)}; the model "
            "finds whole mentions and gives no tokens"
        )


def given(**options: Any) -> dict[str, Any]:
    """The options that are not None."""
    return {name: value for name, value in options.items() if value is not None}


def is_list_of(kind: type, value: Any) -> bool:
    """Whether `value` is a list or tuple with only items of type `kind`."""
    return isinstance(value, list | tuple) and all(isinstance(item, kind) for item in value)
