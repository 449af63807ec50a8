"""The server: all vendors behind one base URL, faults around them, and a small API to look and steer.

``Sandbox`` runs it in a thread of this process. In another process (``bgai-sandbox``) the same is reached
over HTTP under ``/_sandbox/``.
"""

from __future__ import annotations

import asyncio
import contextlib
import socket
import threading
import time
from collections.abc import AsyncIterator, Callable
from typing import Any, Self

import httpx
import uvicorn
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route
from uvicorn.protocols.http.h11_impl import H11Protocol

from airflow_provider_bgai.sandbox.accidents import CutLine, Line, instead, spoiled
from airflow_provider_bgai.sandbox.faults import KINDS, Fault
from airflow_provider_bgai.sandbox.registry import load_vendors
from airflow_provider_bgai.sandbox.state import Charge, RecordedRequest, State, as_dict
from airflow_provider_bgai.sandbox.vendor import (
    FETCH_TIMEOUT,
    Call,
    Endpoint,
    Refused,
    Vendor,
    read_form,
    read_json,
)


class _Protocol(H11Protocol):
    """HTTP/1.1 that counts its connections and lets a response reach its own, to cut it."""

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        self.line = Line(transport)
        self.app_state = {**self.app_state, "line": self.line}
        self.config.app.state.sandbox.connection_opened()  # type: ignore[union-attr]

    def on_response_complete(self) -> None:
        self.line.idle_since = time.monotonic()
        super().on_response_complete()


def create_app(state: State) -> Starlette:
    """The sandbox as an ASGI application. The faults that cut a line need ``Sandbox`` to serve it."""

    @contextlib.asynccontextmanager
    async def lifespan(app: Starlette) -> AsyncIterator[None]:
        async with httpx.AsyncClient(timeout=FETCH_TIMEOUT, follow_redirects=True, trust_env=False) as client:
            app.state.client = client
            yield

    routes = [
        Route(endpoint.path, _route(vendor, endpoint), methods=[endpoint.method])
        for vendor in state.vendors.values()
        for endpoint in vendor.endpoints()
    ]
    app = Starlette(routes=routes + _steering(state), lifespan=lifespan)
    app.router.redirect_slashes = False  # a vendor does not correct a wrong path either
    app.state.sandbox = state
    return app


def _route(vendor: Vendor, endpoint: Endpoint) -> Callable[[Request], Any]:
    async def answer(request: Request) -> Response:
        state: State = request.app.state.sandbox
        with state.in_flight(vendor.name):
            call = Call(vendor, endpoint.kind, request, state, vendor.read_key(request))
            closed = state.idle_close is not None and request.state.line.idle >= state.idle_close
            await read_form(call)
            await read_json(call)
            if closed:
                _record(call, "idle_close")
                return CutLine()
            limited = endpoint.kind != "download" and state.over_limit(vendor.name)
            call.fault = None if limited else state.faults.draw(vendor.name, endpoint.kind)
            if limited:
                _record(call, "limit")
                return vendor.refusal("rate_limited")
            _record(call, call.fault.name if call.fault else None)
            if call.fault and (early := instead(call, call.fault)):
                return early
            try:
                response = await endpoint.handler(call)
            except Refused as refused:
                return refused.response
            return await spoiled(call, response, call.fault) if call.fault else response

    return answer


def _record(call: Call, fault: str | None) -> None:
    request = call.request
    files = {
        name: {"filename": each.filename, "content_type": each.content_type, "size": len(each.content)}
        for name, each in call.files.items()
    }
    call.state.record(
        RecordedRequest(
            vendor=call.vendor.name,
            kind=call.kind,
            method=request.method,
            path=request.url.path,
            query=call.query,
            headers=dict(request.headers),
            fields=dict(call.fields),
            files=files,
            fault=fault,
            at=time.time(),
        )
    )


def _steering(state: State) -> list[Route]:
    """``/_sandbox/...``: what ``Sandbox`` offers in Python, over HTTP."""

    async def charges(_: Request) -> Response:
        counts = state.bill()
        body = {
            "images": counts | {"total": sum(counts.values())},
            "credential_leaks": state.credential_leaks,
            "charges": [as_dict(charge) for charge in state.charges],
        }
        return JSONResponse(body)

    async def bill(_: Request) -> Response:
        return JSONResponse(state.bill())

    async def requests(_: Request) -> Response:
        body = {
            "count": state.request_count(),
            "kinds": {kind: state.request_count(kind=kind) for kind in KINDS},
            "connections_opened": state.connections_opened,
            "max_in_flight": state.max_in_flight(),
            "requests": [as_dict(each) for each in state.requests],
        }
        return JSONResponse(body)

    def order(act: Callable[[dict[str, Any]], None]) -> Callable[[Request], Any]:
        async def answer(request: Request) -> Response:
            try:
                act(await request.json() if await request.body() else {})
            except (KeyError, TypeError, ValueError) as error:
                return JSONResponse({"error": str(error)}, status_code=400)
            return JSONResponse({"ok": True})

        return answer

    def fault(body: dict[str, Any]) -> None:
        if "rate" in body:
            state.faults.set_rate(body.pop("name"), body.pop("rate"), **body)
        else:
            queue_fault(state, **body)

    orders: dict[str, Callable[[dict[str, Any]], None]] = {
        "faults": fault,
        "latency": lambda body: state.set_latency(body["vendor"], float(body["seconds"])),
        "credits": lambda body: state.set_credits(body["vendor"], int(body["images"])),
        "expire": lambda _: state.expire_links(),
        "forget": lambda _: state.forget_tasks(),
        "idle_close": lambda body: state.set_idle_close(body["seconds"]),
        "reset": lambda _: state.reset(),
    }
    return [
        Route("/_sandbox/bill", bill),
        Route("/_sandbox/charges", charges),
        Route("/_sandbox/requests", requests),
        *(Route(f"/_sandbox/{name}", order(act), methods=["POST"]) for name, act in orders.items()),
    ]


