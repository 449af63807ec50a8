"""Reading what vendors answer: anything may come, and only documented errors may come of it."""

from __future__ import annotations

import base64
import json
import time
from email.utils import formatdate
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from airflow_provider_bgai.exceptions import (
    AuthenticationError,
    BgaiError,
    ModerationError,
    PollError,
    QuotaError,
    RateLimitError,
    RefusedError,
    RetiredError,
    TaskNotFoundError,
    UnknownOutcomeError,
    VendorFaultError,
)
from airflow_provider_bgai.hooks.base import BackgroundHook
from airflow_provider_bgai.hooks.channel import Outgoing
from airflow_provider_bgai.hooks.gptge import GptGeHook
from airflow_provider_bgai.hooks.imagine import ImagineHook
from airflow_provider_bgai.hooks.katalis import KatalisHook, read_links
from airflow_provider_bgai.hooks.meaning import Answer, meaning, read_error, retry_after
from airflow_provider_bgai.hooks.photoroom import PhotoroomHook
from airflow_provider_bgai.hooks.picwish import PicWishHook, read_images
from airflow_provider_bgai.models import Generation
from airflow_provider_bgai.polling import askable

words = st.text() | st.sampled_from(["half of \ud83d", "\ude00"])
"""With halves of surrogate pairs, which JSON can hold and UTF-8 cannot."""
scalars = st.none() | st.booleans() | st.integers() | st.floats() | words
anything = st.recursive(scalars, lambda inner: st.lists(inner) | st.dictionaries(words, inner), max_leaves=8)
links = st.text(st.characters(min_codepoint=33, max_codepoint=126), min_size=1).map("https://a.example/".__add__)
pictures = st.binary(max_size=40).map(b"\x89PNG\r\n\x1a\n".__add__) | st.binary(max_size=40).map(
    b"\xff\xd8\xff".__add__
)


class Connection:
    password, host, port, schema = "key", None, None, None
    extra_dejson: dict[str, Any] = {}


HOOKS = [each(connection=Connection()) for each in (PicWishHook, PhotoroomHook, ImagineHook, KatalisHook, GptGeHook)]
PICWISH, PHOTOROOM, IMAGINE, KATALIS, GPTGE = HOOKS
PICTURE = b"\x89PNG\r\n\x1a\n and more"
ENCODED = base64.b64encode(PICTURE).decode()
SENT = Outgoing(method="POST", path="/", link="https://a.example/a.png")


def answer(body: object, status: int = 200) -> Answer:
    return Answer(status, {}, json.dumps(body).encode())


def generation(hook: BackgroundHook, body: object) -> Generation:
    """What a hook reads in an answer that says something."""
    found = hook.read(answer(body), SENT)
    assert found is not None
    return found


@given(st.binary())
def test_a_body_is_json_or_nothing(body):
    found = Answer(200, {}, body)
    assert found.json is None or json.dumps(found.json) is not None
    assert len(found.excerpt()) <= 4096


HALF = '"cut off in the middle of \\ud83d"'


@pytest.mark.parametrize(
    ("body", "read"),
    [
        (HALF.encode(), "cut off in the middle of ?"),
        (b'"a whole \\ud83d\\ude00, \\u00e4, and \\\\ud83d"', "a whole \U0001f600, ä, and \\ud83d"),
        (b'"\xed\xa0\xbd"', "\ufffd\ufffd\ufffd"),
        (b'"M\xfcller"', "M\ufffdller"),
        (HALF.encode("utf-16"), "cut off in the middle of ?"),
        ('"a"'.encode("utf-8-sig"), "a"),
    ],
)
def test_what_is_read_in_an_answer_can_be_written_down(body, read):
    assert Answer(200, {}, body).json == read


@given(anything)
def test_an_error_body_of_any_shape_gives_a_code_and_a_message(body):
    code, message = read_error(body)
    assert code is None or isinstance(code, str)
    assert isinstance(message, str)


@pytest.mark.parametrize(
    ("body", "read"),
    [
        ({"error": {"message": "a", "code": "b"}}, ("b", "a")),
        ({"error": {"detail": "a"}}, (None, "a")),
        ({"error": "a"}, (None, "a")),
        ({"error": "Bad Request", "message": "a", "code": 1100}, ("1100", "a")),
        ({"detail": "a"}, (None, "a")),
        ({"msg": "a"}, (None, "a")),
        ({"message": ""}, (None, "")),
        ("a", (None, "")),
        (None, (None, "")),
    ],
)
def test_each_vendors_error_body_is_understood(body, read):
    assert read_error(body) == read


