"""The product continued beyond its silhouette, and parts that were invented onto it.

The rim of a cut-out is an edge in an honest result, too: what lies behind has nothing of the product. Where there is no
edge, the product's colours go on; how far, is told by the next edge. What has no such edge (a soft shadow, a white
wall behind a white rim) and what is found all over the scene (stripes, tiles) is no growth.

What is not seen: a rim or part of less than some 3 px in the result, at a translucent rim, or in the very colours of
what is behind it.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from airflow_provider_bgai.imaging.fidelity.surroundings import ALIKE, Outline, Surroundings, difference, looked_around

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from airflow_provider_bgai.imaging.fidelity.product import Array, Placement, Product

    Mask = NDArray[np.bool_]
    Levels = NDArray[np.uint8]

DEPTHS = (1.5, 2.0, 3.0, 4.0, 5.5, 7.0, 9.0)  # px inside the outline at which the product's colours are taken
SOLID = 200  # alpha from which they are its own
BAND = 2.2  # px about the outline that encoding and resampling mix
LIGHTLY = (0.7, 1.0, 1.0)  # what L*, a* and b* count where light may differ
SAME, OTHER = 7.0, 18.0  # CIELAB: up to which colours go on, from which an edge is certain
EDGE = 10.0  # CIELAB: an edge at which something ends
REACH = 0.12  # of the product's size: how wide a rim may have grown
RUN = 0.06  # of the product's size: the shortest stretch of outline that counts as grown
PATCH = 0.006  # of the product's area: the smallest part
ELSEWHERE = 0.09  # of the surroundings: from this on a colour is that of the scene


@dataclass(frozen=True)
class Growth:
    """How much of the product's area lies past its outline, and where."""

    share: float = 0.0
    outlines: tuple[Outline, ...] = ()


@dataclass(frozen=True)
class Rim:
    """The outline in points, and whether the product's colours go on there."""

    points: NDArray[Any]  # whole px of the view, one after the other, (number, 2)
    line: NDArray[np.intp]  # which closed line each belongs to
    normals: Array  # outwards
    own: Array  # L*, a*, b* of the product at DEPTHS; far from any colour where it is not solid
    beyond: Array  # L*, a*, b* just outside
    step: Array  # CIELAB: from what is just outside to the nearest of the product's own
    usable: Mask

    @property
    def continued(self) -> Mask:
        return self.usable & (self.step < SAME)


def grown(product: Product, picture: Levels, placement: Placement) -> Growth:
    """What has the product's colours, touches it, and ends at an edge of its own."""
    import numpy as np

    view = looked_around(product, picture, placement)
    if view is None:
        return Growth()
    rim = _rim(view)
    if rim is None or np.count_nonzero(rim.continued) < 0.02 * view.size:
        return Growth()
    found = [*_widened(view, rim), *_parts(view, rim)]
    if not found:
        return Growth()
    area = np.count_nonzero(view.alpha > 127)
    together = np.zeros(view.alpha.shape, bool)
    for mask in found:
        together |= mask
    share = float(np.count_nonzero(together) / area)
    return Growth(round(share, 4), tuple(view.outlines(together)))


def _rim(view: Surroundings) -> Rim | None:
    import cv2
    import numpy as np

    solid = (view.alpha > 127).astype(np.uint8)
    contours, _ = cv2.findContours(solid, cv2.RETR_CCOMP, cv2.CHAIN_APPROX_NONE)
    lines = [each[:, 0] for each in contours if len(each) >= 8]
    if not lines:
        return None
    points = np.concatenate(lines)
    x, y = points[:, 0], points[:, 1]
    soft = cv2.GaussianBlur(view.alpha, (0, 0), 1.5)
    along, down = (cv2.Sobel(soft, cv2.CV_32F, *order)[y, x] for order in ((1, 0), (0, 1)))
    normals = -np.stack([along, down], 1) / np.maximum(np.hypot(along, down), 1e-3)[:, None]
    own, alpha, _ = view.sampled(points, normals, [-depth for depth in DEPTHS])
    opaque = alpha >= SOLID
    own = np.where(opaque[..., None], own, np.float32(1e4))
    outside, alpha, within = view.sampled(points, normals, [BAND, BAND + 0.8])
    usable = np.asarray((alpha < 20).all(1) & within.all(1) & opaque.any(1))
    step = difference(outside[:, :, None], own[:, None]).min(2).mean(1)
    numbers = np.repeat(np.arange(len(lines)), [len(each) for each in lines])
    return Rim(points, numbers, normals, own, outside.mean(1), step, usable)


