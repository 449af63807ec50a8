"""What the shop reads: switched as a whole, put back as a whole, and true again after any accident."""

from __future__ import annotations

import hashlib
import io
import json
import os
import signal
import subprocess
import sys
import textwrap
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from decimal import Decimal

import pytest
from PIL import Image

from airflow_provider_bgai.catalogue import scratch
from airflow_provider_bgai.catalogue.finishing import Finishing
from airflow_provider_bgai.catalogue.ledger import Landed, Ledger, Output
from airflow_provider_bgai.catalogue.plan import PlanRecord
from airflow_provider_bgai.catalogue.publish import (
    Entry,
    PublishConflictError,
    Published,
    PublishError,
    TooManyFailuresError,
    publish,
    read_current,
    read_manifest_of_run,
    read_mapping,
    rollback,
)
from airflow_provider_bgai.catalogue.records import Finished, Result, Wanted, dump_lines
from airflow_provider_bgai.catalogue.state import SkuState, read_state
from airflow_provider_bgai.catalogue.versions import Current, Place
from airflow_provider_bgai.exceptions import InvalidRequestError
from airflow_provider_bgai.imaging.label import Label, read_label, write_label
from airflow_provider_bgai.storage import Storage

NOW = 1_700_000_000.0


def drawn(text: str) -> bytes:
    """The smallest picture whose label says it is ``text``."""
    file = io.BytesIO()
    Image.new("RGB", (1, 1)).save(file, "PNG")
    return write_label(file.getvalue(), Label(vendor="picwish", created=NOW, id=text))


def told(picture: bytes) -> str:
    """What its label says."""
    label = read_label(picture)
    assert label is not None
    return label.id


class Shop:
    """A catalogue in S3, with pictures that are known by their labels."""

    def __init__(self, storage: Storage, root: str) -> None:
        self.storage, self.root = storage, root

    def result(self, sku: str, picture: str = "", outcome: str = "bought", count: int = 1, **fields) -> Result:
        """A result with ``count`` landed pictures; ``picture`` is their content."""
        name = fields.pop("name", f"{sku}-{{index}}.{{ext}}" if count > 1 else f"{sku}.{{ext}}")
        extension = fields.pop("extension", "png")
        wish = fields.pop("fingerprint", f"fp{hashlib.sha256(f'{sku} {picture}'.encode()).hexdigest()[:12]}")
        images = []
        for index in range(1, count + 1) if picture else ():
            body = drawn(f"{picture} {index}")
            uri = f"{self.root}/_bgai/pictures/{wish}-{index}.{extension}"
            digest = hashlib.sha256(body).hexdigest()
            self.storage.put(uri, body, content_type=f"image/{extension}", metadata={"sha256": digest})
            images.append(
                Output(uri=uri, bytes=len(body), sha256=digest, width=1, height=1, content_type=f"image/{extension}")
            )
        known = {"fingerprint": wish, "source": "etag:1", "vendor": "picwish", "conn_id": "picwish_default"}
        return Result(sku=sku, name=name, outcome=outcome, images=images, **(known | fields))

    def landed(self, result: Result, elsewhere: str | None = None) -> Result:
        """Write the landed record, and give the result as a plan knows it: without pictures."""
        images = result.images
        if elsewhere:
            images = tuple(it.model_copy(update={"uri": f"{self.root}/{elsewhere}"}) for it in images)
        known = {"task_id": None, "price": None, "currency": "USD", "seed": None, "model": None, "prompt_sha256": None}
        record = Landed(
            fingerprint=result.fingerprint,
            vendor="picwish",
            conn_id="c",
            seconds=1,
            landed_at=1,
            images=images,
            **known,
        )
        Ledger(self.storage, self.root).land(record)
        return result.model_copy(update={"outcome": "unchanged", "images": (), "price": Decimal(0)})

    def run(self, run: str, *results: Result, planned: tuple[Result, ...] = (), wanted: tuple[Wanted, ...] = ()) -> str:
        folder = f"{self.root}/_bgai/runs/{run}"
        plan = PlanRecord(
            uri=f"{folder}/plan.json",
            run=run,
            counts={},
            shards=[f"{folder}/shards/{n:04}.jsonl" for n in range(2)],
            planned=[f"{folder}/planned/{n:04}.jsonl" for n in range(2)],
            calls=0,
            pictures=0,
            price=None,
            currency="USD",
            manifest="s3://b/m.csv",
            destination=self.root,
            only="changed",
            created_at=NOW,
            recipe="whole",
            recipes={"": "recipe", "mugs": f"recipe for mugs of {run}"},
            vendor="picwish 3",
            refusals=[],
        )
        self.storage.put(plan.uri, plan.model_dump_json().encode())
        for part, records in (("planned", planned), ("results", results), ("shards", wanted)):
            # Two files of each: runs have many.
            for number, half in enumerate((records[::2], records[1::2])):
                self.storage.put(f"{folder}/{part}/{number:04}.jsonl", dump_lines(half))
        return run

    def publish(self, run: str, *results: Result, storage: Storage | None = None, **options) -> Published:
        if results:
            self.run(run, *results)
        return publish(storage or self.storage, self.root, run, now=NOW, **options)

    def rollback(self, **options) -> Published:
        return rollback(self.storage, self.root, now=NOW, **options)

    def shown(self) -> dict[str, str]:
        """What a reader of the shop sees: every key but the records, and its content."""
        found = (item.uri for item in self.storage.list(f"{self.root}/"))
        keys = (uri for uri in found if "/_bgai/" not in uri)
        return {uri.removeprefix(f"{self.root}/"): told(self.storage.read(uri)) for uri in keys}

    def mapped(self, run: str) -> dict[str, str]:
        return {it.key: told(self.storage.read(it.uri)) for it in read_mapping(self.storage, self.root, run)}

    def manifest(self, run: str) -> dict[str, Result]:
        return {it.sku: it for it in read_manifest_of_run(self.storage, self.root, run)}

    def current(self) -> Current:
        return read_current(self.storage, self.root)

    def tidy(self) -> bool:
        """No notes of a publisher at work."""
        notes = [item.uri for item in self.storage.list(f"{self.root}/_bgai/published/") if "touched" in item.uri]
        return not notes and self.current().pending is None


