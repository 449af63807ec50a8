"""A publisher's scratch database: the run's results, and the mappings it compares. All SQL is here.

It is a temporary file, so that 100,000 products need no memory. Tables hold records as JSON lines, and beside them the
columns they are found by: ``results``, what became of every SKU; ``refused_rows`` of the shop's list, some without a
SKU or with another row's; ``outcomes``, both; the mappings ``known`` (published now), ``fresh`` (of this run's products
that are not as known) and ``wanted`` (to be published); ``touched``, the keys that may show something else than wanted;
``asked``, wishes to be found by; ``landed``, the number of the call that a wish's landed pictures came from;
``unfinished``, SKUs that keep what they had because nobody has made the files that are asked for; ``hints`` of earlier
sources.
"""

from __future__ import annotations

import logging
import sqlite3
from collections.abc import Iterable, Iterator
from typing import Literal

from airflow_provider_bgai.catalogue.publishing.versions import Entry
from airflow_provider_bgai.catalogue.results import WITH_PICTURES, Result, gone

log = logging.getLogger(__name__)

BATCH = 256
Table = Literal["known", "fresh", "wanted"]

_TABLES = """
pragma journal_mode = off;
create table results (sku text primary key, outcome text, line text) without rowid;
create table refused_rows (sku text, outcome text, line text);
create view outcomes as select * from results union all select * from refused_rows;
create table known (key text primary key, sku text, sha256 text, line text) without rowid;
create table fresh (key text primary key, sku text, sha256 text, line text) without rowid;
create table wanted (key text primary key, sku text, sha256 text, line text) without rowid;
create table touched (key text primary key) without rowid;
create table asked (fingerprint text primary key) without rowid;
create table landed (fingerprint text primary key, number integer) without rowid;
create table unfinished (sku text primary key) without rowid;
create table hints (sku text primary key, source text, hint text) without rowid;
create index known_sku on known (sku);
create index fresh_sku on fresh (sku);
create index wanted_sku on wanted (sku);
"""


