"""The toy and adapted Gymnasium environments pass the same suite as the tabletop tasks."""

from __future__ import annotations

import gymnasium
from environment_contract import EnvironmentContract

from pld_core.types import ActionSpec
from pld_sim.gymnasium_adapter import GymnasiumEnvironment
from pld_sim.point_reach import PointReach


class TestPointReach(EnvironmentContract):
    def make_environment(self) -> PointReach:
        return PointReach()


class TestPointReachWithCamera(EnvironmentContract):
    def make_environment(self) -> PointReach:
        return PointReach(camera=True)


def test_only_arms_have_a_gripper():
    assert PointReach().action_spec.gripper is None
    cart = gymnasium.make("CartPole-v1", disable_env_checker=True)
    cart.action_space = gymnasium.spaces.Box(-1, 1, (7,))  # as many entries as an arm has
    assert GymnasiumEnvironment(cart).action_spec.gripper is None
    assert ActionSpec().gripper == 6


class TestGymnasium(EnvironmentContract):
    def make_environment(self) -> GymnasiumEnvironment:
        return GymnasiumEnvironment(gymnasium.make("Pendulum-v1", disable_env_checker=True))
