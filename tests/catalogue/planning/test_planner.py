"""What a run will do, and what it will cost, before a cent is spent."""

from __future__ import annotations

import asyncio
import hashlib
import itertools
import json
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from decimal import Decimal
from typing import Any

import pytest

from airflow_provider_bgai.buying.books import audit, restore
from airflow_provider_bgai.buying.buyer import Buyer
from airflow_provider_bgai.buying.decision import Asks, OnUnknownOutcome, decide
from airflow_provider_bgai.buying.decisions import Note
from airflow_provider_bgai.buying.purchase import Wish, name_of, open_wish
from airflow_provider_bgai.catalogue.planning import tried
from airflow_provider_bgai.catalogue.planning.images import FEW_IN_FOLDER
from airflow_provider_bgai.catalogue.planning.plan import read_plan
from airflow_provider_bgai.catalogue.state import SkuState, read_state, write_state
from airflow_provider_bgai.exceptions import AuthenticationError, InvalidRequestError, ManifestError, RecipeError
from airflow_provider_bgai.storage import Storage
from tests.catalogue.nights import RECIPE, photo
from tests.servers import serving_website


@pytest.fixture
def three(catalogue):
    for name in "abc":
        catalogue.add(name, name.encode())
    return catalogue


def by_sku(catalogue, plan):
    return {it.skus[0]: it for it in catalogue.wanted(plan)}


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


@pytest.mark.parametrize("count", [5, FEW_IN_FOLDER + 5])
def test_few_and_many_are_found_alike(catalogue, count):
    """The photos of a folder are asked for one by one, or the folder is listed."""
    for number in range(count):
        catalogue.add(f"p{number:03}", b"%d" % number if number else None)
    catalogue.remember()
    first = catalogue.plan()
    assert (first.counts, first.at_most) == ({"refused": 1, "new": count - 1}, 0)
    assert "there is no such object in S3" in catalogue.planned(first)["p000"].error
    wanted = catalogue.wanted(first)
    catalogue.land(first, *(it.skus[0] for it in wanted[1:]))
    second = catalogue.plan()
    assert second.counts == {"refused": 1, "unchanged": count - 2, "new": 1}
    assert [it.fingerprint for it in catalogue.wanted(second)] == [wanted[0].fingerprint]
    selected = catalogue.plan(only=[it.skus[0] for it in wanted])
    assert selected.counts == {"not_selected": 1, "unchanged": count - 2, "new": 1}


def test_one_picture_for_two_skus_is_bought_once(catalogue):
    catalogue.add("a", b"a", title="Same", margin=1)
    catalogue.add("b", title="Same", image="images/a.png", margin=9)
    for hint_known in (False, True):
        plan = catalogue.plan({**RECIPE, "priority": "margin"})
        (wanted,) = catalogue.wanted(plan)
        assert (wanted.skus, wanted.names) == (("a", "b"), ("a.{ext}", "b.{ext}"))
        assert (wanted.priority, wanted.fingerprint is not None) == (9.0, hint_known)
        assert (plan.counts, plan.calls, plan.price) == ({"new": 2}, 1, Decimal("0.03"))
        catalogue.remember()


@pytest.mark.parametrize(
    ("price", "count", "total"),
    [("0.05", 1, Decimal("0.15")), ("0.05", 2, Decimal("0.30")), ("0", 1, Decimal(0)), (None, 1, None), ("", 2, None)],
)
def test_the_price_is_the_sum_or_unknown_and_never_taken_for_nothing(three, connect, price, count, total):
    connect("picwish", extra={"price_per_image": price, "currency": "EUR"})
    plan = three.plan({**RECIPE, "count": count})
    assert (plan.calls, plan.pictures, plan.price, plan.currency) == (3, 3 * count, total, "EUR")
    assert read_plan(three.storage, plan.uri).price == total


