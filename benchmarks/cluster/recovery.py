"""What the kills came to: a table, and what is promised of a night on a cluster. Pure functions."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from benchmarks.chaos.evidence import Evidence
from benchmarks.chaos.judge import Promise, Verdict, landed

SOON = 120.0
"""Seconds from the last recovery within which the night shall be done."""


@dataclass(frozen=True)
class Kill:
    """One part was killed. All moments: epoch seconds.

    :param held: what it held at that moment, in words.
    :param began: it was started again.
    :param answered: it answered or reported again; None: not while somebody waited.
    :param resumed: nothing that it held waited any more; None: as before.
    """

    part: str
    held: str
    at: float
    began: float
    answered: float | None
    resumed: float | None

    @property
    def recovered(self) -> float | None:
        """When all was as before."""
        return None if self.answered is None or self.resumed is None else max(self.answered, self.resumed)


@dataclass(frozen=True)
class Night:
    """A night on the cluster.

    :param landings: when each picture landed.
    :param ended: epoch seconds.
    :param state: of the run, in Airflow's word.
    :param restarts: how often a part ended by itself and was started again, by name.
    :param retries: tries beyond the first ones, of all tasks.
    """

    kills: Sequence[Kill]
    landings: Sequence[float]
    began: float
    ended: float
    state: str
    restarts: dict[str, int]
    retries: int


def promises(night: Night, evidence: Evidence) -> list[Promise]:
    """Those of a cluster, beside those of the chaos."""
    return [
        Promise(
            "every product landed", "a whole picture of each is in S3, and published", list(all_landed(night, evidence))
        ),
        Promise("soon after the last recovery", f"the night is done within {SOON:.0f} s", list(soon_done(night))),
    ]


def all_landed(night: Night, evidence: Evidence) -> Iterable[str]:
    if night.state != "success":
        yield f"the run ended as {night.state}"
    if missing := evidence.prompts.keys() - landed(evidence):
        yield f"{len(missing)} have no picture, such as {min(missing)}"


def soon_done(night: Night) -> Iterable[str]:
    yield from (f"{kill.part} did not recover" for kill in night.kills if kill.recovered is None)
    if (took := after_recovery(night)) > SOON:
        yield f"it took {took:.0f} s"


def after_recovery(night: Night) -> float:
    """Seconds from the last recovery to the end."""
    return night.ended - max(
        (kill.recovered for kill in night.kills if kill.recovered is not None), default=night.ended
    )


def table(night: Night) -> str:
    """A line per kill, in seconds from the kill; what it held may wait longer than the part itself."""
    lines = [f"{'killed':12}{'after':>7}{'back':>6}{'answers':>9}{'goes on':>9}{'picture':>9}{'pause':>7}  it held"]
    for place, kill in enumerate(night.kills):
        until = night.kills[place + 1].at if place + 1 < len(night.kills) else night.ended
        picture, pause = pictures_after(night.landings, kill.at, until)
        seconds = [None if each is None else each - kill.at for each in (kill.began, kill.answered, kill.resumed)]
        back, answers, resumed = seconds
        lines.append(
            f"{kill.part:12}{kill.at - night.began:7.0f}{_told(back):>6}{_told(answers):>9}{_told(resumed):>9}"
            f"{_told(picture):>9}{_told(pause):>7}  {kill.held}"
        )
    return "\n".join(lines)


def told(night: Night, verdict: Verdict) -> str:
    """What the night came to, and its promises."""
    sums, restarts = verdict.sums, ", ".join(f"{name} {count}" for name, count in night.restarts.items())
    rows = {
        "products": f"{len(verdict.evidence.prompts)}, of which {sums.landed} landed",
        "seconds": f"{night.ended - night.began:.0f}, {after_recovery(night):.0f} of them after the last recovery",
        "charged / paid + perhaps, as declared": f"{sums.charged.total()} / {sums.paid.total()} + {sums.unknown}",
        "tries beyond the first": f"{night.retries}",
        "ended by itself, and started again": restarts or "none",
    }
    return "\n".join([*(f"{name:42}{value}" for name, value in rows.items()), *verdict.told()])


def _told(seconds: float | None) -> str:
    return "never" if seconds is None else f"{seconds:.0f}"


def pictures_after(landings: Sequence[float], moment: float, until: float) -> tuple[float | None, float | None]:
    """Seconds from a moment to the next picture, and the longest time without one between then and another moment."""
    times = [each for each in sorted(landings) if moment < each <= until]
    if not times:
        return None, None
    return times[0] - moment, max(after - before for before, after in zip([moment, *times], times, strict=False))