@pytest.fixture
def shop(storage, s3, request) -> Shop:
    name = hashlib.sha256(request.node.nodeid.encode()).hexdigest()[:12]
    return Shop(storage, f"s3://{s3.bucket}/publish-{name}")


class Counting(Storage):
    """A storage that counts copies, and dies or pauses at one of them."""

    def __init__(self, dies_at: int | None = None, at_copy=None) -> None:
        super().__init__("aws_default")
        self.copies, self.dies_at, self.at_copy = 0, dies_at, at_copy
        self._lock = threading.Lock()

    def copy(self, source: str, target: str) -> None:
        with self._lock:
            self.copies += 1
            number = self.copies
        if self.dies_at is not None and number >= self.dies_at:
            raise KeyboardInterrupt("killed")
        if self.at_copy:
            self.at_copy(number)
        super().copy(source, target)


# --- publishing ------------------------------------------------------------------------------------


def test_pictures_appear_under_their_stable_keys_with_type_and_hash(shop, s3):
    done = shop.publish("night-1", shop.result("a", "red"), shop.result("b", "blue", extension="jpg"))
    assert shop.shown() == {"a.png": "red 1", "b.jpg": "blue 1"}
    assert (done.products, done.pictures, done.copied, done.removed, done.missing) == (2, 2, 2, 0, 0)
    assert done.outcomes == {"bought": 2}
    key = f"{shop.root}/b.jpg".removeprefix(f"s3://{s3.bucket}/")
    head = s3.client().head_object(Bucket=s3.bucket, Key=key)
    assert head["ContentType"] == "image/jpg"
    assert head["Metadata"]["sha256"] == hashlib.sha256(drawn("blue 1")).hexdigest()


def test_current_names_the_run_and_its_mapping_names_every_picture(shop):
    result = shop.result("a", "red")
    done = shop.publish("night-1", result)
    assert shop.current() == Current(run="night-1", at=NOW)
    (entry,) = read_mapping(shop.storage, shop.root, "night-1")
    image = result.images[0]
    assert entry == Entry(key="a.png", uri=image.uri, sha256=image.sha256, fingerprint=result.fingerprint, sku="a")
    assert done.mapping == f"{shop.root}/_bgai/published/night-1.jsonl"
    assert shop.tidy()


def test_a_product_with_several_pictures_gets_all_of_them(shop):
    shop.publish("night-1", shop.result("a", "red", count=3))
    assert shop.shown() == {"a-1.png": "red 1", "a-2.png": "red 2", "a-3.png": "red 3"}


def test_what_is_unchanged_is_kept_and_costs_no_copy(shop):
    first = shop.result("a", "red")
    shop.publish("night-1", first, shop.result("b", "blue"))
    shop.run("night-2", shop.result("b", "green"), planned=(shop.landed(first),))
    storage = Counting()
    done = shop.publish("night-2", storage=storage)
    assert shop.shown() == {"a.png": "red 1", "b.png": "green 1"}
    assert storage.copies == done.copied == 1
    assert done.previous == "night-1"


def test_products_that_are_not_in_the_run_keep_their_pictures(shop):
    shop.publish("night-1", shop.result("a", "red"), shop.result("b", "blue"))
    done = shop.publish("by-hand", shop.result("c", "grey"))
    assert shop.shown() == shop.mapped("by-hand") == {"a.png": "red 1", "b.png": "blue 1", "c.png": "grey 1"}
    assert done.products == 3


