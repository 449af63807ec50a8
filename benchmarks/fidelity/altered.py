"""What must not happen to a product, inside its outline. ``ALTERED`` names all the ways.

What counts as a visible alteration: at least 0.5 % of the product's opaque pixels differ by 24 levels of 255 or more
(of a shifted hue: 10 % by 16 levels). What is altered by less is drawn again, on another part or another product.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
from PIL import Image, ImageChops, ImageDraw, ImageFilter

from airflow_provider_bgai.sandbox import paint
from benchmarks.fidelity.scenes import Random, cut_out, solid


def part(product: Image.Image, random: Random, least: float, most: float, *, detailed: bool) -> Image.Image:
    """A soft-edged mask over a part of the product of ``least`` to ``most`` of its area, where there is detail."""
    alpha = np.asarray(product.getchannel("A")) >= 250
    area = alpha.sum() * random.uniform(least, most)
    aspect = random.uniform(0.5, 2.0)
    width, height = max(4, int((area * aspect) ** 0.5)), max(4, int((area / aspect) ** 0.5))
    rows, columns = np.nonzero(alpha)
    places = random.integers(0, rows.size, 12 if detailed else 1)
    luma = np.asarray(product.convert("L"), np.float32)

    def box(place: int) -> tuple[int, int, int, int]:
        left, top = int(columns[place] - width / 2), int(rows[place] - height / 2)
        return max(0, left), max(0, top), max(0, left) + width, max(0, top) + height

    def detail(place: int) -> float:
        left, top, right, bottom = box(place)
        window, own = luma[top:bottom, left:right], alpha[top:bottom, left:right]
        return float(window[own].std() * own.mean()) if own.any() else 0.0

    best = max((int(place) for place in places), key=detail)
    mask = Image.new("L", product.size)
    draw = ImageDraw.Draw(mask)
    (draw.rectangle if random.random() < 0.5 else draw.ellipse)(box(best), fill=255)
    return mask.filter(ImageFilter.GaussianBlur(1))


def over(product: Image.Image, changed: Image.Image, mask: Image.Image) -> Image.Image:
    """``changed`` (RGB) where the mask is; the alpha stays."""
    mixed = Image.composite(changed, product.convert("RGB"), mask)
    mixed.putalpha(product.getchannel("A"))
    return mixed


def blurred_label(product: Image.Image, random: Random, others: list[Path]) -> Image.Image:
    """2 to 20 % of the product blurred by 0.6 to 3 % of its size (at least 1.5 px)."""
    mask = part(product, random, 0.02, 0.2, detailed=True)
    box = product.getchannel("A").getbbox()
    assert box is not None
    radius = max(1.5, max(box[2] - box[0], box[3] - box[1]) * random.uniform(0.006, 0.03))
    return over(product, solid(product).filter(ImageFilter.GaussianBlur(radius)), mask)


def shifted_hue(product: Image.Image, random: Random, others: list[Path]) -> Image.Image:
    """All of the product turned by 8 to 60 degrees of hue, either way."""
    degrees = random.uniform(8, 60) * random.choice([-1, 1])
    hue, saturation, value = product.convert("RGB").convert("HSV").split()
    turned = np.asarray(hue, np.int32) + round(degrees / 360 * 256)
    mixed = Image.merge("HSV", (Image.fromarray((turned % 256).astype(np.uint8), "L"), saturation, value))
    changed = mixed.convert("RGB")
    changed.putalpha(product.getchannel("A"))
    return changed


def redrawn_part(product: Image.Image, random: Random, others: list[Path]) -> Image.Image:
    """1 to 15 % of the product drawn anew: warped, mirrored, taken from elsewhere on it, or from another product."""
    mask = part(product, random, 0.01, 0.15, detailed=bool(random.random() < 0.5))
    kind = random.choice(["warped", "mirrored", "elsewhere", "other"])
    own = solid(product)
    if kind == "mirrored":
        box = mask.getbbox()
        assert box is not None
        changed = own.copy()
        changed.paste(own.crop(box).transpose(Image.Transpose.FLIP_LEFT_RIGHT), box[:2])
    elif kind == "elsewhere":
        across, down = random.uniform(-0.4, 0.4, 2)
        changed = ImageChops.offset(own, int(across * own.width), int(down * own.height))
    elif kind == "other":
        other = cut_out(others[int(random.integers(len(others)))])
        changed = solid(other.crop(other.getchannel("A").getbbox())).resize(own.size)
    else:
        size = max(own.size) * random.uniform(0.01, 0.03)
        y, x = np.mgrid[0 : own.height, 0 : own.width]
        phase = random.uniform(0, 6, 2)
        waves = max(own.size) * random.uniform(0.02, 0.06)
        rows = np.clip(y + size * np.sin(x / waves + phase[0]), 0, own.height - 1).astype(int)
        columns = np.clip(x + size * np.sin(y / waves + phase[1]), 0, own.width - 1).astype(int)
        changed = Image.fromarray(np.asarray(own)[rows, columns], "RGB")
    return over(product, changed, mask)


def changed_proportions(product: Image.Image, random: Random, others: list[Path]) -> Image.Image:
    """4 to 15 % wider or narrower, about its middle."""
    factor = 1 + random.uniform(0.04, 0.15)
    wider = random.random() < 0.5
    across, down = (factor, 1.0) if wider else (1.0, factor)
    if random.random() < 0.5:
        across, down = 1 / across, 1 / down
    size = (round(product.width * across), round(product.height * down))
    stretched = product.convert("RGBa").resize(size, Image.Resampling.BICUBIC).convert("RGBA")
    canvas = Image.new("RGBA", (max(product.width, size[0]), max(product.height, size[1])))
    canvas.paste(stretched, ((canvas.width - size[0]) // 2, (canvas.height - size[1]) // 2))
    left, top = (canvas.width - product.width) // 2, (canvas.height - product.height) // 2
    box = canvas.getchannel("A").getbbox()
    assert box is not None
    if box[0] < left or box[1] < top or box[2] > left + product.width or box[3] > top + product.height:
        return canvas  # it would be cut off, so the canvas is a little larger
    return canvas.crop((left, top, left + product.width, top + product.height))


def erased_detail(product: Image.Image, random: Random, others: list[Path]) -> Image.Image:
    """1 to 10 % of the product painted over with its surroundings' colour."""
    mask = part(product, random, 0.01, 0.1, detailed=True)
    box = mask.getbbox()
    assert box is not None
    own = solid(product)
    ring = mask.filter(ImageFilter.MaxFilter(9))
    around = ImageChops.multiply(ImageChops.subtract(ring, mask), product.getchannel("A"))
    weights = np.asarray(around, np.float32)
    if not weights.any():
        weights = np.asarray(product.getchannel("A"), np.float32)
    colour = (np.asarray(own, np.float32) * weights[..., None]).sum((0, 1)) / weights.sum()
    return over(product, Image.new("RGB", own.size, tuple(int(value) for value in colour)), mask)


