from __future__ import annotations

import io

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from PIL import Image
from PIL.JpegImagePlugin import JpegImageFile
from pydantic import BaseModel

from airflow_provider_bgai.imaging.renditions import (
    MIN_ALPHA,
    PRESETS,
    Rendition,
    RenditionError,
    Renditions,
    render,
    renditions_of,
    thumbnail,
)
from airflow_provider_bgai.imaging.verify import verify_whole
from airflow_provider_bgai.sandbox import paint
from tests.imaging.rendered import SAMPLES, WHITE_BOX, box_of, decoded, disc, sample, scene

FORMATS = {"jpeg": "image/jpeg", "png": "image/png", "webp": "image/webp", "avif": "image/avif"}


def test_a_preset_is_a_start_and_fields_override_it():
    made = renditions_of({"shopify": None, "google": {"format": "webp"}, "card": {"width": 800, "format": "webp"}})
    assert list(made) == ["shopify", "google", "card"]
    assert (made["shopify"].width, made["shopify"].height) == (2048, 2048)
    assert (made["google"].format, made["google"].max_pixels) == ("webp", 64_000_000)
    assert made["card"] == Rendition(width=800, format="webp")


def test_every_preset_holds():
    assert set(renditions_of(dict.fromkeys(PRESETS))) == set(PRESETS)


@pytest.mark.parametrize(
    ("described", "complaint"),
    [
        ({"shopfy": {}}, "'shopfy' says nothing and is no preset; presets are shopify, google"),
        ({"card": {"widht": 800}}, "card.widht: Extra inputs"),
        ({"card": {"width": "wide"}}, "card.width: "),
        ({"card": {"width": 0}}, "card.width: "),
        ({"card": {"format": "gif"}}, "card.format: "),
        ({"card": {"background": "white"}}, "card.background: "),
        ({"card": {"upscale": 0.5}}, "card.upscale: "),
        ({"card": {"fit": "pad", "width": 800}}, "card: .*fit='pad' needs width and height"),
        ({"card": {"fill": 0.9}}, "card: .*fill needs of='cutout'"),
        ({"amazon_main": {"fit": "extend"}}, "amazon_main: .*fit='extend' has nothing to extend"),
        ({"card": {"format": "png", "quality": 90}}, "card: .*quality is not for format='png'"),
        ({"google": {"width": 300}}, "google: .*width=300 is less than min_side=500"),
        ({"../card": {"width": 800}}, r"\.\./card"),
        ({"card": 800}, "card: "),
        ([], "renditions: "),
        ({"a": {"width": -1}, "b": {"height": -1}}, "a.width: .*; b.height: "),
    ],
)
def test_a_wrong_recipe_is_refused_with_the_field(described, complaint):
    with pytest.raises(RenditionError, match=complaint):
        renditions_of(described)


def test_a_recipe_model_takes_renditions_as_a_field():
    class Recipe(BaseModel):
        renditions: Renditions = {}

    assert Recipe.model_validate({"renditions": {"webp": None}}).renditions == {"webp": Rendition(format="webp")}
    with pytest.raises(ValueError, match=r"renditions\.card\.width"):
        Recipe.model_validate({"renditions": {"card": {"width": "x"}}})


# Sizes


@pytest.mark.parametrize("kind", FORMATS)
@pytest.mark.parametrize("fit", ["pad", "extend"])
def test_the_file_is_what_was_asked_for(kind, fit):
    made = render(scene(), Rendition(width=300, height=401, fit=fit, format=kind))
    facts = verify_whole(made.data)
    assert (facts.width, facts.height) == (made.width, made.height) == (300, 401)
    assert facts.content_type == made.content_type == FORMATS[kind]
    assert facts.extension == made.extension
    assert made.notes == ()


@settings(max_examples=150, deadline=None)
@given(
    st.tuples(st.integers(1, 1500), st.integers(1, 1500)),
    st.tuples(st.integers(1, 700), st.integers(1, 700)),
    st.sampled_from(["pad", "extend", "inside"]),
    st.sampled_from([1.0, 1.5, 16.0]),
)
@example((1500, 1), (1, 700), "extend", 16.0)
@example((1, 1500), (700, 1), "pad", 1.0)
def test_any_shape_fits_any_frame_without_stretching(size, frame, fit, upscale):
    made = render(
        Image.new("RGB", size, "#802010"),
        Rendition(width=frame[0], height=frame[1], fit=fit, upscale=upscale, background="#FFFFFF", format="png"),
    )
    scale = min(frame[0] / size[0], frame[1] / size[1], upscale)
    if fit == "inside":
        assert made.width == pytest.approx(size[0] * scale, abs=1)
        assert made.height == pytest.approx(size[1] * scale, abs=1)
        return
    if upscale * min(size[0] / frame[0], size[1] / frame[1]) >= 1:
        assert (made.width, made.height) == frame
    assert made.width <= frame[0]
    assert made.height <= frame[1]
    if fit == "extend":
        assert decoded(made).getextrema() == ((128, 128), (32, 32), (16, 16))
        return
    left, top, right, bottom = box_of(decoded(made))
    assert right - left == pytest.approx(size[0] * scale, abs=1)
    assert bottom - top == pytest.approx(size[1] * scale, abs=1)
    assert abs(left - (made.width - right)) <= 1
    assert abs(top - (made.height - bottom)) <= 1


