"""What Airflow asks of a provider package, and which vendors there are: one row per vendor, importing nothing heavy.

Everything that lists vendors derives from the rows: Airflow's lists below, ``hooks.get_hook``, the connection forms,
the sandbox. Another package adds a vendor by a row of its own, which an entry point of the group ``bgai.vendors``
names; see docs/new-vendor.md.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import Any, NamedTuple

ENTRY_POINTS = "bgai.vendors"
"""The group in which another package names its rows; an entry point has its vendor's name."""
PREFIX = "bgai_"
LINKS = ("PictureLink", "ReportLink", "LocationLink")
"""The buttons that tasks of ours may have in Airflow, in ``ui/links.py``."""


class VendorRow(NamedTuple):
    """A vendor, as everybody but its own files knows it.

    :param name: in lower case, as in records and logs; its default connection is ``<name>_default``.
    :param label: its name for people.
    :param hook: import path of the hook class, ``package.module.Class``.
    :param sandbox: import path of the class that plays the vendor in the sandbox.
    :param base_url: where requests go if the connection names no host.
    :param documentation: URL of the vendor's own pages.
    :param requests_per_minute: the hook's default.
    :param fields: the vendor's own extras in the connection form, by name, each made by :func:`field`.
    :param system: vendor and system in full, as its own pages name them, for the label in every picture.
    """

    name: str
    label: str
    hook: str
    sandbox: str
    base_url: str
    documentation: str
    requests_per_minute: float = 60
    fields: Mapping[str, dict[str, Any]] = {}
    system: str = ""

    @property
    def conn_type(self) -> str:
        """Airflow's connection type."""
        return PREFIX + self.name


def field(label: str, description: str, kind: str, **schema: Any) -> dict[str, Any]:
    """A field of the connection form.

    :param kind: ``"string"``, ``"integer"``, ``"number"`` or ``"boolean"``.
    :param schema: more of its JSON schema, as ``minimum`` or ``default``.
    """
    return {"label": label, "description": description, "schema": {"type": [kind, "null"], **schema}}


ROWS = (
    VendorRow(
        name="picwish",
        label="PicWish",
        hook="airflow_provider_bgai.hooks.picwish.PicWishHook",
        sandbox="airflow_provider_bgai.sandbox.picwish.PicWish",
        base_url="https://techsz.aoscdn.com",
        documentation="https://picwish.com/new-background-generator-api-doc",
        system="PicWish, Generate Background API",
        requests_per_minute=120,
    ),
    VendorRow(
        name="photoroom",
        label="Photoroom",
        hook="airflow_provider_bgai.hooks.photoroom.PhotoroomHook",
        sandbox="airflow_provider_bgai.sandbox.photoroom.Photoroom",
        base_url="https://image-api.photoroom.com",
        documentation="https://docs.photoroom.com/image-editing-api-plus-plan/ai-backgrounds",
        system="Photoroom, Image Editing API v2",
        fields={
            "model_version": field(
                "Model version",
                "AI background model: 3 (the vendor's default), background-studio-beta-2025-03-17 "
                "(recommended by the vendor, slower), or any newer identifier.",
                "string",
            )
        },
    ),
    VendorRow(
        name="imagine",
        label="Imagine (Vyro)",
        hook="airflow_provider_bgai.hooks.imagine.ImagineHook",
        sandbox="airflow_provider_bgai.sandbox.imagine.Imagine",
        base_url="https://api.vyro.ai",
        documentation="https://reference.imagine.art/api-12298495",
        system="Imagine (Vyro), AI Backgrounds API v2",
    ),
    VendorRow(
        name="katalis",
        label="Katalis",
        hook="airflow_provider_bgai.hooks.katalis.KatalisHook",
        sandbox="airflow_provider_bgai.sandbox.katalis.Katalis",
        base_url="https://dev-api.katalis.ai",
        documentation="https://documentation.katalis.ai/",
        system="Katalis, Generate Background Image v1",
        # Without defaults: the form shows the value of a field named auth_… as ***, and would save that.
        fields={
            "auth_header": field(
                "Auth header", "Header that carries the key (default Authorization; Katalis documents none).", "string"
            ),
            "auth_prefix": field(
                "Auth prefix", "What stands before the key in that header (default Bearer).", "string"
            ),
        },
    ),
    VendorRow(
        name="gptge",
        label="gpt.ge",
        hook="airflow_provider_bgai.hooks.gptge.GptGeHook",
        sandbox="airflow_provider_bgai.sandbox.gptge.GptGe",
        base_url="https://api.gpt.ge",
        documentation="https://api.gpt.ge/",
        system="gpt.ge, Add Background to Image",
        requests_per_minute=120,
    ),
)
"""The vendors of this package."""


