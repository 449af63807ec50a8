"""The shop's product list, row by row: CSV, JSON lines or Parquet; from S3, the web or a path.

A wrong row never stops the others: it comes out as a :class:`RefusedRow` that names file, row, field, value
and rule. Rows stream, so 100,000 of them need no more memory than one (but for the SKUs seen so far). A cell has the
same text in every format: nothing is ``""`` however an exporter writes it, and 1001.0 is 1001.
"""

from __future__ import annotations

import csv
import io
import json
import re
import tempfile
import unicodedata
from collections import Counter, deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from decimal import Decimal
from functools import lru_cache
from pathlib import Path
from typing import IO, Any
from urllib.parse import urljoin, urlsplit

from airflow_provider_bgai.layout import MAX_SEGMENT
from airflow_provider_bgai.storage import Storage, split_uri

REQUIRED = ("sku", "image")
MAX_SKU = 128
MAX_LINE = 1 << 20
MAX_LINES = 100
"""Of one CSV row: quoted fields may hold line breaks."""
MAX_BYTES = 1_000_000_000
"""Of a file from the web."""

_WEB = ("https://", "http://")
_SPECIAL = re.compile(r"[/\\{}]")
_ROUNDED = re.compile(r"\d(\.\d+)?[eE]\+\d+")
_WHOLE = re.compile(r"(0|-?[1-9][0-9]{0,14})\.0")
_HOST = re.compile(r"[^\s\\<>\"^`{|}%]+")
# What pandas, Python, JavaScript and databases write for a cell with nothing in it.
_NOTHING = {"", "nan", "NaN", "NaT", "None", "<NA>", "null", "NULL"}
_EXACT = 2**53
"""From here on a float has lost digits."""


class ManifestError(ValueError):
    """The file as a whole cannot be used: not found, unknown format, or without the required columns."""


@dataclass(frozen=True, slots=True)
class Product:
    """One row.

    :param sku: checked to be safe as part of an S3 key.
    :param image: ``s3://``, ``https://`` or an absolute path; relative ones are resolved against the manifest.
    :param fields: all columns as text, ``sku`` and ``image`` included; a recipe's templates may use them. Empty cells
        are ``""``.
    :param row: line number in the file (CSV, JSON lines) or row number (Parquet), from 1.
    :param manifest: the file it stands in, without a query.
    """

    sku: str
    image: str
    fields: Mapping[str, str]
    row: int
    manifest: str


@dataclass(frozen=True, slots=True)
class RefusedRow:
    """A row that cannot be used, and why.

    :param sku: None where the row has none of its own: it is missing, or belongs to an earlier row.
    """

    row: int
    sku: str | None
    message: str


class Manifest:
    """A manifest on local disk: iterate over it for products and refused rows in the file's order, as often as needed.

    Rows with nothing in any cell are no rows.

    :param uri: where it came from, without a query (signatures stand there).
    """

    def __init__(self, uri: str, reader: Reader, path: str) -> None:
        self.uri = uri
        self._reader = reader
        self._path = path

    def __iter__(self) -> Iterator[Product | RefusedRow]:
        """:raises ManifestError: before the first row, if the file as a whole cannot be used."""
        seen: set[str] = set()
        with Path(self._path).open("rb") as file:
            for row, values in self._reader(self.uri, file):
                if isinstance(values, str):
                    yield _refused(self.uri, row, None, f": {values}")
                    continue
                fields = {column_name(name): _text(value) for name, value in values.items()}
                if any(fields.values()):
                    yield _check(self.uri, row, fields, seen)


