"""The report: complete, partial and hostile inputs; charts; videos; live progress."""

from __future__ import annotations

import io
import json
import subprocess
import xml.etree.ElementTree as ElementTree
from html.parser import HTMLParser

import imageio_ffmpeg
import numpy as np
import pytest

from pld_core.config import load_config
from pld_core.console import Console, duration
from pld_core.errors import ConfigError, ContractError, StorageError
from pld_core.runlog import RunLog
from pld_core.stages import charts
from pld_core.stages.charts import Bar, Reference, Series
from pld_core.stages.report import write_report
from pld_core.statistics import SuccessRate
from pld_core.storage import write_json
from pld_core.video import write_video

VOID = {"meta", "link", "br", "img", "input", "hr"}


class _Balanced(HTMLParser):
    """Fails on tags that are not closed in order; collects text."""

    def __init__(self):
        super().__init__()
        self.open, self.text = [], []

    def handle_starttag(self, tag, attrs):
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag, attrs):
        pass

    def handle_endtag(self, tag):
        assert self.open, f"</{tag}> closes nothing"
        assert self.open.pop() == tag

    def handle_data(self, data):
        self.text.append(data)


def text_of(page):
    parser = _Balanced()
    parser.feed(page)
    assert parser.open == []
    return " ".join(" ".join(parser.text).split())


@pytest.fixture
def run_dir(tmp_path):
    with RunLog(load_config("debug", {"runs_dir": str(tmp_path), "name": "r"})) as run:
        for step in range(0, 1000, 100):
            row = {"success_rate": step / 1000, "q_data": 0.5, "critic_loss": 0.1, "updates": step}
            if step % 500 == 0:
                row |= {"eval/success_rate": 0.5, "eval/ci_low": 0.3, "eval/ci_high": 0.7, "eval/env_steps": step}
            run.log("learn", step, **row)
        run.finish_stage("harvest", 61.0, successes=5, episodes=20)
        run.finish_stage("learn", 3700.0, bytes_per_transition=2310)
        return run.dir


def add_evaluation(folder):
    counts = {"base": 43, "specialist": 98, "distilled": 94}
    results = {name: {**SuccessRate(k, 100).to_dict(), "mean_length": 40.0} for name, k in counts.items()}
    write_json(folder / "eval.json", {"task": "peg_insertion", "seed": 0, "minutes": 17.3, **results})


def test_a_finished_run(run_dir):
    add_evaluation(run_dir)
    frames = np.zeros((3, 16, 16, 3), np.uint8)
    write_video(run_dir / "videos" / "base.mp4", frames)
    path = write_report(run_dir)
    page = path.read_text()
    text = text_of(page)
    assert path == run_dir / "report.html"
    for expected in ("Peg insertion", "43 %", "98 %", "94 %", "34–53 %", "17 minutes", "2,310 bytes per transition"):
        assert expected in text
    assert "1:01:40" in text  # the learn stage's 3,700 seconds
    assert 'src="data:video/mp4;base64,' in page
    assert "http" not in page.replace("http://www.w3.org", "")  # one file, nothing fetched from anywhere


def test_void_episodes_are_told(run_dir):
    add_evaluation(run_dir)
    assert "made void" not in text_of(write_report(run_dir).read_text())
    found = json.loads((run_dir / "eval.json").read_text())
    found["specialist"]["voided"] = 3
    found["others"] = {"openpi:mine": {**SuccessRate(1, 9).to_dict(), "voided": 1}}
    write_json(run_dir / "eval.json", found)
    text = text_of(write_report(run_dir).read_text())
    assert "Episodes that a fault made void are left out: 3 of Specialist, 1 of openpi:mine." in text


def test_an_unfinished_run_says_what_is_done(run_dir):
    text = text_of(write_report(run_dir).read_text())
    assert "not been evaluated yet. Finished stages: harvest, learn." in text
    assert "base VLA alone (harvest)" in text


def test_an_empty_folder_and_damaged_files_still_give_a_page(tmp_path):
    (tmp_path / "eval.json").write_text("{")
    (tmp_path / "environment.json").write_text("[]")
    (tmp_path / "metrics.jsonl").write_text('{"stage":"learn","env_steps":1}\n{"sta')
    assert "Finished stages: none" in text_of(write_report(tmp_path).read_text())


def test_a_missing_folder_is_named(tmp_path):
    with pytest.raises(ConfigError, match="not a run folder"):
        write_report(tmp_path / "absent")


def test_names_are_escaped(run_dir):
    add_evaluation(run_dir)
    evil = "<script>alert(1)</script>"
    found = json.loads((run_dir / "eval.json").read_text()) | {"task": evil}
    write_json(run_dir / "eval.json", found)
    write_json(
        run_dir / "ablations" / "a.json", {"title": evil, "rows": [{"name": evil, "successes": 1, "episodes": 2}]}
    )
    assert "<script" not in write_report(run_dir).read_text()


