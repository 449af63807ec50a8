from __future__ import annotations

import io
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image, ImageDraw, ImageFilter

from airflow_provider_bgai.imaging.fidelity import Placement, compare
from airflow_provider_bgai.imaging.paste import paste_back, pasted_unseen
from airflow_provider_bgai.sandbox import paint
from tests.imaging.cutouts import box_of, made, moved, product


@settings(max_examples=40, deadline=None)
@given(seed=st.integers(0, 1000), x=st.integers(-100, 150), y=st.integers(-100, 150), has_alpha=st.booleans())
def test_opaque_pixels_pasted_back_are_bit_true(seed, x, y, has_alpha):
    source = made(seed)
    result = Image.new("RGBA" if has_alpha else "RGB", (160, 160), (9, 99, 199))
    pasted = paste_back(source, result, Placement(x, y, 1.0, 1.0))
    assert pasted.mode == result.mode
    opaque = source.getchannel("A").point(lambda value: 255 * (value == 255))
    expected = result.convert("RGB")
    expected.paste(source.convert("RGB"), (x, y), opaque)
    where = Image.new("L", result.size)
    where.paste(opaque, (x, y))
    kept = np.asarray(where) > 0
    np.testing.assert_array_equal(np.asarray(pasted.convert("RGB"))[kept], np.asarray(expected)[kept])
    untouched = Image.new("L", result.size, 255)
    untouched.paste(0, (x, y, x + source.width, y + source.height))
    outside = np.asarray(untouched) > 0
    np.testing.assert_array_equal(np.asarray(pasted)[outside], np.asarray(result)[outside])


@settings(max_examples=25, deadline=None)
@given(x=st.floats(-20, 60), y=st.floats(-20, 60), scale=st.floats(0.3, 2.5))
def test_no_halo(x, y, scale):
    """The colour under transparent pixels never shows: red on white stays between red and white."""
    disc = Image.new("L", (400, 400))
    ImageDraw.Draw(disc).ellipse((40, 40, 360, 360), 255)
    source = Image.new("RGBA", (100, 100), (0, 255, 0, 0))
    source.paste((255, 0, 0), (0, 0, 100, 100), disc.resize((100, 100)))
    clean = np.asarray(source).copy()
    clean[clean[..., 3] > 0, :3] = (255, 0, 0)
    source = Image.fromarray(clean, "RGBA")
    result = Image.new("RGB", (200, 200), "white")
    red, green, blue = np.moveaxis(np.asarray(paste_back(source, result, Placement(x, y, scale, scale)), int), -1, 0)
    assert red.min() >= 253
    assert np.abs(green - blue).max() <= 2
    assert green.min() <= 3


def test_pasting_back_repairs_what_a_vendor_blurred():
    source = product("toy-xylophone")
    subject = paint.scaled(source.crop(box_of(source)), 0.7)
    result = moved(subject, (600, 500), 90, 60)
    left, top = box_of(source)[:2]
    blurred = result.copy()
    blurred.paste(result.crop((200, 150, 300, 260)).filter(ImageFilter.GaussianBlur(3)), (200, 150))
    verdict = compare(source, blurred)
    assert not verdict.faithful
    assert verdict.placement is not None
    assert verdict.placement.x == pytest.approx(90 - left * 0.7, abs=1)
    assert verdict.placement.y == pytest.approx(60 - top * 0.7, abs=1)
    assert compare(source, paste_back(source, blurred, verdict.placement)).faithful


def test_a_place_outside_the_result_is_refused():
    with pytest.raises(ValueError, match="outside"):
        paste_back(made(1), Image.new("RGB", (100, 100)), Placement(200, 0, 1, 1))


def test_glass_is_as_thin_as_before():
    """Through it shows what the vendor painted; only opaque pixels are pasted."""
    source = product("glass-tea-mug")
    result = paint.compose(source, sorted(paint.SCENES)[0], 3, 0).convert("RGB")
    pasted = paste_back(source, result, Placement(0, 0, 1, 1))
    alpha = np.asarray(source.getchannel("A"))
    before, after, own = (np.asarray(each.convert("RGB")) for each in (result, pasted, source))
    assert (alpha[(alpha > 16) & (alpha < 250)]).size > 50_000
    np.testing.assert_array_equal(after[alpha < 250], before[alpha < 250])
    np.testing.assert_array_equal(after[alpha == 255], own[alpha == 255])


def seen(name: str, *, light: float = 1, warmth: float = 0, scale: float = 1.0, quality: int | None = 88):
    """A product as a vendor would show it, and what the comparison says of it."""
    source = product(name)
    relit = np.asarray(source.convert("RGB"), float) * light * (1 + warmth, 1, 1 - warmth)
    own = Image.fromarray(relit.clip(0, 255).astype(np.uint8))
    own.putalpha(source.getchannel("A"))
    result = Image.linear_gradient("L").resize(source.size).convert("RGB")
    result.paste(own, mask=own)
    if scale != 1:
        result = result.resize((round(result.width * scale), round(result.height * scale)), Image.Resampling.LANCZOS)
    if quality is not None:
        file = io.BytesIO()
        result.save(file, "JPEG", quality=quality)
        result = Image.open(file)
    return source, result, compare(source, result)


@pytest.mark.parametrize("name", ["desk-telephone", "tennis-shoe", "glass-tea-mug", "toy-xylophone"])
@pytest.mark.parametrize(
    ("changed", "unseen"),
    [
        ({}, True),
        ({"scale": 0.8}, True),
        ({"quality": None}, False),  # it is the product's own pixels already
        ({"light": 1.04}, False),
        ({"light": 0.95}, False),
        ({"scale": 1.5}, False),
    ],
    ids=str,
)
def test_pasted_where_nobody_sees_it_and_something_is_gained(name, changed, unseen):
    source, result, verdict = seen(name, **changed)
    assert verdict.faithful
    assert pasted_unseen(verdict) is unseen
    if unseen:
        assert verdict.placement is not None
        pasted = paste_back(source, result, verdict.placement)
        before, after = (np.asarray(each.convert("RGB").resize((64, 64)), float) for each in (result, pasted))
        assert 0 < np.abs(before - after).mean() <= 0.6  # of 255: no step that an eye finds


@pytest.mark.parametrize("name", ["desk-telephone", "tennis-shoe"])
def test_a_product_in_a_warmer_light_stays_in_it(name):
    assert not pasted_unseen(seen(name, warmth=0.03)[2])


def test_an_unfaithful_picture_is_not_mended_unasked():
    verdict = seen("toy-xylophone")[2]
    assert pasted_unseen(verdict)
    assert not pasted_unseen(replace(verdict, faithful=False))
    assert not pasted_unseen(replace(verdict, placement=None))
    assert not pasted_unseen(replace(verdict, psnr=29.0))
