"""The demo itself: start the services, let `nightly_catalogue` run for three nights, show and check each, stop all.

It fails unless the first night publishes every picture of every vendor, whole and paid for once; the second one, with
nothing changed, buys nothing; and the third one buys exactly what was changed before it.
"""

from __future__ import annotations

import argparse
import csv
import hashlib
import io
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from decimal import Decimal
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import httpx
from PIL import Image

from airflow_provider_bgai.buying.landing import name_output
from airflow_provider_bgai.catalogue.results import Result
from airflow_provider_bgai.imaging.label import read_label
from airflow_provider_bgai.layout import root_of
from airflow_provider_bgai.lines import parse_lines
from demo.rest import AirflowApi
from demo.services import (
    VENDORS,
    S3Service,
    SandboxService,
    ServiceError,
    airflow_standalone,
    sandbox_process,
    seaweedfs,
    work_folder,
)
from demo.sheet import Row, contact_sheet

ROOT = Path(__file__).parents[1]
CATALOGUE = ROOT / "demo" / "catalogue"
EXAMPLES = ROOT / "example_dags"
WORK = ROOT / ".demo"
DAG = "nightly_catalogue"
SETTINGS = {"AIRFLOW__CORE__TEST_CONNECTION": "Enabled"}
HOW_TO_LOOK = """
Log in and look around while the nights run. To paint one product: Dags > Pictures on demand > Trigger.
To open a picture in a browser: {pictures}backgrounds/<vendor>/<SKU>.png after the first night,
{pictures}on-demand/ after that."""
RUN_TIMEOUT = 600  # seconds
CHANGED_TITLES = {"BIKE-001": "Folding city bicycle", "TOY-001": "Rainbow toy xylophone"}


class DemoError(RuntimeError):
    """The demo did not show what it promises."""


@dataclass(frozen=True)
class Picture:
    """One picture that a night bought, at the address where the shop reads it."""

    sku: str
    vendor: str
    uri: str
    width: int
    height: int
    size: int
    sha256: str
    seconds: float
    cost: Decimal
    currency: str


@dataclass(frozen=True)
class Night:
    """What a run came to: planned paid calls, publishing's reports by vendor, and the pictures it bought."""

    calls: int
    reports: Mapping[str, dict[str, Any]]
    bought: Sequence[Picture]
    seconds: float

    def outcomes(self, name: str) -> int:
        """How many products of all vendors ended so."""
        return sum(report["outcomes"].get(name, 0) for report in self.reports.values())

    @property
    def published(self) -> int:
        return sum(report["pictures"] for report in self.reports.values())


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m demo", description=__doc__)
    parser.add_argument("--stay", action="store_true", help="leave Airflow up until Ctrl-C")
    stay = parser.parse_args(arguments).stay
    try:
        with work_folder(WORK):
            demo(WORK, stay=stay)
    except KeyboardInterrupt:
        print("Stopped; nothing is left running.")
        return 0 if stay else 130
    except (DemoError, ServiceError, httpx.HTTPError) as error:
        print(f"The demo failed: {error}\nLogs are in {WORK.relative_to(ROOT)}/.", file=sys.stderr)
        return 1
    return 0


