"""From the shop's photo to what a vendor takes: upright, sRGB, straight-alpha RGBA, within the vendor's limits.

Everything here happens before a cent is spent, and says what it did. A source that suits already is passed
on byte for byte. Of an animated file, the first frame is taken. Pillow and numpy are imported inside the
functions.
"""

from __future__ import annotations

import io
from dataclasses import dataclass
from typing import IO, TYPE_CHECKING, Any

from airflow_provider_bgai.imaging.verify import BROKEN, MAX_PIXELS, Picture, decode, open_undecoded
from airflow_provider_bgai.models import SourceLimits

if TYPE_CHECKING:
    from PIL import Image, ImageFile

# Decoded, and once more while it is converted, turned or scaled. 45 megapixels fit.
_BYTES_PER_PIXEL = 8

# Of 255: alpha below it is dust that no eye sees.
_VISIBLE = 16
# With a smaller share of the pixels visible there is no product; with a smaller share transparent, no cut-out.
_LEAST_SHARE = 0.001

# EXIF's orientation -> how many of Pillow's transpositions make it upright.
_ORIENTATION = 0x0112
_TURNS = {
    2: "FLIP_LEFT_RIGHT",
    3: "ROTATE_180",
    4: "FLIP_TOP_BOTTOM",
    5: "TRANSPOSE",
    6: "ROTATE_270",
    7: "TRANSVERSE",
    8: "ROTATE_90",
}
_NAMES = {"1": "black and white", "L": "grey", "LA": "grey", "I;16": "grey", "P": "a palette", "CMYK": "CMYK"}


class RefusedSourceError(ValueError):
    """A whole picture, but not one this vendor can use; the message says what would be right."""


@dataclass(frozen=True)
class Prepared:
    """A source as the vendor takes it.

    :param box: (x, y, width, height) in px where the upright source lies in the prepared picture.
    :param notes: what was done to it; empty if ``data`` is the source itself.
    :param warnings: what somebody should look at.
    """

    data: bytes
    content_type: str
    width: int
    height: int
    box: tuple[int, int, int, int]
    notes: tuple[str, ...] = ()
    warnings: tuple[str, ...] = ()


def read_rgba(data: bytes | IO[bytes], *, max_pixels: int = MAX_PIXELS) -> Image.Image:
    """The pixels of a picture as the eye sees them: upright, sRGB, straight-alpha RGBA of 8 bits.

    :param max_pixels: more than this is refused before anything is decoded.
    :raises NotAPictureError: if it is no picture, truncated, damaged or too large.
    """
    return _read(data, max_pixels)[0]


def prepare(data: bytes, limits: SourceLimits, *, max_upscale: float = 1.0) -> Prepared:
    """Make of a source what a vendor takes, or say why that cannot be.

    :param max_upscale: 1.0 or more. A source that is too small is scaled up by this at most; what is still
        missing is padded with transparent pixels.
    :raises RefusedSourceError: if it is no cut-out where one is needed, empty, or cannot be made to fit.
    :raises NotAPictureError: if it is no picture, truncated, damaged or too large.
    """
    image, picture, notes, warnings = _read(data, MAX_PIXELS)
    opaque = _check_alpha(image, limits, warnings)
    scale = _scale(image.size, limits, max_upscale)
    if scale != 1:
        notes.append(f"scaled {'down' if scale < 1 else 'up'} by {scale:.3g} from {image.width} x {image.height} px")
    if min(image.size) * scale < limits.min_side - 0.5:
        notes.append(f"padded to {limits.min_side} px")
    if picture.extension not in limits.formats:
        notes.append(f"{picture.extension.upper()} turned into PNG")
    most = limits.max_bytes if limits.max_bytes is not None else float("inf")
    if not notes and len(data) <= most:
        return Prepared(data, picture.content_type, *image.size, (0, 0, *image.size), (), tuple(warnings))

    if scale != 1:
        # Premultiplied, or the colour of transparent pixels would bleed into the edges. Bound to the same name,
        # so that a large picture is not held a third time.
        image = image.convert("RGBa")
    fitted, box = _fit(image, scale, limits.min_side)
    encoded = _encode(fitted, opaque)
    if len(encoded) > most:
        image = image.convert("RGBa")
        fitted, box, encoded = _shrink(image, scale, opaque, limits.min_side, most)
    if len(data) > most or box[2:] != _fitted_size(image.size, scale):
        notes.append(f"brought to {len(encoded):,} bytes at {box[2]} x {box[3]} px")
    return Prepared(encoded, "image/png", *fitted.size, box, tuple(notes), tuple(warnings))


