"""Requests to S3 past boto3: the same objects, heard by the same listeners, and boto3 for all that is not plain."""

from __future__ import annotations

import datetime
import gc
import io
import json
import warnings

import pytest
from botocore.awsrequest import AWSResponse
from botocore.exceptions import ClientError, SSLError
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat
from cryptography.x509.oid import NameOID
from hypothesis import given
from hypothesis import strategies as st
from urllib3 import HTTPResponse

from airflow_provider_bgai.exceptions import InvalidRequestError
from airflow_provider_bgai.storage import Storage, split_uri
from tests.servers import serving_proxy, serving_website

BODY = b"what is stored"
PATH_STYLE = {"s3": {"addressing_style": "path"}}


@pytest.fixture
def folder(s3, request) -> str:
    """A prefix of the test's own."""
    return f"s3://{s3.bucket}/direct/{request.node.name.replace('[', '-').strip(']')}"


@pytest.fixture
def by_boto3(monkeypatch) -> list[str]:
    """The names of the calls that are left to boto3."""
    from botocore.client import BaseClient

    made: list[str] = []
    make = BaseClient._make_api_call

    def listen(client, name, arguments):
        made.append(name)
        return make(client, name, arguments)

    monkeypatch.setattr(BaseClient, "_make_api_call", listen)
    return made


@pytest.fixture
def storage(s3) -> Storage:
    """One that has written already, and knows where the bucket is."""
    storage = Storage()
    storage.put(f"s3://{s3.bucket}/direct/first", b"")
    return storage


@pytest.fixture
def configured(s3, monkeypatch):
    """Changes to the connection to S3."""

    def configure(**extra) -> Storage:
        connection = json.loads(s3.aws_connection())
        connection["extra"] |= extra
        monkeypatch.setenv("AIRFLOW_CONN_AWS_DEFAULT", json.dumps(connection))
        return Storage()

    return configure


def test_plain_objects_are_written_and_read_without_boto3(storage, folder, by_boto3):
    etag = storage.create(f"{folder}/a b/ü+?#%20&~.json", BODY)
    assert storage.read_versioned(f"{folder}/a b/ü+?#%20&~.json") == (BODY, etag)
    storage.put(f"{folder}/put", b"1")
    _, etag = storage.read_versioned(f"{folder}/put")
    assert storage.replace(f"{folder}/put", b"2", etag)
    storage.copy(f"{folder}/a b/ü+?#%20&~.json", f"{folder}/a b/copy of ü+?#%20&~.json")
    assert storage.read(f"{folder}/a b/copy of ü+?#%20&~.json") == BODY
    assert storage.read(f"{folder}/put") == b"2"
    assert by_boto3 == []


def test_a_copy_has_the_type_and_the_metadata_of_what_is_copied_and_the_extra_arguments(s3, folder, by_boto3):
    storage = Storage(extra_args={"ServerSideEncryption": "AES256", "ContentDisposition": "inline"})
    storage.put(f"{folder}/first", b"")
    storage.put(f"{folder}/a", BODY, content_type="image/png", metadata={"id": "1"})
    storage.copy(f"{folder}/a", f"{folder}/b")
    assert by_boto3 == ["PutObject"]
    head = s3.client().head_object(Bucket=s3.bucket, Key=split_uri(f"{folder}/b")[1])
    assert (head["ContentType"], head["Metadata"], head["ServerSideEncryption"]) == ("image/png", {"id": "1"}, "AES256")


@pytest.mark.parametrize("body", [b"", b"\n\n<Error><Code>InternalError</Code></Error>"])
def test_a_copy_that_fails_after_it_was_answered_is_asked_for_through_boto3(storage, folder, by_boto3, body):
    storage.put(f"{folder}/a", BODY)
    answers = [AWSResponse("", 200, {}, HTTPResponse(io.BytesIO(body), preload_content=False))]
    storage.client.meta.events.register("before-send.s3.CopyObject", lambda **_: answers.pop() if answers else None)
    storage.copy(f"{folder}/a", f"{folder}/b")
    assert storage.read(f"{folder}/b") == BODY
    assert by_boto3 == ["CopyObject"]


