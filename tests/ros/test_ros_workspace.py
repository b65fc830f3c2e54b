"""What `make ros` leaves: messages that can be used at once, and nothing to do for a second `make ros`."""

from __future__ import annotations

import importlib
import importlib.util
import inspect
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path
from types import ModuleType

import pytest
from rclpy.serialization import deserialize_message, serialize_message

from pld_core.errors import ConfigError
from pld_ros import environment, shared_memory
from pld_ros.environment import FASTDDS_PROFILE, check_domain, current_domain, ros_environment

ROOT = Path(__file__).parents[2]
STAMPS = ["installed", "installed-dev", "installed-ros", "ros-wheels", "ros-messages", "ros-packages"]
INTERFACES = sorted((ROOT / "ros2_ws/src/pld_msgs").glob("*/*.*"))


@pytest.mark.parametrize("file", INTERFACES, ids=lambda file: file.name)
def test_every_interface_is_built_as_it_is_written(file: Path) -> None:
    kind = getattr(importlib.import_module(f"pld_msgs.{file.parent.name}"), file.stem)
    parts = {
        "msg": lambda: [kind],
        "srv": lambda: [kind.Request, kind.Response],
        "action": lambda: [kind.Goal, kind.Result, kind.Feedback],
    }[file.parent.name]()
    for part in parts:
        made = part()
        assert deserialize_message(serialize_message(made), part) == made
    text = file.read_text()
    built = {name for part in parts for name in part.get_fields_and_field_types()}
    written = [line.split("#")[0].split() for line in text.splitlines()]
    fields = {words[1] for words in written if len(words) == 2 and "=" not in words[1]}
    assert fields <= built, "run `make ros`"


@pytest.mark.skipif(shutil.which("make") is None, reason="needs make")
@pytest.mark.parametrize(
    ("newer", "built"),
    [
        ("", []),
        ("ros2_ws/src/pld_msgs/msg/New.msg", ["pld_msgs"]),
        ("launch/new.launch.py", ["pld_ros pld"]),
        ("pld_core/config.py", []),
        (".venv/.ros-wheels", ["pld_msgs"]),
    ],
)
def test_make_ros_builds_only_what_changed(newer: str, built: list[str], tmp_path: Path) -> None:
    sources = [
        "pyproject.toml", "constraints.txt", "setup.py", "package.xml", ".ci/relocate_ros.py", "launch/old.launch.py",
        "ros2_ws/src/pld_msgs/msg/Old.msg", "pld_core/config.py", ".venv/bin/uv",
    ]  # fmt: skip
    stamps = [f".venv/.{stamp}" for stamp in STAMPS]
    for file in [*sources, *stamps, *filter(None, [newer])]:
        (tmp_path / file).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / file).touch()
    changed = [newer] if newer.startswith(".") or not newer else [newer, str(Path(newer).parent)]
    for age, paths in enumerate(
        [tmp_path.rglob("*"), map(tmp_path.joinpath, stamps), map(tmp_path.joinpath, filter(None, changed))]
    ):
        for path in paths:
            os.utime(path, (1e9 + age, 1e9 + age))
    shutil.copy(ROOT / "Makefile", tmp_path)
    environ = {key: value for key, value in os.environ.items() if key not in ("MAKEFLAGS", "MAKELEVEL")}
    done = subprocess.run(["make", "-n", "ros"], cwd=tmp_path, env=environ, capture_output=True, text=True, check=True)
    selected = re.findall(r"--packages-select (\w+(?: \w+)*)", done.stdout)
    assert selected == built
    assert "pip install" not in done.stdout


def test_relocating_twice_changes_nothing() -> None:
    done = subprocess.run(
        [sys.executable, str(ROOT / ".ci/relocate_ros.py")], capture_output=True, text=True, check=True
    )
    assert ": 0 of" in done.stdout


def test_foreign_paths_of_the_wheels_are_replaced(tmp_path: Path) -> None:
    relocation = _module(ROOT / ".ci/relocate_ros.py")
    file = tmp_path / "x.cmake"
    foreign = (
        'a "/opt/python/cp311-cp311/include/python3.11;/old/venv/lib/python3.11/site-packages/numpy/_core/include"'
    )
    file.write_text(foreign + ' b "/usr/lib64/libtinyxml2.so;${_IMPORT_PREFIX}/include"\n')
    cached = tmp_path / "cached.cmake"
    cached.hardlink_to(file)
    here = {relocation.NUMPY_HEADERS: "/n", relocation.PYTHON_HEADERS: "/p", relocation.TINYXML2: "/t.so"}
    assert relocation.relocate(file, here)
    assert file.read_text() == 'a "/p;/n" b "/t.so;${_IMPORT_PREFIX}/include"\n'
    assert foreign in cached.read_text(), "a cache that shares the file is left as it is"


def test_what_is_set_already_is_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("ROS_DISTRO", raising=False)
    assert ros_environment(5, {})["FASTDDS_DEFAULT_PROFILES_FILE"] == str(FASTDDS_PROFILE)
    assert ros_environment(5, {})["ROS_DOMAIN_ID"] == "5"
    own = {"RMW_IMPLEMENTATION": "rmw_cyclonedds_cpp", "ROS_DOMAIN_ID": "9"}
    assert own.items() <= ros_environment(None, own).items()


@pytest.mark.parametrize("domain", [-1, 102])
def test_domains_that_dds_has_no_ports_for_are_refused(domain: int, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(ConfigError, match="between 0 and 101"):
        check_domain(domain)
    monkeypatch.setenv("ROS_DOMAIN_ID", "seven")
    with pytest.raises(ConfigError, match="'seven'"):
        current_domain()


@pytest.mark.parametrize("missing", ["rclpy", "pld_msgs"])
def test_without_make_ros_there_is_one_clear_error(missing: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("ROS_DISTRO", raising=False)
    found = importlib.util.find_spec
    monkeypatch.setattr(environment, "find_spec", lambda name: None if name == missing else found(name))
    with pytest.raises(ConfigError, match=f"{missing} is not installed.*make ros"):
        environment.require_messages()
    monkeypatch.setenv("ROS_DISTRO", "jazzy")
    with pytest.raises(ConfigError, match="colcon build --base-paths"):
        environment.require_messages()


def test_shared_memory_of_the_dead_is_found_and_that_of_the_living_is_left(tmp_path: Path) -> None:
    import fcntl

    names = ["fastdds_00aa", "fastdds_00aa_el", "fastdds_port7411", "sem.fastdds_port7411_mutex", "other"]
    for name in [*names, "fastdds_00bb", "fastdds_00bb_el"]:
        (tmp_path / name).touch()
    assert shared_memory.dead_files(tmp_path) == [], "too young to tell"
    with open(tmp_path / "fastdds_00bb_el") as living, pytest.MonkeyPatch.context() as patch:
        patch.setattr(shared_memory, "_SETTLED_S", 0.0)
        fcntl.flock(living, fcntl.LOCK_EX)
        assert {path.name for path in shared_memory.remove_dead_files(tmp_path)} == set(names) - {"other"}
    assert {path.name for path in tmp_path.iterdir()} == {"other", "fastdds_00bb", "fastdds_00bb_el"}


def _module(path: Path) -> ModuleType:
    spec = importlib.util.spec_from_file_location(path.stem, path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    assert inspect.ismodule(module)
    return module
