from __future__ import annotations

import time
from urllib.parse import parse_qs, urlsplit

import pytest

from airflow_provider_bgai.sandbox import Sandbox
from airflow_provider_bgai.sandbox.paint import bomb

from .conftest import Vendors, cut_out


@pytest.mark.parametrize(
    ("change", "complaint"),
    [
        ({"scene_type": "5"}, "exactly one of prompt and scene_type"),
        ({"prompt": None}, "exactly one of prompt and scene_type"),
        ({"prompt": "x" * 1025}, "1024"),
        ({"prompt": None, "scene_type": "five"}, "scene_type must be an integer"),
        ({"batch_size": "0"}, "batch_size"),
        ({"batch_size": "3"}, "batch_size"),
        ({"batch_size": "two"}, "batch_size"),
        ({"image_url": "https://example.com/a.png"}, "exactly one of image_url and image_file"),
        ({"image_file": "x"}, "image_file is given twice"),
        ({"sync": "1"}, "sync is not a parameter"),
        ({"return_type": "2"}, "return_type is not a parameter"),
        ({"callback_url": "https://example.com"}, "callback_url is not a parameter"),
        ({"seed": "1"}, "seed is not a parameter"),
        ({"prompt": ["a", "b"]}, "prompt is given twice"),
    ],
)
def test_a_wrong_field_is_refused_and_costs_nothing(box: Sandbox, vendors: Vendors, change, complaint):
    response = vendors.submit("picwish", **change)
    assert (response.status_code, response.json()["status"]) == (400, 400)
    assert complaint in response.json()["message"]
    assert box.charges == []


@pytest.mark.parametrize("key", [None, "", "bad-key"])
def test_a_missing_or_wrong_key_is_401(box: Sandbox, vendors: Vendors, key):
    headers = {} if key is None else {"X-API-KEY": key}
    for response in (
        vendors.http.post("/api/tasks/visual/background", headers=headers, data={"prompt": "x"}),
        vendors.http.get("/api/tasks/visual/background/abc", headers=headers),
        vendors.http.get("/api/customers/package-credits", headers=headers),
    ):
        assert (response.status_code, response.json()["status"]) == (401, 401)


def test_a_file_over_20_mb_is_413(box: Sandbox, vendors: Vendors):
    response = vendors.submit("picwish", image=b"\x89PNG" + bytes(20 * 1024 * 1024))
    assert response.status_code == 413


def test_without_batch_size_two_pictures_are_made_and_billed(box: Sandbox, vendors: Vendors):
    data = vendors.finish("picwish", vendors.submit("picwish", batch_size=None))
    assert [bool(data[f"image_{n}"]) for n in (1, 2, 3, 4)] == [True, True, False, False]
    assert box.images_charged("picwish") == 2


def test_one_picture_leaves_the_other_slots_empty(box: Sandbox, vendors: Vendors):
    data = vendors.finish("picwish", vendors.submit("picwish", batch_size="1"))
    assert data["image_1"]
    assert [data[f"image_{n}"] for n in (2, 3, 4)] == ["", "", ""]
    assert box.images_charged("picwish") == 1


@pytest.mark.parametrize("change", [{"prompt": None, "scene_type": "5"}, {"prompt": "x" * 1024, "image_url": ""}])
def test_what_is_documented_is_accepted(box: Sandbox, vendors: Vendors, change):
    data = vendors.finish("picwish", vendors.submit("picwish", negative_prompt="people", **change))
    assert data["state"] == 1


def test_a_url_is_fetched(box: Sandbox, vendors: Vendors):
    url = vendors.host(vendors.png)
    fields = {"prompt": "a beach", "batch_size": "1", "image_url": url}
    response = vendors.http.post(
        "/api/tasks/visual/background", headers=vendors.auth("picwish"), data=fields
    )  # httpx sends this form URL-encoded: no encoding is documented
    assert vendors.finish("picwish", response)["state"] == 1


@pytest.mark.parametrize(
    ("image", "state"),
    [
        (cut_out(kind="WEBP"), -7),
        (b"not a picture", -7),
        (cut_out()[:200], -7),
        (cut_out(mode="RGB"), -7),
        (cut_out((255, 300)), -5),
        (cut_out((256, 4097)), -5),
        (cut_out((256, 256)), 1),
        (bomb(), -5),
        (cut_out(mode="P"), 1),
    ],
    ids=["webp", "text", "cut short", "opaque", "255 px", "4097 px", "256 px", "bomb", "palette"],
)
def test_a_picture_is_judged_after_acceptance(box: Sandbox, vendors: Vendors, image, state):
    data = vendors.finish("picwish", vendors.submit("picwish", image=image))
    assert data["state"] == state
    assert box.images_charged() == (1 if state == 1 else 0)


@pytest.mark.parametrize("url", ["http://127.0.0.1:9/a.png", "http://a..b/", "/missing.png"])
def test_a_url_that_cannot_be_fetched_ends_in_minus_3(box: Sandbox, vendors: Vendors, url):
    url = url if url.startswith("http") else vendors.image_url + url
    fields = {"prompt": "a beach", "image_url": url}
    response = vendors.http.post("/api/tasks/visual/background", headers=vendors.auth("picwish"), data=fields)
    assert vendors.finish("picwish", response)["state"] == -3
    assert box.charges == []


