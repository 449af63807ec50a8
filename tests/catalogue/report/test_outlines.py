"""What a picture shows too much of, drawn over it: a real cut-out, a real verdict, a real page."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
from PIL import Image, ImageDraw

from airflow_provider_bgai.buying.record import Output
from airflow_provider_bgai.catalogue.report.page import Card
from airflow_provider_bgai.catalogue.results import Result
from airflow_provider_bgai.imaging.fidelity import compare
from airflow_provider_bgai.imaging.renditions import thumbnail
from tests.imaging.cutouts import box_of, product, scene

if TYPE_CHECKING:
    from tests.catalogue.report.pages import Show


def with_a_foot() -> tuple[Card, tuple[float, float, float, float]]:
    """A card of a paper bag that was given a foot, and where that is, as shares of the picture's sides."""
    source = product("paper-bag")
    subject = source.crop(box_of(source))
    canvas = Image.new("RGBA", (subject.width + 400, subject.height + 200))
    canvas.paste(subject, (200, 60))
    left, _, right, bottom = box_of(canvas)
    middle = (left + right) // 2
    foot = (middle - 50, bottom - 40, middle + 50, bottom + 60)
    picture = scene(canvas)
    ImageDraw.Draw(picture).rectangle(foot, fill=canvas.getpixel((middle, bottom - 20)))
    picture.paste(canvas, mask=canvas)
    verdict = compare(canvas, picture)
    assert not verdict.faithful
    image = Output(
        uri="_bgai/quarantine/bag.png", bytes=9_100, sha256="00", width=picture.width, height=picture.height,
        content_type="image/png", fidelity=verdict,
    )  # fmt: skip
    result = Result(sku="bag", outcome="quarantined", quarantined=(image,), reason="unfaithful")
    visible = foot[0], bottom, foot[2], foot[3]
    shares = tuple(place / side for place, side in zip(visible, picture.size * 2, strict=True))
    return Card(result, thumbnail(canvas), (thumbnail(picture),)), shares  # type: ignore[return-value]


def test_an_invented_part_is_outlined_on_the_card_and_in_the_large_view(show: Show):
    card, (left, _, right, bottom) = with_a_foot()
    page = show([card])
    for where in (page.locator(".card .after"), page.locator("#view-after")):
        if not where.is_visible():
            page.locator(".card").first.click()
        shape = where.locator("svg.outlines polygon").bounding_box()
        assert shape is not None
        seen = where.bounding_box()
        image = card.result.quarantined[0]
        assert seen is not None
        # The picture lies in the middle of its frame, as large as it fits.
        scale = min(seen["width"] / image.width, seen["height"] / image.height)
        across = seen["x"] + (seen["width"] - image.width * scale) / 2
        down = seen["y"] + (seen["height"] - image.height * scale) / 2
        assert shape["x"] >= across + left * image.width * scale - 6
        assert shape["x"] + shape["width"] == pytest.approx(across + right * image.width * scale, abs=6)
        assert shape["y"] + shape["height"] == pytest.approx(down + bottom * image.height * scale, abs=6)


def test_a_picture_that_shows_the_product_alone_has_no_outline(show: Show):
    page = show()
    assert page.locator(".card").count() > 0
    assert page.locator("svg.outlines").count() == 0
