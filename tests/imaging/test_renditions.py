from __future__ import annotations

import io
from pathlib import Path

import numpy as np
import pytest
from hypothesis import assume, example, given, settings
from hypothesis import strategies as st
from PIL import Image, ImageChops, ImageDraw
from pydantic import BaseModel

from airflow_provider_bgai.imaging.renditions import (
    MIN_ALPHA,
    PRESETS,
    Rendered,
    Rendition,
    RenditionError,
    Renditions,
    render,
    renditions_of,
    thumbnail,
)
from airflow_provider_bgai.imaging.verify import verify_whole
from airflow_provider_bgai.sandbox import paint

SAMPLES = sorted((Path(__file__).parents[2] / "demo/catalogue/images").glob("*.png"))
FORMATS = {"jpeg": "image/jpeg", "png": "image/png", "webp": "image/webp", "avif": "image/avif"}
WHITE_BOX = Rendition(of="cutout", width=400, height=400, fit="pad", fill=0.9, quality=95, upscale=16)


def sample(name: str) -> Image.Image:
    (path,) = (path for path in SAMPLES if path.stem == name)
    return Image.open(path).convert("RGBA")


def scene(name: str = "electric-guitar", prompt: str = "on a wooden table") -> Image.Image:
    return paint.compose(sample(name), prompt, 7, 0).convert("RGB")


def decoded(rendered: Rendered) -> Image.Image:
    return Image.open(io.BytesIO(rendered.data)).convert("RGB")


def disc(size: tuple[int, int], colour: str, margin: int = 0, hidden: str = "#000000") -> Image.Image:
    """An ellipse with an antialiased edge; ``hidden`` is the colour of its transparent pixels."""
    alpha = Image.new("L", (size[0] * 4, size[1] * 4))
    ImageDraw.Draw(alpha).ellipse(
        (margin * 4, margin * 4, (size[0] - margin) * 4 - 1, (size[1] - margin) * 4 - 1), fill=255
    )
    alpha = alpha.resize(size, Image.Resampling.BOX)
    picture = Image.new("RGB", size, hidden)
    picture.paste(colour, mask=alpha.point(lambda a: 255 if a else 0))
    picture.putalpha(alpha)
    return picture


def box_of(picture: Image.Image, background: str = "white", tolerance: int = 0) -> tuple[int, int, int, int]:
    difference = ImageChops.difference(picture, Image.new("RGB", picture.size, background))
    box = Image.fromarray((np.asarray(difference).max(-1) > tolerance).astype(np.uint8) * 255).getbbox()
    assert box is not None
    return box


# Recipes


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
        data = render(picture, Rendition(format=kind, width=100)).data
        assert b"secret" not in data
        assert b"x" * 500 not in data


def test_colour_is_not_halved_for_fine_pictures():
    for quality, layers in ((95, {(1, 1)}), (80, {(2, 2), (1, 1)})):
        file = Image.open(io.BytesIO(render(scene(), Rendition(quality=quality)).data))
        assert {layer[1:3] for layer in file.layer} == layers
        assert file.info["progressive"]


def test_a_missing_encoder_is_said(monkeypatch):
    Image.init()
    monkeypatch.delitem(Image.SAVE, "AVIF")
    with pytest.raises(RenditionError, match="format='avif': this Pillow cannot write it"):
        render(scene(), Rendition(format="avif"))


# Cut-outs on white


