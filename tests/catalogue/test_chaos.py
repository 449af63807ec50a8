"""A small chaos run: faults of every kind and a worker killed with SIGKILL. ``make chaos`` runs a longer one."""

from __future__ import annotations

from multiprocessing.connection import Connection

from benchmarks.chaos import chaos, work

REPORTED = ("refused", "failed", "lost", "quarantined", "held")


def test_nothing_is_paid_twice_in_silence_whatever_breaks():
    verdict = chaos(60, 6, latency=0.3)
    assert verdict.broken == []
    assert verdict.kills == 6
    assert verdict.undeclared == 0
    assert verdict.landed + sum(verdict.outcomes[1][it] for it in REPORTED) == 60
    assert verdict.charges == verdict.landed + verdict.unknown_charged + verdict.lost


def careless(destination: str, owner: str, env: dict[str, str], ready: Connection) -> None:
    """A worker that neither writes task IDs down nor holds what was not answered: it just tries again."""
    from airflow_provider_bgai.catalogue.purchase import Buyer

    async def keep(self, ledger, claim, generation):
        return claim.model_copy(update={"state": "submitted", "task_id": generation.task_id})

    async def hold(self, ledger, claim, wish, problem):
        return ledger.move(claim, "failed", owner=wish.owner, reason="fault", error=problem)

    Buyer._keep, Buyer._hold = keep, hold
    work(destination, owner, env, ready)


def test_the_judge_sees_a_worker_that_pays_twice():
    # Slow vendors, so that a kill strikes between the payment and the picture.
    verdict = chaos(40, 4, latency=2.0, work=careless)
    assert verdict.undeclared > 0
    assert any("charges, but landed" in problem for problem in verdict.broken)
    assert "BROKEN" in verdict.table()
