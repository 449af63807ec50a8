"""Whether a connection may be asked, and how many of its calls may be under way: no endless bill.

A connection starts slowly: until a picture of this run has landed through it, only a few calls are under way. Paid
five times in a row for nothing publishable (lost, in doubt, quarantined, nothing landed because of S3), it is stopped
for the run, which is written down in ``_bgai/stopped/``; the next run starts with a single call, by one of its shards,
and the others wait for what becomes of it. An account that refuses (no quota, wrong key, retired) is closed at once.
"""

from __future__ import annotations

import asyncio
import json
import logging
import time
from collections.abc import Iterable
from typing import Literal

from airflow_provider_bgai.exceptions import (
    AuthenticationError,
    BgaiError,
    QuotaError,
    RetiredError,
    StoppedError,
    VendorFaultError,
)
from airflow_provider_bgai.layout import Layout
from airflow_provider_bgai.storage import Storage, store_errors

log = logging.getLogger(__name__)

AT_FIRST = 8
"""Calls under way at most, over all shards of a run, until a picture has landed."""
IN_A_ROW = 5
FAULTS_IN_A_ROW = 5
BREAK_SECONDS = 60.0
PROBE_EVERY = 5.0
PROBE_PATIENCE = 900.0

Came = Literal["landed", "vain", "free"]
"""What a call came to: something publishable, nothing for perhaps its money, nothing for no money."""


def stopped_in(storage: Storage, layout: Layout, run: str) -> list[str]:
    """The connections that a run has stopped, by their IDs."""
    found = []
    for uri in storage.list_uris(layout.stopped()):
        try:
            stop = json.loads(storage.read(uri))
        except FileNotFoundError:  # another run has just got something for its money
            continue
        if stop["run"] == run:
            found.append(stop["conn_id"])
    return sorted(found)


class LaterError(Exception):
    """The connection is full, and nothing of what is under way can end in this pass: begin it in the next one."""


class Brake:
    """The brake of one connection, for one shard of a run. Use it on one event loop.

    :param run, owner: who is buying.
    :param at_first: this shard's part of :data:`AT_FIRST`.
    """

    def __init__(self, storage: Storage, layout: Layout, conn_id: str, run: str, owner: str, at_first: int) -> None:
        self.storage, self.uri = storage, layout.stopped(conn_id)
        self.conn_id, self.run, self.owner = conn_id, run, owner
        self.limit: int | None = at_first
        self.holding = False
        """Whether nothing new may begin until something has landed: what is under way is being collected."""
        self.active = self.parked = 0
        self.closed: str | None = None
        self._at_first = at_first
        self._in_vain = self._faults = 0
        self._resumes_at = 0.0
        self._was_stopped = False
        self._loaded = False
        self._changed = asyncio.Condition()

    def _room(self) -> bool:
        """Whether one more may begin. Until something has landed, what came to nothing takes its place for good."""
        if self.limit is None:
            return True
        begun = self.active + self.parked
        return not self.holding and begun < self.limit and begun + self._in_vain < max(self.limit, IN_A_ROW)

    async def enter(self) -> None:
        """Take a place for a paid call. It ends with :meth:`leave`, or is beyond this pass with :meth:`park`.

        :raises StoppedError: if the connection is not to be asked in this run, or for now.
        :raises LaterError: if it can begin in the next pass only.
        """
        async with self._changed:
            if not self._loaded:
                await self._load()
            while True:
                if self.closed is not None:
                    raise StoppedError(f"{self.conn_id}: {self.closed}")
                if (left := self._resumes_at - time.monotonic()) > 0:
                    raise StoppedError(f"{self.conn_id}: failed several times in a row; asked again in {left:.0f} s")
                if self._room():
                    self.active += 1
                    return
                if not self.active:
                    raise LaterError(self.conn_id)
                await self._changed.wait()

    def resume(self) -> None:
        """A call of an earlier pass or run is collected now."""
        self.active += 1

    async def park(self) -> None:
        """A call stays under way beyond this pass."""
        async with self._changed:
            self.active -= 1
            self.parked += 1
            self._changed.notify_all()

    async def leave(self, came: Came, error: BgaiError | None = None) -> None:
        """A call has ended.

        :param error: why, where it came to nothing.
        """
        async with self._changed:
            self.active -= 1
            if came == "landed":
                self.limit, self._in_vain, self._faults = None, 0, 0
                if self._was_stopped:
                    self._was_stopped = False
                    await asyncio.to_thread(self._forget)
            elif came == "vain":
                self._in_vain += 1
                if self._in_vain >= IN_A_ROW or self._was_stopped:
                    await self._stop(error)
            elif isinstance(error, QuotaError | AuthenticationError | RetiredError):
                self.closed = f"closed for this run: {error}"
                log.error("%s is not asked any more in this run: %s", self.conn_id, error)
            elif isinstance(error, VendorFaultError):
                self._faults += 1
                if self._faults >= FAULTS_IN_A_ROW:
                    self._resumes_at, self._faults = time.monotonic() + BREAK_SECONDS, 0
            self._changed.notify_all()

    async def _stop(self, error: BgaiError | None) -> None:
        often = "once more" if self._was_stopped else f"{self._in_vain} times in a row"
        self.closed = f"stopped for this run: paid {often} for nothing that can be published ({error})"
        log.error("%s is %s", self.conn_id, self.closed)
        stop = {"conn_id": self.conn_id, "run": self.run, "owner": self.owner, "why": str(error)[:500]}
        try:
            await asyncio.to_thread(
                self.storage.put, self.uri, json.dumps(stop).encode(), content_type="application/json"
            )
        except store_errors() as problem:
            log.warning("%s: that could not be written down: %s", self.uri, problem)

    def _forget(self) -> None:
        try:
            self.storage.delete(self.uri)
        except store_errors() as problem:
            log.warning("%s: could not be removed; the next run starts slowly once more: %s", self.uri, problem)

    async def _load(self) -> None:
        """Find out whether an earlier run was stopped, and who tries the connection then."""
        deadline = time.monotonic() + PROBE_PATIENCE
        while True:
            found = await asyncio.to_thread(self._probe)
            if found != "wait":
                break
            if time.monotonic() > deadline:
                self.closed = "not asked: another shard has tried it for too long"
                break
            log.info("%s gave nothing for its money in an earlier run; another shard is trying it", self.conn_id)
            await asyncio.sleep(PROBE_EVERY)
        self._loaded = True

    def _probe(self) -> Literal["go", "wait"]:
        try:
            body, etag = self.storage.read_versioned(self.uri)
        except FileNotFoundError:
            return "go"
        stop = json.loads(body)
        if stop["run"] == self.run:
            self.closed = f"stopped for this run: {stop.get('why')}"
            return "go"
        if stop.get("probing") == self.run and stop.get("prober") != self.owner:
            return "wait"
        claimed = json.dumps({**stop, "probing": self.run, "prober": self.owner}).encode()
        if claimed != body and self.storage.replace(self.uri, claimed, etag) is None:
            return "wait"
        self._was_stopped, self.limit = True, 1
        return "go"


async def enter_first(brakes: Iterable[Brake]) -> Brake:
    """Take a place at the first brake whose connection may be asked.

    :param brakes: at least one.
    :raises StoppedError: if none may.
    :raises LaterError: if the first that may can begin in the next pass only.
    """
    stopped: StoppedError | None = None
    for brake in brakes:
        try:
            await brake.enter()
            return brake
        except StoppedError as error:
            stopped = error
    assert stopped is not None
    raise stopped
