"""Caps that no race, no twin, no kill and no failing S3 exceeds, and that lose nothing for good."""

from __future__ import annotations

import asyncio
import json
import os
import time
from collections.abc import Awaitable, Callable
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime
from decimal import Decimal
from typing import Any

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule
from pydantic import ValidationError

from airflow_provider_bgai.buying import budget as budget_module
from airflow_provider_bgai.buying.budget import Budget, BudgetUnavailableError, Caps
from airflow_provider_bgai.exceptions import InvalidRequestError
from airflow_provider_bgai.storage import Storage
from tests.buying.support import NOON, Killed, MemoryStorage, processes_that_start_fast

DAY = 24 * 3600.0
TEN_CENTS = Decimal("0.10")


@pytest.fixture
def memory() -> MemoryStorage:
    return MemoryStorage()


@pytest.fixture
def budget(memory) -> Callable[..., Budget]:
    def budget(
        caps: dict[str, Any] | None = None, holder: str = "0000", *, run: str = "night", shop: str = "shop"
    ) -> Budget:
        return Budget(memory, f"s3://catalogue/{shop}", Caps.model_validate(caps or {}), run, holder)

    return budget


async def take_all(budget: Budget, count: int, price: Decimal | None = TEN_CENTS, prefix: str = "") -> int:
    """How many of so many calls, asked for all at once, are granted."""
    granted = await asyncio.gather(*(budget.take(f"{prefix}{n}", 1, price) for n in range(count)))
    return sum(granted)


# --- what a cap does ---------------------------------------------------------------------------------


@pytest.mark.parametrize("scope", ["run", "day", "month"])
async def test_a_cap_in_pictures_is_reached_and_not_exceeded(budget, scope):
    purse = budget({scope: {"pictures": 7}})
    assert await take_all(purse, 20) == 7
    assert purse.left() == (0, None)


@pytest.mark.parametrize("scope", ["run", "day", "month"])
async def test_a_cap_in_money_is_exact_to_the_cent(budget, scope):
    purse = budget({scope: {"money": 1}})
    assert await take_all(purse, 20) == 10  # 10 x 0.10 is 1, which floats do not know
    assert purse.left() == (None, Decimal(0))


async def test_the_tightest_cap_decides_and_what_it_refuses_is_counted_nowhere(budget):
    caps = {"run": {"pictures": 50}, "day": {"money": "0.35"}, "month": {"pictures": 40}}
    purse = budget(caps)
    assert await take_all(purse, 20) == 3
    assert purse.left() == (37, Decimal("0.05"))


async def test_pictures_are_granted_in_the_order_they_are_asked_for(budget):
    purse = budget({"day": {"pictures": 3}})
    granted = await asyncio.gather(*(purse.take(str(n), 1, None) for n in range(5)))
    assert granted == [True, True, True, False, False]


async def test_a_call_that_makes_four_pictures_counts_four_or_is_not_granted(budget):
    purse = budget({"day": {"pictures": 5}})
    assert await asyncio.gather(*(purse.take(name, 4, None) for name in "ab")) == [True, False]
    assert await purse.take("c", 1, None)


async def test_runs_share_the_day_and_have_a_cap_of_their_own(budget):
    caps = {"run": {"pictures": 3}, "day": {"pictures": 5}}
    assert await take_all(budget(caps, run="first"), 9, prefix="a") == 3
    assert await take_all(budget(caps, run="second"), 9, prefix="b") == 2


async def test_tomorrow_is_another_day_and_next_month_another_month_on_the_clock_of_the_store(budget, memory):
    caps = {"day": {"pictures": 3}, "month": {"pictures": 5}}
    purse = budget(caps)
    for days, granted in ((0, 3), (1, 2), (2, 0), (10, 3)):
        memory.clock = NOON + days * DAY
        assert await take_all(purse, 9, prefix=f"{days}-") == granted


async def test_the_day_ends_at_midnight_of_utc_also_for_who_is_at_work(budget, memory):
    midnight = datetime(2026, 11, 22, tzinfo=UTC).timestamp()
    memory.clock = midnight - 1
    purse = budget({"day": {"pictures": 1}})
    assert [await purse.take("a", 1, None), await purse.take("b", 1, None)] == [True, False]
    memory.clock = midnight
    assert await purse.take("b", 1, None)


