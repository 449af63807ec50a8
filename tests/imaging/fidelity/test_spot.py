from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from PIL import Image, ImageDraw, ImageEnhance, ImageFilter, ImageFont

from airflow_provider_bgai.imaging.fidelity import Thresholds, compare, spot
from airflow_provider_bgai.sandbox import paint
from tests.imaging.cutouts import jpeg, moved, product, scene

WHERE = (420, 600)  # px of the product: the left upper corner of the label's first character


def labelled(text: str, height: int = 12, name: str = "desk-telephone") -> Image.Image:
    """A product with small print on it, of digits this many px high."""
    source = paint.scaled(product(name), 1.5)
    font = ImageFont.load_default(round(height * 1.4))
    printed = source.copy()
    ImageDraw.Draw(printed).rectangle((400, 580, 540, 640), (225, 220, 200))
    ImageDraw.Draw(printed).text(WHERE, text, (20, 20, 20), font=font)
    printed.putalpha(source.getchannel("A"))
    return printed


@pytest.fixture(scope="module")
def right() -> Image.Image:
    printed = labelled("LOT 2537")
    assert (np.asarray(printed.getchannel("A"))[580:640, 400:540] == 255).all()  # there is a product to print on
    return printed


@pytest.fixture(scope="module")
def wrong() -> Image.Image:
    return labelled("LOT 2587")


@pytest.mark.parametrize("quality", [75, 90])
def test_one_wrong_digit_is_found_and_its_place_told(right, wrong, quality):
    verdict = compare(right, jpeg(scene(wrong), quality))
    assert not verdict.faithful
    assert verdict.altered == 0.0  # no share of the product
    assert verdict.spot is not None
    assert verdict.spot > 2
    assert verdict.spot_x is not None
    assert verdict.spot_y is not None
    assert 420 <= verdict.spot_x <= 520
    assert 595 <= verdict.spot_y <= 625
    assert verdict.reasons[0].startswith(f"a spot at ({verdict.spot_x}, {verdict.spot_y}) differs by")


@pytest.mark.parametrize("quality", [75, 90])
def test_the_right_digits_are_right(right, quality):
    assert compare(right, jpeg(scene(right), quality)).faithful


def test_in_a_result_that_is_scaled_and_moved_too(right, wrong):
    for source, faithful in ((right, True), (wrong, False)):
        subject = paint.scaled(source, 0.8)
        verdict = compare(right, jpeg(moved(subject, (1300, 1500), 101, 53), 85))
        assert verdict.faithful is faithful, verdict


def test_the_limit_can_be_set_aside(right, wrong):
    assert compare(right, jpeg(scene(wrong), 90), thresholds=Thresholds(max_spot=1000)).faithful


def test_where_pictures_agree_the_spot_is_no_more_than_allowed(right):
    verdict = compare(right, ImageEnhance.Brightness(scene(right)).enhance(1.03))
    assert verdict.faithful
    assert verdict.spot is not None
    assert verdict.spot <= Thresholds().max_spot


def test_a_sharpened_picture_needs_no_fit_and_a_wrong_digit_in_it_is_found(monkeypatch, right, wrong):
    """What edges explain is told by a look at the pictures as they lie; only what is beyond it is fitted."""
    fits: list[int] = []

    class Counted(spot._Closely):
        def __init__(self, *given: Any) -> None:
            fits.append(len(given))
            super().__init__(*given)

    monkeypatch.setattr(spot, "_Closely", Counted)
    sharpen = ImageFilter.UnsharpMask(1, 40, 0)
    assert compare(right, scene(right).filter(sharpen)).faithful
    assert fits == []
    assert not compare(right, scene(wrong).filter(sharpen)).faithful
    assert fits


def test_a_large_result_is_looked_at_in_pieces(monkeypatch, right, wrong):
    monkeypatch.setattr(spot, "LONGEST", 300)
    assert compare(right, jpeg(scene(right), 85)).faithful
    verdict = compare(right, jpeg(scene(wrong), 85))
    assert not verdict.faithful
    assert verdict.spot_x == pytest.approx(470, abs=50)


def test_a_part_of_a_picture_is_judged_as_it_is_in_the_whole():
    random = np.random.default_rng(1)
    own = random.integers(60, 190, (200, 300), dtype=np.uint8)
    seen = own + random.integers(0, 6, own.shape, dtype=np.uint8)
    seen[80:86, 200:206] += 60
    solid = np.full_like(own, 255)
    excess, x, y = spot._as_it_lies(own, seen, solid, (190, 70, 206, 95))
    assert (excess, x, y) == spot._as_it_lies(own, seen, solid, (0, 0, 300, 200))
    assert 195 < x < 211
    assert 75 < y < 91


def test_a_glance_tells_in_which_part_spots_are_too_much():
    own = np.full((200, 300), 100, np.uint8)
    seen = own.copy()
    seen[80:86, 200:206] += 60
    (excess, _, _), (left, top, right, bottom) = spot._at_a_glance(seen, own, 2.0)
    assert excess > 2
    assert left <= 200 - spot.GLYPH // 2 < 206 + spot.GLYPH // 2 <= right < left + 60
    assert top <= 80 - spot.GLYPH // 2 < 86 + spot.GLYPH // 2 <= bottom < top + 60
