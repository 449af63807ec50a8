"""The one object that decides when to ask, land and give up, under any order of events."""

from __future__ import annotations

import random
from collections.abc import Callable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from airflow_provider_bgai.polling import (
    FEWEST_SCOUTS,
    MOST_SCOUTS,
    NOT_FOUND_GRACE,
    SCOUTING,
    PollPolicy,
    Refusals,
    TaskWatch,
    Usual,
    askable,
    unknown_is_lost,
)

START = 1_000_000.0

policies = st.builds(
    PollPolicy,
    interval=st.floats(0.1, 10),
    growth=st.floats(1, 2),
    max_interval=st.floats(10, 60),
    land_within=st.floats(1, 600),
)
# What the vendor says to one poll, and after how many seconds.
answers = st.tuples(
    st.sampled_from(["pending", "pending", "pending", "succeeded", "failed", "error", "missing", "slow down"]),
    st.floats(0, 5),
)


class Played:
    """A watch played against a vendor, with everything written down."""

    def __init__(self, count: int, policy: PollPolicy, script: list[tuple[str, float]], slots: int) -> None:
        self.policy = policy
        self.deadline = START + 120
        self.task_ids = [f"task-{number}" for number in range(count)]
        self.watch = TaskWatch(self.task_ids, deadline=self.deadline, now=START, policy=policy)
        self.asked: dict[str, list[float]] = {task_id: [] for task_id in self.task_ids}
        self.first_end: float | None = None
        self.play(script, slots)

    def play(self, script: list[tuple[str, float]], slots: int) -> None:
        now = START
        for said, seconds in script:
            decision = self.watch.decide(now)
            self.check(decision, now, in_flight=())
            if decision.action != "poll":
                return
            now += decision.wait
            taken = self.watch.due(now, slots)
            assert len(taken) <= slots
            assert len(taken) == len(set(taken))
            for task_id in taken:
                assert task_id not in self.watch.ended
                self.asked[task_id].append(now)
            self.check(self.watch.decide(now), now, in_flight=taken)
            now += seconds
            for task_id in taken:
                self.report(task_id, said, now)

    def report(self, task_id: str, said: str, now: float) -> None:
        if said in ("pending", "succeeded", "failed"):
            self.watch.saw(task_id, said, now)
        else:
            wait = 7.0 if said == "slow down" else None
            self.watch.missed(task_id, said, now, not_found=said == "missing", retry_after=wait)
        if task_id in self.watch.ended and self.first_end is None:
            self.first_end = now

    def check(self, decision, now: float, in_flight) -> None:
        pending = set(self.task_ids) - set(self.watch.ended)
        assert set(self.watch.pending) == pending
        scheduled = [task_id for _, task_id in self.watch._due] + self.watch._unasked
        assert sorted([*scheduled, *in_flight]) == sorted(pending)
        assert decision.wait >= 0
        waited = 0.0 if self.first_end is None else now - self.first_end
        if not pending:
            assert decision.action == "done"
        elif now >= self.deadline:
            assert decision.action == "give_up"
        elif self.first_end is not None and waited >= self.policy.land_within:
            assert decision.action == "land"
        else:
            assert decision.action == "poll"
            assert now + decision.wait <= self.deadline + 1e-6
            if self.first_end is not None:
                assert decision.wait <= self.policy.land_within - waited + 1e-6


@given(st.integers(0, 12), policies, st.lists(answers, max_size=60), st.integers(1, 16))
def test_every_pending_task_is_asked_again_and_no_ended_one_ever_is(count, policy, script, slots):
    played = Played(count, policy, script, slots)
    assert set(played.watch.ended) <= set(played.task_ids)


@given(policies, st.integers(1, 40))
def test_the_interval_grows_from_its_start_to_its_bound_with_some_jitter(policy, polls):
    watch = TaskWatch(["task"], deadline=START + 1e9, now=START, policy=policy)
    now, expected = START, policy.interval
    assert watch.due(now, 1) == ["task"]
    for _ in range(polls):
        watch.saw("task", "pending", now)
        wait = watch.decide(now).wait
        assert 0.85 * expected - 1e-3 <= wait <= 1.15 * expected + 1e-3
        expected = min(expected * policy.growth, policy.max_interval)
        now += wait
        assert watch.due(now, 1) == ["task"] or watch.due(now + 1e-3, 1) == ["task"]


