"""Which vendors the sandbox plays: those that have a row, this package's and other packages' alike."""

from __future__ import annotations

from importlib import import_module

from airflow_provider_bgai.get_provider_info import all_rows
from airflow_provider_bgai.sandbox.faults import charged_faults, fault_table
from airflow_provider_bgai.sandbox.vendor import Vendor


def load_vendors() -> dict[str, Vendor]:
    """Every vendor by its name, in the order of the rows.

    :raises ValueError: if a row leads to a class with another name.
    """
    vendors: dict[str, Vendor] = {}
    for row in all_rows():
        module, _, name = row.sandbox.rpartition(".")
        vendor = getattr(import_module(module), name)()
        if vendor.name != row.name:
            raise ValueError(f"the row of {row.name} leads to {row.sandbox}, whose name is {vendor.name!r}")
        vendors[row.name] = vendor
    return vendors


_VENDORS = load_vendors().values()
FAULTS = fault_table(_VENDORS)
CHARGED = charged_faults(_VENDORS)
