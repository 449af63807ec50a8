"""A shard of many pictures: each bought once, landed or reported with its price, whatever happens on the way."""

from __future__ import annotations

import asyncio
import gc
import io
import time
from collections import Counter
from collections.abc import Iterable, Iterator
from decimal import Decimal
from typing import Any

import pytest
from PIL import Image

from airflow_provider_bgai.buying.books import book, read_books
from airflow_provider_bgai.buying.collector import Collector, settle
from airflow_provider_bgai.buying.purchase import Purchase
from airflow_provider_bgai.catalogue import shard as module
from airflow_provider_bgai.catalogue.finishing import Finishing
from airflow_provider_bgai.catalogue.results import Result, Wanted
from airflow_provider_bgai.catalogue.shard import Progress, Shard, generate, give_up
from airflow_provider_bgai.imaging.workers import WorkerDiedError
from airflow_provider_bgai.operators._shard import ShardTask
from airflow_provider_bgai.polling import PollPolicy
from airflow_provider_bgai.storage import Storage
from tests.catalogue.nights import Catalogue, counted, photo, run_shard
from tests.conftest import VENDORS

UNSEEN = {"": Finishing.model_validate({"fidelity": False})}


class Night:
    """A run over one shard.

    :ivar results: what the last try reported.
    """

    def __init__(self, catalogue: Catalogue, items: list[Wanted], run: str, vendors: Iterable[str], **options: Any):
        self.catalogue, self.items, self.run, self.vendors, self.options = catalogue, items, run, vendors, options
        self.results: list[Result] = []

    def shard(self) -> Shard:
        own = {name: self.options[name] for name in ("purse", "shards") if name in self.options}
        more = {name: value for name, value in self.options.items() if name not in own}
        buyer = self.catalogue.buyer(self.run, f"{self.run}/0000", *self.vendors, **own)
        known: dict[str, Any] = {"policy": PollPolicy(interval=0.1), "finishing": UNSEEN}
        return Shard(buyer, **(known | more))

    def passes(self, patience: float | None = 30.0, **how: Any) -> Progress:
        """One pass of the task; what it reports if it is the last one."""
        progress = run_shard(self.shard(), self.items, patience, **how)
        self.results = list(give_up(self.items, progress, self.run))
        return progress

    def counts(self) -> dict[str, int]:
        self.passes()
        return counted(self.results)


@pytest.fixture
def wanted(catalogue):
    """``wanted(10)``: ten pictures of the product with different prompts."""
    image = f"{catalogue.root}/images/product.png"
    catalogue.storage.put(image, photo("product"))

    def make(count: int, **fields: Any) -> list[Wanted]:
        request = {"image": image} | fields.pop("request", {})
        return [
            Wanted(
                skus=(f"SKU-{number}",),
                names=(f"SKU-{number}.{{ext}}",),
                request={"prompt": f"scene {number}"} | request,
                **fields,
            )
            for number in range(count)
        ]

    return make


@pytest.fixture
def night(catalogue):
    """``night(items, "picwish", run="two")``: a run over a shard of those items."""

    def make(items: list[Wanted], *vendors: str, run: str = "one", **options: Any) -> Night:
        return Night(catalogue, items, run, vendors, **options)

    return make


def settled(catalogue: Catalogue, **doubtful: int) -> bool:
    """Whether what the books say was paid is what the vendors have charged, but for so many in doubt."""
    bill, said = catalogue.box.bill(), catalogue.bounds()
    assert {vendor: perhaps for vendor, (_, perhaps) in said.items() if perhaps} == doubtful
    for vendor, count in bill.items():
        paid, perhaps = said.get(vendor, (0, 0))
        assert paid <= count <= paid + perhaps, vendor
    return True


# --- each once


@pytest.mark.parametrize("vendor", VENDORS)
def test_every_picture_of_a_shard_is_bought_once_landed_and_compared(catalogue, night, wanted, vendor):
    tonight = night(wanted(12), vendor, finishing={})
    assert tonight.counts() == {"bought": 12}
    assert catalogue.box.bill()[vendor] == 12
    assert len(list(catalogue.storage.list(catalogue.layout.pictures()))) == 12
    assert {(image.fidelity.faithful, it.warnings) for it in tonight.results for image in it.images} == {(True, ())}
    assert settled(catalogue)


