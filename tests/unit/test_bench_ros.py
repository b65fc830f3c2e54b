"""What `pld bench ros` counts shows every single loss: one late tick, one lost frame, one lost transition."""

from __future__ import annotations

import dataclasses
import sys

import pytest

from pld_core.cli import bench
from pld_core.errors import ConfigError, PLDError, UnknownNameError

sys.path.append(str(bench.benchmarks_folder()))
from ros_counts import EpisodeNotes, LinkNotes, Step, count

MS = 1_000_000
CAMERAS = ("wrist", "front")


def step(k, latency_ms=12.0, captured=None, first=0):
    stamp = (k if captured is None else captured) * 50 * MS + 10**9
    return Step(first + k, False, stamp, dict.fromkeys(CAMERAS, stamp), latency_ms)


def episode(number=1, ticks=10, first=0, **changes):
    """``ticks`` ticks and the closing row, everything in time."""
    steps = [step(k, first=first) for k in range(ticks)]
    steps.append(dataclasses.replace(step(ticks, 0.0, first=first), closing=True))
    stamps = [row.captured_ns for row in steps]
    arrived = {camera: {stamp: stamp + 7 * MS for stamp in stamps} for camera in CAMERAS}
    notes = EpisodeNotes(
        f"a-{number:06d}", steps, True, ticks, first, first + ticks, list(enumerate(stamps)), arrived
    )  # fmt: skip
    return dataclasses.replace(notes, **changes)


def link(*episodes, **changes):
    """Everything sent and acknowledged."""
    records = sum(len(e.steps) + 1 for e in episodes)
    return LinkNotes(records, records, finished=frozenset(e.episode_id for e in episodes), **changes)


def with_steps(notes, **replaced):
    """``_3=row`` puts that row in the place of the fourth."""
    steps = list(notes.steps)
    for place, row in replaced.items():
        steps[int(place[1:])] = row
    return dataclasses.replace(notes, steps=steps)


def counted(*episodes, notes=None):
    return count(episodes, notes or link(*episodes))


def test_nothing_is_counted_where_all_went_well():
    found = counted(episode(), episode(2, first=11))
    assert (found.ticks, found.missed, found.frames_lost, found.transitions_lost) == (20, 0, 0, 0)
    assert (found.latency_ms_p50, found.latency_ms_p99) == (12.0, 12.0)
    assert found.more["frames_due"] == 2 * 2 * 11
    assert counted(notes=LinkNotes(0, 0)).ticks == 0


# -- missed ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(("late_ms", "missed"), [(9.9, 0), (10.1, 1), (49.0, 1)])
def test_a_tick_that_begins_more_than_ten_milliseconds_late_is_missed(late_ms, missed):
    found = counted(with_steps(episode(), _4=dataclasses.replace(step(4), late_ms=late_ms)))
    assert found.missed == missed
    assert found.more["late_ms_max"] == late_ms


def test_ticks_that_did_not_take_place_are_missed():
    found = counted(with_steps(episode(), _4=dataclasses.replace(step(4), skipped=3, late_ms=1.0)))
    assert (found.missed, found.more["ticks_skipped"]) == (3, 3)


def test_all_ticks_count_in_the_percentiles():
    found = counted(with_steps(episode(ticks=50), _4=step(4, 30.0)))
    assert found.latency_ms_p50 == 12.0
    assert 12.0 < found.latency_ms_p99 < 30.0
    assert found.more["latency_ms_max"] == 30.0


# -- frames ---------------------------------------------------------------------------------------


def without_frame(notes, k, cameras=CAMERAS):
    stamp = notes.steps[k].captured_ns
    arrived = {
        camera: {s: at for s, at in frames.items() if s != stamp or camera not in cameras}
        for camera, frames in notes.arrived_ns.items()
    }
    return dataclasses.replace(notes, arrived_ns=arrived)


def test_a_frame_that_never_reached_the_replay_logger_is_lost():
    assert counted(without_frame(episode(), 4, ["wrist"])).frames_lost == 1
    assert counted(without_frame(episode(), 10)).frames_lost == 2  # of the closing row


def test_a_frame_that_came_after_its_bag_was_closed_is_not_lost():
    whole, late = episode(), without_frame(episode(), 10)
    following = episode(2, first=11)
    last = {c: {s: at for s, at in whole.arrived_ns[c].items() if s == whole.steps[10].captured_ns} for c in CAMERAS}
    found = counted(late, dataclasses.replace(following, arrived_ns=last, scenes=[], steps=following.steps[:0]))
    assert (found.frames_lost, found.more["frames_too_late_for_their_bag"]) == (0, 2)


def test_a_scene_that_was_never_published_owes_its_frames():
    whole = episode()
    stale = with_steps(without_frame(whole, 4), _4=step(4, 62.0, captured=3))
    silent = dataclasses.replace(stale, scenes=[scene for scene in whole.scenes if scene[0] != 4])
    assert counted(silent).frames_lost == 2
    unheard = dataclasses.replace(whole, scenes=[scene for scene in whole.scenes if scene[0] != 4])
    assert counted(unheard).frames_lost == 0  # only the scene's message was lost, its frames came


