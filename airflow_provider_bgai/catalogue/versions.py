"""``_bgai/published``: versions (mappings), which keys and pictures they may name, and ``current``: the one that holds.

Names come from the shop's list and records may be damaged, so every key and picture is checked here before S3 is told
to write, copy or delete it. ``current`` is only written conditionally on what was read, so of two publishers one is
refused; it also holds the note of a publisher at work, who must write no more once that has run out.
"""

from __future__ import annotations

import re
import tempfile
import time
from collections.abc import Iterable, Iterator
from typing import TypeVar

from pydantic import BaseModel, ConfigDict, ValidationError

from airflow_provider_bgai.exceptions import InvalidRequestError
from airflow_provider_bgai.storage import Storage, split_uri

M = TypeVar("M", bound=BaseModel)

MAX_KEY_BYTES = 1024
HISTORY = 100


class PublishError(Exception):
    """Nothing was switched: the shop's mapping is the one it was."""


class PublishConflictError(PublishError):
    """Another publisher is at work, or took over. Try again later."""


class Entry(BaseModel):
    """One published picture: a line of a mapping.

    :param key: below the destination.
    :param uri: the file it is a copy of, named by its content and never overwritten.
    """

    model_config = ConfigDict(frozen=True, extra="ignore")

    key: str
    uri: str
    sha256: str
    fingerprint: str
    sku: str
    rendition: str = ""
    index: int = 1
    finishing: str = ""


class Pending(BaseModel):
    """Somebody is changing keys; the file ``touched`` lists them. ``until`` (epoch seconds) is when he is dead."""

    model_config = ConfigDict(extra="ignore")

    run: str
    touched: str
    until: float


class Current(BaseModel):
    """Which mapping holds.

    :param run: whose mapping it is; None while the very first one is being published.
    :param previous: what a rollback restores.
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

    def all_but(self, run: str) -> tuple[str, ...]:
        """The other versions, latest first: the history once ``run`` is published."""
        return tuple(name for name in (self.run, *self.history) if name not in (None, run))


class Place:
    """Where a run's records and pictures are, and which keys are fit to be written.

    :raises InvalidRequestError: for a destination or a run that cannot be part of a key.
    """

    def __init__(self, destination: str, run: str) -> None:
        self.root = destination.rstrip("/")
        split_uri(self.root)
        if "{" in self.root:
            raise InvalidRequestError(f"destination={destination!r}: must be a folder, without {{…}}")
        if not re.fullmatch(r"[A-Za-z0-9._:+@=-]{1,300}", run) or run in ("current", ".", ".."):
            raise InvalidRequestError(f"run={run!r}: must be letters, digits and . _ : + @ = -, and not 'current'")
        self.run = run
        self.folder = f"{self.root}/_bgai/runs/{run}"
        self.report = f"{self.folder}/report.html"
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
        """The URI of a picture. :raises InvalidRequestError: unless it is one of this catalogue's own."""
        split_uri(uri)
        folders = f"{self.pictures}/", f"{self.root}/_bgai/finished/"
        if not uri.startswith(folders):
            raise InvalidRequestError(f"{uri!r}: is not below {' or '.join(folders)}, so it is not published")
        return uri


class Turn:
    """A publisher's turn to change keys.

    :param current, etag: from :func:`load_current`.
    :param lease: seconds after which a note that was not renewed is a dead publisher's.
    :raises PublishConflictError: from everything here, if another publisher is at work or took over.
    """

    def __init__(self, storage: Storage, place: Place, current: Current, etag: str | None, lease: float) -> None:
        self.storage, self.place, self.lease = storage, place, lease
        self.current, self.etag = current, etag
        self.until = float("inf")
        pending = current.pending
        # The same run again is a retry: it need not wait for its dead predecessor.
        if pending and pending.run != place.run and time.time() < pending.until:
            raise PublishConflictError(
                f"Run {pending.run} is just being published to {place.root}. If it died, this is possible again in "
                f"{pending.until - time.time():.0f} s"
            )

    def note(self, touched: str) -> None:
        """Say that work begins, or goes on."""
        until = time.time() + self.lease
        pending = Pending(run=self.place.run, touched=touched, until=until)
        self._write(self.current.model_copy(update={"pending": pending}))
        self.until = until

    def renew(self) -> None:
        """Say so again before the note looks dead."""
        if self.current.pending and self.until - time.time() < self.lease * 2 / 3:
            self.note(self.current.pending.touched)

    def check(self) -> None:
        """Write no key after the note has run out: somebody else may be at work."""
        if time.time() >= self.until:
            raise PublishConflictError(f"Publishing {self.place.run} was suspended for too long; it can be run again")

    def finish(self, history: tuple[str, ...], now: float) -> None:
        """The switch. :param history: what a rollback may go back to, latest first. :param now: epoch seconds."""
        previous = history[0] if history else None
        self._write(Current(run=self.place.run, previous=previous, at=now, history=history[:HISTORY]))

    def _write(self, current: Current) -> None:
        uri, body = self.place.current, current.model_dump_json().encode()
        etag = self.storage.create(uri, body) if self.etag is None else self.storage.replace(uri, body, self.etag)
        if etag is None:
            raise PublishConflictError(f"Another publisher switched {uri} meanwhile")
        self.current, self.etag = current, etag


def load_current(storage: Storage, destination: str) -> tuple[Current, str | None]:
    """Which mapping holds, and the ETag; an empty one and None if nothing was ever published."""
    try:
        body, etag = storage.read_versioned(f"{destination.rstrip('/')}/_bgai/published/current")
    except FileNotFoundError:
        return Current(), None
    return Current.model_validate_json(body), etag


def stream_lines(storage: Storage, uri: str, kind: type[M]) -> Iterator[M]:
    """The records of a file of JSON lines, streamed.

    :raises FileNotFoundError: if there is none.
    :raises PublishError: naming the file and the line that is no such record.
    """
    with tempfile.TemporaryFile() as file:
        storage.download(uri, file)
        file.seek(0)
        for number, line in enumerate(file, start=1):
            if line.strip():
                try:
                    yield kind.model_validate_json(line)
                except ValidationError as error:
                    raise PublishError(f"{uri}, line {number}: is no {kind.__name__}: {error}") from None


def write_lines(storage: Storage, uri: str, lines: Iterable[str]) -> None:
    """Write lines, given without line breaks, in one request."""
    with tempfile.TemporaryFile() as file:
        file.writelines(line.encode() + b"\n" for line in lines)
        file.seek(0)
        storage.put(uri, file, content_type="application/x-ndjson")
