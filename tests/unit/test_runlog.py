"""The run folder: what survives a crash, and what is refused."""

from __future__ import annotations

import errno
import json
import os
import signal
import subprocess
import sys
import textwrap
import types
from pathlib import Path

import pytest

from pld_core import metrics, stage_clock, storage
from pld_core.config import load_config
from pld_core.errors import CheckpointError, ConfigError, StorageError
from pld_core.metrics import MetricsFile
from pld_core.runlog import RunLog, read_config


def config(tmp_path, **overrides):
    return load_config("debug", {"runs_dir": str(tmp_path / "runs"), "name": "r", **overrides})


def test_a_new_run_records_settings_provenance_and_latest(tmp_path):
    settings = config(tmp_path)
    with RunLog(settings) as run:
        assert not run.resumed
        run.log("learn", 10, critic_loss=0.5, updates=3)
    assert read_config(run.dir) == settings
    start = json.loads((run.dir / "environment.json").read_text())["starts"][0]
    assert {"git", "dirty", "python", "cpu", "cores", "packages"} <= set(start)
    assert start["packages"]["numpy"]
    assert os.readlink(tmp_path / "runs" / "latest") == "r"
    assert any((run.dir / "tensorboard").iterdir())
    row = run.rows("learn")[0]
    assert (row["env_steps"], row["critic_loss"], row["updates"]) == (10, 0.5, 3)


def test_the_same_settings_resume_and_finished_stages_stay_finished(tmp_path):
    with RunLog(config(tmp_path)) as run:
        run.log("harvest", 5, success_rate=0.2)
        run.finish_stage("harvest", seconds=1.5, successes=3)
    with RunLog(config(tmp_path)) as again:
        assert again.resumed
        assert again.stage_done("harvest")
        assert not again.stage_done("learn")
        assert again.stage_result("harvest") == {"stage": "harvest", "seconds": 1.5, "successes": 3}
        assert len(again.rows()) == 1
    assert len(json.loads((run.dir / "environment.json").read_text())["starts"]) == 2


def test_other_settings_are_refused_with_the_keys_and_the_way_out(tmp_path):
    RunLog(config(tmp_path)).close()
    with pytest.raises(ConfigError, match=r"(?s)learn\.steps: was 200, now 7.*--name.*--fresh"):
        RunLog(config(tmp_path, **{"learn.steps": 7}))
    RunLog(config(tmp_path, wandb=False, **{"report.videos": False})).close()  # changes nothing that is computed


def test_fresh_puts_the_old_run_aside_and_deletes_nothing(tmp_path):
    with RunLog(config(tmp_path)) as run:
        run.log("learn", 1, x=1)
    for n in (1, 2):
        with RunLog(config(tmp_path, fresh=True)) as run:
            assert not run.resumed
            assert run.rows() == []
        assert (tmp_path / "runs" / f"r.old-{n}" / "config.yaml").exists()
    assert metrics.read_rows(tmp_path / "runs" / "r.old-1" / "metrics.jsonl")[0]["x"] == 1


def test_a_second_process_is_told_who_holds_the_run(tmp_path):
    with RunLog(config(tmp_path)), pytest.raises(StorageError, match=rf"in use by process {os.getpid()}"):
        RunLog(config(tmp_path))
    RunLog(config(tmp_path)).close()


def test_a_lock_left_by_a_dead_process_is_taken_over(tmp_path):
    folder = tmp_path / "runs" / "r"
    folder.mkdir(parents=True)
    (folder / ".lock").write_text("999999")
    with RunLog(config(tmp_path)):
        assert (folder / ".lock").read_text() == str(os.getpid())


def test_a_failed_start_gives_the_lock_back(tmp_path):
    RunLog(config(tmp_path)).close()
    for _ in range(2):
        with pytest.raises(ConfigError):
            RunLog(config(tmp_path, seed=9))
    RunLog(config(tmp_path)).close()


