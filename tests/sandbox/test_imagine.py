from __future__ import annotations

import pytest

from airflow_provider_bgai.sandbox import Sandbox

from .conftest import Vendors


@pytest.mark.parametrize(
    ("change", "complaint"),
    [
        ({"prompt": None}, "prompt is required"),
        ({"style": "anime"}, "style anime does not exist"),
        ({"seed": "0"}, "seed"),
        ({"seed": "1.5"}, "seed"),
        ({"variation": "txt2img"}, "variation is not a parameter"),
        ({"negative_prompt": "x"}, "negative_prompt is not a parameter"),
        ({"image": b"not a picture"}, "valid image"),
    ],
)
def test_a_wrong_field_is_refused_and_costs_nothing(box: Sandbox, vendors: Vendors, change, complaint):
    response = vendors.submit("imagine", **change)
    body = response.json()
    assert (response.status_code, body["status"], body["code"]) == (400, "error", 1100)
    assert complaint in body["message"]
    assert box.charges == []


def test_the_image_must_be_a_file(box: Sandbox, vendors: Vendors):
    parts = {"prompt": (None, "x"), "image": (None, "https://example.com/a.png")}
    response = vendors.http.post("/v2/image/generations/ai-background", headers=vendors.auth("imagine"), files=parts)
    assert "image must be a file" in response.json()["message"]


@pytest.mark.parametrize(
    ("header", "status", "code"),
    [
        ({}, 400, 1000),
        ({"Authorization": "Bearer bad"}, 401, 1001),
        ({"Authorization": "Bearer expired"}, 406, 1002),
    ],
)
def test_keys_have_three_ways_to_be_wrong(box: Sandbox, vendors: Vendors, header, status, code):
    response = vendors.http.post("/v2/image/generations/ai-background", headers=header)
    assert (response.status_code, response.json()["code"]) == (status, code)


def test_the_answer_is_one_picture(box: Sandbox, vendors: Vendors):
    response = vendors.submit("imagine", style="product-shoot", seed="12")
    assert response.headers["content-type"] == "application/octet-stream"
    assert response.content.startswith(b"\x89PNG")
    assert box.images_charged("imagine") == 1


def test_the_same_seed_gives_the_same_picture(box: Sandbox, vendors: Vendors):
    first, again, other = (vendors.submit("imagine", seed=seed).content for seed in ("12", "12", "13"))
    assert first == again
    assert first != other
    assert vendors.submit("imagine").content != vendors.submit("imagine").content
