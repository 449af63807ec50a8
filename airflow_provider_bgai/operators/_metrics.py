"""What tasks tell Airflow's metrics, and under which names: docs/metrics.md says what each means.

Each is told twice, as Airflow itself does: with the vendor as a tag, and with the vendor in the name, because plain
StatsD drops tags. Counters are for watching; what was paid stands in the books.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from datetime import timedelta
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from airflow_provider_bgai.buying.record import Call
    from airflow_provider_bgai.hooks.base import BackgroundHook


def count(what: str, number: int, vendor: str) -> None:
    """Add to ``bgai.<what>``."""
    from airflow.providers.common.compat.sdk import Stats

    if number:
        Stats.incr(f"bgai.{what}", number, tags={"vendor": vendor})
        Stats.incr(f"bgai.{what}.{vendor}", number)


def count_all(counts: Mapping[str, int], vendor: str) -> None:
    """What a hook has counted, here or in the triggerer."""
    for what, number in counts.items():
        count(what, number, vendor)


def count_hooks(hooks: Iterable[BackgroundHook]) -> None:
    """What hooks have counted since they were asked last."""
    for hook in hooks:
        count_all(hook.counts, hook.vendor)
        hook.counts.clear()


def count_calls(calls: Iterable[Call], run: str) -> None:
    """Calls that were put into the books: pictures by what became of them, and how long the vendor took.

    :param calls: each once.
    :param run: whose calls are timed: nobody waited for those of others.
    """
    from airflow_provider_bgai.buying.record import PAID

    for call in calls:
        count(call.state, call.pictures, call.vendor)
        if call.state in PAID:
            count("charged", call.pictures, call.vendor)
        if call.run == run:
            _time("answered_in", call.answered_at, call)
            _time("landed_in", call.ended_at if call.state == "landed" else None, call)


def _time(what: str, until: float | None, call: Call) -> None:
    from airflow.providers.common.compat.sdk import Stats

    if until is not None:
        took = timedelta(seconds=max(0.0, until - call.sent_at))  # a clock may have stepped back
        Stats.timing(f"bgai.{what}", took, tags={"vendor": call.vendor})
        Stats.timing(f"bgai.{what}.{call.vendor}", took)
