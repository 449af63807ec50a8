"""The product continued beyond its silhouette: wider all around or along a stretch, and with what parts it grew.

The rim of a cut-out is an edge in an honest result, too: what lies behind has nothing of the product. Where there is no
edge, the product's colours go on; how far, is told by the next edge. What has no such edge (a soft shadow, a white
wall behind a white rim) and what is found all over the scene (stripes, tiles) is no growth.

What is not seen: a rim or part of less than some 3 px in the result, at a translucent rim, or in the very colours of
what is behind it.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from airflow_provider_bgai.imaging.fidelity.parts import invented_parts
from airflow_provider_bgai.imaging.fidelity.rim import SAME, SOLID, Rim, rim_of
from airflow_provider_bgai.imaging.fidelity.surroundings import Outline, Surroundings, difference, looked_around

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from airflow_provider_bgai.imaging.fidelity.product import Array, Placement, Product

    Mask = NDArray[np.bool_]
    Levels = NDArray[np.uint8]

FILIGREE = 0.25  # share of a product that is outline, beyond which the scene is everywhere in it: nothing is told
EDGE = 10.0  # CIELAB: an edge at which something ends
REACH = 0.12  # of the product's size: how wide a rim may have grown
RUN = 0.06  # of the product's size: the shortest stretch of outline that counts as grown
ALONG = 0.15  # of the outline, along which a product has grown; less is a thing of its colour behind it, or a part
ALL_AROUND = 0.4  # of the outline: so far no scene follows it, whatever its colours
ELSEWHERE = 0.09  # of the surroundings: from this on a colour is that of the scene


@dataclass(frozen=True)
class Growth:
    """How much of the product's area lies past its outline, and where."""

    share: float = 0.0
    outlines: tuple[Outline, ...] = ()


def grown(product: Product, picture: Levels, placement: Placement) -> Growth:
    """What has the product's colours, touches it, and ends at an edge of its own."""
    import numpy as np

    view = looked_around(product, picture, placement)
    if view is None or _all_rim(view) > FILIGREE:
        return Growth()
    rim = rim_of(view)
    if rim is None:
        return Growth()
    found = [*_widened(view, rim), *invented_parts(view, rim)]
    if not found:
        return Growth()
    area = np.count_nonzero(view.alpha > 127)
    together = np.zeros(view.alpha.shape, bool)
    for mask in found:
        together |= mask
    share = float(np.count_nonzero(together) / area)
    return Growth(round(share, 4), tuple(view.outlines(together)))


def _all_rim(view: Surroundings) -> float:
    """The share of the product that is its outline: 0.02 to 0.1 for a box or a guitar, 0.4 for a bicycle."""
    import cv2
    import numpy as np

    own = (view.alpha > 127).astype(np.uint8)
    inner = cv2.erode(own, np.ones((3, 3), np.uint8), borderValue=0)
    return 1 - cv2.countNonZero(inner) / max(1, cv2.countNonZero(own))


def _widened(view: Surroundings, rim: Rim) -> Iterator[Mask]:
    """Stretches of the outline along which the product's colours end at an edge farther out, at much the same width."""
    import cv2
    import numpy as np

    reach = max(8, round(REACH * view.size))
    going_on = np.flatnonzero(rim.continued)
    if not going_on.size:
        return
    width = np.zeros(len(rim.points))
    for first in range(0, len(going_on), 512):
        some = going_on[first : first + 512]
        width[some] = _width(view, rim.points[some], rim.normals[some], reach)
    along = int(np.count_nonzero(width)) / max(1, int(np.count_nonzero(rim.usable)))
    if along < ALONG:
        return
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
            if grown_here.any() and (along > ALL_AROUND or view.elsewhere(grown_here) < ELSEWHERE):
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
