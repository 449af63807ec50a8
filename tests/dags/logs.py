"""What the tests of the logs run: one picture at a time, so that a night is told the same whenever it is run."""

from __future__ import annotations

from airflow.providers.common.compat.sdk import DAG

from airflow_provider_bgai.operators.generate import GenerateBackgroundOperator
from airflow_provider_bgai.operators.land import LandBackgroundOperator
from airflow_provider_bgai.sensors.background import BackgroundTaskSensor
from airflow_provider_bgai.task_groups.catalogue import CatalogueTaskGroup
from tests.dags.backgrounds import WISH, dag
from tests.dags.catalogue import CATALOGUE_PARAMS, NIGHT

# A deferred shard lands what has ended by then: of two pictures, on a busy machine, the one or the other.
for kind, shard_size, deferrable in (("good", 1, True), ("bad", 100, False)):
    with DAG(
        f"night_{kind}",
        schedule=None,
        params=CATALOGUE_PARAMS,
        render_template_as_native_obj=True,
        is_paused_upon_creation=False,
    ):
        CatalogueTaskGroup(
            "catalogue", **NIGHT, shard_size=shard_size, deferrable=deferrable, parallel_shards=1, in_flight=1
        )

with dag("by_day"):
    GenerateBackgroundOperator(task_id="on_demand", **WISH, deferrable=False, poll_interval=0.2, retries=0)

with dag("by_steps"):
    submit = GenerateBackgroundOperator(task_id="submit", **WISH, deferrable=False, wait_for_completion=False)
    wait = BackgroundTaskSensor(
        task_id="wait", conn_id=WISH["conn_id"], vendor_task_id=submit.output, deferrable=True, poke_interval=0.2
    )
    land = LandBackgroundOperator(
        task_id="land", conn_id=WISH["conn_id"], vendor_task_id=submit.output, destination=WISH["destination"]
    )
    wait >> land
