"""VLAs in PyTorch keep the BasePolicy contract: pi0 and token VLMs, one observation a call and several."""

from __future__ import annotations

import functools
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest

pytest.importorskip("torch", reason="needs the extra 'torch'")
pytest.importorskip("transformers", reason="needs the extra 'torch'")

import torch_tools as tools

from pld_core import registry
from pld_core.errors import ContractError
from pld_core.interfaces import SamplingPolicy, TrainableVLA
from pld_core.types import Observation
from tests.contract.base_policy_contract import BasePolicyContract


@functools.cache
def _loaded(name: str, save: Any, options: str) -> Any:
    """Policies are immutable: one serves all tests."""
    with tempfile.TemporaryDirectory() as folder:
        return registry.load("policies", name)(f"{save(Path(folder))}{options}")


class TestPi0(BasePolicyContract):
    name = "pi0"
    save = staticmethod(tools.save_pi0)
    options = ""

    def make_policy(self) -> Any:
        return _loaded(self.name, self.save, self.options)

    def make_observation(self, index: int) -> Observation:
        return tools.observation(index)

    def reload(self, policy: Any, folder: Any) -> Any:
        policy.save(folder / "policy")
        return type(policy).load(folder / "policy")

    def test_is_trainable(self) -> None:
        assert isinstance(self.make_policy(), TrainableVLA)

    def test_samples_are_a_function_of_the_seed(self) -> None:
        policy, seen = self.make_policy(), self.make_observation(3)
        assert isinstance(policy, SamplingPolicy)
        answer = policy.infer([seen])[0]
        first, again, other = (policy.sample(seen, 4, seed) for seed in (5, 5, 6))
        drawn, same, apart = (np.stack([c.actions for c in chunks]) for chunks in (first, again, other))
        np.testing.assert_array_equal(drawn, same)
        rows = np.concatenate([drawn, apart]).reshape(8, -1)
        assert len(np.unique(rows, axis=0)) > 5  # of 8; most entries are clipped, so two may be equal
        assert drawn.shape == (4, policy.action_horizon, 7)
        assert (drawn.dtype, np.abs(drawn).max() <= 1.0) == (np.float32, True)
        assert (first[0].stamp_ns, first[0].policy_version) == (answer.stamp_ns, policy.version)
        np.testing.assert_array_equal(policy.infer([seen])[0].actions, answer.actions)
        assert policy.sample(seen, 0, 5) == []

    def test_what_does_not_fit_is_not_sampled(self) -> None:
        wrong = tools.dataclasses.replace(self.make_observation(0), proprio=np.zeros(2, np.float32))
        with pytest.raises(ContractError, match="proprio"):
            self.make_policy().sample(wrong, 2, 0)


class TestPi0InBlocks(TestPi0):
    options = "?batch=3"


class TestTokenVLM(TestPi0):
    """Of OpenVLA's shape: Llama behind a vision tower."""

    name = "token_vlm"
    save = staticmethod(tools.save_llava)


class TestTokenVLMInBlocks(TestPi0InBlocks):
    name = "token_vlm"
    save = staticmethod(tools.save_llava)


class TestTokenPaliGemma(TestTokenVLM):
    save = staticmethod(tools.save_paligemma)


@pytest.mark.parametrize(("name", "save"), [("pi0", tools.save_pi0), ("token_vlm", tools.save_llava)])
def test_version_changes_with_weights_and_mapping(name: str, save: Any, tmp_path: Path) -> None:
    make = registry.load("policies", name)
    mappings = [tools.ONE_CAMERA, tools.dataclasses.replace(tools.ONE_CAMERA, horizon=2)]
    folders = [save(tmp_path / f"{i}{seed}", mapping, seed) for i, mapping in enumerate(mappings) for seed in (0, 1)]
    assert len({make(str(folder)).version for folder in folders}) == 4
