"""A shard of many pictures: each bought once, landed or reported, whatever happens on the way."""

from __future__ import annotations

import asyncio
from collections import Counter
from decimal import Decimal

import pytest

from airflow_provider_bgai.catalogue.pipeline import Shard, generate, give_up
from airflow_provider_bgai.catalogue.purchase import Buyer
from airflow_provider_bgai.catalogue.records import Wanted
from airflow_provider_bgai.hooks import get_hook

VENDORS = ["picwish", "photoroom", "imagine", "katalis", "gptge"]


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
        return Shard(Buyer(hooks, storage, purse), destination, owner, **options)

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
    from airflow_provider_bgai.catalogue import purchase

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
