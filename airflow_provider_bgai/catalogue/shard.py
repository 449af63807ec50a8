"""One shard of a nightly run: many wanted pictures on one event loop, each bought once, landed or reported.

Every picture walks its own way (read, find or buy, wait, fetch, verify, land), many at a time; rate and slots of a
connection are the hook's business. Nothing here keeps state: whatever happens, running the same shard again collects
what is stored and goes on.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from functools import partial
from typing import TypeVar

from airflow_provider_bgai.buying.brake import LaterError
from airflow_provider_bgai.buying.buyer import ATTEMPTS, Buyer
from airflow_provider_bgai.buying.calls import in_thread
from airflow_provider_bgai.buying.decision import OnUnknownOutcome
from airflow_provider_bgai.buying.purchase import HOLD_FOR, Purchase, Wish
from airflow_provider_bgai.buying.record import Call, error_of
from airflow_provider_bgai.catalogue.finishing import Finishing, Sign, finish
from airflow_provider_bgai.catalogue.report.costs import CostSum
from airflow_provider_bgai.catalogue.report.story import Tally, of_progress, of_result
from airflow_provider_bgai.catalogue.results import Result, Wanted, error_results, landed_results
from airflow_provider_bgai.exceptions import (
    AuthenticationError,
    BgaiError,
    InvalidRequestError,
    PollError,
    SourceError,
    StoppedError,
    StoreError,
    UnfaithfulError,
    UnknownOutcomeError,
    VendorFaultError,
)
from airflow_provider_bgai.imaging.inspect import Inspection
from airflow_provider_bgai.imaging.workers import PIXELS
from airflow_provider_bgai.lines import Packed
from airflow_provider_bgai.polling import PollPolicy
from airflow_provider_bgai.sources import Source
from airflow_provider_bgai.storage import THREADS, store_errors

log = logging.getLogger(__name__)

TELL_EVERY = 10.0
"""Seconds between two lines that say how far a shard is."""

E = TypeVar("E", bound=BgaiError)
Begun = tuple[str, int]
"""Fingerprint and number of a call under way."""


@dataclass(frozen=True)
class Shard:
    """How a shard is generated.

    :param policy: how often to ask for a task.
    :param in_flight: how many pictures are under way at once, from their source to their landing. As many that have
        landed may have their files made meanwhile: no vendor waits for that, and the next picture need not, either.
    :param finishing: what is done to the pictures, by category; ``""`` for those without an entry.
    :param sign: signs finished files, where that is asked for.
    :param on_unknown_outcome, hold_for: see :class:`~airflow_provider_bgai.buying.purchase.Wish`.
    """

    buyer: Buyer
    in_flight: int = 64
    policy: PollPolicy = field(default_factory=PollPolicy)
    finishing: Mapping[str, Finishing] = field(default_factory=dict)
    sign: Sign | None = None
    on_unknown_outcome: OnUnknownOutcome = "hold"
    hold_for: float = HOLD_FOR

    def finishing_of(self, item: Wanted) -> Finishing:
        """What is done to a picture."""
        return self.finishing.get(item.category) or self.finishing.get("") or Finishing()

    def wish(self, item: Wanted) -> Wish:
        """What is to be bought. :raises InvalidRequestError: for a request no vendor could accept."""
        return Wish(
            request=item.background_request(),
            sku=", ".join(item.skus[:3]),
            category=item.category,
            new=item.status == "new",
            again=item.again,
            on_unknown_outcome=self.on_unknown_outcome,
            hold_for=self.hold_for,
            inspection=Inspection(thresholds=self.finishing_of(item).fidelity),
        )


@dataclass
class Progress:
    """What a pass over a shard came to, by the places of its items.

    :ivar results: of what has ended; in this pass and those before it.
    :ivar tally: of the results; ``costs``: of the calls that were seen to have ended, in this pass alone.
    :ivar pending: calls that are paid and not collected yet, each with the problem it had last.
    :ivar doubts: calls of this run that were not answered.
    :ivar later: those that can begin in the next pass only.
    :ivar troubles: what S3 refuses although it is paid for: the task must be retried.
    """

    results: Packed[int, list[Result]] = field(default_factory=lambda: Packed(list[Result]))
    tally: Tally = field(default_factory=Tally)
    costs: CostSum = field(default_factory=lambda: CostSum(()))
    pending: dict[int, tuple[Call, BgaiError | None]] = field(default_factory=dict)
    doubts: dict[int, Call] = field(default_factory=dict)
    later: list[int] = field(default_factory=list)
    troubles: list[StoreError] = field(default_factory=list)

    def end(self, place: int, results: list[Result]) -> None:
        """Note what became of a picture."""
        self.results[place] = results
        self.tally.add(results)

    @property
    def landed(self) -> Packed[int, list[Result]]:
        """The results with pictures, for the next pass."""
        return self.results.of(place for place, found in self.results.items() if all(it.images for it in found))

    @property
    def waiting(self) -> list[Call]:
        """The vendors' tasks that waiting helps. With a wrong key none does: they are kept, and reported so."""
        pending = self.pending.values()
        return [call for call, problem in pending if call.task_id and not isinstance(problem, AuthenticationError)]

    @property
    def perhaps(self) -> list[Call]:
        """The calls that have not ended."""
        return [*(call for call, _ in self.pending.values()), *self.doubts.values()]

    @property
    def begun(self) -> dict[int, Begun]:
        """The calls under way, for the next pass."""
        return {place: (call.fingerprint, call.number) for place, (call, _) in self.pending.items()}


