"""What each fault looks like on the wire: the answer instead of the right one, or the right one spoiled.

Which faults there are and when they strike is in ``faults``; those that change what a vendor makes (states,
numbers of pictures, words) are in that vendor's own file.
"""

from __future__ import annotations

import asyncio
import math
import time
from collections.abc import AsyncIterator
from dataclasses import dataclass
from email.utils import formatdate
from http import HTTPStatus

from starlette.responses import Response, StreamingResponse
from starlette.types import Message, Receive, Scope, Send

from airflow_provider_bgai.sandbox import paint
from airflow_provider_bgai.sandbox.faults import Fault
from airflow_provider_bgai.sandbox.vendor import Call, store_refusal

MAINTENANCE = "<!doctype html><html><body><h1>We will be back soon</h1></body></html>"
REFUSALS = {"server_error", "unavailable", "quota_spent", "bad_key", "moderation"}
STATUS = {"server_error": 500, "bad_gateway": 502, "unavailable": 503}


@dataclass(slots=True)
class Line:
    """One TCP connection of a client.

    :param idle_since: when its last answer was complete, on the monotonic clock (s); None before the first.
    """

    transport: asyncio.Transport
    idle_since: float | None = None

    @property
    def idle(self) -> float:
        """Seconds since the last answer; below 0 on a fresh connection."""
        return -1 if self.idle_since is None else time.monotonic() - self.idle_since


class CutLine(Response):
    """Closes the TCP connection: at once, or after the headers and half of ``answer``'s body."""

    def __init__(self, answer: Response | None = None) -> None:
        super().__init__()
        self.answer = answer

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        line: Line = scope["state"]["line"]
        if self.answer is None:
            line.transport.abort()
        else:
            await send(
                {
                    "type": "http.response.start",
                    "status": self.answer.status_code,
                    "headers": self.answer.raw_headers,
                }
            )
            body = bytes(self.answer.body)
            await send({"type": "http.response.body", "body": body[: len(body) // 2], "more_body": True})
            line.transport.close()
        await _gone(receive)


class Hang(Response):
    """Never answers; ends when the client leaves."""

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        await _gone(receive)


async def _gone(receive: Receive) -> None:
    """Wait until the connection is closed, so that uvicorn has nobody to send its own 500 to."""
    message: Message = {}
    while message.get("type") != "http.disconnect":
        message = await receive()


def instead(call: Call, fault: Fault) -> Response | None:
    """The answer of a fault that strikes before any work; None if this one strikes later."""
    if fault.name.startswith("rate_limited"):
        response = _refusal(call, "rate_limited")
        if fault.name == "rate_limited_retry_after":
            response.headers["retry-after"] = str(math.ceil(fault.retry_after))
        elif fault.name == "rate_limited_retry_after_date":
            response.headers["retry-after"] = formatdate(time.time() + fault.retry_after, usegmt=True)
        return response
    if fault.name in REFUSALS:
        return _refusal(call, fault.name)
    if fault.name == "bad_gateway":
        return _gateway_page(fault.name)
    if fault.name == "html_200":
        return Response(MAINTENANCE, media_type="text/html")
    if fault.name == "drop_before_charge":
        return CutLine()
    return Hang() if fault.name == "hang" else None


async def spoiled(call: Call, response: Response, fault: Fault) -> Response:
    """The vendor's answer after a fault that strikes once the work is done."""
    problem, after, page = fault.name.partition("_after_charge")
    if after and problem in STATUS:
        return _gateway_page(problem) if page else _refusal(call, problem)
    if fault.name == "slow":
        await asyncio.sleep(fault.delay)
        return response
    if fault.name == "drop_mid_body":
        return CutLine(response)
    if fault.name == "drop_after_charge":
        return CutLine()
    if fault.name == "hang_after_charge":
        return Hang()
    if fault.name == "html_200_after_charge":
        return Response(MAINTENANCE, media_type="text/html")
    return _spoiled_picture(response, fault) if response.status_code == 200 else response


def _refusal(call: Call, problem: str) -> Response:
    """Result links belong to an object store, which speaks XML."""
    return store_refusal(problem) if call.kind == "download" else call.vendor.refusal(problem)


def _gateway_page(problem: str) -> Response:
    """What a proxy in front of the vendor says by itself."""
    status = HTTPStatus(STATUS[problem])
    title = f"{status.value} {status.phrase}"
    page = f"<html><head><title>{title}</title></head><body><h1>{title}</h1></body></html>"
    return Response(page, status_code=status, media_type="text/html")


def _spoiled_picture(response: Response, fault: Fault) -> Response:
    if fault.name == "truncated_image":
        body = bytes(response.body)
        return Response(body[: len(body) // 2], media_type=response.media_type)
    if fault.name == "huge_image":
        return StreamingResponse(_flood(fault.size), media_type="image/png")
    if fault.name == "bomb_image":
        return Response(paint.bomb(), media_type="image/png")
    if fault.name == "redrawn_product":
        return Response(paint.redrawn(bytes(response.body)), media_type="image/png")
    if fault.name == "blank_image":
        return Response(paint.blank(bytes(response.body)), media_type="image/png")
    if fault.name == "wrong_content_type":
        return Response(response.body, media_type="text/plain")
    return response


async def _flood(size: int) -> AsyncIterator[bytes]:
    """``size`` bytes that begin like a PNG."""
    block = bytes(64 * 1024)
    yield b"\x89PNG\r\n\x1a\n"
    for _ in range(size // len(block)):
        yield block
