"""A nightly run with notifiers: ours, which remember what they were told, and some that break."""

from __future__ import annotations

from airflow.providers.common.compat.sdk import DAG

from airflow_provider_bgai.operators._notify import Notifiers
from airflow_provider_bgai.task_groups.catalogue import CatalogueTaskGroup
from tests.dags.catalogue import CATALOGUE_PARAMS, NIGHT
from tests.operators.listeners import Broken, Listener, break_down

KINDS: dict[str, Notifiers] = {
    "notified": Listener(),
    "notified_badly": [Broken(), Listener("{{ nothing.of_that_name }}"), break_down, Listener()],
}

for kind, notifiers in KINDS.items():
    with DAG(
        f"catalogue_{kind}",
        schedule=None,
        params=CATALOGUE_PARAMS,
        render_template_as_native_obj=True,
        is_paused_upon_creation=False,
    ):
        CatalogueTaskGroup("catalogue", **NIGHT, shard_size=5, deferrable=False, notifiers=notifiers)