def queue_fault(state: State, vendor: str, name: str, *, times: int = 1, on: str | None = None, **details: Any) -> None:
    """Queue a one-shot fault; ``details`` are those of ``Fault``."""
    state.faults.queue(vendor, Fault(name, **details), times=times, on=on)


class Sandbox:
    """All vendors that have a row, on a port of this machine, for as long as the context lasts.

    :param latency: seconds a vendor works on a picture.
    :param url_ttl: seconds a signed result link lives (documented: 3600).
    :param seed: feeds the fault dice and the pictures.
    :param faults: rates by fault, ``{"rate_limited": 0.05, "<vendor>.drop_after_charge@submit": 0.01}``.
    :param resign: whether polling a finished task again gives a fresh link; no vendor documents that it does.
    :param limits: requests an account may send before it gets 429, downloads aside: ``{"<vendor>": "2/s"}`` or
        ``"60/min"``; the default is no limit.
    :param idle_close: a request on a connection that has been idle for this many seconds since its last answer
        finds the line closed: no answer, no work, no charge. 0: on every connection that is used again.
    :param host: address to listen on.
    :param port: 0 takes a free one.
    """

    def __init__(
        self,
        *,
        latency: float = 0.2,
        url_ttl: float = 3600,
        seed: int = 0,
        faults: dict[str, float] | None = None,
        resign: bool = False,
        limits: dict[str, str] | None = None,
        idle_close: float | None = None,
        host: str = "127.0.0.1",
        port: int = 0,
    ) -> None:
        self._state = State(
            load_vendors(), latency=latency, url_ttl=url_ttl, seed=seed, resign=resign, idle_close=idle_close
        )
        for name, rate in (faults or {}).items():
            self._state.faults.set_rate(name, rate)
        for vendor, limit in (limits or {}).items():
            self._state.set_limit(vendor, limit)
        self._address = (host, port)
        self._server: uvicorn.Server | None = None
        self._thread: threading.Thread | None = None
        self.url = ""

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(self, *exc: object) -> None:
        self.stop()

    def start(self) -> None:
        """Listen, and return once requests are answered."""
        listener = socket.create_server(self._address, backlog=1024)
        host, port = listener.getsockname()[:2]
        self.url = f"http://{host}:{port}"
        config = uvicorn.Config(
            create_app(self._state), http=_Protocol, ws="none", loop="asyncio", log_level="critical"
        )
        self._server = uvicorn.Server(config)
        self._thread = threading.Thread(target=self._server.run, args=([listener],), name="bgai-sandbox", daemon=True)
        self._thread.start()
        while not self._server.started:
            if not self._thread.is_alive():
                raise RuntimeError("the sandbox did not start")
            time.sleep(0.005)

    def stop(self) -> None:
        """Close the port; a request that still runs is answered 500."""
        if self._server and self._thread:
            self._server.should_exit = self._server.force_exit = True
            self._thread.join(timeout=10)
        self._state.close()

    @property
    def vendors(self) -> tuple[str, ...]:
        """Who sells here."""
        return tuple(self._state.vendors)

    def connection(self, vendor: str) -> dict[str, Any]:
        """An Airflow connection (its JSON form, as a dict) to ``vendor`` in this sandbox."""
        return self._state.vendors[vendor].connection(self.url)

    @property
    def charges(self) -> list[Charge]:
        return self._state.charges

    def images_charged(self, vendor: str | None = None) -> int:
        return self._state.images_charged(vendor)

    def bill(self) -> dict[str, int]:
        """Pictures charged by each vendor."""
        return self._state.bill()

    @property
    def requests(self) -> list[RecordedRequest]:
        return self._state.requests

    def request_count(self, vendor: str | None = None, kind: str | None = None) -> int:
        return self._state.request_count(vendor, kind)

    @property
    def credential_leaks(self) -> int:
        """Requests to result links that carried a key or a cookie."""
        return self._state.credential_leaks

    @property
    def connections_opened(self) -> int:
        return self._state.connections_opened

    def max_in_flight(self, vendor: str | None = None) -> int:
        return self._state.max_in_flight(vendor)

    def fault(self, vendor: str, name: str, *, times: int = 1, on: str | None = None, **details: Any) -> None:
        """Let the next ``times`` requests of kind ``on`` suffer a fault; ``details``: see ``Fault``."""
        queue_fault(self._state, vendor, name, times=times, on=on, **details)

    def fault_rate(self, spec: str, rate: float, **details: Any) -> None:
        """Let a share of requests suffer: ``[vendor.]name[@kind]``; ``details``: see ``Fault``."""
        self._state.faults.set_rate(spec, rate, **details)

    def clear_faults(self) -> None:
        """No more accidents; charges and requests stay."""
        self._state.faults.clear()

    def set_latency(self, vendor: str, seconds: float) -> None:
        self._state.set_latency(vendor, seconds)

    def set_credits(self, vendor: str, images: int) -> None:
        self._state.set_credits(vendor, images)

    def set_idle_close(self, seconds: float | None) -> None:
        """As ``idle_close`` above; None leaves idle connections alone."""
        self._state.set_idle_close(seconds)

    def expire_links(self) -> None:
        """Let every result link given out so far die now, unsigned ones too."""
        self._state.expire_links()

    def forget_tasks(self) -> None:
        """Let vendors with tasks know none that they have accepted so far; result links live on."""
        self._state.forget_tasks()

    def reset(self) -> None:
        self._state.reset()
