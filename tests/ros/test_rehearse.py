"""``pld rehearse``: an episode through all nodes and the real driver, in franky-sim with the task's objects."""

from __future__ import annotations

import json
import time
from pathlib import Path

import pytest
import rclpy
from pulse import TICK_S, Pulse
from rclpy.context import Context
from rclpy.node import Node

from pld_core.cli import main as cli
from pld_ros import environment
from pld_ros.recording.bag_reader import read_episode

PATIENCE_S = 240.0  # no new attempt after that: one may take as long again


@pytest.mark.slow
def test_the_oracle_lifts_the_cube_with_the_real_driver(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    began = time.monotonic()
    for attempt in range(3):  # a machine that cannot keep the rhythm voids an episode, as it shall
        run_dir = tmp_path / str(attempt)
        with Pulse() as pulse:
            status = cli.main(["rehearse", "cube_pickup", "--seed", "1", "--run_dir", str(run_dir), "--json"])
        printed = capfd.readouterr()
        lines = [line for line in printed.out.splitlines() if line.startswith("{")]
        found = json.loads(lines[-1]) if lines else {"voided": True}  # or it came to no episode
        if not found["voided"]:
            break
        why = printed.err.strip().splitlines()[-1]
        assert _is_load(why), printed.err
        assert pulse.worst_s > TICK_S, printed.err
        if time.monotonic() - began > PATIENCE_S:
            break
    if found["voided"]:
        pytest.skip(f"this machine held an idle thread up for {pulse.worst_s:.2f} s, and so an episode of 20 Hz: {why}")
    assert (status, found["success"], found["voided"]) == (0, True, False), printed.err
    assert Path(found["video"]).stat().st_size > 1000
    (bag,) = [path.parent for path in run_dir.rglob("metadata.yaml")]
    episode = read_episode(bag)
    assert episode.success
    assert len(episode) == found["ticks"]
    lifted = episode.proprio[-1][2] - episode.proprio[:, 2].min()
    assert lifted > 0.05  # metres, of the tool since it closed on the cube
    for pictures in episode.images.values():  # the cameras have seen it happen
        assert pictures[0].std() > 5
        assert (pictures[-1] != pictures[0]).any()


def _is_load(reason: str) -> bool:
    """Whether it is what nodes say that get no time."""
    known = (
        "too old", "too late for its period", "ticks were skipped", "no complete observation", "no time for the arm",
        "the arm has said nothing for", "no new frame for", "of its frames never came", "did not answer",
        "has been silent", "is not running",
    )  # fmt: skip
    return any(words in reason for words in known)


@pytest.mark.parametrize(
    ("arguments", "complaint"),
    [(["peg_insertion"], "cube_pickup"), (["cube_pickup", "--seed", "x"], "--seed is x"), (["cube_pickup", "y"], "y")],
)
def test_what_cannot_be_rehearsed(arguments: list[str], complaint: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["rehearse", *arguments]) == cli.EXIT_ERROR
    assert complaint in capsys.readouterr().err


def test_another_rehearsals_folder_is_left_alone(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "episode").touch()
    assert cli.main(["rehearse", "cube_pickup", "--run_dir", str(tmp_path)]) == cli.EXIT_ERROR
    assert "exists already" in capsys.readouterr().err


def test_a_domain_of_its_own_is_one_that_nobody_uses(domain: int) -> None:
    context = Context()
    rclpy.init(context=context, domain_id=domain)
    node = Node("somebody", context=context)
    try:
        assert not environment._is_free(domain)
        with environment.own_domain() as own:
            assert own != domain
            assert environment.current_domain() == own
        assert environment.current_domain() == domain
    finally:
        node.destroy_node()
        rclpy.shutdown(context=context)
