"""The scripted experts of LIBERO: they succeed, recover from pushes, and their labels point at the target."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator

import numpy as np
import pytest

pytest.importorskip("libero.libero", reason="the extra 'libero' is not installed")

from pld_core.cli.bench import benchmarks_folder
from pld_core.errors import ContractError
from pld_core.stages.demonstrate import BurstNoise, demonstration
from pld_sim.libero import LiberoEnvironment, make_environments

TASKS = ("libero_object/0", "libero_spatial/0")


@pytest.fixture(scope="module", params=TASKS)
def environment(request: pytest.FixtureRequest) -> Iterator[LiberoEnvironment]:
    (made,) = make_environments(request.param)
    made.renders_cameras = False
    yield made
    made.close()


def run(environment: LiberoEnvironment, seed: int, shut: int = 0) -> tuple[bool, np.ndarray, np.ndarray]:
    """Success, tool positions [T, 3] in cm and labels [T, 5], both before each action; fingers shut for some ticks."""
    step, oracle = environment.reset(seed), environment.oracle()
    oracle.reset()
    tools, labels = [], []
    while not step.last:
        tools.append(100.0 * step.observation.proprio[:3])
        labels.append(environment.grounding())
        action = oracle.act()
        assert action.dtype == np.float32
        assert action.shape == (7,)
        action[6] = -1.0 if len(tools) <= shut else action[6]
        step = environment.step(action)
    return step.success, np.stack(tools), np.stack(labels)


def test_succeeds_and_its_labels_lead_to_both_targets(environment: LiberoEnvironment) -> None:
    success, tools, labels = run(environment, 0)
    assert success
    assert len(labels) <= 150
    assert labels.dtype == np.float32
    assert np.isfinite(labels).all()
    np.testing.assert_allclose(np.linalg.norm(labels[:, 3:], axis=1), 1.0, atol=1e-5)
    distance = np.linalg.norm(labels[:, :3], axis=1)
    grasped = 1 + int(np.abs(np.diff(distance)).argmax())  # there the target changes to the place
    assert distance[:grasped].min() < 1.5  # cm; at the grasp point
    assert distance[grasped] > 10.0
    assert distance[-1] < 8.0
    # One fixed point in the frame of the actions: what the tool moves is missing from the label afterwards.
    fetching = slice(0, grasped - 15)
    targets = tools[fetching] + labels[fetching, :3]
    assert np.ptp(targets, axis=0).max() < 1.5


def test_moving_along_the_label_shortens_it(environment: LiberoEnvironment) -> None:
    environment.reset(3)
    before = environment.grounding()
    action = np.zeros(7, np.float32)
    action[:3] = 0.5 * before[:3] / np.abs(before[:3]).max()
    action[6] = 1.0
    for _ in range(5):
        environment.step(action)
    after = environment.grounding()
    assert (np.abs(after[:3]) < np.abs(before[:3])).all()


@pytest.mark.slow
def test_recovers_from_bursts_of_random_actions(environment: LiberoEnvironment) -> None:
    assert any(demonstration(environment, seed, BurstNoise()).success for seed in (1, 2))


@pytest.mark.parametrize("task", ["libero_goal/0", "libero_goal/3", "libero_goal/7"])
def test_opens_drawers_puts_in_a_bowl_and_turns_on_a_stove(task: str) -> None:
    (environment,) = make_environments(task)
    environment.renders_cameras = False
    try:
        assert run(environment, 0)[0]
        if task != "libero_goal/3":  # which leaves little time
            assert run(environment, 0, shut=70)[0], "fingers that come shut to a handle or knob open there"
    finally:
        environment.close()


def test_a_goal_without_a_skill_is_refused_and_the_environment_lives_on() -> None:
    (environment,) = make_environments("libero_90/0")  # close a drawer
    environment.renders_cameras = False
    try:
        environment.reset(0)
        with pytest.raises(ContractError, match="no scripted expert"):
            environment.oracle().act()
        environment.step(environment.hold_action())
    finally:
        environment.close()


@pytest.mark.slow
def test_the_experts_are_measured_by_their_benchmark() -> None:
    program = str(benchmarks_folder() / "libero_oracles.py")
    command = [sys.executable, program, "libero_object/0", "--states", "1", "--json"]
    line = subprocess.run(command, check=True, capture_output=True, text=True).stdout.splitlines()[-1]
    (found,) = json.loads(line)["results"]
    assert (found["successes"], found["states"], found["failed"]) == (1, 1, [])