def test_nothing_to_copy_is_said_by_boto3(storage, folder, by_boto3):
    with pytest.raises(ClientError, match="CopyObject"):
        storage.copy(f"{folder}/none", f"{folder}/b")
    assert by_boto3 == ["CopyObject"]


def test_a_storage_that_nobody_uses_any_more_closes_its_connections(s3):
    storage = Storage()
    storage.put(f"s3://{s3.bucket}/direct/closed", b"")
    storage.read(f"s3://{s3.bucket}/direct/closed")
    gc.collect()  # what others have left
    with warnings.catch_warnings(record=True) as left:
        warnings.simplefilter("always", ResourceWarning)
        del storage
        gc.collect()
    assert [str(it.message) for it in left] == []


@pytest.fixture(scope="module")
def one(s3) -> Storage:
    return Storage()


@given(key=st.text(min_size=1, max_size=40))
def test_boto3_finds_each_object_under_the_name_that_it_was_written_by(s3, one, key):
    uri = f"s3://{s3.bucket}/direct/names/{key}"
    try:
        split_uri(uri)
        one.put(uri, BODY)
    except (InvalidRequestError, UnicodeEncodeError, ClientError):
        return  # no clean name, or none that S3 takes
    found = one.client.get_object(Bucket=s3.bucket, Key=f"direct/names/{key}")["Body"].read()
    assert (found, one.read(uri)) == (BODY, BODY)
    one.copy(uri, f"{uri}+")
    assert one.read(f"{uri}+") == BODY
    one.delete_all([uri, f"{uri}+"])


def test_type_metadata_and_extra_arguments_go_along(s3, folder, by_boto3):
    storage = Storage(extra_args={"ServerSideEncryption": "AES256", "CacheControl": "max-age=60"})
    storage.put(f"{folder}/first", b"")
    storage.put(f"{folder}/a", BODY, content_type="image/png", metadata={"id": "a  b", "Sku": "1"})
    assert by_boto3 == ["PutObject"]
    head = s3.client().head_object(Bucket=s3.bucket, Key=split_uri(f"{folder}/a")[1])
    assert head["ContentType"] == "image/png"
    assert head["Metadata"] == {"id": "a  b", "sku": "1"}
    assert head["ServerSideEncryption"] == "AES256"
    assert head["CacheControl"] == "max-age=60"


def test_a_file_goes_out_from_where_it_stands(storage, folder, by_boto3):
    file = io.BytesIO(b"read already" + BODY)
    file.seek(len(b"read already"))
    storage.put(f"{folder}/file", file)
    assert storage.read(f"{folder}/file") == BODY
    assert by_boto3 == []


def test_a_body_goes_with_its_checksum_as_boto3_sends_it_so_that_half_of_it_is_not_stored(storage, folder):
    sent = []
    storage.client.meta.events.register("before-send.s3.PutObject", lambda request, **_: sent.append(request.headers))
    file = io.BytesIO(b"before" + BODY)
    file.seek(6)
    storage.put(f"{folder}/bytes", BODY)
    storage.put(f"{folder}/file", file)
    bucket, key = split_uri(f"{folder}/boto3")
    storage.client.put_object(Bucket=bucket, Key=key, Body=BODY)
    names = ("x-amz-checksum-crc32", "x-amz-sdk-checksum-algorithm", "X-Amz-Content-SHA256")
    first, *others = [[headers[name] for name in names] for headers in map(_as_bytes, sent)]
    assert others == [first, first]
    assert b"CRC32" in first


def _as_bytes(headers) -> dict[str, bytes]:
    return {name: value if isinstance(value, bytes) else str(value).encode() for name, value in headers.items()}


def test_half_a_body_is_refused_and_sent_again_through_boto3(storage, folder, by_boto3, monkeypatch):
    monkeypatch.setattr("airflow_provider_bgai.direct._crc32", lambda body: "AAAAAA==")  # as if it was another body's
    storage.put(f"{folder}/a", BODY)
    assert by_boto3 == ["PutObject"]
    assert storage.read(f"{folder}/a") == BODY


