"""``pld operator``: one wish to a running graph, or the keyboard as front end in this terminal."""

from __future__ import annotations

import contextlib
import shutil
import signal
import sys
import time
from collections.abc import Iterator, Sequence
from typing import Any, TextIO

from pld_core.cli.common import take_option
from pld_core.errors import ConfigError, UnknownNameError
from pld_ros.environment import prepare_this_process
from pld_ros.operating.front_ends.base import FrontEnd
from pld_ros.operating.front_ends.keyboard import HELP as KEYS
from pld_ros.operating.front_ends.keyboard import Keyboard

HELP = f"""usage: pld operator [start | success | fail | pause | resume | reset | estop | release] [flags]

Says one thing to the operator node of a running graph; exit status 0 if it was done, 1 if not.
Without a word: keyboard and status in this terminal, until Ctrl-C.

  --namespace NAME   of the graph, default /pld
  --seed N           of the scene, for reset, default 0
  --speed X          share of full speed while a key drives, default 0.5

{KEYS}"""
_REFRESH_S = 0.1


def operator(args: Sequence[str]) -> int:
    """Entry of the verb; returns the exit status."""
    if "-h" in args or "--help" in args:
        print(HELP)
        return 0
    namespace, rest = take_option(args, "--namespace")
    seed, rest = take_option(rest, "--seed")
    speed, rest = take_option(rest, "--speed")
    prepare_this_process()
    from pld_ros.operating.client import COMMANDS

    if rest and (rest[0] not in COMMANDS or len(rest) > 1):
        given = rest[-1] if rest[0] in COMMANDS else rest[0]
        raise UnknownNameError("argument", given, COMMANDS, "See `pld operator --help`.")
    if rest:
        return _one_wish(namespace or "/pld", rest[0], int(_number(seed or "0", "--seed")))
    with contextlib.closing(Keyboard(speed=_speed(speed or "0.5"))) as keyboard:
        return _attend(namespace or "/pld", keyboard, sys.stdout)


def _one_wish(namespace: str, command: str, seed: int) -> int:
    with _client(namespace) as client:
        done, message = client.call(command, seed)
    print(message)
    return 0 if done else 1


def _attend(namespace: str, front_end: FrontEnd, stream: TextIO) -> int:
    asked: list[int] = []  # to leave; an exception would be lost if it met a destructor
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda given, frame: asked.append(given))
    screen = StatusLine(stream)
    screen.say(f"{KEYS}\nCtrl-C leaves; the graph runs on.")
    with _client(namespace) as client:
        while not asked:
            client.attend(front_end, screen.say)
            screen.show(client.watch.summary())
    screen.end()
    return 0


class StatusLine:
    """One line that is renewed in place below what is said; where there is no terminal, only what is said."""

    def __init__(self, stream: TextIO) -> None:
        self._stream, self._in_place = stream, stream.isatty()
        self._shown, self._shown_at = "", float("-inf")

    def say(self, text: str) -> None:
        self._write(f"{self._erase()}{text}\n{self._shown if self._in_place else ''}")

    def show(self, text: str) -> None:
        now = time.monotonic()
        if not self._in_place or text == self._shown or now - self._shown_at < _REFRESH_S:
            return
        # A line that wraps cannot be renewed in place.
        self._shown, self._shown_at = text[: shutil.get_terminal_size().columns - 1], now
        self._write(self._erase() + self._shown)

    def end(self) -> None:
        self._write("\n" if self._in_place else "")

    def _erase(self) -> str:
        return "\r\033[K" if self._in_place else ""

    def _write(self, text: str) -> None:
        self._stream.write(text)
        self._stream.flush()


@contextlib.contextmanager
def _client(namespace: str) -> Iterator[Any]:
    import rclpy
    from rclpy.context import Context
    from rclpy.signals import SignalHandlerOptions

    from pld_ros.operating.client import OperatorClient

    context = Context()
    rclpy.init(args=[], context=context, signal_handler_options=SignalHandlerOptions.NO)
    client = OperatorClient(namespace, context)
    try:
        yield client
    finally:
        client.close()
        context.try_shutdown()


def _number(text: str, flag: str) -> float:
    try:
        return float(text)
    except ValueError as error:
        raise ConfigError(f"{flag} must be a number, got {text!r}.") from error


def _speed(text: str) -> float:
    speed = _number(text, "--speed")
    if not 0.0 < speed <= 1.0:
        raise ConfigError(f"--speed must be more than 0 and at most 1, got {text}.")
    return speed


if __name__ == "__main__":
    sys.exit(operator(sys.argv[1:]))
