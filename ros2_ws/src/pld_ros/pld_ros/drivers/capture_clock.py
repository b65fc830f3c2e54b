"""From a device's own clock to this machine's."""

from __future__ import annotations

WINDOW_S = 5.0  # of arrivals that one estimate rests on; clocks drift apart by less than 1 ms in it


class CaptureClock:
    """Estimates when a picture was taken from when it arrived and what the device's clock said.

    What lies between (exposure, read-out, USB, a busy machine) only ever delays, so the smallest
    difference of the last seconds is the best estimate of how the two clocks are apart. A picture that
    was under way for longer than others is thereby recognised as old. What all pictures share, the
    smallest delay, stays in the stamps: about one frame time of a camera.
    """

    def __init__(self) -> None:
        self._device_s = -float("inf")
        self._smallest: list[float] = []  # of the window before and of the present one
        self._until_s = 0.0

    def taken_s(self, device_s: float, arrived_s: float) -> float:
        """The capture in this machine's monotonic seconds; never later than the arrival.

        A device's clock that went back has started anew, and so does the estimate.
        """
        difference = arrived_s - device_s
        if device_s < self._device_s or not self._smallest:
            self._smallest, self._until_s = [difference], arrived_s + WINDOW_S
        elif arrived_s >= self._until_s:
            self._smallest, self._until_s = [self._smallest[-1], difference], arrived_s + WINDOW_S
        else:
            self._smallest[-1] = min(self._smallest[-1], difference)
        self._device_s = device_s
        return device_s + min(self._smallest)
