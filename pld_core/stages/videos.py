"""Three short videos of one seed: the base fails, the specialist and VLA* succeed."""

from __future__ import annotations

import json

import numpy as np

from pld_core.interfaces import Environment, ResidualActor
from pld_core.stages.runner import LocalRunner
from pld_core.stages.seeds import test_seeds
from pld_core.stages.workspace import Workspace
from pld_core.types import EpisodeSpec
from pld_core.video import write_video


def write_videos(work: Workspace) -> None:
    """Write videos/{base,specialist,distilled}.mp4 for the first test seed that shows the difference."""
    outcomes = json.loads((work.folder / "outcomes.json").read_text())
    seed = test_seeds(work.config.evaluate.episodes)[_telling_index(outcomes)]
    star = work.distilled
    xi = work.config.learn.xi_max
    alone = EpisodeSpec(work.task, seed, "evaluate", record_images=False)
    aided = EpisodeSpec(work.task, seed, "evaluate", t_base=0, xi=xi, record_images=False)
    judge = work.judge or work.runner
    takes = [("base", judge, alone, None), ("specialist", judge, aided, work.specialist())]
    if star is not None:
        takes.append(("distilled", judge.with_policy(star), alone, None))
    for name, runner, spec, actor in takes:
        success, frames = runner.call(
            lambda r=runner, s=spec, a=actor: _film(r.runner, s, a, work.config.report.video_size)
        )
        _save(work, name, seed, success, frames)


def _film(
    runner: LocalRunner, spec: EpisodeSpec, actor: ResidualActor | None, size: int
) -> tuple[bool, list[np.ndarray]]:
    frames: list[np.ndarray] = []
    episode = next(iter(runner.run([spec], actor, lambda environment: frames.append(_picture(environment, size)))))
    return episode.success, frames


def _telling_index(outcomes: dict[str, list[bool]]) -> int:
    """First seed where the base fails and the others succeed; else the best that there is."""
    base = outcomes["base"]
    others = [outcomes[name] for name in ("specialist", "distilled") if name in outcomes]
    scores = [(not succeeded) * 4 + sum(other[k] for other in others) for k, succeeded in enumerate(base)]
    return int(np.argmax(scores))


def _picture(environment: Environment, size: int) -> np.ndarray:
    return environment.render(size, size * 4 // 3)  # type: ignore[attr-defined]


def _save(work: Workspace, name: str, seed: int, success: bool, frames: list[np.ndarray]) -> None:
    still = [frames[-1]] * (work.config.report.video_fps // 2)  # let the last picture be seen
    labels = {"base": "base VLA", "specialist": "specialist", "distilled": "VLA*"}
    caption = f"{labels[name]}: {'succeeds' if success else 'fails'} (seed {seed})"
    path = work.folder / "videos" / f"{name}.mp4"
    write_video(path, np.stack([*frames, *still]), fps=work.config.report.video_fps, caption=caption)
