"""What the machine is; and packaging promises that users rely on."""

from __future__ import annotations

import ast
import subprocess
import sys
import tomllib
import xml.etree.ElementTree as ElementTree
from pathlib import Path

import pytest

from pld_core import system

ROOT = Path(system.__file__).resolve().parents[1]
in_checkout = pytest.mark.skipif(not (ROOT / "pyproject.toml").exists(), reason="needs a checkout")


def test_it_describes_this_machine():
    found = system.describe()
    assert found["cores"] >= 1
    assert found["memory_gib"] > 0
    assert found["packages"]["numpy"]
    assert system.free_disk_gib(Path("not/yet/there")) > 0


def test_versions_leave_out_what_is_absent():
    assert set(system.versions(("numpy", "no-such-thing"))) == {"numpy"}


def test_the_git_revision_and_whether_it_is_changed(tmp_path):
    assert system.git_revision(tmp_path) == ("", False)

    def git(*args):
        identity = ["-c", "user.name=t", "-c", "user.email=t@example.org", "-c", "commit.gpgsign=false"]
        subprocess.run(["git", "-C", tmp_path, *identity, *args], check=True, capture_output=True)

    git("init")
    (tmp_path / "a").write_text("1")
    git("add", "a")
    git("commit", "-m", "one")
    revision, dirty = system.git_revision(tmp_path)
    assert len(revision) == 40
    assert not dirty
    (tmp_path / "a").write_text("2")
    assert system.git_revision(tmp_path) == (revision, True)


def test_make_can_run_it_before_anything_is_installed():
    """`-I -S` leaves an interpreter with nothing but the standard library."""
    done = subprocess.run(
        [sys.executable, "-I", "-S", system.__file__, "--egl"], capture_output=True, text=True, check=False
    )
    assert done.returncode in (0, 1), done.stderr
    assert "Traceback" not in done.stderr


def test_a_missing_egl_library_is_explained(monkeypatch):
    def missing(name):
        raise OSError(f"{name}: cannot open shared object file")

    monkeypatch.setattr(system.ctypes, "CDLL", missing)
    assert "libEGL.so.1" in system.egl_problem()


@in_checkout
def test_the_extras_that_the_documentation_names_exist():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    wanted = {"ros", "franka", "yam", "realsense", "libero", "torch", "ray", "dev"}
    assert wanted <= set(project["optional-dependencies"])
    assert project["scripts"]["pld"] == "pld_core.cli.main:main"
    assert tuple(map(int, project["requires-python"].removeprefix(">=").split("."))) <= sys.version_info[:2]


@in_checkout
def test_the_constraints_pin_the_tested_set():
    lines = [line.split(" ;")[0] for line in (ROOT / "constraints.txt").read_text().splitlines()]
    pins = dict(line.split("==") for line in lines if "==" in line and not line.startswith("#"))
    expected = {"mujoco": "3.17.", "numpy": "2.4.", "jax": "0.10.", "torch": "2.13."}
    for name, start in expected.items():
        assert pins[name].startswith(start)
    assert len(lines) == len(set(lines))


@in_checkout
def test_the_ros_package_is_named_as_the_distribution():
    package = ElementTree.parse(ROOT / "package.xml").getroot()
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    assert package.findtext("name") == project["name"] == "pld"
    assert package.findtext("version") == project["version"]
    assert package.attrib["format"] == "3"
    assert (ROOT / "resource" / "pld").exists()


@in_checkout
def test_files_stay_short_and_nothing_is_asserted_on_user_input():
    for path in sorted((ROOT / "pld_core").rglob("*.py")):
        text = path.read_text()
        assert len(text.splitlines()) <= 320, f"{path} is too long: split it"
        asserts = [node.lineno for node in ast.walk(ast.parse(text)) if isinstance(node, ast.Assert)]
        assert not asserts, f"{path}:{asserts}: raise an error instead of assert"
