"""Foreign URLs: no credentials, no private places, nothing endless, and a proxy where the environment names one."""

from __future__ import annotations

import asyncio
import gzip
import io
import socket
from collections.abc import Iterator

import pytest

from airflow_provider_bgai import web
from tests.servers import Proxy, Website, serving_proxy, serving_website

MOST = 1 << 20


@pytest.fixture(scope="module")
def _website() -> Iterator[Website]:
    with serving_website() as site:
        yield site


@pytest.fixture
def website(_website: Website) -> Website:
    _website.answers.clear()
    _website.requests.clear()
    return _website


@pytest.fixture
def proxy(monkeypatch: pytest.MonkeyPatch) -> Iterator[Proxy]:
    """A proxy that the environment names for everything."""
    with serving_proxy() as proxy:
        for name in ("http_proxy", "https_proxy"):
            monkeypatch.setenv(name, proxy.url)
        for name in ("no_proxy", "NO_PROXY"):
            monkeypatch.delenv(name, raising=False)
        yield proxy


@pytest.fixture
def cdn(monkeypatch: pytest.MonkeyPatch, website: Website) -> str:
    """A URL of the website under a name that counts as public; all other names are judged as ever."""
    judge = web._checked_address

    async def checked(url, *, proxied: bool) -> str | None:
        return "127.0.0.1" if url.host == "cdn.example" else await judge(url, proxied=proxied)

    monkeypatch.setattr(web, "_checked_address", checked)
    return website.url.replace("127.0.0.1", "cdn.example")


async def fetch(
    url: str,
    *,
    private: bool = False,
    file: io.BytesIO | None = None,
    timeout: float = 10,
    lines: web.Lines | None = None,
) -> bytes:
    file = io.BytesIO() if file is None else file
    await web.fetch(url, file, allow_private_hosts=private, timeout=timeout, max_bytes=MOST, lines=lines)
    return file.getvalue()


PRIVATE = [
    "127.0.0.1",
    "localhost",
    "LOCALHOST",
    "a.localhost",
    "localhost.",
    "127.1",
    "2130706433",
    "0x7f000001",
    "0x7f.1",
    "0.0.0.0",
    "[::1]",
    "[::]",
    "[::ffff:127.0.0.1]",
    "[::ffff:7f00:1]",
    "[64:ff9b::7f00:1]",
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
]


@pytest.mark.parametrize("host", PRIVATE)
async def test_a_private_or_local_address_in_any_spelling_is_not_reached_and_is_our_trouble(website, host):
    with pytest.raises(web.PrivateAddressError, match=r"private or local address .* allow_private_hosts"):
        await fetch(f"http://{host}:{website.url.rpartition(':')[2]}/a.png")
    assert issubclass(web.PrivateAddressError, web.UnreachableError)
    assert website.requests == []


@pytest.mark.parametrize("host", PRIVATE)
async def test_nor_is_it_asked_for_through_a_proxy(proxy, host):
    with pytest.raises(web.PrivateAddressError):
        await fetch(f"http://{host}/a.png")
    assert proxy.asked == []


async def test_one_private_address_among_public_ones_is_enough_to_refuse(website, monkeypatch):
    async def getaddrinfo(host, port, **_):
        return [(socket.AF_INET, socket.SOCK_STREAM, 6, "", (ip, port)) for ip in ("1.1.1.1", "127.0.0.1")]

    monkeypatch.setattr(asyncio.get_running_loop(), "getaddrinfo", getaddrinfo)
    with pytest.raises(web.PrivateAddressError):
        await fetch("http://shop.example/a.png")
    assert await web.private_address("http://shop.example/a.png") == "127.0.0.1"
    assert website.requests == []


async def test_a_checked_name_is_reached_at_the_checked_address_under_its_own_name(website, cdn):
    website.answer("/a.png", b"picture")
    assert await fetch(cdn + "/a.png?Signature=a%2Fb%3D") == b"picture"
    (seen,) = website.requests
    assert seen.path == "/a.png?Signature=a%2Fb%3D"
    assert seen.headers["host"] == cdn.removeprefix("http://")


