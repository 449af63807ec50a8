"""Signed provenance (C2PA, "Content Credentials") for a labelled picture, with the user's own certificate.

Comes after everything else: the signature covers every byte, the XMP label too, so nothing may be changed behind it.
Needs the extra ``c2pa``.
"""

from __future__ import annotations

import io
from datetime import UTC, datetime
from typing import Any

from airflow_provider_bgai import __version__
from airflow_provider_bgai.imaging.label import VOCABULARY, Label, LabelError, read_label
from airflow_provider_bgai.models import picture_type

# Thumbnails are on by default, and make 278 kB of a WebP of 12 kB. Nothing is fetched from the network.
_SETTINGS: dict[str, Any] = {
    "builder": {"thumbnail": {"enabled": False}},
    "verify": {"verify_after_sign": True, "remote_manifest_fetch": False, "ocsp_fetch": False},
}
_PARENT = "parent"


def sign(
    data: bytes,
    label: Label,
    certificate_pem: bytes,
    key_pem: bytes,
    *,
    alg: str = "es256",
    tsa_url: str | None = None,
    original: bytes | None = None,
) -> bytes:
    """Add a signed C2PA manifest that says the same as the label; about 3 kB.

    A manifest that is there already (the vendor's) is kept inside the new one, as that of the ingredient.

    :param data: the labelled picture: PNG, JPEG, WebP or AVIF.
    :param certificate_pem: the certificate of the key, followed by those that vouch for it.
    :param key_pem: the private key (PKCS #8), never written anywhere.
    :param alg: es256, es384, es512, ps256, ps384, ps512 or ed25519, as the key demands.
    :param tsa_url: a time-stamping authority (RFC 3161), asked over the network, so that the signature outlives
        the certificate.
    :param original: the same picture as the vendor sent it. Its manifest still fits its bytes, while in ``data`` it
        became invalid with the first change.
    :raises LabelError: if ``data`` does not carry ``label``, or cannot be signed with this key.
    :raises ImportError: without the extra ``c2pa``.
    """
    try:
        import c2pa
    except ImportError:
        raise ImportError("signing needs the extra: pip install 'airflow-provider-bgai[c2pa]'") from None

    kind = picture_type(data[:16])
    if kind is None or read_label(data) != label:
        raise LabelError("only what carries its label can be signed")
    parent = data if original is None else original
    parent_kind = picture_type(parent[:16])
    if parent_kind is None:
        raise LabelError(f"original is not a picture; it starts with {parent[:16]!r}")
    made = {
        "digitalSourceType": VOCABULARY + label.source_type,
        "when": datetime.fromtimestamp(label.created, UTC).isoformat(),
        "softwareAgent": {
            "name": label.vendor or "airflow-provider-bgai",
            **({"version": label.model} if label.model else {}),
        },
    }
    signed = io.BytesIO()
    try:
        with c2pa.Context.from_dict(_SETTINGS) as context:
            reader = c2pa.Reader.try_create(parent_kind[1], io.BytesIO(parent), context=context)
            actions: list[dict[str, Any]] = [{"action": "c2pa.created", **made}]
            if reader:
                reader.close()
                opened = {"action": "c2pa.opened", "parameters": {"ingredientIds": [_PARENT]}}
                actions = [opened, {"action": "c2pa.edited", **made}]
            manifest = {
                "title": label.id,
                "claim_generator_info": [{"name": "airflow-provider-bgai", "version": __version__}],
                "assertions": [{"label": "c2pa.actions.v2", "data": {"actions": actions}}],
            }
            info = c2pa.C2paSignerInfo(
                alg.encode(), certificate_pem, key_pem, tsa_url.encode() if tsa_url is not None else None
            )
            with c2pa.Builder(manifest, context) as builder, c2pa.Signer.from_info(info) as signer:
                if reader:
                    ingredient = {"title": label.id, "relationship": "parentOf", "label": _PARENT}
                    builder.add_ingredient(ingredient, parent_kind[1], io.BytesIO(parent))
                builder.sign(signer, kind[1], io.BytesIO(data), signed)
    except c2pa.C2paError as error:
        raise LabelError(f"cannot be signed: {error}") from None
    if read_label(signed.getvalue()) != label:
        raise LabelError("signing has lost the label")
    return signed.getvalue()
