"""Raw text -> mentions: the project's pipeline for "ner" and "token-classification", and the way texts become model inputs.

Sections: label positions, windows, the pipeline, spans of a text. Training reads texts through the same `TextReader`, so that a
model sees in `pipeline("ner")` exactly what it saw in training. This file travels with the weights.

Words: a *position* is what carries one label (a token of a character tokenizer, or the first token of a word); a *window* is a
run of positions that fits the model. Offsets count code points, half-open.
"""

import re
import sys
import unicodedata
from bisect import bisect_left, bisect_right
from collections.abc import Iterable, Iterator, Mapping, Sequence
from functools import lru_cache
from itertools import islice, pairwise
from typing import Any, NamedTuple

import torch
from torch import Tensor
from transformers import Pipeline, PreTrainedTokenizerBase

PIPELINES = {
    task: {"impl": "pipeline_ner.NerPipeline", "pt": ["AutoModelForTokenClassification"], "type": "text"}
    for task in ("ner", "token-classification")
}
DECODINGS = ("nested", "flat")
DEFAULT_BATCH_SIZE = 32
LONG_TEXTS = ("window", "error")
WINDOWS_PER_BATCH = 16  # how many batches of windows are read ahead and sorted by length


# ------------------------------------------------------------------------------------------------------- label positions
@lru_cache(maxsize=1)
def _word_pattern() -> re.Pattern[str]:
    """A word: one ideograph, kana or other character of a script without spaces; or a run of letters, digits, marks; or one symbol."""
    marks = "".join(c for c in map(chr, range(sys.maxunicode + 1)) if unicodedata.category(c)[0] == "M")
    single = "\u3005-\u3007\u3040-\u30ff\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff\U00020000-\U0003fffd"
    return re.compile(f"[{single}]|[^\\W{single}](?:[^\\W{single}]|[{re.escape(marks)}])*|\\S")


def word_starts(text: str) -> set[int]:
    """Offsets at which a word of `text` starts: a rule of the text alone, the same for every tokenizer.

    >>> sorted(word_starts("Hi, 北京 2024"))
    [0, 2, 4, 5, 7]
    """
    return {match.start() for match in _word_pattern().finditer(text)}


class Tokenized(NamedTuple):
    """A text's tokens without special ones: `ids`; for each position its first and its last token, and its characters."""

    ids: list[int]
    first_token: list[int]
    last_token: list[int]
    spans: list[tuple[int, int]]


class Window(NamedTuple):
    """A model input: ids with special tokens; `word_mask`, `word_end_mask` mark the first and last tokens of positions.

    It holds the positions [first, last) of the text.
    """

    input_ids: list[int]
    word_mask: list[bool]
    word_end_mask: list[bool]
    first: int
    last: int


