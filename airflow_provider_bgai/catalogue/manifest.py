"""The shop's product list, row by row: CSV, JSON lines or Parquet; from S3, the web or a path.

A wrong row never stops the others: it comes out as a :class:`RefusedRow` that names file, row, field, value
and rule. Rows stream, so 100,000 of them need no more memory than one (but for the SKUs seen so far).
"""

from __future__ import annotations

import csv
import io
import json
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

from airflow_provider_bgai.storage import Storage

REQUIRED = ("sku", "image")
MAX_SKU = 128


class ManifestError(ValueError):
    """The file as a whole cannot be used: not found, unknown format, or without the required columns."""


@dataclass(frozen=True, slots=True)
class Product:
    """One row.

    :param sku: checked to be safe as part of an S3 key.
    :param image: ``s3://``, ``https://`` or an absolute path; relative ones are resolved against the manifest.
    :param fields: all columns as text, ``sku`` and ``image`` included; a recipe's templates may use them.
    :param row: line number in the file (CSV, JSON lines) or row number (Parquet), from 1.
    """

    sku: str
    image: str
    fields: Mapping[str, str]
    row: int


@dataclass(frozen=True, slots=True)
class RefusedRow:
    """A row that cannot be used, and why."""

    row: int
    sku: str | None
    message: str


def read_manifest(uri: str, storage: Storage) -> Iterator[Product | RefusedRow]:
    """Products and refused rows in the file's order.

    :param uri: ``s3://…``, ``https://…`` or a path, ending in ``.csv``, ``.jsonl``, ``.ndjson`` or ``.parquet``.
    :raises ManifestError: before the first row, if the file as a whole cannot be used.
    """
    suffix = Path(uri.partition("?")[0]).suffix.lower()
    readers = {".csv": _csv_rows, ".jsonl": _json_rows, ".ndjson": _json_rows, ".parquet": _parquet_rows}
    if suffix not in readers:
        raise ManifestError(f"{uri}: must end in one of {', '.join(readers)}")
    seen: set[str] = set()
    with _open(uri, storage) as file:
        for row, values in readers[suffix](uri, file):
            if isinstance(values, str):
                yield RefusedRow(row, None, f"{uri}, row {row}: {values}")
                continue
            yield _check(uri, row, values, seen)


def _check(uri: str, row: int, values: Mapping[str, Any], seen: set[str]) -> Product | RefusedRow:
    fields = {name: _text(value) for name, value in values.items()}
    sku, image = fields.get("sku", "").strip(), fields.get("image", "").strip()

    def refused(field: str, value: str, rule: str) -> RefusedRow:
        return RefusedRow(row, sku or None, f"{uri}, row {row}, {field}={value[:80]!r}: {rule}")

    for name, value in fields.items():
        if any("\ud800" <= char <= "\udfff" for char in value):
            return refused(name, ascii(value), "is not UTF-8 text")
    if (problem := sku_problem(sku)) is not None:
        return refused("sku", sku, problem)
    if sku in seen:
        return refused("sku", sku, "stands in an earlier row already; each SKU may stand in one row only")
    if not image:
        return refused("image", image, "is empty; it must be a path, an s3:// or an https:// address")
    seen.add(sku)
    return Product(sku, _resolve(uri, image), fields | {"sku": sku, "image": image}, row)


def sku_problem(sku: str) -> str | None:
    """Why a SKU may not become part of an S3 key or a file name; None if it may."""
    if not sku:
        return "is empty"
    if len(sku) > MAX_SKU:
        return f"has {len(sku)} characters; at most {MAX_SKU}"
    if any(ord(char) < 32 or ord(char) == 127 for char in sku):
        return "contains control characters"
    if any(char in sku for char in "/\\{}"):
        return "contains a character with a meaning in paths or templates: / \\ { }"
    if sku in (".", "..") or sku.startswith("_bgai"):
        return "is reserved"
    return None


def _resolve(manifest: str, image: str) -> str:
    if "://" in image or image.startswith("/"):
        return image
    return f"{manifest.partition('?')[0].rpartition('/')[0] or '.'}/{image}"


