"""Episodes from a robot: orders go out as the action RunEpisode, what happened comes back over the link."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import CancelledError
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import rclpy
from pld_msgs.action import RunEpisode
from pld_msgs.msg import EpisodeStatus
from pld_msgs.srv import LoadPolicy
from rclpy.action import ActionClient
from rclpy.context import Context
from rclpy.node import Node
from rclpy.signals import SignalHandlerOptions

from pld_core.config import TrainConfig
from pld_core.errors import ConfigError, ContractError, RobotUnavailableError, StageError
from pld_core.interfaces import BasePolicy, ResidualActor
from pld_core.rl.actor import LearnerActor
from pld_core.rl.snapshot import snapshot
from pld_core.stations import RobotConfig, TaskConfig, load_robot, load_task
from pld_core.types import ActionSpec, Episode, EpisodeSpec, ObservationSpec
from pld_core.vla.compact_vla import CompactVLA
from pld_ros import topics
from pld_ros.control.ros_body import call
from pld_ros.convert import id_of, spec_msg
from pld_ros.environment import prepare_this_process
from pld_ros.node import HealthWatch, Spinner
from pld_ros.runner.inbox import Inbox
from pld_ros.runner.own_graph import OwnGraph, launch_arguments

VOIDED_IN_A_ROW = 5  # a glitch spoils one episode; a fault that lasts must stop the run
REFUSED_IN_A_ROW = 5
POLL_S = 0.1
ANSWER_S = 30.0  # for a service, and for an episode's data after its end
ACCEPT_S = 3.0  # for an order to be accepted; DDS may lose the answer to a client that it has just met
RESENT_S = 30.0  # for what a learner that died has not taken: the logger may wait for a verdict before it sends it
CONTROLLER_LOST_S = 3.0
BUSY = "the controller refused the order; see its log"
UNANSWERED = "the controller did not answer"
RESULT_S = 1.0  # after its last status, how long an order's answer may take
NAMESPACE = "/pld"
SETTLE_S = 0.1  # after the controller's first word, until all that it said before has come
ENDED_KEPT = 100
SILENCE = EpisodeStatus()  # before the controller's first word


@dataclass(frozen=True)
class StationEnvironment:
    """What the stages ask of an environment, from the station's files. It cannot be stepped."""

    station: RobotConfig
    settings: TaskConfig

    @property
    def task(self) -> str:
        return self.settings.name

    @property
    def instruction(self) -> str:
        return self.settings.instruction

    @property
    def max_steps(self) -> int:
        return self.settings.max_steps

    @property
    def action_spec(self) -> ActionSpec:
        return self.station.action_spec

    @property
    def observation_spec(self) -> ObservationSpec:
        cameras = {name: (c.policy_size, c.policy_size, 3) for name, c in self.station.cameras.items()}
        return ObservationSpec(cameras, len(self.station.proprio), self.station.proprio)


