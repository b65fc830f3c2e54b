"""VLAs in PyTorch keep the BasePolicy contract: pi0 and token VLMs, one observation a call and several."""

from __future__ import annotations

import functools
import tempfile
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("torch", reason="needs the extra 'torch'")
pytest.importorskip("transformers", reason="needs the extra 'torch'")

import torch_tools as tools

from pld_core import registry
from pld_core.interfaces import TrainableVLA
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
