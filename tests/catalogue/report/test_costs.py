"""What was paid, to the unit: added up from calls, so that what the report says is what the vendors' bill says."""

from __future__ import annotations

import asyncio
import hashlib
import json
import tracemalloc
from contextlib import suppress
from decimal import Decimal
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from airflow_provider_bgai.buying.books import book, bounds, walk
from airflow_provider_bgai.buying.buyer import Buyer
from airflow_provider_bgai.buying.calls import Ledger
from airflow_provider_bgai.buying.purchase import Wish
from airflow_provider_bgai.buying.record import STATES
from airflow_provider_bgai.catalogue.report.costs import (
    By,
    CostReport,
    Costs,
    CostSum,
    Line,
    catalogue_costs,
    cost_report,
    month_costs,
    run_costs,
)
from airflow_provider_bgai.exceptions import ModerationError, UnknownOutcomeError
from airflow_provider_bgai.hooks import get_hook
from airflow_provider_bgai.models import BackgroundRequest
from tests.buying.kept import ROOT, call
from tests.buying.support import NOON

PRICE = Decimal("0.07")


# --- adding up -------------------------------------------------------------------------------------


def test_every_state_has_its_line_and_only_what_is_certain_is_charged():
    total = cost_report([call(state, state, "0.10", pictures=2) for state in STATES]).total
    money = {"USD": Decimal("0.10")}
    assert total.failed == Line(calls=1, pictures=2)
    for state in set(STATES) - {"failed"}:
        assert total.line(state) == Line(calls=1, pictures=2, money=money), state
    assert (total.charged, total.paid) == (6, {"USD": Decimal("0.30")})
    assert total.perhaps == Line(calls=3, pictures=6, money={"USD": Decimal("0.30")})


def test_an_unknown_price_is_never_nought_and_currencies_are_not_mixed():
    report = cost_report(
        [
            call(1, price=None, pictures=2),
            call(2),
            call(3, "lost", currency="EUR"),
            call(4, "unknown", None),
            call(5, "failed", None),
        ]
    )
    total = report.total
    assert (total.charged, total.unpriced, total.paid) == (4, 2, {"USD": PRICE, "EUR": PRICE})
    assert total.perhaps == Line(calls=1, pictures=1, unpriced=1)
    assert total.failed.unpriced == 0
    assert "0.07 EUR + 0.07 USD + 2 of unknown price" in report.as_text()


def test_money_is_exact():
    assert cost_report(call(n, price="0.1") for n in range(3)).total.paid == {"USD": Decimal("0.3")}


STATE = st.sampled_from(STATES)
CALLS = st.dictionaries(
    st.integers(0, 30),
    st.tuples(STATE, st.sampled_from(["picwish", "katalis"]), st.sampled_from(["", "mugs"]), st.integers(1, 4)),
    max_size=12,
)


@given(CALLS, st.randoms(use_true_random=False))
def test_a_call_counts_once_in_any_order_and_the_definite_line_before_perhaps(calls, random):
    """Of one call there may be several lines: what it was when somebody gave it up, and what it came to."""
    lines = []
    for name, (state, vendor, category, pictures) in calls.items():
        known = {"vendor": vendor, "category": category, "pictures": pictures}
        earlier = {"sent": [], "answered": ["sent"], "unknown": ["sent"]}.get(state, ["sent", "answered", "unknown"])
        lines += [call(name, it, **known) for it in (state, state, *earlier)]
    random.shuffle(lines)
    report = cost_report(lines, by=("vendor", "category", "run", "month"))
    states = [state for state, _, _, _ in calls.values()]
    for state in STATES:
        assert report.total.line(state).calls == states.count(state)
    for groups in (report.by_vendor, report.by_category, report.by_run, report.by_month):
        for state in STATES:
            whole = Line()
            for costs in groups.values():
                whole.add(costs.line(state))
            assert whole == report.total.line(state)
    assert CostReport.model_validate_json(report.model_dump_json()) == report


