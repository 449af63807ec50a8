"""From landed pictures to what the shop reads: the whole run at once, or nothing; and back again.

What is published is a *mapping*, ``_bgai/published/<run>.jsonl``: for every stable key the picture it shows.
``_bgai/published/current`` names the mapping that holds. Pictures are named by their content and never overwritten,
so every mapping can be made true again by copying: publishing the next one and rolling back to an earlier one are
the same act. It goes like this:

1. The keys about to change are written down, and ``current`` gets a note that they are in work (conditional
   write: of two publishers one is refused).
2. Pictures are copied within S3 to the keys that change; keys that the new mapping lacks are deleted. A product whose
   picture is gone, or whose keys S3 refuses, is reported and shows what it did; the mapping says so.
3. The mapping is written, with the shop's feeds, and ``current`` is switched to it (conditional write).

Killed anywhere, the note stays: whoever publishes next copies those keys again, whatever they hold. Copies take time,
so a reader may see some new and some old pictures meanwhile, but never half a picture. Everything is named relative to
the destination, so a catalogue that is copied with its records publishes and rolls back where it is.

The steps are in ``switch``, the note and ``current`` in ``versions``; what the new mapping shall be is found out by
``asked``; ``scratch`` is the database they share; ``feeds`` knows the importers' columns.
"""

from __future__ import annotations

import logging
import tempfile
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing, contextmanager
from dataclasses import dataclass
from itertools import islice
from typing import Any

from pydantic import BaseModel, Field

from airflow_provider_bgai.buying.record import Thumbnails
from airflow_provider_bgai.catalogue.publishing.asked import Asked
from airflow_provider_bgai.catalogue.publishing.scratch import Scratch
from airflow_provider_bgai.catalogue.publishing.switch import Switch
from airflow_provider_bgai.catalogue.publishing.versions import Current, Entry, Place, Turn, load_current
from airflow_provider_bgai.catalogue.report.costs import CostReport, Costs, run_costs
from airflow_provider_bgai.catalogue.report.page import Card, write_page
from airflow_provider_bgai.catalogue.report.story import Tally, of_costs, of_shop
from airflow_provider_bgai.catalogue.results import Result
from airflow_provider_bgai.catalogue.state import write_state
from airflow_provider_bgai.exceptions import (
    BgaiError,
    InvalidRequestError,
    LineError,
    PublishError,
    TooManyFailuresError,
)
from airflow_provider_bgai.layout import Layout, picture_of
from airflow_provider_bgai.lines import stream_lines, write_lines
from airflow_provider_bgai.storage import Storage, store_errors

log = logging.getLogger(__name__)

FAILURES = ("failed", "lost", "quarantined", "refused", "held")
LEASE = 120.0
EXAMPLES = 20


class Published(BaseModel):
    """What came of publishing or rolling back: counts and URIs, small enough for XCom and an asset event.

    :param at: of the switch, epoch seconds on the store's clock.
    :param outcomes: products of the run by outcome; empty after a rollback.
    :param failures: failed, lost, quarantined, refused and held ones; ``failure_ratio`` is their share of all but
        over_budget and rejected.
    :param pictures: stable keys in the mapping, of ``products`` SKUs; those of SKUs not in this run are kept.
    :param copied, removed: stable keys written and deleted.
    :param unpublished: products whose picture was bought and cannot be published: it is not in S3 any more, S3 refuses
        the key, it is not finished; they show what they did. ``examples`` names some of them.
    :param unfinished: unchanged products that keep what they had until the next plan has their files made.
    :param costs: of the calls that this run sent; ``settled``: what it settled for earlier runs.
    :param outcomes_uri: what became of every SKU, a line each.
    :param feeds: URIs of the feeds that were written.
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
    unpublished: int = 0
    examples: tuple[str, ...] = ()
    unfinished: int = 0
    costs: Costs = Field(default_factory=Costs)
    settled: Costs = Field(default_factory=Costs)
    mapping: str
    outcomes_uri: str | None = None
    report: str | None = None
    feeds: tuple[str, ...] = ()

    def told(self) -> dict[str, Any]:
        """As it goes to XCom and to the asset's event."""
        return {
            **self.model_dump(mode="json", exclude={"costs", "settled"}),
            "paid": {currency: float(money) for currency, money in self.costs.paid.items()},
            "charged": self.costs.charged,
            "perhaps": self.costs.perhaps.pictures,
        }


class Preview(BaseModel):
    """What a run would publish.

    :param outcomes, failure_ratio, costs: as in :class:`Published`.
    :param changes: files of the shop that would be written or removed.
    :param doubtful: SKUs in quarantine or held, with the reason: some of them.
    """

    run: str
    outcomes: dict[str, int]
    failure_ratio: float
    changes: int
    costs: Costs
    doubtful: dict[str, str]
    outcomes_uri: str
    report: str


