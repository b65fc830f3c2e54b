"""The adapter for Octo: against a checkpoint of its package where that is installed (PLD_OCTO_CHECKPOINT names one),
and against ``octo_stand_in`` where it is not."""

from __future__ import annotations

import importlib.util
import os
import sys
from pathlib import Path

import numpy as np
import octo_stand_in
import pytest

from pld_core import bring
from pld_core.errors import CheckpointError, ConfigError, ContractError, UnknownNameError
from pld_core.interfaces import BasePolicy, SamplingPolicy, TrainableVLA
from pld_core.types import Observation

REAL = importlib.util.find_spec("octo") is not None
stand_in = pytest.mark.skipif(REAL, reason="octo itself is installed; the stand-in is for machines without it")

MAPPING = """
proprio_dim: 5
state: [0, 1, 4]
cameras:
  - {camera: front, height: 48, width: 64}
  - {camera: hand, height: 16, width: 16, slot: wrist}
action: {gripper_open: 1.0, gripper_closed: 0.0}
horizon: 3
"""


@pytest.fixture
def folder(tmp_path, monkeypatch) -> Path:
    octo_stand_in.install(monkeypatch)
    made = octo_stand_in.write_checkpoint(tmp_path / "octo")
    (made / "pld.yaml").write_text(MAPPING)
    return made


def seen(seed: int, instruction: str = "stack the blocks") -> Observation:
    rng = np.random.default_rng(seed)
    images = {
        "front": rng.integers(0, 255, (48, 64, 3), dtype=np.uint8),
        "hand": rng.integers(0, 255, (16, 16, 3), dtype=np.uint8),
    }
    return Observation(images, rng.normal(size=5).astype(np.float32), instruction, {"front": 7})


@pytest.mark.skipif(not (REAL and os.environ.get("PLD_OCTO_CHECKPOINT")), reason="needs octo and PLD_OCTO_CHECKPOINT")
def test_octo_itself_answers_alike_in_any_company():
    policy = bring.base_policy(f"octo:{os.environ['PLD_OCTO_CHECKPOINT']}")
    cameras = {c.camera: (c.height, c.width, 3) for c in policy.mapping.cameras}  # type: ignore[attr-defined]
    size = policy.mapping.proprio_dim  # type: ignore[attr-defined]

    def observation(seed: int) -> Observation:
        rng = np.random.default_rng(seed)
        images = {name: rng.integers(0, 255, shape, dtype=np.uint8) for name, shape in cameras.items()}
        return Observation(images, rng.normal(size=size).astype(np.float32), "stack the blocks")

    one, two = policy.infer([observation(0), observation(1)])
    again = policy.infer([observation(1), observation(0)])
    np.testing.assert_array_equal(again[1].actions, one.actions)
    assert not np.array_equal(one.actions, two.actions)


@stand_in
def test_octo_is_a_base_policy_whose_answers_depend_on_what_it_sees_alone(folder):
    policy = bring.base_policy(f"octo:{folder}?unnorm_key=bridge")
    assert isinstance(policy, BasePolicy)
    assert not isinstance(policy, TrainableVLA)
    one, two = policy.infer([seen(0), seen(1)])
    (alone,) = policy.infer([seen(0)])
    np.testing.assert_array_equal(alone.actions, one.actions)
    assert not np.array_equal(one.actions, two.actions)
    assert one.actions.shape == (3, 7)
    assert one.actions.dtype == np.float32
    assert (one.stamp_ns, one.policy_version) == (7, policy.version)
    assert one.actions[:, :6].max() <= 0.5  # the noise of the stand-in, 0 to 1, times std
    assert one.actions[:, 6].min() < 0  # the gripper is not masked: 0 to 1 is -1 to 1 here


@stand_in
def test_octo_draws_by_the_seed(folder):
    policy = bring.base_policy(f"octo:{folder}?unnorm_key=bridge")
    assert isinstance(policy, SamplingPolicy)
    (answer,) = policy.infer([seen(0)])
    drawn, again, other = (policy.sample(seen(0), 3, seed) for seed in (1, 1, 2))
    for one, same, apart in zip(drawn, again, other, strict=True):
        np.testing.assert_array_equal(one.actions, same.actions)
        assert not np.array_equal(one.actions, apart.actions)
        assert (one.actions.shape, one.stamp_ns, one.policy_version) == ((3, 7), 7, policy.version)
    assert not np.array_equal(drawn[0].actions, drawn[1].actions)
    np.testing.assert_array_equal(policy.infer([seen(0)])[0].actions, answer.actions)


