"""Which kind a file is, and how each kind is opened: by one named reader, after a look through its structure.

What a file claims is checked before anything is decoded, so that no file takes more memory or time than an honest
picture of its size. Pillow is imported inside the functions.
"""

from __future__ import annotations

import importlib
import io
import re
import struct
import threading
import warnings
import zlib
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import IO, TYPE_CHECKING, TypeVar

from airflow_provider_bgai.imaging.bare import without_metadata
from airflow_provider_bgai.models import KINDS, picture_type

if TYPE_CHECKING:
    from PIL import Image, ImageFile

T = TypeVar("T")

# 64 megapixels: Google Merchant Center's limit, four times the largest input any vendor documents.
MAX_PIXELS = 64_000_000

# No format but PNG can say more, and every row costs memory of its own.
_LONGEST_SIDE = 65_535

# Bytes that decoding one picture may take. With the interpreter, OpenCV and the file it stays below 512 MB.
_MAX_MEMORY = 300_000_000

# The decoders' own needs per pixel, measured with Pillow 13 on files of noise of 4 to 16 megapixels: a PNG or a plain
# JPEG 4.1; a progressive JPEG 6.1 more (8.1 as CMYK); WebP 17.0; AVIF 12.2, about 21 with 10 or 12 bits; GIF 1.5;
# BMP 4.5; TIFF 6, in one large tile 9.8, and a progressive JPEG can lie in it; HEIC 9.8,
# and more while it is handed over.
_DECODING = {"png": 5, "jpg": 5, "webp": 18, "avif": 21, "gif": 5, "bmp": 5, "tiff": 16, "heic": 14}
_PROGRESSIVE = 7

# The one reader of each kind. Pillow's own choice would decode a PostScript file with "WEBP" in the right place.
_READERS = {
    "png": ("PIL.PngImagePlugin", "PngImageFile"),
    "jpg": ("PIL.JpegImagePlugin", "jpeg_factory"),
    "webp": ("PIL.WebPImagePlugin", "WebPImageFile"),
    "avif": ("PIL.AvifImagePlugin", "AvifImageFile"),
    "gif": ("PIL.GifImagePlugin", "GifImageFile"),
    "bmp": ("PIL.BmpImagePlugin", "BmpImageFile"),
    "tiff": ("PIL.TiffImagePlugin", "TiffImageFile"),
    "heic": ("pillow_heif", "HeifImageFile"),
}

# Kinds that people take for pictures, by their first bytes, and that are not read here.
_UNREAD = (
    (re.compile(rb"8BPS"), "a Photoshop file"),
    (re.compile(rb"%PDF"), "a PDF"),
    (re.compile(rb"%!PS|\xc5\xd0\xd3\xc6"), "a PostScript file"),
    (re.compile(rb"\xff\x0a|\x00\x00\x00\x0cJXL "), "a JPEG XL"),
    (re.compile(rb"\x00\x00\x00\x0cjP  |\xff\x4f\xff\x51"), "a JPEG 2000"),
    (re.compile(rb"\x00\x00\x01\x00"), "an icon"),
    (re.compile(rb"....ftypcrx ", re.DOTALL), "a camera's raw file"),
    (re.compile(rb"\s*(<\?xml[^>]*>\s*)?(<!--.*?-->\s*)?(<!DOCTYPE svg[^>]*>\s*)?<svg\b", re.DOTALL), "an SVG"),
)
_HEAD = 512

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

_SILENCING = threading.Lock()


class NotAPictureError(ValueError):
    """The bytes are not a whole picture; the message says why."""


class BrokenError(NotAPictureError):
    """The reader stumbles over its bytes: over its pixels, or over nothing but metadata."""


class UnreadKindError(NotAPictureError):
    """A picture, perhaps a whole one, of a kind that is not read here, or not without an extra; see its message."""


@dataclass(frozen=True)
class Picture:
    """What a picture's bytes say of it.

    :param width, height: px, as it is stored.
    :param size: bytes.
    :param problem: what is wrong with metadata of it that were left out to read it; None: nothing.
    """

    extension: str
    content_type: str
    width: int
    height: int
    has_alpha: bool
    size: int
    problem: str | None = None


def leniently(data: bytes | IO[bytes], use: Callable[[IO[bytes]], tuple[Picture, T]]) -> tuple[Picture, T]:
    """What ``use`` makes of a picture; where its metadata are what is broken, of the picture without them.

    :raises NotAPictureError: as ``use`` does, if its pixels are broken.
    """
    file = io.BytesIO(data) if isinstance(data, bytes) else data
    try:
        return use(file)
    except BrokenError as error:
        for bare in without_metadata(file):
            try:
                picture, result = use(io.BytesIO(bare))
            except NotAPictureError:
                continue
            size = file.seek(0, io.SEEK_END)
            return replace(picture, size=size, problem=f"its metadata are broken and left out ({error})"), result
        raise


