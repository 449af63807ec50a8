"""What people decide about calls, written down in ``_bgai/decisions/``: the next run carries it out. Nobody deletes a
record, and what a call has cost stays as it was.

A decision belongs to one call, and the last one counts:

=======  ===================================  ====================================================================
release  held                                 let it go, so that its wish may be bought again
keep     held                                 hold it on, whatever its hold says
accept   in quarantine, or rejected           publish its pictures
reject   landed                               take its pictures out of the shop, and buy no others by itself
buy      in quarantine, given up, held, …     buy its wish again, perhaps with another seed or from another vendor
=======  ===================================  ====================================================================

Pictures that are rejected, or wanted anew, are moved into quarantine at once, because a plan tells by their names what
has landed. The note is written before: pictures that are gone without a note are bought again.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import get_args

from pydantic import BaseModel, ConfigDict

from airflow_provider_bgai.buying.calls import Ledger
from airflow_provider_bgai.buying.decision import GIVE_UP, Action, Decided, Last
from airflow_provider_bgai.buying.record import IN_VAIN, Call, State
from airflow_provider_bgai.exceptions import (
    BgaiError,
    GivenUpError,
    InvalidRequestError,
    LostError,
    RejectedError,
    UnfaithfulError,
    UnknownOutcomeError,
)
from airflow_provider_bgai.layout import Layout, into_quarantine
from airflow_provider_bgai.storage import Storage


class Note(BaseModel):
    """A decision. ``at``: epoch seconds on the store's clock; ``by``: who decided, as far as it is known.

    :param seed, conn_id: what to buy the wish with, and from whom; None: as it was asked for.
    """

    model_config = ConfigDict(frozen=True, extra="ignore")

    what: Decided
    call_id: str
    at: float
    by: str = ""
    seed: int | None = None
    conn_id: str | None = None


def read_note(storage: Storage, layout: Layout, call: Call) -> Note | None:
    """What was decided about a call; None if nothing was."""
    try:
        note = Note.model_validate_json(storage.read(layout.decision(call.fingerprint, call.number)))
    except FileNotFoundError:
        return None
    return note if note.call_id == call.call_id else None


def last_of(ledger: Ledger, call: Call, now: float) -> Last:
    """What is known of a wish by its last call: the record, and what has to be seen beside it. Blocking.

    :param now: epoch seconds on the store's clock.
    """
    late = call.state == "sent" and now >= call.answer_by
    there = call.state == "landed" and ledger.in_place(call)
    asked = late or call.state in IN_VAIN or call.in_vain >= GIVE_UP or (call.state == "landed" and not there)
    note = read_note(ledger.storage, ledger.layout, call) if asked else None
    if note is not None and note.what == "accept":
        there = ledger.in_place(call.accepted())
    return Last.of(
        call,
        there=there,
        delivered=late and ledger.delivered(call),
        decided=note.what if note else None,
    )


_FITS: Mapping[Decided, tuple[State, ...]] = {
    "release": ("sent",),
    "keep": ("sent",),
    "buy": ("quarantined", "lost", "unknown", "failed", "sent", "landed"),
    "accept": ("quarantined", "landed"),
    "reject": ("landed", "quarantined"),
}


def decide_about(
    ledger: Ledger,
    fingerprint: str,
    what: Decided,
    *,
    by: str = "",
    seed: int | None = None,
    conn_id: str | None = None,
) -> Call:
    """Write down a decision about the last call of a wish. May be repeated.

    :param seed, conn_id: of ``buy`` alone; see :class:`Note`.
    :raises InvalidRequestError: if there is no such wish, or what was decided makes no sense for its last call.
    """
    if what not in get_args(Decided):
        raise InvalidRequestError(f"{what!r}: must be one of {', '.join(get_args(Decided))}")
    call = ledger.last(fingerprint)
    if call is None:
        raise InvalidRequestError(f"{fingerprint}: there is no call for it below {ledger.layout.root}")
    fits = _FITS[what]
    if call.state not in fits:
        raise InvalidRequestError(
            f"{what}: its last call is {call.state}; this is for calls that are {', '.join(fits)}"
        )
    if what != "buy" and (seed, conn_id) != (None, None):
        raise InvalidRequestError(f"{what}: a seed and a connection are for what is bought")
    note = Note(what=what, call_id=call.call_id, at=ledger.storage.now(), by=by, seed=seed, conn_id=conn_id)
    uri = ledger.layout.decision(call.fingerprint, call.number)
    ledger.storage.put(uri, note.model_dump_json().encode(), content_type="application/json")
    if what in ("reject", "buy"):
        _put_aside(ledger, call)
    return call


def take_out(ledger: Ledger, call: Call) -> Call:
    """Put the pictures of an accepted call where landed ones are. May be repeated.

    :returns: the call as if it had landed.
    :raises LostError: if they are in quarantine no more.
    """
    for picture, aside in _places(ledger, call):
        if ledger.storage.head(aside) is None:
            raise LostError(
                f"Accepted, but {aside} is not there any more: paid, and lost. {_again(ledger, call)}",
                vendor=call.vendor,
            )
        ledger.storage.copy(aside, picture)
    return call.accepted()


def accepted(ledger: Ledger, call: Call) -> Call:
    """A call as if it had landed, its pictures taken out of quarantine, where a person has accepted it; else as it is.

    :raises LostError: as :func:`take_out`.
    """
    note = read_note(ledger.storage, ledger.layout, call) if call.state == "quarantined" else None
    return take_out(ledger, call) if note is not None and note.what == "accept" else call


def _put_aside(ledger: Ledger, call: Call) -> None:
    """Put the pictures of a call into quarantine, where they are not there. May be repeated."""
    for picture, aside in _places(ledger, call):
        if ledger.storage.head(picture) is not None:
            ledger.storage.copy(picture, aside)
            ledger.storage.delete(picture)


def _places(ledger: Ledger, call: Call) -> list[tuple[str, str]]:
    """Where each picture of a call is while it is good, and where in quarantine."""
    names = [it.uri for it in call.accepted().images]
    return [(ledger.layout.absolute(name), ledger.layout.absolute(into_quarantine(name))) for name in names]


def refusal(ledger: Ledger, call: Call, action: Action, until: float | None = None) -> BgaiError:
    """Why a wish is not bought now, and what a person may decide.

    :param action: ``held``, ``rejected`` or ``refuse``; ``until``: of one that is held.
    """
    where = f"bgai-ledger release {ledger.layout.root} {call.fingerprint}"
    if action == "held":
        left = "until somebody decides" if until is None else f"for {(until - ledger.storage.now()) / 3600:.1f} h more"
        return UnknownOutcomeError(
            f"Held {left}: {call.what} was not answered, and may or may not have been charged. Look at the vendor's "
            f"bill; to let it be bought again: {where}",
            vendor=call.vendor,
        )
    if action == "rejected" or call.state == "quarantined":
        kind = RejectedError if action == "rejected" else UnfaithfulError
        why = f"Rejected by a person: {call.what}" if action == "rejected" else call.error
        return kind(
            f"{why}. {_again(ledger, call)}, or for another seed or epoch; to publish it all the same: "
            f"{where.replace(' release ', ' accept ')}",
            vendor=call.vendor,
            task_id=call.task_id,
        )
    return GivenUpError(
        f"Given up: paid in vain or in doubt {call.in_vain} times, last {call.what}: {call.error}. "
        f"{_again(ledger, call)}",
        vendor=call.vendor,
    )


def _again(ledger: Ledger, call: Call) -> str:
    command = f"bgai-ledger buy {ledger.layout.root} {call.fingerprint}"
    return f"It is not bought again by itself: ask for it (only='failed', its SKU, {command})"