@given(st.integers(1, 2000), st.floats(0.1, 10))
def test_scouts_from_everywhere_are_asked_first_and_the_others_once_these_have_ended(count, interval):
    task_ids = [f"task-{number}" for number in range(count)]
    watch = TaskWatch(task_ids, deadline=START + 99, now=START, policy=PollPolicy(interval=interval))
    scouts = watch.due(START + interval, count)
    assert min(count, FEWEST_SCOUTS) // 2 <= len(scouts) <= MOST_SCOUTS
    places = [task_ids.index(scout) for scout in scouts]
    assert places == sorted(places)
    assert places[0] == 0
    assert count - places[-1] <= -(-count // len(scouts))
    ended = START + interval
    for scout in scouts:
        assert watch.due(ended, count) == []
        watch.saw(scout, "succeeded", ended)
    others = count - len(scouts)
    half = watch.due(ended + interval / 2, count)
    assert abs(len(half) - others / 2) <= 1
    assert half + watch.due(ended + interval, count) == [task_id for task_id in task_ids if task_id not in scouts]


def test_a_scout_that_is_stuck_does_not_hold_up_the_others_for_long():
    watch = TaskWatch(map(str, range(20)), deadline=START + 900, now=START)
    stuck, *scouts = watch.due(START + 2, 20)
    for scout in scouts:
        watch.saw(scout, "succeeded", START + 10)
    watch.saw(stuck, "pending", START + 10)
    assert watch.due(START + 14.9, 20) in ([], [stuck])
    assert len(watch.due(START + 17.1, 20)) >= 20 - len(scouts) - 1


def test_the_others_are_asked_even_if_no_scout_ends():
    watch = TaskWatch(map(str, range(20)), deadline=START + 900, now=START)
    now, asked = START, set()
    while now < START + SCOUTING + 2.1:
        for task_id in watch.due(now, 20):
            asked.add(task_id)
            watch.missed(task_id, "the line is down", now)
        assert len(asked) <= FEWEST_SCOUTS or now >= START + SCOUTING
        now += watch.decide(now).wait + 1e-3
    assert len(asked) == 20


def polls_of(ends: dict[str, float], a_second: float = 1000.0) -> tuple[float, float]:
    """Polls a task until all have ended, and seconds from the last end until it is known."""
    watch = TaskWatch(ends, deadline=START + 9000, now=START, policy=PollPolicy(land_within=9000))
    now, polls = START, 0
    while (decision := watch.decide(now)).action == "poll":
        now += decision.wait
        for task_id in watch.due(now, 16):
            polls += 1
            now += 1 / a_second
            watch.saw(task_id, "succeeded" if now >= ends[task_id] else "pending", now)
    assert decision.action == "done"
    return polls / len(ends), now - max(ends.values())


TIMES: dict[str, Callable[[random.Random], float]] = {
    "1 to 30 s": lambda chance: chance.uniform(1, 30),
    "20 s": lambda chance: 20.0,
    "20 to 22 s": lambda chance: chance.uniform(20, 22),
    "mostly 7 s, some a minute": lambda chance: chance.lognormvariate(2, 0.6),
}


@pytest.mark.parametrize("submitted_over", [0, 60])
@pytest.mark.parametrize("count", [1000, 10_000])
@pytest.mark.parametrize("times", TIMES)
def test_thousands_of_tasks_cost_hardly_more_polls_than_pictures(times, count, submitted_over):
    chance = random.Random(7)
    begun = [START - submitted_over * (1 - number / count) for number in range(count)]
    polls, late = polls_of({f"task-{n}": at + TIMES[times](chance) for n, at in enumerate(begun)})
    assert polls <= 1.2
    assert late <= 12 + count / 1000 * 2  # and the vendor is asked a thousand times a second


@pytest.mark.parametrize("times", TIMES)
def test_a_slow_vendor_is_asked_without_a_break_once_the_scouts_have_ended(times):
    chance = random.Random(7)
    ends = {f"task-{number}": START + TIMES[times](chance) for number in range(1000)}
    polls, late = polls_of(ends, a_second=2)
    assert polls <= 1.05
    assert late <= 1000 / 2 * 1.05 + SCOUTING


@pytest.mark.parametrize(("times", "at_most"), [("20 s", 1.15), ("20 to 22 s", 1.15), ("1 to 30 s", 1.25)])
def test_tasks_that_are_waited_for_one_by_one_tell_each_other_how_long_they_take(times, at_most):
    chance, usual, policy, polls = random.Random(7), Usual(), PollPolicy(), 0
    for _ in range(400):
        takes, first, interval = TIMES[times](chance), usual.first_poll(policy), policy.interval
        polls, age = polls + 1, first
        while age < takes:
            polls, age, interval = polls + 1, age + interval, interval * policy.growth
        usual.learn(first, None if age == first else age)
    assert polls / 400 <= at_most
    assert policy.interval <= usual.first_poll(policy) <= policy.max_interval


def test_what_is_known_of_other_tasks_is_no_reason_to_ask_before_one_interval():
    usual, policy = Usual(), PollPolicy(interval=5)
    for _ in range(50):
        usual.learn(usual.first_poll(policy))
        assert usual.first_poll(policy) == 5


@given(st.integers(1, 20))
def test_no_more_are_taken_than_there_are_slots(limit):
    watch = TaskWatch(map(str, range(20)), deadline=START + 99, now=START)
    assert len(watch.due(START + 10, limit)) == min(limit, FEWEST_SCOUTS)
    assert len(watch.due(START + SCOUTING + 3, limit)) == min(limit, 20 - min(limit, FEWEST_SCOUTS))


def test_a_duplicate_is_asked_once():
    watch = TaskWatch(["a", "b", "a"], deadline=START + 99, now=START)
    assert sorted(watch.due(START + 10, 10)) == ["a", "b"]


def test_nothing_to_wait_for_is_done_at_once():
    assert TaskWatch([], deadline=START - 1, now=START).decide(START).action == "done"


def test_what_ended_at_the_last_moment_is_done_and_not_given_up():
    watch = TaskWatch(["a"], deadline=START + 10, now=START)
    watch.due(START, 1)
    watch.saw("a", "succeeded", START + 50)
    assert watch.decide(START + 50).action == "done"


@pytest.mark.parametrize(("seconds", "action"), [(9.9, "poll"), (10, "give_up"), (1000, "give_up")])
def test_it_gives_up_at_the_deadline(seconds, action):
    watch = TaskWatch(["a"], deadline=START + 10, now=START)
    assert watch.decide(START + seconds).action == action


@pytest.mark.parametrize(("seconds", "action"), [(0, "poll"), (299, "poll"), (300, "land"), (899, "land")])
def test_landing_gets_urgent_when_the_first_result_has_waited_long(seconds, action):
    watch = TaskWatch(["a", "b"], deadline=START + 900, now=START)
    watch.due(START, 1)
    watch.saw("a", "succeeded", START)
    assert watch.decide(START + seconds).action == action


def test_not_found_is_borne_for_a_grace_period_and_then_believed():
    watch = TaskWatch(["a"], deadline=START + 900, now=START)
    watch.due(START, 1)
    watch.missed("a", "no such task", START, not_found=True)
    watch.missed("a", "no such task", START + NOT_FOUND_GRACE - 1, not_found=True)
    assert watch.ended == {}
    watch.missed("a", "no such task", START + NOT_FOUND_GRACE, not_found=True)
    assert watch.ended == {"a": "not_found"}


@pytest.mark.parametrize("between", ["pending", "another error"])
def test_the_grace_period_begins_anew_when_the_task_was_seen_or_the_line_was_down(between):
    watch = TaskWatch(["a"], deadline=START + 900, now=START)
    watch.missed("a", "no such task", START, not_found=True)
    if between == "pending":
        watch.saw("a", "pending", START + 30)
    else:
        watch.missed("a", between, START + 30)
    watch.missed("a", "no such task", START + NOT_FOUND_GRACE + 1, not_found=True)
    assert watch.ended == {}


@given(st.floats(1, 500))
def test_a_retry_after_is_respected_for_that_task(seconds):
    watch = TaskWatch(["a"], deadline=START + 900, now=START)
    watch.due(START, 1)
    watch.missed("a", "too fast", START, retry_after=seconds)
    assert watch.due(START + seconds - 0.01, 1) == []
    assert watch.due(START + max(seconds, 2.3) + 0.01, 1) == ["a"]


def test_problems_tell_the_last_error_of_what_is_pending_only():
    watch = TaskWatch(["a", "b"], deadline=START + 900, now=START)
    watch.missed("a", "first", START)
    watch.missed("a", "second", START)
    watch.missed("b", "first", START)
    watch.saw("b", "pending", START)
    assert watch.problems == {"a": "second"}


# --- what is believed ------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("missing_for", "age", "once", "lost"),
    [
        (NOT_FOUND_GRACE, None, False, True),
        (NOT_FOUND_GRACE - 1, None, False, False),
        (NOT_FOUND_GRACE - 1, 10 * NOT_FOUND_GRACE, False, False),
        (0, NOT_FOUND_GRACE, True, True),
        (0, NOT_FOUND_GRACE - 1, True, False),
        (0, None, True, False),
    ],
)
def test_an_unknown_task_is_lost_if_it_stayed_unknown_or_is_old_and_asked_for_once(missing_for, age, once, lost):
    assert unknown_is_lost(missing_for, age=age, once=once) is lost


@given(st.lists(st.booleans(), max_size=40))
def test_a_refused_key_is_believed_after_three_refusals_in_a_row_and_never_before(polls):
    refusals, in_a_row = Refusals(), 0
    for refused in polls:
        in_a_row = in_a_row + 1 if refused else 0
        if refused:
            assert refusals.refused() is (in_a_row >= 3)
        else:
            refusals.answered()


@pytest.mark.parametrize("task_id", ["5f461cfc-5a1b-4f0e", "a" * 200, "abc==", "a.b:c_d+e~f@g", "007"])
def test_what_a_vendor_may_call_a_task_can_be_asked_for(task_id):
    assert askable(task_id)


@pytest.mark.parametrize(
    "task_id", ["", ".", "..", "a/b", "../a", "a?b", "a#b", "a%2Fb", "a b", "a\n", "x" * 201, None]
)
def test_what_would_be_another_path_cannot(task_id):
    assert not askable(task_id)
