"""What `make cluster` is made of: a part that is killed is gone whole, and a broken promise is seen."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable
from pathlib import Path

import psutil
import pytest

from benchmarks.chaos.evidence import Evidence
from benchmarks.cluster.component import Component, tended
from benchmarks.cluster.night import shares
from benchmarks.cluster.recovery import Kill, Night, pictures_after, promises, table

PARENT = """
import subprocess, sys, time
child = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(60)"], start_new_session=True)
print(child.pid, flush=True)
time.sleep(60)
"""
"""Like PostgreSQL: each of its processes has a session of its own."""


def wait(ready: Callable[[], object]) -> None:
    deadline = time.monotonic() + 20
    while not ready():
        assert time.monotonic() < deadline
        time.sleep(0.05)


def component(folder: Path, *command: str) -> Component:
    log = folder / "part.log"
    log.touch()
    return Component("part", command, log, lambda moment: True, grace=1)


def test_a_part_is_killed_with_all_it_has_started_and_comes_back(tmp_path):
    part = component(tmp_path, sys.executable, "-c", PARENT)
    with tended([part]):
        part.start()
        wait(part.log.read_text)
        child = int(part.log.read_text())
        assert child in part.pids()
        killed = part.kill()
        assert child in killed
        assert not any(psutil.pid_exists(pid) for pid in killed)
        assert part.pids() == set()
        part.start()
        wait(lambda: len(part.log.read_text().split()) == 2)
        again = part.pids()
        assert len(again) == 2
    wait(lambda: not any(psutil.pid_exists(pid) for pid in again))
    assert part.ends == []


def test_a_part_that_ends_by_itself_is_started_again_and_told(tmp_path, monkeypatch):
    monkeypatch.setattr("benchmarks.cluster.component.TEND_EVERY", 0.05)
    monkeypatch.setattr("benchmarks.cluster.component.MOST_ENDS", 2)
    part = component(tmp_path, sys.executable, "-c", "print('it cannot begin')")
    with tended([part]) as problems:
        part.start()
        wait(lambda: problems)
    assert "part ends again and again" in problems[0]
    assert "it cannot begin" in problems[0]
    assert len(part.ends) == 3


def test_a_part_that_was_killed_is_not_started_by_itself(tmp_path):
    part = component(tmp_path, "sleep", "60")
    with tended([part]):
        part.start()
        part.kill()
        part.tend()
        assert part.pids() == set()


def a_night(**changes) -> Night:
    kill = Kill("broker", "3 messages", at=100, began=106, answered=107, resumed=112)
    known = {"kills": [kill], "landings": [90, 104, 105, 125], "began": 50, "ended": 230, "state": "success"}
    return Night(**{**known, "restarts": {}, "retries": 0, **changes})


def broken(night: Night, prompts: dict[str, str] | None = None) -> dict[str, list[str]]:
    return {each.name: each.broken for each in promises(night, Evidence(prompts=prompts or {})) if each.broken}


def test_a_night_that_ends_two_minutes_after_the_last_recovery_is_soon_enough():
    assert broken(a_night(ended=232)) == {}
    assert broken(a_night(ended=233)) == {"soon after the last recovery": ["it took 121 s"]}


def test_a_night_without_kills_has_nothing_to_recover_from():
    assert broken(a_night(kills=[], ended=1000)) == {}


def test_who_does_not_recover_breaks_a_promise():
    kill = Kill("broker", "", at=100, began=106, answered=107, resumed=None)
    assert broken(a_night(kills=[kill])) == {"soon after the last recovery": ["broker did not recover"]}


def test_a_product_without_a_picture_and_a_failed_run_break_a_promise():
    assert broken(a_night(state="failed"), {"SKU-1": "a scene"}) == {
        "every product landed": ["the run ended as failed", "1 have no picture, such as SKU-1"]
    }


def test_the_table_tells_seconds_from_the_kill():
    row = table(a_night()).splitlines()[1]
    assert row.split() == ["broker", "50", "6", "7", "12", "4", "20", "3", "messages"]
    row = table(a_night(kills=[Kill("worker-1", "", 100, 106, None, None)], landings=[])).splitlines()[1]
    assert row.split() == ["worker-1", "50", "6", "never", "never", "never", "never"]


def test_the_longest_pause_begins_with_the_kill():
    assert pictures_after([3, 1, 9], 0, 5) == (1, 2)
    assert pictures_after([9], 0, 5) == (None, None)


@pytest.mark.parametrize(("count", "found"), [(0, []), (1, [0.15]), (2, [0.15, 0.9])])
def test_kills_are_spread_over_the_night(count, found):
    assert shares(count) == pytest.approx(found)
