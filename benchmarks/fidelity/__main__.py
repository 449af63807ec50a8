"""How many altered products are caught, and how many honest results are flagged.

Every case is made from its number and the seed alone: a product, a background, a way of altering it (or none), and what
vendors do to pictures anyway. The limits of the package were set with seed 0. The default is another seed, which draws
other cases and, from DIR, other products. Exits with 1 if a limit is missed.

    python -m benchmarks.fidelity [count] [--images DIR] [--seed SEED]

``count``: alterations, and as many honest results (default 1,200). ``DIR``: more cut-outs, of which at most 120 are
taken, such as ``package/assets`` of ``npm pack @lobehub/fluent-emoji-3d``.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections import defaultdict
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from dataclasses import asdict
from pathlib import Path

import numpy as np

from benchmarks.fidelity import cost
from benchmarks.fidelity.cases import SEED, Outcome, pictures, run

CAUGHT, FLAGGED = 0.95, 0.01


def table(outcomes: list[Outcome]) -> Iterator[str]:
    yield f"{'':22}{'cases':>7}{'flagged':>9}{'':>9}{'median ms':>11}"
    groups: dict[tuple[bool, str], list[Outcome]] = defaultdict(list)
    for outcome in outcomes:
        groups[outcome.altered, outcome.kind].append(outcome)
        groups[outcome.altered, "all"].append(outcome)
    for (altered, kind), group in sorted(groups.items(), key=lambda item: (item[0][0], item[0][1] == "all")):
        flagged = [not each.faithful for each in group]
        name = f"{'altered' if altered else 'honest'}: all" if kind == "all" else kind
        median = float(np.median([each.seconds for each in group])) * 1000
        yield f"{name:22}{len(group):>7}{sum(flagged):>9}{np.mean(flagged):>9.1%}{median:>11.0f}"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("count", nargs="?", type=int, default=1200)
    parser.add_argument("--images", type=Path, help="a folder of more cut-outs")
    parser.add_argument("--seed", type=int, default=SEED)
    parser.add_argument("--dump", type=Path, help="write every outcome to this file, as JSON lines")
    options = parser.parse_args()
    paths = pictures(options.images, options.seed)
    cases = [(number, altered) for number in range(options.count) for altered in (False, True)]
    with ProcessPoolExecutor() as pool:
        outcomes = list(
            pool.map(run, *zip(*cases, strict=True), [paths] * len(cases), [options.seed] * len(cases), chunksize=8)
        )
    if options.dump:
        options.dump.write_text("".join(json.dumps(asdict(each)) + "\n" for each in outcomes))
    print(f"{len(paths)} products, {options.count} altered and {options.count} honest cases, seed {options.seed}")
    print("\n".join(table(outcomes)))
    flagged = np.mean([not each.faithful for each in outcomes if not each.altered])
    caught = np.mean([not each.faithful for each in outcomes if each.altered])
    print(
        f"caught {caught:.1%} of the altered (at least {CAUGHT:.0%}), flagged {flagged:.1%} of the honest (at most 1%)"
    )
    costs = cost.cost(paths, options.seed)
    print("\n".join(cost.table(costs)))
    sys.exit(bool(caught < CAUGHT or flagged > FLAGGED or cost.too_dear(costs)))


if __name__ == "__main__":
    main()
