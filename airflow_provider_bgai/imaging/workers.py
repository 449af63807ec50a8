"""Where pixels are worked on: in a few threads, and what is dear in processes beside this one, too.

Python runs one thread at a time. Decoding and encoding let others run meanwhile, comparing does for half of its time;
so while one picture is compared in a thread, the next goes to another process, which is started for it. Files go there
and not pixels, which are many times as large. Such a process is an interpreter of its own, which imports nothing but
what the work needs, and ends with its input: however this process ends, no other one is left.
"""

from __future__ import annotations

import asyncio
import atexit
import io
import logging
import os
import pickle
import subprocess
import sys
import threading
import traceback
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from typing import IO, Any, TypeVar

log = logging.getLogger(__name__)

Value = TypeVar("Value")

_CORES = os.cpu_count() or 1
PIXELS = ThreadPoolExecutor(min(4, _CORES), "bgai-pixels")
"""Where pictures are decoded and encoded: more at once would only take memory."""
BESIDE = ThreadPoolExecutor(min(3, max(1, _CORES - 1)), "bgai-beside")
"""A thread for each process beside this one, which takes some 100 MB."""

_here = threading.Lock()
"""Held while something dear is worked on in this process."""
_mine = threading.local()
"""``process``: of this thread."""
_COMMAND = (
    "import pickle, signal, sys; signal.signal(signal.SIGINT, signal.SIG_IGN); "
    f"sys.path[:] = pickle.load(sys.stdin.buffer); from {__name__} import serve; serve()"
)


class WorkerDiedError(RuntimeError):
    """Two processes in a row have died of the same work: a decoder crashed, or there was no memory."""


async def on_a_core(work: Callable[..., Value], file: IO[bytes], *args: Any) -> Value:
    """What a function makes of a file, here or in a process beside this one.

    :param work: a function of a module, whose name tells the other process what it is; takes the file and ``args``.
    :raises WorkerDiedError: if it cannot be worked on.
    """
    loop = asyncio.get_running_loop()
    if not _here.acquire(blocking=False):
        return await loop.run_in_executor(BESIDE, _beside, work, file, args)
    try:
        return await loop.run_in_executor(PIXELS, work, file, *args)
    finally:
        _here.release()


def _beside(work: Callable[..., Value], file: IO[bytes], args: tuple[Any, ...]) -> Value:
    file.seek(0)
    task = work, file.read(), args
    for _ in range(2):
        process = getattr(_mine, "process", None) or _start()
        if process is None:
            return work(file, *args)
        _mine.process = process
        try:
            pickle.dump(task, process.stdin, pickle.HIGHEST_PROTOCOL)
            process.stdin.flush()
            value, error = pickle.load(process.stdout)
        except (OSError, EOFError, pickle.UnpicklingError):
            del _mine.process
            process.kill()
            log.warning("A process that worked on a picture has died (%s)", process.wait())
            continue
        if error is not None:
            raise error
        return value
    raise WorkerDiedError("who looked at it has died of it, twice")


def _start() -> Any:
    """A process at work; None where there can be none, as within a limit on their number."""
    try:
        process = subprocess.Popen([sys.executable, "-c", _COMMAND], stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    except OSError as error:
        log.warning("Pictures are looked at in this process, another one cannot be started: %s", error)
        return None
    atexit.register(_end, process)
    assert process.stdin is not None
    with suppress(OSError):  # it has died already, as its first task will find out
        pickle.dump(sys.path, process.stdin)
    return process


def _end(process: subprocess.Popen[bytes]) -> None:
    for pipe in (process.stdin, process.stdout):
        assert pipe is not None
        with suppress(OSError):
            pipe.close()
    process.wait()


def serve() -> None:
    """Work on what comes in until nothing can come any more: the life of a process beside."""
    tasks = sys.stdin.buffer
    answers = os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)  # whatever prints must not print into an answer
    while True:
        try:
            work, data, args = pickle.load(tasks)
        except EOFError:
            return
        answer: tuple[Any, Exception | None]
        try:
            answer = work(io.BytesIO(data), *args), None
        except Exception as error:  # noqa: BLE001 - it is raised where the work was asked for
            error.add_note(traceback.format_exc())
            answer = None, error
        pickle.dump(answer, answers, pickle.HIGHEST_PROTOCOL)
        answers.flush()
