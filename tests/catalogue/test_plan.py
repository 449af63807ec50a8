"""What a run will do, and what it will cost, before a cent is spent."""

from __future__ import annotations

import asyncio
import hashlib
import itertools
import json
from decimal import Decimal

import pytest

from airflow_provider_bgai.catalogue.landing import identify
from airflow_provider_bgai.catalogue.ledger import Claim, Ledger, fingerprint
from airflow_provider_bgai.catalogue.manifest import ManifestError
from airflow_provider_bgai.catalogue.plan import Plan, read_plan
from airflow_provider_bgai.catalogue.planner import FEW, make_plan
from airflow_provider_bgai.catalogue.recipe import RecipeError
from airflow_provider_bgai.catalogue.records import Result, Wanted, read_lines
from airflow_provider_bgai.catalogue.sources import FEW_IN_FOLDER
from airflow_provider_bgai.catalogue.state import SkuState, read_state, write_state
from airflow_provider_bgai.exceptions import InvalidRequestError
from airflow_provider_bgai.hooks import get_hook

SHOPS = itertools.count()
NOW = 1_000_000.0
RECIPE = {"prompt": "{{ title }} on oak"}


class Shop:
    """A destination of its own, with images, a manifest and a ledger."""

    def __init__(self, storage, root: str) -> None:
        self.storage = storage
        self.root = root
        self.ledger = Ledger(storage, root)
        self.rows: dict[str, dict[str, object]] = {}
        self.runs = 0

    def add(self, sku: str, data: bytes | None = None, **fields: object) -> None:
        name = f"images/{sku}.png"
        if data is not None:
            self.storage.put(f"{self.root}/{name}", data)
        self.rows[sku] = {"sku": sku, "image": name, "title": f"Title of {sku}", **fields}

    def plan(self, recipe=RECIPE, conn_id=("picwish_default",), **kwargs) -> Plan:
        self.runs += 1
        manifest = f"{self.root}/products.jsonl"
        self.storage.put(manifest, "\n".join(json.dumps(row) for row in self.rows.values()).encode())
        known = {"run": f"run-{self.runs}", "now": NOW, "manifest": manifest, "destination": self.root}
        hooks = [get_hook(name) for name in conn_id]
        return make_plan(recipe=recipe, hooks=hooks, storage=self.storage, **(known | kwargs))

    def wanted(self, plan: Plan) -> list[Wanted]:
        return [it for uri in plan.shards for it in read_lines(Wanted, self.storage.read(uri).splitlines())]

    def planned(self, plan: Plan) -> dict[str, Result]:
        uris = read_plan(self.storage, plan.uri).planned
        lines = [line for uri in uris for line in self.storage.read(uri).splitlines()]
        return {it.sku: it for it in read_lines(Result, lines)}

    def land(self, *wanted: Wanted) -> None:
        for it in wanted:
            self.storage.put(self.ledger.landed_uri(it.fingerprint), b"{}")

    def claim(self, wanted: Wanted, state: str, **fields) -> None:
        known = {"owner": "x", "vendor": "picwish", "conn_id": "picwish_default", "images": 1, "claimed_at": 1.0}
        known |= {"expires_at": 2.0, "destination": f"{self.root}/a", "fingerprint": wanted.fingerprint}
        claim = Claim(state=state, **(known | fields))
        self.storage.put(self.ledger.claim_uri(wanted.fingerprint), claim.model_dump_json().encode())

    def publish(self, plan: Plan) -> None:
        """As publishing does it: land all, and remember what everything was made of."""
        record = read_plan(self.storage, plan.uri)
        wanted = self.wanted(plan)
        self.land(*wanted)
        results = [
            Result(
                sku=sku,
                outcome="bought",
                category=it.category,
                fingerprint=it.fingerprint,
                source=it.source,
                prompt_sha256=hashlib.sha256(it.request["prompt"].encode()).hexdigest(),
            )
            for it in wanted
            for sku in it.skus
        ]
        write_state(self.storage, self.root, [record.state_of(result) for result in results])


@pytest.fixture
def shop(storage, s3, connections) -> Shop:
    return Shop(storage, f"s3://{s3.bucket}/shop-{next(SHOPS)}")


