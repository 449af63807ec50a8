"""A shard that is killed again and again, with vendors that fail in every way: is anything paid twice in silence?

A worker generates 1,000 products over the sandbox with about 5 % faults and is killed with SIGKILL at random
moments 50 times; then it runs to its end, and a second night without faults buys what was held or failed. Every
product must end landed or reported, and every charge must stand in the ledger: ``make chaos``, or
``python -m benchmarks.chaos 200 10 --seed 7``.
"""

from __future__ import annotations

import argparse
import asyncio
import hashlib
import json
import multiprocessing
import os
import random
import re
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field
from decimal import Decimal
from multiprocessing.connection import Connection
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import TYPE_CHECKING, Any

import httpx

from airflow_provider_bgai.sandbox import faults as sandbox_faults
from demo.services import S3Service, SandboxService, sandbox_process, seaweedfs

if TYPE_CHECKING:
    from airflow_provider_bgai.catalogue.ledger import Claim
    from airflow_provider_bgai.catalogue.records import Result, Wanted
    from airflow_provider_bgai.storage import Storage

PRODUCT = Path(__file__).parents[1] / "demo" / "catalogue" / "images" / "porcelain-teapot.png"
VENDORS = ("picwish", "photoroom")
HOLD_FOR = 3.0  # s; short, so that held pictures are released and bought again while the chaos lasts
PRICE = Decimal("0.05")  # USD, of every picture
PER_SECOND = 8.0  # pictures a worker makes at least: how the kills are spread over its work

PATIENCE = 15.0  # s; how long a worker waits for a task: some never end
TIMEOUT = 8.0  # s; how long it waits for an answer: some never come

# Each strikes so many of the requests that it can strike; together about 5 % of them.
RATE = 0.0025
FAULTS = (
    "rate_limited",
    "rate_limited_retry_after",
    "rate_limited_retry_after_date",
    "server_error",
    "unavailable",
    "bad_gateway",
    "moderation",
    "html_200",
    "html_200_after_charge",
    "drop_before_charge",
    "drop_after_charge",
    "drop_mid_body",
    "hang",
    "hang_after_charge",
    "slow",
    "truncated_image",
    "wrong_content_type",
    "bomb_image",
    "redrawn_product",
    "blank_image",
    "state_-1",
    "state_-2",
    "state_-3",
    "state_-5",
    "state_-7",
    "state_-8",
    "pending_forever",
    "not_found_first",
    "no_state",
    "expired_url",
    "unsupported_attributes",
    "bad_key@poll",
)
LEFT_OUT = {
    "quota_spent": "closes the connection for the rest of the run, and nothing is left to break",
    "bad_key": "on a submission: the same; on polls it is in",
    "huge_image": "256 MB a piece: too slow to watch; refused as bomb_image is",
    "not_success_200": "Katalis only, which is not among the two vendors",
}


@dataclass
class Verdict:
    """What the chaos came to. ``broken`` is empty if all promises were kept."""

    products: int
    kills: int
    starts: int
    seconds: float
    outcomes: list[Counter[str]]
    charges: int = 0
    landed: int = 0
    unknown: int = 0
    unknown_charged: int = 0
    lost: int = 0
    undeclared: int = 0
    paid: str = ""
    broken: list[str] = field(default_factory=list)

    def table(self) -> str:
        """What the user sees."""
        nights = [f"{count} {outcome}" for counts in self.outcomes for outcome, count in sorted(counts.items())]
        rows = {
            "products": self.products,
            "workers started / killed": f"{self.starts} / {self.kills}",
            "seconds": f"{self.seconds:.0f}",
            "outcomes, both nights": ", ".join(nights),
            "pictures landed": self.landed,
            "pictures charged by the vendors": self.charges,
            "  of which landed": self.landed,
            "  declared unknown, and charged": f"{self.unknown_charged} (of {self.unknown} declared)",
            "  declared lost or quarantined": self.lost,
            "  undeclared double charges": self.undeclared,
            "paid for certain, as the results say": self.paid,
            "promises": "all kept" if not self.broken else f"{len(self.broken)} BROKEN",
        }
        return "\n".join([*(f"{name:38}{value}" for name, value in rows.items()), *self.broken[:20]])


# The worker: one process, two shards, killed at any moment


