"""A finished task of a vendor, landed in S3."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from decimal import Decimal
from typing import TYPE_CHECKING, Any

from airflow.providers.common.compat.sdk import BaseOperator

from airflow_provider_bgai.exceptions import InvalidRequestError
from airflow_provider_bgai.layout import Layout
from airflow_provider_bgai.operators._lineage import OpenLineage, alias, update
from airflow_provider_bgai.operators._metrics import count_hooks
from airflow_provider_bgai.operators._task import (
    Accounts,
    TaskResult,
    collect,
    fail,
    failures,
    open_storage,
    place,
    read_call,
    run_of_task,
    tell,
)
from airflow_provider_bgai.operators.generate import OnUnfaithful, inspection
from airflow_provider_bgai.ui.links import PICTURES, Shown

if TYPE_CHECKING:
    from airflow.providers.common.compat.sdk import Context, XComArg

    from airflow_provider_bgai.hooks.base import BackgroundHook
    from airflow_provider_bgai.storage import Storage


class LandBackgroundOperator(Shown, OpenLineage, BaseOperator):
    """Fetch the pictures of a vendor's task and put them into S3. Never pays; safe to repeat.

    :param conn_id: the vendor's connection; the account that paid for the task.
    :param vendor_task_id: what ``GenerateBackgroundOperator`` returned (``submit.output``), or a task ID from
        anywhere. Only with the former is the landing on record, so that no later run buys the picture again.
    :param destination: ``s3://bucket/key-{index}.{ext}``: index from 1, extension by the bytes.
    :param aws_conn_id: the connection to S3; ``extra_args``: what every write is given besides (encryption, …).
    :param on_unfaithful: see ``GenerateBackgroundOperator``. With a bare ID there is nothing to compare with.
    :param timeout: seconds to wait for the vendor, should the task not have ended.
    """

    template_fields: Sequence[str] = ("conn_id", "vendor_task_id", "destination", "aws_conn_id")
    operator_extra_links = PICTURES

    def __init__(
        self,
        *,
        conn_id: str,
        vendor_task_id: str | Mapping[str, Any] | XComArg,
        destination: str,
        aws_conn_id: str | None = "aws_default",
        extra_args: Mapping[str, Any] | None = None,
        timeout: float = 60,
        on_unfaithful: OnUnfaithful = "warn",
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        self.conn_id = conn_id
        self.vendor_task_id = vendor_task_id
        self.destination = destination
        self.aws_conn_id = aws_conn_id
        self.extra_args = extra_args
        self.timeout = timeout
        self.on_unfaithful = on_unfaithful
        if not self.outlets and "outlets" not in kwargs:
            self.outlets = alias(f"{self.dag_id}.{self.task_id}")

    def execute(self, context: Context) -> dict[str, Any]:
        """Land the task; a result like ``GenerateBackgroundOperator``'s, whose cost is 0: landing never pays."""
        from airflow_provider_bgai.buying.landing import destination_root

        try:
            if isinstance(self.vendor_task_id, Mapping):
                landed = self._land_call(TaskResult.read(self.vendor_task_id), run_of_task(context))
            else:
                landed = self._land_task(str(self.vendor_task_id or ""))
        except failures() as error:
            fail(error)
        self.writes = [image["uri"] for image in landed.images]
        update(context, self.outlets, destination_root(self.destination), {"pictures": len(landed.images)})
        return tell(landed)

    def _land_call(self, submitted: TaskResult, run: str) -> TaskResult:
        """What a GenerateBackgroundOperator has submitted, or landed already: on record in its ledger."""
        ledger, call = read_call(open_storage(self.aws_conn_id, self.extra_args), submitted.call)
        call = collect(ledger, call, run, self.timeout)
        images = place(ledger, call, self.destination)
        return TaskResult.of(call, submitted.call, images, cost=Decimal(0))

    def _land_task(self, task_id: str) -> TaskResult:
        """A bare task ID: landed, but in no ledger."""
        if not task_id:
            raise InvalidRequestError("vendor_task_id is empty: give a task ID or the output of the submitting task")
        storage = open_storage(self.aws_conn_id, self.extra_args)
        (hook,) = Accounts(storage, self.conn_id).hooks
        return asyncio.run(self._landed(storage, hook, task_id))

    async def _landed(self, storage: Storage, hook: BackgroundHook, task_id: str) -> TaskResult:
        from airflow_provider_bgai.buying.landing import check_destination, destination_root, land, name_output
        from airflow_provider_bgai.buying.record import Call
        from airflow_provider_bgai.models import Generation

        def there(index: int, count: int, sha256: str, extension: str, good: bool) -> str:
            return name_output(self.destination, index, extension)

        def keep(index: int, count: int, extension: str) -> str:
            return Layout(destination_root(self.destination)).delivered(task_id, index, count, extension)

        try:
            known = Generation(vendor=hook.vendor, state="pending", task_id=task_id)
            generation = await hook.wait_for(known, timeout=self.timeout)
            generation.raise_for_failure()
            check_destination(self.destination, len(generation.images))
            now = await asyncio.to_thread(storage.now)
            call = Call(
                call_id=task_id,
                fingerprint=f"{hook.vendor}-{task_id}",
                number=1,
                run="",
                owner="",
                state="landed",
                conn_id=hook.conn_id,
                vendor=hook.vendor,
                model=generation.model,
                seed=generation.seed,
                currency=hook.settings.currency,
                sent_at=now,
                answer_by=now,
                task_id=task_id,
                warnings=generation.warnings,
                inspection=inspection("ignore"),
            )
            landing = await land(hook, generation, storage, call, None, there, keep)
        finally:
            count_hooks([hook])
            await hook.aclose()
        images = [output.model_dump(mode="json") for output in landing.images]
        call = call.model_copy(update={"warnings": (*call.warnings, *landing.warnings)})
        return TaskResult.of(call, None, images, cost=Decimal(0))
