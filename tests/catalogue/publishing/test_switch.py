"""What the mapping says is what the shop shows: after rolling back, deleted pictures, refused keys and kills."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import textwrap
from typing import Any

import pytest
from botocore.exceptions import ClientError
from hypothesis import given, settings
from hypothesis import strategies as st

from airflow_provider_bgai.buying.calls import Ledger
from airflow_provider_bgai.catalogue.finishing import Finishing, finish
from airflow_provider_bgai.catalogue.publishing.publish import read_mapping
from airflow_provider_bgai.catalogue.results import Result
from airflow_provider_bgai.exceptions import PublishError, StoreError
from airflow_provider_bgai.storage import Storage
from tests.buying.support import Killed, MemoryStorage
from tests.catalogue.publishing.shop import LATER, SHOWN, Counting, Shop, drawn, three_nights

# --- rolling back ----------------------------------------------------------------------------------


def test_rollback_restores_the_version_before_and_then_the_one_before_that(shop):
    three_nights(shop)
    done = shop.rollback()
    assert (done.run, done.previous, done.copied, done.removed) == ("night-2", "night-1", 1, 0)
    assert shop.shown() == SHOWN["night-2"]
    done = shop.rollback()
    assert (done.run, done.copied, done.removed) == ("night-1", 2, 2)
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
    with pytest.raises(PublishError, match="nothing is published"):
        shop.rollback()
    three_nights(shop)
    with pytest.raises(PublishError, match="night-7 was never published"):
        shop.rollback(to="night-7")
    assert shop.current().run == "night-3"
    assert shop.tidy()


def test_the_next_night_after_a_rollback_publishes_what_the_recipe_asks_for(shop):
    first, second = shop.result("a", "red"), shop.result("a", "blue")
    shop.publish("night-1", first)
    shop.publish("night-2", second)
    shop.rollback()
    done = shop.publish("night-3", planned=(shop.unchanged(second),))
    assert (shop.shown(), done.previous) == ({"a.png": "blue 1"}, "night-1")


# --- pictures that are gone, or not what they were -------------------------------------------------


def test_a_picture_that_was_deleted_and_bought_again_is_never_taken_for_the_old_one(shop):
    """The same wish, so the same fingerprint; the two versions differ in their calls."""
    old = shop.result("a", "red", fingerprint="ab" * 32)
    shop.publish("night-1", old, shop.result("b", "old"))
    shop.storage.delete(shop.layout.absolute(old.images[0].uri))
    again = shop.result("a", "other red", fingerprint="ab" * 32, number=2, extension="jpg")
    shop.publish("night-2", again, shop.result("b", "new"))
    assert shop.shown() == {"a.jpg": "other red 1", "b.png": "new 1"}
    done = shop.rollback()
    # "b" goes back; of "a" nothing is left of that time but a line, so it stays, and the mapping says so.
    assert shop.shown() == {"a.jpg": "other red 1", "b.png": "old 1"}
    assert (done.unpublished, done.examples, shop.true()) == (1, ("a",), True)
    assert {it.key: it.number for it in read_mapping(shop.storage, shop.root, "night-1")} == {"a.jpg": 2, "b.png": 1}


@pytest.mark.parametrize("before", [True, False])
@pytest.mark.parametrize("accident", ["deleted", "overwritten"])
def test_a_picture_that_is_gone_from_s3_is_reported_and_the_old_one_stays_whole(shop, before, accident):
    if before:
        old = shop.result("a", "old", count=2)
        shop.publish("night-0", old)
        shop.storage.delete(shop.layout.absolute(old.images[0].uri))  # the key itself still shows it
    result = shop.result("a", "red", count=2)
    uri = shop.layout.absolute(result.images[1].uri)
    shop.storage.delete(uri) if accident == "deleted" else shop.storage.put(uri, drawn("something else"))
    done = shop.publish("night-1", result, shop.result("b", "blue"))
    assert shop.shown() == ({"a-1.png": "old 1", "a-2.png": "old 2"} if before else {}) | {"b.png": "blue 1"}
    assert (done.unpublished, done.outcomes, shop.true()) == (1, {"bought": 1, "lost": 1}, True)
    lost = shop.outcomes("night-1")["a"]
    assert (lost.outcome, lost.reason) == ("lost", "missing")


def test_a_catalogue_that_was_copied_publishes_rolls_back_and_is_finished_anew_where_it_is(shop, s3):
    first, second = shop.result("a", "red", side=64), shop.result("a", "blue", side=64)
    shop.publish("night-1", first)
    shop.publish("night-2", second)
    unchanged = shop.unchanged(second)
    shop.run("night-3", shop.result("b", "new"), planned=(unchanged,))
    shop = shop.moved_to(f"s3://{s3.bucket}/moved/{shop.root.rpartition('/')[2]}")
    shop.rollback()
    assert shop.shown() == {"a.png": "red 1"}
    assert shop.publish("night-3").outcomes == {"unchanged": 1, "bought": 1}
    assert shop.shown() == {"a.png": "blue 1", "b.png": "new 1"}
    asked = Finishing.model_validate({"renditions": {"small": {"width": 16}}})
    call = Ledger(shop.storage, shop.root).last(second.fingerprint)
    assert call is not None
    files, problems = finish(shop.storage, shop.layout, call, asked)
    finished = unchanged.model_copy(
        update={"outcome": "reused", "images": call.images, "finished": files, "finishing": asked.digest}
    )
    shop.publish("night-4", finished, finishing=asked)
    assert (problems, sorted(shop.shown())) == ((), ["a.png", "b.png", "small/a.jpg"])
    assert shop.true()


# --- keys that S3 refuses --------------------------------------------------------------------------


@pytest.mark.parametrize("before", [True, False])
def test_a_key_that_s3_refuses_stops_no_other_product_and_stays_as_it_was(shop, bad, before):
    if before:
        shop.publish("night-1", *[shop.result(sku, "old", count=2) for sku in "abc"])
    bad.fault("403", methods="COPY", key=r"/b-2\.png$")
    night = [shop.result(sku, "new", count=2) for sku in "abc"]
    done = shop.publish("night-2", *night, storage=Storage("aws_default"), max_failure_ratio=0)
    new = {f"{sku}-{n}.png": f"new {n}" for sku in "ac" for n in (1, 2)}
    assert shop.shown() == new | ({"b-1.png": "old 1", "b-2.png": "old 2"} if before else {})
    assert (done.unpublished, done.examples, shop.true()) == (1, ("b",), True)
    refused = shop.outcomes("night-2")["b"]
    assert (refused.outcome, refused.reason) == ("failed", "publish")
    assert "AccessDenied" in refused.error
    bad.lift()
    assert shop.publish("night-3", planned=tuple(map(shop.unchanged, night))).copied == 2
    assert shop.shown() == new | {"b-1.png": "new 1", "b-2.png": "new 2"}


def test_a_product_of_which_nothing_whole_is_left_is_taken_out(shop, bad):
    old = shop.result("a", "old", count=2)
    shop.publish("night-1", old, shop.result("b", "old"))
    shop.storage.delete(shop.layout.absolute(old.images[0].uri))
    bad.fault("403", methods="COPY", key=r"/a-2\.png$")  # when a-1 shows the new picture already
    done = shop.publish("night-2", shop.result("a", "new", count=2), storage=Storage("aws_default"))
    assert shop.shown() == {"b.png": "old 1"}
    assert (done.examples, shop.true()) == (("a",), True)


def test_a_key_that_s3_does_not_remove_stays_in_the_mapping_until_it_does(shop, bad):
    shop.publish("night-1", shop.result("a", "old"), shop.result("b", "old"))
    bad.fault("403", methods="DELETE", key=r"/a\.png$")
    night = [shop.result(sku, "new", extension="jpg") for sku in "ab"]
    done = shop.publish("night-2", *night, storage=Storage("aws_default"))
    assert shop.shown() == {"a.png": "old 1", "a.jpg": "new 1", "b.jpg": "new 1"}
    assert (done.removed, shop.true()) == (1, True)
    bad.lift()
    shop.publish("night-3", planned=tuple(map(shop.unchanged, night)))
    assert shop.shown() == {"a.jpg": "new 1", "b.jpg": "new 1"}


def test_an_s3_that_refuses_everything_is_no_matter_of_single_keys(shop, bad):
    night = [shop.result(f"p{n}", "new") for n in range(30)]
    bad.fault("403", methods="COPY")
    with pytest.raises(StoreError, match="nothing was switched"):
        shop.publish("night-1", *night, storage=Storage("aws_default"))
    assert shop.current().run is None
    bad.lift()
    assert shop.publish("night-1").copied == 30
    assert shop.tidy()


# --- kills -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("dies_at", [1, 4, 9])
def test_a_killed_publish_leaves_the_version_as_it_was_and_can_be_run_again(shop, dies_at):
    shop.publish("night-1", *[shop.result(f"p{n}", "old") for n in range(5)])
    new = [shop.result(f"p{n}", "new") for n in range(9)]
    with pytest.raises(KeyboardInterrupt):
        shop.publish("night-2", *new, storage=Counting(dies_at), workers=1)
    assert shop.current().run == "night-1"
    shop.publish("night-2")
    assert shop.shown() == {f"p{n}.png": "new 1" for n in range(9)}
    assert (shop.current().run, shop.current().previous) == ("night-2", "night-1")
    assert shop.true()
    assert shop.tidy()


def test_after_a_killed_publish_another_run_makes_every_key_true(shop):
    """What the dead one changed stands in no mapping, but in its note."""
    old = [shop.result(f"p{n}", "old") for n in range(5)]
    shop.publish("night-1", *old)
    dead = [shop.result(f"p{n}", "dead") for n in range(9)]
    with pytest.raises(KeyboardInterrupt):
        shop.publish("night-2", *dead, storage=Counting(8), workers=1)
    assert shop.shown()["p6.png"] == "dead 1"
    with pytest.raises(KeyboardInterrupt):
        shop.publish("night-3", shop.result("x", "new"), storage=Counting(1, later=LATER), workers=1)
    planned = tuple(shop.unchanged(it) for it in old)
    shop.publish("night-4", shop.result("x", "new"), planned=planned, storage=Counting(later=2 * LATER))
    assert shop.shown() == {f"p{n}.png": "old 1" for n in range(5)} | {"x.png": "new 1"}
    assert shop.true()
    assert shop.tidy()


def test_after_a_killed_publish_a_rollback_to_the_current_version_repairs_it(shop):
    shop.publish("night-1", shop.result("a", "old"), shop.result("b", "old"))
    new = [shop.result(sku, "new") for sku in "abc"]
    with pytest.raises(KeyboardInterrupt):
        shop.publish("night-2", *new, storage=Counting(3), workers=1)
    shop.rollback(to="night-1", storage=Counting(later=LATER))
    assert shop.shown() == {"a.png": "old 1", "b.png": "old 1"}
    assert shop.current().run == "night-1"


PUBLISH = """
    import sys
    from airflow_provider_bgai.catalogue.publishing.publish import publish
    from airflow_provider_bgai.storage import Storage

    class Slow(Storage):
        copies = 0
        def copy(self, source, target):
            super().copy(source, target)
            Slow.copies += 1
            print(Slow.copies, flush=True)

    publish(Slow("aws_default"), sys.argv[1], sys.argv[2], workers=1)