def test_shards_are_filled_by_priority_and_grow_instead_of_becoming_too_many(catalogue):
    for number in range(10):
        catalogue.add(f"p{number}", b"%d" % number, margin=number % 5 if number else "")
    recipe = {**RECIPE, "priority": "margin"}
    plan = catalogue.plan(recipe, shard_size=4)
    assert [len(catalogue.storage.read(uri).splitlines()) for uri in plan.shards] == [4, 4, 2]
    in_order = ["p4", "p9", "p3", "p8", "p2", "p7", "p1", "p6", "p0", "p5"]
    assert [it.skus[0] for it in catalogue.wanted(plan)] == in_order
    plan = catalogue.plan(recipe, shard_size=1, max_shards=3)
    assert [len(catalogue.storage.read(uri).splitlines()) for uri in plan.shards] == [4, 4, 2]
    catalogue.add("p3", margin="high")
    assert "margin='high' is not a number" in catalogue.planned(catalogue.plan(recipe))["p3"].error


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
def test_what_does_not_fit_waits_lowest_priority_first(catalogue, given, skus, price):
    for number, name in enumerate("abc"):
        catalogue.add(name, name.encode(), margin=number)
    plan = catalogue.plan({**RECIPE, "priority": "margin"}, **given)
    assert [it.skus[0] for it in catalogue.wanted(plan)] == skus
    assert plan.price == Decimal(price)
    waiting = {sku for sku, it in catalogue.planned(plan).items() if it.outcome == "over_budget"}
    assert waiting == set("abc") - set(skus)
    assert plan.counts.get("over_budget", 0) == 3 - len(skus)


def test_all_plans_everything_and_buys_nothing_again(three):
    first = three.plan()
    three.land(first, "a", "b")
    three.remember()
    plan = three.plan(only="all", budget_left=(1, None))
    assert (plan.counts, plan.calls, plan.price) == ({"unchanged": 2, "new": 1}, 1, Decimal("0.03"))
    assert len(three.wanted(plan)) == 3


def test_a_list_of_skus_plans_those_and_reports_the_unknown(three):
    plan = three.plan(only=["b", "zzz"])
    assert plan.counts == {"new": 1, "refused": 1, "not_selected": 2}
    assert [(it.skus, it.again) for it in three.wanted(plan)] == [(("b",), True)]
    assert "there is no such SKU" in three.planned(plan)["zzz"].error


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


def test_the_state_of_all_skus_comes_back_as_it_was_written(storage, s3):
    root = f"s3://{s3.bucket}/state"
    states = [SkuState(sku=f"é{n}", fingerprint="f", source="1", hint="x y", vendor="picwish") for n in range(100)]
    assert list(read_state(storage, root)) == []
    write_state(storage, root, states)
    assert list(read_state(storage, root)) == states
    assert list(read_state(storage, root, ["é7", "no"])) == [states[7]]


# --- what is refused


def test_what_no_vendor_takes_is_refused_and_what_the_second_takes_is_not(three):
    recipe = {**RECIPE, "seed": {"policy": "fixed", "value": 7}}
    plan = three.plan(recipe)
    assert (plan.counts, plan.shards) == ({"refused": 3}, [])
    assert "PicWish: seed=7" in three.planned(plan)["a"].error
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


def test_two_products_never_share_a_name(three):
    plan = three.plan({**RECIPE, "name": "{{ title[:5] }}.{ext}"})
    assert plan.counts == {"new": 1, "refused": 2}
    assert "is the name of 'a' as well" in three.planned(plan)["b"].error


def test_a_local_list_may_name_local_files_and_is_told_which_are_missing(three, tmp_path):
    (tmp_path / "a.png").write_bytes(b"a")
    rows = [{"sku": "a", "image": "a.png", "title": "a"}, {"sku": "gone", "image": "/no/such/file.png", "title": "x"}]
    (tmp_path / "products.jsonl").write_text("\n".join(map(json.dumps, rows)))
    plan = three.plan(manifest=str(tmp_path / "products.jsonl"))
    assert (plan.counts, plan.at_most) == ({"new": 1, "refused": 1}, 0)  # it was read: its content is known
    assert "cannot be read: No such file" in three.planned(plan)["gone"].error


def test_a_photo_that_s3_does_not_show_for_now_stops_no_other(bad, three):
    three.land(three.plan())
    three.storage = Storage()
    bad.fault("403", methods="HEAD", key="images/b.png")
    plan = three.plan()
    assert (plan.counts, plan.calls, plan.at_most) == ({"unchanged": 2, "changed": 1}, 1, 1)


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


# --- what earlier calls say


