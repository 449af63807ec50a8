"""Signed provenance (C2PA, "Content Credentials") for a labelled picture, with the user's own certificate.

Comes after everything else: the signature covers every byte, the XMP label too, so nothing may be changed behind it.
Needs the extra ``c2pa``.

Source: C2PA specification 2.2, 18.15 (actions: ``c2pa.created`` says how it came about; ``c2pa.opened`` has its parent,
``c2pa.placed`` its component), 18.16 (ingredients).
"""

from __future__ import annotations

import io
import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from hashlib import sha256
from typing import TYPE_CHECKING, Any

from pydantic import BaseModel, ConfigDict

from airflow_provider_bgai import __version__
from airflow_provider_bgai.imaging.label import VOCABULARY, Label, LabelError, read_label
from airflow_provider_bgai.imaging.marks import without_manifest
from airflow_provider_bgai.models import picture_type

if TYPE_CHECKING:
    import c2pa

# Thumbnails are on by default, and make 278 kB of a WebP of 12 kB. Nothing is fetched from the network.
_SETTINGS: dict[str, Any] = {
    "builder": {"thumbnail": {"enabled": False}},
    "verify": {"verify_after_sign": True, "remote_manifest_fetch": False, "ocsp_fetch": False},
}
EVIDENCE = "org.airflow-provider-bgai.evidence"
"""The label of the assertion that holds a file's evidence: an entity-specific one, as the specification has them."""
_NOT_REACHED = "http resolver"
"""The words of the library's errors about a server."""
_OURS = {"name": "airflow-provider-bgai", "version": __version__}


@dataclass(frozen=True, kw_only=True)
class Making:
    """How a picture came about, for its manifest.

    :param original: what the vendor delivered, byte by byte. If it has a manifest of its own, it is the parent.
    :param cutout: the shop's own picture, byte by byte, which was sent. Where no vendor had a part, it is the parent.
    :param pasted: whether its pixels were put back by us; else the vendor has placed it.
    :param steps: what was done since: actions of C2PA, as ``"c2pa.resized"``, each with words or with None.
    :param evidence: what else is known of it; strangers read it. The assertion :data:`EVIDENCE`.
    """

    original: bytes | None = None
    cutout: bytes | None = None
    pasted: bool = False
    steps: tuple[tuple[str, str | None], ...] = ()
    evidence: Mapping[str, Any] | None = None


class Claim(BaseModel):
    """What the newest manifest of a picture says, as far as it can be read.

    :param generator: the software that made it.
    :param issuer: whose certificate signed it; whether anybody trusts that is not asked here.
    :param source_type: the last ``digitalSourceType`` among its actions.
    :param valid: whether it fits the bytes it came with; None if nobody could tell.
    """

    model_config = ConfigDict(frozen=True, extra="ignore")

    generator: str | None = None
    issuer: str | None = None
    source_type: str | None = None
    valid: bool | None = None

    def __str__(self) -> str:
        signer = f"signed by {self.issuer}" if self.issuer else None
        fits = "not valid as it came" if self.valid is False else None
        return ", ".join(filter(None, (self.generator, signer, self.source_type, fits)))


def read_claim(data: bytes) -> Claim:
    """Ask the manifest of a picture that has one; nothing is fetched. Without the extra ``c2pa``: an empty claim."""
    try:
        import c2pa
    except ImportError:
        return Claim()
    kind = picture_type(data[:16])
    assert kind is not None
    try:
        with c2pa.Context.from_dict(_SETTINGS) as context:
            reader = c2pa.Reader.try_create(kind[1], io.BytesIO(data), context=context)
            if reader is None:
                return Claim()
            with reader:
                store, state = json.loads(reader.json()), reader.get_validation_state()
    except c2pa.C2paError:
        return Claim(valid=False)
    manifest = store["manifests"].get(store.get("active_manifest"), {})
    generators = manifest.get("claim_generator_info") or [{"name": manifest.get("claim_generator")}]
    actions = [
        action
        for assertion in manifest.get("assertions", ())
        if assertion["label"].startswith("c2pa.actions")
        for action in assertion["data"].get("actions", ())
    ]
    types = [action["digitalSourceType"] for action in actions if action.get("digitalSourceType")]
    return Claim(
        generator=" ".join(filter(None, (generators[0].get("name"), generators[0].get("version")))) or None,
        issuer=(manifest.get("signature_info") or {}).get("issuer"),
        source_type=types[-1].rpartition("/")[2] if types else None,
        valid=state != "Invalid",
    )


