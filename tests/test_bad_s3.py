"""The bad S3 is a good one until it is told to fail; then it fails as told."""

from __future__ import annotations

import io
import time
from concurrent.futures import ThreadPoolExecutor

import httpx
import pytest
from boto3.s3.transfer import TransferConfig
from botocore.exceptions import ClientError, ConnectionClosedError

from airflow_provider_bgai.storage import Storage, store_errors

ODD = "ö & +~='(1)/a b?#%20.png"


@pytest.fixture
def client(bad, monkeypatch):
    """A client that tries once."""
    monkeypatch.setenv("AWS_MAX_ATTEMPTS", "1")
    return bad.service.client()


@pytest.fixture
def through(bad) -> Storage:
    """Our own storage on the bad S3, with boto3's own retries."""
    return Storage("aws_default")


@pytest.fixture
def key(request) -> str:
    return f"{request.node.name}/_bgai/calls/1.json"


@pytest.fixture
def uri(bad, key) -> str:
    return f"s3://{bad.service.bucket}/{key}"


def code(call, *args, **kwargs) -> tuple[int, str]:
    with pytest.raises(ClientError) as refused:
        call(*args, **kwargs)
    return refused.value.response["ResponseMetadata"]["HTTPStatusCode"], refused.value.response["Error"]["Code"]


# A good S3


@pytest.mark.parametrize("name", [ODD, "plain/key"])
def test_without_faults_an_object_is_written_read_copied_listed_and_deleted_as_on_the_s3_behind_it(bad, s3, name):
    client, behind, bucket = bad.service.client(), s3.client(), s3.bucket
    put = client.put_object(Bucket=bucket, Key=name, Body=b"0123456789", ContentType="a/b", Metadata={"who": "me"})
    assert behind.get_object(Bucket=bucket, Key=name)["Body"].read() == b"0123456789"
    got = client.get_object(Bucket=bucket, Key=name, Range="bytes=2-4")
    assert (got["Body"].read(), got["ContentType"], got["ContentRange"]) == (b"234", "a/b", "bytes 2-4/10")
    head = client.head_object(Bucket=bucket, Key=name)
    assert (head["ContentLength"], head["ETag"]) == (10, put["ETag"])
    assert head["Metadata"] == behind.head_object(Bucket=bucket, Key=name)["Metadata"]
    client.copy_object(Bucket=bucket, Key=f"copy/{name}", CopySource={"Bucket": bucket, "Key": name})
    listed = client.list_objects_v2(Bucket=bucket, Prefix=f"copy/{name}")["Contents"]
    assert [(item["Key"], item["ETag"]) for item in listed] == [(f"copy/{name}", put["ETag"])]
    gone = client.delete_objects(Bucket=bucket, Delete={"Objects": [{"Key": name}, {"Key": f"copy/{name}"}]})
    assert {item["Key"] for item in gone["Deleted"]} == {name, f"copy/{name}"}
    assert code(client.head_object, Bucket=bucket, Key=name)[0] == 404
    assert [(seen.method, seen.key) for seen in bad.requests()] == [
        ("PUT", name),
        ("GET", name),
        ("HEAD", name),
        ("COPY", f"copy/{name}"),
        ("LIST", f"copy/{name}"),
        ("DELETE", f"{name}\ncopy/{name}"),
        ("HEAD", name),
    ]


def test_conditions_hold_as_on_the_s3_behind_it(client, bad, key):
    at = {"Bucket": bad.service.bucket, "Key": key}
    etag = client.put_object(**at, Body=b"1", IfNoneMatch="*")["ETag"]
    assert code(client.put_object, **at, Body=b"2", IfNoneMatch="*") == (412, "PreconditionFailed")
    assert code(client.get_object, **at, IfNoneMatch=etag)[0] == 304
    client.put_object(**at, Body=b"2", IfMatch=etag)
    assert code(client.put_object, **at, Body=b"3", IfMatch=etag) == (412, "PreconditionFailed")


