"""Sources of every kind a shop has, sample by sample, and vendors' pictures of kinds no shop shows."""

from __future__ import annotations

import io
import struct
import sys

import numpy as np
import pillow_heif
import pytest
import pyvips
from PIL import Image

from airflow_provider_bgai.imaging.inspect import Inspection, inspect
from airflow_provider_bgai.imaging.opening import NotAPictureError, UnreadKindError
from airflow_provider_bgai.imaging.prepare import prepare, read_rgba
from airflow_provider_bgai.imaging.verify import read_header, verify_whole
from airflow_provider_bgai.models import SourceLimits
from airflow_provider_bgai.sandbox import paint
from tests.imaging.test_hostile import bitmap
from tests.imaging.test_prepare import STORED, decoded, disc, eight_bits, rgba, samples_of, saved

CUT_OUTS = SourceLimits()
ANYTHING = SourceLimits(needs_alpha=False)
PHOTO = SourceLimits(formats=("png", "jpg", "webp"), needs_alpha=False)
UNMARKED, ASSOCIATED, STRAIGHT = 0, 1, 2


def tiff(samples: np.ndarray, depth: int, photometric: int, *extra: int, order: str = "<") -> bytes:
    """A TIFF of one strip, as TIFF 6.0 says; ``extra``: what the bands beyond the colours are."""
    height, width, bands = samples.shape
    pixels = samples.astype(f"{order}u{depth // 8}").tobytes()
    depths = struct.pack(f"{order}{bands}H", *[depth] * bands)
    at = 8 + len(pixels)
    entries = [
        (256, 4, 1, width),
        (257, 4, 1, height),
        (258, 3, bands, (depth << 16 | depth) if bands < 3 else at),
        (259, 3, 1, 1),
    ]
    entries += [(262, 3, 1, photometric), (273, 4, 1, 8), (277, 3, 1, bands), (278, 4, 1, height)]
    entries += [(279, 4, 1, len(pixels)), *((338, 3, 1, each) for each in extra)]
    table = b""
    for tag, kind, count, value in entries:
        short = kind == 3 and count == 1
        value = value & 0xFFFF if short else value
        table += struct.pack(f"{order}HHI" + ("Hxx" if short else "I"), tag, kind, count, value)
    head = (b"II" if order == "<" else b"MM") + struct.pack(f"{order}HI", 42, at + len(depths))
    return head + pixels + depths + struct.pack(f"{order}H", len(entries)) + table + bytes(4)


def heic(image: Image.Image, quality: int = 100, **options) -> bytes:
    file = io.BytesIO()
    pillow_heif.from_pillow(image).save(file, quality=quality, chroma=444, **options)
    return file.getvalue()


def several(image: Image.Image, second: Image.Image, **options) -> bytes:
    return saved(image, "MPO", save_all=True, append_images=[second], quality=95, **options)


def ultra_hdr() -> bytes:
    """A JPEG with a gain map behind it, as phones and, one day, vendors write them."""
    photo = paint.compose(disc(), "sea", 1, 0).convert("RGB")
    xmp = b'<x:xmpmeta xmlns:x="adobe:ns:meta/"><rdf:RDF xmlns:rdf="http://www.w3.org/1999/02/22-rdf-syntax-ns#">'
    xmp += b'<rdf:Description xmlns:hdrgm="http://ns.adobe.com/hdr-gain-map/1.0/" hdrgm:Version="1.0"/></rdf:RDF>'
    return several(photo, photo.convert("L").resize((80, 80)), xmp=xmp + b"</x:xmpmeta>")


# --- TIFF --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("order", "<>")
@pytest.mark.parametrize(
    ("photometric", "bands", "depth"),
    [(1, 1, 8), (1, 1, 16), (1, 2, 8), (2, 3, 8), (2, 3, 16), (2, 4, 8), (2, 4, 16)],
)
def test_a_tiff_of_every_depth_and_either_byte_order(photometric, bands, depth, order):
    extra = (STRAIGHT,) if bands % 2 == 0 else ()
    samples = samples_of(depth, bands)
    eight = eight_bits(samples, depth)
    found = np.asarray(read_rgba(tiff(samples, depth, photometric, *extra, order=order)))
    np.testing.assert_array_equal(found, rgba(eight[..., :-1], eight[..., -1]) if extra else rgba(eight))


