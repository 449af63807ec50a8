"""The feeds list what the shop shows, in the columns of the importers' own templates, and readers that know nothing of
this package find in them what was put in."""

from __future__ import annotations

import csv
import hashlib
import io
import json
from collections.abc import Iterator
from typing import Any
from urllib.parse import unquote, urlsplit

import pyarrow.csv
import pytest

from airflow_provider_bgai.catalogue.publishing import feeds
from airflow_provider_bgai.catalogue.publishing.feeds import write_feeds
from airflow_provider_bgai.catalogue.publishing.publish import read_mapping, rollback
from airflow_provider_bgai.catalogue.publishing.scratch import Scratch
from airflow_provider_bgai.catalogue.publishing.versions import Entry, Place
from airflow_provider_bgai.exceptions import InvalidRequestError
from airflow_provider_bgai.imaging.label import read_label
from benchmarks.memory import MB, peak, reset_peak
from tests.catalogue.nights import RECIPE, Catalogue, photo

# The first lines of the templates that Shopify and WooCommerce publish, and the attributes of Merchant Center.
SHOPIFY = """Title,URL handle,Description,Vendor,Product category,Type,Tags,Published on online store,Status,SKU,
Barcode,Option1 name,Option1 value,Option1 Linked To,Option2 name,Option2 value,Option2 Linked To,Option3 name,
Option3 value,Option3 Linked To,Price,Compare-at price,Cost per item,Charge tax,Tax code,Unit price total measure,
Unit price total measure unit,Unit price base measure,Unit price base measure unit,Inventory tracker,
Inventory quantity,Continue selling when out of stock,Weight value (grams),Weight unit for display,
Requires shipping,Fulfillment service,Product image URL,Image position,Image alt text,Variant image URL,Gift card,
SEO title,SEO description"""
WOOCOMMERCE = """ID,Type,SKU,Name,Published,Is featured?,Visibility in catalog,Short description,Description,
Date sale price starts,Date sale price ends,Tax status,Tax class,In stock?,Stock,Backorders allowed?,
Sold individually?,Weight (kg),Length (cm),Width (cm),Height (cm),Allow customer reviews?,Purchase note,Sale price,
Regular price,Categories,Tags,Shipping class,Images,Download limit,Download expiry days,Parent,Grouped products,
Upsells,Cross-sells,External URL,Button text,Position"""
GOOGLE = "id,title,description,link,image_link,additional_image_link,price,availability"

URL = "https://cdn.example.com/pictures"
TITLES = {
    "A-1": 'Cup, 0.3 l, "Morning" ☕',
    "Ä 2": "Kanne\nmit Deckel; blau, 👩‍🍳",
    "=3+4": "@Teller, 20 % kleiner",
}
FEED = {"url": f"{URL}/", "title": "{{ title }}", "handle": "{{ handle | default('') }}"}
WITH_FEED = {**RECIPE, "alt": "{{ title }}, on oak", "feed": FEED}


def columns_of(template: str) -> set[str]:
    return set(template.replace("\n", "").split(","))


def text(catalogue: Catalogue, name: str) -> str:
    return catalogue.storage.read(catalogue.layout.feed(name)).decode("utf-8")


def rows(catalogue: Catalogue, name: str) -> list[dict[str, str]]:
    delimiter = "\t" if name.endswith(".tsv") else ","
    return list(csv.DictReader(io.StringIO(text(catalogue, name), newline=""), delimiter=delimiter, strict=True))


def lines(catalogue: Catalogue) -> dict[str, Any]:
    found = [json.loads(line) for line in text(catalogue, "feed.jsonl").splitlines()]
    return {line["sku"]: line for line in found}


def names(catalogue: Catalogue) -> list[str]:
    return sorted(uri.rpartition("/")[2] for uri in catalogue.storage.list_uris(catalogue.layout.feeds))


def shown_at(catalogue: Catalogue, address: str) -> bytes:
    """What the shop shows at an address of a feed. It has to be what the address names."""
    assert address.isascii()
    assert address.startswith(f"{URL}/")
    parts = urlsplit(address)
    body = catalogue.storage.read(f"{catalogue.root}/{unquote(parts.path).removeprefix('/pictures/')}")
    assert parts.query == f"v={hashlib.sha256(body).hexdigest()[:12]}"
    return body


