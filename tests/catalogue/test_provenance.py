"""What a vendor says in its pictures is there when they are published: kept, carried over, or a parent's."""

from __future__ import annotations

import hashlib
import json
import sys
from functools import partial
from pathlib import Path

import pytest

from airflow_provider_bgai.buying.record import Call
from airflow_provider_bgai.catalogue.finishing import Finishing, finish
from airflow_provider_bgai.hooks import get_hook
from airflow_provider_bgai.hooks.base import BackgroundHook
from airflow_provider_bgai.imaging.label import Label, read_label, write_label
from airflow_provider_bgai.imaging.marks import bytes_of_marks, without_manifest
from airflow_provider_bgai.imaging.sign import Claim, sign
from airflow_provider_bgai.imaging.xmp import find_packet
from airflow_provider_bgai.layout import Layout
from airflow_provider_bgai.sandbox import paint
from benchmarks.provenance import PLACES, SIDE, TURNS, faults, landed, product, published, read_apart
from tests.catalogue.nights import RECIPE, photo
from tests.imaging.signed import (
    CERTIFICATES,
    KEY,
    TYPES,
    actions,
    marked,
    pem,
    picture,
    read,
    signed_by_vendor,
)

signer = partial(sign, certificate_pem=CERTIFICATES, key_pem=pem(KEY))
CLAIM = Claim(generator="Acme Painter 2", issuer="A shop", source_type="trainedAlgorithmicMedia", valid=True)


@pytest.fixture
def layout(s3, request) -> Layout:
    return Layout(f"s3://{s3.bucket}/provenance-{hashlib.sha256(request.node.nodeid.encode()).hexdigest()[:12]}")


@pytest.fixture
def hook(connections) -> BackgroundHook:
    return get_hook("picwish_default")


@pytest.fixture
def land(storage, layout, hook):
    return partial(landed, storage, layout, hook, "7")


def kept(storage, layout: Layout, call: Call) -> bytes:
    (image,) = call.images
    assert image.delivered is not None
    return storage.read(layout.absolute(image.delivered.uri))


def test_no_file_that_is_published_has_a_manifest_that_does_not_fit_and_none_has_lost_a_mark(
    storage, layout, hook, tmp_path: Path
):
    """Every format, every place of a mark, labelled, pasted, rendered, with and without the shop's signature."""
    for number, (kind, where, way, signed) in enumerate(TURNS):
        came = signed_by_vendor(marked(kind, where, SIDE, seed=number), kind)
        call = landed(storage, layout, hook, f"{number:x}", came)
        turn = f"{number}-{way}-{'signed' if signed else 'unsigned'}"
        for place, (extension, body) in enumerate(published(storage, layout, call, way, signed)):
            (tmp_path / f"{turn}-{place}.{extension}").write_bytes(body)
    read = read_apart(tmp_path)
    assert len(read) == 2 * len(PLACES) * (1 + 1 + 5)
    assert {name: wrong for name, found in read.items() if (wrong := faults(name, found))} == {}
    assert {found["system"] for found in read.values()} == {"PicWish, Generate Background API"}


@pytest.mark.parametrize("kind", TYPES)
def test_what_came_with_a_manifest_is_kept_byte_by_byte_and_the_claim_is_on_record(storage, layout, land, kind):
    came = signed_by_vendor(marked(kind), kind)
    call = land(came)
    (image,) = call.images
    assert kept(storage, layout, call) == came
    assert image.delivered is not None
    assert image.delivered.uri == layout.relative(layout.delivered(call.call_id, 1, 1, image.uri.rpartition(".")[2]))
    assert (image.delivered.sha256, image.delivered.claim) == (hashlib.sha256(came).hexdigest(), CLAIM)
    body = storage.read(layout.absolute(image.uri))
    assert without_manifest(body) is body
    (warning,) = call.warnings
    assert "C2PA manifest (Acme Painter 2, signed by A shop, trainedAlgorithmicMedia)" in warning
    assert Call.model_validate_json(call.body()).images == call.images
    assert land(came).images == call.images  # by another one, too


def test_without_the_extra_it_is_taken_out_and_kept_as_well(storage, layout, land, monkeypatch):
    came = signed_by_vendor(marked("PNG"), "PNG")
    monkeypatch.setitem(sys.modules, "c2pa", None)
    call = land(came)
    assert kept(storage, layout, call) == came
    assert call.images[0].delivered.claim == Claim()
    assert call.warnings == (
        "picture 1: came with a C2PA manifest, which fits no labelled file; it is kept as it came",
    )


