"""Every foreign URL: fetched into a file, safely, through the environment's proxy where there is one.

What comes in here was named by somebody else (a vendor's result link, a source image on the web). So no credentials
are sent, only http(s) is spoken, no private, loopback or link-local address is reached unless allowed, the address
that was checked is the address that is connected to, every redirect is judged anew, and no more bytes are read than
were asked for. Behind a proxy names are the proxy's to resolve; literal private addresses are refused even so.

The errors say whose trouble it is: the link's own server says "gone" or "no", or we could not get there.
"""

from __future__ import annotations

import asyncio
import ipaddress
import re
import socket
from collections.abc import AsyncIterator, Hashable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from functools import cache
from http.cookiejar import DefaultCookiePolicy
from typing import IO, TYPE_CHECKING, Self

if TYPE_CHECKING:
    import ssl

    import httpx

MAX_REDIRECTS = 5
CHUNK = 1 << 20
CONNECT_TIMEOUT = 15.0
MAX_HOSTS = 16
"""Whose connections are kept open."""

# Addresses that stand for an IPv4 address behind a translator (RFC 6052).
_NAT64 = ipaddress.ip_network("64:ff9b::/96")


# A link's query may be a signature, so no message shows one; in JSON its slashes may be escaped.
_QUERY = re.compile(r"(https?:[^\s?\"'<>]+)\?[^\s\"'<>]*", re.IGNORECASE)


class WebError(Exception):
    """A URL could not be fetched. The message holds no part of the URL but its host.

    :param status: the HTTP status that was answered, if one was.
    """

    def __init__(self, message: str, status: int | None = None) -> None:
        super().__init__(message)
        self.status = status


class GoneError(WebError):
    """The link's own server says that it is gone for good (410)."""


class ForbiddenError(WebError):
    """The link's own server says 403 or 404: expired, or not there yet."""


class BadLinkError(WebError):
    """What is given is no http(s) URL."""


class TooLargeError(WebError):
    """More bytes than were asked for."""


class UnreachableError(WebError):
    """We could not get there: DNS, the line, a time-out, a proxy's refusal, a server's error. It may pass."""


class PrivateAddressError(UnreachableError):
    """The URL points to a private or local address, and such are not allowed. It does not pass by itself."""


@dataclass(frozen=True)
class Fetched:
    """What a server said of a file.

    :param etag: as it came, quotes and ``W/`` included; None without one.
    :param last_modified: the header as it came; None without one.
    :param size: of the whole file in bytes; None where a server does not tell.
    """

    etag: str | None
    last_modified: str | None
    size: int | None


def without_queries(text: str) -> str:
    """A text whose links have lost their queries."""
    return _QUERY.sub(r"\1", text)


def may_pass(error: BaseException) -> bool:
    """Whether the next try may well succeed."""
    if isinstance(error, ForbiddenError):
        return error.status == 404  # not there yet
    return isinstance(error, UnreachableError) and not isinstance(error, PrivateAddressError)


class Lines:
    """Connections that are kept open for the next file of the same host, on one event loop.

    Each host name has its own, so that none that was opened (and proved its certificate) for one name serves another.

    :param kept: connections to each host that are kept open unused.
    """

    def __init__(self, kept: int = 1) -> None:
        self.kept = kept
        self._clients: dict[Hashable, httpx.AsyncClient] = {}
        self._proxies: dict[Hashable, str | None] = {}

    def proxy(self, url: httpx.URL) -> str | None:
        """As :func:`proxy_for`, which reads the whole environment, once for each host."""
        key = (url.scheme, url.host)
        if key not in self._proxies:
            self._proxies[key] = proxy_for(str(url))
        return self._proxies[key]

    @asynccontextmanager
    async def client(self, proxy: str | None, host: str, timeout: float) -> AsyncIterator[httpx.AsyncClient]:
        """A client for a host, kept unless there are too many hosts already."""
        import httpx

        key = (proxy, host, timeout)
        if key not in self._clients and len(self._clients) == MAX_HOSTS:
            async with new_client(proxy, timeout, tls_context()) as client:
                yield client
            return
        if key not in self._clients:
            limits = httpx.Limits(max_keepalive_connections=self.kept)
            self._clients[key] = new_client(proxy, timeout, tls_context(), limits)
        yield self._clients[key]

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.aclose()

    async def aclose(self) -> None:
        """Close them."""
        for client in self._clients.values():
            await client.aclose()
        self._clients.clear()


