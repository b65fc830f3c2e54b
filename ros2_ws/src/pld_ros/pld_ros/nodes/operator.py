"""What the operator wants: reset, start, verdicts, pause, emergency stop, and driving by hand."""

from __future__ import annotations

import sys
import time
from collections.abc import Awaitable, Callable, Sequence
from functools import partial
from typing import Any

import numpy as np
from pld_msgs.msg import DeltaCommand, EpisodeStatus, OperatorState, PolicyStep, RobotState
from pld_msgs.srv import EStop, Label, Pause, Reset
from rclpy.callback_groups import ReentrantCallbackGroup
from rclpy.client import Client
from rclpy.clock import Clock, ClockType
from std_srvs.srv import Trigger

from pld_ros import topics
from pld_ros.convert import floats
from pld_ros.node import HEALTH_LOST_S, SENSE_PRIORITY, HealthWatch, PldNode, run_node
from pld_ros.operating.asking import NoAnswerError, ask
from pld_ros.operating.front_ends import NONE
from pld_ros.operating.front_ends.base import OperatorEvent
from pld_ros.operating.front_ends.holder import HeldFrontEnd
from pld_ros.operating.takeover import RemoteDrive, TakeOver

STATE_PERIOD_S = 0.5
POLL_PERIOD_S = 0.02  # how often the front end is asked
REOPEN_PERIOD_S = 2.0  # how often a front end that is not there is looked for
LISTEN_S = 0.3  # to the arm, before this node speaks of itself
ANSWER_S = 2.0  # how long another node may take for its answer
RELEASE_S = 4.0  # the same of an arm that comes back from a fault; should it take longer, it is released once more
REPEAT_S = 0.5  # a verdict is said again after this; a stop or a release never is: a newer wish may have come between
VERDICTS = {Label.Request.SUCCESS: "success", Label.Request.FAILURE: "failure", Label.Request.VOID: "void"}

Answer = tuple[bool, str]