@pytest.fixture
def shop(catalogue: Catalogue) -> Catalogue:
    for number, (sku, title) in enumerate(TITLES.items(), start=1):
        catalogue.add(sku, photo(sku), title=title, handle=f"handle-{number}")
    return catalogue


def test_each_importer_gets_its_own_columns_with_every_address_label_and_text(shop):
    recipe = {**WITH_FEED, "count": 2, "renditions": {"shopify": {"width": 64, "height": 64}, "tiny": {"width": 32}}}
    shop.night(recipe)
    assert names(shop) == ["feed.csv", "feed.jsonl", "google.tsv", "shopify.csv", "woocommerce.csv"]
    said = {sku: " ".join(title.split()) for sku, title in TITLES.items()}
    known = lines(shop)
    assert {sku: line["title"] for sku, line in known.items()} == said
    for line in known.values():
        assert [picture["position"] for picture in line["pictures"]] == [1, 2]
        for picture in (*line["pictures"], *(it for one in line["pictures"] for it in one["renditions"].values())):
            body = shown_at(shop, picture["url"])
            assert picture["sha256"] == hashlib.sha256(body).hexdigest()
            label = read_label(body)
            assert label is not None
            assert picture["label"] == label.source_type

    def urls(sku: str, rendition: str = "") -> list[str]:
        pictures = known[sku]["pictures"]
        return [(it["renditions"][rendition] if rendition else it)["url"] for it in pictures]

    table = rows(shop, "feed.csv")
    columns = ["sku", "position", "url", "alt", "label", "sha256", "shopify_url", "tiny_url"]
    assert [list(row) for row in table] == [columns] * 6
    for row in table:
        place = int(row["position"]) - 1
        assert row["url"] == urls(row["sku"])[place]
        assert (row["shopify_url"], row["tiny_url"]) == (
            urls(row["sku"], "shopify")[place],
            urls(row["sku"], "tiny")[place],
        )
        assert row["alt"] == f"{said[row['sku']]}, on oak"
        assert row["sha256"] == known[row["sku"]]["pictures"][place]["sha256"]

    shopify = rows(shop, "shopify.csv")
    assert set(shopify[0]) <= columns_of(SHOPIFY)
    handles = {f"handle-{number}": sku for number, sku in enumerate(TITLES, start=1)}
    assert [(row["URL handle"], row["Image position"]) for row in shopify] == sorted(
        ((handle, position) for handle in handles for position in ("1", "2")), key=lambda it: handles[it[0]]
    )
    for row in shopify:
        sku, first = handles[row["URL handle"]], row["Image position"] == "1"
        assert row["Title"] == (said[sku] if first else "")
        assert row["Product image URL"] == urls(sku, "shopify")[int(row["Image position"]) - 1]
        assert row["Image alt text"] == f"{said[sku]}, on oak"

    woocommerce = rows(shop, "woocommerce.csv")
    assert set(woocommerce[0]) <= columns_of(WOOCOMMERCE)
    assert {row["SKU"]: row["Images"].split(", ") for row in woocommerce} == {sku: urls(sku) for sku in TITLES}

    google = rows(shop, "google.tsv")
    assert set(google[0]) <= columns_of(GOOGLE)
    assert '"' not in text(shop, "google.tsv")  # where several addresses would be taken for one
    assert {row["id"]: (row["image_link"], row["additional_image_link"]) for row in google} == {
        sku: tuple(urls(sku)) for sku in TITLES
    }


@pytest.mark.parametrize(
    ("name", "kind"),
    [
        ("feed.csv", "text/csv; charset=utf-8"),
        ("google.tsv", "text/tab-separated-values; charset=utf-8"),
        ("feed.jsonl", "application/x-ndjson"),
    ],
)
def test_a_feed_says_what_it_is_and_in_which_letters(catalogue, s3, name, kind):
    write_feeds(catalogue.storage, catalogue.layout, many(2), URL, ["shopify"])
    key = catalogue.layout.feed(name).removeprefix(f"s3://{s3.bucket}/")
    assert s3.client().head_object(Bucket=s3.bucket, Key=key)["ContentType"] == kind
    assert "👩‍🍳☕" in text(catalogue, name) or name == "google.tsv"


