"""The toy and adapted Gymnasium environments pass the same suite as the tabletop tasks."""

from __future__ import annotations

import gymnasium
from environment_contract import EnvironmentContract

from pld_sim.gymnasium_adapter import GymnasiumEnvironment
from pld_sim.point_reach import PointReach


class TestPointReach(EnvironmentContract):
    def make_environment(self) -> PointReach:
        return PointReach()


class TestPointReachWithCamera(EnvironmentContract):
    def make_environment(self) -> PointReach:
        return PointReach(camera=True)


class TestGymnasium(EnvironmentContract):
    def make_environment(self) -> GymnasiumEnvironment:
        return GymnasiumEnvironment(gymnasium.make("Pendulum-v1", disable_env_checker=True))
