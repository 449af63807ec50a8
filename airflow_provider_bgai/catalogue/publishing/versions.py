"""``_bgai/published``: versions (mappings), which keys and pictures they may name, and ``current``: the one that holds.

Names come from the shop's list and records may be damaged, so every key and picture is checked here before S3 is told
to write, copy or delete it. ``current`` is only written conditionally on what was read, so of two publishers one is
refused; it also holds the note of a publisher at work, who must write no more once that has run out. Whether it has,
everybody reads off one clock, the store's.
"""

from __future__ import annotations

import re

from pydantic import BaseModel, ConfigDict, ValidationError

from airflow_provider_bgai.exceptions import InvalidRequestError, PublishConflictError, PublishError
from airflow_provider_bgai.layout import FOLDER, Layout, is_feed
from airflow_provider_bgai.storage import Storage, split_uri

MAX_KEY_BYTES = 1024
HISTORY = 100


class Entry(BaseModel):
    """One published picture: a line of a mapping.

    :param key: below the destination.
    :param uri: the file it is a copy of, relative to the destination; named by its content and never overwritten.
    :param number: of the call that its picture came from; 0 where that is not known.
    :param label: the IPTC ``DigitalSourceType`` in it.
    :param words: what the shop says of the product: :attr:`Result.words`.
    """

    model_config = ConfigDict(frozen=True, extra="ignore")

    key: str
    uri: str
    sha256: str
    fingerprint: str
    sku: str
    number: int = 0
    rendition: str = ""
    index: int = 1
    finishing: str = ""
    label: str = ""
    words: dict[str, str] = {}


class Pending(BaseModel):
    """Somebody is changing keys; the file ``touched``, relative to the destination, lists them.

    :param until: when he is dead, epoch seconds on the store's clock.
    """

    model_config = ConfigDict(extra="ignore")

    run: str
    touched: str
    until: float


class Current(BaseModel):
    """Which mapping holds.

    :param run: whose mapping it is; None while the very first one is being published.
    :param previous: what a rollback restores.
    :param at: of the switch, epoch seconds on the store's clock.
    :param history: the runs before, latest first.
    :param feed_url: where the world reads the destination, as the last run with feeds had it.
    """

    model_config = ConfigDict(extra="ignore")

    schema_version: int = 1
    run: str | None = None
    previous: str | None = None
    at: float = 0.0
    history: tuple[str, ...] = ()
    feed_url: str | None = None
    pending: Pending | None = None

    def all_but(self, run: str) -> tuple[str, ...]:
        """The other versions, latest first: the history once ``run`` is published."""
        return tuple(name for name in (self.run, *self.history) if name not in (None, run))


class Place:
    """A run of a catalogue, and which keys and pictures of it are fit to be written.

    :raises InvalidRequestError: for a destination or a run that cannot be part of a key.
    """

    def __init__(self, destination: str, run: str) -> None:
        self.layout = Layout(destination)
        split_uri(self.layout.root)
        if "{" in destination:
            raise InvalidRequestError(f"destination={destination!r}: must be a folder, without {{…}}")
        if not re.fullmatch(r"[A-Za-z0-9._:+@=-]{1,200}", run) or run in (".", ".."):
            raise InvalidRequestError(f"run={run!r}: must be letters, digits and . _ : + @ = -, at most 200")
        self.run = self.layout.run(run)
        self.mapping = self.layout.mapping(run)

    def stable(self, key: str) -> str:
        """The URI of a stable key. :raises InvalidRequestError: for one that must not be written."""
        uri = f"{self.layout.root}/{key}"
        path = split_uri(uri)[1]
        if not key or key.endswith("/") or "\\" in key or "{" in key or "}" in key:
            raise InvalidRequestError(f"{key!r}: is no name for a picture")
        if key.partition("/")[0].lower() == FOLDER:
            raise InvalidRequestError(f"{key!r}: {FOLDER}/ holds the records")
        if is_feed(key):
            raise InvalidRequestError(f"{key!r}: is the name of a feed")
        try:
            length = len(path.encode())
        except UnicodeEncodeError:
            raise InvalidRequestError(f"{key!r}: is not UTF-8 text") from None
        if length > MAX_KEY_BYTES:
            raise InvalidRequestError(f"{key[:80]!r}…: is {length} bytes long as an S3 key; at most {MAX_KEY_BYTES}")
        return uri

    def picture(self, name: str) -> str:
        """The URI of a picture, named as in records.

        :raises InvalidRequestError: unless it is one of this catalogue's own, fit to be published.
        """
        uri = self.layout.absolute(name)
        split_uri(uri)
        if not self.layout.is_picture(uri):
            raise InvalidRequestError(f"{uri!r}: is no picture of {self.layout.root}, so it is not published")
        return uri


