"""What can go wrong, by name: which faults there are, and when each one strikes.

A fault strikes in two ways. Queued (``Faults.queue``), it hits the next matching requests and is gone: for a
test that wants one precise accident. As a rate (``Faults.set_rate``), it hits that share of all matching
requests, drawn from a seeded generator: for a chaos run.
"""

from __future__ import annotations

import math
import random
import threading
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

if TYPE_CHECKING:
    from airflow_provider_bgai.sandbox.vendor import Vendor

Kind = Literal["submit", "poll", "download", "account"]
KINDS: tuple[Kind, ...] = ("submit", "poll", "download", "account")

ANY = frozenset(KINDS)
SUBMIT: frozenset[Kind] = frozenset({"submit"})
POLL: frozenset[Kind] = frozenset({"poll"})
DOWNLOAD: frozenset[Kind] = frozenset({"download"})
_API: frozenset[Kind] = frozenset({"submit", "poll", "account"})


class Hit(NamedTuple):
    """What a fault can hit.

    :param kinds: the kinds of request, of those that a vendor has; None: the one that brings the picture.
    :param charged: whether a submission that it hits is on the bill. Other requests never cost anything.
    """

    kinds: frozenset[Kind] | None
    charged: bool = False


# These every vendor can suffer, for `accidents` makes them; a vendor's own are in its class (`Vendor.own_faults`).
COMMON: dict[str, Hit] = {
    # Answered before any work; nothing charged.
    "rate_limited": Hit(ANY),  # 429 without Retry-After, as vendors leave it undocumented
    "rate_limited_retry_after": Hit(ANY),  # 429, Retry-After in seconds
    "rate_limited_retry_after_date": Hit(ANY),  # 429, Retry-After as an HTTP date
    "server_error": Hit(ANY),  # 500
    "bad_gateway": Hit(ANY),  # 502 with a proxy's HTML page
    "unavailable": Hit(ANY),  # 503
    "quota_spent": Hit(SUBMIT),
    "bad_key": Hit(_API),
    "moderation": Hit(SUBMIT),
    "html_200": Hit(ANY),  # an HTML page with status 200
    "drop_before_charge": Hit(ANY),  # the line is cut, no byte answered
    "hang": Hit(ANY),  # never answers, until the client leaves
    # The work is done (and charged, when it is a submit), then the answer is spoiled. A refusal is left as it is.
    "slow": Hit(ANY, charged=True),  # a right answer, ``delay`` seconds late
    "drop_after_charge": Hit(ANY, charged=True),
    "hang_after_charge": Hit(SUBMIT, charged=True),
    "drop_mid_body": Hit(ANY, charged=True),  # headers and half of the body, then the line is cut
    "html_200_after_charge": Hit(SUBMIT, charged=True),
    "server_error_after_charge": Hit(SUBMIT, charged=True),  # 500 in the vendor's own envelope
    "server_error_after_charge_html": Hit(SUBMIT, charged=True),  # 500 with a gateway's HTML page
    "unavailable_after_charge": Hit(SUBMIT, charged=True),  # 503 in the vendor's own envelope
    "unavailable_after_charge_html": Hit(SUBMIT, charged=True),  # 503 with a gateway's HTML page
    "truncated_image": Hit(None, charged=True),  # a whole HTTP message with half a picture in it
    "huge_image": Hit(None, charged=True),  # an endless-looking stream, ``size`` bytes long
    "bomb_image": Hit(None, charged=True),  # a small PNG file of 10,000 x 16,000 px
    "wrong_content_type": Hit(None, charged=True),  # a good picture labelled text/plain
    "redrawn_product": Hit(None, charged=True),  # a whole picture whose product is not the shop's any more
    "blank_image": Hit(None, charged=True),  # a whole picture with nothing in it
}

# For the vendors that make as many pictures as ``Call.made`` says: they bill what they make.
OTHER_COUNTS: dict[str, Hit] = {
    "more_pictures": Hit(SUBMIT, charged=True),  # one more than asked for each source, where there is a slot
    "fewer_pictures": Hit(SUBMIT, charged=True),  # one fewer than asked for each source, but never none
}

Table = Mapping[str, Mapping[str, tuple[Kind, ...]]]
"""Fault -> vendor -> the kinds of request it can hit there."""


def fault_table(vendors: Iterable[Vendor]) -> Table:
    """What each fault can hit; only vendors that it can hit are in it."""
    table: dict[str, dict[str, tuple[Kind, ...]]] = {}
    for vendor in vendors:
        brings_picture = SUBMIT if vendor.answers == "bytes" else DOWNLOAD
        for name, hit in {**COMMON, **vendor.own_faults}.items():
            kinds = brings_picture if hit.kinds is None else hit.kinds
            if struck := tuple(kind for kind in vendor.kinds if kind in kinds):
                table.setdefault(name, {})[vendor.name] = struck
    return table


