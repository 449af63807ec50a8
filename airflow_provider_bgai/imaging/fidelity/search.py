"""Where in the result the product may be: the places worth a look first, and the best of all scales and places."""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

from airflow_provider_bgai.imaging.fidelity.fit import Fit
from airflow_provider_bgai.imaging.fidelity.product import Placement, Product, slopes

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray
    from PIL import Image

    from airflow_provider_bgai.imaging.fidelity.product import Array

SEARCH = 112  # px, longer side of the result in the search
FRAME = 6  # px around the small result in the search
STEEPEST = 0.25  # of the range a px, from which one edge is as good as any other in the search
SMALLEST = 0.14  # of the result's longer side: a product is not searched for below this size


def likely(product: Product, picture: Image.Image, hint: tuple[int, int, int, int] | None) -> Iterable[Placement]:
    """Placements worth a look before any search: where it was, the whole canvas scaled, what the vendor says."""
    scale_x, scale_y = picture.width / product.whole[0], picture.height / product.whole[1]
    # A size in whole pixels keeps the aspect to half a pixel.
    if abs(scale_x / scale_y - 1) <= 1 / min(picture.size):
        yield Placement(0.0, 0.0, scale_x, scale_y)
    if hint is not None and hint[2] > 0 and hint[3] > 0:
        x, y, width, height = hint
        # Far outside the frame it is nonsense, and cutting it out would take memory.
        slack_x, slack_y = picture.width / 20, picture.height / 20
        if (
            -slack_x <= x <= x + width <= picture.width + slack_x
            and -slack_y <= y <= y + height <= picture.height + slack_y
        ):
            yield product.place((x, y, x + width, y + height), product.tight)


def best_places(product: Product, picture: Image.Image, fits: list[Fit]) -> list[Placement]:
    """The few best of all scales and places, and what was tried already."""
    import numpy as np
    from PIL import Image

    scene = _Scene(picture)
    left, top, right, bottom = product.tight
    # A little more than fits, because a size on so small a picture is not exact.
    scale = min(scene.width / (right - left), scene.height / (bottom - top)) * 1.03
    found: list[tuple[float, Placement]] = []
    while scale * max(product.size) >= SMALLEST * SEARCH:
        width, height = (max(3, round(side * scale)) for side in product.size)
        width, height = min(width, scene.width + 2 * FRAME), min(height, scene.height + 2 * FRAME)
        template = product.cut.resize((width, height), Image.Resampling.BOX, reducing_gap=2)
        score = scene.score(template, product.colour)
        half_x, half_y = product.size[0] * scale / 2, product.size[1] * scale / 2
        for _ in range(2):
            y, x = (int(value) for value in np.unravel_index(int(np.argmax(score)), score.shape))
            middle_x, middle_y = x + width / 2 - FRAME, y + height / 2 - FRAME
            box = (
                (middle_x - half_x) / scene.ratio_x,
                (middle_y - half_y) / scene.ratio_y,
                (middle_x + half_x) / scene.ratio_x,
                (middle_y + half_y) / scene.ratio_y,
            )
            found.append((float(score[y, x]), product.place(box)))
            score[max(0, y - 4) : y + 5, max(0, x - 4) : x + 5] = -math.inf
        scale /= 1.07
    found.sort(key=lambda each: -each[0])
    return [placement for _, placement in found[:10]] + [fit.placement for fit in fits]


class _Scene:
    """A result, small and transformed, in which templates are looked for."""

    def __init__(self, picture: Image.Image) -> None:
        import numpy as np
        from PIL import Image

        ratio = min(1.0, SEARCH / max(picture.size))
        self.width, self.height = (max(8, round(side * ratio)) for side in picture.size)
        self.ratio_x, self.ratio_y = self.width / picture.width, self.height / picture.height
        small = picture.resize((self.width, self.height), Image.Resampling.BOX, reducing_gap=2)
        # A product may touch the frame, and what is just outside its outline then lies beyond it.
        margins = ((FRAME, FRAME), (FRAME, FRAME), (0, 0))
        seen = np.pad(np.asarray(small, np.float32) / np.float32(255), margins, mode="edge")
        edges = _edges(seen)
        self.shape = seen.shape[:2]
        self.padded = tuple(_quick_length(side) for side in self.shape)
        self.colours = [self._transformed(seen[..., channel]) for channel in range(3)]
        self.squares = self._transformed((seen**2).sum(-1))
        self.edges, self.edges_squared = self._transformed(edges), self._transformed(edges**2)

    def score(self, template: Image.Image, colour: tuple[int, ...]) -> Array:
        """For every place a template (RGBA) fits: do its edges and outline correlate, and are its colours there?"""
        import numpy as np
        from PIL import Image, ImageFilter

        alpha = template.getchannel("A")
        filled = Image.new("RGB", template.size, colour)
        filled.paste(template, mask=template)
        colours = np.asarray(filled, np.float32) / np.float32(255)
        solid = (np.asarray(alpha, np.float32) / np.float32(255)) ** 2
        around = np.asarray(alpha.filter(ImageFilter.MaxFilter(3)), np.float32) / np.float32(255)
        outline = np.hypot(*slopes(np.pad(solid, 1)))[1:-1, 1:-1]
        edges = np.maximum(_edges(colours), np.minimum(2 * outline, 1) * np.float32(STEEPEST))
        total, whole = float(around.sum()) + 1e-6, float(solid.sum()) + 1e-6
        centred = around * (edges - np.float32((around * edges).sum() / total))
        spread = float((centred * edges).sum())
        t_around = self._transformed(around)
        mean = self._back(np.conj(t_around) * self.edges) / total
        spread_seen = np.maximum(self._back(np.conj(t_around) * self.edges_squared) - total * mean**2, 0)
        likeness = self._back(np.conj(self._transformed(centred)) * self.edges)
        likeness /= np.sqrt((spread + 1e-3 * total) * (spread_seen + 1e-3 * total))
        crossed = sum(np.conj(self._transformed(solid * colours[..., c])) * self.colours[c] for c in range(3))
        own = float((solid[..., None] * colours**2).sum())
        squared = self._back(np.conj(self._transformed(solid)) * self.squares - 2 * crossed) + own
        score = likeness - 3 * np.sqrt(np.maximum(squared, 0) / (3 * whole))
        return np.asarray(score[: self.shape[0] - template.height + 1, : self.shape[1] - template.width + 1])

    def _transformed(self, values: Array) -> NDArray[np.complexfloating[Any]]:
        import numpy as np

        return np.fft.rfft2(values, self.padded)

    def _back(self, values: Any) -> Array:
        import numpy as np

        return np.asarray(np.fft.irfft2(values, self.padded))


def _edges(colours: Array) -> Array:
    """How steep a picture is, capped, so that a strong edge counts no more than a clear one."""
    import numpy as np

    luma = colours.mean(-1)
    slope_x, slope_y = slopes(luma)
    return np.minimum(np.hypot(slope_x, slope_y), np.float32(STEEPEST))


def _quick_length(least: int) -> int:
    """The next length that is quick to transform."""
    while True:
        rest = least
        for factor in (2, 3, 5):
            while rest % factor == 0:
                rest //= factor
        if rest == 1:
            return least
        least += 1
