"""One try of a shard's task, in a process of its own: the real operator, with Airflow's part played here."""

from __future__ import annotations

import asyncio
import faulthandler
import multiprocessing
import os
import signal
import sys
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import partial
from multiprocessing.connection import Connection
from types import FrameType, SimpleNamespace
from typing import TYPE_CHECKING, Any, NoReturn

from benchmarks.chaos.accidents import VENDORS, shift_clock

if TYPE_CHECKING:
    from airflow_provider_bgai.buying.record import Call

TIMEOUT = 4.0
"""Seconds a vendor may take to answer: some never do."""
MARGIN = 1.0
HOLD_FOR = 2.0
"""Seconds; short, so that what is held is released and bought again while the chaos lasts."""
TASK_TIMEOUT = {False: 6.0, True: 20.0}
"""Seconds to wait for the vendors' tasks, because some never end: for each, or, deferred, from the start for all."""
PATIENCE = 8.0
"""Seconds for which S3 is tried with what is paid: longer than it is down."""
IN_FLIGHT = 16

STUCK = 120.0
"""Seconds after which a try that has not ended says where it stands."""

DONE, AGAIN, FAILED, ENDED = 0, 75, 76, 77
"""How a try ends: with results; to be retried; for good; ended from outside, by an exception."""


@dataclass(frozen=True)
class Order:
    """What a try is told.

    :param worker: its name, which the records of its calls carry.
    :param vendors: in order of preference.
    :param attempt: from 1.
    :param more: whether it is retried if it fails.
    :param cap: of the run, in pictures.
    :param clock: seconds by which its clock is off.
    :param control: how it is broken, see ``controls``; empty: it is not.
    """

    worker: str
    shard: str
    vendors: tuple[str, ...]
    attempt: int
    more: bool
    parallel: int
    deferrable: bool
    cap: int | None
    clock: float
    control: str
    env: Mapping[str, str] = field(repr=False)


def work(order: Order, ready: Connection) -> None:
    """The process."""
    os.environ.update(order.env)
    faulthandler.dump_traceback_later(STUCK)
    signal.signal(signal.SIGTERM, _end)
    signal.signal(signal.SIGALRM, _end)
    shift_clock(order.clock)
    hasten(order.worker)
    tell_of_first_call(ready)
    if order.control:
        from benchmarks.chaos.controls import CONTROLS

        CONTROLS[order.control].sabotage()
    ready.send("ready")
    from airflow.providers.common.compat.sdk import AirflowTaskTimeout

    code = ENDED
    try:
        code = _task(order)
    except* AirflowTaskTimeout:
        pass
    sys.exit(code)


def _end(number: int, frame: FrameType | None) -> NoReturn:
    """As Airflow ends a task that takes too long, or that is to go: an exception in the main thread, anywhere."""
    from airflow.providers.common.compat.sdk import AirflowTaskTimeout

    raise AirflowTaskTimeout(signal.Signals(number).name)


def hasten(worker: str) -> None:
    """Shorten what takes minutes: all the proportions stay."""
    from airflow_provider_bgai import storage
    from airflow_provider_bgai.buying import brake, payment

    payment.WORKER, payment.MARGIN = worker, MARGIN
    storage.PATIENCE = PATIENCE
    brake.PROBE_EVERY = 1.0


def tell_of_first_call(ready: Connection) -> None:
    """Say so when the first record of a call is about to be written."""
    from airflow_provider_bgai.buying.calls import Ledger

    write, told = Ledger.open, False

    def telling(self: Ledger, call: Call) -> Call:
        nonlocal told
        if not told:
            told = True
            ready.send("at work")
        return write(self, call)

    Ledger.open = telling  # type: ignore[method-assign]


def _task(order: Order) -> int:
    """Run the task as Airflow does: deferred, it waits in a triggerer, and goes on in another pass."""
    from airflow.providers.common.compat.sdk import AirflowException, AirflowFailException, TaskDeferred

    from airflow_provider_bgai.operators.catalogue import GenerateCatalogueOperator
    from airflow_provider_bgai.storage import store_errors

    operator = GenerateCatalogueOperator(
        task_id="generate",
        shard=order.shard,
        conn_id=[f"{vendor}_default" for vendor in order.vendors],
        budget=None if order.cap is None else {"run": {"pictures": order.cap}},
        in_flight=IN_FLIGHT,
        parallel_shards=order.parallel,
        deferrable=order.deferrable,
        poll_interval=0.5,
        timeout=TASK_TIMEOUT[order.deferrable],
        hold_for=HOLD_FOR,
    )
    instance = SimpleNamespace(try_number=order.attempt, max_tries=order.attempt - (not order.more))
    context: Any = {"ti": instance}
    step = partial(operator.execute, context)
    while True:
        try:
            step()
            return DONE
        except TaskDeferred as deferred:
            event = asyncio.run(_event(deferred.trigger))
            step = partial(getattr(operator, deferred.method_name), context, event)
        except AirflowFailException:
            return FAILED
        except store_errors(AirflowException):
            return AGAIN


async def _event(trigger: Any) -> Any:
    async for event in trigger.run():
        return event.payload
    raise AssertionError("a trigger that ends without an event")


def nursery() -> multiprocessing.context.ForkServerContext:
    """Where workers are forked from: it has imported all they need, or each would spend seconds on that."""
    context = multiprocessing.get_context("forkserver")
    ours = [f"airflow_provider_bgai.hooks.{vendor}" for vendor in VENDORS]
    ours += ["airflow_provider_bgai.operators.catalogue", "airflow_provider_bgai.catalogue.shard"]
    ours += ["airflow_provider_bgai.buying.budget", "airflow_provider_bgai.catalogue.report.costs"]
    theirs = ["airflow.providers.amazon.aws.hooks.s3", "boto3", "PIL.PngImagePlugin", "httpx", "tenacity"]
    context.set_forkserver_preload([*ours, *theirs, "benchmarks.chaos.worker", "benchmarks.chaos.controls"])
    return context
