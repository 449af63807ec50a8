"""One payment: the leave, the line to the vendor, the record, the bytes; and the answer, on record.

The order is fixed: source prepared, slot and rate in hand, leave taken, line open, marker put, record created, bytes
out; and the answer persisted before anybody looks at its pixels. So who is ended by an exception at any moment knows
whether a byte went out, and a kill finds a record without a charge only in the short stretch between these last three.
What must be written as a whole (marker and record; incoming and answer) is written in a thread, which a cancelled
task does not stop half-way.
"""

from __future__ import annotations

import asyncio
import logging
import uuid
from dataclasses import dataclass, field
from decimal import Decimal
from typing import TYPE_CHECKING, Any, Protocol

from airflow_provider_bgai.buying.calls import Ledger, LostRaceError, in_thread, store_time
from airflow_provider_bgai.buying.purchase import Purchase, prompt_sha256
from airflow_provider_bgai.buying.record import Call
from airflow_provider_bgai.exceptions import (
    BgaiError,
    NeverSentError,
    OverBudgetError,
    StoreError,
    UnknownOutcomeError,
)
from airflow_provider_bgai.imaging.inspect import Inspection
from airflow_provider_bgai.models import Generation
from airflow_provider_bgai.storage import boottime, store_errors

if TYPE_CHECKING:
    from airflow_provider_bgai.hooks.base import BackgroundHook

log = logging.getLogger(__name__)

MARGIN = 8.0
"""Seconds beyond the vendor's time-out after which a call certainly has no answer any more: :data:`FRESH`, and then the
hook's wait for a place."""
FRESH = 5.0
"""Seconds after its record was begun within which a call must be on its way."""
AT_ONCE = 2
"""Calls of a buyer that are being recorded at once: a kill leaves all of these in doubt, and none was charged. Each
is at it for two requests to S3, so this holds up nobody who pays for fewer than some tens of pictures a second."""
WORKER = uuid.uuid4().hex[:12]


class Purse(Protocol):
    """Where the leave to spend comes from (:class:`~airflow_provider_bgai.buying.budget.Budget`)."""

    async def take(self, call_id: str, pictures: int, price: Decimal | None) -> bool:
        """Whether so much may be spent on a call; asked before every paid call."""

    async def give_back(self, call_id: str) -> None:
        """What was taken for a call was not spent."""


async def give_back(purse: Purse | None, call_id: str) -> None:
    """Give the leave of a call back, if there is a purse and it takes it."""
    if purse is not None:
        try:
            await purse.give_back(call_id)
        except store_errors(BgaiError) as error:
            log.warning("The leave of call %s stays taken, so the budget counts too much: %s", call_id, error)


