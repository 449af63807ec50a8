"""From the shop's photo to what a vendor takes: upright, sRGB, straight-alpha RGBA, within the vendor's limits.

Everything here happens before a cent is spent, and says what it did. A source that suits already is passed
on byte for byte. Pillow is imported inside the functions.
"""

from __future__ import annotations

import io
from dataclasses import dataclass
from typing import IO, TYPE_CHECKING

from airflow_provider_bgai.imaging.bare import first_of_several
from airflow_provider_bgai.imaging.opening import MAX_PIXELS
from airflow_provider_bgai.imaging.reading import read
from airflow_provider_bgai.imaging.recent import read_source
from airflow_provider_bgai.models import SourceLimits

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray
    from PIL import Image

# Of 255: alpha below it is dust that no eye sees.
_VISIBLE = 16
# With a smaller share of the pixels visible there is no product; with a smaller share transparent, no cut-out.
_LEAST_SHARE = 0.001


class RefusedSourceError(ValueError):
    """A whole picture, but not one this vendor can use; the message says what would be right."""


@dataclass(frozen=True)
class Prepared:
    """A source as the vendor takes it.

    :param box: (x, y, width, height) in px where the upright source lies in the prepared picture.
    :param notes: what was done to it; empty if ``data`` is the source itself.
    :param warnings: what somebody should look at.
    """

    data: bytes
    content_type: str
    width: int
    height: int
    box: tuple[int, int, int, int]
    notes: tuple[str, ...] = ()
    warnings: tuple[str, ...] = ()


def read_rgba(data: bytes | IO[bytes], *, max_pixels: int = MAX_PIXELS) -> Image.Image:
    """The pixels of a picture as the eye sees them: upright, sRGB, straight-alpha RGBA of 8 bits.

    :param max_pixels: more than this is refused before anything is decoded.
    :raises NotAPictureError: if it is no picture, truncated, damaged or too large.
    """
    return read(data, max_pixels).image


def prepare(data: bytes, limits: SourceLimits, *, max_upscale: float = 1.0) -> Prepared:
    """Make of a source what a vendor takes, or say why that cannot be.

    :param max_upscale: 1.0 or more. A source that is too small is scaled up by this at most; what is still
        missing is padded with transparent pixels.
    :raises RefusedSourceError: if it is no cut-out where one is needed, empty, or cannot be made to fit.
    :raises NotAPictureError: if it is no picture, truncated, damaged or too large.
    """
    source = read_source(data)
    image, picture = source.image, source.picture
    notes, warnings = list(source.notes), list(source.warnings)
    opaque = _check_alpha(source.alpha, limits, warnings)
    del source  # or a large picture would be held a third time below
    scale = _scale(image.size, limits, max_upscale)
    if scale != 1:
        notes.append(f"scaled {'down' if scale < 1 else 'up'} by {scale:.3g} from {image.width} x {image.height} px")
    if min(image.size) * scale < limits.min_side - 0.5:
        notes.append(f"padded to {limits.min_side} px")
    if picture.extension not in limits.formats:
        notes.append(f"{picture.extension.upper()} turned into PNG")
    most = limits.max_bytes if limits.max_bytes is not None else float("inf")
    first = first_of_several(data)
    data, taken = (data, ()) if first is None else (first, ("the first of several pictures taken",))
    if not notes and len(data) <= most:
        return Prepared(data, picture.content_type, *image.size, (0, 0, *image.size), taken, tuple(warnings))

    if scale != 1:
        # Premultiplied, or the colour of transparent pixels would bleed into the edges. Bound to the same name, too.
        image = image.convert("RGBa")
    fitted, box = _fit(image, scale, limits.min_side)
    encoded = encode_png(fitted, opaque)
    if len(encoded) > most:
        image = image.convert("RGBa")
        fitted, box, encoded = _shrink(image, scale, opaque, limits.min_side, most)
    if len(data) > most or box[2:] != _fitted_size(image.size, scale):
        notes.append(f"brought to {len(encoded):,} bytes at {box[2]} x {box[3]} px")
    return Prepared(encoded, "image/png", *fitted.size, box, tuple(notes), tuple(warnings))


# --- judging and fitting -----------------------------------------------------------------------------


