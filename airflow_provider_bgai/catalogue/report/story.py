"""What a person reads in a task's log: what was planned, what became of each product, what it cost, where to look.

Text out of the records that a task has in hand; nothing is read or decided here.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass, field

from airflow_provider_bgai.catalogue.planning.plan import PlanRecord
from airflow_provider_bgai.catalogue.report.costs import Costs, money
from airflow_provider_bgai.catalogue.results import WITH_PICTURES, Result
from airflow_provider_bgai.exceptions import AuthenticationError, BgaiError, PublishError, UnknownOutcomeError

EXAMPLES = 5
"""SKUs that are named of each kind, and refusals of a plan."""

ROWS = 11
"""Rows of a table: with what to do, what it cost and where to look it fits into the last twenty lines of a log."""
MESSAGE = 200
"""Characters of a message in a table; the whole of it stands in the product's own line, and in the report."""
KINDS = 100
"""Different reasons that are told apart; what comes later is counted together."""

_ORDER = (*WITH_PICTURES, "over_budget", "rejected", "refused", "held", "quarantined", "lost", "failed")

_MEND = "change the row, the image or the prompt, or name another vendor after it in conn_id; the next run tries again"
_BILL = (
    "look at the vendor's bill. bgai-ledger release {root} --sku {sku} lets it be bought again, keep holds it on; "
    "by itself it is bought again once its hold is over"
)
_LOOK = (
    "compare it with the product in the report; bgai-ledger accept {root} --sku {sku} publishes it, buy (or "
    "only='failed') buys another"
)
_WANTED = "nothing; bgai-ledger buy {root} --sku {sku} buys another, accept brings it back"
_ACCOUNT = "see to the account and its key, or name another connection after it in conn_id; the next run tries again"
_BUDGET = "it waits for the next run; if it must not, raise the budget or the limit"
_AGAIN = "nothing: the next run tries again, and first collects what is paid"
_TO_DO = {
    **dict.fromkeys(("refused", "moderation"), _MEND),
    **dict.fromkeys(("held", "unknown"), _BILL),
    "quarantined": _LOOK,
    "given_up": "see why in the report; only='failed' or bgai-ledger buy {root} --sku {sku} buys another",
    "rejected": _WANTED,
    **dict.fromkeys(("authentication", "quota", "retired"), _ACCOUNT),
    "over_budget": _BUDGET,
}
"""What a person does about a product, by the reason why it has no new picture; :data:`_AGAIN` for all others."""

_TO_DO_NEXT = {
    **{reason: _TO_DO[reason] for reason in ("moderation", "authentication", "quota", "retired", "over_budget")},
    **dict.fromkeys(("source", "rate_limit", "never_sent", "fault"), "run it again, or let its retries do so"),
    "lost": "run it again: it buys another",
}
"""The same about a single picture, where the message does not say it."""

_PAID = {"no": "This task has paid nothing", "yes": "It is paid for"}


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
    refused = plan.refusals[0].sku if plan.refusals else "SKU"
    left_out = [(status, "", refused if status == "refused" else "SKU") for status in _TO_DO if plan.counts.get(status)]
    return "\n".join([*lines, *of_to_do(left_out, plan.destination), f"plan: {plan.uri}"])


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


def of_error(error: BgaiError) -> str:
    """What ended a task: the message, what it cost, and what is to be done, unless the message says that."""
    # A key that is refused while a picture is fetched: the picture was paid with it before.
    paid = "yes" if isinstance(error, AuthenticationError) and error.task_id else error.paid
    words = [str(error).rstrip(".")]
    if not isinstance(error, PublishError | UnknownOutcomeError):  # these say it
        words.append(_PAID[paid])
    if to_do := _TO_DO_NEXT.get(error.reason):
        words.append(f"What to do: {to_do}")
    return ". ".join(words)


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


def of_progress(tally: Tally, *, left: int, each: float | None, costs: Costs) -> str:
    """How far a shard is.

    :param tally: of what has ended.
    :param left: pictures that have not ended.
    :param each: seconds that one takes; None: not known yet.
    :param costs: of the calls that have ended, and of those that are known to be under way.
    """
    time_left = "" if each is None else f", about {each * left:,.0f} s"
    return f"{tally.short() or 'nothing has ended yet'}; {left:,} picture(s) to go{time_left}; {of_costs(costs)}"


def of_costs(costs: Costs) -> str:
    """What was paid for certain, and what perhaps."""
    perhaps = costs.perhaps
    unpriced = f", {costs.unpriced:,} of them at an unknown price" if costs.unpriced else ""
    more = f"; perhaps {money(perhaps.money)} for {perhaps.pictures:,} more" if perhaps.pictures else ""
    return f"paid: {money(costs.paid)} for {costs.charged:,} picture(s){unpriced}{more}"


