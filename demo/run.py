"""The demo itself: start the services, let `nightly_catalogue` run, show and check what landed, stop all.

It fails unless every picture of every vendor is in S3 as a whole image and was paid for exactly once.
"""

from __future__ import annotations

import argparse
import csv
import fcntl
import hashlib
import io
import shutil
import signal
import sys
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any, NoReturn
from urllib.parse import urlsplit

import httpx
from PIL import Image

from demo.rest import AirflowApi
from demo.services import VENDORS, S3Service, ServiceError, airflow_standalone, sandbox_process, seaweedfs
from demo.sheet import Row, contact_sheet

ROOT = Path(__file__).parents[1]
CATALOGUE = ROOT / "demo" / "catalogue"
WORK = ROOT / ".demo"
DAG = "nightly_catalogue"
RUN_TIMEOUT = 600  # seconds
AS_AT_NIGHT = {"AIRFLOW__CORE__DAGS_ARE_PAUSED_AT_CREATION": "False"}  # the DAG is on, and a run is due


class DemoError(RuntimeError):
    """The demo did not show what it promises."""


@dataclass(frozen=True)
class Picture:
    """One landed picture, as the task that landed it reports it."""

    sku: str
    vendor: str
    uri: str
    width: int
    height: int
    size: int
    sha256: str
    seconds: float
    cost: float
    currency: str


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m demo", description=__doc__)
    parser.add_argument("--stay", action="store_true", help="leave Airflow up until Ctrl-C")
    stay = parser.parse_args(arguments).stay
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, _interrupt)
    try:
        with _alone():
            shutil.rmtree(WORK, ignore_errors=True)
            demo(WORK, stay=stay)
    except KeyboardInterrupt:
        print("Stopped; nothing is left running.")
        return 0 if stay else 130
    except (DemoError, ServiceError, httpx.HTTPError) as error:
        print(f"The demo failed: {error}\nLogs are in {WORK.relative_to(ROOT)}/.", file=sys.stderr)
        return 1
    return 0


def _interrupt(number: int, frame: Any) -> NoReturn:
    """Stop once, in order: a second Ctrl-C must not leave half of the services running."""
    for each in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(each, signal.SIG_IGN)
    print("\nStopping …", flush=True)
    raise KeyboardInterrupt


@contextmanager
def _alone() -> Iterator[None]:
    """One demo at a time in this clone, because each begins with an empty work directory."""
    with (ROOT / "pyproject.toml").open() as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise DemoError("another demo is running in this clone") from None
        yield


def demo(work: Path, *, stay: bool) -> None:
    began = time.monotonic()
    products = read_products()
    print("Starting SeaweedFS, the vendors' sandbox and Airflow …", flush=True)
    with seaweedfs(work / "s3") as s3, sandbox_process(work / "sandbox") as sandbox:
        upload_catalogue(s3)
        connections = {"aws_default": s3.aws_connection(), **sandbox.connections()}
        with (
            airflow_standalone(work / "airflow", ROOT / "example_dags", connections, AS_AT_NIGHT) as airflow,
            AirflowApi(airflow) as api,
        ):
            started = time.monotonic()
            print(f"Airflow is up at {airflow.url} after {started - began:.0f} s; {DAG} is due.", flush=True)
            run_id = follow(api, len(products) * len(VENDORS))
            finished = time.monotonic()
            pictures = landed(api, run_id)
            print_table(pictures)
            contents = check(pictures, s3, expected=len(products) * len(VENDORS))
            sheet = work / "contact-sheet.png"
            draw_sheet(products, pictures, contents).save(sheet)
            print(f"Contact sheet: {sheet.relative_to(ROOT)}")
            check_charges(sandbox.charges(), len(pictures))
            print(f"Started in {started - began:.0f} s, ran in {finished - started:.0f} s.", flush=True)
            if stay:
                print(f"\nAirflow stays up until Ctrl-C: {airflow.url}")
                print(f"Login: {airflow.username}, password: {airflow.password}", flush=True)
                signal.pause()


def read_products() -> list[dict[str, str]]:
    with (CATALOGUE / "products.csv").open(newline="") as rows:
        return list(csv.DictReader(rows))


def upload_catalogue(s3: S3Service) -> None:
    client = s3.client()
    for path in CATALOGUE.rglob("*.*"):
        client.upload_file(str(path), s3.bucket, str(path.relative_to(CATALOGUE)))


def follow(api: AirflowApi, total: int) -> str:
    """Print a line per change until the nightly run has ended well; its ID."""
    deadline = time.monotonic() + RUN_TIMEOUT
    run_id = shown = ""
    while time.monotonic() < deadline:
        if errors := api.import_errors():
            raise DemoError("a DAG does not load\n" + "\n".join(errors.values()))
        run_id = run_id or first_run(api)
        line = progress(api.task_instances(DAG, run_id), total) if run_id else "waiting for the run"
        if line != shown:
            print(line, flush=True)
            shown = line
        state = api.run_state(DAG, run_id) if run_id else ""
        if state == "success":
            return run_id
        if state == "failed":
            raise DemoError(f"the run failed\n{first_failure(api, run_id)}")
        time.sleep(2)  # asking costs Airflow time it needs for the run
    raise DemoError(f"the run did not end within {RUN_TIMEOUT} s: {shown}")


