"""A picture somebody names is its bytes: read once, and shown without what may be secret."""

from __future__ import annotations

import asyncio
import hashlib
import io
from collections.abc import Iterator

import pytest

from airflow_provider_bgai import web
from airflow_provider_bgai.exceptions import InvalidRequestError, SourceError
from airflow_provider_bgai.sources import Source, hint_of, look_of, read_source, shown
from airflow_provider_bgai.storage import Storage
from tests.servers import Website, serving_website

BYTES = b"\x89PNG the photo" * 400_000


@pytest.fixture(scope="module")
def website() -> Iterator[Website]:
    with serving_website() as site:
        yield site


def read(source: str | bytes, storage: Storage, **more) -> Source:
    return asyncio.run(read_source(source, storage, allow_private_hosts=True, **more))


def test_one_content_is_one_source_wherever_it_lies(storage, s3, upload, tmp_path, website):
    """As bytes, on disk, on the web under a link signed anew, in S3 in one piece and in many."""
    path = tmp_path / "a.png"
    path.write_bytes(BYTES)
    link = website.answer("/a.png", BYTES, ETag='"1"')
    s3.client().upload_fileobj(io.BytesIO(BYTES), s3.bucket, "sources/parts.png")
    places: list[str | bytes] = [BYTES, str(path), f"{link}?signature=1", f"{link}?signature=2"]
    places += [upload("sources/whole.png", BYTES), f"s3://{s3.bucket}/sources/parts.png"]
    found = [read(place, storage) for place in places]
    assert {source.sha256 for source in found} == {hashlib.sha256(BYTES).hexdigest()}
    assert {source.data for source in found} == {BYTES}
    assert [source.hint is None for source in found] == [True, True, False, False, False, False]
    assert found[2].hint == found[3].hint


def test_what_a_source_looks_like_from_outside_is_the_same_however_it_is_asked(storage, upload, website):
    """The plan lists, heads, or asks for one byte; whoever generates reads."""
    uri = upload("sources/looked-at.png", b"1")
    (listed,) = storage.list(uri)
    assert read(uri, storage).hint == hint_of(uri, listed.hint) == hint_of(uri, storage.head(uri).hint)
    link = website.answer("/b.png", b"12345", ETag='"b"', Last_Modified="Sat, 21 Nov 2026 00:00:00 GMT")
    looked = asyncio.run(web.look(f"{link}?x=1", allow_private_hosts=True, timeout=5))
    assert read(f"{link}?x=2", storage).hint == look_of(f"{link}?x=3", looked)
    assert read(website.answer("/c.png", b"c"), storage).hint is None  # its server tells nothing apart


@pytest.mark.parametrize("name", ["image", "guidance_image"])
def test_what_is_not_there_is_refused_by_its_field_without_a_query(storage, s3, tmp_path, website, name):
    links = [f"{website.url}/none.png?signature=secret", "http://host:99999/x.png?signature=secret"]
    for place in [f"s3://{s3.bucket}/sources/none.png", str(tmp_path / "none.png"), str(tmp_path), *links]:
        with pytest.raises(InvalidRequestError, match=f"{name}='") as refused:
            read(place, storage, field=name)
        assert "secret" not in str(refused.value)


def test_what_cannot_be_read_for_now_is_no_refusal(bad, upload, website):
    storage = Storage()
    assert storage.client is not None
    uri = upload("sources/later.png", b"1")
    link = website.answer("/later.png", b"", status=503)
    bad.fault("403", methods="GET", key="later")
    for place in (uri, f"{link}?signature=secret"):
        with pytest.raises(SourceError, match="for now") as later:
            read(place, storage)
        assert "secret" not in str(later.value)


@pytest.mark.parametrize(
    ("source", "as_shown"),
    [
        ("https://user:secret@host/a.png?X-Amz-Signature=secret", "https://host/a.png"),
        (b"12345", "5 bytes"),
        ("https://shop.example/a.png?X-Amz-Signature=secret", "https://shop.example/a.png"),
        ("s3://bucket/a?b.png", "s3://bucket/a?b.png"),
        ("/photos/a?b.png", "/photos/a?b.png"),
    ],
)
def test_a_source_is_shown_without_what_may_be_secret(source, as_shown):
    assert shown(source) == as_shown