@pytest.mark.parametrize("order", "<>")
@pytest.mark.parametrize("depth", [8, 16])
def test_colours_of_a_tiff_that_are_multiplied_by_alpha_are_divided_again(depth, order):
    most = 2**depth - 1
    alpha = samples_of(depth, 1)
    straight = samples_of(depth, 3)
    multiplied = np.rint(straight * (alpha / most))
    data = tiff(np.concatenate([multiplied, alpha], axis=2).astype(int), depth, 2, ASSOCIATED, order=order)
    found = np.asarray(read_rgba(data)).astype(int)
    np.testing.assert_array_equal(found[..., 3:], eight_bits(alpha, depth))
    solid = alpha[..., 0] > most // 2
    assert np.abs(found[solid][:, :3] - eight_bits(straight, depth)[solid]).max() <= (1 if depth == 16 else 2)


def test_a_fourth_band_of_which_a_tiff_says_nothing_is_ignored_aloud():
    samples = samples_of(8, 4)
    data = tiff(samples, 8, 2, UNMARKED)
    np.testing.assert_array_equal(np.asarray(read_rgba(data)), rgba(samples[..., :3]))
    (warning,) = prepare(data, ANYTHING).warnings
    assert "fourth band is not marked as transparency (ExtraSamples 0)" in warning


@pytest.mark.parametrize("compression", ["lzw", "deflate", "packbits", "none"])
@pytest.mark.parametrize("depth", [8, 16])
@pytest.mark.parametrize("tile", [False, True])
def test_a_compressed_tiff_of_another_writer(compression, depth, tile):
    samples = samples_of(depth, 4, 70, 90)
    kind, space = ("uchar", "srgb") if depth == 8 else ("ushort", "rgb16")
    raw = samples.astype(f"u{depth // 8}").tobytes()
    image = pyvips.Image.new_from_memory(raw, 70, 90, 4, kind).copy(interpretation=space)
    data = image.tiffsave_buffer(compression=compression, tile=tile, tile_width=32, tile_height=32)
    eight = eight_bits(samples, depth)
    np.testing.assert_array_equal(np.asarray(read_rgba(data)), rgba(eight[..., :3], eight[..., 3]))


def test_a_cmyk_tiff_is_read_as_a_cmyk_jpeg_is():
    inks = np.zeros((64, 64, 4), np.uint8)
    inks[:32], inks[32:] = (255, 0, 0, 0), (30, 60, 90, 40)
    light = 1 - inks / 255
    expected = np.rint(light[..., :3] * light[..., 3:] * 255)
    assert np.abs(np.asarray(read_rgba(tiff(inks, 8, 5)))[..., :3].astype(int) - expected).max() <= 1


@pytest.mark.parametrize("orientation", STORED)
@pytest.mark.parametrize("compression", [None, "tiff_lzw"])
@pytest.mark.parametrize("depth", [8, 16])
def test_a_tiff_is_made_upright_once(orientation, compression, depth):
    upright = samples_of(8, 3, 40, 24).astype(np.uint8)
    stored = np.ascontiguousarray(STORED[orientation](upright))
    if depth == 8:
        data = saved(Image.fromarray(stored), "TIFF", compression=compression, tiffinfo={274: orientation})
    else:
        raw = (stored.astype(np.uint16) * 257).tobytes()
        image = pyvips.Image.new_from_memory(raw, stored.shape[1], stored.shape[0], 3, "ushort")
        image = image.copy(interpretation="rgb16")
        image.set_type(pyvips.GValue.gint_type, "orientation", orientation)
        data = image.tiffsave_buffer(compression="lzw" if compression else "none")
    np.testing.assert_array_equal(np.asarray(read_rgba(data)), rgba(upright))
    assert ("turned upright" in prepare(data, ANYTHING).notes) is (orientation != 1)


