"""Honest surroundings: nothing of the product, but much like what must not happen. ``SURROUNDED`` names them all."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFilter, ImageOps

from airflow_provider_bgai.sandbox import paint
from benchmarks.fidelity.outside import arranged, behind, shown
from benchmarks.fidelity.scenes import Random, cut_out, shadowed

Array = NDArray[np.floating[Any]]


def before_white(product: Image.Image, random: Random) -> Image.Image:
    """White, or nearly, with a soft shadow or none."""
    layer = arranged(product, random, 0.4, 0.9)
    level = int(random.integers(235, 256))
    scene = Image.new("RGB", layer.size, (level, level, level))
    if random.random() < 0.6:
        scene = shadowed(scene, layer, random)
    scene.paste(layer, mask=layer)
    return scene


def hard_shadow(product: Image.Image, random: Random) -> Image.Image:
    """The product's shape thrown on the ground behind it: sheared, flat, with hardly any blur; and where it stands."""
    layer = arranged(product, random, 0.4, 0.7)
    alpha = layer.getchannel("A")
    box = alpha.getbbox()
    assert box is not None
    shear, flat = random.uniform(-1.2, 1.2), random.uniform(0.3, 0.9)
    # From the scene back to the product: what lies higher is farther to a side.
    turned = (1, shear / flat, -shear / flat * box[3], 0, 1 / flat, box[3] * (1 - 1 / flat))
    thrown = alpha.transform(layer.size, Image.Transform.AFFINE, turned, Image.Resampling.BILINEAR)
    thrown = thrown.filter(ImageFilter.GaussianBlur(max(layer.size) * random.uniform(0.001, 0.006)))
    strength = random.uniform(0.25, 0.6)
    scene = behind(layer.size, layer, random)
    scene = Image.composite(Image.new("RGB", layer.size), scene, thrown.point(lambda value: int(value * strength)))
    foot = Image.new("L", layer.size)
    edge = ImageDraw.Draw(foot)
    high = max(2, int(0.02 * (box[3] - box[1])))
    edge.ellipse((box[0], box[3] - high, box[2], box[3] + high), fill=int(255 * random.uniform(0.3, 0.8)))
    foot = foot.filter(ImageFilter.GaussianBlur(high))
    scene = Image.composite(Image.new("RGB", layer.size), scene, foot)
    scene.paste(layer, mask=layer)
    return scene


def reflection(product: Image.Image, random: Random) -> Image.Image:
    """Its mirror image below it on a glossy table, paler, mostly fading out."""
    layer = arranged(product, random, 0.35, 0.6)
    box = layer.getchannel("A").getbbox()
    assert box is not None
    mirrored = Image.new("RGBA", layer.size)
    gap = int(random.integers(-2, 3))
    mirrored.paste(ImageOps.flip(layer.crop(box)), (box[0], box[3] + gap))
    if random.random() < 0.5:
        mirrored = mirrored.filter(ImageFilter.GaussianBlur(random.uniform(0.3, 2.5)))
    high = box[3] - box[1]
    fade = random.uniform(0.0, 1.5)
    strength = random.uniform(0.15, 0.5)
    down = np.clip(1 - fade * (np.arange(layer.height) - box[3]) / high, 0, 1) * strength
    alpha = np.asarray(mirrored.getchannel("A"), np.float32) * down[:, None].astype(np.float32)
    mirrored.putalpha(Image.fromarray(alpha.astype(np.uint8), "L"))
    scene = behind(layer.size, layer, random)
    scene.paste(mirrored, mask=mirrored)
    scene.paste(layer, mask=layer)
    return scene


def props(product: Image.Image, random: Random) -> Image.Image:
    """Things in the product's colours around and behind it: balls, boxes, cylinders, leaves, with light and edges."""
    layer = arranged(product, random, 0.35, 0.7)
    scene = behind(layer.size, layer, random)
    own = np.asarray(product)
    opaque = own[own[..., 3] > 250][:, :3]
    for _ in range(int(random.integers(2, 7))):
        colour = _near(opaque, random)
        prop = _prop(layer.size, colour, random)
        if random.random() < 0.4:
            prop = prop.filter(ImageFilter.GaussianBlur(random.uniform(0, 0.012) * max(layer.size)))
        if random.random() < 0.6:
            scene = shadowed(scene, prop, random)
        scene.paste(prop, mask=prop)
    scene = shadowed(scene, layer, random)
    scene.paste(layer, mask=layer)
    return scene


def _near(opaque: NDArray[np.uint8], random: Random) -> Array:
    """A colour of the product in another light: what stands behind it is 20 to 60 levels lighter or darker."""
    colour = opaque[int(random.integers(len(opaque)))].astype(float)
    shift = random.uniform(20, 60) * (
        1 if colour.mean() < 60 else -1 if colour.mean() > 195 else random.choice([-1, 1])
    )
    return np.clip(colour + shift + random.uniform(-8, 8, 3), 0, 255)


