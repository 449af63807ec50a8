"""The product's place in a result with what is around it, small: colours, what is the product's, what is in frame."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any

from airflow_provider_bgai.imaging.small import halved

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from airflow_provider_bgai.imaging.fidelity.product import Array, Placement, Product

    Mask = NDArray[np.bool_]
    Levels = NDArray[np.uint8]

Outline = tuple[tuple[int, int], ...]
"""Corners of a polygon, in thousandths of the result's width and height."""

SIZE, ENLARGED = 240, 1.5  # px, longer side of the product in the view, for which it is enlarged so many times at most
AROUND = 0.4  # of it: what is seen on each side
PAST = 8  # px of the view beyond the result's frame, where it is nearer
FEWEST = 24  # px of the product in the result, below which nothing is looked for around it
ALIKE = 7.0  # CIELAB: up to which a colour counts as the same


@dataclass(frozen=True)
class Surroundings:
    """A view of the result: the product, and on each side ``AROUND`` of its size, or what the frame leaves of that."""

    rgb: Levels
    alpha: Levels  # the cut-out's, where it lies
    within: Mask  # in the result's frame
    size: int  # px of the view, longer side of the product
    corner: tuple[float, float]  # of the view, in px of the result
    step: tuple[float, float]  # px of the result per px of the view
    frame: tuple[int, int]  # px: the result's size

    @cached_property
    def colours(self) -> Array:
        """L*, a*, b*."""
        return lab(self.rgb)

    @cached_property
    def outside(self) -> Mask:
        return (self.alpha < 8) & self.within

    @cached_property
    def around(self) -> Mask:
        """Outside, and not seen through the product's openings."""
        import cv2
        import numpy as np

        solid = (self.alpha > 127).astype(np.uint8)
        contours, _ = cv2.findContours(solid, cv2.RETR_EXTERNAL, cv2.CHAIN_APPROX_NONE)
        return self.outside & (cv2.drawContours(solid, contours, -1, 1, cv2.FILLED) == 0)

    @cached_property
    def smooth(self) -> Array:
        """L*, a*, b* less the grain."""
        import cv2
        import numpy as np

        return np.asarray(cv2.GaussianBlur(self.colours, (0, 0), 0.7), np.float32)

    @cached_property
    def slope(self) -> Array:
        """CIELAB a px."""
        import cv2
        import numpy as np

        along, down = (cv2.Sobel(self.smooth, cv2.CV_32F, *order, scale=0.125) for order in ((1, 0), (0, 1)))
        squares = cv2.accumulateSquare(down, cv2.multiply(along, along))
        return np.asarray(cv2.sqrt(cv2.transform(squares, np.ones((1, 3), np.float32))))  # numpy is slow along 3

    @cached_property
    def far(self) -> Array:
        """Px from the product; 0 inside."""
        import cv2
        import numpy as np

        return np.asarray(cv2.distanceTransform((self.alpha <= 127).astype(np.uint8), cv2.DIST_L2, 5), np.float32)

    def sampled(self, points: NDArray[Any], normals: Array, steps: Sequence[float]) -> tuple[Array, Array, Mask]:
        """L*, a*, b*, alpha and whether it is in the frame, at these px along the normal of each point."""
        import cv2
        import numpy as np

        x, y = (
            np.ascontiguousarray(
                (points[:, axis, None] + normals[:, axis, None] * np.array(steps, np.float32)).astype(np.float32)
            )
            for axis in (0, 1)
        )
        colours = cv2.remap(self.rgb, x, y, cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE)
        alpha = cv2.remap(self.alpha, x, y, cv2.INTER_LINEAR)
        within = cv2.remap(self.within.astype(np.uint8), x, y, cv2.INTER_NEAREST)
        return lab(np.asarray(colours)), np.asarray(alpha, np.float32), np.asarray(within > 0)

    def elsewhere(self, part: Mask, alike: float = ALIKE) -> float:
        """The share of the surroundings, away from this part, that has its colour up to ``alike`` (CIELAB)."""
        import cv2
        import numpy as np

        around = self.outside & (cv2.dilate(part.astype(np.uint8), np.ones((9, 9), np.uint8)) == 0)
        around &= cv2.dilate(self.alpha, np.ones((9, 9), np.uint8)) < 8
        others = self.colours[around]
        if not len(others):
            return 0.0
        colour = np.median(self.colours[part], axis=0)
        return float((difference(others[:: math.ceil(len(others) / 3000)], colour) < alike).mean())

    def outlines(self, mask: Mask) -> Iterator[Outline]:
        """Of what is in a mask: polygons in thousandths of the result's sides, the largest first, a dozen at most."""
        import cv2
        import numpy as np

        closed = cv2.morphologyEx(mask.astype(np.uint8), cv2.MORPH_CLOSE, np.ones((5, 5), np.uint8))
        contours, _ = cv2.findContours(closed, cv2.RETR_EXTERNAL, cv2.CHAIN_APPROX_SIMPLE)
        for contour in sorted(contours, key=cv2.contourArea, reverse=True)[:12]:
            corners = cv2.approxPolyDP(contour, 1.0, True)[:, 0]
            corners = corners[:: math.ceil(len(corners) / 40)]
            if len(corners) >= 3:
                yield tuple(self._thousandths(x + 0.5, y + 0.5) for x, y in corners)

    def _thousandths(self, x: float, y: float) -> tuple[int, int]:
        place = (self.corner[axis] + (x, y)[axis] * self.step[axis] for axis in (0, 1))
        across, down = (
            min(1000, max(0, round(1000 * each / side))) for each, side in zip(place, self.frame, strict=True)
        )
        return across, down


