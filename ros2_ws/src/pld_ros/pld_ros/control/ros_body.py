"""The controller node's eyes and hands: see ``episode.Body``."""

from __future__ import annotations

import math
import threading
import time
from collections.abc import Callable
from typing import Any

import numpy as np
from pld_msgs.msg import DeltaCommand, OperatorState, RobotState, SuccessEstimate
from pld_msgs.srv import Label

from pld_core.errors import ContractError, RobotError
from pld_core.interfaces import ResidualActor
from pld_core.types import Observation
from pld_ros import topics
from pld_ros.control.episode import Judgement, Orders
from pld_ros.control.obedience import Obedience, refuse_stale
from pld_ros.control.pace import Pace
from pld_ros.control.payment import LOCKSTEP_TIMEOUT_S, Payment
from pld_ros.control.services import ArmReset
from pld_ros.convert import floats, nanoseconds, time_msg, vector
from pld_ros.inputs import subscribe
from pld_ros.node import PldNode
from pld_ros.observations import PROPRIO

RESET_TIMEOUT_S = 90.0  # longer than any driver's own: the Franka's gives up after 63 s, and says why
RESET_ASK_S = 0.5  # the robot node is asked so often whether the reset has failed
ROBOT_AGE_MS = 150.0  # of an arm's state
OPERATOR_AGE_S = 2.0  # without a word of the operator node nobody could stop the arm
PAUSE_POLL_S = 0.1
WAITS_END = 0.5  # of a period after a tick was due: what has not come by then is done without
SETTLE_S = 0.003  # the rhythm of a real arm starts so long after a first observation, that later ones are there in time
PHASE_S = 0.020  # a simulated arm's, so long after its periods begin: its pictures need up to this to be drawn
VERDICTS = {Label.Request.SUCCESS: "success", Label.Request.FAILURE: "failure", Label.Request.VOID: "void"}