def test_a_frame_that_only_the_controller_never_got_is_lost():
    stale = with_steps(episode(), _4=step(4, 50 + 20.0, captured=3))  # waited, then went on with the older frame
    assert counted(stale).frames_lost == 2
    assert counted(stale).more["frames_superseded"] == 2


def test_a_frame_that_was_late_everywhere_is_not_lost():
    stale = with_steps(episode(), _4=step(4, 50 + 20.0, captured=3))
    stamp = episode().steps[4].captured_ns
    arrived = {camera: {**frames, stamp: stamp + 30 * MS} for camera, frames in stale.arrived_ns.items()}
    found = counted(dataclasses.replace(stale, arrived_ns=arrived))
    assert (found.frames_lost, found.more["frames_superseded"]) == (0, 2)
    arrived["wrist"] = dict(stale.arrived_ns["wrist"])  # in time, but of no use without the other camera's
    assert counted(dataclasses.replace(stale, arrived_ns=arrived)).frames_lost == 0


def test_frames_outside_of_an_episode_are_nobodys():
    whole = episode()
    early = [(7, whole.steps[0].captured_ns - 50 * MS), (11, whole.steps[-1].captured_ns + 50 * MS)]
    assert counted(dataclasses.replace(whole, scenes=[*whole.scenes, *early])).frames_lost == 0


# -- transitions ----------------------------------------------------------------------------------


def test_a_tick_that_never_reached_the_replay_logger_is_lost():
    whole = episode()
    holed = dataclasses.replace(whole, steps=[row for row in whole.steps if row.sequence != 4])
    found = counted(holed)
    assert (found.ticks, found.transitions_lost) == (10, 1)
    cut = dataclasses.replace(whole, steps=whole.steps[:8])  # the controller's last word names ten ticks
    assert counted(cut).transitions_lost == 2


def test_an_episode_that_is_missing_altogether_is_lost():
    found = counted(episode(1), episode(3, first=22))
    assert (found.ticks, found.transitions_lost) == (20 + 11, 11)


def test_a_closing_row_is_no_transition_and_controllers_count_for_themselves():
    whole = episode()
    assert counted(dataclasses.replace(whole, steps=whole.steps[:-1])).transitions_lost == 0
    later = dataclasses.replace(episode(first=10**9), episode_id="b-000001")
    assert counted(whole, later).transitions_lost == 0


def test_a_voided_episode_counts_like_any_other():
    whole = episode()
    voided = dataclasses.replace(whole, steps=whole.steps[:5], ticks=5, last_sequence=4)
    found = counted(voided, episode(2, first=5))
    assert (found.ticks, found.transitions_lost) == (15, 0)


def test_what_waits_in_the_spool_has_not_reached_the_learner():
    first, last = episode(1), episode(2, first=11)
    everything = link(first, last)
    behind = [(e.episode_id, row.sequence, row.closing) for e in (first, last) for row in e.steps]
    dead = dataclasses.replace(everything, acknowledged=0, kept=behind)
    found = counted(first, last, notes=dead)
    assert found.transitions_lost == 10
    assert found.more["ticks_of_the_stopped_episode"] == 10  # it was running when the learner was stopped


def test_what_neither_the_spool_nor_the_learner_has_is_lost():
    whole = episode()
    assert counted(whole, notes=dataclasses.replace(link(whole), unreadable=1)).transitions_lost == 1
    never_sent = dataclasses.replace(link(whole), sent=11, acknowledged=11)
    assert counted(whole, notes=never_sent).transitions_lost == 1


# -- the command ----------------------------------------------------------------------------------


def test_the_last_line_has_exactly_the_required_keys(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(bench, "benchmarks_folder", lambda: tmp_path)
    values = dict.fromkeys(bench.ROS_KEYS, 1)
    body = "import sys\nassert sys.argv[1:] == ['--json', '--seconds', '5']\nprint('{\"more\": {\"a\": 2}}')"
    (tmp_path / "ros.py").write_text(body)
    with pytest.raises(PLDError, match="did not measure ticks"):
        bench.run(["ros", "--seconds", "5", "--json"])
    (tmp_path / "ros.py").write_text(f"import json\nprint(json.dumps({ {**values, 'more': {'a': 2}} }))")
    assert bench.run(["ros", "--json"]) == 0
    assert capsys.readouterr().out == '{"' + '": 1, "'.join(bench.ROS_KEYS) + '": 1}\n'
    assert bench.run(["ros"]) == 0
    assert capsys.readouterr().out.splitlines()[0] == "a: 2"


def test_ros_is_never_run_unasked():
    assert "ros" not in bench.PROGRAMS
    assert "ros" not in bench.select(None)


@pytest.mark.parametrize("seconds", ["0", "-3", "soon", "nan", "inf"])
def test_a_time_that_is_none_is_refused(seconds):
    with pytest.raises(ConfigError, match="number of seconds above 0"):
        bench.run(["ros", "--seconds", seconds])


def test_an_unknown_argument_is_named():
    with pytest.raises(UnknownNameError, match="--second"):
        bench.run(["ros", "--second", "3"])