def histories():
    """Every kind of last call: by a name, the fields of its record, and what lies beside it."""
    soon, past = 3600.0, -3600.0
    for answer_by, held, decided, delivered in itertools.product(
        (soon, past), (None, soon, past), (None, "release", "keep", "buy"), (False, True)
    ):
        name = f"sent-{answer_by}-{held}-{decided}-{delivered}"
        yield name, {"state": "sent", "answer_by": answer_by, "held_until": held}, decided, delivered
    yield "answered", {"state": "answered", "task_id": "t"}, None, False
    for state, before, decided in itertools.product(
        ("failed", "unknown", "lost", "quarantined"), (0, 1, 2, 3), (None, "buy")
    ):
        yield f"{state}-{before}-{decided}", {"state": state, "before": before, "number": before + 1}, decided, False
    for there in (True, False):
        yield f"landed-{there}", {"state": "landed"}, None, there


@pytest.fixture
def with_histories(catalogue):
    """A catalogue with a product for every kind of last call, whose photos the plan knows."""
    kinds = list(histories())
    for name, *_ in kinds:
        catalogue.add(name, name.encode())
    catalogue.add("never-tried", b"n")
    catalogue.add("unreadable", b"u")
    catalogue.remember()
    wanted = by_sku(catalogue, catalogue.plan())
    storage, layout, now = catalogue.storage, catalogue.layout, catalogue.storage.now()

    def happened(kind):
        name, fields, decided, beside = kind
        times = {key: now + fields[key] for key in ("answer_by", "held_until") if fields.get(key) is not None}
        call, _ = catalogue.call(wanted[name], **(fields | times))
        if decided:
            note = Note(what=decided, call_id=call.call_id, at=now)
            storage.put(layout.decision(call.fingerprint, call.number), note.model_dump_json().encode())
        if call.state == "sent" and beside:
            storage.put(layout.incoming(call.call_id), b"1")
        if call.state == "landed" and not beside:
            storage.delete(layout.absolute(call.images[0].uri))

    with ThreadPoolExecutor(8) as pool:
        list(pool.map(happened, kinds))
    storage.put(layout.call(wanted["unreadable"].fingerprint, 1), b"{")
    return catalogue


def test_the_plan_does_what_the_one_decision_says_of_every_kind_of_last_call(with_histories, monkeypatch):
    """The decision is ``decision.decide``, which a shard asks as well: there is no copy of it."""
    catalogue, asked = with_histories, []
    assert tried.decide is decide

    def spy(last, asks, now):
        asked.append((asks, decision := decide(last, asks, now)))
        return decision

    monkeypatch.setattr(tried, "decide", spy)
    ways = {"buy": "failed", "collect": "collect", "take": "collect", "wait": "collect"}
    runs: list[tuple[str, OnUnknownOutcome]]
    runs = [("changed", "hold"), ("changed", "resubmit"), ("changed", "fail"), ("failed", "hold")]
    for only, policy in runs:
        asked.clear()
        plan = catalogue.plan(only=only, on_unknown_outcome=policy)
        # All but those with nothing to ask about: never tried, or landed as their names say.
        assert len(asked) == len(catalogue.rows) - 2
        assert {asks for asks, _ in asked} == {Asks(policy, again=only == "failed")}
        expected = Counter(ways.get(decision.action, decision.action) for _, decision in asked)
        counts = Counter(plan.counts)
        assert (counts["failed_before"], plan.collect) == (
            expected["failed"] + expected["collect"],
            expected["collect"],
        )
        assert counts["held"] == expected["held"] > 0
        assert counts["quarantined"] + counts["given_up"] == expected["refuse"]
        assert (counts["quarantined"] > 0) == (counts["given_up"] > 0) == (only != "failed")
        said = catalogue.said(plan)
        assert (said.get("never-tried"), said.get("landed-True"), said["landed-False"]) == (
            "new" if only == "changed" else None,
            "unchanged",
            "failed_before",
        )


