"""What is done about a wish: the one function that everybody asks, and what people write down for it."""

from __future__ import annotations

from typing import Any, get_args

import pytest
from hypothesis import given
from hypothesis import strategies as st

from airflow_provider_bgai.buying.calls import Ledger
from airflow_provider_bgai.buying.decision import A_DAY, GIVE_UP, Asks, Decided, Decision, Last, decide, is_lost
from airflow_provider_bgai.buying.decisions import decide_about, last_of, read_note, refusal
from airflow_provider_bgai.buying.record import ENDS, IN_VAIN, STATES, Call, State
from airflow_provider_bgai.exceptions import (
    AuthenticationError,
    GivenUpError,
    InvalidRequestError,
    LinkRefusedError,
    LostError,
    PollError,
    TaskNotFoundError,
    UnfaithfulError,
    UnknownOutcomeError,
)
from tests.buying.support import NOON, MemoryStorage, new_call

HOUR = 3600.0
ANSWER_BY, HELD_UNTIL = NOON + 60, NOON + 20 * HOUR
EARLY, LATE, OVER = NOON + 59, ANSWER_BY, HELD_UNTIL


def last(state: State | None, **known: Any) -> Last:
    return Last(2, state, ANSWER_BY, known.pop("held_until", HELD_UNTIL), **known)


ROWS: dict[str, tuple[Last | None, dict[str, Any], float, Decision]] = {
    "never tried": (None, {}, EARLY, Decision("buy", 1)),
    "nobody can read its record": (last(None), {"again": True, "policy": "resubmit"}, OVER, Decision("held", 2)),
    "landed": (last("landed", there=True), {}, EARLY, Decision("reuse", 2)),
    "landed, whoever asks": (last("landed", there=True), {"again": True}, EARLY, Decision("reuse", 2)),
    "landed, and somebody deleted the pictures": (last("landed"), {}, EARLY, Decision("buy", 3)),
    "answered": (last("answered"), {}, OVER, Decision("collect", 2)),
    "sent, its sender may be alive": (last("sent"), {}, EARLY, Decision("wait", 2, until=ANSWER_BY)),
    "sent, alive, whatever the policy": (
        last("sent", decided="release"),
        {"policy": "resubmit", "again": True},
        EARLY,
        Decision("wait", 2, until=ANSWER_BY),
    ),
    "sent, and its bytes are there": (last("sent", delivered=True), {}, OVER, Decision("take", 2)),
    "sent, its hold lasts": (last("sent"), {}, LATE, Decision("held", 2, until=HELD_UNTIL)),
    "sent, its hold is over": (last("sent"), {}, OVER, Decision("buy", 3, ends=True)),
    "sent, resubmit": (last("sent"), {"policy": "resubmit"}, LATE, Decision("buy", 3, ends=True)),
    "sent, fail": (last("sent", held_until=None), {"policy": "fail"}, OVER, Decision("held", 2)),
    "sent, and let go of by a person": (last("sent", decided="release"), {}, LATE, Decision("buy", 3, ends=True)),
    "sent, and wanted anew by a person": (last("sent", decided="buy"), {}, LATE, Decision("buy", 3, ends=True)),
    "sent, and kept by a person": (
        last("sent", decided="keep"),
        {"policy": "resubmit"},
        OVER,
        Decision("held", 2, until=HELD_UNTIL),
    ),
    "sent, and this process knows its answer is lost": (
        last("sent"),
        {"policy": "resubmit", "unanswered": 2},
        EARLY,
        Decision("buy", 3, ends=True),
    ),
    "the same, held": (last("sent"), {"unanswered": 2}, EARLY, Decision("held", 2, until=HELD_UNTIL)),
    "another number is known to be lost": (
        last("sent"),
        {"policy": "resubmit", "unanswered": 1},
        EARLY,
        Decision("wait", 2, until=ANSWER_BY),
    ),
    "failed": (last("failed"), {}, EARLY, Decision("buy", 3)),
    "lost": (last("lost", in_vain=1), {}, EARLY, Decision("buy", 3)),
    "unknown": (last("unknown", in_vain=1), {}, EARLY, Decision("buy", 3)),
    "in quarantine": (last("quarantined", in_vain=1), {}, EARLY, Decision("refuse", 2)),
    "in quarantine, and asked for": (last("quarantined", in_vain=1), {"again": True}, EARLY, Decision("buy", 3)),
    "in quarantine, and wanted anew by a person": (
        last("quarantined", in_vain=1, decided="buy"),
        {},
        EARLY,
        Decision("buy", 3),
    ),
    "paid in vain twice": (last("lost", in_vain=2), {}, EARLY, Decision("buy", 3)),
    "given up": (last("lost", in_vain=3), {}, EARLY, Decision("refuse", 2)),
    "given up, then failed for free": (last("failed", in_vain=3), {}, EARLY, Decision("refuse", 2)),
    "given up, and asked for": (last("lost", in_vain=3), {"again": True}, EARLY, Decision("buy", 3)),
    "given up, and wanted anew by a person": (last("unknown", in_vain=3, decided="buy"), {}, EARLY, Decision("buy", 3)),
    "in doubt for the third time": (last("sent", in_vain=2), {}, OVER, Decision("refuse", 2, ends=True)),
}


