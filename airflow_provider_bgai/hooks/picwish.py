"""PicWish: submit a background task, poll it, fetch links that live for an hour.

Wire facts: PicWish's API page "Generate Background API" (fields, limits, ``image_1``, ``image_2``,
``state``), its status-code page (the other states, 2 requests a second for everything) and its credits page (only
successful calls are charged). gpt.ge resells this service, so its hook is made of :class:`TaskHook` too.
"""

from __future__ import annotations

import base64
import binascii
import re
from abc import abstractmethod
from collections.abc import Mapping
from typing import Any, ClassVar
from urllib.parse import quote

from airflow_provider_bgai.exceptions import (
    AuthenticationError,
    BgaiError,
    PollError,
    RefusedError,
    UnknownOutcomeError,
    VendorFaultError,
)
from airflow_provider_bgai.hooks import images
from airflow_provider_bgai.hooks.base import BackgroundHook
from airflow_provider_bgai.hooks.channel import Outgoing
from airflow_provider_bgai.hooks.meaning import Answer
from airflow_provider_bgai.hooks.vendor import as_text
from airflow_provider_bgai.models import BackgroundRequest, Generation, SourceLimits, picture_type
from airflow_provider_bgai.polling import askable

MAX_PROMPT = 1024
MIN_SIDE, MAX_SIDE = 256, 4096
MAX_FILE = 20 * 1024 * 1024
# "Up to 20MB" may mean 20,000,000 bytes: what is made smaller is made to fit either reading.
SOURCE = SourceLimits(min_side=MIN_SIDE, max_side=MAX_SIDE, max_bytes=20_000_000)

# PicWish's status-code page. Its credits page charges successful calls only, so a failed task is documented as free,
# whatever stands beside its state (after -2 a link may, and lead nowhere).
FAILED_STATES: Mapping[int, tuple[type[BgaiError], str]] = {
    -1: (VendorFaultError, "the task failed"),
    -2: (VendorFaultError, "the result could not be stored"),
    -3: (RefusedError, "the vendor could not download the image"),
    -5: (RefusedError, "the image is too large"),
    -7: (RefusedError, "the image file is invalid"),
    -8: (VendorFaultError, "processing timed out"),
}


