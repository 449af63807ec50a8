"""The shop's product list: every good row is used, every bad one is named, and no file stops a night."""

from __future__ import annotations

import csv
import http.server
import io
import json
import threading
import tracemalloc
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from airflow_provider_bgai.catalogue import manifest as module
from airflow_provider_bgai.catalogue.manifest import Product, RefusedRow, open_manifest, read_manifest
from airflow_provider_bgai.catalogue.tables import MAX_LINE
from airflow_provider_bgai.exceptions import ManifestError
from airflow_provider_bgai.storage import Storage
from tests.catalogue.test_excel import workbook

ROWS = [
    {"sku": "a", "image": "s3://shop/a.png", "title": "Teapot, white"},
    {"sku": "b", "image": "s3://shop/b.png", "title": 'A "good" cup'},
]


@pytest.fixture
def read(tmp_path):
    def read(data: bytes | str, name: str = "products.csv") -> list[Product | RefusedRow]:
        path = tmp_path / name
        path.write_bytes(data.encode() if isinstance(data, str) else data)
        return list(read_manifest(str(path), Storage(None)))

    return read


def products(rows: Iterable[Product | RefusedRow]) -> list[Product]:
    """The rows, of which none may be refused."""
    found = []
    for row in rows:
        assert isinstance(row, Product)
        found.append(row)
    return found


def as_csv() -> bytes:
    return b'sku,image,title\na,s3://shop/a.png,"Teapot, white"\nb,s3://shop/b.png,"A ""good"" cup"\n'


def as_json_lines() -> bytes:
    return b"".join(json.dumps(row).encode() + b"\n" for row in ROWS)


def as_parquet() -> bytes:
    pyarrow = pytest.importorskip("pyarrow")
    parquet = pytest.importorskip("pyarrow.parquet")
    sink = pyarrow.BufferOutputStream()
    parquet.write_table(pyarrow.Table.from_pylist(ROWS), sink)
    return sink.getvalue().to_pybytes()


def as_excel() -> bytes:
    return workbook([list(ROWS[0]), *(list(row.values()) for row in ROWS)])


FORMATS = {
    "csv": as_csv,
    "jsonl": as_json_lines,
    "ndjson": as_json_lines,
    "parquet": as_parquet,
    "xlsx": as_excel,
}


@pytest.mark.parametrize("suffix", FORMATS)
def test_every_format_gives_the_same_products_from_a_path_and_from_s3(suffix, read, storage, upload):
    data = FORMATS[suffix]()
    from_path = read(data, f"products.{suffix}")
    from_s3 = products(read_manifest(upload(f"manifests/products.{suffix}", data), storage))
    assert [it.fields for it in from_path] == [it.fields for it in from_s3] == ROWS
    assert [it.row for it in from_path] == ([2, 3] if suffix in ("csv", "xlsx") else [1, 2])


FLOAT_ROWS: list[dict[str, Any]] = [
    # What a data frame makes of whole numbers beside an empty cell, and of empty cells.
    {"sku": 1001.0, "image": "a.png", "title": "Cup 2.0", "colour": None, "rank": float("nan"), "size": 1.5},
    {"sku": None, "image": None, "title": None, "colour": None, "rank": float("nan"), "size": None},
    {"sku": 1002.0, "image": "b.png", "title": " ", "colour": "red", "rank": 4.0, "size": None},
]
FLOAT_CSV = """sku,image,title,colour,rank,size
1001.0,a.png,Cup 2.0,None,nan,1.5
,,,,,
1002.0,b.png," ",red,4.0,<NA>
"""


