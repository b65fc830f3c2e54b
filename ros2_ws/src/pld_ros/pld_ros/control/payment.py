"""What actions have earned: the reward node's estimates, each paid once."""

from __future__ import annotations

import threading
from collections.abc import Callable

from pld_msgs.msg import SuccessEstimate

from pld_core.errors import ContractError
from pld_core.types import Observation
from pld_ros.control.episode import Judgement
from pld_ros.convert import nanoseconds
from pld_ros.node import PldNode
from pld_ros.observations import PROPRIO

LOCKSTEP_TIMEOUT_S = 5.0  # for anything that another node must do while simulated time stands still
_KEPT = 64


class Payment:
    """Of one episode after another.

    changed: guards what is heard, and is told of it; patience_s: how much of so many seconds the present tick may wait.
    """

    def __init__(self, node: PldNode, changed: threading.Condition, patience_s: Callable[[float], float]) -> None:
        self._node, self._changed, self._patience_s = node, changed, patience_s
        self._wait_s = node.setting("reward_wait_ms", 5.0) / 1e3
        self._age_ms = node.setting("reward_age_ms", 500.0)  # a model that is slower voids
        self._estimates: dict[int, SuccessEstimate] = {}
        self._counted = -1  # stamp of the newest estimate whose reward was given out
        self._before_pause: list[SuccessEstimate] = []  # estimates that came before a pause and were not given out

    def heard(self, message: SuccessEstimate) -> None:
        with self._changed:
            self._estimates[nanoseconds(message.header.stamp)] = message
            while len(self._estimates) > _KEPT:
                del self._estimates[min(self._estimates)]
            self._changed.notify_all()

    @property
    def success_probability(self) -> float:
        estimate = self._estimates.get(max(self._estimates)) if self._estimates else None
        return estimate.probability if estimate is not None else 0.0

    def forget(self) -> None:
        """A reset: simulated time may begin anew."""
        with self._changed:
            self._before_pause = []
            self._estimates.clear()

    def begin(self, stamp: int) -> None:
        """What was judged up to this stamp is none of the episode's, or was not earned by it."""
        self._counted = stamp

    def pause(self, last: int) -> None:
        """The operator pauses: what was earned up to the observation of this stamp is paid after it."""
        with self._changed:
            if not self._node.simulated_time:
                self._changed.wait_for(lambda: last in self._estimates, self._wait_s)
            self._before_pause = self._until(last)

    def judge(self, observation: Observation, last: bool) -> Judgement:
        """All estimates that came since the last call, each counted once: a late one counts a tick later.

        After the last tick the arm holds, so that an estimate of a later picture serves as well.
        """
        needed, stamp = observation.stamp_ns.get(PROPRIO, 0), max(observation.stamp_ns.values())
        patience_s = LOCKSTEP_TIMEOUT_S if self._node.simulated_time else self._patience_s(self._wait_s)
        timeout_s = max(patience_s, self._age_ms / 1e3) if last else patience_s
        with self._changed:
            there = self._changed.wait_for(lambda: max(self._estimates, default=-1) >= needed, timeout_s)
            if not there and self._node.simulated_time:
                raise ContractError(f"The reward node did not judge an observation within {timeout_s:.0f} s.")
            if last:
                stamp = min((s for s in self._estimates if s >= stamp), default=stamp)
            new = self._until(stamp)
        if not there:
            self._node.rates.count("late_rewards")
        age_ms = (stamp - self._counted) / 1e6
        if age_ms > self._age_ms and not self._node.simulated_time:
            raise ContractError(
                f"The reward node has judged nothing for {age_ms:.0f} ms; {self._age_ms:.0f} ms are allowed "
                "(reward_age_ms). See its log."
            )
        return Judgement(
            float(sum(e.reward for e in new)), any(e.success for e in new),
            any(e.terminated for e in new), any(e.truncated for e in new),
            self.success_probability, any(e.environment_success for e in new),
        )  # fmt: skip

    def _until(self, stamp: int) -> list[SuccessEstimate]:
        """Those that were not given out yet, in order; up to the one that ends the episode, if one does."""
        new, self._before_pause = self._before_pause, []
        for at in sorted(s for s in self._estimates if self._counted < s <= stamp):
            if any(e.success or e.terminated or e.truncated for e in new[-1:]):
                break
            new, self._counted = [*new, self._estimates[at]], at
        return new
