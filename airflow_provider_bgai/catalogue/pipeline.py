"""One shard of a nightly run: many wanted pictures on one event loop, each bought once, landed or reported.

Every picture walks its own way (find or claim, submit, wait, fetch, verify, land), many at a time; rate and
slots of a connection are the hook's business. Nothing here keeps state: whatever happens, running the same
shard again collects what is stored and goes on.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from decimal import Decimal
from functools import partial
from typing import Any

from airflow_provider_bgai.catalogue.finishing import Finishing, Sign, finish
from airflow_provider_bgai.catalogue.landing import PIXELS, Inspection
from airflow_provider_bgai.catalogue.ledger import Claim, Landed, Ledger
from airflow_provider_bgai.catalogue.purchase import Buyer, OnUnknownOutcome, Wish
from airflow_provider_bgai.catalogue.records import Outcome, Result, Wanted
from airflow_provider_bgai.exceptions import (
    AuthenticationError,
    BgaiError,
    InvalidRequestError,
    PollError,
    UnfaithfulError,
    VendorFaultError,
)
from airflow_provider_bgai.polling import PollPolicy

log = logging.getLogger(__name__)

# A vendor that failed a task and does not charge for it is asked again so often within one run.
ATTEMPTS = 3
# Blocking S3 calls and decoding run in threads; more than this only queue for the processor.
THREADS = 32

_OUTCOMES: dict[str, Outcome] = {
    "refused": "refused",
    "moderation": "refused",
    "over_budget": "over_budget",
    "lost": "lost",
    "quarantined": "quarantined",
    "unknown": "held",
}


# One picture for several SKUs is paid for once.
_FREE: dict[str, object] = {"price": Decimal(0), "wasted": (), "unknown": 0}


@dataclass(frozen=True)
class Shard:
    """How a shard is generated.

    :param destination: the catalogue's ``s3://bucket/prefix``; pictures land below its ``_bgai/pictures``.
    :param owner: names the run and the shard, equal for all tries of the task.
    :param policy: how often to ask for a task.
    :param in_flight: how many pictures are under way at once.
    :param finishing: what is done to the pictures, by category; ``""`` for those without an entry.
    :param sign: signs finished files, where that is asked for.
    :param on_unknown_outcome, hold_for: see :class:`~airflow_provider_bgai.catalogue.purchase.Wish`.
    """

    buyer: Buyer
    destination: str
    owner: str
    in_flight: int = 64
    policy: PollPolicy = field(default_factory=PollPolicy)
    finishing: Mapping[str, Finishing] = field(default_factory=dict)
    sign: Sign | None = None
    on_unknown_outcome: OnUnknownOutcome = "hold"
    hold_for: float = 24 * 3600.0

    def finishing_of(self, item: Wanted) -> Finishing:
        """What is done to a picture."""
        return self.finishing.get(item.category) or self.finishing.get("") or Finishing()


@dataclass
class Progress:
    """What a pass over a shard came to: results of what has ended, claims of what is pending, each with the problem
    it had last (``reason`` and ``error``)."""

    results: dict[str, list[Result]] = field(default_factory=dict)
    pending: dict[str, Claim] = field(default_factory=dict)


async def generate(shard: Shard, wanted: Sequence[Wanted], *, patience: float | None) -> Progress:
    """Walk every wanted picture as far as it goes.

    :param patience: seconds to wait for each submitted task; 0 to ask once; None not to ask at all, just
        submit (a deferred task waits in the triggerer).
    """
    asyncio.get_running_loop().set_default_executor(ThreadPoolExecutor(THREADS, "bgai"))
    slots = asyncio.Semaphore(shard.in_flight)
    progress = Progress()

    async def walk(item: Wanted) -> None:
        async with slots:
            found = await _walk(shard, item, patience)
        if isinstance(found, Claim):
            progress.pending[item.fingerprint] = found
        else:
            progress.results[item.fingerprint] = found

    async with asyncio.TaskGroup() as group:
        for item in wanted:
            group.create_task(walk(item))
    return progress


def give_up(wanted: Sequence[Wanted], progress: Progress) -> list[Result]:
    """All results in the shard's order; what is still pending is kept for the next run, and reported so."""
    results: list[Result] = []
    for item in wanted:
        if item.fingerprint in progress.pending:
            claim = progress.pending[item.fingerprint]
            problem = claim.error or "it did not end in time"
            message = f"{claim.vendor} task {claim.task_id} is kept, and the next run collects it unpaid: {problem}"
            results += _results(item, "failed", claim=claim, reason=claim.reason or "poll", error=message)
        else:
            results += progress.results[item.fingerprint]
    return results


