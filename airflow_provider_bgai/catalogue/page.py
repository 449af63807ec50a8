"""The report a person looks at: ``runs/<run>/report.html``, one file that needs nothing else.

``page.html`` is its frame, ``page.css`` its looks, ``page.js`` what it does; here they become one stream. Everything
a card shows comes from outside, so the page carries it as JSON that the script puts in as text, never as markup, and
a content security policy that runs this very script and loads nothing.

Size: 0.6 kB for a card, and 4/3 of its thumbnails. With 3 kB a thumbnail that is 8.6 kB a product, 86 MB for 10,000.
The thumbnails of :data:`BLOCK` products are one block of text, and the browser decodes only the cards in sight.
"""

from __future__ import annotations

import hashlib
import math
from base64 import b64encode
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from decimal import Decimal
from importlib import resources
from itertools import islice
from typing import IO, Any

from airflow_provider_bgai.catalogue.ledger import Output
from airflow_provider_bgai.catalogue.records import Result
from airflow_provider_bgai.catalogue.report import CostReport, Line, Tally

BLOCK = 25
IDENTICAL = 999.0
"""PSNR, in dB, that stands for a product that did not change at all; JSON has no infinity."""

CHARGED = ("bought", "lost", "quarantined")
COUNTED_BY_PICTURE = (*CHARGED, "unknown")
Cell = tuple[str, str]
"""A table's cell: what it says, and what stands below it in small."""


@dataclass(frozen=True)
class Card:
    """One product of the page.

    :param before: the source as a small WebP (2 to 4 kB), transparency kept; None if it cannot be had.
    :param afters: the pictures of ``result.images``, likewise, in the same order; where it has none, those of
        ``result.quarantined``.
    """

    result: Result
    before: bytes | None
    afters: tuple[bytes, ...] = ()


@dataclass(frozen=True)
class CostTable:
    """One table of costs: a heading over every column, named rows, and the row that adds them up."""

    title: str
    head: list[str]
    rows: list[tuple[str, list[Cell]]]
    total: list[Cell]


def write_page(
    file: IO[bytes],
    *,
    run: str,
    destination: str,
    at: float,
    cards: Iterable[Card],
    costs: CostReport,
    unchanged: int = 0,
    published: bool,
    notes: Mapping[str, str] | None = None,
) -> None:
    """Write the page, one block of cards at a time: memory does not grow with their number.

    :param at: when the run ended, epoch seconds.
    :param cards: in the order the page is to begin with; products that did not change are none of them.
    :param unchanged: how many those are.
    :param notes: facts for the head of the page, by their name.
    """
    from jinja2 import Environment, StrictUndefined

    frame, style, script = (_read(f"page.{ending}") for ending in ("html", "css", "js"))
    template = Environment(
        autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True
    ).from_string(frame)
    moment = datetime.fromtimestamp(at, UTC)
    parts = template.generate(
        run=run,
        destination=destination,
        moment=moment.isoformat(timespec="seconds"),
        moment_in_words=f"{moment.day} {moment:%B %Y, %H:%M} UTC",
        published=published,
        notes=notes or {},
        unchanged=unchanged,
        charged=costs.total.charged,
        paid=_paid(costs.total),
        unknown=_cell("unknown", costs.total.unknown),
        tables=[_table("Vendor", costs.by_vendor, costs.total), _table("Category", costs.by_category, costs.total)],
        style=style,
        style_hash=_hash(style),
        script=script,
        script_hash=_hash(script),
        identical=IDENTICAL,
        blocks=_blocks(cards),
    )
    for part in parts:
        file.write(part.encode("utf-8", "replace"))


def _read(name: str) -> str:
    return resources.files(__package__).joinpath(name).read_text("utf-8")


def _hash(text: str) -> str:
    """As a content security policy names a script or style."""
    return f"sha256-{b64encode(hashlib.sha256(text.encode()).digest()).decode()}"


