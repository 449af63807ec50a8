"""One HTTP call within rate, slots and time; what it means is said elsewhere.

A channel belongs to one connection and one event loop. Paid calls get a fresh connection each: one that was kept
alive may have been closed by the server just now, and that would look like a paid request without an answer.
The key goes to the vendor's API and nowhere else: no redirect is followed, no cookie is kept.
"""

from __future__ import annotations

import asyncio
import logging
import re
import time
import weakref
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import asynccontextmanager
from contextvars import ContextVar
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from airflow_provider_bgai import web
from airflow_provider_bgai.exceptions import BgaiError, NeverSentError, PollError, RateLimitError, UnknownOutcomeError
from airflow_provider_bgai.hooks.meaning import Answer
from airflow_provider_bgai.pacing import Pace, Slot
from airflow_provider_bgai.storage import boottime

if TYPE_CHECKING:
    import httpx
    import tenacity

    from airflow_provider_bgai.hooks.connection import Settings

# An answer larger than this is not read to its end. The largest input a vendor documents is 30 MB;
# a 64-megapixel PNG of noise would be 256 MB and is no product picture.
MAX_BYTES = 100 * 1024 * 1024
# A vendor's Retry-After beyond this is not waited for inside one call; Airflow's retry is the better place.
MAX_RETRY_AFTER = 120.0
# A turn begins so many seconds before its request may go out, at most: that long it may lie ready, recorded as sent.
MAX_LEAD = 0.25
# A request that is ready, and recorded as sent, waits for so many seconds at most: for another place where it has
# missed its own, or for its distance from one that was held up. The margin of a record's answer_by holds it.
MAX_DELAY = 2.0
# Answers that usually come sooner tell how long the way was; slower ones tell how long the work took.
SHORT_WAY = 0.25
# By so much the usual time of an answer is corrected, up or down: most of what is seen is as usual.
USUAL_STEP = 1.1
# What a gateway or a proxy answers for a host that it cannot reach.
_NOBODY_BEHIND = (502, 503, 504)


@dataclass(frozen=True, kw_only=True)
class Outgoing:
    """A paid request with everything read that it needs: sending it takes no further I/O, and may be repeated.

    :param path: below the connection's base URL.
    :param headers: besides those that prove who we are.
    :param params: of the query.
    :param parts: of a multipart form, as httpx takes them.
    :param json: the body, where it is JSON.
    :param count: how many pictures are asked for.
    :param seed: that was asked for.
    :param model: that it will run on, where the vendor has models.
    :param link: the source image's link, where one is sent.
    :param warnings: what is known to be ignored.
    """

    method: str
    path: str
    headers: Mapping[str, str] = field(default_factory=dict)
    params: Mapping[str, str] | None = field(default=None, repr=False)
    parts: Mapping[str, Any] | None = field(default=None, repr=False)
    json: Any = field(default=None, repr=False)
    count: int = 1
    seed: int | None = None
    model: str | None = None
    link: str | None = field(default=None, repr=False)
    warnings: tuple[str, ...] = ()


@dataclass
class Turn:
    """One request's turn: when it may go out, and what became of it.

    :param granted, departed: epoch seconds.
    """

    slot: Slot
    granted: float
    departed: float = 0.0
    sent: bool = False
    answered: bool = False
    refused: bool = False


_TURN: ContextVar[Turn | None] = ContextVar("turn", default=None)
"""The running task's last one: some answers are understood only after it."""

_OPEN: weakref.WeakSet[Channel] = weakref.WeakSet()


def pace_of(settings: Settings) -> Pace:
    """This process's pace with a vendor's key: ten triggers of a triggerer are one of its users, not ten.

    A channel that nobody has closed counts as long as its event loop lives.
    """

    def name(of: Settings) -> tuple[str, str, float]:
        return of.base_url, of.key, of.requests_per_minute

    for channel in list(_OPEN):
        if not channel.loop.is_closed() and name(channel.settings) == name(settings):
            return channel.pace
    return Pace(settings.requests_per_minute, settings.shards, now=time.time())


