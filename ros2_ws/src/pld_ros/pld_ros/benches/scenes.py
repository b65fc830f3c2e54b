"""What stands around a simulated arm: a task's objects, and where they are, told to whoever looks."""

from __future__ import annotations

import contextlib
import os
import threading
import time
from collections.abc import Mapping
from typing import Any, Protocol

import msgpack
import numpy as np
import zmq

from pld_core import registry
from pld_core.errors import ConfigError, RobotUnavailableError

PORT = 5799  # on the simulator's own loopback address
_POLL_MS = 100
_PRIORITY = 80  # the nodes have up to 50


class Scene(Protocol):
    """A task's scene of one seed; the entry points ``pld.scenes`` name functions of the seed that make one."""

    name: str
    max_steps: int

    def objects(self) -> str:
        """MJCF with angles in radians and lengths in metres, in the arm's base frame; the table's top is z = 0."""
        ...

    def follow(self, joints: Mapping[str, np.ndarray]) -> None:
        """Take over the positions of all joints, the arm's (as its model names them) and the objects'."""
        ...

    def pictures(self) -> Mapping[str, np.ndarray]: ...

    def act(self, lead: np.ndarray, rotation_lead: np.ndarray) -> np.ndarray: ...

    def succeeded(self) -> bool: ...


def load_scene(name: str, seed: int) -> Scene:
    """By the name of an entry point, or ``module:function``; raises ConfigError."""
    try:
        return registry.load("scenes", name)(seed)
    except TypeError as error:
        raise ConfigError(f"The scene {name!r} must be a function of a seed: {error}.") from error


def ahead_of_nodes() -> None:
    """Real-time priority, where permitted, for this thread and all that it makes: what plays hardware does not wait
    for a processor that nodes are using."""
    with contextlib.suppress(OSError):
        os.sched_setscheduler(0, os.SCHED_FIFO, os.sched_param(_PRIORITY))


class JointPublisher:
    """Tells the positions of a model's joints on ``tcp://<host>:5799``: a message per ``tell``, for who listens."""

    def __init__(self, host: str, model: Any, prefix: str) -> None:
        """prefix: of the arm's joints, which is left out."""
        joints = [model.joint(index) for index in range(model.njnt)]
        starts = [int(joint.qposadr[0]) for joint in joints]
        self._places = [
            (joint.name.removeprefix(prefix), start, end)
            for joint, start, end in zip(joints, starts, [*starts[1:], model.nq])
        ]
        self._socket = zmq.Context.instance().socket(zmq.PUB)
        self._socket.setsockopt(zmq.LINGER, 0)
        self._socket.setsockopt(zmq.SNDHWM, 2)  # who is slow misses some
        self._socket.bind(f"tcp://{host}:{PORT}")

    def tell(self, qpos: np.ndarray) -> None:
        self._socket.send(msgpack.packb({name: qpos[start:end].tolist() for name, start, end in self._places}))

    def close(self) -> None:
        self._socket.close()


class JointWatch:
    """The newest joint positions of a simulator, heard on a thread of its own."""

    def __init__(self, host: str) -> None:
        self._socket = zmq.Context.instance().socket(zmq.SUB)
        self._socket.setsockopt(zmq.CONFLATE, 1)
        self._socket.setsockopt(zmq.SUBSCRIBE, b"")
        self._socket.connect(f"tcp://{host}:{PORT}")
        self._host, self._heard, self._ended = host, threading.Event(), threading.Event()
        self._joints: Mapping[str, np.ndarray] = {}
        self._at = 0.0
        self._thread = threading.Thread(target=self._listen, name="joints", daemon=True)
        self._thread.start()

    def newest(self, timeout_s: float = 5.0, max_age_s: float = 0.5) -> Mapping[str, np.ndarray]:
        """``{joint: float64 [n]}``; waits for the first. Raises RobotUnavailableError where the simulator is silent."""
        heard = self._heard.wait(timeout_s)
        age_s = time.monotonic() - self._at
        if not heard or age_s > max_age_s:
            since = f"for {age_s:.1f} s" if heard else "at all"
            raise RobotUnavailableError(f"The simulator at {self._host}:{PORT} said nothing {since}; is it running?")
        return self._joints

    def close(self) -> None:
        self._ended.set()
        self._thread.join()
        self._socket.close(0)

    def _listen(self) -> None:
        while not self._ended.is_set():
            if self._socket.poll(_POLL_MS):
                told = msgpack.unpackb(self._socket.recv())
                self._joints = {name: np.array(position) for name, position in told.items()}
                self._at = time.monotonic()
                self._heard.set()
