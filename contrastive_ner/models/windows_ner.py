"""Texts to model windows, and the spans found in windows to mentions.

Sections: label positions and windows, spans of a text, mentions. Training, `pipeline("ner")` and
the torch-free runtime all read texts through `TextReader`. This file uses only the standard library
and travels with the weights and with exported models.

A *position* carries one label: a token of a character tokenizer, or the first token of a word. A
*window* is a run of positions that fits the model. Offsets are half-open and count code points.
"""

import re
import sys
import unicodedata
from bisect import bisect_left, bisect_right
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from functools import lru_cache
from itertools import pairwise
from numbers import Integral
from typing import Any, NamedTuple

DECODINGS = ("nested", "flat")
LONG_TEXTS = ("window", "error")


# ---------------------------------------------------------------------- label positions and windows
@lru_cache(maxsize=1)
def _patterns() -> tuple[re.Pattern[str], re.Pattern[str]]:
    """A word: one ideograph, kana or similar; or a run of letters, digits, marks; or one symbol.

    Also what may follow it: marks, and joiners (U+200C, U+200D) that join it to nothing.
    """
    characters = map(chr, range(sys.maxunicode + 1))
    marks = re.escape("".join(c for c in characters if unicodedata.category(c)[0] == "M"))
    alone = "\u3005-\u3007\u3040-\u30ff\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff\U00020000-\U0003fffd"
    joiners = f"(?:[\u200c\u200d][{marks}\u200c\u200d]*(?![\\w{marks}\u200c\u200d]))?"
    word = f"[{alone}]|[^\\W{alone}](?:[^\\W{alone}]|[{marks}])*|\\S"
    return re.compile(word), re.compile(f"[{marks}]*{joiners}")


def word_spans(text: str) -> list[tuple[int, int]]:
    """Offsets of the words of `text`; independent of the tokenizer.

    >>> word_spans("Hi, 北京 2024")
    [(0, 2), (2, 3), (4, 5), (5, 6), (7, 11)]
    """
    return [match.span() for match in _patterns()[0].finditer(text)]


Encode = Callable[[list[str]], Iterable[tuple[list[int], list[tuple[int, int]]]]]


class InputError(ValueError):
    """An invalid option or input; the message says what was expected and what was found."""


class Tokenized(NamedTuple):
    """A text's token `ids` without special tokens, and its positions.

    `first_token`, `last_token` and `spans` (character offsets) have one item per position.
    """

    ids: list[int]
    first_token: list[int]
    last_token: list[int]
    spans: list[tuple[int, int]]


class Window(NamedTuple):
    """A model input: positions [first, last) of a text, with special tokens.

    `word_mask` and `word_end_mask` mark the first and the last token of each position.
    """

    input_ids: list[int]
    word_mask: list[bool]
    word_end_mask: list[bool]
    first: int
    last: int


def after_space(encode: Encode) -> Encode:
    """`encode` of texts as after a space, each white space as a space; offsets stay the text's."""
    return lambda texts: (
        (ids, [(max(start - 1, 0), max(end - 1, 0)) for start, end in offsets])
        for ids, offsets in encode([" " + re.sub(r"\s", " ", text) for text in texts])
    )


