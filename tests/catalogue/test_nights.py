"""Whole nights one after the other: what became of a photo in between is bought, or not, as what it is."""

from __future__ import annotations

import hashlib
from decimal import Decimal

import pytest

from airflow_provider_bgai.buying.buyer import Buyer
from tests.catalogue.nights import RECIPE, by_sku, photo
from tests.servers import serving_website


def test_the_same_bytes_in_another_dress_are_not_bought_again(catalogue, s3):
    """Uploaded in parts, touched, renamed by a link that is signed anew each night."""
    with serving_website() as site:
        for sku in ("parts", "touched", "plain"):
            catalogue.add(sku, photo(sku))
        link = site.answer("/link.png", photo("link"), ETag='"1"')
        catalogue.add("signed", image=f"{link}?signature=1")
        first, _ = catalogue.night()
        assert (first.counts, first.at_most, catalogue.box.bill()["picwish"]) == ({"new": 4}, 4, 4)

        uri = f"{catalogue.root}/images/parts.png".removeprefix(f"s3://{s3.bucket}/")
        upload = s3.client().create_multipart_upload(Bucket=s3.bucket, Key=uri)
        part = {"Bucket": s3.bucket, "Key": uri, "UploadId": upload["UploadId"]}
        etag = s3.client().upload_part(**part, PartNumber=1, Body=photo("parts"))["ETag"]
        s3.client().complete_multipart_upload(**part, MultipartUpload={"Parts": [{"PartNumber": 1, "ETag": etag}]})
        catalogue.storage.put(f"{catalogue.root}/images/touched.png", photo("touched"))
        catalogue.add("signed", image=f"{link}?signature=2")
        second, results = catalogue.night()
        # One whose ETag says nothing may have changed: the plan says "at most", and the bytes say no.
        assert (second.counts, second.calls, second.at_most) == ({"unchanged": 3, "changed": 1}, 1, 1)
        assert {(it.sku, it.outcome, it.price) for it in results} == {("parts", "reused", Decimal(0))}
        third, _ = catalogue.night()
        assert (third.counts, third.calls, third.shards) == ({"unchanged": 4}, 0, [])
    assert catalogue.box.bill()["picwish"] == 4
    assert catalogue.bounds() == {"picwish": (4, 0)}


def test_another_photo_behind_the_same_key_or_link_is_sent_compared_and_recorded(catalogue):
    recipe = {"prompt": "{{ title }} on oak"}
    with serving_website() as site:
        link = site.answer("/link.png", photo("old"), ETag='"1"')
        catalogue.add("key", photo("old"))
        catalogue.add("link", image=link)
        catalogue.night(recipe)
        catalogue.storage.put(f"{catalogue.root}/images/key.png", photo("key, new"))
        site.answer("/link.png", photo("link, new"), ETag='"2"')
        plan, results = catalogue.night(recipe)
        assert (plan.counts, plan.changed) == ({"changed": 2}, {"source": 2})
        assert {it.sku: it.source for it in results} == {
            sku: hashlib.sha256(photo(f"{sku}, new")).hexdigest() for sku in ("key", "link")
        }
        assert {it.images[0].fidelity.faithful for it in results} == {True}
        assert catalogue.plan(recipe).counts == {"unchanged": 2}
    assert catalogue.box.bill()["picwish"] == 4


@pytest.mark.parametrize("known", [False, True])
def test_a_photo_replaced_between_plan_and_generate_is_bought_as_what_it_is(catalogue, known):
    recipe = {"prompt": "{{ title }} on oak"}
    uri = catalogue.add("a", photo("old"))
    if known:
        catalogue.remember()
    plan = catalogue.plan(recipe)
    new = photo("new") + b"\0" * 777
    catalogue.storage.put(uri, new)
    (result,) = catalogue.generate(plan)
    catalogue.publish(plan)
    (call,) = catalogue.records()
    (sent,) = [it for it in catalogue.box.requests if it.kind == "submit"]
    assert {it["size"] for it in sent.files.values()} == {len(new)}
    assert {result.source, call.source_sha256} == {hashlib.sha256(new).hexdigest()}
    assert (call.fingerprint, result.images[0].fidelity.faithful) == (result.fingerprint, True)
    assert call.fingerprint != by_sku(catalogue, plan)["a"].fingerprint
    later = catalogue.plan(recipe)
    assert (later.counts, later.calls) == ({"unchanged": 1}, 0)


def test_the_bytes_that_named_a_wish_are_the_bytes_that_are_sent_and_compared(catalogue, monkeypatch):
    """Whatever lies behind its key meanwhile."""
    recipe, old, new = {"prompt": "{{ title }} on oak"}, photo("old"), photo("new") + b"\0" * 777
    uri, begin = catalogue.add("a", old), Buyer.begin

    async def replaced(self, purchase):
        catalogue.storage.put(uri, new)
        return await begin(self, purchase)

    monkeypatch.setattr(Buyer, "begin", replaced)
    _, (result,) = catalogue.night(recipe)
    (sent,) = [it for it in catalogue.box.requests if it.kind == "submit"]
    assert {it["size"] for it in sent.files.values()} == {len(old)}
    assert result.source == hashlib.sha256(old).hexdigest()
    assert result.images[0].fidelity.faithful
    assert catalogue.plan(recipe).counts == {"changed": 1}


def test_a_catalogue_that_was_moved_with_its_ledger_buys_nothing(catalogue, s3):
    for sku in "ab":
        catalogue.add(sku, photo(sku))
    catalogue.night()
    s3.client().create_bucket(Bucket="elsewhere")
    moved = catalogue.moved_to("s3://elsewhere/shop")
    recipe = {**RECIPE, "renditions": {"thumb": {"width": 100, "height": 100}}}
    plan, results = moved.night(recipe)
    assert (plan.calls, plan.at_most) == (2, 2)  # the photos lie elsewhere, so the plan cannot know them
    assert [(it.outcome, it.price, len(it.finished)) for it in results] == [("reused", Decimal(0), 2)] * 2
    assert {item.uri for item in moved.storage.list("s3://elsewhere/shop/thumb/")} != set()
    assert moved.plan(recipe).counts == {"unchanged": 2}
    assert moved.box.bill()["picwish"] == 2
    assert moved.bounds() == {"picwish": (2, 0)}
