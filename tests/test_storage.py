from __future__ import annotations

import io
from concurrent.futures import ThreadPoolExecutor

import httpx
import pytest
from hypothesis import given
from hypothesis import strategies as st

from airflow_provider_bgai.exceptions import InvalidRequestError
from airflow_provider_bgai.storage import split_uri


@pytest.fixture
def folder(s3, request) -> str:
    """A prefix of the test's own."""
    return f"s3://{s3.bucket}/{request.node.originalname}"


@pytest.mark.parametrize(
    ("uri", "parts"),
    [
        ("s3://bucket/key", ("bucket", "key")),
        ("s3://bucket/a/b c/ü?x=1#y.png", ("bucket", "a/b c/ü?x=1#y.png")),
        ("s3://bucket/folder/", ("bucket", "folder/")),
        ("s3://bucket/", ("bucket", "")),
        ("s3://bucket", ("bucket", "")),
        ("s3://bucket/..a/b..", ("bucket", "..a/b..")),
    ],
)
def test_bucket_and_key_of_a_clean_uri(uri, parts):
    assert split_uri(uri) == parts


@pytest.mark.parametrize(
    "uri",
    [
        "",
        "bucket/key",
        "/local/file",
        "https://bucket/key",
        "S4://bucket/key",
        "s3:///key",
        "s3://",
        "s3:/bucket/key",
        "s3://bucket/../key",
        "s3://bucket/a/../../b",
        "s3://bucket/..",
        "s3://bucket/./a",
        "s3://bucket//a",
        "s3://bucket/a//b",
        "s3://bucket/a\nb",
        "s3://bucket/a\x00b",
        "s3://bucket/a\x7fb",
        "s3://buc\tket/a",
        "s3://[broken/a",
        "s3://bucket?x/a",
        "s3://bucket#x",
        "s3://{bucket}/a",
        "s3://bücket/a",
        None,
        5,
    ],
)
def test_anything_but_a_clean_s3_uri_is_refused_with_its_value(uri):
    with pytest.raises(InvalidRequestError) as refused:
        split_uri(uri)
    assert repr(uri) in str(refused.value)


@given(st.text())
def test_no_key_is_clean_that_could_leave_its_folder(key):
    uri = f"s3://bucket/safe/{key}"
    try:
        bucket, found = split_uri(uri)
    except InvalidRequestError:
        return
    assert (bucket, found) == ("bucket", f"safe/{key}")
    assert not {"..", "."} & set(found.split("/"))
    assert found.isprintable() or not any(ord(char) < 32 or ord(char) == 127 for char in found)


@given(st.text())
def test_any_text_is_split_or_refused(uri):
    try:
        bucket, _ = split_uri(uri)
    except InvalidRequestError:
        return
    assert bucket
    assert uri.startswith("s3://")


def test_of_many_who_create_one_object_one_wins(storage, folder):
    def create(number: int) -> str | None:
        return storage.create(f"{folder}/claim", str(number).encode())

    with ThreadPoolExecutor(16) as pool:
        etags = list(pool.map(create, range(64)))
    (winner,) = [number for number, etag in enumerate(etags) if etag is not None]
    assert storage.read(f"{folder}/claim") == str(winner).encode()


def test_of_many_who_replace_one_version_one_wins(storage, folder):
    etag = storage.create(f"{folder}/claim", b"first")

    def replace(number: int) -> str | None:
        return storage.replace(f"{folder}/claim", str(number).encode(), etag)

    with ThreadPoolExecutor(16) as pool:
        etags = list(pool.map(replace, range(64)))
    (winner,) = [number for number, etag in enumerate(etags) if etag is not None]
    assert storage.read(f"{folder}/claim") == str(winner).encode()


def test_a_stale_version_is_not_replaced(storage, folder):
    old = storage.create(f"{folder}/a", b"1")
    new = storage.replace(f"{folder}/a", b"2", old)
    assert new not in (None, old)
    assert storage.replace(f"{folder}/a", b"3", old) is None
    assert storage.read_versioned(f"{folder}/a") == (b"2", new)


