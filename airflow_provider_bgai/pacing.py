"""When a request may go out, so that all processes that use a connection find their parts of its rate by themselves.

One pure object, :class:`Pace`, takes these decisions. No I/O, no clock and no sleeping here: callers pass the time of
the wall clock, as it is all that the processes have in common. It is cut into beats of about a second, with as many
places as the vendor takes requests in a second, and some beats make a round. A process has some of a round's places and
sends only there: so long as nobody else has them it is never refused, and those who have found theirs meet no more.

A 429 takes a place away; one more is tried now and then, ever more seldom where that fails. Who has more of the places
comes later within a beat, so where two meet, the vendor refuses who has more, and the parts even out.
"""

from __future__ import annotations

import math
import random
from dataclasses import dataclass

PLACES = 16
"""Places of a round at least; a vendor that takes more requests in a second has one round a beat."""
MARGIN = 0.93
"""How much of the rate is used: a request may take a little longer to its vendor than the one before it."""
SPREAD = 0.05
"""Seconds of a beat in which its requests go out: who has one place of the round first, who has all of them last."""
LAST = 0.004
"""Seconds by which a place that is only tried comes later still: where all have their part, it stays with its owner."""
LONG_BEAT = 2.0
"""Seconds from which on a beat is too long to be waited for."""
LATE, LATE_ALONE = 0.04, 0.8
"""How late a place may still be used: seconds; of a beat, for who has every place, the next ones, too."""
APART = 1.02
"""So many of the vendor's seconds lie between a request and the one that its window must have left by then."""
FIRST_TRY, SELDOM = 4, 28
"""Rounds until the first try, and between two tries at most."""
HARDER = 4
"""So many times longer until the next try, where one was refused."""
SETTLED = 8
"""Rounds after which everybody has found places: what is refused from then on may have been held up on its way."""
SETTLE = 10.0
"""Seconds until the next try where the first one won, half of it after the second, and so on: where one place is free,
others are likely to be, but a vendor that counts over a minute refuses too late for many at once."""
MOST_TURNS = 4
"""Rounds in which the only place of a process comes once, at most: 64 processes can do without meeting."""
LONGEST_PAUSE = 32.0
"""Seconds without a request, at most, where refusals follow each other and the vendor names no time."""


@dataclass(frozen=True)
class Slot:
    """Where one request may go out.

    :param number: of the place, counted from the epoch.
    :param at: wall-clock time in epoch seconds.
    :param tried: it is nobody's place yet, as far as we know.
    """

    number: int
    at: float
    tried: bool


