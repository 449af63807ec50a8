from __future__ import annotations

import io

import pytest
from PIL import Image

from airflow_provider_bgai.sandbox import Sandbox

from .conftest import Vendors, cut_out

NEW_SHADOWS = {"pr-ai-shadows-model-version": "2026-04-15"}


def post(vendors: Vendors, fields=None, files=None, headers=None, **options):
    files = {"imageFile": ("a.png", vendors.png)} | (files or {})
    headers = vendors.auth("photoroom") | (headers or {})
    return vendors.http.post("/v2/edit", headers=headers, data=fields or {}, files=files, **options)


def get(vendors: Vendors, **params):
    return vendors.http.get("/v2/edit", headers=vendors.auth("photoroom"), params=params)


def opened(response) -> Image.Image:
    assert response.status_code == 200, response.text
    return Image.open(io.BytesIO(response.content))


@pytest.mark.parametrize(
    "fields",
    [
        {"removeBackground": "yes"},
        {"keepExistingAlphaChannel": "always"},
        {"background.prompt": ""},
        {"background.seed": "0"},
        {"background.seed": "-1"},
        {"background.expandPrompt.mode": "auto"},
        {"background.color": "no-such-colour"},
        {"background.blur.radius": "0"},
        {"background.blur.radius": "0.06"},
        {"background.scaling": "fit"},
        {"background.guidance.scale": "0.5"},
        {"outputSize": "100"},
        {"outputSize": "0x100"},
        {"maxWidth": "100"},
        {"padding": "0.5"},
        {"padding": "50%"},
        {"marginTop": "px"},
        {"scaling": "stretch"},
        {"referenceBox": "box"},
        {"horizontalAlignment": "middle"},
        {"export.format": "gif"},
        {"export.dpi": "71"},
        {"lighting.mode": "auto"},
        {"shadow.mode": "soft"},
        {"shadow.mode": "ai.preset-soft"},
        {"shadow.directionOverride": "left"},
        {"preserveMetadata": "always"},
        {"colorSpace": "original", "background.prompt": "x"},
        {"removeBackground": "false", "referenceBox": "originalImage"},
        {"templateId": "five"},
        {"background.inner": "x"},
        {"negativePrompt": "x"},
        {"imageUrl": "https://example.com/a.png"},
    ],
    ids=str,
)
def test_a_wrong_parameter_is_refused_and_costs_nothing(box: Sandbox, vendors: Vendors, fields):
    response = post(vendors, fields)
    assert response.status_code == 400
    assert response.json()["error"]["message"]
    assert box.charges == []


@pytest.mark.parametrize(
    "fields",
    [
        {"background.prompt": "x", "background.negativePrompt": "y", "background.seed": "117879368"},
        {
            "background.prompt": "x",
            "background.expandPrompt.mode": "ai.never",
            "keepExistingAlphaChannel": "auto",
        },
        {"background.color": "#FF0000"},
        {"background.color": "FF0000EE"},
        {"background.color": "red", "background.blur.mode": "bokeh", "background.blur.radius": "0.05"},
        {"outputSize": "originalImage", "maxWidth": "100"},
        {"padding": "0.1", "marginLeft": "20px", "paddingTop": "30%", "scaling": "fit"},
        {"removeBackground": "false", "background.prompt": "x"},
        {"lighting.mode": "ai.auto", "shadow.mode": "ai.soft", "colorSpace": "original"},
        {"export.dpi": "300", "upscale.mode": "ai.fast", "textRemoval.mode": "ai.all"},
    ],
    ids=str,
)
def test_what_is_documented_is_accepted(box: Sandbox, vendors: Vendors, fields):
    opened(post(vendors, fields))
    assert box.images_charged("photoroom") == 1


def test_new_shadows_need_their_header(box: Sandbox, vendors: Vendors):
    fields = {"shadow.mode": "ai.auto-with-overrides", "shadow.softnessOverride": "1"}
    assert post(vendors, fields, headers=NEW_SHADOWS).status_code == 200


