"""A catalogue to publish from: runs with results, pictures known by their labels, an S3 that dies or sleeps."""

from __future__ import annotations

import hashlib
import io
import threading
import uuid
from collections.abc import Callable, Iterable
from typing import Any

from PIL import Image

from airflow_provider_bgai.buying.record import Call, Output
from airflow_provider_bgai.catalogue.finishing import Finishing
from airflow_provider_bgai.catalogue.planning.plan import PlanRecord
from airflow_provider_bgai.catalogue.publishing.publish import (
    Published,
    publish,
    read_current,
    read_mapping,
    read_outcomes,
    rollback,
)
from airflow_provider_bgai.catalogue.publishing.versions import Current
from airflow_provider_bgai.catalogue.results import Finished, Result, Wanted
from airflow_provider_bgai.catalogue.state import SkuState, read_state
from airflow_provider_bgai.imaging.label import Label, read_label, write_label
from airflow_provider_bgai.layout import Layout, PictureName, picture_of
from airflow_provider_bgai.lines import dump_lines
from airflow_provider_bgai.storage import Storage

NOW = 1_700_000_000.0
LATER = 1000.0
"""Seconds after which the note of a dead publisher has run out."""


def drawn(text: str, side: int = 1) -> bytes:
    """The smallest picture whose label says it is ``text``."""
    file = io.BytesIO()
    Image.new("RGB", (side, side)).save(file, "PNG")
    return write_label(file.getvalue(), Label(vendor="picwish", created=NOW, id=text))


def told(picture: bytes) -> str:
    """What its label says."""
    label = read_label(picture)
    assert label is not None
    return label.id


class Shop:
    """A catalogue in S3."""

    def __init__(self, storage: Storage, root: str) -> None:
        self.storage, self.root, self.layout = storage, root, Layout(root)

    # --- what landed

    def result(
        self, sku: str, picture: str = "", outcome: str = "bought", *, count: int = 1, number: int = 1, **fields: Any
    ) -> Result:
        """A result with ``count`` landed pictures of call ``number``; ``picture`` is their content."""
        name = fields.pop("name", f"{sku}-{{index}}.{{ext}}" if count > 1 else f"{sku}.{{ext}}")
        extension, side = fields.pop("extension", "png"), fields.pop("side", 1)
        wish = fields.pop("fingerprint", hashlib.sha256(f"{sku} {picture}".encode()).hexdigest())
        images = []
        for index in range(1, count + 1) if picture else ():
            body = drawn(f"{picture} {index}", side)
            digest = hashlib.sha256(body).hexdigest()
            uri = self.layout.picture(PictureName(wish, number, index, count), digest, extension)
            kind = f"image/{extension}"
            self.storage.put(uri, body, content_type=kind, metadata={"sha256": digest})
            name_of_it = self.layout.relative(uri)
            images.append(
                Output(uri=name_of_it, bytes=len(body), sha256=digest, width=side, height=side, content_type=kind)
            )
        known = {"fingerprint": wish, "source": "ab" * 32, "vendor": "picwish", "conn_id": "picwish_default"}
        if images:
            files = [Finished(**it.model_dump(), rendition="", index=index) for index, it in enumerate(images, start=1)]
            known |= {"finishing": Finishing().digest, "finished": files}
        return Result(sku=sku, name=name, outcome=outcome, images=images, **(known | fields))  # type: ignore[arg-type]

    def call(self, result: Result, **changes: Any) -> Call:
        """Write the record of the call that a result's pictures came from."""
        name = picture_of(result.images[0].uri) if result.images else None
        known = {
            "call_id": uuid.uuid4().hex,
            "fingerprint": result.fingerprint,
            "number": name.number if name else 1,
            "run": "night-1",
            "owner": "night-1/0000",
            "state": "landed",
            "conn_id": "picwish_default",
            "vendor": "picwish",
            "sent_at": NOW,
            "answer_by": NOW,
            "images": result.images,
        }
        call = Call(**(known | changes))
        self.storage.put(self.layout.call(call.fingerprint, call.number), call.body())
        return call

    def unchanged(self, result: Result) -> Result:
        """The result as a plan knows it: without pictures, which stand in the record of its call."""
        self.call(result)
        return result.model_copy(update={"outcome": "unchanged", "images": (), "finished": (), "finishing": ""})

    # --- runs

    def run(
        self,
        run: str,
        *results: Result,
        planned: tuple[Result, ...] = (),
        wanted: tuple[Wanted, ...] = (),
        finishing: Finishing | None = None,
    ) -> str:
        files = self.layout.run(run)
        plan = PlanRecord(
            uri=files.plan,
            run=run,
            counts={},
            shards=[f"{files.shards}/{n:04}.jsonl" for n in range(2)],
            planned=[f"{files.planned}/{n:04}.jsonl" for n in range(2)],
            calls=0,
            pictures=0,
            price=None,
            currency="USD",
            manifest="s3://b/m.csv",
            destination=self.root,
            only="changed",
            created_at=self.storage.now(),
            recipe="whole",
            recipes={"": "recipe", "mugs": f"recipe for mugs of {run}"},
            finishing={"": finishing} if finishing else {},
            vendor="picwish 3",
            refusals=[],
        )
        self.storage.put(plan.uri, plan.model_dump_json().encode())
        for folder, records in ((files.planned, planned), (files.results, results), (files.shards, wanted)):
            # Two files of each: runs have many.
            for number, half in enumerate((records[::2], records[1::2])):
                self.storage.put(f"{folder}/{number:04}.jsonl", dump_lines(half))
        return run

    def publish(
        self,
        run: str,
        *results: Result,
        planned: tuple[Result, ...] = (),
        finishing: Finishing | None = None,
        storage: Storage | None = None,
        **options: Any,
    ) -> Published:
        if results or planned:
            self.run(run, *results, planned=planned, finishing=finishing)
        return publish(storage or self.storage, self.root, run, **options)

    def rollback(self, to: str | None = None, **options: Any) -> Published:
        return rollback(options.pop("storage", self.storage), self.root, to=to, **options)

    # --- what can be seen

    def shown(self) -> dict[str, str]:
        """What a reader of the shop sees: every key but the records, and its content."""
        found = (item.uri for item in self.storage.list(f"{self.root}/"))
        keys = (uri for uri in found if "/_bgai/" not in uri)
        return {self.layout.relative(uri): told(self.storage.read(uri)) for uri in keys}

    def true(self) -> bool:
        """Whether the shop shows what the mapping that holds says, no more and no less, to the byte."""
        run = self.current().run
        mapped = {it.key: it.sha256 for it in read_mapping(self.storage, self.root, run)} if run else {}
        uris = (item.uri for item in self.storage.list(f"{self.root}/") if "/_bgai/" not in item.uri)
        return mapped == {self.layout.relative(uri): hashlib.sha256(self.storage.read(uri)).hexdigest() for uri in uris}

    def outcomes(self, run: str) -> dict[str, Result]:
        return {it.sku: it for it in read_outcomes(self.storage, self.root, run)}

    def states(self) -> dict[str, SkuState]:
        return {it.sku: it for it in read_state(self.storage, self.root)}

    def current(self) -> Current:
        return read_current(self.storage, self.root)

    def tidy(self) -> bool:
        """No notes of a publisher at work."""
        notes = [item.uri for item in self.storage.list(f"{self.layout.folder}/published/") if "touched" in item.uri]
        return not notes and self.current().pending is None

    def moved_to(self, root: str) -> Shop:
        """The catalogue, copied to another place; the old one is gone then."""
        copied = [item.uri for item in self.storage.list(f"{self.root}/")]
        for uri in copied:
            self.storage.copy(uri, f"{root}/{self.layout.relative(uri)}")
        self.storage.delete_all(copied)
        return Shop(self.storage, root)


