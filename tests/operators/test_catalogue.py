"""Nights of a catalogue in real DAG runs: plan, generate, publish, roll back."""

from __future__ import annotations

import io
import json

import pytest

from airflow_provider_bgai.operators._shard import label_of
from airflow_provider_bgai.ui.links import ROUTES, ReportLink
from tests.dags.catalogue import CATALOGUE_PARAMS
from tests.imaging.signed import CERTIFICATES, KEY, pem
from tests.imaging.signed import read as read_signature
from tests.operators.conftest import RECIPE


def names(s3, shop: str) -> list[str]:
    """What the shop reads."""
    prefix = shop.partition("//")[2].partition("/")[2] + "/"
    found = s3.client().list_objects_v2(Bucket=s3.bucket, Prefix=prefix).get("Contents", [])
    return sorted(item["Key"].removeprefix(prefix) for item in found if "/_bgai/" not in item["Key"])


@pytest.mark.parametrize("waiting", ["blocking", "deferred"])
def test_a_first_night_buys_everything_and_a_second_one_nothing(night, catalogue, box, s3, shop, waiting):
    products = catalogue(6)
    first = night(waiting, **products)
    assert first["state"] == "success"
    assert len(first["generate"]) == 2  # two shards
    assert names(s3, shop) == [f"SKU-{number}.png" for number in range(6)]
    assert box.images_charged() == 6
    assert first["publish"][0]["outcomes"] == {"bought": 6}

    second = night(waiting, **products)
    assert second["state"] == "success"
    assert second["plan"][0]["counts"] == {"unchanged": 6}
    assert second["publish"][0]["outcomes"] == {"unchanged": 6}
    assert box.images_charged() == 6


@pytest.mark.parametrize("waiting", ["blocking", "deferred"])
def test_a_mapped_task_is_named_by_its_shard_and_leads_to_the_runs_report(dags, catalogue, box, connections, waiting):
    run = dags[f"catalogue_{waiting}"].test(run_conf=CATALOGUE_PARAMS | catalogue(6))
    tasks = {it.map_index: it for it in run.get_task_instances() if it.task_id == "catalogue.generate"}
    assert {place: it.rendered_map_index for place, it in tasks.items()} == {
        0: "0000 · 5 products",
        1: "0001 · 1 product",
    }
    link = tasks[1].xcom_pull(task_ids="catalogue.generate", map_indexes=1, key=ReportLink.xcom_key)
    assert link.endswith("/tasks/catalogue.generate/1/report" if ROUTES else "/report.html")


def test_a_shard_that_cannot_be_read_is_named_by_its_number(storage, shop):
    assert label_of(f"{shop}/_bgai/runs/night/shards/0003.jsonl", "aws_default") == "0003"
    assert label_of("s3://nowhere/0004.jsonl", "aws_default") == "0004"


def test_exactly_what_changed_is_bought_again(night, catalogue, box):
    night(**catalogue(6))
    changed = night(**catalogue(6, titles={2: "Another thing", 5: "A third"}))
    assert changed["plan"][0]["counts"] == {"changed": 2, "unchanged": 4}
    assert changed["plan"][0]["changed"] == {"prompt": 2}
    assert box.images_charged() == 8


def test_a_wrong_row_is_reported_and_stops_no_other(night, catalogue, box, s3, shop):
    rows = "../evil,product.png,Evil,toys\r\nSKU-0,product.png,Twice,toys\r\nSKU-9,nothing.png,Gone,toys\r\n"
    done = night(**catalogue(4, extra_rows=rows), max_failure_ratio=0.9)
    assert done["state"] == "success"
    assert done["plan"][0]["counts"] == {"new": 4, "refused": 3}
    assert names(s3, shop) == [f"SKU-{number}.png" for number in range(4)]


def test_a_wrong_recipe_fails_before_anything_is_spent(night, catalogue, box):
    done = night(**catalogue(2, recipe="version: 1\nprompt: '{{ title'\n"))
    assert done["state"] == "failed"
    assert box.requests == []


def test_a_budget_is_kept_and_the_rest_waits_for_the_next_night(night, catalogue, box, s3, shop):
    products = catalogue(6)
    tight = night(**products, budget={"run": {"pictures": 4}})
    assert tight["plan"][0]["counts"]["over_budget"] == 2
    assert box.images_charged() == 4
    night(**products, budget={"run": {"pictures": 4}})
    assert box.images_charged() == 6
    assert len(names(s3, shop)) == 6


def test_too_many_failures_publish_nothing_and_lose_nothing(night, catalogue, box, s3, shop):
    products = catalogue(4)
    for _ in range(3):
        box.fault("picwish", "state_-7", times=1, on="submit")
    assert night(**products)["state"] == "failed"
    assert names(s3, shop) == []
    assert night(**products)["state"] == "success"
    assert len(names(s3, shop)) == 4
    assert box.images_charged() == 4