def test_groups_are_those_that_were_asked_for():
    calls = [call(1), call(2, run="night-2", sent_at=NOON + 30 * 86400), call(3, category="", vendor="katalis")]
    report = cost_report(calls, by=("run", "month", "category"))
    assert report.by_vendor == {}
    assert {name: costs.charged for name, costs in report.by_run.items()} == {"night-1": 2, "night-2": 1}
    assert {name: costs.charged for name, costs in report.by_month.items()} == {"2026-11": 2, "2026-12": 1}
    assert {name: costs.charged for name, costs in report.by_category.items()} == {"mugs": 2, "": 1}


def test_the_text_is_an_aligned_table():
    calls = [call(1), call(2, vendor="katalis", category="lamps"), call(3, "unknown"), call(4, "failed")]
    assert cost_report(calls).as_text().splitlines() == [
        "                landed  quarantined  lost      paid  perhaps   at most  not charged",
        "vendor katalis       1            0     0  0.07 USD        0         0            0",
        "vendor picwish       1            0     0  0.07 USD        1  0.07 USD            1",
        "category lamps       1            0     0  0.07 USD        0         0            0",
        "category mugs        1            0     0  0.07 USD        1  0.07 USD            1",
        "all                  2            0     0  0.14 USD        1  0.07 USD            1",
    ]


def test_a_category_cannot_forge_log_lines():
    text = cost_report([call(1, category="mugs\n[INFO] all is well\x1b[2J"), call(2, category="x" * 500)]).as_text()
    assert len(text.splitlines()) == 5
    assert "\x1b" not in text
    assert max(map(len, text.splitlines())) < 200


def test_for_xcom_it_is_small_json_with_exact_money():
    told = json.loads(json.dumps(cost_report([call(1, price="0.10")], by=()).as_json()))
    line = {"calls": 1, "pictures": 1, "money": {"USD": "0.10"}}
    assert told == {"total": {"landed": line, "charged": 1, "paid": {"USD": "0.10"}, "unpriced": 0, "perhaps": {}}}


# --- from books and what is open -------------------------------------------------------------------


def test_a_month_is_what_was_sent_in_it_booked_or_not(kept):
    kept.book("night-1", call(1), call(2, "lost"))
    kept.book("night-2", call(3, sent_at=NOON + 30 * 86400))
    kept.open(call(4, "sent"), call(5, "landed"), call(6, "sent", sent_at=NOON + 30 * 86400))
    november = month_costs(kept.ledger, "2026-11", by=["run"])
    assert (november.total.charged, november.total.perhaps.pictures) == (3, 1)
    assert november.by_run["night-1"] == november.total
    assert month_costs(kept.ledger).total.charged == 4
    # Killed between the books and the marker: it stands in both.
    kept.open(call(1), call(2, "answered"))
    assert month_costs(kept.ledger, "2026-11", by=["run"]) == november
    assert catalogue_costs(kept.storage, ROOT, "2026-11").total == november.total


def test_a_run_pays_for_what_it_sent_whoever_settles_it(kept):
    kept.book("night-1", call(1), call(2, "failed"))
    kept.open(call(3, "sent"), call(4, "answered"))
    kept.storage.clock += 86400
    since = kept.storage.clock
    own, settled = run_costs(kept.ledger, "night-1", NOON)
    assert (own.total.charged, own.total.perhaps.pictures, settled) == (1, 2, CostReport())
    # The next night ends one, and sends one of its own.
    kept.book("night-2", call(3, "unknown"), call(5, run="night-2"))
    assert run_costs(kept.ledger, "night-1", NOON)[0].total.unknown.pictures == 1
    own, settled = run_costs(kept.ledger, "night-2", since)
    assert (own.total.charged, own.total.perhaps) == (1, Line())
    assert (settled.total.unknown.pictures, list(settled.by_run)) == (1, ["night-1"])


def test_the_earlier_tries_of_a_cleared_run_count_and_a_run_of_a_like_name_does_not(kept):
    kept.book("night-1", call(1))
    kept.book("night-1-b", call(2, run="night-0"))
    kept.storage.clock += 7 * 86400
    kept.book("night-1", call(3, "lost"), call(4, run="night-0"))
    own, settled = run_costs(kept.ledger, "night-1", kept.storage.clock)
    assert (own.total.charged, settled.total.charged) == (2, 1)


