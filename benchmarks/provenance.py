"""Pictures with valid manifests of their vendor's, landed, finished, published: what readers say of them afterwards.

    python -m benchmarks.provenance 1000

Every picture is signed and marked as a vendor would, and lands in a real S3; the files to be published are made of it,
each way in turn: as landed, pasted back, rendered in four formats, each without and with the shop's own signature. A
process of its own then reads every file with C2PA's reader, which trusts nobody, and with exiv2. Needs the extra
``c2pa`` and ``pyexiv2``. Ends with 1 if a manifest does not fit its file, or a mark is gone.
"""

from __future__ import annotations

import asyncio
import io
import itertools
import json
import os
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from airflow_provider_bgai.buying.record import Call
    from airflow_provider_bgai.hooks.base import BackgroundHook
    from airflow_provider_bgai.layout import Layout
    from airflow_provider_bgai.storage import Storage

WHERE = {
    "PNG": ("xmp", "text", "exif"),
    "JPEG": ("xmp", "exif", "segment"),
    "WEBP": ("xmp", "exif"),
    "AVIF": ("xmp", "exif"),
}
"""Where in a file of each kind vendors put the mark ``AIGC``."""
WAYS: dict[str, dict[str, Any]] = {
    "labelled": {},
    "pasted": {"paste_back": True},
    "rendered": {
        "renditions": {
            kind: {"width": 200, "height": 150, "fit": fit, "format": kind}
            for kind, fit in (("jpeg", "pad"), ("png", "inside"), ("webp", "extend"), ("avif", "inside"))
        }
    },
}
PLACES = [(kind, where) for kind, places in WHERE.items() for where in places]
TURNS = [(*place, way, signed) for place, way, signed in itertools.product(PLACES, WAYS, (False, True))]
"""Kind of the vendor's file, place of its mark, way of finishing, whether the shop signs."""
SIDE = 240


def product() -> bytes:
    """The shop's own cut-out: a disc on nothing, as large as the pictures are."""
    from PIL import Image, ImageDraw

    cutout = Image.new("RGBA", (SIDE, SIDE))
    ImageDraw.Draw(cutout).ellipse((60, 60, 180, 180), fill=(200, 40, 40, 255))
    file = io.BytesIO()
    cutout.save(file, "PNG")
    return file.getvalue()


def landed(storage: Storage, layout: Layout, hook: BackgroundHook, name: str, picture: bytes) -> Call:
    """A call with one picture that has landed, lying where the cut-out lies."""
    from airflow_provider_bgai.buying.landing import land
    from airflow_provider_bgai.buying.record import Call
    from airflow_provider_bgai.imaging.fidelity import Placement, Verdict
    from airflow_provider_bgai.imaging.inspect import Inspection
    from airflow_provider_bgai.layout import PictureName
    from airflow_provider_bgai.models import Generation

    call = Call(
        call_id=f"{name:0>32}",
        fingerprint=f"{name:0>64}",
        number=1,
        run="r",
        owner="r/0",
        conn_id=hook.conn_id,
        vendor=hook.vendor,
        model="m1",
        sent_at=1_800_000_000,
        answer_by=1_800_000_000,
        inspection=Inspection(thresholds=None),
    )

    def place(index: int, count: int, sha256: str, extension: str, good: bool) -> str:
        return layout.picture(PictureName(call.fingerprint, 1, index, count), sha256, extension)

    def keep(index: int, count: int, extension: str) -> str:
        return layout.delivered(call.call_id, index, count, extension)

    generation = Generation(vendor=hook.vendor, state="succeeded", images=(picture,))
    landing = asyncio.run(land(hook, generation, storage, call, None, place, keep))
    verdict = Verdict(faithful=True, reasons=(), placement=Placement(0, 0, 1, 1))
    images = tuple(it.moved(layout.relative).model_copy(update={"fidelity": verdict}) for it in landing.images)
    return call.model_copy(update={"state": "landed", "images": images, "warnings": landing.warnings})


def published(storage: Storage, layout: Layout, call: Call, way: str, signed: bool) -> Iterator[tuple[str, bytes]]:
    """The files to be published of a call: the ending of their names, and their bytes."""
    from functools import partial

    from airflow_provider_bgai.catalogue.finishing import Finishing, finish
    from airflow_provider_bgai.imaging.sign import sign
    from tests.imaging.signed import CERTIFICATES, KEY, pem

    finishing = Finishing.model_validate({**WAYS[way], "sign": signed})
    signer = partial(sign, certificate_pem=CERTIFICATES, key_pem=pem(KEY))
    files, problems = finish(storage, layout, call, finishing, source=product(), sign=signer)
    if problems:
        raise SystemExit("; ".join(problems))
    for file in files or call.images:
        yield file.uri.rpartition(".")[2], storage.read(layout.absolute(file.uri))


