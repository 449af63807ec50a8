"""What goes into shards: each picture once, highest priority first, as far as limit and budget reach; and its price."""

from __future__ import annotations

from decimal import Decimal

import pytest

from airflow_provider_bgai.catalogue.planning.plan import read_plan
from tests.catalogue.nights import RECIPE


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
        ({"budget_left": lambda: (1, None)}, ["c"], "0.03"),
        ({"budget_left": lambda: (None, Decimal("0.08"))}, ["c", "b"], "0.06"),
        ({"budget_left": lambda: (2, Decimal("0.05"))}, ["c"], "0.03"),
        ({"budget_left": lambda: (None, None)}, ["c", "b", "a"], "0.09"),
        ({"budget_left": lambda: (3, Decimal(1)), "limit": 1}, ["c"], "0.03"),
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
