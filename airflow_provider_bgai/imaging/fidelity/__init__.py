"""Is the product still the product? Finds the cut-out in what a vendor made of it, and compares the opaque pixels.

A vendor may encode anew, resample, sharpen a little, change the light a little, scale and move the product: all that
is estimated and allowed for. What is left over beyond the error expected of it is an alteration. Around a product that
is unchanged is looked for what continues it past its outline, and for copies of it.

What is not seen: what is translucent in the source. Where a product is shown at less than some 64 px, heavy
re-encoding (JPEG below quality 85) may pass for an alteration.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from airflow_provider_bgai.imaging.fidelity.fit import COARSE, FINE, Fit, fitted, misfit, polished, refined
from airflow_provider_bgai.imaging.fidelity.judge import HIGHEST_PSNR, USUAL, Thresholds, Verdict, judged
from airflow_provider_bgai.imaging.fidelity.outside import judged_outside
from airflow_provider_bgai.imaging.fidelity.product import OPAQUE, Placement, Product
from airflow_provider_bgai.imaging.fidelity.search import best_places, likely

if TYPE_CHECKING:
    from PIL import Image

__all__ = ["Placement", "Thresholds", "Verdict", "compare"]


def compare(
    source: Image.Image,
    result: Image.Image,
    *,
    hint: tuple[int, int, int, int] | None = None,
    thresholds: Thresholds = USUAL,
) -> Verdict:
    """Find the product of a cut-out in a result and say whether it is unchanged.

    :param source: the cut-out, RGBA, upright sRGB with straight alpha.
    :param result: any picture; where it is transparent, it counts as grey.
    :param hint: (x, y, width, height) in px of the product in the result as the vendor tells it; tried, not believed.
    :raises ValueError: if the source is not RGBA or has hardly any opaque pixel.
    """
    product = Product(source)
    picture = _opaque(result)
    verdict = _inside(source, product, picture, hint, thresholds)
    return judged_outside(product, picture, verdict, thresholds) if verdict.faithful else verdict


def _inside(
    source: Image.Image,
    product: Product,
    picture: Image.Image,
    hint: tuple[int, int, int, int] | None,
    thresholds: Thresholds,
) -> Verdict:
    if _same_pixels(source, picture):
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
            sharpness=1.0,
            stretch=0.0,
            coverage=1.0,
        )
    fits: list[Fit] = []
    for placement in likely(product, picture, hint):
        # The exact placement first: a result that needs no fitting is not to be moved by a hundredth of a pixel.
        fit = fitted(product, picture, placement, FINE)
        verdict = judged(fit, thresholds)
        if verdict.faithful:
            return verdict
        fits.append(fit)
    rough = sorted((fitted(product, picture, each, COARSE) for each in best_places(product, picture, fits)), key=misfit)
    if not rough:
        return Verdict(False, (f"the result is too small to show the product: {picture.width} x {picture.height} px",))
    best = min((refined(product, picture, each) for each in rough[:5]), key=misfit)
    fits.append(polished(product, picture, best))
    return judged(min(fits, key=misfit), thresholds)


def _same_pixels(source: Image.Image, picture: Image.Image) -> bool:
    """Whether every fully opaque pixel is where and what it was: so do vendors return it that only paint around it."""
    from PIL import Image, ImageChops

    if source.size != picture.size or picture.getcolors(1) is not None:
        return False  # a blank result may have a black product's colour, and does not show it
    alpha = source.getchannel("A")
    levels = alpha.histogram()
    if levels[255] < 0.99 * sum(levels[OPAQUE:]):
        return False  # nearly opaque pixels are blended, and so are hardly ever the same
    opaque = alpha.point([0] * 255 + [255])
    nothing = Image.new("RGB", source.size)
    return Image.composite(ImageChops.difference(source.convert("RGB"), picture), nothing, opaque).getbbox() is None


def _opaque(picture: Image.Image) -> Image.Image:
    from PIL import Image

    if "A" not in picture.getbands() and "transparency" not in picture.info:
        return picture if picture.mode == "RGB" else picture.convert("RGB")
    layered = picture.convert("RGBA")
    canvas = Image.new("RGB", picture.size, (128, 128, 128))
    canvas.paste(layered, mask=layered)
    return canvas
