"""One wish, many who want it, and processes that are killed: paid once, or said so.

The vendors are the sandbox, which counts what it charges; S3 is real, or in memory where a process has to die
at one certain line.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import random
import time
from collections import Counter
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from decimal import Decimal
from typing import Any

import pytest

from airflow_provider_bgai.catalogue import purchase
from airflow_provider_bgai.catalogue.budget import Budget, Caps
from airflow_provider_bgai.catalogue.ledger import Landed, Ledger
from airflow_provider_bgai.catalogue.purchase import Buyer, Wish
from airflow_provider_bgai.exceptions import LostError, ModerationError, OverBudgetError, PollError, UnknownOutcomeError
from airflow_provider_bgai.hooks import get_hook
from airflow_provider_bgai.models import BackgroundRequest
from airflow_provider_bgai.polling import PollPolicy
from airflow_provider_bgai.storage import Storage
from tests.catalogue.support import Killed, MemoryStorage, processes_that_start_fast

# With tasks to collect; all in one answer; links in one answer.
VENDORS = ("picwish", "photoroom", "katalis")
KILLS = {"picwish": 10, "photoroom": 5, "katalis": 5}

# The sandbox is done sooner than any vendor.
OFTEN = PollPolicy(interval=0.05)

pytestmark = pytest.mark.usefixtures("connections")


@pytest.fixture
def image(upload, product) -> str:
    return upload("races/product.png", product)


@pytest.fixture
def wish(storage, image, s3, request) -> Callable[..., Wish]:
    """``wish(owner)``: the same picture for every owner."""

    def wish(owner: str = "tonight", prompt: str = "on a beach", **fields: Any) -> Wish:
        root = f"s3://{s3.bucket}/races/{request.node.name}"
        # A link, because Katalis takes nothing else.
        return Wish(
            BackgroundRequest(storage.presign(image), prompt),
            f"{root}/{prompt}-{{index}}.{{ext}}",
            owner,
            root=root,
            fingerprint=prompt.replace(" ", "-"),
            **fields,
        )

    return wish


async def get(vendor: str, storage: Storage, wish: Wish, purse: Any = None) -> Landed:
    """Begin and finish, as a task does."""
    async with get_hook(f"{vendor}_default") as hook:
        buyer = Buyer([hook], storage, purse)
        found = await buyer.begin(wish)
        if isinstance(found, Landed):
            return found
        return await buyer.finish(found, timeout=20, owner=wish.owner, policy=OFTEN)


# --- at the same time --------------------------------------------------------------------------------


@pytest.mark.parametrize(("vendor", "buyers"), [("picwish", 2), ("picwish", 8), ("photoroom", 8), ("katalis", 8)])
def test_many_who_want_one_picture_at_once_pay_for_one_and_all_have_it(vendor, buyers, box, storage, wish):
    wishes = [wish(f"run-{number}") for number in range(buyers)]
    with ThreadPoolExecutor(buyers) as pool:
        got = list(pool.map(lambda one: asyncio.run(get(vendor, storage, one)), wishes))
    assert box.images_charged() == 1
    assert len({landed.images[0].sha256 for landed in got}) == 1
    claim = Ledger(storage, wishes[0].root).read_claim("on-a-beach")
    assert claim.unknown == 0
    assert storage.head(got[0].images[0].uri)


@pytest.mark.parametrize("vendor", VENDORS)
def test_tomorrow_by_another_run_nothing_is_paid(vendor, box, storage, wish):
    first = asyncio.run(get(vendor, storage, wish("tonight")))
    assert asyncio.run(get(vendor, storage, wish("tomorrow"))).images == first.images
    assert box.images_charged() == 1


# --- killed at every line, one after the other ---------------------------------------------------------


class Dying(MemoryStorage):
    """Killed at one call to S3; everything before it has happened, and nothing after it."""

    def put(self, uri: str, body: Any, **fields: Any) -> None:
        super().put(uri, body if isinstance(body, bytes) else body.read(), **fields)

    def kill_at(self, call: int, *, afterwards: bool) -> None:
        def die() -> None:
            raise Killed

        self.plan(call, die, afterwards=afterwards)


@pytest.mark.parametrize("afterwards", [False, True], ids=["before", "after"])
@pytest.mark.parametrize("owner", ["tonight", "tomorrow"])
@pytest.mark.parametrize("vendor", VENDORS)
def test_killed_at_any_call_to_s3_it_is_paid_once_or_held(vendor, owner, afterwards, box, wish, monkeypatch):
    monkeypatch.setattr(purchase, "MAX_RETRY_AFTER", -1000.0)  # the killed one's claim has run out
    box.set_latency(vendor, 0)
    ends = []
    for call in range(1, 9):
        storage, prompt = Dying(), f"killed at {call}"
        box.reset()
        box.set_latency(vendor, 0)
        storage.kill_at(call, afterwards=afterwards)
        with contextlib.suppress(Killed):
            asyncio.run(get(vendor, storage, wish("tonight", prompt)))
        storage.at = None
        ledger = Ledger(storage, wish().root)
        try:
            landed = asyncio.run(get(vendor, storage, wish(owner, prompt)))
            ends.append("landed")
            assert (box.images_charged(), landed.unknown) == (1, 0)
            assert storage.head(landed.images[0].uri)
        except UnknownOutcomeError:
            ends.append("held")
            claim = ledger.read_claim(prompt.replace(" ", "-"))
            assert (claim.state, claim.unknown) == ("held", 1)
            before = box.images_charged()
            assert before <= 1
            again = wish(owner, prompt, on_unknown_outcome="resubmit")
            landed = asyncio.run(get(vendor, storage, again))
            assert (box.images_charged() - before, landed.unknown) == (1, 1)
    # Between the claim and the note of what the vendor has answered nobody can know; nowhere else it is held.
    assert ends[:2] == ["landed", "landed"]
    assert "held" in ends
    assert ends[-1] == "landed"


def test_what_katalis_has_answered_is_landed_later_without_paying(box, wish, monkeypatch):
    """It has no tasks: its links are kept in the claim, before a picture is fetched."""
    storage = Dying()
    monkeypatch.setattr("airflow_provider_bgai.hooks.base.FETCH_ATTEMPTS", 1)
    box.fault("katalis", "drop_before_charge", on="download")
    with pytest.raises(PollError):
        asyncio.run(get("katalis", storage, wish("tonight")))
    claim = Ledger(storage, wish().root).read_claim("on-a-beach")
    assert (claim.state, claim.task_id, len(claim.links)) == ("submitted", None, 1)
    landed = asyncio.run(get("katalis", storage, wish("tomorrow")))
    assert box.images_charged() == 1
    assert storage.head(landed.images[0].uri)


# --- SIGKILL, at any moment ----------------------------------------------------------------------------


def _process(env: dict[str, str], vendor: str, wish: Wish, pipe: Any) -> None:
    """A task in a process of its own: says when it starts, and works until it is killed."""
    os.environ.update(env)
    purchase.SUBMIT_ATTEMPTS, purchase.MAX_RETRY_AFTER = 1, 0.0  # its claim runs out after one time-out
    storage = Storage("aws_default")
    assert storage.client is not None  # looked up before the clock runs
    pipe.send("ready")
    asyncio.run(get(vendor, storage, wish))


@pytest.fixture
def start_and_kill(connect, s3) -> Callable[[str, Wish, float], None]:
    """``start_and_kill(vendor, wish, 0.1)``: a process buys it, and gets SIGKILL after so many seconds."""
    for vendor in VENDORS:
        connect(vendor, extra={"timeout": 3})
    context = processes_that_start_fast()
    env = {name: value for name, value in os.environ.items() if name.startswith(("AIRFLOW", "NO_PROXY", "no_proxy"))}
    env["AIRFLOW_CONN_AWS_DEFAULT"] = s3.aws_connection()

    def start_and_kill(vendor: str, wish: Wish, seconds: float) -> None:
        ours, theirs = context.Pipe()
        process = context.Process(target=_process, args=(env, vendor, wish, theirs))
        process.start()
        theirs.close()
        assert ours.recv() == "ready"
        time.sleep(seconds)
        process.kill()
        process.join()

    return start_and_kill


@pytest.mark.parametrize("vendor", VENDORS)
def test_killed_at_random_moments_nothing_is_charged_twice_undeclared(vendor, box, storage, wish, start_and_kill):
    """Each picture's task is killed once, and run again: by itself, or by another run."""
    box.set_latency(vendor, 0.1)
    dice = random.Random(vendor)
    moments = [dice.uniform(0, 0.7) for _ in range(KILLS[vendor])]

    def again(number: int, **fields: Any) -> str:
        """How the picture's next task ends: landed, held, or landed though once unknown."""
        one = wish("tonight" if number % 2 else "tomorrow", f"picture {number}", **fields)
        try:
            return "declared" if asyncio.run(get(vendor, storage, one)).unknown else "landed"
        except UnknownOutcomeError:
            return "held"

    def one(number: int) -> str:
        start_and_kill(vendor, wish("tonight", f"picture {number}"), moments[number])
        return again(number)

    def charges() -> list[int]:
        return list(Counter(charge.fingerprint for charge in box.charges).values())

    with ThreadPoolExecutor(3) as pool:
        ends = list(pool.map(one, range(KILLS[vendor])))
    landed, held = ends.count("landed"), ends.count("held")
    assert landed + held == KILLS[vendor]
    assert set(charges()) <= {1}
    assert landed <= len(charges()) <= landed + held

    # Whoever says so buys the held ones again; each is declared, and nothing else is charged.
    for number, end in enumerate(ends):
        if end == "held":
            assert again(number, on_unknown_outcome="resubmit") == "declared"
    assert set(charges()) <= {1, 2}
    assert charges().count(2) <= held


