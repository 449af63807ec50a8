"""Honest results: the product as it is, in every way in which vendors return it. ``HONEST`` names them all."""

from __future__ import annotations

from collections.abc import Callable

from PIL import Image

from benchmarks.fidelity.scenes import Random, encoded, moved, painted, relit, scaled, sharpened


def honest_reencoded(product: Image.Image, random: Random) -> Image.Image:
    return encoded(painted(product, random), random)


def honest_scaled(product: Image.Image, random: Random) -> Image.Image:
    return scaled(painted(product, random), random)


def honest_moved(product: Image.Image, random: Random) -> Image.Image:
    return moved(product, random)


def honest_sharpened(product: Image.Image, random: Random) -> Image.Image:
    return sharpened(painted(product, random), random)


def honest_shadow(product: Image.Image, random: Random) -> Image.Image:
    return painted(product, random, shadow=True)


def honest_relit(product: Image.Image, random: Random) -> Image.Image:
    return relit(painted(product, random), random)


def honest_combined(product: Image.Image, random: Random) -> Image.Image:
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
    return encoded(picture, random) if random.random() < 0.8 else picture


HONEST: dict[str, Callable[[Image.Image, Random], Image.Image]] = {
    "re-encoded": honest_reencoded,
    "scaled": honest_scaled,
    "moved": honest_moved,
    "sharpened": honest_sharpened,
    "shadow": honest_shadow,
    "relit": honest_relit,
    "combined": honest_combined,
}
