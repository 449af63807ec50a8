"""The second night: a catalogue of 100,000 products that are all landed. How long planning takes, and how much memory.

Every product has an image, the record of a call and a landed picture in a real S3, and the state knows what the images
looked like, as after a first night. Putting those 300,000 small objects there takes some minutes; fewer products may be
given: ``python -m benchmarks.planning 10000``. Beyond the limits it fails.
"""

from __future__ import annotations

import csv
import hashlib
import io
import json
import multiprocessing
import os
import subprocess
import sys
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from http.client import HTTPConnection
from pathlib import Path
from typing import TYPE_CHECKING, Any

from botocore.auth import S3SigV4Auth
from botocore.awsrequest import AWSRequest
from botocore.credentials import Credentials

from benchmarks.memory import MB, peak
from demo.services import S3Service, seaweedfs

if TYPE_CHECKING:
    from airflow_provider_bgai.catalogue.planning.plan import Plan
    from airflow_provider_bgai.storage import Storage

PRODUCTS = 100_000
SECONDS, MEGABYTES = 20, 300
WRITERS = 3
CATEGORIES = ("footwear", "music", "kitchen", "garden")
RECIPE = {
    "version": 3,
    "prompt": "{{ title }} on a {{ surface }}, soft morning light, studio quality",
    "negative_prompt": "people, text",
    "priority": "margin",
    "categories": {"garden": {"prompt": "{{ title }} in a garden in spring"}},
}


def manifest(products: int) -> bytes:
    """A product list with seven columns."""
    text = io.StringIO()
    writer = csv.writer(text)
    writer.writerow(["sku", "image", "title", "category", "surface", "margin", "colour"])
    for number in range(products):
        category = CATEGORIES[number % len(CATEGORIES)]
        row = [f"SKU-{number:06}", f"images/product-{number:06}.png", f"Product number {number}", category]
        writer.writerow([*row, "wooden table", number % 97, "blue"])
    return text.getvalue().encode()


def put(s3: S3Service, objects: list[tuple[str, bytes]]) -> None:
    """Put objects there with several processes: one alone spends its time in signing."""
    parts = [objects[start::WRITERS] for start in range(WRITERS)]
    context = multiprocessing.get_context("spawn")
    writers = [context.Process(target=_put, args=(s3, part)) for part in parts]
    for writer in writers:
        writer.start()
    for writer in writers:
        writer.join()
        if writer.exitcode:
            raise SystemExit("the objects could not be written")


def _put(s3: S3Service, objects: list[tuple[str, bytes]]) -> None:
    # Bare requests: boto3's own put takes ten times the processor time.
    auth = S3SigV4Auth(Credentials(s3.access_key, s3.secret_key), "s3", "us-east-1")

    def work(part: list[tuple[str, bytes]]) -> None:
        connection = HTTPConnection(s3.endpoint.removeprefix("http://"))
        for key, body in part:
            request = AWSRequest("PUT", f"{s3.endpoint}/{s3.bucket}/{key}", data=body)
            auth.add_auth(request)
            connection.request("PUT", f"/{s3.bucket}/{key}", body, dict(request.headers.items()))
            answer = connection.getresponse()
            if answer.status != 200:
                raise SystemExit(answer.read().decode())
            answer.read()

    with ThreadPoolExecutor(4) as pool:
        for _ in pool.map(work, [objects[start::4] for start in range(4)]):
            pass


def plan(bucket: str, run: str) -> None:
    """Plan in a process of its own, as a task does; print what it took."""
    from airflow_provider_bgai.catalogue.planning.planner import make_plan
    from airflow_provider_bgai.hooks import get_hook
    from airflow_provider_bgai.storage import Storage

    storage = Storage()
    _ = storage.client
    hooks = [get_hook("picwish_default")]
    _ = hooks[0].settings
    began, worked = time.perf_counter(), time.process_time()
    made = make_plan(
        manifest=f"s3://{bucket}/products.csv",
        recipe=RECIPE,
        destination=f"s3://{bucket}/shop",
        hooks=hooks,
        storage=storage,
        run=run,
    )
    seconds = time.perf_counter() - began
    processor = time.process_time() - worked
    print(
        json.dumps({"seconds": seconds, "processor": processor, "peak": peak(), "plan": made.model_dump(mode="json")})
    )


