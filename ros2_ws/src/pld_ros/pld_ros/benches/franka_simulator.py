"""A simulated Franka that speaks libfranka's network protocol, in a process of its own.

    python -m pld_ros.benches.franka_simulator --host 127.7.0.1

The driver connects to it as to a control box; physics and protocol are franky-sim's (extra "franka"). It knows no
reflexes, and its forces and grasp results are not truthful.
"""

from __future__ import annotations

import argparse
import contextlib
import math
import os
import random
import select
import signal
import subprocess
import sys
import threading
import time
import xml.etree.ElementTree as ET
from collections.abc import Callable, Iterator, Sequence
from types import TracebackType
from typing import Any

from pld_core.errors import ConfigError, RobotUnavailableError
from pld_ros.benches.scenes import JointPublisher, ahead_of_nodes, load_scene

HOME_RAD = (0.0, -0.785, 0.0, -2.356, 0.0, 1.571, 0.785)
_READY = "ready "
_ENDING_S = 5.0  # from the end of its output to its own
_STEP_S = 0.001
_TOLD_STEPS = 10  # where things are is told a hundred times a second
_MAX_BEHIND_S = 0.005  # a simulator that was held up catches up with so much, and forgets the rest
_PREFIX_OF_ARM = "robot0_"
_PREFIX, _REFERENCES = "scene_", {"material", "mesh", "texture", "hfield"}
# Where the objects of a scene go; its own defaults, options and actuators are left out.
_SECTIONS = ("asset", "worldbody", "contact", "equality")


class FrankaSimulator:
    """Starts the simulator, and ends it; to be used in a ``with`` statement.

    host: loopback address to serve, empty: any free one; scene, seed: what stands around the arm (see ``scenes``),
    empty: an empty table; joints_rad: where the arm stands.
    Once started, ``host`` is what a station's ``address`` must be. ``start`` after ``kill`` serves the same address.
    """

    def __init__(self, host: str = "", scene: str = "", seed: int = 0, joints_rad: Sequence[float] = HOME_RAD) -> None:
        self.host, self._scene, self._seed, self._joints_rad = host, scene, seed, tuple(joints_rad)
        self._process: subprocess.Popen[str] | None = None

    def __enter__(self) -> FrankaSimulator:
        self.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()

    @property
    def pid(self) -> int:
        """Of the running simulator, for tests that freeze it."""
        if self._process is None:
            raise RobotUnavailableError("The simulated Franka is not running; call start().")
        return self._process.pid

    def start(self, timeout_s: float = 60.0) -> None:
        """Returns when it takes connections; RobotUnavailableError if it ends, or does not within ``timeout_s``."""
        command = [sys.executable, "-m", __name__ if __name__ != "__main__" else __spec__.name, "--with-parent"]
        command += ["--joints", *map(str, self._joints_rad)]
        command += ["--host", self.host] if self.host else []
        command += ["--scene", self._scene, "--seed", str(self._seed)] if self._scene else []
        # Its input is never written to: it ends when this process does, however that comes about. Its session is its
        # own, for what a terminal sends (Ctrl-C) is meant for this process, which ends it in peace.
        self._process = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, start_new_session=True
        )
        line = self._line(timeout_s)
        if line is None or not line.startswith(_READY):
            why = self._why_not(line, timeout_s)
            self.kill()
            raise RobotUnavailableError(f"The simulated Franka {why}; to try it by hand: {' '.join(command[1:])}")
        self.host = line.removeprefix(_READY).strip()

    def stop(self, timeout_s: float = 5.0) -> None:
        """End it in peace; a frozen or stuck one is killed."""
        if self._process is None:
            return
        self._process.send_signal(signal.SIGCONT)
        self._process.terminate()
        with contextlib.suppress(subprocess.TimeoutExpired):
            self._process.wait(timeout_s)
        self.kill()

    def kill(self) -> None:
        """As when its power fails."""
        process, self._process = self._process, None
        if process is not None:
            process.kill()
            process.wait()
            for pipe in (process.stdin, process.stdout):
                if pipe is not None:
                    pipe.close()

    def _line(self, timeout_s: float) -> str | None:
        """The next one that it says: empty where it has ended, None where it says nothing in time."""
        assert self._process is not None
        assert self._process.stdout is not None
        ready, _, _ = select.select([self._process.stdout], [], [], timeout_s)
        return self._process.stdout.readline() if ready else None

    def _why_not(self, line: str | None, timeout_s: float) -> str:
        """It has not started: what came of it."""
        assert self._process is not None
        if line is None:
            return f"did not start within {timeout_s:.0f} s"
        if line:
            return f"did not start: it said {line.strip()!r}"
        with contextlib.suppress(subprocess.TimeoutExpired):
            return f"ended with status {self._process.wait(_ENDING_S)} before it had started: what it said is above"
        return "closed its output before it had started"


