from __future__ import annotations

import json

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image, ImageChops, ImageDraw, ImageEnhance, ImageFilter

from airflow_provider_bgai.imaging.fidelity import Placement, compare, opaque
from airflow_provider_bgai.sandbox import paint
from tests.imaging.cutouts import CATALOGUE, PRODUCTS, box_of, jpeg, made, moved, product, scene

SAME = Placement(0.0, 0.0, 1.0, 1.0)


@pytest.mark.parametrize("name", PRODUCTS)
def test_a_product_pasted_on_a_scene_is_faithful_where_it_was(name):
    source = product(name)
    verdict = compare(source, scene(source))
    assert verdict.faithful, verdict.reasons
    assert verdict.placement == SAME
    assert verdict.psnr is not None
    assert verdict.psnr > 45  # what is almost opaque lets a little of the scene through
    assert verdict.altered == 0.0


@settings(max_examples=25, deadline=None)
@given(seed=st.integers(0, 2**32 - 1), quality=st.integers(75, 95))
def test_any_product_is_faithful_to_itself_and_after_encoding(seed, quality):
    source = made(seed)
    result = scene(source, seed)
    assert compare(source, result).placement == SAME
    verdict = compare(source, jpeg(result, quality))
    assert verdict.faithful, verdict.reasons
    assert verdict.placement == SAME


@settings(max_examples=12, deadline=None)
@given(seed=st.integers(0, 1000), x=st.integers(-16, 60), y=st.integers(-12, 70))
def test_a_move_by_whole_pixels_is_found_exactly(seed, x, y):
    source = made(seed)
    verdict = compare(source, moved(source, (220, 190), x, y, seed))
    assert verdict.faithful, verdict.reasons
    assert verdict.placement == Placement(x, y, 1.0, 1.0)


@pytest.mark.parametrize("name", PRODUCTS)
def test_a_canvas_scaled_down_is_faithful(name):
    source = product(name)
    size = (round(source.width * 0.6), round(source.height * 0.6))
    result = scene(source).resize(size, Image.Resampling.LANCZOS)
    verdict = compare(source, jpeg(result, 85))
    assert verdict.faithful, verdict.reasons
    assert verdict.placement is not None
    assert verdict.placement.scale_x == pytest.approx(0.6, abs=0.005)


@pytest.mark.parametrize("name", ["paper-bag", "tennis-shoe", "city-bicycle", "desk-telephone"])
@pytest.mark.parametrize("scale", [0.45, 0.8, 1.3])
def test_a_product_scaled_and_moved_on_another_canvas_is_found(name, scale):
    source = product(name)
    subject = paint.scaled(source.crop(box_of(source)), scale)
    canvas = (subject.width + 240, subject.height + 90)
    verdict = compare(source, moved(subject, canvas, 130, 20))
    assert verdict.faithful, verdict.reasons
    placement = verdict.placement
    assert placement is not None
    left, top = box_of(source)[:2]
    assert placement.scale_x == pytest.approx(scale, rel=0.01)
    assert placement.x + left * placement.scale_x == pytest.approx(130, abs=1.5)
    assert placement.y + top * placement.scale_y == pytest.approx(20, abs=1.5)


def test_a_true_hint_is_used_and_a_false_one_does_no_harm():
    source = product()
    subject = paint.scaled(source.crop(box_of(source)), 0.5)
    result = moved(subject, (600, 300), 400, 60)
    told = (400, 60, subject.width, subject.height)
    verdicts = [compare(source, result, hint=hint) for hint in (told, None, (0, 0, 90, 90), (-5, 900, 0, -3))]
    assert all(verdict.faithful for verdict in verdicts)
    for verdict in verdicts:
        assert verdict.placement is not None
        assert verdict.placement.scale_x == pytest.approx(0.5, rel=0.01)


@pytest.mark.parametrize("light", [0.95, 1.05])
def test_a_little_light_and_sharpening_are_allowed_and_told(light):
    source = product("tennis-shoe")
    result = ImageEnhance.Brightness(scene(source)).enhance(light).filter(ImageFilter.UnsharpMask(1, 40, 0))
    verdict = compare(source, jpeg(result))
    assert verdict.faithful, verdict.reasons
    assert verdict.light == pytest.approx(light - 1, abs=0.02)
    assert verdict.sharpness is not None
    assert verdict.sharpness > 1.05


def test_much_light_is_not():
    source = product("tennis-shoe")
    verdict = compare(source, ImageEnhance.Brightness(scene(source)).enhance(0.8))
    assert not verdict.faithful
    assert "darker" in " ".join(verdict.reasons)


