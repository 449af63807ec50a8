"""The books: every call stands in them once, for ever; and whoever walks ``open/`` forgets none."""

from __future__ import annotations

import itertools
import json
from contextlib import suppress
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from airflow_provider_bgai.buying import books
from airflow_provider_bgai.buying.books import audit, book, bounds, read_books, read_open, restore, walk
from airflow_provider_bgai.buying.decisions import decide_about
from airflow_provider_bgai.buying.record import ENDS, STATES, Call, Thumbnails
from tests.buying.kept import ANSWER_BY, HELD_UNTIL, Kept, call
from tests.buying.support import Killed, MemoryStorage

HOUR = 3600.0


@pytest.fixture
def kept() -> Kept:
    return Kept()


def states(kept: Kept) -> dict[str, str]:
    """What the books say of each call."""
    return {it.call_id: it.state for it in read_books(kept.ledger)}


def said(*walked: list[Call]) -> list[list[tuple[str, str]]]:
    """Which calls a walk has found, and in which state."""
    return [[(it.call_id, it.state) for it in calls] for calls in walked]


def files(kept: Kept) -> list[str]:
    return [item.uri for item in kept.storage.list(kept.layout.books())]


# --- walking through open/ -------------------------------------------------------------------------


def test_a_walk_ends_what_has_waited_long_enough_and_leaves_the_rest(kept):
    ended, answered, held = call("ended"), call("answered", "answered"), call("held", "sent")
    kept.open(ended, answered, held)
    kept.storage.clock = ANSWER_BY - 1
    found = walk(kept.ledger)
    assert said(found.ended, found.waiting, found.open) == said([ended], [answered], [held])
    kept.storage.clock = HELD_UNTIL - 1
    assert said(walk(kept.ledger).open) == said([held])
    kept.storage.clock = HELD_UNTIL
    found = walk(kept.ledger)
    assert sorted(it.state for it in found.ended) == ["landed", "unknown"]
    assert kept.ledger.read(held.fingerprint, 1).state == "unknown"
    book(kept.ledger, "night-2", found.ended)
    assert states(kept) == {ended.call_id: "landed", held.call_id: "unknown"}
    assert kept.marked() == [answered.call_id]


def test_bytes_that_were_delivered_are_taken_up_however_long_ago_that_was(kept):
    sent = call("delivered", "sent")
    kept.open(sent)
    kept.storage.put(kept.layout.incoming(sent.call_id), b"the answer")
    kept.storage.clock = HELD_UNTIL + 90 * 24 * HOUR
    (found,) = walk(kept.ledger).waiting
    assert (found.state, found.incoming) == ("answered", True)
    assert kept.ledger.read(sent.fingerprint, 1).state == "answered"


@pytest.mark.parametrize(("decided", "state", "at"), [("release", "unknown", ANSWER_BY), ("keep", "sent", 9e9)])
def test_what_a_person_decided_goes_before_the_hold(kept, decided, state, at):
    held = call("held", "sent")
    kept.open(held)
    decide_about(kept.ledger, held.fingerprint, decided)
    kept.storage.clock = at
    walk(kept.ledger)
    assert kept.ledger.read(held.fingerprint, 1).state == state


def test_young_markers_may_be_left_to_their_own_runs(kept):
    kept.open(call("young"))
    assert walk(kept.ledger, older_than=HOUR).ended == []
    kept.storage.clock += HOUR
    assert len(walk(kept.ledger, older_than=HOUR).ended) == 1


@pytest.mark.parametrize(("delivered", "state"), [(True, "answered"), (False, "unknown")])
def test_who_takes_a_call_up_marks_it_again_before_anything_else(delivered, state):
    """Its marker may be gone by now: removed by hand, or by one who took it for another call's."""
    written: list[str] = []

    class Diary(MemoryStorage):
        def put(self, uri: str, body: Any, **more: Any) -> None:
            written.append(uri)
            super().put(uri, body, **more)

        def replace(self, uri: str, body: bytes, etag: str, **more: Any) -> str | None:
            written.append(uri)
            return super().replace(uri, body, etag, **more)

    kept, sent = Kept(Diary()), call("found", "sent")
    kept.open(sent)
    if delivered:
        kept.storage.put(kept.layout.incoming(sent.call_id), b"the answer")
    written.clear()
    kept.storage.clock = HELD_UNTIL
    walk(kept.ledger)
    assert written == [kept.layout.marker(sent.fingerprint, 1, sent.call_id), kept.layout.call(sent.fingerprint, 1)]
    ended = kept.ledger.read(sent.fingerprint, 1)
    assert ended is not None
    assert ended.state == state


