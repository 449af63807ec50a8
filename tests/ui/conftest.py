"""What the tests of the pages share: the tests' DAGs, run in this process, and an API server of Airflow."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any
from urllib.parse import quote

import pytest

from airflow_provider_bgai.layout import Layout, Run, run_name
from airflow_provider_bgai.ui.links import PREFIX
from airflow_provider_bgai.ui.plugin import BgaiPlugin
from demo.services import S3Service
from tests.conftest import vendor_connection
from tests.dags.catalogue import CATALOGUE_PARAMS
from tests.operators.conftest import dags

if TYPE_CHECKING:
    from fastapi.testclient import TestClient

    from airflow_provider_bgai.sandbox import Sandbox
    from airflow_provider_bgai.storage import Storage

__all__ = ["dags"]


@pytest.fixture(scope="module")
def client(airflow_db: None) -> Iterator[TestClient]:
    pytest.importorskip("airflow.api_fastapi.app")  # Airflow 3
    from airflow import plugins_manager
    from airflow.api_fastapi.app import create_app
    from fastapi.testclient import TestClient

    with pytest.MonkeyPatch.context() as patch:
        # What it finds by the entry point, in an environment that may have been installed before there was one.
        if hasattr(plugins_manager, "get_fastapi_plugins"):
            patch.setattr(plugins_manager, "get_fastapi_plugins", lambda: (BgaiPlugin().fastapi_apps, []))
        else:  # Airflow 3.1
            patch.setattr(plugins_manager, "fastapi_apps", BgaiPlugin().fastapi_apps)
            patch.setattr(plugins_manager, "fastapi_root_middlewares", [])
        app = create_app(apps="core")
    with TestClient(app, follow_redirects=False, raise_server_exceptions=False) as client:
        yield client


@pytest.fixture
def login(client: TestClient) -> Callable[..., dict[str, str]]:
    """The headers of a user with a role."""
    from airflow.api_fastapi.app import get_auth_manager
    from airflow.api_fastapi.auth.managers.simple.user import SimpleAuthManagerUser

    def login(role: str | None = "viewer") -> dict[str, str]:
        user = SimpleAuthManagerUser(username=f"a-{role}", role=role)
        return {"Authorization": f"Bearer {get_auth_manager().generate_jwt(user)}"}

    return login


@dataclass(frozen=True)
class Night:
    """A run of a catalogue that is to be reviewed: ``GOOD`` landed, ``REDRAWN`` is in quarantine, ``HELD`` is held."""

    dag_id: str
    run_id: str
    destination: str

    @property
    def run(self) -> Run:
        name = run_name(self.dag_id, "catalogue.plan", self.run_id)
        return Layout(self.destination).run(name)

    @property
    def path(self) -> str:
        """Of the pages of the run."""
        return f"{PREFIX}/dags/{self.dag_id}/runs/{quote(self.run_id, safe='')}"

    def task(self, name: str = "plan", map_index: int | str = -1) -> str:
        """Of the pages of one of its tasks."""
        return f"{self.path}/tasks/catalogue.{name}/{map_index}"


@pytest.fixture(scope="module")
def reviewed(
    dags: dict[str, Any], sandbox: Sandbox, s3: S3Service, storage: Storage, product: bytes, request: Any
) -> Night:
    folder = f"s3://{s3.bucket}/{request.module.__name__.rpartition('.')[2]}"
    sandbox.reset()
    storage.put(f"{folder}/product.png", product, content_type="image/png")
    rows = "\n".join(["sku,image,title", *(f"{sku},product.png,A <b>thing</b>" for sku in ("GOOD", "REDRAWN", "HELD"))])
    storage.put(f"{folder}/products.csv", rows.encode(), content_type="text/csv")
    # One after the other: the first picture is good, the second is another product, the third is not answered.
    for fault, details, on in (
        ("slow", {"delay": 0}, "submit"),
        ("slow", {"delay": 0}, "submit"),
        ("drop_after_charge", {}, "submit"),
        ("slow", {"delay": 0}, "download"),
        ("redrawn_product", {}, "download"),
    ):
        sandbox.fault("picwish", fault, on=on, **details)
    conf = {
        "manifest": f"{folder}/products.csv",
        "recipe": {"version": 1, "prompt": "{{ title }} on a table for {{ sku }}"},
        "destination": f"{folder}/shop",
        "max_failure_ratio": 0.9,
    }
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("AIRFLOW_CONN_PICWISH_DEFAULT", vendor_connection(sandbox, "picwish", {"timeout": 5}))
        run = dags["night_bad"].test(run_conf=CATALOGUE_PARAMS | conf)
    assert str(run.state) == "success"
    return Night("night_bad", run.run_id, f"{folder}/shop")
