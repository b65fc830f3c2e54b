"""Which front ends there are, and one that comes and goes."""

from __future__ import annotations

import pytest
from hand_tools import DEAD_MAN, Pipe, moves

from pld_core.errors import ConfigError, UnknownNameError
from pld_ros.operating.front_ends import open_front_end
from pld_ros.operating.front_ends.holder import HeldFrontEnd


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