async def test_without_caps_everything_is_granted_and_s3_is_left_alone(budget, memory):
    purse = budget()
    assert await take_all(purse, 100, price=None) == 100
    await purse.give_back("0")
    await purse.close()
    assert purse.left() == (None, None)
    assert memory.calls == 0


async def test_many_who_ask_at_once_need_a_few_writes(budget, memory):
    purse = budget({"run": {"pictures": 500}, "day": {"pictures": 500}, "month": {"pictures": 500}})
    assert await take_all(purse, 64) == 64
    assert memory.calls <= 16


# --- again, and back -----------------------------------------------------------------------------------


async def test_a_call_asked_for_twice_counts_once(budget):
    purse = budget({"day": {"pictures": 2, "money": "0.20"}})
    assert [await purse.take("a", 1, TEN_CENTS) for _ in range(3)] == [True, True, True]
    assert await asyncio.gather(*(purse.take("b", 1, TEN_CENTS) for _ in range(3))) == [True, True, True]
    assert not await purse.take("c", 1, TEN_CENTS)


async def test_what_is_given_back_another_may_have(budget):
    caps = {"run": {"pictures": 9}, "day": {"pictures": 1}, "month": {"money": "0.10"}}
    mine, other = budget(caps), budget(caps, "0001")
    assert await mine.take("a", 1, TEN_CENTS)
    assert not await other.take("b", 1, TEN_CENTS)
    await mine.give_back("a")
    assert await other.take("b", 1, TEN_CENTS)
    assert not await mine.take("a", 1, TEN_CENTS)


async def test_giving_back_twice_or_what_was_never_taken_frees_nothing(budget):
    caps = {"day": {"pictures": 2}}
    mine, other = budget(caps), budget(caps, "0001")
    assert await mine.take("a", 1, None)
    assert await mine.take("b", 1, None)
    for name in ("a", "a", "never"):
        await mine.give_back(name)
    await other.give_back("b")
    assert mine.left() == (1, None)


@pytest.mark.parametrize("call", range(1, 7))
@pytest.mark.parametrize("holder", ["0000", "0001"], ids=["twin", "other"])
async def test_who_takes_while_another_process_gives_back_is_counted_once(budget, memory, holder, call):
    caps = {"run": {"pictures": 9}, "day": {"pictures": 4}}
    mine, meanwhile = budget(caps), budget(caps, holder)
    assert await mine.take("a", 2, None)
    granted = []
    memory.plan(call, lambda: granted.append(asyncio.run(meanwhile.take("b", 1, None))))
    await mine.give_back("a")
    assert granted == [True]
    assert mine.left() == (3, None)
    assert await take_all(budget(caps, "0002"), 9) == 3


@pytest.mark.parametrize("call", range(1, 6))
async def test_who_is_refused_because_another_was_faster_leaves_nothing_counted(budget, memory, call):
    caps = {"run": {"money": 9}, "day": {"pictures": 1}}
    mine, faster = budget(caps), budget(caps, "0001")
    memory.plan(call, lambda: asyncio.run(faster.take("b", 1, TEN_CENTS)))
    assert not await mine.take("a", 1, TEN_CENTS)
    assert mine.left() == (0, Decimal("8.90"))


async def test_taking_and_giving_back_at_once_is_done_in_this_order(budget):
    purse = budget({"day": {"pictures": 1}})
    await asyncio.gather(purse.take("a", 1, None), purse.give_back("a"), purse.take("a", 1, None), purse.give_back("a"))
    assert purse.left() == (1, None)
    assert await purse.take("a", 1, None)
    _, granted, refused = await asyncio.gather(purse.give_back("a"), purse.take("b", 1, None), purse.take("a", 1, None))
    assert (granted, refused) == (True, False)


