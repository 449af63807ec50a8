"""Work beside this process: done once for each file, whatever becomes of the process that does it."""

from __future__ import annotations

import asyncio
import io
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import IO, Any

import psutil
import pytest

from airflow_provider_bgai.imaging import workers
from airflow_provider_bgai.imaging.inspect import Inspection, inspect
from airflow_provider_bgai.imaging.opening import NotAPictureError
from airflow_provider_bgai.imaging.workers import WorkerDiedError, on_a_core

from .cutouts import product, scene


def work(file: IO[bytes], here: int, then: Callable[..., object] | None = None, *args: Any) -> tuple[int, bytes]:
    """Who reads it, and what; beside, it does something before."""
    sys.stdout.write("which is no answer\n")
    sys.stdout.flush()
    time.sleep(0.3)
    if then is not None and os.getpid() != here:
        then(*args)
    return os.getpid(), file.read()


def dies(once: str | None = None) -> None:
    """The process ends; ``once``: if this file is not there yet."""
    if once is None or not Path(once).exists():
        if once is not None:
            Path(once).touch()
        os.kill(os.getpid(), signal.SIGKILL)


def both(*args: Any) -> list[Any]:
    """The same here and beside."""

    async def run() -> list[Any]:
        files = io.BytesIO(b"a file"), io.BytesIO(b"a file")
        files[1].read()  # whoever wrote it has left it at its end
        tasks = (on_a_core(work, file, os.getpid(), *args) for file in files)
        return await asyncio.gather(*tasks, return_exceptions=True)

    return asyncio.run(run())


def test_what_is_not_alone_is_done_beside() -> None:
    (here, _), (beside, read) = both()
    assert here == os.getpid() != beside
    assert read == b"a file"
    assert both()[1][0] == beside, "it goes on"


def test_alone_no_process_is_started(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(workers, "BESIDE", None)
    for _ in range(2):
        assert asyncio.run(on_a_core(work, io.BytesIO(b"a file"), 0))[0] == os.getpid()


def test_it_is_done_by_another_process_if_one_dies(tmp_path: Path) -> None:
    assert both(dies, str(tmp_path / "died"))[1][1] == b"a file"
    assert (tmp_path / "died").exists()


def test_what_kills_two_processes_is_an_error_and_the_next_is_done() -> None:
    here, beside = both(dies)
    assert here[0] == os.getpid()
    assert isinstance(beside, WorkerDiedError)
    assert both()[1][1] == b"a file"


def test_where_no_process_can_be_started_it_is_done_here(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    assert isinstance(both(dies)[1], WorkerDiedError)  # so none is left
    monkeypatch.setattr(sys, "executable", "/nowhere/python")
    assert [pid for pid, _ in both()] == [os.getpid()] * 2
    assert "another one cannot be started" in caplog.text


def test_pictures_are_seen_alike_and_errors_come_back() -> None:
    cutout, files = io.BytesIO(), []
    source = product()
    source.save(cutout, "PNG")
    for _ in range(2):
        files.append(io.BytesIO())
        scene(source).save(files[-1], "PNG")
    broken = io.BytesIO(b"no picture")

    async def run() -> list[Any]:
        alike = cutout.getvalue(), Inspection(), None
        tasks = (on_a_core(inspect, file, *alike) for file in (*files, broken))
        return await asyncio.gather(*tasks, return_exceptions=True)

    here, beside, error = asyncio.run(run())
    assert here == beside
    assert here.verdict.faithful
    assert isinstance(error, NotAPictureError)
    assert "in inspect" in error.__notes__[0], "it tells where it happened"


def test_no_process_outlives_the_one_it_worked_for() -> None:
    code = (
        "import os, signal, sys; from tests.imaging.test_workers import both; "
        "print(both()[1][0], flush=True); os.kill(os.getpid(), getattr(signal, sys.argv[1])) if sys.argv[1:] else None"
    )
    for way in ([], ["SIGKILL"], ["SIGTERM"]):
        ran = subprocess.run([sys.executable, "-c", code, *way], capture_output=True, text=True, check=False)
        beside = int(ran.stdout.split()[-1])
        psutil.wait_procs([psutil.Process(beside)] if psutil.pid_exists(beside) else [], timeout=30)
        assert not psutil.pid_exists(beside), way
        assert not re.search("Warning|Traceback", ran.stderr)
