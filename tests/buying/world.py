"""A world that knows what is true: what the vendors charged, what has been written, what nobody may do.

Its processes are the real buyer, walkers and readers, let go one request at a time. Money, answers and time are the
world's; every decision is the package's own.
"""

from __future__ import annotations

import asyncio
import itertools
from collections import Counter
from collections.abc import Awaitable, Callable, Iterable, Iterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from decimal import Decimal
from types import SimpleNamespace
from typing import Any

import pytest
import tenacity

from airflow_provider_bgai.buying import books, collector, payment
from airflow_provider_bgai.buying.books import audit, book, bounds, read_books
from airflow_provider_bgai.buying.buyer import Buyer
from airflow_provider_bgai.buying.calls import Ledger
from airflow_provider_bgai.buying.collector import Collector, settle
from airflow_provider_bgai.buying.decision import Asks, decide
from airflow_provider_bgai.buying.decisions import decide_about, last_of
from airflow_provider_bgai.buying.landing import Landing
from airflow_provider_bgai.buying.purchase import Purchase, Wish
from airflow_provider_bgai.buying.record import ENDS, IN_VAIN, NEXT, PAID, Call, Output, Thumbnails
from airflow_provider_bgai.exceptions import (
    BgaiError,
    LostError,
    PollError,
    RefusedError,
    StoreError,
    UnknownOutcomeError,
    VendorFaultError,
)
from airflow_provider_bgai.imaging.inspect import Inspection
from airflow_provider_bgai.layout import call_of
from airflow_provider_bgai.models import BackgroundRequest, Generation
from airflow_provider_bgai.sources import Source
from airflow_provider_bgai.storage import Storage, store_errors
from tests.buying.stepping import PROCESS, Hurry, OneByOne, Process, must, sleep_at_the_gate
from tests.buying.support import MemoryStorage

HOUR, MONTH = 3600.0, 40 * 86_400.0
WISHES = {name: f"{name:a<64}" for name in ("a", "b")}
VENDORS = ("first", "second")

FREE = {"refused": RefusedError, "fault": VendorFaultError}
CHARGED = ("task", "slow task", "redrawn", "bytes", "links", "answer lost")
OUTCOMES = (*CHARGED, "task that fails", "not charged, answer lost", *FREE)


class Account:
    """A hook to a vendor that does what the test orders."""

    world: World
    result_life = HOUR
    settings = SimpleNamespace(timeout=30.0, currency="USD", allow_private_hosts=False)

    def __init__(self, vendor: str, conn_id: str = "", process: Process | None = None) -> None:
        self.vendor, self.conn_id, self.process = vendor, conn_id or f"{vendor}_default", process
        self.counts: Counter[str] = Counter()

    def model(self, request: BackgroundRequest) -> None:
        return None

    def cost(self, count: int) -> Decimal:
        return Decimal("0.05") * count

    @asynccontextmanager
    async def turn(self) -> Any:
        yield

    async def send(self, outgoing: Any, before: Callable[[], Awaitable[None]]) -> Generation:
        assert self.process is not None
        await before()
        outcome = await asyncio.to_thread(self.process.stop, "send")
        return self.world.sent(self.process, self.vendor, outcome)

    async def wait_for(self, known: Generation, **_: Any) -> Generation:
        assert known.task_id is not None
        return self.world.asked(self.vendor, known.task_id)

    def read_stored(self, body: bytes) -> tuple[bytes, ...]:
        return (body,)

    async def aclose(self) -> None:
        return None


class OnePurchase(Purchase):
    async def outgoing(self, hook: Any) -> tuple[None, Inspection]:
        return None, Inspection(thresholds=None)


@dataclass
class Purse:
    process: Process

    async def take(self, call_id: str, pictures: int, price: Decimal | None) -> bool:
        self.process.call_id = call_id
        self.process.world.leave.add(call_id)
        return True

    async def give_back(self, call_id: str) -> None:
        self.process.world.leave.discard(call_id)


async def land(
    hook: Any,
    generation: Generation,
    storage: Storage,
    call: Call,
    source: bytes | None,
    place: Callable[..., str],
    keep: Callable[..., str],
) -> Landing:
    """Landing without its pixels."""
    (picture,) = (call.call_id.encode(),) if call.task_id else generation.images
    picture = picture if isinstance(picture, bytes) else picture.encode()
    must(picture == call.call_id.encode(), "another call's picture")
    if call.call_id in hook.world.dead:
        raise LostError("The link is gone")
    good = hook.world.outcomes[call.call_id] != "redrawn"
    sha256 = f"{call.call_id:0>64}"
    uri = place(1, 1, sha256, "png", good)
    await asyncio.to_thread(storage.insist, lambda: storage.put(uri, picture), "a picture")
    output = Output(uri=uri, bytes=1, sha256=sha256, width=1, height=1, content_type="image/png")
    landed, quarantined = ((output,), ()) if good else ((), (output,))
    return Landing(landed, quarantined, Thumbnails(), ())


