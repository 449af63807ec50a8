"""PicWish: submit a background task, poll it, fetch links that live for an hour.

Wire facts: PicWish's API page "Generate Background API" (fields, limits, ``image_1``, ``image_2``,
``state``) and its status-code page (the other states, 2 requests a second for everything). gpt.ge resells
this service, so its hook reads tasks with :func:`read_task` too.
"""

from __future__ import annotations

import base64
import binascii
import re
from collections.abc import Mapping
from typing import Any

from airflow_provider_bgai.exceptions import (
    AuthenticationError,
    BgaiError,
    LostError,
    PollError,
    RefusedError,
    UnknownOutcomeError,
    VendorFaultError,
)
from airflow_provider_bgai.hooks.base import Answer, BackgroundHook, read_error
from airflow_provider_bgai.models import BackgroundRequest, Generation, SourceLimits, picture_type

MAX_PROMPT = 1024
MIN_SIDE, MAX_SIDE = 256, 4096
MAX_FILE = 20 * 1024 * 1024
# "Up to 20MB" may mean 20,000,000 bytes: what is made smaller is made to fit either reading.
SOURCE = SourceLimits(min_side=MIN_SIDE, max_side=MAX_SIDE, max_bytes=20_000_000)

# Below 0 a task has failed. Only success is charged, so -1, -2 and -8 may be submitted again.
_FAILED: dict[int, tuple[type[BgaiError], str]] = {
    -1: (VendorFaultError, "the task failed"),
    -2: (VendorFaultError, "the result could not be stored"),
    -3: (RefusedError, "the vendor could not download the image"),
    -5: (RefusedError, "the image is too large"),
    -7: (RefusedError, "the image file is invalid"),
    -8: (VendorFaultError, "processing timed out"),
}


class PicWishHook(BackgroundHook):
    """PicWish: 1 or 2 pictures a call, by prompt or by scene template; no seeds.

    ``options`` pass further form fields as they are (documented for sibling services only:
    ``sync``, ``return_type``, ``callback_url``).
    """

    conn_type = "bgai_picwish"
    hook_name = "PicWish"
    default_conn_name = "picwish_default"
    vendor = "picwish"
    base_url = "https://techsz.aoscdn.com"
    default_requests_per_minute = 120
    has_tasks = True
    source = SOURCE

    path = "/api/tasks/visual/background"

    def check(self, request: BackgroundRequest) -> None:
        self._forbid(request, "seed", "guidance_image", "guidance_scale")
        self._check_options(
            request, {"image_url", "image_file", "batch_size", "prompt", "negative_prompt", "scene_type"}
        )
        if request.count > 2:
            raise self._refuse("count", request.count, "PicWish makes 1 or 2 pictures a call (batch_size)")
        if (request.prompt is None) == (request.template is None):
            both = {"prompt": request.prompt, "template": request.template}
            raise self._refuse("prompt, template", both, "give exactly one of the two")
        if request.template is not None and not re.fullmatch(r"[0-9]+", str(request.template)):
            raise self._refuse("template", request.template, "PicWish scene_type is an integer")
        for field in ("prompt", "negative_prompt"):
            check_length(self, field, getattr(request, field), MAX_PROMPT)
        check_bytes(self, request)

    def _headers(self) -> dict[str, str]:
        return {"X-API-KEY": self._key()}

    async def _submit(self, request: BackgroundRequest) -> Generation:
        # batch_size is always sent: left out, the vendor makes (and bills) two pictures.
        fields: dict[str, str] = {"batch_size": str(request.count)}
        if request.prompt is not None:
            fields["prompt"] = request.prompt
        if request.template is not None:
            fields["scene_type"] = str(int(request.template))
        if request.negative_prompt is not None:
            fields["negative_prompt"] = request.negative_prompt
        fields |= {name: str(value) for name, value in request.options.items() if value not in (None, "")}
        return await submit_task(self, self.path, request, fields)

    async def _poll(self, task_id: str) -> Generation:
        answer = await self._call("GET", f"{self.path}/{task_id}", paid=False)
        return read_task(self, answer, task_id=task_id)

    async def _test(self) -> tuple[bool, str]:
        # package-credits is not on the vendor's API pages, so anything but a clear word about the key
        # proves nothing either way.
        try:
            answer = await self._call("GET", "/api/customers/package-credits", paid=False)
        except AuthenticationError as error:
            return False, str(error)
        except BgaiError as error:
            return True, f"Not checked: the credits could not be read ({error}). A key is set"
        try:
            check_status(self, answer, paid=False)
            packages = answer.json["data"]
            remaining = [package["remaining_credits"] for package in packages]
        except AuthenticationError as error:
            return False, str(error)
        except (BgaiError, KeyError, TypeError):
            return True, "Not checked: the credits were answered in an unknown form. A key is set"
        return True, f"The key is valid; credits left: {', '.join(map(str, remaining)) or 'none'}"


