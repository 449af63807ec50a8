"""What Airflow asks of a provider package: one table, importing nothing.

The connection types stand here once: Airflow 3.2 and later draw the connection form from this table, older
versions get the same fields through the hooks, and ``hooks.get_hook`` finds the hook class here.
"""

from __future__ import annotations

from typing import Any


def get_provider_info() -> dict[str, Any]:
    """The provider's metadata (``provider_info.schema.json`` of Airflow)."""
    return {
        "package-name": "airflow-provider-bgai",
        "name": "AI backgrounds",
        "description": "A new AI background behind every product cut-out, paid for once, landed in S3: "
        "PicWish, Photoroom, Imagine (Vyro), Katalis and gpt.ge.",
        "integrations": [
            _integration("PicWish", "https://picwish.com/new-background-generator-api-doc"),
            _integration("Photoroom", "https://docs.photoroom.com/image-editing-api-plus-plan/ai-backgrounds"),
            _integration("Imagine (Vyro)", "https://reference.imagine.art/api-12298495"),
            _integration("Katalis", "https://documentation.katalis.ai/"),
            _integration("gpt.ge", "https://api.gpt.ge/"),
        ],
        "hooks": [
            _modules("PicWish", "hooks.picwish"),
            _modules("Photoroom", "hooks.photoroom"),
            _modules("Imagine (Vyro)", "hooks.imagine"),
            _modules("Katalis", "hooks.katalis"),
            _modules("gpt.ge", "hooks.gptge"),
        ],
        "operators": [_modules("AI backgrounds", "operators.generate", "operators.land", "operators.catalogue")],
        "sensors": [_modules("AI backgrounds", "sensors.background")],
        "triggers": [_modules("AI backgrounds", "triggers.background")],
        "connection-types": [
            _connection("picwish", "PicWish", "hooks.picwish.PicWishHook", "https://techsz.aoscdn.com", 120),
            _connection(
                "photoroom",
                "Photoroom",
                "hooks.photoroom.PhotoroomHook",
                "https://image-api.photoroom.com",
                60,
                model_version=_field(
                    "Model version",
                    "AI background model: 3 (the vendor's default), background-studio-beta-2025-03-17 "
                    "(recommended by the vendor, slower), or any newer identifier.",
                    "string",
                ),
            ),
            _connection("imagine", "Imagine (Vyro)", "hooks.imagine.ImagineHook", "https://api.vyro.ai", 60),
            _connection(
                "katalis",
                "Katalis",
                "hooks.katalis.KatalisHook",
                "https://dev-api.katalis.ai",
                60,
                # Without defaults: the form shows the value of a field named auth_… as ***, and would save that.
                auth_header=_field(
                    "Auth header",
                    "Header that carries the key (default Authorization; Katalis documents none).",
                    "string",
                ),
                auth_prefix=_field(
                    "Auth prefix", "What stands before the key in that header (default Bearer).", "string"
                ),
            ),
            _connection("gptge", "gpt.ge", "hooks.gptge.GptGeHook", "https://api.gpt.ge", 120),
        ],
    }


def _integration(name: str, url: str) -> dict[str, Any]:
    return {"integration-name": name, "external-doc-url": url, "tags": ["ai"]}


def _modules(name: str, *modules: str) -> dict[str, Any]:
    return {
        "integration-name": name,
        "python-modules": [f"airflow_provider_bgai.{module}" for module in modules],
    }


def _connection(
    vendor: str, label: str, hook: str, base_url: str, requests_per_minute: int, **own: Any
) -> dict[str, Any]:
    return {
        "connection-type": f"bgai_{vendor}",
        "hook-class-name": f"airflow_provider_bgai.{hook}",
        "hook-name": label,
        "ui-field-behaviour": {
            "hidden-fields": ["schema", "login", "port", "extra"],
            "relabeling": {"password": "API key", "host": "Base URL"},
            "placeholders": {"host": base_url, "password": f"your {label} API key"},
        },
        "conn-fields": {
            "requests_per_minute": _field(
                "Requests per minute",
                f"How fast this connection may send requests, polls included (default {requests_per_minute}).",
                "number",
                exclusiveMinimum=0,
            ),
            "max_concurrency": _field(
                "Max. concurrency",
                "How many requests may be under way at once (default 8).",
                "integer",
                minimum=1,
            ),
            "timeout": _field(
                "Timeout (s)", "Seconds one call may take in all (default 120).", "number", exclusiveMinimum=0
            ),
            "price_per_image": _field(
                "Price per image",
                "What one picture costs you; empty means unknown, never free.",
                "number",
                minimum=0,
            ),
            "currency": _field("Currency", "Of the price.", "string", default="USD"),
            "allow_private_hosts": _field(
                "Allow private hosts",
                "Fetch pictures from private and local addresses. For tests and the sandbox only.",
                "boolean",
                default=False,
            ),
            **own,
        },
    }


def _field(label: str, description: str, kind: str, **schema: Any) -> dict[str, Any]:
    return {"label": label, "description": description, "schema": {"type": [kind, "null"], **schema}}
