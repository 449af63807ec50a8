"""How many altered products are caught, and how many honest results are flagged.

Every case is made from its number and the seed alone: a product, a background, a way of altering it (or none), and what
vendors do to pictures anyway. The limits of the package were set with seed 0. The default is another seed, which draws
other cases and, from DIR, other products. Exits with 1 if a limit is missed.

    python -m benchmarks.fidelity [count] [--images DIR] [--seed SEED]

``count``: alterations, and as many honest results (default 1,200). ``DIR``: more cut-outs, of which at most 120 are
taken, such as ``package/assets`` of ``npm pack @lobehub/fluent-emoji-3d``.

What counts as a visible alteration: at least 0.5 % of the product's opaque pixels differ by 24 levels of 255 or more
(of a shifted hue: 10 % by 16 levels). What is altered by less is drawn again, on another part or another product.
"""

from __future__ import annotations

import argparse
import io
import json
import sys
import time
from collections import defaultdict
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from dataclasses import asdict, dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image, ImageChops, ImageDraw, ImageEnhance, ImageFilter

from airflow_provider_bgai.imaging.fidelity import compare
from airflow_provider_bgai.imaging.label import Label, write_label
from airflow_provider_bgai.imaging.verify import WrongPictureError, verify_result
from airflow_provider_bgai.sandbox import paint

CATALOGUE = Path(__file__).parents[1] / "demo" / "catalogue" / "images"
CAUGHT, FLAGGED = 0.95, 0.01
MILLISECONDS, COSTED = 150, 12
MORE = 120
SEED = 1

Random = np.random.Generator


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


@lru_cache(maxsize=160)
def cut_out(path: Path) -> Image.Image:
    with Image.open(path) as picture:
        return picture.convert("RGBA")


# Backgrounds


def background(size: tuple[int, int], product: Image.Image, random: Random) -> Image.Image:
    """A scene like a vendor's, or something harder: grain, clutter, plain white, almost the product's own colour."""
    kind = random.choice(["scene", "scene", "scene", "grain", "clutter", "white", "own"])
    if kind == "scene":
        empty = Image.new("RGBA", size)
        return paint.compose(empty, str(random.choice(sorted(paint.SCENES))), int(random.integers(1 << 30)), 0)
    if kind == "white":
        return Image.new("RGB", size, "white")
    if kind == "own":
        colour = product.resize((1, 1), Image.Resampling.BOX).getpixel((0, 0))
        shift = 40 if sum(colour[:3]) < 384 else -40  # type: ignore[index]
        return Image.new("RGB", size, tuple(value + shift for value in colour[:3]))  # type: ignore[index]
    if kind == "clutter":
        canvas = Image.new("RGB", size, tuple(int(v) for v in random.integers(0, 256, 3)))
        draw = ImageDraw.Draw(canvas)
        for _ in range(40):
            x, y = random.uniform(0, size[0]), random.uniform(0, size[1])
            w, h = (random.uniform(0.02, 0.3) * max(size) for _ in range(2))
            shape = draw.rectangle if random.random() < 0.5 else draw.ellipse
            shape((x - w / 2, y - h / 2, x + w / 2, y + h / 2), fill=tuple(int(v) for v in random.integers(0, 256, 3)))
        return canvas.filter(ImageFilter.GaussianBlur(random.uniform(0, 3)))
    sum_ = np.zeros((size[1], size[0], 3), np.float32) + random.uniform(60, 200, 3).astype(np.float32)
    for octave in (4, 16, 64, 256):
        noise = random.integers(0, 256, (octave, octave, 3), dtype=np.uint8)
        layer = Image.fromarray(noise, "RGB").resize(size, Image.Resampling.BICUBIC)
        sum_ += (np.asarray(layer, np.float32) - 128) * 0.25
    return Image.fromarray(np.clip(sum_, 0, 255).astype(np.uint8), "RGB")


# What vendors do to a picture anyway


def encoded(picture: Image.Image, random: Random, *, least: int = 75) -> Image.Image:
    """As JPEG (chroma at half size) or WebP, of quality ``least`` to 95."""
    kind = str(random.choice(["JPEG", "JPEG", "WEBP"]))
    buffer = io.BytesIO()
    picture.save(buffer, kind, quality=int(random.integers(least, 96)))
    with Image.open(io.BytesIO(buffer.getvalue())) as read:
        return read.convert("RGB")


