"""Where a product may be that is all strokes: hair-thin, or line art, with hardly any inside to be known by.

Small, such a product is a trace of its colours over what lies behind, whether that is lighter or darker. So the result
is asked, px by px, how much of one of the product's colours over what is around explains what is seen: an alpha of
strokes, in which the cut-out's own alpha is looked for.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from airflow_provider_bgai.imaging.fidelity.colour import colour_groups
from airflow_provider_bgai.imaging.fidelity.product import OPAQUE, Placement, Product, at_least

if TYPE_CHECKING:
    from airflow_provider_bgai.imaging.fidelity.product import Array, Levels

SEARCH = 256  # px, longer side of the result in the search
FRAME = 8  # px around it: a product may touch the frame
SMALLEST = 0.1  # of the result's longer side: a product is not searched for below this size
STEP = 1.035  # from one scale to the next
SOFT = 1.2  # px by which strokes are softened: from one scale to the next their ends move by more
BEHIND = 11  # px over which is taken what lies behind: more than a stroke
COLOURS = 4  # groups of the strokes' colours
NOISE = 6.0  # levels that are no stroke
FAINT = 0.01  # squared alpha of strokes, below which a likeness is chance
CHANCE = 1000  # px: the smaller a place, the sooner it is like by chance
LIKELIEST = 4  # places


def stroke_places(product: Product, picture: Levels) -> list[Placement]:
    """The few best of all scales and places, the likeliest first."""
    import cv2
    import numpy as np

    high, wide = picture.shape[:2]
    ratio = min(1.0, SEARCH / max(wide, high))
    size = max(8, round(wide * ratio)), max(8, round(high * ratio))
    ratio_x, ratio_y = size[0] / wide, size[1] / high
    small = cv2.resize(picture, size, interpolation=cv2.INTER_AREA)
    seen = _strokes(cv2.copyMakeBorder(small, FRAME, FRAME, FRAME, FRAME, cv2.BORDER_REPLICATE), _colours(product))
    left, top, right, bottom = product.tight
    scale = min(size[0] / (right - left), size[1] / (bottom - top)) * STEP
    found: list[tuple[float, float, float, float]] = []  # likeness, scale, middle
    while scale * max(product.size) >= SMALLEST * SEARCH:
        width, height = (max(3, round(side * scale)) for side in product.size)
        width, height = min(width, seen.shape[1]), min(height, seen.shape[0])
        own = cv2.resize(product.alpha, (width, height), interpolation=cv2.INTER_AREA).astype(np.float32)
        score = _likeness(seen, cv2.GaussianBlur(own / np.float32(255), (0, 0), SOFT))
        for _ in range(2):
            _, best, _, (x, y) = cv2.minMaxLoc(score)
            found.append((best, scale, x + width / 2 - FRAME, y + height / 2 - FRAME))
            score[max(0, y - 4) : y + 5, max(0, x - 4) : x + 5] = -1
        scale /= STEP
    places = []
    for at_scale, across, down in _apart(sorted(found, reverse=True)):
        half_x, half_y = (side * at_scale / 2 for side in product.size)
        box = across - half_x, down - half_y, across + half_x, down + half_y
        places.append(product.place((box[0] / ratio_x, box[1] / ratio_y, box[2] / ratio_x, box[3] / ratio_y)))
    return places


def _apart(found: list[tuple[float, float, float, float]]) -> list[tuple[float, float, float]]:
    """The first few, each but once: its neighbours in place and scale mean the same."""
    kept: list[tuple[float, float, float]] = []
    for _, scale, x, y in found:
        if not any(math.hypot(a - x, b - y) < 4 and max(c / scale, scale / c) < STEP**1.5 for c, a, b in kept):
            kept.append((scale, x, y))
        if len(kept) == LIKELIEST:
            break
    return kept


def _likeness(seen: Array, own: Array) -> Array:
    """How well the strokes correlate at every place, 0 where next to nothing is seen."""
    import cv2
    import numpy as np

    height, width = own.shape
    centred = own - own.mean()
    total, squared = (
        cv2.boxFilter(each, -1, (width, height), anchor=(0, 0), normalize=False)[
            : seen.shape[0] - height + 1, : seen.shape[1] - width + 1
        ]
        for each in (seen, seen**2)
    )
    spread = np.maximum(squared - total**2 / own.size, 0)
    faint = np.float32(FAINT * (own.size + CHANCE))
    both = np.sqrt((spread + faint) * (float((centred**2).sum()) + faint))
    return np.asarray(cv2.matchTemplate(seen, centred, cv2.TM_CCORR) / both)


def _strokes(picture: Levels, colours: Array) -> Array:
    """0 to 1: how much of one of these colours over what is around explains a px, and how well."""
    import cv2
    import numpy as np

    behind = cv2.medianBlur(picture, BEHIND).astype(np.float32)
    change = picture.astype(np.float32) - behind
    noise = np.float32(NOISE**2)
    power = (change**2).sum(-1) + noise
    most = np.zeros(power.shape, np.float32)
    for colour in colours:
        towards = colour - behind
        alpha = np.clip((change * towards).sum(-1) / ((towards**2).sum(-1) + noise), 0, 1)
        left_over = ((change - alpha[..., None] * towards) ** 2).sum(-1)
        most = np.maximum(most, alpha * np.clip(1 - left_over / power, 0, 1))
    return np.asarray(cv2.GaussianBlur(most, (0, 0), SOFT))


def _colours(product: Product) -> Array:
    """Of the strokes, in a few groups."""
    colours, _ = colour_groups(product.cut[at_least(product.alpha, OPAQUE) > 0][:, :3], COLOURS)
    return colours
