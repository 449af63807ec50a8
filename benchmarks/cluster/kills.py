"""A part is killed while it holds something, stays down for a while, is started again; and when all goes on."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from concurrent.futures import Executor, Future
from dataclasses import dataclass

from benchmarks.cluster.cluster import TRIGGERERS, WORKERS, answered, pings
from benchmarks.cluster.component import Component
from benchmarks.cluster.recovery import Kill
from benchmarks.cluster.watch import Watch

AT_WORK = 60.0
"""Seconds to wait for a moment at which the part holds something."""


@dataclass
class Hit:
    """A kill as it takes place.

    :param tasks: what ran on a worker: name, map index, try.
    """

    watch: Watch
    part: Component
    at: float = 0.0
    tasks: tuple[tuple[str, int, int], ...] = ()
    messages: int = 0
    began: float = 0.0


@dataclass(frozen=True)
class Kind:
    """A kind of part: when to kill one, what it held (asked while it is down), and whether that goes on."""

    busy: Callable[[Watch], bool]
    held: Callable[[Hit], str]
    goes_on: Callable[[Hit], bool]


def _all_report(hit: Hit) -> bool:
    counts = {"scheduler": 1, "dag-processor": 1, "triggerer": TRIGGERERS}
    return all(hit.watch.up.jobs_since(job, hit.began) >= count for job, count in counts.items())


def _all_ping(hit: Hit) -> bool:
    return all(pings(hit.watch.up.broker, f"worker-{number}@cluster") for number in range(1, WORKERS + 1))


KINDS: Mapping[str, Kind] = {
    "worker": Kind(
        busy=lambda watch: bool(watch.running()),
        held=lambda hit: f"{len(hit.tasks)} tasks",
        goes_on=lambda hit: all(hit.watch.tried_again(*task) for task in hit.tasks),
    ),
    "triggerer": Kind(
        busy=lambda watch: watch.triggerers() == TRIGGERERS,
        held=lambda hit: f"{hit.watch.triggers_since(hit.at)} triggers",
        goes_on=lambda hit: hit.watch.triggers_since(hit.at) == 0,
    ),
    "broker": Kind(
        busy=lambda watch: watch.messages() > 0,
        held=lambda hit: f"{hit.messages} messages",
        goes_on=_all_ping,
    ),
    "database": Kind(busy=lambda watch: True, held=lambda hit: "", goes_on=_all_report),
    "scheduler": Kind(busy=lambda watch: True, held=lambda hit: "", goes_on=lambda hit: hit.watch.queued_since(hit.at)),
}


def kill(watch: Watch, kind: str, down: float, waiting: Executor) -> Future[Kill]:
    """Kill a part of this kind, and start it again.

    :param down: seconds that it stays down.
    :returns: when it answers, and when what it held goes on (or the night is over): others may be killed meanwhile.
    """
    how = KINDS[kind]
    watch.wait(lambda: how.busy(watch) or watch.over(), AT_WORK)
    running, messages = watch.insist(watch.running), watch.insist(watch.messages)
    parts = [part for name, part in watch.up.parts.items() if name.startswith(kind)]
    part = parts[0] if kind != "worker" else max(parts, key=lambda part: len(part.pids() & running.keys()))
    hit = Hit(watch, part, time.time(), messages=messages)
    killed = part.kill()
    print(f"  {part.name} is killed …", flush=True)
    hit.tasks = tuple(task for pid, task in running.items() if pid in killed)
    time.sleep(max(0.0, hit.at + down - time.time()))
    held = watch.insist(lambda: how.held(hit))
    hit.began = time.time()
    part.start()

    def recover() -> Kill:
        back = watch.wait(lambda: answered(part, hit.at))
        resumed = watch.wait(lambda: how.goes_on(hit) or watch.over())
        if resumed is not None:
            print(f"  {part.name} is back, and all goes on after {resumed - hit.at:.0f} s", flush=True)
        return Kill(part.name, held, hit.at, hit.began, back, resumed)

    return waiting.submit(recover)
