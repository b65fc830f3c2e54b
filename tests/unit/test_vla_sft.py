"""Fine-tuning of CompactVLA: data, modes, resuming, checkpoints, grounding."""

from __future__ import annotations

import dataclasses
import errno
import os
from pathlib import Path

import jax
import numpy as np
import pytest

from pld_core.errors import CheckpointError, ConfigError, ContractError, NonFiniteError, StorageError
from pld_core.types import Episode, EpisodeSpec, Observation, ObservationSpec
from pld_core.vla import CompactVLA, CompactVLAConfig, GroundingFrames
from pld_core.vla.sft import BalancedRows, action_windows, make_dataset

_SPEC = ObservationSpec({"top": (16, 16, 3)}, proprio_dim=3)
_CONFIG = CompactVLAConfig(horizon=2, width=48, grounding_width=32, channels=8, stem=16, keypoints=4, flow_steps=4)
_LEFT, _RIGHT = "go left", "go right"


def _episode(index: int, instruction: str, ticks: int = 6) -> Episode:
    """Random frames; the action depends on the proprioception and on the instruction."""
    rng = np.random.default_rng(index)
    proprio = rng.uniform(-1, 1, (ticks + 1, 3)).astype(np.float32)
    action = np.zeros((ticks, 7), np.float32)
    action[:, 0] = 0.6 if instruction == _RIGHT else -0.6
    action[:, 1] = 0.5 * proprio[:-1, 0]
    action[:, 6] = 1.0
    return Episode(
        spec=EpisodeSpec("toy", index),
        instruction=instruction,
        proprio=proprio,
        state=np.zeros((ticks + 1, 0), np.float32),
        images={"top": rng.integers(0, 256, (ticks + 1, 16, 16, 3), dtype=np.uint8)},
        base_action=np.zeros((ticks + 1, 7), np.float32),
        residual=np.zeros((ticks, 7), np.float32),
        action=action,
        reward=np.zeros(ticks, np.float32),
        source=np.zeros(ticks, np.uint8),
        intervention=np.zeros(ticks, bool),
        terminated=True,
        truncated=False,
        success=True,
    )


def _observation(episode: Episode, tick: int = 0, instruction: str | None = None) -> Observation:
    return Observation({"top": episode.images["top"][tick]}, episode.proprio[tick], instruction or episode.instruction)


@pytest.fixture(scope="module")
def episodes() -> list[Episode]:
    return [_episode(i, _LEFT if i % 2 else _RIGHT) for i in range(6)]


@pytest.fixture(scope="module")
def policy() -> CompactVLA:
    return CompactVLA.create(_SPEC, 7, _CONFIG)


def test_windows_stand_still_after_the_end() -> None:
    actions = np.arange(21, dtype=np.float32).reshape(3, 7) / 21
    windows = action_windows(actions, 3, gripper=6)
    assert windows.shape == (3, 3, 7)
    np.testing.assert_array_equal(windows[0], actions)
    np.testing.assert_array_equal(windows[2, 1:, :6], 0.0)
    np.testing.assert_array_equal(windows[2, 1:, 6], actions[2, 6])
    np.testing.assert_array_equal(action_windows(actions, 3)[2], np.tile(actions[2], (3, 1)))  # no arm


def test_batches_are_pure_and_balanced_over_instructions() -> None:
    ids = np.array([0] * 95 + [1] * 5)
    rows = BalancedRows(ids)
    np.testing.assert_array_equal(rows.draw(64, 3, 17), BalancedRows(ids).draw(64, 3, 17))
    assert not np.array_equal(rows.draw(64, 3, 17), rows.draw(64, 3, 18))
    rows = np.concatenate([rows.draw(500, 0, step) for step in range(8)])
    assert abs(np.mean(ids[rows]) - 0.5) < 0.03
    assert set(rows) == set(range(100))


def test_dataset_drops_voided_episodes(policy: CompactVLA, episodes: list[Episode]) -> None:
    spoiled = dataclasses.replace(episodes[0], voided=True)
    data = make_dataset([spoiled, *episodes[1:]], policy.shape)
    assert len(data.chunks) == 5 * 6
    assert data.images["top"].shape == (30, 16, 16, 3)
    with pytest.raises(ContractError, match="voided"):
        make_dataset([spoiled], policy.shape)


def test_dataset_takes_the_ticks_with_a_fresh_picture(policy: CompactVLA, episodes: list[Episode]) -> None:
    labels = [np.full((7, 5), number, np.float32) + np.arange(7)[:, None] for number in range(len(episodes))]
    every, fourth = (make_dataset(episodes, policy.shape, labels, gripper=6, every=n) for n in (1, 4))
    rows = [6 * episode + tick for episode in range(len(episodes)) for tick in (0, 4)]
    for name in ("proprio", "chunks", "instruction_ids", "labels"):
        np.testing.assert_array_equal(getattr(fourth, name), getattr(every, name)[rows], name)
    np.testing.assert_array_equal(fourth.images["top"], every.images["top"][rows])


