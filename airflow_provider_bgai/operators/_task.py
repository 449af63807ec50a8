"""The rim of a task, which all of ours share: whose run it is, which accounts it has, how it fails, what it tells."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Collection, Mapping, Sequence
from decimal import Decimal
from typing import TYPE_CHECKING, Any, Literal, NoReturn

from airflow.providers.common.compat.sdk import AirflowException, AirflowFailException
from pydantic import BaseModel, ConfigDict, ValidationError

from airflow_provider_bgai.exceptions import (
    BgaiError,
    InvalidRequestError,
    NeverSentError,
    PollError,
    PublishConflictError,
    RateLimitError,
    SourceError,
    StoreError,
    UnknownOutcomeError,
    VendorFaultError,
)
from airflow_provider_bgai.layout import run_name_of
from airflow_provider_bgai.operators import _metrics

if TYPE_CHECKING:
    from airflow.providers.common.compat.sdk import Context

    from airflow_provider_bgai.buying.budget import Budget
    from airflow_provider_bgai.buying.buyer import Buyer
    from airflow_provider_bgai.buying.calls import Ledger
    from airflow_provider_bgai.buying.record import Call
    from airflow_provider_bgai.hooks.base import BackgroundHook
    from airflow_provider_bgai.storage import Storage

log = logging.getLogger(__name__)

# A retry helps after these. After any other error it would fail in the same way, or pay again.
_RETRYABLE = (
    *(PollError, RateLimitError, NeverSentError, SourceError, StoreError, VendorFaultError),
    PublishConflictError,  # another run that is just publishing has soon done so
)


SOON = 60.0
"""Seconds after which a retry should collect what is paid for: the vendors' links live an hour or less."""


class RetryableError(AirflowException):
    """A retry helps.

    :param retry_after: seconds after which it does; None: nobody knows. Used by
        :class:`~airflow_provider_bgai.operators.retries.RetryInTime`.
    """

    def __init__(self, message: str, retry_after: float | None = SOON) -> None:
        super().__init__(message)
        self.retry_after = retry_after


def failures() -> tuple[type[Exception], ...]:
    """What ends a task in words (:func:`fail`): our own errors, and what S3 and the way to it raise."""
    from airflow_provider_bgai.storage import store_errors

    return store_errors(BgaiError)


def fail(error: Exception) -> NoReturn:
    """Fail the Airflow task: for good where a retry cannot help or might pay again.

    The message says what is wrong and what would be right, so it ends the log; where it came from is logged at DEBUG.
    """
    from airflow_provider_bgai.catalogue.report.story import of_error

    log.debug("What failed, and where", exc_info=error)
    if not isinstance(error, BgaiError):
        raise AirflowException(f"S3 fails for now: {error}") from None
    if isinstance(error, _RETRYABLE) or error.reason == "budget":
        paid = SOON if error.paid == "yes" else None
        raise RetryableError(of_error(error), paid if error.retry_after is None else error.retry_after) from None
    kind = "Unknown outcome" if isinstance(error, UnknownOutcomeError) else f"Not retried ({error.reason})"
    raise AirflowFailException(f"{kind}: {of_error(error)}") from None


def tries_left(context: Context) -> bool:
    """Whether Airflow runs the task again if it fails now."""
    instance = context["ti"]
    return bool(instance.try_number <= instance.max_tries)


def run_of_task(context: Context) -> str:
    """The run that a task starts: named by DAG, task (with its task group) and run ID, the same for all its tries."""
    return run_name_of(context["ti"])


def open_storage(aws_conn_id: str | None, extra_args: Mapping[str, Any] | None = None) -> Storage:
    """S3, with its connection looked up before an event loop starts.

    :raises InvalidRequestError: for an extra argument that S3 does not know.
    """
    from airflow_provider_bgai.storage import Storage

    storage = Storage(aws_conn_id, extra_args)
    _ = storage.client
    return storage