@dataclass
class Payment:
    """One paid call of a purchase with one connection, made once.

    :param run, owner: who pays.
    :param purse: caps what is spent; None: nothing does.
    :param recording: so many may be recorded at once.
    :ivar call: its record, as it stands; None as long as no byte may have gone out.
    """

    ledger: Ledger
    purse: Purse | None
    purchase: Purchase
    hook: BackgroundHook
    run: str
    owner: str
    recording: asyncio.Semaphore
    call: Call | None = None
    call_id: str = field(default_factory=lambda: uuid.uuid4().hex)
    _begun: bool = False  # to be written down

    async def make(self) -> Generation:
        """Pay, and keep what is answered.

        :returns: the answer; ``call`` is its record, ``unknown`` if somebody had given it up before.
        :raises OverBudgetError: if there is no leave for it.
        :raises LostRaceError: if its number is another call's.
        :raises UnknownOutcomeError: if nobody can know whether it was charged.
        :raises StoreError: if S3 refuses the answer.
        :raises BgaiError: what costs nothing.
        """
        outgoing, inspection = await self.purchase.outgoing(self.hook)
        async with self.hook.turn():
            await self._take_leave()
            generation = await self._send(outgoing, inspection)
        assert self.call is not None  # or no byte would have gone out
        self.call = await self._keep(self.call, generation)
        return generation

    async def _take_leave(self) -> None:
        count = self.purchase.wish.request.count
        if self.purse is not None and not await self.purse.take(self.call_id, count, self.hook.cost(count)):
            raise OverBudgetError(f"The budget has no room for {count} picture(s) by {self.hook.conn_id}")

    async def _send(self, outgoing: Any, inspection: Inspection) -> Generation:
        """Let the bytes out, once. What the vendor documents as free ends the call; all else leaves it ``sent``."""

        async def record() -> None:
            async with self.recording:
                self.call = await self._record(inspection)

        try:
            return await self.hook.send(outgoing, record)
        except BaseException as error:
            if not self._begun:
                await give_back(self.purse, self.call_id)
            if self.call is None or not isinstance(error, Exception):
                raise
            if isinstance(error, BgaiError) and error.paid == "no":
                await self._failed(self.call, error)
                raise
            if not isinstance(error, BgaiError):
                log.exception("%s: something unexpected after it was sent", self.call.what)
            raise self._doubt(self.call, error) from error

    async def _record(self, inspection: Inspection) -> Call:
        """Create the record: from here on the call may be paid."""
        ledger, purchase, hook = self.ledger, self.purchase, self.hook
        wish, request = purchase.wish, purchase.wish.request
        now = await store_time(ledger.storage)
        answer_by = now + hook.settings.timeout + MARGIN
        call = Call(
            call_id=self.call_id,
            fingerprint=purchase.fingerprint,
            number=purchase.number,
            run=self.run,
            owner=self.owner,
            worker=WORKER,
            conn_id=hook.conn_id,
            vendor=hook.vendor,
            model=hook.model(request),
            seed=request.seed,
            pictures=request.count,
            price=hook.cost(request.count),
            currency=hook.settings.currency,
            sku=wish.sku,
            category=wish.category,
            sent_at=now,
            answer_by=answer_by,
            held_until=None if wish.on_unknown_outcome == "fail" else answer_by + wish.hold_for,
            before=purchase.before,
            source=purchase.source.shown,
            source_sha256=purchase.source.sha256,
            prompt_sha256=prompt_sha256(request.prompt),
            inspection=inspection,
        )
        self._begun, began = True, boottime()
        try:
            opened = await in_thread(ledger.open, call)
        except LostRaceError as lost:
            if lost.another:
                await give_back(self.purse, self.call_id)
            raise
        except asyncio.CancelledError:
            await self._withdraw(call)
            raise
        except store_errors() as error:
            await self._withdraw(call)
            raise NeverSentError(f"S3 takes no record of the call, so it was not made: {error}") from error
        if (took := boottime() - began) > FRESH:
            # This process was stopped in between: the time the record gives the call may be over.
            await self._withdraw(call)
            raise NeverSentError(f"Stopped for {took:.0f} s before {call.what} was sent; it was not sent")
        return opened

    async def _withdraw(self, call: Call) -> None:
        state = await in_thread(self.ledger.withdraw, call)
        # No number is left out, and none passed by that another process may hold: the next try asks for this one.
        self.purchase.number += state == "failed"
        if state != "sent":
            await give_back(self.purse, call.call_id)

    async def _failed(self, call: Call, error: BgaiError) -> None:
        if await in_thread(self._fail, call, error):
            self.purchase.number += 1
            await give_back(self.purse, call.call_id)

    def _fail(self, call: Call, error: BgaiError) -> bool:
        """Write down that a call cost nothing, if S3 takes it. If not, it stays ``sent``: held without need."""
        try:
            self.call = self.ledger.end(call, "failed", reason=error.reason, error=str(error))
        except StoreError as problem:
            log.warning("%s", problem)
            return False
        return self.call.state == "failed"

    def _doubt(self, call: Call, error: Exception) -> Exception:
        return UnknownOutcomeError(
            f"{error}. {call.what} is kept, and may or may not have been charged. Look at the vendor's bill; to let it "
            f"be bought again: bgai-ledger release {self.ledger.layout.root} {call.fingerprint}",
            vendor=call.vendor,
        )

    async def _keep(self, call: Call, generation: Generation) -> Call:
        """Persist an answer, before anybody looks at its pictures."""
        known: dict[str, Any] = {
            "task_id": generation.task_id,
            "seed": generation.seed or call.seed,
            "model": generation.model or call.model,
            "warnings": generation.warnings,
            "placement": generation.placement,
        }
        if generation.task_id:
            log.info("%s: %s makes it as task %s", call.sku, call.conn_id, generation.task_id)
        elif generation.answer is not None:
            known["incoming"] = True
        else:
            known["links"] = tuple(image for image in generation.images if isinstance(image, str))

        def keep() -> Call:
            if known.get("incoming"):
                body, uri = generation.answer, self.ledger.layout.incoming(call.call_id)
                assert body is not None
                self.ledger.storage.insist(lambda: self.ledger.storage.put(uri, body), f"the bytes of {call.what}")
            return self.ledger.answered(call, **known)

        return await in_thread(keep)