def demo(work: Path, *, stay: bool) -> None:
    began = time.monotonic()
    products = read_products()
    print("Starting SeaweedFS, the vendors' sandbox and Airflow …", flush=True)
    with ExitStack() as up:
        s3 = up.enter_context(seaweedfs(work / "s3"))
        upload_catalogue(s3)
        print(f"S3: {s3.endpoint}, bucket: {s3.bucket}, key: {s3.access_key}, secret: {s3.secret_key}")
        print(f"To look into it with a browser, without a key: {s3.page(f's3://{s3.bucket}/')}", flush=True)
        sandbox = up.enter_context(sandbox_process(work / "sandbox"))
        print(f"The vendors' sandbox: {sandbox.url}, for which any key is right", flush=True)
        airflow = up.enter_context(airflow_standalone(work / "airflow", EXAMPLES, settings=SETTINGS))
        print(f"Airflow: {airflow.url}, login: {airflow.username}, password: {airflow.password}", flush=True)
        api = up.enter_context(AirflowApi(airflow))
        for conn_id, connection in {"aws_default": s3.aws_connection(), **sandbox.connections()}.items():
            api.add_connection(conn_id, connection)
        turn_on(api)
        started = time.monotonic()
        print(f"All of it is up after {started - began:.0f} s, and the example DAGs are switched on.", flush=True)
        if stay:
            print(HOW_TO_LOOK.format(pictures=s3.page(f"s3://{s3.bucket}/")), flush=True)
        try:
            nights = three_nights(api, s3, sandbox, products, work / "contact-sheet.png")
        except DemoError as error:
            if not stay:
                raise
            # Whoever looks around meanwhile buys pictures, too, which the nights count as too many.
            print(f"\nThe nights did not end as they do when nobody else buys anything: {error}")
        else:
            ran = " + ".join(f"{night.seconds:.0f}" for night in nights)
            print(f"\nStarted in {started - began:.0f} s, ran {ran} s, {time.monotonic() - began:.0f} s in all.")
        if stay:
            print(f"\nAirflow stays up until Ctrl-C: {airflow.url}")
            print(f"Login: {airflow.username}, password: {airflow.password}", flush=True)
            signal.pause()


def three_nights(
    api: AirflowApi, s3: S3Service, sandbox: SandboxService, products: Sequence[dict[str, str]], sheet: Path
) -> list[Night]:
    """Everything is new; nothing has changed; two products have."""
    total = len(products) * len(VENDORS)
    published = 2 * total  # each picture, and its card

    print(f"\nFirst night: {DAG} is due, and all {len(products)} products are new.", flush=True)
    first = follow(api, s3)
    print_table(first.bought)
    contents = check(first, s3, wanted={product["sku"] for product in products}, published=published)
    check_books(sandbox.bill(), [first])
    draw_sheet(products, first.bought, contents).save(sheet)
    print(f"Contact sheet: {sheet.relative_to(ROOT)}")
    for vendor, report in first.reports.items():
        page = sheet.parent / f"report-{vendor}.html"
        page.write_bytes(fetch(s3.client(), report["report"]))
        print(f"Report, before and after: {page.relative_to(ROOT)}", flush=True)

    print("\nSecond night: nothing has changed.", flush=True)
    second = follow(api, s3, api.trigger(DAG))
    check(second, s3, wanted=set(), published=published)
    check_books(sandbox.bill(), [first, second])

    changed = ", ".join(f"{sku} is now “{title}”" for sku, title in CHANGED_TITLES.items())
    print(f"\nThird night: {changed}.", flush=True)
    upload_products(s3, change_titles(products))
    third = follow(api, s3, api.trigger(DAG))
    print_table(third.bought)
    again = check(third, s3, wanted=set(CHANGED_TITLES), published=published)
    if same := [uri for uri, content in again.items() if content == contents[uri]]:
        raise DemoError(f"bought again, but the picture is the old one: {', '.join(same)}")
    check_books(sandbox.bill(), [first, second, third])
    print(audited(s3, third), flush=True)
    return [first, second, third]


def read_products() -> list[dict[str, str]]:
    with (CATALOGUE / "products.csv").open(newline="") as rows:
        return list(csv.DictReader(rows))


def upload_catalogue(s3: S3Service) -> None:
    client = s3.client()
    for path in CATALOGUE.rglob("*.*"):
        client.upload_file(str(path), s3.bucket, str(path.relative_to(CATALOGUE)))
    for product in read_products():  # by SKU, for the form of on_demand
        client.upload_file(str(CATALOGUE / product["image"]), s3.bucket, f"cutouts/{product['sku']}.png")


def change_titles(products: Sequence[dict[str, str]]) -> list[dict[str, str]]:
    return [{**product, "title": CHANGED_TITLES.get(product["sku"], product["title"])} for product in products]


def upload_products(s3: S3Service, products: Sequence[dict[str, str]]) -> None:
    text = io.StringIO()
    writer = csv.DictWriter(text, fieldnames=list(products[0]))
    writer.writeheader()
    writer.writerows(products)
    s3.client().put_object(Bucket=s3.bucket, Key="products.csv", Body=text.getvalue().encode())


