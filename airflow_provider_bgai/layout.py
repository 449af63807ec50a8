"""Every name below ``_bgai/``, and of the feeds, from name to URI and back. Nobody else spells one.

::

    <destination>/_bgai/calls/<fingerprint>.<n>                  the record of one paid call
    <destination>/_bgai/open/<fingerprint>.<n>.<call_id>         its marker, until it is in the books
    <destination>/_bgai/incoming/<call_id>                       the body of its one answer, as it came
    <destination>/_bgai/incoming/<call_id>-<i>of<k>.<ext>        a picture as delivered, if a label takes from it
    <destination>/_bgai/pictures/<fingerprint>.<n>-<i>of<k>-<sha>.<ext>    landed; quarantine/ and finished/ likewise
    <destination>/_bgai/books/<month>/<run>-<id>.jsonl           calls that have ended, a line each
    <destination>/_bgai/evidence/<fingerprint>.<n>-<finishing>.jsonl       what the published files are held against
    <destination>/_bgai/decisions/<fingerprint>.<n>              what a person decided about a call
    <destination>/_bgai/budget/…                                 accounts and holders' records
    <destination>/_bgai/stopped/<connection>                     a connection that was paid and gave nothing
    <destination>/_bgai/runs/<run>/…                             plan, shards, results, outcomes, report
    <destination>/_bgai/published/…, state.jsonl.gz, store.json, staged/
    <destination>/feeds/feed.csv, feed.jsonl, …                  what the shop shows, for importers

Records hold these names relative to the destination, so that a catalogue that is copied with its ledger works on.
"""

from __future__ import annotations

import hashlib
import re
from dataclasses import dataclass
from typing import Any

from airflow_provider_bgai.exceptions import InvalidRequestError

FOLDER = "_bgai"
MAX_SEGMENT = 255
"""Bytes of one part of a key: what file systems behind S3 servers take."""

_RUN = re.compile(r"(.+)/_bgai/runs/([^/]+)/(.+)")
_CALL = re.compile(r"([0-9a-f]{64})\.(\d{3,})")
_MARKER = re.compile(r"([0-9a-f]{64})\.(\d{3,})\.([0-9a-f]{32})")
_FEED = re.compile(r"feeds/(feed|shopify|woocommerce|google)(-\d+)?\.(csv|jsonl|tsv)")
_LINES = re.compile(r"outcomes|(?:planned|results)/\d{4,6}")
_PICTURE = re.compile(r"([0-9a-f]{64})\.(\d{3,})-(\d+)of(\d+)-([0-9a-f]{16})\.([a-z0-9]{1,5})")


@dataclass(frozen=True, slots=True)
class Marker:
    """What the name of a marker says."""

    fingerprint: str
    number: int
    call_id: str


@dataclass(frozen=True, slots=True)
class PictureName:
    """What the name of a landed picture says: the ``index``-th (from 1) of ``count`` of a call."""

    fingerprint: str
    number: int
    index: int
    count: int


