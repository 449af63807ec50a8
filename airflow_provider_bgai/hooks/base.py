"""What all vendors' hooks share: submit, poll, wait, watch, download; and what a vendor has to state.

Invariants that must not be relaxed:

* One ``send`` is one paid HTTP request. It is repeated here only where it certainly never was one (429, no
  connection), and only for a hook used alone; everything that buys keeps a record of every request.
* Pictures or a task ID in an answer are a success, whatever the words around them.
* Everything that can fail before the payment is done before it, in ``outgoing``.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable
from contextlib import asynccontextmanager
from dataclasses import replace
from functools import cached_property
from typing import IO, TYPE_CHECKING, Any, Self

from airflow_provider_bgai.exceptions import (
    BgaiError,
    InvalidRequestError,
    NeverSentError,
    RateLimitError,
)
from airflow_provider_bgai.hooks import results, waiting
from airflow_provider_bgai.hooks.channel import Channel, Channels, Outgoing, retrying
from airflow_provider_bgai.hooks.meaning import Answer
from airflow_provider_bgai.hooks.vendor import Vendor
from airflow_provider_bgai.models import BackgroundRequest, Generation
from airflow_provider_bgai.polling import PollPolicy, Refusals, TaskWatch, Usual, askable

if TYPE_CHECKING:
    from airflow_provider_bgai.storage import Storage

SUBMIT_ATTEMPTS = 4


class BackgroundHook(Vendor):
    """Base of the vendors' hooks: what users, operators and triggers call.

    :param conn_id: the Airflow connection: password = API key, host = another base URL, extras as in its form.
    :param storage: where ``s3://`` images are read, and local ones staged; None: by ``aws_conn_id``.
    :param staging: an ``s3://`` prefix where local images are put for vendors that take URLs only.
    :param given: ``connection`` and ``shards``, see :class:`~airflow_provider_bgai.hooks.connection.ConnectedHook`.
    """

    def __init__(
        self,
        conn_id: str | None = None,
        *,
        aws_conn_id: str | None = "aws_default",
        storage: Storage | None = None,
        staging: str | None = None,
        **given: Any,
    ) -> None:
        super().__init__(conn_id, **given)
        self.aws_conn_id = aws_conn_id
        if storage is not None:
            self.storage = storage
        self.staging = staging
        self._channels = Channels()
        self.refusals = Refusals()
        self.usual = Usual()

    @cached_property
    def storage(self) -> Storage:
        from airflow_provider_bgai.storage import Storage

        return Storage(self.aws_conn_id)

    def prepare_blocking(self, request: BackgroundRequest) -> None:
        """Look up all connections a request needs, before an event loop starts: that blocks in a worker."""
        _ = self.settings
        needs_s3 = [request.image, request.guidance_image, self.staging]
        if any(isinstance(item, str) and item.startswith("s3://") for item in needs_s3):
            _ = self.storage.client

    def test_connection(self) -> tuple[bool, str]:
        """Check the connection without spending money. Says what could not be checked."""

        async def run() -> tuple[bool, str]:
            async with self:
                await (await self._open()).reach()
                return await self.probe()

        try:
            if self.needs_key:
                self.key()
            passed, message = asyncio.run(run())
            return passed, self.settings.redact(message)
        except BgaiError as error:
            return False, str(error)

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.aclose()

    async def aclose(self) -> None:
        """Close the HTTP clients."""
        await self._channels.aclose()

    # --- paying --------------------------------------------------------------------------------------

    def generate(self, request: BackgroundRequest, *, timeout: float = 600.0) -> Generation:
        """Submit, wait and download, blocking.

        :param timeout: seconds to wait for the vendor, from submission.
        :returns: a succeeded generation whose ``images`` are bytes of whole pictures.
        :raises BgaiError: see :mod:`airflow_provider_bgai.exceptions`; with ``task_id`` wherever one is
            known, so that what was paid can still be collected.
        """
        self.prepare_blocking(request)

        async def run() -> Generation:
            async with self:
                generation = await self.submit(request)
                if generation.state == "pending":
                    generation = await self.wait_for(generation, timeout=timeout, count=request.count)
                generation.raise_for_failure()
                return replace(generation, images=tuple(await self.download(generation)))

        return asyncio.run(run())

    async def outgoing(self, request: BackgroundRequest) -> Outgoing:
        """The paid request, with all I/O done that comes before the payment: images read, staged or signed.

        :raises InvalidRequestError: if the vendor's rules forbid it, or it cannot be sent.
        :raises SourceError: if an image cannot be read for now.
        :raises AuthenticationError: if the connection cannot be used.
        """
        channel = await self._open()
        self.check(request)
        self.checked_headers()
        await channel.check_host()
        outgoing = await self.compose(request)
        try:
            channel.build(outgoing, {})
        except (TypeError, ValueError) as error:
            raise self.refuse(
                "prompt, options", [request.prompt, request.options], f"cannot be sent: {error}"
            ) from None
        return outgoing

    @asynccontextmanager
    async def turn(self) -> AsyncIterator[None]:
        """A slot of the connection, within its rate.

        :raises RateLimitError: if the vendor asked for a pause that is too long to wait for here.
        """
        channel = await self._open()
        async with channel.turn():
            yield

    async def send(self, outgoing: Outgoing, before: Callable[[], Awaitable[None]] | None = None) -> Generation:
        """Exactly one paid HTTP request on a fresh connection, inside a :meth:`turn` held by the caller.

        :param before: see :meth:`Channel.send`; here who buys writes down that he is about to pay.
        :returns: pending with a ``task_id``, succeeded, or failed where the vendor's own task has failed at once.
        :raises BgaiError: by what the answer means for the money.
        """
        channel = await self._open()
        answer = await channel.send(outgoing, self.checked_headers(), before)
        # A 4xx refuses by its own definition; a task ID in a 500 is worth more than the 500.
        looks = answer.status < 300 or answer.status >= 500
        generation = self.read(answer, outgoing) if looks else None
        if generation is None:
            raise self.failure(answer, paid=True)
        generation = replace(generation, warnings=(*outgoing.warnings, *generation.warnings))
        if any(isinstance(image, bytes) for image in generation.images):
            generation = replace(generation, answer=answer.body)
        generation = _counted(generation, outgoing.count)
        for warning in generation.warnings:
            self.log.warning("%s: %s", self.vendor, warning)
        return generation

    def failure(self, answer: Answer, *, paid: bool, task_id: str | None = None) -> BgaiError:
        """As ever; and if it was too fast, the whole connection slows down."""
        error = super().failure(answer, paid=paid, task_id=task_id)
        if isinstance(error, RateLimitError):
            self._channels.refused(error.retry_after)
        return error

    async def submit(self, request: BackgroundRequest) -> Generation:
        """Check, send the paid request once, and say what came of it: for a hook used alone.

        It is sent again, a few times, only where nothing can have been charged: 429, or no connection.

        :returns: as :meth:`send`.
        :raises UnknownOutcomeError: if nobody can know whether it was charged.
        """
        outgoing = await self.outgoing(request)
        async for attempt in retrying(SUBMIT_ATTEMPTS, _never_charged, self.settings.timeout):
            with attempt:
                async with self.turn():
                    generation = await self.send(outgoing)
        return generation

    async def _open(self) -> Channel:
        return await self._channels.open(await self.load_settings())

    # --- asking, which is free -----------------------------------------------------------------------

    async def call(self, method: str, path: str) -> Answer:
        """One free request to the vendor's API. Error statuses are raised.

        :raises PollError, TaskNotFoundError, RateLimitError, AuthenticationError: by what they mean.
        """
        channel = await self._open()
        headers = self.checked_headers()
        async with channel.turn():
            answer = await channel.ask(method, path, headers)
            if not 200 <= answer.status < 300:
                raise self.failure(answer, paid=False)
        return answer

    async def poll(self, task_id: str) -> Generation:
        """Ask for a task, once. Free.

        :raises PollError: if asking failed for now; ask again.
        :raises TaskNotFoundError: if the vendor does not know the task.
        """
        if not self.has_tasks:
            raise InvalidRequestError(f"{self.hook_name} answers at once: it has no tasks to ask for ({task_id!r})")
        if not askable(task_id):
            raise InvalidRequestError(f"task_id={task_id!r}: not a {self.hook_name} task ID")
        await self.load_settings()
        self.counts["polls"] += 1
        return await self.ask(task_id)

    async def wait_for(
        self,
        generation: Generation,
        *,
        timeout: float,
        policy: PollPolicy | None = None,
        age: float | None = None,
        count: int | None = None,
    ) -> Generation:
        """Poll one task until it ends; with a timeout of 0, once. See :func:`waiting.wait_for`.

        :param timeout: seconds.
        :param age: seconds since the vendor's answer, by one clock: no poll is spent before one interval has passed,
            nor before most other tasks had ended; one that is old enough and unknown to the vendor is lost at once.
        :param count: how many pictures were asked for: another number is warned of.
        :raises PollError: at the time-out; carries the task ID, which stays collectable.
        """
        ended = await waiting.wait_for(self, generation, timeout=timeout, policy=policy, age=age)
        return ended if count is None else _counted(ended, count)

    async def watch(self, watch: TaskWatch) -> dict[str, Generation]:
        """Poll many tasks with one client until the watch decides otherwise.

        :returns: the generations that ended, by task ID. What ended and why the rest did not is in ``watch``.
        :raises AuthenticationError: after three refusals of the key in a row.
        """
        await self._open()
        return await waiting.watch(self, watch)

    async def poll_all(self, task_ids: Iterable[str]) -> dict[str, Generation]:
        """Ask once for each of many tasks.

        :returns: those that have ended, by task ID; not those that are pending or could not be asked for now.
        :raises AuthenticationError: if the key was refused for every one of them.
        """
        await self._open()
        return await waiting.poll_all(self, task_ids)

    # --- fetching, which is free ---------------------------------------------------------------------

    async def fetch(self, image: str | bytes, file: IO[bytes]) -> None:
        """Write one picture of a generation to a file, streaming, from its beginning. See :mod:`web`.

        :raises LostError: if the link's own server says that it is gone.
        :raises LinkRefusedError: if the link's own server says 403 or 404.
        :raises PollError: if it could not be fetched for now, or not from here.
        """
        await results.fetch(await self._open(), image, file)

    async def download(self, generation: Generation) -> list[bytes]:
        """The pictures of a generation, in the vendor's order, each one whole.

        :raises LostError: if one is gone or stays damaged; with the task ID: :meth:`poll` may give a fresh link.
        :raises PollError: as :meth:`fetch`.
        """
        return [await results.whole(self, image, generation.task_id) for image in generation.images]


def _never_charged(error: BaseException) -> bool:
    return isinstance(error, RateLimitError | NeverSentError)


def _counted(generation: Generation, count: int) -> Generation:
    """The generation, with a warning if it has another number of pictures than were asked for."""
    found = len(generation.images)
    if generation.state != "succeeded" or found == count:
        return generation
    return replace(generation, warnings=(*generation.warnings, f"{found} of {count} pictures were returned"))
