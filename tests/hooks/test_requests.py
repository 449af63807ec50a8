"""What goes out: each vendor's documented request, field for field."""

from __future__ import annotations

import json

import pytest

from airflow_provider_bgai.imaging.verify import verify_whole
from airflow_provider_bgai.models import BackgroundRequest
from tests.conftest import KEYS, VENDORS

KEY_HEADER = {
    "picwish": ("x-api-key", ""),
    "photoroom": ("x-api-key", ""),
    "imagine": ("authorization", "Bearer "),
    "katalis": ("authorization", "Bearer "),
    "gptge": ("authorization", "Bearer "),
}
ENDPOINT = {
    "picwish": "/api/tasks/visual/background",
    "photoroom": "/v2/edit",
    "imagine": "/v2/image/generations/ai-background",
    "katalis": "/service/v1/generate-image",
    "gptge": "/task/pic/background",
}
FILE_PART = {"picwish": "image_file", "photoroom": "imageFile", "imagine": "image", "gptge": "image_file"}


def submission(box):
    """The one paid request that came in."""
    (found,) = [request for request in box.requests if request.kind == "submit"]
    return found


@pytest.fixture
def source(product, upload, website, tmp_path):
    """The product in each form a user may name it."""

    def make(form: str) -> str | bytes:
        if form == "path":
            (tmp_path / "product.png").write_bytes(product)
            return str(tmp_path / "product.png")
        if form == "s3":
            return upload("sources/product.png", product)
        return website.answer("/product.png", product) if form == "url" else product

    return make


@pytest.mark.parametrize("form", ["path", "bytes", "s3", "url"])
@pytest.mark.parametrize("vendor", VENDORS)
def test_every_vendor_takes_every_form_of_image_and_gives_one_whole_picture(hook, box, s3, source, vendor, form):
    vendor_hook = hook(vendor, staging=f"s3://{s3.bucket}/staging")
    done = vendor_hook.generate(BackgroundRequest(source(form), "on a beach"))
    assert (done.state, done.vendor, len(done.images)) == ("succeeded", vendor, 1)
    assert verify_whole(done.images[0]).extension == "png"
    assert box.images_charged() == box.images_charged(vendor) == 1
    assert box.credential_leaks == 0


@pytest.mark.parametrize("vendor", VENDORS)
def test_the_key_goes_out_in_the_vendors_header_and_in_no_other(hook, box, wish, vendor):
    hook(vendor).generate(wish(vendor))
    header, prefix = KEY_HEADER[vendor]
    for request in box.requests:
        carriers = {name: value for name, value in request.headers.items() if KEYS[vendor] in value}
        assert carriers == ({} if request.kind == "download" else {header: prefix + KEYS[vendor]})
        assert KEYS[vendor] not in json.dumps([request.query, request.fields, request.path])


@pytest.mark.parametrize("vendor", VENDORS)
def test_the_documented_endpoint_is_called(hook, box, wish, vendor):
    hook(vendor).generate(wish(vendor))
    assert (submission(box).method, submission(box).path) == ("POST", ENDPOINT[vendor])


@pytest.mark.parametrize(
    ("vendor", "fields"),
    [
        ("picwish", {"batch_size": "1", "prompt": "on a beach"}),
        (
            "photoroom",
            {
                "background.prompt": "on a beach",
                "keepExistingAlphaChannel": "auto",
                "referenceBox": "originalImage",
            },
        ),
        ("imagine", {"prompt": "on a beach"}),
        ("gptge", {"batch_size": "1", "prompt": "on a beach"}),
    ],
)
def test_a_plain_file_request_holds_these_fields_and_no_others(hook, box, wish, product, vendor, fields):
    hook(vendor).generate(wish(vendor))
    sent = submission(box)
    assert sent.fields == fields
    part = {"filename": "image.png", "content_type": "image/png", "size": len(product)}
    assert sent.files == {FILE_PART[vendor]: part}
    assert sent.query == {}
    assert sent.headers["content-type"].startswith("multipart/form-data; boundary=")


