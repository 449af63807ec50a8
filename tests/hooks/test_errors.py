"""Every accident, and what it means for the money: what is repeated, what never is, which error comes out."""

from __future__ import annotations

import asyncio
import json
import time

import pytest

from airflow_provider_bgai.exceptions import (
    AuthenticationError,
    ModerationError,
    NeverSentError,
    PollError,
    QuotaError,
    RateLimitError,
    RefusedError,
    RetiredError,
    TaskNotFoundError,
    UnknownOutcomeError,
    VendorFaultError,
)
from airflow_provider_bgai.models import Generation
from airflow_provider_bgai.polling import PollPolicy, TaskWatch
from tests.conftest import KEYS, VENDORS
from tests.hooks.test_requests import ENDPOINT
from tests.servers import closed_port

QUICK = PollPolicy(interval=0.02, max_interval=0.1)
WITH_TASKS = ["picwish", "gptge"]


def submissions(box) -> int:
    return box.request_count(kind="submit")


# --- paid calls ------------------------------------------------------------------------------------


async def test_429_is_repeated_and_charged_once(hook, box, wish):
    async def submit(vendor: str) -> str:
        box.fault(vendor, "rate_limited", on="submit")
        async with hook(vendor) as vendor_hook:
            return (await vendor_hook.submit(wish(vendor))).state

    states = await asyncio.gather(*map(submit, VENDORS))  # side by side, because each has to wait a while
    assert states == ["pending", "succeeded", "succeeded", "succeeded", "pending"]
    for vendor in VENDORS:
        assert (box.request_count(vendor, "submit"), box.images_charged(vendor)) == (2, 1)


def test_a_fault_that_photoroom_documents_as_free_is_one_and_is_not_sent_again_here(hook, box, wish):
    box.fault("photoroom", "server_error", on="submit")
    with pytest.raises(VendorFaultError):
        hook("photoroom").generate(wish("photoroom"))
    assert submissions(box) == 1


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
        first = await vendor_hook.outgoing(wish("photoroom"))
        second = await vendor_hook.outgoing(wish("photoroom", "another wish"))
        with pytest.raises(RateLimitError):
            async with vendor_hook.turn():
                await vendor_hook.send(first)
        async with vendor_hook.turn():
            await vendor_hook.send(second)
    first, second = [request.at for request in box.requests]
    assert second - first >= 1.0


async def test_a_429_within_http_200_slows_it_down_too(hook, connect, website, wish):
    connect("picwish", host=website.url)
    website.answer(ENDPOINT["picwish"], '{"status": 429, "message": "over QPS"}')
    async with hook("picwish") as vendor_hook:
        outgoing = await vendor_hook.outgoing(wish("picwish"))
        with pytest.raises(RateLimitError):
            async with vendor_hook.turn():
                await vendor_hook.send(outgoing)
        began = time.monotonic()
        async with vendor_hook.turn():
            assert time.monotonic() - began > 0.9


async def test_a_retry_after_of_a_day_is_left_to_airflow_and_does_not_freeze_the_connection(hook, box, wish):
    async with asyncio.timeout(20), hook("photoroom") as vendor_hook:
        for _ in range(2):
            box.fault("photoroom", "rate_limited_retry_after", on="submit", retry_after=86_400)
            with pytest.raises(RateLimitError) as failed:
                await vendor_hook.submit(wish("photoroom"))
            assert failed.value.retry_after == pytest.approx(86_400, abs=20)
    assert box.images_charged() == 0


def test_a_connection_that_nobody_closed_paces_nobody_once_its_event_loop_has_ended(hook, box, wish):
    left_open = [hook("photoroom"), hook("photoroom")]  # as by a task that was killed in the middle of it

    async def killed() -> None:
        box.fault("photoroom", "rate_limited_retry_after", on="submit", retry_after=86_400)
        with pytest.raises(RateLimitError):
            await left_open[0].submit(wish("photoroom"))
        with pytest.raises(RateLimitError, match="asked to wait"):
            await left_open[1].submit(wish("photoroom"))

    asyncio.run(killed())
    assert box.request_count("photoroom", "submit") == 1
    assert hook("photoroom").generate(wish("photoroom")).state == "succeeded"
    assert box.images_charged() == 1


def test_a_429_that_stays_is_repeated_a_few_times_only(hook, box, wish, monkeypatch):
    monkeypatch.setattr("airflow_provider_bgai.hooks.base.SUBMIT_ATTEMPTS", 2)
    box.fault("imagine", "rate_limited", times=10, on="submit")
    with pytest.raises(RateLimitError):
        hook("imagine").generate(wish("imagine"))
    assert submissions(box) == 2


