"""`pld bench ros` on real folders: what the link has on disk, and the real graph for a few seconds."""

from __future__ import annotations

import json
import math
import subprocess
import sys

import pytest

from pld_core.cli import bench
from pld_core.errors import PLDError
from pld_core.link.codec import encode
from pld_core.link.marks import Mark
from pld_core.link.spool import Spool

sys.path.append(str(bench.benchmarks_folder()))
from ros_folder import read_link

EPISODE = "a-000001"


@pytest.fixture
def run_dir(tmp_path):
    """Three steps and an outcome have been sent; the learner has acknowledged none of them."""
    spool = Spool(tmp_path / "spool", "replay_logger", 2**20)
    for number in range(3):
        record = {"kind": "step", "episode_id": EPISODE, "sequence": 70 + number, "closing": number == 2}
        spool.append(encode(record))
    spool.append(encode({"kind": "episode", "episode_id": EPISODE}))
    spool.sync()
    spool.close()
    (tmp_path / "logged.jsonl").write_text(json.dumps({"episode_id": EPISODE}) + "\n")
    (tmp_path / "link").mkdir()
    return tmp_path


def acknowledge(run_dir, number):
    identity = json.loads((run_dir / "spool" / "identity.json").read_text())["spool"]
    mark = Mark(run_dir / "link" / f"replay_logger.{identity}")
    mark.write(number)
    mark.close()


def test_what_the_learner_has_not_acknowledged_is_found_in_the_spool(run_dir):
    link = read_link(run_dir)
    assert (link.acknowledged, link.sent, link.unreadable, link.finished) == (0, 4, 0, {EPISODE})
    assert link.kept == [(EPISODE, 70, False), (EPISODE, 71, False), (EPISODE, 72, True)]
    acknowledge(run_dir, 1)
    assert [sequence for _, sequence, _ in read_link(run_dir).kept] == [71, 72]
    acknowledge(run_dir, 4)
    link = read_link(run_dir)
    assert (link.acknowledged, link.sent, link.kept, link.unreadable) == (4, 4, [], 0)


def test_records_that_the_disk_lost_are_noticed(run_dir):
    acknowledge(run_dir, 1)
    (segment,) = (run_dir / "spool").glob("segment-*")
    content = segment.read_bytes()
    segment.write_bytes(content[: len(content) // 2])
    link = read_link(run_dir)
    assert link.sent == 4
    assert link.unreadable + len(link.kept) == 3
    assert link.unreadable >= 2


def test_a_folder_that_holds_no_run_is_refused(tmp_path):
    with pytest.raises(PLDError, match="No bags in"):
        bench.run(["ros", "--run", str(tmp_path)])
    with pytest.raises(PLDError, match="needs a new folder"):
        bench.run(["ros", "--run_dir", str(tmp_path)])


@pytest.mark.slow
def test_the_real_graph_is_measured_and_can_be_counted_again(tmp_path, domain, capsys):
    run = tmp_path / "run"
    assert bench.run(["ros", "--seconds", "12", "--domain", str(domain), "--run_dir", str(run), "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert tuple(found) == bench.ROS_KEYS
    assert 20 < found["ticks"] < 20 * 60
    assert 0 <= found["missed"] < found["ticks"]
    assert 0 <= found["frames_lost"] < found["ticks"]  # a busy machine may lose some: that is what is measured
    assert 0.0 < found["latency_ms_p50"] <= found["latency_ms_p99"]
    assert all(math.isfinite(value) for value in found.values())
    assert found["transitions_lost"] == 0
    still_there = subprocess.run(["pgrep", "-f", str(run)], capture_output=True, text=True, check=False).stdout
    assert not still_there, "processes of the graph are left"
    assert bench.run(["ros", "--run", str(run), "--json"]) == 0
    assert json.loads(capsys.readouterr().out) == found


@pytest.mark.slow
def test_a_slow_policy_is_measured_in_the_real_graph(domain):
    program = bench.benchmarks_folder() / "remote_policy.py"
    command = [sys.executable, str(program), "--json", "--seconds", "4", "--cases", "slow", "--domain", str(domain)]
    found = json.loads(subprocess.run(command, capture_output=True, text=True, check=True).stdout)["slow"]
    assert 20 < found["ticks"] < 20 * 60
    assert 0 <= found["held"] < found["ticks"]
    assert found["entry_max"] > 2, "its plans are three ticks old"
    assert 1 < found["entry_mean"] < 9
    assert 0.0 < found["latency_ms_p50"] <= found["latency_ms_p99"]
