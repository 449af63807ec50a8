"""The promises, judged: pure functions over the evidence.

A product's charges by a vendor are compared with its calls to that vendor: what is booked as paid was charged, and what
was charged is booked as paid, or declared as perhaps paid. What nobody could have known or saved is counted apart, and
told: the vendors' own doing (their log says which request they spoilt), and requests that were under way when their
worker was ended.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from decimal import Decimal

from airflow_provider_bgai.buying.record import PAID, Call
from benchmarks.chaos.accidents import SILENT, SPOILT, VENDORS
from benchmarks.chaos.evidence import Evidence

PRICE = Decimal("0.05")
"""USD, of every picture."""
FALSE_ALARMS = 0.10
"""Of the calls that are declared unknown, so many may never have been charged."""
WASTE = 0.01
"""Of the pictures charged, so many may neither be published nor spoilt by a vendor or cut off."""
A_FEW = 5
"""So many are no share of anything yet: in a small run."""
UNDER_WAY = (-2.0, 4.0)
"""Seconds from ``sent_at`` within which a request is under way: the vendor's, the way to S3, the clock's step."""

PICTURED = ("bought", "reused")


@dataclass
class Promise:
    """What is promised, and how it was broken."""

    name: str
    says: str
    broken: list[str] = field(default_factory=list)


@dataclass
class Sums:
    """What the run came to, in pictures."""

    charged: Counter[str] = field(default_factory=Counter)
    paid: Counter[str] = field(default_factory=Counter)
    doubtful: Counter[str] = field(default_factory=Counter)
    """Charged, and declared as perhaps paid."""
    unknown: int = 0
    uncharged: int = 0
    """Unknown and never charged; ``silent`` of them because the vendor did not say so."""
    silent: int = 0
    landed: int = 0
    wasted: int = 0
    """Charged and not published; ``spoilt`` of them by a vendor, ``cut_off`` by an end from outside."""
    spoilt: int = 0
    cut_off: int = 0
    undeclared: int = 0

    @property
    def false_alarms(self) -> int:
        return self.uncharged - self.silent

    @property
    def waste(self) -> int:
        return self.wasted - self.spoilt - self.cut_off


@dataclass
class Verdict:
    """The sums, and the promises."""

    evidence: Evidence
    sums: Sums
    promises: list[Promise]

    @property
    def broken(self) -> dict[str, list[str]]:
        """The broken promises: what is wrong, by name."""
        return {promise.name: promise.broken for promise in self.promises if promise.broken}

    def table(self) -> str:
        """What the user sees."""
        evidence, sums = self.evidence, self.sums
        total, kinds = sums.charged.total(), Counter(cut.kind for cut in evidence.cuts)
        rows = {
            "products": f"{len(evidence.prompts)}, of which {sums.landed} landed",
            "workers started / ended from outside": f"{evidence.starts} / {len(evidence.cuts)} ({_listed(kinds)})",
            "seconds": f"{evidence.seconds:.0f}",
            **{
                f"night {number}": _listed(Counter(result.outcome for result in results))
                for number, results in enumerate(evidence.nights, start=1)
            },
            **{
                f"{vendor}: charged / paid + doubtful": f"{sums.charged[vendor]} / "
                f"{sums.paid[vendor]} + {sums.doubtful[vendor]}"
                for vendor in VENDORS
            },
            "paid, as the cost report says": f"{evidence.told[1]} USD for {evidence.told[0]} pictures",
            "charged and not declared": f"{sums.undeclared}",
            "declared unknown": f"{sums.unknown}, of which {sums.uncharged} never charged",
            "  by the vendors' silence / false alarms": f"{sums.silent} / {sums.false_alarms}",
            "charged and not published": f"{sums.wasted} of {total}",
            "  spoilt by vendors / cut off / waste": f"{sums.spoilt} / {sums.cut_off} / {sums.waste}",
            "nights with a cap: charged of cap": ", ".join(f"{spent} of {cap}" for cap, spent in evidence.capped),
            "samples of the bounds": f"{len(evidence.samples)}",
            "S3 requests a picture": f"{evidence.requests / max(1, sums.landed):.1f}",
        }
        return "\n".join([*(f"{name:42}{value}" for name, value in rows.items()), *self.told()])

    def told(self) -> list[str]:
        """The promises, in lines."""
        lines = []
        for promise in self.promises:
            lines.append(f"{promise.name:42}{'BROKEN' if promise.broken else 'kept'}: {promise.says}")
            lines += [f"    {problem}" for problem in promise.broken[:10]]
        return lines


def _listed(counts: Counter[str]) -> str:
    return ", ".join(f"{count} {name}" for name, count in sorted(counts.items())) or "none"


def judge(evidence: Evidence) -> Verdict:
    """All promises."""
    sums = add_up(evidence)
    promises = [
        Promise(name, says, list(check(evidence, sums)))
        for name, says, check in (
            ("nothing lost", "landed, or reported with a reason; paid and lost by vendors' faults only", nothing_lost),
            ("no undeclared charge", "every charge is a call's that is paid or declared as perhaps paid", declared),
            ("books are the bill", "by vendor: paid, and of the doubtful what was charged", books_are_the_bill),
            ("bounds at every moment", "paid <= counter <= paid + perhaps", bounds_hold),
            ("caps kept", "charged <= cap", caps_kept),
            ("few false alarms", f"unknown and never charged: <= {FALSE_ALARMS:.0%} of the unknown", few_false_alarms),
            ("little waste", f"charged and not published: <= {WASTE:.0%} of the charged", little_waste),
            ("the chaos took place", "workers were ended as often as asked, and no other way", took_place),
        )
    ]
    return Verdict(evidence, sums, promises)


# --- adding up


def _by_product(calls: Iterable[Call]) -> dict[tuple[str, str], list[Call]]:
    found: dict[tuple[str, str], list[Call]] = defaultdict(list)
    for call in calls:
        found[call.sku, call.vendor].append(call)
    return found


def _struck(evidence: Evidence, names: frozenset[str], kinds: tuple[str, ...]) -> Counter[tuple[str, str]]:
    """How often a product's requests to a vendor were struck by one of these faults."""
    products = {prompt: sku for sku, prompt in evidence.prompts.items()}
    products |= {call.task_id: call.sku for call in evidence.calls if call.task_id}
    return Counter(
        (products[strike.of], strike.vendor)
        for strike in evidence.strikes
        if strike.name in names and strike.kind in kinds and strike.of in products
    )


