"""The product: what of the source counts as its own, where that may lie in a result, and how it looks at any size.

Nothing here has seen a result.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray
    from PIL import Image

    Array = NDArray[np.floating[Any]]

Box = tuple[float, float, float, float]

OPAQUE = 250  # alpha from which a pixel of the source counts as the product's own
FEWEST = 64  # opaque px on the comparing grid, below which nothing can be said
NOISE = 5.0  # levels of luma (of 255) by which an honest re-encoding may differ in a plain area, rms
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


def require_cut_out(source: Image.Image) -> None:
    if source.mode != "RGBA":
        raise ValueError(f"the source is {source.mode}, not RGBA: without alpha nobody knows what the product is")


class Product:
    """The part of the source that matters, at whatever size it is asked for."""

    def __init__(self, source: Image.Image) -> None:
        from PIL import Image

        require_cut_out(source)
        self.whole = source.size
        alpha = source.getchannel("A")
        count = _at_least(alpha, OPAQUE).histogram()[255]
        if count < FEWEST:
            raise ValueError(f"the source has {count} opaque px: too few to compare")
        box = _at_least(alpha, 32).getbbox()
        assert box is not None
        self.tight = box
        margin = 2 + max(box[2] - box[0], box[3] - box[1]) // 50  # what is just outside the outline is looked at, too
        self.box = (box[0] - margin, box[1] - margin, box[2] + margin, box[3] + margin)
        self.cut = source.crop(self.box)
        self.size = self.cut.size
        colour = self.cut.resize((1, 1), Image.Resampling.BOX).getpixel((0, 0))
        assert isinstance(colour, tuple)
        self.colour = colour[:3]
        self.grids: dict[tuple[int, int], Grid] = {}

    def size_at(self, scale: float, longest: int) -> tuple[int, int]:
        """Of the grid on which the product is compared with itself at ``scale`` px per px: that of the smaller one."""
        scale = min(1.0, scale, longest / max(self.size))
        return max(6, round(self.size[0] * scale)), max(6, round(self.size[1] * scale))

    def grid(self, size: tuple[int, int]) -> Grid:
        if size not in self.grids:
            self.grids[size] = _prepare(self.cut, size, self.colour)
        return self.grids[size]

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
    rgb: Image.Image
    luma: Array
    outline: NDArray[np.bool_]
    mask: NDArray[np.bool_]  # opaque, and away from the outline where there is enough left
    slope_x: Array  # levels per px
    slope_y: Array
    detail: Array  # luma less its surroundings, 3 px wide; 0 where faint, because encoders drop that
    wider: Array  # what the surroundings themselves stand out by, about 5 px wide
    plain: bool  # hardly anything to see inside the outline
    busy: Array  # squared levels per px: how steep it is here, outline included


def _prepare(cut: Image.Image, size: tuple[int, int], colour: tuple[int, ...]) -> Grid:
    import numpy as np
    from PIL import Image, ImageFilter

    small = cut if cut.size == size else cut.resize(size, Image.Resampling.BICUBIC, reducing_gap=3)
    alpha = small.getchannel("A")
    for least in (OPAQUE, 192, 96):  # a thin product is nowhere opaque on a small grid
        mask = _at_least(alpha, least)
        count = mask.histogram()[255]
        if count >= FEWEST:
            break
    contrast = 2.5 * SILHOUETTE  # where all of a thin product is near its outline
    for erosion in (5, 3):
        inner = mask.filter(ImageFilter.MinFilter(erosion))
        if inner.histogram()[255] > max(0.3 * count, FEWEST):
            mask, contrast = inner, SILHOUETTE
            break
    filled = Image.new("RGB", size, colour)
    filled.paste(small, mask=small)
    luma = np.asarray(filled.convert("L"), np.float32)
    slope_x, slope_y = slopes(luma)
    fade_x, fade_y = slopes(np.asarray(alpha, np.float32) / 255)
    fade = fade_x**2 + fade_y**2
    smooth = _smooth(luma)
    detail, wider = (
        np.where(np.abs(each) < NOISE, np.float32(0), each) for each in (luma - smooth, smooth - _smooth(smooth))
    )
    busy = slope_x**2 + slope_y**2 + detail**2 + wider**2 + np.float32(contrast**2) * fade
    return Grid(
        size=size,
        rgb=filled,
        luma=luma,
        outline=fade > 0.3**2,
        mask=np.asarray(mask) > 0,
        slope_x=slope_x,
        slope_y=slope_y,
        plain=float(np.mean((slope_x**2 + slope_y**2)[np.asarray(mask) > 0])) < 1.0,
        detail=detail,
        wider=wider,
        busy=busy,
    )


def _at_least(alpha: Image.Image, least: int) -> Image.Image:
    return alpha.point([0] * least + [255] * (256 - least))


def slopes(values: Array) -> tuple[Array, Array]:
    """Central differences along x and y, 0 at the borders."""
    import numpy as np

    along, down = np.zeros_like(values), np.zeros_like(values)
    along[:, 1:-1] = (values[:, 2:] - values[:, :-2]) / 2
    down[1:-1] = (values[2:] - values[:-2]) / 2
    return along, down


def _smooth(values: Array) -> Array:
    """Mean over 3 x 3, borders repeated."""
    import numpy as np

    padded = np.pad(values, 1, mode="edge")
    rows = padded[:-2] + padded[1:-1] + padded[2:]
    return (rows[:, :-2] + rows[:, 1:-1] + rows[:, 2:]) / np.float32(9)