def sharpened(picture: Image.Image, random: Random) -> Image.Image:
    return picture.filter(ImageFilter.UnsharpMask(random.uniform(0.6, 1.5), int(random.integers(20, 61)), 0))


def relit(picture: Image.Image, random: Random) -> Image.Image:
    """Up to 6 % lighter or darker."""
    return ImageEnhance.Brightness(picture).enhance(random.uniform(0.94, 1.06))


def scaled(picture: Image.Image, random: Random) -> Image.Image:
    """The whole canvas, to a third up to 1.6 times, by one of four filters."""
    factor = random.uniform(0.35, 1.0) if random.random() < 0.75 else random.uniform(1.0, 1.6)
    factor = max(factor, 120 / max(picture.size))
    size = (max(1, round(picture.width * factor)), max(1, round(picture.height * factor)))
    kinds = [Image.Resampling.LANCZOS, Image.Resampling.BICUBIC, Image.Resampling.BILINEAR, Image.Resampling.HAMMING]
    return picture.resize(size, kinds[int(random.integers(4))])


def shadowed(behind: Image.Image, product: Image.Image, random: Random) -> Image.Image:
    """A soft shadow of the product on the background, thrown to one side."""
    mask = product.getchannel("A").filter(ImageFilter.GaussianBlur(max(product.size) * random.uniform(0.01, 0.04)))
    offset = (int(product.width * random.uniform(-0.1, 0.1)), int(product.height * random.uniform(0, 0.08)))
    strength = random.uniform(0.3, 0.7)
    shade = ImageChops.offset(mask, *offset).point(lambda value: int(value * strength))
    return Image.composite(Image.new("RGB", behind.size), behind, shade)


def painted(product: Image.Image, random: Random, *, shadow: bool = False) -> Image.Image:
    """The product where it was, before a new background."""
    behind = background(product.size, product, random)
    if shadow:
        behind = shadowed(behind, product, random)
    behind.paste(product, mask=product)
    return behind


def moved(product: Image.Image, random: Random, *, shadow: bool = False) -> Image.Image:
    """The product scaled and moved on a canvas of another shape."""
    box = product.getchannel("A").getbbox()
    assert box is not None
    subject = product.crop(box)
    canvas = (int(random.uniform(0.7, 1.5) * product.width), int(random.uniform(0.7, 1.5) * product.height))
    room = random.uniform(0.4, 0.97)
    factor = min(canvas[0] * room / subject.width, canvas[1] * room / subject.height)
    factor = max(factor, 64 / max(subject.size)) if random.random() < 0.8 else 1.0
    canvas = (max(canvas[0], int(subject.width * factor) + 4), max(canvas[1], int(subject.height * factor) + 4))
    subject = paint.scaled(subject, factor)
    layer = Image.new("RGBA", canvas)
    x = int(random.integers(0, canvas[0] - subject.width + 1))
    y = int(random.integers(0, canvas[1] - subject.height + 1))
    layer.paste(subject, (x, y))
    return painted(layer, random, shadow=shadow)


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


# What must not happen to a product


def part(product: Image.Image, random: Random, least: float, most: float, *, detailed: bool) -> Image.Image:
    """A soft-edged mask over a part of the product of ``least`` to ``most`` of its area, where there is detail."""
    alpha = np.asarray(product.getchannel("A")) >= 250
    area = alpha.sum() * random.uniform(least, most)
    aspect = random.uniform(0.5, 2.0)
    width, height = max(4, int((area * aspect) ** 0.5)), max(4, int((area / aspect) ** 0.5))
    rows, columns = np.nonzero(alpha)
    places = random.integers(0, rows.size, 12 if detailed else 1)
    luma = np.asarray(product.convert("L"), np.float32)

    def box(place: int) -> tuple[int, int, int, int]:
        left, top = int(columns[place] - width / 2), int(rows[place] - height / 2)
        return max(0, left), max(0, top), max(0, left) + width, max(0, top) + height

    def detail(place: int) -> float:
        left, top, right, bottom = box(place)
        window, own = luma[top:bottom, left:right], alpha[top:bottom, left:right]
        return float(window[own].std() * own.mean()) if own.any() else 0.0

    best = max((int(place) for place in places), key=detail)
    mask = Image.new("L", product.size)
    draw = ImageDraw.Draw(mask)
    (draw.rectangle if random.random() < 0.5 else draw.ellipse)(box(best), fill=255)
    return mask.filter(ImageFilter.GaussianBlur(1))


