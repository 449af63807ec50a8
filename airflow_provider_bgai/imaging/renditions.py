"""Further sizes and formats of one picture, by recipe: for a shop system, a marketplace, a thumbnail.

A rendition pads, extends or scales; it never stretches, and enlarges only where ``upscale`` says so. Equal input gives
equal bytes. No metadata is carried over here; marks and labels are written afterwards, into the bytes made here.
"""

from __future__ import annotations

import io
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Any, Literal

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, TypeAdapter, ValidationError, model_validator

from airflow_provider_bgai.imaging.extend import extended
from airflow_provider_bgai.imaging.icon import Corner, with_icon
from airflow_provider_bgai.imaging.small import sketch, smaller
from airflow_provider_bgai.imaging.white import white_jpeg

if TYPE_CHECKING:
    from PIL import Image

    from airflow_provider_bgai.imaging.small import Levels

KINDS = {
    "jpeg": ("jpg", "image/jpeg"),
    "png": ("png", "image/png"),
    "webp": ("webp", "image/webp"),
    "avif": ("avif", "image/avif"),
}
QUALITY = {"jpeg": 90, "webp": 82, "avif": 65}
LOWEST_QUALITY = {"jpeg": 50, "webp": 40, "avif": 30}
"""What ``max_bytes`` may lower the quality to. Below, a smaller picture looks better than a worse one."""
LONGEST_SIDE = {"jpeg": 65_535, "webp": 16_383, "avif": 65_535, "png": 65_535}
"""px the formats can hold (for AVIF and PNG: far more than is ever decoded here)."""

MIN_ALPHA = 8
"""Of 255. Fainter pixels of a cut-out are dust: nobody sees them, but they would count as product."""


class RenditionError(ValueError):
    """A rendition that cannot be made, or was described wrongly. Names the field to change."""


