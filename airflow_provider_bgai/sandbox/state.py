"""What the sandbox remembers: charges, requests, tasks, uploaded pictures and the links it gave out.

Plain objects behind one lock: requests run on the server's thread while tests read from theirs.
"""

from __future__ import annotations

import hashlib
import hmac
import itertools
import json
import random
import threading
import time
import uuid
from collections import Counter, deque
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any

from airflow_provider_bgai.sandbox.faults import Faults, fault_table

if TYPE_CHECKING:
    from airflow_provider_bgai.sandbox.vendor import Vendor

SECONDS = {"s": 1, "min": 60}
KEPT_REQUESTS = 20_000  # a chaos run of 100,000 products must not fill the memory; counts stay exact


@dataclass(frozen=True, slots=True)
class Charge:
    """One billed call. Two charges with the same ``fingerprint`` are one wish paid twice.

    :param key_hint: last four characters of the key that pays.
    :param images: pictures billed.
    :param fingerprint: sha256 over the vendor, the picture's bytes and every wish in the request.
    :param at: Unix time, seconds.
    """

    vendor: str
    key_hint: str
    task_id: str
    images: int
    fingerprint: str
    at: float


@dataclass(frozen=True, slots=True)
class RecordedRequest:
    """One request as it came in. ``headers`` are whole, keys included: this is a test tool."""

    vendor: str
    kind: str
    method: str
    path: str
    query: dict[str, str]
    headers: dict[str, str]
    fields: dict[str, Any]
    files: dict[str, dict[str, Any]]
    fault: str | None
    at: float


@dataclass(frozen=True, slots=True)
class Recipe:
    """Everything needed to paint a result when, and only if, somebody downloads it."""

    source: str
    prompt: str
    seed: int
    max_side: int | None


@dataclass(slots=True)
class Task:
    """A vendor's task or stored result.

    :param latency: seconds from acceptance to the end.
    :param final_state: 1 success, below 0 failed, by its vendor's table; None never ends.
    :param expires: Unix time (s) when its links die; None never.
    :param seen: whether a poll has been answered.
    :param forgotten: whether its vendor denies that it ever was.
    """

    id: str
    vendor: str
    key: str
    recipe: Recipe | None
    images: int
    latency: float
    final_state: int | None = 1
    detail: str = "Complete"
    created: float = field(default_factory=time.time)
    expires: float | None = None
    seen: bool = False
    forgotten: bool = False

    @property
    def ready_at(self) -> float:
        return self.created + self.latency

    @property
    def expired(self) -> bool:
        return self.expires is not None and self.expires <= time.time()


class QuotaSpent(Exception):
    """The account has fewer credits left than the call costs."""


class Uploads:
    """Uploaded pictures, on disk: 100,000 of them do not fit in memory."""

    def __init__(self) -> None:
        self._folder: TemporaryDirectory[str] | None = None
        self._lock = threading.Lock()

    def keep(self, picture: bytes) -> str:
        """Store a picture; its sha256."""
        digest = hashlib.sha256(picture).hexdigest()
        path = self._path(digest)
        if not path.exists():
            path.write_bytes(picture)
        return digest

    def read(self, digest: str) -> bytes:
        """The picture with this sha256."""
        return self._path(digest).read_bytes()

    def close(self) -> None:
        """Delete them."""
        if self._folder:
            self._folder.cleanup()

    def _path(self, digest: str) -> Path:
        with self._lock:
            self._folder = self._folder or TemporaryDirectory(prefix="bgai-sandbox-", ignore_cleanup_errors=True)
        return Path(self._folder.name, digest)


