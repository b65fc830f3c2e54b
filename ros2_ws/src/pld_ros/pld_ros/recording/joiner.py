"""Joins the cameras' frames to the steps that were decided on them, by their stamps. No rclpy here."""

from __future__ import annotations

import dataclasses
import time
from collections import OrderedDict, deque
from collections.abc import Callable, Iterator, Sequence

import numpy as np

from pld_ros.recording.records import StepRow

OVERTAKEN_S = 0.5  # how long a step waits for a frame that later ones of its camera have overtaken
SILENT_S = 2.0  # ... and for one that may still stand in line: a logger short of time hears of steps before frames
FRAMES = 256  # kept of each camera: twelve seconds at 20 Hz


class FrameJoiner:
    """Frames and steps go in, in any order; steps come out in theirs, with their frames."""

    def __init__(self, cameras: Sequence[str], clock: Callable[[], float] = time.monotonic) -> None:
        self.received = dict.fromkeys(cameras, 0)
        self.missed = 0  # frames that steps name and that never came
        self._clock = clock
        self._newest = dict.fromkeys(cameras, 0)  # stamp of the last frame that came
        self._frames: dict[str, OrderedDict[int, np.ndarray]] = {camera: OrderedDict() for camera in cameras}
        self._waiting: deque[tuple[float, StepRow]] = deque()

    def frame(self, camera: str, stamp_ns: int, image: np.ndarray) -> None:
        """uint8 ``[h, w, 3]``; kept, not copied."""
        frames = self._frames[camera]
        if stamp_ns in frames:  # an idle simulator repeats itself
            return
        self.received[camera] += 1
        self._newest[camera] = stamp_ns
        frames[stamp_ns] = image
        if len(frames) > FRAMES:
            frames.popitem(last=False)

    def step(self, row: StepRow) -> None:
        self._waiting.append((self._clock(), row))

    def joined(self) -> Iterator[StepRow]:
        """The steps that have all their frames, or have waited for them long enough."""
        while self._waiting:
            since, row = self._waiting[0]
            with_frames = self._with_frames(row)
            absent = [camera for camera in row.cameras if camera not in with_frames.images]
            overtaken = all(self._newest.get(camera, 0) > row.stamps[camera] for camera in absent)
            if absent and self._clock() < since + (OVERTAKEN_S if overtaken else SILENT_S):
                return
            self.missed += len(absent)
            self._waiting.popleft()
            yield with_frames

    def give_up(self, episode_id: str) -> list[StepRow]:
        """The steps of an episode that still wait, with the frames that have come."""
        given_up = [self._with_frames(row) for _, row in self._waiting if row.episode_id == episode_id]
        self._waiting = deque(entry for entry in self._waiting if entry[1].episode_id != episode_id)
        self.missed += sum(len(row.cameras) - len(row.images) for row in given_up)
        return given_up

    def _with_frames(self, row: StepRow) -> StepRow:
        images = {c: self._frames[c][s] for c in row.cameras if (s := row.stamps[c]) in self._frames.get(c, ())}
        return dataclasses.replace(row, images=images)