@pytest.fixture
def shop_of_3(shop) -> Shop:
    for name in "abc":
        shop.add(name, name.encode())
    return shop


def test_what_is_planned_has_the_ledgers_own_fingerprint(shop, connect):
    connect("photoroom", extra={"model_version": "studio-3"})
    shop.add("a", b"a", title='Ünï "quoted" \\ \u2028')
    shop.storage.put(f"{shop.root}/mood.png", b"mood")
    recipe = {
        "prompt": "{{ title }}",
        "negative_prompt": "people",
        "seed": {"policy": "sku"},
        "guidance_image": f"{shop.root}/mood.png",
        "guidance_scale": 1,
        "options": {"b": "{{ sku }}", "a": {"z": 1.5, "y": [True, None]}},
    }
    (wanted,) = shop.wanted(shop.plan(recipe, conn_id=["photoroom_default"]))
    request, hook = wanted.background_request(), get_hook("photoroom_default")
    assert (request.options["b"], request.guidance_scale, request.seed is not None) == ("a", 1.0, True)
    assert wanted.source == asyncio.run(identify(shop.storage, hook, request.image))
    assert wanted.fingerprint == fingerprint(
        request,
        image=wanted.source,
        guidance_image=asyncio.run(identify(shop.storage, hook, request.guidance_image)),
        vendor="photoroom",
        model="studio-3",
    )


@pytest.mark.parametrize("count", [3, FEW_IN_FOLDER + 5, FEW + 5])
def test_few_and_many_are_found_alike(shop, count):
    """Few are asked for one by one; many are listed."""
    for number in range(count):
        shop.add(f"p{number:03}", b"%d" % number if number else None)
    first = shop.plan()
    assert first.counts == {"refused": 1, "new": count - 1}
    assert "there is no such object in S3" in shop.planned(first)["p000"].error
    wanted = shop.wanted(first)
    assert {it.source for it in wanted} == {f"etag:{hashlib.md5(b'%d' % n).hexdigest()}" for n in range(1, count)}
    shop.land(*wanted[1:])
    second = shop.plan()
    assert second.counts == {"refused": 1, "unchanged": count - 2, "new": 1}
    assert [it.fingerprint for it in shop.wanted(second)] == [wanted[0].fingerprint]


def test_of_two_per_cent_that_changed_exactly_those_are_wanted(shop):
    for number in range(400):
        shop.add(f"p{number:03}", b"%d" % number)
    shop.publish(shop.plan())
    for number in (3, 150, 151, 399):
        shop.rows[f"p{number:03}"]["title"] = "Another title"
    for number in (0, 77, 200, 301):
        shop.storage.put(f"{shop.root}/images/p{number:03}.png", b"another photo")
    plan = shop.plan()
    assert (plan.counts, plan.changed, plan.calls) == (
        {"unchanged": 392, "changed": 8},
        {"prompt": 4, "source": 4},
        # Four products got the same photo, and their prompts differ by their titles.
        8,
    )
    assert sorted(sku for it in shop.wanted(plan) for sku in it.skus) == [
        f"p{number:03}" for number in (0, 3, 77, 150, 151, 200, 301, 399)
    ]


def test_an_unchanged_catalogue_costs_nothing(shop_of_3):
    shop_of_3.publish(shop_of_3.plan())
    plan = shop_of_3.plan()
    assert (plan.counts, plan.shards, plan.calls, plan.price) == ({"unchanged": 3}, [], 0, Decimal(0))
    kept = shop_of_3.planned(plan)
    assert {(it.outcome, it.name) for it in kept.values()} == {("unchanged", f"{name}.{{ext}}") for name in "abc"}
    assert all(it.fingerprint and it.source and it.prompt_sha256 for it in kept.values())


@pytest.mark.parametrize(
    ("changed", "change"),
    [
        (("source",), lambda shop: shop.add("b", b"other")),
        (("prompt",), lambda shop: shop.add("b", b"b", title="Other")),
        (("source", "prompt"), lambda shop: shop.add("b", b"other", title="Other")),
    ],
)
def test_only_what_changed_is_wanted_and_it_says_what(shop_of_3, changed, change):
    shop_of_3.publish(shop_of_3.plan())
    change(shop_of_3)
    plan = shop_of_3.plan()
    assert plan.counts == {"unchanged": 2, "changed": 1}
    (wanted,) = shop_of_3.wanted(plan)
    assert (wanted.skus, wanted.status, wanted.changed) == (("b",), "changed", changed)
    assert plan.changed == dict.fromkeys(changed, 1)


