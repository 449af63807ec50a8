"""``bgai-audit``: does every published file hold against its evidence, as the shop has it and as the public gets it?

Everything is computed anew from the files alone: hashes, label, signature, the comparison with the cut-out, the pasted
product, the renditions. Nothing is written, bought or asked of a vendor.

Exit code 0; 1 if a file does not hold; 2 if something was asked that makes no sense.
"""

from __future__ import annotations

import argparse
import asyncio
import hashlib
import io
import sys
from collections.abc import Collection, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from itertools import islice
from typing import TYPE_CHECKING, Any
from urllib.parse import quote

from airflow_provider_bgai.buying.calls import Ledger
from airflow_provider_bgai.buying.decisions import read_note
from airflow_provider_bgai.catalogue.evidence import Evidence, read_evidence
from airflow_provider_bgai.catalogue.publishing.publish import read_current, read_mapping
from airflow_provider_bgai.catalogue.publishing.versions import Entry
from airflow_provider_bgai.exceptions import BgaiError, InvalidRequestError
from airflow_provider_bgai.imaging.label import LabelError, read_label
from airflow_provider_bgai.storage import Storage

if TYPE_CHECKING:
    from PIL import Image

    from airflow_provider_bgai.imaging.fidelity import Verdict

AT_ONCE = 4
"""Files looked at at the same time: each takes its decoded pixels' memory."""
TIMEOUT = 60.0
MAX_BYTES = 100 * 1024 * 1024

_SAME_NUMBER = 0.02
"""Share, or amount where a number is small, by which a comparison made on another machine may differ."""
_SAME_PICTURE = 6.0
"""Levels of 255, on average over a small copy, by which a picture that somebody encoded anew may differ."""


@dataclass(frozen=True)
class Audited:
    """What was found of one published file.

    :param key: below the destination.
    :param problems: why it does not hold; empty if it does.
    :param unseen: what could not be computed anew, and why.
    """

    key: str
    sku: str
    problems: tuple[str, ...] = ()
    unseen: tuple[str, ...] = ()


def audit(
    storage: Storage,
    destination: str,
    *,
    url: str | None = None,
    skus: Collection[str] = (),
    allow_private_hosts: bool = False,
) -> Iterator[Audited]:
    """Hold what a shop shows against its evidence, file by file, in the order of the keys.

    :param destination: ``s3://bucket/prefix`` of the catalogue.
    :param url: where the public gets the files, with ``{key}`` for what stands below the destination: fetched from
        there, too, so that what strips labels or swaps pictures on the way is found.
    :param skus: only these; empty for all.
    :param allow_private_hosts: whether sources and ``url`` may lead to private addresses.
    :raises InvalidRequestError: if nothing is published, or ``url`` names no key.
    """
    if url is not None and "{key}" not in url:
        raise InvalidRequestError(f"url={url!r}: needs {{key}}, as in https://cdn.shop.example/{{key}}")
    run = read_current(storage, destination).run
    if run is None:
        raise InvalidRequestError(f"{destination}: nothing is published there")
    auditor = _Auditor(Ledger(storage, destination), url, allow_private_hosts)
    wanted = frozenset(skus)
    entries = (it for it in read_mapping(storage, destination, run) if not wanted or it.sku in wanted)
    with ThreadPoolExecutor(AT_ONCE, "bgai-audit") as pool:
        while batch := list(islice(entries, 8 * AT_ONCE)):
            yield from pool.map(auditor.look, batch)


