from __future__ import annotations

import datetime
import io
import json
import sys
from typing import Any

import c2pa
import numpy as np
import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, ed25519
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID
from PIL import Image

from airflow_provider_bgai.imaging.label import Label, LabelError, read_label, write_label
from airflow_provider_bgai.imaging.sign import sign

TYPES = {"PNG": "image/png", "JPEG": "image/jpeg", "WEBP": "image/webp", "AVIF": "image/avif"}
LABEL = Label(vendor="photoroom", model="studio-3", created=1_800_000_000, id="5f3c9a-1")
VENDORS_LABEL = Label(source_type="trainedAlgorithmicMedia", vendor="gptge", created=1_790_000_000, id="theirs")


def issue(subject: str, key: Any, root_key: Any) -> bytes:
    """A certificate for ``key``, as the C2PA specification wants it (14.5); of the root itself if both keys are one."""

    def name(common: str) -> x509.Name:
        return x509.Name(
            [x509.NameAttribute(NameOID.ORGANIZATION_NAME, "A shop"), x509.NameAttribute(NameOID.COMMON_NAME, common)]
        )

    root, now = key is root_key, datetime.datetime.now(datetime.UTC)
    builder = (
        x509.CertificateBuilder()
        .subject_name(name(subject))
        .issuer_name(name("root"))
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - datetime.timedelta(days=1))
        .not_valid_after(now + datetime.timedelta(days=30))
        .add_extension(x509.BasicConstraints(root, None), critical=True)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)
        .add_extension(x509.AuthorityKeyIdentifier.from_issuer_public_key(root_key.public_key()), critical=False)
        .add_extension(
            x509.KeyUsage(not root, False, False, False, False, root, root, False, False),
            critical=True,
        )
    )
    if not root:
        builder = builder.add_extension(x509.ExtendedKeyUsage([ExtendedKeyUsageOID.EMAIL_PROTECTION]), critical=False)
    return builder.sign(root_key, hashes.SHA256()).public_bytes(Encoding.PEM)


def pem(key: Any) -> bytes:
    found: bytes = key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
    return found


ROOT_KEY, KEY, OTHER_KEY = (ec.generate_private_key(ec.SECP256R1()) for _ in range(3))
ROOT = issue("root", ROOT_KEY, ROOT_KEY)
CERTIFICATES = issue("a shop", KEY, ROOT_KEY) + ROOT


def picture(kind: str, side: int = 300) -> bytes:
    """A smooth picture, as photographs are; small in every format."""
    pixels = np.random.default_rng(5).integers(0, 255, (5, 5, 3), dtype=np.uint8)
    buffer = io.BytesIO()
    Image.fromarray(pixels).resize((side, side), Image.Resampling.BICUBIC).save(buffer, kind)
    return buffer.getvalue()


def read(kind: str, data: bytes, *, trusting: bytes = ROOT) -> tuple[str | None, dict[str, Any], dict[str, Any]]:
    """What C2PA's own reader says: valid or not, the newest manifest, all of them."""
    trust = {"trust": {"trust_anchors": trusting.decode()}, "verify": {"verify_trust": True}}
    with (
        c2pa.Context.from_dict(trust) as context,
        c2pa.Reader(TYPES[kind], io.BytesIO(data), context=context) as reader,
    ):
        store = json.loads(reader.json())
        return reader.get_validation_state(), store["manifests"][store["active_manifest"]], store["manifests"]


def actions(manifest: dict[str, Any]) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = next(
        each["data"]["actions"] for each in manifest["assertions"] if each["label"] == "c2pa.actions.v2"
    )
    return found


def failures(ingredient: dict[str, Any]) -> list[str]:
    return [failure["code"] for failure in ingredient["validation_results"]["activeManifest"]["failure"]]


@pytest.mark.parametrize("kind", TYPES)
def test_a_signed_picture_says_what_its_label_says(kind):
    data = picture(kind)
    labelled = write_label(data, LABEL)
    signed = sign(labelled, LABEL, CERTIFICATES, pem(KEY))
    state, manifest, _ = read(kind, signed)
    assert state == "Trusted"
    (made,) = actions(manifest)
    assert made["action"] == "c2pa.created"
    assert made["digitalSourceType"].endswith("/digitalsourcetype/compositeWithTrainedAlgorithmicMedia")
    assert made["softwareAgent"] == {"name": "photoroom", "version": "studio-3"}
    assert made["when"] == "2027-01-15T08:00:00+00:00"
    assert manifest["title"] == "5f3c9a-1"
    assert manifest["signature_info"]["common_name"] == "a shop"
    assert read_label(signed) == LABEL
    assert Image.open(io.BytesIO(signed)).tobytes() == Image.open(io.BytesIO(data)).tobytes()


