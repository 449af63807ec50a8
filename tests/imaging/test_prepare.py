"""Known pixels in, known pixels out: the files are written here sample by sample, the arithmetic is numpy's."""

from __future__ import annotations

import io
import struct
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from airflow_provider_bgai.imaging import reading, recent
from airflow_provider_bgai.imaging.prepare import Prepared, RefusedSourceError, prepare, read_rgba
from airflow_provider_bgai.imaging.verify import NotAPictureError
from airflow_provider_bgai.models import SourceLimits
from airflow_provider_bgai.sandbox import paint

IMAGES = sorted((Path(__file__).parents[2] / "demo" / "catalogue" / "images").glob("*.png"))
PICWISH = SourceLimits(min_side=256, max_side=4096, max_bytes=20_000_000)
ANYTHING = SourceLimits(formats=("png", "jpg", "webp", "avif"), needs_alpha=False)
GREY, RGB, PALETTE, GREY_ALPHA, RGBA = 0, 2, 3, 4, 6
BANDS = {GREY: 1, RGB: 3, PALETTE: 1, GREY_ALPHA: 2, RGBA: 4}
ADAM7 = ((0, 0, 8, 8), (0, 4, 8, 8), (4, 0, 8, 4), (0, 2, 4, 4), (2, 0, 4, 2), (0, 1, 2, 2), (1, 0, 2, 1))


def chunk(name: bytes, content: bytes) -> bytes:
    return struct.pack(">I", len(content)) + name + content + struct.pack(">I", zlib.crc32(name + content))


def png(samples: np.ndarray, depth: int, colours: int, *extra: bytes, interlaced: bool = False) -> bytes:
    """A PNG of (height, width, bands) samples, as the specification says; ``extra`` chunks go before the pixels."""
    height, width = samples.shape[:2]

    def rows(part: np.ndarray) -> bytes:
        flat = part.reshape(part.shape[0], -1)
        if depth == 16:
            lines = [row.astype(">u2").tobytes() for row in flat]
        elif depth == 8:
            lines = [row.astype(np.uint8).tobytes() for row in flat]
        else:
            bits = ((flat[..., None] >> np.arange(depth - 1, -1, -1)) & 1).reshape(part.shape[0], -1)
            lines = [np.packbits(row.astype(np.uint8)).tobytes() for row in bits]
        return b"".join(b"\0" + line for line in lines)

    parts = [samples[y::dy, x::dx] for y, x, dy, dx in ADAM7] if interlaced else [samples]
    pixels = zlib.compress(b"".join(rows(part) for part in parts if part.size))
    header = struct.pack(">IIBBBBB", width, height, depth, colours, 0, 0, interlaced)
    return b"\x89PNG\r\n\x1a\n" + b"".join(
        [chunk(b"IHDR", header), *extra, chunk(b"IDAT", pixels), chunk(b"IEND", b"")]
    )


def samples_of(depth: int, bands: int, width: int = 37, height: int = 29) -> np.ndarray:
    """Noise over the whole range of a sample, with both ends in it."""
    samples = np.random.default_rng(depth * 10 + bands).integers(0, 2**depth, (height, width, bands))
    samples[0, 0], samples[0, 1] = 0, 2**depth - 1
    return samples


def eight_bits(samples: np.ndarray, depth: int) -> np.ndarray:
    return np.rint(samples * (255 / (2**depth - 1))).astype(np.uint8)


def rgba(colour: np.ndarray, alpha: np.ndarray | int = 255) -> np.ndarray:
    colour = np.broadcast_to(colour, (*colour.shape[:2], 3))
    alpha = np.broadcast_to(np.asarray(alpha, np.uint8)[..., None], (*colour.shape[:2], 1))
    return np.concatenate([colour, alpha], axis=2).astype(np.uint8)


def saved(image: Image.Image, kind: str, **options) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()


def disc(side: int = 320, radius: float = 100, colour=(200, 40, 30), hidden=(0, 255, 0)) -> Image.Image:
    """A soft disc in the middle; what is transparent hides a glaring colour."""
    y, x = np.mgrid[:side, :side] - (side - 1) / 2
    alpha = np.clip(radius - np.hypot(x, y) + 0.5, 0, 1)
    pixels = np.where(alpha[..., None] > 0, colour, hidden)
    return Image.fromarray(rgba(pixels, np.rint(alpha * 255)), "RGBA")


