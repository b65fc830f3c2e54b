"""The 20 Hz controller: carries out episodes with the core's ResidualController."""

from __future__ import annotations

import queue
import sys
import threading
import time
from collections.abc import Sequence
from typing import Any

import numpy as np
import rclpy
from pld_msgs.action import RunEpisode
from pld_msgs.msg import ActionChunk as ActionChunkMsg
from pld_msgs.msg import ChunkRequest, EpisodeStatus, PolicyStep
from pld_msgs.srv import Label
from rclpy.action import ActionServer, CancelResponse, GoalResponse
from rclpy.action.server import ServerGoalHandle
from rclpy.task import Future

from pld_core.control import ResidualController, limits_of
from pld_core.errors import PLDError, RobotUnavailableError
from pld_core.types import Observation, ObservationSpec
from pld_ros import topics
from pld_ros.control.chunk_client import ChunkClient
from pld_ros.control.episode import Outcome, Step, run_episode
from pld_ros.control.ros_body import LOCKSTEP_TIMEOUT_S, OPERATOR_AGE_S, VERDICTS, RosBody
from pld_ros.control.weights_slot import WeightsSlot
from pld_ros.convert import chunk_of, floats, id_of, put_stamps, spec_of, stamps_of, time_msg
from pld_ros.node import RHYTHM_PRIORITY, HealthWatch, PldNode, run_node

_IDLE_S = 0.2
BEGUN = "another episode had just begun"
_POLICY_TIMEOUT_S = 10.0  # a policy's first answer may have to be compiled


