"""The product's own pixels over what a vendor made of them: bit-true where nothing has to be scaled."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from airflow_provider_bgai.imaging.fidelity.product import Placement, require_cut_out

if TYPE_CHECKING:
    from PIL import Image


def paste_back(source: Image.Image, result: Image.Image, placement: Placement) -> Image.Image:
    """The result with the source's own pixels over the vendor's, blended by their alpha.

    At scale 1 and a whole-pixel place, opaque pixels are the source's bit by bit. Else the source is resampled,
    which Pillow does with premultiplied alpha, so that the colour of transparent pixels leaves no halo.

    :raises ValueError: if the source is not RGBA, or lies wholly outside the result.
    """
    from PIL import Image

    require_cut_out(source)
    left, top = math.floor(placement.x), math.floor(placement.y)
    right = math.ceil(placement.x + source.width * placement.scale_x)
    bottom = math.ceil(placement.y + source.height * placement.scale_y)
    if right <= 0 or bottom <= 0 or left >= result.width or top >= result.height:
        raise ValueError(f"the source would lie outside the result of {result.width} x {result.height} px")
    layer = source
    if (right - left, bottom - top) != source.size or (left, top) != (placement.x, placement.y):
        margin = 2 + math.ceil(2 / min(placement.scale_x, placement.scale_y))
        padded = Image.new("RGBA", (source.width + 2 * margin, source.height + 2 * margin))
        padded.paste(source, (margin, margin))
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