@pytest.mark.parametrize("suffix", ["csv", "jsonl", "parquet", "xlsx"])
def test_empty_is_empty_and_a_whole_number_is_whole_in_every_format(suffix, read):
    if suffix == "parquet":
        parquet, pyarrow = pytest.importorskip("pyarrow.parquet"), pytest.importorskip("pyarrow")
        sink = pyarrow.BufferOutputStream()
        parquet.write_table(pyarrow.Table.from_pylist(FLOAT_ROWS), sink)
        data = sink.getvalue().to_pybytes()
    elif suffix == "xlsx":
        nan_is_none = [[None if value != value else value for value in row.values()] for row in FLOAT_ROWS]
        data = workbook([list(FLOAT_ROWS[0]), *nan_is_none])
    else:
        data = FLOAT_CSV if suffix == "csv" else "\n".join(map(json.dumps, FLOAT_ROWS))
    one, two = read(data, f"p.{suffix}")
    assert [one.sku, two.sku] == ["1001", "1002"]
    assert [list(it.fields.values())[2:] for it in (one, two)] == [["Cup 2.0", "", "", "1.5"], ["", "red", "4", ""]]


@pytest.mark.parametrize(
    ("value", "text"),
    [
        ("null", ""),
        ("NaN", ""),
        ('"nan"', ""),
        ('"None"', ""),
        ('"Nan"', "Nan"),
        ('"2.0"', "2.0"),
        ("-3.0", "-3"),
        ("1e15", "1000000000000000"),
        ("1e300", "1e+300"),
        ("0.1", "0.1"),
        ("[]", ""),
        ("false", "false"),
        ("0", "0"),
    ],
)
def test_a_json_value_has_one_text(read, value, text):
    (found,) = read(f'{{"sku": "a", "image": "a.png", "x": {value}}}', "p.jsonl")
    assert found.fields["x"] == text


@pytest.mark.parametrize("sku", ["4.00638E+12", "1.2345678901234568e+17"])
def test_a_sku_whose_digits_a_spreadsheet_has_rounded_away_is_refused(read, sku):
    (found,) = read(f"sku,image\n{sku},a.png\n")
    assert f"sku={sku!r}: is a rounded number; write all its digits" in found.message


@pytest.mark.parametrize(
    ("name", "data", "row"),
    [
        ("p.csv", "sku,image,title\n,,\n , ,\n\n,\n,,,,\nnan,None,\nz,z.png,x\n,,\n", 8),
        ("p.jsonl", '{}\n{"sku": null, "image": ""}\n{"title": NaN}\n\n{"sku": "z", "image": "z.png"}\n', 5),
    ],
)
def test_rows_of_nothing_are_no_rows(read, name, data, row):
    assert [(it.sku, it.row) for it in read(data, name)] == [("z", row)]


@pytest.mark.parametrize(
    ("image", "problem"),
    [
        ("http://host:99999/a.png", "has an impossible port; ports go from 1 to 65535"),
        ("https://host:0/a.png", "has an impossible port"),
        ("https://host:x/a.png", "has an impossible port"),
        ("https://", "names no host"),
        ("https:///a.png", "names no host"),
        ("https://:443/a.png", "names no host"),
        ("https://[::1/a.png", "is no address"),
        ("https://a b/a.png", "is no address"),
        ("https://host/a\tb.png", "contains control"),
        ("s3://shop", "must name an object"),
        ("s3://shop/a/../b.png", "'.' and '..' are not allowed in an S3 key"),
        ("s3:///a.png", "must be an S3 URI like s3://bucket/key"),
        ("file:///srv/a.png", "must be a path, an s3:// or an https:// address"),
        ("ftp://shop/a.png?signature=secret", "must be a path"),
    ],
)
def test_an_impossible_link_is_refused_with_words(read, image, problem):
    good, refused = read(f"sku,image\ngood,https://host:8443/a%20b.png?x=1\na,{image}\n")
    assert good.image == "https://host:8443/a%20b.png?x=1"
    assert "products.csv, row 3, image='" in refused.message
    assert problem in refused.message


def test_a_refusal_shows_no_signature_of_a_link(read):
    (refused,) = read("sku,image\na,https://user:secret@host:99999/a.png?signature=secret\n")
    assert "image='https://host:99999/a.png'" in refused.message


