"""How Airflow finds our pages: the plugin that the entry point ``airflow.plugins`` names."""

from __future__ import annotations

from typing import Any

from airflow.providers.common.compat.sdk import AirflowPlugin

from airflow_provider_bgai.ui.links import PREFIX, ROUTES

_ICON = (
    "data:image/svg+xml,%3Csvg xmlns='http://www.w3.org/2000/svg' viewBox='0 0 24 24' fill='none' stroke='{colour}' "
    "stroke-width='2'%3E%3Crect x='3' y='4' width='18' height='16' rx='2'/%3E%3Ccircle cx='9' cy='10' r='2'/%3E"
    "%3Cpath d='M4 18l6-5 4 3 3-3 4 4'/%3E%3C/svg%3E"
)
_RUN = f"{PREFIX.strip('/')}/dags/{{DAG_ID}}/runs/{{RUN_ID}}"
_OURS = [f"{name}CatalogueOperator" for name in ("Plan", "Generate", "Review", "Publish")]

# Addresses without a slash before them begin where Airflow's pages do, wherever they are served.
VIEWS: list[dict[str, Any]] = [
    {"name": "Catalogues", "destination": "nav", "category": "browse", "href": f"{PREFIX.strip('/')}/catalogues"},
    {"name": "Pictures", "destination": "dag_run", "href": f"{_RUN}/gallery"},
    {
        "name": "Pictures",
        "destination": "task_instance",
        "href": f"{_RUN}/tasks/{{TASK_ID}}/{{MAP_INDEX}}/gallery",
        "applies_to": {"operator": _OURS},  # 3.4 and later; before, the tab is on every task
    },
]
for _view in VIEWS:
    _view |= {
        "url_route": f"bgai-{_view['destination'].replace('_', '-')}",
        "icon": _ICON.format(colour="%233f3f46"),
        "icon_dark_mode": _ICON.format(colour="%23d4d4d8"),
    }


class BgaiPlugin(AirflowPlugin):
    """Routes below ``/bgai`` in Airflow's API server, and the tabs that show them; 3.1 and later.

    Every process of Airflow loads this class.
    """

    name = "bgai"
    external_views = VIEWS if ROUTES else []

    @property
    def fastapi_apps(self) -> list[dict[str, Any]]:  # type: ignore[override]
        """Built when the API server asks; no worker pays for it."""
        if not ROUTES:
            return []
        from airflow_provider_bgai.ui.routes import app

        return [{"name": self.name, "app": app, "url_prefix": PREFIX}]
