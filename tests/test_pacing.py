"""Processes that share nothing but a clock find their parts of a rate: the pure object in hours of virtual time."""

from __future__ import annotations

import heapq
import random
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import pytest
from hypothesis import given
from hypothesis import strategies as st

from airflow_provider_bgai.pacing import LONGEST_PAUSE, Pace

START = 1_000_000_000.0
WAY = 0.005
"""Seconds on average to the vendor, spread as waits in networks are; the answer takes as long as ten."""


def sliding(count: int, seconds: float) -> Callable[[float], bool]:
    """At most ``count`` in any ``seconds``, as the sandbox has it."""
    taken: deque[float] = deque()

    def takes(at: float) -> bool:
        while taken and taken[0] <= at - seconds:
            taken.popleft()
        if len(taken) < count:
            taken.append(at)
            return True
        return False

    return takes


def bucket(count: int, seconds: float) -> Callable[[float], bool]:
    """Tokens that grow back, ``count`` in ``seconds``, and as many at most."""
    left, last = float(count), START

    def takes(at: float) -> bool:
        nonlocal left, last
        left, last = min(count, left + (at - last) * count / seconds), at
        if left >= 1:
            left -= 1
            return True
        return False

    return takes


def fixed(count: int, seconds: float) -> Callable[[float], bool]:
    """At most ``count`` in each of the clock's ``seconds``."""
    taken: dict[int, int] = {}

    def takes(at: float) -> bool:
        window = int(at / seconds)
        taken[window] = taken.get(window, 0) + 1
        return taken[window] <= count

    return takes


@dataclass
class Sent:
    at: float
    by: int
    accepted: bool


@dataclass
class Vendor:
    """A vendor, and processes that have always something to send.

    :param processes: when each begins and ends, in seconds, and how many it knows of.
    :param held_up: share of requests that are on their way for up to half a second more.
    """

    takes: Callable[[float], bool]
    a_second: float
    processes: Sequence[tuple[float, float, int]]
    seed: int = 1
    skew: float = 0.0
    held_up: float = 0.0
    paces: list[Pace] = field(default_factory=list)

    def run(self, seconds: float) -> list[Sent]:
        chance, sent, self.paces = random.Random(self.seed), [], []
        events: list[tuple[float, int, int, Callable[[float], None]]] = []

        def at(when: float, then: Callable[[float], None]) -> None:
            heapq.heappush(events, (when, len(events), chance.getrandbits(32), then))

        def process(number: int, pace: Pace, until: float, skew: float) -> Callable[[float], None]:
            def send(now: float) -> None:
                if now >= until:
                    return
                slot = pace.next(now + skew)
                if slot.at - skew > now + 1e-6:
                    at(slot.at - skew, send)
                    return
                pace.take(slot)
                wait = max(0.0, pace.departure(slot, now + skew) - skew - now)

                def arrive(now: float) -> None:
                    accepted = self.takes(now)
                    sent.append(Sent(now - START, number, accepted))
                    at(now + 10 * WAY, answered if accepted else refused)

                way = min(chance.expovariate(1 / WAY), 6 * WAY)
                if self.held_up and chance.random() < self.held_up:
                    way += chance.uniform(0.02, 0.5)

                def answered(now: float) -> None:
                    pace.held_up(slot, max(0.0, way - WAY))
                    pace.accepted(slot)

                def refused(now: float) -> None:
                    pace.refused(slot, now + skew)

                at(now + wait + way, arrive)
                at(now + 1e-5, send)

            return send

        for number, (begin, end, known) in enumerate(self.processes):
            skew = chance.uniform(-self.skew, self.skew)
            pace = Pace(60 * self.a_second, known, now=START + begin + skew, chance=random.Random(self.seed + number))
            self.paces.append(pace)
            at(START + begin, process(number, pace, START + end, skew))
        while events and events[0][0] < START + seconds:
            now, _, _, then = heapq.heappop(events)
            then(now)
        return sent


def share(sent: list[Sent], a_second: float, begin: float, end: float) -> float:
    """Of the vendor's rate, what was accepted in that time."""
    return sum(each.accepted for each in sent if begin <= each.at < end) / (a_second * (end - begin))


def refusals(sent: list[Sent], begin: float = 0, end: float = 1e9) -> float:
    found = [each.accepted for each in sent if begin <= each.at < end]
    return 1 - sum(found) / len(found)