class TaskHook(BackgroundHook):
    """PicWish's tasks: a form goes in, a task ID comes out, polling brings pictures."""

    default_requests_per_minute = 120
    has_tasks = True
    source = SOURCE
    path: ClassVar[str]
    """Where tasks are submitted."""
    task_path: ClassVar[str]
    """Where a task is asked for; its ID follows."""
    failures_are_free: ClassVar[bool] = True
    """Whether a page of the vendor says that a failed task is not charged."""

    @abstractmethod
    def own_fields(self, request: BackgroundRequest) -> dict[str, str | None]:
        """The form's fields but for the image and ``options``."""

    def wire_fields(self, request: BackgroundRequest) -> dict[str, str]:
        values: dict[str, Any] = {**self.own_fields(request), **request.options}
        return {name: as_text(value) for name, value in values.items() if value is not None}

    def check_length(self, field: str, text: str | None) -> None:
        """Refuse a text longer than the vendor takes, in characters."""
        if text is not None and len(text) > MAX_PROMPT:
            raise self.refuse(field, text, f"at most {MAX_PROMPT:,} characters, this has {len(text):,}")

    def check_bytes(self, request: BackgroundRequest) -> None:
        """Refuse an image given as bytes that the vendor would not take."""
        from airflow_provider_bgai.imaging.verify import NotAPictureError, read_header

        if isinstance(request.image, bytes):
            try:
                picture = read_header(request.image)
            except NotAPictureError as error:
                raise self.refuse("image", f"{len(request.image)} bytes", str(error)) from None
            self.check_picture(picture)

    def check_picture(self, picture: Any) -> None:
        """Transparent PNG, 256 to 4096 px a side, at most 20 MB (PicWish's API page, Guidelines and Limits)."""
        if picture.extension != "png":
            raise self.refuse("image", picture.extension, "must be a PNG")
        if not picture.has_alpha:
            raise self.refuse("image", "PNG without transparency", "must be a cut-out with a transparent background")
        for side in (picture.width, picture.height):
            if not MIN_SIDE <= side <= MAX_SIDE:
                size = f"{picture.width} x {picture.height} px"
                raise self.refuse("image", size, f"each side must have {MIN_SIDE} to {MAX_SIDE} px")
        if picture.size > MAX_FILE:
            raise self.refuse("image", f"{picture.size:,} bytes", f"at most {MAX_FILE:,} bytes")

    async def compose(self, request: BackgroundRequest) -> Outgoing:
        """A multipart form: an https:// image as ``image_url``, any other as ``image_file``."""
        # Plain fields go through `files` without a name, too: httpx encodes a body as multipart only if
        # there are files, and the vendor takes nothing else.
        parts: dict[str, Any] = {name: (None, value) for name, value in self.wire_fields(request).items()}
        if images.is_link(request.image):
            parts["image_url"] = (None, request.image)
        else:
            data = await images.load(self, "image", request.image)
            self.check_picture(await images.describe(self, "image", data))
            parts["image_file"] = ("image.png", data, "image/png")
        return Outgoing(method="POST", path=self.path, parts=parts, count=request.count, model=self.model(request))

    def status(self, answer: Answer) -> int:
        status = _integer(answer.fields.get("status"))
        return answer.status if status is None or not 200 <= answer.status < 300 else status

    def read(self, answer: Answer, outgoing: Outgoing) -> Generation | None:
        data = answer.fields.get("data")
        if isinstance(data, str) and askable(data) and 200 <= self.status(answer) < 300:
            data = {"task_id": data}
        if not isinstance(data, Mapping):
            data = {}
        named = data.get("task_id") or data.get("id") or answer.fields.get("task_id")
        # An ID that nobody can ask for is none: such a task cannot be collected.
        task_id = str(named) if isinstance(named, str | int) and askable(str(named)) else None
        found = self._task(data, task_id, answer)
        if found is None and task_id:
            # Just submitted; or ended without pictures in this answer, which a poll may bring.
            found = Generation(vendor=self.vendor, state="pending", task_id=task_id)
        return found

    def pictures(self, body: bytes) -> tuple[bytes | str, ...]:
        data = Answer(200, {}, body).fields.get("data")
        return read_images(data) if isinstance(data, Mapping) else ()

    async def ask(self, task_id: str) -> Generation:
        answer = await self.call("GET", f"{self.task_path}/{quote(task_id, safe='')}")
        data = answer.fields.get("data")
        found = self._task(data, task_id, answer) if isinstance(data, Mapping) else None
        if found is not None:
            return found
        if not 200 <= self.status(answer) < 300:
            raise self.failure(answer, paid=False, task_id=task_id)
        problem = f"neither a task state nor pictures: {answer.excerpt()!r}"
        if isinstance(data, Mapping) and _integer(data.get("state")) == 1:
            problem = "the task succeeded, but this answer holds no picture"
        raise self.error(PollError, problem, task_id=task_id)

    def _task(self, data: Mapping[str, Any], task_id: str | None, answer: Answer) -> Generation | None:
        """A task as it is reported; None if its data say nothing of it."""
        state, pictures = _integer(data.get("state")), read_images(data)
        progress = _float(data.get("progress"))
        if state is not None and (state in FAILED_STATES or (state < 0 and not pictures)):
            cls, meaning = FAILED_STATES.get(state, (VendorFaultError, "the task failed"))
            cls = cls if self.failures_are_free else UnknownOutcomeError
            detail = str(data.get("err_info") or data.get("state_detail") or answer.fields.get("message") or "")
            text = self.settings.redact(f"{meaning} (state {state}{f', {detail}' if detail else ''})")
            return Generation(vendor=self.vendor, state="failed", task_id=task_id, error=text, reason=cls.reason)
        if task_id and state is not None and (state == 0 or state > 1):
            return Generation(vendor=self.vendor, state="pending", task_id=task_id, progress=progress)
        if pictures:
            return Generation(
                vendor=self.vendor,
                state="succeeded",
                task_id=task_id,
                images=pictures,
                progress=progress,
                placement=_placement(data.get("foreground_rect")),
            )
        return None


