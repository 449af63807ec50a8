from __future__ import annotations

import io

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from airflow_provider_bgai.imaging.verify import NotAPictureError, Picture, read_header, verify_whole
from airflow_provider_bgai.sandbox import paint

KINDS = {"png": "image/png", "jpg": "image/jpeg", "webp": "image/webp", "avif": "image/avif"}
PILLOW = {"png": "PNG", "jpg": "JPEG", "webp": "WEBP", "avif": "AVIF"}


def encode(extension: str = "png", size: tuple[int, int] = (64, 48), mode: str = "RGB") -> bytes:
    noise = np.random.default_rng(7).integers(0, 255, (size[1], size[0], 4), dtype=np.uint8)
    buffer = io.BytesIO()
    Image.fromarray(noise, "RGBA").convert(mode).save(buffer, PILLOW[extension])
    return buffer.getvalue()


@pytest.mark.parametrize("look", [read_header, verify_whole])
@pytest.mark.parametrize("extension", KINDS)
def test_a_whole_picture_is_described_by_its_bytes(look, extension):
    data = encode(extension)
    assert look(data) == Picture(extension, KINDS[extension], 64, 48, has_alpha=False, size=len(data))
    assert look(io.BytesIO(data)) == look(data)


@pytest.mark.parametrize(("mode", "alpha"), [("RGBA", True), ("LA", True), ("RGB", False), ("L", False)])
def test_transparency_is_told(mode, alpha):
    assert read_header(encode(mode=mode)).has_alpha is alpha


def test_a_palette_with_a_transparent_colour_is_transparent():
    image = Image.new("P", (8, 8))
    buffer = io.BytesIO()
    image.save(buffer, "PNG", transparency=0)
    assert read_header(buffer.getvalue()).has_alpha


@pytest.mark.parametrize("extension", KINDS)
@pytest.mark.parametrize("share", [0.3, 0.5, 0.9])
def test_a_picture_that_was_cut_off_is_not_whole(extension, share):
    data = encode(extension, (256, 256))
    with pytest.raises(NotAPictureError, match=r"damaged or cut off|header is broken"):
        verify_whole(data[: int(len(data) * share)])


@pytest.mark.parametrize("lost", [1, 12, 30])
def test_a_png_that_lost_its_last_bytes_is_not_whole(lost):
    data = encode("png", (256, 256))
    with pytest.raises(NotAPictureError):
        verify_whole(data[:-lost])


def test_bytes_behind_the_end_of_a_png_do_no_harm():
    assert verify_whole(encode("png") + b"appended by a tool" * 10_000).width == 64


def test_a_jpeg_that_lost_its_last_bytes_is_not_whole():
    data = encode("jpg", (256, 256))
    with pytest.raises(NotAPictureError):
        verify_whole(data[:-200])


def test_a_flipped_bit_in_a_png_is_noticed():
    data = bytearray(encode("png", (64, 64)))
    data[len(data) // 2] ^= 1
    with pytest.raises(NotAPictureError, match="damaged"):
        verify_whole(bytes(data))


@pytest.mark.parametrize("data", [b"", b"<!doctype html><h1>502</h1>", b'{"status": 500}', b"GIF89a......", b"BM...."])
@pytest.mark.parametrize("look", [read_header, verify_whole])
def test_what_is_no_picture_says_how_it_begins(look, data):
    with pytest.raises(NotAPictureError) as refused:
        look(data)
    assert str(refused.value) == "empty" if not data else repr(data[:16]) in str(refused.value)


def test_a_bomb_is_refused_before_it_is_decoded():
    bomb = paint.bomb()
    assert len(bomb) < 1_000_000
    with pytest.raises(NotAPictureError, match=r"10000 x 16000 px: more than 64,000,000 pixels"):
        verify_whole(bomb)


def test_the_limit_of_pixels_is_a_parameter():
    with pytest.raises(NotAPictureError, match="more than 100 pixels"):
        verify_whole(encode(), max_pixels=100)
    assert verify_whole(encode(), max_pixels=64 * 48).width == 64


@settings(max_examples=300)
@given(st.sampled_from(sorted(KINDS)), st.binary(max_size=64), st.integers(0, 5000), st.integers(0, 64))
def test_damage_of_any_kind_is_a_picture_or_the_documented_error(extension, noise, at, length):
    data = bytearray(encode(extension))
    data[at : at + length] = noise
    try:
        picture = verify_whole(bytes(data))
    except NotAPictureError:
        return
    assert picture.width * picture.height > 0


@given(st.sampled_from([b"\x89PNG\r\n\x1a\n", b"\xff\xd8\xff", b"RIFF\x00\x00\x00\x00WEBP"]), st.binary())
def test_a_right_beginning_alone_makes_no_picture(magic, rest):
    with pytest.raises(NotAPictureError):
        verify_whole(magic + rest)