def test_of_several_pages_the_first_is_taken_and_that_is_said():
    pages = [disc(colour=colour) for colour in ((200, 40, 30), (0, 0, 255))]
    for options in ({}, {"compression": "tiff_lzw"}):
        prepared = prepare(saved(pages[0], "TIFF", save_all=True, append_images=pages[1:], **options), CUT_OUTS)
        assert prepared.notes == ("the first page taken", "TIFF turned into PNG")
        np.testing.assert_array_equal(decoded(prepared), np.asarray(pages[0]))


@pytest.mark.parametrize(
    ("data", "says"),
    [
        (saved(Image.new("F", (40, 40)), "TIFF"), "a TIFF with 32 bits a sample, which is not read; save it as PNG"),
        (saved(Image.new("LAB", (40, 40)), "TIFF"), "a TIFF with Lab colours, which is not read; save it as PNG"),
        (tiff(samples_of(16, 2), 16, 1, STRAIGHT), "a TIFF with rare samples, which is not read; save it as PNG"),
        (b"8BPS\0\1" + bytes(40), "a Photoshop file, which is not read; save it as PNG"),
        (b"%PDF-1.7 ...", "a PDF, which"),
        (b"%!PS-Adobe-3.0 EPSF", "a PostScript file, which"),
        (b"\xff\x0a" + bytes(40), "a JPEG XL, which"),
        (b"\0\0\0\x0cjP  \r\n\x87\n", "a JPEG 2000, which"),
        (b'<?xml version="1.0"?>\n<!-- drawn -->\n<svg>', "an SVG, which"),
        (b"\0\0\1\0\1\0", "an icon, which"),
    ],
)
def test_what_is_not_read_is_refused_by_its_name(data, says):
    with pytest.raises(NotAPictureError) as refused:
        prepare(data, ANYTHING)
    assert str(refused.value).startswith(says)


# --- BMP, GIF, AVIF, HEIC, MPO -----------------------------------------------------------------------


def test_the_alpha_of_a_bmp_that_says_where_it_lies():
    image = disc(64, 24)
    data = bitmap(image)
    np.testing.assert_array_equal(np.asarray(read_rgba(data)), np.asarray(image))
    assert prepare(data, CUT_OUTS).notes == ("BMP turned into PNG",)


def test_a_bmp_that_does_not_know_alpha_is_opaque_aloud():
    pixels = np.asarray(disc(64, 24))[::-1, :, [2, 1, 0, 3]].tobytes()
    head = struct.pack("<IiiHHIIiiII", 40, 64, 64, 1, 32, 0, len(pixels), 0, 0, 0, 0)
    data = b"BM" + struct.pack("<IHHI", 54 + len(pixels), 0, 0, 54) + head + pixels
    np.testing.assert_array_equal(np.asarray(read_rgba(data))[..., 3], 255)
    assert (
        "fourth band is not marked as transparency (a BMP without a mask for it)" in prepare(data, ANYTHING).warnings[0]
    )


@pytest.mark.parametrize("mode", ["1", "L", "P", "RGB"])
def test_opaque_bmps(mode):
    image = Image.fromarray(samples_of(8, 3).astype(np.uint8)).convert(mode)
    np.testing.assert_array_equal(np.asarray(read_rgba(saved(image, "BMP"))), np.asarray(image.convert("RGBA")))


def test_the_transparency_of_a_gif_is_its_cut_out():
    image = disc(200, 80)
    image.putalpha(image.getchannel("A").point(lambda alpha: 255 * (alpha > 127)))
    frames = [image, Image.new("RGBA", image.size, "blue")]
    for data, notes in (
        (saved(image, "GIF"), ()),
        (saved(image, "GIF", save_all=True, append_images=frames[1:]), ("the first frame of an animation taken",)),
    ):
        prepared = prepare(data, CUT_OUTS)
        assert prepared.notes == (*notes, "a palette turned into RGB", "GIF turned into PNG")
        found = decoded(prepared)
        np.testing.assert_array_equal(found[..., 3], np.asarray(image)[..., 3])
        assert (found[100, 100] == (200, 40, 30, 255)).all()


def test_avif_and_heic_keep_alpha():
    image = disc(128, 50, hidden=(200, 40, 30))
    for data, kind in ((saved(image, "AVIF", quality=100), "AVIF"), (heic(image), "HEIC")):
        assert np.abs(np.asarray(read_rgba(data)).astype(int) - np.asarray(image)).max() <= 6
        assert prepare(data, CUT_OUTS).notes == (f"{kind} turned into PNG",)