class _Auditor:
    """Looks at one file after the other, and believes none of them."""

    def __init__(self, ledger: Ledger, url: str | None, allow_private_hosts: bool) -> None:
        self.storage, self.layout = ledger.storage, ledger.layout
        self.ledger, self.url, self.allow = ledger, url, allow_private_hosts

    def look(self, entry: Entry) -> Audited:
        problems: list[str] = []
        unseen: list[str] = []
        shown = self._read(entry.key)
        if shown is None:
            problems.append("is gone from the shop")
        evidence = self._evidence(entry, problems)
        if evidence is not None:
            kept = self._kept(evidence, problems)
            if shown is not None:
                problems.extend(_bytes_problems(shown, kept, evidence))
            if kept is not None:
                _check_manifest(kept, problems, unseen)
                self._compute_anew(kept, evidence, problems, unseen)
            if self.url is not None:
                problems.extend(self._public_problems(entry.key, kept, evidence))
        return Audited(entry.key, entry.sku, tuple(problems), tuple(unseen))

    def _read(self, name: str) -> bytes | None:
        try:
            return self.storage.read(self.layout.absolute(name))
        except FileNotFoundError:
            return None

    def _evidence(self, entry: Entry, problems: list[str]) -> Evidence | None:
        found = read_evidence(self.storage, self.layout, entry.fingerprint, entry.number, entry.finishing)
        for it in found:
            if (it.rendition, it.index) == (entry.rendition, entry.index):
                if it.sha256 != entry.sha256:
                    problems.append("was published from another file than its evidence tells of")
                return it
        where = self.layout.evidence(entry.fingerprint, entry.number, entry.finishing)
        problems.append(f"has no evidence: nothing of it stands in {where}")
        return None

    def _kept(self, evidence: Evidence, problems: list[str]) -> bytes | None:
        """The file that was published, as it is kept; None if it is not what it was."""
        kept = self._read(evidence.uri)
        if kept is None or _sha256(kept) != evidence.sha256:
            problems.append(f"{evidence.uri}: {'is gone' if kept is None else 'is not what it was'}")
            return None
        return kept

    def _compute_anew(self, kept: bytes, evidence: Evidence, problems: list[str], unseen: list[str]) -> None:
        """Everything that the file's evidence says of its pixels, from the landed picture and the cut-out."""
        landed = self._read(evidence.landed)
        if landed is None or _sha256(landed) != evidence.landed_sha256:
            problems.append(f"{evidence.landed}: {'is gone' if landed is None else 'is not what it was'}")
            return
        needs_source = evidence.verdict is not None or evidence.pasted or _of_cutout(evidence)
        source = self._source(evidence, unseen) if needs_source else None
        if evidence.verdict is None:
            unseen.append("was never compared with its cut-out, so there is no verdict")
        elif not evidence.rendition and source is not None:
            problems.extend(self._verdict_problems(landed, source, evidence))
        if source is not None or not needs_source:
            problems.extend(_pixel_problems(kept, landed, source, evidence))

    def _source(self, evidence: Evidence, unseen: list[str]) -> bytes | None:
        from airflow_provider_bgai.sources import read_source

        try:
            read = asyncio.run(read_source(evidence.source, self.storage, allow_private_hosts=self.allow))
        except BgaiError as error:
            unseen.append(f"is not compared anew: {error}")
            return None
        if read.sha256 != evidence.source_sha256:
            unseen.append(f"is not compared anew: {evidence.source} is another file now")
            return None
        return read.data

    def _verdict_problems(self, landed: bytes, source: bytes, evidence: Evidence) -> Iterator[str]:
        from airflow_provider_bgai.imaging.inspect import inspect

        then, now = evidence.verdict, inspect(io.BytesIO(landed), source, evidence.inspection, evidence.told).verdict
        assert then is not None
        if now is None or (differing := _differing(then, now)):
            told = "cannot be made any more" if now is None else f"says otherwise now: {differing}"
            yield f"the comparison of version {evidence.version} {told}"
        if not then.faithful:
            call = self.ledger.read(evidence.fingerprint, evidence.number)
            note = read_note(self.storage, self.layout, call) if call is not None else None
            if note is None or note.what != "accept":
                yield f"does not show the product, and nobody has accepted it: {'; '.join(then.reasons)}"

    def _public_problems(self, key: str, kept: bytes | None, evidence: Evidence) -> Iterator[str]:
        from airflow_provider_bgai import web

        assert self.url is not None
        url, file = self.url.replace("{key}", quote(key)), io.BytesIO()
        options: dict[str, Any] = {"allow_private_hosts": self.allow, "timeout": TIMEOUT, "max_bytes": MAX_BYTES}
        try:
            asyncio.run(web.fetch(url, file, **options))
        except web.WebError as error:
            yield f"cannot be fetched by the public: {error}"
            return
        data = file.getvalue()
        if _sha256(data) == evidence.sha256:
            return
        for problem in _label_problems(data, evidence):
            yield f"as the public gets it, {problem}"
        if kept is not None and (problem := _picture_problem(data, kept)):
            yield f"as the public gets it, {problem}"