class Rendition(BaseModel):
    """One further picture.

    :param of: the vendor's ``picture``, or the shop's own ``cutout`` on a plain ``background``, without any vendor.
    :param width, height: px. With ``pad`` and ``extend`` the frame, both needed; with ``inside`` the most it may be.
        A picture that has fewer pixels makes a smaller frame of the same shape.
    :param fit: ``inside`` scales only; ``pad`` fills the rest of the frame with ``background``; ``extend`` continues
        the picture's own edges.
    :param quality: 1 to 100, of the encoder; not for PNG. Left out, what suits the format (:data:`QUALITY`).
    :param max_bytes: met by lowering the quality (:data:`LOWEST_QUALITY`), then the size.
    :param max_pixels: width x height, met by scaling down.
    :param min_side: px each side must have, or the rendition is refused.
    :param background: of ``pad`` and ``cutout``, as ``#RRGGBB``.
    :param fill: share of the frame that the product's bounding box spans, in the direction it touches first.
    :param upscale: the largest factor a picture may be enlarged by.
    :param icon: the corner in which a small "AI" says for people that the picture is made with AI; None for none.
    :param source_type: the IPTC ``DigitalSourceType`` this channel wants on the label. Carried through only.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    of: Literal["picture", "cutout"] = "picture"
    width: int | None = Field(default=None, ge=1, le=16_383)
    height: int | None = Field(default=None, ge=1, le=16_383)
    fit: Literal["inside", "pad", "extend"] = "inside"
    format: Literal["jpeg", "png", "webp", "avif"] = "jpeg"
    quality: int | None = Field(default=None, ge=1, le=100)
    max_bytes: int | None = Field(default=None, ge=1)
    max_pixels: int | None = Field(default=None, ge=1)
    min_side: int | None = Field(default=None, ge=1)
    background: str = Field(default="#FFFFFF", pattern=r"^#[0-9a-fA-F]{6}$")
    fill: float | None = Field(default=None, gt=0, le=1)
    upscale: float = Field(default=1.0, ge=1, le=16)
    icon: Corner | None = None
    source_type: str | None = Field(default=None, min_length=1)

    @model_validator(mode="after")
    def _check(self) -> Rendition:
        if self.fit != "inside" and (self.width is None or self.height is None):
            raise ValueError(f"fit={self.fit!r} needs width and height")
        if self.of == "cutout" and self.fit == "extend":
            raise ValueError("fit='extend' has nothing to extend behind of='cutout'; use fit='pad'")
        if self.fill is not None and (self.of != "cutout" or self.fit != "pad"):
            raise ValueError("fill needs of='cutout' and fit='pad': only there it is known where the product is")
        if self.of == "cutout" and self.icon is not None:
            raise ValueError("icon is not for of='cutout', in which no AI has a part")
        if self.format == "png" and self.quality is not None:
            raise ValueError("quality is not for format='png', which loses nothing")
        for side in ("width", "height"):
            value = getattr(self, side)
            if value is not None and self.min_side is not None and value < self.min_side:
                raise ValueError(f"{side}={value} is less than min_side={self.min_side}")
        return self


# The source of each fact stands in docs/renditions.md.
PRESETS: dict[str, dict[str, Any]] = {
    "shopify": {"width": 2048, "height": 2048, "fit": "extend", "max_bytes": 20_000_000},
    "google": {
        "quality": 92,
        "max_bytes": 16_000_000,
        "max_pixels": 64_000_000,
        "min_side": 500,
        "source_type": "trainedAlgorithmicMedia",
    },
    "amazon_main": {
        "of": "cutout",
        "width": 2000,
        "height": 2000,
        "fit": "pad",
        "fill": 0.9,
        "quality": 95,
        "max_bytes": 10_000_000,
        "min_side": 500,
    },
    "amazon": {
        "width": 2000,
        "height": 2000,
        "fit": "extend",
        "quality": 95,
        "max_bytes": 10_000_000,
        "min_side": 500,
    },
    "thumbnail": {"width": 320, "height": 320, "format": "webp", "quality": 75},
    "webp": {"format": "webp"},
    "avif": {"format": "avif"},
}


def _with_presets(renditions: Any) -> Any:
    if not isinstance(renditions, Mapping):
        return renditions
    described = {}
    for name, own in renditions.items():
        own = {} if own is None else own
        if not own and name not in PRESETS:
            raise ValueError(f"{name!r} says nothing and is no preset; presets are {', '.join(PRESETS)}")
        described[name] = {**PRESETS.get(name, {}), **own} if isinstance(own, Mapping) else own
    return described


Name = Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9_-]{0,63}$")]
Renditions = Annotated[dict[Name, Rendition], BeforeValidator(_with_presets)]
"""A recipe's field: renditions by name. A preset's name starts from that preset; fields given override it."""

_RENDITIONS: TypeAdapter[dict[str, Rendition]] = TypeAdapter(Renditions)


def renditions_of(mapping: Mapping[str, Any]) -> dict[str, Rendition]:
    """The renditions a recipe describes. :raises RenditionError: naming every wrong field."""
    try:
        return _RENDITIONS.validate_python(mapping)
    except ValidationError as error:
        wrong = (f"{'.'.join(map(str, e['loc'])) or 'renditions'}: {e['msg']}" for e in error.errors())
        raise RenditionError("; ".join(wrong)) from None


@dataclass(frozen=True)
class Rendered:
    """A rendition's file. ``width`` and ``height`` in px; ``notes`` say what a person should know of it."""

    data: bytes
    content_type: str
    extension: str
    width: int
    height: int
    notes: tuple[str, ...] = ()


def render(picture: Image.Image, rendition: Rendition) -> Rendered:
    """Make one rendition.

    :param picture: upright, sRGB; for ``of="cutout"`` with alpha.
    :raises RenditionError: if it cannot be made within its limits.
    """
    _check_encoder(rendition.format)
    if rendition.of == "cutout":
        picture = _cut_out(picture, whole=rendition.fill is None)
    shrink = 1.0
    while True:
        layout = _lay_out(picture.size, rendition, shrink)
        canvas, outside = _draw(picture, rendition, layout)
        data, notes = _encode_within(canvas, outside, rendition)
        if rendition.max_bytes is None or len(data) <= rendition.max_bytes:
            extension, content_type = KINDS[rendition.format]
            return Rendered(data, content_type, extension, *layout.frame, (*layout.notes, *notes))
        if max(layout.frame) <= 16:
            raise RenditionError(f"max_bytes={rendition.max_bytes} is too little for any picture")
        shrink *= min(0.9, max(0.25, 0.97 * math.sqrt(rendition.max_bytes / len(data))))


