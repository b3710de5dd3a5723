"""Measurements of benchmarks.speed: taking turns, peak memory, ratios and their targets."""

import json
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from itertools import accumulate, cycle
from pathlib import Path
from typing import Any

import torch
from torch.profiler import ProfilerActivity, profile


@dataclass(frozen=True)
class Measured:
    """A competitor's median and lower and upper quartile, in seconds or bytes."""

    median: float
    quartiles: tuple[float, float]


@dataclass(frozen=True)
class Comparison:
    """A ratio of two competitors: median and quartiles of the ratios of all repetitions.

    `target` looks like ">= 5.00"; None means that the ratio is for information only.
    """

    name: str
    ratio: float
    quartiles: tuple[float, float]
    target: str | None
    met: bool | None
    unit: str
    measured: dict[str, Measured]
    repetitions: int


@dataclass(frozen=True)
class Section:
    """The comparisons of a section, and the setting that they depend on."""

    setting: dict[str, Any]
    comparisons: list[Comparison]


def summary(values: Sequence[float]) -> Measured:
    """Median and quartiles of values."""
    low, middle, high = (
        torch.tensor(values, dtype=torch.float64)
        .quantile(torch.tensor([0.25, 0.5, 0.75], dtype=torch.float64))
        .tolist()
    )
    return Measured(middle, (low, high))


def compare(
    measured: dict[str, list[float]],
    above: str,
    below: str,
    *,
    at_least: float | None = None,
    at_most: float | None = None,
    unit: str = "seconds",
) -> Comparison:
    """Compare two competitors: the ratio `above` / `below` of neighbouring measurements."""
    ratio = summary([a / b for a, b in zip(measured[above], measured[below], strict=True)])
    target, met = None, None
    if at_least is not None:
        target, met = f">= {at_least:.2f}", ratio.median >= at_least
    elif at_most is not None:
        target, met = f"<= {at_most:.2f}", ratio.median <= at_most
    return Comparison(
        name=f"{above} / {below}" + (", peak memory" if unit == "bytes" else ""),
        ratio=ratio.median,
        quartiles=ratio.quartiles,
        target=target,
        met=met,
        unit=unit,
        measured={name: summary(measured[name]) for name in (above, below)},
        repetitions=len(measured[above]),
    )


def in_turns(
    competitors: Mapping[str, Callable[[], object]], repetitions: int, warmup: int
) -> dict[str, list[float]]:
    """Seconds of each call, in the order A B A B ..., so that a slowdown affects all alike."""
    seconds: dict[str, list[float]] = {name: [] for name in competitors}
    for repetition in range(warmup + repetitions):
        for name, call in competitors.items():
            started = time.perf_counter()
            call()
            elapsed = time.perf_counter() - started
            if repetition >= warmup:
                seconds[name].append(elapsed)
    return seconds


def on_each(function: Callable[[Any], object], items: Sequence[Any]) -> Callable[[], object]:
    """A callable that passes the next item at every call, cyclically."""
    turn = cycle(items)
    return lambda: function(next(turn))


def peak_bytes(call: Callable[[], object]) -> int:
    """Peak bytes of the tensors that are allocated during the call.

    The profiler records every allocation and release of torch's allocator, including those inside
    an operation, which a `TorchDispatchMode` does not see. The resident size of a process would
    also count caches of the C library, and depends on what ran before.
    """
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as record:
        call()
    with tempfile.TemporaryDirectory() as folder:
        trace = Path(folder) / "trace.json"
        record.export_chrome_trace(str(trace))
        events = json.loads(trace.read_text("utf-8"))["traceEvents"]
    changes = sorted(
        (event for event in events if event["name"] == "[memory]"), key=lambda event: event["ts"]
    )
    return max(accumulate((event["args"]["Bytes"] for event in changes), initial=0))