@pytest.mark.parametrize("vendor", ["picwish", "gptge"])
def test_a_link_goes_out_as_a_link_with_no_empty_file_part(hook, box, source, vendor):
    link = source("url")
    hook(vendor).generate(BackgroundRequest(link, "on a beach"))
    sent = submission(box)
    assert sent.fields == {"batch_size": "1", "prompt": "on a beach", "image_url": link}
    assert sent.files == {}
    assert sent.headers["content-type"].startswith("multipart/form-data; boundary=")


@pytest.mark.parametrize(("vendor", "count"), [("picwish", 1), ("picwish", 2), ("gptge", 1), ("gptge", 4)])
def test_batch_size_is_always_sent_so_that_no_default_doubles_the_bill(hook, box, wish, vendor, count):
    done = hook(vendor).generate(wish(vendor, count=count))
    assert submission(box).fields["batch_size"] == str(count)
    assert len(done.images) == count == box.images_charged(vendor)


@pytest.mark.parametrize("template", [105, "105"])
def test_picwish_takes_a_template_instead_of_a_prompt(hook, box, wish, template):
    hook("picwish").generate(wish("picwish", None, template=template))
    assert submission(box).fields == {"batch_size": "1", "scene_type": "105"}


def test_picwish_takes_a_negative_prompt(hook, box, wish):
    hook("picwish").generate(wish("picwish", negative_prompt="people"))
    assert submission(box).fields["negative_prompt"] == "people"


@pytest.mark.parametrize("length", [1, 1024])
def test_a_prompt_up_to_the_limit_goes_out_whole(hook, box, wish, length):
    hook("picwish").generate(wish("picwish", "ß" * length))
    assert submission(box).fields["prompt"] == "ß" * length


def test_imagine_sends_seed_and_style_where_given(hook, box, wish):
    done = hook("imagine").generate(wish("imagine", seed=7, options={"style": "product-shoot"}))
    assert submission(box).fields == {"prompt": "on a beach", "style": "product-shoot", "seed": "7"}
    assert (done.seed, done.model) == (7, None)


def test_imagine_takes_a_picture_answered_as_base64(hook, connect, website, wish, product):
    import base64

    connect("imagine", host=website.url)
    website.answer(ENDPOINT["imagine"], json.dumps({"image": base64.b64encode(product).decode()}))
    assert hook("imagine").generate(wish("imagine")).images == (product,)


# --- Photoroom -------------------------------------------------------------------------------------


def test_photoroom_gets_links_in_the_query(hook, box, source):
    link = source("url")
    hook("photoroom").generate(BackgroundRequest(link, "on a beach", seed=5))
    sent = submission(box)
    assert sent.method == "GET"
    assert sent.query == {
        "imageUrl": link,
        "background.prompt": "on a beach",
        "background.seed": "5",
        "keepExistingAlphaChannel": "auto",
        "referenceBox": "originalImage",
    }
    assert (sent.fields, sent.files) == ({}, {})


def test_photoroom_is_posted_what_would_make_too_long_a_url(hook, box, source, product):
    prompt = "a long beach, " * 500 + "and the sea"
    hook("photoroom").generate(BackgroundRequest(source("url"), prompt))
    sent = submission(box)
    assert (sent.method, sent.query) == ("POST", {})
    assert sent.fields["background.prompt"] == prompt
    assert sent.files["imageFile"]["size"] == len(product)


def test_photoroom_is_posted_a_file_and_a_guidance_link_as_two_files(hook, box, source, product):
    request = BackgroundRequest(product, guidance_image=source("url"), guidance_scale=0.8)
    hook("photoroom").generate(request)
    sent = submission(box)
    assert sent.method == "POST"
    assert sent.fields["background.guidance.scale"] == "0.8"
    assert set(sent.files) == {"imageFile", "background.guidance.imageFile"}


def test_photoroom_gets_a_guidance_link_beside_an_image_link(hook, box, source, website, product):
    mood = website.answer("/mood.png", product)
    hook("photoroom").generate(BackgroundRequest(source("url"), "a beach", guidance_image=mood))
    assert submission(box).method == "GET"
    assert submission(box).query["background.guidance.imageUrl"] == mood


