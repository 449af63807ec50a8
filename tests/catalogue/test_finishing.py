"""The files that are published: made of what has landed, labelled, and none of them costs a cent."""

from __future__ import annotations

import io
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from airflow_provider_bgai.catalogue.finishing import Finishing, finish
from airflow_provider_bgai.catalogue.ledger import Landed, Output
from airflow_provider_bgai.imaging.fidelity import Placement, Verdict
from airflow_provider_bgai.imaging.label import Label, read_label, write_label
from airflow_provider_bgai.sandbox import paint

TEAPOT = Path(__file__).parents[2] / "demo" / "catalogue" / "images" / "porcelain-teapot.png"
NOW = 1_700_000_000.0


@pytest.fixture
def root(s3, request) -> str:
    return f"s3://{s3.bucket}/finishing-{abs(hash(request.node.nodeid)):x}"


@pytest.fixture
def landed(storage, root) -> Landed:
    """A teapot as a vendor painted it, with a faint noise over everything."""
    picture = np.asarray(Image.open(io.BytesIO(paint.paint(TEAPOT.read_bytes(), "oak", 1, 0))).convert("RGB"))
    noise = np.random.default_rng(1).integers(-3, 4, picture.shape)
    file = io.BytesIO()
    Image.fromarray(np.clip(picture + noise, 0, 255).astype(np.uint8)).save(file, "PNG")
    body = write_label(file.getvalue(), Label(vendor="picwish", model="m1", created=NOW, id="fp-1"))
    uri = f"{root}/_bgai/pictures/fp-1.png"
    storage.put(uri, body)
    verdict = Verdict(faithful=True, reasons=(), placement=Placement(0, 0, 1, 1))
    height, width = picture.shape[:2]
    known = {"bytes": len(body), "width": width, "height": height, "content_type": "image/png"}
    return Landed(
        fingerprint="fp",
        vendor="picwish",
        conn_id="c",
        task_id="t",
        price=None,
        currency="USD",
        seed=None,
        model="m1",
        prompt_sha256=None,
        seconds=1,
        landed_at=NOW,
        images=(Output(uri=uri, sha256="ab" * 32, fidelity=verdict, **known),),
    )


def opened(storage, uri: str) -> Image.Image:
    return Image.open(io.BytesIO(storage.read(uri)))


def test_without_wishes_what_has_landed_is_published_as_it_is(storage, root, landed):
    assert Finishing().digest == Finishing(fidelity=False, retries=2).digest == ""
    assert finish(storage, root, landed, Finishing()) == ((), ())


def test_every_file_has_its_size_its_format_and_a_label_of_its_own(storage, root, landed):
    renditions = {
        "card": {"width": 300, "height": 400, "fit": "extend", "format": "webp"},
        "google": {"min_side": 100},
        "amazon_main": {"width": 600, "height": 600, "upscale": 3},
    }
    files, problems = finish(storage, root, landed, Finishing(renditions=renditions), source=TEAPOT.read_bytes())
    assert problems == ()
    by_name = {file.rendition: file for file in files}
    assert list(by_name) == ["", "card", "google", "amazon_main"]
    assert by_name["card"].width * 4 == by_name["card"].height * 3
    labels = {name: read_label(storage.read(file.uri)) for name, file in by_name.items()}
    assert labels[""] == Label(vendor="picwish", model="m1", created=NOW, id="fp-1")
    assert labels["card"].id == "fp-1-card"
    assert labels["google"].source_type == "trainedAlgorithmicMedia"
    # Nothing but the shop's own cut-out on white: no vendor and no AI had a part in it.
    assert (labels["amazon_main"].source_type, labels["amazon_main"].vendor) == (
        "algorithmicallyEnhanced",
        None,
    )
    for file in files:
        picture = opened(storage, file.uri)
        assert picture.size == (file.width, file.height)
        assert len(storage.read(file.uri)) == file.bytes
        assert file.uri.endswith({"JPEG": ".jpg", "WEBP": ".webp", "PNG": ".png"}[picture.format])


def test_the_products_own_pixels_are_put_back_bit_by_bit(storage, root, landed):
    cutout = np.asarray(Image.open(TEAPOT).convert("RGBA"))
    opaque = cutout[..., 3] == 255
    before = np.asarray(opened(storage, landed.images[0].uri).convert("RGB"))
    assert (before[opaque] != cutout[opaque][:, :3]).any()
    (file,), problems = finish(storage, root, landed, Finishing(paste_back=True), source=TEAPOT.read_bytes())
    after = np.asarray(opened(storage, file.uri).convert("RGB"))
    assert problems == ()
    assert (after[opaque] == cutout[opaque][:, :3]).all()
    clear = cutout[..., 3] == 0
    assert (after[clear] == before[clear]).all()


def test_nothing_is_pasted_where_nobody_knows_where(storage, root, landed):
    unknown = landed.images[0].model_copy(update={"fidelity": None})
    without = landed.model_copy(update={"images": (unknown,)})
    (file,), (problem,) = finish(storage, root, without, Finishing(paste_back=True), source=TEAPOT.read_bytes())
    assert "nobody knows where the product lies" in problem
    assert storage.read(file.uri) == storage.read(landed.images[0].uri)


def test_a_rendition_that_cannot_be_made_stops_no_other(storage, root, landed):
    finishing = Finishing(renditions={"huge": {"min_side": 9000}, "webp": {}, "amazon_main": {}})
    files, problems = finish(storage, root, landed, finishing)
    assert [file.rendition for file in files] == ["", "webp"]
    assert [problem.partition(" of ")[0] for problem in problems] == ["rendition 'huge'", "rendition 'amazon_main'"]


def test_the_same_wish_makes_the_same_files_and_another_one_others(storage, root, landed):
    wish = Finishing(renditions={"thumbnail": {}})
    assert finish(storage, root, landed, wish) == finish(storage, root, landed, wish)
    other = Finishing(renditions={"thumbnail": {"width": 100}})
    ours, theirs = ({file.uri for file in finish(storage, root, landed, it)[0]} for it in (wish, other))
    # The picture itself is as it has landed, so it is published from where it is.
    assert ours & theirs == {landed.images[0].uri}


def test_a_signature_comes_after_the_label(storage, root, landed):
    signed = []

    def sign(data: bytes, label: Label) -> bytes:
        assert read_label(data) == label
        signed.append(label.id)
        return data

    finish(storage, root, landed, Finishing(renditions={"thumbnail": {}}), sign=sign)
    assert signed == []
    finish(storage, root, landed, Finishing(sign=True, renditions={"thumbnail": {}}), sign=sign)
    assert signed == ["fp-1", "fp-1-thumbnail"]
