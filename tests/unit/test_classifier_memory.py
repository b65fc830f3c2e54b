"""What the success classifier's memory is trained on, and that it learns what no single picture shows."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
import toy_classifier

from pld_core.rewards.classifier.memory_training import MemoryTraining, _Episodes, frame_weights, train_memory
from pld_core.rewards.classifier.network import init_network, judge_many


def test_the_memory_s_batches_hold_what_a_reward_would_see():
    data = toy_classifier.frames(6)
    views = [np.arange(len(data), dtype=np.float16)[:, None] + 100 * k for k in range(2)]
    batches = _Episodes(data, toy_classifier.SHAPE, views, MemoryTraining(batch_size=50))
    batch = batches(3)
    for features, weight, success in zip(batch["features"], batch["weight"], batch["success"], strict=True):
        length = int(np.flatnonzero(weight)[-1]) + 1
        shown = features[:length, 0].astype(int)
        assert len(set(shown // 100)) == 1, "one view of one episode"
        rows = shown % 100
        assert len(set(data.episode[rows])) == 1
        assert (np.diff(rows) > 0).all()
        assert (rows % 6 != 0).all(), "the first frame was there before the first tick"
        np.testing.assert_array_equal(success[:length], data.success[rows])
        assert not success[length:].any()
    for name, values in batches(3).items():
        np.testing.assert_array_equal(values, batch[name])


def test_frames_that_matter_weigh_more():
    data = toy_classifier.frames(10, ticks=40)
    weight = frame_weights(data).reshape(10, 40)
    assert weight.mean() == pytest.approx(1.0)
    assert (weight[:, 0] == 0).all()
    assert weight[1, 35] == pytest.approx(3 * weight[1, 5])  # failed: near its end
    assert weight[0, 30] == pytest.approx(3 * weight[0, 5])  # before its success
    positive = data.success.reshape(10, 40)
    assert weight[positive].sum() == pytest.approx(0.7 * weight[~positive].sum())


def test_a_memory_learns_what_no_single_picture_shows():
    """Success is the second bright picture of an episode: the pictures are the same, the past is not."""
    rng = np.random.default_rng(0)
    bright = rng.random((60, 8)) < 0.3
    bright[:, 0] = False
    success = bright.cumsum(axis=1) >= 2
    images = np.stack([toy_classifier.picture(bool(b), k) for k, b in enumerate(bright.ravel())])
    data = dataclasses.replace(toy_classifier.frames(60, ticks=8), images={"top": images}, success=success.ravel())
    shape = dataclasses.replace(toy_classifier.SHAPE, memory_dim=8)
    params, stats = init_network(shape, 0)
    trained = train_memory(params, stats, shape, data, MemoryTraining(300, 16, 1e-2))
    logits, _ = judge_many(shape, *trained, data.images, data.proprio, data.episode)
    asked = np.arange(len(data)) % 8 != 0
    assert ((logits > 0) == data.success)[asked].mean() > 0.97