def test_another_recipe_or_vendor_is_said_too(shop_of_3):
    shop_of_3.publish(shop_of_3.plan())
    assert shop_of_3.plan({**RECIPE, "negative_prompt": "people"}).changed == {"recipe": 3}
    assert shop_of_3.plan({"prompt": "{{ title }} on ash"}).changed == {"prompt": 3, "recipe": 3}
    assert shop_of_3.plan(conn_id=["gptge_default"]).changed == {"vendor": 3}


def test_a_change_for_one_category_concerns_no_other(shop):
    for name, category in (("a", "shoes"), ("b", "music")):
        shop.add(name, name.encode(), category=category)
    recipe = {**RECIPE, "categories": {"shoes": {"negative_prompt": "people"}}}
    shop.publish(shop.plan(recipe))
    recipe["categories"]["shoes"] = {"negative_prompt": "animals"}
    (wanted,) = shop.wanted(shop.plan(recipe))
    assert (wanted.skus, wanted.changed) == (("a",), ("recipe",))


def test_one_picture_for_two_skus_is_bought_once(shop):
    shop.add("a", b"a", title="Same")
    shop.add("b", title="Same", image="images/a.png")
    plan = shop.plan()
    (wanted,) = shop.wanted(plan)
    assert (wanted.skus, wanted.names) == (("a", "b"), ("a.{ext}", "b.{ext}"))
    assert (plan.counts, plan.calls, plan.price) == ({"new": 2}, 1, Decimal("0.03"))


@pytest.mark.parametrize(
    ("price", "count", "total"),
    [("0.05", 1, Decimal("0.15")), ("0.05", 2, Decimal("0.30")), ("0", 1, Decimal(0)), (None, 1, None), ("", 2, None)],
)
def test_the_price_is_the_sum_or_unknown_and_never_taken_for_nothing(shop_of_3, connect, price, count, total):
    connect("picwish", extra={"price_per_image": price, "currency": "EUR"})
    plan = shop_of_3.plan({**RECIPE, "count": count})
    assert (plan.calls, plan.pictures, plan.price, plan.currency) == (3, 3 * count, total, "EUR")
    assert read_plan(shop_of_3.storage, plan.uri).price == total


def test_what_no_vendor_takes_is_refused_and_what_the_second_takes_is_not(shop_of_3):
    recipe = {**RECIPE, "seed": {"policy": "fixed", "value": 7}}
    plan = shop_of_3.plan(recipe)
    assert (plan.counts, plan.shards) == ({"refused": 3}, [])
    assert "PicWish: seed=7" in shop_of_3.planned(plan)["a"].error
    assert shop_of_3.plan(recipe, conn_id=["picwish_default", "imagine_default"]).counts == {"new": 3}


def test_wrong_rows_are_reported_with_their_row_and_stop_no_other(shop_of_3):
    shop_of_3.add("no-image")
    shop_of_3.rows["bad"] = {"sku": "../x", "image": "a.png"}
    shop_of_3.rows["again"] = {"sku": "a", "image": "images/a.png", "title": "again"}
    shop_of_3.rows["untitled"] = {"sku": "untitled", "image": "images/a.png"}
    shop_of_3.rows["dots"] = {"sku": "dots", "image": f"{shop_of_3.root}/../a.png", "title": "x"}
    shop_of_3.rows["gone"] = {"sku": "gone", "image": "/no/such/file.png", "title": "x"}
    plan = shop_of_3.plan()
    assert plan.counts == {"new": 3, "refused": 6}
    found = {sku: it.error for sku, it in shop_of_3.planned(plan).items()}
    assert set(found) == {"no-image", "../x", "(row 6)", "untitled", "dots", "gone"}
    assert "row 4: image=" in found["no-image"]
    assert "row 6, sku='a': stands in an earlier row" in found["(row 6)"]
    assert "'title' is undefined; the manifest's columns are sku, image" in found["untitled"]
    assert "are not allowed in an S3 key" in found["dots"]
    assert "cannot be read: No such file" in found["gone"]
    record = json.loads(shop_of_3.storage.read(plan.uri))
    assert {it["sku"]: it["reason"] for it in record["refusals"]} == found


