"""A nightly run in three tasks: plan what has changed, generate it shard by shard, publish it as a whole.

The work is done in ``airflow_provider_bgai.catalogue``; here are parameters, templates, deferral and what goes to
XCom (counts and URIs).
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Mapping, Sequence
from datetime import timedelta
from typing import TYPE_CHECKING, Any

from airflow.providers.common.compat.sdk import AirflowFailException, BaseOperator, conf

from airflow_provider_bgai.exceptions import BgaiError, TooManyFailuresError
from airflow_provider_bgai.models import number
from airflow_provider_bgai.operators import _metrics, _notify
from airflow_provider_bgai.operators._lineage import OpenLineage, update
from airflow_provider_bgai.operators._shard import ShardTask, label_of, signer
from airflow_provider_bgai.operators._task import (
    Accounts,
    RetryableError,
    fail,
    failures,
    open_storage,
    run_of_task,
    tries_left,
)
from airflow_provider_bgai.polling import PollPolicy
from airflow_provider_bgai.triggers.background import BackgroundTaskTrigger, Event
from airflow_provider_bgai.ui.links import RUN, LocationLink, Shown

if TYPE_CHECKING:
    from airflow.providers.common.compat.sdk import Context

    from airflow_provider_bgai.buying.decision import OnUnknownOutcome


class PlanCatalogueOperator(Shown, OpenLineage, BaseOperator):
    """Find out what the catalogue needs, and what it will cost, before a cent is spent.

    Returns (XCom) the shards' URIs, to map ``GenerateCatalogueOperator`` over; under the key ``plan`` the plan: URI,
    run, counts by status, pictures, calls, price (None: unknown), and how many of the calls are "at most": their source
    looks new, and may hold what it held.

    The store is tried before anything is spent, and calls that earlier runs left open are put into the books.

    :param manifest: the products: CSV, Excel, JSON lines or Parquet; ``s3://``, ``https://`` or a path.
    :param recipe: what to paint: a mapping, or a YAML or JSON file.
    :param destination: ``s3://bucket/prefix`` where the shop reads; records live in ``_bgai/`` below it.
    :param conn_id: the vendor's connection, or several in order of preference.
    :param budget: caps, e.g. ``{"day": {"pictures": 500}, "month": {"money": 100}}``.
    :param shard_size: pictures per mapped task; grows where there would be more than ``max_shards`` tasks.
    :param only: ``"changed"``, ``"all"``, ``"failed"`` or a list of SKUs; as text, which is what templates give, one a
        line, each ended by a line break.
    :param limit: at most so many pictures, highest priority first.
    :param on_unknown_outcome: with ``"resubmit"``, held products are wanted too.
    :param extra_args: what every write to S3 is given besides, as in the Amazon provider (``ServerSideEncryption``,
        ``SSEKMSKeyId``, …).
    """

    template_fields: Sequence[str] = (
        "manifest",
        "recipe",
        "destination",
        "conn_id",
        "budget",
        "only",
        "limit",
        "aws_conn_id",
    )
    template_fields_renderers = {"recipe": "json", "budget": "json"}
    operator_extra_links = RUN

    def __init__(
        self,
        *,
        manifest: str,
        recipe: str | Mapping[str, Any],
        destination: str,
        conn_id: str | Sequence[str],
        budget: Mapping[str, Any] | None = None,
        shard_size: int = 100,
        max_shards: int = 1000,
        only: str | Sequence[str] = "changed",
        limit: int | str | None = None,
        on_unknown_outcome: OnUnknownOutcome = "hold",
        aws_conn_id: str | None = "aws_default",
        extra_args: Mapping[str, Any] | None = None,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        self.manifest = manifest
        self.recipe = recipe
        self.destination = destination
        self.conn_id = conn_id
        self.budget = budget
        self.shard_size = shard_size
        self.max_shards = max_shards
        self.only = only
        self.limit = limit
        self.on_unknown_outcome = on_unknown_outcome
        self.aws_conn_id = aws_conn_id
        self.extra_args = extra_args
        if isinstance(recipe, Mapping):
            # Its templates are about products, not about the DAG run.
            self.template_fields = tuple(name for name in self.template_fields if name != "recipe")

    def execute(self, context: Context) -> list[str]:
        """Write the plan and its shards; spend nothing."""
        from airflow_provider_bgai.buying.budget import Budget
        from airflow_provider_bgai.buying.calls import Ledger
        from airflow_provider_bgai.buying.caps import Caps
        from airflow_provider_bgai.catalogue.planning.plan import Plan
        from airflow_provider_bgai.catalogue.planning.planner import make_plan
        from airflow_provider_bgai.catalogue.report.story import of_plan

        run = run_of_task(context)
        self.reads = [self.manifest, *([self.recipe] if isinstance(self.recipe, str) else [])]
        try:
            storage = open_storage(self.aws_conn_id, self.extra_args)
            hooks = Accounts(storage, self.conn_id).hooks
            ledger = Ledger(storage, self.destination)
            caps = Caps.read(self.budget)
            caps.check({hook.conn_id: (hook.settings.price_per_image, hook.settings.currency) for hook in hooks})
            plan = make_plan(
                manifest=self.manifest,
                recipe=self.recipe,
                destination=ledger.layout.root,
                hooks=hooks,
                storage=storage,
                run=run,
                only=self.only,
                limit=None if self.limit in (None, "") else number("limit", self.limit, int),
                shard_size=self.shard_size,
                max_shards=self.max_shards,
                on_unknown_outcome=self.on_unknown_outcome,
                budget_left=Budget(storage, ledger.layout.root, caps, run, "plan").left,
            )
        except failures() as error:
            fail(error)
        self.writes = [plan.uri]
        _metrics.count("refused", plan.counts.get("refused", 0), hooks[0].vendor)
        self.log.info("Planned, and nothing bought yet:\n%s", of_plan(plan))
        summary = plan.model_dump(mode="json", include=Plan.model_fields.keys() - {"shards"})
        context["ti"].xcom_push(key="plan", value=summary)
        return plan.shards


class GenerateCatalogueOperator(Shown, OpenLineage, BaseOperator):
    """Buy and land the pictures of one shard, many at a time, each once. Map it over the plan's shards.

    A picture that fails is reported in the shard's results and stops no other. A retry, or the same shard in another
    run, collects what is stored before it submits anything. The task itself fails, and is to be retried, where S3
    refuses what was paid for, and where paid tasks are pending at its deadline: a retry collects them before their
    links die. So give it ``retries``.

    :param shard: the URI of a shard, from ``plan.output``.
    :param conn_id, budget, aws_conn_id: as in :class:`PlanCatalogueOperator`.
    :param in_flight: how many pictures are under way at once.
    :param parallel_shards: how many shards run side by side: each begins with that share of the connection's
        rate, and has that share of its slots.
    :param deferrable: wait for the vendor's tasks in the triggerer, without a worker slot.
    :param timeout: seconds to wait for the vendor's tasks in all.
    :param sign_conn_id: whose certificate signs the published files (C2PA), where the recipe says ``sign: true``: a
        connection whose password is the private key (PEM) and whose extras are ``certificate`` (PEM), and
        perhaps ``alg`` and ``tsa_url``. Needs the extra ``c2pa``.
    :param on_unknown_outcome: see :class:`~airflow_provider_bgai.operators.generate.GenerateBackgroundOperator`.
    :param hold_for: seconds after which a held picture is released.
    :param extra_args: as in :class:`PlanCatalogueOperator`.
    """

    template_fields: Sequence[str] = ("shard", "conn_id", "budget", "sign_conn_id", "aws_conn_id")
    template_fields_renderers = {"budget": "json"}
    operator_extra_links = RUN

    def __init__(
        self,
        *,
        shard: str,
        conn_id: str | Sequence[str],
        budget: Mapping[str, Any] | None = None,
        in_flight: int = 64,
        parallel_shards: int = 1,
        deferrable: bool = conf.getboolean("operators", "default_deferrable", fallback=False),
        poll_interval: float = 2,
        timeout: float = 1800,
        on_unknown_outcome: OnUnknownOutcome = "hold",
        hold_for: float = 20 * 3600,
        sign_conn_id: str | None = None,
        aws_conn_id: str | None = "aws_default",
        extra_args: Mapping[str, Any] | None = None,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        self.shard = shard
        self.conn_id = conn_id
        self.budget = budget
        self.in_flight = in_flight
        self.parallel_shards = parallel_shards
        self.deferrable = deferrable
        self.poll_interval = poll_interval
        self.timeout = timeout
        self.on_unknown_outcome = on_unknown_outcome
        self.hold_for = hold_for
        self.sign_conn_id = sign_conn_id
        self.aws_conn_id = aws_conn_id
        self.extra_args = extra_args

    @property
    def shard_label(self) -> str:
        """For ``map_index_template="{{ task.shard_label }}"``: ``0003 · 100 products``."""
        return label_of(self.shard, self.aws_conn_id)

    def execute(self, context: Context) -> dict[str, Any]:
        """Collect what is stored, submit; then wait here or in the triggerer."""
        patience = None if self.deferrable else self.timeout
        resumed = context["ti"].try_number > 1
        return self._pass(context, deadline=time.time() + self.timeout, patience=patience, resumed=resumed)

    def execute_complete(
        self,
        context: Context,
        event: dict[str, Any],
        begun: Sequence[tuple[int, str, int]] = (),
        later: Sequence[int] = (),
    ) -> dict[str, Any]:
        """Land what has ended; wait on for the rest until the deadline.

        :param begun: place, fingerprint and number of the calls that wait; ``later``: places of what has not begun.
        """
        try:
            came = Event.of(event)
        except BgaiError as error:
            fail(error)
        _metrics.count_all(came.counts, came.vendor)
        under_way = {place: (name, number) for place, name, number in begun}
        known = {"begun": under_way, "later": frozenset(later), "waiting": frozenset(came.waiting)}
        return self._pass(context, deadline=came.deadline, patience=0.0, resumed=True, **known)

    def on_kill(self) -> None:
        """No vendor can cancel a task. The records in S3 keep the IDs for the next try or run."""
        self.log.info("Killed. What was answered is kept on record; the next try or run collects it")

    def _pass(
        self, context: Context, *, deadline: float, patience: float | None, resumed: bool, **last_pass: Any
    ) -> dict[str, Any]:
        import asyncio

        from airflow_provider_bgai.catalogue.report.costs import cost_report, money_of

        try:
            storage = open_storage(self.aws_conn_id, self.extra_args)
            task = ShardTask.read(self.shard, storage)
            self.reads, self.writes = [task.plan.uri], [task.ledger.layout.pictures()]
            sign = signer(self.sign_conn_id) if task.signs else None
            side_by_side = max(1, min(self.parallel_shards, len(task.plan.shards)))
            work = task.generate(
                Accounts(storage, self.conn_id, staging=task.ledger.layout.staged, shards=side_by_side),
                caps=self.budget or {},
                shards=side_by_side,
                asked={
                    "in_flight": self.in_flight,
                    "policy": PollPolicy(interval=self.poll_interval),
                    "on_unknown_outcome": self.on_unknown_outcome,
                    "hold_for": self.hold_for,
                    "sign": sign,
                },
                patience=patience,
                resumed=resumed,
                **last_pass,
            )
            progress, ended = asyncio.run(work)
        except failures() as error:
            fail(error)
        if progress.troubles and tries_left(context):
            raise RetryableError(
                f"{len(progress.troubles)} picture(s) are paid for, and S3 does not take them. A retry collects them: "
                f"{progress.troubles[0]}"
            )
        if (waiting := progress.waiting) and self.deferrable and time.time() < deadline:
            # One trigger speaks with one vendor. Others' tasks, after a failover, are collected in the next pass.
            by_connection = Counter(call.conn_id for call in waiting)
            ((conn_id, _),) = by_connection.most_common(1)
            task.keep(progress)
            self.defer(
                trigger=BackgroundTaskTrigger(
                    conn_id=conn_id,
                    task_ids=[str(it.task_id) for it in waiting if it.conn_id == conn_id],
                    poll_interval=self.poll_interval,
                    deadline=deadline,
                    record=self.shard,
                ),
                method_name="execute_complete",
                kwargs={
                    "begun": [[place, name, number] for place, (name, number) in progress.begun.items()],
                    "later": progress.later,
                },
                timeout=timedelta(seconds=max(0.0, deadline - time.time()) + 120),
            )
        if progress.pending and tries_left(context):
            call, problem = next(iter(progress.pending.values()))
            paid = money_of(cost_report(it for it, _ in progress.pending.values()).total.perhaps)
            raise RetryableError(
                f"{len(progress.pending)} picture(s) are paid for ({paid}) and not there yet. A retry collects them "
                f"before their links die: {call.what}: {problem}"
            )
        report = task.write(progress, ended, resumed=resumed)
        if progress.troubles:
            raise AirflowFailException(
                f"{len(progress.troubles)} picture(s) are paid for, and S3 does not take them. The next run collects "
                f"them; what became of the others stands in {report['results']}: {progress.troubles[0]}"
            )
        return report


class PublishCatalogueOperator(Shown, OpenLineage, BaseOperator):
    """Make the run's pictures the ones the shop reads, all at once, or none if too many failed.

    Before that it settles what is open: calls that have ended are put into the books, whichever run sent them, and what
    is paid for and waits is collected by the connection that paid for it.

    Returns (XCom) counts, costs and URIs. With outlets, each gets them as the extra of its asset event; an alias
    stands for the asset of the destination.

    :param plan: what ``PlanCatalogueOperator`` told under the key ``plan``: ``plan.output["plan"]``.
    :param max_failure_ratio: publish unless more than this share (0 to 1) of the wanted pictures failed.
    :param notifiers: who is told that something waits for a person: see :mod:`airflow_provider_bgai.operators._notify`.
    :param extra_args: as in :class:`PlanCatalogueOperator`.
    """

    template_fields: Sequence[str] = ("plan", "max_failure_ratio", "aws_conn_id")
    operator_extra_links = RUN

    def __init__(
        self,
        *,
        plan: Mapping[str, Any],
        max_failure_ratio: float = 0.2,
        notifiers: _notify.Notifiers = None,
        aws_conn_id: str | None = "aws_default",
        extra_args: Mapping[str, Any] | None = None,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        self.plan = plan
        self.max_failure_ratio = max_failure_ratio
        self.notifiers = notifiers
        self.aws_conn_id = aws_conn_id
        self.extra_args = extra_args

    def execute(self, context: Context) -> dict[str, Any]:
        """Publish, and report what became of every SKU and what it cost."""
        from airflow_provider_bgai.buying.calls import Ledger
        from airflow_provider_bgai.buying.collector import settle_all
        from airflow_provider_bgai.catalogue.publishing.publish import publish
        from airflow_provider_bgai.layout import run_of

        if not self.plan:
            raise AirflowFailException("There is no plan to publish: the planning task has failed; its log says why")
        try:
            allowed = number("max_failure_ratio", self.max_failure_ratio, float)
            storage = open_storage(self.aws_conn_id, self.extra_args)
            run = run_of(self.plan["uri"])
            ledger = Ledger(storage, run.layout.root)
            self.reads = [run.plan, run.layout.pictures()]
            accounts = Accounts(storage, staging=run.layout.staged)
            _metrics.count_calls(settle_all(ledger, accounts, run.name), run.name)
            _metrics.count_hooks(accounts.opened)
            published = publish(storage, run.layout.root, run.name, max_failure_ratio=allowed)
        except TooManyFailuresError as error:
            _notify.tell(self.notifiers, context, storage, run, error)
            fail(error)
        except failures() as error:
            fail(error)
        report = published.told()
        self.writes = [run.layout.root]
        update(context, self.outlets, run.layout.root, report)
        _notify.tell(self.notifiers, context, storage, run, published)
        return report


class CatalogueCostOperator(Shown, BaseOperator):
    """What a catalogue's paid calls cost in a month, by vendor, category and run: out of the books and what is open.

    :param destination: the catalogue's ``s3://bucket/prefix``.
    :param month: like ``2026-11``, of UTC; None for all months.
    """

    template_fields: Sequence[str] = ("destination", "month", "aws_conn_id")
    operator_extra_links = (LocationLink(),)

    def __init__(
        self, *, destination: str, month: str | None = None, aws_conn_id: str | None = "aws_default", **kwargs: Any
    ) -> None:
        super().__init__(**kwargs)
        self.destination = destination
        self.month = month
        self.aws_conn_id = aws_conn_id

    def execute(self, context: Context) -> dict[str, Any]:
        """Add them up."""
        from airflow_provider_bgai.catalogue.report.costs import catalogue_costs

        try:
            report = catalogue_costs(open_storage(self.aws_conn_id), self.destination, month=self.month or None)
        except failures() as error:
            fail(error)
        self.log.info("What the calls cost:\n%s", report.as_text())
        return report.as_json()


class RollbackCatalogueOperator(Shown, OpenLineage, BaseOperator):
    """Restore the version of the catalogue's pictures that was published before. Nothing is bought or lost.

    :param destination: the catalogue's ``s3://bucket/prefix``.
    :param to: the run to go back to; None for the one before the current one.
    :param extra_args: as in :class:`PlanCatalogueOperator`.
    """

    template_fields: Sequence[str] = ("destination", "to", "aws_conn_id")
    operator_extra_links = (LocationLink(),)

    def __init__(
        self,
        *,
        destination: str,
        to: str | None = None,
        aws_conn_id: str | None = "aws_default",
        extra_args: Mapping[str, Any] | None = None,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        self.destination = destination
        self.to = to
        self.aws_conn_id = aws_conn_id
        self.extra_args = extra_args

    def execute(self, context: Context) -> dict[str, Any]:
        """Restore it."""
        from airflow_provider_bgai.catalogue.publishing.publish import rollback

        try:
            published = rollback(open_storage(self.aws_conn_id, self.extra_args), self.destination, to=self.to or None)
        except failures() as error:
            fail(error)
        self.reads, self.writes = [published.mapping], [self.destination]
        return published.model_dump(mode="json")
