"""What a person reads in a task's log: what was planned, what became of each product, what it cost, where to look.

Text out of the records that a task has in hand; nothing is read or decided here.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from decimal import Decimal

from airflow_provider_bgai.catalogue.planning.plan import PlanRecord
from airflow_provider_bgai.catalogue.report.costs import Costs, money
from airflow_provider_bgai.catalogue.results import WITH_PICTURES, Result

EXAMPLES = 5
"""SKUs that are named of each kind, and refusals of a plan."""

_ORDER = (*WITH_PICTURES, "over_budget", "refused", "held", "quarantined", "lost", "failed")


def of_plan(plan: PlanRecord) -> str:
    """The plan as a short table: products by status, calls and their price, what is refused and why."""
    lines = [f"{sum(plan.counts.values()):,} product(s) in {plan.manifest}"]
    for status, count in sorted(plan.counts.items(), key=lambda item: -item[1]):
        lines.append(f"{count:>9,}  {status}")
    if plan.changed:
        lines.append(f"changed: {', '.join(f'{what} {count:,}' for what, count in sorted(plan.changed.items()))}")
    price = "at a price nobody has named" if plan.price is None else f"for {plan.price:f} {plan.currency} at most"
    lines.append(
        f"to buy: {plan.calls:,} call(s), {plan.pictures:,} picture(s), {price}" if plan.calls else "to buy: nothing"
    )
    if plan.at_most:
        lines.append(f"{plan.at_most:,} of these only if the source, which looks new, holds something new")
    if plan.collect:
        lines.append(f"to collect: {plan.collect:,} picture(s) that are paid for already")
    lines += [f"refused: {it.sku}: {it.reason}" for it in plan.refusals[:EXAMPLES]]
    if (more := plan.counts.get("refused", 0) - EXAMPLES) > 0:
        lines.append(f"refused: {more:,} more, each with its reason in {plan.planned[0].rpartition('/')[0]}/")
    lines.append(f"plan: {plan.uri}")
    return "\n".join(lines)


def of_result(result: Result) -> str:
    """What became of a product, in a line: vendor, price, seconds and verdict, or the reason and the price."""
    if result.outcome not in WITH_PICTURES:
        reason = f" ({result.reason})" if result.reason not in (None, result.outcome) else ""
        return f"{result.sku}: {result.outcome}{reason}, {_price(result)}: {result.error}"
    words: list[str] = [result.outcome]
    if result.outcome == "bought":
        seconds = "" if result.seconds is None else f" in {result.seconds:g} s"
        words = [f"bought from {result.conn_id} for {_price(result)}{seconds}"]
    if result.images:
        words.append(of_verdicts(it.fidelity.faithful if it.fidelity else None for it in result.images))
    return f"{result.sku}: {', '.join(words)}" + "".join(f"; {warning}" for warning in result.warnings)


def of_verdicts(faithful: Iterable[bool | None]) -> str:
    """Whether pictures show the product; None: one that nobody could compare."""
    found = list(faithful)
    if None in found:
        return "not compared with the product"
    return "shows the product" if all(found) else "does not show the product"


def _price(result: Result) -> str:
    if result.price is None:
        return "price unknown"
    if not result.price:
        return "nothing paid"
    return f"{'perhaps ' if result.outcome == 'held' else ''}{result.price:f} {result.currency}"


def of_progress(results: Iterable[Result], *, left: int, each: float | None, paid: Mapping[str, Decimal]) -> str:
    """How far a shard is.

    :param left: pictures that have not ended.
    :param each: seconds that one takes; None: not known yet.
    """
    tally = Tally()
    tally.add(results)
    time_left = "" if each is None else f", about {each * left:,.0f} s"
    return f"{tally.short() or 'nothing has ended yet'}; {left:,} picture(s) to go{time_left}; paid: {money(paid)}"


def of_costs(costs: Costs) -> str:
    """What was paid for certain, and what perhaps."""
    perhaps = costs.perhaps
    unpriced = f", {costs.unpriced:,} of them at an unknown price" if costs.unpriced else ""
    more = f"; perhaps {money(perhaps.money)} for {perhaps.pictures:,} more" if perhaps.pictures else ""
    return f"paid: {money(costs.paid)} for {costs.charged:,} picture(s){unpriced}{more}"


@dataclass
class _Kind:
    """Products that came to one end for one reason: how many, some of their SKUs, what the first was told."""

    count: int = 0
    skus: list[str] = field(default_factory=list)
    message: str = ""


@dataclass
class Tally:
    """Products by what became of them, the good ones first; the others by reason, with SKUs and an example."""

    kinds: dict[tuple[str, str], _Kind] = field(default_factory=dict)

    def add(self, results: Iterable[Result]) -> None:
        """Count them."""
        for result in results:
            kind = self._kind(result.outcome, result.reason or "")
            kind.count += 1
            if len(kind.skus) < EXAMPLES:
                kind.skus.append(result.sku)
                kind.message = kind.message or result.error or ""

    def add_unchanged(self, count: int) -> None:
        """Count products of which nothing else is to be said."""
        if count:
            self._kind("unchanged", "").count += count

    def _kind(self, outcome: str, reason: str) -> _Kind:
        return self.kinds.setdefault((outcome, "" if outcome in WITH_PICTURES else reason), _Kind())

    def _sorted(self) -> list[tuple[str, str, _Kind]]:
        found = [(outcome, reason, kind) for (outcome, reason), kind in self.kinds.items()]
        return sorted(found, key=lambda it: (_ORDER.index(it[0]), -it[2].count))

    def short(self) -> str:
        """Counts alone: ``93 bought, 2 failed``."""
        counts: dict[str, int] = {}
        for outcome, _, kind in self._sorted():
            counts[outcome] = counts.get(outcome, 0) + kind.count
        return ", ".join(f"{count:,} {outcome}" for outcome, count in counts.items())

    def __str__(self) -> str:
        lines = []
        for outcome, reason, kind in self._sorted():
            line = f"{kind.count:>9,}  {outcome}"
            if outcome not in WITH_PICTURES:
                line += f" ({reason})" if reason not in ("", outcome) else ""
                line += f": {kind.skus[0]}: {kind.message}"
                if others := kind.skus[1:]:
                    line += f"; and {', '.join(others)}{', …' if kind.count > EXAMPLES else ''}"
            lines.append(line)
        return "\n".join(lines)
