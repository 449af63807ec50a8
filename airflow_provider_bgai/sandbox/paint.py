"""Paints what a vendor would: a believable studio scene, and on it the product with its own pixels.

Deterministic by (prompt, seed, index). The scene and the shadow are painted small and scaled up, which is
fast and looks like a shallow depth of field; the product is pasted on them unchanged, so that every opaque
pixel is true.
"""

from __future__ import annotations

import hashlib
import io
import re
import struct
import warnings
import zlib
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageChops, ImageDraw, ImageFilter, ImageFont, ImageOps

Array = NDArray[np.float64]
Colour = tuple[int, int, int]

MAX_PIXELS = 25_000_000  # of a source; above every documented limit
GRID = 192  # longer side of the scene as painted, pixels

# keyword -> wall at the top, wall at the horizon, table at the horizon, table in front
SCENES: dict[str, tuple[Colour, Colour, Colour, Colour]] = {
    "beach": ((112, 176, 224), (206, 228, 238), (240, 220, 178), (214, 184, 134)),
    "sea": ((120, 180, 222), (210, 230, 240), (84, 150, 178), (40, 96, 132)),
    "wood": ((226, 214, 200), (242, 234, 222), (176, 126, 82), (120, 78, 46)),
    "oak": ((232, 224, 212), (244, 238, 228), (196, 152, 104), (150, 106, 66)),
    "marble": ((214, 216, 222), (238, 238, 240), (246, 246, 246), (214, 214, 218)),
    "forest": ((44, 74, 50), (138, 164, 108), (96, 104, 62), (54, 60, 36)),
    "garden": ((150, 190, 150), (216, 230, 190), (128, 160, 92), (78, 110, 58)),
    "grass": ((166, 206, 232), (222, 236, 226), (132, 176, 86), (82, 126, 52)),
    "night": ((10, 14, 34), (42, 48, 92), (40, 40, 66), (14, 14, 28)),
    "city": ((92, 106, 130), (186, 188, 196), (132, 132, 138), (84, 84, 92)),
    "street": ((120, 128, 140), (196, 194, 190), (140, 136, 132), (90, 88, 88)),
    "snow": ((176, 200, 226), (228, 236, 246), (248, 250, 254), (214, 224, 240)),
    "christmas": ((92, 22, 26), (170, 60, 50), (128, 84, 52), (78, 46, 28)),
    "kitchen": ((222, 226, 222), (244, 244, 238), (206, 190, 168), (170, 150, 124)),
    "studio": ((206, 210, 216), (240, 241, 243), (228, 229, 232), (188, 191, 197)),
    "white": ((236, 237, 239), (250, 250, 250), (246, 246, 247), (226, 227, 230)),
    "black": ((22, 22, 25), (62, 62, 68), (44, 44, 48), (18, 18, 20)),
    "sunset": ((96, 72, 128), (250, 170, 110), (150, 96, 84), (84, 52, 58)),
    "desert": ((150, 196, 226), (240, 222, 190), (222, 176, 118), (184, 132, 78)),
    "concrete": ((176, 178, 180), (206, 206, 206), (184, 184, 182), (142, 142, 142)),
    "pink": ((240, 190, 200), (250, 222, 226), (244, 204, 210), (222, 168, 178)),
    "blue": ((120, 160, 206), (196, 216, 238), (160, 188, 220), (106, 140, 184)),
    "green": ((140, 176, 150), (206, 224, 206), (166, 194, 168), (112, 146, 118)),
}
LIGHTS = {"night", "city", "christmas", "forest", "sunset", "street", "garden"}  # scenes with bokeh
WORDS = {
    "wooden": "wood",
    "ocean": "sea",
    "park": "grass",
    "stone": "concrete",
    "winter": "snow",
    "dark": "black",
}


class NotAPicture(Exception):
    """The bytes cannot be decoded as a picture."""


@dataclass(frozen=True, slots=True)
class Facts:
    """What a vendor checks about an incoming picture. ``size`` is (width, height) in pixels."""

    format: str
    size: tuple[int, int]
    transparent: bool


def look(content: bytes) -> Facts:
    """Format, size and transparency; NotAPicture when the bytes are no whole picture.

    A picture above 5000 x 5000 px is judged by its header alone: nobody accepts one, and it may be a bomb.
    """
    facts = _header(content)
    if facts.size[0] * facts.size[1] > MAX_PIXELS:
        return facts
    picture, kind = _decode(content)
    low = picture.getchannel("A").getextrema()[0]
    return Facts(kind, picture.size, isinstance(low, int | float) and low < 255)


