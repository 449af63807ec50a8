"""The key goes to the vendor and nowhere else: not into errors, logs, reprs or form messages."""

from __future__ import annotations

import json
import logging
import traceback
from collections.abc import Callable

import pytest

from airflow_provider_bgai.exceptions import AuthenticationError, BgaiError
from airflow_provider_bgai.hooks import get_hook
from tests.conftest import KEYS, SECRET, VENDORS
from tests.hooks.test_requests import ENDPOINT


@pytest.fixture
def logged(caplog, capsys) -> Callable[[], str]:
    """What any logger of this process has said, as loudly as it can: records, and what Airflow prints."""
    caplog.set_level(logging.DEBUG)
    for name in ("httpx", "httpcore", "airflow_provider_bgai"):
        caplog.set_level(logging.DEBUG, name)

    def read() -> str:
        # httpcore shows answers' headers at DEBUG: those are the vendor's words, not ours.
        records = [record.getMessage() for record in caplog.records if not record.name.startswith("httpcore")]
        return "\n".join([*records, *capsys.readouterr()])

    return read


def everything(error: BaseException) -> str:
    """All that an error shows: message, repr, arguments, notes, traceback."""
    text = "".join(traceback.format_exception(error, chain=True))
    return "\n".join([text, repr(error), repr(error.args), repr(vars(error))])


def half_keys(key: str) -> list[str]:
    """Parts of a key that must not be seen either."""
    return [key[: len(key) // 2], key[len(key) // 2 :]]


@pytest.mark.parametrize("vendor", VENDORS)
def test_a_successful_call_logs_no_key_no_link_and_no_prompt(hook, wish, logged, vendor):
    logging.getLogger("httpx").setLevel(logging.NOTSET)
    hook(vendor).generate(wish(vendor, "a prompt that is the shop's own business"))
    said = logged()
    assert SECRET not in said
    assert "Signature=" not in said
    assert "business" not in said


@pytest.mark.parametrize("vendor", VENDORS)
@pytest.mark.parametrize("status", [200, 400, 401, 402, 403, 404, 406, 502])
def test_a_vendor_that_echoes_the_key_does_not_get_it_into_the_error(
    hook, connect, website, wish, logged, vendor, status
):
    connect(vendor, host=website.url)
    body = {"status": "error", "message": f"key {KEYS[vendor]} is wrong", "error": {"message": f"{KEYS[vendor]}?"}}
    website.answer(ENDPOINT[vendor], json.dumps(body), status)
    with pytest.raises(BgaiError) as failed:
        hook(vendor).generate(wish(vendor))
    assert SECRET not in everything(failed.value)
    assert SECRET not in logged()


@pytest.mark.parametrize("escaped", [False, True])
def test_a_signed_link_that_the_vendor_echoes_is_shown_without_its_signature(
    hook, connect, website, wish, logged, escaped
):
    connect("katalis", host=website.url)
    link = "https://s3.example/a.png?X-Amz-Signature=hidden&X-Amz-Expires=60"
    body = json.dumps({"message": f"Failed to download {link}"})
    website.answer(ENDPOINT["katalis"], body.replace("/", "\\/") if escaped else body, 400)
    with pytest.raises(BgaiError, match=r"https://s3\.example/a\.png") as failed:
        hook("katalis").generate(wish("katalis"))
    assert "hidden" not in everything(failed.value) + logged()


@pytest.mark.parametrize("before", [100, 120, 140, 155, 470, 480, 490, 499])
@pytest.mark.parametrize("form", ["plain", "json"])
def test_half_a_key_at_the_edge_of_a_message_is_not_shown_either(hook, connect, website, wish, before, form):
    connect("photoroom", host=website.url)
    text = "x" * before + KEYS["photoroom"]
    website.answer(ENDPOINT["photoroom"], text if form == "plain" else json.dumps({"message": text}), 400)
    with pytest.raises(BgaiError) as failed:
        hook("photoroom").generate(wish("photoroom"))
    shown = str(failed.value)
    assert not any(part[:8] in shown for part in half_keys(KEYS["photoroom"]))


@pytest.mark.parametrize("vendor", ["picwish", "gptge"])
async def test_a_failed_task_that_echoes_the_key_does_not_show_it(hook, connect, website, vendor):
    connect(vendor, host=website.url)
    data = {"state": -1, "state_detail": f"for {KEYS[vendor]}"}
    poll = {"picwish": f"{ENDPOINT['picwish']}/task-1", "gptge": "/task/task-1"}[vendor]
    website.answer(poll, json.dumps({"status": 200, "data": data}))
    async with hook(vendor) as vendor_hook:
        failed = await vendor_hook.poll("task-1")
    assert failed.state == "failed"
    assert SECRET not in repr(failed)


def test_what_photoroom_ignored_does_not_show_the_key(hook, connect, website, wish, product, logged):
    connect("photoroom", host=website.url)
    website.answer("/v2/edit", product, pr_unsupported_attributes=f"Unsupported: {KEYS['photoroom']}")
    done = hook("photoroom").generate(wish("photoroom"))
    assert len(done.warnings) == 1
    assert SECRET not in repr(done)
    said = logged()
    assert "Unsupported: ***" in said
    assert SECRET not in said


@pytest.mark.parametrize("vendor", VENDORS)
def test_hook_and_settings_do_not_show_the_key(hook, vendor):
    vendor_hook = hook(vendor)
    assert vendor_hook.settings.key == KEYS[vendor]
    assert SECRET not in repr(vendor_hook.settings)
    assert SECRET not in repr(vendor_hook)


@pytest.mark.parametrize("odd", ["ключ", "line\nbreak", "nul\x00", "café"])
@pytest.mark.parametrize("vendor", VENDORS)
def test_a_key_that_no_header_takes_is_a_configuration_error_without_the_key(hook, connect, box, wish, vendor, odd):
    connect(vendor, password=f"{SECRET}-{odd}")
    with pytest.raises(AuthenticationError, match="cannot be sent") as failed:
        hook(vendor).generate(wish(vendor))
    assert SECRET not in everything(failed.value)
    assert odd not in everything(failed.value)
    assert [request for request in box.requests if request.kind == "submit"] == []


@pytest.mark.parametrize("body", ['{"message": "KEY"}', '{"images": "KEY", "plan": "KEY"}', '{"data": "KEY"}', "KEY"])
@pytest.mark.parametrize("status", [200, 401, 500])
@pytest.mark.parametrize("vendor", ["picwish", "photoroom"])
def test_the_connection_test_does_not_show_the_key(connect, website, vendor, status, body):
    connect(vendor, host=website.url)
    for path in ("/v2/account", "/api/customers/package-credits"):
        website.answer(path, body.replace("KEY", KEYS[vendor]), status)
    _, message = get_hook(f"{vendor}_default").test_connection()
    assert len([seen for seen in website.requests if seen.path != "/"]) == 1
    assert SECRET not in message
