"""The files that are published: made of what has landed, labelled, and none of them costs a cent."""

from __future__ import annotations

import hashlib
import io
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from airflow_provider_bgai.buying.record import Call, Output
from airflow_provider_bgai.catalogue.evidence import read_evidence
from airflow_provider_bgai.catalogue.finishing import Finishing, finish
from airflow_provider_bgai.exceptions import TooManyFailuresError
from airflow_provider_bgai.get_provider_info import system_of
from airflow_provider_bgai.imaging.fidelity import Placement, Verdict, compare
from airflow_provider_bgai.imaging.label import Label, read_label, write_label
from airflow_provider_bgai.imaging.paste import pasted_unseen
from airflow_provider_bgai.imaging.prepare import read_rgba
from airflow_provider_bgai.imaging.sign import Making
from airflow_provider_bgai.layout import Layout, PictureName
from airflow_provider_bgai.sandbox import paint
from tests.buying.kept import call
from tests.catalogue.nights import RECIPE, photo

TEAPOT = Path(__file__).parents[2] / "demo" / "catalogue" / "images" / "porcelain-teapot.png"
NOW = 1_700_000_000.0
FINGERPRINT = "ab" * 32
SYSTEM = system_of("picwish")


@pytest.fixture
def layout(s3, request) -> Layout:
    return Layout(f"s3://{s3.bucket}/finishing-{hashlib.sha256(request.node.nodeid.encode()).hexdigest()[:12]}")


@pytest.fixture
def landed(storage, layout) -> Call:
    """A teapot as a vendor painted it, with a faint noise over everything."""
    picture = np.asarray(Image.open(io.BytesIO(paint.paint(TEAPOT.read_bytes(), "oak", 1, 0))).convert("RGB"))
    noise = np.random.default_rng(1).integers(-3, 4, picture.shape)
    file = io.BytesIO()
    Image.fromarray(np.clip(picture + noise, 0, 255).astype(np.uint8)).save(file, "PNG")
    body = write_label(file.getvalue(), Label(vendor=SYSTEM, model="m1", created=NOW, id=f"{FINGERPRINT}.2-1"))
    digest = hashlib.sha256(body).hexdigest()
    uri = layout.picture(PictureName(FINGERPRINT, 2, 1, 1), digest, "png")
    storage.put(uri, body)
    height, width = picture.shape[:2]
    image = Output(
        uri=layout.relative(uri),
        sha256=digest,
        bytes=len(body),
        width=width,
        height=height,
        content_type="image/png",
        fidelity=Verdict(faithful=True, reasons=(), placement=Placement(0, 0, 1, 1)),
    )
    return call("fp", fingerprint=FINGERPRINT, number=2, model="m1", sent_at=NOW, images=(image,))


def stored(storage, layout: Layout, name: str) -> bytes:
    return storage.read(layout.absolute(name))


def opened(storage, layout: Layout, name: str) -> Image.Image:
    return Image.open(io.BytesIO(stored(storage, layout, name)))


def labelled(storage, layout: Layout, name: str) -> Label:
    label = read_label(stored(storage, layout, name))
    assert label is not None
    return label


@pytest.mark.parametrize("paste_back", ["auto", False])
def test_without_wishes_what_has_landed_is_published_as_it_is(storage, layout, landed, paste_back):
    finishing = Finishing(paste_back=paste_back)
    assert finishing.digest == finishing.model_copy(update={"fidelity": None, "retries": 2}).digest
    (file,), problems = finish(storage, layout, landed, finishing)
    assert (file.uri, file.sha256, problems) == (landed.images[0].uri, landed.images[0].sha256, ())
    (evidence,) = read_evidence(storage, layout, FINGERPRINT, 2, finishing.digest)
    assert (evidence.uri, evidence.sha256, evidence.pasted) == (file.uri, file.sha256, False)
    assert evidence.label == labelled(storage, layout, file.uri)


def test_paste_back_is_automatic_where_nobody_sees_it(storage, layout, landed):
    source = TEAPOT.read_bytes()
    verdict = compare(read_rgba(source), opened(storage, layout, landed.images[0].uri))
    seen = landed.model_copy(update={"images": (landed.images[0].model_copy(update={"fidelity": verdict}),)})
    assert pasted_unseen(verdict)
    (file,), problems = finish(storage, layout, seen, Finishing(), source=source)
    (evidence,) = read_evidence(storage, layout, FINGERPRINT, 2, Finishing().digest)
    assert (evidence.pasted, evidence.verdict, evidence.sha256, problems) == (True, verdict, file.sha256, ())
    assert file.uri != landed.images[0].uri
    assert Finishing(paste_back=False).digest != Finishing().digest != Finishing(paste_back=True).digest


