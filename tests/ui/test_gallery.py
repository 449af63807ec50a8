"""What the pages of a run are told: cards, thumbnails, prompts, figures; and that a decision is written down."""

from __future__ import annotations

import json

import pytest


@pytest.fixture
def cards(client, login, reviewed):
    """The cards of the run by their SKUs, and what else is told besides."""
    answer = client.get(f"{reviewed.task()}/cards", headers=login())
    assert (answer.status_code, answer.headers["content-type"]) == (200, "application/x-ndjson"), answer.text
    lines = [json.loads(line) for line in answer.text.splitlines()]
    return {it.get("sku", ""): it for it in lines}, [it for it in lines if "sku" not in it]


def test_every_product_of_a_run_is_told_by_each_of_its_tasks(client, login, reviewed, cards):
    found, others = cards
    assert {sku: it["outcome"] for sku, it in found.items() if sku} == {
        "GOOD": "bought",
        "REDRAWN": "quarantined",
        "HELD": "held",
    }
    assert others == [{"published": True}, {"unchanged": 0}]
    for task in ("plan/-1", "generate/0", "publish/-1"):
        name, _, index = task.partition("/")
        assert "REDRAWN" in client.get(f"{reviewed.task(name, index)}/cards", headers=login()).text
