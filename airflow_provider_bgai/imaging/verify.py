"""What a file really is: a whole picture of a known kind, or an error that says what is wrong.

Looks at the bytes, never at names or content types. What a file claims is checked before anything is
decoded, so that no file takes more memory or time than an honest picture of its size. Pillow and numpy
are imported inside the functions.
"""

from __future__ import annotations

import io
import re
import struct
import threading
import warnings
import zlib
from dataclasses import dataclass
from typing import IO, TYPE_CHECKING, Any, Literal

from airflow_provider_bgai.models import picture_type

if TYPE_CHECKING:
    from PIL import Image, ImageFile

# 64 megapixels: Google Merchant Center's limit, four times the largest input any vendor documents.
MAX_PIXELS = 64_000_000

# No format but PNG can say more, and every row costs memory of its own.
_LONGEST_SIDE = 65_535

# Bytes that decoding one picture may take. With the interpreter and the file it stays below 512 MB.
_MAX_MEMORY = 365_000_000

# The decoders' own needs per pixel, measured with Pillow 13 on 16-megapixel files of noise: a PNG or a plain
# JPEG 4.1; a progressive JPEG 6.1 more (8.1 as CMYK); WebP 17.0; AVIF 12.2, about 21 with 10 or 12 bits.
_DECODING = {"png": 5, "jpg": 5, "webp": 18, "avif": 21}
_PROGRESSIVE = 7

# Pillow's name for each kind. Without it, a TIFF or PostScript file with "WEBP" in the right place would be decoded.
_FORMATS = {"png": "PNG", "jpg": "JPEG", "webp": "WEBP", "avif": "AVIF"}

# More of these and a file is an attack: the decoders spend time or memory on each one. Pictures of
# cameras and editors have up to some hundred segments, 20 scans, and a chunk per 8 kB of pixels.
_MOST_CHUNKS = 100_000
_MOST_SEGMENTS = 1_000
_MOST_SCANS = 100
_MOST_COMPRESSED_TEXTS = 40

# What Pillow raises for files that do not hold what they promise. Warning: where they are made errors.
BROKEN = (
    OSError,
    SyntaxError,
    ValueError,
    EOFError,
    ArithmeticError,
    LookupError,
    TypeError,
    MemoryError,
    RuntimeError,
    struct.error,
    zlib.error,
    Warning,
)

Fault = Literal["blank", "unchanged", "size", "aspect"]

_SILENCING = threading.Lock()


class NotAPictureError(ValueError):
    """The bytes are not a whole picture; the message says why."""


class WrongPictureError(ValueError):
    """A whole picture, but not what was asked for. ``fault`` is the word for reports, the message says why."""

    def __init__(self, fault: Fault, message: str) -> None:
        super().__init__(message)
        self.fault = fault


@dataclass(frozen=True)
class Picture:
    """What a picture's bytes say of it. ``width`` and ``height`` in px, ``size`` in bytes."""

    extension: str
    content_type: str
    width: int
    height: int
    has_alpha: bool
    size: int


def read_header(data: bytes | IO[bytes]) -> Picture:
    """Describe a picture from its header, without decoding its pixels.

    :raises NotAPictureError: if it is no picture, or its header is broken.
    """
    file = io.BytesIO(data) if isinstance(data, bytes) else data
    return _describe(file, _open(file))


def verify_whole(data: bytes | IO[bytes], *, max_pixels: int = MAX_PIXELS) -> Picture:
    """Describe a picture after decoding all of it, in as little memory as its kind allows.

    :param max_pixels: more than this is refused before anything is decoded.
    :raises NotAPictureError: if it is no picture, truncated, damaged or too large.
    """
    picture, image = open_undecoded(data, max_pixels=max_pixels)
    if picture.extension == "jpg":
        # Every byte is still read and checked, with an eighth of the sides and a 64th of the memory.
        image.draft(image.mode, (1, 1))
    decode(image)
    return picture


