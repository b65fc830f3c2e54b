"""Take-overs, from hand to command."""

from __future__ import annotations

import numpy as np
import pytest
from hand_tools import Clock, moves

from pld_ros.operating.front_ends.base import KEEP, OPEN
from pld_ros.operating.takeover import REMOTE_LOST_S, RemoteDrive, TakeOver


@pytest.fixture
def clock():
    return Clock()


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
