"""What all tests share: an Airflow of their own, a real S3, the vendors' sandbox, connections, a product.

==================  ========  ====================================================================
fixture             scope     what it is
==================  ========  ====================================================================
``airflow_db``      session   Airflow's database, migrated; needed by what runs DAGs
``s3``              session   SeaweedFS (`demo.services.S3Service`), and `aws_default` points to it
``storage``         session   our own `Storage` on that S3
``upload``          test      ``upload("a.png", data)`` puts an object, gives its ``s3://`` URI
``folder``          test      a prefix of the test's own on that S3
``sandbox``         session   the vendors as one server; ask for ``box`` in a test
``box``             test      the same, with everything forgotten: charges, requests, faults
``connections``     test      the default connections of all vendors, to the sandbox, as environment variables
``connect``         test      ``connect("picwish", password=…, extra={…})`` sets one of them anew
``connections_json``  session   those connections and `aws_default` as JSON, for an Airflow of its own
``product``         session   a cut-out, as the bytes of a PNG
``bad``             test      a bad S3 (`tests.bad_s3`) in front of ``s3``; `aws_default` points to it
``through_bad``     test      our own `Storage` on ``bad``
==================  ========  ====================================================================

Every vendor's key is ``KEYS[vendor]`` and holds ``SECRET``, so that one search finds any leak.
"""

from __future__ import annotations

import functools
import json
import os
import re
import secrets
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

# Before anything imports Airflow: a home of its own, and nothing of the user's Airflow or AWS account.
for _name in [name for name in os.environ if name.startswith(("AIRFLOW", "AWS_"))]:
    del os.environ[_name]
HOME = Path(tempfile.mkdtemp(prefix="bgai-tests-"))
os.environ.update(
    {
        "AIRFLOW_HOME": str(HOME),
        "AIRFLOW__CORE__LOAD_EXAMPLES": "False",
        "AIRFLOW__CORE__DAGS_FOLDER": str(Path(__file__).parent / "dags"),
        "AIRFLOW__DATABASE__SQL_ALCHEMY_CONN": f"sqlite:///{HOME / 'airflow.db'}",
        "AIRFLOW__API_AUTH__JWT_SECRET": secrets.token_urlsafe(64),  # 3.2 runs no task without one
        "AIRFLOW__USAGE_DATA_COLLECTION__ENABLED": "False",
        "NO_PROXY": "127.0.0.1,localhost",
        "no_proxy": "127.0.0.1,localhost",
    }
)

import botocore.loaders  # noqa: E402
import hypothesis  # noqa: E402
import pytest  # noqa: E402

from airflow_provider_bgai.get_provider_info import ROWS  # noqa: E402
from airflow_provider_bgai.sandbox import Sandbox  # noqa: E402
from airflow_provider_bgai.storage import Storage  # noqa: E402
from demo.services import S3Service, seaweedfs  # noqa: E402

if TYPE_CHECKING:  # pytest itself imports it, or it could not rewrite its asserts
    from tests.bad_s3 import BadS3

pytest_plugins = ["tests.bad_s3"]

VENDORS = tuple(row.name for row in ROWS)
SECRET = "sk-secret-7c9e6679f3b1"
KEYS = {vendor: f"{SECRET}-{vendor}" for vendor in VENDORS}
ROOT = Path(__file__).parents[1]
PRODUCT = ROOT / "demo" / "catalogue" / "images" / "porcelain-teapot.png"

# A client's model of S3 is 0.3 s of reading JSON; hundreds of tests make clients of their own.
_read_model = functools.cache(botocore.loaders.JSONFileLoader().load_file)
botocore.loaders.JSONFileLoader.load_file = lambda _, path: _read_model(path)

# The same examples in every run, and no time limit for one: a shared machine has slow moments.
hypothesis.settings.register_profile("tests", deadline=None, derandomize=True, database=None)
hypothesis.settings.load_profile("tests")


SLOW = (
    "test_real_airflow.py",
    "test_real_airflow_2.py",
    "test_walk.py",
    "test_catalogue.py",
    "test_runs.py",
    "test_logs.py",
    "test_chaos.py",
    "test_ledger_model.py",
    "test_hostile.py",
)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """What takes minutes begins first, so that no worker is left with it in the end."""
    items.sort(key=lambda item: SLOW.index(item.path.name) if item.path.name in SLOW else len(SLOW))


def pytest_unconfigure() -> None:
    shutil.rmtree(HOME, ignore_errors=True)


@pytest.fixture(scope="session")
def airflow_db() -> None:
    command = [sys.executable, "-m", "airflow", "db", "migrate"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


@pytest.fixture(scope="session")
def s3(tmp_path_factory: pytest.TempPathFactory) -> Iterator[S3Service]:
    with seaweedfs(tmp_path_factory.mktemp("s3")) as service, pytest.MonkeyPatch.context() as patch:
        patch.setenv("AIRFLOW_CONN_AWS_DEFAULT", service.aws_connection())
        yield service


@pytest.fixture(scope="session")
def storage(s3: S3Service) -> Storage:
    storage = Storage("aws_default")
    assert storage.client is not None  # looked up here, and not on a test's event loop
    return storage


@pytest.fixture
def upload(s3: S3Service, storage: Storage) -> Callable[..., str]:
    def upload(key: str, data: bytes, content_type: str = "image/png") -> str:
        uri = f"s3://{s3.bucket}/{key}"
        storage.put(uri, data, content_type=content_type)
        return uri

    return upload


@pytest.fixture
def folder(s3: S3Service, request: pytest.FixtureRequest) -> str:
    return f"s3://{s3.bucket}/{re.sub(r'[^a-z0-9_]+', '-', request.node.name)}"


@pytest.fixture(scope="session")
def sandbox() -> Iterator[Sandbox]:
    with Sandbox(latency=0.2) as sandbox:
        yield sandbox


@pytest.fixture
def box(sandbox: Sandbox) -> Sandbox:
    sandbox.reset()
    return sandbox


def vendor_connection(sandbox: Sandbox, vendor: str, extra: dict[str, Any] | None = None, **changes: Any) -> str:
    """A connection to a vendor in the sandbox, as JSON; fast, because the vendors' own rates are for paying users."""
    connection = sandbox.connection(vendor) | {"password": KEYS[vendor]} | changes
    connection["extra"] = {**connection["extra"], "requests_per_minute": 60_000, **(extra or {})}
    return json.dumps(connection)


@pytest.fixture
def connect(sandbox: Sandbox, monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    def connect(vendor: str, extra: dict[str, Any] | None = None, **changes: Any) -> None:
        value = vendor_connection(sandbox, vendor, extra, **changes)
        monkeypatch.setenv(f"AIRFLOW_CONN_{vendor.upper()}_DEFAULT", value)

    return connect


@pytest.fixture
def connections(connect: Callable[..., None]) -> None:
    for vendor in VENDORS:
        connect(vendor)


@pytest.fixture(scope="session")
def connections_json(s3: S3Service, sandbox: Sandbox) -> dict[str, str]:
    vendors = {f"{vendor}_default": vendor_connection(sandbox, vendor) for vendor in VENDORS}
    return vendors | {"aws_default": s3.aws_connection()}


@pytest.fixture(scope="session")
def product() -> bytes:
    return PRODUCT.read_bytes()


@pytest.fixture
def through_bad(bad: BadS3) -> Storage:
    storage = Storage()
    assert storage.client is not None
    return storage
