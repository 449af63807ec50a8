from __future__ import annotations

import dataclasses
from pathlib import Path
from unicodedata import normalize

import pytest
from hypothesis import given
from hypothesis import strategies as st

from airflow_provider_bgai.exceptions import BY_REASON, BgaiError, InvalidRequestError, LostError, RefusedError
from airflow_provider_bgai.models import BackgroundRequest, Generation, picture_type

anything = st.none() | st.booleans() | st.integers() | st.floats() | st.text() | st.binary() | st.lists(st.integers())


@pytest.mark.parametrize("name", ["prompt", "negative_prompt", "template", "guidance_image", "guidance_scale", "seed"])
@pytest.mark.parametrize("blank", ["", " ", "\n"])
def test_an_empty_form_field_means_not_given(name, blank):
    assert getattr(BackgroundRequest("a.png", **{name: blank}), name) is None


@pytest.mark.parametrize(
    ("name", "given_as", "taken_as"),
    [
        ("count", "3", 3),
        ("count", 2.0, 2),
        ("seed", "117879368", 117879368),
        ("seed", 7.0, 7),
        ("guidance_scale", "0.6", 0.6),
        ("guidance_scale", 1, 1.0),
        ("guidance_scale", 0, 0.0),
        ("template", 5, 5),
        ("template", "5", 5),
        ("template", 5.0, 5),
        ("template", " 5\n", 5),
        ("template", "05", "05"),
        ("template", "-5", "-5"),
        ("template", "²", "²"),
        ("template", "9" * 19, "9" * 19),
    ],
)
def test_numbers_may_come_as_text_from_forms_and_templates(name, given_as, taken_as):
    taken = getattr(BackgroundRequest("a.png", **{name: given_as}), name)
    assert taken == taken_as
    assert type(taken) is type(taken_as)


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ({"guidance_scale": 0.1}, {"guidance_scale": " 0.1\n"}),
        ({"guidance_scale": 0.0}, {"guidance_scale": -0.0}),
        ({"prompt": "caf\u00e9"}, {"prompt": " cafe\u0301\n"}),
        ({"negative_prompt": "caf\u00e9"}, {"negative_prompt": "cafe\u0301\n"}),
        ({"template": "caf\u00e9"}, {"template": " cafe\u0301\n"}),
        ({"template": 5}, {"template": "5\n"}),
        ({"image": "s3://shop/a.png"}, {"image": "s3://shop/a.png\n"}),
        ({"guidance_image": "s3://shop/a.png"}, {"guidance_image": " s3://shop/a.png\n"}),
        ({}, {"options": None}),
        ({}, {"options": {"a": None, "b": ""}}),
        ({"options": {"a": "caf\u00e9"}}, {"options": {"b": None, "a": "cafe\u0301"}}),
        ({"options": {"a": {"b": ["caf\u00e9", 2]}}}, {"options": {"a": {"b": ("cafe\u0301", 2.0)}}}),
    ],
)
def test_one_wish_is_one_request_however_it_is_spelled(one, other):
    first, second = (BackgroundRequest(**{"image": "a.png", **fields}) for fields in (one, other))
    assert first == second
    assert repr(first) == repr(second)  # 2 and 2.0 are equal, but are not sent alike


def test_what_the_caller_does_to_its_options_later_does_not_reach_the_request():
    options = {"a": {"b": [1]}}
    request = BackgroundRequest("a.png", options=options)
    options["a"]["b"].append(2)
    assert request.options == {"a": {"b": [1]}}


def test_paths_may_be_path_objects():
    request = BackgroundRequest(Path("a.png"), guidance_image=Path("b.png"))  # type: ignore[arg-type]  # taken all the same
    assert (request.image, request.guidance_image) == ("a.png", "b.png")


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"image": ""}, "image=None"),
        ({"image": b""}, "image=b''"),
        ({"image": None}, "image=None"),
        ({"image": 5}, "image=5"),
        ({"prompt": 5}, "prompt=5: must be text"),
        ({"negative_prompt": ["x"]}, r"negative_prompt=\['x'\]: must be text"),
        ({"count": 0}, "count=0: must be 1 or more"),
        ({"count": -1}, "count=-1: must be 1 or more"),
        ({"count": None}, "count=None: must be 1 or more"),
        ({"count": ""}, "count='': must be an integer"),
        ({"count": 1.5}, "count=1.5: must be an integer"),
        ({"count": True}, "count=True: must be an integer"),
        ({"count": "two"}, "count='two': must be an integer"),
        ({"count": "0x10"}, "count='0x10': must be an integer"),
        ({"count": "1.9"}, "count='1.9': must be an integer"),
        ({"count": "1_0"}, "count='1_0': must be an integer"),
        ({"seed": 0}, "seed=0: must be a positive integer"),
        ({"seed": "x"}, "seed='x': must be an integer"),
        ({"seed": float("inf")}, "seed=inf: must be an integer"),
        ({"guidance_scale": 1.01}, "guidance_scale=1.01: must lie between 0 and 1"),
        ({"guidance_scale": -0.1}, "guidance_scale=-0.1: must lie between 0 and 1"),
        ({"guidance_scale": float("nan")}, "guidance_scale=nan: must lie between 0 and 1"),
        ({"guidance_scale": "much"}, "guidance_scale='much': must be a number"),
        ({"guidance_scale": 10**400}, "guidance_scale=1000.*: must be a number"),
        ({"image": " "}, "image=None"),
        ({"template": True}, "template=True: must be text or an integer"),
        ({"template": 1.5}, "template=1.5: must be text or an integer"),
        ({"options": "style=x"}, "options='style=x': must be a mapping"),
        ({"options": {1: "x"}}, r"options\[1\]: must be named by text"),
        ({"options": {"a": float("nan")}}, r"options\['a'\]=nan: must be text, a finite number, true or false, or a"),
        ({"options": {"a": [object()]}}, r"options\['a'\]=.*: must be text"),
    ],
)
def test_a_value_no_vendor_could_accept_is_refused_by_name(fields, message):
    with pytest.raises(InvalidRequestError, match=f"^{message}"):
        BackgroundRequest(**{"image": "a.png", **fields})


