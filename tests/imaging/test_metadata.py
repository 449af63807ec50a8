"""What a file says beside its pixels: colours that are honoured, and nonsense that costs nobody a picture."""

from __future__ import annotations

import base64
import io
import struct
import zlib
from collections.abc import Iterator

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from airflow_provider_bgai.imaging.inspect import Inspection, inspect
from airflow_provider_bgai.imaging.opening import NotAPictureError
from airflow_provider_bgai.imaging.prepare import RefusedSourceError, prepare, read_rgba
from airflow_provider_bgai.imaging.verify import read_header, verify_whole
from airflow_provider_bgai.models import SourceLimits
from airflow_provider_bgai.sandbox import paint
from tests.browser import open_chromium
from tests.imaging.test_hostile import seeds
from tests.imaging.test_kinds import ultra_hdr
from tests.imaging.test_prepare import (
    GREY,
    P3_D50,
    RGB,
    RGBA,
    SRGB_D50,
    chunk,
    decoded,
    disc,
    eight_bits,
    icc_profile,
    png,
    samples_of,
    saved,
    srgb_of,
)

ANYTHING = SourceLimits(formats=("png", "jpg", "webp"), needs_alpha=False)
SRGB = (0.3127, 0.3290, 0.64, 0.33, 0.30, 0.60, 0.15, 0.06)
DISPLAY_P3 = (0.3127, 0.3290, 0.68, 0.32, 0.265, 0.69, 0.15, 0.06)


def gama(gamma: float) -> bytes:
    return chunk(b"gAMA", struct.pack(">I", round(gamma * 100_000)))


def chrm(places: tuple[float, ...]) -> bytes:
    return chunk(b"cHRM", struct.pack(">8I", *(round(place * 100_000) for place in places)))


# --- gAMA and cHRM -----------------------------------------------------------------------------------


@pytest.mark.parametrize("depth", [8, 16])
@pytest.mark.parametrize("colours", [RGB, RGBA])
def test_gamma_and_primaries_of_a_png_are_honoured(colours, depth):
    samples = samples_of(depth, 3 if colours == RGB else 4, 64, 64)
    eight = eight_bits(samples, depth)
    expected = srgb_of((eight[..., :3] / 255) ** (1 / 0.5) @ P3_D50.T @ np.linalg.inv(SRGB_D50).T)
    data = png(samples, depth, colours, gama(0.5), chrm(DISPLAY_P3))
    found = np.asarray(read_rgba(data)).astype(int)
    assert np.abs(found[..., :3] - expected).max() <= 2
    assert np.abs(expected - eight[..., :3]).max() > 40, "they change something"
    np.testing.assert_array_equal(found[..., 3], eight[..., 3] if colours == RGBA else 255)
    assert prepare(data, ANYTHING).notes[-1] == "colours converted to sRGB"
    with Image.open(io.BytesIO(prepare(data, ANYTHING).data)) as sent:
        assert not {"gamma", "chromaticity"} & set(sent.info), "what is sent is sRGB and says nothing else"


@pytest.mark.parametrize("colours", [GREY, RGB])
def test_a_gamma_alone_is_honoured(colours):
    samples = samples_of(8, 1 if colours == GREY else 3, 64, 64)
    found = np.asarray(read_rgba(png(samples, 8, colours, gama(1.0)))).astype(int)
    assert np.abs(found[..., :3] - srgb_of(samples / 255)).max() <= 2


@pytest.mark.parametrize(
    "says",
    [
        (gama(0.45455),),
        (gama(0.45),),
        (gama(0.45455), chrm(SRGB)),
        (chrm(SRGB),),
        (chunk(b"sRGB", b"\0"), gama(1.0), chrm(DISPLAY_P3)),
        (chunk(b"iCCP", b"x\0\0" + zlib.compress(icc_profile(b"RGB ", 2.2, SRGB_D50))), gama(1.0)),
    ],
    ids=["sRGB's gamma", "nearly", "sRGB in full", "sRGB's primaries", "sRGB goes first", "a profile goes first"],
)
def test_what_is_srgb_stays_as_it_is(says):
    samples = samples_of(8, 3)
    data = png(samples, 8, RGB, *says)
    found = np.asarray(read_rgba(data))[..., :3].astype(int)
    # A profile with a gamma of 2.2 is near sRGB, and converted; 1.0 would be far away.
    assert np.abs(found - samples).max() <= (12 if b"iCCP" in data else 0)