def test_kill_9_while_logging_leaves_whole_lines_and_no_lock(tmp_path):
    program = textwrap.dedent(
        f"""
        import itertools
        from pld_core.config import load_config
        from pld_core.runlog import RunLog
        run = RunLog(load_config("debug", {{"runs_dir": {str(tmp_path / "runs")!r}, "name": "r"}}))
        for step in itertools.count():
            run._metrics.append({{"stage": "learn", "env_steps": step, "text": "x" * 500}})
            if step == 200:
                print("ready", flush=True)
        """
    )
    process = subprocess.Popen([sys.executable, "-c", program], stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    assert process.stdout.readline() == "ready\n"
    process.send_signal(signal.SIGKILL)
    process.wait()
    process.stdout.close()
    with RunLog(config(tmp_path)) as run:
        assert run.resumed
        rows = run.rows()
        assert len(rows) >= 200
        assert [row["env_steps"] for row in rows] == list(range(len(rows)))


@pytest.mark.parametrize("torn", [b'{"stage":"le', b"{", b"\xff\xfe"])
def test_a_torn_last_line_is_cut_off(tmp_path, torn):
    path = tmp_path / "metrics.jsonl"
    path.write_bytes(b'{"a":1}\n' + torn)
    assert metrics.read_rows(path) == [{"a": 1}]  # a reader may come before the healing
    file = MetricsFile(path)
    file.append({"a": 2})
    file.close()
    assert path.read_bytes() == b'{"a":1}\n{"a":2}\n'


def test_rows_beyond_a_checkpoint_are_dropped(tmp_path):
    with RunLog(config(tmp_path)) as run:
        for step in (1, 2, 3):
            run.log("learn", step)
        run.log("eval", 9)
        run.rewind("learn", 2)
        run.log("learn", 3, again=True)
        assert [(r["stage"], r["env_steps"]) for r in run.rows()] == [
            ("learn", 1),
            ("learn", 2),
            ("eval", 9),
            ("learn", 3),
        ]


def test_not_a_number_is_stored_as_null(tmp_path):
    with RunLog(config(tmp_path)) as run:
        run.log("learn", 1, loss=float("nan"), success=float("inf"))
    assert json.loads((run.dir / "metrics.jsonl").read_text())["loss"] is None


def test_a_full_disk_is_one_clear_error_and_keeps_the_rows(tmp_path, monkeypatch):
    path = tmp_path / "metrics.jsonl"
    file = MetricsFile(path)
    file.append({"a": 1})
    real_write = os.write

    def half_then_full(descriptor, data):
        real_write(descriptor, data[: len(data) // 2])
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "write", half_then_full)
    with pytest.raises(StorageError, match="disk is full"):
        file.append({"a": 2})
    monkeypatch.setattr(os, "write", lambda descriptor, data: real_write(descriptor, data[:3]))
    with pytest.raises(StorageError, match="disk is full"):
        file.append({"a": 3})
    monkeypatch.undo()
    file.append({"a": 4})
    file.close()
    assert metrics.read_rows(path) == [{"a": 1}, {"a": 4}]
    assert path.read_bytes().count(b"\n") == 2


def test_an_atomic_write_that_fails_leaves_the_old_file(tmp_path):
    path = tmp_path / "state.json"
    storage.write_json(path, {"good": True})

    def fail(file):
        file.write(b"half")
        raise OSError(errno.ENOSPC, "No space left on device")

    with pytest.raises(StorageError, match="disk is full"):
        storage.write_atomic(path, fail)
    assert json.loads(path.read_text()) == {"good": True}
    assert [p.name for p in tmp_path.iterdir()] == ["state.json"]


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="needs /dev/full")
def test_the_kernels_own_full_disk():
    full = Path("/dev/full")
    with pytest.raises(StorageError, match="disk is full"), storage.storage_errors(full), open(full, "wb", 0) as file:
        file.write(b"x")


def test_a_damaged_stage_file_says_what_to_delete(tmp_path):
    with RunLog(config(tmp_path)) as run:
        run.finish_stage("learn")
        (run.dir / "stages" / "learn.json").write_text("{")
        with pytest.raises(CheckpointError, match=r"learn\.json.*delete it"):
            run.stage_result("learn")


def test_a_real_folder_named_latest_is_left_alone(tmp_path):
    (tmp_path / "runs" / "latest").mkdir(parents=True)
    RunLog(config(tmp_path)).close()
    assert not (tmp_path / "runs" / "latest").is_symlink()


def test_a_folder_without_a_run_is_named(tmp_path):
    with pytest.raises(ConfigError, match="holds no run"):
        read_config(tmp_path)


def test_weights_and_biases_is_optional(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "wandb", None)
    with pytest.raises(ConfigError, match=r"--wandb needs the package wandb"):
        RunLog(config(tmp_path, wandb=True))
    logged = []
    fake = types.SimpleNamespace(init=lambda **_: types.SimpleNamespace(log=logged.append, finish=lambda: None))
    monkeypatch.setitem(sys.modules, "wandb", fake)
    with RunLog(config(tmp_path, wandb=True)) as run:
        run.log("learn", 3, loss=0.5, note="text is not a curve")
    assert logged == [{"learn/loss": 0.5, "learn/env_steps": 3}]


def test_the_time_of_an_interrupted_stage_is_kept(tmp_path, monkeypatch):
    now = [100.0]
    monkeypatch.setattr(stage_clock.StageClock.__init__, "__defaults__", (5.0, lambda: now[0]))
    with RunLog(config(tmp_path)) as run:
        run.begin_stage("harvest")
        now[0] += 7
        run.finish_stage("harvest")
        run.begin_stage("learn")
        now[0] += 60  # an interrupted process
    now[0] += 1000  # nobody works
    with RunLog(config(tmp_path)) as run:
        assert (run.stage_seconds("harvest"), run.stage_seconds("learn"), run.stage_seconds("eval")) == (7, 60, 0)
        run.begin_stage("learn")
        now[0] += 40
        run.log("learn", 1)
        kept = json.loads((run.dir / "clock.json").read_text())
        assert kept == {"learn": 100}  # what kill -9 would leave
        now[0] += 4
        run.log("learn", 2)  # too soon to write again
        assert json.loads((run.dir / "clock.json").read_text()) == kept
        assert run.stage_seconds("learn") == 104
        run.finish_stage("learn", updates=3)
        assert run.stage_result("learn") == {"stage": "learn", "seconds": 104, "updates": 3}
        run.begin_stage("learn")  # once more from the start
        now[0] += 2
        assert run.stage_seconds("learn") == 2


def test_a_damaged_clock_costs_the_count_and_not_the_run(tmp_path):
    for damage in ("{", "[1]", '{"learn": "long"}'):
        with RunLog(config(tmp_path)) as run:
            (run.dir / "clock.json").write_text(damage)
        with RunLog(config(tmp_path)) as run:
            assert run.stage_seconds("learn") == 0


def test_opening_a_run_removes_what_killed_writers_left(tmp_path):
    with RunLog(config(tmp_path)) as run:
        folder = run.checkpoint_dir("learn")
    dead = subprocess.Popen([sys.executable, "-c", ""])
    dead.wait()
    gone = [folder / f".learn.ckpt.{number}.{kind}" for number in (dead.pid, os.getpid()) for kind in ("tmp", "link")]
    kept = [folder / f".report.html.{os.getppid()}.tmp", folder / "learn.ckpt", folder / ".notes.tmp"]
    for path in (*gone, *kept):
        path.write_bytes(b"half")
    RunLog(config(tmp_path)).close()
    assert not [path for path in gone if path.exists()]
    assert all(path.exists() for path in kept)
