from __future__ import annotations

import contextlib
import io
import time
from email.utils import parsedate_to_datetime

import httpx
import pytest
from PIL import Image

from airflow_provider_bgai.sandbox import CHARGED, FAULTS, Sandbox
from airflow_provider_bgai.sandbox.faults import Fault, Faults
from airflow_provider_bgai.sandbox.registry import load_vendors

from .conftest import Vendors

KNOWN = load_vendors()
ALL = list(KNOWN)
WITH_TASKS = [name for name, vendor in KNOWN.items() if vendor.answers == "task"]
WITH_BYTES = [name for name, vendor in KNOWN.items() if vendor.answers == "bytes"]
WITH_LINKS = [name for name in ALL if name not in WITH_BYTES]


def picture_under_fault(box: Sandbox, vendors: Vendors, vendor: str, fault: str, **details) -> httpx.Response:
    """The answer that should have been a picture."""
    if vendor in WITH_BYTES:
        box.fault(vendor, fault, **details)
        return vendors.submit(vendor)
    url = vendors.result_url(vendor)
    box.fault(vendor, fault, on="download", **details)
    return vendors.http.get(url)


@pytest.mark.parametrize("fault", sorted(FAULTS))
def test_a_submission_is_on_the_bill_as_charged_says(box: Sandbox, vendors: Vendors, fault):
    vendors.http.timeout = httpx.Timeout(0.5 if "hang" in fault else 5)
    hit = [vendor for vendor in ALL if "submit" in FAULTS[fault].get(vendor, ())]
    for vendor in hit:
        box.fault(vendor, fault, on="submit", delay=0, size=1 << 20)
        with contextlib.suppress(httpx.TransportError):
            vendors.submit(vendor)
    assert {vendor: bool(box.bill()[vendor]) for vendor in hit} == dict.fromkeys(hit, fault in CHARGED)


@pytest.mark.parametrize("vendor", ALL)
@pytest.mark.parametrize("error", ["server_error", "unavailable"])
def test_an_error_looks_the_same_before_and_after_the_charge(box: Sandbox, vendors: Vendors, vendor, error):
    answers = []
    for fault, charged in ((error, 0), (f"{error}_after_charge", 1)):
        box.fault(vendor, fault)
        answers.append(vendors.submit(vendor))
        assert box.images_charged(vendor) == charged
    before, after = answers
    assert (after.status_code, after.content) == (before.status_code, before.content)
    assert after.headers.get("content-type") == before.headers.get("content-type") != "text/html; charset=utf-8"


@pytest.mark.parametrize("vendor", ALL)
@pytest.mark.parametrize(("error", "status"), [("server_error", 500), ("unavailable", 503)])
def test_a_gateway_speaks_html_after_the_charge(box: Sandbox, vendors: Vendors, vendor, error, status):
    box.fault(vendor, f"{error}_after_charge_html")
    response = vendors.submit(vendor)
    assert (response.status_code, response.headers["content-type"]) == (status, "text/html; charset=utf-8")
    assert response.text.startswith(f"<html><head><title>{status} ")
    assert box.images_charged(vendor) == 1


def test_a_refusal_is_no_charge_that_went_wrong(box: Sandbox, vendors: Vendors):
    box.set_credits("picwish", 0)
    box.fault("picwish", "server_error_after_charge")
    assert vendors.submit("picwish").status_code == 402
    assert box.charges == []


@pytest.mark.parametrize(
    ("vendor", "asked", "more", "fewer"),
    [("picwish", 1, 2, 1), ("picwish", 2, 3, 1), ("gptge", 1, 2, 1), ("gptge", 4, 4, 3), ("katalis", 2, 3, 1)],
)
def test_the_pictures_made_are_billed_not_those_asked(box: Sandbox, vendors: Vendors, vendor, asked, more, fewer):
    ask = {"result_number": asked} if vendor == "katalis" else {"batch_size": str(asked)}
    for fault, made in (("slow", asked), ("more_pictures", more), ("fewer_pictures", fewer)):
        box.fault(vendor, fault, on="submit", delay=0)
        answer = vendors.submit(vendor, **ask)
        if vendor == "katalis":
            links = answer.json()["data"][0]["generated_image_urls"]
        else:
            links = [url for name, url in vendors.finish(vendor, answer).items() if name.startswith("image") and url]
        assert len({vendors.http.get(link).content for link in links}) == len(links) == made
        assert box.charges[-1].images == made
    assert len({charge.fingerprint for charge in box.charges}) == 1  # of the wish, whatever came of it


