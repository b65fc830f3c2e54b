"""The three tabletop tasks against the environment contract, plus what only a simulator can promise."""

from __future__ import annotations

import threading

import mujoco
import numpy as np
import pytest
from environment_contract import EnvironmentContract, same

from pld_core.errors import ConfigError, ContractError, PLDError, UnknownNameError
from pld_core.interfaces import Oracle, SimulatedEnvironment
from pld_sim.tabletop import TASKS, cube_pickup, gpu_insertion, make_environments, peg_insertion

NAMES = sorted(TASKS)


class TestPegInsertion(EnvironmentContract):
    def make_environment(self):
        return peg_insertion(1)[0]


class TestCubePickup(EnvironmentContract):
    def make_environment(self):
        return cube_pickup(1)[0]


class TestGpuInsertion(EnvironmentContract):
    def make_environment(self):
        return gpu_insertion(1)[0]


@pytest.fixture(params=NAMES)
def env(request):
    env = make_environments(request.param, 1)[0]
    yield env
    env.close()


def test_protocols(env):
    assert isinstance(env, SimulatedEnvironment)
    assert isinstance(env.oracle(), Oracle)


def test_oracle_succeeds(env):
    oracle, lengths = env.oracle(), []
    for seed in range(8):
        step, count = env.reset(seed), 0
        oracle.reset()
        while not step.last:
            action = oracle.act()
            assert action.dtype == np.float32
            assert np.abs(action).max() <= 1.0
            step = env.step(action)
            count += 1
        assert step.success, f"seed {seed} ended without success"
        assert step.terminated
        assert not step.truncated
        lengths.append(count)
    assert np.mean(lengths) < 0.6 * env.max_steps


def test_oracle_recovers_from_bursts(env):
    oracle, rng = env.oracle(), np.random.default_rng(0)
    successes = 0
    for seed in range(4):
        step, tick = env.reset(seed), 0
        push = np.zeros(7)
        while not step.last:
            if tick % 20 == 8:
                push = np.append(rng.uniform(-0.6, 0.6, 6), 0.0)
            disturbed = oracle.act() + (push if tick % 20 in range(8, 13) else 0.0)
            step = env.step(np.clip(disturbed, -1, 1).astype(np.float32))
            tick += 1
        successes += step.success
    assert successes >= 3


def test_grounding_points_at_the_target(env):
    env.reset(0)
    before = env.grounding()
    assert before.shape == (5,)
    assert before.dtype == np.float32
    assert np.hypot(before[3], before[4]) == pytest.approx(1.0, abs=1e-5)
    action = np.zeros(7, np.float32)
    action[1] = np.sign(before[1])
    action[6] = 1.0 if env.task == "cube_pickup" else -1.0
    for _ in range(3):
        env.step(action)
    # Three ticks of 10 mm towards the target shorten the lateral error by less than that, because the arm lags.
    assert 1.0 < abs(before[1]) - abs(env.grounding()[1]) < 3.1


def test_only_the_grippers_rack_is_constrained(env):
    """No welds: what is held is held by friction, what is inserted is inside by geometry."""
    model = env._world.model
    assert list(model.eq_type) == [mujoco.mjtEq.mjEQ_JOINT]
    joints = {model.joint(int(i)).name for i in (*model.eq_obj1id, *model.eq_obj2id)}
    assert joints == set(env._world.arm.fingers)


@pytest.mark.parametrize(("name", "body"), [("peg_insertion", "peg"), ("gpu_insertion", "card")])
def test_what_is_held_falls_when_the_gripper_opens(name, body):
    env = make_environments(name, 1)[0]
    env.reset(0)
    data = env._world.data
    height = data.body(body).xpos[2]
    keep = np.array([0, 0, 0, 0, 0, 0, -1], np.float32)
    for _ in range(5):
        env.step(keep)
    assert data.body(body).xpos[2] == pytest.approx(height, abs=5e-4)
    for _ in range(8):
        env.step(-keep)
    assert data.body(body).xpos[2] < height - 0.03
    env.close()


def test_lanes_are_independent(env):
    """A lane gives the same bits alone and among others that do something else."""
    lanes = make_environments(env.task, 3)
    rng = np.random.default_rng(0)
    actions = rng.uniform(-0.5, 0.5, (6, 3, 7)).astype(np.float32)
    alone = [env.reset(11), *(env.step(action) for action in actions[:, 1])]
    steps = [[lane.reset(seed) for lane, seed in zip(lanes, (10, 11, 12), strict=True)]]
    for row in actions:
        steps.append([lane.step(action) for lane, action in zip(lanes, row, strict=True)])
    assert all(same(a.observation, row[1].observation) for a, row in zip(alone, steps, strict=True))
    lanes[0].close()
    lanes[1].reset(0)  # the shared renderer outlives the first lane
    for lane in lanes:
        lane.close()


def test_cameras_see_something(env):
    observation = env.reset(0).observation
    for image in observation.images.values():
        assert image.std() > 10
    assert observation.stamp_ns["wrist"] == 0
    stepped = env.step(np.zeros(7, np.float32)).observation
    assert stepped.stamp_ns["proprio"] == 50_000_000


@pytest.mark.parametrize("quality", ["fast", "visual"])
def test_picture(quality):
    env = make_environments("peg_insertion", 1, quality=quality)[0]
    before = env.reset(0).observation
    picture = env.render(120, 160)
    assert picture.shape == (120, 160, 3)
    assert picture.dtype == np.uint8
    assert picture.std() > 10
    assert same(before, env.reset(0).observation)
    with pytest.raises(ConfigError):
        env.render(0, 100)
    env.close()


def test_another_thread_is_refused(env):
    env.reset(0)
    caught = []

    def intrude():
        try:
            env.step(np.zeros(7, np.float32))
        except PLDError as error:
            caught.append(str(error))

    thread = threading.Thread(target=intrude)
    thread.start()
    thread.join()
    assert len(caught) == 1
    assert "thread" in caught[0]


def test_bad_requests():
    with pytest.raises(UnknownNameError, match="peg_insertion"):
        make_environments("peg_insertoin", 1)
    with pytest.raises(UnknownNameError):
        make_environments("peg_insertion", 1, quality="pretty")
    with pytest.raises(ConfigError):
        make_environments("peg_insertion", 0)
    env = make_environments("peg_insertion", 1)[0]
    with pytest.raises(ContractError):
        env.reset(-1)
    env.close()
    with pytest.raises(ContractError, match="closed"):
        env.reset(0)
