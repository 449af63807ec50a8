"""What all vendors' hooks share: the connection, one HTTP client, limits, errors, and safe downloads.

Invariants that must not be relaxed:

* A paid request is repeated only where the vendor certainly did not charge (429, 500, 503, no
  connection). Anything else that goes wrong after it was sent is an ``UnknownOutcomeError``.
* The key goes to the vendor's API and nowhere else: not to result links, not over redirects, not into
  messages or logs.
* HTTP 200 is never taken for success; the bytes are looked at.
"""

from __future__ import annotations

import asyncio
import logging
import re
import time
from abc import abstractmethod
from collections.abc import AsyncIterator, Callable, Iterable, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, field, replace
from decimal import Decimal
from functools import cached_property
from http.cookiejar import DefaultCookiePolicy
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any, ClassVar, Self, TypeVar
from urllib.parse import urlsplit

from airflow.providers.common.compat.sdk import BaseHook

from airflow_provider_bgai.exceptions import (
    AuthenticationError,
    BgaiError,
    InvalidRequestError,
    LostError,
    ModerationError,
    PollError,
    QuotaError,
    RateLimitError,
    RefusedError,
    SourceError,
    TaskNotFoundError,
    UnknownOutcomeError,
    VendorFaultError,
)
from airflow_provider_bgai.models import BackgroundRequest, Generation, SourceLimits, picture_type
from airflow_provider_bgai.polling import PollPolicy, TaskWatch

if TYPE_CHECKING:
    import ssl

    import httpx
    import tenacity
    from aiolimiter import AsyncLimiter

    from airflow_provider_bgai.imaging.verify import Picture
    from airflow_provider_bgai.storage import Storage

T = TypeVar("T")

# A source or result larger than this is not read to its end. The largest input a vendor documents is
# 30 MB (Photoroom); a 64-megapixel PNG of noise would be 256 MB and is no product picture.
MAX_BYTES = 100 * 1024 * 1024
MAX_REDIRECTS = 5
SUBMIT_ATTEMPTS = 4
FETCH_ATTEMPTS = 4
# A vendor's Retry-After beyond this is not waited for inside one call; Airflow's retry is the better place.
MAX_RETRY_AFTER = 120.0

# No vendor documents how it words a moderation refusal, so it is told by the words all of them would use.
_MODERATION = re.compile(
    r"nsfw|moderat|content polic|safety (?:system|filter)|sensitive[ _](?:content|words?)|prohibited content", re.I
)


@dataclass(frozen=True)
class Settings:
    """A connection, read and checked.

    :param key: the API key, possibly empty.
    :param base_url: without a trailing slash.
    :param timeout: seconds one call may take in all.
    :param price_per_image: None where it is not known; never taken for 0.
    :param extra: all extras of the connection, for the vendor's own.
    """

    key: str = field(repr=False)
    base_url: str
    requests_per_minute: float
    max_concurrency: int
    timeout: float
    price_per_image: Decimal | None
    currency: str
    allow_private_hosts: bool
    extra: Mapping[str, Any] = field(repr=False)


class _Channel:
    """What the calls of one connection share on one event loop: client, rate, slots, and the pause after a 429."""

    def __init__(self, settings: Settings, tls: ssl.SSLContext) -> None:
        import httpx
        from aiolimiter import AsyncLimiter

        # httpx logs every URL at INFO: prompts of GET requests and signed links would stand in task logs.
        logger = logging.getLogger("httpx")
        if logger.level == logging.NOTSET:
            logger.setLevel(logging.WARNING)
        self.loop = asyncio.get_running_loop()
        self.client: httpx.AsyncClient = httpx.AsyncClient(
            timeout=httpx.Timeout(settings.timeout, connect=min(settings.timeout, 15.0)),
            limits=httpx.Limits(
                max_connections=settings.max_concurrency + 4,
                max_keepalive_connections=settings.max_concurrency,
            ),
            follow_redirects=False,
            verify=tls,
        )
        # The client serves result links too: a cookie the API set must not travel to them.
        self.client.cookies.jar.set_policy(DefaultCookiePolicy(allowed_domains=[]))
        # A burst of at most one second's worth, so that a vendor that counts per second is not overrun.
        burst = max(1.0, settings.requests_per_minute / 60)
        self.limiter: AsyncLimiter = AsyncLimiter(burst, burst * 60 / settings.requests_per_minute)
        self.slots = asyncio.Semaphore(settings.max_concurrency)
        self._resume_at = 0.0

    def pause(self, seconds: float) -> None:
        """Let no request of this connection start for so many seconds."""
        self._resume_at = max(self._resume_at, self.loop.time() + seconds)

    @asynccontextmanager
    async def turn(self) -> AsyncIterator[None]:
        """A slot, within the rate, after any pause. :raises _Paused: if that is too long to wait for here."""
        async with self.slots:
            left = max(0.0, self._resume_at - self.loop.time())
            if left > MAX_RETRY_AFTER:
                raise _Paused(left)
            await asyncio.sleep(left)
            async with self.limiter:
                yield