# --- markers without their record ------------------------------------------------------------------


def test_a_marker_without_a_record_is_booked_as_perhaps_once_it_is_old_enough(kept):
    lost = call("lost", "sent")
    kept.ledger.mark(lost)
    kept.storage.clock += HOUR - 1
    found = walk(kept.ledger)
    assert said(found.open, found.ended) == said([lost], [])
    assert bounds(kept.ledger) == {"picwish": (0, 1)}
    kept.storage.clock += 1
    book(kept.ledger, "night-2", walk(kept.ledger).ended)
    assert kept.ledger.read(lost.fingerprint, 1).state == "unknown"
    assert (states(kept), kept.marked()) == ({lost.call_id: "unknown"}, [])
    assert bounds(kept.ledger) == {"picwish": (0, 1)}


def test_a_marker_whose_number_is_another_calls_is_booked_as_perhaps_and_the_other_is_left_alone(kept):
    mine, other = call("a wish", "sent"), call("a wish", "landed", call_id="ab" * 16)
    kept.ledger.mark(mine)
    kept.open(other)
    kept.storage.clock += HOUR
    found = walk(kept.ledger)
    assert {it.call_id: it.state for it in found.ended} == {mine.call_id: "unknown", other.call_id: "landed"}
    book(kept.ledger, "night-2", found.ended)
    assert kept.ledger.read(mine.fingerprint, 1).call_id == other.call_id
    assert (bounds(kept.ledger), kept.marked()) == ({"picwish": (1, 1)}, [])
    # Nobody takes the one for a record that is gone, or the other for one that nobody booked.
    audited = audit(kept.ledger)
    assert (audited.calls, audited.unbooked, audited.unrecorded) == (1, [], [])


def test_a_call_that_was_written_anew_under_another_number_counts_once(kept):
    first = call("a wish", "sent")
    kept.ledger.mark(first)
    anew = first.model_copy(update={"number": 3, "state": "answered"})
    kept.open(anew)
    assert bounds(kept.ledger) == {"picwish": (0, 1)}
    kept.storage.clock += HOUR
    found = walk(kept.ledger)
    assert said(found.waiting, found.ended, found.open) == said([anew], [], [])
    assert kept.marked() == [first.call_id]
    assert bounds(kept.ledger) == {"picwish": (0, 1)}


def test_what_cannot_be_read_stops_no_walk_and_is_forgotten_by_none(kept):
    broken, fine = call("broken"), call("fine")
    kept.open(broken, fine)
    kept.storage.put(kept.layout.call(broken.fingerprint, 1), b"{}")
    found = walk(kept.ledger)
    assert said(found.ended, found.open, found.waiting) == said([fine], [], [])
    assert kept.marked() == sorted([broken.call_id, fine.call_id])
    assert bounds(kept.ledger) == {"picwish": (1, 1)}


# --- the books -------------------------------------------------------------------------------------


def test_a_file_is_written_once_and_never_changed(kept):
    kept.book("night-1", call(1))
    first = {uri: kept.storage.read(uri) for uri in files(kept)}
    kept.book("night-1", call(2))  # the same run, cleared
    assert len(files(kept)) == 2
    assert {uri: kept.storage.read(uri) for uri in first} == first


