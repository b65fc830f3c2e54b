"""The limits that every command passes, checked against whatever sequence of commands hypothesis can think of."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from pld_core.control import SafetyLimits, limits_of, rotations
from pld_core.errors import ConfigError, NonFiniteError
from pld_core.stations import load_robot
from pld_core.types import ActionSpec
from pld_sim.tabletop import rotations as simulated

SPEC = ActionSpec()
BOX = np.array([[0.30, -0.25, 0.0], [0.70, 0.25, 0.50]])
KEEP_OUT = np.array([[[0.40, -0.05, 0.0], [0.50, 0.05, 0.12]], [[0.55, 0.10, 0.20], [0.60, 0.20, 0.60]]])
TILT = 0.4
LIMITS = SafetyLimits(SPEC, BOX, KEEP_OUT, TILT)
ROUNDING_M = 1e-7  # of float32 commands

actions = hnp.arrays(np.float32, 7, elements=st.floats(-3, 3, width=32))
paths = st.lists(actions, min_size=1, max_size=60)
# Within the box and outside of what is to be kept out.
starts = hnp.arrays(np.float64, 3, elements=st.floats(0.01, 0.99)).map(lambda share: BOX[0] + share * (BOX[1] - BOX[0]))


def is_inside(position: np.ndarray, box: np.ndarray, by: float) -> bool:
    return bool(((box[0] + by < position) & (position < box[1] - by)).all())


def moved(position: np.ndarray, action: np.ndarray) -> np.ndarray:
    return position + SPEC.translation_m * action[:3].astype(np.float64)


def turned(rotvec: np.ndarray, action: np.ndarray) -> np.ndarray:
    step = rotations.quat_from_rotvec(SPEC.rotation_rad * action[3:6].astype(np.float64))
    return rotations.rotvec_of(rotations.multiply(step, rotations.quat_from_rotvec(rotvec)))


@settings(max_examples=300)
@given(starts, paths)
def test_no_sequence_of_commands_leaves_the_box_or_enters_what_is_kept_out(position, path):
    if any(is_inside(position, box, 0.0) for box in KEEP_OUT):
        return
    rotvec = np.zeros(3)
    for wanted in path:
        action = LIMITS.apply(wanted, position, rotvec)
        assert action.dtype == np.float32
        assert np.abs(action).max() <= 1.0
        for share in np.linspace(0.1, 1.0, 10):  # nor does it cut through
            between = moved(position, share * action)
            assert (between >= BOX[0] - ROUNDING_M).all()
            assert (between <= BOX[1] + ROUNDING_M).all()
            assert not any(is_inside(between, box, ROUNDING_M) for box in KEEP_OUT)
        position, rotvec = moved(position, action), turned(rotvec, action)
        assert rotations.tilt(rotvec) <= TILT + 1e-5


@settings(max_examples=200)
@given(hnp.arrays(np.float64, 3, elements=st.floats(-1, 1)), actions)
def test_from_anywhere_a_command_never_leads_further_out(position, wanted):
    limits = dataclasses.replace(LIMITS, keep_out=KEEP_OUT[:0])
    after = moved(position, limits.apply(wanted, position, np.zeros(3)))
    outside = np.maximum(BOX[0] - position, position - BOX[1]).clip(0)
    assert (np.maximum(BOX[0] - after, after - BOX[1]).clip(0) <= outside + ROUNDING_M).all()


@settings(max_examples=200)
@given(hnp.arrays(np.float64, 3, elements=st.floats(0.01, 0.99)), actions)
def test_what_stands_in_a_forbidden_box_finds_the_nearest_way_out(share, wanted):
    box = KEEP_OUT[0]
    position = box[0] + share * (box[1] - box[0])
    after = moved(position, SafetyLimits(SPEC, None, box[None]).apply(wanted, position))
    depths = np.concatenate([position - box[0], box[1] - position])
    nearest = depths.argmin()
    assert np.concatenate([after - box[0], box[1] - after])[nearest] <= depths[nearest] + ROUNDING_M
    others = np.arange(3) != nearest % 3
    assert np.array_equal(after[others], position[others])


@settings(max_examples=200)
@given(hnp.arrays(np.float64, 3, elements=st.floats(-1.5, 1.5)), actions)
def test_from_any_orientation_a_command_never_tilts_further(rotvec, wanted):
    before = rotations.tilt(rotvec)
    after = rotations.tilt(turned(rotvec, LIMITS.apply(wanted, BOX.mean(0), rotvec)))
    assert after <= max(before, TILT) + 1e-5


@given(hnp.arrays(np.float32, 7, elements=st.floats(-1, 1, width=32)))
def test_what_is_within_all_limits_passes_to_the_last_bit(action):
    assert np.array_equal(LIMITS.apply(action, np.array([0.65, -0.2, 0.4]), np.zeros(3)), action)


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("axis", [0, 1, 2])
@pytest.mark.parametrize("limits", [LIMITS, SafetyLimits(SPEC)])
def test_from_nowhere_nothing_is_admitted(limits, axis, value):
    for position, rotvec in ((BOX.mean(0), np.zeros(3)), (np.zeros(3), BOX.mean(0))):
        (position if not position.any() else rotvec)[axis] = value
        with pytest.raises(NonFiniteError, match="Nothing was sent"):
            limits.apply(np.zeros(7, np.float32), position, rotvec)


@settings(max_examples=300)
@given(actions, st.floats(0.01, 1.0), st.floats(0.01, 4.0))
def test_no_command_is_faster_than_allowed_in_any_direction(wanted, most_m_s, most_rad_s):
    limits = SafetyLimits(SPEC, max_speed_m_s=most_m_s, max_speed_rad_s=most_rad_s)
    action, plain = limits.apply(wanted), SafetyLimits(SPEC).apply(wanted)
    for part, unit, most in ((slice(0, 3), SPEC.translation_m, most_m_s), (slice(3, 6), SPEC.rotation_rad, most_rad_s)):
        own, free = (np.linalg.norm(x[part].astype(np.float64)) * unit * SPEC.rate_hz for x in (action, plain))
        assert own <= most * (1 + 2e-6)
        if free <= most:
            assert np.array_equal(action[part], plain[part])
        else:
            assert own == pytest.approx(most, rel=1e-5), "no slower than it must be"
            assert action[part] / own == pytest.approx(plain[part] / free, abs=1e-4), "in the same direction"
    assert action[6] == plain[6]
    assert np.array_equal(limits.apply(action), action), "the robot takes what the controller has slowed down"


@pytest.mark.parametrize("name", ["franka_fr3", "franka_panda", "yam_real_01"])
def test_a_real_station_limits_the_speed_and_its_twin_does_not(name):
    station = load_robot(name)
    limits, twin = limits_of(station), limits_of(load_robot(station.simulated_twin))
    assert (limits.max_speed_m_s, limits.max_speed_rad_s) == (0.25, 1.6)
    assert (twin.max_speed_m_s, twin.max_speed_rad_s) == (None, None)
    assert station.workspace_m is not None
    diagonal, middle = np.array([1, 1, 1, 0, 0, 0, 0], np.float32), np.mean(station.workspace_m, axis=0)
    assert np.linalg.norm(limits.apply(diagonal, middle)[:3]) * 0.01 * 20 == pytest.approx(0.25)
    assert np.array_equal(twin.apply(diagonal, middle), diagonal)
    for axis in range(6):  # along one axis all of it
        action = np.eye(7, dtype=np.float32)[axis]
        assert np.array_equal(limits.slowed(action), action)


def test_yaw_is_free_within_the_cone():
    action = np.array([0, 0, 0, 0, 0, 1.0, 0], np.float32)
    assert np.array_equal(LIMITS.apply(action, BOX.mean(0), np.array([0.0, 0.0, 2.0])), action)


def test_it_slides_along_a_face():
    position = np.array([0.45, 0.05, 0.05])  # on the face of the first box
    action = np.array([1.0, 0.0, 0, 0, 0, 0, 0], np.float32)
    assert np.array_equal(LIMITS.apply(action, position), action)
    assert not LIMITS.apply(-np.eye(7, dtype=np.float32)[1], position).any()


rotvecs = hnp.arrays(np.float64, 3, elements=st.floats(-1.8, 1.8))


@given(rotvecs, rotvecs)
def test_rotation_vectors_go_there_and_back(first, second):
    one, other = rotations.quat_from_rotvec(first), rotations.quat_from_rotvec(second)
    turn = rotations.rotvec_between(one, other)
    assert np.linalg.norm(turn) <= np.pi + 1e-9
    again = rotations.multiply(rotations.quat_from_rotvec(turn), other)
    assert min(np.abs(again - one).max(), np.abs(again + one).max()) < 1e-9


@given(rotvecs, rotvecs)
def test_rotations_are_those_of_the_simulator(first, second):
    pairs = [(rotations.quat_from_rotvec(turn), simulated.quat_from_rotvec(turn)) for turn in (first, second)]
    for ours, theirs in pairs:
        assert ours == pytest.approx(theirs, abs=1e-12)
    (one, _), (other, _) = pairs
    assert rotations.multiply(one, other) == pytest.approx(simulated.multiply(one, other), abs=1e-12)
    if np.linalg.norm(rotations.rotvec_between(one, other)) < 3.1:  # at pi, either sense of turning is right
        assert rotations.rotvec_between(one, other) == pytest.approx(simulated.rotvec_between(one, other), abs=1e-9)


@pytest.mark.parametrize(("rotvec", "tilt"), [((0.3, 0, 0), 0.3), ((0, -0.2, 0), 0.2), ((0, 0, 3.0), 0.0)])
def test_tilt_is_the_angle_to_the_vertical(rotvec, tilt):
    assert rotations.tilt(np.array(rotvec)) == pytest.approx(tilt)


@pytest.mark.parametrize(
    ("line", "complaint"),
    [
        ("keep_out_m: [[[0.4, 0, 0], [0.3, 0.1, 0.1]]]", "keep_out_m"),
        ("max_tilt_rad: 4.0", "max_tilt_rad"),
        ("cameras: {w: {driver: opencv, width: 640, height: 480, crop: [600, 0, 100, 100]}}", "crop of camera w"),
    ],
)
def test_limits_that_make_no_sense_are_refused(tmp_path, line, complaint):
    path = tmp_path / "mine.yaml"
    path.write_text(f"driver: simulated\nproprio: [x]\n{line}\n" + ("" if "cameras" in line else "cameras: {}\n"))
    with pytest.raises(ConfigError, match=complaint):
        load_robot(str(path))
