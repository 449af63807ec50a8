"""One wish, many who want it, and processes that die at any moment: paid once, or said so; caps are kept."""

from __future__ import annotations

import asyncio
import os
import random
import signal
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from dataclasses import replace
from multiprocessing.process import BaseProcess
from typing import Any

import pytest

from airflow_provider_bgai.buying import books, calls, payment
from airflow_provider_bgai.buying.budget import Budget
from airflow_provider_bgai.buying.caps import Caps
from airflow_provider_bgai.buying.record import Call
from airflow_provider_bgai.exceptions import OverBudgetError, UnknownOutcomeError
from airflow_provider_bgai.imaging.inspect import Inspection
from airflow_provider_bgai.layout import marker_of
from airflow_provider_bgai.storage import Storage
from tests.buying.conftest import OFTEN, Shop
from tests.buying.support import processes_that_start_fast

UNSEEN = Inspection(thresholds=None)
"""Pictures that are not compared land sooner."""


def purse(shop: Shop, pictures: int, holder: str = "0000") -> Budget:
    caps = Caps.model_validate({"day": {"pictures": pictures}})
    return Budget(shop.storage, shop.root, caps, "night", holder)


# --- at the same time


@pytest.mark.parametrize(("vendor", "buyers"), [("picwish", 8), ("photoroom", 4), ("katalis", 4)])
def test_many_who_want_one_picture_at_once_pay_for_one_on_one_leave_and_all_have_it(shop, vendor, buyers):
    def want(number: int) -> Call:
        mine = purse(shop, 100, f"{number:04}")
        return shop.buy(shop.wish(new=True), vendor, run=f"run-{number}", purse=mine)

    with ThreadPoolExecutor(buyers) as pool:
        got = list(pool.map(want, range(buyers)))
    assert len({call.images for call in got}) == len({call.call_id for call in got}) == 1
    assert shop.box.images_charged() == 1
    assert shop.bounds() == {vendor: (1, 0)}
    assert purse(shop, 100).left()[0] == 99
    assert list(shop.storage.list(shop.ledger.layout.open)) == []


def test_an_answer_that_comes_after_its_call_was_given_up_is_declared_and_not_landed_twice(shop, monkeypatch):
    monkeypatch.setattr(payment, "MARGIN", -1000.0)  # its answer_by has passed at once
    shop.box.fault("picwish", "slow", on="submit", delay=1.5)
    with ThreadPoolExecutor(1) as pool:
        first = pool.submit(shop.buy, shop.wish(new=True))
        while not shop.box.request_count("picwish", "submit"):
            time.sleep(0.01)
        with pytest.raises(UnknownOutcomeError, match="Held"):
            shop.buy(shop.wish(), run="night-2")
        second = shop.buy(shop.wish(on_unknown_outcome="resubmit"), run="night-3")
        with pytest.raises(UnknownOutcomeError, match="after it was given up"):
            first.result()
    assert [call.state for call in shop.ledger.all(second.fingerprint)] == ["unknown", "landed"]
    assert shop.box.images_charged() == 2
    assert shop.bounds() == {"picwish": (1, 1)}


def test_a_process_that_stood_still_after_it_made_its_record_does_not_send(shop, ill, monkeypatch):
    monkeypatch.setattr(payment, "FRESH", 0.5)
    ill.fault("slow", methods="PUT", key="/_bgai/calls/", by=0.8, times=1)
    call = shop.buy(shop.wish(new=True), "imagine", purse=purse(shop, 1))
    assert [it.state for it in shop.ledger.all(call.fingerprint)] == ["failed", "landed"]
    assert shop.box.images_charged() == 1
    assert shop.bounds() == {"imagine": (1, 0)}


@pytest.mark.parametrize("why", ["deleted", "lost"])
def test_a_picture_that_is_bought_anew_takes_leave_anew(shop, why):
    if why == "lost":
        shop.box.fault("photoroom", "truncated_image")
    first = shop.buy(shop.wish(new=True), "photoroom", purse=purse(shop, 1))
    assert first.state == ("landed" if why == "deleted" else "lost")
    shop.storage.delete_all([shop.ledger.layout.absolute(it.uri) for it in first.images])
    with pytest.raises(OverBudgetError):
        shop.buy(shop.wish(), "photoroom", run="night-2", purse=purse(shop, 1, "0001"))
    assert shop.box.images_charged() == 1


