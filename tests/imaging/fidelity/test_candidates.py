"""The cheap look for copies: what the spectra sum is what a sum px by px is."""

from __future__ import annotations

import numpy as np
import pytest

from airflow_provider_bgai.imaging.fidelity.candidates import SEEN, _Places, _Scene


def _by_definition(colours: np.ndarray, visible: np.ndarray, own: np.ndarray, solid: np.ndarray, y: int, x: int):
    """The correlation of what is seen of a template with its middle at one px, each channel less its mean there."""
    height, width = solid.shape
    top, left = y - height // 2, x - width // 2
    pairs = [
        (colours[top + row, left + column], own[row, column])
        for row, column in np.argwhere(solid > 0)
        if 0 <= top + row < visible.shape[0]
        and 0 <= left + column < visible.shape[1]
        and visible[top + row, left + column]
    ]
    if len(pairs) <= SEEN * np.count_nonzero(solid):
        return -1.0
    seen, known = (np.array(each) - np.mean(each, 0) for each in zip(*pairs, strict=True))
    return float((seen * known).sum() / np.sqrt((seen**2).sum() * (known**2).sum()))


@pytest.mark.parametrize("size", [(12, 9), (9, 12), (40, 31)])
def test_templates_correlate_with_what_can_be_seen_as_a_sum_px_by_px_says(size: tuple[int, int]) -> None:
    random = np.random.default_rng(7)
    colours = random.uniform(0, 100, (33, 46, 3)).astype(np.float32)
    visible = np.ones((33, 46), np.float32)
    visible[10:20, 15:30] = 0
    own = random.uniform(0, 100, (*size, 3)).astype(np.float32)
    solid = (random.uniform(size=size) > 0.3).astype(np.float32)
    where = np.zeros((33, 46), bool)
    where[2:31, 3:44] = True

    score = _Places(_Scene(colours, visible), where, size).correlation(own, solid)

    assert (score[~where] == -1).all()
    for y, x in np.argwhere(where)[::7]:
        assert score[y, x] == pytest.approx(_by_definition(colours, visible, own, solid, y, x), abs=2e-4)