def test_a_rollback_restores_what_the_shop_showed_before(night, catalogue, s3, shop):
    night(**catalogue(2))
    client, key = s3.client(), f"{shop.partition('//')[2].partition('/')[2]}/SKU-0.png"
    before = client.get_object(Bucket=s3.bucket, Key=key)["Body"].read()
    night(**catalogue(2, titles={0: "Something else"}))
    assert client.get_object(Bucket=s3.bucket, Key=key)["Body"].read() != before
    night(dag_id="catalogue_rollback", destination=shop)
    assert client.get_object(Bucket=s3.bucket, Key=key)["Body"].read() == before


def test_a_night_and_a_rollback_write_the_shops_feeds_and_say_where(night, catalogue, s3, shop):
    recipe = RECIPE + 'alt: "{{ title }}, ours"\nfeed: {url: "https://cdn.example.com/p"}\n'
    client, key = s3.client(), f"{shop.partition('//')[2].partition('/')[2]}/feeds/feed.csv"

    def feed() -> bytes:
        return client.get_object(Bucket=s3.bucket, Key=key)["Body"].read()

    done = night(**catalogue(2, recipe=recipe))
    written = ["feed.csv", "feed.jsonl", "google.tsv", "woocommerce.csv"]
    assert names(s3, shop) == ["SKU-0.png", "SKU-1.png", *(f"feeds/{name}" for name in written)]
    assert sorted(done["publish"][0]["feeds"]) == [f"{shop}/feeds/{name}" for name in written]
    first = feed()
    night(**catalogue(2, recipe=recipe, titles={0: "Something else"}))
    assert b",https://cdn.example.com/p/SKU-0.png?v=" in feed()
    assert b',"Something else, ours",' in feed()
    assert feed() != first
    night(dag_id="catalogue_rollback", destination=shop)
    assert feed() == first


def test_a_list_of_skus_buys_only_those(night, catalogue, box):
    night(**catalogue(5), only=["SKU-1", "SKU-3"])
    assert box.images_charged() == 2


RENDITIONS = (
    RECIPE
    + """
renditions:
  thumbnail: {width: 64, height: 64}
  avif: {}
  amazon_main: {width: 600, height: 600, upscale: 8}
"""
)


def body(s3, uri: str) -> bytes:
    bucket, _, key = uri.removeprefix("s3://").partition("/")
    return s3.client().get_object(Bucket=bucket, Key=key)["Body"].read()


def test_every_published_file_is_labelled_whatever_its_kind(night, catalogue, s3, shop, tmp_path):
    import pyexiv2

    night(**catalogue(2, recipe=RENDITIONS))
    published = names(s3, shop)
    assert published == sorted(
        f"{folder}SKU-{number}.{extension}"
        for number in range(2)
        for folder, extension in (("", "png"), ("thumbnail/", "webp"), ("avif/", "avif"), ("amazon_main/", "jpg"))
    )
    for name in published:
        file = tmp_path / name.replace("/", "-")
        file.write_bytes(body(s3, f"{shop}/{name}"))
        with pyexiv2.Image(str(file)) as picture:
            source_type = picture.read_xmp()["Xmp.iptcExt.DigitalSourceType"]
        made_by_ai = not name.startswith("amazon_main/")
        assert source_type.endswith("compositeWithTrainedAlgorithmicMedia" if made_by_ai else "algorithmicallyEnhanced")


def test_another_rendition_makes_new_files_and_no_new_bill(night, catalogue, box, s3, shop):
    night(**catalogue(2))
    assert names(s3, shop) == ["SKU-0.png", "SKU-1.png"]
    second = night(**catalogue(2, recipe=RENDITIONS))
    assert (second["plan"][0]["counts"], second["plan"][0]["changed"]) == ({"unchanged": 2}, {"finishing": 2})
    assert second["plan"][0]["calls"] == 0
    assert len(names(s3, shop)) == 8
    third = night(**catalogue(2, recipe=RENDITIONS))
    assert (third["plan"][0]["changed"], third["publish"][0]["copied"]) == ({}, 0)
    assert len(names(s3, shop)) == 8
    night(**catalogue(2))
    assert names(s3, shop) == ["SKU-0.png", "SKU-1.png"]
    assert box.images_charged() == 2


@pytest.mark.parametrize("fault", ["redrawn_product", "blank_image"])
def test_a_picture_that_is_not_the_product_is_put_aside_and_said_so(night, catalogue, box, s3, shop, fault):
    box.fault("picwish", fault, times=1, on="download")
    first = night(**catalogue(3), max_failure_ratio=0.9)
    report = first["publish"][0]
    assert report["outcomes"] == {"bought": 2, "quarantined": 1}
    assert report["charged"] == box.images_charged() == 3
    assert len(names(s3, shop)) == 2
    prefix = shop.partition("//")[2].partition("/")[2] + "/_bgai/quarantine/"
    assert s3.client().list_objects_v2(Bucket=s3.bucket, Prefix=prefix)["KeyCount"] == 1
    # Nobody buys it again by chance, and whoever asks for it does.
    second = night(**catalogue(3), max_failure_ratio=0.9)
    assert second["plan"][0]["counts"] == {"unchanged": 2, "quarantined": 1}
    assert box.images_charged() == 3
    third = night(**catalogue(3), only="failed")
    assert third["plan"][0]["counts"]["failed_before"] == 1
    assert len(names(s3, shop)) == 3
    assert box.images_charged() == 4


