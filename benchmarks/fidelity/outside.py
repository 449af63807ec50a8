"""What must not happen outside the product's outline: it grows, gets parts, gets a twin. ``GROWN`` names all the ways.

Each gives a whole picture, because outside is where the scene is, or None where nothing of it would be seen.
Photographs to stand before are taken from the folder that the environment names as ``BGAI_PHOTOGRAPHS``, such as
``skimage/data`` of scikit-image's wheel; without one, scenes are painted.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from functools import lru_cache
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageEnhance, ImageFilter, ImageOps

from airflow_provider_bgai.sandbox import paint
from benchmarks.fidelity.scenes import Random, background, shadowed

Array = NDArray[np.floating[Any]]

VISIBLE, WIDE = 24, 4  # levels and px from which a person sees that there is something


@lru_cache(maxsize=1)
def photographs() -> tuple[Path, ...]:
    folder = os.environ.get("BGAI_PHOTOGRAPHS")
    return tuple(sorted(each for each in Path(folder).iterdir() if each.suffix in (".png", ".jpg"))) if folder else ()


@lru_cache(maxsize=40)
def _photograph(path: Path) -> Image.Image:
    with Image.open(path) as picture:
        return picture.convert("RGB")


def behind(size: tuple[int, int], product: Image.Image, random: Random) -> Image.Image:
    """A part of a photograph where there are any, more or less out of focus; else a scene as in the other cases."""
    if not photographs() or random.random() < 0.5:
        return background(size, product, random)
    photograph = _photograph(photographs()[int(random.integers(len(photographs())))])
    share = random.uniform(0.4, 1.0)
    width, height = int(photograph.width * share), int(photograph.height * share)
    left, top = (int(random.integers(0, rest + 1)) for rest in (photograph.width - width, photograph.height - height))
    part = photograph.crop((left, top, left + width, top + height))
    fitted = ImageOps.fit(part, size, Image.Resampling.BICUBIC)
    return fitted.filter(ImageFilter.GaussianBlur(float(random.choice([0, 0, 0.004, 0.012])) * max(size)))


def arranged(product: Image.Image, random: Random, least: float, most: float) -> Image.Image:
    """The product on an empty canvas (RGBA) of some shape, of which it takes ``least`` to ``most`` of a side."""
    subject = product.crop(product.getchannel("A").getbbox())
    longest = max(product.size) * random.uniform(0.8, 1.5)
    aspect = random.uniform(0.75, 1.33)
    canvas = (int(longest * min(1, aspect)), int(longest * min(1, 1 / aspect)))
    room = random.uniform(least, most)
    factor = min(canvas[0] * room / subject.width, canvas[1] * room / subject.height)
    subject = paint.scaled(subject, max(factor, 80 / max(subject.size)))
    canvas = (max(canvas[0], subject.width + 8), max(canvas[1], subject.height + 8))
    layer = Image.new("RGBA", canvas)
    x = int(random.uniform(0.05, 0.95) * (canvas[0] - subject.width))
    y = int(random.uniform(0.3, 0.95) * (canvas[1] - subject.height))
    layer.paste(subject, (x, y))
    return layer


def opaque_rim(product: Image.Image) -> bool:
    """Whether the product is opaque at its rim: what a translucent one shows there is half its surroundings."""
    alpha = np.asarray(product.getchannel("A"))
    own = (alpha > 64).astype(np.uint8)
    size = max(2, round(0.02 * max(_size(product))))
    depth = cv2.distanceTransform(own, cv2.DIST_L2, 5)
    rim = (depth > size / 2) & (depth < size)
    return float((alpha[rim] > 245).mean()) > 0.7 if rim.any() else False


def shown(layer: Image.Image, random: Random, invented: Image.Image | None = None) -> tuple[Image.Image, float]:
    """A product (RGBA) in a scene, in half of them with a shadow, and what a generator invents behind it.

    Also the share of the product's area by which the picture visibly differs from one without that: by ``VISIBLE``
    levels, over ``WIDE`` px each way.
    """
    together = invented.copy() if invented else layer
    together.alpha_composite(layer)
    scene = behind(layer.size, layer, random)
    if random.random() < 0.5:
        scene = shadowed(scene, together, random)
    seen = 0.0
    if invented:
        before = np.asarray(scene, np.int16)
        scene.paste(invented, mask=invented)
        own = np.asarray(layer.getchannel("A"))
        differs = (np.abs(np.asarray(scene, np.int16) - before).max(-1) >= VISIBLE) & (own < 5)
        wide = cv2.morphologyEx(differs.astype(np.uint8), cv2.MORPH_OPEN, np.ones((WIDE, WIDE), np.uint8))
        seen = float(wide.sum() / (own > 127).sum())
    scene.paste(layer, mask=layer)
    return scene, seen


# What a generator does to a product outside its outline


def grown_rim(product: Image.Image, random: Random, others: list[Path]) -> Image.Image | None:
    """The silhouette wider by 2 to 8 % of the product's size (4 px): its colours go on, mirrored, smeared or enlarged.

    At least 2 % of its area more is seen.
    """
    if not opaque_rim(product):
        return None
    layer = arranged(product, random, 0.4, 0.8)
    picture, seen = shown(layer, random, _rim(layer, random))
    return picture if seen >= 0.02 else None


def _rim(layer: Image.Image, random: Random) -> Image.Image:
    share = max(random.uniform(0.02, 0.08), 4 / max(_size(layer)))
    if random.random() < 0.35:
        return _enlarged(layer, 1 + 2 * share)
    far, nearest_y, nearest_x = _from(layer, inset=1.5 if random.random() < 0.5 else 0.0)
    reach: Array = np.full(far.shape, share * max(_size(layer)), np.float32)
    y, x = np.mgrid[0 : layer.height, 0 : layer.width]
    if random.random() < 0.5:  # not all around, and not equally wide
        box = layer.getchannel("A").getbbox()
        assert box is not None
        turn = np.arctan2(y - (box[1] + box[3]) / 2, x - (box[0] + box[2]) / 2)
        reach = reach * np.clip(0.8 + 0.7 * np.sin(turn + random.uniform(0, 6)), 0, 1.3).astype(np.float32)
    again = 2 if random.random() < 0.4 else 1  # 2: mirrored at the outline; 1: the rim smeared outwards
    rows = np.clip(y + again * (nearest_y - y), 0, layer.height - 1)
    columns = np.clip(x + again * (nearest_x - x), 0, layer.width - 1)
    return _coloured(layer, rows, columns, np.clip(reach - far, 0, 1), random)


def invented_part(product: Image.Image, random: Random, others: list[Path]) -> Image.Image | None:
    """A handle, a spout, a foot or a cap of 2 to 10 % of the product's area, in its colours.

    2 % are seen, and half of the part: more of it in the colours of what is behind it is camouflage, to people, too.
    """
    if not opaque_rim(product):
        return None
    layer = arranged(product, random, 0.4, 0.7)
    part = _attached(layer, random)
    own = np.asarray(layer.getchannel("A"))
    whole = float(((np.asarray(part.getchannel("A")) > 127) & (own < 5)).sum() / (own > 127).sum())
    picture, seen = shown(layer, random, part)
    return picture if seen >= max(0.02, whole / 2) else None


def _attached(layer: Image.Image, random: Random) -> Image.Image:
    alpha = np.asarray(layer.getchannel("A")) > 127
    contours, _ = cv2.findContours(alpha.astype(np.uint8), cv2.RETR_EXTERNAL, cv2.CHAIN_APPROX_NONE)
    line = max(contours, key=cv2.contourArea)[:, 0].astype(float)
    place = int(random.integers(len(line)))
    along = line[(place + 12) % len(line)] - line[(place - 12) % len(line)]
    normal = np.array([along[1], -along[0]]) / max(1e-6, float(np.hypot(*along)))
    x, y = np.clip((line[place] + 8 * normal).round().astype(int), 0, (layer.width - 1, layer.height - 1))
    normal = -normal if alpha[y, x] else normal
    mask = _part(layer.size, line[place], normal, alpha.sum() * random.uniform(0.02, 0.1), random)
    # What hides behind the product joins the part to it; what would float beside it is no part of it.
    _, joined = cv2.connectedComponents(((mask > 0.1) & ~alpha).astype(np.uint8))
    near = cv2.dilate(alpha.astype(np.uint8), np.ones((5, 5), np.uint8)) > 0
    mask = mask * (alpha | np.isin(joined, np.unique(joined[near & (joined > 0)])))
    far, nearest_y, nearest_x = _from(layer, inset=2.5)
    smooth = cv2.GaussianBlur(far, (0, 0), 1)
    shade = np.clip(1.0 - 0.25 * smooth / max(1.0, float(smooth[mask > 0.5].max(initial=0))), 0.7, 1.0)
    return _coloured(layer, nearest_y, nearest_x, mask, random, shade=shade)


def second_copy(product: Image.Image, random: Random, others: list[Path]) -> Image.Image | None:
    """The product once more in the scene, 0.3 to 1.2 times as large, mirrored or turned a little, over half seen."""
    layer = arranged(product, random, 0.35, 0.6)
    twin, share = _twin(layer, random)
    picture, seen = shown(layer, random, twin)
    return picture if seen >= 0.55 * share else None


def _twin(layer: Image.Image, random: Random) -> tuple[Image.Image, float]:
    """A copy on a canvas of its own, and how much of the product's area the whole copy has."""
    copy = layer.crop(layer.getchannel("A").getbbox())
    area = np.count_nonzero(np.asarray(copy)[..., 3] > 127)
    copy = paint.scaled(copy, max(random.uniform(0.3, 1.2), 28 / max(copy.size)))
    if random.random() < 0.4:
        copy = ImageOps.mirror(copy)
    if random.random() < 0.4:
        copy = (
            copy.convert("RGBa").rotate(random.uniform(-10, 10), Image.Resampling.BICUBIC, expand=True).convert("RGBA")
        )
    lit = ImageEnhance.Brightness(copy.convert("RGB")).enhance(random.uniform(0.88, 1.08))
    lit.putalpha(copy.getchannel("A"))
    if random.random() < 0.3:
        lit = (
            lit.convert("RGBa")
            .filter(ImageFilter.GaussianBlur(random.uniform(0.3, 0.012 * max(copy.size) + 0.3)))
            .convert("RGBA")
        )
    twin = Image.new("RGBA", layer.size)
    x, y = random.uniform(-0.3, 0.9) * layer.width, random.uniform(-0.2, 0.9) * layer.height
    twin.paste(lit, (int(x), int(y)))
    return twin, float(np.count_nonzero(np.asarray(lit)[..., 3] > 127) / area)