class Channel:
    """What the calls of one connection share on one event loop: clients, pace and slots.

    :raises UnreachableError: for a proxy in the environment that cannot be spoken to.
    """

    def __init__(self, settings: Settings) -> None:
        import httpx

        # httpx logs every URL at INFO: prompts of GET requests and signed links would stand in task logs.
        logger = logging.getLogger("httpx")
        if logger.level == logging.NOTSET:
            logger.setLevel(logging.WARNING)
        self.loop = asyncio.get_running_loop()
        self.settings = settings

        def client(kept: int) -> httpx.AsyncClient:
            limits = httpx.Limits(max_connections=settings.max_concurrency + 4, max_keepalive_connections=kept)
            proxy = web.proxy_for(settings.base_url)
            return web.new_client(proxy, settings.timeout, web.tls_context(), limits=limits)

        self._fresh, self._kept = client(0), client(settings.max_concurrency)
        self.lines = web.Lines(settings.max_concurrency)
        """To where the results lie."""
        self.pace = pace_of(settings)
        _OPEN.add(self)
        self.slots = asyncio.Semaphore(settings.max_concurrency)
        self._in_order = asyncio.Lock()
        self._lead = 0.0
        self._usual: dict[httpx.AsyncClient, float] = {}

    @asynccontextmanager
    async def turn(self) -> AsyncIterator[None]:
        """A slot, within the rate, after any pause. The first request made in it is the one that it is for.

        :raises RateLimitError: if the vendor asked for a longer pause than one call waits for.
        """
        async with self.slots:
            async with self._in_order:
                turn = await self._granted()
            _TURN.set(turn)
            try:
                yield
            finally:
                if turn.answered and not turn.refused:
                    self.pace.accepted(turn.slot)

    def refused(self, retry_after: float | None) -> None:
        """The request of this turn was too fast: nothing more of this connection starts for so many seconds.

        :param retry_after: seconds; None where the vendor names none.
        """
        turn = _TURN.get()
        if turn is not None:
            turn.refused = True
            self.pace.refused(turn.slot, time.time(), retry_after)

    async def _granted(self) -> Turn:
        while True:
            now = time.time()
            if (left := self.pace.resume_at - now) > MAX_RETRY_AFTER:
                problem = f"the vendor asked to wait {left:,.0f} s more before the next request"
                raise self.settings.error(RateLimitError, problem, retry_after=left)
            slot = self.pace.next(now)
            # A little early: what is still to be done until the first byte is to be done by then.
            if (wait := slot.at - self._lead - now) <= 0:
                self.pace.take(slot)
                return Turn(slot, now)
            await asyncio.sleep(wait)

    async def _depart(self) -> None:
        """Wait until the request, which is ready, may go out."""
        turn = _TURN.get()
        if turn is None or turn.sent:
            return
        turn.sent = True
        now = time.time()
        if self.pace.missed(turn.slot, now) and (slot := self.pace.next(now)).at < now + MAX_DELAY:
            self.pace.take(slot)
            turn.slot = slot
        took = min(now - turn.granted, MAX_LEAD)
        self._lead = max(took, self._lead + (took - self._lead) / 50)
        if (wait := min(self.pace.departure(turn.slot, now) - now, MAX_DELAY)) > 0:
            await asyncio.sleep(wait)
            self.pace.departed(turn.slot, time.time())
        turn.departed = time.time()

    def _arrived(self, turn: Turn, client: httpx.AsyncClient) -> None:
        """The answer is here: later than usual, if the request was held up on its way to the vendor."""
        took = time.time() - turn.departed
        usual = self._usual.setdefault(client, took)
        self._usual[client] = usual * USUAL_STEP if took > usual else usual / USUAL_STEP
        if usual < SHORT_WAY and took > usual:
            self.pace.held_up(turn.slot, took - usual)

    def build(self, outgoing: Outgoing, headers: Mapping[str, str]) -> httpx.Request:
        """The paid request as it will be sent. :raises ValueError, TypeError: for what cannot be put on the wire."""
        body = {"params": outgoing.params, "files": outgoing.parts, "json": outgoing.json}
        return self._fresh.build_request(
            outgoing.method,
            self.settings.base_url + outgoing.path,
            headers={**headers, **outgoing.headers},
            **{name: value for name, value in body.items() if value is not None},
        )

    async def send(
        self, outgoing: Outgoing, headers: Mapping[str, str], before: Callable[[], Awaitable[None]] | None = None
    ) -> Answer:
        """One paid request, inside a :meth:`turn` the caller holds; its answer, whatever its status.

        :param headers: those that prove who we are.
        :param before: awaited when the line is open, right before the first byte goes out. What it raises keeps the
            request back.
        :raises NeverSentError: if certainly no byte of it went out.
        :raises UnknownOutcomeError: if no whole answer came.
        """
        request = self.build(outgoing, headers)
        request.read()  # in one piece, and not a write to the socket for each boundary of a form
        return await self._exchange(self._fresh, request, NeverSentError, UnknownOutcomeError, before)

    async def ask(self, method: str, path: str, headers: Mapping[str, str]) -> Answer:
        """One free request, inside a :meth:`turn` the caller holds; its answer, whatever its status.

        :raises PollError: if no whole answer came.
        """
        request = self._kept.build_request(method, self.settings.base_url + path, headers=dict(headers))
        return await self._exchange(self._kept, request, PollError, PollError)

    async def _exchange(
        self,
        client: httpx.AsyncClient,
        request: httpx.Request,
        unsent: type[BgaiError],
        unclear: type[BgaiError],
        before: Callable[[], Awaitable[None]] | None = None,
    ) -> Answer:
        """The answer, read to its end. Until the first byte goes out it is certain that nothing was sent."""
        import httpx

        error, out = self.settings.error, False

        async def let_out() -> None:
            nonlocal out
            if not out:
                if before is not None:
                    await before()
                ready = boottime()
                await self._depart()
                if before is not None and (took := boottime() - ready) > MAX_DELAY + 0.5:
                    # This process was stopped meanwhile: the time that the record gives the call may be over.
                    raise error(unsent, f"stopped for {took:.0f} s before it was sent")
                out = True
                deadline.reschedule(self.loop.time() + self.settings.timeout)

        async def trace(event: str, info: Mapping[str, Any]) -> None:
            # A request for a tunnel through a proxy is none of the vendor's.
            if event.endswith(".send_request_headers.started") and info["request"].method != b"CONNECT":
                await let_out()

        request.extensions = {**request.extensions, "trace": trace}
        # The names of these events are no promise of httpcore's. Without them, no body goes out unannounced.
        request.stream = _announced(request.stream, let_out)
        try:
            async with asyncio.timeout(self.settings.timeout) as deadline:
                answer = await _read_answer(client, request)
        except (httpx.HTTPError, TimeoutError) as failed:
            # By its type alone: its text may hold a URL, which may hold a signature.
            name = type(failed).__name__
            if not out:
                raise error(unsent, f"no connection to {self.settings.base_url}: {name}") from None
            raise error(unclear, f"the line dropped after the request went out ({name})") from None
        except _TooLarge:
            raise error(unclear, f"the answer was larger than {MAX_BYTES:,} bytes") from None
        if (turn := _TURN.get()) is not None and not turn.answered:
            turn.answered = True
            self._arrived(turn, client)
        return answer

    async def check_host(self) -> None:
        """Results of a private host could not be fetched, so nothing is paid there.

        :raises AuthenticationError: if the base URL leads to one, and such are not allowed.
        """
        settings = self.settings
        if not settings.allow_private_hosts and (address := await web.private_address(settings.base_url)):
            raise settings.wrong(
                f"goes to {settings.base_url}, a private or local address ({address}), whose pictures would not be "
                "fetched: set its extra allow_private_hosts for tests and sandboxes"
            )

    async def reach(self) -> None:
        """Ask for the host's front page, without the key: any answer but a gateway's shows that somebody is there.

        :raises PollError: if nobody is.
        :raises AuthenticationError: as :meth:`check_host`.
        """
        await self.check_host()
        answer = await self.ask("GET", "/", {})
        if answer.status in _NOBODY_BEHIND:
            url = self.settings.base_url
            raise self.settings.error(PollError, f"nobody answers behind {url}", status=answer.status)

    async def aclose(self) -> None:
        """Close the clients."""
        _OPEN.discard(self)
        await self._fresh.aclose()
        await self._kept.aclose()
        await self.lines.aclose()


