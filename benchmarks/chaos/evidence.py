"""What there is to be judged: gathered while the nights last, and once they are over."""

from __future__ import annotations

import hashlib
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from decimal import Decimal
from typing import TYPE_CHECKING, Any

import httpx

from benchmarks.chaos.accidents import VENDORS
from demo.services import SandboxService

if TYPE_CHECKING:
    from airflow_provider_bgai.buying.calls import Ledger
    from airflow_provider_bgai.buying.record import Call
    from airflow_provider_bgai.catalogue.results import Result
    from benchmarks.chaos.tormentor import Cut

SAMPLE_EVERY = 2.0  # s

Bounds = Mapping[str, tuple[int, int]]
"""Pictures paid for certain, and perhaps besides, by vendor."""


@dataclass(frozen=True)
class Sample:
    """One moment: what the ledger said right before and right after the vendors' counters were read."""

    before: Bounds
    bill: Mapping[str, int]
    after: Bounds


@dataclass(frozen=True)
class Charge:
    """A picture on a vendor's bill. ``product`` is its SKU; None: nobody wanted such a picture."""

    vendor: str
    product: str | None


@dataclass(frozen=True)
class Strike:
    """A vendor's fault that struck a request.

    :param kind: ``submit``, ``poll`` or ``download``.
    :param of: the prompt of a submission; the task's ID in any other request.
    """

    vendor: str
    name: str
    kind: str
    of: str


@dataclass
class Evidence:
    """All there is.

    :param prompts: of the products, by SKU.
    :param nights: the results of each night.
    :param calls: in the books or open, each once.
    :param forgotten: calls that have a record, and stand in neither.
    :param there: names of the pictures in S3, relative to the destination.
    :param capped: for each night with a cap: the cap, and the pictures charged during that night.
    :param told: pictures and money paid, as the cost report says.
    :param kills: how often a worker was to be ended from outside.
    :param requests: to S3 by the workers.
    """

    prompts: Mapping[str, str]
    nights: Sequence[Sequence[Result]] = ()
    calls: Sequence[Call] = ()
    forgotten: Sequence[Call] = ()
    there: frozenset[str] = frozenset()
    charges: Sequence[Charge] = ()
    strikes: Sequence[Strike] = ()
    samples: list[Sample] = field(default_factory=list)
    capped: Sequence[tuple[int, int]] = ()
    told: tuple[int, Decimal] = (0, Decimal(0))
    cuts: Sequence[Cut] = ()
    kills: int = 0
    starts: int = 0
    problems: Sequence[str] = ()
    requests: int = 0
    seconds: float = 0.0


@contextmanager
def sampling(
    ledger: Ledger, sandbox: SandboxService, samples: list[Sample], every: float = SAMPLE_EVERY
) -> Iterator[None]:
    """Take a sample every few seconds, and one at the end."""
    over, problems = threading.Event(), []

    def sample() -> None:
        try:
            while not over.wait(every):
                samples.append(take_sample(ledger, sandbox))
        except Exception as error:  # noqa: BLE001 - raised below, in the thread that waits
            problems.append(error)

    thread = threading.Thread(target=sample, daemon=True)
    thread.start()
    try:
        yield
    finally:
        over.set()
        thread.join()
    if problems:
        raise problems[0]
    samples.append(take_sample(ledger, sandbox))


def take_sample(ledger: Ledger, sandbox: SandboxService) -> Sample:
    """The ledger's bounds on both sides of the vendors' counters: while these are read, the ledger goes on."""
    from airflow_provider_bgai.buying.books import bounds

    before = bounds(ledger)
    return Sample(before, ask(sandbox, "bill"), bounds(ledger))


def ask(sandbox: SandboxService, what: str) -> Any:
    """What the sandbox tells of itself."""
    return httpx.get(f"{sandbox.url}/_sandbox/{what}", trust_env=False, timeout=60).raise_for_status().json()


def bills(prompt: str, picture: bytes) -> dict[str, str]:
    """The vendors by the fingerprints of the charges that a picture can cause."""
    from airflow_provider_bgai.hooks.photoroom import DEFAULTS
    from airflow_provider_bgai.sandbox.photoroom import MODELS
    from airflow_provider_bgai.sandbox.state import fingerprint

    image = hashlib.sha256(picture).hexdigest()
    picwish = {"image": image, "images": 1, "scene": prompt, "negative_prompt": ""}
    photoroom = {"image": image, **DEFAULTS, "background.prompt": prompt, "model": MODELS[0]}
    return {fingerprint("picwish", picwish): "picwish", fingerprint("photoroom", photoroom): "photoroom"}


def read_charges(sandbox: SandboxService, prompts: Mapping[str, str], picture: bytes) -> list[Charge]:
    """The vendors' bill, a line per picture, with the product that each was made for."""
    products = {bill: sku for sku, prompt in prompts.items() for bill in bills(prompt, picture)}
    return [
        Charge(line["vendor"], products.get(line["fingerprint"]))
        for line in ask(sandbox, "charges")["charges"]
        for _ in range(line["images"])
    ]


class Strikes:
    """The faults that have struck: read out now and then, because the sandbox remembers its last requests only."""

    def __init__(self, sandbox: SandboxService) -> None:
        self.sandbox = sandbox
        self.found: list[Strike] = []
        self._until = 0.0

    def read(self) -> None:
        """Take in what is new since the last reading."""
        requests = ask(self.sandbox, "requests")["requests"]
        if self._until and requests and requests[0]["at"] > self._until:
            raise SystemExit("the sandbox has forgotten requests that were not read yet")
        for request in requests:
            if request["fault"] and request["at"] > self._until:
                self.found.append(
                    Strike(request["vendor"], request["fault"], request["kind"], _subject(request["kind"], request))
                )
        self._until = max((request["at"] for request in requests), default=self._until)


def _subject(kind: str, request: Mapping[str, Any]) -> str:
    fields = request["fields"]
    if kind == "submit":
        return str(fields.get("prompt") or fields.get("background.prompt") or "")
    name = str(request["path"]).rpartition("/")[2]
    return name.removesuffix(".png").rpartition("-")[0] if kind == "download" else name


def gather(ledger: Ledger, runs: Sequence[str], evidence: Evidence) -> None:
    """Read out of S3 what became of everything, after the last night was settled."""
    from airflow_provider_bgai.buying.books import audit, read_books, read_open
    from airflow_provider_bgai.catalogue.report.costs import catalogue_costs
    from airflow_provider_bgai.catalogue.results import Result
    from airflow_provider_bgai.lines import stream_lines

    storage, layout = ledger.storage, ledger.layout
    costs = catalogue_costs(storage, layout.root).total
    evidence.told = costs.charged, costs.paid.get("USD", Decimal(0))
    calls = {call.call_id: call for call in read_open(ledger)}
    calls |= {call.call_id: call for call in read_books(ledger)}
    evidence.calls = list(calls.values())
    evidence.forgotten = audit(ledger).unbooked
    evidence.there = frozenset(layout.relative(item.uri) for item in storage.list(layout.pictures()))
    evidence.nights = [
        [
            result
            for item in storage.list(f"{layout.run(run).results}/")
            for result in stream_lines(storage, item.uri, Result)
        ]
        for run in runs
    ]
    assert set(VENDORS) >= {call.vendor for call in evidence.calls}
    evidence.seconds = time.monotonic() - evidence.seconds
