"""The product beside what lies at one place of the result: light, sharpness and a small error of the place estimated.

What starts at a place and betters it step by step belongs here, too; what finds places to start at is in search.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from airflow_provider_bgai.imaging.fidelity.product import FEWEST, NOISE, Box, Grid, Placement, Product, slopes

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray
    from PIL import Image

    from airflow_provider_bgai.imaging.fidelity.product import Array

FINE, COARSE = 512, 64  # px, longer side of the product on the grids it is compared and first fitted on
SLACK = 0.3  # px by which an honest resampling may displace an edge on the grid


@dataclass(frozen=True)
class Fit:
    """The product beside what lies at its place in the result."""

    placement: Placement
    grid: Grid
    seen: Image.Image  # the result at the product's place, on the grid
    luma: Array  # of it
    inside: NDArray[np.bool_]  # compared: the product's own pixels that lie within the result
    left_over: Array  # luma of the result less what is expected there
    allowed: Array  # squared levels of error to be expected
    light: float
    sharpness: float
    move: tuple[float, float, float, float]  # still to be moved: px of the grid along x, at its ends, and along y
    coverage: float


def fitted(product: Product, picture: Image.Image, placement: Placement, longest: int) -> Fit:
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
        return Fit(placement, grid, seen, luma, inside, difference, allowed, 0, 1, (0, 0, 0, 0), coverage)
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
    expected = np.array(lit(grid.rgb, light).convert("L"), np.float32)
    expected -= grid.slope_x * (move[0] + move[1] * row)
    expected -= grid.slope_y * (move[2] + move[3] * column)
    expected += np.float32(detail) * grid.detail
    expected += np.float32(wider) * grid.wider
    left_over = luma - np.clip(expected, 0, 255, out=expected)
    return Fit(placement, grid, seen, luma, inside, left_over, allowed, light, 1 + detail, (a, b, c, d), coverage)


def lit(picture: Image.Image, light: float) -> Image.Image:
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


def misfit(fit: Fit) -> float:
    """How badly a placement explains the result: errors, an outline that shows no edge, and what is out of frame."""
    import numpy as np

    if np.count_nonzero(fit.inside) < FEWEST:
        return math.inf
    error = (np.abs(fit.left_over) / np.sqrt(fit.allowed))[fit.inside]
    slope_x, slope_y = slopes(fit.luma)
    seen = np.hypot(slope_x, slope_y)[fit.grid.outline]
    unseen = float(np.mean(np.maximum(0, 1 - seen / 12))) if seen.size else 0.0
    return float(np.mean(np.minimum(error, 6))) + unseen + 10 * (1 - fit.coverage)


def refined(product: Product, picture: Image.Image, best: Fit, longest: int = COARSE) -> Fit:
    """A placement improved step by step, as long as that explains the result better."""
    for _ in range(5):
        if max(abs(value) for value in best.move) < 0.05:
            break
        trial = fitted(product, picture, _moved(product, best, most=2.0), longest)
        if misfit(trial) >= misfit(best):
            break
        best = trial
    return _settled(product, picture, best, longest) if best.grid.plain and longest <= 2 * COARSE else best


def _settled(product: Product, picture: Image.Image, best: Fit, longest: int) -> Fit:
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
                    trial = fitted(product, picture, placement, longest)
                    # An outline tells proportions less exactly than place and size.
                    if misfit(trial) < misfit(best) - (0.0 if b == d else 0.02):
                        best, better = trial, True
    return best


def _moved(product: Product, fit: Fit, *, most: float = math.inf) -> Placement:
    """Where the product seems to be by what the fit says, moved by at most ``most`` px of the grid."""
    left, top, right, bottom = product.box_at(fit.placement)
    step_x, step_y = (right - left) / fit.grid.size[0], (bottom - top) / fit.grid.size[1]
    a, b, c, d = (min(max(value, -most), most) for value in fit.move)
    return product.place(
        (left + (a - b) * step_x, top + (c - d) * step_y, right + (a + b) * step_x, bottom + (c + d) * step_y)
    )


def polished(product: Product, picture: Image.Image, fit: Fit) -> Fit:
    """A placement fitted at growing sizes, and set to whole pixels where those serve as well."""
    for longest in (2 * COARSE, 4 * COARSE, FINE):
        fit = refined(product, picture, fitted(product, picture, fit.placement, longest), longest)
    for simple in _simpler(product, fit.placement):
        trial = fitted(product, picture, simple, FINE)
        if misfit(trial) <= 1.1 * misfit(fit) + 0.02:
            return trial
    return fit


def _simpler(product: Product, placement: Placement) -> Iterator[Placement]:
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
