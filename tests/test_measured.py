"""The benchmarks' one table and plot: each kind of measure has one line, whatever has been measured before."""

from __future__ import annotations

import sqlite3
import subprocess
import sys
import time
from xml.etree import ElementTree

import psutil
import pytest

from benchmarks import measured
from benchmarks.measured import Measure, Meter


@pytest.fixture(autouse=True)
def elsewhere(tmp_path, monkeypatch):
    for name in ("RESULTS", "TABLE", "PLOT"):
        monkeypatch.setattr(measured, name, tmp_path / name.lower())


def measure(way: str, seconds: float, **fields: object) -> Measure:
    known = {"products": 1000, "compared": False, "vendor": 2.0, "processor": 20.0, "measured": "a day, a machine"}
    return Measure.model_validate({"way": way, "seconds": seconds, **known, **fields})


def test_a_measure_takes_the_place_of_the_one_before_of_its_kind():
    measured.note(measure("a bare script", 40), measure("this provider", 50, s3=7070, polls=1000))
    measured.note(measure("this provider", 44, s3=7070, polls=1000), measure("this provider", 60, compared=True))
    assert [(it.way, it.seconds) for it in measured.read()] == [
        ("a bare script", 40),
        ("this provider", 44),
        ("this provider", 60),
    ]
    page = measured.TABLE.read_text()
    assert "| this provider | 1,000 |  | 44.0 | 44.0 | 20.0 |  |  |  | 1.00 | 7.07 | 1 |" in page
    assert "| this provider | 1,000 | yes | 60.0 | 60.0 |" in page
    assert "1. a day, a machine" in page


def test_the_plot_has_a_bar_for_each_and_the_memory_of_the_largest_night():
    measured.note(measure("<a bare script>", 40), measure("this provider", 60, products=10_000, curve=(200, 240, 230)))
    drawing = ElementTree.fromstring(measured.PLOT.read_text())
    texts = [it.text or "" for it in drawing.iter("{http://www.w3.org/2000/svg}text")]
    assert {"<a bare script>, 1,000", "40", "this provider, 10,000", "6"} <= set(texts)
    assert "this provider, 10,000 products: MB of the largest process over 1 minutes" in texts
    assert len(list(drawing.iter("{http://www.w3.org/2000/svg}polyline"))) == 1


def test_rows_of_all_tables_and_what_this_process_takes_are_counted(tmp_path):
    database = tmp_path / "airflow.db"
    with sqlite3.connect(database) as connection:
        connection.executescript("create table one (a); create table two (a); insert into one values (1), (2)")
    me = psutil.Process()
    meter = Meter(processes=lambda: [me], database=database)
    with sqlite3.connect(database) as connection:
        connection.executescript("insert into two values (3)")
    sum(range(3_000_000))  # some work
    took = meter.taken("this", 1, compared=False, vendor=0, rest=measured.largest([me]))
    assert took.rows == 1
    assert took.processor > 0
    assert took.s3 is None


def test_a_process_has_the_memory_of_those_it_has_started():
    held = "held = b'x' * 100_000_000\nprint('ready', flush=True)\n"
    child = f"import sys\n{held}sys.stdin.read()"
    code = f"import subprocess, sys\n{held}subprocess.run([sys.executable, '-c', {child!r}])"
    with subprocess.Popen([sys.executable, "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE) as parent:
        assert parent.stdout is not None
        assert [parent.stdout.readline() for _ in range(2)] == [b"ready\n"] * 2
        top = psutil.Process(parent.pid)
        (below,) = top.children()
        both, one = measured.largest([below, top]), measured.largest([top])
        assert both == pytest.approx(one + measured.largest([below]), rel=0.02)
        assert min(one, both - one) > 95
        meter = Meter(processes=lambda: [psutil.Process(), top, below], young=True)
        with subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE) as late:
            meter.processes = lambda: [psutil.Process(), top, below, psutil.Process(late.pid)]
            while not meter.curve or not max(meter.curve):
                time.sleep(0.1)
            late.communicate(b"\n")
        meter.stop()
        assert max(meter.curve) < 95, "of those that were there before nothing counts"
        parent.communicate()