@pytest.mark.parametrize("name", ["desk-telephone", "toy-xylophone", "electric-guitar", "suitcase-set"])
def test_a_blurred_part_is_caught(name):
    source = product(name)
    left, top, right, bottom = box_of(source)
    across, down = (right - left) // 3, (bottom - top) // 3
    box = (left + across, top + down, right - across, bottom - down)
    changed = source.copy()
    part = changed.crop(box).convert("RGB").filter(ImageFilter.GaussianBlur(3))
    changed.paste(part, box[:2])
    changed.putalpha(source.getchannel("A"))
    verdict = compare(source, jpeg(scene(changed), 90))
    assert not verdict.faithful
    assert verdict.altered is not None
    assert 0.003 < verdict.altered < 0.3
    assert "looks altered" in " ".join(verdict.reasons)


@pytest.mark.parametrize("gains", [(1.03, 1.0, 0.97), (0.97, 1.0, 1.03), (1.0, 0.97, 1.03)])
@pytest.mark.parametrize("name", ["paper-bag", "electric-kettle", "toy-xylophone"])
def test_a_warmer_or_cooler_light_is_allowed(name, gains):
    source = product(name)
    lit = Image.merge(
        "RGB",
        [
            channel.point([min(255, round(level * gain)) for level in range(256)])
            for channel, gain in zip(scene(source).split(), gains, strict=True)
        ],
    )
    verdict = compare(source, lit)
    assert verdict.faithful, verdict.reasons


@pytest.mark.parametrize("green", [0.98, 0.97])
def test_light_that_makes_white_a_little_darker_in_one_channel_is_allowed(green):
    source = Image.new("RGBA", (400, 300))
    draw = ImageDraw.Draw(source)
    draw.rectangle((30, 30, 370, 270), (255, 255, 255, 255))
    draw.ellipse((150, 100, 250, 200), (215, 120, 0, 255))
    gains = (1.02, green, 1.026)
    levels = np.asarray(scene(source)) * np.array(gains) + 0.5
    verdict = compare(source, Image.fromarray(np.clip(levels, 0, 255).astype(np.uint8)))
    assert verdict.faithful, verdict.reasons
    assert verdict.delta_e is not None
    assert verdict.delta_e < 2


@pytest.mark.parametrize("radius", [1.0, 2.0])
@pytest.mark.parametrize("name", ["paper-bag", "city-bicycle", "violin-pair"])
def test_a_rim_feathered_anew_is_allowed(name, radius):
    source = product(name)
    soft = source.copy()
    soft.putalpha(
        ImageChops.darker(source.getchannel("A"), source.getchannel("A").filter(ImageFilter.GaussianBlur(radius)))
    )
    verdict = compare(source, scene(soft))
    assert verdict.faithful, verdict.reasons


@pytest.mark.parametrize("name", ["electric-kettle", "toy-xylophone", "suitcase-set"])
def test_a_hue_turned_by_eight_degrees_is_caught(name):
    source = product(name)
    hue, saturation, value = source.convert("RGB").convert("HSV").split()
    turned = Image.merge("HSV", (hue.point(lambda level: (level + 6) % 256), saturation, value)).convert("RGB")
    turned.putalpha(source.getchannel("A"))
    assert not compare(source, scene(turned)).faithful


def test_a_hue_is_told_in_degrees():
    source = product("electric-kettle")
    hue, saturation, value = source.convert("RGB").convert("HSV").split()
    turned = Image.merge("HSV", (hue.point(lambda level: (level + 9) % 256), saturation, value)).convert("RGB")
    turned.putalpha(source.getchannel("A"))
    verdict = compare(source, jpeg(scene(turned), 90))
    assert not verdict.faithful
    assert "hues are turned" in " ".join(verdict.reasons)


@pytest.mark.parametrize("factor", [0.94, 1.05])
def test_proportions_are_told(factor):
    source = product("toy-xylophone")
    result = scene(source).resize((round(source.width * factor), source.height), Image.Resampling.BICUBIC)
    verdict = compare(source, result)
    assert not verdict.faithful
    assert verdict.stretch == pytest.approx(factor - 1, abs=0.01)
    assert "width to height" in " ".join(verdict.reasons)


def test_a_product_half_out_of_the_frame_is_caught():
    source = product("toy-xylophone")
    verdict = compare(source, moved(source, (560, 480), 60, 0))
    assert not verdict.faithful
    assert verdict.placement is not None
    assert verdict.placement.x == pytest.approx(60, abs=0.5)
    assert "in the frame" in " ".join(verdict.reasons)


def test_another_product_is_caught():
    source, other = product("tennis-shoe"), product("tennis-shoes-pair")
    assert not compare(source, scene(other)).faithful


@pytest.mark.parametrize("colour", ["white", "black", "#808080"])
@pytest.mark.parametrize("name", ["paper-bag", "violin-pair", "porcelain-teapot"])
def test_a_blank_result_is_unfaithful(name, colour):
    source = product(name)
    assert not compare(source, Image.new("RGB", source.size, colour)).faithful
    assert not compare(source, Image.new("RGB", (300, 90), colour)).faithful