def _widened(view: Surroundings, rim: Rim) -> Iterator[Mask]:
    """Stretches of the outline along which the product's colours end at an edge farther out, at much the same width."""
    import cv2
    import numpy as np

    reach = max(8, round(REACH * view.size))
    going_on = np.flatnonzero(rim.continued)
    width = np.zeros(len(rim.points))
    for first in range(0, len(going_on), 512):
        some = going_on[first : first + 512]
        width[some] = _width(view, rim.points[some], rim.normals[some], reach)
    around = np.count_nonzero(width) > 0.4 * np.count_nonzero(rim.usable)
    for number in range(int(rim.line.max()) + 1):
        line = np.flatnonzero(rim.line == number)
        for start, length in _runs(width[line]):
            if length < max(5.0, RUN * view.size):
                continue
            run = line[(start + np.arange(length)) % len(line)]
            outer = rim.points[run] + rim.normals[run] * width[run, None]
            mask = np.zeros(view.alpha.shape, np.uint8)
            shape = np.concatenate([rim.points[run], outer[::-1]]).round().astype(np.int32)
            cv2.fillPoly(mask, [shape], 1)
            grown_here = (mask > 0) & view.outside
            if grown_here.any() and (around or view.elsewhere(grown_here) < ELSEWHERE):
                yield grown_here


def _width(view: Surroundings, points: NDArray[Any], normals: Array, reach: int) -> Array:
    """How far out, in px, the colours of the product go on up to an edge; 0 where they do not, or end nowhere."""
    import numpy as np

    steps = np.arange(1, reach + 1)
    inner, alpha_in, _ = view.sampled(points, normals, [-float(step) for step in steps])
    outer, alpha, within = view.sampled(points, normals, [float(step) for step in steps])
    inner = np.where((alpha_in >= SOLID)[..., None], inner, np.float32(1e4))
    inner[:, 0] = 1e4
    apart = np.full(outer.shape[:2], np.inf, np.float32)
    for depth in range(1, reach):
        # What is seen at some distance outside may show what is about as deep inside.
        allowed = depth + 1 <= 1.5 * steps + 3
        apart[:, allowed] = np.minimum(apart[:, allowed], difference(outer[:, allowed], inner[:, depth, None]))
    like = apart < SAME + 1
    like[:, 0] = True
    width = np.minimum.accumulate(like, 1).sum(1)
    free = (alpha < 8) & within
    free[:, 0] = True
    number = np.arange(len(points))
    before, after = np.clip(width - 2, 0, reach - 1), np.clip(width + 1, 0, reach - 1)
    ends = difference(outer[number, after], outer[number, before]) > EDGE
    good = (width >= 2) & (width < reach - 2) & ends & np.minimum.accumulate(free, 1)[number, after]
    return np.where(good, width, 0).astype(float)


def _runs(width: Array) -> Iterator[tuple[int, int]]:
    """Stretches (start, length) of a closed line where there is a width, and it changes by little."""
    import numpy as np

    before = np.roll(width, 1)
    linked = (width > 0) & (before > 0) & (np.abs(width - before) <= 2)
    if linked.all():
        yield 0, len(width)
        return
    breaks = np.flatnonzero(~linked)
    for start, following in zip(breaks, np.roll(breaks, -1), strict=True):
        length = int((following - start) % len(width)) or len(width)
        if width[start] > 0 and length > 1:
            yield int(start), length


def _parts(view: Surroundings, rim: Rim) -> Iterator[Mask]:
    """What water from the outline reaches first, where nothing holds it back there but everything does farther out."""
    import cv2
    import numpy as np

    basin, far, colours = _flooded(view, rim)
    number, labels, facts, _ = cv2.connectedComponentsWithStats(basin, connectivity=4)
    area = np.count_nonzero(view.alpha > 127)
    slope = _slope(colours)
    ahead = np.clip((rim.points + 3.5 * rim.normals).round().astype(int), 0, np.array(labels.shape[::-1]) - 1)
    for label in range(1, number):
        if facts[label, cv2.CC_STAT_AREA] < PATCH * area:
            continue
        part = labels == label
        near = cv2.dilate(part.astype(np.uint8), np.ones((3, 3), np.uint8)) > 0
        touching = near[ahead[:, 1], ahead[:, 0]] & rim.usable
        steps = rim.step[touching]
        if np.count_nonzero(steps < SAME) < max(3, 0.015 * view.size):
            continue
        contrast, steep, seen, shadow = _border(view, part, far, slope)
        if (
            seen > 0.4
            and not shadow
            and contrast > 6
            and steep > 0.21
            and float(np.median(steps)) < min(4.5, 1 + contrast / 6)
            and _likeness(colours[part], rim, touching) > 0.5
            and view.elsewhere(part, min(ALIKE, contrast / 2)) < ELSEWHERE
        ):
            yield part


