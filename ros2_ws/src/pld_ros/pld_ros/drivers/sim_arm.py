"""A task's simulator, seen as an arm."""

from __future__ import annotations

import dataclasses
import sys

import numpy as np

from pld_core.bring import environment_factory
from pld_core.errors import ConfigError
from pld_core.interfaces import SimulatedEnvironment
from pld_core.types import ActionSpec, RobotMode, RobotState, TimeStep

WIDTH = "gripper_width_m"
_PARKING_SEED = 0


def make_simulator(task: str) -> SimulatedEnvironment:
    """One environment of a task, by name or as ``module:attribute``; raises ConfigError if it is no simulated arm."""
    made = environment_factory(task)(1)[0]
    if not isinstance(made, SimulatedEnvironment) or (made.action_spec.dim, made.action_spec.gripper) != (7, 6):
        raise ConfigError(
            f"Task {task!r} cannot stand in for a robot: that takes a pld_core.interfaces.SimulatedEnvironment "
            "whose 7 actions are delta xyz, delta rotation vector, gripper. Choose a tabletop task."
        )
    return made


class SimulatedArm:
    """Executes one action at a time and says after each what the driver of an arm says. Renders nothing."""

    def __init__(self, task: str) -> None:
        self._environment = make_simulator(task)
        names = self._environment.observation_spec.proprio_names
        if WIDTH not in names:
            raise ConfigError(f"Task {task!r} has no {WIDTH!r} in its proprioception ({', '.join(names)}); add it.")
        self._width = names.index(WIDTH)
        self._environment.renders_cameras = False
        # An arm knows neither success nor time limits: whoever drives it ends the episode.
        self._environment.max_steps = sys.maxsize
        if hasattr(self._environment, "stop_at_success"):
            self._environment.stop_at_success = False  # type: ignore[attr-defined]
        self.spec: ActionSpec = self._environment.action_spec
        self.running = False  # within an episode
        self._tick = self._resets = 0

    def park(self) -> None:
        """Stand in some scene, outside of any episode."""
        self._seen = self._look(self._environment.reset(_PARKING_SEED))

    def reset(self, seed: int) -> None:
        first = self._environment.reset(seed)
        self._tick, self.running = 0, True
        self._resets += 1
        self._seen = self._look(first)

    def step(self, action: np.ndarray) -> None:
        """Execute one action, float32 [7], for one tick."""
        step = self._environment.step(action)
        self._tick += 1
        self.running = not step.last
        self._seen = self._look(step)

    @property
    def proprio(self) -> np.ndarray:
        """float32 [P], of now."""
        return self._seen.proprio

    def hold_action(self) -> np.ndarray:
        """Zero motion, last gripper command, float32 [7]."""
        return self._environment.hold_action()

    def state(self, stamp_ns: int, mode: RobotMode) -> RobotState:
        return dataclasses.replace(self._seen, stamp_ns=stamp_ns, mode=mode)

    def close(self) -> None:
        self._environment.close()

    def _look(self, step: TimeStep) -> RobotState:
        names, joints = self._environment.joint_state()
        position, quaternion = self._environment.tool_pose()
        proprio = step.observation.proprio
        return RobotState(
            stamp_ns=0,
            proprio=proprio,
            joint_positions=joints,
            joint_names=names,
            position=position,
            quaternion=quaternion,
            gripper_width_m=float(proprio[self._width]),
            mode="idle",
            resets=self._resets,
            snapshot=self._environment.snapshot(),
            tick=self._tick,
            reward=step.reward,
            success=step.success,
            terminated=step.terminated,
            truncated=step.truncated,
        )
