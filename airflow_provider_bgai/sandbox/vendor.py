"""What all vendors share: how a request is read, how it is refused, how a picture is painted and served.

A vendor is one subclass of ``Vendor`` in one file: its endpoints, its rules, its error envelope and its own faults.
"""

from __future__ import annotations

import asyncio
import hashlib
import json
import zlib
from abc import ABC, abstractmethod
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, ClassVar, Literal
from urllib.parse import urlencode, urlsplit

import httpx
from starlette.datastructures import UploadFile
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response

from airflow_provider_bgai.get_provider_info import PREFIX
from airflow_provider_bgai.sandbox import paint
from airflow_provider_bgai.sandbox.faults import KINDS, Fault, Hit, Kind
from airflow_provider_bgai.sandbox.state import QuotaSpent, State, Task

FETCH_TIMEOUT = 10  # seconds; the shortest that a vendor documents for an image URL
MAX_FETCH = 64 * 1024 * 1024  # bytes; above every documented limit, so that the limit itself answers

MULTIPART = "multipart/form-data"
URLENCODED = "application/x-www-form-urlencoded"


class Refused(Exception):
    """Ends a request with the vendor's own error answer; nothing is charged."""

    def __init__(self, response: Response) -> None:
        super().__init__(response.status_code)
        self.response = response


class FetchFailed(Exception):
    """A picture's URL could not be fetched."""


@dataclass(frozen=True, slots=True)
class Upload:
    """A file part of a form."""

    filename: str
    content_type: str
    content: bytes


@dataclass(slots=True)
class Call:
    """One request on its way through a vendor."""

    vendor: Vendor
    kind: Kind
    request: Request
    state: State
    key: str = ""
    fields: dict[str, Any] = field(default_factory=dict)
    files: dict[str, Upload] = field(default_factory=dict)
    complaint: str = ""
    fault: Fault | None = None

    @property
    def query(self) -> dict[str, str]:
        return dict(self.request.query_params)

    @property
    def content_type(self) -> str:
        return self.request.headers.get("content-type", "").partition(";")[0].strip().lower()

    def suffers(self, name: str) -> bool:
        """Whether this request was chosen for fault ``name``."""
        return self.fault is not None and self.fault.name == name

    def refuse(self, problem: str, message: str = "") -> Refused:
        return Refused(self.vendor.refusal(problem, message))

    def require(self, truth: object, message: str) -> None:
        """Refuse the request as invalid unless ``truth``."""
        if not truth:
            raise self.refuse("invalid", message)

    def integer(self, name: str, low: int, high: int | None = None) -> int | None:
        """A whole number from the form, or None when the field is absent."""
        text = self.fields.get(name)
        if text is None:
            return None
        number = int(text) if text.isascii() and text.isdigit() else None
        inside = number is not None and number >= low and (high is None or number <= high)
        span = f"from {low} to {high}" if high is not None else f"of at least {low}"
        self.require(inside, f"{name} must be an integer {span}")
        return number

    def made(self, asked: int) -> int:
        """Pictures the vendor makes where ``asked`` are wished: as many, unless a fault has it make others."""
        return max(1, asked + self.suffers("more_pictures") - self.suffers("fewer_pictures"))

    def charge(self, images: int, wish: dict[str, Any], task_id: str = "") -> None:
        """Bill the pictures, or refuse because the account cannot pay."""
        try:
            self.state.charge(self.vendor.name, self.key, images, wish, task_id)
        except QuotaSpent:
            raise self.refuse("quota_spent") from None

    def link(self, path: str, query: dict[str, str] | None = None) -> str:
        """An absolute URL on this very server."""
        base = str(self.request.base_url).rstrip("/")
        return f"{base}{path}" + (f"?{urlencode(query)}" if query else "")


@dataclass(frozen=True, slots=True)
class Endpoint:
    """One path of a vendor."""

    method: str
    path: str
    kind: Kind
    handler: Callable[[Call], Awaitable[Response]]


class Vendor(ABC):
    """One vendor's wire format.

    ``refusal`` knows these problems: invalid, no_key, bad_key, quota_spent, moderation, rate_limited,
    server_error, unavailable; and not_found and too_large where the vendor has them.
    """

    name: ClassVar[str]
    """As in its row."""
    key: ClassVar[str]
    """A right one."""
    price_per_image: ClassVar[float]
    currency: ClassVar[str] = "USD"
    extra: ClassVar[dict[str, Any]] = {}
    """More extras of its connection."""
    answers: ClassVar[Literal["task", "links", "bytes"]]
    """What a submission is answered with: the ID of a task that will have links; links; or the picture itself."""
    signs_links: ClassVar[bool] = False
    """Whether its links are signed and die after a while."""
    own_faults: ClassVar[Mapping[str, Hit]] = {}
    """The faults that this class makes itself, where it asks ``call.suffers(name)``."""

    @property
    def kinds(self) -> tuple[Kind, ...]:
        """The kinds of request it knows, as its endpoints say."""
        known = {endpoint.kind for endpoint in self.endpoints()}
        return tuple(kind for kind in KINDS if kind in known)

    @abstractmethod
    def endpoints(self) -> list[Endpoint]: ...

    @abstractmethod
    def example(self, picture: bytes, link: str) -> dict[str, Any]:
        """A right paid request for one picture, as keyword arguments of ``httpx.Client.request``.

        :param picture: the bytes of a PNG with a transparent background.
        :param link: an address of that PNG, for a vendor that takes no bytes.
        """

    @abstractmethod
    def read_key(self, request: Request) -> str:
        """The API key the request carries, or ""."""

    @abstractmethod
    def refusal(self, problem: str, message: str = "") -> Response:
        """The vendor's answer to a problem, in its documented envelope."""

    def taste(self, call: Call) -> int:
        """The seed of a vendor that takes none: its own, so that two vendors do not paint the same picture."""
        return call.state.seed + zlib.crc32(self.name.encode()) % 10_000

    def check_key(self, call: Call) -> None:
        """Any key is right, except an absent one and one that begins with ``bad``."""
        if not call.key:
            raise call.refuse("no_key")
        if call.key.startswith("bad"):
            raise call.refuse("bad_key")

    def connection(self, base_url: str) -> dict[str, Any]:
        """An Airflow connection to this vendor in the sandbox."""
        return {
            "conn_type": PREFIX + self.name,
            "host": base_url,
            "password": self.key,
            "extra": {
                "allow_private_hosts": True,
                "price_per_image": self.price_per_image,
                "currency": self.currency,
                **self.extra,
            },
        }