class Channels:
    """The channel of the running loop, made at first use: a hook may be used on one loop after another."""

    def __init__(self) -> None:
        self._channel: Channel | None = None

    async def open(self, settings: Settings) -> Channel:
        """The channel. :raises AuthenticationError: if the base URL or the proxy cannot be used."""
        if (channel := self._here()) is not None:
            return channel
        # Importing httpx and reading the certificates take long enough to stall a triggerer.
        await asyncio.to_thread(web.tls_context)
        if (channel := self._here()) is not None:
            return channel  # made meanwhile
        try:
            web.parse(settings.base_url)
            self._channel = channel = Channel(settings)
        except web.WebError as error:
            raise settings.wrong(f"goes to {settings.base_url}, which cannot be used: {error}") from None
        return channel

    def refused(self, retry_after: float | None) -> None:
        """As :meth:`Channel.refused`, if there is one."""
        if self._channel is not None:
            self._channel.refused(retry_after)

    async def aclose(self) -> None:
        """Close the channel of this loop."""
        channel, self._channel = self._here(), None
        if channel is not None:
            await channel.aclose()

    def _here(self) -> Channel | None:
        channel = self._channel
        return channel if channel is not None and channel.loop is asyncio.get_running_loop() else None


def sendable_header(name: str, value: str) -> bool:
    """Whether HTTP takes this header; asked first, because a failure to send would look like a dropped line."""
    return bool(re.fullmatch(r"[!#$%&'*+.^_`|~0-9A-Za-z-]+", name) and re.fullmatch(r"[!-~]([ \t!-~]*[!-~])?", value))


