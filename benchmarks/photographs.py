"""Preparing some 4,200 real cut-outs, held against what libvips reads from the same files.

Fetched at run time, with the tools a machine has for it: Debian's ``tuxpaint-stamps-default`` (``apt-get`` and
``dpkg-deb``) and npm's ``@lobehub/fluent-emoji-3d`` (``npm``). Every picture is read and prepared for PicWish.
Of every tenth stamp, libvips makes the variants that the collections lack: 16 bits, Display P3, a printer's
CMYK, turned by EXIF. libvips has its own reader for PNG and its own arithmetic; the decoders of WebP and JPEG and
the colour engine are the same libraries in another build. Ends with 1 on any difference.

``python -m benchmarks.photographs [FOLDER]``: keeps and reuses what is fetched there.
"""

from __future__ import annotations

import re
import subprocess
import sys
import tarfile
import tempfile
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np

STAMPS, EMOJI = "tuxpaint-stamps-default", "@lobehub/fluent-emoji-3d"
MIN_SIDE, MAX_SIDE, MAX_BYTES = 256, 4096, 20_000_000  # PicWish's


def run(*command: str, folder: Path) -> None:
    try:
        done = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False)
    except FileNotFoundError:
        sys.exit(f"{command[0]} is needed to fetch the photographs")
    if done.returncode:
        sys.exit(f"{' '.join(command)}: {done.stderr.strip()}")


def fetch(folder: Path) -> tuple[list[Path], list[Path]]:
    """The stamps and the emoji, downloaded and unpacked where they are not yet."""
    stamps, emoji = folder / "stamps", folder / "emoji"
    folder.mkdir(parents=True, exist_ok=True)
    if not stamps.exists():
        run("apt-get", "download", STAMPS, folder=folder)
        (package,) = folder.glob(f"{STAMPS}_*.deb")
        run("dpkg-deb", "-x", package.name, "stamps", folder=folder)
    if not emoji.exists():
        run("npm", "pack", EMOJI, folder=folder)
        (package,) = folder.glob("lobehub-fluent-emoji-3d-*.tgz")
        with tarfile.open(package) as archive:
            archive.extractall(emoji, filter="data")
    return sorted(stamps.rglob("*.png")), sorted(emoji.rglob("*.webp"))


def reference(data: bytes) -> tuple[Any, bool]:
    """The upright sRGB pixels as RGBA numbers by libvips, and whether a colour profile was applied."""
    import pyvips

    image = pyvips.Image.new_from_buffer(data, "").autorot()
    profiled = "icc-profile-data" in image.get_fields()
    if profiled:
        image = image.icc_transform("srgb", embedded=True, intent="relative", black_point_compensation=True)
    if image.format == "ushort" and not profiled:
        return np.rint(image.numpy() / 257).astype(int), False  # libvips itself would cut off the lower byte
    image = image.colourspace("srgb")
    if not image.hasalpha():
        image = image.addalpha()
    return image.numpy().astype(int), profiled


