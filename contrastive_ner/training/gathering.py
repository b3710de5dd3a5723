"""Tokens of several processes in one contrast, and chunks of a batch under the same dropout."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.utils.checkpoint import get_device_states, set_device_states


class GatherRows(torch.autograd.Function):
    """Gather rows (N_r, D) of all processes, in the order of the processes, with gradient: (N, D).

    Every process computes the same loss from the result, so it knows the gradient of its own rows
    without communication. `DistributedDataParallel` averages parameter gradients over processes;
    the factor in `backward` undoes this.
    """

    @staticmethod
    def forward(ctx: Any, rows: Tensor) -> Tensor:
        """Own rows (N_r, D) -> rows of all processes (N, D)."""
        counts = [
            torch.empty(1, dtype=torch.long, device=rows.device)
            for _ in range(dist.get_world_size())
        ]
        dist.all_gather(counts, torch.tensor([len(rows)], device=rows.device))
        sizes = [int(count) for count in counts]
        # Processes differ in their numbers of tokens: pad, gather, cut.
        padded = nn.functional.pad(rows, (0, 0, 0, max(sizes) - len(rows)))
        parts = [torch.empty_like(padded) for _ in sizes]
        dist.all_gather(parts, padded.contiguous())
        first = sum(sizes[: dist.get_rank()])
        ctx.own = slice(first, first + len(rows))
        return torch.cat([part[:size] for part, size in zip(parts, sizes, strict=True)])

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Tensor:
        """Gradient of all rows (N, D) -> gradient of the own rows (N_r, D)."""
        return gradient[ctx.own] * dist.get_world_size()


def gather_tokens(embeddings: Tensor, classes: Tensor) -> tuple[Tensor, Tensor]:
    """Gather the tokens of all processes, with gradient for the own ones.

    (N_r, D), (N_r,) -> (N, D), (N,). A single process gets its tokens back unchanged.
    """
    if not (dist.is_available() and dist.is_initialized() and dist.get_world_size() > 1):
        return embeddings, classes
    # Gathered separately: in a column of the embeddings, half precision would round the classes.
    return GatherRows.apply(embeddings), GatherRows.apply(classes[:, None])[:, 0]


class RandomState:
    """Saved state of the random generators, to embed a chunk again with the same dropout masks."""

    def __init__(self, *tensors: Tensor) -> None:
        self.cpu = torch.get_rng_state()
        self.devices, self.states = get_device_states(*tensors)

    @contextmanager
    def replayed(self) -> Iterator[None]:
        """Context in which the random generators continue from the saved state."""
        with torch.random.fork_rng(devices=self.devices):
            torch.set_rng_state(self.cpu)
            set_device_states(self.devices, self.states)
            yield
