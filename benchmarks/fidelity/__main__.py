"""How many altered products are caught, and how many honest results are flagged.

Every case is made from its number and the seed alone: a product, a background, a way of altering it (or none), and what
vendors do to pictures anyway. The limits of the package were set with seed 0. The default is another seed, which draws
other cases and, from DIR, other products. Exits with 1 if a limit is missed.

    python -m benchmarks.fidelity [count] [--images DIR] [--seed SEED] [--kinds KIND …]

``count``: cases of each group of kinds (default 1,200). ``DIR``: more cut-outs, of which at most 120 are
taken, such as ``package/assets`` of ``npm pack @lobehub/fluent-emoji-3d``.
"""

from __future__ import annotations

import argparse
import io
import json
import sys
import time
from collections import defaultdict
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from dataclasses import asdict
from pathlib import Path

import numpy as np

from airflow_provider_bgai.imaging.fidelity import compare
from airflow_provider_bgai.imaging.label import Label, write_label
from airflow_provider_bgai.imaging.verify import WrongPictureError, verify_result
from airflow_provider_bgai.sandbox import paint
from benchmarks.fidelity.cases import GROUPS, KINDS, SEED, Group, Outcome, pictures, run
from benchmarks.fidelity.honest import HONEST
from benchmarks.fidelity.scenes import cut_out

MILLISECONDS, COSTED = 150, 12


def table(outcomes: list[Outcome]) -> Iterator[str]:
    """A line for every kind and for every group of kinds, and what a group misses of what is asked of it."""
    yield f"{'':22}{'cases':>7}{'flagged':>9}{'':>9}{'median ms':>11}"
    kinds: dict[str, list[Outcome]] = defaultdict(list)
    for outcome in outcomes:
        kinds[outcome.kind].append(outcome)
    for name, group in GROUPS.items():
        own = {kind: cases for kind, cases in kinds.items() if KINDS[kind].group == name}
        for kind, cases in own.items():
            yield line(kind, cases)
        yield line(f"{name}: all", [each for cases in own.values() for each in cases])
        yield f"  asked: {asked(group)}"
        yield ""


def line(name: str, cases: list[Outcome]) -> str:
    median = float(np.median([each.seconds for each in cases])) * 1000
    count = sum(not each.faithful for each in cases)
    return f"{name:22}{len(cases):>7}{count:>9}{flagged(cases):>9.1%}{median:>11.0f}"


def flagged(cases: list[Outcome]) -> float:
    return float(np.mean([not each.faithful for each in cases]))


def asked(group: Group) -> str:
    if group.least:
        return f"at least {group.least:.1%}"
    return f"at most {group.most:.1%}, and {group.worst:.1%} of a kind"


def missed(outcomes: list[Outcome]) -> list[str]:
    """The groups and kinds that miss what is asked."""
    names = []
    for name, group in GROUPS.items():
        own = [each for each in outcomes if KINDS[each.kind].group == name]
        if not group.least <= flagged(own) <= group.most:
            names.append(name)
        for kind in sorted({each.kind for each in own}):
            if flagged([each for each in own if each.kind == kind]) > group.worst:
                names.append(kind)
    return names


def cost(paths: list[Path], seed: int) -> float:
    """Median processor time in s of verifying, comparing and labelling an honest picture of one megapixel."""
    seconds = []
    for number, path in enumerate(paths[:COSTED]):
        random = np.random.default_rng([seed, number])
        product = cut_out(path)
        source = paint.scaled(product, (1_000_000 / (product.width * product.height)) ** 0.5)
        for make_honest in HONEST.values():
            source, result = make_honest(source, random)
            result = result.resize(source.size) if result.width * result.height < 900_000 else result
            file = io.BytesIO()
            result.convert("RGB").save(file, "PNG" if number % 2 else "JPEG", quality=92, compress_level=3)
            began = time.process_time()
            try:
                _, image = verify_result(file.getvalue(), source=source)
            except WrongPictureError:  # painted plain white, which only a prompt can excuse
                continue
            compare(source, image)
            write_label(file.getvalue(), Label(vendor="sandbox", created=0, id="1"))
            seconds.append(time.process_time() - began)
    return float(np.median(seconds))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("count", nargs="?", type=int, default=1200)
    parser.add_argument("--images", type=Path, help="a folder of more cut-outs")
    parser.add_argument("--seed", type=int, default=SEED)
    parser.add_argument("--kinds", nargs="*", choices=list(KINDS), help="only these")
    parser.add_argument("--processes", type=int, help="as many at a time (default: one for each core)")
    parser.add_argument("--dump", type=Path, help="write every outcome to this file, as JSON lines")
    options = parser.parse_args()
    paths = pictures(options.images, options.seed)
    kinds = options.kinds or list(KINDS)
    each_group = {name: [kind for kind in kinds if KINDS[kind].group == name] for name in GROUPS}
    cases = [
        (own[number % len(own)], number // len(own))
        for own in each_group.values()
        if own
        for number in range(options.count)
    ]
    with ProcessPoolExecutor(options.processes) as pool:
        outcomes = list(
            pool.map(run, *zip(*cases, strict=True), [paths] * len(cases), [options.seed] * len(cases), chunksize=8)
        )
    if options.dump:
        options.dump.write_text("".join(json.dumps(asdict(each)) + "\n" for each in outcomes))
    print(f"{len(paths)} products, {options.count} cases of each group, seed {options.seed}")
    print("\n".join(table(outcomes)))
    median = cost(paths, options.seed)
    print(f"verified, compared and labelled: median {median * 1000:.0f} ms a megapixel (at most {MILLISECONDS})")
    for name in (names := missed(outcomes)):
        print(f"missed: {name}")
    sys.exit(bool(names or median * 1000 > MILLISECONDS))


if __name__ == "__main__":
    main()