def test_a_result_that_shows_nothing_at_all_is_unfaithful():
    source = product()
    assert not compare(source, Image.new("RGBA", source.size)).faithful


def test_the_unchanged_source_is_faithful():
    source = product()
    assert compare(source, source).placement == SAME
    assert compare(source, source).faithful


def test_a_plain_disc_is_found_by_its_outline():
    source = Image.new("RGBA", (200, 200))
    ImageDraw.Draw(source).ellipse((20, 20, 180, 180), (200, 30, 40, 255))
    result = moved(source.crop((20, 20, 181, 181)), (420, 300), 222, 90)
    verdict = compare(source, result)
    assert verdict.faithful, verdict.reasons
    assert verdict.placement is not None
    assert verdict.placement.x == pytest.approx(202, abs=3)
    assert verdict.placement.scale_x == pytest.approx(1, abs=0.03)


@pytest.mark.parametrize("size", [(64, 48), (48, 64), (300, 64)])
def test_a_tiny_product_and_one_that_fills_the_frame(size):
    tiny = made(3, size)
    assert compare(tiny, jpeg(scene(tiny), 85)).faithful
    full = made(3, size)
    full = full.crop(box_of(full))
    opaque = Image.new("RGBA", full.size, (90, 120, 40, 255))
    opaque.alpha_composite(full)
    assert compare(opaque, jpeg(opaque.convert("RGB"), 85)).faithful
    assert compare(opaque, moved(opaque, (400, 400), 31, 77)).placement == Placement(31, 77, 1.0, 1.0)


@settings(max_examples=20, deadline=None)
@given(
    source_size=st.tuples(st.integers(16, 90), st.integers(16, 90)),
    result_size=st.tuples(st.integers(1, 120), st.integers(1, 120)),
    mode=st.sampled_from(["RGB", "RGBA", "L", "LA", "P", "1", "CMYK", "I;16"]),
    hint=st.none() | st.tuples(*[st.integers(-200, 200)] * 4),
    seed=st.integers(0, 100),
)
def test_whatever_is_given_there_is_a_verdict(source_size, result_size, mode, hint, seed):
    random = np.random.default_rng(seed)
    source = Image.fromarray(random.integers(0, 256, (*source_size[::-1], 4), dtype=np.uint8), "RGBA")
    source.paste((10, 200, 30, 255), (2, 2, 14, 14))
    noise = random.integers(0, 256, (*result_size[::-1], 3), dtype=np.uint8)
    result = Image.fromarray(noise, "RGB").convert("L" if mode == "I;16" else mode).convert(mode)
    verdict = compare(source, result, hint=hint)
    assert verdict.faithful is not bool(verdict.reasons)
    json.dumps(verdict.as_dict(), allow_nan=False)


@pytest.mark.parametrize(
    ("source", "says"),
    [
        (Image.new("RGB", (50, 50)), "not RGBA"),
        (Image.new("RGBA", (50, 50)), "too few"),
        (Image.new("RGBA", (50, 50), (1, 2, 3, 200)), "too few"),
    ],
)
def test_a_source_without_an_opaque_product_is_refused(source, says):
    with pytest.raises(ValueError, match=says):
        compare(source, Image.new("RGB", (50, 50)))


def test_one_level_in_one_pixel_is_no_longer_the_same_and_still_faithful():
    source = Image.open(CATALOGUE / "porcelain-teapot.png").convert("RGBA")
    result = Image.new("RGB", source.size, (90, 120, 200))
    result.paste(source, mask=source)
    same = compare(source, result)
    assert (same.faithful, same.psnr, same.altered) == (True, 60.0, 0.0)
    opaque = np.argwhere(np.asarray(source)[..., 3] == 255)
    y, x = (int(side) for side in opaque[len(opaque) // 2])
    pixel = result.getpixel((x, y))
    assert isinstance(pixel, tuple)
    red, green, blue = pixel
    result.putpixel((x, y), (red ^ 1, green, blue))
    other = compare(source, result)
    assert other.faithful
    assert other.coverage == 1.0


def test_a_product_that_is_nowhere_fully_opaque_is_still_compared():
    source = Image.open(CATALOGUE / "porcelain-teapot.png").convert("RGBA")
    source.putalpha(source.getchannel("A").point([min(level, 253) for level in range(256)]))
    result = Image.new("RGB", source.size, (90, 120, 200))
    assert not compare(source, result).faithful
    ImageDraw.Draw(result).rectangle((0, 0, 5, 5), "red")  # so that it is not blank
    assert not compare(source, result).faithful


def test_levels_serve_as_well_as_pictures():
    source = product()
    result = jpeg(scene(source), 85)
    assert compare(np.asarray(source), opaque(result)) == compare(source, result)
    with pytest.raises(ValueError, match="is RGB, not RGBA"):
        compare(np.asarray(result), result)
