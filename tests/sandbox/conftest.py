from __future__ import annotations

import io
import threading
import time
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import httpx
import pytest
from PIL import Image, ImageDraw

from airflow_provider_bgai.sandbox import Sandbox
from airflow_provider_bgai.sandbox.registry import load_vendors

KEYS = {"picwish": "pw-1234", "photoroom": "pr-1234", "imagine": "vk-1234", "katalis": "", "gptge": "sk-1234"}


def cut_out(size: tuple[int, int] = (300, 280), mode: str = "RGBA", kind: str = "PNG", **options: Any) -> bytes:
    """A product on a transparent ground, as a file."""
    picture = Image.new("RGBA", size)
    box = (size[0] // 4, size[1] // 4, size[0] * 3 // 4, size[1] * 3 // 4)
    ImageDraw.Draw(picture).ellipse(box, fill=(200, 30, 40, 255))
    buffer = io.BytesIO()
    picture.convert(mode).save(buffer, kind, **options)
    return buffer.getvalue()


class Vendors:
    """Speaks to each vendor in its own way."""

    def __init__(self, box: Sandbox, pictures: tuple[str, dict[str, bytes]]) -> None:
        self.box = box
        # No TLS here, and loading the CA bundle for each test would take longer than the test.
        self.http = httpx.Client(base_url=box.url, timeout=5, trust_env=False, verify=False)
        self.png = cut_out()
        self.image_url, self.served = pictures

    def auth(self, vendor: str) -> dict[str, str]:
        key = KEYS[vendor]
        if not key:
            return {}
        return {"Authorization": f"Bearer {key}"} if vendor in ("imagine", "gptge") else {"X-API-KEY": key}

    def submit(self, vendor: str, **change: Any) -> httpx.Response:
        """A right paid call, with ``change`` on top of its fields (None takes a field away)."""
        image = change.pop("image", self.png)
        right = KNOWN[vendor].example(image, self.host(image)) | {"headers": self.auth(vendor)}
        body = "json" if "json" in right else "data"
        return self.http.request(**right | {body: changed(right[body], change)})

    def host(self, image: bytes) -> str:
        """A URL of ``image``, from the picture server of the test."""
        self.served[f"/{len(self.served)}.png"] = image
        return f"{self.image_url}/{len(self.served) - 1}.png"

    def poll(self, vendor: str, task_id: str, key: str | None = None) -> httpx.Response:
        headers = self.auth(vendor) if key is None else {"X-API-KEY": key}
        return self.http.get(f"{POLL[vendor]}/{task_id}", headers=headers)

    def finish(self, vendor: str, response: httpx.Response) -> dict[str, Any]:
        """Poll an accepted task to its end."""
        assert response.status_code == 200, response.text
        task_id = response.json()["data"]["task_id"]
        for _ in range(200):
            data: dict[str, Any] = self.poll(vendor, task_id).json()["data"]
            if data["state"] == 1 or data["state"] < 0:
                return data
            time.sleep(0.01)
        raise AssertionError("the task never ended")

    def result_url(self, vendor: str) -> str:
        """The URL of a finished picture of a vendor that gives out links."""
        response = self.submit(vendor)
        if vendor == "katalis":
            return str(response.json()["data"][0]["generated_image_urls"][0])
        data = self.finish(vendor, response)
        return str(data.get("image_1") or data["image"])


KNOWN = load_vendors()
PATHS = {name: vendor.example(b"", "")["url"] for name, vendor in KNOWN.items()}
POLL = {"picwish": "/api/tasks/visual/background", "gptge": "/task"}


def changed(fields: dict[str, Any], change: dict[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in (fields | change).items() if value is not None}


@pytest.fixture(scope="module")
def sandbox() -> Iterator[Sandbox]:
    with Sandbox(latency=0) as box:
        yield box


@pytest.fixture(scope="module")
def picture_server() -> Iterator[tuple[str, dict[str, bytes]]]:
    """A web server for source pictures: (its URL, what it serves by path)."""
    served: dict[str, bytes] = {}

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            content = served.get(self.path)
            self.send_response(200 if content is not None else 404)
            self.send_header("Content-Length", str(len(content or b"")))
            self.end_headers()
            self.wfile.write(content or b"")

        def do_POST(self) -> None:
            served["last post"] = self.rfile.read(int(self.headers["Content-Length"]))
            self.send_response(200)
            self.send_header("Content-Length", "0")
            self.end_headers()

        def log_message(self, *_: object) -> None:
            return

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}", served
    server.shutdown()
    server.server_close()


@pytest.fixture
def box(sandbox: Sandbox) -> Sandbox:
    sandbox.reset()
    return sandbox


@pytest.fixture
def make_vendors(picture_server: tuple[str, dict[str, bytes]]) -> Iterator[Callable[[Sandbox], Vendors]]:
    made: list[Vendors] = []

    def make(box: Sandbox) -> Vendors:
        made.append(Vendors(box, picture_server))
        return made[-1]

    yield make
    for vendors in made:
        vendors.http.close()


@pytest.fixture
def vendors(box: Sandbox, make_vendors: Callable[[Sandbox], Vendors]) -> Vendors:
    return make_vendors(box)
