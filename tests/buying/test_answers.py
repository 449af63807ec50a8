"""What vendors answer to a paid call, and where their answers come from: paid once, landed or declared."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Iterator
from decimal import Decimal
from typing import Any

import pytest

from airflow_provider_bgai.buying.books import read_books
from airflow_provider_bgai.buying.budget import Budget
from airflow_provider_bgai.buying.buyer import Buyer
from airflow_provider_bgai.buying.caps import Caps
from airflow_provider_bgai.buying.purchase import Wish
from airflow_provider_bgai.buying.record import Call, error_of
from airflow_provider_bgai.exceptions import (
    NeverSentError,
    OverBudgetError,
    PollError,
    RateLimitError,
    RefusedError,
    StoreError,
    UnknownOutcomeError,
)
from airflow_provider_bgai.hooks import get_hook
from airflow_provider_bgai.hooks.katalis import KatalisHook
from airflow_provider_bgai.storage import Storage
from tests.buying.conftest import OFTEN
from tests.conftest import VENDORS
from tests.hooks.test_requests import ENDPOINT
from tests.servers import Proxy, serving_proxy, serving_website

OWN = ("server_error_after_charge", "unavailable_after_charge")
GATEWAY = ("server_error_after_charge_html", "unavailable_after_charge_html")
# Photoroom documents errors as free, so its own 500 is taken at its word. Its 503 has no body: it may be a gateway's.
FREE = ("photoroom", "server_error_after_charge")
DOUBTS = [(vendor, fault) for vendor in VENDORS for fault in (*OWN, *GATEWAY) if (vendor, fault) != FREE]


def purse(shop, pictures: int, holder: str = "0000") -> Budget:
    caps = Caps.model_validate({"day": {"pictures": pictures}})
    return Budget(shop.storage, shop.root, caps, "night", holder)


# --- answers that hold what no record can


@pytest.mark.parametrize(("status", "error"), [(400, RefusedError), (500, UnknownOutcomeError)])
def test_an_answer_that_was_cut_off_in_an_emoji_ends_its_call_as_any_other(shop, connect, status, error):
    with serving_website() as site:
        connect("picwish", host=site.url)
        body = f'{{"status": {status}, "message": "no \\ud83d"}}'
        site.answer(ENDPOINT["picwish"], body, status=status)
        with pytest.raises(error, match=r"no \?"):
            shop.buy()
    assert shop.bounds() == {"picwish": (0, int(error is UnknownOutcomeError))}
    assert [(it.state, it.reason) for it in read_books(shop.ledger)] == [("failed", "refused")] * (status == 400)


# --- charged, and answered with an error


@pytest.mark.parametrize("policy", ["hold", "resubmit"])
@pytest.mark.parametrize(("vendor", "fault"), DOUBTS)
def test_a_5xx_after_the_charge_costs_one_picture_that_is_declared_and_no_other_vendor_is_asked(
    shop, vendor, fault, policy
):
    shop.box.fault(vendor, fault, times=9)
    other = "photoroom" if vendor != "photoroom" else "imagine"
    with pytest.raises(UnknownOutcomeError if policy == "hold" else OverBudgetError):
        shop.buy(shop.wish(new=True, on_unknown_outcome=policy), vendor, other, purse=purse(shop, 1))

    assert {name: count for name, count in shop.box.bill().items() if count} == {vendor: 1}
    assert shop.bounds() == {vendor: (0, 1)}
    assert purse(shop, 1, "0001").left()[0] == 0


def test_what_a_vendor_documents_as_free_is_bought_again_on_leave_that_was_given_back(shop):
    shop.box.fault("photoroom", "server_error")
    call = shop.buy(shop.wish(new=True), "photoroom", purse=purse(shop, 1))

    assert [it.state for it in shop.ledger.all(call.fingerprint)] == ["failed", "landed"]
    assert shop.box.bill()["photoroom"] == 1
    assert shop.bounds() == {"photoroom": (1, 0)}


@pytest.mark.parametrize("fault", ["rate_limited_retry_after", "rate_limited_retry_after_date"])
def test_who_asks_to_wait_an_hour_is_not_waited_for(shop, fault):
    shop.box.fault("picwish", fault, times=9, on="submit", retry_after=3600)
    began = time.monotonic()
    with pytest.raises(RateLimitError):
        shop.buy(shop.wish(new=True), "picwish")
    assert shop.buy(shop.wish(new=True), "picwish", "photoroom").vendor == "photoroom"
    assert time.monotonic() - began < 60
    assert shop.bounds() == {"picwish": (0, 0), "photoroom": (1, 0)}


def test_after_two_doubts_in_a_row_even_who_resubmits_holds(shop):
    shop.box.fault("picwish", "drop_after_charge", times=9)
    with pytest.raises(UnknownOutcomeError):
        shop.buy(shop.wish(new=True, on_unknown_outcome="resubmit"))

    assert shop.box.bill()["picwish"] == 2
    assert shop.bounds() == {"picwish": (0, 2)}


# --- pictures beside odd words, and more or fewer than asked for


@pytest.mark.parametrize("word", ["Completed", "success!", "Partial success"])
def test_pictures_are_a_success_whatever_katalis_calls_it(shop, word):
    shop.box.fault("katalis", "odd_success_word", word=word)
    call = shop.buy(shop.wish(new=True), "katalis", "photoroom")

    assert (call.state, call.vendor, call.number) == ("landed", "katalis", 1), error_of(call)
    assert shop.box.bill() | {"katalis": 0} == dict.fromkeys(VENDORS, 0)
    assert shop.bounds() == {"katalis": (1, 0)}


def test_words_of_success_without_pictures_are_held(shop):
    shop.box.fault("katalis", "words_without_pictures")
    with pytest.raises(UnknownOutcomeError, match="may or may not have been charged"):
        shop.buy(shop.wish(new=True), "katalis", "photoroom")
    assert shop.bounds() == {"katalis": (0, 1)}
    assert shop.box.images_charged() == 1


@pytest.mark.parametrize(("asked", "fault", "came"), [(1, "more_pictures", 2), (2, "fewer_pictures", 1)])
@pytest.mark.parametrize("vendor", ["picwish", "katalis", "gptge"])
def test_another_number_of_pictures_than_asked_for_lands_as_it_is_with_a_warning_at_its_price(
    shop, vendor, asked, fault, came
):
    shop.box.fault(vendor, fault)
    call = shop.buy(shop.wish(new=True, count=asked), vendor)

    price = Decimal(str(shop.box.connection(vendor)["extra"]["price_per_image"]))
    assert (call.state, len(call.images), call.price) == ("landed", came, came * price), error_of(call)
    assert any(f"{came} of {asked} pictures" in warning for warning in call.warnings), call.warnings
    assert shop.bounds() == {vendor: (came, 0)}
    assert shop.box.bill()[vendor] == came


# --- lines and proxies


def test_connections_that_the_server_closes_meanwhile_leave_nothing_unknown(shop):
    """Every request on a connection that was used before finds it closed."""
    shop.box.set_idle_close(0)

    async def work() -> list[Call]:
        buyer = shop.buyer("picwish")
        try:
            return [await begin_and_collect(buyer, shop.wish(f"scene {number}", new=True)) for number in range(3)]
        finally:
            await buyer.aclose()

    assert [call.state for call in asyncio.run(work())] == ["landed"] * 3
    assert shop.box.bill()["picwish"] == 3


async def begin_and_collect(buyer: Buyer, wish: Wish) -> Call:
    call = await buyer.begin(await buyer.open(wish))
    return await buyer.collect(call, timeout=20, policy=OFTEN) if call.state == "answered" else call


@pytest.fixture
def proxy(monkeypatch: pytest.MonkeyPatch) -> Iterator[Proxy]:
    """The environment's proxy for all but this machine; it alone knows the host ``vendor.test``."""
    with serving_proxy() as proxy:
        for name in ("http_proxy", "https_proxy"):
            monkeypatch.setenv(name, proxy.url)
        yield proxy