def decoded(prepared: Prepared) -> np.ndarray:
    with Image.open(io.BytesIO(prepared.data)) as image:
        assert image.size == (prepared.width, prepared.height)
        assert not {"icc_profile", "exif"} & set(image.info)
        return np.asarray(image.convert("RGBA"))


# --- every kind of PNG -------------------------------------------------------------------------------


@pytest.mark.parametrize("interlaced", [False, True])
@pytest.mark.parametrize("transparent", [False, True])
@pytest.mark.parametrize(("colours", "depth"), [*((GREY, depth) for depth in (1, 2, 4, 8, 16)), (RGB, 8), (RGB, 16)])
def test_grey_and_rgb_of_every_depth(colours, depth, transparent, interlaced):
    samples = samples_of(depth, BANDS[colours])
    if depth == 16:
        samples[1, 1] = samples[5, 5] ^ 1  # differs in the lower byte alone, so it is not the transparent colour
    key = samples[5, 5]
    extra = [chunk(b"tRNS", b"".join(struct.pack(">H", value) for value in key))] if transparent else []
    alpha = np.where((samples == key).all(axis=2), 0, 255) if transparent else 255
    found = np.asarray(read_rgba(png(samples, depth, colours, *extra, interlaced=interlaced)))
    np.testing.assert_array_equal(found, rgba(eight_bits(samples, depth), alpha))


@pytest.mark.parametrize("interlaced", [False, True])
@pytest.mark.parametrize(("colours", "depth"), [(GREY_ALPHA, 8), (GREY_ALPHA, 16), (RGBA, 8), (RGBA, 16)])
def test_alpha_of_every_depth(colours, depth, interlaced):
    samples = samples_of(depth, BANDS[colours])
    eight = eight_bits(samples, depth)
    found = np.asarray(read_rgba(png(samples, depth, colours, interlaced=interlaced)))
    np.testing.assert_array_equal(found, rgba(eight[..., :-1], eight[..., -1]))


@pytest.mark.parametrize("opacities", [0, 1, 2])
@pytest.mark.parametrize("depth", [1, 2, 4, 8])
def test_a_palette_of_every_depth(depth, opacities):
    samples = samples_of(depth, 1)
    palette = np.random.default_rng(1).integers(0, 256, (2**depth, 3))
    alphas = np.full(2**depth, 255)
    alphas[:opacities] = [0, 77][:opacities]
    extra = [chunk(b"PLTE", palette.astype(np.uint8).tobytes())]
    if opacities:
        extra.append(chunk(b"tRNS", alphas[:opacities].astype(np.uint8).tobytes()))
    found = np.asarray(read_rgba(png(samples, depth, PALETTE, *extra)))
    np.testing.assert_array_equal(found, rgba(palette[samples[..., 0]], alphas[samples[..., 0]]))


def test_all_65536_values_of_16_bits_are_rounded_not_cut():
    samples = np.arange(65536).reshape(256, 256, 1)
    found = np.asarray(read_rgba(png(samples, 16, GREY)))
    np.testing.assert_array_equal(found[..., 0], np.rint(samples[..., 0] / 257))
    three = np.concatenate([samples, samples[::-1], samples], axis=2)
    np.testing.assert_array_equal(np.asarray(read_rgba(png(three, 16, RGB)))[..., :3], np.rint(three / 257))


# --- the other formats -------------------------------------------------------------------------------


