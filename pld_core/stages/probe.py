"""Stage 2: the base drives for a random time, the specialist takes over, successes are kept."""

from __future__ import annotations

from collections.abc import Callable
from itertools import islice

import numpy as np

from pld_core.data.episode_store import EpisodeStore
from pld_core.errors import StageError
from pld_core.interfaces import ResidualActor
from pld_core.stages.background import BackgroundRunner
from pld_core.stages.seeds import training_seeds
from pld_core.types import EpisodeSpec

Progress = Callable[[int, dict[str, float]], None]


def probe_spec(task: str, seed: int, alpha: float, horizon: int, xi: float) -> EpisodeSpec:
    """One probe: ``T_base ~ U{0 .. alpha * T}``, drawn from the episode's own seed."""
    t_base = int(np.random.default_rng(seed).integers(0, int(alpha * horizon) + 1))
    return EpisodeSpec(task, seed, "probe", t_base=t_base, xi=xi)


def probe(
    runner: BackgroundRunner,
    actor: ResidualActor | None,
    store: EpisodeStore,
    make_spec: Callable[[int], EpisodeSpec],
    run_seed: int,
    episodes: int,
    round_size: int = 20,
    on_progress: Progress = lambda done, metrics: None,
) -> dict[str, float]:
    """Keep ``episodes`` successes in ``store``; returns how the probed episodes went.

    Every kept tick says who acted (``Episode.source``). Continues an interrupted probe: attempt k
    always has the k-th seed and the stored metadata says how many attempts came before.
    """
    lengths = [len(episode) for episode in store]  # reading first: it leaves damaged files out of the metadata
    attempts = max((int(m["attempt"]) + 1 for m in store.metadata()), default=0)
    while len(store) < episodes:
        seeds = list(islice(training_seeds("probe", run_seed), attempts, attempts + round_size))
        for episode in runner.run([make_spec(seed) for seed in seeds], actor):
            attempts += 1
            if episode.success and not episode.voided and len(store) < episodes:
                store.append(episode, attempt=attempts - 1)
                lengths.append(len(episode))
            elif len(store) >= episodes:
                attempts -= 1  # not needed any more: neither kept nor counted
        if attempts >= 10 * episodes + 100 and len(store) < attempts / 20:
            raise StageError(
                f"Only {len(store)} of {attempts} probes succeeded. Look at the specialist's success in the learn "
                "stage first; learn.steps may be too few."
            )
        on_progress(
            len(store), {"probe_success": len(store) / attempts, "probe_length": float(np.mean(lengths or [0]))}
        )
    return {
        "attempts": attempts,
        "kept": len(store),
        "success": len(store) / attempts,
        "length": float(np.mean(lengths)),
    }
