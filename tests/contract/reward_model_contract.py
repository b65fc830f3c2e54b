"""What every ``RewardModel`` has to keep. Subclass the mixin, give it a model and steps."""

from __future__ import annotations

import copy
import dataclasses
import math
from typing import Any

import numpy as np
import pytest

from pld_core.types import TimeStep


class RewardModelContract:
    """Override ``make_reward``, ``failure`` and ``success`` (steps that the model should tell apart).

    ``ticks_to_success``: how many looks at ``success`` the model needs. ``sees_for_itself``: whether it
    judges without the environment's own word.
    """

    ticks_to_success = 1
    sees_for_itself = True

    def make_reward(self) -> Any:
        raise NotImplementedError

    def failure(self) -> TimeStep:
        raise NotImplementedError

    def success(self) -> TimeStep:
        raise NotImplementedError

    @pytest.fixture
    def reward(self) -> Any:
        model = self.make_reward()
        model.reset()
        return model

    def succeed(self, reward: Any) -> tuple[float, bool]:
        outcomes = [reward.score(self.success()) for _ in range(self.ticks_to_success)]
        assert [success for _, success in outcomes[:-1]] == [False] * (self.ticks_to_success - 1)
        return outcomes[-1]

    def test_types(self, reward: Any) -> None:
        for step in (self.failure(), self.success()):
            value, success = reward.score(step)
            assert isinstance(value, float)
            assert isinstance(success, bool)
            assert math.isfinite(value)

    def test_failure_earns_nothing(self, reward: Any) -> None:
        assert [reward.score(self.failure()) for _ in range(5)] == [(0.0, False)] * 5

    def test_success_earns_one(self, reward: Any) -> None:
        assert self.succeed(reward) == (1.0, True)

    def test_reset_forgets(self, reward: Any) -> None:
        self.succeed(reward)
        reward.reset()
        assert reward.score(self.failure()) == (0.0, False)
        assert self.succeed(reward) == (1.0, True)

    def test_deterministic(self, reward: Any) -> None:
        steps = [self.failure(), self.success(), self.success(), self.failure(), self.success()]
        first = [reward.score(step) for step in steps]
        reward.reset()
        assert [reward.score(step) for step in steps] == first

    def test_copies_do_not_share_an_episode(self, reward: Any) -> None:
        other = copy.deepcopy(reward)
        self.succeed(reward)
        assert other.score(self.failure()) == (0.0, False)
        assert self.succeed(other) == (1.0, True)

    def test_does_not_need_the_environments_word(self, reward: Any) -> None:
        """Nor believes it: what the environment knows must not leak into a learned reward."""
        assert getattr(reward, "sees_for_itself", False) == self.sees_for_itself
        if not self.sees_for_itself:
            pytest.skip("this reward is the environment's word")
        claimed = dataclasses.replace(self.failure(), success=True, terminated=True, reward=1.0)
        assert [reward.score(claimed) for _ in range(5)] == [(0.0, False)] * 5

    def test_inputs_stay_as_they_are(self, reward: Any) -> None:
        step = self.success()
        before = copy.deepcopy(step)
        reward.score(step)
        np.testing.assert_array_equal(step.observation.proprio, before.observation.proprio)
        for name, image in before.observation.images.items():
            np.testing.assert_array_equal(step.observation.images[name], image)
