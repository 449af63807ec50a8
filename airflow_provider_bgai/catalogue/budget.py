"""Caps on what is spent per run, day and month, over all shards, tries and vendors.

Leave to spend is asked for before every paid call, and what is granted is written down in S3 before the call::

    <destination>/_bgai/budget/run-<run>             accounts: what each holder may have spent; all holders
    <destination>/_bgai/budget/day-2026-11-21        write them, and the sum of the rows never exceeds the cap
    <destination>/_bgai/budget/month-2026-11
    <destination>/_bgai/budget/taken/<run>/<holder>  a holder's record: which pictures it took leave for

A holder is a shard of a run: all tries of it have the same name. What must stay true:

* A holder's row in an account is at least the sum of its record, whenever somebody could read the two: a row
  is raised before the record grows, and lowered after the record has shrunk. So no race and no kill exceeds a cap.
* Every change replaces the very version that was read (``If-Match``), and every version differs from all
  before it. So even two processes of one holder (a worker that was given up, but lives) do not exceed it.
* To lower a row, its account is read *before* the record is written, and nobody takes without writing the account:
  who took in between has changed one of the two, and the lowering fails.

At worst the budget counts a picture that was not bought: a process was killed between the record and the paid
call. A retry repairs that. It finds the picture in its record and pays nothing more for it, and rows that are
higher than the record are lowered by the next change or by ``close``. If no retry ever comes, the day ends.

Days and months are of UTC; a picture counts for the day on which leave was taken. Accounts are kept only for what
has a cap, so what was bought without one is not counted by a cap that comes later.
"""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from decimal import Decimal
from typing import Annotated, Any, NamedTuple, TypeVar

import tenacity
from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, model_validator

from airflow_provider_bgai.exceptions import InvalidRequestError
from airflow_provider_bgai.storage import Storage

PATIENCE = 300.0
"""Seconds to keep trying while other holders change the same account."""


def _no_bool(value: Any) -> Any:
    if isinstance(value, bool):
        raise ValueError("must be a number")
    return value


