"""When a task of ours is retried: by Airflow's own loop of tries, and by a policy of 3.3 and later."""

from __future__ import annotations

import importlib
import sys
from datetime import timedelta
from types import ModuleType

import pytest
from airflow.providers.common.compat.sdk import AirflowException

from airflow_provider_bgai.exceptions import BgaiError, PollError, RateLimitError, SourceError
from airflow_provider_bgai.operators._task import SOON, fail


def failed(error: BgaiError) -> AirflowException:
    with pytest.raises(AirflowException) as raised:
        fail(error)
    return raised.value


@pytest.mark.parametrize(
    ("error", "seconds"),
    [
        (RateLimitError("too fast", retry_after=900), 900),
        (PollError("still pending", task_id="t"), SOON),
        (PollError("too fast", retry_after=300), 300),
        (SourceError("cannot be read"), None),
        (RateLimitError("too fast"), None),
    ],
)
def test_a_retry_comes_when_the_vendor_wants_it_or_before_what_is_paid_for_is_gone(error, seconds):
    retries = pytest.importorskip("airflow_provider_bgai.operators.retries", exc_type=ImportError)
    decision = retries.RetryInTime().evaluate(failed(error), 1, 3)
    assert decision.retry_delay == (None if seconds is None else timedelta(seconds=seconds))
    assert decision.action.value == ("default" if seconds is None else "retry")


def test_before_3_3_the_import_says_what_to_do_instead(monkeypatch):
    monkeypatch.setitem(sys.modules, "airflow.sdk", ModuleType("airflow.sdk"))
    monkeypatch.delitem(sys.modules, "airflow_provider_bgai.operators.retries", raising=False)
    with pytest.raises(ImportError, match=r"needs Airflow 3\.3 or later.*retry_delay instead"):
        importlib.import_module("airflow_provider_bgai.operators.retries")
