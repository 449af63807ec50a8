"""No file crashes, hangs or takes more than 512 MB: a corpus of bombs, lies and seeded damage, in a child process.

The child (this module, run as a program) opens every file in every way the package does, and notes what is
raised besides the documented errors, and the peak of its memory. An alarm ends it if one file takes too long.
"""

from __future__ import annotations

import ctypes
import gzip
import io
import json
import random
import signal
import struct
import subprocess
import sys
import time
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pillow_heif
from PIL import Image

from airflow_provider_bgai.imaging.inspect import Inspection, inspect
from airflow_provider_bgai.imaging.prepare import RefusedSourceError, prepare, read_rgba
from airflow_provider_bgai.imaging.verify import (
    NotAPictureError,
    UnpaintedError,
    check_painted,
    open_whole,
    verify_whole,
)
from airflow_provider_bgai.models import SourceLimits
from airflow_provider_bgai.sandbox import paint
from tests.imaging.test_prepare import (
    GREY,
    GREY_ALPHA,
    P3_D50,
    PALETTE,
    RGB,
    RGBA,
    chunk,
    disc,
    icc_profile,
    png,
    samples_of,
    saved,
    with_profile,
)

ROOT = Path(__file__).parents[2]
MB = 1_000_000
LIMITS = (
    SourceLimits(min_side=256, max_side=4096, max_bytes=20_000_000),
    SourceLimits(formats=("png", "jpg", "webp", "avif"), needs_alpha=False, max_side=5000, max_bytes=30_000_000),
)
MUTATIONS = 32  # of each seed
SECONDS = 60  # for one file: some hundred times what the slowest takes on an idle machine


# --- the corpus --------------------------------------------------------------------------------------


def seeds() -> dict[str, bytes]:
    """Small honest files of every kind, to be damaged."""
    photo = disc(64, 24)
    opaque = photo.convert("RGB")
    exif = Image.Exif()
    exif[0x0112], exif[0x010F] = 6, "maker"
    frames = [photo, photo.rotate(90)]
    profile = icc_profile(b"RGB ", 2.2, P3_D50)
    palette = chunk(b"PLTE", bytes(range(96))) + chunk(b"tRNS", b"\0\x40")
    return {
        "rgba.png": png(np.asarray(photo), 8, RGBA),
        "interlaced.png": png(np.asarray(photo), 8, RGBA, interlaced=True),
        "rgba16.png": png(samples_of(16, 4), 16, RGBA),
        "rgb16.png": png(samples_of(16, 3), 16, RGB, chunk(b"tRNS", bytes(6))),
        "grey16.png": png(samples_of(16, 1), 16, GREY, chunk(b"tRNS", bytes(2))),
        "grey-alpha16.png": png(samples_of(16, 2), 16, GREY_ALPHA),
        "grey2.png": png(samples_of(2, 1), 2, GREY, chunk(b"tRNS", b"\0\1")),
        "palette.png": png(samples_of(4, 1), 4, PALETTE, palette),
        "profile.png": with_profile(np.asarray(photo), RGBA, profile),
        "animated.png": saved(photo, "PNG", save_all=True, append_images=frames[1:]),
        "text.png": png(np.asarray(photo), 8, RGBA, chunk(b"zTXt", b"a\0\0" + zlib.compress(b"text" * 99))),
        "plain.jpg": saved(opaque, "JPEG", exif=exif, icc_profile=profile),
        "progressive.jpg": saved(opaque, "JPEG", progressive=True),
        "cmyk.jpg": saved(opaque.convert("CMYK"), "JPEG"),
        "grey.jpg": saved(opaque.convert("L"), "JPEG", exif=exif),
        "lossy.webp": saved(photo, "WEBP", exif=exif, icc_profile=profile),
        "lossless.webp": saved(photo, "WEBP", lossless=True),
        "animated.webp": saved(photo, "WEBP", save_all=True, append_images=frames[1:]),
        "opaque.avif": saved(opaque, "AVIF", speed=10, exif=exif, icc_profile=profile),
        "alpha.avif": saved(photo, "AVIF", speed=10),
        "animated.avif": saved(photo, "AVIF", speed=10, save_all=True, append_images=frames[1:]),
        "animated.gif": saved(photo, "GIF", save_all=True, append_images=frames[1:]),
        "alpha.bmp": bitmap(photo),
        "palette.bmp": saved(opaque.quantize(16), "BMP"),
        "plain.tiff": saved(photo, "TIFF", exif=exif, icc_profile=profile),
        "pages.tiff": saved(photo, "TIFF", compression="tiff_lzw", save_all=True, append_images=frames[1:]),
        "jpeg.tiff": saved(opaque, "TIFF", compression="jpeg"),
        "deep.tiff": saved(Image.fromarray(samples_of(16, 1)[..., 0].astype(np.uint16)), "TIFF"),
        "alpha.heic": heic(photo),
        "several.jpg": saved(opaque, "MPO", save_all=True, append_images=[opaque]),
    }


