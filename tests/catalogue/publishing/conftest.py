"""A catalogue of a test's own to publish from, in a real S3."""

from __future__ import annotations

import hashlib
from typing import Any

import pytest

from airflow_provider_bgai.storage import Storage
from tests.catalogue.publishing.shop import Shop


@pytest.fixture
def shop(storage: Storage, s3: Any, request: pytest.FixtureRequest) -> Shop:
    name = hashlib.sha256(request.node.nodeid.encode()).hexdigest()[:12]
    return Shop(storage, f"s3://{s3.bucket}/publish-{name}")