@given(st.dictionaries(st.sampled_from(["image", *(f"image_{n}" for n in range(1, 5))]), anything))
def test_a_task_of_any_shape_gives_pictures_or_none(data):
    images = read_images(data)
    assert all(isinstance(image, bytes) or image.startswith(("http://", "https://")) for image in images)


def test_a_broken_picture_does_not_lose_the_whole_one_beside_it():
    assert read_images({"image_1": ["?"], "image_2": "https://a.example/2.png"}) == ("https://a.example/2.png",)


@given(st.lists(links | pictures, min_size=1, max_size=4), st.sampled_from(["raw", "data:image/png;base64,"]))
def test_pictures_come_back_in_order_as_links_data_uris_or_base64(images, form):
    def written(image: str | bytes) -> str:
        if isinstance(image, str):
            return image
        encoded = base64.b64encode(image).decode()
        return encoded if form == "raw" else form + encoded

    slots = {f"image_{place}": written(image) for place, image in enumerate(images, start=1)}
    empty = {f"image_{place}": "" for place in range(len(images) + 1, 5)}
    assert read_images(slots | empty | {"image": "ignored"}) == tuple(images)


@given(
    anything,
    st.dictionaries(
        st.sampled_from(["state", "task_id", "id", "image", "progress", "foreground_rect", "status", "message"]),
        anything,
    ),
)
@pytest.mark.parametrize("hook", HOOKS, ids=lambda hook: hook.vendor)
def test_an_answer_of_any_shape_is_pictures_or_a_task_or_nothing(hook, data, fields):
    for body in (data, {"data": data}, {"data": fields}, {"status": 200, "data": fields}, fields):
        found = hook.read(answer(body), SENT)
        assert found is None or isinstance(found, Generation)
        if found:
            assert found.state != "succeeded" or found.images
            assert found.state != "pending" or (found.task_id is not None and askable(found.task_id))
            assert found.state != "failed" or found.reason
        said = [str(hook.failure(answer(body, status), paid=True)) for status in (400, 500)]
        if found:
            said += filter(None, (found.task_id, found.reason, found.model, *found.warnings))
            said += (image for image in found.images if isinstance(image, str))
        assert "".join(said).encode()


@given(st.binary())
@pytest.mark.parametrize("hook", HOOKS, ids=lambda hook: hook.vendor)
def test_a_stored_body_of_any_kind_gives_pictures_or_a_value_error(hook, body):
    if hook.pictures(body):
        assert hook.read_stored(body) == hook.pictures(body)
    else:
        with pytest.raises(ValueError, match="no picture"):
            hook.read_stored(body)


@pytest.mark.parametrize(
    ("hook", "body"),
    [
        (PHOTOROOM, PICTURE),
        (IMAGINE, PICTURE),
        (IMAGINE, json.dumps({"image": ENCODED}).encode()),
        (IMAGINE, json.dumps({"image": f"data:image/png;base64,{ENCODED}"}).encode()),
        (GPTGE, json.dumps({"status": 200, "data": {"state": 1, "image": ENCODED}}).encode()),
        (PICWISH, json.dumps({"data": {"task_id": "a", "state": 1, "image_1": ENCODED}}).encode()),
    ],
)
def test_a_stored_answer_gives_the_pictures_that_the_answer_gave(hook, body):
    found = hook.read(Answer(200, {}, body), SENT)
    assert found.images == (PICTURE,) == hook.read_stored(body)


@given(anything)
def test_katalis_data_of_any_shape_gives_links_or_none(data):
    found = read_links({"data": data}, "https://a.example/a.png")
    assert all(isinstance(link, str) and link.startswith("http") for link in found)


# --- what an answer without pictures means for the money ---------------------------------------------

HTML = "<html><body>gateway</body></html>"
STATUSES = {
    301: AuthenticationError,
    303: UnknownOutcomeError,
    400: RefusedError,
    401: AuthenticationError,
    402: QuotaError,
    403: AuthenticationError,
    404: RetiredError,
    407: AuthenticationError,
    408: UnknownOutcomeError,
    409: UnknownOutcomeError,
    410: RetiredError,
    413: RefusedError,
    422: RefusedError,
    429: RateLimitError,
    499: UnknownOutcomeError,
    500: UnknownOutcomeError,
    502: UnknownOutcomeError,
    503: UnknownOutcomeError,
    504: UnknownOutcomeError,
    520: UnknownOutcomeError,
}
OWN_500 = {
    "picwish": {"status": 500, "message": "Server exception"},
    "photoroom": {"error": {"message": "An unexpected error occurred"}},
    "imagine": {"status": "error", "code": 1200, "error": "Bad", "message": "service not available"},
    "katalis": {"message": "Internal server error"},
    "gptge": {"error": {"message": "upstream", "type": "v_api_error", "param": "", "code": "bad_response"}},
}