@pytest.mark.parametrize("outcome", ["failed", "refused", "lost", "held", "over_budget"])
def test_a_product_without_a_new_picture_keeps_its_old_one(shop, outcome):
    shop.publish("night-1", shop.result("a", "red"))
    shop.publish("night-2", shop.result("a", outcome=outcome), max_failure_ratio=1)
    assert shop.shown() == shop.mapped("night-2") == {"a.png": "red 1"}


def test_an_unchanged_product_that_was_never_published_comes_from_its_landed_record(shop):
    result = shop.result("a", "red", count=2)
    shop.run("night-2", planned=(shop.landed(result),))
    shop.publish("night-2")
    assert shop.shown() == {"a-1.png": "red 1", "a-2.png": "red 2"}
    assert [it.uri for it in shop.manifest("night-2")["a"].images] == [it.uri for it in result.images]


def test_a_picture_bought_for_another_place_is_taken_from_the_catalogues_own_copy(shop):
    result = shop.result("a", "red")
    shop.run("night-2", planned=(shop.landed(result, elsewhere="ondemand/a.png"),))
    shop.publish("night-2")
    assert shop.shown() == {"a.png": "red 1"}


def test_a_key_that_a_product_no_longer_has_is_removed(shop):
    shop.publish("night-1", shop.result("a", "red", count=2), shop.result("b", "blue"))
    done = shop.publish(
        "night-2",
        shop.result("a", "green", count=1, name="a-{index}.{ext}"),
        shop.result("b", "blue", extension="jpg", fingerprint="b2"),
    )
    assert shop.shown() == {"a-1.png": "green 1", "b.jpg": "blue 1"}
    assert done.removed == 2


def test_an_answer_of_the_generate_stage_goes_before_one_of_the_plan(shop):
    shop.run("night-1", shop.result("a", "red"), planned=(shop.result("a", outcome="held"),))
    assert shop.publish("night-1").outcomes == {"bought": 1}


def test_publishing_a_run_again_changes_nothing(shop):
    first = shop.publish("night-1", shop.result("a", "red"))
    storage = Counting()
    again = shop.publish("night-1", storage=storage)
    assert storage.copies == 0
    assert again == first.model_copy(update={"copied": 0})
    assert shop.current() == Current(run="night-1", at=NOW)


def test_a_run_that_is_published_again_with_more_pictures_adds_them(shop):
    shop.publish("night-0", shop.result("z", "old"))
    shop.publish("night-1", shop.result("a", "red"), shop.result("b", outcome="failed"), max_failure_ratio=1)
    done = shop.publish("night-1", shop.result("a", "red"), shop.result("b", "blue"))
    assert (done.copied, done.previous) == (1, "night-0")
    assert shop.shown() == {"a.png": "red 1", "b.png": "blue 1", "z.png": "old 1"}


def test_a_run_nobody_planned_is_refused(shop):
    with pytest.raises(PublishError, match=r"no run to publish: .*/runs/night-9/plan.json"):
        shop.publish("night-9")
    assert list(shop.storage.list(f"{shop.root}/")) == []


def test_a_plan_without_products_publishes_nothing_and_is_no_error(shop):
    shop.run("night-1")
    assert shop.publish("night-1").products == 0


def test_a_damaged_line_is_named(shop):
    shop.run("night-1", shop.result("a", "red"))
    shop.storage.put(f"{shop.root}/_bgai/runs/night-1/results/0000.jsonl", b'{"sku": "a"}\n')
    with pytest.raises(PublishError, match=r"results/0000.jsonl, line 1: is no Result"):
        shop.publish("night-1")


# --- the manifest of a run -------------------------------------------------------------------------


def test_the_manifest_says_for_every_sku_what_happened(shop):
    bought = shop.result("a", "red", price=Decimal("0.05"), seed=7)
    held = shop.result("b", outcome="held", unknown=1, price=Decimal("0.05"))
    shop.run("night-1", bought, planned=(held,))
    done = shop.publish("night-1", max_failure_ratio=0.5)
    assert shop.manifest("night-1") == {"a": bought, "b": held}
    lines = shop.storage.read(done.manifest).splitlines()
    assert [json.loads(line)["schema_version"] for line in lines] == [1, 1]


def test_refused_rows_replace_neither_each_other_nor_a_product(shop):
    rows = [Result(sku=sku, outcome="refused", error=f"row {n}") for n, sku in enumerate(["", "", "a"])]
    shop.run("night-1", planned=(shop.result("a", "red", outcome="unchanged"), *rows))
    done = shop.publish("night-1", max_failure_ratio=0.75)
    assert done.outcomes == {"unchanged": 1, "refused": 3}
    assert shop.shown() == {"a.png": "red 1"}
    found = list(read_manifest_of_run(shop.storage, shop.root, "night-1"))
    assert sorted(it.error or "" for it in found) == ["", "row 0", "row 1", "row 2"]


