"""Names come from the shop's list and records may be damaged: nothing is written or shown that must not be."""

from __future__ import annotations

import pytest

from airflow_provider_bgai.catalogue.publishing.publish import publish
from airflow_provider_bgai.catalogue.publishing.versions import Place
from airflow_provider_bgai.exceptions import InvalidRequestError

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
    image = result.images[0].model_copy(update={"uri": uri})
    done = shop.publish("night-1", result.model_copy(update={"images": (image,)}), max_failure_ratio=1)
    assert (shop.shown(), done.outcomes) == ({}, {"refused": 1})


def test_two_products_of_one_name_are_not_mixed_up(shop):
    results = [shop.result(sku, f"of {sku}", name="same.{ext}") for sku in "ab"]
    shop.publish("night-1", *results, max_failure_ratio=0.5)
    assert shop.shown() == {"same.png": "of a 1"}
    assert "'same.png': is the name of 'a' as well" in shop.outcomes("night-1")["b"].error


def test_pictures_that_would_overwrite_each_other_are_refused(shop):
    shop.publish("night-1", shop.result("a", "red", count=2, name="a.{ext}"), max_failure_ratio=1)
    assert shop.shown() == {}


@pytest.mark.parametrize("run", ["", "..", "a/b", "a\nb", "a b", "a" * 201])
def test_a_hostile_run_is_refused(shop, run):
    with pytest.raises(InvalidRequestError, match="run="):
        shop.publish(run)


@pytest.mark.parametrize("destination", ["https://x/y", "s3://b/../c", "s3://b/{sku}.png", "bucket"])
def test_a_hostile_destination_is_refused(storage, destination):
    with pytest.raises(InvalidRequestError):
        publish(storage, destination, "night-1")