def paint(
    source: bytes,
    prompt: str,
    seed: int,
    index: int,
    *,
    max_side: int | None = None,
) -> bytes:
    """The product in front of a new scene, as PNG.

    :param max_side: longest side of the result in pixels; a bigger source is scaled down, aspect kept.
    """
    product = _fitted(source, max_side)
    return encode(compose(product, prompt, seed, index), "png")


def compose(product: Image.Image, prompt: str, seed: int, index: int) -> Image.Image:
    """A scene with the product (RGBA) on it; the prompt may be ``transparent`` or ``#RRGGBB``."""
    if prompt == "transparent":
        return product
    if re.fullmatch("#[0-9A-Fa-f]{6}", prompt):
        canvas = Image.new("RGB", product.size, prompt)
    else:
        canvas = _scene(product, prompt, seed, index)
    canvas.paste(product, mask=product)
    return canvas


def encode(picture: Image.Image, kind: str, **options: Any) -> bytes:
    """A picture as a file. ``kind``: png, jpeg, webp or avif, at documented qualities."""
    settings: dict[str, dict[str, Any]] = {
        "png": {"compress_level": 1},
        "jpeg": {"quality": 80},
        "webp": {"quality": 90, "method": 0},
        "avif": {"quality": 90, "speed": 10},
    }
    if kind == "jpeg" and picture.mode == "RGBA":
        picture = flatten(picture)
    buffer = io.BytesIO()
    picture.save(buffer, kind, **settings[kind], **options)
    return buffer.getvalue()


def flatten(picture: Image.Image, colour: str = "white") -> Image.Image:
    canvas = Image.new("RGB", picture.size, colour)
    canvas.paste(picture, mask=picture)
    return canvas


def cut_out(source: bytes, *, keep_all: bool = False) -> Image.Image:
    """The product as RGBA. Unless ``keep_all``, an opaque picture has its plain background removed first."""
    picture, _ = _decode(source)
    if not keep_all and picture.getchannel("A").getextrema()[0] == 255:
        picture = picture.copy()
        picture.putalpha(_difference_from_border(picture))
    return picture


def scaled(product: Image.Image, scale: float) -> Image.Image:
    """A product (RGBA) resized; untouched when the size stays the same."""
    size = (max(1, round(product.width * scale)), max(1, round(product.height * scale)))
    if size == product.size:
        return product
    # Scaling with premultiplied alpha keeps the colour of transparent pixels out of the edges.
    return product.convert("RGBa").resize(size, Image.Resampling.LANCZOS, reducing_gap=2).convert("RGBA")


def filled(product: Image.Image, size: tuple[int, int], centring: tuple[float, float]) -> Image.Image:
    """A product (RGBA) scaled and cropped to fill ``size``; ``centring`` (0, 0) keeps its top left."""
    premultiplied = product.convert("RGBa")
    return ImageOps.fit(premultiplied, size, Image.Resampling.LANCZOS, centering=centring).convert("RGBA")


def onto(product: Image.Image, background: bytes, *, fill: bool) -> Image.Image:
    """The product on a given picture, which fills the canvas or fits into it."""
    behind = _decode(background)[0].convert("RGB")
    place = ImageOps.fit if fill else ImageOps.pad
    canvas = place(behind, product.size, Image.Resampling.BICUBIC)
    canvas.paste(product, mask=product)
    return canvas


