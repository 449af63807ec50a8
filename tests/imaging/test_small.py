"""Pictures made small."""

from __future__ import annotations

import numpy as np
import pytest
from PIL import Image

from airflow_provider_bgai.imaging.small import halved, reduced, sketch
from tests.imaging.cutouts import product, scene


def test_a_sketch_of_levels_is_that_of_the_picture():
    for picture in (product().resize((900, 700)), scene(product()).resize((900, 700))):
        sketches = (Image.fromarray(sketch(each)).convert("RGBA") for each in (picture, np.asarray(picture)))
        one, other = (each.resize((90, 70), Image.Resampling.BOX) for each in sketches)
        assert np.abs(np.asarray(one).astype(int) - np.asarray(other)).mean() < 1


def test_what_is_transparent_does_not_bleed_into_a_sketch_of_levels():
    levels = np.zeros((700, 700, 4), np.uint8)
    levels[:, 351:] = (200, 0, 0, 255)
    levels[:, :351, 1] = 255  # a green that nobody sees
    seen = sketch(levels)
    assert seen[..., 1][seen[..., 3] > 0].max() <= 1


def test_halves_are_means_and_what_is_left_over_is_dropped():
    levels = np.arange(35, dtype=np.uint8).reshape(5, 7)
    assert halved(levels, 1).tolist() == [[4, 6, 8], [18, 20, 22]]
    assert halved(levels, 0) is levels


@pytest.mark.parametrize("size", [(700, 500), (1500, 1100)])
def test_a_picture_is_reduced_the_same_in_one_strip_as_in_many(monkeypatch, size):
    picture = scene(product()).resize(size)
    whole = reduced(picture, 3)
    monkeypatch.setattr("airflow_provider_bgai.imaging.small._STRIP", 1)
    assert reduced(picture, 3).tobytes() == whole.tobytes()