def test_a_sku_that_only_looks_different_to_a_machine_is_a_double(read):
    composed, decomposed = "caf\u00e9", "cafe\u0301"
    first, second = read(f"sku,image\n{decomposed},a.png\n{composed},b.png\n")
    assert first.sku == decomposed
    assert f"row 3, sku={composed!r}: stands in an earlier row" in second.message


def test_a_sku_fits_into_one_part_of_a_key(read):
    fits, long = read(f"sku,image\n{'x' * 3 + '鞋' * 84},a.png\n{'鞋' * 86},b.png\n")
    assert isinstance(fits, Product)
    assert "has 258 bytes; a part of an S3 key takes 255" in long.message


def test_column_names_are_spelled_one_way_in_every_format(read):
    for name, data in (
        ("p.csv", "sku,image, gro\u0308sse \na,a.png,L\n"),
        ("p.jsonl", '{"sku": "a", "image": "a.png", " gro\u0308sse ": "L"}'),
    ):
        (found,) = read(data, name)
        assert found.fields["gr\u00f6sse"] == "L"


@pytest.mark.parametrize("delimiter", [",", ";", "\t", "|"])
@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16"])
def test_a_spreadsheet_in_any_language_is_read(read, delimiter, encoding):
    rows = [["SKU", " Image ", "title"], ["a", "s3://shop/a.png", "Tasse, weiß; 0,3 l | groß\t"]]
    file = io.StringIO(newline="")
    csv.writer(file, delimiter=delimiter).writerows(rows)
    (product,) = products(read(file.getvalue().encode(encoding)))
    assert (product.sku, product.image, product.row) == ("a", "s3://shop/a.png", 2)
    assert product.fields["title"] == "Tasse, weiß; 0,3 l | groß\t"


def test_a_header_without_the_columns_is_refused_by_what_a_comma_makes_of_it(read):
    with pytest.raises(ManifestError, match="column.s. sku, image missing; it has 'article;image'"):
        read("article;image\na;s3://shop/a.png\n")


@pytest.mark.parametrize("image", ["/etc/b.png", "//etc/b.png", "file:///etc/b.png", "FILE:/etc/b.png", "file:b.png"])
def test_a_manifest_in_s3_names_no_files_of_this_machine(image, storage, upload):
    uri = upload("shelf/products.csv", f"sku,image\na,images/a.png\nb,{image}\nc,s3://shop/c.png\n".encode())
    first, refused, last = read_manifest(uri, storage)
    assert isinstance(first, Product)
    assert isinstance(refused, RefusedRow)
    assert isinstance(last, Product)
    assert (first.image, last.image) == (uri.replace("products.csv", "images/a.png"), "s3://shop/c.png")
    assert f"{uri}, row 3, image={image!r}: what lies in S3 or on the web may not name local files" in refused.message


def test_a_manifest_in_s3_names_nothing_above_its_bucket(storage, upload):
    uri = upload("shelf/products.csv", b"sku,image\na,../../../etc/passwd\n")
    (refused,) = read_manifest(uri, storage)
    assert isinstance(refused, RefusedRow)
    assert "image='../../../etc/passwd'" in refused.message
    assert "'.' and '..' are not allowed in an S3 key" in refused.message


@pytest.fixture
def web(tmp_path) -> Iterator[str]:
    """A web server of what lies in ``tmp_path``."""

    class Handler(http.server.SimpleHTTPRequestHandler):
        def __init__(self, *args, **kwargs):
            super().__init__(*args, directory=str(tmp_path), **kwargs)

        def log_message(self, *args):
            pass

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()


def test_a_manifest_from_the_web_names_no_files_of_this_machine(tmp_path, web):
    images = ["images/a.png", "../../a.png", "/etc/b.png", "file:///etc/b.png", "x:/etc/b.png", "//["]
    (tmp_path / "p.csv").write_text("sku,image\n" + "".join(f"{n},{image}\n" for n, image in enumerate(images)))
    with open_manifest(f"{web}/p.csv?signature=secret", Storage(None), allow_private_hosts=True) as manifest:
        one, two, *others = manifest
        assert [it.image for it in products([one, two])] == [f"{web}/images/a.png", f"{web}/a.png"]
        refused = [it for it in others if isinstance(it, RefusedRow)]
        assert refused == others
        assert "may not name local files" in refused[0].message
        assert "secret" not in manifest.uri + "".join(it.message for it in refused)