def _size(layer: Image.Image) -> tuple[int, int]:
    box = layer.getchannel("A").getbbox()
    assert box is not None
    return box[2] - box[0], box[3] - box[1]


def _from(layer: Image.Image, inset: float) -> tuple[Array, NDArray[np.intp], NDArray[np.intp]]:
    """How far every px is from the product less ``inset`` px of its rim, and which px of that is the nearest."""
    alpha = np.asarray(layer.getchannel("A"))
    own = (alpha > 250).astype(np.uint8)
    depth = cv2.distanceTransform(own, cv2.DIST_L2, 5)
    core = (depth > inset).astype(np.uint8) if (depth > inset).sum() > 0.3 * own.sum() else own
    far, labels = cv2.distanceTransformWithLabels(1 - core, cv2.DIST_L2, 5, labelType=cv2.DIST_LABEL_PIXEL)
    rows, columns = np.nonzero(core)
    order = np.zeros(int(labels.max()) + 1, np.intp)
    order[labels[rows, columns]] = np.arange(rows.size)
    return np.asarray(far, np.float32), rows[order[labels]], columns[order[labels]]


def _enlarged(layer: Image.Image, factor: float) -> Image.Image:
    """The product larger about its own middle."""
    box = layer.getchannel("A").getbbox()
    assert box is not None
    larger = paint.scaled(layer.crop(box), factor)
    canvas = Image.new("RGBA", layer.size)
    canvas.paste(larger, ((box[0] + box[2] - larger.width) // 2, (box[1] + box[3] - larger.height) // 2))
    return canvas


def _coloured(
    layer: Image.Image,
    rows: NDArray[np.intp],
    columns: NDArray[np.intp],
    mask: Array,
    random: Random,
    *,
    shade: Array | None = None,
) -> Image.Image:
    """A layer in colours fetched from the product, smoothed a little along the way, with a little grain."""
    own = np.asarray(layer)[..., :3]
    blur = random.uniform(0.6, 2.0)
    colours: Array = np.asarray(cv2.GaussianBlur(own[rows, columns].astype(np.float32), (0, 0), blur), np.float32)
    if shade is not None:
        colours = colours * shade[..., None]
    colours = colours + random.normal(0, random.uniform(0, 3), colours.shape)
    picture = Image.fromarray(np.clip(colours, 0, 255).astype(np.uint8), "RGB")
    picture.putalpha(Image.fromarray((np.clip(mask, 0, 1) * 255).astype(np.uint8), "L"))
    return picture


def _part(size: tuple[int, int], at: Array, normal: Array, area: float, random: Random) -> Array:
    """A soft-edged shape of about this area that begins at a point of the outline and leads away from it."""
    canvas = np.zeros((size[1], size[0]), np.uint8)
    along = np.array([-normal[1], normal[0]])
    kind = random.choice(["handle", "spout", "foot", "cap"])
    start = at - normal * 2

    def points(pairs: list[tuple[float, float]]) -> NDArray[np.int32]:
        return np.array([(start + out * normal + side * along) * 16 for out, side in pairs]).round().astype(np.int32)

    if kind == "handle":
        length = (area * random.uniform(3, 5)) ** 0.5
        thick = max(3, round(area / (1.7 * length)))
        angles = np.linspace(0, np.pi, 40)
        bow = [(0.6 * length * np.sin(turn), 0.5 * length * np.cos(turn)) for turn in angles]
        arc = points([(-0.5 * length, 0.5 * length), *bow, (-0.5 * length, -0.5 * length)])
        cv2.polylines(canvas, [arc], False, 255, thick, cv2.LINE_AA, 4)
    elif kind == "spout":
        length, bend = (area * random.uniform(2, 4)) ** 0.5, random.uniform(-0.5, 0.5)
        thick = area / length
        left = [(t * length, bend * length * t * t + thick * (0.7 - 0.4 * t)) for t in np.linspace(0, 1, 20)]
        right = [(t * length, bend * length * t * t - thick * (0.7 - 0.4 * t)) for t in np.linspace(1, 0, 20)]
        cv2.fillPoly(canvas, [points(left + right)], 255, cv2.LINE_AA, 4)
    elif kind == "foot":
        wide = (area * random.uniform(0.8, 2)) ** 0.5
        long_ = area / wide
        shape = [(-wide / 3, -wide / 2), (long_, -wide / 2), (long_, wide / 2), (-wide / 3, wide / 2)]
        cv2.fillPoly(canvas, [points(shape)], 255, cv2.LINE_AA, 4)
    else:
        radius = (area * 2 / np.pi) ** 0.5
        angles = np.linspace(-np.pi / 2, np.pi / 2, 40)
        bow = [(radius * np.cos(turn), radius * np.sin(turn)) for turn in angles]
        dome = points([(-radius / 2, -radius), *bow, (-radius / 2, radius)])
        cv2.fillPoly(canvas, [dome], 255, cv2.LINE_AA, 4)
    return np.asarray(cv2.GaussianBlur(canvas.astype(np.float32) / 255, (0, 0), 0.6), np.float32)


GROWN: dict[str, Callable[[Image.Image, Random, list[Path]], Image.Image | None]] = {
    "grown rim": grown_rim,
    "invented part": invented_part,
    "second copy": second_copy,
}