async def test_who_is_cancelled_takes_no_one_along(budget):
    purse = budget({"day": {"pictures": 10}})
    tasks = [asyncio.create_task(purse.take(str(n), 1, None)) for n in range(5)]
    await asyncio.sleep(0)
    tasks[0].cancel()
    assert await asyncio.gather(*tasks[1:]) == [True] * 4
    with pytest.raises(asyncio.CancelledError):
        await tasks[0]
    assert purse.left() == (5, None)  # nobody heard of the first one's leave, and it counts
    await purse.give_back("0")
    assert purse.left() == (6, None)


# --- wallets -------------------------------------------------------------------------------------------


async def test_two_catalogues_and_a_single_picture_draw_on_one_wallet(budget, memory):
    caps = {"root": "s3://money/wallet/", "run": {"pictures": 4}, "day": {"pictures": 9}, "month": {"money": "0.80"}}
    shoes, bags = budget(caps, run="dag+shoes+night", shop="shoes"), budget(caps, run="dag+bags+night", shop="bags")
    single = budget(caps, "generate", run="dag+single", shop="elsewhere")
    assert await take_all(shoes, 9) == 4
    assert await take_all(bags, 3) == 3  # the call ids are those of the other catalogue
    assert single.left() == (2, Decimal("0.10"))
    assert await take_all(single, 9) == 1
    await shoes.give_back("0")
    assert await take_all(bags, 9) == 4
    assert {uri.split("/_bgai/")[0] for uri in memory.objects} == {"s3://money/wallet"}


async def test_without_a_wallet_every_catalogue_counts_for_itself(budget):
    caps = {"day": {"pictures": 2}}
    assert [await take_all(budget(caps, shop=shop), 9) for shop in ("shoes", "bags")] == [2, 2]


# --- killed, and failing S3 ------------------------------------------------------------------------------


async def test_what_a_killed_try_had_taken_counts_and_its_retry_has_the_rest(budget):
    caps = {"day": {"pictures": 10}}
    assert await take_all(budget(caps), 6) == 6  # and killed: not closed
    assert await take_all(budget(caps), 10, prefix="again-") == 4


@pytest.mark.parametrize("error", [Killed, OSError])
@pytest.mark.parametrize("afterwards", [False, True], ids=["before", "after"])
@pytest.mark.parametrize("call", range(1, 18))
async def test_broken_at_any_line_and_retried_one_call_is_lost_at_most_and_nothing_exceeded(
    budget, memory, call, afterwards, error
):
    """Killed, or S3 did not take it, or took it and the answer was lost."""
    caps = {"run": {"pictures": 20}, "day": {"pictures": 5}, "month": {"money": "0.60"}}
    first, other = budget(caps), budget(caps, "0001")
    assert await other.take("other", 1, TEN_CENTS)

    def fail() -> None:
        raise error("S3 is away")

    memory.plan(call, fail, afterwards=afterwards)
    taking: list[str] = []

    async def spend_and_give_back() -> None:
        for n in range(10):  # one after the other: each is a turn of its own
            taking.append(str(n))
            await first.take(str(n), 1, TEN_CENTS)
            await first.give_back(str(n))

    with pytest.raises(error, match="away"):
        await spend_and_give_back()
    again = budget(caps) if error is Killed else first
    await again.close()
    left = again.left()
    assert left in [(4, Decimal("0.50")), (3, Decimal("0.40"))]
    assert await take_all(again, 10, prefix="new-") == left[0]
    assert await take_all(other, 10, prefix="x") == 0
    await again.give_back(taking[-1])
    assert again.left() == (4 - left[0], Decimal("0.50") - TEN_CENTS * left[0])


@pytest.mark.parametrize("dies", range(1, 7))
@pytest.mark.parametrize("call", range(1, 7))
async def test_a_twin_that_dies_while_the_other_one_takes_more_does_not_make_it_less(budget, memory, call, dies):
    caps = {"run": {"pictures": 9}, "day": {"pictures": 5}}
    mine, twin = budget(caps), budget(caps)

    def die() -> None:
        raise Killed

    def meanwhile() -> None:
        memory.plan(dies, die)
        with pytest.raises(Killed):
            asyncio.run(twin.take("b", 1, None))

    memory.plan(call, meanwhile)
    assert await mine.take("a", 3, None)
    assert await take_all(budget(caps, "0001"), 9) == 2