async def test_no_credentials_go_out(website):
    link = website.answer("/a.png", b"picture", Set_Cookie="a=b").replace("http://", "http://user:word@")
    async with web.Lines() as lines:
        await fetch(link, private=True, lines=lines)
        await fetch(link, private=True, lines=lines)
    for seen in website.requests:
        assert {"authorization", "cookie", "referer"}.isdisjoint(seen.headers)


async def test_a_connection_is_kept_for_the_next_file_of_the_same_name_only(website, cdn, monkeypatch):
    website.answer("/a.png", b"picture")
    async with web.Lines() as lines:
        for url in (cdn, cdn, website.url, cdn, website.url):
            await fetch(f"{url}/a.png", private=url != cdn, lines=lines)
        monkeypatch.setattr(web, "MAX_HOSTS", 2)
        for _ in range(2):
            await fetch(f"{website.url.replace('127.0.0.1', 'localhost')}/a.png", private=True, lines=lines)
    one, two, other, three, again, alone, once_more = [seen.port for seen in website.requests]
    assert one == two == three
    assert other == again != one
    assert len({one, other, alone, once_more}) == 4
    await fetch(cdn + "/a.png")
    assert website.requests[-1].port not in {one, other}


@pytest.mark.parametrize(
    "target",
    [
        "http://127.0.0.1:PORT/secret",
        "http://localhost:PORT/secret",
        "http://169.254.169.254/latest/meta-data/",
        "//10.0.0.1/secret",
        "file:///etc/passwd",
        "ftp://cdn.example/a",
        "http://[broken",
        "http://cdn.example:port/",
        "http://cdn.example:99999/",
    ],
)
async def test_a_redirect_to_a_private_place_or_another_scheme_is_not_followed(website, cdn, target):
    website.answer("/a.png", status=302, Location=target.replace("PORT", website.url.rpartition(":")[2]))
    with pytest.raises((web.BadLinkError, web.UnreachableError)):
        await fetch(cdn + "/a.png")
    assert [seen.path for seen in website.requests] == ["/a.png"]


async def test_a_redirect_within_the_rules_is_followed_and_a_loop_ends(website, cdn):
    website.answer("/a.png", status=302, Location="/b.png")
    website.answer("/b.png", b"picture")
    assert await fetch(cdn + "/a.png") == b"picture"
    website.requests.clear()
    website.answer("/b.png", status=302, Location="/b.png")
    with pytest.raises(web.UnreachableError, match="redirects more than"):
        await fetch(cdn + "/b.png")
    assert len(website.requests) == web.MAX_REDIRECTS + 1


@pytest.mark.parametrize(
    "url",
    [
        "file:///etc/passwd",
        "ftp://a.example/b",
        "s3://a/b",
        "data:,x",
        "//a.example/b",
        "/etc/passwd",
        "",
        "http:",
        "http://0177.0.0.1/b",
        "http://a.example:port/",
        "http://a.example:99999/b",
        "https://a.example:0/b",
        "http://a.example/\ud800",
    ],
)
@pytest.mark.parametrize("private", [False, True])
async def test_what_is_no_http_url_is_said_to_be_none(url, private):
    with pytest.raises(web.BadLinkError):
        await fetch(url, private=private)


@pytest.mark.parametrize("host", [f"{'a' * 70}.example", "a..example", "nowhere.invalid", "[broken"])
@pytest.mark.parametrize("private", [False, True])
async def test_a_host_that_cannot_be_looked_up_is_our_trouble(host, private):
    with pytest.raises((web.UnreachableError, web.BadLinkError)):
        await fetch(f"http://{host}/b", private=private)


@pytest.mark.parametrize(
    ("status", "error"),
    [
        (410, web.GoneError),
        (403, web.ForbiddenError),
        (404, web.ForbiddenError),
        (401, web.UnreachableError),
        (407, web.UnreachableError),
        (429, web.UnreachableError),
        (500, web.UnreachableError),
        (503, web.UnreachableError),
    ],
)
async def test_each_status_says_whose_trouble_it_is(website, status, error):
    with pytest.raises(error) as failed:
        await fetch(website.answer("/a.png", status=status), private=True)
    assert type(failed.value) is error
    assert failed.value.status == status


