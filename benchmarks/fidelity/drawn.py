"""Products that are drawn rather than photographed: hair-thin ones, and line art. ``DRAWN`` names them."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from PIL import Image, ImageDraw

from benchmarks.fidelity.scenes import Random

Draw = ImageDraw.ImageDraw
Points = list[tuple[float, float]]
FINER = 3  # drawn at this many times the size, so that edges are smooth


def curve(random: Random, size: tuple[int, int], points: int, room: float = 0.12) -> Points:
    """A smooth line through random points of the canvas."""
    knots = random.uniform(room, 1 - room, (points, 2)) * size
    steps = np.linspace(0, points - 1, 40 * points)
    place = np.minimum(steps.astype(int), points - 2)
    share = (1 - np.cos(np.pi * (steps - place)))[:, None] / 2
    mixed = knots[place] * (1 - share) + knots[place + 1] * share
    kernel = np.hanning(31) / np.hanning(31).sum()
    smooth = np.stack([np.convolve(np.pad(line, 15, mode="edge"), kernel, "valid") for line in mixed.T], 1)
    return [(float(x), float(y)) for x, y in smooth]


def tube(draw: Draw, line: Points, width: float, colour: tuple[int, ...]) -> None:
    """A line with a highlight along it."""
    draw.line(line, colour, max(1, round(width)), joint="curve")
    light = tuple(min(255, value + 70) for value in colour)
    shifted = [(x - width / 5, y - width / 5) for x, y in line]
    draw.line(shifted, light, max(1, round(width / 4)), joint="curve")


def colour_of(random: Random) -> tuple[int, ...]:
    return tuple(int(value) for value in random.integers(10, 200, 3))


def stethoscope(draw: Draw, size: tuple[int, int], random: Random) -> None:
    width, colour = FINER * random.uniform(3, 8), colour_of(random)
    for line in (curve(random, size, 5), curve(random, size, 3)):
        tube(draw, line, width, colour)
        x, y = line[-1]
        for radius, grey in ((3.2, 90), (2.6, 190), (1.6, 140)):
            reach = radius * width
            draw.ellipse((x - reach, y - reach, x + reach, y + reach), (grey, grey, grey + 6))


def chain(draw: Draw, size: tuple[int, int], random: Random) -> None:
    width, reach = FINER * random.uniform(1.5, 4), FINER * random.uniform(6, 14)
    gold = random.random() < 0.5
    last = None
    for x, y in curve(random, size, 5):
        if last and (x - last[0]) ** 2 + (y - last[1]) ** 2 < (1.5 * reach) ** 2:
            continue
        last = (x, y)
        box = (x - reach, y - reach * 0.7, x + reach, y + reach * 0.7)
        draw.ellipse(box, outline=(190, 150, 60) if gold else (150, 152, 160), width=max(1, round(width)))
        draw.arc(box, 190, 280, (250, 225, 150) if gold else (235, 236, 240), max(1, round(width / 2)))


def cable(draw: Draw, size: tuple[int, int], random: Random) -> None:
    for _ in range(int(random.integers(1, 4))):
        tube(draw, curve(random, size, int(random.integers(3, 7))), FINER * random.uniform(2, 5), colour_of(random))


def line_art(draw: Draw, size: tuple[int, int], random: Random) -> None:
    """Black (or coloured) lines, around white or around nothing."""
    width = FINER * random.uniform(1.2, 3.5)
    ink = (0, 0, 0) if random.random() < 0.6 else colour_of(random)
    fill = (255, 255, 255) if random.random() < 0.6 else None
    for _ in range(int(random.integers(4, 14))):
        x, y = random.uniform(0.2, 0.8, 2) * size
        reach_x, reach_y = random.uniform(0.05, 0.25, 2) * size
        box = (max(9, x - reach_x), max(9, y - reach_y), min(size[0] - 9, x + reach_x), min(size[1] - 9, y + reach_y))
        shape = random.choice(["ellipse", "box", "round", "curve"])
        if shape == "ellipse":
            draw.ellipse(box, fill, ink, round(width))
        elif shape == "box":
            draw.rectangle(box, fill, ink, round(width))
        elif shape == "round":
            draw.rounded_rectangle(box, min(box[2] - box[0], box[3] - box[1]) / 4, fill, ink, round(width))
        else:
            draw.line(curve(random, size, 4), ink, round(width), joint="curve")


def drawn(shapes: list[Callable[[Draw, tuple[int, int], Random], None]], random: Random) -> Image.Image:
    size = (int(random.integers(400, 1000)), int(random.integers(400, 1000)))
    large = (size[0] * FINER, size[1] * FINER)
    canvas = Image.new("RGBA", large)
    shapes[int(random.integers(len(shapes)))](ImageDraw.Draw(canvas), large, random)
    return canvas.convert("RGBa").resize(size, Image.Resampling.BOX).convert("RGBA")


def thin(random: Random) -> Image.Image:
    return drawn([stethoscope, chain, cable], random)


def lines(random: Random) -> Image.Image:
    return drawn([line_art], random)
