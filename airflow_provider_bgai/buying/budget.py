"""Leave to spend: caps per run, day and month, over all shards, tries, vendors and catalogues of one wallet.

Leave is taken for every paid call, by its ``call_id``, before anything else is written about the call::

    <root>/_bgai/budget/run-<run>             accounts: what each holder may have spent; all holders
    <root>/_bgai/budget/day-2026-11-21        write them, and the sum of the rows never exceeds the cap
    <root>/_bgai/budget/month-2026-11
    <root>/_bgai/budget/taken/<run>/<holder>  a holder's record: which calls it took leave for

A holder is a shard of a run, or a task: all tries of it have the same name. What must stay true:

* A holder's row in an account is at least the sum of its record, whenever somebody could read the two: a row
  is raised before the record grows, and lowered after the record has shrunk. So no race and no kill exceeds a cap.
* Every change replaces the very version that was read (``If-Match``), and no two versions are the same bytes, also
  of two processes of one holder (a worker that was given up, but lives): storage knows its own writes by them.
* To lower a row, its account is read *before* the record is written, and nobody takes without writing the account:
  who took in between has changed one of the two, and the lowering fails.
* Leave is granted once S3 has said that the record holds it. In any doubt an error is raised, and what may be written
  counts: the call is not made.

At worst the budget counts a call that was never made (killed, or S3 failed, after leave was written) until the day,
month or run is over. Rows above the record are lowered when their holder gives back or is refused, and by ``close``.

Days and months are of UTC, on the store's clock; a call counts for the day on which leave was taken. Accounts are kept
only for what has a cap, so all who draw on one wallet state the same caps, in one currency.
"""

from __future__ import annotations

import asyncio
import threading
import uuid
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from decimal import Decimal
from typing import NamedTuple, NoReturn, TypeVar

import tenacity
from pydantic import BaseModel, Field

from airflow_provider_bgai.buying.caps import Cap, Caps
from airflow_provider_bgai.exceptions import BgaiError
from airflow_provider_bgai.layout import Layout, segment
from airflow_provider_bgai.storage import Storage

PATIENCE = 300.0
"""Seconds to keep trying while other holders change the same account."""


class BudgetUnavailableError(BgaiError):
    """An account cannot be changed: too many are at it, or the store's ``If-Match`` never holds. Try again later."""

    reason = "budget"


class _Amount(NamedTuple):
    pictures: int = 0
    money: Decimal = Decimal(0)

    def __add__(self, other: _Amount) -> _Amount:  # type: ignore[override]
        return _Amount(self.pictures + other.pictures, self.money + other.money)

    def __sub__(self, other: _Amount) -> _Amount:
        return _Amount(self.pictures - other.pictures, self.money - other.money)

    def within(self, cap: Cap) -> bool:
        pictures = cap.pictures is None or self.pictures <= cap.pictures
        return pictures and (cap.money is None or self.money <= cap.money)

    def or_more(self, other: _Amount) -> _Amount:
        return _Amount(max(self.pictures, other.pictures), max(self.money, other.money))


class _Versioned(BaseModel):
    """What is stored. ``version`` is random, so that no two versions are the same bytes."""

    version: str = Field(default_factory=lambda: uuid.uuid4().hex)


class _Account(_Versioned):
    """What each holder may have spent of one run, day or month."""

    holders: dict[str, _Amount] = {}

    def total(self) -> _Amount:
        return sum(self.holders.values(), _Amount())

    def row(self, holder: str) -> _Amount:
        return self.holders.get(holder, _Amount())


class _Taken(BaseModel):
    """Leave for one call. ``price`` is of all its pictures; ``day`` is the one it counts for."""

    pictures: int
    price: Decimal | None
    day: str

    def amount(self) -> _Amount:
        return _Amount(self.pictures, self.price or Decimal(0))


class _Record(_Versioned):
    """What a holder took leave for, by ``call_id``."""

    taken: dict[str, _Taken] = {}


@dataclass
class _Change:
    """What somebody waits for: leave for a call, or, with no pictures, to give it back."""

    call_id: str
    pictures: int = 0
    price: Decimal | None = None
    granted: bool = False
    problem: BaseException | None = None
    done: asyncio.Event = field(default_factory=asyncio.Event)


class _BeatenError(Exception):
    """Somebody else wrote first. Read again. Its text is the URI."""


D = TypeVar("D", bound=_Versioned)