class RosRunner:
    """Implements interfaces.EpisodeRunner on the node graph of a station.

    Weights are known by their content, so an order means the same before and after a restart: what the
    robot did for a learner that died is handed to its successor if that gives the very same order.
    """

    sees_for_itself = False  # the reward node judges; nobody here knows better

    def __init__(
        self, config: TrainConfig, folder: Path, policy: BasePolicy, residual: bool, features: int | None
    ) -> None:
        self.policy, self._residual = policy, residual
        self._features = -1 if features is None else features
        self._config, self._folder = config, folder
        self.environments = [StationEnvironment(load_robot(config.robot), load_task(config.task))]
        self._stopping = threading.Event()
        prepare_this_process()
        self._version: tuple[Any, str] = (None, "")
        self._graph: OwnGraph | None = None
        self._station = _Connection(config, folder)
        try:
            if not config.ros.attach:
                self._graph = OwnGraph(launch_arguments(config, folder, self._policy_name()), folder)
        except BaseException:
            self.close()
            raise

    def run(self, specs: Sequence[EpisodeSpec], actor: ResidualActor | None = None) -> Iterator[Episode]:
        """Yield the episodes in the order of ``specs``, one after the other.

        Raises StageError after several voided episodes in a row, RobotUnavailableError when the station
        does not get ready, and CancelledError after ``stop``.
        """
        version = self._offer(actor)
        voided = 0
        for spec in specs:
            episode, reason = self._episode(spec, version)
            if episode.voided:
                self._station.node.get_logger().warning(f"an episode came back void: {reason}")
            yield episode
            voided = voided + 1 if episode.voided else 0
            if voided >= VOIDED_IN_A_ROW:
                raise StageError(f"{voided} episodes in a row were void, the last because: {reason}")

    def with_policy(self, policy: BasePolicy) -> RosRunner:
        """The same station driven by another base policy; use one of the two at a time."""
        other = object.__new__(RosRunner)
        other.__dict__ = {**self.__dict__, "policy": policy}
        return other

    def stop(self) -> None:
        """End whatever runs here, for good; may be called from any thread."""
        self._stopping.set()

    def close(self) -> None:
        if self._graph is not None:
            self._graph.close()
        self._station.close()

    def _offer(self, actor: ResidualActor | None) -> str:
        """Send the actor's weights down; returns their version, empty without an actor."""
        if actor is None:
            return ""
        if not isinstance(actor, LearnerActor):
            raise ConfigError(f"Only the learner's own actor can act on a station, given {type(actor).__name__}.")
        if actor is not self._version[0]:
            version, arrays, settings = snapshot(actor)
            self._station.weights.publish(version, arrays, settings)
            self._version = (actor, version)
        return self._version[1]

    def _episode(self, spec: EpisodeSpec, version: str) -> tuple[Episode, str]:
        """The episode of an order, given again until its data are here."""
        refused, unanswered = 0, False
        while True:
            self._serve()
            goal = self._goal(spec, version)
            self._station.meet_controller(self._stopping)
            finished = self._station.finished(goal)
            done = self._station.inbox.wait(finished, RESENT_S, self._stopping) if finished else None
            if done is None:
                # What came of an order whose answer was lost is its answer, void or not.
                done = self._station.inbox.claim(spec, self.policy.version, version, voided=unanswered)
            if done is not None:
                return done.episode, done.report.reason
            episode_id, reason = self._station.order(goal, self._stopping)
            if episode_id:
                done = self._station.inbox.wait(episode_id, ANSWER_S, self._stopping)
                if done is not None:
                    return done.episode, done.report.reason
                reason = f"the data of episode {episode_id} did not come within {ANSWER_S:.0f} s; they are in its bag"
            unanswered |= reason == UNANSWERED
            if reason != BUSY:
                self._station.node.get_logger().warning(f"the order is given again: {reason}")
            refused += reason != BUSY  # an episode takes its time
            if refused >= REFUSED_IN_A_ROW:
                raise RobotUnavailableError(f"The station carried out no order {refused} times in a row: {reason}.")

    def _goal(self, spec: EpisodeSpec, version: str) -> RunEpisode.Goal:
        return RunEpisode.Goal(
            spec=spec_msg(spec), policy_version=self.policy.version, weights_version=version,
            replan_every=self._config.replan_every, policy_features=self._features, residual=self._residual,
        )  # fmt: skip

    def _serve(self) -> None:
        """Have the VLA server serve this policy."""
        if self._graph is not None:
            self._graph.check()
        if self._station.served_version() != self.policy.version:
            self._station.load_policy(self._policy_name(), self.policy.version, self._stopping)

    def _policy_name(self) -> str:
        """How another process finds this policy."""
        if not isinstance(self.policy, CompactVLA):
            return self._config.policy
        path = (self._folder / "served" / f"{self.policy.version}.vla").absolute()
        if not path.exists():
            path.parent.mkdir(parents=True, exist_ok=True)
            self.policy.save(path)
        return f"compact:{path}"


