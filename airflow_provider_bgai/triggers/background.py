"""One trigger that waits for any number of a vendor's tasks, and the event it yields.

What it is given is stored in Airflow's database in plain text, and what it yields is logged: connection ID,
task IDs, times and counts only; never a key, a prompt or a result link. The class path and the arguments
are persisted too, and a task that waits while the package is upgraded wakes up in another release: the path stays, a
new argument has a default, and an unknown one is passed over.
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import AsyncIterator, Sequence
from typing import Any, Literal

from airflow.triggers.base import BaseTrigger, TriggerEvent
from pydantic import BaseModel, ConfigDict, ValidationError

from airflow_provider_bgai.exceptions import BgaiError, PollError
from airflow_provider_bgai.polling import PollPolicy, TaskWatch

# An event names so many failed tasks; it is stored and logged, and a shard may have thousands.
MAX_PROBLEMS = 20


Action = Literal["done", "land", "give_up", "error"]


class Event(BaseModel):
    """What the trigger tells the task that waits.

    :param action: ``done``: all have ended; ``land``: some have, and must not wait longer; ``give_up``: the deadline
        has passed; ``error``: none could be asked.
    :param succeeded, failed, pending: how many tasks.
    :param problems: task ID -> what is wrong with it; ``""`` where it is wrong with all.
    :param record: what the trigger was given to hand back.
    :param deadline: epoch seconds.
    :param waiting: the tasks that were pending a moment ago, where others are to be landed: they need not be asked for.
    :param counts: what the hook of ``vendor`` has counted: the worker tells it, Airflow's metrics are off in triggers.
    """

    model_config = ConfigDict(frozen=True, extra="ignore")

    action: Action
    succeeded: int
    failed: int
    pending: int
    problems: dict[str, str]
    record: str | None
    deadline: float
    waiting: list[str] = []
    vendor: str = ""
    counts: dict[str, int] = {}

    @classmethod
    def of(cls, event: Any) -> Event:
        """The event that Airflow hands over. :raises PollError: if it is none: the vendor is to be asked anew."""
        try:
            return cls.model_validate(event)
        except ValidationError as error:
            wrong = ", ".join(sorted({str(each["loc"][0]) if each["loc"] else "all" for each in error.errors()}))
            raise PollError(
                f"What the triggerer sent is no event of BackgroundTaskTrigger (wrong: {wrong}): {str(event)[:300]!r}. "
                "Nothing is lost: a retry collects what the records name"
            ) from None


class BackgroundTaskTrigger(BaseTrigger):
    """Poll tasks with one HTTP client until all have ended, landing gets urgent, or the deadline passes.

    Yields one :class:`Event`, as a mapping. It never fails the task itself: the worker asks the vendor again, and
    decides.

    :param conn_id: the vendor's connection.
    :param task_ids: the vendor's task IDs.
    :param poll_interval: seconds between the first polls of a task; the interval grows from there.
    :param deadline: epoch seconds. Wall clock, because the trigger may resume in another process.
    :param land_within: seconds after which a finished task should be landed although others are pending.
    :param record: given back in the event: the URI of what the worker recorded of these tasks.
    :param unknown: arguments of a release before or after this one.
    """

    def __init__(
        self,
        conn_id: str,
        task_ids: Sequence[str],
        poll_interval: float = 2.0,
        deadline: float | None = None,
        land_within: float = 300.0,
        record: str | None = None,
        **unknown: Any,
    ) -> None:
        super().__init__()
        if unknown:
            self.log.warning("Of another release, and passed over: %s", ", ".join(sorted(unknown)))
        self.conn_id = conn_id
        self.task_ids = list(task_ids)
        self.poll_interval = poll_interval
        self.deadline = time.time() + 600.0 if deadline is None else deadline
        self.land_within = land_within
        self.record = record

    def serialize(self) -> tuple[str, dict[str, Any]]:
        """Class path and arguments, as Airflow stores them."""
        return (
            "airflow_provider_bgai.triggers.background.BackgroundTaskTrigger",
            {
                "conn_id": self.conn_id,
                "task_ids": self.task_ids,
                "poll_interval": self.poll_interval,
                "deadline": self.deadline,
                "land_within": self.land_within,
                "record": self.record,
            },
        )

    async def run(self) -> AsyncIterator[TriggerEvent]:
        """Wait, and yield exactly one event."""
        from airflow_provider_bgai.hooks import aget_hook

        policy = PollPolicy(interval=self.poll_interval, land_within=self.land_within)
        now = time.time()
        watch = TaskWatch(self.task_ids, deadline=self.deadline, now=now, policy=policy)
        problems: dict[str, str] = {}
        action: Action
        vendor, counts = "", Counter[str]()
        try:
            async with await aget_hook(self.conn_id) as hook:
                vendor, counts = hook.vendor, hook.counts
                self.log.info("Waiting for %d %s task(s)", len(self.task_ids), hook.vendor)
                ended = await hook.watch(watch)
            problems = {name: result.error or "" for name, result in ended.items() if result.state == "failed"}
            decided = watch.decide(time.time()).action
            action = "land" if decided == "poll" else decided  # it was not "poll" a moment ago
        except BgaiError as error:
            action, problems = "error", {"": str(error)}
        problems |= watch.problems
        succeeded = sum(state == "succeeded" for state in watch.ended.values())
        event = Event(
            action=action,
            succeeded=succeeded,
            failed=len(watch.ended) - succeeded,
            pending=len(watch.pending),
            problems=dict(list(problems.items())[:MAX_PROBLEMS]),
            record=self.record,
            deadline=self.deadline,
            waiting=watch.pending if action == "land" else [],
            vendor=vendor,
            counts=counts,
        )
        yield TriggerEvent(event.model_dump())

    async def on_kill(self) -> None:
        """A user ended the deferred task (Airflow 3.3 and later). No vendor can cancel: say where the pictures are."""
        self.log.info(
            "Killed while waiting. The vendor goes on with %s; the record in S3 keeps the task ID(s), and the "
            "next run collects them without paying again",
            ", ".join(self.task_ids[:MAX_PROBLEMS]),
        )