def test_two_products_never_share_a_name(shop_of_3):
    plan = shop_of_3.plan({**RECIPE, "name": "{{ title[:5] }}.{ext}"})
    assert plan.counts == {"new": 1, "refused": 2}
    assert "is the name of 'a' as well" in shop_of_3.planned(plan)["b"].error


def test_shards_are_filled_by_priority_and_grow_instead_of_becoming_too_many(shop):
    for number in range(10):
        shop.add(f"p{number}", b"%d" % number, margin=number % 5 if number else "")
    recipe = {**RECIPE, "priority": "margin"}
    plan = shop.plan(recipe, shard_size=4)
    assert [len(shop.storage.read(uri).splitlines()) for uri in plan.shards] == [4, 4, 2]
    assert [it.skus[0] for it in shop.wanted(plan)] == ["p4", "p9", "p3", "p8", "p2", "p7", "p1", "p6", "p0", "p5"]
    plan = shop.plan(recipe, shard_size=1, max_shards=3)
    assert [len(shop.storage.read(uri).splitlines()) for uri in plan.shards] == [4, 4, 2]
    shop.add("p3", b"3", margin="high")
    refused = shop.planned(shop.plan(recipe))["p3"]
    assert "margin='high' is not a number" in refused.error


@pytest.mark.parametrize(
    ("given", "skus", "price"),
    [
        ({"limit": 2}, ["c", "b"], "0.06"),
        ({"limit": 0}, [], "0"),
        ({"budget_left": (1, None)}, ["c"], "0.03"),
        ({"budget_left": (None, Decimal("0.08"))}, ["c", "b"], "0.06"),
        ({"budget_left": (2, Decimal("0.05"))}, ["c"], "0.03"),
        ({"budget_left": (None, None)}, ["c", "b", "a"], "0.09"),
        ({"budget_left": (3, Decimal(1)), "limit": 1}, ["c"], "0.03"),
    ],
)
def test_what_does_not_fit_waits_lowest_priority_first(shop, given, skus, price):
    for number, name in enumerate("abc"):
        shop.add(name, name.encode(), margin=number)
    plan = shop.plan({**RECIPE, "priority": "margin"}, **given)
    assert [it.skus[0] for it in shop.wanted(plan)] == skus
    assert plan.price == Decimal(price)
    waiting = {sku for sku, it in shop.planned(plan).items() if it.outcome == "over_budget"}
    assert waiting == set("abc") - set(skus)
    assert plan.counts.get("over_budget", 0) == 3 - len(skus)


@pytest.mark.parametrize("many", [False, True])
def test_what_earlier_runs_left_behind(shop, many):
    names = ["new", "submitted", "held", "held-for-good", "released", "failed", "lost", "claimed", "damaged"]
    for name in [*names, *(f"x{n}" for n in range(FEW if many else 0))]:
        shop.add(name, name.encode())
    by_sku = {it.skus[0]: it for it in shop.wanted(shop.plan())}
    for state in ("submitted", "failed", "lost", "claimed"):
        shop.claim(by_sku[state], state, task_id="t")
    shop.claim(by_sku["held"], "held", held_until=NOW + 1, error="the line dropped")
    shop.claim(by_sku["held-for-good"], "held")
    shop.claim(by_sku["released"], "held", held_until=NOW)
    shop.storage.put(shop.ledger.claim_uri(by_sku["damaged"].fingerprint), b"{")
    plan = shop.plan()
    wanted = {it.skus[0]: it.status for it in shop.wanted(plan)}
    assert {name: wanted.get(name) for name in names} == {
        "new": "new",
        "submitted": "new",
        "held": None,
        "held-for-good": None,
        "released": "failed_before",
        "failed": "failed_before",
        "lost": "failed_before",
        "claimed": "new",
        "damaged": None,
    }
    held = {sku: it.error for sku, it in shop.planned(plan).items() if it.outcome == "held"}
    assert set(held) == {"held", "held-for-good", "damaged"}
    assert "the line dropped" in held["held"]
    assert "cannot be read, which is no leave to buy" in held["damaged"]
    # What is paid for is collected: it costs nothing, and no limit or budget keeps it waiting.
    assert (plan.collect, plan.calls) == (1, len(wanted) - 1)
    broke = shop.plan(limit=0, budget_left=(0, Decimal(0)))
    assert [it.skus[0] for it in shop.wanted(broke)] == ["submitted"]
    failed = shop.plan(only="failed")
    assert sorted(it.skus[0] for it in shop.wanted(failed)) == ["failed", "lost", "released", "submitted"]
    assert "held" in {it.skus[0] for it in shop.wanted(shop.plan(on_unknown_outcome="resubmit"))}
    assert "damaged" not in {it.skus[0] for it in shop.wanted(shop.plan(on_unknown_outcome="resubmit"))}