@pytest.mark.parametrize(
    ("address", "problem"),
    [
        ("{web}/nothing.csv?signature=secret", "cannot be fetched: its server says 404"),
        ("{web}/large.csv?signature=secret", "it is larger than 1,000 bytes"),
        ("http://127.0.0.1:1/p.csv?signature=secret", "cannot be fetched: no answer: ConnectError"),
        ("http://127.0.0.1:99999/p.csv?signature=secret", "has an impossible port"),
    ],
)
def test_a_manifest_that_cannot_be_fetched_is_refused_in_words(tmp_path, web, monkeypatch, address, problem):
    monkeypatch.setattr(module, "MAX_BYTES", 1000)
    (tmp_path / "large.csv").write_bytes(b"sku,image\n" * 101)
    with pytest.raises(ManifestError) as error:
        list(read_manifest(address.format(web=web), Storage(None), allow_private_hosts=True))
    assert problem in str(error.value)
    assert "secret" not in str(error.value)


def test_a_manifest_of_a_private_host_is_fetched_only_where_such_are_allowed(web):
    with pytest.raises(ManifestError, match="a private or local address .*allow_private_hosts"):
        list(read_manifest(f"{web}/p.csv", Storage(None)))


@pytest.mark.parametrize(
    ("row", "field", "rule"),
    [
        (b"good,s3://shop/a.png,x", "sku='good'", "earlier row"),
        (b",s3://shop/a.png,x", "sku=''", "is empty"),
        (b"../../etc,s3://shop/a.png,x", "sku='../../etc'", "meaning in paths"),
        (b"a{index},s3://shop/a.png,x", "sku='a{index}'", "meaning in paths"),
        (b"..,s3://shop/a.png,x", "sku='..'", "is reserved"),
        (b"_bgai,s3://shop/a.png,x", "sku='_bgai'", "is reserved"),
        (b"a\x07b,s3://shop/a.png,x", "sku='a\\\\x07b'", "control"),
        ("a\u202eb,s3://shop/a.png,x".encode(), "sku='a\\\\u202eb'", "invisible"),
        (b"x" * 129 + b",s3://shop/a.png,x", "sku='xxx", "129 characters; at most 128"),
        (b"b,,x", "image=''", "is empty"),
        (b"b,ftp://shop/a.png,x", "image='ftp://shop/a.png'", "must be a path, an s3:// or an https://"),
        (b"b,s3://shop/a.png,caf\xe9", "title='caf", "is not UTF-8"),
        (b"b,s3://shop/a.png", "", "has 2 fields; the header has 3"),
        (b"b,s3://shop/a.png,x,y", "", "has 4 fields; the header has 3"),
        (b'b,s3://shop/a.png,x"y" "z', None, None),
        (b'b,s3://shop/a.png,"x"y', "", "is not CSV"),
        (b'b,s3://shop/a.png,"never closed', "", "is not CSV"),
        (b'b,"s3://shop/a.png,never closed', "", "is not CSV"),
        (b"b,s3://shop/a.png," + b"x" * MAX_LINE, "", "is not CSV: the line is longer"),
    ],
)
def test_a_wrong_csv_row_is_named_and_stops_no_other(read, row, field, rule):
    found = read(
        b"sku,image,title\ngood,s3://shop/a.png,x\n" + row + b"\nlast,s3://shop/z.png,x\nend,s3://shop/end.png,x\n"
    )
    good = [it.sku for it in found if isinstance(it, Product)]
    if field is None:  # quotation marks in an unquoted field are just text
        assert good == ["good", "b", "last", "end"]
        return
    assert good == ["good", "last", "end"]
    (refused,) = (it for it in found if isinstance(it, RefusedRow))
    assert refused.row == 3
    assert "products.csv, row 3" in refused.message
    assert field.replace("\\\\", "\\") in refused.message
    assert rule in refused.message
    refused.message.encode()


