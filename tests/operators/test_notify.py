"""Airflow's notifiers are told what waits for a person, once, and can do no harm."""

from __future__ import annotations

import html
import json
from collections.abc import Iterator
from typing import Any

import pytest
from airflow.providers.common.compat.version_compat import AIRFLOW_V_3_1_PLUS

from airflow_provider_bgai.buying.brake import IN_A_ROW
from airflow_provider_bgai.operators._notify import EVENTS
from tests.conftest import ROOT, SECRET
from tests.operators.conftest import RECIPE
from tests.operators.hearing import hearing
from tests.operators.listeners import HEARD
from tests.servers import serving_mail, serving_website
from tests.test_docs import blocks

LINES = 15


@pytest.fixture
def heard() -> Iterator[list[dict[str, Any]]]:
    HEARD.clear()
    yield HEARD
    HEARD.clear()


@pytest.fixture
def told(night, heard):
    """Run a night; what its one notifier was told."""

    def told(**conf: Any) -> dict[str, Any]:
        heard.clear()
        done = night(dag_id="catalogue_notified", **conf)
        (found,) = heard
        assert found["said"] == f"catalogue.publish: {found['text']}"
        assert found["report"] in found["text"]
        assert len(found["text"].splitlines()) <= LINES
        assert done["state"] == ("failed" if "refused_publish" in found["events"] else "success")
        assert "Thing" not in found["text"]  # which all prompts are about
        assert SECRET not in str(found)
        return found

    return told


def test_a_good_night_tells_nobody(night, catalogue, heard):
    for _ in range(2):
        assert night(dag_id="catalogue_notified", **catalogue(2))["state"] == "success"
    assert heard == []


def test_pictures_in_quarantine_wait_for_a_person_and_so_every_night_says(told, catalogue, box, shop):
    box.fault("picwish", "redrawn_product", times=1, on="download")
    first = told(**catalogue(3), max_failure_ratio=0.9)
    assert (first["events"], first["counts"]) == (["quarantined"], {"bought": 2, "quarantined": 1})
    lines = first["text"].splitlines()
    assert lines[:3] == [
        f"Published: {shop} shows 2 picture(s) of 2 product(s)",
        "2 bought, 1 quarantined",
        "paid: 0.09 USD for 3 picture(s)",
    ]
    assert f"bgai-ledger accept {shop} --sku SKU-" in first["text"]
    second = told(**catalogue(3), max_failure_ratio=0.9)
    assert second["events"] == ["quarantined"]
    assert "paid: 0 for 0 picture(s)" in second["text"]
    assert second["run"] != first["run"]


def test_a_refused_publish_says_what_stands_in_the_shop_and_what_to_do(told, catalogue, box):
    for _ in range(3):
        box.fault("picwish", "state_-7", times=1, on="submit")
    found = told(**catalogue(4))
    assert (found["events"], found["counts"]) == (["refused_publish"], {"bought": 1, "refused": 3})
    assert found["text"].startswith("Nothing published: 3 of 4 products failed (75.0%, allowed 20.0%): 1 bought, ")
    assert "change the row, the image or the prompt" in found["text"]


def test_a_budget_that_is_reached_says_how_many_wait(told, catalogue):
    found = told(**catalogue(6), budget={"run": {"pictures": 4}})
    assert (found["events"], found["counts"]["over_budget"]) == (["over_budget"], 2)
    assert "raise the budget or the limit" in found["text"]


def test_a_call_that_is_held_asks_for_a_look_at_the_bill(told, catalogue, box, connect, night):
    connect("picwish", extra={"timeout": 5})
    box.fault("picwish", "drop_after_charge", times=1, on="submit")
    found = told(**catalogue(2), max_failure_ratio=0.9)
    assert (found["events"], found["counts"]) == (["held"], {"bought": 1, "held": 1})
    assert "look at the vendor's bill. bgai-ledger release" in found["text"]


def test_a_connection_that_took_money_for_nothing_is_named_even_where_another_one_serves(told, catalogue, box):
    box.fault("picwish", "redrawn_product", times=IN_A_ROW, on="download")
    products = catalogue(IN_A_ROW, recipe=RECIPE + "retries: 1\n")
    found = told(**products, conn_id=["picwish_default", "photoroom_default"], max_failure_ratio=1.0)
    assert found["events"] == ["stopped"]
    assert found["stopped"] == ["picwish_default"]
    assert found["counts"] == {"bought": IN_A_ROW}
    assert "stopped for this run: picwish_default" in found["text"].splitlines()