@pytest.mark.parametrize("kind", TYPES)
def test_there_is_no_thumbnail(kind):
    labelled = write_label(picture(kind), LABEL)
    once = sign(labelled, LABEL, CERTIFICATES, pem(KEY))
    assert len(once) - len(labelled) < 5_000
    _, manifest, _ = read(kind, once)
    assert "thumbnail" not in manifest
    # The old manifest in the new one, and still no thumbnail of either.
    assert len(sign(once, LABEL, CERTIFICATES, pem(KEY))) - len(once) < 10_000


@pytest.mark.parametrize("kind", TYPES)
def test_a_change_behind_the_signature_is_noticed(kind):
    signed = sign(write_label(picture(kind), LABEL), LABEL, CERTIFICATES, pem(KEY))
    assert read(kind, signed.replace(b"photoroom", b"photorosa"))[0] == "Invalid"
    assert read(kind, signed, trusting=issue("root", OTHER_KEY, OTHER_KEY))[0] == "Valid"  # but not trusted


@pytest.mark.parametrize("kind", TYPES)
def test_the_vendors_manifest_is_kept_by_the_label_and_by_the_signature(kind):
    theirs = sign(write_label(picture(kind), VENDORS_LABEL), VENDORS_LABEL, CERTIFICATES, pem(KEY))
    _, their_manifest, _ = read(kind, theirs)

    labelled = write_label(theirs, LABEL)
    assert read(kind, labelled)[1]["label"] == their_manifest["label"]

    signed = sign(labelled, LABEL, CERTIFICATES, pem(KEY), original=theirs)
    state, manifest, manifests = read(kind, signed)
    assert state == "Trusted"
    assert [action["action"] for action in actions(manifest)] == ["c2pa.opened", "c2pa.edited"]
    assert actions(manifest)[1]["digitalSourceType"].endswith("compositeWithTrainedAlgorithmicMedia")
    (ingredient,) = manifest["ingredients"]
    assert ingredient["relationship"] == "parentOf"
    assert ingredient["active_manifest"] == their_manifest["label"]
    assert failures(ingredient) == ["signingCredential.untrusted"]  # whom to trust is the reader's matter
    assert actions(manifests[their_manifest["label"]]) == actions(their_manifest)
    assert read_label(signed) == LABEL

    # Without the vendor's own bytes it is kept, too, but can only be said not to fit any more.
    _, manifest, manifests = read(kind, sign(labelled, LABEL, CERTIFICATES, pem(KEY)))
    assert their_manifest["label"] in manifests
    assert any(code.endswith("Hash.mismatch") for code in failures(manifest["ingredients"][0]))


def test_a_rendition_in_another_format_keeps_the_vendors_manifest():
    theirs = sign(write_label(picture("PNG"), VENDORS_LABEL), VENDORS_LABEL, CERTIFICATES, pem(KEY))
    labelled = write_label(picture("WEBP"), LABEL)
    state, _, manifests = read("WEBP", sign(labelled, LABEL, CERTIFICATES, pem(KEY), original=theirs))
    assert (state, len(manifests)) == ("Trusted", 2)


def test_other_algorithms_sign_as_well():
    key = ed25519.Ed25519PrivateKey.generate()
    certificates = issue("a shop", key, ROOT_KEY) + ROOT
    signed = sign(write_label(picture("PNG"), LABEL), LABEL, certificates, pem(key), alg="ed25519")
    assert read("PNG", signed)[0] == "Trusted"


def test_what_carries_another_label_or_none_is_not_signed():
    for data in (picture("PNG"), write_label(picture("PNG"), VENDORS_LABEL)):
        with pytest.raises(LabelError, match="carries its label"):
            sign(data, LABEL, CERTIFICATES, pem(KEY))


@pytest.mark.parametrize(
    ("certificates", "key", "alg"),
    [
        (CERTIFICATES, pem(OTHER_KEY), "es256"),
        (CERTIFICATES, b"no key", "es256"),
        (b"no certificate", pem(KEY), "es256"),
        (CERTIFICATES, pem(KEY), "rot13"),
    ],
)
def test_a_key_that_does_not_fit_is_refused_and_not_shown(certificates, key, alg):
    labelled = write_label(picture("PNG"), LABEL)
    with pytest.raises(LabelError, match="cannot be signed") as caught:
        sign(labelled, LABEL, certificates, key, alg=alg)
    assert pem(KEY).splitlines()[1].decode() not in str(caught.value)


def test_an_original_that_is_no_picture_is_refused():
    with pytest.raises(LabelError, match="original is not a picture"):
        sign(write_label(picture("PNG"), LABEL), LABEL, CERTIFICATES, pem(KEY), original=b"<html>")


def test_without_the_extra_it_says_what_to_install(monkeypatch):
    monkeypatch.setitem(sys.modules, "c2pa", None)
    with pytest.raises(ImportError, match=r"airflow-provider-bgai\[c2pa\]"):
        sign(write_label(picture("PNG"), LABEL), LABEL, CERTIFICATES, pem(KEY))
