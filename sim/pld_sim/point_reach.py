"""A toy for tests and first steps: a dot on a plane must reach a goal. Runs thousands of steps a second."""

from __future__ import annotations

import numpy as np

from pld_core.errors import ContractError, NonFiniteError
from pld_core.types import ActionSpec, Observation, ObservationSpec, TimeStep

_STEP = 0.1  # plane units per tick at |a| = 1
_RADIUS = 0.06  # success within this distance of the goal


class PointReach:
    """Plane [-1, 1]^2; action ``[dx, dy, unused]``; proprio ``[x, y, goal x, goal y]``.

    Implements pld_core.interfaces.Environment. With ``camera=True`` the goal is hidden from the
    proprioception (zeros) and must be seen in the 32 px picture. ``stop_at_success=False``: see
    ``TabletopEnvironment``.
    """

    task = "point_reach"
    instruction = "reach the goal"
    max_steps = 30

    def __init__(self, camera: bool = False, stop_at_success: bool = True) -> None:
        self._camera, self.stop_at_success = camera, stop_at_success
        self.action_spec = ActionSpec(dim=3, translation_m=_STEP, rotation_rad=1.0, frame="plane", gripper=None)
        self.observation_spec = ObservationSpec(
            {"top": (32, 32, 3)} if camera else {}, 4, ("x", "y", "goal_x", "goal_y")
        )
        self._running = False

    def reset(self, seed: int) -> TimeStep:
        rng = np.random.default_rng(seed)
        self.position, self.goal = rng.uniform(-0.9, 0.9, 2), rng.uniform(-0.9, 0.9, 2)
        self._ticks, self._running = 0, True
        return TimeStep(self._observe())

    def step(self, action: np.ndarray) -> TimeStep:
        if not self._running:
            raise ContractError("step() after the end of an episode, or before the first reset(); call reset(seed).")
        if np.shape(action) != (3,):
            raise ContractError(f"Action of shape {np.shape(action)}; point_reach takes (3,).")
        if not np.isfinite(action).all():
            raise NonFiniteError(f"Action with NaN or infinity: {np.asarray(action).tolist()}.")
        if np.abs(action).max() > 1 + 1e-6:
            raise ContractError(f"Action outside [-1, 1]: {np.asarray(action).tolist()}; clip it first.")
        self.position = np.clip(self.position + _STEP * np.asarray(action[:2], np.float64), -1, 1)
        self._ticks += 1
        success = bool(np.linalg.norm(self.position - self.goal) < _RADIUS)
        terminated = success and self.stop_at_success
        truncated = not terminated and self._ticks >= self.max_steps
        self._running = not (terminated or truncated)
        return TimeStep(self._observe(), float(success), terminated, truncated, success)

    def close(self) -> None:
        self._running = False

    def oracle(self) -> PointReachOracle:
        return PointReachOracle(self)

    def grounding(self) -> np.ndarray:
        error = (self.goal - self.position) * 10
        return np.array([error[0], error[1], 0, 0, 1], np.float32)

    def render(self, height: int, width: int) -> np.ndarray:
        return self._draw(height, width)

    def _observe(self) -> Observation:
        goal = np.zeros(2) if self._camera else self.goal
        proprio = np.concatenate([self.position, goal]).astype(np.float32)
        images = {"top": self._draw(32, 32)} if self._camera else {}
        stamp = int(self._ticks * 5e7)
        return Observation(images, proprio, self.instruction, {name: stamp for name in ("proprio", *images)})

    def _draw(self, height: int, width: int) -> np.ndarray:
        """Two soft dots, so that positions finer than a pixel show."""
        y, x = np.meshgrid(np.linspace(1, -1, height), np.linspace(-1, 1, width), indexing="ij")
        picture = np.full((height, width, 3), 235.0)
        for centre, colour in ((self.goal, (220, 40, 40)), (self.position, (30, 60, 200))):
            weight = np.exp(-((x - centre[0]) ** 2 + (y - centre[1]) ** 2) / 0.01)[..., None]
            picture = picture * (1 - weight) + weight * np.array(colour)
        return picture.astype(np.uint8)


class PointReachOracle:
    """Straight to the goal. Implements pld_core.interfaces.Oracle."""

    def __init__(self, environment: PointReach) -> None:
        self._environment = environment

    def reset(self) -> None:
        return None

    def act(self) -> np.ndarray:
        error = (self._environment.goal - self._environment.position) / _STEP
        return np.array([*np.clip(error, -1, 1), 1.0], np.float32)


def point_reach(lanes: int, camera: bool = False) -> list[PointReach]:
    return [PointReach(camera) for _ in range(lanes)]


def biased_base(observation: Observation) -> np.ndarray:
    """A base policy that half works: it aims beside the goal, by an amount that depends on the goal."""
    position, goal = observation.proprio[:2], observation.proprio[2:]
    aim = goal + 0.1 * np.array([np.sin(3 * goal[0] + 1), np.cos(3 * goal[1])])
    return np.array([*np.clip(0.5 * (aim - position) / _STEP, -0.7, 0.7), 1.0], np.float32)
