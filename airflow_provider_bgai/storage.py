"""S3, through the Amazon provider's hook: read, write, list, sign, and the conditional put.

The only place that talks to S3. Methods block; asynchronous callers run them in threads (the boto3 client is
thread-safe). Endpoint, role and profile come from the AWS connection. What must stay true:

* A conditional write knows its own: refused because an earlier try of it was stored and its answer lost, it has
  succeeded. What is stored is compared byte for byte, so no two writers may ever write the same bytes.
* There is one clock, the store's: it is read off the ``Date`` of its answers and carried on by a clock that runs on
  in suspend. No decision compares two machines' clocks.
"""

from __future__ import annotations

import logging
import math
import re
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from datetime import datetime
from functools import cached_property, partial
from html import unescape
from itertools import islice
from typing import IO, TYPE_CHECKING, Any, TypeVar

from airflow_provider_bgai.direct import Direct
from airflow_provider_bgai.exceptions import InvalidRequestError, SourceError, StoreError

if TYPE_CHECKING:
    import tenacity
    from airflow.providers.amazon.aws.hooks.s3 import S3Hook

log = logging.getLogger(__name__)

T = TypeVar("T")

PATIENCE = 180.0
"""Seconds for which what was paid is tried to be written, before the task fails and is retried."""
CONTENTION = 60.0
"""Seconds for which S3 may answer 409 ("another conditional write is under way") to one write."""
THREADS = 32

_REFUSED = {"PreconditionFailed", "412"}
_CONFLICT = {"ConditionalRequestConflict", "OperationAborted", "409"}
_NOT_FOUND = {"NoSuchKey", "404", "NotFound", "InvalidRange"}
_OURS = {"Bucket", "Key", "Body", "ContentLength", "ContentMD5", "ContentType", "Metadata", "IfMatch", "IfNoneMatch"}
_ADDRESS = re.compile(r"s3://([A-Za-z0-9._-]+)(?:/|$)")
_CONTROL = re.compile(r"[\x00-\x1f\x7f]")
_UNCLEAN = {"", ".", ".."}
_LISTED_FIELD = re.compile("<(Key|LastModified|ETag|Size)>([^<]*)</")


def boottime() -> float:
    """Seconds on a clock that no one sets, and that runs on while the machine is suspended where it can."""
    clock = getattr(time, "CLOCK_BOOTTIME", None)
    return time.monotonic() if clock is None else time.clock_gettime(clock)


@dataclass(frozen=True)
class S3Object:
    """One object as S3 lists it. ``size`` in bytes; ``etag`` without quotes; ``modified`` in epoch seconds."""

    uri: str
    size: int
    etag: str
    modified: int = 0

    @property
    def hint(self) -> str:
        """What a content is recognised by without reading it. A hint, never an identity.

        An ETag that looks like an MD5 is one of the content, so a date that changes says nothing; any other may be of
        parts or of a key (multipart, KMS), and then the date counts, too.
        """
        if re.fullmatch(r"[0-9a-f]{32}", self.etag):
            return f"{self.etag} {self.size}"
        return f"{self.etag} {self.size} {self.modified}"


def split_uri(uri: str) -> tuple[str, str]:
    """Bucket and key of an ``s3://`` URI.

    :raises InvalidRequestError: for anything that is not a clean S3 URI. Keys come from catalogues, so
        parts like ``..``, empty parts and control characters are refused.
    """
    # Not urlsplit: everything after the bucket is the key, and '?' and '#' are ordinary characters in it.
    found = _ADDRESS.match(uri) if isinstance(uri, str) else None
    if found is None:
        raise InvalidRequestError(f"{uri!r}: must be an S3 URI like s3://bucket/key")
    if _CONTROL.search(uri):
        raise InvalidRequestError(f"{uri!r}: control characters are not allowed in an S3 key")
    key = uri[found.end() :]
    if key and not _UNCLEAN.isdisjoint(key.rstrip("/").split("/")):
        raise InvalidRequestError(f"{uri!r}: empty parts, '.' and '..' are not allowed in an S3 key")
    return found[1], key


