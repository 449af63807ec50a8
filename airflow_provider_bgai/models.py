"""The nouns of the package: what is wanted, and what a vendor made of it.

Frozen, vendor-neutral, no I/O. Nothing here knows a wire format, S3 or Airflow.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from airflow_provider_bgai.exceptions import BY_REASON, BgaiError, InvalidRequestError

State = Literal["pending", "succeeded", "failed"]


@dataclass(frozen=True)
class BackgroundRequest:
    """A new background behind one cut-out product.

    :param image: the cut-out: a local path, ``https://…``, ``s3://…``, or the bytes themselves.
    :param prompt: what the background should look like.
    :param negative_prompt: what should not appear in it.
    :param seed: a positive integer for repeatable results, where the vendor has seeds.
    :param count: how many pictures to make. Each one is billed.
    :param template: the vendor's own scene ID (PicWish ``scene_type``), instead of a prompt.
    :param guidance_image: a picture to take the mood from (Photoroom); forms as for ``image``.
    :param guidance_scale: 0.0 (ignore it) to 1.0 (match it as closely as possible).
    :param options: further parameters of the vendor, by the vendor's own names.
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
        # Forms and templates hand over "" and "3" where Python code writes None and 3.
        for name in ("prompt", "negative_prompt", "template", "guidance_image", "guidance_scale", "seed"):
            value = getattr(self, name)
            if isinstance(value, str) and not value.strip():
                object.__setattr__(self, name, None)
        for name in ("image", "guidance_image"):
            if isinstance(getattr(self, name), Path):
                object.__setattr__(self, name, str(getattr(self, name)))
        for name, kind in (("count", int), ("seed", int), ("guidance_scale", float)):
            object.__setattr__(self, name, _number(name, getattr(self, name), kind))
        if not isinstance(self.image, str | bytes) or not self.image:
            raise InvalidRequestError(f"image={self.image!r}: must be a path, an s3:// or https:// URL, or bytes")
        for name in ("prompt", "negative_prompt"):
            if not isinstance(getattr(self, name), str | None):
                raise InvalidRequestError(f"{name}={getattr(self, name)!r}: must be text")
        if self.count is None or self.count < 1:
            raise InvalidRequestError(f"count={self.count!r}: must be 1 or more")
        if self.seed is not None and self.seed < 1:
            raise InvalidRequestError(f"seed={self.seed!r}: must be a positive integer")
        if self.guidance_scale is not None and not 0 <= self.guidance_scale <= 1:
            raise InvalidRequestError(f"guidance_scale={self.guidance_scale!r}: must lie between 0 and 1")
        if not isinstance(self.options, Mapping):
            raise InvalidRequestError(f"options={self.options!r}: must be a mapping of the vendor's parameters")


def _number(name: str, value: Any, kind: type) -> Any:
    if value is None:
        return None
    if isinstance(value, bool) or (kind is int and isinstance(value, float) and not value.is_integer()):
        raise InvalidRequestError(f"{name}={value!r}: must be a{'n integer' if kind is int else ' number'}")
    try:
        return kind(value)
    except (TypeError, ValueError, OverflowError):
        raise InvalidRequestError(f"{name}={value!r}: must be a{'n integer' if kind is int else ' number'}") from None


@dataclass(frozen=True, kw_only=True)
class Generation:
    """What a vendor made, or is making, of a request.

    :param vendor: ``"picwish"``, ``"photoroom"``, …
    :param state: ``"pending"``, ``"succeeded"`` or ``"failed"``.
    :param task_id: the vendor's task, to be polled; None where the vendor answers at once.
    :param images: the pictures, as bytes or as the vendor's short-lived links. Links are as good as
        the pictures to whoever reads them, so they are kept out of ``repr`` and out of logs.
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
)


def picture_type(head: bytes) -> tuple[str, str] | None:
    """Extension and content type of a picture by its first 16 bytes; None if they are not a picture's.

    Vendors label results wrongly (an HTML page with status 200, a PNG sent as octet-stream), so the
    bytes themselves decide.
    """
    for magic, at, extension, content_type in _MAGIC:
        if head[at : at + len(magic)] == magic:
            return extension, content_type
    return None
