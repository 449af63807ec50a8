"""Real DAG runs: in process with `dag.test()`, and by a running Airflow."""

from __future__ import annotations

import csv
import io
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from demo.rest import AirflowApi
from demo.services import AirflowService, airflow_standalone
from tests.dags.backgrounds import PARAMS
from tests.dags.catalogue import CATALOGUE_PARAMS

DAGS = Path(__file__).parents[1] / "dags"

Run = Callable[..., dict[str, Any]]

RECIPE = """
version: 1
prompt: "{{ title }} on a table"
categories:
  toys: {prompt: "{{ title }} on a rug"}
"""


@pytest.fixture(scope="session")
def dags(airflow_db: None) -> Iterator[dict[str, Any]]:
    try:
        from airflow.dag_processing import dagbag as module
    except ImportError:  # Airflow 2.11
        from airflow.models import dagbag as module  # type: ignore[no-redef]

    bag = module.DagBag(DAGS)
    assert bag.import_errors == {}
    with pytest.MonkeyPatch.context() as patch:
        if sync := getattr(module, "sync_bag_to_db", None):
            # Every `dag.test()` writes the whole folder into the database anew: a second each time. Once will do.
            known: set[str] = set()  # folders

            def sync_once(bag: Any, name: str, *args: Any) -> None:
                if str(bag.dag_folder) not in known:
                    sync(bag, name, *args)
                    known.add(str(bag.dag_folder))

            patch.setattr(module, "sync_bag_to_db", sync_once)
        yield bag.dags


@pytest.fixture
def run(dags, box, s3, connections, upload, product, request) -> Run:
    """Run a DAG in this process; what its last task returned, its state and tries."""
    upload("product.png", product)

    def run(dag_id: str, **conf: Any) -> dict[str, Any]:
        folder = request.node.name.replace("[", "-").replace("]", "")
        conf.setdefault("destination", f"s3://{s3.bucket}/{folder}/product-{{index}}.{{ext}}")
        # `dag.test()` keeps a run's values as the DAG's defaults for the next one, so all are given.
        dag_run = dags[dag_id].test(run_conf=PARAMS | conf)
        instances = {each.task_id: each for each in dag_run.get_task_instances()}
        last = instances.get("land") or instances["generate"]
        return {
            "state": str(dag_run.state),
            "tries": last.try_number,
            "result": last.xcom_pull(task_ids=last.task_id),
        }

    return run


@pytest.fixture
def shop(s3, request) -> str:
    return f"s3://{s3.bucket}/{request.node.name.replace('[', '-').replace(']', '')}"


@pytest.fixture
def catalogue(upload, product, shop):
    """``catalogue(6)`` uploads a manifest of six products, their images and a recipe."""
    folder = shop.partition("//")[2].partition("/")[2] + "-source"

    def make(count: int, *, titles: dict[int, str] | None = None, recipe: str = RECIPE, extra_rows: str = "") -> dict:
        rows = io.StringIO()
        writer = csv.writer(rows)
        writer.writerow(["sku", "image", "title", "category"])
        for number in range(count):
            title = (titles or {}).get(number, f"Thing {number}")
            writer.writerow([f"SKU-{number}", "product.png", title, "toys" if number % 2 else "tools"])
        upload(f"{folder}/product.png", product)
        manifest = upload(f"{folder}/products.csv", (rows.getvalue() + extra_rows).encode(), "text/csv")
        return {
            "manifest": manifest,
            "recipe": upload(f"{folder}/recipe.yaml", recipe.encode(), "application/yaml"),
            "destination": shop,
        }

    return make


@pytest.fixture
def night(dags, box, s3, connections):
    """Run a night; what each task returned, by task ID."""

    def run(waiting: str = "blocking", dag_id: str | None = None, **conf) -> dict:
        dag_run = dags[dag_id or f"catalogue_{waiting}"].test(run_conf=CATALOGUE_PARAMS | conf)
        found: dict[str, Any] = {"state": str(dag_run.state)}
        for instance in dag_run.get_task_instances():
            name = instance.task_id.rpartition(".")[2]
            key = "plan" if name == "plan" else "return_value"
            value = instance.xcom_pull(task_ids=instance.task_id, map_indexes=instance.map_index, key=key)
            found.setdefault(name, []).append(value)
        return found

    return run


@pytest.fixture(scope="session")
def airflow(s3, sandbox, connections_json, tmp_path_factory) -> Iterator[AirflowService]:
    """A real Airflow with the tests' DAGs: scheduler, workers, triggerer, API."""
    # A dead triggerer is replaced after seconds, not after half a minute.
    settings = {
        "AIRFLOW__TRIGGERER__JOB_HEARTBEAT_SEC": "1",
        "AIRFLOW__TRIGGERER__TRIGGERER_HEALTH_CHECK_THRESHOLD": "5",
        "PYTHONWARNINGS": "default::DeprecationWarning",  # in the logs, those of DAGs too
    }
    with airflow_standalone(tmp_path_factory.mktemp("airflow"), DAGS, connections_json, settings) as service:
        yield service


@pytest.fixture(scope="session")
def api(airflow: AirflowService) -> Iterator[AirflowApi]:
    with AirflowApi(airflow) as api:
        wait_until(lambda: {"generate_deferred", "generate_blocking"} <= api.dag_ids())
        yield api


def wait_until(condition: Callable[[], Any], seconds: float = 120) -> Any:
    """What the condition returns once it is true. The bound only ends a hopeless wait."""
    deadline = time.monotonic() + seconds
    while not (found := condition()):
        assert time.monotonic() < deadline, "this never happened"
        time.sleep(0.2)
    return found
