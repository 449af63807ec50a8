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
"""

from __future__ import annotations

import json
import logging
import re
import sqlite3
import tempfile
import time
import uuid
from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from itertools import islice
from typing import TypeVar

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from airflow_provider_bgai.catalogue.landing import name_output
from airflow_provider_bgai.catalogue.ledger import Landed, Ledger
from airflow_provider_bgai.catalogue.plan import PlanRecord, read_plan
from airflow_provider_bgai.catalogue.records import Result, Wanted
from airflow_provider_bgai.catalogue.state import SkuState, read_state, write_state
from airflow_provider_bgai.exceptions import InvalidRequestError
from airflow_provider_bgai.storage import Storage, split_uri

log = logging.getLogger(__name__)

T = TypeVar("T")
M = TypeVar("M", bound=BaseModel)

WITH_PICTURES = ("bought", "reused", "unchanged")
FAILURES = ("failed", "lost", "refused", "held")
# A publisher that has not renewed its note for so many seconds is dead.
LEASE = 120.0
BATCH = 256
MAX_KEY_BYTES = 1024
HISTORY = 100
EXAMPLES = 20


class PublishError(Exception):
    """Nothing was switched: the shop's mapping is the one it was."""


class TooManyFailuresError(PublishError):
    """More products failed than ``max_failure_ratio`` allows. Nothing was published; landed pictures stay."""


class PublishConflictError(PublishError):
    """Another publisher is at work, or took over. Try again later."""


class Entry(BaseModel):
    """One published picture: a line of a mapping.

    :param key: below the destination.
    :param uri: the content-addressed picture it is a copy of.
    """

    model_config = ConfigDict(frozen=True, extra="ignore")

    key: str
    uri: str
    sha256: str
    fingerprint: str
    sku: str


class Touched(BaseModel):
    """A key that a publisher set out to change."""

    key: str


class Pending(BaseModel):
    """Somebody is changing keys. ``until`` (epoch seconds) tells the dead from the living."""

    model_config = ConfigDict(extra="ignore")

    run: str
    touched: str
    until: float


class Current(BaseModel):
    """Which mapping holds: ``_bgai/published/current``.

    :param run: whose mapping it is; None while the very first one is being published.
    :param previous: what :func:`rollback` restores.
    :param at: epoch seconds of the switch.
    :param history: the runs before, latest first.
    """

    model_config = ConfigDict(extra="ignore")

    schema_version: int = 1
    run: str | None = None
    previous: str | None = None
    at: float = 0.0
    history: tuple[str, ...] = ()
    pending: Pending | None = None