def open_whole(data: bytes | IO[bytes], *, max_pixels: int = MAX_PIXELS) -> tuple[Picture, Image.Image]:
    """A picture's description and its decoded pixels, in the file's own mode, for whoever looks at them next.

    :param max_pixels: more than this is refused before anything is decoded.
    :raises NotAPictureError: if it is no picture, truncated, damaged or too large.
    """
    picture, image = open_undecoded(data, max_pixels=max_pixels)
    decode(image)
    return picture, image


def verify_result(
    data: bytes | IO[bytes],
    *,
    size: tuple[int, int] | None = None,
    aspect: float | None = None,
    source: Image.Image | None = None,
    max_pixels: int = MAX_PIXELS,
    max_bytes: int | None = None,
) -> tuple[Picture, Image.Image]:
    """Check what a vendor sent against what was asked. Returns the decoded pixels too: decoding is what costs.

    :param size: (width, height) in px that was asked for, exactly.
    :param aspect: width / height that was asked for, usually the source's; 1 % or 2 px off is still right,
        since vendors round sides to multiples of 8 in a picture of 1,024 px and more.
    :param source: what was sent, as :func:`~airflow_provider_bgai.imaging.prepare.read_rgba` gives it. Leave it
        out where a flat or transparent background was asked for: that looks like an unpainted one.
    :param max_pixels: more than this is refused before anything is decoded.
    :param max_bytes: larger files are refused.
    :raises NotAPictureError: if it is no picture, truncated, damaged or too large.
    :raises WrongPictureError: if it is blank, unchanged, or of another size or aspect.
    """
    picture, image = open_undecoded(data, max_pixels=max_pixels, max_bytes=max_bytes)
    if size is not None and (picture.width, picture.height) != size:
        asked = f"{size[0]} x {size[1]} px were asked for"
        raise WrongPictureError("size", f"{picture.width} x {picture.height} px, where {asked}")
    if aspect is not None and (problem := frame_problem(picture, aspect)):
        raise WrongPictureError("aspect", problem)
    decode(image)
    _check_painted(image, source)
    return picture, image


def frame_problem(picture: Picture, aspect: float) -> str | None:
    """What is wrong with a picture's shape, given the width / height that was asked for."""
    if abs(picture.width - aspect * picture.height) <= max(2, 2 * aspect, 0.01 * picture.width):
        return None
    return f"width / height is {picture.width / picture.height:.3f}, where {aspect:.3f} was asked for"


def open_undecoded(
    data: bytes | IO[bytes],
    *,
    max_pixels: int = MAX_PIXELS,
    max_bytes: int | None = None,
    bytes_per_pixel: int = 0,
) -> tuple[Picture, ImageFile.ImageFile]:
    """Describe a picture that may be decoded: whole as far as its structure tells, and not too large.

    :param bytes_per_pixel: what the caller will need at one time after decoding.
    :raises NotAPictureError: if it is no picture, cut off, or would take too much memory.
    """
    file = io.BytesIO(data) if isinstance(data, bytes) else data
    image = _open(file)
    picture = _describe(file, image)
    pixels = picture.width * picture.height
    dimensions = f"{picture.width} x {picture.height} px"
    if max_bytes is not None and picture.size > max_bytes:
        raise NotAPictureError(f"{picture.size:,} bytes: more than {max_bytes:,} bytes are not read")
    if pixels > max_pixels:
        raise NotAPictureError(f"{dimensions}: more than {max_pixels:,} pixels are not decoded")
    if max(picture.width, picture.height) > _LONGEST_SIDE:
        raise NotAPictureError(f"{dimensions}: no side may have more than {_LONGEST_SIDE:,} px")
    if picture.extension == "jpg" and picture.size < pixels // 512:
        # A block of 64 pixels takes a bit at least. libjpeg fills what is missing with grey, and Pillow is content.
        raise NotAPictureError(f"damaged or cut off: {picture.size:,} bytes cannot hold {dimensions}")
    decoding = _DECODING[picture.extension]
    if picture.extension == "jpg" and _jpeg_scans(file) > 1:
        decoding += _PROGRESSIVE
    memory = pixels * max(decoding, bytes_per_pixel)
    if memory > _MAX_MEMORY:
        raise NotAPictureError(
            f"{dimensions}: this {picture.extension.upper()} would take {memory / 1e6:,.0f} MB to decode, "
            f"and at most {_MAX_MEMORY / 1e6:,.0f} MB are spent on one picture"
        )
    return picture, image