@pytest.mark.parametrize("path", SAMPLES, ids=lambda path: path.stem)
@pytest.mark.parametrize("frame", [(300, 300), (200, 500), (500, 200)])
def test_the_products_keep_their_shape(path, frame):
    cutout = Image.open(path).convert("RGBA")
    box = cutout.getchannel("A").point(lambda a: 255 if a >= MIN_ALPHA else 0).getbbox()
    assert box is not None
    wide, high = box[2] - box[0], box[3] - box[1]
    made = render(
        cutout,
        Rendition(
            of="cutout", fit="pad", fill=0.85, width=frame[0], height=frame[1], background="#FF00FF", format="png"
        ),
    )
    left, top, right, bottom = box_of(decoded(made), "#FF00FF")
    scale = min(0.85 * made.width / wide, 0.85 * made.height / high)
    assert right - left == pytest.approx(wide * scale, abs=2)
    assert bottom - top == pytest.approx(high * scale, abs=2)


def test_a_picture_is_not_enlarged_unless_asked():
    small = Image.new("RGB", (500, 375), "#802010")
    made = render(small, Rendition(width=2048, height=2048, fit="extend"))
    assert (made.width, made.height) == (500, 500)
    assert made.notes == ("500 x 500 px: the picture has only 500 x 375 px, and upscale=1 (full size needs 4.1)",)
    made = render(small, Rendition(width=2048, height=2048, fit="extend", upscale=2))
    assert (made.width, made.height) == (1000, 1000)
    assert made.notes[1] == "picture of 500 x 375 px enlarged 2.00 times"
    made = render(small, Rendition(width=2048, height=2048, fit="extend", upscale=4.1))
    assert (made.width, made.height) == (2048, 2048)
    assert made.notes == ("picture of 500 x 375 px enlarged 4.10 times",)


def test_too_small_for_a_channel_is_refused_with_the_numbers():
    with pytest.raises(RenditionError, match=r"less than min_side=500: 100 x 100 px.*upscale=1 \(full size needs 20\)"):
        render(Image.new("RGB", (100, 100)), renditions_of({"amazon": {}})["amazon"])
    google = renditions_of({"google": {"upscale": 2}})["google"]
    assert render(Image.new("RGB", (400, 300)), google).notes == ("picture of 400 x 300 px enlarged 1.67 times",)
    with pytest.raises(RenditionError, match="less than min_side=500"):
        render(Image.new("RGB", (400, 200)), google)


def test_only_one_side_may_be_given():
    picture = Image.new("RGB", (600, 300))
    assert (lambda made: (made.width, made.height))(render(picture, Rendition(width=200))) == (200, 100)
    assert (lambda made: (made.width, made.height))(render(picture, Rendition(height=100))) == (200, 100)
    assert (lambda made: (made.width, made.height))(render(picture, Rendition())) == (600, 300)


@pytest.mark.parametrize("size", [(700, 300), (5, 20_000), (311, 313)])
def test_max_pixels_is_met_by_scaling(size):
    made = render(Image.new("RGB", size), Rendition(max_pixels=50_000))
    assert made.width * made.height <= 50_000
    assert made.notes == (f"scaled down to {made.width} x {made.height} px for max_pixels",)


def test_webp_has_a_longest_side():
    made = render(Image.new("RGB", (20_000, 10)), Rendition(format="webp"))
    assert (made.width, made.height) == (16_383, 8)
    assert made.notes == ("scaled down to 16383 x 8 px for format='webp'",)


# Bytes


@pytest.mark.parametrize("kind", ["jpeg", "webp", "avif"])
def test_max_bytes_is_met_by_quality_first(kind):
    picture = scene()
    free = render(picture, Rendition(width=400, height=400, format=kind))
    most = len(free.data) * 2 // 3
    made = render(picture, Rendition(width=400, height=400, format=kind, max_bytes=most))
    assert most * 0.8 < len(made.data) <= most
    assert (made.width, made.height) == (free.width, free.height)
    assert "for max_bytes" in made.notes[0]


@pytest.mark.parametrize("kind", FORMATS)
@pytest.mark.parametrize("of", ["picture", "cutout"])
def test_max_bytes_is_met_by_size_where_quality_is_not_enough(kind, of):
    picture = sample("toy-xylophone") if of == "cutout" else scene("toy-xylophone")
    made = render(picture, Rendition(of=of, format=kind, max_bytes=5_000))
    assert len(made.data) <= 5_000
    assert 40 < made.width < 553
    assert made.width / made.height == pytest.approx(553 / 472, rel=0.03)
    assert any("for max_bytes" in note for note in made.notes)