def night(s3: S3Service, run: str) -> dict[str, Any]:
    """One night's plan, and its line in the benchmark's output. What it took, with the plan under ``plan``."""
    command = [sys.executable, "-m", "benchmarks.planning", "--plan", s3.bucket, run]
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True)
    took: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    made = took["plan"]
    print(
        f"{run}: {made['counts']}, {made['calls']} paid calls ({made['at_most']} at most), price {made['price']}: "
        f"{took['seconds']:.1f} s (limit {SECONDS}), "
        f"of it {took['processor']:.1f} s processor, peak {took['peak'] / MB:.0f} MB of the whole process "
        f"(limit {MEGABYTES})",
        flush=True,
    )
    return took


def remember(storage: Storage, root: str) -> None:
    """A state that knows what the images look like, and nothing of what was published."""
    from airflow_provider_bgai.catalogue.state import SkuState, write_state
    from airflow_provider_bgai.sources import hint_of

    looks = ((it, hashlib.sha256(body(it.uri)).hexdigest()) for it in storage.list(f"{root}/images/"))
    write_state(
        storage,
        f"{root}/shop",
        (SkuState(sku=it.uri, fingerprint="", source=sha, hint=hint_of(it.uri, it.hint)) for it, sha in looks),
    )


def landed(storage: Storage, root: str, plan: Plan) -> list[tuple[str, bytes]]:
    """Records and pictures of everything in the shards, by their keys; and the state of having published them."""
    from airflow_provider_bgai.buying.purchase import prompt_sha256
    from airflow_provider_bgai.catalogue.planning.plan import read_plan
    from airflow_provider_bgai.catalogue.results import Result, Wanted
    from airflow_provider_bgai.catalogue.state import read_state, write_state
    from airflow_provider_bgai.layout import Layout, PictureName
    from airflow_provider_bgai.lines import stream_lines
    from airflow_provider_bgai.storage import split_uri

    record, layout = read_plan(storage, plan.uri), Layout(f"{root}/shop")
    hints = {state.source: state.hint for state in read_state(storage, layout.root)}
    objects, states = [], []
    for uri in plan.shards:
        for wanted in stream_lines(storage, uri, Wanted):
            name, source = str(wanted.fingerprint), hashlib.sha256(body(wanted.request["image"])).hexdigest()
            picture = layout.picture(PictureName(name, 1, 1, 1), name, "png")
            objects += [(split_uri(it)[1], b"{}") for it in (layout.call(name, 1), picture)]
            result = Result(
                sku=wanted.skus[0],
                outcome="bought",
                category=wanted.category,
                fingerprint=name,
                source=source,
                hint=hints[source],
                prompt_sha256=prompt_sha256(wanted.request["prompt"]),
            )
            states.append(record.state_of(result))
    write_state(storage, layout.root, states)
    return objects


def body(image: str) -> bytes:
    """What stands in for an image's bytes."""
    return image.rpartition("/")[2].encode()


def main() -> int:
    from airflow_provider_bgai.catalogue.planning.plan import Plan
    from airflow_provider_bgai.storage import Storage

    products = int(sys.argv[1]) if len(sys.argv) > 1 else PRODUCTS
    with tempfile.TemporaryDirectory() as folder, seaweedfs(Path(folder)) as s3:
        extra = {"allow_private_hosts": True, "price_per_image": "0.05"}
        picwish = {"conn_type": "bgai_picwish", "password": "a-secret-key", "extra": extra}
        os.environ["AIRFLOW_CONN_AWS_DEFAULT"] = s3.aws_connection()
        os.environ["AIRFLOW_CONN_PICWISH_DEFAULT"] = json.dumps(picwish)
        storage, root = Storage(), f"s3://{s3.bucket}"
        began = time.perf_counter()
        images = [f"images/product-{number:06}.png" for number in range(products)]
        put(s3, [(image, body(image)) for image in images])
        put(s3, [("products.csv", manifest(products))])
        remember(storage, root)
        print(f"{products:,} images in S3 after {time.perf_counter() - began:.0f} s", flush=True)
        first = night(s3, "first-night")
        began = time.perf_counter()
        put(s3, landed(storage, root, Plan.model_validate(first["plan"])))
        print(f"all bought and landed after {time.perf_counter() - began:.0f} s", flush=True)
        nights = [first, night(s3, "second-night"), night(s3, "third-night")]
    held = all(it["seconds"] <= SECONDS and it["peak"] <= MEGABYTES * MB for it in nights)
    return 0 if held and nights[-1]["plan"]["counts"] == {"unchanged": products} else 1


if __name__ == "__main__":
    if sys.argv[1:2] == ["--plan"]:
        plan(sys.argv[2], sys.argv[3])
    else:
        sys.exit(main())