@pytest.fixture(autouse=True, scope="module")
def stepped() -> Iterator[None]:
    numbers = SimpleNamespace(uuid4=lambda: SimpleNamespace(hex=PROCESS.get().world.new_id()))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(asyncio, "sleep", sleep_at_the_gate)
        patch.setattr(tenacity, "time", hurry := Hurry())
        patch.setattr(tenacity.nap, "time", hurry)
        patch.setattr(books, "ThreadPoolExecutor", OneByOne)
        patch.setattr(collector, "AT_ONCE", 1)
        patch.setattr(collector, "land", land)
        patch.setattr(collector, "detached_hook", Account)
        patch.setattr(payment, "uuid", numbers)
        patch.setattr(payment, "boottime", lambda: PROCESS.get().world.clock)
        yield


class World:
    """What the vendor and a patient onlooker know.

    :ivar outcomes: of the calls that were sent; ``charged`` those that are on the vendor's counter.
    :ivar records: what stands in ``calls/``; ``former`` all that ever stood there.
    :ivar meddled: wishes of which a person deleted a record: they may be bought twice, and are declared all the same.
    :ivar unmarked: calls whose marker a person deleted: only an audit finds what is not in the books of these.
    """

    roots = itertools.count()

    def __init__(self, s3: Storage | None = None, bucket: str = "shop") -> None:
        Account.world = self
        self.s3 = s3 or MemoryStorage()
        self.root = f"s3://{bucket}/model-{next(self.roots)}"
        self.ledger = Ledger(self.s3, self.root)
        self.clock = self.s3.now()
        self.processes: list[Process] = []
        self.requests = 0
        self.ids = itertools.count(1)
        self.outcomes: dict[str, str] = {}
        self.charged: dict[str, tuple[str, str]] = {}
        self.sent_at: dict[str, float] = {}
        self.dead: set[str] = set()
        self.leave: set[str] = set()
        self.records: dict[str, Call] = {}
        self.former: dict[str, set[bytes]] = {}
        self.planned: dict[tuple[str, str], bool] = {}
        self.meddled: set[str] = set()
        self.deleted: set[str] = set()
        self.unmarked: set[str] = set()
        self.pictures_gone: set[str] = set()

    def close(self) -> None:
        for process in self.processes:
            process.kill()

    def new_id(self) -> str:
        return f"{next(self.ids):032x}"

    def time_passes(self, seconds: float) -> None:
        self.clock += seconds
        if isinstance(self.s3, MemoryStorage):
            self.s3.clock = self.clock

    def records_of(self, call_id: str) -> list[Call]:
        return [call for call in self.records.values() if call.call_id == call_id]

    def counter(self, vendor: str, calls: Iterable[str]) -> int:
        return sum(self.charged[call_id][1] == vendor for call_id in calls)

    # --- the vendor

    def sent(self, process: Process, vendor: str, outcome: str) -> Generation:
        call_id, wish = process.call_id, process.wish
        assert wish is not None
        must(call_id not in self.outcomes, "sent twice on one leave")
        must(call_id in self.leave, "sent without leave")
        must(bool(self.records_of(call_id)) or wish in self.meddled, "sent without a record")
        self.outcomes[call_id], self.sent_at[call_id] = outcome, self.clock
        if outcome in FREE:
            raise FREE[outcome](outcome)
        if outcome in CHARGED:
            self.charge(call_id, wish, vendor)
        if "lost" in outcome:
            raise UnknownOutcomeError(outcome)
        process.answers.append(call_id)
        picture = call_id.encode()
        if outcome == "bytes":
            return Generation(vendor=vendor, state="succeeded", images=(picture,), answer=picture)
        if outcome == "links":
            return Generation(vendor=vendor, state="succeeded", images=(call_id,))
        return Generation(vendor=vendor, state="pending", task_id=call_id)

    def charge(self, call_id: str, wish: str, vendor: str) -> None:
        """On the counter; a second time for one wish only if the earlier call came to nothing, on record."""
        for other, (other_wish, _) in self.charged.items():
            if other_wish == wish and wish not in self.meddled:
                both = self.records_of(call_id) + self.records_of(other)
                earlier = min(both, key=lambda call: call.number)
                gone = earlier.state == "landed" and earlier.call_id in self.pictures_gone
                must(gone or earlier.state in IN_VAIN, f"paid twice, {earlier.state}")
        self.charged[call_id] = (wish, vendor)

    def asked(self, vendor: str, task_id: str) -> Generation:
        outcome = self.outcomes[task_id]
        if outcome == "slow task" and self.clock < self.sent_at[task_id] + 300:
            raise PollError("still at work")
        known: dict[str, Any] = {"vendor": vendor, "task_id": task_id}
        if outcome == "task that fails":
            return Generation(state="failed", reason="fault", error="failed, for free", **known)
        if task_id in self.dead:
            return Generation(state="failed", reason="lost", error="expired", **known)
        return Generation(state="succeeded", images=("link",), **known)

    def written(self, process: Process, uri: str, body: bytes) -> None:
        """A conditional write has held."""
        if call_of(uri) is None:
            return
        call, before = Call.model_validate_json(body), self.records.get(uri)
        if before is not None and before.body() == body:
            return  # one's own write, known again
        if before is not None:
            must(before.call_id == call.call_id, "another call's record was overwritten")
            must(call.state in NEXT[before.state], f"{before.state} -> {call.state}")
            early = call.state == "unknown" and before.state == "sent" and self.clock < call.answer_by
            must(not early or process.call_id == call.call_id, "given up while its sender may be alive")
        must(body not in self.former.setdefault(uri, set()), "it returned to an earlier content")
        self.former[uri].add(body)
        self.records[uri] = call

    # --- processes

    @property
    def alive(self) -> list[Process]:
        return [process for process in self.processes if process.at is not None]

    def begin(self, wish: str | None, live: Callable[[Process], Any]) -> Process:
        self.processes.append(Process(self, wish, live))
        return self.processes[-1]

    def buys(self, wish: str = "a", run: str = "one", policy: Any = "hold", *, again: bool = False) -> Process:
        """A task, its retry or its twin: what a run was planned with is the same for all its tries."""
        name = WISHES[wish]
        new = self.planned.setdefault((run, wish), not any(it.fingerprint == name for it in self.records.values()))
        request = BackgroundRequest("s3://shop/a.png", "on a table")
        wanted = Wish(request, new=new, again=again, on_unknown_outcome=policy)

        async def buy(process: Process) -> None:
            ledger = Ledger(process.storage, self.root)
            hooks: Any = [Account(vendor, process=process) for vendor in VENDORS]
            work = Buyer(hooks, ledger, run=run, owner=f"{run}/0000", purse=Purse(process))
            try:
                call = await work.begin(OnePurchase(wanted, hooks, Source(b"", "", "a.png"), None, name))
                if call.state == "answered":
                    call = await work.collect(call, timeout=0.0)
                must(call.state in ENDS - {"unknown"}, f"{call.state} is no result")
            finally:
                await asyncio.to_thread(book, ledger, run, work.ended.values())

        return self.begin(wish, lambda process: asyncio.run(buy(process)))

    def walks(self, run: str = "plan") -> Process:
        """Plan or publish: ends, collects and books what is open."""

        async def walk(process: Process) -> None:
            hooks: Any = [Account(vendor, process=process) for vendor in VENDORS]
            await settle(Collector(Ledger(process.storage, self.root), hooks, lambda _: None, run=run), run)

        return self.begin(None, lambda process: asyncio.run(walk(process)))

    def adds_up(self) -> Process:
        def add_up(process: Process) -> None:
            self.check_bounds(Ledger(process.storage, self.root), set(self.charged) - self.unmarked)

        return self.begin(None, add_up)

    def go(self, process: Process, order: str = "go", outcome: str = "task") -> None:
        """Let a process go on to where it stops next.

        :param order: one of :data:`S3_TROUBLE`, for what it asks of S3.
        :param outcome: one of :data:`OUTCOMES`, for what it sends.
        """
        assert process.at is not None, f"it has ended: {process.error!r}"
        self.requests += 1
        process.go(outcome if process.at == "send" and order != "killed before" else order)
        if process.at is None:
            self.ended(process)

    def run(self, process: Process, until: str | None = None, outcome: str = "task", *, steps: int = 200) -> None:
        """Let a process go on until it stops at something, or ends."""
        while process.at not in (None, until) and steps:
            self.go(process, outcome=outcome)
            steps -= 1

    def ended(self, process: Process) -> None:
        """What a process may end with, and that it has dropped no answer."""
        error = process.error
        if process.dead or isinstance(error, (StoreError, *store_errors())):
            return
        if error is not None and not isinstance(error, BgaiError):
            raise AssertionError(str(error)) from error
        for call_id in process.answers:
            kept = any(call.state != "sent" for call in self.records_of(call_id)) or call_id in self.deleted
            assert kept, f"the answer of {call_id} was dropped"

    # --- what is deleted

    def delete(self, what: str, call: Call) -> None:
        """By the vendor (``result``), a person, or a lifecycle rule (``picture``, ``record``, ``marker``)."""
        layout, wish = self.ledger.layout, call.fingerprint[0]
        uri = layout.call(call.fingerprint, call.number)
        if what == "result":
            self.dead.add(call.call_id)
        elif what == "picture":
            self.s3.delete(layout.absolute(call.images[0].uri))
            self.pictures_gone.add(call.call_id)
        elif what == "record":
            self.s3.delete(uri)
            del self.records[uri]
            self.meddled.add(wish)
            self.deleted |= {call.call_id} if call.state != "sent" else set()
        else:
            self.s3.delete(layout.marker(call.fingerprint, call.number, call.call_id))
            self.unmarked.add(call.call_id)

    # --- what is always true

    def check(self) -> None:
        self.check_bounds(self.ledger, set(self.charged) - self.unmarked)
        assert self.leave >= set(self.charged), "a charge without leave"
        for wish in set(WISHES) - self.meddled:
            waiting = [process.call_id for process in self.alive if process.at == "send" and process.wish == wish]
            in_time = [it for it in waiting if self.clock < self.records_of(it)[0].answer_by]
            assert len(in_time) <= 1, "two calls under way for one wish"

    def check_bounds(self, ledger: Ledger, before: set[str]) -> None:
        """:param before: what was charged before somebody began to add up."""
        said = bounds(ledger)
        for vendor in VENDORS:
            paid, perhaps = said.get(vendor, (0, 0))
            assert self.counter(vendor, before) <= paid + perhaps, "charged, and not declared"
            assert paid <= self.counter(vendor, self.charged), "declared as paid, and not charged"

    def a_quiet_night(self, *, connection_gone: bool = False) -> dict[str, Call]:
        """All processes frozen, all time over, one who walks: on a copy, so that they can go on afterwards.

        :returns: the books, by call.
        """
        s3, tonight = MemoryStorage(), self.clock
        for item in list(self.s3.list(self.root)):
            s3.objects[item.uri], s3.times[item.uri] = self.s3.read(item.uri), item.modified
        ledger = Ledger(s3, self.root)
        hooks: Any = [Account(vendor) for vendor in VENDORS[connection_gone:]]
        s3.clock = self.clock = tonight + MONTH
        sent = [call for call in self.records.values() if call.state == "sent"]
        delivered = {call.call_id for call in sent if ledger.delivered(call)}
        for call in sent:
            if ledger.last_number(call.fingerprint) == call.number:
                decide_about(ledger, call.fingerprint, "release")
        # An audit finds what has no marker; of a call with two markers each night settles one.
        for _ in range(2):
            asyncio.run(settle(Collector(ledger, hooks, lambda _: None, run="night"), "night"))
            if self.unmarked:
                audit(ledger)
        self.clock = tonight
        return self.check_the_books(ledger, s3, delivered)

    def check_the_books(self, ledger: Ledger, s3: MemoryStorage, delivered: set[str]) -> dict[str, Call]:
        calls = [ledger.read(*call_of(item.uri)) for item in s3.list(ledger.layout.calls())]  # type: ignore[misc]
        lines = {line.call_id: line for line in read_books(ledger)}
        assert not list(s3.list(ledger.layout.open)), "a marker is never settled"
        for call in calls:
            assert call is not None
            assert call.state in ENDS, f"{call.call_id} stays {call.state} for ever"
            assert call.call_id in lines, f"{call.call_id}, {call.state}, never gets into the books"
            assert lines[call.call_id].state == call.state or self.meddled
        for call_id in self.charged:
            assert call_id in lines, f"{call_id} was charged, and is not declared"
            assert lines[call_id].state in PAID | {"unknown"}
        for line in lines.values():
            # A task that fails for free, and that nobody can ask about any more, is taken for lost.
            unasked = line.state == "lost" and self.outcomes.get(line.call_id) == "task that fails"
            assert line.state not in PAID or line.call_id in self.charged or unasked
            assert line.call_id not in delivered or line.state in PAID, "its bytes were there"
        for name in WISHES.values():
            last = ledger.last(name)
            what = decide(last_of(ledger, last, s3.now()) if last else None, Asks(), s3.now())
            assert what.action in ("buy", "refuse", "reuse"), f"{name[0]} is stuck: {what}"
        return lines
