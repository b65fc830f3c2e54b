"""Plays recorded actions in the simulated twin and measures how far it goes astray."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from pld_core import bring
from pld_core.errors import ConfigError
from pld_core.interfaces import Environment
from pld_core.types import Episode

POSITION = ("tool_x_m", "tool_y_m", "tool_z_m")
ROTATION = ("tool_rx_rad", "tool_ry_rad", "tool_rz_rad")
COLUMNS = {"position_mm": "tool, mm", "rotation_rad": "rotation, rad", "proprio": "any entry", "reward": "reward"}


def compare_with_twin(episodes: Mapping[str, Episode]) -> dict[str, Any]:
    """Deviation of the twin from each episode (by name), per tick and at most.

    0 throughout means that the recording is what the simulator does with these actions.
    """
    tasks = {episode.spec.task for episode in episodes.values()}
    if len(tasks) != 1 or "" in tasks:
        raise ConfigError(f"The episodes are of the tasks {sorted(tasks)}; replay those of one task at a time.")
    environment = bring.environment_factory(tasks.pop())(1)[0]
    if hasattr(environment, "stop_at_success"):
        environment.stop_at_success = False  # type: ignore[attr-defined]  # the recording may have gone on
    try:
        found = [_compare(environment, name, episode) for name, episode in episodes.items()]
    finally:
        environment.close()
    worst = {f"max_{key}": max((e[f"max_{key}"] for e in found if f"max_{key}" in e), default=0.0) for key in COLUMNS}
    return {
        "task": environment.task,
        "ticks": sum(e["ticks"] for e in found),
        **worst,
        "exact": all(e["exact"] for e in found),
        "episodes": found,
    }


def _compare(environment: Environment, name: str, episode: Episode) -> dict[str, Any]:
    proprio, reward = _play(environment, episode)
    difference = np.abs(episode.proprio.astype(np.float64) - proprio)
    seen = np.isfinite(difference).all(1)  # a voided episode ends with a row that nobody saw
    difference = difference[seen]
    columns = {"proprio": difference.max(1), "reward": np.abs(episode.reward.astype(np.float64) - reward)}
    names = environment.observation_spec.proprio_names
    for key, entries, unit in (("position_mm", POSITION, 1e3), ("rotation_rad", ROTATION, 1.0)):
        if set(entries) <= set(names):
            columns[key] = unit * np.linalg.norm(difference[:, [names.index(entry) for entry in entries]], axis=1)
    result: dict[str, Any] = {"bag": name, "seed": episode.spec.seed, "ticks": len(episode), "voided": episode.voided}
    result |= {f"max_{key}": float(values.max(initial=0.0)) for key, values in columns.items()}
    result["exact"] = not any(values.any() for values in columns.values())
    return result | {key: values.tolist() for key, values in columns.items()}


def _play(environment: Environment, episode: Episode) -> tuple[np.ndarray, np.ndarray]:
    """The twin's proprio ``[T + 1, P]`` and reward ``[T]``."""
    step = environment.reset(episode.spec.seed)
    if step.observation.proprio.shape != episode.proprio[0].shape:
        raise ConfigError(
            f"The recording has {episode.proprio.shape[1]} proprioception entries, the twin of "
            f"{environment.task!r} has {step.observation.proprio.size}: it is no twin of that robot."
        )
    proprio, reward = [step.observation.proprio], []
    for action in episode.action:
        if step.last:  # the twin ended earlier: what it would have shown is unknown
            proprio.append(np.full_like(proprio[0], np.inf))
            reward.append(np.inf)
            continue
        step = environment.step(np.array(action))
        proprio.append(step.observation.proprio)
        reward.append(step.reward)
    return np.stack(proprio).astype(np.float64), np.array(reward, np.float64)


def draw(result: Mapping[str, Any], path: Path) -> None:
    """Deviation over ticks, one line for each episode."""
    lines: dict[str, Sequence[Sequence[float]]] = {
        title: [episode[key] for episode in result["episodes"] if key in episode] for key, title in COLUMNS.items()
    }
    plot(
        {title: series for title, series in lines.items() if series}, f"{result['task']}: twin against recording", path
    )


def plot(panels: Mapping[str, Sequence[Sequence[float]]], title: str, path: Path) -> None:
    """One panel below the other, ticks to the right."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(7, 1.6 * len(panels) + 0.8), layout="constrained")
    figure.suptitle(title, fontsize=10)
    for axes, (name, series) in zip(np.atleast_1d(figure.subplots(len(panels), sharex=True)), panels.items()):
        for values in series:
            axes.plot(values, linewidth=1, color="tab:blue", alpha=0.6)
        axes.set_ylabel(name, fontsize=8)
        axes.grid(alpha=0.3)
    figure.supxlabel("tick", fontsize=8)
    figure.savefig(path, dpi=120)
