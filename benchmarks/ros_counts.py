"""What ``pld bench ros`` counts: from what was noted of each episode and of the link to six numbers. No ROS here.

All stamps are nanoseconds of the system's clock, all results in milliseconds or plain counts.
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import pairwise
from typing import Any

import numpy as np

MISSED_MS = 10.0  # a tick that begins later than this after it was due is missed
DECIDED_MS = 5.0  # so long before its command a tick has looked for the newest frames, at most


@dataclass(frozen=True)
class Step:
    """A row of the controller. closing: seen, but not executed. used_ns: stamp of the frame per camera;
    captured_ns: of the newest source; latency_ms: from then to the publication of the command; late_ms: from
    when the tick was due to when it began; skipped: ticks before it that did not take place."""

    sequence: int
    closing: bool
    captured_ns: int
    used_ns: Mapping[str, int]
    latency_ms: float
    late_ms: float = 0.0
    skipped: int = 0

    @property
    def commanded_ns(self) -> float:
        return self.captured_ns + 1e6 * self.latency_ms


@dataclass(frozen=True)
class EpisodeNotes:
    """What a bag holds of one episode. steps: in the order of their sequence; ended: the controller's last
    word came; ticks, first_sequence, last_sequence: that word; scenes: tick -> stamp of the simulator's
    states; arrived_ns: camera -> stamp of a frame -> when the replay logger got it."""

    episode_id: str
    steps: Sequence[Step]
    ended: bool = True
    ticks: int = 0
    first_sequence: int = 0
    last_sequence: int = -1
    scenes: Sequence[tuple[int, int]] = ()
    arrived_ns: Mapping[str, Mapping[int, int]] = field(default_factory=dict)


@dataclass(frozen=True)
class LinkNotes:
    """What logger and learner say of the link. acknowledged: number of the last record of which the learner
    has the whole episode; sent: of the last record that was given to the link; kept: the steps among those
    between, ``(episode_id, sequence, closing)``; unreadable: those between that nobody has any more; finished:
    episodes whose outcome was sent."""

    acknowledged: int
    sent: int
    kept: Sequence[tuple[str, int, bool]] = ()
    unreadable: int = 0
    finished: frozenset[str] = frozenset()


@dataclass
class Counts:
    """The six numbers of a run, and in ``more`` what explains them."""

    ticks: int
    missed: int
    latency_ms_p50: float
    latency_ms_p99: float
    frames_lost: int
    transitions_lost: int
    more: dict[str, Any] = field(default_factory=dict)


def count(episodes: Sequence[EpisodeNotes], link: LinkNotes) -> Counts:
    """episodes: in the order in which they were."""
    belated = sum(map(frames_not_logged, episodes))
    episodes = with_belated_frames(episodes)
    executed = [step for episode in episodes for step in episode.steps if not step.closing]
    late, latency = np.array([step.late_ms for step in executed]), np.array([step.latency_ms for step in executed])
    skipped = sum(step.skipped for step in executed)
    unlogged = len(unlogged_ticks(episodes))
    at_logger, at_controller = sum(map(frames_not_logged, episodes)), sum(map(frames_not_seen, episodes))
    undelivered, unfinished = undelivered_ticks(episodes, link)
    p50, p99, longest = np.percentile(latency, [50, 99, 100]).tolist() if len(latency) else [0.0] * 3
    return Counts(
        ticks=len(latency) + unlogged,
        missed=int((late > MISSED_MS).sum()) + skipped,
        latency_ms_p50=round(p50, 3),
        latency_ms_p99=round(p99, 3),
        frames_lost=at_logger + at_controller,
        transitions_lost=unlogged + undelivered,
        more={
            "episodes": len({episode.episode_id for episode in episodes}),
            "latency_ms_max": round(longest, 3),
            "ticks_skipped": skipped,
            "late_ms_p99": round(float(np.percentile(late, 99)), 3) if len(late) else 0.0,
            "late_ms_max": round(float(late.max()), 3) if len(late) else 0.0,
            "frames_due": sum(len(due(episode)) * len(episode.arrived_ns) for episode in episodes),
            "frames_not_logged": at_logger,
            "frames_too_late_for_their_bag": belated - at_logger,
            "frames_not_seen": at_controller,
            "frames_superseded": sum(len(unused(e, camera)) for e in episodes for camera in e.arrived_ns),
            "ticks_not_logged": unlogged,
            "ticks_not_delivered": undelivered,
            "ticks_of_the_stopped_episode": unfinished,
        },
    )


def due(episode: EpisodeNotes) -> set[int]:
    """Stamps of the frames that each camera owed between the first and the last observation of an episode."""
    if not episode.steps:
        return set()
    first, last = _span(episode)
    seen = {stamp for step in episode.steps for stamp in step.used_ns.values()}
    drawn = {stamp for frames in episode.arrived_ns.values() for stamp in frames}
    return {s for s in seen | drawn | {stamp for _, stamp in episode.scenes} if first <= s <= last}


def with_belated_frames(episodes: Sequence[EpisodeNotes]) -> list[EpisodeNotes]:
    """A bag begins with what was heard last before it: frames, too, that came after the bag before was closed."""
    found = list(episodes[-1:])
    for following, episode in pairwise(reversed(episodes)):
        arrived = {
            camera: {**following.arrived_ns.get(camera, {}), **frames} for camera, frames in episode.arrived_ns.items()
        }
        found.append(replace(episode, arrived_ns=arrived))
    return found[::-1]


def frames_not_logged(episode: EpisodeNotes) -> int:
    """Frames that were due and are not in the bag; where the simulator's count has gaps, none was even drawn."""
    stamps = due(episode)
    missing = sum(len(stamps - set(frames)) for frames in episode.arrived_ns.values())
    if not stamps:
        return missing
    first, last = _span(episode)
    ticks = sorted({tick for tick, stamp in episode.scenes if first <= stamp <= last})
    return missing + _holes(ticks, episode, stamps) * len(episode.arrived_ns)