def test_large_files_go_up_and_down_in_parts(bad, through, uri, key):
    bad.fault("etag_changes")  # and a changing ETag spoils neither the parts nor the download
    data, file = bytes(range(256)) * 80_000, io.BytesIO()
    config = TransferConfig(multipart_threshold=5 << 20, multipart_chunksize=5 << 20)
    bad.service.client().upload_fileobj(io.BytesIO(data), bad.service.bucket, key, Config=config)
    through.download(uri, file)
    assert file.getvalue() == data
    assert {("POST", "calls"), ("PUT", "calls"), ("GET", "calls")} <= bad.count().keys()


def test_signed_links_work_and_what_is_not_signed_is_refused(client, bad, through, uri, key):
    through.put(uri, b"picture")
    old = client.generate_presigned_url("get_object", Params={"Bucket": bad.service.bucket, "Key": key})
    for link in (through.presign(uri), old):
        assert httpx.get(link, trust_env=False).content == b"picture"
    assert httpx.get(old.partition("?")[0], trust_env=False).status_code == 403


def test_of_writers_at_once_one_creates(bad, through, uri):
    with ThreadPoolExecutor(32) as pool:
        etags = list(pool.map(lambda number: through.create(uri, b"%d" % number), range(64)))
    assert len([etag for etag in etags if etag]) == 1
    assert bad.count()["PUT", "calls"] >= 64


# Faults


@pytest.mark.parametrize(
    ("fault", "status", "word"),
    [
        ("500", 500, "InternalError"),
        ("503", 503, "SlowDown"),
        ("403", 403, "AccessDenied"),
        ("404", 404, "NoSuchKey"),
        ("no_bucket", 404, "NoSuchBucket"),
        ("501", 501, "NotImplemented"),
        ("409", 409, "ConditionalRequestConflict"),
        ("conditions_501", 501, "NotImplemented"),
    ],
)
def test_a_refused_write_is_answered_in_s3s_words_and_not_stored(client, bad, s3, key, fault, status, word):
    at = {"Bucket": s3.bucket, "Key": key}
    struck = bad.fault(fault, times=1)
    assert code(client.put_object, **at, Body=b"1", IfNoneMatch="*") == (status, word)
    assert s3.client().list_objects_v2(Bucket=s3.bucket, Prefix=key)["KeyCount"] == 0
    client.put_object(**at, Body=b"1", IfNoneMatch="*")
    assert (struck.hits, bad.requests()) == (1, [("PUT", key, status), ("PUT", key, 200)])


@pytest.mark.parametrize(("fault", "seen"), [("lost_answer", 0), ("stored_500", 500)])
def test_a_write_whose_answer_is_lost_is_stored_and_boto3s_own_retry_is_refused(bad, through, uri, key, fault, seen):
    at = {"Bucket": bad.service.bucket, "Key": f"other/{key}"}
    bad.fault(fault, methods="PUT", key="_bgai/calls/", times=1)
    assert code(bad.service.client().put_object, **at, Body=b"1", IfNoneMatch="*") == (412, "PreconditionFailed")
    bad.fault(fault, methods="PUT", key="_bgai/calls/", times=1)
    assert through.create(uri, b"1") == through.read_versioned(uri)[1]  # which recognises its own
    assert [status for _, _, status in bad.requests()] == [seen, 412, seen, 412, 200, 200]


def test_conflicts_strike_conditional_writes_only_and_our_storage_tries_them_again(bad, through, uri):
    struck = bad.fault("409", times=3)
    through.put(uri, b"1")
    assert through.replace(uri, b"2", through.read_versioned(uri)[1])
    assert struck.hits == 3
    assert through.read(uri) == b"2"


def test_a_store_can_ignore_conditions(bad, through, uri):
    bad.fault("no_conditions")
    assert through.create(uri, b"1")
    assert through.create(uri, b"2")
    assert through.replace(uri, b"3", '"none"')
    assert through.read(uri) == b"3"


def test_a_store_can_know_no_conditions_but_all_else(bad, through, uri):
    bad.fault("conditions_501")
    assert code(through.create, uri, b"1") == (501, "NotImplemented")
    through.put(uri, b"1")
    assert through.read(uri) == b"1"


def test_a_store_can_refuse_every_if_match(bad, through, uri):
    struck = bad.fault("if_match_never")
    etag = through.create(uri, b"1")
    assert through.replace(uri, b"2", etag) is None
    assert (through.read(uri), struck.hits) == (b"1", 2)  # asked directly, and once more through boto3