@pytest.mark.parametrize(
    ("extra", "options", "header"),
    [
        ({}, {}, None),
        ({"model_version": "3"}, {}, "3"),
        ({}, {"pr-ai-background-model-version": "2"}, "2"),
        ({"model_version": "3"}, {"pr-ai-background-model-version": "2"}, "2"),
    ],
)
def test_the_photoroom_model_comes_from_the_options_else_the_connection(
    hook, box, connect, wish, extra, options, header
):
    connect("photoroom", extra)
    done = hook("photoroom").generate(wish("photoroom", options=options))
    assert submission(box).headers.get("pr-ai-background-model-version") == header
    assert done.model == header
    assert "pr-ai-background-model-version" not in submission(box).fields


def test_photoroom_defaults_are_overridden_by_options(hook, box, wish):
    options = {"keepExistingAlphaChannel": "never", "referenceBox": "subjectBox", "export.format": "webp"}
    done = hook("photoroom").generate(wish("photoroom", options=options))
    assert submission(box).fields == {
        "background.prompt": "on a beach",
        "keepExistingAlphaChannel": "never",
        "referenceBox": "subjectBox",
        "export.format": "webp",
    }
    assert verify_whole(done.images[0]).extension == "webp"


def test_photoroom_defaults_about_the_cut_out_go_when_nothing_is_cut_out(hook, box, wish):
    hook("photoroom").generate(wish("photoroom", options={"removeBackground": False}))
    assert submission(box).fields == {"background.prompt": "on a beach", "removeBackground": "false"}


def test_photoroom_colours_go_out_without_their_hash_sign(hook, box, wish):
    hook("photoroom").generate(wish("photoroom", None, options={"background.color": "#FF0000"}))
    assert submission(box).fields["background.color"] == "FF0000"


def test_an_option_left_empty_in_a_form_is_not_sent(hook, box, wish):
    hook("photoroom").generate(wish("photoroom", options={"shadow.mode": ""}))
    assert "shadow.mode" not in submission(box).fields


def test_the_seed_photoroom_made_up_is_read_back(hook, wish):
    first = hook("photoroom").generate(wish("photoroom"))
    again = hook("photoroom").generate(wish("photoroom", seed=first.seed))
    assert first.seed is not None
    assert first.seed >= 1
    assert again.images == first.images


def test_a_seed_header_that_is_no_number_does_not_lose_the_picture(hook, connect, website, wish, product):
    connect("photoroom", host=website.url)
    website.answer("/v2/edit", product, pr_ai_background_seed="²")
    done = hook("photoroom").generate(wish("photoroom", seed=9))
    assert (done.images, done.seed) == ((product,), 9)


def test_what_photoroom_ignored_is_said_and_the_paid_picture_kept(hook, box, wish):
    box.fault("photoroom", "unsupported_attributes")
    done = hook("photoroom").generate(wish("photoroom"))
    assert done.warnings == ("Unsupported attributes: background.inner",)
    assert len(done.images) == 1


@pytest.mark.parametrize(
    ("fields", "warned"),
    [
        ({"negative_prompt": "people"}, True),
        ({"negative_prompt": "people", "options": {"pr-ai-background-model-version": "2"}}, False),
    ],
)
def test_a_negative_prompt_that_the_model_ignores_is_warned_of(hook, wish, fields, warned):
    warnings = hook("photoroom").generate(wish("photoroom", **fields)).warnings
    assert ("the negative prompt has an effect on model 2 only" in warnings) is warned


# --- Katalis ---------------------------------------------------------------------------------------


def test_katalis_is_sent_the_documented_json(hook, box, source):
    link = source("url")
    done = hook("katalis").generate(BackgroundRequest(link, "on a beach", negative_prompt="people", count=2))
    assert submission(box).fields == {
        "image_urls": [link],
        "background": {"prompt": "on a beach", "negative_prompt": "people"},
        "result_number": 2,
    }
    assert submission(box).headers["content-type"] == "application/json"
    assert len(done.images) == 2 == box.images_charged("katalis")


def test_katalis_gets_an_s3_image_as_a_presigned_link_to_that_very_object(hook, box, source, s3):
    hook("katalis").generate(BackgroundRequest(source("s3"), "on a beach"))
    (link,) = submission(box).fields["image_urls"]
    assert link.startswith(f"{s3.endpoint}/{s3.bucket}/sources/product.png?")
    assert "X-Amz-Signature=" in link


