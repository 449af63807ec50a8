"""A small visible "AI" in a corner of a picture, for people: readable on light and dark, and in a thumbnail.

The letters are drawn, not set: a font of the machine would make other bytes elsewhere.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

if TYPE_CHECKING:
    from PIL import Image

Corner = Literal["top-left", "top-right", "bottom-left", "bottom-right"]

SHARE = 0.07
"""Height of the icon, of the picture's shorter side."""
LEAST = 18
"""px of height at least: the letters of a smaller one cannot be read. No more than a third of the shorter side."""

# A drawing 16 high and 22 wide: strokes of the letters as polygons, white on a dark plate with a white rim.
_HIGH, _WIDE = 16, 22
_STROKES = (
    ((3.4, 12.6), (6.9, 3.4), (9.1, 3.4), (12.6, 12.6), (10.4, 12.6), (8, 5.9), (5.6, 12.6)),
    ((5.4, 8.6), (10.6, 8.6), (10.6, 10.4), (5.4, 10.4)),
    ((15.4, 3.4), (17.6, 3.4), (17.6, 12.6), (15.4, 12.6)),
)
_OVERSAMPLED = 8
_PLATE, _INK = (17, 17, 17), (255, 255, 255)


def with_icon(picture: Image.Image, corner: Corner) -> Image.Image:
    """The picture with the icon in a corner; its colours inside are the same on every picture.

    :param picture: RGB.
    """
    from PIL import Image, ImageDraw

    short = min(picture.size)
    high = max(1, min(max(LEAST, round(SHARE * short)), short // 3))
    wide = max(1, round(high * _WIDE / _HIGH))
    scale = high * _OVERSAMPLED / _HIGH
    large = Image.new("RGBA", (wide * _OVERSAMPLED, high * _OVERSAMPLED), (*_INK, 0))
    draw = ImageDraw.Draw(large)
    right, bottom = large.width - 1, large.height - 1
    draw.rounded_rectangle((0, 0, right, bottom), 3 * scale, fill=_INK)
    draw.rounded_rectangle((0.9 * scale, 0.9 * scale, right - 0.9 * scale, bottom - 0.9 * scale), 2.2 * scale, _PLATE)
    for stroke in _STROKES:
        draw.polygon([(x * scale, y * scale) for x, y in stroke], fill=_INK)
    icon = large.resize((wide, high), Image.Resampling.BOX)
    margin = high // 3
    left = margin if corner.endswith("left") else picture.width - wide - margin
    top = margin if corner.startswith("top") else picture.height - high - margin
    marked = picture.copy()
    marked.paste(icon, (left, top), icon)
    return marked
