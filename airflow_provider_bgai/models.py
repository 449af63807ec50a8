"""The nouns of the package: what is wanted, and what a vendor made of it.

Frozen, vendor-neutral, no I/O. Nothing here knows a wire format, S3 or Airflow.
"""

from __future__ import annotations

import math
import re
import unicodedata
from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any, Literal

from airflow_provider_bgai.exceptions import BY_REASON, BgaiError, InvalidRequestError

State = Literal["pending", "succeeded", "failed"]


@dataclass(frozen=True)
class BackgroundRequest:
    """A new background behind one cut-out product.

    One wish has one spelling here, since what is sent names the picture: text is NFC and without blank ends, whole
    numbers are integers, options that are None or ``""`` are not there.

    :param image: the cut-out: a local path, ``https://…``, ``s3://…``, or the bytes themselves.
    :param prompt: what the background should look like.
    :param negative_prompt: what should not appear in it.
    :param seed: a positive integer for repeatable results, where the vendor has seeds.
    :param count: how many pictures to make. Each one is billed.
    :param template: the vendor's own scene ID, instead of a prompt; ``"5"`` becomes 5.
    :param guidance_image: a picture to take the mood from; forms as for ``image``.
    :param guidance_scale: 0.0 (ignore it) to 1.0 (match it as closely as possible).
    :param options: further parameters of the vendor, by the vendor's own names: what JSON can hold.
    :raises InvalidRequestError: for a value no vendor could accept.
    """

    image: str | bytes
    prompt: str | None = None
    negative_prompt: str | None = field(default=None, kw_only=True)
    seed: int | None = field(default=None, kw_only=True)
    count: int = field(default=1, kw_only=True)
    template: str | int | None = field(default=None, kw_only=True)
    guidance_image: str | bytes | None = field(default=None, kw_only=True)
    guidance_scale: float | None = field(default=None, kw_only=True)
    options: Mapping[str, Any] = field(default_factory=dict, kw_only=True)

    def __post_init__(self) -> None:
        # Forms and templates hand over "", "3" and "x\n" where Python code writes None, 3 and "x".
        for name in ("image", "prompt", "negative_prompt", "template", "guidance_image", "guidance_scale", "seed"):
            if (value := getattr(self, name)) is not None and isinstance(value, str | Path):
                self._set(name, str(value).strip() or None)
        for name, kind in (("count", int), ("seed", int), ("guidance_scale", float)):
            if (value := getattr(self, name)) is not None:
                self._set(name, number(name, value, kind))
        if not isinstance(self.image, str | bytes) or not self.image:
            raise InvalidRequestError(f"image={self.image!r}: must be a path, an s3:// or https:// URL, or bytes")
        for name in ("prompt", "negative_prompt"):
            text = getattr(self, name)
            if not isinstance(text, str | None):
                raise InvalidRequestError(f"{name}={text!r}: must be text")
            if text:
                self._set(name, unicodedata.normalize("NFC", text))
        if self.template is not None:
            self._set("template", _template(self.template))
        if self.count is None or self.count < 1:
            raise InvalidRequestError(f"count={self.count!r}: must be 1 or more")
        if self.seed is not None and self.seed < 1:
            raise InvalidRequestError(f"seed={self.seed!r}: must be a positive integer")
        if self.guidance_scale is not None and not 0 <= self.guidance_scale <= 1:
            raise InvalidRequestError(f"guidance_scale={self.guidance_scale!r}: must lie between 0 and 1")
        if not isinstance(self.options, Mapping | None):
            raise InvalidRequestError(f"options={self.options!r}: must be a mapping of the vendor's parameters")
        options = _option("options", self.options) if self.options else {}
        self._set("options", {name: value for name, value in options.items() if value not in (None, "")})

    def _set(self, name: str, value: Any) -> None:
        if value is not getattr(self, name):
            object.__setattr__(self, name, value)

    def asked(self) -> dict[str, Any]:
        """The fields that are set, by name."""
        known = {name: value for name in _FIELDS if (value := getattr(self, name)) is not None and value != {}}
        return {**known, "options": dict(self.options)} if self.options else known


_FIELDS = tuple(each.name for each in fields(BackgroundRequest))
OPTIONAL = tuple(each.name for each in fields(BackgroundRequest) if each.default is None)
"""The fields that a request may leave out, and that not every vendor takes."""


def number(name: str, value: Any, kind: type) -> Any:
    """A number out of a form, a template or code: never another one than was typed.

    :param name: of the field, for the message.
    :param kind: ``int`` or ``float``.
    :raises InvalidRequestError: for what is none, or has a fraction where ``kind`` has not.
    """
    rule = f"must be a{'n integer' if kind is int else ' number'}"
    fraction = kind is int and isinstance(value, float) and not value.is_integer()
    if isinstance(value, bool) or fraction or (isinstance(value, str) and "_" in value):
        raise InvalidRequestError(f"{name}={value!r}: {rule}")
    try:
        return kind(value) + 0  # which makes 0.0 of -0.0
    except (TypeError, ValueError, OverflowError):
        raise InvalidRequestError(f"{name}={value!r}: {rule}") from None


def _template(value: Any) -> str | int | None:
    if isinstance(value, str):
        value = unicodedata.normalize("NFC", value)
        return int(value) if re.fullmatch(r"0|[1-9][0-9]{0,17}", value) else value
    if isinstance(value, float) and value.is_integer():
        return int(value)
    if isinstance(value, bool) or not isinstance(value, int | None):
        raise InvalidRequestError(f"template={value!r}: must be text or an integer")
    return value