@pytest.mark.parametrize("form", ["path", "bytes"])
def test_katalis_gets_a_local_image_from_the_staging_folder(hook, box, source, s3, storage, product, form):
    staging = f"s3://{s3.bucket}/staged-{form}"
    hook("katalis", staging=staging).generate(BackgroundRequest(source(form), "on a beach"))
    (staged,) = storage.list(staging + "/")
    assert storage.read(staged.uri) == product
    assert staged.uri.removeprefix(f"s3://{s3.bucket}/") in submission(box).fields["image_urls"][0]


@pytest.mark.parametrize(
    ("extra", "header", "value"),
    [
        ({}, "authorization", f"Bearer {KEYS['katalis']}"),
        ({"auth_prefix": ""}, "authorization", KEYS["katalis"]),
        ({"auth_prefix": "Key="}, "authorization", f"Key={KEYS['katalis']}"),
        ({"auth_header": "X-API-Key", "auth_prefix": ""}, "x-api-key", KEYS["katalis"]),
        ({"auth_header": "", "auth_prefix": "Token"}, "authorization", f"Token {KEYS['katalis']}"),
    ],
)
def test_the_katalis_header_and_prefix_are_the_connections(hook, connect, website, wish, product, extra, header, value):
    connect("katalis", {"auth_header": None, "auth_prefix": None} | extra, host=website.url)
    link = website.answer("/out.png", product)
    website.answer(ENDPOINT["katalis"], json.dumps({"message": "Success", "data": [{"generated_image_urls": [link]}]}))
    hook("katalis").generate(wish("katalis"))
    (sent,) = [seen for seen in website.requests if seen.method == "POST"]
    assert sent.headers[header] == value


def test_katalis_without_a_key_sends_no_header_for_one(hook, box, connect, wish):
    connect("katalis", password="")
    hook("katalis").generate(wish("katalis"))
    assert {"authorization", "x-api-key"}.isdisjoint(submission(box).headers)


@pytest.mark.parametrize(
    "entry",
    [
        {"generated_image_urls": ["LINK"]},
        {"img_url": "LINK"},
        {"img_url": ["LINK"]},
        {"image_url": "LINK", "generated_image_urls": []},
    ],
)
def test_katalis_results_are_found_under_each_documented_name(hook, connect, website, wish, product, entry):
    link = website.answer("/out.png", product)
    connect("katalis", host=website.url)
    website.answer(ENDPOINT["katalis"], json.dumps({"message": "Success", "data": [entry]}).replace("LINK", link))
    assert hook("katalis").generate(wish("katalis")).images == (product,)


def test_fewer_katalis_results_than_asked_for_are_kept_and_said(hook, connect, website, wish, product):
    link = website.answer("/out.png", product)
    connect("katalis", host=website.url)
    data = [{"original_image_url": "https://other.example/a.png", "generated_image_urls": ["https://other.example/b"]}]
    data.append({"original_image_url": f"{website.url}/product.png", "generated_image_urls": [link]})
    website.answer(ENDPOINT["katalis"], json.dumps({"message": "Success", "data": data}))
    done = hook("katalis").generate(wish("katalis", count=3))
    assert done.images == (product,)
    assert done.warnings == ("1 of 3 pictures were returned",)


# --- gpt.ge ----------------------------------------------------------------------------------------


def test_gptge_answers_a_synchronous_call_without_any_poll(hook, box, wish):
    done = hook("gptge").generate(wish("gptge", options={"sync": 1}))
    assert submission(box).fields["sync"] == "1"
    assert box.request_count("gptge", "poll") == 0
    assert len(done.images) == 1


def test_gptge_is_given_the_callback_url_and_is_polled_all_the_same(hook, box, website, wish):
    callback = f"{website.url}/callback"
    hook("gptge").generate(wish("gptge", options={"callback_url": callback}))
    assert submission(box).fields["callback_url"] == callback
    assert box.request_count("gptge", "poll") >= 1


