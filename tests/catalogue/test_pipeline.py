"""A shard of many pictures: each bought once, landed or reported, whatever happens on the way."""

from __future__ import annotations

import asyncio
import io
from collections import Counter
from decimal import Decimal

import pytest
from botocore.exceptions import EndpointConnectionError
from PIL import Image

from airflow_provider_bgai.catalogue import purchase
from airflow_provider_bgai.catalogue.finishing import Finishing
from airflow_provider_bgai.catalogue.pipeline import Shard, generate, give_up
from airflow_provider_bgai.catalogue.purchase import Buyer
from airflow_provider_bgai.catalogue.records import Wanted
from airflow_provider_bgai.catalogue.report import Tally, cost_report
from airflow_provider_bgai.exceptions import UnfaithfulError
from airflow_provider_bgai.hooks import get_hook
from airflow_provider_bgai.polling import PollPolicy

VENDORS = ["picwish", "photoroom", "imagine", "katalis", "gptge"]
PRICES = {
    "picwish": Decimal("0.03"),
    "photoroom": Decimal("0.1"),
    "imagine": Decimal("0.05"),
    "katalis": Decimal("0.04"),
    "gptge": Decimal("0.02"),
}


@pytest.fixture
def destination(s3, request) -> str:
    return f"s3://{s3.bucket}/{request.node.name.replace('[', '-').replace(']', '')}"


@pytest.fixture
def wanted(upload, product):
    """``wanted(10)``: ten pictures of the product with different prompts."""
    image = upload("pipeline/product.png", product)

    def make(count: int, **fields) -> list[Wanted]:
        return [
            Wanted(
                fingerprint=f"{number:064x}",
                skus=(f"SKU-{number}",),
                names=(f"SKU-{number}.{{ext}}",),
                request={"image": image, "prompt": f"scene {number}"},
                source="etag:1",
                **fields,
            )
            for number in range(count)
        ]

    return make


@pytest.fixture
def shard(box, connections, storage, destination):
    """``shard("picwish", …)``: how a shard is generated with those connections."""

    def make(*vendors: str, purse=None, owner="run/0000", **options) -> Shard:
        hooks = [get_hook(f"{vendor}_default") for vendor in vendors]
        for hook in hooks:
            hook.storage = storage
            _ = hook.settings
        return Shard(Buyer(hooks, storage, purse), destination, owner, policy=PollPolicy(interval=0.1), **options)

    return make


def run(shard: Shard, wanted: list[Wanted], patience: float | None = 60.0):
    async def work():
        try:
            return await generate(shard, wanted, patience=patience)
        finally:
            for hook in shard.buyer.hooks:
                await hook.aclose()

    return asyncio.run(work())


def outcomes(wanted, progress) -> Counter:
    return Counter(result.outcome for result in give_up(wanted, progress))


@pytest.mark.parametrize("vendor", VENDORS)
def test_every_picture_of_a_shard_is_bought_once_and_landed(shard, wanted, box, storage, destination, vendor):
    items = wanted(12)
    progress = run(shard(vendor), items)
    assert outcomes(items, progress) == {"bought": 12}
    assert box.images_charged() == 12
    landed = [it.uri for it in storage.list(f"{destination}/_bgai/pictures/")]
    assert len(landed) == 12


def test_a_second_run_pays_nothing(shard, wanted, box):
    items = wanted(6)
    run(shard("picwish"), items)
    again = run(shard("picwish", owner="tomorrow/0000"), items)
    assert outcomes(items, again) == {"reused": 6}
    assert {result.price for result in give_up(items, again)} == {Decimal(0)}
    assert box.images_charged() == 6


def test_a_retried_shard_reports_what_its_first_try_bought(shard, wanted):
    items = wanted(3)
    run(shard("picwish"), items)
    assert outcomes(items, run(shard("picwish"), items)) == {"bought": 3}


def test_two_runs_at_the_same_time_buy_each_picture_once(shard, wanted, box):
    items = wanted(8)
    first, second = shard("picwish", owner="one/0000"), shard("picwish", owner="two/0000")

    async def both():
        return await asyncio.gather(generate(first, items, patience=60), generate(second, items, patience=60))

    one, two = asyncio.run(both())
    assert not one.pending
    assert not two.pending
    assert box.images_charged() == 8


