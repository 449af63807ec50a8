"""What earlier runs left behind decides what is wanted; and what somebody deleted is not simply bought again."""

from __future__ import annotations

import itertools
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from decimal import Decimal
from typing import Any

import pytest

from airflow_provider_bgai.buying.books import audit, restore
from airflow_provider_bgai.buying.decision import Asks, OnUnknownOutcome, decide
from airflow_provider_bgai.buying.decisions import Note
from airflow_provider_bgai.catalogue.planning import tried
from airflow_provider_bgai.exceptions import InvalidRequestError
from airflow_provider_bgai.storage import Storage
from tests.catalogue.nights import by_sku, photo

# --- what earlier calls say


def histories():
    """Every kind of last call: by a name, the fields of its record, and what lies beside it."""
    soon, past = 3600.0, -3600.0
    for answer_by, held, decided, delivered in itertools.product(
        (soon, past), (None, soon, past), (None, "release", "keep", "buy"), (False, True)
    ):
        name = f"sent-{answer_by}-{held}-{decided}-{delivered}"
        yield name, {"state": "sent", "answer_by": answer_by, "held_until": held}, decided, delivered
    yield "answered", {"state": "answered", "task_id": "t"}, None, False
    for state, before, decided in itertools.product(
        ("failed", "unknown", "lost", "quarantined"), (0, 1, 2, 3), (None, "buy")
    ):
        yield f"{state}-{before}-{decided}", {"state": state, "before": before, "number": before + 1}, decided, False
    for there in (True, False):
        yield f"landed-{there}", {"state": "landed"}, None, there


@pytest.fixture
def with_histories(catalogue):
    """A catalogue with a product for every kind of last call, whose photos the plan knows."""
    kinds = list(histories())
    for name, *_ in kinds:
        catalogue.add(name, name.encode())
    catalogue.add("never-tried", b"n")
    catalogue.add("unreadable", b"u")
    catalogue.remember()
    wanted = by_sku(catalogue, catalogue.plan())
    storage, layout, now = catalogue.storage, catalogue.layout, catalogue.storage.now()

    def happened(kind):
        name, fields, decided, beside = kind
        times = {key: now + fields[key] for key in ("answer_by", "held_until") if fields.get(key) is not None}
        call, _ = catalogue.call(wanted[name], **(fields | times))
        if decided:
            note = Note(what=decided, call_id=call.call_id, at=now)
            storage.put(layout.decision(call.fingerprint, call.number), note.model_dump_json().encode())
        if call.state == "sent" and beside:
            storage.put(layout.incoming(call.call_id), b"1")
        if call.state == "landed" and not beside:
            storage.delete(layout.absolute(call.images[0].uri))

    with ThreadPoolExecutor(8) as pool:
        list(pool.map(happened, kinds))
    storage.put(layout.call(wanted["unreadable"].fingerprint, 1), b"{")
    return catalogue


def test_the_plan_does_what_the_one_decision_says_of_every_kind_of_last_call(with_histories, monkeypatch):
    """The decision is ``decision.decide``, which a shard asks as well: there is no copy of it."""
    catalogue, asked = with_histories, []
    assert tried.decide is decide

    def spy(last, asks, now):
        asked.append((asks, decision := decide(last, asks, now)))
        return decision

    monkeypatch.setattr(tried, "decide", spy)
    ways = {"buy": "failed", "collect": "collect", "take": "collect", "wait": "collect"}
    runs: list[tuple[str, OnUnknownOutcome]]
    runs = [("changed", "hold"), ("changed", "resubmit"), ("changed", "fail"), ("failed", "hold")]
    for only, policy in runs:
        asked.clear()
        plan = catalogue.plan(only=only, on_unknown_outcome=policy)
        # All but those with nothing to ask about: never tried, or landed as their names say.
        assert len(asked) == len(catalogue.rows) - 2
        assert {asks for asks, _ in asked} == {Asks(policy, again=only == "failed")}
        expected = Counter(ways.get(decision.action, decision.action) for _, decision in asked)
        counts = Counter(plan.counts)
        assert (counts["failed_before"], plan.collect) == (
            expected["failed"] + expected["collect"],
            expected["collect"],
        )
        assert counts["held"] == expected["held"] > 0
        assert counts["quarantined"] + counts["given_up"] == expected["refuse"]
        assert (counts["quarantined"] > 0) == (counts["given_up"] > 0) == (only != "failed")
        said = catalogue.said(plan)
        assert (said.get("never-tried"), said.get("landed-True"), said["landed-False"]) == (
            "new" if only == "changed" else None,
            "unchanged",
            "failed_before",
        )


