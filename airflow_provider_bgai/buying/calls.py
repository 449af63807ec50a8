"""The ledger: conditional writes that let nobody pay or report twice.

What must stay true:

* A marker in ``open/`` is there from before the record until the call is in the books, so no call is forgotten.
* One's own write is recognised by its ``call_id``: what is read back at the state written, or a later one, is done.
* A record that is gone, or is another's, while an answer is in hand is written anew under a number above its own and
  above the last, with a marker of its own; never under its old number, whose marker somebody may be removing.
* No record returns to an earlier content, and nobody is ever told to delete one.

Everything here blocks, and what must be written as a whole is one function: :func:`in_thread` runs it, and a
cancelled task does not stop it half-way.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

from pydantic import ValidationError

from airflow_provider_bgai import storage as s3
from airflow_provider_bgai.buying.record import ENDS, NEXT, PAID, Call, State
from airflow_provider_bgai.exceptions import StoreError
from airflow_provider_bgai.layout import Layout, call_of
from airflow_provider_bgai.storage import Storage

log = logging.getLogger(__name__)

T = TypeVar("T")

UNPAID_PATIENCE = 30.0
"""Seconds for which S3 is tried with what costs no money if it is not written: a picture that waits for a day."""

# Not the loop's own executor, which ends with it: what has begun here ends, whatever becomes of the loop.
_THREADS = ThreadPoolExecutor(s3.THREADS, "bgai-ledger")


async def in_thread(work: Callable[..., T], *args: object) -> T:
    """Run blocking work of the ledger to its end. Who is cancelled meanwhile waits for that end, too.

    The work may be to store an answer that is paid, and Airflow ends a task's process without waiting for threads.
    """
    future = asyncio.wrap_future(_THREADS.submit(work, *args))
    cancelled: asyncio.CancelledError | None = None
    while not future.done():
        try:
            await asyncio.wait([future])
        except asyncio.CancelledError as error:
            cancelled = error
    if cancelled is None:
        return future.result()
    raise cancelled from future.exception()


async def store_time(storage: Storage) -> float:
    """Epoch seconds on the store's clock."""
    return storage.now() if storage.knows_time else await in_thread(storage.now)


class LostRaceError(Exception):
    """Another call has the number, or somebody else moved the record. Read again.

    :param another: the number is certainly another call's, so this one's leave may be given back.
    """

    def __init__(self, message: str, *, another: bool = False) -> None:
        super().__init__(message)
        self.another = another


class RecordGoneError(Exception):
    """The record is not there any more, or another call's stands in its place."""


