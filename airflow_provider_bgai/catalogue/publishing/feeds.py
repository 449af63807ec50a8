"""The shop's feeds: what a mapping shows, in the forms that importers take, below ``<destination>/feeds``.

Each lists every product of the mapping, once. The columns are those of the importers' own pages, which docs/feeds.md
names, and they do not fit into one file: ``id`` is a number of its own to WooCommerce, ``SKU`` makes Shopify ask for
variants, and Merchant Center takes several addresses in one column only where tabs separate the columns. A feed that
has a rendition's name takes that rendition of a product, where there is one.

An address ends in a part of the picture's hash: importers fetch an address once, and take it for the same picture
for ever. Values are not guarded against spreadsheets that calculate (``=…``): importers take a guard for text.
"""

from __future__ import annotations

import csv
import io
import json
import tempfile
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from itertools import groupby
from operator import attrgetter
from typing import IO, Any
from urllib.parse import quote

from airflow_provider_bgai.catalogue.publishing.versions import Entry
from airflow_provider_bgai.layout import Layout, is_feed
from airflow_provider_bgai.lines import NDJSON
from airflow_provider_bgai.storage import Storage

CONTENT_TYPES = {"csv": "text/csv; charset=utf-8", "tsv": "text/tab-separated-values; charset=utf-8", "jsonl": NDJSON}
SHOPIFY_BYTES = 14_000_000
"""Of one file: Shopify takes 15 MB."""
GOOGLE_FURTHER = 10
"""Pictures besides the main one, at most."""

Row = Sequence[str | int]
Begin = Callable[[], IO[bytes]]
_HASH = 12


def write_feeds(
    storage: Storage, layout: Layout, entries: Iterable[Entry], url: str, renditions: Sequence[str]
) -> tuple[str, ...]:
    """Write all feeds, and remove those of before that have nothing in them any more. In flat memory.

    :param entries: the mapping, a product's entries side by side.
    :param url: where the world reads the destination.
    :param renditions: the names of all renditions that the entries have.
    :returns: the URIs.
    """
    with ExitStack() as stack:

        def begin() -> IO[bytes]:
            return stack.enter_context(tempfile.TemporaryFile())

        feeds = _feeds(begin, renditions)
        for sku, its in groupby(entries, key=attrgetter("sku")):
            product = _Product(sku, sorted(its, key=attrgetter("index")), url)
            for feed in feeds:
                feed.add(product)
        written = [layout.feed(name) for feed in feeds for name in feed.put(storage, layout)]
    gone = [uri for uri in storage.list_uris(layout.feeds) if is_feed(layout.relative(uri))]
    storage.delete_all(uri for uri in gone if uri not in written)
    return tuple(written)


class _Product:
    """What the shop shows of a product.

    :param entries: in the order of its pictures.
    """

    def __init__(self, sku: str, entries: Sequence[Entry], url: str) -> None:
        self.sku, self.url = sku, url
        self.words: Mapping[str, str] = entries[0].words
        self.pictures: dict[int, dict[str, Entry]] = {}
        for entry in entries:
            self.pictures.setdefault(entry.index, {})[entry.rendition] = entry

    def address(self, entry: Entry | None) -> str:
        return f"{self.url}/{quote(entry.key)}?v={entry.sha256[:_HASH]}" if entry is not None else ""

    def addresses(self, rendition: str) -> list[str]:
        """Of each picture, in that rendition where there is one."""
        found = (files.get(rendition, files.get("")) for files in self.pictures.values())
        return [self.address(entry) for entry in found if entry is not None]


def _shopify(product: _Product) -> Iterator[Row]:
    handle, title, alt = (product.words.get(name, "") for name in ("handle", "title", "alt"))
    if handle and title:
        for position, address in enumerate(product.addresses("shopify"), start=1):
            # The title stands in a product's first row alone.
            yield handle, title if position == 1 else "", address, position, alt


