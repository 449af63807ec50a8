"""The worst spot of a product, at the result's own resolution: one wrong character on a label is no share of anything.

What is left over after the fit is compared, glyph by glyph, with the error expected just there: what an encoder does to
what is as busy, and what it did to most of this picture.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

from airflow_provider_bgai.imaging.fidelity.fit import SAMPLES, Light, estimated, lit
from airflow_provider_bgai.imaging.fidelity.product import OPAQUE, Placement, Product, at_least, resampled, slopes

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from airflow_provider_bgai.imaging.fidelity.product import Array, Levels

GLYPH = 9  # px, side of a spot
STROKE = 3  # px over which errors are added with their sign: a stroke is of one sign, an encoder's ringing is not
GLANCE = 1.2  # how much worse the worst spot may be than every third one
RIM = 3  # px along the outline that are not looked at: it may be feathered anew
FLOOR = 2.0  # levels, rms over a spot, that are always allowed
DISPLACED = 0.02  # squared px by which an edge may be displaced, after the fit at this resolution
NOISIEST = 8.0  # levels, rms, of noise that is believed of a picture as a whole
UNLIT = 0.004  # light up to which no level is another one, or one by one
FLAT = 3.0  # levels a px below which there is nothing to align
STEPS, NEAR, MOST = 3, 0.2, 2.0  # how often it is moved, from how many px on, and by how many at most
SHADING = 25  # px over which a difference is light, not print
SPARSE = 5  # px: what changes slowly, or only serves a median, is looked at in one of so many each way
LONGEST = 1600  # px a side that are looked at in one piece

Frame = tuple[int, int, int, int]
"""px of the result: left, top, right, bottom."""


@dataclass(frozen=True)
class Spot:
    """How many times the expected error the worst spot differs by, and its middle in px of the result."""

    excess: float
    x: int
    y: int


def worst_spot(product: Product, picture: Levels, placement: Placement, light: Light, enough: float) -> Spot | None:
    """The spot that differs most; None where the product has no inside to look at.

    :param enough: what is below this is not looked at closely; the excess is then the most that it may be.
    """
    left, top, right, bottom = product.tight
    x = math.floor(max(placement.x + left * placement.scale_x, 0.0))
    y = math.floor(max(placement.y + top * placement.scale_y, 0.0))
    across = math.ceil(min(placement.x + right * placement.scale_x, picture.shape[1]))
    down = math.ceil(min(placement.y + bottom * placement.scale_y, picture.shape[0]))
    luma = _luma(product, light)
    spots = [
        _in_frame(product, luma, picture, placement, enough, (start_x, start_y, end_x, end_y))
        for start_y, end_y in _pieces(y, down)
        for start_x, end_x in _pieces(x, across)
    ]
    return max((each for each in spots if each is not None), key=lambda each: each.excess, default=None)


def _luma(product: Product, light: Light) -> Levels:
    """The product's luma in this light: channel by channel, because one that is at its brightest gets no brighter."""
    import cv2
    import numpy as np

    rgb = product.rgb if max(abs(each) for each in light) < UNLIT else lit(product.rgb, light)
    return np.asarray(cv2.cvtColor(rgb, cv2.COLOR_RGB2GRAY))