@pytest.mark.parametrize("vendor", VENDORS)
async def test_one_send_is_one_request_and_the_same_request_may_be_sent_again(hook, box, wish, vendor):
    async with hook(vendor) as vendor_hook:
        outgoing = await vendor_hook.outgoing(wish(vendor))
        assert box.request_count(vendor) == 0
        box.fault(vendor, "rate_limited", on="submit")
        async with vendor_hook.turn():
            with pytest.raises(RateLimitError):
                await vendor_hook.send(outgoing)
            assert box.request_count(vendor, "submit") == 1
            assert (await vendor_hook.send(outgoing)).state in ("pending", "succeeded")
    assert box.images_charged(vendor) == 1


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
        ("server_error_after_charge_html", 1),
        ("unavailable_after_charge_html", 1),
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


@pytest.mark.parametrize("vendor", [vendor for vendor in VENDORS if vendor != "photoroom"])
@pytest.mark.parametrize("fault", ["server_error_after_charge", "unavailable_after_charge"])
def test_a_vendors_own_server_error_is_in_doubt_where_no_page_says_it_is_free(hook, box, wish, vendor, fault):
    box.fault(vendor, fault, on="submit")
    with pytest.raises(UnknownOutcomeError, match="50[03]"):
        hook(vendor).generate(wish(vendor))
    assert (submissions(box), box.images_charged()) == (1, 1)


@pytest.mark.parametrize("vendor", ["photoroom", "picwish"])
async def test_paid_calls_never_meet_a_connection_that_the_server_has_just_closed(hook, box, wish, vendor):
    box.set_idle_close(0.0)
    async with hook(vendor) as vendor_hook:
        for number in range(4):
            await vendor_hook.submit(wish(vendor, f"wish {number}"))
    assert box.images_charged(vendor) == submissions(box) == 4
    assert {request.fault for request in box.requests} == {None}


@pytest.mark.parametrize("vendor", VENDORS)
def test_no_connection_at_all_was_never_paid_and_is_tried_again(hook, connect, wish, monkeypatch, vendor):
    monkeypatch.setattr("airflow_provider_bgai.hooks.base.SUBMIT_ATTEMPTS", 2)
    with closed_port() as port:
        connect(vendor, host=f"http://127.0.0.1:{port}")
        with pytest.raises(NeverSentError, match=f"no connection to http://127.0.0.1:{port}") as failed:
            hook(vendor).generate(wish(vendor))
    assert failed.value.paid == "no"


@pytest.mark.parametrize("host", ["https://nowhere.invalid", "TLS"])
async def test_a_name_or_a_handshake_that_fails_was_never_paid_either(hook, box, connect, wish, host):
    connect("imagine", host=box.url.replace("http://", "https://") if host == "TLS" else host)
    async with hook("imagine") as vendor_hook:
        outgoing = await vendor_hook.outgoing(wish("imagine"))
        async with vendor_hook.turn():
            with pytest.raises(NeverSentError):
                await vendor_hook.send(outgoing)


@pytest.mark.parametrize("status", [403, 407, 502])
async def test_a_proxy_that_refuses_the_connection_was_never_paid(hook, connect, wish, proxy, status):
    proxy.refuses = status
    connect("photoroom", host="https://image-api.example")
    async with hook("photoroom") as vendor_hook:
        outgoing = await vendor_hook.outgoing(wish("photoroom"))
        async with vendor_hook.turn():
            with pytest.raises(NeverSentError, match="no connection"):
                await vendor_hook.send(outgoing)
    assert proxy.asked == ["image-api.example:443"]


def test_paid_calls_polls_and_results_go_through_the_proxy_of_the_environment(hook, box, connect, wish, proxy):
    connect("picwish", host=box.url.replace("127.0.0.1", "techsz.example"))
    assert len(hook("picwish").generate(wish("picwish")).images) == 1
    assert len(proxy.asked) == len(box.requests) >= 3
    assert box.images_charged("picwish") == 1


@pytest.mark.parametrize("host", ["http://127.0.0.1:9", "http://localhost:9", "http://[::1]:9", "http://10.0.0.1"])
@pytest.mark.parametrize("vendor", VENDORS)
async def test_a_private_host_is_refused_before_anything_is_paid(hook, connect, wish, vendor, host):
    """Its pictures would lie on a private host, too, and could not be fetched."""
    connect(vendor, {"allow_private_hosts": False}, host=host)
    async with hook(vendor) as vendor_hook:
        with pytest.raises(AuthenticationError, match=rf"'{vendor}_default' goes to .* allow_private_hosts"):
            await vendor_hook.outgoing(wish(vendor))


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


