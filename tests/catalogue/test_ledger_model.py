"""The ledger against a model: runs that claim, submit, fail, hold, lose, land, die anywhere and come back.

A run is played line by line, each line a rule of its own, so that any other run can act between any two lines
and a run can die after any of them. Only what stands in the ledger survives.
"""

from __future__ import annotations

import itertools
from collections import Counter
from dataclasses import dataclass, field
from decimal import Decimal
from typing import Any, get_args

import pytest
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

from airflow_provider_bgai.catalogue.ledger import (
    TRANSITIONS,
    Claim,
    ClaimState,
    Landed,
    Ledger,
    LostRaceError,
)
from airflow_provider_bgai.storage import Storage
from tests.catalogue.support import MemoryStorage

STATES = get_args(ClaimState)
WISHES = ("wish-a", "wish-b")
RUNS = ("tonight", "by-hand", "tomorrow")
PATIENCE = 10  # hours after which a claim without an answer, or a held one, may be taken over

runs, wishes = st.sampled_from(RUNS), st.sampled_from(WISHES)


@dataclass
class Walk:
    """Where a run is with a wish: what it has read or written last, and what the vendor has told it."""

    seen: Claim | None = None
    landed: Landed | None = None
    may_pay: bool = False
    answer: str | None = None  # what the paid call came to, not yet written down


@dataclass
class Bill:
    """What the vendor knows of a wish: the truth that the ledger must cover."""

    submissions: int = 0
    tasks: dict[str, str] = field(default_factory=dict)  # task ID -> running, done, failed, gone or redrawn
    free: int = 0  # ended, and not charged


