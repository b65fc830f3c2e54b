"""The folder of a run: settings, provenance, metrics, finished stages; safe against kill -9.

::

    runs/<name>/config.yaml      resolved settings           metrics.jsonl   one JSON object a line
                environment.json versions, machine, git      tensorboard/    the same, as events
                stages/<s>.json  results of finished stages  checkpoints/    written by the stages
                clock.json       seconds of unfinished stages
    runs/latest -> <name>
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import math
import os
import time
from pathlib import Path
from typing import Any

import yaml

from pld_core import system
from pld_core.config import TrainConfig, differing_keys, from_dict, to_yaml
from pld_core.errors import CheckpointError, ConfigError, StorageError
from pld_core.events import EventFile
from pld_core.metrics import MetricsFile
from pld_core.stage_clock import StageClock
from pld_core.storage import remove_leftovers, storage_errors, write_atomic, write_json


class RunLog:
    """One run's folder, held by one process at a time.

    Use as a context manager. ``log`` adds metrics; ``begin_stage`` counts the time of a stage and
    ``finish_stage`` marks it as done with its result, so that the next start of the same command skips it.
    """

    def __init__(self, config: TrainConfig, folder: Path | None = None) -> None:
        """Create the folder, or resume it if its settings agree; ``config.fresh`` puts an old one aside."""
        self.config = config
        self.dir = folder or Path(config.runs_dir) / config.run_name
        with storage_errors(self.dir):
            self.dir.mkdir(parents=True, exist_ok=True)
            self._lock = _Lock(self.dir / ".lock")
        try:
            if config.fresh and (self.dir / "config.yaml").exists():
                self._put_aside()
            self.resumed = (self.dir / "config.yaml").exists()
            self._check_or_write_config()
            remove_leftovers(self.dir)
            self._record_start()
            self._metrics = MetricsFile(self.dir / "metrics.jsonl")
            self._events: dict[str, EventFile] = {}
            self._clock = StageClock(self.dir / "clock.json")
            self._wandb = _start_wandb(config, self.dir) if config.wandb else None
            _point_latest(self.dir)
        except BaseException:
            self._lock.release()
            raise

    def log(self, stage: str, env_steps: int, **metrics: Any) -> None:
        """Append one row; numbers also go to TensorBoard at ``env_steps``.

        Names may hold slashes: ``log("learn", 1200, updates=800, **{"eval/success": 0.4})``.
        """
        row = {"stage": stage, "env_steps": int(env_steps), **metrics, "time": round(time.time(), 3)}
        self._metrics.append(row)
        numbers = {f"{stage}/{key}": float(v) for key, v in metrics.items() if _is_finite_number(v)}
        self._events_of(stage).add(numbers, int(env_steps))
        self._clock.keep()
        if self._wandb is not None:
            self._wandb.log({**numbers, f"{stage}/env_steps": int(env_steps)})

    def tick(self) -> None:
        """Keep the running stage's time, against kill -9; cheap enough for every step of progress."""
        self._clock.keep()

    def rewind(self, stage: str, env_steps: int) -> None:
        """Drop this stage's rows after ``env_steps``: they will be logged again from a checkpoint."""
        self._metrics.keep(lambda row: row.get("stage") != stage or row.get("env_steps", 0) <= env_steps)
        self._events_of(stage).restart(int(env_steps) + 1)

    def rows(self, stage: str | None = None) -> list[dict[str, Any]]:
        """All metrics so far, or those of one stage."""
        return [row for row in self._metrics.rows() if stage in (None, row.get("stage"))]

    def stage_done(self, stage: str) -> bool:
        return self._stage_file(stage).exists()

    def stage_result(self, stage: str) -> dict[str, Any]:
        """What ``finish_stage`` was given, with ``seconds``."""
        path = self._stage_file(stage)
        try:
            return json.loads(path.read_text(encoding="utf-8"))
        except (OSError, json.JSONDecodeError) as error:
            raise CheckpointError(
                f"{path} cannot be read ({error}); delete it and the stage {stage!r} runs again."
            ) from error

    def begin_stage(self, stage: str) -> None:
        """Start or continue the stage's clock; a stage that was finished counts from zero again."""
        if self.stage_done(stage):
            self._clock.drop(stage)
        self._clock.begin(stage)

    def stage_seconds(self, stage: str) -> float:
        """Time that the stage took or, unfinished, has taken so far in all processes that worked on it."""
        if self.stage_done(stage) and not self._clock.seconds(stage):
            return float(self.stage_result(stage).get("seconds", 0.0))
        return self._clock.seconds(stage)

    def finish_stage(self, stage: str, seconds: float | None = None, **result: Any) -> None:
        """Mark a stage as done. Its files must be complete before this is called. seconds: None is by the clock."""
        taken = self._clock.seconds(stage) if seconds is None else seconds
        write_json(self._stage_file(stage), {"stage": stage, "seconds": round(taken, 3), **result})
        self._clock.drop(stage)

    def checkpoint_dir(self, stage: str) -> Path:
        """The folder for a stage's checkpoints, created."""
        path = self.dir / "checkpoints" / stage
        with storage_errors(path):
            path.mkdir(parents=True, exist_ok=True)
        return path

    def close(self) -> None:
        """Give everything back; whatever fails, the lock is released and the error on its way is not replaced."""
        with contextlib.ExitStack() as last:
            last.callback(self._lock.release)
            if self._wandb is not None:
                last.callback(self._wandb.finish)
            for file in self._events.values():
                last.callback(file.close)
            with contextlib.suppress(OSError, StorageError):
                self._clock.close()
            with contextlib.suppress(OSError):
                self._metrics.close()

    def __enter__(self) -> RunLog:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _events_of(self, stage: str) -> EventFile:
        """A folder per stage: a restart makes TensorBoard forget every curve of its folder, and steps differ."""
        return self._events.setdefault(stage, EventFile(self.dir / "tensorboard" / stage))

    def _stage_file(self, stage: str) -> Path:
        return self.dir / "stages" / f"{stage}.json"

    def _check_or_write_config(self) -> None:
        path = self.dir / "config.yaml"
        if not self.resumed:
            write_atomic(
                path, "# Resolved settings of this run. Resume with the same command.\n" + to_yaml(self.config)
            )
            return
        different = differing_keys(read_config(self.dir), self.config)
        if different:
            lines = "\n".join(f"  {key}: was {old!r}, now {new!r}" for key, (old, new) in different.items())
            raise ConfigError(
                f"{self.dir} was started with other settings:\n{lines}\n"
                "Use --name <other> for a new run beside it, or --fresh to put the old one aside and start over."
            )

    def _record_start(self) -> None:
        """Append this start to environment.json: a resumed run may have seen several revisions."""
        path = self.dir / "environment.json"
        revision, dirty = system.git_revision()
        start = {"started": time.strftime("%Y-%m-%dT%H:%M:%S%z"), "git": revision, "dirty": dirty, **system.describe()}
        earlier: list[Any] = []
        with contextlib.suppress(OSError, json.JSONDecodeError, KeyError, TypeError):
            earlier = json.loads(path.read_text(encoding="utf-8"))["starts"]
        write_json(path, {"starts": [*earlier, start]})

    def _put_aside(self) -> None:
        """Rename what is there to ``<name>.old-<n>``; nothing of the user's is deleted."""
        target = next(p for n in range(1, 10_000) if not (p := self.dir.with_name(f"{self.dir.name}.old-{n}")).exists())
        with storage_errors(target):
            target.mkdir()
            for item in self.dir.iterdir():
                if item.name != ".lock":
                    item.rename(target / item.name)


