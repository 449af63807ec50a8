"""Is the product still the product? Finds the cut-out in what a vendor made of it, and compares the opaque pixels.

A vendor may encode anew, resample, sharpen a little, change the light a little (each channel by a little more or less),
feather the rim, scale and move the product: all that is estimated and allowed for. What is left over beyond the error
expected of it is an alteration: as a share of the product on a grid of at most 512 px, and as one wrong spot, as large
as a character, at the result's own resolution. Around a product that is unchanged is looked for what continues it past
its outline, and for copies of it.

What is not seen: what is translucent in the source, a character that differs from its ground in hue alone, or by less
than some 40 levels, and one wrong spot on what is nowhere wider than 7 px. Where a product is shown at less than some
64 px, heavy re-encoding (JPEG below quality 85) may pass for an alteration.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from airflow_provider_bgai.imaging.fidelity.fit import Fit, fitted, found_by_trying, is_plain, polished, refined
from airflow_provider_bgai.imaging.fidelity.judge import HIGHEST_PSNR, USUAL, Thresholds, Verdict, judged, with_spot
from airflow_provider_bgai.imaging.fidelity.outside import judged_outside
from airflow_provider_bgai.imaging.fidelity.product import COARSE, FINE, OPAQUE, Placement, Product, at_least
from airflow_provider_bgai.imaging.fidelity.search import best_places, likely
from airflow_provider_bgai.imaging.fidelity.spot import worst_spot
from airflow_provider_bgai.imaging.fidelity.strokes import stroke_places
from airflow_provider_bgai.imaging.small import Halves

if TYPE_CHECKING:
    from PIL import Image

    from airflow_provider_bgai.imaging.fidelity.product import Levels

__all__ = ["Placement", "Thresholds", "Verdict", "compare", "has_no_alpha", "opaque"]


def compare(
    source: Image.Image | Levels,
    result: Image.Image | Levels | Halves,
    *,
    hint: tuple[int, int, int, int] | None = None,
    thresholds: Thresholds = USUAL,
) -> Verdict:
    """Find the product of a cut-out in a result and say whether it is unchanged.

    :param source: the cut-out, RGBA, upright sRGB with straight alpha; a picture or its levels.
    :param result: any picture; where it is transparent, it counts as grey. Or its levels, as :func:`opaque` has them,
        or the halves of these, for who has looked at them from afar.
    :param hint: (x, y, width, height) in px of the product in the result as the vendor tells it; tried, not believed.
    :raises ValueError: if the source is not RGBA or has hardly any opaque pixel.
    """
    import cv2

    cv2.setNumThreads(1)  # who lands pictures has threads of their own
    product = Product(source)
    picture = result if isinstance(result, Halves) else Halves(opaque(result))
    verdict = _inside(product, picture, hint, thresholds)
    return judged_outside(product, picture, verdict, thresholds) if verdict.faithful else verdict


def _inside(
    product: Product, picture: Halves, hint: tuple[int, int, int, int] | None, thresholds: Thresholds
) -> Verdict:
    levels = picture.levels
    if _same_pixels(product, levels):
        placement = Placement(0.0, 0.0, 1.0, 1.0)
        return Verdict(
            faithful=True,
            reasons=(),
            placement=placement,
            psnr=HIGHEST_PSNR,
            delta_e=0.0,
            delta_e_local=0.0,
            hue=0.0,
            altered=0.0,
            light=0.0,
            tint=0.0,
            sharpness=1.0,
            stretch=0.0,
            coverage=1.0,
            spot=0.0,
        )
    fits: list[Fit] = []
    for placement in likely(product, levels, hint):
        # The exact placement first: a result that needs no fitting is not to be moved by a hundredth of a pixel.
        fit = fitted(product, picture, placement, FINE)
        verdict = _closely_judged(product, picture, fit, thresholds)
        if verdict.faithful:
            return verdict
        fits.append(fit)
    places, longest = (stroke_places, 2 * COARSE) if product.thin else (best_places, COARSE)
    tried = [*places(product, levels), *(fit.placement for fit in fits)]
    rough = [fitted(product, picture, each, longest) for each in tried]
    if not rough:
        height, width = levels.shape[:2]
        return Verdict(False, (f"the result is too small to show the product: {width} x {height} px",))
    if not product.thin:
        rough.sort(key=lambda each: each.misfit)
    near = [refined(product, picture, each, longest) for each in rough[:5]]
    best = min(near, key=lambda each: each.misfit)
    # Before grain, hair-thin strokes fit anywhere: there the search, which looks for them alone, knows better.
    ways = [(polished, start) for start in ([near[0], best] if product.thin and near[0] is not best else [best])]
    if is_plain(best):
        ways.append((found_by_trying, best))
    for bettered, start in ways:
        fit = bettered(product, picture, start)
        verdict = _closely_judged(product, picture, fit, thresholds)
        if verdict.faithful:
            return verdict
        fits.append(fit)
    return _closely_judged(product, picture, min(fits, key=lambda each: each.misfit), thresholds)


def _closely_judged(product: Product, picture: Halves, fit: Fit, limits: Thresholds) -> Verdict:
    """Judged as a whole and, where that is within the limits, by the worst spot."""
    verdict = judged(fit, limits)
    if not verdict.faithful:
        return verdict
    return with_spot(verdict, worst_spot(product, picture.levels, fit.placement, fit.light, limits.max_spot), limits)


def _same_pixels(product: Product, picture: Levels) -> bool:
    """Whether every fully opaque pixel is where and what it was: so do vendors return it that only paint around it."""
    import cv2

    if product.pixels.shape[:2] != picture.shape[:2]:
        return False
    few = slice(None, None, max(1, len(picture) // 16))  # rows, which tell of most pictures that they are not
    own, seen = product.pixels[few], picture[few]
    if (own[..., :3] != seen)[own[..., 3] == 255].any():
        return False
    alpha = cv2.extractChannel(product.pixels, 3)
    opaque = at_least(alpha, 255)
    if cv2.countNonZero(opaque) < 0.99 * cv2.countNonZero(at_least(alpha, OPAQUE)):
        return False  # nearly opaque pixels are blended, and so are hardly ever the same
    own = cv2.cvtColor(product.pixels, cv2.COLOR_RGBA2RGB)
    if cv2.norm(own, picture, cv2.NORM_INF, opaque) > 0:
        return False
    first = tuple(int(level) for level in picture[0, 0])
    # A blank result may have a black product's colour, and not show it.
    return cv2.countNonZero(cv2.inRange(picture, first, first)) < picture.shape[0] * picture.shape[1]


def has_no_alpha(picture: Image.Image | Levels) -> bool:
    """Whether all of a decoded picture, or its levels, is opaque because nothing in it says how opaque."""
    from PIL import Image

    if isinstance(picture, Image.Image):
        return "A" not in picture.getbands() and "transparency" not in picture.info
    return bool(picture.shape[2] == 3)


def opaque(picture: Image.Image | Levels) -> Levels:
    """The levels of a picture of any mode, or of its levels, RGB; what is transparent as grey."""
    import numpy as np
    from PIL import Image

    if not isinstance(picture, Image.Image):
        if has_no_alpha(picture):
            return picture
        picture = Image.fromarray(picture)
    if has_no_alpha(picture):
        return np.asarray(picture if picture.mode == "RGB" else picture.convert("RGB"))
    layered = picture.convert("RGBA")
    canvas = Image.new("RGB", picture.size, (128, 128, 128))
    canvas.paste(layered, mask=layered)
    return np.asarray(canvas)
