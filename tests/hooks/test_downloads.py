"""Results: fetched without credentials, whole or not at all, and what each failure means for the money."""

from __future__ import annotations

import io
import json
from dataclasses import replace

import pytest

from airflow_provider_bgai.exceptions import LinkRefusedError, LostError, PollError
from airflow_provider_bgai.imaging.verify import verify_whole
from airflow_provider_bgai.models import Generation


async def fetch(vendor_hook, url: str) -> bytes:
    file = io.BytesIO()
    async with vendor_hook:
        await vendor_hook.fetch(url, file)
    return file.getvalue()


@pytest.mark.parametrize(
    ("status", "error", "tries"),
    [(410, LostError, 1), (403, LinkRefusedError, 1), (404, LinkRefusedError, 2), (500, PollError, 2)],
)
async def test_a_link_is_lost_only_if_its_own_server_says_gone(hook, website, monkeypatch, status, error, tries):
    monkeypatch.setattr("airflow_provider_bgai.hooks.results.FETCH_ATTEMPTS", 2)
    with pytest.raises(error) as failed:
        await fetch(hook("picwish"), website.answer("/a.png", status=status) + "?Signature=hidden")
    assert type(failed.value) is error
    assert failed.value.paid == "yes"
    assert "hidden" not in str(failed.value)
    assert len(website.requests) == tries


@pytest.mark.parametrize("url", ["http://127.0.0.1/a.png", "ftp://a.example/b.png", "http://a.example:99999/b.png"])
async def test_what_cannot_be_fetched_from_here_is_not_lost(hook, connect, url):
    connect("picwish", {"allow_private_hosts": False})
    with pytest.raises(PollError, match=r"allow_private_hosts|scheme|port") as failed:
        await fetch(hook("picwish"), url)
    assert not isinstance(failed.value, LinkRefusedError)


async def test_what_is_larger_than_the_cap_is_not_lost_either(hook, website, monkeypatch):
    monkeypatch.setattr("airflow_provider_bgai.hooks.results.MAX_BYTES", 1 << 20)
    with pytest.raises(PollError, match="larger than 1,048,576 bytes"):
        await fetch(hook("picwish"), website.answer("/a.png", bytes(3 << 20)))


async def test_no_credentials_go_to_links_whoever_asks_for_them(hook, connect, website, product):
    """Neither the key, nor the API's cookies, nor what stands before the @ of a link."""
    connect("gptge", host=website.url)
    link = website.answer("/out.png", product).replace("http://", "http://user:word@")
    answer = json.dumps({"data": {"state": 1, "image": link}})
    website.answer("/task/task-1", answer, Set_Cookie="session=secret; Path=/")
    async with hook("gptge") as vendor_hook:
        done = await vendor_hook.poll("task-1")
        assert await vendor_hook.download(done) == [product]
    asked, fetched = website.requests
    assert "authorization" in asked.headers
    assert {"authorization", "cookie", "x-api-key", "referer"}.isdisjoint(fetched.headers)


@pytest.mark.parametrize("vendor", ["picwish", "gptge", "katalis"])
def test_the_sandbox_saw_no_credentials_on_its_result_links(hook, box, wish, vendor):
    hook(vendor).generate(wish(vendor, count=2))
    assert box.request_count(vendor, "download") == 2
    assert box.credential_leaks == 0


async def test_links_that_expired_are_refused_and_a_later_poll_is_asked(hook, box, wish):
    async with hook("picwish") as vendor_hook:
        pending = await vendor_hook.submit(wish("picwish"))
        done = await vendor_hook.wait_for(pending, timeout=10)
        box.expire_links()
        with pytest.raises(LinkRefusedError) as refused:
            await vendor_hook.download(done)
    assert refused.value.task_id == pending.task_id


@pytest.mark.parametrize("fault", ["server_error", "rate_limited", "drop_mid_body", "truncated_image"])
def test_a_download_that_fails_or_comes_damaged_is_repeated_and_comes_whole(hook, box, wish, fault):
    box.fault("picwish", fault, on="download")
    clean = hook("picwish").generate(wish("picwish"))
    assert box.request_count("picwish", "download") == 2
    assert hook("picwish").generate(wish("picwish")).images == clean.images


@pytest.mark.parametrize("fault", ["truncated_image", "html_200", "bomb_image"])
def test_a_picture_that_stays_damaged_is_not_handed_out_but_lost_with_its_task(hook, box, wish, fault):
    box.fault("picwish", fault, times=10, on="download")
    with pytest.raises(LostError) as lost:
        hook("picwish").generate(wish("picwish"))
    assert lost.value.paid == "yes"
    assert lost.value.task_id is not None


@pytest.mark.parametrize("vendor", ["photoroom", "imagine"])
def test_a_truncated_picture_in_the_answer_itself_is_not_handed_out(hook, box, wish, vendor):
    box.fault(vendor, "truncated_image")
    with pytest.raises(LostError, match="paid, but the picture is damaged"):
        hook(vendor).generate(wish(vendor))
    assert (box.request_count(vendor, "submit"), box.images_charged(vendor)) == (1, 1)


@pytest.mark.parametrize("vendor", ["photoroom", "imagine"])
async def test_the_body_of_an_answer_that_is_the_picture_is_kept_as_it_came(hook, box, wish, vendor):
    box.fault(vendor, "truncated_image")  # nobody looks at the pixels before it is stored
    async with hook(vendor) as vendor_hook:
        done = await vendor_hook.submit(wish(vendor))
    assert done.answer is not None
    assert vendor_hook.read_stored(done.answer) == done.images


async def test_an_answer_of_links_has_no_body_to_be_kept(hook, wish):
    async with hook("katalis") as vendor_hook:
        assert (await vendor_hook.submit(wish("katalis"))).answer is None


async def test_what_was_there_before_does_not_shine_through_a_shorter_picture(hook, website):
    file = io.BytesIO(b"something long from an earlier try")
    async with hook("picwish") as vendor_hook:
        await vendor_hook.fetch(website.answer("/a.png", b"short"), file)
        assert file.getvalue() == b"short"
        await vendor_hook.fetch(b"xy", file)
    assert file.getvalue() == b"xy"


async def test_every_picture_of_many_is_whole_and_in_order(hook, website, product):
    links = tuple(website.answer(f"/{place}.png", product + bytes(place)) for place in range(3))
    async with hook("katalis") as vendor_hook:
        found = await vendor_hook.download(Generation(vendor="katalis", state="succeeded", images=links))
    assert [len(each) - len(product) for each in found] == [0, 1, 2]
    assert all(verify_whole(each) for each in found)


@pytest.mark.parametrize(("made", "fault"), [(3, "more_pictures"), (1, "fewer_pictures")])
@pytest.mark.parametrize("vendor", ["picwish", "gptge", "katalis"])
def test_more_or_fewer_pictures_than_asked_for_are_kept_as_they_are_and_said(hook, box, wish, vendor, made, fault):
    box.fault(vendor, fault, on="submit")
    done = hook(vendor).generate(wish(vendor, count=2))
    assert len(done.images) == made == box.images_charged(vendor)
    assert f"{made} of 2 pictures were returned" in done.warnings
    assert replace(done, warnings=()).state == "succeeded"