async def read_form(call: Call) -> None:
    """Read a form into ``call.fields`` and ``call.files``; what is wrong with it goes to ``complaint``."""
    if call.content_type not in (MULTIPART, URLENCODED):
        return
    try:
        async with call.request.form(max_part_size=8 * 1024 * 1024) as form:
            for name, value in form.multi_items():
                if name in call.fields or name in call.files:
                    call.complaint = f"{name} is given twice"
                elif isinstance(value, UploadFile):
                    content = await value.read()
                    call.files[name] = Upload(value.filename or "", value.content_type or "", content)
                else:
                    call.fields[name] = value
    except HTTPException as error:
        call.complaint = f"malformed form: {error.detail}"


async def read_json(call: Call) -> None:
    """Read a JSON object into ``call.fields``; what is wrong with it goes to ``complaint``."""
    if call.content_type != "application/json":
        return
    try:
        body = json.loads(await call.request.body())
    except ValueError:
        call.complaint = "the body is not JSON"
        return
    if isinstance(body, dict):
        call.fields = body
    else:
        call.complaint = "the body must be a JSON object"


def check_form(call: Call, *, fields: set[str], files: set[str], encodings: tuple[str, ...] = (MULTIPART,)) -> None:
    """Refuse a form that is malformed, in another encoding, or holds anything undocumented."""
    call.require(call.content_type in encodings, f"Content-Type must be {' or '.join(encodings)}")
    call.require(not call.complaint, call.complaint)
    for name in call.fields:
        call.require(name not in files, f"{name} must be a file")
        call.require(name in fields, f"{name} is not a parameter of this API")
    for name in call.files:
        call.require(name not in fields, f"{name} must be text, not a file")
        call.require(name in files, f"{name} is not a parameter of this API")


async def fetch(call: Call, url: str) -> bytes:
    """Download a picture as a vendor does: http(s), redirects followed, 10 s; FetchFailed otherwise."""
    client: httpx.AsyncClient = call.request.app.state.client
    try:
        async with client.stream("GET", url) as response:
            if response.status_code != 200:
                raise FetchFailed(f"{response.status_code} from the image URL")
            content = bytearray()
            async for block in response.aiter_bytes():
                content += block
                if len(content) > MAX_FETCH:
                    raise FetchFailed("the image URL sends too much")
    except (httpx.HTTPError, httpx.InvalidURL, UnicodeError) as error:
        raise FetchFailed(f"the image URL cannot be fetched: {type(error).__name__}") from error
    return bytes(content)


def is_url(text: str) -> bool:
    """Whether ``text`` is an http(s) URL with a host and a possible port."""
    try:
        url = urlsplit(text)
        return url.scheme in ("http", "https") and bool(url.hostname) and url.port != 0
    except ValueError:
        return False


def digest(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


async def check_picture(call: Call, name: str, content: bytes, formats: tuple[str, ...] = ()) -> None:
    """Refuse what is no picture, is too big to be painted, or is in a format the vendor does not take."""
    try:
        facts = await asyncio.to_thread(paint.look, content)
    except paint.NotAPicture:
        raise call.refuse("invalid", f"{name} is not a valid image") from None
    call.require(facts.size[0] * facts.size[1] <= paint.MAX_PIXELS, f"{name} has too many pixels")
    call.require(not formats or facts.format in formats, f"{name}: {facts.format} is not supported")


async def stored_picture(call: Call, task: Task, index: int) -> Response:
    """The PNG of a stored result, painted now."""
    recipe = task.recipe
    if recipe is None or not 0 <= index < task.images:
        raise Refused(xml_error(404, "NoSuchKey", "The specified key does not exist."))
    content = await asyncio.to_thread(
        paint.paint,
        call.state.uploads.read(recipe.source),
        recipe.prompt,
        recipe.seed,
        index,
        max_side=recipe.max_side,
    )
    return Response(content, media_type="image/png")


def xml_error(status: int, code: str, message: str) -> Response:
    """An object store's error, as Alibaba OSS and Google Cloud Storage write it."""
    error = f"<Error><Code>{code}</Code><Message>{message}</Message></Error>"
    body = f'<?xml version="1.0" encoding="UTF-8"?>\n{error}'
    return Response(body, status_code=status, media_type="application/xml")


STORE_PROBLEMS = {
    "rate_limited": (429, "TooManyRequests", "Please reduce your request rate."),
    "server_error": (500, "InternalError", "We encountered an internal error. Please try again."),
    "unavailable": (503, "ServiceUnavailable", "Please reduce your request rate."),
    "expired": (403, "AccessDenied", "You have no right to access this object because of bucket acl."),
}


def store_refusal(problem: str) -> Response:
    """What the object store behind the result links answers."""
    return xml_error(*STORE_PROBLEMS[problem])
