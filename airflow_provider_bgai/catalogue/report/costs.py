"""What was paid: pictures and money, by vendor, category, run and month. Added up from calls, and from nothing else.

A call belongs for ever to the run that sent it. At every moment the vendor's counter lies between ``charged`` and
``charged`` and ``perhaps`` together. A price nobody knows stays unknown: its pictures are counted in ``unpriced`` and
add nothing to any sum. Everything streams: only the names of the calls are kept in memory.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from datetime import UTC, datetime
from decimal import Decimal
from itertools import chain
from typing import Any, Literal

from pydantic import BaseModel, Field, computed_field

from airflow_provider_bgai.buying.books import month_of, read_books, read_open
from airflow_provider_bgai.buying.calls import Ledger
from airflow_provider_bgai.buying.record import PAID, Call
from airflow_provider_bgai.layout import segment
from airflow_provider_bgai.lines import stream_lines
from airflow_provider_bgai.storage import Storage

By = Literal["vendor", "category", "run", "month", "day"]

PERHAPS = ("unknown", "answered", "sent")
BEFORE = 3600.0
"""Seconds before a run's plan from which books are read: who planned it may have had another clock."""
NAME_WIDTH = 32

# Of two lines of a call the later state counts, and the definite one before perhaps.
_RANK = {state: rank for rank, state in enumerate(("sent", "answered", "unknown"))}


class Line(BaseModel):
    """Calls that came to one end.

    :param money: sums by currency.
    :param unpriced: pictures whose price is not known; not part of ``money``.
    """

    calls: int = 0
    pictures: int = 0
    money: dict[str, Decimal] = Field(default_factory=dict)
    unpriced: int = 0

    def add(self, other: Line) -> None:
        """Add up."""
        self.calls += other.calls
        self.pictures += other.pictures
        self.unpriced += other.unpriced
        for currency, amount in other.money.items():
            self.money[currency] = self.money.get(currency, Decimal(0)) + amount


class Costs(BaseModel):
    """All ends, for one vendor, one category, one run, one month or in all.

    :param landed: paid. A call with some pictures in quarantine is one that landed.
    :param quarantined: paid, and no picture shows the product.
    :param lost: paid, and the pictures cannot be had any more.
    :param failed: not charged, as the vendor documents it, or never sent.
    :param unknown: perhaps charged, and nobody will ever know more.
    :param answered, sent: not ended yet: perhaps charged.
    """

    landed: Line = Field(default_factory=Line)
    quarantined: Line = Field(default_factory=Line)
    lost: Line = Field(default_factory=Line)
    failed: Line = Field(default_factory=Line)
    unknown: Line = Field(default_factory=Line)
    answered: Line = Field(default_factory=Line)
    sent: Line = Field(default_factory=Line)

    def line(self, state: str) -> Line:
        """The line of a call's state."""
        found: Line = getattr(self, state)
        return found

    @computed_field  # type: ignore[prop-decorator]
    @property
    def charged(self) -> int:
        """Pictures charged for certain."""
        return self._sum(PAID).pictures

    @computed_field  # type: ignore[prop-decorator]
    @property
    def paid(self) -> dict[str, Decimal]:
        """Money paid for certain, by currency; without the ``unpriced`` pictures."""
        return self._sum(PAID).money

    @computed_field  # type: ignore[prop-decorator]
    @property
    def unpriced(self) -> int:
        """Pictures charged for certain whose price is not known."""
        return self._sum(PAID).unpriced

    @computed_field  # type: ignore[prop-decorator]
    @property
    def perhaps(self) -> Line:
        """What may have been charged besides."""
        return self._sum(PERHAPS)

    def _sum(self, states: Iterable[str]) -> Line:
        found = Line()
        for state in states:
            found.add(self.line(state))
        return found

    def _add(self, call: Call) -> None:
        free = call.state == "failed"
        priced = not free and call.price is not None
        self.line(call.state).add(
            Line(
                calls=1,
                pictures=call.pictures,
                money={call.currency: call.price} if priced and call.price else {},
                unpriced=0 if free or priced else call.pictures,
            )
        )


