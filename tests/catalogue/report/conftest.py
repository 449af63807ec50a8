"""A real Chromium, and the report page opened in it."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from airflow_provider_bgai.catalogue.report.page import Card
from tests.browser import open_chromium
from tests.catalogue.report.pages import SOME, Show, write

if TYPE_CHECKING:
    from playwright.sync_api import Browser, Page


@pytest.fixture(scope="module")
def chromium() -> Iterator[Browser]:
    with open_chromium() as browser:
        yield browser


@pytest.fixture
def show(chromium: Browser, tmp_path: Path) -> Iterator[Show]:
    """``show(cards, **what write_page takes)`` opens the page from a file; nothing may go wrong or be loaded."""
    context = chromium.new_context(
        viewport={"width": 1400, "height": 900}, color_scheme="light", reduced_motion="reduce"
    )
    wrong: list[str] = []
    context.on("console", lambda message: wrong.append(message.text))
    context.on("weberror", lambda error: wrong.append(str(error.error)))
    context.on("request", lambda it: None if it.url.startswith(("file:", "data:")) else wrong.append(it.url))

    def opened(cards: Iterable[Card] = SOME, fragment: str = "", **changes: Any) -> Page:
        path = write(tmp_path / "report.html", cards, **changes)
        page = context.new_page()
        page.goto(f"{path.as_uri()}{fragment}")
        return page

    yield opened
    context.close()
    assert wrong == []
