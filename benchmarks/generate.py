"""One run of 1,000 pictures, the vendor at work on each for 2 s, 64 in flight: against a bare script.

The bare script sends the same submissions, polls, downloads and puts with asyncio, httpx and boto3 in threads; it
keeps no ledger, verifies nothing and repeats nothing. The stage has a limit without the comparison of every picture
with its product (``fidelity: false``), because the bare script does nothing of the kind, and another one with it.
Other numbers of products may be given, and a profile of our own stage asked for:
``python -m benchmarks.generate 300 --profile``.
"""

from __future__ import annotations

import argparse
import asyncio
import cProfile
import gc
import json
import os
import pstats
import sys
import tempfile
from collections import Counter
from collections.abc import Awaitable, Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import nullcontext
from pathlib import Path
from typing import TYPE_CHECKING, Any

import psutil

from benchmarks import measured
from benchmarks.measured import Measure
from demo.services import S3Service, SandboxService, sandbox_process, seaweedfs

if TYPE_CHECKING:
    from airflow_provider_bgai.catalogue.results import Wanted
    from airflow_provider_bgai.catalogue.shard import Progress

PRODUCT = Path(__file__).parents[1] / "demo" / "catalogue" / "images" / "paper-bag.png"
LATENCY = 2.0  # s
IN_FLIGHT = 64
THREADS = 32
LIMIT, COMPARED = 1.10, 1.25
REQUESTS = 9.1
"""To S3, a picture: nine, and three a pass (the stop mark, the books, the markers)."""
KEY = "a-key"


def products(count: int, image: str, scene: str) -> list[Wanted]:
    """So many pictures of one product, each in another scene."""
    from airflow_provider_bgai.catalogue.results import Wanted

    return [
        Wanted(
            skus=(f"SKU-{number:05}",),
            names=(f"SKU-{number:05}.{{ext}}",),
            request={"image": image, "prompt": f"{scene} {number}"},
        )
        for number in range(count)
    ]


async def all_of(items: list[Wanted], one: Callable[[Wanted], Awaitable[None]]) -> None:
    """Treat all items, so many at a time."""
    slots = asyncio.Semaphore(IN_FLIGHT)

    async def turn(item: Wanted) -> None:
        async with slots:
            await one(item)

    async with asyncio.TaskGroup() as group:
        for item in items:
            group.create_task(turn(item))


async def bare(s3: S3Service, sandbox: SandboxService, items: list[Wanted]) -> None:
    """What a bare script does: read, submit, poll every 2 s, download, put."""
    import boto3
    import httpx
    from botocore.config import Config

    config = Config(s3={"addressing_style": "path"}, max_pool_connections=THREADS)
    names = {"aws_access_key_id": s3.access_key, "aws_secret_access_key": s3.secret_key, "region_name": "us-east-1"}
    client = boto3.client("s3", endpoint_url=s3.endpoint, config=config, **names)
    asyncio.get_running_loop().set_default_executor(ThreadPoolExecutor(THREADS))
    path = "/api/tasks/visual/background"
    # Kept for less than the 5 s after which the sandbox closes idle connections: this script repeats nothing.
    limits = httpx.Limits(max_connections=IN_FLIGHT, max_keepalive_connections=IN_FLIGHT, keepalive_expiry=3)
    async with httpx.AsyncClient(base_url=sandbox.url, limits=limits, timeout=60, trust_env=False) as http:

        async def one(item: Wanted) -> None:
            bucket, _, key = item.request["image"].removeprefix("s3://").partition("/")
            image = await asyncio.to_thread(lambda: client.get_object(Bucket=bucket, Key=key)["Body"].read())
            form = {"prompt": item.request["prompt"], "batch_size": "1"}
            files = {"image_file": ("image.png", image, "image/png")}
            answer = await http.post(path, data=form, files=files, headers={"x-api-key": KEY})
            task = answer.raise_for_status().json()["data"]["task_id"]
            data: dict[str, Any] = {"state": 0}
            while data["state"] != 1:
                await asyncio.sleep(2.0)
                data = (await http.get(f"{path}/{task}", headers={"x-api-key": KEY})).raise_for_status().json()["data"]
            picture = (await http.get(data["image_1"])).raise_for_status().content
            name = f"bare/{item.skus[0]}.png"
            await asyncio.to_thread(client.put_object, Bucket=bucket, Key=name, Body=picture, ContentType="image/png")

        await all_of(items, one)