def test_max_bytes_may_be_impossible():
    with pytest.raises(RenditionError, match="max_bytes=20 is too little"):
        render(scene(), Rendition(max_bytes=20))
    with pytest.raises(RenditionError, match="less than min_side=500"):
        render(scene(), Rendition(max_bytes=2_000, min_side=500))


@pytest.mark.parametrize("kind", FORMATS)
def test_equal_input_gives_equal_bytes(kind):
    described = Rendition(width=200, height=300, fit="extend", format=kind)
    assert render(scene(), described) == render(scene(), described)
    assert render(sample("glass-tea-mug"), WHITE_BOX) == render(sample("glass-tea-mug"), WHITE_BOX)


def test_nothing_but_pixels_is_carried_over():
    picture = scene()
    picture.info = {"icc_profile": b"x" * 500, "exif": b"Exif\0\0secret", "comment": b"secret", "xmp": b"secret"}
    for kind in FORMATS:
        data = render(picture, Rendition.model_validate({"format": kind, "width": 100})).data
        assert b"secret" not in data
        assert b"x" * 500 not in data


def test_colour_is_not_halved_for_fine_pictures():
    for quality, layers in ((95, {(1, 1)}), (80, {(2, 2), (1, 1)})):
        file = Image.open(io.BytesIO(render(scene(), Rendition(quality=quality)).data))
        assert isinstance(file, JpegImageFile)
        assert {layer[1:3] for layer in file.layer} == layers
        assert file.info["progressive"]


def test_a_missing_encoder_is_said(monkeypatch):
    Image.init()
    monkeypatch.delitem(Image.SAVE, "AVIF")
    with pytest.raises(RenditionError, match="format='avif': this Pillow cannot write it"):
        render(scene(), Rendition(format="avif"))


# Cut-outs on white


def test_the_product_spans_the_share_it_was_told():
    for fill in (0.5, 0.85, 0.99):
        for size in ((300, 100), (100, 300), (317, 313)):
            described = Rendition(of="cutout", fit="pad", fill=fill, width=257, height=257, upscale=4, format="png")
            left, top, right, bottom = box_of(decoded(render(disc(size, "#102030", margin=5), described)))
            assert max(right - left, bottom - top) == pytest.approx(fill * 257, abs=1.01)


def test_a_cutout_that_is_too_small_takes_the_frame_with_it():
    made = render(disc((900, 400), "#102030"), renditions_of({"amazon_main": {}})["amazon_main"])
    assert (made.width, made.height) == (1000, 1000)
    assert made.notes[0].startswith("1000 x 1000 px: the product has only 900 x 400 px, and upscale=1")


def test_dust_is_not_product():
    product = disc((300, 300), "#102030", margin=100)
    product.putpixel((3, 3), (0, 0, 0, MIN_ALPHA - 1))
    dusty = np.asarray(decoded(render(product, WHITE_BOX)))
    product.putpixel((3, 3), (0, 0, 0, 0))
    assert (dusty == np.asarray(decoded(render(product, WHITE_BOX)))).all()


@pytest.mark.parametrize("hidden", ["#000000", "#FFFFFF", "#00FF00"])
@pytest.mark.parametrize("background", ["#FFFFFF", "#000000"])
@pytest.mark.parametrize("scale", [0.4, 1.7])
def test_no_halo(hidden, background, scale):
    """Between product and background lie only mixtures of the two, whatever colour transparent pixels hide."""
    side = round(200 * scale)
    described = Rendition(
        of="cutout", width=side, height=side, fit="pad", upscale=2, background=background, format="png"
    )
    pixels = np.asarray(decoded(render(disc((200, 200), "#C04040", margin=20, hidden=hidden), described))).astype(int)
    low = np.minimum((0xC0, 0x40, 0x40), int(background[1:3], 16))
    high = np.maximum((0xC0, 0x40, 0x40), int(background[1:3], 16))
    assert (pixels >= low - 4).all()
    assert (pixels <= high + 4).all()


@pytest.mark.parametrize(
    ("picture", "complaint"),
    [
        (Image.new("RGB", (600, 600)), "has no transparency"),
        (Image.new("RGBA", (600, 600), (1, 2, 3, 255)), "every pixel is opaque"),
        (Image.new("RGBA", (600, 600), (1, 2, 3, MIN_ALPHA - 1)), "is empty"),
    ],
)
def test_what_is_no_cutout_is_refused(picture, complaint):
    with pytest.raises(RenditionError, match=complaint):
        render(picture, WHITE_BOX)


# Thumbnails


@pytest.mark.parametrize("path", SAMPLES, ids=lambda path: path.stem)
def test_thumbnails_are_small_and_keep_transparency(path):
    cutout = Image.open(path)
    data = thumbnail(cutout)
    small = Image.open(io.BytesIO(data))
    assert (small.format, max(small.size), small.mode) == ("WEBP", 160, "RGBA")
    assert small.width / small.height == pytest.approx(cutout.width / cutout.height, rel=0.02)
    assert len(data) < 10_000
    assert len(thumbnail(paint.compose(cutout.convert("RGBA"), "studio", 1, 0))) < 6_000