def get_provider_info() -> dict[str, Any]:
    """The metadata of this package (``provider_info.schema.json`` of Airflow)."""
    *labels, last = (row.label for row in ROWS)
    return {
        **provider_info(
            ROWS,
            package="airflow-provider-bgai",
            name="AI backgrounds",
            description="A new AI background behind every product cut-out, paid for once, landed in S3: "
            f"{', '.join(labels)} and {last}.",
        ),
        "operators": [
            _modules(
                "AI backgrounds", "operators.generate", "operators.land", "operators.catalogue", "operators.review"
            )
        ],
        "sensors": [_modules("AI backgrounds", "sensors.background")],
        "triggers": [_modules("AI backgrounds", "triggers.background")],
        "extra-links": [f"airflow_provider_bgai.ui.links.{name}" for name in LINKS],
        # Airflow finds it by the entry point ``airflow.plugins``, too: it reads this list only where providers are
        # not discovered lazily.
        "plugins": [{"name": "bgai", "plugin-class": "airflow_provider_bgai.ui.plugin.BgaiPlugin"}],
    }


def provider_info(rows: Iterable[VendorRow], *, package: str, name: str, description: str) -> dict[str, Any]:
    """What Airflow has to know of vendors, made from their rows; for this package and for others that add vendors.

    :param package: the distribution's name.
    :param name: the provider's name for people.
    """
    rows = tuple(rows)
    return {
        "package-name": package,
        "name": name,
        "description": description,
        "integrations": [
            {"integration-name": row.label, "external-doc-url": row.documentation, "tags": ["ai"]} for row in rows
        ],
        "hooks": [{"integration-name": row.label, "python-modules": [row.hook.rpartition(".")[0]]} for row in rows],
        "connection-types": [connection_type(row) for row in rows],
    }


def all_rows() -> tuple[VendorRow, ...]:
    """Every vendor there is: this package's, then those of other packages.

    :raises ValueError: if two packages name the same vendor, or an entry point leads to no row.
    """
    rows = (*ROWS, *_rows_of_others())
    names = [row.name for row in rows]
    if twice := sorted({name for name in names if names.count(name) > 1}):
        raise ValueError(f"two packages name the vendor {', '.join(twice)} in the entry points {ENTRY_POINTS}")
    return rows


def find_row(conn_type: str | None) -> VendorRow | None:
    """The row of a connection type; None if it is not one of a vendor's.

    :raises ValueError: if the entry point with the vendor's name leads to no row.
    """
    # This package's own come first, so that they cost no look at what is installed.
    ours = next((row for row in ROWS if row.conn_type == conn_type), None)
    if ours or not (conn_type or "").startswith(PREFIX):
        return ours
    return next(_rows_of_others(str(conn_type).removeprefix(PREFIX)), None)


def system_of(vendor: str) -> str:
    """Vendor and system in full: its label where its row names no system, its name where it has no row any more."""
    row = find_row(PREFIX + vendor)
    return vendor if row is None else row.system or row.label


def _rows_of_others(name: str | None = None) -> Iterator[VendorRow]:
    """The rows that other packages name; with a name, no other vendor's package is imported."""
    from importlib.metadata import entry_points

    for entry in entry_points(group=ENTRY_POINTS):
        if name not in (None, entry.name):
            continue
        found = entry.load()
        row = found() if callable(found) else found
        if not isinstance(row, VendorRow) or row.name != entry.name:
            raise ValueError(f"entry point {entry.name!r} of {ENTRY_POINTS} leads to {row!r}, not to that vendor's row")
        yield row


def _modules(name: str, *modules: str) -> dict[str, Any]:
    return {
        "integration-name": name,
        "python-modules": [f"airflow_provider_bgai.{module}" for module in modules],
    }


def connection_type(row: VendorRow) -> dict[str, Any]:
    """A vendor's connection type with its form. Airflow 3.2 and later draw the form from this; older versions get
    the same fields through the hook."""
    return {
        "connection-type": row.conn_type,
        "hook-class-name": row.hook,
        "hook-name": row.label,
        "ui-field-behaviour": {
            "hidden-fields": ["schema", "login", "port", "extra"],
            "relabeling": {"password": "API key", "host": "Base URL"},
            "placeholders": {"host": row.base_url, "password": f"your {row.label} API key"},
        },
        "conn-fields": {
            "requests_per_minute": field(
                "Requests per minute",
                f"How fast this connection may send requests, polls included (default {row.requests_per_minute:g}).",
                "number",
                exclusiveMinimum=0,
            ),
            "max_concurrency": field(
                "Max. concurrency",
                "How many requests may be under way at once (default 8).",
                "integer",
                minimum=1,
            ),
            "timeout": field(
                "Timeout (s)", "Seconds one call may take in all (default 120).", "number", exclusiveMinimum=0
            ),
            "price_per_image": field(
                "Price per image",
                "What one picture costs you; empty means unknown, never free.",
                "number",
                minimum=0,
            ),
            "currency": field("Currency", "Of the price.", "string", default="USD"),
            "allow_private_hosts": field(
                "Allow private hosts",
                "Fetch pictures from private and local addresses. For tests and the sandbox only.",
                "boolean",
                default=False,
            ),
            **row.fields,
        },
    }
