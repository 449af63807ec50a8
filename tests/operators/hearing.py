"""What the tasks of a DAG run in this process say in their logs, as a person reads it, the same in every run."""

from __future__ import annotations

import logging
import re
import sys
from collections.abc import Iterator, MutableMapping
from contextlib import contextmanager
from typing import Any

PACKAGE = "airflow_provider_bgai"
AIRFLOWS = {"Success criteria met. Exiting."}
"""What Airflow's base classes say by our operators' loggers."""

_BEGINS = re.compile(r"\[DAG TEST\] starting task_id=(\S+) map_index=(\S+)")

# What differs each time, and what stands for it.
_STAND_INS = (
    (r"manual__\d{4}-\d\d-\d\dT[\w.:=+-]*\d", "manual__RUN"),
    (r"127\.0\.0\.1:\d+", "127.0.0.1:PORT"),
    (r"\b[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}\b", "TASK"),
    (r"\b[0-9a-f]{64}\b", "FINGERPRINT"),
    (r"\b[0-9a-f]{32}\b", "CALL"),
    (r"\b[0-9a-f]{16,63}\b", "HASH"),
    (r"\b\d+(\.\d+)?(?= s\b| kB\b| h more\b)", "N"),
    # How far a picture is from the product depends on who decodes it.
    (r"(PSNR is |differ by |turned by .)\d+\.\d+", r"\1N"),
    (r"\d+\.\d+(?=% of the product)", "N"),
)


class Hearing(logging.Handler):
    """Hears what goes through Python's logging, and, in Airflow 3, through structlog.

    :ivar tasks: the lines of each task, by its ID and map index, in the order in which they began.
    """

    def __init__(self) -> None:
        super().__init__(logging.INFO)
        self.tasks: dict[tuple[str, int], list[str]] = {}
        self._lines: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        """From Python's logging."""
        error = record.exc_info[1] if record.exc_info else None
        self._hear(record.levelname, record.name, record.getMessage(), error)

    def __call__(self, logger: Any, method: str, event: MutableMapping[str, Any]) -> MutableMapping[str, Any]:
        """From structlog, as the first of its processors."""
        text = str(event["event"])
        if arguments := event.get("positional_args"):
            text %= arguments
        known = event.get("exc_info")
        error = known if isinstance(known, BaseException) else sys.exc_info()[1] if known else None
        level = "ERROR" if method == "exception" else method.upper()
        self._hear(level, getattr(logger, "name", None) or "", text, error)
        return event

    def _hear(self, level: str, name: str, text: str, error: BaseException | None) -> None:
        if begins := _BEGINS.match(text):
            place = (begins[1], int(begins[2]))
            self._lines = self.tasks.setdefault(place, [])
        elif text == "Task failed with exception":
            # Airflow's frames between the two are its own business.
            self._say(level, f"{text}\n{type(error).__name__}: {error}")
        elif PACKAGE in name and text not in AIRFLOWS:
            assert error is None, f"a stack trace in the middle of a log: {text}: {error!r}"
            self._say(level, text)

    def _say(self, level: str, text: str) -> None:
        for pattern, stand_in in _STAND_INS:
            text = re.sub(pattern, stand_in, text)
        self._lines += f"{level:<7} {text}".splitlines()


@contextmanager
def hearing() -> Iterator[Hearing]:
    """Hear all DAG runs meanwhile."""
    heard = Hearing()
    loggers = [logging.getLogger(name) for name in (PACKAGE, "airflow")]
    levels = [logger.level for logger in loggers]
    try:
        import structlog

        processors = structlog.get_config()["processors"]
    except ImportError:
        processors = []
    for logger in loggers:
        logger.addHandler(heard)
        logger.setLevel(logging.INFO)
    processors.insert(0, heard)
    try:
        yield heard
    finally:
        processors.remove(heard)
        for logger, level in zip(loggers, levels, strict=True):
            logger.removeHandler(heard)
            logger.setLevel(level)
