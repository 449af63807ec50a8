"""A connection that takes money and gives nothing is stopped, says why, and is tried with one call the next night."""

from __future__ import annotations

import asyncio
import re
from collections import Counter
from collections.abc import Callable
from decimal import Decimal

import pytest

from airflow_provider_bgai import web
from airflow_provider_bgai.buying.books import book
from airflow_provider_bgai.buying.brake import AT_FIRST
from airflow_provider_bgai.catalogue.results import Result, Wanted
from airflow_provider_bgai.catalogue.shard import Shard, generate, give_up
from airflow_provider_bgai.exceptions import SourceError
from tests.buying.conftest import OFTEN
from tests.catalogue.nights import counted

WANTED = 40


class Night:
    """A run over so many wishes of the shop's. ``charged``: pictures that the vendors billed in its last try.

    :param also: vendors to be asked where the first one cannot be.
    :param missing: so many wishes, the first ones, have sources that are not there.
    """

    def __init__(
        self, shop, run: str, vendor: str, count: int = WANTED, *, also: tuple[str, ...] = (), missing: int = 0
    ) -> None:
        self.shop, self.run, self.vendors = shop, run, (vendor, *also)
        self.count, self.missing = count, missing
        self.charged = 0

    def wanted(self, *, new: bool) -> list[Wanted]:
        images = [f"{self.shop.image}.missing"] * self.missing + [self.shop.image] * (self.count - self.missing)
        return [
            Wanted(
                skus=(f"SKU-{number}",),
                names=(f"SKU-{number}.{{ext}}",),
                request={"image": image, "prompt": f"scene {number}"},
                status="new" if new else "failed_before",
            )
            for number, image in enumerate(images)
        ]

    def generate(
        self, *, new: bool = False, resumed: bool = False, patience: float | None = 20.0, shards: int = 1
    ) -> list[Result]:
        """One try of all shards."""
        before = self.shop.box.images_charged()
        wanted = self.wanted(new=new)

        async def one(place: int) -> list[Result]:
            buyer = self.shop.buyer(*self.vendors, run=self.run, owner=f"{self.run}/{place:04}", shards=shards)
            mine = wanted[place::shards]
            try:
                progress = await generate(Shard(buyer, policy=OFTEN), mine, patience=patience, resumed=resumed)
                return list(give_up(mine, progress, self.run))
            finally:
                await asyncio.to_thread(book, self.shop.ledger, self.run, buyer.ended.values())
                await buyer.aclose()

        async def all_of() -> list[list[Result]]:
            return await asyncio.gather(*(one(place) for place in range(shards)))

        results = [result for part in asyncio.run(all_of()) for result in part]
        assert sorted(result.sku for result in results) == sorted(f"SKU-{number}" for number in range(self.count))
        self.charged = self.shop.box.images_charged() - before
        return results


def links_are_private(shop, ill, connect, monkeypatch) -> None:
    """The vendor's own host is a public one; what it links to is not."""

    async def public(url: str) -> None:
        return None

    monkeypatch.setattr(web, "private_address", public)
    for vendor in ("picwish", "katalis"):
        connect(vendor, extra={"allow_private_hosts": False})


def s3_denies_pictures(shop, ill, connect, monkeypatch) -> None:
    monkeypatch.setattr("airflow_provider_bgai.storage.PATIENCE", 0.2)
    ill.fault("403", methods="PUT", key="/_bgai/pictures/")


def every_answer_is_lost(shop, ill, connect, monkeypatch) -> None:
    shop.box.fault_rate("picwish.drop_after_charge@submit", 1.0)


TROUBLES = {
    links_are_private: "private or local address",
    s3_denies_pictures: "S3 refuses a picture",
    every_answer_is_lost: "may or may not have been charged",
}


@pytest.mark.parametrize(
    ("trouble", "vendor"),
    [
        (links_are_private, "picwish"),
        (links_are_private, "katalis"),
        (s3_denies_pictures, "photoroom"),
        (every_answer_is_lost, "picwish"),
    ],
)
def test_of_forty_wanted_at_most_eight_are_charged_the_first_night_and_one_in_each_next_with_reasons(
    shop, ill, connect, monkeypatch, trouble, vendor
):
    price = Decimal(str(shop.box.connection(vendor)["extra"]["price_per_image"]))
    trouble(shop, ill, connect, monkeypatch)
    charged = []
    for number in (1, 2, 3):
        clock = ill.fault("clock", by=(number - 1) * 86_400.0)
        night = Night(shop, f"night-{number}", vendor)
        results = night.generate(new=number == 1)
        ill.faults.remove(clock)
        assert sum(result.price or 0 for result in results) == night.charged * price
        charged.append(night.charged)
        words = [result.error or "" for result in results]
        assert all(words)
        assert sum(re.search(TROUBLES[trouble], word) is not None for word in words) >= sum(charged)
        assert sum("stopped for this run: paid" in word for word in words) >= WANTED - sum(charged) - 1, Counter(words)
    assert charged[0] <= AT_FIRST
    assert charged[1] <= 1
    assert charged[2] <= 1
    paid, perhaps = shop.bounds()[vendor]
    assert paid <= shop.box.bill()[vendor] == sum(charged) <= paid + perhaps


