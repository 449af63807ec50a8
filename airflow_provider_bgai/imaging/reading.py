"""The pixels of a picture as the eye sees them: upright, sRGB, straight-alpha RGBA of 8 bits, whatever the file is.

Of several pictures in a file, the first is taken. Pillow and numpy are imported inside the functions.
"""

from __future__ import annotations

import io
import sys
from dataclasses import dataclass
from functools import cached_property
from typing import IO, TYPE_CHECKING, Any

from airflow_provider_bgai.imaging.opening import (
    BROKEN,
    Picture,
    UnreadKindError,
    decode,
    leniently,
    open_undecoded,
    said,
)
from airflow_provider_bgai.imaging.plain import plain_levels
from airflow_provider_bgai.imaging.profile import profile_of

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray
    from PIL import Image, ImageFile

# Decoded, and once more while it is converted, turned or scaled. 37 megapixels fit.
_BYTES_PER_PIXEL = 8

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
_NAMES = {
    "1": "black and white",
    "P": "a palette",
    "PA": "a palette",
    "CMYK": "CMYK",
    "YCbCr": "YCbCr",
} | dict.fromkeys(("L", "LA", "La", "I;16", "I;16B"), "grey")


# Of a PNG's metadata, by Pillow's names: what bears on how its pixels are to be seen.
_BEARING = {"icc_profile", "gamma", "chromaticity", "exif", "XML:com.adobe.xmp", "Raw profile type exif"}

# By Pillow's name for how the samples lie: RGB of a TIFF, and of a BMP.
_FOURTH_IGNORED = {"BGRX": "a BMP without a mask for it"} | dict.fromkeys(
    ("RGBX", "RGBX;16L", "RGBX;16B", "RGBX;16N"), "ExtraSamples 0"
)


@dataclass(frozen=True)
class Read:
    """A picture as it was read.

    :param image: RGBA, upright sRGB with straight alpha.
    :param picture: what the file was.
    :param notes: what was done to the pixels; ``warnings``: doubts.
    :param levels: the image's own memory, where numpy has it.
    """

    image: Image.Image
    picture: Picture
    notes: tuple[str, ...]
    warnings: tuple[str, ...]
    levels: NDArray[np.uint8] | None

    @property
    def pixels(self) -> NDArray[np.uint8]:
        """(height, width, 4)."""
        import numpy as np

        return np.asarray(self.image) if self.levels is None else self.levels

    @cached_property
    def alpha(self) -> NDArray[np.uint8]:
        """(height, width)."""
        import cv2
        import numpy as np

        if self.levels is None:
            return np.asarray(self.image.getchannel("A"))
        return np.asarray(cv2.extractChannel(self.levels, 3), np.uint8)


def read(data: bytes | IO[bytes], max_pixels: int) -> Read:
    """The pixels, what the file was, what was done to the pixels, and doubts.

    :param max_pixels: more than this is refused before anything is decoded.
    :raises NotAPictureError: if it is no picture, truncated, damaged or too large.
    """
    notes: list[str] = []
    warnings: list[str] = []

    def pixels(file: IO[bytes]) -> tuple[Picture, tuple[Image.Image, NDArray[np.uint8] | None]]:
        notes.clear()
        warnings.clear()
        picture, image = open_undecoded(file, max_pixels=max_pixels, bytes_per_pixel=_BYTES_PER_PIXEL)
        levels = None if _BEARING & image.info.keys() else plain_levels(file)
        if levels is None:
            return picture, (_upright(file, picture, image, notes, warnings), None)
        return picture, as_image(levels)

    picture, (rgba, levels) = leniently(data, pixels)
    if picture.problem is not None:
        notes.append("broken metadata left out")
        warnings.append(picture.problem)
    return Read(rgba, picture, tuple(notes), tuple(warnings), levels)


def as_image(levels: NDArray[np.uint8]) -> tuple[Image.Image, NDArray[np.uint8]]:
    """A picture in the memory of RGB or RGBA levels, RGBA."""
    import cv2
    import numpy as np
    from PIL import Image

    if levels.shape[2] == 3:
        levels = np.asarray(cv2.cvtColor(levels, cv2.COLOR_RGB2RGBA), np.uint8)
    size = levels.shape[1], levels.shape[0]
    return Image.frombuffer("RGBA", size, levels, "raw", "RGBA", 0, 1), levels


