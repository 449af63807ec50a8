"""A bad S3 for tests: a proxy before a good one that signs each request anew, and fails as a test tells it to.

A real HTTP server on 127.0.0.1. It takes any signature, an expired one too, and forwards under the good S3's key;
what carries no signature is forwarded as it is. In another process it is steered by HTTP: `POST /__faults` with the
arguments of `BadS3.fault` as JSON, `GET` for faults and requests, `DELETE` to lift.

===================  ======================================================================================
fault                what happens to a request that it strikes
===================  ======================================================================================
``lost_answer``      forwarded, then the connection is cut: the client's own retry finds its write there
``stored_500``       forwarded, then answered 500
``500`` ``503``      not forwarded: InternalError, SlowDown
``403`` ``501``      not forwarded: AccessDenied, NotImplemented
``404``              not forwarded: NoSuchKey
``no_bucket``        not forwarded: 404 NoSuchBucket
``409``              a conditional write is not forwarded: ConditionalRequestConflict
``conditions_501``   a conditional write is not forwarded: NotImplemented
``if_match_never``   a write with If-Match is not forwarded: PreconditionFailed, whether anything changed or not
``no_conditions``    a conditional write is forwarded without its conditions: a store that ignores them
``etag_changes``     each answer has an ETag never seen before; only those of GET and HEAD hold in If-Match
``slow``             forwarded ``by`` seconds late
``clock``            answered with a Date ``by`` seconds off
``broken_off``       half of what is read comes, then the connection is cut
``down``             the connection is cut, and nothing forwarded
===================  ======================================================================================
"""

from __future__ import annotations

import json
import random
import re
import secrets
import socket
import threading
import time
from collections import Counter
from collections.abc import Container, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from email.utils import formatdate, parsedate_to_datetime
from html import unescape
from http.server import BaseHTTPRequestHandler
from socketserver import ThreadingTCPServer
from typing import Any, NamedTuple
from urllib.parse import parse_qs, unquote

import pytest
from botocore.auth import S3SigV4Auth
from botocore.awsrequest import AWSRequest
from botocore.credentials import Credentials
from botocore.exceptions import HTTPClientError
from botocore.httpsession import URLLib3Session
from urllib3 import HTTPHeaderDict

from demo.services import S3Service

CONTROL = "/__faults"
REFUSALS = {
    "500": (500, "InternalError"),
    "503": (503, "SlowDown"),
    "403": (403, "AccessDenied"),
    "501": (501, "NotImplemented"),
    "404": (404, "NoSuchKey"),
    "no_bucket": (404, "NoSuchBucket"),
    "409": (409, "ConditionalRequestConflict"),
    "conditions_501": (501, "NotImplemented"),
    "if_match_never": (412, "PreconditionFailed"),
}
FINAL = {*REFUSALS, "lost_answer", "stored_500", "down"}  # at most one of these strikes a request
NAMES = {*FINAL, "no_conditions", "etag_changes", "slow", "clock", "broken_off"}
CONDITIONS = ("If-Match", "If-None-Match")
# These strike only writes that carry one of the conditions.
NEEDS = {"no_conditions": CONDITIONS, "conditions_501": CONDITIONS, "409": CONDITIONS, "if_match_never": ("If-Match",)}
OF_A_CONNECTION = ("Connection", "Content-Length", "Date", "Expect", "Host")
LINK_SIGNATURE = re.compile(r"(X-Amz-|AWSAccessKeyId=|Signature=|Expires=)")  # versions 4 and 2
FOLDER = re.compile(r"(?:^|/)_bgai/([^/\n]+)")


class Seen(NamedTuple):
    """A request, and the status its client got; 0 where the connection was cut.

    `method` is GET, HEAD, PUT, POST, DELETE, LIST or COPY. `key` is the object's, a copy's target, or a list's
    prefix; a multi-object delete is a DELETE, with its keys joined by newlines.
    """

    method: str
    key: str
    status: int