def test_a_sku_the_generate_stage_gave_no_answer_for_counts_as_failed(shop):
    wanted = Wanted(fingerprint="fp", skus=("b", "c"), names=("b.{ext}", "c.{ext}"), request={}, source="etag:1")
    shop.run("night-1", shop.result("a", "red"), shop.result("b", "blue"), wanted=(wanted,))
    with pytest.raises(TooManyFailuresError, match="1 of 3 products"):
        shop.publish("night-1")
    missing = shop.manifest("night-1")["c"]
    assert (missing.outcome, missing.reason, missing.price) == ("failed", "no_result", None)


def test_a_picture_without_a_landed_record_is_reported(shop):
    shop.publish("night-1", shop.result("a", "red"))
    gone = shop.result("b", outcome="unchanged")
    done = shop.publish("night-2", gone, shop.result("c", "grey"), max_failure_ratio=0.5)
    assert (done.missing, done.examples, done.failures) == (1, ("b",), 1)
    assert shop.shown() == {"a.png": "red 1", "c.png": "grey 1"}
    found = shop.manifest("night-2")["b"]
    assert (found.outcome, found.reason) == ("failed", "missing")


@pytest.mark.parametrize("record", [b"not json", b"{}"])
def test_a_picture_with_a_damaged_landed_record_is_reported(shop, record):
    gone = shop.result("b", outcome="unchanged")
    shop.storage.put(f"{shop.root}/_bgai/landed/{gone.fingerprint}", record)
    assert shop.publish("night-1", gone, max_failure_ratio=1).missing == 1


@pytest.mark.parametrize("before", [True, False])
def test_a_picture_that_is_gone_from_s3_is_reported_and_the_old_one_stays_whole(shop, before):
    if before:
        shop.publish("night-0", shop.result("a", "old", count=2))
    result = shop.result("a", "red", count=2, price=Decimal(1))
    shop.storage.delete(result.images[1].uri)
    done = shop.publish("night-1", result, shop.result("b", "blue"))
    old = {"a-1.png": "old 1", "a-2.png": "old 2"} if before else {}
    assert shop.shown() == shop.mapped("night-1") == old | {"b.png": "blue 1"}
    assert (done.missing, done.outcomes) == (1, {"bought": 1, "lost": 1})
    lost = shop.manifest("night-1")["a"]
    assert (lost.outcome, lost.price, lost.reason) == ("lost", Decimal(1), "missing")


# --- what the next plan compares with --------------------------------------------------------------


def states(shop: Shop) -> dict[str, SkuState]:
    return {it.sku: it for it in read_state(shop.storage, shop.root)}


def test_the_next_plan_can_see_what_every_published_picture_was_made_from(shop):
    result = shop.result("a", "red", category="mugs", prompt_sha256="77", vendor="katalis")
    shop.publish("night-1", result)
    assert states(shop) == {
        "a": SkuState(
            sku="a",
            fingerprint=result.fingerprint,
            source="etag:1",
            prompt_sha256="77",
            recipe="recipe for mugs of night-1",
            vendor="picwish 3",
        )
    }


def test_what_has_no_new_picture_keeps_its_state(shop):
    shop.publish("night-1", *[shop.result(sku, "red", category="mugs") for sku in "abcd"])
    first = states(shop)
    night = [shop.result("a", "blue", category="mugs"), shop.result("b", outcome="failed", category="mugs")]
    gone = shop.result("c", outcome="unchanged", category="mugs", fingerprint="nowhere")
    shop.publish("night-2", *night, gone, max_failure_ratio=1)
    second = states(shop)
    assert second.pop("a").recipe == "recipe for mugs of night-2"
    assert second == {sku: first[sku] for sku in "bcd"}


def test_a_publish_that_was_stopped_leaves_the_state_alone(shop):
    shop.publish("night-1", shop.result("a", "red"))
    before = states(shop)
    shop.run("night-2", shop.result("a", "blue"), shop.result("b", outcome="failed"))
    with pytest.raises(TooManyFailuresError):
        shop.publish("night-2")
    assert states(shop) == before


def test_files_of_an_earlier_plan_of_the_same_run_do_not_count(shop):
    shop.run("night-1", shop.result("a", "red"))
    stale = dump_lines([shop.result("b", outcome="failed")])
    for part in ("planned", "results"):
        shop.storage.put(f"{shop.root}/_bgai/runs/night-1/{part}/0007.jsonl", stale)
    assert shop.publish("night-1", max_failure_ratio=0).outcomes == {"bought": 1}


