"""Joins the cameras' frames to the steps that were decided on them, by their stamps. No rclpy here."""

from __future__ import annotations

import dataclasses
import time
from collections import OrderedDict, deque
from collections.abc import Callable, Iterator, Sequence

import numpy as np

from pld_ros.recording.records import StepRow

PATIENCE_S = 0.5  # how long a step waits for a frame that is late
FRAMES = 256  # kept of each camera: twelve seconds at 20 Hz


class FrameJoiner:
    """Frames and steps go in, in any order; steps come out in theirs, with their frames."""

    def __init__(
        self, cameras: Sequence[str], patience_s: float = PATIENCE_S, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self.received = dict.fromkeys(cameras, 0)
        self.missed = 0  # frames that steps name and that never came
        self._patience_s, self._clock = patience_s, clock
        self._frames: dict[str, OrderedDict[int, np.ndarray]] = {camera: OrderedDict() for camera in cameras}
        self._waiting: deque[tuple[float, StepRow]] = deque()

    def frame(self, camera: str, stamp_ns: int, image: np.ndarray) -> None:
        """uint8 ``[h, w, 3]``; kept, not copied."""
        frames = self._frames[camera]
        if stamp_ns in frames:  # an idle simulator repeats itself
            return
        self.received[camera] += 1
        frames[stamp_ns] = image
        if len(frames) > FRAMES:
            frames.popitem(last=False)

    def step(self, row: StepRow) -> None:
        self._waiting.append((self._clock() + self._patience_s, row))

    def joined(self) -> Iterator[StepRow]:
        """The steps that have all their frames, or have waited for them long enough."""
        while self._waiting:
            deadline, row = self._waiting[0]
            images = {c: self._frames[c][s] for c in row.cameras if (s := row.stamps[c]) in self._frames.get(c, ())}
            lost = len(row.cameras) - len(images)
            if lost and self._clock() < deadline:
                return
            self.missed += lost
            self._waiting.popleft()
            yield dataclasses.replace(row, images=images)