def wrong_product(product: Image.Image, random: Random, others: list[Path]) -> Image.Image:
    """Another product in its place, of about its size."""
    other = cut_out(others[int(random.integers(len(others)))])
    box, own = other.getchannel("A").getbbox(), product.getchannel("A").getbbox()
    assert box is not None
    assert own is not None
    subject = other.crop(box)
    factor = min((own[2] - own[0]) / subject.width, (own[3] - own[1]) / subject.height)
    subject = paint.scaled(subject, factor)
    canvas = Image.new("RGBA", product.size)
    canvas.paste(subject, ((own[0] + own[2] - subject.width) // 2, own[3] - subject.height))
    return canvas


ALTERED: dict[str, Callable[[Image.Image, Random, list[Path]], Image.Image]] = {
    "blurred label": blurred_label,
    "shifted hue": shifted_hue,
    "redrawn part": redrawn_part,
    "changed proportions": changed_proportions,
    "erased detail": erased_detail,
    "wrong product": wrong_product,
}


def visible(product: Image.Image, changed: Image.Image, kind: str) -> bool:
    if changed.size != product.size:
        return True
    own = np.asarray(product.getchannel("A")) >= 250
    before, after = (np.asarray(each.convert("RGB"), np.int16)[own] for each in (product, changed))
    difference = np.abs(after - before).max(axis=1)
    if kind == "shifted hue":
        return float((difference >= 16).mean()) >= 0.1
    return kind in ("changed proportions", "wrong product") or float((difference >= 24).mean()) >= 0.005
