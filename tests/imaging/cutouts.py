"""Cut-outs, and results that show them: what tests compare and paste."""

from __future__ import annotations

import io
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw

from airflow_provider_bgai.sandbox import paint

CATALOGUE = Path(__file__).parents[2] / "demo" / "catalogue" / "images"
PRODUCTS = sorted(each.stem for each in CATALOGUE.glob("*.png"))


def product(name: str = "paper-bag") -> Image.Image:
    with Image.open(CATALOGUE / f"{name}.png") as picture:
        return picture.convert("RGBA")


def box_of(picture: Image.Image) -> tuple[int, int, int, int]:
    box = picture.getchannel("A").getbbox()
    assert box is not None
    return box


def scene(source: Image.Image, seed: int = 1) -> Image.Image:
    return paint.compose(source, "oak table", seed, 0)


def moved(source: Image.Image, canvas: tuple[int, int], x: int, y: int, seed: int = 1) -> Image.Image:
    """The source at (x, y) of a scene of another size; what lies outside is cut off."""
    layer = Image.new("RGBA", canvas)
    layer.paste(source, (x, y))
    return scene(layer, seed)


def jpeg(picture: Image.Image, quality: int = 75) -> Image.Image:
    buffer = io.BytesIO()
    picture.save(buffer, "JPEG", quality=quality)
    return Image.open(io.BytesIO(buffer.getvalue()))


def made(seed: int, size: tuple[int, int] = (160, 120)) -> Image.Image:
    """A cut-out with things to see on it."""
    random = np.random.default_rng(seed)
    picture = Image.new("RGBA", size)
    draw = ImageDraw.Draw(picture)
    colours = [tuple(int(value) for value in random.integers(20, 236, 3)) for _ in range(8)]
    width, height = size
    draw.rounded_rectangle((width * 0.1, height * 0.1, width * 0.9, height * 0.9), width * 0.08, (*colours[0], 255))
    for colour in colours[1:]:
        x, y = random.uniform(0.15, 0.7, 2) * size
        w, h = random.uniform(0.06, 0.2, 2) * size
        draw.ellipse((x, y, x + w, y + h), (*colour, 255))
    return picture