@pytest.mark.parametrize("adobe", [True, False])
def test_cmyk_jpeg_as_every_viewer_shows_it(adobe):
    inks = np.zeros((64, 64, 4), np.uint8)
    inks[:32, :32], inks[:32, 32:] = (255, 0, 0, 0), (0, 255, 255, 0)
    inks[32:, :32], inks[32:, 32:] = (0, 0, 0, 255), (30, 60, 90, 40)
    data = saved(Image.fromarray(inks, "CMYK"), "JPEG", quality=100)
    marker = data.index(b"\xff\xee")
    assert data[marker + 4 : marker + 9] == b"Adobe"
    if not adobe:
        data = data[:marker] + data[marker + 2 + int.from_bytes(data[marker + 2 : marker + 4]) :]
    # Four bands without a word about them are inverted, as Adobe's, in libjpeg's users from browsers to ImageMagick.
    light = 1 - inks / 255
    expected = rgba(np.rint(light[..., :3] * light[..., 3:] * 255))
    assert np.abs(np.asarray(read_rgba(data)).astype(int) - expected).max() <= 2


def test_a_cmyk_jpeg_holds_light_not_ink():
    # Full light in all four bands: white paper. Written band by band, so that nobody's inversion is trusted.
    white = Image.merge("CMYK", [Image.new("L", (16, 16), 0)] * 4)
    data = saved(white, "JPEG", quality=100)
    with Image.open(io.BytesIO(data)) as image:
        tile = image.tile[0]
        assert isinstance(tile.args, tuple)
        image.tile = [tile._replace(args=("CMYK", *tile.args[1:]))]  # the samples as they are stored
        assert image.getextrema() == ((255, 255),) * 4
    assert read_rgba(data).getextrema() == ((255, 255),) * 4


@pytest.mark.parametrize("mode", ["L", "RGB", "RGBA", "LA"])
def test_lossless_webp(mode):
    pixels = np.random.default_rng(2).integers(1, 256, (40, 50, len(mode) if mode != "L" else 1), dtype=np.uint8)
    image = Image.fromarray(pixels.squeeze(), mode)
    found = np.asarray(read_rgba(saved(image, "WEBP", lossless=True, exact=True)))
    expected = rgba(pixels[..., : 3 if "RGB" in mode else 1], pixels[..., -1] if "A" in mode else 255)
    np.testing.assert_array_equal(found, expected)


def test_avif_with_alpha():
    image = disc(128, 50, hidden=(200, 40, 30))
    found = np.asarray(read_rgba(saved(image, "AVIF", quality=100))).astype(int)
    assert np.abs(found - np.asarray(image)).max() <= 6


STORED = {  # what a camera stores for an upright picture, by EXIF's orientation
    1: lambda upright: upright,
    2: lambda upright: upright[:, ::-1],
    3: lambda upright: upright[::-1, ::-1],
    4: lambda upright: upright[::-1],
    5: lambda upright: upright.swapaxes(0, 1),
    6: lambda upright: np.rot90(upright, 1),
    7: lambda upright: upright[::-1, ::-1].swapaxes(0, 1),
    8: lambda upright: np.rot90(upright, -1),
}


@pytest.mark.parametrize("kind", ["PNG", "WEBP", "JPEG", "AVIF"])
@pytest.mark.parametrize("orientation", STORED)
def test_every_orientation_is_made_upright(orientation, kind):
    upright = np.zeros((48, 96, 3), np.uint8)
    upright[:24, :48], upright[:24, 48:], upright[24:, :48] = (250, 20, 20), (20, 250, 20), (20, 20, 250)
    exif = Image.Exif()
    exif[0x0112] = orientation
    image = Image.fromarray(np.ascontiguousarray(STORED[orientation](upright)))
    options = (
        {"lossless": True} if kind == "WEBP" else {"quality": 100, "subsampling": "4:4:4"} if kind != "PNG" else {}
    )
    data = saved(image, kind, exif=exif, **options)
    found = np.asarray(read_rgba(data)).astype(int)
    assert np.abs(found - rgba(upright)).max() <= (0 if kind in ("PNG", "WEBP") else 6)
    prepared = prepare(data, ANYTHING)
    assert (prepared.data == data) is (orientation == 1)
    assert (prepared.width, prepared.height, prepared.box) == (96, 48, (0, 0, 96, 48))
    if orientation != 1:
        decoded(prepared)  # looks for EXIF in it


