"""Episodes of the little environment, and the rows and messages in which a robot would have told them."""

from __future__ import annotations

import dataclasses

import numpy as np

from pld_core.types import Episode, EpisodeSpec, Observation
from pld_ros.recording.records import Outcome, StepRow
from pld_sim.point_reach import biased_base, point_reach

TICK_NS = 50_000_000
BEGAN_NS = 1_700_000_000_000_000_000


def looking_base(observation: Observation) -> np.ndarray:
    """As ``biased_base``, with the goal found in the picture: the mean place of what is red."""
    redness = np.clip(observation.images["top"][..., 0].astype(float) - observation.images["top"][..., 2], 0, None)
    y, x = np.meshgrid(np.linspace(1, -1, 32), np.linspace(-1, 1, 32), indexing="ij")
    goal = np.array([(x * redness).sum(), (y * redness).sum()]) / max(redness.sum(), 1.0) * 0.85  # half-blind
    proprio = np.array([*observation.proprio[:2], *goal], np.float32)
    return biased_base(Observation({}, proprio))


def local_episodes(count: int = 3, seed: int = 1, **spec) -> list[Episode]:
    """What LocalRunner makes of ``count`` seeds."""
    from pld_core.rewards import BinaryReward
    from pld_core.stages.runner import LocalRunner
    from pld_core.vla.callable_policy import CallablePolicy

    runner = LocalRunner(point_reach(2, camera=True), CallablePolicy(looking_base, version="biased"), BinaryReward)
    specs = [EpisodeSpec("point_reach", seed + k, **spec) for k in range(count)]
    return list(runner.run(specs))


def stamp(sequence: int) -> int:
    return BEGAN_NS + sequence * TICK_NS


def rows_of(episode: Episode, episode_id: str, first: int = 1) -> list[StepRow]:
    """The steps that a controller would have sent of a complete episode, with their frames."""
    rows = []
    for t in range(len(episode) + 1):
        closing = t == len(episode)
        k = min(t, len(episode) - 1)  # the closing row decides something, too
        rows.append(
            StepRow(
                episode_id, first + t, t, closing,
                {source: stamp(first + t) for source in ("proprio", *episode.images)},
                episode.proprio[t], episode.state[t], episode.base_action[t], episode.residual[k], episode.action[k],
                float(episode.reward[t - 1]) if t else 0.0, closing and episode.success, int(episode.source[k]),
                bool(episode.intervention[k]), "w1", {name: frames[t] for name, frames in episode.images.items()},
            )
        )  # fmt: skip
    return rows


def outcome_of_episode(episode: Episode, episode_id: str, first: int = 1, **changes) -> Outcome:
    outcome = Outcome(
        episode_id, episode.spec, episode.instruction, episode.policy_version, "w1", len(episode), first,
        first + len(episode), episode.terminated, episode.truncated, episode.success,
        environment_success=episode.environment_success,
    )  # fmt: skip
    return dataclasses.replace(outcome, **changes)


def assert_same(given: Episode, expected: Episode) -> None:
    """Every field, bit for bit and of the same type."""
    for field in dataclasses.fields(Episode):
        a, b = getattr(given, field.name), getattr(expected, field.name)
        if field.name == "images":
            assert sorted(a) == sorted(b)
            for name in b:
                assert_equal_arrays(a[name], b[name], name)
        elif isinstance(b, np.ndarray):
            assert_equal_arrays(a, b, field.name)
        else:
            assert a == b, field.name


def assert_equal_arrays(a: np.ndarray, b: np.ndarray, name: str) -> None:
    assert (a.dtype, a.shape) == (b.dtype, b.shape), name
    assert a.tobytes() == b.tobytes(), name
