"""Around the first byte: what is on record when a payment is broken off, and whose leave is given back."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable

import pytest

from airflow_provider_bgai.buying import payment
from airflow_provider_bgai.buying.calls import Ledger
from airflow_provider_bgai.buying.record import Call
from airflow_provider_bgai.exceptions import NeverSentError
from tests.buying.conftest import Shop
from tests.buying.test_kills import purse, until


async def broken_off(shop: Shop, under_way: Callable[[], bool], vendor: str = "picwish") -> None:
    """Buy with leave for one picture, and be cancelled at a certain moment."""
    one = shop.buyer(vendor, purse=purse(shop, 1))
    try:
        task = asyncio.create_task(one.begin(await one.open(shop.wish(new=True))))
        await asyncio.to_thread(until, under_way)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
    finally:
        await one.aclose()


async def test_who_is_cancelled_while_the_line_is_opened_has_written_nothing_and_has_its_leave(shop, connect):
    """A server that takes connections, and says nothing when it is greeted."""
    lines = []
    async with await asyncio.start_server(lambda reader, _: lines.append(reader), "127.0.0.1", 0) as server:
        connect("picwish", host=f"https://127.0.0.1:{server.sockets[0].getsockname()[1]}")
        await broken_off(shop, lambda: bool(lines))
    assert shop.bounds() == {}
    connect("picwish")
    assert (await asyncio.to_thread(shop.buy, shop.wish(), purse=purse(shop, 1))).number == 1


@pytest.mark.parametrize("at", ["mark", "create"])
async def test_who_is_cancelled_while_the_record_is_made_takes_it_back_and_has_its_leave(shop, monkeypatch, at):
    """Whatever was written by then, not a byte has gone out."""
    writing, goes_on = threading.Event(), threading.Event()
    of, name = (Ledger, "mark") if at == "mark" else (type(shop.storage), "create")
    write = getattr(of, name)

    def slowly(self: object, *args: object) -> object:
        done = write(self, *args)
        if at == "mark" or "/_bgai/calls/" in str(args[0]):
            writing.set()
            goes_on.wait(20)
        return done

    with monkeypatch.context() as patch:
        patch.setattr(of, name, slowly)
        asyncio.get_running_loop().call_later(1.0, goes_on.set)
        await broken_off(shop, writing.is_set)
    assert shop.box.request_count() == 0
    call = await asyncio.to_thread(shop.buy, shop.wish(), purse=purse(shop, 1))
    assert [(it.state, it.reason) for it in shop.ledger.all(call.fingerprint)][:1] == [("failed", "never_sent")]
    assert (call.state, shop.box.images_charged(), shop.bounds()) == ("landed", 1, {"picwish": (1, 0)})


def test_what_was_not_sent_is_taken_back_although_s3_is_away_for_a_moment(shop, ill, monkeypatch):
    """Or its picture would be held for a day, and its leave with it."""
    monkeypatch.setattr(payment, "FRESH", 0.5)
    ill.fault("slow", methods="PUT", key="/_bgai/calls/", by=0.8, times=1)
    ill.fault("503", methods="GET", key="/_bgai/calls/", times=2)
    call = shop.buy(shop.wish(new=True), "imagine", purse=purse(shop, 1))
    assert [it.state for it in shop.ledger.all(call.fingerprint)] == ["failed", "landed"]
    assert (shop.box.images_charged(), shop.bounds()) == (1, {"imagine": (1, 0)})


@pytest.mark.parametrize("why", [NeverSentError("S3 is away"), LookupError("a bug")])
def test_nothing_goes_out_without_a_record(shop, monkeypatch, why):
    def fails(self: Ledger, call: object) -> None:
        raise why

    monkeypatch.setattr(Ledger, "open", fails)
    with pytest.raises(type(why)):
        shop.buy(shop.wish(new=True))
    assert shop.box.request_count() == 0


def test_few_are_between_marker_and_record_at_once(shop, monkeypatch):
    """A kill leaves each of them in doubt."""
    at_once, most, lock = 0, 0, threading.Lock()
    write = Ledger.open

    def counted(self: Ledger, call: Call) -> Call:
        nonlocal at_once, most
        with lock:
            at_once += 1
            most = max(most, at_once)
        try:
            return write(self, call)
        finally:
            with lock:
                at_once -= 1

    async def work() -> None:
        one = shop.buyer("imagine")
        try:
            first = await one.begin(await one.open(shop.wish("picture 0", new=True)))
            assert first.state == "landed"
            wishes = [await one.open(shop.wish(f"picture {number}", new=True)) for number in range(1, 12)]
            await asyncio.gather(*(one.begin(purchase) for purchase in wishes))
        finally:
            await one.aclose()

    monkeypatch.setattr(Ledger, "open", counted)
    asyncio.run(work())
    assert shop.box.images_charged() == 12
    assert 1 < most <= payment.AT_ONCE
