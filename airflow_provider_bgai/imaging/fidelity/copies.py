"""The product once more in the scene: smaller or larger, mirrored, turned a little, partly hidden.

First a cheap question: has any place of that size the product's colours in their proportions? Only there the product
is laid over the scene, and moved until it fits best. A copy has the product's colours in one light, its pattern with
about its contrast, and an edge where its outline is: that tells it from a prop in its colours and from a reflection.

What is not seen: copies of which less than half is in sight or that are smaller than 20 px, and those of a product so
plain that it has no pattern to be known by.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from airflow_provider_bgai.imaging.fidelity.surroundings import Outline, difference, lab

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from airflow_provider_bgai.imaging.fidelity.product import Array, Box, Placement, Product

    Levels = NDArray[np.uint8]

SEARCHED, LARGEST = 56, 224  # px in the search, longer side: of the product, and at most of the result
SCALES = tuple(0.28 * 1.17**step for step in range(10))  # of a copy, where the product's is 1
COLOURS = 8  # groups of colours that the product's proportions are told by
CLOSE = 56  # px, longer side of the product when a place is looked at closely
LEAST = 20  # px in the result, longer side of a copy
LIKELY = 0.42  # of the product's colours, in their proportions, from which a place is worth a look
SHADE = 16.0  # CIELAB, with half of the lightness, up to which a colour may be one of the product in another light
LOOKED_AT = 6  # places, at most
HOPELESS = 23.0, 17.0  # CIELAB of unlikeness, at first and after the longest steps: nothing fits from there
PLAIN = 5.0  # CIELAB, standard deviation, up to which a product has no pattern


@dataclass(frozen=True)
class Copies:
    """How many more of the product there are, and where."""

    count: int = 0
    outlines: tuple[Outline, ...] = ()


@dataclass(frozen=True)
class Pose:
    """Of a copy: its middle in px of the result, its size where the product's is 1, radians it is turned by."""

    x: float
    y: float
    scale: float
    turn: float = 0.0
    mirrored: bool = False


def repeated(product: Product, picture: Levels, placement: Placement) -> Copies:
    """Every other place of the result that shows the product."""

    box = product.box_at(placement)
    longest = max(box[2] - box[0], box[3] - box[1])
    if product.thin or longest * SCALES[-1] < LEAST:  # one stroke is like another: the links of a chain are no copies
        return Copies()
    pixels = product.cut
    found: list[Pose] = []
    close: _Close | None = None
    for pose in _candidates(pixels, picture, box):
        if any(math.hypot(each.x - pose.x, each.y - pose.y) < 0.35 * each.scale * longest for each in found):
            continue
        close = close or _Close(pixels, picture, box)
        if close.pattern < PLAIN:
            return Copies()
        best = close.fitted(pose)
        if (
            best.scale >= 0.9 * SCALES[0]
            and close.shows(best)
            and not any(math.hypot(each.x - best.x, each.y - best.y) < 0.35 * each.scale * longest for each in found)
        ):
            found.append(best)
    frame = picture.shape[1], picture.shape[0]
    return Copies(len(found), tuple(_outline(each, box, frame) for each in found))


