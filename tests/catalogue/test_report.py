"""What a run cost, to the unit: what the report says is what the vendors' bill says."""

from __future__ import annotations

import asyncio
import hashlib
from decimal import Decimal

import pytest

from airflow_provider_bgai.catalogue.ledger import Claim, Landed, Ledger, Output, Wasted
from airflow_provider_bgai.catalogue.purchase import Buyer, Wish
from airflow_provider_bgai.catalogue.records import Result
from airflow_provider_bgai.catalogue.report import CostReport, Line, cost_report
from airflow_provider_bgai.exceptions import BgaiError
from airflow_provider_bgai.hooks import get_hook
from airflow_provider_bgai.models import BackgroundRequest

PRICE = Decimal("0.07")
USD = {"USD": PRICE}


def result(sku: str, outcome: str = "bought", price: str | None = "0.07", pictures: int = 0, **fields) -> Result:
    images = [
        Output(uri=f"s3://b/{sku}-{n}.png", bytes=1, sha256="00", width=1, height=1, content_type="image/png")
        for n in range(pictures)
    ]
    known = {"vendor": "picwish", "category": "mugs", "fingerprint": f"fp-{sku}"}
    price = None if price is None else Decimal(price)
    return Result(sku=sku, outcome=outcome, price=price, images=images, **(known | fields))


def test_a_run_of_every_end_adds_up():
    report = cost_report(
        [
            result("a", pictures=2, price="0.14"),
            result("b"),
            result("c", "reused", "0"),
            result("d", "unchanged", "0", vendor=None),
            result("e", "refused", "0"),
            result("f", "failed", "0"),
            result("g", "lost"),
            result("h", "held", unknown=1),
            result("i", "over_budget", "0", vendor=None),
            result("j", "quarantined"),
        ]
    )
    total = report.total
    assert total.bought == Line(products=2, pictures=3, money={"USD": Decimal("0.21")})
    assert total.lost == Line(products=1, pictures=1, money=USD)
    assert total.quarantined == Line(products=1, pictures=1, money=USD)
    assert total.unknown == Line(products=1, pictures=1, money=USD)
    assert total.held == Line(products=1, pictures=1)
    for outcome in ("reused", "unchanged", "refused", "failed", "over_budget"):
        assert getattr(total, outcome) == Line(products=1, pictures=1), outcome
    assert (total.charged, total.paid) == (5, {"USD": Decimal("0.35")})


def test_what_was_paid_in_vain_counts_where_it_was_lost_and_with_whom():
    lost = Wasted(outcome="lost", vendor="picwish", conn_id="p", pictures=1, price=PRICE, currency="USD")
    blind = Wasted(outcome="quarantined", vendor="katalis", conn_id="k", pictures=2, price=None, currency="USD")
    report = cost_report(
        [result("a", vendor="gptge", wasted=(lost, blind)), result("b", "refused", "0", wasted=(lost,))]
    )
    assert report.total.lost == Line(pictures=2, money={"USD": 2 * PRICE})
    assert report.total.quarantined == Line(pictures=2, unpriced=2)
    assert (report.total.charged, report.total.paid) == (5, {"USD": 3 * PRICE})
    assert {name: tally.charged for name, tally in report.by_vendor.items()} == {"gptge": 1, "picwish": 2, "katalis": 2}
    assert report.by_category["mugs"] == report.total


def test_a_loss_that_another_run_has_paid_is_no_charge_of_this_one():
    again = result("a", "quarantined", "0").model_copy(update={"pictures": 0})
    assert cost_report([again]).total.quarantined == Line(products=1)


def test_by_vendor_and_by_category_each_add_up_to_all():
    vendors, categories = ["picwish", "katalis", None], ["mugs", "lamps", "", "mugs"]
    results = [
        result(str(n), outcome, str(n), vendor=vendors[n % 3], category=categories[n % 4], unknown=n % 2)
        for n, outcome in enumerate(["bought", "lost", "held", "failed", "reused"] * 7)
    ]
    report = cost_report(results)
    assert set(report.by_vendor) == {"picwish", "katalis", ""}
    assert set(report.by_category) == {"mugs", "lamps", ""}
    for groups in (report.by_vendor, report.by_category):
        for name in type(report.total).model_fields:
            lines = [getattr(tally, name) for tally in groups.values()]
            whole = getattr(report.total, name)
            assert sum(line.products for line in lines) == whole.products
            assert sum(line.pictures for line in lines) == whole.pictures
            assert sum(line.unpriced for line in lines) == whole.unpriced
            assert sum(line.money.get("USD", Decimal(0)) for line in lines) == whole.money.get("USD", Decimal(0))


