"""What Airflow's pages show of a run and take from people: cards, thumbnails, prompts, what was spent, decisions.

Read from S3, below the one destination that the caller names. A product is named by its *place*, where its line stands
in the run's files (``outcomes:1200:640``), so a request names no key of S3; every URI comes out of those lines and the
records they belong to, and is looked at before it leaves here. Lines stream: memory does not grow with their number.
"""

from __future__ import annotations

import json
import re
import tempfile
from base64 import b64encode
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta
from itertools import islice
from typing import Any

from pydantic import ValidationError

from airflow_provider_bgai.buying.calls import Ledger
from airflow_provider_bgai.buying.decision import Decided
from airflow_provider_bgai.buying.decisions import Note, decide_about, read_note
from airflow_provider_bgai.buying.purchase import prompt_sha256
from airflow_provider_bgai.buying.record import Call, Output
from airflow_provider_bgai.catalogue.planning.plan import read_plan
from airflow_provider_bgai.catalogue.publishing.asked import stable_key
from airflow_provider_bgai.catalogue.report.costs import Costs, spent
from airflow_provider_bgai.catalogue.report.page import said_of
from airflow_provider_bgai.catalogue.results import WITH_PICTURES, Finished, Outcome, Result, Wanted
from airflow_provider_bgai.catalogue.review import DECISIONS
from airflow_provider_bgai.exceptions import BgaiError, InvalidRequestError
from airflow_provider_bgai.layout import Run, into_quarantine, picture_of
from airflow_provider_bgai.lines import stream_lines
from airflow_provider_bgai.storage import Storage, read_part

WAITING: tuple[Outcome, ...] = ("quarantined", "held")
"""What waits for somebody to decide."""

BLOCK = 50
"""Cards whose details are asked for at once, at most; lines that are sent at once."""
THREADS = 10
DAYS, MONTHS = 31, 6

_PLACE = re.compile(r"([a-z]+(?:/\d+)?):(\d{1,15}):(\d{1,7})")
_OWNER = re.compile(r"([^/]+)/(\d{4,6})")


class MovedError(BgaiError):
    """A page shows what does not hold any more."""


