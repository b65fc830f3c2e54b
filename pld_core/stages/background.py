"""Runs episodes on a thread of its own, so that the learner computes meanwhile."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from queue import SimpleQueue
from typing import Any, TypeVar

from pld_core.interfaces import BasePolicy, ResidualActor, RewardModel
from pld_core.types import Episode, EpisodeSpec

Result = TypeVar("Result")


class BackgroundRunner:
    """Owns a runner and the one thread that ever touches it (GL contexts are bound to a thread).

    Physics, rendering and compiled networks release the interpreter lock, so one core simulates
    while the other learns.
    """

    def __init__(self, make_runner: Callable[[], Any], thread: ThreadPoolExecutor | None = None) -> None:
        self._thread = thread or ThreadPoolExecutor(max_workers=1, thread_name_prefix="episodes")
        self.runner = self._thread.submit(make_runner).result()

    def with_policy(self, policy: BasePolicy) -> BackgroundRunner:
        """The same environments on the same thread, driven by another base policy."""
        return BackgroundRunner(lambda: self.runner.with_policy(policy), self._thread)

    def with_reward(self, reward: Callable[[], RewardModel]) -> BackgroundRunner:
        """The same environments on the same thread, judged by another reward."""
        return BackgroundRunner(lambda: self.runner.with_reward(reward), self._thread)

    def submit(self, specs: Sequence[EpisodeSpec], actor: ResidualActor | None = None) -> Future[list[Episode]]:
        """Start the episodes; the future gives them in the order of ``specs``."""
        return self._thread.submit(lambda: list(self.runner.run(specs, actor)))

    def run(self, specs: Sequence[EpisodeSpec], actor: ResidualActor | None = None) -> Iterator[Episode]:
        """Yield each episode, in the order of ``specs``, as soon as it is there, so that a caller who
        stores it loses nothing to a later fault. The thread never waits for the caller."""
        ready: SimpleQueue[Episode | None] = SimpleQueue()
        future = self._thread.submit(self._produce, specs, actor, ready)
        while (episode := ready.get()) is not None:
            yield episode
        future.result()  # raises what ended the episodes early

    def _produce(
        self, specs: Sequence[EpisodeSpec], actor: ResidualActor | None, ready: SimpleQueue[Episode | None]
    ) -> None:
        try:
            for episode in self.runner.run(specs, actor):
                ready.put(episode)
        finally:
            ready.put(None)

    def call(self, function: Callable[[], Result]) -> Result:
        """Run something else on the environments' thread, such as rendering a video."""
        return self._thread.submit(function).result()

    def close(self) -> None:
        """End running episodes within a tick (nobody waits for them any more), then the environments."""
        stop = getattr(self.runner, "stop", None)
        if stop is not None:
            stop()
        close = getattr(self.runner, "close", None)
        if close is not None:
            self.call(close)
        self._thread.shutdown()
