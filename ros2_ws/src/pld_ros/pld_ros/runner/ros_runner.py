"""Episodes from a robot: orders go out as the action RunEpisode, what happened comes back over the link."""

from __future__ import annotations

import threading
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pld_msgs.action import RunEpisode

from pld_core.config import TrainConfig
from pld_core.errors import ConfigError, RobotUnavailableError, StageError
from pld_core.interfaces import BasePolicy, ResidualActor
from pld_core.rl.actor import LearnerActor
from pld_core.rl.snapshot import snapshot
from pld_core.stations import RobotConfig, TaskConfig, load_robot, load_task
from pld_core.types import ActionSpec, Episode, EpisodeSpec, ObservationSpec
from pld_core.vla.compact_vla import CompactVLA
from pld_ros.convert import spec_msg
from pld_ros.environment import prepare_this_process
from pld_ros.runner.connection import ANSWER_S, BUSY, UNANSWERED, Connection, Refusal
from pld_ros.runner.own_graph import OwnGraph, launch_arguments

VOIDED_IN_A_ROW = 5  # a glitch spoils one episode; a fault that lasts must stop the run
REFUSED_IN_A_ROW = 5
RESENT_S = 30.0  # for what a learner that died has not taken: the logger may wait for a verdict before it sends it


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
        return self.station.observation_spec


class RosRunner:
    """Implements interfaces.EpisodeRunner on the node graph of a station.

    Weights are known by their content, so an order means the same before and after a restart: what the
    robot did for a learner that died is handed to its successor if that gives the very same order.
    """

    sees_for_itself = False  # the reward node judges; nobody here knows better

    def __init__(
        self,
        config: TrainConfig,
        folder: Path,
        policy: BasePolicy,
        residual: bool,
        features: int | None,
        graph: OwnGraph | None = None,
        refusals: int = REFUSED_IN_A_ROW,
    ) -> None:
        """graph: the station's nodes, closed with this; None: started here, unless ``config.ros.attach``.

        refusals: so many orders in a row may fail before the controller's refusal is the end.
        """
        self.policy, self._residual, self._refusals = policy, residual, refusals
        self._features = -1 if features is None else features
        self._config, self._folder = config, folder
        self.environments = [StationEnvironment(load_robot(config.robot), load_task(config.task))]
        self._stopping = threading.Event()
        prepare_this_process()
        self._version: tuple[Any, str] = (None, "")
        self._graph = graph
        self._station = Connection(config, folder, self._check)
        try:
            if graph is None and not config.ros.attach:
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

    @property
    def waits_for(self) -> str:
        """Why the station does not begin with its order; empty unless it waits."""
        return self._station.waits_for

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
            refused += reason != BUSY  # an episode takes its time
            if refused >= (self._refusals if isinstance(reason, Refusal) else REFUSED_IN_A_ROW):
                raise RobotUnavailableError(f"The station carried out no order {refused} times in a row: {reason}.")
            if reason != BUSY:
                self._station.node.get_logger().warning(f"the order is given again: {reason}")

    def _goal(self, spec: EpisodeSpec, version: str) -> RunEpisode.Goal:
        return RunEpisode.Goal(
            spec=spec_msg(spec), policy_version=self.policy.version, weights_version=version,
            replan_every=self._config.replan_every, policy_features=self._features, residual=self._residual,
        )  # fmt: skip

    def _serve(self) -> None:
        """Have the VLA server serve this policy."""
        self._check()
        if self._station.served_version() != self.policy.version:
            self._station.load_policy(self._policy_name(), self.policy.version, self._stopping)

    def _check(self) -> None:
        """Raise RobotUnavailableError if the nodes that were started for this have ended."""
        if self._graph is not None:
            self._graph.check()

    def _policy_name(self) -> str:
        """How another process finds this policy."""
        if not isinstance(self.policy, CompactVLA):
            return self._config.policy
        path = (self._folder / "served" / f"{self.policy.version}.vla").absolute()
        if not path.exists():
            path.parent.mkdir(parents=True, exist_ok=True)
            self.policy.save(path)
        return f"compact:{path}"


def make_runner(
    config: TrainConfig, folder: Path, policy: BasePolicy, residual: bool, features: int | None
) -> RosRunner:
    """The entry point ``ros`` of the group ``pld.runners``."""
    return RosRunner(config, folder, policy, residual, features)