async def generate(
    shard: Shard,
    wanted: Sequence[Wanted] | Packed[int, Wanted],
    *,
    patience: float | None,
    resumed: bool = False,
    begun: Mapping[int, Begun] | None = None,
    later: Collection[int] = (),
    landed: Packed[int, list[Result]] | None = None,
    waiting: Collection[str] = (),
) -> Progress:
    """Walk every wanted picture as far as it goes.

    :param wanted: the pictures, by their places.
    :param patience: seconds to wait for each task; 0 to ask once for those of earlier passes; None not to ask at all,
        just submit (a deferred task waits in the triggerer).
    :param resumed: earlier passes have left calls under way: they are collected before anything new begins through
        a connection that is not proved.
    :param begun, later, landed: of the last pass, where it is known: what need not be looked for.
    :param waiting: the vendor's tasks that were pending a moment ago: what need not be asked for.
    """
    asyncio.get_running_loop().set_default_executor(ThreadPoolExecutor(THREADS, "bgai"))
    slots, finishing = asyncio.Semaphore(shard.in_flight), asyncio.Semaphore(shard.in_flight)
    progress = Progress(later=list(later))
    if landed is not None:
        progress.results = landed
        for results in landed.values():
            progress.tally.add(results)
    tell = partial(_tell, shard, progress, len(wanted), time.monotonic(), len(progress.results))
    telling = asyncio.create_task(_now_and_then(tell))
    under_way = begun or {}

    async def walk(place: int, *, resumed: bool) -> None:
        alike = shard, patience, progress, resumed, waiting, slots, finishing
        await _Walk(wanted[place], place, *alike, under_way.get(place)).go()

    async def all_of(places: Sequence[int], *, resumed: bool = False) -> None:
        async with asyncio.TaskGroup() as group:
            for place in places:
                await slots.acquire()  # here, because tasks that only wait for theirs take memory by the thousand
                group.create_task(walk(place, resumed=resumed))

    shard.buyer.hold_back(resumed)
    first = [place for place in range(len(wanted)) if place not in later and place not in progress.results]
    try:
        await all_of(first, resumed=resumed)
        while progress.later:
            # What was held back may begin once the earlier calls are collected, or once something has landed.
            places, progress.later = progress.later, []
            shard.buyer.hold_back(False)
            await all_of(places)
            if len(progress.later) == len(places):
                break
    finally:
        telling.cancel()
    if len(progress.results) < len(wanted):
        tell()  # the pass ends here, and whoever waits for the rest knows what it came to
    return progress


def _bare(error: E) -> E:
    """Without its traceback, by which it would keep the source's bytes for as long as the shard runs."""
    error.__cause__ = error.__context__ = None
    return error.with_traceback(None)


async def _now_and_then(tell: Callable[[], None]) -> None:
    while True:
        await asyncio.sleep(TELL_EVERY)
        tell()