class Gallery:
    """A run of a catalogue, as the pages show it.

    :param run: as the template fields of one of its tasks name it.
    """

    def __init__(self, storage: Storage, run: Run) -> None:
        self.storage, self.run, self.layout = storage, run, run.layout
        self.ledger = Ledger(storage, run.layout.root)

    def cards(self) -> Iterator[str]:
        """JSON lines, in blocks: a fact about the run, a card for each product that changed, how many did not.

        Before the run has published, what is known of its products so far.
        """
        published = self.storage.head(self.layout.mapping(self.run.name)) is not None
        yield _line({"published": published})
        unchanged, block = 0, []
        for place, result in self._results():
            if result.outcome == "unchanged":
                unchanged += 1
                continue
            block.append(_line(self._card(place, result, published)))
            if len(block) == BLOCK:
                yield "".join(block)
                block.clear()
        yield "".join([*block, _line({"unchanged": unchanged})])

    def details(self, places: Sequence[str]) -> dict[str, Any]:
        """Thumbnails (base64) of cards, and what was decided about them, by their places.

        :raises MovedError: if a place is none any more.
        """
        with ThreadPoolExecutor(THREADS, "bgai-gallery") as pool:
            return dict(zip(places, pool.map(self._details, places), strict=True))

    def picture(self, place: str, index: int) -> str:
        """The URI of the ``index``-th picture (from 1) of a product, as it is published where it is.

        :raises FileNotFoundError: if there is no such picture.
        :raises MovedError: if the place is none any more.
        """
        result = self._at(place)
        pictures: Sequence[Output] = _finished(result) or result.images or result.quarantined
        if not pictures and (call := self._call(result)) is not None:
            pictures = call.images or call.quarantined
        if not 0 < index <= len(pictures):
            raise FileNotFoundError(f"There is no picture {index} of {result.sku}")
        uri = self.layout.absolute(pictures[index - 1].uri)
        if self.storage.head(uri) is None:  # rejected since, or wanted anew
            uri = into_quarantine(uri)
        if not (self.layout.is_picture(uri) or self.layout.is_quarantined(uri)):
            raise InvalidRequestError(f"{uri}: is no picture of the catalogue")
        return uri

    def prompt(self, place: str) -> str | None:
        """What the vendor was asked to paint; None where that is not known.

        It stands in the shard that bought the picture, in whichever run.

        :raises MovedError: if the place is none any more.
        """
        call = self._call(self._at(place))
        if call is None or (owner := _OWNER.fullmatch(call.owner)) is None:
            return None
        try:
            for wanted in stream_lines(self.storage, self.layout.run(owner[1]).shard(owner[2]), Wanted):
                prompt = wanted.background_request().prompt
                if prompt_sha256(prompt) == call.prompt_sha256:
                    return prompt
        except FileNotFoundError:
            pass
        return None

    def decide(
        self, place: str, what: Decided, by: str, seed: int | None = None, conn_id: str | None = None
    ) -> dict[str, Any]:
        """Write down what somebody has decided about a product's call.

        :param seed, conn_id: of ``buy`` alone: to buy it with, and from.
        :raises InvalidRequestError: if it makes no sense for that call.
        :raises MovedError: if the place is none any more, or the product has been bought again since.
        """
        result = self._at(place)
        if what not in _buttons(result):
            raise InvalidRequestError(f"{result.sku} is {result.outcome}: nobody can decide {what!r} about that")
        last = self.ledger.last(str(result.fingerprint))
        if last is not None and result.call_id not in (None, last.call_id):
            raise MovedError(f"{result.sku} was bought again since. Decide in the gallery of the latest run")
        call = decide_about(self.ledger, str(result.fingerprint), what, by=by, seed=seed, conn_id=conn_id)
        return _decided(read_note(self.storage, self.layout, call)) or {}

    def samples(self, count: int) -> dict[str, str]:
        """Products with a new picture, those in quarantine first, at most so many: their places, by SKU."""
        found: dict[bool, dict[str, str]] = {True: {}, False: {}}
        for place, result in self._results():
            kind = found[result.outcome == "quarantined"]
            if (result.images or result.quarantined) and len(kind) < count:
                kind[result.sku] = place
        return dict(islice((found[True] | found[False]).items(), count))

    def figures(self) -> dict[str, Any]:
        """What the catalogue has spent by day and month, newest last, and how many products wait for a decision."""
        today = datetime.fromtimestamp(self.storage.now(), UTC).date()
        months = [today.strftime("%Y-%m")]
        while len(months) < MONTHS:
            first = datetime.strptime(months[0], "%Y-%m")
            months.insert(0, (first - timedelta(days=1)).strftime("%Y-%m"))
        days = [(today - timedelta(days=ago)).isoformat() for ago in reversed(range(DAYS))]
        report = spent(self.ledger, months)
        return {
            "days": [_spent(day, report.by_day) for day in days],
            "months": [_spent(month, report.by_month) for month in months],
            "waiting": self._waiting(),
        }

    def _waiting(self) -> dict[str, int]:
        found = dict.fromkeys(WAITING, 0)
        waiting = (result for _, result in self._results() if result.outcome in WAITING)
        with ThreadPoolExecutor(THREADS, "bgai-gallery") as pool:
            while batch := list(islice(waiting, BLOCK)):
                for result, note in zip(batch, pool.map(lambda it: self._note(self._call(it)), batch), strict=True):
                    found[result.outcome] += note is None
        return {str(outcome): count for outcome, count in found.items() if count}

    # --- products

    def _results(self) -> Iterator[tuple[str, Result]]:
        """What became of the products, with their places. Before there are outcomes, what plan and shards know."""
        if self.storage.head(self.run.outcomes) is not None:
            names = ["outcomes"]
        else:
            plan = read_plan(self.storage, self.run.plan)
            names = [self.run.name_of(uri) for uri in (*plan.planned, *map(self.run.results_of, plan.shards))]
        for name in names:
            with tempfile.TemporaryFile() as file:
                try:
                    self.storage.download(self.run.lines(name), file)
                except FileNotFoundError:
                    continue  # a shard that has not come to its end
                file.seek(0)
                start = 0
                for line in file:
                    if line.strip():
                        yield f"{name}:{start}:{len(line)}", Result.model_validate_json(line)
                    start += len(line)

    def _at(self, place: str) -> Result:
        """The product at a place. :raises MovedError: if there is none any more."""
        gone = MovedError("What became of the products was written anew since. Load the page again")
        if (found := _PLACE.fullmatch(place)) is None:
            raise InvalidRequestError(f"at={place!r}: must be a place like outcomes:0:640")
        name, start, length = found[1], int(found[2]), int(found[3])
        before = min(start, 1)  # the line break that a line begins after
        try:
            line = read_part(self.storage, self.run.lines(name), start - before, start + length)
            if line[:before] not in (b"", b"\n"):
                raise gone
            return Result.model_validate_json(line)
        except (FileNotFoundError, ValidationError):
            raise gone from None

    def _card(self, place: str, result: Result, published: bool) -> dict[str, Any]:
        said = said_of(result, self.layout)
        for name in ("prompt", "finished"):  # its hash; what is published, stands below
            said.pop(name, None)
        said |= {"at": place, "buttons": _buttons(result)}
        if published and result.outcome in WITH_PICTURES:
            files = result.finished or [
                Finished(**image.model_dump(), rendition="", index=index)
                for index, image in enumerate(result.images, start=1)
            ]
            keys = (stable_key(result.name, file.rendition, file.index, file.uri) for file in files)
            shown = said_of(result.model_copy(update={"finished": files}), self.layout).get("finished", ())
            said["addresses"] = [it | {"uri": self.layout.absolute(key)} for it, key in zip(shown, keys, strict=True)]
        else:
            said["addresses"] = said.get("images", [])
        return said

    def _details(self, place: str) -> dict[str, Any]:
        result = self._at(place)
        call = self._call(result)
        if call is None:
            return {"before": None, "afters": []}
        before, *afters = (it and b64encode(it).decode() for it in (call.thumbnails.before, *call.thumbnails.afters))
        decided = _decided(self._note(call)) if _buttons(result) else None
        return {"before": before, "afters": afters, "decided": decided}

    def _call(self, result: Result) -> Call | None:
        """The call that a product's pictures are of; else the last one of its wish."""
        names = (picture_of(image.uri) for image in (*result.images, *result.quarantined))
        try:
            if (name := next(names, None)) is not None:
                return self.ledger.read(name.fingerprint, name.number)
            return self.ledger.last(result.fingerprint) if result.fingerprint else None
        except ValueError:  # a record that nobody can read
            return None

    def _note(self, call: Call | None) -> Note | None:
        return None if call is None else read_note(self.storage, self.layout, call)


def _finished(result: Result) -> list[Finished]:
    """The pictures themselves, as they are published, where something was done to them."""
    return sorted((it for it in result.finished if not it.rendition), key=lambda it: it.index)


def _buttons(result: Result) -> list[Decided]:
    return [what for what, (_, on) in DECISIONS.items() if result.fingerprint and result.outcome in on]


def _decided(note: Note | None) -> dict[str, Any] | None:
    if note is None:
        return None
    at = datetime.fromtimestamp(note.at, UTC).isoformat(timespec="minutes")
    return {"what": note.what, "words": DECISIONS.get(note.what, (note.what,))[0], "by": note.by, "at": at}


def _spent(name: str, groups: Mapping[str, Costs]) -> dict[str, Any]:
    costs = groups.get(name, Costs())
    return {"name": name, "paid": {of: f"{money:f}" for of, money in costs.paid.items()}, "pictures": costs.charged}


def _line(said: Mapping[str, Any]) -> str:
    return json.dumps(said, separators=(",", ":")) + "\n"
