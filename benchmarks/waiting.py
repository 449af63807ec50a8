"""A trigger waiting for 1,000 tasks of a slow vendor: connections, loop lag and memory.

Prints how many HTTP connections the vendor saw, the longest time the event loop was busy without a break,
polls per task, and memory above the idle process. The sandbox runs in a process of its own.
"""

from __future__ import annotations

import asyncio
import gc
import json
import os
import tempfile
import time
from pathlib import Path

from benchmarks.memory import MB, peak, reset_peak
from demo.services import SandboxService, sandbox_process

TASKS = 1000
LATENCY = 20.0  # s a task takes at the vendor


async def watchdog(lags: list[float]) -> None:
    """Notes how late every tick of 10 ms comes."""
    loop = asyncio.get_running_loop()
    while True:
        began = loop.time()
        await asyncio.sleep(0.01)
        lags.append(loop.time() - began - 0.01)


async def wait(task_ids: list[str]) -> dict[str, object]:
    from airflow_provider_bgai.triggers.background import BackgroundTaskTrigger

    trigger = BackgroundTaskTrigger("gptge_default", task_ids, poll_interval=5, deadline=time.time() + 300)
    async for event in trigger.run():
        return dict(event.payload)
    raise AssertionError("the trigger yields one event")


async def measure(source: bytes, sandbox: SandboxService) -> None:
    import httpx

    from airflow_provider_bgai.hooks import get_hook
    from airflow_provider_bgai.models import BackgroundRequest

    hook = get_hook("gptge_default")
    _ = hook.settings
    async with hook:
        request = [BackgroundRequest(source, f"scene {number}") for number in range(TASKS)]
        submitted = await asyncio.gather(*(hook.submit(each) for each in request))
    # A full garbage collection walks all of Airflow's own heap, which is not what is measured here.
    gc.collect()
    gc.freeze()
    lags: list[float] = []
    guard = asyncio.create_task(watchdog(lags))
    idle = reset_peak()
    began = time.perf_counter()
    event = await wait([each.task_id for each in submitted if each.task_id])
    seconds = time.perf_counter() - began
    guard.cancel()
    print(f"{event['succeeded']} of {TASKS} tasks ended after {seconds:.1f} s; event: {len(json.dumps(event))} bytes")
    seen = httpx.get(  # noqa: ASYNC210 - nothing is measured any more
        f"{sandbox.url}/_sandbox/requests", trust_env=False
    ).json()
    polls = sum(request["kind"] == "poll" for request in seen["requests"])
    opened = seen["connections_opened"]
    print(f"vendor: {opened} connections opened (submissions included), {polls / TASKS:.1f} polls a task")
    print(f"event loop: longest lag {max(lags) * 1000:.0f} ms, median {sorted(lags)[len(lags) // 2] * 1000:.1f} ms")
    print(f"memory: idle {idle / MB:.0f} MB, peak {peak() / MB:.0f} MB: {(peak() - idle) / MB:.1f} MB above")


def main() -> None:
    source = Path(__file__).parents[1] / "demo" / "catalogue" / "images" / "paper-bag.png"
    with tempfile.TemporaryDirectory() as folder, sandbox_process(Path(folder), latency=LATENCY) as sandbox:
        os.environ["AIRFLOW_CONN_GPTGE_DEFAULT"] = json.dumps(
            {
                "conn_type": "bgai_gptge",
                "host": sandbox.url,
                "password": "a-key",
                "extra": {"allow_private_hosts": True, "requests_per_minute": 20000, "max_concurrency": 16},
            }
        )
        asyncio.run(measure(source.read_bytes(), sandbox))


if __name__ == "__main__":
    main()