async def fetch(
    url: str,
    file: IO[bytes],
    *,
    allow_private_hosts: bool,
    timeout: float,
    max_bytes: int,
    lines: Lines | None = None,
) -> Fetched:
    """Write what is behind a URL to a file, streaming, from its beginning.

    :param timeout: seconds for everything.
    :param lines: what is kept open between files; None: nothing.
    :raises GoneError, ForbiddenError, BadLinkError, TooLargeError, UnreachableError: see each of them. What
        the file itself raises (a full disk) is passed on.
    """
    async with _get(url, {}, allow_private_hosts, timeout, lines) as response:
        size = 0
        async for chunk in response.aiter_bytes(CHUNK):
            if size + len(chunk) > max_bytes:
                raise TooLargeError(f"it is larger than {max_bytes:,} bytes")
            await asyncio.to_thread(_write, file, chunk, size)
            size += len(chunk)
        if not size:
            await asyncio.to_thread(_write, file, b"", 0)
        return Fetched(response.headers.get("etag"), response.headers.get("last-modified"), size)


async def look(url: str, *, allow_private_hosts: bool, timeout: float) -> Fetched | None:
    """What a server says of a file, without fetching it: a ranged GET of one byte, which signed links allow.

    :returns: None if the server gives neither an ETag nor a Last-Modified.
    :raises WebError: as :func:`fetch`.
    """
    async with _get(url, {"Range": "bytes=0-0"}, allow_private_hosts, timeout) as response:
        said = response.headers
        total = re.fullmatch(r"bytes 0-0/(\d+)", said.get("content-range", ""))
        length = said.get("content-length", "") if response.status_code == 200 else ""
        size = int(total[1]) if total else int(length) if length.isascii() and length.isdigit() else None
        if "etag" not in said and "last-modified" not in said:
            return None
        return Fetched(said.get("etag"), said.get("last-modified"), size)


def parse(url: str) -> httpx.URL:
    """A URL in its parts, without a user name. :raises BadLinkError: if it is no http(s) URL."""
    import httpx

    try:
        parsed = httpx.URL(url)
    except (httpx.InvalidURL, UnicodeError):
        raise BadLinkError("it is not a valid URL") from None
    if parsed.scheme not in ("http", "https") or not parsed.host:
        raise BadLinkError(f"its scheme {parsed.scheme!r} is not http or https")
    if parsed.port is not None and not 0 < parsed.port < 65536:
        raise BadLinkError(f"its port {parsed.port} is none")
    return parsed.copy_with(userinfo=b"") if parsed.userinfo else parsed


def proxy_for(url: str) -> str | None:
    """The proxy that the environment names for a URL, or None: ``https_proxy``, ``all_proxy``, ``no_proxy``, …"""
    from urllib.parse import urlsplit
    from urllib.request import getproxies, proxy_bypass

    parts, proxies = urlsplit(url), getproxies()
    proxy = proxies.get(parts.scheme) or proxies.get("all")
    if not proxy or proxy_bypass(parts.hostname or ""):
        return None
    return proxy if "://" in proxy else f"http://{proxy}"


def new_client(
    proxy: str | None, timeout: float, tls: ssl.SSLContext, limits: httpx.Limits | None = None
) -> httpx.AsyncClient:
    """An HTTP client that follows no redirect, keeps no cookie and reads nothing else from the environment.

    :param proxy: from :func:`proxy_for`; deciding on it here keeps names and routes from disagreeing.
    :param tls: from :func:`tls_context`.
    :raises UnreachableError: for a proxy that cannot be spoken to.
    """
    import httpx

    try:
        client = httpx.AsyncClient(
            proxy=proxy,
            # Connecting gets a part of the time only, so that "not connected" is told from "no answer".
            timeout=httpx.Timeout(timeout, connect=min(timeout / 3, CONNECT_TIMEOUT)),
            limits=limits or httpx.Limits(),
            verify=tls,
            trust_env=False,
            follow_redirects=False,
        )
    except (ValueError, ImportError, httpx.InvalidURL) as error:
        raise UnreachableError(f"the proxy of the environment cannot be used: {error}") from None
    client.cookies.jar.set_policy(DefaultCookiePolicy(allowed_domains=[]))
    return client


@cache
def tls_context() -> ssl.SSLContext:
    """The certificates that are trusted; read once, which takes long enough to stall an event loop."""
    import httpx

    return httpx.create_ssl_context()


async def private_address(url: str) -> str | None:
    """The private or local address that a URL leads to, or None.

    A name that the proxy resolves, or nobody can resolve for now, leads nowhere private as far as one can tell.
    """
    parsed = parse(url)
    if proxy_for(url):
        addresses = _literal(parsed.host)
    else:
        try:
            addresses = _literal(parsed.host) or await _resolve(parsed)
        except UnreachableError:
            return None
    return next((address for address in addresses if _is_private(address)), None)


