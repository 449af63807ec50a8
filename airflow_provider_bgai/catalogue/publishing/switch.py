"""Making a mapping true: copy to the keys that change, delete those that go, then let it hold.

The steps are those of :mod:`~airflow_provider_bgai.catalogue.publishing.publish`; publishing and rolling back take the
same ones.
One product that cannot be copied stops no other: its keys show what they did before, and the mapping says so. What the
mapping says is what the shop shows, whatever S3 has lost or refuses.
"""

from __future__ import annotations

import hashlib
import json
import logging
import uuid
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import NamedTuple

from pydantic import BaseModel

from airflow_provider_bgai.catalogue.publishing.feeds import write_feeds
from airflow_provider_bgai.catalogue.publishing.scratch import Scratch
from airflow_provider_bgai.catalogue.publishing.versions import Entry, Turn, load_current
from airflow_provider_bgai.exceptions import PublishConflictError, PublishError, StoreError
from airflow_provider_bgai.lines import stream_lines, write_lines
from airflow_provider_bgai.storage import Storage

log = logging.getLogger(__name__)

REFUSALS = 20
"""If S3 refuses more products than this, and more than it takes, it is no matter of single keys."""


class Touched(BaseModel):
    """A key that a publisher set out to change."""

    key: str


class Problem(NamedTuple):
    """Why a product's files are not published: ``missing``, ``label`` or ``publish`` (S3 refuses), and in words."""

    reason: str
    message: str


