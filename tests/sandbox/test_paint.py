from __future__ import annotations

import io
import time

import numpy as np
import pytest
from PIL import Image

from airflow_provider_bgai.sandbox import paint

from .conftest import cut_out


def pixels(content: bytes) -> np.ndarray:
    return np.asarray(Image.open(io.BytesIO(content)).convert("RGB"), dtype=int)


def test_opaque_pixels_are_untouched():
    source = cut_out((600, 500))
    product = np.asarray(Image.open(io.BytesIO(source)))
    opaque = product[..., 3] == 255
    assert (pixels(paint.paint(source, "a beach", 1, 0))[opaque] == product[..., :3][opaque]).all()


def test_one_wish_gives_one_picture():
    source = cut_out()
    wishes = [("beach", 1, 0), ("beach", 1, 1), ("beach", 2, 0), ("forest", 1, 0), ("anything", 1, 0)]
    first = [paint.paint(source, *wish) for wish in wishes]
    assert [paint.paint(source, *wish) for wish in wishes] == first
    assert len(set(first)) == len(wishes)


@pytest.mark.parametrize("name", [*paint.SCENES, *paint.WORDS])
def test_every_scene_has_a_wall_and_a_table(name: str):
    picture = pixels(paint.paint(cut_out(), f"on {name}", 1, 0))
    assert np.abs(picture[5].mean(axis=0) - picture[-5].mean(axis=0)).max() > 3


def test_the_result_is_scaled_down_and_keeps_its_aspect():
    result = Image.open(io.BytesIO(paint.paint(cut_out((2000, 1000)), "beach", 1, 0, max_side=1024)))
    assert (result.size, result.format) == ((1024, 512), "PNG")
    assert Image.open(io.BytesIO(paint.paint(cut_out((300, 280)), "x", 1, 0, max_side=1024))).size == (
        300,
        280,
    )


@pytest.mark.parametrize("mode", ["RGB", "L", "P", "LA", "1"])
def test_any_mode_is_read(mode: str):
    assert pixels(paint.paint(cut_out(mode=mode), "beach", 1, 0)).shape == (280, 300, 3)


def test_an_opaque_picture_loses_its_plain_ground():
    product = paint.cut_out(cut_out(mode="RGB"))
    assert product.getchannel("A").getpixel((0, 0)) == 0
    assert product.getchannel("A").getpixel((150, 140)) == 255
    assert paint.cut_out(cut_out(mode="RGB"), keep_all=True).getchannel("A").getextrema() == (255, 255)


@pytest.mark.parametrize("prompt", ["#1 gift", "#", "", "ein Strand, 海滩", "x" * 5000])
def test_any_prompt_is_painted(prompt: str):
    assert pixels(paint.paint(cut_out(), prompt, 1, 0)).shape == (280, 300, 3)


def test_an_empty_picture_is_painted_too():
    empty = io.BytesIO()
    Image.new("RGBA", (256, 256)).save(empty, "PNG")
    assert pixels(paint.paint(empty.getvalue(), "beach", 1, 0)).shape == (256, 256, 3)


def test_the_bomb_is_small_and_declares_160_megapixels():
    assert len(paint.bomb()) < 100_000
    Image.MAX_IMAGE_PIXELS, kept = None, Image.MAX_IMAGE_PIXELS
    try:
        assert Image.open(io.BytesIO(paint.bomb())).size == (10_000, 16_000)
    finally:
        Image.MAX_IMAGE_PIXELS = kept


def test_a_picture_is_painted_fast():
    source = cut_out((1024, 1024))
    paint.paint(source, "beach", 1, 0)
    started = time.perf_counter()
    for index in range(5):
        paint.paint(source, "beach", 1, index)
    assert (time.perf_counter() - started) / 5 < 0.3  # about 0.03 s on an idle machine
