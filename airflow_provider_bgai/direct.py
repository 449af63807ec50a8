"""Objects of S3 read, written and copied directly: signed by botocore as boto3 would, not built and parsed by it.

A call of boto3 takes 3 ms of one core, of which the wire takes a third; a picture takes up to ten of them, and the
interpreter is busy with them for longer than the vendor is with the picture. boto3 stays the one that knows S3. Where a
bucket is and how requests to it are signed is learned from its own first request there, and whatever is not answered
here by a plain 200 is asked once more through it (`airflow_provider_bgai.storage`): what an error means, redirects,
retries are its business alone. So this file has no way to fail, only to leave a request to boto3, and that is what it
does with everything out of the ordinary.
"""

from __future__ import annotations

import os
import threading
import weakref
import zlib
from base64 import b64encode
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from typing import IO, TYPE_CHECKING, Any
from urllib.parse import quote, urlsplit
from urllib.request import getproxies, proxy_bypass

if TYPE_CHECKING:
    from http.client import HTTPConnection

    from botocore.awsrequest import AWSPreparedRequest
    from botocore.model import Shape
    from botocore.signers import RequestSigner

_SAID_OF_THE_OBJECT = {404, 409, 412}
"""Answers that say something of one object; any other refusal may be one of this way to ask."""

Answer = tuple[bytes, dict[str, str]]
"""A body, and headers by names in lower case."""


@dataclass(frozen=True)
class _Place:
    """Where a bucket is. ``address`` ends where the key begins; ``idle`` are connections open to there."""

    address: str
    region: str
    signer: RequestSigner
    open: Callable[[], HTTPConnection]
    idle: deque[HTTPConnection]

    def __post_init__(self) -> None:
        # With its storage, which nobody closes.
        weakref.finalize(self, _close_all, self.idle)