def _sha256(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


def _of_cutout(evidence: Evidence) -> bool:
    return evidence.rendered is not None and evidence.rendered.of == "cutout"


def _bytes_problems(shown: bytes, kept: bytes | None, evidence: Evidence) -> Iterator[str]:
    """What is wrong with the bytes that the shop has, in words that tell a swapped file from a stripped label."""
    if _sha256(shown) == evidence.sha256:
        yield from _label_problems(shown, evidence)
        return
    labels = list(_label_problems(shown, evidence))
    yield from labels
    pixels = "differs from the file that was published" if kept is None else _pixels_differ(shown, kept)
    if pixels or not labels:
        yield pixels or "is not the file that was published, though its pixels and its label are the same"


def _label_problems(data: bytes, evidence: Evidence) -> Iterator[str]:
    try:
        label = read_label(data)
    except LabelError as error:
        yield f"its label cannot be read: {error}"
        return
    if label != evidence.label:
        yield "its label is gone" if label is None else f"its label is another one, that of {label.id}"


def _check_manifest(data: bytes, problems: list[str], unseen: list[str]) -> None:
    """Whether a manifest in the file fits its bytes; whose certificate signed it, and who trusts that, is not asked."""
    from airflow_provider_bgai.imaging.marks import without_manifest
    from airflow_provider_bgai.imaging.sign import read_claim

    try:
        if without_manifest(data) is data:
            return
    except LabelError as error:
        problems.append(f"cannot be looked through for a manifest: {error}")
        return
    claim = read_claim(data)
    if claim.valid is None:
        unseen.append("its C2PA manifest is not read: that needs the extra c2pa")
    elif not claim.valid:
        problems.append(f"its C2PA manifest does not fit its bytes ({claim})")


def _pixels_differ(data: bytes, kept: bytes) -> str:
    """How the pixels of two files differ, in words; empty if they do not."""
    import numpy as np

    from airflow_provider_bgai.imaging.prepare import read_rgba

    try:
        one, other = (np.asarray(read_rgba(it)) for it in (data, kept))
    except ValueError as error:
        return f"is no picture any more: {error}"
    if one.shape != other.shape:
        return f"is another picture, of {one.shape[1]} x {one.shape[0]} px"
    rows, columns = np.nonzero((one != other).any(axis=2))
    if not rows.size:
        return ""
    return f"{rows.size:,} of its {one.shape[0] * one.shape[1]:,} pixels differ, the first at {columns[0]}, {rows[0]}"


def _picture_problem(data: bytes, kept: bytes) -> str:
    """Whether somebody who may encode and scale a picture anew has made another one of it; empty if not."""
    import numpy as np

    from airflow_provider_bgai.imaging.prepare import read_rgba

    try:
        small = [np.asarray(_on_grey(read_rgba(it)).resize((64, 64), 4), np.float32) for it in (data, kept)]
    except ValueError as error:
        return f"it is no picture: {error}"
    difference = float(np.abs(small[0] - small[1]).mean())
    return f"it is another picture: {difference:.0f} levels apart on average" if difference > _SAME_PICTURE else ""


def _on_grey(picture: Image.Image) -> Image.Image:
    from PIL import Image

    canvas = Image.new("RGB", picture.size, (128, 128, 128))
    canvas.paste(picture, mask=picture)
    return canvas


def _pixel_problems(kept: bytes, landed: bytes, source: bytes | None, evidence: Evidence) -> Iterator[str]:
    """Whether the file's pixels are what comes of landed picture and cut-out when it is made again."""
    from airflow_provider_bgai.imaging.paste import paste_back
    from airflow_provider_bgai.imaging.prepare import read_rgba
    from airflow_provider_bgai.imaging.renditions import render

    made = read_rgba(landed)
    cutout = read_rgba(source) if source is not None else None
    if evidence.pasted and cutout is not None:
        place = evidence.verdict.placement if evidence.verdict else None
        if place is None:
            yield "is said to be pasted back, and nobody knows where the product lies"
            return
        made = paste_back(cutout, made, place)
    if evidence.rendered is not None:
        base = cutout if _of_cutout(evidence) else made
        assert base is not None
        if _picture_problem(render(base, evidence.rendered).data, kept):
            yield "does not show what its rendition makes of the landed picture"
        return
    file = io.BytesIO()
    made.save(file, "PNG", compress_level=1)
    if problem := _pixels_differ(kept, file.getvalue()):
        yield f"is not what was landed{' and pasted back' if evidence.pasted else ''}: {problem}"


def _differing(then: Verdict, now: Verdict) -> str:
    """The numbers in which two verdicts differ by more than rounding; empty if they agree."""
    before, after = asdict(then), asdict(now)
    numbers = [
        f"{name} {after[name]} instead of {before[name]}"
        for name in before
        if isinstance(before[name], int | float)
        and (after[name] is None or abs(after[name] - before[name]) > _SAME_NUMBER * max(1.0, abs(before[name])))
    ]
    return ", ".join(numbers)


# --- the command


def main(argv: Sequence[str] | None = None) -> int:
    """Do what the arguments say."""
    parser = _parser()
    args = parser.parse_args(argv)
    options = {"url": args.url, "skus": args.sku, "allow_private_hosts": args.allow_private_hosts}
    storage = Storage(args.aws_conn_id)
    try:
        return max(_tell(where, audit(storage, where, **options)) for where in args.destination)
    except InvalidRequestError as error:
        parser.error(str(error))


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="bgai-audit", description="Hold every published picture against its evidence, computed anew."
    )
    parser.add_argument("destination", nargs="+", help="s3://bucket/prefix of a catalogue")
    parser.add_argument("--url", help="where the public gets the files of it, like https://cdn.shop.example/{key}")
    parser.add_argument("--sku", action="append", default=[], help="only this product; may be given again")
    parser.add_argument("--aws-conn-id", default="aws_default", help="Airflow connection (default: %(default)s)")
    parser.add_argument(
        "--allow-private-hosts", action="store_true", help="sources and --url may lead to private addresses"
    )
    return parser


def _tell(destination: str, found: Iterable[Audited]) -> int:
    files = broken = partly = 0
    for it in found:
        files += 1
        broken += bool(it.problems)
        partly += bool(it.unseen)
        for words in (*it.problems, *(f"({words})" for words in it.unseen)):
            sys.stdout.write(f"{it.key} ({it.sku}): {words}\n")
    whole = f"{destination}: {files - broken} of {files} file(s) hold against their evidence"
    sys.stdout.write(f"{whole}{f'; {partly} could not be computed anew in full' if partly else ''}\n")
    return 1 if broken else 0


if __name__ == "__main__":
    sys.exit(main())