@pytest.mark.parametrize("afterwards", [False, True], ids=["not stored", "answer lost"])
@pytest.mark.parametrize("call", range(1, 9))
async def test_no_doubt_is_a_leave_and_asked_again_it_is_one_leave(budget, memory, call, afterwards):
    caps = {"run": {"pictures": 9}, "day": {"pictures": 3}, "month": {"money": "0.30"}}
    mine, other = budget(caps), budget(caps, "0001")

    def fail() -> None:
        raise OSError("S3 is away")

    memory.plan(call, fail, afterwards=afterwards)
    answers = await asyncio.gather(*(mine.take(name, 1, TEN_CENTS) for name in "ab"), return_exceptions=True)
    assert [type(answer) for answer in answers] == [OSError, OSError]
    assert await mine.take("a", 1, TEN_CENTS)
    assert await take_all(other, 9) <= 2
    await mine.give_back("b")
    await mine.close()
    assert await take_all(other, 9) == 2
    assert mine.left() == (0, Decimal(0))


class Deaf(MemoryStorage):
    """Of one conditional write the answer is lost; something happens; the client tries it again."""

    happens_then: Callable[[], None]
    number = 0

    def create(self, uri: str, body: bytes, **_: Any) -> str | None:
        return self._tried_again(uri, body, super().create(uri, body))

    def replace(self, uri: str, body: bytes, etag: str, **_: Any) -> str | None:
        return self._tried_again(uri, body, super().replace(uri, body, etag))

    def _tried_again(self, uri: str, body: bytes, written: str | None) -> str | None:
        self.number -= 1
        if self.number != 0:
            return written
        self.happens_then()
        return self._write_if(False, uri, body)


@pytest.mark.parametrize("holder", ["0000", "0001"], ids=["twin", "other"])
@pytest.mark.parametrize("write", range(1, 4))
@pytest.mark.parametrize("earlier", [False, True])
async def test_a_lost_answer_is_known_again_or_asked_again_and_counts_once(write, holder, earlier):
    memory, caps = Deaf(), Caps.model_validate({"run": {"pictures": 9}, "day": {"pictures": 4}})
    mine, meanwhile, last = (Budget(memory, "s3://catalogue/shop", caps, "night", it) for it in ("0000", holder, "2"))
    if earlier:
        assert await mine.take("before", 1, None)
    granted: list[bool] = []
    for happens in (lambda: granted.append(asyncio.run(meanwhile.take("b", 1, None))), lambda: None):
        memory.number, memory.happens_then = write, happens
        granted.append(await mine.take(f"a{len(granted)}", 1, None))
    assert granted == [True, True, True]
    assert await take_all(last, 9) == 1 - earlier
    assert mine.left() == (0, None)


@pytest.mark.parametrize(("broken", "left"), [("day-", 5), ("taken/", 4)])
async def test_if_match_that_never_holds_is_given_up_with_words(budget, memory, monkeypatch, broken, left):
    purse = budget({"day": {"pictures": 5}})
    assert await purse.take("a", 1, None)
    replace = memory.replace
    monkeypatch.setattr(memory, "replace", lambda uri, *args: None if broken in uri else replace(uri, *args))
    monkeypatch.setattr(budget_module, "PATIENCE", 1.0)
    before, started = memory.calls, time.monotonic()
    with pytest.raises(BudgetUnavailableError, match=rf"_bgai/budget/{broken}.* for 1 s .*If-Match") as caught:
        await purse.take("b", 1, None)
    assert (caught.value.paid, caught.value.reason) == ("no", "budget")
    assert 0.9 < time.monotonic() - started < 5
    assert memory.calls - before < 150  # the pauses grow
    with pytest.raises(BudgetUnavailableError):
        await purse.give_back("a")
    monkeypatch.undo()
    assert await take_all(purse, 9) == left  # where the record could be written, "a" is given back


def test_an_account_nobody_can_read_is_no_leave_to_spend(budget, memory):
    memory.objects["s3://catalogue/shop/_bgai/budget/day-2026-11-21"] = b"{torn"
    purse = budget({"day": {"pictures": 5}})
    with pytest.raises(ValidationError):
        asyncio.run(purse.take("a", 1, None))
    with pytest.raises(ValidationError):
        purse.left()


