"""Where the learner's episodes arrive. No rclpy here."""

from __future__ import annotations

import threading
import time
from concurrent.futures import CancelledError
from pathlib import Path

from pld_core.errors import PLDError
from pld_core.link import RecordReceiver
from pld_core.types import EpisodeSpec
from pld_ros.recording.assembler import Assembled, EpisodeAssembler

_POLL_S = 0.1
_KEPT = 1000  # episodes that nobody asked for; all of them are in the bags too


class Inbox:
    """Receives records on a thread of its own and puts them together to episodes.

    A record is acknowledged once its episode is whole, so a learner that dies in mid-episode gets the
    records again.
    """

    def __init__(self, address: str, state: Path) -> None:
        self._receiver = RecordReceiver(address, state)
        self._assembler = EpisodeAssembler()
        self._episodes: dict[str, Assembled] = {}
        self._asked_for: set[str] = set()
        self._arrived = threading.Condition()
        self._fault: PLDError | None = None
        self._closing = False
        self.transitions = self.episodes = 0
        self._thread = threading.Thread(target=self._receive, name="inbox", daemon=True)
        self._thread.start()

    @property
    def lost(self) -> int:
        """Records that were sent and can never come."""
        return self._receiver.lost

    def wait(self, episode_id: str, timeout_s: float, stopping: threading.Event) -> Assembled | None:
        """Take the episode of this id out; None after the timeout."""
        deadline = time.monotonic() + timeout_s
        with self._arrived:
            self._asked_for.add(episode_id)
            while episode_id not in self._episodes:
                if self._fault is not None:
                    raise self._fault
                if stopping.is_set():
                    raise CancelledError("The runner was stopped.")
                if time.monotonic() > deadline:
                    return None
                self._arrived.wait(_POLL_S)
            return self._episodes.pop(episode_id)

    def claim(self, spec: EpisodeSpec, policy_version: str, weights_version: str, voided: bool) -> Assembled | None:
        """An episode that was carried out for this very order and that nobody took yet. voided: or spoilt for it."""
        with self._arrived:
            for name, done in self._episodes.items():
                episode, report = done
                same = episode.spec == spec and episode.policy_version == policy_version
                if same and (voided or not episode.voided) and report.weights_version == weights_version:
                    self._asked_for.add(name)
                    return self._episodes.pop(name)
        return None

    def asked_for(self, episode_id: str) -> bool:
        """Whether somebody took this episode, or waited for it."""
        with self._arrived:
            return episode_id in self._asked_for

    def close(self) -> None:
        self._closing = True
        self._thread.join()
        self._receiver.close()

    def _receive(self) -> None:
        try:
            while not self._closing:
                received = self._receiver.receive(_POLL_S)
                done = self._assembler.overdue() if received is None else self._assembler.add(received.record)
                if received is not None and done:
                    received.acknowledge()
                self._keep(done)
        except PLDError as fault:
            self._fault = fault

    def _keep(self, done: list[Assembled]) -> None:
        if not done:
            return
        with self._arrived:
            for assembled in done:
                self._episodes[assembled.report.episode_id] = assembled
                self.episodes += 1
                self.transitions += len(assembled.episode)
            while len(self._episodes) > _KEPT:
                del self._episodes[next(iter(self._episodes))]
            self._arrived.notify_all()
