"""What tests of the catalogue share: an S3 in memory in which a process can die at any call, and fast new processes."""

from __future__ import annotations

import hashlib
import multiprocessing
import multiprocessing.context
import threading
from collections.abc import Callable
from typing import Any

from airflow_provider_bgai.storage import S3Object, Storage


class Killed(Exception):
    """The process ends here; nothing after it runs."""


class MemoryStorage(Storage):
    """S3 in memory, with its conditional writes. Something may happen before or after any call.

    :ivar at: the number of the call, from 1, at which ``happens`` is run, or None.
    """

    def __init__(self) -> None:
        super().__init__(None)
        self.objects: dict[str, bytes] = {}
        self.calls = 0
        self.at: int | None = None
        self.happens: Callable[[], None] = lambda: None
        self.afterwards = False
        self._lock = threading.RLock()

    def plan(self, at: int, happens: Callable[[], None], *, afterwards: bool = False) -> None:
        self.at, self.happens, self.afterwards = self.calls + at, happens, afterwards

    def _call(self, act: Callable[[], Any]) -> Any:
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

    def read_versioned(self, uri: str) -> tuple[bytes, str]:
        def act() -> tuple[bytes, str]:
            if uri not in self.objects:
                raise FileNotFoundError(uri)
            return self.objects[uri], self._etag(uri)

        return self._call(act)

    def head(self, uri: str) -> S3Object | None:
        return self._call(lambda: S3Object(uri, 1, self._etag(uri)) if uri in self.objects else None)

    def put(self, uri: str, body: Any, **_: Any) -> None:
        self._call(lambda: self.objects.update({uri: body}))

    def create(self, uri: str, body: bytes, **_: Any) -> str | None:
        return self._call(lambda: None if uri in self.objects else self._write(uri, body))

    def replace(self, uri: str, body: bytes, etag: str, **_: Any) -> str | None:
        return self._call(lambda: self._write(uri, body) if uri in self.objects and self._etag(uri) == etag else None)

    def _write(self, uri: str, body: bytes) -> str:
        self.objects[uri] = body
        return self._etag(uri)

    def _etag(self, uri: str) -> str:
        return hashlib.md5(self.objects[uri], usedforsecurity=False).hexdigest()


def processes_that_start_fast() -> multiprocessing.context.ForkServerContext:
    """Where processes come from that have imported what a task imports, and nothing else of this one."""
    context = multiprocessing.get_context("forkserver")
    hooks = [f"airflow_provider_bgai.hooks.{vendor}" for vendor in ("picwish", "photoroom", "katalis")]
    tests = ["tests.catalogue.test_budget", "tests.catalogue.test_purchase_races"]
    context.set_forkserver_preload(["airflow.providers.amazon.aws.hooks.s3", "httpx", "PIL.Image", *hooks, *tests])
    return context