def test_post_takes_files_only_and_nothing_in_the_query(box: Sandbox, vendors: Vendors):
    assert post(vendors, {"background.prompt": "x"}, params={"outputSize": "auto"}).status_code == 400
    headers = vendors.auth("photoroom")
    assert vendors.http.post("/v2/edit", headers=headers, data={"background.prompt": "x"}).status_code == 400
    without = vendors.http.post("/v2/edit", headers=headers, files={"background.prompt": (None, "x")})
    assert "imageFile: must be provided" in without.json()["error"]["message"]


def test_get_takes_urls_in_the_query(box: Sandbox, vendors: Vendors):
    url = vendors.host(vendors.png)
    response = get(vendors, imageUrl=url, **{"background.prompt": "x", "background.guidance.imageUrl": url})
    assert opened(response).format == "PNG"
    assert response.headers["pr-edit-further-url"]
    assert get(vendors, **{"background.prompt": "x"}).status_code == 400
    assert get(vendors, imageUrl=url, unknown="x").status_code == 400
    assert get(vendors, imageUrl=f"{vendors.image_url}/missing.png").status_code == 400
    assert box.images_charged() == 1


@pytest.mark.parametrize(
    ("fields", "files"),
    [
        ({"background.prompt": "x"}, ["background.imageFile"]),
        ({}, ["background.imageFile", "background.guidance.imageFile"]),
        ({"removeBackground": "false"}, ["background.guidance.imageFile"]),
        ({"removeBackground": "false"}, ["background.imageFile"]),
        ({"colorSpace": "original"}, ["background.imageFile"]),
    ],
)
def test_pictures_that_exclude_something(box: Sandbox, vendors: Vendors, fields, files):
    response = post(vendors, fields, dict.fromkeys(files, ("b.png", vendors.png)))
    assert response.status_code == 400


@pytest.mark.parametrize(
    ("fields", "files"),
    [
        ({"background.prompt": "x", "background.guidance.scale": "1"}, ["background.guidance.imageFile"]),
        ({"background.scaling": "fit"}, ["background.imageFile"]),
    ],
)
def test_pictures_behind_the_product(box: Sandbox, vendors: Vendors, fields, files):
    opened(post(vendors, fields, dict.fromkeys(files, ("b.png", vendors.png))))


@pytest.mark.parametrize("key", [None, "bad-key"])
def test_a_missing_or_wrong_key_is_403_without_a_body(box: Sandbox, vendors: Vendors, key):
    headers = {"x-api-key": key} if key else {}
    response = vendors.http.get("/v2/edit", headers=headers)
    assert (response.status_code, response.content) == (403, b"")


def test_the_account_can_be_asked(box: Sandbox, vendors: Vendors):
    box.set_credits("photoroom", 83)
    headers = vendors.auth("photoroom")
    answer = vendors.http.get("/v2/account", headers=headers).json()
    assert answer == {"images": {"available": 83, "subscription": 83}, "plan": "basic"}
    assert vendors.http.get("/v1/account", headers=headers).json()["credits"]["available"] == 83
    missing = vendors.http.get("/v2/account")
    assert (missing.status_code, missing.json()) == (400, {"error": {"message": "apiKey: Required"}})
    assert vendors.http.get("/v2/account", headers={"x-api-key": "bad"}).status_code == 403


def test_a_sandbox_key_costs_nothing_and_marks_the_picture(box: Sandbox, vendors: Vendors):
    fields = {"background.prompt": "x", "background.seed": "5"}
    paid = post(vendors, fields)
    free = post(vendors, fields, headers={"X-API-KEY": "sandbox_key"})
    assert opened(free).size == opened(paid).size
    assert free.content != paid.content
    assert box.images_charged() == 1