def test_what_came_is_there_before_the_picture_is(storage, layout, hook, monkeypatch):
    order: list[str] = []
    put = type(storage).put

    def noted(self, uri, *rest, **how):
        order.append(layout.relative(uri))
        put(self, uri, *rest, **how)

    monkeypatch.setattr(type(storage), "put", noted)
    (image,) = landed(storage, layout, hook, "7", signed_by_vendor(marked("PNG"), "PNG")).images
    assert image.delivered is not None
    assert order == [image.delivered.uri, image.uri]


@pytest.mark.parametrize("kind", TYPES)
def test_a_picture_that_loses_nothing_is_written_once(storage, layout, land, kind):
    call = land(marked(kind))
    assert call.images[0].delivered is None
    assert list(storage.list(f"{layout.folder}/incoming/")) == []
    assert call.warnings == ()


def test_a_picture_whose_own_label_is_replaced_is_kept_without_a_warning(storage, layout, land):
    theirs = Label(source_type="trainedAlgorithmicMedia", vendor="Acme", created=0, id="theirs")
    came = write_label(picture("JPEG"), theirs)
    call = land(came)
    assert kept(storage, layout, call) == came
    assert (call.images[0].delivered.claim, call.warnings) == (None, ())


@pytest.mark.filterwarnings("ignore:Image appears to be a malformed MPO")
def test_of_several_pictures_in_one_the_first_is_labelled_and_all_are_kept(storage, layout, land):
    body, plain = b"MPF\0" + bytes(20), picture("JPEG")
    several = plain[:2] + b"\xff\xe2" + (len(body) + 2).to_bytes(2) + body + plain[2:]
    came = signed_by_vendor(several, "JPEG")
    assert read("JPEG", came)[0] == "Trusted"
    call = land(came)
    landed = storage.read(layout.absolute(call.images[0].uri))
    assert (read_label(landed), without_manifest(landed) is landed) == (call.label(1), True)
    assert storage.read(layout.absolute(call.images[0].delivered.uri)) == came
    assert any("several pictures in one JPEG" in warning for warning in call.warnings)


def test_a_signed_file_without_what_came_says_so_and_is_signed(storage, layout, land):
    call = land(signed_by_vendor(marked("PNG"), "PNG"))
    storage.delete(layout.absolute(call.images[0].delivered.uri))
    (file,), (problem,) = finish(
        storage, layout, call, Finishing(sign=True), source=product(), prompt="a secret", sign=signer
    )
    assert "the vendor's own manifest is lost" in problem
    state, manifest, manifests = read("PNG", storage.read(layout.absolute(file.uri)))
    assert (state, len(manifests)) == ("Trusted", 1)
    assert [action["action"] for action in actions(manifest)] == ["c2pa.created", "c2pa.placed"]


def test_a_manifest_says_what_was_done_and_which_cutout_was_placed(storage, layout, land):
    call = land(signed_by_vendor(marked("JPEG"), "JPEG"))
    wish = {
        "sign": True,
        "paste_back": True,
        "renditions": {"card": {"width": 100, "format": "webp", "icon": "top-left"}},
    }
    files, problems = finish(storage, layout, call, Finishing.model_validate(wish), source=product(), sign=signer)
    assert problems == ()
    by_name = {file.rendition: storage.read(layout.absolute(file.uri)) for file in files}
    said = {name: actions(read(kind, by_name[name])[1]) for name, kind in (("", "PNG"), ("card", "WEBP"))}
    assert [[it["action"].removeprefix("c2pa.") for it in each] for each in said.values()] == [
        ["opened", "placed", "converted", "edited.metadata"],
        ["opened", "placed", "resized", "edited", "converted", "edited.metadata"],
    ]
    placed = said[""][1]
    assert placed["softwareAgent"]["name"] == "airflow-provider-bgai"
    assert placed["digitalSourceType"].endswith("compositeWithTrainedAlgorithmicMedia")
    ingredients = read("PNG", by_name[""])[1]["ingredients"]
    assert ingredients[1]["description"] == f"sha256 {hashlib.sha256(product()).hexdigest()}"