def sign(
    data: bytes,
    label: Label,
    certificate_pem: bytes,
    key_pem: bytes,
    *,
    alg: str = "es256",
    tsa_url: str | None = None,
    making: Making = Making(),
) -> bytes:
    """Add a signed C2PA manifest that says the same as the label, and how the picture came about; about 3 kB.

    A manifest that the vendor's picture or the cut-out brought along is kept inside the new one, as that of the
    ingredient, with what was found about its validity.

    :param data: the labelled picture: PNG, JPEG, WebP or AVIF, without a manifest.
    :param certificate_pem: the certificate of the key, followed by those that vouch for it.
    :param key_pem: the private key (PKCS #8), never written anywhere.
    :param alg: es256, es384, es512, ps256, ps384, ps512 or ed25519, as the key demands.
    :param tsa_url: a time-stamping authority (RFC 3161), asked over the network, so that the signature outlives
        the certificate.
    :raises ConnectionError: if the time-stamping authority cannot be reached.
    :raises LabelError: if ``data`` does not carry ``label``, has a manifest already (nobody could say any more what
        that one fits), or cannot be signed with this key.
    :raises ImportError: without the extra ``c2pa``.
    """
    try:
        import c2pa
    except ImportError:
        raise ImportError("signing needs the extra: pip install 'airflow-provider-bgai[c2pa]'") from None

    kind = picture_type(data[:16])
    if kind is None or read_label(data) != label:
        raise LabelError("only what carries its label can be signed")
    if without_manifest(data) is not data:
        raise LabelError("it has a C2PA manifest already: take it out, and give the file that it fits as the original")
    signed = io.BytesIO()
    try:
        with c2pa.Context.from_dict(_SETTINGS) as context:
            ingredients = list(_ingredients(making, label, context))
            said = [("c2pa.actions.v2", {"actions": _actions(making, label, ingredients)})]
            if making.evidence is not None:
                said.append((EVIDENCE, dict(making.evidence)))
            manifest = {
                "title": label.id,
                "claim_generator_info": [_OURS],
                "assertions": [{"label": name, "data": data} for name, data in said],
            }
            info = c2pa.C2paSignerInfo(
                alg.encode(), certificate_pem, key_pem, tsa_url.encode() if tsa_url is not None else None
            )
            with c2pa.Builder(manifest, context) as builder, c2pa.Signer.from_info(info) as signer:
                for ingredient, content_type, body in ingredients:
                    builder.add_ingredient(ingredient, content_type, io.BytesIO(body))
                builder.sign(signer, kind[1], io.BytesIO(data), signed)
    except c2pa.C2paError as error:
        if tsa_url is not None and _NOT_REACHED in str(error):
            # Nothing is wrong with the picture or the key. Without the URL, which may hold a password.
            raise ConnectionError("cannot be signed for now: the time-stamping authority did not answer") from None
        raise LabelError(f"cannot be signed: {error}") from None
    if read_label(signed.getvalue()) != label:
        raise LabelError("signing has lost the label")
    return signed.getvalue()


_Ingredient = tuple[dict[str, str], str, bytes]
_PARENT, _CUTOUT = "parent", "cutout"


def _ingredients(making: Making, label: Label, context: c2pa.Context) -> Iterator[_Ingredient]:
    """What the picture was made of: a description, a content type and the bytes of each."""
    if label.vendor is not None and making.original is not None:
        parent = _ingredient(_PARENT, "parentOf", f"as delivered by {label.vendor}", making.original, context)
        if without_manifest(making.original) is not making.original:
            yield parent
    if making.cutout is not None:
        relationship = "componentOf" if label.vendor is not None else "parentOf"
        yield _ingredient(_CUTOUT, relationship, "the shop's own picture", making.cutout, context)


def _ingredient(name: str, relationship: str, title: str, body: bytes, context: c2pa.Context) -> _Ingredient:
    import c2pa

    # Of a file without a manifest nothing else tells which one it was.
    words = f"sha256 {sha256(body).hexdigest()}"
    kind = picture_type(body[:16])
    content_type = kind[1] if kind else "application/octet-stream"
    try:
        if reader := c2pa.Reader.try_create(content_type, io.BytesIO(body), context=context) if kind else None:
            reader.close()
    except c2pa.C2paError as error:
        # As a picture it would make the whole unsignable.
        content_type, words = "application/octet-stream", f"{words}; its own manifest could not be read: {error}"
    description = {"title": title, "relationship": relationship, "label": name, "description": words}
    return description, content_type, body


def _actions(making: Making, label: Label, ingredients: list[_Ingredient]) -> list[dict[str, Any]]:
    """What was done, in order; the first one is created or opened, as the specification demands."""
    names = {ingredient["label"] for ingredient, _, _ in ingredients}
    made: dict[str, Any] = {
        "digitalSourceType": VOCABULARY + label.source_type,
        "when": datetime.fromtimestamp(label.created, UTC).isoformat(),
        "softwareAgent": _agent(label),
    }
    steps = [_done(action, words) for action, words in making.steps]
    if label.vendor is None and _CUTOUT in names:
        return [_with("c2pa.opened", _CUTOUT), {"action": "c2pa.edited", **made}, *steps]
    placed = _with("c2pa.placed", _CUTOUT, softwareAgent=_OURS if making.pasted else made["softwareAgent"])
    if _PARENT not in names:
        return [{"action": "c2pa.created", **made}, *([placed] if _CUTOUT in names else ()), *steps]
    # Who opened it did not create it: the origin stands with what made a composite of it.
    by_vendor = {**placed, **made, "softwareAgent": placed["softwareAgent"]}
    said = by_vendor if _CUTOUT in names else {"action": "c2pa.edited", **made}
    return [_with("c2pa.opened", _PARENT), said, *steps, _done("c2pa.edited.metadata", "the label in XMP")]


def _agent(label: Label) -> Mapping[str, str]:
    if label.vendor is None:
        return _OURS
    return {"name": label.vendor, **({"version": label.model} if label.model else {})}


def _with(action: str, ingredient: str, **fields: Any) -> dict[str, Any]:
    return {"action": action, "parameters": {"ingredientIds": [ingredient]}, **fields}


def _done(action: str, words: str | None) -> dict[str, Any]:
    return {"action": action, "softwareAgent": _OURS, **({"description": words} if words else {})}