@lru_cache(maxsize=1)
def bomb() -> bytes:
    """A valid PNG of some 20 kB that unpacks to 10,000 x 16,000 px."""
    width, height = 10_000, 16_000
    rows = zlib.compress((b"\0" * (1 + width // 8)) * height, 9)
    header = struct.pack(">IIBBBBB", width, height, 1, 0, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + _chunk(b"IHDR", header) + _chunk(b"IDAT", rows) + _chunk(b"IEND", b"")


def redrawn(content: bytes) -> bytes:
    """The picture with its middle third painted over, as generators do to labels and handles."""
    picture = _decode(content)[0].copy()
    width, height = picture.size
    box = (width // 3, height // 3, 2 * width // 3, 2 * height // 3)
    part = picture.crop(box)
    soft = ImageOps.mirror(part).filter(ImageFilter.GaussianBlur(max(2, width // 60)))
    picture.paste(soft.convert("RGB").convert("HSV").point(lambda value: (value + 40) % 256).convert("RGB"), box)
    return encode(picture, "png")


def blank(content: bytes) -> bytes:
    """A plain picture of the same size."""
    return encode(Image.new("RGB", _decode(content)[0].size, (128, 128, 128)), "png")


def watermark(picture: Image.Image, text: str = "SANDBOX") -> Image.Image:
    """The picture with ``text`` across it, as a vendor marks what a key for trials buys."""
    layer = Image.new("RGBA", picture.size)
    font = ImageFont.load_default(size=max(12, picture.width // 8))
    centre = (picture.width / 2, picture.height / 2)
    ImageDraw.Draw(layer).text(centre, text, fill=(255, 255, 255, 130), font=font, anchor="mm", stroke_width=1)
    marked = picture.convert("RGBA")
    marked.alpha_composite(layer)
    return marked.convert(picture.mode)


def _chunk(name: bytes, content: bytes) -> bytes:
    return struct.pack(">I", len(content)) + name + content + struct.pack(">I", zlib.crc32(name + content))


def _header(content: bytes) -> Facts:
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", Image.DecompressionBombWarning)
            with Image.open(io.BytesIO(content)) as picture:
                return Facts(picture.format or "", picture.size, transparent=False)
    except (OSError, ValueError, SyntaxError, Image.DecompressionBombError) as error:
        raise NotAPicture(str(error)) from error


@lru_cache(maxsize=16)
def _decode(content: bytes) -> tuple[Image.Image, str]:
    try:
        with Image.open(io.BytesIO(content)) as picture:
            return picture.convert("RGBA"), picture.format or ""
    except (OSError, ValueError, SyntaxError, Image.DecompressionBombError) as error:
        raise NotAPicture(str(error)) from error


@lru_cache(maxsize=16)
def _fitted(source: bytes, max_side: int | None) -> Image.Image:
    product = cut_out(source)
    return scaled(product, min(1.0, (max_side or max(product.size)) / max(product.size)))


def _difference_from_border(picture: Image.Image) -> Image.Image:
    corner = picture.convert("RGB").getpixel((0, 0))
    plain = Image.new("RGB", picture.size, corner)
    distance = ImageChops.difference(picture.convert("RGB"), plain).convert("L")
    return distance.point(lambda value: min(255, max(0, value - 12) * 12))


def _scene(product: Image.Image, prompt: str, seed: int, index: int) -> Image.Image:
    """Wall, table, light and shadow, sized for the product."""
    words = [WORDS.get(word, word) for word in re.findall("[a-z]+", prompt.lower())]
    names = [name for name in SCENES if name in words]
    random = np.random.default_rng(_number(prompt, seed, index))
    name = names[0] if names else str(random.choice(["studio", "concrete", "pink", "blue", "green", "oak"]))
    scale = GRID / max(product.size)
    width, height = (max(2, round(side * scale)) for side in product.size)
    alpha = np.asarray(product.getchannel("A").resize((width, height), Image.Resampling.BOX), float) / 255
    floor = _lowest_row(alpha)
    horizon = int(np.clip(floor - height * random.uniform(0.16, 0.26), height * 0.35, height * 0.9))
    grid = _surfaces(name, width, height, horizon, random)
    if name in LIGHTS:
        grid = _bokeh(grid, horizon, random, bright=name in ("night", "city", "christmas"))
    grid = _light(grid, random)
    grid *= _shadow(alpha, floor)[..., None]
    small = Image.fromarray(np.clip(grid, 0, 255).astype(np.uint8), "RGB")
    return small.resize(product.size, Image.Resampling.BICUBIC)


def _number(*parts: object) -> int:
    return int.from_bytes(hashlib.sha256(repr(parts).encode()).digest()[:8], "big")


def _lowest_row(alpha: Array) -> int:
    rows = np.flatnonzero(alpha.max(axis=1) > 0.5)
    return int(rows[-1]) if rows.size else alpha.shape[0] - 1


def _as_array(mask: Image.Image) -> Array:
    """A grey picture as numbers from 0 to 1."""
    return np.asarray(mask, dtype=float) / 255


def _coordinates(width: int, height: int) -> tuple[Array, Array]:
    """The row and the column of every point of the grid, ready to broadcast."""
    return np.arange(height, dtype=float)[:, None], np.arange(width, dtype=float)[None, :]


def _surfaces(name: str, width: int, height: int, horizon: int, random: np.random.Generator) -> Array:
    """Two gradients that meet at a soft horizon, with grain or veins where the material has some."""
    tint = random.normal(0, 5, 3)
    top, wall, back, front = (np.asarray(colour, float) + tint for colour in SCENES[name])
    y = np.arange(height, dtype=float)[:, None, None]
    on_wall = np.clip(y / max(horizon, 1), 0, 1) ** 1.3
    on_table = np.clip((y - horizon) / max(height - horizon, 1), 0, 1)
    walls = top + (wall - top) * on_wall
    table = np.repeat(back + (front - back) * on_table, width, axis=1)
    if name in ("wood", "oak", "kitchen", "christmas"):
        table = table * _grain(width, height, horizon, random)[..., None]
    elif name == "marble":
        table = table * _veins(width, height, random)[..., None]
    edge = 0.5 + 0.5 * np.tanh((y - horizon) / (height * 0.016))
    return walls * (1 - edge) + table * edge


def _grain(width: int, height: int, horizon: int, random: np.random.Generator) -> Array:
    """Boards running away from the viewer, narrower with distance."""
    y, x = _coordinates(width, height)
    depth = np.clip((y - horizon) / max(height - horizon, 1), 0, 1) + 0.35
    across = (x - width / 2) / (width * depth)
    boards: Array = random.uniform(0.93, 1.05, 64)[(np.floor(across * 7).astype(int) + 32) % 64]
    fibres: Array = 1 + 0.035 * np.sin(across * 90 + random.uniform(0, 6) + 2 * np.sin(across * 23))
    return boards * fibres


def _veins(width: int, height: int, random: np.random.Generator) -> Array:
    y, x = (axis / max(width, height) for axis in _coordinates(width, height))
    phase = random.uniform(0, 6, 3)
    wave: Array = x * 9 + y * 14 + 1.5 * np.sin(y * 11 + phase[0]) + np.sin(x * 17 + y * 8 + phase[1])
    vein: Array = np.exp(-8 * np.abs(np.sin(wave + phase[2])))
    return 1 - 0.16 * vein


def _bokeh(grid: Array, horizon: int, random: np.random.Generator, *, bright: bool) -> Array:
    """Soft discs of light on the wall."""
    height, width = grid.shape[:2]
    y, x = _coordinates(width, height)
    glow = np.zeros((height, width, 3), float)
    for _ in range(16):
        radius = width * random.uniform(0.025, 0.075)
        distance = np.hypot(x - random.uniform(0, width), y - random.uniform(0, horizon)) / radius
        disc = np.clip((1.12 - distance) / 0.24, 0, 1) * (0.75 + 0.25 * np.clip(distance, 0, 1))
        colour = np.asarray([255, random.uniform(170, 245), random.uniform(90, 210)], float)
        glow += disc[..., None] * colour * random.uniform(0.1, 0.42 if bright else 0.22)
    wall: Array = np.clip((horizon - y) / (height * 0.03), 0, 1)[..., None]
    return grid + glow * wall


def _light(grid: Array, random: np.random.Generator) -> Array:
    """One soft light from a side, and a vignette."""
    height, width = grid.shape[:2]
    y, x = _coordinates(width, height)
    side = float(random.choice([0.22, 0.78]))
    lamp: Array = np.exp(-(((x / width - side) / 0.45) ** 2) - ((y / height - 0.25) / 0.5) ** 2)
    corner = ((x / width - 0.5) ** 2 + (y / height - 0.5) ** 2) / 0.5
    light: Array = 0.96 + 0.09 * lamp - 0.2 * corner**1.5
    return grid * light[..., None]


def _shadow(alpha: Array, floor: int) -> Array:
    """How much light is left: a soft shadow of the product lying on the table, darkest where it stands."""
    height, width = alpha.shape
    mask = Image.fromarray((alpha * 255).astype(np.uint8), "L")
    lying = Image.new("L", (width, height))
    flat = mask.crop((0, 0, width, floor + 1)).resize((width, max(1, round(floor * 0.10))))
    lying.paste(flat, (0, floor + 2 - round(flat.height * 0.82)))
    contact = Image.new("L", (width, height))
    foot = mask.crop((0, max(0, floor - round(height * 0.05)), width, floor + 1))
    contact.paste(foot.resize((width, max(2, round(height * 0.018)))), (0, floor - round(height * 0.006)))
    wide = _as_array(lying.filter(ImageFilter.GaussianBlur(width * 0.022)))
    tight = _as_array(contact.filter(ImageFilter.GaussianBlur(width * 0.008)))
    return 1 - 0.36 * wide - 0.42 * np.clip(tight * 1.4, 0, 1)
