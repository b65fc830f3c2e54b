"""What of LIBERO needs neither the package nor a process: names, pictures, and processes that are lost."""

from __future__ import annotations

import sys
import types

import numpy as np
import pytest
from mujoco import MjSpec

from pld_core import bring
from pld_core.errors import ConfigError, ContractError, EpisodeLostError, StageError, UnknownNameError
from pld_sim.libero import SUITES, environment, make_environments
from pld_sim.libero.environment import LOST_IN_A_ROW, LiberoEnvironment
from pld_sim.libero.meshes import FACES, Meshes, coarse
from pld_sim.libero.pictures import refuse_blank, shrunk
from pld_sim.libero.process import WorkerProcess
from pld_sim.libero.suites import PROPRIO_NAMES, Order, parse

BALL = """
<mujoco><asset><mesh name="ball" builtin="sphere" params="4" scale=".1 .1 .1"/></asset>
<worldbody><geom type="mesh" mesh="ball" group="1"/></worldbody></mujoco>"""


def test_there_are_130_tasks():
    assert sum(suite.tasks for suite in SUITES.values()) == 130
    assert parse("libero_90/89") == ("libero_90", 89)


@pytest.mark.parametrize("name", ["libero_object/10", "libero_object/", "libero_object/-1", "libero_object/x"])
def test_a_task_that_is_not_there_is_refused(name):
    with pytest.raises(ConfigError, match="from 0 to 9"):
        make_environments(name)


def test_a_suite_that_is_not_there_is_refused():
    with pytest.raises(UnknownNameError, match="Did you mean 'libero_object'"):
        make_environments("libero_objects/0")


@pytest.mark.parametrize("options", [{"lanes": 0}, {"image_size": 96}])
def test_bad_options_are_refused_before_anything_starts(options):
    with pytest.raises(ConfigError, match="valid"):
        make_environments("libero_object/0", **options)


@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("libero_goal/4", {}),
        ("libero_goal/4?image_size=256", {"image_size": 256}),
        ("libero_goal/4?reflections=false&image_size=32", {"image_size": 32, "reflections": False}),
    ],
)
def test_a_name_from_the_command_line_leads_here(monkeypatch, name, options):
    asked = []
    monkeypatch.setattr(
        "pld_sim.libero.tasks.make_environments",
        lambda task, lanes, **given: asked.append((task, lanes, given)) or [1],
    )
    factory = bring.environment_factory(name)
    with pytest.raises(ContractError, match="neither"):
        factory(3)
    assert asked == [("libero_goal/4", 3, options)]


@pytest.mark.parametrize("option", ["x", "image_size=", "image_size=-1", "reflections=1", "lanes=2", ""])
def test_an_option_of_a_name_that_is_not_there_is_refused(option):
    with pytest.raises(ConfigError, match="valid are image_size=N and reflections=true or false"):
        bring.environment_factory(f"libero_goal/4?image_size=64&{option}")(1)


def test_pictures_shrink_by_the_mean_of_blocks():
    image = np.random.default_rng(0).integers(0, 256, (8, 8, 3), dtype=np.uint8)
    assert np.array_equal(shrunk(image, 8), image)
    blocks = image.reshape(4, 2, 4, 2, 3).transpose(0, 2, 1, 3, 4).reshape(4, 4, 4, 3).astype(float)
    assert np.array_equal(shrunk(image, 4), np.floor(blocks.mean(2) + 0.5))


def test_a_mesh_keeps_its_shape_with_a_tenth_of_its_triangles():
    model = MjSpec.from_string(BALL).compile()
    whole = model.mesh_facenum[0]
    before = [getattr(model, name).copy() for name in FACES]
    faces = coarse(model, 0)
    face = faces["mesh_face"]
    assert all(rows.shape == face.shape for rows in faces.values())
    assert 0.05 * whole < len(face) < 0.15 * whole
    used = model.mesh_vert[face]
    assert np.linalg.norm(used, axis=-1) == pytest.approx(0.1, abs=0.002)
    sides = np.sort(face[:, [[0, 1], [1, 2], [2, 0]]].reshape(-1, 2), axis=1)
    assert (np.unique(sides, axis=0, return_counts=True)[1] >= 2).all()  # no holes
    normals = np.cross(used[:, 1] - used[:, 0], used[:, 2] - used[:, 0])
    assert (np.einsum("fk,fk->f", normals, used.mean(1)) > 0).mean() > 0.97  # outsides stay outside
    assert all(np.array_equal(a, getattr(model, name)) for a, name in zip(before, FACES, strict=True))


