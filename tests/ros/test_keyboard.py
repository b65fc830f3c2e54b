"""The keyboard, on a pseudo-terminal."""

from __future__ import annotations

import contextlib
import os
import pty
import termios

import pytest
from hand_tools import Clock, moves

from pld_ros.operating.front_ends import open_front_end
from pld_ros.operating.front_ends.base import CLOSE, OPEN, FrontEndError, OperatorEvent
from pld_ros.operating.front_ends.keyboard import EVENTS, GRIPS, HOLD_S, MOTION_S, MOTIONS, Keyboard


@pytest.fixture
def clock():
    return Clock()


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