def judged(hook, status: int, body: object, *, paid: bool = True) -> type[BgaiError]:
    raw = body.encode() if isinstance(body, str) else json.dumps(body).encode()
    return type(hook.failure(Answer(status, {}, raw), paid=paid))


@pytest.mark.parametrize("hook", HOOKS, ids=lambda hook: hook.vendor)
@pytest.mark.parametrize("status", STATUSES)
def test_what_http_itself_does_not_call_unworked_is_in_doubt_for_every_vendor(hook, status):
    assert judged(hook, status, HTML) is STATUSES[status]


@pytest.mark.parametrize("hook", HOOKS, ids=lambda hook: hook.vendor)
def test_half_an_emoji_in_an_answer_changes_nothing_of_what_it_means(hook):
    for status in (*STATUSES, 500):
        whole, half = (
            hook.failure(Answer(status, {}, f'{{"message": {it}}}'.encode()), paid=True) for it in ('"x"', HALF)
        )
        assert type(half) is type(whole)
        assert "in the middle of ?" in str(half)


@pytest.mark.parametrize("hook", HOOKS, ids=lambda hook: hook.vendor)
@pytest.mark.parametrize("status", [500, 502, 503, 504])
def test_a_server_error_is_free_only_where_that_vendor_documents_it_and_says_it_itself(hook, status):
    documented = VendorFaultError if hook is PHOTOROOM else UnknownOutcomeError
    assert judged(hook, status, OWN_500[hook.vendor]) is documented
    assert judged(hook, status, {}) is UnknownOutcomeError


@pytest.mark.parametrize(
    "body",
    [
        {"error": {"message": "unavailable", "code": 503, "status": "UNAVAILABLE"}},
        {"error": "upstream connect error"},
        {"message": "Service Unavailable"},
        {"error": {"message": "x"}, "requestId": "1"},
        [{"error": {"message": "x"}}],
    ],
)
def test_a_gateways_json_is_not_taken_for_photorooms(body):
    assert judged(PHOTOROOM, 503, body) is UnknownOutcomeError


@pytest.mark.parametrize(
    ("code", "status", "error"),
    [
        (1000, 400, AuthenticationError),
        ("1001", 401, AuthenticationError),
        (1002, 406, AuthenticationError),
        (1003, 400, RefusedError),
        (1007, 401, AuthenticationError),
        (1100, 400, RefusedError),
        (1101, 402, QuotaError),
        (1101, 200, QuotaError),
        (1200, 503, UnknownOutcomeError),
        (1201, 503, UnknownOutcomeError),
        (1202, 429, RateLimitError),
        (1202, 503, RateLimitError),
        (9999, 413, RefusedError),
        (None, 406, AuthenticationError),
    ],
)
def test_vyro_codes_mean_what_its_error_page_says(code, status, error):
    body = {"status": "error", "code": code, "error": "Bad", "message": "in its own words"}
    assert judged(IMAGINE, status, body) is error


@pytest.mark.parametrize(
    ("status", "body", "error"),
    [
        (200, {"status": 401, "message": "bad key"}, AuthenticationError),
        (200, {"status": 402, "message": "no credits"}, QuotaError),
        (200, {"status": "413", "message": "too large"}, RefusedError),
        (200, {"status": 429, "message": "slow"}, RateLimitError),
        (200, {"status": 500, "message": "server exception"}, UnknownOutcomeError),
        (200, {"status": "fine"}, UnknownOutcomeError),
        (200, {"status": 200}, UnknownOutcomeError),
        (200, HTML, UnknownOutcomeError),
        (503, {"status": 200}, UnknownOutcomeError),
    ],
)
def test_picwish_has_a_status_of_its_own_within_http_200(status, body, error):
    assert judged(PICWISH, status, body) is error


def test_gptges_gateway_says_403_where_the_quota_is_spent():
    body = {"error": {"message": "user quota is not enough", "code": "insufficient_user_quota"}}
    assert judged(GPTGE, 403, body) is QuotaError
    assert judged(GPTGE, 403, {"error": {"message": "invalid token", "code": "x"}}) is AuthenticationError


