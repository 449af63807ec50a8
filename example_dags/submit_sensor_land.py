"""Step by step, with any vendor: `submit` buys, `wait` polls the vendor's task without a worker slot, `land` fetches.

In one task all three are `GenerateBackgroundOperator` alone. Three tasks show each step in the grid, and let something
else happen while the vendor paints. A vendor that answers with the picture itself has landed it when `submit` ends, and
the other two find nothing left to do.
"""

from __future__ import annotations

from airflow.providers.common.compat.sdk import Param, dag

from airflow_provider_bgai.get_provider_info import ROWS
from airflow_provider_bgai.operators.generate import GenerateBackgroundOperator
from airflow_provider_bgai.operators.land import LandBackgroundOperator
from airflow_provider_bgai.sensors.background import BackgroundTaskSensor

VENDORS = [row.name for row in ROWS]
CONNECTION = "{{ params.vendor }}_default"
DESTINATION = "s3://catalogue/step-by-step/{{ params.vendor }}-{index}.{ext}"


@dag(
    dag_display_name="Submit, wait, land",
    schedule=None,
    default_args={"owner": "shop"},
    doc_md=__doc__,
    params={"vendor": Param(VENDORS[0], enum=VENDORS, description="Who paints it")},
    tags=["bgai", "step by step"],
)
def submit_sensor_land():
    submit = GenerateBackgroundOperator(
        task_id="submit",
        conn_id=CONNECTION,
        image="s3://catalogue/images/glass-tea-mug.png",
        prompt="on a marble worktop beside a sunny window",
        destination=DESTINATION,
        wait_for_completion=False,
    )
    wait = BackgroundTaskSensor(
        task_id="wait",
        conn_id=CONNECTION,
        vendor_task_id=submit.output,
        deferrable=True,
    )
    land = LandBackgroundOperator(
        task_id="land",
        conn_id=CONNECTION,
        vendor_task_id=submit.output,
        destination=DESTINATION,
    )
    wait >> land


submit_sensor_land()