def test_of_an_animation_the_first_frame_is_taken():
    frames = [Image.new("RGBA", (64, 64), colour) for colour in ("red", "blue")]
    for kind in ("WEBP", "PNG"):
        data = saved(frames[0], kind, save_all=True, append_images=frames[1:], duration=100, lossless=True)
        prepared = prepare(data, ANYTHING)
        assert "first frame" in prepared.notes[0]
        assert prepared.content_type == "image/png"
        assert (decoded(prepared)[..., :3] == (255, 0, 0)).all()
        assert getattr(Image.open(io.BytesIO(prepared.data)), "n_frames", 1) == 1


# --- colour profiles ---------------------------------------------------------------------------------

SRGB_D50 = np.array(
    [[0.4360747, 0.3850649, 0.1430804], [0.2225045, 0.7168786, 0.0606169], [0.0139322, 0.0971045, 0.7141733]]
)
P3_D50 = np.array(
    [[0.5151213, 0.2919776, 0.1571045], [0.2411957, 0.6922454, 0.0665741], [-0.0010498, 0.0418854, 0.7840729]]
)
WHITE_D50 = (0.9642, 1.0, 0.8249)


def icc_profile(space: bytes, gamma: float, primaries: np.ndarray | None = None) -> bytes:
    """A display profile, version 2: a gamma, and for RGB the primaries as XYZ columns under D50."""

    def fixed(value: float) -> bytes:
        return struct.pack(">i", round(value * 65536))

    def xyz(values) -> bytes:
        return b"XYZ \0\0\0\0" + b"".join(fixed(value) for value in values)

    name = b"made by a test\0"
    curve = b"curv\0\0\0\0" + struct.pack(">IHxx", 1, round(gamma * 256))
    tags = {
        b"desc": b"desc\0\0\0\0" + struct.pack(">I", len(name)) + name + bytes(78),
        b"cprt": b"text\0\0\0\0none\0",
        b"wtpt": xyz(WHITE_D50),
    }
    if primaries is None:
        tags[b"kTRC"] = curve
    else:
        for letter, column in zip(b"rgb", primaries.T, strict=True):
            tags[bytes([letter]) + b"XYZ"] = xyz(column)
            tags[bytes([letter]) + b"TRC"] = curve
    table, body = struct.pack(">I", len(tags)), b""
    for tag, content in tags.items():
        table += tag + struct.pack(">II", 128 + 4 + 12 * len(tags) + len(body), len(content))
        body += content + bytes(-len(content) % 4)
    size = struct.pack(">I", 128 + len(table) + len(body))
    date = struct.pack(">6H", 2024, 1, 1, 0, 0, 0)
    head = size + bytes(4) + struct.pack(">I", 0x02400000) + b"mntr" + space + b"XYZ " + date + b"acsp" + bytes(28)
    head += b"".join(fixed(value) for value in WHITE_D50)
    return head + bytes(128 - len(head)) + table + body


def srgb_of(linear: np.ndarray) -> np.ndarray:
    linear = np.clip(linear, 0, 1)
    return np.rint(255 * np.where(linear <= 0.0031308, 12.92 * linear, 1.055 * linear ** (1 / 2.4) - 0.055))


def with_profile(pixels: np.ndarray, colours: int, profile: bytes, depth: int = 8) -> bytes:
    return png(pixels, depth, colours, chunk(b"iCCP", b"test\0\0" + zlib.compress(profile)))


@pytest.mark.parametrize("depth", [8, 16])
@pytest.mark.parametrize("colours", [RGB, RGBA])
def test_a_wide_gamut_is_converted_and_alpha_kept(colours, depth):
    samples = samples_of(depth, BANDS[colours], 64, 64)
    eight = eight_bits(samples, depth)
    linear = (eight[..., :3] / 255) ** (563 / 256)
    expected = srgb_of(linear @ P3_D50.T @ np.linalg.inv(SRGB_D50).T)
    data = with_profile(samples, colours, icc_profile(b"RGB ", 2.2, P3_D50), depth)
    found = np.asarray(read_rgba(data)).astype(int)
    assert np.abs(found[..., :3] - expected).max() <= 2
    assert np.abs(expected - eight[..., :3]).max() > 40, "the profile changes something"
    np.testing.assert_array_equal(found[..., 3], eight[..., 3] if colours == RGBA else 255)
    prepared = prepare(data, ANYTHING)
    assert "colours converted to sRGB" in prepared.notes
    np.testing.assert_array_equal(decoded(prepared), found)


