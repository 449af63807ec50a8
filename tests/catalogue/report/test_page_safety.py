"""The report page with hostile text, cut off, and with ten thousand products: it stays harmless, small and quick."""

from __future__ import annotations

import io
import time
import tracemalloc
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from PIL import Image

from airflow_provider_bgai.catalogue.report.costs import cost_report
from airflow_provider_bgai.catalogue.report.page import Card
from airflow_provider_bgai.imaging.fidelity import Verdict
from tests.buying.kept import call
from tests.catalogue.report import pages
from tests.catalogue.report.pages import BLUE, RED, SOME, Show, card, skus, thumbnail, write

if TYPE_CHECKING:
    from playwright.sync_api import Browser, Page

HOSTILE = (
    "</script><script>window.hit = 1</script>",
    "<!--<script>",
    "<img src=x onerror='window.hit = 1'>",
    "\"'><svg onload=window.hit=1>",
    "&lt;b&gt; {{ 7 * 7 }} ${window.hit = 1}",
    "javascript:window.hit=1",
    "__proto__",
    "]]>\u2028\u2029\\",
)


def test_hostile_text_is_shown_and_does_nothing(show: Show):
    cards = [
        card(it, "bought", Verdict(False, (it,)), category=it, vendor=it, model=it, error=it, reason=it)
        for it in HOSTILE
    ] + [card(f"{n}", it, reason=it, error=it) for n, it in enumerate(HOSTILE)]
    costs = cost_report([call(it, vendor=it, category=it) for it in HOSTILE])
    page = show(cards, run=HOSTILE[0], destination=HOSTILE[2], costs=costs, notes={HOSTILE[2]: HOSTILE[0]})
    assert page.locator("h1").inner_text() == HOSTILE[0]
    assert page.locator(".card .sku").evaluate_all("all => all.map(it => it.textContent)")[: len(HOSTILE)] == list(
        HOSTILE
    )
    for it in HOSTILE:
        for name in ("vendor", "category"):
            page.select_option(f"#{name}", it)
            assert page.locator(".card").count() == 1
            page.select_option(f"#{name}", "")
    page.locator(".card").first.click()
    assert page.locator("#view-sku").evaluate("it => it.textContent") == HOSTILE[0]
    assert page.evaluate("window.hit") is None
    assert page.locator("svg, main script, dialog script, img:not([src^='data:image/webp;base64,'])").count() == 0


def test_text_that_runs_backwards_is_made_visible(show: Show):
    page = show([card("abc\u202egnp.exe", category="مطبخ")])
    assert skus(page) == ["abc[U+202E]gnp.exe"]
    assert page.locator(".card .category").inner_text() == "مطبخ"


def test_the_page_lets_no_other_script_run(chromium: Browser, tmp_path: Path):
    page = chromium.new_page()
    refused: list[str] = []
    page.on("console", lambda message: refused.append(message.text))
    page.goto(write(tmp_path / "report.html", SOME).as_uri())
    page.evaluate(
        """() => {
            document.body.append(Object.assign(document.createElement("script"), {textContent: "window.hit = 1"}));
            document.body.insertAdjacentHTML("beforeend", "<img src='data:,' onerror='window.hit = 2'>");
        }"""
    )
    page.wait_for_timeout(100)
    assert page.evaluate("window.hit") is None
    assert "Content Security Policy" in " ".join(refused)
    page.close()


def test_nothing_to_show_is_said_in_words(show: Show):
    page = show([], unchanged=12)
    assert page.locator("#nothing").inner_text() == "Nothing changed in this run: no product needed a picture."
    assert page.locator("#no-failures").inner_text() == "No product failed in this run."
    page = show(SOME, "#q=unicorn")
    assert page.locator("#nothing").inner_text() == "No product is like that. Clear the filters to see all."


def test_half_a_file_says_that_it_is_cut_off(show: Show, tmp_path: Path):
    page = show()
    path = tmp_path / "report.html"
    data = path.read_bytes()
    path.write_bytes(data[: data.index(b'class="cards"')])
    page.reload()
    assert "the file is cut off" in page.locator("#count").inner_text()


MANY = 10_000


def numbered(count: int) -> Iterator[Card]:
    for n in range(count):
        reason: dict[str, Any] = {} if n % 7 else {"reason": "moderation", "error": "The vendor refuses it"}
        picture = () if reason else (Verdict(True, (), psnr=30 + n % 17, delta_e=n % 5 / 2),)
        yield card(f"mug-{n:05}", "failed" if reason else "bought", *picture, category=f"c{n % 40}", **reason)


def test_writing_takes_no_more_memory_for_more_products(tmp_path: Path):
    thumbnail(RED), thumbnail(BLUE)
    peaks = []
    for count in (200, 4000):
        tracemalloc.start()
        write(tmp_path / "report.html", numbered(count))
        peaks.append(tracemalloc.get_traced_memory()[1])
        tracemalloc.stop()
    assert peaks[1] < 1.5 * peaks[0]


def test_ten_thousand_products_are_as_quick_as_a_hundred(show: Show, monkeypatch: pytest.MonkeyPatch):
    # Thumbnails of the size they have in life: noise does not compress.
    noise = Image.effect_noise((96, 96), 80).convert("RGB")
    file = io.BytesIO()
    noise.save(file, "WEBP", quality=40)
    assert 2_000 < len(file.getvalue()) < 8_000
    monkeypatch.setattr(pages, "thumbnail", lambda colour: file.getvalue())

    def jumps(page: Page) -> float:
        """Median seconds from a jump to somewhere else until its pictures are decoded and painted."""
        taken: list[float] = page.evaluate(
            """async () => {
                const taken = [];
                for (let i = 1; i <= 21; i++) {
                    const began = performance.now();
                    scrollTo(0, (i * 0.618 % 1) * document.body.scrollHeight);
                    await new Promise(done => requestAnimationFrame(() => requestAnimationFrame(done)));
                    await Promise.all([...document.querySelectorAll(".card img")].map(it => it.decode()));
                    taken.push(performance.now() - began);
                }
                return taken.sort((a, b) => a - b);
            }"""
        )
        return taken[len(taken) // 2]

    few = show(numbered(100))
    few_jump = jumps(few)
    began = time.monotonic()
    many = show(numbered(MANY))
    assert time.monotonic() - began < 60  # a page that hangs, not a measure
    assert many.locator("#count").inner_text() == "10,000 products"
    many_jump = jumps(many)
    assert many_jump < 4 * few_jump
    assert many.evaluate("document.querySelectorAll('*').length") < 2_000
    assert many.evaluate("Math.min(...[...document.querySelectorAll('.card img')].map(it => it.naturalWidth))") == 96
    many.fill("#q", "mug-09999")
    assert skus(many) == ["mug-09999"]
    many.fill("#q", "")
    many.select_option("#sort", "psnr")
    many.keyboard.press("Tab")
    many.locator(".card").first.focus()
    many.keyboard.press("End")
    assert many.locator(".card:focus").inner_text().startswith("No picture")
    heap = many.evaluate("performance.memory.usedJSHeapSize")
    assert heap < 200e6


def test_signatures_of_source_addresses_are_not_written(tmp_path: Path):
    assert b"s3cr3t" not in write(tmp_path / "report.html", SOME).read_bytes()