def of_shop(root: str, pictures: int, products: int) -> str:
    """What the shop shows."""
    return f"Published: {root} shows {pictures:,} picture(s) of {products:,} product(s)"


def of_to_do(words: Iterable[tuple[str, str, str]], root: str) -> list[str]:
    """What a person does, a line for each thing to be done.

    :param words: what became of products or what a plan says of them, why, and the SKU of one; good ones are left out.
    :param root: the catalogue.
    """
    found: dict[str, tuple[dict[str, None], str]] = {}
    for outcome, reason, sku in words:
        if outcome not in WITH_PICTURES:
            names, _ = found.setdefault(_TO_DO.get(reason or outcome, _AGAIN), ({}, sku))
            names[_name(outcome, reason)] = None
    if not found:
        return []
    to_do = (f"  {', '.join(names)}: {what.format(root=root, sku=sku)}" for what, (names, sku) in found.items())
    return ["what to do:", *to_do]


def _name(outcome: str, reason: str) -> str:
    return f"{outcome} ({reason})" if reason not in ("", outcome) else outcome


@dataclass(eq=False)
class _Kind:
    """Products that came to one end for one reason: how many, some of their SKUs, what the first was told."""

    count: int = 0
    skus: list[str] = field(default_factory=list)
    message: str = ""


@dataclass
class Tally:
    """Products by what became of them, the good ones first; the others by reason, with SKUs and an example."""

    kinds: dict[tuple[str, str, str], _Kind] = field(default_factory=dict)

    def add(self, results: Iterable[Result]) -> None:
        """Count them."""
        for result in results:
            kind = self._kind(result.outcome, result.reason or "", result.error or "")
            kind.count += 1
            if len(kind.skus) < EXAMPLES:
                kind.skus.append(result.sku)
                kind.message = kind.message or result.error or ""

    def add_unchanged(self, count: int) -> None:
        """Count products of which nothing else is to be said."""
        if count:
            self._kind("unchanged").count += count

    def _kind(self, outcome: str, reason: str = "", message: str = "") -> _Kind:
        """Messages that differ in names and numbers alone are one reason."""
        why = (reason, re.sub(r"'[^']*'|\S*[\d/]\S*", "", message)) if outcome not in WITH_PICTURES else ("", "")
        if (outcome, *why) not in self.kinds and len(self.kinds) >= KINDS:
            why = (reason, "")
        return self.kinds.setdefault((outcome, *why), _Kind())

    def _sorted(self) -> list[tuple[str, str, _Kind]]:
        found = [(outcome, reason, kind) for (outcome, reason, _), kind in self.kinds.items()]
        return sorted(found, key=lambda it: (_ORDER.index(it[0]), -it[2].count))

    def counts(self) -> dict[str, int]:
        """Products by what became of them."""
        counts: dict[str, int] = {}
        for outcome, _, kind in self._sorted():
            counts[outcome] = counts.get(outcome, 0) + kind.count
        return counts

    def short(self) -> str:
        """Counts alone: ``93 bought, 2 failed``."""
        return ", ".join(f"{count:,} {outcome}" for outcome, count in self.counts().items())

    def to_do(self, root: str) -> list[str]:
        """What is to be done, a line each. :param root: the catalogue."""
        words = ((outcome, reason, kind.skus[0] if kind.skus else "") for outcome, reason, kind in self._sorted())
        return of_to_do(words, root)

    def told(self, root: str) -> str:
        """The table, and what is to be done. :param root: the catalogue."""
        return "\n".join([str(self), *self.to_do(root)])

    def __str__(self) -> str:
        found = self._sorted()
        # Of everything that happened its most frequent reason, and then what else hit most.
        often = sorted(found, key=lambda it: -it[2].count)
        first = {(outcome, reason): kind for outcome, reason, kind in reversed(often)}
        ranked = sorted(often, key=lambda it: first[it[0], it[1]] is not it[2])
        rest = [kind for _, _, kind in ranked[ROWS - 1 :]] if len(found) > ROWS else []
        lines = [_row(*it) for it in found if it[2] not in rest]
        if rest:
            names = [sku for kind in rest for sku in kind.skus]
            more = ", …" if len(names) > 2 * EXAMPLES else ""
            lines.append(
                f"{sum(kind.count for kind in rest):>9,}  more, for {len(rest)} other reasons: "
                f"{', '.join(names[: 2 * EXAMPLES])}{more}"
            )
        return "\n".join(lines)


def _row(outcome: str, reason: str, kind: _Kind) -> str:
    line = f"{kind.count:>9,}  {_name(outcome, reason)}"
    if outcome in WITH_PICTURES:
        return line
    message = kind.message if len(kind.message) <= MESSAGE else kind.message[: MESSAGE - 1] + "…"
    others = f"; and {', '.join(kind.skus[1:])}{', …' if kind.count > EXAMPLES else ''}" if kind.skus[1:] else ""
    return f"{line}: {kind.skus[0]}: {message}{others}"
