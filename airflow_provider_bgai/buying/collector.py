"""Collects what answered calls have paid for: asks the vendor, lands the pictures, ends the call."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Iterable, Mapping
from dataclasses import replace
from typing import TYPE_CHECKING

from airflow_provider_bgai.buying.books import book, walk
from airflow_provider_bgai.buying.brake import Brake, Came
from airflow_provider_bgai.buying.calls import Ledger, in_thread, store_time
from airflow_provider_bgai.buying.decision import is_lost
from airflow_provider_bgai.buying.landing import Landing, land
from airflow_provider_bgai.buying.record import IN_VAIN, Call, State, error_of
from airflow_provider_bgai.exceptions import (
    AuthenticationError,
    BgaiError,
    InvalidRequestError,
    LostError,
    SourceError,
)
from airflow_provider_bgai.hooks import detached_hook
from airflow_provider_bgai.layout import PictureName
from airflow_provider_bgai.lines import Packed
from airflow_provider_bgai.models import Generation
from airflow_provider_bgai.polling import PollPolicy
from airflow_provider_bgai.sources import read_source
from airflow_provider_bgai.storage import store_errors

if TYPE_CHECKING:
    from airflow_provider_bgai.hooks.base import BackgroundHook

log = logging.getLogger(__name__)

AT_ONCE = 16
"""Calls that are collected side by side by who walks ``open/``."""

Account = Callable[[str], "BackgroundHook | None"]


class Collector:
    """Collects calls of any run, each with the connection that paid for it. Use it on one event loop.

    :param hooks: those at hand.
    :param account: the hook of any other connection; None where there is none any more.
    :param run: whose calls count for the brakes.
    :param worker: whose calls have their markers, because this very process has put them.
    :ivar ended: calls that were brought to an end, or found ended, by their IDs, as they belong into the books.
    """

    def __init__(
        self,
        ledger: Ledger,
        hooks: Iterable[BackgroundHook],
        account: Account,
        *,
        run: str = "",
        brakes: Mapping[str, Brake] | None = None,
        worker: str = "",
    ) -> None:
        self.ledger, self.run, self.brakes, self.worker = ledger, run, brakes or {}, worker
        self.ended: Packed[str, Call] = Packed(Call)
        self._hooks: dict[str, BackgroundHook | None] = {hook.conn_id: hook for hook in hooks}
        self._account = account
        self._entered: set[str] = set()
        self._handed_on: set[str] = set()

    async def aclose(self) -> None:
        """Close all clients."""
        for hook in self._hooks.values():
            if hook is not None:
                await hook.aclose()

    def entered(self, call: Call) -> None:
        """Its brake knows this call as under way already."""
        self._entered.add(call.call_id)

    def handed_on(self, call: Call) -> None:
        """An earlier pass of this task has sent it and handed it on: its marker need not be put again."""
        self._handed_on.add(call.call_id)

    async def park(self, call: Call, *, resumed: bool = False) -> None:
        """Leave a call under way beyond this pass.

        :param resumed: it is an earlier pass's, so its brake does not know yet that it is under way.
        """
        if resumed and (brake := self.brakes.get(call.conn_id)) is not None:
            brake.resume()
            self._entered.add(call.call_id)
        if call.call_id in self._entered and (brake := self.brakes.get(call.conn_id)) is not None:
            self._entered.discard(call.call_id)
            await brake.park()

    async def collect(
        self,
        call: Call,
        *,
        generation: Generation | None = None,
        timeout: float,
        source: bytes | None = None,
        policy: PollPolicy | None = None,
    ) -> Call:
        """Bring an answered call to its end.

        :param generation: what was just answered, if it is in hand.
        :param timeout: seconds to wait for the vendor; 0 to ask once.
        :param source: the bytes that were sent, if they are at hand.
        :returns: the record that stands: landed, quarantined, lost or failed.
        :raises PollError, AuthenticationError: if it cannot be collected for now; it stays answered.
        :raises StoreError: if S3 refuses it for minutes; it stays answered.
        """
        brake = self.brakes.get(call.conn_id)
        if brake is not None and call.call_id not in self._entered:
            brake.resume()
        self._entered.discard(call.call_id)
        fetching = generation is not None
        vendors_word = False
        own_run = call.run == self.run
        came: Came | None = None  # it stays under way
        problem: BgaiError | None = None
        try:
            try:
                if call.worker != self.worker and call.call_id not in self._handed_on:
                    await in_thread(self.ledger.mark, call)
                hook = await self._hook(call)
                if generation is None:
                    generation = await self._ask(hook, call, timeout, policy)
                vendors_word = True
                generation.raise_for_failure()
                vendors_word, fetching = False, True
                source = await self._source(hook, call, source)
                landing = await self._land(hook, generation, call, source)
                ended = await self._landed(call, generation, landing)
            except BgaiError as error:
                problem, error.task_id = error, error.task_id or call.task_id
                ended_by_error = await self._end(call, error, vendors_word)
                if ended_by_error is None:
                    came = "vain" if fetching or error.reason == "store" else None
                    raise
                ended = ended_by_error
            came = "landed" if ended.state == "landed" else "vain" if ended.state in IN_VAIN else "free"
            problem = problem or error_of(ended)
        finally:
            if brake is not None and came is None:
                await brake.park()
            elif brake is not None and came is not None:
                # What another run has paid proves nothing of this one's calls.
                await brake.leave(came if own_run else "free", problem if came == "vain" else None)
        self.note(ended)
        return ended

    def note(self, call: Call) -> None:
        """It has ended, so it belongs into the books."""
        self.ended[call.call_id] = call.for_books()

    async def _hook(self, call: Call) -> BackgroundHook:
        """Who paid for it. :raises AuthenticationError: if its connection is gone."""
        if call.conn_id not in self._hooks:
            # In a thread: a task asks its supervisor for a connection, and that blocks.
            self._hooks[call.conn_id] = await asyncio.to_thread(self._account, call.conn_id)
        hook = self._hooks[call.conn_id]
        if hook is not None and hook.vendor == call.vendor:
            return hook
        if call.incoming:  # its bytes are in S3: nobody has to be asked
            return detached_hook(call.vendor, call.conn_id)
        raise AuthenticationError(
            f"{call.what} was paid with connection {call.conn_id!r}, which is not there any more. It is kept: with "
            "that connection it can be collected",
            vendor=call.vendor,
            task_id=call.task_id,
        )

    async def _ask(self, hook: BackgroundHook, call: Call, timeout: float, policy: PollPolicy | None) -> Generation:
        """What the vendor has made of a call."""
        known = Generation(
            vendor=call.vendor,
            state="pending" if call.task_id else "succeeded",
            task_id=call.task_id,
            images=call.links,
            seed=call.seed,
            model=call.model,
        )
        if call.task_id:
            now = await store_time(self.ledger.storage)
            age = max(0.0, now - (call.answered_at or call.sent_at))  # a clock may have stepped back
            return await hook.wait_for(known, timeout=timeout, policy=policy, age=age, count=call.pictures)
        if call.incoming:
            uri = self.ledger.layout.incoming(call.call_id)
            try:
                body = await in_thread(self.ledger.storage.insist, lambda: self.ledger.storage.read(uri), uri)
            except FileNotFoundError:
                raise LostError(f"The bytes of {call.what} are not in S3 any more: {uri}", vendor=call.vendor) from None
            try:
                images = hook.read_stored(body)
            except ValueError as error:
                raise LostError(f"{call.what}: its answer holds no picture: {error}", vendor=call.vendor) from None
            return Generation(
                vendor=call.vendor, state="succeeded", images=images, answer=body, seed=call.seed, model=call.model
            )
        return known

    async def _source(self, hook: BackgroundHook, call: Call, source: bytes | None) -> bytes | None:
        """The bytes that were sent, to compare the result with; None where they cannot be had any more."""
        import hashlib

        if call.inspection.thresholds is None or not call.source_sha256:
            return None
        if source is None and "://" in call.source:
            allow = hook.settings.allow_private_hosts
            try:
                source = (await read_source(call.source, self.ledger.storage, allow_private_hosts=allow)).data
            except (InvalidRequestError, SourceError) as error:
                log.warning("%s is not compared with its source: %s", call.what, error)
        same = source is not None and hashlib.sha256(source).hexdigest() == call.source_sha256
        return source if same else None

    async def _land(self, hook: BackgroundHook, generation: Generation, call: Call, source: bytes | None) -> Landing:
        layout = self.ledger.layout

        def place(index: int, count: int, sha256: str, extension: str, good: bool) -> str:
            name = PictureName(call.fingerprint, call.number, index, count)
            return layout.picture(name, sha256, extension, quarantined=not good)

        def keep(index: int, count: int, extension: str) -> str:
            return layout.delivered(call.call_id, index, count, extension)

        landing = await land(hook, generation, self.ledger.storage, call, source, place, keep)
        images, quarantined = (
            tuple(it.moved(layout.relative) for it in outputs) for outputs in (landing.images, landing.quarantined)
        )
        return replace(landing, images=images, quarantined=quarantined)

    async def _landed(self, call: Call, generation: Generation, landing: Landing) -> Call:
        """End a call whose pictures are in S3."""
        count = len(landing.images) + len(landing.quarantined)
        # The vendor bills what it made, whatever was asked for.
        price = None if call.price is None else call.price * count / call.pictures
        known = {
            "images": landing.images,
            "quarantined": landing.quarantined,
            "thumbnails": landing.thumbnails,
            "warnings": (*dict.fromkeys((*call.warnings, *generation.warnings)), *landing.warnings),
            "pictures": count,
            "price": price,
        }
        state: State = "landed" if landing.images else "quarantined"
        if state == "quarantined":
            where = ", ".join(self.ledger.layout.absolute(it.uri) for it in landing.quarantined)
            known |= {"reason": "quarantined", "error": f"{'; '.join(landing.warnings)}. In quarantine: {where}"}
        return await in_thread(lambda: self.ledger.end(call, state, **known))

    async def _end(self, call: Call, error: BgaiError, vendors_word: bool) -> Call | None:
        """End a call by an error, if it certainly is one; None: it stays answered.

        :param vendors_word: it is what the vendor says became of its task. Nothing else can make a call free any more.
        """
        hook = self._hooks.get(call.conn_id) or detached_hook(call.vendor, call.conn_id)
        last_word = None if isinstance(error, AuthenticationError) else error
        now = await store_time(self.ledger.storage)
        if is_lost(call, last_word, life=hook.result_life, now=now):
            return await in_thread(lambda: self.ledger.end(call, "lost", reason="lost", error=str(error)))
        if vendors_word and error.paid != "yes":
            state: State = "failed" if error.paid == "no" else "unknown"
            return await in_thread(lambda: self.ledger.end(call, state, reason=error.reason, error=str(error)))
        return None


async def settle(collector: Collector, run: str, *, older_than: float = 0.0) -> list[Call]:
    """Walk ``open/``: end and collect what others have left there, and put all that has ended into the books.

    Whoever ends a run does so. What cannot be collected for now stays open for the next one.

    :param run: who writes the books.
    :param older_than: seconds; younger calls are left to their own runs.
    :returns: the calls that were booked.
    """
    ledger = collector.ledger
    found = await in_thread(lambda: walk(ledger, older_than=older_than))
    slots = asyncio.Semaphore(AT_ONCE)

    async def collect(call: Call) -> None:
        async with slots:
            try:
                await collector.collect(call, timeout=0.0)
            except store_errors(BgaiError) as error:
                log.info("%s stays open: %s", call.what, error)

    async with asyncio.TaskGroup() as group:
        for call in found.waiting:
            group.create_task(collect(call))
    ended = {call.call_id: call for call in (*found.ended, *collector.ended.values())}
    await in_thread(book, ledger, run, ended.values())
    return list(ended.values())


def settle_all(ledger: Ledger, account: Account, run: str) -> list[Call]:
    """:func:`settle` with a collector of its own, blocking: what is done before a run is published.

    :param account: the hooks of the connections that have paid.
    :returns: the calls that were booked.
    """

    async def settled() -> list[Call]:
        collector = Collector(ledger, [], account, run=run)
        try:
            return await settle(collector, run)
        finally:
            await collector.aclose()

    return asyncio.run(settled())