def test_a_shard_submits_without_waiting_and_collects_later(shard, wanted, box):
    items = wanted(5)
    submitted = run(shard("picwish"), items, patience=None)
    assert len(submitted.pending) == 5
    assert outcomes(items, submitted) == {"failed": 5}  # kept, and reported so
    collected = run(shard("picwish"), items)
    assert outcomes(items, collected) == {"bought": 5}
    assert box.images_charged() == 5


def test_one_picture_for_two_skus_is_paid_for_once(shard, wanted):
    (item,) = wanted(1)
    item = item.model_copy(update={"skus": ("A", "B"), "names": ("A.{ext}", "B.{ext}")})
    first, second = give_up([item], run(shard("picwish"), [item]))
    assert (first.sku, first.outcome) == ("A", "bought")
    assert (second.sku, second.outcome, second.price) == ("B", "reused", Decimal(0))
    assert first.images == second.images


def test_a_failed_picture_stops_no_other(shard, wanted, box):
    items = wanted(6)
    broken = items[2].model_copy(update={"request": {"image": "s3://catalogue/none.png", "prompt": "x"}})
    items[2] = broken
    box.fault("picwish", "state_-7", times=1, on="submit")
    assert outcomes(items, run(shard("picwish"), items)) == {"bought": 4, "refused": 2}


def test_a_vendor_that_dies_is_replaced_by_the_next_connection(shard, wanted, box, monkeypatch):
    monkeypatch.setattr(purchase, "FAULTS_IN_A_ROW", 2)
    items = wanted(10)
    for _ in range(200):
        box.fault("photoroom", "unavailable", times=1, on="submit")
    progress = run(shard("photoroom", "picwish", in_flight=2), items)
    assert outcomes(items, progress) == {"bought": 10}
    assert {result.vendor for result in give_up(items, progress)} == {"picwish"}


def test_a_vendor_out_of_quota_is_not_asked_again_in_this_run(shard, wanted, box):
    items = wanted(6)
    box.fault("photoroom", "quota_spent", times=1, on="submit")
    progress = run(shard("photoroom", "picwish", in_flight=1), items)
    assert outcomes(items, progress) == {"bought": 6}
    assert box.request_count("photoroom", "submit") == 1


def test_an_unknown_outcome_is_held_counted_and_priced(shard, wanted, box):
    items = wanted(4)
    box.fault("picwish", "drop_after_charge", times=1, on="submit")
    results = give_up(items, run(shard("picwish"), items))
    (held,) = [result for result in results if result.outcome == "held"]
    assert (held.unknown, held.price) == (1, Decimal("0.03"))
    tomorrow = give_up(items, run(shard("picwish", owner="tomorrow/0000"), items))
    (held,) = [result for result in tomorrow if result.outcome == "held"]
    assert (held.unknown, held.price) == (0, Decimal(0))
    assert box.images_charged() == 4


def test_a_lost_picture_is_reported_with_its_price(shard, wanted, box):
    items = wanted(1)
    box.fault("picwish", "truncated_image", times=10, on="download")
    (lost,) = give_up(items, run(shard("picwish"), items))
    assert (lost.outcome, lost.price) == ("lost", Decimal("0.03"))


def test_a_purse_that_is_empty_lets_nothing_more_be_bought(shard, wanted, box):
    class Purse:
        left = 3

        async def take(self, fingerprint, pictures, price):
            self.left -= pictures
            return self.left >= 0

        async def give_back(self, fingerprint):
            self.left += 1

    items = wanted(7)
    assert outcomes(items, run(shard("picwish", purse=Purse()), items)) == {"bought": 3, "over_budget": 4}
    assert box.images_charged() == 3


# --- what was paid in vain ---------------------------------------------------------------------------


@pytest.fixture
def unfaithful(monkeypatch):
    """``unfaithful(2)``: the next two landings find that the picture does not show the product."""

    def unfaithful(times: int) -> list[str]:
        seeds: list[str] = []
        real = purchase.land

        async def land(hook, generation, *args, **fields):
            if len(seeds) < times:
                seeds.append(f"{hook.conn_id} {generation.seed}")
                raise UnfaithfulError("the product was redrawn", vendor=hook.vendor)
            return await real(hook, generation, *args, **fields)

        monkeypatch.setattr(purchase, "land", land)
        return seeds

    return unfaithful


