from __future__ import annotations

import io
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from airflow_provider_bgai.imaging.fidelity import opaque
from airflow_provider_bgai.imaging.prepare import read_rgba
from airflow_provider_bgai.imaging.verify import (
    MAX_PIXELS,
    NotAPictureError,
    Picture,
    UnpaintedError,
    check_painted,
    frame_problem,
    open_whole,
    read_header,
    verify_whole,
)
from airflow_provider_bgai.sandbox import paint

KINDS = {"png": "image/png", "jpg": "image/jpeg", "webp": "image/webp", "avif": "image/avif"}
IMAGES = sorted((Path(__file__).parents[2] / "demo" / "catalogue" / "images").glob("*.png"))
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


@pytest.mark.parametrize("data", [b"", b"<!doctype html><h1>502</h1>", b'{"status": 500}', b"GIF80a......", b"BM...."])
@pytest.mark.parametrize("look", [read_header, verify_whole])
def test_what_is_no_picture_says_how_it_begins(look, data):
    with pytest.raises(NotAPictureError) as refused:
        look(data)
    assert str(refused.value) == "empty" if not data else repr(data[:16]) in str(refused.value)


@pytest.mark.filterwarnings("ignore::PIL.Image.DecompressionBombWarning")
def test_a_bomb_is_refused_before_it_is_decoded():
    bomb = paint.bomb()
    assert len(bomb) < 1_000_000
    with pytest.raises(NotAPictureError, match=r"10000 x 16000 px: more than 64,000,000 pixels"):
        verify_whole(bomb)


def test_the_limit_of_pixels_is_a_parameter():
    with pytest.raises(NotAPictureError, match="more than 100 pixels"):
        verify_whole(encode(), max_pixels=100)
    assert verify_whole(encode(), max_pixels=64 * 48).width == 64


def test_another_format_with_the_right_bytes_in_the_right_place_is_not_decoded():
    bitmap = io.BytesIO()
    Image.new("RGB", (8, 8), "red").save(bitmap, "BMP")
    header, pixels = bitmap.getvalue()[:54], bitmap.getvalue()[54:]
    # The field for where the pixels begin ends the word, so they begin at 0x5042.
    disguised = header[:8] + b"WEBP\0\0" + header[14:] + bytes(0x5042 - 54) + pixels
    assert Image.open(io.BytesIO(disguised)).getpixel((0, 0)) == (255, 0, 0)
    with pytest.raises(NotAPictureError, match="header is broken"):
        read_header(disguised)


@pytest.mark.parametrize(("kind", "side"), [("webp", 5100), ("avif", 4600), ("jpg", 6100)])
def test_what_takes_too_much_memory_for_its_kind_is_refused_undecoded(kind, side):
    options: dict[str, dict[str, Any]] = {"jpg": {"progressive": True}, "avif": {"speed": 10}, "webp": {"method": 0}}
    buffer = io.BytesIO()
    Image.new("RGB", (side, side), "red").save(buffer, PILLOW[kind], quality=10, **options[kind])
    assert side * side < MAX_PIXELS
    with pytest.raises(NotAPictureError, match=rf"this {kind.upper()} would take \d+ MB to decode"):
        verify_whole(buffer.getvalue())


@pytest.mark.parametrize("kind", ["jpg", "png"])
def test_the_pixels_come_along_so_that_nobody_decodes_twice(kind):
    data = encode(kind, (300, 200))
    picture, image = open_whole(data)
    assert picture == verify_whole(data)
    assert opaque(image).shape == (200, 300, 3)
    assert opaque(image).tobytes() == Image.open(io.BytesIO(data)).convert("RGB").tobytes()


# --- what came back: has anybody painted? -------------------------------------------------------------


def as_file(image: Image.Image, kind: str = "PNG", **options) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()


def unpainted(data: bytes, source: Image.Image | None = None) -> str:
    """The word for how it is seen that nobody has painted; empty where somebody has."""
    try:
        check_painted(open_whole(data)[1], source)
    except UnpaintedError as error:
        told = {"blank: ": "blank", "the background was not painted: ": "unchanged"}
        return next((word for start, word in told.items() if str(error).startswith(start)), f"says {error}")
    return ""


