"""Tagging with Ray's actors, on one machine or a cluster. Needs ray: the extra `ray`."""

import logging
import os
import signal
from collections import Counter, deque
from collections.abc import Callable, Iterable, Iterator
from typing import Any

from contrastive_ner.errors import ConfigError, is_user_error
from contrastive_ner.extras import need
from contrastive_ner.logs import log

AHEAD = 2  # lists of rows that an actor has: one in hand and one queued


class Worker:
    """A tagger in an actor. It is made with the first rows, so that its errors come with them."""

    def __init__(self, make: Callable[[], Any], threads: int) -> None:
        self.make, self.threads = make, threads
        self.tagger: Any = None

    def tag(self, rows: list[Any]) -> Any:
        """Tag a list of rows.

        Raises:
            ConfigError: anything that the user can fix, in a form that can be sent.
        """
        try:
            if self.tagger is None:
                import torch

                torch.set_num_threads(self.threads)
                self.tagger = self.make()
            return self.tagger(rows)
        except Exception as error:
            if not is_user_error(error):
                raise
            raise ConfigError(str(error)) from None


def tag_on_ray(
    parts: Iterable[list[Any]], make: Callable[[], Any], actors: int, device: str | None = None
) -> Iterator[Any]:
    """Tag lists of rows, in order, with actors that have a model each.

    An actor that is killed is started again, and does again what it had in hand. A cluster that
    `RAY_ADDRESS` names is used, else Ray is started on this machine for as long as it takes. Every
    machine needs this package, and the model at the same place.

    Args:
        make: makes a tagger, a function of a list of rows.
        device: as in `load_pipeline`; with cuda, every actor gets a GPU of its own.

    Raises:
        ConfigError: Ray cannot be started, or has too few processors or GPUs.
    """
    ray = need("ray", "ray")
    is_ours = not ray.is_initialized()
    if is_ours:
        start(ray, actors)
    try:
        on_gpu = (device or "").startswith("cuda")
        there, wanted = ray.cluster_resources(), {"GPU" if on_gpu else "CPU": actors}
        for name, number in wanted.items():
            if there.get(name, 0) < number:
                raise ConfigError(
                    f"num_processes is {number}, but Ray has {there.get(name, 0):g} {name}: "
                    "expected one for each"
                )
        threads = max(1, int(there.get("CPU", 1)) // actors) if len(ray.nodes()) == 1 else 1
        remote = ray.remote(
            num_cpus=1, num_gpus=1 if on_gpu else 0, max_restarts=-1, max_task_retries=-1
        )(Worker)
        workers = [remote.remote(make, threads) for _ in range(actors)]
        waiting: deque[Any] = deque()
        in_hand: dict[Any, int] = {}  # the actors of results that were not there when last asked
        for part in parts:
            actor = least_busy(ray, in_hand, actors)
            waiting.append(workers[actor].tag.remote(part))
            in_hand[waiting[-1]] = actor
            if len(waiting) >= AHEAD * actors:
                yield result_of(ray, waiting.popleft())
        while waiting:
            yield result_of(ray, waiting.popleft())
    finally:
        if is_ours:
            ray.shutdown()


def start(ray: Any, actors: int) -> None:
    """Connect to the cluster that is named, or start Ray here.

    Raises:
        ConfigError: it does not work.
    """
    # Ray replaces the handler of SIGTERM, by which a job ends after the rows in hand.
    before = signal.getsignal(signal.SIGTERM)
    is_named = "RAY_ADDRESS" in os.environ
    own = {} if is_named else {"num_cpus": max(actors, os.cpu_count() or 1)}
    try:
        ray.init(
            include_dashboard=None if is_named else False,
            logging_level=logging.WARNING,
            log_to_driver=log.isEnabledFor(logging.DEBUG),
            **own,
        )
    except (ConnectionError, RuntimeError, ValueError) as error:
        said = " ".join(str(error).split())
        raise ConfigError(f"Ray does not start or cannot be reached: {said}") from error
    finally:
        signal.signal(signal.SIGTERM, before)


def least_busy(ray: Any, in_hand: dict[Any, int], actors: int) -> int:
    """The number of the actor with the fewest results outstanding; forgets those that are there.

    Turns would make every actor as slow as the slowest.
    """
    if in_hand:
        there, _ = ray.wait([*in_hand], num_returns=len(in_hand), timeout=0, fetch_local=False)
        for reference in there:
            del in_hand[reference]
    loads = Counter(in_hand.values())
    return min(range(actors), key=lambda actor: loads[actor])


def result_of(ray: Any, reference: Any) -> Any:
    """The result of a task; an error in an actor is raised as it was there.

    Raises:
        ConfigError: Ray itself has failed.
    """
    try:
        return ray.get(reference)
    except ray.exceptions.RayTaskError as error:
        raise error.cause from None
    except ray.exceptions.RayError as error:
        said = str(error).strip().split("\n")[0]
        raise ConfigError(
            f"Ray failed ({type(error).__name__}: {said}); run the same command again to go on"
        ) from error
