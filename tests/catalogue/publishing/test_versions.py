"""A version names no key and no picture that it must not, whatever a list says; of two publishers one is refused."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor

import pytest

from airflow_provider_bgai.catalogue.publishing import scratch
from airflow_provider_bgai.catalogue.publishing.publish import publish
from airflow_provider_bgai.catalogue.publishing.versions import Place
from airflow_provider_bgai.exceptions import InvalidRequestError, PublishConflictError
from tests.catalogue.publishing.shop import LATER, Counting

HOSTILE = [
    "../other/a.png",
    "a/../../b.png",
    "/a.png",
    "a//b.png",
    "./a.png",
    "a\n.png",
    "_bgai/calls/fp",
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


def test_hostile_names_are_refused_and_stop_no_other(shop):
    before = {item.uri for item in shop.storage.list(shop.root.rpartition("/")[0] + "/")}
    hostile = [shop.result(f"evil-{n}", "bad", name=name) for n, name in enumerate(HOSTILE[:-1])]
    done = shop.publish("night-1", *hostile, shop.result("a", "red"), max_failure_ratio=1)
    assert shop.shown() == {"a.png": "red 1"}
    assert done.outcomes == {"bought": 1, "refused": len(hostile)}
    found = shop.outcomes("night-1")
    assert all("Not published" in found[it.sku].error for it in hostile)
    written = {item.uri for item in shop.storage.list(shop.root.rpartition("/")[0] + "/")} - before
    assert all(uri.startswith(f"{shop.root}/") for uri in written)


@pytest.mark.parametrize("key", HOSTILE)
def test_a_hostile_key_in_a_mapping_is_neither_written_nor_deleted(key):
    with pytest.raises(InvalidRequestError):
        Place("s3://bucket/shop", "night-1").stable(key)


@pytest.mark.parametrize(
    "uri",
    [
        "s3://other/secret.png",
        "_bgai/calls/fp.png",
        "_bgai/quarantine/x.png",
        "_bgai/pictures/../x.png",
        "_bgai/finished/../x.png",
        "_bgai/finished.png",
        "../other/_bgai/pictures/x.png",
    ],
)
def test_only_the_catalogues_own_pictures_are_published(shop, uri):
    result = shop.result("a", "red")
    file = result.finished[0].model_copy(update={"uri": uri})
    done = shop.publish("night-1", result.model_copy(update={"finished": (file,)}), max_failure_ratio=1)
    assert (shop.shown(), done.outcomes) == ({}, {"refused": 1})


@pytest.mark.parametrize("run", ["", "..", "a/b", "a\nb", "a b", "a" * 201])
def test_a_hostile_run_is_refused(shop, run):
    with pytest.raises(InvalidRequestError, match="run="):
        shop.publish(run)


@pytest.mark.parametrize("destination", ["https://x/y", "s3://b/../c", "s3://b/{sku}.png", "bucket"])
def test_a_hostile_destination_is_refused(storage, destination):
    with pytest.raises(InvalidRequestError):
        publish(storage, destination, "night-1")


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
    assert sorted([current.run, *current.history]) == won
    assert shop.shown() == {f"p{n}.png": f"{current.run} 1" for n in range(10)}
    assert shop.true()


def test_a_publisher_that_was_asleep_too_long_writes_no_more(shop):
    shop.run("night-2", shop.result("a", "blue"), shop.result("b", "blue"))
    storage = Counting()

    def sleep(number: int) -> None:
        if number == 1:
            storage.later = LATER
            shop.publish("night-2", storage=Counting(later=LATER))

    storage.at_copy = sleep
    with pytest.raises(PublishConflictError):
        shop.publish("night-1", shop.result("a", "red"), shop.result("b", "red"), storage=storage, workers=1)
    assert shop.current().run == "night-2"
    assert shop.shown()["b.png"] == "blue 1"


def test_a_long_publish_renews_its_note(shop, monkeypatch):
    monkeypatch.setattr(scratch, "BATCH", 2)
    storage = Counting()
    storage.at_copy = lambda number: setattr(storage, "later", 20.0 * number)
    shop.publish("night-1", *[shop.result(f"p{n}", "red") for n in range(12)], storage=storage, workers=1)
    assert len(shop.shown()) == 12
