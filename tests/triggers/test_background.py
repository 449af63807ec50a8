"""What the trigger tells: what it says is read as it was told, and what is no event is refused in words."""

from __future__ import annotations

import json
from pkgutil import resolve_name
from typing import Any

import airflow
import pytest
from airflow.models.trigger import Trigger
from packaging.version import Version

from airflow_provider_bgai.exceptions import PollError
from airflow_provider_bgai.triggers.background import BackgroundTaskTrigger, Event

GOOD: dict[str, Any] = {
    "action": "done",
    "succeeded": 1,
    "failed": 0,
    "pending": 0,
    "problems": {},
    "record": "s3://shop/_bgai/calls/x.001",
    "deadline": 1_800_000_000.0,
}


def test_an_event_is_what_the_trigger_yields():
    assert Event.of(GOOD).model_dump() == GOOD | {
        "waiting": [],
        "vendor": "",
        "counts": {},
    }  # of an older triggerer, too
    told = GOOD | {"waiting": ["t-9"], "vendor": "one", "counts": {"polls": 3}}
    assert Event.of(told).model_dump() == told
    assert Event.of(GOOD | {"of a later version": 1}) == Event.of(GOOD)


@pytest.mark.parametrize(
    ("event", "wrong"),
    [
        (None, "all"),
        ("done", "all"),
        ({}, "action, deadline, failed, pending, problems, record, succeeded"),
        (GOOD | {"action": "success"}, "action"),
        (GOOD | {"deadline": None, "failed": "some"}, "deadline, failed"),
    ],
)
def test_an_event_that_is_none_is_refused_in_words_and_a_retry_collects(event, wrong):
    with pytest.raises(PollError, match=rf"no event of BackgroundTaskTrigger \(wrong: {wrong}\).*a retry collects"):
        Event.of(event)


# --- what Airflow stores of a waiting task

ROW = {"conn_id": "one", "task_ids": ["a", "b"], "poll_interval": 2.0, "deadline": 1_800_000_000.0}
ROW |= {"land_within": 300.0, "record": "s3://shop/_bgai/calls/x.001"}
"""Of release 0.1.0, and never to be changed: such rows are waiting in databases."""


def inflated(stored: str) -> BackgroundTaskTrigger:
    """A row of Airflow's database as the triggerer reads it."""
    row = Trigger("airflow_provider_bgai.triggers.background.BackgroundTaskTrigger", {})
    row.encrypted_kwargs = stored
    return resolve_name(row.classpath)(**row.kwargs)


def tagged(kwargs: dict[str, Any]) -> str:
    """As Airflow before 3.2 writes it, and every version reads it."""
    return json.dumps({"__type": "dict", "__var": kwargs})


def test_a_trigger_comes_out_of_the_database_as_it_went_in():
    trigger = BackgroundTaskTrigger("one", ["a", "b"], 0.5, 1_800_000_000.25, 60.0, "s3://shop/_bgai/calls/x.001")
    assert inflated(Trigger.from_object(trigger).encrypted_kwargs).serialize() == trigger.serialize()


def test_a_row_of_the_first_release_is_what_it_was():
    path, kwargs = inflated(tagged(ROW)).serialize()
    assert path == "airflow_provider_bgai.triggers.background.BackgroundTaskTrigger"
    assert ROW.items() <= kwargs.items()


@pytest.mark.skipif(Version(airflow.__version__) < Version("3.2"), reason="a database is upgraded, and never goes back")
def test_a_row_as_newer_airflow_writes_it_is_what_it_was():
    assert inflated(json.dumps(ROW)).serialize() == inflated(tagged(ROW)).serialize()


def test_a_row_of_another_release_still_inflates():
    older = {name: ROW[name] for name in ("conn_id", "task_ids")}
    assert inflated(tagged(older | {"old name": 1, "not yet": {"__type": "dict", "__var": {}}})).task_ids == ["a", "b"]
