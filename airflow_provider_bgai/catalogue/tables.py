"""Rows out of a file: CSV of any spreadsheet, Excel, JSON lines, Parquet. Which products they are: :mod:`.manifest`.

Rows stream. What is wrong with one is yielded in its place, and stops no other. A cell has the same text in every
format: nothing is ``""`` however an exporter writes it, and 1001.0 is 1001.
"""

from __future__ import annotations

import codecs
import csv
import io
import json
import re
import unicodedata
import zipfile
import zlib
from collections import Counter, deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import closing
from datetime import datetime, time
from decimal import Decimal
from functools import lru_cache
from typing import IO, Any

from airflow_provider_bgai.exceptions import ManifestError

REQUIRED = ("sku", "image")
MAX_LINE = 1 << 20
MAX_LINES = 100
"""Of one CSV row: quoted fields may hold line breaks."""

DELIMITERS = (",", ";", "\t", "|")
"""Of CSV: a spreadsheet's own depends on its language."""

_WHOLE = re.compile(r"(0|-?[1-9][0-9]{0,14})\.0")
# What pandas, Python, JavaScript and databases write for a cell with nothing in it.
_NOTHING = {"", "nan", "NaN", "NaT", "None", "<NA>", "null", "NULL"}
_CELL_ERRORS = {"#DIV/0!", "#N/A", "#NAME?", "#NULL!", "#NUM!", "#REF!", "#VALUE!", "#SPILL!", "#CALC!"}
_EXACT = 2**53
"""From here on a float has lost digits."""


# Each reader yields (row number, values by column) or (row number, what is wrong with the row).
Rows = Iterator[tuple[int, Mapping[str, Any] | str]]
Reader = Callable[[str, IO[bytes]], Rows]


@lru_cache(maxsize=1024)
def column_name(name: str) -> str:
    """A column's name in its one spelling: as it is written, but ``SKU`` and ``Image`` are found in any case."""
    name = unicodedata.normalize("NFC", name.strip())
    return name.lower() if name.lower() in REQUIRED else name


def text_of(value: Any) -> str:
    """A cell's text."""
    if isinstance(value, str):
        return "" if value.strip() in _NOTHING else value
    if isinstance(value, bytes):
        return text_of(value.decode("utf-8", "surrogateescape"))
    if value is None or value in ([], {}) or value != value:  # NaN, NaT
        return ""
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, dict | list):
        return json.dumps(value, default=str, ensure_ascii=False)
    if isinstance(value, float) and value.is_integer() and abs(value) < _EXACT:
        return str(int(value))
    if isinstance(value, Decimal) and value == value.to_integral_value():
        return str(int(value))
    return str(value)


def is_text(value: str) -> bool:
    """Whether it can be written as UTF-8: what cannot must not break the files it is reported in."""
    try:
        value.encode()
    except UnicodeEncodeError:
        return False
    return True


def _csv_rows(uri: str, file: IO[bytes]) -> Rows:
    # Bytes that are not UTF-8 are let through as surrogates, so that only their own row is refused.
    start = file.read(2)
    file.seek(0)
    wide = start in (codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)  # what Excel calls Unicode text
    encoding, errors = ("utf-16", "replace") if wide else ("utf-8-sig", "surrogateescape")
    with io.TextIOWrapper(file, encoding=encoding, errors=errors, newline="") as text:
        lines = _Lines(text)
        try:
            reader = csv.reader(lines, strict=True, delimiter=_delimiter(lines))
            columns = [column_name(name) for name in next(reader, [])]
        except csv.Error as error:
            raise ManifestError(f"{uri}: the header is not CSV: {error}") from None
        _check_columns(uri, columns)
        while True:
            lines.taken.clear()
            try:
                values = next(reader)
            except StopIteration:
                return
            except csv.Error as error:
                yield lines.give_back(), f"is not CSV: {error}"
                continue
            if len(values) == len(columns):
                # CSV has no numbers, so 1001.0 is what some exporter made of 1001.
                values = [cell[:-2] if cell.endswith(".0") and _WHOLE.fullmatch(cell) else cell for cell in values]
                yield lines.taken[0][0], dict(zip(columns, values, strict=True))
            elif len(values) == 1:  # a line of text, as below a list: what it lacks to be a product, its checks say
                yield lines.give_back(), {columns[0]: values[0]}
            elif any(map(text_of, values)):
                yield lines.give_back(), f"has {len(values)} fields; the header has {len(columns)}"


def _delimiter(lines: _Lines) -> str:
    """What separates the columns: with it, the header has those that are required. A comma, if nothing does."""
    header = next(lines, "")
    lines.taken.clear()
    lines.put_back(header)
    for delimiter in DELIMITERS:
        try:
            names = next(csv.reader([header], delimiter=delimiter), [])
        except csv.Error:
            continue
        if set(REQUIRED) <= {column_name(name) for name in names}:
            return delimiter
    return DELIMITERS[0]