def work(destination: str, owner: str, env: dict[str, str], ready: Connection) -> None:
    """Generate both shards, each with the other vendor first, and write their results."""
    os.environ.update(env)
    from airflow_provider_bgai.catalogue.pipeline import Progress, Shard, generate, give_up
    from airflow_provider_bgai.catalogue.purchase import Buyer
    from airflow_provider_bgai.catalogue.records import Wanted, dump_lines, read_lines
    from airflow_provider_bgai.hooks import get_hook
    from airflow_provider_bgai.storage import Storage

    storage = Storage()
    _ = storage.client
    wanted = [list(read_lines(Wanted, storage.read(f"{destination}/{it}.jsonl").splitlines())) for it in VENDORS]
    shards = []
    for vendors in (VENDORS, VENDORS[::-1]):
        hooks = [get_hook(f"{vendor}_default") for vendor in vendors]
        for hook in hooks:
            hook.storage = storage
            _ = hook.settings
        shards.append(Shard(Buyer(hooks, storage), destination, owner, in_flight=24, hold_for=HOLD_FOR))

    async def run() -> list[Progress]:
        pairs = zip(shards, wanted, strict=True)
        try:
            return await asyncio.gather(*(generate(shard, items, patience=PATIENCE) for shard, items in pairs))
        finally:
            for shard in shards:
                for hook in shard.buyer.hooks:
                    await hook.aclose()

    ready.send("ready")
    progress = asyncio.run(run())
    results = [result for items, each in zip(wanted, progress, strict=True) for result in give_up(items, each)]
    storage.put(f"{destination}/results/{owner}.jsonl", dump_lines(results))


def nursery() -> multiprocessing.context.ForkServerContext:
    """Where workers are forked from: it has imported all they need, or each would spend five seconds on that."""
    context = multiprocessing.get_context("forkserver")
    hooks = [f"airflow_provider_bgai.hooks.{vendor}" for vendor in VENDORS]
    s3 = ["airflow_provider_bgai.storage", "airflow.providers.amazon.aws.hooks.s3", "boto3", "PIL.PngImagePlugin"]
    context.set_forkserver_preload(["airflow_provider_bgai.catalogue.pipeline", *hooks, *s3, "httpx", "aiolimiter"])
    return context


@dataclass
class Tormentor:
    """Starts workers on the two shards below a destination, and kills them."""

    destination: str
    env: dict[str, str]
    work: Callable[..., None] = work
    starts: int = 0
    kills: int = 0

    @contextmanager
    def worker(self, owner: str) -> Iterator[BaseProcess]:
        """A worker at work; killed at the end if it still is."""
        context = nursery()
        ready, theirs = context.Pipe(duplex=False)
        process = context.Process(target=self.work, args=(self.destination, owner, self.env, theirs), daemon=True)
        process.start()
        theirs.close()
        self.starts += 1
        try:
            ready.recv()  # EOFError: it died before; what it printed says why
            yield process
        finally:
            process.kill()
            process.join()

    def torment(self, owner: str, *, kills: int, span: float, dice: random.Random) -> None:
        """Kill the worker within ``span`` seconds from its start, so often."""
        while self.kills < kills and self.starts < 2 * kills:
            with self.worker(owner) as process:
                process.join(dice.uniform(0, span))
                self.kills += process.is_alive()

    def finish(self, owner: str) -> None:
        """Let the worker run until it ends by itself."""
        with self.worker(owner) as process:
            process.join(900)
            if process.exitcode != 0:
                raise SystemExit(f"the worker ended with {process.exitcode}")


# The products, and what the vendors would bill for each


def products(count: int, image: str) -> list[Wanted]:
    """So many pictures of one product, each in another scene."""
    from airflow_provider_bgai.catalogue.records import Wanted

    return [
        Wanted(
            fingerprint=hashlib.sha256(f"chaos {number}".encode()).hexdigest(),
            skus=(f"SKU-{number:05}",),
            names=(f"SKU-{number:05}.{{ext}}",),
            request={"image": image, "prompt": scene(number)},
            source="etag:1",
        )
        for number in range(count)
    ]


def scene(number: int) -> str:
    """The prompt of a product, unlike any other's."""
    return f"scene {number} on a wooden table"


def bills(prompt: str, picture: bytes) -> set[str]:
    """The fingerprints of the charges that a picture can cause, one for each vendor."""
    from airflow_provider_bgai.hooks.photoroom import DEFAULTS
    from airflow_provider_bgai.sandbox.photoroom import MODELS
    from airflow_provider_bgai.sandbox.state import fingerprint

    image = hashlib.sha256(picture).hexdigest()
    picwish = {"image": image, "images": 1, "scene": prompt, "negative_prompt": ""}
    photoroom = {"image": image, **DEFAULTS, "background.prompt": prompt, "model": MODELS[0]}
    return {fingerprint("picwish", picwish), fingerprint("photoroom", photoroom)}


