"""``python -m benchmarks.cluster``: up, a night, down; it fails if a promise is broken."""

from __future__ import annotations

import argparse
import sys
import time
from contextlib import ExitStack
from pathlib import Path

import httpx

import benchmarks.cluster
from benchmarks.chaos.chaos import environment
from benchmarks.cluster.cluster import cluster
from benchmarks.cluster.kills import KINDS
from benchmarks.cluster.night import connections, night
from benchmarks.cluster.recovery import table, told
from demo.services import ServiceError, sandbox_process, seaweedfs, work_folder

WORK = Path(__file__).parents[2] / ".cluster"
LATENCY = 5.0
"""Seconds the vendor works on a picture."""


def main() -> int:
    parser = argparse.ArgumentParser(
        prog="benchmarks.cluster",
        description=benchmarks.cluster.__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("products", nargs="?", type=int, default=2000)
    parser.add_argument(
        "--kill", nargs="*", choices=KINDS, default=list(KINDS), help="in this order; none: a quiet night"
    )
    parser.add_argument("--down", type=float, default=6, metavar="SECONDS", help="how long each stays down")
    args = parser.parse_args()
    try:
        with work_folder(WORK):
            return run(args.products, args.kill, args.down)
    except KeyboardInterrupt:
        print("Stopped; nothing is left running.")
        return 130
    except (ServiceError, httpx.HTTPError) as error:
        print(f"The night failed: {error}\nLogs are in {WORK.name}/.", file=sys.stderr)
        return 1


def run(products: int, kinds: list[str], down: float) -> int:
    """One night; how many promises were broken."""
    began = time.monotonic()
    with ExitStack() as services:
        s3 = services.enter_context(seaweedfs(WORK / "s3"))
        sandbox = services.enter_context(sandbox_process(WORK / "sandbox", latency=LATENCY))
        print(f"  S3 and the sandbox: {time.monotonic() - began:.1f} s", flush=True)
        up = services.enter_context(cluster(WORK, connections(s3, sandbox)))
        print(f"Up after {time.monotonic() - began:.0f} s. Airflow: {up.airflow.url}", flush=True)
        print(f"Login: {up.airflow.username}, password: {up.airflow.password}", flush=True)
        with environment(up.airflow.env):
            found, verdict = night(up, s3, sandbox, products, kinds, down)
        print(f"\n{table(found)}\n\n{told(found, verdict)}\n", flush=True)
        ended = time.monotonic()
    print(f"Down after {time.monotonic() - ended:.0f} s; {time.monotonic() - began:.0f} s in all.")
    return len(verdict.broken)


if __name__ == "__main__":
    sys.exit(main())
