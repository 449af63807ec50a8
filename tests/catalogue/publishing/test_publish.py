"""What the shop reads: switched as a whole; and what became of every product, and what it cost, stands beside it."""

from __future__ import annotations

import base64
import hashlib
import io
import uuid
from decimal import Decimal
from typing import Any

import pytest
from PIL import Image

from airflow_provider_bgai.buying.books import book
from airflow_provider_bgai.buying.calls import Ledger
from airflow_provider_bgai.buying.record import Call, Thumbnails
from airflow_provider_bgai.catalogue.evidence import read_evidence
from airflow_provider_bgai.catalogue.finishing import Finishing
from airflow_provider_bgai.catalogue.publishing.publish import read_mapping
from airflow_provider_bgai.catalogue.publishing.versions import Current, Entry
from airflow_provider_bgai.catalogue.results import Finished, Result
from airflow_provider_bgai.exceptions import InvalidRequestError, PublishError, TooManyFailuresError
from tests.catalogue.publishing.shop import Counting, Shop, drawn


def test_pictures_appear_under_their_stable_keys_with_type_and_hash(shop, s3):
    done = shop.publish("night-1", shop.result("a", "red"), shop.result("b", "blue", extension="jpg"))
    assert shop.shown() == {"a.png": "red 1", "b.jpg": "blue 1"}
    assert (done.products, done.pictures, done.copied, done.removed, done.unpublished) == (2, 2, 2, 0, 0)
    assert done.outcomes == {"bought": 2}
    key = f"{shop.root}/b.jpg".removeprefix(f"s3://{s3.bucket}/")
    head = s3.client().head_object(Bucket=s3.bucket, Key=key)
    assert head["ContentType"] == "image/jpg"
    assert head["Metadata"]["sha256"] == hashlib.sha256(drawn("blue 1")).hexdigest()


def test_current_names_the_run_and_its_mapping_names_every_picture_relative_to_the_catalogue(shop):
    result = shop.result("a", "red", number=7)
    done = shop.publish("night-1", result)
    assert shop.current() == Current(run="night-1", at=done.at)
    assert abs(done.at - shop.storage.now()) < 30
    (entry,) = read_mapping(shop.storage, shop.root, "night-1")
    image = result.images[0]
    assert entry == Entry(
        key="a.png",
        uri=image.uri,
        sha256=image.sha256,
        fingerprint=result.fingerprint,
        sku="a",
        number=7,
        finishing=Finishing().digest,
        label="compositeWithTrainedAlgorithmicMedia",
    )
    assert entry.uri.startswith(f"_bgai/pictures/{result.fingerprint}.007-1of1-")
    assert done.mapping == f"{shop.root}/_bgai/published/night-1.jsonl"
    assert shop.tidy()


def test_a_product_with_several_pictures_gets_all_of_them(shop):
    shop.publish("night-1", shop.result("a", "red", count=3))
    assert shop.shown() == {"a-1.png": "red 1", "a-2.png": "red 2", "a-3.png": "red 3"}


def test_what_is_unchanged_is_kept_and_costs_no_copy(shop):
    first = shop.result("a", "red")
    shop.publish("night-1", first, shop.result("b", "blue"))
    storage = Counting()
    done = shop.publish("night-2", shop.result("b", "green"), planned=(shop.unchanged(first),), storage=storage)
    assert shop.shown() == {"a.png": "red 1", "b.png": "green 1"}
    assert storage.copies == done.copied == 1
    assert done.previous == "night-1"


def test_products_that_are_not_in_the_run_keep_their_pictures(shop):
    shop.publish("night-1", shop.result("a", "red"), shop.result("b", "blue"))
    done = shop.publish("by-hand", shop.result("c", "grey"))
    assert shop.shown() == {"a.png": "red 1", "b.png": "blue 1", "c.png": "grey 1"}
    assert shop.true()
    assert done.products == 3


@pytest.mark.parametrize("outcome", ["failed", "refused", "lost", "held", "over_budget"])
def test_a_product_without_a_new_picture_keeps_its_old_one(shop, outcome):
    shop.publish("night-1", shop.result("a", "red"))
    shop.publish("night-2", shop.result("a", outcome=outcome), max_failure_ratio=1)
    assert shop.shown() == {"a.png": "red 1"}
    assert shop.true()