def test_the_seed_comes_back(box: Sandbox, vendors: Vendors):
    asked = post(vendors, {"background.prompt": "x", "background.seed": "5"})
    assert asked.headers["pr-ai-background-seed"] == "5"
    made_up = post(vendors, {"background.prompt": "x"})
    seed = made_up.headers["pr-ai-background-seed"]
    assert int(seed) > 0
    assert post(vendors, {"background.prompt": "x", "background.seed": seed}).content == made_up.content
    assert "pr-ai-background-seed" not in post(vendors, {"background.color": "red"}).headers


@pytest.mark.parametrize("version", ["3", "background-studio-beta-2025-03-17", "2"])
def test_models(box: Sandbox, vendors: Vendors, version):
    header = {"pr-ai-background-model-version": version}
    assert post(vendors, {"background.prompt": "x"}, headers=header).status_code == 200


def test_an_unknown_model_is_refused(box: Sandbox, vendors: Vendors):
    for header in ({"pr-ai-background-model-version": "4"}, {"pr-ai-background-model": "3"}):
        assert post(vendors, {"background.prompt": "x"}, headers=header).status_code == 400


def test_guidance_scale_is_ignored_by_the_old_model_and_billed(box: Sandbox, vendors: Vendors):
    response = post(
        vendors,
        {"background.guidance.scale": "1"},
        {"background.guidance.imageFile": ("b.png", vendors.png)},
        {"pr-ai-background-model-version": "2"},
    )
    assert response.headers["pr-unsupported-attributes"] == "Unsupported attributes: background.guidance.scale"
    assert box.images_charged() == 1


@pytest.mark.parametrize("kind", ["png", "jpeg", "jpg", "webp", "avif"])
def test_export_formats(box: Sandbox, vendors: Vendors, kind):
    response = post(vendors, {"background.prompt": "x", "export.format": kind})
    name = kind.replace("jpg", "jpeg")
    assert (opened(response).format, response.headers["content-type"]) == (name.upper(), f"image/{name}")


def test_export_dpi(box: Sandbox, vendors: Vendors):
    picture = opened(post(vendors, {"background.prompt": "x", "export.format": "jpeg", "export.dpi": "300"}))
    assert picture.info["dpi"] == (300, 300)


@pytest.mark.parametrize(
    ("fields", "size"),
    [
        ({}, (300, 280)),
        ({"outputSize": "originalImage"}, (300, 280)),
        ({"outputSize": "originalImage", "maxHeight": "140"}, (150, 140)),
        ({"outputSize": "croppedSubject"}, (151, 141)),
        ({"outputSize": "640x200", "padding": "10%"}, (640, 200)),
        ({"outputSize": "90x400", "scaling": "fill", "verticalAlignment": "top"}, (90, 400)),
    ],
)
def test_output_sizes(box: Sandbox, vendors: Vendors, fields, size):
    assert opened(post(vendors, {"background.prompt": "x"} | fields)).size == size


def test_the_whole_picture_as_reference_leaves_the_product_where_it_is(box: Sandbox, vendors: Vendors):
    product = Image.open(io.BytesIO(vendors.png))
    kept = opened(post(vendors, {"background.prompt": "x", "referenceBox": "originalImage"})).convert("RGBA")
    alpha = product.getchannel("A")
    opaque = [(x, y) for x in range(0, 300, 7) for y in range(0, 280, 7) if alpha.getpixel((x, y)) == 255]
    assert opaque
    assert all(kept.getpixel(point) == product.getpixel(point) for point in opaque)


def test_without_a_background_the_ground_is_transparent(box: Sandbox, vendors: Vendors):
    assert opened(post(vendors)).convert("RGBA").getchannel("A").getpixel((0, 0)) == 0


@pytest.mark.parametrize("image", [b"text", cut_out(kind="TIFF")])
def test_only_png_jpeg_and_webp_are_taken(box: Sandbox, vendors: Vendors, image):
    response = post(vendors, {"background.prompt": "x"}, {"imageFile": ("a", image)})
    assert response.status_code == 400