class RosBody:
    """Implements episode.Body on topics and services. Callbacks run on another thread than the methods."""

    def __init__(self, node: PldNode) -> None:
        self._node = node
        self._grace_s = node.setting("grace_ms", 8.0) / 1e3  # wait so long for the observation of a tick
        self._max_age_ms = self._ages(node.setting("max_age_ms", 0.0))
        self.pace = Pace(node.period_s)
        self.get_actor: Callable[[], tuple[ResidualActor | None, str]] = lambda: (None, "")
        self.on_pause: Callable[[bool], None] = lambda paused: None
        self.on_begin: Callable[[int], None] = lambda stamp_ns: None
        self.is_cancelled: Callable[[], bool] = lambda: False
        self._changed = threading.Condition()
        self._robot: RobotState | None = None
        self._first_stamp: dict[int, int] = {}  # reset -> stamp of its first state
        self._obedience = Obedience(node.period_s)
        self._payment = Payment(node, self._changed, self.patience_s)
        self._operator: OperatorState | None = None
        self._operator_at = 0.0
        self.starts = 0  # times that the operator said that the scene is ready, as heard here
        self._verdict = ""
        self._intervention: tuple[float, np.ndarray] | None = None
        self._last = -1  # stamp of the newest source of the last observation
        self._floor = -1  # observations up to here belong to an earlier episode
        self._sequence = time.time_ns() // 1_000_000 * 1_000_000  # grows over restarts too
        self.latency_ms: list[float] = []
        self._connect()

    def _ages(self, given_ms: float) -> dict[str, float]:
        """Oldest admissible data in milliseconds per source: as given, or as the station's file says (0)."""
        cameras = {name: given_ms or camera.max_age_ms for name, camera in self._node.station.cameras.items()}
        return {PROPRIO: given_ms or ROBOT_AGE_MS, **cameras}

    def _connect(self) -> None:
        node = self._node
        self.buffer = subscribe(node, on_state=self._on_state)
        self._commands: Any = None
        self._arm_reset = ArmReset(node, lambda: self.paused)
        node.create_subscription(SuccessEstimate, topics.SUCCESS, self._payment.heard, topics.STATE)
        node.create_subscription(OperatorState, topics.OPERATOR_STATE, self._on_operator, topics.LATCHED)
        node.create_subscription(DeltaCommand, topics.INTERVENTION, self._on_intervention, topics.LATCHED)

    def take_command(self) -> None:
        """From now on this node commands the arm, which obeys only while there is one that does."""
        deadline = None if self._node.simulated_time else 3 * self._node.period_s
        self._commands = self._node.create_publisher(DeltaCommand, topics.ROBOT_COMMAND, topics.command(deadline))

    # -- heard -----------------------------------------------------------------------------------

    def _on_state(self, message: RobotState) -> None:
        with self._changed:
            self._robot = message
            self._first_stamp.setdefault(message.resets, nanoseconds(message.header.stamp))
            self._changed.notify_all()

    def _on_operator(self, message: OperatorState) -> None:
        with self._changed:
            # Only a count that grows is a start: an operator node that was restarted begins at 0 again.
            self.starts += self._operator is not None and message.starts > self._operator.starts
            self._operator, self._operator_at = message, time.monotonic()
            self._changed.notify_all()

    def _on_intervention(self, message: DeltaCommand) -> None:
        self._intervention = (time.monotonic(), vector(message.action))

    def label(self, label: int) -> None:
        """The operator's verdict on the running episode."""
        self._verdict = VERDICTS[label]

    def forget_verdict(self) -> None:
        """An episode begins: what was said before was about another."""
        self._verdict = ""

    @property
    def operator_silent_s(self) -> float:
        return time.monotonic() - self._operator_at

    @property
    def paused(self) -> bool:
        return self._operator is not None and self._operator.paused

    @property
    def estopped(self) -> bool:
        return self._operator is not None and self._operator.estopped

    @property
    def success_probability(self) -> float:
        return self._payment.success_probability

    # -- episode.Body ----------------------------------------------------------------------------

    def reset(self, seed: int) -> Observation:
        self._intervention = None
        self._payment.forget()  # simulated time may begin anew ...
        with self._changed:
            self._first_stamp = {}  # ... and a robot node that was restarted counts its resets from 0 again
            before = self._robot
        number = self._arm_reset.begin(seed)
        self._wait_for_reset(number, before)
        with self._changed:
            self._floor = self._last = self._first_stamp[number] - 1
            self._first_stamp = {number: self._first_stamp[number]}
            self._payment.begin(self._floor + 1)
            assert self._robot is not None  # its state has ended the wait
            self._obedience.begin(number, self._robot)
        stamps = self.buffer.wait_newer(self._floor, LOCKSTEP_TIMEOUT_S)
        if stamps is None:
            raise ContractError(f"No observation within {LOCKSTEP_TIMEOUT_S:.0f} s of the reset: {self._silent()}.")
        return self._observation(stamps)

    def _wait_for_reset(self, number: int, before: RobotState | None) -> None:
        """Until this reset is done; raises RobotError with the reason if it fails. before: the newest state then."""
        give_up = time.monotonic() + RESET_TIMEOUT_S
        while True:
            with self._changed:
                self._changed.wait_for(lambda: self._reset_end(number, before) is not None, RESET_ASK_S)
                end = self._reset_end(number, before)
            if end is None:
                end = self._arm_reset.failure() or None
            if end:
                raise RobotError(f"The reset failed: {end}")
            if end == "":
                return
            if time.monotonic() > give_up:
                raise RobotError(f"The reset did not finish within {RESET_TIMEOUT_S:.0f} s; see the robot node's log.")

    def _reset_end(self, number: int, before: RobotState | None) -> str | None:
        """Empty: it is done; or why it never will be. None: it goes on."""
        if number in self._first_stamp:
            return ""
        if self.paused:
            return "the operator paused during it."
        robot = self._robot
        if robot is None or robot is before:
            return None
        if robot.fault:
            return f"the arm reports a fault: {robot.fault}"
        return "the arm was stopped (emergency stop)." if robot.mode == "stopped" else None

    def begin(self, first: Observation) -> Observation:
        if self._node.simulated_time:
            return first
        period_s = self._node.period_s
        if not self._node.station.is_simulated:  # its sources keep times of their own: begin when all have just spoken
            self.buffer.wait_newer(max((self.buffer.newest(self._floor) or {"": self._last}).values()), period_s)
        due = self._phase(self.buffer.newest(self._floor) or {"": self._last})
        now = time.monotonic()
        due += max(0, math.ceil((now - due) / period_s)) * period_s
        self.pace.start(due - period_s)
        self.pace.wait()
        stamps = self.buffer.newest(self._floor) or dict(first.stamp_ns)
        self._refuse_stale(stamps)
        newest = max(stamps.values())
        self._payment.begin(newest)  # nothing was done yet that could have earned anything
        self.on_begin(newest)
        return self._observation(stamps)

    def patience_s(self, most_s: float) -> float:
        """How long the present tick may still wait for what it needs."""
        return most_s if self._node.simulated_time else min(most_s, self.pace.left_s(WAITS_END))

    def _phase(self, stamps: dict[str, int]) -> float:
        """When a tick is due that these stamps are the newest for, in monotonic seconds."""
        now = time.monotonic()
        if not self._node.station.is_simulated:
            return now + SETTLE_S
        captured = now - (time.time_ns() - max(stamps.values())) / 1e9
        return captured + PHASE_S

    def observe(self) -> Observation:
        stamps = self._next_in_lockstep() if self._node.simulated_time else self._next_in_rhythm()
        assert self._robot is not None  # there was an observation
        self._obedience.check(self._robot)
        if self._operator is not None and self.operator_silent_s > OPERATOR_AGE_S and not self._node.simulated_time:
            raise RobotError(
                f"The operator node has been silent for {self.operator_silent_s:.1f} s: nobody could stop the arm."
            )
        return self._observation(stamps)

    def _next_in_lockstep(self) -> dict[str, int]:
        stamps = self.buffer.wait_newer(self._last, LOCKSTEP_TIMEOUT_S)
        if stamps is None:
            raise ContractError(f"No new observation within {LOCKSTEP_TIMEOUT_S:.0f} s: {self._silent()}.")
        return stamps

    def _next_in_rhythm(self) -> dict[str, int]:
        self.pace.wait()
        stamps = self.buffer.wait_newer(self._last, self.patience_s(self._grace_s))
        self._obedience.check_rhythm(self.pace.over)  # first: whoever gets no processor finds all sources old
        if stamps is None:
            self._node.rates.count("stale_observations")
            stamps = self.buffer.newest(self._floor)
        if stamps is None:
            raise ContractError(f"There is no complete observation: {self._silent()}.")
        self._refuse_stale(stamps)
        return stamps

    def _refuse_stale(self, stamps: dict[str, int]) -> None:
        refuse_stale(self.buffer, stamps, self._max_age_ms, self._node.period_s)

    def judge(self, observation: Observation, last: bool) -> Judgement:
        return self._payment.judge(observation, last)

    def orders(self) -> Orders:
        if self.paused and not self.estopped:
            self._wait_for_resume()
            ended = self.estopped or self.is_cancelled()
            waited = not (ended or self._node.simulated_time)  # where time stood still, nothing has grown old
            return Orders(self.estopped, self._verdict, waited=waited, cancelled=self.is_cancelled())
        human = self._intervention if self._operator is not None and self._operator.taking_over else None
        # A human's word ages as fast as any other: silence hands back.
        fresh = human is not None and time.monotonic() - human[0] < self._max_age_ms[PROPRIO] / 1e3
        action = human[1] if fresh and human is not None else None
        return Orders(self.estopped, self._verdict, action, cancelled=self.is_cancelled())

    def _wait_for_resume(self) -> None:
        self.on_pause(True)
        self._payment.pause(self._last)
        with self._changed:
            while self.paused and not self.estopped and not self.is_cancelled():
                self._changed.wait(PAUSE_POLL_S)
        self.on_pause(False)
        if not self._node.simulated_time:
            newest = self.buffer.newest(self._floor) or {"": self._last}
            self.pace.start(self._phase(newest))
            # Periods held and pictures judged while a human was at work are none of the episode's.
            self._obedience.forget()
            self._payment.begin(max(newest.values()))

    def actor(self) -> tuple[ResidualActor | None, str]:
        return self.get_actor()

    def send(self, action: np.ndarray, observation: Observation) -> float:
        message = DeltaCommand(sequence=self._sequence, action=floats(action))
        self._sequence += 1
        message.header.frame_id = self._node.station.frame
        message.header.stamp = time_msg(self._last)
        self._commands.publish(message)
        self._obedience.commanded()
        if self._node.simulated_time:
            return 0.0
        self.pace.done()
        latency_ms = (time.time_ns() - max(observation.stamp_ns.values())) / 1e6
        self.latency_ms.append(latency_ms)
        return latency_ms

    # -- inside ----------------------------------------------------------------------------------

    def _observation(self, stamps: dict[str, int]) -> Observation:
        self._last = max(stamps.values())
        return self.buffer.observation(stamps, self._node.task_config.instruction)

    def _silent(self) -> str:
        return ", ".join(f"{s} silent for {1e3 * self.buffer.silent_s(s):.0f} ms" for s in self.buffer.sources)
