"""What a run chooses by itself."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import jax
import numpy as np
import pytest

from pld_core.config import load_config
from pld_core.config_rules import validate
from pld_core.errors import ConfigError
from pld_core.rewards import BinaryReward
from pld_core.stages.distill import to_imitate
from pld_core.stages.pipeline import Pipeline
from pld_core.stages.workspace import Workspace
from pld_core.types import BASE_TICK, RESIDUAL_TICK, ActionSpec, EpisodeSpec, ObservationSpec
from pld_core.vla.callable_policy import CallablePolicy
from pld_sim.point_reach import PointReach


@pytest.mark.parametrize(
    ("camera", "feature_dim", "backend", "setting", "chosen"),
    [
        (True, 0, "cpu", "auto", "resnet10"),  # nothing else tells the residual what the cameras see
        (True, 8, "cpu", "auto", "features"),
        (False, 0, "cpu", "auto", "features"),
        (True, 8, "gpu", "auto", "resnet10"),
        (True, 0, "cpu", "features", "features"),
    ],
)
def test_the_encoder_fits_what_there_is_to_see(
    monkeypatch: pytest.MonkeyPatch, camera: bool, feature_dim: int, backend: str, setting: str, chosen: str
) -> None:
    monkeypatch.setattr(jax, "default_backend", lambda: backend)
    work = Workspace(load_config("custom", {"learn.encoder": setting}), SimpleNamespace(dir=Path()), None, {})  # type: ignore[arg-type]
    work.runner = SimpleNamespace(runner=SimpleNamespace(environments=[PointReach(camera)]))  # type: ignore[assignment]
    work.policy = SimpleNamespace(feature_dim=feature_dim)  # type: ignore[assignment]
    assert work.encoder == chosen


@pytest.mark.parametrize("asked", [False, True])
def test_practice_has_the_pictures_that_the_settings_ask_for(asked: bool) -> None:
    class Simplifying(PointReach):
        simplified = not asked

    environment, base = Simplifying(), CallablePolicy(lambda seen: np.zeros(3, np.float32))
    config = load_config("custom", {"simplified_images": asked, "lanes": 1, "reward": "binary"})
    work = Workspace(config, SimpleNamespace(dir=Path()), None, {"task": lambda lanes: [environment]})  # type: ignore[arg-type]
    work.policy = base  # type: ignore[assignment]
    try:
        for runner in (work.runner, work.runner.with_policy(base), work.runner.with_reward(BinaryReward)):
            environment.simplified = not asked
            list(runner.run([EpisodeSpec("point_reach", 0, "learn", record_images=False)]))
            assert environment.simplified == asked
    finally:
        work.runner.close()


def test_a_base_checkpoint_that_is_not_there(tmp_path):
    config = load_config("peg_insertion", {"base.checkpoint": "base_of_mine", "runs_dir": str(tmp_path)})
    with pytest.raises(ConfigError, match=r"no base checkpoint 'base_of_mine'.*base_flow.*from_scratch"):
        Pipeline.from_config(config).harvest()


@pytest.mark.parametrize(
    ("settings", "base_alone"),
    [
        ({}, (6,)),
        ({"learn.residual_gripper": True}, ()),
        ({"learn.residual_rotation": False}, (3, 4, 5, 6)),
        ({"learn.residual_rotation": False, "learn.residual_gripper": True}, (3, 4, 5)),
        ({"learn.residual_rotation": False, "learn.algorithm": "rlpd"}, ()),
    ],
)
def test_what_an_arms_residual_leaves_to_the_base(settings: dict[str, Any], base_alone: tuple[int, ...]) -> None:
    work = Workspace(load_config("custom", settings), SimpleNamespace(dir=Path()), None, {})  # type: ignore[arg-type]
    arm = SimpleNamespace(action_spec=ActionSpec(), observation_spec=ObservationSpec({}, 4))
    work.runner = SimpleNamespace(runner=SimpleNamespace(environments=[arm]))  # type: ignore[assignment]
    work.policy = SimpleNamespace(feature_dim=8, action_horizon=1)  # type: ignore[assignment]
    assert work.learner.config.passive == base_alone


def test_an_action_without_a_gripper_has_no_rotation_to_leave() -> None:
    assert ActionSpec(dim=7, gripper=None).rotation == ()
    assert ActionSpec(dim=4, gripper=3).rotation == ()
    assert ActionSpec().rotation == (3, 4, 5)


def test_vla_star_learns_from_the_first_fresh_picture_of_the_specialist(tmp_path: Path) -> None:
    class Probe:
        def __init__(self, takes_over: int) -> None:
            self.source = np.where(np.arange(7) < takes_over, BASE_TICK, RESIDUAL_TICK)
            self.tail = lambda start: (takes_over, start)

        def __len__(self) -> int:
            return len(self.source)

    probes = [Probe(takes_over) for takes_over in (0, 1, 4, 5, 7)]
    config = load_config("custom", {"probe.image_every": 4, "replan_every": 4})
    work = SimpleNamespace(folder=tmp_path, probe=probes, config=config)
    assert to_imitate(work) == [(0, 0), (1, 4), (4, 4)]  # type: ignore[arg-type]
    with pytest.raises(ConfigError, match=r"image_every is 4 and replan_every 2: .* divisor"):
        validate(load_config("custom", {"probe.image_every": 4, "replan_every": 2}))


def test_vla_star_learns_from_so_many_probes_of_each_run(tmp_path: Path) -> None:
    work = SimpleNamespace(folder=tmp_path, probe=["first", "second"])
    for episodes, learnt in ((None, ["first", "second"]), (1, ["first"])):
        work.config = load_config("custom", {"distill.episodes": episodes, "distill.imitate": "all"})
        assert to_imitate(work) == learnt  # type: ignore[arg-type]
    work.config = load_config("custom", {"distill.episodes": 3})
    with pytest.raises(ConfigError, match=r"distill.episodes is 3, but .* holds only 2"):
        to_imitate(work)  # type: ignore[arg-type]
