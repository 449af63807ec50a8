"""A night with a source of every kind a shop has, and one in which vendors send kinds that no shop shows."""

from __future__ import annotations

import io
import sys

import pytest
from PIL import Image

from airflow_provider_bgai.imaging.label import read_label
from airflow_provider_bgai.imaging.verify import verify_whole
from airflow_provider_bgai.sandbox import paint
from tests.catalogue.nights import photo
from tests.imaging.test_hostile import bitmap
from tests.imaging.test_kinds import heic, several
from tests.imaging.test_metadata import broken_chunk
from tests.imaging.test_prepare import saved

COMPARED = {"prompt": "{{ title }} on oak"}


def cut_out(name: str) -> Image.Image:
    return Image.open(io.BytesIO(photo(name))).convert("RGBA")


def of_every_kind() -> dict[str, bytes]:
    opaque = paint.flatten(cut_out("mpo"))
    png = photo("broken")
    return {
        "tiff": saved(cut_out("tiff"), "TIFF", compression="tiff_lzw"),
        "bmp": bitmap(cut_out("bmp")),
        "gif": saved(cut_out("gif"), "GIF"),
        "avif": saved(cut_out("avif"), "AVIF", quality=95),
        "heic": heic(cut_out("heic")),
        "mpo": several(opaque, opaque),
        "broken": png[:33] + broken_chunk(b"tEXt", b"a\0b") + png[33:],
    }


def test_a_source_of_every_kind_is_bought_for_compared_and_published(catalogue):
    """PicWish takes PNGs of cut-outs alone; the one that is none goes to Photoroom."""
    sources = of_every_kind()
    for sku, data in sources.items():
        catalogue.add(sku, data)
    catalogue.add("psd", b"8BPS\0\1" + bytes(200))
    plan = catalogue.plan(COMPARED, ("picwish", "photoroom"))
    results = catalogue.generate(plan, ("picwish", "photoroom"))
    catalogue.publish(plan)
    found = {result.sku: result for result in results}
    assert {sku: result.outcome for sku, result in found.items()} == dict.fromkeys(sources, "bought") | {
        "psd": "refused"
    }
    assert "a Photoshop file, which is not read; save it as PNG" in (found["psd"].error or "")
    for sku in sources:
        (image,) = found[sku].images
        assert (image.fidelity is None) is (sku == "mpo"), "nothing to compare with where there is no cut-out"
        assert image.fidelity is None or image.fidelity.faithful
    bill = catalogue.box.bill()
    assert (bill["picwish"], bill["photoroom"]) == (6, 1)
    assert catalogue.plan(COMPARED, ("picwish", "photoroom")).counts["unchanged"] == len(sources)


RESULTS = {
    "GIF": lambda picture: saved(picture, "GIF"),
    "TIFF": lambda picture: saved(picture, "TIFF"),
    "BMP": lambda picture: saved(picture, "BMP"),
    "HEIC": lambda picture: heic(picture, 90),
    "several pictures in one JPEG": lambda picture: several(picture, picture.convert("L").resize((80, 80))),
    "its metadata are broken": lambda picture: (
        saved(picture, "PNG")[:33] + broken_chunk(b"tEXt", b"a\0b") + saved(picture, "PNG")[33:]
    ),
}


@pytest.mark.parametrize("vendor", ["picwish", "photoroom"])
@pytest.mark.parametrize("kind", RESULTS)
def test_a_paid_picture_of_any_kind_is_landed_labelled_and_published(catalogue, monkeypatch, vendor, kind):
    monkeypatch.setattr(paint, "encode", lambda picture, *_, **__: RESULTS[kind](picture.convert("RGB")))
    catalogue.add("a", photo("a"))
    plan, (result,) = catalogue.night({**COMPARED, "paste_back": False}, (vendor,))
    (image,) = result.images
    assert (result.outcome, catalogue.box.bill()[vendor]) == ("bought", 1)
    assert any(kind in warning for warning in result.warnings)
    landed = catalogue.storage.read(f"{catalogue.root}/{image.uri}")
    assert verify_whole(landed).problem is None
    assert (image.content_type, image.bytes) == (verify_whole(landed).content_type, len(landed))
    assert read_label(landed) is not None
    shown = [it.uri for it in catalogue.storage.list(f"{catalogue.root}/a.")]
    assert [catalogue.storage.read(uri) for uri in shown] == [landed]


def test_a_paid_picture_of_a_kind_that_is_not_read_is_not_lost(catalogue, monkeypatch):
    """It stays collectable: who installs what it takes, collects it."""
    picture = heic(paint.compose(cut_out("a"), "oak", 1, 0).convert("RGB"), 90)
    monkeypatch.setattr(paint, "encode", lambda *_, **__: picture)
    catalogue.add("a", photo("a"))
    plan = catalogue.plan(COMPARED)
    with monkeypatch.context() as without:
        without.setitem(sys.modules, "pillow_heif", None)
        (failed,) = catalogue.generate(plan)
    assert "a HEIC, which takes pillow_heif to read" in (failed.error or "")
    assert failed.outcome != "lost"
    (again,) = catalogue.generate(plan)
    assert again.images
    assert catalogue.box.bill()["picwish"] == 1
