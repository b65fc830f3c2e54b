"""CompactVLA keeps the BasePolicy contract, with both heads and without cameras."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from pld_core.interfaces import TrainableVLA
from pld_core.types import Observation, ObservationSpec
from pld_core.vla import CompactVLA, CompactVLAConfig
from tests.contract.base_policy_contract import BasePolicyContract

_SPEC = ObservationSpec({"wrist": (32, 32, 3), "front": (64, 48, 3)}, proprio_dim=9)


class TestFlow(BasePolicyContract):
    spec = _SPEC
    config = CompactVLAConfig(width=64, grounding_width=64)

    def make_policy(self) -> CompactVLA:
        return CompactVLA.create(self.spec, self.action_dim, self.config, seed=3)

    def make_observation(self, index: int) -> Observation:
        rng = np.random.default_rng(index)
        images = {n: rng.integers(0, 256, size, dtype=np.uint8) for n, size in self.spec.cameras.items()}
        proprio = rng.normal(size=self.spec.proprio_dim).astype(np.float32)
        return Observation(images, proprio, f"insert peg {index % 2}", {"proprio": index})

    def reload(self, policy: Any, folder: Any) -> Any:
        policy.save(folder / "policy.pld")
        return CompactVLA.load(folder / "policy.pld")

    def test_is_trainable(self) -> None:
        assert isinstance(self.make_policy(), TrainableVLA)

    def test_stamp_is_the_newest_of_the_observation(self) -> None:
        assert [chunk.stamp_ns for chunk in self.make_policy().infer([self.make_observation(5)])] == [5]


class TestTokens(TestFlow):
    config = CompactVLAConfig(head="tokens", token_width=32, grounding_width=64)


class TestDiffusion(TestFlow):
    config = CompactVLAConfig(head="diffusion", width=64, grounding_width=64)


class TestWithoutCameras(TestFlow):
    spec = ObservationSpec({}, proprio_dim=4)
    action_dim = 2


def test_version_changes_with_weights_and_configuration() -> None:
    versions = {
        CompactVLA.create(_SPEC, 7, CompactVLAConfig(width=32), seed=0).version,
        CompactVLA.create(_SPEC, 7, CompactVLAConfig(width=32), seed=1).version,
        CompactVLA.create(_SPEC, 7, CompactVLAConfig(width=32, flow_steps=9), seed=0).version,
    }
    assert len(versions) == 3


@pytest.mark.parametrize("head", ["flow", "tokens", "diffusion"])
def test_default_checkpoint_is_small(head: str, tmp_path: Any) -> None:
    spec = ObservationSpec({"wrist": (64, 64, 3), "front": (64, 64, 3)}, proprio_dim=13)
    policy = CompactVLA.create(spec, 7, CompactVLAConfig(head=head))
    policy.save(tmp_path / "policy.pld")
    assert (tmp_path / "policy.pld").stat().st_size < 2_000_000
