"""The product once more in the scene: smaller or larger, mirrored, turned a little, partly hidden.

First a cheap question: has any place of that size the product's colours in their proportions? Only there the product
is laid over what can be seen of the scene (what the product itself covers cannot), and moved until it fits best. A copy
has the product's colours in one light, its pattern with about its contrast, and an edge where its outline is: that
tells it from a prop in its colours and from a reflection.

What is not seen: copies of which less than half is in sight or that are smaller than 20 px, and those of a product so
plain that it has no pattern to be known by.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from airflow_provider_bgai.imaging.fidelity.colour import colour_groups
from airflow_provider_bgai.imaging.fidelity.surroundings import Outline, difference, lab, reduced, shrunk

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from airflow_provider_bgai.imaging.fidelity.product import Array, Box, Placement, Product

    Levels = NDArray[np.uint8]

SEARCHED, LARGEST = 56, 224  # px in the search, longer side: of the product, and at most of the result
SCALES = tuple(0.28 * 1.17**step for step in range(10))  # of a copy, where the product's is 1
COLOURS = 8  # groups of colours that the product's proportions are told by
CLOSE, MARGIN = 56, 4  # px, longer side of the product when a place is looked at closely, and around it
ENOUGH = 700  # px of it by which is told where it fits
LEAST = 20  # px in the result, longer side of a copy
LIKELY = 0.42  # of the product's colours, in their proportions, from which a place is worth a look
SHADE = 16.0  # CIELAB, with half of the lightness, up to which a colour may be one of the product in another light
LOOKED_AT = 6  # places, at most
SEEN = 0.42  # share of a copy that is in sight, at least
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
    picture_size = picture.shape[1], picture.shape[0]
    small = _Small(product.cut, box)
    if small.pattern < PLAIN:
        return Copies()
    found: list[Pose] = []
    close: _Close | None = None
    for pose in _candidates(small, picture, box):
        if any(math.hypot(each.x - pose.x, each.y - pose.y) < 0.35 * each.scale * longest for each in found):
            continue
        close = close or _Close(small, picture, box)
        best = close.fitted(pose)
        if (
            best.scale >= 0.9 * SCALES[0]
            and close.shows(best)
            and not any(math.hypot(each.x - best.x, each.y - best.y) < 0.35 * each.scale * longest for each in found)
        ):
            found.append(best)
    return Copies(len(found), tuple(_outline(each, box, picture_size) for each in found))


class _Small:
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
        self.middle = padded.shape[1] / 2, padded.shape[0] / 2
        self.places = np.stack([columns, rows], 1).astype(np.float32)  # px of it that are compared
        self.colours: Array = own[rows, columns]
        self.pattern = float(np.sqrt(self.colours.var(0).sum())) if len(rows) else 0.0


def _candidates(product: _Small, picture: Levels, box: Box) -> Iterator[Pose]:
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
    apart = (own**2).sum(-1)[:, None, None] + (others**2).sum(-1) - 2 * np.moveaxis(others @ own.T, -1, 0)
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
    ones = [each.astype(np.float32) for each in alike]
    visible = np.ones(scene.shape[:2], np.float32)
    visible[rows[good] + top, columns[good] + left] = 0
    shown = _Scene(scene, visible)
    found: list[tuple[float, Pose]] = []
    for scale in SCALES:
        window = max(4, round(own_size[0] * scale)), max(4, round(own_size[1] * scale))
        if max(width, height) * scale < LEAST:
            continue
        area = window[0] * window[1] * filled
        sums = [cv2.boxFilter(one, -1, window, normalize=False, borderType=cv2.BORDER_CONSTANT) for one in ones]
        seen = cv2.boxFilter(visible, -1, window, normalize=True, borderType=cv2.BORDER_CONSTANT)
        likely = np.zeros(visible.shape, np.float32)
        whole = np.float32(1) / (np.float32(area) * np.maximum(seen, np.float32(SEEN)))
        for total, share in zip(sums, shares, strict=True):
            likely += np.minimum(total * whole, share)
        if likely.max() < LIKELY:
            continue
        small = np.asarray(cv2.resize(product.twice, window, interpolation=cv2.INTER_AREA), np.uint8)
        for mirrored in (False, True):
            score = shown.correlation(small[:, ::-1] if mirrored else small, likely > LIKELY - 0.05)
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
    """The result, small, and how well templates correlate with what can be seen of it: not behind the product."""

    def __init__(self, colours: Array, visible: Array) -> None:
        self.visible = visible
        seen = visible > 0
        self.colours = (colours - (colours[seen].mean(0) if seen.any() else 0)) * visible[..., None]
        self.power = (self.colours**2).sum(-1)

    def correlation(self, template: Levels, where: NDArray[np.bool_]) -> Array:
        """How well a template (RGBA) with its middle at each px correlates with what is seen there, -1 to 1.

        :param where: the places that are looked at; -1 elsewhere, and where less than ``SEEN`` of it can be seen.
        """
        import cv2
        import numpy as np

        score = np.full(where.shape, -1, np.float32)
        mask = (template[..., 3] > 200).astype(np.float32)
        if np.count_nonzero(mask) < 10:
            return score
        height, width = mask.shape
        top, left = height // 2, width // 2
        x, y, across, down = cv2.boundingRect(where.astype(np.uint8))

        def around(plane: Array) -> Array:
            padded = cv2.copyMakeBorder(
                plane, top, height - 1 - top, left, width - 1 - left, cv2.BORDER_CONSTANT, value=0
            )
            return padded[y : y + down + height - 1, x : x + across + width - 1]

        def summed(plane: Array, weights: Array) -> Array:
            return np.asarray(cv2.matchTemplate(plane, weights, cv2.TM_CCORR))

        own = lab(np.ascontiguousarray(template[..., :3]))
        own = (own - own[mask > 0].mean(0)) * mask[..., None]
        seen, colours = around(self.visible), around(self.colours)
        count = np.maximum(summed(seen, mask), 1)
        cross = summed(colours, own)
        powers = [summed(around(self.power), mask), summed(seen, (own**2).sum(-1))]
        for channel in range(3):
            mean = summed(np.ascontiguousarray(colours[..., channel]), mask) / count
            own_mean = summed(seen, np.ascontiguousarray(own[..., channel])) / count
            cross -= count * mean * own_mean
            powers[0] -= count * mean**2
            powers[1] -= count * own_mean**2
        found = cross / np.sqrt(np.maximum(powers[0], count) * np.maximum(powers[1], count))
        good = where[y : y + down, x : x + across] & (count > SEEN * mask.sum())
        score[y : y + down, x : x + across] = np.where(good, found, -1)
        return score


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


class _Close:
    """The product, small, laid over places of the result where it may be."""

    def __init__(self, product: _Small, picture: Levels, box: Box) -> None:
        self.product, self.picture, self.box = product, picture, box
        self.unit = max(box[2] - box[0], box[3] - box[1])
        # A part of its px tells where it fits; whether it does, all of them.
        self.some = slice(None, None, math.ceil(len(product.places) / ENOUGH))
        self.levels: dict[int, Array] = {}

    def _level(self, factor: int) -> Array:
        """L*, a*, b* of the result, so many times reduced, with a frame of 1 px; and 1 where it may show a copy.

        The frame may not, and not what the product covers where it is known to be.
        """
        import cv2
        import numpy as np

        if factor not in self.levels:
            colours = lab(reduced(self.picture, factor))
            height, width = colours.shape[:2]
            own = self.product.twice
            rows = np.array(
                [
                    [
                        (self.box[2 + axis] - self.box[axis]) / own.shape[1 - axis] / factor * (axis == of)
                        for of in (0, 1)
                    ]
                    + [self.box[axis] / factor]
                    for axis in (0, 1)
                ]
            )
            rows[:, 2] += rows[:, :2] @ (0.5, 0.5) - 0.5
            alpha = np.ascontiguousarray(own[..., 3])
            free = (cv2.warpAffine(alpha, rows, (width, height), flags=cv2.INTER_LINEAR) < 8).astype(np.float32)
            self.levels[factor] = np.dstack(
                [
                    cv2.copyMakeBorder(colours, 1, 1, 1, 1, cv2.BORDER_REPLICATE),
                    cv2.copyMakeBorder(free, 1, 1, 1, 1, cv2.BORDER_CONSTANT, value=0),
                ]
            )
        return self.levels[factor]

    def seen(self, poses: Sequence[Pose], places: Array) -> tuple[Array, NDArray[np.bool_]]:
        """L*, a*, b* of the result where each pose lays these px of the small product, and which can be seen there.

        :param poses: much the same ones, mirrored or not: asked for all at once, because so few px take no time.
        """
        import cv2
        import numpy as np

        steps = np.array([each.scale for each in poses], np.float32) * np.float32(self.unit / CLOSE)
        factors = np.array([1 << max(0, round(math.log2(max(float(step), 1)))) for step in steps], np.float32)
        turns = np.array([each.turn for each in poses], np.float32)
        cos, sin = ((each(turns) * steps / factors)[:, None] for each in (np.cos, np.sin))
        x, y = (places[:, axis] + np.float32(0.5 - self.product.middle[axis]) for axis in (0, 1))
        if poses[0].mirrored:
            x = -x
        middle_x, middle_y = (
            (np.array([getattr(each, axis) for each in poses], np.float32) / factors + np.float32(0.5))[:, None]
            for axis in "xy"
        )
        across, down = middle_x + cos * x - sin * y, middle_y + sin * x + cos * y
        found = np.empty((len(poses), len(places), 4), np.float32)
        for factor in set(factors.tolist()):
            mine, level = factors == factor, self._level(int(factor))
            found[mine] = cv2.remap(level, across[mine], down[mine], cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE)
        return found[..., :3], found[..., 3] > 0.99

    def unlikeness(self, poses: Sequence[Pose]) -> list[float]:
        """CIELAB, on average and at most 25 a px, of what can be seen; 25 where that is less than two fifths."""
        import numpy as np

        colours, visible = self.seen(poses, self.product.places[self.some])
        own = self.product.colours[self.some]
        count, whole = visible.sum(1), len(own)
        counted = np.maximum(count, 1)
        gain = _lighter(visible @ own[:, 0] / counted, (colours[..., 0] * visible).sum(1) / counted)
        apart = np.minimum(difference(colours, own * gain[:, None, None].astype(np.float32)), 25)
        mean = (apart * visible).sum(1) / counted + 2 * (1 - count / whole)
        return [float(each) for each in np.where(count < 0.4 * whole, 25.0, mean)]

    def fitted(self, pose: Pose) -> Pose:
        """The best pose near one, by trying for as long as there is hope."""
        starts = [replace(pose, scale=pose.scale * factor) for factor in (0.92, 1, 1.08)]
        starts += [replace(pose, turn=turn) for turn in (-0.12, 0.12)]
        ranked = sorted(zip(self.unlikeness(starts), starts, strict=True), key=lambda each: each[0])[:2]
        if ranked[0][0] > HOPELESS[0]:
            return ranked[0][1]
        return min((self._climbed(*each) for each in ranked), key=lambda each: each[0])[1]

    def _climbed(self, worst: float, pose: Pose) -> tuple[float, Pose]:
        for step in (0.08, 0.04, 0.02, 0.01):
            if worst > HOPELESS[1] and step < 0.08:
                break
            for _ in range(6):
                move = step * pose.scale * self.unit
                tries = [
                    *(replace(pose, x=pose.x + each) for each in (-move, move)),
                    *(replace(pose, y=pose.y + each) for each in (-move, move)),
                    *(replace(pose, scale=pose.scale * each) for each in (1 - 1.5 * step, 1 + 1.5 * step)),
                    *(replace(pose, turn=pose.turn + each) for each in (-step, step)),
                ]
                best, better = min(zip(self.unlikeness(tries), tries, strict=True), key=lambda each: each[0])
                if best >= worst - 0.01:
                    break
                worst, pose = best, better
        return worst, pose

    def shows(self, pose: Pose) -> bool:
        """Whether it is the product that is there: its colours, its pattern as clear as it is, its outline."""
        import numpy as np

        (colours,), (visible,) = self.seen([pose], self.product.places)
        if np.count_nonzero(visible) < SEEN * len(visible):
            return False
        own, other = self.product.colours[visible], colours[visible]
        like = float((difference(other, own * _lighter(own[:, 0].mean(), other[:, 0].mean())) < 10).mean())
        centred, seen = own - own.mean(0), other - other.mean(0)
        cross, power = float((centred * seen).sum()), float((centred**2).sum())
        correlation = cross / math.sqrt(max(power * float((seen**2).sum()), 1e-6))
        clear = 0.5 < cross / max(power, 1e-6) < 1.6
        if not clear or correlation <= 0.7 or like <= min(0.5, 1.2 - 0.85 * correlation):
            return False
        edge = self._edge(pose)  # a plain ground may hide half an outline; then the pattern has to be the surer
        return edge > 0.3 and edge + correlation > 1.25

    def _edge(self, pose: Pose) -> float:
        """The share of the outline that is an edge in the result, too."""
        import cv2
        import numpy as np

        alpha = self.product.alpha
        contours, _ = cv2.findContours((alpha > 127).astype(np.uint8), cv2.RETR_EXTERNAL, cv2.CHAIN_APPROX_NONE)
        if not contours:
            return 0.0
        line = np.concatenate([each[:, 0] for each in contours])
        x, y = line[:, 0], line[:, 1]
        soft = cv2.GaussianBlur(alpha, (0, 0), 1.2)
        along, down = (cv2.Sobel(soft, cv2.CV_32F, *order)[y, x] for order in ((1, 0), (0, 1)))
        normals = -np.stack([along, down], 1) / np.maximum(np.hypot(along, down), 1e-3)[:, None]
        sides = [self.seen([pose], (line + distance * normals).astype(np.float32)) for distance in (-1.5, 2.5)]
        both = sides[0][1] & sides[1][1]
        return float((difference(sides[0][0], sides[1][0])[both] > 8).mean()) if both.any() else 0.0


def _lighter(own: Any, seen: Any) -> Any:
    """By what the product's lightness is to be multiplied for that which is seen: a quarter more or less at most."""
    import numpy as np

    return np.clip(seen / np.maximum(own, 1.0), 0.75, 1.25)


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
