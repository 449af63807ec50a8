"""Making a mapping true: copy to the keys that change, delete those that go, then let it hold.

The steps are those of :mod:`airflow_provider_bgai.catalogue.publish`; publishing and rolling back take the same ones.
"""

from __future__ import annotations

import json
import uuid
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor

from pydantic import BaseModel

from airflow_provider_bgai.catalogue.scratch import Scratch
from airflow_provider_bgai.catalogue.versions import (
    Entry,
    PublishConflictError,
    PublishError,
    Turn,
    load_current,
    stream_lines,
    write_lines,
)
from airflow_provider_bgai.storage import Storage

GONE = "Its picture was landed, but is not in S3 any more"


class Touched(BaseModel):
    """A key that a publisher set out to change."""

    key: str


class Switch:
    """From the known mapping of a scratch database to the wanted one.

    :param pool: S3 requests at a time.
    :ivar copied, removed: stable keys written and deleted.
    """

    def __init__(self, storage: Storage, scratch: Scratch, turn: Turn, pool: ThreadPoolExecutor) -> None:
        self.storage, self.scratch, self.turn, self.pool = storage, scratch, turn, pool
        self.place = turn.place
        self.touched = f"{self.place.published}/{self.place.run}.{uuid.uuid4().hex}.touched"
        self.copied = self.removed = 0
        if known := turn.current.run:
            scratch.put_entries("known", stream_lines(storage, f"{self.place.published}/{known}.jsonl", Entry))

    def announce(self) -> None:
        """Step 1: write down which keys change, and note in ``current`` that they are in work."""
        left_by_dead = self.turn.current.pending
        if left_by_dead:
            self._touch_again(left_by_dead.touched)
        self.scratch.touch_differences()
        write_lines(self.storage, self.touched, (json.dumps({"key": key}) for key in self.scratch.touched()))
        self.turn.note(self.touched)
        if left_by_dead:
            self.storage.delete(left_by_dead.touched)  # this publisher's note says it all

    def _touch_again(self, uri: str) -> None:
        """What a dead publisher touched may show anything."""
        try:
            self.scratch.touch(touched.key for touched in stream_lines(self.storage, uri, Touched))
        except FileNotFoundError:
            if load_current(self.storage, self.place.root)[1] != self.turn.etag:
                raise PublishConflictError(f"Another publisher switched {self.place.current} meanwhile") from None
            raise PublishError(f"{uri}: is gone, so nobody knows which keys a dead publisher changed") from None

    def make_true(self) -> None:
        """Step 2: copy what changes, all pictures of a product or none; delete what goes."""
        not_fit: dict[str, str] = {}
        for products in self.scratch.products_to_copy():
            self.turn.renew()
            for entries, problem in zip(products, self.pool.map(self._copy, products), strict=True):
                if problem:
                    not_fit[entries[0].sku] = problem
                else:
                    self.copied += len(entries)
        for sku, problem in not_fit.items():
            self.turn.renew()
            self._keep_old(sku, problem)
        for keys in self.scratch.keys_to_remove():
            self.turn.renew()
            self.removed += len(list(self.pool.map(self._remove, keys)))

    def finish(self, history: tuple[str, ...], now: float) -> None:
        """Step 3: write the mapping, and switch ``current`` to it."""
        self.turn.check()
        write_lines(self.storage, self.place.mapping, self.scratch.lines("wanted", by="key"))
        self.turn.check()
        self.turn.finish(history, now)
        self.storage.delete(self.touched)

    def _copy(self, entries: Sequence[Entry]) -> str | None:
        """What is wrong with a product's files, if anything is: then none of them is copied."""
        from botocore.exceptions import ClientError

        for entry in entries:
            if problem := self._check_label(entry):
                return problem
        for entry in entries:
            self.turn.check()
            try:
                self.storage.copy(self.place.picture(entry.uri), self.place.stable(entry.key))
            except ClientError:
                if self.storage.head(entry.uri) is not None:
                    raise
                return GONE
        return None

    def _check_label(self, entry: Entry) -> str | None:
        """Whether the bytes in S3 say that AI made them: nothing is published that does not."""
        from airflow_provider_bgai.imaging.label import LabelError, read_label

        try:
            labelled = read_label(self.storage.read(self.place.picture(entry.uri))) is not None
        except FileNotFoundError:
            return GONE
        except LabelError as error:
            return f"The AI label of {entry.uri} cannot be read: {error}"
        return None if labelled else f"{entry.uri} has no AI label"

    def _keep_old(self, sku: str, problem: str) -> None:
        """What a product had, after its new pictures turned out not to be fit; nothing if that is gone too."""
        old = self.scratch.entries("known", sku)
        if any(self.scratch.taken_by("wanted", entry) for entry in old) or self._copy(old):
            self.scratch.touch(entry.key for entry in old)
            old = []
        self.scratch.replace_wanted(sku, old)
        self.scratch.put_missing(sku, problem)

    def _remove(self, key: str) -> None:
        self.turn.check()
        self.storage.delete(self.place.stable(key))