@dataclass
class Request:
    """A request to forward, without its client's signature. `verb` is HTTP's; `method` and `key` are `Seen`'s."""

    verb: str
    method: str
    key: str
    target: str
    headers: HTTPHeaderDict
    body: bytes
    signed: bool

    @property
    def writes(self) -> bool:
        return self.verb not in ("GET", "HEAD")


@dataclass
class Answer:
    """An answer of the good S3, or one made up."""

    status: int
    headers: HTTPHeaderDict
    body: bytes
    broken_off: bool = False


@dataclass
class Fault:
    """A fault, which requests it strikes (see `BadS3.fault`), and how many it has struck: `hits`."""

    name: str
    methods: list[str]
    key: re.Pattern[str]
    times: int | None
    rate: float
    until: float | None
    by: float
    dice: random.Random = field(repr=False)
    hits: int = 0

    def strikes(self, request: Request) -> bool:
        """Whether it strikes this request; if so, counts it."""
        needs = NEEDS.get(self.name)
        strikes = (
            (not self.methods or request.method in self.methods)
            and self.key.search(request.key) is not None
            and (needs is None or (request.writes and any(name in request.headers for name in needs)))
            and (self.times is None or self.hits < self.times)
            and (self.until is None or time.monotonic() < self.until)
            and self.dice.random() < self.rate
        )
        self.hits += strikes
        return strikes


