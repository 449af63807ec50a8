"""The sensor is done when its tasks are, and never because of what it cannot read."""

from __future__ import annotations

import pytest
from airflow.providers.common.compat.sdk import AirflowException

from airflow_provider_bgai.sensors.background import BackgroundTaskSensor


def test_a_sensor_is_not_done_because_of_an_event_that_is_none():
    sensor = BackgroundTaskSensor(task_id="wait", conn_id="one", vendor_task_id="t")
    with pytest.raises(AirflowException, match="no event"):
        sensor.execute_complete({}, {"status": "success"})
