"""Texts to batches of windows of similar length.

This file travels with the weights and with exported models.
"""

from collections.abc import Callable, Iterable, Iterator, Sequence
from itertools import count, islice
from numbers import Integral
from typing import Any

import numpy as np

from .windows_ner import InputError, Prepared, Window

DEFAULT_BATCH_SIZE = 32
# Batches of texts that are read ahead, so that windows can be sorted by length.
BATCHES_AHEAD = 32
# What a further batch costs, in tokens of padding: a smaller number gives more batches and less
# padding. At 128, with 32 windows a batch, less than 3 % of the tokens of Weibo and NCBI are.
BATCH_COST = 128


def in_batches(
    texts: Iterable[str],
    batch_size: int,
    read: Callable[[list[str], int], list[Prepared]],
    run: Callable[[list[Window]], Sequence[Sequence[tuple]]],
) -> Iterator[tuple[Prepared, list[Sequence[tuple]]]]:
    """Each text with the spans of its windows, in input order; reads `BATCHES_AHEAD` batches ahead.

    The windows of buffered texts run in batches of similar length.

    Args:
        batch_size: most windows per batch.
        read: texts and the index of the first one -> their windows.
        run: a batch of windows -> the spans of each window.

    Raises:
        InputError: a text is not a string, or `batch_size` is less than 1.
    """
    if not isinstance(batch_size, Integral) or batch_size < 1:
        raise InputError(f"batch_size is {batch_size!r}: expected at least 1, a whole number")
    batch_size = int(batch_size)
    iterator = enumerate(texts)
    while buffer := list(islice(iterator, batch_size * BATCHES_AHEAD)):
        for number, text in buffer:
            if not isinstance(text, str):
                raise InputError(f"text {number}: expected a string, found {type(text).__name__}")
        prepared = read([text for _, text in buffer], buffer[0][0])
        windows = [window for row in prepared for window in row.windows]
        spans: list[Sequence[tuple]] = [[] for _ in windows]
        for batch in by_length([len(window.input_ids) for window in windows], batch_size):
            for i, found in zip(batch, run([windows[i] for i in batch]), strict=True):
                spans[i] = found
        rest = iter(spans)
        for row in prepared:
            yield row, list(islice(rest, len(row.windows)))


def by_length(lengths: Sequence[int], batch_size: int, cost: int = BATCH_COST) -> list[list[int]]:
    """Indices of lengths in batches, the longest first, with the least tokens and batches.

    Of all ways to cut the sorted lengths, the one is taken for which the tokens, padding included,
    and `cost` for each batch are fewest in all (dynamic programming over the ends of the batches).

    >>> by_length([3, 9, 9, 3], 3, cost=2), by_length([3, 9, 9, 3], 4, cost=20)
    ([[1, 2], [0, 3]], [[1, 2, 0, 3]])
    """
    order = sorted(range(len(lengths)), key=lambda i: -lengths[i])
    sizes = np.array([lengths[i] for i in order], dtype=np.int64)
    # For each number of first windows, where the last of the best batches of them begins. A batch
    # from i to `end` costs sizes[i] * (end - i), and what comes before it `least`.
    begin, before, least = [0] * (len(order) + 1), np.zeros(len(order), dtype=np.int64), 0
    for end in range(1, len(order) + 1):
        before[end - 1] = least - sizes[end - 1] * (end - 1)
        first = max(0, end - batch_size)
        costs = before[first:end] + sizes[first:end] * end
        # Of equal ways, the first batches are the full ones.
        begin[end] = end - 1 - int(costs[::-1].argmin())
        least = int(costs[begin[end] - first]) + cost
    batches, end = [], len(order)
    while end:
        batches.append(order[begin[end] : end])
        end = begin[end]
    return batches[::-1]


def items_of(data: Any) -> Iterator[Any]:
    """The items of a map-style data set, which has `__getitem__` and mostly `__len__`.

    With a length, there are as many items as it says; without one, an IndexError ends them.

    Raises:
        InputError: an item is missing; its number and the cause are named.
    """
    try:
        size = len(data)
    except (TypeError, NotImplementedError):  # none, or a wrapper around a data set without one
        size = None
    for number in count() if size is None else range(size):
        try:
            item = data[number]
        except LookupError as error:
            if size is None and isinstance(error, IndexError):
                return
            what = type(data).__name__ if size is None else f"{type(data).__name__} of {size} items"
            raise InputError(
                f"item {number} of a {what}: expected a text, found {type(error).__name__}: "
                f"{error}; items are read by the numbers from 0 on, up to its length"
            ) from error
        yield item
