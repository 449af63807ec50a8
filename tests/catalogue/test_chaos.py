"""A small chaos run: faults of every kind and a worker killed with SIGKILL. ``make chaos`` runs a longer one."""

from __future__ import annotations

from benchmarks.chaos import chaos


def test_nothing_is_paid_twice_in_silence_whatever_breaks():
    verdict = chaos(60, 6, latency=0.3)
    assert verdict.broken == []
    assert verdict.kills == 6
    assert verdict.undeclared == 0
    assert verdict.landed + sum(verdict.outcomes[1][it] for it in ("refused", "failed", "lost", "held")) == 60
    assert verdict.charges == verdict.landed + verdict.unknown_charged + verdict.lost