class Published(BaseModel):
    """What came of publishing or rolling back: counts and URIs, small enough for XCom and an asset event.

    :param outcomes: products of the run by outcome; empty after a rollback.
    :param failures: failed, lost, refused and held ones; ``failure_ratio`` is their share of all but over_budget.
    :param pictures: stable keys in the mapping, of ``products`` SKUs; those of SKUs not in this run are kept.
    :param copied, removed: stable keys written and deleted.
    :param missing: products whose picture was bought and is not in S3; ``examples`` names some of them.
    """

    run: str
    previous: str | None
    at: float
    outcomes: dict[str, int] = Field(default_factory=dict)
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
    :param workers: S3 requests at a time.
    :raises TooManyFailuresError: with the counts. The manifest is written all the same.
    :raises PublishConflictError: if another run is just being published.
    """
    if not 0 <= max_failure_ratio <= 1:
        raise InvalidRequestError(f"max_failure_ratio={max_failure_ratio!r}: must lie between 0 and 1")
    place = _Place(destination, run)
    with closing(_Work(storage, place, workers, lease)) as work:
        work.load_run()
        turn = work.turn()
        work.load_known(turn.current.run)
        work.fill_wanted()
        outcomes, failures, ratio = work.judge()
        work.write_manifest()
        if ratio > max_failure_ratio:
            counts = ", ".join(f"{count} {outcome}" for outcome, count in sorted(outcomes.items()))
            raise TooManyFailuresError(
                f"Nothing published: {failures} of {work.expected(outcomes)} products failed ({ratio:.1%}, "
                f"allowed {max_failure_ratio:.1%}): {counts}. Landed pictures stay; what became of every product "
                f"stands in {place.manifest}"
            )
        history = turn.current.history
        if turn.current.run not in (None, run):
            history = (str(turn.current.run), *history)
        published = work.switch(turn, tuple(name for name in history if name != run)[:HISTORY], now)
        if published.missing:
            work.write_manifest()
        outcomes, failures, ratio = work.judge()
    return published.model_copy(
        update={
            "outcomes": outcomes,
            "failures": failures,
            "failure_ratio": round(ratio, 4),
            "manifest": place.manifest,
        }
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

    Stable keys that did not exist in it are removed; their pictures stay below ``_bgai/pictures``, so that rolling
    forward (``to`` the later run) brings them back. What the next plan compares with is left alone, so the next
    publish shows again what the recipe asks for: change the recipe before.

    :param to: the run to go back to; None for the one before the current one.
    :raises PublishError: if there is no such version.
    """
    before = read_current(storage, destination)
    target = to or before.previous
    if target is None:
        raise PublishError(
            f"Nothing to roll back to: {before.run or 'nothing'} is published at {destination}, and nothing before it"
        )
    place = _Place(destination, target)
    with closing(_Work(storage, place, workers, lease)) as work:
        turn = work.turn()
        if to is None and turn.current.previous != target:
            raise PublishConflictError(
                f"Another publisher switched to {turn.current.run}; look again before rolling back"
            )
        work.load_known(turn.current.run)
        work.load_wanted()
        past = turn.current.history
        if target in past:
            history = past[past.index(target) + 1 :]
        elif turn.current.run in (None, target):
            history = past
        else:
            history = (str(turn.current.run), *past)
        return work.switch(turn, history[:HISTORY], now)


def read_current(storage: Storage, destination: str) -> Current:
    """Which mapping holds; an empty one if nothing was ever published."""
    return _read_current(storage, f"{destination.rstrip('/')}/_bgai/published/current")[0]


def read_mapping(storage: Storage, destination: str, run: str) -> Iterator[Entry]:
    """What a run published. :raises FileNotFoundError: if it did not."""
    return _lines(storage, _Place(destination, run).mapping, Entry)


def read_manifest_of_run(storage: Storage, destination: str, run: str) -> Iterator[Result]:
    """What became of every SKU of a run. :raises FileNotFoundError: before :func:`publish`."""
    return _lines(storage, _Place(destination, run).manifest, Result)


