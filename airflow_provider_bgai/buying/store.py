"""Whether an S3 can do what paying once needs, tried before anything is spent."""

from __future__ import annotations

import json
import logging
import time
import uuid
from concurrent.futures import ThreadPoolExecutor

from airflow_provider_bgai.exceptions import AuthenticationError, SourceError
from airflow_provider_bgai.layout import Layout
from airflow_provider_bgai.mistakes import may_pass, of_store
from airflow_provider_bgai.storage import Storage, store_errors

log = logging.getLogger(__name__)


def check_store(storage: Storage, layout: Layout) -> None:
    """Try whether the store can do what paying once needs, before anything is spent; write down what was found.

    Tried: the rights to put, get, list and delete below every prefix; to create twice (the second must fail) and to
    replace with a wrong ETag (must fail) and with the right one.

    :raises AuthenticationError: in words, if it cannot: nothing may be bought with such a store.
    :raises SourceError: if it cannot be reached for now.
    """
    probes = [f"{probe}-{uuid.uuid4().hex}" for probe in layout.probes()]
    with ThreadPoolExecutor(len(probes), "bgai-rights") as pool:
        list(pool.map(lambda uri: _check_rights(storage, uri, layout.root), probes))
    problem = _condition_problem(storage, f"{probes[0]}-again")
    if problem is not None:
        raise AuthenticationError(
            f"{layout.root}: {problem}. With such a store pictures would be paid twice. Use one that honours "
            "If-None-Match and If-Match, as Amazon S3 does, and SeaweedFS, MinIO, Ceph and Cloudflare R2 of today"
        )
    found = {"conditions": True, "at": storage.now(), "ahead_of_this_machine": round(storage.now() - time.time(), 1)}
    storage.put(layout.store, json.dumps(found).encode(), content_type="application/json")
    if abs(found["ahead_of_this_machine"]) > 60:
        log.warning("This machine's clock and the store's are %.0f s apart", found["ahead_of_this_machine"])


def check_store_once(storage: Storage, layout: Layout) -> None:
    """As :func:`check_store`, unless it was found good before."""
    try:
        known = storage.head(layout.store)
    except store_errors():
        known = None  # the answer to this question has no body; trying the store tells what is wrong with it
    if known is None:
        check_store(storage, layout)


def _check_rights(storage: Storage, uri: str, root: str) -> None:
    try:
        storage.put(uri, b"")
        storage.read(uri)
        any(storage.list(uri))
        storage.delete(uri)
    except store_errors(FileNotFoundError) as error:
        if (problem := of_store(error, uri, storage.aws_conn_id)) is not None:
            raise AuthenticationError(f"{root}: {problem}") from None
        if may_pass(error):
            raise SourceError(f"{uri}: the store cannot be used for now: {error}") from None
        raise AuthenticationError(
            f"{uri}: the store cannot be used: {error}. Connection {storage.aws_conn_id!r} needs the rights to put, "
            f"get, list and delete everything below {root}/"
        ) from None


def _condition_problem(storage: Storage, uri: str) -> str | None:
    """What is wrong with the store's conditional writes, tried at a URI where there is nothing; None if nothing is."""
    try:
        storage.create(uri, b"first")
        if storage.create(uri, b"second") is not None or storage.read(uri) != b"first":
            problem = "the store overwrites what If-None-Match protects"
        elif storage.replace(uri, b"second", '"00000000000000000000000000000000"') is not None:
            problem = "the store overwrites what If-Match protects"
        elif storage.replace(uri, b"third", storage.read_versioned(uri)[1]) is None or storage.read(uri) != b"third":
            problem = "the store takes no If-Match with the ETag it gave"
        else:
            problem = None
        storage.delete(uri)
    except store_errors(FileNotFoundError) as error:
        return f"the store takes no conditional write: {error}"
    return problem
