"""A large picture made small, without a second large one."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray
    from PIL import Image

    Levels = NDArray[np.uint8]

# Of the small picture that are made at a time; more where they are made of fewer px than these.
_ROWS, _STRIP = 16, 1 << 20
# px of the longer side, and up to twice that: twice a thumbnail, so that scaling it down once more stays smooth.
_SKETCH = 320


def sketch(picture: Image.Image | Levels) -> Image.Image:
    """A decoded picture of some 320 to 640 px, for thumbnails and whatever looks from afar.

    :param picture: of any mode; or its levels, (height, width, 3 or 4), which are made small in a third of the time.
    """
    from PIL import Image

    if isinstance(picture, Image.Image):
        factor = max(1, max(picture.size) // _SKETCH)
        return picture.copy() if factor == 1 and picture.mode in ("RGB", "RGBA") else reduced(picture, factor)
    return Image.fromarray(_reduced_levels(picture, max(1, max(picture.shape) // _SKETCH)))


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


def _reduced_levels(levels: Levels, least: int) -> Levels:
    """The same for RGB and RGBA, by the power of two up to ``least``."""
    import cv2
    import numpy as np

    with_alpha = levels.shape[2] == 4
    small: Any = np.ascontiguousarray(levels)
    if with_alpha:  # or the colour of transparent pixels would bleed into the others
        small = cv2.cvtColor(small, cv2.COLOR_RGBA2mRGBA)
    small = halved(small, least.bit_length() - 1)
    return np.asarray(cv2.cvtColor(small, cv2.COLOR_mRGBA2RGBA) if with_alpha else small, np.uint8)


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