def _candidates(pixels: Levels, picture: Levels, box: Box) -> Iterator[Pose]:
    """Where the product's colours are in their proportions, the likeliest first."""
    import cv2
    import numpy as np

    width, height = box[2] - box[0], box[3] - box[1]
    ratio = min(1.0, SEARCHED / max(width, height), LARGEST / max(picture.shape))
    size = max(8, round(picture.shape[1] * ratio)), max(8, round(picture.shape[0] * ratio))
    own_size = max(3, round(width * ratio)), max(3, round(height * ratio))
    scene = lab(cv2.resize(picture, size, interpolation=cv2.INTER_AREA))
    template = cv2.resize(pixels, own_size, interpolation=cv2.INTER_AREA)
    alpha = template[..., 3]
    if np.count_nonzero(alpha > 200) < 20:
        return
    colours, shares = _groups(lab(template[..., :3])[alpha > 200])
    lightly = np.array([0.5, 1, 1], np.float32)
    apart = np.stack([difference(scene * lightly, colour * lightly) for colour in colours])
    alike = apart < SHADE
    left, top = (max(0, math.floor(edge * ratio) - 1) for edge in box[:2])
    right, bottom = math.ceil(box[2] * ratio) + 1, math.ceil(box[3] * ratio) + 1
    inner = cv2.resize(pixels[..., 3], (max(1, right - left), max(1, bottom - top)), interpolation=cv2.INTER_AREA) > 8
    rows, columns = np.nonzero(cv2.dilate(inner.astype(np.uint8), np.ones((3, 3), np.uint8)))
    good = (rows + top < size[1]) & (columns + left < size[0])
    alike[:, rows[good] + top, columns[good] + left] = False
    filled = float((alpha / 255).mean())
    if np.count_nonzero(alike.any(0)) < 0.4 * filled * own_size[0] * own_size[1] * SCALES[0] ** 2:
        return
    ones = [each.astype(np.float32) for each in alike]
    found: list[tuple[float, Pose]] = []
    for scale in SCALES:
        window = max(4, round(own_size[0] * scale)), max(4, round(own_size[1] * scale))
        if max(width, height) * scale < LEAST:
            continue
        area = window[0] * window[1] * filled
        likely = np.zeros(scene.shape[:2], np.float32)
        for one, share in zip(ones, shares, strict=True):
            count = cv2.boxFilter(one, -1, window, normalize=False, borderType=cv2.BORDER_CONSTANT)
            likely += np.minimum(count / area, share)
        if likely.max() < LIKELY:
            continue
        small = np.asarray(cv2.resize(pixels, window, interpolation=cv2.INTER_AREA), np.uint8)
        for mirrored in (False, True):
            turned = small[:, ::-1] if mirrored else small
            score = np.where(likely > LIKELY - 0.05, _correlation(scene, turned), -1)
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


def _correlation(scene: Array, template: Levels) -> Array:
    """How well a template (RGBA) with its middle at each px of a scene (L*, a*, b*) correlates with it, -1 to 1."""
    import cv2
    import numpy as np

    height, width = template.shape[:2]
    left, top = width // 2, height // 2
    sides = top, height - 1 - top, left, width - 1 - left
    padded = cv2.copyMakeBorder(scene, *sides, cv2.BORDER_REPLICATE)
    mask = np.repeat((template[..., 3:] > 200).astype(np.float32), 3, axis=2)
    if mask.sum() < 30:
        return np.full(scene.shape[:2], -1, np.float32)
    own = lab(np.ascontiguousarray(template[..., :3]))
    score = cv2.matchTemplate(padded, own, cv2.TM_CCOEFF_NORMED, mask=mask)
    return np.asarray(np.where(np.isfinite(score) & (np.abs(score) <= 1.01), score, -1), np.float32)


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


def _groups(colours: Array) -> tuple[Array, Array]:
    """The colours of a product in a few groups, and the share of each."""
    import cv2
    import numpy as np

    colours = np.ascontiguousarray(colours[:: math.ceil(len(colours) / 1500)], np.float32)
    ends = (cv2.TERM_CRITERIA_EPS + cv2.TERM_CRITERIA_MAX_ITER, 8, 1.0)
    cv2.setRNGSeed(1)  # the same verdict each time
    start = np.zeros((len(colours), 1), np.int32)
    _, labels, middles = cv2.kmeans(colours, min(COLOURS, len(colours)), start, ends, 1, cv2.KMEANS_PP_CENTERS)
    shares = np.bincount(np.asarray(labels)[:, 0], minlength=len(middles)) / len(labels)
    return np.asarray(middles, np.float32), np.asarray(shares, np.float32)


