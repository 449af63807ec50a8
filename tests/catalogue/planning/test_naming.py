"""The name of a wish: the one under which it is bought, one however it is spelled, and of one product only."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from airflow_provider_bgai.buying.purchase import Wish, name_of, open_wish
from tests.catalogue.nights import RECIPE, by_sku, photo


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


def test_the_fingerprint_of_the_plan_is_name_of_and_nothing_else(three):
    """Names made by the planner are made by the function that whoever buys calls."""
    from airflow_provider_bgai.buying import purchase
    from airflow_provider_bgai.catalogue.planning import naming

    assert naming.name_of is name_of is purchase.name_of


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


def test_two_products_never_share_a_name(three):
    plan = three.plan({**RECIPE, "name": "{{ title[:5] }}.{ext}"})
    assert plan.counts == {"new": 1, "refused": 2}
    assert "is the name of 'a' as well" in three.planned(plan)["b"].error
