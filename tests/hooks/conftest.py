"""The hooks against the sandbox, and against a web server that answers whatever a test wants."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import pytest

from airflow_provider_bgai.hooks import get_hook
from airflow_provider_bgai.hooks.base import BackgroundHook
from airflow_provider_bgai.models import BackgroundRequest
from airflow_provider_bgai.sandbox import Sandbox
from tests.conftest import VENDORS
from tests.servers import Proxy, Website, serving_proxy, serving_website


@pytest.fixture(scope="session")
def _website() -> Iterator[Website]:
    with serving_website() as site:
        yield site


@pytest.fixture
def website(_website: Website) -> Website:
    _website.answers.clear()
    _website.requests.clear()
    return _website


@pytest.fixture
def proxy(monkeypatch: pytest.MonkeyPatch) -> Iterator[Proxy]:
    """A proxy that the environment names for everything."""
    with serving_proxy() as proxy:
        for name in ("http_proxy", "https_proxy"):
            monkeypatch.setenv(name, proxy.url)
        for name in ("no_proxy", "NO_PROXY"):
            monkeypatch.delenv(name, raising=False)
        yield proxy


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
