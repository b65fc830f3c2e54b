"""What every ``BasePolicy`` has to keep. Subclass the mixin, give it a policy and observations."""

from __future__ import annotations

import dataclasses
from typing import Any

import numpy as np
import pytest

from pld_core.errors import ContractError
from pld_core.interfaces import BasePolicy
from pld_core.types import Observation


class BasePolicyContract:
    """Override ``make_policy`` and ``make_observation``; where a policy can be saved, ``reload`` too."""

    action_dim = 7

    def make_policy(self) -> BasePolicy:
        raise NotImplementedError

    def make_observation(self, index: int) -> Observation:
        raise NotImplementedError

    def reload(self, policy: Any, folder: Any) -> Any:
        """The policy after a save and a load, or None where there is no such thing."""
        return None

    @pytest.fixture
    def policy(self) -> BasePolicy:
        return self.make_policy()

    @pytest.fixture
    def observations(self) -> list[Observation]:
        return [self.make_observation(index) for index in range(7)]

    def test_is_a_base_policy(self, policy: BasePolicy) -> None:
        assert isinstance(policy, BasePolicy)
        assert isinstance(policy.version, str)
        assert policy.version

    def test_shapes_types_and_range(self, policy: BasePolicy, observations: list[Observation]) -> None:
        chunks = policy.infer(observations)
        assert len(chunks) == len(observations)
        for chunk in chunks:
            assert chunk.actions.shape == (policy.action_horizon, self.action_dim)
            assert chunk.actions.dtype == np.float32
            assert chunk.features.dtype == np.float32
            assert chunk.features.shape == (policy.feature_dim,)
            assert np.isfinite(chunk.actions).all()
            assert np.isfinite(chunk.features).all()
            assert np.abs(chunk.actions).max() <= 1.0
            assert chunk.policy_version == policy.version

    def test_no_observations_no_chunks(self, policy: BasePolicy) -> None:
        assert policy.infer([]) == []

    def test_deterministic(self, policy: BasePolicy, observations: list[Observation]) -> None:
        for first, second in zip(policy.infer(observations), policy.infer(observations), strict=True):
            np.testing.assert_array_equal(first.actions, second.actions)
            np.testing.assert_array_equal(first.features, second.features)

    @pytest.mark.parametrize("order", [[3], [3, 0], [5, 3, 1], [6, 5, 4, 3, 2, 1, 0]])
    def test_companions_do_not_matter(
        self, policy: BasePolicy, observations: list[Observation], order: list[int]
    ) -> None:
        """Bit for bit, whatever else is in the batch and wherever an observation stands in it."""
        reference = policy.infer(observations)
        for index, chunk in zip(order, policy.infer([observations[i] for i in order]), strict=True):
            np.testing.assert_array_equal(chunk.actions, reference[index].actions)
            np.testing.assert_array_equal(chunk.features, reference[index].features)

    def test_inputs_stay_as_they_are(self, policy: BasePolicy, observations: list[Observation]) -> None:
        before = [({n: i.copy() for n, i in o.images.items()}, o.proprio.copy()) for o in observations]
        policy.infer(observations)
        for (images, proprio), observation in zip(before, observations, strict=True):
            np.testing.assert_array_equal(proprio, observation.proprio)
            for name, image in images.items():
                np.testing.assert_array_equal(image, observation.images[name])

    def test_wrong_proprio_size(self, policy: BasePolicy, observations: list[Observation]) -> None:
        wrong = dataclasses.replace(observations[0], proprio=np.zeros(len(observations[0].proprio) + 1, np.float32))
        with pytest.raises(ContractError, match="proprio"):
            policy.infer([observations[1], wrong])

    def test_missing_camera(self, policy: BasePolicy, observations: list[Observation]) -> None:
        if not observations[0].images:
            pytest.skip("this policy takes no images")
        name = sorted(observations[0].images)[0]
        images = {n: image for n, image in observations[0].images.items() if n != name}
        with pytest.raises(ContractError, match=name):
            policy.infer([dataclasses.replace(observations[0], images=images)])

    def test_wrong_image(self, policy: BasePolicy, observations: list[Observation]) -> None:
        if not observations[0].images:
            pytest.skip("this policy takes no images")
        for change in (lambda image: image[:-1], lambda image: image.astype(np.float32)):
            images = {name: change(image) for name, image in observations[0].images.items()}
            with pytest.raises(ContractError, match=r"uint8"):
                policy.infer([dataclasses.replace(observations[0], images=images)])

    @pytest.mark.parametrize("value", [np.nan, np.inf])
    def test_not_finite(self, policy: BasePolicy, observations: list[Observation], value: float) -> None:
        proprio = observations[0].proprio.copy()
        proprio[0] = value
        with pytest.raises(ContractError, match="NaN or infinity"):
            policy.infer([dataclasses.replace(observations[0], proprio=proprio)])

    def test_survives_saving(self, policy: BasePolicy, observations: list[Observation], tmp_path: Any) -> None:
        again = self.reload(policy, tmp_path)
        if again is None:
            pytest.skip("this policy cannot be saved")
        assert again.version == policy.version
        for old, new in zip(policy.infer(observations), again.infer(observations), strict=True):
            np.testing.assert_array_equal(old.actions, new.actions)
            np.testing.assert_array_equal(old.features, new.features)