class Scratch:
    """Use it in one thread.

    :ivar unpublished: SKUs whose picture was bought and cannot be published.
    """

    def __init__(self) -> None:
        # An empty name is a private file on disk, deleted with the connection.
        self.db = sqlite3.connect("", isolation_level=None)
        self.db.executescript(_TABLES)
        self.db.execute("begin")
        self.close = self.db.close
        self.unpublished: dict[str, None] = {}

    # --- what became of every SKU

    def put_result(self, result: Result, how: str = "or replace into results") -> None:
        """Set what became of a SKU."""
        self.db.execute(f"insert {how} values (?, ?, ?)", (result.sku, result.outcome, result.model_dump_json()))

    def put_unpublished(self, sku: str, reason: str, message: str) -> None:
        """Report a picture that was bought and cannot be published. When rolling back there is no result to say so.

        :param reason: ``missing``: it is not in S3 any more.
        """
        log.warning("%s: not published: %s", sku, message)
        self.unpublished[sku] = None
        for line in list(self._column("select line from results where sku = ?", sku)):
            self.put_result(gone(Result.model_validate_json(line), reason, message))

    def put_unfinished(self, result: Result, warning: str) -> None:
        """A product keeps what it had: its new picture is there, and its files are for the next plan to make."""
        self.put_result(result.model_copy(update={"warnings": (*result.warnings, warning)}))
        self.db.execute("insert or ignore into unfinished values (?)", (result.sku,))

    def with_pictures(self) -> Iterator[list[Result]]:
        """Results that have pictures to be published, by SKU, some at a time; they may be replaced meanwhile."""
        last = ""
        query = f"""select sku, line from results where sku > ? and outcome in {WITH_PICTURES}
                    and sku not in unfinished order by sku limit ?"""
        while rows := self.db.execute(query, (last, BATCH)).fetchall():
            last = rows[-1][0]
            yield [Result.model_validate_json(line) for _, line in rows]

    def results_of(self, fingerprints: Iterable[str]) -> Iterator[Result]:
        """What became of those who want these wishes; they may be replaced meanwhile."""
        find = "select line from results where json_extract(line, '$.fingerprint') in (select fingerprint from asked)"
        self.db.executemany("insert or ignore into asked values (?)", ((it,) for it in fingerprints))
        return (Result.model_validate_json(line) for line in list(self._column(find)))

    def changed(self) -> Iterator[list[Result]]:
        """Everything but unchanged products, in order of their SKUs, some at a time. Change no table meanwhile."""
        rows = self.db.execute("select line from outcomes where outcome <> 'unchanged' order by sku")
        while batch := rows.fetchmany(BATCH):
            yield [Result.model_validate_json(line) for (line,) in batch]

    def has_pictures(self, sku: str) -> bool:
        """Whether it is among those with pictures to be published."""
        query = f"select sku from results where sku = ? and outcome in {WITH_PICTURES} and sku not in unfinished"
        return any(self._column(query, sku))

    def counts(self) -> dict[str, int]:
        """Products and refused rows by outcome."""
        return dict(self.db.execute("select outcome, count(*) from outcomes group by outcome"))

    def count_unfinished(self) -> int:
        """How many keep what they had until the next plan."""
        return self._number("select count(*) from unfinished")

    # --- what is known besides

    def put_landed(self, landed: Iterable[tuple[str, int]]) -> None:
        """Set the numbers of the calls whose pictures are there, by fingerprint: the latest of each counts."""
        add = "insert into landed values (?, ?) on conflict do update set number = max(number, excluded.number)"
        self.db.executemany(add, landed)

    def landed(self, fingerprint: str) -> int:
        """Number of the call that a wish's pictures came from; 0 if there are none."""
        return self._number("select number from landed where fingerprint = ?", fingerprint)

    def put_hint(self, sku: str, source: str | None, hint: str | None) -> None:
        """Set how a product's source looked from outside when it was last published."""
        self.db.execute("insert or replace into hints values (?, ?, ?)", (sku, source, hint))

    def hint(self, sku: str, source: str | None) -> str | None:
        """How it looked, if it was the very same source."""
        return next(self._column("select hint from hints where sku = ? and source = ?", sku, source), None)

    # --- mappings

    def put_entries(self, table: Table, entries: Iterable[Entry]) -> None:
        """Set what their keys show."""
        rows = ((entry.key, entry.sku, entry.sha256, entry.model_dump_json()) for entry in entries)
        self.db.executemany(f"insert or replace into {table} values (?, ?, ?, ?)", rows)

    def entries(self, table: Table, sku: str) -> list[Entry]:
        """A product's entries."""
        return [Entry.model_validate_json(it) for it in self._column(f"select line from {table} where sku = ?", sku)]

    def entry(self, table: Table, key: str) -> Entry | None:
        """What a key shows."""
        found = self._column(f"select line from {table} where key = ?", key)
        return next((Entry.model_validate_json(line) for line in found), None)

    def taken_by(self, table: Table, entry: Entry) -> str | None:
        """The other SKU whose picture an entry's key shows."""
        return next(self._column(f"select sku from {table} where key = ? and sku <> ?", entry.key, entry.sku), None)

    def combine(self) -> None:
        """Want what is known, changed by what is fresh; of a fresh product no other key stays, and nothing rejected."""
        self.db.execute("insert into wanted select * from known where sku not in (select sku from fresh)")
        self.db.execute("insert or replace into wanted select * from fresh")
        for line in list(self._column("select line from results where outcome = 'rejected'")):
            result = Result.model_validate_json(line)
            kept = [it for it in self.entries("wanted", result.sku) if it.fingerprint != result.fingerprint]
            self.replace_wanted(result.sku, kept)

    def replace_wanted(self, sku: str, entries: Iterable[Entry]) -> None:
        """Want these entries of a product, and no others."""
        self.db.execute("delete from wanted where sku = ?", (sku,))
        self.put_entries("wanted", entries)

    def touch(self, keys: Iterable[str]) -> None:
        """These keys may show anything."""
        self.db.executemany("insert or ignore into touched values (?)", ((key,) for key in keys))

    def touch_differences(self) -> None:
        """Touch the keys of which ``known`` and ``wanted`` say different things."""
        for one, other in (("known", "wanted"), ("wanted", "known")):
            differing = f"select key, sha256 from {one} except select key, sha256 from {other}"
            self.db.execute(f"insert or ignore into touched select key from ({differing})")

    def products_to_copy(self) -> Iterator[list[list[Entry]]]:
        """Touched entries, product by product, some products at a time. Change no table meanwhile."""
        changed = self.db.execute("select distinct sku from wanted join touched using (key) order by sku")
        query = "select line from wanted join touched using (key) where sku = ?"
        while rows := changed.fetchmany(BATCH):
            yield [[Entry.model_validate_json(line) for line in self._column(query, sku)] for (sku,) in rows]

    def keys_to_remove(self) -> Iterator[list[str]]:
        """Touched keys that shall show nothing, some at a time. Change no table meanwhile."""
        gone = self.db.execute("select key from touched where key not in (select key from wanted) order by key")
        while rows := gone.fetchmany(BATCH):
            yield [key for (key,) in rows]

    def lines(self, table: Literal["outcomes", "wanted"], by: str) -> Iterator[str]:
        """All records of a table, in order of a column."""
        return self._column(f"select line from {table} order by {by}")

    def renditions(self) -> list[str]:
        """The names of all renditions to be published."""
        query = "select distinct json_extract(line, '$.rendition') as name from wanted where name <> '' order by name"
        return list(self._column(query))

    def count_wanted(self) -> tuple[int, int]:
        """Products and pictures to be published."""
        products, pictures = self.db.execute("select count(distinct sku), count(*) from wanted").fetchone()
        return products, pictures

    def touched(self) -> Iterator[str]:
        """The touched keys."""
        return self._column("select key from touched")

    def _column(self, query: str, *values: str | None) -> Iterator[str]:
        return (value for (value,) in self.db.execute(query, values))

    def _number(self, query: str, *values: str) -> int:
        row = self.db.execute(query, values).fetchone()
        return row[0] if row else 0
