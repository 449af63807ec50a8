"""JSON lines in S3: streamed in, streamed out, numbered files; and records that are packed as such until then."""

from __future__ import annotations

import tempfile
import zlib
from collections.abc import Iterable, Iterator, MutableMapping
from concurrent.futures import ThreadPoolExecutor
from typing import Any, TypeVar

from pydantic import BaseModel, TypeAdapter, ValidationError

from airflow_provider_bgai.exceptions import LineError
from airflow_provider_bgai.storage import Storage

K = TypeVar("K")
V = TypeVar("V")
M = TypeVar("M", bound=BaseModel)

NDJSON = "application/x-ndjson"
WRITERS = 10
"""Files on their way to S3 at most, besides those the pool is at work on."""


def dump_lines(records: Iterable[BaseModel]) -> bytes:
    """Records as JSON lines."""
    return b"".join(record.model_dump_json().encode() + b"\n" for record in records)


def parse_lines(kind: type[M], lines: Iterable[bytes], uri: str = "") -> Iterator[M]:
    """Records of JSON lines; blank lines are passed over. :raises LineError: for a line that is no such record."""
    for number, line in enumerate(lines, start=1):
        if line.strip():
            try:
                yield kind.model_validate_json(line)
            except ValidationError as error:
                raise LineError(f"{uri}, line {number}: is no {kind.__name__}: {error}") from None


def stream_lines(storage: Storage, uri: str, kind: type[M]) -> Iterator[M]:
    """The records of a file of JSON lines, in flat memory.

    :raises FileNotFoundError: if there is no such file.
    :raises LineError: naming the file and the line that is no such record.
    """
    with tempfile.TemporaryFile() as file:
        storage.download(uri, file)
        file.seek(0)
        yield from parse_lines(kind, file, uri)


def write_lines(storage: Storage, uri: str, lines: Iterable[str]) -> None:
    """Write lines, given without line breaks, in one request."""
    with tempfile.TemporaryFile() as file:
        file.writelines(line.encode() + b"\n" for line in lines)
        file.seek(0)
        storage.put(uri, file, content_type=NDJSON)


class Packed(MutableMapping[K, V]):
    """Records by name, kept as compressed JSON: a tenth of what they take as objects, in a task that has thousands.

    :param kind: what pydantic makes of them: a model, or a list of such.
    """

    def __init__(self, kind: Any) -> None:
        self.kind = kind if isinstance(kind, TypeAdapter) else TypeAdapter(kind)
        self._packed: dict[K, bytes] = {}
        self._like = b""
        """The first of them: what the others have in common with it is not kept again."""

    def of(self, names: Iterable[K]) -> Packed[K, V]:
        """Those of some names, which are not unpacked."""
        found: Packed[K, V] = Packed(self.kind)
        found._packed, found._like = {name: self._packed[name] for name in names}, self._like
        return found

    def __setitem__(self, name: K, value: V) -> None:
        line = self.kind.dump_json(value)
        self._like = self._like or line
        packer = zlib.compressobj(zdict=self._like)
        self._packed[name] = packer.compress(line) + packer.flush()

    def __getitem__(self, name: K) -> V:
        value: V = self.kind.validate_json(zlib.decompressobj(zdict=self._like).decompress(self._packed[name]))
        return value

    def __delitem__(self, name: K) -> None:
        del self._packed[name]

    def __contains__(self, name: object) -> bool:
        return name in self._packed

    def __iter__(self) -> Iterator[K]:
        return iter(self._packed)

    def __len__(self) -> int:
        return len(self._packed)


class LineFiles:
    """Lines in files ``0000.jsonl``, ``0001.jsonl``, … of a folder, written as they come.

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
                self.storage.put(item.uri, b"", content_type=NDJSON)
        return self.uris

    def _flush(self) -> None:
        uri = f"{self.folder}/{len(self.uris):04}.jsonl"
        body = "\n".join([*self.lines, ""]).encode()
        self.uris.append(uri)
        self.lines.clear()
        if self.pool is None:
            self.storage.put(uri, body, content_type=NDJSON)
            return
        self.pending.append(self.pool.submit(self.storage.put, uri, body, content_type=NDJSON))
        if len(self.pending) > 2 * WRITERS:
            self.pending.pop(0).result()