def test_ablations_as_curves_and_as_rates(run_dir):
    curve = {"name": "RLPD", "x": [0, 1000], "y": [0.1, 0.9], "low": [0, 0.8], "high": [0.2, 1.0]}
    write_json(run_dir / "ablations" / "a.json", {"title": "Against what", "series": [curve]})
    rows = [{"name": "alpha 0.6", "successes": 58, "episodes": 60, "note": "34 ticks"}]
    write_json(run_dir / "ablations" / "b.json", {"title": "Alpha", "rows": rows})
    text = text_of(write_report(run_dir).read_text())
    for expected in ("Against what", "RLPD", "alpha 0.6", "58/60 · 34 ticks"):
        assert expected in text


def test_large_videos_are_linked(run_dir, monkeypatch):
    monkeypatch.setattr("pld_core.stages.report_sections.EMBED_BYTES", 10)
    write_video(run_dir / "videos" / "base.mp4", np.zeros((2, 16, 16, 3), np.uint8))
    assert 'src="videos/base.mp4"' in write_report(run_dir).read_text()


@pytest.mark.parametrize(
    "series",
    [
        [],
        [Series("one point", [5], [0.5])],
        [Series("flat", [0, 1], [0, 0])],
        [Series("gaps", [0, 1, 2], [0.1, float("nan"), 0.3])],
        [Series("long", list(range(5000)), [0.5] * 5000)],
        [Series("negative", [0, 10], [-3.5, -3.0], [-4, -3.5], [-3, -2.5])],
    ],
)
def test_line_charts_are_valid_svg(series):
    drawing = charts.line_chart(series, "steps", "value <&>", [Reference("base", 0.4, 0.3, 0.5)])
    root = ElementTree.fromstring(drawing)
    assert "nan" not in drawing
    for line in root.iter("polyline"):
        assert len(line.attrib["points"].split()) <= 400


def test_a_line_goes_where_the_numbers_say():
    root = ElementTree.fromstring(
        charts.line_chart([Series("s", [0, 10], [0.0, 1.0])], "x", "y", percent=True, height=320)
    )
    points = next(root.iter("polyline")).attrib["points"].split()
    assert points == ["52.0,280.0", "706.0,10.0"]  # the corners of the plot area


def test_bars_carry_their_numbers():
    page = charts.bar_chart([Bar("base", 0.43, 0.34, 0.53)], "rates")
    assert "width:43.00%" in page
    assert "left:34.00%;width:19.00%" in page


@pytest.mark.parametrize(
    ("low", "high", "expected"),
    [(0, 1, [0, 0.2, 0.4, 0.6, 0.8, 1.0]), (0, 60_000, [0, 20_000, 40_000, 60_000]), (3, 3, [3])],
)
def test_ticks_are_round(low, high, expected):
    about = 3 if high > 100 else 5
    assert charts.nice_ticks(low, high, about) == pytest.approx(expected)


@pytest.mark.parametrize("shape", [(5, 32, 48, 3), (5, 33, 47, 3), (1, 64, 64, 3)])
@pytest.mark.parametrize("caption", ["", "base VLA: fails (seed 1000004)"])
def test_videos_can_be_read_back(tmp_path, shape, caption):
    path = write_video(tmp_path / "deep" / "v.mp4", np.full(shape, 200, np.uint8), fps=20, caption=caption)
    height, width = (n + n % 2 for n in (shape[1] + (16 if caption else 0), shape[2]))
    command = [imageio_ffmpeg.get_ffmpeg_exe(), "-v", "error", "-i", path, "-f", "rawvideo", "-pix_fmt", "rgb24", "-"]
    raw = subprocess.run(command, check=True, capture_output=True).stdout
    back = np.frombuffer(raw, np.uint8).reshape(-1, height, width, 3)
    assert len(back) == shape[0]
    assert abs(int(back[0, -4, 4, 0]) - 200) < 12
    assert [p.name for p in path.parent.iterdir()] == ["v.mp4"]


@pytest.mark.parametrize(
    "frames", [np.zeros((0, 8, 8, 3), np.uint8), np.zeros((2, 8, 8), np.uint8), np.zeros((2, 8, 8, 3), np.float32)]
)
def test_wrong_frames_are_refused(tmp_path, frames):
    with pytest.raises(ContractError, match="uint8"):
        write_video(tmp_path / "v.mp4", frames)


def test_a_video_that_fails_leaves_the_old_one(tmp_path, monkeypatch):
    path = tmp_path / "v.mp4"
    path.write_bytes(b"old")

    def broken(*_, **__):
        yield
        raise OSError("av_interleaved_write_frame(): No space left on device")

    monkeypatch.setattr("imageio_ffmpeg.write_frames", broken)
    with pytest.raises(StorageError, match="No space left"):
        write_video(path, np.zeros((2, 8, 8, 3), np.uint8))
    assert path.read_bytes() == b"old"