class BadS3:
    """The faults, and what was asked. `service` is where the bad S3 listens: the good one's keys and bucket."""

    def __init__(self, good: S3Service, endpoint: str) -> None:
        self.good = good
        self.service = replace(good, endpoint=endpoint)
        self._signer = S3SigV4Auth(Credentials(good.access_key, good.secret_key), "s3", "us-east-1")
        undelayed = [(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)]  # head and body go out apart: else 40 ms each
        self._session = URLLib3Session(max_pool_connections=64, socket_options=undelayed)
        self._lock = threading.Lock()
        self.faults: list[Fault] = []
        self._seen: list[Seen] = []
        self._handed_out: dict[str, str] = {}  # "etag_changes": made-up ETags of GET and HEAD, and the true ones

    def fault(
        self,
        name: str,
        *,
        methods: str = "",
        key: str = "",
        times: int | None = None,
        rate: float = 1.0,
        seconds: float | None = None,
        by: float = 0.0,
        seed: int = 0,
    ) -> Fault:
        """Fail from now on, until `lift` at the latest.

        :param name: one of the module's table.
        :param methods: of `Seen`, separated by spaces, like "PUT DELETE"; "" is all.
        :param key: a regular expression to be found in `Seen.key`; "" is all.
        :param times: how many requests to strike at most.
        :param rate: the share of the requests to strike, 0 to 1, by dice that start from `seed`.
        :param seconds: how long to go on.
        :param by: seconds, for "slow" and "clock".
        :raises ValueError: if there is no such fault.
        """
        if name not in NAMES:
            raise ValueError(f"{name!r}: no such fault; there are {', '.join(sorted(NAMES))}")
        until = None if seconds is None else time.monotonic() + seconds
        fault = Fault(name, methods.split(), re.compile(key), times, rate, until, by, random.Random(seed))
        with self._lock:
            self.faults.append(fault)
        return fault

    def down(self, seconds: float | None = None) -> Fault:
        """Cut every connection for so long, or until `lift`."""
        return self.fault("down", seconds=seconds)

    def lift(self) -> None:
        """End all faults."""
        with self._lock:
            self.faults.clear()

    def reset(self) -> None:
        """End all faults and forget what was asked."""
        self.lift()
        with self._lock:
            self._seen.clear()
            self._handed_out.clear()

    def requests(self) -> list[Seen]:
        """What was asked since `reset`, in the order of the answers."""
        with self._lock:
            return list(self._seen)

    def count(self) -> Counter[tuple[str, str]]:
        """Requests since `reset` by method and folder below ``_bgai`` (elsewhere ""): ``count()["PUT", "calls"]``."""
        return Counter((seen.method, (FOLDER.findall(seen.key) or [""])[0]) for seen in self.requests())

    def answer(self, request: Request) -> Answer | None:
        """What the client gets; None: its connection is cut."""
        faults = self._strike(request)
        if "slow" in faults:
            time.sleep(faults["slow"].by)
        answer = self._answer(request, faults)
        if answer and "clock" in faults:
            date = parsedate_to_datetime(answer.headers["Date"]).timestamp()
            answer.headers["Date"] = formatdate(date + faults["clock"].by, usegmt=True)
        with self._lock:
            self._seen.append(Seen(request.method, request.key, answer.status if answer else 0))
        return answer

    def _strike(self, request: Request) -> dict[str, Fault]:
        """The faults that strike, the first of a name, and the first of all that are final."""
        struck: dict[str, Fault] = {}
        with self._lock:
            for fault in self.faults:
                taken = FINAL if fault.name in FINAL else {fault.name}
                if taken.isdisjoint(struck) and fault.strikes(request):
                    struck[fault.name] = fault
        return struck

    def _answer(self, request: Request, faults: Container[str]) -> Answer | None:
        if "down" in faults:
            return None
        for name in REFUSALS:
            if name in faults:
                return _refusal(name)
        if "no_conditions" in faults:
            for name in CONDITIONS:
                request.headers.discard(name)
        if "etag_changes" in faults and "If-Match" in request.headers:
            true = self._handed_out.get(request.headers["If-Match"])
            if true is None:
                return _refusal("if_match_never")
            request.headers["If-Match"] = true
        try:
            answer = self._forward(request)
        except HTTPClientError:
            return None  # where the good S3 cannot be reached, this one cannot either
        if "lost_answer" in faults:
            return None
        if "stored_500" in faults:
            return _refusal("500")
        if "etag_changes" in faults:
            self._change_etags(request, answer)
        answer.broken_off = "broken_off" in faults and not request.writes
        return answer

    def _forward(self, request: Request) -> Answer:
        forwarded = AWSRequest(request.verb, self.good.endpoint + request.target, request.headers, request.body)
        if request.signed:
            self._signer.add_auth(forwarded)
        got = self._session.send(forwarded.prepare())
        return Answer(got.status_code, HTTPHeaderDict(got.headers), got.content)

    def _change_etags(self, request: Request, answer: Answer) -> None:
        if "partNumber=" in request.target:  # not an object's: an upload is completed with the ETags of its parts
            return
        if request.method in ("LIST", "COPY", "POST"):
            answer.body = re.sub(rb"(?<=<ETag>)[^<]*", lambda _: _etag().encode(), answer.body)
        if "ETag" in answer.headers:
            true, answer.headers["ETag"] = answer.headers["ETag"], _etag()
            if not request.writes:
                self._handed_out[answer.headers["ETag"]] = true


def _etag() -> str:
    return f'"{secrets.token_hex(16)}"'


def _refusal(name: str) -> Answer:
    status, code = REFUSALS[name]
    xml = f"<?xml version='1.0' encoding='UTF-8'?><Error><Code>{code}</Code><Message>bad S3: {name}</Message></Error>"
    headers = HTTPHeaderDict({"Content-Type": "application/xml", "Date": formatdate(usegmt=True)})
    return Answer(status, headers, xml.encode())