def test_once_the_trouble_is_over_one_call_proves_the_connection_and_the_rest_follow(shop, ill, connect):
    shop.box.fault("picwish", "drop_after_charge", times=8)
    Night(shop, "night-1", "picwish", count=12).generate(new=True)
    assert list(shop.storage.list(shop.ledger.layout.stopped("picwish_default")))

    ill.fault("clock", by=86_400.0)
    night = Night(shop, "night-2", "picwish", count=12)
    assert counted(night.generate()) == {"bought": 12}
    assert list(shop.storage.list(shop.ledger.layout.stopped("picwish_default"))) == []
    assert night.charged == 12
    assert shop.bounds()["picwish"] == (12, shop.box.bill()["picwish"] - 12)


def test_a_picture_of_an_earlier_run_that_lands_proves_nothing_for_this_one(shop, ill, connect, monkeypatch):
    with monkeypatch.context() as patch:
        links_are_private(shop, ill, connect, patch)
        Night(shop, "night-1", "picwish").generate(new=True)
    connect("picwish")
    every_answer_is_lost(shop, ill, connect, monkeypatch)
    night = Night(shop, "night-2", "picwish")
    results = night.generate()

    assert counted(results)["reused"] == shop.bounds()["picwish"][0] > 0
    assert night.charged <= 1


@pytest.mark.parametrize("shards", [2, 4])
def test_of_shards_side_by_side_one_tries_a_connection_that_was_stopped_and_the_others_wait_for_it(
    shop, ill, connect, monkeypatch, shards
):
    monkeypatch.setattr("airflow_provider_bgai.buying.brake.PROBE_EVERY", 0.05)
    every_answer_is_lost(shop, ill, connect, monkeypatch)
    Night(shop, "night-1", "picwish").generate(new=True)
    ill.fault("clock", by=86_400.0)
    night = Night(shop, "night-2", "picwish")
    words = [result.error or "" for result in night.generate(shards=shards)]

    assert night.charged <= 1
    assert sum("stopped for this run" in word for word in words) >= WANTED - 2 * AT_FIRST, Counter(words)


@pytest.mark.parametrize(("shards", "at_most"), [(1, 8), (2, 4), (3, 2), (20, 1)])
def test_until_a_picture_has_landed_eight_are_under_way_over_all_shards(shop, ill, shards, at_most):
    """None is collected here, so none can land."""
    night = Night(shop, "night-1", "picwish", count=9 * min(shards, 3))
    results = night.generate(new=True, patience=None, shards=shards)
    begun = Counter(result.outcome for result in results if result.task_id)
    assert night.charged == sum(begun.values()) == min(shards, 9 * min(shards, 3)) * at_most
    assert all("Not begun" in (result.error or "") for result in results if not result.task_id)


def test_a_later_pass_collects_what_is_under_way_first_and_asks_no_leave_for_it(shop, ill):
    night = Night(shop, "night-1", "picwish", count=12)
    night.generate(new=True, patience=None)
    assert night.charged == AT_FIRST
    asyncio.run(asyncio.sleep(0.5))
    ill.reset()
    results = night.generate(new=True, resumed=True)

    assert counted(results) == {"bought": 12}
    assert night.charged == ill.count()["PUT", "open"] == 12 - AT_FIRST
    assert shop.bounds() == {"picwish": (12, 0)}


def test_a_try_after_a_stop_in_the_same_run_pays_nothing_more(shop, ill, connect, monkeypatch):
    every_answer_is_lost(shop, ill, connect, monkeypatch)
    night = Night(shop, "night-1", "picwish")
    night.generate(new=True)
    ill.fault("clock", by=3600.0)
    results = night.generate(new=True, resumed=True)

    assert night.charged == 0
    assert counted(results).keys() == {"held", "failed"}


