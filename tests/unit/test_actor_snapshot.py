"""An actor as plain arrays and settings: the same residuals elsewhere, and a version that says what it is."""

from __future__ import annotations

import copy
import dataclasses
import os
import subprocess
import sys
from collections.abc import Callable
from typing import Any

import jax
import numpy as np
import pytest

from pld_core.errors import CheckpointError
from pld_core.rl.actor import LearnerActor
from pld_core.rl.config import LearnerConfig
from pld_core.rl.learner import Learner
from pld_core.rl.snapshot import restore, snapshot
from pld_core.rl.state import ActorParams

STATE, ACTION, LANES = 6, 3, 2
CAMERAS = {"wrist": (32, 32, 3)}
SMALL = LearnerConfig(
    hidden=(16, 8), state_groups=(4, 2), passive=(2,), target_entropy=None, value_range=(0.0, 1.0), latent_dim=12
)


def actor_of(encoder: str, config: LearnerConfig = SMALL) -> LearnerActor:
    """One with random weights, so that every one of them counts."""
    learner = Learner(dataclasses.replace(config, encoder=encoder), STATE, ACTION, CAMERAS)
    rng = np.random.default_rng(0)

    def drawn(leaf: Any) -> np.ndarray:
        return 0.1 * rng.normal(size=leaf.shape).astype(leaf.dtype)

    shapes = jax.eval_shape(lambda: learner.actor_params(learner.init(0)))
    return LearnerActor(learner, jax.tree.map(drawn, shapes), min_lanes=4)


@pytest.fixture(scope="module", params=["features", "resnet10"])
def actor(request: pytest.FixtureRequest) -> LearnerActor:
    return actor_of(request.param)


@pytest.fixture
def small() -> LearnerActor:
    return actor_of("features")


def as_it_is(arrays: Any, settings: Any) -> tuple[Any, Any]:
    return arrays, settings


def over_the_link(arrays: Any, settings: Any) -> tuple[Any, Any]:
    codec = pytest.importorskip("pld_core.link.codec")
    return codec.decode(codec.encode(arrays)), codec.decode(codec.encode(settings))


def residuals(actor: LearnerActor, seeds: np.ndarray | None) -> bytes:
    rng = np.random.default_rng(1)
    state, base = rng.normal(size=(LANES, STATE)).astype(np.float32), rng.uniform(-1, 1, (LANES, ACTION))
    images = {name: rng.integers(0, 256, (LANES, *shape), np.uint8) for name, shape in CAMERAS.items()}
    acted = actor.act(state, base.astype(np.float32), images, seeds)
    assert acted.any()
    return acted.tobytes()


@pytest.mark.parametrize("way", [as_it_is, over_the_link])
@pytest.mark.parametrize("seeds", [None, np.array([5, 2**32 - 1], np.uint32)], ids=["mode", "sampled"])
def test_the_restored_actor_acts_bit_for_bit_the_same(actor: LearnerActor, way: Callable, seeds) -> None:
    _, arrays, settings = snapshot(actor)
    restored = restore(*way(arrays, settings))
    assert residuals(restored, seeds) == residuals(actor, seeds)
    assert restored.learner.config == actor.learner.config
    assert restored.min_lanes == actor.min_lanes


@pytest.mark.parametrize("way", [as_it_is, over_the_link])
def test_the_version_survives_the_way(actor: LearnerActor, way: Callable) -> None:
    version, arrays, settings = snapshot(actor)
    assert snapshot(restore(*way(arrays, settings)))[0] == version


def test_a_snapshot_stays_as_it_is_when_the_learner_goes_on(small: LearnerActor) -> None:
    _, arrays, _ = snapshot(small)
    assert all(isinstance(leaf, np.ndarray) for leaf in jax.tree.leaves(arrays))
    before = [leaf.copy() for leaf in jax.tree.leaves(arrays)]
    jax.tree.map(lambda leaf: leaf + 1, small.params)
    assert all(np.array_equal(a, b) for a, b in zip(before, jax.tree.leaves(arrays), strict=True))


def test_every_weight_changes_the_version(actor: LearnerActor) -> None:
    leaves, structure = jax.tree.flatten(actor.params)
    versions = {snapshot(actor)[0]}
    for k, leaf in enumerate(leaves):
        changed = np.array(leaf)
        changed.reshape(-1)[-1] = np.nextafter(changed.reshape(-1)[-1], np.float32(9))
        params = jax.tree.unflatten(structure, [*leaves[:k], changed, *leaves[k + 1 :]])
        versions.add(snapshot(dataclasses.replace(actor, params=params))[0])
    assert len(versions) == len(leaves) + 1


def test_weights_that_change_places_change_the_version(small: LearnerActor) -> None:
    normalizer = dict(small.params.normalizer)
    normalizer["mean"], normalizer["inverse_std"] = normalizer["inverse_std"], normalizer["mean"]
    swapped = dataclasses.replace(small, params=dataclasses.replace(small.params, normalizer=normalizer))
    assert snapshot(swapped)[0] != snapshot(small)[0]


OTHERS: dict[str, Any] = {
    "state_groups": (2, 4), "passive": (), "encoder": "resnet10", "hidden": (16, 9), "gamma": 0.9, "polyak": 0.01,
    "target_entropy": -1.0, "init_log_std": -0.25, "actor_q": "mean", "value_range": None,
}  # fmt: skip


