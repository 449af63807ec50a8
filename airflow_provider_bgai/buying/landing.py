"""From a finished generation to pictures in S3: fetch, have inspected and labelled, write.

All pictures of a call are looked at before the first one is written, and each is written in one request under a name
that holds its content's hash, so a failed landing leaves neither half an object nor a wrong one, and two who land the
same call write the same names. Pictures stream through temporary files, and only as many are decoded at once as
there are processors.
"""

from __future__ import annotations

import asyncio
import hashlib
import os
import tempfile
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import dataclass
from typing import IO, TYPE_CHECKING

from airflow_provider_bgai.buying.record import Call, Output, Thumbnails
from airflow_provider_bgai.exceptions import InvalidRequestError, LostError, PollError
from airflow_provider_bgai.imaging.inspect import Seen, inspect
from airflow_provider_bgai.models import Generation
from airflow_provider_bgai.storage import Storage, split_uri

if TYPE_CHECKING:
    from airflow_provider_bgai.hooks.base import BackgroundHook

# A damaged file is fetched this often before it is taken for what the vendor has.
FETCHES = 3
IN_MEMORY = 1 << 20
"""Bytes of a picture that is kept in memory while it is landed; a larger one goes to a temporary file."""
PIXELS = ThreadPoolExecutor(min(4, os.cpu_count() or 1), "bgai-pixels")
"""Where pictures are decoded and encoded: more at once would only take memory."""


@dataclass(frozen=True)
class Landing:
    """What has landed, and what went to quarantine. ``warnings`` is for people."""

    images: tuple[Output, ...]
    quarantined: tuple[Output, ...]
    thumbnails: Thumbnails
    warnings: tuple[str, ...]


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


Place = Callable[[int, int, str, str, bool], str]
"""Where a picture goes: index (from 1), count, sha256, extension, whether it shows the product -> URI."""


async def land(
    hook: BackgroundHook, generation: Generation, storage: Storage, call: Call, source: bytes | None, place: Place
) -> Landing:
    """Put the pictures of a succeeded generation into S3, labelled as made by AI.

    :param hook: of the vendor that made it.
    :param call: says how they are looked at, and what their labels say.
    :param source: the cut-out's bytes that were sent, to compare the pictures with; None if they are not at hand.
    :raises LostError: if the vendor's file is no whole picture, or its link is gone.
    :raises PollError: if a picture could not be fetched for now, or is of a kind that is not read here.
    :raises StoreError: if S3 refuses it for minutes.
    """
    loop = asyncio.get_running_loop()
    count = len(generation.images)
    metadata = {
        "vendor": call.vendor,
        "model": call.model,
        "seed": None if call.seed is None else str(call.seed),
        "prompt-sha256": call.prompt_sha256,
        "task-id": call.task_id,
    }
    given = {key: value for key, value in metadata.items() if value}
    if generation.placement is not None:
        call = call.model_copy(update={"placement": generation.placement})
    warnings: list[str] = []
    images: list[Output] = []
    quarantined: list[Output] = []
    shown: dict[bool, list[bytes]] = {True: [], False: []}
    with ExitStack() as files:
        ready: list[tuple[IO[bytes], Seen]] = []
        for index, image in enumerate(generation.images, start=1):
            file: IO[bytes] = files.enter_context(tempfile.SpooledTemporaryFile(IN_MEMORY))
            ready.append((file, await _fetch_whole(hook, image, file, f"{index} of {count}", call, source)))
        for index, (file, looked) in enumerate(ready, start=1):
            if looked.instead is not None:
                await asyncio.to_thread(_replace, file, looked.instead)
            size, digest, problem = await loop.run_in_executor(PIXELS, _label, file, call, index)
            good = looked.verdict is None or looked.verdict.faithful or not call.inspection.enforce
            uri = place(index, count, digest, looked.picture.extension, good)
            output = Output(
                uri=uri,
                bytes=size,
                sha256=digest,
                width=looked.picture.width,
                height=looked.picture.height,
                content_type=looked.picture.content_type,
                fidelity=looked.verdict,
            )
            await asyncio.to_thread(_put, storage, file, output, {**given, "sha256": digest}, call)
            (images if good else quarantined).append(output)
            shown[good].append(looked.after)
            if problem:
                warnings.append(f"picture {index}: has no label: {problem}")
            if looked.problem:
                warnings.append(f"picture {index}: {looked.problem}")
    thumbnails = Thumbnails(before=ready[0][1].before, afters=tuple(shown[bool(images)]))
    return Landing(tuple(images), tuple(quarantined), thumbnails, tuple(warnings))


def _put(storage: Storage, file: IO[bytes], output: Output, metadata: dict[str, str], call: Call) -> None:
    def put() -> None:
        file.seek(0)
        storage.put(output.uri, file, content_type=output.content_type, metadata=metadata)

    storage.insist(put, f"a picture of {call.what}")


async def _fetch_whole(
    hook: BackgroundHook, image: str | bytes, file: IO[bytes], place: str, call: Call, source: bytes | None
) -> Seen:
    from airflow_provider_bgai.imaging.opening import NotAPictureError, UnreadKindError

    loop = asyncio.get_running_loop()
    for attempt in range(1, FETCHES + 1):
        await hook.fetch(image, file)
        try:
            return await loop.run_in_executor(PIXELS, inspect, file, source, call.inspection, call.placement)
        except UnreadKindError as error:
            # Paid, and perhaps whole: who installs what it takes, or fetches it by hand, loses nothing.
            raise PollError(
                f"{hook.hook_name}: picture {place} is {error}", vendor=call.vendor, task_id=call.task_id
            ) from None
        except NotAPictureError as error:
            # Bytes in hand do not get better; a link may have been cut off on the way.
            if isinstance(image, str) and attempt < FETCHES:
                continue
            raise LostError(
                f"{hook.hook_name}: picture {place} is {error}", vendor=call.vendor, task_id=call.task_id
            ) from None
    raise AssertionError("unreachable")


def _replace(file: IO[bytes], data: bytes) -> None:
    file.seek(0)
    file.truncate()
    file.write(data)


def _label(file: IO[bytes], call: Call, index: int) -> tuple[int, str, str | None]:
    """Label the file in place: its size, its sha256, and why it has no label if so: it is paid for, and kept."""
    from airflow_provider_bgai.imaging.label import Label, LabelError, write_label

    file.seek(0)
    body, problem = file.read(), None
    # Nothing in it may differ between two who land the same call.
    name = f"{call.fingerprint}.{call.number}-{index}"
    label = Label(vendor=call.vendor, model=call.model, created=call.sent_at, id=name)
    try:
        body = write_label(body, label)
    except LabelError as error:
        problem = str(error)
    _replace(file, body)
    file.seek(0)
    return len(body), hashlib.sha256(body).hexdigest(), problem
