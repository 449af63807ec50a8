"""Names below ``_bgai/``: each says what it was made of, and no two things share one."""

from __future__ import annotations

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from airflow_provider_bgai.exceptions import InvalidRequestError
from airflow_provider_bgai.layout import (
    MAX_SEGMENT,
    Layout,
    Marker,
    PictureName,
    call_of,
    long_segment,
    marker_of,
    picture_of,
    root_of,
    run_name,
    run_of,
    segment,
)
from airflow_provider_bgai.storage import split_uri

TEXT = st.text(st.characters(codec="utf-8"), min_size=1, max_size=300)
HASHES = st.text("0123456789abcdef", min_size=64, max_size=64)
NUMBERS = st.integers(1, 12_345)
ROOTS = st.sampled_from(["s3://b", "s3://b/shop", "s3://b/_bgai/x", "s3://b/a.001-1of1-0123456789abcdef.png"])


@given(st.lists(TEXT, min_size=1, max_size=4), st.lists(TEXT, min_size=1, max_size=4))
@example(["manual__2026-11-21T00:00:00+00:00"], ["manual__2026-11-21T00:00:00~00:00"])
@example(["a+b"], ["a:b"])
@example(["a", "b"], ["a+b"])
@example(["a=2B"], ["a+"])
@example(["dag", "catalogue.plan", "run"], ["dag", "plan", "run"])
@example(["x" * 300 + "1"], ["x" * 300 + "2"])
def test_two_runs_never_share_a_name(one, other):
    """DAG, planning task and run ID; long names are told apart by their hash."""
    assert (run_name(*one) == run_name(*other)) == (one == other)


@given(st.lists(TEXT, min_size=1, max_size=4))
def test_a_run_s_name_is_one_short_clean_part_of_a_key(parts):
    name = run_name(*parts)
    run = Layout("s3://b/shop").run(name)
    assert "/" not in name
    assert len(f"{name}.{'0' * 32}.touched") <= MAX_SEGMENT
    assert split_uri(run.plan) == ("b", f"shop/_bgai/runs/{name}/plan.json")
    assert run_of(run.plan).name == name
    assert run_of(f"{run.shards}/0007.jsonl").results_of(f"{run.shards}/0007.jsonl") == f"{run.results}/0007.jsonl"


@given(st.text(min_size=1, max_size=600))
def test_any_name_fits_into_one_clean_part_of_a_key(name):
    uri = Layout("s3://b").stopped(name)
    assert len(segment(name).encode()) <= MAX_SEGMENT
    assert split_uri(uri) == ("b", f"_bgai/stopped/{segment(name)}")
    assert "/" not in segment(name)


@given(ROOTS, HASHES, NUMBERS, st.uuids(), st.integers(1, 99), HASHES)
def test_names_come_back_as_what_they_were_made_of(root, fingerprint, number, call_id, count, sha256):
    layout = Layout(f"{root}/")
    call, marker = layout.call(fingerprint, number), layout.marker(fingerprint, number, call_id.hex)
    name = PictureName(fingerprint, number, count, count)
    pictures = [layout.picture(name, sha256, "png", quarantined=bad) for bad in (False, True)]
    assert call_of(call) == (fingerprint, number)
    assert marker_of(marker) == Marker(fingerprint, number, call_id.hex)
    assert [picture_of(it) for it in pictures] == [name, name]
    assert [reader(it) for reader, it in ((call_of, marker), (marker_of, call), (picture_of, call))] == [None] * 3
    assert call.startswith(layout.calls(fingerprint[:3]))
    assert marker.startswith(layout.open)
    assert [it.startswith(layout.pictures(fingerprint[:3])) for it in pictures] == [True, False]
    assert [layout.is_picture(it) for it in pictures] == [True, False]
    for uri in (call, marker, *pictures):
        assert layout.absolute(layout.relative(uri)) == uri
        assert Layout("s3://other/place").absolute(layout.relative(uri)).startswith("s3://other/place/_bgai/")


def test_the_ten_thousandth_call_is_still_one():
    layout = Layout("s3://b")
    assert call_of(layout.call("0" * 64, 10_000)) == ("0" * 64, 10_000)


@pytest.mark.parametrize("uri", ["s3://b/shop/plan.json", "s3://b/_bgai/runs/x", "", "s3://b/_bgai/runs//plan.json"])
def test_a_file_of_no_run_is_refused_with_its_uri(uri):
    with pytest.raises(InvalidRequestError, match=r"must be the URI of a run's plan or shard") as refused:
        run_of(uri)
    assert repr(uri) in str(refused.value)


def test_the_ledger_of_a_record_is_where_it_lies():
    layout = Layout("s3://b/a/_bgai/c")
    assert root_of(layout.call("0" * 64, 1)) == "s3://b/a/_bgai/c"
    with pytest.raises(InvalidRequestError, match="is no record"):
        root_of("s3://b/a.png")


def test_what_a_store_takes_for_no_part_of_a_key_is_found_by_its_bytes():
    assert long_segment(f"a/{'é' * 127}x/b") is None
    assert long_segment(f"a/{'é' * 128}/b") == "é" * 128


def test_the_rights_are_tried_below_every_prefix_that_is_written_to():
    layout = Layout("s3://b/shop")
    run = layout.run("r")
    name = PictureName("0" * 64, 1, 1, 1)
    written = [
        layout.call("0" * 64, 1),
        layout.marker("0" * 64, 1, "0" * 32),
        layout.incoming("0" * 32),
        layout.picture(name, "0" * 64, "png"),
        layout.picture(name, "0" * 64, "png", quarantined=True),
        layout.finished(name, "v", "thumb", "webp"),
        layout.evidence("0" * 64, 1, "f"),
        layout.decision("0" * 64, 1),
        layout.stopped("picwish_default"),
        layout.books_file("2026-11", "r", "0"),
        layout.budget("account"),
        run.plan,
        layout.mapping("r"),
        f"{layout.staged}/a.png",
        "s3://b/shop/a.png",
    ]
    tried = {probe.rpartition("/")[0] for probe in layout.probes()}
    assert [uri for uri in written if not any(uri.startswith(f"{folder}/") for folder in tried)] == []
    assert len(tried) == len(written)


def test_a_runs_lines_are_named_and_nothing_else_of_it_is():
    run = Layout("s3://shop/pictures").run("night")
    for name in ("outcomes", "planned/0000", "results/0012"):
        assert run.name_of(run.lines(name)) == name
    assert run.lines("results/0012") == run.results_of(run.shard("0012"))
    for name in ("plan", "results/../../../calls/0000", "shards/0000", "results/", "", "outcomes.jsonl", "outcomes\n"):
        with pytest.raises(InvalidRequestError):
            run.lines(name)
