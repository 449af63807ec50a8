"""What the pages of a run are told: cards, thumbnails, prompts, figures; and that a decision is written down."""

from __future__ import annotations

import json
import tracemalloc
from typing import Any, get_args

import httpx
import pytest

from airflow_provider_bgai.buying.calls import Ledger
from airflow_provider_bgai.buying.decision import Decided
from airflow_provider_bgai.buying.decisions import read_note
from airflow_provider_bgai.catalogue.review import DECISIONS
from airflow_provider_bgai.ui.gallery import Gallery


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


def test_a_card_names_the_published_address_once_and_no_hash_of_a_prompt(reviewed, cards):
    good, redrawn, held = (cards[0][sku] for sku in ("GOOD", "REDRAWN", "HELD"))
    (address,) = good["addresses"]
    assert address["uri"] == f"{reviewed.destination}/GOOD.png"
    assert [it["uri"] for it in redrawn["addresses"]] == [it["uri"] for it in redrawn["images"]]
    assert "/_bgai/quarantine/" in redrawn["addresses"][0]["uri"]
    assert held["addresses"] == []
    assert not {"prompt", "finished"} & (good.keys() | redrawn.keys() | held.keys())
    assert [it["buttons"] for it in (good, redrawn, held)] == [
        ["reject", "buy"],
        ["accept", "buy"],
        ["release", "keep"],
    ]


def test_thumbnails_prompt_and_picture_are_those_of_the_card(client, login, reviewed, cards):
    places = {sku: it["at"] for sku, it in cards[0].items() if sku}
    found = client.get(f"{reviewed.task()}/details", params={"at": list(places.values())}, headers=login()).json()
    assert list(found) == list(places.values())
    assert found[places["GOOD"]]["before"]
    assert [len(found[places[sku]]["afters"]) for sku in ("GOOD", "REDRAWN", "HELD")] == [1, 1, 0]
    for sku, place in places.items():
        prompt = client.get(f"{reviewed.task()}/prompt", params={"at": place}, headers=login()).json()
        assert prompt == {"prompt": f"A <b>thing</b> on a table for {sku}"}
    for sku, status in (("GOOD", 302), ("REDRAWN", 302), ("HELD", 404)):
        answer = client.get(f"{reviewed.task()}/full", params={"at": places[sku], "index": 1}, headers=login())
        assert answer.status_code == status, answer.text
        if status == 302:
            picture = httpx.get(answer.headers["location"], trust_env=False)
            assert picture.headers["content-type"].startswith("image/")


def test_before_a_run_has_published_its_shards_say_what_became_of_its_products(client, login, reviewed, cards, storage):
    run, mapping = reviewed.run, reviewed.run.layout.mapping(reviewed.run.name)
    kept = {uri: storage.read(uri) for uri in (run.outcomes, mapping)}
    storage.delete_all(kept)
    try:
        lines = client.get(f"{reviewed.task()}/cards", headers=login()).text.splitlines()
        published, *found, unchanged = map(json.loads, lines)
        assert (published, unchanged) == ({"published": False}, {"unchanged": 0})
        assert {it["sku"]: it["outcome"] for it in found} == {
            "GOOD": "bought",
            "REDRAWN": "quarantined",
            "HELD": "held",
        }
        assert {it["at"].partition(":")[0] for it in found} == {"results/0000"}
        answer = client.get(f"{reviewed.task()}/details", params={"at": found[0]["at"]}, headers=login())
        assert answer.json()[found[0]["at"]]["afters"]
    finally:
        for uri, body in kept.items():
            storage.put(uri, body)


@pytest.mark.parametrize(
    ("at", "status"),
    [
        ("outcomes:0:9", 409),
        ("outcomes:3:100", 409),
        ("outcomes:9999999:10", 409),
        ("results/0007:0:10", 409),
        ("../../calls:0:10", 400),
        ("plan.json:0:10", 400),
        ("report:0:10", 400),
        ("outcomes", 400),
        ("", 400),
    ],
)
def test_a_request_names_no_more_than_a_line_of_the_runs_own_files(client, login, reviewed, at, status):
    for route in ("details", "prompt", "full?index=1"):
        answer = client.get(f"{reviewed.task()}/{route}", params={"at": at, "index": 1}, headers=login())
        assert answer.status_code == status, (route, answer.text)
        assert "location" not in answer.headers


def test_a_line_that_names_something_else_opens_nothing(client, login, reviewed, cards, storage, upload, s3):
    secret = upload("somewhere/private.png", b"secret")
    run, kept = reviewed.run, storage.read(reviewed.run.outcomes)
    good = next(line for line in kept.splitlines() if b'"GOOD"' in line)
    try:
        for uri in (
            secret,
            f"{run.layout.folder}/calls/../../private.png",
            "_bgai/pictures/../../../somewhere/private.png",
            run.plan,
        ):
            result = json.loads(good)
            for files in (result["images"], result["finished"]):
                files[0]["uri"] = uri
            line = json.dumps(result).encode() + b"\n"
            storage.put(run.outcomes, line)
            params: dict[str, Any] = {"at": f"outcomes:0:{len(line)}", "index": 1}
            answer = client.get(f"{reviewed.task()}/full", params=params, headers=login())
            assert answer.status_code in (400, 502), (uri, answer.text)
            assert "location" not in answer.headers
    finally:
        storage.put(run.outcomes, kept)


def send(client, reviewed, headers, **decision):
    return client.post(f"{reviewed.task()}/decisions", json=decision, headers=headers)