def test_new_words_reach_the_feeds_and_cost_nothing(shop):
    shop.night(WITH_FEED)
    bill, before = shop.box.bill(), lines(shop)
    plan = shop.plan({**WITH_FEED, "alt": "Ours: {{ title }}"})
    assert (plan.counts, plan.calls, plan.shards) == ({"unchanged": 3}, 0, [])
    done = shop.publish(plan)
    assert (done.copied, done.removed, shop.box.bill()) == (0, 0, bill)
    assert done.feeds == tuple(
        shop.layout.feed(name) for name in ("feed.jsonl", "feed.csv", "shopify.csv", "woocommerce.csv", "google.tsv")
    )
    after = lines(shop)
    assert [line["alt"] for line in after.values()] == [f"Ours: {' '.join(TITLES[sku].split())}" for sku in after]
    assert {sku: line["pictures"] for sku, line in after.items()} == {sku: it["pictures"] for sku, it in before.items()}


def test_a_product_that_is_not_in_the_run_or_fails_keeps_what_was_said_of_it(shop):
    shop.night(WITH_FEED)
    del shop.rows["A-1"]
    shop.add("Ä 2", b"no picture", title="Another", handle="handle-2")
    plan = shop.plan({**WITH_FEED, "alt": "New: {{ title }}"})
    shop.generate(plan)
    shop.publish(plan, max_failure_ratio=1)
    assert {sku: line["alt"] for sku, line in lines(shop).items()} == {
        "A-1": f"{TITLES['A-1']}, on oak",
        "Ä 2": "Kanne mit Deckel; blau, 👩‍🍳, on oak",
        "=3+4": f"New: {TITLES['=3+4']}",
    }


def test_a_picture_that_two_products_share_has_the_words_of_each(catalogue):
    for sku in ("a", "b"):
        catalogue.add(sku, photo("same"), title="Cup")
    recipe = {**WITH_FEED, "alt": "{{ title }} {{ sku }}"}
    catalogue.night(recipe)
    assert catalogue.box.bill()["picwish"] == 1
    assert {sku: line["alt"] for sku, line in lines(catalogue).items()} == {"a": "Cup a", "b": "Cup b"}


def test_a_rollback_writes_the_feeds_of_then(shop):
    shop.night(WITH_FEED)
    then = {name: text(shop, name) for name in names(shop)}
    shop.add("A-1", photo("other"), title="Another cup", handle="handle-1")
    shop.night(WITH_FEED)
    assert {name: text(shop, name) for name in names(shop)} != then
    done = rollback(shop.storage, shop.root)
    assert {name: text(shop, name) for name in names(shop)} == then
    assert len(done.feeds) == 5
    assert {shown_at(shop, row["url"]) for row in rows(shop, "feed.csv")}


def test_what_an_importer_needs_and_is_not_there_leaves_the_product_out_and_an_empty_feed_is_none(shop):
    shop.rows["A-1"]["handle"] = ""
    shop.night(WITH_FEED)
    assert {row["URL handle"] for row in rows(shop, "shopify.csv")} == {"handle-2", "handle-3"}
    assert {row["SKU"] for row in rows(shop, "woocommerce.csv")} == set(TITLES)
    without = {**FEED, "handle": None, "google_id": "shop_{{ handle | default(sku) }}"}
    shop.night({**WITH_FEED, "feed": without})
    assert "shopify.csv" not in names(shop)
    assert [row["id"] for row in rows(shop, "google.tsv")] == ["shop_handle-3", "shop_A-1", "shop_handle-2"]


def test_without_a_feed_in_the_recipe_none_is_written_and_none_touched(shop):
    plan = shop.plan()
    shop.generate(plan)
    assert shop.publish(plan).feeds == ()
    assert names(shop) == []
    shop.night(WITH_FEED)
    before = text(shop, "feed.csv")
    shop.night()
    assert text(shop, "feed.csv") == before


def test_no_picture_takes_the_name_of_a_feed(catalogue):
    for sku in ("feed", "feed.csv"):
        catalogue.add(sku, photo(sku))
    plan = catalogue.plan({**WITH_FEED, "name": "feeds/{{ sku }}"})
    assert plan.counts == {"new": 1, "refused": 1}
    catalogue.generate(plan)
    assert catalogue.publish(plan, max_failure_ratio=1).outcomes == {"bought": 1, "refused": 1}
    assert [entry.key for entry in read_mapping(catalogue.storage, catalogue.root, plan.run)] == ["feeds/feed"]
    assert rows(catalogue, "feed.csv")[0]["sku"] == "feed"


