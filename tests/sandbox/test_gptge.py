from __future__ import annotations

import json
import time

import pytest

from airflow_provider_bgai.sandbox import Sandbox

from .conftest import Vendors


@pytest.mark.parametrize(
    ("change", "complaint"),
    [
        ({"batch_size": None}, "batch_size is required"),
        ({"batch_size": "5"}, "batch_size"),
        ({"batch_size": "0"}, "batch_size"),
        ({"prompt": None}, "prompt is required"),
        ({"prompt": "x" * 1025}, "1024"),
        ({"sync": "2"}, "sync"),
        ({"callback_url": "nowhere"}, "callback_url"),
        ({"image_url": "https://example.com/a.png"}, "exactly one"),
        ({"scene_type": "5"}, "scene_type is not a parameter"),
        ({"negative_prompt": "x"}, "negative_prompt is not a parameter"),
    ],
)
def test_a_wrong_field_is_refused_and_costs_nothing(box: Sandbox, vendors: Vendors, change, complaint):
    response = vendors.submit("gptge", **change)
    assert (response.status_code, response.json()["status"]) == (400, 400)
    assert complaint in response.json()["message"]
    assert box.charges == []


def test_only_multipart_is_accepted(box: Sandbox, vendors: Vendors):
    fields = {"prompt": "x", "batch_size": "1", "image_url": vendors.host(vendors.png)}
    refused = vendors.http.post("/task/pic/background", headers=vendors.auth("gptge"), data=fields)
    assert refused.status_code == 400
    parts = {name: (None, value) for name, value in fields.items()}
    accepted = vendors.http.post("/task/pic/background", headers=vendors.auth("gptge"), files=parts)
    assert vendors.finish("gptge", accepted)["state"] == 1


@pytest.mark.parametrize("header", [{}, {"Authorization": "Bearer bad"}, {"Authorization": "sk-1"}])
def test_a_missing_or_wrong_key_is_the_gateways_401(box: Sandbox, vendors: Vendors, header):
    response = vendors.http.post("/task/pic/background", headers=header)
    assert response.status_code == 401
    assert response.json()["error"]["type"] == "v_api_error"


def test_four_pictures_fill_four_slots(box: Sandbox, vendors: Vendors):
    data = vendors.finish("gptge", vendors.submit("gptge", batch_size="4"))
    assert all(vendors.http.get(data[f"image_{n}"]).status_code == 200 for n in range(1, 5))
    assert box.images_charged("gptge") == 4


def test_one_picture_is_in_image_as_in_the_pages_example(box: Sandbox, vendors: Vendors):
    data = vendors.finish("gptge", vendors.submit("gptge"))
    assert vendors.http.get(data["image"]).content.startswith(b"\x89PNG")
    assert "image_1" not in data


def test_sync_answers_with_the_result(box: Sandbox, vendors: Vendors):
    box.set_latency("gptge", 0.1)
    started = time.monotonic()
    data = vendors.submit("gptge", sync="1").json()["data"]
    assert time.monotonic() - started >= 0.1
    assert (data["state"], data["progress"]) == (1, 100)
    assert box.images_charged() == 1


def test_the_callback_gets_a_hint(box: Sandbox, vendors: Vendors):
    task_id = vendors.submit("gptge", callback_url=f"{vendors.image_url}/hook").json()["data"]["task_id"]
    deadline = time.monotonic() + 2
    while "last post" not in vendors.served and time.monotonic() < deadline:
        time.sleep(0.01)
    assert json.loads(vendors.served.pop("last post")) == {"status": 200, "task_id": task_id, "state": 1}


def test_polling_is_not_under_the_submit_path(box: Sandbox, vendors: Vendors):
    task_id = vendors.submit("gptge").json()["data"]["task_id"]
    wrong = vendors.http.get(f"/task/pic/background/{task_id}", headers=vendors.auth("gptge"))
    assert wrong.status_code == 404
    assert vendors.poll("gptge", task_id).status_code == 200
