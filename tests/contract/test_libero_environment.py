"""LIBERO's tasks against the environment contract, and against the package that they come from."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("libero", reason="needs the extra 'libero'")

from environment_contract import EnvironmentContract, same

from pld_core.cli.bench import benchmarks_folder
from pld_core.errors import ContractError
from pld_core.interfaces import ConcurrentEnvironment
from pld_core.rewards import binary
from pld_core.stages.runner import LocalRunner
from pld_core.types import EpisodeSpec
from pld_core.vla.callable_policy import CallablePolicy
from pld_sim.libero import make_environments
from pld_sim.libero.pictures import shrunk

SHORT = 20  # ticks; the suites' own limits would take minutes
SEED = 7
TICKS = 40


@pytest.fixture(scope="module")
def pair():
    """Two lanes of one task; starting a process takes some seconds, so all tests share them."""
    made = make_environments("libero_object/0", 2)
    for environment in made:
        environment.max_steps = SHORT
    yield made
    for environment in made:
        environment.close()


@pytest.fixture(scope="module")
def spatial():
    (environment,) = make_environments("libero_spatial/0", image_size=128)
    yield environment
    environment.close()


def big_actions() -> np.ndarray:
    """Wide motions that end on the table, float64 [TICKS, 7]."""
    actions = np.repeat(np.random.default_rng(0).uniform(-1, 1, (TICKS // 4, 7)), 4, axis=0)
    actions[:, 2] -= 0.3
    return actions.clip(-1, 1)


@pytest.fixture(scope="module")
def solution(pair):
    """The expert's actions from SEED to success, float64 [T, 7]."""
    environment, actions = pair[0], []
    environment.renders_cameras, environment.max_steps = False, 220
    step, oracle = environment.reset(SEED), environment.oracle()
    oracle.reset()
    while not step.last:
        actions.append(oracle.act().astype(np.float64))
        step = environment.step(actions[-1])
    environment.renders_cameras, environment.max_steps = True, SHORT
    assert step.terminated
    return np.stack(actions)


@pytest.fixture(scope="module")
def package(tmp_path_factory, solution):
    """{run: what the package itself makes of SEED and some actions}, for task 0 of two suites."""
    folder, program = tmp_path_factory.mktemp("package"), Path(__file__).with_name("libero_package.py")
    runs = {
        "libero_object": ("libero_object", big_actions()),
        "libero_spatial": ("libero_spatial", big_actions()),
        "without reflections": ("libero_spatial", big_actions()[:4], "plain"),
        "solved": ("libero_object", solution, "blind"),
    }
    running = []
    for name, (suite, actions, *options) in runs.items():
        np.save(folder / f"{name}.npy", actions * [1, 1, 1, 1, 1, 1, -1])
        files = folder / f"{name}.npy", folder / f"{name}.npz"
        command = [sys.executable, program, suite, "0", str(SEED), *files, *options]
        running.append(subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL))
    assert [process.wait(timeout=300) for process in running] == [0] * len(runs)
    return {name: np.load(folder / f"{name}.npz") for name in runs}


class TestLiberoObject(EnvironmentContract):
    rollout_steps = 8

    def make_environment(self):
        (environment,) = make_environments("libero_object/0")
        environment.max_steps = SHORT
        return environment

    @pytest.fixture
    def env(self, pair):
        return pair[0]

    def test_a_fresh_environment_gives_the_same_trajectory(self, env, pair):
        actions = self.actions(env, 5)
        first, second = self.rollout(env, 7, actions), self.rollout(pair[1], 7, actions)
        assert all(same(a.observation, b.observation) for a, b in zip(first, second, strict=True))

    def test_step_before_reset_and_after_the_end_is_refused(self, env):
        idle = np.zeros(7, np.float32)
        self.finish(env)
        with pytest.raises(ContractError, match="reset"):
            env.step(idle)
        fresh = self.make_environment()
        with pytest.raises(ContractError, match="reset"):
            fresh.step(idle)
        fresh.close()
        fresh.close()
        with pytest.raises(ContractError, match="closed"):
            fresh.reset(0)

    test_close_twice = None  # part of the test above