class CostReport(BaseModel):
    """All calls, and the same in groups: those that were asked for. ``""`` where a call names none."""

    total: Costs = Field(default_factory=Costs)
    by_vendor: dict[str, Costs] = Field(default_factory=dict)
    by_category: dict[str, Costs] = Field(default_factory=dict)
    by_run: dict[str, Costs] = Field(default_factory=dict)
    by_month: dict[str, Costs] = Field(default_factory=dict)
    by_day: dict[str, Costs] = Field(default_factory=dict)

    def as_json(self) -> dict[str, Any]:
        """Small JSON, for XCom: what is nought is left out, and money is text, to the cent."""
        return self.model_dump(mode="json", exclude_defaults=True)

    def as_text(self) -> str:
        """A small aligned table, for logs."""
        head = ["", "landed", "quarantined", "lost", "paid", "perhaps", "at most", "not charged"]
        rows = [head, *(_row(name, costs) for name, costs in self._groups())]
        widths = [max(len(row[column]) for row in rows) for column in range(len(head))]
        lines = (
            "  ".join(cell.rjust(width) if column else cell.ljust(width) for column, (cell, width) in pairs)
            for pairs in (enumerate(zip(row, widths, strict=True)) for row in rows)
        )
        return "\n".join(line.rstrip() for line in lines)

    def _groups(self) -> Iterator[tuple[str, Costs]]:
        for kind in ("vendor", "category", "run", "month", "day"):
            groups: dict[str, Costs] = getattr(self, f"by_{kind}")
            for name in sorted(groups):
                yield f"{kind} {_printable(name) or '-'}", groups[name]
        yield "all", self.total


def _day_of(call: Call) -> str:
    """Of ``sent_at``, of UTC, like ``2026-11-26``."""
    return datetime.fromtimestamp(call.sent_at, UTC).strftime("%Y-%m-%d")


_NAMES: Mapping[str, Callable[[Call], str]] = {"month": month_of, "day": _day_of}
"""Of groups that no field of a call names."""


class CostSum:
    """Adds up calls that come in any order, some in several lines: each once, the definite line before perhaps."""

    def __init__(self, by: Collection[By]) -> None:
        self.report, self.by = CostReport(), by
        self.definite: set[bytes] = set()
        self.doubtful: dict[bytes, Call] = {}

    def __contains__(self, call_id: str) -> bool:
        """Whether a line of this call was added."""
        name = bytes.fromhex(call_id)
        return name in self.definite or name in self.doubtful

    def add(self, call: Call) -> None:
        """Add a line of a call."""
        name = bytes.fromhex(call.call_id)
        if name in self.definite:
            return
        known = self.doubtful.get(name)
        if call.state not in _RANK:
            self.doubtful.pop(name, None)
            self.definite.add(name)
            self._count(call)
        elif known is None or _RANK[call.state] > _RANK[known.state]:
            self.doubtful[name] = call

    def close(self) -> CostReport:
        """The sums, once every line was added."""
        for call in self.doubtful.values():
            self._count(call)
        self.doubtful.clear()
        return self.report

    def so_far(self, under_way: Iterable[Call]) -> CostReport:
        """The sums as if every line were added; more may be added later.

        :param under_way: calls that have not ended, which count in this report alone.
        """
        sums = CostSum(self.by)
        sums.report, sums.definite = self.report.model_copy(deep=True), self.definite
        sums.doubtful = dict(self.doubtful)
        for call in under_way:
            sums.add(call)
        return sums.close()

    def _count(self, call: Call) -> None:
        report = self.report
        report.total._add(call)
        for kind in self.by:
            groups: dict[str, Costs] = getattr(report, f"by_{kind}")
            name = _NAMES[kind](call) if kind in _NAMES else getattr(call, kind)
            groups.setdefault(name, Costs())._add(call)