@pytest.mark.parametrize("brand", [b"heic", b"mif1"])
def test_what_stands_behind_the_brand_of_the_family_is_told_by_the_others(brand):
    for kind, data in (("heic", heic(disc(128, 50))), ("avif", saved(disc(128, 50), "AVIF"))):
        of_family = data[:8] + b"mif1" + data[12:] if brand == b"mif1" else data
        assert read_header(of_family).extension == kind


def test_a_phones_heic_is_turned_upright_once():
    upright = Image.new("RGB", (96, 48), "red")
    upright.paste("blue", (0, 0, 48, 48))
    exif = Image.Exif()
    exif[0x0112] = 6
    stored = upright.transpose(Image.Transpose.ROTATE_90)
    file = io.BytesIO()
    pillow_heif.from_pillow(stored).save(file, exif=exif.tobytes(), quality=100)
    found = read_rgba(file.getvalue())
    assert found.size == (96, 48)
    assert np.abs(np.asarray(found)[..., :3].astype(int) - np.asarray(upright)).mean() < 6


def test_without_the_extra_a_heic_says_what_it_takes(monkeypatch):
    data = heic(disc(64, 24))
    monkeypatch.setitem(sys.modules, "pillow_heif", None)
    with pytest.raises(UnreadKindError, match=r"a HEIC, which takes pillow_heif to read: pip install .*\[heic\]"):
        prepare(data, ANYTHING)


def test_of_a_stereo_picture_the_first_is_taken():
    left, right = (Image.new("RGB", (64, 64), colour) for colour in ("red", "blue"))
    data = several(left, right)
    assert np.abs(np.asarray(read_rgba(data))[..., :3].astype(int) - (254, 0, 0)).max() <= 2
    prepared = prepare(data, PHOTO)
    assert prepared.notes == ("the first of several pictures taken",)
    with Image.open(io.BytesIO(prepared.data)) as sent, Image.open(io.BytesIO(data)) as whole:
        assert (sent.format, whole.format) == ("JPEG", "MPO")
        assert sent.tobytes() == whole.tobytes()


# --- vendors' pictures -------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["GIF", "TIFF", "BMP", "HEIC"])
def test_a_vendors_picture_of_a_kind_no_shop_shows_becomes_a_png(kind):
    source = disc()
    painted = paint.compose(source, "sea", 1, 0).convert("RGB")
    data = heic(painted) if kind == "HEIC" else saved(painted, kind)
    seen = inspect(io.BytesIO(data), saved(source, "PNG"), Inspection(), None)
    assert seen.problem is not None
    assert seen.problem.startswith(f"came as {kind}, which shops do not show: turned into PNG")
    assert (seen.picture.extension, seen.verdict is not None, bool(seen.after)) == ("png", True, True)
    np.testing.assert_array_equal(np.asarray(read_rgba(seen.instead or b"")), np.asarray(read_rgba(data)))


def test_of_an_ultra_hdr_result_the_picture_is_kept_pixel_by_pixel():
    data = ultra_hdr()
    seen = inspect(io.BytesIO(data), None, Inspection(), None)
    assert seen.instead is not None
    assert (seen.picture.extension, len(seen.instead) < len(data)) == ("jpg", True)
    assert data.startswith(seen.instead[:2])
    assert "Ultra HDR" in (seen.problem or "")
    with Image.open(io.BytesIO(seen.instead)) as kept, Image.open(io.BytesIO(data)) as came:
        assert kept.format == "JPEG"
        assert kept.tobytes() == came.tobytes()
        assert "mp" not in kept.info
    assert verify_whole(seen.instead).problem is None


def test_what_shops_show_lands_as_it_came():
    painted = paint.compose(disc(), "sea", 1, 0).convert("RGB")
    for kind in ("PNG", "JPEG", "WEBP", "AVIF"):
        seen = inspect(io.BytesIO(saved(painted, kind)), None, Inspection(thresholds=None), None)
        assert (seen.instead, seen.problem) == (None, None)
