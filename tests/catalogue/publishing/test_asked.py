"""What a run asks to be published: what became of every product, whose a key is, what the next plan compares with."""

from __future__ import annotations

import json
from decimal import Decimal

import pytest

from airflow_provider_bgai.catalogue.finishing import Finishing
from airflow_provider_bgai.catalogue.publishing.publish import read_outcomes
from airflow_provider_bgai.catalogue.results import Result, Wanted
from airflow_provider_bgai.catalogue.state import SkuState
from airflow_provider_bgai.exceptions import TooManyFailuresError
from airflow_provider_bgai.lines import dump_lines

# --- what became of every product ------------------------------------------------------------------


def test_the_outcomes_say_for_every_sku_what_happened(shop):
    bought = shop.result("a", "red", price=Decimal("0.05"), seed=7)
    held = shop.result("b", outcome="held", price=Decimal("0.05"))
    done = shop.publish("night-1", bought, planned=(held,), max_failure_ratio=0.5)
    assert shop.outcomes("night-1") == {"a": bought, "b": held}
    assert done.outcomes_uri == f"{shop.root}/_bgai/runs/night-1/outcomes.jsonl"
    lines = shop.storage.read(done.outcomes_uri).splitlines()
    assert [json.loads(line)["schema_version"] for line in lines] == [1, 1]


def test_refused_rows_replace_neither_each_other_nor_a_product(shop):
    rows = [Result(sku=sku, outcome="refused", error=f"row {n}") for n, sku in enumerate(["", "", "a"])]
    unchanged = shop.unchanged(shop.result("a", "red"))
    done = shop.publish("night-1", planned=(unchanged, *rows), max_failure_ratio=0.75)
    assert done.outcomes == {"unchanged": 1, "refused": 3}
    assert shop.shown() == {"a.png": "red 1"}
    found = list(read_outcomes(shop.storage, shop.root, "night-1"))
    assert sorted(it.error or "" for it in found) == ["", "row 0", "row 1", "row 2"]


def test_a_sku_the_generate_stage_gave_no_answer_for_counts_as_failed(shop):
    wanted = Wanted(skus=("b", "c"), names=("b.{ext}", "c.{ext}"), request={})
    shop.run("night-1", shop.result("a", "red"), shop.result("b", "blue"), wanted=(wanted,))
    with pytest.raises(TooManyFailuresError, match="1 of 3 products"):
        shop.publish("night-1")
    missing = shop.outcomes("night-1")["c"]
    assert (missing.outcome, missing.reason, missing.price) == ("failed", "no_result", None)


def test_a_shard_without_any_results_counts_as_failed(shop):
    wanted = [Wanted(skus=(f"b{n}",), names=("",), request={}) for n in range(4)]
    shop.run("night-1", shop.result("a", "red"), wanted=tuple(wanted))
    for number in range(2):
        shop.storage.delete(f"{shop.root}/_bgai/runs/night-1/results/{number:04}.jsonl")
    with pytest.raises(TooManyFailuresError, match="4 of 4 products"):
        shop.publish("night-1")


def test_files_of_an_earlier_plan_of_the_same_run_do_not_count(shop):
    shop.run("night-1", shop.result("a", "red"))
    stale = dump_lines([shop.result("b", outcome="failed")])
    for part in ("planned", "results"):
        shop.storage.put(f"{shop.root}/_bgai/runs/night-1/{part}/0007.jsonl", stale)
    assert shop.publish("night-1", max_failure_ratio=0).outcomes == {"bought": 1}


@pytest.mark.parametrize("record", [None, b"not json", b"{}"])
def test_a_picture_without_a_readable_call_is_reported(shop, record):
    shop.publish("night-1", shop.result("a", "red"))
    gone = shop.unchanged(shop.result("b", "red"))
    uri = shop.layout.call(gone.fingerprint, 1)
    shop.storage.delete(uri) if record is None else shop.storage.put(uri, record)
    done = shop.publish("night-2", gone, shop.result("c", "grey"), max_failure_ratio=0.5)
    assert (done.unpublished, done.examples, done.failures) == (1, ("b",), 1)
    assert shop.shown() == {"a.png": "red 1", "c.png": "grey 1"}
    found = shop.outcomes("night-2")["b"]
    assert (found.outcome, found.reason) == ("failed", "missing")


def test_two_products_of_one_name_are_not_mixed_up(shop):
    results = [shop.result(sku, f"of {sku}", name="same.{ext}") for sku in "ab"]
    shop.publish("night-1", *results, max_failure_ratio=0.5)
    assert shop.shown() == {"same.png": "of a 1"}
    assert "'same.png': is the name of 'a' as well" in shop.outcomes("night-1")["b"].error


def test_pictures_that_would_overwrite_each_other_are_refused(shop):
    shop.publish("night-1", shop.result("a", "red", count=2, name="a.{ext}"), max_failure_ratio=1)
    assert shop.shown() == {}


# --- what the next plan compares with --------------------------------------------------------------


def test_the_next_plan_can_see_what_every_published_picture_was_made_from(shop):
    result = shop.result("a", "red", category="mugs", prompt_sha256="77", vendor="katalis", hint="s3://b/a.png e 9 1")
    shop.publish("night-1", result)
    assert shop.states() == {
        "a": SkuState(
            sku="a",
            fingerprint=result.fingerprint,
            source=result.source,
            hint="s3://b/a.png e 9 1",
            prompt_sha256="77",
            recipe="recipe for mugs of night-1",
            finishing=Finishing().digest,
            vendor="picwish 3",
        )
    }


def test_a_hint_outlives_a_night_that_told_none_while_the_source_is_the_same(shop):
    hinted = [shop.result(sku, "red", hint=f"{sku} e 1", source="11" * 32) for sku in "ab"]
    shop.publish("night-1", *hinted)
    same, other = (shop.result(sku, "blue", source=source * 32) for sku, source in (("a", "11"), ("b", "22")))
    shop.publish("night-2", same, other)
    assert {sku: state.hint for sku, state in shop.states().items()} == {"a": "a e 1", "b": None}


def test_what_has_no_new_picture_keeps_its_state(shop):
    shop.publish("night-1", *[shop.result(sku, "red", category="mugs") for sku in "abcd"])
    first = shop.states()
    night = [shop.result("a", "blue", category="mugs"), shop.result("b", outcome="failed", category="mugs")]
    gone = shop.result("c", outcome="unchanged", category="mugs", fingerprint="0" * 64)
    shop.publish("night-2", *night, gone, max_failure_ratio=1)
    second = shop.states()
    assert second.pop("a").recipe == "recipe for mugs of night-2"
    assert second == {sku: first[sku] for sku in "bcd"}
