"""Honest results: the product as it is, in every way in which vendors return it. ``HONEST`` names them all."""

from __future__ import annotations

from collections.abc import Callable

from PIL import Image

from benchmarks.fidelity.drawn import lines, thin
from benchmarks.fidelity.labels import label
from benchmarks.fidelity.scenes import (
    Random,
    encoded,
    enlarged,
    feathered,
    moved,
    painted,
    relit,
    scaled,
    sharpened,
    tinted,
)

Pair = tuple[Image.Image, Image.Image]
"""Source and result."""


def reencoded(product: Image.Image, random: Random) -> Pair:
    return product, encoded(painted(product, random), random)


def resized(product: Image.Image, random: Random) -> Pair:
    return product, scaled(painted(product, random), random)


def displaced(product: Image.Image, random: Random) -> Pair:
    return product, moved(product, random)


def sharper(product: Image.Image, random: Random) -> Pair:
    return product, sharpened(painted(product, random), random)


def with_shadow(product: Image.Image, random: Random) -> Pair:
    return product, painted(product, random, shadow=True)


def lighter_or_darker(product: Image.Image, random: Random) -> Pair:
    return product, relit(painted(product, random), random)


def warmer_or_cooler(product: Image.Image, random: Random) -> Pair:
    picture = tinted(painted(product, random), random)
    return product, encoded(picture, random) if random.random() < 0.5 else picture


def feathered_anew(product: Image.Image, random: Random) -> Pair:
    picture = painted(feathered(product, random), random)
    return product, encoded(picture, random) if random.random() < 0.5 else picture


def hair_thin(product: Image.Image, random: Random) -> Pair:
    return _simply(thin(random), random)


def line_art(product: Image.Image, random: Random) -> Pair:
    return _simply(lines(random), random)


def labelled(product: Image.Image, random: Random) -> Pair:
    """With printed characters on it, 6 to 40 px high."""
    product = enlarged(product, random)
    printed = label(product, random, int(random.integers(6, 41)))
    source = printed.on(product) if printed else product
    return source, combined(source, random)[1]


def combined(product: Image.Image, random: Random) -> Pair:
    shadow = random.random() < 0.5
    if random.random() < 0.5:
        picture = moved(product, random, shadow=shadow)
    else:
        picture = painted(product, random, shadow=shadow)
        if random.random() < 0.6:
            picture = scaled(picture, random)
    if random.random() < 0.4:
        picture = sharpened(picture, random)
    if random.random() < 0.4:
        picture = relit(picture, random)
    if random.random() < 0.4:
        picture = tinted(picture, random)
    return product, encoded(picture, random) if random.random() < 0.8 else picture


def _simply(product: Image.Image, random: Random) -> Pair:
    """Where it was, the canvas scaled, or moved; encoded or not."""
    way = random.random()
    if way < 0.4:
        picture = painted(product, random)
    elif way < 0.7:
        picture = scaled(painted(product, random), random, random.uniform(0.5, 1.5))
    else:
        picture = moved(product, random, random.uniform(0.6, 1.2))
    return product, encoded(picture, random) if random.random() < 0.6 else picture


HONEST: dict[str, Callable[[Image.Image, Random], Pair]] = {
    "re-encoded": reencoded,
    "scaled": resized,
    "moved": displaced,
    "sharpened": sharper,
    "shadow": with_shadow,
    "relit": lighter_or_darker,
    "warmer, cooler": warmer_or_cooler,
    "rim feathered": feathered_anew,
    "hair-thin": hair_thin,
    "line art": line_art,
    "labelled": labelled,
    "combined": combined,
}
