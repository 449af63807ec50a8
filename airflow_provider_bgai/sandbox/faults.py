"""What can go wrong, by name: which faults there are, and when each one strikes.

A fault strikes in two ways. Queued (``Faults.queue``), it hits the next matching requests and is gone: for a
test that wants one precise accident. As a rate (``Faults.set_rate``), it hits that share of all matching
requests, drawn from a seeded generator: for a chaos run.
"""

from __future__ import annotations

import math
import random
import threading
from dataclasses import dataclass
from typing import Any, Literal

Kind = Literal["submit", "poll", "download", "account"]
KINDS: tuple[Kind, ...] = ("submit", "poll", "download", "account")

ASYNC_VENDORS = frozenset({"picwish", "gptge"})
LINK_VENDORS = ASYNC_VENDORS | {"katalis"}
BYTES_VENDORS = frozenset({"imagine", "photoroom"})

# Which requests each vendor knows at all.
VENDOR_KINDS: dict[str, tuple[Kind, ...]] = {
    "imagine": ("submit",),
    "katalis": ("submit", "download"),
    "picwish": ("submit", "poll", "download", "account"),
    "photoroom": ("submit", "account"),
    "gptge": ("submit", "poll", "download"),
}

_ANY = frozenset(KINDS)
_API = frozenset({"submit", "poll", "account"})
_SUBMIT = frozenset({"submit"})
_POLL = frozenset({"poll"})
_DOWNLOAD = frozenset({"download"})
_KATALIS = frozenset({"katalis"})
_PICTURES = dict.fromkeys(LINK_VENDORS, _DOWNLOAD) | dict.fromkeys(BYTES_VENDORS, _SUBMIT)


def _everywhere(kinds: frozenset[str]) -> dict[str, frozenset[str]]:
    return dict.fromkeys(VENDOR_KINDS, kinds)


def _only(vendors: frozenset[str], kinds: frozenset[str]) -> dict[str, frozenset[str]]:
    return dict.fromkeys(vendors, kinds)


# name -> vendor -> the kinds of request it can hit. Which of them cost money is in CHARGED below.
FAULTS: dict[str, dict[str, frozenset[str]]] = {
    # Answered before any work; nothing charged.
    "rate_limited": _everywhere(_ANY),  # 429 without Retry-After, as all five vendors leave it undocumented
    "rate_limited_retry_after": _everywhere(_ANY),  # 429, Retry-After in seconds
    "rate_limited_retry_after_date": _everywhere(_ANY),  # 429, Retry-After as an HTTP date
    "server_error": _everywhere(_ANY),  # 500
    "bad_gateway": _everywhere(_ANY),  # 502 with a proxy's HTML page
    "unavailable": _everywhere(_ANY),  # 503
    "quota_spent": _everywhere(_SUBMIT),
    "bad_key": _everywhere(_API),
    "moderation": _everywhere(_SUBMIT),
    "html_200": _everywhere(_ANY),  # an HTML page with status 200
    "drop_before_charge": _everywhere(_ANY),  # the line is cut, no byte answered
    "hang": _everywhere(_ANY),  # never answers, until the client leaves
    # The work is done (and charged, when it is a submit), then the answer is spoiled. A refusal is left as it is.
    "slow": _everywhere(_ANY),  # a right answer, ``delay`` seconds late
    "drop_after_charge": _everywhere(_ANY),
    "hang_after_charge": _everywhere(_SUBMIT),
    "drop_mid_body": _everywhere(_ANY),  # headers and half of the body, then the line is cut
    "html_200_after_charge": _everywhere(_SUBMIT),
    "server_error_after_charge": _everywhere(_SUBMIT),  # 500 in the vendor's own envelope
    "server_error_after_charge_html": _everywhere(_SUBMIT),  # 500 with a gateway's HTML page
    "unavailable_after_charge": _everywhere(_SUBMIT),  # 503 in the vendor's own envelope
    "unavailable_after_charge_html": _everywhere(_SUBMIT),  # 503 with a gateway's HTML page
    "truncated_image": _PICTURES,  # a whole HTTP message with half a picture in it
    "huge_image": _PICTURES,  # an endless-looking stream, ``size`` bytes long
    "bomb_image": _PICTURES,  # a small PNG file of 10,000 x 16,000 px
    "wrong_content_type": _PICTURES,  # a good picture labelled text/plain
    "redrawn_product": _PICTURES,  # a whole picture whose product is not the shop's any more
    "blank_image": _PICTURES,  # a whole picture with nothing in it
    # The vendor's own answers, gone wrong.
    "state_-1": _only(ASYNC_VENDORS, _SUBMIT),  # a task born to fail: accepted, never charged
    "state_-2": _only(ASYNC_VENDORS, _SUBMIT),
    "state_-3": _only(ASYNC_VENDORS, _SUBMIT),
    "state_-5": _only(ASYNC_VENDORS, _SUBMIT),
    "state_-7": _only(ASYNC_VENDORS, _SUBMIT),
    "state_-8": _only(ASYNC_VENDORS, _SUBMIT),
    "pending_forever": _only(ASYNC_VENDORS, _SUBMIT),  # accepted, never finishes, never charged
    "not_found_first": _only(ASYNC_VENDORS, _POLL),  # 404 until the task was seen once
    "no_state": _only(ASYNC_VENDORS, _POLL),  # a poll answer without data.state
    "expired_url": _only(ASYNC_VENDORS, _DOWNLOAD),
    "unsupported_attributes": _only(frozenset({"photoroom"}), _SUBMIT),  # charged, and the option ignored
    "more_pictures": _only(LINK_VENDORS, _SUBMIT),  # one more than asked for each source, where there is a slot
    "fewer_pictures": _only(LINK_VENDORS, _SUBMIT),  # one fewer than asked for each source, but never none
    "odd_success_word": _only(_KATALIS, _SUBMIT),  # HTTP 200 with pictures and ``word`` for "Success"
    "words_without_pictures": _only(_KATALIS, _SUBMIT),  # HTTP 200 with ``word`` and no pictures, charged
    "not_success_200": _only(_KATALIS, _SUBMIT),  # HTTP 200 with a word of failure and no pictures, not charged
}