@stand_in
def test_octo_sees_one_observation_at_the_end_of_a_padded_window(folder):
    policy = bring.base_policy(f"octo:{folder}?unnorm_key=bridge")
    observation = seen(0)
    policy.infer([observation])
    asked = policy.model.asked[-1]  # type: ignore[attr-defined]
    inputs = asked["observations"]
    assert asked["tasks"]["language_instruction"] == ["stack the blocks"]
    assert inputs["image_primary"].shape == (1, 2, 32, 32, 3)
    np.testing.assert_array_equal(inputs["image_wrist"][0, -1], observation.images["hand"])
    np.testing.assert_array_equal(inputs["timestep_pad_mask"], [[False, True]])
    assert all(mask.all() for mask in inputs["pad_mask_dict"].values())
    state = observation.proprio[[0, 1, 4]]
    np.testing.assert_allclose(inputs["proprio"][0, -1], [*((state[:2] - 1) / 2), state[2]], rtol=1e-5)


@stand_in
def test_a_camera_that_the_robot_lacks_is_masked(folder):
    (folder / "pld.yaml").write_text(MAPPING.replace("  - {camera: hand, height: 16, width: 16, slot: wrist}\n", ""))
    policy = bring.base_policy(f"octo:{folder}?unnorm_key=bridge")
    inputs = policy.inputs(seen(0))  # type: ignore[attr-defined]
    assert not inputs["image_wrist"].any()
    assert not inputs["pad_mask_dict"]["image_wrist"].any()
    assert inputs["pad_mask_dict"]["image_primary"].all()


@stand_in
def test_bounds_undo_what_bounds_did(folder):
    policy = bring.base_policy(f"octo:{folder}?unnorm_key=bridge&normalization=bounds")
    stats = policy.statistics["action"]  # type: ignore[attr-defined]
    for normalised, value in ((-1, -1), (1, 3)):  # p01 and p99
        np.testing.assert_allclose(normalised * stats["std"] + stats["mean"], value)


@stand_in
@pytest.mark.parametrize(
    ("change", "query", "error", "words"),
    [
        ({}, "", UnknownNameError, "unnorm_key"),
        ({}, "?unnorm_key=bridg", UnknownNameError, "bridge"),
        ({}, "?device=cpu", UnknownNameError, "device"),
        ({"slot: wrist": "slot: secondary"}, "?unnorm_key=bridge", UnknownNameError, "primary"),
        ({"slot: wrist": "slot: primary"}, "?unnorm_key=bridge", ConfigError, "share one"),
        ({"horizon: 3": "horizon: 5"}, "?unnorm_key=bridge", ConfigError, "predicts 4 of 7"),
    ],
)
def test_what_does_not_fit_is_said(folder, change, query, error, words):
    text = MAPPING
    for old, new in change.items():
        text = text.replace(old, new)
    (folder / "pld.yaml").write_text(text)
    with pytest.raises(error, match=words):
        bring.base_policy(f"octo:{folder}{query}")


@stand_in
def test_a_broken_checkpoint_and_a_wrong_state_are_named(folder):
    (folder / "pld.yaml").write_text(MAPPING.replace("state: [0, 1, 4]", "state: [0]"))
    with pytest.raises(ContractError, match=r"has 3 entries, pld\.yaml gives 1"):
        bring.base_policy(f"octo:{folder}?unnorm_key=bridge").infer([seen(0)])
    (folder / "config.json").unlink()
    with pytest.raises(CheckpointError, match="cannot be loaded as Octo"):
        bring.base_policy(f"octo:{folder}")


def test_without_octo_one_line_says_how_it_is_used(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "octo", None)
    with pytest.raises(ConfigError, match=r"environment of its own: docs/policies.md .* --policy ws://host:port"):
        bring.base_policy(f"octo:{tmp_path}")
