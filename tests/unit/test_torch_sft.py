"""Fine-tuning of VLAs in PyTorch: what is learnt, what stays as it is, resuming, errors."""

from __future__ import annotations

import copy
import dataclasses
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest

pytest.importorskip("torch", reason="needs the extra 'torch'")
pytest.importorskip("transformers", reason="needs the extra 'torch'")
pytest.importorskip("peft", reason="needs the extra 'torch'")

import torch
import torch_tools as tools

from pld_core.errors import CheckpointError, ConfigError, ContractError, NonFiniteError
from pld_core.types import Episode
from pld_core.vla.sft import action_windows
from pld_core.vla.torch.inputs import Windows
from pld_core.vla.torch.lora import add_adapters, merge_adapters
from pld_core.vla.torch.pi0 import pi0
from pld_core.vla.torch.token_vlm import token_vlm
from pld_core.vla.torch.training import fit, learning_rate
from pld_core.vla.training import TrainConfig

_KINDS = {
    "pi0": (tools.save_pi0, pi0),
    "llava": (tools.save_llava, token_vlm),
    "paligemma": (tools.save_paligemma, token_vlm),
}
_QUICK: dict[str, Any] = {"batch_size": 4, "learning_rate": 3e-3, "gripper": 6}


@pytest.fixture(scope="module")
def policies(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    return {name: make(str(save(tmp_path_factory.mktemp(name)))) for name, (save, make) in _KINDS.items()}


@pytest.fixture(scope="module")
def episodes() -> list[Episode]:
    return [tools.episode(i) for i in range(3)]


def _windows(policy: Any, episodes: Sequence[Episode]) -> Windows:
    return Windows.of(episodes, policy.mapping, policy.trained_horizon, 6)


def _changed(before: Any, after: Any) -> set[str]:
    old, new = before.model.state_dict(), after.model.state_dict()
    assert old.keys() == new.keys()
    return {name for name in old if not torch.equal(old[name], new[name])}


@pytest.mark.parametrize("kind", ["pi0", "llava"])
def test_lora_learns_one_batch_by_heart(kind: str, policies: dict[str, Any], episodes: list[Episode]) -> None:
    """One batch, its noise included: the loss falls to nearly nothing, and only adapters have moved."""
    policy = policies[kind].sft(episodes[:1], mode="lora", steps=1, **{**_QUICK, "learning_rate": 1e-9})
    (observations, chunks), seeds = _windows(policy, episodes[:1]).batch(4, 0, 0), [1, 2, 3, 4]
    model = copy.deepcopy(policy.model)
    adapted = policy._with(model, policy.statistics)
    factors = add_adapters(model, 32, 0, adapted._spared())
    before = {n: v.clone() for n, v in model.state_dict().items() if "lora_" not in n}
    losses: list[float] = []
    config = TrainConfig(steps=80, batch_size=4, learning_rate=3e-3)
    fit(
        lambda step, rows: adapted.loss(observations[rows], chunks[rows], seeds[rows]), factors, config,
        micro_batch=4, progress=lambda step, loss: losses.append(loss),
    )  # fmt: skip
    assert losses[0] > 1.0
    assert losses[-1] < 0.01, losses[-1]
    after = model.state_dict()
    assert all(torch.equal(after[name], value) for name, value in before.items())

    with torch.no_grad():
        loss = adapted.loss(observations, chunks, seeds)
        answers = adapted._predict(observations)
        merge_adapters(model)
        merged = adapted.loss(observations, chunks, seeds)
    assert not [name for name in model.state_dict() if "lora_" in name]
    torch.testing.assert_close(merged, loss, rtol=1e-3, atol=1e-5)
    np.testing.assert_allclose(adapted._predict(observations), answers, atol=1e-4)


@pytest.mark.parametrize(("kind", "steps", "rows"), [("pi0", 250, 16), ("llava", 100, 4)])
def test_lora_imitates(kind: str, steps: int, rows: int, policies: dict[str, Any]) -> None:
    """Through the public interface: at every tick the tuned policy plans what the episode did from there on."""
    loaded, episode = policies[kind], tools.episode(0, ticks=3)
    policy = type(loaded)(
        loaded.model, loaded.processor, dataclasses.replace(loaded.mapping, horizon=2), loaded.statistics
    )
    options = {"steps": steps, "batch_size": rows, "micro_batch": rows, "learning_rate": 5e-3, "gripper": 6}
    star = policy.sft([episode], mode="lora", rank=32, **options)
    observations = [dataclasses.replace(tools.observation(t), instruction=episode.instruction) for t in range(3)]
    wanted = action_windows(episode.action, 2, gripper=6)
    error, before = (
        np.abs(np.stack([chunk.actions for chunk in p.infer(observations)]) - wanted).mean() for p in (star, policy)
    )
    assert error < 0.15 < 0.5 < before, (error, before)


@pytest.mark.parametrize("kind", _KINDS)
def test_what_each_mode_changes(kind: str, policies: dict[str, Any], episodes: list[Episode]) -> None:
    policy = policies[kind]
    version, weights = policy.version, copy.deepcopy(policy.model.state_dict())
    stars = {mode: policy.sft(episodes, mode=mode, steps=2, **_QUICK) for mode in ("head", "full", "lora")}
    changed = {mode: _changed(policy, star) for mode, star in stars.items()}
    everything = set(weights)
    if kind == "pi0":
        assert changed["head"]
        assert not any(name.startswith("model.vlm.") for name in changed["head"])
        assert any(name.startswith("model.vlm.vision_tower") for name in changed["full"])
    else:
        tied = {name for name in everything if torch.equal(weights[name], weights["lm_head.weight"])}
        assert changed["head"] == tied
        assert "lm_head.weight" not in changed["lora"]
    linear = {f"{n}.weight" for n, m in policy.model.named_modules() if isinstance(m, torch.nn.Linear)}
    assert changed["lora"]
    assert changed["lora"] <= linear
    assert changed["head"] < changed["full"]
    assert len({version, *(star.version for star in stars.values())}) == 4
    assert policy._with(policy.model, policy.statistics).version == version  # the policy itself is as it was
    assert all(torch.equal(weights[name], value) for name, value in policy.model.state_dict().items())
    assert not any(p.requires_grad for star in stars.values() for p in star.model.parameters())


@pytest.mark.parametrize("mode", ["head", "full", "lora"])
def test_resuming_is_bit_exact(mode: str, policies: dict[str, Any], episodes: list[Episode], tmp_path: Path) -> None:
    policy = policies["pi0"]
    options = {**_QUICK, "mode": mode, "rank": 4, "steps": 6, "save_every": 2, "ema": 0.9}
    whole = policy.sft(episodes, **options)
    state = tmp_path / "sft.state"

    def stop(step: int, loss: float) -> None:
        if step == 5:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        policy.sft(episodes, state_path=state, progress=stop, **options)
    steps: list[int] = []
    resumed = policy.sft(episodes, state_path=state, progress=lambda step, _: steps.append(step), **options)
    assert steps == [5, 6]
    assert resumed.version == whole.version
    with pytest.raises(CheckpointError, match="another training run"):
        policy.sft(episodes, state_path=state, **{**options, "learning_rate": 0.5})
    state.write_bytes(state.read_bytes()[:-100])
    state.with_name("sft.state.previous").unlink()
    with pytest.raises(CheckpointError, match="truncated or corrupt"):
        policy.sft(episodes, state_path=state, **options)


def test_seed_decides(policies: dict[str, Any], episodes: list[Episode]) -> None:
    policy = policies["pi0"]
    versions = [policy.sft(episodes, steps=1, seed=seed, **_QUICK).version for seed in (0, 0, 1)]
    assert versions[0] == versions[1] != versions[2]


@pytest.mark.parametrize("kind", _KINDS)
def test_rows_of_a_batch_do_not_see_each_other(kind: str, policies: dict[str, Any], episodes: list[Episode]) -> None:
    """Instructions of two lengths, padded to one: the loss is the mean of each row's own."""
    policy = policies[kind]
    windows = _windows(policy, episodes)
    observations, chunks = windows.batch(6, 0, 0)
    assert len({o.instruction for o in observations}) == 2
    seeds = list(range(6))
    with torch.no_grad():
        together = policy.loss(observations, chunks, seeds)
        alone = [policy.loss(observations[i : i + 1], chunks[i : i + 1], seeds[i : i + 1]) for i in range(6)]
    torch.testing.assert_close(together, torch.stack(alone).mean(), rtol=1e-4, atol=1e-5)


def test_micro_batches_add_up(policies: dict[str, Any], episodes: list[Episode]) -> None:
    losses: dict[int, list[float]] = {size: [] for size in (1, 3, 8)}
    for size, seen in losses.items():
        note = partial(lambda into, _, loss: into.append(loss), seen)
        policies["pi0"].sft(episodes, mode="head", steps=3, micro_batch=size, progress=note, **_QUICK)
    np.testing.assert_allclose(losses[1], losses[8], rtol=1e-4)
    np.testing.assert_allclose(losses[3], losses[8], rtol=1e-4)


def test_learning_rate_rises_and_falls() -> None:
    config = TrainConfig(steps=100, learning_rate=1.0, warmup=0.1)
    rates = [learning_rate(config, step) for step in range(100)]
    assert np.argmax(rates) in (9, 10)
    assert rates[0] == pytest.approx(0.1)
    assert rates[10] == pytest.approx(1.0)
    assert rates[-1] < 0.001
    assert (np.diff(rates[10:]) < 0).all()


def test_statistics_come_from_the_first_data_and_stay(policies: dict[str, Any], episodes: list[Episode]) -> None:
    policy = policies["pi0"]
    assert policy.statistics.action is None
    first = policy.sft(episodes[:1], steps=1, **_QUICK)
    actions = policy.mapping.action.to_model(episodes[0].action)
    np.testing.assert_allclose(first.statistics.action.offset, actions.mean(axis=0), atol=1e-6)
    np.testing.assert_allclose(
        first.statistics.state.offset, episodes[0].proprio[:4, [0, 1, 2, 8]].mean(axis=0), atol=1e-6
    )
    second = first.sft(episodes, steps=1, **_QUICK)
    np.testing.assert_array_equal(second.statistics.action.offset, first.statistics.action.offset)


def test_bfloat16(episodes: list[Episode], tmp_path: Path) -> None:
    """Half-precision weights stay so, are trained in float32, and answer in [-1, 1]."""
    policy = pi0(str(tools.save_pi0(tmp_path, dtype=torch.bfloat16)))
    assert policy.model.dtype == torch.bfloat16
    for mode in ("full", "lora"):
        star = policy.sft(episodes, mode=mode, steps=2, **_QUICK)
        assert {p.dtype for p in star.model.parameters()} == {torch.bfloat16}
        assert _changed(policy, star)
        assert np.isfinite(star.infer([tools.observation(0)])[0].actions).all()
    assert pi0(f"{tmp_path}?dtype=float32").model.dtype == torch.float32


def test_wrong_episodes_are_named(policies: dict[str, Any], episodes: list[Episode]) -> None:
    policy, good = policies["llava"], episodes[0]
    wrong = {
        r"Episode 1 has no frames of \['front'\]": {"images": {"wrist": good.images["wrist"]}},
        r"actions of \(6,\).*action\.dim": {"action": good.action[:, :6]},
        r"'front' of Episode 1 gives uint8 \(23, 32, 3\)": {"images": {"front": good.images["front"][:, 1:]}},
        r"'front' of Episode 1 gives float32": {"images": {"front": good.images["front"].astype(np.float32)}},
        r"Episode 1 has proprio of shape \(8,\).*proprio_dim": {"proprio": good.proprio[:, 1:]},
        r"Episode 1 holds NaN": {"action": good.action * np.nan},
    }
    for message, change in wrong.items():
        with pytest.raises(ContractError, match=message):
            policy.sft([good, dataclasses.replace(good, **change)], steps=1)
    with pytest.raises(ContractError, match="voided"):
        policy.sft([dataclasses.replace(good, voided=True)], steps=1)


def test_wrong_options_are_named(policies: dict[str, Any], episodes: list[Episode]) -> None:
    policy = policies["llava"]
    for options, message in (
        ({"step_count": 3}, "step_count"),
        ({"mode": "prefix"}, "head"),
        ({"rank": 0}, "rank"),
        ({"micro_batch": 0}, "micro_batch"),
        ({"steps": 0}, "steps"),
    ):
        with pytest.raises(ConfigError, match=message):
            policy.sft(episodes, **options)


def test_diverging_loss_is_an_error(policies: dict[str, Any], episodes: list[Episode]) -> None:
    with pytest.raises(NonFiniteError, match=r"at step \d+; lower the learning rate"):
        policies["pi0"].sft(episodes, mode="full", steps=20, **{**_QUICK, "learning_rate": 1e30})
