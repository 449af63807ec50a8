"""One background for one product, bought once and landed in S3."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Mapping, Sequence
from datetime import timedelta
from typing import TYPE_CHECKING, Any, Literal, NoReturn

from airflow.providers.common.compat.sdk import AirflowException, AirflowFailException, BaseOperator, conf

from airflow_provider_bgai.exceptions import (
    BgaiError,
    InvalidRequestError,
    PollError,
    RateLimitError,
    SourceError,
    UnknownOutcomeError,
    VendorFaultError,
)
from airflow_provider_bgai.polling import PollPolicy
from airflow_provider_bgai.triggers.background import BackgroundTaskTrigger

if TYPE_CHECKING:
    from airflow.providers.common.compat.sdk import Context

    from airflow_provider_bgai.catalogue.landing import Inspection
    from airflow_provider_bgai.catalogue.ledger import Claim, Landed
    from airflow_provider_bgai.catalogue.purchase import Buyer, OnUnknownOutcome
    from airflow_provider_bgai.hooks.base import BackgroundHook

OnUnfaithful = Literal["warn", "quarantine", "ignore"]

# A retry helps after these. After any other error it would fail in the same way, or pay again.
_RETRYABLE = (PollError, RateLimitError, SourceError, VendorFaultError)

# Once the trigger says a task has ended, how long the worker keeps asking for it and its pictures (s).
COLLECT_TIMEOUT = 60.0


class GenerateBackgroundOperator(BaseOperator):
    """Paint a new background behind a product and land the pictures in S3, paying once.

    A claim is written to S3 before the paid call (``_bgai/claims/`` beside the destination) and the vendor's
    task ID right after it. A retry, a cleared task, another run and tomorrow's run all find it: they collect
    what was paid, and where the pictures have landed they pay nothing. To buy the same picture anew, change
    the seed or ``epoch``.

    The result (XCom) is small: state, vendor, conn_id, task_id, claim, images (uri, bytes, sha256, width,
    height, content_type), seed, model, cost, currency, seconds, reused.

    :param conn_id: the vendor's connection, or several in order of preference: the next one serves where one
        refuses, fails or is out of quota; never after an unknown outcome.
    :param image: the cut-out: ``s3://``, ``https://`` or a path on the worker.
    :param prompt: what the background should look like.
    :param negative_prompt, seed, count, template, guidance_image, guidance_scale, options: see
        :class:`~airflow_provider_bgai.models.BackgroundRequest`. What the vendor does not have is refused.
    :param destination: ``s3://bucket/key-{index}.{ext}``: index from 1, extension by the bytes.
    :param aws_conn_id: the connection to S3.
    :param wait_for_completion: False: return once the task is submitted; ``BackgroundTaskSensor`` and
        ``LandBackgroundOperator`` do the rest. Vendors that answer at once land in any case.
    :param deferrable: wait in the triggerer, without a worker slot.
    :param poll_interval: seconds between polls at first; the interval grows.
    :param timeout: seconds one try waits for the vendor. Afterwards a retry goes on waiting for the same task.
    :param epoch: any text; another one buys the same picture anew.
    :param on_unknown_outcome: what to do where nobody can know whether a call was charged: ``"hold"`` (fail,
        and let nobody buy this picture for a day), ``"fail"`` (fail, until somebody deletes the claim), or
        ``"resubmit"`` (buy again at once; **may pay twice**, which the records count).
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
        "aws_conn_id",
        "epoch",
    )
    template_fields_renderers = {"options": "json"}
    ui_color = "#e8e4f3"

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
        aws_conn_id: str | None = "aws_default",
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
        self.aws_conn_id = aws_conn_id
        self.wait_for_completion = wait_for_completion
        self.deferrable = deferrable
        self.poll_interval = poll_interval
        self.timeout = timeout
        self.epoch = epoch
        self.on_unknown_outcome = on_unknown_outcome
        self.on_unfaithful = on_unfaithful

    def execute(self, context: Context) -> dict[str, Any]:
        """Buy the picture, or find it bought; land it, or wait for it."""
        from airflow_provider_bgai.catalogue.landing import destination_root
        from airflow_provider_bgai.catalogue.ledger import Claim, Landed, Ledger
        from airflow_provider_bgai.catalogue.purchase import Wish

        started = time.time()
        try:
            buyer, request = self._prepare()
            wish = Wish(
                request=request,
                destination=self.destination,
                owner=_owner(context),
                epoch=self.epoch,
                on_unknown_outcome=self.on_unknown_outcome,
                inspection=inspection(self.on_unfaithful),
            )
            found = run(buyer, buyer.begin(wish))
            if isinstance(found, Claim) and (found.task_id is None or self._waits_here()):
                # Collected with the account that paid, which a claim of yesterday's may name differently.
                buyer, claim = collector(found.uri, self.aws_conn_id)
                found = run(buyer, self._collect(buyer, claim, self.timeout))
        except BgaiError as error:
            fail(error)
        if isinstance(found, Landed):
            ledger = Ledger(buyer.storage, destination_root(self.destination))
            claim_uri = ledger.claim_uri(found.fingerprint)
            reused = found.landed_at < started
            return landed_result(found, claim_uri, paid=not reused, reused=reused)
        assert found.task_id is not None
        if not self.wait_for_completion:
            return _submitted_result(found)
        self.defer(
            trigger=BackgroundTaskTrigger(
                conn_id=found.conn_id,
                task_ids=[found.task_id],
                poll_interval=self.poll_interval,
                deadline=time.time() + self.timeout,
                record=found.uri,
            ),
            method_name="execute_complete",
            # The trigger's own deadline comes first: it resumes the task, which then says what is kept.
            timeout=timedelta(seconds=self.timeout + 120),
        )
        raise AssertionError("defer() does not return")

    def execute_complete(self, context: Context, event: dict[str, Any]) -> dict[str, Any]:
        """Collect what the trigger waited for. Asks the vendor again: links of last minute are fresh."""
        try:
            buyer, claim = collector(event["record"], self.aws_conn_id)
            timeout = 1.0 if event["action"] == "give_up" else COLLECT_TIMEOUT
            landed = run(buyer, self._collect(buyer, claim, timeout))
        except BgaiError as error:
            fail(error)
        return landed_result(landed, claim.uri, paid=True, reused=False)

    async def _collect(self, buyer: Buyer, claim: Claim, timeout: float) -> Landed:
        """Land a claim, which may be another run's with another destination."""
        landed = await buyer.finish(
            claim,
            timeout=timeout,
            policy=PollPolicy(interval=self.poll_interval),
            inspection=inspection(self.on_unfaithful),
        )
        return await buyer.placed(landed, self.destination)

    def on_kill(self) -> None:
        """No vendor can cancel a task. The claim in S3 keeps its ID for the next try or run."""
        self.log.info("Killed. What was submitted is kept in the claim; the next try or run collects it")

    def _waits_here(self) -> bool:
        return self.wait_for_completion and not self.deferrable

    def _prepare(self) -> tuple[Buyer, Any]:
        """The buyer and the request, with all connections looked up before an event loop starts."""
        from airflow_provider_bgai.catalogue.landing import check_destination, destination_root
        from airflow_provider_bgai.catalogue.purchase import Buyer
        from airflow_provider_bgai.hooks import get_hook
        from airflow_provider_bgai.models import BackgroundRequest
        from airflow_provider_bgai.storage import Storage

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
        staging = f"{destination_root(self.destination)}/_bgai/staged"
        conn_ids = [self.conn_id] if isinstance(self.conn_id, str) else list(self.conn_id)
        storage = Storage(self.aws_conn_id)
        hooks: list[BackgroundHook] = []
        for conn_id in conn_ids:
            hook = get_hook(conn_id, aws_conn_id=self.aws_conn_id, staging=staging)
            hook.storage = storage
            hook.prepare_blocking(request)
            hooks.append(hook)
        _ = storage.client
        return Buyer(hooks, storage), request