def decode(image: Image.Image) -> None:
    """Decode a picture that was only opened. :raises NotAPictureError: if it is truncated or damaged."""
    try:
        image.load()
    except BROKEN as error:
        raise NotAPictureError(f"damaged or cut off: {error}") from None


# --- opening -----------------------------------------------------------------------------------------


def _open(file: IO[bytes]) -> ImageFile.ImageFile:
    from PIL import Image

    file.seek(0)
    head = file.read(16)
    kind = picture_type(head)
    if kind is None:
        raise NotAPictureError(f"not a picture; it starts with {head!r}" if head else "empty")
    if kind[0] == "png":
        _check_png_chunks(file)
    elif kind[0] == "jpg":
        _jpeg_scans(file)
    file.seek(0)
    try:
        # Pillow warns of pictures that are refused here anyway. Silencing it is not safe between threads.
        with _SILENCING, warnings.catch_warnings():
            warnings.simplefilter("ignore", Image.DecompressionBombWarning)
            return Image.open(file, formats=[_FORMATS[kind[0]]])
    except (*BROKEN, Image.DecompressionBombError) as error:
        raise NotAPictureError(f"its header is broken: {error}") from None


def _describe(file: IO[bytes], image: Image.Image) -> Picture:
    size = file.seek(0, io.SEEK_END)
    file.seek(0)
    kind = picture_type(file.read(16))
    assert kind is not None
    has_alpha = image.mode in ("RGBA", "LA", "PA", "La", "RGBa") or "transparency" in image.info
    return Picture(kind[0], kind[1], image.width, image.height, has_alpha, size)


def _check_png_chunks(file: IO[bytes]) -> None:
    """Whether the last chunk is there, and no more chunks than a picture has.

    Pillow is content without the end once it has the pixels; other readers are not. It keeps every chunk it
    does not know, and unpacks every compressed text.
    """
    file.seek(8)
    others = texts = 0
    for _ in range(_MOST_CHUNKS):
        head = file.read(8)
        name = head[4:]
        if name == b"IEND":
            if file.read(4) == b"\xaeB`\x82":
                return
            break
        if len(head) < 8:
            break
        others += name not in (b"IDAT", b"fdAT")
        texts += name in (b"zTXt", b"iTXt")
        if others > _MOST_SEGMENTS or texts > _MOST_COMPRESSED_TEXTS:
            raise NotAPictureError("its header is broken: more chunks than any picture has")
        file.seek(int.from_bytes(head[:4]) + 4, io.SEEK_CUR)
    else:
        raise NotAPictureError("its header is broken: more chunks than any picture has")
    raise NotAPictureError("damaged or cut off: its end is missing")


def _jpeg_scans(file: IO[bytes]) -> int:
    """How many scans a JPEG has: each one is a pass over all pixels, and a second one means that all are kept.

    Thumbnails inside segments do not count. What is broken ends the search: the decoder will say so.

    :raises NotAPictureError: for more scans or segments than a picture has.
    """
    file.seek(2)
    scans = segments = 0
    while True:
        head = file.read(4)
        if len(head) < 4 or head[0] != 0xFF or head[1] == 0xD9:
            return scans
        if head[1] == 0xFF or head[1] in _ALONE:
            file.seek(-3 if head[1] == 0xFF else -2, io.SEEK_CUR)  # a fill byte; a marker without content
        else:
            file.seek(max(0, int.from_bytes(head[2:]) - 2), io.SEEK_CUR)
        segments += 1
        scans += head[1] == 0xDA
        if scans > _MOST_SCANS or segments > _MOST_SEGMENTS:
            raise NotAPictureError("its header is broken: more segments or scans than any picture has")
        if head[1] == 0xDA:
            _skip_scan(file)