@pytest.fixture
def behind(shop, connect, proxy) -> Callable[[str, str], None]:
    """``behind("picwish", "http")``: the vendor's host is a name that the proxy alone resolves, and not private."""

    def behind(vendor: str, scheme: str) -> None:
        port = shop.box.url.rpartition(":")[2]
        connect(vendor, host=f"{scheme}://vendor.test:{port}", extra={"allow_private_hosts": False})

    return behind


@pytest.mark.parametrize("status", [403, 407, 502])
def test_a_proxy_that_refuses_to_connect_leaves_nothing_unknown(shop, behind, proxy, status):
    behind("picwish", "https")
    proxy.refuses = status
    with pytest.raises(NeverSentError):
        shop.buy(shop.wish(new=True), purse=purse(shop, 1))
    assert shop.bounds() == {}  # nothing was written, for nothing went out

    proxy.refuses = 0
    behind("picwish", "http")
    assert shop.buy(shop.wish(), purse=purse(shop, 1)).state == "landed"
    assert shop.bounds() == {"picwish": (1, 0)}


@pytest.mark.parametrize("vendor", VENDORS)
def test_behind_a_proxy_that_alone_resolves_names_pictures_are_bought_and_landed(shop, behind, proxy, vendor):
    behind(vendor, "http")
    call = shop.buy(shop.wish(new=True), vendor)

    assert call.state == "landed", error_of(call)
    assert proxy.asked
    assert all("//vendor.test:" in target for target in proxy.asked)


