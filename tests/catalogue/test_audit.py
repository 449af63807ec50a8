"""Every published file is held against its evidence, and none of what may happen to one is missed."""

from __future__ import annotations

import hashlib
import io
from functools import partial
from pathlib import Path
from typing import Any

import c2pa
import numpy as np
import pytest
from PIL import Image

from airflow_provider_bgai.buying.decisions import decide_about
from airflow_provider_bgai.catalogue.audit import Audited, audit, main
from airflow_provider_bgai.catalogue.evidence import Evidence
from airflow_provider_bgai.catalogue.publishing.publish import read_mapping
from airflow_provider_bgai.catalogue.publishing.versions import Entry
from airflow_provider_bgai.imaging.label import Label, read_label, write_label
from airflow_provider_bgai.imaging.sign import EVIDENCE, sign
from airflow_provider_bgai.lines import dump_lines, stream_lines
from tests.imaging.signed import CERTIFICATES, KEY, pem
from tests.servers import serving_website

IMAGES = Path(__file__).parents[2] / "demo" / "catalogue" / "images"
RECIPE: dict[str, Any] = {
    "prompt": "{{ title }} on oak",
    "renditions": {"card": {"width": 160, "format": "webp"}, "white": {"of": "cutout", "width": 160}},
    "categories": {"pasted": {"paste_back": True}},
}
PRODUCTS = {"teapot": "porcelain-teapot", "shoe": "tennis-shoe", "bag": "paper-bag"}


@pytest.fixture
def night(catalogue):
    """A catalogue of three products, one of them pasted back, after its night."""
    for sku, name in PRODUCTS.items():
        catalogue.add(sku, (IMAGES / f"{name}.png").read_bytes(), category="pasted" if sku == "bag" else "")
    catalogue.night(RECIPE)
    return catalogue


def audited(catalogue, **options: Any) -> dict[str, Audited]:
    return {it.key: it for it in audit(catalogue.storage, catalogue.root, **options)}


def problems(catalogue, **options: Any) -> dict[str, tuple[str, ...]]:
    return {key: it.problems for key, it in audited(catalogue, **options).items() if it.problems}


def entries(catalogue) -> dict[str, Entry]:
    return {it.key: it for it in read_mapping(catalogue.storage, catalogue.root, f"run-{catalogue.runs}")}


def evidence(catalogue, key: str) -> tuple[str, list[Evidence]]:
    """Where the evidence of a file is, and the lines there."""
    entry = entries(catalogue)[key]
    uri = catalogue.layout.evidence(entry.fingerprint, entry.number, entry.finishing)
    return uri, list(stream_lines(catalogue.storage, uri, Evidence))


def encoded(image: Image.Image, kind: str = "PNG") -> bytes:
    file = io.BytesIO()
    image.save(file, kind)
    return file.getvalue()


def test_a_whole_night_is_computed_anew(night):
    found = audited(night)
    assert sorted(found) == sorted(
        f"{folder}{sku}.{kind}"
        for folder, kind in (("", "png"), ("card/", "webp"), ("white/", "jpg"))
        for sku in PRODUCTS
    )
    assert {(it.problems, it.unseen) for it in found.values()} == {((), ())}
    told = {it.rendition: it for it in evidence(night, "bag.png")[1]}
    assert {name: it.pasted for name, it in told.items()} == {"": True, "card": True, "white": False}
    assert told[""].verdict is not None
    assert told[""].inspection.thresholds is not None
    assert told[""].label == read_label(night.storage.read(f"{night.root}/bag.png"))
    assert {it.sku for it in audited(night, skus=["bag"]).values()} == {"bag"}


def flipped(body: bytes, _other: bytes) -> bytes:
    """One pixel is another, and the label as it was."""
    with Image.open(io.BytesIO(body)) as picture:
        pixels = np.asarray(picture.convert("RGB")).copy()
    pixels[7, 5] ^= 1
    label = read_label(body)
    assert label is not None
    return write_label(encoded(Image.fromarray(pixels)), label)


def swapped(_body: bytes, other: bytes) -> bytes:
    return other


def stripped(body: bytes, _other: bytes) -> bytes:
    with Image.open(io.BytesIO(body)) as picture:
        return encoded(picture)