class State:
    """One sandbox's memory.

    :param vendors: who sells here, by name.
    :param latency: seconds a vendor works on a picture.
    :param url_ttl: seconds a signed result link lives.
    :param seed: feeds the fault dice and the seeds a vendor makes up.
    :param resign: whether polling again gives a fresh link (no vendor documents that it does).
    :param idle_close: see ``set_idle_close``.
    """

    def __init__(
        self,
        vendors: Mapping[str, Vendor],
        *,
        latency: float = 0.2,
        url_ttl: float = 3600,
        seed: int = 0,
        resign: bool = False,
        idle_close: float | None = None,
    ) -> None:
        self.vendors = vendors
        self.seed = seed
        self.url_ttl = url_ttl
        self.resign = resign
        self.default_latency = latency
        self.default_idle_close = _seconds(idle_close)
        self.uploads = Uploads()
        self._lock = threading.RLock()
        self._in_flight: Counter[str] = Counter()
        self.faults = Faults(fault_table(vendors.values()), seed)
        self._limits: dict[str, tuple[int, int]] = {}
        self._forget()

    def _forget(self) -> None:
        self._random = random.Random(self.seed)
        self._numbers = itertools.count(2290)
        self._secret = uuid.uuid4().bytes
        self._charges: list[Charge] = []
        self._images: Counter[str] = Counter()
        self._requests: deque[RecordedRequest] = deque(maxlen=KEPT_REQUESTS)
        self._request_counts: Counter[tuple[str, str]] = Counter()
        self._tasks: dict[str, Task] = {}
        self._credits: dict[str, int] = {}
        self._latency: dict[str, float] = {}
        self._turns: Counter[str] = Counter()
        self.idle_close = self.default_idle_close
        self._max_in_flight = Counter(self._in_flight)
        self._recent: dict[str, deque[float]] = {}
        self.credential_leaks = 0
        self.connections_opened = 0

    def reset(self) -> None:
        """Go back to the start and its settings: no charges, requests, tasks, links or faults any more."""
        with self._lock:
            self.faults.clear()
            self._forget()

    def close(self) -> None:
        """Delete the uploaded pictures."""
        self.uploads.close()

    # Money

    def charge(self, vendor: str, key: str, images: int, wish: dict[str, Any], task_id: str = "") -> Charge:
        """Bill ``images`` pictures; QuotaSpent when the account cannot pay."""
        charge = Charge(vendor, key[-4:], task_id, images, fingerprint(vendor, wish), time.time())
        with self._lock:
            if self.credits(vendor) < images:
                raise QuotaSpent(vendor)
            self._charges.append(charge)
            self._images[vendor] += images
        return charge

    def set_credits(self, vendor: str, images: int) -> None:
        """Leave the account with ``images`` pictures to buy."""
        with self._lock:
            self._credits[self._known(vendor)] = self._images[vendor] + images

    def credits(self, vendor: str) -> int:
        """Pictures the account can still buy (100,000 unless set)."""
        with self._lock:
            return self._credits.get(vendor, 100_000) - self._images[vendor]

    @property
    def charges(self) -> list[Charge]:
        with self._lock:
            return list(self._charges)

    def images_charged(self, vendor: str | None = None) -> int:
        """Pictures billed by one vendor, or by all."""
        with self._lock:
            return self._images[self._known(vendor)] if vendor else self._images.total()

    def bill(self) -> dict[str, int]:
        """Pictures billed by each vendor, whether it billed any or not."""
        with self._lock:
            return {vendor: self._images[vendor] for vendor in self.vendors}

    def _known(self, vendor: str) -> str:
        if vendor not in self.vendors:
            raise ValueError(f"unknown vendor {vendor!r}; there are: {', '.join(self.vendors)}")
        return vendor

    # Requests

    def record(self, request: RecordedRequest) -> None:
        with self._lock:
            self._requests.append(request)
            self._request_counts[request.vendor, request.kind] += 1
            if request.kind == "download" and _credentials(request.headers):
                self.credential_leaks += 1

    @property
    def requests(self) -> list[RecordedRequest]:
        """The last 20,000 requests, oldest first."""
        with self._lock:
            return list(self._requests)

    def request_count(self, vendor: str | None = None, kind: str | None = None) -> int:
        """How many requests came in, exact however many there were."""
        with self._lock:
            return sum(
                count
                for (at, what), count in self._request_counts.items()
                if vendor in (None, at) and kind in (None, what)
            )

    @contextmanager
    def in_flight(self, vendor: str) -> Iterator[None]:
        """Count a request while it runs."""
        keys = (vendor, "")
        with self._lock:
            for key in keys:
                self._in_flight[key] += 1
                self._max_in_flight[key] = max(self._max_in_flight[key], self._in_flight[key])
        try:
            yield
        finally:
            with self._lock:
                self._in_flight.subtract(keys)

    def max_in_flight(self, vendor: str | None = None) -> int:
        """The most requests that ever ran at once, with one vendor or with all."""
        with self._lock:
            return self._max_in_flight[self._known(vendor) if vendor else ""]

    def set_limit(self, vendor: str, limit: str) -> None:
        """Allow ``vendor``'s account so many requests: ``2/s`` or ``60/min``."""
        count, _, unit = limit.partition("/")
        if unit not in SECONDS or not count.isdigit():
            raise ValueError(f"limit {limit!r} of {vendor} is not like 2/s or 60/min")
        self._limits[self._known(vendor)] = (int(count), SECONDS[unit])

    def over_limit(self, vendor: str) -> bool:
        """Count a request; whether it is one too many for its sliding window."""
        if vendor not in self._limits:
            return False
        count, window = self._limits[vendor]
        now = time.monotonic()
        with self._lock:
            recent = self._recent.setdefault(vendor, deque())
            while recent and recent[0] <= now - window:
                recent.popleft()
            if len(recent) >= count:
                return True
            recent.append(now)
        return False

    def connection_opened(self) -> None:
        with self._lock:
            self.connections_opened += 1

    def set_idle_close(self, seconds: float | None) -> None:
        """Cut connections that are used again after ``seconds`` without a request (0: all that are); None: none."""
        self.idle_close = _seconds(seconds)

    # Work

    def latency(self, vendor: str) -> float:
        """Seconds ``vendor`` works on a picture."""
        with self._lock:
            return self._latency.get(vendor, self.default_latency)

    def set_latency(self, vendor: str, seconds: float) -> None:
        with self._lock:
            self._latency[self._known(vendor)] = seconds

    def new_seed(self) -> int:
        """A seed as a vendor makes one up: a positive 31-bit integer."""
        with self._lock:
            return self._random.randrange(1, 2**31)

    def next_number(self) -> int:
        """For a vendor that numbers its result files."""
        with self._lock:
            return next(self._numbers)

    def turn(self, what: str) -> int:
        """How often ``what`` has had its turn before: 0, 1, 2 ..."""
        with self._lock:
            self._turns[what] += 1
            return self._turns[what] - 1

    def add(self, task: Task) -> Task:
        if task.expires is None and self.vendors[task.vendor].signs_links:
            task.expires = task.ready_at + self.url_ttl
        with self._lock:
            self._tasks[task.id] = task
        return task

    def task(self, task_id: str) -> Task | None:
        with self._lock:
            return self._tasks.get(task_id)

    def forget_tasks(self) -> None:
        """Let the vendors deny every task accepted so far. Result links lie in another service and live on."""
        with self._lock:
            for task in self._tasks.values():
                task.forgotten = True

    # Links

    def sign(self, task: Task, path: str) -> dict[str, str]:
        """Query parameters of a signed link, as Alibaba OSS writes them."""
        expires = time.time() + self.url_ttl if self.resign else task.expires or 0
        stamp = str(int(expires))
        return {"Expires": stamp, "OSSAccessKeyId": "sandbox", "Signature": self._signature(path, stamp)}

    def link_is_valid(self, path: str, query: dict[str, str]) -> bool:
        """Whether a signed link is genuine and has not expired."""
        stamp = query.get("Expires", "")
        genuine = hmac.compare_digest(self._signature(path, stamp).encode(), query.get("Signature", "").encode())
        return genuine and stamp.isdigit() and int(stamp) > time.time()

    def _signature(self, path: str, stamp: str) -> str:
        return hmac.new(self._secret, f"{path}?{stamp}".encode(), "sha256").hexdigest()

    def expire_links(self) -> None:
        """Let every link given out so far die now, and those of finished tasks that nobody has asked for yet."""
        now = time.time()
        with self._lock:
            self._secret = uuid.uuid4().bytes
            for task in self._tasks.values():
                if task.ready_at <= now:
                    task.expires = min(task.expires or now, now)


def fingerprint(vendor: str, wish: dict[str, Any]) -> str:
    """sha256 over everything that decides what is painted."""
    return hashlib.sha256(json.dumps([vendor, wish], sort_keys=True).encode()).hexdigest()


def as_dict(item: Charge | RecordedRequest) -> dict[str, Any]:
    """A charge or a request as JSON shows it."""
    return asdict(item)


def _seconds(value: float | None) -> float | None:
    if value is not None and not (isinstance(value, int | float) and value >= 0):
        raise ValueError(f"an idle time is a number of seconds from 0 up, or None, not {value!r}")
    return value


def _credentials(headers: dict[str, str]) -> bool:
    return any(name in headers for name in ("authorization", "x-api-key", "cookie", "proxy-authorization"))