def bill(box, *runs) -> None:
    """What the runs' results say was paid is what the vendors have charged, to the unit."""
    reports = [cost_report(results) for results in runs]
    assert sum(it.total.charged for it in reports) == box.images_charged()
    for vendor in VENDORS:
        tallies = [it.by_vendor.get(vendor, Tally()) for it in reports]
        assert sum(it.charged for it in tallies) == box.images_charged(vendor), vendor
        paid = sum(it.paid.get("USD", Decimal(0)) for it in tallies)
        assert paid == PRICES.get(vendor, Decimal(0)) * box.images_charged(vendor), vendor


def test_a_lost_picture_that_is_bought_again_in_the_same_run_shows_both_prices(shard, wanted, box):
    items = wanted(1)
    box.fault("picwish", "truncated_image", times=3, on="download")
    run(shard("picwish"), items)
    (again,) = give_up(items, run(shard("picwish"), items))
    assert (again.outcome, again.price) == ("bought", Decimal("0.03"))
    assert [(it.outcome, it.vendor, it.price) for it in again.wasted] == [("lost", "picwish", Decimal("0.03"))]
    bill(box, [again])


def test_a_lost_picture_that_another_run_buys_again_costs_each_run_its_own(shard, wanted, box):
    items = wanted(1)
    box.fault("picwish", "truncated_image", times=3, on="download")
    lost = give_up(items, run(shard("picwish"), items))
    bought = give_up(items, run(shard("picwish", owner="tomorrow/0000"), items))
    assert [(it.outcome, it.price, it.wasted) for it in lost + bought] == [
        ("lost", Decimal("0.03"), ()),
        ("bought", Decimal("0.03"), ()),
    ]


def test_a_picture_that_somebody_deleted_during_the_run_shows_both_prices(shard, wanted, box, storage):
    items = wanted(1)
    (first,) = give_up(items, run(shard("picwish"), items))
    storage.delete(first.images[0].uri)
    (again,) = give_up(items, run(shard("picwish"), items))
    assert [it.outcome for it in again.wasted] == ["lost"]
    bill(box, [again])


def test_a_picture_in_quarantine_is_paid_reported_and_not_bought_again_by_itself(shard, wanted, box, unfaithful):
    items = wanted(2)
    unfaithful(1)
    results = give_up(items, run(shard("picwish", in_flight=1), items))
    assert Counter(it.outcome for it in results) == {"quarantined": 1, "bought": 1}
    bill(box, results)
    bill(box, give_up(items, run(shard("picwish"), items)))  # a retry of the task tells the same
    tomorrow = give_up(items, run(shard("picwish", owner="tomorrow/0000"), items))
    assert Counter(it.outcome for it in tomorrow) == {"quarantined": 1, "reused": 1}
    assert cost_report(tomorrow).total.charged == 0
    assert {it.price for it in tomorrow} == {Decimal(0)}
    assert box.images_charged() == 2


def test_a_picture_in_quarantine_is_bought_again_where_the_plan_says_so_and_once(shard, wanted, box, unfaithful):
    unfaithful(2)
    run(shard("picwish"), wanted(1))
    items = wanted(1, status="failed_before")
    for _ in range(2):
        tomorrow = give_up(items, run(shard("picwish", owner="tomorrow/0000"), items))
        assert [(it.outcome, it.price) for it in tomorrow] == [("quarantined", Decimal("0.03"))]
    assert box.images_charged() == 2


def test_a_retry_after_quarantine_asks_the_next_connection_and_reports_both(shard, wanted, box, unfaithful):
    items = wanted(1)
    tried = unfaithful(1)
    (found,) = give_up(items, run(shard("picwish", "photoroom", finishing={"": Finishing(retries=1)}), items))
    assert (found.outcome, found.vendor, tried) == ("bought", "photoroom", ["picwish_default None"])
    assert [(it.outcome, it.vendor) for it in found.wasted] == [("quarantined", "picwish")]
    bill(box, [found])


