"""One wanted picture, from the wish to the landed record, paid for once.

:func:`begin` finds what is there already (landed, or a task somebody paid for) and only then claims and
submits. :func:`finish` collects a task and lands it. Between the two a task may be killed, retried or
deferred for hours: the claim in S3 holds all that is needed.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from decimal import Decimal
from typing import Literal, Protocol

from airflow_provider_bgai.catalogue.landing import (
    PIXELS,
    Expected,
    Inspection,
    asks_for_plain,
    check_destination,
    destination_root,
    identify,
    land,
    name_output,
)
from airflow_provider_bgai.catalogue.ledger import (
    Claim,
    ClaimState,
    Landed,
    Ledger,
    LostRaceError,
    Output,
    fingerprint,
    ledger_of,
    prompt_sha256,
)
from airflow_provider_bgai.exceptions import (
    BY_REASON,
    AuthenticationError,
    BgaiError,
    InvalidRequestError,
    ModerationError,
    OverBudgetError,
    PollError,
    QuotaError,
    RateLimitError,
    RefusedError,
    SourceError,
    UnfaithfulError,
    UnknownOutcomeError,
    VendorFaultError,
)
from airflow_provider_bgai.hooks.base import MAX_RETRY_AFTER, SUBMIT_ATTEMPTS, BackgroundHook
from airflow_provider_bgai.models import BackgroundRequest, Generation
from airflow_provider_bgai.polling import PollPolicy
from airflow_provider_bgai.storage import Storage

log = logging.getLogger(__name__)

FAULTS_IN_A_ROW = 5
BREAK_SECONDS = 60.0

OnUnknownOutcome = Literal["hold", "resubmit", "fail"]

# After these the next connection of the list is asked: this one took no money and will not serve.
_NEXT_VENDOR = (
    RefusedError,
    AuthenticationError,
    QuotaError,
    ModerationError,
    RateLimitError,
    VendorFaultError,
)


@dataclass
class Breaker:
    """Whether a connection is worth asking: not for the rest of the run once its account refuses, and not for
    a minute after several faults in a row."""

    faults: int = 0
    resumes_at: float = 0.0

    def allows(self) -> bool:
        return time.monotonic() >= self.resumes_at

    def note(self, error: BgaiError | None) -> None:
        """What the connection answered last; None for a success."""
        if isinstance(error, QuotaError | AuthenticationError):
            self.resumes_at = float("inf")
        elif isinstance(error, VendorFaultError):
            self.faults += 1
            if self.faults >= FAULTS_IN_A_ROW:
                self.resumes_at, self.faults = time.monotonic() + BREAK_SECONDS, 0
        elif error is None:
            self.faults = 0


@dataclass(frozen=True)
class Wish:
    """A wanted picture and how far one may go for it.

    :param owner: names the task instance, equal for all its tries: a claim of one's own that never got a
        task ID means that an earlier try died in the middle of the paid call.
    :param destination: ``s3://…`` with ``{index}`` and ``{ext}``.
    :param epoch: any text; another one buys the same picture anew.
    :param root: where the ledger lives; None for the destination's folder.
    :param fingerprint: the picture's name, where a plan has worked it out before.
    :param new: nothing is known of this picture: claim it first, and look what there is only if that fails.
    :param again: buy it again although the last picture of it went to quarantine.
    :param avoid: connections to ask last, because their pictures did not show the product.
    :param on_unknown_outcome: ``"hold"``: fail, and let nobody buy it before ``hold_for`` seconds have
        passed; ``"fail"``: fail, and never buy it again by itself; ``"resubmit"``: buy again at once, which
        **may pay twice** (counted in the records).
    :param inspection: how the pictures are looked at, where the vendor answers at once.
    """

    request: BackgroundRequest
    destination: str
    owner: str
    epoch: str | None = None
    root: str | None = None
    fingerprint: str | None = None
    new: bool = False
    again: bool = False
    avoid: frozenset[str] = frozenset()
    on_unknown_outcome: OnUnknownOutcome = "hold"
    hold_for: float = 24 * 3600.0
    inspection: Inspection = Inspection()


class Purse(Protocol):
    """Where the leave to spend comes from (:class:`~airflow_provider_bgai.catalogue.budget.Budget`)."""

    async def take(self, fingerprint: str, pictures: int, price: Decimal | None) -> bool:
        """Whether so much may be spent on a picture; asked before every paid call."""

    async def give_back(self, fingerprint: str) -> None:
        """What was taken for a picture was not spent."""


@dataclass
class Buyer:
    """Buys wishes with some connections, in order of preference, into one S3.

    :param hooks: the first is preferred and part of the picture's identity; the others serve if it cannot.
    :param purse: caps what is spent; None: nothing does.
    """

    hooks: Sequence[BackgroundHook]
    storage: Storage
    purse: Purse | None = None
    by_connection: dict[str, BackgroundHook] = field(init=False)
    breakers: dict[str, Breaker] = field(init=False)
    gates: dict[str, asyncio.Semaphore] = field(init=False)

    def __post_init__(self) -> None:
        for hook in self.hooks:
            hook.storage = self.storage  # whose connection has been looked up
        self.by_connection = {hook.conn_id: hook for hook in self.hooks}
        self.breakers = {hook.conn_id: Breaker() for hook in self.hooks}
        self.gates = {hook.conn_id: asyncio.Semaphore(hook.settings.max_concurrency) for hook in self.hooks}

    async def begin(self, wish: Wish) -> Landed | Claim:
        """Whatever there is already, else claim, submit, and land what a synchronous vendor answers.

        :returns: the landed record, or a claim to be collected with :meth:`finish`.
        :raises InvalidRequestError: before anything is claimed or sent.
        :raises UnknownOutcomeError: if the picture is held.
        :raises UnfaithfulError: if its pictures do not show the product, now or the last time.
        :raises BgaiError: if no vendor took the request; nothing was paid then.
        """
        check_destination(wish.destination, wish.request.count)
        able = sorted(self._able(wish.request), key=lambda hook: hook.conn_id in wish.avoid)
        ledger = Ledger(self.storage, wish.root or destination_root(wish.destination))
        name = wish.fingerprint or await self._fingerprint(wish)
        if wish.new:
            try:
                return await self._buy(ledger, wish, able, name, None)
            except LostRaceError:
                log.debug("Not new after all: %s", name)
        while True:
            landed = await asyncio.to_thread(ledger.read_landed, name)
            claim = await asyncio.to_thread(ledger.read_claim, name)
            if self.purse is not None and claim is not None and claim.owner != wish.owner:
                # Leave taken here for a picture that another run went on to buy is not needed any more.
                await self.purse.give_back(_purpose(claim))
            try:
                if landed is not None and claim is not None and landed.landed_at >= claim.claimed_at:
                    if await self._in_place(landed):
                        log.info("Landed before, nothing to buy: %s", ledger.landed_uri(name))
                        return await self.placed(landed, wish.destination)
                    if claim.state in ("claimed", "submitted", "held"):
                        # Who landed it has reported it; the run that wrote the claim need not be the same.
                        claim = await asyncio.to_thread(ledger.move, claim, "landed", **_costs(landed))
                elif claim is not None and claim.state == "submitted":
                    log.info("Collecting what was submitted to %s before: task %s", claim.vendor, claim.task_id)
                    return claim
                elif claim is not None and claim.state == "claimed":
                    if claim.owner != wish.owner and time.time() < claim.expires_at:
                        log.info("Another run (%s) is just buying this picture; waiting for it", claim.owner)
                        await asyncio.sleep(2.0)
                        continue
                    claim = await self._hold(ledger, claim, wish, "a run died in the middle of the paid call")
                if claim is not None and claim.state == "held":
                    self._check_released(claim, wish)
                if claim is not None and claim.state == "quarantined" and not wish.again:
                    raise UnfaithfulError(
                        f"{claim.error}. It is not bought again by itself: ask for it (only='failed', its SKU), or for "
                        f"another seed or epoch, or delete {claim.uri}",
                        vendor=claim.vendor,
                        task_id=claim.task_id,
                        images=claim.quarantined,
                        thumbnails=claim.thumbnails,
                    )
                return await self._buy(ledger, wish, able, name, claim)
            except LostRaceError:
                continue

    async def finish(
        self,
        claim: Claim,
        *,
        timeout: float,
        owner: str | None = None,
        policy: PollPolicy | None = None,
        inspection: Inspection = Inspection(),  # noqa: B008 - frozen
    ) -> Landed:
        """Wait for what a claim has submitted, land its pictures, write the landed record.

        :param timeout: seconds to wait for the vendor; 0 to ask once.
        :param owner: who ends it, and reports what it cost; None for the claim's owner.
        :param policy: how often to ask.
        :param inspection: how the pictures are looked at.
        :raises PollError: if the task has not ended, or cannot be fetched for now: collect it later.
        :raises LostError: if it was paid and cannot be had any more.
        :raises UnfaithfulError: if its pictures do not show the product.
        :raises BgaiError: if the task failed; nothing was paid then.
        """
        if claim.state != "submitted":
            error = BY_REASON.get(claim.reason or "", BgaiError)
            raise error(f"Nothing to collect, the claim is {claim.state}: {claim.error}", vendor=claim.vendor)
        ledger = ledger_of(self.storage, claim.uri)
        hook = self.by_connection[claim.conn_id]
        known = Generation(
            vendor=claim.vendor,
            state="pending" if claim.task_id else "succeeded",
            task_id=claim.task_id,
            images=claim.links,
            seed=claim.seed,
            model=claim.model,
        )
        generation = known
        if claim.task_id:
            generation = await hook.wait_for(known, timeout=timeout, policy=policy, submitted_at=claim.submitted_at)
        return await self._settle(ledger, claim, hook, generation, owner or claim.owner, inspection)

    async def _buy(
        self,
        ledger: Ledger,
        wish: Wish,
        able: Sequence[BackgroundHook],
        name: str,
        before: Claim | None,
        *,
        may_resubmit: bool = True,
    ) -> Landed | Claim:
        """Claim and submit with the first hook that is served. ``before`` is the claim to take over from."""
        problem: BgaiError = VendorFaultError(
            f"No connection is asked for now ({', '.join(hook.conn_id for hook in able)}): "
            "it failed several times in a row, or its account refused"
        )
        for place, hook in enumerate(able):
            breaker = self.breakers[hook.conn_id]
            if not breaker.allows():
                continue
            wanted = self._claim(wish, hook, name, before)
            if self.purse is not None and not await self.purse.take(_purpose(wanted), wanted.images, wanted.price):
                problem = OverBudgetError(f"The budget has no room for {wanted.images} picture(s) by {hook.conn_id}")
                continue
            try:
                # A claim that queued for a slot of the connection could expire before its call is sent.
                async with self.gates[hook.conn_id]:
                    wanted = self._claim(wish, hook, name, before)
                    claim = await asyncio.to_thread(ledger.claim, wanted, before)
                    request = await self._sendable(hook, wish.request)
                    generation = await hook.submit(request)
                breaker.note(None)
            except UnknownOutcomeError as error:
                before = await self._hold(ledger, claim, wish, str(error))
                if wish.on_unknown_outcome != "resubmit" or not may_resubmit:
                    raise
                log.warning("%s. Buying it again, as on_unknown_outcome='resubmit' says", error)
                return await self._buy(ledger, wish, able[place:], name, before, may_resubmit=False)
            except BgaiError as error:
                before = await self._record(ledger, claim, error, wish.owner)
                breaker.note(error)
                if not isinstance(error, _NEXT_VENDOR):
                    raise
                problem = error
                log.warning("%s did not take the request (%s): %s", hook.conn_id, error.reason, error)
                continue
            if generation.task_id is not None or all(isinstance(image, str) for image in generation.images):
                claim = await self._keep(ledger, claim, generation)
                log.info("Submitted to %s: task %s", claim.vendor, claim.task_id)
            if generation.state == "pending":
                return claim
            return await self._settle(ledger, claim, hook, generation, wish.owner, wish.inspection)
        raise problem

    async def _sendable(self, hook: BackgroundHook, request: BackgroundRequest) -> BackgroundRequest:
        """The request with its image as the vendor takes it.

        :raises InvalidRequestError: if that cannot be made of it.
        """
        from airflow_provider_bgai.imaging.prepare import RefusedSourceError, prepare
        from airflow_provider_bgai.imaging.verify import NotAPictureError

        data = await hook.load_image("image", request.image)
        shown = request.image.partition("?")[0] if isinstance(request.image, str) else f"{len(data)} bytes"
        try:
            prepared = await asyncio.get_running_loop().run_in_executor(PIXELS, prepare, data, hook.source)
        except (RefusedSourceError, NotAPictureError) as error:
            raise InvalidRequestError(f"image={shown!r}: {error}", vendor=hook.vendor) from None
        for warning in prepared.warnings:
            log.warning("image=%r: %s", shown, warning)
        by_link = isinstance(request.image, str) and (
            hook.takes_links_only or request.image.startswith(("http://", "https://"))
        )
        if not prepared.notes and by_link:
            return request
        if prepared.notes:
            log.info("image=%r for %s: %s", shown, hook.conn_id, "; ".join(prepared.notes))
        return replace(request, image=prepared.data)

    async def _expected(self, hook: BackgroundHook, claim: Claim, inspection: Inspection) -> Expected | None:
        """What the pictures of a claim are compared with, if they are to be and can be."""
        if inspection.thresholds is None or claim.source is None:
            return None
        try:
            source = await hook.load_image("image", claim.source)
        except (InvalidRequestError, SourceError) as error:
            log.warning("%s task %s is not compared with its source: %s", claim.vendor, claim.task_id, error)
            return None
        return Expected(
            source,
            hook.source,
            inspection.thresholds,
            plain=claim.plain,
            keeps_frame=claim.keeps_frame,
            enforce=inspection.enforce,
        )

    async def _keep(self, ledger: Ledger, claim: Claim, generation: Generation) -> Claim:
        """Write down what was just paid for."""
        answer = {
            "task_id": generation.task_id,
            "links": () if generation.task_id else generation.images,
            "submitted_at": time.time(),
            "seed": generation.seed,
            "model": generation.model,
            "reason": None,
            "error": None,
        }
        try:
            return await asyncio.to_thread(ledger.move, claim, "submitted", **answer)
        except LostRaceError:
            found = await asyncio.to_thread(ledger.read_claim, claim.fingerprint)
            if found is None or found.state != "held" or found.claimed_at != claim.claimed_at:
                log.error(
                    "%s task %s is paid, but another run took the claim over: %s",
                    claim.vendor,
                    generation.task_id,
                    claim.uri,
                )
                raise
            # Another run thought this one dead in the middle of the call. The answer came after all.
            mine: dict[str, object] = {"owner": claim.owner, "ended_by": None, "unknown": claim.unknown}
            mine |= {"unknown_in_run": claim.unknown_in_run, "wasted_in_run": claim.wasted_in_run}
            if found.reporter != claim.owner:  # which has reported the calls before this one
                mine |= {"unknown_in_run": 0, "wasted_in_run": ()}
            return await asyncio.to_thread(ledger.move, found, "submitted", **answer, **mine)

    async def _settle(
        self,
        ledger: Ledger,
        claim: Claim,
        hook: BackgroundHook,
        generation: Generation,
        owner: str,
        inspection: Inspection,
    ) -> Landed:
        """Land an ended generation, or record what became of it."""
        try:
            generation.raise_for_failure()
            landing = await land(
                hook,
                generation,
                self.storage,
                claim.destination,
                prompt_sha256=claim.prompt_sha256,
                name=claim.fingerprint,
                expected=await self._expected(hook, claim, inspection),
            )
        except PollError:
            raise  # not fetched for now: the claim keeps the task
        except BgaiError as error:
            try:
                await self._record(ledger, claim, error, owner)
            except LostRaceError:
                log.info("Another run has collected it, too, and reports it: %s", claim.uri)
            if error.paid != "no":
                there = await asyncio.to_thread(ledger.read_landed, claim.fingerprint)
                if there is not None and there.landed_at >= claim.claimed_at:
                    return there  # another run got it in time
            raise
        now = time.time()
        landed = Landed(
            fingerprint=claim.fingerprint,
            vendor=claim.vendor,
            conn_id=claim.conn_id,
            task_id=claim.task_id,
            price=claim.price,
            currency=claim.currency,
            seed=generation.seed,
            model=generation.model,
            prompt_sha256=claim.prompt_sha256,
            seconds=round(now - claim.claimed_at, 1),
            landed_at=now,
            owner=owner,
            unknown=claim.unknown,
            unknown_in_run=claim.unknown_in_run,
            wasted_in_run=claim.wasted_in_run,
            warnings=(*generation.warnings, *landing.warnings),
            images=landing.images,
            quarantined=landing.quarantined,
            thumbnails=landing.thumbnails,
        )
        return await asyncio.to_thread(ledger.land, landed, claim.claimed_at)

    def _able(self, request: BackgroundRequest) -> list[BackgroundHook]:
        """The hooks whose vendor can serve the request. :raises InvalidRequestError: if none can."""
        able, refusals = [], []
        for hook in self.hooks:
            try:
                hook.check(request)
                able.append(hook)
            except InvalidRequestError as error:
                refusals.append(error)
        if not able:
            raise refusals[0]
        return able

    async def _fingerprint(self, wish: Wish) -> str:
        hook, request = self.hooks[0], wish.request
        guidance = request.guidance_image
        return fingerprint(
            request,
            image=await identify(self.storage, hook, request.image),
            guidance_image=None if guidance is None else await identify(self.storage, hook, guidance),
            vendor=hook.vendor,
            model=hook.settings.extra.get("model_version"),
            epoch=wish.epoch,
        )

    def _claim(self, wish: Wish, hook: BackgroundHook, name: str, before: Claim | None) -> Claim:
        now = time.time()
        mine = before is not None and before.reporter == wish.owner  # another run has reported its own
        return Claim(
            fingerprint=name,
            state="claimed",
            owner=wish.owner,
            vendor=hook.vendor,
            conn_id=hook.conn_id,
            images=wish.request.count,
            price=hook.cost(wish.request.count),
            currency=hook.settings.currency,
            claimed_at=now,
            # However long it waits for the rate, and however often it is repeated, the call has an answer by then.
            expires_at=now
            + SUBMIT_ATTEMPTS * hook.settings.timeout
            + MAX_RETRY_AFTER
            + 120 * hook.settings.max_concurrency / hook.settings.requests_per_minute,
            unknown=before.unknown if before else 0,
            paid_before=before.paid_before + (before.state != "failed") if before else 0,
            unknown_in_run=before.unknown_in_run if before and mine else 0,
            wasted_in_run=before.in_vain if before and mine else (),
            prompt_sha256=prompt_sha256(wish.request),
            destination=wish.destination,
            source=wish.request.image if isinstance(wish.request.image, str) else None,
            plain=asks_for_plain(wish.request),
            keeps_frame=not wish.request.options,
        )

    async def _hold(self, ledger: Ledger, claim: Claim, wish: Wish, problem: str) -> Claim:
        until = None if wish.on_unknown_outcome == "fail" else time.time() + wish.hold_for
        return await asyncio.to_thread(
            ledger.move,
            claim,
            "held",
            held_until=until,
            # A run that died reports nothing any more: who finds its claim reports all that it carries.
            owner=wish.owner,
            unknown=claim.unknown + 1,
            unknown_in_run=claim.unknown_in_run + 1,
            reason="unknown",
            error=problem,
        )

    def _check_released(self, claim: Claim, wish: Wish) -> None:
        """Raise unless a held picture may be bought again."""
        released = claim.held_until is not None and time.time() >= claim.held_until
        if released or wish.on_unknown_outcome == "resubmit":
            log.warning("Buying again a picture whose outcome was unknown (%d so far)", claim.unknown)
            return
        until = (
            "until somebody decides"
            if claim.held_until is None
            else f"for another {(claim.held_until - time.time()) / 3600:.1f} h"
        )
        price = "an unknown price" if claim.price is None else f"{claim.price} {claim.currency}"
        raise UnknownOutcomeError(
            f"Held {until}: a paid call to {claim.vendor} ({price}) may or may not have been charged: {claim.error}. "
            f"To buy again at once, use on_unknown_outcome='resubmit' (may pay twice) or delete {claim.uri}",
            vendor=claim.vendor,
        )

    async def _record(self, ledger: Ledger, claim: Claim, error: BgaiError, owner: str) -> Claim:
        """Write down an error that ends a claim: ``failed`` if it cost nothing, else ``lost`` or ``quarantined``."""
        state: ClaimState = "failed" if error.paid == "no" else "lost"
        known: dict[str, object] = {"ended_by": owner, "reason": error.reason, "error": str(error)}
        if isinstance(error, UnfaithfulError):
            state = "quarantined"
            known |= {"quarantined": error.images}
            known |= {"thumbnails": error.thumbnails} if error.thumbnails is not None else {}
        if self.purse is not None and state == "failed":
            await self.purse.give_back(_purpose(claim))
        return await asyncio.to_thread(ledger.move, claim, state, **known)

    async def _in_place(self, landed: Landed) -> bool:
        """Whether the landed pictures are still in S3: who deletes them wants new ones."""
        found = await asyncio.gather(*(asyncio.to_thread(self.storage.head, output.uri) for output in landed.images))
        return all(found)

    async def placed(self, landed: Landed, destination: str) -> Landed:
        """The landed pictures at the wanted destination: copied there if they were bought for another one."""
        outputs: list[Output] = []
        for index, output in enumerate(landed.images, start=1):
            uri = name_output(destination, index, output.uri.rpartition(".")[2])
            if uri != output.uri:
                await asyncio.to_thread(self.storage.copy, output.uri, uri)
            outputs.append(output.model_copy(update={"uri": uri}))
        return landed.model_copy(update={"images": tuple(outputs)})


def _costs(landed: Landed) -> dict[str, object]:
    """What a landed record says of the costs, and whose they are."""
    return {
        "ended_by": landed.owner or None,
        "unknown_in_run": landed.unknown_in_run,
        "wasted_in_run": landed.wasted_in_run,
    }


def _purpose(claim: Claim) -> str:
    """What the budget is asked for: the picture, and once more for every time it may have been paid before."""
    return f"{claim.fingerprint}+{claim.paid_before}" if claim.paid_before else claim.fingerprint
