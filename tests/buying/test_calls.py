"""The ledger's writes, one at a time: whose they are, what a kill leaves behind, and that no answer is ever dropped."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest

from airflow_provider_bgai import storage as storage_module
from airflow_provider_bgai.buying import calls as calls_module
from airflow_provider_bgai.buying.calls import Ledger, LostRaceError, RecordGoneError, read_marker
from airflow_provider_bgai.buying.record import ENDS, NEXT, PAID, STATES, Call
from airflow_provider_bgai.exceptions import StoreError
from airflow_provider_bgai.layout import call_of, marker_of
from tests.buying.support import Killed, MemoryStorage, new_call, s3_fails

ANSWER = {"task_id": "task-1"}
STEPS: dict[str, Callable[[Ledger, Call], Call]] = {
    "open": lambda ledger, call: ledger.open(call),
    "answered": lambda ledger, call: ledger.answered(call, **ANSWER),
    "landed": lambda ledger, call: ledger.end(call, "landed"),
}


@pytest.fixture(autouse=True)
def in_a_hurry(monkeypatch) -> None:
    """What is insisted on is tried for some seconds only."""
    monkeypatch.setattr(storage_module, "PATIENCE", 5)


@pytest.fixture
def memory() -> MemoryStorage:
    return MemoryStorage()


@pytest.fixture
def ledger(memory) -> Ledger:
    return Ledger(memory, "s3://shop/catalogue")


def records(ledger: Ledger) -> dict[int, Call]:
    """What stands in ``calls/``, by number."""
    found = {}
    for item in ledger.storage.list(ledger.layout.calls()):
        name = call_of(item.uri)
        assert name is not None
        record = ledger.read(*name)
        assert record is not None
        found[name[1]] = record
    return found


def markers(ledger: Ledger) -> list[tuple[int, str]]:
    found = []
    for item in ledger.storage.list(ledger.layout.open):
        marker = marker_of(item.uri)
        assert marker is not None
        found.append((marker.number, marker.call_id))
    return found


def put(ledger: Ledger, call: Call) -> Call:
    ledger.storage.put(ledger.layout.call(call.fingerprint, call.number), call.body())
    record = ledger.read(call.fingerprint, call.number)
    assert record is not None
    return record


def deleted(ledger: Ledger, call: Call) -> None:
    ledger.storage.delete(ledger.layout.call(call.fingerprint, call.number))


def at_the_step(ledger: Ledger, step: str) -> Call:
    """A call that is about to take a step."""
    call = new_call()
    for name in itertools.takewhile(lambda name: name != step, STEPS):
        call = STEPS[name](ledger, call)
    return call


# --- states ------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("before", "after"), [(one, two) for one in STATES for two in STATES])
def test_a_call_moves_on_as_the_table_says_and_in_no_other_way(ledger, before, after):
    call = put(ledger, new_call(state=before))
    if after in NEXT.get(before, ()):
        assert ledger.move(call, after).state == after
        assert ledger.read(call.fingerprint, 1).state == after
    else:
        with pytest.raises(ValueError, match=f"{before} -> {after} is not allowed"):
            ledger.move(call, after)
        assert ledger.read(call.fingerprint, 1) == call


def test_an_end_is_an_end():
    assert not ENDS & set(NEXT)
    assert NEXT["sent"] - ENDS == {"answered"}
    assert not NEXT["sent"] & PAID


def test_an_unreadable_record_is_neither_missing_nor_anybodys(ledger):
    call = new_call()
    uri = ledger.layout.call(call.fingerprint, 1)
    for content in (b"", b"{}", b"no json", b'{"state": "paid"}'):
        ledger.storage.put(uri, content)
        with pytest.raises(ValueError, match="is no record of a call"):
            ledger.last(call.fingerprint)
        with pytest.raises(LostRaceError):
            ledger.open(call)
        assert ledger.storage.read(uri) == content


# --- one's own writes ----------------------------------------------------------------------------------


class Repeating(MemoryStorage):
    """A client that repeats each conditional write, as boto3 does when it is the answer that was lost."""

    def create(self, uri: str, body: bytes, **_: Any) -> str | None:
        super().create(uri, body)
        return super().create(uri, body)

    def replace(self, uri: str, body: bytes, etag: str, **_: Any) -> str | None:
        super().replace(uri, body, etag)
        return super().replace(uri, body, etag)


def test_a_write_whose_answer_is_lost_is_known_again_when_it_is_repeated():
    ledger = Ledger(Repeating(), "s3://shop/catalogue")
    call = ledger.end(ledger.answered(ledger.open(new_call()), **ANSWER), "landed")
    assert records(ledger) == {1: call}
    assert (call.state, call.task_id) == ("landed", "task-1")


@pytest.mark.parametrize("afterwards", [False, True], ids=["not stored", "stored, answer lost"])
@pytest.mark.parametrize("step", ["answered", "landed"])
def test_what_was_paid_for_is_written_once_though_s3_fails(ledger, memory, step, afterwards):
    call = at_the_step(ledger, step)
    memory.plan(1, s3_fails, afterwards=afterwards)
    done = STEPS[step](ledger, call)
    assert (done.state, done.task_id) == (step, "task-1")
    assert records(ledger) == {1: done}


@pytest.mark.parametrize("afterwards", [False, True], ids=["not stored", "stored, answer lost"])
@pytest.mark.parametrize("at", range(1, 6))
@pytest.mark.parametrize("step", ["answered", "landed"])
def test_it_is_written_anew_once_too_whichever_request_fails(ledger, memory, step, at, afterwards):
    call = at_the_step(ledger, step)
    deleted(ledger, call)
    memory.plan(at, s3_fails, afterwards=afterwards)
    done = STEPS[step](ledger, call)
    memory.at = None
    assert (done.state, done.task_id, done.number) == (step, "task-1", 2)
    assert records(ledger) == {2: done}
    assert markers(ledger) == [(1, call.call_id), (2, call.call_id)]


def test_a_store_that_stays_away_fails_the_task_with_what_is_known_and_the_call_stays(ledger, memory, monkeypatch):
    monkeypatch.setattr(storage_module, "PATIENCE", 0.5)
    call = ledger.open(new_call(price="0.05"))
    memory.replace = lambda *_, **__: s3_fails()
    with pytest.raises(StoreError, match=f"task task-1, call {call.call_id} .0.05 USD") as refused:
        ledger.answered(call, **ANSWER)
    assert refused.value.paid == "yes"
    assert records(ledger) == {1: call}


class EtagOfEachAnswer(MemoryStorage):
    """Each answer has an ETag never seen before; only the one that was read last holds."""

    reads = itertools.count()
    held = ""

    def read_versioned(self, uri: str) -> tuple[bytes, str]:
        body, _ = super().read_versioned(uri)
        self.held = f"etag-{next(self.reads)}"
        return body, self.held

    def replace(self, uri: str, body: bytes, etag: str, **_: Any) -> str | None:
        held, self.held = self.held, ""
        return super().replace(uri, body, self._etag(uri) if etag == held and uri in self.objects else "")


def test_a_store_that_gives_a_new_etag_with_each_answer_is_written_to():
    ledger = Ledger(EtagOfEachAnswer(), "s3://shop/catalogue")
    call = ledger.end(ledger.answered(ledger.open(new_call()), **ANSWER), "landed")
    assert records(ledger)[1].body() == call.body()
    assert call.state == "landed"


def test_an_if_match_that_never_holds_is_given_up_in_words_after_pauses(ledger, memory, monkeypatch):
    monkeypatch.setattr(storage_module, "PATIENCE", 3)
    call, asked = ledger.open(new_call()), memory.calls
    memory.replace = lambda *_, **__: memory._call(lambda: None)
    with pytest.raises(StoreError, match="If-Match"):
        ledger.answered(call, **ANSWER)
    assert records(ledger) == {1: call}
    assert memory.calls - asked < 40, "without a pause"


# --- killed --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("afterwards", [False, True], ids=["before", "after"])
@pytest.mark.parametrize("at", [1, 2])
def test_a_kill_while_a_call_is_opened_leaves_nothing_or_a_marker_and_never_a_record_alone(
    ledger, memory, at, afterwards
):
    call = new_call()
    memory.plan(at, memory.kill, afterwards=afterwards)
    with pytest.raises(Killed):
        ledger.open(call)
    memory.dead = False
    assert markers(ledger) == ([(1, call.call_id)] if (at, afterwards) != (1, False) else [])
    assert list(records(ledger)) == ([1] if (at, afterwards) == (2, True) else [])


@pytest.mark.parametrize("afterwards", [False, True], ids=["before", "after"])
@pytest.mark.parametrize("at", range(1, 6))
@pytest.mark.parametrize("step", ["answered", "landed"])
def test_a_kill_while_it_is_written_anew_leaves_no_record_without_its_marker(ledger, memory, step, at, afterwards):
    call = at_the_step(ledger, step)
    deleted(ledger, call)
    memory.plan(at, memory.kill, afterwards=afterwards)
    try:
        STEPS[step](ledger, call)
    except Killed:
        memory.dead = False
    assert {(number, record.call_id) for number, record in records(ledger).items()} <= set(markers(ledger))


# --- races -----------------------------------------------------------------------------------------------


def test_of_many_who_want_one_number_one_has_it_and_the_others_leave_nothing_behind(storage, s3):
    ledger, wanted = Ledger(storage, f"s3://{s3.bucket}/race"), [new_call() for _ in range(24)]
    with ThreadPoolExecutor(12) as pool:
        tries = [pool.submit(ledger.open, call) for call in wanted]
    (won,) = [its.result() for its in tries if its.exception() is None]
    lost = [its.exception() for its in tries if its.exception() is not None]
    assert all(isinstance(error, LostRaceError) and error.another for error in lost)
    assert markers(ledger) == [(1, won.call_id)]
    assert records(ledger) == {1: won}


def test_of_many_who_end_one_call_all_are_told_the_end_that_stands(storage, s3):
    ledger = Ledger(storage, f"s3://{s3.bucket}/ends")
    call = ledger.answered(ledger.open(new_call()), **ANSWER)
    with ThreadPoolExecutor(12) as pool:
        ended = list(pool.map(lambda n: ledger.end(call, ("landed", "lost")[n % 2], error=str(n)), range(24)))
    assert {it.state for it in ended} == {records(ledger)[1].state}
    assert {it.error for it in ended} == {records(ledger)[1].error}


def test_who_finds_its_own_call_ended_sends_nothing_and_its_marker_waits_for_the_books(ledger):
    """A walker took the marker for forgotten, because this process was stopped before its record was written."""
    call = new_call()
    adopted = ledger.adopt(call, "unknown")
    with pytest.raises(LostRaceError) as lost:
        ledger.open(call)
    assert not lost.value.another
    assert markers(ledger) == [(1, call.call_id)]
    assert records(ledger) == {1: adopted}


def test_a_marker_whose_record_is_there_is_not_adopted(ledger):
    call = ledger.open(new_call())
    assert ledger.adopt(call, "unknown") is None
    assert records(ledger) == {1: call}


# --- an answer in hand ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("step", ["answered", "landed"])
@pytest.mark.parametrize("by", ["nothing", "another call", "garbage", "another call, and more of them"])
def test_an_answer_whose_record_is_gone_is_written_anew_above_all_others_with_a_marker_of_its_own(ledger, step, by):
    call = at_the_step(ledger, step)
    uri = ledger.layout.call(call.fingerprint, 1)
    deleted(ledger, call)
    if by == "garbage":
        ledger.storage.put(uri, b"garbage")
    others = {"another call": [1], "another call, and more of them": [1, 2, 3]}.get(by, [])
    before = {number: put(ledger, new_call(number=number, state="answered")) for number in others}

    done = STEPS[step](ledger, call)

    above = max(others, default=1) + 1
    assert (done.call_id, done.state, done.task_id, done.number) == (call.call_id, step, "task-1", above)
    assert (above, call.call_id) in markers(ledger)
    if by == "garbage":
        assert ledger.storage.read(uri) == b"garbage"
    else:
        assert records(ledger) == {**before, above: done}


def test_an_answer_that_two_find_is_written_anew_once(ledger):
    """Its sender, and who found the bytes, both without the record."""
    call = ledger.open(new_call())
    deleted(ledger, call)
    found = ledger.answered(call, incoming=True)
    assert ledger.answered(call, incoming=True) == found
    assert ledger.end(call.model_copy(update={"state": "answered"}), "landed").state == "landed"
    assert ledger.end(call.model_copy(update={"state": "answered"}), "lost").state == "landed"
    assert list(records(ledger)) == [2]


@pytest.mark.parametrize("moment", range(1, 10))
def test_an_answer_is_not_dropped_though_records_are_deleted_again_and_again(ledger, memory, moment):
    call = ledger.open(new_call())
    deleted(ledger, call)
    memory.plan(moment, lambda: [memory.objects.pop(uri) for uri in [*memory.objects] if "/calls/" in uri])
    done = ledger.end(ledger.answered(call, **ANSWER), "landed")
    memory.at = None
    assert (done.state, done.task_id) == ("landed", "task-1")
    assert records(ledger) == {done.number: done}


def test_an_answer_that_comes_after_its_call_was_given_up_is_logged_and_changes_nothing(ledger, caplog):
    call = ledger.open(new_call())
    given_up = ledger.end(call, "unknown")
    found = ledger.answered(call, **ANSWER)
    assert found == given_up
    assert records(ledger) == {1: given_up}
    assert call.call_id in caplog.text
    assert "after it was given up" in caplog.text


@pytest.mark.parametrize("state", ["answered", "landed", "quarantined", "lost", "failed"])
def test_an_answer_that_somebody_has_written_and_collected_already_is_left_as_it_stands(ledger, state, caplog):
    call = ledger.open(new_call())
    there = ledger.answered(call, incoming=True)
    there = there if state == "answered" else ledger.end(there, state)
    assert ledger.answered(call, **ANSWER) == there
    assert records(ledger) == {1: there}
    assert "given up" not in caplog.text


def test_who_gives_up_a_call_that_is_answered_meanwhile_learns_so(ledger):
    call = ledger.open(new_call())
    answered = ledger.answered(call, **ANSWER)
    assert ledger.end(call, "unknown") == answered
    assert records(ledger) == {1: answered}


@pytest.mark.parametrize("state", ["failed", "unknown"])
def test_what_cost_nothing_or_perhaps_needs_no_record_that_is_gone(ledger, state):
    call = ledger.open(new_call())
    deleted(ledger, call)
    assert ledger.end(call, state).state == state
    assert records(ledger) == {}


def test_who_moves_a_record_that_is_gone_or_went_another_way_is_told(ledger):
    call = ledger.open(new_call())
    ledger.end(call, "unknown")
    with pytest.raises(LostRaceError, match="is unknown, not sent any more"):
        ledger.move(call, "answered")
    deleted(ledger, call)
    with pytest.raises(RecordGoneError):
        ledger.move(call, "answered")


# --- never sent ------------------------------------------------------------------------------------------------


def test_a_call_that_was_never_sent_is_taken_back_and_its_number_is_used(ledger):
    call = ledger.open(new_call())
    assert ledger.withdraw(call) == "failed"
    assert (records(ledger)[1].state, records(ledger)[1].reason) == ("failed", "never_sent")
    assert ledger.withdraw(call) == "failed"


@pytest.mark.parametrize("another", [False, True])
def test_a_call_without_a_record_is_taken_back_with_its_marker_and_leaves_its_number_to_others(ledger, another):
    call = new_call()
    ledger.mark(call)
    there = {1: put(ledger, new_call())} if another else {}
    assert ledger.withdraw(call) is None
    assert (markers(ledger), records(ledger)) == ([], there)


@pytest.mark.parametrize("state", ["unknown", "landed"])
def test_a_call_that_somebody_has_ended_is_not_taken_back(ledger, state):
    call = ledger.open(new_call())
    there = put(ledger, call.model_copy(update={"state": state}))
    assert ledger.withdraw(call) == "sent"
    assert records(ledger) == {1: there}
    assert markers(ledger) == [(1, call.call_id)]


@pytest.mark.parametrize("at", [1, 2])
def test_where_s3_takes_nothing_a_call_that_was_never_sent_stays_and_no_leave_is_given_back(
    ledger, memory, monkeypatch, at
):
    monkeypatch.setattr(calls_module, "UNPAID_PATIENCE", 0.0)
    call = ledger.open(new_call())
    memory.plan(at, s3_fails)
    assert ledger.withdraw(call) == "sent"
    assert records(ledger) == {1: call}


@pytest.mark.parametrize("at", [1, 2])
def test_where_s3_fails_for_a_moment_a_call_that_was_never_sent_is_taken_back_all_the_same(ledger, memory, at):
    call = ledger.open(new_call())
    memory.plan(at, s3_fails)
    assert ledger.withdraw(call) == "failed"
    assert records(ledger)[1].state == "failed"


# --- what a record holds -----------------------------------------------------------------------------------------


def test_a_marker_names_its_call_and_holds_it_without_links(ledger):
    call = ledger.open(new_call(links=["https://vendor.example/secret"]))
    uri = ledger.layout.marker(call.fingerprint, 1, call.call_id)
    marker = read_marker(ledger.storage, uri)
    assert marker is not None
    assert marker.body() == call.for_books().body()
    assert b"secret" not in ledger.storage.read(uri)
    assert "secret" not in repr(call)
    assert read_marker(ledger.storage, uri + "0") is None


def test_the_calls_of_a_wish_are_found_in_order_by_its_name_alone(ledger):
    stored = [put(ledger, new_call(number=number, state="failed")) for number in (1, 2, 10, 1000)]
    put(ledger, new_call("b"))
    assert ledger.all(stored[0].fingerprint) == stored
    assert ledger.last(stored[0].fingerprint) == stored[-1]
    assert ledger.last(new_call("c").fingerprint) is None