def test_a_call_stands_in_the_month_it_was_sent_whoever_books_it_when(kept):
    december = call(2, sent_at=call(1).sent_at + 30 * 24 * HOUR)
    kept.book("night-9", call(1), december)
    assert [uri.split("/")[-2] for uri in files(kept)] == ["2026-11", "2026-12"]
    assert [it.call_id for it in read_books(kept.ledger, "2026-12")] == [december.call_id]
    assert bounds(kept.ledger, "2026-11") == {"picwish": (1, 0)}


def test_many_calls_are_booked_some_at_a_time(kept, monkeypatch):
    monkeypatch.setattr(books, "AT_ONCE", 2)
    calls = [call(number) for number in range(1, 6)]
    kept.book("night-9", *calls)
    assert len(files(kept)) == 3
    assert sorted(it.call_id for it in read_books(kept.ledger, "2026-11")) == sorted(it.call_id for it in calls)


def test_only_ends_are_booked_without_pictures_and_links_and_what_came_in_goes_once_it_has_landed(kept):
    thumbnails = Thumbnails(before=b"before", afters=(b"after",))
    landed = call("landed", incoming=True, links=("https://secret",), thumbnails=thumbnails)
    lost, sent = call("lost", "lost", incoming=True), call("sent", "sent")
    for it in (landed, lost):
        kept.storage.put(kept.layout.incoming(it.call_id), b"the answer")
    kept.book("night-1", landed, lost, sent)
    assert states(kept) == {landed.call_id: "landed", lost.call_id: "lost"}
    assert kept.marked() == [sent.call_id]
    (line, _) = kept.storage.read(files(kept)[0]).splitlines()
    assert json.loads(line)["thumbnails"] == {"before": None, "afters": []}
    assert b"secret" not in line
    assert kept.storage.head(kept.layout.incoming(landed.call_id)) is None
    assert kept.storage.head(kept.layout.incoming(lost.call_id)) is not None


@pytest.mark.parametrize("order", list(itertools.permutations(["unknown", "landed", "landed"])))
def test_of_several_lines_the_definite_one_counts_and_once(kept, order):
    for state in order:
        kept.book("night-1", call(1, state))
    assert [it.state for it in read_books(kept.ledger)] == ["landed"]
    assert bounds(kept.ledger) == {"picwish": (1, 0)}


@pytest.mark.parametrize("at", range(1, 8))
@pytest.mark.parametrize("afterwards", [False, True])
def test_killed_anywhere_while_booking_nothing_is_forgotten_or_counted_twice(kept, at, afterwards):
    calls = [call(1), call(2, "unknown"), call(3, "lost", sent_at=call(1).sent_at + 30 * 24 * HOUR)]
    kept.open(*calls)

    def die() -> None:
        raise Killed

    kept.storage.plan(at, die, afterwards=afterwards)
    with suppress(Killed):
        book(kept.ledger, "night-1", calls)
    kept.storage.at = None
    assert bounds(kept.ledger) == {"picwish": (2, 1)}
    book(kept.ledger, "night-2", walk(kept.ledger).ended)
    assert bounds(kept.ledger) == {"picwish": (2, 1)}
    assert (kept.marked(), len(states(kept))) == ([], 3)


# --- bounds ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("at", range(1, 12))
def test_the_bounds_hold_while_another_books(at):
    """Read the other way round, a call that is just being booked would be missed."""
    kept = Kept()
    kept.open(call(1), call(2, "lost"), call(3, "unknown"), call(4, "sent"))
    kept.storage.plan(at, lambda: book(kept.ledger, "night-1", walk(kept.ledger).ended))
    paid, perhaps = bounds(kept.ledger)["picwish"]
    assert paid == 2
    assert perhaps == 2