class Controller(PldNode):
    """Takes orders (the action RunEpisode) on the callbacks' thread, carries them out on the main one."""

    def __init__(self) -> None:
        super().__init__("controller")
        self._wait_for_operator = self.setting("wait_for_operator", False)
        self._ready_timeout_s = self.setting("ready_timeout_s", 120.0)
        self._needed = list(self.setting("needs", self._usual_company()))
        wait_s = LOCKSTEP_TIMEOUT_S if self.simulated_time else self.setting("chunk_wait_ms", 20.0) / 1e3
        spec = self.station.action_spec
        self.policy = ChunkClient(self._ask, self.period_s, spec.gripper, lambda: self.body.patience_s(wait_s))
        self._limits = limits_of(self.station)
        self._observed = ObservationSpec(
            {name: (c.policy_size, c.policy_size, 3) for name, c in self.station.cameras.items()},
            len(self.station.proprio), self.station.proprio,
        )  # fmt: skip
        self._goals: queue.SimpleQueue[tuple[ServerGoalHandle, Future]] = queue.SimpleQueue()
        self._beginning = threading.Lock()  # between an order's arrival and an episode's begin
        self._goal: ServerGoalHandle | None = None
        self._status = EpisodeStatus(state=EpisodeStatus.IDLE)
        self._sequence = time.time_ns() // 1_000_000 * 1_000_000  # of steps; grows over restarts too
        self._boot, self._episodes = f"{time.time_ns() // 1_000_000:x}", 0
        self.weights = WeightsSlot(self.setting("weights_address", "tcp://127.0.0.1:5758"))
        self.body = RosBody(self)
        self.body.on_pause, self.body.is_cancelled = self._pause, self._goal_cancelled
        self.body.on_begin = self.policy.begin
        self._health_watch = HealthWatch(self)
        self._connect()
        self.set_ready(version=self._boot)  # tells who waits for an episode that its controller began anew

    def _usual_company(self) -> list[str]:
        simulated = all(camera.driver == "simulated" for camera in self.station.cameras.values())
        cameras = ["camera"] if simulated else [f"camera_{name}" for name in self.station.cameras]
        return ["robot", *cameras, "vla_server", "reward", "replay_logger", "operator"]

    def _connect(self) -> None:
        self._steps = self.create_publisher(PolicyStep, topics.STEP, topics.RECORD)
        self._statuses = self.create_publisher(EpisodeStatus, topics.EPISODE, topics.EPISODES)
        self._requests = self.create_publisher(ChunkRequest, topics.CHUNK_REQUEST, topics.OBSERVATION)
        self.create_subscription(ActionChunkMsg, topics.CHUNK, self._on_chunk, topics.OBSERVATION)
        self.create_service(Label, topics.LABEL, self._label)
        self._server = ActionServer(
            self, RunEpisode, topics.RUN_EPISODE, self._execute,
            goal_callback=self._accept,  # type: ignore[arg-type]  # rclpy says that it gets the whole request
            cancel_callback=lambda goal: CancelResponse.ACCEPT,
        )  # fmt: skip

    def start(self) -> None:
        self.body.take_command()
        self._tell(self._status)  # a learner asks what was done last before it gives an order

    # -- heard on the callbacks' thread ----------------------------------------------------------

    def _accept(self, goal: RunEpisode.Goal) -> GoalResponse:
        if self._is_running():
            self.get_logger().warning(f"an episode of {goal.spec.task!r} is refused: another one is running")
            return GoalResponse.REJECT
        return GoalResponse.ACCEPT

    def _is_running(self) -> bool:
        return self._status.state in (EpisodeStatus.RUNNING, EpisodeStatus.PAUSED)

    async def _execute(self, goal: ServerGoalHandle) -> RunEpisode.Result:
        done: Future[RunEpisode.Result] = Future(executor=self.executor)
        done.add_done_callback(lambda _: None)  # wakes the executor, which resumes this coroutine
        with self._beginning:
            if self._is_running():  # one that was accepted in the moment before: nobody may find it carried out later
                goal.abort()
                return RunEpisode.Result(ok=False, message=BEGUN)
            self._goals.put((goal, done))
        return await done  # type: ignore[return-value]  # None only if it were cancelled

    def _on_chunk(self, message: ActionChunkMsg) -> None:
        self.rates.count("chunks")
        self.policy.received(stamps_of(message), chunk_of(message))

    def _label(self, request: Label.Request, response: Label.Response) -> Label.Response:
        if request.label not in VERDICTS:
            response.message = f"label is {request.label}; valid: 0 success, 1 failure, 2 void"
            return response
        response.ok = self._is_running() and request.episode_id in ("", self._status.episode_id)
        if response.ok:
            self.body.label(request.label)
            response.message = f"episode {self._status.episode_id} ends with this verdict"
        else:
            response.message = "that episode is not running; label it at the replay logger"
        return response

    # -- main thread -----------------------------------------------------------------------------

    def work(self) -> None:
        while rclpy.ok():
            try:
                goal, done = self._goals.get(timeout=_IDLE_S)
            except queue.Empty:
                continue
            self._goal = goal
            result = self._carry_out(goal)
            if goal.is_cancel_requested:
                goal.canceled()
            elif result.ok:
                goal.succeed()
            else:
                goal.abort()
            self._goal = None
            done.set_result(result)

    def _carry_out(self, goal: ServerGoalHandle) -> RunEpisode.Result:
        order: RunEpisode.Goal = goal.request
        starts = self.body.starts
        try:
            reason = self._wrong(order) or self._wait_until_ready(order, starts)
            if not reason:
                self._rehearse(order)
                reason = self._wait_until_ready(order, starts)  # that took its time: somebody may have paused
        except PLDError as error:  # no chunk came, or weights that are none
            reason = str(error)
        if reason:
            self._tell(EpisodeStatus(state=EpisodeStatus.IDLE, spec=order.spec, reason=reason))
            return RunEpisode.Result(ok=False, message=reason, outcome=self._status)
        spec = spec_of(order.spec)
        self._begin(order)
        outcome = run_episode(
            self.body, lambda first: self._controller(order, first), spec, self.task_config.max_steps, self._record
        )
        self._finish(outcome)
        return RunEpisode.Result(ok=True, outcome=self._status)

    def _wrong(self, order: RunEpisode.Goal) -> str:
        """Why no waiting will help; empty if it may."""
        return "" if order.spec.task == self.task else f"this station does {self.task!r}, not {order.spec.task!r}"

    def _rehearse(self, order: RunEpisode.Goal) -> None:
        """What takes long the first time (a policy's first answer, compiling), before time counts."""
        stamps = self.body.buffer.wait_newer(-1, LOCKSTEP_TIMEOUT_S)
        if stamps is None:
            raise RobotUnavailableError("Robot and cameras deliver no observation; see their health.")
        self._controller(order, self.body.buffer.observation(stamps, self.task_config.instruction))

    def _controller(self, order: RunEpisode.Goal, first: Observation) -> ResidualController:
        self.policy.expect(order.policy_version, first, _POLICY_TIMEOUT_S)
        features = None if order.policy_features < 0 else order.policy_features
        controller = ResidualController(
            self.policy, self._limits, 1, order.replan_every, order.residual, features, self._observed
        )
        self.weights.warm_up(controller.state_dim(self._observed), self._limits.action_spec.dim, self._observed.cameras)
        return controller

    def _wait_until_ready(self, order: RunEpisode.Goal, starts: int) -> str:
        """Why the episode cannot begin; empty once it can."""
        deadline = time.monotonic() + self._ready_timeout_s
        while rclpy.ok():
            reason = self._lacking(order, starts)
            if self._goal_cancelled() or not self._goals.empty():
                return "cancelled" if self._goal_cancelled() else "another order has come"
            if not reason:
                return ""
            if reason != self._status.reason or self._status.state != EpisodeStatus.WAITING:
                self._tell(EpisodeStatus(state=EpisodeStatus.WAITING, spec=order.spec, reason=reason))
            if time.monotonic() > deadline and not reason.startswith("the operator"):
                return reason
            time.sleep(0.01)
        return "the controller is shutting down"

    def _lacking(self, order: RunEpisode.Goal, starts: int) -> str:
        reason = self._health_watch.missing(self._needed)
        if not reason and self._health_watch.version("vla_server") != order.policy_version:
            served = self._health_watch.version("vla_server")
            reason = f"vla_server serves policy {served}, the order is for {order.policy_version}"
        if not reason and not self.weights.take(order.weights_version):
            reason = f"the weights {order.weights_version} have not come from the learner"
        if not reason and "operator" in self._needed and self.body.operator_silent_s > OPERATOR_AGE_S:
            reason = "operator has said nothing yet"  # a node that has just begun listens first
        if not reason and self.body.estopped:
            reason = "the operator's emergency stop is pressed"
        if not reason and self.body.paused:
            reason = "the operator pauses"
        if not reason and self._wait_for_operator and self.body.starts == starts:
            reason = "the operator is to set the scene and press start"
        return reason

    def _goal_cancelled(self) -> bool:
        return self._goal is not None and self._goal.is_cancel_requested

    # -- what is published -----------------------------------------------------------------------

    def _begin(self, order: RunEpisode.Goal) -> None:
        self._episodes += 1
        self.body.forget_verdict()
        self.body.get_actor = self.weights.current if order.weights_version else lambda: (None, "")
        running = EpisodeStatus(
            state=EpisodeStatus.RUNNING, episode_id=f"{self._boot}-{self._episodes:06d}", spec=order.spec,
            instruction=self.task_config.instruction, policy_version=order.policy_version,
            weights_version=order.weights_version, first_sequence=self._sequence,
        )  # fmt: skip
        with self._beginning:
            self._tell(running)
            while not self._goals.empty():
                goal, done = self._goals.get()
                goal.abort()
                done.set_result(RunEpisode.Result(ok=False, message=BEGUN))

    def _record(self, step: Step) -> None:
        decided, observation = step.decided, step.observation
        message = PolicyStep(
            episode_id=self._status.episode_id, sequence=self._sequence, tick=step.tick, closing=step.closing,
            proprio=floats(observation.proprio), state=floats(decided.state), base_action=floats(decided.base_action),
            residual=floats(decided.residual), action=floats(decided.action), reward=step.reward, success=step.success,
            source=decided.source, intervention=step.intervention, weights_version=step.weights_version,
            latency_ms=step.latency_ms, late_ms=1e3 * self.body.pace.late_s, skipped=self.body.pace.skipped_now,
        )  # fmt: skip
        message.header.stamp = self._stamp(observation)
        put_stamps(message, observation.stamp_ns)
        self._steps.publish(message)
        if step.tick % round(self.station.rate_hz) == 0 and self._goal is not None:
            told = RunEpisode.Feedback(
                episode_id=message.episode_id, tick=step.tick, success_probability=self.body.success_probability
            )
            self._goal.publish_feedback(told)  # type: ignore[arg-type]  # rclpy says that it gets the whole message
        self._sequence += 1
        self.rates.count("steps")

    def _finish(self, outcome: Outcome) -> None:
        running = self._status
        self._tell(
            EpisodeStatus(
                state=EpisodeStatus.DONE, episode_id=running.episode_id, spec=running.spec,
                instruction=running.instruction, policy_version=running.policy_version,
                weights_version=running.weights_version, ticks=outcome.ticks, first_sequence=running.first_sequence,
                last_sequence=self._sequence - 1, terminated=outcome.terminated, truncated=outcome.truncated,
                success=outcome.success, environment_success=outcome.environment_success, voided=outcome.voided,
                reason=outcome.reason,
            )
        )  # fmt: skip
        self.rates.count("voided" if outcome.voided else "episodes")
        if outcome.voided:
            self.get_logger().warning(f"episode {running.episode_id} is void: {outcome.reason}")

    def _pause(self, paused: bool) -> None:
        if not paused and not (self.simulated_time or self.body.estopped or self._goal_cancelled()):
            stamps = self.body.buffer.newest(-1)
            if stamps is not None:  # a plan from before the pause is none
                now = self.body.buffer.observation(stamps, self.task_config.instruction)
                self.policy.expect(self.policy.version, now, _POLICY_TIMEOUT_S)
        self._status.state = EpisodeStatus.PAUSED if paused else EpisodeStatus.RUNNING
        self._tell(self._status)

    def _tell(self, status: EpisodeStatus) -> None:
        status.header.stamp = self.get_clock().now().to_msg()
        status.order = "" if self._goal is None else id_of(self._goal)
        self._status = status
        self._statuses.publish(status)

    def _stamp(self, observation: Observation) -> Any:
        newest = max(observation.stamp_ns.values())
        return time_msg(newest if self.simulated_time else time.time_ns())

    def _ask(self, observation: Observation, version: str) -> None:
        request = ChunkRequest(instruction=observation.instruction, policy_version=version)
        put_stamps(request, observation.stamp_ns)
        self._requests.publish(request)

    def diagnostics(self) -> dict[str, Any]:
        pace, latency = self.body.pace, np.array(self.body.latency_ms[-20_000:] or [0.0])
        return {
            "ticks": len(self.body.latency_ms), "missed_ticks": pace.missed, "skipped_ticks": pace.skipped,
            "late_commands": pace.late_commands,
            "worst_late_ms": 1e3 * pace.worst_late_s, "late_chunks": self.policy.late,
            "latency_ms_p50": float(np.percentile(latency, 50)), "latency_ms_p99": float(np.percentile(latency, 99)),
            "weights_version": self.weights.version, "episode": self._status.episode_id,
            **{f"frames_{name}": self.body.buffer.received(name) for name in self.station.cameras},
        }  # fmt: skip

    def close(self) -> None:
        self.weights.close()


def main(args: Sequence[str] | None = None) -> int:
    return run_node(Controller, args, RHYTHM_PRIORITY)


if __name__ == "__main__":
    sys.exit(main())