# --- reading -----------------------------------------------------------------------------------------


def _read(data: bytes | IO[bytes], max_pixels: int) -> tuple[Image.Image, Picture, list[str], list[str]]:
    """The upright sRGB pixels, what the file was, what was done to the pixels, and doubts."""
    from PIL import Image

    file = io.BytesIO(data) if isinstance(data, bytes) else data
    picture, image = open_undecoded(file, max_pixels=max_pixels, bytes_per_pixel=_BYTES_PER_PIXEL)
    notes: list[str] = []
    warnings: list[str] = []
    if image.format != "MPO" and getattr(image, "n_frames", 1) > 1:
        notes.append("the first frame of an animation taken")
    grey = image.mode in ("1", "L", "LA", "I;16")
    if image.mode in _NAMES:
        notes.append(f"{_NAMES[image.mode]} turned into RGB")
    depth, colours = _png_depth(file) if picture.extension == "png" else (8, 2)
    if depth == 16:
        grey = colours in (0, 4)
        notes.append("16 bits rounded to 8")
        rgba = _read_16_bits(file, image)
    else:
        decode(image)
        rgba = image if image.mode == "CMYK" else _convert(image, depth)
    profile = image.info.get("icc_profile")
    turn = _turn(image, warnings)
    del image
    if profile:
        rgba = _to_srgb(rgba, profile, grey, notes, warnings)
    if rgba.mode == "CMYK":
        rgba = rgba.convert("RGB")
    if rgba.mode == "RGB":
        rgba.putalpha(255)
    if turn is not None:
        notes.append("turned upright")
        rgba = rgba.transpose(Image.Transpose[turn])
    rgba.info = {}
    return rgba, picture, notes, warnings


def _png_depth(file: IO[bytes]) -> tuple[int, int]:
    """Bits per sample, and the colour type (0 grey, 2 RGB, 3 palette, 4 grey with alpha, 6 RGBA), from the header."""
    file.seek(24)
    depth, colours = file.read(2)
    return depth, colours


