"""Gamepad and SpaceMouse, on pipes."""

from __future__ import annotations

import struct
from pathlib import Path

import pytest
from hand_tools import DEAD_MAN, INITIAL, Clock, Pipe, moves

from pld_ros.operating.front_ends import gamepad, spacemouse
from pld_ros.operating.front_ends.base import CLOSE, OPEN, FrontEndError, OperatorEvent
from pld_ros.operating.front_ends.gamepad import Gamepad
from pld_ros.operating.front_ends.spacemouse import STALE_S, SpaceMouse, SpaceMouseMap


@pytest.fixture
def clock():
    return Clock()


@pytest.fixture
def pipe(tmp_path):
    pipe = Pipe(tmp_path / "device")
    yield pipe
    pipe.unplug()


@pytest.fixture
def pad(pipe):
    pad = Gamepad(pipe.path, speed=0.5)
    yield pad
    pad.close()


def test_buttons_say_what_the_map_says(pipe, pad):
    for number in (0, 3, 2, 1, 7, 6, 11):
        pipe.button(number, 1)
        pipe.button(number, 0)
    assert pad.poll() == [
        OperatorEvent.START, OperatorEvent.SUCCESS, OperatorEvent.FAIL, OperatorEvent.ESTOP, OperatorEvent.PAUSE,
        OperatorEvent.RESET,
    ]  # fmt: skip
    assert OperatorEvent.RELEASE not in gamepad.GamepadMap().events.values()


def test_sticks_move_the_arm_only_with_the_dead_man_button(pipe, pad):
    pipe.axis(1, -1.0)
    pad.poll()
    assert pad.drive() is None
    pipe.button(DEAD_MAN, 1)
    pad.poll()
    assert moves(pad.drive()) == {0: 0.5}
    pipe.axis(1, 0.0)
    pad.poll()
    assert moves(pad.drive()) == {}, "the human holds the arm still"
    pipe.button(DEAD_MAN, 0)
    pad.poll()
    assert pad.drive() is None


def test_the_dead_man_button_alone_takes_nothing_over(pipe, pad):
    pipe.button(DEAD_MAN, 1)
    pipe.axis(0, 0.14)  # in the dead zone
    pad.poll()
    assert pad.drive() is None
    pipe.axis(0, 0.16)
    pad.poll()
    assert -0.01 < pad.drive()[1] < 0.0, "no jump at the edge of the dead zone"


def test_all_axes_and_the_gripper_of_the_pad(pipe, pad):
    pipe.button(DEAD_MAN, 1)
    for axis in (0, 3, 4):
        pipe.axis(axis, -1.0)
    pipe.axis(6, 1.0)
    pipe.axis(7, 1.0)
    pad.poll()
    assert moves(pad.drive()) == {1: 0.5, 2: 0.5, 3: 0.5, 5: 0.5, 6: CLOSE}
    pipe.axis(7, 0.0)
    pad.poll()
    assert pad.drive()[6] == CLOSE, "it stays as it was told"
    pipe.axis(7, -1.0)
    pad.poll()
    assert pad.drive()[6] == OPEN


def test_a_button_that_was_held_at_the_start_must_be_pressed_anew(pipe, pad):
    pipe.button(DEAD_MAN, 1, 1 | INITIAL)
    pipe.button(0, 1, 1 | INITIAL)
    pipe.axis(1, -1.0, 2 | INITIAL)
    assert pad.poll() == []
    assert pad.drive() is None
    pipe.button(DEAD_MAN, 1)
    pad.poll()
    assert moves(pad.drive()) == {0: 0.5}
    pipe.button(DEAD_MAN, 0, 1 | INITIAL)  # the kernel lost events and says how things stand
    pad.poll()
    assert pad.drive() is None


def test_half_an_event_waits_for_its_other_half(pipe, pad):
    event = struct.pack("<IhBB", 0, 1, 1, 0)
    pipe.send(event[:5])
    assert pad.poll() == []
    pipe.send(event[5:])
    assert pad.poll() == [OperatorEvent.START]


def test_what_came_before_the_plug_was_pulled_counts(pipe, pad):
    pipe.button(1, 1)
    pipe.unplug()
    assert pad.poll() == [OperatorEvent.ESTOP]
    with pytest.raises(FrontEndError, match=r"gamepad at .*device is gone"):
        pad.poll()