_ALONE = {0x01, 0xD8, *range(0xD0, 0xD8)}
_MARKER = re.compile(rb"\xff[^\x00\xff\xd0-\xd7]")


def _skip_scan(file: IO[bytes]) -> None:
    """Go to the marker behind the pixels of a scan, or to the end."""
    while block := file.read(1 << 16):
        found = _MARKER.search(block)
        if found:
            file.seek(found.start() - len(block), io.SEEK_CUR)
            return
        if len(block) > 1 and block.endswith(b"\xff"):
            file.seek(-1, io.SEEK_CUR)


# --- looking at the pixels ---------------------------------------------------------------------------

_VISIBLE = 16  # of 255: alpha below it is dust
_SAME = 6  # of 255: re-encoding as JPEG moves a flat colour less than this


def _check_painted(image: Image.Image, source: Image.Image | None) -> None:
    import numpy as np
    from PIL import Image, ImageFilter

    pixels = _small(image).astype(np.int16)
    visible = pixels[..., 3] >= _VISIBLE
    if visible.mean() < 0.001:
        raise WrongPictureError("blank", "blank: all of it is transparent")
    seen = pixels * visible[..., None]
    colour = np.median(seen, axis=(0, 1))
    if (np.abs(seen - colour) <= _SAME).all(axis=2).mean() > 0.999:
        raise WrongPictureError("blank", f"blank: all of it is of one colour, {_hexadecimal(colour)}")
    if source is None:
        return
    sent = _small(source)
    transparent = (sent[..., 3] < _VISIBLE).mean()
    if transparent > 0.01 and 1 - visible.mean() > transparent / 2:
        raise WrongPictureError("unchanged", "the background was not painted: it is transparent")
    if abs(image.width / image.height / (source.width / source.height) - 1) > 0.02:
        return  # framed anew, so nobody can tell here which pixels are background
    sent = _small(source, (pixels.shape[1], pixels.shape[0])).astype(np.int16)
    if transparent > 0.01:
        # Away from the product: where the two meet, scaling and JPEG mix them.
        alpha = Image.fromarray(sent[..., 3].astype(np.uint8)).filter(ImageFilter.MaxFilter(5))
        background = np.asarray(alpha) == 0
        candidates: dict[str, Any] = {"white": 255, "black": 0, "what the cut-out hides": sent[background][:, :3]}
    else:
        background = np.ones(sent.shape[:2], bool)
        candidates = {"the source itself": sent[background][:, :3]}
    for name, candidate in candidates.items():
        same = (np.abs(pixels[background][:, :3] - candidate) <= _SAME).all(axis=1)
        if same.size and same.mean() > 0.97:
            raise WrongPictureError("unchanged", f"the background was not painted: it is {name}")


def _small(image: Image.Image, size: tuple[int, int] | None = None) -> Any:
    """The picture as RGBA numbers of some 128 x 128 px, or of ``size``. Strip by strip, so that it costs no copy."""
    import numpy as np
    from PIL import Image

    factor = max(1, int((image.width * image.height) ** 0.5) // 128)
    strips = []
    for top in range(0, image.height, 16 * factor):
        strip = image.crop((0, top, image.width, min(top + 16 * factor, image.height)))
        if strip.mode == "I;16":
            strip = Image.fromarray((np.asarray(strip) >> 8).astype(np.uint8))
        elif strip.mode not in ("RGBA", "RGB", "L", "LA", "CMYK"):
            strip = strip.convert("RGBA")
        strips.append(np.asarray(strip.reduce(factor).convert("RGBA")))
    small = np.concatenate(strips)
    return small if size is None else np.asarray(Image.fromarray(small, "RGBA").resize(size, Image.Resampling.BOX))


def _hexadecimal(colour: Any) -> str:
    return "#" + "".join(f"{int(value):02x}" for value in colour[:3])