class Cap(BaseModel):
    """The most that may be spent: in pictures, in money (the connection's currency), or both."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    pictures: Annotated[int, BeforeValidator(_no_bool), Field(ge=0)] | None = None
    money: Annotated[Decimal, BeforeValidator(_no_bool), Field(ge=0)] | None = None

    @model_validator(mode="after")
    def _says_something(self) -> Cap:
        if self.pictures is None and self.money is None:
            raise ValueError("a cap needs 'pictures', 'money' or both")
        return self


class Caps(BaseModel):
    """A budget as users write it: ``{"day": {"pictures": 500}, "run": {"money": 10}}``."""

    model_config = ConfigDict(frozen=True, extra="forbid", title="budget")

    run: Cap | None = None
    day: Cap | None = None
    month: Cap | None = None

    def check(self, prices: Mapping[str, tuple[Decimal | None, str]]) -> None:
        """Refuse caps in money where prices are unknown or in several currencies.

        :param prices: price per picture and currency, by connection ID.
        :raises InvalidRequestError: naming the cap and the connection.
        """
        capped = self.in_money()
        if capped is None:
            return
        for conn_id, (price, _) in prices.items():
            if price is None:
                raise InvalidRequestError(
                    f"budget {capped}: a cap in money needs price_per_image in the extras of connection {conn_id!r}"
                )
        if len({currency for _, currency in prices.values()}) > 1:
            named = ", ".join(f"{conn_id}: {currency}" for conn_id, (_, currency) in prices.items())
            raise InvalidRequestError(f"budget {capped}: a cap in money needs one currency; there are {named}")

    def in_money(self) -> str | None:
        """A cap in money, as its user wrote it, or None."""
        for name in ("run", "day", "month"):
            cap = getattr(self, name)
            if cap is not None and cap.money is not None:
                return f"{name}.money={cap.money}"
        return None


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

    def or_less(self, other: _Amount) -> _Amount:
        return _Amount(min(self.pictures, other.pictures), min(self.money, other.money))


class _Versioned(BaseModel):
    """``version`` rises with every write, so that no two versions have the same ETag."""

    model_config = ConfigDict(extra="ignore")

    schema_version: int = 1
    version: int = 0


class _Account(_Versioned):
    """What each holder may have spent of one run, day or month."""

    holders: dict[str, _Amount] = {}

    def total(self) -> _Amount:
        return sum(self.holders.values(), _Amount())


class _Taken(BaseModel):
    """Leave for one picture. ``day`` is the one it counts for."""

    model_config = ConfigDict(frozen=True, extra="ignore")

    pictures: int
    price: Decimal | None
    day: str

    def amount(self) -> _Amount:
        return _Amount(self.pictures, self.price or Decimal(0))


class _Record(_Versioned):
    """What a holder took leave for, by fingerprint."""

    taken: dict[str, _Taken] = {}


@dataclass
class _Change:
    """What somebody waits for: leave for a picture, or, with no pictures, to give it back."""

    fingerprint: str
    pictures: int = 0
    price: Decimal | None = None
    granted: bool = False
    done: asyncio.Future[bool] = field(default_factory=lambda: asyncio.get_running_loop().create_future())


class _BeatenError(Exception):
    """Somebody else wrote first. Read again."""


D = TypeVar("D", bound=_Versioned)


class Budget:
    """Leave to spend, for one holder.

    Many pictures ask at the same time; all that are waiting are written together, so that 64 in flight need
    about as many writes as one. Use it on one event loop.

    :param storage: S3.
    :param destination: ``s3://bucket/prefix`` of the catalogue.
    :param caps: none at all: everything is granted, and S3 is left alone.
    :param run: names the run.
    :param holder: names the shard, the same for all its tries.
    :param now: epoch seconds; the clock goes on from there.
    """

    def __init__(self, storage: Storage, destination: str, caps: Caps, run: str, holder: str, now: float) -> None:
        self.storage = storage
        self.caps = caps
        self.run = run
        self.holder = f"{run}/{holder}"
        self._root = f"{destination.rstrip('/')}/_bgai/budget"
        self._clock = now - time.monotonic()
        self._limited = caps != Caps()
        self._waiting: list[_Change] = []
        self._writer: asyncio.Task[None] | None = None
        self._writing = threading.Lock()
        self._record: tuple[_Record, str | None] | None = None

    async def take(self, fingerprint: str, pictures: int, price: Decimal | None) -> bool:
        """Whether so much may be spent on a picture. Asked again for the same picture, nothing more is counted.

        :param price: of all the pictures together.
        :raises InvalidRequestError: if there is a cap in money and the price is not known.
        """
        if not self._limited:
            return True
        capped = self.caps.in_money()
        if price is None and capped is not None:
            raise InvalidRequestError(
                f"budget {capped}: a cap in money needs price_per_image in the extras of the connection"
            )
        return await self._change(_Change(fingerprint, pictures, price))

    async def give_back(self, fingerprint: str) -> None:
        """What was taken for a picture was not spent; others may have it. No effect if nothing was taken."""
        if self._limited:
            await self._change(_Change(fingerprint))

    async def close(self) -> None:
        """Finish writing, and free what an earlier try, killed in the middle, had raised and not recorded."""
        if self._limited:
            while self._writer is not None and not self._writer.done():
                await asyncio.wait([self._writer])
            await asyncio.to_thread(self._settle, self._accounts(self._today()))

    def left(self) -> tuple[int | None, Decimal | None]:
        """Pictures and money that may still be spent now; None where there is no cap. Blocks, and only reads."""
        pictures: list[int] = []
        money: list[Decimal] = []
        for name, cap in self._accounts(self._today()).items():
            spent = self._read(name, _Account)[0].total()
            if cap.pictures is not None:
                pictures.append(max(0, cap.pictures - spent.pictures))
            if cap.money is not None:
                money.append(max(Decimal(0), cap.money - spent.money))
        return min(pictures, default=None), min(money, default=None)

    # --- writing, all that is waiting at once ----------------------------------------------------------

    async def _change(self, change: _Change) -> bool:
        self._waiting.append(change)
        if self._writer is None or self._writer.done():
            self._writer = asyncio.create_task(self._write_waiting())
        # Who is cancelled leaves the others their writer.
        return await asyncio.shield(change.done)

    async def _write_waiting(self) -> None:
        while self._waiting:
            # Of two changes for one picture the second one waits for the next turn.
            turn = {change.fingerprint: change for change in reversed(self._waiting)}
            changes = [change for change in self._waiting if turn[change.fingerprint] is change]
            self._waiting = [change for change in self._waiting if turn[change.fingerprint] is not change]
            problem: Exception | None = None
            try:
                await asyncio.to_thread(self._write, changes)
            except Exception as error:  # noqa: BLE001 - raised where the changes are waited for
                problem = error
            for change in changes:
                if problem is None:
                    change.done.set_result(change.granted)
                else:
                    change.done.set_exception(problem)

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
            held = taken.get(change.fingerprint)
            change.granted = held is not None
            if not change.pictures:
                if held is not None:
                    del taken[change.fingerprint]
                    uneven |= self._accounts(held.day).keys()
                continue
            asked = _Taken(pictures=change.pictures, price=change.price, day=today)
            if held is None:
                wanted[change.fingerprint] = asked
            elif asked.amount().or_more(held.amount()) != held.amount():
                # The same call at another price (a fallback's): nobody knows which was paid, so the dearer counts.
                amount = asked.amount().or_more(held.amount())
                wanted[change.fingerprint] = _Taken(pictures=amount.pictures, price=amount.money, day=held.day)
        if wanted:
            granted = self._raise_all(self._accounts(today), taken, wanted)
            for change in changes:
                if change.fingerprint in wanted:
                    change.granted = change.fingerprint in granted
            if granted.keys() != wanted.keys():
                uneven |= self._accounts(today).keys()
            taken |= granted
        if taken != record.taken:
            self._store(taken)
        return uneven

    def _raise_all(
        self, accounts: Mapping[str, Cap], taken: Mapping[str, _Taken], wanted: Mapping[str, _Taken]
    ) -> Mapping[str, _Taken]:
        """Raise this holder's row in every account by what fits into all of them."""
        found = {name: self._read(name, _Account) for name in accounts}
        for name, cap in accounts.items():
            wanted = _fitting(cap, self._spent(name, found[name][0], taken), taken, wanted)
        for name, cap in accounts.items():
            for attempt in _contended():
                with attempt:
                    account, etag = found[name]
                    wanted = _fitting(cap, self._spent(name, account, taken), taken, wanted)
                    if not wanted:
                        return {}
                    mine = self._sum(name, {**taken, **wanted})
                    row = account.holders.get(self.holder, _Amount()).or_more(mine)
                    # Written even if the row is high enough already: see the third invariant.
                    if not self._replace(name, account, etag, row):
                        found[name] = self._read(name, _Account)
                        raise _BeatenError(name)
        return wanted

    def _settle(self, names: Iterable[str]) -> None:
        """Lower this holder's rows to what its record says."""
        with self._writing:
            for attempt in _contended():
                with attempt:
                    found = {name: self._read(name, _Account) for name in names}
                    record, _ = self._load()
                    high = {}
                    for name, (account, _) in found.items():
                        row = account.holders.get(self.holder, _Amount())
                        lower = row.or_less(self._sum(name, record.taken))
                        if lower != row:
                            high[name] = lower
                    if not high:
                        return
                    self._store(record.taken)
                    for name, row in high.items():
                        if not self._replace(name, *found[name], row):
                            raise _BeatenError(name)

    # --- what is stored ----------------------------------------------------------------------------------

    def _today(self) -> str:
        return datetime.fromtimestamp(self._clock + time.monotonic(), UTC).date().isoformat()

    def _accounts(self, day: str) -> dict[str, Cap]:
        """The accounts that a picture of a day counts in, and their caps."""
        caps = {f"run-{self.run}": self.caps.run, f"day-{day}": self.caps.day, f"month-{day[:7]}": self.caps.month}
        return {name: cap for name, cap in caps.items() if cap is not None}

    def _sum(self, name: str, taken: Mapping[str, _Taken]) -> _Amount:
        """What of this holder's pictures counts in an account."""
        return sum((it.amount() for it in taken.values() if name in self._accounts(it.day)), _Amount())

    def _spent(self, name: str, account: _Account, taken: Mapping[str, _Taken]) -> _Amount:
        """What all others may have spent, and what this holder has."""
        return account.total() - account.holders.get(self.holder, _Amount()) + self._sum(name, taken)

    def _load(self) -> tuple[_Record, str | None]:
        if self._record is None:
            self._record = self._read(f"taken/{self.holder}", _Record)
        return self._record

    def _store(self, taken: dict[str, _Taken]) -> None:
        """Write the record. :raises _BeatenError: if another process of this holder wrote first."""
        before, etag = self._load()
        record, name = _Record(version=before.version + 1, taken=taken), f"taken/{self.holder}"
        self._record = None
        etag = self._put(name, record, etag)
        if etag is None:
            raise _BeatenError(name)
        self._record = record, etag

    def _replace(self, name: str, account: _Account, etag: str | None, row: _Amount) -> bool:
        """Write this holder's row into an account; whether nobody else wrote first."""
        holders = {**account.holders, self.holder: row}
        if row == _Amount():
            del holders[self.holder]
        return self._put(name, _Account(version=account.version + 1, holders=holders), etag) is not None

    def _read(self, name: str, kind: type[D]) -> tuple[D, str | None]:
        """What is stored, and its ETag. Unreadable content raises: it is no leave to spend."""
        try:
            body, etag = self.storage.read_versioned(f"{self._root}/{name}")
        except FileNotFoundError:
            return kind(), None
        return kind.model_validate_json(body), etag

    def _put(self, name: str, content: _Versioned, etag: str | None) -> str | None:
        uri, body = f"{self._root}/{name}", content.model_dump_json().encode()
        return self.storage.create(uri, body) if etag is None else self.storage.replace(uri, body, etag)


def _fitting(cap: Cap, spent: _Amount, taken: Mapping[str, _Taken], wanted: Mapping[str, _Taken]) -> dict[str, _Taken]:
    """Those of the wanted pictures, in order, that still fit under a cap."""
    fitting = {}
    for fingerprint, asked in wanted.items():
        held = taken.get(fingerprint)
        more = spent + asked.amount() - (held.amount() if held else _Amount())
        if more.within(cap):
            fitting[fingerprint], spent = asked, more
    return fitting


def _contended() -> tenacity.Retrying:
    return tenacity.Retrying(
        retry=tenacity.retry_if_exception_type(_BeatenError),
        wait=tenacity.wait_random_exponential(multiplier=0.02, max=1.0),
        stop=tenacity.stop_after_delay(PATIENCE),
        reraise=True,
    )