def _option(name: str, value: Any) -> Any:
    """An option in its one spelling, and as a copy of its own. Anything but JSON has none."""
    if isinstance(value, str):
        return unicodedata.normalize("NFC", value)
    if isinstance(value, Mapping):
        wrong = next((key for key in value if not isinstance(key, str)), None)
        if wrong is not None:
            raise InvalidRequestError(f"{name}[{wrong!r}]: must be named by text")
        return {key: _option(f"{name}[{key!r}]", item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_option(name, item) for item in value]
    if isinstance(value, float) and math.isfinite(value):
        return int(value) if value.is_integer() else value
    if isinstance(value, int | None):
        return value
    rule = "must be text, a finite number, true or false, or a list or mapping of these"
    raise InvalidRequestError(f"{name}={value!r}: {rule}")


@dataclass(frozen=True, kw_only=True)
class Generation:
    """What a vendor made, or is making, of a request.

    :param vendor: who made it: the connection type without ``bgai_``.
    :param state: ``"pending"``, ``"succeeded"`` or ``"failed"``.
    :param task_id: the vendor's task, to be polled; None where the vendor answers at once.
    :param images: the pictures, as bytes or as the vendor's short-lived links. Links are as good as
        the pictures to whoever reads them, so they are kept out of ``repr`` and out of logs.
    :param answer: the body of a synchronous answer as it came, where it holds the pictures themselves; it is stored
        before anybody looks at them.
    :param error: why it failed, in the vendor's words.
    :param reason: what the failure means, one of :data:`~airflow_provider_bgai.exceptions.BY_REASON`.
    :param progress: 0 to 100, where the vendor tells.
    :param seed: the seed used, where the vendor tells or takes one.
    :param model: the vendor's model, where it is known.
    :param placement: (x, y, width, height) in px of the product in the result, where the vendor tells.
    :param warnings: what the vendor ignored or returned differently; the picture is billed all the same.
    """

    vendor: str
    state: State
    task_id: str | None = None
    images: tuple[str | bytes, ...] = field(default=(), repr=False)
    answer: bytes | None = field(default=None, repr=False)
    error: str | None = None
    reason: str | None = None
    progress: float | None = None
    seed: int | None = None
    model: str | None = None
    placement: tuple[int, int, int, int] | None = None
    warnings: tuple[str, ...] = ()

    def raise_for_failure(self) -> None:
        """Raise the error that a failed generation stands for; do nothing otherwise."""
        if self.state == "failed":
            cls = BY_REASON.get(self.reason or "", BgaiError)
            raise cls(self.error or "failed without a message", vendor=self.vendor, task_id=self.task_id)


@dataclass(frozen=True, kw_only=True)
class SourceLimits:
    """What a vendor takes as a source image. None: the vendor names no limit.

    :param formats: by extension: ``"png"``, ``"jpg"``, ``"webp"``, ``"avif"``. PNG is always among them.
    :param needs_alpha: it must be a cut-out already; False where the vendor removes backgrounds itself.
    :param min_side: the shorter side must have this many px.
    :param max_side: the longer side may have this many px.
    :param max_bytes: of the file.
    """

    formats: tuple[str, ...] = ("png",)
    needs_alpha: bool = True
    min_side: int = 1
    max_side: int | None = None
    max_bytes: int | None = None


_MAGIC: tuple[tuple[bytes, int, str, str], ...] = (
    (b"\x89PNG\r\n\x1a\n", 0, "png", "image/png"),
    (b"\xff\xd8\xff", 0, "jpg", "image/jpeg"),
    (b"WEBP", 8, "webp", "image/webp"),
    (b"ftypavif", 4, "avif", "image/avif"),
    (b"ftypavis", 4, "avif", "image/avif"),
    (b"GIF87a", 0, "gif", "image/gif"),
    (b"GIF89a", 0, "gif", "image/gif"),
    (b"II*\0", 0, "tiff", "image/tiff"),
    (b"MM\0*", 0, "tiff", "image/tiff"),
    (b"II+\0", 0, "tiff", "image/tiff"),
    (b"MM\0+", 0, "tiff", "image/tiff"),
    *(
        (b"ftyp" + brand, 4, "heic", "image/heic")
        for brand in (b"heic", b"heix", b"heim", b"heis", b"hevc", b"hevx", b"mif1", b"msf1")
    ),
)
# "BM" alone begins words, too: the length of the header that follows it tells a bitmap.
_BITMAP_HEADERS = (b"\x0c\0", b"(\0", b"4\0", b"8\0", b"@\0", b"l\0", b"|\0")

KINDS = {extension: content_type for _, _, extension, content_type in _MAGIC} | {"bmp": "image/bmp"}
"""The kinds of pictures that are read, and their content types."""
PUBLISHED = frozenset({"png", "jpg", "webp", "avif"})
"""The kinds that shops show: a vendor's picture of another kind becomes a PNG."""


def picture_type(head: bytes) -> tuple[str, str] | None:
    """Extension and content type of a picture by its first 16 bytes; None if they are not a picture's.

    Vendors label results wrongly (an HTML page with status 200, a PNG sent as octet-stream), so the
    bytes themselves decide.
    """
    for magic, at, extension, content_type in _MAGIC:
        if head[at : at + len(magic)] == magic:
            return extension, content_type
    if head[:2] == b"BM" and head[14:16] in _BITMAP_HEADERS:
        return "bmp", "image/bmp"
    return None