class _Close:
    """A product small, and the result at places where it may be."""

    def __init__(self, pixels: Levels, picture: Levels, box: Box) -> None:
        import cv2
        import numpy as np

        self.picture, self.box = picture, box
        self.width, self.height = box[2] - box[0], box[3] - box[1]
        factor = CLOSE / max(self.width, self.height)
        size = max(4, round(self.width * factor)), max(4, round(self.height * factor))
        small = cv2.resize(pixels, size, interpolation=cv2.INTER_AREA)
        self.margin = 4
        padded = np.pad(small, ((self.margin,) * 2, (self.margin,) * 2, (0, 0)))
        self.alpha: Levels = np.ascontiguousarray(padded[..., 3])
        self.own = lab(padded[..., :3])
        solid = self.alpha > 200
        inner = cv2.erode(solid.astype(np.uint8), np.ones((3, 3), np.uint8)) > 0
        self.solid = inner if inner.sum() > 0.4 * solid.sum() else solid
        self.pattern = float(np.sqrt(self.own[self.solid].var(0).sum())) if self.solid.any() else 0.0
        contours, _ = cv2.findContours((self.alpha > 127).astype(np.uint8), cv2.RETR_EXTERNAL, cv2.CHAIN_APPROX_NONE)
        self.line = np.concatenate([each[:, 0] for each in contours]) if contours else np.zeros((0, 2), int)
        soft = cv2.GaussianBlur(self.alpha, (0, 0), 1.2)
        along, down = (cv2.Sobel(soft, cv2.CV_32F, *order) for order in ((1, 0), (0, 1)))
        x, y = self.line[:, 0], self.line[:, 1]
        steep = np.maximum(np.hypot(along[y, x], down[y, x]), 1e-3)
        self.normals = -np.stack([along[y, x] / steep, down[y, x] / steep], 1)
        # The product where it is known to be hides what a copy shows there.
        self.hidden: Levels = np.ascontiguousarray(pixels[..., 3])
        self.reduced: dict[int, Levels] = {1: picture}

    def seen(self, pose: Pose) -> tuple[Array, NDArray[np.bool_]]:
        """L*, a*, b* of the result where the pose lays the small product, and what of it can be seen there."""
        import cv2
        import numpy as np

        step = pose.scale * max(self.width, self.height) / CLOSE
        whole = 1 << max(0, round(math.log2(max(step, 1))))
        if whole not in self.reduced:
            size = max(1, self.picture.shape[1] // whole), max(1, self.picture.shape[0] // whole)
            self.reduced[whole] = np.asarray(cv2.resize(self.picture, size, interpolation=cv2.INTER_AREA), np.uint8)
        picture = self.reduced[whole]
        height, width = self.alpha.shape
        cos, sin = math.cos(pose.turn) * step, math.sin(pose.turn) * step
        flip = -1 if pose.mirrored else 1
        # From px of the small product to px of the result.
        turned = np.array([[flip * cos, -sin, 0.0], [flip * sin, cos, 0.0]])
        turned[:, 2] = (pose.x, pose.y) - turned[:, :2] @ (width / 2, height / 2)
        flags = cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP

        def fetched(source: Levels, scale: tuple[float, float], shift: tuple[float, float]) -> Levels:
            rows = turned.copy()
            rows[:, 2] += rows[:, :2] @ (0.5, 0.5) - shift
            rows = rows / np.array(scale)[:, None]
            rows[:, 2] -= 0.5
            border = cv2.BORDER_REPLICATE if source.ndim == 3 else cv2.BORDER_CONSTANT
            return np.asarray(cv2.warpAffine(source, rows, (width, height), flags=flags, borderMode=border), np.uint8)

        ratio = self.picture.shape[1] / picture.shape[1], self.picture.shape[0] / picture.shape[0]
        colours = fetched(picture, ratio, (0.0, 0.0))
        own = self.width / self.hidden.shape[1], self.height / self.hidden.shape[0]
        hidden = fetched(self.hidden, own, (self.box[0], self.box[1]))
        x, y = np.meshgrid(np.arange(width) + 0.5, np.arange(height) + 0.5)
        across, down = (row[0] * x + row[1] * y + row[2] for row in turned)
        in_frame = (across >= 0) & (across < self.picture.shape[1]) & (down >= 0) & (down < self.picture.shape[0])
        return lab(colours), (hidden < 8) & in_frame

    def unlikeness(self, pose: Pose) -> float:
        """CIELAB, on average and at most 25 a px, of what can be seen; 25 where that is less than two fifths."""
        import numpy as np

        colours, visible = self.seen(pose)
        there = visible & self.solid
        count, whole = np.count_nonzero(there), np.count_nonzero(self.solid)
        if count < 0.4 * whole:
            return 25.0
        apart = difference(colours[there], _in_light(self.own[there], colours[there]))
        return float(np.minimum(apart, 25).mean()) + 2 * (1 - count / whole)

    def fitted(self, pose: Pose) -> Pose:
        """The best pose near one, by trying for as long as there is hope."""
        starts = [replace(pose, scale=pose.scale * factor) for factor in (0.92, 1, 1.08)]
        starts += [replace(pose, turn=turn) for turn in (-0.12, 0.12)]
        ranked = sorted(((self.unlikeness(each), each) for each in starts), key=lambda each: each[0])[:2]
        if ranked[0][0] > HOPELESS[0]:
            return ranked[0][1]
        return min((self._climbed(*each) for each in ranked), key=lambda each: each[0])[1]

    def _climbed(self, worst: float, pose: Pose) -> tuple[float, Pose]:
        unit = max(self.width, self.height)
        for step in (0.08, 0.04, 0.02, 0.01):
            if worst > HOPELESS[1] and step < 0.08:
                break
            for _ in range(6):
                move = step * pose.scale * unit
                tries = [
                    *(replace(pose, x=pose.x + each) for each in (-move, move)),
                    *(replace(pose, y=pose.y + each) for each in (-move, move)),
                    *(replace(pose, scale=pose.scale * each) for each in (1 - 1.5 * step, 1 + 1.5 * step)),
                    *(replace(pose, turn=pose.turn + each) for each in (-step, step)),
                ]
                best, better = min(((self.unlikeness(each), each) for each in tries), key=lambda each: each[0])
                if best >= worst - 0.01:
                    break
                worst, pose = best, better
        return worst, pose

    def shows(self, pose: Pose) -> bool:
        """Whether it is the product that is there: its colours, its pattern as clear as it is, its outline."""
        import numpy as np

        colours, visible = self.seen(pose)
        there = visible & self.solid
        if np.count_nonzero(there) < 0.42 * np.count_nonzero(self.solid):
            return False
        own, other = self.own[there], colours[there]
        like = float((difference(other, _in_light(own, other)) < 10).mean())
        centred, seen = own - own.mean(0), other - other.mean(0)
        cross, power = float((centred * seen).sum()), float((centred**2).sum())
        correlation = cross / math.sqrt(max(power * float((seen**2).sum()), 1e-6))
        clear = 0.5 < cross / max(power, 1e-6) < 1.6
        return clear and correlation > 0.65 and like > min(0.5, 1.2 - 0.85 * correlation) and self._edge(pose) > 0.3

    def _edge(self, pose: Pose) -> float:
        """The share of the outline that is an edge in the result, too."""
        import numpy as np

        colours, visible = self.seen(pose)

        def at(distance: float) -> tuple[Array, NDArray[np.bool_]]:
            places = (self.line + distance * self.normals).round().astype(int)
            columns, rows = (np.clip(places[:, axis], 0, colours.shape[1 - axis] - 1) for axis in (0, 1))
            return colours[rows, columns], visible[rows, columns]

        (inside, first), (outside, second) = at(-1.5), at(2.5)
        both = first & second
        return float((difference(inside, outside)[both] > 8).mean()) if both.any() else 0.0


def _in_light(own: Array, seen: Array) -> Array:
    """The product's colours as much lighter or darker as those that are seen, by a quarter at most."""
    import numpy as np

    gain = float(np.clip(seen[:, 0].mean() / max(float(own[:, 0].mean()), 1.0), 0.75, 1.25))
    return own * gain


def _outline(pose: Pose, box: Box, frame: tuple[int, int]) -> Outline:
    """The corners of the copy's box."""
    half = (box[2] - box[0]) * pose.scale / 2, (box[3] - box[1]) * pose.scale / 2
    cos, sin = math.cos(pose.turn), math.sin(pose.turn)
    corners = []
    for across, down in ((-1, -1), (1, -1), (1, 1), (-1, 1)):
        x, y = across * half[0], down * half[1]
        place = pose.x + x * cos - y * sin, pose.y + x * sin + y * cos
        corners.append(
            tuple(min(1000, max(0, round(1000 * each / side))) for each, side in zip(place, frame, strict=True))
        )
    return tuple((x, y) for x, y in corners)
