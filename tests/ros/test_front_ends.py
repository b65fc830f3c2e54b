"""Keyboard on a pseudo-terminal, gamepad and SpaceMouse on pipes; and take-overs, from hand to command."""

from __future__ import annotations

import contextlib
import os
import pty
import struct
import termios
from pathlib import Path

import numpy as np
import pytest

from pld_core.errors import ConfigError, UnknownNameError
from pld_ros.operating.front_ends import gamepad, open_front_end, spacemouse
from pld_ros.operating.front_ends.base import CLOSE, KEEP, OPEN, FrontEndError, OperatorEvent
from pld_ros.operating.front_ends.gamepad import Gamepad
from pld_ros.operating.front_ends.holder import HeldFrontEnd
from pld_ros.operating.front_ends.keyboard import EVENTS, GRIPS, HOLD_S, MOTION_S, MOTIONS, Keyboard
from pld_ros.operating.front_ends.spacemouse import STALE_S, SpaceMouse, SpaceMouseMap
from pld_ros.operating.takeover import REMOTE_LOST_S, RemoteDrive, TakeOver


class Clock:
    now = 100.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock():
    return Clock()


def moves(motion):
    """``{entry: value}`` of what is not zero, or None."""
    return None if motion is None else {int(i): round(float(motion[i]), 3) for i in np.flatnonzero(motion)}


# -- keyboard ------------------------------------------------------------------------------------


@pytest.fixture
def terminal():
    """``(our end, the keyboard's end)``."""
    ours, theirs = pty.openpty()
    yield ours, theirs
    for fd in (ours, theirs):
        with contextlib.suppress(OSError):  # a test unplugged it
            os.close(fd)


@pytest.fixture
def keyboard(terminal, clock):
    keyboard = Keyboard(terminal[1], speed=0.5, clock=clock)
    yield keyboard
    keyboard.close()


def test_keys_say_what_the_help_says(terminal, keyboard):
    os.write(terminal[0], b"r sfpEx")
    assert keyboard.poll() == [
        OperatorEvent.RESET, OperatorEvent.START, OperatorEvent.SUCCESS, OperatorEvent.FAIL, OperatorEvent.PAUSE,
        OperatorEvent.RELEASE,
    ]  # fmt: skip
    assert keyboard.poll() == []


def test_no_key_means_two_things():
    assert len({*EVENTS, *MOTIONS, *GRIPS}) == len(EVENTS) + len(MOTIONS) + len(GRIPS)


@pytest.mark.parametrize("keys", [b"e", b"\x1b", b"ss\x1bs", b"\x1b\x1b", b"re"])
def test_an_emergency_stop_outweighs_all_other_keys(terminal, keyboard, keys):
    os.write(terminal[0], keys)
    assert keyboard.poll() == [OperatorEvent.ESTOP]


@pytest.mark.parametrize("keys", [b"\x1b[A", b"\x1bOP", b"\x1b[15~", b"\x1b[1;5C"])
def test_arrows_and_function_keys_are_no_emergency(terminal, keyboard, keys):
    os.write(terminal[0], keys + b"s")
    assert keyboard.poll() == [OperatorEvent.SUCCESS]


def test_a_held_key_drives_and_letting_go_stops(terminal, keyboard, clock):
    assert keyboard.drive() is None
    os.write(terminal[0], b"i")
    keyboard.poll()
    assert moves(keyboard.drive()) == {0: 0.5}
    clock.now += MOTION_S  # before a terminal repeats, the arm stands still, but in the human's hand
    assert moves(keyboard.drive()) == {}
    for _ in range(30):
        os.write(terminal[0], b"i")
        keyboard.poll()
        assert moves(keyboard.drive()) == {0: 0.5}
        clock.now += 0.033
    clock.now += HOLD_S
    assert keyboard.drive() is None


def test_two_keys_at_once_and_the_gripper(terminal, keyboard, clock):
    os.write(terminal[0], b"Lkc")
    keyboard.poll()
    assert moves(keyboard.drive()) == {0: -0.5, 5: -0.5, 6: CLOSE}
    os.write(terminal[0], b"iv")
    keyboard.poll()
    assert moves(keyboard.drive()) == {0: 0.5, 5: -0.5, 6: OPEN}
    clock.now += HOLD_S
    os.write(terminal[0], b"u")
    keyboard.poll()
    assert moves(keyboard.drive()) == {2: 0.5}, "another take-over, another gripper"


def test_the_terminal_is_restored(terminal):
    before = termios.tcgetattr(terminal[1])
    keyboard = Keyboard(terminal[1])
    assert termios.tcgetattr(terminal[1]) != before
    keyboard.close()
    keyboard.close()
    assert termios.tcgetattr(terminal[1]) == before


