"""Where in the result the product may be: the places worth a look first, and the best of all scales and places."""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import TYPE_CHECKING

from airflow_provider_bgai.imaging.fidelity.product import Placement, Product, slopes
from airflow_provider_bgai.imaging.small import halved

if TYPE_CHECKING:
    from airflow_provider_bgai.imaging.fidelity.product import Array, Levels

SEARCH = 112  # px, longer side of the result in the search
FRAME = 6  # px around the small result in the search
STEEPEST = 0.25  # of the range a px, from which one edge is as good as any other in the search
LIKELIEST = 16  # places that are fitted
SMALLEST = 0.14  # of the result's longer side: a product is not searched for below this size


def likely(product: Product, picture: Levels, hint: tuple[int, int, int, int] | None) -> Iterable[Placement]:
    """Placements worth a look before any search: where it was, the whole canvas scaled, what the vendor says."""
    wide, high = picture.shape[1], picture.shape[0]
    scale_x, scale_y = wide / product.whole[0], high / product.whole[1]
    # A size in whole pixels keeps the aspect to half a pixel.
    if abs(scale_x / scale_y - 1) <= 1 / min(wide, high):
        yield Placement(0.0, 0.0, scale_x, scale_y)
    if hint is not None and hint[2] > 0 and hint[3] > 0:
        x, y, width, height = hint
        # Far outside the frame it is nonsense, and cutting it out would take memory.
        slack_x, slack_y = wide / 20, high / 20
        if -slack_x <= x <= x + width <= wide + slack_x and -slack_y <= y <= y + height <= high + slack_y:
            yield product.place((x, y, x + width, y + height), product.tight)


def best_places(product: Product, picture: Levels) -> list[Placement]:
    """The few best of all scales and places."""
    import cv2
    import numpy as np
    from PIL import Image

    scene = _Scene(picture)
    left, top, right, bottom = product.tight
    # A little more than fits, because a size on so small a picture is not exact.
    scale = min(scene.width / (right - left), scene.height / (bottom - top)) * 1.03
    cut = Image.fromarray(halved(product.cut, max(0, math.floor(-math.log2(scale)) - 1)))
    found: list[tuple[float, Placement]] = []
    while scale * max(product.size) >= SMALLEST * SEARCH:
        width, height = (max(3, round(side * scale)) for side in product.size)
        width, height = min(width, scene.width + 2 * FRAME), min(height, scene.height + 2 * FRAME)
        template = cut.resize((width, height), Image.Resampling.BOX, reducing_gap=2)
        score = scene.score(np.asarray(template), product.colour)
        half_x, half_y = product.size[0] * scale / 2, product.size[1] * scale / 2
        for _ in range(2):
            _, best, _, (x, y) = cv2.minMaxLoc(score)
            middle_x, middle_y = x + width / 2 - FRAME, y + height / 2 - FRAME
            box = (
                (middle_x - half_x) / scene.ratio_x,
                (middle_y - half_y) / scene.ratio_y,
                (middle_x + half_x) / scene.ratio_x,
                (middle_y + half_y) / scene.ratio_y,
            )
            found.append((best, product.place(box)))
            score[max(0, y - 4) : y + 5, max(0, x - 4) : x + 5] = -math.inf
        scale /= 1.07
    found.sort(key=lambda each: -each[0])
    return [placement for _, placement in found[:LIKELIEST]]


class _Scene:
    """A result, small, in which templates are looked for."""

    def __init__(self, picture: Levels) -> None:
        import cv2
        import numpy as np

        high, wide = picture.shape[:2]
        ratio = min(1.0, SEARCH / max(wide, high))
        self.width, self.height = (max(8, round(side * ratio)) for side in (wide, high))
        self.ratio_x, self.ratio_y = self.width / wide, self.height / high
        small = cv2.resize(picture, (self.width, self.height), interpolation=cv2.INTER_AREA)
        # A product may touch the frame, and what is just outside its outline then lies beyond it.
        framed = cv2.copyMakeBorder(small, FRAME, FRAME, FRAME, FRAME, cv2.BORDER_REPLICATE)
        colours = framed.astype(np.float32) / np.float32(255)
        self.channels = cv2.split(colours)
        self.squared = (colours**2).sum(-1)
        self.edges = _edges(colours)
        self.steep = self.edges**2

    def score(self, template: Levels, colour: tuple[int, ...]) -> Array:
        """For every place a template (RGBA) fits: do its edges and outline correlate, and are its colours there?"""
        import cv2
        import numpy as np

        alpha = template[..., 3].astype(np.float32)[..., None] / np.float32(255)
        colours = (template[..., :3] * alpha + np.array(colour, np.float32) * (1 - alpha)) / np.float32(255)
        solid = alpha[..., 0] ** 2
        around = cv2.dilate(alpha[..., 0], np.ones((3, 3), np.uint8))
        outline = cv2.magnitude(*slopes(np.pad(solid, 1)))[1:-1, 1:-1]
        edges = np.maximum(_edges(colours), np.minimum(2 * outline, 1) * np.float32(STEEPEST))
        total, whole = float(around.sum()) + 1e-6, float(solid.sum()) + 1e-6
        centred = around * (edges - np.float32((around * edges).sum() / total))
        spread = float((centred * edges).sum())
        mean = cv2.matchTemplate(self.edges, around, cv2.TM_CCORR) / total
        spread_seen = cv2.matchTemplate(self.steep, around, cv2.TM_CCORR) - total * mean**2
        likeness = cv2.matchTemplate(self.edges, centred, cv2.TM_CCORR) / np.sqrt(
            (spread + 1e-3 * total) * (np.maximum(spread_seen, 0) + 1e-3 * total)
        )
        # Squared differences term by term: OpenCV takes four times as long with a mask and several channels.
        weighted = colours * solid[..., None]
        squared = cv2.matchTemplate(self.squared, solid, cv2.TM_CCORR) + float((weighted * colours).sum())
        for channel, own in zip(self.channels, cv2.split(weighted), strict=True):
            squared -= 2 * cv2.matchTemplate(channel, own, cv2.TM_CCORR)
        return np.asarray(likeness - 3 * np.sqrt(np.maximum(squared, 0) / (3 * whole)))


def _edges(colours: Array) -> Array:
    """How steep a picture is, capped, so that a strong edge counts no more than a clear one."""
    import cv2
    import numpy as np

    slope_x, slope_y = slopes(cv2.transform(colours, np.full((1, 3), 1 / 3, np.float32)))
    return np.minimum(cv2.magnitude(slope_x, slope_y), np.float32(STEEPEST))