def _check_alpha(alpha: NDArray[np.uint8], limits: SourceLimits, warnings: list[str]) -> bool:
    """Whether all of it is opaque.

    :raises RefusedSourceError: if it shows nothing, or is no cut-out where one is needed.
    """
    import cv2

    pixels = alpha.size
    hidden = cv2.countNonZero(cv2.inRange(alpha, 0, _VISIBLE - 1))
    least, most, _, _ = cv2.minMaxLoc(alpha)
    if pixels - hidden < _LEAST_SHARE * pixels:
        share = (pixels - hidden) / pixels
        raise RefusedSourceError(f"it is empty: {share:.2%} of its pixels are visible; a picture must show a product")
    if hidden < _LEAST_SHARE * pixels:
        if limits.needs_alpha:
            raise RefusedSourceError(
                "it needs a cut-out, and this picture has no transparent background; configure a cut-out step, "
                "or use a vendor that removes backgrounds itself"
            )
        return bool(least == 255)
    if most < 128:
        warnings.append("nothing in it is more than half opaque")
    sides = {"left": alpha[:, 0], "top": alpha[0], "right": alpha[:, -1], "bottom": alpha[-1]}
    touched = [side for side, line in sides.items() if line.max() >= 128]
    if touched:
        warnings.append(f"the product touches the edge ({', '.join(touched)}): it may be cut off")
    return False


def _scale(size: tuple[int, int], limits: SourceLimits, max_upscale: float) -> float:
    """By what a picture of this size must be scaled. Being too large goes first: padding helps the other side."""
    if max_upscale < 1:
        raise ValueError(f"max_upscale={max_upscale!r}: must be 1 or more")
    largest = limits.max_side / max(size) if limits.max_side is not None else max_upscale
    return min(largest, max(1.0, min(max_upscale, limits.min_side / min(size))))


def _fitted_size(size: tuple[int, int], scale: float) -> tuple[int, int]:
    return max(1, round(size[0] * scale)), max(1, round(size[1] * scale))


def _fit(image: Image.Image, scale: float, min_side: int) -> tuple[Image.Image, tuple[int, int, int, int]]:
    """Scaled, then padded to ``min_side`` with the picture in the middle; as RGBA, and where the picture lies."""
    from PIL import Image

    width, height = _fitted_size(image.size, scale)
    if (width, height) != image.size:
        # Going down, Hamming: nearly as sharp as bicubic and Lanczos, which overshoot and draw rings around a cut-out.
        smooth = Image.Resampling.HAMMING if scale < 1 else Image.Resampling.BICUBIC
        image = image.resize((width, height), smooth, reducing_gap=3.0)
    if image.mode != "RGBA":
        image = image.convert("RGBA")
    size = max(width, min_side), max(height, min_side)
    box = (size[0] - width) // 2, (size[1] - height) // 2, width, height
    if size != image.size:
        canvas = Image.new("RGBA", size)
        canvas.paste(image, box[:2])
        image = canvas
    return image, box


def encode_png(image: Image.Image, opaque: bool, *, smallest: bool = False) -> bytes:
    """A PNG without profile or metadata; RGB if it is opaque, unless padding made it transparent."""
    if opaque and image.getchannel("A").getextrema() == (255, 255):
        image = image.convert("RGB")
    buffer = io.BytesIO()
    image.save(buffer, "PNG", optimize=smallest)
    return buffer.getvalue()


def _shrink(
    image: Image.Image, scale: float, opaque: bool, min_side: int, most: float
) -> tuple[Image.Image, tuple[int, int, int, int], bytes]:
    """The largest scale at which the PNG fits, found from above in steps of 5 % or more.

    ``image`` is premultiplied, so that what hides under transparent pixels costs nothing.
    """
    while True:
        fitted, box = _fit(image, scale, min_side)
        encoded = encode_png(fitted, opaque, smallest=True)
        if len(encoded) <= most:
            return fitted, box, encoded
        if max(box[2:]) <= min_side or max(box[2:]) <= 64:
            raise RefusedSourceError(
                f"even at {box[2]} x {box[3]} px it is a PNG of {len(encoded):,} bytes; at most {most:,} are taken"
            )
        scale *= min(0.95, (most / len(encoded)) ** 0.5)