def first_run(api: AirflowApi) -> str:
    """The run that the schedule made; empty until Airflow has read the DAG and made it."""
    return next(iter(api.run_ids(DAG)), "") if DAG in api.dag_ids() else ""


def progress(tasks: Sequence[dict[str, Any]], total: int) -> str:
    states = Counter(task["state"] for task in tasks if is_picture(task))
    trouble = [f"{states[state]} {state}" for state in ("up_for_retry", "failed") if states[state]]
    return ", ".join([f"landed {states['success']:2} of {total}", *trouble])


def is_picture(task: dict[str, Any]) -> bool:
    return task["task_id"] == "generate" and task["map_index"] >= 0


def first_failure(api: AirflowApi, run_id: str) -> str:
    """The log of one failed task, because it says why."""
    for task in api.task_instances(DAG, run_id):
        if task["state"] == "failed":
            log = api.log(DAG, run_id, task["task_id"], task["map_index"], task["try_number"])
            return "\n".join(log.splitlines()[-30:])
    return "no task failed"


def landed(api: AirflowApi, run_id: str) -> list[Picture]:
    tasks = sorted(filter(is_picture, api.task_instances(DAG, run_id)), key=lambda task: task["map_index"])
    results = [api.result(DAG, run_id, "generate", task["map_index"]) for task in tasks]
    return [as_picture(result, image) for result in results for image in result["images"]]


def as_picture(result: dict[str, Any], image: dict[str, Any]) -> Picture:
    name = PurePosixPath(image["uri"]).stem  # <sku>-<index>, as the DAG names its files
    return Picture(
        sku=name.rpartition("-")[0],
        vendor=result["vendor"],
        uri=image["uri"],
        width=image["width"],
        height=image["height"],
        size=image["bytes"],
        sha256=image["sha256"],
        seconds=result["seconds"],
        cost=result["cost"],
        currency=result["currency"],
    )


def print_table(pictures: Sequence[Picture]) -> None:
    wide = max((len(picture.uri) for picture in pictures), default=0)
    print(f"\n{'SKU':9} {'vendor':10} {'landed at':{wide}} {'pixels':>11} {'size':>8} {'time':>7} {'cost':>9}")
    for each in pictures:
        pixels = f"{each.width} x {each.height}"
        print(
            f"{each.sku:9} {each.vendor:10} {each.uri:{wide}} {pixels:>11} {each.size / 1000:5.0f} kB"
            f" {each.seconds:5.1f} s {each.cost:5.2f} {each.currency}"
        )
    size, cost = sum(each.size for each in pictures), sum(each.cost for each in pictures)
    currency = pictures[0].currency if pictures else ""
    print(f"\n{len(pictures)} pictures, {size / 1e6:.1f} MB, {cost:.2f} {currency}")


def check(pictures: Sequence[Picture], s3: S3Service, expected: int) -> dict[str, bytes]:
    """Fetch every picture from S3 and decode all of it; the bytes by URI."""
    if len(pictures) != expected:
        raise DemoError(f"{len(pictures)} pictures landed instead of {expected}")
    client = s3.client()
    contents = {each.uri: fetch(client, each.uri) for each in pictures}
    for each in pictures:
        if hashlib.sha256(contents[each.uri]).hexdigest() != each.sha256:
            raise DemoError(f"{each.uri} is not the picture that the task reported")
        try:
            with Image.open(io.BytesIO(contents[each.uri])) as image:
                image.load()
        except OSError as error:
            raise DemoError(f"{each.uri} is not a whole image: {error}") from None
    print("Every picture is in S3, whole, with the reported checksum.")
    return contents


def fetch(client: Any, uri: str) -> bytes:
    parts = urlsplit(uri)
    return client.get_object(Bucket=parts.netloc, Key=parts.path.lstrip("/"))["Body"].read()


def check_charges(charges: dict[str, Any], pictures: int) -> None:
    billed = charges["images"]["total"]
    if billed != pictures:
        raise DemoError(f"{pictures} pictures landed, but the vendors billed {billed}")
    print(f"The vendors billed {billed} pictures: each was bought once.")


def draw_sheet(
    products: Sequence[dict[str, str]], pictures: Sequence[Picture], contents: dict[str, bytes]
) -> Image.Image:
    rows = [
        Row(
            product["sku"],
            product["title"],
            (CATALOGUE / product["image"]).read_bytes(),
            {each.vendor: contents[each.uri] for each in pictures if each.sku == product["sku"]},
        )
        for product in products
    ]
    return contact_sheet(rows, VENDORS)