def test_only_the_upload_sees_a_simplified_mesh():
    model = MjSpec.from_string(BALL).compile()
    whole, uploaded = int(model.mesh_facenum[0]), []
    meshes = Meshes(model, lambda mesh: uploaded.append(int(model.mesh_facenum[mesh])))
    for simplified in (False, True, True, False):
        meshes.simplify(simplified)
        assert model.mesh_facenum[0] == whole
    assert len(uploaded) == 2
    assert uploaded[0] < 0.15 * whole
    assert uploaded[1] == whole


def test_blank_pictures_are_refused():
    picture = np.zeros((4, 4, 3), np.uint8)
    with pytest.raises(ConfigError, match=r"'wrist' of libero_goal/1 is blank .*values are 0"):
        refuse_blank({"wrist": picture}, "libero_goal/1")
    picture[0] = 9
    refuse_blank({"wrist": picture}, "libero_goal/1")


def test_without_the_extra_an_error_says_what_to_install(tmp_path, monkeypatch):
    """A package in the way that cannot be imported stands for one that is not installed."""
    (tmp_path / "libero").mkdir()
    (tmp_path / "libero" / "__init__.py").write_text(
        "raise ModuleNotFoundError(\"No module named 'libero'\", name='libero')\n"
    )
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    with pytest.raises(ConfigError, match=r"Cannot load libero_object/0: No module.*pld\[libero\]"):
        make_environments("libero_object/0")


@pytest.mark.parametrize("when", ["at once", "later"])
def test_a_process_that_dies_says_its_last_words(monkeypatch, tmp_path, when):
    dying = tmp_path / "dying"
    dying.write_text(f"#!/bin/sh\n{'sleep 1' if when == 'later' else ':'}\necho goodbye >&2\nexit 1\n")
    dying.chmod(0o755)
    monkeypatch.setattr(sys, "executable", str(dying))
    with pytest.raises(EpisodeLostError, match=r"exit status 1; .*last words: goodbye"):  # noqa: PT012  # by either
        worker = WorkerProcess(Order("libero_object", 0))
        worker.wait_until_ready()
    if when == "later":
        assert worker.gone
        with pytest.raises(ContractError, match=r"reset\(\) starts another"):
            worker.ask(do="arm")
        worker.close()


class Mortal:
    """Stands for a WorkerProcess; dies in the second tick of every life but the last."""

    lives = LOST_IN_A_ROW

    def __init__(self, order: Order) -> None:
        self.gone, self._ticks = False, 0
        Mortal.lives -= 1

    def wait_until_ready(self):
        return {"instruction": "do it", "joints": ["a"]}

    def ask(self, do, **message):
        self._ticks += do == "step"
        if self._ticks == 2 and Mortal.lives >= 0:
            self.gone = True
            raise EpisodeLostError("The process is gone.")
        proprio = np.full(len(PROPRIO_NAMES), self._ticks, np.float32)
        return lambda: {"proprio": proprio, "images": {}, "success": self._ticks == 4}

    def close(self) -> None:
        self.gone = True


@pytest.fixture
def mortal(monkeypatch):
    monkeypatch.setattr(environment, "WorkerProcess", Mortal)
    return types.SimpleNamespace(make=lambda: LiberoEnvironment(Order("libero_object", 0)))


def test_processes_lost_again_and_again_stop_the_run(mortal, monkeypatch):
    monkeypatch.setattr(Mortal, "lives", 100)
    env, idle = mortal.make(), np.zeros(7)
    for _ in range(LOST_IN_A_ROW):
        env.reset(0)
        env.step(idle)
        with pytest.raises(EpisodeLostError):
            env.step(idle)
        with pytest.raises(ContractError, match="reset"):
            env.step(idle)
    with pytest.raises(StageError, match="3 processes of libero_object/0 were lost"):
        env.reset(0)


def test_an_episode_that_ends_makes_up_for_what_was_lost(mortal, monkeypatch):
    monkeypatch.setattr(Mortal, "lives", 2)
    env, idle = mortal.make(), np.zeros(7)
    for _ in range(2):
        env.reset(0)
        env.step(idle)
        with pytest.raises(EpisodeLostError):
            env.step(idle)
    env.reset(0)
    steps = [env.step(idle) for _ in range(4)]
    assert [step.terminated for step in steps] == [False, False, False, True]
    assert env._lost == 0
    assert env.instruction == "do it"
