"""Plain PNGs, as most shops and vendors send them: decoded by OpenCV, straight into levels, which is quicker.

Only a short cut: what is not plain, or not sound to the last bit, is left to Pillow, which says what is wrong.
"""

from __future__ import annotations

import io
import struct
import zlib
from typing import IO, TYPE_CHECKING

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

# px; of more, the copy of the file without its metadata would weigh too much.
_MOST = 8_000_000
_CHANNELS = {2: 3, 6: 4}  # by PNG's colour type


def plain_levels(file: IO[bytes]) -> NDArray[np.uint8] | None:
    """RGB or RGBA of a PNG of 8 bits a sample, one frame, not interlaced; None of any other file.

    Metadata before the pixels are passed over: whoever opened it has read them. With some behind the pixels, Pillow has
    to look at them. OpenCV takes no pixels that end too early or whose checksum is wrong; the chunks' own checksums,
    which it does not ask for, are checked here.
    """
    pixels = _pixels_alone(file)
    if pixels is None:
        return None
    import cv2
    import numpy as np

    channels, data = pixels
    way = cv2.IMREAD_COLOR_RGB if channels == 3 else cv2.IMREAD_UNCHANGED
    levels = cv2.imdecode(np.frombuffer(data, np.uint8), way)
    if levels is None:
        return None
    return np.asarray(levels if channels == 3 else cv2.cvtColor(levels, cv2.COLOR_BGRA2RGBA), np.uint8)


def _pixels_alone(file: IO[bytes]) -> tuple[int, bytes] | None:
    """How many channels, and the file without metadata."""
    file.seek(0)
    start, header = file.read(8), file.read(25)
    if start != b"\x89PNG\r\n\x1a\n" or len(header) < 25:
        return None
    length, name, width, height, depth, colours, *others = struct.unpack(">I4sIIBBBBB", header[:21])
    if (length, name, depth, *others) != (13, b"IHDR", 8, 0, 0, 0) or colours not in _CHANNELS:
        return None
    if width * height > _MOST or int.from_bytes(header[21:]) != zlib.crc32(header[4:21]):
        return None
    kept = [start + header]
    while True:
        head = file.read(8)
        length, name = int.from_bytes(head[:4]), head[4:]
        if name == b"IDAT":
            body = file.read(length + 4)
            if int.from_bytes(body[-4:]) != zlib.crc32(memoryview(body)[:-4], zlib.crc32(name)):
                return None
            kept += (head, body)
        elif name == b"IEND":
            return _CHANNELS[colours], b"".join((*kept, head, file.read(4)))
        elif len(kept) > 1 or len(head) < 8 or name in (b"acTL", b"tRNS"):
            return None
        else:
            file.seek(length + 4, io.SEEK_CUR)
