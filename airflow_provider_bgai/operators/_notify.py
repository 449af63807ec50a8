"""Who is told that something of a run waits for a person: Airflow's notifiers, and what they find to say.

A notifier is called with the task's context and one name more, ``bgai``, for its templates:

===========================  ===========================================================================
``bgai.text``                what happened, what to do and where the report is, in fifteen lines at most
``bgai.events``              which of :data:`EVENTS` have happened
``bgai.counts``              products by outcome
``bgai.stopped``             connections that were not asked any more
``bgai.run``, ``.report``    the run's name, and the URI of its report
===========================  ===========================================================================

Vendors' words and messages about single products are not among them: those stand in the log and in the report.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from copy import copy
from typing import TYPE_CHECKING, Any

from airflow_provider_bgai.exceptions import BgaiError, TooManyFailuresError

if TYPE_CHECKING:
    from airflow.providers.common.compat.sdk import Context

    from airflow_provider_bgai.catalogue.publishing.publish import Published
    from airflow_provider_bgai.layout import Run
    from airflow_provider_bgai.storage import Storage

log = logging.getLogger(__name__)

Notifiers = Callable[[Any], Any] | Sequence[Callable[[Any], Any]] | None
"""Airflow's notifiers, one or several; or whatever else is called with a task's context."""

EVENTS = ("refused_publish", "quarantined", "held", "over_budget", "stopped")
"""What waits for a person. The three in the middle are outcomes of products."""

_STOPS = ("stopped", "authentication", "quota", "retired")
"""The reasons of products for which a connection was not asked any more."""


def tell(
    notifiers: Notifiers, context: Context, storage: Storage, run: Run, came: Published | TooManyFailuresError
) -> None:
    """Call each of them once, if something waits for a person. What goes wrong here is a warning, and nothing else.

    :param came: what publishing came to.
    """
    from airflow_provider_bgai.storage import store_errors

    asked = [notifiers] if callable(notifiers) else list(notifiers or ())
    if not asked:
        return
    try:
        found = waiting(storage, run, came)
    except store_errors(BgaiError, OSError, LookupError, ValueError) as error:  # also what is no mark of ours
        log.warning("Nobody is told what waits for a person: %s", error)
        return
    for notifier in asked if found["events"] else ():
        name = getattr(notifier, "__name__", type(notifier).__name__)
        log.info("%s tells what waits for a person: %s", name, ", ".join(found["events"]))
        told: Any = copy(context)  # a notifier puts its own fields into it
        told["bgai"] = found
        try:
            copy(notifier)(told)  # it renders its templates in place, for good
        except Exception as error:  # noqa: BLE001  # whatever it is: the pictures are published, or refused for a reason
            log.warning("%s has told nobody: %s: %s", name, type(error).__name__, error)


def waiting(storage: Storage, run: Run, came: Published | TooManyFailuresError) -> dict[str, Any]:
    """What notifiers find under ``bgai``; without events where nothing waits for a person.

    :raises BgaiError: if the run's outcomes cannot be read.
    """
    from airflow_provider_bgai.catalogue.publishing.publish import read_outcomes
    from airflow_provider_bgai.catalogue.report.story import Tally, of_costs, of_shop

    root, tally = run.layout.root, Tally()
    tally.add(read_outcomes(storage, root, run.name))
    stopped, reasons = _stopped(storage, run), {reason for _, reason, _ in tally.kinds}
    counts, refused = tally.counts(), isinstance(came, TooManyFailuresError)
    happened = {**counts, "refused_publish": refused, "stopped": stopped or not reasons.isdisjoint(_STOPS)}
    lines = [f"stopped for this run: {', '.join(stopped)}"] if stopped else []
    lines += tally.to_do(root)
    if isinstance(came, TooManyFailuresError):
        lines = [str(came), *lines]  # which says it all
    else:
        shows = of_shop(root, came.pictures, came.products)
        lines = [shows, tally.short(), of_costs(came.costs), *lines, f"report: {run.report}"]
    return {
        "text": "\n".join(lines),
        "events": [event for event in EVENTS if happened.get(event)],
        "counts": counts,
        "stopped": stopped,
        "run": run.name,
        "report": run.report,
    }


def _stopped(storage: Storage, run: Run) -> list[str]:
    """The connections that were not asked any more in a run, also where another one has served."""
    from airflow_provider_bgai.buying.books import read_books
    from airflow_provider_bgai.buying.brake import stopped_in
    from airflow_provider_bgai.buying.calls import Ledger
    from airflow_provider_bgai.catalogue.planning.plan import read_plan
    from airflow_provider_bgai.catalogue.report.costs import BEFORE

    since = read_plan(storage, run.plan).created_at - BEFORE
    calls = read_books(Ledger(storage, run.layout.root), since=since)
    refused = {call.conn_id for call in calls if call.run == run.name and call.reason in _STOPS}
    return sorted(refused.union(stopped_in(storage, run.layout, run.name)))