def frames_not_seen(episode: EpisodeNotes) -> int:
    """Frames that the replay logger had while the controller still decided on an older one, and never used.

    A frame that comes late everywhere, or that no tick looked for, is not lost: ``unused`` has those as well.
    """
    return sum(_was_there(episode, camera, stamp) for camera in episode.arrived_ns for stamp in unused(episode, camera))


def unused(episode: EpisodeNotes, camera: str) -> set[int]:
    """Frames in the bag, of the time of the episode, that no tick was decided on."""
    used = {step.used_ns.get(camera) for step in episode.steps}
    return {stamp for stamp in due(episode) & set(episode.arrived_ns[camera]) if stamp not in used}


def unlogged_ticks(episodes: Iterable[EpisodeNotes]) -> set[tuple[str, int]]:
    """Ticks that the controller executed and of which the replay logger got no row: ``(boot, sequence)``.

    Sequences have no gaps from the controller's start on, so that an episode that is missing altogether shows.
    """
    rows: dict[str, set[int]] = defaultdict(set)
    counted: dict[str, set[int]] = defaultdict(set)
    closing: dict[str, set[int]] = defaultdict(set)
    for episode in episodes:
        boot = episode.episode_id.partition("-")[0]
        rows[boot] |= {step.sequence for step in episode.steps}
        if episode.ended:
            counted[boot] |= set(range(episode.first_sequence, episode.last_sequence + 1))
            closing[boot] |= set(range(episode.first_sequence + episode.ticks, episode.last_sequence + 1))
    missing = set()
    for boot, known in rows.items():
        everything = known | counted[boot]
        expected = range(min(everything, default=0), max(everything, default=-1) + 1)
        missing |= {(boot, number) for number in expected if number not in known | closing[boot]}
    return missing


def undelivered_ticks(episodes: Iterable[EpisodeNotes], link: LinkNotes) -> tuple[int, int]:
    """``(lost, unfinished)``: logged ticks that the learner does not have.

    Unfinished are those of the run's last episode that wait in the spool: it was running when everything was
    stopped, the learner first, and goes to the learner that continues the run.
    """
    episodes = list(episodes)
    last = max((episode.episode_id for episode in episodes), default="")
    waiting = {(name, number) for name, number, closing in link.kept if not closing}
    unfinished = sum(name == last for name, _ in waiting)
    rows = {(e.episode_id, step.sequence) for e in episodes if e.episode_id in link.finished for step in e.steps}
    others = sum(name not in link.finished for name, _, _ in link.kept)
    never_sent = max(0, len(rows) + len(link.finished) - (link.sent - others))
    return len(waiting) - unfinished + link.unreadable + never_sent, unfinished


def _span(episode: EpisodeNotes) -> tuple[int, int]:
    return episode.steps[0].captured_ns, episode.steps[-1].captured_ns


def _holes(ticks: Sequence[int], episode: EpisodeNotes, stamps: set[int]) -> int:
    """Scenes missing in the simulator's count that no frame and no step speaks of either."""
    missing = sum(after - before - 1 for before, after in pairwise(ticks))
    noted = {stamp for _, stamp in episode.scenes}
    last_noted = max((stamp for stamp in noted if stamp in stamps), default=0)
    spoken_of = sum(stamp not in noted and stamp < last_noted for stamp in stamps)
    return max(0, missing - spoken_of)


def _was_there(episode: EpisodeNotes, camera: str, stamp: int) -> bool:
    older = [step for step in episode.steps if not step.closing and step.used_ns.get(camera, stamp) < stamp]
    latest = older[-1].commanded_ns if older else 0.0
    # An observation takes all cameras: where one is late, the others' frames go unused, too.
    complete = max(frames.get(stamp, math.inf) for frames in episode.arrived_ns.values())
    return complete < latest - 1e6 * DECIDED_MS
