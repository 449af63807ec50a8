"""The nightly catalogue of one shop, deferred: PicWish, and Photoroom where it refuses."""

from __future__ import annotations

from datetime import datetime, timedelta

from airflow.providers.common.compat.sdk import DAG

from airflow_provider_bgai.task_groups.catalogue import CatalogueTaskGroup

with DAG(
    "cluster_night",
    schedule=None,
    start_date=datetime(2026, 1, 1),
    catchup=False,
    max_active_runs=1,
    default_args={"owner": "shop", "retries": 2, "retry_delay": timedelta(seconds=30)},
):
    CatalogueTaskGroup(
        manifest="s3://catalogue/products.csv",
        recipe="s3://catalogue/recipe.yaml",
        destination="s3://catalogue/backgrounds",
        conn_id=["picwish_default", "photoroom_default"],
        deferrable=True,
        parallel_shards=4,
        # A call that was cut off by a kill is bought anew tonight, and declared: every product shall land.
        on_unknown_outcome="resubmit",
    )
