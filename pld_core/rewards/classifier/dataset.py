"""Labelled frames of whole episodes, and their split into training, validation and held-out episodes."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from pld_core.data.episode_store import EpisodeStore
from pld_core.errors import ConfigError, ContractError
from pld_core.types import Episode

SHARES = (0.7, 0.15, 0.15)  # of the episodes: training, validation, held out
SHARES_OF_TWO = (0.7, 0.3)  # where other episodes are held out


@dataclass(frozen=True)
class Frames:
    """``N`` frames of ``E`` episodes, in order: images ``{camera: uint8 [N, h, w, 3]}``, proprio float32 ``[N, P]``,
    success bool ``[N]``, episode int ``[N]`` (0 to E - 1); names: where each episode comes from, ``E`` texts;
    sources: what drove it; scenes: what it began with, ``E`` texts (empty: no two began alike)."""

    images: Mapping[str, np.ndarray]
    proprio: np.ndarray
    success: np.ndarray
    episode: np.ndarray
    names: tuple[str, ...]
    sources: tuple[str, ...]
    instruction: str = ""
    scenes: tuple[str, ...] = ()

    def __len__(self) -> int:
        return len(self.success)

    @property
    def cameras(self) -> tuple[tuple[str, int, int], ...]:
        """Name, height and width [pixels], sorted by name."""
        return tuple((name, *self.images[name].shape[1:3]) for name in sorted(self.images))

    def rows(self, number: int) -> slice:
        """The rows of one episode."""
        first, last = np.searchsorted(self.episode, (number, number + 1))
        return slice(int(first), int(last))

    @property
    def successful(self) -> list[bool]:
        """Of each episode, whether it shows success."""
        return [bool(self.success[self.rows(n)].any()) for n in range(len(self.names))]

    def pick(self, numbers: Sequence[int]) -> Frames:
        """Some of the episodes, numbered anew."""
        rows = np.concatenate([np.arange(len(self))[self.rows(n)] for n in numbers])
        lengths = [self.rows(n).stop - self.rows(n).start for n in numbers]
        return Frames(
            {name: frames[rows] for name, frames in self.images.items()},
            self.proprio[rows],
            self.success[rows],
            np.repeat(np.arange(len(numbers)), lengths),
            tuple(self.names[n] for n in numbers),
            tuple(self.sources[n] for n in numbers),
            self.instruction,
            tuple(self.scenes[n] for n in numbers) if self.scenes else (),
        )


def labels(episode: Episode) -> np.ndarray:
    """Whether each of the ``T + 1`` frames shows success.

    A reward of zeros and ones says so of every frame after the first; of any other, and of an episode
    that ends with its success, only the last frame is known to show it.
    """
    marked = np.zeros(len(episode) + 1, bool)
    if np.isin(episode.reward, (0.0, 1.0)).all():
        marked[1:] = episode.reward > 0
    marked[-1] |= episode.success and not marked.any()
    return marked


def refuse_repeated(folders: Sequence[Path]) -> None:
    """Raises ConfigError where two of them are the same."""
    resolved = [folder.resolve() for folder in folders]
    twice = sorted({str(folder) for folder in resolved if resolved.count(folder) > 1})
    if twice:
        raise ConfigError(f"{', '.join(twice)} is given more than once; its episodes would judge themselves.")


def require_folder(folder: Path) -> None:
    """Raises ConfigError where there is none."""
    if not folder.is_dir():
        raise ConfigError(f"{folder} is not a folder of recorded episodes (an EpisodeStore, e.g. runs/x/probe).")


def read_frames(folders: Sequence[Path], cameras: Sequence[str] = ()) -> Frames:
    """All frames of the episodes in some EpisodeStore folders; voided episodes are left out.

    cameras: which to use; empty is all. Raises ConfigError where a folder holds no such images, or comes twice.
    """
    refuse_repeated(folders)
    episodes: list[Episode] = []
    names, sources = [], []
    for folder in folders:
        require_folder(folder)
        store = EpisodeStore(folder, read_only=True)
        for episode, metadata in zip(store, store.metadata()):
            if episode.voided:
                continue
            episodes.append(_only(episode, cameras, folder))
            names.append(f"{folder}, attempt {metadata.get('attempt', len(names))}, seed {episode.spec.seed}")
            sources.append(str(metadata.get("source", episode.spec.mode)))
    if not episodes:
        raise ConfigError(f"No episodes in {', '.join(map(str, folders)) or 'no folder'}; give folders with --data.")
    return _gather(episodes, names, sources)


def split(frames: Frames, seed: int, shares: Sequence[float] = SHARES) -> tuple[Frames, ...]:
    """Training, validation and (with three shares) held-out episodes, drawn within each source and outcome so that
    all are alike; the training episodes of one seed are the same whatever becomes of the others.

    Episodes of one scene stay together: what is held out must not begin as what was learnt. Raises ConfigError
    unless each part holds episodes with and without success.
    """
    rng = np.random.default_rng((seed, 0x5B117))
    successful = frames.successful
    scenes = _scenes(frames)
    kinds = [(frames.sources[first], successful[first]) for first, *_ in scenes]
    parts: list[list[int]] = [[] for _ in shares]
    for kind in sorted(set(kinds)):
        members = list(rng.permutation([k for k in range(len(scenes)) if kinds[k] == kind]))
        cuts = np.round(np.cumsum(shares) * len(members) + rng.uniform(-0.5, 0.5)).clip(0, len(members)).astype(int)
        cuts[-1] = len(members)
        for part, low, high in zip(parts, (0, *cuts[:-1]), cuts, strict=True):
            part += [n for k in members[low:high] for n in scenes[k]]
    for name, part in zip(("training", "validation", "held-out"), parts):
        count = f"{len(part)} of {len(successful)}, of {len(scenes)} scenes in all"
        require_both_outcomes([successful[n] for n in part], f"{name} episodes ({count})")
    return tuple(frames.pick(sorted(part)) for part in parts)


def require_both_outcomes(successful: Sequence[bool], which: str) -> None:
    """Raises ConfigError unless some episodes have a success and some have none."""
    if set(successful) != {True, False}:
        raise ConfigError(
            f"The {which} hold {'no failure' if True in successful else 'no success'}; record more scenes of both "
            "outcomes."
        )


def _scenes(frames: Frames) -> list[list[int]]:
    """The episodes' numbers, those of one scene together."""
    found: dict[str | int, list[int]] = {}
    for number in range(len(frames.names)):
        found.setdefault(frames.scenes[number] if frames.scenes else number, []).append(number)
    return list(found.values())