@contextmanager
def open_manifest(uri: str, storage: Storage) -> Iterator[Manifest]:
    """A manifest, copied to local disk: a stream that breaks off in the middle would lose a whole plan.

    :param uri: ``s3://…``, ``https://…`` or a path, ending in ``.csv``, ``.jsonl``, ``.ndjson`` or ``.parquet``.
    :raises ManifestError: if there is no such file, or its name has no known ending.
    """
    place = uri.partition("?")[0] if uri.startswith(_WEB) else uri
    readers: dict[str, Reader] = {
        ".csv": _csv_rows,
        ".jsonl": _json_rows,
        ".ndjson": _json_rows,
        ".parquet": _parquet_rows,
    }
    suffix = Path(place).suffix.lower()
    if suffix not in readers:
        raise ManifestError(f"{place}: must end in one of {', '.join(readers)}")
    if "://" not in uri:
        if not Path(uri).is_file():
            raise ManifestError(f"{uri}: there is no such file")
        yield Manifest(uri, readers[suffix], uri)
        return
    with tempfile.NamedTemporaryFile() as copy:
        if uri.startswith("s3://"):
            try:
                storage.download(uri, copy)
            except FileNotFoundError:
                raise ManifestError(f"{uri}: there is no such object in S3") from None
        elif uri.startswith(_WEB):
            _fetch(uri, copy)
        else:
            raise ManifestError(f"{place}: must be a path, an s3:// or an https:// address")
        copy.flush()
        yield Manifest(place, readers[suffix], copy.name)


def read_manifest(uri: str, storage: Storage) -> Iterator[Product | RefusedRow]:
    """Products and refused rows, once; see :func:`open_manifest`."""
    with open_manifest(uri, storage) as manifest:
        yield from manifest


def _check(uri: str, row: int, fields: dict[str, str], seen: set[str]) -> Product | RefusedRow:
    sku, image = fields.get("sku", "").strip(), fields.get("image", "").strip()

    def refused(field: str, value: str, rule: str) -> RefusedRow:
        return _refused(uri, row, sku, f", {field}={value[:80]!r}: {rule}")

    if not _is_text("".join([*fields, *fields.values()])):
        name, value = next(item for item in fields.items() if not _is_text("".join(item)))
        return refused(name, value, "is not UTF-8 text")
    if (problem := sku_problem(sku)) is not None:
        return refused("sku", sku, problem)
    spelled = unicodedata.normalize("NFC", sku)
    if spelled in seen:
        rule = "stands in an earlier row already, or looks like one that does; each SKU may stand in one row only"
        return _refused(uri, row, None, f", sku={sku!r}: {rule}")
    seen.add(spelled)
    if not image:
        return refused("image", image, f"is empty; it {_ADDRESS}")
    try:
        address = resolve(image, uri)
    except ValueError as error:
        return refused("image", shown(image), str(error))
    fields["sku"], fields["image"] = sku, address
    return Product(sku, address, fields, row, uri)


def _refused(uri: str, row: int, sku: str | None, message: str) -> RefusedRow:
    # What is not UTF-8 in the file must not break the files and logs it is reported in.
    sku, message = (text.encode("utf-8", "backslashreplace").decode() for text in (sku or "", message))
    return RefusedRow(row, sku or None, f"{uri}, row {row}{message}")


def _is_text(value: str) -> bool:
    try:
        value.encode()
    except UnicodeEncodeError:
        return False
    return True


def sku_problem(sku: str) -> str | None:
    """Why a SKU may not become part of an S3 key or a file name; None if it may."""
    if not sku:
        return "is empty"
    if len(sku) > MAX_SKU:
        return f"has {len(sku)} characters; at most {MAX_SKU}"
    if (size := len(sku.encode())) > MAX_SEGMENT:
        return f"has {size} bytes; a part of an S3 key takes {MAX_SEGMENT}"
    if not sku.isprintable():
        return "contains control or other invisible characters"
    if _SPECIAL.search(sku):
        return "contains a character with a meaning in paths or templates: / \\ { }"
    if sku in (".", "..") or sku.lower().startswith("_bgai"):
        return "is reserved"
    if _ROUNDED.fullmatch(sku):
        return "is a rounded number; write all its digits"
    return None


_ADDRESS = "must be a path, an s3:// or an https:// address"


def is_remote(address: str) -> bool:
    """Whether something lies elsewhere: in S3 or on the web."""
    return address.startswith(("s3://", *_WEB))