# --- dead at every request to S3, one after the other


class Died(Exception):
    """The process has died: none of its requests to S3 is made any more."""


class Mortal(Storage):
    """Real S3, as a process sees it that dies at its ``at``-th request: before it is made, or right after."""

    def __init__(self, at: int, *, after: bool) -> None:
        super().__init__("aws_default")
        self.asked, self._lock = 0, threading.Lock()

        def before_send(**_: Any) -> None:
            with self._lock:
                self.asked += 1
                if self.asked > at or (self.asked == at and not after):
                    raise Died

        def after_call(**_: Any) -> None:
            if self.asked >= at and after:
                raise Died

        self.client.meta.events.register("before-send.s3", before_send)
        self.client.meta.events.register_first("after-call.s3", after_call)


@pytest.mark.parametrize(("vendor", "after"), [("picwish", False), ("photoroom", True)])
def test_killed_at_any_request_to_s3_it_is_paid_once_or_held_and_declared(shop, monkeypatch, vendor, after):
    monkeypatch.setattr(payment, "MARGIN", -1000.0)  # the dead one's answer_by has passed
    monkeypatch.setattr(books, "YOUNG", 0.0)
    shop.box.set_latency(vendor, 0)
    ends, alive = [], shop.storage
    for at in range(1, 40):
        wish = shop.wish(f"killed at {at}", new=True, inspection=UNSEEN)
        before = shop.box.images_charged()
        try:
            shop.storage = Mortal(at, after=after)
            shop.buy(wish, vendor)
            break
        except Died:
            pass
        finally:
            shop.storage = alive
        try:
            assert shop.buy(replace(wish, new=False), vendor, run="night-2").state == "landed"
            assert shop.box.images_charged() - before == 1
            ends.append("landed")
        except UnknownOutcomeError:
            assert shop.box.images_charged() - before <= 1
            ends.append("held")
    shop.settle("night-3")
    paid, perhaps = shop.bounds()[vendor]
    assert paid <= shop.box.images_charged() <= paid + perhaps
    # Between the record and the note of the answer nobody can know; nowhere else is it held.
    held = ends.count("held")
    assert 1 <= held <= 3
    assert ends[ends.index("held") :][:held] == ["held"] * held
    # Of who dies between marker and record, nobody can say later that it was never sent.
    assert (paid, perhaps) == (ends.count("landed") + 1, held + 1)


# --- real processes, and what ends them


def work(env: dict[str, str], shop: Shop, vendor: str, prompts: list[str], run: str, cap: int, pipe: Any) -> None:
    """Buy pictures, one after the other, as a task does: killed and timed out in the ways that tasks are."""
    from airflow.sdk.exceptions import AirflowTaskTerminated, AirflowTaskTimeout

    def terminated(*_: object) -> None:
        raise AirflowTaskTerminated

    def timed_out(*_: object) -> None:
        raise AirflowTaskTimeout

    signal.signal(signal.SIGTERM, terminated)
    signal.signal(signal.SIGALRM, timed_out)
    os.environ.update(env)
    payment.MARGIN = 0.2
    shop.storage = Storage("aws_default")
    assert shop.storage.client is not None  # looked up before the clock runs
    pipe.send("ready")

    async def buy() -> None:
        one = shop.buyer(vendor, run=run, purse=purse(shop, cap, run))
        for prompt in prompts:
            purchase = await one.open(shop.wish(prompt, new=True, inspection=UNSEEN))
            call = await one.begin(purchase)
            if call.state == "answered":
                await one.collect(call, timeout=20, policy=OFTEN)

    with suppress(AirflowTaskTerminated, AirflowTaskTimeout):
        asyncio.run(buy())
    os._exit(0)  # as Airflow ends a task's process