def publish(
    storage: Storage,
    destination: str,
    run: str,
    *,
    max_failure_ratio: float = 0.2,
    workers: int = 10,
    lease: float = LEASE,
) -> Published:
    """Make a run's pictures the ones the shop reads, and write down what became of every SKU.

    May be called again after anything. A product without a new picture keeps the one it has; so do products
    that are not in this run. A key that a product had and no longer has (another extension, fewer pictures) is removed.
    Walk ``open/`` and book what has ended before: the report shows what the books and ``open/`` say now.

    :param destination: ``s3://bucket/prefix`` of the catalogue.
    :param max_failure_ratio: 0 to 1; publish nothing if a greater share of the products failed.
    :param workers: S3 requests at a time.
    :param lease: seconds after which a publisher that has not renewed its note is dead.
    :raises TooManyFailuresError: with the counts. What became of every SKU is written all the same.
    :raises PublishConflictError: if another run is just being published.
    :raises StoreError: if S3 refuses most of what is to be copied.
    """
    if not 0 <= max_failure_ratio <= 1:
        raise InvalidRequestError(f"max_failure_ratio={max_failure_ratio!r}: must lie between 0 and 1")
    place = Place(destination, run)
    with _working(workers) as (scratch, pool):
        switch, report = _look(storage, place, scratch, pool, lease)
        asked, turn, own, settled = report.asked, switch.turn, report.own, report.settled
        outcomes = scratch.counts()
        failures, expected = _judge(outcomes)
        try:
            if failures / max(1, expected) > max_failure_ratio:
                counts = ", ".join(f"{count} {outcome}" for outcome, count in sorted(outcomes.items()))
                raise TooManyFailuresError(
                    f"Nothing published: {failures} of {expected} products failed ({failures / expected:.1%}, "
                    f"allowed {max_failure_ratio:.1%}): {counts}; {of_costs(own.total)}. The shop shows what it did, "
                    "landed pictures stay, and the next night buys none of them again. See why the others failed, and "
                    f"mend that or allow more by max_failure_ratio: {place.run.report}"
                )
            history = turn.current.all_but(run)
            switch.announce()
            switch.make_true()
            # Before the switch, so that no other publisher comes in between; a plan knows what is landed anyway.
            turn.renew()
            write_state(storage, place.layout.root, asked.states())
            switch.conclude(history, asked.plan.feed_url)
        except store_errors(BgaiError):
            report.write(published=False)
            raise
        if scratch.unpublished:
            write_lines(storage, place.run.outcomes, scratch.lines("outcomes", by="sku"))
        report.write(published=True)
        outcomes = scratch.counts()
        failures, expected = _judge(outcomes)
        ratio = round(failures / max(1, expected), 4)
        return _published(
            switch,
            outcomes=outcomes,
            failures=failures,
            failure_ratio=ratio,
            unfinished=scratch.count_unfinished(),
            costs=own.total,
            settled=settled.total,
            outcomes_uri=place.run.outcomes,
            report=place.run.report,
        )


def preview(storage: Storage, destination: str, run: str, *, workers: int = 10) -> Preview:
    """What :func:`publish` would publish now. Nothing in the shop changes; the outcomes and the report are written.

    :raises PublishError: if there is no such run.
    """
    place = Place(destination, run)
    with _working(workers) as (scratch, pool):
        _, report = _look(storage, place, scratch, pool, LEASE)
        report.write(published=False)
        outcomes = scratch.counts()
        failures, expected = _judge(outcomes)
        scratch.touch_differences()
        doubtful = (it for batch in scratch.changed() for it in batch if it.outcome in ("quarantined", "held"))
        return Preview(
            run=run,
            outcomes=outcomes,
            failure_ratio=round(failures / max(1, expected), 4),
            changes=sum(1 for _ in scratch.touched()),
            costs=report.own.total,
            doubtful={it.sku: it.error or "" for it in islice(doubtful, EXAMPLES)},
            outcomes_uri=place.run.outcomes,
            report=place.run.report,
        )


def _look(
    storage: Storage, place: Place, scratch: Scratch, pool: ThreadPoolExecutor, lease: float
) -> tuple[Switch, _Report]:
    """Find out what a run asks to be published, and write down what became of every SKU."""
    asked = Asked(storage, place, scratch)
    asked.load_results()
    turn = Turn(storage, place, *load_current(storage, place.layout.root), lease)
    switch = Switch(storage, scratch, turn, pool)
    asked.heed_decisions()
    asked.want(pool)
    report = _Report(asked, pool, *run_costs(asked.ledger, place.run.name, asked.plan.created_at))
    write_lines(storage, place.run.outcomes, scratch.lines("outcomes", by="sku"))
    return switch, report