@pytest.mark.parametrize("others", [[], ["photoroom_default"]], ids=["alone", "another serves"])
def test_an_account_that_is_empty_is_named(told, catalogue, box, others):
    box.fault("picwish", "quota_spent", on="submit")
    found = told(**catalogue(4), conn_id=["picwish_default", *others], max_failure_ratio=1.0)
    assert (found["events"], found["stopped"]) == (["stopped"], ["picwish_default"])
    assert found["counts"] == ({"bought": 4} if others else {"bought": 3, "failed": 1})
    assert ("see to the account and its key" in found["text"]) is not bool(others)


def test_all_at_once_is_still_short_and_every_event_is_told(told, catalogue, box, connect):
    connect("picwish", extra={"timeout": 5})
    box.fault("picwish", "drop_after_charge", times=1, on="submit")
    for fault in ("state_-7", "moderation", "state_-1", "quota_spent"):
        box.fault("picwish", fault, times=1, on="submit")
    box.fault("picwish", "redrawn_product", times=1, on="download")
    box.fault("picwish", "truncated_image", times=3, on="download")
    found = told(**catalogue(10), budget={"run": {"pictures": 8}})
    assert {"refused_publish", "held", "over_budget", "stopped"} <= set(found["events"]) <= set(EVENTS)


def test_slack_and_mail_as_the_page_writes_them_say_it(night, catalogue, box, dags, monkeypatch, shop):
    names: dict[str, Any] = {}
    (code,) = (it for it in blocks(ROOT / "docs" / "operating.md", "python") if "notifiers=" in it)
    exec(code, names)
    as_pasted = names["dag"].get_task("catalogue.publish").notifiers
    monkeypatch.setattr(dags["catalogue_notified"].get_task("catalogue.publish"), "notifiers", as_pasted)
    box.fault("picwish", "redrawn_product", times=1, on="download")
    with serving_website() as site, serving_mail() as (port, mails):
        slack = {"conn_type": "http", "host": site.url, "password": "services/T1/B2/secret"}
        mail = {"conn_type": "smtp", "host": "127.0.0.1", "port": port}
        mail["extra"] = {"disable_ssl": True, "disable_tls": True}
        for name, connection in {"SLACK": slack, "SMTP_DEFAULT": mail}.items():
            monkeypatch.setenv(f"AIRFLOW_CONN_{name}", json.dumps(connection))
        site.answer("/services/T1/B2/secret", "ok")
        done = night(dag_id="catalogue_notified", **catalogue(2), max_failure_ratio=0.9)
    assert done["state"] == "success"
    (posted,) = site.requests
    text = json.loads(posted.body)["text"]
    assert (posted.method, posted.path) == ("POST", "/services/T1/B2/secret")
    assert text.startswith(f"Published: {shop} shows 1 picture(s) of 1 product(s)\n1 bought, 1 quarantined\n")
    (got,) = mails
    assert (got["Subject"], got["To"]) == ("catalogue_notified: quarantined", "pictures@shop.example")
    body = got.get_body(("html",))
    assert body is not None
    assert body.get_content().strip() == f"<pre>{html.escape(text).replace('&#x27;', '&#39;')}</pre>"


def test_a_notifier_that_breaks_is_a_warning_and_the_others_are_told_all_the_same(night, catalogue, box, heard):
    box.fault("picwish", "redrawn_product", times=1, on="download")
    with hearing() as heard_in_logs:
        done = night(dag_id="catalogue_notified_badly", **catalogue(3), max_failure_ratio=0.9)
    assert done["state"] == "success"
    assert done["publish"][0]["outcomes"] == {"bought": 2, "quarantined": 1}
    assert [each["events"] for each in heard] == [["quarantined"]]
    assert heard[0]["said"].startswith("catalogue.publish: Published: ")
    lines = "\n".join(heard_in_logs.tasks["catalogue.publish", -1])
    if AIRFLOW_V_3_1_PLUS:  # before, a notifier catches that by itself, and Airflow says so
        assert "WARNING Broken has told nobody: ConnectionError: no such channel" in lines
    assert "WARNING Listener has told nobody: UndefinedError: 'nothing' is undefined" in lines
    assert "WARNING break_down has told nobody: KeyError: 'quarantined'" in lines


def test_what_cannot_be_read_is_a_warning_too(night, catalogue, box, heard, storage, shop):
    box.fault("picwish", "redrawn_product", times=1, on="download")
    storage.put(f"{shop}/_bgai/stopped/somebody-s-own", b"no mark of ours")
    with hearing() as heard_in_logs:
        assert night(dag_id="catalogue_notified", **catalogue(2), max_failure_ratio=0.9)["state"] == "success"
    assert heard == []
    lines = heard_in_logs.tasks["catalogue.publish", -1]
    assert any(line.startswith("WARNING Nobody is told what waits for a person: ") for line in lines)