def test_what_is_left_out_says_why_and_what_a_person_may_do(with_histories):
    plan = with_histories.plan()
    told = with_histories.planned(plan)
    held, kept = told["sent--3600.0-3600.0-None-False"], told["sent--3600.0--3600.0-keep-False"]
    quarantined, given_up = told["quarantined-0-None"], told["lost-2-None"]
    assert (held.outcome, held.reason) == (kept.outcome, kept.reason) == ("held", "unknown")
    assert "was not answered, and may or may not have been charged" in held.error
    assert f"bgai-ledger release {with_histories.root} {held.fingerprint}" in held.error
    assert (quarantined.outcome, quarantined.reason) == ("quarantined", "quarantined")
    assert f"bgai-ledger buy {with_histories.root} {quarantined.fingerprint}" in quarantined.error
    assert (given_up.outcome, given_up.reason) == ("failed", "given_up")
    assert "paid in vain or in doubt 3 times" in given_up.error
    assert "cannot be read, which is no licence to buy" in told["unreadable"].error
    # What is paid for is collected: it costs nothing, and no limit or budget keeps it waiting.
    broke = with_histories.plan(limit=0, budget_left=(0, Decimal(0)))
    assert len(with_histories.wanted(broke)) == broke.collect == plan.collect > 0
    assert broke.calls == 0
    asked_for = with_histories.plan(only=["quarantined-0-None", "lost-2-None", "unreadable"])
    assert asked_for.counts == {"failed_before": 2, "held": 1, "not_selected": len(with_histories.rows) - 3}
    assert all(it.again for it in with_histories.wanted(asked_for))


# --- the name of a wish


@pytest.mark.parametrize(
    ("vendors", "recipe"),
    [
        (["picwish"], {"template": 7, "prompt": None}),
        (["photoroom"], {"guidance_image": "mood.png", "guidance_scale": 1, "negative_prompt": "people"}),
        (["imagine"], {"seed": {"policy": "sku"}, "count": 1}),
        (["katalis", "imagine"], {"count": 2, "options": {"style": "{{ sku }}"}}),
        (["picwish", "imagine"], {"seed": {"policy": "sku"}}),  # which PicWish does not take
        (["gptge"], {"options": {"b": "{{ sku }}", "a": 1.5}}),
    ],
)
def test_the_plan_names_a_wish_as_whoever_generates_does(catalogue, connect, vendors, recipe):
    connect("photoroom", extra={"model_version": "studio-3"})
    catalogue.storage.put(f"{catalogue.root}/mood.png", photo("mood"))
    catalogue.add("a", photo("a"), title='Ünï "quoted" \\ \u2028')
    catalogue.remember()
    if "guidance_image" in recipe:
        recipe = {**recipe, "guidance_image": f"{catalogue.root}/mood.png"}
    recipe = {name: value for name, value in {**RECIPE, **recipe}.items() if value is not None}
    (wanted,) = catalogue.wanted(catalogue.plan(recipe, vendors))
    hooks = catalogue.hooks(*vendors)
    purchase = asyncio.run(open_wish(Wish(wanted.background_request()), hooks, catalogue.storage))
    assert wanted.fingerprint == purchase.fingerprint


SPELLINGS = [
    ({"options": {"a": 0.1}}, {"options": {"a": "0.1"}}),
    ({"options": {"a": 1.0}}, {"options": {"a": 1}}),
    ({"options": {"a": None}}, {"options": {"a": ""}}),
    ({"options": {}}, {"options": {"a": None}}),
    ({"options": {"a": True}}, {"options": {"a": "true"}}),
    ({"prompt": "caf\u00e9 {{ title }}"}, {"prompt": "cafe\u0301 {{ title }}\n"}),
    ({"prompt": "  {{ title }}"}, {"prompt": "{{ title }}\n\n"}),
    ({"template": 5}, {"template": "5"}),
]


@pytest.mark.parametrize(("one", "other"), SPELLINGS)
def test_one_wish_has_one_name_however_it_is_spelled(catalogue, one, other):
    catalogue.add("a", photo("a"))
    catalogue.remember()
    plain = {"fidelity": False} if "template" in one else RECIPE
    names = [by_sku(catalogue, catalogue.plan({**plain, **style}))["a"].fingerprint for style in (one, other)]
    assert names[0] == names[1] is not None
    if one.get("options"):
        others: list[dict[str, Any]] = [{"options": {"a": 0.2}}, {"options": {"b": 0.1}}, {"options": {}}]
        assert names[0] not in {
            by_sku(catalogue, catalogue.plan({**plain, **it}))["a"].fingerprint for it in others[:2]
        }


