"""Buys a wish: finds what there is, does what was decided, pays at most once a call, and collects.

What is done in which order around one payment stands in :mod:`.payment`.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Mapping, Sequence
from itertools import dropwhile
from typing import TYPE_CHECKING

from airflow_provider_bgai.buying import payment
from airflow_provider_bgai.buying.brake import AT_FIRST, Brake, enter_first
from airflow_provider_bgai.buying.calls import Ledger, LostRaceError, in_thread, store_time
from airflow_provider_bgai.buying.collector import Account, Collector
from airflow_provider_bgai.buying.decision import Asks, Last, decide
from airflow_provider_bgai.buying.decisions import last_of, read_note, refusal, take_out
from airflow_provider_bgai.buying.purchase import Purchase, Wish, able_to, open_wish
from airflow_provider_bgai.buying.record import ENDS, IN_VAIN, Call
from airflow_provider_bgai.exceptions import (
    AuthenticationError,
    BgaiError,
    ModerationError,
    NeverSentError,
    OverBudgetError,
    QuotaError,
    RateLimitError,
    RefusedError,
    RetiredError,
    SourceError,
    StoppedError,
    StoreError,
    UnknownOutcomeError,
    VendorFaultError,
)
from airflow_provider_bgai.hooks.channel import MAX_RETRY_AFTER
from airflow_provider_bgai.polling import PollPolicy

if TYPE_CHECKING:
    from airflow_provider_bgai.hooks.base import BackgroundHook

log = logging.getLogger(__name__)

ATTEMPTS = 3
"""New calls for one wish with one connection, after answers that cost nothing and may pass."""

# After these a new call to the same connection may do better; after the others only the next connection may.
_AGAIN = (RateLimitError, NeverSentError, VendorFaultError)
_NEXT_VENDOR = (
    *_AGAIN,
    RefusedError,
    AuthenticationError,
    QuotaError,
    ModerationError,
    RetiredError,
    OverBudgetError,
    StoppedError,
)


class Buyer:
    """Buys wishes for one shard or task, with some connections in order of preference. Use it on one event loop.

    :param hooks: the first that takes a request is part of the wish's identity; the others serve if it cannot.
    :param run, owner: who pays; the owner is the same for all tries of a task.
    :param purse: caps what is spent; None: nothing does.
    :param account: the hook of any other connection, for calls of other runs; None where there is none any more.
    :param shards: how many buy side by side for this run.
    """

    def __init__(
        self,
        hooks: Sequence[BackgroundHook],
        ledger: Ledger,
        *,
        run: str,
        owner: str,
        purse: payment.Purse | None = None,
        account: Account = lambda conn_id: None,
        shards: int = 1,
    ) -> None:
        self.hooks, self.ledger, self.storage = hooks, ledger, ledger.storage
        self.run, self.owner, self.purse = run, owner, purse
        self._recording = asyncio.Semaphore(payment.AT_ONCE)
        self._hard_to_read = False
        at_first = max(1, AT_FIRST // max(1, shards))
        self.brakes = {
            hook.conn_id: Brake(self.storage, ledger.layout, hook.conn_id, run, owner, at_first) for hook in hooks
        }
        self.collector = Collector(ledger, hooks, account, run=run, brakes=self.brakes, worker=payment.WORKER)

    @property
    def ended(self) -> Mapping[str, Call]:
        """Calls that were brought to an end, or found ended, by their IDs, as they belong into the books."""
        return self.collector.ended

    async def aclose(self) -> None:
        """Close all clients."""
        await self.collector.aclose()

    # --- what callers do

    async def open(self, wish: Wish) -> Purchase:
        """A wish at work, to :meth:`begin`: :func:`~airflow_provider_bgai.buying.purchase.open_wish`.

        A new one will be paid for, so it has its place at a brake before its source is read: none is read in vain. The
        place is kept until it begins: where many are opened first, one more may wait for ever.

        :raises LaterError: if it can begin in the next pass only.
        :raises StoppedError: if no connection that can serve it is asked.
        """
        if not wish.new:
            return await open_wish(wish, self.hooks, self.storage)
        able = able_to(self.hooks, wish.request)
        entered: Brake | None = await enter_first([self.brakes[hook.conn_id] for hook in able])
        if self._hard_to_read and entered is not None:  # a few that wait for a dead host must not hold up the others
            await entered.leave("free")
            entered = None
        try:
            purchase = await open_wish(wish, self.hooks, self.storage)
        except BaseException as error:
            self._hard_to_read |= isinstance(error, SourceError)
            if entered is not None:
                await entered.leave("free")
            raise
        purchase.entered = entered
        return purchase

    async def begin(self, purchase: Purchase) -> Call:
        """Whatever there is already, else a new call.

        :returns: a landed call, or an answered one to be collected with :meth:`collect`.
        :raises InvalidRequestError: before anything is written or sent.
        :raises UnknownOutcomeError: if it is held.
        :raises UnfaithfulError, GivenUpError: if it is refused: only who asks for it buys it again.
        :raises StoreError: if S3 refuses what was paid for: the task is to be retried, and collects.
        :raises LaterError: if it can begin in the next pass only.
        :raises BgaiError: if no vendor took the request; nothing was paid then.
        """
        purchase.sent = None
        if purchase.wish.new:
            try:
                return await self._buy(purchase)
            except LostRaceError:
                log.debug("Not new after all: %s", purchase.fingerprint)
        waiting = False
        while True:
            call, last = await in_thread(self._look, purchase)
            decision = decide(last, self._asks(purchase, call), await store_time(self.storage))
            try:
                if decision.ends:
                    assert call is not None
                    call = await in_thread(self._give_up, call)
                    self.collector.note(call)
                    if call.state != "unknown":
                        continue
                if decision.action == "buy":
                    purchase.number, purchase.before = decision.number, call.in_vain if call else 0
                    if call is not None and last is not None and last.decided == "buy":
                        note = await in_thread(read_note, self.storage, self.ledger.layout, call)
                        if note is not None:
                            purchase.change(note.seed, note.conn_id)
                    if decision.ends:
                        what = (purchase.wish.sku, call and call.what)
                        log.warning("%s: buying again a picture whose outcome was unknown: %s", *what)
                    return await self._buy(purchase)
                assert last is not None
                if decision.action == "wait":
                    if not waiting:
                        what = (purchase.wish.sku, call and call.what)
                        log.info("%s: another process may be just buying this picture; waiting for it: %s", *what)
                    waiting = True
                    await asyncio.sleep(2.0)
                    continue
                if call is None:
                    raise UnknownOutcomeError(
                        f"Held: the record of its last call, {self._uri(purchase, last.number)}, cannot be read, which "
                        "is no licence to buy. Restore it from a version of the bucket, or ask for it by another epoch"
                    )
                if decision.action == "take":
                    log.info("%s: its answer was delivered before: %s", purchase.wish.sku, call.what)
                    call = await in_thread(self._take, call)
                    if call.state == "answered":
                        return call
                    continue
                if decision.action == "accept":
                    return await in_thread(take_out, self.ledger, call)
                if decision.action in ("reuse", "collect"):
                    return call.accepted()
                purchase.sent = call
                raise refusal(self.ledger, call, decision.action, decision.until)
            except LostRaceError:
                continue

    async def collect(
        self, call: Call, *, timeout: float, source: bytes | None = None, policy: PollPolicy | None = None
    ) -> Call:
        """Bring an answered call to its end: :meth:`Collector.collect`. What failed for free gives its leave back."""
        ended = await self.collector.collect(call, timeout=timeout, source=source, policy=policy)
        if ended.state == "failed" and ended.owner == self.owner:
            await payment.give_back(self.purse, ended.call_id)
        return ended

    def hold_back(self, holding: bool) -> None:
        """Let nothing new begin through a connection that is not proved, while earlier calls are collected."""
        for brake in self.brakes.values():
            brake.holding = holding

    # --- finding

    def _asks(self, purchase: Purchase, call: Call | None) -> Asks:
        """Asked for, a wish is paid in vain once a run: what this run has bought binds its own retries, too."""
        wish = purchase.wish
        in_vain = call is not None and call.run == self.run and call.state in IN_VAIN
        redraws = call is not None and call.number == purchase.redraws
        return Asks(wish.on_unknown_outcome, redraws or (wish.again and not in_vain), purchase.unanswered)

    def _look(self, purchase: Purchase) -> tuple[Call | None, Last | None]:
        name, under_way = purchase.fingerprint, purchase.under_way
        purchase.under_way = 0
        number = under_way or self.ledger.last_number(name)
        if not number:
            return None, None
        try:
            call = self.ledger.read(name, number)
        except ValueError as error:
            log.error("%s", error)
            return None, Last(number, None)
        if call is None or (under_way and call.state != "answered"):
            return self._look(purchase)  # it went between LIST and GET, or on since an earlier pass
        if under_way:
            self.collector.handed_on(call)
        return call, last_of(self.ledger, call, self.storage.now())

    def _give_up(self, call: Call) -> Call:
        """End a call without an answer as unknown; its marker first, which somebody may have removed."""
        self.ledger.mark(call)
        return self.ledger.end(call, "unknown", reason="unknown", error=call.error or "It was never answered")

    def _take(self, call: Call) -> Call:
        self.ledger.mark(call)
        return self.ledger.answered(call, incoming=True)

    def _uri(self, purchase: Purchase, number: int) -> str:
        return self.ledger.layout.call(purchase.fingerprint, number)

    # --- buying

    async def _buy(self, purchase: Purchase) -> Call:
        """Call after call, until one is answered. ``purchase.number`` is the first to be used."""
        problem: BgaiError | None = None
        sku, able, entered = purchase.wish.sku, purchase.able, purchase.entered
        if entered is not None:  # who has a place uses it before waiting for another; those before it are stopped
            able = list(dropwhile(lambda hook: self.brakes[hook.conn_id] is not entered, able))
        for place, hook in enumerate(able, start=1):
            for attempt in range(1, ATTEMPTS + 1):
                try:
                    return await self._call(purchase, hook)
                except _NEXT_VENDOR as error:
                    problem, pause = error, error.retry_after or 0.5 * 2**attempt
                    if not isinstance(error, _AGAIN) or attempt == ATTEMPTS or pause > MAX_RETRY_AFTER:
                        break
                    log.info("%s: %s: %s. Trying again", sku, hook.conn_id, error)
                    await asyncio.sleep(pause)
                except UnknownOutcomeError:
                    if purchase.wish.on_unknown_outcome != "resubmit" or purchase.unanswered:
                        raise
                    purchase.unanswered = purchase.number
                    raise LostRaceError("Its answer is lost: decide again") from None
            if place < len(able):  # what the last one says, the product's own line says
                log.info("%s: %s does not make it, asking the next: %s", sku, hook.conn_id, problem)
        assert problem is not None
        raise problem

    async def _call(self, purchase: Purchase, hook: BackgroundHook) -> Call:
        """One paid call with one connection: to its answer on record or, where the pictures came too, to its end."""
        brake = self.brakes[hook.conn_id]
        if purchase.entered is not brake:
            await brake.enter()
        purchase.entered = None
        paying = payment.Payment(self.ledger, self.purse, purchase, hook, self.run, self.owner, self._recording)
        try:
            generation = await paying.make()
            call = paying.call
            assert call is not None
            if call.state == "unknown":
                raise UnknownOutcomeError(f"Its answer came after it was given up: {call.what}", vendor=call.vendor)
        except BaseException as error:
            doubt = isinstance(error, UnknownOutcomeError | StoreError)
            hook.counts["in_doubt"] += isinstance(error, UnknownOutcomeError)
            if doubt:
                purchase.sent = paying.call
            elif paying.call is not None and paying.call.state in ENDS:
                self.collector.note(paying.call)
            await brake.leave("vain" if doubt else "free", error if isinstance(error, BgaiError) else None)
            raise
        purchase.sent = call
        if call.state != "answered":
            await brake.leave("free")  # another process has collected it already
            return call
        self.collector.entered(call)
        if generation.state == "pending":
            return call
        return await self.collector.collect(call, generation=generation, timeout=0.0, source=purchase.source.data)
