from __future__ import annotations

import hashlib
import io
import shutil
import subprocess
import sys
from collections.abc import Iterator
from datetime import UTC, datetime
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread

import pytest
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa
from cryptography.x509.oid import ExtendedKeyUsageOID
from PIL import Image

from airflow_provider_bgai import __version__
from airflow_provider_bgai.imaging.label import Label, LabelError, read_label, write_label
from airflow_provider_bgai.imaging.marks import without_manifest
from airflow_provider_bgai.imaging.sign import Claim, Making, read_claim, sign
from tests.imaging.signed import (
    CERTIFICATES,
    KEY,
    ROOT,
    ROOT_KEY,
    TYPES,
    actions,
    failures,
    issue,
    pem,
    picture,
    read,
)

LABEL = Label(vendor="photoroom", model="studio-3", created=1_800_000_000, id="5f3c9a-1")
VENDORS_LABEL = Label(source_type="trainedAlgorithmicMedia", vendor="gptge", created=1_790_000_000, id="theirs")


OTHER_KEY = ec.generate_private_key(ec.SECP256R1())


def vendors(kind: str) -> bytes:
    """A picture with a label and a manifest of its vendor's."""
    return sign(write_label(picture(kind), VENDORS_LABEL), VENDORS_LABEL, CERTIFICATES, pem(KEY))


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
    assert len(sign(labelled, LABEL, CERTIFICATES, pem(KEY), making=Making(original=once))) - len(labelled) < 13_000


@pytest.mark.parametrize("kind", TYPES)
def test_a_change_behind_the_signature_is_noticed(kind):
    signed = sign(write_label(picture(kind), LABEL), LABEL, CERTIFICATES, pem(KEY))
    assert read(kind, signed.replace(b"photoroom", b"photorosa"))[0] == "Invalid"
    assert read(kind, signed, trusting=issue("root", OTHER_KEY, OTHER_KEY))[0] == "Valid"  # but not trusted


@pytest.mark.parametrize("kind", TYPES)
def test_the_vendors_manifest_is_that_of_the_parent_and_the_cutout_a_component(kind):
    theirs = vendors(kind)
    _, their_manifest, _ = read(kind, theirs)
    labelled = write_label(without_manifest(theirs), LABEL)
    making = Making(original=theirs, cutout=picture("PNG"), steps=(("c2pa.resized", "fit: inside"),))

    state, manifest, manifests = read(kind, sign(labelled, LABEL, CERTIFICATES, pem(KEY), making=making))
    assert state == "Trusted"
    opened, placed, resized, edited = actions(manifest)
    assert [opened["action"], placed["action"], resized["action"], edited["action"]] == [
        "c2pa.opened",
        "c2pa.placed",
        "c2pa.resized",
        "c2pa.edited.metadata",
    ]
    # Who opens it did not create it: the composite came about where the cut-out was placed.
    assert placed["digitalSourceType"].endswith("compositeWithTrainedAlgorithmicMedia")
    assert all("digitalSourceType" not in action for action in (opened, resized, edited))
    assert placed["softwareAgent"] == {"name": "photoroom", "version": "studio-3"}
    parent, cutout = manifest["ingredients"]
    assert (parent["relationship"], cutout["relationship"]) == ("parentOf", "componentOf")
    assert parent["active_manifest"] == their_manifest["label"]
    assert failures(parent) == ["signingCredential.untrusted"]  # whom to trust is the reader's matter
    assert cutout["description"] == f"sha256 {hashlib.sha256(picture('PNG')).hexdigest()}"
    assert actions(manifests[their_manifest["label"]]) == actions(their_manifest)


def test_pasted_back_the_cutout_is_placed_by_us_and_keeps_its_own_manifest():
    labelled, photograph = write_label(picture("WEBP"), LABEL), vendors("JPEG")
    making = Making(cutout=photograph, pasted=True)
    state, manifest, manifests = read("WEBP", sign(labelled, LABEL, CERTIFICATES, pem(KEY), making=making))
    assert (state, len(manifests)) == ("Trusted", 2)
    created, placed = actions(manifest)
    assert (created["action"], placed["action"]) == ("c2pa.created", "c2pa.placed")
    assert created["digitalSourceType"].endswith("compositeWithTrainedAlgorithmicMedia")
    assert placed["softwareAgent"]["name"] == "airflow-provider-bgai"


def test_without_a_vendor_the_cutout_is_the_parent():
    label = Label(source_type="algorithmicallyEnhanced", created=1_800_000_000, id="5f3c9a-1-amazon_main")
    labelled = write_label(picture("JPEG"), label)
    making = Making(original=vendors("PNG"), cutout=picture("PNG"), steps=(("c2pa.converted", None),))
    state, manifest, manifests = read("JPEG", sign(labelled, label, CERTIFICATES, pem(KEY), making=making))
    assert (state, len(manifests)) == ("Trusted", 1)
    assert [action["action"] for action in actions(manifest)] == ["c2pa.opened", "c2pa.edited", "c2pa.converted"]
    assert [it["relationship"] for it in manifest["ingredients"]] == ["parentOf"]


