"""Episodes as an RLDS dataset (TFDS), which Octo's and OpenVLA's trainers read. One way: LeRobot datasets come back.

Needs tensorflow-datasets, which PLD has no extra for: its pins belong in an environment with TensorFlow.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import numpy as np

from pld_core.errors import ConfigError, ContractError
from pld_core.types import Episode

VERSION = "1.0.0"
_TEXTS = ("task", "mode", "policy_version")
_FLAGS = ("success", "environment_success", "terminated", "truncated")


def write_rlds(folder: Path, episodes: Iterable[tuple[Episode, dict[str, Any]]]) -> Path:
    """Write split ``train`` to ``folder/pld/1.0.0``, complete or not at all; answers that folder.

    A step per tick; the closing observation is left out, because trainers take the action of every step for one that
    was executed. Raises ConfigError without tensorflow-datasets, ContractError for no episodes or unequal ones.
    """
    try:
        import tensorflow_datasets as tfds
    except ImportError as error:
        raise ConfigError("--format rlds needs TensorFlow: pip install tensorflow tensorflow-datasets.") from error
    given = (episode for episode, _ in episodes)
    first = next(given, None)
    if first is None:
        raise ContractError("There are no episodes to export.")

    class Pld(tfds.core.GeneratorBasedBuilder, skip_registration=True):  # type: ignore[call-arg]  (names the dataset)
        VERSION = tfds.core.Version(VERSION)

        def _info(self) -> Any:
            return tfds.core.DatasetInfo(builder=self, features=_features(tfds, first))

        def _split_generators(self, dl_manager: Any) -> dict[str, Any]:
            return {"train": self._generate_examples()}

        def _generate_examples(self) -> Iterator[tuple[int, Any]]:
            for number, episode in enumerate(itertools.chain([first], given)):
                _same(episode, first)
                yield number, _example(episode)

    Pld(data_dir=str(folder)).download_and_prepare()
    return folder / "pld" / VERSION


def _features(tfds: Any, episode: Episode) -> Any:
    f = tfds.features

    def vector(values: np.ndarray) -> Any:
        return f.Tensor(shape=values.shape[1:], dtype=np.float32)

    step = {
        "observation": {
            "state": vector(episode.proprio),
            **{name: f.Image(shape=frames.shape[1:]) for name, frames in episode.images.items()},
        },
        "action": vector(episode.action),
        "base_action": vector(episode.base_action),
        "residual": vector(episode.residual),
        "source": np.uint8,
        "reward": np.float32,
        "discount": np.float32,
        "is_first": np.bool_,
        "is_last": np.bool_,
        "is_terminal": np.bool_,
        "language_instruction": f.Text(),
    }
    about = {name: f.Text() for name in _TEXTS} | {name: np.bool_ for name in _FLAGS}
    about |= {"seed": np.int64, "t_base": np.int64, "xi": np.float32}
    return f.FeaturesDict({"steps": f.Dataset(step), "episode_metadata": about})


def _example(episode: Episode) -> dict[str, Any]:
    spec = episode.spec
    about = {"task": spec.task, "mode": spec.mode, "policy_version": episode.policy_version}
    about |= {name: getattr(episode, name) for name in _FLAGS}
    about |= {"seed": spec.seed, "t_base": -1 if spec.t_base is None else spec.t_base, "xi": spec.xi}
    return {"steps": [_step(episode, t) for t in range(len(episode))], "episode_metadata": about}


def _step(episode: Episode, t: int) -> dict[str, Any]:
    last = t == len(episode) - 1
    return {
        "observation": {"state": episode.proprio[t], **{name: frames[t] for name, frames in episode.images.items()}},
        **{name: getattr(episode, name)[t] for name in ("action", "base_action", "residual", "source", "reward")},
        "discount": np.float32(not (last and episode.terminated)),
        "is_first": t == 0,
        "is_last": last,
        "is_terminal": last and episode.terminated,
        "language_instruction": episode.instruction or episode.spec.task,
    }


def _same(episode: Episode, first: Episode) -> None:
    def shapes(of: Episode) -> dict[str, tuple[int, ...]]:
        columns = {name: getattr(of, name) for name in ("proprio", "action")} | dict(of.images)
        return {name: values.shape[1:] for name, values in columns.items()}

    if shapes(episode) != shapes(first):
        raise ContractError(
            f"All episodes of a dataset have equal shapes; the one with seed {episode.spec.seed} has "
            f"{shapes(episode)}, the first {shapes(first)}."
        )