def resolve(image: str, named_in: str) -> str:
    """The address of a picture that a file names; relative ones lie beside that file.

    :param named_in: the file: a path, an ``s3://`` or an ``https://`` address.
    :raises ValueError: in words, without the picture's address, if it cannot be one, or is local to this machine and
        the file is not.
    """
    remote = is_remote(named_in)
    if remote and (image.startswith("/") or image[:5].lower() == "file:"):
        raise ValueError("what lies in S3 or on the web may not name local files; write an s3:// or https:// address")
    if "://" not in image:
        if named_in.startswith(_WEB):
            image = urljoin(named_in, image)
        elif not image.startswith("/"):
            folder, slash, _ = named_in.rpartition("/")
            image = f"{folder}{slash}{image}"
    if image.startswith("s3://"):
        try:
            _, key = split_uri(image)
        except ValueError as error:
            raise ValueError(str(error).rpartition(": ")[2]) from None
        if not key or key.endswith("/"):
            raise ValueError("must name an object, like s3://bucket/folder/picture.png")
    elif image.startswith(_WEB):
        if (problem := _link_problem(image)) is not None:
            raise ValueError(problem)
    elif remote or "://" in image:
        raise ValueError(_ADDRESS)
    return image


def _link_problem(link: str) -> str | None:
    """Why nothing can be fetched from a link; None if it may be tried."""
    if not link.isprintable():
        return "contains control or other invisible characters"
    try:
        parts = urlsplit(link)
    except ValueError:
        return "is no address; write it like https://host/picture.png"
    if not parts.hostname:
        return "names no host; write it like https://host/picture.png"
    if not _HOST.fullmatch(parts.hostname):
        return "is no address; write it like https://host/picture.png"
    try:
        possible = parts.port != 0
    except ValueError:
        possible = False
    return None if possible else "has an impossible port; ports go from 1 to 65535"


def shown(address: str) -> str:
    """An address without what may be a key: query, user and password."""
    return re.sub(r"(?<=://)[^/]*@", "", address.partition("?")[0]) if "://" in address else address


@lru_cache(maxsize=1024)
def column_name(name: str) -> str:
    """A column's name in its one spelling."""
    return unicodedata.normalize("NFC", name.strip())


def _text(value: Any) -> str:
    if isinstance(value, str):
        return "" if value.strip() in _NOTHING else value
    if isinstance(value, bytes):
        return _text(value.decode("utf-8", "surrogateescape"))
    if value is None or value in ([], {}) or value != value:  # NaN, NaT
        return ""
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, dict | list):
        return json.dumps(value, default=str, ensure_ascii=False)
    if isinstance(value, float) and value.is_integer() and abs(value) < _EXACT:
        return str(int(value))
    if isinstance(value, Decimal) and value == value.to_integral_value():
        return str(int(value))
    return str(value)


def _fetch(uri: str, file: IO[bytes]) -> None:
    """Copy a file from the web. :raises ManifestError: in words, without the query: signatures stand there."""
    place = uri.partition("?")[0]
    if (problem := _link_problem(uri)) is not None:
        raise ManifestError(f"{place}: {problem}")
    import httpx

    size = 0
    try:
        with httpx.stream("GET", uri, timeout=60, follow_redirects=True) as response:
            if not response.is_success:
                raise ManifestError(f"{place}: cannot be fetched: its server says {response.status_code}")
            for chunk in response.iter_bytes(1 << 20):
                size += len(chunk)
                if size > MAX_BYTES:
                    raise ManifestError(f"{place}: is larger than {MAX_BYTES:,} bytes")
                file.write(chunk)
    except (httpx.HTTPError, httpx.InvalidURL) as error:
        raise ManifestError(f"{place}: cannot be fetched: {type(error).__name__}") from None


# Each reader yields (row number, values by column) or (row number, what is wrong with the row).
Rows = Iterator[tuple[int, Mapping[str, Any] | str]]
Reader = Callable[[str, IO[bytes]], Rows]


