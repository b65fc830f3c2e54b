"""What VLAs in PyTorch draw: by the network's own distribution, in the units of the answers, whatever the batch."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import numpy as np
import pytest

pytest.importorskip("torch", reason="needs the extra 'torch'")
pytest.importorskip("transformers", reason="needs the extra 'torch'")

import torch
import torch_tools as tools

from pld_core.vla.robot_mapping import ActionMapping
from pld_core.vla.torch.normalisation import Scaling
from pld_core.vla.torch.pi0 import pi0
from pld_core.vla.torch.token_vlm import _answered, token_vlm

_UNIT = dataclasses.replace(tools.ONE_CAMERA, action=ActionMapping())
_SEEN = tools.observation(3)


def _probabilities(policy: Any, prefix: np.ndarray) -> np.ndarray:
    """Of the action tokens behind the prompt and ``prefix``, smallest id first."""
    inputs = _answered(policy._row(_SEEN), torch.from_numpy(prefix[None].astype(np.int64)))
    del inputs["labels"]
    with torch.no_grad():
        logits = policy.model(**inputs, use_cache=False).logits[0, -1]
    return torch.softmax(logits[policy.tokens.first : policy.tokens.end].double(), 0).numpy()


def _fits(tokens: np.ndarray, probabilities: np.ndarray, first: int) -> None:
    """Each token's frequency within five of its standard deviations, at a fixed seed; several have one that counts."""
    counts = np.bincount(tokens - first, minlength=len(probabilities))
    spread = np.sqrt(len(tokens) * probabilities * (1 - probabilities))
    assert (probabilities > 0.02).sum() >= 3
    assert (np.abs(counts - len(tokens) * probabilities) <= 5 * spread + 1).all()


@pytest.mark.parametrize("save", [tools.save_llava, tools.save_paligemma])
def test_tokens_are_drawn_by_their_probabilities(save: Any, tmp_path: Path) -> None:
    """The first by the prompt's, the second by those behind the likeliest first."""
    policy = token_vlm(f"{save(tmp_path, _UNIT)}?batch=250")
    drawn = np.stack([chunk.actions[0] for chunk in policy.sample(_SEEN, 2000, 0)])
    last = policy.tokens.first + 1  # of the two tokens with one value, that which encode gives
    tokens = policy.tokens.encode(drawn)

    def together(probabilities: np.ndarray) -> np.ndarray:
        return np.concatenate([[0.0], [probabilities[:2].sum()], probabilities[2:]])

    _fits(tokens[:, 0], together(_probabilities(policy, np.zeros(0))), policy.tokens.first)
    values, counts = np.unique(tokens[tokens[:, 0] > last, 0], return_counts=True)
    likeliest = values[counts.argmax()]
    behind = tokens[tokens[:, 0] == likeliest, 1]
    _fits(behind, together(_probabilities(policy, np.array([likeliest]))), policy.tokens.first)


def test_pi0_starts_from_the_drawn_noise(tmp_path: Path) -> None:
    """And what it gives is un-normalised as the answer is."""
    folder = tools.save_pi0(tmp_path, dataclasses.replace(tools.MAPPING, action=ActionMapping()))
    policy = pi0(str(folder))
    scaling = Scaling(np.full(7, 0.2), np.full(7, 0.1))
    policy.statistics = dataclasses.replace(policy.statistics, action=scaling)
    drawn = policy.sample(_SEEN, 3, 8)
    for index, chunk in enumerate(drawn):
        noise = policy._noise([np.random.default_rng((8, index))])
        inputs: dict[str, Any] = policy._inputs([_SEEN])
        with torch.no_grad():
            raw = policy.model.sample_actions(**inputs, noise=noise)[0, :, :7].numpy()
        np.testing.assert_array_equal(chunk.actions, policy.mapping.action.from_model(scaling.restore(raw)))


@pytest.mark.parametrize(("make", "save"), [(pi0, tools.save_pi0), (token_vlm, tools.save_llava)])
def test_the_batch_changes_no_sample(make: Any, save: Any, tmp_path: Path) -> None:
    folder = save(tmp_path, dataclasses.replace(_UNIT, horizon=2))
    one, four = (make(f"{folder}?batch={batch}").sample(_SEEN, 6, 1) for batch in (1, 4))
    assert len(one) == len(four) == 6
    for a, b in zip(one, four, strict=True):
        np.testing.assert_allclose(a.actions, b.actions, atol=1e-4)
