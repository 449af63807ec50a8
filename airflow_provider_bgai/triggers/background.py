"""One trigger that waits for any number of a vendor's tasks.

What it is given is stored in Airflow's database in plain text, and what it yields is logged: connection ID,
task IDs, times and counts only; never a key, a prompt or a result link. The class path and the arguments
are persisted too: renaming them breaks tasks that are deferred during an upgrade.
"""

from __future__ import annotations

import time
from collections.abc import AsyncIterator, Sequence
from typing import Any

from airflow.triggers.base import BaseTrigger, TriggerEvent

from airflow_provider_bgai.exceptions import BgaiError
from airflow_provider_bgai.polling import PollPolicy, TaskWatch

# An event names so many failed tasks; it is stored and logged, and a shard may have thousands.
MAX_PROBLEMS = 20


class BackgroundTaskTrigger(BaseTrigger):
    """Poll tasks with one HTTP client until all have ended, landing gets urgent, or the deadline passes.

    Yields one event: ``{"action": "done" | "land" | "give_up" | "error", "succeeded": int, "failed": int,
    "pending": int, "problems": {task ID: text}, "record": …, "deadline": …}``. It never fails the task itself: the
    worker asks the vendor again and decides.

    :param conn_id: the vendor's connection.
    :param task_ids: the vendor's task IDs.
    :param poll_interval: seconds between the first polls of a task; the interval grows from there.
    :param deadline: epoch seconds. Wall clock, because the trigger may resume in another process.
    :param land_within: seconds after which a finished task should be landed although others are pending.
    :param record: given back in the event: the URI of what the worker recorded of these tasks.
    """

    def __init__(
        self,
        conn_id: str,
        task_ids: Sequence[str],
        poll_interval: float = 2.0,
        deadline: float | None = None,
        land_within: float = 300.0,
        record: str | None = None,
    ) -> None:
        super().__init__()
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
        try:
            async with await aget_hook(self.conn_id) as hook:
                self.log.info("Waiting for %d %s task(s)", len(self.task_ids), hook.vendor)
                ended = await hook.watch(watch)
            problems = {name: result.error or "" for name, result in ended.items() if result.state == "failed"}
            action: str = watch.decide(time.time()).action
        except BgaiError as error:
            action, problems = "error", {"": str(error)}
        problems |= watch.problems
        succeeded = sum(state == "succeeded" for state in watch.ended.values())
        yield TriggerEvent(
            {
                "action": action,
                "succeeded": succeeded,
                "failed": len(watch.ended) - succeeded,
                "pending": len(watch.pending),
                "problems": dict(list(problems.items())[:MAX_PROBLEMS]),
                "record": self.record,
                "deadline": self.deadline,
            }
        )

    async def on_kill(self) -> None:
        """A user ended the deferred task (Airflow 3.3 and later). No vendor can cancel: say where the pictures are."""
        self.log.info(
            "Killed while waiting. The vendor goes on with %s; the record in S3 keeps the task ID(s), and the "
            "next run collects them without paying again",
            ", ".join(self.task_ids[:MAX_PROBLEMS]),
        )
