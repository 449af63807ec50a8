"""The product beside what lies at one place of the result: light, sharpness and a small error of the place estimated.

What starts at a place and betters it step by step belongs here, too; what finds places to start at is in search.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import cached_property
from typing import TYPE_CHECKING

from airflow_provider_bgai.imaging.fidelity.product import (
    COARSE,
    FEWEST,
    FINE,
    NOISE,
    Box,
    Grid,
    Placement,
    Product,
    before,
    half_for,
    resampled,
    slopes,
    whole_pixels,
)

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from airflow_provider_bgai.imaging.fidelity.product import Array, Levels
    from airflow_provider_bgai.imaging.small import Halves

SAMPLES = 8_000  # px from which is estimated
SLACK = 0.3  # px by which an honest resampling may displace an edge on the grid
TINT = 0.03  # share by which light may be warmer or cooler, a channel
LITTLE = 100.0  # squared levels per px inside a product below which its place is tried, not only calculated
STRETCHED = 2.0  # by which it is worse for being stretched, as a share: proportions are what is changed least
UNMOVED = 0.1  # by which a placement is worse for each px of the grid that is still to be moved
STILL_WHITE = 0.05  # share of the samples
CLIPPED = 250  # level from which a channel may have been brighter than it could be

Light = tuple[float, float, float]
"""Red, green and blue: shares by which each is lighter."""


@dataclass(frozen=True)
class Fit:
    """The product beside what lies at its place in the result."""

    placement: Placement
    grid: Grid
    own: Levels  # the product, RGB, in the light that is estimated
    seen: Levels  # the result at the product's place, on the grid, RGB
    luma: Array  # of it
    inside: NDArray[np.bool_]  # compared: the product's own pixels that lie within the result
    left_over: Array  # luma of the result less what is expected there
    allowed: Array  # squared levels of error to be expected
    light: Light
    sharpness: float
    move: tuple[float, float, float, float]  # still to be moved: px of the grid along x, at its ends, and along y
    coverage: float

    @cached_property
    def misfit(self) -> float:
        """How badly the placement explains the result: errors, no edge at the outline, a move to come, proportions."""
        import cv2
        import numpy as np

        if np.count_nonzero(self.inside) < FEWEST:
            return math.inf
        error = (np.abs(self.left_over) / np.sqrt(self.allowed))[self.inside]
        seen = cv2.magnitude(*slopes(self.luma))[self.grid.outline]
        unseen = float(np.mean(np.maximum(0, 1 - seen / 12))) if seen.size else 0.0
        to_come = UNMOVED * max(abs(value) for value in self.move)
        stretched = STRETCHED * abs(math.log(abs(self.placement.scale_x / self.placement.scale_y)))
        return float(np.mean(np.minimum(error, 6))) + unseen + to_come + stretched + 10 * (1 - self.coverage)


def fitted(product: Product, picture: Halves, placement: Placement, longest: int) -> Fit:
    """Compare at a placement; light, sharpness and a small error of the placement are estimated together.

    Linear least squares over the product's luma with little weight for what does not fit (an altered part).
    """
    import cv2
    import numpy as np

    scale = min(abs(placement.scale_x), abs(placement.scale_y))
    size, box = product.size_at(scale, longest), product.box_at(placement)
    grid = product.grid(size, by_area=whole_pixels(box, size))
    seen, within = _window(picture, box, size)
    inside, coverage = grid.mask, 1.0
    if within is not None:
        inside = grid.mask & within
        coverage = int(np.count_nonzero(grid.own & within)) / max(1, int(np.count_nonzero(grid.own)))
    if grid.thin:
        grid = before(product, grid, seen)
    luma = cv2.cvtColor(seen, cv2.COLOR_RGB2GRAY).astype(np.float32)
    difference = luma - grid.luma
    width, height = grid.size
    allowed = np.float32(SLACK**2) * grid.busy
    allowed += np.float32(NOISE**2) + grid.unsure
    chosen = np.flatnonzero(inside)
    chosen = chosen[:: max(1, chosen.size // SAMPLES)]
    if chosen.size < FEWEST:
        unknown = (0.0, 0.0, 0.0), 1.0, (0.0, 0.0, 0.0, 0.0)
        return Fit(placement, grid, grid.rgb, seen, luma, inside, difference, allowed, *unknown, coverage)
    row = (np.arange(width, dtype=np.float32) + 0.5) / (width / 2) - 1
    column = ((np.arange(height, dtype=np.float32) + 0.5) / (height / 2) - 1)[:, None]
    slope_x, slope_y = grid.slope_x.ravel()[chosen], grid.slope_y.ravel()[chosen]
    reasons = np.stack(
        [
            -slope_x,
            -slope_x * row[chosen % width],
            -slope_y,
            -slope_y * column.ravel()[chosen // width],
            grid.luma.ravel()[chosen],
            grid.detail.ravel()[chosen],
            grid.wider.ravel()[chosen],
        ]
    )
    estimate, weight = estimated(reasons, difference.ravel()[chosen], np.sqrt(allowed.ravel()[chosen]))
    a, b, c, d, common, detail, wider = (float(value) for value in estimate)
    detail, wider = min(max(detail, -1.0), 1.5), min(max(wider, -1.0), 1.5)
    move = tuple(min(max(value, -1.0), 1.0) for value in (a, b, c, d))
    light = _light(grid.rgb.reshape(-1, 3)[chosen], seen.reshape(-1, 3)[chosen], weight, min(max(common, -0.25), 0.25))
    own = lit(grid.rgb, light)
    expected = cv2.cvtColor(own, cv2.COLOR_RGB2GRAY).astype(np.float32)
    expected -= grid.slope_x * (move[0] + move[1] * row)
    expected -= grid.slope_y * (move[2] + move[3] * column)
    expected += np.float32(detail) * grid.detail
    expected += np.float32(wider) * grid.wider
    left_over = luma - np.clip(expected, 0, 255, out=expected)
    return Fit(placement, grid, own, seen, luma, inside, left_over, allowed, light, 1 + detail, (a, b, c, d), coverage)


def estimated(reasons: Array, wanted: Array, error: Array) -> tuple[Array, Array]:
    """How much of each reason explains what is wanted, and the weight that every sample had in the end.

    A row for each reason: the place along x and at its ends, along y and at its ends, light, detail, wider detail.
    """
    import numpy as np

    # What is believed before looking: moves of some px, light within a tenth, a little more or less detail.
    belief = np.diag([1 / 4.0, 1 / 4.0, 1 / 4.0, 1 / 4.0, 1 / 0.1**2, 1 / 0.7**2, 1 / 0.7**2]) * 4
    estimate = np.zeros(7)
    most = 1 / error**2
    for _ in range(5):
        left_over = np.abs(wanted - estimate.astype(np.float32) @ reasons)
        weight = np.minimum(most, 2 / (np.maximum(left_over, np.float32(1e-6)) * error))
        weighted = reasons * weight
        estimate = np.linalg.solve((weighted @ reasons.T).astype(float) + belief, (weighted @ wanted).astype(float))
    return estimate, weight


def _light(own: Levels, seen: Levels, weight: Array, common: float) -> Light:
    """The light of each channel, where the three differ by no more than a warmer or cooler light explains."""
    import numpy as np

    before, after = (each.T.astype(np.float32, order="C") for each in (own, seen))  # numpy is slow along 3 channels
    clipped = after >= CLIPPED
    weighted = weight * before * ~(clipped | (before * (1 + common) >= CLIPPED))
    # As much is believed in the light of all channels as a few hundred samples tell.
    known = np.float32(300 * 100.0**2) * float(weight.mean())
    more = (weighted * (after - (1 + common) * before)).sum(1) / ((weighted * before).sum(1) + known)
    # What was white and is white does not say how much lighter it got, but that it got no darker than it is seen.
    was_white = before >= CLIPPED
    white = (clipped & was_white).mean(1) > STILL_WHITE
    seen_white = (weight * was_white * after).sum(1) / np.maximum((weight * was_white * before).sum(1), 1e-6)
    gains = np.where(white, np.maximum(1 + common + more, np.minimum(seen_white, 1)), 1 + common + more)
    middle = (float(gains.max()) + float(gains.min())) / 2
    red, green, blue = (min(max(float(gain), middle * (1 - TINT)), middle * (1 + TINT)) - 1 for gain in gains)
    return red, green, blue


def lit(picture: Levels, light: Light) -> Levels:
    """Lighter by these shares; what is white already stays so."""
    import cv2
    import numpy as np

    if not any(light):
        return picture
    return np.asarray(
        cv2.transform(picture, np.diag(1 + np.array(light)).astype(np.float32))
    )  # a table takes four times


def _window(picture: Halves, box: Box, size: tuple[int, int]) -> tuple[Levels, NDArray[np.bool_] | None]:
    """A box of a picture at another size, and which of its pixels lie within the picture (None: all)."""
    import cv2
    import numpy as np

    levels, inner = half_for(picture, box, size)
    height, width = levels.shape[:2]
    left, top, right, bottom = inner
    if left >= 0 and top >= 0 and right <= width and bottom <= height:
        return resampled(levels, inner, size), None
    outer = (math.floor(left), math.floor(top), math.ceil(right) + 1, math.ceil(bottom) + 1)
    part = levels[max(0, outer[1]) : max(0, outer[3]), max(0, outer[0]) : max(0, outer[2])]
    if not part.size:
        return np.zeros((size[1], size[0], 3), np.uint8), np.zeros((size[1], size[0]), np.bool_)
    beyond = (max(0, -outer[1]), max(0, outer[3] - height), max(0, -outer[0]), max(0, outer[2] - width))
    # The rim goes on beyond the frame: what shines through there is guessed from it.
    crop = np.asarray(cv2.copyMakeBorder(part, *beyond, cv2.BORDER_REPLICATE), np.uint8)
    inner = (left - outer[0], top - outer[1], right - outer[0], bottom - outer[1])
    height, width = picture.levels.shape[:2]
    left, top, right, bottom = box
    x = left + (np.arange(size[0]) + 0.5) * (right - left) / size[0]
    y = top + (np.arange(size[1]) + 0.5) * (bottom - top) / size[1]
    within = ((x > 0) & (x < width))[None, :] & ((y > 0) & (y < height))[:, None]
    return resampled(crop, inner, size), within


def refined(product: Product, picture: Halves, best: Fit, longest: int = COARSE) -> Fit:
    """A placement improved step by step, as long as that explains the result better."""
    for _ in range(5):
        if max(abs(value) for value in best.move) < 0.05:
            break
        for share in (1.0, 0.5):  # from far away the move is only roughly right
            trial = fitted(product, picture, _moved(product, best, share=share, most=2.0), longest)
            if trial.misfit < best.misfit:
                break
        else:
            break
        best = trial
    return _settled(product, picture, best, longest) if is_plain(best) and longest <= 2 * COARSE else best


def _settled(product: Product, picture: Halves, best: Fit, longest: int) -> Fit:
    """The same for a product so plain that its outline has to tell where it is: by trying."""
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
                    if trial.misfit < best.misfit - (0.0 if b == d else 0.02):
                        best, better = trial, True
    return best


def _moved(product: Product, fit: Fit, *, share: float = 1.0, most: float = math.inf) -> Placement:
    """Where the product seems to be by what the fit says, or a share of the way, of at most ``most`` px of the grid."""
    left, top, right, bottom = product.box_at(fit.placement)
    step_x, step_y = (right - left) / fit.grid.size[0], (bottom - top) / fit.grid.size[1]
    a, b, c, d = (min(max(share * value, -most), most) for value in fit.move)
    return product.place(
        (left + (a - b) * step_x, top + (c - d) * step_y, right + (a + b) * step_x, bottom + (c + d) * step_y)
    )


def is_plain(fit: Fit) -> bool:
    """Whether there is so little inside the product that its outline has to tell where it is."""
    return fit.grid.steep < LITTLE


def polished(product: Product, picture: Halves, fit: Fit) -> Fit:
    """A placement fitted at growing sizes, and set to whole pixels where those serve as well."""
    for longest in (2 * COARSE, 4 * COARSE, FINE):
        fit = refined(product, picture, fitted(product, picture, fit.placement, longest), longest)
    for simple in _simpler(product, fit.placement):
        trial = fitted(product, picture, simple, FINE)
        if trial.misfit <= 1.1 * fit.misfit + 0.02:
            return trial
    return fit


def found_by_trying(product: Product, picture: Halves, fit: Fit) -> Fit:
    """The same for a plain product: places nearby are tried as soon as lines in it are seen, which may be all there is.

    From the placement as it is, and from the same in whole pixels or with one scale.
    """
    for longest in (2 * COARSE, 4 * COARSE, FINE):
        fit = refined(product, picture, fitted(product, picture, fit.placement, longest), longest)
        if longest > 2 * COARSE:
            fit = _settled(product, picture, fit, longest)
            simpler = [fitted(product, picture, each, longest) for each in _simpler(product, fit.placement)]
            fit = min(
                [fit, *(_settled(product, picture, each, longest) for each in simpler)], key=lambda each: each.misfit
            )
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
