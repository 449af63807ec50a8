"""Many tasks at once: one client, a bounded number of connections, and an event loop that stays free."""

from __future__ import annotations

import asyncio
import gc
import json
import time

import pytest

from airflow_provider_bgai.exceptions import AuthenticationError, PollError
from airflow_provider_bgai.models import Generation
from airflow_provider_bgai.polling import PollPolicy, TaskWatch
from airflow_provider_bgai.sandbox.state import Task
from tests.conftest import KEYS

TASKS = 1000
QUICK = PollPolicy(interval=0.02, max_interval=0.1)


@pytest.fixture
def tasks(box, product):
    """Tasks the vendor has accepted earlier, without the time it takes to submit a thousand."""
    from airflow_provider_bgai.sandbox.state import Recipe

    def make(count: int, latency: float, final_state: int | None = 1) -> list[str]:
        recipe = Recipe(box._state.uploads.keep(product), "on a beach", 1, 1024)
        for number in range(count):
            task = Task(f"task-{number}", "gptge", KEYS["gptge"], recipe, 1, latency, final_state=final_state)
            box._state.add(task)
        return [f"task-{number}" for number in range(count)]

    return make


def watching(task_ids: list[str], seconds: float, policy: PollPolicy) -> TaskWatch:
    now = time.time()
    return TaskWatch(task_ids, deadline=now + seconds, now=now, policy=policy)


async def test_a_thousand_tasks_of_a_slow_vendor_share_few_connections_and_a_free_loop(hook, box, connect, tasks):
    """Every fiftieth poll takes two seconds, so polls that blocked the loop would stop it for most of the time."""
    connect("gptge", {"max_concurrency": 16})
    box.fault_rate("gptge.slow@poll", 0.02)
    slow_for = 2.0  # seconds, the sandbox's own `slow`
    task_ids = tasks(TASKS, latency=1.0)
    ticks: list[float] = []

    async def watchdog() -> None:
        while True:
            ticks.append(time.perf_counter())
            await asyncio.sleep(0.01)

    guard = asyncio.create_task(watchdog())
    began = time.perf_counter()
    async with hook("gptge") as vendor_hook:
        ended = await vendor_hook.watch(watching(task_ids, 100, PollPolicy(interval=1.5, land_within=100)))
    seconds = time.perf_counter() - began
    guard.cancel()
    slow_polls = sum(request.fault == "slow" for request in box.requests)
    gaps = [later - earlier for earlier, later in zip(ticks, ticks[1:], strict=False)]
    assert {task_id for task_id, each in ended.items() if each.state == "succeeded"} == set(task_ids)
    # Not a fixed number: on a busy machine a line may lie idle until it is dropped, and is opened again.
    assert box.connections_opened < len(box.requests) / 20
    assert box.max_in_flight("gptge") <= 16
    assert slow_polls * slow_for > seconds  # the vendor was slower in all than we were
    # Nobody waited for a slow poll but its own task. A machine may stop for a second or two, but not once a slow poll.
    assert sum(gap for gap in gaps if gap > slow_for / 2) < slow_polls * slow_for / 4
    assert len(ticks) > seconds / 0.01 / 4


async def test_landing_is_called_for_while_others_are_pending(hook, tasks):
    done = tasks(3, latency=0)
    watch = watching([*done, "unknown-task"], 60, PollPolicy(interval=0.02, max_interval=0.1, land_within=0.3))
    async with hook("gptge") as vendor_hook:
        ended = await vendor_hook.watch(watch)
    assert set(ended) == set(done)
    assert watch.decide(time.time()).action == "land"
    assert list(watch.problems) == ["unknown-task"]


async def test_at_the_deadline_what_has_ended_is_handed_over(hook, tasks):
    task_ids = tasks(2, latency=0, final_state=None)
    watch = watching(task_ids, 0.3, QUICK)
    async with hook("gptge") as vendor_hook:
        assert await vendor_hook.watch(watch) == {}
    assert watch.decide(time.time()).action == "give_up"
    assert set(watch.pending) == set(task_ids)


async def test_a_deadline_is_kept_although_the_vendor_hangs(hook, box, tasks):
    task_ids = tasks(2, latency=0)
    box.fault("gptge", "hang", times=50, on="poll")
    async with asyncio.timeout(10), hook("gptge") as vendor_hook:
        assert await vendor_hook.watch(watching(task_ids, 0.3, QUICK)) == {}


async def test_a_task_the_vendor_does_not_know_ends_as_lost(hook, box, monkeypatch):
    monkeypatch.setattr("airflow_provider_bgai.polling.NOT_FOUND_GRACE", 0.2)
    async with hook("gptge") as vendor_hook:
        ended = await vendor_hook.watch(watching(["never-was"], 30, QUICK))
    assert (ended["never-was"].state, ended["never-was"].reason) == ("failed", "lost")


