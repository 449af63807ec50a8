"""Seconds a picture in a real Airflow: the recipe of the official providers, and this provider's generate stage.

The recipe (:func:`recipe`) is what one writes today: HttpOperator submits, HttpSensor waits, a task with S3Hook lands,
each mapped over the products. It is given what it can use: all slots (``--parallelism``, each a process; try what
suits the machine), no cap below them on the DAG's tasks, the picture as a signed link instead of an upload, one poke
a second that hands the result's link on without another request, and a first run of one product to warm up. Stages
are mapped one after the other, so most sensors find their task done and hold no slot for it.
HttpSensor's ``deferrable`` is of no use here: its trigger ends at the first answer that is not a 404, and this vendor
answers 200 from the start; with a ``response_check`` the sensor stays in the worker whatever ``deferrable`` says.

This provider (:func:`provider`) runs as its README says, ``CatalogueTaskGroup`` with 64 in flight, in the same Airflow:
blocking and deferred, with every picture compared with its product and without.
What counts is the time from the first start of a task to the last end. Both buy from the same sandbox, the vendor at
work on each picture for 2 s, from the same source.

Six digits, which take hours: ``python -m benchmarks.mapped 100000 --recipe 0 --latency 0.001 --side 128 --ways 0``.
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
from dataclasses import dataclass, field, replace
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

from benchmarks import measured

if TYPE_CHECKING:
    from requests import Response

    from benchmarks.measured import Measure
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
IN_FLIGHT = 64
SHARD = 10_000  # products
LIMIT = 30
RUN_TIMEOUT = 6 * 3600  # s


# The DAGs


def recipe(_: dict[str, Any]) -> None:
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


@dataclass(frozen=True)
class Way:
    """How this provider makes them: a DAG each."""

    deferrable: bool
    compared: bool

    @property
    def dag_id(self) -> str:
        return f"provider{'_deferred' if self.deferrable else ''}{'_compared' if self.compared else ''}"

    @property
    def name(self) -> str:
        return f"this provider, a whole DAG run{', deferred' if self.deferrable else ''}"


WAYS = [Way(deferrable, compared) for deferrable in (False, True) for compared in (False, True)]


def provider(names: dict[str, Any]) -> None:
    """The DAGs one writes with this provider: all products make one shard. And one that does nothing, at rest."""
    from airflow.sdk import DAG, task

    from airflow_provider_bgai.task_groups.catalogue import CatalogueTaskGroup

    for way in WAYS:
        with DAG(way.dag_id, schedule=None) as dag:
            CatalogueTaskGroup(
                group_id="catalogue",
                manifest=f"s3://{BUCKET}/{MANIFEST}",
                recipe={"version": 1, "prompt": f"{{{{ title }}}} {way.dag_id}", "fidelity": way.compared},
                destination=f"s3://{BUCKET}/{way.dag_id}",
                conn_id="picwish_default",
                shard_size=SHARD,
                in_flight=IN_FLIGHT,
                deferrable=way.deferrable,
            )
        names[way.dag_id] = dag

    with DAG("rest", schedule=None) as dag:
        task(task_id="rest")(lambda: time.sleep(5))()
    names["rest"] = dag


# The measuring


@dataclass(frozen=True)
class Bench:
    """The services, the size of what is made, and what was wrong: what hours have measured is noted all the same."""

    api: AirflowApi
    s3: S3Service
    sandbox: SandboxService
    home: Path
    latency: float
    rest: float = 0.0
    wrong: list[str] = field(default_factory=list)

    def measure(self, way: str, dag_id: str, count: int, compared: bool = False, **conf: Any) -> tuple[str, Measure]:
        """Let a DAG run; its ID, and what it took from the first start of a task to the last end."""
        meter = measured.Meter(
            processes=lambda: measured.tree("standalone"),
            young=True,
            sandbox=self.sandbox,
            s3=self.s3,
            database=self.home / "airflow.db",
        )
        before = self.billed
        run_id, tasks = self.run(dag_id, conf)
        took = meter.taken(way, count, compared=compared, vendor=self.latency, rest=self.rest, seconds=_seconds(tasks))
        print(took, flush=True)
        if (charges := self.billed - before) != count:
            self.wrong.append(f"{dag_id}: {charges} pictures were charged, {count} are wanted")
        return run_id, took

    def run(self, dag_id: str, conf: dict[str, Any] | None = None) -> tuple[str, list[dict[str, Any]]]:
        """Let a DAG run; its ID and its tasks. Asks seldom, because answering takes Airflow's time."""
        run_id = self.api.trigger(dag_id, conf)
        deadline = time.monotonic() + RUN_TIMEOUT
        while (state := self.api.run_state(dag_id, run_id)) not in ("success", "failed"):
            if time.monotonic() > deadline:
                raise SystemExit(f"{dag_id} did not end within {RUN_TIMEOUT} s")
            time.sleep(5)
        tasks = self.api.task_instances(dag_id, run_id)
        if state == "failed":
            bad = next(each for each in tasks if each["state"] == "failed")
            raise SystemExit(self.api.log(dag_id, run_id, bad["task_id"], bad["map_index"], bad["try_number"]))
        return run_id, tasks

    @property
    def billed(self) -> int:
        total: int = self.sandbox.charges()["images"]["total"]
        return total

    def recipe(self, count: int) -> Measure:
        """What one writes today."""
        self.run("recipe", {"products": 1})
        run_id, took = self.measure("HttpOperator, HttpSensor, S3Hook, mapped", "recipe", count, products=count)
        pages = self.s3.client().get_paginator("list_objects_v2").paginate(Bucket=BUCKET, Prefix=f"recipe/{run_id}/")
        landed = sum(page["KeyCount"] for page in pages)
        if landed != count:
            self.wrong.append(f"the recipe landed {landed} pictures of {count}")
        return took

    def provider(self, way: Way, count: int) -> Measure:
        """A whole night of new products. Each number of products has titles of its own, so nothing is known yet."""
        text = io.StringIO()
        writer = csv.writer(text)
        writer.writerow(["sku", "image", "title"])
        writer.writerows(
            [f"SKU-{count}-{number:06}", SOURCE, f"{PROMPT} {number} of {count}"] for number in range(count)
        )
        self.s3.client().put_object(Bucket=BUCKET, Key=MANIFEST, Body=text.getvalue().encode())
        run_id, took = self.measure(way.name, way.dag_id, count, way.compared)
        outcomes = self.api.result(way.dag_id, run_id, "catalogue.publish")["outcomes"]
        if outcomes.get("bought") != count:
            self.wrong.append(f"{way.dag_id}: not all were bought: {outcomes}")
        return took