class Budget:
    """Leave to spend, for one holder.

    Many calls ask at the same time; all that are waiting are written together, so that 64 in flight need
    about as many writes as one. Use it on one event loop.

    :param storage: S3. What it raises is raised here, and means: no leave.
    :param destination: ``s3://bucket/prefix``: whose budget it is, if the caps name no wallet.
    :param caps: none at all: everything is granted, and S3 is left alone.
    :param run: names the run; unique in its wallet.
    :param holder: names the shard or task within the run, the same for all its tries.
    """

    def __init__(self, storage: Storage, destination: str, caps: Caps, run: str, holder: str) -> None:
        self.storage = storage
        self.caps = caps
        self.run = segment(run)
        self.holder = f"{self.run}/{segment(holder)}"
        self._layout = Layout(caps.root or destination)
        self._limited = caps != Caps()
        self._waiting: list[_Change] = []
        self._writer: asyncio.Task[None] | None = None
        self._writing = threading.Lock()
        self._record: tuple[_Record, str | None] | None = None

    async def take(self, call_id: str, pictures: int, price: Decimal | None) -> bool:
        """Whether so much may be spent on a call. Asked again for the same call, nothing more is counted.

        If this raises or is cancelled, the call must not be made; what is written for it counts until given back.

        :param pictures: that the call asks for, from 1.
        :param price: of all the pictures together.
        :raises InvalidRequestError: if there is a cap in money and the price is not known.
        :raises BudgetUnavailableError: if an account could not be changed for :data:`PATIENCE` seconds.
        """
        self.caps.check_price(price)
        return not self._limited or await self._change(_Change(call_id, pictures, price))

    async def give_back(self, call_id: str) -> None:
        """What was taken for a call was not spent; others may have it. No effect if nothing was taken."""
        if self._limited:
            await self._change(_Change(call_id))

    async def close(self) -> None:
        """Finish writing, and free what an earlier try, killed in the middle, had raised and not recorded."""
        if self._limited:
            while self._writer is not None and not self._writer.done():
                await asyncio.wait([self._writer])
            await asyncio.to_thread(self._settle)

    def left(self) -> tuple[int | None, Decimal | None]:
        """Pictures and money that may still be spent now; None where there is no cap. Blocks, and only reads."""
        accounts = self._accounts(self._today()) if self._limited else {}
        now = [(cap, self._read(name, _Account)[0].total()) for name, cap in accounts.items()]
        pictures = [max(0, cap.pictures - spent.pictures) for cap, spent in now if cap.pictures is not None]
        money = [max(Decimal(0), cap.money - spent.money) for cap, spent in now if cap.money is not None]
        return min(pictures, default=None), min(money, default=None)

    # --- writing, all that is waiting at once ----------------------------------------------------------

    async def _change(self, change: _Change) -> bool:
        self._waiting.append(change)
        if self._writer is None or self._writer.done():
            # A task of its own: who is cancelled while waiting leaves the others their writer.
            self._writer = asyncio.create_task(self._write_waiting())
        await change.done.wait()
        if change.problem is not None:
            raise change.problem
        return change.granted

    async def _write_waiting(self) -> None:
        while self._waiting:
            changes, self._waiting = self._waiting, []
            problem: BaseException | None = None
            try:
                await asyncio.to_thread(self._write, changes)
            except BaseException as error:  # noqa: BLE001 - raised where the changes are waited for, or nobody hears of it
                problem = error
            for change in changes:
                change.problem = problem
                change.done.set()
            if isinstance(problem, asyncio.CancelledError):
                raise problem

    def _write(self, changes: Sequence[_Change]) -> None:
        """Make the changes, in order, as far as the caps allow."""
        with self._writing:
            for attempt in _contended():
                with attempt:
                    uneven = self._try(changes)
        if uneven:
            self._settle(uneven)

    def _try(self, changes: Sequence[_Change]) -> set[str]:
        """Raise the accounts, then write the record. The accounts that may be higher than the record now."""
        record, _ = self._load()
        taken, today = dict(record.taken), self._today()
        uneven: set[str] = set()
        wanted: dict[str, _Taken] = {}
        for change in changes:
            if not change.pictures:
                wanted.pop(change.call_id, None)
                if held := taken.pop(change.call_id, None):
                    uneven |= self._accounts(held.day).keys()
            elif change.call_id not in taken:
                wanted[change.call_id] = _Taken(pictures=change.pictures, price=change.price, day=today)
        if wanted:
            granted = self._raise_all(self._accounts(today), taken, wanted)
            if granted.keys() != wanted.keys():
                uneven |= self._accounts(today).keys()
            taken |= granted
        if taken != record.taken:
            self._store(taken)
        for change in changes:
            change.granted = change.call_id in taken
        return uneven

    def _raise_all(
        self, accounts: Mapping[str, Cap], taken: Mapping[str, _Taken], wanted: Mapping[str, _Taken]
    ) -> Mapping[str, _Taken]:
        """Raise this holder's row in every account by what fits into all of them."""
        found = {name: self._read(name, _Account) for name in accounts}
        for name, cap in accounts.items():
            wanted = _fitting(cap, self._spent(name, found[name][0], taken), wanted)
        for name, cap in accounts.items():
            for attempt in _contended():
                with attempt:
                    account, etag = found.pop(name) if name in found else self._read(name, _Account)
                    wanted = _fitting(cap, self._spent(name, account, taken), wanted)
                    if not wanted:
                        return {}
                    needed = self._sum(name, {**taken, **wanted})
                    row = account.row(self.holder).or_more(needed)
                    # Written even if the row is high enough already: see the third invariant.
                    self._replace(name, account, etag, row)
        return wanted

    def _settle(self, names: Iterable[str] | None = None) -> None:
        """Lower this holder's rows, in today's accounts or in those named, to what its record says."""
        with self._writing:
            names = self._accounts(self._today()) if names is None else names
            for attempt in _contended():
                with attempt:
                    found = {name: self._read(name, _Account) for name in names}
                    record, _ = self._load()
                    rows = {name: account.row(self.holder) for name, (account, _) in found.items()}
                    right = {name: self._sum(name, record.taken) for name in rows}
                    if right == rows:
                        return
                    self._store(record.taken)
                    for name in [name for name in rows if right[name] != rows[name]]:
                        self._replace(name, *found[name], right[name])

    # --- what is stored ----------------------------------------------------------------------------------

    def _today(self) -> str:
        return datetime.fromtimestamp(self.storage.now(), UTC).date().isoformat()

    def _accounts(self, day: str) -> dict[str, Cap]:
        """The accounts that a call of a day counts in, and their caps."""
        caps = {f"run-{self.run}": self.caps.run, f"day-{day}": self.caps.day, f"month-{day[:7]}": self.caps.month}
        return {name: cap for name, cap in caps.items() if cap is not None}

    def _sum(self, name: str, taken: Mapping[str, _Taken]) -> _Amount:
        """What of this holder's calls counts in an account."""
        return sum((it.amount() for it in taken.values() if name in self._accounts(it.day)), _Amount())

    def _spent(self, name: str, account: _Account, taken: Mapping[str, _Taken]) -> _Amount:
        """What all others may have spent, and what this holder has."""
        return account.total() - account.row(self.holder) + self._sum(name, taken)

    def _load(self) -> tuple[_Record, str | None]:
        if self._record is None:
            self._record = self._read(f"taken/{self.holder}", _Record)
        return self._record

    def _store(self, taken: dict[str, _Taken]) -> None:
        """Write the record. :raises _BeatenError: if another process of this holder wrote first."""
        _, etag = self._load()
        record, self._record = _Record(taken=taken), None
        self._record = record, self._put(f"taken/{self.holder}", record, etag)

    def _replace(self, name: str, account: _Account, etag: str | None, row: _Amount) -> None:
        """Write this holder's row into an account. :raises _BeatenError: if somebody else wrote first."""
        holders = {**account.holders, self.holder: row}
        self._put(name, _Account(holders={name: it for name, it in holders.items() if it != _Amount()}), etag)

    def _read(self, name: str, kind: type[D]) -> tuple[D, str | None]:
        """What is stored, and its ETag. Unreadable content raises: it is no leave to spend."""
        try:
            body, etag = self.storage.read_versioned(self._layout.budget(name))
        except FileNotFoundError:
            return kind(), None
        return kind.model_validate_json(body), etag

    def _put(self, name: str, content: _Versioned, etag: str | None) -> str:
        uri, body = self._layout.budget(name), content.model_dump_json().encode()
        written = self.storage.create(uri, body) if etag is None else self.storage.replace(uri, body, etag)
        if written is None:
            raise _BeatenError(uri)
        return written


def _fitting(cap: Cap, spent: _Amount, wanted: Mapping[str, _Taken]) -> dict[str, _Taken]:
    """Those of the wanted calls, in order, that still fit under a cap."""
    fitting = {}
    for call_id, asked in wanted.items():
        if (more := spent + asked.amount()).within(cap):
            fitting[call_id], spent = asked, more
    return fitting


def _contended() -> tenacity.Retrying:
    return tenacity.Retrying(
        retry=tenacity.retry_if_exception_type(_BeatenError),
        wait=tenacity.wait_random_exponential(multiplier=0.02, max=2.0),
        stop=tenacity.stop_after_delay(PATIENCE),
        retry_error_callback=_give_up,
    )


def _give_up(state: tenacity.RetryCallState) -> NoReturn:
    uri = state.outcome and state.outcome.exception()
    raise BudgetUnavailableError(
        f"{uri}: could not be changed for {PATIENCE:.0f} s ({state.attempt_number} tries), and without it nothing is "
        "bought. Either very many tasks draw on this budget: run fewer at once. Or the store's If-Match never holds: "
        "use a store that honours it with the ETag it gave"
    )