def turn_on(api: AirflowApi) -> None:
    """Switch all examples on, as a user does in the UI. Earlier, tasks could start before Airflow can serve them."""
    deadline = time.monotonic() + RUN_TIMEOUT
    while missing := {path.stem for path in EXAMPLES.glob("*.py")} - api.dag_ids():
        if errors := api.import_errors():
            raise DemoError("a DAG does not load\n" + "\n".join(errors.values()))
        if time.monotonic() > deadline:
            raise DemoError(f"Airflow did not read {', '.join(sorted(missing))} within {RUN_TIMEOUT} s")
        time.sleep(1)
    api.turn_on("%")


def follow(api: AirflowApi, s3: S3Service, run_id: str = "") -> Night:
    """Print a line per change until a nightly run has ended well. Without an ID it is the one the schedule makes."""
    began = time.monotonic()
    shown = ""
    reports: dict[str, dict[str, Any]] = {}
    while time.monotonic() - began < RUN_TIMEOUT:
        if errors := api.import_errors():
            raise DemoError("a DAG does not load\n" + "\n".join(errors.values()))
        run_id = run_id or first_run(api)
        state = api.run_state(DAG, run_id) if run_id else ""
        line = "waiting for the run"
        if run_id:
            tasks = api.task_instances(DAG, run_id)
            for vendor in published_by(tasks) - reports.keys():
                reports[vendor] = api.result(DAG, run_id, f"{vendor}.publish")
            line = progress(tasks, reports)
        if line != shown:
            print(line, flush=True)
            shown = line
        if state == "failed":
            raise DemoError(f"the run failed\n{first_failure(api, run_id)}")
        if state == "success":
            calls = sum(api.result(DAG, run_id, f"{vendor}.plan", key="plan")["calls"] for vendor in VENDORS)
            return Night(calls, reports, list(bought(s3, reports)), time.monotonic() - began)
        time.sleep(2)  # asking costs Airflow time it needs for the run
    raise DemoError(f"the run did not end within {RUN_TIMEOUT} s: {shown}")


def first_run(api: AirflowApi) -> str:
    """The run that the schedule made; empty until Airflow has made it."""
    return next(iter(api.run_ids(DAG)), "")


def published_by(tasks: Sequence[dict[str, Any]]) -> set[str]:
    """The vendors whose pictures are published."""
    done = (task["task_id"].partition(".") for task in tasks if task["state"] == "success")
    return {vendor for vendor, _, step in done if step == "publish"}


def progress(tasks: Sequence[dict[str, Any]], reports: Mapping[str, dict[str, Any]]) -> str:
    counts = (f"{vendor} {reports[vendor]['pictures'] if vendor in reports else '-':>2}" for vendor in VENDORS)
    trouble = (f"{task['task_id']}: {task['state']}" for task in tasks if task["state"] in ("up_for_retry", "failed"))
    return "; ".join([f"published: {', '.join(counts)}", *trouble])


def first_failure(api: AirflowApi, run_id: str) -> str:
    """The log of one failed task, because it says why."""
    for task in api.task_instances(DAG, run_id):
        if task["state"] == "failed":
            log = api.log(DAG, run_id, task["task_id"], task["map_index"], task["try_number"])
            return "\n".join(log.splitlines()[-30:])
    return "no task failed"


def bought(s3: S3Service, reports: Mapping[str, dict[str, Any]]) -> Iterator[Picture]:
    """What the run's outcomes say was bought, in the catalogue's order of vendors."""
    client = s3.client()
    for vendor in VENDORS:
        outcomes = reports[vendor]["outcomes_uri"]
        destination = root_of(outcomes)
        for result in parse_lines(Result, fetch(client, outcomes).splitlines(), outcomes):
            if result.outcome != "bought":
                continue
            for image in (file for file in result.finished if not file.rendition):
                key = name_output(result.name, image.index, image.uri.rpartition(".")[2])
                yield Picture(
                    sku=result.sku,
                    vendor=result.vendor or "",
                    uri=f"{destination}/{key}",
                    width=image.width,
                    height=image.height,
                    size=image.bytes,
                    sha256=image.sha256,
                    seconds=result.seconds or 0,
                    cost=result.price or Decimal(0),
                    currency=result.currency,
                )


