"""Rotations, camera placement, supersampling, control and model loading of the tabletop simulator."""

from __future__ import annotations

import numpy as np
import pytest

from pld_core.errors import PLDError, RobotUnavailableError
from pld_core.types import ActionSpec
from pld_sim.smooth import saturate, smoothstep
from pld_sim.tabletop import models, rendering, rotations
from pld_sim.tabletop.control import MAX_LEAD_M, Workspace, shorten
from pld_sim.tabletop.peg import PegInsertion
from pld_sim.tabletop.scene import CameraPlacement, ring
from pld_sim.tabletop.world import TaskError, World


@pytest.mark.parametrize("rotvec", [(0.3, -0.2, 0.1), (0.0, 0.0, 0.0), (0.0, 0.0, -1.2)])
def test_rotation_vectors_survive_the_round_trip(rotvec):
    quat = rotations.quat_from_rotvec(np.array(rotvec))
    assert np.linalg.norm(quat) == pytest.approx(1.0)
    assert np.allclose(rotations.rotvec_between(quat, np.array(rotations.IDENTITY)), rotvec, atol=1e-9)


def test_rotvec_between_is_in_the_fixed_frame():
    current = rotations.quat_from_yaw(0.9)
    turn = np.array([0.1, 0.0, 0.0])
    target = rotations.multiply(rotations.quat_from_rotvec(turn), current)
    assert np.allclose(rotations.rotvec_between(target, current), turn, atol=1e-9)


@pytest.mark.parametrize(
    ("angle", "period", "expected"), [(1.6, np.pi / 2, 1.6 - np.pi / 2), (3.0, np.pi, 3.0 - np.pi)]
)
def test_wrap_uses_symmetry(angle, period, expected):
    assert rotations.wrap(angle, period) == pytest.approx(expected)


def test_tilt_to_upright_straightens():
    leaning = rotations.quat_from_rotvec(np.array([0.05, -0.03, 0.0]))
    axis = np.zeros(3)
    rotations.mujoco.mju_rotVecQuat(axis, np.array([0.0, 0.0, 1.0]), leaning)
    assert np.allclose(rotations.tilt_to_upright(axis), [-0.05, 0.03], atol=1e-3)


def test_camera_looks_at_its_point():
    placement = CameraPlacement(position=(1.0, -0.5, 0.7), look_at=(0.2, 0.1, 0.0), fov=30.0)
    forward = np.zeros(3)
    rotations.mujoco.mju_rotVecQuat(forward, np.array([0.0, 0.0, -1.0]), placement.quat())
    wanted = np.subtract(placement.look_at, placement.position)
    assert np.allclose(forward, wanted / np.linalg.norm(wanted))


def test_ring_faces_outwards():
    for low, right, high, _ in ring((1.0, 2.0), 0.0, (1.0, 2.0), 1.0):
        corners = np.array([low, right, high])
        normal = np.cross(corners[1] - corners[0], corners[2] - corners[0])
        assert normal @ (corners.mean(0) - [0.0, 0.0, 0.5]) > 0


def test_halve_is_the_rounded_mean():
    image = np.random.default_rng(0).integers(0, 256, (8, 6, 3), dtype=np.uint8)
    mean = image.reshape(4, 2, 3, 2, 3).astype(float).mean((1, 3))
    halved = rendering.halve(image)
    assert halved.dtype == np.uint8
    assert np.abs(halved - mean).max() <= 0.5


def test_smoothstep_and_saturate_are_bounded_and_monotone():
    values = [smoothstep(x, 1.0, 2.0) for x in np.linspace(0, 3, 31)]
    assert values[0] == 0.0
    assert values[-1] == 1.0
    assert all(np.diff(values) >= 0)
    assert np.linalg.norm(saturate(np.array([30.0, 40.0]), 0.7)) == pytest.approx(0.7)
    assert np.allclose(saturate(np.array([0.01, 0.0]), 0.7), [0.01, 0.0], atol=1e-4)


def test_grounding_is_in_centimetres():
    error = TaskError(np.array([0.01, -0.02, 0.03]), 0.1, np.zeros(2))
    assert np.allclose(error.grounding(), [1.0, -2.0, 3.0, np.sin(0.1), np.cos(0.1)])


def test_missing_package_says_what_to_install():
    with pytest.raises(RobotUnavailableError, match="pip install some-robot"):
        models.package_folder("no_such_robot_package", "some-robot")


def test_unusable_gl_backend_is_named(monkeypatch):
    monkeypatch.setenv("MUJOCO_GL", "teapot")
    with pytest.raises(PLDError, match="teapot"):
        rendering.make_gl_context(64, 64)


@pytest.fixture(scope="module")
def world():
    task = PegInsertion()
    spec, arm = task.build(visual=False)
    return World(spec.compile(), arm, task.workspace, ActionSpec())


def test_target_never_runs_far_ahead(world):
    world.clear()
    PegInsertion().randomise(world, np.random.default_rng(0))
    forward = np.array([1.0, 0, 0, 0, 0, 0, -1])
    for _ in range(12):
        world.controller.apply(world.data, forward)
        position, _ = world.controller.measured(world.data)
        lead = world.controller.target_position - position
        assert np.linalg.norm(lead) <= MAX_LEAD_M + 1e-9
    assert shorten(np.array([3.0, 4.0]), 1.0) == pytest.approx([0.6, 0.8])


def test_tool_stays_in_its_workspace(world):
    task = PegInsertion()
    world.clear()
    task.randomise(world, np.random.default_rng(1))
    for _ in range(60):
        world.controller.apply(world.data, np.array([1.0, 1.0, 1.0, 0, 0, 1.0, -1]))
    position, quat = world.controller.measured(world.data)
    assert np.all(position <= np.array(task.workspace.upper) + 0.002)
    turned = rotations.rotvec_between(quat, np.array(world.arm.nominal_quat))
    assert np.all(np.abs(turned) <= np.array(Workspace((0,) * 3, (0,) * 3).rotation) + 0.02)


def test_straight_moves_are_straight(world):
    """All joints lag alike, so the tool trails along its path and not beside it."""
    world.clear()
    PegInsertion().randomise(world, np.random.default_rng(2))
    start, _ = world.controller.measured(world.data)
    for _ in range(8):
        world.controller.apply(world.data, np.array([0.0, 0.0, -0.4, 0, 0, 0, -1]))
    end, _ = world.controller.measured(world.data)
    assert end[2] < start[2] - 0.02
    assert np.abs(end[:2] - start[:2]).max() < 0.0015