def test_a_shard_without_any_results_counts_as_failed(shop):
    wanted = [Wanted(fingerprint=f"f{n}", skus=(f"b{n}",), names=("",), request={}, source="") for n in range(4)]
    shop.run("night-1", shop.result("a", "red"), wanted=tuple(wanted))
    for number in range(2):
        shop.storage.delete(f"{shop.root}/_bgai/runs/night-1/results/{number:04}.jsonl")
    with pytest.raises(TooManyFailuresError, match="4 of 4 products"):
        shop.publish("night-1")


# --- how much may fail -----------------------------------------------------------------------------


def failing(shop: Shop, outcome: str = "failed") -> list[Result]:
    """Two of ten products without a picture."""
    return [shop.result(f"p{n}", f"picture {n}", outcome="reused") for n in range(8)] + [
        shop.result(f"q{n}", outcome=outcome) for n in range(2)
    ]


@pytest.mark.parametrize("outcome", ["failed", "lost", "refused", "held"])
def test_too_many_failures_publish_nothing_and_say_how_many(shop, outcome):
    shop.publish("night-1", shop.result("a", "red"))
    with pytest.raises(
        TooManyFailuresError, match=rf"2 of 10 products failed \(20.0%, allowed 19.0%\): 2 {outcome}, 8 r"
    ):
        shop.publish("night-2", *failing(shop, outcome), max_failure_ratio=0.19)
    assert shop.shown() == {"a.png": "red 1"}
    assert shop.current().run == "night-1"
    assert len(shop.manifest("night-2")) == 10
    # The pictures that did come are paid for, and stay.
    assert shop.publish("night-2", max_failure_ratio=0.2).copied == 8


def test_what_waits_for_the_budget_is_no_failure_and_does_not_hide_one(shop):
    assert shop.publish("night-1", *failing(shop, "over_budget"), max_failure_ratio=0).failures == 0
    waiting = [shop.result(f"w{n}", outcome="over_budget") for n in range(20)]
    with pytest.raises(TooManyFailuresError, match="1 of 2 products"):
        shop.publish("night-2", *waiting, shop.result("x", outcome="failed"), shop.result("y", "yes"))


def test_the_ratio_is_a_share(shop):
    with pytest.raises(InvalidRequestError, match="between 0 and 1"):
        shop.publish("night-1", max_failure_ratio=20)


# --- rolling back ----------------------------------------------------------------------------------


def three_nights(shop: Shop) -> None:
    shop.publish("night-1", shop.result("a", "red 1"), shop.result("b", "blue"))
    shop.publish("night-2", shop.result("a", "red 2"), shop.result("c", "grey"))
    shop.publish("night-3", shop.result("a", "red 3"), shop.result("d", "pink"))


SHOWN = {
    "night-1": {"a.png": "red 1 1", "b.png": "blue 1"},
    "night-2": {"a.png": "red 2 1", "b.png": "blue 1", "c.png": "grey 1"},
    "night-3": {"a.png": "red 3 1", "b.png": "blue 1", "c.png": "grey 1", "d.png": "pink 1"},
}


def test_rollback_restores_the_version_before_and_then_the_one_before_that(shop):
    three_nights(shop)
    done = shop.rollback()
    assert (done.run, done.previous, done.copied, done.removed) == ("night-2", "night-1", 1, 1)
    assert shop.shown() == SHOWN["night-2"]
    assert shop.rollback().run == "night-1"
    assert shop.shown() == SHOWN["night-1"]
    with pytest.raises(PublishError, match="Nothing to roll back to: night-1 is published"):
        shop.rollback()
    assert shop.shown() == SHOWN["night-1"]


def test_rollback_goes_to_any_version_and_forward_again(shop):
    three_nights(shop)
    shop.rollback(to="night-1")
    assert shop.shown() == SHOWN["night-1"]
    assert shop.rollback(to="night-3").previous == "night-1"
    assert shop.shown() == SHOWN["night-3"]
    assert shop.tidy()


def test_rolling_back_to_what_was_never_published_changes_nothing(shop):
    three_nights(shop)
    with pytest.raises(PublishError, match="night-7 was never published"):
        shop.rollback(to="night-7")
    assert shop.current().run == "night-3"
    assert shop.tidy()


def test_nothing_can_be_rolled_back_before_the_first_publish(shop):
    with pytest.raises(PublishError, match="nothing is published"):
        shop.rollback()


def test_the_next_night_after_a_rollback_publishes_what_the_recipe_asks_for(shop):
    first, second = shop.result("a", "red 1"), shop.result("a", "red 2")
    shop.publish("night-1", first)
    shop.publish("night-2", second)
    shop.rollback()
    shop.run("night-3", planned=(shop.landed(second),))
    done = shop.publish("night-3")
    assert (shop.shown(), done.previous) == ({"a.png": "red 2 1"}, "night-1")


# --- accidents -------------------------------------------------------------------------------------