class _Place:
    """Where things are, and which keys are fit to be written."""

    def __init__(self, destination: str, run: str) -> None:
        self.root = destination.rstrip("/")
        split_uri(self.root)
        if "{" in self.root:
            raise InvalidRequestError(f"destination={destination!r}: must be a folder, without {{…}}")
        if not re.fullmatch(r"[A-Za-z0-9._:+@=-]{1,300}", run) or run in ("current", ".", ".."):
            raise InvalidRequestError(f"run={run!r}: must be letters, digits and . _ : + @ = -, and not 'current'")
        self.run = run
        self.folder = f"{self.root}/_bgai/runs/{run}"
        self.manifest = f"{self.folder}/manifest.jsonl"
        self.published = f"{self.root}/_bgai/published"
        self.current = f"{self.published}/current"
        self.mapping = f"{self.published}/{run}.jsonl"
        self.pictures = f"{self.root}/_bgai/pictures"

    def stable(self, key: str) -> str:
        """The URI of a stable key. :raises InvalidRequestError: for one that must not be written."""
        uri = f"{self.root}/{key}"
        path = split_uri(uri)[1]
        if not key or key.endswith("/") or "\\" in key or "{" in key or "}" in key:
            raise InvalidRequestError(f"{key!r}: is no name for a picture")
        if key.partition("/")[0].lower() == "_bgai":
            raise InvalidRequestError(f"{key!r}: _bgai/ holds the records")
        try:
            length = len(path.encode())
        except UnicodeEncodeError:
            raise InvalidRequestError(f"{key!r}: is not UTF-8 text") from None
        if length > MAX_KEY_BYTES:
            raise InvalidRequestError(f"{key[:80]!r}…: is {length} bytes long as an S3 key; at most {MAX_KEY_BYTES}")
        return uri

    def picture(self, uri: str) -> str:
        """The picture's URI. :raises InvalidRequestError: unless it is one of this catalogue's own."""
        split_uri(uri)
        if not uri.startswith(f"{self.pictures}/"):
            raise InvalidRequestError(f"{uri!r}: is not below {self.pictures}/, so it is not published")
        return uri

    def entries(self, result: Result, landed: Landed | None = None) -> list[Entry]:
        """Which keys shall show which pictures. :raises InvalidRequestError: for what must not be published."""
        images = landed.images if landed else result.images
        entries = []
        for index, image in enumerate(images, start=1):
            extension = image.uri.rpartition(".")[2]
            if not re.fullmatch(r"[a-z0-9]{1,5}", extension):
                raise InvalidRequestError(f"{image.uri!r}: has no extension of a picture")
            # A landed record may name a place of somebody else's; the run has its own copy under this name.
            uri = f"{self.pictures}/{landed.fingerprint}-{index}.{extension}" if landed else image.uri
            key = name_output(result.name, index, extension)
            self.stable(key)
            entries.append(
                Entry(
                    key=key,
                    uri=self.picture(uri),
                    sha256=image.sha256,
                    fingerprint=result.fingerprint or "",
                    sku=result.sku,
                )
            )
        if len({entry.key for entry in entries}) < len(entries):
            raise InvalidRequestError(f"{result.name!r}: needs {{index}}, or its pictures would overwrite each other")
        return entries


class _Turn:
    """The note in ``current`` that this publisher is at work."""

    def __init__(self, storage: Storage, place: _Place, lease: float) -> None:
        self.storage, self.place, self.lease = storage, place, lease
        self.current, self.etag = _read_current(storage, place.current)
        self.until = float("inf")
        pending = self.current.pending
        # The same run again is a retry: it need not wait for its dead predecessor.
        if pending and pending.run != place.run and time.time() < pending.until:
            raise PublishConflictError(
                f"Run {pending.run} is just being published to {place.root}. If it died, this is possible again in "
                f"{pending.until - time.time():.0f} s"
            )

    def note(self, touched: str) -> None:
        """Say that work begins, or goes on."""
        until = time.time() + self.lease
        self._write(
            self.current.model_copy(update={"pending": Pending(run=self.place.run, touched=touched, until=until)})
        )
        self.until = until

    def renew(self) -> None:
        """Say so again before the note looks dead."""
        if self.current.pending and self.until - time.time() < self.lease * 2 / 3:
            self.note(self.current.pending.touched)

    def check(self) -> None:
        """Write no key after the note has run out: somebody else may be at work."""
        if time.time() >= self.until:
            raise PublishConflictError(f"Publishing {self.place.run} was suspended for too long; it can be run again")

    def _write(self, current: Current) -> None:
        body = current.model_dump_json().encode()
        if self.etag is None:
            etag = self.storage.create(self.place.current, body)
        else:
            etag = self.storage.replace(self.place.current, body, self.etag)
        if etag is None:
            raise PublishConflictError(f"Another publisher switched {self.place.current} meanwhile")
        self.current, self.etag = current, etag

    def finish(self, history: tuple[str, ...], now: float) -> None:
        """The switch."""
        previous = history[0] if history else None
        self._write(Current(run=self.place.run, previous=previous, at=now, history=history))