# --- shared with gpt.ge, which resells this service ------------------------------------------------


def check_length(hook: BackgroundHook, field: str, text: str | None, most: int) -> None:
    """Refuse a text longer than the vendor takes, in characters."""
    if text is not None and len(text) > most:
        raise hook._refuse(field, text, f"at most {most:,} characters, this has {len(text):,}")


def check_bytes(hook: BackgroundHook, request: BackgroundRequest) -> None:
    """Refuse an image given as bytes that the vendor would not take."""
    from airflow_provider_bgai.imaging.verify import NotAPictureError, read_header

    if isinstance(request.image, bytes):
        try:
            picture = read_header(request.image)
        except NotAPictureError as error:
            raise hook._refuse("image", f"{len(request.image)} bytes", str(error)) from None
        check_picture(hook, picture)


def check_picture(hook: BackgroundHook, picture: Any) -> None:
    """Transparent PNG, 256 to 4096 px a side, at most 20 MB (PicWish's API page, Guidelines and Limits)."""
    if picture.extension != "png":
        raise hook._refuse("image", picture.extension, "must be a PNG")
    if not picture.has_alpha:
        raise hook._refuse("image", "PNG without transparency", "must be a cut-out with a transparent background")
    for side in (picture.width, picture.height):
        if not MIN_SIDE <= side <= MAX_SIDE:
            size = f"{picture.width} x {picture.height} px"
            raise hook._refuse("image", size, f"each side must have {MIN_SIDE} to {MAX_SIDE} px")
    if picture.size > MAX_FILE:
        raise hook._refuse("image", f"{picture.size:,} bytes", f"at most {MAX_FILE:,} bytes")


async def submit_task(
    hook: BackgroundHook, path: str, request: BackgroundRequest, fields: dict[str, str]
) -> Generation:
    """Send a task as multipart form: an https:// image as ``image_url``, any other as ``image_file``."""
    # Plain fields go through `files` without a name, too: httpx encodes a body as multipart only if
    # there are files, and the vendor takes nothing else.
    parts: dict[str, Any] = {name: (None, value) for name, value in fields.items()}
    if isinstance(request.image, str) and request.image.startswith(("http://", "https://")):
        parts["image_url"] = (None, request.image)
    else:
        data = await hook.load_image("image", request.image)
        check_picture(hook, await hook._read_picture("image", data))
        parts["image_file"] = ("image.png", data, "image/png")
    answer = await hook._call("POST", path, paid=True, files=parts)
    return read_task(hook, answer)


def check_status(hook: BackgroundHook, answer: Answer, *, paid: bool) -> Mapping[str, Any]:
    """The body of an answer whose own ``status`` says 200 too; raise what it means otherwise."""
    body = answer.json
    unclear = UnknownOutcomeError if paid else PollError
    if not isinstance(body, Mapping):
        raise hook._error(unclear, f"not the JSON that was expected: {answer.excerpt()!r}")
    status = _integer(body.get("status", 200))
    if status is None:
        raise hook._error(unclear, f"status {body.get('status')!r} is not a number: {answer.excerpt()!r}")
    if status != 200:
        code, message = read_error(body)
        cls = hook._meaning(status, code, message, paid=paid)
        raise hook._error(cls, message or "no message", status=status, code=code)
    return body