def test_an_unchanged_product_that_was_never_published_comes_from_the_record_of_its_call(shop):
    result = shop.result("a", "red", count=2)
    shop.publish("night-2", planned=(shop.unchanged(result),))
    assert shop.shown() == {"a-1.png": "red 1", "a-2.png": "red 2"}
    entries = list(read_mapping(shop.storage, shop.root, "night-2"))
    evidence = read_evidence(shop.storage, shop.layout, result.fingerprint, 1, entries[0].finishing)
    assert [it.sha256 for it in evidence] == [it.sha256 for it in entries]


def test_of_a_wish_that_was_bought_again_the_latest_picture_is_published(shop):
    """Also if the night that bought it published nothing, and the next one finds it unchanged."""
    first = shop.result("a", "red", fingerprint="ab" * 32)
    shop.publish("night-1", first)
    shop.storage.delete(shop.layout.absolute(first.images[0].uri))  # somebody does not like it
    second = shop.result("a", "better red", fingerprint="ab" * 32, number=2)
    with pytest.raises(TooManyFailuresError):
        shop.publish("night-2", second, shop.result("b", outcome="failed"))
    shop.publish("night-3", planned=(shop.unchanged(second),))
    assert shop.shown() == {"a.png": "better red 1"}


def test_a_key_that_a_product_no_longer_has_is_removed(shop):
    shop.publish("night-1", shop.result("a", "red", count=2), shop.result("b", "blue"))
    done = shop.publish(
        "night-2",
        shop.result("a", "green", count=1, name="a-{index}.{ext}"),
        shop.result("b", "blue", extension="jpg", number=2),
    )
    assert shop.shown() == {"a-1.png": "green 1", "b.jpg": "blue 1"}
    assert done.removed == 2


def test_an_answer_of_the_generate_stage_goes_before_one_of_the_plan(shop):
    done = shop.publish("night-1", shop.result("a", "red"), planned=(shop.result("a", outcome="held"),))
    assert done.outcomes == {"bought": 1}


def test_publishing_a_run_again_changes_nothing(shop):
    first = shop.publish("night-1", shop.result("a", "red"))
    storage = Counting()
    again = shop.publish("night-1", storage=storage)
    assert storage.copies == 0
    assert again == first.model_copy(update={"copied": 0, "at": again.at})
    assert shop.current() == Current(run="night-1", at=again.at)


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


def test_a_damaged_line_is_named_and_changes_nothing(shop):
    shop.run("night-1", shop.result("a", "red"))
    shop.storage.put(f"{shop.root}/_bgai/runs/night-1/results/0000.jsonl", b'{"sku": "a"}\n')
    with pytest.raises(PublishError, match=r"results/0000.jsonl, line 1: is no Result"):
        shop.publish("night-1")
    shop.storage.put(f"{shop.root}/_bgai/published/current", b"{}}")
    with pytest.raises(PublishError, match="published/current: cannot be read"):
        shop.rollback()
    assert shop.shown() == {}


# --- how much may fail -----------------------------------------------------------------------------


def failing(shop: Shop, outcome: str = "failed") -> list[Result]:
    """Two of ten products without a picture."""
    return [shop.result(f"p{n}", f"picture {n}", outcome="reused") for n in range(8)] + [
        shop.result(f"q{n}", outcome=outcome) for n in range(2)
    ]


@pytest.mark.parametrize("outcome", ["failed", "lost", "refused", "held"])
def test_too_many_failures_publish_nothing_and_say_how_many(shop, outcome):
    shop.publish("night-1", shop.result("a", "red"))
    before = shop.states()
    with pytest.raises(
        TooManyFailuresError, match=rf"2 of 10 products failed \(20.0%, allowed 19.0%\): 2 {outcome}, 8 r"
    ):
        shop.publish("night-2", *failing(shop, outcome), max_failure_ratio=0.19)
    assert shop.shown() == {"a.png": "red 1"}
    assert (shop.current().run, shop.states()) == ("night-1", before)
    assert len(shop.outcomes("night-2")) == 10
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


# --- labels and finished files ---------------------------------------------------------------------