class Turn:
    """A publisher's turn to change keys.

    :param current, etag: from :func:`load_current`.
    :param lease: seconds after which a note that was not renewed is a dead publisher's. He himself stops a tenth
        earlier: the store's clock is read to the second.
    :raises PublishConflictError: from everything here, if another publisher is at work or took over.
    """

    def __init__(self, storage: Storage, place: Place, current: Current, etag: str | None, lease: float) -> None:
        self.storage, self.place, self.lease = storage, place, lease
        self.current, self.etag = current, etag
        self.until = float("inf")
        pending, now = current.pending, storage.now()
        # The same run again is a retry: it need not wait for its dead predecessor.
        if pending and pending.run != place.run.name and now < pending.until:
            raise PublishConflictError(
                f"Run {pending.run} is just being published to {place.layout.root}. If it died, this is possible "
                f"again in {pending.until - now:.0f} s"
            )

    def note(self, touched: str) -> None:
        """Say that work begins, or goes on. :param touched: relative to the destination."""
        now = self.storage.now()
        pending = Pending(run=self.place.run.name, touched=touched, until=now + self.lease)
        self._write(self.current.model_copy(update={"pending": pending}))
        self.until = now + 0.9 * self.lease

    def renew(self) -> None:
        """Say so again before the note looks dead."""
        if self.current.pending and self.until - self.storage.now() < 0.6 * self.lease:
            self.note(self.current.pending.touched)

    def check(self) -> None:
        """Write no key after the note has run out: somebody else may be at work."""
        if self.storage.now() >= self.until:
            raise PublishConflictError(
                f"Publishing {self.place.run.name} was suspended for too long; it can be run again"
            )

    def switch_to_it(self, history: tuple[str, ...], feed_url: str | None) -> None:
        """The switch.

        :param history: what a rollback may go back to, latest first.
        :param feed_url: of the feeds that were written; None where none were.
        """
        self._write(
            Current(
                run=self.place.run.name,
                previous=history[0] if history else None,
                at=self.storage.now(),
                history=history[:HISTORY],
                feed_url=feed_url or self.current.feed_url,
            )
        )

    def _write(self, current: Current) -> None:
        uri, body = self.place.layout.current, current.model_dump_json().encode()
        etag = self.storage.create(uri, body) if self.etag is None else self.storage.replace(uri, body, self.etag)
        if etag is None:
            raise PublishConflictError(f"Another publisher switched {uri} meanwhile")
        self.current, self.etag = current, etag


def load_current(storage: Storage, destination: str) -> tuple[Current, str | None]:
    """Which mapping holds, and the ETag; an empty one and None if nothing was ever published.

    :raises PublishError: if it cannot be read: that is no leave to overwrite anything.
    """
    uri = Layout(destination).current
    try:
        body, etag = storage.read_versioned(uri)
    except FileNotFoundError:
        return Current(), None
    try:
        return Current.model_validate_json(body), etag
    except ValidationError as error:
        raise PublishError(f"{uri}: cannot be read: {error}") from None
