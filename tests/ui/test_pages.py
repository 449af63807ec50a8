"""The gallery and the list of catalogues in a real Chromium: what is seen and done, by whom, and with ten thousand."""

from __future__ import annotations

import json
import os
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import pytest

pytest.importorskip("airflow.api_fastapi.app")  # Airflow 3

from playwright.sync_api import expect

from airflow_provider_bgai.buying.calls import Ledger
from airflow_provider_bgai.buying.decisions import read_note
from airflow_provider_bgai.layout import call_of
from airflow_provider_bgai.ui.links import PREFIX
from demo.services import free_port
from tests.browser import open_chromium
from tests.ui.conftest import Night

if TYPE_CHECKING:
    from playwright.sync_api import Browser, Page

    from airflow_provider_bgai.storage import Storage

SCREENSHOTS = os.environ.get("SCREENSHOTS")


@pytest.fixture(scope="module")
def site(client: Any, reviewed: Night) -> Iterator[str]:
    """The address of Airflow's API server, in this process. It knows of this module's catalogue alone."""
    import uvicorn

    from airflow_provider_bgai.ui import routes, tasks

    def of_this_module(*asked: Any) -> Iterator[Any]:
        return (it for it in tasks.planned(*asked) if it.run.layout.root == reviewed.destination)

    port = free_port()
    server = uvicorn.Server(
        uvicorn.Config(client.app, host="127.0.0.1", port=port, log_level="warning", lifespan="off")
    )
    thread = threading.Thread(target=server.run)
    thread.start()
    while not server.started:
        time.sleep(0.05)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(routes, "planned", of_this_module)
        yield f"http://127.0.0.1:{port}"
    server.should_exit = True
    thread.join()


@pytest.fixture(scope="module")
def chromium(reviewed: Night) -> Iterator[Browser]:
    """After the night: while there is a browser, no other event loop runs in this thread."""
    with open_chromium() as browser:
        yield browser


Show = Callable[..., "Page"]


@pytest.fixture
def show(chromium: Browser, site: str, login: Callable[..., dict[str, str]]) -> Iterator[Show]:
    """``show(path, role="user", **what a context takes)`` opens a page; nothing may go wrong on it."""
    contexts, wrong = [], []

    def show(path: str, role: str = "user", **settings: Any) -> Page:
        context = chromium.new_context(
            **({"viewport": {"width": 1280, "height": 800}, "reduced_motion": "reduce"} | settings)
        )
        contexts.append(context)
        token = login(role)["Authorization"].removeprefix("Bearer ")
        context.add_cookies([{"name": "_token", "value": token, "url": site}])
        context.on("console", lambda message: wrong.append(message.text))
        context.on("weberror", lambda error: wrong.append(str(error.error)))
        page = context.new_page()
        page.goto(f"{site}{path}")
        return page

    yield show
    for context in contexts:
        context.close()
    assert wrong == []


def shoot(page: Page, name: str) -> None:
    """Keep what is to be seen, if anybody asked for it."""
    if SCREENSHOTS:
        page.wait_for_timeout(500)
        page.screenshot(path=Path(SCREENSHOTS, f"{name}.png"))


def test_a_night_is_looked_at_and_decided(show: Show, reviewed: Night, storage: Storage):
    page = show(f"{reviewed.path}/gallery")
    expect(page.locator("#count")).to_have_text("3 products")
    expect(page.locator(".fact")).to_have_text("published, 3 products, 0 unchanged and not shown")
    good = page.locator(".card", has_text="GOOD")
    expect(good.locator("img")).to_have_count(2)
    good.click()
    view = page.get_by_role("dialog", name="GOOD")
    expect(view.locator(".prompt")).to_have_text("A <b>thing</b> on a table for GOOD")
    expect(view.locator("code")).to_have_text(f"{reviewed.destination}/GOOD.png")
    # The thumbnail gives way to the picture itself.
    page.wait_for_function("document.querySelector('#view-after img').naturalWidth > 100")
    expect(view.get_by_role("group", name="Decide").get_by_role("button")).to_have_text(["Reject", "Buy again"])
    page.keyboard.press("Escape")

    page.locator(".card", has_text="REDRAWN").click()
    view = page.get_by_role("dialog", name="REDRAWN")
    view.get_by_label("with seed").fill("42")
    view.get_by_label("from connection").fill(" photoroom_other ")
    view.get_by_role("button", name="Buy again").click()
    expect(view.get_by_role("status")).to_have_text("Buy again: written down. The next run goes by it.")
    page.keyboard.press("Escape")
    expect(page.locator(".card", has_text="REDRAWN").locator(".badge")).to_have_text("quarantined · Buy again")

    page.locator(".card", has_text="HELD").click()
    view = page.get_by_role("dialog", name="HELD")
    view.get_by_role("button", name="Release").press("Enter")
    expect(view.get_by_role("status")).to_have_text("Release: written down. The next run goes by it.")

    ledger = Ledger(storage, reviewed.destination)
    names = [name for it in storage.list(ledger.layout.calls()) if (name := call_of(it.uri))]
    notes = {call.sku: read_note(storage, ledger.layout, call) for it in names if (call := ledger.read(*it))}
    assert {sku: note and (note.what, note.seed, note.conn_id, note.by) for sku, note in notes.items()} == {
        "GOOD": None,
        "REDRAWN": ("buy", 42, "photoroom_other", "a-user"),
        "HELD": ("release", None, None, "a-user"),
    }
    # Who comes later sees it.
    page.reload()
    page.locator(".card", has_text="HELD").click()
    expect(page.get_by_role("dialog").get_by_role("status")).to_contain_text("Release: decided by a-user, 20")


