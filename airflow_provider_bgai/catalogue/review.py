"""A person's word: what may be decided about a product; whether a run is to be published, and the answer on record.

Airflow 3.1 and later ask by themselves, and the answer is written down here, too; before, ``bgai-ledger approve`` and
``refuse`` write it, and the reviewing task waits for it.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from textwrap import shorten
from typing import TYPE_CHECKING, Literal

from pydantic import BaseModel, ConfigDict

from airflow_provider_bgai.buying.decision import Decided
from airflow_provider_bgai.catalogue.report.story import MESSAGE, of_costs
from airflow_provider_bgai.catalogue.results import Outcome, Result
from airflow_provider_bgai.exceptions import InvalidRequestError
from airflow_provider_bgai.layout import Run, run_of
from airflow_provider_bgai.lines import stream_lines

if TYPE_CHECKING:
    from airflow_provider_bgai.buying.calls import Ledger
    from airflow_provider_bgai.catalogue.publishing.publish import Preview
    from airflow_provider_bgai.storage import Storage

Review = Literal["none", "quarantined", "all"]
"""When a person is asked: never; where something is in quarantine or held; whenever the shop would change."""
Word = Literal["approve", "refuse"]

DECISIONS: Mapping[Decided, tuple[str, tuple[Outcome, ...]]] = {
    "accept": ("Accept", ("quarantined", "rejected")),
    "reject": ("Reject", ("bought", "reused")),
    "buy": ("Buy again", ("quarantined", "rejected", "bought", "reused", "lost", "failed")),
    "release": ("Release", ("held",)),
    "keep": ("Keep held", ("held",)),
}
"""What may be decided: what its button says, and about products with which outcomes."""


class Answer(BaseModel):
    """What a person has said. ``at``: epoch seconds on the store's clock."""

    model_config = ConfigDict(frozen=True, extra="ignore")

    what: Word
    by: str = ""
    at: float


def is_asked_for(review: Review, preview: Preview) -> bool:
    """Whether a person is to look at a run before it is published."""
    doubtful = any(preview.outcomes.get(it) for it in ("quarantined", "held"))
    return review == "all" and preview.changes > 0 or review != "none" and doubtful


def write_answer(storage: Storage, run: Run, what: Word, by: str) -> None:
    """Write a person's word down; the last one counts."""
    answer = Answer(what=what, by=by, at=storage.now())
    storage.put(run.review, answer.model_dump_json().encode(), content_type="application/json")


def read_answer(storage: Storage, run: Run, asked_at: float) -> Answer | None:
    """What a person has said since that time (epoch seconds on the store's clock); None if nobody has yet."""
    try:
        answer = Answer.model_validate_json(storage.read(run.review))
    except FileNotFoundError:
        return None
    return answer if answer.at >= asked_at else None


def wish_of(ledger: Ledger, sku: str) -> str:
    """The wish of a product: in the outcomes of the latest run, else what its published picture was made from.

    :returns: its fingerprint.
    :raises InvalidRequestError: if there is none.
    """
    from airflow_provider_bgai.catalogue.state import read_state

    storage, layout = ledger.storage, ledger.layout
    listed = storage.list(f"{layout.folder}/runs/")
    runs = [item for item in listed if item.uri.endswith("/outcomes.jsonl") and item.uri == run_of(item.uri).outcomes]
    if runs:
        latest = max(runs, key=lambda item: item.modified)
        for result in stream_lines(storage, latest.uri, Result):
            if result.sku == sku and result.fingerprint:
                return result.fingerprint
    for state in read_state(storage, layout.root, [sku]):
        return state.fingerprint
    raise InvalidRequestError(f"sku={sku!r}: the latest run has no wish for it, and nothing of it is published")


def subject_of(preview: Preview) -> str:
    """What is asked, in a line."""
    waiting = sum(preview.outcomes.get(it, 0) for it in ("quarantined", "held"))
    doubt = f" {waiting:,} product(s) are in quarantine or held." if waiting else ""
    return f"Publish? {preview.changes:,} file(s) of the shop would change.{doubt}"


def body_of(preview: Preview, gallery: str | None, pictures: Mapping[str, str]) -> str:
    """What a person should know to answer, as Markdown.

    :param gallery: the address of the run's pictures in Airflow.
    :param pictures: addresses of some pictures, by SKU.
    """
    lines = ["| | products |", "|---|---|"]
    lines += [
        f"| {outcome} | {count:,} |" for outcome, count in sorted(preview.outcomes.items(), key=lambda it: -it[1])
    ]
    lines += ["", _escaped(of_costs(preview.costs)), ""]
    if gallery:
        lines += [f"[Look at the pictures, and accept, reject or buy again]({gallery}) before you answer.", ""]
    lines += [
        f"- **{_escaped(sku)}**: {_escaped(shorten(why, MESSAGE, placeholder=' …'))}"
        for sku, why in preview.doubtful.items()
    ]
    lines += ["", " ".join(f"![{_escaped(sku)}]({address})" for sku, address in pictures.items()), ""]
    lines.append("What is accepted or rejected by then is published, or not, with this run.")
    return "\n".join(lines)


def _escaped(text: str) -> str:
    """Text that Markdown shows as it is: it comes from the shop's list and from vendors."""
    return re.sub(r"([\\`*_{}\[\]()<>#+.!|~:&-])", r"\\\1", " ".join(text.split()))
