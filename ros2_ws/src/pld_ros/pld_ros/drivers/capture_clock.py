"""From a device's own clock to this machine's."""

from __future__ import annotations

DRIFT = 2e-4  # by which the clocks may run apart; quartzes do by less than 1e-4


class CaptureClock:
    """Estimates when a picture was taken from when it arrived and what the device's clock said.

    What lies between (exposure, read-out, USB, a busy machine) only ever delays, so the smallest
    difference so far is the best estimate of how the two clocks are apart; it rises by no more than
    ``DRIFT``. A picture that was under way for longer than others is thereby recognised as old, and so
    are all that follow if the delay stays: 300 ms are told as 240 after five minutes. What all pictures
    share, the smallest delay, stays in the stamps: about one frame time of a camera.
    """

    def __init__(self) -> None:
        self._device_s = self._arrived_s = -float("inf")
        self._smallest_s = float("inf")

    def taken_s(self, device_s: float, arrived_s: float) -> float:
        """The capture in this machine's monotonic seconds; never later than the arrival.

        A device's clock that went back has started anew, and so does the estimate.
        """
        difference_s = arrived_s - device_s
        if device_s < self._device_s or self._smallest_s == float("inf"):
            self._smallest_s = difference_s
        else:
            risen_s = self._smallest_s + DRIFT * (arrived_s - self._arrived_s)
            self._smallest_s = min(risen_s, difference_s)
        self._device_s, self._arrived_s = device_s, arrived_s
        return device_s + self._smallest_s
