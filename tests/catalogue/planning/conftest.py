"""A catalogue that is small enough to be looked at."""

from __future__ import annotations

import pytest


@pytest.fixture
def three(catalogue):
    for name in "abc":
        catalogue.add(name, name.encode())
    return catalogue
