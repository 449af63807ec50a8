"""Waiting for tasks: the loops around :class:`~airflow_provider_bgai.polling.TaskWatch`, which takes the decisions.

A task that is waited for is paid, so nothing but a key that is refused again and again ends the waiting early.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Iterable
from dataclasses import replace
from typing import TYPE_CHECKING

from airflow_provider_bgai.exceptions import (
    AuthenticationError,
    LostError,
    PollError,
    RateLimitError,
    TaskNotFoundError,
)
from airflow_provider_bgai.models import Generation
from airflow_provider_bgai.polling import PollPolicy, TaskWatch, unknown_is_lost

if TYPE_CHECKING:
    from airflow_provider_bgai.hooks.base import BackgroundHook


async def watch(hook: BackgroundHook, watch: TaskWatch) -> dict[str, Generation]:
    """Poll many tasks side by side until the watch decides otherwise.

    :returns: the generations that ended, by task ID.
    :raises AuthenticationError: if the key was refused three times in a row, with no poll answered in between.
    """
    ended: dict[str, Generation] = {}

    async def poll(task_id: str) -> None:
        try:
            generation = await hook.poll(task_id)
        except AuthenticationError as error:
            watch.missed(task_id, str(error), time.time())
            if hook.refusals.refused():
                raise
        except (PollError, RateLimitError) as error:
            missing = isinstance(error, TaskNotFoundError)
            watch.missed(task_id, str(error), time.time(), not_found=missing, retry_after=error.retry_after)
            if watch.ended.get(task_id) == "not_found":
                ended[task_id] = _lost(hook, task_id, str(error))
        else:
            hook.refusals.answered()
            watch.saw(task_id, generation.state, time.time())
            if generation.state != "pending":
                ended[task_id] = generation

    slots = hook.settings.max_concurrency
    running: set[asyncio.Task[None]] = set()
    try:
        while (decision := watch.decide(time.time())).action == "poll":
            free = slots - len(running)
            running |= {asyncio.create_task(poll(task_id)) for task_id in watch.due(time.time(), free)}
            if not running:
                await asyncio.sleep(decision.wait)
                continue
            # With free slots left, the next due task may start before a running poll ends.
            patience = decision.wait if len(running) < slots else None
            done, running = await asyncio.wait(running, timeout=patience, return_when=asyncio.FIRST_COMPLETED)
            # All are looked at before one is raised, or asyncio complains of the others.
            for error in [task.exception() for task in done]:
                if error is not None:
                    raise error
    finally:
        for task in running:
            task.cancel()
        await asyncio.gather(*running, return_exceptions=True)
    return ended


async def wait_for(
    hook: BackgroundHook,
    generation: Generation,
    *,
    timeout: float,
    policy: PollPolicy | None,
    age: float | None,
) -> Generation:
    """Poll one task until it ends; with a timeout of 0, once. Parameters as :meth:`BackgroundHook.wait_for`.

    :returns: succeeded or failed; failed with reason "lost" if the vendor certainly knows the task no more.
    """
    task_id = generation.task_id
    assert task_id is not None
    policy = policy or PollPolicy()
    if timeout:
        now = time.time()
        wanted = min(hook.usual.first_poll(policy), max(policy.interval, timeout / 2))
        first = now if age is None else now + max(0.0, wanted - age)
        waiting = TaskWatch([task_id], deadline=now + timeout, now=first, policy=policy)
        ended = (await hook.watch(waiting)).get(task_id)
        if age is not None and age < wanted and ended is not None:
            hook.usual.learn(wanted, None if waiting.answers == 1 else age + time.time() - now)
        problem = waiting.problems.get(task_id, "still pending")
    else:
        ended, problem = await _ask_once(hook, task_id, age)
    if ended is None:
        raise PollError(
            f"{hook.vendor} task {task_id} did not end within {timeout:g} s ({problem}). "
            "It is kept: nothing needs to be bought again to collect it",
            vendor=hook.vendor,
            task_id=task_id,
        )
    # Only the submission's answer knows the seed and the model.
    return replace(ended, seed=ended.seed or generation.seed, model=ended.model or generation.model)


async def _ask_once(hook: BackgroundHook, task_id: str, age: float | None) -> tuple[Generation | None, str]:
    try:
        found = await hook.poll(task_id)
        hook.refusals.answered()
    except AuthenticationError as error:
        if hook.refusals.refused():
            raise
        return None, str(error)
    except TaskNotFoundError as error:
        lost = unknown_is_lost(0.0, age=age, once=True)
        return (_lost(hook, task_id, str(error)) if lost else None), str(error)
    except (PollError, RateLimitError) as error:
        return None, str(error)
    return (None if found.state == "pending" else found), "still pending"


async def poll_all(hook: BackgroundHook, task_ids: Iterable[str]) -> dict[str, Generation]:
    """Ask once for each of many tasks.

    :returns: those that have ended, by task ID; not those that are pending or could not be asked for now.
    :raises AuthenticationError: if the key was refused for every one of them.
    """
    refused: list[AuthenticationError] = []

    async def poll(task_id: str) -> Generation | None:
        try:
            generation = await hook.poll(task_id)
        except AuthenticationError as error:
            hook.log.info("Task %s could not be asked for now: %s", task_id, error)
            hook.refusals.refused()
            refused.append(error)
        except (PollError, RateLimitError) as error:
            hook.log.info("Task %s could not be asked for now: %s", task_id, error)
        else:
            hook.refusals.answered()
            return generation
        return None

    polls = [asyncio.create_task(poll(task_id)) for task_id in dict.fromkeys(task_ids)]
    try:
        found = await asyncio.gather(*polls)
    finally:
        for task in polls:
            task.cancel()
        await asyncio.gather(*polls, return_exceptions=True)
    if refused and len(refused) == len(polls):
        raise refused[0]
    return {str(it.task_id): it for it in found if it is not None and it.state != "pending"}


def _lost(hook: BackgroundHook, task_id: str, problem: str) -> Generation:
    return Generation(vendor=hook.vendor, state="failed", task_id=task_id, error=problem, reason=LostError.reason)
