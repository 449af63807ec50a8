"""A large picture made small, without a second large one."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray
    from PIL import Image

    Levels = NDArray[np.uint8]

# Of the small picture that are made at a time; more where they are made of fewer px than these.
_ROWS, _STRIP = 16, 1 << 20
# px of the longer side, and up to twice that: twice a thumbnail, so that scaling it down once more stays smooth.
_SKETCH = 320


class Halves:
    """A picture and, made once for all who look at it from afar, the same halved and halved again."""

    def __init__(self, levels: Levels) -> None:
        self._made = [levels]

    @property
    def levels(self) -> Levels:
        return self._made[0]

    def halved(self, times: int) -> Levels:
        while len(self._made) <= times:
            self._made.append(halved(self._made[-1], 1))
        return self._made[times]


def sketch(picture: Image.Image | Levels | Halves) -> Levels:
    """The levels of a picture of some 320 to 640 px, for thumbnails and whatever looks from afar; RGB or RGBA.

    :param picture: decoded, of any mode; or its levels, which are made small in a third of the time; or, of a picture
        without alpha, its halves.
    """
    import numpy as np
    from PIL import Image

    if isinstance(picture, Halves):
        return picture.halved(_times(picture.levels))
    if not isinstance(picture, Image.Image):
        times = _times(picture)
        height, width = (max(1, side >> times) for side in picture.shape[:2])
        return smaller(picture[: height << times, : width << times], (width, height))
    factor = max(1, max(picture.size) // _SKETCH)
    as_it_is = factor == 1 and picture.mode in ("RGB", "RGBA") and "transparency" not in picture.info
    return np.asarray(picture if as_it_is else reduced(picture, factor))


def _times(levels: Levels) -> int:
    """How often a sketch is half of the picture."""
    return max(1, max(levels.shape) // _SKETCH).bit_length() - 1


def reduced(image: Image.Image, factor: int) -> Image.Image:
    """A decoded picture of any mode as RGBA, each pixel the mean of ``factor`` x ``factor``. Strip by strip."""
    import numpy as np
    from PIL import Image

    if factor == 1 and image.mode in ("RGB", "RGBA"):
        return image.convert("RGBA")
    size = -(-image.width // factor), -(-image.height // factor)
    small = Image.new("RGBA", size)
    rows = factor * max(_ROWS, _STRIP // (image.width * factor))
    for top in range(0, image.height, rows):
        strip = image.crop((0, top, image.width, min(top + rows, image.height)))
        if strip.mode in ("I;16", "I;16B"):
            strip = Image.fromarray((np.asarray(strip) >> 8).astype(np.uint8))
        elif strip.mode not in ("RGBA", "RGB", "L", "LA", "CMYK") or "transparency" in strip.info:
            strip = strip.convert("RGBA")
        small.paste(strip.reduce(factor).convert("RGBA"), (0, top // factor))
    return small


def smaller(levels: Levels, size: tuple[int, int]) -> Levels:
    """RGB or RGBA at a smaller size (width, height); the colour of transparent pixels bleeds into no others.

    By halves first, which drops a few px at its far edges.
    """
    import cv2
    import numpy as np

    if size == (levels.shape[1], levels.shape[0]):
        return levels
    with_alpha = levels.shape[2] == 4
    small = np.asarray(cv2.cvtColor(levels, cv2.COLOR_RGBA2mRGBA), np.uint8) if with_alpha else levels
    small = halved(small, max(1, min(levels.shape[1] // size[0], levels.shape[0] // size[1])).bit_length() - 1)
    small = np.asarray(cv2.resize(small, size, interpolation=cv2.INTER_AREA), np.uint8)
    return np.asarray(cv2.cvtColor(small, cv2.COLOR_mRGBA2RGBA), np.uint8) if with_alpha else small


def halved(levels: Levels, times: int) -> Levels:
    """Each px the mean of 2 x 2, so many times: OpenCV does that several times as fast as any other size.

    A row or column that is left over is dropped.
    """
    import cv2
    import numpy as np

    for _ in range(times):
        height, width = (max(1, side // 2) for side in levels.shape[:2])
        part = levels[: 2 * height, : 2 * width]
        levels = np.asarray(cv2.resize(part, (width, height), interpolation=cv2.INTER_AREA), np.uint8)
    return levels