# --- with a budget -------------------------------------------------------------------------------------


@pytest.fixture
def purse(wish) -> Callable[..., Budget]:
    """``purse(storage, "0000", pictures=5)``: a day's budget of one shard."""

    def purse(storage: Storage, holder: str, pictures: int) -> Budget:
        caps = Caps.model_validate({"day": {"pictures": pictures}})
        return Budget(storage, wish().root, caps, "night", holder, time.time())

    return purse


def test_what_a_vendor_refuses_is_not_counted(box, wish, purse):
    storage = Dying()
    day = purse(storage, "0000", 1)
    box.fault("picwish", "moderation")
    with pytest.raises(ModerationError):
        asyncio.run(get("picwish", storage, wish("tonight", "refused"), day))
    assert asyncio.run(get("picwish", storage, wish("tonight"), day)).unknown == 0
    with pytest.raises(OverBudgetError):
        asyncio.run(get("picwish", storage, wish("tonight", "one too many"), day))
    assert box.images_charged() == 1


@pytest.mark.parametrize("afterwards", [False, True], ids=["before", "after"])
def test_killed_at_any_call_to_s3_the_budget_counts_what_is_charged_and_nothing_else(afterwards, box, wish, purse):
    for call in range(1, 16):
        storage, prompt = Dying(), f"killed at {call}"
        box.reset()
        box.set_latency("picwish", 0)
        storage.kill_at(call, afterwards=afterwards)
        with contextlib.suppress(Killed):
            asyncio.run(get("picwish", storage, wish("tonight", prompt), purse(storage, "0000", 1)))
        storage.at = None
        again = purse(storage, "0000", 1)
        with contextlib.suppress(UnknownOutcomeError):
            asyncio.run(get("picwish", storage, wish("tonight", prompt), again))
        asyncio.run(again.close())
        assert again.left() == (0, None)
        other = purse(storage, "0001", 1)
        with pytest.raises(OverBudgetError):
            asyncio.run(get("picwish", storage, wish("tomorrow", "another"), other))
        assert box.images_charged() <= 1


