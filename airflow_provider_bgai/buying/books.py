"""What was paid, a line per call, written once; and who walks ``open/`` so that no call is forgotten.

A call belongs for ever to the run that sent it. Whoever ends a run puts the calls that have ended into one new books
file, whichever run sent them, and then removes their markers. Killed in between, a call may stand in two files: readers
count a ``call_id`` once, and of two lines the definite one before perhaps. Who adds up reads ``open/`` first and the
books after it, so at every moment, for every vendor and month::

    paid (books; open: landed, quarantined, lost)  <=  the vendor's counter  <=  paid + perhaps (all else that is open)

``answered`` counts as perhaps until it ends, because the vendor may still fail it for free.
"""

from __future__ import annotations

import logging
import uuid
from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Literal

from airflow_provider_bgai.buying.calls import Ledger, read_marker
from airflow_provider_bgai.buying.decision import Asks, decide
from airflow_provider_bgai.buying.decisions import last_of
from airflow_provider_bgai.buying.record import ENDS, PAID, Call
from airflow_provider_bgai.layout import Marker, call_of, marker_of
from airflow_provider_bgai.lines import dump_lines, stream_lines
from airflow_provider_bgai.storage import S3Object

log = logging.getLogger(__name__)

YOUNG = 3600.0
"""Seconds for which a marker without its record is left alone: its record may be on its way."""
THREADS = 10
AT_ONCE = 1000
"""Lines of a file at most: they are in memory together, and S3 deletes as many markers by one request."""


def month_of(call: Call) -> str:
    """The month whose books a call stands in: that of ``sent_at``, of UTC, like ``2026-11``."""
    return datetime.fromtimestamp(call.sent_at, UTC).strftime("%Y-%m")


def book(ledger: Ledger, run: str, calls: Iterable[Call]) -> None:
    """Write ended calls into new files of the books, then remove their markers and what was incoming of them.

    :param run: who writes; not necessarily who sent them.
    """
    months: dict[str, dict[str, Call]] = defaultdict(dict)
    for call in calls:
        if call.state in ENDS:
            ended = months[month := month_of(call)]
            ended[call.call_id] = call
            if len(ended) == AT_ONCE:
                _book(ledger, run, month, [*months.pop(month).values()])
    for month, ended in months.items():
        _book(ledger, run, month, [*ended.values()])


def _book(ledger: Ledger, run: str, month: str, calls: Sequence[Call]) -> None:
    uri, body = ledger.layout.books_file(month, run, uuid.uuid4().hex), dump_lines(it.for_books() for it in calls)

    def put() -> None:
        ledger.storage.put(uri, body, content_type="application/x-ndjson")

    ledger.storage.insist(put, f"the books of {len(calls)} call(s)")
    done = []
    for call in calls:
        done.append(ledger.layout.marker(call.fingerprint, call.number, call.call_id))
        if call.incoming and call.state in ("landed", "quarantined"):
            done.append(ledger.layout.incoming(call.call_id))
    ledger.storage.delete_all(done)


def read_books(ledger: Ledger, month: str | None = None, since: float | None = None) -> Iterator[Call]:
    """The lines of the books, each ``call_id`` once: the definite line where there is one.

    :param month: like ``2026-11``; None for all.
    :param since: only files written after this (epoch seconds on the store's clock); for what one run came to.
    """
    definite: set[bytes] = set()
    doubtful: dict[bytes, Call] = {}
    for item in ledger.storage.list(ledger.layout.books(month)):
        if since is not None and item.modified < since - 1:
            continue
        for call in stream_lines(ledger.storage, item.uri, Call):
            name = bytes.fromhex(call.call_id)
            if call.state == "unknown":
                doubtful.setdefault(name, call)
            elif name not in definite:
                definite.add(name)
                yield call
    yield from (call for name, call in doubtful.items() if name not in definite)


@dataclass
class Walk:
    """What a walk through ``open/`` has found.

    :ivar ended: calls in an end state, to be booked.
    :ivar waiting: answered calls, to be collected by whoever can.
    :ivar open: all others: calls under way, or held.
    """

    ended: list[Call] = field(default_factory=list)
    waiting: list[Call] = field(default_factory=list)
    open: list[Call] = field(default_factory=list)


Where = Literal["ended", "waiting", "open"]


def walk(ledger: Ledger, *, older_than: float = 0.0) -> Walk:
    """Look at every marker: end the calls whose hold is over, take up delivered bytes. Blocking; books nothing.

    :param older_than: seconds; younger markers are left to their own runs.
    """
    now = ledger.storage.now()
    found = Walk()

    def look(item: S3Object) -> tuple[Call, Where] | None:
        marker = marker_of(item.uri)
        assert marker is not None
        try:
            return _look(ledger, marker, item, now)
        except ValueError as error:
            log.error("%s", error)
            return None

    markers = [
        it for it in ledger.storage.list(ledger.layout.open) if marker_of(it.uri) and now - it.modified >= older_than
    ]
    with ThreadPoolExecutor(THREADS, "bgai-walk") as pool:
        for call, where in filter(None, pool.map(look, markers)):
            getattr(found, where).append(call)
    return found


