"""A connection, read and checked; and the form in which it is typed.

The only file of the hooks that needs Airflow; it knows nothing of HTTP. What is wrong with a connection is an
``AuthenticationError`` that names it, the field and the rule.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from decimal import Decimal
from functools import cached_property
from typing import Any, ClassVar, TypeVar
from urllib.parse import urlsplit

from airflow.providers.common.compat.sdk import AirflowNotFoundException, BaseHook

from airflow_provider_bgai import web
from airflow_provider_bgai.exceptions import AuthenticationError, BgaiError, NeverSentError, UnknownOutcomeError

T = TypeVar("T")

MAX_MESSAGE = 500


@dataclass(frozen=True, kw_only=True)
class Settings:
    """A connection, read and checked.

    :param vendor: the connection type without ``bgai_``.
    :param label: the vendor's name in messages.
    :param key: the API key, possibly empty.
    :param base_url: without a trailing slash.
    :param requests_per_minute: what the connection allows all processes together.
    :param shards: how many of them are known to use it side by side.
    :param max_concurrency: this one's part of what the connection allows.
    :param timeout: seconds one call may take in all.
    :param price_per_image: None where it is not known; never taken for 0.
    :param extra: all extras of the connection, for the vendor's own.
    """

    conn_id: str
    vendor: str
    label: str
    key: str = field(repr=False)
    base_url: str
    requests_per_minute: float
    shards: int
    max_concurrency: int
    timeout: float
    price_per_image: Decimal | None
    currency: str
    allow_private_hosts: bool
    extra: Mapping[str, Any] = field(repr=False)

    def redact(self, text: str) -> str:
        """A text without the key, and with links without their queries."""
        text = text.replace(self.key, "***") if self.key else text
        return web.without_queries(text)

    def error(self, cls: type[BgaiError], message: str, **details: Any) -> BgaiError:
        """An error that names the vendor and never holds the key. ``details`` as of :class:`BgaiError`."""
        status = details.get("status")
        # Redacted first and cut afterwards: half a key would not be found.
        text = f"{self.label}{f' answered {status}' if status else ''}: {self.redact(message)[:MAX_MESSAGE]}"
        if cls in (AuthenticationError, NeverSentError):
            text += f"; look at the password and the host of connection {self.conn_id!r}"
        if cls is UnknownOutcomeError:
            text += "; it may have been charged"
        return cls(text, vendor=self.vendor, **details)

    def wrong(self, problem: str) -> AuthenticationError:
        """What is wrong with the connection; the sentence begins with its name."""
        return AuthenticationError(f"Connection {self.conn_id!r} {self.redact(problem)}", vendor=self.vendor)


class ConnectedHook(BaseHook):
    """An Airflow hook that has a vendor's connection.

    :param conn_id: the Airflow connection: password = API key, host = another base URL, extras as in the form.
    :param connection: the connection, if it has been looked up already.
    :param shards: how many tasks use the connection side by side: each begins with that part of its rate, and gets
        that part of its slots.
    :ivar counts: for metrics: ``polls``, ``too_fast`` (answers of 429), ``in_doubt`` (paid requests).
    """

    conn_name_attr = "conn_id"
    default_conn_name = "bgai_default"
    conn_type = "bgai"
    hook_name = "AI background"

    vendor: ClassVar[str] = "bgai"
    base_url: ClassVar[str] = "https://bgai.invalid"
    default_requests_per_minute: ClassVar[float] = 60.0
    default_max_concurrency: ClassVar[int] = 8
    default_timeout: ClassVar[float] = 120.0
    needs_key: ClassVar[bool] = True

    def __init__(self, conn_id: str | None = None, *, connection: Any = None, shards: int = 1) -> None:
        super().__init__()
        self.conn_id = conn_id or self.default_conn_name
        self.shards = shards
        self.counts: Counter[str] = Counter()
        self._connection = connection

    def __init_subclass__(cls, **kwargs: Any) -> None:
        """Give each vendor's class the two methods that Airflow before 3.2 asks for its connection form.

        It looks into the class itself and passes over what is inherited.
        """
        super().__init_subclass__(**kwargs)
        for name, part in (("get_ui_field_behaviour", 0), ("get_connection_form_widgets", 1)):
            setattr(cls, name, classmethod(lambda hook, part=part: connection_form(hook.conn_type)[part]))

    @cached_property
    def settings(self) -> Settings:
        """The connection, read and checked. :raises AuthenticationError: naming it, and the wrong field."""
        if self._connection is None:
            self._connection = look_up(self.conn_id, self.conn_type)
        return read_settings(self, self._connection, self._connection.extra_dejson)

    async def load_settings(self) -> Settings:
        """As :attr:`settings`, for callers on an event loop."""
        if "settings" not in self.__dict__:
            from airflow.providers.common.compat.connection import get_async_extra_dejson

            if self._connection is None:
                self._connection = await look_up_async(self.conn_id, self.conn_type)
            extra = await get_async_extra_dejson(self._connection)
            self.__dict__["settings"] = read_settings(self, self._connection, extra)
        return self.settings

    def cost(self, images: int) -> Decimal | None:
        """Price of so many pictures in the connection's currency; None where the connection names no price."""
        price = self.settings.price_per_image
        return None if price is None else price * images

    def key(self) -> str:
        """The API key. :raises AuthenticationError: if there is none."""
        if not self.settings.key:
            raise self.settings.wrong("has no API key: put it into the password field")
        return self.settings.key


