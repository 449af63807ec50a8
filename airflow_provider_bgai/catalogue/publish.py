"""From landed pictures to what the shop reads: the whole run at once, or nothing; and back again.

What is published is a *mapping*, ``_bgai/published/<run>.jsonl``: for every stable key the picture it shows.
``_bgai/published/current`` names the mapping that holds. Pictures are named by their content and never overwritten,
so every mapping can be made true again by copying: publishing the next one and rolling back to an earlier one are
the same act. It goes like this:

1. The keys about to change are written down, and ``current`` gets a note that they are in work (conditional
   write: of two publishers one is refused).
2. Pictures are copied within S3 to the keys that change; keys that the new mapping lacks are deleted.
3. The mapping is written, and ``current`` is switched to it (conditional write).

Killed anywhere, the note stays: whoever publishes next copies those keys again, whatever they hold. Copies take time,
so a reader may see some new and some old pictures meanwhile, but never half a picture.

The steps are in ``switch``, the note and ``current`` in ``versions``; what the new mapping shall be is found out by
``collect``; ``scratch`` is the database they share.
"""

from __future__ import annotations

import logging
import tempfile
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from typing import Any

from pydantic import BaseModel, ValidationError

from airflow_provider_bgai.catalogue.collect import Collector
from airflow_provider_bgai.catalogue.ledger import Claim, Landed, Ledger, Thumbnails
from airflow_provider_bgai.catalogue.page import Card, write_page
from airflow_provider_bgai.catalogue.records import Result
from airflow_provider_bgai.catalogue.report import cost_report
from airflow_provider_bgai.catalogue.scratch import Scratch
from airflow_provider_bgai.catalogue.state import write_state
from airflow_provider_bgai.catalogue.switch import Switch
from airflow_provider_bgai.catalogue.versions import (
    Current,
    Entry,
    Place,
    PublishConflictError,  # noqa: F401 - raised from here
    PublishError,
    Turn,
    load_current,
    stream_lines,
    write_lines,
)
from airflow_provider_bgai.exceptions import InvalidRequestError
from airflow_provider_bgai.storage import Storage

log = logging.getLogger(__name__)

FAILURES = ("failed", "lost", "quarantined", "refused", "held")
LEASE = 120.0
EXAMPLES = 20


class TooManyFailuresError(PublishError):
    """More products failed than ``max_failure_ratio`` allows. Nothing was published; landed pictures stay."""


class Published(BaseModel):
    """What came of publishing or rolling back: counts and URIs, small enough for XCom and an asset event.

    :param outcomes: products of the run by outcome; empty after a rollback.
    :param failures: failed, lost, quarantined, refused and held ones; ``failure_ratio`` is their share of all but
        over_budget.
    :param pictures: stable keys in the mapping, of ``products`` SKUs; those of SKUs not in this run are kept.
    :param copied, removed: stable keys written and deleted.
    :param missing: products whose picture was bought and is not in S3; ``examples`` names some of them.
    """

    run: str
    previous: str | None
    at: float
    outcomes: dict[str, int] = {}
    failures: int = 0
    failure_ratio: float = 0.0
    products: int = 0
    pictures: int = 0
    copied: int = 0
    removed: int = 0
    missing: int = 0
    examples: tuple[str, ...] = ()
    mapping: str
    manifest: str | None = None
    report: str | None = None


def publish(
    storage: Storage,
    destination: str,
    run: str,
    *,
    max_failure_ratio: float = 0.2,
    now: float,
    workers: int = 10,
    lease: float = LEASE,
) -> Published:
    """Make a run's pictures the ones the shop reads, and write the run's manifest.

    May be called again after anything. A product without a new picture keeps the one it has; so do products
    that are not in this run. A key that a product had and no longer has (another extension, fewer pictures) is removed.

    :param destination: ``s3://bucket/prefix`` of the catalogue.
    :param max_failure_ratio: 0 to 1; publish nothing if a greater share of the products failed.
    :param now: epoch seconds, of the switch.
    :param workers: S3 requests at a time.
    :param lease: seconds after which a publisher that has not renewed its note is dead.
    :raises TooManyFailuresError: with the counts. The manifest is written all the same.
    :raises PublishConflictError: if another run is just being published.
    """
    if not 0 <= max_failure_ratio <= 1:
        raise InvalidRequestError(f"max_failure_ratio={max_failure_ratio!r}: must lie between 0 and 1")
    place = Place(destination, run)
    with closing(Scratch()) as scratch, ThreadPoolExecutor(workers, "bgai-publish") as pool:
        collector = Collector(storage, place, scratch)
        collector.load_results()
        turn = Turn(storage, place, *load_current(storage, destination), lease)
        switch = Switch(storage, scratch, turn, pool)
        collector.want(pool)
        write_lines(storage, place.manifest, scratch.lines("manifest", by="sku"))
        outcomes = scratch.outcomes()
        failures, expected = _judge(outcomes)
        if failures / max(1, expected) > max_failure_ratio:
            _write_report(storage, place, scratch, pool, now, published=False)
            counts = ", ".join(f"{count} {outcome}" for outcome, count in sorted(outcomes.items()))
            raise TooManyFailuresError(
                f"Nothing published: {failures} of {expected} products failed ({failures / expected:.1%}, "
                f"allowed {max_failure_ratio:.1%}): {counts}. Landed pictures stay; what became of every product "
                f"stands in {place.manifest}"
            )
        history = turn.current.all_but(run)
        switch.announce()
        switch.make_true()
        # Before the switch, so that no other publisher comes in between; a plan knows what is landed anyway.
        turn.renew()
        write_state(storage, place.root, collector.states())
        switch.finish(history, now)
        if scratch.missing:
            write_lines(storage, place.manifest, scratch.lines("manifest", by="sku"))
        _write_report(storage, place, scratch, pool, now, published=True)
        outcomes = scratch.outcomes()
        failures, expected = _judge(outcomes)
        ratio = round(failures / max(1, expected), 4)
        return _published(
            switch,
            outcomes=outcomes,
            failures=failures,
            failure_ratio=ratio,
            manifest=place.manifest,
            report=place.report,
        )


