"""The shop's product list: every good row is used, every bad one is named, and no file stops a night."""

from __future__ import annotations

import http.server
import json
import threading
import tracemalloc
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from airflow_provider_bgai.catalogue.manifest import (
    MAX_LINE,
    ManifestError,
    Product,
    RefusedRow,
    open_manifest,
    read_manifest,
)
from airflow_provider_bgai.storage import Storage

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


FORMATS = {"csv": as_csv, "jsonl": as_json_lines, "ndjson": as_json_lines, "parquet": as_parquet}


@pytest.mark.parametrize("suffix", FORMATS)
def test_every_format_gives_the_same_products_from_a_path_and_from_s3(suffix, read, storage, upload):
    data = FORMATS[suffix]()
    from_path = read(data, f"products.{suffix}")
    from_s3 = list(read_manifest(upload(f"manifests/products.{suffix}", data), storage))
    assert [it.fields for it in from_path] == [it.fields for it in from_s3] == ROWS
    assert [it.row for it in from_path] == ([2, 3] if suffix == "csv" else [1, 2])


def test_a_manifest_from_the_web_names_no_files_of_this_machine(tmp_path):
    (tmp_path / "products.csv").write_text("sku,image\na,images/a.png\nb,/etc/b.png\n")

    class Handler(http.server.SimpleHTTPRequestHandler):
        def __init__(self, *args, **kwargs):
            super().__init__(*args, directory=str(tmp_path), **kwargs)

        def log_message(self, *args):
            pass

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        root = f"http://127.0.0.1:{server.server_port}"
        with open_manifest(f"{root}/products.csv?signature=secret", Storage(None)) as manifest:
            assert [row.image for row in manifest] == [f"{root}/images/a.png", f"{root}/etc/b.png"]
            assert "secret" not in manifest.uri
        with pytest.raises(ManifestError, match="cannot be fetched") as error:
            list(read_manifest(f"{root}/nothing.csv?signature=secret", Storage(None)))
        assert "secret" not in str(error.value)
        server.shutdown()


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
    found = read(b"sku,image,title\ngood,s3://shop/a.png,x\n" + row + b"\nlast,s3://shop/z.png,x\nend,s3://z.png,x\n")
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
    uri = upload("shelf/products.csv", b"sku,image\na,images/a.png\nb,/data/b.png\n")
    assert [it.image for it in read_manifest(uri, storage)] == [
        uri.replace("products.csv", "images/a.png"),
        "/data/b.png",
    ]


def test_a_byte_order_mark_and_spaces_in_the_header_do_no_harm(read):
    (found,) = read(b"\xef\xbb\xbfsku, image ,title\r\na,a.png,x\r\n")
    assert found.fields["title"] == "x"


@pytest.mark.parametrize(
    ("name", "data", "message"),
    [
        ("p.csv", b"", "sku, image missing; it has none"),
        ("p.csv", b"sku;image\n", "missing; it has 'sku;image'"),
        ("p.csv", b"sku,image,image\n", "'image' stand in the header more than once"),
        ("p.csv", b"sku,image,gr\xf6sse\n", "the header is not UTF-8"),
        ("p.csv", b'sku,"image\n', "the header is not CSV"),
        ("p.csv", "sku,image\na,b\n".encode("utf-16"), "the header is not UTF-8"),
        ("p.parquet", b"PAR1 but not really", "is not Parquet"),
        ("p.xlsx", b"", r"must end in one of \.csv, \.jsonl, \.ndjson, \.parquet"),
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
        found = list(read_manifest(str(path), Storage(None)))
    except ManifestError:
        return
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
        writer.writerow(["sku", "image", "one", "two"])
        writer.writerows([sku, "a.png", one, two] for sku, one, two in texts)
    found = list(read_manifest(str(path), Storage(None)))
    assert [(it.sku, it.fields["one"], it.fields["two"]) for it in found] == texts


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
