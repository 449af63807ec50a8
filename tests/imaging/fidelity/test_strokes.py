"""Products that are all strokes: hair-thin, or line art. Where they are is found though nobody says it."""

from __future__ import annotations

import numpy as np
import pytest
from PIL import Image, ImageDraw

from airflow_provider_bgai.imaging.fidelity import compare
from airflow_provider_bgai.imaging.fidelity.fit import fitted
from airflow_provider_bgai.imaging.fidelity.product import FINE, Placement, Product
from airflow_provider_bgai.imaging.fidelity.strokes import stroke_places
from airflow_provider_bgai.imaging.small import Halves
from airflow_provider_bgai.sandbox import paint
from benchmarks.fidelity import cases
from tests.imaging.cutouts import box_of, jpeg

INKS = [(60, 140, 70), (70, 60, 160), (0, 0, 0)]


def cable(colour: tuple[int, int, int]) -> Image.Image:
    """A line 4 px wide with a highlight along it, and two plugs."""
    large = Image.new("RGBA", (1500, 1800))
    draw = ImageDraw.Draw(large)
    line = [(200, 250), (450, 700), (350, 1200), (900, 900), (1250, 1500), (1300, 400)]
    draw.line(line, (*colour, 255), 12, joint="curve")
    draw.line([(x - 2, y - 2) for x, y in line], (*(min(255, level + 70) for level in colour), 255), 3, joint="curve")
    for x, y in (line[0], line[-1]):
        draw.ellipse((x - 24, y - 24, x + 24, y + 24), (150, 150, 156, 255))
    return large.convert("RGBa").resize((500, 600), Image.Resampling.BOX).convert("RGBA")


def shown(source: Image.Image, prompt: str, scale: float, x: int, y: int, canvas: tuple[int, int]) -> Image.Image:
    layer = Image.new("RGBA", canvas)
    layer.paste(paint.scaled(source.crop(box_of(source)), scale), (x, y))
    return paint.compose(layer, prompt, 3, 0).convert("RGB")


@pytest.mark.parametrize("colour", INKS)
@pytest.mark.parametrize("prompt", ["city", "christmas", "#48B050"])
def test_a_hair_thin_product_that_was_moved_is_found_without_a_hint(colour, prompt):
    source = cable(colour)
    verdict = compare(source, jpeg(shown(source, prompt, 0.8, 150, 60, (640, 620)), 90))
    assert verdict.faithful, verdict.reasons
    assert verdict.placement is not None
    left, top = box_of(source)[:2]
    assert verdict.placement.scale_x == pytest.approx(0.8, rel=0.01)
    assert verdict.placement.x + left * 0.8 == pytest.approx(150, abs=2)
    assert verdict.placement.y + top * 0.8 == pytest.approx(60, abs=2)


def test_strokes_are_told_from_grain_that_is_stronger_than_they_are():
    source = cable(INKS[0])
    noise = np.random.default_rng(1).normal(128, 40, (620, 640, 3))
    picture = Image.fromarray(np.clip(noise, 0, 255).astype(np.uint8), "RGB")
    subject = paint.scaled(source.crop(box_of(source)), 0.8)
    picture.paste(subject, (150, 60), mask=subject)
    first = stroke_places(Product(source), np.asarray(picture))[0]
    assert first.scale_x == pytest.approx(0.8, rel=0.03)
    assert first.x + box_of(source)[0] * first.scale_x == pytest.approx(150, abs=8)


def test_a_thin_product_that_is_another_one_is_not_found():
    source = cable(INKS[0])
    other = source.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
    assert not compare(source, shown(other, "studio", 0.8, 150, 60, (640, 620))).faithful


def test_what_lies_beyond_the_frame_does_not_shine_through_a_product_that_touches_it():
    source = Image.new("RGBA", (420, 320))
    draw = ImageDraw.Draw(source)
    draw.rectangle((40, 40, 380, 280), outline="black", width=2)
    draw.ellipse((90, 90, 330, 230), outline="black", width=2)
    picture = Image.new("RGB", (400, 400), "white")
    picture.paste(source, (-39, 60), mask=source)
    fit = fitted(Product(source), Halves(np.asarray(picture)), Placement(-39.0, 60.0, 1.0, 1.0), FINE)
    assert np.abs(fit.left_over)[fit.inside].max() < 1
    assert fit.coverage == 1.0


def test_the_links_of_a_chain_are_no_copies_of_it():
    _, source, result = cases.make("hair-thin", 11, cases.pictures(None), 704)
    verdict = compare(source, result)
    assert verdict.faithful, verdict.reasons
    assert verdict.copies == 0


def test_a_line_drawing_that_its_white_inside_misled_is_found_by_its_lines():
    _, source, result = cases.make("line art", 18, cases.pictures(None), 909)
    verdict = compare(source, result)
    assert verdict.faithful, verdict.reasons