def test_such_a_picture_is_bought_again_where_the_recipe_says_so(night, catalogue, box, s3, shop):
    box.fault("picwish", "redrawn_product", times=1, on="download")
    done = night(**catalogue(3, recipe=RECIPE + "retries: 1\n"))
    assert done["publish"][0]["outcomes"] == {"bought": 3}
    assert done["publish"][0]["charged"] == box.images_charged() == 4
    assert len(names(s3, shop)) == 3


def test_the_report_shows_before_and_after_and_what_failed(night, catalogue, box, s3, shop):
    box.fault("picwish", "redrawn_product", times=1, on="download")
    done = night(**catalogue(3), max_failure_ratio=0.9)
    page = body(s3, done["publish"][0]["report"]).decode()
    assert page.count('"sku":') == 3
    assert "does not show the product" in page


def test_a_source_the_vendor_would_not_take_is_made_to_fit(night, catalogue, upload, box, shop):
    """Small and grey: PicWish wants 256 px at least, and the product is found where it was padded to."""
    import numpy as np
    from PIL import Image

    small = np.zeros((120, 90, 4), np.uint8)
    small[20:100, 20:70] = np.random.default_rng(1).integers(0, 255, (80, 50, 1)).repeat(4, 2)
    small[20:100, 20:70, 3] = 255
    file = io.BytesIO()
    Image.fromarray(small).convert("LA").save(file, "PNG")
    products = catalogue(1)
    folder = shop.partition("//")[2].partition("/")[2] + "-source"
    upload(f"{folder}/product.png", file.getvalue())
    assert night(**products, max_failure_ratio=1.0)["publish"][0]["outcomes"] == {"bought": 1}


@pytest.mark.parametrize("kind", ["opaque", "empty", "cut off"])
def test_a_source_that_is_no_cut_out_is_refused_before_anything_is_paid(
    night, catalogue, upload, product, box, shop, kind
):
    from PIL import Image

    picture = Image.open(io.BytesIO(product)).convert("RGBA")
    if kind != "cut off":
        picture.putalpha(255 if kind == "opaque" else 0)
    file = io.BytesIO()
    picture.save(file, "PNG")
    products = catalogue(1)
    folder = shop.partition("//")[2].partition("/")[2] + "-source"
    upload(f"{folder}/product.png", file.getvalue()[: None if kind != "cut off" else 2000])
    done = night(**products, max_failure_ratio=1.0)
    assert done["publish"][0]["outcomes"] == {"refused": 1}
    assert box.requests == []


def test_a_recipe_that_says_so_has_every_file_signed_with_the_shop_s_certificate(
    night, catalogue, box, s3, shop, monkeypatch
):
    recipe = RENDITIONS + "sign: true\n"
    done = night(**catalogue(1, recipe=recipe))  # without a certificate
    assert done["state"] == "failed"
    assert box.requests == []
    extra = {"certificate": CERTIFICATES.decode()}
    connection = {"conn_type": "generic", "password": pem(KEY).decode(), "extra": extra}
    monkeypatch.setenv("AIRFLOW_CONN_CERTIFICATE", json.dumps(connection))
    assert night(**catalogue(1, recipe=recipe))["state"] == "success"
    published = names(s3, shop)
    assert len(published) == 4
    for name in published:
        kind = {"png": "PNG", "jpg": "JPEG", "webp": "WEBP", "avif": "AVIF"}[name.rpartition(".")[2]]
        state, manifest, _ = read_signature(kind, body(s3, f"{shop}/{name}"))
        assert state == "Trusted"
        assert manifest["signature_info"]["common_name"] == "a shop"


def test_two_groups_of_one_dag_make_their_own_pictures_by_their_own_vendors(night, catalogue, box, s3, shop, upload):
    products = catalogue(3)
    rows = "sku,image,title,category\r\n" + "".join(f"OTHER-{n},product.png,Thing {n},toys\r\n" for n in range(2))
    other = upload(products["manifest"].removeprefix(f"s3://{s3.bucket}/").replace(".csv", "-2.csv"), rows.encode())

    done = night(dag_id="catalogue_twins", **products, other_manifest=other)

    assert done["state"] == "success"
    assert {vendor: count for vendor, count in box.bill().items() if count} == {"picwish": 3, "photoroom": 2}
    assert names(s3, shop) == ["OTHER-0.png", "OTHER-1.png", "SKU-0.png", "SKU-1.png", "SKU-2.png"]
    assert sorted(report["charged"] for report in done["publish"]) == [2, 3]


def test_the_months_costs_are_the_vendors_counters(night, catalogue, box, shop):
    night(**catalogue(4))
    box.fault("picwish", "redrawn_product", times=1)
    night(**catalogue(4, titles={0: "Another thing"}), max_failure_ratio=1.0)

    costs = night(dag_id="catalogue_costs", destination=shop)["costs"][0]

    assert costs["by_vendor"]["picwish"]["charged"] == box.bill()["picwish"] == 5
    assert len(costs["by_run"]) == 2
    assert costs["by_category"].keys() == {"toys", "tools"}