@pytest.mark.parametrize("path", SAMPLES, ids=lambda path: path.stem)
def test_the_amazon_main_picture_is_white_and_full(path):
    described = renditions_of({"amazon_main": {"upscale": 6, "width": 700, "height": 700}})["amazon_main"]
    cutout = Image.open(path)
    made = render(cutout, described)
    assert made.content_type == "image/jpeg"
    assert (made.width, made.height) == (700, 700)
    pixels = np.asarray(decoded(made))
    # The same layout without loss says which pixels are the product's.
    sheet = render(cutout, described.model_copy(update={"format": "png", "quality": None, "background": "#FF00FF"}))
    outside = (np.asarray(decoded(sheet)) == (255, 0, 255)).all(-1)
    assert (pixels[outside] == 255).all()
    rows, columns = np.flatnonzero((~outside).any(1)), np.flatnonzero((~outside).any(0))
    assert max(np.ptp(rows) + 1, np.ptp(columns) + 1) / 700 >= 0.85
    # The product is still what it was.
    plain = render(cutout, described.model_copy(update={"format": "png", "quality": None}))
    difference = np.abs(pixels.astype(int) - np.asarray(decoded(plain)))[~outside]
    assert difference.mean() < 3
    assert (difference.max(-1) > 40).mean() < 0.01


@settings(max_examples=25, deadline=None)
@given(
    st.tuples(st.integers(3, 300), st.integers(3, 300)),
    st.integers(0, 0xFFFFFF),
    st.integers(40, 100),
    st.integers(0, 2**32 - 1),
)
def test_white_is_white_around_any_product(size, colour, quality, seed):
    noise = np.random.default_rng(seed).integers(0, 256, (size[1], size[0], 3), dtype=np.uint8)
    product = disc(size, f"#{colour:06x}")
    assume(product.getchannel("A").getextrema()[0] < 255)
    textured = Image.blend(product.convert("RGB"), Image.fromarray(noise), 0.3)
    textured.putalpha(product.getchannel("A"))
    described = WHITE_BOX.model_copy(update={"width": 160, "height": 160, "quality": quality})
    white = np.asarray(decoded(render(textured, described)))
    lossless = described.model_copy(update={"format": "png", "quality": None})
    coloured = [
        np.asarray(decoded(render(textured, lossless.model_copy(update={"background": background}))))
        for background in ("#FF00FF", "#00FF00")
    ]
    outside = (coloured[0] == (255, 0, 255)).all(-1) & (coloured[1] == (0, 255, 0)).all(-1)
    assert outside.any()
    assert (white[outside] == 255).all()


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


# Extending


@pytest.mark.parametrize("name", ["electric-guitar", "paper-bag", "electric-kettle"])
@pytest.mark.parametrize("frame", [(400, 200), (200, 400)])
def test_extending_shows_no_seam_and_leaves_the_picture_alone(name, frame):
    picture = scene(name).resize((200, 200))
    pixels = np.asarray(
        decoded(render(picture, Rendition(width=frame[0], height=frame[1], fit="extend", format="png")))
    ).astype(int)
    if frame[0] < frame[1]:
        pixels = pixels.swapaxes(0, 1)
        picture = picture.transpose(Image.Transpose.TRANSPOSE)
    assert (pixels[:, 100:300] == np.asarray(picture)).all()
    steps = np.abs(np.diff(pixels, axis=1))
    for seam in (100, 300):
        assert steps[:, seam - 1].mean() < 4
    assert steps[:, [*range(95), *range(304, 399)]].mean() < 1


def test_extending_makes_no_second_product():
    """What touches the edge does not go on to the frame's end."""
    picture = Image.new("RGB", (300, 300), "#D0D0D0")
    ImageDraw.Draw(picture).rectangle((0, 120, 300, 180), fill="#A00000")
    made = decoded(render(picture, Rendition(width=900, height=300, fit="extend", format="png")))
    far = np.asarray(made)[:, [*range(200), *range(700, 900)]].astype(int)
    assert np.abs(far - 0xD0).max() < 8


def test_extending_keeps_the_line_of_the_floor():
    picture = Image.new("RGB", (300, 300), "#E0E0F0")
    ImageDraw.Draw(picture).rectangle((0, 200, 300, 300), fill="#604020")
    made = np.asarray(decoded(render(picture, Rendition(width=900, height=300, fit="extend", format="png"))))
    assert np.abs(made[:180, 0].astype(int) - (0xE0, 0xE0, 0xF0)).max() < 4
    assert np.abs(made[220:, 0].astype(int) - (0x60, 0x40, 0x20)).max() < 4


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
