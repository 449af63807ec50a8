"""From a finished generation to pictures in S3: fetch, have inspected and labelled, write.

All pictures of a call are looked at before the first one is written, and each is written in one request under a name
that holds its content's hash, so a failed landing leaves neither half an object nor a wrong one, and two who land the
same call write the same names. What came is kept as it came, and first, where the label changes what it says of itself:
a C2PA manifest vouches for every byte, so it cannot stay in a labelled file. Pictures stream through temporary files,
and only as many are decoded at once as there are processors.
"""

from __future__ import annotations

import asyncio
import hashlib
import tempfile
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass
from typing import IO, TYPE_CHECKING

from airflow_provider_bgai.buying.record import Call, Delivered, Output, Thumbnails
from airflow_provider_bgai.exceptions import InvalidRequestError, LostError, PollError
from airflow_provider_bgai.imaging.inspect import Seen, inspect
from airflow_provider_bgai.imaging.workers import PIXELS, WorkerDiedError, on_a_core
from airflow_provider_bgai.models import Generation, picture_type
from airflow_provider_bgai.storage import Storage, split_uri

if TYPE_CHECKING:
    from airflow_provider_bgai.hooks.base import BackgroundHook
    from airflow_provider_bgai.imaging.sign import Claim

# A damaged file is fetched this often before it is taken for what the vendor has.
FETCHES = 3
IN_MEMORY = 1 << 20
"""Bytes of a picture that is kept in memory while it is landed; a larger one goes to a temporary file."""


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


Keep = Callable[[int, int, str], str]
"""Where a picture is kept as it was delivered: index (from 1), count, extension -> URI."""


async def land(
    hook: BackgroundHook,
    generation: Generation,
    storage: Storage,
    call: Call,
    source: bytes | None,
    place: Place,
    keep: Keep,
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
            labelled = await loop.run_in_executor(PIXELS, _label, file, call, index, looked.instead)
            delivered = None
            if (original := labelled.original) is not None:
                extension, content_type = picture_type(original[:16]) or ("bin", "application/octet-stream")
                kept = keep(index, count, extension)
                await asyncio.to_thread(_put, storage, kept, original, content_type, given, call)
                sha256 = hashlib.sha256(original).hexdigest()
                delivered = Delivered(uri=kept, sha256=sha256, claim=labelled.claim)
            good = looked.verdict is None or looked.verdict.faithful or not call.inspection.enforce
            digest = hashlib.sha256(labelled.body).hexdigest()
            output = Output(
                uri=place(index, count, digest, looked.picture.extension, good),
                bytes=len(labelled.body),
                sha256=digest,
                width=looked.picture.width,
                height=looked.picture.height,
                content_type=looked.picture.content_type,
                fidelity=looked.verdict,
                delivered=delivered,
            )
            known = {**given, "sha256": digest}
            await asyncio.to_thread(_put, storage, output.uri, labelled.body, output.content_type, known, call)
            (images if good else quarantined).append(output)
            shown[good].append(looked.after)
            notes = (labelled.note, looked.problem)
            warnings += [f"picture {index}: {note}" for note in notes if note]
    thumbnails = Thumbnails(before=ready[0][1].before, afters=tuple(shown[bool(images)]))
    return Landing(tuple(images), tuple(quarantined), thumbnails, tuple(warnings))


def _put(storage: Storage, uri: str, body: bytes, content_type: str, metadata: dict[str, str], call: Call) -> None:
    def put() -> None:
        storage.put(uri, body, content_type=content_type, metadata=metadata)

    storage.insist(put, f"a picture of {call.what}")


async def _fetch_whole(
    hook: BackgroundHook, image: str | bytes, file: IO[bytes], place: str, call: Call, source: bytes | None
) -> Seen:
    from airflow_provider_bgai.imaging.opening import NotAPictureError, UnreadKindError

    loop = asyncio.get_running_loop()
    compared = source is not None and call.inspection.thresholds is not None
    for attempt in range(1, FETCHES + 1):
        await hook.fetch(image, file)
        try:
            if compared:
                return await on_a_core(inspect, file, source, call.inspection, call.placement)
            return await loop.run_in_executor(PIXELS, inspect, file, source, call.inspection, call.placement)
        except WorkerDiedError as error:
            raise PollError(
                f"{hook.hook_name}: picture {place}: {error}", vendor=call.vendor, task_id=call.task_id
            ) from None
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


@dataclass(frozen=True)
class _Labelled:
    """A picture's body to be landed.

    :param original: its body as it came, where that says something that the labelled one does not.
    :param claim: what the manifest says that it came with.
    :param note: what a person should know.
    """

    body: bytes
    original: bytes | None = None
    claim: Claim | None = None
    note: str | None = None


def _label(file: IO[bytes], call: Call, index: int, instead: bytes | None) -> _Labelled:
    """A picture without its manifest and with our label; without a label if it can have none: it is paid for, and kept.

    :param instead: the file to be landed, where what came cannot be published as it is.
    """
    from airflow_provider_bgai.imaging.label import LabelError, overwrites, write_label
    from airflow_provider_bgai.imaging.marks import without_manifest
    from airflow_provider_bgai.imaging.sign import read_claim

    file.seek(0)
    came = file.read()
    shown = came if instead is None else instead
    try:
        bare = without_manifest(shown)
        body = write_label(bare, call.label(index))
        if bare is shown:
            return _Labelled(body, original=came if instead is not None or overwrites(came) else None)
    except LabelError as error:
        return _Labelled(shown, original=came if instead is not None else None, note=f"has no label: {error}")
    claim = read_claim(came)
    words = f" ({claim})" if str(claim) else ""
    note = f"came with a C2PA manifest{words}, which fits no labelled file; it is kept as it came"
    return _Labelled(body, came, claim, note)