@pytest.mark.parametrize("depth", [8, 16])
@pytest.mark.parametrize("colours", [GREY, GREY_ALPHA])
def test_a_grey_profile_is_applied_to_grey(colours, depth):
    samples = samples_of(depth, BANDS[colours], 64, 64)
    eight = eight_bits(samples, depth)
    expected = srgb_of((eight[..., :1] / 255) ** 1.5)
    found = np.asarray(read_rgba(with_profile(samples, colours, icc_profile(b"GRAY", 1.5), depth))).astype(int)
    assert np.abs(found[..., :3] - expected).max() <= 2
    np.testing.assert_array_equal(found[..., 3], eight[..., 1] if colours == GREY_ALPHA else 255)


def test_pixels_with_an_srgb_profile_stay_as_they_are():
    from PIL import ImageCms

    profile = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    samples = samples_of(8, 4)
    data = with_profile(samples, RGBA, profile)
    np.testing.assert_array_equal(np.asarray(read_rgba(data)), samples)
    assert prepare(data, ANYTHING).data == data


@pytest.mark.parametrize(
    ("profile", "colours", "says"),
    [
        (b"no profile at all", RGBA, "cannot be used"),
        (icc_profile(b"RGB ", 2.2, P3_D50)[:200], RGBA, "cannot be used"),
        (icc_profile(b"GRAY", 1.5), RGBA, "is for GRAY, the picture is not"),
        (icc_profile(b"CMYK", 2.2, P3_D50), RGBA, "is for CMYK, the picture is not"),
    ],
)
def test_a_profile_that_does_not_fit_is_a_warning(profile, colours, says):
    samples = samples_of(8, BANDS[colours])
    data = with_profile(samples, colours, profile)
    np.testing.assert_array_equal(np.asarray(read_rgba(data)), samples)
    assert says in prepare(data, ANYTHING).warnings[0]
    assert "taken for sRGB" in prepare(data, ANYTHING).warnings[0]


@pytest.mark.filterwarnings("ignore:Corrupt EXIF")
def test_broken_exif_is_a_warning_at_most():
    samples = samples_of(8, 4)
    cut_short = png(samples, 8, RGBA, chunk(b"eXIf", b"II*\0\x08\0\0\0\xff\xff\x12\x01"))
    assert prepare(cut_short, ANYTHING).data == cut_short
    nonsense = png(samples, 8, RGBA, chunk(b"eXIf", b"nonsense"))
    assert "EXIF data cannot be read" in prepare(nonsense, ANYTHING).warnings[0]
    np.testing.assert_array_equal(np.asarray(read_rgba(nonsense)), samples)


# --- is it a cut-out? --------------------------------------------------------------------------------


@pytest.mark.parametrize("path", IMAGES, ids=lambda path: path.stem)
def test_every_sample_product_is_prepared(path):
    data = path.read_bytes()
    prepared = prepare(data, PICWISH)
    assert (prepared.data == data) is (path.stem != "violin-pair"), "one of them has a palette"
    np.testing.assert_array_equal(decoded(prepared), np.asarray(Image.open(path).convert("RGBA")))
    assert prepared.box == (0, 0, prepared.width, prepared.height)
    assert len(IMAGES) == 12


@pytest.mark.parametrize("limits", [PICWISH, ANYTHING])
def test_an_opaque_picture_needs_a_vendor_that_cuts_out(limits):
    for image in (Image.new("RGB", (300, 300), "red"), Image.new("RGBA", (300, 300), "red")):
        data = saved(image, "PNG")
        if limits.needs_alpha:
            with pytest.raises(RefusedSourceError, match=r"needs a cut-out.*configure a cut-out step"):
                prepare(data, limits)
        else:
            assert prepare(data, limits).data == data


def test_some_stray_transparent_pixels_make_no_cut_out():
    image = Image.new("RGBA", (300, 300), "red")
    image.putpixel((3, 3), (0, 0, 0, 0))
    with pytest.raises(RefusedSourceError, match="needs a cut-out"):
        prepare(saved(image, "PNG"), PICWISH)