@pytest.mark.parametrize("name", [field.name for field in dataclasses.fields(LearnerConfig)])
def test_every_setting_changes_the_version(small: LearnerActor, name: str) -> None:
    value = getattr(small.learner.config, name)
    config = dataclasses.replace(small.learner.config, value_range=None) if name == "backup_entropy" else SMALL
    other = OTHERS[name] if name in OTHERS else not value if isinstance(value, bool) else value + 1
    changed = dataclasses.replace(config, **{name: other})
    one, two = (dataclasses.replace(small, learner=Learner(c, STATE, ACTION, CAMERAS)) for c in (config, changed))
    assert snapshot(one)[0] != snapshot(two)[0]


@pytest.mark.parametrize("change", [{"min_lanes": 8}, {"state_dim": 7}, {"action_dim": 4}])
def test_every_size_changes_the_version(small: LearnerActor, change: dict[str, int]) -> None:
    ungrouped = dataclasses.replace(small.learner.config, state_groups=())
    sizes = {"state_dim": STATE, "action_dim": ACTION, **change}
    lanes = sizes.pop("min_lanes", small.min_lanes)
    one, other = (
        dataclasses.replace(small, learner=Learner(ungrouped, *s), min_lanes=n)
        for s, n in (((STATE, ACTION), small.min_lanes), (tuple(sizes.values()), lanes))
    )
    assert snapshot(one)[0] != snapshot(other)[0]


def test_the_version_is_the_same_in_another_process(small: LearnerActor) -> None:
    script = "import test_actor_snapshot as t; print(t.snapshot(t.actor_of('features'))[0])"
    environment = {**os.environ, "PYTHONHASHSEED": "7", "PYTHONPATH": os.path.dirname(__file__)}
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, env=environment, check=True)
    assert done.stdout.split() == [snapshot(small)[0]]


# -- what is no actor ------------------------------------------------------------------------------


def without(tree: dict[str, Any], *path: str) -> None:
    *parents, leaf = path
    for parent in parents:
        tree = tree[parent]
    del tree[leaf]


def put(value: Any, tree: dict[str, Any], *path: str) -> None:
    *parents, leaf = path
    for parent in parents:
        tree = tree[parent]
    tree[leaf] = value


GARBAGE: dict[str, Callable[[dict[str, Any], dict[str, Any]], None]] = {
    "no weights": lambda arrays, settings: arrays.clear(),
    "no settings": lambda arrays, settings: settings.clear(),
    "no normaliser": lambda arrays, settings: without(arrays, "normalizer"),
    "a layer is missing": lambda arrays, settings: without(arrays, "actor", "layer1"),
    "a layer too many": lambda arrays, settings: put({}, arrays, "actor", "layer2"),
    "weights too many": lambda arrays, settings: put(np.zeros(3, np.float32), arrays, "actor", "extra"),
    "another shape": lambda arrays, settings: put(np.ones(5, np.float32), arrays, "normalizer", "mean"),
    "another type": lambda arrays, settings: put(np.ones(STATE, np.int64), arrays, "normalizer", "mean"),
    "text for an array": lambda arrays, settings: put("weights", arrays, "normalizer", "mean"),
    "a number for a layer": lambda arrays, settings: put(3, arrays, "actor", "layer0"),
    "an encoder that is not asked for": lambda arrays, settings: put({"a": np.ones(1)}, arrays, "encoder"),
    "an encoder that is missing": lambda arrays, settings: put("resnet10", settings, "config", "encoder"),
    "an unknown setting": lambda arrays, settings: put(1, settings, "config", "depth"),
    "a setting out of range": lambda arrays, settings: put(-1.0, settings, "config", "gamma"),
    "a setting of another type": lambda arrays, settings: put("wide", settings, "config", "hidden"),
    "settings that are text": lambda arrays, settings: put("config", settings, "config"),
    "settings that are a number": lambda arrays, settings: put(3, settings, "config"),
    "groups that do not add up": lambda arrays, settings: put([1, 2], settings, "config", "state_groups"),
    "sizes that are text": lambda arrays, settings: put("six", settings, "state_dim"),
    "sizes below zero": lambda arrays, settings: put(-6, settings, "state_dim"),
    "cameras that are a list": lambda arrays, settings: put(["wrist"], settings, "cameras"),
    "a camera without size": lambda arrays, settings: put({"wrist": [32]}, settings, "cameras"),
    "lanes that are text": lambda arrays, settings: put("many", settings, "min_lanes"),
}


@pytest.mark.parametrize("garbage", GARBAGE)
def test_what_is_no_actor_is_refused_as_a_checkpoint_error(small: LearnerActor, garbage: str) -> None:
    _, arrays, settings = copy.deepcopy(snapshot(small))
    GARBAGE[garbage](arrays, settings)
    with pytest.raises(CheckpointError, match="weights of an actor"):
        restore(arrays, settings)


def test_only_the_image_encoder_needs_cameras(small: LearnerActor) -> None:
    _, arrays, settings = snapshot(actor_of("resnet10"))
    settings["cameras"] = {}
    with pytest.raises(CheckpointError, match="cameras"):
        restore(arrays, settings)
    assert isinstance(restore(*snapshot(small)[1:]).params, ActorParams)