class Storage:
    """S3 as this package needs it.

    :param aws_conn_id: the Airflow connection to S3; None for boto3's own credential chain.
    :param extra_args: what every write is given besides, as in the Amazon provider: ``ServerSideEncryption``,
        ``SSEKMSKeyId``, ``ACL``, ``StorageClass``, … by boto3's names.
    """

    def __init__(self, aws_conn_id: str | None = "aws_default", extra_args: Mapping[str, Any] | None = None) -> None:
        self.aws_conn_id = aws_conn_id
        self.extra_args = dict(extra_args or {})
        self._ahead: float | None = None

    @cached_property
    def hook(self) -> S3Hook:
        """The Amazon provider's hook."""
        from airflow.providers.amazon.aws.hooks.s3 import S3Hook

        return S3Hook(aws_conn_id=self.aws_conn_id)

    @cached_property
    def client(self) -> Any:
        """The boto3 client. Looks the connection up, so touch it once before an event loop starts."""
        from botocore.config import Config

        # As many connections as there are threads that use them; the connection's own settings stay.
        configured = self.hook.conn_config.botocore_config or Config()
        config = configured.merge(Config(max_pool_connections=THREADS))
        client = self.hook.get_client_type(self.hook.region_name, config)
        # Under this name it comes before botocore's own look at each answer, which parses it as a whole.
        client.meta.events.register("before-parse.*.ListObjectsV2", _read_listing, unique_id="bgai-read-listing")
        client.meta.events.register("after-call.s3", self._read_clock)
        client.meta.events.register_last("before-call.s3", _send_at_once)
        _check_arguments(client, self.extra_args)
        return client

    @cached_property
    def _direct(self) -> Direct:
        return Direct(self.client, self.hook.verify, THREADS)

    # --- the store's clock

    @property
    def knows_time(self) -> bool:
        """Whether :meth:`now` answers without asking S3."""
        return self._ahead is not None

    def now(self) -> float:
        """Epoch seconds on the store's clock. Asks S3 once, if nothing was asked before."""
        if self._ahead is None:
            self._ask_the_time()
        assert self._ahead is not None
        return boottime() + self._ahead

    def _ask_the_time(self) -> None:
        from botocore.exceptions import ClientError

        try:
            self.client.head_bucket(Bucket="bgai-what-time-is-it")
        except ClientError as error:
            log.debug("S3 was asked for the time: %s", _code(error))  # any answer has a date
        if self._ahead is None:
            raise SourceError("S3 answers without a Date, so nobody can tell whose time holds")

    def _read_clock(self, parsed: Mapping[str, Any], **_: Any) -> None:
        if (date := _date(parsed)) is None:
            return
        ahead, known = date - boottime(), self._ahead
        # A date is cut off to seconds: of several answers the latest reading is the best, unless a clock was set.
        self._ahead = ahead if known is None or abs(ahead - known) > 2 else max(ahead, known)

    # --- patience

    def insist(self, write: Callable[[], T], what: str, *, patience: float = math.inf) -> T:
        """Do something that must be stored because it was paid for: again and again, for :data:`PATIENCE` seconds.

        :param what: what is stored, and what is known of it, for the error.
        :param patience: seconds, if fewer are enough.
        :raises StoreError: if S3 refuses it for so long. The task is retried then, and collects.
        """
        import tenacity

        retrying = tenacity.Retrying(
            retry=tenacity.retry_if_exception_type(store_errors()),
            wait=tenacity.wait_random_exponential(multiplier=0.3, max=15),
            stop=tenacity.stop_after_delay(min(patience, PATIENCE)),
            before_sleep=partial(_tell, what),
            reraise=True,
        )
        try:
            return retrying(write)
        except store_errors() as error:
            raise StoreError(f"S3 refuses {what}: {error}") from error

    @cached_property
    def _signer(self) -> Any:
        """A client that signs with version 4: new buckets and objects under KMS take no older signature."""
        from botocore.config import Config

        return self.hook.get_client_type(config=self.client.meta.config.merge(Config(signature_version="s3v4")))

    def read(self, uri: str) -> bytes:
        """The whole object. :raises FileNotFoundError: if there is none."""
        return self.read_versioned(uri)[0]

    def read_versioned(self, uri: str) -> tuple[bytes, str]:
        """The whole object and its ETag. :raises FileNotFoundError: if there is none."""
        body, headers = self._get_object(uri)
        return body, headers["etag"]

    def load(self, uri: str) -> tuple[bytes, S3Object]:
        """The whole object, and how it would be listed. :raises FileNotFoundError: if there is none."""
        from email.utils import parsedate_to_datetime

        body, headers = self._get_object(uri)
        modified = int(parsedate_to_datetime(headers["last-modified"]).timestamp())
        return body, S3Object(uri, len(body), headers["etag"].strip('"'), modified)

    def _get_object(self, uri: str) -> tuple[bytes, Mapping[str, str]]:
        """The object and the headers of the answer, by names in lower case."""
        bucket, key = split_uri(uri)
        if (direct := self._direct.get(bucket, key)) is not None:
            return direct
        with self._direct.learning(bucket, key):
            answer = self._found(uri, lambda: self.client.get_object(Bucket=bucket, Key=key))
        return answer["Body"].read(), answer["ResponseMetadata"]["HTTPHeaders"]

    def download(self, uri: str, file: IO[bytes]) -> None:
        """Write an object to a file, streaming. :raises FileNotFoundError: if there is none."""
        from boto3.s3.transfer import TransferConfig

        bucket, key = split_uri(uri)
        # With threads, parts of a large file wait in memory for each other, a hundred megabytes and more.
        config = TransferConfig(use_threads=False)
        self._found(uri, lambda: self.client.download_fileobj(bucket, key, file, Config=config))

    def head(self, uri: str) -> S3Object | None:
        """How an object would be listed, or None if there is none."""
        bucket, key = split_uri(uri)
        try:
            return _described(uri, self._found(uri, lambda: self.client.head_object(Bucket=bucket, Key=key)))
        except FileNotFoundError:
            return None

    def _found(self, uri: str, ask: Callable[[], Any]) -> Any:
        from botocore.exceptions import ClientError

        try:
            return ask()
        except ClientError as error:
            if _code(error) in _NOT_FOUND:
                raise FileNotFoundError(f"{uri}: no such object") from None
            raise

    def put(
        self,
        uri: str,
        body: bytes | IO[bytes],
        *,
        content_type: str = "application/octet-stream",
        metadata: Mapping[str, str] | None = None,
    ) -> None:
        """Write an object, in one request: it is there whole or not at all.

        :param body: bytes, or a file that is streamed from its present position.
        :param metadata: ASCII names and values, stored with the object.
        """
        self._put_object(uri, body, ContentType=content_type, Metadata=dict(metadata or {}))

    def _put_object(self, uri: str, body: bytes | IO[bytes], **arguments: Any) -> str:
        """The new ETag."""
        bucket, key = split_uri(uri)
        arguments = {**self.extra_args, **arguments}
        if (direct := self._direct.put(bucket, key, body, arguments)) is not None:
            return direct[1]["etag"]
        with self._direct.learning(bucket, key):
            return str(self.client.put_object(Bucket=bucket, Key=key, Body=body, **arguments)["ETag"])

    def create(self, uri: str, body: bytes, *, content_type: str = "application/json") -> str | None:
        """Write an object only if there is none (``If-None-Match: *``). Its ETag, or None if there is another one."""
        return self._put_if(uri, body, content_type, IfNoneMatch="*")

    def replace(self, uri: str, body: bytes, etag: str, *, content_type: str = "application/json") -> str | None:
        """Write an object only if it is still the one read (``If-Match``). Its new ETag, or None if not."""
        return self._put_if(uri, body, content_type, IfMatch=etag)

    def _put_if(self, uri: str, body: bytes, content_type: str, **condition: str) -> str | None:
        from botocore.exceptions import ClientError

        try:
            return _contending()(self._put_object, uri, body, ContentType=content_type, **condition)
        except ClientError as error:
            if _code(error) not in _REFUSED | _NOT_FOUND:
                raise
        try:
            found, etag = self.read_versioned(uri)
        except FileNotFoundError:
            return None
        return etag if found == body else None

    def delete(self, uri: str) -> None:
        """Remove an object; no error if there is none."""
        bucket, key = split_uri(uri)
        self.client.delete_object(Bucket=bucket, Key=key)

    def delete_all(self, uris: Iterable[str]) -> None:
        """Remove any number of objects of one bucket, a thousand a request; no error for those that are not there."""
        rest = iter(uris)
        while batch := [split_uri(uri) for uri in islice(rest, 1000)]:
            objects = {"Objects": [{"Key": key} for _, key in batch], "Quiet": True}
            answer = self.client.delete_objects(Bucket=batch[0][0], Delete=objects)
            for problem in answer.get("Errors", ()):
                log.warning("%s could not be deleted: %s", problem.get("Key"), problem.get("Message"))

    def copy(self, source: str, target: str) -> None:
        """Copy an object within S3, with its content type and metadata."""
        source_bucket, source_key = split_uri(source)
        bucket, key = split_uri(target)
        known = self.client.meta.service_model.operation_model("CopyObject").input_shape.members
        more = {name: value for name, value in self.extra_args.items() if name in known}
        if self._direct.copy(bucket, key, f"{source_bucket}/{source_key}", more):
            return
        self.client.copy_object(Bucket=bucket, Key=key, CopySource={"Bucket": source_bucket, "Key": source_key}, **more)

    def list(self, prefix: str) -> Iterator[S3Object]:
        """All objects whose URI starts with ``prefix``."""
        bucket = split_uri(prefix)[0]
        for item in self._listed(prefix):
            date, etag = item["LastModified"], unescape(item["ETag"]).strip('"')
            modified = int((datetime.fromisoformat(date) if isinstance(date, str) else date).timestamp())
            yield S3Object(f"s3://{bucket}/{item['Key']}", int(item["Size"]), etag, modified)

    def list_uris(self, prefix: str) -> Iterator[str]:
        """The URIs alone, for who lists 100,000 objects and asks no more of them."""
        bucket = split_uri(prefix)[0]
        return (f"s3://{bucket}/{item['Key']}" for item in self._listed(prefix))

    def _listed(self, prefix: str) -> Iterator[Mapping[str, Any]]:
        bucket, key = split_uri(prefix)
        for page in self.client.get_paginator("list_objects_v2").paginate(Bucket=bucket, Prefix=key):
            yield from page.get("Contents", ())

    def presign(self, uri: str, *, seconds: int = 3600) -> str:
        """A link that lets anyone who has it read the object for so many seconds."""
        bucket, key = split_uri(uri)
        return self._signer.generate_presigned_url(
            "get_object", Params={"Bucket": bucket, "Key": key}, ExpiresIn=seconds
        )


