"""What an answer means for the money. Pure: no I/O, no clock but the reader's of ``Retry-After``.

A hook first looks for pictures or a task ID: those are a success, whatever the words around them. An answer without
either is judged here, in this order:

1. the vendor's own table (:class:`Documented`): what its pages document, in its own envelope;
2. :data:`FREE`: what HTTP itself says about a request that was not worked on, whoever says it;
3. everything else after a paid request is in doubt: ``UnknownOutcomeError``. A 500, 502, 503 or 504 may come from a
   gateway that lost an answer which was made and charged.
"""

from __future__ import annotations

import json
import re
import time
from collections.abc import Callable, Collection, Iterable, Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from airflow_provider_bgai.exceptions import (
    AuthenticationError,
    BgaiError,
    ModerationError,
    PollError,
    QuotaError,
    RateLimitError,
    RefusedError,
    RetiredError,
    TaskNotFoundError,
    UnknownOutcomeError,
)
from airflow_provider_bgai.models import picture_type

# No vendor documents how it words a refusal, so these are told by the words all of them would use.
_MODERATION = re.compile(
    r"nsfw|moderat|content polic|safety (?:system|filter)|sensitive[ _](?:content|words?)|prohibited content", re.I
)
_RETIRED = re.compile(
    r"deprecated|discontinued|retired|sunset|no longer (?:available|supported|offered)"
    r"|(?:unknown|unsupported|invalid) model|model\b.{0,60}\b(?:not found|does not exist|not available)",
    re.I,
)

FREE: Mapping[int, type[BgaiError]] = {
    # A redirect is the answer of a wrong host. Not 303: "see other" is what a server may say of work it has done.
    **dict.fromkeys((301, 302, 307, 308), AuthenticationError),
    **dict.fromkeys((400, 405, 406, 411, 413, 414, 415, 422, 431), RefusedError),
    **dict.fromkeys((401, 403, 407), AuthenticationError),
    402: QuotaError,
    404: RetiredError,
    410: RetiredError,
    429: RateLimitError,
}
"""Statuses that mean "not worked on", by HTTP's own definition (RFC 9110, RFC 6585)."""


@dataclass(frozen=True, kw_only=True)
class Documented:
    """One row of a vendor's table: an answer that a page of its documentation names, and what it means.

    :param means: for the money; ``VendorFaultError`` only where that page says that it is not charged.
    :param page: where it is documented.
    :param envelope: tells the vendor's own error body from a gateway's.
    :param codes: the vendor's codes it holds for; empty: any.
    :param statuses: the HTTP statuses it holds for; empty: any.
    """

    means: type[BgaiError]
    page: str
    envelope: Callable[[Mapping[str, Any]], bool]
    codes: Collection[str] = ()
    statuses: Collection[int] = ()


@dataclass(frozen=True)
class Answer:
    """An HTTP answer read to its end. Header names in lower case."""

    status: int
    headers: Mapping[str, str]
    body: bytes

    @cached_property
    def json(self) -> Any:
        """The body as JSON, or None where it is none.

        What is no Unicode in it, as half an emoji where a message was cut off, is replaced: no record could hold it,
        and a record matters more than a message.
        """
        text = self.body.decode(json.detect_encoding(self.body), "replace")
        try:
            found = json.loads(text)
            if "\\u" in text:
                found = json.loads(json.dumps(found, ensure_ascii=False).encode("utf-8", "replace"))
        except (ValueError, RecursionError):
            return None
        return found

    @property
    def fields(self) -> Mapping[str, Any]:
        """The body as a JSON object; empty where it is none."""
        return self.json if isinstance(self.json, Mapping) else {}

    @property
    def is_picture(self) -> bool:
        """Whether the body starts like a picture."""
        return picture_type(self.body[:16]) is not None

    def excerpt(self) -> str:
        """The start of the body, longer than a message: a key in it is whole, or will be cut away with the rest."""
        return " ".join(self.body[:4096].decode("utf-8", "replace").split())


def meaning(status: int, body: Any, table: Iterable[Documented] = (), *, paid: bool) -> type[BgaiError]:
    """What an answer without pictures means.

    :param status: of HTTP, or of the vendor's envelope where that has one of its own.
    :param body: as JSON.
    :param table: what the vendor documents.
    :param paid: whether it answers a paid request. A free one can only be asked again, or its key is wrong.
    """
    code, message = read_error(body)
    means = _documented(status, code, body, table) or _by_status(status, message)
    if paid:
        return means or UnknownOutcomeError
    if status == 404:
        return TaskNotFoundError
    # A status says it of the task that was asked for, so only "who are you" and "too fast" are the connection's.
    return means if means in (AuthenticationError, RateLimitError) and status != 407 else PollError


def _documented(status: int, code: str | None, body: Any, table: Iterable[Documented]) -> type[BgaiError] | None:
    if not isinstance(body, Mapping):
        return None
    for row in table:
        right_code = not row.codes or code in row.codes
        right_status = not row.statuses or status in row.statuses
        if right_code and right_status and row.envelope(body):
            return row.means
    return None


def _by_status(status: int, message: str) -> type[BgaiError] | None:
    means = FREE.get(status)
    if means is RefusedError or status == 403:
        if _MODERATION.search(message):
            return ModerationError
        if _RETIRED.search(message):
            return RetiredError
    if status == 403 and "quota" in message.lower():
        return QuotaError
    return means


def read_error(body: Any) -> tuple[str | None, str]:
    """Code and message out of any of the vendors' error bodies; (None, "") where there is none.

    Looks at ``error.code``, ``code``; ``error.message``, ``error.detail``, ``message``, ``detail``, ``error`` as
    text, ``msg``.
    """
    if not isinstance(body, Mapping):
        return None, ""
    inner = body.get("error")
    nested = inner if isinstance(inner, Mapping) else {}
    code = nested.get("code", body.get("code"))
    candidates = [nested.get("message"), nested.get("detail"), body.get("message"), body.get("detail")]
    candidates += [inner if isinstance(inner, str) else None, body.get("msg")]
    message = next((str(text) for text in candidates if text), "")
    return (None if code is None else str(code)), message


def retry_after(value: str | None, date: str | None = None) -> float | None:
    """Seconds of a Retry-After header, which is a number of seconds or an HTTP date; None for neither.

    :param date: the same answer's Date header: the clock that a date was read off, which may not be this machine's.
    """
    if not value:
        return None
    if re.fullmatch(r"\d+(\.\d+)?", value.strip(), re.ASCII):
        return float(value)
    if (then := _epoch(value)) is None:
        return None
    now = _epoch(date or "")
    return max(0.0, then - (time.time() if now is None else now))


def _epoch(date: str) -> float | None:
    """Epoch seconds of an HTTP date; None if it is none."""
    from email.utils import parsedate_to_datetime

    try:
        return parsedate_to_datetime(date).timestamp()
    except (ValueError, OverflowError):
        return None