def read_config(run_dir: Path) -> TrainConfig:
    """The settings that a run was started with."""
    path = run_dir / "config.yaml"
    try:
        return from_dict(yaml.safe_load(path.read_text(encoding="utf-8")), source=str(path))
    except OSError as error:
        raise ConfigError(f"{run_dir} holds no run (no readable config.yaml: {error.strerror}).") from error
    except yaml.YAMLError as error:
        raise ConfigError(f"{path} is not valid YAML: {error}") from error


class _Lock:
    """An advisory lock that the kernel drops when its process dies, so that it can never be stale."""

    def __init__(self, path: Path) -> None:
        self._file = open(path, "a+", encoding="utf-8")  # noqa: SIM115 (held until release)
        try:
            fcntl.flock(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            self._file.seek(0)
            holder = self._file.read().strip() or "unknown"
            self._file.close()
            raise StorageError(
                f"{path.parent} is in use by process {holder}. Wait for it or stop it, or choose another --name."
            ) from error
        self._file.truncate(0)
        self._file.write(str(os.getpid()))
        self._file.flush()

    def release(self) -> None:
        with contextlib.suppress(OSError):  # its number may still be in the buffer of a full disk
            self._file.close()


def _start_wandb(config: TrainConfig, folder: Path) -> Any:
    try:
        import wandb  # type: ignore[import-not-found]
    except ImportError as error:
        raise ConfigError("--wandb needs the package wandb: pip install wandb. Or leave the flag away.") from error
    return wandb.init(project="pld", name=config.run_name, dir=str(folder), resume="allow", id=config.run_name)


def _point_latest(run_dir: Path) -> None:
    """``runs/latest`` -> this run; replaced in one step, a real file or folder of that name is left alone."""
    link = run_dir.parent / "latest"
    if link.exists() and not link.is_symlink():
        return
    temporary = link.with_name(f".latest.{os.getpid()}")
    with storage_errors(link):
        temporary.unlink(missing_ok=True)
        temporary.symlink_to(run_dir.name, target_is_directory=True)
        os.replace(temporary, link)


def _is_finite_number(value: Any) -> bool:
    if isinstance(value, (str, bool, bytes)) or not hasattr(value, "__float__") or getattr(value, "ndim", 0) != 0:
        return False
    return math.isfinite(float(value))