class TextReader:
    """Turns texts into tokens, label positions and windows, both in training and inference.

    Args:
        encode: maps texts to their token ids and character offsets, without special tokens.
        prefix, suffix: special tokens before and after a text.
        label_unit: "token" (every token is a position) or "word" (the first token of each word).
        max_window_tokens: size of the longest window, including special tokens, which must not
            fill it alone.
    """

    def __init__(
        self,
        encode: Encode,
        prefix: Sequence[int],
        suffix: Sequence[int],
        *,
        label_unit: str,
        max_window_tokens: int,
    ) -> None:
        self.encode, self.label_unit = encode, label_unit
        self.prefix, self.suffix = list(prefix), list(suffix)
        self.capacity = max_window_tokens - len(self.prefix) - len(self.suffix)
        if self.capacity < 1:
            raise InputError(
                f"max_window_tokens is {max_window_tokens}: too small; "
                f"expected more than {len(prefix) + len(suffix)}, the number of special tokens"
            )

    def tokenize(self, texts: Sequence[str]) -> list[Tokenized]:
        """Tokens and positions of each text. Lone surrogates become U+FFFD; offsets stay exact."""
        if not texts:
            return []
        readable = [re.sub("[\ud800-\udfff]", "\ufffd", text) for text in texts]
        rows = zip(readable, self.encode(readable), strict=True)
        return [self._positions(text, ids, offsets) for text, (ids, offsets) in rows]

    def _positions(self, text: str, ids: list[int], offsets: list[tuple[int, int]]) -> Tokenized:
        if self.label_unit == "token":
            every = list(range(len(ids)))
            return Tokenized(ids, every, every, offsets)
        words = word_spans(text)
        starts = {start for start, _ in words}
        first_token: list[int] = []
        last_token: list[int] = []
        spans: list[tuple[int, int]] = []
        inner: tuple[int, int, int, int] | None = None
        for token, (start, end) in enumerate(offsets):
            # Byte-level and SentencePiece tokens may include the space.
            while start < end and text[start].isspace():
                start += 1
            while end > start and text[end - 1].isspace():
                end -= 1
            if start == end:
                continue
            # The first token of a text may start inside a word.
            if not spans or (start >= spans[-1][1] and start in starts):
                first_token.append(token)
                last_token.append(token)
                spans.append((start, end))
                inner = None
                continue
            if start >= spans[-1][1]:
                # The latest character inside the word that starts a token.
                inner = (token, start, last_token[-1], spans[-1][1])
            if token - first_token[-1] >= self.capacity and inner is not None:
                # The word is longer than a window: start another position at that character.
                opening, begin, last_token[-1], before = inner
                spans[-1] = (spans[-1][0], before)
                first_token.append(opening)
                last_token.append(token)
                spans.append((begin, max(end, begin)))
                inner = None
            else:
                last_token[-1] = token
                spans[-1] = (spans[-1][0], max(end, spans[-1][1]))
        to_word_ends(spans, words, text)
        return Tokenized(ids, first_token, last_token, spans)

    def window(self, text: Tokenized, first: int, last: int) -> Window:
        """Positions [first, last) as a model input; cuts overlong positions (see `coverage`)."""
        begin = text.first_token[first]
        end = text.first_token[last] if last < len(text.first_token) else len(text.ids)
        ids = text.ids[begin:end][: self.capacity]
        every_token = last - first == len(ids)  # each token is a position: no need to locate them
        starts, ends = [every_token] * len(ids), [every_token] * len(ids)
        if not every_token:
            for token in text.first_token[first:last]:
                starts[token - begin] = True
            for token in text.last_token[first:last]:
                ends[min(token - begin, len(ids) - 1)] = True
        before, after = [False] * len(self.prefix), [False] * len(self.suffix)
        input_ids = self.prefix + ids + self.suffix
        return Window(input_ids, before + starts + after, before + ends + after, first, last)

    def fit(self, text: Tokenized, first: int) -> int:
        """The largest `last` such that [first, last) fits in a window; at least `first` + 1."""
        limit = text.first_token[first] + self.capacity
        if limit >= len(text.ids):
            return len(text.spans)
        return max(bisect_right(text.first_token, limit) - 1, first + 1)

    def overlapping_windows(self, text: Tokenized, overlap: int) -> list[Window]:
        """Windows that cover all positions and share at least `overlap` tokens where possible."""
        windows, first = [], 0
        while first < len(text.spans):
            last = self.fit(text, first)
            windows.append(self.window(text, first, last))
            if last == len(text.spans):
                break
            shared = bisect_right(text.first_token, text.first_token[last] - overlap) - 1
            first = max(shared, first + 1)
            # Before a long word: skip windows that lie inside the previous one.
            while self.fit(text, first) == last:
                first += 1
        return windows

    def coverage(self, text: Tokenized, windows: Sequence[Window]) -> float:
        """Share of a text's positions that lie entirely in some window.

        Below 1.0 only for characters that need more tokens than fit in a window, as ligatures may.
        """
        read = until = 0
        for window in windows:
            own_tokens = len(window.input_ids) - len(self.prefix) - len(self.suffix)
            end = text.first_token[window.first] + own_tokens
            whole = min(bisect_left(text.last_token, end), window.last)
            read += max(whole - max(window.first, until), 0)
            until = max(until, whole)
        return read / len(text.spans) if text.spans else 1.0


def to_word_ends(spans: list[tuple[int, int]], words: list[tuple[int, int]], text: str) -> None:
    """Extend positions to the ends of their words, of which a tokenizer may drop the last marks."""
    following = _patterns()[1]
    for number, (start, end) in enumerate(spans):
        limit = spans[number + 1][0] if number + 1 < len(spans) else len(text)
        word = bisect_left(words, end, key=lambda word: word[1])
        if word < len(words) and words[word][0] < end:
            end = max(end, min(words[word][1], limit))
        # Marks after an ideograph, a kana or a symbol may be left over as words of their own.
        marks = following.match(text, end, limit + 1) if end < limit else None
        spans[number] = (start, min(marks.end(), limit) if marks else end)


# ------------------------------------------------------------------------------------------ batches
class Prepared(NamedTuple):
    """A text with its tokens and windows, ready to be tagged."""

    text: str
    tokenized: Tokenized
    windows: list[Window]