@pytest.mark.parametrize("dies_at", [1, 4, 9])
def test_a_killed_publish_leaves_the_version_as_it_was_and_can_be_run_again(shop, dies_at):
    shop.publish("night-1", *[shop.result(f"p{n}", "old") for n in range(5)])
    new = [shop.result(f"p{n}", "new") for n in range(9)]
    with pytest.raises(KeyboardInterrupt):
        shop.publish("night-2", *new, storage=Counting(dies_at), workers=1)
    assert shop.current().run == "night-1"
    shop.publish("night-2")
    assert shop.shown() == shop.mapped("night-2") == {f"p{n}.png": "new 1" for n in range(9)}
    assert (shop.current().run, shop.current().previous) == ("night-2", "night-1")
    assert shop.tidy()


def test_after_a_killed_publish_another_run_makes_every_key_true(shop):
    """What the dead one changed stands in no mapping, but in its note."""
    old = [shop.result(f"p{n}", "old") for n in range(5)]
    shop.publish("night-1", *old)
    dead = [shop.result(f"p{n}", "dead") for n in range(9)]
    with pytest.raises(KeyboardInterrupt):
        shop.publish("night-2", *dead, storage=Counting(8), workers=1, lease=1)
    assert shop.shown()["p6.png"] == "dead 1"
    time.sleep(1.1)
    with pytest.raises(KeyboardInterrupt):
        shop.publish("night-3", shop.result("x", "new"), storage=Counting(1), workers=1, lease=1)
    time.sleep(1.1)
    shop.run("night-4", shop.result("x", "new"), planned=tuple(shop.landed(it) for it in old))
    shop.publish("night-4")
    assert shop.shown() == shop.mapped("night-4") == {f"p{n}.png": "old 1" for n in range(5)} | {"x.png": "new 1"}
    assert shop.tidy()


def test_after_a_killed_publish_a_rollback_to_the_current_version_repairs_it(shop):
    shop.publish("night-1", shop.result("a", "old"), shop.result("b", "old"))
    new = [shop.result(sku, "new") for sku in "abc"]
    with pytest.raises(KeyboardInterrupt):
        shop.publish("night-2", *new, storage=Counting(3), workers=1, lease=1)
    time.sleep(1.1)
    shop.rollback(to="night-1")
    assert shop.shown() == {"a.png": "old 1", "b.png": "old 1"}
    assert shop.current().run == "night-1"


def test_a_killed_rollback_can_be_run_again(shop):
    three_nights(shop)
    with pytest.raises(KeyboardInterrupt):
        rollback(Counting(1), shop.root, now=NOW)
    assert shop.current().run == "night-3"
    shop.rollback()
    assert shop.shown() == SHOWN["night-2"]


PUBLISH = """
    import sys
    from airflow_provider_bgai.catalogue.publish import publish
    from airflow_provider_bgai.storage import Storage

    class Slow(Storage):
        copies = 0
        def copy(self, source, target):
            super().copy(source, target)
            Slow.copies += 1
            print(Slow.copies, flush=True)

    publish(Slow("aws_default"), sys.argv[1], sys.argv[2], now=1.0, workers=1)
"""


def test_publish_survives_sigkill(shop):
    new = [shop.result(f"p{n}", "new") for n in range(40)]
    shop.run("night-1", *new)
    command = [sys.executable, "-c", textwrap.dedent(PUBLISH), shop.root, "night-1"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env={**os.environ}) as process:
        for line in process.stdout:
            if line.strip() == "15":
                process.send_signal(signal.SIGKILL)
                break
    assert process.returncode == -signal.SIGKILL
    assert 15 <= len(shop.shown()) < 40
    assert shop.current().run is None
    done = shop.publish("night-1")
    assert len(shop.shown()) == done.pictures == 40
    assert shop.current().run == "night-1"
    assert shop.tidy()


# --- two at once -----------------------------------------------------------------------------------


def test_who_comes_while_another_run_is_being_published_is_told_so(shop):
    shop.run("night-2", shop.result("a", "blue"))
    problems = []

    def second(number: int) -> None:
        try:
            shop.publish("night-2")
        except PublishConflictError as error:
            problems.append(str(error))

    shop.publish("night-1", shop.result("a", "red"), storage=Counting(at_copy=second))
    assert "Run night-1 is just being published" in problems[0]
    assert shop.shown() == {"a.png": "red 1"}
    assert shop.publish("night-2").previous == "night-1"


def test_publishers_that_race_never_interleave(shop):
    runs = [f"night-{n}" for n in range(6)]
    for run in runs:
        shop.run(run, *[shop.result(f"p{n}", run) for n in range(10)])

    def race(run: str) -> bool:
        try:
            shop.publish(run, storage=Counting(), workers=3)
        except PublishConflictError:
            return False
        return True

    with ThreadPoolExecutor(len(runs)) as pool:
        won = [run for run, done in zip(runs, pool.map(race, runs), strict=True) if done]
    current = shop.current()
    assert current.run in won
    assert sorted([current.run, *current.history]) == won
    assert shop.shown() == shop.mapped(current.run) == {f"p{n}.png": f"{current.run} 1" for n in range(10)}