def rollback(
    storage: Storage,
    destination: str,
    *,
    to: str | None = None,
    now: float,
    workers: int = 10,
    lease: float = LEASE,
) -> Published:
    """Make an earlier mapping the one the shop reads.

    Stable keys that did not exist in it are removed; their pictures stay below ``_bgai``, so that rolling
    forward (``to`` the later run) brings them back. What the next plan compares with is left alone, so the next
    publish shows again what the recipe asks for: change the recipe before.

    :param to: the run to go back to; None for the one before the current one.
    :raises PublishError: if there is no such version.
    """
    current, etag = load_current(storage, destination)
    target = to or current.previous
    if target is None:
        raise PublishError(
            f"Nothing to roll back to: {current.run or 'nothing'} is published at {destination}, and nothing before it"
        )
    place, past = Place(destination, target), current.history
    history = past[past.index(target) + 1 :] if target in past else current.all_but(target)
    turn = Turn(storage, place, current, etag, lease)
    with closing(Scratch()) as scratch, ThreadPoolExecutor(workers, "bgai-publish") as pool:
        switch = Switch(storage, scratch, turn, pool)
        try:
            scratch.put_entries("wanted", stream_lines(storage, place.mapping, Entry))
        except FileNotFoundError:
            raise PublishError(f"Run {target} was never published: there is no {place.mapping}") from None
        switch.announce()
        switch.make_true()
        switch.finish(history, now)
        return _published(switch)


def read_current(storage: Storage, destination: str) -> Current:
    """Which mapping holds; an empty one if nothing was ever published."""
    return load_current(storage, destination)[0]


def read_mapping(storage: Storage, destination: str, run: str) -> Iterator[Entry]:
    """What a run published. :raises FileNotFoundError: if it did not."""
    return stream_lines(storage, Place(destination, run).mapping, Entry)


def read_manifest_of_run(storage: Storage, destination: str, run: str) -> Iterator[Result]:
    """What became of every SKU of a run. :raises FileNotFoundError: before :func:`publish`."""
    return stream_lines(storage, Place(destination, run).manifest, Result)


def _judge(outcomes: dict[str, int]) -> tuple[int, int]:
    """Products that failed, and that should have a picture now: the budget left some for another night."""
    return sum(outcomes.get(it, 0) for it in FAILURES), sum(outcomes.values()) - outcomes.get("over_budget", 0)


def _write_report(
    storage: Storage, place: Place, scratch: Scratch, pool: ThreadPoolExecutor, now: float, *, published: bool
) -> None:
    """The page for people: before and after of everything that changed, and what it cost."""
    ledger = Ledger(storage, place.root)

    def card(result: Result) -> Card:
        record: Landed | Claim | None = None
        try:
            if result.images:
                record = ledger.read_landed(result.fingerprint or "")
            elif result.quarantined:
                record = ledger.read_claim(result.fingerprint or "")
        except ValidationError as error:
            log.warning("%s: no pictures in the report, because its record cannot be read: %s", result.sku, error)
        thumbnails = record.thumbnails if record else Thumbnails()
        return Card(result, thumbnails.before, thumbnails.afters)

    manifest = (Result.model_validate_json(line) for line in scratch.lines("manifest", by="sku"))
    cards = (each for batch in scratch.changed() for each in pool.map(card, batch))
    with tempfile.TemporaryFile() as file:
        write_page(
            file,
            run=place.run,
            destination=place.root,
            at=now,
            cards=cards,
            costs=cost_report(manifest),
            unchanged=scratch.outcomes().get("unchanged", 0),
            published=published,
        )
        file.seek(0)
        storage.put(place.report, file, content_type="text/html; charset=utf-8")


def _published(switch: Switch, **of_the_run: Any) -> Published:
    place, scratch, current = switch.place, switch.scratch, switch.turn.current
    products, pictures = scratch.count_wanted()
    return Published(
        run=place.run,
        previous=current.previous,
        at=current.at,
        products=products,
        pictures=pictures,
        copied=switch.copied,
        removed=switch.removed,
        missing=len(scratch.missing),
        examples=tuple(scratch.missing)[:EXAMPLES],
        mapping=place.mapping,
        **of_the_run,
    )