def test_a_retry_after_quarantine_asks_with_another_seed(shard, wanted, box, unfaithful):
    (item,) = wanted(1)
    item = item.model_copy(update={"request": {**item.request, "seed": 7}})
    tried = unfaithful(2)
    (found,) = give_up([item], run(shard("photoroom", finishing={"": Finishing(retries=2)}), [item]))
    assert (tried, found.seed, found.outcome) == (["photoroom_default 7", "photoroom_default 8"], 9, "bought")
    bill(box, [found])


def test_retries_after_quarantine_are_counted_over_all_tries_of_the_task(shard, wanted, box, unfaithful):
    items = wanted(1)
    unfaithful(9)
    for _ in range(2):
        results = give_up(items, run(shard("picwish", finishing={"": Finishing(retries=1)}), items))
        assert [(it.outcome, len(it.wasted)) for it in results] == [("quarantined", 1)]
        bill(box, results)
    assert box.images_charged() == 2


def test_what_was_paid_in_vain_is_reported_though_the_retry_is_refused(shard, wanted, box, unfaithful):
    items = wanted(1)
    unfaithful(1)
    box.fault("photoroom", "moderation", times=1, on="submit")
    box.fault("picwish", "slow", times=1, on="submit", delay=0)
    box.fault("picwish", "moderation", times=1, on="submit")
    (refused,) = give_up(items, run(shard("picwish", "photoroom", finishing={"": Finishing(retries=1)}), items))
    assert (refused.outcome, refused.price) == ("refused", Decimal(0))
    bill(box, [refused])


# --- whose price it is -------------------------------------------------------------------------------


def test_a_wrong_key_while_polling_is_what_the_results_say(shard, wanted, box):
    items = wanted(1)
    box.fault("picwish", "bad_key", times=1, on="poll")
    progress = run(shard("picwish"), items)
    assert progress.pending[items[0].fingerprint].task_id
    (told,) = give_up(items, progress)
    assert (told.outcome, told.reason, told.price) == ("failed", "authentication", Decimal(0))
    assert "401" in told.error
    assert "collects it unpaid" in told.error
    bill(box, give_up(items, run(shard("picwish", owner="tomorrow/0000"), items)))


@pytest.mark.parametrize("fault", [None, "truncated_image"])
def test_of_two_runs_that_collect_one_task_one_reports_its_price(shard, wanted, box, fault):
    items = wanted(6)
    run(shard("picwish"), items, patience=None)
    if fault:
        box.fault("picwish", fault, times=1000, on="download")
    one, two = shard("picwish", owner="one/0000"), shard("picwish", owner="two/0000")

    async def both():
        return await asyncio.gather(generate(one, items, patience=60), generate(two, items, patience=60))

    first, second = (give_up(items, progress) for progress in asyncio.run(both()))
    assert Counter(it.outcome for it in first + second) == ({"lost": 12} if fault else {"bought": 6, "reused": 6})
    bill(box, first, second)


def test_a_task_that_another_run_submitted_and_this_one_finds_lost_is_this_ones_loss(shard, wanted, box):
    items = wanted(1)
    tonight = give_up(items, run(shard("picwish"), items, patience=None))
    box.fault("picwish", "truncated_image", times=3, on="download")
    tomorrow = give_up(items, run(shard("picwish", owner="tomorrow/0000"), items))
    again = give_up(items, run(shard("picwish", owner="tomorrow/0000"), items))
    assert [it.outcome for it in tonight + tomorrow + again] == ["failed", "lost", "bought"]
    bill(box, tonight, again)


def test_unknown_outcomes_go_with_the_task_to_the_run_that_ends_it(shard, wanted, box):
    items = wanted(1)
    box.fault("picwish", "drop_after_charge", times=1, on="submit")
    tonight = run(shard("picwish", on_unknown_outcome="resubmit"), items, patience=None)
    assert [it.unknown for it in give_up(items, tonight)] == [0]
    (bought,) = give_up(items, run(shard("picwish", owner="tomorrow/0000"), items))
    assert (bought.outcome, bought.unknown) == ("bought", 1)


# --- what the pictures have to show ----------------------------------------------------------------