def inspection(on_unfaithful: OnUnfaithful) -> Inspection:
    """How pictures are looked at when they land."""
    from airflow_provider_bgai.catalogue.landing import Inspection
    from airflow_provider_bgai.imaging.fidelity import Thresholds

    if on_unfaithful not in ("warn", "quarantine", "ignore"):
        raise InvalidRequestError(f"on_unfaithful={on_unfaithful!r}: must be 'warn', 'quarantine' or 'ignore'")
    return Inspection(
        thresholds=None if on_unfaithful == "ignore" else Thresholds(), enforce=on_unfaithful == "quarantine"
    )


def collector(claim_uri: str, aws_conn_id: str | None) -> tuple[Buyer, Claim]:
    """What is needed to collect a claim: the account that paid for it, and S3."""
    from airflow_provider_bgai.catalogue.ledger import read_claim
    from airflow_provider_bgai.catalogue.purchase import Buyer
    from airflow_provider_bgai.hooks import get_hook
    from airflow_provider_bgai.storage import Storage

    storage = Storage(aws_conn_id)
    claim = read_claim(storage, claim_uri)
    hook = get_hook(claim.conn_id, aws_conn_id=aws_conn_id)
    _ = hook.settings
    return Buyer([hook], storage), claim


def fail(error: BgaiError) -> NoReturn:
    """Fail the Airflow task: for good where a retry cannot help or might pay again."""
    if isinstance(error, _RETRYABLE):
        raise AirflowException(str(error)) from error
    kind = "Unknown outcome" if isinstance(error, UnknownOutcomeError) else f"Not retried ({error.reason})"
    raise AirflowFailException(f"{kind}: {error}") from error


