"""Where the product may be once more in the scene: places with its colours in their proportions and with its pattern.

Only a cheap look, at a few px; whether it is there is told by who looks at these places closely.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from airflow_provider_bgai.imaging.fidelity.colour import colour_groups
from airflow_provider_bgai.imaging.fidelity.surroundings import lab, shrunk, squared

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from airflow_provider_bgai.imaging.fidelity.product import Array, Box

    Levels = NDArray[np.uint8]

SEARCHED, LARGEST = 56, 224  # px in the search, longer side: of the product, and at most of the result
SCALES = tuple(0.28 * 1.17**step for step in range(10))  # of a copy, where the product's is 1
COLOURS = 8  # groups of colours that the product's proportions are told by
CLOSE, MARGIN = 56, 4  # px, longer side of the product when a place is looked at closely, and around it
LEAST = 20  # px in the result, longer side of a copy
LIKELY = 0.42  # of the product's colours, in their proportions, from which a place is worth a look
SHADE = 16.0  # CIELAB, with half of the lightness, up to which a colour may be one of the product in another light
LOOKED_AT = 6  # places, at most
SEEN = 0.42  # share of a copy that is in sight, at least


@dataclass(frozen=True)
class Pose:
    """Of a copy: its middle in px of the result, its size where the product's is 1, radians it is turned by."""

    x: float
    y: float
    scale: float
    turn: float = 0.0
    mirrored: bool = False


class Small:
    """The product small: as it is laid over places where it may be."""

    def __init__(self, pixels: Levels, box: Box) -> None:
        import cv2
        import numpy as np

        width, height = box[2] - box[0], box[3] - box[1]
        factor = CLOSE / max(width, height)
        size = max(4, round(width * factor)), max(4, round(height * factor))
        self.twice = shrunk(pixels, (2 * size[0], 2 * size[1]))
        small = cv2.resize(self.twice, size, interpolation=cv2.INTER_AREA)
        padded = np.pad(small, ((MARGIN,) * 2, (MARGIN,) * 2, (0, 0)))
        self.alpha: Levels = np.ascontiguousarray(padded[..., 3])
        own = lab(padded[..., :3])
        solid = self.alpha > 200
        inner = cv2.erode(solid.astype(np.uint8), np.ones((3, 3), np.uint8)) > 0
        rows, columns = np.nonzero(inner if inner.sum() > 0.4 * solid.sum() else solid)
        self.middle = np.array(padded.shape[1::-1], np.float32) / 2
        self.places = self.from_middle(np.stack([columns, rows], 1))  # px of it that are compared
        self.colours: Array = own[rows, columns]
        self.pattern = float(np.sqrt(self.colours.var(0).sum())) if len(rows) else 0.0

    def from_middle(self, places: NDArray[Any]) -> Array:
        """Px of it (x, y), as distances from its middle."""
        import numpy as np

        return np.asarray(places.astype(np.float32) + np.float32(0.5) - self.middle)