def test_a_publisher_that_was_asleep_too_long_writes_no_more(shop):
    shop.run("night-2", shop.result("a", "blue"), shop.result("b", "blue"))

    def sleep(number: int) -> None:
        if number == 1:
            time.sleep(1.2)
            shop.publish("night-2")

    night = [shop.result("a", "red"), shop.result("b", "red")]
    with pytest.raises(PublishConflictError):
        shop.publish("night-1", *night, storage=Counting(at_copy=sleep), workers=1, lease=1)
    assert shop.current().run == "night-2"
    assert shop.shown()["b.png"] == "blue 1"


def test_a_long_publish_renews_its_note(shop, monkeypatch):
    monkeypatch.setattr(scratch, "BATCH", 2)
    night = [shop.result(f"p{n}", "red") for n in range(12)]
    shop.publish("night-1", *night, storage=Counting(at_copy=lambda number: time.sleep(0.2)), workers=1, lease=1)
    assert len(shop.shown()) == 12


# --- hostile input ---------------------------------------------------------------------------------

HOSTILE = [
    "../other/a.png",
    "a/../../b.png",
    "/a.png",
    "a//b.png",
    "./a.png",
    "a\n.png",
    "_bgai/claims/fp",
    "_BGAI/x.png",
    "_bgai",
    "folder/",
    "",
    "..",
    "a\\b.png",
    "{sku}.png",
    "a" * 1100 + ".png",
    "\udcff.png",
]


@pytest.mark.parametrize("name", HOSTILE[:-1])
def test_a_hostile_name_is_refused_and_stops_no_other(shop, name):
    before = {item.uri for item in shop.storage.list(shop.root.rpartition("/")[0] + "/")}
    done = shop.publish(
        "night-1", shop.result("evil", "bad", name=name), shop.result("a", "red"), max_failure_ratio=0.5
    )
    assert shop.shown() == {"a.png": "red 1"}
    assert done.outcomes == {"bought": 1, "refused": 1}
    assert "Not published" in shop.manifest("night-1")["evil"].error
    written = {item.uri for item in shop.storage.list(shop.root.rpartition("/")[0] + "/")} - before
    assert all(uri.startswith(f"{shop.root}/") for uri in written)


@pytest.mark.parametrize("key", HOSTILE)
def test_a_hostile_key_in_a_mapping_is_neither_written_nor_deleted(storage, key):
    place = Place("s3://bucket/shop", "night-1")
    with pytest.raises(InvalidRequestError):
        place.stable(key)


@pytest.mark.parametrize(
    "uri",
    [
        "s3://other/secret.png",
        "{root}/_bgai/claims/fp.png",
        "{root}/_bgai/pictures/../x.png",
        "{root}/_bgai/finished/../x.png",
        "{root}/_bgai/finished.png",
    ],
)
def test_only_the_catalogues_own_pictures_are_published(shop, uri):
    result = shop.result("a", "red")
    image = result.images[0].model_copy(update={"uri": uri.format(root=shop.root)})
    done = shop.publish("night-1", result.model_copy(update={"images": (image,)}), max_failure_ratio=1)
    assert (shop.shown(), done.outcomes) == ({}, {"refused": 1})


def test_a_finished_file_is_published_and_rolled_back_like_a_picture(shop):
    result = shop.result("a", "red")
    finished = result.images[0].model_copy(update={"uri": f"{shop.root}/_bgai/finished/ab12-1.png"})
    shop.storage.copy(shop.result("b", "red, labelled").images[0].uri, finished.uri)
    shop.publish("night-1", result.model_copy(update={"images": (finished,)}))
    assert shop.shown() == shop.mapped("night-1") == {"a.png": "red, labelled 1"}
    shop.publish("night-2", shop.result("a", "blue"))
    shop.rollback()
    assert shop.shown() == {"a.png": "red, labelled 1"}


def test_two_products_of_one_name_are_not_mixed_up(shop):
    results = [shop.result(sku, f"of {sku}", name="same.{ext}") for sku in "ab"]
    shop.publish("night-1", *results, max_failure_ratio=0.5)
    assert shop.shown() == {"same.png": "of a 1"}
    assert "'same.png': is the name of 'a' as well" in shop.manifest("night-1")["b"].error


def test_pictures_that_would_overwrite_each_other_are_refused(shop):
    shop.publish("night-1", shop.result("a", "red", count=2, name="a.{ext}"), max_failure_ratio=1)
    assert shop.shown() == {}