def test_a_manifest_that_was_broken_when_it_came_is_recorded_as_that():
    theirs = vendors("PNG")
    changed = theirs[:-40] + bytes([theirs[-40] ^ 1]) + theirs[-39:]  # a pixel
    labelled = write_label(without_manifest(theirs), LABEL)
    for original, code in ((changed, "assertion.dataHash.mismatch"), (theirs, None)):
        signed = sign(labelled, LABEL, CERTIFICATES, pem(KEY), making=Making(original=original))
        state, manifest, _ = read("PNG", signed)
        assert state == "Trusted"
        assert (code in failures(manifest["ingredients"][0])) == (code is not None)
    torn = theirs.replace(b"caBX" + theirs.partition(b"caBX")[2][:40], b"caBX" + bytes(40))
    making = Making(original=torn)
    state, manifest, _ = read("PNG", sign(labelled, LABEL, CERTIFICATES, pem(KEY), making=making))
    assert state == "Trusted"
    assert "its own manifest could not be read" in manifest["ingredients"][0]["description"]


def test_a_file_with_a_manifest_is_not_signed_over():
    with pytest.raises(LabelError, match="has a C2PA manifest already"):
        sign(write_label(vendors("PNG"), LABEL), LABEL, CERTIFICATES, pem(KEY))


@pytest.mark.parametrize("kind", TYPES)
def test_a_claim_is_read_with_its_issuer_and_whether_it_fits(kind):
    theirs = vendors(kind)
    claim = read_claim(theirs)
    assert claim == Claim(
        generator=f"airflow-provider-bgai {__version__}",
        issuer="A shop",
        source_type="trainedAlgorithmicMedia",
        valid=True,
    )
    assert "signed by A shop, trainedAlgorithmicMedia" in str(claim)
    assert read_claim(write_label(theirs, LABEL)).valid is False
    assert read_claim(picture(kind)) == Claim()


def test_without_the_extra_a_claim_says_nothing(monkeypatch):
    theirs = vendors("PNG")
    monkeypatch.setitem(sys.modules, "c2pa", None)
    assert (read_claim(theirs), str(read_claim(theirs))) == (Claim(), "")


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


class Authority(BaseHTTPRequestHandler):
    """A time-stamping authority (RFC 3161): OpenSSL's, behind HTTP."""

    folder: Path

    def do_POST(self) -> None:
        (self.folder / "query").write_bytes(self.rfile.read(int(self.headers["Content-Length"])))
        arguments = ["-config", "tsa.cnf", "-queryfile", "query", "-out", "reply"]
        subprocess.run(["openssl", "ts", "-reply", *arguments], cwd=self.folder, check=True, capture_output=True)
        reply = (self.folder / "reply").read_bytes()
        self.send_response(200)
        self.send_header("Content-Type", "application/timestamp-reply")
        self.send_header("Content-Length", str(len(reply)))
        self.end_headers()
        self.wfile.write(reply)

    def log_message(self, format: str, *args: object) -> None:
        """Nothing."""


@pytest.fixture
def authority(tmp_path: Path) -> Iterator[str]:
    key = rsa.generate_private_key(65537, 2048)
    (tmp_path / "key.pem").write_bytes(pem(key))
    (tmp_path / "cert.pem").write_bytes(issue("an authority", key, ROOT_KEY, ExtendedKeyUsageOID.TIME_STAMPING))
    (tmp_path / "root.pem").write_bytes(ROOT)
    (tmp_path / "serial").write_text("01\n")
    (tmp_path / "tsa.cnf").write_text(
        "[tsa]\ndefault_tsa = here\n[here]\nserial = serial\nsigner_cert = cert.pem\ncerts = root.pem\n"
        "signer_key = key.pem\nsigner_digest = sha256\ndefault_policy = 1.2.3.4\ndigests = sha256,sha384,sha512\n"
        "ess_cert_id_alg = sha256\n"
    )
    served = type("Here", (Authority,), {"folder": tmp_path})
    with ThreadingHTTPServer(("127.0.0.1", 0), served) as server:
        Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}/tsa"
        server.shutdown()


@pytest.mark.skipif(shutil.which("openssl") is None, reason="OpenSSL's command plays the authority")
def test_where_an_authority_is_given_the_signature_has_its_time(authority, tmp_path):
    labelled = write_label(picture("PNG"), LABEL)
    state, manifest, _ = read("PNG", sign(labelled, LABEL, CERTIFICATES, pem(KEY), tsa_url=authority))
    assert state == "Trusted"
    stamped = datetime.fromisoformat(manifest["signature_info"]["time"])
    assert abs((stamped - datetime.now(UTC)).total_seconds()) < 60
    assert (tmp_path / "query").exists()
    _, plain, _ = read("PNG", sign(labelled, LABEL, CERTIFICATES, pem(KEY)))
    assert "time" not in plain["signature_info"]


def test_an_authority_that_does_not_answer_is_no_fault_of_the_picture_s():
    labelled = write_label(picture("PNG"), LABEL)
    with pytest.raises(ConnectionError, match="authority did not answer") as caught:
        sign(labelled, LABEL, CERTIFICATES, pem(KEY), tsa_url="http://user:secret@127.0.0.1:9/tsa")
    assert "secret" not in str(caught.value)


def test_without_the_extra_it_says_what_to_install(monkeypatch):
    monkeypatch.setitem(sys.modules, "c2pa", None)
    with pytest.raises(ImportError, match=r"airflow-provider-bgai\[c2pa\]"):
        sign(write_label(picture("PNG"), LABEL), LABEL, CERTIFICATES, pem(KEY))
