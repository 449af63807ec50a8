"""The ledger against a model: the real buyer, walkers and readers in any order, request by request, in a bad world."""

from __future__ import annotations

from typing import Any

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)

from airflow_provider_bgai.buying.decisions import decide_about
from airflow_provider_bgai.buying.record import IN_VAIN
from tests.buying.stepping import S3_TROUBLE
from tests.buying.world import HOUR, OUTCOMES, World, stepped  # noqa: F401

AT_MOST = 4  # processes at a time
WHO, RUN = st.integers(0, AT_MOST - 1), st.sampled_from(["one", "two"])
POLICY = st.sampled_from(["hold", "hold", "resubmit", "fail"])
DECISIONS = ("release", "keep", "buy")
OUTCOME, STEPS = st.sampled_from(OUTCOMES), st.integers(0, 12)


class LedgerModel(RuleBasedStateMachine):
    """Tasks, their retries and twins, of two runs, who walks and who adds up, against vendors, S3, time and people."""

    def new_world(self) -> World:
        return World()

    @initialize(others=st.lists(st.tuples(RUN, POLICY), min_size=1, max_size=2))
    def start(self, others: list[tuple[str, str]]) -> None:
        self.world = self.new_world()
        self.settled_at = (0, 0.0)
        for run, policy in others:
            self.world.buys("a", run, policy)

    def teardown(self) -> None:
        if hasattr(self, "world"):
            self.world.close()

    room = precondition(lambda self: len(self.world.alive) < AT_MOST)
    busy = precondition(lambda self: self.world.alive)

    @room
    @rule(
        wish=st.sampled_from(["a", "a", "b"]), run=RUN, policy=POLICY, again=st.booleans(), steps=STEPS, outcome=OUTCOME
    )
    def somebody_buys(self, wish: str, run: str, policy: str, again: bool, steps: int, outcome: str) -> None:
        process = self.world.buys(wish, run, policy, again=again)
        self.world.run(process, outcome=outcome, steps=steps)

    @room
    @rule(run=st.sampled_from(["one", "two", "three"]), adds_up=st.booleans(), steps=STEPS)
    def somebody_walks(self, run: str, adds_up: bool, steps: int) -> None:
        process = self.world.adds_up() if adds_up else self.world.walks(run)
        self.world.run(process, steps=steps)

    @busy
    @rule(who=WHO, steps=STEPS, outcome=OUTCOME)
    def one_goes_on(self, who: int, steps: int, outcome: str) -> None:
        self.world.run(self.world.alive[who % len(self.world.alive)], outcome=outcome, steps=steps)

    @busy
    @rule(who=WHO, outcome=OUTCOME)
    def one_goes_as_far_as_it_can(self, who: int, outcome: str) -> None:
        self.one_goes_on(who, 60, outcome)

    @busy
    @rule(turns=st.lists(WHO, min_size=3, max_size=30), outcome=OUTCOME)
    def all_go_on_in_turns(self, turns: list[int], outcome: str) -> None:
        for who in turns:
            if alive := self.world.alive:
                self.world.go(alive[who % len(alive)], outcome=outcome)

    @busy
    @rule(who=WHO, steps=STEPS, order=st.sampled_from(S3_TROUBLE), outcome=OUTCOME)
    def one_meets_trouble(self, who: int, steps: int, order: str, outcome: str) -> None:
        process = self.world.alive[who % len(self.world.alive)]
        self.world.run(process, outcome=outcome, steps=steps)
        if process.at is not None:
            self.world.go(process, order, outcome)

    @rule(seconds=st.sampled_from([20.0, 45.0, 400.0, 1.1 * HOUR, 21 * HOUR]))
    def time_passes(self, seconds: float) -> None:
        self.world.time_passes(seconds)

    @rule(which=st.integers(0, 5), what=st.sampled_from([*DECISIONS, "result", "picture", "record", "marker"]))
    def somebody_meddles(self, which: int, what: Any) -> None:
        """Somebody decides about a wish, or something is deleted: of one wish records or markers; else what is left?"""
        world, calls = self.world, list(self.world.records.values())
        last = {call.fingerprint: call for call in sorted(calls, key=lambda call: call.number)}.values()
        unmarked = {it.fingerprint for it in calls if it.call_id in world.unmarked}
        choice = {
            "release": [it for it in last if it.state == "sent"],
            "keep": [it for it in last if it.state == "sent"],
            "buy": [it for it in last if it.state in IN_VAIN],
            "result": calls,
            "picture": [it for it in calls if it.state == "landed"],
            "record": [it for it in calls if it.state != "unknown" and it.fingerprint not in unmarked],
            "marker": [it for it in calls if it.fingerprint[0] not in world.meddled],
        }[what]
        if choice and what in DECISIONS:
            decide_about(world.ledger, choice[which % len(choice)].fingerprint, what)
        elif choice:
            world.delete(what, choice[which % len(choice)])

    @precondition(lambda self: self.settled_at != (self.world.requests, self.world.clock))
    @rule(connection_gone=st.booleans())
    def a_quiet_night_settles_everything(self, connection_gone: bool) -> None:
        self.settled_at = (self.world.requests, self.world.clock)
        self.world.a_quiet_night(connection_gone=connection_gone)

    @invariant()
    def nothing_is_paid_that_is_not_declared_and_nothing_twice_at_a_time(self) -> None:
        self.world.check()


LedgerModel.TestCase.settings = settings(max_examples=150, stateful_step_count=40)
TestLedgerModel = LedgerModel.TestCase


def test_the_same_is_true_of_a_real_s3(storage, s3):
    class OnS3(LedgerModel):
        def new_world(self) -> World:
            return World(storage, s3.bucket)

    run_state_machine_as_test(OnS3, settings=settings(max_examples=3, stateful_step_count=20))