@dataclass(frozen=True)
class Answer:
    """An HTTP answer read to its end. Header names in lower case."""

    status: int
    headers: Mapping[str, str]
    body: bytes

    @cached_property
    def json(self) -> Any:
        """The body as JSON, or None where it is none."""
        import json

        try:
            return json.loads(self.body)
        except (ValueError, RecursionError):
            return None

    @property
    def is_picture(self) -> bool:
        """Whether the body starts like a picture."""
        return picture_type(self.body[:16]) is not None

    def excerpt(self) -> str:
        """The start of the body, longer than a message: a key in it is whole, or will be cut away with the rest."""
        return " ".join(self.body[:4096].decode("utf-8", "replace").split())


class BackgroundHook(BaseHook):
    """Base of the vendors' hooks.

    A vendor's hook states its class attributes and implements :meth:`check`, :meth:`_submit` and, where
    the vendor has tasks, :meth:`_poll`.

    :param conn_id: the Airflow connection: password = API key, host = another base URL, extras as in
        the connection form.
    :param aws_conn_id: how ``s3://`` images are read.
    :param staging: an ``s3://`` prefix where local images are put for vendors that take URLs only.
    :param connection: the connection, if it has been looked up already.
    """

    conn_name_attr = "conn_id"
    default_conn_name = "bgai_default"
    conn_type = "bgai"
    hook_name = "AI background"

    vendor: ClassVar[str]
    base_url: ClassVar[str]
    default_requests_per_minute: ClassVar[float] = 60.0
    default_max_concurrency: ClassVar[int] = 8
    default_timeout: ClassVar[float] = 120.0
    has_tasks: ClassVar[bool] = False
    """Whether the vendor answers a submission with a task ID to be polled."""
    source: ClassVar[SourceLimits] = SourceLimits(formats=("png", "jpg", "webp"), needs_alpha=False)
    """What it takes as an image; :mod:`~airflow_provider_bgai.imaging.prepare` makes it so."""
    takes_links_only: ClassVar[bool] = False
    """Whether images are sent as links, so that only one that had to be changed is worth a copy."""

    def __init__(
        self,
        conn_id: str | None = None,
        *,
        aws_conn_id: str | None = "aws_default",
        staging: str | None = None,
        connection: Any = None,
    ) -> None:
        super().__init__()
        self.conn_id = conn_id or self.default_conn_name
        self.aws_conn_id = aws_conn_id
        self.staging = staging
        self._connection = connection
        self._channel: _Channel | None = None

    # --- for users ---------------------------------------------------------------------------------

    def generate(self, request: BackgroundRequest, *, timeout: float = 600.0) -> Generation:
        """Submit, wait and download, blocking.

        :param timeout: seconds to wait for the vendor, from submission.
        :returns: a succeeded generation whose ``images`` are bytes.
        :raises BgaiError: see :mod:`airflow_provider_bgai.exceptions`; with ``task_id`` wherever one is
            known, so that what was paid can still be collected.
        """
        self.prepare_blocking(request)

        async def run() -> Generation:
            async with self:
                generation = await self.submit(request)
                if generation.state == "pending":
                    generation = await self.wait_for(generation, timeout=timeout)
                generation.raise_for_failure()
                return replace(generation, images=tuple(await self.download(generation)))

        return asyncio.run(run())

    async def submit(self, request: BackgroundRequest) -> Generation:
        """Send the paid request. Checked first, and refused here if the vendor's rules forbid it.

        :returns: pending with a ``task_id``, or succeeded.
        :raises InvalidRequestError: before anything is sent.
        :raises UnknownOutcomeError: if nobody can know whether it was charged.
        """
        self.check(request)
        await self._load_settings()
        async for attempt in _retrying(SUBMIT_ATTEMPTS, (RateLimitError, VendorFaultError), self.settings.timeout):
            with attempt:
                generation = await self._submit(request)
        for warning in generation.warnings:
            self.log.warning("%s: %s", self.vendor, warning)
        return generation

    async def poll(self, task_id: str) -> Generation:
        """Ask for a task, once. Free.

        :raises PollError: if asking failed for now; ask again.
        :raises TaskNotFoundError: if the vendor does not know the task.
        """
        if not self.has_tasks:
            raise InvalidRequestError(f"{self.hook_name} answers at once: it has no tasks to ask for ({task_id!r})")
        if not re.fullmatch(r"[\w.:-]{1,200}", task_id or ""):
            raise InvalidRequestError(f"task_id={task_id!r}: not a {self.hook_name} task ID")
        await self._load_settings()
        return await self._poll(task_id)

    async def download(self, generation: Generation) -> list[bytes]:
        """The pictures of a generation, as bytes, in the vendor's order.

        :raises LostError: if a link has expired; :meth:`poll` may give a fresh one.
        """
        import io

        pictures = []
        for image in generation.images:
            file = io.BytesIO()
            await self.fetch(image, file)
            pictures.append(file.getvalue())
        return pictures

    def test_connection(self) -> tuple[bool, str]:
        """Check the connection without spending money. Says what could not be checked."""
        try:
            settings = self.settings

            async def run() -> tuple[bool, str]:
                async with self:
                    return await self._test()

            if not settings.key and self._needs_key():
                return False, "The connection has no API key: put it into the password field"
            passed, message = asyncio.run(run())
            return passed, self._redact(message)
        except BgaiError as error:
            return False, str(error)

    def __init_subclass__(cls, **kwargs: Any) -> None:
        """Give each vendor's class the two methods that Airflow before 3.2 asks for its connection form.

        It looks into the class itself and passes over what is inherited.
        """
        super().__init_subclass__(**kwargs)
        for name, part in (("get_ui_field_behaviour", 0), ("get_connection_form_widgets", 1)):
            setattr(cls, name, classmethod(lambda hook, part=part: connection_form(hook.conn_type)[part]))

    # --- for operators and triggers ----------------------------------------------------------------

    @cached_property
    def settings(self) -> Settings:
        """The connection, read and checked. :raises AuthenticationError: naming the wrong extra."""
        if self._connection is None:
            self._connection = self.get_connection(self.conn_id)
        return self._read_settings(self._connection, self._connection.extra_dejson)

    async def _load_settings(self) -> None:
        if "settings" in self.__dict__:
            return
        from airflow.providers.common.compat.connection import get_async_connection, get_async_extra_dejson

        if self._connection is None:
            self._connection = await get_async_connection(self.conn_id)
        extra = await get_async_extra_dejson(self._connection)
        self.__dict__["settings"] = self._read_settings(self._connection, extra)

    @cached_property
    def storage(self) -> Storage:
        """S3, for ``s3://`` images."""
        from airflow_provider_bgai.storage import Storage

        return Storage(self.aws_conn_id)

    def prepare_blocking(self, request: BackgroundRequest) -> None:
        """Look up all connections a request needs, before an event loop starts.

        A worker asks its supervisor for connections over one blocking channel; that must not happen on a loop.
        """
        _ = self.settings
        needs_s3 = [request.image, request.guidance_image, self.staging]
        if any(isinstance(item, str) and item.startswith("s3://") for item in needs_s3):
            _ = self.storage.client

    def share(self, tasks: int) -> None:
        """Use a fraction of the connection's rate and slots, as one of so many tasks side by side."""
        self.__dict__["settings"] = replace(
            self.settings,
            requests_per_minute=self.settings.requests_per_minute / tasks,
            max_concurrency=max(1, self.settings.max_concurrency // tasks),
        )

    async def wait_for(
        self,
        generation: Generation,
        *,
        timeout: float,
        policy: PollPolicy | None = None,
        submitted_at: float | None = None,
    ) -> Generation:
        """Poll one task until it ends; with a timeout of 0, once.

        :param submitted_at: epoch seconds; no poll is spent before one interval has passed since then.
        :raises PollError: at the time-out (seconds); carries the task ID, which stays collectable.
        """
        assert generation.task_id is not None
        now = time.time()
        policy = policy or PollPolicy()
        first = max(now, (submitted_at or 0.0) + policy.interval)
        watch = TaskWatch([generation.task_id], deadline=now + timeout, now=first, policy=policy)
        results = await (self.watch(watch) if timeout else self.poll_all([generation.task_id]))
        if generation.task_id not in results:
            problem = watch.problems.get(generation.task_id, "still pending")
            raise PollError(
                f"{self.vendor} task {generation.task_id} did not end within {timeout:g} s ({problem}). "
                "It is kept: nothing needs to be bought again to collect it",
                vendor=self.vendor,
                task_id=generation.task_id,
            )
        # Only the submission's answer knows the seed and the model.
        ended = results[generation.task_id]
        return replace(ended, seed=ended.seed or generation.seed, model=ended.model or generation.model)

    async def watch(self, watch: TaskWatch) -> dict[str, Generation]:
        """Poll many tasks with one client until the watch decides otherwise.

        :returns: the generations that ended, by task ID. What ended and why the rest did not is in ``watch``.
        :raises AuthenticationError: at once; no poll could succeed.
        """
        await self._open()
        ended: dict[str, Generation] = {}

        async def poll(task_id: str) -> None:
            try:
                generation = await self.poll(task_id)
            except (PollError, RateLimitError) as error:
                missing = isinstance(error, TaskNotFoundError)
                watch.missed(task_id, str(error), time.time(), not_found=missing, retry_after=error.retry_after)
                if watch.ended.get(task_id) == "not_found":
                    ended[task_id] = Generation(
                        vendor=self.vendor, state="failed", task_id=task_id, error=str(error), reason="lost"
                    )
            else:
                watch.saw(task_id, generation.state, time.time())
                if generation.state != "pending":
                    ended[task_id] = generation

        running: set[asyncio.Task[None]] = set()
        try:
            while (decision := watch.decide(time.time())).action == "poll":
                free = self.settings.max_concurrency - len(running)
                running |= {asyncio.create_task(poll(task_id)) for task_id in watch.due(time.time(), free)}
                if not running:
                    await asyncio.sleep(decision.wait)
                    continue
                # With free slots left, the next due task may start before a running poll ends.
                patience = decision.wait if len(running) < self.settings.max_concurrency else None
                done, running = await asyncio.wait(running, timeout=patience, return_when=asyncio.FIRST_COMPLETED)
                # All are looked at before one is raised, or asyncio complains of the others.
                for error in [task.exception() for task in done]:
                    if error is not None:
                        raise error
        finally:
            for task in running:
                task.cancel()
            await asyncio.gather(*running, return_exceptions=True)
        return ended

    async def poll_all(self, task_ids: Iterable[str]) -> dict[str, Generation]:
        """Ask once for each of many tasks.

        :returns: those that have ended, by task ID; not those that are pending or could not be asked for now.
        :raises AuthenticationError: at once; no poll could succeed.
        """
        await self._open()

        async def poll(task_id: str) -> Generation | None:
            try:
                return await self.poll(task_id)
            except (PollError, RateLimitError) as error:
                self.log.info("Task %s could not be asked for now: %s", task_id, error)
                return None

        polls = [asyncio.create_task(poll(task_id)) for task_id in dict.fromkeys(task_ids)]
        try:
            found = await asyncio.gather(*polls)
        finally:
            for task in polls:
                task.cancel()
            await asyncio.gather(*polls, return_exceptions=True)
        return {str(it.task_id): it for it in found if it is not None and it.state != "pending"}

    def cost(self, images: int) -> Decimal | None:
        """Price of so many pictures in the connection's currency; None where the connection names no price."""
        price = self.settings.price_per_image
        return None if price is None else price * images

    async def fetch(self, image: str | bytes, file: IO[bytes]) -> None:
        """Write one picture of a generation to a file, streaming, from its beginning.

        The link comes from outside: no credentials are sent, only http(s), no private addresses, every
        redirect checked, at most :data:`MAX_BYTES`.

        :raises LostError: if the link has expired.
        :raises PollError: if it could not be fetched for now.
        """
        if isinstance(image, bytes):
            await asyncio.to_thread(_rewrite, file, image)
            return
        await self._load_settings()
        async for attempt in _retrying(FETCH_ATTEMPTS, (PollError,), self.settings.timeout):
            with attempt:
                await self._download(image, file)

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.aclose()

    async def aclose(self) -> None:
        """Close the HTTP client."""
        channel, self._channel = self._channel, None
        if channel is not None and channel.loop is asyncio.get_running_loop():
            await channel.client.aclose()

    # --- for the vendors' hooks --------------------------------------------------------------------

    @abstractmethod
    def check(self, request: BackgroundRequest) -> None:
        """Refuse what the vendor's documentation forbids, as far as it shows without I/O.

        :raises InvalidRequestError: naming field, value and rule.
        """

    @abstractmethod
    async def _submit(self, request: BackgroundRequest) -> Generation:
        """Send the request once."""

    async def _poll(self, task_id: str) -> Generation:
        raise NotImplementedError

    async def _test(self) -> tuple[bool, str]:
        return True, (
            f"Not checked: {self.hook_name} has no free endpoint, so the key is proved by the first paid "
            f"picture only. {'A key' if self.settings.key else 'No key'} is set, and requests will go to "
            f"{self.settings.base_url}"
        )

    def _needs_key(self) -> bool:
        return True

    def _headers(self) -> dict[str, str]:
        """Headers that prove who we are, for the vendor's API only."""
        return {"Authorization": f"Bearer {self._key()}"}

    def _key(self) -> str:
        if not self.settings.key:
            raise AuthenticationError(
                f"Connection {self.conn_id!r} has no API key: put it into the password field",
                vendor=self.vendor,
            )
        return self.settings.key

    def _refuse(self, field: str, value: object, rule: str) -> InvalidRequestError:
        shown = repr(value)
        shown = shown if len(shown) <= 80 else shown[:60] + f"… ({len(str(value)):,} characters)"
        return InvalidRequestError(f"{self.hook_name}: {field}={shown}: {rule}", vendor=self.vendor)

    def _forbid(self, request: BackgroundRequest, *fields: str) -> None:
        """Refuse fields that the vendor does not have: silently dropping them would buy another picture."""
        for name in fields:
            if getattr(request, name) is not None:
                raise self._refuse(name, getattr(request, name), "the vendor has no such parameter; leave it out")

    def _check_options(self, request: BackgroundRequest, own: set[str]) -> None:
        for name in request.options:
            if name in own:
                raise self._refuse(f"options[{name!r}]", request.options[name], "use the request's own field for it")

    async def _call(self, method: str, path: str, *, paid: bool, max_bytes: int = MAX_BYTES, **kwargs: Any) -> Answer:
        """One request to the vendor's API, within rate, slots and time-out; read to its end.

        Answers with an error status are raised as what they mean for the money.
        """
        channel = await self._open()
        import httpx

        headers = {**self._headers(), **kwargs.pop("headers", {})}
        for name, value in headers.items():
            if not sendable_header(name, value):
                problem = f"the header {name!r} cannot be sent: its name or value holds characters that no header takes"
                raise self._error(AuthenticationError, f"{problem}. Check the connection's key and extras")
        request = channel.client.build_request(method, self.settings.base_url + path, headers=headers, **kwargs)
        async with self._turn(channel):
            try:
                async with asyncio.timeout(self.settings.timeout):
                    answer = await self._exchange(channel, request, max_bytes)
            except (
                httpx.ConnectError,
                httpx.ConnectTimeout,
                httpx.PoolTimeout,
                httpx.UnsupportedProtocol,
            ) as error:
                problem = f"no connection to {self.settings.base_url}: {_name(error)}"
                raise self._error(VendorFaultError if paid else PollError, problem) from None
            except (httpx.HTTPError, TimeoutError) as error:
                if paid:
                    raise self._error(
                        UnknownOutcomeError,
                        f"the line dropped after the request went out ({_name(error)}); it may have been charged",
                    ) from None
                raise self._error(PollError, f"no answer: {_name(error)}") from None
            except _TooLarge:
                raise self._error(
                    LostError if paid else PollError, f"the answer was larger than {max_bytes:,} bytes"
                ) from None
            if answer.status == 429:
                too_fast = self._status_error(answer, paid=paid)
                channel.pause(too_fast.retry_after or 1.0)
                raise too_fast
        if answer.status != 200:
            raise self._status_error(answer, paid=paid)
        return answer

    @asynccontextmanager
    async def _turn(self, channel: _Channel) -> AsyncIterator[None]:
        try:
            async with channel.turn():
                yield
        except _Paused as paused:
            problem = f"the vendor asked to wait {paused.seconds:,.0f} s more before the next request"
            raise self._error(RateLimitError, problem, retry_after=paused.seconds) from None

    async def _exchange(self, channel: _Channel, request: httpx.Request, max_bytes: int) -> Answer:
        response = await channel.client.send(request, stream=True)
        try:
            body = bytearray()
            async for chunk in response.aiter_bytes():
                body += chunk
                if len(body) > max_bytes:
                    raise _TooLarge
            return Answer(response.status_code, dict(response.headers.items()), bytes(body))
        finally:
            await response.aclose()

    def _status_error(self, answer: Answer, *, paid: bool) -> BgaiError:
        """The error an answer with an error status stands for."""
        body = answer.json
        code, message = read_error(body)
        return self._error(
            self._meaning(answer.status, code, message, paid=paid),
            message or answer.excerpt() or "no message",
            status=answer.status,
            code=code,
            retry_after=_retry_after(answer.headers.get("retry-after")),
        )

    def _meaning(self, status: int, code: str | None, message: str, *, paid: bool) -> type[BgaiError]:
        """As :meth:`_classify`; a free call has nothing to refuse or to pay for, so it can only be asked again."""
        cls = self._classify(status, code, message, paid=paid)
        free = (AuthenticationError, RateLimitError, PollError)
        return cls if paid or issubclass(cls, free) else PollError

    def _classify(self, status: int, code: str | None, message: str, *, paid: bool) -> type[BgaiError]:
        """What an error status means. Vendors with codes of their own refine this."""
        if status == 429:
            return RateLimitError
        if status in (401, 403) or 300 <= status < 400:
            return AuthenticationError
        if status == 402:
            return QuotaError
        if not paid and status == 404:
            return TaskNotFoundError
        if 400 <= status < 500:
            return ModerationError if _MODERATION.search(message) else RefusedError
        if not paid:
            return PollError
        # A gateway's 502 or 504 says nothing about the work behind it; the vendor's own 500 and 503 do.
        return VendorFaultError if status in (500, 503) else UnknownOutcomeError

    def _error(self, cls: type[BgaiError], message: str, **details: Any) -> BgaiError:
        """An error that names the vendor and never holds the key."""
        status = details.get("status")
        # Redacted first and cut afterwards: half a key would not be found.
        text = f"{self.hook_name}{f' answered {status}' if status else ''}: {self._redact(message)[:500]}"
        return cls(text, vendor=self.vendor, **details)

    def _redact(self, text: str) -> str:
        key = self.settings.key
        return text.replace(key, "***") if key else text

    async def load_image(self, field: str, source: str | bytes) -> bytes:
        """The bytes of an image a user named. :raises InvalidRequestError: if it cannot be read."""
        import io

        if isinstance(source, bytes):
            return source
        if source.startswith("s3://"):
            from botocore.exceptions import BotoCoreError, ClientError

            try:
                return await asyncio.to_thread(self.storage.read, source)
            except FileNotFoundError:
                raise self._refuse(field, source, "there is no such object in S3") from None
            except (BotoCoreError, ClientError) as error:
                raise self._error(SourceError, f"{field}={source!r} cannot be read: {error}") from None
        if source.startswith(("http://", "https://")):
            file = io.BytesIO()
            try:
                await self.fetch(source, file)
            except PollError as error:
                shown = source.partition("?")[0]
                raise self._error(SourceError, f"{field}={shown!r} cannot be fetched: {error}") from None
            except LostError as error:
                raise self._refuse(field, source.partition("?")[0], f"cannot be fetched: {error}") from None
            return file.getvalue()
        try:
            return await asyncio.to_thread(Path(source).read_bytes)
        except OSError as error:
            raise self._refuse(field, source, f"cannot be read: {error.strerror}") from None

    async def _as_url(self, field: str, source: str | bytes) -> str:
        """A link through which the vendor can fetch an image; staged in S3 where it has none."""
        import hashlib

        if isinstance(source, str) and source.startswith(("http://", "https://")):
            return source
        if isinstance(source, str) and source.startswith("s3://"):
            await self._read_picture(field, await self.load_image(field, source))
            return await asyncio.to_thread(self.storage.presign, source)
        if not self.staging:
            raise self._refuse(
                field,
                source if isinstance(source, str) else f"{len(source)} bytes",
                "the vendor takes URLs only; give an s3:// or https:// image, or a `staging` prefix in S3",
            )
        data = await self.load_image(field, source)
        picture = await self._read_picture(field, data)
        staged = f"{self.staging.rstrip('/')}/{hashlib.sha256(data).hexdigest()}.{picture.extension}"
        await asyncio.to_thread(self.storage.put, staged, data, content_type=picture.content_type)
        return await asyncio.to_thread(self.storage.presign, staged)

    async def _read_picture(self, field: str, data: bytes) -> Picture:
        """Describe an image about to be sent. :raises InvalidRequestError: if it is no picture."""
        from airflow_provider_bgai.imaging.verify import NotAPictureError, read_header

        try:
            return await asyncio.to_thread(read_header, data)
        except NotAPictureError as error:
            raise self._refuse(field, f"{len(data)} bytes", str(error)) from None

    async def _open(self) -> _Channel:
        """The channel of the running loop, made at first use."""
        await self._load_settings()
        if self._channel is None or self._channel.loop is not asyncio.get_running_loop():
            # Importing httpx and reading the certificates take long enough to stall a triggerer.
            tls = await asyncio.to_thread(_tls_context)
            if self._channel is None or self._channel.loop is not asyncio.get_running_loop():
                self._channel = _Channel(self.settings, tls)
        return self._channel

    def _read_settings(self, connection: Any, extra: Mapping[str, Any]) -> Settings:
        extra = {name: value for name, value in extra.items() if value is not None}

        def read(name: str, default: T, convert: Callable[[Any], T], rule: str) -> T:
            if extra.get(name, "") == "":  # how the connection form stores an empty field
                return default
            try:
                value = convert(extra[name])
            except (TypeError, ValueError, ArithmeticError):
                raise self._wrong_extra(name, extra[name], rule) from None
            return value

        return Settings(
            key=(connection.password or "").strip(),
            base_url=self._read_base_url(connection),
            requests_per_minute=read(
                "requests_per_minute", self.default_requests_per_minute, _positive, "must be a number above 0"
            ),
            max_concurrency=int(
                read("max_concurrency", self.default_max_concurrency, _whole, "must be a whole number above 0")
            ),
            timeout=read("timeout", self.default_timeout, _positive, "must be seconds above 0"),
            price_per_image=read("price_per_image", None, _price, "must be an amount like 0.05"),
            currency=str(extra.get("currency") or "USD"),
            allow_private_hosts=read("allow_private_hosts", False, _boolean, "must be true or false"),
            extra=extra,
        )

    def _read_base_url(self, connection: Any) -> str:
        url = _base_url(connection, self.base_url)
        try:
            parts = urlsplit(url)
            right = parts.scheme in ("http", "https") and bool(parts.hostname) and parts.port != 0
        except ValueError:
            right = False
        if not right or re.search(r"\s", url):
            rule = "must be a host name or an http(s) URL"
            raise AuthenticationError(
                f"Connection {self.conn_id!r}: host={connection.host!r}: {rule}", vendor=self.vendor
            )
        return url

    def _wrong_extra(self, name: str, value: object, rule: str) -> AuthenticationError:
        return AuthenticationError(f"Connection {self.conn_id!r}: extra {name}={value!r}: {rule}", vendor=self.vendor)

    # --- downloads ---------------------------------------------------------------------------------

    async def _download(self, url: str, file: IO[bytes]) -> None:
        channel = await self._open()
        import httpx

        try:
            async with asyncio.timeout(self.settings.timeout), channel.slots:
                await self._follow(channel.client, url, file)
        except httpx.InvalidURL:
            raise self._error(LostError, "the link is not a valid URL") from None
        except (httpx.HTTPError, TimeoutError) as error:
            raise self._error(PollError, f"the picture could not be fetched: {_name(error)}") from None

    async def _follow(self, client: httpx.AsyncClient, url: str, file: IO[bytes]) -> None:
        import httpx

        for _ in range(MAX_REDIRECTS + 1):
            request = await self._pinned_request(client, url)
            response = await client.send(request, stream=True)
            try:
                if response.is_redirect:
                    url = str(httpx.URL(url).join(response.headers.get("location", "")))
                    continue
                if response.status_code in (403, 410):
                    raise self._error(LostError, f"the link has expired or was never valid ({response.status_code})")
                if response.status_code != 200:
                    raise self._error(PollError, f"the picture's server answered {response.status_code}")
                await asyncio.to_thread(_rewrite, file)
                size = 0
                async for chunk in response.aiter_bytes(1 << 20):
                    size += len(chunk)
                    if size > MAX_BYTES:
                        raise self._error(LostError, f"the picture is larger than {MAX_BYTES:,} bytes")
                    await asyncio.to_thread(file.write, chunk)
                return
            finally:
                await response.aclose()
        raise self._error(LostError, f"the link redirects more than {MAX_REDIRECTS} times")

    async def _pinned_request(self, client: httpx.AsyncClient, url: str) -> httpx.Request:
        """A GET of a foreign URL that goes to an address which has been checked.

        The name is resolved once and the request is sent to that very address, so a name that resolves
        differently the next time cannot smuggle in a private one.
        """
        import httpx

        parsed = httpx.URL(url)
        if parsed.scheme not in ("http", "https") or not parsed.host:
            raise self._error(LostError, f"the link's scheme {parsed.scheme!r} is not http or https")
        if self.settings.allow_private_hosts:
            return client.build_request("GET", parsed.copy_with(userinfo=b""))
        address = await self._public_address(parsed)
        return client.build_request(
            "GET",
            parsed.copy_with(host=address, userinfo=b""),
            headers={"Host": parsed.netloc.decode("ascii").rpartition("@")[2]},
            extensions={"sni_hostname": parsed.host},
        )

    async def _public_address(self, url: httpx.URL) -> str:
        import ipaddress
        import socket

        port = url.port or (443 if url.scheme == "https" else 80)
        try:
            found = await asyncio.get_running_loop().getaddrinfo(url.host, port, type=socket.SOCK_STREAM)
        except (OSError, UnicodeError):
            raise self._error(PollError, f"the host {url.host!r} of the link is not known") from None
        addresses = [str(entry[4][0]).partition("%")[0] for entry in found]
        for address in addresses:
            parsed = ipaddress.ip_address(address)
            mapped = getattr(parsed, "ipv4_mapped", None)
            if not (mapped or parsed).is_global or parsed.is_multicast:
                raise self._error(
                    LostError,
                    f"the link points to {url.host!r}, a private or local address ({address}); set the "
                    "connection's extra allow_private_hosts for tests and sandboxes",
                )
        return addresses[0]


class _TooLarge(Exception):
    """The answer exceeds the cap."""


class _Paused(Exception):
    """The vendor asked for a longer pause than one call waits for."""

    def __init__(self, seconds: float) -> None:
        super().__init__(seconds)
        self.seconds = seconds


def sendable_header(name: str, value: str) -> bool:
    """Whether HTTP takes this header; asked first, because a failure to send would look like a dropped line."""
    return bool(re.fullmatch(r"[!#$%&'*+.^_`|~0-9A-Za-z-]+", name) and re.fullmatch(r"[!-~]([ \t!-~]*[!-~])?", value))


def connection_form(conn_type: str) -> tuple[dict[str, Any], dict[str, Any]]:
    """Field behaviour and WTForms widgets of a connection type, made from ``get_provider_info``.

    Airflow 3.2 and later read the same table without importing hooks, so the two forms cannot drift apart.
    """
    from flask_babel import lazy_gettext
    from wtforms import BooleanField, IntegerField, StringField
    from wtforms.validators import Optional

    from airflow_provider_bgai.get_provider_info import get_provider_info

    (entry,) = (item for item in get_provider_info()["connection-types"] if item["connection-type"] == conn_type)
    # Airflow passes over a hook whose form has any other kind of field, so a fraction is typed as text.
    kinds = {"string": StringField, "integer": IntegerField, "number": StringField, "boolean": BooleanField}
    widgets = {
        name: kinds[field["schema"]["type"][0]](
            lazy_gettext(field["label"]),
            validators=[Optional()],
            description=field["description"],
            default=field["schema"].get("default"),
        )
        for name, field in entry["conn-fields"].items()
    }
    behaviour = {name.replace("-", "_"): value for name, value in entry["ui-field-behaviour"].items()}
    return behaviour, widgets


def read_error(body: Any) -> tuple[str | None, str]:
    """Code and message out of any of the vendors' error bodies; (None, "") where there is none.

    Looks at ``error.code``, ``code``; ``error.message``, ``error.detail``, ``error`` as text, ``message``,
    ``detail``, ``msg``.
    """
    if not isinstance(body, Mapping):
        return None, ""
    inner = body.get("error")
    nested = inner if isinstance(inner, Mapping) else {}
    code = nested.get("code", body.get("code"))
    candidates = [nested.get("message"), nested.get("detail"), body.get("message"), body.get("detail")]
    candidates += [inner if isinstance(inner, str) else None, body.get("msg")]
    message = next((str(text) for text in candidates if text), "")
    return (None if code is None else str(code)), message


def _retrying(attempts: int, errors: tuple[type[BgaiError], ...], budget: float) -> tenacity.AsyncRetrying:
    """Repeat a call for some errors: after Retry-After where the vendor names one, else with growing, jittered waits.

    :param budget: seconds; a wait that would exceed it is not begun.
    """
    import tenacity

    backoff = tenacity.wait_exponential(multiplier=0.5, max=20) + tenacity.wait_random(0, 0.5)

    def wait(state: tenacity.RetryCallState) -> float:
        error = state.outcome.exception() if state.outcome else None
        asked = getattr(error, "retry_after", None)
        return float(asked) if asked is not None else backoff(state)

    return tenacity.AsyncRetrying(
        retry=tenacity.retry_if_exception_type(errors),
        wait=wait,
        stop=tenacity.stop_after_attempt(attempts) | tenacity.stop_before_delay(min(budget, MAX_RETRY_AFTER)),
        reraise=True,
    )


def _retry_after(value: str | None) -> float | None:
    """Seconds of a Retry-After header, which is a number of seconds or an HTTP date; None for neither."""
    from email.utils import parsedate_to_datetime

    if not value:
        return None
    if re.fullmatch(r"\d+(\.\d+)?", value.strip()):
        return float(value)
    try:
        return max(0.0, parsedate_to_datetime(value).timestamp() - time.time())
    except ValueError:
        return None


def _base_url(connection: Any, default: str) -> str:
    host = (connection.host or "").strip()
    if not host:
        return default
    if "://" not in host:
        host = f"{connection.schema or 'https'}://{host}"
    scheme, _, rest = host.partition("://")
    netloc, slash, path = rest.partition("/")
    if connection.port and not re.search(r":\d+$", netloc):
        netloc = f"{netloc}:{connection.port}"
    return f"{scheme}://{netloc}{slash}{path}".rstrip("/")


def _rewrite(file: IO[bytes], data: bytes = b"") -> None:
    file.seek(0)
    file.truncate()
    file.write(data)


def _tls_context() -> ssl.SSLContext:
    import httpx

    return httpx.create_ssl_context()


def _name(error: BaseException) -> str:
    """What went wrong on the line, without URLs (which may hold signatures)."""
    return type(error).__name__


def _positive(value: Any) -> float:
    number = float(value)
    if not 0 < number < float("inf"):
        raise ValueError
    return number


def _whole(value: Any) -> int:
    number = _positive(value)
    if number != int(number):
        raise ValueError
    return int(number)


def _price(value: Any) -> Decimal:
    price = Decimal(str(value))
    if not price.is_finite() or price < 0:
        raise ValueError
    return price


def _boolean(value: Any) -> bool:
    if isinstance(value, bool):
        return value
    if str(value).strip().lower() in ("true", "1", "yes", "on"):
        return True
    if str(value).strip().lower() in ("false", "0", "no", "off"):
        return False
    raise ValueError