def read_part(storage: Storage, uri: str, start: int, end: int) -> bytes:
    """The bytes of an object from ``start`` (from 0) to before ``end``; fewer where it ends.

    :raises FileNotFoundError: if there is no such object, or it ends before ``start``.
    """
    bucket, key = split_uri(uri)
    part = {"Bucket": bucket, "Key": key, "Range": f"bytes={start}-{end - 1}"}
    return bytes(storage._found(uri, lambda: storage.client.get_object(**part))["Body"].read())


def store_errors(*others: type[Exception]) -> tuple[type[Exception], ...]:
    """What S3 and the way to it raise, and others, to be caught together."""
    from boto3.exceptions import Boto3Error
    from botocore.exceptions import BotoCoreError, ClientError
    from s3transfer.exceptions import RetriesExceededError  # where a file breaks off each time it is read

    return (*others, Boto3Error, BotoCoreError, ClientError, RetriesExceededError)


def _check_arguments(client: Any, extra_args: Mapping[str, Any]) -> None:
    known = client.meta.service_model.operation_model("PutObject").input_shape.members
    for name in extra_args:
        if name not in known:
            raise InvalidRequestError(f"extra_args[{name!r}]: S3's PutObject has no such argument")
        if name in _OURS:
            raise InvalidRequestError(f"extra_args[{name!r}]: is set for each object by whoever writes it")


