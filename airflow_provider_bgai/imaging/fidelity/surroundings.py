"""The product's place in a result with what is around it, small: colours, which of it is the product's, what is seen."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray
    from PIL import Image

    from airflow_provider_bgai.imaging.fidelity.product import Array, Placement, Product

    Mask = NDArray[np.bool_]

LEAST, LONGEST = 96, 208  # px, longer side of the product in the view
AROUND = 0.4  # of it: what is seen on each side
FEWEST = 24  # px of the product in the result, below which nothing is looked for around it
ALIKE = 7.0  # CIELAB: up to which a colour counts as the same


@dataclass(frozen=True)
class Surroundings:
    """A view of the result: the product, and on each side ``AROUND`` of its size."""

    rgb: NDArray[np.uint8]
    alpha: NDArray[np.uint8]  # the cut-out's, where it lies
    within: Mask  # in the result's frame
    size: int  # px of the view, longer side of the product
    corner: tuple[float, float]  # of the view, in px of the result
    step: tuple[float, float]  # px of the result per px of the view
    frame: tuple[int, int]  # px: the result's size

    @cached_property
    def colours(self) -> Array:
        """L*, a*, b*."""
        return _lab(self.rgb)

    @cached_property
    def outside(self) -> Mask:
        return (self.alpha < 8) & self.within

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
        return _lab(colours), alpha, within > 0

    def elsewhere(self, part: Mask) -> float:
        """The share of the surroundings, away from this part, that has its colour."""
        import cv2
        import numpy as np

        around = self.outside & (cv2.dilate(part.astype(np.uint8), np.ones((9, 9), np.uint8)) == 0)
        around &= cv2.dilate(self.alpha, np.ones((9, 9), np.uint8)) < 8
        others = self.colours[around]
        if not len(others):
            return 0.0
        colour = np.median(self.colours[part], axis=0)
        return float((difference(others[:: math.ceil(len(others) / 3000)], colour) < ALIKE).mean())

    def outlines(self, mask: Mask) -> Iterator[tuple[tuple[int, int], ...]]:
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


def looked_around(product: Product, picture: Image.Image, placement: Placement) -> Surroundings | None:
    """The view; None where the product is too small in the result to look around it."""
    import numpy as np
    from PIL import Image

    left, top, right, bottom = product.box_at(placement)
    longest = max(right - left, bottom - top)
    if longest < FEWEST:
        return None
    scale = min(max(1.0, LEAST / longest), LONGEST / longest)
    width, height = max(4, round((right - left) * scale)), max(4, round((bottom - top) * scale))
    margin = math.ceil(AROUND * max(width, height))
    step = (right - left) / width, (bottom - top) / height
    corner = left - margin * step[0], top - margin * step[1]
    shape = height + 2 * margin, width + 2 * margin
    # What of the view lies in the frame, in whole px of the view.
    first = [max(0, math.ceil(-corner[axis] / step[axis])) for axis in (0, 1)]
    last = [
        min(shape[1 - axis], math.floor((side - corner[axis]) / step[axis])) for axis, side in enumerate(picture.size)
    ]
    if last[0] - first[0] < 8 or last[1] - first[1] < 8:
        return None
    box = tuple(corner[axis] + end[axis] * step[axis] for end in (first, last) for axis in (0, 1))
    inside = (max(0.0, box[0]), max(0.0, box[1]), min(float(picture.width), box[2]), min(float(picture.height), box[3]))
    size = last[0] - first[0], last[1] - first[1]
    seen = np.asarray(picture.resize(size, Image.Resampling.BICUBIC, inside, reducing_gap=2))
    rest = ((first[1], shape[0] - last[1]), (first[0], shape[1] - last[0]))
    within = np.pad(np.ones(seen.shape[:2], bool), rest)
    own = product.cut.getchannel("A").resize((width, height), Image.Resampling.BOX, reducing_gap=2)
    return Surroundings(
        rgb=np.pad(seen, (*rest, (0, 0)), mode="edge"),
        alpha=np.pad(np.asarray(own), margin),
        within=within,
        size=max(width, height),
        corner=corner,
        step=step,
        frame=picture.size,
    )


def difference(first: Array, second: Array) -> Array:
    """CIE76 of L*, a*, b* (last axis); plain, because it only says whether there is an edge."""
    import numpy as np

    return np.asarray(np.sqrt(((first - second) ** 2).sum(-1)))


def _lab(rgb: NDArray[np.uint8]) -> Array:
    import cv2
    import numpy as np

    return np.asarray(cv2.cvtColor(rgb.astype(np.float32) / np.float32(255), cv2.COLOR_RGB2LAB))