# Submissions these hit are on the bill; those the others hit are not. Other kinds of request never cost anything.
# More or fewer pictures: the vendor bills what it makes.
CHARGED = frozenset(
    {
        "slow",
        "drop_after_charge",
        "hang_after_charge",
        "drop_mid_body",
        "html_200_after_charge",
        "server_error_after_charge",
        "server_error_after_charge_html",
        "unavailable_after_charge",
        "unavailable_after_charge_html",
        "truncated_image",
        "huge_image",
        "bomb_image",
        "wrong_content_type",
        "redrawn_product",
        "blank_image",
        "unsupported_attributes",
        "more_pictures",
        "fewer_pictures",
        "odd_success_word",
        "words_without_pictures",
    }
)


@dataclass(frozen=True, slots=True)
class Fault:
    """One accident.

    :param name: one of ``FAULTS``.
    :param retry_after: seconds, for the ``rate_limited_retry_after*`` faults.
    :param delay: seconds, for ``slow``.
    :param size: bytes, for ``huge_image``.
    :param word: what Katalis says in ``message``; by default ``odd_success_word`` and ``words_without_pictures``
        take "Completed", "success!" and "Partial success" in turn.

    A value that is no number from 0 up, or no text, is a ValueError.
    """

    name: str
    retry_after: float = 1
    delay: float = 2
    size: int = 256 * 1024 * 1024
    word: str = ""

    def __post_init__(self) -> None:
        for name, kinds in {"retry_after": (int, float), "delay": (int, float), "size": (int,)}.items():
            value = getattr(self, name)
            if not isinstance(value, kinds) or isinstance(value, bool) or not 0 <= value < math.inf:
                raise ValueError(f"{name} of fault {self.name!r} must be a number from 0 up, not {value!r}")
        if not isinstance(self.word, str):
            raise ValueError(f"word of fault {self.name!r} must be text, not {self.word!r}")


def kinds_hit(vendor: str, name: str) -> tuple[Kind, ...]:
    """The kinds of request of ``vendor`` that fault ``name`` can hit; ValueError where it makes no sense."""
    if name not in FAULTS:
        raise ValueError(f"unknown fault {name!r}; there are: {', '.join(sorted(FAULTS))}")
    if vendor not in VENDOR_KINDS:
        raise ValueError(f"unknown vendor {vendor!r}; there are: {', '.join(VENDOR_KINDS)}")
    kinds = tuple(kind for kind in VENDOR_KINDS[vendor] if kind in FAULTS[name].get(vendor, ()))
    if not kinds:
        raise ValueError(f"fault {name!r} makes no sense for {vendor}")
    return kinds


class Faults:
    """The queued faults and the rates, for all vendors. Thread-safe."""

    def __init__(self, seed: int = 0) -> None:
        self._random = random.Random(seed)
        self._lock = threading.Lock()
        self._queues: dict[tuple[str, str], list[Fault]] = {}
        self._rates: dict[tuple[str, str], dict[str, tuple[float, Fault]]] = {}

    def queue(self, vendor: str, fault: Fault, *, times: int = 1, on: str | None = None) -> None:
        """Let ``fault`` hit the next ``times`` requests of kind ``on`` (by default its first kind)."""
        kinds = kinds_hit(vendor, fault.name)
        if on is not None and on not in kinds:
            raise ValueError(f"fault {fault.name!r} of {vendor} can hit {', '.join(kinds)}, not {on!r}")
        if times < 1:
            raise ValueError(f"a fault is queued at least once, not {times} times")
        with self._lock:
            self._queues.setdefault((vendor, on or kinds[0]), []).extend([fault] * times)

    def set_rate(self, spec: str, rate: float, **details: Any) -> None:
        """Let a fault hit a share of requests: ``[vendor.]name[@kind]``, e.g. ``picwish.rate_limited@poll``.

        Without a vendor it is every vendor, and without a kind every kind, where the fault makes sense.
        ``details`` are those of ``Fault``.
        """
        if not 0 <= rate <= 1:
            raise ValueError(f"the rate of fault {spec!r} must lie between 0 and 1, not {rate}")
        path, _, on = spec.partition("@")
        vendor, _, name = path.rpartition(".")
        targets = [
            (each, kind)
            for each in ([vendor] if vendor else [v for v in VENDOR_KINDS if v in FAULTS.get(name, {})])
            for kind in kinds_hit(each, name)
            if on in ("", kind)
        ]
        if not targets:
            raise ValueError(f"fault rate {spec!r} matches no request; faults: {', '.join(sorted(FAULTS))}")
        fault = Fault(name, **details)
        with self._lock:
            for target in targets:
                self._rates.setdefault(target, {})[name] = (rate, fault)

    def draw(self, vendor: str, kind: str) -> Fault | None:
        """The fault for the request that has just come in, if any: queued ones first, in order."""
        with self._lock:
            if queue := self._queues.get((vendor, kind)):
                return queue.pop(0)
            rates = self._rates.get((vendor, kind))
            if not rates:
                return None
            dice = self._random.random()
            for rate, fault in rates.values():
                if dice < rate:
                    return fault
                dice -= rate
            return None

    def clear(self) -> None:
        """Forget queued faults and rates."""
        with self._lock:
            self._queues.clear()
            self._rates.clear()