def test_who_is_overtaken_after_asking_the_budget_gives_it_back(box, wish, purse):
    storage = Dying()
    rival = purse(storage, "0001", 5)

    class Overtaken(Budget):
        overtaken = False

        async def take(self, fingerprint: str, pictures: int, price: Decimal | None) -> bool:
            if not self.overtaken:
                self.overtaken = True
                await get("picwish", storage, wish("tomorrow"), rival)
            return await super().take(fingerprint, pictures, price)

    mine = Overtaken(storage, wish().root, rival.caps, "night", "0000", time.time())
    asyncio.run(get("picwish", storage, wish("tonight"), mine))
    assert box.images_charged() == 1
    assert mine.left() == (4, None)


def test_a_picture_bought_anew_because_it_was_deleted_counts_again(box, wish, purse):
    storage = Dying()
    day = purse(storage, "0000", 1)
    landed = asyncio.run(get("picwish", storage, wish(), day))
    del storage.objects[landed.images[0].uri]
    with pytest.raises(OverBudgetError):
        asyncio.run(get("picwish", storage, wish(), purse(storage, "0000", 1)))
    assert box.images_charged() == 1


def test_a_picture_bought_anew_because_it_was_lost_counts_again(box, wish, purse):
    storage = Dying()
    box.fault("picwish", "truncated_image", times=3)
    with pytest.raises(LostError):
        asyncio.run(get("picwish", storage, wish(), purse(storage, "0000", 1)))
    with pytest.raises(OverBudgetError):
        asyncio.run(get("picwish", storage, wish(), purse(storage, "0000", 1)))
    assert box.images_charged() == 1


# --- a call that takes longer than its claim -------------------------------------------------------------


def test_a_task_id_that_comes_after_its_claim_has_run_out_is_kept(box, wish, monkeypatch):
    """Another run has held the picture meanwhile. The answer comes after all, and is worth its money."""
    storage = Dying()
    slow, late = wish("tonight"), wish("tomorrow")
    monkeypatch.setattr(purchase, "MAX_RETRY_AFTER", -1000.0)

    async def run() -> None:
        async with get_hook("picwish_default") as hook, get_hook("picwish_default") as other:
            box.fault("picwish", "slow", on="submit", delay=1.0)
            first = asyncio.create_task(Buyer([hook], storage).begin(slow))
            await asyncio.sleep(0.5)
            with pytest.raises(UnknownOutcomeError):
                await Buyer([other], storage).begin(late)
            with contextlib.suppress(UnknownOutcomeError):
                await first

    asyncio.run(run())
    assert box.images_charged() == 1
    claim = Ledger(storage, slow.root).read_claim("on-a-beach")
    assert claim.task_id is not None
    landed = asyncio.run(get("picwish", storage, replace(late, owner="next week")))
    assert (box.images_charged(), landed.task_id) == (1, claim.task_id)