def test_who_may_not_edit_the_dag_sees_no_buttons(show: Show, reviewed: Night):
    page = show(f"{reviewed.path}/gallery", role="viewer")
    page.locator(".card", has_text="REDRAWN").click()
    view = page.get_by_role("dialog", name="REDRAWN")
    expect(view.locator(".prompt")).to_be_visible()
    assert view.get_by_role("button", name="Buy again").count() == 0


def test_by_keyboard_alone(show: Show, reviewed: Night):
    page = show(f"{reviewed.task('generate', 0)}/gallery")
    expect(page.locator("#count")).to_have_text("3 products")
    page.keyboard.press("j")
    expect(page.locator(".card:focus .sku")).to_have_text("GOOD")
    page.keyboard.press("ArrowRight")
    page.keyboard.press("Enter")
    dialog = page.get_by_role("dialog")
    expect(dialog).to_be_visible()
    sku = dialog.locator("h2").inner_text()
    button = dialog.get_by_role("group", name="Decide").get_by_role("button").first
    for _ in range(12):
        if button.evaluate("it => it === document.activeElement"):
            break
        page.keyboard.press("Tab")
    expect(button).to_be_focused()
    page.keyboard.press("Escape")
    expect(page.locator(".card:focus .sku")).to_have_text(sku)


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", [1280, 390])
def test_no_barrier_that_axe_finds(show: Show, reviewed: Night, scheme: Literal["light", "dark"], width: int):
    from axe_playwright_python.sync_playwright import Axe

    settings = {"color_scheme": scheme, "viewport": {"width": width, "height": 800}}
    where = scheme if width > 1000 else f"phone-{scheme}"
    page = show(f"{reviewed.path}/gallery", **settings)
    expect(page.locator(".card img")).to_have_count(4)
    assert Axe().run(page).response["violations"] == []
    assert page.evaluate("document.documentElement.scrollWidth <= innerWidth")
    shoot(page, f"gallery-{where}")
    page.locator(".card", has_text="REDRAWN").click()
    expect(page.locator(".prompt")).to_be_visible()
    assert Axe().run(page).response["violations"] == []
    shoot(page, f"decide-{where}")
    page = show(f"{PREFIX}/catalogues", **settings)
    expect(page.locator(".charts svg")).to_have_count(2)
    page.get_by_text("In numbers").first.click()
    assert Axe().run(page).response["violations"] == []
    assert page.evaluate("document.documentElement.scrollWidth <= innerWidth")
    shoot(page, f"catalogues-{where}")


def test_the_list_of_catalogues_leads_to_what_waits(show: Show, reviewed: Night, storage: Storage):
    storage.delete_all([it.uri for it in storage.list(reviewed.run.layout.decisions)])
    page = show(f"{PREFIX}/catalogues")
    catalogue = page.locator(".catalogue", has_text=reviewed.destination)
    expect(catalogue.locator(".waiting")).to_have_text("1 quarantined 1 held in the latest run, to be decided")
    expect(catalogue.locator("svg").first).to_have_attribute("aria-label", "Paid by day: up to 0.06 USD")
    catalogue.get_by_role("link", name="1 held").click()
    expect(page.locator("#count")).to_have_text("1 of 3 products")
    expect(page.locator(".sku")).to_have_text(["HELD"])


MANY = 10_000


def test_ten_thousand_products(show: Show, reviewed: Night, storage: Storage):
    kept = storage.read(reviewed.run.outcomes)
    good = json.loads(next(line for line in kept.splitlines() if b'"GOOD"' in line))
    lines = (json.dumps({**good, "sku": f"MUG-{n:05}", "category": f"c{n % 40}"}) for n in range(MANY))
    storage.put(reviewed.run.outcomes, "".join(f"{line}\n" for line in lines).encode())
    try:
        began = time.monotonic()
        page = show(f"{reviewed.path}/gallery")
        page.locator(".card img").first.wait_for()
        first = time.monotonic() - began
        expect(page.locator("#count")).to_have_text("10,000 products")
        whole = time.monotonic() - began
        elements = page.evaluate("document.querySelectorAll('*').length")
        painted = page.evaluate("performance.getEntriesByName('first-contentful-paint')[0].startTime") / 1000
        assert painted < 2
        assert elements < 1000
        # What is jumped to gets its own pictures.
        page.evaluate("scrollTo(0, document.body.scrollHeight)")
        expect(page.locator(".card", has_text="MUG-09999").locator("img")).to_have_count(2)
        page.fill("#q", "mug-05000")
        expect(page.locator(".sku")).to_have_text(["MUG-05000"])
        print(f"painted {painted:.2f} s, pictures {first:.1f} s, all {whole:.1f} s, {elements} elements")  # noqa: T201
    finally:
        storage.put(reviewed.run.outcomes, kept)