def rollback(
    storage: Storage,
    destination: str,
    *,
    to: str | None = None,
    workers: int = 10,
    lease: float = LEASE,
) -> Published:
    """Make an earlier mapping the one the shop reads.

    Stable keys that did not exist in it are removed; their pictures stay below ``_bgai``, so that rolling
    forward (``to`` the later run) brings them back. A product whose picture of then was deleted keeps what it shows
    now; it is named among the ``examples``, and the mapping says so. What the next plan compares with is left alone, so
    the next publish shows again what the recipe asks for: change the recipe before.

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
    with _working(workers) as (scratch, pool):
        switch = Switch(storage, scratch, turn, pool)
        try:
            scratch.put_entries("wanted", stream_lines(storage, place.mapping, Entry))
        except FileNotFoundError:
            raise PublishError(f"Run {target} was never published: there is no {place.mapping}") from None
        switch.announce()
        switch.make_true()
        switch.conclude(history, current.feed_url)
        return _published(switch)


def read_current(storage: Storage, destination: str) -> Current:
    """Which mapping holds; an empty one if nothing was ever published."""
    return load_current(storage, destination)[0]


def read_mapping(storage: Storage, destination: str, run: str) -> Iterator[Entry]:
    """What a run published. :raises FileNotFoundError: if it did not."""
    return stream_lines(storage, Layout(destination).mapping(run), Entry)


def read_outcomes(storage: Storage, destination: str, run: str) -> Iterator[Result]:
    """What became of every SKU of a run. :raises FileNotFoundError: before :func:`publish`."""
    return stream_lines(storage, Layout(destination).run(run).outcomes, Result)


@contextmanager
def _working(workers: int) -> Iterator[tuple[Scratch, ThreadPoolExecutor]]:
    """A scratch database and a pool. A line that is no record ends the work, and says so."""
    with closing(Scratch()) as scratch, ThreadPoolExecutor(workers, "bgai-publish") as pool:
        try:
            yield scratch, pool
        except LineError as error:
            raise PublishError(str(error)) from None


def _judge(outcomes: dict[str, int]) -> tuple[int, int]:
    """Products that failed, and that should have a picture now: the budget left some for another night, and people
    do not want others."""
    wanted = sum(count for outcome, count in outcomes.items() if outcome not in ("over_budget", "rejected"))
    return sum(outcomes.get(it, 0) for it in FAILURES), wanted


@dataclass(frozen=True)
class _Report:
    """The page for people: before and after of everything that changed, and what it cost."""

    asked: Asked
    pool: ThreadPoolExecutor
    own: CostReport
    settled: CostReport

    def write(self, *, published: bool) -> None:
        """Tell it in the log, whatever S3 takes; write it anew."""
        storage, scratch, run = self.asked.storage, self.asked.scratch, self.asked.place.run
        unchanged = scratch.counts().get("unchanged", 0)
        self._tell(unchanged)

        def cards() -> Iterator[Card]:
            for batch in scratch.changed():
                yield from self.pool.map(self._card, batch)

        with tempfile.TemporaryFile() as file:
            write_page(
                file,
                run=run.name,
                destination=run.layout.root,
                at=storage.now(),
                cards=cards(),
                costs=self.own,
                settled=self.settled,
                unchanged=unchanged,
                published=published,
            )
            file.seek(0)
            storage.put(run.report, file, content_type="text/html; charset=utf-8")

    def _tell(self, unchanged: int) -> None:
        run, tally = self.asked.place.run, Tally()
        tally.add_unchanged(unchanged)
        for batch in self.asked.scratch.changed():
            tally.add(batch)
        log.info("What the calls of this run cost:\n%s", self.own.as_text())
        if self.settled != CostReport():
            log.info("What it settled for earlier runs:\n%s", self.settled.as_text())
        told = (run.name, tally.told(run.layout.root), of_costs(self.own.total), run.report)
        log.info("What became of the products of run %s:\n%s\n%s\nreport: %s", *told)

    def _card(self, result: Result) -> Card:
        """A product with its thumbnails, from the record of the call that its pictures name."""
        names = (picture_of(image.uri) for image in (*result.images, *result.quarantined))
        name, call = next(names, None), None
        if name is not None:
            try:
                call = self.asked.ledger.read(name.fingerprint, name.number)
            except ValueError as error:
                log.warning("%s: no pictures in the report: %s", result.sku, error)
        thumbnails = call.thumbnails if call is not None else Thumbnails()
        return Card(result, thumbnails.before, thumbnails.afters)


def _published(switch: Switch, **of_the_run: Any) -> Published:
    place, scratch, current = switch.place, switch.scratch, switch.turn.current
    products, pictures = scratch.count_wanted()
    before = f"to go back to {current.previous}: RollbackCatalogueOperator" if current.previous else "the first version"
    log.info(
        "%s; %d file(s) copied, %d removed; %s",
        *(of_shop(place.layout.root, pictures, products), switch.copied, switch.removed, before),
    )
    if switch.feeds:
        log.info("Feeds for the shop's importers: %s", ", ".join(switch.feeds))
    return Published(
        run=place.run.name,
        previous=current.previous,
        at=current.at,
        products=products,
        pictures=pictures,
        copied=switch.copied,
        removed=switch.removed,
        unpublished=len(scratch.unpublished),
        examples=tuple(scratch.unpublished)[:EXAMPLES],
        mapping=place.mapping,
        feeds=switch.feeds,
        **of_the_run,
    )
