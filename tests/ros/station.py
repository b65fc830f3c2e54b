"""A simulated station of real processes that tests may kill and freeze, with a learner and an ear in this one."""

from __future__ import annotations

import dataclasses
import itertools
import os
import signal
import socket
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from ear import PATIENCE_S, Ear, Heard
from pld_msgs.action import RunEpisode
from pld_msgs.msg import EpisodeStatus, PolicyStep, RobotState
from pld_msgs.srv import EStop, Label, Pause
from pulse import Pulse, attempts

from pld_core.config import load_config
from pld_core.types import ActionChunk, Episode, EpisodeSpec, Observation
from pld_ros import topics
from pld_ros.convert import spec_msg
from pld_ros.environment import ros_environment
from pld_ros.graph import train_graph
from pld_ros.launching.arguments import GraphArguments
from pld_ros.launching.child import Child
from pld_ros.launching.process import Process
from pld_ros.runner.ros_runner import RosRunner

TASK = "peg_insertion"
MARCHING = "station:Marching"
HERE = Path(__file__).parent
NODES = ("controller", "robot", "camera", "vla_server", "reward", "replay_logger", "operator")


class Marching:
    """A base policy whose actions say which entry of their chunk they are: x is 0.01, 0.02 ... 0.08."""

    version, action_horizon, feature_dim = "marching", 8, 0

    def infer(self, observations: Sequence[Observation]) -> list[ActionChunk]:
        actions = np.zeros((self.action_horizon, 7), np.float32)
        actions[:, 0] = np.arange(1, self.action_horizon + 1) / 100
        actions[:, 6] = -1.0
        return [ActionChunk(actions, np.zeros(0, np.float32), self.version) for _ in observations]


def entry(step: PolicyStep) -> int:
    """Which entry of a chunk of ``Marching`` a step executed, from 1; 0: it held."""
    return round(100 * step.base_action[0])


@dataclass(frozen=True)
class Running:
    """An episode that runs, and what the learner will have of it."""

    episode_id: str
    spec: EpisodeSpec
    data: Future[Episode]