class Accounts:
    """The hooks of connections, built whole before an event loop starts.

    Called with a connection ID, it finds the hook of any other connection, for calls that another run has paid; None
    where there is none any more.

    :param conn_id: the connection, or several in order of preference; none where nothing is bought.
    :param staging: where pictures are put for vendors that take links only.
    :param shards: how many tasks share the connections' rates side by side.
    :ivar hooks: of ``conn_id``, in that order; ``opened``: these and all others that were found.
    :raises AuthenticationError: naming the connection that is missing or wrong.
    """

    def __init__(
        self, storage: Storage, conn_id: str | Sequence[str] = (), *, staging: str | None = None, shards: int = 1
    ) -> None:
        self._storage, self._staging, self._shards = storage, staging, shards
        self.opened: list[BackgroundHook] = []
        self.hooks = [self._open(name) for name in ([conn_id] if isinstance(conn_id, str) else conn_id)]

    def __call__(self, conn_id: str) -> BackgroundHook | None:
        try:
            return self._open(conn_id)
        except BgaiError:
            return None

    def _open(self, conn_id: str) -> BackgroundHook:
        from airflow_provider_bgai.hooks import get_hook

        hook = get_hook(conn_id, storage=self._storage, staging=self._staging, shards=self._shards)
        _ = hook.settings  # a connection is looked up over a channel that blocks
        self.opened.append(hook)
        return hook


async def wind_up(
    buyer: Buyer, purse: Budget | None, accounts: Accounts, *, settle_others_after: float | None = None
) -> None:
    """End a task's buying: close the budget, put what has ended into the books, tell the metrics, close the clients.

    What S3 refuses here is made up for later: the budget counts too much rather than too little, and whoever walks
    ``open/`` next books what was left. So it hides nothing that the task has to say.

    :param settle_others_after: seconds; calls of other runs that are older are settled, too. None: none are.
    """
    from airflow_provider_bgai.buying.books import book
    from airflow_provider_bgai.buying.collector import settle
    from airflow_provider_bgai.storage import store_errors

    async def close() -> None:
        if purse is not None:
            await purse.close()

    async def write_books() -> None:
        booked: Collection[Call]
        if settle_others_after is None:
            booked = buyer.ended.values()
            await asyncio.to_thread(book, buyer.ledger, buyer.run, booked)
        else:
            booked = await settle(buyer.collector, buyer.run, older_than=settle_others_after)
        _metrics.count_calls(booked, buyer.run)

    for what, work in (("The budget", close), ("The books", write_books)):
        try:
            await work()
        except store_errors(BgaiError) as error:
            log.warning("%s could not be written, which the next run makes up for: %s", what, error)
    _metrics.count_hooks(accounts.opened)
    await buyer.aclose()


def tell(result: TaskResult) -> dict[str, Any]:
    """A task's result, into the log and to XCom."""
    log.info("%s", result)
    return result.told()


def read_call(storage: Storage, uri: str | None) -> tuple[Ledger, Call]:
    """A call by its record's URI, and its ledger. :raises InvalidRequestError: if there is none."""
    from airflow_provider_bgai.buying.calls import Ledger
    from airflow_provider_bgai.layout import call_of, root_of

    name = call_of(uri or "")
    ledger = Ledger(storage, root_of(uri or ""))
    call = ledger.read(*name) if name else None
    if call is None:
        raise InvalidRequestError(f"{uri!r}: there is no record of a call")
    return ledger, call


def collect(ledger: Ledger, call: Call, run: str, timeout: float, purse: Budget | None = None) -> Call:
    """Bring a call of any run to its end, with the connection that paid for it.

    :param run: who collects.
    :param timeout: seconds to wait for the vendor.
    :raises BgaiError: what became of it, if its pictures have not landed.
    """
    from airflow_provider_bgai.buying.buyer import Buyer
    from airflow_provider_bgai.buying.decisions import accepted

    accounts = Accounts(ledger.storage, staging=ledger.layout.staged)

    async def work() -> Call:
        buyer = Buyer([], ledger, run=run, owner=run, purse=purse, account=accounts)
        try:
            ended = call if call.state != "answered" else await buyer.collect(call, timeout=timeout)
        finally:
            await wind_up(buyer, purse, accounts)
        ended = accepted(ledger, ended)
        insist_on_pictures(ledger, ended)
        return ended

    return asyncio.run(work())


def insist_on_pictures(ledger: Ledger, call: Call) -> None:
    """:raises BgaiError: what became of an ended call whose pictures have not landed, and at what price."""
    from airflow_provider_bgai.buying.decisions import refusal
    from airflow_provider_bgai.buying.record import error_of

    told = call.model_copy(update={"error": f"{call.what}: {call.error}"})
    error = refusal(ledger, told, "refuse") if call.state == "quarantined" else error_of(told)
    if error is not None:
        raise error