class Switch:
    """From the known mapping of a scratch database to the wanted one.

    :param pool: S3 requests at a time.
    :ivar copied, removed: stable keys written and deleted.
    :ivar feeds: the URIs of the feeds that were written.
    """

    def __init__(self, storage: Storage, scratch: Scratch, turn: Turn, pool: ThreadPoolExecutor) -> None:
        self.storage, self.scratch, self.turn, self.pool = storage, scratch, turn, pool
        self.place, self.layout = turn.place, turn.place.layout
        self.touched = self.layout.touched(self.place.run.name, uuid.uuid4().hex)
        self.copied = self.removed = 0
        self.feeds: tuple[str, ...] = ()
        if known := turn.current.run:
            scratch.put_entries("known", stream_lines(storage, self.layout.mapping(known), Entry))

    def announce(self) -> None:
        """Step 1: write down which keys change, and note in ``current`` that they are in work."""
        left_by_dead = self.turn.current.pending
        if left_by_dead:
            self._touch_again(self.layout.absolute(left_by_dead.touched))
        self.scratch.touch_differences()
        write_lines(self.storage, self.touched, (json.dumps({"key": key}) for key in self.scratch.touched()))
        self.turn.note(self.layout.relative(self.touched))
        if left_by_dead:
            self.storage.delete(self.layout.absolute(left_by_dead.touched))  # this publisher's note says it all

    def _touch_again(self, uri: str) -> None:
        """What a dead publisher touched may show anything."""
        try:
            self.scratch.touch(touched.key for touched in stream_lines(self.storage, uri, Touched))
        except FileNotFoundError:
            if load_current(self.storage, self.layout.root)[1] != self.turn.etag:
                raise PublishConflictError(f"Another publisher switched {self.layout.current} meanwhile") from None
            raise PublishError(f"{uri}: is gone, so nobody knows which keys a dead publisher changed") from None

    def make_true(self) -> None:
        """Step 2: copy what changes, all pictures of a product or none; delete what goes.

        :raises StoreError: if S3 refuses most of it. Publishing again makes every key true.
        """
        problems: dict[str, Problem] = {}
        taken = refused = 0
        for products in self.scratch.products_to_copy():
            self.turn.renew()
            for entries, problem in zip(products, self.pool.map(self._copy, products), strict=True):
                if problem is None:
                    taken += 1
                    self.copied += len(entries)
                    continue
                problems[entries[0].sku] = problem
                refused += problem.reason == "publish"
                if refused > max(REFUSALS, taken):
                    raise StoreError(f"S3 refuses {refused} products and takes {taken}, so nothing was switched; "
                                     f"publishing can be run again: {problem.message}")  # fmt: skip
        for sku, problem in problems.items():
            self.turn.renew()
            self._keep_old(sku, problem)
        not_removed = []
        for keys in self.scratch.keys_to_remove():
            self.turn.renew()
            not_removed += [key for key, gone in zip(keys, self.pool.map(self._remove, keys), strict=True) if not gone]
            self.removed += len(keys)
        self.removed -= len(not_removed)
        for key in not_removed:
            # Left in the mapping while it is what it was, so that the next publisher tries again.
            entry = self.scratch.entry("known", key)
            if entry is not None and self._shows(entry):
                self.scratch.put_entries("wanted", [entry])

    def conclude(self, history: tuple[str, ...], feed_url: str | None) -> None:
        """Step 3: write the mapping and the feeds, and switch ``current`` to it.

        :param feed_url: where the world reads the destination; None for no feeds.
        """
        self.turn.check()
        write_lines(self.storage, self.place.mapping, self.scratch.lines("wanted", by="key"))
        if feed_url is not None:
            # Before the switch, so that no other publisher comes in between: what they say, the keys show already.
            self.turn.renew()
            entries = map(Entry.model_validate_json, self.scratch.lines("wanted", by="sku"))
            self.feeds = write_feeds(self.storage, self.layout, entries, feed_url, self.scratch.renditions())
        self.turn.check()
        self.turn.switch_to_it(history, feed_url)
        self.storage.delete(self.touched)

    def _copy(self, entries: Sequence[Entry]) -> Problem | None:
        """What is wrong with a product's files, if anything is: then not all of them are copied."""
        from botocore.exceptions import ClientError

        try:
            for entry in entries:
                if problem := self._unfit(entry):
                    return problem
            for entry in entries:
                self.turn.check()
                self.storage.copy(self.place.picture(entry.uri), self.place.stable(entry.key))
        except ClientError as error:
            return Problem("publish", f"S3 refuses {entry.key}: {error}")
        return None

    def _unfit(self, entry: Entry) -> Problem | None:
        """Whether the bytes in S3 are those of the mapping, and say that AI made them: all else is not published."""
        from airflow_provider_bgai.imaging.label import LabelError, read_label

        uri = self.place.picture(entry.uri)
        try:
            body = self.storage.read(uri)
        except FileNotFoundError:
            return Problem("missing", "Its picture was landed, but is not in S3 any more")
        if hashlib.sha256(body).hexdigest() != entry.sha256:
            return Problem("missing", f"{uri}: is not the picture that was landed there")
        try:
            label = read_label(body)
        except LabelError as error:
            return Problem("label", f"The AI label of {uri} cannot be read: {error}")
        if label is None:
            return Problem("label", f"{uri} has no AI label")
        if entry.label not in ("", label.source_type):
            return Problem("label", f"The AI label of {uri} says {label.source_type}, not {entry.label}")
        return None

    def _keep_old(self, sku: str, problem: Problem) -> None:
        """What a product had, after its new pictures turned out not to be fit; nothing if that is gone too."""
        old = self.scratch.entries("known", sku)
        if any(self.scratch.taken_by("wanted", it) or (self._copy([it]) and not self._shows(it)) for it in old):
            self.scratch.touch(entry.key for entry in old)
            old = []
        self.scratch.replace_wanted(sku, old)
        self.scratch.put_unpublished(sku, *problem)

    def _shows(self, entry: Entry) -> bool:
        """Whether a key shows what an entry says, wherever that came from."""
        from botocore.exceptions import ClientError

        try:
            body = self.storage.read(self.place.stable(entry.key))
        except (FileNotFoundError, ClientError) as error:
            log.warning("%s: cannot be read: %s", entry.key, error)
            return False
        return hashlib.sha256(body).hexdigest() == entry.sha256

    def _remove(self, key: str) -> bool:
        """Delete a key. Whether S3 does it."""
        from botocore.exceptions import ClientError

        self.turn.check()
        try:
            self.storage.delete(self.place.stable(key))
        except ClientError as error:
            log.warning("%s: S3 refuses to remove it: %s", key, error)
            return False
        return True
