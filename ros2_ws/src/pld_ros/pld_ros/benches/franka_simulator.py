"""A simulated Franka that speaks libfranka's network protocol, in a process of its own.

    python -m pld_ros.benches.franka_simulator --host 127.7.0.1

The driver connects to it as to a control box; physics and protocol are franky-sim's (extra "franka"). It knows no
reflexes, and its forces and grasp results are not truthful.
"""

from __future__ import annotations

import argparse
import contextlib
import importlib.metadata
import math
import os
import pkgutil
import random
import select
import signal
import subprocess
import sys
import threading
import time
import xml.etree.ElementTree as ET
from collections.abc import Iterator, Sequence
from types import TracebackType
from typing import Any

from pld_core.errors import ConfigError, RobotUnavailableError

HOME_RAD = (0.0, -0.785, 0.0, -2.356, 0.0, 1.571, 0.785)
SCENES = "pld.bench_scenes"  # entry points: a function without arguments that returns MJCF
_READY = "ready "
_STEP_S = 0.001
_MAX_BEHIND_S = 0.005  # a simulator that was held up catches up with so much, and forgets the rest
_PREFIX, _REFERENCES = "scene_", {"material", "mesh", "texture", "hfield"}
# Where the objects of a scene go; its own defaults, options and actuators are left out.
_SECTIONS = ("asset", "worldbody", "contact", "equality")


class FrankaSimulator:
    """Starts the simulator, and ends it; to be used in a ``with`` statement.

    host: loopback address to serve, empty: any free one; scene: see ``scene_of``; joints_rad: where the arm stands.
    Once started, ``host`` is what a station's ``address`` must be. ``start`` after ``kill`` serves the same address.
    """

    def __init__(self, host: str = "", scene: str = "", joints_rad: Sequence[float] = HOME_RAD) -> None:
        self.host, self._scene, self._joints_rad = host, scene, tuple(joints_rad)
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
        """Returns when it takes connections; raises RobotUnavailableError if it does not within ``timeout_s``."""
        command = [sys.executable, "-m", __name__ if __name__ != "__main__" else __spec__.name, "--with-parent"]
        command += ["--joints", *map(str, self._joints_rad)]
        command += ["--host", self.host] if self.host else []
        command += ["--scene", self._scene] if self._scene else []
        # Its input is never written to: it ends when this process does, however that comes about.
        self._process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        line = self._line(timeout_s)
        if not line.startswith(_READY):
            self.kill()
            raise RobotUnavailableError(
                f"The simulated Franka did not start within {timeout_s:.0f} s (it said {line.strip()!r}); "
                f"start it by hand to see why: {' '.join(command[1:])}"
            )
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

    def _line(self, timeout_s: float) -> str:
        assert self._process is not None
        assert self._process.stdout is not None
        ready, _, _ = select.select([self._process.stdout], [], [], timeout_s)
        return self._process.stdout.readline() if ready else ""


def scene_of(name: str) -> str:
    """The MJCF of a scene: what the function returns that an entry point in ``pld.bench_scenes`` or
    ``module:function`` names, as text, or as an ``MjSpec``. Angles in radians, lengths in metres, in the arm's base
    frame; no name may begin with "robot". Empty for an empty name."""
    if not name:
        return ""
    found = {point.name: point.value for point in importlib.metadata.entry_points(group=SCENES)}
    target = name if ":" in name else found.get(name, "")
    try:
        made = pkgutil.resolve_name(target)() if target else None
    except (ImportError, AttributeError, ValueError) as error:
        raise ConfigError(f"Cannot load the scene {name!r} ({target}): {error}.") from error
    if made is None:
        raise ConfigError(
            f"There is no scene {name!r}; valid: {', '.join(sorted(found)) or '(none)'}, module:function."
        )
    return made if isinstance(made, str) else made.to_xml()


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


def serve(host: str, scene: str, joints_rad: Sequence[float], ended: threading.Event) -> None:
    """Simulate, in real time as far as the machine allows, until ``ended``."""
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
        if mjcf := scene_of(scene):
            add_objects(simulator, mjcf)
        with SimulationServer(simulator, hostname_candidates=[host] if host else _loopbacks()) as server:
            print(f"{_READY}{robot.hostname}", flush=True)
            _run(server, ended)


def _run(server: Any, ended: threading.Event) -> None:
    due = time.monotonic()
    while not ended.is_set():
        server.run_once(realtime=False)
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
    parser.add_argument("--scene", default="", help=f"name in {SCENES}, or module:function; default: an empty table")
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
        serve(arguments.host, arguments.scene, arguments.joints, ended)
    except (ConfigError, RobotUnavailableError, OSError) as error:
        sys.exit(f"{error}")


if __name__ == "__main__":
    main()