def _text(value: Any) -> str:
    if value is None:
        return ""
    if isinstance(value, bool):
        return "true" if value else "false"
    return value if isinstance(value, str) else json.dumps(value) if isinstance(value, dict | list) else str(value)


@contextmanager
def _open(uri: str, storage: Storage) -> Iterator[IO[bytes]]:
    """The file on local disk: a network stream that breaks off in the middle would lose a whole plan."""
    if "://" not in uri:
        if not Path(uri).is_file():
            raise ManifestError(f"{uri}: there is no such file")
        with Path(uri).open("rb") as file:
            yield file
        return
    with tempfile.TemporaryFile() as copy:
        if uri.startswith("s3://"):
            try:
                storage.download(uri, copy)
            except FileNotFoundError:
                raise ManifestError(f"{uri}: there is no such object in S3") from None
        elif uri.startswith(("http://", "https://")):
            _fetch(uri, copy)
        else:
            raise ManifestError(f"{uri}: must be a path, an s3:// or an https:// address")
        copy.seek(0)
        yield copy


def _fetch(uri: str, file: IO[bytes]) -> None:
    import httpx

    try:
        with httpx.stream("GET", uri, timeout=60, follow_redirects=True) as response:
            response.raise_for_status()
            for chunk in response.iter_bytes(1 << 20):
                file.write(chunk)
    except httpx.HTTPError as error:
        # The URL without its query: signatures stand there.
        raise ManifestError(f"{uri.partition('?')[0]}: cannot be fetched: {type(error).__name__}") from None


# Each reader yields (row number, values by column) or (row number, what is wrong with the row).
Rows = Iterator[tuple[int, Mapping[str, Any] | str]]


def _csv_rows(uri: str, file: IO[bytes]) -> Rows:
    # Bytes that are not UTF-8 are let through as surrogates, so that only their own row is refused.
    text = io.TextIOWrapper(file, encoding="utf-8-sig", errors="surrogateescape", newline="")
    reader = csv.DictReader(text, strict=True)
    try:
        columns = reader.fieldnames or []
    except csv.Error as error:
        raise ManifestError(f"{uri}: the header is not CSV: {error}") from None
    _check_columns(uri, columns)
    while True:
        try:
            values = next(reader)
        except StopIteration:
            return
        except csv.Error as error:
            yield reader.line_num, f"is not CSV: {error}"
            continue
        if None in values:
            yield reader.line_num, f"has more than the {len(columns)} fields of the header"
        else:
            yield reader.line_num, values


def _json_rows(uri: str, file: IO[bytes]) -> Rows:
    for number, line in enumerate(file, start=1):
        if not line.strip():
            continue
        try:
            values = json.loads(line)
        except ValueError as error:
            yield number, f"is not JSON: {error}"
            continue
        if isinstance(values, dict):
            yield number, values
        else:
            yield number, f"is a JSON {type(values).__name__}, not an object"


def _parquet_rows(uri: str, file: IO[bytes]) -> Rows:
    try:
        import pyarrow.parquet as parquet
    except ImportError:
        raise ManifestError(f"{uri}: Parquet needs the extra: pip install 'airflow-provider-bgai[parquet]'") from None
    import pyarrow

    try:
        table = parquet.ParquetFile(file)
    except (pyarrow.ArrowInvalid, OSError) as error:
        raise ManifestError(f"{uri}: is not Parquet: {error}") from None
    _check_columns(uri, table.schema_arrow.names)
    number = 0
    for batch in table.iter_batches(batch_size=1000):
        for values in batch.to_pylist():
            number += 1
            yield number, values


def _check_columns(uri: str, columns: Any) -> None:
    missing = [name for name in REQUIRED if name not in columns]
    if missing:
        raise ManifestError(f"{uri}: column(s) {', '.join(missing)} missing; it has {', '.join(map(str, columns))}")
    doubled = {name for name in columns if list(columns).count(name) > 1}
    if doubled:
        raise ManifestError(f"{uri}: column(s) {', '.join(sorted(doubled))} stand in the header more than once")