def cost_report(calls: Iterable[Call], by: Collection[By] = ("vendor", "category")) -> CostReport:
    """Add up calls, in any order. One that comes several times counts once, and what is known for certain counts."""
    total = CostSum(by)
    for call in calls:
        total.add(call)
    return total.close()


def month_costs(ledger: Ledger, month: str | None = None, by: Collection[By] = ("vendor", "category")) -> CostReport:
    """What all calls of a month cost, booked or not, whichever run sent them.

    :param month: that of ``sent_at`` (UTC), like ``2026-11``; None for all.
    """
    # open/ first: a call that is just being booked stands in one of the two.
    not_booked = (call for call in read_open(ledger) if month in (None, month_of(call)))
    return cost_report(chain(not_booked, read_books(ledger, month)), by)


def spent(ledger: Ledger, months: Collection[str]) -> CostReport:
    """What the calls of some months cost, by day and by month.

    :param months: like ``2026-11``.
    """
    not_booked = (call for call in read_open(ledger) if month_of(call) in months)  # first, as in month_costs
    return cost_report(chain(not_booked, *(read_books(ledger, month) for month in months)), ("day", "month"))


def catalogue_costs(
    storage: Storage,
    destination: str,
    month: str | None = None,
    by: Collection[By] = ("vendor", "category", "run"),
) -> CostReport:
    """What a catalogue cost: :func:`month_costs` of the ledger below its destination."""
    return month_costs(Ledger(storage, destination), month, by)


def run_costs(ledger: Ledger, run: str, since: float) -> tuple[CostReport, CostReport]:
    """What the calls cost that a run sent; and, apart, what it has settled for earlier runs.

    :param since: when the run was planned, epoch seconds. A run that was cleared and planned again has its earlier
        tries counted as well.
    """
    own, settled = CostSum(("vendor", "category")), CostSum(("vendor", "category", "run"))
    for call in read_open(ledger):
        if call.run == run:
            own.add(call)
    books = list(ledger.storage.list(ledger.layout.books()))
    ours = {item.uri for item in books if _writer(item.uri) == segment(run, 200)}
    first = min([since, *(item.modified for item in books if item.uri in ours)]) - BEFORE
    for item in books:
        if item.modified >= first:
            for call in stream_lines(ledger.storage, item.uri, Call):
                if call.run == run:
                    own.add(call)
                elif item.uri in ours:
                    settled.add(call)
    return own.close(), settled.close()


def _writer(uri: str) -> str:
    """The run that wrote a file of the books, as its name says it."""
    return uri.rpartition("/")[2].rpartition("-")[0]


def _row(name: str, costs: Costs) -> list[str]:
    paid, perhaps = costs._sum(PAID), costs.perhaps
    ends = (costs.landed, costs.quarantined, costs.lost)
    cells = [name, *(str(line.pictures) for line in ends), money_of(paid)]
    return [*cells, str(perhaps.pictures), money_of(perhaps), str(costs.failed.pictures)]


def money(amounts: Mapping[str, Decimal]) -> str:
    """Sums by currency, like ``4.65 USD``; ``0`` for none."""
    sums = (f"{amount:f} {_printable(currency)}" for currency, amount in sorted(amounts.items()) if amount)
    return " + ".join(sums) or "0"


def money_of(line: Line) -> str:
    """Its sums, and how many pictures have no known price."""
    sums = [money(line.money)] if line.money else []
    if line.unpriced:
        sums.append(f"{line.unpriced} of unknown price")
    return " + ".join(sums) or "0"


def _printable(text: str) -> str:
    """Categories come from the shop's file: no line breaks or control characters into a log."""
    clean = "".join(char if char.isprintable() else "?" for char in text)
    return clean if len(clean) <= NAME_WIDTH else clean[: NAME_WIDTH - 1] + "…"