def add_objects(simulator: Any, mjcf: str) -> None:
    """Put what an MJCF document holds into a franky-sim MuJoCo simulator that is not started yet."""
    root = ET.fromstring(mjcf)
    compiler = root.find("compiler")
    if compiler is None or compiler.get("angle") != "radian":
        raise ConfigError('The scene must be in radians: <compiler angle="radian"/>.')
    _rename_assets(root)
    for section in _SECTIONS:
        target = simulator.scene.find(section)
        for source in root.findall(section):
            target.extend(list(source))


def _rename_assets(root: ET.Element) -> None:
    """The arm's materials have plain names, such as "red"; those of bodies and joints stay, for tasks to find them."""
    for asset in root.iter("asset"):
        for element in asset:
            element.set("name", _PREFIX + (element.get("name") or element.get("file", "").rpartition(".")[0]))
    for element in root.iter():
        for key in _REFERENCES & set(element.keys()):
            element.set(key, _PREFIX + element.attrib[key])


def drop_visuals(scene: ET.Element) -> None:
    """Leave out the arm's detailed meshes, which take seconds to load and nobody sees; collisions stay."""
    for parent in list(scene.iter()):
        for geom in [child for child in parent if child.tag == "geom" and child.get("class") == "visual"]:
            parent.remove(geom)
    used = {geom.get("mesh") for geom in scene.iter("geom")}
    for asset in scene.iter("asset"):
        for mesh in [child for child in asset if child.tag == "mesh"]:
            if (mesh.get("name") or mesh.get("file", "").rpartition(".")[0]) not in used:
                asset.remove(mesh)


def serve(host: str, objects: str, joints_rad: Sequence[float], ended: threading.Event) -> None:
    """Simulate, in real time as far as the machine allows, until ``ended``."""
    ahead_of_nodes()
    try:
        from franky_sim import SimulationServer
        from franky_sim.mujoco_simulator import MujocoSimulator
    except ImportError as error:
        raise RobotUnavailableError(
            f"The simulated Franka needs franky-sim: {error}. Install it: pip install 'pld[franka]'"
        ) from error
    with MujocoSimulator() as simulator:
        robot = simulator.add_robot(initial_q=joints_rad)
        drop_visuals(simulator.scene)
        if objects:
            add_objects(simulator, objects)
        with SimulationServer(simulator, hostname_candidates=[host] if host else _loopbacks()) as server:
            at: Any = robot.hostname  # which the server has given it
            joints, data = JointPublisher(at, simulator.model, _PREFIX_OF_ARM), simulator.data
            assert data is not None  # the server has started it
            print(f"{_READY}{at}", flush=True)
            _run(server, lambda: joints.tell(data.qpos), ended)
            joints.close()


def _run(server: Any, tell: Callable[[], None], ended: threading.Event) -> None:
    due, steps = time.monotonic(), 0
    while not ended.is_set():
        server.run_once(realtime=False)
        steps += 1
        if steps % _TOLD_STEPS == 0:
            tell()
        due = max(due + _STEP_S, time.monotonic() - _MAX_BEHIND_S)
        time.sleep(max(0.0, due - time.monotonic()))


def _loopbacks() -> Iterator[str]:
    """In an order of chance: two simulators that start at once seldom want the same."""
    for _ in range(100):
        yield f"127.{random.randint(1, 254)}.{random.randint(0, 254)}.{random.randint(1, 254)}"


def _end_with_parent(ended: threading.Event) -> None:
    """End when the standard input does; at once if the simulation is stuck."""
    while os.read(0, 4096):
        pass
    ended.set()
    time.sleep(2.0)
    os._exit(1)


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m pld_ros.benches.franka_simulator", description=__doc__)
    parser.add_argument("--host", default="", help="loopback address to serve; default: any free one")
    parser.add_argument("--scene", default="", help="what stands around the arm, as in cube_pickup; default: nothing")
    parser.add_argument("--seed", type=int, default=0, help="of the scene")
    parser.add_argument("--joints", type=float, nargs=7, default=HOME_RAD, help="radians, where the arm stands")
    parser.add_argument("--with-parent", action="store_true", help="end when the standard input does")
    arguments = parser.parse_args()
    if not all(math.isfinite(joint) for joint in arguments.joints):
        parser.error("--joints must be finite")
    ended = threading.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: ended.set())
    if arguments.with_parent:
        threading.Thread(target=_end_with_parent, args=(ended,), daemon=True).start()
    try:
        objects = load_scene(arguments.scene, arguments.seed).objects() if arguments.scene else ""
        serve(arguments.host, objects, arguments.joints, ended)
    except (ConfigError, RobotUnavailableError, OSError) as error:
        sys.exit(f"{error}")


if __name__ == "__main__":
    main()
