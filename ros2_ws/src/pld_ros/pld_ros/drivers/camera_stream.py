"""What all real cameras share: a thread that owns the device, and a reader that never waits for it.

A vendor's call may take seconds, or never return, when a cable is pulled; the thread takes that upon
itself. It opens the device, keeps the newest picture, watches for silence, and opens the device again.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

import numpy as np
from PIL import Image

from pld_core.errors import PLDError, RobotError, RobotUnavailableError
from pld_core.stations import CameraConfig
from pld_core.types import Frame
from pld_ros.drivers.stamps import stamp_of

GRAB_S = 0.1  # the thread looks up at least so often, if the vendor's library lets it
QUIET_PERIODS = 3  # without a picture, and the camera counts as silent ...
QUIET_S = 0.1  # ... but not before so long
FIRST_PICTURE_S = 5.0  # a camera needs up to this after it was opened
BACKOFF_S = (0.25, 0.5, 1.0, 2.0, 4.0)  # between attempts to open; the last one again and again
OPEN_S = 30.0  # a vendor's call that takes longer is taken for one that never returns
CLOSE_S = 2.0  # patience with a device that does not let go


@dataclass(frozen=True)
class Shot:
    """What a device delivered: its count of pictures, when it was taken (monotonic seconds), uint8 ``[h, w, 3]``."""

    number: int
    taken_s: float
    image: np.ndarray


class Device(Protocol):
    """An opened device, used by one thread only. What its library raises arrives as RobotUnavailableError."""

    shape: tuple[int, int]  # height and width of every whole picture; a recording's may not be the station's

    def grab(self, timeout_s: float) -> Shot | None:
        """The next picture; None after the timeout, which a vendor's library may overrun by its own."""
        ...

    def close(self) -> None: ...


class StreamingCamera:
    """A CameraDriver: ``open`` raises where there is no camera, ``read`` never blocks longer than its timeout.

    A camera that falls silent, repeats itself, delivers broken pictures or disappears gives no frames:
    ``read`` returns None, so that the frames in use grow old and void the episode. ``fault`` says why and
    what to do. It is opened again until it works, and frames come as before: the station goes on.

    Frames are stamped with ROS system time at capture and increase; only a system clock that was set back
    can take the stamps back with it. Of frames that were not read in time, the newest is given.

    reopen_after_s: silence after which the device is opened again; shorter ones are only waited out.
    """

    def __init__(self, config: CameraConfig, connect: Callable[[], Device], *, reopen_after_s: float = 1.0) -> None:
        self.config = config
        self._connect = connect
        self._reopen_after_s = reopen_after_s
        self._session: _Session | None = None

    def open(self) -> None:
        """Raises RobotUnavailableError where no such camera answers. Opening twice is opening once."""
        if self._session is not None:
            return
        quiet_s = max(QUIET_PERIODS / self.config.fps, QUIET_S)
        size = self.config.height, self.config.width
        session = _Session(self._connect, size, quiet_s, self._reopen_after_s)
        session.start()
        self._session = session

    def read(self, timeout_s: float) -> Frame | None:
        """The newest frame that was not given yet, within the timeout; None after it."""
        session = self._session
        if session is None:
            raise RobotError("This camera is not open: call open() before read().")
        return session.read(timeout_s)

    def close(self) -> None:
        session, self._session = self._session, None
        if session is not None:
            session.end()

    @property
    def fault(self) -> str:
        """Why there are no frames at present and what to do about it; empty while they come."""
        session = self._session
        return "not open" if session is None else session.fault

    @property
    def counts(self) -> dict[str, int]:
        """Since it was opened: pictures that were whole, unread, repeated or broken; how often it was reopened."""
        session = self._session
        return {} if session is None else dict(session.counts)