def _flooded(view: Surroundings, rim: Rim) -> tuple[Levels, Array, Array]:
    """A watershed between the product, which flows out where its colours go on, and its surroundings.

    :returns: what the product's water reached, how far each px is from the outline, and L*, a*, b*.
    """
    import cv2
    import numpy as np

    x, y = rim.points[:, 0], rim.points[:, 1]
    line = np.ones(view.alpha.shape, np.uint8)
    line[y, x] = 0
    far, labels = cv2.distanceTransformWithLabels(line, cv2.DIST_L2, 5, labelType=cv2.DIST_LABEL_PIXEL)
    order = np.zeros(int(labels.max()) + 1, np.intp)
    order[labels[y, x]] = np.arange(len(x))
    colours = np.asarray(cv2.GaussianBlur(view.colours, (0, 0), 0.7), np.float32)
    own = rim.own[np.arange(len(x)), difference(rim.beyond[:, None], rim.own).argmin(1)]
    certain = rim.usable & (rim.step > OTHER)
    # About the outline colours are mixed: there stands what is next to it, the product's or, at an edge, the other.
    band = (far < BAND) | (view.alpha >= 8)
    work = colours.copy()
    work[band] = np.where(certain[:, None], rim.beyond, np.where(rim.usable[:, None], own, rim.beyond))[
        order[labels[band]]
    ]
    water = np.zeros(view.alpha.shape, np.int32)
    water[band] = 1
    thin = (far < BAND) & (view.alpha < 128)
    nearest = order[labels[thin]]
    water[thin] = np.where(certain[nearest], 2, np.where(rim.continued[nearest], 1, 0))
    if np.count_nonzero(certain) < 0.5 * np.count_nonzero(rim.usable):
        # Where the rim hardly tells what lies behind, what is farthest away does.
        border = np.zeros(view.alpha.shape, bool)
        border[:2] = border[-2:] = border[:, :2] = border[:, -2:] = True
        beside = cv2.erode(view.within.astype(np.uint8), np.ones((5, 5), np.uint8), borderValue=1) == 0
        water[(border | (beside & (far > 0.1 * view.size))) & ~band] = 2
    bytes_ = np.clip(np.asarray(work) * 2 + np.array([0, 128, 128]), 0, 255).astype(np.uint8)
    cv2.watershed(bytes_, water)
    reached = ((water == 1) & ~band & view.outside).astype(np.uint8)
    round_ = cv2.getStructuringElement(cv2.MORPH_ELLIPSE, (3, 3))
    opened = np.asarray(cv2.morphologyEx(reached, cv2.MORPH_OPEN, round_), np.uint8)
    return opened, np.asarray(far, np.float32), colours


def _border(view: Surroundings, part: Mask, far: Array, slope: Array) -> tuple[float, float, float, bool]:
    """Of what bounds a part away from the product: contrast (CIELAB, of all but 30 %), sharpness, its share.

    And whether the part may be a shadow: its surroundings, only darker.

    Sharpness: steepest slope in px over the contrast; a soft shadow has 0.1.
    """
    import cv2
    import numpy as np

    shape = part.astype(np.uint8)
    small, large = np.ones((5, 5), np.uint8), np.ones((7, 7), np.uint8)
    ring = (cv2.dilate(shape, small) > 0) & ~part & (far > 5) & view.outside
    inner = cv2.erode(shape, np.ones((3, 3), np.uint8)).astype(np.float32)
    inner = inner if inner.sum() >= 5 else shape.astype(np.float32)
    outer = (view.outside & (cv2.dilate(shape, large) == 0) & (far > 4)).astype(np.float32)
    sums = [cv2.boxFilter(view.colours * each[..., None], -1, (11, 11), normalize=True) for each in (inner, outer)]
    counts = [cv2.boxFilter(each, -1, (11, 11), normalize=True) for each in (inner, outer)]
    known = ring & (counts[0] > 1e-3) & (counts[1] > 1e-3)
    if np.count_nonzero(known) < 6:
        return 0.0, 0.0, 0.0, False
    sides = [np.asarray(total[known] / count[known][:, None]) for total, count in zip(sums, counts, strict=True)]
    contrast = difference(sides[0], sides[1])
    steep = cv2.dilate(slope, np.ones((3, 3), np.uint8))[known] / np.maximum(contrast, 1)
    share = float(np.count_nonzero(known) / np.count_nonzero(ring))
    light = sides[0][:, 0] / np.maximum(sides[1][:, 0], 1)
    tint = np.hypot(*(sides[0][:, 1:] - sides[1][:, 1:] * light[:, None]).T)
    shadow = float(((light < 0.97) & (light > 0.3) & (tint < 5)).mean()) > 0.7
    return float(np.quantile(contrast, 0.3)), float(np.median(steep)), share, shadow


def _slope(colours: Array) -> Array:
    """Levels of CIELAB a px."""
    import cv2
    import numpy as np

    slopes = (cv2.Sobel(colours, cv2.CV_32F, *order, scale=0.125) for order in ((1, 0), (0, 1)))
    return np.asarray(np.sqrt(sum((each**2).sum(-1) for each in slopes)))


def _likeness(colours: Array, rim: Rim, touching: Mask) -> float:
    """The share of a part's px that have colours of the product where it touches, in whatever light."""

    own = rim.own[touching & rim.continued].reshape(-1, 3)
    own = own[own[:, 0] < 1e3]
    if not len(own):
        return 0.0
    own, some = own[:: math.ceil(len(own) / 60)], colours[:: math.ceil(len(colours) / 400)]
    return float((difference(some[:, None] * LIGHTLY, own[None] * LIGHTLY).min(1) < 9).mean())
