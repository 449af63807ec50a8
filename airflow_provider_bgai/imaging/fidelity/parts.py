"""Parts that were invented onto the product: a handle, a spout, a foot.

Such a part is an even zone that begins at the outline without an edge, in colours that change along it as the product's
do there, and ends at an edge against the scene. What goes on out of the view, or is out of focus, is the scene's. One
trait alone proves nothing (a prop may happen to have the colour of the rim it stands behind), so they are weighed
together. The weights are those of a logistic regression over made cases of ``benchmarks.fidelity``, seeds 700 to 702
and 705, and hold for products that were left out of it; the limits were set with 505, 606 and 704 to 709 as well.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING

from airflow_provider_bgai.imaging.fidelity.rim import BAND, FAR, Rim
from airflow_provider_bgai.imaging.fidelity.surroundings import ALIKE, Surroundings, difference

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    Mask = NDArray[np.bool_]

EVEN = (1.2, 2.4, 4.8)  # CIELAB a px, up to which a zone is even: parts have shades and grain
SMALLEST, LARGEST = 0.005, 0.18  # of the product's area: an even zone, which is less than the part itself
CONTACT = 0.01  # of the product's size: the shortest stretch of outline at which a part begins
SEAM = 14.0  # CIELAB, between product and zone: from this on it is none of its parts
AT_THE_RIM = 12.0  # the same, in three of four points, to the colours of the rim itself
BY_CHANCE = 1.2  # the score of a zone of which nothing is known, so that of 1,000 honest pictures 3 are flagged
CLEAR = 40.0  # CIELAB of contrast: more counts no more
SHARP, SOFT = 0.21, 0.17  # slope a px, as a share of the contrast: below it an edge is softer, and is not a part's
MARGIN = 2  # px: what comes so near to the view's end goes on there
CUT = 3.0  # times the length at which a zone touches the product: what the picture's frame cuts wider goes on there
FLAT, EVENER = 1.45, 0.65  # CIELAB, standard deviation: a wall or the inside of a shadow; a share of the product's
VISIBLE = 2.0  # CIELAB
GRAIN = 4.0  # squared CIELAB of change that says nothing
BESIDE, UNDER = BAND + 0.4, 1  # where colours are taken that go on: px outside the outline, and which depth inside


@dataclass(frozen=True)
class Zone:
    """An even part of the surroundings."""

    mask: Mask  # of the whole view
    window: tuple[slice, slice]  # rows and columns of the view: the zone and what is next to it
    touching: NDArray[np.intp]  # points of the outline at which it begins


def invented_parts(view: Surroundings, rim: Rim) -> Iterator[Mask]:
    """What of a view belongs to a part that the product does not have."""
    import cv2
    import numpy as np

    for zone in _zones(view, rim):
        if _score(view, rim, zone) > 0:
            wider = cv2.dilate(zone.mask.astype(np.uint8), np.ones((5, 5), np.uint8)) > 0
            yield wider & view.around


def _zones(view: Surroundings, rim: Rim) -> Iterator[Zone]:
    """Where colours change by little from px to px, for three meanings of little."""
    import cv2
    import numpy as np

    alike, least = rim.usable & (rim.step < SEAM), max(3, CONTACT * view.size)
    if np.count_nonzero(alike) < least:
        return  # an edge all around: the most frequent case, and what follows costs most
    area = np.count_nonzero(view.alpha > 127)
    free = view.around & (view.far > BAND)
    round_ = cv2.getStructuringElement(cv2.MORPH_ELLIPSE, (3, 3))
    corner = np.array(view.alpha.shape[::-1]) - 1
    last = corner + 1 - MARGIN
    frame = view.within & (cv2.erode(view.within.astype(np.uint8), np.ones((3, 3), np.uint8)) == 0)
    ahead = [np.clip((rim.points + step * rim.normals).round().astype(int), 0, corner) for step in (5.0, 4.0, 3.0)]
    for even in EVEN:
        zones = cv2.morphologyEx((free & (view.slope < even)).astype(np.uint8), cv2.MORPH_OPEN, round_)
        _, labels = cv2.connectedComponents(zones, connectivity=4)
        first = np.zeros(len(rim.points), np.intp)  # the zone that begins at each point of the outline; 0: none
        for places in ahead:
            there = labels[places[:, 1], places[:, 0]]
            first = np.where(there > 0, there, first)
        first[~rim.usable] = 0
        touched = np.bincount(first[alike])
        touched[0] = 0
        cut = np.bincount(labels[frame], minlength=len(touched))
        for label in np.flatnonzero(touched >= least):
            touching = np.flatnonzero(first == label)
            if cut[label] > CUT * len(touching) or not _begins(rim, touching):
                continue
            part = (labels == label).astype(np.uint8)
            left, top, width, height = cv2.boundingRect(part)
            ends = left > MARGIN and top > MARGIN and left + width < last[0] and top + height < last[1]
            if not (ends and SMALLEST * area < cv2.countNonZero(part) < LARGEST * area):
                continue
            window = slice(max(0, top - 10), top + height + 10), slice(max(0, left - 10), left + width + 10)
            mask = np.zeros(view.alpha.shape, bool)
            own = cv2.dilate(part[window], np.ones((3, 3), np.uint8)) > 0
            mask[window] = own & free[window]
            yield Zone(mask, window, touching)


def _begins(rim: Rim, touching: NDArray[np.intp]) -> bool:
    """Whether what lies along these points may go on from the product: from its rim, and not from farther inside."""
    import numpy as np

    nearest = rim.nearest[touching]
    nearest = nearest[nearest < FAR]
    return bool(len(nearest) and np.median(rim.step[touching]) <= SEAM and np.quantile(nearest, 0.75) <= AT_THE_RIM)


def _score(view: Surroundings, rim: Rim, zone: Zone) -> float:
    """More than 0: a part that was invented. What costs most to know is asked last, and only where it matters."""
    import numpy as np

    steps = rim.step[zone.touching]
    rest = int(np.count_nonzero(rim.continued)) - int(np.count_nonzero(rim.continued[zone.touching]))
    score = BY_CHANCE
    score -= 0.48 * float(np.median(steps)) + 0.36 * min(float(np.quantile(steps, 0.75)), 15.0)
    score -= 6.2 * rest / max(1, int(np.count_nonzero(rim.usable)))  # there the rim tells nothing of what lies behind
    score += 1.16 * _following(view, rim, zone)
    if score + math.log1p(CLEAR) <= 0:
        return score
    contrast, steep = _border(view, zone)
    if steep < SOFT:
        return -math.inf
    score += math.log1p(min(contrast, CLEAR)) - 24 * max(0.0, SHARP - steep)
    score -= 2.0 * _flat(view, rim, zone)
    if score <= 0:
        return score
    return score - 41 * min(view.elsewhere(zone.mask, min(ALIKE, contrast / 2)), 0.15)


def _following(view: Surroundings, rim: Rim, zone: Zone) -> float:
    """Whether colours change along the zone's beginning as the product's do there: 0 where neither changes."""
    import numpy as np

    own = rim.own[zone.touching]
    own = np.where(own[:, UNDER] < FAR, own[:, UNDER], own[:, 0])
    known = own[:, 0] < FAR
    if not known.any():
        return 0.0
    seen, _, _ = view.sampled(rim.points[zone.touching], rim.normals[zone.touching], [BESIDE])
    own, beside = own[known], seen[known, 0]
    own, beside = own - own.mean(0), beside - beside.mean(0)
    changes, differs = (float((each**2).sum(1).mean()) for each in (own, beside - own))
    return math.log((changes + GRAIN) / (differs + GRAIN))


def _flat(view: Surroundings, rim: Rim, zone: Zone) -> bool:
    """Whether it is evener than the product is beside it, which has light and grain, and not quite of its colour."""
    import cv2
    import numpy as np

    if np.median(rim.step[zone.touching]) < VISIBLE:
        return False
    own = rim.own[zone.touching]
    own = own[own[..., 0] < FAR]
    part = zone.mask[zone.window]
    inner = cv2.erode(part.astype(np.uint8), np.ones((5, 5), np.uint8)) > 0
    seen = view.colours[zone.window][inner if np.count_nonzero(inner) > 20 else part]
    spread, own_spread = (math.sqrt(float(each.var(0).sum())) for each in (seen, own))
    return spread < min(FLAT, EVENER * own_spread)


def _border(view: Surroundings, zone: Zone) -> tuple[float, float]:
    """Of what bounds a zone away from the product: contrast (CIELAB, of all but 30 %) and sharpness.

    Sharpness: steepest slope in px over the contrast; a soft shadow has 0.1.
    """
    import cv2
    import numpy as np

    part, outside = zone.mask[zone.window], view.outside[zone.window]
    colours, far = view.smooth[zone.window], view.far[zone.window]
    shape = part.astype(np.uint8)
    small, large = np.ones((5, 5), np.uint8), np.ones((7, 7), np.uint8)
    ring = (cv2.dilate(shape, small) > 0) & ~part & (far > 5) & outside
    inner = cv2.erode(shape, np.ones((3, 3), np.uint8)).astype(np.float32)
    inner = inner if inner.sum() >= 5 else shape.astype(np.float32)
    outer = (outside & (cv2.dilate(shape, large) == 0) & (far > 4)).astype(np.float32)
    sums = [cv2.boxFilter(colours * each[..., None], -1, (11, 11), normalize=True) for each in (inner, outer)]
    counts = [cv2.boxFilter(each, -1, (11, 11), normalize=True) for each in (inner, outer)]
    known = ring & (counts[0] > 1e-3) & (counts[1] > 1e-3)
    if np.count_nonzero(known) < 6:
        return 0.0, 0.0
    sides = [np.asarray(total[known] / count[known][:, None]) for total, count in zip(sums, counts, strict=True)]
    contrast = difference(sides[0], sides[1])
    steep = cv2.dilate(view.slope[zone.window], np.ones((3, 3), np.uint8))[known] / np.maximum(contrast, 1)
    return float(np.quantile(contrast, 0.3)), float(np.median(steep))