def test_what_is_left_out_says_why_and_what_a_person_may_do(with_histories):
    plan = with_histories.plan()
    told = with_histories.planned(plan)
    held, kept = told["sent--3600.0-3600.0-None-False"], told["sent--3600.0--3600.0-keep-False"]
    quarantined, given_up = told["quarantined-0-None"], told["lost-2-None"]
    assert (held.outcome, held.reason) == (kept.outcome, kept.reason) == ("held", "unknown")
    assert "was not answered, and may or may not have been charged" in held.error
    assert f"bgai-ledger release {with_histories.root} {held.fingerprint}" in held.error
    assert (quarantined.outcome, quarantined.reason) == ("quarantined", "quarantined")
    assert f"bgai-ledger buy {with_histories.root} {quarantined.fingerprint}" in quarantined.error
    assert (given_up.outcome, given_up.reason) == ("failed", "given_up")
    assert "paid in vain or in doubt 3 times" in given_up.error
    assert "cannot be read, which is no licence to buy" in told["unreadable"].error
    # What is paid for is collected: it costs nothing, and no limit or budget keeps it waiting.
    broke = with_histories.plan(limit=0, budget_left=lambda: (0, Decimal(0)))
    assert len(with_histories.wanted(broke)) == broke.collect == plan.collect > 0
    assert broke.calls == 0
    asked_for = with_histories.plan(only=["quarantined-0-None", "lost-2-None", "unreadable"])
    assert asked_for.counts == {"failed_before": 2, "held": 1, "not_selected": len(with_histories.rows) - 3}
    assert all(it.again for it in with_histories.wanted(asked_for))


# --- what is gone


@pytest.fixture
def forty(catalogue):
    """Forty products that were bought and published, and are unchanged."""
    for number in range(40):
        catalogue.add(f"p{number:02}", b"%d" % number)
    calls = catalogue.land(catalogue.plan())
    assert catalogue.plan().counts == {"unchanged": 40}
    return catalogue, list(calls.values())


def test_one_or_two_pictures_that_somebody_deleted_are_bought_again(three):
    calls = three.land(three.plan())
    for sku in "ab":
        three.storage.delete(three.layout.absolute(calls[sku].images[0].uri))
    plan = three.plan()
    assert (plan.counts, plan.calls) == ({"unchanged": 1, "failed_before": 2}, 2)


@pytest.mark.parametrize("records_too", [False, True])
def test_pictures_that_are_gone_in_masses_are_not_bought_again(forty, records_too):
    catalogue, calls = forty
    gone = [catalogue.layout.absolute(call.images[0].uri) for call in calls[:3]]
    if records_too:
        gone += [catalogue.layout.call(call.fingerprint, call.number) for call in calls[:3]]
    catalogue.storage.delete_all(gone)
    with pytest.raises(InvalidRequestError, match=r"3 of 40 published pictures are gone .*lifecycle rule.*only="):
        catalogue.plan()
    named = catalogue.plan(only=["p00", "p01", "p02"])
    assert (named.calls, named.counts["not_selected"]) == (3, 37)


def test_a_record_that_is_gone_while_its_picture_is_there_is_restored_and_nothing_bought(catalogue):
    for sku in "ab":
        catalogue.add(sku, photo(sku))
    catalogue.night()
    call = catalogue.records()[0]
    catalogue.storage.delete(catalogue.layout.call(call.fingerprint, call.number))
    with pytest.raises(InvalidRequestError, match=f"no record in .*bgai-ledger restore {catalogue.root}"):
        catalogue.plan()
    assert restore(catalogue.ledger, audit(catalogue.ledger).unrecorded) == 1
    plan, _ = catalogue.night()
    assert (plan.counts, catalogue.box.bill()["picwish"]) == ({"unchanged": 2}, 2)


def test_a_picture_that_another_run_lands_while_the_plan_lists_is_no_lost_record(three, monkeypatch):
    three.remember()
    wanted, real = three.wanted(three.plan()), Storage.list_uris
    landed: list[Any] = []

    def listing(self, prefix):
        yield from real(self, prefix)
        if prefix.endswith(f"/calls/{landed_name[0]}") and not landed:
            landed.append(three.call(wanted[0], state="landed"))

    landed_name = wanted[0].fingerprint
    monkeypatch.setattr(Storage, "list_uris", listing)
    plan = three.plan()
    assert (len(landed), plan.counts) == (1, {"new": 3})
