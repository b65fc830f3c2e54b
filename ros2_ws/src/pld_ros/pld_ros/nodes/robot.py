"""Hosts an arm's driver: state out, commands in, and a watchdog between."""

from __future__ import annotations

import sys
import threading
import time
from collections.abc import Sequence
from typing import Any

import numpy as np
import rclpy
from geometry_msgs.msg import PoseStamped
from pld_msgs.msg import DeltaCommand, OperatorState, SimulatorState
from pld_msgs.msg import RobotState as RobotStateMsg
from pld_msgs.srv import EStop, Reset
from rclpy.callback_groups import ReentrantCallbackGroup
from rosgraph_msgs.msg import Clock as ClockMsg
from sensor_msgs.msg import JointState

from pld_core.errors import PLDError, RobotError
from pld_core.types import RobotState
from pld_ros import topics
from pld_ros.convert import floats, nanoseconds, put_pose, time_msg
from pld_ros.drivers import make_driver
from pld_ros.managed import ManagedNode
from pld_ros.node import RHYTHM_PRIORITY, run_node
from pld_ros.observations import FUTURE_MS
from pld_ros.operating.asking import elsewhere

STATE_TIMEOUT_S = 0.2  # without a state for so long the arm counts as gone
ACTION_SLACK = 1e-5  # between what was commanded and what the driver says that it sent
RESET_AGE_S = 5.0  # the controller asks for no longer
WATCHDOG_PERIODS = 3  # control periods without a command after which the arm is told to hold


