"""Airflow's own pages in a real browser: a newcomer's first minutes, and the morning after a night of pictures.

With ``SCREENSHOTS`` naming a folder, what the newcomer sees is written there, for the documents:
``SCREENSHOTS=docs/screenshots pytest tests/ui/test_walk.py``.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import quote

import httpx
import pytest
from playwright.sync_api import expect

from airflow_provider_bgai.buying.decisions import Note
from airflow_provider_bgai.layout import Layout
from demo.rest import AirflowApi
from demo.run import EXAMPLES, SETTINGS, upload_catalogue
from demo.services import AirflowService, S3Service, airflow_standalone
from tests.browser import open_chromium
from tests.catalogue.nights import Catalogue
from tests.conftest import KEYS, VENDORS, vendor_connection
from tests.operators.conftest import wait_until

if TYPE_CHECKING:
    from playwright.sync_api import Browser, FrameLocator, Page

    from airflow_provider_bgai.storage import Storage

SCREENSHOTS = os.environ.get("SCREENSHOTS")
PATIENCE = 120_000
"""Milliseconds. The bound only ends a hopeless wait."""
CLICKS = """
// Counts them, from one page of Airflow to the next.
window.clicks = Number(sessionStorage.getItem("clicks"));
addEventListener("click", event => event.isTrusted && sessionStorage.setItem("clicks", ++window.clicks), true);
"""


@pytest.fixture(scope="module")
def airflow(s3: S3Service, tmp_path_factory: pytest.TempPathFactory) -> Iterator[AirflowService]:
    """What `make ui` starts; but behind a base URL with a path, as many companies have it."""
    upload_catalogue(s3)
    home = tmp_path_factory.mktemp("airflow")
    with airflow_standalone(home, EXAMPLES, settings=SETTINGS, path="/airflow") as service:
        yield service


@pytest.fixture
def api(airflow: AirflowService, s3: S3Service) -> Iterator[AirflowApi]:
    """Its API, with the one connection that is not made in a form here."""
    with AirflowApi(airflow) as api:
        with suppress(httpx.HTTPStatusError):  # it is there already
            api.add_connection("aws_default", s3.aws_connection())
        wait_until(lambda: {"on_demand", "nightly_catalogue"} <= api.dag_ids())
        api.turn_on("on_demand")
        yield api


@pytest.fixture(scope="module")
def chromium() -> Iterator[Browser]:
    with open_chromium() as browser:
        yield browser


@pytest.fixture
def page(chromium: Browser) -> Iterator[Page]:
    context = chromium.new_context(viewport={"width": 1280, "height": 800}, reduced_motion="reduce")
    context.set_default_timeout(PATIENCE)
    context.add_init_script(CLICKS)
    yield context.new_page()
    context.close()


def shoot(page: Page, name: str) -> None:
    """Keep what is to be seen, if anybody asked for it."""
    if SCREENSHOTS:
        page.wait_for_timeout(500)  # what slides in has arrived
        Path(SCREENSHOTS).mkdir(parents=True, exist_ok=True)
        page.screenshot(path=Path(SCREENSHOTS, f"{name}.png"))


def log_in(page: Page, airflow: AirflowService) -> None:
    page.goto(airflow.url)
    page.fill("input[name=username]", airflow.username)
    page.fill("input[name=password]", airflow.password)
    page.click("button[type=submit]")
    page.get_by_role("button", name="Admin").wait_for()


def make_connection(page: Page, airflow: AirflowService, sandbox_url: str, key: str) -> None:
    page.goto(f"{airflow.url}/connections")
    page.get_by_role("button", name="Add Connection").click()
    page.fill("input[name=connection_id]", "picwish_default")
    page.get_by_label("Connection Type").click()
    page.get_by_role("option", name="PicWish", exact=True).click()
    page.fill("input[name=host]", sandbox_url)
    page.fill("input[name=password]", key)
    shoot(page, "connection")
    page.get_by_role("button", name="Extra Fields", exact=True).click()
    page.get_by_label("Price per image").fill("0.05")
    page.locator("label", has=page.locator("input[name=element_allow_private_hosts]")).click()
    shoot(page, "connection-extras")
    page.get_by_role("button", name="Save").click()
    page.get_by_role("cell", name="picwish_default").wait_for()


def buy(page: Page, airflow: AirflowService, skus: str) -> None:
    page.goto(f"{airflow.url}/dags/on_demand")
    page.get_by_role("button", name="Trigger Dag").click()
    page.fill("textarea[name=element_skus]", skus)
    shoot(page, "form")
    page.get_by_role("dialog").get_by_role("button", name="Trigger", exact=True).click()


def open_picture(page: Page, landed: Callable[[], bool]) -> int:
    """From the run's page, which Airflow shows once the form is sent, to the first picture; how many clicks it took."""
    before = page.evaluate("window.clicks")
    page.locator("a[href$='/tasks/generate/mapped/0']").first.click()
    page.wait_for_url("**/tasks/generate/mapped/0")
    page.get_by_role("link", name="Details").click()
    wait_until(landed)
    link = page.get_by_role("link", name="Picture", exact=True)
    link.wait_for()
    shoot(page, "task")
    clicks = page.evaluate("window.clicks") - before
    link.click()
    return clicks + 1


