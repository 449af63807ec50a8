"""The rim of a task: what it takes from others is what it should be, or refused in words."""

from __future__ import annotations

from decimal import Decimal
from typing import Any

import pytest
from airflow.providers.common.compat.sdk import AirflowException, AirflowFailException

from airflow_provider_bgai.buying.record import Call
from airflow_provider_bgai.exceptions import (
    AuthenticationError,
    BgaiError,
    InvalidRequestError,
    LostError,
    OverBudgetError,
    PollError,
    StoreError,
    UnknownOutcomeError,
    VendorFaultError,
)
from airflow_provider_bgai.operators._task import Accounts, TaskResult, fail
from airflow_provider_bgai.sensors.background import BackgroundTaskSensor
from airflow_provider_bgai.storage import Storage


def call(**fields: Any) -> Call:
    known: dict[str, Any] = {"call_id": "c", "fingerprint": "f", "number": 1, "run": "r", "owner": "o"}
    known |= {"conn_id": "one", "vendor": "v", "sent_at": 10.0, "answer_by": 20.0}
    return Call(**(known | fields))


# --- results


def test_a_result_says_what_stands_in_the_call_and_is_read_as_it_was_told():
    landed = call(state="landed", task_id="t", ended_at=12.34, seed=7, model="m", warnings=("one",))
    told = TaskResult.of(landed, "s3://shop/x", [{"uri": "s3://shop/a.png"}], cost=Decimal("0.03")).told()
    assert told == {
        "state": "succeeded",
        "vendor": "v",
        "conn_id": "one",
        "task_id": "t",
        "call": "s3://shop/x",
        "images": [{"uri": "s3://shop/a.png"}],
        "seed": 7,
        "model": "m",
        "cost": 0.03,
        "price": None,
        "currency": "USD",
        "seconds": 2.3,
        "reused": False,
        "unknown_outcomes": 0,
        "warnings": ["one"],
    }
    assert TaskResult.read(told).told() == told


def test_an_unknown_price_stays_unknown_and_an_answered_call_is_pending():
    told = TaskResult.of(call(state="answered", task_id="t"), "s3://shop/x", cost=None)
    assert (told.state, told.cost, told.seconds) == ("pending", None, None)


@pytest.mark.parametrize("told", [None, 5, {}, {"task_id": "t"}, {"state": "done", "vendor": "v"}])
def test_what_no_task_of_ours_told_is_refused_in_words(told):
    with pytest.raises(InvalidRequestError, match="give a task ID, or the output of the submitting task"):
        TaskResult.read(told)
    with pytest.raises(AirflowFailException, match="give a task ID"):
        BackgroundTaskSensor(task_id="wait", conn_id="one", vendor_task_id=told).poke({})


# --- accounts


def test_accounts_are_built_whole(connect, s3):
    connect("picwish", {"requests_per_minute": 60, "max_concurrency": 5})
    connect("photoroom", {"max_concurrency": 1})
    storage = Storage()
    accounts = Accounts(storage, ["photoroom_default", "picwish_default"], staging="s3://shop/staged", shards=2)
    photoroom, picwish = accounts.hooks
    assert (photoroom.vendor, picwish.vendor) == ("photoroom", "picwish")
    assert (picwish.settings.requests_per_minute, picwish.settings.shards) == (60, 2)
    assert picwish.settings.max_concurrency == 2
    assert photoroom.settings.max_concurrency == 1
    assert all((it.storage, it.staging) == (storage, "s3://shop/staged") for it in accounts.hooks)


def test_an_account_that_is_gone_or_no_vendors_is_none(connect, s3):
    connect("picwish")
    accounts = Accounts(Storage())
    assert accounts.hooks == []
    found = accounts("picwish_default")
    assert found is not None
    assert found.storage is not None
    assert (accounts("no_such_connection"), accounts("aws_default")) == (None, None)
    with pytest.raises(AuthenticationError, match="'aws_default' has type 'aws'"):
        Accounts(Storage(), "aws_default")


# --- failing


@pytest.mark.parametrize("error", [PollError("x"), StoreError("x"), VendorFaultError("x")])
def test_what_a_retry_can_mend_is_retried(error):
    with pytest.raises(AirflowException) as failed:
        fail(error)
    assert not isinstance(failed.value, AirflowFailException)


@pytest.mark.parametrize(
    ("error", "words"),
    [
        (UnknownOutcomeError("x"), "^Unknown outcome: x"),
        (LostError("x"), r"^Not retried \(lost\): x"),
        (InvalidRequestError("x"), r"^Not retried \(refused\): x"),
        (OverBudgetError("x"), r"^Not retried \(over_budget\): x"),
        (BgaiError("x"), r"^Not retried \(error\): x"),
    ],
)
def test_what_a_retry_cannot_mend_or_might_pay_again_is_not_retried(error, words):
    with pytest.raises(AirflowFailException, match=words):
        fail(error)