def test_all_plans_everything_and_buys_nothing_again(shop_of_3):
    first = shop_of_3.plan()
    shop_of_3.land(*shop_of_3.wanted(first)[:2])
    plan = shop_of_3.plan(only="all", budget_left=(1, None))
    assert plan.counts == {"unchanged": 2, "new": 1}
    assert len(shop_of_3.wanted(plan)) == 3
    assert (plan.calls, plan.price) == (1, Decimal("0.03"))


def test_a_list_of_skus_plans_those_and_reports_the_unknown(shop_of_3):
    plan = shop_of_3.plan(only=["b", "zzz"])
    assert plan.counts == {"new": 1, "refused": 1, "not_selected": 2}
    assert [it.skus for it in shop_of_3.wanted(plan)] == [("b",)]
    assert "there is no such SKU" in shop_of_3.planned(plan)["zzz"].error


def test_local_and_web_images_are_told_apart_by_content_and_by_address(shop, tmp_path):
    (tmp_path / "a.png").write_bytes(b"a")
    shop.add("a", image=str(tmp_path / "a.png"))
    shop.add("b", image="https://shop.example/b.png?v=1")
    found = {it.skus[0]: it.source for it in shop.wanted(shop.plan())}
    assert found == {"a": f"sha256:{hashlib.sha256(b'a').hexdigest()}", "b": "url:https://shop.example/b.png?v=1"}


def test_planning_again_leaves_no_line_of_the_earlier_try(shop_of_3):
    first = shop_of_3.plan(run="same", shard_size=1)
    assert len(first.shards) == 3
    shop_of_3.land(*shop_of_3.wanted(first))
    again = shop_of_3.plan(run="same", shard_size=1)
    assert again.shards == []
    assert [it.size for it in shop_of_3.storage.list(f"{shop_of_3.root}/_bgai/runs/same/shards/")] == [0, 0, 0]


def test_planning_buys_and_claims_nothing(shop_of_3, box):
    shop_of_3.plan()
    assert box.charges == []
    assert list(shop_of_3.storage.list(f"{shop_of_3.root}/_bgai/claims/")) == []


def test_the_state_of_all_skus_comes_back_as_it_was_written(storage, s3):
    root = f"s3://{s3.bucket}/state"
    states = [SkuState(sku=f"é{n}", fingerprint="f", source="etag:1", vendor="picwish") for n in range(100)]
    assert list(read_state(storage, root)) == []
    write_state(storage, root, states)
    assert list(read_state(storage, root)) == states
    assert list(read_state(storage, root, ["é7", "no"])) == [states[7]]


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
def test_wrong_parameters_are_named(shop_of_3, given, message):
    with pytest.raises(InvalidRequestError, match=message):
        shop_of_3.plan(**given)


def test_a_wrong_recipe_or_manifest_stops_before_anything_is_written(shop_of_3):
    with pytest.raises(RecipeError, match=r"categories\.shoes\.cuont"):
        shop_of_3.plan({**RECIPE, "categories": {"shoes": {"cuont": 2}}})
    with pytest.raises(ManifestError, match="no such object"):
        shop_of_3.plan(manifest=f"{shop_of_3.root}/no.csv")
    assert list(shop_of_3.storage.list(f"{shop_of_3.root}/_bgai/")) == []
