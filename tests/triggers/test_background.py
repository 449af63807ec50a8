"""What the trigger tells: what it says is read as it was told, and what is no event is refused in words."""

from __future__ import annotations

from typing import Any

import pytest

from airflow_provider_bgai.exceptions import (
    PollError,
)
from airflow_provider_bgai.triggers.background import Event

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
    assert Event.of(GOOD).model_dump() == GOOD | {"vendor": "", "counts": {}}  # one of an older triggerer, too
    told = GOOD | {"vendor": "one", "counts": {"polls": 3}}
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
