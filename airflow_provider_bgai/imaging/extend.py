"""A picture continued beyond its own edges: more wall, more floor, and no second product."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from numpy.typing import NDArray
    from PIL import Image

    Array = NDArray[Any]

# How a picture is continued beyond its edge (see _beyond): share of its width that is mirrored, radius of the blur in
# px per px of distance and, along the seam, as a share of that, and samples of the profile along the seam.
STRIP, BLUR_AWAY, BLUR_ALONG, PROFILE = 0.03, 0.6, 0.2, 129


def extended(picture: Image.Image, frame: tuple[int, int], place: tuple[int, int]) -> Image.Image:
    """The picture at its place in the frame, its edges continued outwards."""
    from PIL import Image

    left, top = place
    wide = _continue_sides(picture, left, frame[0] - left - picture.width)
    turned = wide.transpose(Image.Transpose.TRANSPOSE)
    return _continue_sides(turned, top, frame[1] - top - picture.height).transpose(Image.Transpose.TRANSPOSE)


def _continue_sides(picture: Image.Image, left: int, right: int) -> Image.Image:
    from PIL import Image, ImageOps

    canvas = Image.new("RGB", (left + picture.width + right, picture.height))
    canvas.paste(picture, (left, 0))
    if left:
        canvas.paste(ImageOps.mirror(_beyond(ImageOps.mirror(picture), left)), (0, 0))
    if right:
        canvas.paste(_beyond(picture, right), (left + picture.width, 0))
    return canvas


def _beyond(picture: Image.Image, length: int) -> Image.Image:
    """What could be right of the picture, ``length`` px wide.

    At the seam its last strip, mirrored on and on and ever more blurred, which carries texture over. Farther out that
    fades into the strip's profile: the colours along the seam without what covers less than a third of it, so that a
    wall, a floor and the line between them go on, and a handle that touches the edge does not.
    """
    import numpy as np
    from PIL import Image, ImageFilter

    reach = max(1, round(picture.width * STRIP))
    strip = picture.crop((picture.width - reach, 0, *picture.size))
    mirrored = Image.fromarray(np.pad(np.asarray(strip), ((0, 0), (0, length), (0, 0)), "symmetric"))
    distance = np.arange(length, dtype=np.float32)
    blur = np.log2(1 + np.minimum(distance, 3 * reach) * BLUR_AWAY)
    near = np.zeros((picture.height, length, 3), np.float32)
    for level in range(math.ceil(blur[-1]) + 1):
        share = np.clip(1 - np.abs(blur - level), 0, 1)
        radius = 2**level - 1
        blurred = mirrored.filter(ImageFilter.GaussianBlur((radius, radius * BLUR_ALONG)))
        near += np.asarray(blurred)[:, reach:] * share[:, None]

    profile = np.asarray(strip.resize((1, PROFILE), Image.Resampling.BOX), np.float32)[:, 0]
    plain = np.median(_windows(profile, PROFILE // 3), axis=-1)
    # Light falls off slowly; a product that touches the edge stands out from what lies around it.
    stands_out = (np.abs(profile - plain).max(-1, keepdims=True) > 24).astype(np.float32)
    stands_out = _windows(_windows(stands_out, 4).max(-1), 4).mean(-1).clip(0, 1)
    plain = _windows(profile + (plain - profile) * stands_out, 2).mean(-1)
    along = Image.fromarray((plain[:, None] + 0.5).clip(0, 255).astype(np.uint8))
    far = np.asarray(along.resize((length, picture.height), Image.Resampling.BICUBIC), np.float32)
    fade = np.clip(distance / (3 * reach), 0, 1)
    fade = (fade * fade * (3 - 2 * fade))[:, None]
    return Image.fromarray((near + (far - near) * fade + 0.5).clip(0, 255).astype(np.uint8))


def _windows(samples: Array, reach: int) -> Array:
    """Every sample with its neighbours up to ``reach`` away, on a new last axis. Slopes go on beyond both ends."""
    import numpy as np

    padded = np.pad(samples, [(reach, reach), (0, 0)], "reflect", reflect_type="odd")
    return np.lib.stride_tricks.sliding_window_view(padded, 2 * reach + 1, axis=0)