class RobotNode(ManagedNode):
    """The only node that moves the arm.

    Commands must come from one publisher, in order, while nothing is stopped; any other is refused
    and counted. Whoever sends them, silence for three periods ends in a hold.
    """

    def __init__(self) -> None:
        super().__init__("robot")
        self._driver = make_driver(self.station, self.task, realtime=not self.simulated_time)
        self._lock = threading.Lock()
        self._sequence = -1
        self._commanded_at: int | None = None  # monotonic nanoseconds; None: nothing is moving
        self._stopped = self._releasing = self._connected = False
        self._connections = 0  # made so far
        self._paused_at: int | None = None  # monotonic nanoseconds; None: not paused
        self._resets = 0  # finished, as the last state says
        self._reset_asked, self._reset_number = (0, 0), -1  # of the last one that was begun: when asked, and its seed
        self._reset_failed = ""  # why it did
        self._resetting: threading.Thread | None = None
        self._make_publishers()
        deadline = None if self.simulated_time else WATCHDOG_PERIODS * self.period_s
        self.create_subscription(DeltaCommand, topics.ROBOT_COMMAND, self._command, topics.command(deadline))
        self.create_subscription(OperatorState, topics.OPERATOR_STATE, self._operator, topics.LATCHED)
        self.create_service(Reset, topics.ROBOT_RESET, self._reset)
        answer: Any = self._estop  # a coroutine: rclpy takes one, and its types do not say so
        self.create_service(EStop, topics.ROBOT_ESTOP, answer, callback_group=ReentrantCallbackGroup())

    def _make_publishers(self) -> None:
        self._states = self.create_publisher(RobotStateMsg, topics.ROBOT_STATE, topics.STATE)
        self._poses = self.create_publisher(PoseStamped, topics.TOOL_POSE, topics.SENSOR)
        self._joints = self.create_publisher(JointState, topics.JOINT_STATES, topics.SENSOR)
        self._simulator = self.create_publisher(SimulatorState, topics.SIMULATOR_STATE, topics.OBSERVATION)
        self._time = self.create_publisher(ClockMsg, "/clock", 10) if self.simulated_time else None

    # -- lifecycle -------------------------------------------------------------------------------

    def connect(self) -> None:
        self._driver.connect()
        self._connected, self._connections = True, self._connections + 1

    def rest(self) -> None:
        with self._lock:
            self._commanded_at = None
            self._driver.hold()

    def disconnect(self) -> None:
        self._connected = False
        self._driver.close()

    # -- state out -------------------------------------------------------------------------------

    def work(self) -> None:
        """Publish every state of the driver, and hold the arm when commands cease."""
        silent = 0
        while rclpy.ok():
            if not self._connected:
                time.sleep(STATE_TIMEOUT_S)
                continue
            state = self._next_state()
            self._watch()  # an arm that says nothing may still be moving
            if state is None:
                silent += 1
                if self.active and not self.simulated_time:  # in lockstep time stands still without commands
                    self.set_ready(f"the arm sent no state for {silent * STATE_TIMEOUT_S:.1f} s")
                continue
            silent = 0
            self._publish(state)

    def _next_state(self) -> RobotState | None:
        """None also where the arm was let go of meanwhile, whatever its driver says of that."""
        connection = self._connections
        try:
            return self._driver.next_state(STATE_TIMEOUT_S)
        except RobotError:
            if self._connected and self._connections == connection:
                raise
            return None

    def _publish(self, state: RobotState) -> None:
        stamp = time_msg(state.stamp_ns)
        self._resets = state.resets
        if self._time is not None:
            self._time.publish(ClockMsg(clock=stamp))
        message = RobotStateMsg(
            mode=state.mode, fault=state.fault, joint_names=list(state.joint_names),
            joint_positions=state.joint_positions.tolist(), gripper_width=float(state.gripper_width_m),
            proprio=floats(state.proprio), resets=state.resets, commands=self.rates.total("commands"),
            refused=self.rates.total("refused"), held=self._held(),
            paused=self._paused_at is not None, limited=self._limited(),
        )  # fmt: skip
        message.header.stamp, message.header.frame_id = stamp, self.station.frame
        put_pose(message.tool_pose, state.position, state.quaternion)
        if state.snapshot is not None:
            simulated = SimulatorState(
                tick=state.tick, snapshot=state.snapshot.tolist(), success=state.success,
                terminated=state.terminated, truncated=state.truncated,
            )  # fmt: skip
            simulated.header.stamp = stamp
            self._simulator.publish(simulated)  # first: pictures take longest
        self._states.publish(message)
        joints = JointState(name=message.joint_names, position=message.joint_positions)
        joints.header.stamp = stamp
        self._joints.publish(joints)
        pose = PoseStamped(header=message.header, pose=message.tool_pose)
        self._poses.publish(pose)
        self.rates.count("states")
        if self.active:
            self.set_ready(state.fault)

    def _held(self) -> int:
        """Times that the arm was told to hold since commands had ceased, and periods that a driver held by itself."""
        return self.rates.total("watchdog_holds") + int(getattr(self._driver, "held_ticks", 0))

    def _watch(self) -> None:
        with self._lock:
            if self._commanded_at is None or self.simulated_time or self._is_resetting():
                return  # a hold would end the reset
            silent = time.monotonic_ns() - self._commanded_at
            if silent > WATCHDOG_PERIODS * self.period_s * 1e9:
                self._commanded_at = None
                self._driver.hold()
                self.rates.count("watchdog_holds")

    # -- commands in -----------------------------------------------------------------------------

    def _command(self, message: DeltaCommand) -> None:
        with self._lock:
            reason = self._refusal(message)
            if not reason:
                try:
                    action, before = np.array(message.action, np.float32), self._limited()
                    sent = self._driver.command(action[:6], float(action[6]))
                    self._commanded_at = time.monotonic_ns()  # also of one that was limited: the arm moves
                    limited = self._limited() > before
                    if not (limited or np.allclose(sent, action, atol=ACTION_SLACK)):
                        reason = "the arm was not free for it"
                except PLDError as error:
                    reason = str(error)
            if reason:
                self.rates.count("refused")
                self.get_logger().warning(f"command {message.sequence} refused: {reason}", throttle_duration_sec=1.0)
                return
            self._sequence = message.sequence
            self.rates.count("commands")

    def _limited(self) -> int:
        """Commands that a safety limit has shortened: as a wall would, so they are carried out and counted."""
        return sum(self._driver.limited.values())

    def _refusal(self, message: DeltaCommand) -> str:
        if not self.active:
            return "the robot node is not active"
        if self._stopped:
            return "the emergency stop is pressed"
        if self._paused_at is not None and time.monotonic_ns() - self._paused_at > self.period_s * 1e9:
            return "paused by the operator"  # what was decided before the pause was known is carried out
        if len(message.action) != self._driver.spec().dim:
            return f"it has {len(message.action)} entries, the arm takes {self._driver.spec().dim}"
        if self.count_publishers(topics.ROBOT_COMMAND) > 1:
            return "more than one node sends commands; stop all but one"
        age_ms = (time.time_ns() - nanoseconds(message.header.stamp)) / 1e6
        if age_ms > self.station.max_command_age_ms and not self.simulated_time:
            return f"it was decided on what was seen {age_ms:.0f} ms ago"
        if age_ms < -FUTURE_MS and not self.simulated_time:
            return f"what it was decided on is stamped {-age_ms:.0f} ms in the future; the system clock was set back"
        if message.sequence <= self._sequence:
            # A controller that was restarted counts from its start time on, never from 0.
            return f"it is out of order (the last one was {self._sequence})"
        return ""

    def _operator(self, message: OperatorState) -> None:
        if message.estopped:  # a release takes the service: silence or an old message must never release
            self._stop()
        with self._lock:
            if not message.paused:
                self._paused_at = None
            elif self._paused_at is None:
                self._paused_at = time.monotonic_ns()
                if self._is_resetting():
                    self._driver.hold()

    async def _estop(self, request: EStop.Request, response: EStop.Response) -> EStop.Response:
        if request.stop:
            self._stop()
            response.ok, response.message = True, "stopped"
            return response
        reason = await elsewhere(self, self._release)  # a press must get through meanwhile
        response.ok, response.message = not reason, f"it stays stopped: {reason}" if reason else "released"
        return response

    def _stop(self) -> None:
        with self._lock:
            if self._stopped and not self._releasing:
                return
            self._commanded_at, self._stopped, self._releasing = None, True, False
            self._driver.stop()
        self.get_logger().warning("emergency stop")

    def _release(self) -> str:
        """Why the arm stays stopped; empty if it is free. A real arm may take seconds to come back."""
        with self._lock:
            if not self._stopped or self._releasing:
                return "it is being released already" if self._releasing else ""
            self._releasing = True
        reason = ""
        try:
            self._driver.recover()
        except RobotError as error:
            reason = str(error)
        with self._lock:
            if not self._releasing:
                self._driver.stop()  # it may have come before the recovery, which has then undone it
                return reason or "it was pressed again"
            self._releasing, self._stopped = False, bool(reason)
        if not reason:
            self.get_logger().warning("emergency stop released")
        return reason

    # -- reset -----------------------------------------------------------------------------------

    def _reset(self, request: Reset.Request, response: Reset.Response) -> Reset.Response:
        """Starts the reset on a thread of its own: a real arm takes seconds, and a stop must get through."""
        asked_at = nanoseconds(request.asked_at)
        if asked_at and self._reset_asked == (asked_at, request.seed):  # asked again: the answer was lost, or it lasts
            response.ok, response.message = not self._reset_failed, self._reset_failed
            response.reset = max(self._reset_number, 0)
            return response
        response.message = self._no_reset(asked_at)
        if response.message:
            return response
        # Read first: the reset may be over at once. That of the last one may not have been told yet.
        response.ok, response.reset = True, max(self._resets, self._reset_number) + 1
        self._reset_asked, self._reset_number = (asked_at, request.seed), response.reset
        self._reset_failed = ""
        self._resetting = threading.Thread(target=self._run_reset, args=(request.seed,), daemon=True)
        self._resetting.start()
        return response

    def _no_reset(self, asked_at: int) -> str:
        age_s = (time.time_ns() - asked_at) / 1e9 if asked_at else 0.0
        if age_s > RESET_AGE_S:
            return f"asked for {age_s:.0f} s ago: whoever did so has given up"
        if self._stopped:
            return "the emergency stop is pressed"
        if self._paused_at is not None:
            return "paused by the operator"
        return "inactive, or a reset is under way" if not self.active or self._is_resetting() else ""

    def _is_resetting(self) -> bool:
        return self._resetting is not None and self._resetting.is_alive()

    def _run_reset(self, seed: int) -> None:
        try:
            self._driver.reset(seed)
        except PLDError as error:
            self._reset_failed, self._reset_number = str(error), -1  # it does not count
            self.get_logger().error(f"reset failed: {error}")

    def diagnostics(self) -> dict[str, Any]:
        limited = {f"limited_by_{name}": count for name, count in self._driver.limited.items()}
        return {"stopped": self._stopped, "paused": self._paused_at is not None, **limited}

    def close(self) -> None:
        self.disconnect()


def main(args: Sequence[str] | None = None) -> int:
    return run_node(RobotNode, args, RHYTHM_PRIORITY)


if __name__ == "__main__":
    sys.exit(main())
