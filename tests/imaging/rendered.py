"""What renditions are made of in tests, and how they are looked at."""

from __future__ import annotations

import io
from pathlib import Path

import numpy as np
from PIL import Image, ImageChops, ImageDraw

from airflow_provider_bgai.imaging.renditions import Rendered, Rendition
from airflow_provider_bgai.sandbox import paint

SAMPLES = sorted((Path(__file__).parents[2] / "demo/catalogue/images").glob("*.png"))
WHITE_BOX = Rendition(of="cutout", width=400, height=400, fit="pad", fill=0.9, quality=95, upscale=16)


def sample(name: str) -> Image.Image:
    (path,) = (path for path in SAMPLES if path.stem == name)
    return Image.open(path).convert("RGBA")


def scene(name: str = "electric-guitar", prompt: str = "on a wooden table") -> Image.Image:
    return paint.compose(sample(name), prompt, 7, 0).convert("RGB")


def decoded(rendered: Rendered) -> Image.Image:
    return Image.open(io.BytesIO(rendered.data)).convert("RGB")


def disc(size: tuple[int, int], colour: str, margin: int = 0, hidden: str = "#000000") -> Image.Image:
    """An ellipse with an antialiased edge; ``hidden`` is the colour of its transparent pixels."""
    alpha = Image.new("L", (size[0] * 4, size[1] * 4))
    ImageDraw.Draw(alpha).ellipse(
        (margin * 4, margin * 4, (size[0] - margin) * 4 - 1, (size[1] - margin) * 4 - 1), fill=255
    )
    alpha = alpha.resize(size, Image.Resampling.BOX)
    picture = Image.new("RGB", size, hidden)
    picture.paste(colour, mask=alpha.point(lambda a: 255 if a else 0))
    picture.putalpha(alpha)
    return picture


def box_of(picture: Image.Image, background: str = "white", tolerance: int = 0) -> tuple[int, int, int, int]:
    difference = ImageChops.difference(picture, Image.new("RGB", picture.size, background))
    box = Image.fromarray((np.asarray(difference).max(-1) > tolerance).astype(np.uint8) * 255).getbbox()
    assert box is not None
    return box


# Recipes