def print_table(pictures: Sequence[Picture]) -> None:
    wide = max((len(picture.uri) for picture in pictures), default=0)
    print(f"\n{'SKU':9} {'vendor':10} {'published at':{wide}} {'pixels':>11} {'size':>8} {'time':>7} {'cost':>9}")
    for each in pictures:
        pixels = f"{each.width} x {each.height}"
        print(
            f"{each.sku:9} {each.vendor:10} {each.uri:{wide}} {pixels:>11} {each.size / 1000:5.0f} kB"
            f" {each.seconds:5.1f} s {each.cost:5.2f} {each.currency}"
        )
    size, cost = sum(each.size for each in pictures), sum(each.cost for each in pictures)
    currency = pictures[0].currency if pictures else ""
    print(f"\n{len(pictures)} pictures, {size / 1e6:.1f} MB, {cost:.2f} {currency}")


def check(night: Night, s3: S3Service, *, wanted: set[str], published: int) -> dict[str, bytes]:
    """Exactly the wanted SKUs were bought from every vendor, and are whole pictures in S3; their bytes by URI."""
    expected = sorted((sku, vendor) for sku in wanted for vendor in VENDORS)
    got = sorted((each.sku, each.vendor) for each in night.bought)
    if got != expected or night.calls != len(expected):
        raise DemoError(
            f"{night.calls} paid calls were planned and {len(got)} pictures bought, not {len(expected)}: {got}"
        )
    unchanged = night.outcomes("unchanged")
    if (unchanged, night.published) != (published // 2 - len(expected), published):
        raise DemoError(f"{night.published} pictures are published, {unchanged} of them unchanged: {night.reports}")
    client = s3.client()
    contents = {each.uri: fetch(client, each.uri) for each in night.bought}
    for each in night.bought:
        if hashlib.sha256(contents[each.uri]).hexdigest() != each.sha256:
            raise DemoError(f"{each.uri} is not the picture that the run reported")
        try:
            with Image.open(io.BytesIO(contents[each.uri])) as image:
                image.load()
        except OSError as error:
            raise DemoError(f"{each.uri} is not a whole image: {error}") from None
        if read_label(contents[each.uri]) is None:
            raise DemoError(f"{each.uri} does not say that AI made it")
    print(f"Paid calls: {night.calls}. Bought: {len(got)}, unchanged: {unchanged}, published: {night.published}.")
    if contents:
        print(
            "Every picture bought is where the shop reads it: whole, with the reported checksum, labelled as AI-made."
        )
    return contents


def fetch(client: Any, uri: str) -> bytes:
    parts = urlsplit(uri)
    return client.get_object(Bucket=parts.netloc, Key=parts.path.lstrip("/"))["Body"].read()


def check_books(bill: Mapping[str, int], nights: Sequence[Night]) -> None:
    """The catalogues' books, over all nights, and the vendors' counters say the same, by vendor."""
    lines = []
    for vendor in VENDORS:
        reports = [night.reports[vendor] for night in nights]
        booked, perhaps = (sum(report[name] for report in reports) for name in ("charged", "perhaps"))
        if booked != bill[vendor] or perhaps:
            raise DemoError(f"{vendor} billed {bill[vendor]} pictures; the books say {booked}, perhaps {perhaps} more")
        lines.append(f"{vendor} {booked} = {bill[vendor]}")
    tonight = sum(report["charged"] for report in nights[-1].reports.values())
    print(f"Billed tonight: {tonight}. Pictures in the books = the vendors' counters: {', '.join(lines)}.", flush=True)


def audited(s3: S3Service, night: Night) -> str:
    """What ``bgai-audit`` says of all that is published: every file computed anew."""
    destinations = [root_of(report["outcomes_uri"]) for report in night.reports.values()]
    command = [sys.executable, "-m", "airflow_provider_bgai.catalogue.audit", *destinations]
    environment = {**os.environ, "AIRFLOW_CONN_AWS_DEFAULT": s3.aws_connection()}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    if done.returncode:
        raise DemoError(f"published files do not hold against their evidence:\n{done.stdout}{done.stderr}")
    told = [line for line in done.stdout.splitlines() if "against their evidence" in line]
    return "\n".join(("Audited, every file computed anew:", *told))


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