def prepare(
    reader: TextReader,
    texts: Sequence[str],
    *,
    min_overlap: int,
    stride: int | None = None,
    long_text: str = "window",
    first: int = 0,
) -> list[Prepared]:
    """Texts -> tokens and windows.

    Args:
        min_overlap: least number of tokens that consecutive windows must share.
        stride: tokens that they share where possible; by default a quarter of a window.
        long_text: "window", or "error" to refuse texts longer than a window.
        first: index of the first text, for the error.

    Raises `InputError` if `stride` is out of range, or for a too long text with "error".
    """
    least = min(min_overlap, reader.capacity - 1)
    overlap = max(reader.capacity // 4, least) if stride is None else stride
    if not isinstance(overlap, Integral) or not least <= overlap < reader.capacity:
        raise InputError(
            f"stride is {stride}: expected {least} to {reader.capacity - 1} tokens of overlap"
        )
    prepared = [
        Prepared(text, tokenized, reader.overlapping_windows(tokenized, overlap))
        for text, tokenized in zip(texts, reader.tokenize(texts), strict=True)
    ]
    for number, row in enumerate(prepared, first):
        if long_text == "error" and len(row.windows) > 1:
            raise InputError(
                f"text {number} has {len(row.tokenized.ids)} tokens: "
                f"expected at most {reader.capacity}, with long_text='error'"
            )
    return prepared


# ---------------------------------------------------------------------------------- spans of a text
class Span(NamedTuple):
    """A mention over labelled positions, half-open.

    `score` lies in [0, 1]; its meaning depends on the model. `labels` holds the best entity types
    of the span with their scores, if requested.
    """

    start: int
    end: int
    label: str
    score: float
    labels: tuple[tuple[str, float], ...] = ()


def least_scores(
    min_score: float | Mapping[str, float] | None, groups: Sequence[str], name: str = "min_score"
) -> dict[str, float]:
    """{entity group: score that a mention must exceed}; `name` is the option, for the error.

    Raises `InputError` for an unknown group, whose limit would have no effect.

    >>> least_scores(0.6, ["PER", "ORG"]), least_scores({"ORG": 0.3}, ["PER", "ORG"])
    ({'PER': 0.6, 'ORG': 0.6}, {'ORG': 0.3})
    """
    if not isinstance(min_score, Mapping):
        return {} if min_score is None else dict.fromkeys(groups, min_score)
    unknown = sorted(set(min_score) - set(groups))
    if unknown:
        raise InputError(
            f"{name} names {', '.join(unknown)}: "
            f"expected entity groups of the model, {', '.join(groups)}"
        )
    return dict(min_score)


def merge_windows(windows: Sequence[Window], spans: Sequence[Sequence[tuple]]) -> list[tuple]:
    """Spans over a text's positions from the spans of its windows, in order.

    Spans are (first, last, label, score, ...); only the positions change. A span in the overlap of
    windows [a, b) and [c, d) belongs to the first one if its middle is no closer to b than to c:
    first + last <= b + c. Windows thus divide the text; spans of different ones may overlap.
    """
    if not windows:
        return []
    limits = [window.last + following.first for window, following in pairwise(windows)]
    lower, upper = [float("-inf"), *limits], [*limits, float("inf")]
    return sorted(
        (first + window.first, last + window.first, *rest)
        for window, low, high, own in zip(windows, lower, upper, spans, strict=True)
        for first, last, *rest in own
        if low < first + last + 2 * window.first <= high
    )


def precedence(later: Sequence[str]) -> Callable[[tuple], tuple]:
    """Sorting key: spans by descending score, those of the types `later`, in order, behind them."""
    return lambda span: (later.index(span[2]) + 1 if span[2] in later else 0, -span[3])


def best_labels(spans: Sequence[Span], later: Sequence[str] = ()) -> list[Span]:
    """Keep the first by `precedence` of the spans with the same start and end, in order."""
    best = {span[:2]: span for span in sorted(spans, key=precedence(later))[::-1]}
    return [best[place] for place in dict.fromkeys(span[:2] for span in spans)]


def flat_spans(spans: Sequence[tuple], later: Sequence[str] = ()) -> list[tuple]:
    """Non-overlapping spans, chosen greedily by `precedence`; in order.

    >>> flat_spans([(0, 2, "GPE", 0.6), (0, 4, "ORG", 0.9), (4, 5, "PER", 0.5)])
    [(0, 4, 'ORG', 0.9), (4, 5, 'PER', 0.5)]
    """
    kept: list[tuple] = []
    group: list[tuple] = []  # spans that overlap, directly or through others
    end = -1
    for span in sorted(spans):
        if span[0] >= end:
            kept += best_of(group, later)
            group = []
        group.append(span)
        end = max(end, span[1])
    return kept + best_of(group, later)


def best_of(group: list[tuple], later: Sequence[str]) -> list[tuple]:
    """`flat_spans` within a group of overlapping spans."""
    kept: list[tuple] = []  # in order
    for span in sorted(sorted(group), key=precedence(later)):
        # The first kept span that starts at or after the end of this one.
        at = bisect_left(kept, span[1], key=lambda other: other[0])
        if at == 0 or kept[at - 1][1] <= span[0]:
            kept.insert(at, span)
    return kept


# ----------------------------------------------------------------------------------------- mentions
def check_options(
    *,
    ignore_labels: Any = None,
    decoding: Any = None,
    long_text: Any = None,
    min_score: Any = None,
    abstain_below: Any = None,
    top_k: Any = None,
) -> None:
    """Raise `InputError` for an invalid value. None means not given; see `NerPipeline`."""
    if ignore_labels is not None and (
        isinstance(ignore_labels, str)
        or not isinstance(ignore_labels, Collection)  # not an iterator: it is read again
        or not all(isinstance(label, str) for label in ignore_labels)
    ):
        raise InputError(f"ignore_labels is {ignore_labels!r}: expected a list of entity groups")
    choices = (("decoding", decoding, DECODINGS), ("long_text", long_text, LONG_TEXTS))
    for name, given, known in choices:
        if given not in (None, *known):
            raise InputError(f"{name} is {given!r}: expected one of {', '.join(known)}")
    for name, given in (("min_score", min_score), ("abstain_below", abstain_below)):
        limits = given.values() if isinstance(given, Mapping) else [] if given is None else [given]
        if not all(isinstance(limit, int | float) and 0 < limit < 1 for limit in limits):
            wanted = "expected a number between 0 and 1, or {entity group: number}"
            raise InputError(f"{name} is {given!r}: {wanted}")
    if top_k is not None and (not isinstance(top_k, int) or top_k < 1):
        raise InputError(f"top_k is {top_k!r}: expected a positive integer")


def mention_dicts(
    row: Prepared,
    spans: Sequence[Sequence[tuple]],
    *,
    flat: bool,
    later: Sequence[str] = (),
    ignore_labels: Sequence[str] = (),
    abstain_below: Mapping[str, float] | None = None,
) -> list[dict[str, Any]]:
    """The mentions of a text from the spans of its windows, in order, as dicts of plain values.

    They are described in `NerPipeline`. White space at the edges of a span is left out.

    Args:
        row, spans: a text and the spans of each of its windows.
        flat, later: drop overlapping mentions, as `flat_spans` does.
        ignore_labels: entity groups to leave out.
        abstain_below: {entity group: score}; adds `abstained` (whether a mention scores at most
            that) to every mention.
    """
    found = merge_windows(row.windows, spans)
    mentions: dict[tuple[int, int, str], dict[str, Any]] = {}
    for first, last, label, score, *more in flat_spans(found, later) if flat else found:
        start, end = row.tokenized.spans[first][0], row.tokenized.spans[last - 1][1]
        word = row.text[start:end].rstrip()
        end = start + len(word)
        start += len(word) - len(word := word.lstrip())
        if label in ignore_labels or not word:
            continue
        mention: dict[str, Any] = {"entity_group": label, "score": float(score)}
        mention |= {"word": word, "start": start, "end": end}
        if more and more[0]:
            mention["labels"] = [{"label": other, "score": float(own)} for other, own in more[0]]
        if abstain_below is not None:
            mention["abstained"] = mention["score"] <= abstain_below.get(label, -1.0)
        if mention["score"] > mentions.get((start, end, label), {"score": -1.0})["score"]:
            mentions[start, end, label] = mention
    return [mentions[place] for place in sorted(mentions)]


def joined(words: Sequence[str], delimiter: str) -> tuple[str, list[tuple[int, int]]]:
    """Words joined into a text, and the offsets of each word.

    >>> joined(["New", "York"], " ")
    ('New York', [(0, 3), (4, 8)])
    """
    offsets, at = [], 0
    for word in words:
        offsets.append((at, at + len(word)))
        at += len(word) + len(delimiter)
    return delimiter.join(words), offsets


def word_range(offsets: Sequence[tuple[int, int]], start: int, end: int) -> tuple[int, int]:
    """The words that text[start:end] touches, half-open.

    >>> word_range([(0, 3), (4, 8), (9, 11)], 4, 7)
    (1, 2)
    """
    first = bisect_right(offsets, start, key=lambda word: word[1])
    return first, bisect_left(offsets, end, key=lambda word: word[0])
