"""Does an independent reader find the label? exiftool reads every picture under a folder or an S3 prefix.

    python -m benchmarks.exiftool                            the sample products, labelled in every format
    python -m benchmarks.exiftool published/                 a folder
    python -m benchmarks.exiftool s3://shop/pictures         what is published, through the connection aws_default

Ends with 1 if a picture has no DigitalSourceType of the IPTC vocabulary. Needs exiftool (Debian:
libimage-exiftool-perl, macOS: brew install exiftool), which no Python package brings along; `make test` asks
exiv2 instead.
"""

from __future__ import annotations

import io
import json
import shutil
import subprocess
import sys
import tempfile
from collections import Counter
from pathlib import Path

from airflow_provider_bgai.imaging.label import VOCABULARY, Label, write_label
from airflow_provider_bgai.models import picture_type

SAMPLES = Path(__file__).parents[1] / "demo" / "catalogue" / "images"
FORMATS = {"png": "PNG", "jpg": "JPEG", "webp": "WEBP", "avif": "AVIF"}


def label_samples(folder: Path) -> None:
    """Every sample product in every format, with a label."""
    from PIL import Image

    label = Label(vendor="sample", model="1", created=1_800_000_000, id="sample-1")
    for product in sorted(SAMPLES.glob("*.png")):
        with Image.open(product) as image:
            pixels = image.convert("RGBA")
        for extension, name in FORMATS.items():
            buffer = io.BytesIO()
            (pixels.convert("RGB") if extension == "jpg" else pixels).save(buffer, name)
            (folder / f"{product.stem}.{extension}").write_bytes(write_label(buffer.getvalue(), label))


def fetch(prefix: str, folder: Path) -> None:
    """The objects under a prefix, except for the package's own records."""
    from airflow_provider_bgai.storage import Storage

    storage = Storage("aws_default")
    for found in storage.list(prefix):
        if "/_bgai/" not in found.uri:
            target = folder / found.uri.removeprefix("s3://")
            target.parent.mkdir(parents=True, exist_ok=True)
            target.write_bytes(storage.read(found.uri))


def source_types(paths: list[Path]) -> dict[str, str]:
    """Path to DigitalSourceType as exiftool reads it; empty where there is none."""
    command = ["exiftool", "-json", "-XMP-iptcExt:DigitalSourceType", "-@", "-"]
    # It ends with 1 if one of the files cannot be read; that file is then missing in the answer.
    done = subprocess.run(command, input="\n".join(map(str, paths)), capture_output=True, text=True, check=False)
    if not done.stdout:
        raise SystemExit(f"exiftool failed: {done.stderr}")
    return {each["SourceFile"]: each.get("DigitalSourceType", "") for each in json.loads(done.stdout)}


def main(target: str | None = None) -> int:
    if shutil.which("exiftool") is None:
        raise SystemExit("exiftool is missing: apt install libimage-exiftool-perl, or brew install exiftool")
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        if target is None:
            label_samples(folder)
        elif target.startswith("s3://"):
            fetch(target, folder)
        else:
            folder = Path(target)
        kinds = {path: _kind(path) for path in sorted(folder.rglob("*")) if path.is_file()}
        pictures = [path for path, kind in kinds.items() if kind]
        if not pictures:
            raise SystemExit(f"no pictures under {target}")
        found = source_types(pictures)
        labelled = {path: found.get(str(path), "").startswith(VOCABULARY) for path in pictures}
        print(f"{'format':8} {'pictures':>8} {'labelled':>8}")
        for kind, count in sorted(Counter(kinds[path] for path in pictures).items()):
            print(f"{kind:8} {count:8} {sum(labelled[path] for path in pictures if kinds[path] == kind):8}")
        for path in pictures:
            if not labelled[path]:
                print(f"no label: {path.relative_to(folder)}")
    return 0 if all(labelled.values()) else 1


def _kind(path: Path) -> str:
    with path.open("rb") as file:
        kind = picture_type(file.read(16))
    return kind[0] if kind else ""


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:2]))
