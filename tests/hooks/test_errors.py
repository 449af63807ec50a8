"""Every accident, and what it means for the money: what is repeated, what never is, which error comes out."""

from __future__ import annotations

import asyncio
import json
import time

import pytest

from airflow_provider_bgai.exceptions import (
    AuthenticationError,
    BgaiError,
    LostError,
    ModerationError,
    PollError,
    QuotaError,
    RateLimitError,
    RefusedError,
    TaskNotFoundError,
    UnknownOutcomeError,
    VendorFaultError,
)
from airflow_provider_bgai.hooks.base import BackgroundHook
from airflow_provider_bgai.polling import PollPolicy
from tests.conftest import KEYS, VENDORS
from tests.hooks.test_requests import ENDPOINT

QUICK = PollPolicy(interval=0.02, max_interval=0.1)
WITH_TASKS = ["picwish", "gptge"]


def submissions(box) -> int:
    return box.request_count(kind="submit")


# --- paid calls ------------------------------------------------------------------------------------


@pytest.mark.parametrize("fault", ["rate_limited", "server_error", "unavailable"])
async def test_what_the_vendor_says_was_not_charged_is_repeated_and_charged_once(hook, box, wish, fault):
    async def submit(vendor: str) -> str:
        box.fault(vendor, fault, on="submit")
        async with hook(vendor) as vendor_hook:
            return (await vendor_hook.submit(wish(vendor))).state

    states = await asyncio.gather(*map(submit, VENDORS))  # side by side, because each has to wait a while
    assert states == ["pending", "succeeded", "succeeded", "succeeded", "pending"]
    for vendor in VENDORS:
        assert (box.request_count(vendor, "submit"), box.images_charged(vendor)) == (2, 1)


@pytest.mark.parametrize(
    ("vendor", "fault", "at_least"),
    [("picwish", "rate_limited_retry_after", 2.0), ("photoroom", "rate_limited_retry_after_date", 1.0)],
)
def test_retry_after_is_waited_for_in_both_its_forms(hook, box, wish, vendor, fault, at_least):
    box.fault(vendor, fault, on="submit", retry_after=2)  # a date has whole seconds, so it may say 1 to 2 s
    hook(vendor).generate(wish(vendor))
    first, second = [request.at for request in box.requests if request.kind == "submit"]
    assert second - first >= at_least
    assert box.images_charged() == 1


async def test_a_429_slows_the_whole_connection_down(hook, box, wish):
    box.fault("photoroom", "rate_limited_retry_after", on="submit", retry_after=1)
    async with hook("photoroom") as vendor_hook:
        with pytest.raises(RateLimitError):
            await vendor_hook._submit(wish("photoroom"))
        await vendor_hook._submit(wish("photoroom", "another wish"))
    first, second = [request.at for request in box.requests]
    assert second - first >= 1.0


async def test_a_retry_after_of_a_day_is_left_to_airflow_and_does_not_freeze_the_connection(hook, box, wish):
    async with asyncio.timeout(20), hook("photoroom") as vendor_hook:
        for _ in range(2):
            box.fault("photoroom", "rate_limited_retry_after", on="submit", retry_after=86_400)
            with pytest.raises(RateLimitError) as failed:
                await vendor_hook.submit(wish("photoroom"))
            assert failed.value.retry_after == pytest.approx(86_400, abs=20)
    assert box.images_charged() == 0


def test_a_fault_that_stays_is_repeated_a_few_times_only(hook, box, wish, monkeypatch):
    monkeypatch.setattr("airflow_provider_bgai.hooks.base.SUBMIT_ATTEMPTS", 2)
    box.fault("imagine", "server_error", times=10, on="submit")
    with pytest.raises(VendorFaultError):
        hook("imagine").generate(wish("imagine"))
    assert submissions(box) == 2


@pytest.mark.parametrize("vendor", VENDORS)
@pytest.mark.parametrize(
    ("fault", "charged"),
    [
        ("bad_gateway", 0),
        ("drop_before_charge", 0),
        ("drop_after_charge", 1),
        ("drop_mid_body", 1),
        ("html_200", 0),
        ("html_200_after_charge", 1),
    ],
)
def test_what_nobody_can_know_is_an_unknown_outcome_and_never_repeated(hook, box, wish, vendor, fault, charged):
    box.fault(vendor, fault, on="submit")
    with pytest.raises(UnknownOutcomeError) as failed:
        hook(vendor).generate(wish(vendor))
    assert failed.value.paid == "perhaps"
    assert failed.value.vendor == vendor
    assert (submissions(box), box.images_charged()) == (1, charged)


