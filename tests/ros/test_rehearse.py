"""``pld rehearse``: an episode through all nodes and the real driver, in franky-sim with the task's objects."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from pld_core.cli import main as cli
from pld_ros.recording.bag_reader import read_episode


@pytest.mark.slow
def test_the_oracle_lifts_the_cube_with_the_real_driver(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    for attempt in range(3):  # a machine that cannot keep the rhythm voids an episode, as it shall
        run_dir = tmp_path / str(attempt)
        status = cli.main(["rehearse", "cube_pickup", "--seed", "1", "--run_dir", str(run_dir), "--json"])
        (line,) = [line for line in capfd.readouterr().out.splitlines() if line.startswith("{")]
        found = json.loads(line)
        if not found["voided"]:
            break
    assert (status, found["success"], found["voided"]) == (0, True, False)
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


@pytest.mark.parametrize(
    ("arguments", "complaint"),
    [(["peg_insertion"], "cube_pickup"), (["cube_pickup", "--seed", "x"], "--seed is x"), (["cube_pickup", "y"], "y")],
)
def test_what_cannot_be_rehearsed(arguments: list[str], complaint: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["rehearse", *arguments]) == cli.EXIT_ERROR
    assert complaint in capsys.readouterr().err
