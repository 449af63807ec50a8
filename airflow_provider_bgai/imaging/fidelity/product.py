"""The product: what of the source counts as its own, where that may lie in a result, and how it looks at any size.

Nothing here has seen a result.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from functools import cached_property
from typing import TYPE_CHECKING, Any

from airflow_provider_bgai.imaging.small import Halves, halved

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray
    from PIL import Image

    Array = NDArray[Any]  # of float32
    Levels = NDArray[Any]  # of uint8

Box = tuple[float, float, float, float]

OPAQUE = 250  # alpha from which a pixel of the source counts as the product's own
MANY = 100_000  # opaque px, of which a part tells the mean colour
FEWEST = 64  # opaque px on the comparing grid, below which nothing can be said
FINE, COARSE = 512, 64  # px, longer side of the product on the grids it is compared and first fitted on
NOISE = 5.0  # levels of luma (of 255) by which an honest re-encoding may differ in a plain area, rms
BEHIND = 3.0  # px of the grid, standard deviation, over which is guessed what lies behind a thin product
SILHOUETTE = 60.0  # levels of contrast assumed between product and background, whose ringing reaches inside


@dataclass(frozen=True)
class Placement:
    """Where the whole source picture lies in the result.

    ``x`` and ``y``: its left and top edge in px of the result, may be negative; ``scale_x`` and ``scale_y``: px of the
    result per px of the source.
    """

    x: float
    y: float
    scale_x: float
    scale_y: float


def require_cut_out(source: Image.Image | Levels) -> None:
    from PIL import Image

    bands = source.getbands() if isinstance(source, Image.Image) else "RGBA"[: source.shape[2]]
    if "".join(bands) != "RGBA":
        raise ValueError(f"the source is {''.join(bands)}, not RGBA: without alpha nobody knows what the product is")


class Product:
    """The part of the source that matters, at whatever size it is asked for."""

    def __init__(self, source: Image.Image | Levels) -> None:
        import cv2
        import numpy as np

        require_cut_out(source)
        self.pixels: Levels = np.asarray(source)
        self.whole = self.pixels.shape[1], self.pixels.shape[0]
        alpha = cv2.extractChannel(self.pixels, 3)
        opaque = at_least(alpha, OPAQUE)
        count = cv2.countNonZero(opaque)
        if count < FEWEST:
            raise ValueError(f"the source has {count} opaque px: too few to compare")
        left, top, width, height = cv2.boundingRect(at_least(alpha, 32))
        self.tight = (left, top, left + width, top + height)
        margin = 2 + max(width, height) // 50  # what is just outside the outline is looked at, too
        # So many px a side go into one px of the finest grid: a whole number, because that is reduced fast.
        self.reduced = math.ceil((max(width, height) + 2 * margin) / FINE)
        right, bottom = (
            before + -(-(side + 2 * margin) // self.reduced) * self.reduced - margin
            for before, side in ((left, width), (top, height))
        )
        self.box = (left - margin, top - margin, right, bottom)
        self.size = (right - left + margin, bottom - top + margin)
        self.cut = self._boxed(self.pixels)
        self.alpha = self._boxed(alpha)  # of the cut
        self.alphas = Halves(self.alpha)
        # Summed with all else black: OpenCV's own mean of a part takes ten times as long. Where there are many, every
        # fourth row tells it as well.
        own = slice(top, top + height, 4 if count > MANY else 1), slice(left, left + width)
        total = cv2.sumElems(cv2.copyTo(self.pixels[own], opaque[own]))
        self.colour = tuple(round(channel / max(1, cv2.countNonZero(opaque[own]))) for channel in total[:3])
        self.grids: dict[tuple[tuple[int, int], bool], Grid] = {}

    def _boxed(self, levels: Levels) -> Levels:
        """The product's box of the source, and what is beyond its frame transparent."""
        import cv2
        import numpy as np

        left, top, right, bottom = self.box
        width, height = self.whole
        part = levels[max(0, top) : bottom, max(0, left) : right]
        beyond = (max(0, -top), max(0, bottom - height), max(0, -left), max(0, right - width))
        if not any(beyond):
            return part
        return np.asarray(cv2.copyMakeBorder(part, *beyond, cv2.BORDER_CONSTANT, value=(0, 0, 0, 0)), np.uint8)

    @cached_property
    def rgb(self) -> Levels:
        """Of the cut, whatever stands below what is transparent."""
        import cv2
        import numpy as np

        return np.asarray(cv2.cvtColor(self.cut, cv2.COLOR_RGBA2RGB))

    @cached_property
    def filled(self) -> Halves:
        """The cut, RGB, and the product's mean colour around it, so that resampling mixes no foreign one in."""
        import cv2
        import numpy as np

        height, width = self.alpha.shape
        row = np.full((1, width, 3), self.colour, np.uint8)
        canvas = np.broadcast_to(row, (height, width, 3)).copy()
        return Halves(np.asarray(cv2.copyTo(self.rgb, at_least(self.alpha, 128), canvas)))

    @cached_property
    def premultiplied(self) -> Halves:
        """The cut, RGB, as dark as it is transparent."""
        import cv2
        import numpy as np

        share = cv2.cvtColor(self.alpha, cv2.COLOR_GRAY2RGB)
        return Halves(np.asarray(cv2.multiply(self.rgb, share, scale=1 / 255), np.uint8))

    def size_at(self, scale: float, longest: int) -> tuple[int, int]:
        """Of the grid on which the product is compared with itself at ``scale`` px per px: that of the smaller one."""
        if longest == FINE and scale >= 1 / self.reduced:
            return self.size[0] // self.reduced, self.size[1] // self.reduced
        scale = min(1.0, scale, longest / max(self.size))
        return max(6, round(self.size[0] * scale)), max(6, round(self.size[1] * scale))

    def grid(self, size: tuple[int, int], *, by_area: bool = False) -> Grid:
        """The product at a size; ``by_area``: as ``resampled`` makes it where whole pixels go into one.

        What it is compared with has to be made in the same way, or hair-thin lines come out in other dashes.
        """
        if (size, by_area) not in self.grids:
            self.grids[size, by_area] = _prepared(self, size, by_area)
        return self.grids[size, by_area]

    def at(self, picture: Halves, size: tuple[int, int], by_area: bool) -> Levels:
        """The cut, or a channel of it, at a size."""
        whole = (0.0, 0.0, float(self.size[0]), float(self.size[1]))
        levels, box = half_for(picture, whole, size, by_area=by_area)
        return resampled(levels, box, size, by_area=by_area)

    @cached_property
    def thin(self) -> bool:
        """Whether it has hardly any inside where it is searched for, so that it has to be looked for more finely."""
        return _compared(self.at(self.alphas, self.size_at(1.0, COARSE * 2), by_area=False))[2]

    def place(self, box: Box, own: tuple[int, int, int, int] | None = None) -> Placement:
        """The placement of the whole source when ``own`` (all that was cut out) fills ``box`` of a result.

        Both are (left, top, right, bottom).
        """
        left, top, right, bottom = own or self.box
        scale_x, scale_y = (box[2] - box[0]) / (right - left), (box[3] - box[1]) / (bottom - top)
        return Placement(box[0] - left * scale_x, box[1] - top * scale_y, scale_x, scale_y)

    def box_at(self, placement: Placement) -> Box:
        left, top, right, bottom = self.box
        return (
            placement.x + left * placement.scale_x,
            placement.y + top * placement.scale_y,
            placement.x + right * placement.scale_x,
            placement.y + bottom * placement.scale_y,
        )