@pytest.mark.parametrize("url", ["ftp://a/b.png", "b.png", "http://a:99999/", "http://[::1", f"https://a/{'x' * 512}"])
def test_what_is_no_url_is_refused(box: Sandbox, vendors: Vendors, url):
    response = vendors.http.post(
        "/api/tasks/visual/background",
        headers=vendors.auth("picwish"),
        data={"prompt": "a beach", "image_url": url},
    )
    assert response.status_code == 400


def test_a_task_goes_through_the_pending_states(box: Sandbox, vendors: Vendors):
    box.set_latency("picwish", 0.25)
    task_id = vendors.submit("picwish").json()["data"]["task_id"]
    states: list[int] = []
    progress: list[int] = []
    while not states or states[-1] != 1:
        data = vendors.poll("picwish", task_id).json()["data"]
        states.append(data["state"])
        progress.append(data["progress"])
        time.sleep(0.01)
    assert list(dict.fromkeys(states)) == [0, 2, 3, 4, 1]
    assert progress == sorted(progress)
    assert progress[-1] == 100


def test_a_task_nobody_polls_is_billed_once(box: Sandbox, vendors: Vendors):
    box.set_latency("picwish", 60)
    task_id = vendors.submit("picwish").json()["data"]["task_id"]
    vendors.poll("picwish", task_id)
    assert [(charge.task_id, charge.images, charge.key_hint) for charge in box.charges] == [(task_id, 1, "1234")]


def test_a_task_belongs_to_its_key(box: Sandbox, vendors: Vendors):
    task_id = vendors.submit("picwish").json()["data"]["task_id"]
    assert vendors.poll("picwish", task_id, key="another").status_code == 404
    assert vendors.poll("picwish", "no-such-task").json()["status"] == 404


def test_result_links_are_signed_and_need_no_key(box: Sandbox, vendors: Vendors):
    url = vendors.result_url("picwish")
    expires = int(parse_qs(urlsplit(url).query)["Expires"][0])
    assert abs(expires - time.time() - 3600) < 5
    response = vendors.http.get(url)
    assert response.headers["content-type"] == "image/png"
    assert response.content.startswith(b"\x89PNG")
    assert vendors.http.get(url.replace("Signature=", "Signature=0")).status_code == 403
    assert vendors.http.get(url.replace("Signature=", "Signature=é")).status_code == 403
    assert vendors.http.get(url.partition("?")[0]).status_code == 403
    assert vendors.http.get(url.replace("-1.png", "-2.png")).status_code == 403


def test_expired_links_answer_like_the_store(box: Sandbox, vendors: Vendors):
    response = vendors.submit("picwish")
    url = vendors.finish("picwish", response)["image_1"]
    box.expire_links()
    refused = vendors.http.get(url)
    assert (refused.status_code, refused.headers["content-type"]) == (403, "application/xml")
    assert "AccessDenied" in refused.text
    again = vendors.finish("picwish", response)["image_1"]
    assert vendors.http.get(again).status_code == 403  # polling again signs nothing anew, unless resign=True


def test_links_of_a_task_still_at_work_outlive_the_others(box: Sandbox, vendors: Vendors):
    box.set_latency("picwish", 0.1)
    response = vendors.submit("picwish")
    box.expire_links()
    assert vendors.http.get(vendors.finish("picwish", response)["image_1"]).status_code == 200


@pytest.mark.parametrize("vendor", ["picwish", "gptge"])
def test_forgotten_tasks_are_404_and_their_links_live_on(box: Sandbox, vendors: Vendors, vendor):
    response = vendors.submit(vendor)
    task_id, data = response.json()["data"]["task_id"], vendors.finish(vendor, response)
    vendors.http.post("/_sandbox/forget").raise_for_status()
    gone = vendors.poll(vendor, task_id)
    assert (gone.status_code, gone.json()) == (404, {"status": 404, "message": "task_id does not exist"})
    assert vendors.http.get(data.get("image") or data["image_1"]).status_code == 200
    assert vendors.finish(vendor, vendors.submit(vendor))["state"] == 1
    assert box.images_charged(vendor) == 2  # what is forgotten has been paid all the same


def test_resign_gives_fresh_links(make_vendors):
    with Sandbox(latency=0, resign=True) as box:
        vendors = make_vendors(box)
        response = vendors.submit("picwish")
        old = vendors.finish("picwish", response)["image_1"]
        box.expire_links()
        assert vendors.http.get(old).status_code == 403
        assert vendors.http.get(vendors.finish("picwish", response)["image_1"]).status_code == 200


def test_url_ttl_is_settable(make_vendors):
    with Sandbox(latency=0, url_ttl=-1) as box:
        vendors = make_vendors(box)
        assert vendors.http.get(vendors.result_url("picwish")).status_code == 403


def test_credits_are_told(box: Sandbox, vendors: Vendors):
    box.set_credits("picwish", 10)
    vendors.submit("picwish", batch_size="2")
    response = vendors.http.get("/api/customers/package-credits", headers=vendors.auth("picwish"))
    assert response.json()["data"] == [{"remaining_credits": 8, "used_credits": 2}]