def test_sums_so_far_count_what_is_under_way_and_forget_it_again():
    by: list[By] = ["vendor"]
    sums = CostSum(by)
    for it in (call(1), call(2, "unknown")):
        sums.add(it)
    assert [call(n).call_id in sums for n in (1, 2, 3)] == [True, True, False]
    under_way = [call(1, "answered"), call(2, "sent"), call(3, "answered", pictures=2)]  # what is known counts
    assert sums.so_far(under_way) == cost_report([call(1), call(2, "unknown"), under_way[2]], by)
    sums.add(call(3, "lost", pictures=2))
    ended = cost_report([call(1), call(2, "unknown"), call(3, "lost", pictures=2)], by)
    assert sums.so_far([]) == ended
    assert sums.close() == ended


def test_adding_up_takes_no_memory_for_what_a_call_looks_like():
    def calls(count: int) -> Any:
        return (call(n, error="x" * 5000) for n in range(count))

    peaks = []
    for count in (500, 5000):
        tracemalloc.start()
        cost_report(calls(count))
        peaks.append(tracemalloc.get_traced_memory()[1])
        tracemalloc.stop()
    assert peaks[1] - peaks[0] < 4500 * 250


# --- the report and the bill -----------------------------------------------------------------------


@pytest.fixture
def root(s3, request) -> str:
    return f"s3://{s3.bucket}/report-{hashlib.sha256(request.node.nodeid.encode()).hexdigest()[:12]}"


async def buy(storage, root: str, picture: bytes, *prompts: str, vendor: str = "picwish", count: int = 1) -> None:
    """Buy pictures one after the other, whatever comes of it, and book what has ended."""
    hook = await asyncio.to_thread(get_hook, f"{vendor}_default")
    buyer = Buyer([hook], Ledger(storage, root), run="night-1", owner="night-1/0000")
    for prompt in prompts:
        with suppress(UnknownOutcomeError, ModerationError):
            purchase = await buyer.open(Wish(BackgroundRequest(picture, prompt, count=count)))
            found = await buyer.begin(purchase)
            if found.state == "answered":
                await buyer.collect(found, timeout=20, source=picture)
    await asyncio.to_thread(book, buyer.ledger, "night-1", buyer.ended.values())
    await buyer.aclose()


@pytest.fixture
def priced(connect):
    connect("picwish", extra={"price_per_image": 0.07, "timeout": 5})
    connect("photoroom", extra={"price_per_image": 0.1, "timeout": 5})


async def test_the_report_agrees_with_the_bill(storage, root, box, product, priced):
    box.fault("picwish", "drop_after_charge", on="submit")
    await buy(storage, root, product, "held and charged")
    await buy(storage, root, product, "bought", "another")
    await buy(storage, root, product, "two", count=2)
    box.fault("picwish", "moderation", on="submit")
    await buy(storage, root, product, "refused by the vendor")
    await buy(storage, root, product, "from another", vendor="photoroom")
    ledger = Ledger(storage, root)
    report = await asyncio.to_thread(month_costs, ledger)
    assert report.total.charged + report.total.perhaps.pictures == box.images_charged() == 6
    assert report.total.paid == {"USD": Decimal("0.38")}
    assert report.total.perhaps.money == {"USD": Decimal("0.07")}
    for vendor, (paid, perhaps) in (await asyncio.to_thread(bounds, ledger)).items():
        costs = report.by_vendor[vendor]
        assert (costs.charged, costs.perhaps.pictures) == (paid, perhaps)
        assert paid <= box.images_charged(vendor) <= paid + perhaps
    own, settled = await asyncio.to_thread(run_costs, ledger, "night-1", storage.now())
    assert (own.total, settled.total) == (report.total, Costs())
    assert {it.state for it in (await asyncio.to_thread(walk, ledger)).open} == {"sent"}


async def test_a_connection_without_a_price_leaves_all_sums_open(storage, root, box, product, connect):
    connect("picwish", extra={"price_per_image": None})
    await buy(storage, root, product, "a", "b")
    total = (await asyncio.to_thread(month_costs, Ledger(storage, root))).total
    assert (total.charged, total.unpriced, total.paid) == (2, box.images_charged(), {})