def _csv_rows(uri: str, file: IO[bytes]) -> Rows:
    # Bytes that are not UTF-8 are let through as surrogates, so that only their own row is refused.
    lines = _Lines(io.TextIOWrapper(file, encoding="utf-8-sig", errors="surrogateescape", newline=""))
    reader = csv.reader(lines, strict=True)
    try:
        columns = [column_name(name) for name in next(reader, [])]
    except csv.Error as error:
        raise ManifestError(f"{uri}: the header is not CSV: {error}") from None
    _check_columns(uri, columns)
    while True:
        lines.taken.clear()
        try:
            values = next(reader)
        except StopIteration:
            return
        except csv.Error as error:
            yield lines.give_back(), f"is not CSV: {error}"
            continue
        if len(values) == len(columns):
            # CSV has no numbers, so 1001.0 is what some exporter made of 1001.
            values = [cell[:-2] if cell.endswith(".0") and _WHOLE.fullmatch(cell) else cell for cell in values]
            yield lines.taken[0][0], dict(zip(columns, values, strict=True))
        elif any(map(_text, values)):
            yield lines.give_back(), f"has {len(values)} fields; the header has {len(columns)}"


class _Lines:
    """Lines for the CSV reader, which can be given back.

    A quotation mark too many makes a reader take the rows that follow for one long field. Then only the first line is
    refused, and the others are read again.
    """

    def __init__(self, text: io.TextIOWrapper) -> None:
        self._text = text
        self._again: deque[tuple[int, str]] = deque()
        self._number = 0
        self.taken: list[tuple[int, str]] = []

    def __iter__(self) -> _Lines:
        return self

    def __next__(self) -> str:
        if len(self.taken) == MAX_LINES:
            raise csv.Error(f"a quoted field goes on for more than {MAX_LINES} lines")
        if self._again:
            line = self._again.popleft()
        else:
            self._number += 1
            line = (self._number, self._text.readline(MAX_LINE))
            if not line[1]:
                raise StopIteration
            if len(line[1]) == MAX_LINE:
                while (rest := self._text.readline(MAX_LINE)) and not rest.endswith(("\n", "\r")):
                    continue
        self.taken.append(line)
        if len(line[1]) == MAX_LINE:
            raise csv.Error(f"the line is longer than {MAX_LINE:,} characters")
        return line[1]

    def give_back(self) -> int:
        """Return all lines of a record but the first, whose number it is."""
        (number, _), *others = self.taken
        self._again.extendleft(reversed(others))
        return number


def _json_rows(uri: str, file: IO[bytes]) -> Rows:
    number = 0
    while line := file.readline(MAX_LINE):
        number += 1
        if len(line) == MAX_LINE:
            while (rest := file.readline(MAX_LINE)) and not rest.endswith(b"\n"):
                continue
            yield number, f"is longer than {MAX_LINE:,} bytes"
            continue
        if not line.strip():
            continue
        try:
            values = json.loads(line)
        except (ValueError, RecursionError) as error:
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
        _check_columns(uri, [column_name(name) for name in table.schema_arrow.names])
        number = 0
        for batch in table.iter_batches(batch_size=1000):
            for index in range(batch.num_rows):
                number += 1
                try:
                    (values,) = batch.slice(index, 1).to_pylist()
                except (ValueError, OverflowError) as error:  # not UTF-8; a date that Python has no room for
                    yield number, f"cannot be read: {error}"
                else:
                    yield number, values
    except (pyarrow.ArrowException, OSError) as error:
        raise ManifestError(f"{uri}: is not Parquet, or damaged: {error}") from None


def _check_columns(uri: str, columns: Sequence[str]) -> None:
    if not _is_text("".join(columns)):
        raise ManifestError(f"{uri}: the header is not UTF-8 text")
    missing = [name for name in REQUIRED if name not in columns]
    there = ", ".join(ascii(name[:40]) for name in columns[:20]) or "none"
    if missing:
        raise ManifestError(f"{uri}: column(s) {', '.join(missing)} missing; it has {there}")
    doubled = sorted(name for name, count in Counter(columns).items() if count > 1)
    if doubled:
        raise ManifestError(f"{uri}: column(s) {', '.join(map(ascii, doubled))} stand in the header more than once")
