"""How Airflow finds our pages: the plugin that the entry point ``airflow.plugins`` names."""

from __future__ import annotations

from typing import Any

from airflow.providers.common.compat.sdk import AirflowPlugin

from airflow_provider_bgai.ui.links import PREFIX, ROUTES


class BgaiPlugin(AirflowPlugin):
    """Routes below ``/bgai`` in Airflow's API server, 3.1 and later. Every process of Airflow loads this class."""

    name = "bgai"

    @property
    def fastapi_apps(self) -> list[dict[str, Any]]:  # type: ignore[override]
        """Built when the API server asks; no worker pays for it."""
        if not ROUTES:
            return []
        from airflow_provider_bgai.ui.routes import app

        return [{"name": self.name, "app": app, "url_prefix": PREFIX}]
