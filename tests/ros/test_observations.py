"""What was seen at one time is put together, whatever order and delay it arrives with."""

from __future__ import annotations

import threading
from types import SimpleNamespace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pld_core.errors import ConfigError
from pld_ros import observations
from pld_ros.observations import PROPRIO, ObservationBuffer

MS = 1_000_000
LONG_S = 60.0  # for what is certain to come


def value(stamp: int) -> np.ndarray:
    return np.array([stamp % 1_000_003], np.float32)


def put(buffer: ObservationBuffer, source: str, *stamps_ms: float) -> None:
    for stamp in stamps_ms:
        buffer.put(source, round(stamp * MS), value(round(stamp * MS)))


def in_ms(stamps: dict[str, int] | None) -> dict[str, float] | None:
    return None if stamps is None else {source: stamp / MS for source, stamp in stamps.items()}


@pytest.fixture
def buffer() -> ObservationBuffer:
    return ObservationBuffer(["wrist", "front"], max_skew_ms=50)


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> SimpleNamespace:
    hand = SimpleNamespace(now=100.0)
    monkeypatch.setattr(observations, "time", SimpleNamespace(monotonic=lambda: hand.now))
    return hand


def test_there_is_no_observation_until_every_source_has_delivered(buffer: ObservationBuffer) -> None:
    put(buffer, PROPRIO, 100)
    put(buffer, "wrist", 100)
    assert buffer.newest() is None
    put(buffer, "front", 100)
    assert in_ms(buffer.newest()) == {PROPRIO: 100, "wrist": 100, "front": 100}


def test_the_source_that_lags_most_sets_the_time(buffer: ObservationBuffer) -> None:
    put(buffer, PROPRIO, 0, 50, 100, 150)
    put(buffer, "wrist", 10, 60, 110, 160)
    put(buffer, "front", 5, 55)
    assert in_ms(buffer.newest()) == {PROPRIO: 50, "wrist": 60, "front": 55}


def test_sources_too_far_apart_make_no_observation(buffer: ObservationBuffer) -> None:
    put(buffer, PROPRIO, 100)
    put(buffer, "wrist", 151)
    put(buffer, "front", 100)
    assert buffer.newest() is None
    put(buffer, "wrist", 150)
    assert in_ms(buffer.newest()) == {PROPRIO: 100, "wrist": 150, "front": 100}


def test_without_skew_only_the_very_same_stamp_fits() -> None:
    buffer = ObservationBuffer(["wrist"], max_skew_ms=0)
    put(buffer, PROPRIO, 100)
    buffer.put("wrist", 100 * MS + 1, value(0))
    assert buffer.newest() is None
    put(buffer, "wrist", 100)
    assert in_ms(buffer.newest()) == {PROPRIO: 100, "wrist": 100}


def test_a_negative_skew_is_refused() -> None:
    with pytest.raises(ConfigError, match="max_skew_ms is -1"):
        ObservationBuffer([], -1)


def test_newer_means_that_every_source_is_newer(buffer: ObservationBuffer) -> None:
    for source in buffer.sources:
        put(buffer, source, 100)
    put(buffer, PROPRIO, 120)
    assert buffer.newest(after=99 * MS) is not None
    assert buffer.newest(after=100 * MS) is None


def test_an_observation_holds_what_belongs_to_its_stamps(buffer: ObservationBuffer) -> None:
    put(buffer, PROPRIO, 100, 150)
    put(buffer, "wrist", 110, 160)
    put(buffer, "front", 105)
    stamps = buffer.newest()
    assert stamps is not None
    seen = buffer.observation(stamps, "insert the peg")
    assert seen.instruction == "insert the peg"
    assert dict(seen.stamp_ns) == stamps
    assert seen.proprio == value(100 * MS)
    assert {name: image.item() for name, image in seen.images.items()} == {
        "wrist": value(110 * MS),
        "front": value(105 * MS),
    }


samples = st.lists(
    st.tuples(st.sampled_from([PROPRIO, "wrist", "front"]), st.integers(0, 900)), min_size=1, max_size=60
)


@settings(deadline=None)
@given(samples, st.integers(-1, 900), st.integers(0, 100), st.randoms(use_true_random=False))
def test_whatever_arrives_in_whatever_order_the_observation_is_the_same_and_fits(arrived, after, skew, random) -> None:
    buffer, shuffled = (ObservationBuffer(["wrist", "front"], skew) for _ in range(2))
    for source, stamp in arrived:
        put(buffer, source, stamp)
    for source, stamp in random.sample(arrived, len(arrived)):
        put(shuffled, source, stamp)
    found = in_ms(buffer.newest(after * MS))
    assert found == in_ms(shuffled.newest(after * MS))
    of_each = {source: {t for s, t in arrived if s == source} for source in buffer.sources}
    if found is None:
        return
    assert all(found[source] in of_each[source] for source in buffer.sources)
    assert min(found.values()) > after
    assert max(found.values()) - min(found.values()) <= skew
    reference = min(max(stamps) for stamps in of_each.values())
    for source, stamps in of_each.items():
        assert abs(found[source] - reference) == min(abs(t - reference) for t in stamps)