class PicWishHook(TaskHook):
    """PicWish: 1 or 2 pictures a call, by prompt or by scene template; no seeds.

    ``options`` pass further form fields as they are (documented for sibling services only:
    ``sync``, ``return_type``, ``callback_url``).
    """

    conn_type = "bgai_picwish"
    hook_name = "PicWish"
    default_conn_name = "picwish_default"
    vendor = "picwish"
    base_url = "https://techsz.aoscdn.com"
    fields = frozenset({"prompt", "negative_prompt", "template"})
    max_count = 2
    count_rule = "PicWish makes 1 or 2 pictures a call (batch_size)"
    result_life = 3600.0
    path = "/api/tasks/visual/background"
    task_path = path

    def check_own(self, request: BackgroundRequest) -> None:
        self.forbid_options(
            request, {"image_url", "image_file", "batch_size", "prompt", "negative_prompt", "scene_type"}
        )
        if (request.prompt is None) == (request.template is None):
            both = {"prompt": request.prompt, "template": request.template}
            raise self.refuse("prompt, template", both, "give exactly one of the two")
        if request.template is not None and not re.fullmatch(r"[0-9]+", str(request.template)):
            raise self.refuse("template", request.template, "PicWish scene_type is an integer")
        for field in ("prompt", "negative_prompt"):
            self.check_length(field, getattr(request, field))
        self.check_bytes(request)

    def headers(self) -> dict[str, str]:
        return {"X-API-KEY": self.key()}

    def own_fields(self, request: BackgroundRequest) -> dict[str, str | None]:
        # batch_size is always sent: left out, the vendor makes (and bills) two pictures.
        return {
            "batch_size": str(request.count),
            "prompt": request.prompt,
            "scene_type": None if request.template is None else str(int(request.template)),
            "negative_prompt": request.negative_prompt,
        }

    async def probe(self) -> tuple[bool, str]:
        # package-credits is not on the vendor's API pages, so anything but a clear word about the key
        # proves nothing either way.
        try:
            answer = await self.call("GET", "/api/customers/package-credits")
            if not 200 <= self.status(answer) < 300:
                raise self.failure(answer, paid=False)
            remaining = [package["remaining_credits"] for package in answer.fields["data"]]
        except AuthenticationError as error:
            return False, str(error)
        except BgaiError as error:
            return True, f"Not checked: the credits could not be read ({error}). A key is set"
        except (KeyError, TypeError):
            return True, "Not checked: the credits were answered in an unknown form. A key is set"
        return True, f"The key is valid; credits left: {', '.join(map(str, remaining)) or 'none'}"


def read_images(data: Mapping[str, Any]) -> tuple[str | bytes, ...]:
    """The pictures of a task in order: ``image_1`` … ``image_4`` (empty slots skipped), else ``image``.

    Each is a link, a ``data:`` URI or Base64. What is none of these is passed over: the others are paid for.
    """
    for names in ([f"image_{place}" for place in range(1, 5)], ["image"]):
        found = tuple(image for name in names if (image := _image(data.get(name))) is not None)
        if found:
            return found
    return ()


def _image(value: Any) -> str | bytes | None:
    if not isinstance(value, str):
        return None
    if images.is_link(value):
        return value
    encoded = value.partition(",")[2] if value.startswith("data:") else value
    try:
        decoded = base64.b64decode(encoded, validate=True)
    except (binascii.Error, ValueError):
        return None
    return None if picture_type(decoded[:16]) is None else decoded


def _placement(rect: Any) -> tuple[int, int, int, int] | None:
    try:
        return (int(rect["x"]), int(rect["y"]), int(rect["width"]), int(rect["height"]))
    except (TypeError, KeyError, ValueError, OverflowError):
        return None


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
