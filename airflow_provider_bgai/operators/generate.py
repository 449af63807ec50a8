"""One background for one product, bought once and landed in S3."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Mapping, Sequence
from datetime import timedelta
from decimal import Decimal
from typing import TYPE_CHECKING, Any, Literal

from airflow.providers.common.compat.sdk import BaseOperator, conf

from airflow_provider_bgai.exceptions import BgaiError, InvalidRequestError, StoppedError
from airflow_provider_bgai.operators import _metrics
from airflow_provider_bgai.operators._lineage import OpenLineage, alias, update
from airflow_provider_bgai.operators._task import (
    Accounts,
    TaskResult,
    collect,
    fail,
    failures,
    insist_on_pictures,
    open_storage,
    place,
    read_call,
    run_of_task,
    tell,
    wind_up,
)
from airflow_provider_bgai.polling import PollPolicy
from airflow_provider_bgai.triggers.background import BackgroundTaskTrigger, Event
from airflow_provider_bgai.ui.links import PICTURES, Shown

if TYPE_CHECKING:
    from airflow.providers.common.compat.sdk import Context

    from airflow_provider_bgai.buying.budget import Budget
    from airflow_provider_bgai.buying.calls import Ledger
    from airflow_provider_bgai.buying.decision import OnUnknownOutcome
    from airflow_provider_bgai.buying.record import Call
    from airflow_provider_bgai.imaging.inspect import Inspection
    from airflow_provider_bgai.models import BackgroundRequest
    from airflow_provider_bgai.storage import Storage

OnUnfaithful = Literal["warn", "quarantine", "ignore"]

# Once the trigger says a task has ended, how long the worker keeps asking for it and its pictures (s).
COLLECT_TIMEOUT = 60.0
# Calls of other runs that are older than this are settled by whoever comes along (s).
ABANDONED = 3600.0


class GenerateBackgroundOperator(Shown, OpenLineage, BaseOperator):
    """Paint a new background behind a product and land the pictures in S3, paying once.

    A record is written to S3 before the paid call (``_bgai/calls/`` beside the destination) and the vendor's
    task ID right after it. A retry, a cleared task, another run and tomorrow's run all find it: they collect
    what was paid, and where the pictures have landed they pay nothing. To buy the same picture anew, change
    the seed or ``epoch``.

    The result (XCom) is a small :class:`~airflow_provider_bgai.operators._task.TaskResult`: state, vendor, conn_id,
    task_id, call (the record's URI), images (uri, bytes, sha256, width, height, content_type), seed, model, cost (of
    all calls that this run sent for it), price (of the call), currency, seconds, reused, unknown_outcomes, warnings.

    :param conn_id: the vendor's connection, or several in order of preference: the next one serves where one
        refuses, fails or is out of quota; never after an unknown outcome.
    :param image: the cut-out: ``s3://``, ``https://`` or a path on the worker.
    :param prompt: what the background should look like.
    :param negative_prompt, seed, count, template, guidance_image, guidance_scale, options: see
        :class:`~airflow_provider_bgai.models.BackgroundRequest`. What the vendor does not have is refused.
    :param destination: ``s3://bucket/key-{index}.{ext}``: index from 1, extension by the bytes.
    :param ledger: an ``s3://`` prefix for the records and the pictures' originals, below its ``_bgai/``; None: the
        destination's folder. Name one where the destination changes by itself (``{{ ds }}``), or every day starts a new
        ledger and pays again.
    :param budget: caps, e.g. ``{"day": {"pictures": 50}}``; ``{"root": "s3://…", …}`` for one wallet of several tasks.
    :param aws_conn_id: the connection to S3; ``extra_args``: what every write is given besides, as in the Amazon
        provider (``ServerSideEncryption``, ``SSEKMSKeyId``, …).
    :param wait_for_completion: False: return once the task is submitted; ``BackgroundTaskSensor`` and
        ``LandBackgroundOperator`` do the rest. Vendors that answer at once land in any case.
    :param deferrable: wait in the triggerer, without a worker slot.
    :param poll_interval: seconds between polls at first; the interval grows.
    :param timeout: seconds one try waits for the vendor. Afterwards a retry goes on waiting for the same task.
    :param epoch: any text; another one buys the same picture anew.
    :param on_unknown_outcome: what to do where nobody can know whether a call was charged: ``"hold"`` (fail,
        and let nobody buy this picture for 20 hours), ``"fail"`` (fail, until somebody decides:
        ``bgai-ledger release``), or ``"resubmit"`` (buy again at once; **may pay twice**, which the records count).
    :param outlets: assets to be updated; by default, on Airflow 3, the one of the destination's folder, through the
        alias ``<dag_id>.<task_id>``. A mapped task has those that ``partial()`` names.
    :param on_unfaithful: what to do with a picture that does not show the product as it is: ``"warn"`` (land it, with
        the verdict among the result's warnings), ``"quarantine"`` (put it aside and fail), or ``"ignore"`` (do
        not compare).
    """

    template_fields: Sequence[str] = (
        "conn_id",
        "image",
        "prompt",
        "negative_prompt",
        "seed",
        "count",
        "template",
        "guidance_image",
        "guidance_scale",
        "options",
        "destination",
        "ledger",
        "budget",
        "aws_conn_id",
        "epoch",
    )
    template_fields_renderers = {"options": "json", "budget": "json"}
    operator_extra_links = PICTURES

    def __init__(
        self,
        *,
        conn_id: str | Sequence[str],
        image: str,
        destination: str,
        prompt: str | None = None,
        negative_prompt: str | None = None,
        seed: int | str | None = None,
        count: int | str = 1,
        template: str | int | None = None,
        guidance_image: str | None = None,
        guidance_scale: float | str | None = None,
        options: Mapping[str, Any] | None = None,
        ledger: str | None = None,
        budget: Mapping[str, Any] | None = None,
        aws_conn_id: str | None = "aws_default",
        extra_args: Mapping[str, Any] | None = None,
        wait_for_completion: bool = True,
        deferrable: bool = conf.getboolean("operators", "default_deferrable", fallback=False),
        poll_interval: float = 2,
        timeout: float = 600,
        epoch: str | None = None,
        on_unknown_outcome: OnUnknownOutcome = "hold",
        on_unfaithful: OnUnfaithful = "warn",
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        self.conn_id = conn_id
        self.image = image
        self.destination = destination
        self.prompt = prompt
        self.negative_prompt = negative_prompt
        self.seed = seed
        self.count = count
        self.template = template
        self.guidance_image = guidance_image
        self.guidance_scale = guidance_scale
        self.options = options
        self.ledger = ledger
        self.budget = budget
        self.aws_conn_id = aws_conn_id
        self.extra_args = extra_args
        self.wait_for_completion = wait_for_completion
        self.deferrable = deferrable
        self.poll_interval = poll_interval
        self.timeout = timeout
        self.epoch = epoch
        self.on_unknown_outcome = on_unknown_outcome
        self.on_unfaithful = on_unfaithful
        # A mapped task's outlets are known to Airflow only where partial() names them. An alias, because an asset of
        # S3 loads the Amazon provider while the DAG is parsed.
        if not self.outlets and "outlets" not in kwargs:
            self.outlets = alias(f"{self.dag_id}.{self.task_id}")

    def execute(self, context: Context) -> dict[str, Any]:
        """Buy the picture, or find it bought; land it, or wait for it."""
        from airflow_provider_bgai.buying.brake import LaterError

        try:
            request, wish_inspection = self._request(), inspection(self.on_unfaithful)
            storage, ledger = self._open(request)
            accounts = Accounts(storage, self.conn_id, staging=ledger.layout.staged)
            call, reused = asyncio.run(self._buy(accounts, ledger, request, wish_inspection, run_of_task(context)))
        except LaterError as error:
            fail(StoppedError(f"{error} is stopped for now"))
        except failures() as error:
            if isinstance(error, BgaiError):
                _metrics.count("refused", int(error.reason in ("refused", "moderation")), error.vendor or "none")
            fail(error)
        if call.state != "answered":
            return self._landed(context, ledger, call, reused=reused)
        uri = ledger.layout.call(call.fingerprint, call.number)
        if not self.wait_for_completion:
            return tell(TaskResult.of(call, uri, cost=call.price))
        self.defer(
            trigger=BackgroundTaskTrigger(
                conn_id=call.conn_id,
                task_ids=[str(call.task_id)],
                poll_interval=self.poll_interval,
                deadline=time.time() + self.timeout,
                record=uri,
            ),
            method_name="execute_complete",
            # The trigger's own deadline comes first: it resumes the task, which then says what is kept.
            timeout=timedelta(seconds=self.timeout + 120),
        )
        raise AssertionError("defer() does not return")

    def execute_complete(self, context: Context, event: dict[str, Any]) -> dict[str, Any]:
        """Collect what the trigger waited for. Asks the vendor again: links of last minute are fresh."""
        run = run_of_task(context)
        try:
            came = Event.of(event)
            _metrics.count_all(came.counts, came.vendor)
            ledger, call = read_call(open_storage(self.aws_conn_id, self.extra_args), came.record)
            timeout = 1.0 if came.action == "give_up" else COLLECT_TIMEOUT
            call = collect(ledger, call, run, timeout, purse_of(self.budget, ledger, run))
        except failures() as error:
            fail(error)
        return self._landed(context, ledger, call, reused=False)

    def on_kill(self) -> None:
        """No vendor can cancel a task. The record in S3 keeps its ID for the next try or run."""
        self.log.info("Killed. What was answered is kept on record; the next try or run collects it")

    async def _buy(
        self, accounts: Accounts, ledger: Ledger, request: BackgroundRequest, how: Inspection, run: str
    ) -> tuple[Call, bool]:
        """Buy or find the picture, and land it unless somebody else waits for it; whether it was there before."""
        from airflow_provider_bgai.buying.buyer import Buyer
        from airflow_provider_bgai.buying.purchase import Wish

        purse = purse_of(self.budget, ledger, run)
        buyer = Buyer(accounts.hooks, ledger, run=run, owner=run, purse=purse, account=accounts)
        wish = Wish(
            request=request,
            sku=self.task_id,
            epoch=self.epoch,
            on_unknown_outcome=self.on_unknown_outcome,
            inspection=how,
        )
        try:
            purchase = await buyer.open(wish)
            call = await buyer.begin(purchase)
            reused = call.state == "landed" and call.call_id not in buyer.ended
            if call.state == "answered" and (call.task_id is None or self._waits_here()):
                policy = PollPolicy(interval=self.poll_interval)
                call = await buyer.collect(call, timeout=self.timeout, source=purchase.source.data, policy=policy)
            insist_on_pictures(ledger, call)
            return call, reused
        finally:
            await wind_up(buyer, purse, accounts, settle_others_after=ABANDONED)

    def _landed(self, context: Context, ledger: Ledger, call: Call, *, reused: bool) -> dict[str, Any]:
        """Put the pictures where they are wanted; what this run's calls for it cost in all."""
        from airflow_provider_bgai.buying.landing import destination_root
        from airflow_provider_bgai.buying.record import PAID

        run = run_of_task(context)
        images = place(ledger, call, self.destination)
        self.reads, self.writes = [self.image], [image["uri"] for image in images]
        counts = {"pictures": len(images), "bought": 0 if reused else len(images)}
        update(context, self.outlets, destination_root(self.destination), counts)
        calls = [it for it in (ledger.all(call.fingerprint) if call.number > 1 else [call]) if it.run == run]
        prices = [it.price for it in calls if it.state in PAID]
        cost = None if None in prices else sum((price for price in prices if price is not None), Decimal(0))
        unknown = sum(it.state in ("unknown", "sent") for it in calls)
        uri = ledger.layout.call(call.fingerprint, call.number)
        return tell(TaskResult.of(call, uri, images, cost=cost, reused=reused, unknown=unknown))

    def _waits_here(self) -> bool:
        return self.wait_for_completion and not self.deferrable

    def _request(self) -> BackgroundRequest:
        from airflow_provider_bgai.buying.landing import check_destination
        from airflow_provider_bgai.models import BackgroundRequest

        request = BackgroundRequest(
            self.image,
            self.prompt,
            negative_prompt=self.negative_prompt,
            seed=self.seed,  # type: ignore[arg-type]  # text from templates becomes a number there
            count=self.count,  # type: ignore[arg-type]
            template=self.template,
            guidance_image=self.guidance_image,
            guidance_scale=self.guidance_scale,  # type: ignore[arg-type]
            options=self.options or {},
        )
        check_destination(self.destination, request.count)
        return request

    def _open(self, request: BackgroundRequest) -> tuple[Storage, Ledger]:
        """S3 and the ledger, tried once before anything is spent."""
        from airflow_provider_bgai.buying.calls import Ledger
        from airflow_provider_bgai.buying.landing import destination_root
        from airflow_provider_bgai.buying.store import check_store_once

        storage = open_storage(self.aws_conn_id, self.extra_args)
        ledger = Ledger(storage, self.ledger or destination_root(self.destination))
        check_store_once(storage, ledger.layout)
        return storage, ledger


def purse_of(budget: Mapping[str, Any] | None, ledger: Ledger, run: str) -> Budget | None:
    """What caps the spending; None where nothing does. :raises InvalidRequestError: if the caps are none."""
    from airflow_provider_bgai.buying.budget import Budget
    from airflow_provider_bgai.buying.caps import Caps

    if not budget:
        return None
    return Budget(ledger.storage, ledger.layout.root, Caps.read(budget), run, "task")


def inspection(on_unfaithful: OnUnfaithful) -> Inspection:
    """How pictures are looked at when they land."""
    from airflow_provider_bgai.imaging.fidelity import Thresholds
    from airflow_provider_bgai.imaging.inspect import Inspection

    if on_unfaithful not in ("warn", "quarantine", "ignore"):
        raise InvalidRequestError(f"on_unfaithful={on_unfaithful!r}: must be 'warn', 'quarantine' or 'ignore'")
    return Inspection(
        thresholds=None if on_unfaithful == "ignore" else Thresholds(), enforce=on_unfaithful == "quarantine"
    )
