"""DAGs that the tests run for real; what they paint is given when they are triggered."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

from airflow.providers.common.compat.sdk import DAG

from airflow_provider_bgai.operators.generate import GenerateBackgroundOperator
from airflow_provider_bgai.operators.land import LandBackgroundOperator
from airflow_provider_bgai.sensors.background import BackgroundTaskSensor

PARAMS = {
    "conn_id": "picwish_default",
    "image": "s3://catalogue/product.png",
    "prompt": "on a beach",
    "destination": "s3://catalogue/out/product-{index}.{ext}",
    "count": 1,
    "seed": None,
    "epoch": None,
    "ledger": None,
    "budget": None,
    "vendor_task_id": None,
}
WISH: dict[str, Any] = {name: f"{{{{ params.{name} }}}}" for name in PARAMS if name != "vendor_task_id"}


def dag(dag_id: str) -> DAG:
    return DAG(
        dag_id,
        schedule=None,
        params=PARAMS,
        render_template_as_native_obj=True,
        default_args={"retries": 1, "retry_delay": timedelta(seconds=1)},
        is_paused_upon_creation=False,
    )


for deferrable, waiting in ((False, "blocking"), (True, "deferred")):
    with dag(f"generate_{waiting}"):
        GenerateBackgroundOperator(
            task_id="generate", **WISH, deferrable=deferrable, poll_interval=0.5, timeout=60, retries=1
        )

    with dag(f"steps_{waiting}"):
        submit = GenerateBackgroundOperator(task_id="submit", **WISH, wait_for_completion=False)
        wait = BackgroundTaskSensor(
            task_id="wait",
            conn_id=WISH["conn_id"],
            vendor_task_id=submit.output,
            deferrable=deferrable,
            poke_interval=0.5,
        )
        land = LandBackgroundOperator(
            task_id="land",
            conn_id=WISH["conn_id"],
            vendor_task_id=submit.output,
            destination=WISH["destination"],
        )
        wait >> land

    with dag(f"land_{waiting}"):
        wait = BackgroundTaskSensor(
            task_id="wait",
            conn_id=WISH["conn_id"],
            vendor_task_id="{{ params.vendor_task_id }}",
            deferrable=deferrable,
            poke_interval=0.5,
            timeout=20,
        )
        land = LandBackgroundOperator(
            task_id="land",
            conn_id=WISH["conn_id"],
            vendor_task_id="{{ params.vendor_task_id }}",
            destination=WISH["destination"],
        )
        wait >> land

with dag("generate_impatient"):
    GenerateBackgroundOperator(task_id="generate", **WISH, poll_interval=0.2, timeout=1, retries=1)

with dag("generate_impatient_deferred"):
    GenerateBackgroundOperator(task_id="generate", **WISH, deferrable=True, poll_interval=0.2, timeout=1, retries=1)

with dag("generate_again"):
    GenerateBackgroundOperator(task_id="generate", **WISH, on_unknown_outcome="resubmit", retries=1)
