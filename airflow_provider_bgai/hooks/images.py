"""An image that a user named, as the bytes or the link that a vendor is sent."""

from __future__ import annotations

import asyncio
import hashlib
import io
from pathlib import Path
from typing import TYPE_CHECKING

from airflow_provider_bgai import web
from airflow_provider_bgai.exceptions import SourceError
from airflow_provider_bgai.hooks.channel import MAX_BYTES, retrying

if TYPE_CHECKING:
    from airflow_provider_bgai.hooks.base import BackgroundHook
    from airflow_provider_bgai.imaging.verify import Picture

LOAD_ATTEMPTS = 4


def is_link(source: str | bytes | None) -> bool:
    """Whether an image is named by an http(s) URL."""
    return isinstance(source, str) and source.startswith(("http://", "https://"))


async def load(hook: BackgroundHook, field: str, source: str | bytes) -> bytes:
    """The bytes of an image.

    :param field: the request's, for messages.
    :raises InvalidRequestError: if it cannot be read, and trying again does not help.
    :raises SourceError: if it cannot be read for now.
    """
    if isinstance(source, bytes):
        return source
    await hook.load_settings()
    if source.startswith("s3://"):
        from botocore.exceptions import BotoCoreError, ClientError

        try:
            return await asyncio.to_thread(hook.storage.read, source)
        except FileNotFoundError:
            raise hook.refuse(field, source, "there is no such object in S3") from None
        except (BotoCoreError, ClientError) as error:
            raise hook.error(SourceError, f"{field}={source!r} cannot be read: {error}") from None
    if is_link(source):
        return await _fetch(hook, field, source)
    try:
        return await asyncio.to_thread(Path(source).read_bytes)
    except OSError as error:
        raise hook.refuse(field, source, f"cannot be read: {error.strerror}") from None


async def _fetch(hook: BackgroundHook, field: str, url: str) -> bytes:
    settings, file = hook.settings, io.BytesIO()
    try:
        async for attempt in retrying(LOAD_ATTEMPTS, web.may_pass, settings.timeout):
            with attempt:
                await web.fetch(
                    url,
                    file,
                    allow_private_hosts=settings.allow_private_hosts,
                    timeout=settings.timeout,
                    max_bytes=MAX_BYTES,
                )
    except (web.BadLinkError, web.GoneError, web.TooLargeError, web.PrivateAddressError) as error:
        raise hook.refuse(field, url, f"cannot be fetched: {error}") from None
    except web.WebError as error:
        raise hook.error(SourceError, f"{field}={web.without_queries(url)!r} cannot be fetched: {error}") from None
    return file.getvalue()


async def describe(hook: BackgroundHook, field: str, data: bytes) -> Picture:
    """What an image about to be sent is. :raises InvalidRequestError: if it is nothing that the vendor takes."""
    from airflow_provider_bgai.imaging.verify import NotAPictureError, read_header

    try:
        picture = await asyncio.to_thread(read_header, data)
    except NotAPictureError as error:
        raise hook.refuse(field, f"{len(data)} bytes", str(error)) from None
    if picture.extension not in hook.source.formats:
        taken = " or ".join(kind.upper() for kind in hook.source.formats)
        raise hook.refuse(field, picture.extension, f"must be a {taken}; save it as PNG")
    return picture


async def link_to(hook: BackgroundHook, field: str, source: str | bytes) -> str:
    """A link through which the vendor can fetch an image; staged in S3 where it has none.

    :raises InvalidRequestError: if it is no picture, or there is nowhere to stage it.
    """
    if isinstance(source, str) and is_link(source):
        return source
    if isinstance(source, str) and source.startswith("s3://"):
        await describe(hook, field, await load(hook, field, source))
        return await asyncio.to_thread(hook.storage.presign, source)
    if not hook.staging:
        raise hook.refuse(
            field,
            source if isinstance(source, str) else f"{len(source)} bytes",
            "the vendor takes URLs only; give an s3:// or https:// image, or a `staging` prefix in S3",
        )
    data = await load(hook, field, source)
    picture = await describe(hook, field, data)
    staged = f"{hook.staging.rstrip('/')}/{hashlib.sha256(data).hexdigest()}.{picture.extension}"
    await asyncio.to_thread(hook.storage.put, staged, data, content_type=picture.content_type)
    return await asyncio.to_thread(hook.storage.presign, staged)
