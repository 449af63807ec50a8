"""When to ask a vendor for a task, when landing gets urgent, when to give up.

One pure object, :class:`TaskWatch`, takes these decisions for the blocking path, the sensor and the
trigger alike, so that they cannot drift apart. No I/O, no clock and no sleeping here: callers pass the
wall-clock time (``time.time()``), because a trigger may resume in another process.
"""

from __future__ import annotations

import heapq
import random
import re
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Literal

# A task is sometimes not visible at once at the place that answers polls. After this many seconds of
# "not found" it is not propagation any more.
NOT_FOUND_GRACE = 60.0

# Of many tasks one in so many is asked at first, but 4 to 16. The others are asked once these have ended, when they are
# likely to have ended, too: polls count against the vendor's rate, and each should bring a picture.
SCOUT_IN = 64
FEWEST_SCOUTS, MOST_SCOUTS = 4, 16
# The last scout is waited for so much longer than the others took: it may be stuck.
STRAGGLER = 1.5
# After this many seconds the others are asked even so.
SCOUTING = 60.0
# Of tasks that are waited for one by one, so many are to have ended when they are asked for the first time.
ENDED_AT_FIRST = 0.9


@dataclass(frozen=True)
class PollPolicy:
    """How often to ask. All values in seconds.

    :param interval: between the first polls of a task.
    :param growth: by which factor the interval grows from poll to poll.
    :param max_interval: beyond which it does not grow.
    :param land_within: how long a finished task may wait for the others before landing gets urgent
        (links live for an hour, and a resumed Airflow task may queue for a worker slot).
    """

    interval: float = 2.0
    growth: float = 1.25
    max_interval: float = 30.0
    land_within: float = 300.0


@dataclass(frozen=True)
class Decision:
    """What to do now: ``poll`` (again in ``wait`` seconds), ``land``, ``done`` or ``give_up``."""

    action: Literal["poll", "land", "done", "give_up"]
    wait: float = 0.0


class Refusals:
    """Refusals of the key among polls: one 401 among answered siblings is an accident, three in a row are the key."""

    MOST = 3

    def __init__(self) -> None:
        self._in_a_row = 0

    def answered(self) -> None:
        """A poll was answered, so the key is right."""
        self._in_a_row = 0

    def refused(self) -> bool:
        """The key was refused. Whether that is believed by now."""
        self._in_a_row += 1
        return self._in_a_row >= self.MOST


def askable(task_id: str) -> bool:
    """Whether a text can be a task's ID: no path, no query, no blank."""
    return bool(re.fullmatch(r"[\w.:=+~@-]{1,200}", task_id or "")) and not re.fullmatch(r"\.+", task_id)


def unknown_is_lost(missing_for: float, *, age: float | None = None, once: bool = False) -> bool:
    """Whether a task that the vendor does not know is lost, or just not visible yet.

    :param missing_for: seconds for which every poll of this watch said so.
    :param age: seconds since the vendor gave out the task's ID, if known.
    :param once: no further poll will be made now, so the age has to decide.
    """
    return missing_for >= NOT_FOUND_GRACE or (once and age is not None and age >= NOT_FOUND_GRACE)


class Usual:
    """How long tasks usually take, learned from those that were asked for: most have ended when they are asked first.

    :ivar seconds: the age at which :data:`ENDED_AT_FIRST` of them have ended; 0 as long as nothing is known.
    """

    STEP = 0.1

    def __init__(self) -> None:
        self.seconds = 0.0

    def first_poll(self, policy: PollPolicy) -> float:
        """At which age (seconds) to ask for a task for the first time."""
        return min(max(policy.interval, self.seconds), policy.max_interval)

    def learn(self, first_poll: float, ended: float | None = None) -> None:
        """What a task's polls have found.

        :param first_poll: the age that was asked for.
        :param ended: the age at which a later poll found that it had ended; None if the first one did.
        """
        if not self.seconds:
            self.seconds = ended or first_poll
            return
        # Steps up and down are as long as the others are frequent, so they cancel each other at the age looked for.
        share = ENDED_AT_FIRST - 1 if ended is None else ENDED_AT_FIRST
        self.seconds = first_poll * (1 + self.STEP * share)