@pytest.mark.parametrize("vendor", VENDORS)
@pytest.mark.parametrize(("fault", "charged"), [("hang", 0), ("hang_after_charge", 1)])
def test_a_timeout_of_a_paid_call_is_an_unknown_outcome(hook, box, connect, wish, vendor, fault, charged):
    connect(vendor, {"timeout": 0.5})
    box.fault(vendor, fault, on="submit")
    with pytest.raises(UnknownOutcomeError, match="may have been charged"):
        hook(vendor).generate(wish(vendor))
    assert (submissions(box), box.images_charged()) == (1, charged)


@pytest.mark.parametrize("status", [504, 520, 599])
def test_other_gateway_answers_are_unknown_outcomes_too(hook, connect, website, wish, status):
    connect("imagine", host=website.url)
    website.answer(ENDPOINT["imagine"], "<html>gateway</html>", status)
    with pytest.raises(UnknownOutcomeError, match=str(status)):
        hook("imagine").generate(wish("imagine"))
    assert len(website.requests) == 1


def test_no_connection_at_all_was_never_paid(hook, connect, wish, monkeypatch):
    monkeypatch.setattr("airflow_provider_bgai.hooks.base.SUBMIT_ATTEMPTS", 1)
    connect("imagine", host="http://127.0.0.1:9")
    with pytest.raises(VendorFaultError, match="no connection to http://127.0.0.1:9"):
        hook("imagine").generate(wish("imagine"))


@pytest.mark.parametrize("vendor", VENDORS)
@pytest.mark.parametrize(
    ("fault", "error"),
    [("bad_key", AuthenticationError), ("quota_spent", QuotaError), ("moderation", ModerationError)],
)
def test_what_no_repetition_can_help_is_sent_once_and_says_why(hook, box, wish, vendor, fault, error):
    box.fault(vendor, fault, on="submit")
    with pytest.raises(error) as failed:
        hook(vendor).generate(wish(vendor))
    assert type(failed.value) is error
    assert (submissions(box), box.images_charged()) == (1, 0)
    assert str(failed.value).startswith(f"{hook(vendor).hook_name} answered 4")


def test_the_vendors_own_message_and_code_come_along(hook, box, wish):
    box.fault("gptge", "quota_spent", on="submit")
    with pytest.raises(QuotaError, match="user quota is not enough") as failed:
        hook("gptge").generate(wish("gptge"))
    assert (failed.value.status, failed.value.code) == (403, "insufficient_user_quota")


def test_a_vyro_token_that_has_expired_is_a_matter_of_the_key(hook, box, connect, wish):
    connect("imagine", password="expired-token")
    with pytest.raises(AuthenticationError, match="expired") as failed:
        hook("imagine").generate(wish("imagine"))
    assert (failed.value.status, failed.value.code) == (406, "1002")


@pytest.mark.parametrize(
    ("code", "status", "error"),
    [
        (1000, 400, AuthenticationError),
        ("1001", 401, AuthenticationError),
        (1002, 406, AuthenticationError),
        (1003, 400, RefusedError),
        (1007, 401, AuthenticationError),
        (1100, 400, RefusedError),
        (1101, 402, QuotaError),
        (1200, 503, VendorFaultError),
        (1202, 429, RateLimitError),
        (9999, 413, RefusedError),
        (None, 406, AuthenticationError),
    ],
)
def test_vyro_codes_mean_what_its_error_page_says(hook, connect, website, wish, monkeypatch, code, status, error):
    monkeypatch.setattr("airflow_provider_bgai.hooks.base.SUBMIT_ATTEMPTS", 1)
    connect("imagine", host=website.url)
    body = {"status": "error", "code": code, "error": "Bad", "message": "in its own words"}
    website.answer(ENDPOINT["imagine"], json.dumps(body), status)
    with pytest.raises(error, match="in its own words"):
        hook("imagine").generate(wish("imagine"))


def test_http_200_of_katalis_without_success_is_a_refusal(hook, box, wish):
    box.fault("katalis", "not_success_200")
    with pytest.raises(RefusedError, match="Failed to generate image"):
        hook("katalis").generate(wish("katalis"))
    assert (submissions(box), box.images_charged()) == (1, 0)


