"""What a run asks to be published: what became of every SKU, and which picture each of its keys shall show."""

from __future__ import annotations

import logging
import re
from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor

from pydantic import ValidationError

from airflow_provider_bgai.catalogue.landing import name_output
from airflow_provider_bgai.catalogue.ledger import Ledger
from airflow_provider_bgai.catalogue.plan import PlanRecord, read_plan
from airflow_provider_bgai.catalogue.records import Finished, Result, Wanted
from airflow_provider_bgai.catalogue.scratch import Scratch
from airflow_provider_bgai.catalogue.state import SkuState, read_state
from airflow_provider_bgai.catalogue.versions import Entry, M, Place, PublishError, stream_lines
from airflow_provider_bgai.exceptions import InvalidRequestError
from airflow_provider_bgai.storage import Storage

log = logging.getLogger(__name__)


class Collector:
    """Fills a scratch database with a run.

    :raises PublishError: if there is no such run, or a record cannot be read.
    """

    def __init__(self, storage: Storage, place: Place, scratch: Scratch) -> None:
        self.storage, self.place, self.scratch = storage, place, scratch
        uri = f"{place.folder}/plan.json"
        try:
            self.plan: PlanRecord = read_plan(storage, uri)
        except FileNotFoundError:
            raise PublishError(f"There is no run to publish: {uri} does not exist") from None
        except ValidationError as error:
            raise PublishError(f"{uri}: is no plan: {error}") from None

    def load_results(self) -> None:
        """Planned, then generated, then what the generate stage owes an answer for."""
        # What the plan names, not what is there: a plan made anew may leave files of the one before.
        for result in self._lines(self.plan.planned, Result):
            # Refused ones are rows of the shop's list, which replace neither each other nor a product.
            is_row = result.outcome == "refused"
            self.scratch.put_result(result, "into refused_rows" if is_row else "or replace into results")
        results = (f"{self.place.folder}/results/{shard.rpartition('/')[2]}" for shard in self.plan.shards)
        for result in self._lines(results, Result):
            self.scratch.put_result(result)
        for wanted in self._lines(self.plan.shards, Wanted):
            for sku, name in zip(wanted.skus, wanted.names, strict=True):
                no_answer = Result(
                    sku=sku,
                    name=name,
                    outcome="failed",
                    category=wanted.category,
                    fingerprint=wanted.fingerprint,
                    source=wanted.source,
                    reason="no_result",
                    price=None,
                    error="The generate stage left no result for it. Whatever was paid is collected by the next run",
                )
                self.scratch.put_result(no_answer, "or ignore into results")

    def _lines(self, uris: Iterable[str], kind: type[M]) -> Iterator[M]:
        for uri in uris:
            try:
                yield from stream_lines(self.storage, uri, kind)
            except FileNotFoundError:
                # A shard that was never generated, or a file that somebody deleted.
                log.warning("%s: does not exist", uri)

    def want(self, pool: ThreadPoolExecutor) -> None:
        """Want what is known, changed by the run's pictures. Pictures that cannot be published are reported."""
        for batch in self.scratch.with_pictures():
            changed = [result for result in batch if result.images or not self._stays(result)]
            for result, files in zip(changed, pool.map(self._files, changed), strict=True):
                self._want(result, files)
        self.scratch.combine()

    def _stays(self, result: Result) -> bool:
        """Whether what is published is what the result means, so that its landed record need not be read."""
        known = self.scratch.entries("known", result.sku)
        asked = self._finishing(result)
        as_known = (
            it.fingerprint == result.fingerprint
            and it.finishing == asked
            and it.key == _key(result.name, it.rendition, it.index, it.uri)
            for it in known
        )
        return bool(known) and (result.fingerprint is None or all(as_known))

    def _finishing(self, result: Result) -> str:
        return self.plan.finishing_of(result.category).digest

    def _files(self, result: Result) -> tuple[Finished, ...]:
        """A result's files to be published, as the recipe asks; none where they are not at hand."""
        if asked := self._finishing(result):
            return result.finished if result.finishing == asked else ()
        images = result.images
        if not images and re.fullmatch(r"[A-Za-z0-9_-]{1,128}", result.fingerprint or ""):
            try:
                landed = Ledger(self.storage, self.place.root).read_landed(str(result.fingerprint))
            except ValidationError as error:
                log.warning("%s: its landed record cannot be read: %s", result.sku, error)
                return ()
            # The record may name a place of somebody else's; the catalogue has its own copy under this name.
            own = f"{self.place.pictures}/{result.fingerprint}-{{index}}.{{ext}}"
            images = tuple(
                image.model_copy(update={"uri": name_output(own, index, image.uri.rpartition(".")[2])})
                for index, image in enumerate(landed.images if landed else (), start=1)
            )
        return tuple(
            Finished(**image.model_dump(exclude={"fidelity"}), rendition="", index=index)
            for index, image in enumerate(images, start=1)
        )

    def _want(self, result: Result, files: tuple[Finished, ...]) -> None:
        if not files:
            problem = "There is no landed record of its picture"
            if self._finishing(result):
                problem = "Its picture is not finished as the recipe asks; the next plan sees to it"
            self.scratch.put_missing(result.sku, problem)
            return
        try:
            entries = self._entries(result, files)
        except InvalidRequestError as error:
            refused = {"outcome": "refused", "reason": "refused", "error": f"Not published: {error}"}
            self.scratch.put_result(result.model_copy(update=refused))
            return
        self.scratch.put_entries("fresh", entries)
        if not result.images:
            self.scratch.put_result(result.model_copy(update={"images": files}))

    def _entries(self, result: Result, files: tuple[Finished, ...]) -> list[Entry]:
        """Which keys shall show which files. :raises InvalidRequestError: for what must not be published."""
        entries: dict[str, Entry] = {}
        for file in files:
            key = _key(result.name, file.rendition, file.index, file.uri)
            self.place.stable(key)
            entry = Entry(
                key=key,
                uri=self.place.picture(file.uri),
                sha256=file.sha256,
                fingerprint=result.fingerprint or "",
                sku=result.sku,
                rendition=file.rendition,
                index=file.index,
                finishing=self._finishing(result),
            )
            if taken := self.scratch.taken_by("fresh", entry):
                raise InvalidRequestError(f"{key!r}: is the name of {taken!r} as well")
            entries[key] = entry
        if len(entries) < len(files):
            raise InvalidRequestError(f"{result.name!r}: needs {{index}}, or its pictures would overwrite each other")
        return list(entries.values())

    def states(self) -> Iterator[SkuState]:
        """What the next plan compares with; SKUs that were not published now keep what they had."""
        for state in read_state(self.storage, self.place.root):
            if not self.scratch.has_pictures(state.sku):
                yield state
        for batch in self.scratch.with_pictures():
            for result in batch:
                yield self.plan.state_of(result)


def _key(name: str, rendition: str, index: int, uri: str) -> str:
    """The stable key of a file. :raises InvalidRequestError: unless its URI says what kind of picture it is."""
    extension = uri.rpartition(".")[2]
    if not re.fullmatch(r"[a-z0-9]{1,5}", extension):
        raise InvalidRequestError(f"{uri!r}: has no extension of a picture")
    key = name_output(name, index, extension)
    return f"{rendition}/{key}" if rendition else key
