"""Pictures as vendors deliver them: marked and signed by somebody else's hand, with certificates of a root of ours."""

from __future__ import annotations

import datetime
import io
import json
from typing import Any

import c2pa
import numpy as np
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID, ObjectIdentifier
from PIL import Image, PngImagePlugin

from airflow_provider_bgai.imaging.xmp import find_packet

TYPES = {"PNG": "image/png", "JPEG": "image/jpeg", "WEBP": "image/webp", "AVIF": "image/avif"}
AIGC = '{"Label":"1","ContentProducer":"acme","ProduceID":"7f3a"}'
XMP = """<x:xmpmeta xmlns:x="adobe:ns:meta/"><rdf:RDF xmlns:rdf="http://www.w3.org/1999/02/22-rdf-syntax-ns#">
<rdf:Description rdf:about="" xmlns:photoshop="http://ns.adobe.com/photoshop/1.0/" xmlns:tiff="http://ns.adobe.com/tiff/1.0/"
 xmlns:TC260="http://www.tc260.org.cn/ns/AIGC/1.0/" photoshop:Credit="Made by Acme" tiff:Orientation="6"{aigc}/>
</rdf:RDF></x:xmpmeta>"""
AIGC_ATTRIBUTE = f" TC260:AIGC='{AIGC}'"


def issue(
    subject: str, key: Any, root_key: Any, usage: ObjectIdentifier = ExtendedKeyUsageOID.EMAIL_PROTECTION
) -> bytes:
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
        builder = builder.add_extension(x509.ExtendedKeyUsage([usage]), critical=True)
    return builder.sign(root_key, hashes.SHA256()).public_bytes(Encoding.PEM)


def pem(key: Any) -> bytes:
    found: bytes = key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
    return found


ROOT_KEY, KEY = (ec.generate_private_key(ec.SECP256R1()) for _ in range(2))
ROOT = issue("root", ROOT_KEY, ROOT_KEY)
CERTIFICATES = issue("a shop", KEY, ROOT_KEY) + ROOT


def drawn(side: int = 300, seed: int = 5) -> Image.Image:
    """A smooth picture, as photographs are; small in every format."""
    pixels = np.random.default_rng(seed).integers(0, 255, (5, 5, 3), dtype=np.uint8)
    return Image.fromarray(pixels).resize((side, side), Image.Resampling.BICUBIC)


def picture(kind: str, side: int = 300, seed: int = 5) -> bytes:
    buffer = io.BytesIO()
    drawn(side, seed).save(buffer, kind)
    return buffer.getvalue()


def marked(kind: str, where: str = "xmp", side: int = 300, seed: int = 5) -> bytes:
    """A picture with XMP and the mark ``AIGC``.

    :param where: of the mark: ``xmp``, ``text`` (a PNG's chunk), ``exif`` or ``segment`` (of a JPEG).
    """
    options: dict[str, Any] = {}
    if where == "text":
        options["pnginfo"] = PngImagePlugin.PngInfo()
        options["pnginfo"].add_text("AIGC", AIGC)
    if where == "exif":
        exif = Image.Exif()
        exif.get_ifd(0x8769)[0x9286] = b"ASCII\0\0\0" + f'{{"AIGC":{AIGC}}}'.encode()
        options["exif"] = exif.tobytes()
    buffer = io.BytesIO()
    drawn(side, seed).save(buffer, kind, **options)
    data = buffer.getvalue()
    if where == "segment":
        body = b"AIGC" + AIGC.encode()
        data = data[:2] + b"\xff\xeb" + (len(body) + 2).to_bytes(2) + body + data[2:]
    return find_packet(data).put(XMP.format(aigc=AIGC_ATTRIBUTE if where == "xmp" else "").encode())


def signed_by_vendor(data: bytes, kind: str) -> bytes:
    """The picture with a manifest of the vendor's, with a thumbnail, as the library makes it by itself."""
    manifest = {
        "title": "acme",
        "claim_generator_info": [{"name": "Acme Painter", "version": "2"}],
        "assertions": [
            {
                "label": "c2pa.actions.v2",
                "data": {
                    "actions": [
                        {
                            "action": "c2pa.created",
                            "digitalSourceType": "http://cv.iptc.org/newscodes/digitalsourcetype/trainedAlgorithmicMedia",
                        }
                    ]
                },
            }
        ],
    }
    info = c2pa.C2paSignerInfo(b"es256", CERTIFICATES, pem(KEY), None)
    out = io.BytesIO()
    with c2pa.Builder(manifest) as builder, c2pa.Signer.from_info(info) as signer:
        builder.sign(signer, TYPES[kind], io.BytesIO(data), out)
    return out.getvalue()


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