def look_up(conn_id: str, conn_type: str | None = None) -> Any:
    """The Airflow connection.

    :param conn_type: which type it has to have, if that is known.
    :raises AuthenticationError: if there is none, with the type that it must have.
    """
    try:
        return BaseHook.get_connection(conn_id)
    except AirflowNotFoundException:
        raise _missing(conn_id, conn_type) from None


async def look_up_async(conn_id: str, conn_type: str | None = None) -> Any:
    """As :func:`look_up`, for callers on an event loop."""
    from airflow.providers.common.compat.connection import get_async_connection

    try:
        return await get_async_connection(conn_id)
    except AirflowNotFoundException:
        raise _missing(conn_id, conn_type) from None


def _missing(conn_id: str, conn_type: str | None) -> AuthenticationError:
    return AuthenticationError(
        f"There is no connection {conn_id!r}: create it (Admin > Connections) with the type "
        f"{conn_type or types_for(conn_id)}, and the API key as its password"
    )


def types_for(conn_id: str) -> str:
    """Which type a connection must have, in words: that of the vendor it is named after, or any vendor's."""
    from airflow_provider_bgai.get_provider_info import all_rows

    rows = sorted(all_rows(), key=lambda row: row.conn_type)
    named = [row.conn_type for row in rows if row.name in conn_id.lower()]
    return named[0] if len(named) == 1 else f"one of {', '.join(row.conn_type for row in rows)}"