def over(product: Image.Image, changed: Image.Image, mask: Image.Image) -> Image.Image:
    """``changed`` (RGB) where the mask is; the alpha stays."""
    mixed = Image.composite(changed, product.convert("RGB"), mask)
    mixed.putalpha(product.getchannel("A"))
    return mixed


def solid(product: Image.Image) -> Image.Image:
    """The product's colours continued under what is transparent, so that blurring mixes no foreign colour in."""
    colour = product.resize((1, 1), Image.Resampling.BOX).getpixel((0, 0))
    canvas = Image.new("RGB", product.size, colour[:3])  # type: ignore[index]
    canvas.paste(product, mask=product)
    return canvas


def blurred_label(product: Image.Image, random: Random, others: list[Path]) -> Image.Image:
    """2 to 20 % of the product blurred by 0.6 to 3 % of its size (at least 1.5 px)."""
    mask = part(product, random, 0.02, 0.2, detailed=True)
    box = product.getchannel("A").getbbox()
    assert box is not None
    radius = max(1.5, max(box[2] - box[0], box[3] - box[1]) * random.uniform(0.006, 0.03))
    return over(product, solid(product).filter(ImageFilter.GaussianBlur(radius)), mask)


def shifted_hue(product: Image.Image, random: Random, others: list[Path]) -> Image.Image:
    """All of the product turned by 8 to 60 degrees of hue, either way."""
    degrees = random.uniform(8, 60) * random.choice([-1, 1])
    hue, saturation, value = product.convert("RGB").convert("HSV").split()
    turned = np.asarray(hue, np.int32) + round(degrees / 360 * 256)
    mixed = Image.merge("HSV", (Image.fromarray((turned % 256).astype(np.uint8), "L"), saturation, value))
    changed = mixed.convert("RGB")
    changed.putalpha(product.getchannel("A"))
    return changed


def redrawn_part(product: Image.Image, random: Random, others: list[Path]) -> Image.Image:
    """1 to 15 % of the product drawn anew: warped, mirrored, taken from elsewhere on it, or from another product."""
    mask = part(product, random, 0.01, 0.15, detailed=bool(random.random() < 0.5))
    kind = random.choice(["warped", "mirrored", "elsewhere", "other"])
    own = solid(product)
    if kind == "mirrored":
        box = mask.getbbox()
        assert box is not None
        changed = own.copy()
        changed.paste(own.crop(box).transpose(Image.Transpose.FLIP_LEFT_RIGHT), box[:2])
    elif kind == "elsewhere":
        across, down = random.uniform(-0.4, 0.4, 2)
        changed = ImageChops.offset(own, int(across * own.width), int(down * own.height))
    elif kind == "other":
        other = cut_out(others[int(random.integers(len(others)))])
        changed = solid(other.crop(other.getchannel("A").getbbox())).resize(own.size)
    else:
        size = max(own.size) * random.uniform(0.01, 0.03)
        y, x = np.mgrid[0 : own.height, 0 : own.width]
        phase = random.uniform(0, 6, 2)
        waves = max(own.size) * random.uniform(0.02, 0.06)
        rows = np.clip(y + size * np.sin(x / waves + phase[0]), 0, own.height - 1).astype(int)
        columns = np.clip(x + size * np.sin(y / waves + phase[1]), 0, own.width - 1).astype(int)
        changed = Image.fromarray(np.asarray(own)[rows, columns], "RGB")
    return over(product, changed, mask)


