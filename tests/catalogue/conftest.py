"""A catalogue of a test's own, in a real S3, with the vendors' sandbox; or only its ledger, in memory."""

from __future__ import annotations

import itertools
import re
from typing import Any

import pytest

from airflow_provider_bgai.sandbox import Sandbox
from airflow_provider_bgai.storage import Storage
from tests.buying.kept import Kept
from tests.catalogue.nights import Catalogue

NUMBERS = itertools.count()


@pytest.fixture
def catalogue(s3: Any, storage: Storage, box: Sandbox, connections: None, request: Any) -> Catalogue:
    name = re.sub(r"[^a-z0-9_]+", "-", request.node.originalname)
    return Catalogue(storage, f"s3://{s3.bucket}/{name}-{next(NUMBERS)}", box)


@pytest.fixture
def kept() -> Kept:
    return Kept()
