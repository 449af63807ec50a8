"""S3 as it is: conditional writes that know their own, one clock, names that are clean, hints that agree."""

from __future__ import annotations

import io
from concurrent.futures import ThreadPoolExecutor

import httpx
import pytest
from botocore.exceptions import ClientError
from hypothesis import given
from hypothesis import strategies as st

from airflow_provider_bgai import storage as module
from airflow_provider_bgai.exceptions import InvalidRequestError, StoreError
from airflow_provider_bgai.storage import Storage, split_uri


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


def test_a_part_of_an_object_is_read_and_one_behind_its_end_is_missing(storage, folder):
    storage.put(f"{folder}/a", b"0123456789")
    assert module.read_part(storage, f"{folder}/a", 2, 5) == b"234"
    assert module.read_part(storage, f"{folder}/a", 8, 50) == b"89"
    for uri, start in ((f"{folder}/a", 10), (f"{folder}/b", 0)):
        with pytest.raises(FileNotFoundError):
            module.read_part(storage, uri, start, start + 5)


def test_a_missing_object_is_named(storage, folder):
    with pytest.raises(FileNotFoundError, match=f"{folder}/none: no such object"):
        storage.read(f"{folder}/none")


@pytest.mark.parametrize("multipart", [False, True])
def test_list_head_and_load_give_one_object_one_hint(storage, s3, folder, multipart):
    """A plan lists or heads what a shard has read: were the hints two, every night would look new."""
    body, uri, key = b"12345" * 2_000_000, f"{folder}/a b ü.png", f"{folder.rpartition('/')[2]}/a b ü.png"
    if multipart:
        s3.client().upload_fileobj(io.BytesIO(body), s3.bucket, key)
    else:
        storage.put(uri, body)
    (listed,) = storage.list(f"{folder}/")
    read, loaded = storage.load(uri)
    assert read == body
    assert listed == storage.head(uri) == loaded
    assert (listed.uri, listed.size, "-" in listed.etag) == (uri, len(body), multipart)
    assert not listed.etag.startswith('"')
    assert abs(listed.modified - storage.now()) < 60
    storage.put(uri, body[::-1])
    assert storage.head(uri).hint != listed.hint


@pytest.mark.parametrize("spelled", ["as S3 does", "with a prefix"])
def test_a_listing_is_read_however_it_is_spelled(folder, spelled):
    """Ours reads what every S3 known sends; anything else is botocore's to read."""
    storage, name = Storage(), f"{folder}/a&b <ü> 1+1 %41.png"
    storage.put(name, b"12345")

    def spell(response_dict, **_):
        body = response_dict["body"].replace(b" xmlns=", b" xmlns:x='x' xmlns=")
        response_dict["body"] = body.replace(b"<Contents>", b"<x:Contents>").replace(b"</Contents>", b"</x:Contents>")

    if spelled == "with a prefix":
        storage.client.meta.events.register_first("before-parse.*.ListObjectsV2", spell)
    (listed,) = storage.list(f"{folder}/")
    assert listed == storage.head(name)
    assert list(storage.list_uris(f"{folder}/")) == [name]


def test_a_listing_that_is_cut_off_is_asked_for_again(folder):
    storage = Storage()
    names = [f"{folder}/{number}" for number in range(3)]
    for name in names:
        storage.put(name, b"1")
    cuts = iter([-1, 700])

    def cut(response_dict, **_):
        response_dict["body"] = response_dict["body"][: next(cuts, None)]

    storage.client.meta.events.register_first("before-parse.*.ListObjectsV2", cut)
    assert list(storage.list_uris(f"{folder}/")) == names
    assert next(cuts, None) is None


def test_listing_and_deleting_go_beyond_the_first_thousand(storage, folder):
    names = [f"{folder}/{number:05}" for number in range(1100)]
    with ThreadPoolExecutor(8) as pool:
        list(pool.map(lambda uri: storage.put(uri, b"1"), names))
    storage.put(f"{folder}-beside", b"1")
    assert [item.uri for item in storage.list(f"{folder}/")] == names
    storage.delete_all(iter([*names, f"{folder}/never-there"]))
    assert list(storage.list(f"{folder}/")) == []
    assert storage.head(f"{folder}-beside") is not None


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


# --- on a bad S3


@pytest.mark.parametrize("fault", ["lost_answer", "stored_500"])
def test_a_conditional_write_that_was_stored_and_not_answered_knows_its_own(bad, through_bad, folder, fault):
    uri = f"{folder}/claim"
    bad.fault(fault, methods="PUT", times=2)
    created = through_bad.create(uri, b"mine")
    bad.fault(fault, methods="PUT", times=2)
    replaced = through_bad.replace(uri, b"mine, changed", str(created))
    assert created is not None
    assert through_bad.read_versioned(uri) == (b"mine, changed", replaced)


