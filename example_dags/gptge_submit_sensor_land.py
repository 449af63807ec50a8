"""gpt.ge, step by step: submit, wait without a worker slot, land.

gpt.ge answers with a task ID. It makes 1 to 4 pictures and takes neither a seed nor a negative prompt.
"""

from __future__ import annotations

from airflow.providers.common.compat.sdk import DAG

from airflow_provider_bgai.operators.generate import GenerateBackgroundOperator
from airflow_provider_bgai.operators.land import LandBackgroundOperator
from airflow_provider_bgai.sensors.background import BackgroundTaskSensor

DESTINATION = "s3://catalogue/gptge/MUS-001-{index}.{ext}"

with DAG("gptge_submit_sensor_land", schedule=None, tags=["bgai"]):
    submit = GenerateBackgroundOperator(
        task_id="submit",
        conn_id="gptge_default",
        image="s3://catalogue/images/electric-guitar.png",
        prompt="on a small stage with warm spotlights",
        count=2,
        destination=DESTINATION,
        wait_for_completion=False,
    )
    wait = BackgroundTaskSensor(
        task_id="wait",
        conn_id="gptge_default",
        vendor_task_id=submit.output,
        deferrable=True,
    )
    land = LandBackgroundOperator(
        task_id="land",
        conn_id="gptge_default",
        vendor_task_id=submit.output,
        destination=DESTINATION,
    )
    wait >> land
