"""The vendors as one local server: strict, free of charge, and able to fail in every way a vendor can.

Run a DAG against it without paying, and count afterwards what it *would* have cost::

    with Sandbox(latency=0.2, faults={"rate_limited": 0.05}) as box:
        connection = box.connection(vendor)  # host, password and extra for Airflow
        ...
        assert box.images_charged(vendor) == 2

or from a terminal: ``bgai-sandbox --port 8780``.

A vendor is named as its connection type without ``bgai_``. Any key is right, except one that begins with ``bad``; what
else a vendor makes of a key is in its file.

What must stay true here:

* What a vendor documents is accepted; what it documents as wrong, and any field it does not document, is
  refused in that vendor's own words. A hook that passes here sends nothing a vendor might refuse.
* Every picture a vendor would bill is counted in a charge, at the moment the vendor would bill it; no charge
  is ever taken back.
* Nothing heavy is imported with this package: the server and the painter load when they are first used.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from airflow_provider_bgai.sandbox.faults import Fault
    from airflow_provider_bgai.sandbox.registry import CHARGED, FAULTS
    from airflow_provider_bgai.sandbox.server import Sandbox, create_app
    from airflow_provider_bgai.sandbox.state import Charge, RecordedRequest

__all__ = ["CHARGED", "FAULTS", "Charge", "Fault", "RecordedRequest", "Sandbox", "create_app"]

_HOMES = {
    "CHARGED": "registry",
    "FAULTS": "registry",
    "Fault": "faults",
    "Charge": "state",
    "RecordedRequest": "state",
    "Sandbox": "server",
    "create_app": "server",
}


def __getattr__(name: str) -> Any:
    from importlib import import_module

    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_HOMES[name]}"), name)
