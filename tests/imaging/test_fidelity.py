from __future__ import annotations

import io
import json
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image, ImageDraw, ImageEnhance, ImageFilter

from airflow_provider_bgai.imaging.fidelity import (
    Placement,
    Thresholds,
    Verdict,
    compare,
    delta_e,
    paste_back,
)
from airflow_provider_bgai.sandbox import paint
from benchmarks import fidelity as benchmark

CATALOGUE = Path(__file__).parents[2] / "demo" / "catalogue" / "images"
PRODUCTS = sorted(each.stem for each in CATALOGUE.glob("*.png"))
SAME = Placement(0.0, 0.0, 1.0, 1.0)

# Sharma, Wu, Dalal, Color Research and Application 30 (2005) 21-30, table 1.
SHARMA = [
    ((50.0, 2.6772, -79.7751), (50.0, 0.0, -82.7485), 2.0425),
    ((50.0, 3.1571, -77.2803), (50.0, 0.0, -82.7485), 2.8615),
    ((50.0, 2.8361, -74.0200), (50.0, 0.0, -82.7485), 3.4412),
    ((50.0, -1.3802, -84.2814), (50.0, 0.0, -82.7485), 1.0000),
    ((50.0, -1.1848, -84.8006), (50.0, 0.0, -82.7485), 1.0000),
    ((50.0, -0.9009, -85.5211), (50.0, 0.0, -82.7485), 1.0000),
    ((50.0, 0.0, 0.0), (50.0, -1.0, 2.0), 2.3669),
    ((50.0, -1.0, 2.0), (50.0, 0.0, 0.0), 2.3669),
    ((50.0, 2.4900, -0.0010), (50.0, -2.4900, 0.0009), 7.1792),
    ((50.0, 2.4900, -0.0010), (50.0, -2.4900, 0.0010), 7.1792),
    ((50.0, 2.4900, -0.0010), (50.0, -2.4900, 0.0011), 7.2195),
    ((50.0, 2.4900, -0.0010), (50.0, -2.4900, 0.0012), 7.2195),
    ((50.0, -0.0010, 2.4900), (50.0, 0.0009, -2.4900), 4.8045),
    ((50.0, -0.0010, 2.4900), (50.0, 0.0010, -2.4900), 4.8045),
    ((50.0, -0.0010, 2.4900), (50.0, 0.0011, -2.4900), 4.7461),
    ((50.0, 2.5, 0.0), (50.0, 0.0, -2.5), 4.3065),
    ((50.0, 2.5, 0.0), (73.0, 25.0, -18.0), 27.1492),
    ((50.0, 2.5, 0.0), (61.0, -5.0, 29.0), 22.8977),
    ((50.0, 2.5, 0.0), (56.0, -27.0, -3.0), 31.9030),
    ((50.0, 2.5, 0.0), (58.0, 24.0, 15.0), 19.4535),
    ((50.0, 2.5, 0.0), (50.0, 3.1736, 0.5854), 1.0000),
    ((50.0, 2.5, 0.0), (50.0, 3.2972, 0.0), 1.0000),
    ((50.0, 2.5, 0.0), (50.0, 1.8634, 0.5757), 1.0000),
    ((50.0, 2.5, 0.0), (50.0, 3.2592, 0.3350), 1.0000),
    ((60.2574, -34.0099, 36.2677), (60.4626, -34.1751, 39.4387), 1.2644),
    ((63.0109, -31.0961, -5.8663), (62.8187, -29.7946, -4.0864), 1.2630),
    ((61.2901, 3.7196, -5.3901), (61.4292, 2.2480, -4.9620), 1.8731),
    ((35.0831, -44.1164, 3.7933), (35.0232, -40.0716, 1.5901), 1.8645),
    ((22.7233, 20.0904, -46.6940), (23.0331, 14.9730, -42.5619), 2.0373),
    ((36.4612, 47.8580, 18.3852), (36.2715, 50.5065, 21.2231), 1.4146),
    ((90.8027, -2.0831, 1.4410), (91.1528, -1.6435, 0.0447), 1.4441),
    ((90.9257, -0.5406, -0.9208), (88.6381, -0.8985, -0.7239), 1.5381),
    ((6.7747, -0.2908, -2.4247), (5.8714, -0.0985, -2.2286), 0.6377),
    ((2.0776, 0.0795, -1.1350), (0.9033, -0.0636, -0.5514), 0.9082),
]


