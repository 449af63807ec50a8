"""From a finished generation to objects in S3: fetch, verify, compare with the product, label, write.

All pictures of a generation are looked at before the first one is written, and each is written in one request, so a
failed landing leaves neither half an object nor a wrong one. Pictures stream through temporary files, and only as
many are decoded at once as there are processors.
"""

from __future__ import annotations

import asyncio
import hashlib
import os
import re
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import dataclass
from typing import IO, TYPE_CHECKING

from airflow_provider_bgai.catalogue.ledger import Output, Thumbnails
from airflow_provider_bgai.exceptions import InvalidRequestError, LostError, UnfaithfulError
from airflow_provider_bgai.hooks.base import BackgroundHook
from airflow_provider_bgai.imaging.fidelity import Thresholds, Verdict
from airflow_provider_bgai.models import BackgroundRequest, Generation, SourceLimits
from airflow_provider_bgai.storage import Storage, split_uri

if TYPE_CHECKING:
    from PIL import Image

    from airflow_provider_bgai.imaging.prepare import Prepared
    from airflow_provider_bgai.imaging.verify import Picture

Box = tuple[int, int, int, int]
"""x, y, width, height in px."""

# A damaged file is fetched this often before it is taken for what the vendor has.
FETCHES = 3
PIXELS = ThreadPoolExecutor(min(4, os.cpu_count() or 1), "bgai-pixels")
"""Where pictures are decoded and encoded: more at once would only take memory."""

_PLAIN = re.compile(
    r"white|black|transparent|plain|solid|blank|clean|minimal|isolated|seamless|studio|#?\b[0-9a-f]{6}\b", re.IGNORECASE
)


@dataclass(frozen=True)
class Inspection:
    """How pictures are looked at when they land. That they are whole pictures is verified in any case.

    :param thresholds: limits beyond which a picture does not show the product; None: it is not compared.
    :param enforce: such a picture goes to quarantine. False: it lands, and the verdict is a warning.
    """

    thresholds: Thresholds | None = Thresholds()
    enforce: bool = True


@dataclass(frozen=True)
class Expected:
    """What a picture is compared with when it lands.

    :param source: the cut-out's bytes.
    :param limits: what the vendor takes, so what became of the source before it was sent.
    :param plain: a plain background was asked for, so a plain one is no sign of failure.
    :param keeps_frame: nothing was asked for that changes the picture's shape, so another one is worth a warning.
    """

    source: bytes
    limits: SourceLimits
    thresholds: Thresholds
    plain: bool = False
    keeps_frame: bool = True
    enforce: bool = True


@dataclass(frozen=True)
class Landing:
    """What has landed. ``warnings`` is for people."""

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


async def land(
    hook: BackgroundHook,
    generation: Generation,
    storage: Storage,
    destination: str,
    *,
    prompt_sha256: str | None = None,
    name: str | None = None,
    expected: Expected | None = None,
) -> Landing:
    """Put the pictures of a succeeded generation into S3, labelled as made by AI.

    :param hook: of the vendor that made it.
    :param destination: ``s3://…`` with ``{index}`` and ``{ext}``.
    :param name: what the label calls the pictures, with their index; None for the vendor's task ID.
    :param expected: what to compare them with; None to land whatever is a whole picture.
    :raises UnfaithfulError: if none shows the product; they are in quarantine then.
    :raises LostError: if a link has expired, or the vendor's file is no whole picture.
    :raises PollError: if a picture could not be fetched for now.
    """
    check_destination(destination, len(generation.images))
    loop = asyncio.get_running_loop()
    name = name or generation.task_id or generation.vendor
    metadata = {
        "vendor": generation.vendor,
        "model": generation.model,
        "seed": None if generation.seed is None else str(generation.seed),
        "prompt-sha256": prompt_sha256,
        "task-id": generation.task_id,
    }
    given = {key: value for key, value in metadata.items() if value}
    warnings: list[str] = []
    images: list[Output] = []
    quarantined: list[Output] = []
    shown: dict[bool, list[bytes]] = {True: [], False: []}
    with ExitStack() as files:
        ready: list[tuple[IO[bytes], _Looked]] = []
        for index, image in enumerate(generation.images, start=1):
            file: IO[bytes] = files.enter_context(tempfile.TemporaryFile())
            ready.append((file, await _fetch_whole(hook, image, file, index, generation, expected)))
        for index, (file, looked) in enumerate(ready, start=1):
            size, digest, problem = await loop.run_in_executor(PIXELS, _label, file, generation, f"{name}-{index}")
            good = looked.verdict is None or looked.verdict.faithful or (expected is not None and not expected.enforce)
            target = destination if good else quarantine(destination)
            output = Output(
                uri=name_output(target, index, looked.picture.extension),
                bytes=size,
                sha256=digest,
                width=looked.picture.width,
                height=looked.picture.height,
                content_type=looked.picture.content_type,
                fidelity=looked.verdict,
            )
            meta = {**given, "sha256": output.sha256}
            await asyncio.to_thread(storage.put, output.uri, file, content_type=output.content_type, metadata=meta)
            (images if good else quarantined).append(output)
            shown[good].append(looked.after)
            if problem:
                warnings.append(f"picture {index}: has no label: {problem}")
            if looked.problem:
                warnings.append(f"picture {index}: {looked.problem}")
    thumbnails = Thumbnails(before=ready[0][1].before, afters=tuple(shown[bool(images)]))
    if not images:
        raise UnfaithfulError(
            f"{hook.hook_name}: {'; '.join(warnings)}. In quarantine: {', '.join(it.uri for it in quarantined)}",
            vendor=generation.vendor,
            task_id=generation.task_id,
            images=tuple(quarantined),
            thumbnails=thumbnails,
        )
    return Landing(tuple(images), tuple(quarantined), thumbnails, tuple(warnings))