class Counting(Storage):
    """A storage that counts copies, and dies or pauses at one of them.

    :ivar later: seconds by which its clock is ahead of the store's: so much later it is for whoever uses it.
    """

    def __init__(
        self, dies_at: int | None = None, at_copy: Callable[[int], object] | None = None, later: float = 0.0
    ) -> None:
        super().__init__("aws_default")
        self.copies, self.dies_at, self.at_copy, self.later = 0, dies_at, at_copy, later
        self._lock = threading.Lock()

    def now(self) -> float:
        return super().now() + self.later

    def copy(self, source: str, target: str) -> None:
        with self._lock:
            self.copies += 1
            number = self.copies
        if self.dies_at is not None and number >= self.dies_at:
            raise KeyboardInterrupt("killed")
        if self.at_copy:
            self.at_copy(number)
        super().copy(source, target)


def three_nights(shop: Shop) -> Iterable[Result]:
    """Three versions: of one picture each of ``a`` to ``c``; ``b`` gets another key, ``c`` comes and goes."""
    nights = (
        (shop.result("a", "red"), shop.result("b", "red")),
        (shop.result("a", "blue"), shop.result("b", "blue", extension="jpg"), shop.result("c", "blue")),
        (shop.result("a", "grey"),),
    )
    for number, night in enumerate(nights, start=1):
        shop.publish(f"night-{number}", *night)
    return [result for night in nights for result in night]


SHOWN = {
    "night-1": {"a.png": "red 1", "b.png": "red 1"},
    "night-2": {"a.png": "blue 1", "b.jpg": "blue 1", "c.png": "blue 1"},
    "night-3": {"a.png": "grey 1", "b.jpg": "blue 1", "c.png": "blue 1"},
}
