"""A finished task of a vendor, landed in S3."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from airflow.providers.common.compat.sdk import BaseOperator

from airflow_provider_bgai.exceptions import BgaiError, InvalidRequestError
from airflow_provider_bgai.operators.generate import OnUnfaithful, collector, fail, inspection, landed_result, run

if TYPE_CHECKING:
    from airflow.providers.common.compat.sdk import Context


class LandBackgroundOperator(BaseOperator):
    """Fetch the pictures of a vendor's task and put them into S3. Never pays; safe to repeat.

    :param conn_id: the vendor's connection; the account that paid for the task.
    :param vendor_task_id: what ``GenerateBackgroundOperator`` returned (``submit.output``), or a task ID from
        anywhere. Only with the former is the landing recorded, so that no later run buys the picture again.
    :param destination: ``s3://bucket/key-{index}.{ext}``: index from 1, extension by the bytes.
    :param aws_conn_id: the connection to S3.
    :param on_unfaithful: see ``GenerateBackgroundOperator``. With a bare ID there is nothing to compare with.
    :param timeout: seconds to wait for the vendor, should the task not have ended.
    """

    template_fields: Sequence[str] = ("conn_id", "vendor_task_id", "destination", "aws_conn_id")
    ui_color = "#e8e4f3"

    def __init__(
        self,
        *,
        conn_id: str,
        vendor_task_id: str | Mapping[str, Any],
        destination: str,
        aws_conn_id: str | None = "aws_default",
        timeout: float = 60,
        on_unfaithful: OnUnfaithful = "warn",
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        self.conn_id = conn_id
        self.vendor_task_id = vendor_task_id
        self.destination = destination
        self.aws_conn_id = aws_conn_id
        self.timeout = timeout
        self.on_unfaithful = on_unfaithful

    def execute(self, context: Context) -> dict[str, Any]:
        """Land the task; a result like ``GenerateBackgroundOperator``'s, whose cost is 0: landing never pays."""
        try:
            if isinstance(self.vendor_task_id, Mapping):
                return self._land_claim(self.vendor_task_id)
            return self._land_task(self.vendor_task_id)
        except BgaiError as error:
            fail(error)

    def _land_claim(self, submitted: Mapping[str, Any]) -> dict[str, Any]:
        """What a GenerateBackgroundOperator submitted, or landed already: recorded in its ledger."""
        from airflow_provider_bgai.catalogue.ledger import ledger_of

        buyer, claim = collector(submitted["claim"], self.aws_conn_id)
        ledger = ledger_of(buyer.storage, claim.uri)
        landed = ledger.read_landed(claim.fingerprint)
        if landed is None or landed.landed_at < claim.claimed_at:
            landed = run(buyer, buyer.finish(claim, timeout=self.timeout, inspection=inspection(self.on_unfaithful)))
        landed = run(buyer, buyer.placed(landed, self.destination))
        return landed_result(landed, claim.uri, paid=False, reused=False)

    def _land_task(self, task_id: str) -> dict[str, Any]:
        """A bare task ID: landed, but in no ledger."""
        from airflow_provider_bgai.catalogue.landing import land
        from airflow_provider_bgai.catalogue.ledger import Landed
        from airflow_provider_bgai.catalogue.purchase import Buyer
        from airflow_provider_bgai.hooks import get_hook
        from airflow_provider_bgai.models import Generation
        from airflow_provider_bgai.storage import Storage

        storage = Storage(self.aws_conn_id)
        hook = get_hook(self.conn_id, aws_conn_id=self.aws_conn_id)
        buyer = Buyer([hook], storage)
        _ = hook.settings, storage.client
        if not task_id:
            raise InvalidRequestError("vendor_task_id is empty: give a task ID or the output of the submitting task")

        async def work() -> dict[str, Any]:
            known = Generation(vendor=hook.vendor, state="pending", task_id=task_id)
            generation = await hook.wait_for(known, timeout=self.timeout)
            generation.raise_for_failure()
            landing = await land(hook, generation, storage, self.destination)
            landed = Landed(
                fingerprint="",
                vendor=hook.vendor,
                conn_id=hook.conn_id,
                task_id=task_id,
                price=hook.cost(len(generation.images)),
                currency=hook.settings.currency,
                seed=generation.seed,
                model=generation.model,
                prompt_sha256=None,
                seconds=0.0,
                landed_at=time.time(),
                warnings=(*generation.warnings, *landing.warnings),
                images=landing.images,
            )
            return landed_result(landed, None, paid=False, reused=False)

        return run(buyer, work())
