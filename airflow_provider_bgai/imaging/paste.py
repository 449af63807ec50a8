"""The product's own pixels over what a vendor made of them: bit-true where nothing has to be scaled.

Only opaque ones: through what is translucent (glass, the rim of every cut-out) the new background shows, and the vendor
has blended the two already. Blended once more, glass would be as thick again.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from airflow_provider_bgai.imaging.fidelity.judge import Verdict
from airflow_provider_bgai.imaging.fidelity.product import OPAQUE, Placement, require_cut_out

if TYPE_CHECKING:
    from PIL import Image

# Found by looking at pasted pictures, on light and on dark. Beyond them it shows that two pictures were put together:
# inside the product where opaque meets translucent, and because the light on it is not that of its surroundings.
_MOST_LIGHT = 0.015
_MOST_DELTA_E = 1.0
# With less, it is not certain to a fraction of a pixel where the product lies.
_LEAST_PSNR = 30.0
_MOST_STRETCH = 0.003
# With more (dB), it is the product's own pixels already, but for a level here and there.
_MOST_PSNR = 50.0
# Enlarged, the product's own pixels are softer than what is there.
_LARGEST_SCALE = 1.05


def pasted_unseen(verdict: Verdict) -> bool:
    """Whether nobody would see that the product was pasted back, and something is gained: ``paste_back: auto``.

    Its place is certain, and its light and colours differ by less than is just visible.

    :param verdict: of the comparison that found the product.
    """
    place = verdict.placement
    if not verdict.faithful or place is None or verdict.psnr is None:
        return False
    numbers = (verdict.light, verdict.tint, verdict.delta_e, verdict.stretch)
    limits = (_MOST_LIGHT, _MOST_LIGHT, _MOST_DELTA_E, _MOST_STRETCH)
    within = all(value is not None and abs(value) <= most for value, most in zip(numbers, limits, strict=True))
    return within and _LEAST_PSNR <= verdict.psnr < _MOST_PSNR and max(place.scale_x, place.scale_y) <= _LARGEST_SCALE


def paste_back(source: Image.Image, result: Image.Image, placement: Placement) -> Image.Image:
    """The result with the source's own opaque pixels over the vendor's.

    At scale 1 and a whole-pixel place they are the source's bit by bit. Else the source is resampled, which Pillow does
    with premultiplied alpha, so that the colour of transparent pixels leaves no halo.

    :raises ValueError: if the source is not RGBA, or lies wholly outside the result.
    """
    from PIL import Image

    require_cut_out(source)
    left, top = math.floor(placement.x), math.floor(placement.y)
    right = math.ceil(placement.x + source.width * placement.scale_x)
    bottom = math.ceil(placement.y + source.height * placement.scale_y)
    if right <= 0 or bottom <= 0 or left >= result.width or top >= result.height:
        raise ValueError(f"the source would lie outside the result of {result.width} x {result.height} px")
    layer = source.copy()
    layer.putalpha(source.getchannel("A").point([0] * OPAQUE + [255] * (256 - OPAQUE)))
    if (right - left, bottom - top) != source.size or (left, top) != (placement.x, placement.y):
        margin = 2 + math.ceil(2 / min(placement.scale_x, placement.scale_y))
        padded = Image.new("RGBA", (source.width + 2 * margin, source.height + 2 * margin))
        padded.paste(layer, (margin, margin))
        box = (
            margin + (left - placement.x) / placement.scale_x,
            margin + (top - placement.y) / placement.scale_y,
            margin + (right - placement.x) / placement.scale_x,
            margin + (bottom - placement.y) / placement.scale_y,
        )
        layer = padded.resize((right - left, bottom - top), Image.Resampling.BICUBIC, box)
    has_alpha = "A" in result.getbands() or "transparency" in result.info
    canvas = result.convert("RGBA" if has_alpha else "RGB")
    if not has_alpha:
        canvas.paste(layer, (left, top), layer)
        return canvas
    over = Image.new("RGBA", canvas.size)
    over.paste(layer, (left, top))
    return Image.alpha_composite(canvas, over)
