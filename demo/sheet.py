"""The contact sheet: one row per product, the cut-out on the left, then what each vendor made of it."""

from __future__ import annotations

import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from PIL import Image, ImageDraw, ImageFont

CELL = 220
GAP = 12
LABELS = 170
HEADER = 56
PAPER, INK, FAINT = "#ffffff", "#1a1a1a", "#6b6b6b"
LIGHT_SQUARE, DARK_SQUARE, SQUARE = "#ffffff", "#dcdcdc", 11


@dataclass(frozen=True)
class Row:
    """One product: its name, the cut-out's bytes, and the finished picture's bytes by column."""

    sku: str
    title: str
    source: bytes
    pictures: Mapping[str, bytes]


def contact_sheet(rows: Sequence[Row], columns: Sequence[str]) -> Image.Image:
    """All pictures side by side, in equal cells."""
    headings = ["cut-out", *columns]
    size = (LABELS + len(headings) * (CELL + GAP) + GAP, HEADER + len(rows) * (CELL + GAP) + GAP)
    sheet = Image.new("RGB", size, PAPER)
    draw = ImageDraw.Draw(sheet)
    for number, heading in enumerate(headings):
        draw.text((_x(number) + CELL / 2, HEADER / 2), heading, INK, _font(22), anchor="mm")
    for number, row in enumerate(rows):
        top = HEADER + number * (CELL + GAP)
        draw.text((GAP, top + CELL / 2 - 14), row.sku, INK, _font(19), anchor="lm")
        draw.text((GAP, top + CELL / 2 + 2), _wrapped(row.title), FAINT, _font(15), spacing=3)
        sheet.paste(_cell(row.source), (_x(0), top))
        for column, name in enumerate(columns, start=1):
            if name in row.pictures:
                sheet.paste(_cell(row.pictures[name]), (_x(column), top))
    return sheet


def _x(column: int) -> int:
    return LABELS + column * (CELL + GAP)


def _cell(picture: bytes) -> Image.Image:
    """The picture as large as a cell allows, in its middle; squares show through where it is transparent."""
    with Image.open(io.BytesIO(picture)) as opened:
        fitted = opened.convert("RGBA")
    scale = min(CELL / fitted.width, CELL / fitted.height)
    fitted = fitted.resize((max(1, round(fitted.width * scale)), max(1, round(fitted.height * scale))))
    opaque = fitted.getchannel("A").getextrema() == (255, 255)
    cell = Image.new("RGB", (CELL, CELL), "#f4f4f4") if opaque else _squares()
    cell.paste(fitted, ((CELL - fitted.width) // 2, (CELL - fitted.height) // 2), fitted)
    return cell


def _squares() -> Image.Image:
    board = Image.new("RGB", (CELL, CELL), LIGHT_SQUARE)
    draw = ImageDraw.Draw(board)
    for x in range(0, CELL, SQUARE):
        for y in range(0, CELL, SQUARE):
            if (x + y) // SQUARE % 2:
                draw.rectangle((x, y, x + SQUARE - 1, y + SQUARE - 1), DARK_SQUARE)
    return board


def _wrapped(text: str) -> str:
    """The text broken into lines that fit beside the pictures."""
    lines = [""]
    for word in text.split():
        longer = f"{lines[-1]} {word}".strip()
        if _font(15).getlength(longer) <= LABELS - 2 * GAP:
            lines[-1] = longer
        else:
            lines.append(word)
    return "\n".join(lines)


def _font(size: int) -> ImageFont.FreeTypeFont | ImageFont.ImageFont:
    return ImageFont.load_default(size)