def test_a_quoted_field_may_hold_line_breaks(read):
    found = read('sku,image,title\na,a.png,"two\nlines"\nb,b.png,x\n')
    assert [(it.sku, it.fields["title"], it.row) for it in found] == [("a", "two\nlines", 2), ("b", "x", 4)]


def test_many_rows_with_a_quotation_mark_too_many_lose_only_themselves(read):
    rows = [f"sku-{n},{n}.png,{chr(34) if n % 7 == 0 else ''}title" for n in range(1000)]
    found = read("\n".join(["sku,image,title", *rows]))
    assert [it.sku for it in found if isinstance(it, Product)] == [f"sku-{n}" for n in range(1000) if n % 7]
    assert [it.row for it in found if isinstance(it, RefusedRow)] == [n + 2 for n in range(1000) if n % 7 == 0]


@pytest.mark.parametrize(
    ("line", "problem"),
    [
        (b"{broken", "is not JSON"),
        (b'["sku", "a"]', "is a JSON list, not an object"),
        (b"\xff\xfe{}", "is not JSON"),
        (b"[" * 100_000, "is not JSON"),
        (b'{"sku": "x\\ud800", "image": "a.png"}', "is not UTF-8"),
        (b'{"image": "a.png"}', "sku='': is empty"),
        (b'{"sku": "b", "image": null}', "image='': is empty"),
        (b'{"sku": "b", "x": "' + b"y" * MAX_LINE + b'"}', "is longer than"),
    ],
)
def test_a_wrong_json_line_is_named_and_stops_no_other(read, line, problem):
    found = read(b'{"sku": "a", "image": "a.png"}\n\n' + line + b'\n{"sku": "z", "image": "z.png"}', "p.jsonl")
    first, refused, last = found
    assert (first.sku, last.sku) == ("a", "z")
    assert refused.row == 3
    assert "p.jsonl, row 3" in refused.message
    assert problem in refused.message
    refused.message.encode()


def test_a_parquet_value_that_cannot_be_read_costs_its_own_row_only(read):
    pyarrow, parquet = pytest.importorskip("pyarrow"), pytest.importorskip("pyarrow.parquet")
    moments = pyarrow.array([0, 2**62, None], pyarrow.timestamp("us"))
    sink, columns = pyarrow.BufferOutputStream(), {"sku": ["a", "b", "c"], "image": ["a.png"] * 3, "since": moments}
    parquet.write_table(pyarrow.table(columns), sink)
    first, refused, last = read(sink.getvalue().to_pybytes(), "p.parquet")
    assert (first.sku, last.fields["since"]) == ("a", "")
    assert "p.parquet, row 2: cannot be read: " in refused.message


def test_values_come_out_as_text(read):
    row = {"sku": 12, "image": "a.png", "n": 1.5, "flag": True, "none": None, "list": ["é"]}
    (found,) = read(json.dumps(row), "p.jsonl")
    assert found.sku == "12"
    assert {name: found.fields[name] for name in ("n", "flag", "none", "list")} == {
        "n": "1.5",
        "flag": "true",
        "none": "",
        "list": '["é"]',
    }


def test_relative_images_lie_beside_the_manifest(read, tmp_path, storage, upload):
    (found,) = read("sku,image\na,images/a.png\n")
    assert found.image == f"{tmp_path}/images/a.png"
    (found,) = read("sku,image\na,/data/a.png\n")
    assert found.image == "/data/a.png"
    uri = upload("shelf/products.csv", b"sku,image\na,images/a.png\n")
    (found,) = products(read_manifest(uri, storage))
    assert found.image == uri.replace("products.csv", "images/a.png")


def test_a_byte_order_mark_and_spaces_in_the_header_do_no_harm(read):
    (found,) = read(b"\xef\xbb\xbfsku, image ,title\r\na,a.png,x\r\n")
    assert found.fields["title"] == "x"


