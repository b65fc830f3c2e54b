"""The base checkpoints that come with PLD: half-working on every task, and listening to the instruction."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

import numpy as np
import pytest

from pld_core.rewards import binary
from pld_core.stages import seeds
from pld_core.stages.runner import LocalRunner
from pld_core.stages.workspace import shipped_base
from pld_core.types import ActionChunk, EpisodeSpec, Observation
from pld_core.vla.compact_vla import CompactVLA
from pld_sim.tabletop import TASKS, make_environments

pytestmark = pytest.mark.slow


class Told:
    """The policy, told something else than what the environment asks for."""

    def __init__(self, policy: CompactVLA, instruction: str) -> None:
        self.policy, self.instruction = policy, instruction
        self.version, self.action_horizon, self.feature_dim = policy.version, policy.action_horizon, policy.feature_dim

    def infer(self, observations: Sequence[Observation]) -> list[ActionChunk]:
        return self.policy.infer([dataclasses.replace(o, instruction=self.instruction) for o in observations])


def success(policy: object, task: str, episodes: int) -> float:
    runner = LocalRunner(make_environments(task, 10), policy, binary)  # type: ignore[arg-type]
    specs = [EpisodeSpec(task, seed, record_images=False) for seed in seeds.test_seeds(episodes)]
    return float(np.mean([episode.success for episode in runner.run(specs)]))


@pytest.mark.parametrize(("head", "task"), [*(("flow", task) for task in TASKS), ("tokens", "peg_insertion")])
def test_the_base_succeeds_sometimes(head: str, task: str) -> None:
    assert 0.15 <= success(CompactVLA.load(shipped_base(head)), task, 40) <= 0.7


def test_another_instruction_makes_it_do_something_else() -> None:
    policy = CompactVLA.load(shipped_base("flow"))
    task, other = TASKS["cube_pickup"], TASKS["peg_insertion"]
    assert success(Told(policy, task.instruction), task.name, 20) >= 0.15
    assert success(Told(policy, other.instruction), task.name, 20) == 0.0
    seen = make_environments(task.name, 1)[0].reset(3).observation
    asked, swapped = (
        policy.infer([dataclasses.replace(seen, instruction=text)])[0].actions
        for text in (task.instruction, other.instruction)
    )
    assert np.abs(asked - swapped).mean() > 0.05
