"""S3, through the Amazon provider's hook: read, write, list, sign, and the conditional put.

The only place that talks to S3. Methods block; asynchronous callers wrap them in ``asyncio.to_thread``
(the boto3 client is thread-safe). Endpoint, role and profile come from the AWS connection.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import IO, TYPE_CHECKING, Any

from airflow_provider_bgai.exceptions import InvalidRequestError

if TYPE_CHECKING:
    from airflow.providers.amazon.aws.hooks.s3 import S3Hook

# What S3 answers when a condition (If-None-Match, If-Match) does not hold. 409 is Amazon's word for
# "another conditional write to this key was under way".
_CONDITION_FAILED = {"PreconditionFailed", "412", "ConditionalRequestConflict", "409"}
THREADS = 32
_NOT_FOUND = {"NoSuchKey", "404", "NotFound"}
# Nobody here reads these of a listing, and parsing the dates of 100,000 objects takes seconds.
_UNREAD = re.compile(rb"<(LastModified|StorageClass|Owner|ChecksumAlgorithm|ChecksumType)>.*?</\1>", re.DOTALL)


@dataclass(frozen=True)
class S3Object:
    """One object as S3 lists it. ``size`` in bytes; ``etag`` without quotes."""

    uri: str
    size: int
    etag: str


def split_uri(uri: str) -> tuple[str, str]:
    """Bucket and key of an ``s3://`` URI.

    :raises InvalidRequestError: for anything that is not a clean S3 URI. Keys come from catalogues, so
        parts like ``..``, empty parts and control characters are refused.
    """
    # Not urlsplit: everything after the bucket is the key, and '?' and '#' are ordinary characters in it.
    found = re.match(r"s3://([A-Za-z0-9._-]+)(?:/|$)", uri) if isinstance(uri, str) else None
    if found is None:
        raise InvalidRequestError(f"{uri!r}: must be an S3 URI like s3://bucket/key")
    if any(ord(char) < 32 or ord(char) == 127 for char in uri):
        raise InvalidRequestError(f"{uri!r}: control characters are not allowed in an S3 key")
    key = uri[found.end() :]
    segments = key.rstrip("/").split("/") if key else []
    if any(segment in ("", ".", "..") for segment in segments):
        raise InvalidRequestError(f"{uri!r}: empty parts, '.' and '..' are not allowed in an S3 key")
    return found[1], key


class Storage:
    """S3 as this package needs it.

    :param aws_conn_id: the Airflow connection to S3; None for boto3's own credential chain.
    """

    def __init__(self, aws_conn_id: str | None = "aws_default") -> None:
        self.aws_conn_id = aws_conn_id

    @cached_property
    def hook(self) -> S3Hook:
        """The Amazon provider's hook."""
        from airflow.providers.amazon.aws.hooks.s3 import S3Hook
        from botocore.config import Config

        # As many connections as there are threads that use them; the connection's own settings stay.
        configured = S3Hook(aws_conn_id=self.aws_conn_id).conn_config.botocore_config or Config()
        return S3Hook(aws_conn_id=self.aws_conn_id, config=configured.merge(Config(max_pool_connections=THREADS)))

    @cached_property
    def client(self) -> Any:
        """The boto3 client. Looks the connection up, so touch it once before an event loop starts."""
        client = self.hook.get_conn()
        client.meta.events.register("before-parse.s3.ListObjectsV2", _trim_listing, unique_id="bgai-trim-listing")
        return client

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
        bucket, key = split_uri(uri)
        from botocore.exceptions import ClientError

        try:
            answer = self.client.get_object(Bucket=bucket, Key=key)
        except ClientError as error:
            if _code(error) in _NOT_FOUND:
                raise FileNotFoundError(f"{uri}: no such object") from None
            raise
        return answer["Body"].read(), answer["ETag"]

    def download(self, uri: str, file: IO[bytes]) -> None:
        """Write an object to a file, streaming. :raises FileNotFoundError: if there is none."""
        bucket, key = split_uri(uri)
        from botocore.exceptions import ClientError

        try:
            self.client.download_fileobj(bucket, key, file)
        except ClientError as error:
            if _code(error) in _NOT_FOUND:
                raise FileNotFoundError(f"{uri}: no such object") from None
            raise

    def head(self, uri: str) -> S3Object | None:
        """Size and ETag of an object, or None if there is none."""
        bucket, key = split_uri(uri)
        from botocore.exceptions import ClientError

        try:
            answer = self.client.head_object(Bucket=bucket, Key=key)
        except ClientError as error:
            if _code(error) in _NOT_FOUND:
                return None
            raise
        return S3Object(uri, answer["ContentLength"], answer["ETag"].strip('"'))

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
        bucket, key = split_uri(uri)
        self.client.put_object(
            Bucket=bucket, Key=key, Body=body, ContentType=content_type, Metadata=dict(metadata or {})
        )

    def create(self, uri: str, body: bytes, *, content_type: str = "application/json") -> str | None:
        """Write an object only if there is none (``If-None-Match: *``). Its ETag, or None if there is one."""
        return self._put_if(uri, body, content_type, IfNoneMatch="*")

    def replace(self, uri: str, body: bytes, etag: str, *, content_type: str = "application/json") -> str | None:
        """Write an object only if it is still the one read (``If-Match``). Its new ETag, or None if not."""
        return self._put_if(uri, body, content_type, IfMatch=etag)

    def _put_if(self, uri: str, body: bytes, content_type: str, **condition: str) -> str | None:
        bucket, key = split_uri(uri)
        from botocore.exceptions import ClientError

        try:
            answer = self.client.put_object(Bucket=bucket, Key=key, Body=body, ContentType=content_type, **condition)
        except ClientError as error:
            if _code(error) in _CONDITION_FAILED:
                return None
            raise
        return answer["ETag"]

    def delete(self, uri: str) -> None:
        """Remove an object; no error if there is none."""
        bucket, key = split_uri(uri)
        self.client.delete_object(Bucket=bucket, Key=key)

    def copy(self, source: str, target: str) -> None:
        """Copy an object within S3, with its content type and metadata."""
        source_bucket, source_key = split_uri(source)
        bucket, key = split_uri(target)
        self.client.copy_object(Bucket=bucket, Key=key, CopySource={"Bucket": source_bucket, "Key": source_key})

    def list(self, prefix: str) -> Iterator[S3Object]:
        """All objects whose URI starts with ``prefix``."""
        bucket, key = split_uri(prefix)
        pages = self.client.get_paginator("list_objects_v2").paginate(Bucket=bucket, Prefix=key)
        for page in pages:
            for item in page.get("Contents", ()):
                yield S3Object(f"s3://{bucket}/{item['Key']}", item["Size"], item["ETag"].strip('"'))

    def presign(self, uri: str, *, seconds: int = 3600) -> str:
        """A link that lets anyone who has it read the object for so many seconds."""
        bucket, key = split_uri(uri)
        return self._signer.generate_presigned_url(
            "get_object", Params={"Bucket": bucket, "Key": key}, ExpiresIn=seconds
        )


def _trim_listing(response_dict: dict[str, Any], **_: Any) -> None:
    response_dict["body"] = _UNREAD.sub(b"", response_dict["body"])


def _code(error: Any) -> str:
    return str(error.response.get("Error", {}).get("Code", ""))