@pytest.mark.parametrize("fault", ["lost_answer", "stored_500"])
def test_no_lost_answer_makes_another_s_write_one_s_own(bad, storage, through_bad, folder, fault):
    uri = f"{folder}/claim"
    etag = storage.create(uri, b"another's")
    bad.fault(fault, methods="PUT", times=2)
    assert through_bad.create(uri, b"mine") is None
    bad.fault(fault, methods="PUT", times=2)
    assert storage.replace(uri, b"another's, changed", etag) is not None
    assert through_bad.replace(uri, b"mine", etag) is None
    assert storage.read(uri) == b"another's, changed"


def test_409_is_tried_again_and_raised_when_it_does_not_end(bad, through_bad, folder, monkeypatch):
    bad.fault("409", times=3)
    assert through_bad.create(f"{folder}/claim", b"mine") is not None
    monkeypatch.setattr(module, "CONTENTION", 0.3)
    never = bad.fault("409")
    with pytest.raises(ClientError, match="ConditionalRequestConflict"):
        through_bad.create(f"{folder}/other", b"mine")
    assert never.hits > 2


def test_404_on_a_conditional_write_is_no_leave_and_no_bucket_is_an_error(bad, through_bad, folder):
    bad.fault("404", methods="PUT", times=1)
    assert through_bad.create(f"{folder}/claim", b"mine") is None
    bad.lift()
    bad.fault("no_bucket")
    for ask in (lambda: through_bad.create(f"{folder}/claim", b"mine"), lambda: through_bad.read(f"{folder}/claim")):
        with pytest.raises(ClientError, match="NoSuchBucket"):
            ask()


def test_if_match_that_never_holds_replaces_nothing(bad, storage, through_bad, folder):
    etag = through_bad.create(f"{folder}/claim", b"mine")
    bad.fault("if_match_never")
    assert through_bad.replace(f"{folder}/claim", b"changed", str(etag)) is None
    assert storage.read(f"{folder}/claim") == b"mine"


def test_what_must_be_stored_is_tried_until_it_is_or_fails_saying_what(bad, through_bad, folder, monkeypatch):
    bad.fault("403", methods="PUT", times=2)
    through_bad.insist(lambda: through_bad.put(f"{folder}/a", b"1"), "a picture")
    assert through_bad.read(f"{folder}/a") == b"1"
    monkeypatch.setattr(module, "PATIENCE", 0.5)
    refused = bad.fault("403", methods="PUT")
    with pytest.raises(StoreError, match="S3 refuses the answer of task 7: .*AccessDenied") as error:
        through_bad.insist(lambda: through_bad.put(f"{folder}/a", b"2"), "the answer of task 7")
    assert (error.value.paid, refused.hits > 1) == ("yes", True)


@pytest.mark.parametrize("by", [3600.0, -3600.0])
def test_there_is_one_clock_the_store_s(bad, storage, folder, by):
    bad.fault("clock", by=by)
    for there in (True, False):  # read off any answer, an error's too
        asked = Storage()
        assert asked.client is not None
        if there:
            asked.put(f"{folder}/a", b"1")
        assert abs(asked.now() - storage.now() - by) < 5


def test_a_store_whose_clock_is_set_is_believed(bad, storage, through_bad, folder):
    through_bad.put(f"{folder}/a", b"1")
    bad.fault("clock", by=-600.0)
    through_bad.put(f"{folder}/a", b"1")
    assert abs(through_bad.now() - storage.now() + 600) < 5


def test_an_object_goes_out_at_once_without_asking_first(folder):
    storage, seen = Storage(), []

    def look(request, **_):
        seen.append(set(request.headers.keys()))

    storage.client.meta.events.register("before-send.s3.PutObject", look)
    storage.put(f"{folder}/object", b"body")
    assert len(seen) == 1
    assert "Expect" not in seen[0]


def test_every_write_is_given_the_extra_arguments(s3, storage, folder):
    encrypted = Storage(extra_args={"ServerSideEncryption": "AES256", "CacheControl": "max-age=60"})
    etag = encrypted.create(f"{folder}/created", b"1")
    encrypted.put(f"{folder}/put", b"1")
    encrypted.create(f"{folder}/replaced", b"1")
    assert encrypted.replace(f"{folder}/replaced", b"2", encrypted.read_versioned(f"{folder}/replaced")[1])
    encrypted.copy(f"{folder}/put", f"{folder}/copied")
    assert etag is not None
    for name in ("created", "put", "replaced", "copied"):
        head = s3.client().head_object(Bucket=s3.bucket, Key=f"{folder.rpartition('/')[2]}/{name}")
        assert head["ServerSideEncryption"] == "AES256", name
        assert head["CacheControl"] == "max-age=60", name


@pytest.mark.parametrize(
    ("name", "rule"), [("Encryption", "has no such argument"), ("Key", "is set for each object"), ("IfMatch", "is set")]
)
def test_an_extra_argument_that_s3_does_not_know_or_we_set_is_refused(s3, name, rule):
    with pytest.raises(InvalidRequestError, match=rf"extra_args\['{name}'\]: .*{rule}"):
        _ = Storage(extra_args={name: "x"}).client