@pytest.mark.parametrize("limits", [PICWISH, ANYTHING])
@pytest.mark.parametrize("dust", [0, 15])
def test_an_empty_picture_is_refused_for_every_vendor(limits, dust):
    image = Image.new("RGBA", (300, 300), (90, 90, 90, dust))
    image.paste((255, 0, 0, 255), (0, 0, 5, 5))
    with pytest.raises(RefusedSourceError, match=r"it is empty: 0.03% of its pixels are visible"):
        prepare(saved(image, "PNG"), limits)


@pytest.mark.parametrize(
    ("shift", "sides"), [((-70, 0), "left"), ((70, 70), "right, bottom"), ((0, -70), "top"), ((0, 0), None)]
)
def test_a_product_at_the_edge_is_a_warning(shift, sides):
    image = Image.new("RGBA", (320, 320))
    image.paste(disc(), shift)
    prepared = prepare(saved(image, "PNG"), PICWISH)
    assert prepared.warnings == (
        () if sides is None else (f"the product touches the edge ({sides}): it may be cut off",)
    )


def test_a_product_of_glass_is_a_warning():
    image = disc()
    image.putalpha(image.getchannel("A").point(lambda value: value // 3))
    assert "half opaque" in prepare(saved(image, "PNG"), PICWISH).warnings[0]


# --- the vendor's limits -----------------------------------------------------------------------------


def test_what_is_too_small_is_padded_and_not_scaled():
    image = disc(100, 40)
    prepared = prepare(saved(image, "PNG"), PICWISH)
    assert (prepared.width, prepared.height, prepared.box) == (256, 256, (78, 78, 100, 100))
    pixels = decoded(prepared)
    np.testing.assert_array_equal(pixels[78:178, 78:178], np.asarray(image))
    assert pixels[..., 3].sum() == np.asarray(image)[..., 3].sum()
    assert prepared.notes == ("padded to 256 px",)


def test_scaling_up_stops_at_the_stated_factor():
    data = saved(disc(100, 40), "PNG")
    prepared = prepare(data, PICWISH, max_upscale=2.0)
    assert (prepared.width, prepared.box) == (256, (28, 28, 200, 200))
    assert "scaled up by 2 from 100 x 100 px" in prepared.notes
    assert prepare(data, PICWISH, max_upscale=4.0).box == (0, 0, 256, 256)
    with pytest.raises(ValueError, match="must be 1 or more"):
        prepare(data, PICWISH, max_upscale=0.5)


def test_long_and_thin_is_scaled_down_and_padded():
    prepared = prepare(
        saved(disc(320).crop((0, 150, 320, 170)).resize((1000, 40)), "PNG"), SourceLimits(min_side=64, max_side=500)
    )
    assert (prepared.width, prepared.height, prepared.box) == (500, 64, (0, 22, 500, 20))


@pytest.mark.parametrize("side", [160, 250, 41])
def test_scaling_leaves_no_halo(side):
    prepared = prepare(saved(disc(), "PNG"), SourceLimits(max_side=side))
    pixels = decoded(prepared).astype(int)
    assert prepared.width == side
    wrong = np.abs(pixels[..., :3] - (200, 40, 30)) * pixels[..., 3:] / 255
    assert wrong.max() <= 2, "the hidden green does not bleed"
    y, x = np.mgrid[:side, :side] - (side - 1) / 2
    outside = np.hypot(x, y) > (100 / 320 * side) + 2.5
    assert pixels[outside][:, 3].max() == 0, "and there is no ring around it"
    assert pixels[..., 3].sum() / 255 == pytest.approx(np.pi * (100 / 320 * side) ** 2, rel=0.01)


def test_a_file_that_is_too_large_is_compressed_before_it_is_scaled():
    data = saved(disc(), "PNG", compress_level=0)
    prepared = prepare(data, SourceLimits(max_bytes=100_000))
    assert len(prepared.data) <= 100_000 < len(data)
    np.testing.assert_array_equal(decoded(prepared), np.asarray(disc()))


def test_a_file_that_stays_too_large_is_scaled_down_until_it_fits():
    image = disc()
    noise = np.random.default_rng(3).integers(0, 256, (320, 320, 3), dtype=np.uint8)
    noisy = Image.fromarray(np.concatenate([noise, np.asarray(image)[..., 3:]], axis=2), "RGBA")
    data = saved(noisy, "PNG")
    prepared = prepare(data, SourceLimits(max_bytes=60_000))
    assert 40_000 < len(prepared.data) <= 60_000
    assert 200 < prepared.width < 320
    assert "brought to" in prepared.notes[-1]
    with pytest.raises(RefusedSourceError, match=r"at most 500 are taken"):
        prepare(data, SourceLimits(max_bytes=500))


def test_hidden_colours_are_the_first_to_go():
    pixels = np.random.default_rng(4).integers(0, 256, (320, 320, 4), dtype=np.uint8)
    pixels[..., 3] = 0
    pixels[100:200, 100:200] = (10, 20, 30, 255)
    prepared = prepare(saved(Image.fromarray(pixels, "RGBA"), "PNG"), SourceLimits(max_bytes=5_000))
    assert (prepared.width, prepared.height) == (320, 320)
    np.testing.assert_array_equal(decoded(prepared)[100:200, 100:200], pixels[100:200, 100:200])


def test_a_format_the_vendor_does_not_take_becomes_png():
    prepared = prepare(saved(disc(), "WEBP", lossless=True, exact=True), PICWISH)
    assert (prepared.content_type, prepared.notes) == ("image/png", ("WEBP turned into PNG",))
    np.testing.assert_array_equal(decoded(prepared), np.asarray(disc()))


def test_an_opaque_photo_becomes_png_without_alpha():
    photo = Image.fromarray(np.random.default_rng(5).integers(0, 256, (64, 64, 3), dtype=np.uint8))
    prepared = prepare(saved(photo, "WEBP", lossless=True), SourceLimits(needs_alpha=False))
    assert Image.open(io.BytesIO(prepared.data)).mode == "RGB"


# --- what is no picture ------------------------------------------------------------------------------


@pytest.mark.filterwarnings("ignore::PIL.Image.DecompressionBombWarning")
@pytest.mark.parametrize(
    ("data", "says"),
    [
        (b"", "empty"),
        (b"<!doctype html><h1>502</h1>", "not a picture"),
        (b"<svg xmlns='http://www.w3.org/2000/svg'/>", "an SVG, which is not read; save it as PNG"),
        (saved(disc(), "PNG")[:-20], "cut off"),
        (saved(disc().convert("RGB"), "JPEG")[:-400], "cut off"),
        (saved(disc(), "TIFF")[:-4000], "cut off"),
        (paint.bomb(), "10000 x 16000 px: more than 64,000,000 pixels"),
    ],
)
def test_what_is_no_picture_is_refused(data, says):
    for use in (read_rgba, lambda data: prepare(data, PICWISH)):
        with pytest.raises(NotAPictureError, match=says):
            use(data)


def test_a_source_that_was_just_read_is_not_read_again(monkeypatch):
    """Which is where it lands; and however many there are, not more is kept than is said."""
    reads: list[bytes] = []

    def read(data: bytes, max_pixels: int) -> Any:
        reads.append(data)
        return reading.read(data, max_pixels)

    monkeypatch.setattr(recent, "read", read)
    data = saved(disc(), "PNG") + b"of this test alone"
    first, again = prepare(data, PICWISH), prepare(data, ANYTHING)
    kept = recent.read_source(data).image
    assert (len(reads), first.warnings, kept.tobytes()) == (1, again.warnings, disc().tobytes())
    large = saved(Image.new("RGBA", (2500, 2500), "red"), "PNG")
    for number in range(3):
        recent.read_source(large + bytes([number]))
    assert sum(each.image.width * each.image.height for each in recent._kept.values()) <= recent.KEPT_PIXELS
    recent.read_source(data)
    assert len(reads) == 5


def test_an_open_file_serves_as_well_as_bytes():
    data = saved(disc(), "PNG")
    assert read_rgba(io.BytesIO(data)).tobytes() == read_rgba(data).tobytes()
