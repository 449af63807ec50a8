"""Calls as records, and a ledger in memory that keeps them."""

from __future__ import annotations

import hashlib
from decimal import Decimal
from typing import Any

from airflow_provider_bgai.buying.books import book
from airflow_provider_bgai.buying.calls import Ledger
from airflow_provider_bgai.buying.record import Call
from airflow_provider_bgai.storage import Storage
from tests.buying.support import NOON, MemoryStorage

ROOT = "s3://catalogue/shop"
ANSWER_BY, HELD_UNTIL = NOON + 68, NOON + 72_000


def call(name: object, state: str = "landed", price: str | None = "0.07", **fields: Any) -> Call:
    """A call; another name is another call, of another wish."""
    known = {
        "call_id": hashlib.md5(str(name).encode(), usedforsecurity=False).hexdigest(),
        "fingerprint": hashlib.sha256(str(name).encode()).hexdigest(),
        "number": 1,
        "run": "night-1",
        "owner": "night-1/0000",
        "conn_id": "picwish_default",
        "vendor": "picwish",
        "category": "mugs",
        "sent_at": NOON,
        "answer_by": ANSWER_BY,
        "held_until": HELD_UNTIL,
        "state": state,
        "price": None if price is None else Decimal(price),
    }
    return Call(**(known | fields))  # type: ignore[arg-type]


class Kept:
    """A ledger whose records are put there as a test wants them."""

    def __init__(self, storage: Storage | None = None, root: str = ROOT) -> None:
        self.storage: Any = storage or MemoryStorage()
        self.ledger = Ledger(self.storage, root)
        self.layout = self.ledger.layout

    def record(self, *calls: Call) -> None:
        """Records without markers."""
        for it in calls:
            self.storage.put(self.layout.call(it.fingerprint, it.number), it.body())

    def open(self, *calls: Call) -> None:
        """Records with markers, the marker as it is first written."""
        for it in calls:
            self.ledger.mark(it.model_copy(update={"state": "sent"}))
        self.record(*calls)

    def book(self, run: str, *calls: Call) -> None:
        """Records that were open, and are in the books now."""
        self.open(*calls)
        book(self.ledger, run, calls)

    def marked(self) -> list[str]:
        """The calls in ``open/``."""
        return sorted(item.uri.rpartition(".")[2] for item in self.storage.list(self.layout.open))
