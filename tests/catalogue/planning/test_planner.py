"""What a run will do, and what it will cost, before a cent is spent."""

from __future__ import annotations

import hashlib
import json
from decimal import Decimal

import pytest

from airflow_provider_bgai.exceptions import AuthenticationError, InvalidRequestError, ManifestError, RecipeError
from airflow_provider_bgai.storage import Storage
from tests.catalogue.nights import RECIPE, photo

# --- what is wanted


def test_an_unchanged_catalogue_costs_nothing(three):
    first = three.plan()
    assert (first.counts, first.calls, first.at_most) == ({"new": 3}, 3, 3)
    three.land(first)
    plan = three.plan()
    assert (plan.counts, plan.shards, plan.calls, plan.price) == ({"unchanged": 3}, [], 0, Decimal(0))
    kept = three.planned(plan)
    assert {(it.outcome, it.name) for it in kept.values()} == {("unchanged", f"{name}.{{ext}}") for name in "abc"}
    assert {it.source for it in kept.values()} == {hashlib.sha256(name.encode()).hexdigest() for name in "abc"}
    assert all(it.fingerprint and it.prompt_sha256 for it in kept.values())


@pytest.mark.parametrize(
    ("changed", "change", "at_most"),
    [
        (("source",), lambda it: it.add("b", b"other"), 1),
        (("prompt",), lambda it: it.add("b", title="Other"), 0),
        (("source", "prompt"), lambda it: it.add("b", b"other", title="Other"), 1),
    ],
)
def test_only_what_changed_is_wanted_and_it_says_what(three, changed, change, at_most):
    three.land(three.plan())
    change(three)
    plan = three.plan()
    assert (plan.counts, plan.calls, plan.at_most) == ({"unchanged": 2, "changed": 1}, 1, at_most)
    (wanted,) = three.wanted(plan)
    assert (wanted.skus, wanted.status, wanted.changed) == (("b",), "changed", changed)
    assert (wanted.fingerprint is None) == bool(at_most)
    assert plan.changed == dict.fromkeys(changed, 1)


def test_another_recipe_or_vendor_is_said_too(three):
    three.land(three.plan())
    assert three.plan({**RECIPE, "negative_prompt": "people"}).changed == {"recipe": 3}
    assert three.plan({**RECIPE, "prompt": "{{ title }} on ash"}).changed == {"prompt": 3, "recipe": 3}
    assert three.plan(vendors=["gptge"]).changed == {"vendor": 3}


def test_a_change_for_one_category_concerns_no_other(catalogue):
    for name, category in (("a", "shoes"), ("b", "music")):
        catalogue.add(name, name.encode(), category=category)
    recipe = {**RECIPE, "categories": {"shoes": {"negative_prompt": "people"}}}
    catalogue.land(catalogue.plan(recipe))
    recipe["categories"] = {"shoes": {"negative_prompt": "animals"}}
    (wanted,) = catalogue.wanted(catalogue.plan(recipe))
    assert (wanted.skus, wanted.changed) == (("a",), ("recipe",))


def test_all_plans_everything_and_buys_nothing_again(three):
    first = three.plan()
    three.land(first, "a", "b")
    three.remember()
    plan = three.plan(only="all", budget_left=lambda: (1, None))
    assert (plan.counts, plan.calls, plan.price) == ({"unchanged": 2, "new": 1}, 1, Decimal("0.03"))
    assert len(three.wanted(plan)) == 3


@pytest.mark.parametrize("only", [["b", "zzz"], [" b", "", "zzz", "b"], "b\n zzz \n\n", "b\r\nzzz\r\n"])
def test_a_list_of_skus_plans_those_and_reports_the_unknown(three, only):
    plan = three.plan(only=only)
    assert plan.counts == {"new": 1, "refused": 1, "not_selected": 2}
    assert [(it.skus, it.again) for it in three.wanted(plan)] == [(("b",), True)]
    assert "there is no such SKU" in three.planned(plan)["zzz"].error


@pytest.mark.parametrize("only", [[], [" "], "\n"])
def test_an_empty_list_of_skus_plans_nothing(three, only):
    assert three.plan(only=only).shards == []


def test_planning_again_leaves_no_line_of_the_earlier_try(three):
    first = three.plan(run="same", shard_size=1)
    assert len(first.shards) == 3
    three.land(first)
    again = three.plan(run="same", shard_size=1)
    assert again.shards == []
    assert [it.size for it in three.storage.list(f"{three.root}/_bgai/runs/same/shards/")] == [0, 0, 0]


def test_planning_buys_nothing_and_writes_no_record(three):
    three.plan()
    assert three.box.charges == []
    written = {item.uri.partition("/_bgai/")[2].partition("/")[0] for item in three.storage.list(f"{three.root}/_bgai")}
    assert written == {"runs", "store.json"}


# --- what is refused


def test_what_no_vendor_takes_is_refused_and_what_the_second_takes_is_not(three):
    recipe = {**RECIPE, "seed": {"policy": "fixed", "value": 7}}
    with pytest.raises(InvalidRequestError, match="All 3 products are refused.*PicWish: seed=7"):
        three.plan(recipe)
    assert three.plan(recipe, ["picwish", "imagine"]).counts == {"new": 3}


