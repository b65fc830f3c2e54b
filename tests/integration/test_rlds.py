"""RLDS export, read back by tensorflow-datasets; skipped where it is not installed."""

from __future__ import annotations

import dataclasses
import sys

import numpy as np
import pytest
from test_episode_store import make_episode

from pld_core.data import rlds
from pld_core.errors import ConfigError, ContractError


def test_without_tensorflow_it_says_what_to_install(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "tensorflow_datasets", None)
    with pytest.raises(ConfigError, match="pip install tensorflow tensorflow-datasets"):
        rlds.write_rlds(tmp_path, [(make_episode(0), {})])


@pytest.mark.filterwarnings("default")
def test_what_goes_out_can_be_read(tmp_path):
    tfds = pytest.importorskip("tensorflow_datasets")
    episodes = [make_episode(0, ticks=4), dataclasses.replace(make_episode(1, ticks=6, success=False), instruction="")]
    folder = rlds.write_rlds(tmp_path, ((episode, {}) for episode in episodes))
    found = list(tfds.builder_from_directory(str(folder)).as_dataset(split="train"))
    found.sort(key=lambda example: int(example["episode_metadata"]["seed"]))
    assert len(found) == 2
    for given, example in zip(episodes, found, strict=True):
        steps = list(tfds.as_numpy(example["steps"]))
        for name in ("action", "residual", "reward", "source"):
            np.testing.assert_array_equal(np.stack([s[name] for s in steps]), getattr(given, name))
        np.testing.assert_array_equal(np.stack([s["base_action"] for s in steps]), given.base_action[:-1])
        np.testing.assert_array_equal(np.stack([s["observation"]["state"] for s in steps]), given.proprio[:-1])
        wrist = np.stack([s["observation"]["wrist"] for s in steps])
        np.testing.assert_array_equal(wrist, given.images["wrist"][:-1])
        assert [bool(s["is_last"]) for s in steps] == [False] * (len(given) - 1) + [True]
        assert [bool(s["is_terminal"]) for s in steps][-1] == given.terminated
        assert steps[0]["language_instruction"].decode() == (given.instruction or given.spec.task)
        assert float(example["episode_metadata"]["xi"]) == np.float32(given.spec.xi)


@pytest.mark.filterwarnings("default")
def test_unequal_episodes_leave_nothing_behind(tmp_path):
    pytest.importorskip("tensorflow_datasets")
    with pytest.raises(ContractError, match="seed 1"):
        rlds.write_rlds(tmp_path, ((e, {}) for e in (make_episode(0), dataclasses.replace(make_episode(1), images={}))))
    assert not list(tmp_path.rglob("dataset_info.json"))
