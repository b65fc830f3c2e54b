"""What the networks are given: pictures at their size, and windows of episodes as observations with chunks."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from PIL import Image

from pld_core.errors import ContractError
from pld_core.types import Episode, Observation
from pld_core.vla.robot_mapping import RobotMapping
from pld_core.vla.sft import BalancedRows, action_windows


def resize_with_pad(image: np.ndarray, size: int) -> np.ndarray:
    """uint8 ``[h, w, 3]`` as ``[size, size, 3]``: undistorted, bilinear, black beside it, as openpi does."""
    height, width = image.shape[:2]
    if (height, width) == (size, size):
        return image
    longest = max(height, width)
    fitted = max(1, width * size // longest), max(1, height * size // longest)  # PIL: width first
    resized = np.asarray(Image.fromarray(np.ascontiguousarray(image)).resize(fitted, Image.Resampling.BILINEAR))
    canvas = np.zeros((size, size, 3), np.uint8)
    top, left = (size - fitted[1]) // 2, (size - fitted[0]) // 2
    canvas[top : top + fitted[1], left : left + fitted[0]] = resized
    return canvas


def content_seed(observation: Observation, mapping: RobotMapping) -> int:
    """A seed that only what the policy sees of an observation decides."""
    digest = hashlib.sha256(observation.instruction.encode())
    digest.update(np.ascontiguousarray(mapping.state_of(observation)).tobytes())
    for image in mapping.pictures(observation):
        digest.update(np.ascontiguousarray(image).tobytes())
    return int.from_bytes(digest.digest()[:8], "little")


@dataclass(frozen=True)
class Windows:
    """The ticks of usable episodes that are learnt: ``ticks`` ``[N, 2]`` (episode, tick), chunks ``[T, H, A]`` each."""

    episodes: tuple[Episode, ...]
    chunks: tuple[np.ndarray, ...]
    ticks: np.ndarray
    rows: BalancedRows

    @classmethod
    def of(
        cls, episodes: Sequence[Episode], mapping: RobotMapping, horizon: int, gripper: int | None, every: int = 1
    ) -> Windows:
        """gripper: see ``action_windows``; every: ticks from one window to the next.

        Raises ContractError for episodes of another robot, or if none is left.
        """
        usable = [(i, e) for i, e in enumerate(episodes) if not e.voided and len(e) > 0]
        if not usable:
            raise ContractError(f"None of the {len(episodes)} episodes given to sft can be used (voided or empty).")
        for index, episode in usable:
            _check_episode(episode, index, mapping)
        chosen = tuple(episode for _, episode in usable)
        instructions = list(dict.fromkeys(episode.instruction for episode in chosen))
        ticks = [np.arange(0, len(episode), every) for episode in chosen]
        owner = np.repeat(np.arange(len(chosen)), [len(each) for each in ticks])
        return cls(
            chosen,
            tuple(action_windows(episode.action, horizon, gripper) for episode in chosen),
            np.stack([owner, np.concatenate(ticks)], axis=1),
            BalancedRows(np.array([instructions.index(chosen[i].instruction) for i in owner])),
        )

    def __len__(self) -> int:
        return len(self.ticks)

    @property
    def actions(self) -> np.ndarray:
        """All executed actions ``[N, A]``."""
        return np.concatenate([episode.action for episode in self.episodes])

    @property
    def proprio(self) -> np.ndarray:
        """Proprioception of all ticks, ``[N, P]``."""
        return np.concatenate([episode.proprio[: len(episode)] for episode in self.episodes])

    def batch(self, count: int, seed: int, step: int) -> tuple[list[Observation], np.ndarray]:
        """Observations and their chunks ``[count, H, A]``; a pure function of its arguments."""
        drawn = self.ticks[self.rows.draw(count, seed, step)]
        return [self._observation(*row) for row in drawn], np.stack([self.chunks[i][t] for i, t in drawn])

    def _observation(self, index: int, tick: int) -> Observation:
        episode = self.episodes[index]
        images = {name: frames[tick] for name, frames in episode.images.items()}
        return Observation(images, episode.proprio[tick], episode.instruction)


def _check_episode(episode: Episode, index: int, mapping: RobotMapping) -> None:
    missing = [c.camera for c in mapping.cameras if c.camera not in episode.images]
    if missing:
        raise ContractError(f"Episode {index} has no frames of {missing}; record episodes for sft with record_images.")
    if episode.action.shape[1:] != (mapping.action.dim,):
        raise ContractError(
            f"Episode {index} has actions of {episode.action.shape[1:]}; the policy gives ({mapping.action.dim},) "
            "(action.dim in pld.yaml)."
        )
    if not np.isfinite(episode.action).all() or not np.isfinite(episode.proprio).all():
        raise ContractError(f"Episode {index} holds NaN or infinity in its actions or proprioception.")
    images = {name: frames[0] for name, frames in episode.images.items()}
    mapping.check(Observation(images, episode.proprio[0], episode.instruction), f"Episode {index}")