@pytest.fixture
def started(shop, connect, monkeypatch) -> Callable[..., Any]:
    """``with started("picwish", "a beach") as process``: somebody buys that picture in a process of its own."""
    monkeypatch.setattr(payment, "MARGIN", 0.2)
    context = processes_that_start_fast()

    @contextmanager
    def started(vendor: str, *prompts: str, run: str = "night-1", cap: int = 100) -> Iterator[BaseProcess]:
        named = ("AIRFLOW", "NO_PROXY", "no_proxy", "AWS_")
        env = {name: value for name, value in os.environ.items() if name.startswith(named)}
        ours, theirs = context.Pipe()
        bare = Shop(None, shop.root, shop.image, None)  # type: ignore[arg-type]
        process = context.Process(target=work, args=(env, bare, vendor, list(prompts), run, cap, theirs))
        process.start()
        theirs.close()
        try:
            assert ours.recv() == "ready"
            yield process
        finally:
            process.kill()
            process.join()

    return started


def until(holds: Callable[[], object]) -> None:
    deadline = time.monotonic() + 60
    while not holds():
        assert time.monotonic() < deadline
        time.sleep(0.01)


DEATHS = [signal.SIGKILL, signal.SIGTERM, signal.SIGALRM]


def end(process: BaseProcess, death: signal.Signals) -> None:
    assert process.pid is not None
    os.kill(process.pid, death)
    process.join(30)
    assert process.exitcode is not None


@pytest.mark.parametrize("death", DEATHS, ids=lambda it: it.name)
def test_who_dies_waiting_for_the_rate_leaves_nothing_behind(shop, connect, started, death):
    connect("photoroom", extra={"requests_per_minute": 1})
    with started("photoroom", "first", "second") as process:
        until(lambda: [call.state for call in books.read_open(shop.ledger)] == ["landed"])
        time.sleep(0.5)
        end(process, death)
    assert len(list(shop.storage.list(shop.ledger.layout.calls()))) == 1
    assert len(list(shop.storage.list(shop.ledger.layout.open))) == 1
    assert purse(shop, 100).left()[0] == 99

    connect("photoroom")
    assert shop.buy(shop.wish("second"), "photoroom", run="night-2").number == 1
    assert shop.bounds() == {"photoroom": (2, 0)}
    assert shop.box.images_charged() == 2


@pytest.mark.parametrize("death", DEATHS, ids=lambda it: it.name)
@pytest.mark.parametrize("vendor", ["picwish", "photoroom"])
def test_who_dies_in_the_call_leaves_it_held_and_declared(shop, connect, started, vendor, death):
    connect(vendor, extra={"timeout": 2})
    shop.box.fault(vendor, "slow", on="submit", delay=1.5)
    with started(vendor, "on a table") as process:
        until(lambda: shop.box.request_count(vendor, "submit"))
        end(process, death)
    with pytest.raises(UnknownOutcomeError, match="Held"):
        shop.buy(shop.wish(), vendor)
    assert shop.bounds() == {vendor: (0, 1)}
    until(lambda: shop.box.images_charged() == 1)


@pytest.mark.parametrize("death", DEATHS, ids=lambda it: it.name)
def test_bytes_that_were_delivered_to_who_dies_land_by_a_retry(shop, ill, connect, started, death):
    connect("photoroom", extra={"timeout": 2})
    ill.fault("slow", methods="PUT", key="/_bgai/incoming/", by=0.5)
    with started("photoroom", "on a table") as process:
        until(lambda: shop.box.images_charged())
        refused = ill.fault("down", methods="PUT", key="/_bgai/calls/")
        until(lambda: refused.hits)
        assert process.pid is not None
        os.kill(process.pid, death)
        time.sleep(0.3)
        ill.lift()
        process.join(30)
    # Who is not killed outright ends when the answer is stored.
    stored = "sent" if death is signal.SIGKILL else "answered"
    assert [it.state for it in books.read_open(shop.ledger)] == [stored]
    call = shop.buy(shop.wish(), "photoroom", run="night-2")
    assert (call.state, call.number, call.run) == ("landed", 1, "night-1")
    assert shop.box.images_charged() == 1
    assert shop.bounds() == {"photoroom": (1, 0)}


