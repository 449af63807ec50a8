"""Wrong requests are refused before anything is sent, with a message that names field, value and rule."""

from __future__ import annotations

import io
from typing import Any

import pytest
from PIL import Image

from airflow_provider_bgai.exceptions import BgaiError, InvalidRequestError, SourceError
from airflow_provider_bgai.models import OPTIONAL, BackgroundRequest
from tests.conftest import VENDORS


def png(width: int, height: int, mode: str = "RGBA", kind: str = "PNG") -> bytes:
    buffer = io.BytesIO()
    Image.new(mode, (width, height)).save(buffer, kind)
    return buffer.getvalue()


class Fat(bytes):
    """Bytes that say they are many, so that no test has to hold 30 MB."""

    def __len__(self) -> int:
        return 40 * 1024 * 1024


# vendor, the request's fields, and what the message must name: the field, the value, the rule.
WRONG: list[tuple[str, dict[str, Any], list[str]]] = [
    ("picwish", {"prompt": None}, ["prompt", "None", "exactly one"]),
    ("picwish", {"template": 5}, ["prompt, template", "'on a beach'", "5", "exactly one"]),
    ("picwish", {"prompt": None, "template": "beach"}, ["template='beach'", "integer"]),
    ("picwish", {"prompt": None, "template": "-5"}, ["template='-5'", "integer"]),
    ("picwish", {"prompt": None, "template": "²"}, ["template='²'", "integer"]),
    ("picwish", {"count": 3}, ["count=3", "1 or 2"]),
    ("picwish", {"prompt": "x" * 1025}, ["prompt=", "1,025", "at most 1,024"]),
    ("picwish", {"negative_prompt": "x" * 1025}, ["negative_prompt=", "1,025", "at most 1,024"]),
    ("picwish", {"seed": 7}, ["seed=7", "no such parameter"]),
    ("picwish", {"guidance_image": "https://a.example/b.png"}, ["guidance_image=", "no such parameter"]),
    ("picwish", {"guidance_scale": 0.5}, ["guidance_scale=0.5", "no such parameter"]),
    ("picwish", {"options": {"batch_size": 2}}, ["options['batch_size']=2", "own field"]),
    ("picwish", {"image": png(200, 300)}, ["image=", "200 x 300 px", "256 to 4096"]),
    ("picwish", {"image": png(300, 4097)}, ["image=", "300 x 4097 px", "256 to 4096"]),
    ("picwish", {"image": png(300, 300, "RGB", "JPEG")}, ["image='jpg'", "PNG"]),
    ("picwish", {"image": png(300, 300, "RGB")}, ["image=", "without transparency", "transparent"]),
    ("picwish", {"image": b"hello"}, ["image='5 bytes'", "not a picture"]),
    ("picwish", {"image": "/no/such/file.png"}, ["image='/no/such/file.png'", "No such file"]),
    ("gptge", {"prompt": None}, ["prompt=None", "needs a prompt"]),
    ("gptge", {"count": 5}, ["count=5", "1 to 4"]),
    ("gptge", {"prompt": "x" * 1025}, ["prompt=", "1,025", "at most 1,024"]),
    ("gptge", {"seed": 7}, ["seed=7", "no such parameter"]),
    ("gptge", {"template": 7}, ["template=7", "no such parameter"]),
    ("gptge", {"negative_prompt": "people"}, ["negative_prompt='people'", "no such parameter"]),
    ("gptge", {"guidance_scale": 0.5}, ["guidance_scale=0.5", "no such parameter"]),
    ("gptge", {"options": {"sync": 2}}, ["options['sync']=2", "0 (asynchronous) or 1"]),
    ("gptge", {"options": {"callback_url": "ftp://a"}}, ["options['callback_url']='ftp://a'", "http(s) URL"]),
    ("gptge", {"options": {"prompt": "x"}}, ["options['prompt']='x'", "own field"]),
    ("gptge", {"image": png(200, 200)}, ["image=", "200 x 200 px", "256 to 4096"]),
    ("photoroom", {"prompt": None}, ["prompt=None", "a guidance image, or both"]),
    ("photoroom", {"count": 2}, ["count=2", "1 picture a call"]),
    ("photoroom", {"template": 7}, ["template=7", "no such parameter"]),
    ("photoroom", {"guidance_scale": 0.5}, ["guidance_scale=0.5", "needs a guidance_image"]),
    ("photoroom", {"options": {"background.color": "red"}}, ["options['background.color']='red'", "excludes"]),
    ("photoroom", {"options": {"background.seed": 3}}, ["options['background.seed']=3", "own field"]),
    (
        "photoroom",
        {"guidance_image": png(300, 300), "options": {"removeBackground": "false"}},
        ["guidance_image", "given", "removeBackground=false"],
    ),
    ("photoroom", {"image": Fat(b"x")}, ["image='41,943,040 bytes'", "at most 31,457,280"]),
    ("photoroom", {"image": b"hello"}, ["image='5 bytes'", "not a picture"]),
    ("photoroom", {"guidance_image": "/no/mood.png"}, ["guidance_image='/no/mood.png'", "No such file"]),
    ("photoroom", {"options": {"pr-ai-background-model-version": "drei\n"}}, ["pr-ai-background-model-version"]),
    ("photoroom", {"options": {"pr-ai-background-model-version": "später"}}, ["pr-ai-background-model-version"]),
    ("imagine", {"prompt": None}, ["prompt=None", "needs a prompt"]),
    ("imagine", {"count": 2}, ["count=2", "1 picture a call"]),
    ("imagine", {"negative_prompt": "people"}, ["negative_prompt='people'", "no such parameter"]),
    ("imagine", {"template": 7}, ["template=7", "no such parameter"]),
    ("imagine", {"guidance_image": "https://a.example/b.png"}, ["guidance_image=", "no such parameter"]),
    ("imagine", {"options": {"style": "anime"}}, ["options['style']='anime'", "product-shoot"]),
    ("imagine", {"options": {"width": 512}}, ["options['width']=512", "only 'style'"]),
    ("imagine", {"image": b"hello"}, ["image='5 bytes'", "not a picture"]),
    ("katalis", {"prompt": None}, ["prompt=None", "needs a prompt"]),
    ("katalis", {"seed": 7}, ["seed=7", "no such parameter"]),
    ("katalis", {"template": 7}, ["template=7", "no such parameter"]),
    ("katalis", {"guidance_scale": 0.5}, ["guidance_scale=0.5", "no such parameter"]),
    ("katalis", {"options": {"result_number": 2}}, ["options['result_number']=2", "own field"]),
    ("katalis", {"image": "/tmp/product.png"}, ["image='/tmp/product.png'", "URLs only", "staging"]),
    ("katalis", {"image": png(300, 300)}, ["image=", "bytes", "URLs only", "staging"]),
]


