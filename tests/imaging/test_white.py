"""White backgrounds are white to the last digit in the decoded file, and the product is still what it was."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from PIL import Image

from airflow_provider_bgai.imaging.renditions import render, renditions_of
from tests.imaging.rendered import SAMPLES, WHITE_BOX, decoded, disc


@pytest.mark.parametrize("path", SAMPLES, ids=lambda path: path.stem)
def test_the_amazon_main_picture_is_white_and_full(path):
    described = renditions_of({"amazon_main": {"upscale": 6, "width": 700, "height": 700}})["amazon_main"]
    cutout = Image.open(path)
    made = render(cutout, described)
    assert made.content_type == "image/jpeg"
    assert (made.width, made.height) == (700, 700)
    pixels = np.asarray(decoded(made))
    # The same layout without loss says which pixels are the product's.
    sheet = render(cutout, described.model_copy(update={"format": "png", "quality": None, "background": "#FF00FF"}))
    outside = (np.asarray(decoded(sheet)) == (255, 0, 255)).all(-1)
    assert (pixels[outside] == 255).all()
    rows, columns = np.flatnonzero((~outside).any(1)), np.flatnonzero((~outside).any(0))
    assert max(np.ptp(rows) + 1, np.ptp(columns) + 1) / 700 >= 0.85
    # The product is still what it was.
    plain = render(cutout, described.model_copy(update={"format": "png", "quality": None}))
    difference = np.abs(pixels.astype(int) - np.asarray(decoded(plain)))[~outside]
    assert difference.mean() < 3
    assert (difference.max(-1) > 40).mean() < 0.01


@settings(max_examples=25, deadline=None)
@given(
    st.tuples(st.integers(3, 300), st.integers(3, 300)),
    st.integers(0, 0xFFFFFF),
    st.integers(40, 100),
    st.integers(0, 2**32 - 1),
)
def test_white_is_white_around_any_product(size, colour, quality, seed):
    noise = np.random.default_rng(seed).integers(0, 256, (size[1], size[0], 3), dtype=np.uint8)
    product = disc(size, f"#{colour:06x}")
    assume(np.asarray(product.getchannel("A")).min() < 255)
    textured = Image.blend(product.convert("RGB"), Image.fromarray(noise), 0.3)
    textured.putalpha(product.getchannel("A"))
    described = WHITE_BOX.model_copy(update={"width": 160, "height": 160, "quality": quality})
    white = np.asarray(decoded(render(textured, described)))
    lossless = described.model_copy(update={"format": "png", "quality": None})
    coloured = [
        np.asarray(decoded(render(textured, lossless.model_copy(update={"background": background}))))
        for background in ("#FF00FF", "#00FF00")
    ]
    outside = (coloured[0] == (255, 0, 255)).all(-1) & (coloured[1] == (0, 255, 0)).all(-1)
    assert outside.any()
    assert (white[outside] == 255).all()
