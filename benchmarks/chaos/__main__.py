"""``python -m benchmarks.chaos``: one table per mode; it fails if a promise is broken."""

from __future__ import annotations

import argparse
import sys

import benchmarks.chaos
from benchmarks.chaos.accidents import RATES
from benchmarks.chaos.chaos import chaos, stage
from benchmarks.chaos.controls import CONTROLS

MODES = {"blocking": (False,), "deferrable": (True,), "both": (False, True)}


def main() -> int:
    parser = argparse.ArgumentParser(
        prog="benchmarks.chaos",
        description=benchmarks.chaos.__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("products", nargs="?", type=int, default=1000)
    parser.add_argument("kills", nargs="?", type=int, default=50)
    parser.add_argument("--seed", type=int, default=0, help="for faults and the moments of the kills")
    parser.add_argument("--mode", choices=MODES, default="both")
    parser.add_argument("--control", choices=CONTROLS, default="", help="break the workers so, to see it fail")
    args = parser.parse_args()
    broken = 0
    with stage() as services:
        for deferrable in MODES[args.mode]:
            verdict = chaos(
                services,
                args.products,
                args.kills,
                deferrable=deferrable,
                seed=args.seed,
                control=args.control,
                rates={**RATES, **(CONTROLS[args.control].rates if args.control else {})},
            )
            print(f"\n{'deferrable' if deferrable else 'blocking'}\n{verdict.table()}", flush=True)
            broken += len(verdict.broken)
    return 1 if broken else 0


if __name__ == "__main__":
    sys.exit(main())