class Pace:
    """The places of one process.

    :param per_minute: requests a minute that the vendor takes from all processes together, above 0.
    :param side_by_side: how many processes are known to send, from 1: this one begins with its part.
    :param now: the present time in epoch seconds.
    :param chance: casts lots.
    :ivar places: of a round, those that are ours.
    :ivar resume_at: epoch seconds; nothing is sent before.
    """

    def __init__(
        self, per_minute: float, side_by_side: int = 1, *, now: float, chance: random.Random | None = None
    ) -> None:
        self._chance = chance or random.Random()
        self._burst = max(1, min(PLACES, math.floor(per_minute / 60 + 1e-6)))
        self._beat = self._burst * 60 / (per_minute * MARGIN)
        self._second = self._burst * 60 / per_minute
        self._round = self._burst * math.ceil(PLACES / self._burst)
        count = max(1, round(self._round / side_by_side))
        # At such a rate requests are counted by the minute, so beats need not fall together, and the first request need
        # not wait for one.
        self._shift = now % self._beat if self._beat > LONG_BEAT else 0.0
        first = self._first(now) if self._shift else self._chance.randrange(self._round)
        # Evenly spread, so that two who begin with a half each, or eight with an eighth, may fit at once.
        self.places = {(first + place * self._round // count) % self._round for place in range(count)}
        self.resume_at = 0.0
        self._gone: dict[int, float] = {}  # when the last burst's requests went out, as far as the vendor can tell
        self._claimed = set(self.places)  # not used so far
        self._turns, self._turn = 1, 0  # of so many rounds in which we come, for who has one place only
        self._taken = self._first(now) - 1
        self._wins = self._pauses = 0
        self._patience = FIRST_TRY
        self._settled, self._regain = self._taken + SETTLED * self._round, -1
        self._try_at = self._rounds_from(now, self._patience)

    def next(self, now: float) -> Slot:
        """The next slot, perhaps already there. It may be another one a moment later: :meth:`take` it in time."""
        since = max(now - self._late(), self.resume_at)
        number = max(self._taken + 1, self._first(since - self._time(0)) + self._burst)
        if number > self._first(since) + 2 * MOST_TURNS * self._round:
            number = self._first(since)  # the clock was set back
        while not self._is_ours(number):
            if number == self._regain or (number >= self._try_at and self._can_be_tried(number)):
                return Slot(number, self._time(number, 1) + LAST, True)
            number += 1
        return Slot(number, self._time(number), False)

    def take(self, slot: Slot) -> None:
        """A request goes out there. Report it with :meth:`accepted` or :meth:`refused`, if it was answered."""
        self._taken = slot.number
        if slot.tried and slot.number != self._regain:
            self._try_at = slot.number + SELDOM * self._round

    def missed(self, slot: Slot, now: float) -> bool:
        """Whether it is too late for a place: the next ones may be somebody else's."""
        return now > slot.at + self._late()

    def departure(self, slot: Slot, now: float) -> float:
        """When a request that is ready now goes out, in epoch seconds: late after a late one, so as not to crowd it."""
        before = list(self._gone.values())[-self._burst] if len(self._gone) >= self._burst else 0.0
        at = max(slot.at, before + APART * self._second)
        self.departed(slot, max(at, now))
        return at

    def departed(self, slot: Slot, now: float) -> None:
        """It has gone out."""
        self._gone[slot.number] = now
        if len(self._gone) > self._burst:
            del self._gone[next(iter(self._gone))]

    def held_up(self, slot: Slot, seconds: float) -> None:
        """It may have come to the vendor so much later than others, so the next burst keeps its distance from that."""
        if slot.number in self._gone:
            self._gone[slot.number] += seconds

    def accepted(self, slot: Slot) -> None:
        """The vendor did not refuse it."""
        self._pauses = 0
        self._claimed.discard(slot.number % self._round)
        if not slot.tried:
            return
        if self._turns == 1:
            self.places.add(slot.number % self._round)
        elif self._can_be_tried(slot.number):
            self._turns //= 2
        if slot.number == self._regain:
            return
        self._wins += 1
        if self._wins > 1:
            self._patience = max(1, self._patience // 2)
        anywhere = self._chance.randrange(self._round) if self._wins == 1 else 0
        self._try_at = slot.number + 1 + anywhere + round(SETTLE / self._wins / self._beat) * self._burst

    def refused(self, slot: Slot, now: float, retry_after: float | None = None) -> None:
        """The vendor refused it: too fast.

        :param retry_after: seconds in which it wants no request, if it says so.
        """
        if retry_after is not None:
            self.resume_at = max(self.resume_at, now + retry_after)
        elif slot.at >= self.resume_at:  # of those that were on their way together, one counts
            self.resume_at = now + min(2.0**self._pauses, LONGEST_PAUSE)
            self._pauses += 1
        if slot.number == self._regain:
            return
        if slot.tried or self._wins:  # a place that was won may be why another one is refused
            self._patience = min(HARDER * self._patience, SELDOM)
        self._wins = 0
        if not slot.tried or self._turns == 1:  # one that is tried may be taken for accepted by now
            self._lose(slot.number % self._round)
        if not slot.tried and slot.number >= self._settled and self._turns == 1:
            self._regain = slot.number + self._round  # once more; then it is somebody else's
        self._try_at = self._rounds_from(now, self._patience)

    def _lose(self, place: int) -> None:
        self.places.discard(place)
        if place in self._claimed:
            # Too much was claimed, so of what has not been used one more is given up unasked.
            self._claimed.discard(place)
            if self._claimed:
                self.places.discard(one := self._chance.choice(sorted(self._claimed)))
                self._claimed.discard(one)
        if not self.places:
            self.places = {self._chance.randrange(self._round)}
            self._turns = min(2 * self._turns, MOST_TURNS)
            self._turn = self._chance.randrange(self._turns)

    def _late(self) -> float:
        return LATE_ALONE * self._beat if len(self.places) == self._round else LATE

    def _is_ours(self, number: int) -> bool:
        return number % self._round in self.places and (number // self._round - self._turn) % self._turns == 0

    def _can_be_tried(self, number: int) -> bool:
        if self._turns == 1:
            return True
        halfway = (number // self._round - self._turn) % self._turns == self._turns // 2
        return halfway and number % self._round in self.places

    def _first(self, now: float) -> int:
        """Of the present beat's places the first."""
        return math.floor((now - self._shift) / self._beat + 1e-9) * self._burst

    def _time(self, number: int, more: int = 0) -> float:
        """When a request goes out there, for who has so many more places: as one that is tried would make it."""
        part = math.log(min(len(self.places) + more, self._round)) / math.log(self._round)
        return self._shift + number // self._burst * self._beat + part * min(SPREAD, self._beat / 3)

    def _rounds_from(self, now: float, rounds: int) -> int:
        """So many rounds on, more or less: all who were refused together should not try together."""
        return self._first(now) + round(self._round * (rounds * self._chance.uniform(0.7, 1.3) + self._chance.random()))
