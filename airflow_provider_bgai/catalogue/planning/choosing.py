"""The pictures that have not landed, or are wanted all the same: what their last calls say, and which of them fit.

100,000 of them are kept in little memory: numbers in arrays, and of each one's line its place in a spooled file.
"""

from __future__ import annotations

import json
import os
from array import array
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from decimal import Decimal
from typing import IO, TYPE_CHECKING, Any, Literal, NamedTuple

from airflow_provider_bgai.buying.calls import Ledger
from airflow_provider_bgai.buying.decision import Asks, Decision
from airflow_provider_bgai.buying.decisions import refusal
from airflow_provider_bgai.buying.record import Call
from airflow_provider_bgai.catalogue.planning.naming import NamedWish
from airflow_provider_bgai.catalogue.planning.tried import Tried

if TYPE_CHECKING:
    from airflow_provider_bgai.hooks.base import BackgroundHook

Said = Literal["landed", "collect", "failed", "held", "quarantined", "rejected", "given_up"]
"""What a wish's last call says of it."""

LEFT_OUT: Mapping[str, tuple[str, str]] = {
    "held": ("held", "unknown"),
    "quarantined": ("quarantined", "quarantined"),
    "rejected": ("rejected", "rejected"),
    "given_up": ("failed", "given_up"),
}
"""Outcome and reason of what its last call keeps out of the shards."""


class For(NamedTuple):
    """A product that wants a picture: its key in the shop, and what the shop says of it."""

    sku: str
    key: str
    words: dict[str, str]


@dataclass
class Choice:
    """What goes into shards.

    :ivar places: of the chosen candidates, in their order; the other fields are as in ``Plan``.
    """

    places: list[int] = field(default_factory=list)
    calls: int = 0
    pictures: int = 0
    at_most: int = 0
    collect: int = 0
    price: Decimal | None = Decimal(0)


class Candidates:
    """Wishes that may go into shards, by their places.

    :param spool: where their lines are put.
    :ivar priorities: the highest of those who want the picture.
    :ivar said: what the last call of each one says, where there is one.
    :ivar problems: what is wrong with those that are left out.
    :ivar skus: of all of them.
    """

    def __init__(self, spool: IO[bytes], hooks: Sequence[BackgroundHook]) -> None:
        self.spool, self.hooks = spool, hooks
        self.priorities: array[float] = array("d")
        self.said: dict[int, Said] = {}
        self.problems: dict[int, str] = {}
        self.skus: set[str] = set()
        self._lines: array[int] = array("q", [0])  # where each one begins, and the last one ends
        self._written = False  # and not in the file yet
        self._counts: array[int] = array("l")
        self._able: array[int] = array("b")
        self._numbers: array[int] = array("l")  # of the last call; 0: never tried, -1: not known before it is read
        self._names: list[bytes] = []
        self._by_name: dict[bytes, int] = {}
        self._also: dict[int, list[For]] = defaultdict(list)

    def __len__(self) -> int:
        return len(self._names)

    def add(self, wish: NamedWish, line: Mapping[str, Any], number: int, *, landed: bool) -> None:
        """Add a wish, or one more SKU to an equal one.

        :param number: of its last call; 0: it was never tried, -1: nobody knows before its source is read.
        """
        self.skus.add(wish.product.sku)
        place = self._by_name.setdefault(wish.name, len(self))
        if place < len(self):
            self._also[place].append(For(wish.product.sku, wish.key, wish.words))
            self.priorities[place] = max(self.priorities[place], wish.priority)
            return
        self._names.append(wish.name)
        text = json.dumps(line).encode()
        self._lines.append(self._lines[-1] + len(text))
        self.spool.write(text)
        self._written = True
        self.priorities.append(wish.priority)
        self._counts.append(wish.request.count)
        self._able.append(wish.able)
        self._numbers.append(number)
        if landed:
            self.said[place] = "landed"

    def line(self, place: int) -> dict[str, Any]:
        """A candidate's line, as it was added."""
        begins, ends = self._lines[place : place + 2]
        if self._written:
            self.spool.flush()
            self._written = False
        # Not seek and readline: that reads ten times as much, 100,000 times.
        line: dict[str, Any] = json.loads(os.pread(self.spool.fileno(), ends - begins, begins))
        return line

    def products(self, place: int, line: Mapping[str, Any]) -> list[For]:
        """Every product that wants a candidate's picture. :param line: the candidate's."""
        return [For(line["sku"], line["name"], line.get("words", {})), *self._also.get(place, ())]

    def look_back(self, tried: Tried, asks: Asks) -> None:
        """Ask what is to be done about what was tried and has not landed."""
        places = [it for it, number in enumerate(self._numbers) if number > 0 and it not in self.said]
        looked = tried.decide([(self._names[it], self._numbers[it]) for it in places], asks)
        for place, (call, decision) in zip(places, looked, strict=True):
            self.said[place] = _said(call, decision)
            if decision.action in ("held", "rejected", "refuse"):
                self.problems[place] = _problem(tried.ledger, call, decision)

    def choose(self, *, failed_only: bool, limit: int | None, pictures: int | None, money: Decimal | None) -> Choice:
        """Those that go into shards: what is paid for, then what fits, highest priority first.

        :param failed_only: only what failed before, or is to be collected.
        :param limit: at most so many pictures; what is paid for is collected beyond it.
        :param pictures, money: what is left of the budget; None for no cap.
        """
        choice = Choice()
        for place in self._in_order():
            said, count = self.said.get(place), self._counts[place]
            if said in LEFT_OUT or (failed_only and said not in ("failed", "collect")):
                continue
            if said == "collect":
                choice.collect += count
                choice.places.append(place)
                continue
            if limit is not None and count > limit:
                self.problems[place] = "The run's limit has no room for it"
                continue
            if said != "landed":
                price = self.hooks[self._able[place]].cost(count)
                short = "pictures" if pictures is not None and count > pictures else ""
                short = "money" if money is not None and price is not None and price > money else short
                if short:
                    self.problems[place] = f"The budget's {short} left have no room for it"
                    continue
                pictures = None if pictures is None else pictures - count
                money = None if money is None or price is None else money - price
                choice.calls += 1
                choice.pictures += count
                choice.at_most += self._numbers[place] < 0
                choice.price = None if price is None or choice.price is None else choice.price + price
            limit = None if limit is None else limit - count
            choice.places.append(place)
        return choice

    def _in_order(self) -> list[int]:
        return sorted(range(len(self)), key=lambda it: (self.said.get(it) != "collect", -self.priorities[it], it))


def _said(call: Call | None, decision: Decision) -> Said:
    if decision.action == "refuse":
        return "quarantined" if call is not None and call.state == "quarantined" else "given_up"
    said: dict[str, Said] = {"reuse": "landed", "held": "held", "rejected": "rejected", "buy": "failed"}
    return said.get(decision.action, "collect")


def _problem(ledger: Ledger, call: Call | None, decision: Decision) -> str:
    if call is None:
        return "Held: the record of its last call cannot be read, which is no licence to buy"
    return str(refusal(ledger, call, decision.action, decision.until))
