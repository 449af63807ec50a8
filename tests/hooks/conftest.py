"""The hooks against the sandbox, and against a web server that answers whatever a test wants."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import pytest

from airflow_provider_bgai.hooks import get_hook
from airflow_provider_bgai.hooks.base import BackgroundHook
from airflow_provider_bgai.models import BackgroundRequest
from airflow_provider_bgai.sandbox import Sandbox
from tests.conftest import VENDORS


@dataclass
class Seen:
    """A request as it came in; header names in lower case."""

    method: str
    path: str
    headers: dict[str, str]
    body: bytes


@dataclass
class Website:
    """A web server on this machine. ``answers`` maps a path to (status, headers, body); others are 404."""

    url: str
    answers: dict[str, tuple[int, dict[str, str], bytes]] = field(default_factory=dict)
    requests: list[Seen] = field(default_factory=list)

    def answer(self, path: str, body: bytes | str = b"", status: int = 200, **headers: str) -> str:
        """Set the answer to a path; its URL. Header names are written with ``_`` for ``-``."""
        named = {name.replace("_", "-"): value for name, value in headers.items()}
        self.answers[path] = (status, named, body.encode() if isinstance(body, str) else body)
        return self.url + path


class _Server(ThreadingHTTPServer):
    daemon_threads = True
    request_queue_size = 64


@pytest.fixture(scope="session")
def _website() -> Iterator[Website]:
    site = Website("")

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_GET(self) -> None:
            body = self.rfile.read(int(self.headers.get("content-length") or 0))
            headers = {name.lower(): value for name, value in self.headers.items()}
            site.requests.append(Seen(self.command, self.path, headers, body))
            status, answered, content = site.answers.get(self.path.partition("?")[0], (404, {}, b""))
            self.send_response(status)
            for name, value in {"Content-Length": str(len(content)), **answered}.items():
                self.send_header(name, value)
            self.end_headers()
            self.wfile.write(content)

        do_POST = do_GET

        def log_message(self, *_: object) -> None:
            return

    server = _Server(("127.0.0.1", 0), Handler)
    site.url = f"http://127.0.0.1:{server.server_port}"
    threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True).start()
    yield site
    server.shutdown()
    server.server_close()


@pytest.fixture
def website(_website: Website) -> Website:
    _website.answers.clear()
    _website.requests.clear()
    return _website


@pytest.fixture
def box(box: Sandbox) -> Sandbox:
    """Vendors that paint at once: these tests are about what is said, not about waiting."""
    for vendor in VENDORS:
        box.set_latency(vendor, 0)
    return box


@pytest.fixture
def hook(box: Sandbox, connections: None) -> Callable[..., BackgroundHook]:
    """``hook("picwish")``: the hook of a vendor's default connection."""

    def make(vendor: str, **options: Any) -> BackgroundHook:
        return get_hook(f"{vendor}_default", **options)

    return make


@pytest.fixture
def wish(product: bytes, website: Website) -> Callable[..., BackgroundRequest]:
    """``wish("katalis")``: a right request, with the product in a form the vendor takes without S3."""

    def make(vendor: str, prompt: str | None = "on a beach", **fields: Any) -> BackgroundRequest:
        image = website.answer("/product.png", product) if vendor == "katalis" else product
        return BackgroundRequest(fields.pop("image", image), prompt, **fields)

    return make