def test_the_next_picture_does_not_wait_for_the_files_of_the_one_before(catalogue, night, wanted, monkeypatch):
    made, waited = module.finish, []

    def once_the_next_is_asked_for(*args, **how):
        deadline = time.monotonic() + 30
        while catalogue.box.request_count(kind="submit") < 2 and time.monotonic() < deadline:
            time.sleep(0.02)
        waited.append(catalogue.box.request_count(kind="submit"))
        return made(*args, **how)

    monkeypatch.setattr(module, "finish", once_the_next_is_asked_for)
    assert night(wanted(2), "photoroom", in_flight=1).counts() == {"bought": 2}
    assert waited == [2, 2]


def test_a_second_run_pays_nothing_and_a_retry_reports_what_the_first_try_bought(catalogue, night, wanted):
    items = wanted(6)
    assert night(items).counts() == {"bought": 6}
    assert night(items).counts() == {"bought": 6}
    tomorrow = night(items, run="two")
    assert tomorrow.counts() == {"reused": 6}
    assert {it.price for it in tomorrow.results} == {Decimal(0)}
    assert catalogue.box.bill()["picwish"] == 6
    assert settled(catalogue)


@pytest.mark.parametrize("under_way", [False, True])
def test_two_runs_at_the_same_time_buy_each_picture_once(catalogue, night, wanted, under_way):
    items = wanted(6)
    if under_way:
        night(items, run="zero").passes(None)
    one, two = night(items, run="one"), night(items, run="two")
    shards = [it.shard() for it in (one, two)]

    async def both() -> list[Progress]:
        done = await asyncio.gather(*(generate(it, items, patience=30) for it in shards))
        for it in shards:
            await asyncio.to_thread(book, it.buyer.ledger, it.buyer.run, it.buyer.ended.values())
            await it.buyer.aclose()
        return done

    results = [it for progress in asyncio.run(both()) for it in give_up(items, progress, "")]
    assert {it.outcome for it in results} <= {"bought", "reused"}
    assert len(results) == 12
    assert catalogue.box.bill()["picwish"] == 6
    assert settled(catalogue)


def test_one_picture_for_two_skus_is_paid_for_once(night, wanted):
    (item,) = wanted(1)
    tonight = night([item.model_copy(update={"skus": ("A", "B"), "names": ("A.{ext}", "B.{ext}")})])
    assert tonight.counts() == {"bought": 1, "reused": 1}
    first, second = tonight.results
    assert [(it.sku, it.outcome, it.price) for it in (first, second)] == [
        ("A", "bought", Decimal("0.03")),
        ("B", "reused", Decimal(0)),
    ]
    assert first.images == second.images


def test_a_shard_that_waits_in_the_triggerer_begins_slowly_and_ends_whole(catalogue, night, wanted):
    """Its passes: submit and defer; then collect, begin the others, defer again; until all have landed."""
    tonight = night(wanted(20))
    first = tonight.passes(None)
    assert (len(first.pending), len(first.later), catalogue.box.bill()["picwish"]) == (8, 12, 8)
    assert counted(tonight.results) == {"failed": 20}
    assert "the next run collects it unpaid" in tonight.results[0].error
    passes = 0
    while tonight.passes(0.0, resumed=True).pending:
        passes += 1
        assert passes < 30
        time.sleep(0.1)  # a task is woken up when its trigger has seen that something has ended, not at once
    assert counted(tonight.results) == {"bought": 20}
    assert catalogue.box.bill()["picwish"] == 20
    assert settled(catalogue)


def test_what_waits_keeps_no_source_in_memory(night, wanted):
    """An error's traceback would: of 10,000 pictures that wait, all their sources."""
    items = wanted(8)
    first = night(items).passes(None)
    assert len(first.pending) == 8
    gc.collect()
    images = {it.request["image"] for it in items}  # other tests leave theirs
    assert not [it for it in gc.get_objects() if type(it) is Purchase and it.wish.request.image in images]


