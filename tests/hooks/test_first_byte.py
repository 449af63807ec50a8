"""What is done right before the first byte of a paid request goes out: here who pays writes that down."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager

import pytest

from airflow_provider_bgai.exceptions import NeverSentError, UnknownOutcomeError
from airflow_provider_bgai.hooks import channel
from tests.conftest import VENDORS
from tests.servers import closed_port


@asynccontextmanager
async def listening(answers: bytes = b"") -> AsyncIterator[tuple[str, list[bytearray]]]:
    """A server that notes what comes in, line by line to itself, and may answer to it."""
    lines: list[bytearray] = []

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        lines.append(came := bytearray())
        while some := await reader.read(1 << 16):
            came += some
            writer.write(answers)
        writer.close()

    async with await asyncio.start_server(serve, "127.0.0.1", 0) as server:
        yield f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}", lines


def once(happens: Callable[[], object]) -> Callable[[], Awaitable[None]]:
    """To be awaited before the first byte, and a second time never."""
    times = iter([1])

    async def before() -> None:
        assert next(times, None), "it was announced twice"
        happens()

    return before


async def test_the_line_is_open_and_nothing_has_gone_out(hook, connect, wish):
    async with listening(b"HTTP/1.1 418 I'm a teapot\r\nContent-Length: 0\r\n\r\n") as (url, lines):
        connect("photoroom", host=url)
        found = []

        async def before() -> None:
            await asyncio.sleep(0.2)  # the server has its own turn
            found.append(bytes(lines[0]))

        async with hook("photoroom") as vendor_hook:
            outgoing = await vendor_hook.outgoing(wish("photoroom"))
            assert lines == []
            async with vendor_hook.turn():
                with pytest.raises(Exception, match="418"):
                    await vendor_hook.send(outgoing, before)
        assert found == [b""]
        assert lines[0].startswith(b"POST ")


@pytest.mark.parametrize("events", [True, False])
@pytest.mark.parametrize("vendor", VENDORS)
async def test_what_is_raised_then_keeps_the_request_back(hook, box, wish, monkeypatch, vendor, events):
    """Also if the HTTP library should not tell of its steps any more: then the line and the headers alone go out."""
    if not events:

        async def silent(*_: object) -> None:
            return None

        monkeypatch.setattr("httpcore._trace.Trace.atrace", silent)

    def refuse() -> None:
        raise LookupError("no leave")

    async with hook(vendor) as vendor_hook:
        outgoing = await vendor_hook.outgoing(wish(vendor))
        async with vendor_hook.turn():
            with pytest.raises(LookupError, match="no leave"):
                await vendor_hook.send(outgoing, once(refuse))
            assert box.images_charged() == 0
            if events:
                assert box.request_count() == 0
            assert (await vendor_hook.send(outgoing, once(lambda: None))).state in ("pending", "succeeded")
    assert box.images_charged() == 1


def unannounced() -> Callable[[], Awaitable[None]]:
    return once(lambda: pytest.fail("announced"))


@pytest.mark.parametrize("why", ["refused", "TLS"])
async def test_without_a_line_nothing_is_announced(hook, box, connect, wish, why):
    with closed_port() as port:
        tls = box.url.replace("http:", "https:")
        connect("photoroom", host=tls if why == "TLS" else f"http://127.0.0.1:{port}")
        async with hook("photoroom") as vendor_hook:
            outgoing = await vendor_hook.outgoing(wish("photoroom"))
            async with vendor_hook.turn():
                with pytest.raises(NeverSentError):
                    await vendor_hook.send(outgoing, unannounced())


@pytest.mark.parametrize("refuses", [403, 0])
async def test_the_request_for_a_tunnel_through_a_proxy_is_none_of_the_vendors(
    hook, box, connect, wish, proxy, refuses
):
    """Refused or not: the line stands when TLS does, which the sandbox does not speak."""
    proxy.refuses = refuses
    connect("photoroom", host=box.url.replace("http://127.0.0.1", "https://vendor.test"))
    async with hook("photoroom") as vendor_hook:
        outgoing = await vendor_hook.outgoing(wish("photoroom"))
        async with vendor_hook.turn():
            with pytest.raises(NeverSentError):
                await vendor_hook.send(outgoing, unannounced())
    assert len(proxy.asked) == 1


async def test_a_time_out_before_the_first_byte_was_never_sent(hook, box, connect, wish):
    connect("photoroom", {"timeout": 0.5})
    async with hook("photoroom") as vendor_hook:
        outgoing = await vendor_hook.outgoing(wish("photoroom"))
        async with vendor_hook.turn():
            with pytest.raises(NeverSentError, match="TimeoutError"):
                await vendor_hook.send(outgoing, lambda: asyncio.sleep(30))
    assert box.request_count() == 0


async def test_what_is_done_then_takes_no_time_from_the_vendor(hook, box, connect, wish):
    connect("photoroom", {"timeout": 2.0})
    box.fault("photoroom", "slow", on="submit", delay=1.2)
    async with hook("photoroom") as vendor_hook:
        outgoing = await vendor_hook.outgoing(wish("photoroom"))
        async with vendor_hook.turn():
            assert (await vendor_hook.send(outgoing, lambda: asyncio.sleep(1.2))).state == "succeeded"
            box.fault("photoroom", "slow", on="submit", delay=5)
            with pytest.raises(UnknownOutcomeError, match="TimeoutError"):
                await vendor_hook.send(outgoing, once(lambda: None))


async def test_who_is_stopped_after_it_was_announced_sends_nothing(hook, box, wish, monkeypatch):
    """While it waits for its place: the time that it was announced for may be over."""
    monkeypatch.setattr(channel, "MAX_DELAY", 0.5)
    monkeypatch.setattr(channel.Pace, "departure", lambda _pace, _slot, now: now + 0.3)

    async def is_stopped() -> None:
        asyncio.get_running_loop().call_later(0.01, time.sleep, 1.5)

    async with hook("photoroom") as vendor_hook:
        outgoing = await vendor_hook.outgoing(wish("photoroom"))
        async with vendor_hook.turn():
            with pytest.raises(NeverSentError, match="stopped for 2 s"):
                await vendor_hook.send(outgoing, is_stopped)
            assert box.request_count() == 0
            await vendor_hook.send(outgoing, once(lambda: None))
    assert box.images_charged() == 1


async def test_what_was_held_up_keeps_the_next_one_back_for_a_moment_only(hook, box, connect, wish, monkeypatch):
    """It is recorded as sent: other processes wait for its answer, and not for ever."""
    monkeypatch.setattr(channel, "MAX_DELAY", 0.5)
    connect("photoroom", {"requests_per_minute": 6000})
    async with hook("photoroom") as vendor_hook:
        outgoing = await vendor_hook.outgoing(wish("photoroom"))
        for seconds in (0, 0, 0, 2.5, 0):
            began = time.monotonic()
            if seconds:
                box.fault("photoroom", "slow", on="submit", delay=seconds)
            async with vendor_hook.turn():
                await vendor_hook.send(outgoing, lambda: asyncio.sleep(0))
        assert time.monotonic() - began < 2.0