def changed_proportions(product: Image.Image, random: Random, others: list[Path]) -> Image.Image:
    """4 to 15 % wider or narrower, about its middle."""
    factor = 1 + random.uniform(0.04, 0.15)
    wider = random.random() < 0.5
    across, down = (factor, 1.0) if wider else (1.0, factor)
    if random.random() < 0.5:
        across, down = 1 / across, 1 / down
    size = (round(product.width * across), round(product.height * down))
    stretched = product.convert("RGBa").resize(size, Image.Resampling.BICUBIC).convert("RGBA")
    canvas = Image.new("RGBA", (max(product.width, size[0]), max(product.height, size[1])))
    canvas.paste(stretched, ((canvas.width - size[0]) // 2, (canvas.height - size[1]) // 2))
    left, top = (canvas.width - product.width) // 2, (canvas.height - product.height) // 2
    box = canvas.getchannel("A").getbbox()
    assert box is not None
    if box[0] < left or box[1] < top or box[2] > left + product.width or box[3] > top + product.height:
        return canvas  # it would be cut off, so the canvas is a little larger
    return canvas.crop((left, top, left + product.width, top + product.height))


def erased_detail(product: Image.Image, random: Random, others: list[Path]) -> Image.Image:
    """1 to 10 % of the product painted over with its surroundings' colour."""
    mask = part(product, random, 0.01, 0.1, detailed=True)
    box = mask.getbbox()
    assert box is not None
    own = solid(product)
    ring = mask.filter(ImageFilter.MaxFilter(9))
    around = ImageChops.multiply(ImageChops.subtract(ring, mask), product.getchannel("A"))
    weights = np.asarray(around, np.float32)
    if not weights.any():
        weights = np.asarray(product.getchannel("A"), np.float32)
    colour = (np.asarray(own, np.float32) * weights[..., None]).sum((0, 1)) / weights.sum()
    return over(product, Image.new("RGB", own.size, tuple(int(value) for value in colour)), mask)


def wrong_product(product: Image.Image, random: Random, others: list[Path]) -> Image.Image:
    """Another product in its place, of about its size."""
    other = cut_out(others[int(random.integers(len(others)))])
    box, own = other.getchannel("A").getbbox(), product.getchannel("A").getbbox()
    assert box is not None
    assert own is not None
    subject = other.crop(box)
    factor = min((own[2] - own[0]) / subject.width, (own[3] - own[1]) / subject.height)
    subject = paint.scaled(subject, factor)
    canvas = Image.new("RGBA", product.size)
    canvas.paste(subject, ((own[0] + own[2] - subject.width) // 2, own[3] - subject.height))
    return canvas


ALTERED: dict[str, Callable[[Image.Image, Random, list[Path]], Image.Image]] = {
    "blurred label": blurred_label,
    "shifted hue": shifted_hue,
    "redrawn part": redrawn_part,
    "changed proportions": changed_proportions,
    "erased detail": erased_detail,
    "wrong product": wrong_product,
}


def visible(product: Image.Image, changed: Image.Image, kind: str) -> bool:
    if changed.size != product.size:
        return True
    own = np.asarray(product.getchannel("A")) >= 250
    before, after = (np.asarray(each.convert("RGB"), np.int16)[own] for each in (product, changed))
    difference = np.abs(after - before).max(axis=1)
    if kind == "shifted hue":
        return float((difference >= 16).mean()) >= 0.1
    return kind in ("changed proportions", "wrong product") or float((difference >= 24).mean()) >= 0.005


# Running


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


def cost(paths: list[Path], seed: int) -> float:
    """Median processor time in s of verifying, comparing and labelling an honest picture of one megapixel."""
    seconds = []
    for number, path in enumerate(paths[:COSTED]):
        random = np.random.default_rng([seed, number])
        product = cut_out(path)
        source = paint.scaled(product, (1_000_000 / (product.width * product.height)) ** 0.5)
        for make_honest in HONEST.values():
            result = make_honest(source, random)
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
    median = cost(paths, options.seed)
    print(f"verified, compared and labelled: median {median * 1000:.0f} ms a megapixel (at most {MILLISECONDS})")
    sys.exit(bool(caught < CAUGHT or flagged > FLAGGED or median * 1000 > MILLISECONDS))


if __name__ == "__main__":
    main()