def test_a_row_s_spelling_changes_no_name(catalogue):
    """Composed or not, with a number's or a text's 1001, and with a line break at its end."""
    spelled: list[dict[str, Any]] = [
        {"title": "caf\u00e9", "nr": 1001},
        {"title": "cafe\u0301\n", "nr": 1001.0},
        {"title": "café ", "nr": "1001"},
    ]
    names = set()
    for columns in spelled:
        catalogue.add("a", photo("a"), **columns)
        catalogue.remember()
        names.add(by_sku(catalogue, catalogue.plan({**RECIPE, "prompt": "No {{ nr }}, {{ title }}"}))["a"].fingerprint)
    assert len(names) == 1


# --- nights


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


# --- what is gone


@pytest.fixture
def forty(catalogue):
    """Forty products that were bought and published, and are unchanged."""
    for number in range(40):
        catalogue.add(f"p{number:02}", b"%d" % number)
    calls = catalogue.land(catalogue.plan())
    assert catalogue.plan().counts == {"unchanged": 40}
    return catalogue, list(calls.values())


def test_one_or_two_pictures_that_somebody_deleted_are_bought_again(three):
    calls = three.land(three.plan())
    for sku in "ab":
        three.storage.delete(three.layout.absolute(calls[sku].images[0].uri))
    plan = three.plan()
    assert (plan.counts, plan.calls) == ({"unchanged": 1, "failed_before": 2}, 2)


@pytest.mark.parametrize("records_too", [False, True])
def test_pictures_that_are_gone_in_masses_are_not_bought_again(forty, records_too):
    catalogue, calls = forty
    gone = [catalogue.layout.absolute(call.images[0].uri) for call in calls[:3]]
    if records_too:
        gone += [catalogue.layout.call(call.fingerprint, call.number) for call in calls[:3]]
    catalogue.storage.delete_all(gone)
    with pytest.raises(InvalidRequestError, match=r"3 of 40 published pictures are gone .*lifecycle rule.*only="):
        catalogue.plan()
    named = catalogue.plan(only=["p00", "p01", "p02"])
    assert (named.calls, named.counts["not_selected"]) == (3, 37)


def test_a_record_that_is_gone_while_its_picture_is_there_is_restored_and_nothing_bought(catalogue):
    for sku in "ab":
        catalogue.add(sku, photo(sku))
    catalogue.night()
    call = catalogue.records()[0]
    catalogue.storage.delete(catalogue.layout.call(call.fingerprint, call.number))
    with pytest.raises(InvalidRequestError, match=f"no record in .*bgai-ledger restore {catalogue.root}"):
        catalogue.plan()
    assert restore(catalogue.ledger, audit(catalogue.ledger).unrecorded) == 1
    plan, _ = catalogue.night()
    assert (plan.counts, catalogue.box.bill()["picwish"]) == ({"unchanged": 2}, 2)


def test_a_picture_that_another_run_lands_while_the_plan_lists_is_no_lost_record(three, monkeypatch):
    three.remember()
    wanted, real = three.wanted(three.plan()), Storage.list_uris
    landed: list[Any] = []

    def listing(self, prefix):
        yield from real(self, prefix)
        if prefix.endswith(f"/calls/{landed_name[0]}") and not landed:
            landed.append(three.call(wanted[0], state="landed"))

    landed_name = wanted[0].fingerprint
    monkeypatch.setattr(Storage, "list_uris", listing)
    plan = three.plan()
    assert (len(landed), plan.counts) == (1, {"new": 3})


def test_the_fingerprint_of_the_plan_is_name_of_and_nothing_else(three):
    """Names made by the planner are made by the function that whoever buys calls."""
    from airflow_provider_bgai.buying import purchase
    from airflow_provider_bgai.catalogue.planning import naming

    assert naming.name_of is name_of is purchase.name_of


def test_photos_are_read_by_nobody_who_plans(bad, three):
    three.storage = Storage()
    three.land(three.plan())
    bad.reset()
    three.plan()
    assert [seen for seen in bad.requests() if seen.method == "GET" and "/images/" in seen.key] == []
