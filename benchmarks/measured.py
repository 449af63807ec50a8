"""What a benchmark takes: seconds, processor, memory, rows, requests; and the one table and plot of all of them.

A measure is written to ``results.jsonl`` in place of the one before of its kind; ``python -m benchmarks.measured``
draws ``RESULTS.md`` and ``results.svg`` from that file, as every benchmark does at its end.
"""

from __future__ import annotations

import os
import platform
import re
import sqlite3
import subprocess
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from contextlib import suppress
from datetime import UTC, datetime
from functools import cache
from html import escape
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING

import psutil
from pydantic import BaseModel, ConfigDict

from benchmarks.memory import MB

if TYPE_CHECKING:
    from demo.services import S3Service, SandboxService

HERE = Path(__file__).parent
RESULTS, TABLE, PLOT = HERE / "results.jsonl", HERE / "RESULTS.md", HERE / "results.svg"
EVERY = 0.5
"""Seconds between two looks at processes."""


class Measure(BaseModel):
    """One way of making pictures, measured once.

    :ivar way: what made them; with the scene (``vendor``, ``compared``) it names a line of the table.
    :ivar vendor: seconds that the vendor works on a picture.
    :ivar seconds: wall time.
    :ivar processor: seconds of processor time of all processes that belong to it, services left out.
    :ivar memory: MB that its largest process has, with those it has started, beyond the same process at rest.
    :ivar rows: rows that Airflow's database has got.
    :ivar polls, requests, s3: requests to the vendor about tasks; to the vendor in all; to S3.
    :ivar curve: MB of the largest process over time, a hundred values at most.
    """

    model_config = ConfigDict(frozen=True)

    way: str
    products: int
    compared: bool
    vendor: float
    seconds: float
    processor: float
    memory: float | None = None
    rows: int | None = None
    polls: int | None = None
    requests: int | None = None
    s3: int | None = None
    curve: tuple[int, ...] = ()
    measured: str
    """What with: day, commit, machine and versions."""

    @property
    def kind(self) -> tuple[str, int, bool, float]:
        """What there is one line for."""
        return self.way, self.products, self.compared, self.vendor

    def __str__(self) -> str:
        def a_picture(value: int | None) -> str:
            return "" if value is None else f"{value / self.products:.2f}"

        memory = "" if self.memory is None else f"{self.memory:,.0f}"
        cells = [f"{self.seconds:,.1f}", f"{1000 * self.seconds / self.products:,.1f}"]
        cells += [f"{1000 * self.processor / self.products:,.1f}", memory]
        cells += [a_picture(it) for it in (self.rows, self.requests, self.polls, self.s3)]
        return f"| {self.way} | {self.products:,} | {'yes' if self.compared else ''} | {' | '.join(cells)} |"


HEAD = """| | products | compared | seconds | ms a picture | processor | memory | rows | vendor | of it polls | S3 | |
|---|--:|---|--:|--:|--:|--:|--:|--:|--:|--:|---|"""


# Measuring


