"""Stages: their order, their rewards, their time limits, their description in YAML."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
import toy_classifier

from pld_core import bring
from pld_core.errors import ConfigError, UnknownNameError
from pld_core.rewards.classifier import SuccessClassifier
from pld_core.rewards.classifier.network import init_network
from pld_core.rewards.predicate import Predicate
from pld_core.rewards.staged import BothReward, PredicateReward, Stage, StagedReward, staged
from pld_core.types import Observation, TimeStep
from pld_sim.tabletop import make_environments


def at(x: float) -> TimeStep:
    return TimeStep(Observation({}, np.array([x], np.float32)))


def machine(*limits: float, **options: object) -> StagedReward:
    """Stage k succeeds where x is above the k-th limit."""
    return StagedReward(
        [
            Stage(f"above {limit}", PredicateReward(Predicate.parse(f"x > {limit}", ["x"])), **options)  # type: ignore[arg-type]
            for limit in limits
        ]
    )


def test_a_later_stage_is_judged_only_after_the_earlier_ones():
    reward = machine(0.1, 0.5, 0.9)
    assert [reward.score(at(1.0))[1] for _ in range(3)] == [False, False, True]
    reward.reset()
    assert reward.stage.name == "above 0.1"
    outcomes = [reward.score(at(x)) for x in (0.0, 0.2, 0.2, 0.6, 0.2, 1.0)]
    assert outcomes == [(0.0, False)] * 5 + [(1.0, True)]


def test_reset_goes_back_to_the_first():
    reward = machine(0.1, 0.5)
    reward.score(at(0.3))
    assert reward.stage.name == "above 0.5"
    reward.reset()
    assert reward.stage.name == "above 0.1"


def test_only_the_last_stage_pays_unless_asked():
    judge = PredicateReward(Predicate.parse("x > 0", ["x"]))
    other = PredicateReward(Predicate.parse("x > 0.5", ["x"]))
    reward = StagedReward([Stage("first", judge, reward=0.25), Stage("second", other)])
    assert [reward.score(at(x)) for x in (1.0, 0.0, 1.0)] == [(0.25, False), (0.0, False), (1.0, True)]


def test_a_timeout_starts_over_and_pays_no_stage_twice():
    judge = PredicateReward(Predicate.parse("x > 0", ["x"]))
    other = PredicateReward(Predicate.parse("x > 0.5", ["x"]))
    reward = StagedReward([Stage("first", judge, reward=0.25), Stage("second", other, timeout_ticks=2)])
    assert [reward.score(at(0.2))[0] for _ in range(2)] == [0.25, 0.0]
    assert reward.stage.name == "second"
    reward.score(at(0.2))
    assert reward.stage.name == "first"
    assert reward.score(at(0.2)) == (0.0, False)
    assert reward.score(at(1.0)) == (1.0, True)


def test_needs_stages_with_names_of_their_own():
    with pytest.raises(ConfigError, match="at least one"):
        StagedReward([])
    with pytest.raises(ConfigError, match="name of its own"):
        machine(0.5, 0.5)
    with pytest.raises(ConfigError, match="timeout_ticks"):
        machine(0.5, timeout_ticks=0)


YAML = """
proprio: [x_m, y_m]
stages:
  - {name: near, predicate: "x_m < 0.1 and -1 < y_m < 1", debounce: [2, 2]}
  - {name: lit, reward: "classifier:CHECKPOINT", predicate: x_m < 0.1, timeout_ticks: 50}
