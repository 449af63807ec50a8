"""One case from its kind, its number and the seed alone: the product, the result, and what the comparison says of them.

``KINDS`` names every kind of case, and ``GROUPS`` what is asked of each group of kinds.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from airflow_provider_bgai.imaging.fidelity import compare
from benchmarks.fidelity.altered import ALTERED, visible
from benchmarks.fidelity.honest import HONEST, Pair
from benchmarks.fidelity.labels import label, one_character
from benchmarks.fidelity.outside import GROWN
from benchmarks.fidelity.scenes import Random, cut_out, encoded, enlarged, moved, painted, scaled
from benchmarks.fidelity.surroundings import SURROUNDED

CATALOGUE = Path(__file__).parents[2] / "demo" / "catalogue" / "images"
MORE = 120
SEED = 1
LEGIBLE, LARGE = 8, 40  # px in the result: the height of a character that has to be right


@dataclass(frozen=True)
class Group:
    """What is asked of a group of kinds: ``least`` and ``most`` of all its cases are flagged, ``worst`` of a kind."""

    least: float = 0.0
    most: float = 1.0
    worst: float = 1.0


GROUPS = {
    "honest": Group(most=0.005, worst=0.01),
    "inside": Group(least=0.97),
    "characters": Group(least=0.9),
    "outside": Group(least=0.9),
    "surroundings": Group(most=0.005, worst=0.01),
}


@dataclass(frozen=True)
class Kind:
    """``make``: from a product, randomness and the paths of all other products, source and result; None: try again."""

    group: str
    make: Callable[[Image.Image, Random, list[Path]], Pair | None]


@dataclass(frozen=True)
class Outcome:
    """One case. ``size``: of the result in px; ``seconds``: of the comparison."""

    kind: str
    number: int
    product: str
    faithful: bool
    verdict: dict[str, Any]
    size: tuple[int, int]
    seconds: float


def honest(name: str, product: Image.Image, random: Random, others: list[Path]) -> Pair:
    return HONEST[name](product, random)


def altered(name: str, product: Image.Image, random: Random, others: list[Path]) -> Pair | None:
    changed = ALTERED[name](product, random, others)
    if not visible(product, changed, name):
        return None
    way = random.random()
    if way < 0.4:
        result = painted(changed, random, shadow=bool(random.random() < 0.5))
    elif way < 0.7:
        result = scaled(painted(changed, random), random)
    else:
        result = moved(changed, random)
    return product, encoded(result, random, least=80) if random.random() < 0.6 else result


def character(product: Image.Image, random: Random, others: list[Path]) -> Pair | None:
    """One character of a printed label is another one; it is ``LEGIBLE`` to ``LARGE`` px high in the result."""
    way = random.random()
    factor = 1.0 if way < 0.4 else random.uniform(0.4, 1.4)
    height = round(LEGIBLE * (LARGE / LEGIBLE) ** random.random() / factor + 0.5)
    product = enlarged(product, random)
    printed = label(product, random, height)
    change = one_character(printed, random) if printed else None
    if printed is None or change is None:
        return None
    changed = printed.on(product, change)
    if way < 0.4:
        result = painted(changed, random, shadow=bool(random.random() < 0.5))
    elif way < 0.7:
        result = scaled(painted(changed, random), random, factor)
    else:
        result = moved(changed, random, factor)
    return printed.on(product), encoded(result, random) if random.random() < 0.7 else result


def outside(name: str, product: Image.Image, random: Random, others: list[Path]) -> Pair | None:
    """Scaled and encoded anew, as a vendor's result is; nothing is seen of what is a few px wide before that."""
    picture = GROWN[name](product, random, others) if name in GROWN else SURROUNDED[name](product, random)
    if picture is None:
        return None
    if random.random() < 0.3:
        picture = scaled(picture, random, random.uniform(0.7, 1.4))
    return product, encoded(picture, random, least=80) if random.random() < 0.6 else picture


KINDS: dict[str, Kind] = {
    **{name: Kind("honest", partial(honest, name)) for name in HONEST},
    **{name: Kind("inside", partial(altered, name)) for name in ALTERED},
    "one character": Kind("characters", character),
    **{name: Kind("outside", partial(outside, name)) for name in GROWN},
    **{name: Kind("surroundings", partial(outside, name)) for name in SURROUNDED},
}


def make(kind: str, number: int, paths: list[Path], seed: int = SEED) -> tuple[Path, Image.Image, Image.Image]:
    """The case of this kind and number: product, source and result."""
    random = np.random.default_rng([seed, number, *kind.encode()])
    while True:
        path = paths[int(random.integers(len(paths)))]
        pair = KINDS[kind].make(cut_out(path), random, [each for each in paths if each != path])
        if pair is not None:
            return path, *pair


def run(kind: str, number: int, paths: list[Path], seed: int = SEED) -> Outcome:
    path, source, result = make(kind, number, paths, seed)
    began = time.process_time()
    verdict = compare(source, result)
    seconds = time.process_time() - began
    return Outcome(kind, number, path.name, verdict.faithful, asdict(verdict), result.size, seconds)


def pictures(folder: Path | None, seed: int = SEED) -> list[Path]:
    paths = sorted(CATALOGUE.glob("*.png"))
    kinds = (".png", ".webp", ".jpg", ".jpeg")
    more = sorted(each for each in folder.iterdir() if each.suffix in kinds) if folder else []
    step = max(1, -(-len(more) // MORE))
    return paths + more[seed % step :: step]
