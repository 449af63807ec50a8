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
from collections.abc import Generator, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from airflow_provider_bgai.imaging.fidelity.candidates import CLOSE, LEAST, SCALES, SEEN, Pose, Small, candidates
from airflow_provider_bgai.imaging.fidelity.surroundings import Outline, difference, lab, reduced

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from airflow_provider_bgai.imaging.fidelity.product import Array, Box, Placement, Product

    Levels = NDArray[np.uint8]

ENOUGH = 700  # px of it by which is told where it fits
HOPELESS = 23.0, 17.0  # CIELAB of unlikeness, at first and after the longest steps: nothing fits from there
PLAIN = 5.0  # CIELAB, standard deviation, up to which a product has no pattern


@dataclass(frozen=True)
class Copies:
    """How many more of the product there are, and where."""

    count: int = 0
    outlines: tuple[Outline, ...] = ()


def repeated(product: Product, picture: Levels, placement: Placement) -> Copies:
    """Every other place of the result that shows the product."""
    box = product.box_at(placement)
    longest = max(box[2] - box[0], box[3] - box[1])
    if longest * SCALES[-1] < LEAST:
        return Copies()
    picture_size = picture.shape[1], picture.shape[0]
    small = Small(product.cut, box)
    if small.pattern < PLAIN:
        return Copies()
    likely = list(candidates(small, picture, box))
    if not likely or product.thin:  # one stroke is like another: the links of a chain are no copies
        return Copies()
    close = _Close(small, picture, box)
    found: list[Pose] = []
    for pose, best in zip(likely, close.fitted(likely), strict=True):
        if (
            best.scale >= 0.9 * SCALES[0]
            and not any(
                math.hypot(each.x - x, each.y - y) < 0.35 * each.scale * longest
                for each in found
                for x, y in ((pose.x, pose.y), (best.x, best.y))
            )
            and close.shows(best)
        ):
            found.append(best)
    return Copies(len(found), tuple(_outline(each, box, picture_size) for each in found))


class _Close:
    """The product, small, laid over places of the result where it may be."""

    def __init__(self, product: Small, picture: Levels, box: Box) -> None:
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
        """L*, a*, b* of the result where each pose lays these places of the product, and which can be seen there.

        :param poses: asked for all at once, because so few px take no time.
        :param places: (number, 2) from the middle of the small product.
        """
        import cv2
        import numpy as np

        numbers = np.array([(each.x, each.y, each.scale, each.turn, each.mirrored) for each in poses], np.float32)
        middle_x, middle_y, scales, turns, mirrored = numbers.T[..., None]
        steps = scales * np.float32(self.unit / CLOSE)
        factors = np.exp2(np.maximum(np.rint(np.log2(steps)), 0))
        cos, sin = (each(turns) * steps / factors for each in (np.cos, np.sin))
        x, y = np.ascontiguousarray(places.T)
        way = 1 - 2 * mirrored
        across = middle_x / factors + np.float32(0.5) + cos * way * x - sin * y
        down = middle_y / factors + np.float32(0.5) + sin * way * x + cos * y
        found = np.empty((len(poses), len(places), 4), np.float32)
        for factor in set(factors[:, 0].tolist()):
            mine, level = factors[:, 0] == factor, self._level(int(factor))
            found[mine] = cv2.remap(level, across[mine], down[mine], cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE)
        return np.ascontiguousarray(found[..., :3]), found[..., 3] > 0.99

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

    def fitted(self, poses: Sequence[Pose]) -> list[Pose]:
        """The best pose near each, by trying for as long as there is hope."""
        near = [
            [
                *(replace(pose, scale=pose.scale * factor) for factor in (0.92, 1, 1.08)),
                *(replace(pose, turn=turn) for turn in (-0.12, 0.12)),
            ]
            for pose in poses
        ]
        values = iter(self.unlikeness([each for starts in near for each in starts]))
        ranked = [sorted(((next(values), each) for each in starts), key=lambda each: each[0])[:2] for starts in near]
        hopeful = [starts for starts in ranked if starts[0][0] <= HOPELESS[0]]
        ends = iter(self._climbed([each for starts in hopeful for each in starts]))
        return [
            min((next(ends), next(ends)), key=lambda each: each[0])[1] if starts in hopeful else starts[0][1]
            for starts in ranked
        ]

    def _climbed(self, starts: Sequence[tuple[float, Pose]]) -> list[tuple[float, Pose]]:
        """Where one comes to from each of these: side by side, for the sake of ``unlikeness``."""
        climbs = [self._climb(*each) for each in starts]
        tries, ends = {climb: next(climb) for climb in climbs}, {}
        while tries:
            values = iter(self.unlikeness([each for poses in tries.values() for each in poses]))
            for climb, poses in list(tries.items()):
                try:
                    tries[climb] = climb.send([next(values) for _ in poses])
                except StopIteration as end:
                    ends[climb] = end.value
                    del tries[climb]
        return [ends[climb] for climb in climbs]

    def _climb(self, worst: float, pose: Pose) -> Generator[list[Pose], list[float], tuple[float, Pose]]:
        """Yields poses, is sent how unlike they are, and returns the best, with its unlikeness."""
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
                best, better = min(zip((yield tries), tries, strict=True), key=lambda each: each[0])
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
        sides = [self.seen([pose], self.product.from_middle(line + distance * normals)) for distance in (-1.5, 2.5)]
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