def test_a_limit_of_bytes_leaves_room_for_the_vendors_manifest(storage, layout, land):
    call = land(signed_by_vendor(marked("PNG", side=900), "PNG"))
    theirs = bytes_of_marks(kept(storage, layout, call), manifest=True)
    most = theirs + 25_000
    renditions = {"card": {"format": "jpeg", "max_bytes": most}, "tiny": {"format": "jpeg", "max_bytes": 60_000}}
    finishing = Finishing.model_validate({"sign": True, "renditions": renditions})
    files, (problem,) = finish(storage, layout, call, finishing, source=product(), sign=signer)
    assert [file.rendition for file in files] == ["", "card"]
    assert theirs < files[1].bytes <= most
    assert "max_bytes=60000: others' marks alone take" in problem


@pytest.mark.parametrize("size", [64_900, 70_000])
def test_marks_that_leave_a_label_no_room_cost_no_rendition(storage, layout, land, size):
    rdf = "http://www.w3.org/1999/02/22-rdf-syntax-ns#"
    packet = f'<rdf:RDF xmlns:rdf="{rdf}" xmlns:acme="acme:"><rdf:Description acme:said="{"a" * size}"/></rdf:RDF>'
    call = land(find_packet(picture("PNG")).put(packet.encode()))
    wish = {"renditions": {"card": {"format": "jpeg"}, "web": {"format": "webp"}}}
    files, problems = finish(storage, layout, call, Finishing.model_validate(wish))
    assert (problems, [file.rendition for file in files]) == ((), ["", "card", "web"])
    assert "marks are not carried over" in files[1].notes[-1]
    assert files[2].bytes > size
    assert read_label(storage.read(layout.absolute(files[1].uri))) is not None


def test_the_prompt_stands_on_the_label_where_it_is_asked_for_and_nowhere_else(storage, layout, land):
    call = land(marked("PNG"))
    words = 'on "oak" & <linen>\nby a window\x07'
    told = {}
    for asked in (False, True):
        finishing = Finishing.model_validate({"label_prompt": asked, "renditions": {"thumbnail": {}}})
        files, _ = finish(storage, layout, call, finishing, source=product(), prompt=words)
        labels = [read_label(storage.read(layout.absolute(file.uri))) for file in files]
        told[asked] = [label and label.prompt for label in labels]
    assert told == {False: [None, None], True: [words.replace("\x07", " ")] * 2}


def test_a_vendor_that_signs_is_bought_landed_and_published(catalogue, monkeypatch):
    """Through the sandbox: the answer's body goes when the call is booked, what the picture came as stays."""
    plain = paint.paint
    monkeypatch.setattr(paint, "paint", lambda *given, **how: signed_by_vendor(plain(*given, **how), "PNG"))
    catalogue.add("mug", photo("mug"))
    plan = catalogue.plan({**RECIPE, "sign": True, "label_prompt": True}, ["imagine"])
    (result,) = catalogue.generate(plan, ["imagine"], sign=signer)
    done = catalogue.publish(plan)
    assert (done.copied, result.outcome) == (1, "bought")
    (delivered,) = (it.uri for it in catalogue.storage.list(f"{catalogue.layout.folder}/incoming/"))
    assert catalogue.layout.relative(delivered) == result.images[0].delivered.uri
    body = catalogue.storage.read(f"{catalogue.root}/mug.png")
    state, manifest, manifests = read("PNG", body)
    label = read_label(body)
    assert (state, len(manifests), label and label.prompt) == ("Trusted", 2, "Title of mug on oak")
    assert b"Title of mug" not in json.dumps(manifest).encode()  # into the label alone
    assert actions(manifest)[1]["softwareAgent"]["name"] == "Imagine (Vyro), AI Backgrounds API v2"


def test_a_night_whose_authority_is_away_is_signed_by_the_next_one_and_costs_nothing_more(catalogue):
    def away(data, label, *, making):
        raise ConnectionError("cannot be signed for now: the time-stamping authority did not answer")

    catalogue.add("mug", photo("mug"))
    recipe = {**RECIPE, "sign": True}
    plan = catalogue.plan(recipe)
    (result,) = catalogue.generate(plan, sign=away)
    assert "its files were not made: ConnectionError: cannot be signed for now" in result.warnings[-1]
    catalogue.publish(plan, max_failure_ratio=1.0)
    plan = catalogue.plan(recipe, only="changed")
    catalogue.generate(plan, sign=signer)
    assert catalogue.publish(plan).copied == 1
    assert catalogue.box.images_charged() == 1
    assert read("PNG", catalogue.storage.read(f"{catalogue.root}/mug.png"))[0] == "Trusted"