@given(
    st.lists(
        st.tuples(
            st.sampled_from(STATES),
            st.booleans(),  # whether the vendor charged it, where the state does not tell
            st.sampled_from(["open", "booked", "both", "given up before"]),
            st.sampled_from(["picwish", "katalis"]),
            st.integers(1, 3),
        ),
        max_size=10,
    )
)
def test_the_vendors_counter_lies_between_what_is_paid_and_what_is_paid_perhaps(calls):
    kept, counter = Kept(), {"picwish": 0, "katalis": 0}
    for number, (state, charged, where, vendor, pictures) in enumerate(calls):
        it = call(number, state, vendor=vendor, pictures=pictures)
        if state in ("landed", "quarantined", "lost") or (state != "failed" and charged):
            counter[vendor] += pictures
        if where == "given up before":  # by one who found its marker without its record
            kept.book("night-1", it.model_copy(update={"state": "unknown"}))
        if where in ("booked", "both"):
            kept.book("night-1", it)
        if where != "booked" or state not in ENDS:
            kept.open(it)
    found = bounds(kept.ledger)
    for vendor, count in counter.items():
        paid, perhaps = found.get(vendor, (0, 0))
        assert paid <= count <= paid + perhaps
    book(kept.ledger, "night-2", walk(kept.ledger).ended)
    unsure = sum(pictures for state, _, _, _, pictures in calls if state in ("sent", "answered", "unknown"))
    assert sum(perhaps for _, perhaps in bounds(kept.ledger).values()) == unsure


# --- the audit -------------------------------------------------------------------------------------


def test_the_audit_finds_what_lost_its_marker_and_books_what_has_ended(kept):
    ended, sent, booked = call("ended"), call("sent", "sent"), call("booked")
    kept.record(ended, sent)
    kept.book("night-1", booked)
    assert bounds(kept.ledger) == {"picwish": (1, 0)}
    found = audit(kept.ledger)
    assert (found.calls, {it.call_id for it in found.unbooked}) == (3, {ended.call_id, sent.call_id})
    assert bounds(kept.ledger) == {"picwish": (2, 1)}
    assert kept.marked() == [sent.call_id]
    found = audit(kept.ledger)
    assert (found.unbooked, found.unrecorded) == ([], [])


def test_records_that_are_gone_are_written_anew_from_the_books_and_no_other_is_touched(kept):
    gone, replaced, there = call("gone"), call("replaced", "unknown"), call("there")
    kept.book("night-1", gone, replaced, there)
    kept.storage.delete(kept.layout.call(gone.fingerprint, 1))
    kept.record(other := replaced.model_copy(update={"call_id": "cd" * 16, "state": "landed"}))
    found = audit(kept.ledger)
    assert [it.call_id for it in found.unrecorded] == [gone.call_id]
    assert [it.call_id for it in found.unbooked] == [other.call_id]
    assert restore(kept.ledger, [*found.unrecorded, replaced]) == 1
    assert said([kept.ledger.read(gone.fingerprint, 1)]) == said([gone])
    assert kept.ledger.read(replaced.fingerprint, 1).call_id == other.call_id
    found = audit(kept.ledger)
    assert (found.unbooked, found.unrecorded) == ([], [])


# --- in a real S3 ----------------------------------------------------------------------------------


def test_in_a_real_s3_a_month_is_walked_booked_added_up_audited_and_restored(storage, s3):
    kept = Kept(storage, f"s3://{s3.bucket}/books-in-a-real-s3")
    now = storage.now()
    held = {"sent_at": now - 9 * HOUR, "answer_by": now - 8 * HOUR, "held_until": now - HOUR}
    calls = [call(n, "landed", **held) for n in range(30)]
    kept.open(*calls, call("given up", "sent", **held), call("held", "sent", **(held | {"held_until": now + HOUR})))
    assert bounds(kept.ledger) == {"picwish": (30, 2)}
    found = walk(kept.ledger)
    assert (len(found.ended), len(found.open)) == (31, 1)
    book(kept.ledger, "night-2", found.ended)
    assert kept.marked() == [call("held").call_id]
    assert [it.state for it in read_open(kept.ledger)] == ["sent"]
    assert bounds(kept.ledger) == {"picwish": (30, 2)}
    storage.delete(kept.layout.call(calls[0].fingerprint, 1))
    (gone,) = audit(kept.ledger).unrecorded
    assert restore(kept.ledger, [gone]) == 1
    restored = kept.ledger.last(calls[0].fingerprint)
    assert restored is not None
    assert said([restored]) == said([calls[0]])
    assert audit(kept.ledger).unrecorded == []