def _only(episode: Episode, cameras: Sequence[str], folder: Path) -> Episode:
    wanted = cameras or sorted(episode.images)
    missing = sorted(set(wanted) - set(episode.images))
    if missing or not wanted:
        raise ConfigError(
            f"Episodes in {folder} have images of {sorted(episode.images) or 'no camera'}, not of "
            f"{missing or 'any'}. Record with record_images, or choose with --cameras."
        )
    return dataclasses.replace(episode, images={name: episode.images[name] for name in wanted})


def _gather(episodes: Sequence[Episode], names: Sequence[str], sources: Sequence[str]) -> Frames:
    shapes = {tuple(sorted((n, f.shape[1:]) for n, f in e.images.items())) for e in episodes}
    widths = {e.proprio.shape[1] for e in episodes}
    if len(shapes) > 1 or len(widths) > 1:
        raise ContractError(f"The episodes differ in cameras or proprioception: {sorted(shapes)}, {sorted(widths)}.")
    return Frames(
        {name: _joined([e.images for e in episodes], name) for name in sorted(episodes[0].images)},
        np.concatenate([e.proprio for e in episodes]).astype(np.float32),
        np.concatenate([labels(e) for e in episodes]),
        np.repeat(np.arange(len(episodes)), [len(e) + 1 for e in episodes]),
        tuple(names),
        tuple(sources),
        episodes[0].instruction,
        tuple(f"{e.spec.task}, seed {e.spec.seed}" for e in episodes),
    )


def _joined(images: Sequence[Any], camera: str) -> np.ndarray:
    """One camera's frames of all episodes, taken out of them: gigabytes are not held twice."""
    total = sum(len(frames[camera]) for frames in images)
    joined = np.empty((total, *images[0][camera].shape[1:]), np.uint8)
    at = 0
    for episode in images:
        frames = episode.pop(camera)
        joined[at : at + len(frames)] = frames
        at += len(frames)
    return joined
