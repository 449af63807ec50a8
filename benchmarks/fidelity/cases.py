"""One case from its number and the seed alone: the product, the result, and what the comparison says of the two."""

from __future__ import annotations

import time
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from airflow_provider_bgai.imaging.fidelity import compare
from benchmarks.fidelity.altered import ALTERED, visible
from benchmarks.fidelity.honest import HONEST
from benchmarks.fidelity.scenes import cut_out, encoded, moved, painted, scaled

CATALOGUE = Path(__file__).parents[2] / "demo" / "catalogue" / "images"
MORE = 120
SEED = 1


@dataclass(frozen=True)
class Outcome:
    """One case. ``size``: of the result in px; ``seconds``: of the comparison."""

    number: int
    altered: bool
    kind: str
    product: str
    faithful: bool
    verdict: dict[str, Any]
    size: tuple[int, int]
    seconds: float


def make(number: int, altered: bool, paths: list[Path], seed: int = SEED) -> tuple[Path, str, Image.Image, Image.Image]:
    """The case of this number: product, kind, source and result."""
    random = np.random.default_rng([seed, number, altered])
    kinds = list(ALTERED) if altered else [*HONEST, "combined"]  # what combines the others counts double
    kind = kinds[number % len(kinds)]
    while True:
        path = paths[int(random.integers(len(paths)))]
        source = cut_out(path)
        if not altered:
            return path, kind, source, HONEST[kind](source, random)
        changed = ALTERED[kind](source, random, [each for each in paths if each != path])
        if not visible(source, changed, kind):
            continue
        way = random.random()
        if way < 0.4:
            result = painted(changed, random, shadow=bool(random.random() < 0.5))
        elif way < 0.7:
            result = scaled(painted(changed, random), random)
        else:
            result = moved(changed, random)
        return path, kind, source, encoded(result, random, least=80) if random.random() < 0.6 else result


def run(number: int, altered: bool, paths: list[Path], seed: int = SEED) -> Outcome:
    path, kind, source, result = make(number, altered, paths, seed)
    began = time.process_time()
    verdict = compare(source, result)
    seconds = time.process_time() - began
    return Outcome(number, altered, kind, path.name, verdict.faithful, asdict(verdict), result.size, seconds)


def pictures(folder: Path | None, seed: int = SEED) -> list[Path]:
    paths = sorted(CATALOGUE.glob("*.png"))
    more = sorted(each for each in folder.iterdir() if each.suffix in (".png", ".webp")) if folder else []
    step = max(1, -(-len(more) // MORE))
    return paths + more[seed % step :: step]
