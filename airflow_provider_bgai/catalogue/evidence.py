"""The evidence of a published file: from which cut-out it was made, what was seen when the two were compared, whether
the product was pasted back, what its label says, and which paid call it came from.

Written when a file is finished, beside it, one line a file; signed files carry the same as an assertion of their
manifest. Nothing of it is needed to publish. It is what ``bgai-audit`` holds the published files against.
"""

from __future__ import annotations

from typing import Any

from pydantic import BaseModel, ConfigDict

from airflow_provider_bgai import __version__
from airflow_provider_bgai.buying.record import Call, Output
from airflow_provider_bgai.imaging.fidelity import Verdict
from airflow_provider_bgai.imaging.inspect import Box, Inspection
from airflow_provider_bgai.imaging.label import Label
from airflow_provider_bgai.imaging.renditions import Rendition
from airflow_provider_bgai.layout import Layout
from airflow_provider_bgai.lines import stream_lines, write_lines
from airflow_provider_bgai.storage import Storage

_IN_THE_SHOP: Any = {"uri": True, "sha256": True, "landed": True, "source": True, "label": {"prompt"}}
"""Names of the shop's own places; the file's own hash, which no file can hold; and the prompt, which is for the label
alone."""


class Evidence(BaseModel):
    """What is known of one published file.

    :param uri: of the file, relative to the destination; ``sha256`` of its bytes.
    :param rendition: its name in the recipe, and how it was asked for (``rendered``); empty for the picture itself.
    :param index: of the landed picture, from 1.
    :param pasted: whether the product's own pixels were put over the vendor's.
    :param landed: the landed picture it was made of, relative to the destination.
    :param source: the cut-out that the vendor was sent, without a query.
    :param inspection: how the landed picture was looked at, limits included; ``told``: where the vendor said that the
        product lies; ``verdict``: what was seen, None where nothing could be compared.
    :param version: of this package.
    """

    model_config = ConfigDict(frozen=True, extra="ignore")

    schema_version: int = 1
    uri: str = ""
    sha256: str = ""
    rendition: str = ""
    rendered: Rendition | None = None
    index: int = 1
    pasted: bool = False
    label: Label | None
    landed: str = ""
    landed_sha256: str
    source: str = ""
    source_sha256: str
    inspection: Inspection
    told: Box | None = None
    verdict: Verdict | None = None
    vendor: str
    model: str | None = None
    call_id: str
    fingerprint: str
    number: int
    sent_at: float
    version: str = __version__

    def assertion(self) -> dict[str, Any]:
        """As it stands in the manifest of a signed file, which strangers read."""
        said: dict[str, Any] = _without_lists(self.model_dump(mode="json", exclude=_IN_THE_SHOP))
        return said

    def of_file(self, uri: str, sha256: str) -> Evidence:
        """The same, of a file that has been written."""
        return self.model_copy(update={"uri": uri, "sha256": sha256})


def _without_lists(value: Any) -> Any:
    """Lists of numbers as text: the C2PA library reads them as bytes, and cuts what is larger."""
    if isinstance(value, dict):
        return {name: _without_lists(each) for name, each in value.items()}
    numbers = isinstance(value, list) and all(isinstance(each, int) for each in value)
    return " ".join(map(str, value)) if value and numbers else value


def evidence_of(call: Call, output: Output, index: int, *, label: Label | None, pasted: bool = False) -> Evidence:
    """The evidence of a landed picture, as far as it is known before its file is.

    :param call: landed, or quarantined and accepted by a person.
    :param output: its ``index``-th picture (from 1).
    """
    return Evidence(
        index=index,
        pasted=pasted,
        label=label,
        landed=output.uri,
        landed_sha256=output.sha256,
        source=call.source,
        source_sha256=call.source_sha256,
        inspection=call.inspection,
        told=call.placement,
        verdict=output.fidelity,
        vendor=call.vendor,
        model=call.model,
        call_id=call.call_id,
        fingerprint=call.fingerprint,
        number=call.number,
        sent_at=round(call.sent_at, 3),
    )


def keep_evidence(storage: Storage, layout: Layout, finishing: str, files: list[Evidence]) -> None:
    """Write down the evidence of all files of a purchase, finished in one way. Blocking."""
    if files:
        uri = layout.evidence(files[0].fingerprint, files[0].number, finishing)
        write_lines(storage, uri, (it.model_dump_json() for it in files))


def read_evidence(storage: Storage, layout: Layout, fingerprint: str, number: int, finishing: str) -> list[Evidence]:
    """The evidence of the files of a purchase that were finished so; none if nobody wrote any down."""
    try:
        return list(stream_lines(storage, layout.evidence(fingerprint, number, finishing), Evidence))
    except FileNotFoundError:
        return []