@dataclass(frozen=True)
class Grid:
    """The product at the size at which it is compared: arrays of (height, width)."""

    size: tuple[int, int]
    by_area: bool
    rgb: Levels
    luma: Array
    outline: NDArray[np.bool_]
    mask: NDArray[np.bool_]  # opaque, and away from the outline where there is enough left
    own: NDArray[np.bool_]  # what of it has to be in the frame
    thin: bool  # there is not: it is compared with what lies around it shining through
    slope_x: Array  # levels per px
    slope_y: Array
    detail: Array  # luma less its surroundings, 3 px wide; 0 where faint, because encoders drop that
    wider: Array  # what the surroundings themselves stand out by, about 5 px wide
    steep: float  # squared levels per px inside the outline, on average: how much there is to align
    busy: Array  # squared levels per px: how steep it is here, outline included
    unsure: Array | float = 0.0  # squared levels: how little is known of what shines through


def _prepared(product: Product, size: tuple[int, int], by_area: bool) -> Grid:
    import cv2
    import numpy as np

    alpha = product.at(product.alphas, size, by_area)
    mask, own, thin = _compared(alpha)
    fade = np.zeros(alpha.shape, np.float32)
    for slope in slopes(alpha):
        cv2.accumulateSquare(slope / np.float32(255), fade)
    seen = _looks(product.at(product.filled, size, by_area))
    steep = sum(cv2.norm(seen[slope], cv2.NORM_L2SQR, mask) for slope in ("slope_x", "slope_y"))
    return Grid(
        size=size,
        by_area=by_area,
        outline=fade > 0.3**2,
        mask=mask > 0,
        own=own > 0,
        thin=thin,
        steep=steep / max(1, cv2.countNonZero(mask)),
        **{**seen, "busy": seen["busy"] + np.float32(SILHOUETTE**2) * fade},
    )