def landed(evidence: Evidence) -> set[str]:
    """The products that have whole pictures in S3."""
    return {
        call.sku
        for call in evidence.calls
        if call.state == "landed" and call.images and all(image.uri in evidence.there for image in call.images)
    }


def was_under_way(call: Call, evidence: Evidence) -> bool:
    """Whether a call's request was under way when its worker was ended."""
    first, last = UNDER_WAY
    return any(cut.worker == call.worker and first <= cut.at - call.sent_at <= last for cut in evidence.cuts)


def add_up(evidence: Evidence) -> Sums:
    """The sums over all products and vendors."""
    sums, calls = Sums(), _by_product(evidence.calls)
    charged = Counter((charge.product, charge.vendor) for charge in evidence.charges if charge.product)
    silent, spoilt = _struck(evidence, SILENT, ("submit",)), _struck(evidence, SPOILT, ("submit", "download"))
    have = landed(evidence)
    sums.landed = len(have)
    sums.charged = Counter(charge.vendor for charge in evidence.charges)
    wasted: Counter[str] = Counter(sku for sku, _ in charged.elements() if sku)
    wasted.subtract(have)
    for sku, vendor in {*calls, *((sku, vendor) for sku, vendor in charged if sku)}:
        mine = calls[sku, vendor]
        paid = sum(call.pictures for call in mine if call.state in PAID)
        unknown = [call for call in mine if call.state == "unknown"]
        pending = sum(call.pictures for call in mine if call.state in ("sent", "answered"))
        doubtful = max(0, charged[sku, vendor] - paid)
        lately = max(0, doubtful - pending)
        uncharged = max(0, len(unknown) - lately)
        sums.paid[vendor] += paid
        sums.doubtful[vendor] += min(doubtful, pending + len(unknown))
        sums.undeclared += max(0, lately - len(unknown))
        sums.unknown += len(unknown)
        sums.uncharged += uncharged
        sums.silent += min(uncharged, silent[sku, vendor])
        lost = min(max(0, wasted[sku]), spoilt[sku, vendor])
        sums.spoilt += lost
        wasted[sku] -= lost
        cut_off = min(max(0, wasted[sku]), len(unknown) - uncharged, sum(was_under_way(it, evidence) for it in unknown))
        sums.cut_off += cut_off
        wasted[sku] -= cut_off
    sums.wasted = sum(max(0, count) for count in wasted.values()) + sums.spoilt + sums.cut_off
    return sums