def thumbnail(picture: Image.Image | Levels) -> bytes:
    """A WebP of at most 160 px a side for a report, a few kB; transparency is kept.

    :param picture: decoded, of any mode; or levels: its :func:`~airflow_provider_bgai.imaging.small.sketch` will do.
    """
    from PIL import Image

    levels = sketch(picture)
    scale = min(1.0, 160 / max(levels.shape))
    levels = smaller(levels, (max(1, round(levels.shape[1] * scale)), max(1, round(levels.shape[0] * scale))))
    if levels.shape[2] == 4 and levels[..., 3].min() == 255:
        levels = levels[..., :3]
    # Quicker than the usual 4, for a quarter more bytes of a few kB.
    return _save(Image.fromarray(levels), "WEBP", quality=70, alpha_quality=70, method=0)


def _check_encoder(kind: str) -> None:
    from PIL import Image

    Image.init()
    if kind.upper() not in Image.SAVE:
        raise RenditionError(f"format={kind!r}: this Pillow cannot write it (AVIF needs Pillow 11.3 or newer)")


def _cut_out(picture: Image.Image, *, whole: bool) -> Image.Image:
    """The cut-out without dust; not ``whole``: without its margins, too."""
    if not picture.has_transparency_data:
        raise RenditionError("of='cutout': the source has no transparency, so it is not known what the product is")
    cutout = _without_dust(picture)
    alpha = cutout.getchannel("A")
    box = alpha.getbbox()
    if box is None:
        raise RenditionError("of='cutout': the source is empty; every pixel is transparent")
    if alpha.getextrema()[0] == 255:
        raise RenditionError("of='cutout': every pixel is opaque, so it is not known what the product is")
    return cutout if whole else cutout.crop(box)


@dataclass(frozen=True)
class _Layout:
    """Sizes in px: of the frame, and of the picture in its middle."""

    frame: tuple[int, int]
    inner: tuple[int, int]
    notes: tuple[str, ...]


def _lay_out(size: tuple[int, int], rendition: Rendition, shrink: float) -> _Layout:
    """Where everything goes. ``shrink``: the factor by which ``max_bytes`` makes it smaller than it could be."""
    wide, high = size
    bounds = [(rendition.width, wide), (rendition.height, high)]
    factors = [(rendition.fill or 1.0) * most / own for most, own in bounds if most is not None]
    wanted = min(factors, default=max(1.0, (rendition.min_side or 1) / min(size)))
    scale = min(wanted, rendition.upscale)
    # A picture that may not be enlarged so far takes the frame with it: no borders on all four sides.
    if rendition.fit != "inside" and rendition.width is not None and rendition.height is not None:
        frame = (rendition.width * scale / wanted, rendition.height * scale / wanted)
    else:
        frame = (wide * scale, high * scale)
    cap = min(1.0, LONGEST_SIDE[rendition.format] / max(frame))
    if rendition.max_pixels is not None:
        cap = min(cap, math.sqrt(rendition.max_pixels / (frame[0] * frame[1])))
    cap *= shrink
    outer = _whole(frame, cap, math.floor if rendition.fit != "inside" or cap < 1 else round)
    inner = _whole(size, scale * cap, math.ceil if rendition.fill is not None else round)
    if rendition.fit == "inside":
        inner = outer
    inner = (min(inner[0], outer[0]), min(inner[1], outer[1]))

    notes = []
    size_text = f"{outer[0]} x {outer[1]} px"
    subject = "product" if rendition.fill is not None else "picture"
    if scale < wanted:
        notes.append(
            f"{size_text}: the {subject} has only {wide} x {high} px, and upscale={rendition.upscale:g} "
            f"(full size needs {math.ceil(wanted * 100) / 100:g})"
        )
    if scale * cap > 1:
        notes.append(f"{subject} of {wide} x {high} px enlarged {scale * cap:.2f} times")
    if cap < 1:
        limit = "max_bytes" if shrink < 1 else "max_pixels" if rendition.max_pixels else f"format={rendition.format!r}"
        notes.append(f"scaled down to {size_text} for {limit}")
    if rendition.min_side is not None and min(outer) < rendition.min_side:
        raise RenditionError(f"less than min_side={rendition.min_side}: {'; '.join(notes) or size_text}")
    return _Layout(outer, inner, tuple(notes))


def _whole(size: tuple[float, float], factor: float, rounded: Callable[[float], int]) -> tuple[int, int]:
    """Scaled to whole px; a millionth of a px is no px."""
    return (max(1, rounded(round(size[0] * factor, 6))), max(1, rounded(round(size[1] * factor, 6))))