def _prop(size: tuple[int, int], colour: Array, random: Random) -> Image.Image:
    """One thing, shaded from one side."""
    width, height = size
    across, down = (random.uniform(0.06, 0.35) * max(size) for _ in range(2))
    x, y = random.uniform(0, width), random.uniform(0.2, 1) * height
    mask = Image.new("L", (2 * width, 2 * height))
    box = (2 * x - across, 2 * y - down, 2 * x + across, 2 * y + down)
    draw = ImageDraw.Draw(mask)
    kind = random.choice(["ball", "box", "rounded"])
    if kind == "ball":
        draw.ellipse(box, fill=255)
    elif kind == "box":
        draw.rectangle(box, fill=255)
    else:
        draw.rounded_rectangle(box, min(across, down) * 0.5, fill=255)
    mask = mask.resize(size, Image.Resampling.BOX)
    rows, columns = np.mgrid[0:height, 0:width]
    u, v = (columns - x) / across * 2, (rows - y) / down * 2
    side = random.choice([-1, 1])
    light = np.clip(1.02 - 0.18 * side * u - 0.14 * v - 0.1 * (u * u + v * v), 0.45, 1.25)
    shaded = np.clip(light[..., None] * np.clip(colour, 0, 255), 0, 255).astype(np.uint8)
    prop = Image.fromarray(shaded, "RGB")
    prop.putalpha(mask)
    return prop


def other_things(product: Image.Image, random: Random) -> Image.Image:
    """Other products of a catalogue beside and behind it, as in a picture of a set."""
    layer = arranged(product, random, 0.35, 0.6)
    scene = behind(layer.size, layer, random)
    for _ in range(int(random.integers(1, 4))):
        other = cut_out(_OTHERS[int(random.integers(len(_OTHERS)))])
        if other.tobytes() == product.tobytes():
            continue
        other = other.crop(other.getchannel("A").getbbox())
        other = paint.scaled(other, random.uniform(0.15, 0.5) * max(layer.size) / max(other.size))
        whole = Image.new("RGBA", layer.size)
        whole.paste(other, (int(random.uniform(-0.1, 0.9) * layer.width), int(random.uniform(0, 0.9) * layer.height)))
        scene = shadowed(scene, whole, random)
        scene.paste(whole, mask=whole)
    scene = shadowed(scene, layer, random)
    scene.paste(layer, mask=layer)
    return scene


_OTHERS = sorted((Path(__file__).parents[2] / "demo" / "catalogue" / "images").glob("*.png"))


def stripes(product: Image.Image, random: Random) -> Image.Image:
    """Boards, tiles or stripes whose edges run up to the product, in colours that may be its own."""
    layer = arranged(product, random, 0.4, 0.8)
    own = np.asarray(product)
    opaque = own[own[..., 3] > 250][:, :3]
    first, second = _near(opaque, random), _near(opaque, random)
    if random.random() < 0.5:
        second = random.uniform(0, 255, 3)
    rows, columns = np.mgrid[0 : layer.height, 0 : layer.width] / max(layer.size)
    turn, wide = random.uniform(0, 3.1), random.uniform(0.02, 0.2)
    wave = np.sin((columns * np.cos(turn) + rows * np.sin(turn)) / wide * np.pi)
    if random.random() < 0.3:
        wave = wave * np.sin((rows * np.cos(turn) - columns * np.sin(turn)) / wide * np.pi)
    edge = np.clip(wave * random.uniform(3, 40) * wide * 10 + 0.5, 0, 1)[..., None]
    scene = Image.fromarray(np.clip(first * edge + second * (1 - edge), 0, 255).astype(np.uint8), "RGB")
    if random.random() < 0.6:
        scene = shadowed(scene, layer, random)
    scene.paste(layer, mask=layer)
    return scene


def bokeh(product: Image.Image, random: Random) -> Image.Image:
    """Discs of light out of focus, some in the product's colours."""
    layer = arranged(product, random, 0.4, 0.8)
    scene = behind(layer.size, layer, random).filter(ImageFilter.GaussianBlur(max(layer.size) * 0.02))
    own = np.asarray(product)
    opaque = own[own[..., 3] > 250][:, :3]
    for _ in range(int(random.integers(6, 30))):
        radius = random.uniform(0.015, 0.09) * max(layer.size)
        x, y = random.uniform(0, layer.width), random.uniform(0, layer.height)
        colour = opaque[int(random.integers(len(opaque)))] if random.random() < 0.4 else random.uniform(120, 256, 3)
        disc = Image.new("L", layer.size)
        ImageDraw.Draw(disc).ellipse(
            (x - radius, y - radius, x + radius, y + radius), fill=int(random.uniform(60, 200))
        )
        disc = disc.filter(ImageFilter.GaussianBlur(radius * random.uniform(0.03, 0.2)))
        scene.paste(Image.new("RGB", layer.size, tuple(int(value) for value in colour)), mask=disc)
    scene.paste(layer, mask=layer)
    return scene


def photographed(product: Image.Image, random: Random) -> Image.Image:
    """Before a part of a photograph, sharp or out of focus."""
    return shown(arranged(product, random, 0.4, 0.9), random)[0]


SURROUNDED: dict[str, Callable[[Image.Image, Random], Image.Image]] = {
    "white on white": before_white,
    "hard shadow": hard_shadow,
    "reflection": reflection,
    "props": props,
    "other things": other_things,
    "stripes": stripes,
    "bokeh": bokeh,
    "photograph": photographed,
}
