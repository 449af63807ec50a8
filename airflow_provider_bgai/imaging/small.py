"""A large picture made small, without a second large one."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from PIL import Image

_ROWS = 16
# px of the longer side, and up to twice that: twice a thumbnail, so that scaling it down once more stays smooth.
_SKETCH = 320


def sketch(image: Image.Image) -> Image.Image:
    """A decoded picture of any mode as RGBA of some 320 to 640 px, for thumbnails and whatever looks from afar."""
    return reduced(image, max(1, max(image.size) // _SKETCH))


def reduced(image: Image.Image, factor: int) -> Image.Image:
    """A decoded picture of any mode as RGBA, each pixel the mean of ``factor`` x ``factor``. Strip by strip."""
    import numpy as np
    from PIL import Image

    if factor == 1 and image.mode in ("RGB", "RGBA"):
        return image.convert("RGBA")
    size = -(-image.width // factor), -(-image.height // factor)
    small = Image.new("RGBA", size)
    for top in range(0, image.height, _ROWS * factor):
        strip = image.crop((0, top, image.width, min(top + _ROWS * factor, image.height)))
        if strip.mode in ("I;16", "I;16B"):
            strip = Image.fromarray((np.asarray(strip) >> 8).astype(np.uint8))
        elif strip.mode not in ("RGBA", "RGB", "L", "LA", "CMYK") or "transparency" in strip.info:
            strip = strip.convert("RGBA")
        small.paste(strip.reduce(factor).convert("RGBA"), (0, top // factor))
    return small
