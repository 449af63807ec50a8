"""The lines of a run's files: what is wanted (shards), and what became of it (results, outcomes).

``<destination>/_bgai/runs/<run>/`` holds ``plan.json``, ``shards/0000.jsonl`` and ``results/0000.jsonl``. A line
is one JSON object of one of these models; ``schema_version`` rises when a reader would misunderstand it.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from decimal import Decimal
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict

from airflow_provider_bgai.buying.purchase import prompt_sha256
from airflow_provider_bgai.buying.record import Call, Output
from airflow_provider_bgai.exceptions import BgaiError
from airflow_provider_bgai.models import BackgroundRequest
from airflow_provider_bgai.sources import Source, shown

Status = Literal[
    "new", "changed", "unchanged", "failed_before", "refused", "held", "quarantined", "rejected", "over_budget"
]
"""What the plan says of a product."""

Outcome = Literal[
    "bought", "reused", "unchanged", "refused", "failed", "lost", "quarantined", "rejected", "held", "over_budget"
]
"""What became of a product in a run."""

WITH_PICTURES = ("bought", "reused", "unchanged")
"""The outcomes of products that have pictures."""


class Wanted(BaseModel):
    """One picture to be made: a line of a shard.

    :param skus: every SKU that wants this very picture; it is bought once.
    :param names: for each SKU, the stable key below the destination, with ``{index}`` and ``{ext}``.
    :param words: for each SKU, what the shop says of it (:attr:`Result.words`); empty where it says nothing.
    :param request: the fields of a ``BackgroundRequest``.
    :param fingerprint: as far as hints told the plan; whoever generates reads the source, and decides on its bytes.
    :param status: ``new``, ``changed`` or ``failed_before``.
    :param again: asked for by its SKU or as failed.
    :param changed: what changed since the last run: ``source``, ``prompt``, ``recipe``, ``vendor``.
    :param priority: higher is bought first.
    """

    model_config = ConfigDict(frozen=True, extra="ignore")

    schema_version: int = 1
    fingerprint: str | None = None
    skus: tuple[str, ...]
    names: tuple[str, ...]
    words: tuple[dict[str, str], ...] = ()
    category: str = ""
    request: dict[str, Any]
    status: Status = "new"
    again: bool = False
    changed: tuple[str, ...] = ()
    priority: float = 0.0

    def background_request(self) -> BackgroundRequest:
        """The request to be sent."""
        return BackgroundRequest(**self.request)


class Finished(Output):
    """A file made of a landed picture, to be published: the picture itself, pasted back or labelled anew, or a
    rendition of it.

    :param rendition: its name in the recipe; empty for the picture itself.
    :param index: of the landed picture, from 1.
    :param notes: what a person should know of it.
    """

    rendition: str
    index: int
    notes: tuple[str, ...] = ()


class Result(BaseModel):
    """What became of one SKU in a run: a line of the results and of the run's ``outcomes.jsonl``.

    It says nothing of what the run cost in all: that is the sum over the calls it sent, and stands in the books.

    :param price: of the call it ended with, if this run sent it and it is or may be paid; ``0`` otherwise, None where
        it is not known. The first SKU of a picture carries it.
    :param name: the stable key below the destination, with ``{index}`` and ``{ext}``.
    :param source: sha256 of the source's bytes; ``hint``: how it looked from outside.
    :param images: the landed pictures, relative to the destination; ``quarantined``: those that do not show the
        product.
    :param image: the source, without a query: what stands there may be secret.
    :param warnings: what a person should know: of the vendor, of a rendition that could not be made.
    :param finishing: :attr:`Finishing.digest` of ``finished``; empty where no files were made.
    :param words: what the shop says of it: ``alt``, ``title``, ``handle``, ``google_id``, as the recipe makes them.
    """

    model_config = ConfigDict(frozen=True, extra="ignore")

    schema_version: int = 1
    sku: str
    outcome: Outcome
    name: str = ""
    category: str = ""
    fingerprint: str | None = None
    source: str | None = None
    hint: str | None = None
    prompt_sha256: str | None = None
    call_id: str | None = None
    vendor: str | None = None
    conn_id: str | None = None
    task_id: str | None = None
    model: str | None = None
    seed: int | None = None
    price: Decimal | None = Decimal(0)
    currency: str = "USD"
    reason: str | None = None
    error: str | None = None
    seconds: float | None = None
    images: tuple[Output, ...] = ()
    quarantined: tuple[Output, ...] = ()
    image: str | None = None
    finishing: str = ""
    finished: tuple[Finished, ...] = ()
    words: dict[str, str] = {}
    warnings: tuple[str, ...] = ()


OUTCOMES: dict[str, Outcome] = {
    "refused": "refused",
    "moderation": "refused",
    "over_budget": "over_budget",
    "lost": "lost",
    "quarantined": "quarantined",
    "rejected": "rejected",
    "unknown": "held",
    "store": "held",
}
"""What an error that ends a picture in a run makes of it, by the error's reason; ``failed`` for all others."""