# --- races ---------------------------------------------------------------------------------------------


def race(storage: Storage, destination: str, caps: dict[str, Any], holder: str, wishes: int, prefix: str = "") -> int:
    """One shard: asks for calls, a few at a time, and gives some back on the way."""

    async def run() -> int:
        purse = Budget(storage, destination, Caps.model_validate(caps), "night", holder)
        slots = asyncio.Semaphore(16)

        async def walk(number: int) -> bool:
            async with slots:
                call_id = f"{prefix}{holder}-{number}"
                if number % 7 == 3 and await purse.take(call_id, 1, TEN_CENTS):
                    await purse.give_back(call_id)  # the vendor refused it, and another one is asked
                return await purse.take(f"{call_id}-again", 1, TEN_CENTS)

        try:
            return sum(await asyncio.gather(*(walk(number) for number in range(wishes))))
        finally:
            await purse.close()

    return asyncio.run(run())


def test_of_eight_shards_of_two_catalogues_that_race_for_a_wallet_of_100_exactly_100_are_granted(storage, s3):
    root = f"s3://{s3.bucket}/wallet"
    caps = {"root": root, "run": {"pictures": 1000}, "day": {"pictures": 100}, "month": {"money": 20}}
    with ThreadPoolExecutor(8) as pool:
        shops = [f"s3://{s3.bucket}/{shop}" for shop in ("shoes", "bags")]
        granted = list(pool.map(lambda n: race(storage, shops[n % 2], caps, f"{n:04}", 50), range(8)))
    assert sum(granted) == 100
    left = Budget(storage, root, Caps.model_validate(caps), "night", "plan").left()
    assert left == (0, Decimal(10))


def _race_process(
    connection: str, root: str, caps: dict[str, Any], holder: str, wishes: int, prefix: str, answers: Any
) -> None:
    os.environ["AIRFLOW_CONN_AWS_DEFAULT"] = connection
    answers.put(race(Storage("aws_default"), root, caps, holder, wishes, prefix))


def race_in_processes(s3: Any, root: str, caps: dict[str, Any], holders: list[str], wishes: int) -> list[int]:
    context = processes_that_start_fast()
    answers = context.Queue()
    shards = [
        context.Process(target=_race_process, args=(s3.aws_connection(), root, caps, holder, wishes, f"{n}-", answers))
        for n, holder in enumerate(holders)
    ]
    for shard in shards:
        shard.start()
    granted = [answers.get(timeout=120) for _ in shards]
    for shard in shards:
        shard.join(30)
    return granted


def test_eight_processes_race_for_100_and_exactly_100_are_granted(storage, s3):
    caps, root = {"day": {"pictures": 100}}, f"s3://{s3.bucket}/processes"
    assert sum(race_in_processes(s3, root, caps, [f"{n:04}" for n in range(8)], 50)) == 100
    assert Budget(storage, root, Caps.model_validate(caps), "night", "plan").left() == (0, None)


def test_eight_twins_of_one_shard_never_exceed_and_lose_nothing(storage, s3):
    caps, root = {"day": {"pictures": 40}, "month": {"money": 50}}, f"s3://{s3.bucket}/twins"
    granted = sum(race_in_processes(s3, root, caps, ["0000"] * 8, 10))
    assert granted <= 40
    assert granted + race(storage, root, caps, "0001", 50) == 40
    record = json.loads(storage.read(f"{root}/_bgai/budget/taken/night/0000"))
    assert len(record["taken"]) == granted


class Diary(MemoryStorage):
    """Remembers all bodies that were to be written."""

    def __init__(self) -> None:
        super().__init__()
        self.written: list[bytes] = []

    def _write_if(self, holds: bool, uri: str, body: bytes) -> str | None:
        self.written.append(body)
        return super()._write_if(holds, uri, body)