def _draw(picture: Image.Image, rendition: Rendition, layout: _Layout) -> tuple[Image.Image, Image.Image | None]:
    """The rendition's pixels, and for a cut-out a mask of those that are nothing but background."""
    from PIL import Image

    inner = _resized(picture.convert("RGBA" if picture.has_transparency_data else "RGB"), layout.inner)
    place = ((layout.frame[0] - inner.width) // 2, (layout.frame[1] - inner.height) // 2)
    outside = None
    if rendition.of == "cutout":
        # Again, because the filter rings a few px off every hard edge.
        inner = _without_dust(inner)
        outside = Image.new("L", layout.frame, 255)
        outside.paste(inner.getchannel("A").point([255] + [0] * 255), place)
    if inner.mode == "RGBA":
        flat = Image.new("RGB", inner.size, rendition.background)
        flat.paste(inner, mask=inner)
        inner = flat
    if rendition.fit == "extend":
        canvas = extended(inner, layout.frame, place)
    else:
        canvas = Image.new("RGB", layout.frame, rendition.background)
        canvas.paste(inner, place)
    return canvas if rendition.icon is None else with_icon(canvas, rendition.icon), outside


def _resized(picture: Image.Image, size: tuple[int, int]) -> Image.Image:
    """Scaled, without the colours that transparent pixels hide, and without a bright rim along a cut-out's edge.

    Pillow alone leaves that rim: it cuts colour times alpha, which rings, to 0 to 255 before dividing by alpha again.
    """
    import numpy as np
    from PIL import Image

    if picture.size == size:
        return picture
    lanczos = Image.Resampling.LANCZOS
    if picture.mode == "RGB":
        return picture.resize(size, lanczos, reducing_gap=3.0)
    pixels = np.asarray(picture, np.float32)
    planes = [*np.moveaxis(pixels[..., :3] * pixels[..., 3:], -1, 0), pixels[..., 3]]
    *colours, alpha = (np.asarray(Image.fromarray(plane).resize(size, lanczos, reducing_gap=3.0)) for plane in planes)
    straight = [colour / np.maximum(alpha, 1) for colour in colours]
    return Image.fromarray((np.stack([*straight, alpha], -1) + 0.5).clip(0, 255).astype(np.uint8), "RGBA")


def _without_dust(cutout: Image.Image) -> Image.Image:
    cleaned = cutout.convert("RGBA")
    cleaned.putalpha(cleaned.getchannel("A").point([0] * MIN_ALPHA + [*range(MIN_ALPHA, 256)]))
    return cleaned


def _encode_within(canvas: Image.Image, outside: Image.Image | None, rendition: Rendition) -> tuple[bytes, list[str]]:
    """The file of the best quality that ``max_bytes`` allows; where none is small enough, of the lowest."""
    kind, most = rendition.format, rendition.max_bytes
    quality = rendition.quality or QUALITY.get(kind)
    data = _encode(canvas, outside, rendition, quality)
    if quality is None or most is None or len(data) <= most:
        return data, []
    lowest, highest = min(LOWEST_QUALITY[kind], quality), quality
    data = _encode(canvas, outside, rendition, lowest)
    if len(data) > most:
        return data, []
    while highest - lowest > 1:
        middle = (lowest + highest) // 2
        tried = _encode(canvas, outside, rendition, middle)
        if len(tried) <= most:
            lowest, data = middle, tried
        else:
            highest = middle
    return data, [f"quality {lowest} instead of {quality} for max_bytes"]


def _encode(canvas: Image.Image, outside: Image.Image | None, rendition: Rendition, quality: int | None) -> bytes:
    if rendition.format == "png":
        return _save(canvas, "PNG")
    assert quality is not None
    # Small red or blue print on a product does not survive halved colour.
    fine = quality >= 90
    if rendition.format == "webp":
        return _save(canvas, "WEBP", quality=quality, method=4)
    if rendition.format == "avif":
        # One thread, so that bytes do not depend on the machine.
        return _save(canvas, "AVIF", quality=quality, speed=8, subsampling="4:4:4" if fine else "4:2:0", max_threads=1)
    if outside is not None and rendition.background.upper() == "#FFFFFF":
        white = white_jpeg(canvas, outside, quality)
        if white is None:
            raise RenditionError(f"quality={quality} cannot keep the background white")
        return white
    return _save(canvas, "JPEG", quality=quality, subsampling=0 if fine else 2, optimize=True, progressive=True)


def _save(picture: Image.Image, kind: str, **options: Any) -> bytes:
    buffer = io.BytesIO()
    picture.save(buffer, kind, **options)
    return buffer.getvalue()
