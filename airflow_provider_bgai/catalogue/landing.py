"""From a finished generation to objects in S3: fetch, verify, name by the bytes, write.

All pictures of a generation are verified before the first one is written, and each is written in one
request, so a failed landing leaves neither half an object nor a wrong one. Pictures stream through
temporary files: memory holds one decoded picture at most.
"""

from __future__ import annotations

import asyncio
import hashlib
import tempfile
from contextlib import ExitStack
from typing import IO

from airflow_provider_bgai.catalogue.ledger import Output
from airflow_provider_bgai.exceptions import InvalidRequestError, LostError
from airflow_provider_bgai.hooks.base import BackgroundHook
from airflow_provider_bgai.models import Generation
from airflow_provider_bgai.storage import Storage, split_uri

# A damaged file is fetched this often before it is taken for what the vendor has.
FETCHES = 3


def check_destination(destination: str, count: int) -> None:
    """Refuse a destination that cannot hold ``count`` pictures, before anything is paid.

    :raises InvalidRequestError: naming the rule.
    """
    split_uri(destination)
    if not split_uri(destination)[1] or destination.endswith("/"):
        raise InvalidRequestError(f"destination={destination!r}: must name an object, like s3://bucket/key.{{ext}}")
    if count > 1 and "{index}" not in destination:
        raise InvalidRequestError(
            f"destination={destination!r}: needs {{index}}, or {count} pictures would overwrite each other"
        )


def destination_root(destination: str) -> str:
    """The folder of a destination, where its ledger lives: all before the last ``/`` ahead of any ``{``."""
    return destination.partition("{")[0].rpartition("/")[0]


def name_output(destination: str, index: int, extension: str) -> str:
    """A destination with ``{index}`` (from 1) and ``{ext}`` filled in."""
    return destination.replace("{index}", str(index)).replace("{ext}", extension)


async def land(
    hook: BackgroundHook,
    generation: Generation,
    storage: Storage,
    destination: str,
    *,
    prompt_sha256: str | None = None,
) -> tuple[Output, ...]:
    """Put the pictures of a succeeded generation into S3.

    :param hook: of the vendor that made it.
    :param destination: ``s3://…`` with ``{index}`` and ``{ext}``.
    :raises LostError: if a link has expired, or the vendor's file is no whole picture.
    :raises PollError: if a picture could not be fetched for now.
    """
    check_destination(destination, len(generation.images))
    metadata = {
        "vendor": generation.vendor,
        "model": generation.model,
        "seed": None if generation.seed is None else str(generation.seed),
        "prompt-sha256": prompt_sha256,
        "task-id": generation.task_id,
    }
    given = {name: value for name, value in metadata.items() if value}
    with ExitStack() as files:
        ready: list[tuple[IO[bytes], Output]] = []
        for index, image in enumerate(generation.images, start=1):
            file: IO[bytes] = files.enter_context(tempfile.TemporaryFile())
            ready.append((file, await _fetch_whole(hook, image, file, destination, index, generation)))
        for file, output in ready:
            file.seek(0)
            await asyncio.to_thread(
                storage.put,
                output.uri,
                file,
                content_type=output.content_type,
                metadata={**given, "sha256": output.sha256},
            )
    return tuple(output for _, output in ready)


async def _fetch_whole(
    hook: BackgroundHook,
    image: str | bytes,
    file: IO[bytes],
    destination: str,
    index: int,
    generation: Generation,
) -> Output:
    from airflow_provider_bgai.imaging.verify import NotAPictureError, verify_whole

    for attempt in range(1, FETCHES + 1):
        await hook.fetch(image, file)
        try:
            picture = await asyncio.to_thread(verify_whole, file)
        except NotAPictureError as error:
            # Bytes in hand do not get better; a link may have been cut off on the way.
            if isinstance(image, str) and attempt < FETCHES:
                continue
            raise LostError(
                f"{hook.hook_name}: picture {index} of {len(generation.images)} is {error}",
                vendor=generation.vendor,
                task_id=generation.task_id,
            ) from None
        file.seek(0)
        digest = await asyncio.to_thread(hashlib.file_digest, file, "sha256")  # type: ignore[arg-type]
        return Output(
            uri=name_output(destination, index, picture.extension),
            bytes=picture.size,
            sha256=digest.hexdigest(),
            width=picture.width,
            height=picture.height,
            content_type=picture.content_type,
        )
    raise AssertionError("unreachable")


async def identify(storage: Storage, hook: BackgroundHook, source: str | bytes) -> str:
    """What identifies a source image's content: ETag in S3, URL on the web, sha256 of anything else.

    :raises InvalidRequestError: if there is no such image.
    """
    if isinstance(source, str) and source.startswith("s3://"):
        found = await asyncio.to_thread(storage.head, source)
        if found is None:
            raise InvalidRequestError(f"image={source!r}: there is no such object in S3")
        return f"etag:{found.etag}"
    if isinstance(source, str) and source.startswith(("http://", "https://")):
        return f"url:{source}"
    data = await hook.load_image("image", source)
    return f"sha256:{hashlib.sha256(data).hexdigest()}"
