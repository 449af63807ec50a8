"""A paid call as plain data: what stands in its record, its states, and what each state means for the money.

============  ===========  =========================================================================  ========
from          to           because                                                                    money
============  ===========  =========================================================================  ========
(nothing)     sent         created conditionally, right before the bytes go out                       perhaps
sent          answered     task ID or links are known, or the bytes are in ``incoming/``              perhaps
sent          failed       an answer documented as free, or never sent; by its sender only            no
sent          unknown      its hold has ended and ``incoming/`` is empty; final                       perhaps
answered      landed       the pictures are in S3, looked at and labelled                             paid
answered      quarantined  they do not show the product                                               paid
answered      failed       the vendor's own failed state, documented as free                          no
answered      lost         paid, and certainly cannot be had any more                                 paid
answered      unknown      the vendor's own failed state, which no page documents as free; final      perhaps
============  ===========  =========================================================================  ========

"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Mapping
from decimal import Decimal
from typing import Literal, get_args

from pydantic import BaseModel, ConfigDict, Field, PrivateAttr

from airflow_provider_bgai.exceptions import BY_REASON, BgaiError, LostError, UnfaithfulError, UnknownOutcomeError
from airflow_provider_bgai.get_provider_info import system_of
from airflow_provider_bgai.imaging.fidelity import Verdict
from airflow_provider_bgai.imaging.inspect import Box, Inspection
from airflow_provider_bgai.imaging.label import SOURCE_TYPES, Label
from airflow_provider_bgai.imaging.sign import Claim
from airflow_provider_bgai.layout import out_of_quarantine

State = Literal["sent", "answered", "failed", "unknown", "landed", "quarantined", "lost"]
STATES: tuple[State, ...] = get_args(State)

NEXT: Mapping[State, frozenset[State]] = {
    "sent": frozenset({"answered", "failed", "unknown"}),
    "answered": frozenset({"landed", "quarantined", "failed", "lost", "unknown"}),
}
"""What may follow a state. The others are ends."""

PAID: frozenset[State] = frozenset({"landed", "quarantined", "lost"})
ENDS: frozenset[State] = PAID | {"failed", "unknown"}
IN_VAIN: frozenset[State] = frozenset({"unknown", "lost", "quarantined"})

# One encoder: json.dumps() makes one for each of 100,000 products.
_canonical = json.JSONEncoder(sort_keys=True, separators=(",", ":"), ensure_ascii=False).encode


class Delivered(BaseModel):
    """A picture as the vendor delivered it, kept because the label changes what it said of itself.

    :param uri: relative to the destination while it stands in a record, whole elsewhere.
    :param claim: what its C2PA manifest says; None if it has none.
    """

    model_config = ConfigDict(frozen=True, extra="ignore")

    uri: str
    sha256: str
    claim: Claim | None = None


class Output(BaseModel):
    """One landed picture. ``bytes`` is its size; sides in px.

    :param uri: relative to the destination while it stands in a record, whole elsewhere.
    :param fidelity: whether it shows the product, and by which numbers; None where nobody could compare.
    :param delivered: how it came; None where nothing but our label was added.
    """

    model_config = ConfigDict(frozen=True, extra="ignore")

    uri: str
    bytes: int
    sha256: str
    width: int
    height: int
    content_type: str
    fidelity: Verdict | None = None
    delivered: Delivered | None = None

    def moved(self, named: Callable[[str], str]) -> Output:
        """The same with other names for its files."""
        delivered = self.delivered and self.delivered.model_copy(update={"uri": named(self.delivered.uri)})
        return self.model_copy(update={"uri": named(self.uri), "delivered": delivered})


class Thumbnails(BaseModel):
    """What a report shows of a purchase: the source, if it was at hand, and the pictures, as small WebP files."""

    model_config = ConfigDict(frozen=True, extra="ignore", ser_json_bytes="base64", val_json_bytes="base64")

    before: bytes | None = Field(default=None, repr=False)
    afters: tuple[bytes, ...] = Field(default=(), repr=False)


class Call(BaseModel):
    """One paid request to a vendor for a wish.

    :param call_id: random, made before anything is written.
    :param number: 1, 2, 3 … of the wish.
    :param run: the run that sent it; its cost is that run's for ever.
    :param owner: the shard or task instance that sent it, the same for all its tries.
    :param worker: random per process.
    :param pictures: how many were asked for; how many came, once it has landed.
    :param price: of the whole call; None where it is not known.
    :param sent_at, answer_by, answered_at, ended_at: epoch seconds on the store's clock.
    :param held_until: from then on a call without an answer is given up as unknown, and its wish may be bought
        again; None: when somebody decides so.
    :param links: where a vendor without tasks keeps its results; as secret as the pictures, so they stand here, in the
        shop's own bucket, and nowhere else.
    :param incoming: whether the answer's body is in ``incoming/``.
    :param before: how often its wish was paid in vain or in doubt until then.
    :param source: the image that was sent, without a query; ``source_sha256`` of its bytes.
    """

    model_config = ConfigDict(frozen=True, extra="ignore")

    schema_version: int = 1
    call_id: str
    fingerprint: str
    number: int
    run: str
    owner: str
    worker: str = ""
    state: State = "sent"
    conn_id: str
    vendor: str
    model: str | None = None
    seed: int | None = None
    pictures: int = 1
    price: Decimal | None = None
    currency: str = "USD"
    sku: str = ""
    category: str = ""
    sent_at: float
    answer_by: float
    held_until: float | None = None
    answered_at: float | None = None
    ended_at: float | None = None
    task_id: str | None = None
    links: tuple[str, ...] = Field(default=(), repr=False)
    incoming: bool = False
    placement: Box | None = None
    before: int = 0
    source: str = ""
    source_sha256: str = ""
    prompt_sha256: str | None = None
    inspection: Inspection = Inspection()
    images: tuple[Output, ...] = ()
    quarantined: tuple[Output, ...] = ()
    thumbnails: Thumbnails = Thumbnails()
    warnings: tuple[str, ...] = ()
    reason: str | None = None
    error: str | None = None

    _etag: str = PrivateAttr("")

    @property
    def in_vain(self) -> int:
        """How often its wish was paid in vain or in doubt, this call included."""
        return self.before + (self.state in IN_VAIN)

    @property
    def what(self) -> str:
        """The call in words: for logs and errors."""
        price = "unknown price" if self.price is None else f"{self.price} {self.currency}"
        task = f" task {self.task_id}," if self.task_id else ""
        return f"{self.vendor}{task} call {self.call_id} ({price})"

    def label(
        self,
        index: int,
        name: str = "",
        *,
        source_type: str = SOURCE_TYPES[0],
        prompt: str | None = None,
        by_vendor: bool = True,
    ) -> Label:
        """What a file says of itself: its ``index``-th picture (from 1), or the rendition ``name`` of that one.

        Nothing in it differs between two who land, or finish, the same call.

        :param prompt: what was asked for, where the shop wants that to be read.
        :param by_vendor: whether an AI had a part in the file.
        """
        return Label(
            source_type=source_type,
            vendor=system_of(self.vendor) if by_vendor else None,
            model=self.model if by_vendor else None,
            prompt=prompt,
            created=self.sent_at,
            id="-".join(filter(None, (f"{self.fingerprint}.{self.number}", str(index), name))),
        )

    def body(self) -> bytes:
        """The record as it is stored."""
        return self.model_dump_json().encode()

    def accepted(self) -> Call:
        """The call as if its pictures had landed, because a person has accepted them. To be read, never to be written:
        what it cost, and how it ended, stays as it was."""
        if self.state != "quarantined":
            return self
        images = tuple(it.model_copy(update={"uri": out_of_quarantine(it.uri)}) for it in self.quarantined)
        good = {"state": "landed", "images": images, "quarantined": (), "reason": None, "error": None}
        return self.model_copy(update=good)

    def for_books(self) -> Call:
        """The call as a line of the books: no pictures, no links."""
        return self.model_copy(update={"links": (), "thumbnails": Thumbnails()})


def error_of(call: Call) -> BgaiError | None:
    """The error that an ended call stands for; None for one whose pictures have landed."""
    message, task = call.error or f"{call.what} is {call.state}", call.task_id
    if call.state in ("landed", "sent", "answered"):
        return None
    if call.state == "quarantined":
        return UnfaithfulError(message, vendor=call.vendor, task_id=task)
    if call.state == "lost":
        return LostError(message, vendor=call.vendor, task_id=task)
    if call.state == "unknown":
        return UnknownOutcomeError(message, vendor=call.vendor, task_id=task)
    return BY_REASON.get(call.reason or "", BgaiError)(message, vendor=call.vendor, task_id=task)


def fingerprint(
    fields: Mapping[str, str],
    *,
    source: str,
    guidance: str | None,
    vendor: str,
    model: str | None,
    count: int,
    epoch: str | None = None,
) -> str:
    """The name of a wish: equal for equal requests, whoever serves them and wherever they land.

    :param fields: what the preferred vendor's hook would send, as text (``hook.wire_fields``).
    :param source: sha256 of the source's bytes; ``guidance`` of the guidance image's.
    :param epoch: any text; another one asks to buy anew.
    """
    wish = {"vendor": vendor, "model": model, "source": source, "guidance": guidance, "count": count, "epoch": epoch}
    known = {name: value for name, value in wish.items() if value is not None}
    return hashlib.sha256(_canonical([known, dict(fields)]).encode("utf-8", "surrogatepass")).hexdigest()