def landed_result(landed: Landed, claim_uri: str | None, *, paid: bool, reused: bool) -> dict[str, Any]:
    """What goes to XCom of a landed picture: small JSON without links, prompts or keys.

    :param paid: whether this task is the one that paid; so the costs of all tasks add up.
    :param reused: whether the picture was there before.
    """
    return {
        "state": "succeeded",
        "vendor": landed.vendor,
        "conn_id": landed.conn_id,
        "task_id": landed.task_id,
        "claim": claim_uri,
        "images": [output.model_dump(mode="json") for output in landed.images],
        "seed": landed.seed,
        "model": landed.model,
        # An unknown price stays unknown.
        "cost": (None if landed.price is None else float(landed.price)) if paid else 0.0,
        "currency": landed.currency,
        "seconds": landed.seconds,
        "reused": reused,
        "unknown_outcomes": landed.unknown,
        "warnings": list(landed.warnings),
    }


def _submitted_result(claim: Claim) -> dict[str, Any]:
    return {
        "state": "pending",
        "vendor": claim.vendor,
        "conn_id": claim.conn_id,
        "task_id": claim.task_id,
        "claim": claim.uri,
        "images": [],
        "seed": claim.seed,
        "model": claim.model,
        "cost": None if claim.price is None else float(claim.price),
        "currency": claim.currency,
        "seconds": None,
        "reused": False,
        "unknown_outcomes": claim.unknown,
        "warnings": [],
    }


def run(buyer: Buyer, work: Any) -> Any:
    """Run a coroutine of the buyer and close its clients."""

    async def closing() -> Any:
        try:
            return await work
        finally:
            for hook in buyer.hooks:
                await hook.aclose()

    return asyncio.run(closing())


def _owner(context: Context) -> str:
    """The task instance, without its try number: all its tries own the same claims."""
    instance = context["ti"]
    return f"{instance.dag_id}/{instance.run_id}/{instance.task_id}/{instance.map_index}"