@pytest.mark.parametrize("suite", ["libero_object", "libero_spatial"])
def test_the_package_says_the_same_to_the_last_bit(package, pair, spatial, suite):
    environment = pair[0] if suite == "libero_object" else spatial
    environment.reset(3)
    environment.step(big_actions()[0])  # something to forget
    environment.max_steps = 220
    expected = package[suite]
    steps = [environment.reset(SEED), *(environment.step(action) for action in big_actions())]
    environment.max_steps = SHORT
    assert np.array_equal(np.stack([s.observation.proprio for s in steps]), expected["proprio"])
    assert [s.success for s in steps[1:]] == expected["success"].tolist()
    for name in ("agentview", "wrist"):
        size = environment.observation_spec.cameras[name][0]
        for step, image in zip(steps, expected[name], strict=True):
            assert np.array_equal(step.observation.images[name], shrunk(image, size))


def test_success_is_what_the_package_says(package, pair, solution):
    environment, expected = pair[0], package["solved"]
    environment.renders_cameras, environment.max_steps = False, 220
    try:
        steps = [environment.reset(SEED), *(environment.step(action) for action in solution)]
    finally:
        environment.renders_cameras, environment.max_steps = True, SHORT
    assert np.array_equal(np.stack([s.observation.proprio for s in steps]), expected["proprio"])
    verdicts = [step.success for step in steps[1:]]
    assert verdicts == expected["success"].tolist() == [False] * (len(solution) - 1) + [True]
    assert [step.reward for step in steps[1:]] == [float(success) for success in verdicts]
    assert steps[-1].terminated


def test_without_reflections_pictures_are_the_packages_without_them(package, spatial):
    (environment,) = make_environments("libero_spatial/0", image_size=128, reflections=False)
    try:
        steps = [environment.reset(SEED), *(environment.step(action) for action in big_actions()[:4])]
    finally:
        environment.close()
    whole = spatial.reset(SEED).observation
    for name in ("agentview", "wrist"):
        for step, image in zip(steps, package["without reflections"][name], strict=True):
            assert np.array_equal(step.observation.images[name], image)
        apart = np.abs(whole.images[name].astype(int) - steps[0].observation.images[name]).mean()
        print(f"measured: without reflections {name}: {apart:.2f} of 255 apart in the mean")
    assert 0 < np.abs(whole.images["agentview"].astype(int) - steps[0].observation.images["agentview"]).mean() < 3


def test_pictures_are_upright_and_not_blank(spatial):
    images = spatial.reset(0).observation.images
    agentview, wrist = (images[name].astype(int) for name in ("agentview", "wrist"))
    assert min(agentview.std(), wrist.std()) > 10
    warmth = (agentview[..., 0] - agentview[..., 2]).mean(1)  # the wall is grey, the table of light wood
    assert warmth[-20:].mean() > warmth[:20].mean() + 10
    assert wrist[-15:].mean() < 80 < wrist[20:60].mean()  # the gripper is dark and at the lower edge


def test_the_arm_goes_where_the_action_says(pair):
    environment = pair[0]
    assert isinstance(environment, ConcurrentEnvironment)
    before = environment.reset(0).observation.proprio
    for _ in range(10):
        after = environment.step(np.array([0, 0.5, 0.2, 0, 0, 0, -1], np.float32)).observation.proprio
    assert 0.03 < after[1] - before[1] < 0.25  # the controller is soft: it lags far behind the sum of its commands
    assert 0.01 < after[2] - before[2] < 0.1
    assert before[6] - before[7] > 0.06  # opened while settling
    assert after[6] - after[7] < 0.02
    assert environment.hold_action().tolist() == [0, 0, 0, 0, 0, 0, -1]
    names, joints = environment.joint_state()
    position, quaternion = environment.tool_pose()
    assert joints.shape == (len(names),) == (9,)
    assert np.allclose(position, after[:3], atol=1e-6)
    assert np.linalg.norm(quaternion) == pytest.approx(1.0)
    assert quaternion[1] > 0.9  # (w, x, y, z) of a tool that points down


@pytest.mark.parametrize("every", [0, 3])
def test_pictures_seldom_or_never_change_nothing_else(pair, every):
    """every: ticks per picture; 0: no pictures at all."""
    plain, seldom = pair
    seldom.renders_cameras, seldom.image_every = every > 0, max(every, 1)
    actions = np.random.default_rng(0).uniform(-0.5, 0.5, (7, 7)).astype(np.float32)
    try:
        expected = [plain.reset(2), *map(plain.step, actions)]
        seen = [seldom.reset(2), *map(seldom.step, actions)]
    finally:
        seldom.renders_cameras, seldom.image_every = True, 1
    for tick, (a, b) in enumerate(zip(expected, seen, strict=True)):
        assert np.array_equal(a.observation.proprio, b.observation.proprio)
        taken = expected[tick - tick % every].observation if every else None
        assert set(b.observation.images) == (set(taken.images) if taken else set())
        for name, image in b.observation.images.items():
            assert np.array_equal(image, taken.images[name])
            assert b.observation.stamp_ns[name] == taken.stamp_ns[name]