@pytest.mark.parametrize("call", range(1, 10))
async def test_twins_that_do_the_same_at_the_same_time_never_write_the_same_bytes_and_never_exceed(call):
    memory, caps = Diary(), Caps.model_validate({"run": {"pictures": 9}, "day": {"pictures": 2}})
    mine, twin = (Budget(memory, "s3://catalogue/shop", caps, "night", "0000") for _ in range(2))

    async def live(purse: Budget, name: str) -> int:
        await purse.take("same", 1, None)
        await purse.give_back("same")
        return sum([await purse.take(f"{name}{n}", 1, None) for n in range(2)])

    granted = []
    memory.plan(call, lambda: granted.append(asyncio.run(live(twin, "twin"))))
    granted.append(await live(mine, "mine"))
    assert sum(granted) == 2
    assert len(set(memory.written)) == len(memory.written)


# --- a model -------------------------------------------------------------------------------------------

CAPS = {"run": {"pictures": 6}, "day": {"pictures": 8, "money": "1.00"}, "month": {"pictures": 12, "money": "1.30"}}
LIMITS = {
    "run": (6, Decimal("999")),
    "day": (8, Decimal("1.00")),
    "month": (12, Decimal("1.30")),
}
Key = tuple[str, str, str]
RUNS, HOLDERS = st.sampled_from(["one", "two"]), st.sampled_from(["0000", "0001"])
NAMES = st.sampled_from(["a", "b", "c", "d"])
PICTURES = st.integers(1, 3)
PRICES = st.sampled_from([Decimal("0.07"), Decimal("0.10"), Decimal("0.25")])