def charged_faults(vendors: Iterable[Vendor]) -> frozenset[str]:
    """The faults whose submissions are on the bill; those that others hit are not."""
    hits = [*COMMON.items(), *(item for vendor in vendors for item in vendor.own_faults.items())]
    return frozenset(name for name, hit in hits if hit.charged)


@dataclass(frozen=True, slots=True)
class Fault:
    """One accident.

    :param name: one of ``COMMON``, or of a vendor's own.
    :param retry_after: seconds, for the ``rate_limited_retry_after*`` faults.
    :param delay: seconds, for ``slow``.
    :param size: bytes, for ``huge_image``.
    :param word: what the vendor says, for its own faults that are about words; by default the vendor's file has some.

    A value that is no number from 0 up, or no text, is a ValueError.
    """

    name: str
    retry_after: float = 1
    delay: float = 2
    size: int = 256 * 1024 * 1024
    word: str = ""

    def __post_init__(self) -> None:
        for name, kinds in {"retry_after": (int, float), "delay": (int, float), "size": (int,)}.items():
            value = getattr(self, name)
            if not isinstance(value, kinds) or isinstance(value, bool) or not 0 <= value < math.inf:
                raise ValueError(f"{name} of fault {self.name!r} must be a number from 0 up, not {value!r}")
        if not isinstance(self.word, str):
            raise ValueError(f"word of fault {self.name!r} must be text, not {self.word!r}")


class Faults:
    """The queued faults and the rates, for all vendors. Thread-safe.

    :param table: see :func:`fault_table`.
    :param seed: feeds the dice.
    """

    def __init__(self, table: Table, seed: int = 0) -> None:
        self._table = table
        self._random = random.Random(seed)
        self._lock = threading.Lock()
        self._queues: dict[tuple[str, str], list[Fault]] = {}
        self._rates: dict[tuple[str, str], dict[str, tuple[float, Fault]]] = {}

    def kinds_hit(self, vendor: str, name: str) -> tuple[Kind, ...]:
        """The kinds of request of ``vendor`` that fault ``name`` can hit; ValueError where it makes no sense."""
        if name not in self._table:
            raise ValueError(f"unknown fault {name!r}; there are: {', '.join(sorted(self._table))}")
        vendors = list(dict.fromkeys(each for hit in self._table.values() for each in hit))
        if vendor not in vendors:
            raise ValueError(f"unknown vendor {vendor!r}; there are: {', '.join(vendors)}")
        if vendor not in self._table[name]:
            raise ValueError(f"fault {name!r} makes no sense for {vendor}")
        return self._table[name][vendor]

    def queue(self, vendor: str, fault: Fault, *, times: int = 1, on: str | None = None) -> None:
        """Let ``fault`` hit the next ``times`` requests of kind ``on`` (by default its first kind)."""
        kinds = self.kinds_hit(vendor, fault.name)
        if on is not None and on not in kinds:
            raise ValueError(f"fault {fault.name!r} of {vendor} can hit {', '.join(kinds)}, not {on!r}")
        if times < 1:
            raise ValueError(f"a fault is queued at least once, not {times} times")
        with self._lock:
            self._queues.setdefault((vendor, on or kinds[0]), []).extend([fault] * times)

    def set_rate(self, spec: str, rate: float, **details: Any) -> None:
        """Let a fault hit a share of requests: ``[vendor.]name[@kind]``.

        Without a vendor it is every vendor, and without a kind every kind, where the fault makes sense.
        ``details`` are those of ``Fault``.
        """
        if not 0 <= rate <= 1:
            raise ValueError(f"the rate of fault {spec!r} must lie between 0 and 1, not {rate}")
        path, _, on = spec.partition("@")
        vendor, _, name = path.rpartition(".")
        targets = [
            (each, kind)
            for each in ([vendor] if vendor else self._table.get(name, {}))
            for kind in self.kinds_hit(each, name)
            if on in ("", kind)
        ]
        if not targets:
            raise ValueError(f"fault rate {spec!r} matches no request; faults: {', '.join(sorted(self._table))}")
        fault = Fault(name, **details)
        with self._lock:
            for target in targets:
                self._rates.setdefault(target, {})[name] = (rate, fault)

    def draw(self, vendor: str, kind: str) -> Fault | None:
        """The fault for the request that has just come in, if any: queued ones first, in order."""
        with self._lock:
            if queue := self._queues.get((vendor, kind)):
                return queue.pop(0)
            rates = self._rates.get((vendor, kind))
            if not rates:
                return None
            dice = self._random.random()
            for rate, fault in rates.values():
                if dice < rate:
                    return fault
                dice -= rate
            return None

    def clear(self) -> None:
        """Forget queued faults and rates."""
        with self._lock:
            self._queues.clear()
            self._rates.clear()