def test_katalis_has_other_words_for_success(box: Sandbox, vendors: Vendors):
    box.fault("katalis", "odd_success_word", times=4)
    box.fault("katalis", "odd_success_word", word="Done")
    bodies = [vendors.submit("katalis").json() for _ in range(6)]
    words = ["Completed", "success!", "Partial success", "Completed", "Done", "Success"]
    assert [body["message"] for body in bodies] == words
    links = [link for body in bodies for item in body["data"] for link in item["generated_image_urls"]]
    assert [vendors.http.get(link).status_code for link in links] == [200] * 6
    assert box.images_charged() == 6


def test_katalis_charges_for_words_alone(box: Sandbox, vendors: Vendors):
    box.fault("katalis", "words_without_pictures", word="Processed")
    response = vendors.submit("katalis", result_number=2)
    assert (response.status_code, response.json()) == (200, {"message": "Processed", "data": []})
    assert box.images_charged() == 2


@pytest.mark.parametrize("vendor", ALL)
@pytest.mark.parametrize(
    ("fault", "status"),
    [
        ("rate_limited", {429}),
        ("server_error", {500}),
        ("unavailable", {503}),
        ("bad_gateway", {502}),
        ("bad_key", {401, 403}),
        ("quota_spent", {402, 403}),
        ("moderation", {400}),
        ("html_200", {200}),
    ],
)
def test_refusals_are_not_charged_and_pass(box: Sandbox, vendors: Vendors, vendor, fault, status):
    box.fault(vendor, fault)
    response = vendors.submit(vendor)
    assert response.status_code in status
    assert "retry-after" not in response.headers
    assert box.charges == []
    assert vendors.submit(vendor).status_code == 200
    assert [request.fault for request in box.requests] == [fault, None]


def test_spent_quota_has_each_vendors_own_form(box: Sandbox, vendors: Vendors):
    for vendor in ALL:
        box.fault(vendor, "quota_spent")
    answers = {vendor: vendors.submit(vendor).json() for vendor in ALL}
    assert answers["photoroom"]["error"]["detail"].startswith("API credits exhausted")
    assert answers["imagine"]["code"] == 1101
    assert answers["gptge"]["error"]["code"] == "insufficient_user_quota"


@pytest.mark.parametrize("vendor", ALL)
def test_credits_run_out(box: Sandbox, vendors: Vendors, vendor):
    box.set_credits(vendor, 1)
    assert vendors.submit(vendor).status_code == 200
    assert vendors.submit(vendor).status_code in (402, 403)
    assert box.images_charged(vendor) == 1


def test_retry_after_in_seconds_and_as_a_date(box: Sandbox, vendors: Vendors):
    box.fault("picwish", "rate_limited_retry_after", retry_after=7)
    assert vendors.submit("picwish").headers["retry-after"] == "7"
    box.fault("picwish", "rate_limited_retry_after_date", retry_after=60)
    when = parsedate_to_datetime(vendors.submit("picwish").headers["retry-after"])
    assert 55 < when.timestamp() - time.time() < 65


@pytest.mark.parametrize("vendor", ALL)
@pytest.mark.parametrize(("fault", "charged"), [("drop_before_charge", 0), ("drop_after_charge", 1)])
def test_the_line_drops_without_an_answer(box: Sandbox, vendors: Vendors, vendor, fault, charged):
    box.fault(vendor, fault)
    with pytest.raises((httpx.RemoteProtocolError, httpx.ReadError)):
        vendors.submit(vendor)
    assert box.images_charged(vendor) == charged
    assert vendors.submit(vendor).status_code == 200


