"""What a run asks to be published: what became of every SKU, and which picture each of its keys shall show.

Which pictures have landed is read off their names, as the plan does: of a wish's calls the latest one with pictures
counts. A product that nobody has finished as the recipe asks keeps what it had, and the next plan sees to it.
"""

from __future__ import annotations

import logging
import re
from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from pydantic import ValidationError

from airflow_provider_bgai.buying.calls import Ledger
from airflow_provider_bgai.buying.decisions import read_note, refusal, take_out
from airflow_provider_bgai.buying.landing import name_output
from airflow_provider_bgai.catalogue.evidence import Evidence, read_evidence
from airflow_provider_bgai.catalogue.finishing import keep_as_landed
from airflow_provider_bgai.catalogue.planning.plan import PlanRecord, read_plan
from airflow_provider_bgai.catalogue.publishing.scratch import Scratch
from airflow_provider_bgai.catalogue.publishing.versions import Entry, Place
from airflow_provider_bgai.catalogue.results import (
    WITH_PICTURES,
    Finished,
    Result,
    Wanted,
    accepted,
    no_answer_results,
    not_published,
    rejected,
)
from airflow_provider_bgai.catalogue.state import SkuState, read_state
from airflow_provider_bgai.exceptions import InvalidRequestError, LostError, PublishError
from airflow_provider_bgai.layout import call_of, picture_of
from airflow_provider_bgai.lines import M, stream_lines
from airflow_provider_bgai.storage import Storage

log = logging.getLogger(__name__)

HEX = "0123456789abcdef"
Files = tuple[Finished, ...] | tuple[Evidence, ...]
NOT_FINISHED = "Its picture is not finished as the recipe asks; the next plan sees to it"


