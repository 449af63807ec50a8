"""``bgai-sandbox``: the vendors on a port, until Ctrl-C."""

from __future__ import annotations

import argparse
import json
import signal
import threading
from collections.abc import Sequence

from airflow_provider_bgai.sandbox.registry import FAULTS
from airflow_provider_bgai.sandbox.server import Sandbox


def main(argv: Sequence[str] | None = None) -> int:
    """Serve until SIGINT or SIGTERM; exit code 0."""
    args = _parser().parse_args(argv)
    done = threading.Event()
    for name in (signal.SIGINT, signal.SIGTERM):
        signal.signal(name, lambda *_: done.set())
    try:
        box = Sandbox(
            latency=args.latency,
            url_ttl=args.url_ttl,
            seed=args.seed,
            faults=dict(args.fault),
            resign=args.resign,
            limits=dict(args.limit),
            idle_close=args.idle_close,
            host=args.host,
            port=args.port,
        )
    except ValueError as error:
        _parser().error(str(error))
    with box:
        print(f"The sandbox answers at {box.url} for all {len(box.vendors)} vendors. Connections for Airflow:\n")
        for vendor in box.vendors:
            connection = json.dumps(box.connection(vendor))
            print(f"export AIRFLOW_CONN_{vendor.upper()}_DEFAULT='{connection}'")
        print(f"\nBill: {box.url}/_sandbox/bill   Stop: Ctrl-C", flush=True)
        done.wait()
        print(f"\nPictures charged: {box.images_charged()}")
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="bgai-sandbox",
        description="Run the AI-background vendors locally: strict, free, with a charge counter.",
    )
    parser.epilog = f"Faults: {', '.join(FAULTS)}."
    parser.add_argument("--host", default="127.0.0.1", help="address to listen on (default: %(default)s)")
    parser.add_argument("--port", type=int, default=8780, help="0 takes a free one (default: %(default)s)")
    parser.add_argument("--latency", type=float, default=2, help="seconds a picture takes (default: %(default)s)")
    parser.add_argument(
        "--url-ttl", type=float, default=3600, help="seconds a result link lives (default: %(default)s)"
    )
    parser.add_argument("--seed", type=int, default=0, help="for the fault dice and the pictures")
    parser.add_argument("--resign", action="store_true", help="polling again gives a fresh result link")
    parser.add_argument(
        "--idle-close",
        type=float,
        metavar="SECONDS",
        help="close connections that are used again after so long, without an answer; 0: all that are",
    )
    parser.add_argument(
        "--fault",
        action="append",
        default=[],
        type=_rate,
        metavar="[VENDOR.]NAME[@KIND]=RATE",
        help="let a share of requests fail, e.g. rate_limited=0.05 or drop_after_charge@submit=0.01",
    )
    parser.add_argument(
        "--limit",
        action="append",
        default=[],
        type=_limit,
        metavar="VENDOR=N/s|N/min",
        help="answer 429 above this many requests a second or minute",
    )
    return parser


def _limit(text: str) -> tuple[str, str]:
    vendor, _, limit = text.partition("=")
    return vendor, limit


def _rate(text: str) -> tuple[str, float]:
    name, _, rate = text.partition("=")
    try:
        return name, float(rate)
    except ValueError:
        raise argparse.ArgumentTypeError(f"{text!r} is not NAME=RATE") from None
