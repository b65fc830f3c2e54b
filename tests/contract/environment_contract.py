"""What every environment must do, as a mixin.

Subclass ``EnvironmentContract`` as ``TestMine`` and let ``make_environment`` return yours.
"""

from __future__ import annotations

import numpy as np
import pytest

from pld_core.errors import ContractError
from pld_core.types import Observation, TimeStep


def same(first: Observation, second: Observation) -> bool:
    return np.array_equal(first.proprio, second.proprio) and all(
        np.array_equal(first.images[name], second.images[name]) for name in first.images
    )


class EnvironmentContract:
    """Set ``binary_reward`` or ``seeds_differ`` to False where a task legitimately deviates."""

    binary_reward = True
    seeds_differ = True
    rollout_steps = 12

    def make_environment(self):
        raise NotImplementedError

    @pytest.fixture
    def env(self):
        env = self.make_environment()
        yield env
        env.close()

    def actions(self, env, count: int, seed: int = 0) -> np.ndarray:
        """Gentle random actions, float32 [count, A]."""
        rng = np.random.default_rng(seed)
        return rng.uniform(-0.5, 0.5, (count, env.action_spec.dim)).astype(np.float32)

    def rollout(self, env, seed: int, actions: np.ndarray) -> list[TimeStep]:
        steps = [env.reset(seed)]
        for action in actions:
            if steps[-1].last:
                break
            steps.append(env.step(action))
        return steps

    def finish(self, env, seed: int = 0) -> TimeStep:
        step = env.reset(seed)
        idle = np.zeros(env.action_spec.dim, np.float32)
        while not step.last:
            step = env.step(idle)
        return step

    def test_observations_match_the_specification(self, env):
        for step in self.rollout(env, 0, self.actions(env, 3)):
            spec, seen = env.observation_spec, step.observation
            assert set(seen.images) == set(spec.cameras)
            for name, shape in spec.cameras.items():
                assert seen.images[name].shape == shape
                assert seen.images[name].dtype == np.uint8
            assert seen.proprio.shape == (spec.proprio_dim,)
            assert seen.proprio.dtype == np.float32
            assert np.isfinite(seen.proprio).all()
            assert seen.instruction == env.instruction

    def test_specification_is_complete(self, env):
        assert env.task
        assert isinstance(env.instruction, str)
        assert env.max_steps > 0
        assert env.action_spec.dim > 0
        names = env.observation_spec.proprio_names
        assert len(names) in (0, env.observation_spec.proprio_dim)
        assert len(set(names)) == len(names)

    def test_first_step_is_a_beginning(self, env):
        first = env.reset(0)
        assert not first.last
        assert not first.success
        assert first.reward == 0

    def test_same_seed_same_first_observation(self, env):
        first = env.reset(3).observation
        self.rollout(env, 4, self.actions(env, 3))
        assert same(first, env.reset(3).observation)

    def test_different_seeds_differ(self, env):
        if not self.seeds_differ:
            pytest.skip("one start only")
        assert not same(env.reset(0).observation, env.reset(1).observation)

    def test_trajectory_is_deterministic(self, env):
        actions = self.actions(env, self.rollout_steps)
        first = self.rollout(env, 5, actions)
        self.rollout(env, 6, self.actions(env, self.rollout_steps, seed=1))
        second = self.rollout(env, 5, actions)
        assert len(first) == len(second)
        for a, b in zip(first, second, strict=True):
            assert same(a.observation, b.observation)
            assert (a.reward, a.terminated, a.truncated) == (b.reward, b.terminated, b.truncated)

    def test_a_fresh_environment_gives_the_same_trajectory(self, env):
        actions = self.actions(env, 5)
        first = self.rollout(env, 7, actions)
        other = self.make_environment()
        try:
            second = self.rollout(other, 7, actions)
        finally:
            other.close()
        assert all(same(a.observation, b.observation) for a, b in zip(first, second, strict=True))

    def test_ends_by_max_steps_in_one_way(self, env):
        step, count = env.reset(0), 0
        idle = np.zeros(env.action_spec.dim, np.float32)
        while not step.last:
            step = env.step(idle)
            count += 1
            assert count <= env.max_steps
            assert np.isfinite(step.reward)
            if self.binary_reward:
                assert step.reward in (0.0, 1.0)
                assert (step.reward == 1.0) == step.success
        assert step.terminated != step.truncated
        if step.truncated:
            assert count == env.max_steps

    def test_step_before_reset_and_after_the_end_is_refused(self, env):
        idle = np.zeros(env.action_spec.dim, np.float32)
        with pytest.raises(ContractError, match="reset"):
            env.step(idle)
        self.finish(env)
        with pytest.raises(ContractError, match="reset"):
            env.step(idle)

    @pytest.mark.parametrize("fault", ["shape", "nan", "infinity", "range"])
    def test_bad_actions_are_refused_and_change_nothing(self, env, fault):
        dim = env.action_spec.dim
        bad = {
            "shape": np.zeros(dim + 1, np.float32),
            "nan": np.full(dim, np.nan, np.float32),
            "infinity": np.full(dim, np.inf, np.float32),
            "range": np.full(dim, 1.5, np.float32),
        }[fault]
        actions = self.actions(env, 2)
        expected = self.rollout(env, 2, actions)
        env.reset(2)
        env.step(actions[0])
        with pytest.raises(ContractError):
            env.step(bad)
        assert same(expected[-1].observation, env.step(actions[1]).observation)

    def test_rounding_outside_the_range_is_accepted(self, env):
        env.reset(0)
        env.step(np.full(env.action_spec.dim, 1.0 + 5e-7))

    def test_the_action_is_not_written_to(self, env):
        env.reset(0)
        action = self.actions(env, 1)[0]
        kept = action.copy()
        action.flags.writeable = False
        env.step(action)
        assert np.array_equal(action, kept)

    def test_observations_are_not_overwritten(self, env):
        steps = []
        copies = []
        for step in self.rollout(env, 1, self.actions(env, 3)):
            steps.append(step)
            images = {name: image.copy() for name, image in step.observation.images.items()}
            copies.append(Observation(images=images, proprio=step.observation.proprio.copy()))
        env.reset(2)
        assert all(same(step.observation, copy) for step, copy in zip(steps, copies, strict=True))

    def test_close_twice(self):
        env = self.make_environment()
        env.reset(0)
        env.close()
        env.close()
