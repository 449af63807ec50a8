"""Waiting for a vendor's tasks, whoever submitted them."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Mapping, Sequence
from datetime import timedelta
from typing import TYPE_CHECKING, Any

from airflow.providers.common.compat.sdk import (
    AirflowFailException,
    AirflowSensorTimeout,
    AirflowSkipException,
    BaseSensorOperator,
    PokeReturnValue,
    conf,
)

from airflow_provider_bgai.exceptions import BgaiError
from airflow_provider_bgai.operators._task import TaskResult, fail
from airflow_provider_bgai.triggers.background import MAX_PROBLEMS, BackgroundTaskTrigger, Event
from airflow_provider_bgai.ui.links import Shown

if TYPE_CHECKING:
    from airflow.providers.common.compat.sdk import Context, XComArg

    from airflow_provider_bgai.hooks.base import BackgroundHook
    from airflow_provider_bgai.models import Generation


class BackgroundTaskSensor(Shown, BaseSensorOperator):
    """Wait until one task, or all of many, have ended at the vendor. Fails if one of them failed.

    :param conn_id: the vendor's connection.
    :param vendor_task_id: a task ID, a list of them, or what ``GenerateBackgroundOperator`` returned
        (``submit.output``). A picture that has landed already, as with vendors that answer at once, is
        nothing to wait for.
    :param deferrable: wait in the triggerer, without a worker slot.
    :param poke_interval: seconds between polls at first; in the triggerer the interval grows.
    :param timeout: seconds to wait in all.
    """

    template_fields: Sequence[str] = ("conn_id", "vendor_task_id")
    ui_color = "#e8e4f3"

    def __init__(
        self,
        *,
        conn_id: str,
        vendor_task_id: str | Sequence[Any] | Mapping[str, Any] | XComArg,
        deferrable: bool = conf.getboolean("operators", "default_deferrable", fallback=False),
        poke_interval: float = 5,
        timeout: float = 3600,
        **kwargs: Any,
    ) -> None:
        super().__init__(poke_interval=poke_interval, timeout=timeout, **kwargs)
        self.conn_id = conn_id
        self.vendor_task_id = vendor_task_id
        self.deferrable = deferrable
        self._runner: asyncio.Runner | None = None
        self._hook: BackgroundHook | None = None
        self._ended: dict[str, Generation] = {}

    def execute(self, context: Context) -> Any:
        """Poke once; then wait here, or in the triggerer."""
        if not self.deferrable:
            try:
                return super().execute(context)
            finally:
                self._close()
        try:
            if self.poke(context):
                return {"succeeded": len(self._task_ids())}
        finally:
            self._close()
        self.defer(
            trigger=BackgroundTaskTrigger(
                conn_id=self.conn_id,
                task_ids=self._task_ids(),
                poll_interval=_seconds(self.poke_interval),
                deadline=time.time() + _seconds(self.timeout),
                # Landing is not this sensor's business: it waits for all of them.
                land_within=_seconds(self.timeout) + 1,
            ),
            method_name="execute_complete",
            timeout=timedelta(seconds=_seconds(self.timeout) + 120),
        )
        raise AssertionError("defer() does not return")

    def execute_complete(self, context: Context, event: dict[str, Any]) -> dict[str, Any]:
        """Judge what the trigger found."""
        try:
            came = Event.of(event)
        except BgaiError as error:
            fail(error)
        problems = "; ".join(f"{task_id} {text}".strip() for task_id, text in came.problems.items())
        if came.failed:
            self._fail(f"{came.failed} task(s) failed: {problems}")
        if came.action == "error":
            self._fail(problems)
        if came.action != "done":
            message = f"{came.pending} task(s) still pending after {self.timeout} s. {problems}"
            if self.soft_fail:
                raise AirflowSkipException(message)
            raise AirflowSensorTimeout(message)
        self.log.info("All %d task(s) have succeeded", came.succeeded)
        return {"succeeded": came.succeeded}

    def poke(self, context: Context) -> bool | PokeReturnValue:
        """Ask once for every task that has not ended."""
        task_ids = self._task_ids()
        if not task_ids:
            self.log.info("Nothing to wait for: the picture has landed already")
            return PokeReturnValue(is_done=True, xcom_value={"succeeded": 0})
        try:
            self._poll(task_ids)
        except BgaiError as error:
            if self.soft_fail:
                raise AirflowSkipException(str(error)) from error
            fail(error)
        failed = [f"{name} {it.error}" for name, it in self._ended.items() if it.state == "failed"]
        if failed:
            self._fail(f"{len(failed)} task(s) failed: {'; '.join(failed[:MAX_PROBLEMS])}")
        if len(self._ended) < len(task_ids):
            self.log.info("%d of %d task(s) have ended", len(self._ended), len(task_ids))
            return False
        self.log.info("All %d task(s) have succeeded", len(task_ids))
        return PokeReturnValue(is_done=True, xcom_value={"succeeded": len(task_ids)})

    def _poll(self, task_ids: list[str]) -> None:
        """Ask once for every task that has not ended, with one client for all pokes."""
        if self._runner is None or self._hook is None:
            from airflow_provider_bgai.hooks import get_hook

            self._runner, self._hook = asyncio.Runner(), get_hook(self.conn_id)
            _ = self._hook.settings
        asked = [task_id for task_id in task_ids if task_id not in self._ended]
        self._ended |= self._runner.run(self._hook.poll_all(asked))

    def _close(self) -> None:
        if self._runner is not None and self._hook is not None:
            self._runner.run(self._hook.aclose())
            self._runner.close()
        self._runner = self._hook = None

    def _fail(self, message: str) -> None:
        if self.soft_fail:
            raise AirflowSkipException(message)
        raise AirflowFailException(message)

    def _task_ids(self) -> list[str]:
        """The IDs to wait for, out of any of the accepted forms."""
        given = self.vendor_task_id
        items = list(given) if isinstance(given, Sequence) and not isinstance(given, str) else [given]
        found = []
        for item in items:
            if isinstance(item, str) and item.strip():
                found.append(item.strip())
                continue
            try:
                submitted = TaskResult.read(item)
            except BgaiError as error:
                fail(error)
            if submitted.state == "pending" and submitted.task_id:
                found.append(submitted.task_id)
        return list(dict.fromkeys(found))


def _seconds(value: float | timedelta) -> float:
    return value.total_seconds() if isinstance(value, timedelta) else float(value)
