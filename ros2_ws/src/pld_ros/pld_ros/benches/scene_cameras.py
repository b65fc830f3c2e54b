"""The cameras of a scene in a simulator, as network cameras in a process of their own.

    python -m pld_ros.benches.scene_cameras --host 127.7.0.1 --scene cube_pickup --seed 0

They draw what the simulator at the host says; the first line printed is the URL before the cameras' names.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import sys
import threading
import time
from collections.abc import Iterator

from pld_core.errors import PLDError
from pld_ros.benches.jpeg_stream import jpeg, jpeg_server
from pld_ros.benches.scenes import JointWatch, ahead_of_nodes, load_scene

FPS = 30


class SceneCameras:
    """The newest picture of each camera. ``draw`` belongs to one thread, ``stream`` to any."""

    def __init__(self, host: str, scene: str, seed: int) -> None:
        self._scene, self._watch = load_scene(scene, seed), JointWatch(host)
        self._drawn = threading.Condition()
        self._pictures: dict[str, bytes] = {}
        self._number, self._ended = 0, False

    def draw(self) -> None:
        """Raises RobotUnavailableError where the simulator has fallen silent."""
        self._scene.follow(self._watch.newest())
        pictures = {name: jpeg(picture) for name, picture in self._scene.pictures().items()}
        with self._drawn:
            self._pictures, self._number = pictures, self._number + 1
            self._drawn.notify_all()

    def stream(self, name: str) -> Iterator[bytes]:
        """Every picture of a camera from now on, none of one that does not exist; ends with ``close``."""
        seen = 0
        while name in self._pictures:
            with self._drawn:
                self._drawn.wait_for(lambda: self._ended or self._number > seen)  # noqa: B023  # at once
                if self._ended:
                    return
                data, seen = self._pictures[name], self._number
            yield data

    def close(self) -> None:
        with self._drawn:
            self._ended = True
            self._drawn.notify_all()
        self._watch.close()


def serve(cameras: SceneCameras) -> None:
    """Until the standard input ends."""
    ended = threading.Event()
    threading.Thread(target=_wait_for_parent, args=(ended,), daemon=True).start()
    cameras.draw()
    with contextlib.closing(cameras), jpeg_server(cameras.stream) as url:
        print(url, flush=True)
        due = time.monotonic()
        while not ended.is_set():
            cameras.draw()
            due = max(due + 1 / FPS, time.monotonic())
            time.sleep(max(0.0, due - time.monotonic()))


def _wait_for_parent(ended: threading.Event) -> None:
    while os.read(0, 4096):
        pass
    ended.set()


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m pld_ros.benches.scene_cameras", description=__doc__)
    parser.add_argument("--host", required=True, help="of the simulator")
    parser.add_argument("--scene", required=True, help="the simulator's, as in cube_pickup")
    parser.add_argument("--seed", type=int, default=0, help="the simulator's")
    arguments = parser.parse_args()
    ahead_of_nodes()
    try:
        serve(SceneCameras(arguments.host, arguments.scene, arguments.seed))
    except PLDError as error:
        sys.exit(f"{error}")


if __name__ == "__main__":
    main()
