"""A nightly run in three tasks: plan what has changed, generate it shard by shard, publish it as a whole.

The work is done in ``airflow_provider_bgai.catalogue``; here are parameters, templates, deferral and what goes to
XCom (counts and URIs).
"""

from __future__ import annotations

import re
import time
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from datetime import timedelta
from functools import partial
from typing import TYPE_CHECKING, Any

from airflow.providers.common.compat.sdk import (
    AirflowException,
    AirflowFailException,
    BaseHook,
    BaseOperator,
    conf,
)

from airflow_provider_bgai.exceptions import AuthenticationError, BgaiError
from airflow_provider_bgai.operators.generate import fail
from airflow_provider_bgai.polling import PollPolicy
from airflow_provider_bgai.triggers.background import BackgroundTaskTrigger

if TYPE_CHECKING:
    from airflow.providers.common.compat.sdk import Context

    from airflow_provider_bgai.catalogue.finishing import Finishing, Sign
    from airflow_provider_bgai.catalogue.pipeline import Progress
    from airflow_provider_bgai.catalogue.purchase import OnUnknownOutcome
    from airflow_provider_bgai.catalogue.records import Wanted
    from airflow_provider_bgai.hooks.base import BackgroundHook
    from airflow_provider_bgai.storage import Storage


class PlanCatalogueOperator(BaseOperator):
    """Find out what the catalogue needs, and what it will cost, before a cent is spent.

    Returns (XCom) the shards' URIs, to map ``GenerateCatalogueOperator`` over; under the key ``plan`` the plan: URI,
    run, counts by status, pictures, calls, price (None: unknown).

    :param manifest: the products: CSV, JSON lines or Parquet; ``s3://``, ``https://`` or a path.
    :param recipe: what to paint: a mapping, or a YAML or JSON file.
    :param destination: ``s3://bucket/prefix`` where the shop reads; records live in ``_bgai/`` below it.
    :param conn_id: the vendor's connection, or several in order of preference.
    :param budget: caps, e.g. ``{"day": {"pictures": 500}, "month": {"money": 100}}``.
    :param shard_size: pictures per mapped task; grows where there would be more than ``max_shards`` tasks.
    :param only: ``"changed"``, ``"all"``, ``"failed"`` or a list of SKUs.
    :param limit: at most so many pictures, highest priority first.
    :param on_unknown_outcome: with ``"resubmit"``, held products are wanted too.
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
    ui_color = "#e8e4f3"

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
        if isinstance(recipe, Mapping):
            # Its templates are about products, not about the DAG run.
            self.template_fields = tuple(name for name in self.template_fields if name != "recipe")

    def execute(self, context: Context) -> list[str]:
        """Write the plan and its shards; spend nothing."""
        from airflow_provider_bgai.catalogue.budget import Budget, Caps
        from airflow_provider_bgai.catalogue.planner import make_plan

        storage, hooks = connect(self.conn_id, self.aws_conn_id)
        destination = self.destination.rstrip("/")
        now = time.time()
        run = run_name(context)
        try:
            caps = Caps.model_validate(self.budget or {})
            caps.check({hook.conn_id: (hook.settings.price_per_image, hook.settings.currency) for hook in hooks})
            left = Budget(storage, destination, caps, run, "plan", now=now).left()
            plan = make_plan(
                manifest=self.manifest,
                recipe=self.recipe,
                destination=destination,
                hooks=hooks,
                storage=storage,
                run=run,
                only=self.only if isinstance(self.only, str) else list(self.only),
                limit=int(self.limit) if self.limit not in (None, "") else None,
                shard_size=self.shard_size,
                max_shards=self.max_shards,
                on_unknown_outcome=self.on_unknown_outcome,
                budget_left=left,
                now=now,
            )
        except BgaiError as error:
            fail(error)
        except ValueError as error:
            # Wrong manifest, recipe or budget: the message says where.
            raise AirflowFailException(str(error)) from error
        told = plan.model_dump(mode="json", exclude={"shards"})
        self.log.info("Planned: %s", told)
        context["ti"].xcom_push(key="plan", value=told)
        return plan.shards


class GenerateCatalogueOperator(BaseOperator):
    """Buy and land the pictures of one shard, many at a time, each once. Map it over the plan's shards.

    A picture that fails is reported in the shard's results and stops no other. A retry, or the same shard in another
    run, collects what is stored before it submits anything.

    :param shard: the URI of a shard, from ``plan.output``.
    :param conn_id, budget, aws_conn_id: as in :class:`PlanCatalogueOperator`.
    :param in_flight: how many pictures are under way at once.
    :param parallel_shards: how many shards run side by side: each gets that share of the connection's rate and slots.
    :param deferrable: wait for the vendor's tasks in the triggerer, without a worker slot.
    :param timeout: seconds to wait for the vendor's tasks in all.
    :param sign_conn_id: whose certificate signs the published files (C2PA), where the recipe says ``sign: true``: a
        connection whose password is the private key (PEM) and whose extras are ``certificate`` (PEM), and
        perhaps ``alg`` and ``tsa_url``. Needs the extra ``c2pa``.
    :param on_unknown_outcome: see :class:`~airflow_provider_bgai.operators.generate.GenerateBackgroundOperator`.
    :param hold_for: seconds after which a held picture is released.
    """

    template_fields: Sequence[str] = ("shard", "conn_id", "budget", "sign_conn_id", "aws_conn_id")
    template_fields_renderers = {"budget": "json"}
    ui_color = "#e8e4f3"

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
        hold_for: float = 24 * 3600,
        sign_conn_id: str | None = None,
        aws_conn_id: str | None = "aws_default",
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

    def execute(self, context: Context) -> dict[str, Any]:
        """Collect what is stored, claim, submit; then wait here or in the triggerer."""
        return self._pass(deadline=time.time() + self.timeout, patience=None if self.deferrable else self.timeout)

    def execute_complete(self, context: Context, event: dict[str, Any]) -> dict[str, Any]:
        """Land what has ended; wait on for the rest until the deadline."""
        return self._pass(deadline=event["deadline"], patience=0.0)

    def on_kill(self) -> None:
        """No vendor can cancel a task. The claims in S3 keep the IDs for the next try or run."""
        self.log.info("Killed. What was submitted is kept in the claims; the next try or run collects it")

    def _pass(self, *, deadline: float, patience: float | None) -> dict[str, Any]:
        from airflow_provider_bgai.catalogue.plan import read_plan
        from airflow_provider_bgai.catalogue.records import Wanted, read_lines

        storage, hooks = connect(self.conn_id, self.aws_conn_id)
        destination, run, _ = split_shard(self.shard)
        try:
            plan = read_plan(storage, f"{destination}/_bgai/runs/{run}/plan.json")
            sign = self._signer() if any(each.sign for each in plan.finishing.values()) else None
            for hook in hooks:
                hook.share(max(1, min(self.parallel_shards, len(plan.shards))))
                hook.staging = f"{destination}/_bgai/staged"
            wanted = list(read_lines(Wanted, storage.read(self.shard).splitlines()))
            progress = self._generate(storage, hooks, wanted, patience, plan.finishing, sign)
        except BgaiError as error:
            fail(error)
        # With a wrong key no waiting helps: the tasks are kept, and reported so.
        waiting = [claim for claim in progress.pending.values() if claim.reason != AuthenticationError.reason]
        if waiting and self.deferrable and time.time() < deadline:
            # One trigger speaks with one vendor. Others' tasks, after a failover, are collected in the next pass.
            by_connection = Counter(claim.conn_id for claim in waiting)
            ((conn_id, _),) = by_connection.most_common(1)
            self.defer(
                trigger=BackgroundTaskTrigger(
                    conn_id=conn_id,
                    task_ids=[it.task_id for it in waiting if it.conn_id == conn_id and it.task_id],
                    poll_interval=self.poll_interval,
                    deadline=deadline,
                    record=self.shard,
                ),
                method_name="execute_complete",
                timeout=timedelta(seconds=max(0.0, deadline - time.time()) + 120),
            )
        return self._write(storage, wanted, progress)

    def _generate(
        self,
        storage: Storage,
        hooks: list[BackgroundHook],
        wanted: list[Wanted],
        patience: float | None,
        finishing: Mapping[str, Finishing],
        sign: Sign | None,
    ) -> Progress:
        import asyncio

        from airflow_provider_bgai.catalogue.budget import Budget, Caps
        from airflow_provider_bgai.catalogue.pipeline import Shard, generate
        from airflow_provider_bgai.catalogue.purchase import Buyer

        destination, run, name = split_shard(self.shard)
        caps = Caps.model_validate(self.budget or {})

        async def work() -> Progress:
            purse = Budget(storage, destination, caps, run, name, now=time.time())
            shard = Shard(
                buyer=Buyer(hooks, storage, purse),
                destination=destination,
                owner=f"{run}/{name}",
                in_flight=self.in_flight,
                policy=PollPolicy(interval=self.poll_interval),
                on_unknown_outcome=self.on_unknown_outcome,
                hold_for=self.hold_for,
                finishing=finishing,
                sign=sign,
            )
            try:
                return await generate(shard, wanted, patience=patience)
            finally:
                await purse.close()
                for hook in hooks:
                    await hook.aclose()

        return asyncio.run(work())

    def _signer(self) -> Sign:
        """Signs with the certificate of ``sign_conn_id``, found out before a cent is spent."""
        from airflow_provider_bgai.imaging.sign import sign

        if not self.sign_conn_id:
            raise AirflowFailException("The recipe says sign: true, so this task needs sign_conn_id: whose certificate")
        connection = BaseHook.get_connection(self.sign_conn_id)
        extra = connection.extra_dejson
        key, certificate = (connection.password or "").encode(), str(extra.get("certificate") or "").encode()
        if not key or not certificate:
            raise AirflowFailException(
                f"Connection {self.sign_conn_id!r}: the password must be the private key, and the extra 'certificate' "
                "its certificate, both as PEM"
            )
        return partial(
            sign, certificate_pem=certificate, key_pem=key, alg=extra.get("alg", "es256"), tsa_url=extra.get("tsa_url")
        )

    def _write(self, storage: Storage, wanted: list[Wanted], progress: Progress) -> dict[str, Any]:
        from airflow_provider_bgai.catalogue.pipeline import give_up
        from airflow_provider_bgai.catalogue.records import dump_lines
        from airflow_provider_bgai.catalogue.report import cost_report

        results = give_up(wanted, progress)
        uri = self.shard.replace("/shards/", "/results/")
        storage.put(uri, dump_lines(results), content_type="application/x-ndjson")
        total = cost_report(results).total
        return {
            "shard": self.shard,
            "results": uri,
            "outcomes": dict(Counter(it.outcome for it in results)),
            "paid": {currency: float(money) for currency, money in total.paid.items()},
            "charged": total.charged,
            "unknown_outcomes": total.unknown.pictures,
        }


class PublishCatalogueOperator(BaseOperator):
    """Make the run's pictures the ones the shop reads, all at once, or none if too many failed.

    Returns (XCom) counts, costs and URIs. With outlets, each gets them as the extra of its asset event.

    :param plan: what ``PlanCatalogueOperator`` told under the key ``plan``: ``plan.output["plan"]``.
    :param max_failure_ratio: publish unless more than this share (0 to 1) of the wanted pictures failed.
    """

    template_fields: Sequence[str] = ("plan", "max_failure_ratio", "aws_conn_id")
    ui_color = "#e8e4f3"

    def __init__(
        self,
        *,
        plan: Mapping[str, Any],
        max_failure_ratio: float = 0.2,
        aws_conn_id: str | None = "aws_default",
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        self.plan = plan
        self.max_failure_ratio = max_failure_ratio
        self.aws_conn_id = aws_conn_id

    def execute(self, context: Context) -> dict[str, Any]:
        """Publish, and report what became of every SKU and what it cost."""
        from airflow_provider_bgai.catalogue.publish import publish, read_manifest_of_run
        from airflow_provider_bgai.catalogue.report import cost_report
        from airflow_provider_bgai.storage import Storage

        if not self.plan:
            raise AirflowFailException("There is no plan to publish: the planning task returned none")
        destination, run = self.plan["uri"].rpartition("/plan.json")[0].split("/_bgai/runs/")
        storage = Storage(self.aws_conn_id)
        with _publishing():
            published = publish(
                storage, destination, run, max_failure_ratio=float(self.max_failure_ratio), now=time.time()
            )
        costs = cost_report(read_manifest_of_run(storage, destination, run))
        self.log.info("What became of the catalogue, and what it cost:\n%s", costs.as_text())
        paid = {currency: float(money) for currency, money in costs.total.paid.items()}
        report = {**published.model_dump(mode="json"), "paid": paid, "charged": costs.total.charged}
        for asset in self.outlets:
            context["outlet_events"][asset].extra = report
        return report


class RollbackCatalogueOperator(BaseOperator):
    """Restore the version of the catalogue's pictures that was published before. Nothing is bought or lost.

    :param destination: the catalogue's ``s3://bucket/prefix``.
    :param to: the run to go back to; None for the one before the current one.
    """

    template_fields: Sequence[str] = ("destination", "to", "aws_conn_id")
    ui_color = "#e8e4f3"

    def __init__(
        self, *, destination: str, to: str | None = None, aws_conn_id: str | None = "aws_default", **kwargs: Any
    ) -> None:
        super().__init__(**kwargs)
        self.destination = destination
        self.to = to
        self.aws_conn_id = aws_conn_id

    def execute(self, context: Context) -> dict[str, Any]:
        """Restore it."""
        from airflow_provider_bgai.catalogue.publish import rollback
        from airflow_provider_bgai.storage import Storage

        with _publishing():
            published = rollback(
                Storage(self.aws_conn_id), self.destination.rstrip("/"), to=self.to or None, now=time.time()
            )
        return published.model_dump(mode="json")


@contextmanager
def _publishing() -> Iterator[None]:
    """Fail the task for good, but for a conflict: another run that is just publishing has soon finished."""
    from airflow_provider_bgai.catalogue.publish import PublishConflictError, PublishError

    try:
        yield
    except PublishConflictError as error:
        raise AirflowException(str(error)) from error
    except PublishError as error:
        raise AirflowFailException(str(error)) from error
    except BgaiError as error:
        fail(error)


def connect(conn_id: str | Sequence[str], aws_conn_id: str | None) -> tuple[Storage, list[BackgroundHook]]:
    """S3 and the hooks, looked up before an event loop starts."""
    from airflow_provider_bgai.hooks import get_hook
    from airflow_provider_bgai.storage import Storage

    storage = Storage(aws_conn_id)
    _ = storage.client
    hooks = []
    try:
        for name in [conn_id] if isinstance(conn_id, str) else conn_id:
            hook = get_hook(name, aws_conn_id=aws_conn_id)
            hook.storage = storage
            _ = hook.settings
            hooks.append(hook)
    except BgaiError as error:
        fail(error)
    return storage, hooks


def run_name(context: Context) -> str:
    """The run's name in S3: the DAG run's ID, with what does not belong into a key replaced."""
    return re.sub(r"[^A-Za-z0-9._-]+", "-", f"{context['ti'].dag_id}--{context['ti'].run_id}")


def split_shard(uri: str) -> tuple[str, str, str]:
    """Destination, run and shard name of a shard's URI."""
    match = re.fullmatch(r"(.+)/_bgai/runs/([^/]+)/shards/([^/]+)\.jsonl", uri)
    if match is None:
        raise AirflowFailException(f"shard={uri!r}: must be a shard's URI from plan.output")
    return match[1], match[2], match[3]