@pytest.mark.parametrize(
    ("name", "data", "message"),
    [
        ("p.csv", b"", "sku, image missing; it has none"),
        ("p.csv", b"sku,image,image\n", "'image' stand in the header more than once"),
        ("p.csv", b"sku,image,gr\xf6sse\n", "the header is not UTF-8"),
        ("p.csv", b'sku,"image\n', "the header is not CSV"),
        ("p.parquet", b"PAR1 but not really", "is not Parquet"),
        ("p.xls", b"", r"must end in one of \.csv, \.jsonl, \.ndjson, \.parquet, \.xlsx"),
    ],
)
def test_a_file_that_is_no_manifest_is_refused_as_a_whole(read, name, data, message):
    with pytest.raises(ManifestError, match=message) as error:
        read(data, name)
    str(error.value).encode()


def test_a_missing_file_is_said(storage, s3, tmp_path):
    with pytest.raises(ManifestError, match="there is no such file"):
        list(read_manifest(str(tmp_path / "no.csv"), storage))
    with pytest.raises(ManifestError, match="there is no such object in S3"):
        list(read_manifest(f"s3://{s3.bucket}/no.csv", storage))
    with pytest.raises(ManifestError, match="must be a path, an s3://"):
        list(read_manifest("ftp://shop/no.csv", storage))


@given(data=st.binary(max_size=300), suffix=st.sampled_from(["csv", "jsonl", "parquet"]), header=st.booleans())
@settings(max_examples=300)
def test_arbitrary_bytes_are_rows_or_refused(tmp_path_factory, data, suffix, header):
    path = Path(tmp_path_factory.getbasetemp()) / f"arbitrary.{suffix}"
    path.write_bytes((b"sku,image,title\n" if header else b"") + data)
    try:
        with open_manifest(str(path), Storage(None)) as manifest:
            found, images = list(manifest), set(manifest.images())
    except ManifestError:
        return
    assert {(it.sku, it.image) for it in found if isinstance(it, Product)} <= images
    for row in found:
        assert row.row >= 1
        json.dumps([row.sku, getattr(row, "message", "")], ensure_ascii=False).encode()


@given(rows=st.lists(st.tuples(st.text(max_size=20), st.text(max_size=20)), max_size=8))
def test_any_text_a_csv_writer_writes_is_read_or_refused_row_by_row(tmp_path_factory, rows):
    import csv

    path = Path(tmp_path_factory.getbasetemp()) / "written.csv"
    texts = [(f"sku-{n}", one.replace("\0", ""), two.replace("\0", "")) for n, (one, two) in enumerate(rows)]
    with path.open("w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["sku", " image ", "one", "two"])
        writer.writerows([sku, f"{sku}.png", one, two] for sku, one, two in texts)
    with open_manifest(str(path), Storage(None)) as manifest:
        found = products(manifest)
        assert list(manifest.images()) == [(it.sku, it.image) for it in found]
    assert [(it.sku, it.fields["one"], it.fields["two"]) for it in found] == [
        tuple(text if text.strip() else "" for text in row) for row in texts
    ]


@pytest.mark.parametrize("suffix", ["csv", "jsonl"])
def test_100_000_rows_need_the_memory_of_their_skus(tmp_path, suffix):
    path = tmp_path / f"large.{suffix}"
    with path.open("w") as file:
        if suffix == "csv":
            file.write("sku,image,title\n")
        for number in range(100_000):
            row = {"sku": f"SKU-{number}", "image": f"images/{number}.png", "title": "A long title " * 20}
            file.write((",".join(row.values()) if suffix == "csv" else json.dumps(row)) + "\n")
    with open_manifest(str(path), Storage(None)) as manifest:
        tracemalloc.start()
        assert sum(isinstance(row, Product) for row in manifest) == 100_000
        assert sum(1 for _ in manifest) == 100_000  # and again
        peak = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
    assert path.stat().st_size > 28_000_000
    assert peak < 15_000_000
