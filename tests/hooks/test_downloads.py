"""Result links come from outside: no credentials, no private places, nothing endless."""

from __future__ import annotations

import asyncio
import gzip
import io
import json
import socket

import httpx
import pytest

from airflow_provider_bgai.catalogue.landing import land
from airflow_provider_bgai.exceptions import LostError, PollError
from airflow_provider_bgai.hooks.base import MAX_REDIRECTS, BackgroundHook
from airflow_provider_bgai.models import Generation


@pytest.fixture
def once(monkeypatch):
    """Do not repeat a download that fails."""
    monkeypatch.setattr("airflow_provider_bgai.hooks.base.FETCH_ATTEMPTS", 1)


@pytest.fixture
def shut(connect, hook):
    """A hook as users have it: private addresses are not allowed."""
    connect("picwish", {"allow_private_hosts": False})
    return hook("picwish")


@pytest.fixture
def cdn(monkeypatch, website) -> str:
    """A URL of the website under a name that counts as public; all other names are judged as ever."""
    judge = BackgroundHook._public_address

    async def public_address(self, url: httpx.URL) -> str:
        return "127.0.0.1" if url.host == "cdn.example" else await judge(self, url)

    monkeypatch.setattr(BackgroundHook, "_public_address", public_address)
    return website.url.replace("127.0.0.1", "cdn.example")


async def fetch(vendor_hook, url: str) -> bytes:
    file = io.BytesIO()
    async with vendor_hook:
        await vendor_hook.fetch(url, file)
    return file.getvalue()


@pytest.mark.parametrize(
    "host",
    [
        "127.0.0.1",
        "localhost",
        "LOCALHOST",
        "127.1",
        "2130706433",
        "0x7f000001",
        "0x7f.1",
        "0177.0.0.1",
        "0.0.0.0",
        "[::1]",
        "[::]",
        "[::ffff:127.0.0.1]",
        "[::ffff:7f00:1]",
        "10.0.0.1",
        "172.16.0.1",
        "192.168.1.1",
        "100.64.0.1",
        "169.254.169.254",
        "[::ffff:169.254.169.254]",
        "[fe80::1]",
        "[fd00:ec2::254]",
        "224.0.0.1",
        "[ff02::1]",
        "255.255.255.255",
        "user@127.0.0.1",
        "public.example@127.0.0.1",
    ],
)
async def test_a_link_to_a_private_or_local_address_is_not_followed(shut, website, host, once):
    port = website.url.rpartition(":")[2]
    with pytest.raises((LostError, PollError), match="private or local address|is not known|not a valid URL"):
        await fetch(shut, f"http://{host}:{port}/a.png")
    assert website.requests == []


async def test_a_private_address_is_lost_and_says_which_setting_would_allow_it(shut):
    with pytest.raises(LostError, match=r"'localhost', a private or local address .* allow_private_hosts"):
        await fetch(shut, "http://localhost/a.png")


async def test_one_private_address_among_public_ones_is_enough_to_refuse(shut, website, monkeypatch):
    async def getaddrinfo(host, port, **_):
        return [(socket.AF_INET, socket.SOCK_STREAM, 6, "", (ip, port)) for ip in ("1.1.1.1", "127.0.0.1")]

    monkeypatch.setattr(asyncio.get_running_loop(), "getaddrinfo", getaddrinfo)
    with pytest.raises(LostError, match="private or local"):
        await fetch(shut, website.url + "/a.png")
    assert website.requests == []


async def test_a_checked_name_is_reached_at_the_checked_address_under_its_own_name(shut, website, cdn):
    website.answer("/a.png", b"picture")
    assert await fetch(shut, cdn + "/a.png?Signature=a%2Fb%3D") == b"picture"
    (seen,) = website.requests
    assert seen.path == "/a.png?Signature=a%2Fb%3D"
    assert seen.headers["host"] == cdn.removeprefix("http://")


@pytest.mark.parametrize(
    "target",
    [
        "http://127.0.0.1:PORT/secret",
        "http://localhost:PORT/secret",
        "http://169.254.169.254/latest/meta-data/",
        "http://[::ffff:127.0.0.1]:PORT/secret",
        "//10.0.0.1/secret",
        "file:///etc/passwd",
        "ftp://cdn.example/a",
        "gopher://127.0.0.1/",
        "http://[broken",
        "http://cdn.example:port/",
    ],
)
async def test_a_redirect_to_a_private_place_or_another_scheme_is_not_followed(shut, website, cdn, once, target):
    website.answer("/a.png", status=302, Location=target.replace("PORT", website.url.rpartition(":")[2]))
    with pytest.raises((LostError, PollError)):
        await fetch(shut, cdn + "/a.png")
    assert [seen.path for seen in website.requests] == ["/a.png"]


@pytest.mark.parametrize(
    "url",
    ["file:///etc/passwd", "ftp://a.example/b", "s3://a/b", "data:,x", "//a.example/b", "/etc/passwd", "", "http:"],
)
async def test_only_http_and_https_links_are_fetched(hook, url):
    with pytest.raises(LostError, match=r"scheme|not a valid URL"):
        await fetch(hook("picwish"), url)


@pytest.mark.parametrize("url", [f"http://{'a' * 70}.example/b", "http://a..example/b", "http://nowhere.invalid/b"])
async def test_a_host_that_cannot_be_looked_up_is_a_download_that_failed(shut, once, url):
    with pytest.raises((PollError, LostError)):
        await fetch(shut, url)