@pytest.mark.parametrize(
    ("status", "message", "error"),
    [
        (400, "the prompt violates our content policy", ModerationError),
        (403, "flagged as NSFW", ModerationError),
        (400, "model 2 is deprecated", RetiredError),
        (422, "Unknown model 'x'", RetiredError),
        (403, "this API has been discontinued", RetiredError),
        (400, "removeBackground must be boolean", RefusedError),
        (500, "nsfw model deprecated", UnknownOutcomeError),
    ],
)
def test_words_tell_a_refused_content_and_a_retired_model_from_a_wrong_request(status, message, error):
    assert meaning(status, {"message": message}, paid=True) is error


@pytest.mark.parametrize(
    ("status", "error"),
    [
        (400, PollError),
        (401, AuthenticationError),
        (402, PollError),
        (403, AuthenticationError),
        (404, TaskNotFoundError),
        (407, PollError),
        (410, PollError),
        (422, PollError),
        (429, RateLimitError),
        (500, PollError),
        (503, PollError),
    ],
)
def test_a_free_question_has_nothing_to_refuse_or_to_pay_for(status, error):
    assert meaning(status, None, paid=False) is error


def test_katalis_words_without_pictures_say_neither_yes_nor_no():
    for word in ("Success", "Completed", "Failed to generate image", ""):
        assert KATALIS.read(answer({"message": word, "data": []}), SENT) is None
        assert judged(KATALIS, 200, {"message": word, "data": []}) is UnknownOutcomeError


@pytest.mark.parametrize("word", ["Success", "success!", "Completed", "Partial success", "Failed", None])
def test_katalis_pictures_are_a_success_beside_any_word(word):
    entry = {"original_image_url": SENT.link, "generated_image_urls": ["https://a.example/1.png"]}
    assert generation(KATALIS, {"message": word, "data": [entry]}).images == ("https://a.example/1.png",)


@pytest.mark.parametrize("status", [0, 1, 500, "ok", "success", None, True])
def test_a_task_id_or_a_picture_is_a_success_beside_any_status_word_of_picwish(status):
    link = "https://a.example/1.png"
    assert generation(PICWISH, {"status": status, "data": {"task_id": "a"}}).task_id == "a"
    assert generation(PICWISH, {"status": status, "data": {"image_1": link}}).images == (link,)
    assert generation(GPTGE, {"status": status, "data": {"image": link, "state": "done"}}).images == (link,)


def test_a_failed_state_that_picwish_documents_as_free_is_one_whatever_stands_beside_it():
    failed = generation(PICWISH, {"data": {"task_id": "a", "state": -2, "image_1": "https://a.example/1"}})
    assert (failed.state, failed.reason) == ("failed", VendorFaultError.reason)
    made = generation(PICWISH, {"data": {"task_id": "a", "state": -99, "image_1": "https://a.example/1"}})
    assert made.state == "succeeded"


@given(st.text())
def test_a_retry_after_of_any_text_is_seconds_or_nothing(value):
    seconds = retry_after(value)
    assert seconds is None or seconds >= 0


@given(st.integers(0, 10**6))
def test_retry_after_in_seconds(seconds):
    assert retry_after(str(seconds)) == seconds


@given(st.integers(-(10**6), 10**6))
def test_retry_after_as_a_date_is_the_time_left_and_never_negative(seconds):
    now = time.time()
    read = retry_after(formatdate(now + seconds, usegmt=True))
    assert read == pytest.approx(max(0, seconds), abs=30)


@given(st.integers(-(10**6), 10**6), st.integers(0, 10**9))
def test_a_retry_after_is_read_off_the_clock_of_its_own_answer(seconds, now):
    assert retry_after(formatdate(now + 10**6 + seconds, usegmt=True), formatdate(now + 10**6, usegmt=True)) == max(
        0, seconds
    )


@pytest.mark.parametrize("date", [None, "", "now"])
def test_a_retry_after_without_a_date_of_its_answer_is_read_off_our_clock(date):
    assert retry_after(formatdate(time.time() + 60, usegmt=True), date) == pytest.approx(60, abs=30)


@pytest.mark.parametrize("value", [None, "", "soon", "-5", "1e5", "Mon, 01 Jan 0001 00:00:00 -0000", "9" * 400])
def test_an_odd_retry_after_breaks_nothing(value):
    seconds = retry_after(value)
    assert seconds is None or seconds >= 0
