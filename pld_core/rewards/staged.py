"""Tasks in stages: a state machine of judges, described in YAML.

    # gpu_stages.yaml
    proprio: [tool_x_m, tool_y_m, tool_z_m]   # or robot: yam_sim_01
    stages:
      - name: above
        predicate: tool_z_m < 0.15
      - name: inserted
        reward: classifier:runs/reward-gpu_insertion-seed0/success.ckpt
        timeout_ticks: 40

Stage k + 1 is judged only after stage k succeeded; the task succeeds with the last one.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from pld_core.errors import ConfigError
from pld_core.interfaces import RewardModel
from pld_core.rewards.debounce import Debounce, Latch, clear_latch
from pld_core.rewards.predicate import Predicate
from pld_core.types import Observation, TimeStep


@dataclass(frozen=True)
class Stage:
    """One stage. judge: says when it succeeded; reward: what that is worth (None: 1 for the last stage, 0 for
    the others); timeout_ticks: of this stage, after which the machine starts over at the first."""

    name: str
    judge: RewardModel
    timeout_ticks: int | None = None
    reward: float | None = None

    def __post_init__(self) -> None:
        if self.timeout_ticks is not None and self.timeout_ticks < 1:
            raise ConfigError(f"timeout_ticks of stage {self.name!r} is {self.timeout_ticks}; valid is 1 or more.")


class StagedReward:
    """Implements interfaces.RewardModel. ``stage`` is the one that is judged now."""

    sees_for_itself = True

    def __init__(self, stages: Sequence[Stage]) -> None:
        if not stages:
            raise ConfigError("A staged reward needs at least one stage.")
        names = [stage.name for stage in stages]
        if len(set(names)) < len(names):
            raise ConfigError(f"Every stage needs a name of its own, got {names}.")
        self.stages = tuple(stages)
        self.reset()

    @property
    def stage(self) -> Stage:
        return self.stages[min(self.index, len(self.stages) - 1)]

    def reset(self) -> None:
        self.index, self._ticks = 0, 0
        self._paid = [False] * len(self.stages)
        for stage in self.stages:
            stage.judge.reset()

    def clear_latch(self) -> None:
        """Forget the verdicts of the stage that is judged now; what was reached stays reached."""
        clear_latch(self.stage.judge)

    def score(self, step: TimeStep) -> tuple[float, bool]:
        """At most one stage advances per tick, so that each is judged on a look of its own."""
        last = len(self.stages) - 1
        if self.index > last:  # done, and it stays done until reset
            return self._worth(last), True
        stage = self.stage
        self._ticks += 1
        for other in self.stages:
            if other is not stage:
                _watch(other.judge, step.observation)
        if stage.judge.score(step)[1]:
            reward = 0.0 if self._paid[self.index] else self._worth(self.index)
            self._paid[self.index] = True  # a stage that is reached again pays nothing: no reward for going round
            self.index, self._ticks = self.index + 1, 0
            return reward, self.index > last
        if stage.timeout_ticks is not None and self._ticks >= stage.timeout_ticks:
            self._start_over()
        return 0.0, False

    def _worth(self, index: int) -> float:
        given = self.stages[index].reward
        return given if given is not None else float(index == len(self.stages) - 1)

    def _start_over(self) -> None:
        """The episode goes on: verdicts are forgotten, what was seen is not."""
        self.index, self._ticks = 0, 0
        for stage in self.stages:
            getattr(stage.judge, "clear_latch", stage.judge.reset)()


def _watch(judge: RewardModel, observation: Observation) -> None:
    """Judges that are not asked now build on what they saw before they are."""
    watch = getattr(judge, "watch", None)
    if watch is not None:
        watch(observation)


class PredicateReward:
    """Success by proprioception alone. Implements interfaces.RewardModel."""

    sees_for_itself = True

    def __init__(self, predicate: Predicate, debounce: Debounce | None = None) -> None:
        self._predicate = predicate
        self._latch = Latch(debounce or Debounce(1, 1))

    def reset(self) -> None:
        self._latch.reset()

    def clear_latch(self) -> None:
        self._latch.reset()

    def score(self, step: TimeStep) -> tuple[float, bool]:
        success = self._latch.see(self._predicate.holds(step.observation.proprio))
        return float(success), success


class BothReward:
    """Success where one judge and a condition on the proprioception agree at this tick.

    A judge that latches begins to count anew after every tick at which the condition did not hold.
    """

    sees_for_itself = True

    def __init__(self, judge: RewardModel, predicate: Predicate) -> None:
        self._judge, self._predicate = judge, predicate

    def reset(self) -> None:
        self._judge.reset()

    def clear_latch(self) -> None:
        clear_latch(self._judge)

    def watch(self, observation: Observation) -> None:
        _watch(self._judge, observation)

    def score(self, step: TimeStep) -> tuple[float, bool]:
        judged, holds = self._judge.score(step)[1], self._predicate.holds(step.observation.proprio)
        if not holds:
            clear_latch(self._judge)
        return float(judged and holds), judged and holds


# -- YAML --------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class StageConfig:
    """A stage as YAML gives it: a predicate, a reward by name, or both (then both must say success)."""

    name: str
    predicate: str = ""
    reward: str = ""
    debounce: tuple[int, int] = (1, 1)  # N of M ticks, of a predicate alone
    timeout_ticks: int | None = None
    worth: float | None = None  # reward of reaching it; null: 1 for the last stage, else 0


@dataclass(frozen=True)
class StagedConfig:
    """The whole file."""

    stages: tuple[StageConfig, ...]
    proprio: tuple[str, ...] = field(default_factory=tuple)  # names of the proprioception, for predicates
    robot: str = ""  # station that names it instead


def staged(path: str) -> StagedReward:
    """The state machine that a YAML file describes: ``--reward staged:PATH``."""
    from pld_core import bring
    from pld_core.stations import load_robot
    from pld_core.strict import build
    from pld_core.yaml_file import read_yaml

    config = build(StagedConfig, read_yaml(Path(path)), source=path)
    names = config.proprio or (tuple(load_robot(config.robot).proprio) if config.robot else ())
    return StagedReward([_stage(stage, names, path, bring.reward_factory) for stage in config.stages])


def _stage(config: StageConfig, names: Sequence[str], source: str, find: Callable[[Any], Any]) -> Stage:
    if not (config.predicate.strip() or config.reward):
        raise ConfigError(f"Stage {config.name!r} in {source} needs a predicate, a reward, or both.")
    predicate = Predicate.parse(config.predicate, names)
    if config.reward:
        judge = find(config.reward)()
        judge = BothReward(judge, predicate) if predicate.comparisons else judge
    else:
        judge = PredicateReward(predicate, Debounce(*config.debounce))
    return Stage(config.name, judge, config.timeout_ticks, config.worth)