def _described(uri: str, answer: Mapping[str, Any]) -> S3Object:
    return S3Object(uri, answer["ContentLength"], answer["ETag"].strip('"'), int(answer["LastModified"].timestamp()))


def _contending() -> tenacity.Retrying:
    """Repeats a write while another conditional one is under way."""
    import tenacity
    from botocore.exceptions import ClientError

    return tenacity.Retrying(
        retry=tenacity.retry_if_exception(lambda error: isinstance(error, ClientError) and _code(error) in _CONFLICT),
        wait=tenacity.wait_random_exponential(multiplier=0.05, max=2),
        stop=tenacity.stop_after_delay(CONTENTION),
        reraise=True,
    )


def _tell(what: str, state: tenacity.RetryCallState) -> None:
    error = state.outcome.exception() if state.outcome else None
    log.warning("S3 does not take %s: %s. Trying again (%d)", what, error, state.attempt_number)


def _date(parsed: Mapping[str, Any]) -> float | None:
    """The time of an answer, in epoch seconds."""
    from email.utils import parsedate_to_datetime

    try:
        return parsedate_to_datetime(parsed["ResponseMetadata"]["HTTPHeaders"]["date"]).timestamp()
    except (KeyError, ValueError):
        return None


def _send_at_once(params: dict[str, Any], **_: Any) -> None:
    """Do not ask S3 first whether it wants the body: our objects are small, and the question is a round trip more."""
    params["headers"].pop("Expect", None)


def _read_listing(response_dict: dict[str, Any], customized_response_dict: dict[str, Any], **_: Any) -> None:
    """Take a listing's objects out of the answer as plain texts: a parser takes many times as long for 100,000 of them.

    The rest is left for botocore; and all of it, where it is an error, is cut off or written in another way.
    """
    head, *objects = response_dict["body"].split(b"<Contents>")
    if response_dict["status_code"] != 200 or not objects:
        return
    objects[-1], end, tail = objects[-1].rpartition(b"</Contents>")
    if end and tail.rstrip().endswith(b"</ListBucketResult>"):
        found = [dict(_LISTED_FIELD.findall(each.decode())) for each in objects]
        customized_response_dict["Contents"] = [{**each, "Key": unescape(each["Key"])} for each in found]
        response_dict["body"] = head + tail


def _code(error: Any) -> str:
    return str(error.response.get("Error", {}).get("Code", ""))
