"""Any Gymnasium environment with a Box action space as a PLD Environment."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import gymnasium
import numpy as np
from gymnasium import spaces

from pld_core.errors import ContractError, NonFiniteError
from pld_core.types import ActionSpec, Observation, ObservationSpec, TimeStep

IsSuccess = Callable[[float, bool, Mapping[str, object]], bool]


def info_or_reward(reward: float, terminated: bool, info: Mapping[str, object]) -> bool:
    """Success as most environments report it: ``info["is_success"]`` or ``info["success"]``, else
    an ending with a positive reward."""
    for key in ("is_success", "success"):
        if key in info:
            return bool(info[key])
    return terminated and reward > 0


class GymnasiumEnvironment:
    """Adapts ``gymnasium.Env``; implements pld_core.interfaces.Environment.

    Actions are rescaled from [-1, 1] to the Box's bounds. A Box observation becomes the
    proprioception; in a Dict, uint8 ``[h, w, 3]`` entries become cameras and every other Box is
    flattened into the proprioception, in the order of the keys. Rewards are replaced by the sparse
    binary success (``is_success`` decides), as PLD's losses expect.
    """

    def __init__(
        self,
        env: gymnasium.Env,
        task: str | None = None,
        instruction: str = "",
        max_steps: int | None = None,
        is_success: IsSuccess = info_or_reward,
        rate_hz: float = 20.0,
    ) -> None:
        if not isinstance(env.action_space, spaces.Box):
            raise ContractError(
                f"The action space is {env.action_space}; PLD needs a Box. Wrap discrete actions in a continuous one."
            )
        if not (np.isfinite(env.action_space.low).all() and np.isfinite(env.action_space.high).all()):
            raise ContractError(
                "The action Box has infinite bounds; give it finite ones (gymnasium.wrappers.RescaleAction)."
            )
        self._env = env
        self._is_success = is_success
        self.task = task or (env.spec.id if env.spec else type(env.unwrapped).__name__)
        self.instruction = instruction
        self.max_steps = max_steps or (env.spec.max_episode_steps if env.spec else None) or 1000
        size = int(np.prod(env.action_space.shape))
        self.action_spec = ActionSpec(size, 1.0, 1.0, frame="native", rate_hz=rate_hz, gripper=None)
        self._cameras, self._states = _split(env.observation_space)
        self._only = next(iter(self._cameras or self._states), "state")  # the name of a bare Box
        self.observation_spec = ObservationSpec(
            cameras={name: (space.shape[0], space.shape[1], 3) for name, space in self._cameras.items()},
            proprio_dim=sum(int(np.prod(space.shape)) for space in self._states.values()),
        )
        self._steps = 0
        self._running = False
        self.render = self._render if env.render_mode == "rgb_array" else None  # None: no videos in the report

    def reset(self, seed: int) -> TimeStep:
        observation, _ = self._env.reset(seed=seed)
        self._steps, self._running = 0, True
        return TimeStep(self._convert(observation))

    def step(self, action: np.ndarray) -> TimeStep:
        if not self._running:
            raise ContractError("step() after the end of an episode, or before the first reset(); call reset(seed).")
        observation, reward, terminated, truncated, info = self._env.step(self._rescale(action))
        self._steps += 1
        success = self._is_success(float(reward), bool(terminated), info)
        terminated = bool(terminated) or success
        truncated = not terminated and (bool(truncated) or self._steps >= self.max_steps)
        self._running = not (terminated or truncated)
        return TimeStep(self._convert(observation), float(success), terminated, truncated, success)

    def _render(self, height: int, width: int) -> np.ndarray:
        """The environment's own picture, uint8 ``[h, w, 3]``, in the size that it was made with."""
        return np.asarray(self._env.render())

    def close(self) -> None:
        self._running = False
        self._env.close()

    def _rescale(self, action: np.ndarray) -> np.ndarray:
        space = self._env.action_space
        action = np.asarray(action, np.float32)
        if action.shape != (self.action_spec.dim,):
            raise ContractError(f"Action of shape {action.shape}; {self.task!r} takes ({self.action_spec.dim},).")
        if not np.isfinite(action).all():
            raise NonFiniteError(f"Action with NaN or infinity: {action.tolist()}.")
        if np.abs(action).max(initial=0.0) > 1 + 1e-6:
            raise ContractError(f"Action outside [-1, 1]: {action.tolist()}; clip it first.")
        unit = (np.clip(action, -1, 1).reshape(space.shape) + 1) / 2
        return (space.low + unit * (space.high - space.low)).astype(space.dtype)

    def _convert(self, observation: object) -> Observation:
        entries = observation if isinstance(observation, Mapping) else {self._only: observation}
        parts = [np.asarray(entries[name], np.float32).reshape(-1) for name in self._states]
        proprio = np.concatenate(parts) if parts else np.zeros(0, np.float32)
        images = {name: np.array(entries[name]) for name in self._cameras}
        stamp = int(self._steps * 1e9 / self.action_spec.rate_hz)
        return Observation(images, proprio, self.instruction, {name: stamp for name in ("proprio", *images)})


def _split(space: spaces.Space) -> tuple[dict[str, spaces.Box], dict[str, spaces.Box]]:
    """Cameras and states of an observation space; raises ContractError on anything but Boxes."""
    entries = dict(space.spaces) if isinstance(space, spaces.Dict) else {"": space}
    cameras, states = {}, {}
    for name, entry in entries.items():
        if not isinstance(entry, spaces.Box):
            raise ContractError(f"Observation {name!r} is {entry}; PLD takes Box entries (flatten it first).")
        if entry.dtype == np.uint8 and len(entry.shape) == 3 and entry.shape[2] == 3:
            cameras[name or "image"] = entry
        else:
            states[name or "state"] = entry
    return cameras, states
