"""A person's word before a run is published, where Airflow cannot ask; and what is asked.

Airflow's own way of asking is seen in ``test_real_airflow.py``.
"""

from __future__ import annotations

from datetime import timedelta
from types import SimpleNamespace
from typing import Any

import pytest
from airflow.providers.common.compat.sdk import AirflowFailException, AirflowSkipException
from hypothesis import given
from hypothesis import strategies as st
from markdown_it import MarkdownIt

from airflow_provider_bgai.buying.decisions import decide_about
from airflow_provider_bgai.catalogue import cli
from airflow_provider_bgai.catalogue.publishing.publish import Preview, preview
from airflow_provider_bgai.catalogue.report.costs import Costs
from airflow_provider_bgai.catalogue.review import body_of, is_asked_for
from airflow_provider_bgai.exceptions import UnfaithfulError
from airflow_provider_bgai.operators._task import collect
from airflow_provider_bgai.operators.review import DecideCatalogueOperator, ReviewCatalogueSensor
from tests.catalogue.nights import Catalogue, photo
from tests.catalogue.test_decided import shop

COMPARED = {"prompt": "{{ title }} on oak"}


@pytest.fixture
def catalogue(s3: Any, storage: Any, box: Any, connections: None, request: Any) -> Catalogue:
    return Catalogue(storage, f"s3://{s3.bucket}/{request.node.name.replace('[', '-').rstrip(']')}", box)


def poke(catalogue: Catalogue, plan: Any, *, review: Any = "quarantined", attempt: int = 1) -> bool:
    task = ReviewCatalogueSensor(task_id="review", plan={"uri": plan.uri}, review=review, within=timedelta(hours=1))
    return task.poke({"ti": SimpleNamespace(try_number=attempt)})  # type: ignore[typeddict-item]


@pytest.fixture
def doubtful(catalogue):
    """A run of two products, one of them in quarantine, made and not published."""
    for sku in "ab":
        catalogue.add(sku, photo(sku))
    catalogue.box.fault("picwish", "redrawn_product", times=1, on="download")
    plan = catalogue.plan(COMPARED)
    catalogue.generate(plan)
    return plan


def test_a_run_waits_until_a_person_approves_it(catalogue, doubtful, capfd, caplog):
    for _ in range(2):
        assert not poke(catalogue, doubtful)
    log = capfd.readouterr().out + caplog.text
    assert "Publish? 1 file(s) of the shop would change. 1 product(s) are in quarantine or held." in log
    command = f"approve {catalogue.root} {doubtful.run}"
    assert f"bgai-ledger {command}" in log
    question = catalogue.layout.run(doubtful.run).question(1)
    assert "| quarantined | 1 |" in catalogue.storage.read(question).decode()
    assert catalogue.storage.read(catalogue.layout.run(doubtful.run).report)
    assert cli.main(command.split()) == 0
    assert poke(catalogue, doubtful)
    assert not poke(catalogue, doubtful, attempt=2), "a task that is cleared asks anew"


def test_a_run_that_a_person_refuses_is_skipped(catalogue, doubtful):
    assert not poke(catalogue, doubtful)
    assert cli.main(["refuse", catalogue.root, doubtful.run]) == 0
    with pytest.raises(AirflowSkipException, match="does not want this run published"):
        poke(catalogue, doubtful)


def test_nobody_is_asked_where_nothing_calls_for_it(catalogue):
    catalogue.add("a", photo("a"))
    plan = catalogue.plan()
    catalogue.generate(plan)
    assert poke(catalogue, plan)
    assert not poke(catalogue, plan, review="all")
    catalogue.publish(plan)
    assert poke(catalogue, catalogue.plan(), review="all")


def test_an_answer_for_a_run_that_is_not_there_is_refused(catalogue, capsys):
    with pytest.raises(SystemExit):
        cli.main(["approve", catalogue.root, "no-such-run"])
    assert "there is no such run" in capsys.readouterr().err


