"""What tests share: an S3 in memory in which a process can die at any call, and processes that start fast."""

from __future__ import annotations

import hashlib
import multiprocessing
import multiprocessing.context
import threading
import uuid
from collections.abc import Callable, Iterable, Iterator
from datetime import UTC, datetime
from typing import Any, NoReturn

from airflow_provider_bgai.buying.record import Call
from airflow_provider_bgai.storage import S3Object, Storage

NOON = datetime(2026, 11, 21, 12, tzinfo=UTC).timestamp()


class Killed(BaseException):
    """The process ends here; nothing after it runs."""


def s3_fails() -> NoReturn:
    """What boto3 raises once it has given up."""
    from botocore.exceptions import ClientError

    raise ClientError({"Error": {"Code": "InternalError", "Message": "S3 is away"}}, "AnyCall")


def new_call(name: str = "a", number: int = 1, **fields: Any) -> Call:
    """A call for wish ``name``, sent at noon, to be answered within a minute, held for an hour."""
    known: dict[str, Any] = {"run": "night", "owner": "night/0000", "conn_id": "picwish_default", "vendor": "picwish"}
    known |= {"call_id": uuid.uuid4().hex, "sent_at": NOON, "answer_by": NOON + 60, "held_until": NOON + 3600}
    return Call.model_validate({**known, "fingerprint": f"{name:a<64}", "number": number, **fields})


class MemoryStorage(Storage):
    """S3 in memory, with conditional writes that know their own bytes. Something may happen before or after any call.

    :ivar at: the number of the call, from 1, at which ``happens`` is run, or None. ``plan(3, s3_fails)`` is an error
        and nothing done; with ``afterwards=True`` it is done, and its answer lost.
    :ivar clock: the store's time, in epoch seconds; it stands still until a test moves it.
    :ivar dead: whoever calls was killed, and does nothing any more.
    """

    def __init__(self) -> None:
        super().__init__(None)
        self.objects: dict[str, bytes] = {}
        self.times: dict[str, float] = {}
        self.clock = NOON
        self.dead = False
        self.calls = 0
        self.at: int | None = None
        self.happens: Callable[[], None] = lambda: None
        self.afterwards = False
        self._lock = threading.RLock()

    def plan(self, at: int, happens: Callable[[], None], *, afterwards: bool = False) -> None:
        self.at, self.happens, self.afterwards = self.calls + at, happens, afterwards

    def kill(self) -> NoReturn:
        """To be planned: the process dies, and its tidying up with it."""
        self.dead = True
        raise Killed

    def _call(self, act: Callable[[], Any]) -> Any:
        if self.dead:
            raise Killed
        self.calls += 1
        due = self.at is not None and self.calls >= self.at
        if due:
            self.at = None
        if due and not self.afterwards:
            self.happens()
        try:
            with self._lock:
                return act()
        finally:
            if due and self.afterwards:
                self.happens()

    def now(self) -> float:
        return self.clock

    def read_versioned(self, uri: str) -> tuple[bytes, str]:
        def act() -> tuple[bytes, str]:
            if uri not in self.objects:
                raise FileNotFoundError(uri)
            return self.objects[uri], self._etag(uri)

        return self._call(act)

    def head(self, uri: str) -> S3Object | None:
        return self._call(lambda: self._object(uri) if uri in self.objects else None)

    def load(self, uri: str) -> tuple[bytes, S3Object]:
        return self.read(uri), self._object(uri)

    def download(self, uri: str, file: Any) -> None:
        file.write(self.read(uri))

    def list(self, prefix: str) -> Iterator[S3Object]:
        yield from self._call(lambda: [self._object(uri) for uri in sorted(self.objects) if uri.startswith(prefix)])

    def put(self, uri: str, body: Any, **_: Any) -> None:
        data = body if isinstance(body, bytes) else body.read()
        self._call(lambda: self._set(uri, data))

    def copy(self, source: str, target: str) -> None:
        self._call(lambda: self._set(target, self.objects[source]))

    def delete(self, uri: str) -> None:
        self._call(lambda: self.objects.pop(uri, None))

    def delete_all(self, uris: Iterable[str]) -> None:
        for uri in uris:
            self.delete(uri)

    def create(self, uri: str, body: bytes, **_: Any) -> str | None:
        return self._call(lambda: self._write_if(uri not in self.objects, uri, body))

    def replace(self, uri: str, body: bytes, etag: str, **_: Any) -> str | None:
        return self._call(lambda: self._write_if(uri in self.objects and self._etag(uri) == etag, uri, body))

    def _write_if(self, holds: bool, uri: str, body: bytes) -> str | None:
        if holds:
            self._set(uri, body)
        return self._etag(uri) if self.objects.get(uri) == body else None

    def _set(self, uri: str, body: bytes) -> None:
        self.objects[uri], self.times[uri] = body, self.clock

    def _object(self, uri: str) -> S3Object:
        written = self.times.get(uri, self.clock)
        return S3Object(uri, len(self.objects[uri]), self._etag(uri), int(written))

    def _etag(self, uri: str) -> str:
        return hashlib.md5(self.objects[uri], usedforsecurity=False).hexdigest()


def processes_that_start_fast() -> multiprocessing.context.ForkServerContext:
    """Where processes come from that have imported what a task imports, and nothing else of this one."""
    context = multiprocessing.get_context("forkserver")
    hooks = [f"airflow_provider_bgai.hooks.{vendor}" for vendor in ("picwish", "photoroom", "katalis")]
    tests = ["tests.buying.test_budget", "tests.buying.test_kills"]
    context.set_forkserver_preload(["airflow.providers.amazon.aws.hooks.s3", "httpx", "PIL.Image", *hooks, *tests])
    return context
