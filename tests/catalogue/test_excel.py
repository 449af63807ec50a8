"""A product list of Excel: what a person sees in the first sheet is what is read; and what stands below any list."""

from __future__ import annotations

import io
import re
import sys
import zipfile
from collections.abc import Sequence
from datetime import date, datetime, time
from typing import Any

import openpyxl
import pytest
from hypothesis import given
from hypothesis import strategies as st

from airflow_provider_bgai.catalogue.manifest import Product, RefusedRow, read_manifest
from airflow_provider_bgai.catalogue.tables import READERS, text_of
from airflow_provider_bgai.exceptions import ManifestError
from airflow_provider_bgai.storage import Storage

HEADER = ["sku", "image", "title"]


def workbook(rows: Sequence[Sequence[Any]], *more_sheets: Sequence[Sequence[Any]]) -> bytes:
    """A file of Excel, whose first sheet holds these rows from its top left corner."""
    book = openpyxl.Workbook()
    for number, sheet_rows in enumerate((rows, *more_sheets)):
        sheet = book.worksheets[0] if number == 0 else book.create_sheet()
        for row in sheet_rows:
            sheet.append(list(row))
    file = io.BytesIO()
    book.save(file)
    return file.getvalue()


def read(data: bytes) -> list[tuple[int, Any]]:
    return list(READERS[".xlsx"]("p.xlsx", io.BytesIO(data)))


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (1001, "1001"),
        (1001.0, "1001"),
        (12.5, "12.5"),
        (True, "true"),
        (None, ""),
        ("  ", ""),
        ("NULL", ""),
        ("007", "007"),
        ("Tasse, weiß", "Tasse, weiß"),
        (date(2026, 11, 26), "2026-11-26"),
        (datetime(2026, 11, 26), "2026-11-26"),
        (datetime(2026, 11, 26, 8, 30), "2026-11-26 08:30:00"),
        (time(8, 30), "08:30:00"),
    ],
)
def test_a_cell_has_the_text_that_it_has_in_any_other_format(value, text):
    ((row, values),) = read(workbook([HEADER, ["a", "a.png", value]]))
    assert (row, text_of(values["title"])) == (2, text)


def test_rows_are_numbered_as_in_the_sheet_and_the_first_with_anything_in_it_is_the_header():
    rows: list[list[Any]] = [
        [],
        [None, " SKU ", None, "Image", "title"],
        [],
        [None, "a", "a note", "a.png"],
        [None, "b", "", "b.png", 5],
    ]
    numbered = [(row, {name: text_of(value) for name, value in values.items()}) for row, values in read(workbook(rows))]
    assert [(row, values) for row, values in numbered if any(values.values())] == [
        (4, {"sku": "a", "image": "a.png", "title": ""}),
        (5, {"sku": "b", "image": "b.png", "title": "5"}),
    ]


def test_only_the_first_sheet_is_read():
    assert len(read(workbook([HEADER, ["a", "a.png"]], [HEADER, ["b", "b.png"]]))) == 1


def test_a_program_that_writes_down_too_small_a_sheet_loses_no_row():
    good, wrong = io.BytesIO(workbook([HEADER, ["a", "a.png", "Cup"], ["b", "b.png", "Pot"]])), io.BytesIO()
    with zipfile.ZipFile(good) as source, zipfile.ZipFile(wrong, "w") as target:
        for name in source.namelist():
            target.writestr(name, re.sub(rb'<dimension ref="[^"]*"', b'<dimension ref="A1"', source.read(name)))
    assert [values["sku"] for _, values in read(wrong.getvalue())] == ["a", "b"]


def test_what_a_broken_formula_shows_is_bought_for_nobody():
    (_, problem), (_, good) = read(workbook([HEADER, ["a", "a.png", "#N/A"], ["b", "b.png", "Cup"]]))
    assert problem == "'title' holds the error #N/A: mend its formula"
    assert good["sku"] == "b"


@pytest.mark.parametrize(
    ("data", "problem"),
    [
        (b"", "is no .xlsx file, or damaged, or locked by a password: File is not a zip file"),
        (b"sku,image\na,a.png\n", "is no .xlsx file"),
        (b"\xd0\xcf\x11\xe0\xa1\xb1\x1a\xe1" + bytes(600), "is no .xlsx file"),  # an old .xls, or a locked file
        (workbook([]), "column(s) sku, image missing; it has none"),
        (workbook([["SKU", "picture"]]), "column(s) image missing; it has 'sku', 'picture'"),
        (workbook([["sku", "image", "Image"]]), "column(s) 'image' stand in the header more than once"),
    ],
)
def test_a_file_that_is_no_list_is_refused_as_a_whole(data, problem):
    with pytest.raises(ManifestError) as error:
        read(data)
    assert f"p.xlsx: {problem}" in str(error.value)