def _request(verb: str, target: str, headers: HTTPHeaderDict, body: bytes) -> Request:
    path, _, query = target.partition("?")
    kept = "&".join(part for part in query.split("&") if not LINK_SIGNATURE.match(part))
    signed = "Authorization" in headers or kept != query
    for name in OF_A_CONNECTION:
        headers.discard(name)
    key = unquote(path).lstrip("/").partition("/")[2]
    fields = parse_qs(query, keep_blank_values=True)
    method = verb
    if verb == "GET" and not key:
        method, key = "LIST", fields.get("prefix", [""])[0]
    elif verb == "POST" and "delete" in fields:
        method, key = "DELETE", "\n".join(unescape(found) for found in re.findall("<Key>(.*?)</Key>", body.decode()))
    elif verb == "PUT" and "X-Amz-Copy-Source" in headers and "partNumber" not in fields:
        method = "COPY"
    return Request(verb, method, key, f"{path}?{kept}" if kept else path, headers, body, signed)


class _Server(ThreadingTCPServer):
    allow_reuse_address = True
    daemon_threads = True
    request_queue_size = 128
    bad: BadS3


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True
    server: _Server

    def handle(self) -> None:
        try:
            super().handle()
        except ConnectionError:  # the client has gone, as clients do
            self.close_connection = True

    def _answer(self) -> None:
        if "Transfer-Encoding" in self.headers or "X-Amz-Decoded-Content-Length" in self.headers:
            self.send_error(501, "No bodies in chunks: boto3 sends none over plain HTTP")
            return
        length = int(self.headers.get("Content-Length", 0))
        body = self.rfile.read(length)
        if len(body) < length:  # whoever sends it was killed on the way: a good S3 stores nothing of it either
            self.close_connection = True
            return
        if self.path == CONTROL:
            answer: Answer | None = _control(self.server.bad, self.command, body)
        else:
            headers = HTTPHeaderDict(self.headers.items())
            answer = self.server.bad.answer(_request(self.command, self.path, headers, body))
        if answer is None:
            self.close_connection = True
            return
        self.send_response_only(answer.status)
        if self.command != "HEAD":  # whose Content-Length is that of the object
            answer.headers["Content-Length"] = str(len(answer.body))
        for name, value in answer.headers.items():
            if name.title() not in ("Connection", "Transfer-Encoding"):
                self.send_header(name, value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(answer.body[: len(answer.body) // 2] if answer.broken_off else answer.body)
        self.close_connection |= answer.broken_off

    do_GET = do_HEAD = do_PUT = do_POST = do_DELETE = _answer

    def log_message(self, format: str, *args: Any) -> None:
        """Prints nothing: `BadS3.requests` tells it."""


def _control(bad: BadS3, verb: str, body: bytes) -> Answer:
    try:
        if verb == "POST":
            bad.fault(**json.loads(body))
        elif verb == "DELETE":
            bad.lift()
    except (TypeError, ValueError, re.error) as error:
        return Answer(400, HTTPHeaderDict(), str(error).encode())
    state = {"faults": [(fault.name, fault.hits) for fault in bad.faults], "requests": bad.requests()}
    return Answer(200, HTTPHeaderDict({"Content-Type": "application/json"}), json.dumps(state).encode())


@contextmanager
def bad_s3(good: S3Service, port: int = 0) -> Iterator[BadS3]:
    """The bad S3 before a good one, in threads of this process. Port 0 is any free one."""
    with _Server(("127.0.0.1", port), _Handler) as server:
        server.bad = BadS3(good, f"http://127.0.0.1:{server.server_address[1]}")
        thread = threading.Thread(target=server.serve_forever, args=(0.05,), daemon=True)
        thread.start()
        try:
            yield server.bad
        finally:
            server.shutdown()
            thread.join()


@pytest.fixture(scope="session")
def bad_server(s3: S3Service) -> Iterator[BadS3]:
    with bad_s3(s3) as bad:
        yield bad


@pytest.fixture
def bad(bad_server: BadS3, monkeypatch: pytest.MonkeyPatch) -> Iterator[BadS3]:
    """The bad S3 without faults, nothing asked yet. Until the test ends, `aws_default` points to it."""
    bad_server.reset()
    monkeypatch.setenv("AIRFLOW_CONN_AWS_DEFAULT", bad_server.service.aws_connection())
    yield bad_server
    bad_server.reset()