@pytest.mark.parametrize("vendor", VENDORS)
def test_every_vendor_s_pictures_are_compared_with_the_product(shard, wanted, vendor):
    (result,) = give_up(items := wanted(1), run(shard(vendor), items))
    (image,) = result.images
    assert image.fidelity is not None
    assert image.fidelity.faithful
    assert result.warnings == ()


@pytest.mark.parametrize("vendor", VENDORS)
def test_a_product_that_was_redrawn_goes_to_quarantine_with_its_price(shard, wanted, box, storage, destination, vendor):
    on = "submit" if vendor in ("photoroom", "imagine") else "download"
    box.fault(vendor, "redrawn_product", times=1, on=on)
    (result,) = results = give_up(items := wanted(1), run(shard(vendor), items))
    assert (result.outcome, result.images) == ("quarantined", ())
    assert storage.read(result.quarantined[0].uri)
    assert list(storage.list(f"{destination}/_bgai/pictures/")) == []
    assert not result.quarantined[0].fidelity.faithful
    bill(box, results)


def test_without_fidelity_whatever_comes_is_landed(shard, wanted, box):
    box.fault("picwish", "redrawn_product", times=1, on="download")
    finishing = {"": Finishing(fidelity=False)}
    (result,) = give_up(items := wanted(1), run(shard("picwish", finishing=finishing), items))
    assert (result.outcome, result.images[0].fidelity) == ("bought", None)


@pytest.mark.parametrize("source", ["gone", "no picture any more"])
def test_a_paid_picture_lands_though_its_source_cannot_be_read_any_more(
    shard, wanted, upload, product, storage, source
):
    image = upload("pipeline/passing.png", product)
    items = [it.model_copy(update={"request": {**it.request, "image": image}}) for it in wanted(1)]
    run(shard("picwish"), items, patience=None)  # submitted, and nobody waits
    if source == "gone":
        storage.delete(image)
    else:
        storage.put(image, b"%PDF-1.7")
    (result,) = give_up(items, run(shard("picwish"), items))
    assert (result.outcome, result.images[0].fidelity) == ("bought", None)


def test_a_source_that_one_vendor_does_not_take_is_served_by_the_next(shard, wanted, upload, product, box):
    """Photoroom cuts out by itself; PicWish wants a cut-out."""
    with Image.open(io.BytesIO(product)) as picture:
        plain = Image.new("RGB", picture.size, "white")
        plain.paste(picture, mask=picture.convert("RGBA"))
    file = io.BytesIO()
    plain.save(file, "JPEG")
    image = upload("pipeline/photo.jpg", file.getvalue(), "image/jpeg")
    items = [it.model_copy(update={"request": {**it.request, "image": image}}) for it in wanted(1)]
    (result,) = give_up(items, run(shard("picwish", "photoroom"), items))
    assert (result.outcome, result.vendor) == ("bought", "photoroom")
    assert any("is no cut-out" in warning for warning in result.warnings)
    assert box.images_charged() == 1


def test_a_source_that_s3_does_not_give_for_now_costs_and_holds_nothing(shard, wanted, box, storage, monkeypatch):
    items, real = wanted(1), type(storage).read_versioned

    def read(self, uri):
        if uri == items[0].request["image"]:
            raise EndpointConnectionError(endpoint_url="http://s3")
        return real(self, uri)

    with monkeypatch.context() as patch:
        patch.setattr(type(storage), "read_versioned", read)
        (failed,) = give_up(items, run(shard("picwish"), items))
    assert (failed.outcome, failed.reason, failed.unknown, failed.price) == ("failed", "source", 0, Decimal(0))
    assert box.requests == []
    (bought,) = give_up(items, run(shard("picwish"), items))
    assert (bought.outcome, bought.unknown) == ("bought", 0)


def test_a_vendor_that_fails_every_time_is_reported_without_a_price(shard, wanted, box):
    box.fault("picwish", "state_-1", times=9, on="submit")
    (failed,) = results = give_up(items := wanted(1), run(shard("picwish"), items))
    assert (failed.outcome, failed.price) == ("failed", Decimal(0))
    assert box.images_charged() == 0
    bill(box, results)