def _compared(alpha: Levels) -> tuple[Levels, Levels, bool]:
    """The mask of a grid, what of the product has to be in the frame, and whether it is thin."""
    import cv2
    import numpy as np

    for least in (OPAQUE, 192, 96, 32):  # a thin product is nowhere opaque on a small grid
        mask = at_least(alpha, least)
        count = cv2.countNonZero(mask)
        if count >= FEWEST:
            break
    for erosion in (5, 3):
        inner = cv2.erode(mask, np.ones((erosion, erosion), np.uint8), borderType=cv2.BORDER_REPLICATE)
        if cv2.countNonZero(inner) > max(0.3 * count, FEWEST):
            return np.asarray(inner), np.asarray(inner), False
    # A line is looked at together with what is right beside it, over which encoders spread its colour.
    own = at_least(alpha, 32)
    return np.asarray(cv2.dilate(own, np.ones((5, 5), np.uint8))), own, True


def before(product: Product, grid: Grid, picture: Levels) -> Grid:
    """The product on the grid with what is seen around it in ``picture`` (of the grid's size) shining through."""
    import cv2
    import numpy as np

    def around(levels: Array) -> Array:
        mean = cv2.GaussianBlur(levels * weight, (0, 0), BEHIND)
        return np.asarray(mean) / total

    alpha = product.at(product.alphas, grid.size, grid.by_area)
    through = (255 - alpha.astype(np.float32)[..., None]) / np.float32(255)
    weight = through**4  # what is hardly covered says most of what lies behind
    total = cv2.GaussianBlur(weight, (0, 0), BEHIND)[..., None] + np.float32(1e-4)
    levels = picture.astype(np.float32)
    behind = around(levels)
    spread = np.maximum(around(levels**2) - behind**2, 0).mean(-1)
    expected = product.at(product.premultiplied, grid.size, grid.by_area) + through * behind
    looks = _looks(np.clip(expected + np.float32(0.5), 0, 255).astype(np.uint8))
    return replace(grid, unsure=through[..., 0] ** 2 * spread, **looks)