class _Lines:
    """Lines for the CSV reader, which can be given back.

    A quotation mark too many makes a reader take the rows that follow for one long field. Then only the first line is
    refused, and the others are read again.
    """

    def __init__(self, text: io.TextIOWrapper) -> None:
        self._text = text
        self._again: deque[tuple[int, str]] = deque()
        self._number = 0
        self.taken: list[tuple[int, str]] = []

    def __iter__(self) -> _Lines:
        return self

    def __next__(self) -> str:
        if len(self.taken) == MAX_LINES:
            raise csv.Error(f"a quoted field goes on for more than {MAX_LINES} lines")
        if self._again:
            line = self._again.popleft()
        else:
            self._number += 1
            line = (self._number, self._text.readline(MAX_LINE))
            if not line[1]:
                raise StopIteration
            if len(line[1]) == MAX_LINE:
                while (rest := self._text.readline(MAX_LINE)) and not rest.endswith(("\n", "\r")):
                    continue
        self.taken.append(line)
        if len(line[1]) == MAX_LINE:
            raise csv.Error(f"the line is longer than {MAX_LINE:,} characters")
        return line[1]

    def put_back(self, first: str) -> None:
        """Let the first line be read once more."""
        self._again.appendleft((1, first))

    def give_back(self) -> int:
        """Return all lines of a record but the first, whose number it is."""
        (number, _), *others = self.taken
        self._again.extendleft(reversed(others))
        return number


def _json_rows(uri: str, file: IO[bytes]) -> Rows:
    number = 0
    while line := file.readline(MAX_LINE):
        number += 1
        if len(line) == MAX_LINE:
            while (rest := file.readline(MAX_LINE)) and not rest.endswith(b"\n"):
                continue
            yield number, f"is longer than {MAX_LINE:,} bytes"
            continue
        if not line.strip():
            continue
        try:
            values = json.loads(line)
        except (ValueError, RecursionError) as error:
            yield number, f"is not JSON: {error}"
            continue
        if isinstance(values, dict):
            yield number, values
        else:
            yield number, f"is a JSON {type(values).__name__}, not an object"


def _parquet_rows(uri: str, file: IO[bytes]) -> Rows:
    try:
        import pyarrow.parquet as parquet
    except ImportError:
        raise ManifestError(f"{uri}: Parquet needs the extra: pip install 'airflow-provider-bgai[parquet]'") from None
    import pyarrow

    try:
        table = parquet.ParquetFile(file)
        _check_columns(uri, [column_name(name) for name in table.schema_arrow.names])
        number = 0
        for batch in table.iter_batches(batch_size=1000):
            for index in range(batch.num_rows):
                number += 1
                try:
                    (values,) = batch.slice(index, 1).to_pylist()
                except (ValueError, OverflowError) as error:  # not UTF-8; a date that Python has no room for
                    yield number, f"cannot be read: {error}"
                else:
                    yield number, values
    except (pyarrow.ArrowException, OSError) as error:
        raise ManifestError(f"{uri}: is not Parquet, or damaged: {error}") from None


def _xlsx_rows(uri: str, file: IO[bytes]) -> Rows:
    try:
        import openpyxl
    except ImportError:
        raise ManifestError(f"{uri}: Excel needs the extra: pip install 'airflow-provider-bgai[xlsx]'") from None
    no_zip = (zipfile.BadZipFile, zlib.error, OSError, EOFError, RuntimeError)
    no_workbook = (SyntaxError, LookupError, TypeError, ValueError, ArithmeticError, AttributeError)
    try:
        # With data_only a formula's cell holds what it came to, as the spreadsheet has written it down.
        with closing(openpyxl.load_workbook(file, read_only=True, data_only=True)) as workbook:
            sheet = workbook.worksheets[0]
            sheet.reset_dimensions()  # some programs write down too few
            yield from _sheet_rows(uri, sheet.iter_rows(values_only=True))
    except ManifestError:
        raise
    except (*no_zip, *no_workbook) as error:
        problem = " ".join(str(error).split()) or type(error).__name__
        raise ManifestError(f"{uri}: is no .xlsx file, or damaged, or locked by a password: {problem}") from None


def _sheet_rows(uri: str, rows: Iterator[tuple[Any, ...]]) -> Rows:
    """Of a sheet whose first row with anything in it is the header. Columns without a name are passed over."""
    columns: dict[int, str] = {}
    for number, cells in enumerate(rows, start=1):
        if not columns:
            columns = {place: name for place, cell in enumerate(cells) if (name := column_name(text_of(cell)))}
            if columns:
                _check_columns(uri, list(columns.values()))
            continue
        values = {name: _cell(cells[place]) if place < len(cells) else None for place, name in columns.items()}
        wrong = next((name for name, value in values.items() if isinstance(value, str) and value in _CELL_ERRORS), None)
        yield number, values if wrong is None else f"{ascii(wrong)} holds the error {values[wrong]}: mend its formula"
    if not columns:
        _check_columns(uri, [])


def _cell(value: Any) -> Any:
    """A spreadsheet has no dates, only moments: one without a time of day is a date."""
    return value.date() if isinstance(value, datetime) and value.time() == time() else value


def _check_columns(uri: str, columns: Sequence[str]) -> None:
    if not is_text("".join(columns)):
        raise ManifestError(f"{uri}: the header is not UTF-8 text")
    missing = [name for name in REQUIRED if name not in columns]
    there = ", ".join(ascii(name[:40]) for name in columns[:20]) or "none"
    if missing:
        raise ManifestError(f"{uri}: column(s) {', '.join(missing)} missing; it has {there}")
    doubled = sorted(name for name, count in Counter(columns).items() if count > 1)
    if doubled:
        raise ManifestError(f"{uri}: column(s) {', '.join(map(ascii, doubled))} stand in the header more than once")


READERS: Mapping[str, Reader] = {
    ".csv": _csv_rows,
    ".jsonl": _json_rows,
    ".ndjson": _json_rows,
    ".parquet": _parquet_rows,
    ".xlsx": _xlsx_rows,
}
"""By the ending of the file's name. The first argument names the file in errors."""