async def _walk(shard: Shard, item: Wanted, patience: float | None) -> list[Result] | Claim:
    try:
        wish = Wish(
            request=item.background_request(),
            destination=f"{shard.destination}/_bgai/pictures/{item.fingerprint}-{{index}}.{{ext}}",
            owner=shard.owner,
            root=shard.destination,
            fingerprint=item.fingerprint,
            new=item.status == "new",
            on_unknown_outcome=shard.on_unknown_outcome,
            hold_for=shard.hold_for,
            inspection=Inspection(shard.finishing_of(item).fidelity),
        )
    except InvalidRequestError as error:
        return await _reported(shard, item, error)
    faults = 0
    while True:
        claim: Claim | None = None  # of this attempt: an earlier one's task has failed
        try:
            found = await shard.buyer.begin(wish)
            if isinstance(found, Landed):
                return await _finished(shard, item, found)
            claim = found
            if patience is None and claim.task_id is not None:
                return claim
            landed = await shard.buyer.finish(
                claim,
                timeout=patience or 0.0,
                owner=shard.owner,
                policy=shard.policy,
                inspection=wish.inspection,
            )
            return await _finished(shard, item, landed)
        except VendorFaultError as error:
            faults += 1
            if faults == ATTEMPTS:
                return await _reported(shard, item, error)
            wish = replace(wish, new=False)
            log.info("%s: %s; trying again", item.skus[0], error)
        except UnfaithfulError as error:
            again = await _again(shard, item, wish)
            if again is None:
                return await _reported(shard, item, error)
            wish = again
            log.warning("%s: %s. Buying it again", item.skus[0], error)
        except (PollError, AuthenticationError) as error:
            # The task is paid for and its ID is kept: pending, unless it never got that far.
            if claim is None:
                return await _reported(shard, item, error)
            return claim.model_copy(update={"reason": error.reason, "error": str(error)})
        except BgaiError as error:
            return await _reported(shard, item, error)
        except Exception as error:
            # One product never stops the others. What it cost, if anything, stands in its claim.
            log.exception("%s: not generated", item.skus[0])
            return _results(item, "failed", reason="error", error=f"{type(error).__name__}: {error}")


async def _again(shard: Shard, item: Wanted, wish: Wish) -> Wish | None:
    """The wish, changed, after a picture of it went to quarantine; None if that is not to be bought again.

    Counted in the claim, so that a task that is killed and retried does not start anew.
    """
    claim = await asyncio.to_thread(Ledger(shard.buyer.storage, shard.destination).read_claim, item.fingerprint)
    if claim is None or claim.state != "quarantined":
        return None
    if claim.reporter == shard.owner:
        before = [it.conn_id for it in claim.in_vain if it.outcome == "quarantined"]
        if len(before) > shard.finishing_of(item).retries:
            return None
    elif item.status == "failed_before":
        before = [claim.conn_id]
    else:
        return None
    wish = replace(wish, new=False, again=True)
    if (seed := item.background_request().seed) is None:
        return replace(wish, avoid=frozenset(before))
    # Every paid call counts, those of earlier runs too: a seed that was tried would paint the same picture.
    return replace(wish, request=replace(wish.request, seed=seed + claim.paid_before + 1))