@pytest.mark.parametrize("vendor", ALL)
def test_the_line_drops_in_the_middle_of_the_body(box: Sandbox, vendors: Vendors, vendor):
    box.fault(vendor, "drop_mid_body")
    with pytest.raises(httpx.RemoteProtocolError, match=r"incomplete|without sending complete"):
        vendors.submit(vendor)
    assert box.images_charged(vendor) == 1


@pytest.mark.parametrize("fault", ["drop_before_charge", "drop_after_charge", "drop_mid_body"])
def test_polls_and_downloads_drop_without_a_charge(box: Sandbox, vendors: Vendors, fault):
    url = vendors.result_url("picwish")
    task_id = box.charges[0].task_id
    for on, act in (
        ("poll", lambda: vendors.poll("picwish", task_id)),
        ("download", lambda: vendors.http.get(url)),
    ):
        box.fault("picwish", fault, on=on)
        with pytest.raises(httpx.TransportError):
            act()
        assert act().status_code == 200
    assert box.images_charged() == 1


@pytest.mark.parametrize("vendor", ALL)
@pytest.mark.parametrize(("fault", "charged"), [("hang", 0), ("hang_after_charge", 1)])
def test_a_hang_lasts_until_the_client_leaves(box: Sandbox, vendors: Vendors, vendor, fault, charged):
    box.fault(vendor, fault)
    vendors.http.timeout = httpx.Timeout(0.3)
    with pytest.raises(httpx.ReadTimeout):
        vendors.submit(vendor)
    assert box.images_charged(vendor) == charged


@pytest.mark.parametrize("vendor", ["imagine", "photoroom", "katalis"])
def test_a_client_that_gives_up_is_charged_all_the_same(box: Sandbox, vendors: Vendors, vendor):
    box.set_latency(vendor, 0.3)
    vendors.http.timeout = httpx.Timeout(0.1)
    with pytest.raises(httpx.ReadTimeout):
        vendors.submit(vendor)
    time.sleep(0.4)
    assert box.images_charged(vendor) == 1


@pytest.mark.parametrize("vendor", ALL)
def test_a_page_instead_of_an_answer_after_the_charge(box: Sandbox, vendors: Vendors, vendor):
    box.fault(vendor, "html_200_after_charge")
    response = vendors.submit(vendor)
    assert response.status_code == 200
    assert response.text.startswith("<!doctype html>")
    assert box.images_charged(vendor) == 1


@pytest.mark.parametrize("vendor", WITH_LINKS)
@pytest.mark.parametrize(("fault", "status"), [("rate_limited", 429), ("server_error", 500), ("unavailable", 503)])
def test_the_store_behind_the_links_speaks_xml(box: Sandbox, vendors: Vendors, vendor, fault, status):
    response = picture_under_fault(box, vendors, vendor, fault)
    assert (response.status_code, response.headers["content-type"]) == (status, "application/xml")


@pytest.mark.parametrize("vendor", ALL)
def test_a_truncated_image_is_a_whole_message(box: Sandbox, vendors: Vendors, vendor):
    response = picture_under_fault(box, vendors, vendor, "truncated_image")
    assert int(response.headers["content-length"]) == len(response.content)
    picture = Image.open(io.BytesIO(response.content))
    with pytest.raises(OSError, match=r"truncated|broken|unrecognized"):
        picture.load()


@pytest.mark.parametrize("vendor", ALL)
def test_a_huge_image_streams_past_any_cap(box: Sandbox, vendors: Vendors, vendor):
    response = picture_under_fault(box, vendors, vendor, "huge_image", size=8 * 1024 * 1024)
    assert "content-length" not in response.headers
    assert len(response.content) > 8 * 1024 * 1024


