"""What a file really is: a whole picture of a known kind, or an error that says what is wrong.

Looks at the bytes, never at names or content types. Pillow is imported inside the functions.
"""

from __future__ import annotations

import io
import warnings
from dataclasses import dataclass
from typing import IO, TYPE_CHECKING

from airflow_provider_bgai.models import picture_type

if TYPE_CHECKING:
    from PIL import Image

# 64 megapixels: Google Merchant Center's limit, four times the largest input any vendor documents.
# As RGBA that is 256 MB once decoded, so nothing larger is ever decoded.
MAX_PIXELS = 64_000_000


class NotAPictureError(ValueError):
    """The bytes are not a whole picture; the message says why."""


@dataclass(frozen=True)
class Picture:
    """What a picture's bytes say of it. ``width`` and ``height`` in px, ``size`` in bytes."""

    extension: str
    content_type: str
    width: int
    height: int
    has_alpha: bool
    size: int


def read_header(data: bytes | IO[bytes]) -> Picture:
    """Describe a picture from its header, without decoding its pixels.

    :raises NotAPictureError: if it is no picture, or its header is broken.
    """
    file = io.BytesIO(data) if isinstance(data, bytes) else data
    with _open(file) as image:
        return _describe(file, image)


def verify_whole(data: bytes | IO[bytes], *, max_pixels: int = MAX_PIXELS) -> Picture:
    """Describe a picture after decoding all of it.

    :param max_pixels: more than this is refused before anything is decoded.
    :raises NotAPictureError: if it is no picture, truncated, damaged or too large.
    """
    file = io.BytesIO(data) if isinstance(data, bytes) else data
    with _open(file) as image:
        picture = _describe(file, image)
        if picture.width * picture.height > max_pixels:
            raise NotAPictureError(
                f"{picture.width} x {picture.height} px: more than {max_pixels:,} pixels are not decoded"
            )
        if picture.extension == "jpg":
            # Every byte is still read and checked, with an eighth of the sides and a 64th of the memory.
            image.draft(image.mode, (1, 1))
        try:
            image.load()
        except (OSError, SyntaxError, ValueError, EOFError) as error:
            raise NotAPictureError(f"damaged or cut off: {error}") from None
    if picture.extension == "png" and not _png_ends(file):
        raise NotAPictureError("damaged or cut off: its end is missing")
    return picture


def _png_ends(file: IO[bytes]) -> bool:
    """Whether the last chunk is there, too. Pillow is content once it has the pixels; other readers are not."""
    file.seek(8)
    while len(head := file.read(8)) == 8:
        if head[4:] == b"IEND":
            return file.read(4) == b"\xaeB`\x82"
        file.seek(int.from_bytes(head[:4]) + 4, io.SEEK_CUR)
    return False


def _open(file: IO[bytes]) -> Image.Image:
    from PIL import Image

    file.seek(0)
    head = file.read(16)
    if picture_type(head) is None:
        raise NotAPictureError(f"not a picture; it starts with {head!r}" if head else "empty")
    file.seek(0)
    try:
        with warnings.catch_warnings():
            # Our own limit above is stricter than the one Pillow warns of.
            warnings.simplefilter("ignore", Image.DecompressionBombWarning)
            return Image.open(file)
    except (OSError, SyntaxError, ValueError, EOFError, Image.DecompressionBombError) as error:
        raise NotAPictureError(f"its header is broken: {error}") from None


def _describe(file: IO[bytes], image: Image.Image) -> Picture:
    position = file.tell()
    size = file.seek(0, io.SEEK_END)
    file.seek(0)
    kind = picture_type(file.read(16))
    file.seek(position)
    assert kind is not None
    has_alpha = image.mode in ("RGBA", "LA", "PA", "La", "RGBa") or "transparency" in image.info
    return Picture(kind[0], kind[1], image.width, image.height, has_alpha, size)