def _looks(rgb: Levels) -> dict[str, Any]:
    """A picture, and what a fit needs to know of it."""
    import cv2
    import numpy as np

    grey = cv2.cvtColor(rgb, cv2.COLOR_RGB2GRAY)
    luma = grey.astype(np.float32)
    slope_x, slope_y = slopes(grey)
    smooth = cv2.boxFilter(grey, cv2.CV_32F, (3, 3), borderType=cv2.BORDER_REPLICATE)
    smoother = cv2.blur(smooth, (3, 3), borderType=cv2.BORDER_REPLICATE)
    detail, wider = (_clear(each) for each in (luma - smooth, smooth - smoother))
    busy = np.zeros_like(luma)
    for each in (slope_x, slope_y, detail, wider):
        cv2.accumulateSquare(each, busy)
    return {
        "rgb": rgb,
        "luma": luma,
        "slope_x": slope_x,
        "slope_y": slope_y,
        "detail": detail,
        "wider": wider,
        "busy": busy,
    }


def _clear(values: Array) -> Array:
    """0 where less than ``NOISE``."""
    import numpy as np

    return np.asarray(values * (np.abs(values) >= np.float32(NOISE - 1e-3)))  # of ninths, which are rounded


def half_for(picture: Halves, box: Box, size: tuple[int, int], *, by_area: bool = True) -> tuple[Levels, Box]:
    """The smallest of the halves of which a box can be ``resampled`` to a size, and the box in it."""
    if by_area and whole_pixels(box, size):
        return picture.levels, box
    times = _halvings(box, size)
    left, top, right, bottom = (side / 2**times for side in box)
    return picture.halved(times), (left, top, right, bottom)


def _halvings(box: Box, size: tuple[int, int]) -> int:
    """How often a picture is halved while the box in it is still twice as large as wanted."""
    step = max((box[2] - box[0]) / size[0], (box[3] - box[1]) / size[1])
    return max(0, math.floor(math.log2(step) - 1))


def resampled(levels: Levels, box: Box, size: tuple[int, int], *, by_area: bool = True) -> Levels:
    """A box (left, top, right, bottom; within the picture, may be fractions of px) of a picture at another size.

    :param by_area: the mean of as many pixels as go into one, where these are whole ones: fast.
    """
    import cv2
    import numpy as np
    from PIL import Image

    if by_area and whole_pixels(box, size):
        left, top, right, bottom = (int(side) for side in box)
        part = levels[top:bottom, left:right]
        if size == (right - left, bottom - top):
            return part
        return np.asarray(cv2.resize(part, size, interpolation=cv2.INTER_AREA), np.uint8)
    # Pillow converts all it is given: what the filter reaches, and halved while that is still twice as large.
    step = max((box[2] - box[0]) / size[0], (box[3] - box[1]) / size[1])
    reach, times = math.ceil(2 * step) + 2, _halvings(box, size)
    x, y = max(0, math.floor(box[0]) - reach), max(0, math.floor(box[1]) - reach)
    part = levels[y : math.ceil(box[3]) + reach, x : math.ceil(box[2]) + reach]
    part = halved(part, times)
    left, top, right, bottom = ((side - start) / 2**times for side, start in zip(box, (x, y, x, y), strict=True))
    inner = left, top, min(right, part.shape[1]), min(bottom, part.shape[0])
    return np.asarray(Image.fromarray(part).resize(size, Image.Resampling.BICUBIC, inner))


def whole_pixels(box: Box, size: tuple[int, int]) -> bool:
    """Whether a whole number of pixels of the box goes into each of the size."""
    return all(side == int(side) for side in box) and (box[2] - box[0]) % size[0] == (box[3] - box[1]) % size[1] == 0


def at_least(levels: Levels, least: int) -> Levels:
    """255 where a level is reached, else 0."""
    import cv2
    import numpy as np

    return np.asarray(cv2.threshold(levels, least - 1, 255, cv2.THRESH_BINARY)[1])


def slopes(values: Array | Levels) -> tuple[Array, Array]:
    """Central differences along x and y, of float32; of whole levels they are made in a third of the time."""
    import cv2

    along = cv2.Sobel(values, cv2.CV_32F, 1, 0, ksize=1, scale=0.5, borderType=cv2.BORDER_REPLICATE)
    down = cv2.Sobel(values, cv2.CV_32F, 0, 1, ksize=1, scale=0.5, borderType=cv2.BORDER_REPLICATE)
    return along, down