VENDORS = {
    "2 in any second": (sliding, 2, 1),
    "2 a second, saved up": (bucket, 2, 1),
    "2 in each second": (fixed, 2, 1),
    "10 in any second": (sliding, 10, 1),
    "60 in any minute": (sliding, 60, 60),
    "500 in any minute": (sliding, 500, 60),
    "10 in any minute": (sliding, 10, 60),
}


@pytest.mark.parametrize("kind", VENDORS)
def test_a_lone_process_has_nearly_the_whole_rate_and_is_never_refused(kind):
    make, count, seconds = VENDORS[kind]
    sent = Vendor(make(count, seconds), count / seconds, [(0, 1e9, 1)]).run(1200)
    assert share(sent, count / seconds, 0, 1200) >= 0.92
    assert all(each.accepted for each in sent)


@pytest.mark.parametrize("kind", ["2 in any second", "2 a second, saved up", "2 in each second"])
def test_two_dags_with_two_shards_each_share_one_key(kind):
    """Of 1,000 pictures, submitted and asked for once, and each seed another night."""
    make, count, seconds = VENDORS[kind]
    parts, refused = [], []
    for seed in range(8):
        sent = Vendor(make(count, seconds), 2, [(0, 1e9, 2), (0.3, 1e9, 2), (0.9, 1e9, 2), (1.7, 1e9, 2)], seed).run(
            1100
        )
        assert share(sent, 2, 0, 1100) >= 0.85
        first = sum(each.accepted for each in sent if each.by < 2) / sum(each.accepted for each in sent)
        parts.append(min(first, 1 - first) / 0.5)
        refused.append(refusals(sent))
    assert min(parts) >= 0.75
    assert max(refused) <= 0.03
    assert sum(refused) / len(refused) <= 0.02


@pytest.mark.parametrize("kind", ["2 in any second", "10 in any second", "60 in any minute"])
def test_a_second_dag_gets_a_fair_part(kind):
    make, count, seconds = VENDORS[kind]
    scale = 2 / (count / seconds)
    sent = Vendor(make(count, seconds), count / seconds, [(0, 1e9, 1), (300 * scale, 1e9, 1)]).run(1500 * scale)
    later = [each.by for each in sent if each.accepted and each.at > 600 * scale]
    assert 0.3 <= sum(later) / len(later) <= 0.7
    assert share(sent, count / seconds, 600 * scale, 1500 * scale) >= 0.85


@pytest.mark.parametrize("seed", range(4))
def test_shards_that_end_give_their_rate_to_the_last_one(seed):
    sent = Vendor(sliding(2, 1), 2, [(0, 200, 4), (0.3, 200, 4), (0.9, 200, 4), (1.7, 1e9, 4)], seed).run(900)
    assert share(sent, 2, 100, 200) >= 0.65
    assert share(sent, 2, 750, 900) >= 0.75


def test_shards_of_one_run_that_begin_with_a_half_fit_without_a_refusal():
    for seed in range(20):
        sent = Vendor(sliding(2, 1), 2, [(0, 1e9, 2), (7.7, 1e9, 2)], seed).run(20)
        assert refusals(sent) == 0


def test_a_vendor_that_takes_less_than_the_connection_says_is_not_asked_in_vain_for_long():
    sent = Vendor(sliding(1, 1), 2, [(0, 1e9, 1)]).run(1200)
    assert share(sent, 1, 600, 1200) >= 0.85
    assert refusals(sent, 600) <= 0.06


def test_a_request_that_is_held_up_on_its_way_costs_its_place_for_a_round_only():
    pace, now = Pace(120, now=START), START
    while now < START + 120:
        pace.take(slot := pace.next(now))
        pace.accepted(slot)
        now = slot.at
    pace.take(lost := pace.next(now))
    pace.refused(lost, lost.at)
    assert len(pace.places) == 15
    while pace.next(now).number < lost.number + 16:
        pace.take(slot := pace.next(now))
        pace.accepted(slot)
        now = slot.at
    pace.take(again := pace.next(now))
    assert (again.number, again.tried) == (lost.number + 16, True)
    pace.accepted(again)
    assert len(pace.places) == 16


@pytest.mark.parametrize("kind", ["2 in any second", "10 in any second"])
def test_what_follows_a_request_that_was_held_up_on_its_way_keeps_its_distance(kind):
    """That it was is seen by its answer, which is late, too."""
    make, count, seconds = VENDORS[kind]
    sent = Vendor(make(count, seconds), count / seconds, [(0, 1e9, 1)], held_up=0.03).run(1200)
    assert all(each.accepted for each in sent)
    assert share(sent, count / seconds, 0, 1200) >= 0.9