def compare(name: str, data: bytes, tolerance: int, found: Counter[str]) -> list[str]:
    """What is wrong with how a file is read and prepared; counts what was done with it."""
    from airflow_provider_bgai.imaging.prepare import RefusedSourceError, prepare, read_rgba
    from airflow_provider_bgai.models import SourceLimits

    expected, profiled = reference(data)
    pixels = np.asarray(read_rgba(data)).astype(int)
    if pixels.shape != expected.shape:
        return [f"{name}: {pixels.shape} where {expected.shape} is right"]
    # A pixel that cannot be seen may have any colour; an sRGB profile moves others by one at most.
    off = np.abs(pixels - expected) * np.where(expected[..., 3:] == 0, [0, 0, 0, 1], 1)
    wrong = []
    if off.max() > (max(tolerance, 1) if profiled else tolerance):
        wrong.append(f"{name}: read with differences of up to {off.max()}")

    alpha = expected[..., 3]
    limits = SourceLimits(min_side=MIN_SIDE, max_side=MAX_SIDE, max_bytes=MAX_BYTES)
    try:
        prepared = prepare(data, limits)
    except RefusedSourceError as error:
        found[f"refused: {str(error).split(';')[0]}"] += 1
        if (alpha < 16).mean() >= 0.001 and (alpha >= 16).mean() >= 0.001:
            wrong.append(f"{name}: refused, and it is a cut-out")
        return wrong
    if (alpha < 16).mean() < 0.001:
        wrong.append(f"{name}: taken, and it is no cut-out")
    again, _ = reference(prepared.data)
    x, y, width, height = prepared.box
    inside = again[y : y + height, x : x + width]
    if inside.shape != pixels.shape or np.abs(inside - pixels)[pixels[..., 3] > 0].max(initial=0):
        wrong.append(f"{name}: prepared pixels differ from the source's")
    if again[..., 3].sum() != pixels[..., 3].sum():
        wrong.append(f"{name}: something stands beside the source")
    if min(again.shape[:2]) < MIN_SIDE or max(again.shape[:2]) > MAX_SIDE or len(prepared.data) > MAX_BYTES:
        wrong.append(f"{name}: outside the limits")
    if not prepared.data.startswith(b"\x89PNG") or (prepared.data != data) != bool(prepared.notes):
        wrong.append(f"{name}: no PNG, or changed without a note")
    edge = max(alpha[0].max(), alpha[-1].max(), alpha[:, 0].max(), alpha[:, -1].max()) >= 128
    if edge != any("touches the edge" in warning for warning in prepared.warnings):
        wrong.append(f"{name}: its edges are judged wrongly")
    found.update(re.sub(r"(?<= )\d.*", "…", note) for note in prepared.notes or ("passed on byte for byte",))
    found.update(warning.partition("(")[0].strip() for warning in prepared.warnings)
    return wrong


def variants(data: bytes) -> dict[str, tuple[bytes, int]]:
    """The same picture as files of kinds the collections lack, with the difference of levels that is allowed."""
    import pyvips

    image = pyvips.Image.new_from_buffer(data, "").colourspace("srgb")
    if not image.hasalpha():
        image = image.addalpha()
    ramp = (image.cast("ushort") * 257 + 100).cast("ushort").copy(interpretation="rgb16")
    colour, alpha = image.extract_band(0, n=3), image.extract_band(3)
    wide = colour.icc_transform("p3", input_profile="srgb", intent="relative").bandjoin(alpha)
    inks = colour.icc_transform("cmyk", input_profile="srgb", intent="relative")
    turned = image.rot270()
    turned = turned.copy()
    turned.set_type(pyvips.GValue.gint_type, "orientation", 6)
    return {
        "16 bits": (ramp.pngsave_buffer(keep="none"), 0),
        "Display P3": (wide.pngsave_buffer(keep="icc"), 2),
        "CMYK": (inks.jpegsave_buffer(Q=95, keep="icc"), 2),
        "turned": (turned.pngsave_buffer(keep="exif"), 0),
    }


def check(folder: Path) -> list[str]:
    """Every difference found; prints what was done with how many."""
    stamps, emoji = fetch(folder)
    wrong: list[str] = []
    for title, paths in (("stamps", stamps), ("emoji", emoji)):
        found: Counter[str] = Counter()
        for path in paths:
            wrong += compare(path.name, path.read_bytes(), 0, found)
        print(f"{title}: {len(paths):,} pictures")
        for what, count in found.most_common():
            print(f"  {count:5,}  {what}")
    found = Counter()
    count = 0
    for path in stamps[::10]:
        for kind, (data, tolerance) in variants(path.read_bytes()).items():
            wrong += compare(f"{path.name} as {kind}", data, tolerance, found)
            count += 1
    print(f"variants: {count:,} pictures")
    for what, times in found.most_common():
        print(f"  {times:5,}  {what}")
    return wrong


def main() -> None:
    if len(sys.argv) > 1:
        wrong = check(Path(sys.argv[1]).resolve())
    else:
        with tempfile.TemporaryDirectory() as folder:
            wrong = check(Path(folder))
    for line in wrong[:50]:
        print(line)
    print(f"{len(wrong)} differences")
    sys.exit(bool(wrong))


if __name__ == "__main__":
    main()