@asynccontextmanager
async def _get(
    url: str, headers: dict[str, str], allow_private_hosts: bool, timeout: float, lines: Lines | None = None
) -> AsyncIterator[httpx.Response]:
    """GET a URL, following redirects; the answer is a good one, and its body is still to be read."""
    import httpx

    if not tls_context.cache_info().currsize:
        await asyncio.to_thread(tls_context)
    own = lines or Lines()
    try:
        async with asyncio.timeout(timeout):
            for _ in range(MAX_REDIRECTS + 1):
                target = parse(url)
                proxy = own.proxy(target)
                async with own.client(proxy, target.host, timeout) as client:
                    request = await _request(client, target, headers, allow_private_hosts, proxied=bool(proxy))
                    response = await client.send(request, stream=True)
                    try:
                        if not response.is_redirect:
                            _judge(response, through_proxy=bool(proxy) and target.scheme == "http")
                            yield response
                            return
                        url = str(target.join(response.headers.get("location", "")))
                    finally:
                        await response.aclose()
            raise UnreachableError(f"it redirects more than {MAX_REDIRECTS} times")
    except httpx.InvalidURL:
        raise BadLinkError("it redirects to what is no valid URL") from None
    except httpx.ProxyError as error:
        # httpx puts the proxy's status line into the message, and nothing of the URL.
        raise UnreachableError(f"the proxy refused the connection: {error}") from None
    except (httpx.HTTPError, TimeoutError, UnicodeError) as error:
        raise UnreachableError(f"no answer: {type(error).__name__}") from None
    finally:
        if lines is None:
            await own.aclose()


async def _request(
    client: httpx.AsyncClient, url: httpx.URL, headers: dict[str, str], allow_private_hosts: bool, *, proxied: bool
) -> httpx.Request:
    """A GET that goes to an address which has been checked, without credentials.

    The name is resolved once and the request is sent to that very address, so a name that resolves differently
    the next time cannot smuggle in a private one.
    """
    # Packed or not, an ETag is to mean the same file.
    headers = {"Accept-Encoding": "identity", **headers}
    address = None if allow_private_hosts else await _checked_address(url, proxied=proxied)
    if address is None:
        return client.build_request("GET", url, headers=headers)
    return client.build_request(
        "GET",
        url.copy_with(host=address),
        headers={"Host": url.netloc.decode("ascii"), **headers},
        extensions={"sni_hostname": url.host},
    )


async def _checked_address(url: httpx.URL, *, proxied: bool) -> str | None:
    """The public address to connect to; None where the proxy finds it out."""
    addresses = _literal(url.host)
    if not addresses and not proxied:
        addresses = await _resolve(url)
    for address in addresses:
        if _is_private(address):
            raise PrivateAddressError(
                f"it points to {url.host!r}, a private or local address ({address}); set the connection's extra "
                "allow_private_hosts for tests and sandboxes"
            )
    return None if proxied else addresses[0]


def _judge(response: httpx.Response, *, through_proxy: bool) -> None:
    """Raise what an answer without a file means.

    :param through_proxy: the answer may be a proxy's own: it says nothing about the link then.
    """
    status = response.status_code
    if status in (200, 206):
        return
    if status == 410:
        raise GoneError("its server says that it is gone (410)", status)
    if status in (403, 404) and not through_proxy:
        raise ForbiddenError(f"its server says {status}: it has expired, or is not there yet", status)
    who = "its server, or the proxy before it," if through_proxy else "its server"
    raise UnreachableError(f"{who} answered {status}", status)


def _literal(host: str) -> list[str]:
    """The address that a host name spells out in any form that systems understand, else nothing."""
    name = host.lower().rstrip(".")
    if name == "localhost" or name.endswith(".localhost"):
        return ["127.0.0.1"]
    try:
        return [str(ipaddress.ip_address(name.partition("%")[0]))]
    except ValueError:
        pass
    try:
        return [socket.inet_ntoa(socket.inet_aton(name))]  # 127.1, 2130706433, 0x7f.1
    except (OSError, UnicodeError):
        return []


async def _resolve(url: httpx.URL) -> list[str]:
    port = url.port or (443 if url.scheme == "https" else 80)
    try:
        found = await asyncio.get_running_loop().getaddrinfo(url.host, port, type=socket.SOCK_STREAM)
    except (OSError, UnicodeError):
        raise UnreachableError(f"its host {url.host!r} is not known") from None
    return [str(entry[4][0]).partition("%")[0] for entry in found]


def _is_private(address: str) -> bool:
    parsed = ipaddress.ip_address(address)
    if isinstance(parsed, ipaddress.IPv6Address):
        if parsed.ipv4_mapped is not None:
            parsed = parsed.ipv4_mapped
        elif parsed in _NAT64:
            parsed = ipaddress.IPv4Address(int(parsed) & 0xFFFFFFFF)
    return not parsed.is_global or parsed.is_multicast


def _write(file: IO[bytes], chunk: bytes, at: int) -> None:
    """Put a chunk at its place; nothing of what an earlier try has written stays behind it."""
    file.seek(at)
    file.write(chunk)
    file.truncate()