def test_a_pass_asks_once_for_what_has_ended_and_not_at_all_for_what_the_trigger_knows_to_be_pending(
    catalogue, night, wanted
):
    catalogue.box.set_latency("picwish", 0)
    tonight = night(wanted(8))
    first = tonight.passes(None)
    calls = {place: call for place, (call, _) in first.pending.items()}
    pending = {calls[place].task_id for place in (2, 3, 5)}
    second = tonight.passes(0.0, resumed=True, begun=first.begun, waiting=pending)
    asked = Counter(it.path.rpartition("/")[2] for it in catalogue.box.requests if it.kind == "poll")
    assert set(asked) == {call.task_id for call in calls.values()} - pending
    assert set(asked.values()) == {1}
    assert {call.task_id for call in second.waiting} == pending
    tonight.passes(30.0, resumed=True, begun=second.begun, landed=second.landed)
    assert counted(tonight.results) == {"bought": 8}
    assert catalogue.box.request_count("picwish", "poll") == 8
    assert settled(catalogue)


@pytest.fixture
def requests(catalogue) -> Iterator[Counter[str]]:
    """The requests to S3, by operation and by folder below ``_bgai/``."""
    seen: Counter[str] = Counter()

    def count(request: Any, event_name: str, **_: Any) -> None:
        folder = request.url.partition("/_bgai/")[2].partition("/")[0]
        seen.update([f"{event_name.rpartition('.')[2]} {folder}".strip()])

    catalogue.storage.client.meta.events.register("before-send.s3.*", count)
    yield seen
    catalogue.storage.client.meta.events.unregister("before-send.s3.*", count)


def test_a_deferred_shard_goes_on_where_its_last_pass_ended(catalogue, night, wanted, requests, monkeypatch):
    catalogue.box.set_latency("picwish", 0)  # else a quick machine makes many passes, in which nothing has ended
    tonight = night(wanted(40, status="new"))
    progress = tonight.passes(None)
    for passes in range(30):
        if not progress.pending:
            break
        monkeypatch.setattr("airflow_provider_bgai.buying.payment.WORKER", f"process {passes}")
        known = {"begun": progress.begun, "later": progress.later, "landed": progress.landed}
        progress = tonight.passes(0.0, resumed=True, **known)
    assert counted(tonight.results) == {"bought": 40}
    assert catalogue.box.bill()["picwish"] == 40
    assert requests["PutObject open"] == 40  # what the last pass told of need not be found and marked again
    # Nine each; and a pass asks once whether the connection was stopped, books, and takes the markers away.
    assert requests.total() <= 9 * 40 + 3 * (passes + 1), requests
    assert settled(catalogue)


def test_a_long_shard_has_no_task_for_a_picture_that_waits_for_its_slot(night, wanted, monkeypatch):
    monkeypatch.setattr(module, "TELL_EVERY", 0.02)
    tasks: list[int] = []
    monkeypatch.setattr(module, "_tell", lambda *_: tasks.append(len(asyncio.all_tasks())))
    assert night(wanted(60, status="new"), in_flight=3).counts() == {"bought": 60}
    assert len(tasks) > 2
    assert max(tasks) < 20


def test_what_has_landed_is_kept_for_the_next_pass(catalogue):
    for sku in ("A", "B", "C"):
        catalogue.add(sku, photo("B" if sku == "C" else sku), title="Same")
    (uri,) = catalogue.plan().shards
    task = ShardTask.read(uri, catalogue.storage)
    assert task.landed() == {}
    progress = run_shard(Shard(catalogue.buyer("one", "one/0000"), finishing=UNSEEN), task.wanted.values())
    assert progress.landed == progress.results
    task.keep(progress)
    assert ShardTask.read(uri, catalogue.storage).landed() == progress.landed


def test_a_retry_marks_again_what_it_finds_under_way(catalogue, night, wanted, requests, monkeypatch):
    tonight = night(wanted(4, status="new"))
    tonight.passes(None)
    for uri in [item.uri for item in catalogue.storage.list(f"{catalogue.root}/_bgai/open/")]:
        catalogue.storage.delete(uri)  # a lifecycle rule, say
    monkeypatch.setattr("airflow_provider_bgai.buying.payment.WORKER", "the retry")
    requests.clear()
    tonight.passes(resumed=True)
    assert counted(tonight.results) == {"bought": 4}
    assert requests["PutObject open"] == 4
    assert settled(catalogue)


def test_what_went_on_since_the_last_pass_is_looked_for(catalogue, night, wanted):
    """Another run has collected, or a new call was made: what the last pass knew is only a hint."""
    tonight = night(wanted(3, status="new"))
    first = tonight.passes(None)
    assert night(tonight.items, run="another").counts() == {"reused": 3}
    tonight.passes(0.0, resumed=True, begun=first.begun, later=first.later)
    assert counted(tonight.results) == {"bought": 3}
    assert catalogue.box.bill()["picwish"] == 3