@given(st.fixed_dictionaries({}, optional=dict.fromkeys(["prompt", "seed", "count", "guidance_scale"], anything)))
def test_any_value_is_taken_or_refused_with_the_documented_error(fields):
    try:
        request = BackgroundRequest("a.png", **fields)
    except InvalidRequestError:
        return
    assert request.count >= 1
    assert request.seed is None or request.seed >= 1
    assert request.guidance_scale is None or 0 <= request.guidance_scale <= 1
    assert request.prompt is None or request.prompt.strip()


@given(st.integers(1, 10**9), st.text(min_size=1).filter(str.strip), st.floats(0, 1))
def test_right_values_come_through_unchanged_but_for_their_spelling(number, text, scale):
    request = BackgroundRequest("a.png", text, count=number, seed=number, guidance_scale=scale)
    assert (request.count, request.seed, request.guidance_scale) == (number, number, scale)
    assert request.prompt == normalize("NFC", text.strip())
    assert dataclasses.replace(request) == request


def test_requests_and_generations_are_frozen():
    with pytest.raises(dataclasses.FrozenInstanceError):
        BackgroundRequest("a.png").prompt = "x"  # type: ignore[misc]  # wrong on purpose
    with pytest.raises(dataclasses.FrozenInstanceError):
        Generation(vendor="picwish", state="pending").state = "succeeded"  # type: ignore[misc]  # wrong on purpose


def test_the_repr_of_a_generation_hides_links_and_bytes():
    link = "https://oss.example/a.png?Signature=abc"
    shown = repr(Generation(vendor="picwish", state="succeeded", images=(link, b"bytes of a picture")))
    assert "Signature" not in shown
    assert "bytes of" not in shown
    assert "picwish" in shown


@pytest.mark.parametrize("reason", BY_REASON)
def test_a_failed_generation_raises_the_error_of_its_reason(reason):
    failed = Generation(vendor="picwish", state="failed", task_id="t", error="in words", reason=reason)
    with pytest.raises(BgaiError, match="in words") as raised:
        failed.raise_for_failure()
    assert type(raised.value) is BY_REASON[reason]
    assert (raised.value.vendor, raised.value.task_id, raised.value.reason) == ("picwish", "t", reason)


@pytest.mark.parametrize("state", ["pending", "succeeded"])
def test_any_other_generation_raises_nothing(state):
    assert Generation(vendor="picwish", state=state).raise_for_failure() is None  # type: ignore[func-returns-value]


def test_a_failure_of_an_unknown_reason_is_an_error_all_the_same():
    with pytest.raises(BgaiError, match="failed without a message"):
        Generation(vendor="picwish", state="failed").raise_for_failure()


def test_what_is_refused_here_is_a_refusal_and_a_value_error():
    assert issubclass(InvalidRequestError, RefusedError)
    assert issubclass(InvalidRequestError, ValueError)
    assert BY_REASON["refused"] is RefusedError
    assert BY_REASON["lost"] is LostError


@pytest.mark.parametrize(
    ("head", "found"),
    [
        (b"\x89PNG\r\n\x1a\n....", ("png", "image/png")),
        (b"\xff\xd8\xff\xe0....", ("jpg", "image/jpeg")),
        (b"RIFF....WEBPVP8 ", ("webp", "image/webp")),
        (b"....ftypavif....", ("avif", "image/avif")),
        (b"....ftypavis....", ("avif", "image/avif")),
        (b"GIF87a..........", ("gif", "image/gif")),
        (b"GIF89a..........", ("gif", "image/gif")),
        (b"II*\0............", ("tiff", "image/tiff")),
        (b"MM\0*............", ("tiff", "image/tiff")),
        (b"BM............(\0", ("bmp", "image/bmp")),
        (b"BMW is a car, no", None),
        (b"....ftypheic....", ("heic", "image/heic")),
        (b"....ftypmif1....", ("heic", "image/heic")),
        (b"....ftypmp42....", None),
        (b"<!doctype html>.", None),
        (b'{"image": "...', None),
        (b"RIFF....WAVEfmt ", None),
        (b"\x89PNG\r\n", None),
        (b"", None),
    ],
)
def test_a_picture_is_known_by_its_first_bytes(head, found):
    assert picture_type(head) == found


@given(st.binary(max_size=64))
def test_no_bytes_confuse_the_look_at_them(head):
    assert picture_type(head) is None or picture_type(head[:16]) == picture_type(head)