class _Connection:
    """The learner's node and its ends of the link."""

    def __init__(self, config: TrainConfig, folder: Path) -> None:
        self._context = Context()
        rclpy.init(context=self._context, signal_handler_options=SignalHandlerOptions.NO)
        self.node = Node("learner", namespace=NAMESPACE, context=self._context)
        self._health = HealthWatch(self.node)
        self._status = SILENCE
        self._ended: dict[str, EpisodeStatus] = {}  # by order: DDS may lose the answer to one
        self.node.create_subscription(EpisodeStatus, topics.EPISODE, self._hear, topics.EPISODES)
        self._orders = ActionClient(self.node, RunEpisode, topics.RUN_EPISODE)
        self._loads = self.node.create_client(LoadPolicy, topics.LOAD_POLICY)
        self.inbox = Inbox(config.ros.records_address, folder / "link")
        from pld_core.link import WeightsPublisher

        self.weights = WeightsPublisher(config.ros.weights_address)
        self._spinner = Spinner(self.node)
        self._ready_timeout_s = config.ros.ready_timeout_s

    def order(self, goal: RunEpisode.Goal, stopping: threading.Event) -> tuple[str, str]:
        """``(id of the finished episode, "")`` or ``("", why there is none)``."""
        if not self._orders.server_is_ready():
            return "", f"no controller within {self._ready_timeout_s:.0f} s"
        accepted = self._orders.send_goal_async(goal)
        if not self._wait(accepted.done, ACCEPT_S, stopping):
            return "", UNANSWERED
        handle = accepted.result()
        if handle is None or not handle.accepted:
            return self._finish_running(goal, stopping)
        result, boot = handle.get_result_async(), self._health.version("controller")
        order, accepted_at = id_of(handle), time.monotonic()
        lost, ended = partial(self._lost, boot, accepted_at), partial(self._ended.get, order)
        passed_over = partial(self._is_at_another, order, accepted_at)
        try:
            self._wait(lambda: result.done() or ended() or lost() or passed_over(), float("inf"), stopping)
            told = ended()
            self._wait(result.done, RESULT_S if told else 0.0, stopping)
        except CancelledError:
            handle.cancel_goal_async()
            raise
        if result.done():
            answer: RunEpisode.Result = result.result().result  # type: ignore[union-attr]  # it is done
            return (answer.outcome.episode_id, "") if answer.ok else ("", answer.message)
        if told is not None:
            return told.episode_id, told.reason
        return "", "another order was carried out instead" if passed_over() else "the controller was lost"

    def _finish_running(self, goal: RunEpisode.Goal, stopping: threading.Event) -> tuple[str, str]:
        """The controller is busy: with the order of a learner that died, or with one whose answer got lost."""
        episode_id = self._running(goal)
        if not episode_id:
            self._wait(lambda: False, 1.0, stopping)
            return "", BUSY
        lost = partial(self._lost, self._health.version("controller"), 0.0)
        self._wait(lambda: self._running(goal) != episode_id or lost(), float("inf"), stopping)
        return episode_id, ""

    def _running(self, goal: RunEpisode.Goal) -> str:
        """The episode that is carried out for this very order; empty if there is none."""
        s = self._status
        running = s.state in (EpisodeStatus.RUNNING, EpisodeStatus.PAUSED)
        return s.episode_id if running and self._is_for(goal, s) else ""

    def meet_controller(self, stopping: threading.Event) -> None:
        """Wait until it takes orders and has told what it did last; gives up in silence."""
        self._wait(self._orders.server_is_ready, self._ready_timeout_s, stopping)
        if self._status is SILENCE and self._wait(lambda: self._status is not SILENCE, ACCEPT_S, stopping):
            self._wait(lambda: False, SETTLE_S, stopping)

    def finished(self, goal: RunEpisode.Goal) -> str:
        """The newest episode if it is whole, was for this very order and nobody here has it; else empty."""
        s = self._status
        whole = s.state == EpisodeStatus.DONE and not s.voided and self._is_for(goal, s)
        return s.episode_id if whole and not self.inbox.asked_for(s.episode_id) else ""

    @staticmethod
    def _is_for(goal: RunEpisode.Goal, s: EpisodeStatus) -> bool:
        asked = (goal.spec, goal.policy_version, goal.weights_version)
        return (s.spec, s.policy_version, s.weights_version) == asked

    def _hear(self, message: EpisodeStatus) -> None:
        self._status = message
        if message.state in (EpisodeStatus.DONE, EpisodeStatus.IDLE):
            self._ended[message.order] = message
            while len(self._ended) > ENDED_KEPT:
                del self._ended[next(iter(self._ended))]

    def _is_at_another(self, order: str, accepted_at: float) -> bool:
        """The controller does one thing at a time: an order that it runs past is over, whether it says so or not."""
        s = self._status
        running = s.state in (EpisodeStatus.RUNNING, EpisodeStatus.PAUSED)
        return running and s.order != order and time.monotonic() - accepted_at > RESULT_S

    def served_version(self) -> str:
        return self._health.version("vla_server") if self._health.silent_s("vla_server") < CONTROLLER_LOST_S else ""

    def load_policy(self, name: str, version: str, stopping: threading.Event) -> None:
        if not self._wait(self._loads.service_is_ready, self._ready_timeout_s, stopping):
            raise RobotUnavailableError("No VLA server answers. Is it running, in this ROS_DOMAIN_ID?")
        answer = call(self._loads, LoadPolicy.Request(policy=name), ANSWER_S)
        if answer is None or not answer.ok:
            raise RobotUnavailableError(
                f"The VLA server does not serve {name}: {'no answer' if answer is None else answer.message}"
            )
        if answer.policy_version != version:
            raise ContractError(
                f"The VLA server serves {name} as version {answer.policy_version}, here it is {version}: its files "
                "differ from those of the learner."
            )
        self._wait(lambda: self.served_version() == version, ANSWER_S, stopping)

    def _lost(self, boot: str, accepted_at: float) -> bool:
        """Silent, or another than the one that took the order: a restart may be quicker than any silence."""
        another = bool(boot) and self._health.version("controller") != boot
        silent_s = min(self._health.silent_s("controller"), time.monotonic() - accepted_at)
        return another or silent_s > CONTROLLER_LOST_S

    @staticmethod
    def _wait(condition: Any, timeout_s: float, stopping: threading.Event) -> bool:
        """Poll, for what comes from several sides; an episode lasts seconds, the poll 5 ms."""
        deadline = time.monotonic() + timeout_s
        while not condition():
            if stopping.wait(0.005):
                raise CancelledError("The runner was stopped.")
            if time.monotonic() > deadline:
                return False
        return True

    def close(self) -> None:
        self._spinner.close()
        self._orders.destroy()
        self.node.destroy_node()
        self.inbox.close()
        self.weights.close()
        rclpy.try_shutdown(context=self._context)


def make_runner(
    config: TrainConfig, folder: Path, policy: BasePolicy, residual: bool, features: int | None
) -> RosRunner:
    """The entry point ``ros`` of the group ``pld.runners``."""
    return RosRunner(config, folder, policy, residual, features)