def _convert(image: Image.Image, depth: int) -> Image.Image:
    """RGBA of a decoded picture of at most 8 bits a sample."""
    transparency = image.info.get("transparency")
    if image.mode == "RGB" and transparency is None:
        image.putalpha(255)  # in place: no second copy of a large picture
        return image
    if image.mode in ("1", "L") and isinstance(transparency, int):
        # The file names the transparent grey in its own depth, Pillow's pixels have 8 bits.
        image.info["transparency"] = (transparency & (2**depth - 1)) * (255 // (2**depth - 1))
    return image.convert("RGBA")


def _read_16_bits(file: IO[bytes], image: ImageFile.ImageFile) -> Image.Image:
    """RGBA of an undecoded PNG of 16 bits a sample, rounded.

    Pillow keeps the upper byte of each sample only, which darkens by half a level. Asked for the samples as if
    the lower byte came first, it keeps the lower one. Grey with alpha has four bytes a pixel, as RGBA has.
    """
    import numpy as np
    from PIL import Image

    transparency = image.info.get("transparency")
    tile = image.tile[0] if image.tile else None
    low = None
    if tile is not None and tile.args == "LA;16B":
        image.tile = [tile._replace(args="RGBA")]
    decode(image)
    if tile is not None and image.mode != "I;16" and tile.args != "LA;16B":
        _, low = open_undecoded(file)
        low.tile = [low.tile[0]._replace(args=str(tile.args).replace("16B", "16L"))]
        decode(low)
    if image.mode == "RGB":
        image.putalpha(255)
    result = Image.new("RGBA", image.size) if image.mode == "I;16" else image
    for top in range(0, image.height, 128):
        box = (0, top, image.width, min(top + 128, image.height))
        strip = np.asarray(image.crop(box)).astype(np.uint16)
        samples = np.full((*strip.shape[:2], 4), 65535, np.uint16)
        if image.mode == "I;16":
            samples[..., :3] = strip[..., None]
        elif low is None:
            samples[..., :3] = (strip[..., :1] << 8) | strip[..., 1:2]
            samples[..., 3] = (strip[..., 2] << 8) | strip[..., 3]
        else:
            lower = np.asarray(low.crop(box))
            bands = lower.shape[2]
            samples[..., :bands] = (strip[..., :bands] << 8) | lower
        if transparency is not None:
            samples[..., 3] = np.where((samples[..., :3] == transparency).all(axis=2), 0, 65535)
        rounded = (samples.astype(np.uint32) * 255 + 32767) // 65535
        result.paste(Image.fromarray(rounded.astype(np.uint8), "RGBA"), box)
    return result


def _turn(image: Image.Image, warnings: list[str]) -> str | None:
    try:
        return _TURNS.get(image.getexif().get(_ORIENTATION, 1))
    except BROKEN as error:
        warnings.append(f"its EXIF data cannot be read ({error}); taken for upright")
        return None


def _to_srgb(image: Image.Image, icc: bytes, grey: bool, notes: list[str], warnings: list[str]) -> Image.Image:
    """Apply a profile to RGBA or CMYK pixels, alpha kept. One that cannot be applied is a warning, and ignored."""
    from PIL import ImageCms

    try:
        profile = ImageCms.ImageCmsProfile(io.BytesIO(icc))
        space = profile.profile.xcolor_space.strip()
        modes = {("RGB", False): "RGBA", ("RGB", True): "RGBA", ("GRAY", True): "L", ("CMYK", False): "CMYK"}
        mode = modes.get((space, grey))
        if mode is None or (mode == "CMYK") != (image.mode == "CMYK"):
            warnings.append(f"its colour profile is for {space}, the picture is not; taken for sRGB")
            return image
        transform = ImageCms.buildTransform(
            profile,
            ImageCms.createProfile("sRGB"),
            mode,
            "RGBA" if mode == "RGBA" else "RGB",
            ImageCms.Intent.RELATIVE_COLORIMETRIC,
            flags=ImageCms.Flags.BLACKPOINTCOMPENSATION,
        )
        if mode == "CMYK":
            converted = ImageCms.applyTransform(image, transform)
            assert converted is not None
            notes.append("colours converted to sRGB")
            return converted
        colours = _some_colours(mode)
        seen = ImageCms.applyTransform(colours, transform)
        assert seen is not None
        if _difference(colours.convert("RGB"), seen.convert("RGB")) <= 1:
            return image  # sRGB by whatever name: its pixels stay as they are
        notes.append("colours converted to sRGB")
        if mode == "L":
            table = [value for band in seen.split() for value in band.tobytes()]
            return image.point([*table, *range(256)])
        ImageCms.applyTransform(image, transform, inPlace=True)
        return image
    except (ImageCms.PyCMSError, *BROKEN) as error:
        warnings.append(f"its colour profile cannot be used ({error}); taken for sRGB")
        return image


def _some_colours(mode: str) -> Image.Image:
    """All greys, or 4,096 colours spread over the cube, to see what a profile does."""
    import numpy as np
    from PIL import Image

    if mode == "L":
        return Image.fromarray(np.arange(256, dtype=np.uint8)[None, :], "L")
    levels = np.arange(16, dtype=np.uint8) * 17
    cube = np.stack([*np.meshgrid(levels, levels, levels), np.full((16, 16, 16), 255, np.uint8)], axis=-1)
    return Image.fromarray(cube.reshape(64, 64, 4), "RGBA")


def _difference(one: Image.Image, other: Image.Image) -> int:
    from PIL import ImageChops

    extremes: Any = ImageChops.difference(one, other).getextrema()
    return max(high for _, high in extremes)


# --- judging and fitting -----------------------------------------------------------------------------


def _check_alpha(image: Image.Image, limits: SourceLimits, warnings: list[str]) -> bool:
    """Whether all of it is opaque.

    :raises RefusedSourceError: if it shows nothing, or is no cut-out where one is needed.
    """
    alpha = image.getchannel("A")
    pixels = image.width * image.height
    counts = alpha.histogram()
    hidden = sum(counts[:_VISIBLE])
    if pixels - hidden < _LEAST_SHARE * pixels:
        share = (pixels - hidden) / pixels
        raise RefusedSourceError(f"it is empty: {share:.2%} of its pixels are visible; a picture must show a product")
    if hidden < _LEAST_SHARE * pixels:
        if limits.needs_alpha:
            raise RefusedSourceError(
                "it needs a cut-out, and this picture has no transparent background; configure a cut-out step, "
                "or use a vendor that removes backgrounds itself"
            )
        return counts[255] == pixels
    if not any(counts[128:]):
        warnings.append("nothing in it is more than half opaque")
    width, height = image.size
    sides = {
        "left": (0, 0, 1, height),
        "top": (0, 0, width, 1),
        "right": (width - 1, 0, width, height),
        "bottom": (0, height - 1, width, height),
    }
    touched = [side for side, box in sides.items() if max(alpha.crop(box).tobytes()) >= 128]
    if touched:
        warnings.append(f"the product touches the edge ({', '.join(touched)}): it may be cut off")
    return False


def _scale(size: tuple[int, int], limits: SourceLimits, max_upscale: float) -> float:
    """By what a picture of this size must be scaled. Being too large goes first: padding helps the other side."""
    if max_upscale < 1:
        raise ValueError(f"max_upscale={max_upscale!r}: must be 1 or more")
    largest = limits.max_side / max(size) if limits.max_side is not None else max_upscale
    return min(largest, max(1.0, min(max_upscale, limits.min_side / min(size))))


def _fitted_size(size: tuple[int, int], scale: float) -> tuple[int, int]:
    return max(1, round(size[0] * scale)), max(1, round(size[1] * scale))


def _fit(image: Image.Image, scale: float, min_side: int) -> tuple[Image.Image, tuple[int, int, int, int]]:
    """Scaled, then padded to ``min_side`` with the picture in the middle; as RGBA, and where the picture lies."""
    from PIL import Image

    width, height = _fitted_size(image.size, scale)
    if (width, height) != image.size:
        # Going down, Hamming: nearly as sharp as bicubic and Lanczos, which overshoot and draw rings around a cut-out.
        smooth = Image.Resampling.HAMMING if scale < 1 else Image.Resampling.BICUBIC
        image = image.resize((width, height), smooth, reducing_gap=3.0)
    if image.mode != "RGBA":
        image = image.convert("RGBA")
    size = max(width, min_side), max(height, min_side)
    box = (size[0] - width) // 2, (size[1] - height) // 2, width, height
    if size != image.size:
        canvas = Image.new("RGBA", size)
        canvas.paste(image, box[:2])
        image = canvas
    return image, box


def _encode(image: Image.Image, opaque: bool, *, smallest: bool = False) -> bytes:
    """A PNG without profile or metadata; RGB if it is opaque, unless padding made it transparent."""
    if opaque and image.getchannel("A").getextrema() == (255, 255):
        image = image.convert("RGB")
    buffer = io.BytesIO()
    image.save(buffer, "PNG", optimize=smallest)
    return buffer.getvalue()


def _shrink(
    image: Image.Image, scale: float, opaque: bool, min_side: int, most: float
) -> tuple[Image.Image, tuple[int, int, int, int], bytes]:
    """The largest scale at which the PNG fits, found from above in steps of 5 % or more.

    ``image`` is premultiplied, so that what hides under transparent pixels costs nothing.
    """
    while True:
        fitted, box = _fit(image, scale, min_side)
        encoded = _encode(fitted, opaque, smallest=True)
        if len(encoded) <= most:
            return fitted, box, encoded
        if max(box[2:]) <= min_side or max(box[2:]) <= 64:
            raise RefusedSourceError(
                f"even at {box[2]} x {box[3]} px it is a PNG of {len(encoded):,} bytes; at most {most:,} are taken"
            )
        scale *= min(0.95, (most / len(encoded)) ** 0.5)