def _seconds(tasks: Sequence[dict[str, Any]]) -> float:
    """From the first start to the last end."""
    first = min(each["start_date"] for each in tasks)
    last = max(each["end_date"] for each in tasks)
    return (datetime.fromisoformat(last) - datetime.fromisoformat(first)).total_seconds()


def write_dags(folder: Path) -> Path:
    folder.mkdir()
    for name in ("recipe", "provider"):
        (folder / f"{name}.py").write_text(
            f"import benchmarks.mapped  # an Airflow DAG\n\nbenchmarks.mapped.{name}(globals())\n"
        )
    return folder


def turn_on(api: AirflowApi) -> None:
    """As soon as Airflow has read all DAGs."""
    deadline = time.monotonic() + 120
    while not api.dag_ids() >= {"recipe", "rest", *(way.dag_id for way in WAYS)}:
        if (errors := api.import_errors()) or time.monotonic() > deadline:
            raise SystemExit("\n".join(errors.values()) or "Airflow did not read the DAGs within 120 s")
        time.sleep(1)
    api.turn_on("%")


def source(side: int) -> bytes:
    """The product, at most so many pixels wide and high."""
    from PIL import Image

    with Image.open(PRODUCT) as picture:
        picture.thumbnail((side, side))
        file = io.BytesIO()
        picture.save(file, "png")
        return file.getvalue()


def main() -> int:
    from demo.rest import AirflowApi
    from demo.services import airflow_standalone, sandbox_process, seaweedfs

    parser = argparse.ArgumentParser(prog="benchmarks.mapped", description=__doc__.partition("\n")[0])
    parser.add_argument("products", nargs="*", type=int, default=[40, 1000], help="pictures this provider makes")
    parser.add_argument("--recipe", type=int, default=100, help="pictures the recipe makes; Airflow maps up to 1,024")
    parser.add_argument("--parallelism", type=int, default=4, help="tasks that Airflow runs at once")
    parser.add_argument("--latency", type=float, default=2.0, help="seconds the vendor works on a picture")
    parser.add_argument("--side", type=int, default=400, help="pixels of the product's longer side")
    parser.add_argument(
        "--ways", type=int, nargs="*", default=range(len(WAYS)), help="of ours; 0: blocking, uncompared"
    )
    args = parser.parse_args()
    with (
        tempfile.TemporaryDirectory() as name,
        seaweedfs(Path(name, "s3"), BUCKET) as s3,
        sandbox_process(Path(name, "sandbox"), latency=args.latency) as sandbox,
    ):
        s3.client().put_object(Bucket=BUCKET, Key=SOURCE, Body=source(args.side))
        extra = {"allow_private_hosts": True, "requests_per_minute": 600_000, "max_concurrency": IN_FLIGHT}
        connections = {
            "aws_default": s3.aws_connection(),
            "vendor": json.dumps({"conn_type": "http", "host": sandbox.url, "extra": {"x-api-key": KEY}}),
            "picwish_default": json.dumps(
                {"conn_type": "bgai_picwish", "host": sandbox.url, "password": KEY, "extra": extra}
            ),
        }
        settings = {"AIRFLOW__CORE__PARALLELISM": str(args.parallelism), "PYTHONPATH": str(ROOT)}
        dags, home = write_dags(Path(name, "dags")), Path(name, "airflow")
        with airflow_standalone(home, dags, connections, settings) as airflow, AirflowApi(airflow) as api:
            turn_on(api)
            bench = Bench(api, s3, sandbox, home, args.latency)
            meter = measured.Meter(processes=lambda: measured.tree("standalone"), young=True)
            bench.run("rest")
            meter.stop()
            bench = replace(bench, rest=max(meter.curve))
            print(f"{args.latency:g} s at the vendor; Airflow with {args.parallelism} slots; {IN_FLIGHT} in flight")
            print(measured.HEAD)
            theirs = [bench.recipe(args.recipe)] if args.recipe else []
            ours = [bench.provider(WAYS[way], count) for count in args.products for way in args.ways]
    measured.note(*theirs, *ours)
    if bench.wrong:
        raise SystemExit("\n".join(bench.wrong))
    if not theirs:
        return 0
    best = min(ours, key=lambda it: it.seconds / it.products)
    ratio = theirs[0].seconds / args.recipe / (best.seconds / best.products)
    print(f"{ratio:.1f} x less time a picture (limit {LIMIT} x)", flush=True)
    return 0 if ratio >= LIMIT else 1


if __name__ == "__main__":
    sys.exit(main())