RENDERED = Finishing.model_validate({"renditions": {"thumbnail": {}}})


def finished(shop: Shop, result: Result, *names: str) -> Result:
    """The result with files as a recipe with renditions asks for them."""
    files = []
    for name in names:
        uri = f"_bgai/finished/{result.fingerprint}.001-1of1-ab/{name or 'picture'}.png"
        body = drawn(f"{result.fingerprint} {name or 'itself'}")
        shop.storage.put(shop.layout.absolute(uri), body)
        digest = hashlib.sha256(body).hexdigest()
        known: dict[str, Any] = {"width": 1, "height": 1, "content_type": "image/png", "sha256": digest}
        files.append(Finished(uri=uri, rendition=name, index=1, bytes=len(body), **known))
    return result.model_copy(update={"finished": tuple(files), "finishing": RENDERED.digest})


@pytest.mark.parametrize("label", ["none", "broken", "another"])
def test_a_picture_without_a_proper_label_is_not_published_and_stops_no_other(shop, label):
    shop.publish("night-1", shop.result("a", "red"))
    file = io.BytesIO()
    Image.new("RGB", (1, 1)).save(file, "PNG")
    body = {
        "none": file.getvalue(),
        "broken": drawn("blue 1").replace(b"</rdf:RDF>", b"</rdf:END>"),
        "another": drawn("blue 1").replace(b"compositeWithTrainedAlgorithmicMedia", b"trainedAlgorithmicMedia"),
    }[label]
    bare = shop.result("a", "blue")
    digest = hashlib.sha256(body).hexdigest()
    bare = bare.model_copy(update={"finished": (bare.finished[0].model_copy(update={"sha256": digest}),)})
    shop.storage.put(shop.layout.absolute(bare.images[0].uri), body)
    done = shop.publish("night-2", bare, shop.result("b", "blue"))
    assert shop.shown() == {"a.png": "red 1", "b.png": "blue 1"}
    assert (done.unpublished, done.examples) == (1, ("a",))
    found = shop.outcomes("night-2")["a"]
    assert (found.outcome, found.reason) == ("failed", "label")
    assert "AI label" in found.error


def test_renditions_are_published_beside_the_pictures_and_go_with_them(shop):
    first, second = (finished(shop, shop.result(sku, "red"), "", "thumbnail") for sku in "ab")
    done = shop.publish("night-1", first, second, finishing=RENDERED)
    assert sorted(shop.shown()) == ["a.png", "b.png", "thumbnail/a.png", "thumbnail/b.png"]
    assert (done.products, done.pictures, done.copied) == (2, 4, 4)
    # Unchanged and finished as is asked for: nothing to do.
    unchanged = shop.unchanged(first)
    assert shop.publish("night-2", planned=(unchanged,), finishing=RENDERED).copied == 0
    assert len(shop.shown()) == 4
    # Not asked for any more.
    shop.publish("night-3", planned=(unchanged,))
    assert sorted(shop.shown()) == ["a.png", "b.png", "thumbnail/b.png"]
    shop.rollback()
    assert sorted(shop.shown()) == ["a.png", "b.png", "thumbnail/a.png", "thumbnail/b.png"]


def test_after_a_night_of_renditions_that_was_refused_the_next_one_publishes(shop):
    """``a`` was published as asked, then its source changed. The state still says how its old picture was finished."""
    shop.publish("night-1", finished(shop, shop.result("a", "red"), ""), finishing=RENDERED)
    new = shop.result("a", "blue")
    with pytest.raises(TooManyFailuresError):
        shop.publish("night-2", finished(shop, new, ""), shop.result("b", outcome="failed"), finishing=RENDERED)
    # A plan that takes it for unchanged makes nobody fail, and leaves the state as it was: the next one sees it.
    before = shop.states()
    done = shop.publish("night-3", planned=(shop.unchanged(new),), finishing=RENDERED, max_failure_ratio=0)
    assert (done.unfinished, done.failures, shop.states()) == (1, 0, before)
    assert "not finished as the recipe asks" in shop.outcomes("night-3")["a"].warnings[0]
    assert before["a"].fingerprint != new.fingerprint
    done = shop.publish("night-4", finished(shop, new.model_copy(update={"outcome": "reused"}), ""), finishing=RENDERED)
    assert (done.unfinished, done.outcomes, done.copied) == (0, {"reused": 1}, 1)
    assert shop.states()["a"].fingerprint == new.fingerprint