def read_settings(hook: ConnectedHook, connection: Any, extra: Mapping[str, Any]) -> Settings:
    """Read an Airflow connection: password = API key, host = another base URL, extras as in the form.

    :raises AuthenticationError: naming the wrong field, its value and the rule.
    """
    extra = {name: value for name, value in extra.items() if value is not None}

    def wrong(field: str, value: object, rule: str) -> AuthenticationError:
        return AuthenticationError(f"Connection {hook.conn_id!r}: {field}={value!r}: {rule}", vendor=hook.vendor)

    def read(name: str, default: T, convert: Callable[[Any], T], rule: str) -> T:
        if extra.get(name, "") == "":  # how the connection form stores an empty field
            return default
        try:
            return convert(extra[name])
        except (TypeError, ValueError, ArithmeticError):
            raise wrong(f"extra {name}", extra[name], rule) from None

    rate = read("requests_per_minute", hook.default_requests_per_minute, _positive, "must be a number above 0")
    slots = read("max_concurrency", hook.default_max_concurrency, _whole, "must be a whole number above 0")
    base_url = _base_url(connection, hook.base_url)
    if rule := _broken_rule(base_url):
        shown = re.sub(r"//.*@", "//***@", str(connection.host))
        raise wrong("host", shown, rule)
    return Settings(
        conn_id=hook.conn_id,
        vendor=hook.vendor,
        label=hook.hook_name,
        key=(connection.password or "").strip(),
        base_url=base_url,
        requests_per_minute=rate,
        shards=hook.shards,
        max_concurrency=max(1, slots // hook.shards),
        timeout=read("timeout", hook.default_timeout, _positive, "must be seconds above 0"),
        price_per_image=read("price_per_image", None, _price, "must be an amount like 0.05"),
        currency=str(extra.get("currency") or "USD"),
        allow_private_hosts=read("allow_private_hosts", False, _boolean, "must be true or false"),
        extra=extra,
    )


def connection_form(conn_type: str) -> tuple[dict[str, Any], dict[str, Any]]:
    """Field behaviour and WTForms widgets of a connection type, made from its vendor's row.

    Airflow 3.2 and later read the same row without importing hooks, so the two forms cannot drift apart.

    :raises ValueError: if the connection type has no row.
    """
    from flask_babel import lazy_gettext
    from wtforms import BooleanField, IntegerField, StringField
    from wtforms.validators import Optional

    from airflow_provider_bgai.get_provider_info import connection_type, find_row

    row = find_row(conn_type)
    if row is None:
        raise ValueError(f"no row of get_provider_info and no entry point has the connection type {conn_type!r}")
    entry = connection_type(row)
    # Airflow passes over a hook whose form has any other kind of field, so a fraction is typed as text.
    kinds = {"string": StringField, "integer": IntegerField, "number": StringField, "boolean": BooleanField}
    widgets = {
        name: kinds[field["schema"]["type"][0]](
            lazy_gettext(field["label"]),
            validators=[Optional()],
            description=field["description"],
            default=field["schema"].get("default"),
        )
        for name, field in entry["conn-fields"].items()
    }
    behaviour = {name.replace("-", "_"): value for name, value in entry["ui-field-behaviour"].items()}
    return behaviour, widgets


def _base_url(connection: Any, default: str) -> str:
    host = (connection.host or "").strip()
    if not host:
        return default
    if "://" not in host:
        host = f"{connection.schema or 'https'}://{host}"
    scheme, _, rest = host.partition("://")
    netloc, slash, path = rest.partition("/")
    if connection.port and not re.search(r":\d+$", netloc):
        netloc = f"{netloc}:{connection.port}"
    return f"{scheme}://{netloc}{slash}{path}".rstrip("/")


def _broken_rule(url: str) -> str | None:
    """Which rule a base URL breaks, if any."""
    rule = "must be a host name or an http(s) URL"
    try:
        parts = urlsplit(url)
        host, port = parts.hostname, parts.port
        if host and ":" not in host:
            host.encode("idna")
    except ValueError as error:
        return f"{rule} with a port from 1 to 65535" if "ort" in str(error) else rule
    if parts.scheme not in ("http", "https") or not host or re.search(r"\s", url) or parts.query or parts.fragment:
        return rule
    if port == 0:
        return f"{rule} with a port from 1 to 65535"
    if "@" in parts.netloc:
        return f"{rule} without a user name; the key belongs into the password field"
    return None


def _positive(value: Any) -> float:
    number = float(value)
    if not 0 < number < float("inf"):
        raise ValueError
    return number


def _whole(value: Any) -> int:
    number = _positive(value)
    if number != int(number):
        raise ValueError
    return int(number)


def _price(value: Any) -> Decimal:
    price = Decimal(str(value))
    if not price.is_finite() or price < 0:
        raise ValueError
    return price


def _boolean(value: Any) -> bool:
    if isinstance(value, bool):
        return value
    if str(value).strip().lower() in ("true", "1", "yes", "on"):
        return True
    if str(value).strip().lower() in ("false", "0", "no", "off"):
        return False
    raise ValueError