def test_a_missing_gamepad_says_where_it_was_sought(tmp_path):
    with pytest.raises(FrontEndError, match=f"no {tmp_path}/js.*modprobe joydev"):
        gamepad._first(tmp_path)
    with pytest.raises(FrontEndError, match=r"cannot be read: No such file.*usermod -aG input"):
        Gamepad(str(tmp_path / "js7"))
    for name in ("js1", "js0"):
        (tmp_path / name).touch()
    assert gamepad._first(tmp_path).name == "js0"


@pytest.fixture
def mouse(pipe, clock):
    mouse = SpaceMouse(pipe.path, speed=1.0, clock=clock)
    yield mouse
    mouse.close()


def report(mouse: SpaceMouse, pipe: Pipe, number: int, *values: int, form: str = "h") -> list[OperatorEvent]:
    """One report; a real device gives one at each read."""
    pipe.send(struct.pack(f"<B{len(values)}{form}", number, *values))
    return mouse.poll()


def test_the_cap_moves_the_arm_in_its_own_frame(pipe, mouse):
    report(mouse, pipe, 1, 0, -350, 0)  # away from the user
    assert mouse.drive() is None
    report(mouse, pipe, 3, 1, form="B")
    assert moves(mouse.drive()) == {0: 1.0}
    report(mouse, pipe, 1, -350, 0, -350)  # left and up
    assert moves(mouse.drive()) == {1: 1.0, 2: 1.0}
    report(mouse, pipe, 1, 0, 0, 0)
    report(mouse, pipe, 2, 0, -350, -175)
    assert set(moves(mouse.drive())) == {3, 5}
    report(mouse, pipe, 3, 0, form="B")
    assert mouse.drive() is None


def test_models_that_send_six_numbers_in_one_report(pipe, mouse):
    report(mouse, pipe, 3, 1, 0, form="B")
    report(mouse, pipe, 1, 0, -350, 0, -350, 0, 20)
    assert moves(mouse.drive()) == {0: 1.0, 4: 1.0}


def test_the_right_button_closes_then_opens(pipe, mouse):
    for buttons, wanted in ((1, None), (3, CLOSE), (1, CLOSE), (3, OPEN), (1, OPEN)):
        report(mouse, pipe, 3, buttons, form="B")
        motion = mouse.drive()
        assert motion is None if wanted is None else motion[6] == wanted
    report(mouse, pipe, 3, 0, form="B")
    assert mouse.drive() is None


def test_a_mouse_out_of_reach_does_not_move_the_arm_on(pipe, mouse, clock):
    report(mouse, pipe, 3, 1, form="B")
    report(mouse, pipe, 1, 0, -350, 0)
    assert moves(mouse.drive()) == {0: 1.0}
    clock.now += STALE_S + 0.01
    assert moves(mouse.drive()) == {}


def test_more_buttons_can_be_given_a_meaning(pipe):
    mouse = SpaceMouse(pipe.path, SpaceMouseMap(events={12: OperatorEvent.ESTOP}))
    pipe.send(struct.pack("<BI", 3, 1 << 12))
    assert mouse.poll() == [OperatorEvent.ESTOP]
    mouse.close()


@pytest.mark.parametrize(
    ("identity", "found"),
    [
        ("0003:0000256F:0000C635", True),
        ("0003:0000046D:0000C626", True),
        ("0003:0000046D:0000C52B", False),
        ("odd", False),
    ],
)
def test_the_mouse_is_found_by_its_maker(tmp_path, identity, found):
    folder = tmp_path / "hidraw3" / "device"
    folder.mkdir(parents=True)
    (tmp_path / "hidraw1").mkdir()
    (folder / "uevent").write_text(f"DRIVER=hid-generic\nHID_ID={identity}\n")
    if found:
        assert spacemouse._first(Path("/dev"), tmp_path) == Path("/dev/hidraw3")
    else:
        with pytest.raises(FrontEndError, match=r"none of .*hidraw\* is a device of 3Dconnexion"):
            spacemouse._first(Path("/dev"), tmp_path)
