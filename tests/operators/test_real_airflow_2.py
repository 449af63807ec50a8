"""A running Airflow 2.11: that it defers to a real triggerer. `test_real_airflow.py` shows all else, on Airflow 3."""

from __future__ import annotations

import json
import os
import sqlite3
import subprocess
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import airflow
import pytest

from demo.services import SCRIPTS, free_ports, running
from tests.conftest import SECRET
from tests.operators.conftest import DAGS, wait_until

pytestmark = pytest.mark.skipif(airflow.__version__ >= "3", reason="`airflow standalone` and the REST API of 3 do more")


AIRFLOW = str(SCRIPTS / "airflow")


@pytest.fixture
def home(connections_json, tmp_path, monkeypatch) -> Iterator[Path]:
    """Of a running scheduler and triggerer; SQLite leaves 2.11 the executor that runs tasks one by one."""
    worker_logs, trigger_logs = free_ports(2)
    env = {
        "PATH": f"{SCRIPTS}{os.pathsep}{os.environ['PATH']}",  # the scheduler starts tasks as `airflow …`
        "AIRFLOW_HOME": str(tmp_path),
        "AIRFLOW__CORE__DAGS_FOLDER": str(DAGS),
        "AIRFLOW__CORE__LOAD_EXAMPLES": "False",
        "AIRFLOW__CORE__EXECUTOR": "SequentialExecutor",
        "AIRFLOW__DATABASE__SQL_ALCHEMY_CONN": f"sqlite:///{tmp_path / 'airflow.db'}",
        "AIRFLOW__LOGGING__WORKER_LOG_SERVER_PORT": str(worker_logs),
        "AIRFLOW__LOGGING__TRIGGER_LOG_SERVER_PORT": str(trigger_logs),
        "AIRFLOW__SCHEDULER__SCHEDULER_HEARTBEAT_SEC": "1",
        **{f"AIRFLOW_CONN_{name.upper()}": value for name, value in connections_json.items()},
    }
    for name, value in env.items():
        monkeypatch.setenv(name, value)
    subprocess.run([AIRFLOW, "db", "migrate"], check=True, capture_output=True)
    with (
        running([AIRFLOW, "scheduler"], tmp_path / "scheduler.txt", env=env),
        running([AIRFLOW, "triggerer"], tmp_path / "triggerer.txt", env=env),
    ):
        wait_until(lambda: rows(tmp_path, "select 1 from dag where dag_id = 'generate_deferred'"))
        yield tmp_path


def rows(home: Path, query: str) -> list[Any]:
    with closing(sqlite3.connect(home / "airflow.db")) as database:
        return database.execute(query).fetchall()


def test_a_deferred_task_lands_through_the_triggerer(home, box, s3, upload, product, request):
    upload("product.png", product)
    box.set_latency("picwish", 6)
    folder = request.node.name
    conf = json.dumps({"destination": f"s3://{s3.bucket}/{folder}/product-{{index}}.{{ext}}"})
    subprocess.run([AIRFLOW, "dags", "trigger", "--conf", conf, "generate_deferred"], check=True, capture_output=True)
    wait_until(lambda: rows(home, "select 1 from trigger where triggerer_id is not null"))
    wait_until(lambda: rows(home, "select 1 from dag_run where state in ('success', 'failed')"))
    assert rows(home, "select state from dag_run") == [("success",)]
    assert box.images_charged() == 1
    assert s3.client().list_objects_v2(Bucket=s3.bucket, Prefix=f"{folder}/product-1.png")["KeyCount"] == 1
    assert [path for path in home.rglob("*") if path.is_file() and SECRET.encode() in path.read_bytes()] == []
