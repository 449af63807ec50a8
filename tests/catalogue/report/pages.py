"""What report pages are made of, cards and costs; and what is read off one that a Chromium shows."""

from __future__ import annotations

import io
import math
from collections.abc import Callable, Iterable
from decimal import Decimal
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from PIL import Image

from airflow_provider_bgai.buying.record import Output
from airflow_provider_bgai.catalogue.report.costs import CostReport, cost_report
from airflow_provider_bgai.catalogue.report.page import Card, write_page
from airflow_provider_bgai.catalogue.results import Finished, Result
from airflow_provider_bgai.imaging.fidelity import Verdict
from tests.buying.kept import call

if TYPE_CHECKING:
    from playwright.sync_api import Locator, Page

RED, GREEN, BLUE = (200, 30, 30), (30, 160, 30), (30, 30, 200)
AT = 1795226400.0  # 2026-11-21 02:00 UTC
PICTURES = "s3://shop/pictures/_bgai"


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
        Output(uri=f"_bgai/{sku}-{n}.png", bytes=9_100, sha256="00", width=640, height=480,
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
        image="https://shop.example/m.png?signature=s3cr3t",
        warnings=("touches the edge",),
        finished=(
            Finished(
                uri="_bgai/mug-10-thumb.webp",
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
    card("shoe-3", "held", category="", vendor=None, price=None, reason="unknown", error="The line dropped"),
)
COSTS = cost_report(
    (
        call(1, pictures=3, price="0.21"),
        call(2, price=None, vendor="katalis"),
        call(3, "lost", "0.03", vendor="gptge"),
        call(4, "quarantined", "0.12", vendor="katalis", category="lamps"),
        call(5, "unknown", category=""),
        call(6, "sent", None),
        call(7, "failed"),
    )
)


Show = Callable[..., "Page"]


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
