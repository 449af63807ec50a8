"""The rim of a task, which all of ours share: whose run it is, which accounts it has, how it fails."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, NoReturn

from airflow.providers.common.compat.sdk import AirflowException, AirflowFailException

from airflow_provider_bgai.exceptions import (
    BgaiError,
    NeverSentError,
    PollError,
    RateLimitError,
    SourceError,
    StoreError,
    UnknownOutcomeError,
    VendorFaultError,
)
from airflow_provider_bgai.layout import run_name

if TYPE_CHECKING:
    from airflow.providers.common.compat.sdk import Context

    from airflow_provider_bgai.buying.budget import Budget
    from airflow_provider_bgai.buying.buyer import Buyer
    from airflow_provider_bgai.hooks.base import BackgroundHook
    from airflow_provider_bgai.storage import Storage

log = logging.getLogger(__name__)

# A retry helps after these. After any other error it would fail in the same way, or pay again.
_RETRYABLE = (PollError, RateLimitError, NeverSentError, SourceError, StoreError, VendorFaultError)


def fail(error: BgaiError) -> NoReturn:
    """Fail the Airflow task: for good where a retry cannot help or might pay again."""
    if isinstance(error, _RETRYABLE) or error.reason == "budget":
        raise AirflowException(str(error)) from error
    kind = "Unknown outcome" if isinstance(error, UnknownOutcomeError) else f"Not retried ({error.reason})"
    raise AirflowFailException(f"{kind}: {error}") from error


def tries_left(context: Context) -> bool:
    """Whether Airflow runs the task again if it fails now."""
    instance = context["ti"]
    return bool(instance.try_number <= instance.max_tries)


def run_of_task(context: Context) -> str:
    """The run that a task starts: named by DAG, task (with its task group) and run ID, the same for all its tries."""
    instance = context["ti"]
    place = [] if getattr(instance, "map_index", -1) in (-1, None) else [str(instance.map_index)]
    return run_name(instance.dag_id, instance.task_id, instance.run_id, *place)


def open_storage(aws_conn_id: str | None, extra_args: Mapping[str, Any] | None = None) -> Storage:
    """S3, with its connection looked up before an event loop starts.

    :raises InvalidRequestError: for an extra argument that S3 does not know.
    """
    from airflow_provider_bgai.storage import Storage

    storage = Storage(aws_conn_id, extra_args)
    _ = storage.client
    return storage


def open_hooks(
    conn_id: str | Sequence[str], storage: Storage, *, staging: str | None = None, shards: int = 1
) -> list[BackgroundHook]:
    """The hooks of connections, looked up before an event loop starts.

    :param staging: where pictures are put for vendors that take links only.
    :param shards: how many tasks share the connections' rates side by side.
    :raises AuthenticationError: naming the connection that is missing or wrong.
    """
    from airflow_provider_bgai.hooks import get_hook

    hooks = []
    for name in [conn_id] if isinstance(conn_id, str) else conn_id:
        hook = get_hook(name, aws_conn_id=storage.aws_conn_id, staging=staging)
        hook.storage = storage
        hook.share(shards)
        hooks.append(hook)
    return hooks


def accounts(storage: Storage, staging: str | None = None) -> Callable[[str], BackgroundHook | None]:
    """Finds the hook of any connection, for calls that another run has paid; None where there is none any more."""
    from airflow.providers.common.compat.sdk import AirflowNotFoundException

    def account(conn_id: str) -> BackgroundHook | None:
        try:
            return open_hooks(conn_id, storage, staging=staging)[0]
        except (BgaiError, AirflowNotFoundException):
            return None

    return account


async def wind_up(buyer: Buyer, purse: Budget | None, *, settle_others_after: float | None = None) -> None:
    """End a task's buying: close the budget, put what has ended into the books, close the clients.

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
        if settle_others_after is None:
            await asyncio.to_thread(book, buyer.ledger, buyer.run, buyer.ended)
        else:
            await settle(buyer.collector, buyer.run, older_than=settle_others_after)

    for what, work in (("The budget", close), ("The books", write_books)):
        try:
            await work()
        except store_errors(BgaiError) as error:
            log.warning("%s could not be written, which the next run makes up for: %s", what, error)
    await buyer.aclose()
