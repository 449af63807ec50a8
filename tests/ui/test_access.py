"""Who gets in below /bgai: a table of all routes there are, tried in Airflow's own API server."""

from __future__ import annotations

import json
from typing import NamedTuple

import pytest

pytest.importorskip("airflow.api_fastapi.app")  # Airflow 3

from fastapi.routing import APIRoute

from airflow_provider_bgai.ui.links import PREFIX
from airflow_provider_bgai.ui.routes import RUN, TASK, app


class Row(NamedTuple):
    """What a route answers to who may read the DAG, and to who may edit it."""

    reader: int
    editor: int
    query: str = ""


# Nobody who is not logged in gets in (401), nor who may not read the DAG (403).
TABLE = {
    ("GET", "/catalogues"): Row(200, 200),
    ("GET", f"{RUN}/gallery"): Row(200, 200),
    ("GET", f"{TASK}/gallery"): Row(200, 200),
    ("GET", f"{TASK}/cards"): Row(200, 200),
    ("GET", f"{TASK}/details"): Row(200, 200, "at={at}"),
    ("GET", f"{TASK}/full"): Row(302, 302, "at={at}&index=1"),
    ("GET", f"{TASK}/prompt"): Row(200, 200, "at={at}"),
    ("GET", f"{TASK}/figures"): Row(200, 200),
    ("GET", f"{TASK}/report"): Row(302, 302),
    ("GET", f"{TASK}/picture/{{index}}"): Row(404, 404),  # a catalogue's task names none
    ("POST", f"{TASK}/decisions"): Row(403, 200),
}


@pytest.fixture
def at(client, login, reviewed):
    """The place of the card in quarantine."""
    cards = client.get(f"{reviewed.task()}/cards", headers=login()).text.splitlines()
    return next(it["at"] for it in map(json.loads, cards) if it.get("outcome") == "quarantined")


@pytest.fixture
def ask(client, reviewed, at):
    """``ask("GET", route, headers)``: the status of a route's answer about the run."""

    def ask(method, route, headers, query=""):
        known = {"dag_id": reviewed.dag_id, "run_id": reviewed.run_id, "task_id": "catalogue.plan", "map_index": -1}
        path = f"{PREFIX}{route.format(**known, index=1)}?{query.format(at=at)}"
        body = {"json": {"at": at, "what": "buy"}} if method == "POST" else {}
        return client.request(method, path.replace("+", "%2B"), headers=headers, **body).status_code

    return ask


def test_every_route_there_is_has_a_row(client):
    routes = [route for route in app.routes if isinstance(route, APIRoute)]
    assert routes == app.routes
    assert {(method, route.path) for route in routes for method in route.methods} == TABLE.keys()
    for path in ("/docs", "/redoc", "/openapi.json", "/"):
        assert client.get(PREFIX + path).status_code == 404


@pytest.mark.parametrize(("method", "route"), TABLE)
def test_who_gets_in(client, login, ask, monkeypatch, method, route):
    from airflow.api_fastapi.app import get_auth_manager

    row = TABLE[method, route]
    assert ask(method, route, {}, row.query) == 401
    assert ask(method, route, {"Authorization": "Bearer x"}, row.query) in (401, 403)
    assert ask(method, route, login(None), row.query) == 403
    assert ask(method, route, login("viewer"), row.query) == row.reader
    assert ask(method, route, login("user"), row.query) == row.editor
    asked = []

    def nobody_may(*, details=None, **question):
        asked.append(details.id)
        return False

    monkeypatch.setattr(get_auth_manager(), "is_authorized_dag", nobody_may)
    assert ask(method, route, login("admin"), row.query) == 403
    assert asked == [None if "{dag_id}" not in route else "night_bad"]


def test_a_prompt_is_for_who_may_read_the_dags_code(login, ask, monkeypatch):
    from airflow.api_fastapi.app import get_auth_manager
    from airflow.api_fastapi.core_api.security import DagAccessEntity

    monkeypatch.setattr(
        get_auth_manager(),
        "is_authorized_dag",
        lambda *, access_entity=None, **_: access_entity != DagAccessEntity.CODE,
    )
    assert ask("GET", f"{TASK}/cards", login()) == 200
    assert ask("GET", f"{TASK}/prompt", login(), "at={at}") == 403


def test_the_list_of_catalogues_has_those_of_the_dags_that_somebody_may_read(client, login, reviewed, monkeypatch):
    from airflow.api_fastapi.app import get_auth_manager

    assert reviewed.destination in client.get(f"{PREFIX}/catalogues", headers=login()).text
    monkeypatch.setattr(get_auth_manager(), "get_authorized_dag_ids", lambda **_: {"night_good"})
    assert reviewed.destination not in client.get(f"{PREFIX}/catalogues", headers=login()).text


def test_another_site_cannot_decide_with_the_cookie_of_who_is_logged_in(client, login, reviewed, at):
    path, body = f"{reviewed.task()}/decisions", {"at": at, "what": "buy"}
    client.cookies.set("_token", login("user")["Authorization"].removeprefix("Bearer "))
    try:
        assert client.post(path, json=body).status_code == 200
        # What a form of another site can send, and what a script of it.
        assert client.post(path, data=body).status_code == 415
        as_text = client.post(path, content=json.dumps(body), headers={"Content-Type": "text/plain"})
        assert as_text.status_code == 415
        for site in ("cross-site", "same-site", "none"):
            assert client.post(path, json=body, headers={"Sec-Fetch-Site": site}).status_code == 403
        # A script has to ask first whether it may send JSON.
        asked = {"Origin": "https://evil.example", "Access-Control-Request-Method": "POST"}
        assert "access-control-allow-origin" not in client.options(path, headers=asked).headers
    finally:
        client.cookies.clear()
