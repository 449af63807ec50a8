"""A trigger waiting for 10,000 tasks of a vendor that takes 1 to 30 s: polls, loop lag, memory, and a trigger beside.

All tasks begin as the trigger does. Prints polls a task, how late ticks of 10 ms and a trigger beside it came (and how
late they come while nothing happens, which is the machine's doing), memory above the idle process, and the connections
the vendor saw, each against its goal; ends with 1 if one is missed. The sandbox runs in a process of its own. Another
number may be given: ``python -m benchmarks.waiting 1000``.
"""

from __future__ import annotations

import argparse
import asyncio
import gc
import json
import os
import random
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from airflow.triggers.base import BaseTrigger, TriggerEvent

from benchmarks.memory import MB, peak, reset_peak

KEY = "a-key"
SHORTEST, LONGEST = 1.0, 30.0  # s a task takes at the vendor
CONCURRENCY = 16


def vendor() -> None:
    """The sandbox, with tasks that nobody had to submit: each line on stdin is how many, and begins them."""
    from airflow_provider_bgai.sandbox import Sandbox
    from airflow_provider_bgai.sandbox.state import Recipe, Task

    with Sandbox() as box:
        print(box.url, flush=True)
        for line in sys.stdin:
            recipe, chance = Recipe("none", "on a beach", 1, 1024), random.Random(1)
            for number in range(int(line)):
                seconds = chance.uniform(SHORTEST, LONGEST)
                box._state.add(Task(f"task-{number}", "gptge", KEY, recipe, 1, seconds))
            print("begun", flush=True)
        print(json.dumps({"polls": box.request_count(kind="poll"), "connections": box.connections_opened}), flush=True)


class Vendor:
    """That process."""

    def __init__(self, process: subprocess.Popen[str]) -> None:
        self._process = process
        self.url = self._said()

    def begin(self, tasks: int) -> None:
        assert self._process.stdin is not None
        self._process.stdin.write(f"{tasks}\n")
        self._process.stdin.flush()
        self._said()

    def seen(self) -> dict[str, int]:
        assert self._process.stdin is not None
        self._process.stdin.close()
        seen: dict[str, int] = json.loads(self._said())
        return seen

    def _said(self) -> str:
        assert self._process.stdout is not None
        return self._process.stdout.readline().strip()


@contextmanager
def vendor_process() -> Iterator[Vendor]:
    command = [sys.executable, "-m", "benchmarks.waiting", "--vendor"]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        try:
            yield Vendor(process)
        finally:
            process.kill()


class Neighbour(BaseTrigger):
    """Somebody else's trigger, which is due every second."""

    def __init__(self) -> None:
        super().__init__()
        self.late: list[float] = []

    def serialize(self) -> tuple[str, dict[str, Any]]:
        return "benchmarks.waiting.Neighbour", {}

    async def run(self) -> Any:
        while True:
            due = time.monotonic() + 1.0
            await asyncio.sleep(1.0)
            self.late.append(time.monotonic() - due)
            yield TriggerEvent(None)


async def watchdog(lags: list[float]) -> None:
    """Notes how late every tick of 10 ms comes."""
    loop = asyncio.get_running_loop()
    while True:
        began = loop.time()
        await asyncio.sleep(0.01)
        lags.append(loop.time() - began - 0.01)


def late(lags: list[float]) -> str:
    """In words: in the middle, of a hundred the last, most."""
    middle, last, most = (sorted(lags)[min(len(lags) - 1, len(lags) * per // 100)] * 1000 for per in (50, 99, 100))
    return f"{middle:.1f} ms (p99 {last:.0f}, most {most:.0f})"


async def wait(task_ids: list[str]) -> dict[str, Any]:
    from airflow_provider_bgai.triggers.background import BackgroundTaskTrigger

    trigger = BackgroundTaskTrigger("gptge_default", task_ids, deadline=time.time() + 600)
    async for event in trigger.run():
        return dict(event.payload)
    raise AssertionError("the trigger yields one event")


async def beside(neighbour: Neighbour) -> None:
    async for _ in neighbour.run():
        pass


async def measure(vendor: Vendor, tasks: int) -> bool:
    # What every process of a triggerer imports and connects to once is not a thousand tasks' doing.
    vendor.begin(1)
    await wait(["task-0"])
    # A full garbage collection walks all of Airflow's own heap, which is not what is measured here.
    gc.collect()
    gc.freeze()
    lags: list[float] = []
    guard = asyncio.create_task(watchdog(lags))
    await asyncio.sleep(5)
    print(f"ticks of 10 ms come {late(lags)} late while nothing happens")
    lags.clear()
    neighbour = Neighbour()
    guards = [guard, asyncio.create_task(beside(neighbour))]
    idle = reset_peak()
    vendor.begin(tasks)
    began, cpu = time.perf_counter(), time.process_time()
    event = await wait([f"task-{number}" for number in range(tasks)])
    seconds, cpu = time.perf_counter() - began, time.process_time() - cpu
    for each in guards:
        each.cancel()
    seen = vendor.seen()
    print(f"and {late(lags)} while the trigger waits")
    print(f"{event['succeeded']} of {tasks} tasks ended; {seconds:.1f} s, the slowest task took {LONGEST:g} s")
    print(f"event: {len(json.dumps(event))} bytes; {seen['connections']} connections; processor time {cpu:.1f} s")
    goals = {
        "polls a task": (seen["polls"] / tasks, 1.3),
        "ticks of 10 ms, late by (ms, p99)": (sorted(lags)[len(lags) * 99 // 100] * 1000, 50),
        "a trigger beside it, late by (ms, most)": (max(neighbour.late) * 1000, 200),
        "memory above the idle process (MB)": ((peak() - idle) / MB, 150),
    }
    for name, (found, limit) in goals.items():
        print(f"  {name:<44} {found:7.2f}  (<= {limit:g}) {'' if found <= limit else 'MISSED'}")
    return event["succeeded"] == tasks and all(found <= limit for found, limit in goals.values())


def main() -> int:
    parser = argparse.ArgumentParser(prog="benchmarks.waiting", description=__doc__)
    parser.add_argument("tasks", nargs="?", type=int, default=10_000)
    parser.add_argument("--vendor", action="store_true", help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.vendor:
        vendor()
        return 0
    with vendor_process() as process:
        extra = {"allow_private_hosts": True, "requests_per_minute": 60_000, "max_concurrency": CONCURRENCY}
        connection = {"conn_type": "bgai_gptge", "host": process.url, "password": KEY, "extra": extra}
        os.environ["AIRFLOW_CONN_GPTGE_DEFAULT"] = json.dumps(connection)
        return 0 if asyncio.run(measure(process, args.tasks)) else 1


if __name__ == "__main__":
    sys.exit(main())
