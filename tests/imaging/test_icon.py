from __future__ import annotations

import numpy as np
import pytest
from PIL import Image

from airflow_provider_bgai.imaging.icon import with_icon
from airflow_provider_bgai.imaging.renditions import RenditionError, render, renditions_of

CORNERS = {"top-left": (0, 0), "top-right": (0, 1), "bottom-left": (1, 0), "bottom-right": (1, 1)}


def changed(size: tuple[int, int], colour: int, corner: str) -> tuple[np.ndarray, np.ndarray]:
    """Where the icon is, and the picture with it."""
    before = Image.new("RGB", size, (colour,) * 3)
    after = np.asarray(with_icon(before, corner))  # type: ignore[arg-type]
    return (after != np.asarray(before)).any(axis=2), after


@pytest.mark.parametrize("corner", CORNERS)
def test_it_lies_in_its_corner_and_nothing_else_changes(corner):
    mask, _ = changed((400, 300), 128, corner)
    rows, columns = np.nonzero(mask)
    low, right = CORNERS[corner]
    assert (rows.mean() > 150, columns.mean() > 200) == (bool(low), bool(right))
    assert (rows.max() - rows.min() + 1, columns.max() - columns.min() + 1) == (21, 29)
    assert rows.min() >= 7
    assert rows.max() <= 292


@pytest.mark.parametrize("colour", [0, 17, 128, 255])
@pytest.mark.parametrize("side", [100, 1200])
def test_it_reads_on_light_and_on_dark_and_in_a_thumbnail(side, colour):
    mask, after = changed((side, side), colour, "bottom-right")
    rows, columns = np.nonzero(mask)
    icon = after[rows.min() : rows.max() + 1, columns.min() : columns.max() + 1].mean(axis=2)
    assert icon.shape[0] >= 16
    # Ink on a plate, whatever lies under it.
    assert (icon < 40).mean() > 0.3
    assert (icon > 215).mean() > 0.1


@pytest.mark.parametrize("size", [(1, 1), (2, 40), (30, 9)])
def test_it_fits_into_the_smallest_picture(size):
    assert with_icon(Image.new("RGB", size), "top-left").size == size


def test_a_rendition_has_it_where_it_is_asked_for():
    picture = Image.new("RGB", (600, 600), "white")
    plain, marked = (
        render(picture, renditions_of({"card": {"width": 100, "height": 100, "format": "png", **more}})["card"])
        for more in ({}, {"icon": "top-left"})
    )
    assert plain.data != marked.data
    with pytest.raises(RenditionError, match="icon is not for of='cutout'"):
        renditions_of({"card": {"of": "cutout", "icon": "top-left"}})