def test_a_picture_that_could_not_be_finished_tonight_has_failed_and_is_not_lost(shop):
    shop.publish("night-1", shop.result("a", "red"))
    bought = shop.result("a", "blue", price=Decimal(1), warnings=("its files were not made: OSError: disk",))
    shop.call(bought)
    bought = bought.model_copy(update={"finished": (), "finishing": ""})
    done = shop.publish("night-2", bought, finishing=RENDERED, max_failure_ratio=1)
    assert shop.shown() == {"a.png": "red 1"}
    found = shop.outcomes("night-2")["a"]
    assert (done.unpublished, found.outcome, found.reason, found.price) == (1, "failed", "finishing", Decimal(1))
    assert "OSError: disk" in found.error


# --- costs and the page ----------------------------------------------------------------------------


def sent(shop: Shop, run: str, state: str, *, booked_by: str | None, pictures: int = 1) -> Call:
    """A call that a run sent, in the books or open."""
    name = hashlib.sha256(f"{run} {state} {pictures} {booked_by}".encode()).hexdigest()
    call = shop.call(
        Result(sku="x", outcome="failed", fingerprint=name),
        call_id=uuid.uuid4().hex, run=run, state=state, pictures=pictures, price=Decimal("0.05") * pictures,
    )  # fmt: skip
    ledger = Ledger(shop.storage, shop.root)
    ledger.mark(call)
    if booked_by:
        book(ledger, booked_by, [call])
    return call


def test_a_cleared_run_publishes_and_its_costs_are_of_all_its_tries(shop):
    night = [shop.result("a", "red"), shop.result("b", outcome="failed")]
    sent(shop, "night-2", "landed", booked_by="night-2")
    sent(shop, "night-2", "lost", booked_by="night-2")
    with pytest.raises(TooManyFailuresError):
        shop.publish("night-2", *night)
    # Cleared: the plan and the shards are made anew, and what is paid is reused.
    sent(shop, "night-2", "landed", booked_by="night-2", pictures=2)
    sent(shop, "night-2", "sent", booked_by=None)
    sent(shop, "night-1", "unknown", booked_by="night-2")
    done = shop.publish("night-2", *(it.model_copy(update={"outcome": "reused"}) for it in night[:1]))
    assert (done.costs.charged, done.costs.paid) == (4, {"USD": Decimal("0.20")})
    assert (done.costs.perhaps.pictures, done.settled.unknown.pictures) == (1, 1)
    assert done.model_dump(mode="json")["costs"]["paid"] == {"USD": "0.20"}
    page = shop.storage.read(done.report).decode()
    assert "0.20 USD" in page
    assert "Settled for earlier runs" in page


def test_the_page_shows_the_thumbnails_of_the_call_that_a_picture_names(shop):
    kept, quarantined = shop.result("a", "red", number=2), shop.result("b", "blue", number=3)
    shop.call(kept, thumbnails=Thumbnails(before=b"before a", afters=(b"after a",)))
    shop.call(quarantined, thumbnails=Thumbnails(before=None, afters=(b"after b",)))
    moved = {"outcome": "quarantined", "images": (), "quarantined": quarantined.images}
    done = shop.publish("night-1", kept, quarantined.model_copy(update=moved), max_failure_ratio=1)
    page = shop.storage.read(done.report)
    for thumbnail in (b"before a", b"after a", b"after b"):
        assert base64.b64encode(thumbnail) in page
    assert f"{shop.root}/{kept.images[0].uri}".encode() in page


def test_a_report_is_written_whether_or_not_anything_is_published(shop):
    failed = shop.result("b", outcome="failed", error="<script>alert(1)</script>", reason="fault")
    with pytest.raises(TooManyFailuresError):
        shop.publish("night-2", failed)
    page = shop.storage.read(f"{shop.root}/_bgai/runs/night-2/report.html").decode()
    assert page.startswith("<!doctype html>")
    assert "<script>alert(1)" not in page
