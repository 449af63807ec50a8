"""Workers that are broken on purpose, one for each promise at least: the judge must see it."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any


@dataclass(frozen=True)
class Control:
    """How a worker is broken, and what shows that.

    :param breaks: the promise it breaks.
    :param rates: of the vendors' faults by which that shows.
    :param kills: in a small run.
    """

    sabotage: Callable[[], None]
    breaks: str
    rates: Mapping[str, float] = field(default_factory=dict)
    kills: int = 1


def _forget_answers() -> None:
    """Three of four answers are dropped before they are written down."""
    from airflow_provider_bgai.buying.payment import Payment
    from airflow_provider_bgai.exceptions import UnknownOutcomeError

    keep, turns = Payment._keep, itertools.count()

    async def forgetful(self: Any, call: Any, generation: Any) -> Any:
        if next(turns) % 4:
            raise UnknownOutcomeError("What was it?")
        return await keep(self, call, generation)

    Payment._keep = forgetful  # type: ignore[method-assign]


def _send_without_record() -> None:
    """Neither marker nor record is written before the bytes go out."""
    from airflow_provider_bgai.buying.calls import Ledger

    Ledger.open = lambda self, call: call  # type: ignore[method-assign]


def _send_again() -> None:
    """What was not answered is sent once more, on the same leave and under the same record."""
    from airflow_provider_bgai.exceptions import UnknownOutcomeError
    from airflow_provider_bgai.hooks.base import BackgroundHook

    send = BackgroundHook.send

    async def stubborn(self: Any, outgoing: Any, before: Any) -> Any:
        try:
            return await send(self, outgoing, before)
        except UnknownOutcomeError:
            return await send(self, outgoing)

    BackgroundHook.send = stubborn  # type: ignore[assignment, method-assign]


def _forget_markers() -> None:
    """No marker is put."""
    from airflow_provider_bgai.buying.calls import Ledger

    Ledger.mark = lambda self, call: None  # type: ignore[method-assign]


def _deny_doubts() -> None:
    """What was not answered is booked as failed, for no money."""
    from airflow_provider_bgai.buying.payment import Payment
    from airflow_provider_bgai.exceptions import VendorFaultError

    def deny(self: Any, call: Any, error: Exception) -> Exception:
        denied = VendorFaultError(f"Surely free: {error}")
        self._fail(call, denied)
        return denied

    Payment._doubt = deny  # type: ignore[method-assign]


def _record_early() -> None:
    """The record is there seconds before the bytes go out, as if the rate were waited for in between."""
    import asyncio

    from airflow_provider_bgai.buying.payment import Payment

    record = Payment._record

    async def late(self: Any, *args: Any) -> Any:
        recorded = await record(self, *args)
        await asyncio.sleep(4.0)
        return recorded

    Payment._record = late  # type: ignore[assignment, method-assign]


def _grant_everything() -> None:
    """The budget says yes."""
    from airflow_provider_bgai.buying.budget import Budget

    async def yes(self: Any, call_id: str, pictures: int, price: Any) -> bool:
        return True

    Budget.take = yes  # type: ignore[method-assign]


def _land_nothing() -> None:
    """What has landed is written down, and nothing is in S3."""
    from airflow_provider_bgai.buying import landing

    landing._put = lambda *_: None


def _keep_no_books() -> None:
    """Markers of calls that have ended are removed, and nothing is written into the books."""
    from airflow_provider_bgai.buying import books

    def forget(ledger: Any, run: str, calls: Any) -> None:
        ledger.storage.delete_all([ledger.layout.marker(it.fingerprint, it.number, it.call_id) for it in calls])

    books.book = forget


_DOUBTS = {"drop_after_charge": 0.25}

CONTROLS = {
    "forgets-answers": Control(_forget_answers, "little waste"),
    "sends-without-record": Control(_send_without_record, "bounds at every moment"),
    "sends-again": Control(_send_again, "no undeclared charge", _DOUBTS),
    "denies-doubts": Control(_deny_doubts, "no undeclared charge", _DOUBTS),
    "forgets-markers": Control(_forget_markers, "bounds at every moment"),
    "keeps-no-books": Control(_keep_no_books, "books are the bill"),
    "records-early": Control(_record_early, "few false alarms", kills=4),
    "grants-everything": Control(_grant_everything, "caps kept"),
    "lands-nothing": Control(_land_nothing, "nothing lost"),
}