class Asked:
    """Fills a scratch database with a run.

    :raises PublishError: if there is no such run.
    """

    def __init__(self, storage: Storage, place: Place, scratch: Scratch) -> None:
        self.storage, self.place, self.scratch = storage, place, scratch
        self.ledger = Ledger(storage, place.layout.root)
        uri = place.run.plan
        try:
            self.plan: PlanRecord = read_plan(storage, uri)
        except FileNotFoundError:
            raise PublishError(f"There is no run to publish: {uri} does not exist") from None
        except ValidationError as error:
            raise PublishError(f"{uri}: is no plan: {error}") from None

    def load_results(self) -> None:
        """Planned, then generated, then what the generate stage owes an answer for."""
        run = self.place.run
        # What the plan names, not what is there: a plan made anew may leave files of the one before. And by name
        # only: a catalogue that was copied has its files here, wherever the plan was made.
        planned = (f"{run.planned}/{uri.rpartition('/')[2]}" for uri in self.plan.planned)
        shards = [f"{run.shards}/{uri.rpartition('/')[2]}" for uri in self.plan.shards]
        for result in self._lines(planned, Result):
            # Refused ones are rows of the shop's list, which replace neither each other nor a product.
            is_row = result.outcome == "refused"
            self.scratch.put_result(result, "into refused_rows" if is_row else "or replace into results")
        for result in self._lines(map(run.results_of, shards), Result):
            self.scratch.put_result(result)
        for wanted in self._lines(shards, Wanted):
            for no_answer in no_answer_results(wanted):
                self.scratch.put_result(no_answer, "or ignore into results")

    def heed_decisions(self) -> None:
        """Go by what people have decided about this run's pictures since it made them."""
        listed = self.storage.list(self.place.layout.decisions)
        decided = {call for item in listed if (call := call_of(item.uri)) is not None}
        for result in self.scratch.results_of(fingerprint for fingerprint, _ in decided):
            if (number := self._shown(result)) and (result.fingerprint, number) in decided:
                self._heed(result, str(result.fingerprint), number)

    def _shown(self, result: Result) -> int:
        """The number of the call whose pictures a result is about; 0 if there is none."""
        found = (picture_of(it.uri) for it in (*result.images, *result.quarantined))
        if (name := next(found, None)) is not None:
            return name.number
        known = self.scratch.entries("known", result.sku) if result.outcome == "unchanged" else []
        return max((it.number for it in known if it.fingerprint == result.fingerprint), default=0)

    def _heed(self, result: Result, fingerprint: str, number: int) -> None:
        try:
            call = self.ledger.read(fingerprint, number)
            note = read_note(self.storage, self.place.layout, call) if call is not None else None
            if call is None or note is None:
                return
            if note.what == "accept" and result.outcome != "unchanged":
                good = call.accepted() if self.ledger.in_place(call.accepted()) else take_out(self.ledger, call)
                self.scratch.put_result(accepted(result, good, self.place.run.name))
            elif note.what == "reject" or (note.what == "buy" and result.outcome in WITH_PICTURES):
                self.scratch.put_result(rejected(result, refusal(self.ledger, call, "rejected")))
        except (LostError, ValueError) as error:
            log.warning("%s: what was decided about its picture is left to the next run: %s", result.sku, error)

    def _lines(self, uris: Iterable[str], kind: type[M]) -> Iterator[M]:
        for uri in uris:
            try:
                yield from stream_lines(self.storage, uri, kind)
            except FileNotFoundError:
                # A shard that was never generated, or a file that somebody deleted.
                log.warning("%s: does not exist", uri)

    def want(self, pool: ThreadPoolExecutor) -> None:
        """Want what is known, changed by the run's pictures. Pictures that cannot be published are reported."""
        if "unchanged" in self.scratch.counts():
            for landed in pool.map(self._landed_names, HEX):
                self.scratch.put_landed(landed.items())
        for batch in self.scratch.with_pictures():
            changed = [(result, self._number(result)) for result in batch if result.images or not self._kept(result)]
            for (result, number), files in zip(changed, pool.map(lambda it: self._files(*it), changed), strict=True):
                self._want(result, number, files)
        self.scratch.combine()
        if count := self.scratch.count_unfinished():
            log.warning("%d product(s) keep what they had. %s", count, NOT_FINISHED)

    def _landed_names(self, start: str) -> dict[str, int]:
        """The wishes whose fingerprint starts so, with the latest call that has landed pictures."""
        found: dict[str, int] = {}
        for item in self.storage.list(self.place.layout.pictures(start)):
            if name := picture_of(item.uri):
                found[name.fingerprint] = max(name.number, found.get(name.fingerprint, 0))
        return found

    def _number(self, result: Result) -> int:
        """Of the call that a result's pictures came from."""
        if result.images:
            name = picture_of(result.images[0].uri)
            return name.number if name else 0
        return self.scratch.landed(result.fingerprint or "")

    def _kept(self, result: Result) -> bool:
        """Whether what is published is what the result means, so that no record of a call need be read: then only
        what the shop says of it may be new."""
        known = self.scratch.entries("known", result.sku)
        if not self._stays(result, known):
            return False
        said = [entry.model_copy(update=self._said(result, entry.rendition)) for entry in known]
        if said != known:
            self.scratch.put_entries("known", said)
        return True

    def _said(self, result: Result, rendition: str) -> dict[str, Any]:
        """What a picture's entry says of it, and changes no file."""
        return {"label": self.plan.finishing_of(result.category).label_of(rendition), "words": result.words}

    def _stays(self, result: Result, known: list[Entry]) -> bool:
        asked, number = self.plan.finishing_of(result.category).digest, self._number(result)
        as_known = (
            it.fingerprint == result.fingerprint
            and number in (0, it.number)
            and it.finishing == asked
            and it.key == stable_key(result.name, it.rendition, it.index, it.uri)
            for it in known
        )
        return bool(known) and (result.fingerprint is None or all(as_known))

    def _files(self, result: Result, number: int) -> Files | None:
        """The files that a result asks to be published: those its shard made, or an earlier one did, or, where that is
        all there is to do, the pictures as they landed. None if there are no such pictures."""
        finishing = self.plan.finishing_of(result.category)
        if result.finished and result.finishing == finishing.digest:
            return result.finished
        if not number:
            return None
        layout, fingerprint = self.place.layout, str(result.fingerprint)
        try:
            if made := read_evidence(self.storage, layout, fingerprint, number, finishing.digest):
                return tuple(made)
            call = self.ledger.read(fingerprint, number)
        except ValueError as error:
            log.warning("%s: the call of its picture cannot be read: %s", result.sku, error)
            return None
        if call is None:
            return None
        as_landed = all(map(finishing.publishes, call.accepted().images))
        return keep_as_landed(self.storage, layout, call.accepted(), finishing) if as_landed else ()

    def _want(self, result: Result, number: int, files: Files | None) -> None:
        if not files:
            self._cannot(result, files)
            return
        try:
            entries = self._entries(result, files, number)
        except InvalidRequestError as error:
            self.scratch.put_result(not_published(result, error))
            return
        self.scratch.put_entries("fresh", entries)

    def _cannot(self, result: Result, files: Files | None) -> None:
        """Report a picture without files to be published."""
        if files is None:
            self.scratch.put_unpublished(result.sku, "missing", "There is no landed call of its picture")
        elif result.outcome == "unchanged":
            # This run did not set out to finish it, so it has not failed either.
            self.scratch.put_unfinished(result, NOT_FINISHED)
        else:
            self.scratch.put_unpublished(result.sku, "finishing", "; ".join((NOT_FINISHED, *result.warnings)))

    def _entries(self, result: Result, files: Files, number: int) -> list[Entry]:
        """Which keys shall show which files. :raises InvalidRequestError: for what must not be published."""
        entries: dict[str, Entry] = {}
        for file in files:
            key = stable_key(result.name, file.rendition, file.index, file.uri)
            self.place.stable(key)
            entry = Entry(
                key=key,
                uri=self.place.layout.relative(self.place.picture(file.uri)),
                sha256=file.sha256,
                fingerprint=result.fingerprint or "",
                sku=result.sku,
                number=number,
                rendition=file.rendition,
                index=file.index,
                finishing=self.plan.finishing_of(result.category).digest,
                **self._said(result, file.rendition),
            )
            if taken := self.scratch.taken_by("fresh", entry):
                raise InvalidRequestError(f"{key!r}: is the name of {taken!r} as well")
            entries[key] = entry
        if len(entries) < len(files):
            raise InvalidRequestError(f"{result.name!r}: needs {{index}}, or its pictures would overwrite each other")
        return list(entries.values())

    def states(self) -> Iterator[SkuState]:
        """What the next plan compares with; SKUs that were not published now keep what they had."""
        for state in read_state(self.storage, self.place.layout.root):
            if not self.scratch.has_pictures(state.sku):
                yield state
            elif state.hint is not None:
                self.scratch.put_hint(state.sku, state.source, state.hint)
        for batch in self.scratch.with_pictures():
            for result in batch:
                state = self.plan.state_of(result)
                hint = state.hint or self.scratch.hint(state.sku, state.source)
                yield state.model_copy(update={"hint": hint})


def stable_key(name: str, rendition: str, index: int, uri: str) -> str:
    """The stable key of a file. :raises InvalidRequestError: unless its URI says what kind of picture it is."""
    extension = uri.rpartition(".")[2]
    if not re.fullmatch(r"[a-z0-9]{1,5}", extension):
        raise InvalidRequestError(f"{uri!r}: has no extension of a picture")
    key = name_output(name, index, extension)
    return f"{rendition}/{key}" if rendition else key
