"""What to do about a wish: one pure function, asked by the plan, the shard, the single operator and the tests.

Only the last call of a wish decides; how often the wish was paid in vain is carried in it (``Call.in_vain``).

========  =====================================================================================================
reuse     its pictures are landed and in S3
accept    a person has accepted its pictures, and they are to be taken out of quarantine
collect   answered: fetch what is paid
take      sent, and its answer's bytes lie in ``incoming/``: write it down, then collect
wait      sent, and its sender may be alive and well: ``answer_by`` has not passed
held      sent, without an answer, and its hold lasts (or somebody decided to keep it)
rejected  a person does not want its pictures: only who asks for it buys it again
refuse    in quarantine, or paid in vain too often: likewise
buy       as the number given; ``ends``: the last call is ended as unknown first
========  =====================================================================================================
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from airflow_provider_bgai.buying.record import Call, State
from airflow_provider_bgai.exceptions import BgaiError, LinkRefusedError, LostError

Action = Literal["reuse", "accept", "collect", "take", "wait", "held", "rejected", "refuse", "buy"]
OnUnknownOutcome = Literal["hold", "resubmit", "fail"]
Decided = Literal["release", "keep", "buy", "accept", "reject"]
"""What a person wrote down about a call: let go of a held one, keep it held, buy its wish again, accept its pictures
although they went to quarantine, reject them although they landed."""

GIVE_UP = 3
"""So often a wish is paid in vain before it is not bought by itself any more."""
A_DAY = 86_400.0


@dataclass(frozen=True, slots=True)
class Last:
    """What is known of the last call of a wish.

    :param state: None: there is a record, and nobody can read it.
    :param in_vain: how often the wish was paid in vain or in doubt, this call included.
    :param there: its landed or accepted pictures are in S3.
    :param delivered: it has no answer on record, and its bytes are in ``incoming/``.
    """

    number: int
    state: State | None
    answer_by: float = 0.0
    held_until: float | None = None
    in_vain: int = 0
    there: bool = False
    delivered: bool = False
    decided: Decided | None = None

    @classmethod
    def of(cls, call: Call, *, there: bool = False, delivered: bool = False, decided: Decided | None = None) -> Last:
        """What a record says, with what was seen beside it."""
        return cls(call.number, call.state, call.answer_by, call.held_until, call.in_vain, there, delivered, decided)


@dataclass(frozen=True, slots=True)
class Asks:
    """Who asks, and how far one may go.

    :param policy: ``"hold"``: leave a call without an answer alone until its hold ends; ``"fail"``: until somebody
        decides; ``"resubmit"``: buy again as soon as ``answer_by`` has passed, which **may pay twice** (counted).
    :param again: the wish is asked for by its SKU or as failed: neither quarantine nor "given up" binds.
    :param unanswered: number of the call whose answer this very process knows to be lost.
    """

    policy: OnUnknownOutcome = "hold"
    again: bool = False
    unanswered: int = 0


@dataclass(frozen=True, slots=True)
class Decision:
    """``number`` is the call to act on, or the one to buy as; ``until``: epoch seconds on the store's clock."""

    action: Action
    number: int
    ends: bool = False
    until: float | None = None


def decide(last: Last | None, asks: Asks, now: float) -> Decision:
    """What to do about a wish.

    :param last: its last call; None: it was never tried.
    :param now: epoch seconds on the store's clock.
    """
    if last is None:
        return Decision("buy", 1)
    number, after = last.number, last.number + 1
    if last.state is None:
        return Decision("held", number)
    if last.state == "sent":
        if now < last.answer_by and asks.unanswered != number:
            return Decision("wait", number, until=last.answer_by)
        if last.delivered:
            return Decision("take", number)
        if not released(last, asks.policy, now):
            return Decision("held", number, until=last.held_until)
        return _buy(last, asks, ends=True)
    if last.state == "answered":
        return Decision("collect", number)
    if last.state in ("landed", "quarantined"):
        if last.decided == "accept":
            return Decision("reuse" if last.there else "accept", number)
        if last.state == "landed" and last.there:
            return Decision("reuse", number)
        if not asks.again and last.decided == "reject":
            return Decision("rejected", number)
        if last.state == "landed":
            return Decision("buy", after)  # who deletes pictures wants new ones
        if not (asks.again or last.decided == "buy"):
            return Decision("refuse", number)
    return _buy(last, asks, ends=False)


def _buy(last: Last, asks: Asks, *, ends: bool) -> Decision:
    vain = last.in_vain + ends
    if vain >= GIVE_UP and not (asks.again or last.decided == "buy"):
        return Decision("refuse", last.number, ends=ends)
    return Decision("buy", last.number + 1, ends=ends)


def released(last: Last, policy: OnUnknownOutcome, now: float) -> bool:
    """Whether a call whose ``answer_by`` has passed is not waited for any longer."""
    if last.decided in ("release", "buy"):
        return True
    if last.decided == "keep":
        return False
    return policy == "resubmit" or (last.held_until is not None and now >= last.held_until)


def is_lost(call: Call, error: BgaiError | None, *, life: float, now: float) -> bool:
    """Whether an answered call certainly cannot be had any more.

    :param error: what asking or fetching said last; None: nobody can ask (its connection or key is gone).
    :param life: seconds a result lives at the vendor.
    """
    age = now - (call.answered_at or call.sent_at)
    if isinstance(error, LostError):
        return True
    if isinstance(error, LinkRefusedError):
        return age > life
    return error is None and age > life + A_DAY