def test_every_file_has_its_size_its_format_and_a_label_of_its_own(storage, layout, landed):
    renditions = {
        "card": {"width": 300, "height": 400, "fit": "extend", "format": "webp"},
        "google": {"min_side": 100},
        "amazon_main": {"width": 600, "height": 600, "upscale": 3},
    }
    finishing = Finishing.model_validate({"renditions": renditions})
    files, problems = finish(storage, layout, landed, finishing, source=TEAPOT.read_bytes())
    assert problems == ()
    by_name = {file.rendition: file for file in files}
    assert list(by_name) == ["", "card", "google", "amazon_main"]
    assert by_name["card"].width * 4 == by_name["card"].height * 3
    labels = {name: labelled(storage, layout, file.uri) for name, file in by_name.items()}
    assert labels[""] == Label(vendor=SYSTEM, model="m1", created=NOW, id=f"{FINGERPRINT}.2-1")
    assert labels["card"].id == f"{FINGERPRINT}.2-1-card"
    assert labels["google"].source_type == "trainedAlgorithmicMedia"
    # Nothing but the shop's own cut-out on white: no vendor and no AI had a part in it.
    assert (labels["amazon_main"].source_type, labels["amazon_main"].vendor) == (
        "algorithmicallyEnhanced",
        None,
    )
    for file in files:
        assert file.uri.startswith("_bgai/")
        assert layout.is_picture(layout.absolute(file.uri))
        picture = opened(storage, layout, file.uri)
        assert picture.size == (file.width, file.height)
        assert len(stored(storage, layout, file.uri)) == file.bytes
        assert picture.format is not None
        assert file.uri.endswith({"JPEG": ".jpg", "WEBP": ".webp", "PNG": ".png"}[picture.format])


def test_the_products_own_pixels_are_put_back_bit_by_bit(storage, layout, landed):
    cutout = np.asarray(Image.open(TEAPOT).convert("RGBA"))
    opaque = cutout[..., 3] == 255
    before = np.asarray(opened(storage, layout, landed.images[0].uri).convert("RGB"))
    assert (before[opaque] != cutout[opaque][:, :3]).any()
    (file,), problems = finish(storage, layout, landed, Finishing(paste_back=True), source=TEAPOT.read_bytes())
    after = np.asarray(opened(storage, layout, file.uri).convert("RGB"))
    assert problems == ()
    assert (after[opaque] == cutout[opaque][:, :3]).all()
    clear = cutout[..., 3] == 0
    assert (after[clear] == before[clear]).all()


def test_nothing_is_pasted_where_nobody_knows_where(storage, layout, landed):
    unknown = landed.images[0].model_copy(update={"fidelity": None})
    without = landed.model_copy(update={"images": (unknown,)})
    (file,), (problem,) = finish(storage, layout, without, Finishing(paste_back=True), source=TEAPOT.read_bytes())
    assert "nobody knows where the product lies" in problem
    assert stored(storage, layout, file.uri) == stored(storage, layout, landed.images[0].uri)


def test_a_rendition_that_cannot_be_made_stops_no_other(storage, layout, landed):
    finishing = Finishing.model_validate({"renditions": {"huge": {"min_side": 9000}, "webp": {}, "amazon_main": {}}})
    files, problems = finish(storage, layout, landed, finishing)
    assert [file.rendition for file in files] == ["", "webp"]
    assert [problem.partition(" of ")[0] for problem in problems] == ["rendition 'huge'", "rendition 'amazon_main'"]


def test_the_same_wish_makes_the_same_files_and_another_one_others(storage, layout, landed):
    wish = Finishing.model_validate({"renditions": {"thumbnail": {}}})
    assert finish(storage, layout, landed, wish) == finish(storage, layout, landed, wish)
    other = Finishing.model_validate({"renditions": {"thumbnail": {"width": 100}}})
    ours, theirs = ({file.uri for file in finish(storage, layout, landed, it)[0]} for it in (wish, other))
    # The picture itself is as it has landed, so it is published from where it is.
    assert ours & theirs == {landed.images[0].uri}


def test_a_signature_comes_after_the_label(storage, layout, landed):
    signed = []

    def sign(data: bytes, label: Label, *, making: Making) -> bytes:
        assert read_label(data) == label
        signed.append(label.id)
        return data

    plain = Finishing.model_validate({"renditions": {"thumbnail": {}}})
    finish(storage, layout, landed, plain, sign=sign)
    assert signed == []
    signing = Finishing.model_validate({"sign": True, "renditions": {"thumbnail": {}}})
    finish(storage, layout, landed, signing, sign=sign)
    assert signed == [f"{FINGERPRINT}.2-1", f"{FINGERPRINT}.2-1-thumbnail"]


def test_a_night_of_renditions_that_published_nothing_is_made_good_by_the_next_one(catalogue):
    """The state still says how the old pictures were finished; the new ones have landed and were not published."""
    recipe = {**RECIPE, "renditions": {"thumbnail": {"width": 64}}}
    for sku in ("mug", "lamp"):
        catalogue.add(sku, photo(sku))
    catalogue.night(recipe)
    for sku in ("mug", "lamp"):
        catalogue.add(sku, title="something else")
    catalogue.box.fault("picwish", "moderation", on="submit", times=1)
    with pytest.raises(TooManyFailuresError):
        catalogue.night(recipe)
    charged = catalogue.box.images_charged()
    plan = catalogue.plan(recipe, only="changed")
    catalogue.generate(plan)
    done = catalogue.publish(plan, max_failure_ratio=0)
    assert (done.unfinished, done.failures, done.copied) == (0, 0, 4)
    assert catalogue.box.images_charged() == charged + 1  # the one that was refused
    plan, results = catalogue.night(recipe)
    assert (plan.shards, results) == ([], [])