"""


def test_yaml_with_predicates_and_a_classifier(tmp_path):
    toy_classifier.classifier().save(tmp_path / "lit.ckpt")
    path = tmp_path / "stages.yaml"
    path.write_text(YAML.replace("CHECKPOINT", str(tmp_path / "lit.ckpt")))
    reward = bring.reward_factory(f"staged:{path}")()
    reward.reset()
    bright, far = toy_classifier.step(True), toy_classifier.step(True, (5.0, 0.0))
    assert [reward.score(s)[1] for s in (bright, far, bright, bright)] == [False] * 4
    assert reward.stage.name == "lit"  # type: ignore[attr-defined]
    assert [reward.score(s)[1] for s in (bright, bright)] == [False, True]


def test_both_must_agree_at_the_same_tick():
    """What was seen while the condition did not hold is no success later on."""
    reward = BothReward(toy_classifier.classifier(), Predicate.parse("x_m < 0.1", toy_classifier.NAMES))
    far, near, dark = (5.0, 0.0), (0.0, 0.0), toy_classifier.step(False)
    for _ in range(3):
        assert not reward.score(toy_classifier.step(True, far))[1]
    assert not reward.score(dark)[1]
    assert [reward.score(toy_classifier.step(True, near))[1] for _ in range(2)] == [False, True]


def test_a_later_stage_remembers_the_whole_episode():
    def network() -> SuccessClassifier:
        """It remembers, and never says success."""
        ready, shape = toy_classifier.classifier(), dataclasses.replace(toy_classifier.SHAPE, hidden=(32,))
        decision = dataclasses.replace(ready.decision, threshold=2.0)
        return SuccessClassifier(shape, *init_network(shape, 0), decision, ready.drift)

    judge, reference, names = network(), network(), toy_classifier.NAMES
    near = PredicateReward(Predicate.parse("x_m < 0.1", names))
    lit = BothReward(judge, Predicate.parse("x_m < 0.1", names))
    reward = StagedReward([Stage("near", near), Stage("lit", lit, timeout_ticks=2)])
    began, bright = toy_classifier.step(False, (5.0, 0.0)), toy_classifier.step(True)
    for step in (began, bright, bright, bright, bright, bright):  # the stage times out in between
        reward.score(step)
        reference.watch(step.observation)
        np.testing.assert_array_equal(judge._memory, reference._memory)
    assert reward.stage.name == "lit"


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        ("stages: [{name: a}]", "needs a predicate, a reward"),
        ("stages: [{name: a, predicate: z > 1}]\nproprio: [x]", "Unknown proprioception"),
        ("stages: [{name: a, predicat: x > 1}]", "predicat"),
        ("stages: [{name: a, predicate: x > 1, debounce: [3, 2]}]\nproprio: [x]", "3 of 2"),
        ("stages: []", "at least one"),
    ],
)
def test_yaml_that_cannot_work(tmp_path, text, complaint):
    path = tmp_path / "stages.yaml"
    path.write_text(text)
    with pytest.raises(ConfigError, match=complaint):
        staged(str(path))


def test_a_station_can_name_the_proprioception(tmp_path):
    path = tmp_path / "stages.yaml"
    path.write_text("robot: yam_sim_01\nstages: [{name: low, predicate: tool_z_m < 0.5}]")
    assert staged(str(path)).stages[0].name == "low"
    path.write_text("robot: yamm\nstages: [{name: low, predicate: tool_z_m < 0.5}]")
    with pytest.raises(UnknownNameError, match="yam_sim_01"):
        staged(str(path))


class _Grounded:
    """Stage judge of a simulator's own pose error in centimetres; only a test may look at it."""

    def __init__(self, environment, limit_z_cm: float, limit_xy_cm: float) -> None:
        self._environment, self._z, self._xy = environment, limit_z_cm, limit_xy_cm

    def reset(self) -> None:
        return None

    def score(self, step: TimeStep) -> tuple[float, bool]:
        dx, dy, dz = self._environment.grounding()[:3]
        success = bool(abs(dz) < self._z and np.hypot(dx, dy) < self._xy)
        return float(success), success


def test_gpu_insertion_in_four_stages():
    """An oracle passes all stages in order, and the last one agrees with the simulator."""
    environment = make_environments("gpu_insertion", 1)[0]
    environment.stop_at_success, environment.renders_cameras = False, False
    names = environment.observation_spec.proprio_names
    above = PredicateReward(Predicate.parse("tool_z_m < 0.20", names))
    limits = (("aligned", 4.0, 0.3), ("partly in", 1.3, 0.3), ("inserted", 0.3, 0.3))
    stages = [Stage("above", above), *(Stage(n, _Grounded(environment, z, xy)) for n, z, xy in limits)]
    reward = StagedReward(stages)
    step, oracle = environment.reset(3), environment.oracle()
    reached, fired, done = [reward.index], None, None
    for tick in range(environment.max_steps):
        step = environment.step(oracle.act())
        success = reward.score(step)[1]
        reached.append(reward.index)
        done = tick if done is None and step.success else done
        if success:
            fired = tick
            break
    environment.close()
    assert reached == sorted(reached)
    assert reached[-1] == 4
    assert fired is not None
    assert done is not None
    assert abs(fired - done) <= 3
