"""Katalis, step by step: submit, wait, land.

Katalis answers with the picture itself, so `submit` lands it and the two steps after it have nothing left
to do. Kept in three steps, the DAG works with any vendor.

Katalis takes no seed. It fetches the image itself, from a short-lived link to S3.
"""

from __future__ import annotations

from airflow.providers.common.compat.sdk import DAG

from airflow_provider_bgai.operators.generate import GenerateBackgroundOperator
from airflow_provider_bgai.operators.land import LandBackgroundOperator
from airflow_provider_bgai.sensors.background import BackgroundTaskSensor

DESTINATION = "s3://catalogue/katalis/BAG-001-{index}.{ext}"

with DAG("katalis_submit_sensor_land", schedule=None, tags=["bgai"]):
    submit = GenerateBackgroundOperator(
        task_id="submit",
        conn_id="katalis_default",
        image="s3://catalogue/images/suitcase-set.png",
        prompt="in a bright hotel lobby",
        count=2,
        negative_prompt="people, text",
        destination=DESTINATION,
        wait_for_completion=False,
    )
    wait = BackgroundTaskSensor(
        task_id="wait",
        conn_id="katalis_default",
        vendor_task_id=submit.output,
    )
    land = LandBackgroundOperator(
        task_id="land",
        conn_id="katalis_default",
        vendor_task_id=submit.output,
        destination=DESTINATION,
    )
    wait >> land
