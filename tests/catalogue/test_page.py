"""The report page, looked at in a real Chromium: what is on it, what keys and filters do, what it costs."""

from __future__ import annotations

import io
import math
import time
import tracemalloc
from collections.abc import Callable, Iterable, Iterator
from decimal import Decimal
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from PIL import Image
from playwright.sync_api import expect

from airflow_provider_bgai.catalogue.ledger import Output, Wasted
from airflow_provider_bgai.catalogue.page import Card, write_page
from airflow_provider_bgai.catalogue.records import Finished, Result
from airflow_provider_bgai.catalogue.report import CostReport, cost_report
from airflow_provider_bgai.imaging.fidelity import Verdict
from tests.browser import open_chromium

if TYPE_CHECKING:
    from playwright.sync_api import Browser, Locator, Page

RED, GREEN, BLUE = (200, 30, 30), (30, 160, 30), (30, 30, 200)
AT = 1795226400.0  # 2026-11-21 02:00 UTC


@cache
def thumbnail(colour: tuple[int, int, int], size: tuple[int, int] = (96, 96)) -> bytes:
    file = io.BytesIO()
    Image.new("RGB", size, colour).save(file, "WEBP", quality=60)
    return file.getvalue()


def card(
    sku: str,
    outcome: str = "bought",
    *verdicts: Verdict | None,
    colours: tuple[tuple[int, int, int], ...] = (RED, BLUE),
    **fields: Any,
) -> Card:
    """A product with a picture for each verdict; ``colours`` of its thumbnails: before, afters."""
    images = tuple(
        Output(uri=f"s3://shop/{sku}-{n}.png", bytes=9_100, sha256="00", width=640, height=480,
                 content_type="image/png", fidelity=verdict)
        for n, verdict in enumerate(verdicts)
    )  # fmt: skip
    known: dict[str, Any] = {"category": "mugs", "vendor": "picwish", "price": Decimal("0.07"), "seconds": 4.25}
    where = "quarantined" if outcome == "quarantined" else "images"
    result = Result(sku=sku, outcome="bought", **({where: images} | known | fields))
    before, *afters = map(thumbnail, colours)
    # The page shows any outcome, known or not.
    return Card(result.model_copy(update={"outcome": outcome}), before, tuple(afters[: len(images)]))


TRUE = Verdict(True, (), psnr=41.25, delta_e=0.8)
FALSE = Verdict(False, ("the label is blurred",), psnr=19.5, delta_e=7.31)
SOME = (
    card(
        "mug-10",
        "bought",
        TRUE,
        seed=42,
        model="v2-studio",
        source="url:https://shop.example/m.png?signature=s3cr3t",
        wasted=(
            Wasted(outcome="lost", vendor="gptge", conn_id="g", pictures=1, price=Decimal("0.03"), currency="USD"),
        ),
        warnings=("touches the edge",),
        finished=(
            Finished(
                uri="s3://shop/mug-10-thumb.webp",
                bytes=2_000,
                sha256="00",
                width=320,
                height=240,
                content_type="image/webp",
                rendition="thumb",
                index=1,
            ),
        ),
    ),  # fmt: skip
    card("mug-9", "reused", Verdict(True, (), psnr=math.inf, delta_e=0.0), price=Decimal(0)),
    card("lamp-1", "quarantined", FALSE, category="lamps", vendor="katalis", price=Decimal("0.12")),
    card("lamp-2", "bought", None, category="lamps", vendor="katalis", price=None),
    card(
        "lamp-3", "bought", TRUE, Verdict(True, (), psnr=33.0, delta_e=1.6), colours=(RED, BLUE, GREEN), vendor="gptge"
    ),
    card("shoe-1", "failed", category="shoes", price=Decimal(0), reason="moderation", error="The vendor refuses it"),
    card("shoe-2", "failed", category="shoes", price=Decimal(0), reason="moderation", error="The vendor refuses it"),
    card("shoe-3", "held", category="", vendor=None, price=None, reason="unknown", error="The line dropped", unknown=1),
)


@pytest.fixture(scope="module")
def chromium() -> Iterator[Browser]:
    with open_chromium() as browser:
        yield browser


Show = Callable[..., "Page"]


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


