"""The whole: services, nights, verdict."""

from __future__ import annotations

import json
import logging
import os
import tempfile
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any
from unittest.mock import patch

from benchmarks.chaos.accidents import LATENCY, RATES, VENDORS, bad_weather, steer
from benchmarks.chaos.evidence import Evidence, Strikes, ask, gather, read_charges, sampling
from benchmarks.chaos.judge import PRICE, Verdict, judge
from benchmarks.chaos.tormentor import PAST, Tormentor
from benchmarks.chaos.worker import TIMEOUT
from demo.services import S3Service, SandboxService, sandbox_process, seaweedfs
from tests.bad_s3 import BadS3, bad_s3

if TYPE_CHECKING:
    from airflow_provider_bgai.buying.calls import Ledger

PRODUCT = Path(__file__).parents[2] / "demo" / "catalogue" / "images" / "porcelain-teapot.png"
SHARD = 40
CAPPED = 0.7
"""The first night may buy so much of what is wanted."""
MOST_NIGHTS = 5


@dataclass
class Stage:
    """Where the chaos takes place, more than once if need be."""

    s3: S3Service
    bad: BadS3
    sandbox: SandboxService


@contextmanager
def stage() -> Iterator[Stage]:
    """Services of one's own."""
    with (
        tempfile.TemporaryDirectory() as folder,
        seaweedfs(Path(folder, "s3")) as s3,
        bad_s3(s3) as bad,
        sandbox_process(Path(folder, "sandbox"), latency=LATENCY) as sandbox,
    ):
        yield Stage(s3, bad, sandbox)


def chaos(
    stage: Stage,
    count: int,
    kills: int,
    *,
    deferrable: bool = False,
    seed: int = 0,
    control: str = "",
    rates: Mapping[str, float] = RATES,
) -> Verdict:
    """Nights with faults until workers were ended so often, then a quiet one; and the verdict.

    :param control: how the workers are broken, to show that the judge sees it; that takes a single night.
    :param rates: of the vendors' faults, 0 to 1, while the nights are not quiet.
    """
    import httpx

    began = time.monotonic()
    stage.bad.reset()
    httpx.post(f"{stage.sandbox.url}/_sandbox/reset", trust_env=False).raise_for_status()
    env = connections(stage.bad.service, stage.sandbox)
    with environment({**env, "AIRFLOW_CONN_GOOD_S3": stage.s3.aws_connection()}):
        from airflow_provider_bgai.buying.books import read_open
        from airflow_provider_bgai.buying.calls import Ledger
        from airflow_provider_bgai.storage import Storage

        root = f"s3://{stage.s3.bucket}/chaos-{time.time_ns()}"
        good = Ledger(Storage("good_s3"), root)
        _ = good.storage.client
        good.storage.put(f"{root}/product.png", PRODUCT.read_bytes(), content_type="image/png")
        evidence = Evidence(
            prompts={f"SKU-{number:05}": f"scene {number} on a wooden table" for number in range(count)},
            kills=kills,
            seconds=began,
        )
        tormentor = Tormentor(env, deferrable, seed, control)
        evidence.cuts, strikes, runs = tormentor.cuts, Strikes(stage.sandbox), []
        with sampling(good, stage.sandbox, evidence.samples):
            left = kills
            for night in range(1, 1 + (1 if control else MOST_NIGHTS)):
                quiet = night > 2 and not left
                runs.append(f"night-{night}")
                shards = write_run(good, runs[-1], evidence.prompts)
                steer(stage.sandbox, dict.fromkeys(rates, 0.0) if quiet else rates)
                cap = int(CAPPED * count) if night == 1 else None
                due = left - left // 3 if night == 1 and not control else left
                with nullcontext() if quiet else bad_weather(stage.bad, seed + night):
                    left -= due - tormentor.night(shards, kills=due, cap=cap)
                if any(call.state == "sent" for call in read_open(good)):
                    time.sleep(PAST)  # until nobody waits for them any more
                if cap is not None:
                    evidence.capped = [*evidence.capped, (cap, sum(ask(stage.sandbox, "bill").values()))]
                settle_nights(root, runs[-1])
                strikes.read()
                if quiet:
                    break
        evidence.starts, evidence.problems = tormentor.starts, tormentor.problems
        evidence.requests = stage.bad.count().total()
        evidence.charges = read_charges(stage.sandbox, evidence.prompts, PRODUCT.read_bytes())
        evidence.strikes = strikes.found
        gather(good, runs, evidence)
        return judge(evidence)


def write_run(ledger: Ledger, run: str, prompts: Mapping[str, str]) -> list[str]:
    """A run as a plan leaves it: all products in shards; the URIs of these."""
    from airflow_provider_bgai.catalogue.planning.plan import PlanRecord
    from airflow_provider_bgai.catalogue.results import Wanted
    from airflow_provider_bgai.lines import NDJSON, dump_lines

    storage, folder = ledger.storage, ledger.layout.run(run)
    wanted = [
        Wanted(
            skus=(sku,),
            names=(f"{sku}.{{ext}}",),
            request={"image": f"{ledger.layout.root}/product.png", "prompt": prompt},
            status="new" if run == "night-1" else "failed_before",
        )
        for sku, prompt in prompts.items()
    ]
    size = min(SHARD, -(-len(wanted) // 2))
    shards = []
    for place, first in enumerate(range(0, len(wanted), size)):
        shards.append(f"{folder.shards}/{place:04}.jsonl")
        storage.put(shards[-1], dump_lines(wanted[first : first + size]), content_type=NDJSON)
    plan = PlanRecord(
        uri=folder.plan,
        run=run,
        counts={"new": len(wanted)},
        shards=shards,
        calls=len(wanted),
        pictures=len(wanted),
        price=PRICE * len(wanted),
        currency="USD",
        manifest="",
        destination=ledger.layout.root,
        only="changed",
        created_at=storage.now(),
        recipe="",
        recipes={},
        vendor=VENDORS[0],
        planned=[],
        refusals=[],
    )
    storage.put(folder.plan, plan.model_dump_json().encode(), content_type="application/json")
    return shards


def settle_nights(root: str, run: str) -> None:
    """What publishing does before anything else: collect, end and book what is open, whoever has left it there."""
    from airflow_provider_bgai.buying import books
    from airflow_provider_bgai.buying.calls import Ledger
    from airflow_provider_bgai.buying.collector import settle_all
    from airflow_provider_bgai.operators._task import Accounts, open_storage

    storage = open_storage("aws_default")
    # The hour in which the record of a marker may still be on its way.
    with patch.object(books, "YOUNG", PAST):
        settle_all(Ledger(storage, root), Accounts(storage), run)


def connections(s3: S3Service, sandbox: SandboxService) -> dict[str, str]:
    """The environment of a worker: fast connections, because the vendors' own rates are for paying users."""
    env = {
        "AIRFLOW_CONN_AWS_DEFAULT": s3.aws_connection(),
        "AIRFLOW__LOGGING__LOGGING_LEVEL": "CRITICAL",
    }
    for name, connection in sandbox.connections(float(PRICE)).items():
        made: dict[str, Any] = json.loads(connection)
        made["extra"] |= {"requests_per_minute": 60_000, "max_concurrency": 48, "timeout": TIMEOUT}
        env[f"AIRFLOW_CONN_{name.upper()}"] = json.dumps(made)
    return env


@contextmanager
def environment(values: Mapping[str, str]) -> Iterator[None]:
    """Environment variables and silence, both as before afterwards."""
    logging.disable(logging.ERROR)
    try:
        with patch.dict(os.environ, values):
            yield
    finally:
        logging.disable(logging.NOTSET)
