"""Pictures can be drawn later and elsewhere: a snapshot holds all that they depend on."""

from __future__ import annotations

import hashlib
import subprocess
import sys

import numpy as np
import pytest

from pld_core.errors import ContractError, NonFiniteError
from pld_core.types import TimeStep
from pld_sim.tabletop import TASKS, TabletopEnvironment, make_environments

NAMES = sorted(TASKS)
DRAW_ELSEWHERE = """
import hashlib, sys
import numpy as np
from pld_sim.tabletop import make_environments
environment = make_environments(sys.argv[1], 1)[0]
for snapshot in np.load(sys.argv[2]):
    pictures = environment.picture_of(snapshot)
    print(hashlib.sha256(b"".join(pictures[name].tobytes() for name in sorted(pictures))).hexdigest())
environment.close()
"""


@pytest.fixture(params=NAMES)
def env(request):
    env = make_environments(request.param, 1)[0]
    yield env
    env.close()


@pytest.fixture
def other(env):
    other = make_environments(env.task, 1)[0]
    yield other
    other.close()


def oracle_episode(env: TabletopEnvironment, seed: int) -> tuple[list[TimeStep], np.ndarray]:
    """All time steps of an episode of the scripted expert, and their snapshots [T + 1, N]."""
    oracle, steps = env.oracle(), [env.reset(seed)]
    snapshots = [env.snapshot()]
    while not steps[-1].last:
        steps.append(env.step(oracle.act()))
        snapshots.append(env.snapshot())
    return steps, np.stack(snapshots)


def fingerprint(images) -> str:
    return hashlib.sha256(b"".join(images[name].tobytes() for name in sorted(images))).hexdigest()


@pytest.mark.parametrize("seed", [0, 1])
def test_another_environment_draws_the_same_pictures(env, other, seed):
    steps, snapshots = oracle_episode(env, seed)
    assert snapshots.dtype == np.float64
    for step, snapshot in zip(steps, snapshots, strict=True):
        drawn = other.picture_of(snapshot)
        assert set(drawn) == set(step.observation.images)
        for name, image in step.observation.images.items():
            assert np.array_equal(drawn[name], image), f"{name} differs"
            assert drawn[name].dtype == np.uint8


def test_another_process_draws_the_same_pictures(env, tmp_path):
    steps, snapshots = oracle_episode(env, 2)
    np.save(tmp_path / "snapshots.npy", snapshots)
    command = [sys.executable, "-c", DRAW_ELSEWHERE, env.task, str(tmp_path / "snapshots.npy")]
    drawn = subprocess.run(command, capture_output=True, text=True, check=True, timeout=120).stdout.split()
    assert drawn == [fingerprint(step.observation.images) for step in steps]


def test_drawing_does_not_touch_the_episode(env, other):
    _, snapshots = oracle_episode(other, 4)
    rng = np.random.default_rng(0)
    actions = rng.uniform(-0.5, 0.5, (6, 7)).astype(np.float32)
    env.reset(3)
    plain = [env.step(action).observation for action in actions]
    env.reset(3)
    for action, expected in zip(actions, plain, strict=True):
        env.picture_of(snapshots[-1])
        seen = env.step(action).observation
        assert np.array_equal(seen.proprio, expected.proprio)
        assert fingerprint(seen.images) == fingerprint(expected.images)


def test_a_blind_environment_does_the_same_without_pictures(env, other):
    other.renders_cameras = False
    seeing, snapshots = oracle_episode(env, 5)
    blind, blind_snapshots = oracle_episode(other, 5)
    assert np.array_equal(snapshots, blind_snapshots)
    for step, expected in zip(blind, seeing, strict=True):
        assert step.observation.images == {}
        assert np.array_equal(step.observation.proprio, expected.observation.proprio)
    assert other._shared.renderer._gl is None


def test_snapshots_are_copies(env):
    env.reset(0)
    before = env.snapshot()
    kept = before.copy()
    env.step(np.ones(7, np.float32))
    assert np.array_equal(before, kept)
    assert not np.array_equal(env.snapshot(), kept)


def test_bad_snapshots_are_refused(env):
    env.reset(0)
    snapshot = env.snapshot()
    with pytest.raises(ContractError, match="shape"):
        env.picture_of(snapshot[1:])
    with pytest.raises(NonFiniteError):
        env.picture_of(np.full_like(snapshot, np.nan))


def test_joints_and_tool(env):
    observation = env.reset(0).observation
    names, positions = env.joint_state()
    position, quaternion = env.tool_pose()
    assert positions.shape == (len(names),)
    assert positions.dtype == np.float64
    assert len(set(names)) == len(names)
    assert np.allclose(position, observation.proprio[:3], atol=1e-6)
    assert np.linalg.norm(quaternion) == pytest.approx(1.0)
    kept = positions.copy(), position.copy()
    env.step(np.array([1, 1, 1, 0, 0, 0, -1], np.float32))
    assert np.array_equal(positions, kept[0])
    assert np.array_equal(position, kept[1])
    assert not np.array_equal(env.joint_state()[1], positions)


def test_holding_keeps_the_grip(env):
    env.reset(0)
    width = list(env.observation_spec.proprio_names).index("gripper_width_m")
    before = env.reset(0).observation.proprio
    for _ in range(5):
        after = env.step(env.hold_action()).observation.proprio
    assert np.abs(after[width] - before[width]) < 1e-3
    assert np.linalg.norm(after[:3] - before[:3]) < 2e-3
    env.step(np.array([0, 0, 0, 0, 0, 0, 1], np.float32))
    assert env.hold_action().tolist() == [0, 0, 0, 0, 0, 0, 1]
    assert env.hold_action().dtype == np.float32
