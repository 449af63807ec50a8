"""Reading what vendors answer: anything may come, and only documented errors may come of it."""

from __future__ import annotations

import base64
import json
import time
from email.utils import formatdate

import pytest
from hypothesis import given
from hypothesis import strategies as st

from airflow_provider_bgai.exceptions import PollError, UnknownOutcomeError
from airflow_provider_bgai.hooks.base import Answer, _retry_after, read_error
from airflow_provider_bgai.hooks.gptge import GptGeHook
from airflow_provider_bgai.hooks.katalis import _links
from airflow_provider_bgai.hooks.picwish import read_images, read_task
from airflow_provider_bgai.models import Generation

scalars = st.none() | st.booleans() | st.integers() | st.floats() | st.text()
anything = st.recursive(scalars, lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner), max_leaves=8)
links = st.text(st.characters(min_codepoint=33, max_codepoint=126), min_size=1).map("https://a.example/".__add__)
pictures = st.binary(max_size=40).map(b"\x89PNG\r\n\x1a\n".__add__) | st.binary(max_size=40).map(
    b"\xff\xd8\xff".__add__
)


class Connection:
    password, host, port, schema, extra_dejson = "key", None, None, None, {}


HOOK = GptGeHook(connection=Connection())


def answer(body: object, status: int = 200) -> Answer:
    return Answer(status, {}, json.dumps(body).encode())


@given(st.binary())
def test_a_body_is_json_or_nothing(body):
    found = Answer(200, {}, body)
    assert found.json is None or json.dumps(found.json) is not None
    assert len(found.excerpt()) <= 4096


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
def test_a_finished_task_gives_pictures_or_the_documented_error(data):
    try:
        images = read_images(data)
    except ValueError:
        return
    assert all(isinstance(image, bytes) or image.startswith(("http://", "https://")) for image in images)


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
    st.dictionaries(st.sampled_from(["state", "task_id", "id", "image", "progress", "foreground_rect"]), anything),
)
@pytest.mark.parametrize("submitted", [True, False])
def test_a_task_of_any_shape_is_a_generation_or_a_documented_error(submitted, data, fields):
    allowed = UnknownOutcomeError if submitted else PollError
    for body in (data, {"data": data}, {"status": 200, "data": fields}):
        try:
            task = read_task(HOOK, answer(body), task_id=None if submitted else "task-1")
        except allowed:
            continue
        assert isinstance(task, Generation)
        assert task.state != "succeeded" or task.images
        assert task.state != "pending" or task.task_id


@given(anything)
def test_katalis_data_of_any_shape_gives_links_or_none(data):
    assert all(isinstance(link, str) and link for link in _links(data, "https://a.example/a.png"))


@given(st.text())
def test_a_retry_after_of_any_text_is_seconds_or_nothing(value):
    seconds = _retry_after(value)
    assert seconds is None or seconds >= 0


@given(st.integers(0, 10**6))
def test_retry_after_in_seconds(seconds):
    assert _retry_after(str(seconds)) == seconds


@given(st.integers(-(10**6), 10**6))
def test_retry_after_as_a_date_is_the_time_left_and_never_negative(seconds):
    now = time.time()
    read = _retry_after(formatdate(now + seconds, usegmt=True))
    assert read == pytest.approx(max(0, seconds), abs=30)


@pytest.mark.parametrize("value", [None, "", "soon", "-5", "1e5", "Mon, 01 Jan 0001 00:00:00 -0000", "9" * 400])
def test_an_odd_retry_after_breaks_nothing(value):
    seconds = _retry_after(value)
    assert seconds is None or seconds >= 0