def open_undecoded(
    data: bytes | IO[bytes],
    *,
    max_pixels: int = MAX_PIXELS,
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
    if pixels > max_pixels:
        raise NotAPictureError(f"{dimensions}: more than {max_pixels:,} pixels are not decoded")
    if max(picture.width, picture.height) > _LONGEST_SIDE:
        raise NotAPictureError(f"{dimensions}: no side may have more than {_LONGEST_SIDE:,} px")
    if picture.extension == "jpg" and picture.size < pixels // 512:
        # A block of 64 pixels takes a bit at least. libjpeg fills what is missing with grey, and Pillow is content.
        raise NotAPictureError(f"damaged or cut off: {picture.size:,} bytes cannot hold {dimensions}")
    if picture.extension == "tiff":
        _check_tiff_tiles(image)
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
        raise BrokenError(f"damaged or cut off: {said(error)}") from None
    if image.mode in ("P", "PA") and image.palette is None:
        raise BrokenError("damaged or cut off: its palette is missing")


def read_kind(file: IO[bytes]) -> tuple[Picture, None]:
    """Describe a picture from its header alone. :raises NotAPictureError: if it is none, or its header is broken."""
    return _describe(file, _open(file)), None


# --- opening -----------------------------------------------------------------------------------------


def _open(file: IO[bytes]) -> ImageFile.ImageFile:
    from PIL import Image

    kind = _kind(file)
    if kind == "png":
        _check_png_chunks(file)
    elif kind == "jpg":
        _jpeg_scans(file)
    module, name = _READERS[kind]
    try:
        reader = getattr(importlib.import_module(module), name)
    except ImportError:
        raise UnreadKindError(
            f"a {kind.upper()}, which takes {module} to read: pip install 'airflow-provider-bgai[heic]', "
            "or save it as PNG"
        ) from None
    file.seek(0)
    try:
        # Pillow warns of what is refused or told here anyway. Silencing it is not safe between threads.
        with _SILENCING, warnings.catch_warnings():
            warnings.simplefilter("ignore")
            return reader(file, "")
    except (*BROKEN, Image.DecompressionBombError) as error:
        if kind == "tiff" and "unknown pixel mode" in str(error):
            raise UnreadKindError("a TIFF with rare samples, which is not read; save it as PNG") from None
        raise BrokenError(f"its header is broken: {said(error)}") from None


def _kind(file: IO[bytes]) -> str:
    """:raises NotAPictureError: if it is no picture, or none that is read here."""
    file.seek(0)
    head = file.read(_HEAD)
    kind = picture_type(head)
    if kind is None:
        unread = next((name for pattern, name in _UNREAD if pattern.match(head)), None)
        if unread is not None:
            raise UnreadKindError(f"{unread}, which is not read; save it as PNG")
        raise NotAPictureError(f"not a picture; it starts with {head[:16]!r}" if head else "empty")
    # The first brand of a HEIF file may be the family's; the others tell what is in it.
    brands = head[: int.from_bytes(head[:4])]
    return "avif" if kind[0] == "heic" and b"avif" in brands[16:] else kind[0]


def said(error: BaseException) -> str:
    """An error of a reader in words: some have none, and some speak of the file as Python holds it."""
    text = str(error)
    return text if text and " object at 0x" not in text and not isinstance(error, KeyError) else "it cannot be read"


def _describe(file: IO[bytes], image: Image.Image) -> Picture:
    kind = _kind(file)
    has_alpha = image.mode in ("RGBA", "LA", "PA", "La", "RGBa") or "transparency" in image.info
    return Picture(kind, KINDS[kind], image.width, image.height, has_alpha, file.seek(0, io.SEEK_END))


def _check_tiff_tiles(image: Image.Image) -> None:
    """A tile is decoded whole, and may claim to be far larger than the picture. Rows of a strip end with it."""
    tags = image.tag_v2  # type: ignore[attr-defined]
    sides = tags.get(_TILE_WIDTH, 1), tags.get(_TILE_LENGTH, 1)
    if not all(isinstance(side, int) for side in sides) or sides[0] * sides[1] > 2 * image.width * image.height + 2**20:
        raise BrokenError("its header is broken: its tiles are larger than the picture")


_TILE_WIDTH, _TILE_LENGTH = 322, 323


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