def test_a_keyboard_needs_a_terminal(monkeypatch, tmp_path):
    with (tmp_path / "file").open("w+") as file:
        monkeypatch.setattr("sys.stdin", file)
        with pytest.raises(FrontEndError, match=r"needs a terminal.*`pld operator`"):
            open_front_end("keyboard")
        with pytest.raises(FrontEndError, match="needs a terminal"):
            Keyboard(file.fileno())


def test_a_terminal_that_is_closed_is_gone(terminal, keyboard):
    os.close(terminal[0])
    with pytest.raises(FrontEndError, match="gone"):
        keyboard.poll()


# -- gamepad -------------------------------------------------------------------------------------

DEAD_MAN, INITIAL = 5, 0x80


class Pipe:
    """A named pipe in a device file's place; as long as it is open, the device is plugged in."""

    def __init__(self, path: Path) -> None:
        os.mkfifo(path)
        self.path = str(path)
        self.fd = os.open(path, os.O_RDWR)

    def send(self, data: bytes) -> None:
        os.write(self.fd, data)

    def button(self, number: int, value: int, kind: int = 1) -> None:
        self.send(struct.pack("<IhBB", 0, value, kind, number))

    def axis(self, number: int, share: float, kind: int = 2) -> None:
        self.send(struct.pack("<IhBB", 0, round(share * 32767), kind, number))

    def unplug(self) -> None:
        if self.fd >= 0:
            os.close(self.fd)
            self.fd = -1


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


# -- SpaceMouse ----------------------------------------------------------------------------------


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


# -- any front end -------------------------------------------------------------------------------


def test_unknown_names_and_speeds_are_refused():
    assert open_front_end("none") is None
    with pytest.raises(UnknownNameError, match="gamepad"):
        open_front_end("gamepd")
    with pytest.raises(ConfigError, match="at most 1"):
        open_front_end("gamepad", speed=1.5)


def test_a_front_end_may_come_go_and_come_back(tmp_path):
    said: list[str] = []
    path = tmp_path / "js0"
    held = HeldFrontEnd("gamepad", str(path), 0.5, said.append)
    held.open()
    assert len(said) == 1, "the same trouble is told once"
    assert not held.present
    assert (held.poll(), held.drive()) == ([], None)
    pipe = Pipe(path)
    held.open()
    assert held.present
    pipe.button(DEAD_MAN, 1)
    pipe.axis(1, -1.0)
    held.poll()
    assert moves(held.drive()) == {0: 0.5}
    pipe.unplug()
    assert held.poll() == []
    assert held.drive() is None
    assert "is gone" in held.problem
    held.close()


# -- take-over -----------------------------------------------------------------------------------


def motion(x: float = 0.0, gripper: float = KEEP) -> np.ndarray:
    return np.array([x, 0, 0, 0, 0, 0, gripper], np.float32)


def test_a_take_over_ends_with_a_command_that_does_not_move():
    take_over = TakeOver()
    take_over.executed(-0.8)
    assert take_over.step(None, False) is None
    assert take_over.step(motion(2.0), False).tolist() == pytest.approx([1, 0, 0, 0, 0, 0, -0.8])
    assert take_over.active
    assert take_over.step(motion(0.5, OPEN), False)[6] == OPEN
    assert take_over.step(motion(0.5), False)[6] == OPEN
    assert take_over.step(None, False).tolist() == [0, 0, 0, 0, 0, 0, OPEN]
    assert not take_over.active
    assert take_over.step(None, False) is None


def test_a_stick_still_pushed_does_not_move_a_released_arm():
    take_over = TakeOver()
    take_over.step(motion(0.5), False)
    assert moves(take_over.step(motion(0.5), True)) == {}
    assert take_over.step(motion(0.5), True) is None
    assert take_over.step(motion(0.5), False) is None, "released, but the stick is still pushed"
    assert take_over.step(None, False) is None
    assert take_over.step(motion(0.5), False) is not None


@pytest.mark.parametrize("action", [[], [0.5], [np.nan] * 7])
def test_a_remote_hand_that_says_nothing_sensible_has_let_go(clock, action):
    remote = RemoteDrive(clock)
    assert remote.drive() is None
    remote.hear([0.5] * 7)
    assert remote.drive() is not None
    remote.hear(action)
    assert remote.drive() is None


def test_a_silent_remote_hand_has_let_go(clock):
    remote = RemoteDrive(clock)
    remote.hear([0.5] * 7)
    clock.now += REMOTE_LOST_S
    assert remote.drive() is None