def test_a_vendor_that_answers_at_once_needs_no_triggerer(night, wanted):
    tonight = night(wanted(10), "photoroom")
    progress = tonight.passes(None)
    assert (progress.pending, progress.later, counted(tonight.results)) == ({}, [], {"bought": 10})


def test_a_task_killed_after_its_answers_is_collected_by_the_next_run_and_costs_the_first(catalogue, night, wanted):
    items = wanted(5)
    killed = night(items).shard()

    async def until_killed() -> None:
        try:
            await generate(killed, items, patience=None)
        finally:
            await killed.buyer.aclose()  # and nothing is booked

    asyncio.run(until_killed())
    tomorrow = night(items, run="two")
    assert tomorrow.counts() == {"reused": 5}
    assert {it.price for it in tomorrow.results} == {Decimal(0)}
    assert {call.run for call in read_books(catalogue.ledger)} == {"one"}
    assert catalogue.box.bill()["picwish"] == 5
    assert settled(catalogue)


# --- one stops no other


def test_a_failed_picture_stops_no_other(catalogue, night, wanted):
    items = wanted(6)
    gone = {"image": f"{catalogue.root}/none.png", "prompt": "x"}
    items[2] = items[2].model_copy(update={"request": gone})
    items[3] = items[3].model_copy(update={"request": {**items[3].request, "seed": 7}})
    catalogue.box.fault("picwish", "state_-7", times=1, on="submit")
    assert night(items).counts() == {"bought": 3, "refused": 3}
    assert catalogue.box.bill()["picwish"] == 3
    assert settled(catalogue)


def test_a_vendor_that_fails_in_its_own_words_is_replaced_by_the_next_connection(catalogue, night, wanted, monkeypatch):
    monkeypatch.setattr("airflow_provider_bgai.buying.brake.FAULTS_IN_A_ROW", 2)
    monkeypatch.setattr("airflow_provider_bgai.buying.buyer.ATTEMPTS", 1)
    catalogue.box.fault_rate("photoroom.server_error@submit", 1.0)
    tonight = night(wanted(10), "photoroom", "picwish", in_flight=2)
    assert tonight.counts() == {"bought": 10}
    assert {it.vendor for it in tonight.results} == {"picwish"}
    assert catalogue.box.request_count("photoroom", "submit") < 10
    assert settled(catalogue)


def test_a_vendor_out_of_quota_is_not_asked_again_in_this_run(catalogue, night, wanted):
    catalogue.box.fault("photoroom", "quota_spent", times=1, on="submit")
    assert night(wanted(6), "photoroom", "picwish", in_flight=1).counts() == {"bought": 6}
    assert catalogue.box.request_count("photoroom", "submit") == 1


def test_a_purse_that_is_empty_lets_nothing_more_be_bought(catalogue, night, wanted):
    class Purse:
        left = 3

        async def take(self, call_id: str, pictures: int, price: Decimal | None) -> bool:
            self.left -= pictures
            return self.left >= 0

        async def give_back(self, call_id: str) -> None:
            self.left += 1

    assert night(wanted(7), purse=Purse()).counts() == {"bought": 3, "over_budget": 4}
    assert catalogue.box.bill()["picwish"] == 3


def test_a_source_that_one_vendor_does_not_take_is_served_by_the_next(catalogue, night, wanted):
    """Photoroom cuts out by itself; PicWish wants a cut-out."""
    with Image.open(io.BytesIO(photo("plain"))) as picture:
        plain = Image.new("RGB", picture.size, "white")
        plain.paste(picture, mask=picture)
    file = io.BytesIO()
    plain.save(file, "JPEG")
    image = f"{catalogue.root}/images/photo.jpg"
    catalogue.storage.put(image, file.getvalue())
    tonight = night(wanted(1, request={"image": image}), "picwish", "photoroom", finishing={})
    assert tonight.counts() == {"bought": 1}
    assert tonight.results[0].vendor == "photoroom"
    assert any("is no cut-out" in warning for warning in tonight.results[0].warnings)
    assert catalogue.box.bill() == {**dict.fromkeys(VENDORS, 0), "photoroom": 1}


# --- what is reported, with its price