def test_a_proxys_403_on_a_link_says_nothing_about_the_link_and_the_picture_stays_collectable(
    shop, behind, proxy, monkeypatch
):
    behind("katalis", "http")
    fetch = KatalisHook.fetch

    async def refused(hook: KatalisHook, *args: Any) -> None:
        proxy.refuses = 403
        await fetch(hook, *args)

    monkeypatch.setattr("airflow_provider_bgai.hooks.results.FETCH_ATTEMPTS", 1)
    monkeypatch.setattr(KatalisHook, "fetch", refused)
    with pytest.raises(PollError, match="proxy"):
        shop.buy(shop.wish(new=True), "katalis")

    monkeypatch.setattr(KatalisHook, "fetch", fetch)
    proxy.refuses = 0
    call = shop.buy(shop.wish(), "katalis", run="night-2")
    assert (call.state, call.number, call.run) == ("landed", 1, "night-1")
    assert shop.box.bill()["katalis"] == 1


# --- nobody asks any more


def test_a_call_is_collected_by_its_own_connection_though_the_run_does_not_name_it_any_more(shop):
    call = shop.leave("picwish")
    asyncio.run(asyncio.sleep(0.3))
    (booked,) = shop.settle("night-2", get_hook)

    assert (booked.call_id, booked.state, booked.run) == (call.call_id, "landed", "night-1")
    assert shop.bounds() == {"picwish": (1, 0)}


def test_a_call_whose_connection_is_gone_is_lost_a_day_after_its_results_and_said_to_be_once(shop, ill):
    call = shop.leave("picwish")
    day = 86_400.0
    for later in (0.0, 3600 + day - 60):
        ill.lift()
        ill.fault("clock", by=later)
        shop.storage = Storage("aws_default")
        assert shop.settle(f"after {later}") == []
    ill.lift()
    ill.fault("clock", by=3600 + day + 60)
    shop.storage = Storage("aws_default")
    (booked,) = shop.settle("in the end")

    assert (booked.call_id, booked.state) == (call.call_id, "lost")
    assert "not there any more" in (booked.error or "")
    assert shop.settle("once more") == []
    assert [it.call_id for it in read_books(shop.ledger)] == [call.call_id]
    assert shop.bounds() == {"picwish": (1, 0)}


def test_delivered_bytes_land_though_the_connection_that_paid_for_them_is_gone(shop, ill, monkeypatch):
    monkeypatch.setattr("airflow_provider_bgai.storage.PATIENCE", 0.3)
    ill.fault("403", methods="PUT", key="/_bgai/pictures/")
    with pytest.raises(StoreError):
        shop.buy(shop.wish(new=True), "photoroom")
    ill.lift()
    (booked,) = shop.settle("night-2")

    assert booked.state == "landed", error_of(booked)
    assert shop.bounds() == {"photoroom": (1, 0)}


def test_a_task_that_the_vendor_does_not_know_any_more_is_lost_and_said_to_be_once(shop, ill):
    call = shop.leave("picwish")
    shop.box.forget_tasks()
    with pytest.raises(PollError):  # just submitted, it may not be visible yet
        shop.buy(shop.wish(), run="night-2", timeout=0)
    ill.fault("clock", by=120)
    shop.storage = Storage("aws_default")
    (booked,) = shop.settle("night-3", get_hook)
    assert (booked.call_id, booked.state, booked.price) == (call.call_id, "lost", call.price)

    again = shop.buy(shop.wish(), run="night-4")
    assert (again.state, again.number, again.before) == ("landed", 2, 1)
    assert shop.bounds() == {"picwish": (2, 0)}
    assert shop.box.bill()["picwish"] == 2