class TextReader:
    """Turns texts into tokens, label positions and windows, the same way in training and inference.

    Args:
        tokenizer: a fast tokenizer.
        label_unit: "token" (every token is a position) or "word" (the first token of each word).
        max_window_tokens: longest window, special tokens included.

    Raises:
        ValueError: the tokenizer is slow, or no room is left beside the special tokens.
    """

    def __init__(self, tokenizer: PreTrainedTokenizerBase, *, label_unit: str, max_window_tokens: int) -> None:
        if not tokenizer.is_fast:
            raise ValueError(f"{type(tokenizer).__name__} is a slow tokenizer: offsets need a fast one")
        self.tokenizer, self.label_unit = tokenizer, label_unit
        with_special = tokenizer("a", return_special_tokens_mask=True)
        ids, special = with_special["input_ids"], with_special["special_tokens_mask"]
        inner = [i for i, is_special in enumerate(special) if not is_special] or [len(ids) // 2]
        self.prefix, self.suffix = ids[: inner[0]], ids[inner[-1] + 1 :]
        self.capacity = max_window_tokens - len(self.prefix) - len(self.suffix)
        if self.capacity < 1:
            raise ValueError(f"max_window_tokens is {max_window_tokens}: too small for {len(ids)} special tokens")

    def tokenize(self, texts: Sequence[str]) -> list[Tokenized]:
        """Tokens and positions of each text. Lone surrogates are read as U+FFFD; offsets stay exact."""
        if not texts:
            return []
        readable = [re.sub("[\ud800-\udfff]", "\ufffd", text) for text in texts]
        encoded = self.tokenizer(
            readable,
            add_special_tokens=False,
            return_offsets_mapping=True,
            return_attention_mask=False,
            return_token_type_ids=False,
            verbose=False,  # texts longer than the model are expected here: they are windowed
        )
        rows = zip(readable, encoded["input_ids"], encoded["offset_mapping"], strict=True)
        return [self._positions(text, ids, offsets) for text, ids, offsets in rows]

    def _positions(self, text: str, ids: list[int], offsets: list[tuple[int, int]]) -> Tokenized:
        if self.label_unit == "token":
            every = list(range(len(ids)))
            return Tokenized(ids, every, every, offsets)
        starts = word_starts(text)
        first_token: list[int] = []
        last_token: list[int] = []
        spans: list[tuple[int, int]] = []
        for token, (start, end) in enumerate(offsets):
            while start < end and text[start].isspace():  # byte-level and SentencePiece tokens may include the space
                start += 1
            while end > start and text[end - 1].isspace():
                end -= 1
            if start == end:
                continue
            if start in starts and (not spans or start >= spans[-1][1]):
                first_token.append(token)
                last_token.append(token)
                spans.append((start, end))
            elif spans:
                last_token[-1] = token
                spans[-1] = (spans[-1][0], max(end, spans[-1][1]))
            else:  # a token that starts inside the text's first word: its position all the same
                first_token.append(token)
                last_token.append(token)
                spans.append((start, end))
        return Tokenized(ids, first_token, last_token, spans)

    def window(self, text: Tokenized, first: int, last: int) -> Window:
        """Positions [first, last) as a model input. Sub-word tails beyond the capacity (one endless word) are cut."""
        begin = text.first_token[first]
        end = text.first_token[last] if last < len(text.first_token) else len(text.ids)
        ids = text.ids[begin:end][: self.capacity]
        every_token = last - first == len(ids)  # each is a position: no need to look where they are
        starts, ends = [every_token] * len(ids), [every_token] * len(ids)
        if not every_token:
            for token in text.first_token[first:last]:
                starts[token - begin] = True
            for token in text.last_token[first:last]:
                ends[min(token - begin, len(ids) - 1)] = True
        before, after = [False] * len(self.prefix), [False] * len(self.suffix)
        return Window(self.prefix + ids + self.suffix, before + starts + after, before + ends + after, first, last)

    def fit(self, text: Tokenized, first: int) -> int:
        """The largest `last` such that positions [first, last) fit into one window (at least one position)."""
        limit = text.first_token[first] + self.capacity
        if limit >= len(text.ids):
            return len(text.spans)
        return max(bisect_right(text.first_token, limit) - 1, first + 1)

    def overlapping_windows(self, text: Tokenized, overlap: int) -> list[Window]:
        """Windows that cover every position; consecutive ones share at least `overlap` tokens where they can."""
        windows, first = [], 0
        while first < len(text.spans):
            last = self.fit(text, first)
            windows.append(self.window(text, first, last))
            if last == len(text.spans):
                break
            first = max(bisect_right(text.first_token, text.first_token[last] - overlap) - 1, first + 1)
            while self.fit(text, first) == last:  # before an endless word: a window inside the one before is no gain
                first += 1
        return windows


def pad_windows(windows: Sequence[Window], pad_token_id: int) -> dict[str, Tensor]:
    """Right-padded batch: input_ids, attention_mask, word_mask, word_end_mask, each (B, T)."""
    return pad_rows([window._asdict() for window in windows], {"input_ids": pad_token_id, "word_mask": False, "word_end_mask": False})


def pad_rows(rows: Sequence[Mapping[str, Any]], fill: Mapping[str, int | bool]) -> dict[str, Tensor]:
    """The lists over tokens that `fill` names as tensors (B, T), filled up to the longest, and their attention_mask."""
    width = max(len(row["input_ids"]) for row in rows)
    batch = {name: torch.tensor([[*row[name], *[value] * (width - len(row[name]))] for row in rows]) for name, value in fill.items()}
    lengths = torch.tensor([len(row["input_ids"]) for row in rows])
    batch["attention_mask"] = (torch.arange(width)[None, :] < lengths[:, None]).long()
    return batch


# -------------------------------------------------------------------------------------------------------------- pipeline
class NerPipeline(Pipeline):
    """Mentions of raw texts, as `pipeline("ner", model=DIR, trust_remote_code=True)` gives them.

    A string gives a list of mentions, a list of strings a list of lists; any other iterable of strings (generator, `KeyDataset`)
    is read as results are asked for, a few batches ahead. A mention is a dict of plain Python values:
    `entity_group, score, word, start, end`, with `text[start:end] == word` always.

    Texts longer than the model's window are read in overlapping windows; of two windows the one in which a mention lies farther
    from the edge decides. Nothing is cut but a single word longer than a window.

    Args:
        stride: overlap of windows in tokens (a quarter of the window unless given, and at least BINDER's widest span, so that some
            window holds every mention whole).
        long_text: "window", or "error" where a text longer than a window shall be refused (ValueError).
        batch_size: windows per forward pass (32 unless given).
        aggregation_strategy: accepted for compatibility; the model decodes whole mentions, so that every strategy, "none"
            included, gives mentions.
        ignore_labels: entity groups to leave out.
        types: BINDER only: look for these entity types instead of the trained ones, {label: description} or what
            `encode_types` gave.
        decoding: BINDER only: "nested" or "flat" instead of the model's own.
        min_score: in (0, 1), a number or {entity group: number}: mentions whose score is not above it are left out. BINDER's own limit
            is its threshold, a score near 0.5; a lower one finds more.
    """

    _load_tokenizer = True
    _load_processor = _load_image_processor = _load_video_processor = _load_feature_extractor = False

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        if self.tokenizer is None:
            raise ValueError("NerPipeline needs a tokenizer: pass tokenizer=AutoTokenizer.from_pretrained(DIR)")
        config = self.model.config
        self.reader = TextReader(self.tokenizer, label_unit=config.label_unit, max_window_tokens=config.max_window_tokens)
        self.model.eval()

    def _sanitize_parameters(
        self,
        stride: int | None = None,
        long_text: str | None = None,
        aggregation_strategy: Any = None,
        ignore_labels: Sequence[str] | None = None,
        types: Any = None,
        decoding: str | None = None,
        min_score: float | Mapping[str, float] | None = None,
        **unknown: Any,
    ) -> tuple[dict, dict, dict]:
        if unknown:
            raise ValueError(
                f"unknown pipeline arguments {sorted(unknown)}: expected stride, batch_size, aggregation_strategy, ignore_labels, types, "
                "decoding, min_score, long_text"
            )
        if isinstance(ignore_labels, str):
            raise ValueError(f"ignore_labels is {ignore_labels!r}: expected a list of entity groups")
        if (types, decoding) != (None, None) and not hasattr(self.model, "encode_types"):
            raise ValueError("types and decoding are a BINDER model's; this model tags the types that it was trained on, without overlap")
        for limit in min_score.values() if isinstance(min_score, Mapping) else [] if min_score is None else [min_score]:
            if not isinstance(limit, int | float) or not 0 < limit < 1:
                raise ValueError(f"min_score is {min_score!r}: expected a number between 0 and 1, or {{entity group: number}}")
        if decoding not in (None, *DECODINGS):
            raise ValueError(f"decoding is {decoding!r}: expected one of {', '.join(DECODINGS)}")
        if isinstance(types, Mapping) and self.tokenizer is not None:
            types = self.model.encode_types(types, self.tokenizer)
        elif types is not None and not hasattr(types, "fingerprint"):
            raise ValueError(f"types is {types!r}: expected {{label: description}}, or what encode_types gave, and a tokenizer")
        if long_text not in (None, *LONG_TEXTS):
            raise ValueError(f"long_text is {long_text!r}: expected one of {', '.join(LONG_TEXTS)}")
        preprocess = {name: value for name, value in (("stride", stride), ("long_text", long_text)) if value is not None}
        forward = {name: value for name, value in (("types", types), ("min_score", min_score)) if value is not None}
        postprocess: dict[str, Any] = {} if ignore_labels is None else {"ignore_labels": tuple(ignore_labels)}
        if decoding is not None:
            postprocess["decoding"] = decoding
        return preprocess, forward, postprocess

    def __call__(self, inputs: Any, *, batch_size: int | None = None, num_workers: int | None = None, **kwargs: Any) -> Any:
        """See the class. `num_workers` is accepted and unused: tokenization is batched, not spread over processes."""
        given = self._sanitize_parameters(**kwargs)
        defaults = (self._preprocess_params, self._forward_params, self._postprocess_params)
        options = [{**default, **own} for default, own in zip(defaults, given, strict=True)]
        size = batch_size or self._batch_size or DEFAULT_BATCH_SIZE
        if isinstance(inputs, str):
            return next(self._stream([inputs], size, *options))
        if isinstance(inputs, list | tuple):
            return list(self._stream(inputs, size, *options))
        if isinstance(inputs, bytes | dict) or not (isinstance(inputs, Iterable) or hasattr(inputs, "__getitem__")):
            raise ValueError(f"expected a string or an iterable of strings, found {type(inputs).__name__}")
        return self._stream(inputs, size, *options)

    def _stream(self, texts: Iterable[str], batch_size: int, reading: dict, forward: dict, writing: dict) -> Iterator[list[dict]]:
        """Results in input order; windows of a buffer of texts run sorted by length, so that little padding is computed."""
        iterator = enumerate(texts)
        while buffer := list(islice(iterator, batch_size * WINDOWS_PER_BATCH)):
            for number, text in buffer:
                if not isinstance(text, str):
                    raise ValueError(f"text {number}: expected a string, found {type(text).__name__}")
            plain = [text for _, text in buffer]
            prepared = self.preprocess(plain, first=buffer[0][0], **reading)
            windows = [window for _, own in prepared for window in own]
            order = sorted(range(len(windows)), key=lambda i: -len(windows[i].input_ids))
            spans: list[list] = [[] for _ in windows]
            for begin in range(0, len(order), batch_size):
                batch = order[begin : begin + batch_size]
                with torch.inference_mode():
                    decoded = self._forward(pad_windows([windows[i] for i in batch], self.tokenizer.pad_token_id or 0), **forward)
                for i, found in zip(batch, decoded, strict=True):
                    spans[i] = found
            rest = iter(spans)
            for text, (tokenized, own) in zip(plain, prepared, strict=True):
                yield self.postprocess((text, tokenized, own, list(islice(rest, len(own)))), **writing)

    def preprocess(
        self, input_: Sequence[str], stride: int | None = None, long_text: str = "window", first: int = 0
    ) -> list[tuple[Tokenized, list[Window]]]:
        """Texts -> tokens and windows. `first`: the number of the first text, for the error."""
        least = min(self.model.config.min_overlap, self.reader.capacity - 1)
        overlap = max(self.reader.capacity // 4, least) if stride is None else stride
        if not least <= overlap < self.reader.capacity:
            raise ValueError(f"stride is {stride}: expected {least} to {self.reader.capacity - 1} tokens of overlap")
        prepared = [(text, self.reader.overlapping_windows(text, overlap)) for text in self.reader.tokenize(input_)]
        for number, (text, windows) in enumerate(prepared, first):
            if long_text == "error" and len(windows) > 1:
                raise ValueError(
                    f"text {number} has {len(text.ids)} tokens: expected at most {self.reader.capacity}, with long_text='error'"
                )
        return prepared

    def _forward(self, input_tensors: dict[str, Tensor], **options: Any) -> list[list]:
        """A padded batch of windows -> spans over each window's positions."""
        inputs = {name: tensor.to(self.device) for name, tensor in input_tensors.items()}
        word_mask, word_end_mask = inputs.pop("word_mask"), inputs.pop("word_end_mask")
        return self.model.decode(self.model(**inputs), word_mask, word_end_mask, **options)

    def postprocess(self, model_outputs: tuple, ignore_labels: Sequence[str] = (), decoding: str | None = None) -> list[dict]:
        """Spans of a text's windows -> mentions in order of their offsets."""
        text, tokenized, windows, spans = model_outputs
        found = merge_windows(windows, spans)
        if (decoding or self.model.config.decoding) == "flat":
            found = flat_spans(found)
        mentions = []
        for first, last, label, score in found:
            start, end = tokenized.spans[first][0], tokenized.spans[last - 1][1]
            if label not in ignore_labels:
                mentions.append({"entity_group": label, "score": float(score), "word": text[start:end], "start": start, "end": end})
        return mentions


Found = tuple[int, int, str, float]  # a span over positions: first, last (half-open), label, score


def least_scores(min_score: float | Mapping[str, float] | None, groups: Sequence[str]) -> dict[str, float]:
    """The least score of each entity group that has one. ValueError for a group that there is not: its limit would do nothing.

    >>> least_scores(0.6, ["PER", "ORG"]), least_scores({"ORG": 0.3}, ["PER", "ORG"])
    ({'PER': 0.6, 'ORG': 0.6}, {'ORG': 0.3})
    """
    if not isinstance(min_score, Mapping):
        return {} if min_score is None else dict.fromkeys(groups, min_score)
    unknown = sorted(set(min_score) - set(groups))
    if unknown:
        raise ValueError(f"min_score names {', '.join(unknown)}: expected entity groups of the model, {', '.join(groups)}")
    return dict(min_score)


def merge_windows(windows: Sequence[Window], spans: Sequence[Sequence[tuple]]) -> list[Found]:
    """Spans over a text's positions from the spans of its windows: (first, last, label, score), in order.

    A span in the overlap of [a, b) and [c, d) belongs to the first window if it lies farther from b than from c, that is if
    first + last <= b + c: a rule on the span's middle, so that consecutive windows share the text out between them. Spans of
    different windows may overlap each other.
    """
    if not windows:
        return []
    limits = [window.last + following.first for window, following in pairwise(windows)]
    lower, upper = [float("-inf"), *limits], [*limits, float("inf")]
    return sorted(
        (first + window.first, last + window.first, label, score)
        for window, low, high, own in zip(windows, lower, upper, spans, strict=True)
        for first, last, label, score in own
        if low < first + last + 2 * window.first <= high
    )


def flat_spans(spans: Sequence[Found]) -> list[Found]:
    """Spans without overlap: by falling score, each unless it overlaps one that stays; in order.

    >>> flat_spans([(0, 2, "GPE", 0.6), (0, 4, "ORG", 0.9), (4, 5, "PER", 0.5)])
    [(0, 4, 'ORG', 0.9), (4, 5, 'PER', 0.5)]
    """
    kept: list[Found] = []  # in order
    for span in sorted(spans, key=lambda span: (-span[3], *span[:3])):
        at = bisect_left(kept, span[1], key=lambda other: other[0])  # the first that starts at its end or later
        if at == 0 or kept[at - 1][1] <= span[0]:
            kept.insert(at, span)
    return kept