def retrying(attempts: int, again: Callable[[BaseException], bool], budget: float) -> tenacity.AsyncRetrying:
    """Repeat a call after some errors: after Retry-After where the vendor names one, else with growing, jittered waits.

    :param again: whether an error is worth another attempt.
    :param budget: seconds; a wait that would exceed it is not begun.
    """
    import tenacity

    backoff = tenacity.wait_exponential(multiplier=0.5, max=20) + tenacity.wait_random(0, 0.5)

    def wait(state: tenacity.RetryCallState) -> float:
        error = state.outcome.exception() if state.outcome else None
        asked = getattr(error, "retry_after", None)
        return float(asked) if asked is not None else backoff(state)

    return tenacity.AsyncRetrying(
        retry=tenacity.retry_if_exception(again),
        wait=wait,
        stop=tenacity.stop_after_attempt(attempts) | tenacity.stop_before_delay(min(budget, MAX_RETRY_AFTER)),
        reraise=True,
    )


class _TooLarge(Exception):
    """The answer exceeds the cap."""


def _announced(body: Any, let_out: Callable[[], Awaitable[None]]) -> httpx.AsyncByteStream:
    """A request's body that says so before it goes out."""
    import httpx

    class Announced(httpx.AsyncByteStream):
        async def __aiter__(self) -> AsyncIterator[bytes]:
            await let_out()
            async for chunk in body:
                yield chunk

    return Announced()


async def _read_answer(client: httpx.AsyncClient, request: httpx.Request) -> Answer:
    response = await client.send(request, stream=True)
    try:
        body = bytearray()
        async for chunk in response.aiter_bytes():
            body += chunk
            if len(body) > MAX_BYTES:
                raise _TooLarge
        return Answer(response.status_code, dict(response.headers.items()), bytes(body))
    finally:
        await response.aclose()
