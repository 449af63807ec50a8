"""What a run cost: pictures and money, by vendor and by category, to the unit.

For every run ``bought + lost + quarantined`` pictures are charged for certain, and ``unknown`` ones perhaps: the
vendor's bill lies between :attr:`Tally.charged` and ``charged + unknown``. A price nobody knows stays unknown: its
pictures are counted in ``unpriced`` and add nothing to any sum.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from decimal import Decimal

from pydantic import BaseModel, Field

from airflow_provider_bgai.catalogue.ledger import Wasted
from airflow_provider_bgai.catalogue.records import Result

NAME_WIDTH = 32


class Line(BaseModel):
    """One sort of end that products came to.

    :param products: SKUs.
    :param pictures: of these; one that several SKUs share counts once.
    :param money: sums by currency.
    :param unpriced: pictures whose price is not known; not part of ``money``.
    """

    products: int = 0
    pictures: int = 0
    money: dict[str, Decimal] = Field(default_factory=dict)
    unpriced: int = 0

    def pay(self, price: Decimal | None, currency: str, pictures: int) -> None:
        """Add the price of so many pictures."""
        if price is None:
            self.unpriced += pictures
        elif price:
            self.money[currency] = self.money.get(currency, Decimal(0)) + price


class Tally(BaseModel):
    """All ends, for one vendor, one category or the whole run. Lines other than the five below cost nothing.

    :param bought: paid and landed in this run.
    :param lost: paid, and the picture cannot be had any more. Its pictures and money include those of products that
        were bought again in the same run; so it is with ``quarantined``.
    :param quarantined: paid, and the picture does not show the product.
    :param failed: the vendor does not charge for them. Money stands here only where a result says so.
    :param unknown: paid calls with an unknown outcome, of products with any end: perhaps charged, once more
        than ``bought`` and ``lost`` say. ``held`` counts the products that wait because of one.
    """

    bought: Line = Field(default_factory=Line)
    reused: Line = Field(default_factory=Line)
    unchanged: Line = Field(default_factory=Line)
    refused: Line = Field(default_factory=Line)
    failed: Line = Field(default_factory=Line)
    lost: Line = Field(default_factory=Line)
    quarantined: Line = Field(default_factory=Line)
    held: Line = Field(default_factory=Line)
    over_budget: Line = Field(default_factory=Line)
    unknown: Line = Field(default_factory=Line)

    def line(self, outcome: str) -> Line:
        """The line of an outcome."""
        found: Line = getattr(self, outcome)
        return found

    @property
    def charged(self) -> int:
        """Pictures charged for certain."""
        return self.bought.pictures + self.lost.pictures + self.quarantined.pictures

    @property
    def paid(self) -> dict[str, Decimal]:
        """Money paid for certain, by currency; without the ``unpriced`` pictures."""
        sums: dict[str, Decimal] = {}
        for line in (self.bought, self.lost, self.quarantined, self.failed):
            for currency, money in line.money.items():
                sums[currency] = sums.get(currency, Decimal(0)) + money
        return sums

    def _add(self, result: Result, *, again: bool) -> None:
        line = self.line(result.outcome)
        line.products += 1
        pictures = len(result.images) or result.pictures
        line.pictures += 0 if again else pictures
        if result.outcome in ("bought", "lost", "quarantined", "failed"):
            line.pay(result.price, result.currency, pictures)
        if result.unknown:
            self.unknown.products += 1
            self.unknown.pictures += pictures * result.unknown
            # 0 is what an ended call cost; what the unanswered ones may have cost is not known then.
            price = result.price * result.unknown if result.price else None
            self.unknown.pay(price, result.currency, pictures * result.unknown)

    def _add_wasted(self, call: Wasted) -> None:
        line = self.line(call.outcome)
        line.pictures += call.pictures
        line.pay(call.price, call.currency, call.pictures)


class CostReport(BaseModel):
    """The whole run, and the same by vendor and by category; ``""`` where a result names none."""

    total: Tally = Field(default_factory=Tally)
    by_vendor: dict[str, Tally] = Field(default_factory=dict)
    by_category: dict[str, Tally] = Field(default_factory=dict)

    def as_text(self) -> str:
        """A small aligned table, for logs."""
        head = ["", "bought", "paid", "lost", "paid", "quarantined", "paid", "unknown", "perhaps"]
        head += ["reused", "unchanged", "refused", "failed", "held", "over budget"]
        rows = [head, *(_row(name, tally) for name, tally in self._groups())]
        widths = [max(len(row[column]) for row in rows) for column in range(len(head))]
        lines = (
            "  ".join(cell.rjust(width) if column else cell.ljust(width) for column, (cell, width) in pairs)
            for pairs in (enumerate(zip(row, widths, strict=True)) for row in rows)
        )
        return "\n".join(line.rstrip() for line in lines)

    def _groups(self) -> Iterator[tuple[str, Tally]]:
        for kind, groups in (("vendor", self.by_vendor), ("category", self.by_category)):
            for name in sorted(groups):
                yield f"{kind} {_printable(name) or '-'}", groups[name]
        yield "all", self.total


def cost_report(results: Iterable[Result]) -> CostReport:
    """Add up the results of a run, in any order, one line at a time."""
    report = CostReport()
    seen: set[tuple[str, str]] = set()
    for result in results:
        picture = (result.outcome, result.fingerprint or f"sku {result.sku}")
        again = picture in seen
        seen.add(picture)
        for tally in (
            report.total,
            report.by_vendor.setdefault(result.vendor or "", Tally()),
            report.by_category.setdefault(result.category, Tally()),
        ):
            tally._add(result, again=again)
        # A call in vain may have been another vendor's than the one that served in the end.
        for call in result.wasted:
            report.total._add_wasted(call)
            report.by_vendor.setdefault(call.vendor, Tally())._add_wasted(call)
            report.by_category[result.category]._add_wasted(call)
    return report


def _row(name: str, tally: Tally) -> list[str]:
    def money(line: Line) -> str:
        sums = [f"{amount} {_printable(currency)}" for currency, amount in sorted(line.money.items())]
        if line.unpriced:
            sums.append(f"{line.unpriced} of unknown price")
        return " + ".join(sums) or "0"

    cells = [name]
    for line in (tally.bought, tally.lost, tally.quarantined, tally.unknown):
        cells += [str(line.pictures), money(line)]
    rest = (tally.reused, tally.unchanged, tally.refused, tally.failed, tally.held, tally.over_budget)
    return cells + [str(line.products) for line in rest]


def _printable(text: str) -> str:
    """Categories come from the shop's file: no line breaks or control characters into a log."""
    clean = "".join(char if char.isprintable() else "?" for char in text)
    return clean if len(clean) <= NAME_WIDTH else clean[: NAME_WIDTH - 1] + "…"