def test_a_decision_is_written_down_with_who_took_it_and_shown(client, login, reviewed, cards, storage):
    ledger = Ledger(storage, reviewed.destination)
    for sku, what in (("HELD", "keep"), ("HELD", "release"), ("REDRAWN", "buy"), ("REDRAWN", "accept")):
        card = cards[0][sku]
        answer = send(client, reviewed, login("user"), at=card["at"], what=what)
        assert answer.status_code == 200, answer.text
        assert (answer.json()["what"], answer.json()["by"]) == (what, "a-user")
        call = ledger.last(card["fingerprint"])
        note = call and read_note(storage, ledger.layout, call)
        assert note
        assert (note.what, note.by) == (what, "a-user")
        shown = client.get(f"{reviewed.task()}/details", params={"at": card["at"]}, headers=login()).json()
        assert shown[card["at"]]["decided"] == answer.json()


def test_a_decision_that_makes_no_sense_is_refused_in_words(client, login, reviewed, cards, storage):
    good, held = cards[0]["GOOD"], cards[0]["HELD"]
    answer = send(client, reviewed, login("user"), at=good["at"], what="accept")
    assert (answer.status_code, answer.text) == (400, "GOOD is bought: nobody can decide 'accept' about that")
    assert send(client, reviewed, login("user"), at=held["at"], what="burn").status_code == 422
    assert send(client, reviewed, login("user"), at="outcomes:1:5", what="buy").status_code == 409
    # Another call of the wish than the one that is looked at.
    ledger = Ledger(storage, reviewed.destination)
    call = ledger.last(cards[0]["REDRAWN"]["fingerprint"])
    assert call is not None
    other = call.model_copy(update={"number": call.number + 1, "call_id": "f" * 32})
    uri = ledger.layout.call(other.fingerprint, other.number)
    storage.put(uri, other.body())
    try:
        answer = send(client, reviewed, login("user"), at=cards[0]["REDRAWN"]["at"], what="buy")
        assert (answer.status_code, answer.text[:32]) == (409, "REDRAWN was bought again since. ")
    finally:
        storage.delete(uri)


def test_every_decision_has_a_button():
    assert set(DECISIONS) == set(get_args(Decided))


def test_what_was_spent_and_what_waits(client, login, reviewed, cards, storage):
    for it in storage.list(reviewed.run.layout.decisions):
        storage.delete(it.uri)
    figures = client.get(f"{reviewed.task()}/figures", headers=login()).json()
    assert (len(figures["days"]), len(figures["months"])) == (31, 6)
    assert figures["days"][-1]["pictures"] == 2
    assert figures["months"][-1]["paid"] == figures["days"][-1]["paid"]
    assert figures["waiting"] == {"quarantined": 1, "held": 1}
    assert send(client, reviewed, login("user"), at=cards[0]["HELD"]["at"], what="keep").status_code == 200
    assert client.get(f"{reviewed.task()}/figures", headers=login()).json()["waiting"] == {"quarantined": 1}


def test_a_run_that_planned_nothing_and_a_task_of_another_kind_have_an_empty_page(client, login, reviewed):
    page = client.get(f"{reviewed.path}/gallery", headers=login()).text
    assert f'"destination": "{reviewed.destination}"' in page
    for path in (
        reviewed.path.replace(reviewed.dag_id, "night_good"),
        f"{reviewed.path}/tasks/catalogue.generated/{{MAP_INDEX}}",
    ):
        answer = client.get(f"{path}/gallery", headers=login())
        assert (answer.status_code, '"catalogues": []' in answer.text) == (200, True), answer.text


def test_a_page_lets_nothing_run_but_its_own_script(client, login, reviewed, s3):
    policy = client.get(f"{reviewed.path}/gallery", headers=login()).headers["content-security-policy"]
    rules = dict(rule.split(" ", 1) for rule in policy.split("; "))
    assert rules["default-src"] == rules["base-uri"] == rules["form-action"] == "'none'"
    assert rules["frame-ancestors"] == rules["connect-src"] == "'self'"
    assert rules["script-src"].startswith("'sha256-")
    assert rules["img-src"] == f"data: 'self' {s3.endpoint}"


def test_memory_does_not_grow_with_products(storage, reviewed, cards):
    kept = storage.read(reviewed.run.outcomes)
    good = next(line for line in kept.splitlines() if b'"GOOD"' in line)
    peaks = []
    try:
        for count in (2_000, 10_000):
            storage.put(reviewed.run.outcomes, (good + b"\n") * count)
            tracemalloc.start()
            assert sum(block.count("\n") for block in Gallery(storage, reviewed.run).cards()) == count + 2
            peaks.append(tracemalloc.get_traced_memory()[1])
            tracemalloc.stop()
    finally:
        storage.put(reviewed.run.outcomes, kept)
    assert peaks[1] < 1.5 * peaks[0], peaks


def test_a_picture_that_is_rejected_or_bought_again_with_another_seed_can_still_be_looked_at(
    client, login, reviewed, cards, storage
):
    good = cards[0]["GOOD"]
    ledger = Ledger(storage, reviewed.destination)
    for decision in ({"what": "reject"}, {"what": "buy", "seed": 7, "conn_id": "katalis_default"}):
        assert send(client, reviewed, login("user"), at=good["at"], **decision).status_code == 200
        call = ledger.last(good["fingerprint"])
        note = call and read_note(storage, ledger.layout, call)
        assert note
        assert (note.what, note.seed, note.conn_id) == tuple(map(decision.get, ("what", "seed", "conn_id")))
        answer = client.get(f"{reviewed.task()}/full", params={"at": good["at"], "index": 1}, headers=login())
        assert "/_bgai/quarantine/" in answer.headers["location"]
    answer = send(client, reviewed, login("user"), at=good["at"], what="reject", seed=7)
    assert (answer.status_code, answer.text) == (400, "reject: a seed and a connection are for what is bought")