def bitmap(image: Image.Image) -> bytes:
    """A BMP of 32 bits, with a header of version 4 that says where alpha lies."""
    pixels = np.asarray(image)[::-1, :, [2, 1, 0, 3]].tobytes()
    head = struct.pack("<IiiHHIIiiII", 108, *image.size, 1, 32, 3, len(pixels), 0, 0, 0, 0)
    head += struct.pack("<IIII4s48x", 0xFF0000, 0xFF00, 0xFF, 0xFF000000, b"BGRs")
    return b"BM" + struct.pack("<IHHI", 122 + len(pixels), 0, 0, 122) + head + pixels


def heic(image: Image.Image) -> bytes:
    file = io.BytesIO()
    pillow_heif.from_pillow(image).save(file, quality=90)
    return file.getvalue()


def png_chunks(data: bytes) -> list[tuple[bytes, bytes]]:
    found, at = [], 8
    while at + 8 <= len(data):
        length = int.from_bytes(data[at : at + 4])
        found.append((data[at + 4 : at + 8], data[at + 8 : at + 8 + length]))
        at += 12 + length
    return found


def damage(data: bytes, chance: random.Random) -> bytes:
    """One to four seeded injuries, each of a random kind, to the raw bytes."""
    damaged = bytearray(data)
    for _ in range(chance.randint(1, 4)):
        at = chance.randrange(len(damaged)) if chance.random() < 0.5 else chance.randrange(min(200, len(damaged)))
        end = min(len(damaged), at + chance.choice([1, 4, 16, 200]))
        kind = chance.randrange(7)
        if kind == 0:
            damaged[at] ^= 1 << chance.randrange(8)
        elif kind == 1:
            damaged[at:end] = chance.randbytes(end - at)
        elif kind == 2:
            damaged[at : at + 4] = chance.choice([b"\0\0\0\0", b"\xff" * 4, b"\x7f\xff\xff\xff", b"\0\0\xff\xff"])
        elif kind == 3:
            damaged[at:at] = chance.randbytes(chance.choice([1, 4, 100]))
        elif kind == 4:
            del damaged[at:end]
        elif kind == 5:
            damaged[at:at] = damaged[at:end] * chance.choice([1, 50])
        else:
            del damaged[max(20, at) :]
        if len(damaged) < 8:
            return bytes(damaged)
    return bytes(damaged)


def damage_within(data: bytes, chance: random.Random) -> bytes:
    """A PNG whose chunks are swapped, doubled, dropped or damaged, with right checksums: it reaches the decoder."""
    chunks = png_chunks(data)
    for _ in range(chance.randint(1, 3)):
        at = chance.randrange(len(chunks))
        name, content = chunks[at]
        kind = chance.randrange(5)
        if kind == 0:
            other = chance.randrange(len(chunks))
            chunks[at], chunks[other] = chunks[other], chunks[at]
        elif kind == 1:
            chunks.insert(at, chance.choice(chunks))
        elif kind == 2 and len(chunks) > 1:
            del chunks[at]
        elif kind == 3 and name == b"IDAT":
            try:
                pixels = zlib.decompress(content)
            except zlib.error:
                continue
            chunks[at] = name, zlib.compress(damage(pixels, chance)) if len(pixels) > 8 else b""
        elif content:
            chunks[at] = name, damage(content, chance)
    return data[:8] + b"".join(chunk(name, content) for name, content in chunks)