@pytest.mark.parametrize("turned", [False, True])
def test_a_picture_of_two_skus_is_counted_and_paid_once_in_any_order(turned):
    shared = [result(sku, price, cost, fingerprint="one") for sku, price, cost in SHARED]
    total = cost_report(shared[::-1] if turned else shared).total
    assert total.bought == Line(products=2, pictures=1, money=USD)
    assert total.reused == Line(products=1, pictures=1)
    assert total.charged == 1


SHARED = [("a", "bought", "0.07"), ("b", "bought", "0"), ("c", "reused", "0")]


@pytest.mark.parametrize("turned", [False, True])
def test_an_unknown_price_of_a_shared_picture_stays_unknown_in_any_order(turned):
    shared = [result("a", price=None, fingerprint="one"), result("b", price="0", fingerprint="one")]
    assert cost_report(shared[::-1] if turned else shared).total.bought == Line(products=2, pictures=1, unpriced=1)


def test_an_unknown_price_is_never_nought():
    report = cost_report([result("a", price=None, pictures=2), result("b"), result("c", "held", None, unknown=1)])
    assert report.total.bought == Line(products=2, pictures=3, money=USD, unpriced=2)
    assert report.total.unknown == Line(products=1, pictures=1, unpriced=1)
    text = report.as_text()
    assert "0.07 USD + 2 of unknown price" in text
    assert "1 of unknown price" in text


def test_every_unanswered_call_may_have_been_charged_on_top_of_what_was_bought():
    total = cost_report([result("a", unknown=2, price="0.14", pictures=2), result("b", "failed", "0", unknown=1)]).total
    assert total.bought == Line(products=1, pictures=2, money={"USD": Decimal("0.14")})
    assert total.unknown == Line(products=2, pictures=5, money={"USD": Decimal("0.28")}, unpriced=1)


def test_currencies_are_not_mixed():
    total = cost_report([result("a"), result("b", currency="EUR"), result("c", "lost", currency="EUR")]).total
    assert total.paid == {"USD": PRICE, "EUR": 2 * PRICE}


def test_money_is_exact():
    assert cost_report(result(str(n), price="0.1") for n in range(3)).total.bought.money == {"USD": Decimal("0.3")}


def test_nothing_done_costs_nothing():
    assert cost_report([]).total.paid == {}
    assert cost_report([]).as_text().splitlines()[1].split() == ["all", *["0"] * 14]


def test_the_text_is_an_aligned_table():
    text = cost_report(
        [result("a"), result("b", vendor="katalis", category="lamps"), result("c", "held", unknown=1)]
    ).as_text()
    assert text.splitlines() == [
        "                bought      paid  lost  paid  quarantined  paid  unknown   perhaps  reused"
        "  unchanged  refused  failed  held  over budget",
        "vendor katalis       1  0.07 USD     0     0            0     0        0         0       0"
        "          0        0       0     0            0",
        "vendor picwish       1  0.07 USD     0     0            0     0        1  0.07 USD       0"
        "          0        0       0     1            0",
        "category lamps       1  0.07 USD     0     0            0     0        0         0       0"
        "          0        0       0     0            0",
        "category mugs        1  0.07 USD     0     0            0     0        1  0.07 USD       0"
        "          0        0       0     1            0",
        "all                  2  0.14 USD     0     0            0     0        1  0.07 USD       0"
        "          0        0       0     1            0",
    ]


def test_a_category_cannot_forge_log_lines():
    text = cost_report(
        [result("a", category="mugs\n[INFO] all is well\x1b[2J"), result("b", category="x" * 500)]
    ).as_text()
    assert len(text.splitlines()) == 5
    assert "\x1b" not in text
    assert max(map(len, text.splitlines())) < 200