class _Session:
    """The time from one ``open`` to its ``close``. A thread that hangs in a vendor's call is left behind with it."""

    def __init__(
        self, connect: Callable[[], Device], size: tuple[int, int], quiet_s: float, reopen_after_s: float
    ) -> None:
        self._connect = connect
        self._size = size
        self._quiet_s = quiet_s
        self._reopen_after_s = reopen_after_s
        self._changed = threading.Condition()
        self._ended = threading.Event()
        self._settled = threading.Event()  # the first attempt to open has succeeded or failed
        self._refused: Exception | None = None  # by the first attempt
        self._crash: BaseException | None = None  # a mistake of ours; the reader raises it
        self._shot: Shot | None = None  # the newest that was not given yet
        self._heard_s = time.monotonic()  # the newest whole picture came, or the device was opened
        self._problem = "being opened"  # of the device, as far as the thread knows
        self._broken = ""  # what is wrong with the newest picture
        self._last_stamp_ns = 0
        self.counts = {"frames": 0, "unread": 0, "repeated": 0, "broken": 0, "reopened": 0}
        self._thread = threading.Thread(target=self._run, name="camera", daemon=True)

    # -- the caller's side -----------------------------------------------------------------------

    def start(self) -> None:
        self._thread.start()
        if not self._settled.wait(OPEN_S):
            self._ended.set()
            raise RobotUnavailableError(
                f"The camera's driver has not answered for {OPEN_S:.0f} s. Unplug it and plug it in again."
            )
        if self._refused is not None:
            self._thread.join(CLOSE_S)
            raise self._refused
        self._raise_crash()

    def read(self, timeout_s: float) -> Frame | None:
        with self._changed:
            self._changed.wait_for(lambda: self._shot or self._crash or self._ended.is_set(), timeout_s)
            self._raise_crash()
            shot, self._shot = self._shot, None
            return None if shot is None else Frame(self._stamp_ns(shot.taken_s), fitted(shot.image, *self._size))

    def end(self) -> None:
        self._ended.set()
        with self._changed:
            self._changed.notify_all()
        if self._thread is not threading.current_thread():
            self._thread.join(CLOSE_S)

    @property
    def fault(self) -> str:
        if self._crash is not None:
            return f"its driver failed: {self._crash!r}"
        if self._problem:
            return self._problem
        silent_s = time.monotonic() - self._heard_s
        if silent_s < self._quiet_s:
            return ""
        return f"no new frame for {silent_s:.2f} s" + (f": {self._broken}" if self._broken else "; check its cable")

    def _raise_crash(self) -> None:
        if self._crash is not None:
            raise RobotError(f"The camera's driver failed ({self._crash!r}). Open it again.") from self._crash

    def _stamp_ns(self, taken_s: float) -> int:
        self._last_stamp_ns = stamp_of(time.monotonic() - taken_s, time.time_ns(), self._last_stamp_ns)
        return self._last_stamp_ns

    # -- the thread's side -----------------------------------------------------------------------

    def _run(self) -> None:
        try:
            self._keep_open()
        except BaseException as crash:  # nothing may end in a thread that nobody looks at
            self._crash = crash
        finally:
            self._settled.set()
            with self._changed:
                self._changed.notify_all()

    def _keep_open(self) -> None:
        attempt = 0
        while not self._ended.is_set():
            frames = self.counts["frames"]
            try:
                device = self._connect()
                try:
                    self._begin()
                    self._stream(device)
                finally:
                    device.close()
            except PLDError as error:
                if not self._settled.is_set():
                    self._refused = error
                    return
                self._problem = f"{error} It is opened again until it answers."
            attempt = 0 if self.counts["frames"] > frames else attempt + 1
            if not self._ended.wait(BACKOFF_S[min(attempt, len(BACKOFF_S) - 1)]):
                self.counts["reopened"] += 1

    def _begin(self) -> None:
        self._problem, self._broken = "", ""
        self._heard_s = time.monotonic()
        self._settled.set()

    def _stream(self, device: Device) -> None:
        """Until the end, or until the device has been silent for too long (RobotUnavailableError)."""
        number, patience_s = None, max(FIRST_PICTURE_S, self._reopen_after_s)
        while not self._ended.is_set():
            shot = device.grab(GRAB_S)
            if shot is not None and shot.number == number:
                self.counts["repeated"] += 1
                self._broken = f"it repeats its picture {number}; unplug it and plug it in again"
            elif shot is not None:
                number = shot.number
                if self._is_whole(shot, device.shape):
                    self._offer(shot)
                    patience_s = self._reopen_after_s
            silent_s = time.monotonic() - self._heard_s
            if silent_s > patience_s:
                raise RobotUnavailableError(
                    f"The camera gave no new frame for {silent_s:.1f} s: {self._broken or 'check its cable'}."
                )

    def _is_whole(self, shot: Shot, shape: tuple[int, int]) -> bool:
        image = shot.image
        if image.shape == (*shape, 3) and image.dtype == np.uint8:
            return True
        self.counts["broken"] += 1
        self._broken = f"a picture of {image.shape} {image.dtype} came in place of {(*shape, 3)} uint8"
        if not image.size:
            self._broken = "its pictures arrive incomplete; check its cable"
        return False

    def _offer(self, shot: Shot) -> None:
        with self._changed:
            self.counts["frames"] += 1
            self.counts["unread"] += self._shot is not None
            self._shot = shot
            self._heard_s, self._broken = time.monotonic(), ""
            self._changed.notify_all()


def fitted(image: np.ndarray, height: int, width: int) -> np.ndarray:
    """The largest middle part of these proportions, scaled to uint8 ``[height, width, 3]``.

    For what stands in for a camera and was recorded in another size.
    """
    if image.shape[:2] == (height, width):
        return image
    scale = min(image.shape[0] / height, image.shape[1] / width)
    top, left = (image.shape[0] - scale * height) / 2, (image.shape[1] - scale * width) / 2
    box = (left, top, left + scale * width, top + scale * height)
    return np.asarray(Image.fromarray(image).resize((width, height), Image.Resampling.BOX, box=box))
