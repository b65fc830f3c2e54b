"""What all nodes share: how they end."""

from __future__ import annotations

import contextlib
import faulthandler
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from types import SimpleNamespace

import pytest
import rclpy
from rclpy.signals import SignalHandlerOptions

from pld_core.errors import ConfigError
from pld_ros import node as node_module
from pld_ros.node import PldNode, run_node


class Ending:
    """Ends in its first callback, as by Ctrl-C."""

    is_only_one = False

    def __init__(self, in_callback: Callable[[], None]) -> None:
        self.work = in_callback

    def refuse_namesake(self) -> None: ...
    def start(self) -> None: ...
    def say_goodbye(self) -> None: ...
    def close(self) -> None: ...
    def destroy_node(self) -> None: ...


def interrupted() -> None:
    os.kill(os.getpid(), signal.SIGTERM)


def interrupted_below_c() -> None:
    with contextlib.suppress(BaseException):
        interrupted()
    raise RuntimeError("Unable to convert call argument '0' to Python object")  # what pybind11 makes of it


@pytest.fixture
def own_signals(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    kept = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM, signal.SIGALRM)}
    monkeypatch.setattr(node_module, "_asked_to_end", False)
    monkeypatch.setattr(node_module, "Spinner", lambda node: SimpleNamespace(close=lambda: None, fault=None))
    yield
    faulthandler.cancel_dump_traceback_later()
    for number, handler in kept.items():
        signal.signal(number, handler)


@pytest.mark.usefixtures("own_signals")
@pytest.mark.parametrize("in_callback", [interrupted, interrupted_below_c])
def test_a_node_that_is_told_to_end_ends_well(in_callback: Callable[[], None]) -> None:
    assert run_node(lambda: Ending(in_callback)) == 0  # type: ignore[arg-type, return-value]


@pytest.mark.usefixtures("own_signals")
def test_any_other_fault_of_a_node_is_shown() -> None:
    def broken() -> None:
        raise TypeError("Unable to convert")  # with nobody asking for the end

    with pytest.raises(TypeError, match="Unable to convert"):
        run_node(lambda: Ending(broken))  # type: ignore[arg-type, return-value]


HANGS = """
import os, signal, sys, threading
from pld_ros import node

class Hanging:
    is_only_one = False
    def refuse_namesake(self): ...
    def start(self): ...
    def work(self): os.kill(os.getpid(), signal.SIGINT)
    def close(self): signal.pthread_sigmask(signal.SIG_BLOCK, signal.valid_signals()); threading.Event().wait()
    def say_goodbye(self): ...
    def destroy_node(self): ...

node.END_LIMIT_S = 1.0
node.Spinner = lambda made: type("Spun", (), {"close": lambda self: None, "fault": None})()
sys.exit(node.run_node(Hanging))
"""


def test_a_node_that_hangs_while_it_ends_shows_where_and_goes() -> None:
    done = subprocess.run([sys.executable, "-c", HANGS], capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 1
    assert "in close" in done.stderr


def test_a_namesake_on_this_machine_is_refused_before_dds_tells_of_it(
    domain: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    rclpy.init(domain_id=domain, signal_handler_options=SignalHandlerOptions.NO)
    monkeypatch.setattr(PldNode, "get_node_names_and_namespaces", lambda self: [])
    monkeypatch.setattr(node_module, "DISCOVERY_S", 0.0)
    first, second, other = PldNode("arm"), PldNode("arm"), PldNode("other_arm")
    try:
        first.refuse_namesake()
        other.refuse_namesake()
        with pytest.raises(ConfigError, match="arm is running already"):
            second.refuse_namesake()
        first._claim.close()  # as when its process ends
        second.refuse_namesake()
    finally:
        for node in (first, second, other):
            node.destroy_node()
            node._claim.close()
        rclpy.shutdown()