def _blocks(cards: Iterable[Card]) -> Iterator[tuple[list[dict[str, Any]], str]]:
    """What the cards say, and a line for each with its pictures in base64: before, afters; ``-`` for none."""
    rest = iter(cards)
    while batch := list(islice(rest, BLOCK)):
        lines = (
            " ".join(b64encode(picture).decode() if picture else "-" for picture in (card.before, *card.afters))
            for card in batch
        )
        yield [_say(card.result) for card in batch], "\n".join(lines)


def _say(result: Result) -> dict[str, Any]:
    """What a card says. Only what is known: the page leaves the rest out."""
    said = {
        "sku": result.sku,
        "outcome": result.outcome,
        "category": result.category,
        "vendor": result.vendor,
        "connection": result.conn_id,
        "model": result.model,
        "seed": result.seed,
        "price": None if result.price is None else f"{result.price:f}",
        "currency": result.currency,
        "unknown": result.unknown,
        "seconds": result.seconds,
        "reason": result.reason,
        "error": result.error,
        "name": result.name,
        "task": result.task_id,
        # Of a web address only what comes before its query: signatures stand there.
        "source": (result.image or result.source or "").partition("?")[0],
        "prompt": result.prompt_sha256,
        "fingerprint": result.fingerprint,
        "wasted": [f"{it.outcome}, {it.vendor}, {_price(it.price, it.currency)}" for it in result.wasted],
        "warnings": list(result.warnings),
        "images": [_say_image(image) for image in result.images or result.quarantined],
        "finished": [
            _say_image(file) | {"rendition": file.rendition, "notes": list(file.notes)} for file in result.finished
        ],
    }
    return {name: value for name, value in said.items() if value not in (None, "", [])}


def _say_image(image: Output) -> dict[str, Any]:
    said: dict[str, Any] = {
        "uri": image.uri,
        "width": image.width,
        "height": image.height,
        "bytes": image.bytes,
        "type": image.content_type,
    }
    if verdict := image.fidelity:
        said |= {
            "faithful": verdict.faithful,
            "reasons": list(verdict.reasons),
            "psnr": _finite(verdict.psnr),
            "delta_e": _finite(verdict.delta_e),
        }
    return said


def _price(price: Decimal | None, currency: str) -> str:
    return "price unknown" if price is None else f"{price:f} {currency}"


def _finite(number: float | None) -> float | None:
    if number is None or math.isnan(number):
        return None
    return round(min(number, IDENTICAL), 2)


def _table(title: str, groups: Mapping[str, Tally], total: Tally) -> CostTable:
    """Only columns in which something happened."""
    columns = [name for name in Tally.model_fields if name == "bought" or total.line(name) != Line()]
    return CostTable(
        title=title,
        head=["Paid", *(name.replace("_", " ").capitalize() for name in columns)],
        rows=[(name or "none", _row(tally, columns)) for name, tally in sorted(groups.items())],
        total=_row(total, columns),
    )


def _row(tally: Tally, columns: Iterable[str]) -> list[Cell]:
    return [_paid(tally), *(_cell(column, tally.line(column)) for column in columns)]


def _cell(column: str, line: Line) -> Cell:
    """How many; below, for what was not simply bought, the money."""
    count = line.pictures if column in COUNTED_BY_PICTURE else line.products
    return f"{count:,}", "" if column == "bought" else " + ".join(filter(None, (_sums(line.money), _unpriced(line))))


def _paid(tally: Tally) -> Cell:
    unpriced = Line(unpriced=sum(tally.line(column).unpriced for column in CHARGED))
    return _sums(tally.paid) or "0", _unpriced(unpriced) and f"+ {_unpriced(unpriced)}"


def _sums(money: Mapping[str, Decimal]) -> str:
    return " + ".join(f"{amount:f} {currency}" for currency, amount in sorted(money.items()))


def _unpriced(line: Line) -> str:
    """Pictures whose price nobody knows are named, never counted as 0."""
    return f"{line.unpriced:,} unpriced" if line.unpriced else ""