def write(path: Path, cards: Iterable[Card], **changes: Any) -> Path:
    known: dict[str, Any] = {"run": "nightly", "destination": "s3://shop/pictures", "at": AT, "published": True}
    with path.open("wb") as file:
        write_page(file, cards=cards, **({"costs": CostReport()} | known | changes))
    return path


def skus(page: Page) -> list[str]:
    return page.locator(".card .sku").all_inner_texts()


def colour(image: Locator) -> str:
    """What is really painted in the middle of an image: ``red``, ``green`` or ``blue``."""
    rgb = image.evaluate(
        """async image => {
            await image.decode();
            const canvas = Object.assign(document.createElement("canvas"), {width: 1, height: 1});
            const pen = canvas.getContext("2d");
            pen.drawImage(image, image.naturalWidth / 2, image.naturalHeight / 2, 1, 1, 0, 0, 1, 1);
            return [...pen.getImageData(0, 0, 1, 1).data.slice(0, 3)];
        }"""
    )
    return ("red", "green", "blue")[rgb.index(max(rgb))]


def test_every_product_stands_there_with_its_own_pictures(show: Show):
    # Over several blocks; each product has colours of its own, so that none gets its neighbour's.
    names = ((RED, "red"), (GREEN, "green"), (BLUE, "blue"))
    cards = [card(f"{n}", "bought", None, colours=(names[n % 3][0], names[n // 3 % 3][0])) for n in range(60)]
    page = show(cards, "#sort=sku")
    assert page.locator("#count").inner_text() == "60 products"
    seen: dict[str, tuple[str, str]] = {}
    while len(seen) < 60:
        before = len(seen)
        for item in page.locator(".card").all():
            sku = item.locator(".sku").inner_text()
            if sku not in seen:
                before_picture, after_picture = item.locator("img").all()
                seen[sku] = colour(before_picture), colour(after_picture)
        assert len(seen) > before
        page.evaluate(
            "scrollBy(0, innerHeight / 2); new Promise(done => requestAnimationFrame(() => setTimeout(done)))"
        )
    assert seen == {str(n): (names[n % 3][1], names[n // 3 % 3][1]) for n in range(60)}


def test_a_card_says_what_is_known(show: Show):
    page = show()
    first, second, third, fourth, fifth, sixth, _, eighth = page.locator(".card").all_inner_texts()
    for text in (
        "mug-10",
        "bought",
        "mugs",
        "0.07 USD",
        "picwish · v2-studio",
        "4.3 s",
        "Faithful",
        "PSNR 41.3 dB · ΔE 0.80",
    ):
        assert text in first
    assert "identical · ΔE 0.00" in second
    assert "Altered" in third
    assert "the label is blurred" in third
    assert "price unknown" in fourth
    assert "Not compared" in fourth
    assert "1 of 2" in fifth
    assert "PSNR 33.0 dB · ΔE 1.60" in fifth  # the worst of its pictures
    assert "No picture" in sixth
    assert "moderation: The vendor refuses it" in sixth
    assert "price unknown" in eighth


def test_the_summary_adds_up(show: Show):
    costs = cost_report(it.result for it in SOME)
    page = show(costs=costs, unchanged=88_210, published=False, notes={"Recipe": "version 4"})
    head = page.locator("header.head").inner_text()
    assert "nightly" in head
    assert "Not published" in head
    assert "21 November 2026, 02:00 UTC" in head
    figures = page.locator(".figures").inner_text()
    assert "0.29 USD + 1 unpriced" in " ".join(figures.split())
    assert "88,210" in figures
    assert page.locator(".notes").inner_text().split() == ["Recipe", "version", "4"]
    rows = page.get_by_role("region", name="Costs by vendor").get_by_role("row").all_inner_texts()
    cells = [" ".join(row.split()) for row in rows]
    assert cells[0] == "Vendor Paid Bought Reused Failed Lost Quarantined Held Unknown"
    assert "gptge 0.10 USD 2 0 0 1 0.03 USD 0 0 0" in cells
    assert cells[-1] == "All 0.29 USD + 1 unpriced 4 1 2 1 0.03 USD 1 0.12 USD 1 1 1 unpriced"
    outcomes = [" ".join(text.split()) for text in page.locator("#outcomes button").all_inner_texts()]
    assert outcomes == ["All 8", "Bought 3", "Reused 1", "Quarantined 1", "Failed 2", "Held 1"]
    failures = [" ".join(text.split()) for text in page.locator("#failures button").all_inner_texts()]
    assert failures == [
        "Moderation 2 The vendor refuses it",
        "Quarantined 1 the label is blurred",
        "Unknown 1 The line dropped",
    ]


def test_filters_show_only_what_is_asked_for(show: Show):
    page = show()
    page.locator("#outcomes button", has_text="Failed").click()
    assert skus(page) == ["shoe-1", "shoe-2"]
    assert page.locator("#count").inner_text() == "2 of 8 products"
    page.locator("#clear").click()
    assert len(skus(page)) == 8
    page.select_option("#vendor", "katalis")
    page.select_option("#verdict", "altered")
    assert skus(page) == ["lamp-1"]
    page.locator("#clear").click()
    page.select_option("#category", label="none (1)")
    assert skus(page) == ["shoe-3"]
    page.locator("#clear").click()
    page.locator("#failures button").first.click()
    assert skus(page) == ["shoe-1", "shoe-2"]
    page.locator("#failures button").first.click()
    assert len(skus(page)) == 8
    page.fill("#q", "BLURRED")
    assert skus(page) == ["lamp-1"]


def test_sorting(show: Show):
    page = show()
    in_order = {
        "sku": ["lamp-1", "lamp-2", "lamp-3", "mug-9", "mug-10", "shoe-1", "shoe-2", "shoe-3"],
        "price": ["lamp-1", "mug-10", "lamp-3", "mug-9", "shoe-1", "shoe-2", "lamp-2", "shoe-3"],
        "delta_e": ["lamp-1", "lamp-3", "mug-10", "mug-9", "lamp-2", "shoe-1", "shoe-2", "shoe-3"],
        "psnr": ["lamp-1", "lamp-3", "mug-10", "mug-9", "lamp-2", "shoe-1", "shoe-2", "shoe-3"],
    }
    for name, order in in_order.items():
        page.select_option("#sort", name)
        assert skus(page) == order, name


def test_the_address_keeps_the_filters(show: Show):
    page = show()
    page.select_option("#category", "lamps")
    page.select_option("#sort", "price")
    page.fill("#q", "lamp")
    assert page.evaluate("location.hash") == "#q=lamp&category=lamps&sort=price"
    page.reload()
    assert skus(page) == ["lamp-1", "lamp-2"]
    assert page.input_value("#q") == "lamp"
    assert page.input_value("#category") == "lamps"
    page.evaluate("location.hash = '#verdict=none'")
    page.wait_for_function("document.querySelectorAll('.card').length === 3")
    assert skus(page) == ["shoe-1", "shoe-2", "shoe-3"]


def test_everything_is_done_without_a_mouse(show: Show):
    page = show([card(f"mug-{n}", "bought", TRUE) for n in range(200)])
    press = page.keyboard.press
    focused = page.locator(".card:focus .sku")

    press("/")
    page.keyboard.type("mug-1")  # and no j, k or / is taken for a command
    assert page.input_value("#q") == "mug-1"
    assert page.locator("#count").inner_text() == "111 of 200 products"
    press("Enter")
    expect(focused).to_have_text("mug-1")
    press("j")
    press("ArrowRight")
    expect(focused).to_have_text("mug-11")
    press("ArrowDown")
    expect(focused).to_have_text("mug-15")  # four in a row at this width
    press("k")
    press("ArrowUp")
    press("ArrowLeft")
    expect(focused).to_have_text("mug-1")
    press("End")
    expect(focused).to_have_text("mug-199")
    box = page.locator(".card:focus").bounding_box()
    assert box is not None
    assert box["y"] >= 0
    assert box["y"] + box["height"] <= 900
    outline = page.locator(".card:focus").evaluate("it => getComputedStyle(it).outlineWidth")
    assert outline == "3px"

    press("k")
    press("Enter")
    view = page.get_by_role("dialog")
    assert view.locator("#view-sku").inner_text() == "mug-198"
    press("k")
    assert view.locator("#view-sku").inner_text() == "mug-197"
    press("Escape")
    expect(view).to_be_hidden()
    expect(focused).to_have_text("mug-197")
    page.evaluate("scrollTo(0, 0)")
    page.wait_for_function("document.querySelectorAll('.card').length > 8")
    expect(focused).to_have_text("mug-197")  # out of sight, and still where the keys go on
    press("k")
    expect(focused).to_have_text("mug-196")


def test_the_large_view(show: Show):
    page = show()
    page.locator(".card", has_text="lamp-3").click()
    view = page.get_by_role("dialog", name="lamp-3")
    assert colour(view.get_by_role("img", name="lamp-3 before")) == "red"
    assert colour(view.get_by_role("img", name="lamp-3 after, picture 1 of 2")) == "blue"
    assert view.locator("#view-verdict").inner_text() == "Faithful · PSNR 41.3 dB · ΔE 0.80"
    view.get_by_role("button", name="Picture 2").click()
    assert colour(view.get_by_role("img", name="lamp-3 after, picture 2 of 2")) == "green"
    assert view.locator("#view-verdict").inner_text() == "Faithful · PSNR 33.0 dB · ΔE 1.60"
    assert view.locator("#view-uris code").all_inner_texts() == ["s3://shop/lamp-3-0.png", "s3://shop/lamp-3-1.png"]
    page.context.grant_permissions(["clipboard-read", "clipboard-write"])
    view.get_by_role("button", name="Copy s3://shop/lamp-3-1.png").click()
    view.get_by_text("Copied").wait_for()
    assert page.evaluate("navigator.clipboard.readText()") == "s3://shop/lamp-3-1.png"

    view.get_by_label("Slider").check()
    cut = view.get_by_role("slider")
    before, after = view.locator("#view-before"), view.locator("#view-after")
    assert before.bounding_box() == after.bounding_box()
    cut.focus()
    page.keyboard.press("Home")
    assert after.evaluate("it => getComputedStyle(it).clipPath") == "inset(0px 0px 0px 0%)"
    page.keyboard.press("End")
    assert after.evaluate("it => getComputedStyle(it).clipPath") == "inset(0px 0px 0px 100%)"

    view.get_by_role("button", name="Next").click()
    facts = page.get_by_role("dialog", name="shoe-1").inner_text()
    for text in ("moderation", "The vendor refuses it", "No picture of this product was landed."):
        assert text in facts
    page.get_by_role("button", name="Close").click()
    page.locator(".card", has_text="mug-10").click()
    facts = page.get_by_role("dialog", name="mug-10").inner_text()
    known = (
        "v2-studio",
        "42",
        "0.07 USD",
        "url:https://shop.example/m.png",
        "lost, gptge, 0.03 USD",
        "touches the edge",
    )
    for text in (*known, "s3://shop/mug-10-thumb.webp", "thumb, 320 × 240 px, 2 kB, image/webp"):
        assert text in facts


def test_signatures_of_source_addresses_are_not_written(tmp_path: Path):
    assert b"s3cr3t" not in write(tmp_path / "report.html", SOME).read_bytes()


def test_light_and_dark(show: Show):
    page = show()

    def looks() -> tuple[str, str]:
        return tuple(
            page.evaluate("(it => [it.backgroundColor, it.color])(getComputedStyle(document.documentElement))")
        )

    light = looks()
    page.emulate_media(color_scheme="dark")
    dark = looks()
    assert light != dark
    assert light[0] != dark[0]
    page.get_by_role("button", name="Light theme").click()
    assert looks() == light
    page.reload()
    assert looks() == light
    page.get_by_role("button", name="Dark theme").click()
    assert looks() == dark


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_no_barrier_that_axe_finds(show: Show, scheme: str):
    from axe_playwright_python.sync_playwright import Axe

    page = show(costs=cost_report(it.result for it in SOME), notes={"a": "b"})
    page.emulate_media(color_scheme=scheme)
    assert Axe().run(page).response["violations"] == []
    page.locator(".card", has_text="lamp-1").click()
    assert Axe().run(page).response["violations"] == []


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
    costs = cost_report(it.result for it in cards if it.result.outcome == "bought")
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
        reason = {} if n % 7 else {"reason": "moderation", "error": "The vendor refuses it"}
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
    monkeypatch.setitem(globals(), "thumbnail", lambda colour: file.getvalue())

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
