"""A small chaos, and workers that are broken on purpose. ``make chaos`` runs a long one."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from benchmarks.chaos.accidents import RATES
from benchmarks.chaos.chaos import Stage, chaos, stage
from benchmarks.chaos.controls import CONTROLS
from benchmarks.chaos.evidence import Evidence
from benchmarks.chaos.judge import judge

OFTEN = {name: 3 * rate for name, rate in RATES.items()}


@pytest.fixture(scope="module")
def services() -> Iterator[Stage]:
    with stage() as services:
        yield services


@pytest.mark.parametrize("deferrable", [False, True], ids=["blocking", "deferrable"])
def test_every_promise_is_kept_whatever_breaks(services: Stage, deferrable: bool):
    verdict = chaos(services, 30, 4, deferrable=deferrable, rates=OFTEN)
    assert not verdict.broken, verdict.table()
    assert len(verdict.evidence.cuts) == 4


@pytest.mark.long  # some minutes: `make chaos` runs it
@pytest.mark.parametrize("name", CONTROLS)
def test_the_judge_sees_a_worker_that_breaks_a_promise(services: Stage, name: str):
    control = CONTROLS[name]
    deferrable = list(CONTROLS).index(name) % 2 == 1
    verdict = chaos(services, 20, control.kills, deferrable=deferrable, control=name, rates={**RATES, **control.rates})
    assert control.breaks in verdict.broken, verdict.table()
    assert "BROKEN" in verdict.table()


def test_every_promise_has_a_worker_that_breaks_it():
    promises = {promise.name for promise in judge(Evidence(prompts={})).promises}
    assert promises - {control.breaks for control in CONTROLS.values()} == {"the chaos took place"}