def test_old_samples_make_room_for_new_ones(buffer: ObservationBuffer) -> None:
    for source in buffer.sources:
        put(buffer, source, *range(0, 10_000, 50))
    assert in_ms(buffer.newest()) == dict.fromkeys(buffer.sources, 9950)
    assert buffer.wait_for(dict.fromkeys(buffer.sources, 1000 * MS), 0.0) is None
    assert sum(len(data.stamps) + len(data.values) for data in buffer._data.values()) == 3 * 2 * 64
    assert buffer.received("wrist") == 200


def test_a_source_that_repeats_itself_counts_as_silent(buffer: ObservationBuffer, clock: SimpleNamespace) -> None:
    assert buffer.silent_s("wrist") == float("inf")
    put(buffer, "wrist", 100)
    clock.now += 0.25
    put(buffer, "wrist", 100, 100)
    assert buffer.silent_s("wrist") == 0.25
    assert buffer.received("wrist") == 1
    put(buffer, "wrist", 150)
    assert buffer.silent_s("wrist") == 0


@pytest.mark.parametrize("began_before", [10, 100])
def test_a_source_whose_clock_began_anew_is_heard_at_once(buffer: ObservationBuffer, began_before: int) -> None:
    """A simulator that was restarted, a clock that was set back: what is new must not look like what is old."""
    for source in buffer.sources:
        put(buffer, source, *(60_000 + 50 * k for k in range(began_before)))
    for stamp in (1000, 1050):
        for source in buffer.sources:
            put(buffer, source, stamp)
        assert in_ms(buffer.newest()) == dict.fromkeys(buffer.sources, stamp)


def test_a_sample_that_comes_a_little_late_finds_its_place(buffer: ObservationBuffer) -> None:
    put(buffer, PROPRIO, 100, 200, 150)
    for source in ("wrist", "front"):
        put(buffer, source, 150)
    assert in_ms(buffer.newest()) == dict.fromkeys(buffer.sources, 150)


# -- waiting ---------------------------------------------------------------------------------------


def in_background(work) -> threading.Thread:
    thread = threading.Thread(target=work)
    thread.start()
    return thread


def test_wait_newer_returns_as_soon_as_the_last_source_has_delivered(buffer: ObservationBuffer) -> None:
    for source in buffer.sources:
        put(buffer, source, 100)
    found = []
    thread = in_background(lambda: found.append(buffer.wait_newer(100 * MS, LONG_S)))
    for source in buffer.sources:
        put(buffer, source, 150)
    thread.join(LONG_S)
    assert [in_ms(stamps) for stamps in found] == [dict.fromkeys(buffer.sources, 150)]


def test_wait_newer_gives_up_after_its_time(buffer: ObservationBuffer) -> None:
    for source in buffer.sources:
        put(buffer, source, 100)
    assert buffer.wait_newer(100 * MS, 0.01) is None
    assert buffer.wait_newer(99 * MS, 0.0) is not None


def test_wait_for_waits_for_exactly_these_stamps(buffer: ObservationBuffer) -> None:
    wanted = {source: 150 * MS + k for k, source in enumerate(buffer.sources)}
    for source in buffer.sources:
        put(buffer, source, 100)
    found = []
    thread = in_background(lambda: found.append(buffer.wait_for(wanted, LONG_S)))
    for source, stamp in wanted.items():
        put(buffer, source, 200)  # newer ones do not do
        buffer.put(source, stamp, value(stamp))
    thread.join(LONG_S)
    assert found == [wanted]


def test_without_them_wait_for_answers_what_was_there_before(buffer: ObservationBuffer) -> None:
    put(buffer, PROPRIO, 100, 150)
    put(buffer, "wrist", 100, 200)
    wanted = {PROPRIO: 150 * MS, "wrist": 150 * MS}
    assert in_ms(buffer.wait_for(wanted, 0.0)) == {PROPRIO: 150, "wrist": 100}
    assert buffer.wait_for({**wanted, "front": 150 * MS}, 0.0) is None


def test_many_threads_may_deliver_and_look_at_once() -> None:
    buffer, ticks = ObservationBuffer(["wrist", "front"], max_skew_ms=0), range(1, 400)
    seen: list[int] = []

    def look() -> None:
        while not seen or seen[-1] < ticks[-1] * MS:
            stamps = buffer.wait_newer(seen[-1] if seen else -1, LONG_S)
            assert stamps is not None
            assert len(set(stamps.values())) == 1
            seen.append(stamps[PROPRIO])

    threads = [in_background(look)]
    threads += [in_background(lambda s=source: put(buffer, s, *ticks)) for source in buffer.sources]
    for thread in threads:
        thread.join(LONG_S)
    assert seen == sorted(set(seen))
    assert seen[-1] == ticks[-1] * MS
