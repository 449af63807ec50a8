"""The short cut through OpenCV sees what Pillow sees, or nothing."""

from __future__ import annotations

import io
import struct
import zlib
from contextlib import suppress
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from airflow_provider_bgai.imaging.plain import plain_levels
from airflow_provider_bgai.imaging.verify import NotAPictureError, open_whole

HEIGHT, WIDTH = 40, 60
NOISE = np.random.default_rng(5).integers(0, 256, (HEIGHT, WIDTH, 4), np.uint8)


def png(mode: str = "RGB", **options: Any) -> bytes:
    file = io.BytesIO()
    Image.fromarray(NOISE).convert(mode).save(file, "PNG", **options)
    return file.getvalue()


def chunk(name: bytes, body: bytes) -> bytes:
    return struct.pack(">I", len(body)) + name + body + struct.pack(">I", zlib.crc32(name + body))


def with_stream(stream: bytes) -> bytes:
    """A PNG whose pixels are packed so."""
    header = struct.pack(">IIBBBBB", WIDTH, HEIGHT, 8, 2, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", stream) + chunk(b"IEND", b"")


def rows(count: int = HEIGHT) -> bytes:
    return b"".join(b"\0" + NOISE[row, :, :3].tobytes() for row in range(count))


@pytest.mark.parametrize("mode", ["RGB", "RGBA"])
@pytest.mark.parametrize("options", [{}, {"compress_level": 1}, {"optimize": True}, {"dpi": (72, 72), "exif": b"x"}])
def test_a_plain_png_is_read_as_pillow_reads_it(mode, options):
    levels = plain_levels(io.BytesIO(png(mode, **options)))
    assert levels is not None
    assert (levels == np.asarray(Image.fromarray(NOISE).convert(mode))).all()


def test_what_is_not_plain_is_left_to_pillow():
    frames = png(save_all=True, append_images=[Image.fromarray(NOISE[::-1, :, :3])])
    behind = png()[:-12] + chunk(b"tEXt", b"a\0b") + png()[-12:]
    others = [png("L"), png("LA"), png("P"), png("1"), png(transparency=(1, 2, 3)), frames, behind]
    deep = io.BytesIO()
    Image.fromarray(NOISE[..., 0].astype(np.uint16)).save(deep, "PNG")
    jpeg = io.BytesIO()
    Image.fromarray(NOISE[..., :3]).save(jpeg, "JPEG")
    interlaced = bytearray(png())
    interlaced[28] = 1
    interlaced[29:33] = struct.pack(">I", zlib.crc32(interlaced[12:29]))
    for data in (*others, deep.getvalue(), jpeg.getvalue(), bytes(interlaced), b"", png()[:20], png()[:50]):
        assert plain_levels(io.BytesIO(data)) is None


@pytest.mark.parametrize(
    "stream",
    [
        zlib.compress(rows(HEIGHT // 2)),
        zlib.compress(rows())[:-300],
        zlib.compress(rows())[:-4] + b"abcd",
        zlib.compress(b"\x07" + rows()[1:]),
        b"",
    ],
    ids=["half the rows", "cut off", "a wrong sum", "no such filter", "nothing"],
)
def test_pixels_that_are_not_whole_are_left_to_pillow(stream):
    assert plain_levels(io.BytesIO(with_stream(zlib.compress(rows())))) is not None
    assert plain_levels(io.BytesIO(with_stream(stream))) is None


@settings(deadline=None, max_examples=200)
@given(st.data())
def test_no_damaged_file_shows_other_pixels(data):
    mode = data.draw(st.sampled_from(["RGB", "RGBA"]))
    damaged = bytearray(png(mode))
    for place in data.draw(st.lists(st.integers(8, len(damaged) - 1), min_size=1, max_size=3)):
        damaged[place] ^= data.draw(st.integers(1, 255))
    levels = plain_levels(io.BytesIO(damaged))
    if levels is not None:
        with suppress(NotAPictureError):  # for damaged metadata
            assert open_whole(bytes(damaged))[0].width == WIDTH
        assert (levels == np.asarray(Image.fromarray(NOISE).convert(mode))).all()