def test_an_unknown_outcome_is_held_counted_and_priced_by_the_run_that_sent_it(
    catalogue, night, wanted, connect, monkeypatch
):
    monkeypatch.setattr("airflow_provider_bgai.buying.payment.MARGIN", 1.0)
    connect("picwish", extra={"timeout": 4})
    items = wanted(4)
    catalogue.box.fault("picwish", "drop_after_charge", times=1, on="submit")
    for _ in range(2):  # a retry of the task tells the same
        tonight = night(items)
        assert tonight.counts() == {"bought": 3, "held": 1}
        (held,) = [it for it in tonight.results if it.outcome == "held"]
        assert (held.price, held.reason, held.vendor) == (Decimal("0.03"), "unknown", "picwish")
    tomorrow = night(items, run="two")
    assert tomorrow.counts() == {"reused": 3, "held": 1}
    assert {it.price for it in tomorrow.results} == {Decimal(0)}
    assert catalogue.box.bill()["picwish"] == 4
    assert settled(catalogue, picwish=1)


def test_a_lost_picture_is_reported_with_its_price_and_bought_again_by_the_next_run(catalogue, night, wanted):
    items = wanted(1)
    catalogue.box.fault("picwish", "truncated_image", times=3, on="download")
    lost = night(items)
    assert lost.counts() == {"lost": 1}
    assert (lost.results[0].price, lost.results[0].reason) == (Decimal("0.03"), "lost")
    bought = night(items, run="two")
    assert bought.counts() == {"bought": 1}
    assert bought.results[0].price == Decimal("0.03")
    assert [(call.number, call.state, call.run) for call in catalogue.records()] == [
        (1, "lost", "one"),
        (2, "landed", "two"),
    ]
    assert settled(catalogue)


def test_a_wish_that_was_paid_in_vain_three_times_is_given_up_until_it_is_asked_for(catalogue, night, wanted):
    items = wanted(1)
    catalogue.box.fault("picwish", "truncated_image", times=9, on="download")
    assert [night(items, run=run).counts() for run in ("1", "2", "3")] == [{"lost": 1}] * 3
    given_up = night(items, run="4")
    assert given_up.counts() == {"failed": 1}
    assert (given_up.results[0].reason, given_up.results[0].price) == ("given_up", Decimal(0))
    catalogue.box.clear_faults()
    assert night(wanted(1, again=True), run="5").counts() == {"bought": 1}
    assert catalogue.box.bill()["picwish"] == 4
    assert settled(catalogue)


def test_a_vendor_that_fails_for_free_every_time_is_reported_without_a_price(catalogue, night, wanted):
    catalogue.box.fault("picwish", "state_-1", times=9, on="submit")
    tonight = night(wanted(1))
    assert tonight.counts() == {"failed": 1}
    assert (tonight.results[0].price, catalogue.box.bill()["picwish"]) == (Decimal(0), 0)
    assert catalogue.bounds() == {"picwish": (0, 0)}


def test_a_wrong_key_while_polling_is_what_the_results_say_and_the_next_run_collects(catalogue, night, wanted):
    items = wanted(1)
    tonight = night(items)
    tonight.passes(None)
    catalogue.box.fault("picwish", "bad_key", times=3, on="poll")
    progress = tonight.passes()
    assert progress.pending[0][0].task_id
    assert (tonight.results[0].outcome, tonight.results[0].price) == ("failed", Decimal("0.03"))
    assert "401" in tonight.results[0].error
    assert "collects it unpaid" in tonight.results[0].error
    catalogue.box.clear_faults()
    assert night(items, run="two").counts() == {"reused": 1}
    assert settled(catalogue)


@pytest.mark.parametrize("vendor", ["picwish", "photoroom"])
def test_a_picture_that_kills_who_looks_at_it_is_kept_and_looked_at_again(
    catalogue, night, wanted, monkeypatch, vendor
):
    async def dies(*_: Any) -> None:
        raise WorkerDiedError("who looked at it has died of it, twice")

    items = wanted(1)
    tonight = night(items, vendor, finishing={"": Finishing()})
    with monkeypatch.context() as patch:
        patch.setattr("airflow_provider_bgai.buying.landing.on_a_core", dies)
        call, _ = tonight.passes().pending[0]
    assert call.state == "answered"
    assert (tonight.results[0].outcome, tonight.results[0].price) == ("failed", call.price)
    assert "has died of it, twice" in tonight.results[0].error
    assert night(items, vendor, run="two").counts() == {"reused": 1}
    assert catalogue.box.bill()[vendor] == 1
    assert settled(catalogue)