def flat(side: int, depth: int, bands: int, colours: int) -> bytes:
    """A huge, valid PNG of one colour, in a few hundred kB."""
    packer = zlib.compressobj(9)
    row = b"\0" + b"\x80" * (side * bands * depth // 8)
    pixels = b"".join(packer.compress(row) for _ in range(side)) + packer.flush()
    header = struct.pack(">IIBBBBB", side, side, depth, colours, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", pixels) + chunk(b"IEND", b"")


def with_dimensions(jpeg: bytes, width: int, height: int) -> bytes:
    at = max(jpeg.find(b"\xff\xc0"), jpeg.find(b"\xff\xc2"))
    return jpeg[: at + 5] + struct.pack(">HH", height, width) + jpeg[at + 9 :]


def many_scans(side: int, scans: int) -> bytes:
    """A progressive JPEG whose last scan is repeated: every one passes over all pixels."""
    jpeg = with_dimensions(saved(Image.new("RGB", (64, 64)), "JPEG", progressive=True), side, side)
    last = jpeg.rindex(b"\xff\xda")
    return jpeg[:last] + jpeg[last:-2] * scans + jpeg[-2:]


def bombs() -> Iterator[tuple[str, bytes]]:
    """Files made to cost memory or time, each in its own way."""
    tiny = samples_of(8, 4, 8, 8)
    megabyte = zlib.compress(bytes(1_000_000), 9)
    hundred = zlib.compress(bytes(100_000_000), 9)
    text = chunk(b"zTXt", b"a\0\0" + megabyte)
    international = chunk(b"iTXt", b"a\0\1\0\0\0" + megabyte)
    yield "10,000 x 16,000 px", paint.bomb()
    yield "PNG of 64 megapixels", flat(8000, 8, 4, RGBA)
    yield "PNG of 37 megapixels, 16 bits", flat(6120, 16, 3, RGB)
    yield "PNG of 2^31 - 1 px", with_header(png(tiny, 8, RGBA), 2**31 - 1, 2**31 - 1)
    yield "PNG one px wide", with_header(png(tiny, 8, RGBA), 1, 60_000_000)
    yield "40 zTXt", png(tiny, 8, RGBA, *[text] * 40)
    yield "1,000 zTXt", png(tiny, 8, RGBA, *[text] * 1000)
    yield "40 iTXt", png(tiny, 8, RGBA, *[international] * 40)
    yield "zTXt of 100 MB", png(tiny, 8, RGBA, chunk(b"zTXt", b"a\0\0" + hundred))
    yield "profile of 100 MB", png(tiny, 8, RGBA, chunk(b"iCCP", b"a\0\0" + hundred))
    yield "EXIF of 10 MB", png(tiny, 8, RGBA, chunk(b"eXIf", b"II*\0\x08\0\0\0\xff\xff" + bytes(10 * MB)))
    yield "900,000 unknown chunks", png(tiny, 8, RGBA, chunk(b"abCd", b"") * 900_000)
    yield "900,000 empty IDAT", png(tiny, 8, RGBA, chunk(b"IDAT", b"") * 900_000)
    yield "90,000 empty IDAT", png(tiny, 8, RGBA, chunk(b"IDAT", b"") * 90_000)
    yield "IDAT of 100 MB", b"".join([png(tiny, 8, RGBA)[:33], chunk(b"IDAT", hundred), chunk(b"IEND", b"")])
    yield "2^31 frames", png(tiny, 8, RGBA, chunk(b"acTL", struct.pack(">II", 2**31 - 1, 0)))
    yield "chunk of 2 GB", png(tiny, 8, RGBA)[:33] + b"\x7f\xff\xff\xffIDAT" + bytes(100)
    small = saved(Image.new("RGB", (64, 64), "red"), "JPEG")
    yield "JPEG of 65,500 x 65,500 px", with_dimensions(small, 65_500, 65_500)
    yield "JPEG of 45 megapixels, most of them missing", with_dimensions(small, 6740, 6740)
    yield "many scans", many_scans(6500, 5000) + bytes(200_000)
    yield "90 scans", many_scans(5000, 80) + bytes(200_000)
    yield "1,000,000 segments", small[:2] + b"\xff\xe1\0\2" * 1_000_000 + small[2:]
    yield "1,000,000 fill bytes", small[:2] + b"\xff" * 1_000_000 + small[2:]
    yield "progressive CMYK", saved(half(5000).convert("RGB").convert("CMYK"), "JPEG", progressive=True)
    yield "WebP of 16 megapixels", saved(half(4080), "WEBP", method=0)
    yield "WebP of 100 megapixels", saved(Image.new("RGB", (10_000, 10_000)), "WEBP", method=0, lossless=True)
    yield "WebP that claims 16,384 x 16,384 px", claim_canvas(saved(disc(64, 24), "WEBP", exif=b"Exif\0\0a"))
    yield "AVIF of 14 megapixels", saved(half(3775), "AVIF", speed=10, quality=30)
    yield "GIF of 64 megapixels", saved(Image.new("P", (8000, 8000)), "GIF")
    gif = saved(disc(64, 24), "GIF")
    yield "GIF that claims 65,535 x 65,535 px", gif[:6] + b"\xff\xff\xff\xff" + gif[10:]
    yield "GIF of 300,000 frames", gif[:-1] + gif[gif.index(b",") : -1] * 1000 + b";"
    bmp = bitmap(disc(64, 24))
    yield "BMP that claims 2^31 px", bmp[:18] + b"\xff\xff\xff\x7f" * 2 + bmp[26:]
    yield "TIFF of 18 megapixels", saved(half(4330), "TIFF", compression="tiff_lzw")
    yield "TIFF of 25 megapixels", saved(half(5000), "TIFF", compression="tiff_lzw")
    for name, width, length in (("wide", 2**31 - 16, 16), ("large", 32_000, 32_000), ("of 2^62 px", 2**31, 2**31)):
        yield f"TIFF whose tile is {name}", tiled(width, length)
    yield "HEIC of 21 megapixels", heic(half(4620))
    sized = heic(disc(64, 24))
    ispe = sized.index(b"ispe") + 8
    yield "HEIC that claims 2^31 px", sized[:ispe] + b"\x7f\xff\xff\xff" * 2 + sized[ispe + 8 :]
    yield "HEIC that claims 8,000 x 8,000 px", sized[:ispe] + struct.pack(">II", 8000, 8000) + sized[ispe + 8 :]
    sized = saved(disc(64, 24), "AVIF", speed=10)
    ispe = sized.index(b"ispe") + 8
    yield "AVIF that claims 2^31 px", sized[:ispe] + b"\x7f\xff\xff\xff" * 2 + sized[ispe + 8 :]


def tiled(width: int, length: int) -> bytes:
    """A small TIFF in one tile, which claims to be far larger."""
    packed = zlib.compress(bytes(1_000_000))
    entries = [(256, 4, 64), (257, 4, 64), (258, 3, 8), (259, 3, 8), (262, 3, 1), (277, 3, 1), (322, 4, width)]
    entries += [(323, 4, length), (324, 4, 8), (325, 4, len(packed))]
    table = b"".join(struct.pack("<HHII", tag, kind, 1, value) for tag, kind, value in entries)
    return b"II*\0" + struct.pack("<I", 8 + len(packed)) + packed + struct.pack("<H", len(entries)) + table + bytes(4)


def with_header(data: bytes, width: int, height: int) -> bytes:
    header = struct.pack(">II", width, height) + data[24:29]
    return data[:8] + chunk(b"IHDR", header) + data[33:]


def claim_canvas(webp: bytes) -> bytes:
    at = webp.index(b"VP8X") + 12
    return webp[:at] + b"\xff\x3f\0" * 2 + webp[at + 6 :]


def lies() -> Iterator[tuple[str, bytes]]:
    """What comes with status 200 and the name of a picture, and what pretends to be one."""
    image = disc(64, 24)
    others = {
        "tga": saved(image, "TGA"),
        "psd": b"8BPS\0\1" + bytes(100),
        "jpeg xl": b"\xff\x0a" + bytes(100),
        "ico": saved(image, "ICO"),
        "ppm": saved(image.convert("RGB"), "PPM"),
        "jpeg 2000": saved(image, "JPEG2000"),
        "pdf": saved(image.convert("RGB"), "PDF"),
        "eps": saved(image.convert("RGB"), "EPS"),
        "svg": b"<svg xmlns='http://www.w3.org/2000/svg'><image href='file:///etc/passwd'/></svg>",
        "entities": b'<?xml version="1.0"?><!DOCTYPE a [<!ENTITY a "aaaa"><!ENTITY b "&a;&a;&a;">]><svg>&b;</svg>',
        "html": b"<!doctype html><title>502 Bad Gateway</title>",
        "json": b'{"status": 500, "message": "internal"}',
        "xml": b'<?xml version="1.0"?><Error><Code>AccessDenied</Code></Error>',
        "gzip": gzip.compress(saved(image, "PNG")),
        "zip": b"PK\3\4" + bytes(100),
        "text": "Grüße".encode("utf-16"),
        "zeros": bytes(1000),
        "empty": b"",
    }
    magic = {
        "png": b"\x89PNG\r\n\x1a\n",
        "jpg": b"\xff\xd8\xff",
        "webp": b"RIFF\0\0\0\0WEBP",
        "avif": b"\0\0\0\x1cftypavif",
        "gif": b"GIF89a",
        "bmp": b"BM\0\0\0\0\0\0\0\0\x36\0\0\0\x28\0",
        "tiff": b"II*\0\x08\0\0\0",
        "heic": b"\0\0\0\x1cftypheic",
    }
    for name, data in others.items():
        yield name, data
        for kind, head in magic.items():
            yield f"{name} behind the magic of {kind}", head + data
            yield f"{name} under the magic of {kind}", head + data[len(head) :]
        yield f"{name} with WEBP at 8", data[:8] + b"WEBP" + data[12:]
        yield f"{name} with ftypavif at 4", data[:4] + b"ftypavif" + data[12:]


def half(side: int) -> Image.Image:
    """A square, half of it transparent. Made anew for each file: one that is kept would count as that one's memory."""
    square = Image.new("RGBA", (side, side), (200, 20, 20, 255))
    square.paste((0, 0, 0, 0), (0, 0, side // 2, side))
    return square


def corpus() -> Iterator[tuple[str, bytes]]:
    yield from bombs()
    yield from lies()
    for number, (name, data) in enumerate(seeds().items()):
        yield name, data
        chance = random.Random(number)
        for count in range(MUTATIONS):
            yield f"{name}, damaged, {count}", damage(data, chance)
            if name.endswith(".png"):
                yield f"{name}, damaged within, {count}", damage_within(data, chance)
        if name == "profile.png":
            for count in range(MUTATIONS):
                profile = damage(icc_profile(b"RGB ", 2.2, P3_D50), chance)
                yield f"profile damaged, {count}", with_profile(samples_of(8, 4), RGBA, profile)


# --- the child ---------------------------------------------------------------------------------------


def main() -> None:
    import resource

    # A last resort, so that a mistake here fails this program and not the machine.
    resource.setrlimit(resource.RLIMIT_AS, (6_000 * MB, 6_000 * MB))
    trim = ctypes.CDLL(None).malloc_trim
    cut_out = seeds()["rgba.png"]
    source = read_rgba(cut_out)
    ways: dict[str, Callable[[bytes], object]] = {
        "verify_whole": verify_whole,
        "check_painted": lambda data: check_painted(open_whole(io.BytesIO(data))[1], source),
        "prepare": lambda data: prepare(data, LIMITS[0]),
        "prepare any": lambda data: prepare(data, LIMITS[1]),
    }
    for name, data in corpus():
        began = time.perf_counter()
        report: dict[str, Any] = {"name": name, "bytes": len(data), "taken": [], "wrong": []}
        trim(0)  # what the files before have freed is not this one's
        Path("/proc/self/clear_refs").write_text("5")  # forget the peak so far
        for way, use in ways.items():
            try_out(name, way, use, data, report)
        status = Path("/proc/self/status").read_text()
        report["peak"] = int(status.partition("VmHWM:")[2].split()[0]) * 1024
        # Beyond reading, comparing takes memory of its own.
        try_out(name, "inspect", lambda data: inspect(io.BytesIO(data), cut_out, Inspection(), None), data, report)
        report["seconds"] = round(time.perf_counter() - began, 3)
        sys.stdout.write(f"{json.dumps(report)}\n")


def try_out(name: str, way: str, use: Callable[[bytes], object], data: bytes, report: dict[str, Any]) -> None:
    sys.stderr.write(f"{name}: {way}\n")
    signal.alarm(SECONDS)
    try:
        use(data)
        report["taken"].append(way)
    except (NotAPictureError, RefusedSourceError, UnpaintedError) as error:
        if not str(error):
            report["wrong"].append(f"{way}: says nothing")
    except Exception as error:  # noqa: BLE001 - the point of this program is to find these
        report["wrong"].append(f"{way}: {error!r}")
    signal.alarm(0)


def test_nothing_crashes_hangs_or_takes_more_than_512_mb():
    command = [sys.executable, "-W", "ignore", "-m", "tests.imaging.test_hostile"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, f"ended by {done.returncode} in {done.stderr.splitlines()[-1]}"
    reports = [json.loads(line) for line in done.stdout.splitlines()]
    assert len(reports) >= 1000
    assert [report for report in reports if report["wrong"]] == []
    assert [report for report in reports if report["peak"] > 512 * MB] == []
    # The corpus is no strawman: the honest seeds are taken, some damage goes unnoticed, most is refused.
    taken = {report["name"] for report in reports if report["taken"]}
    assert set(seeds()) <= taken
    assert len(seeds()) < len(taken) < len(reports) / 2


if __name__ == "__main__":
    main()