@pytest.mark.parametrize("run", ["", "..", "a/b", "current", "a\nb", "a b"])
def test_a_hostile_run_is_refused(shop, run):
    with pytest.raises(InvalidRequestError, match="run="):
        shop.publish(run)


@pytest.mark.parametrize("destination", ["https://x/y", "s3://b/../c", "s3://b/{sku}.png", "bucket"])
def test_a_hostile_destination_is_refused(storage, destination):
    with pytest.raises(InvalidRequestError):
        publish(storage, destination, "night-1", now=NOW)


# --- labels and finished files ---------------------------------------------------------------------


def test_a_picture_without_a_label_is_not_published_and_stops_no_other(shop):
    bare = shop.result("a", "red")
    file = io.BytesIO()
    Image.new("RGB", (1, 1)).save(file, "PNG")
    shop.storage.put(bare.images[0].uri, file.getvalue())
    done = shop.publish("night-1", bare, shop.result("b", "blue"))
    assert shop.shown() == {"b.png": "blue 1"}
    assert (done.missing, done.examples) == (1, ("a",))
    assert "has no AI label" in shop.manifest("night-1")["a"].error


def test_what_was_published_stays_if_the_new_picture_has_a_broken_label(shop):
    shop.publish("night-1", shop.result("a", "red"))
    broken = shop.result("a", "blue")
    picture = drawn("blue 1")
    shop.storage.put(broken.images[0].uri, picture.replace(b"</rdf:RDF>", b"</rdf:END>"))
    done = shop.publish("night-2", broken)
    assert shop.shown() == {"a.png": "red 1"}
    assert done.missing == 1
    assert "AI label" in shop.manifest("night-2")["a"].error


def finished(shop, result: Result, *names: str) -> Result:
    """The result with files as a recipe with renditions asks for them."""
    files = []
    for name in names:
        uri = f"{shop.root}/_bgai/finished/{result.fingerprint}/{name or 'picture'}.png"
        body = drawn(f"{result.sku} {name or 'itself'}")
        shop.storage.put(uri, body)
        digest = hashlib.sha256(body).hexdigest()
        known = {"width": 1, "height": 1, "content_type": "image/png", "sha256": digest, "bytes": len(body)}
        files.append(Finished(uri=uri, rendition=name, index=1, **known))
    return result.model_copy(update={"finished": tuple(files), "finishing": RENDERED.digest})


def with_renditions(shop, run: str, *results: Result, planned: tuple[Result, ...] = (), **options) -> Published:
    shop.run(run, *results, planned=planned)
    uri = f"{shop.root}/_bgai/runs/{run}/plan.json"
    plan = PlanRecord.model_validate_json(shop.storage.read(uri))
    plan = plan.model_copy(update={"finishing": {"": RENDERED}})
    shop.storage.put(uri, plan.model_dump_json().encode())
    return shop.publish(run, **options)


RENDERED = Finishing(renditions={"thumbnail": {}})


def test_renditions_are_published_beside_the_pictures_and_go_with_them(shop):
    first = finished(shop, shop.result("a", "red"), "", "thumbnail")
    done = with_renditions(shop, "night-1", first, finished(shop, shop.result("b", "blue"), "", "thumbnail"))
    assert sorted(shop.shown()) == ["a.png", "b.png", "thumbnail/a.png", "thumbnail/b.png"]
    assert (done.products, done.pictures, done.copied) == (2, 4, 4)
    # Unchanged and finished as is asked for: nothing to do.
    unchanged = shop.landed(first)
    assert with_renditions(shop, "night-2", planned=(unchanged,)).copied == 0
    assert len(shop.shown()) == 4
    # Not asked for any more.
    shop.run("night-3", planned=(unchanged,))
    shop.publish("night-3")
    assert sorted(shop.shown()) == ["a.png", "b.png", "thumbnail/b.png"]


def test_what_is_not_finished_as_the_recipe_asks_keeps_what_it_had(shop):
    first = shop.result("a", "red")
    shop.publish("night-1", first)
    done = with_renditions(shop, "night-2", planned=(shop.landed(first),), max_failure_ratio=1.0)
    assert done.missing == 1
    assert shop.shown() == {"a.png": "red 1"}
    assert "not finished as the recipe asks" in shop.manifest("night-2")["a"].error


def test_a_report_is_written_whether_or_not_anything_is_published(shop):
    shop.publish("night-1", shop.result("a", "red"))
    failed = shop.result("b", outcome="failed", error="<script>alert(1)</script>", reason="fault")
    with pytest.raises(TooManyFailuresError):
        shop.publish("night-2", failed)
    for run in ("night-1", "night-2"):
        page = shop.storage.read(f"{shop.root}/_bgai/runs/{run}/report.html").decode()
        assert page.startswith("<!doctype html>") or page.startswith("<!DOCTYPE html>")
        assert "<script>alert(1)" not in page