def looked_at(path: Path) -> dict[str, Any]:
    """What independent readers find in a file: how valid its manifest is, those of its ingredients, its marks."""
    import c2pa
    import pyexiv2

    pyexiv2.registerNs("http://www.tc260.org.cn/ns/AIGC/1.0/", "TC260")
    kind = {"jpg": "jpeg"}.get(path.suffix[1:], path.suffix[1:])
    with pyexiv2.ImageData(path.read_bytes()) as image:
        xmp, comment = image.read_xmp(), image.read_exif().get("Exif.Photo.UserComment", "")
    body = path.read_bytes()
    in_exif = b'"AIGC"' in bytes(map(int, comment.split()))
    aigc = "Xmp.TC260.AIGC" in xmp or in_exif or b"tEXtAIGC\0" in body or b"AIGC{" in body
    found = {"credit": xmp.get("Xmp.photoshop.Credit"), "aigc": aigc, "system": xmp.get("Xmp.iptcExt.AISystemUsed")}
    reader = c2pa.Reader.try_create(f"image/{kind}", io.BytesIO(body))
    if reader is None:
        return {**found, "state": "none", "vendors": []}
    with reader:
        store, state = json.loads(reader.json()), reader.get_validation_state()
    manifest = store["manifests"][store["active_manifest"]]
    wrong = [
        f"{it['title']}: {failure['code']}"
        for it in manifest.get("ingredients", ())
        for failure in it.get("validation_results", {}).get("activeManifest", {}).get("failure", ())
        if failure["code"] != "signingCredential.untrusted"
    ]
    generators = [it["claim_generator_info"][0]["name"] for it in store["manifests"].values()]
    return {**found, "state": state, "vendors": generators, "wrong": wrong}


def read_apart(folder: Path) -> dict[str, dict[str, Any]]:
    """:func:`looked_at` every file of a folder, in a process that made none of them."""
    arguments = [sys.executable, "-m", "benchmarks.provenance", "--read", str(folder)]
    done = subprocess.run(arguments, check=True, capture_output=True, text=True)
    read: dict[str, dict[str, Any]] = json.loads(done.stdout)
    return read


def faults(name: str, found: dict[str, Any]) -> list[str]:
    """What is wrong with a file, by what was found in it. Its name says what it should be."""
    wrong = list(found.get("wrong", ()))
    if found["state"] == "Invalid":
        wrong.append("its manifest does not fit it")
    expected = "none" if "-unsigned" in name else "Valid"
    if found["state"] not in (expected, "Trusted", "Invalid") or (found["state"] == "none") != (expected == "none"):
        wrong.append(f"its manifest is {found['state']}")
    if expected != "none" and "Acme Painter" not in found["vendors"]:
        wrong.append("the vendor's manifest is gone")
    if found["credit"] != "Made by Acme" or not found["aigc"]:
        wrong.append("a mark of the vendor's is gone")
    return wrong


def main(count: int) -> int:
    from demo.services import seaweedfs
    from tests.imaging.signed import marked, signed_by_vendor

    with tempfile.TemporaryDirectory() as folder, seaweedfs(Path(folder) / "s3") as s3:
        os.environ["AIRFLOW_CONN_AWS_DEFAULT"] = s3.aws_connection()
        os.environ["AIRFLOW_CONN_PICWISH_DEFAULT"] = json.dumps({"conn_type": "bgai_picwish", "password": "a-key"})
        from airflow_provider_bgai.hooks import get_hook
        from airflow_provider_bgai.layout import Layout
        from airflow_provider_bgai.storage import Storage

        storage, layout, hook = Storage(), Layout(f"s3://{s3.bucket}/shop"), get_hook("picwish_default")
        out = Path(folder) / "published"
        out.mkdir()
        began, claims = time.process_time(), Counter[str]()
        for number, (kind, where, way, signed) in zip(range(count), itertools.cycle(TURNS), strict=False):
            came = signed_by_vendor(marked(kind, where, SIDE, seed=number), kind)
            call = landed(storage, layout, hook, f"{number:x}", came)
            delivered = call.images[0].delivered
            assert delivered is not None
            claims[str(delivered.claim)] += 1
            turn = f"{number}-{way}-{'signed' if signed else 'unsigned'}"
            (out / f"{number}-delivered.{call.images[0].uri.rpartition('.')[2]}").write_bytes(
                storage.read(layout.absolute(delivered.uri))
            )
            for place, (extension, body) in enumerate(published(storage, layout, call, way, signed)):
                (out / f"{turn}-{place}.{extension}").write_bytes(body)
        seconds = time.process_time() - began
        read = read_apart(out)
    bad = {name: wrong for name, found in sorted(read.items()) if (wrong := faults(name, found))}
    files = len(read) - count
    print(f"{count:,} pictures with a manifest of their vendor's ({dict(claims)}); {files:,} files published of them")
    print(f"{len(bad):,} files invalid or without a mark; the rest valid, all marks found; {seconds:.0f} s of one core")
    for name, wrong in list(bad.items())[:20]:
        print(f"  {name}: {'; '.join(wrong)}")
    return 1 if bad else 0


if __name__ == "__main__":
    if sys.argv[1:2] == ["--read"]:
        paths = sorted(Path(sys.argv[2]).iterdir())
        print(json.dumps({path.name: looked_at(path) for path in paths}))
    else:
        sys.exit(main(int(sys.argv[1]) if len(sys.argv) > 1 else 1000))