# The judge


def judge(verdict: Verdict, storage: Storage, destination: str, items: list[Wanted], billed: list[str]) -> None:
    """Compare the vendors' bill with the ledger, picture by picture."""
    from airflow_provider_bgai.catalogue.ledger import Ledger

    ledger = Ledger(storage, destination)
    with ThreadPoolExecutor(8) as pool:
        claims = list(pool.map(ledger.read_claim, [item.fingerprint for item in items]))
        landed = list(pool.map(ledger.read_landed, [item.fingerprint for item in items]))
    there = {it.uri for it in storage.list(f"{destination}/_bgai/pictures/")}
    picture, charges = PRODUCT.read_bytes(), Counter(billed)
    for item, claim, record in zip(items, claims, landed, strict=True):
        count = sum(charges.pop(bill, 0) for bill in bills(item.request["prompt"], picture))
        whole = record is not None and all(output.uri in there for output in record.images)
        if record is not None and not whole:
            verdict.broken.append(f"{item.skus[0]}: a landed record without its picture")
        _judge_one(verdict, item.skus[0], count, claim, whole)
    verdict.charges = len(billed)
    if charges:
        verdict.broken.append(f"{charges.total()} charges belong to no product")


def _judge_one(verdict: Verdict, sku: str, charges: int, claim: Claim | None, landed: bool) -> None:
    """One picture: its charges are the landed one, those declared lost, and some of those declared unknown."""
    unknown = claim.unknown if claim else 0
    # Every claim was one call; `paid_before` counts the earlier ones, and the present one may be held or lost, too.
    declared = claim.paid_before + (claim.state in ("held", "lost", "quarantined")) if claim else 0
    lost = declared - unknown
    charged_unknown = charges - landed - lost
    verdict.landed += landed
    verdict.unknown += unknown
    verdict.lost += lost
    verdict.unknown_charged += max(0, min(charged_unknown, unknown))
    verdict.undeclared += max(0, charged_unknown - unknown)
    if not 0 <= charged_unknown <= unknown:
        verdict.broken.append(
            f"{sku}: {charges} charges, but landed {landed:d}, declared unknown {unknown}, lost {lost} "
            f"(claim {claim.state if claim else None})"
        )


def judge_money(verdict: Verdict, nights: list[list[Result]], charges: list[dict[str, Any]]) -> None:
    """What the results of all nights say was paid is the vendors' bill, less calls with an unknown outcome."""
    from airflow_provider_bgai.catalogue.report import Tally, cost_report

    reports = [cost_report(results) for results in nights]
    certain, unknown, paid = 0, sum(it.total.unknown.pictures for it in reports), Decimal(0)
    for vendor in VENDORS:
        tallies = [it.by_vendor.get(vendor, Tally()) for it in reports]
        pictures = sum(it.charged for it in tallies)
        money = sum((it.paid.get("USD", Decimal(0)) for it in tallies), Decimal(0))
        billed = sum(it["vendor"] == vendor for it in charges)
        if not 0 <= billed - pictures <= verdict.unknown_charged:
            verdict.broken.append(f"{vendor} billed {billed} pictures, the results tell of {pictures} and some unknown")
        if money != PRICE * pictures:
            verdict.broken.append(f"{vendor}: {pictures} pictures at {PRICE} USD each, but {money} USD in the results")
        certain, paid = certain + pictures, paid + money
    verdict.paid = f"{paid} USD for {certain} pictures"
    wanted = {
        "paid for certain": (certain, verdict.landed + verdict.lost),
        "unknown": (unknown, verdict.unknown),
        "charged and not unknown": (certain, len(charges) - verdict.unknown_charged),
    }
    for what, (told, true) in wanted.items():
        if told != true:
            verdict.broken.append(f"{what}: {told} in the results, {true} in truth")


def judge_results(verdict: Verdict, items: list[Wanted], night: int, results: list[Result]) -> set[str]:
    """Every product is reported once; the SKUs that have a picture."""
    skus = Counter(result.sku for result in results)
    if skus != Counter(item.skus[0] for item in items):
        verdict.broken.append(f"night {night}: not every product is reported once")
    verdict.outcomes.append(Counter(result.outcome for result in results))
    silent = [it.sku for it in results if it.outcome not in ("bought", "reused") and not it.reason]
    verdict.broken += [f"night {night}: {sku} failed without a reason" for sku in silent]
    return {it.sku for it in results if it.images}


# The whole