def quarantine(destination: str) -> str:
    """Where pictures for this destination go that must not be published: out of every reader's way."""
    folder, _, key = destination.rpartition("/")
    if folder.endswith("/_bgai/pictures"):
        return f"{folder.removesuffix('pictures')}quarantine/{key}"
    return f"{folder}/_bgai/quarantine/{key}"


@dataclass(frozen=True)
class _Looked:
    """What was seen: the verdict, if there was anything to compare with, and thumbnails of source and result."""

    picture: Picture
    verdict: Verdict | None = None
    problem: str | None = None
    before: bytes | None = None
    after: bytes = b""


async def _fetch_whole(
    hook: BackgroundHook,
    image: str | bytes,
    file: IO[bytes],
    index: int,
    generation: Generation,
    expected: Expected | None,
) -> _Looked:
    from airflow_provider_bgai.imaging.verify import NotAPictureError

    loop = asyncio.get_running_loop()
    for attempt in range(1, FETCHES + 1):
        await hook.fetch(image, file)
        try:
            return await loop.run_in_executor(PIXELS, _look, file, expected, generation.placement)
        except NotAPictureError as error:
            # Bytes in hand do not get better; a link may have been cut off on the way.
            if isinstance(image, str) and attempt < FETCHES:
                continue
            raise LostError(
                f"{hook.hook_name}: picture {index} of {len(generation.images)} is {error}",
                vendor=generation.vendor,
                task_id=generation.task_id,
            ) from None
    raise AssertionError("unreachable")


def _look(file: IO[bytes], expected: Expected | None, placement: Box | None) -> _Looked:
    """Decode a picture, and compare it with the product where it can be. :raises NotAPictureError: if it is none."""
    from airflow_provider_bgai.imaging.fidelity import compare
    from airflow_provider_bgai.imaging.prepare import prepare, read_rgba
    from airflow_provider_bgai.imaging.renditions import thumbnail
    from airflow_provider_bgai.imaging.verify import (
        WrongPictureError,
        frame_problem,
        open_whole,
        verify_result,
        verify_whole,
    )

    if expected is None:
        return _Looked(verify_whole(file))
    try:
        # Decoded here, and not once for all pictures of a purchase: it would wait in memory for each to be fetched.
        source = read_rgba(expected.source)
        sent = prepare(expected.source, expected.limits)
    except ValueError as error:
        picture, image = open_whole(file)
        return _Looked(picture, problem=f"is not compared, its source cannot be read: {error}", after=thumbnail(image))
    before = thumbnail(source)
    try:
        picture, image = verify_result(file, source=None if expected.plain else source)
    except WrongPictureError as error:
        picture, image = open_whole(file)
        return _Looked(picture, Verdict(faithful=False, reasons=(str(error),)), str(error), before, thumbnail(image))
    after = thumbnail(image)
    if source.getchannel("A").getextrema()[0] == 255:
        return _Looked(picture, None, "is not compared, its source is no cut-out", before, after)
    hint = placement or _product_box(source, sent, image.size)
    try:
        verdict = compare(source, image, hint=hint, thresholds=expected.thresholds)
    except ValueError as error:
        return _Looked(picture, None, f"is not compared: {error}", before, after)
    problem = None if verdict.faithful else f"does not show the product: {'; '.join(verdict.reasons)}"
    if problem is None and expected.keeps_frame:
        problem = frame_problem(picture, aspect=sent.width / sent.height)
    return _Looked(picture, verdict, problem, before, after)


def _product_box(source: Image.Image, sent: Prepared, size: tuple[int, int]) -> Box | None:
    """Where the product lies in a result of this size, if it is where it was in what the vendor was sent."""
    box = source.getchannel("A").getbbox()
    if box is None:
        return None
    corners = []
    for place, side in ((0, source.width), (1, source.height), (2, source.width), (3, source.height)):
        axis = place % 2
        inside = sent.box[axis] + box[place] * sent.box[2 + axis] / side
        corners.append(round(inside * size[axis] / (sent.width, sent.height)[axis]))
    left, top, right, bottom = corners
    return left, top, right - left, bottom - top


def _label(file: IO[bytes], generation: Generation, name: str) -> tuple[int, str, str | None]:
    """Label the file in place: its size, its sha256, and why it has no label if so: it is paid for, and kept."""
    from airflow_provider_bgai.imaging.label import Label, LabelError, write_label

    file.seek(0)
    body, problem = file.read(), None
    label = Label(vendor=generation.vendor, model=generation.model, created=time.time(), id=name)
    try:
        body = write_label(body, label)
    except LabelError as error:
        problem = str(error)
    file.seek(0)
    file.truncate()
    file.write(body)
    file.seek(0)
    return len(body), hashlib.sha256(body).hexdigest(), problem


def asks_for_plain(request: BackgroundRequest) -> bool:
    """Whether a white, black or transparent background may be just what was asked for."""
    asked = [request.prompt, *(str(value) for value in request.options.values())]
    return any(_PLAIN.search(text or "") for text in asked)


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
