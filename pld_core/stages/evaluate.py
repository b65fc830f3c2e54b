"""Success rates with intervals, on seeds that no training stage ever sees."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

import numpy as np

from pld_core.interfaces import ResidualActor
from pld_core.stages.background import BackgroundRunner
from pld_core.statistics import wilson
from pld_core.types import Episode, EpisodeSpec


@dataclass(frozen=True)
class Evaluation:
    """Outcome of some episodes; ``ci95`` is Wilson's interval, lengths are in ticks.

    Voided episodes stand in ``outcomes``, as failures, and in nothing else: they say nothing of the policy.
    """

    successes: int
    episodes: int
    rate: float
    ci95: tuple[float, float]
    mean_length: float
    mean_success_length: float
    outcomes: tuple[bool, ...]
    false_successes: int = 0  # claimed by the reward, denied by the environment
    missed_successes: int = 0  # the other way round
    voided: int = 0  # besides ``episodes``

    def by_reward(self) -> dict[str, Any]:
        """What a reward that sees for itself counts, and where the environment disagrees; for JSON."""
        low, high = self.ci95
        return {
            "successes": self.successes,
            "episodes": self.episodes,
            "rate": self.rate,
            "ci95": [round(low, 4), round(high, 4)],
            "false_successes": self.false_successes,
            "missed_successes": self.missed_successes,
            **self._void(),
        }

    def summary(self) -> dict[str, Any]:
        """Everything but the single outcomes, ready for JSON."""
        fields = asdict(self)
        for name in ("outcomes", "false_successes", "missed_successes", "voided"):
            fields.pop(name)
        return fields | {"ci95": [round(bound, 4) for bound in self.ci95], **self._void()}

    def _void(self) -> dict[str, int]:
        return {"voided": self.voided} if self.voided else {}


def evaluate(
    runner: BackgroundRunner,
    task: str,
    seeds: Sequence[int],
    actor: ResidualActor | None = None,
    xi: float = 0.0,
    on_progress: Callable[[int, dict[str, float]], None] = lambda done, metrics: None,
    round_size: int = 50,
    recorded: int = 0,
    see: Callable[[Episode], None] = lambda episode: None,
) -> Evaluation:
    """Run one deterministic episode per seed: the base alone, or with the residual fully on.

    see: is shown each episode; the first ``recorded`` have pictures, which are not kept.
    """
    t_base = None if actor is None else 0
    specs = [
        EpisodeSpec(task, seed, "evaluate", t_base=t_base, xi=xi, record_images=place < recorded)
        for place, seed in enumerate(seeds)
    ]
    episodes: list[Episode] = []
    for start in range(0, len(specs), round_size):
        for episode in runner.run(specs[start : start + round_size], actor):
            see(episode)
            episodes.append(replace(episode, images={}))
        on_progress(len(episodes), {"success_rate": summarise(episodes).rate})
    return summarise(episodes)


def summarise(episodes: Sequence[Episode]) -> Evaluation:
    sound = [episode for episode in episodes if not episode.voided]
    lengths = [len(episode) for episode in sound]
    success_lengths = [len(episode) for episode in sound if episode.success]
    successes = len(success_lengths)
    return Evaluation(
        successes=successes,
        episodes=len(sound),
        rate=successes / len(sound) if sound else 0.0,
        ci95=wilson(successes, len(sound)),
        mean_length=float(np.mean(lengths)) if sound else 0.0,
        mean_success_length=float(np.mean(success_lengths)) if successes else float("nan"),
        outcomes=tuple(bool(episode.success and not episode.voided) for episode in episodes),
        false_successes=sum(e.success and not e.environment_success for e in sound),
        missed_successes=sum(e.environment_success and not e.success for e in sound),
        voided=len(episodes) - len(sound),
    )
