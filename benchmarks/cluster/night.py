"""The whole: the shop's files, the night with its kills, the verdict."""

from __future__ import annotations

import csv
import io
import json
import time
from collections.abc import Mapping, Sequence
from concurrent.futures import Executor, Future, ThreadPoolExecutor
from typing import Any

from benchmarks.chaos.chaos import PRODUCT
from benchmarks.chaos.evidence import Evidence, gather, read_charges, sampling
from benchmarks.chaos.judge import PRICE, Verdict, judge
from benchmarks.chaos.tormentor import Cut
from benchmarks.cluster.cluster import Cluster
from benchmarks.cluster.kills import kill
from benchmarks.cluster.recovery import Kill, Night, promises
from benchmarks.cluster.watch import Watch
from demo.rest import AirflowApi
from demo.services import S3Service, SandboxService, ServiceError

DAG = "cluster_night"
FIRST, LAST = 0.15, 0.9
"""The shares of the products that are bought when the first part is killed, and the last one."""
MOST = 3600.0
"""Seconds a night may take."""
SAMPLE_EVERY = 30.0
"""Seconds: the whole ledger is read for it."""


def connections(s3: S3Service, sandbox: SandboxService) -> dict[str, str]:
    """Airflow's connections, as fast as the sandbox is."""
    found = {"aws_default": s3.aws_connection()}
    for name, connection in sandbox.connections(float(PRICE)).items():
        made: dict[str, Any] = json.loads(connection)
        made["extra"] |= {"requests_per_minute": 60_000, "max_concurrency": 48, "timeout": 20}
        found[name] = json.dumps(made)
    return found


def upload(s3: S3Service, prompts: Mapping[str, str]) -> None:
    """The shop's list, its recipe, and the one picture that all products show; what came is not compared with it."""
    text = io.StringIO()
    rows = csv.writer(text)
    rows.writerow(["sku", "image", "title"])
    rows.writerows([sku, PRODUCT.name, prompt] for sku, prompt in prompts.items())
    files = {
        PRODUCT.name: PRODUCT.read_bytes(),
        "products.csv": text.getvalue().encode(),
        "recipe.yaml": b'version: 1\nprompt: "{{ title }}"\nfidelity: false\n',
    }
    client = s3.client()
    for key, body in files.items():
        client.put_object(Bucket=s3.bucket, Key=key, Body=body)


def night(
    up: Cluster, s3: S3Service, sandbox: SandboxService, count: int, kinds: Sequence[str], down: float
) -> tuple[Night, Verdict]:
    """Run a night, kill a part of each kind in turn, and judge.

    The environment of this process must be the cluster's: the ledger is read with its connections.
    """
    from airflow_provider_bgai.buying.calls import Ledger
    from airflow_provider_bgai.layout import run_name
    from airflow_provider_bgai.storage import Storage

    prompts = {f"SKU-{number:05}": f"scene {number} on a wooden table" for number in range(count)}
    upload(s3, prompts)
    evidence = Evidence(prompts=prompts, seconds=time.monotonic())
    with AirflowApi(up.airflow) as api:
        while DAG not in api.dag_ids():
            if errors := api.import_errors():
                raise ServiceError("\n".join(errors.values()))
            time.sleep(1)
        api.turn_on(DAG)
        began = time.time()
        watch = Watch(up, sandbox, DAG, api.trigger(DAG))
    ledger = Ledger(Storage(), f"s3://{s3.bucket}/backgrounds")
    _ = ledger.storage.client
    with sampling(ledger, sandbox, evidence.samples, SAMPLE_EVERY), ThreadPoolExecutor() as waiting:
        try:
            moments = zip(kinds, shares(len(kinds)), strict=True)
            killed = [kill_at(watch, kind, share * count, down, waiting) for kind, share in moments]
            watch.wait(watch.over, MOST)
        except BaseException:
            watch.given_up = True
            raise
        ended = time.time()
        kills = [each.result() for each in killed]
    evidence.kills, evidence.cuts = len(kinds), [Cut(each.part, "kill", each.at) for each in kills]
    evidence.charges = read_charges(sandbox, prompts, PRODUCT.read_bytes())
    gather(ledger, [run_name(DAG, "catalogue.plan", watch.run_id)], evidence)
    found = Night(
        kills=kills,
        landings=[item.modified for item in ledger.storage.list(ledger.layout.pictures())],
        began=began,
        ended=ended,
        state=watch.insist(watch.state),
        restarts={part.name: len(part.ends) for part in up.parts.values() if part.ends},
        retries=watch.insist(watch.retries),
    )
    verdict = judge(evidence)
    verdict.promises += promises(found, evidence)
    return found, verdict


def shares(count: int) -> list[float]:
    """Of the products: when to kill the first part, the next ones, the last one."""
    return [FIRST + (LAST - FIRST) * place / max(1, count - 1) for place in range(count)]


def kill_at(watch: Watch, kind: str, pictures: float, down: float, waiting: Executor) -> Future[Kill]:
    """Kill a part once so many pictures are bought. :raises ServiceError: if the night is over by then."""
    watch.wait(lambda: watch.charged() >= pictures or watch.over(), MOST)
    if watch.insist(watch.over):
        raise ServiceError(f"the night was over before the {kind} could be killed")
    print(f"{watch.charged()} pictures are bought", flush=True)
    return kill(watch, kind, down, waiting)