def test_wrong_rows_are_reported_with_their_row_and_stop_no_other(three):
    three.add("no-image")
    three.rows["bad"] = {"sku": "../x", "image": "a.png"}
    three.rows["again"] = {"sku": "a", "image": "images/a.png", "title": "again"}
    three.rows["untitled"] = {"sku": "untitled", "image": "images/a.png"}
    three.rows["dots"] = {"sku": "dots", "image": f"{three.root}/../a.png", "title": "x"}
    three.rows["blank"] = {"sku": None, "image": "", "title": float("nan")}
    three.rows["empty"] = {"sku": "empty", "image": "images/a.png", "title": None}
    three.rows["port"] = {"sku": "port", "image": "http://host:99999/a.png", "title": "x"}
    three.add(long := "x" * 253)
    plan = three.plan()
    assert plan.counts == {"new": 3, "refused": 8}  # and a row with nothing in it is no row
    found = {sku: it.error for sku, it in three.planned(plan).items()}
    assert set(found) == {"no-image", "../x", "(row 6)", "untitled", "dots", "empty", "port", long}
    assert "row 4: image=" in found["no-image"]
    assert "row 6, sku='a': stands in an earlier row" in found["(row 6)"]
    assert "'title' is undefined; the manifest's columns are sku, image" in found["untitled"]
    assert "are not allowed in an S3 key" in found["dots"]
    assert "column 'title' is empty" in found["empty"]
    assert "ports go from 1 to 65535" in found["port"]
    assert "at most 128" in found[long]
    record = json.loads(three.storage.read(plan.uri))
    assert {it["sku"]: it["reason"] for it in record["refusals"]} == found


@pytest.mark.parametrize("name", ["{{ sku }}-{{ title }}.{ext}", "{{ title }}/{{ sku }}.{ext}"])
def test_a_name_that_no_store_takes_is_refused_before_anything_is_paid(three, name):
    three.add("long", b"x", title="é" * 120)
    assert three.plan({**RECIPE, "name": name}).counts == {"new": 4}
    three.rows["long"]["title"] = "é" * 128
    plan = three.plan({**RECIPE, "name": name})
    assert plan.counts == {"new": 3, "refused": 1}
    assert "bytes between slashes; at most 255" in three.planned(plan)["long"].error


@pytest.mark.parametrize("column", ["image", "mood"])
def test_a_list_in_s3_makes_no_worker_read_its_own_files(three, tmp_path, column):
    secret = tmp_path / "secret.png"
    secret.write_bytes(photo("secret"))
    for number, place in enumerate([str(secret), f"file://{secret}", f"{three.root}/../../{secret}"]):
        three.add(f"x{number}", b"x", **{"mood": f"{three.root}/images/a.png", column: place})
    recipe = {**RECIPE, "guidance_image": "{{ mood | default('') }}"}
    plan = three.plan(recipe, ["photoroom"])
    assert plan.counts == {"new": 3, "refused": 3}
    told = " ".join(three.planned(plan)[f"x{number}"].error for number in range(3))
    assert told.count("may not name local files") == 2
    three.generate(plan, ["photoroom"])
    sent = hashlib.sha256(secret.read_bytes()).hexdigest()
    assert sent not in {call.source_sha256 for call in three.records()}


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"only": "everything"}, "only='everything': must be"),
        ({"limit": -1}, "limit=-1"),
        ({"shard_size": 0}, "shard_size=0"),
        ({"run": "../x"}, "'..'"),
        ({"destination": "file:///x"}, "must be an S3 URI"),
    ],
)
def test_wrong_parameters_are_named(three, given, message):
    with pytest.raises(InvalidRequestError, match=message):
        three.plan(**given)


def test_a_wrong_recipe_or_manifest_stops_before_anything_is_planned(three):
    with pytest.raises(RecipeError, match=r"categories\.shoes\.cuont"):
        three.plan({**RECIPE, "categories": {"shoes": {"cuont": 2}}})
    with pytest.raises(ManifestError, match="no such object"):
        three.plan(manifest=f"{three.root}/no.csv")
    assert list(three.storage.list(f"{three.root}/_bgai/runs/")) == []


@pytest.mark.parametrize("fault", ["no_conditions", "conditions_501"])
def test_a_store_without_conditions_is_refused_by_the_plan_and_nothing_is_charged(bad, three, fault):
    three.storage = Storage()
    bad.fault(fault)
    with pytest.raises(AuthenticationError, match=r"paid twice.*honours If-None-Match and If-Match"):
        three.night()
    assert sum(three.box.bill().values()) == 0
    assert list(three.storage.list(f"{three.root}/_bgai/runs/")) == []


def test_a_right_that_is_missing_for_one_prefix_is_refused_by_the_plan(bad, three):
    three.storage = Storage()
    bad.fault("403", methods="PUT", key="/_bgai/incoming/")
    with pytest.raises(AuthenticationError, match=r"/_bgai/incoming/.*needs the rights to put, get, list and delete"):
        three.night()
    assert sum(three.box.bill().values()) == 0
