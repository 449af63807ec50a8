"""Hooks that keep to a rate, over real HTTP to a sandbox that counts all callers' requests."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from airflow_provider_bgai.exceptions import RateLimitError
from airflow_provider_bgai.hooks import get_hook
from airflow_provider_bgai.hooks.base import BackgroundHook
from airflow_provider_bgai.hooks.channel import _TURN
from airflow_provider_bgai.sandbox import Sandbox
from airflow_provider_bgai.sandbox.state import Recipe, Task

A_SECOND = 10
KEYS = ["key-of-one-dag", "key-of-another"]


@pytest.fixture
def strict() -> Iterator[Sandbox]:
    """gpt.ge, which takes 10 requests in any second, and knows a task by each of our keys."""
    with Sandbox(latency=0, limits={"gptge": f"{A_SECOND}/s"}) as box:
        for key in KEYS:
            box._state.add(Task(f"task-of-{key}", "gptge", key, Recipe("none", "on a beach", 1, None), 1, 0.0))
        yield box


@pytest.fixture
def user(strict: Sandbox, monkeypatch: pytest.MonkeyPatch) -> Callable[..., BackgroundHook]:
    """``user("key-of-one-dag")``: a hook as another process has it, for it has a pace of its own."""

    def make(key: str, **options: Any) -> BackgroundHook:
        connection = strict.connection("gptge") | {"password": key}
        connection["extra"] |= {"requests_per_minute": 60 * A_SECOND}
        monkeypatch.setenv(f"AIRFLOW_CONN_{key.replace('-', '_').upper()}", json.dumps(connection))
        hook = get_hook(key.replace("-", "_"), **options)
        _ = hook.settings
        return hook

    return make


async def poll_for(seconds: float, hook: BackgroundHook) -> int:
    """Poll without a break; how many were answered."""
    until, answered = time.monotonic() + seconds, 0

    async def go_on() -> None:
        nonlocal answered
        while time.monotonic() < until:
            try:
                await hook.poll(f"task-of-{hook.settings.key}")
                answered += 1
            except RateLimitError:
                continue

    async with hook:
        await asyncio.gather(*(go_on() for _ in range(8)))
    return answered


def refused(box: Sandbox) -> float:
    return sum(request.fault == "limit" for request in box.requests) / len(box.requests)


async def test_a_lone_process_uses_the_rate_and_is_hardly_ever_refused(strict, user):
    answered = await poll_for(6, user(KEYS[0]))
    assert answered >= 0.75 * 6 * A_SECOND
    assert refused(strict) <= 0.05  # a busy machine may hold up a request on its way


async def test_two_who_begin_with_all_of_it_share_it(strict, user):
    one, another = await asyncio.gather(*(poll_for(12, user(key)) for key in KEYS))
    assert one + another >= 0.6 * 12 * A_SECOND
    assert min(one, another) >= 0.2 * (one + another)
    assert refused(strict) <= 0.25  # most of them in the first second


async def test_hooks_of_one_process_with_one_key_are_one_user(strict, user):
    hooks = [user(KEYS[0]) for _ in range(3)]
    answered = await asyncio.gather(*(poll_for(4, hook) for hook in hooks))
    assert min(answered) > 0
    assert sum(answered) >= 0.7 * 4 * A_SECOND
    assert refused(strict) <= 0.05


async def test_who_is_too_late_for_its_place_waits_for_the_next_of_its_own(strict, user):
    """Between the two there may be places of somebody else's, so going out at once would have those refused."""
    async with user(KEYS[0], shards=2) as hook:
        channel = await hook._open()
        async with channel.turn():
            turn = _TURN.get()
            assert turn is not None
            missed = turn.slot
            time.sleep(0.5)  # noqa: ASYNC251  the whole process is held up
            await channel.ask("GET", "/", {})
            assert turn.departed >= turn.slot.at > missed.at + 1


async def test_a_pause_that_a_vendor_asks_for_ends_with_the_last_hook(strict, user):
    strict.fault("gptge", "rate_limited_retry_after", on="poll", retry_after=60)
    async with user(KEYS[0]) as first, user(KEYS[0]) as second:
        with pytest.raises(RateLimitError):
            await first.poll(f"task-of-{KEYS[0]}")
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(1), second.turn():
                pass
    async with asyncio.timeout(5), user(KEYS[0]) as third:
        await third.poll(f"task-of-{KEYS[0]}")
