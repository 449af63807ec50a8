"""JSON lines in S3: they come back as they went, and a wrong one is named by file and line."""

from __future__ import annotations

import tracemalloc
from concurrent.futures import ThreadPoolExecutor

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import BaseModel

from airflow_provider_bgai.exceptions import LineError
from airflow_provider_bgai.lines import LineFiles, Packed, dump_lines, parse_lines, stream_lines, write_lines
from airflow_provider_bgai.storage import Storage, store_errors


class Thing(BaseModel):
    text: str
    number: int = 0


@given(st.lists(st.builds(Thing, text=st.text(st.characters(codec="utf-8")), number=st.integers())))
def test_what_is_written_is_read_line_breaks_and_all(things):
    body = dump_lines(things)
    assert body.count(b"\n") == len(things)
    assert list(parse_lines(Thing, body.splitlines(keepends=True))) == things


@given(st.dictionaries(st.integers(), st.lists(st.builds(Thing, text=st.text(st.characters(codec="utf-8"))))))
def test_what_is_packed_is_unpacked_as_it_went_in_and_in_its_order(things):
    packed: Packed[int, list[Thing]] = Packed(list[Thing])
    packed.update(things)
    assert packed == things
    assert list(packed) == list(things)
    half = [name for name in things if name % 2]
    assert packed.of(half) == {name: things[name] for name in half}
    for name in half:
        del packed[name]
        assert name not in packed
    assert len(packed) == len(things) - len(half)
    with pytest.raises(KeyError):
        packed.of(half + [1])


def test_what_is_packed_takes_a_fraction_of_what_it_would_take_as_objects():
    sizes = []
    for kept in (dict[int, Thing](), Packed[int, Thing](Thing)):
        tracemalloc.start()
        for number in range(500):
            kept[number] = Thing(text=f"picture {number}: " + "the same words " * 100, number=number)
        sizes.append(tracemalloc.get_traced_memory()[0])
        tracemalloc.stop()
    assert sizes[1] < sizes[0] / 4


def test_a_file_streams_back_and_blank_lines_are_passed_over(storage, folder):
    uri = f"{folder}/a.jsonl"
    write_lines(storage, uri, ['{"text": "\u2028 a"}', "", '{"text": "b", "number": 2}'])
    assert [it.text for it in stream_lines(storage, uri, Thing)] == ["\u2028 a", "b"]
    with pytest.raises(FileNotFoundError, match="none.jsonl"):
        list(stream_lines(storage, f"{folder}/none.jsonl", Thing))


@pytest.mark.parametrize("line", [b"{", b"[]", b'{"number": 1}', b"\xff"])
def test_a_wrong_line_is_named_by_file_line_and_kind(line):
    with pytest.raises(LineError, match=r"s3://b/x\.jsonl, line 3: is no Thing"):
        list(parse_lines(Thing, [b'{"text": "a"}', b"", line], "s3://b/x.jsonl"))


@pytest.mark.parametrize("threads", [0, 3])
def test_numbered_files_hold_all_lines_in_order_and_nothing_of_an_earlier_try(storage, folder, threads):
    folder = f"{folder}-{threads}"
    for count in (50, 23):
        with ThreadPoolExecutor(threads or 1) as pool:
            files = LineFiles(storage, folder, 5, pool if threads else None)
            for number in range(count):
                files.add(Thing(text="x", number=number).model_dump_json())
            uris = files.close()
        assert [it.number for uri in uris for it in stream_lines(storage, uri, Thing)] == list(range(count))
    assert uris == [f"{folder}/{number:04}.jsonl" for number in range(5)]
    assert [item.size for item in storage.list(f"{folder}/")][5:] == [0] * 5


def test_a_file_that_s3_does_not_take_is_not_passed_over(bad, storage, folder):
    failing = Storage()
    assert failing.client is not None
    bad.fault("403", methods="PUT", key=r"0001\.jsonl")
    with ThreadPoolExecutor(2) as pool:
        files = LineFiles(failing, folder, 1, pool)
        for number in range(3):
            files.add(Thing(text="x", number=number).model_dump_json())
        with pytest.raises(store_errors(), match="AccessDenied"):
            files.close()