def landed_results(item: Wanted, call: Call, run: str, source: Source | None) -> list[Result]:
    """Results of a landed picture: bought if this run sent its call, in whichever try; else it was there before."""
    bought = call.run == run
    found = _results(
        item,
        "bought" if bought else "reused",
        call,
        source,
        price=call.price if bought else Decimal(0),
        warnings=call.warnings,
    )
    first, *others = [
        it.model_copy(update={"images": call.images, "quarantined": call.quarantined if bought else ()}) for it in found
    ]
    return [first, *(other.model_copy(update={"outcome": "reused", "price": Decimal(0)}) for other in others)]


def error_results(
    item: Wanted, error: BgaiError, *, call: Call | None, run: str, source: Source | None = None
) -> list[Result]:
    """Results of a picture that an error ended in this run.

    :param call: the call it ended with, if there is one.
    """
    outcome = OUTCOMES.get(error.reason, "failed")
    sent_here = call is not None and call.run == run and call.state != "failed"
    found = _results(
        item,
        outcome,
        call,
        source,
        price=call.price if sent_here and call is not None else Decimal(0),
        reason=error.reason,
        error=str(error),
    )
    quarantined = call.quarantined if call is not None and outcome == "quarantined" else ()
    return [it.model_copy(update={"quarantined": quarantined}) for it in found]


def _results(
    item: Wanted, outcome: Outcome, call: Call | None, source: Source | None, *, price: Decimal | None, **known: object
) -> list[Result]:
    """One result per SKU of the picture; the first one carries the price."""
    request = item.background_request()
    if call is not None:
        known |= {name: getattr(call, name) for name in ("call_id", "vendor", "conn_id", "task_id", "model", "seed")}
        known |= {"fingerprint": call.fingerprint, "currency": call.currency, "source": call.source_sha256}
        if call.ended_at is not None:
            known["seconds"] = round(call.ended_at - call.sent_at, 1)
    if source is not None:
        known |= {"source": source.sha256, "hint": source.hint}
    known.setdefault("fingerprint", item.fingerprint)
    return [
        Result(
            sku=sku,
            name=name,
            outcome=outcome,
            category=item.category,
            prompt_sha256=prompt_sha256(request.prompt),
            image=shown(request.image),
            words=item.words[place] if item.words else {},
            price=price if place == 0 else Decimal(0),
            **known,  # type: ignore[arg-type]
        )
        for place, (sku, name) in enumerate(zip(item.skus, item.names, strict=True))
    ]


def no_answer_results(item: Wanted) -> list[Result]:
    """Results of a picture whose task has left none: it died, or was never run."""
    error = "The generate stage left no result for it. Whatever was paid is collected by the next run"
    return [
        Result(
            sku=sku,
            name=name,
            outcome="failed",
            category=item.category,
            fingerprint=item.fingerprint,
            reason="no_result",
            price=None,
            error=error,
        )
        for sku, name in zip(item.skus, item.names, strict=True)
    ]


def not_published(result: Result, error: object) -> Result:
    """What became of a picture that landed, and may not stand under its key."""
    return _instead(result, "refused", "refused", f"Not published: {error}")


def gone(result: Result, reason: str, message: str) -> Result:
    """What became of a picture that was there and cannot be published.

    :param reason: ``missing``: it is not in S3 any more. Who paid for it in this run has lost it then; for the others
        it was paid before.
    """
    lost = (result.outcome, reason) == ("bought", "missing")
    return _instead(result, "lost" if lost else "failed", reason, message)


def accepted(result: Result, call: Call, run: str) -> Result:
    """What became of a picture in quarantine that a person has accepted.

    :param call: as if it had landed.
    """
    good = {"images": call.images, "quarantined": (), "reason": None, "error": None}
    return result.model_copy(update={**good, "outcome": "bought" if call.run == run else "reused"})


def rejected(result: Result, error: BgaiError) -> Result:
    """What became of a picture that a person has rejected, or wants anew, since it landed."""
    update = {"images": (), "finished": (), "quarantined": result.images or result.quarantined}
    return _instead(result, "rejected", error.reason, str(error)).model_copy(update=update)


def _instead(result: Result, outcome: Outcome, reason: str, error: str) -> Result:
    return result.model_copy(update={"outcome": outcome, "reason": reason, "error": error})


# --- lines of a plan: of 100,000 products, so they are written as JSON at once

canonical: Callable[[Any], str] = json.JSONEncoder(sort_keys=True, separators=(",", ":"), default=str).encode
"""A line of JSON, the same for equal values."""


def unchanged_line(known: Mapping[str, Any]) -> str:
    """A result: what a product wants has landed, and is published.

    :param known: further fields of the :class:`Result`.
    """
    return canonical({**known, "outcome": "unchanged"})


def refused_line(sku: str, key: str, category: str, error: str) -> str:
    """A result: what the shop's list or the recipe says of a product cannot be used."""
    names = {"sku": sku, "name": key, "category": category}
    return canonical({**names, "outcome": "refused", "reason": "refused", "error": error})


def left_out_line(sku: str, key: str, known: Mapping[str, Any], outcome: str, reason: str, error: str | None) -> str:
    """A result: the last call of a wish, or a cap, keeps it out of the shards."""
    return canonical({**known, "sku": sku, "name": key, "outcome": outcome, "reason": reason, "error": error})