@pytest.mark.parametrize(
    ("vendor", "body"),
    [
        ("imagine", "{}"),
        ("imagine", '{"image": "not base64"}'),
        ("imagine", '{"image": "bär"}'),
        ("imagine", '{"image": 5}'),
        ("imagine", ""),
        ("photoroom", '{"ok": true}'),
        ("photoroom", ""),
        ("katalis", "[]"),
        ("katalis", '{"message": "Success", "data": []}'),
        ("katalis", '{"message": "Success", "data": [{"generated_image_urls": [""]}]}'),
        ("picwish", "null"),
        ("picwish", '{"status": 200}'),
        ("picwish", '{"status": "fine", "data": {"task_id": "a"}}'),
        ("picwish", '{"status": 200, "data": {}}'),
        ("picwish", '{"status": 200, "data": {"state": 4}}'),
        ("picwish", '{"status": 200, "data": {"task_id": "a", "state": 1e999}}'),
        ("picwish", "[" * 100_000),
        ("gptge", '{"data": {"task_id": ""}}'),
    ],
)
def test_http_200_without_sense_after_a_paid_call_is_an_unknown_outcome(hook, connect, website, wish, vendor, body):
    connect(vendor, host=website.url)
    website.answer(ENDPOINT[vendor], body)
    with pytest.raises(UnknownOutcomeError):
        hook(vendor).generate(wish(vendor))
    assert len([seen for seen in website.requests if seen.method == "POST"]) == 1


@pytest.mark.parametrize("vendor", ["photoroom", "imagine"])
def test_an_endless_answer_is_cut_at_the_cap_and_counts_as_paid(hook, box, wish, monkeypatch, vendor):
    monkeypatch.setitem(BackgroundHook._call.__kwdefaults__, "max_bytes", 1 << 20)
    box.fault(vendor, "huge_image", size=1 << 24)
    with pytest.raises(LostError, match="larger than 1,048,576 bytes"):
        hook(vendor).generate(wish(vendor))
    assert box.images_charged() == 1


@pytest.mark.parametrize("status", [301, 302, 303, 307, 308])
@pytest.mark.parametrize("vendor", VENDORS)
def test_a_redirect_of_the_api_is_a_wrong_host_and_the_key_is_not_carried_on(
    hook, box, connect, website, wish, vendor, status
):
    connect(vendor, host=website.url)
    website.answer(ENDPOINT[vendor], status=status, Location=box.url + ENDPOINT[vendor])
    with pytest.raises(AuthenticationError, match=str(status)):
        hook(vendor).generate(wish(vendor))
    assert box.requests == []


# --- tasks -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("vendor", WITH_TASKS)
@pytest.mark.parametrize(
    ("state", "error"),
    [
        (-1, VendorFaultError),
        (-2, VendorFaultError),
        (-3, RefusedError),
        (-5, RefusedError),
        (-7, RefusedError),
        (-8, VendorFaultError),
    ],
)
def test_a_failed_task_says_its_state_and_costs_nothing(hook, box, wish, vendor, state, error):
    box.fault(vendor, f"state_{state}", on="submit")
    with pytest.raises(error, match=rf"state {state}\b") as failed:
        hook(vendor).generate(wish(vendor))
    assert failed.value.task_id is not None
    assert failed.value.paid == "no"
    assert box.images_charged() == 0


@pytest.mark.parametrize(
    ("data", "state"),
    [
        ({"state": 0}, "pending"),
        ({"state": 2}, "pending"),
        ({"state": "4"}, "pending"),
        ({"state": 99}, "pending"),
        ({"state": -99}, "failed"),
        ({"state": "-7"}, "failed"),
        ({"state": 1, "image_1": "https://a.example/1.png"}, "succeeded"),
        ({"state": 1}, "failed"),
        ({"state": 1, "image_1": ["https://a.example/1.png"]}, "failed"),
    ],
)
async def test_every_state_is_pending_succeeded_or_failed(hook, connect, website, data, state):
    connect("picwish", host=website.url)
    website.answer(f"{ENDPOINT['picwish']}/task-1", json.dumps({"status": 200, "data": data}))
    async with hook("picwish") as vendor_hook:
        assert (await vendor_hook.poll("task-1")).state == state


@pytest.mark.parametrize(
    "body",
    [
        "<html></html>",
        "{}",
        "[]",
        '{"status": 200, "data": {"state": null}}',
        '{"status": 200, "data": {"state": true}}',
        '{"status": 200, "data": {"state": 1e999}}',
        '{"status": 500, "message": "server exception"}',
        "[" * 100_000,
    ],
)
async def test_a_poll_without_sense_is_a_poll_error_to_be_repeated(hook, connect, website, body):
    connect("gptge", host=website.url)
    website.answer("/task/task-1", body)
    async with hook("gptge") as vendor_hook:
        with pytest.raises(PollError) as failed:
            await vendor_hook.poll("task-1")
    assert failed.value.paid == "yes"