@pytest.mark.parametrize("cap", [1, 2])
def test_killed_in_the_paid_call_taken_over_and_retried_the_cap_is_never_passed(shop, connect, started, cap):
    connect("photoroom", extra={"timeout": 2})
    shop.box.fault("photoroom", "slow", on="submit", delay=1.0)
    with started("photoroom", "on a table", cap=cap) as process:
        until(lambda: shop.box.request_count("photoroom", "submit"))
        process.kill()
    taken_over = shop.wish(on_unknown_outcome="resubmit")
    with suppress(OverBudgetError):
        assert shop.buy(taken_over, "photoroom", run="night-2", purse=purse(shop, cap, "night-2")).number == 2
        assert cap == 2
    with suppress(OverBudgetError):
        assert shop.buy(shop.wish(), "photoroom", purse=purse(shop, cap, "night-1")).run == "night-2"
        assert cap == 2
    assert shop.bounds() == {"photoroom": (cap - 1, 1)}
    assert cap - 1 <= shop.box.images_charged() <= cap


def orphans(shop: Shop) -> list[str]:
    """Calls that have a marker and no record."""
    found = [call for item in shop.storage.list(shop.ledger.layout.open) if (call := marker_of(item.uri)) is not None]
    written = {it.call_id for marker in found for it in shop.ledger.all(marker.fingerprint)}
    return [marker.call_id for marker in found if marker.call_id not in written]


@pytest.mark.parametrize(("vendor", "kills"), [("picwish", 6), ("photoroom", 4), ("katalis", 4)])
def test_killed_at_random_moments_nothing_is_charged_twice_undeclared(
    shop, connect, started, monkeypatch, vendor, kills
):
    """Each picture's task is killed once, and run again: by its own run, or by another one."""
    monkeypatch.setattr(books, "YOUNG", 0.0)
    connect(vendor, extra={"timeout": 2})
    shop.box.set_latency(vendor, 0.1)
    dice = random.Random(vendor)
    moments = [dice.uniform(0, 0.7) for _ in range(kills)]

    def again(number: int, **more: Any) -> str:
        run = f"night-{1 + number % 2}"
        try:
            return shop.buy(shop.wish(f"picture {number}", inspection=UNSEEN, **more), vendor, run=run).state
        except UnknownOutcomeError:
            return "held"

    def one(number: int) -> str:
        with started(vendor, f"picture {number}"):
            time.sleep(moments[number])
        return again(number)

    def charges() -> list[int]:
        return list(Counter(charge.fingerprint for charge in shop.box.charges).values())

    with ThreadPoolExecutor(3) as pool:
        ends = Counter(pool.map(one, range(kills)))
    assert ends["landed"] + ends["held"] == kills
    assert set(charges()) <= {1}
    # Who dies between marker and record has sent nothing, and nobody can say so: its marker is booked as perhaps.
    before_record = len(orphans(shop))
    shop.settle("night-3")
    assert shop.bounds()[vendor] == (ends["landed"], ends["held"] + before_record)
    assert ends["landed"] <= len(charges()) <= kills

    # Whoever says so buys the held ones again; each is declared, and nothing else is charged.
    assert [again(number, on_unknown_outcome="resubmit") for number in range(kills)] == ["landed"] * kills
    shop.settle("night-4")
    assert shop.bounds()[vendor] == (kills, ends["held"] + before_record)
    assert kills <= shop.box.images_charged() <= kills + ends["held"]


def test_a_time_out_does_not_drop_an_answer_that_waits_for_its_turn_to_be_stored(shop, monkeypatch):
    """All threads of the ledger are busy when the task is cancelled."""
    busy = threading.Event()
    few = ThreadPoolExecutor(1)

    async def work() -> None:
        one = shop.buyer("imagine")
        try:
            purchase = await one.open(shop.wish(new=True))
            keep = payment.Payment._keep

            async def keep_behind(*args: Any) -> Any:
                few.submit(busy.wait)
                asyncio.get_running_loop().call_later(1.0, busy.set)
                return await keep(*args)

            monkeypatch.setattr(payment.Payment, "_keep", keep_behind)
            task = asyncio.create_task(one.begin(purchase))
            await asyncio.to_thread(until, shop.box.images_charged)
            await asyncio.sleep(0.5)
            assert not busy.is_set()
            task.cancel()
            with suppress(asyncio.CancelledError):
                await task
        finally:
            await one.aclose()

    with monkeypatch.context() as patch:
        patch.setattr(calls, "_THREADS", few)
        asyncio.run(work())
    assert shop.buy(shop.wish(), "imagine").number == 1
    assert shop.box.images_charged() == 1
