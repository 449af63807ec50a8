"""The nightly run in one line: plan, generate, publish."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from airflow.providers.common.compat.sdk import Asset, TaskGroup

try:
    from airflow.providers.standard.operators.empty import EmptyOperator
except ImportError:  # Airflow 2.11
    from airflow.operators.empty import EmptyOperator  # type: ignore[no-redef]

from airflow_provider_bgai.operators._lineage import alias
from airflow_provider_bgai.operators._notify import Notifiers
from airflow_provider_bgai.operators.catalogue import (
    GenerateCatalogueOperator,
    PlanCatalogueOperator,
    PublishCatalogueOperator,
)
from airflow_provider_bgai.ui.links import about

if TYPE_CHECKING:
    from airflow_provider_bgai.buying.decision import OnUnknownOutcome
    from airflow_provider_bgai.catalogue.review import Review


class CatalogueTaskGroup(TaskGroup):
    """Regenerate a shop's catalogue imagery: buy what changed, once, within the budget, and publish it as a whole.

    ``plan`` writes what is wanted, ``generate`` is mapped over the plan's shards, ``publish`` moves the pictures to
    their stable keys and emits an asset event for ``destination`` with the counts. Between them ``generated`` does
    nothing but succeed when every shard has ended, in whatever way: so a broken shard does not keep ``publish`` from
    running, nor does a night without shards, and a plan that failed does: ``publish`` is ``upstream_failed`` then.

    :param manifest, recipe, destination, conn_id, budget, shard_size, only, limit, aws_conn_id: see
        :class:`~airflow_provider_bgai.operators.catalogue.PlanCatalogueOperator`.
    :param parallel_shards: how many shards run side by side; they share the connection's rate and slots.
    :param in_flight, deferrable, timeout, on_unknown_outcome: see
        :class:`~airflow_provider_bgai.operators.catalogue.GenerateCatalogueOperator`.
    :param sign_conn_id: see there, too.
    :param max_failure_ratio: publish unless more than this share of the wanted pictures failed.
    :param review: whether a person is asked before ``publish``, by a task ``review``: ``"none"``; ``"quarantined"``:
        where something is in quarantine or held; ``"all"``: whenever the shop would change. See
        :class:`~airflow_provider_bgai.operators.review.ReviewCatalogueOperator`. No answer means: do not publish.
    :param notifiers: Airflow's notifiers, or whatever is called with a task's context: ``publish`` calls them where
        something waits for a person (:mod:`airflow_provider_bgai.operators._notify`).
    :param outlets: assets to be updated by publishing; None for one named by the destination or, where that is a
        template, for the alias ``<dag_id>.<group_id>`` (not before Airflow 3.0).
    """

    def __init__(
        self,
        group_id: str = "catalogue",
        *,
        manifest: str,
        recipe: str | Mapping[str, Any],
        destination: str,
        conn_id: str | Sequence[str],
        budget: Mapping[str, Any] | None = None,
        shard_size: int = 100,
        only: str | Sequence[str] = "changed",
        limit: int | str | None = None,
        parallel_shards: int = 2,
        in_flight: int = 64,
        deferrable: bool | None = None,
        timeout: float = 1800,
        on_unknown_outcome: OnUnknownOutcome = "hold",
        sign_conn_id: str | None = None,
        max_failure_ratio: float = 0.2,
        review: Review = "none",
        notifiers: Notifiers = None,
        outlets: Sequence[Any] | None = None,
        aws_conn_id: str | None = "aws_default",
        extra_args: Mapping[str, Any] | None = None,
        **kwargs: Any,
    ) -> None:
        super().__init__(group_id=group_id, **kwargs)
        if outlets is None:
            templated = "{" in destination
            outlets = alias(f"{self.dag.dag_id}.{self.group_id}") if templated else [Asset(uri=destination)]
        with self:
            plan = PlanCatalogueOperator(
                task_id="plan",
                manifest=manifest,
                recipe=recipe,
                destination=destination,
                conn_id=conn_id,
                budget=budget,
                shard_size=shard_size,
                only=only,
                limit=limit,
                on_unknown_outcome=on_unknown_outcome,
                aws_conn_id=aws_conn_id,
                extra_args=extra_args,
            )
            generate = GenerateCatalogueOperator.partial(
                task_id="generate",
                conn_id=conn_id,
                budget=budget,
                in_flight=in_flight,
                parallel_shards=parallel_shards,
                timeout=timeout,
                on_unknown_outcome=on_unknown_outcome,
                sign_conn_id=sign_conn_id,
                aws_conn_id=aws_conn_id,
                extra_args=extra_args,
                max_active_tis_per_dagrun=parallel_shards,
                map_index_template="{{ task.shard_label }}",
                doc_md=about(GenerateCatalogueOperator),
                **({} if deferrable is None else {"deferrable": deferrable}),
            ).expand(shard=plan.output)
            # A shard that broke down counts as failed pictures; how many are too many, publishing decides.
            generated = EmptyOperator(task_id="generated", trigger_rule="all_done")
            publish = PublishCatalogueOperator(
                task_id="publish",
                plan=plan.output["plan"],  # type: ignore[index]  # resolved when it runs
                max_failure_ratio=max_failure_ratio,
                notifiers=notifiers,
                aws_conn_id=aws_conn_id,
                extra_args=extra_args,
                outlets=list(outlets),
            )
            generate >> generated >> publish
            if review != "none":
                from airflow_provider_bgai.operators.review import ReviewCatalogueOperator

                asked = ReviewCatalogueOperator(
                    task_id="review",
                    plan=plan.output["plan"],  # type: ignore[index]
                    review=review,
                    aws_conn_id=aws_conn_id,
                    extra_args=extra_args,
                )
                generated >> asked >> publish
