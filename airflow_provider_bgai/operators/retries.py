"""When a task of ours is retried, for Airflow 3.3 and later: ``retry_policy=RetryInTime()``."""

from __future__ import annotations

from datetime import timedelta
from typing import TYPE_CHECKING, Any

try:
    from airflow.sdk import RetryDecision, RetryPolicy
except ImportError:
    raise ImportError(
        "airflow_provider_bgai.operators.retries needs Airflow 3.3 or later, which has retry policies: "
        "below, give the task a retry_delay instead"
    ) from None

if TYPE_CHECKING:
    from airflow.providers.common.compat.sdk import Context


class RetryInTime(RetryPolicy):
    """Retry when it helps, whatever the task's ``retry_delay`` is: after the pause that a vendor asked for, and soon
    where pictures are paid for and wait at the vendor, because their links die. All else keeps the task's own delay.

    Whether a retry helps at all is no policy's business: what it cannot help fails for good on every version.
    """

    def evaluate(
        self, exception: BaseException, try_number: int, max_tries: int, context: Context | None = None
    ) -> RetryDecision:
        """Whether there is a better moment for a retry than the task's own."""
        after = getattr(exception, "retry_after", None)
        if after is None:
            return RetryDecision.default()
        return RetryDecision.retry(timedelta(seconds=after), reason=f"It helps after {after:,.0f} s")

    def serialize(self) -> dict[str, Any]:
        """It has no settings."""
        return {}

    @classmethod
    def deserialize(cls, data: dict[str, Any]) -> RetryInTime:
        """The same again."""
        return cls()