class TaskWatch:
    """Many task IDs waited for at once, as one pure state.

    :param task_ids: what to wait for; duplicates are asked once.
    :param deadline: wall-clock time in epoch seconds after which to give up.
    :param policy: how often to ask.
    :param now: the present time in epoch seconds.
    """

    def __init__(
        self, task_ids: Iterable[str], *, deadline: float, now: float, policy: PollPolicy | None = None
    ) -> None:
        self.policy = policy or PollPolicy()
        self.deadline = deadline
        self.ended: dict[str, str] = {}
        """Task ID -> ``succeeded``, ``failed`` or ``not_found``."""
        self.problems: dict[str, str] = {}
        """Task ID -> the last poll's error, for those not ended."""
        self._interval: dict[str, float] = dict.fromkeys(task_ids, self.policy.interval)
        self._missing_since: dict[str, float] = {}
        self.answers = 0
        """Polls that were answered."""
        self._first_end: float | None = None
        self._due: list[tuple[float, str]] = []
        self._unasked = list(self._interval)
        self._called: set[str] = set()
        self._send_scouts(now)

    @property
    def pending(self) -> list[str]:
        """The task IDs that have not ended."""
        return [task_id for task_id in self._interval if task_id not in self.ended]

    def due(self, now: float, limit: int) -> list[str]:
        """Take up to ``limit`` task IDs whose time has come. Report each with :meth:`saw` or :meth:`missed`."""
        self._call_others(now)
        taken: list[str] = []
        while self._due and len(taken) < limit and self._due[0][0] <= now:
            taken.append(heapq.heappop(self._due)[1])
        return taken

    def saw(self, task_id: str, state: str, now: float) -> None:
        """A poll was answered: ``pending``, ``succeeded`` or ``failed``."""
        self.answers += 1
        self.problems.pop(task_id, None)
        self._missing_since.pop(task_id, None)
        if state == "pending":
            self._again(task_id, now)
        else:
            self._end(task_id, state, now)

    def missed(
        self,
        task_id: str,
        problem: str,
        now: float,
        *,
        not_found: bool = False,
        retry_after: float | None = None,
    ) -> None:
        """A poll failed. The task is paid, so it is asked again until the deadline."""
        self.problems[task_id] = problem
        if not_found:
            since = self._missing_since.setdefault(task_id, now)
            if unknown_is_lost(now - since):
                self._end(task_id, "not_found", now)
                return
        else:
            self._missing_since.pop(task_id, None)
        self._again(task_id, now, at_least=retry_after or 0.0)

    def decide(self, now: float) -> Decision:
        """What to do next. A task that has ended is never a reason to give up on landing it."""
        if len(self.ended) == len(self._interval):
            return Decision("done")
        if now >= self.deadline:
            return Decision("give_up")
        if self._first_end is not None and now - self._first_end >= self.policy.land_within:
            return Decision("land")
        self._call_others(now)
        times = [self.deadline]
        if self._unasked and not self._called:
            times.append(self._scouted_until)
        if self._due:
            times.append(self._due[0][0])
        if self._first_end is not None:
            times.append(self._first_end + self.policy.land_within)
        return Decision("poll", max(0.0, min(times) - now))

    def _plan(self, task_ids: Iterable[str], now: float) -> None:
        # Spread over one interval, so that a thousand tasks do not ask as one.
        names = list(task_ids)
        spread = self.policy.interval / max(1, len(names))
        for place, task_id in enumerate(names):
            heapq.heappush(self._due, (now + place * spread, task_id))

    def _send_scouts(self, now: float) -> None:
        count = min(max(FEWEST_SCOUTS, len(self._unasked) // SCOUT_IN), MOST_SCOUTS)
        # From everywhere: what was submitted early has ended early.
        self._scouts = set(self._unasked[:: -(-len(self._unasked) // count) or 1])
        scouts = [task_id for task_id in self._unasked if task_id in self._scouts]
        self._unasked = [task_id for task_id in self._unasked if task_id not in self._scouts]
        self._scouting_since, self._scouted_until = now, now + SCOUTING
        self._plan(scouts, now)

    def _call_others(self, now: float) -> None:
        if self._unasked and not self._called and now >= self._scouted_until:
            self._plan(self._unasked, self._scouted_until)
            self._called, self._unasked = set(self._unasked), []

    def _again(self, task_id: str, now: float, at_least: float = 0.0) -> None:
        interval = self._interval[task_id]
        self._interval[task_id] = min(interval * self.policy.growth, self.policy.max_interval)
        if task_id in self._called and not at_least:
            self._unasked.append(task_id)  # its next scouts tell when
        else:
            # Jitter keeps tasks that were submitted together from asking together.
            delay = max(at_least, interval * random.uniform(0.85, 1.15))
            heapq.heappush(self._due, (now + delay, task_id))
        self._answered(task_id, now)

    def _end(self, task_id: str, state: str, now: float) -> None:
        self.ended[task_id] = state
        if self._first_end is None:
            self._first_end = now
        if task_id in self._scouts:
            self._scouts.discard(task_id)
            took = now - self._scouting_since
            if len(self._scouts) <= 1:
                until = now if not self._scouts else self._scouting_since + took * STRAGGLER
                self._scouted_until = min(self._scouted_until, until)
        self._answered(task_id, now)

    def _answered(self, task_id: str, now: float) -> None:
        if task_id in self._called:
            self._called.discard(task_id)
            if not self._called and self._unasked:
                self._send_scouts(now + self.policy.interval)
