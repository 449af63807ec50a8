"""A picture continued beyond its edges: no seam, no second product, and itself unchanged."""

from __future__ import annotations

import numpy as np
import pytest
from PIL import Image, ImageDraw

from airflow_provider_bgai.imaging.renditions import Rendition, render
from tests.imaging.rendered import decoded, scene


@pytest.mark.parametrize("name", ["electric-guitar", "paper-bag", "electric-kettle"])
@pytest.mark.parametrize("frame", [(400, 200), (200, 400)])
def test_extending_shows_no_seam_and_leaves_the_picture_alone(name, frame):
    picture = scene(name).resize((200, 200))
    pixels = np.asarray(
        decoded(render(picture, Rendition(width=frame[0], height=frame[1], fit="extend", format="png")))
    ).astype(int)
    if frame[0] < frame[1]:
        pixels = pixels.swapaxes(0, 1)
        picture = picture.transpose(Image.Transpose.TRANSPOSE)
    assert (pixels[:, 100:300] == np.asarray(picture)).all()
    steps = np.abs(np.diff(pixels, axis=1))
    for seam in (100, 300):
        assert steps[:, seam - 1].mean() < 4
    assert steps[:, [*range(95), *range(304, 399)]].mean() < 1


def test_extending_makes_no_second_product():
    """What touches the edge does not go on to the frame's end."""
    picture = Image.new("RGB", (300, 300), "#D0D0D0")
    ImageDraw.Draw(picture).rectangle((0, 120, 300, 180), fill="#A00000")
    made = decoded(render(picture, Rendition(width=900, height=300, fit="extend", format="png")))
    far = np.asarray(made)[:, [*range(200), *range(700, 900)]].astype(int)
    assert np.abs(far - 0xD0).max() < 8


def test_extending_keeps_the_line_of_the_floor():
    picture = Image.new("RGB", (300, 300), "#E0E0F0")
    ImageDraw.Draw(picture).rectangle((0, 200, 300, 300), fill="#604020")
    made = np.asarray(decoded(render(picture, Rendition(width=900, height=300, fit="extend", format="png"))))
    assert np.abs(made[:180, 0].astype(int) - (0xE0, 0xE0, 0xF0)).max() < 4
    assert np.abs(made[220:, 0].astype(int) - (0x60, 0x40, 0x20)).max() < 4