def test_from_the_login_to_the_picture(page: Page, airflow: AirflowService, api: AirflowApi, s3: S3Service, box: Any):
    def landed() -> bool:
        (run_id,) = api.run_ids("on_demand")
        return api.run_state("on_demand", run_id) == "success"

    began = time.monotonic()
    log_in(page, airflow)
    make_connection(page, airflow, box.url, KEYS["picwish"])
    buy(page, airflow, "SHOE-001\nSHOE-002\n")
    clicks = open_picture(page, landed)
    page.wait_for_url(f"{s3.endpoint}/**")
    assert page.locator("img").evaluate("async image => (await image.decode(), image.naturalWidth)") == 500
    shoot(page, "picture")
    assert clicks <= 6
    print(f"From the login to the picture: {time.monotonic() - began:.0f} s, {clicks} clicks after the form")  # noqa: T201


def open_tab(page: Page, address: str) -> FrameLocator:
    """The tab "Pictures" of one of Airflow's pages, once there are pictures in it."""
    page.goto(address)
    page.get_by_role("link", name="Pictures", exact=True).click()
    tab = page.frame_locator("iframe")
    tab.locator(".card img").first.wait_for()
    return tab


def decide(page: Page, tab: FrameLocator, position: int, button: str, *, seed: str = "") -> None:
    """Open a card, press one of its buttons, and close it again."""
    tab.locator(".card").nth(position).click()
    if seed:
        tab.get_by_label("with seed").fill(seed)
    tab.get_by_role("button", name=button, exact=True).click()
    expect(tab.get_by_role("status").last).to_have_text(f"{button}: written down. The next run goes by it.")
    if seed:
        shoot(page, "decide")
    tab.get_by_role("button", name="Close").click()


def test_the_morning_after(page: Page, airflow: AirflowService, api: AirflowApi, storage: Storage, box: Any):
    for vendor in VENDORS:
        with suppress(httpx.HTTPStatusError):  # it was made in a form before
            api.add_connection(f"{vendor}_default", vendor_connection(box, vendor, {"price_per_image": 0.05}))
    box.fault("photoroom", "redrawn_product", times=2, on="submit")
    box.fault("photoroom", "drop_after_charge", times=1, on="submit")
    api.turn_on("nightly_catalogue")
    (run_id,) = wait_until(lambda: api.run_ids("nightly_catalogue"))  # today's begins by itself
    wait_until(lambda: api.run_state("nightly_catalogue", run_id) in ("success", "failed"), seconds=400)

    log_in(page, airflow)
    page.set_viewport_size({"width": 1280, "height": 1100})
    run = f"{airflow.url}/dags/nightly_catalogue/runs/{quote(run_id, safe='')}"
    tab = open_tab(page, run)
    expect(tab.locator("#count")).to_have_text("60 products")
    expect(tab.locator("#catalogues li")).to_have_count(len(VENDORS))
    shoot(page, "gallery")
    tab.get_by_role("button", name="Quarantined 2").click()
    decide(page, tab, 1, "Accept")
    decide(page, tab, 0, "Buy again", seed="42")
    tab.get_by_role("button", name="Held 1").click()
    decide(page, tab, 0, "Release")
    decisions = Layout("s3://catalogue/backgrounds/photoroom").decisions
    notes = [Note.model_validate_json(storage.read(it.uri)) for it in storage.list(decisions)]
    assert sorted(note.what for note in notes) == ["accept", "buy", "release"]
    assert {note.by for note in notes} == {airflow.username}

    tab = open_tab(page, f"{run}/tasks/picwish.generate/mapped/0")
    expect(tab.locator("#count")).to_have_text("12 products")

    page.evaluate("localStorage.setItem('theme', 'dark')")
    tab = open_tab(page, run)
    assert tab.locator("html").evaluate("it => getComputedStyle(it).colorScheme") == "dark"
    shoot(page, "gallery-dark")
    page.get_by_role("button", name="Browse").click()
    page.get_by_role("menuitem", name="Catalogues").click()
    for _ in range(2):
        expect(tab.locator(".catalogue")).to_have_count(len(VENDORS))
        expect(tab.locator(".waiting").first).to_have_text("Nothing waits for a decision.")
        shoot(page, "catalogues-dark")
        page.reload()
    page.evaluate("localStorage.setItem('theme', 'light')")
    page.reload()
    expect(tab.locator(".waiting").first).to_have_text("Nothing waits for a decision.")
    shoot(page, "catalogues")

    again = api.trigger("nightly_catalogue")
    wait_until(lambda: api.run_state("nightly_catalogue", again) in ("success", "failed"), seconds=400)
    report = api.result("nightly_catalogue", again, "photoroom.publish")
    # The first night published nothing of Photoroom's: three of twelve are too many. It bought none of them in vain.
    assert report["outcomes"] == {"reused": 10, "bought": 2}
    assert report["pictures"] == 24, "each with its card"
    photoroom = Catalogue(storage, "s3://catalogue/backgrounds/photoroom", box)
    assert [call.number for call in photoroom.records() if call.seed == 42 and call.state == "landed"] == [2]
    # Twelve by night, one of them never answered; two by the decisions.
    assert (photoroom.bounds()["photoroom"], box.images_charged("photoroom")) == ((13, 1), 14)
    assert box.images_charged() == 5 * 12 + 2