class OperatorNode(PldNode):
    """Serves the operator, from whatever hand the wish comes: a service, or a front end of this process.

    The e-stop and a pause are latched: they end by the operator's word only, not by a restart of this node.
    """

    def __init__(self) -> None:
        super().__init__("operator")
        self._front_end = HeldFrontEnd(
            self.setting("front_end", NONE), self.setting("device", ""), self.setting("speed", 0.5),
            self.get_logger().warning,
        )  # fmt: skip
        self._state = OperatorState()
        self.releasing = False
        self.episode = EpisodeStatus()  # the newest word of the controller
        self._finished = ""  # the last episode that ended
        self.robot_mode: str | None = None
        self._robot_heard_at = 0.0  # first, in monotonic seconds
        self._has_spoken = False
        self._remote, self._take_over = RemoteDrive(), TakeOver()
        self._interventions = 0
        self.health_watch = HealthWatch(self)
        # Requests to other nodes are awaited; their answers must come in while a service is still being served.
        self._group = ReentrantCallbackGroup()
        self._robot_reset = self._client(Reset, topics.ROBOT_RESET)
        self._robot_estop = self._client(EStop, topics.ROBOT_ESTOP)
        self._label = self._client(Label, topics.LABEL)
        self._late_label = self._client(Label, topics.LATE_LABEL)
        self._publisher = self.create_publisher(OperatorState, topics.OPERATOR_STATE, topics.LATCHED)
        self._commands = self.create_publisher(DeltaCommand, topics.INTERVENTION, topics.LATCHED)
        self._listen()
        self._serve()
        self._start_timers()
        self.set_ready()

    def _client(self, kind: Any, name: str) -> Client:
        return self.create_client(kind, name, callback_group=self._group)

    def _listen(self) -> None:
        self.create_subscription(EpisodeStatus, topics.EPISODE, self._hear_episode, topics.EPISODES)
        self.create_subscription(RobotState, topics.ROBOT_STATE, self._hear_robot, topics.STATE)
        self.create_subscription(PolicyStep, topics.STEP, self._hear_step, topics.STATE)
        self.create_subscription(
            DeltaCommand, topics.OPERATOR_DRIVE, lambda m: self._remote.hear(m.action), topics.command(None)
        )

    def _serve(self) -> None:
        request = Label.Request
        handlers: tuple[tuple[Any, str, Callable[[Any], Awaitable[Answer]]], ...] = (
            (Trigger, topics.OPERATOR_START, lambda _: self._start()),
            (Trigger, topics.OPERATOR_SUCCESS, lambda _: self._judge(request.SUCCESS)),
            (Trigger, topics.OPERATOR_FAIL, lambda _: self._judge(request.FAILURE)),
            (Label, topics.OPERATOR_LABEL, lambda r: self._judge(r.label, r.episode_id)),
            (Pause, topics.OPERATOR_PAUSE, lambda r: self._pause(r.paused)),
            (EStop, topics.OPERATOR_ESTOP, lambda r: self._stop() if r.stop else self._release()),
        )
        for kind, name, handler in handlers:
            self._offer(kind, name, partial(_answer, handler))
        self._offer(Reset, topics.OPERATOR_RESET, self._on_reset)

    def _offer(self, kind: Any, name: str, callback: Callable[[Any, Any], Any]) -> None:
        self.create_service(kind, name, callback, callback_group=self._group)

    def _start_timers(self) -> None:
        steady = Clock(clock_type=ClockType.STEADY_TIME)
        self.create_timer(STATE_PERIOD_S, self._repeat_state, clock=steady)
        self.create_timer(self.period_s, self._drive, clock=steady)
        if self._front_end.name != NONE:
            self.create_timer(POLL_PERIOD_S, self._poll, clock=steady)
            self.create_timer(REOPEN_PERIOD_S, self._front_end.open, clock=steady)

    # -- what the others say ---------------------------------------------------------------------

    def _hear_episode(self, message: EpisodeStatus) -> None:
        self.episode = message
        if message.state == EpisodeStatus.DONE:
            self._finished = message.episode_id

    def _hear_robot(self, message: RobotState) -> None:
        before, self.robot_mode = self.robot_mode, message.mode
        self._robot_heard_at = self._robot_heard_at or time.monotonic()
        if message.paused and not self._has_spoken and not self._state.paused:
            self.get_logger().warning("the arm was paused before this node began; operator/pause lets it go on")
            self._state.paused = True
        if message.mode == "stopped" and before != "stopped" and not self._state.estopped:
            # Pressed before this node (re)started, or by someone else: it is to be released here all the same.
            self.get_logger().warning("the arm is stopped; release it with operator/estop, stop: false")
            self._state.estopped = True
            self._publish_state()

    def _hear_step(self, message: PolicyStep) -> None:
        gripper = self.station.action_spec.gripper
        if not message.closing and gripper is not None and len(message.action) > gripper:
            self._take_over.executed(message.action[gripper])

    def _running(self) -> bool:
        return self.episode.state in (EpisodeStatus.RUNNING, EpisodeStatus.PAUSED)

    # -- what the operator wants -----------------------------------------------------------------

    async def _on_reset(self, request: Reset.Request, response: Reset.Response) -> Reset.Response:
        return await self._reset(request)

    async def _reset(self, request: Reset.Request) -> Reset.Response:
        if self._running() and self.health_watch.silent_s("controller") < HEALTH_LOST_S:
            message = f"Episode {self.episode.episode_id} is running; give its verdict first."
            return Reset.Response(ok=False, message=message)
        try:
            response = await ask(self, self._group, self._robot_reset, request, ANSWER_S)
        except NoAnswerError as error:
            return Reset.Response(ok=False, message=f"No reset: {error}.")
        message = f"Reset {response.reset} has begun." if response.ok else f"No reset: {response.message}."
        return Reset.Response(ok=response.ok, message=message, reset=response.reset)

    async def _start(self) -> Answer:
        if self._state.estopped:
            return False, "The e-stop is pressed; release it first."
        if not (self._has_spoken or self.heard_the_arm):
            return False, "This node has just begun and listens whether the arm is paused; start again."
        self._state.starts += 1
        self._publish_state()
        if self.episode.state == EpisodeStatus.WAITING:
            return True, f"The waiting episode may begin (start {self._state.starts})."
        return True, f"The scene is ready (start {self._state.starts}); no episode is waiting for it now."

    async def _judge(self, label: int, episode_id: str = "") -> Answer:
        """Verdict on the running episode, else on the last one, which the replay logger has."""
        if label not in VERDICTS:
            return False, f"label is {label}; valid: 0 success, 1 failure, 2 void."
        running = self.episode.episode_id if self._running() else ""
        request = Label.Request(episode_id=episode_id or running or self._finished, label=label)
        if not request.episode_id:
            return False, "No episode has run yet; there is nothing to label."
        text = f"episode {request.episode_id}: {VERDICTS[label]}"
        refused = ""
        if request.episode_id == running:
            done, refused = await self._send(self._label, request, REPEAT_S)
            if done:
                return True, f"Running {text}. {refused}".strip()
            refused = f"{refused}; "  # it may have ended in the meantime
        done, message = await self._send(self._late_label, request, REPEAT_S)
        return done, f"Recorded {text}. {message}".strip() if done else f"Not labelled: {refused}{message}."

    async def _pause(self, paused: bool) -> Answer:
        self._state.paused = paused
        self._publish_state()
        also = " The e-stop is still pressed." if self._state.estopped else ""
        return True, ("Paused: the arm holds from the next tick on." if paused else "Goes on.") + also

    async def _stop(self) -> Answer:
        self.releasing = False
        self._state.estopped = True
        self._publish_state()  # robot and controller obey this too
        self._drive()
        done, message = await self._send(self._robot_estop, EStop.Request(stop=True))
        if done:
            return True, "The arm is stopped; it stays so until the e-stop is released."
        return False, f"The e-stop is set, but unconfirmed: {message}. Use the arm's own emergency button."

    async def _release(self) -> Answer:
        self.releasing = True  # or the repeated state would stop the arm again in between
        done, message = await self._send(self._robot_estop, EStop.Request(stop=False), answer_s=RELEASE_S)
        if not self.releasing:
            return False, "Pressed again; the arm stays stopped."
        self.releasing = False
        self._state.estopped = not done
        self._publish_state()
        return done, "Released." if done else f"Still stopped: {message}."

    async def _send(
        self, client: Client, request: Any, repeat_s: float = float("inf"), answer_s: float | None = None
    ) -> Answer:
        try:
            response = await ask(self, self._group, client, request, answer_s or ANSWER_S, repeat_s)
        except NoAnswerError as error:
            return False, str(error)
        return response.ok, response.message

    # -- state out -------------------------------------------------------------------------------

    def _publish_state(self) -> None:
        self._has_spoken = True
        self._state.header.stamp = self.get_clock().now().to_msg()
        self._publisher.publish(self._state)

    def _repeat_state(self) -> None:
        # Silent until the arm is heard, its latched past included: "not paused" from a node that was restarted
        # would be heard as the operator's word.
        if self.heard_the_arm and not self.releasing:
            self._publish_state()

    @property
    def heard_the_arm(self) -> bool:
        """For long enough to know whether it is paused."""
        return bool(self._robot_heard_at) and time.monotonic() - self._robot_heard_at > LISTEN_S

    # -- front end -------------------------------------------------------------------------------

    def _poll(self) -> None:
        held = self._front_end.present
        for event in self._front_end.poll():
            if self.executor is not None:
                self.executor.create_task(self._react, event)
        if held and not self._front_end.present:
            self._drive()  # unplugged: a take-over ends at once

    async def _react(self, event: OperatorEvent) -> None:
        done, message = await self._obey(event)
        if done:
            self.get_logger().info(f"{event.value}: {message}")
        else:
            self.get_logger().warning(f"{event.value}: {message}")

    async def _obey(self, event: OperatorEvent) -> Answer:
        if event is OperatorEvent.RESET:
            response = await self._reset(Reset.Request())
            return response.ok, response.message
        if event is OperatorEvent.START:
            return await self._start()
        if event is OperatorEvent.PAUSE:
            return await self._pause(not self._state.paused)
        if event is OperatorEvent.ESTOP:
            return await self._stop()
        if event is OperatorEvent.RELEASE:
            return await self._release()
        return await self._judge(Label.Request.SUCCESS if event is OperatorEvent.SUCCESS else Label.Request.FAILURE)

    def _drive(self) -> None:
        motion = self._front_end.drive()
        if motion is None:
            motion = self._remote.drive()
        command = self._take_over.step(motion, blocked=self._state.paused or self._state.estopped)
        if command is not None:
            self._publish_command(command)
        if self._take_over.active != self._state.taking_over:
            self._state.taking_over = self._take_over.active
            self._publish_state()
            self.get_logger().info("a human drives" if self._take_over.active else "the human has let go")

    def _publish_command(self, command: np.ndarray) -> None:
        self._interventions += 1
        message = DeltaCommand(
            episode_id=self.episode.episode_id if self._running() else "",
            sequence=self._interventions,
            action=floats(command),
        )
        message.header.stamp, message.header.frame_id = self.get_clock().now().to_msg(), self.station.frame
        self._commands.publish(message)
        self.rates.count("interventions")

    def diagnostics(self) -> dict[str, Any]:
        state = self._state
        return {
            "front_end": self._front_end.problem or self._front_end.name,
            "paused": state.paused, "estopped": state.estopped, "taking_over": state.taking_over,
            "starts": state.starts,
        }  # fmt: skip

    def close(self) -> None:
        self._front_end.close()
        self._remote = RemoteDrive()
        self._drive()  # the last word of a take-over does not move the arm


async def _answer(handler: Callable[[Any], Awaitable[Answer]], request: Any, response: Any) -> Any:
    done, response.message = await handler(request)
    if isinstance(response, Trigger.Response):
        response.success = done
    else:
        response.ok = done
    return response


def main(args: Sequence[str] | None = None) -> int:
    return run_node(OperatorNode, args, SENSE_PRIORITY)


if __name__ == "__main__":
    sys.exit(main())
