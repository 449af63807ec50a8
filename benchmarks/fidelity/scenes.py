"""Products, the scenes they are put into, and what vendors do to pictures anyway."""

from __future__ import annotations

import io
from functools import lru_cache
from pathlib import Path

import numpy as np
from PIL import Image, ImageChops, ImageDraw, ImageEnhance, ImageFilter

from airflow_provider_bgai.sandbox import paint

Random = np.random.Generator


@lru_cache(maxsize=160)
def cut_out(path: Path) -> Image.Image:
    """A product. A photograph without transparency is taken for a print on a box with round corners."""
    with Image.open(path) as picture:
        product = picture.convert("RGBA")
    if product.getchannel("A").getextrema()[0] == 255:
        product.thumbnail((900, 900))
        width, height = product.size
        box = (width // 12, height // 12, width - width // 12, height - height // 12)
        shape = Image.new("L", (2 * width, 2 * height))
        ImageDraw.Draw(shape).rounded_rectangle([2 * side for side in box], min(width, height) // 10, 255)
        product.putalpha(shape.resize(product.size, Image.Resampling.BOX))
    return product


def enlarged(product: Image.Image, random: Random) -> Image.Image:
    """As large as shops' pictures are: 600 to 1,600 px."""
    return paint.scaled(product, random.uniform(600, 1600) / max(product.size))


def solid(product: Image.Image) -> Image.Image:
    """The product's colours continued under what is transparent, so that blurring mixes no foreign colour in."""
    colour = product.resize((1, 1), Image.Resampling.BOX).getpixel((0, 0))
    canvas = Image.new("RGB", product.size, colour[:3])  # type: ignore[index]
    canvas.paste(product, mask=product)
    return canvas


def background(size: tuple[int, int], product: Image.Image, random: Random) -> Image.Image:
    """A scene like a vendor's, or something harder: grain, clutter, plain white, almost the product's own colour."""
    kind = random.choice(["scene", "scene", "scene", "grain", "clutter", "white", "own"])
    if kind == "scene":
        empty = Image.new("RGBA", size)
        return paint.compose(empty, str(random.choice(sorted(paint.SCENES))), int(random.integers(1 << 30)), 0)
    if kind == "white":
        return Image.new("RGB", size, "white")
    if kind == "own":
        colour = product.resize((1, 1), Image.Resampling.BOX).getpixel((0, 0))
        shift = 40 if sum(colour[:3]) < 384 else -40  # type: ignore[index]
        return Image.new("RGB", size, tuple(value + shift for value in colour[:3]))  # type: ignore[index]
    if kind == "clutter":
        canvas = Image.new("RGB", size, tuple(int(v) for v in random.integers(0, 256, 3)))
        draw = ImageDraw.Draw(canvas)
        for _ in range(40):
            x, y = random.uniform(0, size[0]), random.uniform(0, size[1])
            w, h = (random.uniform(0.02, 0.3) * max(size) for _ in range(2))
            shape = draw.rectangle if random.random() < 0.5 else draw.ellipse
            shape((x - w / 2, y - h / 2, x + w / 2, y + h / 2), fill=tuple(int(v) for v in random.integers(0, 256, 3)))
        return canvas.filter(ImageFilter.GaussianBlur(random.uniform(0, 3)))
    sum_ = np.zeros((size[1], size[0], 3), np.float32) + random.uniform(60, 200, 3).astype(np.float32)
    for octave in (4, 16, 64, 256):
        noise = random.integers(0, 256, (octave, octave, 3), dtype=np.uint8)
        layer = Image.fromarray(noise, "RGB").resize(size, Image.Resampling.BICUBIC)
        sum_ += (np.asarray(layer, np.float32) - 128) * 0.25
    return Image.fromarray(np.clip(sum_, 0, 255).astype(np.uint8), "RGB")


# What vendors do to a picture anyway


def encoded(picture: Image.Image, random: Random, *, least: int = 75) -> Image.Image:
    """As JPEG (chroma at half size) or WebP, of quality ``least`` to 95."""
    kind = str(random.choice(["JPEG", "JPEG", "WEBP"]))
    buffer = io.BytesIO()
    picture.save(buffer, kind, quality=int(random.integers(least, 96)))
    with Image.open(io.BytesIO(buffer.getvalue())) as read:
        return read.convert("RGB")


def sharpened(picture: Image.Image, random: Random) -> Image.Image:
    return picture.filter(ImageFilter.UnsharpMask(random.uniform(0.6, 1.5), int(random.integers(20, 61)), 0))


def relit(picture: Image.Image, random: Random) -> Image.Image:
    """Up to 6 % lighter or darker."""
    return ImageEnhance.Brightness(picture).enhance(random.uniform(0.94, 1.06))


def tinted(picture: Image.Image, random: Random) -> Image.Image:
    """Warmer or cooler by up to 3 % a channel."""
    gains = 1 + random.uniform(-0.03, 0.03, 3).astype(np.float32)
    return Image.fromarray(np.clip(np.asarray(picture) * gains + 0.5, 0, 255).astype(np.uint8), "RGB")


def feathered(product: Image.Image, random: Random) -> Image.Image:
    """The rim made anew by up to 2 px: inwards, or to both sides with the product's colours drawn out."""
    blur = ImageFilter.GaussianBlur(random.uniform(0.5, 2.0))
    alpha = product.getchannel("A")
    if random.random() < 0.5:
        changed = product.copy()
        changed.putalpha(ImageChops.darker(alpha, alpha.filter(blur)))
        return changed
    wide = product.convert("RGBa").filter(ImageFilter.GaussianBlur(3)).convert("RGBA").convert("RGB")
    wide.paste(product, mask=product)
    wide.putalpha(alpha.filter(blur))
    return wide


def scaled(picture: Image.Image, random: Random, factor: float | None = None) -> Image.Image:
    """The whole canvas, to a third up to 1.6 times (or as told), by one of four filters."""
    if factor is None:
        factor = random.uniform(0.35, 1.0) if random.random() < 0.75 else random.uniform(1.0, 1.6)
        factor = max(factor, 120 / max(picture.size))
    size = (max(1, round(picture.width * factor)), max(1, round(picture.height * factor)))
    kinds = [Image.Resampling.LANCZOS, Image.Resampling.BICUBIC, Image.Resampling.BILINEAR, Image.Resampling.HAMMING]
    return picture.resize(size, kinds[int(random.integers(4))])


def shadowed(behind: Image.Image, product: Image.Image, random: Random) -> Image.Image:
    """A soft shadow of the product on the background, thrown to one side."""
    mask = product.getchannel("A").filter(ImageFilter.GaussianBlur(max(product.size) * random.uniform(0.01, 0.04)))
    offset = (int(product.width * random.uniform(-0.1, 0.1)), int(product.height * random.uniform(0, 0.08)))
    strength = random.uniform(0.3, 0.7)
    shade = ImageChops.offset(mask, *offset).point(lambda value: int(value * strength))
    return Image.composite(Image.new("RGB", behind.size), behind, shade)


def painted(product: Image.Image, random: Random, *, shadow: bool = False) -> Image.Image:
    """The product where it was, before a new background."""
    behind = background(product.size, product, random)
    if shadow:
        behind = shadowed(behind, product, random)
    behind.paste(product, mask=product)
    return behind


def moved(product: Image.Image, random: Random, factor: float | None = None, *, shadow: bool = False) -> Image.Image:
    """The product scaled (as told, or as it fits) and moved on a canvas of another shape."""
    box = product.getchannel("A").getbbox()
    assert box is not None
    subject = product.crop(box)
    canvas = (int(random.uniform(0.7, 1.5) * product.width), int(random.uniform(0.7, 1.5) * product.height))
    room = random.uniform(0.4, 0.97)
    if factor is None:
        factor = min(canvas[0] * room / subject.width, canvas[1] * room / subject.height)
        factor = max(factor, 64 / max(subject.size)) if random.random() < 0.8 else 1.0
    canvas = (max(canvas[0], int(subject.width * factor) + 4), max(canvas[1], int(subject.height * factor) + 4))
    subject = paint.scaled(subject, factor)
    layer = Image.new("RGBA", canvas)
    x = int(random.integers(0, canvas[0] - subject.width + 1))
    y = int(random.integers(0, canvas[1] - subject.height + 1))
    layer.paste(subject, (x, y))
    return painted(layer, random, shadow=shadow)
