"""The nightly run, as the tests run it; what it is about is given when it is triggered."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

from airflow.providers.common.compat.sdk import DAG

from airflow_provider_bgai.operators.catalogue import CatalogueCostOperator, RollbackCatalogueOperator
from airflow_provider_bgai.task_groups.catalogue import CatalogueTaskGroup

CATALOGUE_PARAMS: dict[str, Any] = {
    "manifest": "s3://catalogue/products.csv",
    "recipe": "s3://catalogue/recipe.yaml",
    "destination": "s3://catalogue/shop",
    "conn_id": "picwish_default",
    "budget": {},
    "only": "changed",
    "limit": None,
    "max_failure_ratio": 0.2,
    "other_manifest": "s3://catalogue/other.csv",
}
NIGHT: dict[str, Any] = {name: f"{{{{ params.{name} }}}}" for name in CATALOGUE_PARAMS if name != "other_manifest"}

# The last one as a user would have it: a run that finds another one publishing tries again.
for deferrable, waiting, retries in ((False, "blocking", 0), (True, "deferred", 0), (True, "retried", 3)):
    with DAG(
        f"catalogue_{waiting}",
        schedule=None,
        params=CATALOGUE_PARAMS,
        default_args={"retries": retries, "retry_delay": timedelta(seconds=3)},
        render_template_as_native_obj=True,
        is_paused_upon_creation=False,
    ):
        CatalogueTaskGroup(
            "catalogue", **NIGHT, shard_size=5, deferrable=deferrable, parallel_shards=2, sign_conn_id="certificate"
        )

with DAG(
    "catalogue_reviewed",
    schedule=None,
    params=CATALOGUE_PARAMS,
    render_template_as_native_obj=True,
    is_paused_upon_creation=False,
):
    CatalogueTaskGroup("catalogue", **NIGHT, deferrable=False, review="quarantined")

# Two groups with one destination: each has a plan, shards and books of its own.
with DAG(
    "catalogue_twins",
    schedule=None,
    params=CATALOGUE_PARAMS,
    render_template_as_native_obj=True,
    is_paused_upon_creation=False,
):
    night = NIGHT | {"conn_id": "picwish_default"}
    one = CatalogueTaskGroup("one", **night, shard_size=5)
    night = NIGHT | {"conn_id": "photoroom_default", "manifest": "{{ params.other_manifest }}"}
    other = CatalogueTaskGroup("other", **night, shard_size=5)
    one >> other

with DAG("catalogue_costs", schedule=None, params=CATALOGUE_PARAMS, is_paused_upon_creation=False):
    CatalogueCostOperator(task_id="costs", destination=NIGHT["destination"])

with DAG("catalogue_rollback", schedule=None, params=CATALOGUE_PARAMS, is_paused_upon_creation=False):
    RollbackCatalogueOperator(task_id="rollback", destination=NIGHT["destination"])