@pytest.mark.parametrize("form", [{"data": "task-1"}, {"task_id": "task-1", "data": {}}, {"data": {"id": "task-1"}}])
def test_a_task_id_is_found_where_resellers_put_it(hook, connect, website, wish, product, form):
    connect("gptge", host=website.url)
    website.answer(ENDPOINT["gptge"], json.dumps({"status": 200} | form))
    link = website.answer("/out.png", product)
    website.answer("/task/task-1", json.dumps({"status": "200", "data": {"state": "1", "image": link}}))
    done = hook("gptge").generate(wish("gptge"))
    assert (done.task_id, done.images) == ("task-1", (product,))


def test_any_server_that_speaks_the_protocol_under_any_path_is_a_host(hook, connect, website, wish, product):
    connect("photoroom", host=f"{website.url}/mirror/")
    website.answer("/mirror/v2/edit", product)
    assert hook("photoroom").generate(wish("photoroom")).images == (product,)


# --- what names a wish -----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("vendor", "fields"),
    [
        ("picwish", {"count": 2, "negative_prompt": "people", "options": {"sync": 1, "flag": True}}),
        ("picwish", {"prompt": None, "template": 105}),
        ("photoroom", {"seed": 7, "options": {"removeBackground": False, "background.blur.radius": 0.02}}),
        ("photoroom", {"seed": 7, "options": {"pr-ai-shadows-model-version": "2026-04-15", "outputSize": "100x100"}}),
        ("imagine", {"seed": 7, "options": {"style": "product-shoot"}}),
        ("gptge", {"count": 3, "options": {"sync": 0}}),
    ],
)
async def test_the_wire_fields_are_the_text_that_goes_out(hook, box, wish, vendor, fields):
    request = wish(vendor, **fields)
    async with hook(vendor) as vendor_hook:
        said = vendor_hook.wire_fields(request)
        outgoing = await vendor_hook.outgoing(request)
    sent = {name: part[1] for name, part in outgoing.parts.items() if part[0] is None}
    assert said == sent | dict(outgoing.headers)
    assert all(isinstance(value, str) for value in said.values())


@pytest.mark.parametrize("vendor", ["picwish", "photoroom", "katalis", "gptge"])
def test_options_are_named_by_what_is_sent_and_not_by_how_they_were_typed(hook, vendor):
    def named(options: dict[str, object], image: str | bytes = "https://a.example/a.png") -> dict[str, str]:
        return hook(vendor).wire_fields(BackgroundRequest(image, "on a beach", options=options))

    assert named({"x": 0.1, "y": True, "z": 3.0}) == named({"z": "3", "y": "true", "x": "0.1"})
    assert named({"x": None, "y": ""}) == named({}) == named({}, b"another image")
    assert named({"x": 1}) != named({"x": 2})


def test_katalis_options_have_one_spelling_however_they_are_nested(hook):
    def named(value: object) -> str:
        options = {"x": value}
        return hook("katalis").wire_fields(BackgroundRequest("https://a.example/a.png", "a", options=options))["x"]

    assert named({"b": [1, 0.1], "a": False}) == named({"a": "false", "b": ["1", "0.1"]})
    assert named({"a": [1, 2]}) != named({"a": [2, 1]})


def test_the_model_names_the_wish_apart_from_its_fields(hook, connect, wish):
    connect("photoroom", {"model_version": "3"})
    header = "pr-ai-background-model-version"
    plain, other = wish("photoroom"), wish("photoroom", options={header: "2"})
    vendor_hook = hook("photoroom")
    assert (vendor_hook.model(plain), vendor_hook.model(other)) == ("3", "2")
    assert vendor_hook.wire_fields(plain) == vendor_hook.wire_fields(other)
    assert hook("picwish").model(wish("picwish")) is None


@pytest.mark.parametrize("vendor", VENDORS)
def test_text_that_no_wire_carries_is_refused_before_it_is_paid(hook, box, wish, vendor):
    from airflow_provider_bgai.exceptions import InvalidRequestError

    with pytest.raises(InvalidRequestError, match="cannot be sent"):
        hook(vendor).generate(wish(vendor, "half a pair: \ud83d"))
    assert box.request_count(vendor, "submit") == 0
