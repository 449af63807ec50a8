"""Real code, let go one request at a time.

A process is a thread that stops before every request to S3, every sending and every sleep, until a test lets it go on,
fails the request, or kills it. So a test plays any order of what several processes do, and plays it again.
"""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable
from contextvars import ContextVar
from typing import TYPE_CHECKING, Any

from airflow_provider_bgai.storage import Storage
from tests.buying.support import Killed, s3_fails

if TYPE_CHECKING:
    from tests.buying.world import World

S3_TROUBLE = ("refused", "answer lost", "killed before", "killed after")
"""What a request may be ordered to meet, instead of "go"."""

PROCESS: ContextVar[Process] = ContextVar("PROCESS")
sleep = asyncio.sleep


class BrokenPromise(BaseException):
    """What must not happen has happened. No `except Exception` of the code under test hides it."""


def must(be: bool, words: str) -> None:
    if not be:
        raise BrokenPromise(words)


class Process:
    """A process, stopped at ``at`` (None: it has ended) until it is told to go on.

    :ivar call_id: of the call it took leave for last.
    :ivar answers: the calls whose answers it was given.
    """

    def __init__(self, world: World, wish: str | None, live: Callable[[Process], Any]) -> None:
        self.world, self.wish = world, wish
        self.storage = Gated(world.s3, self)
        self.at: str | None = None
        self.call_id = ""
        self.answers: list[str] = []
        self.dead = False
        self.error: BaseException | None = None
        self._order = ""
        self._go, self._stopped = threading.Semaphore(0), threading.Semaphore(0)
        self._thread = threading.Thread(target=self._run, args=(live,), daemon=True)
        self._thread.start()
        self._wait()

    def _run(self, live: Callable[[Process], Any]) -> None:
        PROCESS.set(self)
        try:
            live(self)
        except BaseException as error:  # noqa: BLE001  the world judges it
            self.error = error
        self.at = None
        self._stopped.release()

    def _wait(self) -> None:
        assert self._stopped.acquire(timeout=60), f"stuck at {self.at}"

    def stop(self, at: str) -> str:
        """Called by the process: wait for what is ordered."""
        if self.dead:
            raise Killed
        self.at = at
        self._stopped.release()
        self._go.acquire()
        if self._order == "killed before":
            self.die()
        return self._order

    def die(self) -> None:
        self.dead = True
        raise Killed

    def go(self, order: str) -> None:
        """Called by the test: let it go on to where it stops next."""
        self._order = order
        self._go.release()
        self._wait()

    def kill(self) -> None:
        if self.at is not None:
            self.go("killed before")
        self._thread.join(60)


class Gated(Storage):
    """An S3 as one process sees it: it stops before each request."""

    def __init__(self, s3: Storage, process: Process) -> None:
        super().__init__(None)
        self.s3, self.process = s3, process

    def now(self) -> float:
        return self.process.world.clock

    def _request(self, name: str, *args: Any, **more: Any) -> Any:
        order = self.process.stop(name)
        if order == "refused":
            s3_fails()
        done = getattr(self.s3, name)(*args, **more)
        if name == "list":
            done = iter(list(done))
        if name in ("create", "replace") and done is not None:
            self.process.world.written(self.process, args[0], args[1])
        if order == "answer lost":
            s3_fails()
        if order == "killed after":
            self.process.die()
        return done


def _gate(name: str) -> Callable[..., Any]:
    return lambda self, *args, **more: self._request(name, *args, **more)


for _name in ("read_versioned", "download", "head", "list", "put", "create", "replace", "delete", "delete_all"):
    setattr(Gated, _name, _gate(_name))


class OneByOne:
    """Threads, without any: a process does one thing at a time."""

    map = staticmethod(map)

    def __init__(self, *_: object) -> None: ...

    def __enter__(self) -> OneByOne:
        return self

    def __exit__(self, *_: object) -> None: ...


class Hurry:
    """A clock of its own for tenacity: what is insisted on is tried twice."""

    time = 0.0

    def monotonic(self) -> float:
        return self.time

    def sleep(self, seconds: float) -> None:
        self.time += 1000


async def sleep_at_the_gate(seconds: float) -> None:
    """``asyncio.sleep``, of whoever calls it: what is no process of the world (a server's loop) sleeps as ever."""
    process = PROCESS.get(None)
    await (asyncio.to_thread(process.stop, "sleep") if process and seconds else sleep(seconds))