class Layout:
    """The names below one destination (or ledger, or wallet).

    :param root: ``s3://bucket/prefix``.
    """

    def __init__(self, root: str) -> None:
        self.root = root.rstrip("/")
        self.folder = f"{self.root}/{FOLDER}"

    # --- relative names, as records hold them

    def relative(self, uri: str) -> str:
        """A URI below the destination as records hold it; any other one as it is."""
        return uri.removeprefix(f"{self.root}/")

    def absolute(self, name: str) -> str:
        """The URI of a name that a record holds."""
        return name if name.startswith("s3://") else f"{self.root}/{name}"

    # --- calls

    def call(self, fingerprint: str, number: int) -> str:
        return f"{self.folder}/calls/{fingerprint}.{number:03}"

    def calls(self, start: str = "") -> str:
        """Prefix of the records of all calls, or of those whose fingerprint starts so."""
        return f"{self.folder}/calls/{start}"

    def marker(self, fingerprint: str, number: int, call_id: str) -> str:
        return f"{self.folder}/open/{fingerprint}.{number:03}.{call_id}"

    @property
    def open(self) -> str:
        """Prefix of all markers."""
        return f"{self.folder}/open/"

    def incoming(self, call_id: str) -> str:
        return f"{self.folder}/incoming/{call_id}"

    def delivered(self, call_id: str, index: int, count: int, extension: str) -> str:
        """A picture as the vendor delivered it: the ``index``-th (from 1) of ``count`` of a call."""
        return f"{self.folder}/incoming/{segment(call_id, 200)}-{index}of{count}.{extension}"

    def picture(self, name: PictureName, sha256: str, extension: str, *, quarantined: bool = False) -> str:
        folder = "quarantine" if quarantined else "pictures"
        place = f"{name.fingerprint}.{name.number:03}-{name.index}of{name.count}"
        return f"{self.folder}/{folder}/{place}-{sha256[:16]}.{extension}"

    def pictures(self, start: str = "") -> str:
        """Prefix of all landed pictures, or of those whose fingerprint starts so."""
        return f"{self.folder}/pictures/{start}"

    def finished(self, picture: PictureName, version: str, rendition: str, extension: str) -> str:
        """A file made of a landed picture, to be published."""
        place = f"{picture.fingerprint}.{picture.number:03}-{picture.index}of{picture.count}"
        return f"{self.folder}/finished/{place}-{version}/{rendition or 'picture'}.{extension}"

    def evidence(self, fingerprint: str, number: int, finishing: str) -> str:
        """What is known of the files that were made of a call's pictures in one way."""
        return f"{self.folder}/evidence/{fingerprint}.{number:03}-{finishing}.jsonl"

    def is_quarantined(self, uri: str) -> bool:
        """Whether a URI is that of a picture which may not."""
        return uri.startswith(f"{self.folder}/quarantine/")

    def is_picture(self, uri: str) -> bool:
        """Whether a URI is that of a file which may be published."""
        return uri.startswith((self.pictures(), f"{self.folder}/finished/"))

    def decision(self, fingerprint: str, number: int) -> str:
        return f"{self.folder}/decisions/{fingerprint}.{number:03}"

    @property
    def decisions(self) -> str:
        """Prefix of what people decided about all calls."""
        return f"{self.folder}/decisions/"

    def stopped(self, conn_id: str = "") -> str:
        """The mark of a stopped connection, or the prefix of all of them."""
        return f"{self.folder}/stopped/{segment(conn_id)}"

    # --- books, budget, store

    def books_file(self, month: str, run: str, file_id: str) -> str:
        """:param month: ``2026-11``."""
        return f"{self.folder}/books/{month}/{segment(run, 200)}-{file_id}.jsonl"

    def books(self, month: str | None = None) -> str:
        """Prefix of the books of a month (``2026-11``), or of all."""
        return f"{self.folder}/books/" + (f"{month}/" if month else "")

    def budget(self, name: str) -> str:
        return f"{self.folder}/budget/{name}"

    @property
    def store(self) -> str:
        """What the store was found able to do."""
        return f"{self.folder}/store.json"

    @property
    def staged(self) -> str:
        """Prefix of pictures put there for vendors that take links only."""
        return f"{self.folder}/staged"

    # --- what is published

    @property
    def state(self) -> str:
        """What every SKU's published picture was made from."""
        return f"{self.folder}/state.jsonl.gz"

    @property
    def current(self) -> str:
        """Which mapping holds."""
        return f"{self.folder}/published/current"

    def mapping(self, run: str) -> str:
        """What a run published: for every key, the picture it shows."""
        return f"{self.folder}/published/{run}.jsonl"

    def touched(self, run: str, file_id: str) -> str:
        """The keys that a publisher set out to change."""
        return f"{self.folder}/published/{run}.{file_id}.touched"

    def feed(self, name: str) -> str:
        return f"{self.feeds}{name}"

    @property
    def feeds(self) -> str:
        """Prefix of all feeds."""
        return f"{self.root}/feeds/"

    # --- runs

    def run(self, run: str) -> Run:
        return Run(self, run)

    def probes(self) -> list[str]:
        """One name below every prefix that is written to, for trying the rights."""
        folders = (
            "calls open incoming pictures quarantine finished evidence decisions stopped books budget runs published "
            "staged"
        )
        return [f"{self.folder}/{name}/store-probe" for name in folders.split()] + [f"{self.root}/bgai-store-probe"]


class Run:
    """The names of one run's files.

    :param name: from :func:`run_name`.
    """

    def __init__(self, layout: Layout, name: str) -> None:
        self.layout, self.name = layout, name
        self.folder = f"{layout.folder}/runs/{name}"
        self.plan = f"{self.folder}/plan.json"
        self.shards = f"{self.folder}/shards"
        self.planned = f"{self.folder}/planned"
        self.results = f"{self.folder}/results"
        self.outcomes = f"{self.folder}/outcomes.jsonl"
        self.report = f"{self.folder}/report.html"
        self.review = f"{self.folder}/review.json"

    def question(self, number: int) -> str:
        """What a reviewing task asked in its ``number``-th try."""
        return f"{self.folder}/review-{number}.md"

    def results_of(self, shard: str) -> str:
        """Where the results of a shard (a URI) are."""
        return f"{self.results}/{shard.rpartition('/')[2]}"

    def shard(self, number: str) -> str:
        """:param number: ``0000``."""
        return f"{self.shards}/{number}.jsonl"

    def lines(self, name: str) -> str:
        """A file of lines about products: ``outcomes``, and before there are any ``planned/0000``, ``results/0000``.

        :raises InvalidRequestError: for another name.
        """
        if not _LINES.fullmatch(name):
            raise InvalidRequestError(f"{name!r}: must be outcomes, planned/0000 or results/0000")
        return f"{self.folder}/{name}.jsonl"

    def name_of(self, uri: str) -> str:
        """The name that :meth:`lines` takes for a URI."""
        return uri.removeprefix(f"{self.folder}/").removesuffix(".jsonl")

    def landed_of(self, shard: str) -> str:
        """Where the results of what has landed so far are, of a shard (a URI) whose task is deferred."""
        return f"{self.folder}/landed/{shard.rpartition('/')[2]}"


