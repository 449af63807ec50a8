"""The outline of the product in a view, and where the product's colours go on beyond it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from airflow_provider_bgai.imaging.fidelity.surroundings import Surroundings, difference

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from airflow_provider_bgai.imaging.fidelity.product import Array

    Mask = NDArray[np.bool_]

DEPTHS = (1.5, 2.0, 3.0, 4.0, 5.5, 7.0, 9.0)  # px inside the outline at which the product's colours are taken
SOLID = 200  # alpha from which they are its own
OUTERMOST = 3  # of DEPTHS: what is at the rim itself
BAND = 2.2  # px about the outline that encoding and resampling mix
FAR = 1e3  # beyond any colour
SAME = 7.0  # CIELAB: up to which colours go on


@dataclass(frozen=True)
class Rim:
    """The outline in points, and whether the product's colours go on there."""

    points: NDArray[Any]  # whole px of the view, one after the other, (number, 2)
    line: NDArray[np.intp]  # which closed line each belongs to
    normals: Array  # outwards
    own: Array  # L*, a*, b* of the product at DEPTHS; far from any colour where it is not solid
    step: Array  # CIELAB: from what is just outside to the nearest of the product's own
    nearest: Array  # the same, to those of the outermost px alone; ``FAR`` and more where they are not solid
    usable: Mask

    @property
    def continued(self) -> Mask:
        return self.usable & (self.step < SAME)


def rim_of(view: Surroundings) -> Rim | None:
    """None where there is no outline."""
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
    apart = difference(outside[:, :, None], own[:, None])
    step, nearest = (
        np.minimum.reduce([apart[..., depth] for depth in range(depths)]).mean(1)  # numpy is slow along so few
        for depths in (len(DEPTHS), OUTERMOST)
    )
    numbers = np.repeat(np.arange(len(lines)), [len(each) for each in lines])
    return Rim(points, numbers, normals, own, step, nearest, usable)