def test_who_wants_no_checksums_gets_none(configured, folder):
    sent, storage = [], configured(config_kwargs={"request_checksum_calculation": "when_required", **PATH_STYLE})
    storage.put(f"{folder}/first", b"")
    storage.client.meta.events.register("before-send.s3.PutObject", lambda request, **_: sent.append(request.headers))
    storage.put(f"{folder}/a", BODY)
    assert ["x-amz-checksum-crc32" in headers for headers in sent] == [False]


def test_what_is_encoded_is_read_as_it_is_stored(s3, storage, folder):
    s3.client().put_object(Bucket=s3.bucket, Key=split_uri(f"{folder}/a")[1], Body=BODY, ContentEncoding="gzip")
    assert storage.read(f"{folder}/a") == BODY


def test_the_clock_is_read_off_a_direct_answer(bad, folder):
    storage = Storage()
    storage.put(f"{folder}/a", BODY)
    before = storage.now()
    bad.fault("clock", by=3600.0)
    storage.put(f"{folder}/a", BODY)
    assert 3590 < storage.now() - before < 3620


def test_who_listens_to_the_client_may_answer_a_request(storage, folder, by_boto3):
    def answer(request, **_):
        raw = HTTPResponse(io.BytesIO(), {"ETag": '"theirs"'}, 200, preload_content=False)
        return AWSResponse(request.url, 200, raw.headers, raw)

    events = storage.client.meta.events
    events.register("before-send.s3.PutObject", answer)
    assert storage.create(f"{folder}/a", BODY) == '"theirs"'
    events.unregister("before-send.s3.PutObject", answer)
    assert not list(storage.list(folder))
    assert by_boto3 == ["ListObjectsV2"]


# --- what is left to boto3


@pytest.mark.parametrize("fault", ["lost_answer", "stored_500", "500", "503", "409", "down"])
def test_what_has_no_plain_answer_is_asked_through_boto3(bad, folder, by_boto3, fault):
    storage, file = Storage(), io.BytesIO(b"before" + BODY)
    file.seek(6)
    storage.put(f"{folder}/first", b"")
    by_boto3.clear()
    struck = bad.fault(fault, times=1)
    if fault == "409":
        assert storage.create(f"{folder}/a", BODY)
    else:
        storage.put(f"{folder}/a", file)
    assert struck.hits == 1
    assert by_boto3 == ["PutObject"]
    assert storage.read(f"{folder}/a") == BODY
    storage.put(f"{folder}/a", b"2")
    assert by_boto3 == ["PutObject"]


def test_a_condition_that_does_not_hold_is_known_through_boto3(storage, folder, by_boto3):
    assert storage.create(f"{folder}/a", b"1")
    assert storage.create(f"{folder}/a", b"2") is None
    with pytest.raises(FileNotFoundError):
        storage.read(f"{folder}/b")
    assert by_boto3 == ["PutObject", "GetObject"]
    assert storage.read(f"{folder}/a") == b"1"


def test_a_bucket_that_refuses_this_way_to_ask_is_left_to_boto3_from_then_on(bad, folder, by_boto3):
    storage = Storage()
    storage.put(f"{folder}/a", BODY)
    by_boto3.clear()
    struck = bad.fault("403", times=1)
    storage.put(f"{folder}/a", BODY)
    asked = len(bad.requests())
    storage.put(f"{folder}/a", BODY)
    assert storage.read(f"{folder}/a") == BODY
    assert struck.hits == 1
    assert by_boto3 == ["PutObject", "PutObject", "GetObject"]
    assert len(bad.requests()) - asked == 2


