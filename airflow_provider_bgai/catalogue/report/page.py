"""The report a person looks at: ``runs/<run>/report.html``, one file that needs nothing else.

``page.html`` is its frame, ``products.html`` its cards, ``page.css`` its looks, ``report.js`` and ``page.js`` what it
does; here they become one stream. Everything a card shows comes from outside, so the page carries it as JSON that the
script puts in as text, never as markup, and a content security policy that runs this very script and loads nothing.
Cards, looks and ``page.js`` are shared with Airflow's pages (``ui/gallery.py``).

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
from importlib import resources
from itertools import islice
from typing import IO, Any

from airflow_provider_bgai.buying.record import Output
from airflow_provider_bgai.catalogue.report.costs import CostReport, Costs, Line, money
from airflow_provider_bgai.catalogue.results import Result
from airflow_provider_bgai.catalogue.review import DECISIONS
from airflow_provider_bgai.layout import Layout
from airflow_provider_bgai.sources import shown

ROOM = "catalogue/report"
STYLE, SCRIPT = f"{ROOM}/page.css", f"{ROOM}/page.js"
"""Of all pages with cards."""
BLOCK = 25
IDENTICAL = 999.0
"""PSNR, in dB, that stands for a product that did not change at all; JSON has no infinity."""

COLUMNS = {
    "landed": "Landed",
    "quarantined": "Quarantined",
    "lost": "Lost",
    "perhaps": "Perhaps charged",
    "failed": "Not charged",
}
"""Of a table of costs, besides what was paid: they count pictures."""
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
    """One table of costs: a heading over every column, rows that are each named by a ``kind``, and their sum."""

    title: str
    kind: str
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
    settled: CostReport | None = None,
    unchanged: int = 0,
    published: bool,
    notes: Mapping[str, str] | None = None,
) -> None:
    """Write the page, one block of cards at a time: memory does not grow with their number.

    :param destination: what the URIs in results are relative to.
    :param at: when the run ended, epoch seconds.
    :param cards: in the order the page is to begin with; products that did not change are none of them.
    :param costs: of the calls this run sent; ``settled``: what it settled for earlier runs.
    :param unchanged: how many those are.
    :param notes: facts for the head of the page, by their name.
    """
    moment = datetime.fromtimestamp(at, UTC)
    parts, _ = framed(
        f"{ROOM}/page.html",
        styles=(STYLE,),
        scripts=(f"{ROOM}/report.js", SCRIPT),
        run=run,
        destination=destination,
        moment=moment.isoformat(timespec="seconds"),
        moment_in_words=f"{moment.day} {moment:%B %Y, %H:%M} UTC",
        published=published,
        notes=notes or {},
        unchanged=unchanged,
        charged=costs.total.charged,
        paid=_paid(costs.total),
        perhaps=_cell("perhaps", costs.total),
        tables=_tables(costs, settled),
        decisions={"root": destination, "on": {what: on for what, (_, on) in DECISIONS.items()}},
        blocks=_blocks(cards, Layout(destination)),
    )
    for part in parts:
        file.write(part.encode("utf-8", "replace"))


def framed(
    name: str, *, styles: Iterable[str], scripts: Iterable[str], **known: Any
) -> tuple[Iterator[str], dict[str, str]]:
    """A page, piece by piece; and ``style_hash`` and ``script_hash``, as a content security policy names them.

    :param name: of its frame, a file of this package, like ``styles`` and ``scripts``, which stand in it one after
        the other; it may include others.
    :param known: what the frame asks for besides ``style``, ``script`` and their hashes.
    """
    from jinja2 import Environment, FunctionLoader, StrictUndefined

    pages = Environment(
        loader=FunctionLoader(_read), autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    style, script = ("\n".join(map(_read, names)) for names in (styles, scripts))
    hashes = {"style_hash": _hash(style), "script_hash": _hash(script)}
    known |= {"style": style, "script": script, "identical": IDENTICAL}
    return pages.get_template(name).generate(**known, **hashes), hashes


def _read(name: str) -> str:
    return resources.files("airflow_provider_bgai").joinpath(name).read_text("utf-8")


def _hash(text: str) -> str:
    return f"sha256-{b64encode(hashlib.sha256(text.encode()).digest()).decode()}"


def _blocks(cards: Iterable[Card], layout: Layout) -> Iterator[tuple[list[dict[str, Any]], str]]:
    """What the cards say, and a line for each with its pictures in base64: before, afters; ``-`` for none."""
    rest = iter(cards)
    while batch := list(islice(rest, BLOCK)):
        lines = (
            " ".join(b64encode(picture).decode() if picture else "-" for picture in (card.before, *card.afters))
            for card in batch
        )
        yield [said_of(card.result, layout) for card in batch], "\n".join(lines)


def said_of(result: Result, layout: Layout) -> dict[str, Any]:
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
        "seconds": result.seconds,
        "reason": result.reason,
        "error": result.error,
        "name": result.name,
        "task": result.task_id,
        "source": shown(result.image or ""),
        "prompt": result.prompt_sha256,
        "fingerprint": result.fingerprint,
        "warnings": list(result.warnings),
        "images": [_say_image(image, layout) for image in result.images or result.quarantined],
        "finished": [
            _say_image(file, layout) | {"rendition": file.rendition, "notes": list(file.notes)}
            for file in result.finished
        ],
    }
    return {name: value for name, value in said.items() if value not in (None, "", [])}


def _say_image(image: Output, layout: Layout) -> dict[str, Any]:
    said: dict[str, Any] = {
        "uri": layout.absolute(image.uri),
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
        if verdict.outlines:
            said["outlines"] = [list(map(list, outline)) for outline in verdict.outlines]
    return said


def _finite(number: float | None) -> float | None:
    if number is None or math.isnan(number):
        return None
    return round(min(number, IDENTICAL), 2)


def _tables(costs: CostReport, settled: CostReport | None) -> list[CostTable]:
    tables = [
        _table("By vendor", "Vendor", costs.by_vendor, costs.total),
        _table("By category", "Category", costs.by_category, costs.total),
    ]
    if settled is not None and settled.total != Costs():
        tables.append(_table("Settled for earlier runs", "Run", settled.by_run, settled.total))
    return tables


def _table(title: str, kind: str, groups: Mapping[str, Costs], total: Costs) -> CostTable:
    """Only columns in which something happened."""
    columns = [name for name in COLUMNS if name == "landed" or getattr(total, name) != Line()]
    return CostTable(
        title=title,
        kind=kind,
        head=["Paid", *(COLUMNS[name] for name in columns)],
        rows=[(name or "none", _row(costs, columns)) for name, costs in sorted(groups.items())],
        total=_row(total, columns),
    )


def _row(costs: Costs, columns: Iterable[str]) -> list[Cell]:
    return [_paid(costs), *(_cell(column, costs) for column in columns)]


def _cell(column: str, costs: Costs) -> Cell:
    """How many pictures; below, for what has not simply landed, the money."""
    line: Line = getattr(costs, column)
    below = (
        ""
        if column == "landed"
        else " + ".join(filter(None, (money(line.money) if line.money else "", _unpriced(line.unpriced))))
    )
    return f"{line.pictures:,}", below


def _paid(costs: Costs) -> Cell:
    return money(costs.paid), _unpriced(costs.unpriced) and f"+ {_unpriced(costs.unpriced)}"


def _unpriced(pictures: int) -> str:
    """Pictures whose price nobody knows are named, never counted as 0."""
    return f"{pictures:,} unpriced" if pictures else ""
