"""What a file really is: a whole picture of a known kind, or an error that says what is wrong.

Looks at the bytes, never at names or content types. What a file claims is checked before anything is
decoded, so that no file takes more memory or time than an honest picture of its size. Pillow and numpy
are imported inside the functions.
"""

from __future__ import annotations

from typing import IO, TYPE_CHECKING, Any

from airflow_provider_bgai.imaging.opening import (
    MAX_PIXELS,
    NotAPictureError,
    Picture,
    decode,
    leniently,
    open_undecoded,
    read_kind,
)
from airflow_provider_bgai.imaging.plain import plain_levels
from airflow_provider_bgai.imaging.small import sketch, smaller

if TYPE_CHECKING:
    from PIL import Image

    from airflow_provider_bgai.imaging.small import Levels

__all__ = ["MAX_PIXELS", "NotAPictureError", "Picture"]


class UnpaintedError(ValueError):
    """A whole picture, but nobody has painted anything: the message says how that is seen."""


def read_header(data: bytes | IO[bytes]) -> Picture:
    """Describe a picture from its header, without decoding its pixels.

    :raises NotAPictureError: if it is no picture, or its header is broken.
    """
    return leniently(data, read_kind)[0]


def verify_whole(data: bytes | IO[bytes], *, max_pixels: int = MAX_PIXELS) -> Picture:
    """Describe a picture after decoding all of it, in as little memory as its kind allows.

    :param max_pixels: more than this is refused before anything is decoded.
    :raises NotAPictureError: if it is no picture, truncated, damaged or too large.
    """

    def whole(file: IO[bytes]) -> tuple[Picture, None]:
        picture, image = open_undecoded(file, max_pixels=max_pixels)
        if picture.extension == "jpg":
            # Every byte is still read and checked, with an eighth of the sides and a 64th of the memory.
            image.draft(image.mode, (1, 1))
        if plain_levels(file) is None:
            decode(image)
        return picture, None

    return leniently(data, whole)[0]


def open_whole(data: bytes | IO[bytes], *, max_pixels: int = MAX_PIXELS) -> tuple[Picture, Image.Image | Levels]:
    """A picture's description and its decoded pixels, in the file's own mode, for whoever looks at them next.

    Of a plain PNG they are levels, which takes less time.

    :param max_pixels: more than this is refused before anything is decoded.
    :raises NotAPictureError: if it is no picture, truncated, damaged or too large.
    """

    def whole(file: IO[bytes]) -> tuple[Picture, Image.Image | Levels]:
        picture, image = open_undecoded(file, max_pixels=max_pixels)
        levels = plain_levels(file)
        if levels is not None:
            return picture, levels
        decode(image)
        return picture, image

    return leniently(data, whole)


def frame_problem(picture: Picture, aspect: float) -> str | None:
    """What is wrong with a picture's shape, given the width / height that was asked for, usually the source's.

    1 % or 2 px off is still right, since vendors round sides to multiples of 8 in a picture of 1,024 px and more.
    """
    if abs(picture.width - aspect * picture.height) <= max(2, 2 * aspect, 0.01 * picture.width):
        return None
    return f"width / height is {picture.width / picture.height:.3f}, where {aspect:.3f} was asked for"


# --- looking at the pixels ---------------------------------------------------------------------------

_VISIBLE = 16  # of 255: alpha below it is dust
_SAME = 6  # of 255: re-encoding as JPEG moves a flat colour less than this


def check_painted(image: Image.Image | Levels, source: Image.Image | Levels | None) -> None:
    """Whether a vendor has painted anything. Sketches of the two do as well: it is looked at from afar.

    :param source: what was sent; None where a flat or transparent background was asked for.
    :raises UnpaintedError: if it is blank or unchanged.
    """
    import cv2
    import numpy as np

    pixels = _small(image)
    visible = cv2.inRange(pixels[..., 3], _VISIBLE, 255)
    shown = _share(visible)
    if shown < 0.001:
        raise UnpaintedError("blank: all of it is transparent")
    seen = cv2.copyTo(pixels, visible)
    colour = [int(np.median(band[::2, ::2])) for band in cv2.split(seen)]
    if _share(_like(seen, np.full_like(seen, colour), bands=4)) > 0.999:
        raise UnpaintedError(f"blank: all of it is of one colour, {_hexadecimal(colour)}")
    if source is None:
        return
    sent = _small(source)
    transparent = 1 - _share(cv2.inRange(sent[..., 3], _VISIBLE, 255))
    if transparent > 0.01 and 1 - shown > transparent / 2:
        raise UnpaintedError("the background was not painted: it is transparent")
    if abs(_aspect(image) / _aspect(source) - 1) > 0.02:
        return  # framed anew, so nobody can tell here which pixels are background
    if sent.shape != pixels.shape:
        sent = cv2.resize(sent, pixels.shape[1::-1], interpolation=cv2.INTER_AREA)
    if transparent > 0.01:
        # Away from the product: where the two meet, scaling and JPEG mix them.
        background = cv2.inRange(cv2.dilate(sent[..., 3], np.ones((5, 5), np.uint8)), 0, 0)
        white = np.full_like(pixels, 255)
        candidates = {"white": white, "black": np.zeros_like(pixels), "what the cut-out hides": sent}
    else:
        background = np.full(sent.shape[:2], 255, np.uint8)
        candidates = {"the source itself": sent}
    for name, candidate in candidates.items():
        same = cv2.bitwise_and(_like(pixels, candidate, bands=3), background)
        if _share(same) > 0.97 * _share(background):
            raise UnpaintedError(f"the background was not painted: it is {name}")


def _share(mask: Any) -> float:
    import cv2

    return cv2.countNonZero(mask) / int(mask.size)


def _like(pixels: Any, others: Any, *, bands: int) -> Any:
    """Where pixels, RGBA, are much the same as others in so many of their bands."""
    import cv2

    most = (_SAME,) * bands + (255,) * (4 - bands)
    return cv2.inRange(cv2.absdiff(pixels, others), (0, 0, 0, 0), most)


def _aspect(picture: Image.Image | Levels) -> float:
    """Width / height."""
    from PIL import Image

    return picture.width / picture.height if isinstance(picture, Image.Image) else picture.shape[1] / picture.shape[0]


def _small(picture: Image.Image | Levels) -> Any:
    """The picture as RGBA numbers of some 128 x 128 px."""
    import cv2

    levels = sketch(picture)
    height, width = levels.shape[:2]
    factor = max(1, round((width * height) ** 0.5 / 128))
    small = smaller(levels, (max(1, width // factor), max(1, height // factor)))
    return cv2.cvtColor(small, cv2.COLOR_RGB2RGBA) if small.shape[2] == 3 else small


def _hexadecimal(colour: Any) -> str:
    return "#" + "".join(f"{int(value):02x}" for value in colour[:3])