def test_a_frame_is_held_against_what_was_asked():
    picture = read_header(encode(size=(512, 384)))
    assert frame_problem(picture, 4 / 3) is None
    assert frame_problem(picture, 1.0) == "width / height is 1.333, where 1.000 was asked for"
    assert frame_problem(picture, 512 / 382) is None, "sides are rounded"
    assert frame_problem(picture, 512 / 370) is not None


@pytest.mark.parametrize("kind", ["PNG", "JPEG", "WEBP", "AVIF"])
@pytest.mark.parametrize("colour", ["white", "black", "#7f8182"])
def test_one_colour_is_blank(kind, colour):
    noise = np.random.default_rng(1).integers(-2, 3, (300, 400, 3))
    pixels = np.clip(np.asarray(Image.new("RGB", (400, 300), colour)).astype(int) + noise, 0, 255)
    assert unpainted(as_file(Image.fromarray(pixels.astype(np.uint8)), kind)) == "blank"


def test_nothing_but_transparency_is_blank():
    noise = np.random.default_rng(1).integers(0, 256, (300, 400, 4), dtype=np.uint8)
    noise[..., 3] //= 20
    assert unpainted(as_file(Image.fromarray(noise, "RGBA"))) == "blank"


@pytest.mark.parametrize("mode", ["1", "L", "LA", "P", "RGB", "RGBA", "I;16"])
def test_a_small_product_in_any_mode_is_not_blank(mode):
    image = Image.new("RGBA", (400, 400), "white")
    image.paste("navy", (190, 190, 215, 215))
    if mode == "I;16":
        image = Image.fromarray(np.asarray(image.convert("L")).astype(np.uint16) * 257)
    else:
        image = image.convert(mode)
    assert unpainted(as_file(image)) == ""


@pytest.mark.parametrize("path", IMAGES, ids=lambda path: path.stem)
def test_the_unchanged_input_is_told_from_a_painted_one(path):
    data = path.read_bytes()
    source = read_rgba(data)
    assert unpainted(data, source) == "unchanged"
    for colour in ("white", "black"):
        flat = paint.flatten(source, colour)
        for size in (source.size, (source.width * 3 // 4, source.height * 3 // 4)):
            for kind in ("PNG", "JPEG", "WEBP"):
                found = unpainted(as_file(flat.resize(size), kind), source)
                assert found == ("blank" if flat.getbbox() is None else "unchanged"), "a violin, black on black"
    dropped = source.convert("RGB")
    assert unpainted(as_file(dropped), source) == ("blank" if dropped.getbbox() is None else "unchanged")
    for prompt in ("a white studio", "black", "oak table, morning light", "at the sea"):
        for kind in ("png", "jpeg"):
            painted = paint.encode(paint.compose(source, prompt, 7, 0), kind)
            assert unpainted(painted, source) == ""


def test_an_opaque_source_that_comes_back_as_it_was():
    photo = Image.effect_noise((300, 200), 60).convert("RGBA")
    assert unpainted(as_file(photo.convert("RGB"), "JPEG", quality=95), photo) == "unchanged"
    assert unpainted(as_file(Image.effect_noise((300, 200), 60)), photo) == ""


def test_a_picture_framed_anew_is_judged_by_its_transparency_alone():
    source = read_rgba(IMAGES[0].read_bytes())
    canvas = Image.new("RGBA", (1000, 1400))
    canvas.paste(source, (100, 300))
    assert unpainted(as_file(canvas), source) == "unchanged"
    assert unpainted(paint.encode(paint.compose(canvas, "sea", 1, 0), "png"), source) == ""


def test_looking_costs_little_beside_decoding():
    source = read_rgba(IMAGES[1].read_bytes())
    painted = as_file(paint.compose(source, "sea", 1, 0))

    def best(work) -> float:
        times = []
        for _ in range(7):
            began = time.process_time()
            work()
            times.append(time.process_time() - began)
        return min(times)

    image = open_whole(painted)[1]
    assert best(lambda: check_painted(image, source)) < 2 * best(lambda: open_whole(painted))


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