@pytest.mark.parametrize(("age", "lost"), [(None, False), (5.0, False), (3600.0, True)])
async def test_asked_once_an_unknown_task_is_lost_only_if_it_is_old(hook, box, age, lost):
    known = Generation(vendor="gptge", state="pending", task_id="never-was")
    async with hook("gptge") as vendor_hook:
        if lost:
            assert (await vendor_hook.wait_for(known, timeout=0, age=age)).reason == "lost"
        else:
            with pytest.raises(PollError, match="It is kept"):
                await vendor_hook.wait_for(known, timeout=0, age=age)
    assert box.request_count("gptge", "poll") == 1


@pytest.mark.parametrize(("age", "at_least", "at_most"), [(0.0, 0.6, 2.0), (0.5, 0.1, 0.55), (None, 0.0, 0.5)])
async def test_no_poll_is_spent_before_one_interval_has_passed_since_the_answer(hook, tasks, age, at_least, at_most):
    (task_id,) = tasks(1, latency=0)
    known = Generation(vendor="gptge", state="pending", task_id=task_id)
    async with hook("gptge") as vendor_hook:
        began = time.monotonic()
        await vendor_hook.wait_for(known, timeout=10, policy=PollPolicy(interval=0.6), age=age)
    assert at_least <= time.monotonic() - began <= at_most


async def test_a_wrong_key_ends_the_watch_and_leaves_no_poll_behind(hook, connect, box, tasks):
    connect("gptge", password="bad-key")
    task_ids = tasks(50, latency=0)
    complaints: list[object] = []
    asyncio.get_running_loop().set_exception_handler(lambda _, context: complaints.append(context))
    async with hook("gptge") as vendor_hook:
        with pytest.raises(AuthenticationError):
            await vendor_hook.watch(watching(task_ids, 30, QUICK))
        others = [task for task in asyncio.all_tasks() if task is not asyncio.current_task()]
        assert others == []
    gc.collect()
    assert complaints == []
    assert 3 <= box.request_count("gptge", "poll") <= 8


@pytest.mark.parametrize("fault", ["bad_key", "rate_limited", "server_error"])
async def test_one_refused_poll_among_answered_ones_is_an_accident(hook, box, tasks, fault):
    task_ids = tasks(6, latency=0.3)
    async with hook("gptge") as vendor_hook:
        box.fault("gptge", fault, times=2, on="poll")
        ended = await vendor_hook.watch(watching(task_ids, 30, QUICK))
        assert set(ended) == set(task_ids)
        box.fault("gptge", fault, times=2, on="poll")
        assert len(await vendor_hook.poll_all(task_ids)) == 4


async def test_asking_once_for_many_gives_those_that_ended(hook, box, tasks):
    done = tasks(3, latency=0)
    box._state.add(Task("slow-task", "gptge", KEYS["gptge"], None, 1, 60.0))
    async with hook("gptge") as vendor_hook:
        found = await vendor_hook.poll_all([*done, done[0], "slow-task", "unknown-task"])
    assert set(found) == set(done)
    asked = [request.path.rpartition("/")[2] for request in box.requests if KEYS["gptge"] in str(request.headers)]
    assert sorted(asked) == sorted([*done, "slow-task", "unknown-task"])


async def test_asking_once_for_many_with_a_wrong_key_says_so_plainly(hook, connect, tasks):
    connect("gptge", password="bad-key")
    task_ids = tasks(20, latency=0)
    async with hook("gptge") as vendor_hook:
        with pytest.raises(AuthenticationError):
            await vendor_hook.poll_all(task_ids)


def test_one_hook_serves_one_event_loop_after_the_other(hook, connect, website):
    connect("gptge", host=website.url)
    website.answer("/task/task-1", json.dumps({"data": {"state": 4}}))
    vendor_hook = hook("gptge")

    async def ask() -> str:
        async with vendor_hook:
            return (await vendor_hook.poll("task-1")).state

    assert [asyncio.run(ask()), asyncio.run(ask())] == ["pending", "pending"]


async def test_the_seed_of_the_submission_is_kept_through_the_wait(hook, connect, website):
    connect("gptge", host=website.url)
    website.answer("/task/task-1", json.dumps({"data": {"state": 1, "image": "https://a.example/1.png"}}))
    submitted = Generation(vendor="gptge", state="pending", task_id="task-1", seed=7, model="m")
    async with hook("gptge") as vendor_hook:
        done = await vendor_hook.wait_for(submitted, timeout=10)
    assert (done.seed, done.model, done.images) == (7, "m", ("https://a.example/1.png",))