def test_looking_changes_nothing_in_the_shop(catalogue, doubtful):
    before = {item.uri: item.hint for item in catalogue.storage.list(f"{catalogue.root}/")}
    seen = preview(catalogue.storage, catalogue.root, doubtful.run)
    assert (seen.outcomes, seen.changes, len(seen.doubtful)) == ({"bought": 1, "quarantined": 1}, 1, 1)
    after = {item.uri: item.hint for item in catalogue.storage.list(f"{catalogue.root}/")}
    new = {uri.rpartition("/")[2] for uri in after.keys() - before.keys()}
    assert new == {"outcomes.jsonl", "report.html"}
    assert {uri: after[uri] for uri in before} == before


def test_a_task_carries_decisions_out_at_once(catalogue, doubtful):
    catalogue.publish(doubtful, max_failure_ratio=1.0)
    states = {call.sku: call.state for call in catalogue.records()}
    (good,), (bad,) = ([sku for sku, it in states.items() if it == state] for state in ("landed", "quarantined"))
    steps = [
        ([{"sku": bad, "what": "accept"}], {good, bad}),
        ([{"sku": good, "what": "reject"}], {bad}),
        ([{"sku": good, "what": "accept"}, {"sku": bad, "what": "reject"}], {good}),
    ]
    for decisions, shown in steps:
        task = DecideCatalogueOperator(task_id="decide", destination=catalogue.root, decisions=decisions, by="anna")
        assert task.execute({})["run"] == doubtful.run  # type: ignore[index]
        assert shop(catalogue).keys() == shown
    assert catalogue.box.bill()["picwish"] == 2
    unknown = [{"sku": "c", "what": "buy"}]
    wrong = DecideCatalogueOperator(task_id="decide", destination=catalogue.root, decisions=unknown)
    with pytest.raises(AirflowFailException, match="sku='c': the latest run has no wish"):
        wrong.execute({})


def test_a_task_that_is_cleared_lands_what_a_person_has_accepted_since(catalogue, doubtful):
    (bad,) = [call for call in catalogue.records() if call.state == "quarantined"]
    with pytest.raises(UnfaithfulError, match="bgai-ledger accept"):
        collect(catalogue.ledger, bad, "run", 1.0)
    decide_about(catalogue.ledger, bad.fingerprint, "accept")
    (image,) = collect(catalogue.ledger, bad, "run", 1.0).images
    assert catalogue.storage.read(catalogue.layout.absolute(image.uri))
    assert catalogue.ledger.last(bad.fingerprint).state == "quarantined"


OUTCOMES = st.dictionaries(st.sampled_from(["bought", "unchanged", "quarantined", "held", "failed"]), st.integers(0, 3))


@given(OUTCOMES, st.integers(0, 2))
def test_when_a_person_is_asked(outcomes, changes):
    seen = _seen(outcomes=outcomes, changes=changes)
    doubtful = outcomes.get("quarantined", 0) + outcomes.get("held", 0) > 0
    assert not is_asked_for("none", seen)
    assert is_asked_for("quarantined", seen) == doubtful
    assert is_asked_for("all", seen) == (doubtful or changes > 0)


@given(st.text(), st.text())
def test_what_comes_from_outside_is_no_markdown(sku, why):
    seen = _seen(doubtful={f"sku {sku}": why}, outcomes={"quarantined": 1})
    page = MarkdownIt("js-default").parse(body_of(seen, None, {}))
    kinds = {each.type for token in page for each in token.children or ()}
    assert not kinds & {"link_open", "image", "html_inline", "code_inline", "em_open"}
    assert not any(token.type in ("html_block", "heading_open", "fence") for token in page)


def _seen(**fields: Any) -> Preview:
    known: dict[str, Any] = {"run": "r", "outcomes": {}, "failure_ratio": 0.0, "changes": 0, "costs": Costs()}
    known |= {"doubtful": {}, "outcomes_uri": "s3://a/b", "report": "s3://a/c"}
    return Preview(**(known | fields))