def test_an_account_that_refuses_is_not_asked_again_in_this_run_and_is_in_the_next(shop, ill):
    shop.box.set_credits("picwish", 0)
    results = Night(shop, "night-1", "picwish", count=12).generate(new=True)
    assert all(result.price == 0 and result.error for result in results)
    assert shop.box.request_count("picwish", "submit") <= AT_FIRST

    shop.box.set_credits("picwish", 1000)
    assert counted(Night(shop, "night-2", "picwish", count=12).generate()) == {"bought": 12}
    assert shop.bounds() == {"picwish": (12, 0)}


# --- a new wish has its place before its source is read


@pytest.fixture
def sources_read(ill) -> Callable[[], int]:
    """How many sources were read so far; nothing but sources lies outside ``_bgai``."""
    return lambda: ill.count()["GET", ""]


@pytest.mark.parametrize("shards", [1, 4])
def test_no_source_is_read_of_a_new_wish_that_may_not_begin(shop, ill, sources_read, shards):
    night = Night(shop, "night-1", "picwish")
    night.generate(new=True, patience=None, shards=shards)
    assert night.charged == sources_read() == AT_FIRST


def test_where_the_first_connection_is_closed_places_are_kept_with_the_next(shop, ill, sources_read):
    """Katalis refuses the eight that it is asked for; those and the others go to PicWish, where eight begin."""
    shop.box.set_credits("katalis", 0)
    night = Night(shop, "night-1", "katalis", also=("picwish",))
    results = night.generate(new=True, patience=None)
    assert counted(results) == {"failed": WANTED}
    assert sum("Not begun" in (result.error or "") for result in results) == WANTED - AT_FIRST
    assert shop.box.bill()["picwish"] == night.charged == AT_FIRST
    assert shop.box.request_count("katalis", "submit") <= AT_FIRST
    assert sources_read() <= 2 * AT_FIRST


def test_the_place_of_a_source_that_is_not_there_goes_to_the_next(shop, ill):
    night = Night(shop, "night-1", "picwish", missing=20)
    assert counted(night.generate(new=True, shards=4)) == {"refused": 20, "bought": 20}
    assert night.charged == 20


def test_sources_that_are_hard_to_read_keep_no_places_from_each_other(shop, ill):
    """Eight that wait for a dead host would hold up thousands that are there."""

    async def work() -> None:
        buyer = shop.buyer()
        (brake,) = buyer.brakes.values()
        wishes = [shop.wish(f"scene {number}", new=True) for number in range(2 * AT_FIRST)]
        try:
            down = ill.fault("503", methods="GET", key="source.png")
            with pytest.raises(SourceError):
                await buyer.open(wishes[0])
            assert brake.active == 0
            ill.faults.remove(down)
            async with asyncio.timeout(30):
                purchases = await asyncio.gather(*(buyer.open(wish) for wish in wishes))
            assert brake.active == 0
            await asyncio.gather(*(buyer.begin(it) for it in purchases[:AT_FIRST]))
            assert (brake.active, shop.box.images_charged()) == (AT_FIRST, AT_FIRST)
        finally:
            await buyer.aclose()

    asyncio.run(work())


def test_a_moment_in_which_s3_does_not_say_whether_the_connection_was_stopped_costs_no_product(shop, ill):
    moment = ill.fault("503", methods="GET", key="/_bgai/stopped/", times=2)
    assert counted(Night(shop, "night-1", "picwish", count=4).generate(new=True)) == {"bought": 4}
    assert moment.hits == 2


def test_who_is_cancelled_while_its_source_is_read_gives_its_place_back(shop, ill):
    ill.fault("slow", methods="GET", key="source.png", by=1.0)

    async def work() -> None:
        buyer = shop.buyer()
        (brake,) = buyer.brakes.values()
        try:
            opening = asyncio.create_task(buyer.open(shop.wish(new=True)))
            await asyncio.sleep(0.5)
            assert brake.active == 1
            opening.cancel()
            with pytest.raises(asyncio.CancelledError):
                await opening
            assert brake.active == 0
        finally:
            await buyer.aclose()

    asyncio.run(work())
    assert shop.box.images_charged() == 0


def test_what_was_bought_meanwhile_is_found_and_its_place_given_back(shop, ill):
    """A wish is new by the plan only: another run may have bought it since."""
    night = Night(shop, "night-1", "picwish", count=12)
    night.generate(new=True)
    again = Night(shop, "night-2", "picwish", count=12)
    assert counted(again.generate(new=True)) == {"reused": 12}
    assert again.charged == 0
