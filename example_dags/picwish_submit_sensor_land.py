"""PicWish, step by step: submit, wait without a worker slot, land.

PicWish answers with a task ID and keeps the result for an hour. It makes 1 or 2 pictures and takes no seed.
"""

from __future__ import annotations

from airflow.providers.common.compat.sdk import DAG

from airflow_provider_bgai.operators.generate import GenerateBackgroundOperator
from airflow_provider_bgai.operators.land import LandBackgroundOperator
from airflow_provider_bgai.sensors.background import BackgroundTaskSensor

DESTINATION = "s3://catalogue/picwish/SHOE-001-{index}.{ext}"

with DAG("picwish_submit_sensor_land", schedule=None, tags=["bgai"]):
    submit = GenerateBackgroundOperator(
        task_id="submit",
        conn_id="picwish_default",
        image="s3://catalogue/images/tennis-shoe.png",
        prompt="on wet cobblestones in morning light",
        count=2,
        negative_prompt="people, text",
        destination=DESTINATION,
        wait_for_completion=False,
    )
    wait = BackgroundTaskSensor(
        task_id="wait",
        conn_id="picwish_default",
        vendor_task_id=submit.output,
        deferrable=True,
    )
    land = LandBackgroundOperator(
        task_id="land",
        conn_id="picwish_default",
        vendor_task_id=submit.output,
        destination=DESTINATION,
    )
    wait >> land