@pytest.mark.parametrize("says", [(gama(0),), (gama(0.5), chrm((0.0,) * 8)), (gama(0.5), chrm((0.3, 0.3) * 4))])
def test_colours_that_cannot_be_are_a_warning(says):
    samples = samples_of(8, 3)
    data = png(samples, 8, RGB, *says)
    np.testing.assert_array_equal(np.asarray(read_rgba(data))[..., :3], samples)
    (warning,) = prepare(data, ANYTHING).warnings
    assert warning.endswith("taken for sRGB")


def test_a_browser_shows_the_same_colours():
    """Chromium reads gAMA and cHRM itself, with other code than ours."""
    samples = samples_of(8, 3, 32, 32)
    data = png(samples, 8, RGB, gama(0.55), chrm(DISPLAY_P3))
    with open_chromium() as browser:
        page = browser.new_page()
        shown = page.evaluate(
            """async (data) => {
                const image = new Image(); image.src = "data:image/png;base64," + data; await image.decode();
                const canvas = new OffscreenCanvas(image.width, image.height), context = canvas.getContext("2d");
                context.drawImage(image, 0, 0);
                return [...context.getImageData(0, 0, image.width, image.height).data];
            }""",
            base64.b64encode(data).decode(),
        )
    found = np.asarray(read_rgba(data)).astype(int)
    assert np.abs(found - np.asarray(shown).reshape(found.shape)).max() <= 2
    assert np.abs(found[..., :3] - samples).max() > 20


# --- broken metadata, whole pixels -------------------------------------------------------------------


def broken_chunk(name: bytes, content: bytes) -> bytes:
    return chunk(name, content)[:-4] + b"\1\2\3\4"


def with_segment(jpeg: bytes, marker: int, content: bytes) -> bytes:
    return jpeg[:2] + struct.pack(">HH", 0xFF00 | marker, len(content) + 2) + content + jpeg[2:]


PIXELS = samples_of(8, 4)
PAINTED = paint.compose(disc(), "sea", 1, 0).convert("RGB")
JPEG = saved(PAINTED, "JPEG", quality=95)
WEBP = saved(PAINTED, "WEBP", exif=b"Exif\0\0MM\0*\0\0\0\x08\0\0", xmp=b"<x/>")
MEGABYTES = zlib.compress(bytes(20_000_000))
BROKEN = {
    "PNG: text with a wrong checksum": png(PIXELS, 8, RGBA, broken_chunk(b"tEXt", b"a\0b")),
    "PNG: EXIF with a wrong checksum": png(PIXELS, 8, RGBA, broken_chunk(b"eXIf", b"II*\0")),
    "PNG: colours with a wrong checksum": png(PIXELS, 8, RGBA, broken_chunk(b"gAMA", b"\0\0\1\1")),
    "PNG: a text of 20 MB": png(PIXELS, 8, RGBA, chunk(b"zTXt", b"a\0\0" + MEGABYTES)),
    "PNG: a profile of 20 MB": png(PIXELS, 8, RGBA, chunk(b"iCCP", b"a\0\0" + MEGABYTES)),
    "PNG: a physical size too short": png(PIXELS, 8, RGBA, chunk(b"pHYs", b"\0")),
    "PNG: primaries too short": png(PIXELS, 8, RGBA, chunk(b"cHRM", b"\0\1\2")),
    "JPEG: JFIF too short": with_segment(JPEG, 0xE0, b"JFIF"),
    "JPEG: Adobe's word too short": with_segment(JPEG, 0xEE, b"Adobe\0"),
}