class Clock:
    """A clock that the test turns."""

    def __init__(self):
        self.now = 100.0

    def __call__(self):
        return self.now


def test_plain_progress_is_one_line_every_few_seconds():
    out, clock = io.StringIO(), Clock()
    with Console(["harvest", "learn"], "peg_insertion", stream=out, interval_s=5, clock=clock) as console:
        console.skip("harvest")
        with console.stage("learn", 1000, "steps") as shown:
            for step in range(0, 1001, 10):
                clock.now += 0.2
                shown.update(step, success=(8, 10), **{"eval/success_rate": 0.5}, loss=0.01234, updates=12345)
    lines = out.getvalue().splitlines()
    assert lines[:3] == ["peg_insertion", "harvest: finished earlier", "learn: started"]
    assert len(lines) == 3 + 4 + 1
    assert (
        "learn: 240/1,000 steps, success 80 % [49, 94], eval success 50 %, loss 0.0123, updates 12,345, 0:16 to go"
        in lines
    )
    assert lines[-1].startswith("learn: done in 0:20")


def test_a_resumed_stage_does_not_promise_too_much():
    clock = Clock()
    told: list[None] = []
    quiet = Console(["learn"], stream=io.StringIO(), clock=clock, on_progress=lambda: told.append(None))
    with quiet as console, console.stage("learn", 1000) as shown:
        shown.resume_at(900)
        clock.now += 10
        shown.update(910)
        assert shown.eta(clock.now) == pytest.approx(90)
    assert len(told) == 2  # every change is passed on, for the run's clock


@pytest.mark.parametrize(("error", "status"), [(KeyboardInterrupt, "interrupted"), (ValueError, "failed")])
def test_a_stage_that_ends_early_says_how(error, status):
    out = io.StringIO()
    with Console(["learn"], stream=out) as console, pytest.raises(error), console.stage("learn"):
        raise error
    assert f"learn: {status}" in out.getvalue()


def test_the_live_table_shows_every_stage():
    out = io.StringIO()
    with Console(["harvest", "learn"], "peg", stream=out, live=True) as console:
        with console.stage("harvest", 10, "successes") as shown:
            shown.update(5, success=(5, 10))
        console.note("look here")
    text = out.getvalue()
    for expected in ("peg", "harvest", "learn", "look here", "50 %"):
        assert expected in text


@pytest.mark.parametrize(("seconds", "text"), [(0, "0:00"), (75, "1:15"), (3700, "1:01:40")])
def test_durations(seconds, text):
    assert duration(seconds) == text


def _pair(earlier, later, kl, **difference):
    measured = None if kl is None else {"mean": kl, "ci95": [kl - 0.5, kl + 0.5], "median": kl}
    return {"from": earlier, "to": later, "kl": measured, "kl_reverse": measured, "difference": difference}


def test_drift_and_other_tasks(run_dir):
    add_evaluation(run_dir)
    moved = {"mean": 0.12, "rms": 0.15, "mm": 1.2}
    pairs = [_pair("base", "distilled", 0.25, translation=moved, gripper={"mean": 0.04, "rms": 0.3})]
    write_json(run_dir / "drift.json", {"states": 200, "samples": 64, "pairs": pairs})
    rates = {name: SuccessRate(k, 20).to_dict() for name, k in (("base", 9), ("distilled", 4))}
    write_json(run_dir / "forgetting.json", {"tasks": {"cube_pickup": rates, "<b>": {}}})
    page = write_report(run_dir).read_text()
    text = text_of(page)
    for expected in (
        "Drift of the actions",
        "200 states",
        "Base VLA → VLA*",
        "0.25 (−0.25 to 0.75)",
        "translation, mm",
    ):
        assert expected in text
    assert "1.20 0.04" in text
    assert "Other tasks" in text
    assert "cube_pickup 9/20 (26–66 %) 4/20 (8–42 %)" in text
    assert 'href="drift.json"' in page


def test_drift_without_distributions(run_dir):
    pairs = [_pair("base", "specialist", None, action={"mean": 0.1, "rms": 0.1})]
    write_json(run_dir / "drift.json", {"states": 12, "samples": 64, "pairs": pairs})
    text = text_of(write_report(run_dir).read_text())
    assert "There is no KL" in text
    assert "action, of [−1, 1] Base VLA → Specialist 0.10" in text
    assert "Other tasks" not in text


def test_no_drift_no_section(run_dir):
    add_evaluation(run_dir)
    text = text_of(write_report(run_dir).read_text())
    assert "Drift" not in text
    assert "Other tasks" not in text
