"""What a fit left over, measured, against the limits: the limits, the verdict and its reasons."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import asdict, dataclass, replace
from typing import TYPE_CHECKING, Any

from airflow_provider_bgai.imaging.fidelity.colour import delta_e
from airflow_provider_bgai.imaging.fidelity.fit import Fit
from airflow_provider_bgai.imaging.fidelity.product import FEWEST, Placement
from airflow_provider_bgai.imaging.fidelity.spot import Spot
from airflow_provider_bgai.imaging.fidelity.surroundings import Outline

if TYPE_CHECKING:
    from airflow_provider_bgai.imaging.fidelity.product import Array

HIGHEST_PSNR = 60.0  # dB, for no difference at all, too
CELLS = 56  # cells along the product's longer side
EXCESS = 1.25  # times the expected error, rms, from which a spot counts as altered
SURE = 50.0  # squared levels up to which it is known what shines through a thin product
GREY = 8.0  # chroma (CIELAB) up to which a colour hardly has a hue
PLAIN = 1.0  # squared levels per px inside a product, below which there is hardly anything to see
BLANK = 1.5  # levels, standard deviation of luma below which a picture shows nothing


@dataclass(frozen=True)
class Thresholds:
    """The limits beyond which a picture is unfaithful.

    :param min_psnr: dB over the compared pixels, 0 to 60; only a floor, because re-encoding and light lower it too.
    :param max_delta_e: mean CIEDE2000 over the product after allowing for light, 0 to 100; 1 is just visible.
    :param max_delta_e_local: the same, exceeded by the worst hundredth of the product (at least 3 cells).
    :param max_hue: degrees by which the product's colours are turned as a whole, 0 to 180.
    :param max_altered: share of the product that differs by more than resampling and encoding explain, 0 to 1.
    :param max_spot: times the expected error by which the worst spot, as large as a small character, may differ.
    :param max_light: change of brightness, as a share; 0.1 lets the product be a tenth lighter or darker.
    :param min_sharpness: detail kept over the whole product, 1 as in the source, 0 none.
    :param max_stretch: change of proportions, as a share: |width / height - 1|.
    :param min_coverage: share of the product that lies inside the result's frame, 0 to 1.
    :param max_growth: what continues the product past its outline, as a share of its area.
    :param max_copies: how many more of the product the scene may show.
    """

    min_psnr: float = 18.0
    max_delta_e: float = 3.5
    max_delta_e_local: float = 10.0
    max_hue: float = 4.0
    max_altered: float = 0.003
    max_spot: float = 2.0
    max_light: float = 0.1
    min_sharpness: float = 0.3
    max_stretch: float = 0.02
    min_coverage: float = 0.985
    max_growth: float = 0.01
    max_copies: int = 0

    def __post_init__(self) -> None:
        for name, value in asdict(self).items():
            if not 0 <= value < math.inf:
                raise ValueError(f"{name} is {value!r}; it must be 0 or more")


USUAL = Thresholds()


@dataclass(frozen=True)
class Verdict:
    """What was found. The numbers are those that ``Thresholds`` limits; None where no product was found at all.

    ``tint``: the most by which the light of a channel departs from ``light``; within what :func:`fitted` allows.
    ``spot``, and its place in px of the result, is looked for where everything else is within the limits; ``growth``
    and ``copies`` where the product itself is; ``outlines``: of what was found beyond a limit there.
    """

    faithful: bool
    reasons: tuple[str, ...]
    placement: Placement | None = None
    psnr: float | None = None
    delta_e: float | None = None
    delta_e_local: float | None = None
    hue: float | None = None
    altered: float | None = None
    light: float | None = None
    tint: float | None = None
    sharpness: float | None = None
    stretch: float | None = None
    coverage: float | None = None
    spot: float | None = None
    spot_x: int | None = None
    spot_y: int | None = None
    growth: float | None = None
    copies: int | None = None
    outlines: tuple[Outline, ...] = ()

    def as_dict(self) -> dict[str, Any]:
        """For JSON."""
        return asdict(self)


def judged(fit: Fit, limits: Thresholds) -> Verdict:
    """Measure what a fit left over, in cells, against the limits."""
    import cv2
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
    mask = inside.astype(np.uint8)
    squared = cv2.norm(fit.seen, grid.rgb, cv2.NORM_L2SQR, mask) / (3 * count)
    psnr = min(HIGHEST_PSNR, 10 * math.log10(255**2 / max(squared, 1e-9)))

    # What lies behind a thin product is guessed, which is wrong here and there: larger cells, and only the sure ones.
    side = max(6, round(max(grid.size) / CELLS)) * (2 if grid.thin else 1)
    number = _cells(mask, side)
    enough = _around(number) >= min(side * side, count / 4)
    solid = number >= (0.1 if grid.thin else 0.4) * side * side
    if grid.thin:
        sure = _cells(inside * grid.unsure, side) <= SURE * number
        solid = solid & sure if (solid & sure).any() else solid
    if not solid.any():
        solid = number > 0
    own_lab, seen_lab = (
        _lab(_cells(cv2.copyTo(colours, mask), side)[solid] / number[solid][:, None]) for colours in (fit.own, fit.seen)
    )
    weight = number[solid]
    colour = delta_e(own_lab, seen_lab)
    hue = _turn(own_lab, seen_lab, weight, 3 * GREY if grid.thin else GREY)
    mean = float((colour * weight).sum() / weight.sum())
    order = np.argsort(colour)
    reached = np.cumsum(weight[order]) / weight.sum()
    # Of a tiny product a hundredth is less than a cell, and one cell is what encoders spoil.
    share = min(max(0.01, 3 / colour.size), 0.5)
    worst = float(colour[order][np.searchsorted(reached, 1 - share).clip(0, colour.size - 1)])

    wrong = _around(_cells(fit.left_over**2 * mask, side))
    right = _around(_cells(fit.allowed * mask, side))
    excess = np.sqrt(wrong / np.maximum(right, 1e-6))
    altered = float(number[enough & (excess > EXCESS)].sum() / number.sum())

    placement = fit.placement
    stretch = placement.scale_x / placement.scale_y
    if grid.steep >= PLAIN:  # else nothing inside it tells what is still to be moved
        stretch *= (1 + 2 * fit.move[1] / grid.size[0]) / (1 + 2 * fit.move[3] / grid.size[1])
    light = sum(fit.light) / 3
    verdict = Verdict(
        faithful=True,
        reasons=(),
        placement=placement,
        psnr=round(psnr, 2),
        delta_e=round(mean, 2),
        delta_e_local=round(worst, 2),
        hue=round(hue, 2),
        altered=round(altered, 4),
        light=round(light, 4),
        tint=round(max(abs(channel - light) for channel in fit.light), 4),
        sharpness=round(fit.sharpness, 3),
        stretch=round(stretch - 1, 4),
        coverage=round(fit.coverage, 4),
    )
    if float(cv2.meanStdDev(fit.luma)[1][0, 0]) < BLANK:
        reasons: tuple[str, ...] = ("the result is blank where the product should be",)
    else:
        reasons = tuple(_reasons(verdict, limits))
    return replace(verdict, faithful=not reasons, reasons=reasons)


def _turn(own: Array, seen: Array, weight: Array, chroma: float) -> float:
    """Degrees by which hues are turned as a whole; 0 for a product of hardly more than this chroma."""
    a, b, other_a, other_b = own[:, 1], own[:, 2], seen[:, 1], seen[:, 2]
    along = float((weight * (a * other_a + b * other_b)).sum())
    across = float((weight * (a * other_b - b * other_a)).sum())
    # A few steps of chroma are what re-encoding leaves of a grey.
    grey = float(weight.sum()) * chroma**2
    return math.degrees(math.atan2(across, max(along, 0) + grey))


def with_spot(verdict: Verdict, spot: Spot | None, limits: Thresholds) -> Verdict:
    """The verdict, and what the closest look found."""
    if spot is None:
        return verdict
    verdict = replace(verdict, spot=round(spot.excess, 2), spot_x=spot.x, spot_y=spot.y)
    if spot.excess <= limits.max_spot:
        return verdict
    reason = (
        f"a spot at ({spot.x}, {spot.y}) differs by {spot.excess:.1f} times what encoding explains "
        f"(at most {limits.max_spot:.1f})"
    )
    return replace(verdict, faithful=False, reasons=(*verdict.reasons, reason))


def _lab(colours: Array) -> Array:
    """CIE L*a*b* (D65) of a list of sRGB colours of 0 to 255."""
    import cv2
    import numpy as np

    row = np.minimum(colours / np.float32(255), np.float32(1))[None].astype(np.float32)
    return np.asarray(cv2.cvtColor(row, cv2.COLOR_RGB2Lab))[0].astype(float)


def _cells(values: Array, side: int) -> Array:
    """Sums over squares of ``side`` px; the last row and column may be smaller."""
    import cv2
    import numpy as np

    height, width = values.shape[:2]
    rows, columns = -(-height // side), -(-width // side)
    whole = cv2.copyMakeBorder(values, 0, rows * side - height, 0, columns * side - width, cv2.BORDER_CONSTANT, value=0)
    means = cv2.resize(whole.astype(np.float32, copy=False), (columns, rows), interpolation=cv2.INTER_AREA)
    return np.asarray(means * np.float32(side * side))


def _around(cells: Array) -> Array:
    """Sums over 3 x 3 cells of what is never negative."""
    import cv2
    import numpy as np

    # The filter adds and takes away along a row, which leaves a little less than nothing.
    return np.maximum(cv2.boxFilter(cells, -1, (3, 3), normalize=False, borderType=cv2.BORDER_CONSTANT), 0)


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