class Meter:
    """What goes on between two moments, read by :meth:`taken`.

    :param processes: whose processor time counts.
    :param young: of whose memory only that of processes counts that begin meanwhile, as Airflow's tasks do.
    """

    def __init__(
        self,
        *,
        processes: Callable[[], list[psutil.Process]],
        young: bool = False,
        sandbox: SandboxService | None = None,
        s3: S3Service | None = None,
        database: Path | None = None,
    ) -> None:
        self.sandbox, self.s3, self.database, self.processes = sandbox, s3, database, processes
        self.curve: list[float] = []
        self._old = set(processes()) if young else set()
        self._stop = threading.Event()
        self._watching = threading.Thread(target=self._watch, daemon=True)
        self._began, self._before = time.perf_counter(), self._counts()
        self._watching.start()

    def taken(
        self, way: str, products: int, *, compared: bool, vendor: float, rest: float, seconds: float | None = None
    ) -> Measure:
        """The measure, once.

        :param rest: MB of the largest process before.
        :param seconds: in place of what this meter saw.
        """
        took = time.perf_counter() - self._began if seconds is None else seconds
        self.stop()
        now = self._counts()
        grown = {name: value - self._before[name] for name, value in now.items()}
        step = -(-len(self.curve) // 100) or 1
        return Measure(
            way=way,
            products=products,
            compared=compared,
            vendor=vendor,
            seconds=took,
            processor=grown.pop("processor"),
            memory=max(self.curve, default=rest) - rest,
            curve=tuple(round(max(self.curve[it : it + step])) for it in range(0, len(self.curve), step)),
            measured=here(),
            **{name: int(value) for name, value in grown.items()},
        )

    def stop(self) -> None:
        """Look no longer."""
        self._stop.set()
        self._watching.join()

    def _watch(self) -> None:
        while not self._stop.wait(EVERY):
            self.curve.append(largest(it for it in self.processes() if it not in self._old))

    def _counts(self) -> dict[str, float]:
        found = {"processor": sum(_processor(it) for it in self.processes())}
        if self.sandbox is not None:
            kinds = self.sandbox.requests()
            found |= {"polls": kinds.get("poll", 0), "requests": sum(kinds.values())}
        if self.s3 is not None:
            found["s3"] = self.s3.requests()
        if self.database is not None:
            found["rows"] = rows_of(self.database)
        return found


def largest(processes: Iterable[psutil.Process]) -> float:
    """MB of the largest of them, each with those of them below it."""
    above: dict[int, int] = {}
    resident: dict[int, int] = {}
    for it in processes:
        with suppress(psutil.NoSuchProcess):
            above[it.pid], resident[it.pid] = it.ppid(), it.memory_info().rss
    tops: Counter[int] = Counter()
    for pid, size in resident.items():
        top = pid
        while above[top] in above:
            top = above[top]
        tops[top] += size
    return max(tops.values(), default=0) / MB


def tree(word: str) -> list[psutil.Process]:
    """This process's child with that word in its command, and all below it."""
    found: list[psutil.Process] = []
    for child in psutil.Process().children():
        if word in " ".join(child.cmdline()):
            found += [child, *child.children(recursive=True)]
    return found


def rows_of(database: Path) -> int:
    """Rows in all tables of a SQLite database."""
    with sqlite3.connect(f"file:{database}?mode=ro", uri=True, timeout=60) as connection:
        tables = [name for (name,) in connection.execute("SELECT name FROM sqlite_master WHERE type = 'table'")]
        return sum(connection.execute(f'SELECT count(*) FROM "{name}"').fetchone()[0] for name in tables)


def _processor(process: psutil.Process) -> float:
    """Its seconds, and those of its children that have ended."""
    try:
        return float(sum(process.cpu_times()[:4]))
    except psutil.NoSuchProcess:
        return 0.0


@cache
def here() -> str:
    """Day, commit, machine, versions."""
    git = ["git", "-C", str(HERE), "describe", "--always", "--dirty", "--exclude=*"]
    commit = subprocess.run(git, capture_output=True, text=True, check=False).stdout.strip() or "no commit"
    names = re.findall(r"^model name\s*: (.*)$", Path("/proc/cpuinfo").read_text(), re.M)
    memory = psutil.virtual_memory().total / 2**30
    machine = f"{os.cpu_count()} x {names[0] if names else platform.machine()}, {memory:.0f} GB"
    versions = " ".join(f"{name} {version(name)}" for name in ("apache-airflow", "httpx", "pillow"))
    return f"{datetime.now(UTC):%Y-%m-%d}, {commit}, {machine}, Python {platform.python_version()}, {versions}"


# The table


def note(*measures: Measure) -> None:
    """Put measures in place of those before of their kind, and draw."""
    known = {it.kind: it for it in (*read(), *measures)}
    lines = [it.model_dump_json(exclude_none=True) + "\n" for it in sorted(known.values(), key=_place)]
    RESULTS.write_text("".join(lines))
    TABLE.write_text(table(read()))
    PLOT.write_text(plot(read()))


def read() -> list[Measure]:
    """All that have been noted."""
    return [Measure.model_validate_json(line) for line in RESULTS.read_text().splitlines()] if RESULTS.exists() else []


def _place(measure: Measure) -> tuple[float, int, str, bool]:
    return -measure.vendor, measure.products, measure.way, measure.compared


def table(measures: Iterable[Measure]) -> str:
    """All of them as a page."""
    measures = list(measures)
    notes = list(dict.fromkeys(it.measured for it in measures))
    lines = ["# What it takes", "", "![Milliseconds a picture, and memory over time](results.svg)"]
    for vendor in dict.fromkeys(it.vendor for it in measures):
        lines += ["", f"## The vendor at work for {vendor:g} s", "", HEAD]
        lines += [f"{it} {notes.index(it.measured) + 1} |" for it in measures if it.vendor == vendor]
    lines += [
        "",
        "Processor time (ms), rows and requests are a picture's; memory (MB) is the largest process's, with those",
        "it has started, beyond its rest.",
        "",
    ]
    lines += [f"{number}. {words}" for number, words in enumerate(notes, start=1)]
    lines += ["", "`make bench` measures it anew."]
    return "\n".join(lines) + "\n"


WIDE, BAR, LEFT, CURVE = 900, 22, 370, 180


def plot(measures: Iterable[Measure]) -> str:
    """Milliseconds a picture as bars, logarithmic; and memory over time of the longest run of the most products."""
    measures = list(measures)
    bars = [it for it in measures if it.seconds]
    high = 60 + BAR * len(bars) + CURVE + 60
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDE} {high}" font-family="sans-serif" font-size="12">',
        f'<rect width="{WIDE}" height="{high}" fill="white"/>',
        '<text x="20" y="28" font-size="15">Milliseconds a picture (logarithmic)</text>',
    ]
    for row, it in enumerate(bars):
        y, each = 45 + BAR * row, 1000 * it.seconds / it.products
        name = f"{it.way}, {it.products:,}{', compared' if it.compared else ''}"
        width = max(2.0, (WIDE - LEFT - 90) * _log(each) / 4)
        colour = "#2a6f97" if it.way.startswith("this") else "#9aa5b1"
        parts += [
            f'<text x="{LEFT - 8}" y="{y + 14}" text-anchor="end">{escape(name)}</text>',
            f'<rect x="{LEFT}" y="{y + 2}" width="{width:.1f}" height="{BAR - 6}" fill="{colour}"/>',
            f'<text x="{LEFT + width + 6:.1f}" y="{y + 14}">{each:,.0f}</text>',
        ]
    curved = [it for it in measures if len(it.curve) > 1]
    if curved:
        parts += _curve(max(curved, key=lambda it: (it.products, it.seconds)), high - CURVE - 20)
    return "\n".join([*parts, "</svg>", ""])


def _curve(measure: Measure, top: int) -> Iterator[str]:
    most = max(measure.curve)
    step = (WIDE - 120) / (len(measure.curve) - 1)
    bottom = top + CURVE - 20
    points = " ".join(
        f"{80 + step * at:.1f},{bottom - (CURVE - 50) * mb / most:.1f}" for at, mb in enumerate(measure.curve)
    )
    minutes = f"{measure.seconds / 60:,.0f} minutes"
    words = f"{measure.way}, {measure.products:,} products: MB of the largest process over {minutes}"
    yield f'<text x="20" y="{top + 6}" font-size="15">{escape(words)}</text>'
    yield f'<polyline points="{points}" fill="none" stroke="#2a6f97" stroke-width="2"/>'
    yield f'<line x1="80" x2="{WIDE - 40}" y1="{bottom}" y2="{bottom}" stroke="#9aa5b1"/>'
    yield f'<text x="72" y="{bottom}" text-anchor="end">0</text>'
    yield f'<text x="72" y="{bottom - CURVE + 54}" text-anchor="end">{most:,}</text>'


def _log(milliseconds: float) -> float:
    from math import log10

    return max(0.0, log10(milliseconds))


if __name__ == "__main__":
    note()
