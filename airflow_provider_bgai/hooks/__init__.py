"""One hook per vendor; the only place that knows a vendor's wire format.

:func:`get_hook` picks the hook from the connection's type, so nothing else names a vendor.
Which vendors there are, those of other packages too, is said by the rows of ``get_provider_info``.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

from airflow_provider_bgai.get_provider_info import PREFIX, find_row

if TYPE_CHECKING:
    from airflow_provider_bgai.hooks.base import BackgroundHook


def get_hook(conn_id: str, **kwargs: Any) -> BackgroundHook:
    """The hook for a connection, by the connection's type.

    :param conn_id: the Airflow connection ID.
    :param kwargs: passed to the hook, see :class:`~airflow_provider_bgai.hooks.base.BackgroundHook`.
    :raises AuthenticationError: if there is no such connection, or it is not one of a background vendor.
    """
    from airflow_provider_bgai.hooks.connection import look_up

    connection = look_up(conn_id)
    return _hook_class(conn_id, connection.conn_type)(conn_id, connection=connection, **kwargs)


async def aget_hook(conn_id: str, **kwargs: Any) -> BackgroundHook:
    """As :func:`get_hook`, for callers on an event loop (triggers)."""
    from airflow_provider_bgai.hooks.connection import look_up_async

    connection = await look_up_async(conn_id)
    return _hook_class(conn_id, connection.conn_type)(conn_id, connection=connection, **kwargs)


def detached_hook(vendor: str, conn_id: str) -> BackgroundHook:
    """A vendor's hook without a connection: it reads what is at hand, and can ask nobody.

    :param conn_id: of the connection that is gone.
    """
    from airflow.providers.common.compat.sdk import Connection

    conn_type = PREFIX + vendor
    return _hook_class(conn_id, conn_type)(conn_id, connection=Connection(conn_id=conn_id, conn_type=conn_type))


def _hook_class(conn_id: str, conn_type: str | None) -> type[BackgroundHook]:
    from airflow_provider_bgai.exceptions import AuthenticationError
    from airflow_provider_bgai.hooks.connection import types_for

    row = find_row(conn_type)
    if row is None:
        raise AuthenticationError(f"Connection {conn_id!r} has type {conn_type!r}; it must be {types_for(conn_id)}")
    module, _, name = row.hook.rpartition(".")
    found: type[BackgroundHook] = getattr(import_module(module), name)
    # A record keeps the vendor's name, and by it the hook is found again that collects what was paid.
    if (found.vendor, found.conn_type) != (row.name, row.conn_type):
        raise ValueError(f"the row of {row.name} leads to {row.hook}, which is {found.vendor!r}, {found.conn_type!r}")
    return found