async def _finished(shard: Shard, item: Wanted, landed: Landed) -> list[Result]:
    """The results of a picture, with the files to be published of it."""
    results = _landed(shard, item, landed)
    finishing = shard.finishing_of(item)
    if not finishing.digest:
        return results
    buyer, known = shard.buyer, {"finishing": finishing.digest}
    try:
        source = await buyer.hooks[0].load_image("image", item.request["image"]) if finishing.needs_source else None
        make = partial(finish, buyer.storage, shard.destination, landed, finishing, source=source, sign=shard.sign)
        files, problems = await asyncio.get_running_loop().run_in_executor(PIXELS, make)
    except Exception as error:
        # It is paid for, and stands in the results with its price. The next plan has its files made.
        log.exception("%s: its files were not made", item.skus[0])
        files, problems, known = (), (f"its files were not made: {type(error).__name__}: {error}",), {}
    update = {**known, "finished": files}
    return [it.model_copy(update={**update, "warnings": (*it.warnings, *problems)}) for it in results]


def _landed(shard: Shard, item: Wanted, landed: Landed) -> list[Result]:
    """Bought if this shard landed it, in whichever try; else it was there before."""
    bought = landed.owner == shard.owner
    first, *others = _results(
        item,
        "bought" if bought else "reused",
        vendor=landed.vendor,
        conn_id=landed.conn_id,
        task_id=landed.task_id,
        model=landed.model,
        seed=landed.seed,
        prompt_sha256=landed.prompt_sha256,
        price=landed.price if bought else Decimal(0),
        currency=landed.currency,
        wasted=landed.wasted_in_run if bought else (),
        unknown=landed.unknown_in_run if bought else 0,
        seconds=landed.seconds,
        images=landed.images,
        quarantined=landed.quarantined if bought else (),
        warnings=landed.warnings,
    )
    return [
        first,
        *(other.model_copy(update={"outcome": "reused", **_FREE}) for other in others),
    ]


async def _reported(shard: Shard, item: Wanted, error: BgaiError) -> list[Result]:
    """An error that ends a picture in this run, with what it cost or may have cost."""
    claim = await asyncio.to_thread(Ledger(shard.buyer.storage, shard.destination).read_claim, item.fingerprint)
    outcome = _OUTCOMES.get(error.reason, "failed")
    told: dict[str, Any] = {"reason": error.reason, "error": str(error)}
    if claim is None or claim.reporter != shard.owner or not claim.ended:
        # Whoever ended the claim reports it, or will; a loss it has reported is not counted here once more.
        if outcome in ("lost", "quarantined"):
            told["pictures"] = 0
        return _results(item, outcome, **told)
    if outcome == "quarantined":
        told["quarantined"] = claim.quarantined
    mine = outcome == claim.state  # else the last attempt came to nothing else than the ones before
    return _results(
        item,
        outcome,
        claim=claim,
        price=claim.price if mine and outcome != "failed" else Decimal(0),  # what failed is not charged
        wasted=claim.wasted_in_run if mine else claim.in_vain,
        unknown=claim.unknown_in_run,
        **told,
    )


def _shown(image: object) -> str | None:
    """A source as it may stand in records: without a query, which may be a signature."""
    return image.partition("?")[0] if isinstance(image, str) else None


def _results(item: Wanted, outcome: Outcome, *, claim: Claim | None = None, **known: object) -> list[Result]:
    """One result per SKU of the picture; the first one carries the costs."""
    if claim is not None:
        served = {name: getattr(claim, name) for name in ("vendor", "conn_id", "task_id", "currency", "prompt_sha256")}
        known = {**served, **known}
    known = {"pictures": int(item.request.get("count") or 1), "image": _shown(item.request["image"]), **known}
    made = [
        Result(
            sku=sku,
            name=name,
            outcome=outcome,
            category=item.category,
            fingerprint=item.fingerprint,
            source=item.source,
            **known,  # type: ignore[arg-type]
        )
        for sku, name in zip(item.skus, item.names, strict=True)
    ]
    return [made[0], *(other.model_copy(update=_FREE) for other in made[1:])]
