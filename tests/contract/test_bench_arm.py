"""``pld bench-arm``: the real drivers along a path, against their simulators."""

from __future__ import annotations

import json

import numpy as np
import pytest

from pld_core.cli import main as cli
from pld_ros.benches.lissajous import SIZE_M, SPEED_M_S, path

ASKED = {"ticks", "missed", "call_ms_p99", "track_mm_p50", "final_mm"}
FINAL_MM = {"franka": 0.5, "yam": 1.0}


def test_the_path_keeps_to_its_speed_and_size():
    times = np.linspace(0, 60, 60_001)
    points = np.array([path(t) for t in times])
    speeds = np.linalg.norm(np.diff(points, axis=0), axis=1) / np.diff(times)
    assert speeds.max() == pytest.approx(SPEED_M_S, rel=1e-3)
    assert np.abs(points).max(axis=0) == pytest.approx(SIZE_M, rel=1e-3)
    assert not path(0.0).any()


@pytest.mark.filterwarnings("ignore:.*bustype.*:DeprecationWarning")  # i2rt opens its bus with a renamed keyword
@pytest.mark.parametrize("arm", ["franka", "yam"])
def test_an_arm_follows_and_ends_where_it_was_sent(arm, capfd):
    assert cli.main(["bench-arm", arm, "--seconds", "3", "--json"]) == 0
    (line,) = [line for line in capfd.readouterr().out.splitlines() if line.startswith("{")]
    found = json.loads(line)
    assert set(found) >= ASKED
    assert found["ticks"] == 60
    assert ("ik_ms_p99" in found) == (arm == "yam")
    assert found["final_mm"] <= FINAL_MM[arm]


@pytest.mark.parametrize(
    ("arguments", "complaint"), [(["panda"], "franka"), (["yam", "--seconds", "0"], "from 1 on"), (["yam", "x"], "x")]
)
def test_what_cannot_be_run_is_refused(arguments, complaint, capsys):
    assert cli.main(["bench-arm", *arguments]) == cli.EXIT_ERROR
    assert complaint in capsys.readouterr().err