def out_of_quarantine(name: str) -> str:
    """Where a picture in quarantine is once it has been accepted."""
    return name.replace(f"{FOLDER}/quarantine/", f"{FOLDER}/pictures/")


def into_quarantine(name: str) -> str:
    """Where a landed picture is once it has been rejected."""
    return name.replace(f"{FOLDER}/pictures/", f"{FOLDER}/quarantine/")


def run_of(uri: str) -> Run:
    """The run that a file (its plan, a shard) belongs to. :raises InvalidRequestError: if it is none of a run's."""
    match = _RUN.fullmatch(uri)
    if match is None:
        raise InvalidRequestError(f"{uri!r}: must be the URI of a run's plan or shard, below _bgai/runs/")
    return Layout(match[1]).run(match[2])


def root_of(record_uri: str) -> str:
    """The destination that a record's URI belongs to. :raises InvalidRequestError: if it is none."""
    root, mark, _ = record_uri.rpartition(f"/{FOLDER}/")
    if not mark:
        raise InvalidRequestError(f"{record_uri!r}: is no record below _bgai/")
    return root


def call_of(uri: str) -> tuple[str, int] | None:
    """Fingerprint and number in the URI of a call's record; None for anything else."""
    match = _CALL.fullmatch(uri.rpartition("/")[2])
    return (match[1], int(match[2])) if match else None


def marker_of(uri: str) -> Marker | None:
    """What the URI of a marker says; None for anything else."""
    match = _MARKER.fullmatch(uri.rpartition("/")[2])
    return Marker(match[1], int(match[2]), match[3]) if match else None


def is_feed(key: str) -> bool:
    """Whether a key below the destination is that of a feed, so that no picture may have it."""
    return _FEED.fullmatch(key) is not None


def picture_of(uri: str) -> PictureName | None:
    """What the URI of a landed picture says; None for anything else."""
    match = _PICTURE.fullmatch(uri.rpartition("/")[2])
    return PictureName(match[1], int(match[2]), int(match[3]), int(match[4])) if match else None


def run_name(*parts: str) -> str:
    """A run's name in S3 out of DAG, planning task (with its task group) and run ID: different for different parts.

    What does not belong into a key is written as ``=`` and two hexadecimal digits a byte, so that run IDs that differ
    in ``+ : ~`` only stay two.
    """
    return segment("+".join(escape(part) for part in parts), 200)


def run_name_of(instance: Any) -> str:
    """The name of the run that a task of Airflow starts: the same for all its tries.

    :param instance: has ``dag_id``, ``task_id`` (with its task group), ``run_id`` and ``map_index``.
    """
    place = [] if getattr(instance, "map_index", -1) in (-1, None) else [str(instance.map_index)]
    return run_name(instance.dag_id, instance.task_id, instance.run_id, *place)


def escape(text: str) -> str:
    """Text as part of a key: letters, digits and ``_ . -`` as they are, all else as ``=XX``. Injective."""
    return re.sub(r"[^A-Za-z0-9_.-]", lambda char: "".join(f"={byte:02X}" for byte in char[0].encode()), text)


def segment(name: str, limit: int = MAX_SEGMENT) -> str:
    """A name that fits into one part of a key; a longer one is cut and told apart by its hash."""
    if not re.fullmatch(r"[A-Za-z0-9_.=+-]+", name):
        name = escape(name)
    if len(name) <= limit:
        return name
    return f"{name[: limit - 17]}-{hashlib.sha256(name.encode()).hexdigest()[:16]}"


def long_segment(key: str) -> str | None:
    """The first part of a key that is longer than :data:`MAX_SEGMENT` bytes; None if there is none."""
    return next((part for part in key.split("/") if len(part.encode("utf-8", "surrogatepass")) > MAX_SEGMENT), None)
