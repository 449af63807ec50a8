"""What only a running Airflow can show: the triggerer, its restart, a killed worker, and what is written down."""

from __future__ import annotations

import json
import signal
import sqlite3

import psutil
import pytest

from demo.services import SCRIPTS, running
from tests.operators.conftest import wait_until


@pytest.fixture
def start(api, box, s3, upload, product, request):
    """Trigger a DAG; its run ID."""
    upload("product.png", product)

    def start(dag_id: str, **conf) -> str:
        conf.setdefault("destination", f"s3://{s3.bucket}/{request.node.name}/product-{{index}}.{{ext}}")
        return api.trigger(dag_id, conf)

    return start


def ended(api, dag_id: str, run_id: str) -> str:
    """The run's state, once it has ended."""
    wait_until(lambda: api.run_state(dag_id, run_id) in ("success", "failed"))
    return api.run_state(dag_id, run_id)


def state(api, dag_id: str, run_id: str) -> str | None:
    (instance,) = api.task_instances(dag_id, run_id)
    return instance["state"]


def task_processes(run_id: str) -> list[psutil.Process]:
    """The processes that run a task: those whose title or command names the run."""
    return [process for process in psutil.process_iter() if "task runner" in _title(process)]


def _title(process: psutil.Process) -> str:
    try:
        return " ".join(process.cmdline())
    except psutil.Error:
        return ""


def test_a_deferred_task_lands_through_the_triggerer(api, box, start):
    box.set_latency("picwish", 2)
    run_id = start("generate_deferred")
    wait_until(lambda: state(api, "generate_deferred", run_id) == "deferred")
    assert ended(api, "generate_deferred", run_id) == "success"
    assert api.result("generate_deferred", run_id, "generate")["images"][0]["width"] > 0
    assert box.images_charged() == 1


def test_a_worker_killed_between_submission_and_completion_pays_once(api, box, start):
    box.set_latency("picwish", 8)
    run_id = start("generate_blocking")
    wait_until(lambda: any(request.kind == "poll" for request in box.requests))
    (task,) = task_processes(run_id)
    task.send_signal(signal.SIGKILL)
    assert ended(api, "generate_blocking", run_id) == "success"
    (instance,) = api.task_instances("generate_blocking", run_id)
    assert instance["try_number"] == 2
    assert box.images_charged() == 1


def test_a_deferred_task_survives_the_triggerer(api, airflow, box, start):
    box.set_latency("picwish", 12)
    run_id = start("generate_deferred")
    wait_until(lambda: state(api, "generate_deferred", run_id) == "deferred")
    wait_until(lambda: any(request.kind == "poll" for request in box.requests))
    for process in psutil.process_iter():
        if "triggerer" in _title(process):
            process.send_signal(signal.SIGKILL)
    # `airflow standalone` does not start it again, so a second one takes over.
    with running([str(SCRIPTS / "airflow"), "triggerer"], airflow.home / "triggerer.log", env=airflow.env):
        assert ended(api, "generate_deferred", run_id) == "success"
    assert box.images_charged() == 1
