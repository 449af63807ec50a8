"""A JPEG whose background is white to the last digit, as marketplaces ask, whatever decodes it."""

from __future__ import annotations

import io
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from numpy.typing import NDArray
    from PIL import Image

    Array = NDArray[Any]


def white_jpeg(canvas: Image.Image, outside: Image.Image, quality: int) -> bytes | None:
    """A JPEG that decodes to 255, 255, 255 wherever ``outside`` is set; None if this quality cannot keep that.

    JPEG rings around every edge, at quality 100 too, and turns white beside the product into 250. So white is written
    as brighter than white, which every decoder cuts back to 255. Eight bits going in have no room for that: brightness
    goes in at half its range, and the file's quantisation table is doubled, which restores it. Colour cannot be cut
    back; it is stored in the finest steps there are, and see :func:`_grey_outside`.
    """
    import numpy as np
    from PIL import Image

    with Image.open(io.BytesIO(_jpeg(Image.new("L", (8, 8)), quality=quality))) as like:
        luma = [min(127, (step + 1) // 2) for step in like.quantization[0]]  # type: ignore[attr-defined]
    brightness, *colours = canvas.convert("YCbCr").split()
    white = np.asarray(outside, bool)
    bands = [_grey_outside(np.asarray(colour), white) for colour in colours]
    values = np.asarray(brightness, np.uint16)
    # Odd values go up and down in turn: halving would darken them all.
    turn = np.indices(values.shape, np.uint8).sum(0) & 1
    halved = ((values + turn) // 2 + 64).astype(np.uint8)
    for above in (12, 24, 48, 96):
        halved[white] = 128 + (127 + above) // 2
        picture = Image.merge("YCbCr", [Image.fromarray(band) for band in (halved, *bands)])
        tables = [luma, [1] * 64]
        data = bytearray(_jpeg(picture, qtables=tables, subsampling=0, optimize=True, progressive=True))
        _double_first_table(data)
        with Image.open(io.BytesIO(data)) as decoded:
            if (np.asarray(decoded)[white] == 255).all():
                return bytes(data)
    return None


def _grey_outside(colour: Array, outside: Array) -> Array:
    """A plane of Cb or Cr that a JPEG in steps of 1 gives back as exactly 128 ``outside`` the product.

    Only blocks of 8 x 8 px that the product's edge runs through are in danger. There the product's colours are nudged
    by a step or two until rounding leaves the outside alone; a block that resists goes pale by and by (a few in a
    thousand do). Seeded, so that equal input gives equal bytes.
    """
    import numpy as np
    from PIL import Image

    high, wide = colour.shape
    margins = [(0, -high % 8), (0, -wide % 8)]
    rows, columns = (high + 7) // 8, (wide + 7) // 8

    def blocks_of(plane: Array) -> Array:
        return np.pad(plane, margins, "edge").reshape(rows, 8, columns, 8).swapaxes(1, 2).reshape(-1, 8, 8)

    def back(blocks: Array) -> Array:
        """As they come back from a JPEG; blocks do not influence each other."""
        rest = -len(blocks) % 64
        sheet = np.concatenate([blocks, np.full((rest, 8, 8), 128, np.uint8)]).reshape(-1, 64, 8, 8).swapaxes(1, 2)
        file = _jpeg(Image.fromarray(sheet.reshape(-1, 512)), qtables=[[1] * 64])
        with Image.open(io.BytesIO(file)) as decoded:
            sheet = np.asarray(decoded).reshape(-1, 8, 64, 8)
        return sheet.swapaxes(1, 2).reshape(-1, 8, 8)[: len(blocks)]

    blocks, out = blocks_of(colour).copy(), blocks_of(outside)
    blocks[out] = 128
    left = np.flatnonzero(out.any((1, 2)) & ~out.all((1, 2)))
    original, random = blocks.astype(np.float32), np.random.default_rng(0)
    for attempt in range(100):
        wrong = ((back(blocks[left]) != 128) & out[left]).any((1, 2)) if len(left) else np.zeros(0, bool)
        left = left[wrong]
        if not len(left):
            break
        most, paler = 1 + attempt // 25, min(1.0, (100 - attempt) / 50)
        nudge = random.integers(-most, most, size=(len(left), 8, 8), endpoint=True)
        nudged = np.where(out[left], 128, (128 + (original[left] - 128) * paler + nudge).clip(0, 255))
        # Blocks that reach over the picture's end are filled with its last row and column.
        row, column = np.divmod(left, columns)
        within_rows = np.minimum(np.arange(8), (high - 1 - 8 * row)[:, None])
        within_columns = np.minimum(np.arange(8), (wide - 1 - 8 * column)[:, None])
        blocks[left] = nudged[np.arange(len(left))[:, None, None], within_rows[:, :, None], within_columns[:, None]]
    blocks[left] = 128
    return blocks.reshape(rows, columns, 8, 8).swapaxes(1, 2).reshape(rows * 8, columns * 8)[:high, :wide].copy()


def _double_first_table(jpeg: bytearray) -> None:
    """Doubles the quantisation of brightness (table 0) in a JPEG's header, in place."""
    at = 2
    while jpeg[at + 1] != 0xDB or jpeg[at + 4] != 0:
        at += 2 + int.from_bytes(jpeg[at + 2 : at + 4])
    for step in range(at + 5, at + 69):
        jpeg[step] *= 2


def _jpeg(picture: Image.Image, **options: Any) -> bytes:
    buffer = io.BytesIO()
    picture.save(buffer, "JPEG", **options)
    return buffer.getvalue()
