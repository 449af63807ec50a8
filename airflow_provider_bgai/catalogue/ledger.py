"""Who may pay for what: the claims and landed records in S3 that make buying twice impossible or declared.

What must stay true:

* Nothing is submitted without a claim in state ``claimed`` that this run wrote itself, conditionally.
* A task ID is written the moment it is known, and whoever finds one collects it instead of buying.
* Every change replaces the very version that was read (``If-Match``), so of two racers one loses and
  reads again.
* A claim is never deleted: what became of the money stays on record.

======================  =========================================  ======================
from                    to                                         because
======================  =========================================  ======================
(nothing)               claimed                                    a picture is wanted
claimed                 submitted                                  the vendor gave a task ID or links
claimed                 failed                                     refused or failed, nothing paid
claimed                 held                                       nobody knows whether it was paid
claimed, submitted      lost                                       paid, cannot be fetched any more
claimed, submitted      quarantined                                paid, does not show the product
submitted               failed                                     the task failed, nothing paid
claimed, submitted,     landed                                     its landed pictures were deleted
held
held                    submitted                                  the answer came after all
failed, held, lost,     claimed                                    bought again, on purpose
quarantined, landed
======================  =========================================  ======================

Whoever ends a claim (held, failed, lost, quarantined, or a landed record) reports all that it carries, once: the price
of its call, and what earlier calls of the same run cost in vain. So two runs that collect one task never both report
its price.

A landed record that is younger than the claim ends it all: the pictures are safely in S3. The claim is not
changed then; it says ``landed`` only after somebody deleted the pictures.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import asdict
from decimal import Decimal
from typing import Literal

from pydantic import BaseModel, ConfigDict, Field, PrivateAttr

from airflow_provider_bgai.imaging.fidelity import Verdict
from airflow_provider_bgai.models import BackgroundRequest
from airflow_provider_bgai.storage import Storage

ClaimState = Literal["claimed", "submitted", "landed", "held", "failed", "lost", "quarantined"]

TRANSITIONS: Mapping[ClaimState | None, frozenset[ClaimState]] = {
    None: frozenset({"claimed"}),
    "claimed": frozenset({"submitted", "landed", "held", "failed", "lost", "quarantined"}),
    "submitted": frozenset({"landed", "failed", "lost", "quarantined"}),
    "landed": frozenset({"claimed"}),
    "held": frozenset({"claimed", "submitted", "landed"}),
    "failed": frozenset({"claimed"}),
    "lost": frozenset({"claimed"}),
    "quarantined": frozenset({"claimed"}),
}

# Part of every fingerprint: raise it when the same vendor answer would be published differently.
POST_PROCESSING = 1


class LostRaceError(Exception):
    """Another run changed the claim first. Read it again."""


class Output(BaseModel):
    """One landed picture. ``bytes`` is its size; sides in px.

    :param fidelity: whether it shows the product, and by which numbers; None where nobody could compare.
    """

    model_config = ConfigDict(frozen=True, extra="ignore")

    uri: str
    bytes: int
    sha256: str
    width: int
    height: int
    content_type: str
    fidelity: Verdict | None = None


class Thumbnails(BaseModel):
    """What a report shows of a purchase: the source, if it was at hand, and the pictures, as small WebP files."""

    model_config = ConfigDict(frozen=True, extra="ignore", ser_json_bytes="base64", val_json_bytes="base64")

    before: bytes | None = Field(default=None, repr=False)
    afters: tuple[bytes, ...] = Field(default=(), repr=False)


class Wasted(BaseModel):
    """A call that was paid for certain and came to nothing that can be published.

    :param outcome: ``lost`` also if it landed and somebody deleted the pictures.
    :param price: of the whole call; None where it is not known.
    """

    model_config = ConfigDict(frozen=True, extra="ignore")

    outcome: Literal["lost", "quarantined"]
    vendor: str
    conn_id: str
    pictures: int
    price: Decimal | None
    currency: str


class Claim(BaseModel):
    """The right to pay for one picture, and what became of it.

    :param owner: the task instance that wrote it, the same for all its tries.
    :param ended_by: who ended it and reports what it cost, if not the owner.
    :param images: how many pictures the call makes.
    :param price: of the whole call; None where it is not known.
    :param expires_at: epoch seconds; after this, whoever wrote ``claimed`` is not at work any more.
    :param held_until: epoch seconds; from then on a held claim may be bought again. None: never.
    :param links: where a vendor without tasks (Katalis) keeps its results; as secret as the pictures, which
        is why they stand here, in the shop's own bucket, and nowhere else.
    :param paid_before: earlier calls for this picture that were, or may have been, paid: the budget counts each.
    :param source: the image that was sent, to compare the result with; None for bytes.
    :param plain, keeps_frame: a plain background, or nothing but another background, was asked for.
    :param quarantined: pictures that do not show the product.
    :param unknown: how many paid calls for this picture ended in an unknown outcome, this one included.
    :param unknown_in_run: those of them that who ends the claim has to report.
    :param wasted_in_run: earlier calls, paid in vain, that who ends the claim has to report.
    """

    model_config = ConfigDict(frozen=True, extra="ignore")

    schema_version: int = 1
    fingerprint: str
    state: ClaimState
    owner: str
    ended_by: str | None = None
    vendor: str
    conn_id: str
    images: int
    price: Decimal | None = None
    currency: str = "USD"
    claimed_at: float
    expires_at: float
    submitted_at: float | None = None
    task_id: str | None = None
    links: tuple[str, ...] = Field(default=(), repr=False)
    held_until: float | None = None
    unknown: int = 0
    unknown_in_run: int = 0
    wasted_in_run: tuple[Wasted, ...] = ()
    paid_before: int = 0
    reason: str | None = None
    error: str | None = None
    seed: int | None = None
    model: str | None = None
    prompt_sha256: str | None = None
    destination: str
    source: str | None = Field(default=None, repr=False)
    plain: bool = False
    keeps_frame: bool = True
    quarantined: tuple[Output, ...] = ()
    thumbnails: Thumbnails = Thumbnails()

    _uri: str = PrivateAttr("")
    _etag: str = PrivateAttr("")

    @property
    def uri(self) -> str:
        """Where the claim is stored."""
        return self._uri

    @property
    def ended(self) -> bool:
        """Whether its call has come to something that is to be reported."""
        return self.state not in ("claimed", "submitted")

    @property
    def reporter(self) -> str:
        """Who reports what it cost."""
        return self.ended_by or self.owner

    @property
    def in_vain(self) -> tuple[Wasted, ...]:
        """All that was paid in vain, this call included."""
        if self.state not in ("lost", "quarantined", "landed"):
            return self.wasted_in_run
        call = Wasted(
            outcome="quarantined" if self.state == "quarantined" else "lost",
            vendor=self.vendor,
            conn_id=self.conn_id,
            pictures=self.images,
            price=self.price,
            currency=self.currency,
        )
        return (*self.wasted_in_run, call)


class Landed(BaseModel):
    """The pictures of one wish are safely in S3.

    :param owner: the task that landed them, whichever paid; it reports their price.
    :param quarantined: those of the same call that do not show the product.
    """

    model_config = ConfigDict(frozen=True, extra="ignore")

    schema_version: int = 1
    fingerprint: str
    vendor: str
    conn_id: str
    task_id: str | None
    price: Decimal | None
    currency: str
    seed: int | None
    model: str | None
    prompt_sha256: str | None
    seconds: float
    landed_at: float
    owner: str = ""
    unknown: int = 0
    unknown_in_run: int = 0
    wasted_in_run: tuple[Wasted, ...] = ()
    warnings: tuple[str, ...] = ()
    images: tuple[Output, ...]
    quarantined: tuple[Output, ...] = ()
    thumbnails: Thumbnails = Thumbnails()


class Ledger:
    """The claims and landed records under one destination.

    :param storage: S3.
    :param root: ``s3://bucket/prefix`` of the destination; records live in ``_bgai/`` below it.
    """

    def __init__(self, storage: Storage, root: str) -> None:
        self.storage = storage
        self.root = root.rstrip("/")

    def claim_uri(self, fingerprint: str) -> str:
        return f"{self.root}/_bgai/claims/{fingerprint}"

    def landed_uri(self, fingerprint: str) -> str:
        return f"{self.root}/_bgai/landed/{fingerprint}"

    def read_claim(self, fingerprint: str) -> Claim | None:
        """The claim, or None. Unreadable content raises: it is no licence to buy."""
        try:
            return read_claim(self.storage, self.claim_uri(fingerprint))
        except FileNotFoundError:
            return None

    def read_landed(self, fingerprint: str) -> Landed | None:
        """The landed record, or None."""
        try:
            return Landed.model_validate_json(self.storage.read(self.landed_uri(fingerprint)))
        except FileNotFoundError:
            return None

    def claim(self, claim: Claim, after: Claim | None) -> Claim:
        """Write ``claim``: as the first one, or in place of ``after``, which was read before.

        :raises LostRaceError: if somebody else wrote first.
        :raises ValueError: for a transition that is not in the table.
        """
        before = after.state if after else None
        if claim.state not in TRANSITIONS[before]:
            raise ValueError(f"claim {claim.fingerprint}: {before} -> {claim.state} is not allowed")
        uri = self.claim_uri(claim.fingerprint)
        body = claim.model_dump_json().encode()
        etag = self.storage.create(uri, body) if after is None else self.storage.replace(uri, body, after._etag)
        if etag is None:
            raise LostRaceError(uri)
        return _located(claim, uri, etag)

    def move(self, claim: Claim, state: ClaimState, **changes: object) -> Claim:
        """The same claim in another state. :raises LostRaceError: if it has changed since it was read."""
        return self.claim(claim.model_copy(update={"state": state, **changes}), claim)

    def land(self, landed: Landed, since: float = float("inf")) -> Landed:
        """Write the landed record, unless somebody else has landed the same call before.

        :param since: epoch seconds of the claim; an older record, of pictures that were deleted, is replaced.
        :returns: the record that stands.
        """
        uri, body = self.landed_uri(landed.fingerprint), landed.model_dump_json().encode()
        while self.storage.create(uri, body) is None:
            found, etag = self.storage.read_versioned(uri)
            there = Landed.model_validate_json(found)
            if there.landed_at >= since:
                return there
            if self.storage.replace(uri, body, etag) is not None:
                break
        return landed


def read_claim(storage: Storage, uri: str) -> Claim:
    """The claim at a URI. :raises FileNotFoundError: if there is none."""
    body, etag = storage.read_versioned(uri)
    return _located(Claim.model_validate_json(body), uri, etag)


def ledger_of(storage: Storage, record_uri: str) -> Ledger:
    """The ledger that a claim's or landed record's URI belongs to."""
    root, mark, _ = record_uri.rpartition("/_bgai/")
    if not mark:
        raise ValueError(f"{record_uri}: not a record of a ledger")
    return Ledger(storage, root)


def fingerprint(
    request: BackgroundRequest,
    *,
    image: str,
    guidance_image: str | None,
    vendor: str,
    model: str | None,
    epoch: str | None = None,
) -> str:
    """The name of a wanted picture: equal for equal wishes, whoever serves them and wherever they land.

    :param image: what identifies the source's content (a sha256, an ETag).
    :param guidance_image: the same for the guidance image.
    :param vendor: the preferred vendor.
    :param epoch: any text; another one asks to buy anew.
    """
    wish = asdict(request) | {
        "image": image,
        "guidance_image": guidance_image,
        "options": dict(request.options),
    }
    wish |= {"vendor": vendor, "model": model, "epoch": epoch, "post_processing": POST_PROCESSING}
    canonical = json.dumps(wish, sort_keys=True, separators=(",", ":"), default=str)
    return hashlib.sha256(canonical.encode()).hexdigest()


def prompt_sha256(request: BackgroundRequest) -> str | None:
    """Hash of the prompt, for records and object metadata: the prompt itself is the shop's business."""
    return hashlib.sha256(request.prompt.encode()).hexdigest() if request.prompt is not None else None


def _located(claim: Claim, uri: str, etag: str) -> Claim:
    claim = claim.model_copy()
    claim._uri, claim._etag = uri, etag
    return claim