def test_a_source_that_s3_does_not_give_for_now_costs_and_holds_nothing(bad, catalogue, night, wanted):
    items = wanted(1)
    catalogue.storage = Storage()
    bad.fault("403", methods="GET", key="images/product.png")
    tonight = night(items)
    assert tonight.counts() == {"failed": 1}
    assert (tonight.results[0].reason, tonight.results[0].price) == ("source", Decimal(0))
    assert catalogue.box.requests == []
    bad.lift()
    assert night(items).counts() == {"bought": 1}


@pytest.mark.parametrize("source", ["gone", "no picture any more"])
def test_what_is_paid_lands_though_its_source_is_not_what_it_was(catalogue, night, wanted, source):
    items = wanted(1)
    night(items).passes(None)  # submitted, and nobody waits
    image = items[0].request["image"]
    if source == "gone":
        catalogue.storage.delete(image)
    else:
        catalogue.storage.put(image, b"%PDF-1.7")
    assert night(items).counts() == {"refused": 1}
    hook = catalogue.hooks("picwish")[0]

    async def publisher() -> None:
        collector = Collector(catalogue.ledger, [hook], lambda _: None, run="one")
        try:
            await asyncio.sleep(0.5)
            await settle(collector, "one")
        finally:
            await collector.aclose()

    asyncio.run(publisher())
    assert [call.state for call in catalogue.records()] == ["landed"]
    assert catalogue.bounds() == {"picwish": (1, 0)}


def test_something_unexpected_after_a_payment_is_never_free(catalogue, night, wanted, monkeypatch):
    items = wanted(2)

    async def broken(*_: Any) -> None:
        raise RuntimeError("nobody foresaw this")

    tonight = night(items)
    with monkeypatch.context() as patch:
        patch.setattr("airflow_provider_bgai.buying.collector.land", broken)
        assert tonight.counts() == {"held": 2}
    assert {(it.price, it.reason, it.vendor) for it in tonight.results} == {(Decimal("0.03"), "unknown", "picwish")}
    assert "nobody foresaw this" in tonight.results[0].error
    with monkeypatch.context() as patch:
        patch.setattr(module, "landed_results", lambda *_: 1 / 0)
        tonight.passes()
    assert {(it.outcome, it.price) for it in tonight.results} == {("failed", Decimal("0.03"))}
    assert tonight.counts() == {"bought": 2}
    assert catalogue.box.bill()["picwish"] == 2
    assert settled(catalogue)


def test_something_unexpected_before_a_payment_costs_nothing(catalogue, night, wanted, monkeypatch):
    monkeypatch.setattr("airflow_provider_bgai.imaging.prepare.prepare", lambda *_: 1 / 0)
    tonight = night(wanted(1))
    assert tonight.counts() == {"failed": 1}
    assert (tonight.results[0].price, catalogue.records(), catalogue.box.requests) == (Decimal(0), [], [])


def test_what_s3_does_not_take_is_trouble_with_its_price_and_a_retry_collects(
    bad, catalogue, night, wanted, monkeypatch
):
    monkeypatch.setattr("airflow_provider_bgai.storage.PATIENCE", 1.0)
    items = wanted(2)
    catalogue.storage = Storage()
    bad.fault("403", methods="PUT", key="/_bgai/pictures/")
    tonight = night(items)
    progress = tonight.passes()
    assert len(progress.troubles) == 2
    assert {(it.outcome, it.price, it.reason) for it in tonight.results} == {("held", Decimal("0.03"), "store")}
    bad.lift()
    assert night(items).counts() == {"bought": 2}
    assert catalogue.box.bill()["picwish"] == 2
    assert settled(catalogue)


# --- what does not show the product


def redrawn(catalogue: Catalogue, vendor: str, times: int) -> None:
    on = "submit" if vendor in ("photoroom", "imagine") else "download"
    catalogue.box.fault(vendor, "redrawn_product", times=times, on=on)


