"""Windows in batches of similar length: the least padding, each window once."""

import random
from collections.abc import Iterator

import pytest
from hypothesis import given
from hypothesis import strategies as st

from contrastive_ner.models.batches_ner import BATCHES_AHEAD, by_length, in_batches
from contrastive_ner.models.windows_ner import Prepared, Tokenized, Window


def cost_of(batches: list[list[int]], lengths: list[int], cost: int) -> int:
    """Tokens of padded batches, and `cost` for each."""
    return sum(max(lengths[i] for i in batch) * len(batch) + cost for batch in batches)


def every_way(order: list[int], batch_size: int) -> Iterator[list[list[int]]]:
    """All ways to cut a list into batches."""
    if not order:
        yield []
    for size in range(1, min(batch_size, len(order)) + 1):
        for rest in every_way(order[size:], batch_size):
            yield [order[:size], *rest]


@given(
    st.lists(st.integers(2, 40), max_size=9),
    st.integers(1, 5),
    st.integers(0, 60),
)
def test_no_other_way_to_cut_costs_less(lengths: list[int], batch_size: int, cost: int) -> None:
    batches = by_length(lengths, batch_size, cost)
    assert sorted(i for batch in batches for i in batch) == list(range(len(lengths)))
    assert all(0 < len(batch) <= batch_size for batch in batches)
    order = sorted(range(len(lengths)), key=lambda i: -lengths[i])
    least = min(cost_of(way, lengths, cost) for way in every_way(order, batch_size))
    assert cost_of(batches, lengths, cost) == least


@given(st.lists(st.integers(2, 128), min_size=1, max_size=300), st.integers(1, 33))
def test_the_longest_batches_come_first(lengths: list[int], batch_size: int) -> None:
    """A batch that does not fit into memory fails at once, not at the end."""
    longest = [max(lengths[i] for i in batch) for batch in by_length(lengths, batch_size)]
    assert longest == sorted(longest, reverse=True)
    assert longest[0] == max(lengths)


@pytest.mark.parametrize("batch_size", [16, 32])
@pytest.mark.parametrize("mean", [3.9, 3.5])
def test_little_of_mixed_texts_is_padding(batch_size: int, mean: float) -> None:
    """Lengths spread as widely as those of Weibo and NCBI, about 50 and 35 tokens on average."""
    draw = random.Random(0).lognormvariate
    lengths = [min(128, max(3, round(draw(mean, 0.5)))) for _ in range(3000)]
    sizes: list[list[int]] = []

    def run(windows: list[Window]) -> list[list[tuple]]:
        sizes.append([len(window.input_ids) for window in windows])
        return [[] for _ in windows]

    def read(texts: list[str], first: int) -> list[Prepared]:
        return [one_window(lengths[int(text)]) for text in texts]

    assert len(list(in_batches(map(str, range(3000)), batch_size, read, run))) == 3000
    padded = sum(max(batch) * len(batch) for batch in sizes)
    assert 1 - sum(lengths) / padded < 0.04
    assert len(sizes) < 1.15 * 3000 / batch_size


def one_window(length: int) -> Prepared:
    """A text of one window."""
    window = Window([1] * length, [True] * length, [True] * length, 0, length)
    return Prepared("", Tokenized([], [], [], []), [window])


def test_spans_come_back_to_their_texts() -> None:
    lengths = [random.Random(1).randrange(3, 60) for _ in range(3 * BATCHES_AHEAD)]

    def read(texts: list[str], first: int) -> list[Prepared]:
        return [one_window(lengths[int(text)]) for text in texts]

    def run(windows: list[Window]) -> list[list[tuple]]:
        return [[(len(window.input_ids),)] for window in windows]

    found = in_batches(map(str, range(len(lengths))), 2, read, run)
    assert [spans for _, spans in found] == [[[(length,)]] for length in lengths]