def test_etags_can_change_with_every_answer_and_those_that_were_read_hold_until_the_object_changes(bad, through, uri):
    bad.fault("etag_changes")
    written = through.create(uri, b"1")
    first, second = (through.read_versioned(uri)[1] for _ in range(2))
    (listed,) = through.list(uri)
    assert len({written, first, second, f'"{through.head(uri).etag}"', f'"{listed.etag}"'}) == 5
    assert through.replace(uri, b"2", written) is None
    assert through.replace(uri, b"2", f'"{listed.etag}"') is None
    assert through.replace(uri, b"2", first)
    assert through.replace(uri, b"3", second) is None
    assert through.read(uri) == b"2"


def test_down_cuts_every_connection_for_a_while_or_until_lifted(client, bad, key):
    at = {"Bucket": bad.service.bucket, "Key": key}
    bad.down(seconds=0.3)
    with pytest.raises(ConnectionClosedError):
        client.put_object(**at, Body=b"1")
    time.sleep(0.3)
    client.put_object(**at, Body=b"1")
    bad.down()
    with pytest.raises(ConnectionClosedError):
        client.get_object(**at)
    bad.lift()
    assert client.get_object(**at)["Body"].read() == b"1"
    assert [seen.status for seen in bad.requests()] == [0, 200, 0, 200]


def test_answers_come_late_and_with_another_clock(bad, through, uri):
    bad.fault("slow", by=0.3, methods="PUT")
    bad.fault("clock", by=-3600)
    bad.fault("404", methods="GET")
    started = time.monotonic()
    through.put(uri, b"1")
    assert time.monotonic() - started >= 0.3
    assert through.now() == pytest.approx(time.time() - 3600, abs=5)
    with pytest.raises(FileNotFoundError):
        through.read(uri)
    assert through.now() == pytest.approx(time.time() - 3600, abs=5)


READS = {
    "read": lambda storage, uri: storage.read(uri),
    "load": lambda storage, uri: storage.load(uri),
    "download": lambda storage, uri: storage.download(uri, io.BytesIO()),
    "list": lambda storage, uri: list(storage.list_uris(uri)),
}


@pytest.mark.parametrize("read", READS)
def test_what_breaks_off_is_read_again_and_where_it_always_does_it_is_an_error_of_the_store(
    bad, through, uri, read, monkeypatch
):
    monkeypatch.setenv("AWS_MAX_ATTEMPTS", "2")
    through.put(uri, b"1" * 10_000)
    whole = READS[read](through, uri)
    bad.fault("broken_off", times=1)
    assert READS[read](through, uri) == whole
    bad.fault("broken_off")
    with pytest.raises(store_errors()):
        READS[read](through, uri)


# Which requests


def test_dice_fall_alike_for_the_same_seed(client, bad, key):
    def statuses(seed: int) -> list[int]:
        bad.reset()
        bad.fault("404", methods="HEAD", rate=0.5, seed=seed)
        for number in range(20):
            assert code(client.head_object, Bucket=bad.service.bucket, Key=f"{key}{number}", IfMatch='"x"')[0] == 404
        return [fault.hits for fault in bad.faults]

    first = statuses(1)
    assert first == statuses(1)
    assert 0 < first[0] < 20


def test_final_faults_strike_one_after_the_other(client, bad, key):
    bad.fault("503", times=1)
    bad.fault("403", times=1, key="_bgai/calls/")
    bad.fault("500", key="_bgai/wallet/")
    at = {"Bucket": bad.service.bucket, "Key": key}
    assert [code(client.put_object, **at, Body=b"1")[0] for _ in range(2)] == [503, 403]
    client.put_object(**at, Body=b"1")


def test_another_process_steers_it_over_http(client, bad, key):
    url = f"{bad.service.endpoint}/__faults"
    with httpx.Client(trust_env=False) as http:
        http.post(url, json={"name": "403", "methods": "PUT", "times": 1}).raise_for_status()
        assert code(client.put_object, Bucket=bad.service.bucket, Key=key, Body=b"1")[0] == 403
        assert http.get(url).json() == {"faults": [["403", 1]], "requests": [["PUT", key, 403]]}
        assert http.delete(url).json()["faults"] == []
        assert http.post(url, json={"name": "none"}).status_code == 400