@pytest.mark.parametrize("packed", [False, True])
async def test_what_is_larger_than_the_cap_is_not_read_to_its_end(website, packed):
    body, headers = bytes(3 * MOST), {}
    if packed:
        body, headers = gzip.compress(body), {"Content_Encoding": "gzip"}
    with pytest.raises(web.TooLargeError, match="larger than 1,048,576 bytes"):
        await fetch(website.answer("/a.png", body, **headers), private=True)


async def test_what_was_there_before_does_not_shine_through_a_shorter_file(website):
    file = io.BytesIO(b"something long from an earlier try")
    assert await fetch(website.answer("/a.png", b"short"), private=True, file=file) == b"short"


async def test_a_full_disk_is_not_taken_for_the_servers_trouble(website):
    class Full(io.BytesIO):
        def write(self, data):
            raise OSError(28, "No space left on device")

    with pytest.raises(OSError, match="No space left"):
        await fetch(website.answer("/a.png", b"picture"), private=True, file=Full())


async def test_a_server_that_hangs_is_left_after_the_timeout():
    server = await asyncio.start_server(lambda *_: asyncio.sleep(60), "127.0.0.1", 0)
    async with asyncio.timeout(5):
        with pytest.raises(web.UnreachableError, match="no answer"):
            await fetch(f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}/", private=True, timeout=0.2)
    server.close()


# --- hints -----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("status", "headers", "seen"),
    [
        (206, {"ETag": '"abc"', "Content_Range": "bytes 0-0/1234"}, ('"abc"', None, 1234)),
        (200, {"Last_Modified": "Wed, 01 Jul 2026 10:00:00 GMT"}, (None, "Wed, 01 Jul 2026 10:00:00 GMT", 7)),
        (206, {"ETag": 'W/"x"', "Content_Range": "bytes 0-0/*"}, ('W/"x"', None, None)),
        (200, {}, None),
    ],
)
async def test_a_look_asks_for_one_byte_and_tells_what_the_server_says(website, status, headers, seen):
    url = website.answer("/a.png", b"picture", status, **headers)
    found = await web.look(url, allow_private_hosts=True, timeout=10)
    assert (found and (found.etag, found.last_modified, found.size)) == seen
    assert website.requests[0].method == "GET"
    assert website.requests[0].headers["range"] == "bytes=0-0"


async def test_a_fetch_tells_the_same_of_what_it_brought(website):
    url = website.answer("/a.png", b"picture", ETag='"abc"')
    found = await web.fetch(url, io.BytesIO(), allow_private_hosts=True, timeout=10, max_bytes=MOST)
    assert found == web.Fetched('"abc"', None, 7)


# --- through a proxy -------------------------------------------------------------------------------


async def test_behind_a_proxy_names_are_the_proxys_to_resolve(website, proxy, monkeypatch):
    async def getaddrinfo(host, port, **_):
        assert host == "127.0.0.1", f"{host} was looked up here"
        return [(socket.AF_INET, socket.SOCK_STREAM, 6, "", (host, port))]

    monkeypatch.setattr(asyncio.get_running_loop(), "getaddrinfo", getaddrinfo)
    website.answer("/a.png", b"picture")
    url = website.url.replace("127.0.0.1", "inside.example") + "/a.png"
    assert await fetch(url) == b"picture"
    assert proxy.asked == [url]
    assert await web.private_address(url) is None


async def test_hosts_the_environment_excepts_are_reached_without_the_proxy(website, proxy, cdn, monkeypatch):
    monkeypatch.setenv("no_proxy", "cdn.example")
    website.answer("/a.png", b"picture")
    assert await fetch(cdn + "/a.png") == b"picture"
    assert proxy.asked == []


@pytest.mark.parametrize("status", [403, 404, 407, 502])
async def test_what_may_be_the_proxys_own_answer_says_nothing_about_the_link(proxy, status):
    proxy.refuses = status
    for url in ("http://cdn.example/a.png", "https://cdn.example/a.png"):
        with pytest.raises(web.UnreachableError):
            await fetch(url)
    assert proxy.asked == ["http://cdn.example/a.png", "cdn.example:443"]


async def test_a_proxy_that_cannot_be_spoken_to_is_named_as_the_trouble(monkeypatch):
    for name in ("no_proxy", "NO_PROXY"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("http_proxy", "gopher://proxy.example")
    with pytest.raises(web.UnreachableError, match="the proxy of the environment cannot be used"):
        await fetch("http://cdn.example/a.png")