class BudgetModel(RuleBasedStateMachine):
    """Shards that take, give back, die and come back, against a plain list of what each may spend.

    ``sure`` is what somebody was told he may spend; ``perhaps`` is what a killed process may have written.
    """

    @initialize()
    def start(self) -> None:
        self.memory = MemoryStorage()
        self.loop = asyncio.new_event_loop()
        self.purses: dict[tuple[str, str], Budget] = {}
        self.sure: dict[Key, tuple[int, Decimal, str]] = {}
        self.perhaps: dict[Key, tuple[int, Decimal, str]] = {}

    def teardown(self) -> None:
        if hasattr(self, "loop"):
            self.loop.run_until_complete(self.loop.shutdown_default_executor())
            self.loop.close()

    def new(self, run: str, holder: str) -> Budget:
        return Budget(self.memory, "s3://catalogue/shop", Caps.model_validate(CAPS), run, holder)

    def purse(self, run: str, holder: str) -> Budget:
        return self.purses.setdefault((run, holder), self.new(run, holder))

    def do(self, what: Awaitable[Any]) -> Any:
        return self.loop.run_until_complete(what)

    @property
    def today(self) -> str:
        return datetime.fromtimestamp(self.memory.clock, UTC).date().isoformat()

    def spent(self, scope: str, run: str, *counted: dict[Key, tuple[int, Decimal, str]]) -> tuple[int, Decimal]:
        all_of_them = {key: value for part in counted for key, value in part.items()}
        ours = [
            value
            for key, value in all_of_them.items()
            if {"run": key[0] == run, "day": value[2] == self.today, "month": value[2][:7] == self.today[:7]}[scope]
        ]
        return sum(value[0] for value in ours), sum((value[1] for value in ours), Decimal(0))

    def fits(self, run: str, pictures: int, price: Decimal, *counted: dict) -> bool:
        for scope, (most_pictures, most_money) in LIMITS.items():
            before = self.spent(scope, run, *counted)
            if before[0] + pictures > most_pictures or before[1] + price > most_money:
                return False
        return True

    @rule(run=RUNS, holder=HOLDERS, name=NAMES, pictures=PICTURES, price=PRICES)
    def take(self, run: str, holder: str, name: str, pictures: int, price: Decimal) -> None:
        key, total = (run, holder, name), price * pictures
        if key in self.sure or key in self.perhaps:
            known = self.sure.get(key) or self.perhaps[key]
            granted = self.do(self.purse(run, holder).take(name, known[0], known[1]))
            assert granted or key in self.perhaps
        else:
            known = (pictures, total, self.today)
            granted = self.do(self.purse(run, holder).take(name, pictures, total))
            if granted:
                assert self.fits(run, pictures, total, self.sure)
            else:
                assert not self.fits(run, pictures, total, self.sure, self.perhaps)
        self.perhaps.pop(key, None)
        if granted:
            # Counted for the day on which it was written: that of the killed try, or today.
            self.sure.setdefault(key, self._as_counted(key, known))

    def _as_counted(self, key: Key, known: tuple[int, Decimal, str]) -> tuple[int, Decimal, str]:
        taken = self.purse(*key[:2])._load()[0].taken[key[2]]
        return known[0], known[1], taken.day

    @rule(run=RUNS, holder=HOLDERS, name=NAMES)
    def give_back(self, run: str, holder: str, name: str) -> None:
        self.do(self.purse(run, holder).give_back(name))
        self.sure.pop((run, holder, name), None)
        self.perhaps.pop((run, holder, name), None)

    @rule(
        run=RUNS,
        holder=HOLDERS,
        name=NAMES,
        pictures=st.integers(0, 3),
        price=PRICES,
        call=st.integers(1, 14),
        afterwards=st.booleans(),
    )
    def die(self, run, holder, name, pictures, price, call, afterwards) -> None:
        """Killed while taking, or (no pictures) while giving back."""
        key = (run, holder, name)

        def kill() -> None:
            raise Killed

        purse = self.purse(run, holder)
        before = self.sure.get(key) or self.perhaps.get(key)
        self.memory.plan(call, kill, afterwards=afterwards)
        try:
            if pictures and before is None:
                before = (pictures, price * pictures, self.today)
                granted = self.do(purse.take(name, pictures, price * pictures))
                if granted:
                    assert self.fits(run, pictures, price * pictures, self.sure)
                    self.sure[key] = before
            elif not pictures:
                self.do(purse.give_back(name))
                self.sure.pop(key, None)
                self.perhaps.pop(key, None)
        except Killed:
            if before is not None:
                self.sure.pop(key, None)
                self.perhaps[key] = before
        self.memory.at = None
        self.purses.pop((run, holder))

    @rule(run=RUNS, holder=HOLDERS, call=st.integers(1, 8), other=HOLDERS, pictures=PICTURES, price=PRICES)
    def two_at_once(self, run, holder, call, other, pictures, price) -> None:
        """In the middle of one, another one, of the same or of another shard: all that they were told is true."""
        names = [f"race-{self.memory.calls}-{n}" for n in range(2)]
        total = price * pictures
        told: dict[Key, bool] = {}

        def meanwhile() -> None:
            twin = self.new(run, other)
            told[run, other, names[1]] = asyncio.run(twin.take(names[1], pictures, total))

        first = self.purse(run, holder)
        self.memory.plan(call, meanwhile)
        told[run, holder, names[0]] = self.do(first.take(names[0], pictures, total))
        self.memory.at = None
        self.sure |= {key: (pictures, total, self.today) for key, granted in told.items() if granted}

    @rule(run=RUNS, holder=HOLDERS, name=NAMES, call=st.integers(1, 10), pictures=PICTURES, price=PRICES)
    def two_of_one_shard(self, run, holder, name, call, pictures, price) -> None:
        """While one process gives back and closes, a second one of the same shard takes."""
        new, told, total = f"twin-{self.memory.calls}", [], price * pictures

        def meanwhile() -> None:
            told.append(asyncio.run(self.new(run, holder).take(new, pictures, total)))

        purse = self.purse(run, holder)
        self.memory.plan(call, meanwhile)
        self.do(purse.give_back(name))
        self.do(purse.close())
        self.memory.at = None
        self.sure.pop((run, holder, name), None)
        self.perhaps.pop((run, holder, name), None)
        if told == [True]:
            self.sure[run, holder, new] = (pictures, total, self.today)

    @rule(run=RUNS, holder=HOLDERS)
    def close(self, run: str, holder: str) -> None:
        self.do(self.purse(run, holder).close())
        self.purses.pop((run, holder))

    @rule()
    def sleep(self) -> None:
        self.memory.clock += DAY
        self.purses.clear()  # the night's tasks are over

    @rule()
    def retry_all(self) -> None:
        """Every shard that was killed comes back, knows nothing, and finds everything."""
        for run, holder, name in list(self.perhaps):
            self.give_back(run, holder, name)
        for run in ("one", "two"):
            for holder in ("0000", "0001"):
                self.close(run, holder)
        for run in ("one", "two"):
            pictures, money = zip(*(self.spent(scope, run, self.sure) for scope in LIMITS), strict=True)
            left = self.new(run, "plan").left()
            assert left[0] == min(LIMITS[scope][0] - n for scope, n in zip(LIMITS, pictures, strict=True))
            assert left[1] == min(LIMITS[scope][1] - n for scope, n in zip(LIMITS, money, strict=True))

    @invariant()
    def no_cap_is_exceeded(self) -> None:
        for run in ("one", "two"):
            for scope, (most_pictures, most_money) in LIMITS.items():
                pictures, money = self.spent(scope, run, self.sure)
                assert pictures <= most_pictures
                assert money <= most_money