@pytest.mark.parametrize("row", ROWS)
def test_the_table_of_decisions(row):
    known, asks, now, right = ROWS[row]
    assert decide(known, Asks(**asks), now) == right


# --- whatever is known, whoever asks, whenever ------------------------------------------------------

TIMES = st.sampled_from([NOON, EARLY, LATE, LATE + 1, OVER - 1, OVER, OVER + HOUR])
ASKS = st.builds(
    Asks,
    policy=st.sampled_from(["hold", "resubmit", "fail"]),
    again=st.booleans(),
    unanswered=st.integers(0, 4),
)
LASTS = st.builds(
    Last,
    number=st.integers(1, 4),
    state=st.sampled_from([None, *STATES]),
    answer_by=st.just(ANSWER_BY),
    held_until=st.sampled_from([None, HELD_UNTIL]),
    in_vain=st.integers(0, 4),
    there=st.booleans(),
    delivered=st.booleans(),
    decided=st.sampled_from([None, *get_args(Decided)]),
)


@given(LASTS, ASKS, TIMES)
def test_nothing_is_bought_while_a_call_may_be_alive_or_has_been_answered(known, asks, now):
    decision = decide(known, asks, now)
    if known.state == "sent" and now < ANSWER_BY and asks.unanswered != known.number:
        assert decision.action == "wait"
    if known.state == "answered":
        assert decision == Decision("collect", known.number)
    if known.state is None:
        assert decision.action == "held"
    if known.state == "landed" and known.there:
        assert decision == Decision("reuse", known.number)


@given(LASTS, ASKS, TIMES)
def test_of_two_calls_for_one_wish_the_earlier_one_has_ended_before_the_later_one_is_made(known, asks, now):
    decision = decide(known, asks, now)
    if decision.action == "buy":
        assert decision.number == known.number + 1
        assert known.state in ENDS or decision.ends
    else:
        assert decision.number == known.number
    assert not decision.ends or known.state == "sent"
    assert not (decision.ends and known.delivered and now >= ANSWER_BY), "its answer is there"


@given(LASTS, ASKS, TIMES)
def test_a_call_without_an_answer_is_given_up_only_when_it_may_be(known, asks, now):
    if decide(known, asks, now).ends:
        assert now >= ANSWER_BY or asks.unanswered == known.number
        assert known.decided != "keep"
        over = known.held_until is not None and now >= known.held_until
        assert over or asks.policy == "resubmit" or known.decided in ("release", "buy")


@given(LASTS, ASKS, TIMES)
def test_a_wish_that_was_paid_in_vain_three_times_is_bought_only_for_who_asks(known, asks, now):
    decision = decide(known, asks, now)
    asked = asks.again or known.decided == "buy"
    if decision.action == "buy" and known.state != "landed":
        assert asked or known.in_vain + decision.ends < GIVE_UP
        assert asked or known.state != "quarantined"
    if asked:
        assert decision.action != "refuse"


@given(LASTS, ASKS, TIMES)
def test_what_a_person_accepts_is_never_bought_again_and_what_one_rejects_only_for_who_asks(known, asks, now):
    decision = decide(known, asks, now)
    if known.state in ("landed", "quarantined"):
        if known.decided == "accept":
            assert decision == Decision("reuse" if known.there else "accept", known.number)
        if known.decided == "reject" and not known.there:
            assert decision.action == ("buy" if asks.again else "rejected")
    assert decision.action != "accept" or known.decided == "accept"


@given(LASTS, ASKS, TIMES, st.sampled_from([1.0, HOUR, 30 * HOUR]))
def test_what_may_be_bought_now_may_be_bought_later(known, asks, now, later):
    if decide(known, asks, now).action == "buy" and not known.delivered:
        assert decide(known, asks, now + later).action == "buy"


# --- what is seen beside the record, and what people decide ------------------------------------------


@pytest.fixture
def ledger() -> Ledger:
    return Ledger(MemoryStorage(), "s3://shop/catalogue")


def stored(ledger: Ledger, **fields) -> Call:
    call = new_call(**fields)
    ledger.storage.put(ledger.layout.call(call.fingerprint, call.number), call.body())
    return call


def action(ledger: Ledger, call: Call, now: float = OVER, **asks) -> str:
    return decide(last_of(ledger, call, now), Asks(**asks), now).action


