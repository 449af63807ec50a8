"""The benchmark's cases, a few of each kind."""

from __future__ import annotations

import pytest

from benchmarks.fidelity import cases


@pytest.mark.parametrize("altered", [False, True], ids=["honest", "altered"])
def test_a_sample_of_the_benchmark(altered):
    outcomes = [cases.run(number, altered, cases.pictures(None)) for number in range(18)]
    assert len({each.kind for each in outcomes}) >= 6
    wrong = [each for each in outcomes if each.faithful is altered]
    assert len(wrong) <= 1, wrong


def test_the_benchmark_makes_the_same_case_again():
    paths = cases.pictures(None)
    for number in (3, 4):
        first, again = (cases.make(number, True, paths)[3] for _ in range(2))
        assert first.tobytes() == again.tobytes()