def ours(
    destination: str, items: list[Wanted], *, profile: bool = False, fidelity: bool = False, deferred: bool = False
) -> None:
    """The generate stage as a task runs it, books included.

    :param deferred: in passes, as a deferred task that is woken up each time its tasks are done: each pass begins with
        nothing but what stands in S3.
    """
    from airflow_provider_bgai.buying.buyer import Buyer
    from airflow_provider_bgai.buying.calls import Ledger
    from airflow_provider_bgai.catalogue.finishing import Finishing
    from airflow_provider_bgai.catalogue.shard import Shard, generate, give_up
    from airflow_provider_bgai.hooks import get_hook
    from airflow_provider_bgai.operators._task import Accounts, wind_up
    from airflow_provider_bgai.storage import Storage

    storage, hook = Storage(), get_hook("picwish_default")
    hook.storage = storage
    _ = hook.settings
    finishing = {"": Finishing.model_validate({"fidelity": fidelity})}

    async def a_pass(patience: float | None, **how: Any) -> Progress:
        buyer = Buyer([hook], Ledger(storage, destination), run="benchmark", owner="benchmark/0000")
        shard = Shard(buyer, in_flight=IN_FLIGHT, finishing=finishing)
        try:
            return await generate(shard, items, patience=patience, **how)
        finally:
            await wind_up(buyer, None, Accounts(storage))

    profiler = cProfile.Profile() if profile else None
    with profiler or nullcontext():
        progress = asyncio.run(a_pass(None if deferred else 120.0))
        while progress.pending:
            event = asyncio.run(in_triggerer([str(call.task_id) for call in progress.waiting]))
            known = {"begun": progress.begun, "later": progress.later, "landed": progress.landed}
            progress = asyncio.run(a_pass(0.0, resumed=True, waiting=event["waiting"], **known))
    outcomes = Counter(result.outcome for result in give_up(items, progress, "benchmark"))
    if not outcomes.keys() <= {"bought", "reused"} or outcomes.total() != len(items):
        raise SystemExit(f"not all were bought: {outcomes}")
    if profiler is not None:
        pstats.Stats(profiler).sort_stats("tottime").print_stats(25)


async def in_triggerer(task_ids: list[str]) -> dict[str, Any]:
    """What the trigger tells that waits for them."""
    from airflow_provider_bgai.triggers.background import BackgroundTaskTrigger

    async for event in BackgroundTaskTrigger("picwish_default", task_ids).run():
        return dict(event.payload)
    raise AssertionError("the trigger yields one event")


def measure(s3: S3Service, sandbox: SandboxService, count: int, profile: bool) -> bool:
    """All ways, the bare script first; whether the limits are kept."""
    from airflow_provider_bgai.storage import Storage

    destination = f"s3://{s3.bucket}/shop"
    image = f"{destination}/product.png"
    Storage().put(image, PRODUCT.read_bytes(), content_type="image/png")
    me = psutil.Process()
    services = me.children()

    def mine() -> list[psutil.Process]:
        return [me, *(it for it in me.children() if it not in services)]

    asyncio.run(bare(s3, sandbox, products(10, image, "warm")))
    ours(destination, products(10, image, "warm"), fidelity=True)

    def taken(way: str, work: Callable[[], object], *, compared: bool = False) -> Measure:
        gc.collect()
        rest = measured.largest(mine())
        meter = measured.Meter(
            processes=mine,
            sandbox=sandbox,
            s3=s3,
        )
        work()
        return meter.taken(way, count, compared=compared, vendor=LATENCY, rest=rest)

    def stage(scene: str, **how: bool) -> Callable[[], object]:
        return lambda: ours(destination, products(count, image, scene), **how)

    theirs = taken("a bare script", lambda: asyncio.run(bare(s3, sandbox, products(count, image, "bare"))))
    plain = taken("this provider's generate stage", stage("ours", profile=profile))
    compared = taken("this provider's generate stage", stage("compared", fidelity=True), compared=True)
    deferred = taken("this provider's generate stage, deferred", stage("deferred", deferred=True))
    measures = [theirs, plain, compared, deferred]
    print(f"{LATENCY:g} s at the vendor, {IN_FLIGHT} in flight\n{measured.HEAD}")
    print("\n".join(map(str, measures)))
    ratio, whole = plain.seconds / theirs.seconds, compared.seconds / theirs.seconds
    requests = max(it.s3 or 0 for it in measures) / count
    print(f"against the bare script: {ratio:.2f} (limit {LIMIT}), compared {whole:.2f} (limit {COMPARED})")
    print(f"S3 requests a picture: {requests:.2f} at most (limit {REQUESTS})", flush=True)
    if not profile:
        measured.note(*measures)
    return ratio <= LIMIT and whole <= COMPARED and requests <= REQUESTS


def main() -> int:
    parser = argparse.ArgumentParser(prog="benchmarks.generate", description=__doc__)
    parser.add_argument("products", nargs="?", type=int, default=1000)
    parser.add_argument("--profile", action="store_true", help="print where the generate stage spends its time")
    args = parser.parse_args()
    with (
        tempfile.TemporaryDirectory() as folder,
        seaweedfs(Path(folder, "s3")) as s3,
        sandbox_process(Path(folder, "sandbox"), latency=LATENCY) as sandbox,
    ):
        extra = {"allow_private_hosts": True, "requests_per_minute": 600_000, "max_concurrency": IN_FLIGHT}
        picwish = {"conn_type": "bgai_picwish", "host": sandbox.url, "password": KEY, "extra": extra}
        os.environ["AIRFLOW__LOGGING__LOGGING_LEVEL"] = "ERROR"
        os.environ["AIRFLOW_CONN_AWS_DEFAULT"] = s3.aws_connection()
        os.environ["AIRFLOW_CONN_PICWISH_DEFAULT"] = json.dumps(picwish)
        return 0 if measure(s3, sandbox, args.products, args.profile) else 1


if __name__ == "__main__":
    sys.exit(main())