def test_a_call_that_may_be_alive_is_not_looked_at_any_further(ledger):
    call = stored(ledger)
    ledger.storage.put(ledger.layout.incoming(call.call_id), b"picture")
    asked = ledger.storage.calls
    assert action(ledger, call, NOON) == "wait"
    assert ledger.storage.calls == asked
    assert action(ledger, call, call.answer_by) == "take"


def test_landed_pictures_are_reused_while_all_of_them_are_there(ledger):
    images = [{"uri": f"_bgai/pictures/{n}.png", "bytes": 1, "sha256": "0", "width": 1, "height": 1} for n in "ab"]
    call = stored(ledger, state="landed", images=[{**image, "content_type": "image/png"} for image in images])
    for image in call.images:
        ledger.storage.put(ledger.layout.absolute(image.uri), b"picture")
    assert action(ledger, call) == "reuse"
    ledger.storage.delete(ledger.layout.absolute(call.images[1].uri))
    assert action(ledger, call) == "buy"


def test_a_person_lets_go_of_a_held_call_or_keeps_it_beyond_its_hold(ledger):
    call = stored(ledger, held_until=None)
    assert action(ledger, call) == "held"
    decide_about(ledger, call.fingerprint, "release", by="anna")
    assert action(ledger, call) == "buy"
    decide_about(ledger, call.fingerprint, "keep")
    assert action(ledger, call, policy="resubmit") == "held"


@pytest.mark.parametrize("state", sorted(IN_VAIN | {"failed"}))
def test_a_person_has_a_wish_bought_again_that_was_given_up(ledger, state):
    call = stored(ledger, state=state, before=GIVE_UP)
    assert action(ledger, call) == "refuse"
    decide_about(ledger, call.fingerprint, "buy")
    assert action(ledger, call) == "buy"


def test_a_decision_belongs_to_one_call_and_not_to_whatever_has_its_number_later(ledger):
    call = stored(ledger)
    decide_about(ledger, call.fingerprint, "release")
    note = read_note(ledger.storage, ledger.layout, call)
    assert note is not None
    assert note.what == "release"
    other = stored(ledger)
    assert read_note(ledger.storage, ledger.layout, other) is None
    assert action(ledger, other, call.answer_by) == "held"


@pytest.mark.parametrize(
    ("state", "what"),
    [
        (None, "release"),
        ("landed", "keep"),
        ("lost", "accept"),
        ("sent", "reject"),
        ("answered", "release"),
        ("unknown", "release"),
        ("quarantined", "keep"),
        ("answered", "buy"),
        ("sent", "delete"),
    ],
)
def test_a_decision_that_makes_no_sense_is_refused_and_not_written_down(ledger, state, what):
    call = stored(ledger, state=state) if state else new_call()
    with pytest.raises(InvalidRequestError):
        decide_about(ledger, call.fingerprint, what)
    assert read_note(ledger.storage, ledger.layout, call) is None


def test_whoever_is_refused_is_told_why_and_what_a_person_may_decide_and_nobody_is_told_to_delete(ledger):
    held, redrawn, given_up = new_call(), new_call(state="quarantined"), new_call(state="lost", before=2)
    command = f"bgai-ledger {{}} s3://shop/catalogue {held.fingerprint}"
    for call, is_held, kind, verb in (
        (held, True, UnknownOutcomeError, "release"),
        (redrawn, False, UnfaithfulError, "buy"),
        (given_up, False, GivenUpError, "buy"),
    ):
        error = refusal(ledger, call, "held" if is_held else "refuse", NOON + 2 * HOUR)
        assert type(error) is kind
        assert command.format(verb) in str(error)
        assert "delete" not in str(error).lower()
    assert "for 2.0 h more" in str(refusal(ledger, held, "held", NOON + 2 * HOUR))
    assert "until somebody decides" in str(refusal(ledger, held, "held"))
    assert "3 times" in str(refusal(ledger, given_up, "refuse"))


# --- lost ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("error", "age", "lost"),
    [
        (LostError("gone"), 0, True),
        (LinkRefusedError("404"), HOUR, False),
        (LinkRefusedError("404"), HOUR + 1, True),
        (None, HOUR + A_DAY, False),
        (None, HOUR + A_DAY + 1, True),
        (PollError("a proxy's 403"), 30 * A_DAY, False),
        (TaskNotFoundError("unknown task"), 30 * A_DAY, False),
        (AuthenticationError("wrong key"), 30 * A_DAY, False),
    ],
    ids=lambda value: type(value).__name__ if isinstance(value, Exception | None) else str(value),
)
def test_a_call_is_lost_only_for_certain(error, age, lost):
    call = new_call(state="answered", answered_at=NOON + 5)
    assert is_lost(call, error, life=HOUR, now=NOON + 5 + age) is lost