def test_the_version_read_is_the_version_that_replace_takes(storage, folder):
    storage.put(f"{folder}/a", b"1")
    body, etag = storage.read_versioned(f"{folder}/a")
    assert body == b"1"
    assert storage.replace(f"{folder}/a", b"2", etag) is not None


def test_what_does_not_exist_is_not_replaced(storage, folder):
    assert storage.replace(f"{folder}/none", b"1", '"d41d8cd98f00b204e9800998ecf8427e"') is None
    assert storage.head(f"{folder}/none") is None


@pytest.mark.parametrize("stream", [False, True])
def test_an_object_keeps_its_content_type_and_metadata(storage, s3, folder, stream):
    body = b"x" * 100_000
    file = io.BytesIO(b"skipped" + body)
    file.seek(len(b"skipped"))
    storage.put(f"{folder}/a.png", file if stream else body, content_type="image/png", metadata={"seed": "7"})
    head = s3.client().head_object(Bucket=s3.bucket, Key=f"{folder.rpartition('/')[2]}/a.png")
    assert (head["ContentType"], head["Metadata"], head["ContentLength"]) == ("image/png", {"seed": "7"}, len(body))
    assert storage.read(f"{folder}/a.png") == body


def test_a_copy_keeps_content_type_and_metadata(storage, s3, folder):
    storage.put(f"{folder}/a", b"1", content_type="image/webp", metadata={"seed": "7"})
    storage.copy(f"{folder}/a", f"{folder}/b c ü.webp")
    head = s3.client().head_object(Bucket=s3.bucket, Key=f"{folder.rpartition('/')[2]}/b c ü.webp")
    assert (head["ContentType"], head["Metadata"]) == ("image/webp", {"seed": "7"})


def test_a_missing_object_is_named(storage, folder):
    with pytest.raises(FileNotFoundError, match=f"{folder}/none: no such object"):
        storage.read(f"{folder}/none")


def test_the_head_tells_size_and_the_etag_of_the_listing(storage, folder):
    storage.put(f"{folder}/a", b"12345")
    (listed,) = storage.list(f"{folder}/")
    assert storage.head(f"{folder}/a") == listed
    assert (listed.uri, listed.size) == (f"{folder}/a", 5)
    assert not listed.etag.startswith('"')


def test_a_listing_goes_beyond_its_first_thousand(storage, folder):
    names = [f"{folder}/{number:05}" for number in range(1100)]
    with ThreadPoolExecutor(8) as pool:
        list(pool.map(lambda uri: storage.put(uri, b"1"), names))
    assert [item.uri for item in storage.list(f"{folder}/")] == names


def test_a_listing_ends_where_its_prefix_ends(storage, folder):
    storage.put(f"{folder}/a/1", b"1")
    storage.put(f"{folder}/ab/1", b"1")
    assert [item.uri for item in storage.list(f"{folder}/a/")] == [f"{folder}/a/1"]
    assert len(list(storage.list(f"{folder}/a"))) == 2
    assert list(storage.list(f"{folder}/none/")) == []


def test_a_presigned_link_reads_that_object_with_a_signature_of_version_4(storage, folder):
    storage.put(f"{folder}/a ü?.png", b"picture", content_type="image/png")
    link = storage.presign(f"{folder}/a ü?.png", seconds=60)
    answer = httpx.get(link, trust_env=False)
    assert (answer.status_code, answer.content) == (200, b"picture")
    query = httpx.URL(link).params
    assert query["X-Amz-Algorithm"] == "AWS4-HMAC-SHA256"
    assert query["X-Amz-Expires"] == "60"


def test_a_presigned_link_opens_nothing_else(storage, folder):
    storage.put(f"{folder}/a", b"1")
    storage.put(f"{folder}/b", b"2")
    link = storage.presign(f"{folder}/a")
    assert httpx.get(link.replace("/a?", "/b?"), trust_env=False).status_code == 403
    assert httpx.get(link.partition("?")[0], trust_env=False).status_code == 403