@pytest.mark.parametrize(
    "arguments",
    [
        {"Expires": datetime.datetime(2030, 1, 1, tzinfo=datetime.UTC)},
        {"ChecksumAlgorithm": "SHA256"},
        {"CacheControl": "max-âge=60"},
    ],
    ids=lambda arguments: next(iter(arguments)),
)
def test_an_argument_that_needs_more_than_to_be_sent_is_left_to_boto3(s3, folder, by_boto3, arguments):
    s3.client().put_object(Bucket=s3.bucket, Key=split_uri(f"{folder}/first")[1])
    by_boto3.clear()
    storage = Storage(extra_args=arguments)
    storage.read(f"{folder}/first")
    storage.put(f"{folder}/a", BODY)
    assert by_boto3 == ["GetObject", "PutObject"]


@pytest.mark.parametrize("config", [{"signature_version": "s3"}, {"proxies": {"http": ""}}])
def test_a_connection_out_of_the_ordinary_is_left_to_boto3(configured, folder, by_boto3, config):
    storage = configured(config_kwargs={**PATH_STYLE, **config})
    storage.put(f"{folder}/a", BODY)
    assert storage.read(f"{folder}/a") == BODY
    assert by_boto3 == ["PutObject", "GetObject"]


def test_where_the_environment_has_a_proxy_boto3_asks_it(storage, folder, by_boto3, monkeypatch):
    with serving_proxy() as proxy:
        monkeypatch.setenv("HTTP_PROXY", proxy.url)
        monkeypatch.setenv("NO_PROXY", "")
        monkeypatch.setenv("no_proxy", "")
        proxy.refuses = 418
        with pytest.raises(ClientError, match="418"):
            Storage().read(f"{folder}/a")
    assert len(proxy.asked) == 1


# --- TLS


@pytest.fixture(scope="module")
def certificate(tmp_path_factory):
    """A self-signed certificate for localhost, with its key, in one file."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "localhost")])
    today = datetime.datetime.now(datetime.UTC)
    built = (
        x509.CertificateBuilder(name, name, key.public_key(), x509.random_serial_number())
        .not_valid_before(today - datetime.timedelta(days=1))
        .not_valid_after(today + datetime.timedelta(days=1))
        .add_extension(x509.SubjectAlternativeName([x509.DNSName("localhost")]), critical=False)
        .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
        .sign(key, hashes.SHA256())
    )
    path = tmp_path_factory.mktemp("tls") / "localhost.pem"
    private = key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
    path.write_bytes(built.public_bytes(Encoding.PEM) + private)
    return path


def test_the_certificate_that_a_connection_names_is_trusted_and_no_other(configured, certificate, by_boto3):
    with serving_website(certificate) as site:
        site.answer("/bucket/a", BODY, ETag='"1"')
        named = configured(endpoint_url=site.url, verify=str(certificate))
        assert [named.read("s3://bucket/a") for _ in range(3)] == [BODY] * 3
        assert by_boto3 == ["GetObject"]
        assert len(site.requests) == 3
        with pytest.raises(SSLError):
            configured(endpoint_url=site.url, config_kwargs={"retries": {"total_max_attempts": 1}, **PATH_STYLE}).read(
                "s3://bucket/a"
            )
        assert len(site.requests) == 3


@pytest.mark.filterwarnings("ignore:Unverified HTTPS request")
def test_where_no_certificate_is_looked_at_boto3_alone_asks(configured, certificate, by_boto3):
    with serving_website(certificate) as site:
        site.answer("/bucket/a", BODY, ETag='"1"')
        blind = configured(endpoint_url=site.url, verify=False)
        assert [blind.read("s3://bucket/a") for _ in range(2)] == [BODY] * 2
    assert by_boto3 == ["GetObject"] * 2


def test_certificates_that_only_boto3_trusts_leave_the_bucket_to_it(configured, certificate, by_boto3, monkeypatch):
    monkeypatch.setenv("AWS_CA_BUNDLE", str(certificate))
    with serving_website(certificate) as site:
        site.answer("/bucket/a", BODY, ETag='"1"')
        storage = configured(endpoint_url=site.url)
        _ = storage.client  # read the environment
        monkeypatch.delenv("AWS_CA_BUNDLE")
        assert [storage.read("s3://bucket/a") for _ in range(3)] == [BODY] * 3
    assert by_boto3 == ["GetObject"] * 3
