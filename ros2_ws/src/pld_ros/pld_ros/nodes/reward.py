"""Judges observations: by the simulator's word, or by a reward model that sees for itself."""

from __future__ import annotations

import sys
import threading
from collections.abc import Sequence
from typing import Any

import numpy as np
import rclpy
from pld_msgs.msg import OperatorState, RobotState, SimulatorState, SuccessEstimate

from pld_core import bring
from pld_core.errors import PLDError
from pld_core.rewards.debounce import clear_latch
from pld_core.types import Observation, TimeStep
from pld_ros import topics
from pld_ros.convert import nanoseconds, time_msg
from pld_ros.inputs import subscribe
from pld_ros.node import SENSE_PRIORITY, PldNode, run_node

NEXT_LOOK = 0.75  # periods after the last look
_POLL_S = 0.2
_KEPT = 64


class RewardNode(PldNode):
    """One estimate per observation, with its stamp. A new scene (a reset of the robot) begins anew.

    While the operator pauses, a model that sees for itself is not asked: pictures of a human at work are no success.
    On a real robot with the reward ``binary`` nothing judges but the operator: every estimate is 0.
    """

    def __init__(self) -> None:
        super().__init__("reward")
        name = self.setting("reward", "binary")
        self._model = bring.reward_factory(name)()
        self._name = name.partition(":")[0]
        self._sees = bool(getattr(self._model, "sees_for_itself", False))
        self._arrived = threading.Condition()
        self._word: dict[int, SimulatorState] = {}
        self._resets = -1
        self._floor = -1  # stamp of the first observation since the reset
        self._last = -1
        self._heard = -1  # stamp of the newest state
        self._probability = 0.0
        self._drift = False
        self._paused = False
        self._was_paused = False  # since the last observation that was judged
        self._answers = self.create_publisher(SuccessEstimate, topics.SUCCESS, topics.STATE)
        self._buffer = subscribe(self, self._wake, self._on_state) if self._sees else None
        if self._sees:
            self.create_subscription(OperatorState, topics.OPERATOR_STATE, self._on_operator, topics.LATCHED)
        else:
            self.create_subscription(RobotState, topics.ROBOT_STATE, self._on_state, topics.STATE)
        if self.station.is_simulated:
            self.create_subscription(SimulatorState, topics.SIMULATOR_STATE, self._on_word, topics.OBSERVATION)
            self.inputs.append(topics.SIMULATOR_STATE)
        self.set_ready(version=name)

    # -- heard on the callbacks' thread ----------------------------------------------------------

    def _wake(self) -> None:
        with self._arrived:
            self._arrived.notify()

    def _on_state(self, message: RobotState) -> None:
        with self._arrived:
            stamp = nanoseconds(message.header.stamp)
            if stamp < self._heard:  # a robot node that was restarted in simulated time
                latest = stamp + round(2e9 * self.period_s)
                self._word = {at: word for at, word in self._word.items() if at <= latest}
            self._heard = stamp
            if message.resets != self._resets:
                self._resets, self._floor = message.resets, stamp
                self._last = -1
            if not (self._sees or self.station.is_simulated):
                self._remember(stamp, SimulatorState())
            self._arrived.notify()

    def _on_operator(self, message: OperatorState) -> None:
        with self._arrived:
            self._paused = message.paused
            self._was_paused |= message.paused

    def _on_word(self, message: SimulatorState) -> None:
        with self._arrived:
            self._remember(nanoseconds(message.header.stamp), message)
            self._arrived.notify()

    def _remember(self, stamp: int, word: SimulatorState) -> None:
        self._word[stamp] = word
        while len(self._word) > _KEPT:
            del self._word[next(iter(self._word))]  # the first that came: stamps may begin anew

    # -- main thread -----------------------------------------------------------------------------

    def work(self) -> None:
        while rclpy.ok():
            with self._arrived:
                stamps = self._next() if self._arrived.wait_for(lambda: self._next() is not None, _POLL_S) else None
                if stamps is None:
                    continue
                first, self._last = self._last < self._floor, max(stamps.values())
                word = self._word.get(self._last)
            self._judge(stamps, word, first)

    def _next(self) -> dict[str, int] | None:
        """Stamps of the newest observation that was not judged yet."""
        if self._floor < 0:
            return None
        after = max(self._last, self._floor - 1)
        if self._sees and self._last >= self._floor:  # one look a tick, as in training: cameras may be faster
            after = self._last + round(NEXT_LOOK * self.period_s * 1e9)
        if self._buffer is not None:
            stamps = self._buffer.newest(after)
        else:
            stamp = max((s for s in self._word if s > after), default=None)
            stamps = None if stamp is None else {"simulator": stamp}
        # The simulator speaks before its pictures are drawn; wait for its word all the same.
        if stamps is None or (self.station.is_simulated and max(stamps.values()) not in self._word):
            return None
        return stamps

    def _judge(self, stamps: dict[str, int], word: SimulatorState | None, first: bool) -> None:
        answer = SuccessEstimate(source=self._name)
        answer.header.stamp = time_msg(max(stamps.values()))
        try:
            if first:  # nothing was done yet that could be judged
                self._model.reset()
            else:
                self._score(answer, stamps, word)
        except PLDError as error:
            self.rates.count("faults")
            self.get_logger().error(f"the reward model failed: {error}", throttle_duration_sec=1.0)
            if not self.simulated_time:  # there, time stands still: it would never see another picture
                self.set_ready(f"the reward model failed: {error}")
            return
        if not self.ready:
            self.set_ready()
        self._answers.publish(answer)
        self.rates.count("estimates")

    def _score(self, answer: SuccessEstimate, stamps: dict[str, int], word: SimulatorState | None) -> None:
        observation = self._observation(stamps)
        own = word is not None and bool(word.success)
        step = TimeStep(
            observation, float(own), bool(word and word.terminated), bool(word and word.truncated), own
        )  # fmt: skip
        model: Any = self._model
        if self._is_paused():
            reward, success = 0.0, False
        elif hasattr(model, "estimate"):
            judged = model.estimate(observation)
            reward, success = float(judged.success), bool(judged.success)
            answer.probability, answer.drift = float(judged.probability), bool(judged.drift)
        else:
            reward, success = model.score(step)
            answer.probability = float(success)
        answer.reward, answer.success = float(reward), bool(success)
        answer.environment_success = own
        missed = self._sees and own and not success  # such an end is like a time limit: LocalRunner does the same
        answer.terminated = step.terminated and not missed
        answer.truncated = step.truncated or (missed and step.terminated)
        self._probability, self._drift = answer.probability, answer.drift

    def _is_paused(self) -> bool:
        """After a pause, the model has forgotten what it made of the pictures before."""
        with self._arrived:
            paused, resumed = self._paused, self._was_paused and not self._paused
            self._was_paused = paused
        if resumed:
            clear_latch(self._model)
        return paused

    def _observation(self, stamps: dict[str, int]) -> Observation:
        if self._buffer is None:  # only the simulator's word counts
            return Observation({}, np.zeros(0, np.float32))
        return self._buffer.observation(stamps, self.task_config.instruction)

    def diagnostics(self) -> dict[str, Any]:
        return {"reward": self._name, "probability": self._probability, "drift": self._drift}


def main(args: Sequence[str] | None = None) -> int:
    return run_node(RewardNode, args, SENSE_PRIORITY)


if __name__ == "__main__":
    sys.exit(main())