def _tell(shard: Shard, progress: Progress, total: int, began: float, before: int) -> None:
    """Say how far the shard is."""
    ended, calls = len(progress.results), shard.buyer.ended
    each = (time.monotonic() - began) / (ended - before) if ended > before else None
    for call_id in calls:
        if call_id not in progress.costs:
            progress.costs.add(calls[call_id])
    costs = progress.costs.so_far(progress.perhaps).total
    log.info("%s", of_progress(progress.tally, left=total - ended, each=each, costs=costs))


def give_up(wanted: Sequence[Wanted] | Packed[int, Wanted], progress: Progress, run: str) -> Iterator[Result]:
    """All results in the shard's order; what is still pending is kept for the next run, and reported so."""
    for place in range(len(wanted)):
        item = wanted[place]
        if place in progress.pending:
            call, problem = progress.pending[place]
            why = problem or PollError("it did not end in time")
            message = f"{call.what} is kept, and the next run collects it unpaid: {why}"
            yield from error_results(item, PollError(message), call=call, run=run)
        elif place in progress.results:
            yield from progress.results[place]
        else:
            later = StoppedError(
                "Not begun: until a picture has landed through a connection, few are under way at once"
            )
            yield from error_results(item, later, call=None, run=run)


@dataclass
class _Walk:
    """One wanted picture on its way. Who starts it has taken a slot for it."""

    item: Wanted
    place: int
    shard: Shard
    patience: float | None
    progress: Progress
    resumed: bool
    waiting: Collection[str]
    slots: asyncio.Semaphore
    finishing: asyncio.Semaphore
    begun: Begun | None = None
    call: Call | None = None
    source: Source | None = None

    async def go(self) -> None:
        """Walk, and note in the progress where that led. One product never stops the others."""
        purchase: Purchase | None = None
        try:
            try:
                wish = self.shard.wish(self.item)
                if self.resumed:
                    wish = replace(wish, new=False)  # an earlier pass may have bought it: look first
                purchase = await self._open(wish)
                self.source = purchase.source
                if self.begun is not None and self.begun[0] == purchase.fingerprint:
                    purchase.under_way = self.begun[1]
                call = await self._walk(purchase)
                await self.finishing.acquire()
            finally:
                self.slots.release()
            try:
                self._end(await self._with_files(call))
            finally:
                self.finishing.release()
        except LaterError:
            self.progress.later.append(self.place)
        except StoreError as error:
            self.progress.troubles.append(_bare(error))
            self._report(error)
        except (PollError, AuthenticationError) as error:
            # A task that is paid stays collectable, whatever asking for it says.
            if self.call is not None and self.call.state == "answered":
                self.progress.pending[self.place] = (self.call, _bare(error))
            else:
                self._report(error)
        except BgaiError as error:
            self._report(error)
        except Exception as error:
            log.exception("%s: not generated", self.item.skus[0])
            await self._unexpected(purchase, error)

    async def _open(self, wish: Wish) -> Purchase:
        """Read the sources, a few times: a moment without S3 must not cost all the products of a shard their night."""
        for attempt in range(1, ATTEMPTS):
            try:
                return await self.shard.buyer.open(wish)
            except store_errors(SourceError) as error:
                log.warning("%s: %s. Trying again", self.item.skus[0], error)
                await asyncio.sleep(2.0**attempt)
        return await self.shard.buyer.open(wish)

    async def _walk(self, purchase: Purchase) -> Call:
        buyer, shard = self.shard.buyer, self.shard
        faults = 0
        while True:
            try:
                self.call = await self._begin(purchase)
                if self.call.state == "answered":
                    still = self.call.task_id in self.waiting
                    new = self.call is purchase.sent  # it was submitted a moment ago, so it is pending
                    if self.call.task_id and (still or self.patience is None or (new and not self.patience)):
                        await buyer.collector.park(self.call, resumed=still)
                        raise PollError("its task waits in the triggerer")
                    self.call = await buyer.collect(
                        self.call, timeout=self.patience or 0.0, source=purchase.source.data, policy=shard.policy
                    )
                if (error := error_of(self.call)) is not None:
                    raise error
                return self.call
            except VendorFaultError as error:
                faults += 1
                if faults == ATTEMPTS:
                    raise
                log.info("%s: %s; trying again", self.item.skus[0], error)
            except store_errors() as error:
                faults += 1
                if faults == ATTEMPTS:
                    raise
                log.warning("%s: S3 failed: %s. Going on once it is back", self.item.skus[0], error)
                await self._last_call(purchase)
            except UnfaithfulError as error:
                if not await self._again(purchase):
                    raise
                log.warning("%s: %s. Buying it again", self.item.skus[0], error)
            purchase.wish = replace(purchase.wish, new=False)

    async def _begin(self, purchase: Purchase) -> Call:
        try:
            return await self.shard.buyer.begin(purchase)
        except BgaiError:
            self.call = purchase.sent or self.call
            raise

    async def _again(self, purchase: Purchase) -> bool:
        """Whether a picture that went to quarantine is bought again: with another seed, or from another connection.

        Counted by the calls of this run, so that a task that is killed and retried does not start anew.
        """
        buyer, request = self.shard.buyer, self.item.background_request()
        calls = await in_thread(buyer.ledger.all, purchase.fingerprint)
        redrawn = [call.conn_id for call in calls if call.run == buyer.run and call.state == "quarantined"]
        if not 0 < len(redrawn) <= self.shard.finishing_of(self.item).retries:
            return False
        if request.seed is not None:
            request = replace(request, seed=request.seed + len(redrawn))
        else:
            purchase.able = sorted(purchase.able, key=lambda hook: hook.conn_id in redrawn)
        purchase.wish, purchase.redraws = replace(purchase.wish, request=request), calls[-1].number
        return True

    def _end(self, results: list[Result]) -> None:
        self.progress.end(self.place, results)
        for result in results:
            if result.outcome != "reused":
                log.log(logging.INFO if result.outcome == "bought" else logging.WARNING, "%s", of_result(result))

    def _report(self, error: BgaiError) -> None:
        run = self.shard.buyer.run
        if self.call is not None and self.call.run == run and self.call.state == "sent":
            self.progress.doubts[self.place] = self.call
        self._end(error_results(self.item, error, call=self.call, run=run, source=self.source))

    async def _unexpected(self, purchase: Purchase | None, error: Exception) -> None:
        """Something nobody foresaw: what it may have cost stands in the wish's last call."""
        buyer, words = self.shard.buyer, f"{type(error).__name__}: {error}"
        try:
            self.call = await self._last_call(purchase) if purchase else None
        except (StoreError, ValueError) as problem:
            words += f"; and its last call cannot be read: {problem}"
            self._report(UnknownOutcomeError(words))
            return
        paid = self.call is not None and self.call.run == buyer.run and self.call.state not in ("failed", "landed")
        self._report(UnknownOutcomeError(words) if paid else BgaiError(words))

    async def _last_call(self, purchase: Purchase) -> Call | None:
        """The wish's last call, once S3 can be read. :raises StoreError: if it cannot, for minutes."""
        ledger, name = self.shard.buyer.ledger, purchase.fingerprint
        return await in_thread(lambda: ledger.storage.insist(lambda: ledger.last(name), f"the last call of {name}"))

    async def _with_files(self, call: Call) -> list[Result]:
        """The results of a picture, with the files to be published of it."""
        buyer, finishing = self.shard.buyer, self.shard.finishing_of(self.item)
        results = landed_results(self.item, call, buyer.run, self.source)
        assert self.source is not None
        known: dict[str, object] = {"finishing": finishing.digest}
        try:
            source = self.source.data if finishing.needs_source(call.images) else None
            make = partial(
                finish,
                buyer.storage,
                buyer.ledger.layout,
                call,
                finishing,
                source=source,
                prompt=self.item.request.get("prompt"),
                sign=self.shard.sign,
            )
            files, problems = await asyncio.get_running_loop().run_in_executor(PIXELS, make)
        except store_errors(InvalidRequestError, OSError, ValueError) as error:
            # It is paid for, and stands in the results with its price. The next plan has its files made.
            log.exception("%s: its files were not made", self.item.skus[0])
            files, problems, known = (), (f"its files were not made: {type(error).__name__}: {error}",), {}
        update = {**known, "finished": files}
        return [it.model_copy(update={**update, "warnings": (*it.warnings, *problems)}) for it in results]