@pytest.mark.parametrize("extra", [{"progress": 10**400}, {"progress": 1e999}, {"foreground_rect": {"x": 1e999}}])
async def test_a_wild_number_beside_the_picture_does_not_lose_the_picture(hook, connect, website, extra):
    connect("gptge", host=website.url)
    data = {"state": 1, "image": "https://a.example/1.png", **extra}
    website.answer("/task/task-1", json.dumps({"status": 200, "data": data}))
    async with hook("gptge") as vendor_hook:
        assert (await vendor_hook.poll("task-1")).images == ("https://a.example/1.png",)


@pytest.mark.parametrize("vendor", WITH_TASKS)
@pytest.mark.parametrize(
    ("fault", "error"),
    [
        ("rate_limited", RateLimitError),
        ("rate_limited_retry_after", RateLimitError),
        ("server_error", PollError),
        ("bad_gateway", PollError),
        ("unavailable", PollError),
        ("html_200", PollError),
        ("drop_before_charge", PollError),
        ("drop_mid_body", PollError),
        ("no_state", PollError),
        ("not_found_first", TaskNotFoundError),
        ("bad_key", AuthenticationError),
    ],
)
async def test_each_accident_of_a_poll_has_its_error(hook, box, wish, vendor, fault, error):
    async with hook(vendor) as vendor_hook:
        pending = await vendor_hook.submit(wish(vendor))
        box.fault(vendor, fault, on="poll")
        with pytest.raises(error):
            await vendor_hook.poll(pending.task_id)
    assert box.images_charged() == 1


@pytest.mark.parametrize("vendor", WITH_TASKS)
async def test_waiting_outlives_every_accident_of_the_polls(hook, box, wish, vendor):
    async with hook(vendor) as vendor_hook:
        pending = await vendor_hook.submit(wish(vendor))
        faults = ["not_found_first", "server_error", "bad_gateway", "html_200", "drop_before_charge", "no_state"]
        for fault in [*faults, "rate_limited_retry_after"]:
            box.fault(vendor, fault, on="poll")
        done = await vendor_hook.wait_for(pending, timeout=60, policy=QUICK)
    assert done.state == "succeeded"
    assert box.request_count(vendor, "poll") == len(faults) + 2
    assert (submissions(box), box.images_charged()) == (1, 1)


async def test_a_timeout_of_waiting_keeps_the_task_id(hook, box, wish):
    box.fault("picwish", "pending_forever", on="submit")
    async with hook("picwish") as vendor_hook:
        pending = await vendor_hook.submit(wish("picwish"))
        with pytest.raises(PollError, match="did not end within 0.3 s") as failed:
            await vendor_hook.wait_for(pending, timeout=0.3, policy=QUICK)
    assert failed.value.task_id == pending.task_id
    assert failed.value.paid == "yes"


async def test_a_wrong_key_ends_the_waiting_at_once(hook, box, connect, wish):
    async with hook("picwish") as vendor_hook:
        pending = await vendor_hook.submit(wish("picwish"))
    connect("picwish", password="bad-" + KEYS["picwish"])
    async with hook("picwish") as vendor_hook:
        with pytest.raises(AuthenticationError):
            await vendor_hook.wait_for(pending, timeout=60, policy=QUICK)
    assert box.request_count("picwish", "poll") == 1


@pytest.mark.parametrize("status", [400, 402, 422])
async def test_one_poll_that_is_refused_does_not_end_the_waiting_for_the_others(hook, connect, website, status):
    """Asking is free and the other tasks are paid, so they are still waited for and collected."""
    from airflow_provider_bgai.polling import TaskWatch

    connect("gptge", host=website.url)
    website.answer("/task/wrong", '{"message": "no"}', status)
    website.answer("/task/right", '{"data": {"state": 1, "image": "https://a.example/1.png"}}')
    now = time.time()
    watch = TaskWatch(["wrong", "right"], deadline=now + 1, now=now, policy=QUICK)
    async with hook("gptge") as vendor_hook:
        ended = await vendor_hook.watch(watch)
    assert set(ended) == {"right"}
    assert "wrong" in watch.problems


def test_every_error_says_what_it_means_for_the_money():
    def family(cls: type[BgaiError]) -> list[type[BgaiError]]:
        return [cls, *(each for child in cls.__subclasses__() for each in family(child))]

    meaning = {cls.__name__: cls.paid for cls in family(BgaiError)}
    assert {name for name, paid in meaning.items() if paid == "perhaps"} == {"UnknownOutcomeError"}
    paid_for = {"PollError", "TaskNotFoundError", "LostError", "UnfaithfulError"}
    assert {name for name, paid in meaning.items() if paid == "yes"} == paid_for