def candidates(product: Small, picture: Levels, box: Box) -> Iterator[Pose]:
    """Where the product's colours are in their proportions, the likeliest first."""
    import cv2
    import numpy as np

    width, height = box[2] - box[0], box[3] - box[1]
    ratio = min(1.0, SEARCHED / max(width, height), LARGEST / max(picture.shape))
    size = max(8, round(picture.shape[1] * ratio)), max(8, round(picture.shape[0] * ratio))
    own_size = max(3, round(width * ratio)), max(3, round(height * ratio))
    scene = lab(shrunk(picture, size))
    template = cv2.resize(product.twice, own_size, interpolation=cv2.INTER_AREA)
    alpha = template[..., 3]
    if np.count_nonzero(alpha > 200) < 20:
        return
    colours, shares = colour_groups(lab(template[..., :3])[alpha > 200], COLOURS)
    lightly = np.array([0.5, 1, 1], np.float32)
    own, others = colours * lightly, scene * lightly
    apart = squared(own)[:, None, None] + squared(others) - 2 * np.moveaxis(others @ own.T, -1, 0)
    alike = apart < SHADE**2
    left, top = (max(0, math.floor(edge * ratio) - 1) for edge in box[:2])
    right, bottom = math.ceil(box[2] * ratio) + 1, math.ceil(box[3] * ratio) + 1
    place = max(1, right - left), max(1, bottom - top)
    inner = cv2.resize(product.twice[..., 3], place, interpolation=cv2.INTER_AREA) > 8
    rows, columns = np.nonzero(cv2.dilate(inner.astype(np.uint8), np.ones((3, 3), np.uint8)))
    good = (rows + top < size[1]) & (columns + left < size[0])
    alike[:, rows[good] + top, columns[good] + left] = False
    filled = float((alpha / 255).mean())
    if np.count_nonzero(alike.any(0)) < 0.4 * filled * own_size[0] * own_size[1] * SCALES[0] ** 2:
        return
    # One below the other, with room for a window between them: one filter serves all.
    room = max(own_size) + 8
    ones = np.pad(alike, ((0, 0), (0, room), (0, 0))).astype(np.float32).reshape(-1, size[0])
    visible = np.ones(scene.shape[:2], np.float32)
    visible[rows[good] + top, columns[good] + left] = 0
    shown = _Scene(scene, visible)
    found: list[tuple[float, Pose]] = []
    for scale in SCALES:
        window = max(4, round(own_size[0] * scale)), max(4, round(own_size[1] * scale))
        if max(width, height) * scale < LEAST:
            continue
        area = window[0] * window[1] * filled
        sums = cv2.boxFilter(ones, -1, window, normalize=False, borderType=cv2.BORDER_CONSTANT)
        seen = cv2.boxFilter(visible, -1, window, normalize=True, borderType=cv2.BORDER_CONSTANT)
        whole = np.float32(1) / (np.float32(area) * np.maximum(seen, np.float32(SEEN)))
        found_shares = sums.reshape(len(shares), -1, size[0])[:, : size[1]] * whole
        likely = np.minimum(found_shares, shares[:, None, None], out=found_shares).sum(0)
        if likely.max() < LIKELY:
            continue
        small = np.asarray(cv2.resize(product.twice, window, interpolation=cv2.INTER_AREA), np.uint8)
        own, solid = lab(small[..., :3]), (small[..., 3] > 200).astype(np.float32)
        places = _Places(shown, likely > LIKELY - 0.05, solid.shape)
        for mirrored in (False, True):
            way = slice(None, None, -1 if mirrored else 1)
            score = places.correlation(own[:, way], solid[:, way])
            for _ in range(2):
                y, x = (int(each) for each in np.unravel_index(int(score.argmax()), score.shape))
                if score[y, x] < 0.45:
                    break
                pose = Pose((x + 0.5) / ratio, (y + 0.5) / ratio, scale, mirrored=mirrored)
                found.append((float(score[y, x]), pose))
                across, down = max(2, window[0] // 3), max(2, window[1] // 3)
                score[max(0, y - down) : y + down + 1, max(0, x - across) : x + across + 1] = -1
    found.sort(key=lambda each: -each[0])
    yield from _apart([pose for _, pose in found], max(width, height))


class _Scene:
    """The result, small, in which templates are looked for: but for what the product covers."""

    def __init__(self, colours: Array, visible: Array) -> None:
        import cv2

        self.visible = visible
        seen = visible > 0
        centred = (colours - (colours[seen].mean(0) if seen.any() else 0)) * visible[..., None]
        self.channels = cv2.split(centred)
        self.power = squared(centred)


class _Places:
    """Places of a scene that may show a template of one size, by its middle.

    What lies below it is summed for all of them at a time, by way of spectra. OpenCV's own matching makes each of them
    anew, and of doubles, and takes a quarter longer.
    """

    def __init__(self, scene: _Scene, where: NDArray[np.bool_], size: tuple[int, int]) -> None:
        """:param size: (height, width) of the template."""
        import cv2
        import numpy as np

        self.where = where
        left, top, width, height = cv2.boundingRect(where.astype(np.uint8))
        self.box = slice(top, top + height), slice(left, left + width)
        self.first = top - size[0] // 2, left - size[1] // 2
        # Of a multiple of 32 px OpenCV makes spectra twice as fast as of some sizes that it calls optimal.
        self.size = tuple(
            32 * cv2.getOptimalDFTSize(math.ceil((side + own - 1) / 32))
            for side, own in zip((height, width), size, strict=True)
        )
        self.visible, self.power = self._seen(scene.visible), self._seen(scene.power)
        self.channels = [self._seen(each) for each in scene.channels]

    def correlation(self, colours: Array, solid: Array) -> Array:
        """How well a template correlates with what is seen at each px of the scene, -1 to 1.

        -1 where nothing is looked for, and where less than ``SEEN`` of it can be seen.

        :param colours: L*, a*, b*. :param solid: 1 where it has any, else 0.
        """
        import cv2
        import numpy as np

        score = np.full(self.where.shape, -1, np.float32)
        area = np.count_nonzero(solid)
        if area < 10:
            return score
        mask = self._spectrum(solid)
        count = self._sums((self.visible, mask))
        good = self.where[self.box] & (count > SEEN * area)
        if not good.any():
            return score
        count = np.maximum(count, 1)
        own = (colours - colours[solid > 0].mean(0)) * solid[..., None]
        channels = [self._spectrum(each) for each in cv2.split(own)]
        cross = self._sums(*zip(self.channels, channels, strict=True))
        power = self._sums((self.power, mask))
        own_power = self._sums((self.visible, self._spectrum(squared(own))))
        for seen, template in zip(self.channels, channels, strict=True):
            total, own_total = self._sums((seen, mask)), self._sums((self.visible, template))
            cross -= total * own_total / count
            power -= total**2 / count
            own_power -= own_total**2 / count
        found = cross / np.sqrt(np.maximum(power, count) * np.maximum(own_power, count))
        score[self.box] = np.where(good, found, -1)
        return score

    def _seen(self, plane: Array) -> Array:
        """The spectrum of what of a scene lies below the template at any of the places; 0 beyond the frame."""
        (top, left), (height, width) = self.first, self.size
        part = plane[max(0, top) : top + height, max(0, left) : left + width]
        return self._spectrum(part, max(0, -top), max(0, -left))

    def _spectrum(self, plane: Array, above: int = 0, before: int = 0) -> Array:
        import cv2
        import numpy as np

        below, after = self.size[0] - above - plane.shape[0], self.size[1] - before - plane.shape[1]
        return np.asarray(cv2.dft(cv2.copyMakeBorder(plane, above, below, before, after, cv2.BORDER_CONSTANT, value=0)))

    def _sums(self, *seen_and_own: tuple[Array, Array]) -> Array:
        """Of the products of what is seen and a template, over all of its px, at each place of the box."""
        import cv2
        import numpy as np

        products = (cv2.mulSpectrums(seen, own, 0, conjB=True) for seen, own in seen_and_own)
        flags = cv2.DFT_INVERSE | cv2.DFT_SCALE | cv2.DFT_REAL_OUTPUT
        rows, columns = self.box
        sums = cv2.dft(functools.reduce(cv2.add, products), flags=flags)
        return np.asarray(sums[: rows.stop - rows.start, : columns.stop - columns.start])


def _apart(poses: list[Pose], longest: float) -> list[Pose]:
    """The first of those that mean the same place."""
    kept: list[Pose] = []
    for pose in poses:
        if not any(
            math.hypot(each.x - pose.x, each.y - pose.y) < 0.25 * longest * min(each.scale, pose.scale)
            and 0.7 < each.scale / pose.scale < 1.43
            for each in kept
        ):
            kept.append(pose)
    return kept[:LOOKED_AT]
