"""The report page, looked at in a real Chromium: what is on it, and what keys and filters do."""

from __future__ import annotations

from typing import Literal

import pytest
from playwright.sync_api import expect

from airflow_provider_bgai.catalogue.report.costs import cost_report
from tests.buying.kept import call
from tests.catalogue.report.pages import BLUE, COSTS, FALSE, GREEN, PICTURES, RED, TRUE, Show, card, colour, skus


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
    settled = cost_report([call(8, "lost", "0.40", run="monday")], by=["run"])
    page = show(costs=COSTS, settled=settled, unchanged=88_210, published=False, notes={"Recipe": "version 4"})
    head = page.locator("header.head").inner_text()
    assert "nightly" in head
    assert "Not published" in head
    assert "21 November 2026, 02:00 UTC" in head
    figures = " ".join(page.locator(".figures").inner_text().split())
    assert "0.36 USD + 1 unpriced" in figures
    assert "Perhaps charged as well 2 0.07 USD + 1 unpriced" in figures
    assert "88,210" in figures
    assert page.locator(".notes").inner_text().split() == ["Recipe", "version", "4"]

    def rows(name: str) -> list[str]:
        region = page.get_by_role("region", name=f"Costs {name}", exact=True)
        return [" ".join(row.split()) for row in region.get_by_role("row").all_inner_texts()]

    cells = rows("by vendor")
    assert cells[0] == "Vendor Paid Landed Quarantined Lost Perhaps charged Not charged"
    assert "gptge 0.03 USD 0 0 1 0.03 USD 0 0" in cells
    assert "katalis 0.12 USD + 1 unpriced 1 1 0.12 USD 0 0 0" in cells
    assert cells[-1] == "All 0.36 USD + 1 unpriced 4 1 0.12 USD 1 0.03 USD 2 0.07 USD + 1 unpriced 1"
    page.get_by_text("Settled for earlier runs").first.click()
    assert rows("settled for earlier runs")[1] == "monday 0.40 USD 0 1 0.40 USD"
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


def test_a_card_keeps_the_focus_when_the_list_is_laid_out_anew(show: Show):
    page = show([card(f"mug-{n}", "bought", TRUE) for n in range(20)])
    page.locator(".card", has_text="mug-7").focus()
    page.set_viewport_size({"width": 900, "height": 900})
    page.wait_for_timeout(100)
    expect(page.locator(".card:focus .sku")).to_have_text("mug-7")
    page.keyboard.press("j")
    expect(page.locator(".card:focus .sku")).to_have_text("mug-8")


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
    assert view.locator("#view-uris code").all_inner_texts() == [f"{PICTURES}/lamp-3-0.png", f"{PICTURES}/lamp-3-1.png"]
    page.context.grant_permissions(["clipboard-read", "clipboard-write"])
    view.get_by_role("button", name=f"Copy {PICTURES}/lamp-3-1.png").click()
    view.get_by_text("Copied").wait_for()
    assert page.evaluate("navigator.clipboard.readText()") == f"{PICTURES}/lamp-3-1.png"

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
        "https://shop.example/m.png",
        "touches the edge",
    )
    for text in (*known, f"{PICTURES}/mug-10-thumb.webp", "thumb, 320 × 240 px, 2 kB, image/webp"):
        assert text in facts


def test_what_may_be_decided_is_spelled_as_a_command(show: Show):
    page = show([card("a", "quarantined", FALSE, fingerprint="f" * 64), card("b", "refused", fingerprint="e" * 64)])
    page.locator(".card", has_text="a").first.click()
    commands = page.get_by_role("dialog", name="a").locator(".commands").inner_text().splitlines()
    assert commands == [f"bgai-ledger {what} s3://shop/pictures {'f' * 64}" for what in ("accept", "buy")]
    page.keyboard.press("j")
    assert page.get_by_role("dialog").locator(".commands").count() == 0


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
def test_no_barrier_that_axe_finds(show: Show, scheme: Literal["light", "dark"]):
    from axe_playwright_python.sync_playwright import Axe

    page = show(costs=COSTS, notes={"a": "b"})
    page.emulate_media(color_scheme=scheme)
    assert Axe().run(page).response["violations"] == []
    page.locator(".card", has_text="lamp-1").click()
    assert Axe().run(page).response["violations"] == []