def _upright(
    file: IO[bytes], picture: Picture, image: ImageFile.ImageFile, notes: list[str], warnings: list[str]
) -> Image.Image:
    from PIL import Image

    if image.format != "MPO" and getattr(image, "is_animated", False):
        notes.append("the first page taken" if picture.extension == "tiff" else "the first frame of an animation taken")
    if image.mode in ("F", "I", "LAB"):
        what = "Lab colours" if image.mode == "LAB" else "32 bits a sample"
        raise UnreadKindError(f"a {picture.extension.upper()} with {what}, which is not read; save it as PNG")
    grey = image.mode in ("1", "L", "LA", "La", "I;16", "I;16B")
    if image.mode in _NAMES:
        notes.append(f"{_NAMES[image.mode]} turned into RGB")
    rawmode = _rawmode(image)
    if rawmode in _FOURTH_IGNORED:
        warnings.append(f"its fourth band is not marked as transparency ({_FOURTH_IGNORED[rawmode]}), and ignored")
    depth, colours = _png_depth(file) if picture.extension == "png" else (16 if "16" in rawmode else 8, 2)
    # Of a TIFF, Pillow forgets it while it decodes and turns; of a PNG, it can stand behind the pixels.
    turned_here = picture.extension != "tiff"
    turn = None if turned_here else _turn(image, warnings)
    if depth == 16 and image.mode != "CMYK":
        grey = grey or colours in (0, 4)
        notes.append("16 bits rounded to 8")
        rgba = _read_16_bits(file, image)
    else:
        decode(image)
        rgba = image if image.mode == "CMYK" else _convert(image, depth)
    try:
        profile = image.info.get("icc_profile") or (
            profile_of(image.info, grey) if picture.extension == "png" else None
        )
    except ValueError as error:
        profile = None
        warnings.append(f"{error}; taken for sRGB")
    if turned_here:
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
        if turned_here:
            rgba = rgba.transpose(Image.Transpose[turn])
    rgba.info = {}
    return rgba


def _rawmode(image: ImageFile.ImageFile) -> str:
    """How the samples lie in the file, in Pillow's words; empty where its reader does not say."""
    args = image.tile[0].args if image.tile else ""
    return str(args[0] if isinstance(args, tuple) and args else args or "")


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
    if image.mode == "RGBA":
        return image
    if image.mode in ("1", "L") and isinstance(transparency, int):
        # The file names the transparent grey in its own depth, Pillow's pixels have 8 bits.
        image.info["transparency"] = (transparency & (2**depth - 1)) * (255 // (2**depth - 1))
    through = {"La": "LA", "YCbCr": "RGB"}.get(image.mode)
    return (image.convert(through) if through else image).convert("RGBA")


def _read_16_bits(file: IO[bytes], image: ImageFile.ImageFile) -> Image.Image:
    """RGBA of an undecoded PNG or TIFF of 16 bits a sample, rounded.

    Pillow keeps the upper byte of each sample only, which darkens by half a level. Asked for the samples as if
    the lower byte came first, it keeps the lower one. Grey with alpha has four bytes a pixel, as RGBA has.
    """
    import numpy as np
    from PIL import Image

    transparency = image.info.get("transparency")
    rawmode = _rawmode(image)
    deep = image.mode in ("I;16", "I;16B")
    twice = not deep and rawmode not in ("", "LA;16B")
    # Colours that were multiplied by alpha are divided again below, with all their bits.
    upper = "RGBA" if rawmode == "LA;16B" else rawmode.replace("RGBa", "RGBA")
    if not deep and rawmode:
        _ask_for(image, upper)
    decode(image)
    low = None
    if twice:
        _, low = open_undecoded(file)
        _ask_for(low, upper.replace(upper[-3:], "16B" if upper[-3:] in _LOW_FIRST else "16L"))
        decode(low)
    if image.mode == "RGB":
        image.putalpha(255)
    result = Image.new("RGBA", image.size) if deep else image
    for top in range(0, image.height, 128):
        box = (0, top, image.width, min(top + 128, image.height))
        strip = np.asarray(image.crop(box)).astype(np.uint16)
        samples = np.full((*strip.shape[:2], 4), 65535, np.uint16)
        if deep:
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
        if "RGBa" in rawmode:
            alpha = np.maximum(samples[..., 3:].astype(np.uint32), 1)
            samples[..., :3] = np.minimum((samples[..., :3] * np.uint32(65535) + alpha // 2) // alpha, 65535)
        rounded = (samples.astype(np.uint32) * 255 + 32767) // 65535
        result.paste(Image.fromarray(rounded.astype(np.uint8), "RGBA"), box)
    return result


_LOW_FIRST = ("16L", "16N" if sys.byteorder == "little" else "16L")


def _ask_for(image: ImageFile.ImageFile, rawmode: str) -> None:
    """Have the samples of a picture taken for something else when it is decoded."""
    image.tile = [
        tile._replace(args=(rawmode, *tile.args[1:]) if isinstance(tile.args, tuple) else rawmode)
        for tile in image.tile
    ]


def _turn(image: Image.Image, warnings: list[str]) -> str | None:
    try:
        return _TURNS.get(image.getexif().get(_ORIENTATION, 1))
    except BROKEN as error:
        warnings.append(f"its EXIF data cannot be read ({said(error)}); taken for upright")
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
            # A table of 256 greys is not worth the shortcuts, which are ten levels off in a steep curve's shadows.
            flags=ImageCms.Flags.BLACKPOINTCOMPENSATION | (ImageCms.Flags.NOOPTIMIZE if mode == "L" else 0),
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
        warnings.append(f"its colour profile cannot be used ({said(error)}); taken for sRGB")
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
