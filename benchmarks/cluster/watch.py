"""The run, seen from outside: read from database, broker and sandbox, because Airflow itself may be down."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import TypeVar

from benchmarks.cluster.cluster import Cluster
from demo.services import SandboxService, ServiceError

PATIENCE = 900.0
"""Seconds to wait for anything: for a part to recover, for the next part of the night."""
OVER = ("success", "failed")

T = TypeVar("T")


@dataclass
class Watch:
    """One run of a DAG.

    :ivar given_up: nobody wants to know any more, so nothing waits.
    """

    up: Cluster
    sandbox: SandboxService
    dag_id: str
    run_id: str
    given_up: bool = False

    def wait(self, ready: Callable[[], bool], patience: float = PATIENCE) -> float | None:
        """When it was ready (epoch seconds); None: not in time. What does not answer just now is asked again.

        :raises ServiceError: if a part ends again and again.
        """
        import psycopg
        import redis
        from kombu.exceptions import OperationalError

        deadline = time.time() + patience
        while time.time() < deadline and not self.given_up:
            if self.up.problems:
                raise ServiceError(self.up.problems[0])
            try:
                if ready():
                    return time.time()
            except (psycopg.Error, redis.RedisError, OperationalError):
                pass
            time.sleep(0.5)
        return None

    def insist(self, question: Callable[[], T]) -> T:
        """The answer, however long nobody answers. :raises ServiceError: if nobody does in all."""
        answers: list[T] = []

        def ask() -> bool:
            answers.append(question())
            return True

        self.wait(ask)
        if not answers:
            raise ServiceError(f"nobody answers for {PATIENCE:.0f} s")
        return answers[0]

    def state(self) -> str:
        """Of the run."""
        found = self.up.ask("select state from dag_run where dag_id = %s and run_id = %s", self.dag_id, self.run_id)
        return str(found[0][0]) if found else ""

    def over(self) -> bool:
        return self.state() in OVER

    def charged(self) -> int:
        """Pictures bought so far."""
        return sum(self.sandbox.bill().values())

    def running(self) -> dict[int, tuple[str, int, int]]:
        """The tasks on the workers, by process ID: name, map index, try."""
        query = "select pid, task_id, map_index, try_number from task_instance where state = 'running' and pid > 0"
        return {pid: (task, place, attempt) for pid, task, place, attempt in self.up.ask(query)}

    def tried_again(self, task: str, place: int, attempt: int) -> bool:
        """Whether a task has ended, or is under way in a later try."""
        query = """select count(*) from task_instance where run_id = %s and task_id = %s and map_index = %s and
            (state = 'success' or (try_number > %s and state in ('running', 'deferred')))"""
        return bool(self.up.ask(query, self.run_id, task, place, attempt)[0][0])

    def retries(self) -> int:
        """Tries beyond the first ones, of all tasks."""
        query = "select coalesce(sum(try_number - 1), 0) from task_instance where run_id = %s and try_number > 1"
        return int(self.up.ask(query, self.run_id)[0][0])

    def queued_since(self, moment: float) -> bool:
        """Whether the scheduler has queued a task since then."""
        query = "select count(*) from task_instance where run_id = %s and queued_dttm > to_timestamp(%s)"
        return bool(self.up.ask(query, self.run_id, moment)[0][0])

    def triggerers(self) -> int:
        """How many triggerers hold a trigger."""
        return int(self.up.ask("select count(distinct triggerer_id) from trigger")[0][0])

    def triggers_since(self, moment: float) -> int:
        """How many triggers are a triggerer's that has not reported since then."""
        query = (
            "select count(*) from trigger join job on job.id = triggerer_id where latest_heartbeat <= to_timestamp(%s)"
        )
        return int(self.up.ask(query, moment)[0][0])

    def messages(self) -> int:
        """Celery's messages that no worker has done with: those that one has taken among them."""
        import redis

        with redis.Redis.from_url(self.up.broker, socket_timeout=2) as client:
            return int(client.llen("default")) + int(client.hlen("unacked"))
