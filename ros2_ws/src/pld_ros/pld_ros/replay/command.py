"""``pld replay``: recorded episodes in the simulated twin, before another policy, or as the learner's data."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from pld_core.checkpoint import save_checkpoint
from pld_core.cli.common import take_flag, take_option
from pld_core.config import TrainConfig, load_config, preset_for
from pld_core.data.episode_store import EpisodeStore
from pld_core.data.replay import ReplayBuffer
from pld_core.errors import ConfigError, StageError
from pld_core.runlog import read_config
from pld_core.storage import finite, write_json
from pld_core.types import Episode
from pld_ros.recording.assembler import Assembled
from pld_ros.recording.bag_reader import recorded

HELP = """usage: pld replay RUN_OR_BAG (--twin | --policy PATH|base [--specialist CKPT] | --rebuild OUT) [flags]

RUN_OR_BAG is a run's folder that has bags/, or one bag.

  --twin             play the executed actions in the simulated twin; deviation per tick
  --policy PATH      ask a base policy (base: the run's own; a .vla file; module:factory) for its actions on the
                     recorded observations, and compare them with the recorded ones
  --specialist CKPT  with it, the residual of a run: <run>/checkpoints/specialist.ckpt
  --rebuild OUT      the episodes as the learner had them, in OUT/episodes, and its replay buffer, OUT/replay.ckpt

  --out DIR          where the JSON file and the picture go (default: replay/ in the run's folder)
  --mode NAME        only episodes of this mode (base, learn, probe, evaluate, oracle)
  --images           rebuild the buffer with the frames
  --as-learned       leave verdicts out that came too late for the learner
  --json             print nothing but the JSON object"""
DETAILS = ("episodes",)


def run(args: Sequence[str]) -> int:
    """Entry of the verb; returns the exit status."""
    if not args or "-h" in args or "--help" in args:
        print(HELP)
        return 0
    twin, rest = take_flag(args, "--twin")
    as_learned, rest = take_flag(rest, "--as-learned")
    images, rest = take_flag(rest, "--images")
    quiet, rest = take_flag(rest, "--json")
    options: dict[str, str | None] = {}
    for name in ("policy", "specialist", "rebuild", "out", "mode"):
        options[name], rest = take_option(rest, f"--{name}")
    source = _source(rest)
    if sum((twin, options["policy"] is not None, options["rebuild"] is not None)) != 1:
        raise ConfigError(f"pld replay takes one of --twin, --policy and --rebuild.\n{HELP}")
    if options["specialist"] and not options["policy"]:
        raise ConfigError("--specialist corrects a base policy: give --policy too (base: the run's own).")
    found = _episodes(source, options["mode"], as_learned, frames_too=options["policy"] is not None)
    if options["rebuild"] is not None:
        result = rebuild(found, Path(options["rebuild"]), settings(source, found[0][1].episode.spec.task), images)
    else:
        result = _compare(source, found, options)
    print(json.dumps(finite(result)) if quiet else readable(result))
    return 0


def settings(source: Path, task: str) -> TrainConfig:
    """Those of the run that the bags belong to, or the task's usual ones."""
    folder = run_folder(source)
    return read_config(folder) if (folder / "config.yaml").exists() else load_config(preset_for(task))


def run_folder(source: Path) -> Path:
    """The run of a run or a bag (of a bag elsewhere: the folder that it lies in)."""
    if not (source / "metadata.yaml").exists():
        return source.parent if source.name == "bags" else source
    return source.parents[1] if source.parent.name == "bags" else source.parent


def rebuild(found: Sequence[tuple[Path, Assembled]], out: Path, config: TrainConfig, images: bool) -> dict[str, Any]:
    """All episodes into a store (voided ones too, as they are), what may be trained on into a buffer."""
    store = EpisodeStore(out / "episodes")
    if len(store):
        raise ConfigError(f"{store.folder} holds {len(store)} episodes already. Give a new folder.")
    for path, (episode, report) in found:
        store.append(episode, bag=path.name, episode_id=report.episode_id, first_sequence=report.first_sequence)
    sound = [done.episode for _, done in found if not done.episode.voided]
    if not sound:
        raise StageError(f"All {len(found)} episodes are voided; there is nothing to train on. They are in {out}.")
    buffer = replay_of(sound, config.learn.gamma, images)
    save_checkpoint(out / "replay.ckpt", buffer.state_dict(), {"gamma": config.learn.gamma, "images": images})
    return {
        "episodes": len(store), "voided": len(store) - len(sound), "successes": sum(e.success for e in sound),
        "transitions": len(buffer), "out": str(out),
    }  # fmt: skip


def replay_of(episodes: Sequence[Episode], gamma: float, images: bool = False) -> ReplayBuffer:
    """A buffer that just holds these episodes."""
    first = episodes[0]
    shapes: dict[str, tuple[int, int, int]] = {}
    if images:
        shapes = {name: (f.shape[1], f.shape[2], f.shape[3]) for name, f in first.images.items()}
    rows = sum(len(episode) + 1 for episode in episodes)
    buffer = ReplayBuffer(rows, first.state.shape[1], first.action.shape[1], shapes, gamma)
    for episode in episodes:
        buffer.add(episode)
    return buffer


def _compare(source: Path, found: Sequence[tuple[Path, Assembled]], options: dict[str, str | None]) -> dict[str, Any]:
    episodes = {path.name: done.episode for path, done in found}
    if options["policy"] is None:
        from pld_ros.replay.twin import compare_with_twin, draw

        name, result = "twin", compare_with_twin(episodes)
    else:
        from pld_ros.replay.policy import compare_with_policy, draw

        config = settings(source, found[0][1].episode.spec.task)
        result = compare_with_policy(episodes, config, run_folder(source), options["policy"], options["specialist"])
        name = "policy"
    out = Path(options["out"] or run_folder(source) / "replay")
    write_json(out / f"{name}.json", result)
    draw(result, out / f"{name}.png")
    return {**result, "out": str(out / f"{name}.json"), "picture": str(out / f"{name}.png")}


def _episodes(source: Path, mode: str | None, as_learned: bool, frames_too: bool) -> list[tuple[Path, Assembled]]:
    found = recorded(source, as_learned, frames_too)
    chosen = [entry for entry in found if mode in (None, entry[1].episode.spec.mode)]
    if not chosen:
        modes = sorted({done.episode.spec.mode for _, done in found})
        raise ConfigError(f"No episode in {source} is of mode {mode!r}; there are {', '.join(modes)}.")
    return chosen


def _source(rest: Sequence[str]) -> Path:
    if len(rest) != 1 or rest[0].startswith("-"):
        raise ConfigError(f"pld replay takes one run's folder or bag, got {' '.join(rest) or 'none'!r}.\n{HELP}")
    source = Path(rest[0]).resolve()
    if not source.is_dir():
        raise ConfigError(f"{rest[0]} is no folder. Give a run's folder that has bags/, or one bag.")
    return source


def readable(result: dict[str, Any]) -> str:
    """One line for each number; the details are in the file."""
    return "\n".join(f"{key}: {_shown(value)}" for key, value in result.items() if key not in DETAILS)


def _shown(value: Any) -> str:
    if isinstance(value, list):
        return ", ".join(map(_shown, value))
    return f"{value:.4g}" if isinstance(value, float) else str(value)
