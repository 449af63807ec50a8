"""The benchmark's cases, a few of each kind."""

from __future__ import annotations

import pytest

from airflow_provider_bgai.imaging.fidelity import compare
from benchmarks.fidelity import cases, cost


@pytest.mark.parametrize("kind", cases.KINDS)
def test_a_sample_of_the_benchmark(kind):
    outcomes = [cases.run(kind, number, cases.pictures(None)) for number in range(4)]
    honest = cases.KINDS[kind].group in ("honest", "surroundings")
    wrong = [each for each in outcomes if each.faithful is not honest]
    assert len(wrong) <= (0 if honest else 1), wrong


@pytest.mark.parametrize("kind", ["redrawn part", "one character", "invented part", "second copy", "reflection"])
def test_the_benchmark_makes_the_same_case_again(kind):
    first, again = (cases.make(kind, 3, cases.pictures(None))[2] for _ in range(2))
    assert first.tobytes() == again.tobytes()


def test_costs_are_measured_on_honest_results_of_a_megapixel():
    for source, result in cost.results(cases.pictures(None)[1:2], cases.SEED):
        assert result.width * result.height == pytest.approx(cost.MEGAPIXEL, rel=0.01)
        assert compare(source, result).faithful