def product(name: str = "paper-bag") -> Image.Image:
    with Image.open(CATALOGUE / f"{name}.png") as picture:
        return picture.convert("RGBA")


def box_of(picture: Image.Image) -> tuple[int, int, int, int]:
    box = picture.getchannel("A").getbbox()
    assert box is not None
    return box


def scene(source: Image.Image, seed: int = 1) -> Image.Image:
    return paint.compose(source, "oak table", seed, 0)


def moved(source: Image.Image, canvas: tuple[int, int], x: int, y: int, seed: int = 1) -> Image.Image:
    """The source at (x, y) of a scene of another size; what lies outside is cut off."""
    layer = Image.new("RGBA", canvas)
    layer.paste(source, (x, y))
    return scene(layer, seed)


def jpeg(picture: Image.Image, quality: int = 75) -> Image.Image:
    buffer = io.BytesIO()
    picture.save(buffer, "JPEG", quality=quality)
    return Image.open(io.BytesIO(buffer.getvalue()))


def made(seed: int, size: tuple[int, int] = (160, 120)) -> Image.Image:
    """A cut-out with things to see on it."""
    random = np.random.default_rng(seed)
    picture = Image.new("RGBA", size)
    draw = ImageDraw.Draw(picture)
    colours = [tuple(int(value) for value in random.integers(20, 236, 3)) for _ in range(8)]
    width, height = size
    draw.rounded_rectangle((width * 0.1, height * 0.1, width * 0.9, height * 0.9), width * 0.08, (*colours[0], 255))
    for colour in colours[1:]:
        x, y = random.uniform(0.15, 0.7, 2) * size
        w, h = random.uniform(0.06, 0.2, 2) * size
        draw.ellipse((x, y, x + w, y + h), (*colour, 255))
    return picture


def test_ciede2000_gives_the_published_differences():
    first, second, expected = (np.array(column) for column in zip(*SHARMA, strict=True))
    np.testing.assert_allclose(delta_e(first, second), expected, atol=6e-5)
    np.testing.assert_allclose(delta_e(second, first), expected, atol=6e-5)


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
    assert verdict.sharpness > 1.1


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


def test_thresholds_decide():
    source = product()
    result = jpeg(scene(source), 75)
    assert compare(source, result).faithful
    strict = compare(source, result, thresholds=Thresholds(min_psnr=59.0))
    assert strict.reasons == (f"PSNR is {strict.psnr:.1f} dB (at least 59.0 dB)",)


@pytest.mark.parametrize("value", [-1.0, float("inf"), float("nan")])
def test_a_limit_that_is_none_is_refused(value):
    with pytest.raises(ValueError, match="max_delta_e is"):
        Thresholds(max_delta_e=value)


def test_a_verdict_goes_through_json():
    source = product()
    verdict = compare(source, jpeg(scene(source)))
    again = json.loads(json.dumps(verdict.as_dict()))
    placement = Placement(**again.pop("placement"))
    assert Verdict(placement=placement, **{**again, "reasons": tuple(again["reasons"])}) == verdict


# Pasting back


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


# The benchmark's cases, a few of each kind


@pytest.mark.parametrize("altered", [False, True], ids=["honest", "altered"])
def test_a_sample_of_the_benchmark(altered):
    outcomes = [benchmark.run(number, altered, benchmark.pictures(None)) for number in range(18)]
    assert len({each.kind for each in outcomes}) >= 6
    wrong = [each for each in outcomes if each.faithful is altered]
    assert len(wrong) <= 1, wrong


def test_the_benchmark_makes_the_same_case_again():
    paths = benchmark.pictures(None)
    for number in (3, 4):
        first, again = (benchmark.make(number, True, paths)[3] for _ in range(2))
        assert first.tobytes() == again.tobytes()


def test_one_level_in_one_pixel_is_no_longer_the_same_and_still_faithful():
    source = Image.open(CATALOGUE / "porcelain-teapot.png").convert("RGBA")
    result = Image.new("RGB", source.size, (90, 120, 200))
    result.paste(source, mask=source)
    same = compare(source, result)
    assert (same.faithful, same.psnr, same.altered) == (True, 60.0, 0.0)
    opaque = np.argwhere(np.asarray(source)[..., 3] == 255)
    y, x = (int(side) for side in opaque[len(opaque) // 2])
    red, green, blue = result.getpixel((x, y))
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