BudgetModel.TestCase.settings = settings(max_examples=80, stateful_step_count=25)
TestBudgetModel = BudgetModel.TestCase


# --- wrong budgets -----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("wrong", "said"),
    [
        ({"week": {"pictures": 5}}, "week"),
        ({"day": {"picture": 5}}, "day.picture"),
        ({"day": {"pictures": -1}}, "day.pictures"),
        ({"day": {"pictures": 1.5}}, "day.pictures"),
        ({"day": {"pictures": True}}, "day.pictures"),
        ({"day": {"pictures": "many"}}, "day.pictures"),
        ({"run": {"money": "ten"}}, "run.money"),
        ({"run": {"money": -1}}, "run.money"),
        ({"run": {"money": float("nan")}}, "run.money"),
        ({"run": {}}, "'pictures', 'money' or both"),
        ({"run": 10}, "run"),
        ({"root": "s3://money/wallet"}, "a root needs a cap"),
        ({"root": "https://money/wallet", "run": {"pictures": 1}}, "must be an S3 URI"),
        ({"root": "s3://money/../wallet", "run": {"pictures": 1}}, "not allowed in an S3 key"),
        ({"root": "", "run": {"pictures": 1}}, "must be an S3 URI"),
    ],
)
def test_a_wrong_budget_is_refused_and_the_message_says_where(wrong, said):
    with pytest.raises(ValidationError, match="for budget") as caught:
        Caps.model_validate(wrong)
    assert said in str(caught.value)


def test_numbers_may_come_from_a_form():
    caps = Caps.model_validate({"day": {"pictures": "500"}, "run": {"money": "10.10"}, "month": None})
    assert caps.day is not None
    assert caps.run is not None
    assert (caps.day.pictures, caps.run.money, caps.month) == (500, Decimal("10.10"), None)
    run = Caps.model_validate({"run": {"money": 10.1}}).run
    assert run is not None
    assert run.money == Decimal("10.1")
    assert Caps.model_validate({"root": "s3://money/wallet/", "run": {"pictures": 1}}).root == "s3://money/wallet"


async def test_a_cap_in_money_with_an_unknown_price_is_refused_and_never_taken_for_free(budget, memory):
    purse = budget({"day": {"pictures": 5}, "run": {"money": 10}})
    with pytest.raises(InvalidRequestError, match=r"budget run\.money=10: .*price_per_image"):
        await purse.take("a", 1, None)
    assert memory.calls == 0


def test_prices_are_checked_before_anything_is_planned():
    caps = Caps.model_validate({"month": {"money": 10}})
    caps.check({"picwish_default": (TEN_CENTS, "USD"), "photoroom_default": (TEN_CENTS, "USD")})
    with pytest.raises(InvalidRequestError, match=r"month\.money=10: .*price_per_image.*'photoroom_default'"):
        caps.check({"picwish_default": (TEN_CENTS, "USD"), "photoroom_default": (None, "USD")})
    with pytest.raises(InvalidRequestError, match="one currency; there are picwish_default: USD, gptge_default: CNY"):
        caps.check({"picwish_default": (TEN_CENTS, "USD"), "gptge_default": (TEN_CENTS, "CNY")})
    Caps.model_validate({"month": {"pictures": 10}}).check({"picwish_default": (None, "USD")})