def steer(sandbox: SandboxService, rate: float) -> None:
    """Give every fault this rate."""
    unnamed = set(sandbox_faults.FAULTS) - {name.partition("@")[0] for name in FAULTS} - set(LEFT_OUT)
    if unnamed:
        raise SystemExit(f"neither in FAULTS nor LEFT_OUT: {', '.join(sorted(unnamed))}")
    with httpx.Client(base_url=sandbox.url, trust_env=False) as client:
        for name in FAULTS:
            for vendor in VENDORS:
                order = {"name": f"{vendor}.{name}", "rate": rate}
                answer = client.post("/_sandbox/faults", json=order)
                if answer.status_code != 200 and not re.search("makes no sense|matches no request", answer.text):
                    raise SystemExit(answer.text)


def connections(s3: S3Service, sandbox: SandboxService) -> dict[str, str]:
    """The environment of a worker: fast connections, because the vendors' own rates are for paying users."""
    env = {"AIRFLOW_CONN_AWS_DEFAULT": s3.aws_connection(), "AIRFLOW__LOGGING__LOGGING_LEVEL": "CRITICAL"}
    for name, connection in sandbox.connections(float(PRICE)).items():
        made: dict[str, Any] = json.loads(connection)
        made["extra"] |= {"requests_per_minute": 60_000, "max_concurrency": 24, "timeout": TIMEOUT}
        env[f"AIRFLOW_CONN_{name.upper()}"] = json.dumps(made)
    return env


def chaos(count: int, kills: int, *, seed: int = 0, latency: float = 1.0, work: Callable[..., None] = work) -> Verdict:
    """Both nights and the verdict, with services of its own.

    :param work: another one shows that the judge sees what is wrong.
    """
    began = time.monotonic()
    with (
        tempfile.TemporaryDirectory() as folder,
        seaweedfs(Path(folder, "s3")) as s3,
        sandbox_process(Path(folder, "sandbox"), latency=latency) as sandbox,
        environment(env := connections(s3, sandbox)),
    ):
        from airflow_provider_bgai.catalogue.records import Result, dump_lines, read_lines
        from airflow_provider_bgai.storage import Storage

        storage, destination = Storage(), f"s3://{s3.bucket}/chaos"
        storage.put(f"{destination}/product.png", PRODUCT.read_bytes(), content_type="image/png")
        items = products(count, f"{destination}/product.png")
        for place, vendor in enumerate(VENDORS):
            storage.put(f"{destination}/{vendor}.jsonl", dump_lines(items[place :: len(VENDORS)]))
        steer(sandbox, RATE)
        span = 2 * count / PER_SECOND / max(1, kills)
        tormentor = Tormentor(destination, env, work)
        tormentor.torment("chaos/0000", kills=kills, span=span, dice=random.Random(seed))
        tormentor.finish("chaos/0000")
        steer(sandbox, 0.0)
        time.sleep(HOLD_FOR)
        tormentor.finish("tomorrow/0000")
        verdict = Verdict(count, tormentor.kills, tormentor.starts, time.monotonic() - began, outcomes=[])
        have: set[str] = set()
        nights: list[list[Result]] = []
        for night, owner in enumerate(("chaos/0000", "tomorrow/0000"), start=1):
            lines = storage.read(f"{destination}/results/{owner}.jsonl").splitlines()
            results = list(read_lines(Result, lines))
            have = judge_results(verdict, items, night, results)
            nights.append(results)
        charges = sandbox.charges()["charges"]
        judge(verdict, storage, destination, items, [it["fingerprint"] for it in charges])
        judge_money(verdict, nights, charges)
        if len(have) != verdict.landed:
            verdict.broken.append(f"{len(have)} products are reported with a picture, {verdict.landed} are landed")
        if tormentor.kills < kills:
            verdict.broken.append(f"the worker was killed {tormentor.kills} times only: it ended too fast")
        return verdict


@contextmanager
def environment(values: dict[str, str]) -> Iterator[None]:
    """Environment variables, put back afterwards."""
    before = {name: os.environ.get(name) for name in values}
    os.environ.update(values)
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                del os.environ[name]
            else:
                os.environ[name] = value


def main() -> int:
    parser = argparse.ArgumentParser(prog="benchmarks.chaos", description=__doc__)
    parser.add_argument("products", nargs="?", type=int, default=1000)
    parser.add_argument("kills", nargs="?", type=int, default=50)
    parser.add_argument("--seed", type=int, default=0, help="for the moments of the kills")
    args = parser.parse_args()
    verdict = chaos(args.products, args.kills, seed=args.seed)
    print(verdict.table())
    return 1 if verdict.broken else 0


if __name__ == "__main__":
    sys.exit(main())
