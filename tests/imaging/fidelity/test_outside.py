"""What is around a product that is itself unchanged: whether it goes on past its outline, and whether it is alone."""

from __future__ import annotations

import numpy as np
import pytest
from PIL import Image, ImageDraw, ImageFilter

from airflow_provider_bgai.imaging.fidelity import Thresholds, compare
from airflow_provider_bgai.sandbox import paint
from tests.imaging.cutouts import box_of, jpeg, product, scene


def on_canvas(name: str, room: int = 140) -> Image.Image:
    """A product with room around it."""
    source = product(name)
    subject = source.crop(box_of(source))
    canvas = Image.new("RGBA", (subject.width + 2 * room, subject.height + 2 * room))
    canvas.paste(subject, (room, room))
    return canvas


def before(source: Image.Image, *behind: Image.Image) -> Image.Image:
    """The product in a scene, and between the two what a generator invents."""
    picture = scene(source)
    for layer in behind:
        picture.paste(layer, mask=layer)
    picture.paste(source, mask=source)
    return picture


def larger(source: Image.Image, factor: float) -> Image.Image:
    """The product enlarged about its middle, on a canvas of the same size."""
    left, top, right, bottom = box_of(source)
    subject = paint.scaled(source.crop((left, top, right, bottom)), factor)
    canvas = Image.new("RGBA", source.size)
    canvas.paste(subject, ((left + right - subject.width) // 2, (top + bottom - subject.height) // 2))
    return canvas


@pytest.mark.parametrize("name", ["paper-bag", "porcelain-teapot", "tennis-shoe", "electric-kettle"])
def test_a_product_painted_larger_than_it_is_is_caught(name):
    source = on_canvas(name)
    assert compare(source, before(source)).faithful
    verdict = compare(source, jpeg(before(source, larger(source, 1.08)), 90))
    assert not verdict.faithful
    assert verdict.growth is not None
    assert 0.02 < verdict.growth < 0.3
    assert "has grown by" in verdict.reasons[0]
    assert verdict.outlines


def test_an_invented_foot_is_caught_and_shown_where_it_is():
    source = on_canvas("paper-bag")
    left, _, right, bottom = box_of(source)
    middle = (left + right) // 2
    colour = source.getpixel((middle, bottom - 20))
    foot = Image.new("RGBA", source.size)
    ImageDraw.Draw(foot).rectangle((middle - 50, bottom - 40, middle + 50, bottom + 60), fill=colour)
    verdict = compare(source, jpeg(before(source, foot), 92))
    assert not verdict.faithful
    assert "at the bottom" in verdict.reasons[0]
    (outline,) = verdict.outlines
    places = np.array(outline) / 1000 * source.size
    assert middle - 58 < places[:, 0].min() < middle  # to the left of it the bag is darker than the foot
    assert places[:, 0].max() == pytest.approx(middle + 50, abs=8)
    assert places[:, 1].max() == pytest.approx(bottom + 60, abs=8)


def test_a_part_whose_colours_change_as_those_of_the_rim_is_caught():
    source = Image.new("RGBA", (700, 600))
    shades = np.linspace(70, 200, 400)[None, :, None] * np.array([0.5, 0.7, 1.0])
    body = np.broadcast_to(shades, (300, 400, 3)).astype(np.uint8)
    source.paste(Image.fromarray(body), (150, 100))
    tab = Image.new("RGBA", source.size)
    tab.paste(Image.fromarray(np.ascontiguousarray(body[:80, 140:260])), (290, 380))
    assert compare(source, jpeg(before(source), 92)).faithful
    verdict = compare(source, jpeg(before(source, tab), 92))
    assert not verdict.faithful
    assert "at the bottom" in verdict.reasons[0]


@pytest.mark.parametrize(("name", "side"), [("paper-bag", "left"), ("suitcase-set", "right")])
def test_a_thin_spout_is_caught_in_its_colour_and_is_a_thing_behind_it_in_another(name, side):
    source = on_canvas(name)
    for change, faithful in ((0, False), (-70, True)):
        verdict = compare(source, jpeg(before(source, spout(source, side, change)), 92))
        assert verdict.faithful is faithful, verdict.reasons


def spout(source: Image.Image, side: str, change: int) -> Image.Image:
    """A bar that begins at the middle of a side, in the colour that is there, by so many levels lighter."""
    row = np.flatnonzero(np.asarray(source.getchannel("A"))[source.height // 2] > 250)
    x, y = int(row[0] if side == "left" else row[-1]), source.height // 2
    out = -1 if side == "left" else 1
    colour = source.getpixel((x - 4 * out, y))
    assert isinstance(colour, tuple)
    shifted = (*(min(255, max(0, level + change)) for level in colour[:3]), 255)
    bar = Image.new("RGBA", source.size)
    ImageDraw.Draw(bar).line((x - 8 * out, y, x + 120 * out, y - 40), fill=shifted, width=30)
    return bar


def test_a_limit_decides_how_much_growth_is_too_much():
    source = on_canvas("paper-bag")
    picture = before(source, larger(source, 1.08))
    assert compare(source, picture, thresholds=Thresholds(max_growth=0.9)).faithful


@pytest.mark.parametrize("name", ["paper-bag", "tennis-shoe", "suitcase-set"])
def test_a_shadow_is_no_growth(name):
    source = on_canvas(name)
    for blur, strength in ((3, 0.5), (12, 0.7)):
        soft = source.getchannel("A").filter(ImageFilter.GaussianBlur(blur))
        thrown = Image.new("L", source.size)
        thrown.paste(soft.point([int(level * strength) for level in range(256)]), (25, 18))
        shade = Image.new("RGBA", source.size, "black")
        shade.putalpha(thrown)
        verdict = compare(source, jpeg(before(source, shade), 90))
        assert verdict.faithful, verdict.reasons


def test_a_white_product_before_white_is_no_growth():
    source = on_canvas("porcelain-teapot")
    picture = Image.new("RGB", source.size, (250, 250, 250))
    picture.paste(source, mask=source)
    verdict = compare(source, jpeg(picture, 85))
    assert verdict.faithful, verdict.reasons
    assert verdict.outlines == ()


def test_a_thing_behind_it_that_is_darker_than_the_product_is_no_growth():
    source = on_canvas("paper-bag")
    left, top, right, bottom = box_of(source)
    colour = source.getpixel(((left + right) // 2, (top + bottom) // 2))
    assert isinstance(colour, tuple)
    thing = Image.new("RGBA", source.size)
    darker = (*(int(level * 0.75) for level in colour[:3]), 255)
    ImageDraw.Draw(thing).ellipse((right - 80, top + 60, right + 90, top + 230), fill=darker)
    verdict = compare(source, jpeg(before(source, thing), 90))
    assert verdict.faithful, verdict.reasons


@pytest.mark.parametrize("name", ["paper-bag", "porcelain-teapot", "electric-kettle", "desk-telephone"])
@pytest.mark.parametrize("mirrored", [False, True])
def test_a_second_copy_in_the_scene_is_caught_and_shown_where_it_is(name, mirrored):
    source = on_canvas(name, 300)
    left, top, right, bottom = box_of(source)
    copy = paint.scaled(source.crop((left, top, right, bottom)), 0.6)
    copy = copy.transpose(Image.Transpose.FLIP_LEFT_RIGHT) if mirrored else copy
    twin = Image.new("RGBA", source.size)
    twin.paste(copy, (20, source.height - copy.height - 10))
    verdict = compare(source, jpeg(before(source, twin), 90))
    assert not verdict.faithful
    assert verdict.copies == 1
    assert "shows the product 1 more time" in verdict.reasons[-1]
    outline = verdict.outlines[-1]
    middle = np.array(outline).mean(0) / 1000 * source.size
    assert middle[0] == pytest.approx(20 + copy.width / 2, abs=0.15 * copy.width)
    assert middle[1] == pytest.approx(source.height - copy.height / 2 - 10, abs=0.15 * copy.height)
    assert compare(source, before(source, twin), thresholds=Thresholds(max_copies=1)).copies == 1


@pytest.mark.parametrize("name", ["paper-bag", "porcelain-teapot", "electric-kettle"])
def test_a_reflection_below_it_is_no_copy(name):
    source = on_canvas(name, 220)
    left, top, right, bottom = box_of(source)
    reflected = source.crop((left, top, right, bottom)).transpose(Image.Transpose.FLIP_TOP_BOTTOM)
    reflected.putalpha(reflected.getchannel("A").point([int(0.4 * level) for level in range(256)]))
    mirror = Image.new("RGBA", source.size)
    mirror.paste(reflected, (left, bottom))
    verdict = compare(source, jpeg(before(source, mirror), 90))
    assert verdict.faithful, verdict.reasons


def test_another_product_beside_it_is_no_copy():
    source, other = on_canvas("paper-bag", 300), product("tennis-shoe")
    beside = Image.new("RGBA", source.size)
    beside.paste(paint.scaled(other, 0.4), (10, 20))
    verdict = compare(source, jpeg(before(source, beside), 90))
    assert verdict.faithful, verdict.reasons


@pytest.mark.parametrize("name", ["paper-bag", "tennis-shoe", "desk-telephone", "electric-kettle"])
def test_a_copy_of_which_the_product_hides_nearly_half_is_caught(name):
    source = on_canvas(name, 220)
    left, top, right, bottom = box_of(source)
    twin = Image.new("RGBA", source.size)
    twin.paste(
        source.crop((left, top, right, bottom)), (left + (right - left) * 3 // 10, top - (bottom - top) * 3 // 10)
    )
    hidden = np.asarray(twin)[..., 3] > 127
    assert 0.3 < (hidden & (np.asarray(source)[..., 3] > 127)).sum() / hidden.sum() < 0.55
    verdict = compare(source, jpeg(before(source, twin), 90))
    assert verdict.copies == 1, verdict.reasons


@pytest.mark.parametrize("side", ["left", "right"])
def test_a_board_behind_it_that_goes_on_out_of_sight_is_no_part_of_it(side):
    source = on_canvas("paper-bag", 300)
    left, top, right, bottom = box_of(source)
    row = (top + bottom) // 2
    colour = source.getpixel((left + 6, row) if side == "left" else (right - 7, row))
    board = Image.new("RGBA", source.size)
    across = (0, left + 40) if side == "left" else (right - 40, source.width)
    ImageDraw.Draw(board).rectangle((across[0], row - 15, across[1], row + 15), fill=colour)
    verdict = compare(source, jpeg(before(source, board), 92))
    assert verdict.faithful, verdict.reasons


def test_a_disc_of_light_that_the_frame_cuts_is_no_part_of_it():
    source = on_canvas("paper-bag", 60)
    top = box_of(source)[1]
    middle = int(np.flatnonzero(np.asarray(source.getchannel("A"))[top + 4] > 250).mean())
    for radius, faithful in ((25, False), (60, True)):
        disc = Image.new("RGBA", source.size)
        down = top + 6 - radius  # it touches the product, and is behind it by a few px
        reach = (middle - radius, down - radius, middle + radius, down + radius)
        ImageDraw.Draw(disc).ellipse(reach, fill=source.getpixel((middle, top + 6)))
        verdict = compare(source, jpeg(before(source, disc), 92))
        assert verdict.faithful is faithful, verdict.reasons


def test_a_disc_of_light_out_of_focus_is_no_part_of_it():
    source = on_canvas("paper-bag", 300)
    row = source.height // 2
    left = int(np.flatnonzero(np.asarray(source.getchannel("A"))[row] > 250)[0])
    disc = Image.new("L", source.size)
    ImageDraw.Draw(disc).ellipse((left - 95, row - 55, left + 35, row + 55), fill=255)
    colour = source.getpixel((left + 6, row))
    for blur, faithful in ((2, False), (7, True)):
        light = Image.new("RGBA", source.size, colour)
        light.putalpha(disc.filter(ImageFilter.GaussianBlur(blur)))
        verdict = compare(source, jpeg(before(source, light), 92))
        assert verdict.faithful is faithful, verdict.reasons


def test_an_even_tile_behind_a_rim_of_nearly_its_colour_is_no_part_of_it():
    grain = np.random.default_rng(1).normal(0, 7, (100, 133, 1))
    body = Image.fromarray(np.clip(grain + (40, 90, 150), 0, 255).astype(np.uint8)).resize((400, 300))
    source = Image.new("RGBA", (900, 800))
    source.paste(body, (250, 250))
    for lighter, faithful in ((2, False), (15, True)):
        tile = Image.new("RGBA", source.size)
        colour = (40 + lighter, 90 + lighter, 150 + lighter)
        ImageDraw.Draw(tile).rectangle((380, 500, 460, 590), fill=colour)
        verdict = compare(source, jpeg(before(source, tile), 92))
        assert verdict.faithful is faithful, verdict.reasons