async def test_a_redirect_within_the_rules_is_followed(shut, website, cdn):
    website.answer("/a.png", status=302, Location="/b.png")
    website.answer("/b.png", b"picture")
    assert await fetch(shut, cdn + "/a.png") == b"picture"


async def test_a_redirect_loop_ends(hook, website):
    loop = website.answer("/a.png", status=302, Location="/a.png")
    with pytest.raises(LostError, match="redirects more than"):
        await fetch(hook("picwish"), loop)
    assert len(website.requests) == MAX_REDIRECTS + 1


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


@pytest.mark.parametrize("packed", [False, True])
async def test_a_picture_beyond_the_cap_is_not_read_to_its_end(hook, website, monkeypatch, packed):
    monkeypatch.setattr("airflow_provider_bgai.hooks.base.MAX_BYTES", 1 << 20)
    body = bytes(3 << 20)
    url = (
        website.answer("/zip.png", gzip.compress(body), Content_Encoding="gzip")
        if packed
        else website.answer("/raw.png", body)
    )
    with pytest.raises(LostError, match="larger than 1,048,576 bytes"):
        await fetch(hook("picwish"), url)


@pytest.mark.parametrize("status", [403, 410])
async def test_an_expired_link_is_lost(hook, website, status):
    with pytest.raises(LostError, match="expired"):
        await fetch(hook("picwish"), website.answer("/a.png", status=status))
    assert len(website.requests) == 1


async def test_links_that_expired_at_the_vendor_are_lost_and_a_later_poll_is_asked(hook, box, wish):
    async with hook("picwish") as vendor_hook:
        pending = await vendor_hook.submit(wish("picwish"))
        done = await vendor_hook.poll(pending.task_id)
        box.expire_urls()
        with pytest.raises(LostError) as lost:
            await vendor_hook.download(done)
    assert lost.value.paid == "yes"


@pytest.mark.parametrize("fault", ["server_error", "rate_limited", "drop_mid_body"])
def test_a_download_that_fails_is_repeated_and_comes_whole(hook, box, wish, fault):
    box.fault("picwish", fault, on="download")
    clean = hook("picwish").generate(wish("picwish"))
    assert box.request_count("picwish", "download") == 2
    assert hook("picwish").generate(wish("picwish")).images == clean.images


async def test_what_was_there_before_does_not_shine_through_a_shorter_picture(hook, website):
    file = io.BytesIO(b"something long from an earlier try")
    async with hook("picwish") as vendor_hook:
        await vendor_hook.fetch(website.answer("/a.png", b"short"), file)
        assert file.getvalue() == b"short"
        await vendor_hook.fetch(b"xy", file)
    assert file.getvalue() == b"xy"


async def test_a_picture_cut_off_once_is_fetched_again_when_it_is_landed(hook, box, wish, s3, storage):
    async with hook("picwish") as vendor_hook:
        pending = await vendor_hook.submit(wish("picwish"))
        done = await vendor_hook.poll(pending.task_id)
        box.fault("picwish", "truncated_image", on="download")
        (output,) = (await land(vendor_hook, done, storage, f"s3://{s3.bucket}/cut/a.{{ext}}")).images
    assert storage.head(output.uri).size == output.bytes
    assert box.request_count("picwish", "download") == 2


@pytest.mark.parametrize("fault", ["truncated_image", "html_200", "bomb_image"])
async def test_a_picture_that_stays_damaged_lands_nothing(hook, box, wish, s3, storage, fault):
    async with hook("picwish") as vendor_hook:
        pending = await vendor_hook.submit(wish("picwish", count=2))
        done = await vendor_hook.poll(pending.task_id)
        await vendor_hook.download(Generation(vendor="picwish", state="succeeded", images=done.images[:1]))
        box.fault("picwish", fault, times=10, on="download")
        with pytest.raises(LostError):
            await land(vendor_hook, done, storage, f"s3://{s3.bucket}/{fault}/{{index}}.{{ext}}")
    assert list(storage.list(f"s3://{s3.bucket}/{fault}/")) == []


async def test_a_truncated_picture_in_the_answer_itself_is_lost_when_it_is_landed(hook, box, wish, s3, storage):
    box.fault("photoroom", "truncated_image")
    async with hook("photoroom") as vendor_hook:
        done = await vendor_hook.submit(wish("photoroom"))
        with pytest.raises(LostError, match="picture 1 of 1 is damaged or cut off"):
            await land(vendor_hook, done, storage, f"s3://{s3.bucket}/half/a.{{ext}}")
    assert list(storage.list(f"s3://{s3.bucket}/half/")) == []


async def test_a_landed_picture_says_what_it_is(hook, box, wish, s3, storage):
    box.fault("picwish", "wrong_content_type", on="download")
    async with hook("picwish") as vendor_hook:
        pending = await vendor_hook.submit(wish("picwish"))
        done = await vendor_hook.poll(pending.task_id)
        (output,) = (
            await land(vendor_hook, done, storage, f"s3://{s3.bucket}/said/a.{{ext}}", prompt_sha256="ab" * 32)
        ).images
    head = s3.client().head_object(Bucket=s3.bucket, Key="said/a.png")
    assert (head["ContentType"], head["ContentLength"]) == ("image/png", output.bytes)
    expected = {"vendor": "picwish", "task-id": done.task_id, "prompt-sha256": "ab" * 32, "sha256": output.sha256}
    assert head["Metadata"] == expected