def looked_around(product: Product, picture: Levels, placement: Placement) -> Surroundings | None:
    """The view; None where the product is too small in the result to look around it."""
    import numpy as np

    left, top, right, bottom = product.box_at(placement)
    longest = max(right - left, bottom - top)
    if longest < FEWEST:
        return None
    scale = min(ENLARGED, SIZE / longest)
    width, height = max(4, round((right - left) * scale)), max(4, round((bottom - top) * scale))
    step = (right - left) / width, (bottom - top) / height
    to_frame = (
        left / step[0],
        (picture.shape[1] - right) / step[0],
        top / step[1],
        (picture.shape[0] - bottom) / step[1],
    )
    most = math.ceil(AROUND * max(width, height))
    before_x, after_x, before_y, after_y = (min(most, max(0, math.ceil(each) + PAST)) for each in to_frame)
    corner = left - before_x * step[0], top - before_y * step[1]
    size = before_x + width + after_x, before_y + height + after_y
    inside = [
        (places >= 0) & (places <= side)
        for places, side in (
            (corner[axis] + (np.arange(size[axis]) + 0.5) * step[axis], picture.shape[1 - axis]) for axis in (0, 1)
        )
    ]
    own = shrunk(product.alpha, (width, height))
    return Surroundings(
        rgb=_window(picture, corner, step, size),
        alpha=np.pad(own, ((before_y, after_y), (before_x, after_x))),
        within=inside[1][:, None] & inside[0][None],
        size=max(width, height),
        corner=corner,
        step=step,
        frame=(picture.shape[1], picture.shape[0]),
    )


def _window(picture: Levels, corner: tuple[float, float], step: tuple[float, float], size: tuple[int, int]) -> Levels:
    """A part of a picture at another size; beyond the frame its rim goes on."""
    import cv2
    import numpy as np

    whole = max(1, round(min(step)))  # reduced by a whole number first, because bilinear samples would skip px
    first = [max(0, math.floor(corner[axis]) - whole) for axis in (0, 1)]
    last = [
        min(picture.shape[1 - axis], math.ceil(corner[axis] + size[axis] * step[axis]) + 2 * whole) for axis in (0, 1)
    ]
    part = picture[first[1] : last[1], first[0] : last[0]]
    if whole > 1:
        part = reduced(part, whole)
    rows = [
        [step[0] / whole, 0, (corner[0] + step[0] / 2 - first[0]) / whole - 0.5],
        [0, step[1] / whole, (corner[1] + step[1] / 2 - first[1]) / whole - 0.5],
    ]
    flags = cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP
    seen = cv2.warpAffine(part, np.array(rows), size, flags=flags, borderMode=cv2.BORDER_REPLICATE)
    return np.asarray(seen, np.uint8)


def reduced(levels: Levels, factor: int) -> Levels:
    """A picture so many times smaller, each px a mean. What is left over at its far edges is dropped."""
    import cv2
    import numpy as np

    times = (factor & -factor).bit_length() - 1
    levels, factor = halved(levels, times), factor >> times
    if factor == 1:
        return levels
    height, width = (max(1, side // factor) for side in levels.shape[:2])
    part = levels[: height * factor, : width * factor]
    return np.asarray(cv2.resize(part, (width, height), interpolation=cv2.INTER_AREA), np.uint8)


def shrunk(levels: Levels, size: tuple[int, int]) -> Levels:
    """A picture at a size (width, height) that is smaller: by halves first, which drops a few px at its far edges."""
    import cv2
    import numpy as np

    factor = min(levels.shape[1] // size[0], levels.shape[0] // size[1]) // 2
    levels = halved(levels, max(0, factor.bit_length() - 1))
    return np.asarray(cv2.resize(levels, size, interpolation=cv2.INTER_AREA), np.uint8)


def difference(first: Array, second: Array) -> Array:
    """CIE76 of L*, a*, b* (last axis); plain, because it only says whether there is an edge."""
    import numpy as np

    return np.asarray(np.sqrt(squared(first - second)))


def squared(vectors: Array) -> Array:
    """The sum of the squares of three (last axis); numpy is slow along so few."""
    import numpy as np

    x, y, z = (vectors[..., axis] for axis in range(3))
    return np.asarray(x * x + y * y + z * z)


def lab(rgb: NDArray[Any]) -> Array:
    import cv2
    import numpy as np

    return np.asarray(cv2.cvtColor(rgb.astype(np.float32) / np.float32(255), cv2.COLOR_RGB2LAB))
