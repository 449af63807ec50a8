"""One part of the cluster: a command that is started, killed with all it has started, and started again."""

from __future__ import annotations

import signal
import subprocess
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path

import psutil

from demo.services import ServiceError, running, session_of, tail

TEND_EVERY = 1.0  # s
MOST_ENDS = 20
"""A part that has ended so often by itself never will run."""


@dataclass
class Component:
    """One part, down until it is started.

    :param answers: whether it has answered, or reported itself, since that moment (epoch seconds).
    :param user: who runs it; None: who runs this.
    :param grace: seconds it gets to stop in the end.
    :ivar ends: when it ended without having been killed: epoch seconds.
    """

    name: str
    command: Sequence[str]
    log: Path
    answers: Callable[[float], bool]
    env: Mapping[str, str] = field(default_factory=dict, repr=False)
    user: str | None = None
    grace: float = 10
    ends: list[float] = field(default_factory=list)

    def __post_init__(self) -> None:
        self._lock = threading.Lock()
        self._up = ExitStack()
        self._process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        """Start it."""
        with self._lock:
            self._start()

    def _start(self) -> None:
        command = running(self.command, self.log, env=self.env, cwd=self.log.parent, grace=self.grace, user=self.user)
        self._process = self._up.enter_context(command)

    def kill(self) -> set[int]:
        """SIGKILL, to it and to everything it has started; the IDs of these processes. It stays down."""
        with self._lock:
            process, self._process = self._process, None
            assert process is not None
            killed: set[int] = set()
            while found := self._processes(process.pid):
                for each in found:
                    _send_kill(each)
                killed |= {each.pid for each in found}
                psutil.wait_procs(found, timeout=5)
            self._up.close()
            return killed

    def pids(self) -> set[int]:
        """The process, and all it has started."""
        with self._lock:
            return set() if self._process is None else {each.pid for each in self._processes(self._process.pid)}

    def stop(self) -> None:
        """Ask it to stop, and see to it that nothing it has started is left."""
        with self._lock:
            process, self._process = self._process, None
            left = [] if process is None else self._processes(process.pid)
            self._up.close()
            for each in psutil.wait_procs(left, timeout=1)[1]:
                _send_kill(each)

    def tend(self) -> None:
        """Start it again if it has ended by itself, as a process manager does.

        :raises ServiceError: if it did so too often.
        """
        with self._lock:
            if self._process is None or self._process.poll() is None:
                return
            self.ends.append(time.time())
            if len(self.ends) > MOST_ENDS:
                raise ServiceError(f"{self.name} ends again and again:\n{tail(self.log)}")
            self._up.close()
            self._start()

    def _processes(self, leader: int) -> list[psutil.Process]:
        """Its session and its descendants: PostgreSQL makes a session of its own for each of its processes."""
        found = {each.pid: each for each in session_of(leader)}
        with suppress(psutil.NoSuchProcess):
            found |= {each.pid: each for each in psutil.Process(leader).children(recursive=True)}
        return list(found.values())


def _send_kill(process: psutil.Process) -> None:
    with suppress(psutil.NoSuchProcess):
        process.send_signal(signal.SIGKILL)


@contextmanager
def tended(components: Sequence[Component]) -> Iterator[list[str]]:
    """Tend them as long as this lasts, then stop them side by side. Yields what went wrong meanwhile."""
    over, problems = threading.Event(), list[str]()

    def tend() -> None:
        while not over.wait(TEND_EVERY):
            for component in components:
                try:
                    component.tend()
                except ServiceError as error:
                    problems.append(str(error))
                    return

    thread = threading.Thread(target=tend, daemon=True)
    thread.start()
    try:
        yield problems
    finally:
        over.set()
        thread.join()
        with ThreadPoolExecutor(len(components)) as stopping:
            list(stopping.map(Component.stop, components))
