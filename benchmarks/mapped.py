"""Seconds a picture in a real Airflow: the recipe of the official providers, and this provider's generate stage.

The recipe (:func:`recipe`) is what one writes today: HttpOperator submits, HttpSensor waits, a task with S3Hook lands,
each mapped over the products. It is given what it can use: all slots (``--parallelism``, each a process; try what
suits the machine), no cap below them on the DAG's tasks, the picture as a signed link instead of an upload, one poke
a second that hands the result's link on without another request, and a first run of one product to warm up. Stages
are mapped one after the other, so most sensors find their task done and hold no slot for it.
HttpSensor's ``deferrable`` is of no use here: its trigger ends at the first answer that is not a 404, and this vendor
answers 200 from the start; with a ``response_check`` the sensor stays in the worker whatever ``deferrable`` says.

This provider (:func:`provider`) runs as its README says, ``CatalogueTaskGroup`` with 64 in flight, in the same Airflow.
What counts is the time from the first start of a task to the last end; of this provider also from the end of
the plan to the end of the generate stage, so with its way through scheduler and executor.
Both buy from the same sandbox, the vendor at work on each picture for 2 s, from the same source.
"""

from __future__ import annotations

import argparse
import csv
import io
import json
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from requests import Response

    from demo.rest import AirflowApi
    from demo.services import S3Service, SandboxService

# Airflow's tasks import this module too, so what only the measuring needs is imported where it is needed.
ROOT = Path(__file__).parents[1]
PRODUCT = ROOT / "demo" / "catalogue" / "images" / "paper-bag.png"
BUCKET = "catalogue"
SOURCE = "product.png"
MANIFEST = "products.csv"
PROMPT = "on shelf number"
API = "/api/tasks/visual/background"
KEY = "a-key"
LATENCY = 2.0  # s
IN_FLIGHT = 64
LIMIT = 20
RUN_TIMEOUT = 3600  # s


# The DAGs


def recipe() -> None:
    """The DAG one writes with the official HTTP and Amazon providers."""
    from airflow.providers.amazon.aws.hooks.s3 import S3Hook
    from airflow.providers.http.operators.http import HttpOperator
    from airflow.providers.http.sensors.http import HttpSensor
    from airflow.sdk import dag, task

    @task
    def products(params: Any = None) -> list[dict[str, str | None]]:
        link = S3Hook().generate_presigned_url("get_object", {"Bucket": BUCKET, "Key": SOURCE}, expires_in=3600)
        return [
            {"image_url": link, "prompt": f"{PROMPT} {number}", "batch_size": "1"}
            for number in range(params["products"])
        ]

    @task
    def land(link: str, ti: Any = None) -> str:
        import requests

        answer = requests.get(link, timeout=60)
        answer.raise_for_status()
        key = f"recipe/{ti.run_id}/{ti.map_index:05}.png"
        S3Hook().load_bytes(answer.content, key, BUCKET)
        return key

    @dag(schedule=None, params={"products": 1}, max_active_tasks=256)
    def recipe() -> None:
        submit = HttpOperator.partial(
            task_id="submit", http_conn_id="vendor", endpoint=API, response_filter=task_path
        ).expand(data=products())
        wait = HttpSensor.partial(
            task_id="wait", http_conn_id="vendor", response_check=picture_link, poke_interval=1, timeout=600
        ).expand(endpoint=submit.output)
        land.expand(link=wait.output)

    recipe()


def task_path(response: Response) -> str:
    """Where to ask for the task that was just submitted."""
    return f"{API}/{response.json()['data']['task_id']}"


def picture_link(response: Response) -> Any:
    """Whether the task is done, and if so where its picture is."""
    from airflow.sdk import PokeReturnValue

    data = response.json()["data"]
    if data["state"] < 0:
        raise RuntimeError(data["state_detail"])
    return PokeReturnValue(data["state"] == 1, xcom_value=data["image_1"])


def provider() -> None:
    """The DAG one writes with this provider; up to 1,000 products make one shard."""
    from airflow.sdk import dag

    from airflow_provider_bgai.task_groups.catalogue import CatalogueTaskGroup

    @dag(schedule=None)
    def provider() -> None:
        CatalogueTaskGroup(
            group_id="catalogue",
            manifest=f"s3://{BUCKET}/{MANIFEST}",
            recipe={"version": 1, "prompt": "{{ title }}"},
            destination=f"s3://{BUCKET}/shop",
            conn_id="picwish_default",
            shard_size=1000,
            in_flight=IN_FLIGHT,
        )

    provider()


# The measuring


@dataclass(frozen=True)
class Measured:
    """One way of making pictures: `seconds` is the wall time in Airflow, `charges` what the vendor bills."""

    name: str
    pictures: int
    tasks: int
    seconds: float
    charges: int

    @property
    def per_picture(self) -> float:
        return self.seconds / self.pictures

    def __str__(self) -> str:
        return (
            f"{self.name:42}{self.pictures:10,}{self.tasks:8,}{self.seconds:10.1f}{self.per_picture:12.3f}"
            f"{self.charges:9,}"
        )


def run(api: AirflowApi, dag_id: str, conf: dict[str, Any] | None = None) -> tuple[str, list[dict[str, Any]]]:
    """Let a DAG run; its ID and its tasks. Asks seldom, because answering takes Airflow's time."""
    run_id = api.trigger(dag_id, conf)
    deadline = time.monotonic() + RUN_TIMEOUT
    while (state := api.run_state(dag_id, run_id)) not in ("success", "failed"):
        if time.monotonic() > deadline:
            raise SystemExit(f"{dag_id} did not end within {RUN_TIMEOUT} s")
        time.sleep(5)
    tasks = api.task_instances(dag_id, run_id)
    if state == "failed":
        bad = next(each for each in tasks if each["state"] == "failed")
        raise SystemExit(api.log(dag_id, run_id, bad["task_id"], bad["map_index"], bad["try_number"]))
    return run_id, tasks