def place(ledger: Ledger, call: Call, destination: str) -> list[dict[str, Any]]:
    """Copy a call's pictures to where they are wanted; their records. The originals stay below ``_bgai/pictures``."""
    from airflow_provider_bgai.buying.landing import name_output

    images = []
    for index, output in enumerate(call.images, start=1):
        uri = name_output(destination, index, output.uri.rpartition(".")[2])
        original = ledger.layout.absolute(output.uri)
        ledger.storage.insist(lambda original=original, uri=uri: ledger.storage.copy(original, uri), uri)  # type: ignore[misc]
        images.append(output.moved(ledger.layout.absolute).model_copy(update={"uri": uri}).model_dump(mode="json"))
    return images


class TaskResult(BaseModel):
    """What a task tells the next ones (XCom): small JSON without links, prompts or keys.

    :param call: the URI of the call's record; None for a picture that is in no ledger.
    :param images: uri, bytes, sha256, width, height, content_type, and where there is one the verdict, and what came
        (``delivered``) if the label takes something from it.
    :param cost: what this run's calls for it cost in all; None: an unknown price stays unknown. ``price``: of the one
        call that made it, whoever sent it.
    :param seconds: from the payment to the landed picture; None as long as it has not landed.
    :param reused: whether it had landed before.
    :param unknown_outcomes: calls of this run that nobody knows to be charged or not.
    """

    model_config = ConfigDict(frozen=True, extra="ignore")

    state: Literal["pending", "succeeded"]
    vendor: str
    conn_id: str
    task_id: str | None = None
    call: str | None = None
    images: tuple[dict[str, Any], ...] = ()
    seed: int | None = None
    model: str | None = None
    cost: float | None = None
    price: float | None = None
    currency: str
    seconds: float | None = None
    reused: bool = False
    unknown_outcomes: int = 0
    warnings: tuple[str, ...] = ()

    @classmethod
    def of(
        cls,
        call: Call,
        uri: str | None,
        images: Sequence[dict[str, Any]] = (),
        *,
        cost: Decimal | None,
        reused: bool = False,
        unknown: int = 0,
    ) -> TaskResult:
        """What is told of a call."""
        return cls(
            state="pending" if call.state == "answered" else "succeeded",
            vendor=call.vendor,
            conn_id=call.conn_id,
            task_id=call.task_id,
            call=uri,
            images=tuple(images),
            seed=call.seed,
            model=call.model,
            cost=None if cost is None else float(cost),
            price=None if call.price is None else float(call.price),
            currency=call.currency,
            seconds=None if call.ended_at is None else round(call.ended_at - call.sent_at, 1),
            reused=reused,
            unknown_outcomes=unknown,
            warnings=call.warnings,
        )

    @classmethod
    def read(cls, told: Any) -> TaskResult:
        """What an earlier task told. :raises InvalidRequestError: if it is nothing that one of ours tells."""
        try:
            return cls.model_validate(told)
        except ValidationError:
            raise InvalidRequestError(
                f"vendor_task_id={str(told)[:200]!r}: give a task ID, or the output of the submitting task"
            ) from None

    def __str__(self) -> str:
        """For the log: who, at what price, where, and whether it shows the product."""
        from airflow_provider_bgai.catalogue.report.story import of_verdicts

        price = "an unknown price" if self.price is None else f"{self.price:g} {self.currency}"
        if self.state == "pending":
            return (
                f"Sent to {self.conn_id} for {price} as task {self.task_id}, which is on record and not landed yet: "
                "LandBackgroundOperator fetches it, or this task when it runs again\n"
                f"record: {self.call}"
            )
        how = "Found landed already" if self.reused else f"Landed from {self.conn_id}"
        if self.seconds is not None and not self.reused:
            how += f" after {self.seconds:g} s"
        if self.cost == 0:
            paid = f"this task paid nothing, the call cost {price}"
        else:
            paid = f"this run paid {price if self.cost is None else f'{self.cost:g} {self.currency}'}"
        lines = [f"{how}; {paid}"]
        for image in self.images:
            verdict = image.get("fidelity")
            shows = of_verdicts([verdict and verdict["faithful"]])
            size = f"{image['width']} x {image['height']} px, {image['bytes'] / 1000:,.0f} kB"
            lines.append(f"{image['uri']}: {size}, {shows}")
        record = [f"record: {self.call}"] if self.call else []
        return "\n".join([*lines, *self.warnings, *record])

    def told(self) -> dict[str, Any]:
        """As it goes to XCom."""
        return self.model_dump(mode="json")