# --- the promises: what is wrong, in words


def nothing_lost(evidence: Evidence, sums: Sums) -> Iterable[str]:
    have = landed(evidence)
    for number, results in enumerate(evidence.nights, start=1):
        told = Counter(result.sku for result in results)
        yield from (
            f"night {number}: {sku} is reported {told[sku]} times" for sku in evidence.prompts if told[sku] != 1
        )
        silent = [it.sku for it in results if it.outcome not in PICTURED and not it.reason]
        yield from (f"night {number}: {sku} failed without a reason" for sku in silent)
        gone = [it.sku for it in results if it.outcome in PICTURED and it.sku not in have]
        yield from (f"night {number}: {sku} is reported with a picture, and has none" for sku in gone)
    for call in evidence.calls:
        if call.state == "landed" and not all(image.uri in evidence.there for image in call.images):
            yield f"{call.sku}: {call.what} has landed, and its picture is not in S3"
    spoilt = _struck(evidence, SPOILT, ("submit", "download"))
    lost = Counter((call.sku, call.vendor) for call in evidence.calls if call.state == "lost")
    for name, count in lost.items():
        if count > spoilt[name]:
            yield f"{name}: {count} paid and lost, {spoilt[name]} spoilt by the vendor"


def declared(evidence: Evidence, sums: Sums) -> Iterable[str]:
    calls, charged = _by_product(evidence.calls), Counter((it.product, it.vendor) for it in evidence.charges)
    for (sku, vendor), count in charged.items():
        if sku is None:
            yield f"{count} charges of {vendor} are for no product"
            continue
        states = Counter(call.state for call in calls[sku, vendor])
        if count > states.total() - states["failed"]:
            told = _listed(Counter(map(str, states.elements())))
            yield f"{sku}: {count} charges by {vendor}, and its calls are {told}"


def books_are_the_bill(evidence: Evidence, sums: Sums) -> Iterable[str]:
    yield from (f"{call.sku}: {call.what} stands neither in the books nor in open/" for call in evidence.forgotten)
    for vendor in VENDORS:
        charged, paid, doubtful = sums.charged[vendor], sums.paid[vendor], sums.doubtful[vendor]
        if charged != paid + doubtful:
            yield f"{vendor} has charged {charged}; the books say {paid}, and {doubtful} in doubt were charged"
    pictures, money = evidence.told
    if (pictures, money) != (sums.paid.total(), PRICE * sums.paid.total()):
        yield f"the cost report tells of {money} USD for {pictures} pictures, {sums.paid.total()} are paid"


def bounds_hold(evidence: Evidence, sums: Sums) -> Iterable[str]:
    for number, sample in enumerate(evidence.samples, start=1):
        for vendor in VENDORS:
            counter, nothing = sample.bill[vendor], (0, 0)
            paid, most = sample.before.get(vendor, nothing)[0], sum(sample.after.get(vendor, nothing))
            if not paid <= counter <= most:
                yield f"sample {number}: {vendor} has charged {counter}, the ledger says {paid} to {most}"


def caps_kept(evidence: Evidence, sums: Sums) -> Iterable[str]:
    for cap, spent in evidence.capped:
        if spent > cap:
            yield f"{spent} pictures were charged in a night with a cap of {cap}"


def few_false_alarms(evidence: Evidence, sums: Sums) -> Iterable[str]:
    declared = sums.unknown - sums.silent
    if sums.false_alarms > max(A_FEW, FALSE_ALARMS * declared):
        yield f"{sums.false_alarms} of {declared} were never charged"


def little_waste(evidence: Evidence, sums: Sums) -> Iterable[str]:
    if sums.waste > max(A_FEW, WASTE * sums.charged.total()):
        yield f"{sums.waste} of {sums.charged.total()} are neither published, nor spoilt by a vendor, nor cut off"


def took_place(evidence: Evidence, sums: Sums) -> Iterable[str]:
    yield from evidence.problems
    if len(evidence.cuts) < evidence.kills:
        yield f"{len(evidence.cuts)} of {evidence.kills} ends took place: the workers were too fast"


Check = Callable[[Evidence, Sums], Iterable[str]]