def seconds(tasks: Sequence[dict[str, Any]], since: str = "") -> float:
    """From the first start, or from a moment given in ISO 8601, to the last end."""
    first = since or min(each["start_date"] for each in tasks)
    last = max(each["end_date"] for each in tasks)
    return (datetime.fromisoformat(last) - datetime.fromisoformat(first)).total_seconds()


def billed(sandbox: SandboxService) -> int:
    return sandbox.charges()["images"]["total"]


def measure_recipe(api: AirflowApi, s3: S3Service, sandbox: SandboxService, count: int) -> Measured:
    run(api, "recipe", {"products": 1})
    before = billed(sandbox)
    run_id, tasks = run(api, "recipe", {"products": count})
    pages = s3.client().get_paginator("list_objects_v2").paginate(Bucket=BUCKET, Prefix=f"recipe/{run_id}/")
    landed = sum(page["KeyCount"] for page in pages)
    if landed != count:
        raise SystemExit(f"the recipe landed {landed} pictures of {count}")
    name = "HttpOperator, HttpSensor, S3Hook, mapped"
    return Measured(name, count, len(tasks), seconds(tasks), billed(sandbox) - before)


def measure_provider(api: AirflowApi, s3: S3Service, sandbox: SandboxService, count: int) -> list[Measured]:
    """The generate stage, and the whole run around it."""
    text = io.StringIO()
    writer = csv.writer(text)
    writer.writerow(["sku", "image", "title"])
    writer.writerows([f"SKU-{number:05}", SOURCE, f"{PROMPT} {number}"] for number in range(count))
    s3.client().put_object(Bucket=BUCKET, Key=MANIFEST, Body=text.getvalue().encode())
    before = billed(sandbox)
    run_id, tasks = run(api, "provider")
    charges = billed(sandbox) - before
    outcomes = api.result("provider", run_id, "catalogue.publish")["outcomes"]
    if outcomes != {"bought": count}:
        raise SystemExit(f"not all were bought: {outcomes}")
    (plan,) = (each for each in tasks if each["task_id"] == "catalogue.plan")
    generate = [each for each in tasks if each["task_id"] == "catalogue.generate"]
    return [
        Measured("generate stage", count, len(generate), seconds(generate, plan["end_date"]), charges),
        Measured("CatalogueTaskGroup: plan, generate, publish", count, len(tasks), seconds(tasks), charges),
    ]


def write_dags(folder: Path) -> Path:
    folder.mkdir()
    for name in ("recipe", "provider"):
        (folder / f"{name}.py").write_text(f"from benchmarks.mapped import {name}  # an Airflow DAG\n\n{name}()\n")
    return folder


def turn_on(api: AirflowApi) -> None:
    """As soon as Airflow has read both DAGs."""
    deadline = time.monotonic() + 120
    while api.dag_ids() < {"recipe", "provider"}:
        if (errors := api.import_errors()) or time.monotonic() > deadline:
            raise SystemExit("\n".join(errors.values()) or "Airflow did not read the DAGs within 120 s")
        time.sleep(1)
    api.turn_on("%")


def main() -> int:
    from demo.rest import AirflowApi
    from demo.services import airflow_standalone, sandbox_process, seaweedfs

    parser = argparse.ArgumentParser(prog="benchmarks.mapped", description=__doc__.partition("\n")[0])
    parser.add_argument("products", nargs="?", type=int, default=1000, help="pictures this provider makes")
    parser.add_argument("--recipe", type=int, default=100, help="pictures the recipe makes; Airflow maps up to 1,024")
    parser.add_argument("--parallelism", type=int, default=4, help="tasks that Airflow runs at once")
    args = parser.parse_args()
    with (
        tempfile.TemporaryDirectory() as name,
        seaweedfs(Path(name, "s3"), BUCKET) as s3,
        sandbox_process(Path(name, "sandbox"), latency=LATENCY) as sandbox,
    ):
        s3.client().upload_file(str(PRODUCT), BUCKET, SOURCE)
        extra = {"allow_private_hosts": True, "requests_per_minute": 600_000, "max_concurrency": IN_FLIGHT}
        connections = {
            "aws_default": s3.aws_connection(),
            "vendor": json.dumps({"conn_type": "http", "host": sandbox.url, "extra": {"x-api-key": KEY}}),
            "picwish_default": json.dumps(
                {"conn_type": "bgai_picwish", "host": sandbox.url, "password": KEY, "extra": extra}
            ),
        }
        settings = {"AIRFLOW__CORE__PARALLELISM": str(args.parallelism), "PYTHONPATH": str(ROOT)}
        dags = write_dags(Path(name, "dags"))
        with (
            airflow_standalone(Path(name, "airflow"), dags, connections, settings) as airflow,
            AirflowApi(airflow) as api,
        ):
            turn_on(api)
            theirs = measure_recipe(api, s3, sandbox, args.recipe)
            ours, whole = measure_provider(api, s3, sandbox, args.products)
    ratio = theirs.per_picture / ours.per_picture
    print(f"{LATENCY:g} s at the vendor; Airflow with {args.parallelism} slots; {IN_FLIGHT} in flight in one shard")
    print(f"{'':42}{'pictures':>10}{'tasks':>8}{'seconds':>10}{'s a picture':>12}{'charges':>9}")
    for measured in (theirs, ours, whole):
        print(measured)
    print(f"{ratio:.1f} x less time a picture (limit {LIMIT} x)", flush=True)
    return 0 if ratio >= LIMIT else 1


if __name__ == "__main__":
    sys.exit(main())
