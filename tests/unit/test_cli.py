"""The command line: dispatch, flags, errors, doctor and bench."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import types
from pathlib import Path

import pytest

from pld_core import system
from pld_core.cli import bench, common, doctor
from pld_core.cli import main as cli
from pld_core.config import load_config
from pld_core.errors import ConfigError, PLDError, StageError, UnknownNameError
from pld_core.runlog import RunLog


@pytest.fixture
def verb(monkeypatch):
    """Put a function in place of ``pld train``."""

    def install(function):
        module = types.ModuleType("pld_core.cli.train")
        module.run = function  # type: ignore[attr-defined]
        monkeypatch.setitem(sys.modules, "pld_core.cli.train", module)

    return install


def test_help_lists_every_verb_and_every_verb_has_a_file(capsys):
    assert cli.main(["--help"]) == cli.main([]) == 0
    text = capsys.readouterr().out
    for name in cli.VERBS:
        assert f"  {name} " in text
        assert Path(cli.__file__).with_name(f"{cli.module_of(name)}.py").exists()


def test_help_does_not_import_the_heavy_libraries():
    program = (
        "import sys; from pld_core.cli.main import main; main(['--help']);"
        "sys.exit(any(m in sys.modules for m in ('jax', 'flax', 'numpy', 'mujoco', 'tyro', 'matplotlib')))"
    )
    assert subprocess.run([sys.executable, "-c", program], capture_output=True, check=False).returncode == 0


def test_parsing_flags_does_not_import_jax():
    program = (
        "import sys; from pld_core.cli.common import parse_config; parse_config(['--seed', '1'], 'train');"
        "sys.exit('jax' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", program], capture_output=True, check=False).returncode == 0


def test_version(capsys):
    assert cli.main(["--version"]) == 0
    assert capsys.readouterr().out.startswith("pld ")


def test_an_unknown_verb_gets_a_suggestion(capsys):
    assert cli.main(["trian"]) == 2
    assert "Did you mean 'train'" in capsys.readouterr().err


def test_known_errors_are_one_line_without_traceback(verb, capsys):
    def fail(args):
        raise StageError("the base never succeeds")

    verb(fail)
    assert cli.main(["train"]) == 2
    assert capsys.readouterr().err == "error: the base never succeeds\n"


@pytest.mark.parametrize("how", ["flag", "variable"])
def test_debug_shows_the_traceback(verb, capsys, monkeypatch, how):
    def fail(args):
        assert "--debug" not in args
        raise StageError("the base never succeeds")

    verb(fail)
    if how == "variable":
        monkeypatch.setenv("PLD_DEBUG", "1")
    assert cli.main(["train", *(["--debug"] if how == "flag" else [])]) == 2
    assert "Traceback" in capsys.readouterr().err


def test_unknown_errors_keep_their_traceback(verb):
    def fail(args):
        raise RuntimeError("a bug")

    verb(fail)
    with pytest.raises(RuntimeError, match="a bug"):
        cli.main(["train"])


def test_interrupting_says_how_to_go_on(verb, capsys):
    def interrupt(args):
        raise KeyboardInterrupt

    verb(interrupt)
    assert cli.main(["train"]) == 130
    assert "interrupted; the same command continues" in capsys.readouterr().err


def test_flags_go_over_the_preset():
    args = ["--preset=debug", "--learn.steps", "9", "--learn.hidden", "3", "4", "--from_scratch", "--report.no_videos"]
    config = common.parse_config([*args, "--learn.batch-size", "5"], "train")
    assert config.preset == "debug"
    assert (config.learn.steps, config.learn.hidden, config.learn.batch_size) == (9, (3, 4), 5)
    assert config.from_scratch
    assert not config.report.videos
    assert config.lanes == load_config("debug").lanes


@pytest.mark.parametrize(
    ("args", "message"),
    [
        (["--learn.stepz", "3"], "Did you mean 'learn.steps'"),
        (["--gamma=0.9"], "Did you mean 'learn.gamma'"),
        (["--preset", "peg_insertoin"], "Did you mean 'peg_insertion'"),
        (["--preset"], "--preset needs a value"),
        (["--preset", "debug", "--run", "runs/x"], "not both"),
        (["--run", "absent"], "holds no run"),
        (["--learn.gamma", "2"], "learn.gamma must be between 0 and 1"),
    ],
)
def test_wrong_flags_are_refused(args, message):
    with pytest.raises(ConfigError, match=message):
        common.parse_config(args, "train")


def test_a_value_of_the_wrong_type_exits_with_status_2(capsys):
    with pytest.raises(SystemExit) as caught:
        common.parse_config(["--learn.steps", "many"], "train")
    assert caught.value.code == 2
    assert "learn.steps" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("args", "expected"),
    [
        ([], ("peg_insertion", "peg_insertion", "fr3_sim", "peg_insertion-seed0")),
        (["--task", "gpu_insertion"], ("gpu_insertion", "gpu_insertion", "yam_sim_01", "gpu_insertion-seed0")),
        (["--task=my_task", "--policy", "mine"], ("custom", "my_task", "none", "my_task-seed0")),
        (
            ["--preset", "debug", "--task", "gpu_insertion"],
            ("debug", "gpu_insertion", "yam_sim_01", "debug-gpu_insertion-seed0"),
        ),
        (["--task", "my_task", "--robot", "fr3_sim"], ("custom", "my_task", "fr3_sim", "my_task-seed0")),
    ],
)
def test_the_task_brings_its_preset_robot_and_folder(args, expected):
    config = common.parse_config(args, "train")
    assert (config.preset, config.task, config.robot, config.run_name) == expected


def test_a_robot_that_does_not_exist_is_refused(capsys):
    assert cli.main(["train", "--robot", "nonsense"]) == 2
    assert "Unknown robot 'nonsense'" in capsys.readouterr().err
    assert not Path("runs").exists()


def test_null_settings_can_be_given_as_flags():
    assert common.parse_config(["--learn.target_entropy", "None"], "train").learn.target_entropy is None


def test_an_existing_run_brings_its_settings(tmp_path):
    settings = load_config("debug", {"runs_dir": str(tmp_path / "runs"), "name": "r", "learn.steps": 7})
    RunLog(settings).close()
    config = common.parse_config(["--run", str(tmp_path / "runs" / "latest"), "--seed", "5"], "eval")
    assert (config.run_name, config.runs_dir, config.learn.steps, config.seed) == ("r", str(tmp_path / "runs"), 7, 5)


@pytest.mark.parametrize("args", [["--nonsense"], ["a", "b"], ["--run", "a", "b"]])
def test_report_takes_one_folder(args):
    from pld_core.cli import report

    with pytest.raises(ConfigError, match="one run folder"):
        report.run(args)


def test_report_of_a_folder(tmp_path, capsys):
    assert cli.main(["report", str(tmp_path)]) == 0
    assert capsys.readouterr().out.strip() == str(tmp_path / "report.html")


def test_doctor_as_json(monkeypatch, capsys):
    good = doctor.Check("python", "ok", "3.11")
    bad = doctor.Check("disk", "problem", "full", "tidy up")
    monkeypatch.setattr(doctor, "examine", lambda runs_dir: [good, bad])
    assert cli.main(["doctor", "--json"]) == 1
    found = json.loads(capsys.readouterr().out)
    assert found["ok"] is False
    assert found["checks"][1] == {"name": "disk", "status": "problem", "detail": "full", "fix": "tidy up"}
    monkeypatch.setattr(doctor, "examine", lambda runs_dir: [good])
    assert cli.main(["doctor"]) == 0
    assert "Ready: pld train" in capsys.readouterr().out
    assert cli.main(["doctor", "--jsn"]) == 2


def test_doctor_survives_a_check_that_breaks(monkeypatch, tmp_path):
    def broken():
        raise RuntimeError("no /proc here")

    for name in ("rendering", "packages", "tasks", "gpu"):
        monkeypatch.setattr(doctor, f"check_{name}", lambda: doctor.Check("x", "ok", ""))
    monkeypatch.setattr(doctor, "check_memory", broken)
    checks = {check.name: check for check in doctor.examine(tmp_path)}
    assert checks["memory"].status == "problem"
    assert "no /proc here" in checks["memory"].detail
    assert checks["run folder"].status == "ok"
    assert list(tmp_path.iterdir()) == []


def test_doctor_names_what_is_outside_the_ranges(monkeypatch):
    monkeypatch.setattr(doctor.importlib.metadata, "requires", lambda _: ["numpy>=99", "no-such-thing>=1", "rich"])
    check = doctor.check_packages()
    assert check.status == "problem"
    assert "numpy" in check.detail
    assert "no-such-thing is missing" in check.detail
    assert "rich" not in check.detail


def test_doctor_warns_about_small_machines(monkeypatch, tmp_path):
    monkeypatch.setattr(system, "cores", lambda: 1)
    monkeypatch.setattr(system, "memory_gib", lambda: 2.0)
    monkeypatch.setattr(system, "free_disk_gib", lambda path: 0.5)
    monkeypatch.setattr(system, "gpu_model", lambda: "Some GPU")
    assert doctor.check_processor().status == "warning"
    assert doctor.check_memory().status == "warning"
    assert doctor.check_disk(tmp_path).status == "problem"
    monkeypatch.setattr(system, "versions", lambda packages=(): {})
    assert "JAX cannot use" in doctor.check_gpu().detail


@pytest.fixture
def benchmarks(monkeypatch, tmp_path):
    """A folder of benchmarks that measure what they are told."""
    folder = tmp_path / "benchmarks"
    folder.mkdir()
    monkeypatch.setattr(bench, "benchmarks_folder", lambda: folder)

    def write(name, body):
        (folder / f"{name}.py").write_text(body)

    for name, keys in bench.PROGRAMS.items():
        write(name, f"import json\nprint('warming up')\nprint(json.dumps({dict.fromkeys(keys, 1.5)}))\n")
    return types.SimpleNamespace(folder=folder, write=write)


def test_bench_ends_with_one_json_object_and_stores_it(benchmarks, capsys):
    assert cli.main(["bench"]) == 0
    *chatter, last = capsys.readouterr().out.splitlines()
    found = json.loads(last)
    assert chatter
    assert {key for keys in bench.PROGRAMS.values() for key in keys} <= set(found)
    assert found["tick_ms_p99"] == 1.5
    assert json.loads((benchmarks.folder / "results" / bench.result_name()).read_text()) == found
    assert cli.main(["bench", "--json", "--only", "env_speed"]) == 0
    assert json.loads(capsys.readouterr().out)["env_steps_per_s"] == 1.5


@pytest.mark.parametrize(
    ("body", "message"),
    [
        ("raise SystemExit('no EGL')", "env_speed.py failed .exit status 1.: no EGL"),
        ("print('not json')", "not JSON"),
        ("print('{\"other\": 1}')", "did not measure env_steps_per_s"),
        ("pass", "printed nothing"),
    ],
)
def test_a_broken_benchmark_is_named(benchmarks, body, message):
    benchmarks.write("env_speed", body)
    with pytest.raises(PLDError, match=message):
        bench.run(["--json", "--only", "env_speed"])


def test_bench_libero_speed_hands_its_arguments_on(benchmarks, capsys):
    found = dict.fromkeys(bench.LIBERO_KEYS, 2.0)
    body = f"import sys, json; print(json.dumps({{**{found}, 'given': sys.argv[1:]}}))"
    benchmarks.write("libero_speed", body)
    assert cli.main(["bench", "libero-speed", "--ticks", "9", "--task", "libero_spatial/1", "--json"]) == 0
    assert json.loads(capsys.readouterr().out) == {
        **found, "given": ["--json", "--task", "libero_spatial/1", "--ticks", "9"],
    }  # fmt: skip
    assert cli.main(["bench", "libero-speed", "--fast"]) == cli.EXIT_ERROR


def test_bench_libero_becomes_its_program_which_a_kill_then_ends(benchmarks, monkeypatch):
    became = []
    monkeypatch.setattr(bench, "_require_libero", lambda: None)
    monkeypatch.setattr(bench.os, "execv", lambda *command: became.append(command))
    bench.run(["libero", "--tasks", "3"])
    program = str(benchmarks.folder / "libero_study.py")
    assert became == [(sys.executable, [sys.executable, program, "--tasks", "3"])]


def test_bench_needs_a_checkout(benchmarks):
    (benchmarks.folder / "env_speed.py").unlink()
    with pytest.raises(StageError, match="missing from this checkout"):
        bench.run(["--only", "env_speed"])
    with pytest.raises(UnknownNameError, match="env_speed"):
        bench.run(["--only", "env_sped"])


def test_the_installed_script_works():
    script = Path(sys.executable).with_name("pld")
    if not script.exists():
        pytest.skip("pld is not installed in this environment")
    done = subprocess.run([script, "nonsense"], capture_output=True, text=True, check=False, env={**os.environ})
    assert done.returncode == 2
    assert done.stderr.startswith("error: Unknown command 'nonsense'")
    assert "Traceback" not in done.stderr