@pytest.mark.parametrize("name", BROKEN)
def test_broken_metadata_are_told_apart_from_a_broken_picture(name):
    data = BROKEN[name]
    picture = verify_whole(data)
    assert (picture.problem or "").startswith("its metadata are broken and left out (")
    assert picture.size == len(data)
    assert read_header(data).width == picture.width
    prepared = prepare(data, ANYTHING)
    assert prepared.content_type == "image/png"
    assert "broken metadata left out" in prepared.notes
    assert picture.problem in prepared.warnings
    expected = PIXELS if name.startswith("PNG") else np.asarray(Image.open(io.BytesIO(JPEG)).convert("RGBA"))
    np.testing.assert_array_equal(decoded(prepared), expected)


@pytest.mark.parametrize("name", [name for name in BROKEN if name.startswith("JPEG")])
def test_a_vendors_picture_with_broken_metadata_lands_without_them(name):
    seen = inspect(io.BytesIO(BROKEN[name]), saved(disc(), "PNG"), Inspection(), None)
    assert seen.instead is not None
    assert "its metadata are broken and left out" in (seen.problem or "")
    assert verify_whole(seen.instead).problem is None
    np.testing.assert_array_equal(np.asarray(read_rgba(seen.instead)), np.asarray(read_rgba(JPEG)))


def test_what_else_is_said_beside_broken_metadata_is_kept():
    """An orientation and colours stay, where a text is what is broken."""
    exif = Image.Exif()
    exif[0x0112] = 3
    says = chunk(b"eXIf", exif.tobytes()[6:]), gama(1.0), broken_chunk(b"tEXt", b"a\0b")
    samples = samples_of(8, 3, 64, 64)
    data = png(samples, 8, RGB, *says)
    found = np.asarray(read_rgba(data))[..., :3].astype(int)
    assert np.abs(found - srgb_of(samples[::-1, ::-1] / 255)).max() <= 2
    assert prepare(data, ANYTHING).notes == ("colours converted to sRGB", "turned upright", "broken metadata left out")


def test_metadata_of_a_webp_are_left_out_with_their_flags():
    from airflow_provider_bgai.imaging.bare import without_metadata

    (bare,) = without_metadata(io.BytesIO(WEBP))
    with Image.open(io.BytesIO(bare)) as image, Image.open(io.BytesIO(WEBP)) as came:
        assert not {"exif", "xmp"} & set(image.info)
        assert image.tobytes() == came.tobytes()


@pytest.mark.parametrize("damage", [b"\0" * 40, b"\xff\xd9" * 20])
def test_broken_pixels_stay_a_broken_picture(damage):
    for name in ("rgba.png", "lossless.webp"):
        data = seeds()[name]
        middle = len(data) // 2
        with pytest.raises(NotAPictureError):
            verify_whole(data[:middle] + damage + data[middle + len(damage) :])


# --- what messages say -------------------------------------------------------------------------------

KINDS = {**seeds(), "ultra.jpg": ultra_hdr(), "disc.gif": saved(disc(64, 24), "GIF"), "disc.bmp": saved(disc(), "BMP")}
KINDS |= {"disc.tiff": saved(disc(64, 24), "TIFF"), "lzw.tiff": saved(disc(64, 24), "TIFF", compression="tiff_lzw")}
HEADS = [data[:12] for data in KINDS.values()]


def said_of(data: bytes) -> Iterator[str]:
    for use in (read_header, verify_whole, read_rgba, lambda data: prepare(data, ANYTHING)):
        try:
            found = use(data)
            yield str(getattr(found, "problem", None) or "fine")
        except (NotAPictureError, RefusedSourceError) as error:
            yield str(error)


def says_what_is_wrong(data: bytes) -> bool:
    return all(said and " object at 0x" not in said and "_io." not in said for said in said_of(data))


@settings(max_examples=400, deadline=None)
@given(st.sampled_from(sorted(KINDS)), st.binary(min_size=1, max_size=16), st.integers(0, 120), st.booleans())
def test_no_message_speaks_of_files_as_python_holds_them(name, noise, at, cut):
    data = KINDS[name]
    assert says_what_is_wrong(data[:at] + noise + (b"" if cut else data[at + len(noise) :]))


@settings(max_examples=200, deadline=None)
@given(st.sampled_from(HEADS), st.binary(max_size=200))
def test_no_message_of_junk_behind_a_right_beginning_does(head, junk):
    assert says_what_is_wrong(head + junk)
