"""Is the product still the product? Finds the cut-out in what a vendor made of it, and compares the opaque pixels.

A vendor may encode anew, resample, sharpen a little, change the light a little, scale and move the product: all that
is estimated and allowed for. What is left over beyond the error expected of it is an alteration.

What is not seen: anything outside the product's outline (a shadow, but also a product painted larger than it is),
and what is translucent in the source. Where a product is shown at less than some 64 px, heavy re-encoding (JPEG below
quality 85) may pass for an alteration.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator
from dataclasses import asdict, dataclass, replace
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray
    from PIL import Image

    Array = NDArray[np.floating[Any]]

Box = tuple[float, float, float, float]

HIGHEST_PSNR = 60.0  # dB, for no difference at all, too
OPAQUE = 250  # alpha from which a pixel of the source counts as the product's own
FEWEST = 64  # opaque px on the comparing grid, below which nothing can be said
FINE, COARSE = 512, 64  # px, longer side of the product on the grids it is compared and first fitted on
CELLS = 56  # cells along the product's longer side
SEARCH = 112  # px, longer side of the result in the search
NOISE = 5.0  # levels of luma (of 255) by which an honest re-encoding may differ in a plain area, rms
EXCESS = 1.25  # times the expected error, rms, from which a spot counts as altered
SLACK = 0.3  # px by which an honest resampling may displace an edge on the grid
FRAME = 6  # px around the small result in the search
STEEPEST = 0.25  # of the range a px, from which one edge is as good as any other in the search
SMALLEST = 0.14  # of the result's longer side: a product is not searched for below this size
GREY = 4.0  # chroma (CIELAB) up to which a colour hardly has a hue
BLANK = 1.5  # levels, standard deviation of luma below which a picture shows nothing
SILHOUETTE = 60.0  # levels of contrast assumed between product and background, whose ringing reaches inside


@dataclass(frozen=True)
class Thresholds:
    """The limits beyond which a picture is unfaithful.

    :param min_psnr: dB over the compared pixels, 0 to 60; only a floor, because re-encoding and light lower it too.
    :param max_delta_e: mean CIEDE2000 over the product after allowing for light, 0 to 100; 1 is just visible.
    :param max_delta_e_local: the same, exceeded by the worst hundredth of the product (at least 3 cells).
    :param max_hue: degrees by which the product's colours are turned as a whole, 0 to 180.
    :param max_altered: share of the product that differs by more than resampling and encoding explain, 0 to 1.
    :param max_light: change of brightness, as a share; 0.1 lets the product be a tenth lighter or darker.
    :param min_sharpness: detail kept over the whole product, 1 as in the source, 0 none.
    :param max_stretch: change of proportions, as a share: |width / height - 1|.
    :param min_coverage: share of the product that lies inside the result's frame, 0 to 1.
    """

    min_psnr: float = 18.0
    max_delta_e: float = 3.5
    max_delta_e_local: float = 10.0
    max_hue: float = 4.0
    max_altered: float = 0.003
    max_light: float = 0.1
    min_sharpness: float = 0.3
    max_stretch: float = 0.02
    min_coverage: float = 0.985

    def __post_init__(self) -> None:
        for name, value in asdict(self).items():
            if not 0 <= value < math.inf:
                raise ValueError(f"{name} is {value!r}; it must be 0 or more")


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


@dataclass(frozen=True)
class Verdict:
    """What was found. The numbers are those that ``Thresholds`` limits; None where no product was found at all."""

    faithful: bool
    reasons: tuple[str, ...]
    placement: Placement | None = None
    psnr: float | None = None
    delta_e: float | None = None
    delta_e_local: float | None = None
    hue: float | None = None
    altered: float | None = None
    light: float | None = None
    sharpness: float | None = None
    stretch: float | None = None
    coverage: float | None = None

    def as_dict(self) -> dict[str, Any]:
        """For JSON."""
        return asdict(self)


def compare(
    source: Image.Image,
    result: Image.Image,
    *,
    hint: tuple[int, int, int, int] | None = None,
    thresholds: Thresholds = Thresholds(),
) -> Verdict:
    """Find the product of a cut-out in a result and say whether it is unchanged.

    :param source: the cut-out, RGBA, upright sRGB with straight alpha.
    :param result: any picture; where it is transparent, it counts as grey.
    :param hint: (x, y, width, height) in px of the product in the result as the vendor tells it; tried, not believed.
    :raises ValueError: if the source is not RGBA or has hardly any opaque pixel.
    """
    product = _Product(source)
    picture = _opaque(result)
    if _same_pixels(source, picture):
        placement = Placement(0.0, 0.0, 1.0, 1.0)
        nothing = dict.fromkeys(("delta_e", "delta_e_local", "hue", "altered", "light", "stretch"), 0.0)
        return Verdict(True, (), placement, psnr=HIGHEST_PSNR, sharpness=1.0, coverage=1.0, **nothing)
    fits: list[_Fit] = []
    for placement in _likely(product, picture, hint):
        # The exact placement first: a result that needs no fitting is not to be moved by a hundredth of a pixel.
        fit = _fit(product, picture, placement, FINE)
        verdict = _judge(fit, thresholds)
        if verdict.faithful:
            return verdict
        fits.append(fit)
    rough = sorted((_fit(product, picture, each, COARSE) for each in _search(product, picture, fits)), key=_misfit)
    if not rough:
        return Verdict(False, (f"the result is too small to show the product: {result.width} x {result.height} px",))
    refined = min((_refined(product, picture, each) for each in rough[:5]), key=_misfit)
    fits.append(_polished(product, picture, refined))
    return _judge(min(fits, key=_misfit), thresholds)


def paste_back(source: Image.Image, result: Image.Image, placement: Placement) -> Image.Image:
    """The result with the source's own pixels over the vendor's, blended by their alpha.

    At scale 1 and a whole-pixel place, opaque pixels are the source's bit by bit. Else the source is resampled,
    which Pillow does with premultiplied alpha, so that the colour of transparent pixels leaves no halo.

    :raises ValueError: if the source is not RGBA, or lies wholly outside the result.
    """
    from PIL import Image

    _require_cut_out(source)
    left, top = math.floor(placement.x), math.floor(placement.y)
    right = math.ceil(placement.x + source.width * placement.scale_x)
    bottom = math.ceil(placement.y + source.height * placement.scale_y)
    if right <= 0 or bottom <= 0 or left >= result.width or top >= result.height:
        raise ValueError(f"the source would lie outside the result of {result.width} x {result.height} px")
    layer = source
    if (right - left, bottom - top) != source.size or (left, top) != (placement.x, placement.y):
        margin = 2 + math.ceil(2 / min(placement.scale_x, placement.scale_y))
        padded = Image.new("RGBA", (source.width + 2 * margin, source.height + 2 * margin))
        padded.paste(source, (margin, margin))
        box = (
            margin + (left - placement.x) / placement.scale_x,
            margin + (top - placement.y) / placement.scale_y,
            margin + (right - placement.x) / placement.scale_x,
            margin + (bottom - placement.y) / placement.scale_y,
        )
        layer = padded.resize((right - left, bottom - top), Image.Resampling.BICUBIC, box)
    has_alpha = "A" in result.getbands() or "transparency" in result.info
    canvas = result.convert("RGBA" if has_alpha else "RGB")
    if not has_alpha:
        canvas.paste(layer, (left, top), layer)
        return canvas
    over = Image.new("RGBA", canvas.size)
    over.paste(layer, (left, top))
    return Image.alpha_composite(canvas, over)


def delta_e(first: Array, second: Array) -> Array:
    """CIEDE2000 between two arrays of L*, a*, b* (last axis).

    Source: G. Sharma, W. Wu, E. N. Dalal, The CIEDE2000 Color-Difference Formula, Color Research and Application
    30 (2005) 21-30, equations 2 to 22.
    """
    import numpy as np

    l1, a1, b1 = np.moveaxis(first, -1, 0)
    l2, a2, b2 = np.moveaxis(second, -1, 0)
    mean7 = ((np.hypot(a1, b1) + np.hypot(a2, b2)) / 2) ** 7
    stretched = 1.5 - 0.5 * np.sqrt(mean7 / (mean7 + 25.0**7))
    a1, a2 = a1 * stretched, a2 * stretched
    c1, c2 = np.hypot(a1, b1), np.hypot(a2, b2)
    h1, h2 = np.degrees(np.arctan2(b1, a1)) % 360, np.degrees(np.arctan2(b2, a2)) % 360
    grey = c1 * c2 == 0
    turn = np.where(grey, 0, (h2 - h1 + 180) % 360 - 180)
    # Opposite hues are half a turn apart both ways; the paper takes the positive one where h2 - h1 is 180.
    turn = np.where((turn == -180) & (h2 > h1), 180, turn)
    hue_difference = 2 * np.sqrt(c1 * c2) * np.sin(np.radians(turn / 2))
    total = h1 + h2
    far = np.abs(h1 - h2) > 180
    mean_hue = np.where(grey, total, np.where(far, np.where(total < 360, total + 360, total - 360), total) / 2)
    mean_l, mean_c = (l1 + l2) / 2, (c1 + c2) / 2
    t = (
        1
        - 0.17 * np.cos(np.radians(mean_hue - 30))
        + 0.24 * np.cos(np.radians(2 * mean_hue))
        + 0.32 * np.cos(np.radians(3 * mean_hue + 6))
        - 0.20 * np.cos(np.radians(4 * mean_hue - 63))
    )
    rotation = np.sin(np.radians(60 * np.exp(-(((mean_hue - 275) / 25) ** 2))))
    weight = 2 * np.sqrt(mean_c**7 / (mean_c**7 + 25.0**7))
    light = (l2 - l1) / (1 + 0.015 * (mean_l - 50) ** 2 / np.sqrt(20 + (mean_l - 50) ** 2))
    chroma = (c2 - c1) / (1 + 0.045 * mean_c)
    hue = hue_difference / (1 + 0.015 * mean_c * t)
    squared = light**2 + chroma**2 + hue**2 - rotation * weight * chroma * hue
    return np.asarray(np.sqrt(np.maximum(squared, 0)))


def _lab(rgb: Array) -> Array:
    """CIE L*a*b* (D65) of sRGB levels 0 to 255 (last axis). Source: IEC 61966-2-1; CIE 15."""
    import numpy as np

    value = np.clip(rgb / 255, 0, 1)
    linear = np.where(value <= 0.04045, value / 12.92, ((value + 0.055) / 1.055) ** 2.4)
    to_xyz = np.array([[0.4124, 0.3576, 0.1805], [0.2126, 0.7152, 0.0722], [0.0193, 0.1192, 0.9505]])
    xyz = linear @ (to_xyz / to_xyz.sum(axis=1, keepdims=True)).T
    root = np.where(xyz > (6 / 29) ** 3, np.cbrt(xyz), xyz / (3 * (6 / 29) ** 2) + 4 / 29)
    x, y, z = np.moveaxis(root, -1, 0)
    return np.stack([116 * y - 16, 500 * (x - y), 200 * (y - z)], axis=-1)


def _require_cut_out(source: Image.Image) -> None:
    if source.mode != "RGBA":
        raise ValueError(f"the source is {source.mode}, not RGBA: without alpha nobody knows what the product is")


def _same_pixels(source: Image.Image, picture: Image.Image) -> bool:
    """Whether every fully opaque pixel is where and what it was: so do vendors return it that only paint around it."""
    from PIL import Image, ImageChops

    if source.size != picture.size or picture.getcolors(1) is not None:
        return False  # a blank result may have a black product's colour, and does not show it
    alpha = source.getchannel("A")
    levels = alpha.histogram()
    if levels[255] < 0.99 * sum(levels[OPAQUE:]):
        return False  # nearly opaque pixels are blended, and so are hardly ever the same
    opaque = alpha.point([0] * 255 + [255])
    nothing = Image.new("RGB", source.size)
    return Image.composite(ImageChops.difference(source.convert("RGB"), picture), nothing, opaque).getbbox() is None


def _opaque(picture: Image.Image) -> Image.Image:
    from PIL import Image

    if "A" not in picture.getbands() and "transparency" not in picture.info:
        return picture if picture.mode == "RGB" else picture.convert("RGB")
    layered = picture.convert("RGBA")
    canvas = Image.new("RGB", picture.size, (128, 128, 128))
    canvas.paste(layered, mask=layered)
    return canvas


@dataclass(frozen=True)
class _Grid:
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


class _Product:
    """The part of the source that matters, at whatever size it is asked for."""

    def __init__(self, source: Image.Image) -> None:
        from PIL import Image

        _require_cut_out(source)
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
        self.grids: dict[tuple[int, int], _Grid] = {}

    def size_at(self, scale: float, longest: int) -> tuple[int, int]:
        """Of the grid on which the product is compared with itself at ``scale`` px per px: that of the smaller one."""
        scale = min(1.0, scale, longest / max(self.size))
        return max(6, round(self.size[0] * scale)), max(6, round(self.size[1] * scale))

    def grid(self, size: tuple[int, int]) -> _Grid:
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


def _prepare(cut: Image.Image, size: tuple[int, int], colour: tuple[int, ...]) -> _Grid:
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
    slope_x, slope_y = _slopes(luma)
    fade_x, fade_y = _slopes(np.asarray(alpha, np.float32) / 255)
    fade = fade_x**2 + fade_y**2
    smooth = _smooth(luma)
    detail, wider = (
        np.where(np.abs(each) < NOISE, np.float32(0), each) for each in (luma - smooth, smooth - _smooth(smooth))
    )
    busy = slope_x**2 + slope_y**2 + detail**2 + wider**2 + np.float32(contrast**2) * fade
    return _Grid(
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


def _slopes(values: Array) -> tuple[Array, Array]:
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


@dataclass(frozen=True)
class _Fit:
    """The product beside what lies at its place in the result."""

    placement: Placement
    grid: _Grid
    seen: Image.Image  # the result at the product's place, on the grid
    luma: Array  # of it
    inside: NDArray[np.bool_]  # compared: the product's own pixels that lie within the result
    left_over: Array  # luma of the result less what is expected there
    allowed: Array  # squared levels of error to be expected
    light: float
    sharpness: float
    move: tuple[float, float, float, float]  # still to be moved: px of the grid along x, at its ends, and along y
    coverage: float


def _fit(product: _Product, picture: Image.Image, placement: Placement, longest: int) -> _Fit:
    """Compare at a placement; light, sharpness and a small error of the placement are estimated together.

    Linear least squares over the product's luma with little weight for what does not fit (an altered part).
    """
    import numpy as np

    scale = min(abs(placement.scale_x), abs(placement.scale_y))
    grid = product.grid(product.size_at(scale, longest))
    seen, within = _window(picture, product.box_at(placement), grid.size)
    inside = grid.mask & within if within is not None else grid.mask
    coverage = float(np.count_nonzero(inside) / np.count_nonzero(grid.mask))
    luma = np.asarray(seen.convert("L"), np.float32)
    difference = luma - grid.luma
    width, height = grid.size
    allowed = np.float32(NOISE**2) + np.float32(SLACK**2) * grid.busy
    chosen = np.flatnonzero(inside)
    chosen = chosen[:: max(1, chosen.size // 30_000)]
    if chosen.size < FEWEST:
        return _Fit(placement, grid, seen, luma, inside, difference, allowed, 0, 1, (0, 0, 0, 0), coverage)
    across = (chosen % width + 0.5) / (width / 2) - 1
    down = (chosen // width + 0.5) / (height / 2) - 1
    slope_x, slope_y = grid.slope_x.ravel()[chosen], grid.slope_y.ravel()[chosen]
    columns = np.stack(
        [
            -slope_x,
            -slope_x * across,
            -slope_y,
            -slope_y * down,
            grid.luma.ravel()[chosen],
            grid.detail.ravel()[chosen],
            grid.wider.ravel()[chosen],
        ],
        axis=1,
    ).astype(np.float32)
    wanted, error = difference.ravel()[chosen], np.sqrt(allowed.ravel()[chosen])
    # What is believed before looking: moves of some px, light within a tenth, a little more or less detail.
    belief = np.diag([1 / 4.0, 1 / 4.0, 1 / 4.0, 1 / 4.0, 1 / 0.1**2, 1 / 0.7**2, 1 / 0.7**2]) * 4
    estimate = np.zeros(7)
    for _ in range(5):
        misfit = np.abs(wanted - columns @ estimate.astype(np.float32)) / error
        weight = (np.minimum(1, 2.0 / np.maximum(misfit, 1e-6)) / error**2).astype(np.float32)
        weighted = columns * weight[:, None]
        estimate = np.linalg.solve((weighted.T @ columns).astype(float) + belief, (weighted.T @ wanted).astype(float))
    a, b, c, d, light, detail, wider = (float(value) for value in estimate)
    light, detail = min(max(light, -0.25), 0.25), min(max(detail, -1.0), 1.5)
    wider = min(max(wider, -1.0), 1.5)
    move = tuple(min(max(value, -1.0), 1.0) for value in (a, b, c, d))
    row = (np.arange(width, dtype=np.float32) + 0.5) / (width / 2) - 1
    column = ((np.arange(height, dtype=np.float32) + 0.5) / (height / 2) - 1)[:, None]
    expected = np.array(_lit(grid.rgb, light).convert("L"), np.float32)
    expected -= grid.slope_x * (move[0] + move[1] * row)
    expected -= grid.slope_y * (move[2] + move[3] * column)
    expected += np.float32(detail) * grid.detail
    expected += np.float32(wider) * grid.wider
    left_over = luma - np.clip(expected, 0, 255, out=expected)
    return _Fit(placement, grid, seen, luma, inside, left_over, allowed, light, 1 + detail, (a, b, c, d), coverage)


def _lit(picture: Image.Image, light: float) -> Image.Image:
    """Lighter by this share; what is white already stays so."""
    return picture.point([min(255, round(value * (1 + light))) for value in range(256)] * 3) if light else picture


def _window(picture: Image.Image, box: Box, size: tuple[int, int]) -> tuple[Image.Image, NDArray[np.bool_] | None]:
    """A box of a picture at another size, and which of its pixels lie within the picture (None: all)."""
    import numpy as np
    from PIL import Image

    left, top, right, bottom = box
    filter_ = Image.Resampling.BICUBIC
    if left >= 0 and top >= 0 and right <= picture.width and bottom <= picture.height:
        if size == (right - left, bottom - top) and all(side == int(side) for side in box):
            return picture.crop(tuple(int(side) for side in box)), None  # type: ignore[arg-type]
        return picture.resize(size, filter_, box, reducing_gap=3), None
    outer = (math.floor(left), math.floor(top), math.ceil(right) + 1, math.ceil(bottom) + 1)
    crop = picture.crop(outer)
    inner = (left - outer[0], top - outer[1], right - outer[0], bottom - outer[1])
    x = left + (np.arange(size[0]) + 0.5) * (right - left) / size[0]
    y = top + (np.arange(size[1]) + 0.5) * (bottom - top) / size[1]
    within = ((x > 0) & (x < picture.width))[None, :] & ((y > 0) & (y < picture.height))[:, None]
    return crop.resize(size, filter_, inner, reducing_gap=3), within


def _misfit(fit: _Fit) -> float:
    """How badly a placement explains the result: errors, an outline that shows no edge, and what is out of frame."""
    import numpy as np

    if np.count_nonzero(fit.inside) < FEWEST:
        return math.inf
    error = (np.abs(fit.left_over) / np.sqrt(fit.allowed))[fit.inside]
    slope_x, slope_y = _slopes(fit.luma)
    seen = np.hypot(slope_x, slope_y)[fit.grid.outline]
    unseen = float(np.mean(np.maximum(0, 1 - seen / 12))) if seen.size else 0.0
    return float(np.mean(np.minimum(error, 6))) + unseen + 10 * (1 - fit.coverage)


def _moved(product: _Product, fit: _Fit, *, most: float = math.inf) -> Placement:
    """Where the product seems to be by what the fit says, moved by at most ``most`` px of the grid."""
    left, top, right, bottom = product.box_at(fit.placement)
    step_x, step_y = (right - left) / fit.grid.size[0], (bottom - top) / fit.grid.size[1]
    a, b, c, d = (min(max(value, -most), most) for value in fit.move)
    return product.place(
        (left + (a - b) * step_x, top + (c - d) * step_y, right + (a + b) * step_x, bottom + (c + d) * step_y)
    )


def _refined(product: _Product, picture: Image.Image, best: _Fit, longest: int = COARSE) -> _Fit:
    """A placement improved step by step, as long as that explains the result better."""
    for _ in range(5):
        if max(abs(value) for value in best.move) < 0.05:
            break
        trial = _fit(product, picture, _moved(product, best, most=2.0), longest)
        if _misfit(trial) >= _misfit(best):
            break
        best = trial
    return _settled(product, picture, best, longest) if best.grid.plain and longest <= 2 * COARSE else best


def _settled(product: _Product, picture: Image.Image, best: _Fit, longest: int) -> _Fit:
    """The same for a product so plain that only its outline tells where it is: by trying."""
    tried = {best.placement}
    for step in (1.0, 0.5, 0.25):
        better = True
        while better and len(tried) < 30:
            better = False
            for a, b, c, d in ((step, 0, 0, 0), (0, 0, step, 0), (0, step, 0, step), (0, step, 0, 0), (0, 0, 0, step)):
                for sign in (1, -1):
                    placement = _moved(product, replace(best, move=(sign * a, sign * b, sign * c, sign * d)))
                    if placement in tried:
                        continue
                    tried.add(placement)
                    trial = _fit(product, picture, placement, longest)
                    # An outline tells proportions less exactly than place and size.
                    if _misfit(trial) < _misfit(best) - (0.0 if b == d else 0.02):
                        best, better = trial, True
    return best


def _polished(product: _Product, picture: Image.Image, fit: _Fit) -> _Fit:
    """A placement fitted at growing sizes, and set to whole pixels where those serve as well."""
    for longest in (2 * COARSE, 4 * COARSE, FINE):
        fit = _refined(product, picture, _fit(product, picture, fit.placement, longest), longest)
    for simple in _simpler(product, fit.placement):
        trial = _fit(product, picture, simple, FINE)
        if _misfit(trial) <= 1.1 * _misfit(fit) + 0.02:
            return trial
    return fit


def _simpler(product: _Product, placement: Placement) -> Iterator[Placement]:
    """The same placement in whole pixels, and with one scale for both directions, where that is near."""
    width, height = product.size
    left, top, right, bottom = product.box_at(placement)
    if abs(placement.scale_x - 1) * width < 1 and abs(placement.scale_y - 1) * height < 1:
        x = round((left + right - width) / 2) - product.box[0]
        y = round((top + bottom - height) / 2) - product.box[1]
        yield Placement(float(x), float(y), 1.0, 1.0)
    scale = math.sqrt(placement.scale_x * placement.scale_y)
    if abs(placement.scale_x / placement.scale_y - 1) < 0.05:  # a true change of proportions explains clearly more
        middle_x, middle_y = (left + right) / 2, (top + bottom) / 2
        half_x, half_y = width * scale / 2, height * scale / 2
        yield product.place((middle_x - half_x, middle_y - half_y, middle_x + half_x, middle_y + half_y))


def _likely(product: _Product, picture: Image.Image, hint: tuple[int, int, int, int] | None) -> Iterable[Placement]:
    """Placements worth a look before any search: where it was, the whole canvas scaled, what the vendor says."""
    scale_x, scale_y = picture.width / product.whole[0], picture.height / product.whole[1]
    # A size in whole pixels keeps the aspect to half a pixel.
    if abs(scale_x / scale_y - 1) <= 1 / min(picture.size):
        yield Placement(0.0, 0.0, scale_x, scale_y)
    if hint is not None and hint[2] > 0 and hint[3] > 0:
        x, y, width, height = hint
        # Far outside the frame it is nonsense, and cutting it out would take memory.
        slack_x, slack_y = picture.width / 20, picture.height / 20
        if (
            -slack_x <= x <= x + width <= picture.width + slack_x
            and -slack_y <= y <= y + height <= picture.height + slack_y
        ):
            yield product.place((x, y, x + width, y + height), product.tight)


def _search(product: _Product, picture: Image.Image, fits: list[_Fit]) -> list[Placement]:
    """The few best of all scales and places, and what was tried already."""
    import numpy as np
    from PIL import Image

    scene = _Scene(picture)
    left, top, right, bottom = product.tight
    # A little more than fits, because a size on so small a picture is not exact.
    scale = min(scene.width / (right - left), scene.height / (bottom - top)) * 1.03
    found: list[tuple[float, Placement]] = []
    while scale * max(product.size) >= SMALLEST * SEARCH:
        width, height = (max(3, round(side * scale)) for side in product.size)
        width, height = min(width, scene.width + 2 * FRAME), min(height, scene.height + 2 * FRAME)
        template = product.cut.resize((width, height), Image.Resampling.BOX, reducing_gap=2)
        score = scene.score(template, product.colour)
        half_x, half_y = product.size[0] * scale / 2, product.size[1] * scale / 2
        for _ in range(2):
            y, x = (int(value) for value in np.unravel_index(int(np.argmax(score)), score.shape))
            middle_x, middle_y = x + width / 2 - FRAME, y + height / 2 - FRAME
            box = (
                (middle_x - half_x) / scene.ratio_x,
                (middle_y - half_y) / scene.ratio_y,
                (middle_x + half_x) / scene.ratio_x,
                (middle_y + half_y) / scene.ratio_y,
            )
            found.append((float(score[y, x]), product.place(box)))
            score[max(0, y - 4) : y + 5, max(0, x - 4) : x + 5] = -math.inf
        scale /= 1.07
    found.sort(key=lambda each: -each[0])
    return [placement for _, placement in found[:10]] + [fit.placement for fit in fits]


class _Scene:
    """A result, small and transformed, in which templates are looked for."""

    def __init__(self, picture: Image.Image) -> None:
        import numpy as np
        from PIL import Image

        ratio = min(1.0, SEARCH / max(picture.size))
        self.width, self.height = (max(8, round(side * ratio)) for side in picture.size)
        self.ratio_x, self.ratio_y = self.width / picture.width, self.height / picture.height
        small = picture.resize((self.width, self.height), Image.Resampling.BOX, reducing_gap=2)
        # A product may touch the frame, and what is just outside its outline then lies beyond it.
        margins = ((FRAME, FRAME), (FRAME, FRAME), (0, 0))
        seen = np.pad(np.asarray(small, np.float32) / np.float32(255), margins, mode="edge")
        edges = _edges(seen)
        self.shape = seen.shape[:2]
        self.padded = tuple(_quick_length(side) for side in self.shape)
        self.colours = [self._transformed(seen[..., channel]) for channel in range(3)]
        self.squares = self._transformed((seen**2).sum(-1))
        self.edges, self.edges_squared = self._transformed(edges), self._transformed(edges**2)

    def score(self, template: Image.Image, colour: tuple[int, ...]) -> Array:
        """For every place a template (RGBA) fits: do its edges and outline correlate, and are its colours there?"""
        import numpy as np
        from PIL import Image, ImageFilter

        alpha = template.getchannel("A")
        filled = Image.new("RGB", template.size, colour)
        filled.paste(template, mask=template)
        colours = np.asarray(filled, np.float32) / np.float32(255)
        solid = (np.asarray(alpha, np.float32) / np.float32(255)) ** 2
        around = np.asarray(alpha.filter(ImageFilter.MaxFilter(3)), np.float32) / np.float32(255)
        outline = np.hypot(*_slopes(np.pad(solid, 1)))[1:-1, 1:-1]
        edges = np.maximum(_edges(colours), np.minimum(2 * outline, 1) * np.float32(STEEPEST))
        total, whole = float(around.sum()) + 1e-6, float(solid.sum()) + 1e-6
        centred = around * (edges - np.float32((around * edges).sum() / total))
        spread = float((centred * edges).sum())
        t_around = self._transformed(around)
        mean = self._back(np.conj(t_around) * self.edges) / total
        spread_seen = np.maximum(self._back(np.conj(t_around) * self.edges_squared) - total * mean**2, 0)
        likeness = self._back(np.conj(self._transformed(centred)) * self.edges)
        likeness /= np.sqrt((spread + 1e-3 * total) * (spread_seen + 1e-3 * total))
        crossed = sum(np.conj(self._transformed(solid * colours[..., c])) * self.colours[c] for c in range(3))
        own = float((solid[..., None] * colours**2).sum())
        squared = self._back(np.conj(self._transformed(solid)) * self.squares - 2 * crossed) + own
        score = likeness - 3 * np.sqrt(np.maximum(squared, 0) / (3 * whole))
        return np.asarray(score[: self.shape[0] - template.height + 1, : self.shape[1] - template.width + 1])

    def _transformed(self, values: Array) -> NDArray[np.complexfloating[Any]]:
        import numpy as np

        return np.fft.rfft2(values, self.padded)

    def _back(self, values: Any) -> Array:
        import numpy as np

        return np.asarray(np.fft.irfft2(values, self.padded))


def _edges(colours: Array) -> Array:
    """How steep a picture is, capped, so that a strong edge counts no more than a clear one."""
    import numpy as np

    luma = colours.mean(-1)
    slope_x, slope_y = _slopes(luma)
    return np.minimum(np.hypot(slope_x, slope_y), np.float32(STEEPEST))


def _quick_length(least: int) -> int:
    """The next length that is quick to transform."""
    while True:
        rest = least
        for factor in (2, 3, 5):
            while rest % factor == 0:
                rest //= factor
        if rest == 1:
            return least
        least += 1


def _judge(fit: _Fit, limits: Thresholds) -> Verdict:
    """Measure what a fit left over, in cells, against the limits."""
    import numpy as np

    inside, grid = fit.inside, fit.grid
    count = int(np.count_nonzero(inside))
    if count < FEWEST:
        reason = (
            "the product was not found in the result"
            if fit.coverage < 0.5
            else f"the product is too small in the result to be compared: {count} opaque px (at least {FEWEST})"
        )
        return Verdict(False, (reason,), fit.placement, coverage=round(fit.coverage, 4))
    seen = np.asarray(fit.seen)
    own = np.asarray(grid.rgb)
    error = (seen[inside].astype(np.float32) - own[inside]) ** 2
    psnr = min(HIGHEST_PSNR, 10 * math.log10(255**2 / max(float(error.mean()), 1e-9)))

    side = max(6, round(max(grid.size) / CELLS))
    number = _cells(inside.astype(np.float32), side)
    enough = _around(number) >= min(side * side, count / 4)
    expected, actual = (
        np.stack([_cells(colours[..., c] * inside, side) for c in range(3)], -1) / np.maximum(number, 1)[..., None]
        for colours in (np.asarray(_lit(grid.rgb, fit.light)), seen)
    )
    solid = number >= 0.4 * side * side
    if not solid.any():
        solid = number > 0
    own_lab, seen_lab, weight = _lab(expected[solid]), _lab(actual[solid]), number[solid]
    colour = delta_e(own_lab, seen_lab)
    hue = _turn(own_lab, seen_lab, weight)
    mean = float((colour * weight).sum() / weight.sum())
    order = np.argsort(colour)
    reached = np.cumsum(weight[order]) / weight.sum()
    # Of a tiny product a hundredth is less than a cell, and one cell is what encoders spoil.
    share = min(max(0.01, 3 / colour.size), 0.5)
    worst = float(colour[order][np.searchsorted(reached, 1 - share).clip(0, colour.size - 1)])

    wrong = _around(_cells(fit.left_over**2 * inside, side))
    right = _around(_cells(fit.allowed * inside, side))
    excess = np.sqrt(wrong / np.maximum(right, 1e-6))
    altered = float(number[enough & (excess > EXCESS)].sum() / number.sum())

    placement = fit.placement
    stretch = placement.scale_x / placement.scale_y
    if not grid.plain:  # else nothing inside it tells what is still to be moved
        stretch *= (1 + 2 * fit.move[1] / grid.size[0]) / (1 + 2 * fit.move[3] / grid.size[1])
    verdict = Verdict(
        faithful=True,
        reasons=(),
        placement=placement,
        psnr=round(psnr, 2),
        delta_e=round(mean, 2),
        delta_e_local=round(worst, 2),
        hue=round(hue, 2),
        altered=round(altered, 4),
        light=round(fit.light, 4),
        sharpness=round(fit.sharpness, 3),
        stretch=round(stretch - 1, 4),
        coverage=round(fit.coverage, 4),
    )
    if float(fit.luma.std()) < BLANK:
        reasons: tuple[str, ...] = ("the result is blank where the product should be",)
    else:
        reasons = tuple(_reasons(verdict, limits))
    return replace(verdict, faithful=not reasons, reasons=reasons)


def _turn(own: Array, seen: Array, weight: Array) -> float:
    """Degrees by which hues are turned as a whole; 0 for a product without colour."""
    a, b, other_a, other_b = own[:, 1], own[:, 2], seen[:, 1], seen[:, 2]
    along = float((weight * (a * other_a + b * other_b)).sum())
    across = float((weight * (a * other_b - b * other_a)).sum())
    # A few steps of chroma are what re-encoding leaves of a grey.
    grey = float(weight.sum()) * GREY**2
    return math.degrees(math.atan2(across, max(along, 0) + grey))


def _cells(values: Array, side: int) -> Array:
    """Sums over squares of ``side`` px; the last row and column may be smaller."""
    import numpy as np

    height, width = values.shape
    rows = np.add.reduceat(values, np.arange(0, height, side), axis=0)
    return np.add.reduceat(rows, np.arange(0, width, side), axis=1)


def _around(cells: Array) -> Array:
    """Sums over 3 x 3 cells."""
    import numpy as np

    padded = np.pad(cells, 1)
    rows = padded[:-2] + padded[1:-1] + padded[2:]
    return np.asarray(rows[:, :-2] + rows[:, 1:-1] + rows[:, 2:])


def _reasons(verdict: Verdict, limits: Thresholds) -> Iterator[str]:
    assert verdict.psnr is not None
    assert verdict.delta_e is not None
    assert verdict.delta_e_local is not None
    assert verdict.hue is not None
    assert verdict.altered is not None
    assert verdict.light is not None
    assert verdict.sharpness is not None
    assert verdict.stretch is not None
    assert verdict.coverage is not None
    if verdict.coverage < limits.min_coverage:
        yield f"only {verdict.coverage:.1%} of the product is in the frame (at least {limits.min_coverage:.1%})"
    if verdict.psnr < limits.min_psnr:
        yield f"PSNR is {verdict.psnr:.1f} dB (at least {limits.min_psnr:.1f} dB)"
    if verdict.delta_e > limits.max_delta_e:
        yield f"colours differ by {verdict.delta_e:.1f} CIEDE2000 on average (at most {limits.max_delta_e:.1f})"
    if verdict.delta_e_local > limits.max_delta_e_local:
        yield (
            f"colours differ by {verdict.delta_e_local:.1f} CIEDE2000 in the worst hundredth "
            f"(at most {limits.max_delta_e_local:.1f})"
        )
    if abs(verdict.hue) > limits.max_hue:
        yield f"hues are turned by {verdict.hue:+.1f} degrees (at most {limits.max_hue:.1f})"
    if verdict.altered > limits.max_altered:
        yield f"{verdict.altered:.2%} of the product looks altered (at most {limits.max_altered:.2%})"
    if abs(verdict.light) > limits.max_light:
        change = f"{abs(verdict.light):.0%} {'lighter' if verdict.light > 0 else 'darker'}"
        yield f"the product is {change} (at most {limits.max_light:.0%})"
    if verdict.sharpness < limits.min_sharpness:
        yield f"only {verdict.sharpness:.0%} of the detail is left (at least {limits.min_sharpness:.0%})"
    if abs(verdict.stretch) > limits.max_stretch:
        yield f"width to height changed by {verdict.stretch:+.1%} (at most {limits.max_stretch:.1%})"