def relabelled(body: bytes, _other: bytes) -> bytes:
    return write_label(body, Label(created=0, id="mine"))


def cut_off(body: bytes, _other: bytes) -> bytes:
    return body[: len(body) // 2]


@pytest.mark.parametrize(
    ("spoil", "words"),
    [
        (flipped, "1 of its 102,480 pixels differ, the first at 5, 7"),
        (swapped, "is another picture, of 500 x 375 px"),
        (stripped, "its label is gone"),
        (relabelled, "its label is another one, that of mine"),
        (cut_off, "is no picture any more"),
        (lambda body, _other: body + b"x", "is not the file that was published, though its pixels and its label are"),
    ],
    ids=["one pixel", "another file", "no label", "another label", "cut off", "a byte behind it"],
)
def test_what_happened_to_a_file_in_the_shop_is_found_and_named(night, spoil, words):
    body, other = (night.storage.read(f"{night.root}/{name}.png") for name in ("teapot", "shoe"))
    night.storage.put(f"{night.root}/teapot.png", spoil(body, other))
    found = problems(night)
    assert list(found) == ["teapot.png"]
    assert any(words in problem for problem in found["teapot.png"]), found


def test_what_is_gone_or_changed_below_bgai_is_found(night):
    storage, layout = night.storage, night.layout
    where, (picture, *_) = evidence(night, "bag.png")
    storage.delete(f"{night.root}/shoe.png")
    assert problems(night) == {"shoe.png": ("is gone from the shop",)}
    storage.put(f"{night.root}/shoe.png", storage.read(layout.absolute(entries(night)["shoe.png"].uri)))
    assert problems(night) == {}

    landed = storage.read(layout.absolute(picture.landed))
    storage.put(layout.absolute(picture.landed), storage.read(f"{night.root}/shoe.png"))
    assert set(problems(night)) == {"bag.png", "card/bag.webp", "white/bag.jpg"}
    storage.put(layout.absolute(picture.landed), landed)

    storage.delete(where)
    assert {it for found in problems(night).values() for it in found} == {
        f"has no evidence: nothing of it stands in {where}"
    }


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"pasted": False}, "is not what was landed: "),
        ({"verdict": {"light": 0.5}}, "says otherwise now: light"),
        ({"verdict": {"faithful": False, "reasons": ("no",)}}, "does not show the product, and nobody has accepted it"),
        ({"label": {"id": "other"}}, "its label is another one"),
    ],
    ids=["pasted", "a number", "the verdict", "label"],
)
def test_evidence_that_tells_another_story_does_not_hold(night, changes, words):
    where, lines = evidence(night, "bag.png")
    told = lines[0].model_dump()
    for name, value in changes.items():
        told[name] = told[name] | value if isinstance(value, dict) else value
    night.storage.put(where, dump_lines([Evidence.model_validate(told), *lines[1:]]))
    found = problems(night)
    assert list(found) == ["bag.png"]
    assert any(words in problem for problem in found["bag.png"]), found


def test_a_cut_out_that_changed_since_is_told_and_is_no_fault_of_the_picture(night):
    night.add("teapot", (IMAGES / "tennis-shoe.png").read_bytes())
    found = audited(night)
    assert not any(it.problems for it in found.values())
    unseen = {key: it.unseen for key, it in found.items() if it.unseen}
    assert set(unseen) == {"teapot.png", "card/teapot.webp", "white/teapot.jpg"}
    assert all("images/teapot.png is another file now" in words for words, *_ in unseen.values())


def test_a_picture_that_a_person_accepted_holds_and_one_that_nobody_did_does_not(catalogue):
    catalogue.add("shoe", (IMAGES / "tennis-shoe.png").read_bytes())
    catalogue.box.fault("picwish", "redrawn_product", on="download")
    plan = catalogue.plan({"prompt": "{{ title }} on oak"})
    (result,) = catalogue.generate(plan)
    assert result.outcome == "quarantined"
    decide_about(catalogue.ledger, result.fingerprint, "accept", by="anna")
    catalogue.publish(plan)
    assert problems(catalogue) == {}
    catalogue.storage.delete(catalogue.layout.decision(result.fingerprint, 1))
    assert ["nobody has accepted it" in it for it in problems(catalogue)["shoe.png"]] == [True]