@pytest.mark.parametrize("vendor", ALL)
def test_a_bomb_is_small_on_the_wire(box: Sandbox, vendors: Vendors, vendor):
    response = picture_under_fault(box, vendors, vendor, "bomb_image")
    assert response.content.startswith(b"\x89PNG")
    assert len(response.content) < 100_000


@pytest.mark.parametrize("vendor", ALL)
def test_a_good_picture_with_a_wrong_label(box: Sandbox, vendors: Vendors, vendor):
    response = picture_under_fault(box, vendors, vendor, "wrong_content_type")
    assert response.headers["content-type"].startswith("text/plain")
    Image.open(io.BytesIO(response.content)).load()


def test_slow_is_late_but_right(box: Sandbox, vendors: Vendors):
    box.fault("imagine", "slow", delay=0.2)
    started = time.monotonic()
    assert vendors.submit("imagine").status_code == 200
    assert time.monotonic() - started >= 0.2
    box.fault_rate("imagine.slow", 1, delay=0.3)
    assert vendors.submit("imagine").status_code == 200
    assert time.monotonic() - started >= 0.5


@pytest.mark.parametrize(
    "details",
    [{"delay": "2"}, {"delay": -1}, {"delay": float("nan")}, {"size": 1.5}, {"word": 1}, {"times": 0}],
)
def test_a_detail_that_makes_no_sense_is_an_error(box: Sandbox, details):
    with pytest.raises(ValueError, match="fault"):
        box.fault("katalis", "odd_success_word", **details)


@pytest.mark.parametrize("vendor", WITH_TASKS)
@pytest.mark.parametrize("state", [-1, -2, -3, -5, -7, -8])
def test_failed_tasks_are_not_charged(box: Sandbox, vendors: Vendors, vendor, state):
    box.fault(vendor, f"state_{state}")
    data = vendors.finish(vendor, vendors.submit(vendor))
    assert data["state"] == state
    assert data["state_detail"]
    assert box.charges == []


@pytest.mark.parametrize("vendor", WITH_TASKS)
def test_a_task_that_never_ends(box: Sandbox, vendors: Vendors, vendor):
    box.fault(vendor, "pending_forever")
    task_id = vendors.submit(vendor).json()["data"]["task_id"]
    assert vendors.poll(vendor, task_id).json()["data"]["state"] in (0, 2, 3, 4)
    assert box.charges == []


@pytest.mark.parametrize("vendor", WITH_TASKS)
def test_not_found_only_until_the_task_was_seen(box: Sandbox, vendors: Vendors, vendor):
    task_id = vendors.submit(vendor).json()["data"]["task_id"]
    box.fault(vendor, "not_found_first", times=2)
    box.fault_rate(f"{vendor}.not_found_first", 1)
    assert [vendors.poll(vendor, task_id).status_code for _ in range(2)] == [404, 404]
    box.clear_faults()
    assert vendors.poll(vendor, task_id).status_code == 200
    box.fault_rate(f"{vendor}.not_found_first", 1)
    assert vendors.poll(vendor, task_id).status_code == 200


@pytest.mark.parametrize("vendor", WITH_TASKS)
def test_a_poll_without_a_state(box: Sandbox, vendors: Vendors, vendor):
    task_id = vendors.submit(vendor).json()["data"]["task_id"]
    box.fault(vendor, "no_state")
    assert "state" not in vendors.poll(vendor, task_id).json()["data"]


@pytest.mark.parametrize("vendor", WITH_TASKS)
def test_one_expired_link(box: Sandbox, vendors: Vendors, vendor):
    assert picture_under_fault(box, vendors, vendor, "expired_url").status_code == 403


def test_unsupported_attributes_are_billed(box: Sandbox, vendors: Vendors):
    box.fault("photoroom", "unsupported_attributes")
    response = vendors.submit("photoroom")
    assert response.headers["pr-unsupported-attributes"] == "Unsupported attributes: background.inner"
    assert box.images_charged() == 1


