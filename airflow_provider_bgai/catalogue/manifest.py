"""The shop's product list, row by row: CSV, Excel, JSON lines or Parquet; from S3, the web or a path.

A wrong row never stops the others: it comes out as a :class:`RefusedRow` that names file, row, field, value
and rule. Rows stream, so 100,000 of them need no more memory than one (but for the SKUs seen so far).
"""

from __future__ import annotations

import asyncio
import logging
import re
import tempfile
import unicodedata
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO
from urllib.parse import urljoin, urlsplit

from airflow_provider_bgai.catalogue.tables import READERS, Reader, Rows, column_name, is_text, text_of
from airflow_provider_bgai.exceptions import ManifestError
from airflow_provider_bgai.layout import MAX_SEGMENT
from airflow_provider_bgai.mistakes import reading, shown
from airflow_provider_bgai.storage import Storage, split_uri

MAX_SKU = 128
MAX_BYTES = 1_000_000_000
FETCH_SECONDS = 600.0
"""Of a file from the web."""

log = logging.getLogger(__name__)

_WEB = ("https://", "http://")
_SPECIAL = re.compile(r"[/\\{}]")
_ROUNDED = re.compile(r"\d(\.\d+)?[eE]\+\d+")
_HOST = re.compile(r"[^\s\\<>\"^`{|}%]+")


@dataclass(frozen=True, slots=True)
class Product:
    """One row.

    :param sku: checked to be safe as part of an S3 key.
    :param image: ``s3://``, ``https://`` or an absolute path; relative ones are resolved against the manifest.
    :param fields: all columns as text, ``sku`` and ``image`` included; a recipe's templates may use them. Empty cells
        are ``""``.
    :param row: line number in the file (CSV, JSON lines) or row number (Excel, Parquet), from 1.
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
    :param bare: whether it names no image, as totals and remarks below a list do not.
    """

    row: int
    sku: str | None
    message: str
    bare: bool = False


class Manifest:
    """A manifest on local disk: iterate over it for products and refused rows in the file's order, as often as needed.

    Rows with nothing in any cell are no rows. The last row of a file is no product, either, if it names no image: below
    a list stand totals and remarks. That is logged, and no refusal.

    :param uri: where it came from, without a query (signatures stand there).
    """

    def __init__(self, uri: str, reader: Reader, path: str) -> None:
        self.uri = uri
        self._reader = reader
        self._path = path

    def __iter__(self) -> Iterator[Product | RefusedRow]:
        """:raises ManifestError: before the first row, if the file as a whole cannot be used."""
        held: Product | RefusedRow | None = None
        products = False
        for found in self._checked():
            if held is not None:
                yield held
            products = products or isinstance(found, Product)
            held = found
        if products and isinstance(held, RefusedRow) and held.bare:
            log.warning("%s. It is the last row, so it is taken for a total or a remark", held.message)
        elif held is not None:
            yield held

    def _checked(self) -> Iterator[Product | RefusedRow]:
        seen: set[str] = set()
        for row, values in self._rows():
            if isinstance(values, str):
                yield _refused(self.uri, row, None, f": {values}")
                continue
            fields = {column_name(name): text_of(value) for name, value in values.items()}
            if any(fields.values()):
                yield _check(self.uri, row, fields, seen)

    def images(self) -> Iterator[tuple[str, str]]:
        """SKU and image of each row that names one, whether it will be refused or not: a quick first look.

        :raises ManifestError: as :meth:`__iter__`.
        """
        for _, values in self._rows():
            if isinstance(values, str):
                continue
            sku, image = values.get("sku"), values.get("image")
            if sku is None or image is None:  # in another spelling: it is read with the others
                fields = {column_name(name): value for name, value in values.items()}
                sku, image = fields.get("sku"), fields.get("image")
            image = text_of(image).strip()
            if not image or not is_text(image):
                continue
            try:
                yield text_of(sku).strip(), resolve(image, self.uri)
            except ValueError:
                continue

    def _rows(self) -> Rows:
        with Path(self._path).open("rb") as file:
            yield from self._reader(self.uri, file)


@contextmanager
def open_manifest(uri: str, storage: Storage, *, allow_private_hosts: bool = False) -> Iterator[Manifest]:
    """A manifest, copied to local disk: a stream that breaks off in the middle would lose a whole plan.

    :param uri: ``s3://…``, ``https://…`` or a path, ending as one of :data:`.tables.READERS`.
    :param allow_private_hosts: of the web.
    :raises ManifestError: if there is no such file, or its name has no known ending.
    """
    place = uri.partition("?")[0] if uri.startswith(_WEB) else uri
    reader = READERS.get(Path(place).suffix.lower())
    if reader is None:
        raise ManifestError(f"{place}: must end in one of {', '.join(READERS)}")
    if "://" not in uri:
        if not Path(uri).is_file():
            raise ManifestError(f"{uri}: there is no such file")
        yield Manifest(uri, reader, uri)
        return
    with tempfile.NamedTemporaryFile() as copy:
        if uri.startswith("s3://"):
            with reading(uri, uri, storage, ManifestError):
                storage.download(uri, copy)
        elif uri.startswith(_WEB):
            _fetch(uri, copy, allow_private_hosts)
        else:
            raise ManifestError(f"{place}: must be a path, an s3:// or an https:// address")
        copy.flush()
        yield Manifest(place, reader, copy.name)


def read_manifest(uri: str, storage: Storage, *, allow_private_hosts: bool = False) -> Iterator[Product | RefusedRow]:
    """Products and refused rows, once; see :func:`open_manifest`."""
    with open_manifest(uri, storage, allow_private_hosts=allow_private_hosts) as manifest:
        yield from manifest


def _check(uri: str, row: int, fields: dict[str, str], seen: set[str]) -> Product | RefusedRow:
    sku, image = fields.get("sku", "").strip(), fields.get("image", "").strip()

    def refused(field: str, value: str, rule: str) -> RefusedRow:
        return _refused(uri, row, sku, f", {field}={value[:80]!r}: {rule}", bare=not image)

    if not is_text("".join([*fields, *fields.values()])):
        name, value = next(item for item in fields.items() if not is_text("".join(item)))
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


def _refused(uri: str, row: int, sku: str | None, message: str, *, bare: bool = False) -> RefusedRow:
    # What is not UTF-8 in the file must not break the files and logs it is reported in.
    sku, message = (text.encode("utf-8", "backslashreplace").decode() for text in (sku or "", message))
    return RefusedRow(row, sku or None, f"{uri}, row {row}{message}", bare)


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


def _fetch(uri: str, file: IO[bytes], allow_private_hosts: bool) -> None:
    """Copy a file from the web. :raises ManifestError: in words, without the query: signatures stand there."""
    place = uri.partition("?")[0]
    if (problem := _link_problem(uri)) is not None:
        raise ManifestError(f"{place}: {problem}")
    from airflow_provider_bgai import web

    work = web.fetch(uri, file, allow_private_hosts=allow_private_hosts, timeout=FETCH_SECONDS, max_bytes=MAX_BYTES)
    try:
        asyncio.run(work)
    except web.WebError as error:
        raise ManifestError(f"{place}: cannot be fetched: {error}") from None
