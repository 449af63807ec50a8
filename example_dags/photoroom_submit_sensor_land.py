"""Photoroom, step by step: submit, wait, land.

Photoroom answers with the picture itself, so `submit` lands it and the two steps after it have nothing left
to do. Kept in three steps, the DAG works with any vendor.

Photoroom makes one picture per call and takes a seed.
"""

from __future__ import annotations

from airflow.providers.common.compat.sdk import DAG

from airflow_provider_bgai.operators.generate import GenerateBackgroundOperator
from airflow_provider_bgai.operators.land import LandBackgroundOperator
from airflow_provider_bgai.sensors.background import BackgroundTaskSensor

DESTINATION = "s3://catalogue/photoroom/KIT-001-{index}.{ext}"

with DAG("photoroom_submit_sensor_land", schedule=None, tags=["bgai"]):
    submit = GenerateBackgroundOperator(
        task_id="submit",
        conn_id="photoroom_default",
        image="s3://catalogue/images/glass-tea-mug.png",
        prompt="on a marble worktop beside a sunny window",
        negative_prompt="people, text",
        seed=42,
        destination=DESTINATION,
        wait_for_completion=False,
    )
    wait = BackgroundTaskSensor(
        task_id="wait",
        conn_id="photoroom_default",
        vendor_task_id=submit.output,
    )
    land = LandBackgroundOperator(
        task_id="land",
        conn_id="photoroom_default",
        vendor_task_id=submit.output,
        destination=DESTINATION,
    )
    wait >> land
