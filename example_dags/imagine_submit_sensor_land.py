"""Imagine, step by step: submit, wait, land.

Imagine answers with the picture itself, so `submit` lands it and the two steps after it have nothing left
to do. Kept in three steps, the DAG works with any vendor.

Imagine makes one picture per call, takes a seed and no negative prompt.
"""

from __future__ import annotations

from airflow.providers.common.compat.sdk import DAG

from airflow_provider_bgai.operators.generate import GenerateBackgroundOperator
from airflow_provider_bgai.operators.land import LandBackgroundOperator
from airflow_provider_bgai.sensors.background import BackgroundTaskSensor

DESTINATION = "s3://catalogue/imagine/BIKE-001-{index}.{ext}"

with DAG("imagine_submit_sensor_land", schedule=None, tags=["bgai"]):
    submit = GenerateBackgroundOperator(
        task_id="submit",
        conn_id="imagine_default",
        image="s3://catalogue/images/city-bicycle.png",
        prompt="on a coastal road at golden hour",
        seed=42,
        destination=DESTINATION,
        wait_for_completion=False,
    )
    wait = BackgroundTaskSensor(
        task_id="wait",
        conn_id="imagine_default",
        vendor_task_id=submit.output,
    )
    land = LandBackgroundOperator(
        task_id="land",
        conn_id="imagine_default",
        vendor_task_id=submit.output,
        destination=DESTINATION,
    )
    wait >> land