def test_katalis_can_fail_with_status_200(box: Sandbox, vendors: Vendors):
    box.fault("katalis", "not_success_200")
    response = vendors.submit("katalis")
    assert (response.status_code, response.json()["data"]) == (200, [])
    assert response.json()["message"] != "Success"
    assert box.charges == []


@pytest.mark.parametrize("fault", sorted(FAULTS))
def test_every_fault_can_be_queued_wherever_it_makes_sense(fault):
    faults = Faults(FAULTS)
    for vendor in FAULTS[fault]:
        for kind in faults.kinds_hit(vendor, fault):
            faults.queue(vendor, Fault(fault), on=kind)
            assert faults.draw(vendor, kind) == Fault(fault)
            assert faults.draw(vendor, kind) is None


@pytest.mark.parametrize(
    ("vendor", "fault", "on"),
    [
        ("picwish", "no_such_fault", None),
        ("nobody", "rate_limited", None),
        ("photoroom", "state_-1", None),
        ("imagine", "expired_url", None),
        ("picwish", "not_success_200", None),
        ("picwish", "truncated_image", "poll"),
        ("imagine", "rate_limited", "poll"),
    ],
)
def test_a_fault_that_makes_no_sense_is_an_error(box: Sandbox, vendor, fault, on):
    with pytest.raises(ValueError, match=r"fault|vendor"):
        box.fault(vendor, fault, on=on)


@pytest.mark.parametrize(
    "spec",
    ["no_such_fault", "nobody.rate_limited", "photoroom.state_-1", "picwish.no_state@submit", "no_state@x"],
)
def test_a_rate_that_matches_nothing_is_an_error(spec):
    with pytest.raises(ValueError, match=r"fault|vendor"):
        Sandbox(faults={spec: 0.1})


@pytest.mark.parametrize("rate", [-0.1, 1.1])
def test_a_rate_is_a_share(rate):
    with pytest.raises(ValueError, match="between 0 and 1"):
        Faults(FAULTS).set_rate("rate_limited", rate)


def test_rates_are_drawn_alike_for_the_same_seed():
    def drawn(seed: int) -> list[str | None]:
        faults = Faults(FAULTS, seed)
        faults.set_rate("rate_limited", 0.2)
        faults.set_rate("picwish.drop_after_charge@submit", 0.3)
        hits = [faults.draw("picwish", "submit") for _ in range(2000)]
        return [fault.name if fault else None for fault in hits]

    names = drawn(1)
    assert names == drawn(1) != drawn(2)
    assert 0.17 < names.count("rate_limited") / 2000 < 0.23
    assert 0.27 < names.count("drop_after_charge") / 2000 < 0.33


def test_rates_stay_where_they_belong():
    faults = Faults(FAULTS)
    faults.set_rate("picwish.rate_limited@poll", 1)
    assert faults.draw("picwish", "poll") == Fault("rate_limited")
    assert faults.draw("picwish", "submit") is faults.draw("gptge", "poll") is None


@pytest.mark.parametrize("vendor", WITH_LINKS + WITH_BYTES)
def test_pictures_that_are_whole_and_wrong(box: Sandbox, vendors: Vendors, vendor):
    right = picture_under_fault(box, vendors, vendor, "slow", delay=0).content
    redrawn = picture_under_fault(box, vendors, vendor, "redrawn_product").content
    blank = picture_under_fault(box, vendors, vendor, "blank_image").content
    size = Image.open(io.BytesIO(right)).size
    assert Image.open(io.BytesIO(redrawn)).size == Image.open(io.BytesIO(blank)).size == size
    corner, middle = (2, 2), (size[0] // 2, size[1] // 2)
    true, false = (Image.open(io.BytesIO(data)).convert("RGB") for data in (right, redrawn))
    if vendor in WITH_LINKS:  # the others paint with another seed each time
        assert true.getpixel(corner) == false.getpixel(corner)
    assert true.getpixel(middle) != false.getpixel(middle)
    colours = Image.open(io.BytesIO(blank)).convert("RGB").getcolors()
    assert colours is not None
    assert len(colours) == 1
