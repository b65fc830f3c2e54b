"""Stage 0: roll out the frozen base and keep everything; its successes become the offline data."""

from __future__ import annotations

from collections.abc import Callable
from itertools import islice

from pld_core.data.episode_store import EpisodeStore
from pld_core.errors import StageError
from pld_core.stages.background import BackgroundRunner
from pld_core.stages.seeds import training_seeds
from pld_core.types import Episode, EpisodeSpec

Progress = Callable[[int, dict[str, float]], None]


def harvest(
    runner: BackgroundRunner,
    store: EpisodeStore,
    task: str,
    run_seed: int,
    successes: int,
    max_episodes: int,
    record_images: bool = False,
    round_size: int = 20,
    on_progress: Progress = lambda done, metrics: None,
) -> None:
    """Append base episodes to ``store`` until it holds ``successes`` successful ones.

    Continues where an interrupted harvest stopped: attempt k always has the k-th seed, the stored
    metadata says which attempts came before, and rounds end where they always would, so that an
    interruption changes nothing. Raises StageError when ``max_episodes`` do not hold enough successes.
    """
    kept = sum(map(_counts, store))
    attempts = 1 + max((m.get("attempt", k) for k, m in enumerate(store.metadata())), default=-1)
    while attempts < max_episodes and (kept < successes or attempts % round_size):
        until = min(attempts + round_size - attempts % round_size, max_episodes)
        seeds = list(islice(training_seeds("harvest", run_seed), attempts, until))
        specs = [EpisodeSpec(task, seed, "base", record_images=record_images) for seed in seeds]
        for episode in runner.run(specs):
            store.append(episode, attempt=attempts)
            attempts += 1
            kept += _counts(episode)
        on_progress(min(kept, successes), {"episodes": len(store), "base_success": kept / len(store)})
    if kept < successes:
        raise StageError(
            f"The base succeeded in {kept} of {len(store)} episodes of {task!r}; the offline data need {successes} "
            "successes. Raise harvest.max_episodes, lower harvest.successes, or start from a better base policy."
        )


def successful(store: EpisodeStore) -> list[Episode]:
    """The stored successes, in the order they were recorded."""
    return [episode for episode in store if _counts(episode)]


def _counts(episode: Episode) -> bool:
    return episode.success and not episode.voided
