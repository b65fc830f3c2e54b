"""What ends the threads of one YAM is kept for it, whoever else lives in this process."""

from __future__ import annotations

import itertools
import threading

import pytest

from pld_ros.drivers.yam_chain import ThreadDeaths


class Chain:
    """As i2rt's: whose thread ends by an error."""

    motor_list = ()

    def __init__(self, channel: str) -> None:
        self.channel = channel

    def run(self) -> None:
        raise ValueError(f"{self.channel} is dead")


def die(channel: str) -> None:
    thread = threading.Thread(target=Chain(channel).run)
    thread.start()
    thread.join()


@pytest.fixture
def others(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """What the hook that was there before has heard."""
    heard: list[str] = []
    monkeypatch.setattr(threading, "excepthook", lambda args: heard.append(str(args.exc_value)))
    return heard


def test_each_hears_its_own_and_the_rest_goes_where_it_went(others: list[str]) -> None:
    one, two = ThreadDeaths("can0"), ThreadDeaths("can1")
    one.watch()
    two.watch()
    die("can1")
    die("can7")
    assert (one.reason, two.reason, others) == ("", "can1 is dead", ["can7 is dead"])
    one.leave()
    two.leave()


@pytest.mark.parametrize("order", sorted(set(itertools.permutations("aabb"))), ids="".join)
def test_in_whatever_order_two_arms_connect_and_let_go(others: list[str], order: tuple[str, ...]) -> None:
    before = threading.excepthook
    arms = {"a": ThreadDeaths("can0"), "b": ThreadDeaths("can1")}
    watching: set[str] = set()
    for i, name in enumerate([*order, *order], 1):
        arm = arms[name]
        arm.leave() if name in watching else arm.watch()
        watching ^= {name}
        die("can7")
        assert others == ["can7 is dead"] * i, "once, and not in a ring"
    assert not watching
    assert threading.excepthook is before


def test_a_hook_that_lies_above_stays(others: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    arm, above = ThreadDeaths("can0"), []
    arm.watch()
    below = threading.excepthook

    def hook(args: threading.ExceptHookArgs) -> None:
        above.append(str(args.exc_value))
        below(args)

    monkeypatch.setattr(threading, "excepthook", hook)
    arm.leave()
    assert threading.excepthook is hook
    die("can0")
    arm.watch()
    die("can0")
    assert (arm.reason, above, others) == ("can0 is dead", ["can0 is dead"], ["can0 is dead"])
    die("can7")
    assert others[1:] == ["can7 is dead"]
    arm.leave()
    assert threading.excepthook is hook
