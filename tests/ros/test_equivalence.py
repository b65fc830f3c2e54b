"""The same seeds, task and weights through LocalRunner and through the nodes, in simulated time."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import jax
import numpy as np
import pytest

from pld_core import bring
from pld_core.config import load_config
from pld_core.rewards import BinaryReward
from pld_core.rl.actor import LearnerActor
from pld_core.rl.config import LearnerConfig
from pld_core.rl.learner import Learner
from pld_core.stages.runner import LocalRunner
from pld_core.types import Episode, EpisodeSpec
from pld_ros.runner.ros_runner import RosRunner

TASK, FEATURES = "peg_insertion", 5
SPECS = [
    EpisodeSpec(TASK, 1, "base", record_images=False),
    EpisodeSpec(TASK, 2, "learn", 0, 0.5, explore=True, record_images=False),
    EpisodeSpec(TASK, 3, "probe", 10, 0.5, record_images=True),
    EpisodeSpec(TASK, 0, "evaluate", 0, 0.3, record_images=False),
]


def an_actor(state_dim: int) -> LearnerActor:
    """An actor whose residuals are not zero."""
    learner = Learner(LearnerConfig(hidden=(64, 64), passive=(6,)), state_dim, 7)
    params = learner.actor_params(learner.init(3))
    rng = np.random.default_rng(0)
    actor = jax.tree.map(lambda x: np.asarray(x + 0.03 * rng.standard_normal(x.shape), np.float32), params.actor)
    return LearnerActor(learner, dataclasses.replace(params, actor=actor), 16)


def assert_equal(local: Episode, ros: Episode) -> None:
    """Bit for bit, in every column."""
    for field in dataclasses.fields(Episode):
        one, other = getattr(local, field.name), getattr(ros, field.name)
        if isinstance(one, np.ndarray):
            assert one.dtype == other.dtype, field.name
            np.testing.assert_array_equal(one, other, err_msg=field.name)
        elif field.name == "images":
            assert set(one) == set(other)
            for camera in one:
                np.testing.assert_array_equal(one[camera], other[camera], err_msg=camera)
        else:
            assert one == other, field.name


@pytest.mark.slow
def test_nodes_and_local_runner_give_the_same_episodes(tmp_path: Path, link_addresses: dict[str, str]) -> None:
    policy = bring.base_policy("compact")
    environments = bring.environment_factory(TASK)(1)
    local = LocalRunner(environments, policy, BinaryReward, 1, True, FEATURES)
    state_dim = environments[0].observation_spec.proprio_dim + FEATURES + 7 * policy.action_horizon
    actor = an_actor(state_dim)
    expected = list(local.run(SPECS, actor))
    local.close()
    config = load_config(TASK, {"runner": "ros", "ros.realtime": False, **link_addresses})
    runner = RosRunner(config, tmp_path, policy, True, FEATURES)
    try:
        happened = list(runner.run(SPECS, actor))
    finally:
        runner.close()
    assert len(happened) == len(expected)
    for one, other in zip(expected, happened, strict=True):
        assert_equal(one, other)