class Ledger:
    """The calls below one root.

    :param root: ``s3://bucket/prefix`` of the destination, or of a ledger of its own.
    """

    def __init__(self, storage: Storage, root: str) -> None:
        self.storage = storage
        self.layout = Layout(root)

    # --- reading

    def read(self, fingerprint: str, number: int) -> Call | None:
        """A call's record, or None. :raises ValueError: if it cannot be read: that is no licence to buy."""
        try:
            body, etag = self.storage.read_versioned(self.layout.call(fingerprint, number))
        except FileNotFoundError:
            return None
        return _parsed(body, etag, self.layout.call(fingerprint, number))

    def own(self, call: Call) -> Call | None:
        """A call's record as it stands; None if it is gone, another call's, or nobody can read it any more."""
        try:
            found = self.read(call.fingerprint, call.number)
        except ValueError as error:
            log.error("%s", error)
            return None
        return found if found is not None and found.call_id == call.call_id else None

    def last_number(self, fingerprint: str) -> int:
        """The number of a wish's last call; 0 if it was never tried. One LIST."""
        found = (call_of(item.uri) for item in self.storage.list(f"{self.layout.calls(fingerprint)}."))
        return max((call[1] for call in found if call), default=0)

    def last(self, fingerprint: str) -> Call | None:
        """The last call of a wish, or None."""
        number = self.last_number(fingerprint)
        return self.read(fingerprint, number) if number else None

    def all(self, fingerprint: str) -> list[Call]:
        """All calls of a wish, in order."""
        numbers = range(1, self.last_number(fingerprint) + 1)
        return [call for number in numbers if (call := self.read(fingerprint, number)) is not None]

    def delivered(self, call: Call) -> bool:
        """Whether the bytes of a call without an answer are in ``incoming/``."""
        return self.storage.head(self.layout.incoming(call.call_id)) is not None

    def in_place(self, call: Call) -> bool:
        """Whether the pictures of a landed call are still in S3: who deletes them wants new ones."""
        return all(self.storage.head(self.layout.absolute(it.uri)) is not None for it in call.images)

    # --- writing

    def open(self, call: Call) -> Call:
        """Put the marker, then create the record.

        :returns: the record in state ``sent``: now, and only now, its bytes may go out.
        :raises LostRaceError: if its number is another call's, or somebody has ended this one: nothing may be sent.
        """
        self.mark(call)
        uri = self.layout.call(call.fingerprint, call.number)
        etag = self.storage.create(uri, call.body())
        if etag is not None:
            return _located(call, etag)
        found = self.own(call)
        if found is not None and found.state == "sent":
            return found
        another = found is None and self.storage.head(uri) is not None
        if another:
            self._unmark(call)
        raise LostRaceError(f"{uri}: is another call's, or has been ended", another=another)

    def withdraw(self, call: Call) -> State | None:
        """Take back a call that was certainly never sent.

        :returns: ``failed``; None if no record of it stands. After both its leave may be given back. ``sent`` where S3
            fails here, too: held without need, which costs time and no money.
        """

        def write() -> State | None:
            found = self.own(call)
            if found is None:
                self._unmark(call)
                return None
            if found.state == "failed":
                return "failed"
            return self.move(found, "failed", reason="never_sent", error="It was not sent").state

        try:
            return self.storage.insist(write, f"that {call.what} was not sent", patience=UNPAID_PATIENCE)
        except (LostRaceError, RecordGoneError, StoreError, ValueError) as error:
            log.warning("%s was not sent, and that could not be written down: %s", call.what, error)
            return "sent"

    def mark(self, call: Call) -> None:
        """Put a call's marker, again where it may be gone: who takes up a call that it found does so first."""
        self.storage.put(self.layout.marker(call.fingerprint, call.number, call.call_id), call.for_books().body())

    def _unmark(self, call: Call) -> None:
        self.storage.delete(self.layout.marker(call.fingerprint, call.number, call.call_id))

    def move(self, call: Call, state: State, **changes: object) -> Call:
        """The call in its next state, written in place of the record that was read.

        :returns: the record that stands: this one, or one that somebody else has brought to this state or further.
        :raises RecordGoneError: if there is none any more, or another call's.
        :raises LostRaceError: if it went another way: read again.
        :raises ValueError: for a transition that is not in the table.
        """
        if state not in NEXT.get(call.state, frozenset()):
            raise ValueError(f"call {call.call_id}: {call.state} -> {state} is not allowed")
        now = self.storage.now()
        if state in ENDS:
            changes = {"ended_at": now, **changes}
        written = call.model_copy(update={"state": state, **changes})
        uri, etag = self.layout.call(call.fingerprint, call.number), call._etag
        started, pause = time.monotonic(), 0.05
        while True:
            stored = self.storage.replace(uri, written.body(), etag)
            if stored is not None:
                return _located(written, stored)
            found = self.own(call)
            if found is None:
                raise RecordGoneError(uri)
            if found.state == state or (state == "answered" and found.state in PAID | {"failed"}):
                return found
            if found.state != call.state:
                raise LostRaceError(f"{uri}: is {found.state}, not {call.state} any more")
            if time.monotonic() - started > s3.PATIENCE:
                raise StoreError(
                    f"{written.what}: nobody changes its record, {uri}, and yet S3 refuses every If-Match on it, for "
                    f"{s3.PATIENCE:.0f} s now. The store must honour If-Match with the ETag it gave"
                )
            # The same record under another ETag: some stores give one with each answer.
            etag, pause = found._etag, min(2 * pause, 10.0)
            time.sleep(pause)

    def answered(self, call: Call, **answer: object) -> Call:
        """Write down the answer that was just paid for, wherever its record has gone.

        :param answer: ``task_id``, ``links``, ``incoming``, ``seed``, ``model``, ``warnings``, …
        :returns: the record that stands; ``unknown`` if somebody had given the call up: what came is logged and kept.
        :raises StoreError: if S3 refuses it for minutes; it says what is known.
        """
        answer = {"answered_at": self.storage.now(), **answer}

        def write() -> Call:
            try:
                return self.move(call, "answered", **answer)
            except LostRaceError:
                if (found := self.own(call)) is not None:
                    log.error("The answer of %s came after it was given up; it is not charged again", call.what)
                    return found
            except RecordGoneError:
                log.warning("The record of %s is gone", call.what)
            return self._anew(call.model_copy(update={"state": "answered", **answer}))

        return self.storage.insist(write, f"the answer of {call.model_copy(update=answer).what}")

    def _anew(self, call: Call) -> Call:
        """The record of an answered call whose own is gone, under a number above its own and above the last.

        It may stand there already: written by an earlier try of this very write, or by who has found the bytes.
        """
        while True:
            last = self.last_number(call.fingerprint)
            for number in range(last, call.number, -1):
                if (found := self.own(call.model_copy(update={"number": number}))) is not None:
                    return found
            call = call.model_copy(update={"number": max(call.number, last) + 1})
            log.warning("%s is written anew as number %d", call.what, call.number)
            self.mark(call)
            etag = self.storage.create(self.layout.call(call.fingerprint, call.number), call.body())
            if etag is not None:
                return _located(call, etag)
            if (found := self.own(call)) is not None:
                return found

    def end(self, call: Call, state: State, **changes: object) -> Call:
        """End a call whose outcome is known, patiently. What stands afterwards, if somebody else was first.

        :raises StoreError: if S3 refuses it for minutes; the call stays as it was, so a retry ends it.
        """

        def write() -> Call:
            ending = call
            while ending.state not in ENDS:
                try:
                    return self.move(ending, state, **changes)
                except LostRaceError:
                    if (found := self.own(ending)) is not None:
                        return found
                except RecordGoneError:
                    log.warning("The record of %s is gone", call.what)
                if state not in PAID:
                    return call.model_copy(update={"state": state, **changes})
                ending = self._anew(call)
            return ending

        return self.storage.insist(write, f"what became of {call.what}: {state}")

    def adopt(self, call: Call, state: State, **changes: object) -> Call | None:
        """Create the record of a marker that has none. None if there is one now."""
        made = call.model_copy(update={"state": state, "ended_at": self.storage.now(), **changes})
        etag = self.storage.create(self.layout.call(call.fingerprint, call.number), made.body())
        return None if etag is None else _located(made, etag)


def read_marker(storage: Storage, uri: str) -> Call | None:
    """The call as a marker holds it; None if it is gone. :raises ValueError: if it cannot be read."""
    try:
        body, etag = storage.read_versioned(uri)
    except FileNotFoundError:
        return None
    return _parsed(body, etag, uri)


def _parsed(body: bytes, etag: str, uri: str) -> Call:
    try:
        return _located(Call.model_validate_json(body), etag)
    except ValidationError as error:
        raise ValueError(f"{uri}: is no record of a call: {error}") from None


def _located(call: Call, etag: str) -> Call:
    call = call.model_copy()
    call._etag = etag
    return call