def read_task(hook: BackgroundHook, answer: Answer, *, task_id: str | None = None) -> Generation:
    """A task as PicWish and gpt.ge report it, after submission (without ``task_id``) or when polled."""
    submitted = task_id is None
    body = check_status(hook, answer, paid=submitted)
    data = body.get("data")
    if submitted and isinstance(data, str):
        data = {"task_id": data}
    if not isinstance(data, Mapping):
        code, message = read_error(body)
        unclear = UnknownOutcomeError if submitted else PollError
        raise hook._error(unclear, message or f"no data: {answer.excerpt()!r}", code=code)
    found = data.get("task_id") or data.get("id") or body.get("task_id")
    task_id = task_id or (str(found) if found else None)
    state = _integer(data.get("state"))
    if state is None and submitted and task_id and "state" not in data:
        state = 4  # just submitted: nothing but the ID
    if state is None:
        unclear = UnknownOutcomeError if submitted else PollError
        raise hook._error(unclear, f"no task state: {answer.excerpt()!r}", task_id=task_id)
    if submitted and task_id is None and state >= 0 and state != 1:
        raise hook._error(UnknownOutcomeError, f"accepted without a task ID: {answer.excerpt()!r}")
    detail = str(data.get("err_info") or data.get("state_detail") or body.get("message") or "")
    if state < 0:
        cls, meaning = _FAILED.get(state, (VendorFaultError, "the task failed"))
        text = hook._redact(f"{meaning} (state {state}{f', {detail}' if detail else ''})")
        return Generation(vendor=hook.vendor, state="failed", task_id=task_id, error=text, reason=cls.reason)
    progress = _float(data.get("progress"))
    if state != 1:
        return Generation(vendor=hook.vendor, state="pending", task_id=task_id, progress=progress)
    try:
        images = read_images(data)
    except ValueError as error:
        return _lost(hook, task_id, str(error))
    if not images:
        return _lost(hook, task_id, "the task succeeded, but its answer holds no picture")
    return Generation(
        vendor=hook.vendor,
        state="succeeded",
        task_id=task_id,
        images=images,
        progress=progress,
        placement=_placement(data.get("foreground_rect")),
    )


def read_images(data: Mapping[str, Any]) -> tuple[str | bytes, ...]:
    """The pictures of a finished task in order: ``image_1`` … ``image_4`` (empty slots skipped), else ``image``.

    Each is a link, a ``data:`` URI or Base64. :raises ValueError: for anything else.
    """
    values = [data.get(f"image_{place}") for place in range(1, 5)]
    values = [value for value in values if value] or [value for value in [data.get("image")] if value]
    return tuple(_image(value) for value in values)


def _image(value: Any) -> str | bytes:
    if not isinstance(value, str):
        raise ValueError(f"a picture is given as {type(value).__name__}, not as a link or Base64")
    if value.startswith(("http://", "https://")):
        return value
    encoded = value.partition(",")[2] if value.startswith("data:") else value
    try:
        decoded = base64.b64decode(encoded, validate=True)
    except binascii.Error:
        raise ValueError("a picture is neither a link nor Base64") from None
    if picture_type(decoded[:16]) is None:
        raise ValueError("what is given as a picture is none")
    return decoded


def _placement(rect: Any) -> tuple[int, int, int, int] | None:
    try:
        return (int(rect["x"]), int(rect["y"]), int(rect["width"]), int(rect["height"]))
    except (TypeError, KeyError, ValueError, OverflowError):
        return None


def _lost(hook: BackgroundHook, task_id: str | None, message: str) -> Generation:
    return Generation(vendor=hook.vendor, state="failed", task_id=task_id, error=message, reason=LostError.reason)


def _integer(value: Any) -> int | None:
    try:
        return None if isinstance(value, bool) else int(value)
    except (TypeError, ValueError, OverflowError):
        return None


def _float(value: Any) -> float | None:
    try:
        return float(value)
    except (TypeError, ValueError, OverflowError):
        return None