@pytest.mark.parametrize(
    ("vendor", "fields", "named"), WRONG, ids=[f"{vendor}-{'-'.join(fields)}" for vendor, fields, _ in WRONG]
)
def test_a_wrong_request_is_refused_before_it_is_sent(hook, box, wish, vendor, fields, named):
    with pytest.raises(InvalidRequestError) as refused:
        hook(vendor).generate(wish(vendor, **fields))
    assert box.requests == []
    assert refused.value.paid == "no"
    assert str(refused.value).startswith(hook(vendor).hook_name)
    for part in named:
        assert part in str(refused.value)


SET: dict[str, Any] = {
    "prompt": "on a beach",
    "negative_prompt": "people",
    "seed": 7,
    "template": 7,
    "guidance_image": "https://a.example/b.png",
    "guidance_scale": 0.5,
}


@pytest.mark.parametrize("vendor", VENDORS)
def test_every_field_that_a_vendor_does_not_state_is_refused_and_no_other(hook, vendor):
    vendor_hook, refused = hook(vendor), set()
    for name in OPTIONAL:
        try:
            vendor_hook.check(BackgroundRequest("https://a.example/product.png", **{name: SET[name]}))
        except InvalidRequestError as error:
            if f"{name}={SET[name]!r}: the vendor has no such parameter" in str(error):
                refused.add(name)
    assert vendor_hook.fields | refused == set(OPTIONAL) == set(SET)
    assert not vendor_hook.fields & refused


@pytest.mark.parametrize("vendor", VENDORS)
def test_a_missing_s3_image_is_refused_by_name(hook, box, s3, vendor):
    missing = f"s3://{s3.bucket}/no/such.png"
    with pytest.raises(InvalidRequestError, match="image='s3://catalogue/no/such.png': there is no such object"):
        hook(vendor).generate(BackgroundRequest(missing, "on a beach"))
    assert box.requests == []


@pytest.mark.parametrize("vendor", ["picwish", "photoroom", "imagine", "gptge"])
def test_an_s3_that_cannot_be_reached_is_no_fault_of_the_request(hook, box, monkeypatch, vendor):
    extra = '{"endpoint_url": "http://127.0.0.1:9", "region_name": "us-east-1"}'
    config = '{"conn_type": "aws", "login": "a", "password": "b", "extra": ' + extra + "}"
    monkeypatch.setenv("AIRFLOW_CONN_AWS_AWAY", config)
    monkeypatch.setenv("AWS_MAX_ATTEMPTS", "1")
    with pytest.raises(SourceError, match="image='s3://shop/a.png' cannot be read"):
        hook(vendor, aws_conn_id="aws_away").generate(BackgroundRequest("s3://shop/a.png", "on a beach"))
    assert box.requests == []


def test_an_image_link_that_serves_no_picture_is_refused_where_we_send_the_file(hook, box, website):
    page = website.answer("/product.png", "<html>gone</html>")
    with pytest.raises(InvalidRequestError, match="not a picture"):
        hook("imagine").generate(BackgroundRequest(page, "on a beach"))
    assert box.requests == []


@pytest.mark.parametrize("status", [404, 500])
def test_an_image_link_that_fails_for_now_may_be_tried_again(hook, box, website, monkeypatch, status):
    monkeypatch.setattr("airflow_provider_bgai.hooks.images.LOAD_ATTEMPTS", 1)
    link = website.answer("/product.png", status=status)
    with pytest.raises(SourceError, match=str(status)) as failed:
        hook("imagine").generate(BackgroundRequest(link + "?token=hidden", "on a beach"))
    assert "hidden" not in str(failed.value)
    assert box.requests == []


@pytest.mark.parametrize("vendor", ["picwish", "photoroom", "imagine", "gptge"])
def test_without_a_key_nothing_is_sent(hook, connect, box, wish, vendor):
    connect(vendor, password="")
    with pytest.raises(BgaiError, match=r"has no API key: put it into the password field"):
        hook(vendor).generate(wish(vendor))
    assert box.requests == []


async def test_a_vendor_without_tasks_has_none_to_ask_for(hook, box):
    async with hook("imagine") as vendor_hook:
        with pytest.raises(InvalidRequestError, match="answers at once"):
            await vendor_hook.poll("task-1")
    assert box.requests == []


@pytest.mark.parametrize("task_id", ["", "../customers/package-credits", "a/b", "a?b", "a b", "a\nb", "x" * 201, None])
async def test_a_task_id_that_is_none_is_refused(hook, box, task_id):
    async with hook("picwish") as vendor_hook:
        with pytest.raises(InvalidRequestError, match="not a PicWish task ID"):
            await vendor_hook.poll(task_id)
    assert box.requests == []