def test_without_the_extra_it_says_how_to_get_it(monkeypatch):
    monkeypatch.setitem(sys.modules, "openpyxl", None)
    with pytest.raises(ManifestError, match=re.escape("needs the extra: pip install 'airflow-provider-bgai[xlsx]'")):
        read(b"")


CELLS = st.none() | st.integers(-(10**9), 10**9) | st.booleans() | st.text("aäß0 .,;\"'#é鞋", max_size=5)


@given(st.lists(st.lists(CELLS, min_size=3, max_size=3), max_size=8))
def test_any_cells_come_out_as_the_text_they_have_everywhere_else(rows):
    found = dict(read(workbook([HEADER, *rows])))
    for number, row in enumerate(rows, start=2):
        values = found.get(number, {})  # rows of nothing at the end of a sheet are not written
        assert [text_of(values.get(name)) for name in HEADER] == [text_of(cell) for cell in row]


WHOLE = workbook([HEADER, *([f"sku-{n}", f"{n}.png", f"Thing {n}"] for n in range(5))])


@given(st.integers(0, len(WHOLE) - 1), st.integers(1, 255), st.booleans())
def test_a_damaged_file_gives_its_rows_or_says_that_it_is_damaged(place, change, cut):
    data = WHOLE[:place] if cut else WHOLE[:place] + bytes([WHOLE[place] ^ change]) + WHOLE[place + 1 :]
    try:
        read(data)
    except ManifestError as error:
        assert str(error).startswith("p.xlsx: ")  # noqa: PT017 - either will do


# --- below the list, in every format


@pytest.fixture
def manifest(tmp_path):
    """A list of two products, and what stands below them."""

    def manifest(name: str, last: Any) -> list[Product | RefusedRow]:
        rows = [["a", "a.png", "Cup"], ["b", "b.png", "Pot"]]
        if name == "p.xlsx":
            data = workbook([HEADER, *rows, last])
        elif name == "p.csv":
            data = ("sku,image,title\n" + "".join(",".join(row) + "\n" for row in rows) + last).encode()
        else:
            data = ("".join(f'{{"sku": "{sku}", "image": "{image}"}}\n' for sku, image, _ in rows) + last).encode()
        (tmp_path / name).write_bytes(data)
        return list(read_manifest(str(tmp_path / name), Storage(None)))

    return manifest


@pytest.mark.parametrize(
    ("name", "last"),
    [
        ("p.csv", "Total,,12.50\n"),
        ("p.csv", ",,12.50\n"),
        ("p.csv", "# exported on Monday\n"),
        ("p.csv", "# exported on Monday\n,,\n\n"),
        ("p.jsonl", '{"count": 2}\n'),
        ("p.xlsx", ["Total", None, 12.5]),
        ("p.xlsx", ["exported on Monday"]),
    ],
)
def test_a_total_or_a_remark_below_the_list_is_no_product_and_no_refusal(manifest, name, last, caplog):
    assert [it.sku for it in manifest(name, last) if isinstance(it, Product)] == ["a", "b"]
    assert len(manifest(name, last)) == 2
    assert "It is the last row, so it is taken for a total or a remark" in caplog.text


@pytest.mark.parametrize(
    ("name", "last"),
    [
        ("p.csv", "Total,,12.50\nc,c.png,Cup\n"),  # not the last
        ("p.csv", "c,,Cup\nd,,Cup\n"),  # the one above the last
        ("p.csv", "../c,c.png,Cup\n"),  # has an image
        ("p.csv", 'c,"c.png'),  # cut off
        ("p.jsonl", '{"sku": "c", "ima'),
    ],
)
def test_any_other_row_without_an_image_is_refused(manifest, name, last):
    assert len([it for it in manifest(name, last) if isinstance(it, RefusedRow)]) == 1


def test_a_list_without_any_image_is_refused_to_its_last_row(tmp_path):
    (tmp_path / "p.csv").write_text("sku,image\na,\nb,\n")
    found = read_manifest(str(tmp_path / "p.csv"), Storage(None))
    assert [type(it) for it in found] == [RefusedRow, RefusedRow]
