"""What earlier runs left behind of a whole catalogue's wishes, by names: ``pictures/`` says what has landed, ``calls/``
what was tried. Records are read only of what was tried and has not landed: few, unless a run has just died.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from itertools import islice

from airflow_provider_bgai.buying.calls import Ledger
from airflow_provider_bgai.buying.decision import Asks, Decision, Last, decide
from airflow_provider_bgai.buying.decisions import last_of
from airflow_provider_bgai.buying.record import Call
from airflow_provider_bgai.exceptions import InvalidRequestError
from airflow_provider_bgai.layout import call_of, picture_of

log = logging.getLogger(__name__)

GONE = 0.05
"""This share of the published pictures gone at once is a lifecycle rule, and no wish for new ones …"""
GONE_AT_LEAST = 3
"""… if it is at least so many."""

_HEX = "0123456789abcdef"
_SOME, _WHOLE = 1, 2


class Tried:
    """The last calls of many wishes. Call :meth:`survey` before, where there are many."""

    def __init__(self, ledger: Ledger, pool: ThreadPoolExecutor) -> None:
        self.ledger, self.pool = ledger, pool
        # By fingerprint: four times the last call's number, and what there is of pictures (_SOME, _WHOLE). Numbers, so
        # that 100,000 of them need little memory.
        self.known: dict[bytes, int] | None = None

    def survey(self) -> None:
        """List all pictures and calls.

        :raises InvalidRequestError: if there are pictures whose records are gone.
        """
        layout = self.ledger.layout
        self.known = {}
        lost: list[bytes] = []
        for known, orphans in self.pool.map(self._list, _HEX):
            self.known |= known
            lost += orphans
        if lost:
            raise InvalidRequestError(
                f"{len(lost):,} landed picture(s) below {layout.pictures()} have no record in {layout.calls()} any "
                f"more (the first is {lost[0].hex()}): somebody, or a lifecycle rule, deletes below _bgai/. Nothing is "
                f"planned, or they would be bought again. End that, and restore: bgai-ledger restore {layout.root}"
            )

    def check_published(self, fingerprints: Sequence[bytes]) -> None:
        """Refuse a catalogue whose published pictures are gone in masses.

        :raises InvalidRequestError: in words.
        """
        known, total = self.known or {}, len(fingerprints)
        gone = {fingerprint for fingerprint in fingerprints if not known.get(fingerprint, 0) & _SOME}
        enough, layout = max(GONE_AT_LEAST, GONE * total), self.ledger.layout
        if len(gone) >= enough:  # what people reject is gone, too
            decided = (call_of(uri) for uri in self.ledger.storage.list_uris(layout.decisions))
            gone -= {bytes.fromhex(call[0]) for call in decided if call}
        if len(gone) >= enough:
            raise InvalidRequestError(
                f"{len(gone):,} of {total:,} published pictures are gone from {layout.pictures()}: a lifecycle rule, "
                "or somebody who cleaned up? Nothing is planned, or they would be bought again. Restore them from a "
                "version of the bucket; or name the SKUs that are to be bought again: only=[…]"
            )

    def _list(self, start: str) -> tuple[dict[bytes, int], list[bytes]]:
        """What there is of the wishes whose fingerprint starts so; and those with pictures and no record of theirs."""
        layout, listed = self.ledger.layout, self.ledger.storage.list_uris
        # Records are written before their pictures: what another run lands meanwhile has its record in the later list.
        pictures: dict[bytes, int] = {}
        parts: dict[tuple[bytes, int], set[int]] = {}
        for uri in listed(layout.pictures(start)):
            if (picture := picture_of(uri)) is None:
                continue
            name = bytes.fromhex(picture.fingerprint)
            whole = picture.count == 1
            if not whole:
                seen = parts.setdefault((name, picture.number), set())
                seen.add(picture.index)
                whole = len(seen) == picture.count
            pictures[name] = max(pictures.get(name, 0), picture.number * 4 + _SOME + (_WHOLE if whole else 0))
        found: dict[bytes, int] = {}
        for uri in listed(layout.calls(start)):
            if (call := call_of(uri)) is not None:
                name = bytes.fromhex(call[0])
                found[name] = max(call[1] * 4, found.get(name, 0))
        lost = []
        for name, there in pictures.items():
            last = found.get(name, 0)
            if last < there & ~3:
                lost.append(name)
            found[name] = last | there & 3 if last == there & ~3 else last | _SOME
        return found, lost

    def numbers(self, names: Sequence[bytes]) -> Iterator[tuple[int, bool]]:
        """For each wish: the number of its last call (0: never tried), and whether all its pictures are there."""
        known = self.pool.map(self._ask, names) if self.known is None else (self.known.get(name, 0) for name in names)
        for there in known:
            yield there // 4, bool(there & _WHOLE)

    def _ask(self, name: bytes) -> int:
        return self._list(f"{name.hex()}.")[0].get(name, 0)

    def decide(self, wishes: Sequence[tuple[bytes, int]], asks: Asks) -> Iterator[tuple[Call | None, Decision]]:
        """What to do about wishes that were tried and have not landed, by their last call's number."""
        now = self.ledger.storage.now()
        rest = iter(wishes)
        while chunk := list(islice(rest, 1000)):
            yield from self.pool.map(lambda it: self._decide(it[0], it[1], asks, now), chunk)

    def _decide(self, name: bytes, number: int, asks: Asks, now: float) -> tuple[Call | None, Decision]:
        try:
            call = self.ledger.read(name.hex(), number)
        except ValueError as error:
            log.error("%s", error)
            return None, decide(Last(number, None), asks, now)
        if call is None:
            return None, decide(None, asks, now)
        return call, decide(last_of(self.ledger, call, now), asks, now)