@pytest.mark.parametrize("vendor", VENDORS)
def test_a_product_that_was_redrawn_goes_to_quarantine_with_its_price(catalogue, night, wanted, vendor):
    redrawn(catalogue, vendor, 1)
    for _ in range(2):  # a retry of the task tells the same
        tonight = night(wanted(1), vendor, finishing={})
        assert tonight.counts() == {"quarantined": 1}
        (result,) = tonight.results
        assert (result.images, result.price) == ((), catalogue.hooks(vendor)[0].cost(1))
        assert not result.quarantined[0].fidelity.faithful
        assert catalogue.storage.read(catalogue.layout.absolute(result.quarantined[0].uri))
    assert list(catalogue.storage.list(catalogue.layout.pictures())) == []
    tomorrow = night(wanted(1), vendor, run="two", finishing={})
    assert tomorrow.counts() == {"quarantined": 1}
    assert tomorrow.results[0].price == Decimal(0)
    assert catalogue.box.bill()[vendor] == 1
    assert settled(catalogue)


def test_without_fidelity_whatever_comes_is_landed(catalogue, night, wanted):
    redrawn(catalogue, "picwish", 1)
    tonight = night(wanted(1))
    assert tonight.counts() == {"bought": 1}
    assert tonight.results[0].images[0].fidelity is None


def test_a_picture_in_quarantine_is_bought_again_where_it_is_asked_for_and_once_a_run(catalogue, night, wanted):
    redrawn(catalogue, "picwish", 9)
    night(wanted(1), finishing={}).passes()
    for _ in range(3):
        tomorrow = night(wanted(1, status="failed_before", again=True), run="two", finishing={})
        assert tomorrow.counts() == {"quarantined": 1}
        assert tomorrow.results[0].price == Decimal("0.03")
    assert catalogue.box.bill()["picwish"] == 2


def test_a_retry_after_quarantine_asks_the_next_connection(catalogue, night, wanted):
    redrawn(catalogue, "picwish", 1)
    tonight = night(wanted(1), "picwish", "photoroom", finishing={"": Finishing(retries=1)})
    assert tonight.counts() == {"bought": 1}
    assert [(call.vendor, call.state) for call in catalogue.records()] == [
        ("picwish", "quarantined"),
        ("photoroom", "landed"),
    ]
    assert tonight.results[0].vendor == "photoroom"
    assert settled(catalogue)


def test_a_retry_after_quarantine_asks_with_another_seed_each_time(catalogue, night, wanted):
    redrawn(catalogue, "photoroom", 2)
    tonight = night(wanted(1, request={"seed": 7}), "photoroom", finishing={"": Finishing(retries=2)})
    assert tonight.counts() == {"bought": 1}
    assert [(call.seed, call.state) for call in catalogue.records()] == [
        (7, "quarantined"),
        (8, "quarantined"),
        (9, "landed"),
    ]
    assert night(wanted(1, request={"seed": 7}), "photoroom", run="two", finishing={}).counts() == {"reused": 1}
    assert settled(catalogue)


def test_retries_after_quarantine_are_counted_over_all_tries_of_the_task(catalogue, night, wanted):
    """Killed after its first picture went to quarantine, it still has its retry; and no more than that."""
    redrawn(catalogue, "picwish", 9)
    night(wanted(1), finishing={}).passes()
    for _ in range(3):
        assert night(wanted(1), finishing={"": Finishing(retries=1)}).counts() == {"quarantined": 1}
    assert catalogue.box.bill()["picwish"] == 2
    tomorrow = night(wanted(1, again=True), run="two", finishing={"": Finishing(retries=1)})
    assert Counter(tomorrow.counts()) == {"quarantined": 1}
    assert catalogue.box.bill()["picwish"] == 4
    assert settled(catalogue)


def test_what_was_paid_in_vain_stands_in_the_books_though_the_retry_is_refused(catalogue, night, wanted):
    redrawn(catalogue, "picwish", 1)
    tonight = night(wanted(1), "picwish", "photoroom", finishing={"": Finishing(retries=1)})
    catalogue.box.fault("photoroom", "moderation", times=1, on="submit")
    catalogue.box.fault("picwish", "slow", times=1, on="submit", delay=0)
    catalogue.box.fault("picwish", "moderation", times=1, on="submit")
    assert tonight.counts() == {"refused": 1}
    assert {call.vendor: call.state for call in read_books(catalogue.ledger) if call.state != "failed"} == {
        "picwish": "quarantined"
    }
    assert catalogue.box.bill()["picwish"] == 1
    assert settled(catalogue)