_TABLES = """
pragma journal_mode = off;
create table results (sku text primary key, outcome text, line text) without rowid;
create table states (sku text primary key, line text) without rowid;
create table refused_rows (line text);
create table known (key text primary key, sku text, fingerprint text, sha256 text, line text) without rowid;
create table wanted (key text primary key, sku text, fingerprint text, sha256 text, line text) without rowid;
create table fresh (sku text primary key) without rowid;
create table to_copy (sku text primary key) without rowid;
create table touched (key text primary key) without rowid;
create index known_sku on known (sku);
create index wanted_sku on wanted (sku);
"""


class _Work:
    """The run's results and two mappings, in a temporary database: 100,000 products need no memory."""

    def __init__(self, storage: Storage, place: _Place, workers: int, lease: float) -> None:
        self.storage, self.place, self.lease = storage, place, lease
        self.pool = ThreadPoolExecutor(workers, "bgai-publish")
        # An empty name is a private file on disk, deleted with the connection.
        self.db = sqlite3.connect("", isolation_level=None)
        self.db.executescript(_TABLES)
        self.db.execute("begin")
        self.plan: PlanRecord | None = None
        self.missing: dict[str, None] = {}
        _ = storage.client  # looked up before there are threads

    def close(self) -> None:
        self.pool.shutdown(cancel_futures=True)
        self.db.close()

    def turn(self) -> _Turn:
        return _Turn(self.storage, self.place, self.lease)

    # What became of every SKU

    def load_run(self) -> None:
        """Planned, then generated, then what the generate stage owes an answer for."""
        uri = f"{self.place.folder}/plan.json"
        try:
            self.plan = read_plan(self.storage, uri)
        except FileNotFoundError:
            raise PublishError(f"There is no run to publish: {uri} does not exist") from None
        except ValidationError as error:
            raise PublishError(f"{uri}: is no plan: {error}") from None
        # What the plan names, not what is there: a plan made anew may leave files of the one before.
        for part, uris in (("planned", self.plan.planned), ("results", map(self._results_of, self.plan.shards))):
            for result in self._part(uris, Result):
                if part == "planned" and result.outcome == "refused":
                    # Rows of the shop's list, some without a SKU or with that of another row: none replaces another.
                    self.db.execute("insert into refused_rows values (?)", (result.model_dump_json(),))
                else:
                    self._put_result(result)
        for wanted in self._part(self.plan.shards, Wanted):
            for sku, name in zip(wanted.skus, wanted.names, strict=True):
                answer = Result(
                    sku=sku,
                    name=name,
                    outcome="failed",
                    category=wanted.category,
                    fingerprint=wanted.fingerprint,
                    source=wanted.source,
                    reason="no_result",
                    price=None,
                    error="The generate stage left no result for it. Whatever was paid is collected by the next run",
                )
                self._put_result(answer, "or ignore")

    def _results_of(self, shard: str) -> str:
        return f"{self.place.folder}/results/{shard.rpartition('/')[2]}"

    def _part(self, uris: Iterable[str], kind: type[M]) -> Iterator[M]:
        for uri in uris:
            try:
                yield from _lines(self.storage, uri, kind)
            except FileNotFoundError:
                # A shard that was never generated, or a file that somebody deleted.
                log.warning("%s: does not exist", uri)

    def _put_result(self, result: Result, conflict: str = "or replace") -> None:
        row = (result.sku, result.outcome, result.model_dump_json())
        self.db.execute(f"insert {conflict} into results values (?, ?, ?)", row)

    def _results(self) -> Iterator[Result]:
        """By SKU. The table may be changed meanwhile."""
        last = ""
        while rows := self.db.execute(
            "select sku, line from results where sku > ? order by sku limit ?", (last, BATCH)
        ).fetchall():
            last = rows[-1][0]
            yield from (Result.model_validate_json(line) for _, line in rows)

    def judge(self) -> tuple[dict[str, int], int, float]:
        """Products by outcome, how many failed, and which share of those that should have a picture."""
        outcomes: dict[str, int] = dict(self.db.execute("select outcome, count(*) from results group by outcome"))
        if refused := self._count("refused_rows"):
            outcomes["refused"] = outcomes.get("refused", 0) + refused
        failures = sum(outcomes.get(outcome, 0) for outcome in FAILURES)
        return outcomes, failures, failures / max(1, self.expected(outcomes))

    def expected(self, outcomes: dict[str, int]) -> int:
        """Products that should have a picture now: the budget left the others for another night."""
        return sum(outcomes.values()) - outcomes.get("over_budget", 0)

    def write_manifest(self) -> None:
        query = "select line from (select sku, line from results order by sku) union all select line from refused_rows"
        self._write_lines(self.place.manifest, (row[0] for row in self.db.execute(query)))

    def write_state(self, plan: PlanRecord) -> None:
        """What the next plan compares with; SKUs that were not published now keep what they had."""
        for state in read_state(self.storage, self.place.root):
            self._put_state(state)
        for result in self._results():
            if result.outcome in WITH_PICTURES:
                self._put_state(plan.state_of(result))
        lines = self.db.execute("select line from states order by sku")
        write_state(self.storage, self.place.root, (SkuState.model_validate_json(line) for (line,) in lines))

    def _put_state(self, state: SkuState) -> None:
        self.db.execute("insert or replace into states values (?, ?)", (state.sku, state.model_dump_json()))

    # Mappings

    def load_known(self, run: str | None) -> None:
        if run is not None:
            for entry in _lines(self.storage, f"{self.place.published}/{run}.jsonl", Entry):
                self._put_entry("known", entry)

    def load_wanted(self) -> None:
        try:
            for entry in _lines(self.storage, self.place.mapping, Entry):
                self._put_entry("wanted", entry)
        except FileNotFoundError:
            raise PublishError(f"Run {self.place.run} was never published: there is no {self.place.mapping}") from None

    def fill_wanted(self) -> None:
        """What is published, changed by the run's pictures. Pictures that cannot be published are reported."""
        self.db.execute("insert into wanted select * from known")
        with_pictures = (result for result in self._results() if result.outcome in WITH_PICTURES)
        for batch in _batches(with_pictures, BATCH):
            asked = [result for result in batch if not result.images and not self._stays(result)]
            landed = dict(zip((it.sku for it in asked), self.pool.map(self._landed, asked), strict=True))
            for result in batch:
                if result.images or result.sku in landed:
                    self._want(result, landed.get(result.sku))

    def _stays(self, result: Result) -> bool:
        """Whether what is published is what the result means, so that its landed record need not be read."""
        rows = self._entries("known", result.sku)
        if result.fingerprint is None:
            return bool(rows)
        return bool(rows) and all(
            entry.fingerprint == result.fingerprint and entry.key == _key_of(result.name, entry) for entry in rows
        )

    def _landed(self, result: Result) -> Landed | None:
        if result.fingerprint is None or not re.fullmatch(r"[A-Za-z0-9_-]{1,128}", result.fingerprint):
            return None
        try:
            return Ledger(self.storage, self.place.root).read_landed(result.fingerprint)
        except ValidationError as error:
            log.warning("%s: its landed record cannot be read: %s", result.sku, error)
            return None

    def _want(self, result: Result, landed: Landed | None) -> None:
        if not result.images and (landed is None or not landed.images):
            self._report_missing(result, "There is no landed record of its picture")
            return
        try:
            entries = self.place.entries(result, landed)
            for entry in entries:
                query = "select sku from wanted join fresh using (sku) where key = ? and sku <> ?"
                if taken := self.db.execute(query, (entry.key, result.sku)).fetchone():
                    raise InvalidRequestError(f"{entry.key!r}: is the name of {taken[0]!r} as well")
        except InvalidRequestError as error:
            self._put_result(
                result.model_copy(
                    update={"outcome": "refused", "reason": "refused", "error": f"Not published: {error}"}
                )
            )
            return
        self.db.execute("delete from wanted where sku = ?", (result.sku,))
        self.db.execute("insert into fresh values (?)", (result.sku,))
        for entry in entries:
            self._put_entry("wanted", entry)
        if landed:
            images = (
                image.model_copy(update={"uri": it.uri}) for image, it in zip(landed.images, entries, strict=True)
            )
            self._put_result(result.model_copy(update={"images": tuple(images)}))

    def _report_missing(self, result: Result, message: str) -> None:
        self.missing[result.sku] = None
        # Who paid for it in this run has lost it; for the others it was paid before.
        outcome = "lost" if result.outcome == "bought" else "failed"
        log.warning("%s: not published: %s", result.sku, message)
        self._put_result(result.model_copy(update={"outcome": outcome, "reason": "missing", "error": message}))

    def _put_entry(self, table: str, entry: Entry) -> None:
        row = (entry.key, entry.sku, entry.fingerprint, entry.sha256, entry.model_dump_json())
        self.db.execute(f"insert or replace into {table} values (?, ?, ?, ?, ?)", row)

    def _entries(self, table: str, sku: str) -> list[Entry]:
        rows = self.db.execute(f"select line from {table} where sku = ?", (sku,))
        return [Entry.model_validate_json(line) for (line,) in rows]

    # The switch

    def switch(self, turn: _Turn, history: tuple[str, ...], now: float) -> Published:
        """Make the wanted mapping true, then current."""
        left_by_dead = turn.current.pending
        if left_by_dead is not None:
            self._load_touched(left_by_dead.touched, turn)
        # What may differ from the wanted mapping: what differs from the known one, and what a dead publisher touched.
        self.db.execute(
            "insert or ignore into touched select key from wanted left join known using (key)"
            " where known.sha256 is null or known.sha256 <> wanted.sha256"
        )
        self.db.execute("insert or ignore into touched select key from known where key not in (select key from wanted)")
        touched = f"{self.place.published}/{self.place.run}.{uuid.uuid4().hex}.touched"
        keys = self.db.execute("select key from touched")
        self._write_lines(touched, (json.dumps({"key": key}) for (key,) in keys))
        turn.note(touched)
        if left_by_dead is not None:
            self.storage.delete(left_by_dead.touched)  # this publisher's note says it all
        copied = self._copy(turn)
        removed = self._remove(turn)
        lines = self.db.execute("select line from wanted order by key")
        turn.check()
        self._write_lines(self.place.mapping, (line for (line,) in lines))
        if self.plan is not None:
            # Before the switch, so that no other publisher comes in between; a plan knows what is landed anyway.
            turn.renew()
            self.write_state(self.plan)
        turn.check()
        turn.finish(history, now)
        self.storage.delete(touched)
        products, pictures = self.db.execute("select count(distinct sku), count(*) from wanted").fetchone()
        return Published(
            run=self.place.run,
            previous=turn.current.previous,
            at=now,
            products=products,
            pictures=pictures,
            copied=copied,
            removed=removed,
            missing=len(self.missing),
            examples=tuple(self.missing)[:EXAMPLES],
            mapping=self.place.mapping,
        )

    def _load_touched(self, uri: str, turn: _Turn) -> None:
        try:
            for touched in _lines(self.storage, uri, Touched):
                self.db.execute("insert or ignore into touched values (?)", (touched.key,))
        except FileNotFoundError:
            if _read_current(self.storage, self.place.current)[1] != turn.etag:
                raise PublishConflictError(f"Another publisher switched {self.place.current} meanwhile") from None
            raise PublishError(f"{uri}: is gone, so nobody knows which keys a dead publisher changed") from None

    def _copy(self, turn: _Turn) -> int:
        """Copy what changes, product by product: all pictures of one are new, or all stay."""
        self.db.execute("insert or ignore into to_copy select sku from wanted join touched using (key)")
        copied = 0
        for batch in self._pages("select sku from to_copy where sku > ? order by sku limit ?"):
            turn.renew()
            jobs = []
            for sku in batch:
                changed = self.db.execute("select line from wanted join touched using (key) where sku = ?", (sku,))
                jobs.append([Entry.model_validate_json(line) for (line,) in changed])
            done = self.pool.map(lambda job: self._copy_product(turn, job), jobs)
            for sku, job, whole in zip(batch, jobs, done, strict=True):
                if whole:
                    copied += len(job)
                else:
                    self._keep_old(turn, sku)
        return copied

    def _copy_product(self, turn: _Turn, entries: Iterable[Entry]) -> bool:
        """False if a picture is gone."""
        from botocore.exceptions import ClientError

        for entry in entries:
            turn.check()
            try:
                self.storage.copy(self.place.picture(entry.uri), self.place.stable(entry.key))
            except ClientError:
                if self.storage.head(entry.uri) is not None:
                    raise
                return False
        return True

    def _keep_old(self, turn: _Turn, sku: str) -> None:
        """What a product had, after its new pictures turned out to be gone; nothing if that is gone too."""
        self.db.execute("delete from wanted where sku = ?", (sku,))
        old = self._entries("known", sku)
        taken = [
            entry.key for entry in old if self.db.execute("select 1 from wanted where key = ?", (entry.key,)).fetchone()
        ]
        if old and not taken and self._copy_product(turn, old):
            for entry in old:
                self._put_entry("wanted", entry)
        else:
            # Its keys may hold anything now.
            self.db.executemany("insert or ignore into touched values (?)", [(entry.key,) for entry in old])
        row = self.db.execute("select line from results where sku = ?", (sku,)).fetchone()
        if row:
            self._report_missing(
                Result.model_validate_json(row[0]), "Its picture was landed, but is not in S3 any more"
            )
        else:
            self.missing[sku] = None

    def _remove(self, turn: _Turn) -> int:
        removed = 0
        query = "select key from touched where key > ? and key not in (select key from wanted) order by key limit ?"
        for batch in self._pages(query):
            turn.renew()
            removed += len(list(self.pool.map(lambda key: self._remove_key(turn, key), batch)))
        return removed

    def _remove_key(self, turn: _Turn, key: str) -> None:
        turn.check()
        self.storage.delete(self.place.stable(key))

    # The database and files

    def _pages(self, query: str) -> Iterator[list[str]]:
        """The first column, some rows at a time, so that the tables may be changed meanwhile."""
        last = ""
        while rows := self.db.execute(query, (last, BATCH)).fetchall():
            last = rows[-1][0]
            yield [row[0] for row in rows]

    def _count(self, table: str) -> int:
        count: int = self.db.execute(f"select count(*) from {table}").fetchone()[0]
        return count

    def _write_lines(self, uri: str, lines: Iterable[str]) -> None:
        with tempfile.TemporaryFile() as file:
            file.writelines(line.encode() + b"\n" for line in lines)
            file.seek(0)
            self.storage.put(uri, file, content_type="application/x-ndjson")


def _lines(storage: Storage, uri: str, kind: type[M]) -> Iterator[M]:
    """The records of a file of JSON lines, streamed. :raises FileNotFoundError: if there is none."""
    with tempfile.TemporaryFile() as file:
        storage.download(uri, file)
        file.seek(0)
        for number, line in enumerate(file, start=1):
            if line.strip():
                try:
                    yield kind.model_validate_json(line)
                except ValidationError as error:
                    raise PublishError(f"{uri}, line {number}: is no {kind.__name__}: {error}") from None


def _read_current(storage: Storage, uri: str) -> tuple[Current, str | None]:
    try:
        body, etag = storage.read_versioned(uri)
    except FileNotFoundError:
        return Current(), None
    return Current.model_validate_json(body), etag


def _key_of(name: str, entry: Entry) -> str | None:
    """The key that a name gives a picture called ``…-{index}.{ext}``."""
    found = re.search(r"-(\d+)\.([a-z0-9]+)$", entry.uri)
    return name_output(name, int(found[1]), found[2]) if found else None


def _batches(items: Iterable[T], size: int) -> Iterator[list[T]]:
    rest = iter(items)
    while batch := list(islice(rest, size)):
        yield batch