class Direct:
    """GetObject, PutObject and CopyObject, as boto3 would send them, for the buckets where that is plain.

    Who listens to the client's events ``before-send`` and ``after-call`` hears these requests, too.

    :param client: the boto3 client.
    :param verify: what the connection says of certificates: None, a file of those to trust, or False.
    :param connections: how many are kept open to a bucket's host.
    """

    def __init__(self, client: Any, verify: bool | str | None, connections: int) -> None:
        self._client = client
        self._verify = _trusted() if verify is None else verify
        self._connections = connections
        self._members: Mapping[str, Mapping[str, Shape]] = {
            name: client.meta.service_model.operation_model(name).input_shape.members
            for name in ("PutObject", "CopyObject")
        }
        self._checksums = getattr(client.meta.config, "request_checksum_calculation", "") == "when_supported"
        self._places: dict[str, _Place | None] = {}
        self._asked = threading.local()
        client.meta.events.register("before-sign.s3", self._learn)

    @contextmanager
    def learning(self, bucket: str, key: str) -> Iterator[None]:
        """While boto3 asks for this object: learn from it where the bucket is, if that is not known."""
        self._asked.object = bucket, key
        try:
            yield
        finally:
            self._asked.object = None

    def _learn(
        self,
        request: Any,
        signing_name: str,
        region_name: str,
        signature_version: Any,
        request_signer: RequestSigner,
        **_: Any,
    ) -> None:
        bucket, key = getattr(self._asked, "object", None) or ("", "")
        if not bucket or bucket in self._places:
            return
        url, tail = request.url, quote(key, safe="/~")
        scheme, host = urlsplit(url)[:2]
        asked = request.context.get("signing", {})  # what the bucket wants besides
        region = asked.get("region") or region_name
        plain = (
            (asked.get("signing_name") or signing_name, signature_version) == ("s3", "s3v4")
            and not asked.get("request_credentials")
            and not asked.get("identity_cache")
            and url.endswith(f"/{tail}")
            and self._verify
            and not self._client.meta.config.proxies
            and (scheme not in getproxies() or proxy_bypass(host))
        )
        if not plain:
            self._places[bucket] = None
            return
        opened = self._opener(scheme, host)
        self._places[bucket] = _Place(url.removesuffix(tail), region, request_signer, opened, deque())

    def _opener(self, scheme: str, host: str) -> Callable[[], HTTPConnection]:
        """Opens a connection. http.client, because urllib3 and httpx take half as long again, or twice, a request."""
        import ssl
        from http.client import HTTPConnection, HTTPSConnection

        from botocore.httpsession import get_cert_path

        # One time for all: that is the longer one, for an answer.
        timeout, blocks = self._client.meta.config.read_timeout, 128 * 1024
        if scheme == "http":
            return partial(HTTPConnection, host, timeout=timeout, blocksize=blocks)
        tls = ssl.create_default_context(cafile=get_cert_path(self._verify))
        return partial(HTTPSConnection, host, timeout=timeout, blocksize=blocks, context=tls)

    def get(self, bucket: str, key: str) -> Answer | None:
        """The whole object and the headers of the answer, by names in lower case; None: ask boto3."""
        return self._ask("GetObject", "GET", bucket, key, b"", {})

    def put(self, bucket: str, key: str, body: bytes | IO[bytes], arguments: Mapping[str, Any]) -> Answer | None:
        """Write an object, and read what is answered; None: ask boto3.

        :param body: bytes, or a file that is sent from its present position; it stands there again for boto3.
        :param arguments: those of boto3's ``put_object``.
        """
        headers = self._headers("PutObject", arguments)
        if headers is None or self._places.get(bucket) is None:
            return None
        if self._checksums:
            # As boto3 does: a body that is cut off on its way is stored by nobody then.
            headers |= {"x-amz-sdk-checksum-algorithm": "CRC32", "x-amz-checksum-crc32": _crc32(body)}
        if isinstance(body, bytes):
            return self._ask("PutObject", "PUT", bucket, key, body, headers)
        start = body.tell()
        answer = self._ask("PutObject", "PUT", bucket, key, body, headers)
        if answer is None:
            body.seek(start)
        return answer

    def copy(self, bucket: str, key: str, source: str, arguments: Mapping[str, Any]) -> bool:
        """Copy an object within S3; False: ask boto3.

        :param source: the bucket and the key of what is copied, with a slash between them.
        :param arguments: further ones, those of boto3's ``copy_object``.
        """
        headers = self._headers("CopyObject", arguments)
        if headers is None:
            return False
        headers["x-amz-copy-source"] = quote(source, safe="/~")
        answer = self._ask("CopyObject", "PUT", bucket, key, b"", headers)
        # A copy takes long, so S3 answers 200 at once, and says at the end of it if it has failed.
        return answer is not None and b"<CopyObjectResult" in answer[0]

    def _headers(self, operation: str, arguments: Mapping[str, Any]) -> dict[str, str] | None:
        """The arguments as the model of S3 says they are sent; None if one needs more than to be sent."""
        named: dict[str, Any] = {}
        for argument, value in arguments.items():
            if argument == "Metadata":
                named |= {f"x-amz-meta-{name}": each for name, each in value.items()}
            elif argument.startswith(("SSECustomer", "CopySourceSSECustomer", "Checksum")):
                return None
            else:
                named[self._members[operation][argument].serialization.get("name", argument)] = value
        sent = all(isinstance(value, str) and value.isascii() and value.isprintable() for value in named.values())
        return named if sent else None

    def _ask(
        self, operation: str, method: str, bucket: str, key: str, body: bytes | IO[bytes], headers: Mapping[str, str]
    ) -> Answer | None:
        from botocore.awsrequest import AWSRequest

        place = self._places.get(bucket)
        if place is None:
            return None
        meta = self._client.meta
        named = {**headers, "User-Agent": meta.config.user_agent}
        request = AWSRequest(method, place.address + quote(key, safe="/~"), named, body)
        place.signer.get_auth_instance("s3", place.region, "s3v4").add_auth(request)
        sent = request.prepare()
        heard = meta.events.emit(f"before-send.s3.{operation}", request=sent)
        if given := next((each for _, each in heard if each is not None), None):
            status, said, content = given.status_code, dict(given.headers.items()), given.content
        elif (answered := self._exchange(bucket, place, sent)) is not None:
            status, said, content = answered
        else:
            return None
        said = {name.lower(): value for name, value in said.items()}
        parsed = {"ResponseMetadata": {"HTTPStatusCode": status, "HTTPHeaders": said}}
        model = meta.service_model.operation_model(operation)
        meta.events.emit(f"after-call.s3.{operation}", http_response=None, parsed=parsed, model=model, context={})
        if status == 200:
            return content, said
        if status < 500 and status not in _SAID_OF_THE_OBJECT:
            self._places[bucket] = None
        return None

    def _exchange(
        self, bucket: str, place: _Place, request: AWSPreparedRequest
    ) -> tuple[int, dict[str, str], bytes] | None:
        """Status, headers and body of the answer, read to its end; None if none came."""
        import ssl
        from http.client import HTTPException

        from urllib3.util.wait import wait_for_read

        try:
            line = place.idle.pop()
        except IndexError:
            line = place.open()
        try:
            if line.sock is not None and wait_for_read(line.sock, timeout=0):
                line.close()  # closed at the other end meanwhile; it opens anew
            line.request(request.method, urlsplit(request.url).path, request.body, dict(request.headers.items()))
            answer = line.getresponse()
            found = answer.status, dict(answer.getheaders()), answer.read()
        except (OSError, HTTPException) as error:
            line.close()
            if isinstance(error, ssl.SSLError):
                self._places[bucket] = None
            return None
        if len(place.idle) < self._connections:
            place.idle.append(line)
        else:
            line.close()
        return found


def _close_all(lines: Iterable[HTTPConnection]) -> None:
    for line in lines:
        line.close()


def _crc32(body: bytes | IO[bytes]) -> str:
    """As S3 takes it. A file is read from its present position, and stands there again."""
    crc = 0
    if isinstance(body, bytes):
        crc = zlib.crc32(body)
    else:
        start = body.tell()
        while block := body.read(1 << 20):
            crc = zlib.crc32(block, crc)
        body.seek(start)
    return b64encode(crc.to_bytes(4, "big")).decode()


def _trusted() -> str | bool:
    """Whose certificates botocore trusts where the connection says nothing."""
    return os.environ.get("AWS_CA_BUNDLE") or os.environ.get("REQUESTS_CA_BUNDLE") or True
