"""A wish, and a wish at work: its sources in hand, read once, its name, and the request that is sent for it.

The bytes that are read here are the bytes that name the wish, that are sent, and that the result is compared with.
"""

from __future__ import annotations

import asyncio
import hashlib
import logging
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

from airflow_provider_bgai.buying.brake import Brake
from airflow_provider_bgai.buying.decision import OnUnknownOutcome
from airflow_provider_bgai.buying.record import Call, fingerprint
from airflow_provider_bgai.exceptions import InvalidRequestError
from airflow_provider_bgai.imaging.inspect import Inspection, asks_for_plain
from airflow_provider_bgai.imaging.workers import PIXELS
from airflow_provider_bgai.models import BackgroundRequest
from airflow_provider_bgai.sources import Source, read_source
from airflow_provider_bgai.storage import Storage

if TYPE_CHECKING:
    from airflow_provider_bgai.hooks.base import BackgroundHook

log = logging.getLogger(__name__)

HOLD_FOR = 20 * 3600.0
"""Seconds a call without an answer is held, so that a nightly run releases what the last one held."""


@dataclass(frozen=True)
class Wish:
    """A picture that is wanted, and how far one may go for it.

    :param sku, category: whose it is, for records and reports.
    :param epoch: any text; another one buys the same picture anew.
    :param new: nothing is known of it: create number 001 at once, and look what there is only if that fails.
    :param again: it is asked for by its SKU or as failed: neither quarantine nor "given up" binds.
    :param on_unknown_outcome: see :class:`~airflow_provider_bgai.buying.decision.Asks`.
    :param hold_for: seconds.
    """

    request: BackgroundRequest
    sku: str = ""
    category: str = ""
    epoch: str | None = None
    new: bool = False
    again: bool = False
    on_unknown_outcome: OnUnknownOutcome = "hold"
    hold_for: float = HOLD_FOR
    inspection: Inspection = Inspection()


@dataclass
class Purchase:
    """A wish at work: its source in hand, read once, and prepared once for each kind of vendor.

    :ivar entered: the brake where a place is kept for its first call.
    :ivar number: the one to buy as, while buying.
    :ivar under_way: number of the call that an earlier pass of this try has left under way; 0: look what there is.
    :ivar unanswered: number of a call whose answer this process knows to be lost.
    :ivar redraws: number of a call of this run whose picture is in quarantine, and is to be bought anew.
    :ivar sent: what an error is about: the call that was made here, if it is paid or in doubt, or the one found.
    """

    wish: Wish
    able: Sequence[BackgroundHook]
    source: Source
    guidance: Source | None
    fingerprint: str
    entered: Brake | None = None
    number: int = 1
    under_way: int = 0
    before: int = 0
    unanswered: int = 0
    redraws: int = 0
    sent: Call | None = None
    prepared: dict[Any, Any] = field(default_factory=dict)

    def change(self, seed: int | None, conn_id: str | None) -> None:
        """Buy it with another seed, or from another of the connections, as a person decided. It stays the same wish.

        :raises InvalidRequestError: if the connection is none of those that can serve it, or takes no seed.
        """
        able = [hook for hook in self.able if conn_id in (None, hook.conn_id)]
        if not able:
            there = ", ".join(hook.conn_id for hook in self.able)
            raise InvalidRequestError(f"conn_id={conn_id!r}: it is to be bought from there, and can be from {there}")
        if seed is not None:
            self.wish = replace(self.wish, request=replace(self.wish.request, seed=seed))
            able = able_to(able, self.wish.request)
        self.able = able

    async def outgoing(self, hook: BackgroundHook) -> tuple[Any, Inspection]:
        """The request, with its image as the vendor takes it.

        :raises InvalidRequestError: if that cannot be made of it.
        """
        from airflow_provider_bgai.imaging.prepare import RefusedSourceError, prepare
        from airflow_provider_bgai.imaging.verify import NotAPictureError

        shown = self.source.shown
        if hook.source not in self.prepared:
            try:
                prepared = await asyncio.get_running_loop().run_in_executor(
                    PIXELS, prepare, self.source.data, hook.source
                )
            except (RefusedSourceError, NotAPictureError) as error:
                raise InvalidRequestError(f"image={shown!r}: {error}", vendor=hook.vendor) from None
            for warning in prepared.warnings:
                log.warning("%s: image=%r: %s", self.wish.sku, shown, warning)
            if prepared.notes:
                log.info("%s: image=%r for %s: %s", self.wish.sku, shown, hook.conn_id, "; ".join(prepared.notes))
            self.prepared[hook.source] = prepared
        prepared = self.prepared[hook.source]
        wish = self.wish
        # The bytes that were hashed, and no link behind which there may be others meanwhile.
        guidance = self.guidance.data if self.guidance is not None else None
        request = replace(wish.request, image=prepared.data, guidance_image=guidance)
        inspection = wish.inspection.model_copy(
            update={
                "plain": asks_for_plain(wish.request),
                "keeps_frame": not wish.request.options,
                "box": prepared.box,
                "sent": (prepared.width, prepared.height),
            }
        )
        return await hook.outgoing(request), inspection


def able_to(hooks: Sequence[BackgroundHook], request: BackgroundRequest) -> list[BackgroundHook]:
    """The hooks whose vendor can serve the request. :raises InvalidRequestError: if none can."""
    able, refusals = [], []
    for hook in hooks:
        try:
            hook.check(request)
            able.append(hook)
        except InvalidRequestError as error:
            refusals.append(error)
    if not able:
        raise refusals[0]
    return able


async def open_wish(wish: Wish, hooks: Sequence[BackgroundHook], storage: Storage) -> Purchase:
    """Read the sources of a wish, and name it by what they hold.

    :raises InvalidRequestError: if no vendor takes it, or a source cannot be had.
    :raises SourceError: if a source cannot be read for now.
    """
    able = able_to(hooks, wish.request)
    allow = able[0].settings.allow_private_hosts
    source = await read_source(wish.request.image, storage, allow_private_hosts=allow)
    guidance = None
    if (mood := wish.request.guidance_image) is not None:
        guidance = await read_source(mood, storage, field="guidance_image", allow_private_hosts=allow)
    mood_sha256 = guidance.sha256 if guidance is not None else None
    name = name_of(able[0], wish.request, source=source.sha256, guidance=mood_sha256, epoch=wish.epoch)
    return Purchase(wish, able, source, guidance, name)


def name_of(
    hook: BackgroundHook, request: BackgroundRequest, *, source: str, guidance: str | None, epoch: str | None = None
) -> str:
    """A wish's fingerprint: what its preferred vendor's hook would send, and the sha256 of its sources' bytes."""
    return fingerprint(
        hook.wire_fields(request),
        source=source,
        guidance=guidance,
        vendor=hook.vendor,
        model=hook.model(request),
        count=request.count,
        epoch=epoch,
    )


def prompt_sha256(prompt: str | None) -> str | None:
    """Hash of the prompt, for records and object metadata: the prompt itself is the shop's business."""
    return None if prompt is None else hashlib.sha256(prompt.encode("utf-8", "surrogatepass")).hexdigest()