def _look(ledger: Ledger, marker: Marker, item: S3Object, now: float) -> tuple[Call, Where] | None:
    """The call of a marker as it stands now, and where it belongs. :raises ValueError: if it cannot be read."""
    call = ledger.read(marker.fingerprint, marker.number)
    if call is None or call.call_id != marker.call_id:
        return _orphan(ledger, marker, item, now, call)
    if call.state == "sent" and now >= call.answer_by:
        decision = decide(last_of(ledger, call, now), Asks(), now)
        if decision.action == "take":
            ledger.mark(call)
            call = ledger.answered(call, incoming=True)
        elif decision.ends:
            ledger.mark(call)
            call = ledger.end(call, "unknown", reason="unknown", error="It was never answered")
    return call, "ended" if call.state in ENDS else "waiting" if call.state == "answered" else "open"


def _orphan(
    ledger: Ledger, marker: Marker, item: S3Object, now: float, other: Call | None
) -> tuple[Call, Where] | None:
    """A marker whose number holds no record, or another call's: perhaps paid, unless its call stands elsewhere."""
    call = read_marker(ledger.storage, item.uri)
    if call is None:
        return None
    if now - item.modified < YOUNG:
        return call, "open"  # whatever the marker says: only a record can be collected
    for number in _numbers(ledger, marker.fingerprint):
        if ledger.own(call.model_copy(update={"number": number})) is not None:
            ledger.storage.delete(item.uri)  # written anew under another number, where it has a marker of its own
            return None
    doubt = {"reason": "unknown", "error": "Its record is gone"}
    if other is not None:
        return call.model_copy(update={"state": "unknown", "ended_at": now, **doubt}), "ended"
    adopted = ledger.adopt(call, "unknown", **doubt)
    return None if adopted is None else (adopted, "ended")


def _numbers(ledger: Ledger, fingerprint: str) -> list[int]:
    found = (call_of(item.uri) for item in ledger.storage.list(f"{ledger.layout.calls(fingerprint)}."))
    return [call[1] for call in found if call]


def bounds(ledger: Ledger, month: str | None = None) -> dict[str, tuple[int, int]]:
    """Pictures paid for certain, and paid perhaps besides, by vendor; the vendor's counter lies between.

    :param month: like ``2026-11``; None for all.
    """
    paid: dict[str, dict[str, int]] = defaultdict(dict)
    perhaps: dict[str, dict[str, int]] = defaultdict(dict)

    def note(call: Call) -> None:
        if month is not None and month_of(call) != month:
            return
        if call.state in PAID:
            paid[call.vendor][call.call_id] = call.pictures
        elif call.state != "failed":
            perhaps[call.vendor][call.call_id] = call.pictures

    for call in read_open(ledger):
        note(call)
    for call in read_books(ledger, month):
        perhaps[call.vendor].pop(call.call_id, None)
        note(call)
    found = {}
    for vendor in sorted({*paid, *perhaps}):
        unsure = {name: count for name, count in perhaps[vendor].items() if name not in paid[vendor]}
        found[vendor] = (sum(paid[vendor].values()), sum(unsure.values()))
    return found


def read_open(ledger: Ledger) -> Iterator[Call]:
    """The calls that are not in the books yet, as they stand; what has no record of its own as its marker says."""

    def look(item: S3Object) -> Call | None:
        marker = marker_of(item.uri)
        if marker is None:
            return None
        try:
            call = ledger.read(marker.fingerprint, marker.number)
        except ValueError:
            call = None
        return call if call is not None and call.call_id == marker.call_id else read_marker(ledger.storage, item.uri)

    with ThreadPoolExecutor(THREADS, "bgai-open") as pool:
        yield from (call for call in pool.map(look, ledger.storage.list(ledger.layout.open)) if call is not None)


@dataclass(frozen=True)
class Audit:
    """What a comparison of all records with the books and ``open/`` found.

    :param unbooked: calls that stand in neither: somebody removed a marker. They were booked now, if they had ended.
    :param unrecorded: calls in the books whose record is gone, by fingerprint and number.
    """

    calls: int
    unbooked: list[Call]
    unrecorded: list[Call]


def audit(ledger: Ledger) -> Audit:
    """Compare ``calls/`` with the books and ``open/``; once a month is enough."""
    known = {call.call_id for call in read_open(ledger)}
    booked: dict[tuple[str, int], Call] = {}
    for call in read_books(ledger):  # definite lines come first
        known.add(call.call_id)
        booked.setdefault((call.fingerprint, call.number), call)
    unbooked, count = [], 0
    for item in ledger.storage.list(ledger.layout.calls()):
        name = call_of(item.uri)
        if name is None:
            continue
        count += 1
        line = booked.pop(name, None)
        if line is None or line.state == "unknown":  # that of a call, perhaps, which lost the race for the number
            call_there = ledger.read(*name)
            if call_there is not None and call_there.call_id not in known:
                ledger.mark(call_there)
                unbooked.append(call_there)
    book(ledger, "audit", unbooked)
    return Audit(count, unbooked, list(booked.values()))


def restore(ledger: Ledger, calls: Iterable[Call]) -> int:
    """Write records that are gone anew from their lines in the books. How many."""
    return sum(
        ledger.storage.create(ledger.layout.call(call.fingerprint, call.number), call.body()) is not None
        for call in calls
    )
