"""The lines of a run's files: what is wanted (shards) and what became of it (results).

``<destination>/_bgai/runs/<run>/`` holds ``plan.json``, ``shards/0000.jsonl`` and ``results/0000.jsonl``. A line
is one JSON object of one of these models; ``schema_version`` rises when a reader would misunderstand it.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from decimal import Decimal
from typing import Any, Literal, TypeVar

from pydantic import BaseModel, ConfigDict

from airflow_provider_bgai.catalogue.ledger import Output, Wasted
from airflow_provider_bgai.models import BackgroundRequest

Status = Literal["new", "changed", "unchanged", "failed_before", "refused", "held", "quarantined", "over_budget"]
"""What the plan says of a product."""

Outcome = Literal["bought", "reused", "unchanged", "refused", "failed", "lost", "quarantined", "held", "over_budget"]
"""What became of a product in a run. ``bought``, ``reused`` and ``unchanged`` have pictures."""


class Wanted(BaseModel):
    """One picture to be made: a line of a shard.

    :param skus: every SKU that wants this very picture; it is bought once.
    :param names: for each SKU, the stable key below the destination, with ``{index}`` and ``{ext}``.
    :param request: the fields of a ``BackgroundRequest``.
    :param source: what identifies the source's content (see ``landing.identify``).
    :param status: ``new``, ``changed`` or ``failed_before``.
    :param changed: what changed since the last run: ``source``, ``prompt``, ``recipe``, ``vendor``.
    :param priority: higher is bought first.
    """

    model_config = ConfigDict(frozen=True, extra="ignore")

    schema_version: int = 1
    fingerprint: str
    skus: tuple[str, ...]
    names: tuple[str, ...]
    category: str = ""
    request: dict[str, Any]
    source: str
    status: Status = "new"
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
    """What became of one SKU in a run: a line of the results and of the run manifest.

    :param price: what this run paid for the call it ended with; ``0`` where nothing was bought, None where it is
        not known.
    :param wasted: earlier calls of this run that were paid in vain.
    :param unknown: paid calls of this run with an unknown outcome on the way.
    :param pictures: how many a call for it makes; 0 for a lost or quarantined one that another run has reported.
    :param name: the stable key below the destination, with ``{index}`` and ``{ext}``.
    :param images: the landed pictures (content-addressed, below ``_bgai/pictures``).
    :param quarantined: pictures that were paid for and do not show the product (below ``_bgai/quarantine``).
    :param image: the source, without a query: what stands there may be secret.
    :param warnings: what a person should know: of the vendor, of a rendition that could not be made.
    :param finishing: :attr:`Finishing.digest` of ``finished``; empty where the landed pictures are published.
    """

    model_config = ConfigDict(frozen=True, extra="ignore")

    schema_version: int = 1
    sku: str
    outcome: Outcome
    name: str = ""
    category: str = ""
    fingerprint: str | None = None
    source: str | None = None
    prompt_sha256: str | None = None
    vendor: str | None = None
    conn_id: str | None = None
    task_id: str | None = None
    model: str | None = None
    seed: int | None = None
    price: Decimal | None = Decimal(0)
    currency: str = "USD"
    wasted: tuple[Wasted, ...] = ()
    unknown: int = 0
    pictures: int = 1
    reason: str | None = None
    error: str | None = None
    seconds: float | None = None
    images: tuple[Output, ...] = ()
    quarantined: tuple[Output, ...] = ()
    image: str | None = None
    finishing: str = ""
    finished: tuple[Finished, ...] = ()
    warnings: tuple[str, ...] = ()


M = TypeVar("M", bound=BaseModel)


def dump_lines(records: Iterable[BaseModel]) -> bytes:
    """Records as JSON lines."""
    return b"".join(record.model_dump_json().encode() + b"\n" for record in records)


def read_lines(kind: type[M], lines: Iterable[bytes]) -> Iterator[M]:
    """Records of JSON lines; blank lines are passed over."""
    return (kind.model_validate_json(line) for line in lines if line.strip())