@pytest.mark.parametrize("vendor", VENDORS)
@pytest.mark.parametrize("status", [404, 410])
def test_an_endpoint_that_is_gone_is_retired_and_never_repeated(hook, connect, website, wish, vendor, status):
    connect(vendor, host=website.url)
    website.answer(ENDPOINT[vendor], "<html>no such page</html>", status)
    with pytest.raises(RetiredError) as failed:
        hook(vendor).generate(wish(vendor))
    assert failed.value.paid == "no"
    assert len([seen for seen in website.requests if seen.method == "POST"]) == 1


@pytest.mark.parametrize(("fault", "charged"), [("not_success_200", 0), ("words_without_pictures", 1)])
def test_words_of_katalis_without_pictures_say_neither_yes_nor_no(hook, box, wish, fault, charged):
    box.fault("katalis", fault)
    with pytest.raises(UnknownOutcomeError):
        hook("katalis").generate(wish("katalis"))
    assert (submissions(box), box.images_charged()) == (1, charged)


def test_pictures_of_katalis_are_a_success_beside_any_word(hook, box, wish):
    for word in ("Completed", "success!", "Partial success", "Failed"):
        box.fault("katalis", "odd_success_word", word=word)
        assert len(hook("katalis").generate(wish("katalis", word)).images) == 1


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
        ("katalis", '{"message": "Success", "data": [{"original_image_url": "https://a.example/1.png"}]}'),
        ("picwish", "null"),
        ("picwish", '{"status": 200}'),
        ("picwish", '{"status": "fine", "data": {}}'),
        ("picwish", '{"status": 200, "data": {}}'),
        ("picwish", '{"status": 200, "data": {"state": 4}}'),
        ("picwish", '{"status": 200, "data": {"task_id": "", "state": 1}}'),
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
def test_an_endless_answer_is_cut_at_the_cap_and_is_in_doubt(hook, box, wish, monkeypatch, vendor):
    monkeypatch.setattr("airflow_provider_bgai.hooks.channel.MAX_BYTES", 1 << 20)
    box.fault(vendor, "huge_image", size=1 << 24)
    with pytest.raises(UnknownOutcomeError, match="larger than 1,048,576 bytes; it may have been charged"):
        hook(vendor).generate(wish(vendor))
    assert box.images_charged() == 1


@pytest.mark.parametrize("status", [301, 302, 307, 308])
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
def test_a_failed_task_says_its_state_and_is_free_only_where_a_page_says_so(hook, box, wish, state, error):
    for vendor, means, paid in (("picwish", error, "no"), ("gptge", UnknownOutcomeError, "perhaps")):
        box.fault(vendor, f"state_{state}", on="submit")
        with pytest.raises(means, match=rf"state {state}\b") as failed:
            hook(vendor).generate(wish(vendor))
        assert failed.value.task_id is not None
        assert failed.value.paid == paid
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
        ({"state": "done", "image_1": "https://a.example/1.png"}, "succeeded"),
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
        '{"status": 200, "data": {"state": 1}}',
        '{"status": 200, "data": {"state": 1, "image_1": ["https://a.example/1.png"]}}',
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
        faults = ["not_found_first", "server_error", "bad_gateway", "html_200", "drop_before_charge"]
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


async def test_a_wrong_key_ends_the_waiting_after_three_polls(hook, box, connect, wish):
    async with hook("picwish") as vendor_hook:
        pending = await vendor_hook.submit(wish("picwish"))
    connect("picwish", password="bad-" + KEYS["picwish"])
    async with hook("picwish") as vendor_hook:
        with pytest.raises(AuthenticationError):
            await vendor_hook.wait_for(pending, timeout=60, policy=QUICK)
    assert box.request_count("picwish", "poll") == 3


@pytest.mark.parametrize("status", [400, 401, 402, 403, 422])
async def test_one_poll_that_is_refused_does_not_end_the_waiting_for_the_others(hook, connect, website, status):
    """Asking is free and the other tasks are paid, so they are still waited for and collected."""
    connect("gptge", host=website.url)
    website.answer("/task/wrong", '{"message": "no"}', status)
    website.answer("/task/right", '{"data": {"state": 1, "image": "https://a.example/1.png"}}')
    slow = [f"slow-{number}" for number in range(2)]  # one of them is answered between any two refusals
    for task in slow:
        website.answer(f"/task/{task}", '{"data": {"state": 4}}')
    now = time.time()
    watch = TaskWatch(["wrong", "right", *slow], deadline=now + 2, now=now, policy=QUICK)
    async with hook("gptge") as vendor_hook:
        assert set(await vendor_hook.watch(watch)) == {"right"}
        assert "wrong" in watch.problems
        assert set(await vendor_hook.poll_all(["wrong", "right", *slow])) == {"right"}
        for _ in range(4):
            with pytest.raises(PollError, match="It is kept"):
                await vendor_hook.wait_for(Generation(vendor="gptge", state="pending", task_id="wrong"), timeout=0)
            await vendor_hook.poll_all(["right", *slow])
