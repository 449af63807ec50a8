"""Printed labels: lines of characters on a product, and the same with one character replaced, garbled or mirrored."""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from PIL import Image, ImageFilter, ImageFont

from benchmarks.fidelity.scenes import Random

DIGITS, LETTERS = "0123456789", "ABCDEFGHKLMNPRSTUVWXYZabdefghkmnprstuyz"
CONTRAST = 40  # levels of luma between a character and what it is printed on, at least
DIFFERENT = 0.1  # share of a character's box that has to change by half of its contrast, else nobody reads it otherwise


@dataclass(frozen=True)
class Character:
    """One character of a label: which, how it looks (coverage 0 to 255), and its left upper corner on the product."""

    text: str
    mask: Image.Image
    place: tuple[int, int]


@dataclass(frozen=True)
class Label:
    """``height``: of a digit, in px of the product. ``plate``: what is printed on, None for the product itself."""

    height: int
    font: ImageFont.FreeTypeFont
    bold: int
    characters: tuple[Character, ...]
    box: tuple[int, int, int, int]
    plate: tuple[int, int, int] | None
    ink: tuple[int, int, int]
    softness: float

    def on(self, product: Image.Image, changed: tuple[int, Image.Image] | None = None) -> Image.Image:
        """The product with the label on it; ``changed``: another look for the character of that number."""
        printed = product.convert("RGB")
        if self.plate:
            printed.paste(self.plate, self.box)
        ink = Image.new("L", product.size)
        for number, each in enumerate(self.characters):
            mask = changed[1] if changed and changed[0] == number else each.mask
            ink.paste(mask, each.place, mask)
        if self.softness:
            ink = ink.filter(ImageFilter.GaussianBlur(self.softness))
        printed.paste(self.ink, mask=ink)
        printed.putalpha(product.getchannel("A"))
        return printed


@lru_cache(maxsize=256)
def font_of(height: int) -> ImageFont.FreeTypeFont:
    """Pillow's own font, so that its digits are this many px high."""
    font = ImageFont.load_default(100)
    assert isinstance(font, ImageFont.FreeTypeFont)
    _, top, _, bottom = font.getbbox("0")
    return font.font_variant(size=max(4, round(100 * height / (bottom - top))))


def look(font: ImageFont.FreeTypeFont, text: str, bold: int, size: tuple[int, int]) -> Image.Image:
    mask = Image.new("L", size)
    from PIL import ImageDraw

    ImageDraw.Draw(mask).text((bold + 1, bold + 1), text, 255, font=font, stroke_width=bold, anchor="la")
    return mask


def label(product: Image.Image, random: Random, height: int) -> Label | None:
    """A label that fits on the product; None where there is no room for one."""
    font = font_of(height)
    bold = int(round(height * random.uniform(0.03, 0.07))) if random.random() < 0.3 else 0
    line_height, gap = round(height * random.uniform(1.5, 2.1)), round(height * random.uniform(0.05, 0.3))
    alpha = np.asarray(product.getchannel("A")) >= 250
    summed = np.pad(alpha.cumsum(0, dtype=np.int32).cumsum(1, dtype=np.int32), ((1, 0), (1, 0)))
    for lines, length in ((4, 14), (3, 10), (2, 8), (2, 5), (1, 4), (1, 2)):
        lines, length = int(random.integers(1, lines + 1)), int(random.integers(max(1, length // 2), length + 1))
        rows = ["".join(random.choice(list(DIGITS * 4 + LETTERS), length)) for _ in range(lines)]
        widths = [[round(font.getlength(text)) + gap + 2 * bold for text in row] for row in rows]
        size = (max(map(sum, widths)) + 2 * height, line_height * lines + height)
        if size[0] >= product.width or size[1] >= product.height:
            continue
        x = random.integers(0, product.width - size[0], 200)
        y = random.integers(0, product.height - size[1], 200)
        covered = summed[y + size[1], x + size[0]] - summed[y, x + size[0]] - summed[y + size[1], x] + summed[y, x]
        free = np.flatnonzero(covered >= 0.999 * size[0] * size[1])
        if not free.size:
            continue
        left, top = int(x[free[0]]), int(y[free[0]])
        characters = []
        for row, text in enumerate(rows):
            at = left + height
            for each, width in zip(text, widths[row], strict=True):
                mask = look(font, each, bold, (width + 2 * bold + 2, line_height))
                characters.append(Character(each, mask, (at, top + height // 2 + row * line_height)))
                at += width
        box = (left, top, left + size[0], top + size[1])
        ground = np.asarray(product.convert("RGB"), np.float32)[top : box[3], left : box[2]].reshape(-1, 3)
        plate = _colour(random) if random.random() < 0.6 else None
        around = plate or tuple(int(value) for value in ground.mean(0))
        softness = random.uniform(0.3, 0.8) if random.random() < 0.5 and height >= 14 else 0.0
        return Label(height, font, bold, tuple(characters), box, plate, _ink(around, random), softness)
    return None


def _colour(random: Random) -> tuple[int, int, int]:
    red, green, blue = (int(value) for value in random.integers(0, 256, 3))
    return (red, green, blue)


def _ink(ground: tuple[int, ...], random: Random) -> tuple[int, int, int]:
    """A colour that differs enough from the ground to be read; half of them as black or white as can be."""
    while True:
        if random.random() < 0.5:
            grey = int(random.choice([0, 20, 40, 215, 235, 255]))
            ink = (grey, grey, grey)
        else:
            ink = _colour(random)
        if (
            abs(sum(weight * (a - b) for weight, a, b in zip((0.299, 0.587, 0.114), ink, ground, strict=True)))
            >= CONTRAST
        ):
            return ink


def one_character(it: Label, random: Random) -> tuple[int, Image.Image] | None:
    """One character of the label changed so that it reads otherwise; None where twenty tries gave none."""
    for _ in range(20):
        number = int(random.integers(len(it.characters)))
        own = it.characters[number]
        kind = random.choice(["replaced", "replaced", "garbled", "mirrored"])
        if kind == "replaced":
            others = DIGITS if own.text in DIGITS else LETTERS
            changed = look(it.font, str(random.choice(list(others))), it.bold, own.mask.size)
        else:
            box = own.mask.getbbox()
            assert box is not None
            part = own.mask.crop(box)
            changed = Image.new("L", own.mask.size)
            changed.paste(
                part.transpose(Image.Transpose.FLIP_LEFT_RIGHT) if kind == "mirrored" else garbled(part, random),
                box[:2],
            )
        box = own.mask.getbbox()
        assert box is not None
        before, after = (np.asarray(each.crop(box), np.int16) for each in (own.mask, changed))
        if np.mean(np.abs(after - before) >= 128) >= DIFFERENT:
            return number, changed
    return None


def garbled(glyph: Image.Image, random: Random) -> Image.Image:
    """A glyph as a painter remembers it that cannot read: its strokes moved by up to a quarter of its size."""
    fields = []
    for _ in range(2):
        coarse = random.uniform(-1, 1, (4, 4)).astype(np.float32)
        fields.append(np.asarray(Image.fromarray(coarse, "F").resize(glyph.size, Image.Resampling.BICUBIC)))
    y, x = np.mgrid[0 : glyph.height, 0 : glyph.width]
    reach = 0.3 * max(glyph.size)
    rows = np.clip(np.round(y + reach * fields[0]), 0, glyph.height - 1).astype(int)
    columns = np.clip(np.round(x + reach * fields[1]), 0, glyph.width - 1).astype(int)
    return Image.fromarray(np.asarray(glyph)[rows, columns], "L")