def _woocommerce(product: _Product) -> Iterator[Row]:
    if addresses := product.addresses("woocommerce"):
        yield product.sku, ", ".join(addresses)


def _google(product: _Product) -> Iterator[Row]:
    if addresses := product.addresses("google"):
        first, *further = addresses
        yield product.words.get("google_id", product.sku), first, ",".join(further[:GOOGLE_FURTHER])


def _all(renditions: Sequence[str]) -> Callable[[_Product], Iterator[Row]]:
    def rows(product: _Product) -> Iterator[Row]:
        for position, files in product.pictures.items():
            label, sha256 = (files[""].label, files[""].sha256) if "" in files else ("", "")
            rendered = (product.address(files.get(name)) for name in renditions)
            alt = product.words.get("alt", "")
            yield product.sku, position, product.address(files.get("")), alt, label, sha256, *rendered

    return rows


def _line(product: _Product) -> str:
    """Everything that is known of a product, as JSON."""

    def described(entry: Entry) -> dict[str, Any]:
        return {"url": product.address(entry), "sha256": entry.sha256, "label": entry.label}

    pictures = [
        {
            "position": position,
            **(described(files[""]) if "" in files else {}),
            "renditions": {name: described(entry) for name, entry in sorted(files.items()) if name},
        }
        for position, files in product.pictures.items()
    ]
    return json.dumps({"sku": product.sku, **product.words, "pictures": pictures}, ensure_ascii=False) + "\n"


def _table(
    name: str, columns: Row, rows: Callable[[_Product], Iterable[Row]], begin: Begin, most: int | None = None
) -> _Feed:
    """A feed in columns, of tabs where its name ends so."""
    delimiter = "\t" if name.endswith(".tsv") else ","

    def text(lines: Iterable[Row]) -> str:
        file = io.StringIO(newline="")
        csv.writer(file, delimiter=delimiter).writerows(lines)
        return file.getvalue()

    return _Feed(name, lambda product: text(rows(product)), begin, head=text([columns]), most=most)


def _feeds(begin: Begin, renditions: Sequence[str]) -> list[_Feed]:
    images = ("Product image URL", "Image position", "Image alt text")
    columns = ("sku", "position", "url", "alt", "label", "sha256", *(f"{name}_url" for name in renditions))
    return [
        _Feed("feed.jsonl", _line, begin),
        _table("feed.csv", columns, _all(renditions), begin),
        _table("shopify.csv", ("URL handle", "Title", *images), _shopify, begin, most=SHOPIFY_BYTES),
        _table("woocommerce.csv", ("SKU", "Images"), _woocommerce, begin),
        _table("google.tsv", ("id", "image_link", "additional_image_link"), _google, begin),
    ]


@dataclass
class _Feed:
    """A feed on its way to S3: files on disk, the first of them begun with the first product that has a line in it.

    :param text: a product's lines; empty for none.
    :param begin: opens a file.
    :param head: the first line of each file.
    :param most: bytes of a file; a further one is begun then. A product's lines stay together.
    """

    name: str
    text: Callable[[_Product], str]
    begin: Begin
    head: str = ""
    most: int | None = None
    files: list[IO[bytes]] = field(default_factory=list)
    size: int = 0

    def add(self, product: _Product) -> None:
        """Add a product's lines."""
        data = self.text(product).encode()
        if not data:
            return
        if not self.files or (self.most is not None and self.size + len(data) > self.most):
            self.files.append(self.begin())
            self.size = self.files[-1].write(self.head.encode())
        self.size += self.files[-1].write(data)

    def put(self, storage: Storage, layout: Layout) -> Iterator[str]:
        """Write it; the names of its files: ``shopify.csv``, ``shopify-2.csv``, …"""
        stem, _, extension = self.name.partition(".")
        for number, file in enumerate(self.files, start=1):
            name = self.name if number == 1 else f"{stem}-{number}.{extension}"
            file.seek(0)
            storage.put(layout.feed(name), file, content_type=CONTENT_TYPES[extension])
            yield name