def test_simplified_pictures_look_the_same_and_change_nothing_else(pair):
    plain, simplified = pair
    simplified.simplified = True
    actions = np.random.default_rng(0).uniform(-0.5, 0.5, (9, 7)).astype(np.float32)
    try:
        expected = [plain.reset(2), *map(plain.step, actions)]
        seen = [simplified.reset(2), *map(simplified.step, actions)]
    finally:
        simplified.simplified = False
    for a, b in zip(expected, seen, strict=True):
        assert np.array_equal(a.observation.proprio, b.observation.proprio)
        for name, image in a.observation.images.items():
            apart = np.abs(image.astype(int) - b.observation.images[name])
            print(f"measured: simplified {name}: {apart.mean():.2f} of 255 apart in the mean")
            assert 0 < apart.mean() < 3  # of 255
            assert (apart.max(-1) > 32).mean() < 0.05  # a change of one pixel along some edges
    official = simplified.reset(2).observation
    assert all(np.array_equal(image, official.images[name]) for name, image in expected[0].observation.images.items())


def test_a_picture_for_people_is_whole_and_leaves_the_simplified_ones_as_they_are(pair):
    plain, simplified = pair
    simplified.simplified = True
    try:
        plain.reset(2)
        before = simplified.reset(2).observation
        assert np.array_equal(plain.render(600, 800), simplified.render(600, 800))  # larger than any before
        after = simplified.reset(2).observation
    finally:
        simplified.simplified = False
    assert all(np.array_equal(image, after.images[name]) for name, image in before.images.items())


def test_another_environment_draws_the_same_pictures(pair):
    one, other = pair
    other.reset(9)
    shown, undisturbed = [one.reset(4)], [one.step(one.hold_action()) for _ in range(2)]
    one.reset(4)
    for again in undisturbed:
        drawn = other.picture_of(one.snapshot())
        assert all(np.array_equal(drawn[name], image) for name, image in shown[-1].observation.images.items())
        one.picture_of(other.snapshot())
        shown.append(one.step(one.hold_action()))
        assert same(shown[-1].observation, again.observation)
    with pytest.raises(ContractError, match="shape"):
        one.picture_of(one.snapshot()[1:])
    assert one.render(120, 160).shape == (120, 160, 3)


def test_a_lost_process_voids_its_episode_and_no_other(pair):
    killed = []

    def act(observation):
        if not killed and observation.stamp_ns["proprio"] == 150_000_000:
            os.kill(pair[1]._worker.pid, signal.SIGKILL)
            killed.append(True)
        return np.array([0, 0.2, 0, 0, 0, 0, 1])

    for environment in pair:
        environment.max_steps = 6
    specs = [EpisodeSpec("libero_object/0", seed) for seed in range(4)]
    spoiled = list(LocalRunner(pair, CallablePolicy(act), binary).run(specs))
    sound = list(LocalRunner(pair, CallablePolicy(act), binary).run(specs))
    assert [len(episode) for episode in sound] == [6] * 4
    assert [episode.voided for episode in spoiled] == [False, True, False, False]
    assert [episode.voided for episode in sound] == [False] * 4
    assert len(spoiled[1]) >= 3  # what came before is kept
    for a, b in zip(spoiled, sound, strict=True):
        ticks = len(a) if a.voided else len(b)
        assert np.array_equal(a.proprio[:ticks], b.proprio[:ticks])
        assert np.array_equal(a.images["wrist"][:ticks], b.images["wrist"][:ticks])


@pytest.mark.slow
def test_the_speed_is_measured_by_its_benchmark():
    """``pld bench libero-speed`` measures each part in a process of its own."""
    command = [sys.executable, str(benchmarks_folder() / "libero_speed.py"), "--quick", "--part", "training"]
    line = subprocess.run(command, check=True, capture_output=True, text=True).stdout.splitlines()[-1]
    assert json.loads(line)["steps_per_s"] > 0