def _pieces(start: int, end: int) -> list[tuple[int, int]]:
    """Parts of a side that overlap by a spot, so that what a look needs in memory does not grow with the picture."""
    count = max(1, math.ceil((end - start) / LONGEST))
    bounds = [start + (end - start) * number // count for number in range(count + 1)]
    return [(max(start, first - GLYPH), last) for first, last in zip(bounds, bounds[1:], strict=False)]


def _in_frame(
    product: Product, luma: Levels, picture: Levels, placement: Placement, enough: float, frame: Frame
) -> Spot | None:
    """The worst spot of a part of the result."""
    import cv2
    import numpy as np

    x, y, right, bottom = frame
    if min(right - x, bottom - y) < GLYPH:
        return None
    own, solid = _own(product, luma, placement, frame)
    if not cv2.countNonZero(solid):
        return None
    seen = cv2.cvtColor(picture[y:bottom, x:right], cv2.COLOR_RGB2GRAY)
    (excess, across, down), part = _at_a_glance(cv2.bitwise_and(seen, solid), cv2.bitwise_and(own, solid), enough)
    if excess > enough:
        excess, across, down = _as_it_lies(own, seen, solid, part)
    for _ in range(STEPS):
        if excess <= enough:
            break
        closely = _Closely(own, seen, solid)
        spots = _energy(closely.error)
        usual = min(float(np.median(spots[::SPARSE, ::SPARSE][solid[::SPARSE, ::SPARSE] > 0])), NOISIEST**2)
        excess, across, down = _worst(spots, closely.busy, solid, usual)
        if max(abs(value) for value in closely.move) < NEAR:
            break
        placement = _moved(placement, frame, closely.move)
        own, solid = _own(product, luma, placement, frame)
        if not cv2.countNonZero(solid):
            break
    return Spot(excess, x + across, y + down)


def _at_a_glance(seen: Levels, expected: Levels, enough: float) -> tuple[tuple[float, int, int], Frame]:
    """The excess of the worst spot, if no more error is expected than is always allowed, and where it is; roughly.

    And the part in which spots exceed what is enough.
    """
    import cv2
    import numpy as np

    height, width = (side // STROKE * STROKE for side in seen.shape)
    error = cv2.subtract(seen[:height, :width], expected[:height, :width], dtype=cv2.CV_16S)
    reduced = cv2.resize(error, (width // STROKE, height // STROKE), interpolation=cv2.INTER_AREA)
    strokes = reduced.astype(np.float32)
    spots = _mean(cv2.multiply(strokes, strokes), GLYPH // STROKE)
    _, most, _, (across, down) = cv2.minMaxLoc(spots)
    place = STROKE * across + STROKE // 2, STROKE * down + STROKE // 2
    beyond = (spots > (enough * FLOOR / GLANCE) ** 2).astype(np.uint8)
    left, top, wide, high = (STROKE * side for side in cv2.boundingRect(beyond))
    part = max(0, left - GLYPH), max(0, top - GLYPH), left + wide + GLYPH, top + high + GLYPH
    return (GLANCE * math.sqrt(most) / FLOOR, *place), part


def _as_it_lies(own: Levels, seen: Levels, solid: Levels, part: Frame) -> tuple[float, int, int]:
    """The same of a part, exactly, and with the error that is expected of edges: most need no fit to be within it."""
    import cv2
    import numpy as np

    left, top, right, bottom = part
    x, y = max(0, left - GLYPH), max(0, top - GLYPH)  # what spots at the part's edges are made of, too
    around = slice(y, bottom + GLYPH), slice(x, right + GLYPH)
    own, seen, solid = own[around], seen[around], solid[around]
    within = np.zeros_like(solid)
    inner = slice(top - y, bottom - y), slice(left - x, right - x)
    within[inner] = solid[inner]
    error = cv2.copyTo(cv2.subtract(seen, own, dtype=cv2.CV_32F), solid)
    along, down = (cv2.Sobel(own, cv2.CV_32F, *order, ksize=1, scale=0.5) for order in ((1, 0), (0, 1)))
    busy = cv2.copyTo(cv2.add(cv2.multiply(along, along), cv2.multiply(down, down)), solid)
    excess, column, row = _worst(_energy(error), busy, within, 0.0)
    return excess, x + column, y + row


def _worst(spots: Array, busy: Array, solid: Levels, usual: float) -> tuple[float, int, int]:
    """How many times the expected error the worst spot differs by, and where it is."""
    import cv2
    import numpy as np

    allowed = np.float32(FLOOR**2 + usual) + np.float32(DISPLACED) * _mean(busy, GLYPH)
    _, most, _, (across, down) = cv2.minMaxLoc(cv2.divide(spots, allowed), solid)
    return math.sqrt(most), across, down


def _own(product: Product, luma: Levels, placement: Placement, frame: Frame) -> tuple[Levels, Levels]:
    """The product's luma in a frame of the result, and where it is solid there and not at its rim."""
    import cv2
    import numpy as np

    left, top, _, _ = product.box_at(placement)
    width, height = product.size
    box = (
        min(max(0.0, (frame[0] - left) / placement.scale_x), width - 1.0),
        min(max(0.0, (frame[1] - top) / placement.scale_y), height - 1.0),
        max(min(float(width), (frame[2] - left) / placement.scale_x), 1.0),
        max(min(float(height), (frame[3] - top) / placement.scale_y), 1.0),
    )
    size = (frame[2] - frame[0], frame[3] - frame[1])
    side = np.ones((2 * RIM + 1, 2 * RIM + 1), np.uint8)
    alpha = at_least(resampled(product.alpha, box, size), OPAQUE)
    return resampled(luma, box, size), np.asarray(cv2.erode(alpha, side, borderValue=0))


def _moved(placement: Placement, frame: Frame, move: tuple[float, ...]) -> Placement:
    """Moved by (px along x, more of it at the ends, px along y, more of it at the ends) of the frame."""
    x, y, scale_x, scale_y = placement.x, placement.y, placement.scale_x, placement.scale_y
    a, b, c, d = (min(max(value, -MOST), MOST) for value in move)
    wider, higher = 1 + 2 * b / (frame[2] - frame[0]), 1 + 2 * d / (frame[3] - frame[1])
    return Placement(
        frame[0] + a - b + (x - frame[0]) * wider,
        frame[1] + c - d + (y - frame[1]) * higher,
        scale_x * wider,
        scale_y * higher,
    )


class _Closely:
    """What is left over when place, light and sharpness are fitted at the result's resolution."""

    error: Array
    busy: Array  # squared levels per px
    move: tuple[float, ...]

    def __init__(self, levels: Levels, picture: Levels, solid: Levels) -> None:
        import cv2
        import numpy as np

        own: Array = levels.astype(np.float32)
        height, width = own.shape
        slope_x, slope_y = slopes(levels)
        smooth = cv2.boxFilter(levels, cv2.CV_32F, (3, 3), borderType=cv2.BORDER_REPLICATE)
        detail, wider = cv2.subtract(own, smooth), cv2.subtract(smooth, _mean(smooth, 3))
        busy = np.zeros_like(own)
        for each in (slope_x, slope_y, detail, wider):
            cv2.accumulateSquare(each, busy, solid)
        self.busy = busy
        chosen = _samples(busy, solid)
        row = (np.arange(width, dtype=np.float32) + 0.5) / (width / 2) - 1
        column = ((np.arange(height, dtype=np.float32) + 0.5) / (height / 2) - 1)[:, None]
        steep_x, steep_y = slope_x.ravel()[chosen], slope_y.ravel()[chosen]
        level = own.ravel()[chosen]
        reasons = np.stack(
            [
                -steep_x,
                -steep_x * row[chosen % width],
                -steep_y,
                -steep_y * column.ravel()[chosen // width],
                level,
                detail.ravel()[chosen],
                wider.ravel()[chosen],
            ]
        )
        usual = np.sqrt(np.float32(9) + np.float32(2 * DISPLACED) * busy.ravel()[chosen])
        estimate, _ = estimated(reasons, picture.ravel()[chosen] - level, usual)
        self.move = tuple(float(value) for value in estimate[:4])
        a, b, c, d, light, sharper, wider_still = (np.float32(value) for value in estimate)
        # In place: a new array of a megapixel costs more than what is written into it.
        own *= 1 + light
        slope_x *= a + b * row
        slope_y *= c + d * column
        own -= slope_x
        own -= slope_y
        own += np.multiply(detail, sharper, out=slope_x)
        own += np.multiply(wider, wider_still, out=slope_y)
        error = cv2.copyTo(cv2.subtract(picture, np.clip(own, 0, 255, out=own), dtype=cv2.CV_32F), solid)
        self.error = cv2.copyTo(cv2.subtract(error, _shading(error, solid)), solid)


def _samples(busy: Array, solid: Levels) -> NDArray[np.intp]:
    """Pixels to estimate from: where there is something to align, and half as many where there is not."""
    import numpy as np

    width = busy.shape[1]
    steep, inside = busy[::2] > FLAT**2, solid[::2] > 0
    textured, flat = np.flatnonzero(steep), np.flatnonzero(inside & ~steep)
    chosen = np.concatenate([textured[:: max(1, textured.size // SAMPLES)], flat[:: max(1, 4 * flat.size // SAMPLES)]])
    return np.asarray(chosen // width * (2 * width) + chosen % width)


def _shading(error: Array, solid: Levels) -> Array:
    """What differs over a wide area, as light does."""
    import cv2
    import numpy as np

    height, width = error.shape
    size = max(1, width // SPARSE), max(1, height // SPARSE)
    some, known = (cv2.resize(each, size, interpolation=cv2.INTER_AREA) for each in (error, solid))
    share = _mean(known.astype(np.float32), SHADING // SPARSE) / np.float32(255)
    wide = _mean(some, SHADING // SPARSE) / np.maximum(share, np.float32(0.05))
    return np.asarray(cv2.resize(wide, (width, height), interpolation=cv2.INTER_LINEAR))


def _energy(error: Array) -> Array:
    """Squared levels of error around every pixel."""
    import cv2

    along = _mean(error, STROKE)
    return _mean(cv2.multiply(along, along), GLYPH)


def _mean(values: Array, side: int) -> Array:
    import cv2

    return cv2.blur(values, (side, side), borderType=cv2.BORDER_REPLICATE)
