"""What tasks tell Airflow's metrics, as a StatsD server hears it."""

from __future__ import annotations

import os
import socket
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import pytest

pytest.importorskip("statsd")


@pytest.fixture
def heard(monkeypatch) -> Iterator[Callable[[], Counter[str]]]:
    """``heard()``: the sums of all counters of ours so far, and how many times each timer was told."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as server:
        server.bind(("127.0.0.1", 0))
        server.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1 << 20)
        server.settimeout(0.2)
        monkeypatch.setenv("AIRFLOW__METRICS__STATSD_ON", "True")
        monkeypatch.setenv("AIRFLOW__METRICS__STATSD_HOST", "127.0.0.1")
        monkeypatch.setenv("AIRFLOW__METRICS__STATSD_PORT", str(server.getsockname()[1]))
        with configured():
            yield lambda: read(server)


@contextmanager
def configured() -> Iterator[None]:
    """Airflow's metrics as a worker starts them from its configuration; off again afterwards."""
    try:
        from airflow.sdk.observability import stats
        from airflow.sdk.observability.metrics.stats_utils import get_stats_factory
    except ImportError:  # before Airflow 3.2
        from airflow.metrics.statsd_logger import get_statsd_logger
        from airflow.stats import Stats

        old: Any = Stats
        kind: Any = type(Stats)
        before, kind.factory, old.instance = kind.factory, get_statsd_logger, None
        yield
        kind.factory, old.instance = before, None
    else:

        def start() -> None:
            if hasattr(stats, "initialize"):
                stats.initialize(factory=get_stats_factory(), export_legacy_names=False)
            else:  # Airflow 3.2
                stats.Stats.initialize(factory=get_stats_factory(stats.Stats))  # type: ignore[call-arg]

        start()
        yield
        os.environ["AIRFLOW__METRICS__STATSD_ON"] = "False"
        start()


def read(server: socket.socket) -> Counter[str]:
    found: Counter[str] = Counter()
    while True:
        try:
            name, _, value = server.recv(65536).decode().partition(":")
        except TimeoutError:
            return found
        if name.startswith("airflow.bgai."):
            number, _, kind = value.partition("|")
            found[name.removeprefix("airflow.bgai.")] += int(number) if kind == "c" else 1


@pytest.mark.parametrize("waiting", ["blocking", "deferred"])
def test_a_landed_picture_is_charged_polled_and_timed_once(run, box, heard, waiting):
    for _ in range(2):  # the second one finds it
        run(f"generate_{waiting}", count=2)
    told = heard()
    polls = sum(request.kind == "poll" for request in box.requests)
    assert told == {
        each: number
        for name, number in {"landed": 2, "charged": 2, "answered_in": 1, "landed_in": 1, "polls": polls}.items()
        for each in (name, f"{name}.picwish")
    }
    assert told["charged"] == box.images_charged()


@pytest.mark.parametrize(
    ("fault", "on", "told"),
    [
        ("state_-7", "submit", {"refused": 1, "failed": 1}),
        ("drop_after_charge", "submit", {"in_doubt": 1}),
        ("truncated_image", "download", {"lost": 1, "charged": 1}),
    ],
)
def test_what_goes_wrong_is_counted_for_what_it_is(run, box, heard, fault, on, told):
    box.fault("picwish", fault, times=20, on=on)
    run("generate_blocking")
    found = heard()
    watched = ("landed", "charged", "refused", "failed", "lost", "unknown", "in_doubt", "quarantined")
    assert {name: found[name] for name in watched if found[name]} == told


def test_a_429_is_counted_by_vendor(run, box, heard):
    box.fault("picwish", "rate_limited", times=1, on="submit")
    run("generate_blocking")
    told = heard()
    assert (told["too_fast"], told["too_fast.picwish"], told["landed"]) == (1, 1, 1)


def test_an_unknown_outcome_that_is_given_up_is_counted_in_the_end(run, box, heard):
    box.fault("picwish", "drop_after_charge", times=1, on="submit")
    run("generate_again")
    told = heard()
    assert (told["in_doubt"], told["unknown"], told["landed"], told["charged"]) == (1, 1, 1, 1)


def test_a_night_counts_the_refused_of_the_plan_and_of_the_vendor(night, catalogue, box, heard):
    pytest.importorskip("airflow.sdk")
    box.fault("picwish", "state_-7", times=1, on="submit")
    night(**catalogue(3, extra_rows="SKU-9,nothing.png,Gone,toys\r\n"), max_failure_ratio=0.9)
    told = heard()
    assert (told["refused"], told["refused.picwish"], told["landed"]) == (2, 2, 2)
    assert told["charged"] == box.images_charged() == 2
