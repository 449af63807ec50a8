"""Runs a night's tasks side by side, try after try, and ends the tries at any moment: by every kind of end there is.

=========  ==============================================================================================
kill       SIGKILL: the machine is gone
term       SIGTERM, which is an exception in the main thread: somebody clears the task
timeout    the same, as Airflow raises it when a task takes too long
stop       SIGSTOP until every call of it is past its ``answer_by`` and a twin is at work; then SIGCONT
=========  ==============================================================================================
"""

from __future__ import annotations

import os
import random
import signal
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from itertools import cycle
from multiprocessing.connection import Connection, wait
from multiprocessing.process import BaseProcess

from airflow_provider_bgai.layout import run_of
from benchmarks.chaos.accidents import CLOCKS, VENDORS
from benchmarks.chaos.worker import AGAIN, DONE, ENDED, FAILED, HOLD_FOR, MARGIN, TIMEOUT, Order, nursery, work

PARALLEL = 3
SPAN = (0.5, 4.5)
"""Seconds within which a try is ended, from the first record of a call that it writes."""
IDLE = 6.0
"""Seconds after which it is ended although it has written none: it waits for what earlier tries have sent."""
PAST = TIMEOUT + MARGIN + HOLD_FOR
"""Seconds after which nobody waits for a call any more."""
GRACE = 12.0
"""Seconds in which a try that is asked to end does so, or is killed."""
PATIENCE = 300.0
RETRIES = 1
"""Of a shard in a night, besides those that are ended from outside."""
KINDS = ("kill", "timeout", "kill", "stop", "term", "kill", "kill", "timeout", "kill", "kill")


@dataclass(frozen=True)
class Cut:
    """A worker that was ended (or stopped) from outside. ``at``: epoch seconds."""

    worker: str
    kind: str
    at: float


@dataclass
class Tormentor:
    """Starts workers, and ends them.

    :param env: of every worker: the connections.
    :param control: how all workers are broken.
    """

    env: Mapping[str, str]
    deferrable: bool
    seed: int
    control: str = ""
    starts: int = 0
    cuts: list[Cut] = field(default_factory=list)
    problems: list[str] = field(default_factory=list)
    _kinds: Iterator[str] = field(default_factory=lambda: cycle(KINDS))
    _clocks: Iterator[float] = field(default_factory=lambda: cycle(CLOCKS))
    _left: int = 0
    _shards: int = 0
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def night(self, shards: Sequence[str], *, kills: int, cap: int | None) -> int:
        """Run all tasks of a night to their ends, and end tries so often. How many ends are left over."""
        self._left, self._shards = kills, len(shards)
        with ThreadPoolExecutor(PARALLEL, "bgai-task") as pool:
            for future in [pool.submit(self._task, shard, place, cap) for place, shard in enumerate(shards)]:
                future.result()
        return self._left

    def _task(self, shard: str, place: int, cap: int | None) -> None:
        """One task: tries that are ended, then tries that are let alone, until it has its results."""
        run = run_of(shard).name
        dice = random.Random(f"{self.seed} {run} {place}")
        vendors = VENDORS if place % 2 == 0 else VENDORS[::-1]
        with self._lock:
            ends = -(-self._left // self._shards)
            self._left, self._shards = self._left - ends, self._shards - 1
        attempt, retries, code = 0, RETRIES, AGAIN
        while code in (AGAIN, ENDED):
            attempt += 1
            with self._lock:
                order = Order(
                    worker=f"{run}-{place}-{attempt}",
                    shard=shard,
                    vendors=vendors,
                    attempt=attempt,
                    more=ends > 0 or retries > 0,
                    parallel=PARALLEL,
                    deferrable=self.deferrable,
                    cap=cap,
                    clock=next(self._clocks),
                    control=self.control,
                    env=self.env,
                )
            code, ended = self._try(order, dice.uniform(*SPAN) if ends else None)
            ends -= ended
            if not ended and code == AGAIN:
                retries -= 1
        if code not in (DONE, FAILED):
            self.problems.append(f"{order.worker}: ended with {code}")
        with self._lock:
            self._left += ends

    def _try(self, order: Order, moment: float | None) -> tuple[int, bool]:
        """One try; how it ended, and whether it was ended from outside.

        :param moment: seconds after its first record of a call to end it; None: it is let alone.
        """
        with self._worker(order) as (process, at_work):
            if moment is not None:
                wait([at_work, process.sentinel], IDLE)
            process.join(PATIENCE if moment is None else moment)
            if not process.is_alive():
                assert process.exitcode is not None
                return process.exitcode, False
            if moment is None:
                self.problems.append(f"{order.worker}: did not end within {PATIENCE:.0f} s")
                return FAILED, False
            with self._lock:
                kind = next(self._kinds)
                self.cuts.append(Cut(order.worker, kind, time.time()))
            if kind == "stop":
                return self._stop(process, order), True
            self._send(process, {"kill": signal.SIGKILL, "term": signal.SIGTERM, "timeout": signal.SIGALRM}[kind])
            process.join(GRACE)
            return ENDED, True

    def _stop(self, process: BaseProcess, order: Order) -> int:
        """Stop a try, let its twin work until nobody waits for its calls any more, and continue it."""
        self._send(process, signal.SIGSTOP)
        with self._worker(replace(order, worker=f"{order.worker}-twin", attempt=order.attempt + 1)) as (twin, _):
            twin.join(PAST)
            self._send(process, signal.SIGCONT)
            twin.join(PATIENCE)
            code = FAILED if twin.exitcode is None else twin.exitcode
        process.join(GRACE)
        return code

    def _send(self, process: BaseProcess, number: signal.Signals) -> None:
        if process.is_alive():
            assert process.pid is not None
            os.kill(process.pid, number)

    @contextmanager
    def _worker(self, order: Order) -> Iterator[tuple[BaseProcess, Connection]]:
        """A worker, and what it tells of its first record by; killed at the end if it still lives."""
        context = nursery()
        ready, theirs = context.Pipe(duplex=False)
        process = context.Process(target=work, args=(order, theirs), name=order.worker, daemon=True)
        process.start()
        theirs.close()
        with self._lock:
            self.starts += 1
        try:
            ready.recv()  # EOFError: it died before; what it printed says why
            yield process, ready
        finally:
            process.kill()
            process.join()
            ready.close()