def test_the_report_is_small_json_and_comes_back_whole():
    report = cost_report([result("a", price="0.10"), result("b", price=None)])
    assert CostReport.model_validate_json(report.model_dump_json()) == report
    assert '"USD":"0.10"' in report.model_dump_json()


# --- the report and the bill -----------------------------------------------------------------------


@pytest.fixture
def root(s3, request) -> str:
    return f"s3://{s3.bucket}/report-{hashlib.sha256(request.node.nodeid.encode()).hexdigest()[:12]}"


async def buy(storage, root: str, picture: bytes, prompts: dict[str, int], vendor: str = "picwish") -> list[Result]:
    """Buy one picture for each prompt, one after the other, and say what came of it as the ledger tells."""
    hook = await asyncio.to_thread(get_hook, f"{vendor}_default")
    buyer, ledger, results = Buyer([hook], storage), Ledger(storage, root), []
    for number, (prompt, count) in enumerate(prompts.items()):
        request = BackgroundRequest(picture, prompt, count=count)
        name = hashlib.sha256(prompt.encode()).hexdigest()
        wish = Wish(
            request, f"{root}/_bgai/pictures/{name}-{{index}}.{{ext}}", f"run.{number}", root=root, fingerprint=name
        )
        known = {"sku": prompt, "vendor": vendor, "fingerprint": name}
        try:
            found = await buyer.begin(wish)
            if isinstance(found, Claim):
                found = await buyer.finish(found, timeout=20)
            assert isinstance(found, Landed)
            results.append(Result(outcome="bought", price=found.price, images=found.images, **known))
        except BgaiError as error:
            claim = await asyncio.to_thread(ledger.read_claim, name)
            outcome = {"held": "held", "lost": "lost"}.get(claim.state, "failed")
            price = claim.price if outcome in ("held", "lost") else Decimal(0)
            results.append(Result(outcome=outcome, price=price, unknown=claim.unknown, reason=error.reason, **known))
    await hook.aclose()
    return results


@pytest.fixture
def priced(connect):
    connect("picwish", extra={"price_per_image": 0.07, "timeout": 5})
    connect("photoroom", extra={"price_per_image": 0.1, "timeout": 5})


async def test_the_report_agrees_with_the_bill_when_every_unknown_call_was_charged(storage, root, box, product, priced):
    box.fault("picwish", "drop_after_charge", on="submit")
    results = await buy(storage, root, product, {"held and charged": 1})
    results += await buy(storage, root, product, {"bought": 1, "two": 2})
    box.fault("picwish", "truncated_image", times=3, on="download")
    results += await buy(storage, root, product, {"lost": 1})
    box.fault("picwish", "moderation", on="submit")
    results += await buy(storage, root, product, {"refused by the vendor": 1})
    results += await buy(storage, root, product, {"from another": 1}, vendor="photoroom")
    report = cost_report(results)
    total = report.total
    assert [it.outcome for it in results] == ["held", "bought", "bought", "lost", "failed", "bought"]
    assert total.charged + total.unknown.pictures == box.images_charged() == 6
    assert total.paid == {"USD": Decimal("0.38")}
    assert total.unknown.money == {"USD": Decimal("0.07")}
    for vendor, tally in report.by_vendor.items():
        assert tally.charged + tally.unknown.pictures == box.images_charged(vendor), vendor


async def test_the_bill_is_less_by_the_unknown_calls_that_were_not_charged(storage, root, box, product, priced):
    box.fault("picwish", "drop_before_charge", on="submit")
    total = cost_report(await buy(storage, root, product, {"held, not charged": 1, "bought": 1})).total
    assert total.held.products == total.unknown.pictures == 1
    assert total.charged == box.images_charged() == 1


async def test_a_connection_without_a_price_leaves_all_sums_open(storage, root, box, product, connect):
    connect("picwish", extra={"price_per_image": None})
    total = cost_report(await buy(storage, root, product, {"a": 1, "b": 1})).total
    assert total.bought == Line(products=2, pictures=2, unpriced=box.images_charged())