def test_a_feed_that_is_too_large_for_its_importer_goes_on_in_further_files(catalogue, monkeypatch):
    monkeypatch.setattr(feeds, "SHOPIFY_BYTES", 1000)
    storage, layout = catalogue.storage, catalogue.layout

    def write(products: int) -> None:
        its = (it for it in many(products) if it.rendition == "")
        write_feeds(storage, layout, its, URL, [])

    write(20)
    parts = [name for name in names(catalogue) if name.startswith("shopify")]
    assert len(parts) > 2
    assert {len(storage.read(layout.feed(name))) <= 1000 for name in parts} == {True}
    found = [[row["URL handle"] for row in rows(catalogue, name)] for name in parts]
    assert sum(len(set(handles)) for handles in found) == 20  # none in two of them
    assert sorted(handle for handles in found for handle in handles) == [
        f"handle-{number}" for number in sorted(range(20), key=str)
    ]
    write(1)
    assert [name for name in names(catalogue) if name.startswith("shopify")] == ["shopify.csv"]


def many(products: int) -> Iterator[Entry]:
    for number in range(products):
        alt = f'Cup, "No. {number}", 0,3 l – 👩‍🍳☕, on oak' if number % 2 else f"=Becher; {number}\u00a0€, ‘blau’ 😀"
        words = {"alt": alt, "title": f"{number}, “Cup”", "handle": f"handle-{number}"}
        sku = f'{number:06},"ü"'
        for rendition in ("", "shopify"):
            key = f"{rendition}/{sku}.png".removeprefix("/")
            digest = hashlib.sha256(key.encode()).hexdigest()
            yield Entry(
                key=key, uri=key, sha256=digest, fingerprint="", sku=sku, rendition=rendition, label="x", words=words
            )


def test_100_000_products_are_written_in_flat_memory_and_read_by_another_reader(catalogue):
    """With commas, quotes, emoji and text beyond ASCII; by Arrow's reader, which is not Python's."""
    products = 100_000
    scratch = Scratch()
    scratch.put_entries("wanted", many(products))
    entries = map(Entry.model_validate_json, scratch.lines("wanted", by="sku"))
    before = reset_peak()
    write_feeds(catalogue.storage, catalogue.layout, entries, URL, scratch.renditions())
    assert peak() - before < 50 * MB
    scratch.close()
    handles = 0
    for name in (name for name in names(catalogue) if name.startswith("shopify")):
        body = catalogue.storage.read(catalogue.layout.feed(name))
        assert len(body) < 15_000_000
        handles += len(set(read(body).column("URL handle").to_pylist()))
    assert handles == products
    table = read(catalogue.storage.read(catalogue.layout.feed("feed.csv")))
    assert table.num_rows == products
    found = zip(*(table.column(name).to_pylist() for name in ("sku", "alt", "url", "shopify_url")), strict=True)
    originals = many(products)
    for (sku, alt, url, shopify), picture, rendition in zip(found, originals, originals, strict=False):
        assert (sku, alt) == (picture.sku, picture.words["alt"])
        assert unquote(url) == f"{URL}/{picture.key}?v={picture.sha256[:12]}"
        assert unquote(shopify) == f"{URL}/{rendition.key}?v={rendition.sha256[:12]}"


def read(body: bytes) -> Any:
    names = body.partition(b"\r\n")[0].decode().split(",")
    as_text = pyarrow.csv.ConvertOptions(column_types=dict.fromkeys(names, pyarrow.string()))
    return pyarrow.csv.read_csv(io.BytesIO(body), convert_options=as_text)


@pytest.mark.parametrize("key", ["feeds/feed.csv", "feeds/google.tsv", "feeds/shopify-2.csv"])
def test_the_name_of_a_feed_is_no_key(key):
    place = Place("s3://bucket/shop", "night")
    with pytest.raises(InvalidRequestError, match="is the name of a feed"):
        place.stable(key)
    assert place.stable(f"{key}.png") == f"s3://bucket/shop/{key}.png"
