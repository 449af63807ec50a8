"""What people decide about calls, written down in ``_bgai/decisions/``: the next run reads it. Nobody deletes a record.

A decision belongs to one call. ``release``: let go of a held call, so that its wish may be bought again; ``keep``: hold
it on; ``buy``: buy its wish again, whatever became of it (in quarantine, given up).
"""

from __future__ import annotations

from typing import get_args

from pydantic import BaseModel, ConfigDict

from airflow_provider_bgai.buying.calls import Ledger
from airflow_provider_bgai.buying.decision import GIVE_UP, Decided, Last
from airflow_provider_bgai.buying.record import IN_VAIN, Call
from airflow_provider_bgai.exceptions import (
    BgaiError,
    GivenUpError,
    InvalidRequestError,
    UnfaithfulError,
    UnknownOutcomeError,
)
from airflow_provider_bgai.layout import Layout
from airflow_provider_bgai.storage import Storage


class Note(BaseModel):
    """A decision. ``at``: epoch seconds on the store's clock; ``by``: who decided, as far as it is known."""

    model_config = ConfigDict(frozen=True, extra="ignore")

    what: Decided
    call_id: str
    at: float
    by: str = ""


def read_decided(storage: Storage, layout: Layout, call: Call) -> Decided | None:
    """What was decided about a call; None if nothing was."""
    try:
        note = Note.model_validate_json(storage.read(layout.decision(call.fingerprint, call.number)))
    except FileNotFoundError:
        return None
    return note.what if note.call_id == call.call_id else None


def last_of(ledger: Ledger, call: Call, now: float) -> Last:
    """What is known of a wish by its last call: the record, and what has to be seen beside it. Blocking.

    :param now: epoch seconds on the store's clock.
    """
    late = call.state == "sent" and now >= call.answer_by
    asked = late or call.state in IN_VAIN or call.in_vain >= GIVE_UP
    return Last.of(
        call,
        there=call.state == "landed" and ledger.in_place(call),
        delivered=late and ledger.delivered(call),
        decided=read_decided(ledger.storage, ledger.layout, call) if asked else None,
    )


def decide_about(ledger: Ledger, fingerprint: str, what: Decided, *, by: str = "") -> Call:
    """Write down a decision about the last call of a wish.

    :raises InvalidRequestError: if there is no such wish, or what was decided makes no sense for its last call.
    """
    if what not in get_args(Decided):
        raise InvalidRequestError(f"{what!r}: must be one of {', '.join(get_args(Decided))}")
    call = ledger.last(fingerprint)
    if call is None:
        raise InvalidRequestError(f"{fingerprint}: there is no call for it below {ledger.layout.root}")
    fits = {"release": ("sent",), "keep": ("sent",), "buy": ("quarantined", "lost", "unknown", "failed", "sent")}[what]
    if call.state not in fits:
        raise InvalidRequestError(
            f"{what}: its last call is {call.state}; this is for calls that are {', '.join(fits)}"
        )
    note = Note(what=what, call_id=call.call_id, at=ledger.storage.now(), by=by)
    uri = ledger.layout.decision(call.fingerprint, call.number)
    ledger.storage.put(uri, note.model_dump_json().encode(), content_type="application/json")
    return call


def refusal(ledger: Ledger, call: Call, *, held: bool, until: float | None) -> BgaiError:
    """Why a wish is not bought now, and what a person may decide."""
    where = f"bgai-ledger release {ledger.layout.root} {call.fingerprint}"
    if held:
        left = "until somebody decides" if until is None else f"for {(until - ledger.storage.now()) / 3600:.1f} h more"
        return UnknownOutcomeError(
            f"Held {left}: {call.what} was not answered, and may or may not have been charged. Look at the vendor's "
            f"bill; to let it be bought again: {where}",
            vendor=call.vendor,
        )
    again = where.replace(" release ", " buy ")
    if call.state == "quarantined":
        return UnfaithfulError(
            f"{call.error}. It is not bought again by itself: ask for it (only='failed', its SKU, {again}), or for "
            "another seed or epoch",
            vendor=call.vendor,
            task_id=call.task_id,
        )
    return GivenUpError(
        f"Given up: paid in vain or in doubt {call.in_vain} times, last {call.what}: {call.error}. It is not bought "
        f"again by itself: ask for it (only='failed', its SKU, {again})",
        vendor=call.vendor,
    )
