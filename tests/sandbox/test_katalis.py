from __future__ import annotations

import io

import pytest
from PIL import Image

from airflow_provider_bgai.sandbox import Sandbox

from .conftest import Vendors


@pytest.mark.parametrize(
    "change",
    [
        {"image_urls": None},
        {"image_urls": []},
        {"image_urls": "https://example.com/a.png"},
        {"image_urls": ["file:///etc/hosts"]},
        {"image_url": "https://example.com/a.png"},
        {"background": None},
        {"background": {}},
        {"background": {"prompt": ""}},
        {"background": {"prompt": "x", "style": "y"}},
        {"background": {"prompt": "x", "negative_prompt": 1}},
        {"background": {"prompt": "#12345"}},
        {"result_number": 0},
        {"result_number": "2"},
        {"result_number": True},
        {"seed": 1},
    ],
)
def test_a_wrong_field_is_refused_and_costs_nothing(box: Sandbox, vendors: Vendors, change):
    response = vendors.submit("katalis", **change)
    assert response.status_code == 400
    assert response.json()["message"] != "Success"
    assert box.charges == []


@pytest.mark.parametrize("content", [b"{", b"[]"])
def test_the_body_must_be_a_json_object(box: Sandbox, vendors: Vendors, content):
    headers = {"Content-Type": "application/json"}
    assert vendors.http.post("/service/v1/generate-image", headers=headers, content=content).status_code == 400
    assert vendors.http.post("/service/v1/generate-image", data={"a": "b"}).status_code == 400


def test_no_key_is_asked_for_but_a_wrong_one_is_refused(box: Sandbox, vendors: Vendors):
    assert vendors.submit("katalis").status_code == 200
    wrong = {"Authorization": "Bearer bad"}
    assert vendors.http.post("/service/v1/generate-image", headers=wrong, json={}).status_code == 401


def test_each_source_gets_its_results(box: Sandbox, vendors: Vendors):
    urls = [vendors.host(vendors.png), vendors.host(vendors.png)]
    body = vendors.submit("katalis", image_urls=urls, result_number=2).json()
    assert body["message"] == "Success"
    assert [item["original_image_url"] for item in body["data"]] == urls
    links = [link for item in body["data"] for link in item["generated_image_urls"]]
    assert len(set(links)) == 4
    assert not any("?" in link for link in links)
    pictures = [vendors.http.get(link).content for link in links]
    assert all(picture.startswith(b"\x89PNG") for picture in pictures)
    assert pictures[0] != pictures[1]
    assert box.images_charged("katalis") == 4


def test_links_are_public_and_live_until_told_otherwise(box: Sandbox, vendors: Vendors):
    url = vendors.result_url("katalis")
    assert vendors.http.get(url).status_code == 200
    box.expire_links()
    assert vendors.http.get(url).status_code == 403
    assert vendors.http.get(vendors.result_url("katalis")).status_code == 200


@pytest.mark.parametrize("content", [None, b"not a picture"])
def test_a_source_that_cannot_be_used_is_refused(box: Sandbox, vendors: Vendors, content):
    url = vendors.host(content) if content else f"{vendors.image_url}/missing.png"
    assert vendors.submit("katalis", image_urls=[url]).status_code == 400
    assert box.charges == []


@pytest.mark.parametrize(("prompt", "corner"), [("transparent", (0, 0, 0, 0)), ("#FF8000", (255, 128, 0, 255))])
def test_special_prompts(box: Sandbox, vendors: Vendors, prompt, corner):
    link = vendors.submit("katalis", background={"prompt": prompt}).json()["data"][0]["generated_image_urls"][0]
    picture = Image.open(io.BytesIO(vendors.http.get(link).content)).convert("RGBA")
    assert picture.getpixel((0, 0)) == corner