def test_unusable_episodes_are_named(policy: CompactVLA, episodes: list[Episode]) -> None:
    with pytest.raises(ContractError, match="Episode 1 has no frames"):
        policy.sft([episodes[0], dataclasses.replace(episodes[1], images={})], steps=1)
    bad = dataclasses.replace(episodes[0], action=np.full((6, 7), np.nan, np.float32))
    with pytest.raises(ContractError, match="NaN"):
        policy.sft([bad], steps=1)
    with pytest.raises(ContractError, match="actions"):
        policy.sft([dataclasses.replace(episodes[0], action=np.zeros((6, 6), np.float32))], steps=1)


def test_wrong_options_are_named(policy: CompactVLA, episodes: list[Episode]) -> None:
    with pytest.raises(ConfigError, match="step_count"):
        policy.sft(episodes, step_count=3)
    with pytest.raises(ConfigError, match="mode"):
        policy.sft(episodes, mode="prefix", steps=1)
    with pytest.raises(ConfigError, match="steps"):
        policy.sft(episodes, steps=0)


def test_head_mode_leaves_the_encoder_alone(policy: CompactVLA, episodes: list[Episode]) -> None:
    tuned = policy.sft(episodes, mode="head", steps=40, batch_size=16)
    for part in ("text", "cameras", "ground"):
        for old, new in zip(jax.tree.leaves(policy.params[part]), jax.tree.leaves(tuned.params[part]), strict=True):
            np.testing.assert_array_equal(old, new)
    before, after = policy.infer([_observation(episodes[0])])[0], tuned.infer([_observation(episodes[0])])[0]
    np.testing.assert_array_equal(before.features, after.features)
    assert not np.array_equal(before.actions, after.actions)
    assert tuned.version != policy.version


def test_full_mode_learns_and_follows_the_instruction(policy: CompactVLA, episodes: list[Episode]) -> None:
    losses: list[float] = []
    tuned = policy.sft(
        episodes, mode="full", steps=800, batch_size=16, learning_rate=4e-3, progress=lambda s, v: losses.append(v)
    )
    assert np.mean(losses[-20:]) < 0.15 * np.mean(losses[:5])
    errors, swapped = [], []
    for episode in episodes:
        other = _LEFT if episode.instruction == _RIGHT else _RIGHT
        own, opposite = tuned.infer([_observation(episode, 2), _observation(episode, 2, other)])
        errors.append(np.abs(own.actions[:1] - episode.action[2:3]).max())
        swapped.append(opposite.actions[0, 0] * episode.action[2, 0])
    assert max(errors) < 0.05
    assert max(swapped) < -0.1, "another instruction must turn the action round"


def test_lora_mode_merges_what_it_trained(policy: CompactVLA, episodes: list[Episode]) -> None:
    losses: list[float] = []
    tuned = policy.sft(
        episodes, mode="lora", rank=4, steps=60, batch_size=32, learning_rate=5e-3, ema=0.9,
        progress=lambda step, loss: losses.append(loss),
    )  # fmt: skip
    assert np.mean(losses[-5:]) < np.mean(losses[:5])
    for (path, old), new in zip(
        jax.tree_util.tree_leaves_with_path(policy.params), jax.tree.leaves(tuned.params), strict=True
    ):
        change = (new - old).reshape(-1, old.shape[-1])
        if jax.tree_util.keystr(path).endswith("['w']"):
            assert 0 < np.linalg.matrix_rank(change, tol=1e-5) <= 4
        else:
            np.testing.assert_array_equal(change, 0.0)
    assert np.isfinite(tuned.infer([_observation(episodes[0])])[0].actions).all()


@pytest.mark.parametrize("mode", ["head", "full"])
def test_resuming_is_bit_exact(policy: CompactVLA, episodes: list[Episode], mode: str, tmp_path: Path) -> None:
    options = {"mode": mode, "steps": 60, "batch_size": 16, "save_every": 20, "ema": 0.9}
    whole = policy.sft(episodes, **options)

    def stop(step: int, loss: float) -> None:
        if step > 40:
            raise KeyboardInterrupt

    state = tmp_path / "sft.state"
    with pytest.raises(KeyboardInterrupt):
        policy.sft(episodes, state_path=state, progress=stop, **options)
    steps: list[int] = []
    resumed = policy.sft(episodes, state_path=state, progress=lambda s, _: steps.append(s), **options)
    assert min(steps) > 40
    assert resumed.version == whole.version
    with pytest.raises(CheckpointError, match="another training run"):
        policy.sft(episodes, state_path=state, **{**options, "learning_rate": 0.5})
    with pytest.raises(CheckpointError, match="not a policy"):
        CompactVLA.load(state)


