"""A picture somebody names: read once, identified by its content, shown without its query.

A source's identity is the sha256 of its bytes. An ETag, a size, a date or a link is a *hint*: it may save a plan the
reading, and it never decides on money.
"""

from __future__ import annotations

import asyncio
import hashlib
import io
from dataclasses import dataclass, field
from pathlib import Path

from airflow_provider_bgai import mistakes
from airflow_provider_bgai.exceptions import InvalidRequestError, SourceError
from airflow_provider_bgai.storage import Storage

MAX_BYTES = 100 * 1024 * 1024
"""A source is not read beyond this: the largest input a vendor documents is 30 MB."""
TIMEOUT = 120.0


@dataclass(frozen=True)
class Source:
    """An image as it was read.

    :param sha256: of its bytes: what identifies it.
    :param shown: how it may stand in records and messages.
    :param hint: where it was and how it looked from outside (ETag, size, date); None where nothing was told.
    """

    data: bytes = field(repr=False)
    sha256: str
    shown: str
    hint: str | None = None


def shown(source: str | bytes) -> str:
    """A source as it may stand in records and messages: a link without its query, where signatures stand, and user."""
    if isinstance(source, bytes):
        return f"{len(source):,} bytes"
    return mistakes.shown(source) if source.startswith(("http://", "https://")) else source


def hint_of(source: str, look: str) -> str:
    """A hint, with the place it belongs to."""
    return f"{shown(source)} {look}"


async def read_source(
    source: str | bytes, storage: Storage, *, field: str = "image", allow_private_hosts: bool = False
) -> Source:
    """Read an image that a user named, once.

    :param source: bytes, a path, ``s3://…`` or ``https://…``.
    :raises InvalidRequestError: if there is no such image.
    :raises SourceError: if it cannot be read for now.
    """
    if isinstance(source, str) and source.startswith(("http://", "https://")):
        data, hint = await _read_link(source, f"{field}={shown(source)!r}", allow_private_hosts)
        return await asyncio.to_thread(_hashed, source, data, hint)
    return await asyncio.to_thread(_read, source, storage, field)


def _hashed(source: str | bytes, data: bytes, hint: str | None = None) -> Source:
    return Source(data, hashlib.sha256(data).hexdigest(), shown(source), hint)


def _read(source: str | bytes, storage: Storage, field: str) -> Source:
    """What stands in S3 or in a file, or is at hand; blocks."""
    if isinstance(source, bytes):
        return _hashed(source, source)
    name = f"{field}={shown(source)!r}"
    if source.startswith("s3://"):
        with mistakes.reading(name, source, storage, InvalidRequestError):
            data, found = storage.load(source)
        return _hashed(source, data, hint_of(source, found.hint))
    try:
        return _hashed(source, Path(source).read_bytes())
    except (OSError, ValueError) as error:
        raise InvalidRequestError(f"{name}: cannot be read: {getattr(error, 'strerror', None) or error}") from None


async def _read_link(link: str, name: str, allow_private_hosts: bool) -> tuple[bytes, str | None]:
    from airflow_provider_bgai import web

    file = io.BytesIO()
    try:
        found = await web.fetch(
            link, file, allow_private_hosts=allow_private_hosts, timeout=TIMEOUT, max_bytes=MAX_BYTES
        )
    except web.UnreachableError as error:
        raise SourceError(f"{name}: cannot be fetched for now: {error}") from None
    except web.WebError as error:
        raise InvalidRequestError(f"{name}: cannot be fetched: {error}") from None
    return file.getvalue(), look_of(link, found)


def look_of(link: str, found: object) -> str | None:
    """The hint in what a link's server told; None where that tells nothing apart."""
    etag, modified, size = (getattr(found, name) for name in ("etag", "last_modified", "size"))
    return hint_of(link, f"{etag or '-'} {size} {modified or '-'}") if etag or modified else None