def test_a_signed_file_says_the_same_in_its_manifest_and_one_that_was_touched_does_not_hold(catalogue):
    catalogue.add("shoe", (IMAGES / "tennis-shoe.png").read_bytes())
    plan = catalogue.plan({"prompt": "{{ title }} on oak", "sign": True})
    catalogue.generate(plan, sign=partial(sign, certificate_pem=CERTIFICATES, key_pem=pem(KEY)))
    catalogue.publish(plan)
    assert {(it.problems, it.unseen) for it in audited(catalogue).values()} == {((), ())}
    where, (told,) = evidence(catalogue, "shoe.png")
    body = catalogue.storage.read(f"{catalogue.root}/shoe.png")
    with c2pa.Reader("image/png", io.BytesIO(body)) as reader:
        manifest = reader.get_active_manifest()
    said = {it["label"]: it["data"] for it in manifest["assertions"]}[EVIDENCE]
    assert said == told.assertion()
    assert not {"uri", "sha256", "landed", "source"} & said.keys()
    assert str(catalogue.root) not in str(said)

    touched = write_label(body, Label(created=0, id="mine"))
    file = told.model_copy(update={"sha256": hashlib.sha256(touched).hexdigest(), "label": read_label(touched)})
    catalogue.storage.put(catalogue.layout.absolute(told.uri), touched)
    catalogue.storage.put(where, dump_lines([file]))
    assert any("C2PA manifest does not fit its bytes" in it for it in problems(catalogue)["shoe.png"])


def test_the_public_gets_what_the_shop_has_or_it_is_found_out(night):
    with serving_website() as site:
        for key in entries(night):
            site.answer(f"/{key}", night.storage.read(f"{night.root}/{key}"))
        url = f"{site.url}/{{key}}"
        assert problems(night, url=url, allow_private_hosts=True) == {}

        shoe, teapot = (night.storage.read(f"{night.root}/{name}.png") for name in ("shoe", "teapot"))
        label = read_label(teapot)
        assert label is not None
        site.answer("/shoe.png", stripped(shoe, b""))
        # Encoded anew and smaller, as a CDN does, with the label carried along: nobody is deceived.
        with Image.open(io.BytesIO(teapot)) as picture:
            small = picture.convert("RGB").resize((200, 153))
        site.answer("/teapot.png", write_label(encoded(small, "WEBP"), label))
        site.answer("/card/bag.webp", night.storage.read(f"{night.root}/card/shoe.webp"))
        site.answer("/white/bag.jpg", b"Not found", status=404)
        found = problems(night, url=url, allow_private_hosts=True)
    assert set(found) == {"shoe.png", "card/bag.webp", "white/bag.jpg"}
    assert found["shoe.png"] == ("as the public gets it, its label is gone",)
    assert [it.partition(":")[0] for it in found["card/bag.webp"]] == [
        "as the public gets it, its label is another one, that of " + str(read_label_id(night, "card/shoe.webp")),
        "as the public gets it, it is another picture",
    ]
    assert "cannot be fetched by the public" in found["white/bag.jpg"][0]


def read_label_id(catalogue, key: str) -> str:
    label = read_label(catalogue.storage.read(f"{catalogue.root}/{key}"))
    assert label is not None
    return label.id


def test_the_command_says_what_does_not_hold_and_ends_with_1(night, capsys, monkeypatch):
    monkeypatch.setattr("airflow_provider_bgai.catalogue.audit.Storage", lambda _conn_id: night.storage)
    assert main([night.root]) == 0
    assert capsys.readouterr().out == f"{night.root}: 9 of 9 file(s) hold against their evidence\n"
    night.storage.delete(f"{night.root}/shoe.png")
    assert main([night.root, "--sku", "shoe"]) == 1
    assert capsys.readouterr().out.splitlines() == [
        "shoe.png (shoe): is gone from the shop",
        f"{night.root}: 2 of 3 file(s) hold against their evidence",
    ]
    for wrong in (["--url", "https://cdn.example/"], []):
        with pytest.raises(SystemExit) as end:
            main([night.root if wrong else f"{night.root}-empty", *wrong])
        assert end.value.code == 2
    assert "nothing is published there" in capsys.readouterr().err
