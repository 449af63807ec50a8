"""JSON lines in numbered files in S3, written as they come."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from typing import Any

from airflow_provider_bgai.storage import Storage

WRITERS = 10
"""Files on their way to S3 at most, besides those the pool is at work on."""


class LineFiles:
    """Lines in files ``0000.jsonl``, ``0001.jsonl``, … of a folder.

    :param folder: ``s3://bucket/prefix``.
    :param size: lines in a file.
    :param pool: writes the files while further lines come; None: :meth:`add` writes them.
    """

    def __init__(self, storage: Storage, folder: str, size: int, pool: ThreadPoolExecutor | None = None) -> None:
        self.storage = storage
        self.folder = folder
        self.size = size
        self.pool = pool
        self.uris: list[str] = []
        self.lines: list[str] = []
        self.pending: list[Any] = []

    def add(self, line: str) -> None:
        """Add a line, given without its line break."""
        self.lines.append(line)
        if len(self.lines) >= self.size:
            self._flush()

    def close(self) -> list[str]:
        """Write what is left; empty files that an earlier try of this run has left beyond; the URIs."""
        if self.lines:
            self._flush()
        for future in self.pending:
            future.result()
        for item in list(self.storage.list(f"{self.folder}/")):
            if item.uri not in self.uris and item.size:
                self.storage.put(item.uri, b"", content_type="application/x-ndjson")
        return self.uris

    def _flush(self) -> None:
        uri = f"{self.folder}/{len(self.uris):04}.jsonl"
        body = "\n".join([*self.lines, ""]).encode()
        self.uris.append(uri)
        self.lines.clear()
        if self.pool is None:
            self.storage.put(uri, body, content_type="application/x-ndjson")
            return
        self.pending.append(self.pool.submit(self.storage.put, uri, body, content_type="application/x-ndjson"))
        if len(self.pending) > 2 * WRITERS:
            self.pending.pop(0).result()
