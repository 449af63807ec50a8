"""One shard of a nightly run: many wanted pictures on one event loop, each bought once, landed or reported.

Every picture walks its own way (find or claim, submit, wait, fetch, verify, land), many at a time; rate and
slots of a connection are the hook's business. Nothing here keeps state: whatever happens, running the same
shard again collects what is stored and goes on.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from decimal import Decimal

from airflow_provider_bgai.catalogue.ledger import Claim, Landed, Ledger
from airflow_provider_bgai.catalogue.purchase import Buyer, OnUnknownOutcome, Wish
from airflow_provider_bgai.catalogue.records import Outcome, Result, Wanted
from airflow_provider_bgai.exceptions import (
    AuthenticationError,
    BgaiError,
    PollError,
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
    "unknown": "held",
}


@dataclass(frozen=True)
class Shard:
    """How a shard is generated.

    :param destination: the catalogue's ``s3://bucket/prefix``; pictures land below its ``_bgai/pictures``.
    :param owner: names the run and the shard, equal for all tries of the task.
    :param policy: how often to ask for a task.
    :param in_flight: how many pictures are under way at once.
    :param on_unknown_outcome, hold_for: see :class:`~airflow_provider_bgai.catalogue.purchase.Wish`.
    """

    buyer: Buyer
    destination: str
    owner: str
    in_flight: int = 64
    policy: PollPolicy = field(default_factory=PollPolicy)
    on_unknown_outcome: OnUnknownOutcome = "hold"
    hold_for: float = 24 * 3600.0


@dataclass
class Progress:
    """What a pass over a shard came to: results of what has ended, claims of what is pending."""

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
            message = f"{claim.vendor} task {claim.task_id} did not end in time; the next run collects it unpaid"
            results += _results(item, "failed", claim=claim, reason="poll", error=message)
        else:
            results += progress.results[item.fingerprint]
    return results


async def _walk(shard: Shard, item: Wanted, patience: float | None) -> list[Result] | Claim:
    for attempt in range(1, ATTEMPTS + 1):
        claim: Claim | None = None  # of this attempt: an earlier one's task has failed
        try:
            wish = Wish(
                request=item.background_request(),
                destination=f"{shard.destination}/_bgai/pictures/{item.fingerprint}-{{index}}.{{ext}}",
                owner=shard.owner,
                root=shard.destination,
                fingerprint=item.fingerprint,
                new=item.status == "new" and attempt == 1,
                on_unknown_outcome=shard.on_unknown_outcome,
                hold_for=shard.hold_for,
            )
            found = await shard.buyer.begin(wish)
            if isinstance(found, Landed):
                return _landed(shard, item, found)
            claim = found
            if patience is None and claim.task_id is not None:
                return claim
            landed = await shard.buyer.finish(claim, timeout=patience or 0.0, owner=shard.owner, policy=shard.policy)
            return _landed(shard, item, landed)
        except VendorFaultError as error:
            if attempt == ATTEMPTS:
                return _failed(item, error, claim)
            log.info("%s: %s; trying again", item.skus[0], error)
        except (PollError, AuthenticationError) as error:
            # The task is paid for and its ID is kept: pending, unless it never got that far.
            return claim if claim is not None else _failed(item, error, None)
        except BgaiError as error:
            return await _reported(shard, item, error)
        except Exception as error:
            # One product never stops the others. What it cost, if anything, stands in its claim.
            log.exception("%s: not generated", item.skus[0])
            return _results(item, "failed", reason="error", error=f"{type(error).__name__}: {error}")
    raise AssertionError("unreachable")


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
        unknown=landed.unknown_in_run if bought else 0,
        seconds=landed.seconds,
        images=landed.images,
    )
    # One picture for several SKUs is paid for once.
    return [
        first,
        *(other.model_copy(update={"outcome": "reused", "price": Decimal(0), "unknown": 0}) for other in others),
    ]


async def _reported(shard: Shard, item: Wanted, error: BgaiError) -> list[Result]:
    """An error that ends a picture in this run, with what it cost or may have cost."""
    claim = await asyncio.to_thread(Ledger(shard.buyer.storage, shard.destination).read_claim, item.fingerprint)
    return _failed(item, error, claim if claim is not None and claim.owner == shard.owner else None)


def _failed(item: Wanted, error: BgaiError, claim: Claim | None) -> list[Result]:
    outcome = _OUTCOMES.get(error.reason, "failed")
    paid = claim is not None and outcome in ("lost", "held")
    return _results(
        item,
        outcome,
        claim=claim,
        reason=error.reason,
        error=str(error),
        price=claim.price if claim is not None and paid else Decimal(0),
        unknown=claim.unknown_in_run if claim is not None else 0,
    )


def _results(item: Wanted, outcome: Outcome, *, claim: Claim | None = None, **known: object) -> list[Result]:
    """One result per SKU of the picture; the first one carries the costs."""
    if claim is not None:
        served = {name: getattr(claim, name) for name in ("vendor", "conn_id", "task_id", "currency", "prompt_sha256")}
        known = {**served, **known}
    made = [
        Result(
            sku=sku,
            name=name,
            outcome=outcome,
            category=item.category,
            fingerprint=item.fingerprint,
            source=item.source,
            pictures=int(item.request.get("count") or 1),
            **known,  # type: ignore[arg-type]
        )
        for sku, name in zip(item.skus, item.names, strict=True)
    ]
    free = {"price": Decimal(0), "unknown": 0}
    return [made[0], *(other.model_copy(update=free) for other in made[1:])]
