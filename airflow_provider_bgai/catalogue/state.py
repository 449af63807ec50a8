"""What every SKU's published picture was made from: ``<destination>/_bgai/state.jsonl.gz``.

Publishing writes it, and the next plan says with it what has changed (source, prompt, recipe, vendor, finishing).
"""

from __future__ import annotations

import gzip
import tempfile
from collections.abc import Iterable, Iterator

from pydantic import BaseModel, ConfigDict

from airflow_provider_bgai.layout import Layout
from airflow_provider_bgai.storage import Storage


class SkuState(BaseModel):
    """What a SKU's published picture was made from: a line of ``_bgai/state.jsonl.gz``.

    :param source: sha256 of the source's bytes.
    :param hint: where the source was and how it looked from outside then, without a query: while it looks so, a plan
        need not read it to know its hash. None where nothing was told.
    :param recipe: :meth:`Recipe.digest_of` its category.
    :param finishing: :attr:`Finishing.digest` of its published files: those of this very fingerprint.
    :param vendor: the preferred vendor and its model at that time, not who served it.
    """

    model_config = ConfigDict(frozen=True, extra="ignore")

    sku: str
    fingerprint: str
    source: str | None = None
    hint: str | None = None
    prompt_sha256: str | None = None
    recipe: str | None = None
    vendor: str | None = None
    finishing: str = ""


def read_state(storage: Storage, destination: str, skus: Iterable[str] | None = None) -> Iterator[SkuState]:
    """What the published pictures were made from; nothing before the first publication.

    :param skus: only these; None for all.
    """
    wanted = None if skus is None else frozenset(skus)
    with tempfile.TemporaryFile() as file:
        try:
            storage.download(Layout(destination).state, file)
        except FileNotFoundError:
            return
        file.seek(0)
        with gzip.open(file, "rb") as lines:
            for line in lines:
                state = SkuState.model_validate_json(line)
                if wanted is None or state.sku in wanted:
                    yield state


def write_state(storage: Storage, destination: str, states: Iterable[SkuState]) -> None:
    """Replace the state of all SKUs, in one request."""
    with tempfile.TemporaryFile() as file:
        with gzip.GzipFile(fileobj=file, mode="wb", compresslevel=3, mtime=0) as lines:
            for state in states:
                lines.write(state.model_dump_json().encode() + b"\n")
        file.seek(0)
        storage.put(Layout(destination).state, file, content_type="application/gzip")