def test_diverging_loss_is_an_error(policy: CompactVLA, episodes: list[Episode]) -> None:
    with pytest.raises(NonFiniteError, match="step"):
        policy.sft(episodes, mode="head", steps=40, batch_size=16, learning_rate=1e30, warmup=0.0)


@pytest.mark.parametrize("keep", [0, 5, 20, 200, -1])
def test_truncated_checkpoint(policy: CompactVLA, keep: int, tmp_path: Path) -> None:
    path = tmp_path / "policy.pld"
    policy.save(path)
    path.write_bytes(path.read_bytes()[:keep])
    with pytest.raises(CheckpointError, match=r"policy\.pld"):
        CompactVLA.load(path)


def test_altered_or_missing_checkpoint(policy: CompactVLA, tmp_path: Path) -> None:
    path = tmp_path / "policy.pld"
    policy.save(path)
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)
    with pytest.raises(CheckpointError, match="corrupt"):
        CompactVLA.load(path)
    with pytest.raises(CheckpointError, match="Cannot read"):
        CompactVLA.load(tmp_path / "nothing.pld")


def test_full_disk_leaves_the_old_checkpoint(
    policy: CompactVLA, episodes: list[Episode], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "policy.pld"
    policy.save(path)

    def full(descriptor: int) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(StorageError, match="disk is full"):
        policy.save(path)
    monkeypatch.undo()
    assert CompactVLA.load(path).version == policy.version
    assert os.listdir(tmp_path) == ["policy.pld"]


def _squares(count: int, seed: int) -> GroundingFrames:
    """A red and a green soft square at sub-pixel places; the instruction says which one is the target."""
    rng = np.random.default_rng(seed)
    centres = rng.uniform(4.0, 12.0, (count, 2, 2))
    wanted = rng.integers(2, size=count)
    pixels = np.arange(16) + 0.5
    cover = np.clip(2.5 - np.abs(pixels - centres[..., None]), 0.0, 1.0)  # [N, 2 squares, x or y, 16]
    shape = cover[:, :, 1, :, None] * cover[:, :, 0, None, :]
    image = np.full((count, 16, 16, 3), 60.0)
    for channel in range(2):
        image[..., channel] += 190.0 * shape[:, channel]
    place = (centres[np.arange(count), wanted] - 8.0) / 4.0  # four pixels are a centimetre
    labels = np.concatenate([place, np.zeros((count, 2)), np.ones((count, 1))], axis=1)
    return GroundingFrames(
        {"top": image.clip(0, 255).astype(np.uint8)},
        rng.normal(size=(count, 3)).astype(np.float32),
        ("point at the red square", "point at the green square"),
        wanted,
        labels.astype(np.float32),
    )


def test_grounding_finds_what_the_instruction_names() -> None:
    config = dataclasses.replace(_CONFIG, keypoints=8, grounding_width=96)
    policy = CompactVLA.create(_SPEC, 7, config).pretrain_grounding(
        _squares(6000, 0), steps=900, batch_size=16, learning_rate=8e-3
    )
    test = _squares(200, 1)
    found = policy.ground(
        [
            Observation({"top": test.images["top"][i]}, test.proprio[i], test.instructions[test.instruction_ids[i]])
            for i in range(len(test))
        ]
    )
    pixels = 4 * np.abs(found[:, :2] - test.labels[:, :2])
    assert np.median(pixels) < 0.3, f"median error {np.median(pixels):.2f} pixels"


def test_frames_of_two_tasks_are_joined_by_instruction() -> None:
    a, b = _squares(10, 0), _squares(6, 1)
    b = dataclasses.replace(b, instructions=("point at the green square", "something else"))
    joined = GroundingFrames.concatenate([a, b])
    assert len(joined) == 16
    assert len(joined.instructions) == 3
    for k in range(6):
        assert joined.instructions[joined.instruction_ids[10 + k]] == b.instructions[b.instruction_ids[k]]


def test_grounding_frames_are_checked(policy: CompactVLA) -> None:
    frames = _squares(4, 0)
    with pytest.raises(ContractError, match="labels"):
        dataclasses.replace(frames, labels=frames.labels[:, :3])
    with pytest.raises(ContractError, match="NaN"):
        dataclasses.replace(frames, labels=frames.labels * np.nan)
    with pytest.raises(ContractError, match="cameras"):
        policy.pretrain_grounding(dataclasses.replace(frames, images={"side": frames.images["top"]}), steps=1)