class LedgerModel(RuleBasedStateMachine):
    storage: Storage | None = None
    numbers = itertools.count()

    @initialize()
    def start(self) -> None:
        root = f"s3://catalogue/model-{next(self.numbers)}"
        self.ledger = Ledger(self.storage or MemoryStorage(), root)
        self.hour = 0.0
        self.walks: dict[tuple[str, str], Walk] = {}
        self.bills = {wish: Bill() for wish in WISHES}
        self.declared: Counter[str] = Counter()  # bought again on purpose, though perhaps paid before
        self.history: dict[str, list[ClaimState | None]] = {wish: [None] for wish in WISHES}
        self.known_tasks: dict[str, str] = {}  # written task ID -> wish

    # --- what a run does, a line at a time

    def write(self, run: str, wish: str, state: ClaimState, **changes: Any) -> Claim | None:
        """The claim in a new state, or None if somebody else was first; then the walk has to read again."""
        walk = self.walks[run, wish]
        before = walk.seen
        try:
            if state == "claimed":
                unknown = before.unknown if before else 0
                written = self.ledger.claim(self.claim_of(run, wish, unknown), before)
            else:
                assert before is not None
                written = self.ledger.move(before, state, **changes)
        except LostRaceError:
            self.walks[run, wish] = Walk()
            return None
        assert self.history[wish][-1] == (before.state if before else None), "it replaced what it had not read"
        self.history[wish].append(state)
        walk.seen = written
        return written

    def claim_of(self, run: str, wish: str, unknown: int) -> Claim:
        return Claim(
            fingerprint=wish,
            state="claimed",
            owner=run,
            vendor="picwish",
            conn_id="picwish_default",
            images=1,
            price=Decimal("0.05"),
            claimed_at=self.hour,
            expires_at=self.hour + PATIENCE,
            unknown=unknown,
            destination="s3://catalogue/a.{ext}",
        )

    @rule(run=runs, wish=wishes)
    def read(self, run: str, wish: str) -> None:
        landed = self.ledger.read_landed(wish)
        self.walks[run, wish] = Walk(self.ledger.read_claim(wish), landed)

    @rule(run=runs, wish=wishes, resubmit=st.booleans())
    def claim(self, run: str, wish: str, resubmit: bool) -> None:
        """What ``purchase.Buyer.begin`` does with what it has read."""
        walk = self.walks.get((run, wish))
        if walk is None or walk.may_pay or walk.answer is not None:
            return
        seen = walk.seen
        if seen is not None and seen.state == "claimed":
            if seen.owner != run and self.hour < seen.expires_at:
                return
            seen = self.write(run, wish, "held", held_until=self.hour + PATIENCE, unknown=seen.unknown + 1)
        if walk.landed is not None and seen is not None and walk.landed.landed_at >= seen.claimed_at:
            return
        if seen is not None and (seen.state in ("submitted", "landed") or seen != walk.seen):
            return
        if seen is not None and seen.state == "held":
            if not resubmit and self.hour < (seen.held_until or 0):
                return
            self.declared[wish] += 1
        lost = seen is not None and seen.state in ("lost", "quarantined")
        if self.write(run, wish, "claimed"):
            walk.may_pay = True
            self.declared[wish] += lost
        elif seen is not None and seen.state == "held":
            self.declared[wish] -= 1

    @rule(run=runs, wish=wishes, outcome=st.sampled_from(["task", "task", "refused", "dropped", "dropped_unpaid"]))
    def pay(self, run: str, wish: str, outcome: str) -> None:
        walk = self.walks.get((run, wish))
        if walk is None or not walk.may_pay:
            return
        stored = self.ledger.read_claim(wish)
        if stored is not None and stored.owner == run:
            # Whoever pays has written the claim himself; it may only have been taken over after it expired.
            assert stored.state in ("claimed", "held") or self.hour >= walk.seen.expires_at
        if self.hour >= walk.seen.expires_at:
            return  # its call would have ended long ago
        walk.may_pay = False
        bill = self.bills[wish]
        bill.submissions += 1
        walk.answer = outcome
        if outcome == "task":
            walk.answer = f"task-{wish}-{bill.submissions}"
            bill.tasks[walk.answer] = "running"
        elif outcome in ("refused", "dropped_unpaid"):
            bill.free += 1

    @rule(run=runs, wish=wishes)
    def write_down(self, run: str, wish: str) -> None:
        walk = self.walks.get((run, wish))
        if walk is None or walk.answer is None:
            return
        answer, walk.answer = walk.answer, None
        if answer == "refused":
            self.write(run, wish, "failed", reason="refused")
        elif answer.startswith("dropped"):
            self.write(run, wish, "held", held_until=self.hour + PATIENCE, unknown=walk.seen.unknown + 1)
        elif self.write(run, wish, "submitted", task_id=answer):
            self.known_tasks[answer] = wish

    @rule(run=runs, wish=wishes)
    def collect(self, run: str, wish: str) -> None:
        """Any run that has read a submitted claim collects its task."""
        walk = self.walks.get((run, wish))
        if walk is None or walk.seen is None or walk.seen.state != "submitted":
            return
        task = walk.seen.task_id
        assert task in self.bills[wish].tasks
        became = self.bills[wish].tasks[task]
        if became == "failed":
            self.write(run, wish, "failed", reason="fault")
        elif became == "gone":
            self.write(run, wish, "lost", reason="lost")
        elif became == "redrawn":
            self.write(run, wish, "quarantined", reason="quarantined")
        elif became == "done":
            self.ledger.land(self.landed_of(walk.seen, run), walk.seen.claimed_at)
            self.walks[run, wish] = Walk()

    def landed_of(self, claim: Claim, run: str) -> Landed:
        known = claim.model_dump(
            include={"fingerprint", "vendor", "conn_id", "task_id", "price", "currency", "unknown"}
        )
        return Landed(
            **known, seed=None, model=None, prompt_sha256=None, seconds=1, landed_at=self.hour, owner=run, images=()
        )

    @rule(run=runs, wish=wishes)
    def somebody_deleted_the_pictures(self, run: str, wish: str) -> None:
        """The run finds a landed record without pictures and buys anew, on purpose."""
        walk = self.walks.get((run, wish))
        if walk is None or walk.landed is None or walk.seen is None or walk.may_pay or walk.answer:
            return
        if walk.landed.landed_at < walk.seen.claimed_at:
            return
        if walk.seen.state in ("claimed", "submitted", "held") and not self.write(run, wish, "landed"):
            return
        if self.walks[run, wish].seen.state == "landed" and self.write(run, wish, "claimed"):
            walk.may_pay, walk.landed = True, None
            self.declared[wish] += 1

    @rule(run=runs)
    def die(self, run: str) -> None:
        """SIGKILL: what was not written is forgotten; the vendor keeps what he has."""
        for key in [key for key in self.walks if key[0] == run]:
            del self.walks[key]

    @rule(wish=wishes, became=st.sampled_from(["done", "done", "failed", "gone", "redrawn"]))
    def the_vendor_ends_a_task(self, wish: str, became: str) -> None:
        for task, state in self.bills[wish].tasks.items():
            if state == "running":
                self.bills[wish].tasks[task] = became
                self.bills[wish].free += became == "failed"

    @rule(hours=st.sampled_from([1, 11]))
    def time_passes(self, hours: float) -> None:
        self.hour += hours

    # --- what nobody may do

    @precondition(lambda self: any(walk.seen for walk in self.walks.values()))
    @rule(run=runs, wish=wishes, state=st.sampled_from(STATES))
    def a_transition_that_is_not_in_the_table_is_refused(self, run: str, wish: str, state: ClaimState) -> None:
        walk = self.walks.get((run, wish))
        before = walk.seen if walk else None
        if state in TRANSITIONS[before.state if before else None]:
            return
        stored = self.ledger.read_claim(wish)
        with pytest.raises(ValueError, match="is not allowed"):
            self.ledger.claim(self.claim_of(run, wish, 0).model_copy(update={"state": state}), before)
        assert self.ledger.read_claim(wish) == stored

    # --- what is always true

    @invariant()
    def nothing_is_paid_twice_undeclared(self) -> None:
        for wish, bill in self.bills.items():
            assert bill.submissions - bill.free <= 1 + self.declared[wish], wish

    @invariant()
    def every_step_is_in_the_table(self) -> None:
        for wish, steps in self.history.items():
            for before, after in itertools.pairwise(steps):
                assert after in TRANSITIONS[before], (wish, before, after)
            stored = self.ledger.read_claim(wish)
            assert (stored.state if stored else None) == steps[-1]

    @invariant()
    def a_task_id_once_written_is_kept_until_it_has_ended(self) -> None:
        for wish in WISHES:
            stored = self.ledger.read_claim(wish)
            for task, owner in self.known_tasks.items():
                if owner == wish and self.bills[wish].tasks[task] == "running":
                    landed = self.ledger.read_landed(wish)
                    assert (stored.task_id == task and stored.state == "submitted") or landed

    @invariant()
    def all_who_may_pay_at_the_same_time_are_one(self) -> None:
        for wish in WISHES:
            able = [
                run
                for (run, name), walk in self.walks.items()
                if name == wish and walk.may_pay and self.hour < walk.seen.expires_at
            ]
            assert len(able) <= 1
            if able:
                stored = self.ledger.read_claim(wish)
                assert (stored.state, stored.owner) == ("claimed", able[0]) or stored.unknown


LedgerModel.TestCase.settings = settings(max_examples=250, stateful_step_count=40)
TestLedgerModel = LedgerModel.TestCase


def test_the_same_is_true_of_a_real_s3(storage):
    class OnS3(LedgerModel):
        pass

    OnS3.storage = storage
    run_state_machine_as_test(OnS3, settings=settings(max_examples=8, stateful_step_count=25))
