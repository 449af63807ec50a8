"""Servers on this machine that answer whatever a test wants: a website, a proxy before it, and a mailbox."""

from __future__ import annotations

import socket
import socketserver
import ssl
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from email import message_from_bytes, policy
from email.message import EmailMessage
from http.client import HTTPConnection
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit


@dataclass
class Seen:
    """A request as it came in; header names in lower case."""

    method: str
    path: str
    headers: dict[str, str]
    body: bytes
    port: int = 0


@dataclass
class Website:
    """A web server. ``answers`` maps a path to (status, headers, body); others are 404."""

    url: str
    answers: dict[str, tuple[int, dict[str, str], bytes]] = field(default_factory=dict)
    requests: list[Seen] = field(default_factory=list)

    def answer(self, path: str, body: bytes | str = b"", status: int = 200, **headers: str) -> str:
        """Set the answer to a path; its URL. Header names are written with ``_`` for ``-``."""
        named = {name.replace("_", "-"): value for name, value in headers.items()}
        self.answers[path] = (status, named, body.encode() if isinstance(body, str) else body)
        return self.url + path


@dataclass
class Proxy:
    """A forward proxy that resolves every name to this machine.

    :param refuses: the status with which it refuses everything, CONNECT included; 0: it forwards.
    :param asked: the request targets it was asked for.
    """

    url: str
    refuses: int = 0
    asked: list[str] = field(default_factory=list)


class _Server(ThreadingHTTPServer):
    daemon_threads = True
    request_queue_size = 64

    def handle_error(self, request: Any, client_address: Any) -> None:
        if not isinstance(
            sys.exc_info()[1], (ConnectionError, ssl.SSLError)
        ):  # a caller that hung up is no error of the server
            super().handle_error(request, client_address)


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def read(self) -> Seen:
        body = self.rfile.read(int(self.headers.get("content-length") or 0))
        headers = {name.lower(): value for name, value in self.headers.items()}
        return Seen(self.command, self.path, headers, body, self.client_address[1])

    def reply(self, status: int, headers: dict[str, str], body: bytes) -> None:
        self.send_response(status)
        for name, value in {"Content-Length": str(len(body)), **headers}.items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_: object) -> None:
        return


@contextmanager
def serving_website(certificate: Path | None = None) -> Iterator[Website]:
    """A website; with a file of certificate and key: one of https, under the name of localhost."""
    site = Website("")

    class Handler(_Handler):
        def do_GET(self) -> None:
            seen = self.read()
            site.requests.append(seen)
            self.reply(*site.answers.get(seen.path.partition("?")[0], (404, {}, b"")))

        do_POST = do_GET

    with _serving(Handler, certificate) as site.url:
        yield site


@contextmanager
def serving_proxy() -> Iterator[Proxy]:
    proxy = Proxy("")

    class Handler(_Handler):
        def do_GET(self) -> None:
            seen = self.read()
            proxy.asked.append(seen.path)
            if proxy.refuses:
                self.reply(proxy.refuses, {}, b"refused by the proxy")
                return
            target = urlsplit(seen.path)
            behind = HTTPConnection("127.0.0.1", target.port or 80, timeout=10)
            path = target.path + (f"?{target.query}" if target.query else "")
            behind.request(seen.method, path, seen.body or None, seen.headers)
            answer = behind.getresponse()
            self.reply(answer.status, {"Location": answer.headers.get("Location", "")}, answer.read())
            behind.close()

        do_POST = do_GET

        def do_CONNECT(self) -> None:
            proxy.asked.append(self.path)
            self.reply(proxy.refuses or 502, {}, b"")
            self.close_connection = True

    with _serving(Handler) as proxy.url:
        yield proxy


@contextmanager
def serving_mail() -> Iterator[tuple[int, list[EmailMessage]]]:
    """A mail server that takes everything: its port, and the mails."""
    mails: list[EmailMessage] = []

    class Handler(socketserver.StreamRequestHandler):
        def handle(self) -> None:
            self.wfile.write(b"220 here\r\n")
            while line := self.rfile.readline():
                match line.split()[0].upper():
                    case b"DATA":
                        self.wfile.write(b"354 go on\r\n")
                        data = b"".join(iter(self.rfile.readline, b".\r\n"))
                        mails.append(message_from_bytes(data, EmailMessage, policy=policy.default))
                        self.wfile.write(b"250 taken\r\n")
                    case b"QUIT":
                        self.wfile.write(b"221 bye\r\n")
                        return
                    case _:
                        self.wfile.write(b"250 well\r\n")

    with socketserver.ThreadingTCPServer(("127.0.0.1", 0), Handler) as server:
        server.daemon_threads = True
        threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True).start()
        yield server.server_address[1], mails
        server.shutdown()


@contextmanager
def closed_port() -> Iterator[int]:
    """A port that nobody listens on while this is open."""
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        yield taken.getsockname()[1]


@contextmanager
def _serving(handler: type[_Handler], certificate: Path | None = None) -> Iterator[str]:
    server = _Server(("127.0.0.1", 0), handler)
    if certificate is not None:
        tls = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        tls.load_cert_chain(certificate)
        server.socket = tls.wrap_socket(server.socket, server_side=True)
    threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True).start()
    yield f"https://localhost:{server.server_port}" if certificate else f"http://127.0.0.1:{server.server_port}"
    server.shutdown()
    server.server_close()