class Station:
    """The nodes of `pld launch sim_train` in real time, without supervisor: who is killed stays dead.

    folder: the learner's; run_dir: the nodes'; robot: another station's file than the simulated one's; policy: how the
    VLA server's node gets at Marching.
    """

    def __init__(
        self, folder: Path, run_dir: Path, domain: int, robot: str = "", policy: str = MARCHING, **settings: Any
    ) -> None:
        self.folder, self.run_dir = folder, run_dir
        self.records, self.weights = _free_addresses()
        self._settings = settings
        self._graph = train_graph(
            "sim_train",
            GraphArguments(
                task=TASK, robot=robot, learner=False, priority=True, domain=domain, run_dir=str(run_dir),
                policy=policy, records_address=self.records, weights_address=self.weights,
                wait_for_operator=False, label_window_s=0.0,
            ),
        )  # fmt: skip
        cameras = [process.name for process in self._graph.processes if process.name.startswith("camera")]
        self.nodes = (*(name for name in NODES if name != "camera"), *cameras)
        self._environment = ros_environment(domain)
        self._environment["PYTHONPATH"] = os.pathsep.join([str(HERE), str(HERE.parent / "contract")])
        self.children: dict[str, Child] = {}
        self._extra: list[Child] = []
        self._expected: set[str] = set()
        self._seeds = itertools.count(1)
        self.ear = Ear()
        self.runner: RosRunner | None = None
        self._orders = ThreadPoolExecutor(1, "orders")
        self._pulse = Pulse(beat_s=0.01).__enter__()

    # -- processes -------------------------------------------------------------------------------

    def start(self, *names: str, **settings: Any) -> None:
        """Start nodes; settings: parameters that they are told besides those of the graph."""
        for name in names:
            self.children[name] = self._start(name, self._process(name, {**self._settings.get(name, {}), **settings}))
            self._expected.add(name)

    def repair(self) -> None:
        """Start what is dead, wake what is frozen, release what is pressed: one failing test shall fail alone."""
        for name in self.nodes:
            if self.children[name].has_ended():
                self.start(name)
            self.signal(name, signal.SIGCONT)
        self.ready()
        newest: RobotState = self.ear.states[-1].message
        if newest.paused:
            self.ear.ask(Pause, topics.OPERATOR_PAUSE, Pause.Request(paused=False))
        if newest.mode == "stopped":
            self.ear.ask(EStop, topics.OPERATOR_ESTOP, EStop.Request(stop=False))

    def second(self, name: str) -> Child:
        """Another process of the same node."""
        child = self._start(f"{name}-2", self._process(name, {}))
        self._extra.append(child)
        return child

    def program(self, name: str, *arguments: str) -> Child:
        """This file as a program."""
        command = (sys.executable, str(Path(__file__)), *arguments)
        child = self._start(name, Process(name, command=command))
        self._extra.append(child)
        return child

    def kill(self, name: str) -> float:
        """SIGKILL; returns when."""
        self._expected.discard(name)
        killed = self.signal(name, signal.SIGKILL)
        self.wait(self.children[name].has_ended, f"{name} is dead")
        return killed

    def stop(self, name: str) -> None:
        """As Ctrl-C; the node must end by itself."""
        self._expected.discard(name)
        self.children[name].send(signal.SIGINT)
        self.wait(self.children[name].has_ended, f"{name} has ended")
        assert self.children[name].exit_status == 0, "\n".join(self.children[name].last_lines())

    def signal(self, name: str, number: signal.Signals) -> float:
        self.children[name].send(number)
        return time.monotonic()

    def _process(self, name: str, settings: dict[str, Any]) -> Process:
        process = self._graph.process(name)
        return dataclasses.replace(process, parameters={**process.parameters, **settings})

    def _start(self, log: str, process: Process) -> Child:
        environment = {**self._environment, **process.environment}
        (self.folder / "logs").mkdir(parents=True, exist_ok=True)
        child = Child(process, process.argv(), environment, self.folder / "logs" / f"{log}.log")
        child.start()
        return child

    # -- the learner -----------------------------------------------------------------------------

    def attach(self) -> RosRunner:
        """Be the learner."""
        if self.runner is None:
            self.runner = make_learner(self.records, self.weights, self.folder / "learner")
        return self.runner

    def detach(self) -> None:
        """Be it no more; somebody else may use its folder and addresses."""
        if self.runner is not None:
            self.runner.close()
            self.runner = None

    def spec(self) -> EpisodeSpec:
        """Another one each time: a learner recognises an order by it."""
        return EpisodeSpec(TASK, next(self._seeds), "base")

    def order(self, spec: EpisodeSpec | None = None) -> Future[Episode]:
        """One episode, by the learner of this process."""
        runner, spec = self.attach(), spec or self.spec()
        return self._orders.submit(lambda: next(iter(runner.run([spec]))))

    # -- episodes --------------------------------------------------------------------------------

    def running(self, ticks: int = 5) -> Running:
        """An episode that has come to this tick. What a busy machine spoils before is ordered anew."""
        for _ in self.attempts():
            running = self.begun(self.spec())
            episode_id = running.episode_id
            self.wait(partial(self._has_come_to, episode_id, ticks), f"it comes to tick {ticks}")
            outcome = self.outcome(episode_id)
            if outcome is None:
                return running
            self._blame_load(outcome.message.reason)
            running.data.result(PATIENCE_S)

    def spoilt(self, do: Callable[[], float], undo: Callable[[], object], why: str) -> tuple[Running, float, Heard]:
        """An episode that ended as ``why`` says, for what was done in its middle; when that was, and the end.

        Where a busy machine ends it first, for a reason of its own, that is undone and the next one is ordered.
        """
        for _ in self.attempts():
            running = self.running()
            done = do()
            outcome = self.ended(running)
            reason = outcome.message.reason
            if why in reason:
                return running, done, outcome
            self._blame_load(reason)
            undo()
            running.data.result(PATIENCE_S)
            self.ready()

    def attempts(self) -> Iterator[int]:
        """At what a busy machine may spoil."""
        return attempts(self._pulse, self._news)

    def _blame_load(self, reason: str) -> None:
        """Only what a busy machine explains may spoil an episode unasked."""
        assert self.is_load(reason), reason

    @staticmethod
    def is_load(reason: str) -> bool:
        known = (
            "too old", "no complete observation", "too late for its period", "ticks were skipped", "no answer",
            "refused a command",
        )  # fmt: skip
        return any(words in reason for words in known)

    def begun(self, spec: EpisodeSpec) -> Running:
        data = self.order(spec)
        return Running(self.wait(lambda: self.episode_of(spec), f"{spec} runs"), spec, data)

    def _has_come_to(self, episode_id: str, ticks: int) -> bool:
        return len(self.steps(episode_id)) > ticks or self.outcome(episode_id) is not None

    def finished(self, running: Running) -> Episode:
        """End it by a verdict (failure), and what the learner got."""
        self.ear.ask(Label, topics.LABEL, Label.Request(label=Label.Request.FAILURE))
        return running.data.result(PATIENCE_S)

    def next_episode(self) -> Episode:
        """A short one that is not void; what a busy machine spoils is ordered anew."""
        for _ in self.attempts():
            running = self.running(8)
            episode = self.finished(running)
            if not episode.voided:
                return episode
            if reason := self.ended(running).message.reason:  # else pictures were lost on their way to the learner
                self._blame_load(reason)

    def episode_of(self, spec: EpisodeSpec) -> str:
        """The newest episode of an order that has begun; empty if none has."""
        ids = [h.message.episode_id for h in self.ear.statuses if h.message.spec == spec_msg(spec)]
        return next((name for name in reversed(ids) if name), "")

    def steps(self, episode_id: str) -> list[PolicyStep]:
        return [h.message for h in list(self.ear.steps) if h.message.episode_id == episode_id]

    def outcome(self, episode_id: str) -> Heard | None:
        done = (h for h in list(self.ear.statuses) if h.message.state == EpisodeStatus.DONE)
        return next((h for h in done if h.message.episode_id == episode_id), None)

    def ended(self, running: Running) -> Heard:
        self.wait(lambda: self.outcome(running.episode_id), "the episode ends")
        heard = self.outcome(running.episode_id)
        assert heard is not None
        return heard

    def give(self, spec: EpisodeSpec) -> Any:
        """An order that no learner stands behind; the goal's handle."""
        goal = RunEpisode.Goal(spec=spec_msg(spec), policy_version=Marching.version, replan_every=1, residual=True)
        accepted = self.ear.send(goal)
        self.wait(accepted.done, "the order is answered")
        handle: Any = accepted.result()
        assert handle.accepted
        return handle

    def waits_for(self) -> str:
        """Why the controller does not begin with its order; empty unless it waits."""
        newest = self.ear.statuses[-1].message if self.ear.statuses else EpisodeStatus()
        return newest.reason if newest.state == EpisodeStatus.WAITING else ""

    def states_since(self, when: float) -> Iterator[Heard]:
        return (heard for heard in list(self.ear.states) if heard.at >= when)

    def first_state(self, when: float, condition: Callable[[RobotState], bool], what: str) -> Heard:
        """The first state after ``when`` that is as wanted."""
        return self.wait(lambda: next((h for h in self.states_since(when) if condition(h.message)), None), what)

    # -- waiting ---------------------------------------------------------------------------------

    def ready(self, *names: str) -> None:
        """Wait until these nodes (all of them, by default) have nothing to complain of."""
        wanted = [name for name in names or self.nodes if name != "controller"]
        self.wait(lambda: not self.ear.health.missing([*wanted, "controller"]), "the station is ready")

    def wait(self, condition: Callable[[], Any], what: str) -> Any:
        deadline = time.monotonic() + PATIENCE_S
        while not (found := condition()):
            for name in self._expected:
                if self.children[name].has_ended():
                    raise AssertionError(f"{name} {self.children[name].how_it_ended()}: {self.children[name].log}")
            assert time.monotonic() < deadline, f"not within {PATIENCE_S:.0f} s: {what}. {self._news()}"
            time.sleep(0.005)
        return found

    def _news(self) -> str:
        newest = [(h.message.state, h.message.episode_id, h.message.reason) for h in self.ear.statuses[-3:]]
        return f"Last heard of episodes: {newest}; of nodes: {self.ear.health.missing(self.nodes) or 'all ready'}."

    # -- end -------------------------------------------------------------------------------------

    def close(self) -> None:
        """Leave nothing behind. Nodes that do not end by themselves fail the test."""
        self._pulse.__exit__()
        if self.runner is not None:
            self.runner.stop()
        self._orders.shutdown()
        self.detach()
        self.ear.close()
        left = [child for child in (*self.children.values(), *self._extra) if not _over(child)]
        for child in left:
            child.send(signal.SIGCONT)
            child.send(signal.SIGINT)
        deadline = time.monotonic() + 30.0
        while any(not _over(child) for child in left) and time.monotonic() < deadline:
            time.sleep(0.02)
        deaf = [child for child in left if not _over(child)]
        for child in deaf:
            child.send(signal.SIGKILL)
        while any(not _over(child) for child in deaf):
            time.sleep(0.02)
        assert not deaf, f"{[child.name for child in deaf]} did not end by themselves"


def make_learner(records: str, weights: str, folder: Path) -> RosRunner:
    """The learner's end of a station that somebody else has started."""
    config = load_config(
        TASK,
        {
            "runner": "ros", "ros.attach": True, "ros.records_address": records, "ros.weights_address": weights,
            "policy": MARCHING,
        },
    )  # fmt: skip
    return RosRunner(config, folder, Marching(), True, None)


def _over(child: Child) -> bool:
    return child.has_ended() or child.state != "running"


def _free_addresses() -> tuple[str, str]:
    with socket.socket() as one, socket.socket() as other:
        one.bind(("127.0.0.1", 0))
        other.bind(("127.0.0.1", 0))
        return f"tcp://127.0.0.1:{one.getsockname()[1]}", f"tcp://127.0.0.1:{other.getsockname()[1]}"


def main(records: str, weights: str, folder: str, seed: str) -> None:
    """A learner of one episode, to be killed."""
    runner = make_learner(records, weights, Path(folder))
    list(runner.run([EpisodeSpec(TASK, int(seed), "base")]))
    runner.close()


if __name__ == "__main__":
    main(*sys.argv[1:])