"""


def test_publish_survives_sigkill(shop):
    shop.run("night-1", *[shop.result(f"p{n}", "new") for n in range(40)])
    command = [sys.executable, "-c", textwrap.dedent(PUBLISH), shop.root, "night-1"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env={**os.environ}) as process:
        assert process.stdout is not None
        for line in process.stdout:
            if line.strip() == "15":
                process.send_signal(signal.SIGKILL)
                break
    assert process.returncode == -signal.SIGKILL
    assert 15 <= len(shop.shown()) < 40
    assert shop.current().run is None
    assert shop.publish("night-1").pictures == len(shop.shown()) == 40
    assert shop.current().run == "night-1"
    assert shop.tidy()


# --- any sequence of them --------------------------------------------------------------------------


class Refusing(MemoryStorage):
    """Refuses to change some keys."""

    def __init__(self) -> None:
        super().__init__()
        self.refused: tuple[str, ...] = ()

    def copy(self, source: str, target: str) -> None:
        self._check(target)
        super().copy(source, target)

    def delete(self, uri: str) -> None:
        self._check(uri)
        super().delete(uri)

    def _check(self, uri: str) -> None:
        if uri.endswith(self.refused):
            raise ClientError({"Error": {"Code": "AccessDenied"}}, "CopyObject")


SKUS = "abc"
NIGHT = st.fixed_dictionaries(
    {}, optional={sku: st.tuples(st.sampled_from(["red", "blue"]), st.sampled_from(["png", "jpg"])) for sku in SKUS}
)
STEP = st.one_of(
    st.tuples(st.just("night"), NIGHT, st.sets(st.sampled_from([f"/{sku}.png" for sku in SKUS]), max_size=1)),
    st.tuples(st.just("killed"), NIGHT, st.integers(1, 60)),
    st.tuples(st.just("rollback"), st.integers(0, 9), st.sets(st.sampled_from([f"/{sku}.jpg" for sku in SKUS]))),
    st.tuples(st.just("delete"), st.integers(0, 9), st.just(0)),
)


@settings(max_examples=200)
@given(st.lists(STEP, min_size=3, max_size=9))
def test_after_anything_the_shop_shows_what_the_mapping_says(steps):
    shop = Shop(Refusing(), "s3://catalogue/shop")
    storage: Any = shop.storage
    latest: dict[str, Result] = {}
    runs: list[str] = []

    def wish(sku: str, picture: str, extension: str) -> Result:
        """What a plan and a shard would make of it: unchanged while its picture is there, else bought anew."""
        name = f"{sku} {picture}"
        found, number = latest.get(name), 1
        if found is not None:
            if storage.head(shop.layout.absolute(found.images[0].uri)):
                return shop.unchanged(found)
            number = 1 + int(found.images[0].uri.split(".")[1].partition("-")[0])
        latest[name] = shop.result(
            sku,
            f"{picture} {number}",
            fingerprint=f"{ord(sku) + len(picture):064x}",
            number=number,
            extension=extension,
        )
        return latest[name]

    def night(wanted: dict[str, tuple[str, str]]) -> str:
        results = [wish(sku, *of) for sku, of in wanted.items()]
        unchanged = tuple(it for it in results if it.outcome == "unchanged")
        return shop.run(f"night-{len(runs) + 1}", *[it for it in results if it not in unchanged], planned=unchanged)

    for kind, what, how in steps:
        if kind == "night":
            run = night(what)
            storage.refused = tuple(how)
            shop.publish(run, max_failure_ratio=1, workers=1)
            runs.append(run)
        elif kind == "killed":
            run = night(what)
            storage.plan(how, lambda: (_ for _ in ()).throw(Killed()))
            try:
                shop.publish(run, max_failure_ratio=1, workers=1)
            except Killed:
                storage.clock += LATER
                shop.publish(night(what), max_failure_ratio=1, workers=1)
            storage.at = None
            runs.append(run)
        elif kind == "rollback" and runs:
            to = runs[what % len(runs)]
            then = {it.sku: it for it in read_mapping(storage, shop.root, to)}
            storage.refused = tuple(how)
            shop.rollback(to)
            shown = {it.sku: it.sha256 for it in read_mapping(storage, shop.root, to)}
            for sku, entry in then.items():
                if storage.head(shop.layout.absolute(entry.uri)) and not any(how):
                    assert shown[sku] == entry.sha256
        elif kind == "delete" and latest:
            result = list(latest.values())[what % len(latest)]
            storage.refused = ()
            storage.delete(shop.layout.absolute(result.images[0].uri))
        storage.refused = ()
        assert shop.true(), (kind, what, how)