def test_a_place_is_missed_soon_where_the_next_is_somebody_elses_and_late_where_all_are_ones_own():
    for known, seconds in ((2, 0.05), (1, 0.9)):
        pace = Pace(120, known, now=START)
        pace.take(slot := pace.next(START))
        assert not pace.missed(slot, slot.at + seconds / 2)
        assert pace.missed(slot, slot.at + seconds)
        assert not pace.missed(pace.next(slot.at + seconds), slot.at + seconds)


def test_clocks_that_differ_by_a_hundredth_of_a_second_do_no_harm():
    sent = Vendor(sliding(2, 1), 2, [(0, 1e9, 2), (0.9, 1e9, 2)], skew=0.01).run(1200)
    assert share(sent, 2, 0, 1200) >= 0.9
    assert refusals(sent, 60) <= 0.02


def test_more_processes_than_places_take_turns():
    sent = Vendor(sliding(2, 1), 2, [(number / 3, 1e9, 32) for number in range(32)]).run(1800)
    assert share(sent, 2, 600, 1800) >= 0.7
    assert refusals(sent, 600) <= 0.15
    assert len({each.by for each in sent if each.accepted and each.at > 600}) == 32


def test_nothing_is_sent_before_the_time_that_the_vendor_names():
    pace = Pace(120, now=START)
    pace.take(slot := pace.next(START))
    pace.refused(slot, START + 1, retry_after=77)
    assert pace.next(START + 2).at >= START + 78
    assert pace.next(START + 78).at <= START + 78 + 2


def test_without_a_time_the_pauses_double_until_something_is_accepted():
    pace, now, pauses = Pace(120, now=START), START, []
    for _ in range(8):
        pace.take(slot := pace.next(now))
        pace.refused(slot, slot.at)
        pauses.append(pace.resume_at - slot.at)
        now = pace.resume_at
    assert pauses == [1, 2, 4, 8, 16, 32, LONGEST_PAUSE, LONGEST_PAUSE]
    pace.take(slot := pace.next(now))
    pace.accepted(slot)
    pace.take(slot := pace.next(slot.at))
    pace.refused(slot, slot.at)
    assert pace.resume_at - slot.at == 1


def test_refusals_that_were_on_their_way_together_are_one():
    pace = Pace(600, now=START)
    slots = []
    for _ in range(10):
        slots.append(pace.next(START + 2))
        pace.take(slots[-1])
    for slot in slots:
        pace.refused(slot, slot.at + 0.1)
    assert pace.resume_at <= slots[-1].at + 1.1


@given(
    st.floats(0.5, 1_000_000),
    st.integers(1, 50),
    st.lists(st.tuples(st.sampled_from(["accepted", "refused", "lost"]), st.floats(0, 100)), max_size=60),
)
def test_whatever_comes_there_is_a_next_slot_and_none_is_taken_twice(per_minute, known, script):
    pace, now, taken = Pace(per_minute, known, now=START), START, set()
    for came, seconds in script:
        slot = pace.next(now)
        assert slot.number not in taken
        assert slot.at >= max(pace.resume_at, now - 0.06)
        # Until its turn in every fourth round at most, of sixteen places a round.
        assert slot.at <= max(pace.resume_at, now) + 8 * 32 * 60 / per_minute + 2
        taken.add(slot.number)
        pace.take(slot)
        now = max(now, slot.at) + seconds
        if came == "accepted":
            pace.accepted(slot)
        elif came == "refused":
            pace.refused(slot, now)
        assert pace.places


def test_a_clock_that_is_set_back_by_an_hour_stops_nobody():
    pace = Pace(120, now=START)
    pace.take(pace.next(START))
    assert pace.next(START - 3600).at <= START - 3600 + 2


@pytest.mark.parametrize("per_minute", [1, 10, 25])
@pytest.mark.parametrize("known", [1, 3])
def test_at_a_slow_rate_the_first_request_does_not_wait(per_minute, known):
    now = START + 17.3
    pace = Pace(per_minute, known, now=now)
    pace.take(slot := pace.next(now))
    assert slot.at <= now + 0.05
    assert pace.next(now).at >= now + 60 / per_minute


def test_a_burst_is_a_second_of_the_rate_and_no_more():
    pace, now, times = Pace(120, now=START), START, []
    for _ in range(40):
        pace.take(slot := pace.next(now))
        now = max(now, slot.at)
        times.append(now)
    assert all(times[place + 2] - times[place] > 1 for place in range(38))
